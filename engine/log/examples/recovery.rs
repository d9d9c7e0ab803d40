//! After a crash: open as always. A copy of the directory, made while the store runs and nobody writes, is what a crash
//! would have left. (`embed` kills a process in the middle of its work.)
//!
//!     cargo run --release --example recovery

use std::path::Path;

use highwater_log::store::{LogConfig, NewRecord, Offset, Store, StoreOptions, Wait};

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let (dir, crashed) = (scratch.path().join("log"), scratch.path().join("crashed"));
    let store = Store::open(&dir, StoreOptions::default())?;
    let log = store.log("events", 0).wait()?;
    // The default: an ack means that the record survives a power cut.
    let ack = log.append(NewRecord::value("safe")).wait()?.wait()?;

    // Without a flush an ack means that it survives the process; a flush makes up for it.
    let relaxed = LogConfig { flush_messages: u64::MAX, ..LogConfig::default() };
    let metrics = store.log_with("metrics", 0, relaxed).wait()?;
    metrics.append(NewRecord::value("written")).wait()?.wait()?;
    metrics.flush().wait()?; // now it survives a power cut, too
    let marks = metrics.watermarks().wait()?;
    assert_eq!(marks.durable_offset, marks.log_end_offset);

    copy(&dir, &crashed)?;
    store.close().wait()?;
    assert!(Store::open(&dir, StoreOptions::default())?.recovery().was_clean, "nothing to recover");

    let store = Store::open(&crashed, StoreOptions::default())?;
    let found = store.recovery();
    println!(
        "replayed {} groups, {} bytes, and cut {}",
        found.groups_replayed, found.bytes_replayed, found.bytes_cut
    );
    assert!(!found.was_clean && found.groups_replayed > 0 && found.fenced.is_empty());
    let log = store.log("events", 0).wait()?;
    assert_eq!(log.read(ack.offset, 1).wait()?.records[0].value.as_deref(), Some(&b"safe"[..]));
    assert_eq!(store.log("metrics", 0).wait()?.read(Offset(0), 1).wait()?.records.len(), 1);
    Ok(store.close().wait()?)
}

//! A reader that follows the log: what is there, then what comes, from where it left off.
//!
//!     cargo run --release --example tail

use std::time::Duration;

use highwater_log::store::{NewRecord, Offset, Store, StoreOptions, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
    let log = store.log("events", 0).wait()?;

    let mut tail = log.tail(Offset(0));
    let reader = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < 100 {
            let found = tail.next().wait()?; // waits for the next record
            seen += found.records.len();
        }
        Ok::<_, highwater_log::store::StoreError>(tail)
    });
    for n in 0..100 {
        log.append(NewRecord::value(format!("event {n}"))).wait()?.wait()?;
    }
    let mut tail = reader.join().expect("no panic")?;

    // Keep this wherever you keep how far you are; `log.tail` goes on from it.
    assert_eq!(tail.next_offset(), Offset(100));
    // Waiting has an end where you want one, and takes nothing.
    assert!(tail.next().wait_timeout(Duration::from_millis(10)).is_none());
    Ok(store.close().wait()?)
}

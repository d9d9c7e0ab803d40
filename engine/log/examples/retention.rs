//! What goes by itself, by size or by age, and what goes when you say so.
//!
//!     cargo run --release --example retention

use std::time::Duration;

use highwater_log::store::{LogConfig, NewRecord, Offset, Store, StoreOptions, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
    let config = LogConfig {
        segment_bytes: 64 << 10,                          // whole segments go
        retention_bytes: Some(256 << 10),                 // while the log is larger,
        retention_ms: Some(Duration::from_hours(7 * 24)), // or once their newest record is older
        ..LogConfig::default()
    };
    let log = store.log_with("events", 0, config).wait()?;
    let acks: Vec<_> = (0..1_000)
        .map(|n| log.append(NewRecord::value(vec![n as u8; 1024])).wait())
        .collect::<Result<_, _>>()?;
    for ack in acks {
        ack.wait()?;
    }

    store.apply_retention().wait()?; // or wait for `ShardConfig::retention_check_interval`
    let start = log.watermarks().wait()?.log_start_offset;
    assert!(start > Offset(0) && log.size_bytes().wait()? < 512 << 10);
    assert!(log.read(Offset(0), 1).wait().is_err(), "what is gone is an error, not a gap");

    // By hand: up to what every reader has done with, or back to before a mistake.
    assert_eq!(log.delete_before(Offset(990)).wait()?, Offset(990));
    let end = log.truncate_to(Offset(995)).wait()?; // records that were stored as one batch go together
    assert!(end <= Offset(995));

    assert_eq!(store.logs().wait()?, [("events".to_owned(), 0)]);
    store.delete(&log).wait()?; // everything
    assert!(store.logs().wait()?.is_empty());
    Ok(store.close().wait()?)
}

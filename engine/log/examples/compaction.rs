//! A log that keeps the last record of each key: the state of something, as a log.
//!
//!     cargo run --release --example compaction

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_log::store::{Log, LogConfig, NewRecord, Offset, Store, StoreError, StoreOptions, Wait};

/// The state that the log tells, and of how many records it was made.
fn state(log: &Log) -> Result<(BTreeMap<String, String>, usize), StoreError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut state, mut records, mut next) = (BTreeMap::new(), 0, Offset(0));
    loop {
        let found = log.read(next, 1 << 20).wait()?;
        if found.next_offset == next {
            return Ok((state, records));
        }
        for record in found.records {
            records += 1;
            let key = text(&record.key.unwrap_or_default());
            match record.value {
                Some(value) => state.insert(key, text(&value)),
                None => state.remove(&key), // a tombstone
            };
        }
        next = found.next_offset;
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
    let config = LogConfig {
        compact_enabled: true,
        delete_enabled: false,                      // nothing goes by age
        segment_bytes: 16 << 10, // closed segments are compacted, not the one that is appended to
        min_cleanable_dirty_ppm: 0, // at once, however little there is to gain
        delete_retention: Duration::from_hours(24), // how long readers have to see a tombstone
        ..LogConfig::default()
    };
    let log = store.log_with("accounts", 0, config).wait()?;

    let mut acks = Vec::new();
    for round in 0..200 {
        for account in ["ann", "bob", "cas", "dee"] {
            let balance = NewRecord::key_value(account, format!("balance {round} of {account}"));
            acks.push(log.append(balance).wait()?);
        }
    }
    acks.push(log.append(NewRecord::tombstone("bob")).wait()?); // bob is gone
    for ack in acks {
        ack.wait()?;
    }
    // A record without a key is refused by a log like this.
    assert!(log.append(NewRecord::value("whose?")).wait()?.wait().is_err());

    let (before, records_before) = state(&log)?;
    store.compact().wait()?; // or wait for `ShardConfig::cleaner_backoff`
    let (after, records_after) = state(&log)?;
    assert_eq!(before, after);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["ann", "cas", "dee"]);
    println!("{records_before} records, compacted to {records_after}, tell the same");
    assert!(records_after < records_before);
    Ok(store.close().wait()?)
}

//! Appending: one flush for many records, and records that belong together.
//!
//!     cargo run --release --example batching

use std::time::Duration;

use highwater_log::store::{NewRecord, Offset, Store, StoreOptions, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let options = StoreOptions {
        batch_size: 256 << 10, // records that wait together are stored together, up to here
        linger: Duration::from_millis(1), // how long the first one waits for others
        ..StoreOptions::default()
    };
    let store = Store::open(scratch.path().join("log"), options)?;
    let log = store.log("events", 0).wait()?;

    // Append first, wait afterwards: all of them share a few flushes.
    let mut acks = Vec::new();
    for n in 0..10_000 {
        acks.push(log.append(NewRecord::value(format!("event {n}"))).wait()?);
    }
    for ack in acks {
        ack.wait()?; // durable
    }

    // All or none of these survive a crash, and nothing comes between them.
    let transfer = [NewRecord::key_value("ann", "-5"), NewRecord::key_value("bob", "+5")];
    let stored = log.append_batch(transfer).wait()?.wait()?;
    assert_eq!(stored.offset, Offset(10_000));
    let found = log.read(stored.offset, 1).wait()?;
    assert_eq!(found.records.len(), 2);
    Ok(store.close().wait()?)
}

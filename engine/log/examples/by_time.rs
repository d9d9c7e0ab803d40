//! Reading from a moment on.
//!
//!     cargo run --release --example by_time

use std::time::{Duration, SystemTime};

use highwater_log::store::{NewRecord, Offset, Store, StoreOptions, Wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
    let log = store.log("measurements", 0).wait()?;

    // A record has the time of its arrival, or one of its own: here one a minute, for the last hour.
    let begin = SystemTime::now() - Duration::from_hours(1);
    for minute in 0..60 {
        let time = begin + Duration::from_mins(minute);
        log.append(NewRecord::value(format!("{minute}")).at(time)).wait()?.wait()?;
    }

    let half = begin + Duration::from_mins(30);
    let found = log.read_from_time(half, 1 << 20).wait()?;
    assert_eq!(found.records[0].offset, Offset(30));

    // Only where it is, to read or to follow from there.
    let place = log.offset_for_timestamp(half.into()).wait()?.expect("it is there");
    let _tail = log.tail(place.offset);

    // Nothing is that young: it goes on at the end.
    let none = log.read_from_time(SystemTime::now(), 1 << 20).wait()?;
    assert!(none.records.is_empty() && none.next_offset == Offset(60));
    Ok(store.close().wait()?)
}

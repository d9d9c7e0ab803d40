//! The two clocks of the system.

use std::time::{Duration, Instant, SystemTime};

use crate::time::{MonoTime, WallTime};

/// Since `start`, that of the runtime: the same on all its shards.
pub(crate) fn now(start: Instant) -> MonoTime {
    MonoTime::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

pub(crate) fn wall_time() -> WallTime {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    WallTime::from_millis(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    })
}

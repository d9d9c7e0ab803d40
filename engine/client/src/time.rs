//! Time as the cores see it: an argument, never a clock.

use std::ops::Add;
use std::time::Duration;

/// A point on the monotonic clock of whoever drives a core, in nanoseconds since any moment of its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// Later than every other moment.
    pub const NEVER: MonoTime = MonoTime(u64::MAX);

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn saturating_since(self, earlier: MonoTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for MonoTime {
    type Output = MonoTime;

    fn add(self, span: Duration) -> MonoTime {
        MonoTime(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

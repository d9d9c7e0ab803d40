//! The one clock of a trial: monotonic, in nanoseconds since the trial began.
//!
//! Everything that the checker holds against each other (sends, acks, faults) is stamped by it, and the client's cores
//! run on it too.

use std::time::{Duration, Instant};

use highwater_checker::Nanos;
use highwater_client::MonoTime;
use rustix::time::{ClockId, clock_gettime};

/// A started clock; copies run together.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
    /// The origin on `CLOCK_MONOTONIC`, for stamps that other processes made.
    origin_monotonic_ns: u64,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let origin_monotonic_ns =
            monotonic.tv_sec.unsigned_abs() * 1_000_000_000 + monotonic.tv_nsec.unsigned_abs();
        Clock { origin: Instant::now(), origin_monotonic_ns }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Nanos {
        nanos(self.origin.elapsed())
    }

    /// The same, as the client's cores write it.
    #[must_use]
    pub fn mono(&self) -> MonoTime {
        MonoTime(self.now().0)
    }

    /// What another process of this machine stamped with `CLOCK_MONOTONIC`, in nanoseconds.
    #[must_use]
    pub fn of_monotonic(&self, monotonic_ns: u64) -> Nanos {
        Nanos(monotonic_ns.saturating_sub(self.origin_monotonic_ns))
    }

    /// The instant that `at` stands for.
    #[must_use]
    pub fn instant(&self, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(at.0)
    }
}

/// A span as the checker writes it.
#[must_use]
pub fn nanos(span: Duration) -> Nanos {
    Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// `at` and a span after it.
#[must_use]
pub fn after(at: Nanos, span: Duration) -> Nanos {
    Nanos(at.0.saturating_add(nanos(span).0))
}

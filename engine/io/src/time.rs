//! The two clocks and the timers of a shard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::runtime::Io;

/// Monotonic time in nanoseconds since some fixed point of the driver's choosing. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoTime(u64);

impl MonoTime {
    /// From nanoseconds since the driver's fixed point.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        MonoTime(nanos)
    }

    /// Nanoseconds since the driver's fixed point.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if that is later.
    #[must_use]
    pub fn since(self, earlier: MonoTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for MonoTime {
    type Output = MonoTime;

    /// Saturates at the end of time.
    fn add(self, rhs: Duration) -> MonoTime {
        MonoTime(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for MonoTime {
    type Output = Duration;

    fn sub(self, rhs: MonoTime) -> Duration {
        self.since(rhs)
    }
}

/// Wall clock time in milliseconds since the Unix epoch, as Kafka's timestamps. May jump either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(i64);

impl WallTime {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        WallTime(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

/// The timers of one shard, ordered by deadline and, for equal ones, by registration.
#[derive(Default)]
pub(crate) struct Timers {
    pending: BTreeMap<(MonoTime, u64), Waker>,
    next_id: u64,
}

impl Timers {
    fn register(&mut self, deadline: MonoTime, waker: Waker) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert((deadline, id), waker);
        id
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<MonoTime> {
        self.pending.first_key_value().map(|(&(deadline, _), _)| deadline)
    }

    /// Takes the wakers of all timers due at `now`, earliest first.
    pub(crate) fn expire(&mut self, now: MonoTime) -> Vec<Waker> {
        if self.next_deadline().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let later = self.pending.split_off(&(now + Duration::from_nanos(1), 0));
        std::mem::replace(&mut self.pending, later).into_values().collect()
    }
}

pub(crate) type SharedTimers = Rc<RefCell<Timers>>;

/// Resolves at its deadline; dropping it removes the timer.
#[must_use = "a timer does nothing until awaited"]
pub struct Sleep {
    io: Io,
    deadline: MonoTime,
    registered: Option<u64>,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Sleep {
    pub(crate) fn until(io: Io, deadline: MonoTime) -> Self {
        Sleep { io, deadline, registered: None }
    }

    fn forget(&mut self) {
        if let Some(id) = self.registered.take() {
            self.io.timers().borrow_mut().pending.remove(&(self.deadline, id));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.io.now() >= self.deadline {
            self.forget();
            return Poll::Ready(());
        }
        self.forget();
        let id = self.io.timers().borrow_mut().register(self.deadline, cx.waker().clone());
        self.registered = Some(id);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// The deadline of [`Io::timeout`] passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_in_order_of_deadline_and_registration() {
        let mut timers = Timers::default();
        for nanos in [30, 10, 20, 10] {
            timers.register(MonoTime::from_nanos(nanos), Waker::noop().clone());
        }
        assert_eq!(timers.next_deadline(), Some(MonoTime::from_nanos(10)));
        assert!(timers.expire(MonoTime::from_nanos(9)).is_empty());
        assert_eq!(timers.expire(MonoTime::from_nanos(20)).len(), 3);
        assert_eq!(timers.next_deadline(), Some(MonoTime::from_nanos(30)));
    }
}

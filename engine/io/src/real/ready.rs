//! The queue of ready tasks of one shard, and the alarm that wakes the shard from its wait.
//!
//! A wake-up on the shard's own thread is a push onto a thread-local queue, with no atomic operation and no system
//! call. One from another thread goes through a lock-free queue, and rings the alarm only if the shard sleeps:
//!
//! ```text
//!   waker elsewhere: push ──fence── sleeping? ── write(eventfd)
//!   shard:           sleeping = true ──fence── queue empty? ── wait in the ring
//! ```
//!
//! The two fences make one of the two see the other, so that no wake-up is lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use async_task::Runnable;
use crossbeam::queue::SegQueue;

use super::sys;
use crate::exec::{Place, ReadySink};

/// Wakes a shard that waits in its ring; the ring polls the event descriptor.
pub(crate) struct Alarm {
    event: Arc<File>,
    sleeping: AtomicBool,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Alarm { event: Arc::new(sys::event_descriptor()?), sleeping: AtomicBool::new(false) })
    }

    /// The descriptor that becomes readable.
    pub(crate) fn event(&self) -> Arc<File> {
        Arc::clone(&self.event)
    }

    /// Wakes the shard if it sleeps. To be called after what it is to find was published.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::SeqCst) {
            // The counter is never read, and cannot overflow in the life of a process; a failed write would mean
            // that it is readable already.
            let _ = (&*self.event).write(&1u64.to_ne_bytes());
        }
    }

    /// Announces that the shard will wait. What was published before is to be looked for after this.
    pub(crate) fn fall_asleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn stay_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

/// What is ready on the thread's shard. A thread runs one shard at most.
struct Local {
    shard: Cell<u64>,
    first: RefCell<VecDeque<Runnable>>,
    last: RefCell<VecDeque<Runnable>>,
}

impl Local {
    const fn new() -> Self {
        Local {
            shard: Cell::new(NO_SHARD),
            first: RefCell::new(VecDeque::new()),
            last: RefCell::new(VecDeque::new()),
        }
    }

    fn push(&self, runnable: Runnable, place: Place) {
        match place {
            Place::First => self.first.borrow_mut().push_back(runnable),
            Place::Last => self.last.borrow_mut().push_back(runnable),
        }
    }
}

thread_local! {
    static LOCAL: Local = const { Local::new() };
}

const NO_SHARD: u64 = 0;
static NEXT_SHARD: AtomicU64 = AtomicU64::new(NO_SHARD + 1);

/// Takes the tasks that became ready. Both queues are bounded by the number of tasks: each is in one of them at most
/// once.
pub(crate) struct Ready {
    shard: u64,
    foreign: SegQueue<(Runnable, Place)>,
    alarm: Arc<Alarm>,
}

impl Ready {
    /// The queue of the calling thread's shard, until [`leave_thread`](Self::leave_thread).
    pub(crate) fn for_this_thread(alarm: Arc<Alarm>) -> Self {
        let shard = NEXT_SHARD.fetch_add(1, Ordering::Relaxed);
        LOCAL.with(|local| {
            assert_eq!(local.shard.replace(shard), NO_SHARD, "a thread runs one shard");
        });
        Ready { shard, foreign: SegQueue::new(), alarm }
    }

    /// The next ready task: the oldest of those that go first, else the oldest. Those of other threads are taken in by [`take_in`](Self::take_in).
    pub(crate) fn pop(&self) -> Option<Runnable> {
        LOCAL.with(|local| {
            let first = local.first.borrow_mut().pop_front();
            first.or_else(|| local.last.borrow_mut().pop_front())
        })
    }

    /// Moves what other threads woke into the shard's own queue.
    pub(crate) fn take_in(&self) {
        while let Some((runnable, place)) = self.foreign.pop() {
            LOCAL.with(|local| local.push(runnable, place));
        }
    }

    /// Whether nothing is ready, here or from elsewhere.
    pub(crate) fn is_empty(&self) -> bool {
        LOCAL.with(|local| local.first.borrow().is_empty() && local.last.borrow().is_empty())
            && self.foreign.is_empty()
    }

    /// Ends the shard's claim on the calling thread.
    pub(crate) fn leave_thread(&self) {
        LOCAL.with(|local| local.shard.set(NO_SHARD));
    }
}

impl ReadySink for Ready {
    fn push(&self, runnable: Runnable, place: Place) {
        let mut runnable = Some(runnable);
        // A thread that is being torn down has no local queue any more, and runs no shard.
        let _ = LOCAL.try_with(|local| {
            if local.shard.get() == self.shard
                && let Some(runnable) = runnable.take()
            {
                local.push(runnable, place);
            }
        });
        if let Some(runnable) = runnable {
            self.foreign.push((runnable, place));
            self.alarm.ring();
        }
    }
}

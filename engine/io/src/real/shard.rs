//! The loop of one shard: run what is ready, hand over what that asked for, take what is complete.
//!
//! ```text
//!   ┌─> ready tasks (a bounded batch) ─> buffers, timers ─> io_uring_enter or epoll_wait ─> completions wake tasks ─┐
//!   └───────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It waits, in one system call a turn at most, only if no task is ready, and then until the next timer, a completion, or
//! the alarm.
//!
//! The end has an order: tasks are dropped, which cancels what they waited for; everything else is cancelled; the
//! loop takes completions until nothing is in flight; then the ring, or the pool of threads, goes.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ready::{Alarm, Ready};
use super::signals::SignalHandlers;
use super::stop::StopRequest;
use super::sys;
use crate::exec::{self, Executor, Task};
use crate::runtime::{self, Io, RuntimeConfig, ShardIndex};
use crate::time::SharedTimers;

pub(crate) type Payload = Box<dyn Any + Send>;

/// Tasks that run in one turn at most, so that those that keep each other busy do not hold up completions.
const BATCH: u64 = 256;
/// Completions that are there wait for running tasks no longer than this and one task: a device may stand idle until its
/// next request is made. More often would cost more in system calls than it saves.
const LONGEST_BATCH: Duration = Duration::from_micros(50);
/// Longest wait that is asked of the kernel, which adds it to its clock. A sleep may be centuries; whether every kernel
/// since 6.1 adds those without overflow is not for the driver to rely on.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long a shard that ends waits before it asks for cancellation again: a request may have been between two places
/// where the kernel looks for it.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);

/// How long a turn may wait for a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Not at all.
    Not,
    /// At most this long.
    AtMost(Duration),
    /// Until there is one.
    Forever,
}

/// The requests in flight of one shard: that in which the drivers differ.
pub(crate) trait Engine: Sized + 'static {
    /// What is known of the system before the first shard starts.
    type System: Copy + Send + 'static;

    /// On the shard's thread. Whenever `alarm` rings, the shard wakes from its turn; a signal of `common` asks to stop.
    fn start(
        index: ShardIndex,
        config: &RuntimeConfig,
        system: Self::System,
        common: &Common,
        alarm: Arc<Alarm>,
    ) -> io::Result<Rc<Self>>;

    /// The way of the shard's tasks to this.
    fn driver(self: &Rc<Self>) -> runtime::Driver;

    /// Work of a turn that is not a task's.
    fn keep_house(&self);

    /// Whether a turn finds nothing complete, as far as can be told without one. What completes on another thread rings the
    /// alarm afterwards, so that one that falls asleep before it asks misses nothing.
    fn is_idle(&self) -> bool;

    /// Whether a turn would find something complete, as far as can be told without a system call.
    fn has_news(&self) -> bool;

    /// One turn: hands over what is queued, waits if there is nothing to do, and delivers what is complete.
    fn turn(&self, wait: Wait);

    /// Counts polls of tasks.
    fn polled_tasks(&self, count: u64);

    /// Requests that have not completed.
    fn in_flight(&self) -> usize;

    /// Cancels everything that is in flight; for a shard that ends.
    fn cancel_everything(&self);
}

/// What all shards of a runtime have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) stop: Arc<StopRequest>,
    pub(crate) signals: Option<Arc<SignalHandlers>>,
    pub(crate) clock: Instant,
}

pub(crate) struct Shard<E> {
    core: Rc<E>,
    alarm: Arc<Alarm>,
    ready: Arc<Ready>,
    timers: SharedTimers,
    io: Io,
}

impl<E: Engine> Shard<E> {
    /// A shard on the calling thread.
    pub(crate) fn new(
        index: ShardIndex,
        config: &RuntimeConfig,
        system: E::System,
        common: &Common,
    ) -> io::Result<Self> {
        let seed = sys::random_seed()?;
        let alarm = Arc::new(Alarm::new()?);
        let core = E::start(index, config, system, common, Arc::clone(&alarm))?;
        let ready = Arc::new(Ready::for_this_thread(Arc::clone(&alarm)));
        let timers = SharedTimers::default();
        let executor = Executor::new(Arc::clone(&ready) as Arc<_>);
        let io = Io::new(index, executor, Rc::clone(&timers), core.driver(), seed);
        Ok(Shard { core, alarm, ready, timers, io })
    }

    /// Runs `main` and what it spawns until it returns or something panics, then ends all that is left.
    pub(crate) fn run<Fut>(self, main: impl FnOnce(Io) -> Fut) -> Result<(), Payload>
    where
        Fut: Future<Output = ()> + 'static,
    {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let io = self.io.clone();
            let main = self.io.spawn(main(io));
            self.run_until_finished(&main)
        }));
        // A panic in a task is the inner error, and leaves the driver intact. The outer one is the driver's own: what
        // it knows of requests in flight may be wrong then, and waiting for them may never end.
        ran?.and(self.end())
    }

    /// Gives up a shard that has not run.
    pub(crate) fn cancel(self) {
        // Nobody is there to tell; a core that could not end clean leaks its memory.
        let _ = self.end();
    }

    fn end(&self) -> Result<(), Payload> {
        catch_unwind(AssertUnwindSafe(|| self.wind_down()))
    }

    fn run_until_finished(&self, main: &Task<()>) -> Result<(), Payload> {
        loop {
            self.run_batch()?;
            if main.is_finished() {
                return Ok(());
            }
            self.core.keep_house();
            self.expire_timers();
            let wait = self.prepare_wait();
            self.core.turn(wait);
            self.alarm.stay_awake();
            self.ready.take_in();
        }
    }

    fn run_batch(&self) -> Result<(), Payload> {
        let mut polled = 0;
        let begun = self.io.now();
        let result = loop {
            if polled == BATCH || self.core.has_news() && self.io.now().since(begun) >= LONGEST_BATCH {
                break Ok(());
            }
            let Some(runnable) = self.ready.pop() else { break Ok(()) };
            polled += 1;
            if let Err(payload) = exec::run(runnable) {
                break Err(payload);
            }
        };
        self.core.polled_tasks(polled);
        result
    }

    fn expire_timers(&self) {
        let Some(deadline) = self.timers.borrow().next_deadline() else { return };
        let now = self.io.now();
        if deadline <= now {
            let due = self.timers.borrow_mut().expire(now);
            due.into_iter().for_each(std::task::Waker::wake);
        }
    }

    /// How long to wait. From here until the turn is over, other threads ring the alarm.
    fn prepare_wait(&self) -> Wait {
        if !self.ready.is_empty() {
            return Wait::Not;
        }
        self.alarm.fall_asleep();
        if !self.ready.is_empty() || !self.core.is_idle() {
            return Wait::Not;
        }
        match self.timers.borrow().next_deadline() {
            Some(deadline) => Wait::AtMost(deadline.since(self.io.now()).min(LONGEST_WAIT)),
            None => Wait::Forever,
        }
    }

    fn wind_down(&self) {
        self.drop_tasks();
        self.alarm.stay_awake();
        let mut cancel_at = self.io.now();
        while self.core.in_flight() > 0 {
            let now = self.io.now();
            if now >= cancel_at {
                self.core.cancel_everything();
                cancel_at = now + CANCEL_AGAIN;
            }
            self.alarm.fall_asleep();
            let wait = if self.core.is_idle() { Wait::AtMost(cancel_at.since(now)) } else { Wait::Not };
            self.core.turn(wait);
            self.alarm.stay_awake();
        }
        assert_eq!(self.core.in_flight(), 0, "a shard that has ended has nothing in flight");
        self.ready.leave_thread();
    }

    /// Drops every task on its own thread, those included that are spawned by the dropping. A destructor that panics
    /// ends the process; `async-task` sees to that.
    fn drop_tasks(&self) {
        while self.io.executor().live_tasks() > 0 {
            self.io.executor().wake_all();
            self.ready.take_in();
            while let Some(runnable) = self.ready.pop() {
                drop(runnable);
            }
        }
    }
}

//! The sockets that a shard watches and the jobs that it has given to its pool.
//!
//! ```text
//!           carry_out                    done                        poll
//!   closure ─────────> Slot: Awaited ───────────> Slot: Done ─────────────> output
//!                          │ future dropped
//!                          v              done
//!                     Slot: Orphaned ──────────> freed, with the output
//! ```
//!
//! Invariants: a job has a slot until it is done or taken back; nothing a slot owns is dropped while a cell of the core is
//! borrowed.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

use super::pool::{Done, Job, Piece, Pool, Work};
use super::source::{Readiness, Watched};
use crate::buf::{BufPool, IoBuf};
use crate::real::ready::Alarm;
use crate::real::shard::{Common, Engine, Payload, Wait};
use crate::real::signals::SignalHandlers;
use crate::real::stop::StopRequest;
use crate::runtime::{self, Counters, RuntimeConfig, ShardIndex};

/// Events that one turn takes at most; the rest is there in the next.
const EVENTS: usize = 256;
/// What events of the two descriptors that are no socket's say. Keys of sockets are below.
const ALARM: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;

/// Size in bytes of a receive buffer for when all of the configured ones are lent.
const SMALL_BUFFER_BYTES: usize = 16 << 10;
/// Such buffers that are kept for later.
const SPARE_SMALL_BUFFERS: usize = 64;

enum Slot {
    Awaited(Option<Waker>),
    Done(Result<Box<dyn Work>, Payload>),
    Orphaned,
}

pub(crate) struct Core {
    epoll: OwnedFd,
    watched: RefCell<Slab<Rc<Watched>>>,
    next_generation: Cell<u32>,
    /// The memory of a turn, between two.
    events: RefCell<Vec<Event>>,
    /// Those who have had enough of this turn, and go on in the next.
    put_off: RefCell<Vec<Waker>>,
    turn: Cell<u64>,
    pool: Pool,
    slots: RefCell<Slab<Slot>>,
    in_flight: Cell<usize>,
    enters: Cell<u64>,
    requests: Cell<u64>,
    completions: Cell<u64>,
    polled_tasks: Cell<u64>,
    /// As many as are configured, then small ones.
    buffers: BufPool,
    small_buffers: BufPool,
    pub(super) stop: Arc<StopRequest>,
    pub(super) clock: Instant,
    /// Both are watched as long as this lives.
    _alarm: Arc<Alarm>,
    _signals: Option<Arc<SignalHandlers>>,
}

impl Core {
    /// Starts a job, and waits for what it gives. A future that is dropped leaves the job to itself; a shard that ends drops
    /// jobs that nobody has begun.
    pub(super) async fn carry_out<T, F>(self: &Rc<Self>, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let key = self.slots.borrow_mut().insert(Slot::Awaited(None));
        self.in_flight.set(self.in_flight.get() + 1);
        self.requests.set(self.requests.get() + 1);
        self.pool.push(Job { key, work: Box::new(Piece::<F, T>::ToDo(work)) });
        InPool::<F, T> { core: Rc::clone(self), key: Some(key), gives: PhantomData }.await
    }

    fn done(&self, Done { key, outcome }: Done) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.completions.set(self.completions.get() + 1);
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key).expect("a job that is done finds its slot");
        match std::mem::replace(slot, Slot::Orphaned) {
            Slot::Awaited(waker) => {
                *slot = Slot::Done(outcome);
                drop(slots);
                waker.into_iter().for_each(Waker::wake);
            }
            Slot::Orphaned => {
                slots.remove(key);
                drop(slots);
                if let Err(panic) = outcome {
                    resume_unwind(panic);
                }
            }
            Slot::Done(_) => unreachable!("a job is done once"),
        }
    }

    fn poll_job(&self, key: usize, cx: &Context<'_>) -> Poll<Result<Box<dyn Work>, Payload>> {
        let mut slots = self.slots.borrow_mut();
        match &mut slots[key] {
            Slot::Awaited(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Slot::Done(_) => match slots.remove(key) {
                Slot::Done(outcome) => Poll::Ready(outcome),
                _ => unreachable!("looked at just now"),
            },
            Slot::Orphaned => unreachable!("who waits for a job polls its slot"),
        }
    }

    fn abandon_job(&self, key: usize) {
        let mut slots = self.slots.borrow_mut();
        let slot = match &slots[key] {
            Slot::Done(_) => slots.remove(key),
            _ => std::mem::replace(&mut slots[key], Slot::Orphaned),
        };
        drop(slots);
        drop(slot);
    }

    /// Watches a socket, for as long as what this gives is not given to [`forget`](Self::forget).
    pub(super) fn watch(&self, socket: impl AsFd) -> io::Result<Rc<Watched>> {
        let generation = self.next_generation.get();
        // Never that of `ALARM` and `SIGNAL`.
        self.next_generation.set((generation + 1) & (u32::MAX >> 1));
        let mut all = self.watched.borrow_mut();
        let entry = all.vacant_entry();
        let watched = Rc::new(Watched::new(entry.key(), generation));
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(watched.event_data()), flags)?;
        entry.insert(Rc::clone(&watched));
        Ok(watched)
    }

    /// Watches a socket no longer.
    pub(super) fn forget(&self, socket: impl AsFd, watched: &Watched) {
        // Fails only if it is not watched any more.
        let _ = epoll::delete(&self.epoll, socket);
        let forgotten = self.watched.borrow_mut().try_remove(watched.key());
        drop(forgotten);
    }

    /// Wakes `cx` in the next turn.
    pub(super) fn put_off(&self, cx: &Context<'_>) {
        self.put_off.borrow_mut().push(cx.waker().clone());
    }

    /// Number of the turn.
    pub(super) fn turn_number(&self) -> u64 {
        self.turn.get()
    }

    /// An empty buffer to receive into.
    pub(super) fn receive_buffer(&self) -> IoBuf {
        let small = || self.small_buffers.try_take().expect("the pool is not limited");
        self.buffers.try_take().unwrap_or_else(small)
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            enters: self.enters.get(),
            requests: self.requests.get(),
            completions: self.completions.get(),
            task_polls: self.polled_tasks.get(),
            in_flight: self.in_flight() as u64,
        }
    }

    fn deliver(&self, event: &Event) {
        let (data, flags) = (event.data.u64(), event.flags);
        match data {
            // The counter is never read: each write to it is an event of its own.
            ALARM => {}
            SIGNAL => self.stop.request(),
            _ => {
                let watched = self.watched.borrow().get(Watched::key_of(data)).cloned();
                // An event may be of a socket that was forgotten in this turn.
                if let Some(watched) = watched.filter(|watched| watched.event_data() == data) {
                    watched.became(Readiness::of(flags));
                }
            }
        }
    }
}

impl Engine for Core {
    type System = ();

    fn start(
        index: ShardIndex,
        config: &RuntimeConfig,
        (): (),
        common: &Common,
        alarm: Arc<Alarm>,
    ) -> io::Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let readable = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &*alarm.event(), EventData::new_u64(ALARM), readable)?;
        if let Some(signals) = &common.signals {
            epoll::add(&epoll, &*signals.event(), EventData::new_u64(SIGNAL), readable)?;
        }
        let name = format!("{}-{index}", config.thread_name);
        let pool = Pool::start(&name, config.io_threads, &alarm)?;
        let buffers = usize::from(config.recv_buffers).max(1);
        Ok(Rc::new(Core {
            epoll,
            watched: RefCell::default(),
            next_generation: Cell::new(0),
            events: RefCell::new(Vec::with_capacity(EVENTS)),
            put_off: RefCell::default(),
            turn: Cell::new(0),
            pool,
            slots: RefCell::default(),
            in_flight: Cell::new(0),
            enters: Cell::new(0),
            requests: Cell::new(0),
            completions: Cell::new(0),
            polled_tasks: Cell::new(0),
            buffers: BufPool::new(config.recv_buffer_bytes, buffers, buffers),
            small_buffers: BufPool::new(SMALL_BUFFER_BYTES, usize::MAX, SPARE_SMALL_BUFFERS),
            stop: Arc::clone(&common.stop),
            clock: common.clock,
            _alarm: alarm,
            _signals: common.signals.clone(),
        }))
    }

    fn driver(self: &Rc<Self>) -> runtime::Driver {
        runtime::Driver::Posix(super::Driver { core: Rc::clone(self) })
    }

    fn keep_house(&self) {}

    fn is_idle(&self) -> bool {
        !self.pool.has_done() && self.put_off.borrow().is_empty()
    }

    /// Of sockets nothing is known before the turn.
    fn has_news(&self) -> bool {
        !Engine::is_idle(self)
    }

    fn turn(&self, wait: Wait) {
        let mut events = self.events.take();
        events.clear();
        let timeout = match wait {
            Wait::Not => Some(Duration::ZERO),
            Wait::AtMost(duration) => Some(duration),
            Wait::Forever => None,
        };
        // Rounded up to milliseconds.
        let timeout = timeout.map(|timeout| {
            Timespec::try_from(timeout).expect("the loop asks for no more than its longest wait")
        });
        self.enters.set(self.enters.get() + 1);
        self.turn.set(self.turn.get() + 1);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll_wait: {error}"),
        }
        for event in &events {
            self.deliver(event);
        }
        self.events.replace(events);
        while let Some(done) = self.pool.pop_done() {
            self.done(done);
        }
        self.put_off.take().into_iter().for_each(Waker::wake);
    }

    fn polled_tasks(&self, count: u64) {
        self.polled_tasks.set(self.polled_tasks.get() + count);
    }

    fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// A system call that has begun goes on to its end; what has not begun does not begin.
    fn cancel_everything(&self) {
        while let Some(job) = self.pool.take_back() {
            self.in_flight.set(self.in_flight.get() - 1);
            let slot = self.slots.borrow_mut().try_remove(job.key);
            assert!(matches!(slot, Some(Slot::Orphaned)), "tasks are dropped before jobs are taken back");
        }
    }
}

/// A job that somebody waits for.
struct InPool<F, T> {
    core: Rc<Core>,
    key: Option<usize>,
    gives: PhantomData<fn() -> Piece<F, T>>,
}

impl<F: 'static, T: 'static> Future for InPool<F, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let key = self.key.expect("a job is not polled after its end");
        let outcome = std::task::ready!(self.core.poll_job(key, cx));
        self.key = None;
        let work = outcome.unwrap_or_else(|panic| resume_unwind(panic));
        match work.into_any().downcast::<Piece<F, T>>().map(|piece| *piece) {
            Ok(Piece::Done(output)) => Poll::Ready(output),
            _ => unreachable!("a slot gets its own job back, done"),
        }
    }
}

impl<F, T> Drop for InPool<F, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.core.abandon_job(key);
        }
    }
}

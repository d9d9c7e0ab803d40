//! The requests in flight of one shard.
//!
//! A request has a slot from its submission to its last completion. The slot owns what the kernel may use
//! ([`Held`]), whoever waits for the result: a future that is dropped asks for cancellation and leaves its slot
//! behind, to be cleared by the last completion.
//!
//! ```text
//!            submit                      completion                    poll
//!   Request ────────> Slot: Awaited ───────────────> Slot: Done ─────────────> Completion (Held goes back)
//!                          │ future dropped: cancel
//!                          v              completion
//!                     Slot: Orphaned ──────────────> freed; a descriptor that came of it is closed
//!   zero-copy send ─> Slot: Awaited ── the result ──> Slot: Awaited ── memory is free ──> Slot: Done ─> …
//!   receive, accept ─> Slot: Reported ── completion* ──> Receiver / Acceptor … last one: freed
//! ```
//!
//! Invariants: user data names slot and generation, so that no completion and no cancellation reaches another
//! request; nothing a slot owns is dropped while a cell of the core is borrowed.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use io_uring::types::CancelBuilder;
use io_uring::{cqueue, opcode};
use slab::Slab;

use super::buffers::BufferRing;
use super::probe::Kernel;
use super::recv::Receiver;
use super::request::{Descriptor, EventKind, Held, Request, Shape, Vector};
use super::ring::Ring;
use super::splice::Pipe;
use crate::buf::BufPool;
use crate::real::ready::Alarm;
use crate::real::shard::{Common, Engine, Wait};
use crate::real::stop::StopRequest;
use crate::real::sys;
use crate::runtime::{self, Counters, RuntimeConfig, ShardIndex};

/// User data of cancellations, whose completions nobody waits for.
const CANCELLATION: u64 = u64::MAX;
/// Lists of pieces that are kept for later requests.
const SPARE_VECTORS: usize = 64;

/// Size in bytes of a buffer of a stream's own, for when every provided one is lent.
const SMALL_BUFFER_BYTES: usize = 16 << 10;
/// Such buffers that are kept for later.
const SPARE_SMALL_BUFFERS: usize = 64;

/// A request in flight: its slot and the slot's generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    key: u32,
    generation: u32,
}

impl Token {
    fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.key)
    }

    fn from_user_data(user_data: u64) -> Self {
        let key = u32::try_from(user_data & u64::from(u32::MAX)).expect("masked");
        let generation = u32::try_from(user_data >> 32).expect("shifted");
        Token { key, generation }
    }

    fn index(self) -> usize {
        self.key as usize
    }
}

struct Slot {
    generation: u32,
    shape: Shape,
    /// Result of a zero-copy send, whose memory the kernel still has.
    early: Option<i32>,
    held: Held,
    stage: Stage,
}

enum Stage {
    Awaited(Option<Waker>),
    Done(Outcome),
    Orphaned,
    Reported,
}

struct Outcome {
    result: i32,
    descriptor: Option<OwnedFd>,
}

/// A finished request.
pub(super) struct Completion {
    /// The system call's result, without the sign.
    pub(super) result: io::Result<usize>,
    /// What the request held.
    pub(super) held: Held,
    /// The descriptor that an opening request gave.
    pub(super) descriptor: Option<OwnedFd>,
}

pub(crate) struct Core {
    /// Dropped first: the kernel knows the memory of what follows.
    ring: RefCell<Ring>,
    slots: RefCell<Slab<Slot>>,
    buffers: RefCell<Option<BufferRing>>,
    in_flight: Cell<usize>,
    next_generation: Cell<u32>,
    /// The memory of [`Engine::turn`], between two turns.
    completions: RefCell<Vec<cqueue::Entry>>,
    #[expect(clippy::vec_box, reason = "a request needs the box, and gets it without a move")]
    vectors: RefCell<Vec<Box<Vector>>>,
    pub(super) pipes: RefCell<Vec<Pipe>>,
    crowded: RefCell<Vec<Weak<Receiver>>>,
    pub(super) stop: Arc<StopRequest>,
    pub(super) kernel: Kernel,
    pub(super) clock: Instant,
    polled_tasks: Cell<u64>,
    pub(super) recv_queue: usize,
    /// Sends of so many bytes and more are zero-copy.
    pub(super) zero_copy_min_bytes: usize,
    pub(super) has_told_of_copies: Cell<bool>,
    /// For streams that receive while every provided buffer is lent.
    pub(super) small_buffers: BufPool,
    winding_down: Cell<bool>,
}

impl Core {
    pub(super) fn new(
        config: &RuntimeConfig,
        kernel: Kernel,
        stop: Arc<StopRequest>,
        clock: Instant,
    ) -> io::Result<Rc<Self>> {
        let ring = Ring::new(config.ring_entries)?;
        let buffers = BufferRing::new(config.recv_buffers, config.recv_buffer_bytes);
        // SAFETY: `Core` drops the io_uring before the buffers, and leaks the buffers if anything is in flight.
        unsafe { buffers.register(&ring.submitter()) }?;
        Ok(Rc::new(Core {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            buffers: RefCell::new(Some(buffers)),
            in_flight: Cell::new(0),
            next_generation: Cell::new(0),
            completions: RefCell::default(),
            vectors: RefCell::default(),
            pipes: RefCell::default(),
            crowded: RefCell::default(),
            stop,
            kernel,
            clock,
            polled_tasks: Cell::new(0),
            recv_queue: config.recv_queue_per_stream.max(1),
            zero_copy_min_bytes: if kernel.zero_copy { config.zero_copy_min_bytes } else { usize::MAX },
            has_told_of_copies: Cell::new(false),
            small_buffers: BufPool::new(SMALL_BUFFER_BYTES, usize::MAX, SPARE_SMALL_BUFFERS),
            winding_down: Cell::new(false),
        }))
    }

    /// Starts a request that completes once, or is a zero-copy send.
    pub(super) fn submit(self: &Rc<Self>, request: Request) -> Operation {
        Operation { core: Rc::clone(self), token: Some(self.start(request)) }
    }

    /// Makes a request that has no result, and makes it anew when it was interrupted.
    pub(super) async fn repeat(self: &Rc<Self>, request: impl Fn() -> Request) -> io::Result<()> {
        loop {
            match self.submit(request()).await.result {
                Err(error) if is_transient(&error) => {}
                done => return done.map(drop),
            }
        }
    }

    /// Starts a request that reports to what it holds.
    pub(super) fn start(&self, request: Request) -> Token {
        let (entry, held, shape) = request.into_parts();
        let stage = if shape == Shape::Reported { Stage::Reported } else { Stage::Awaited(None) };
        let generation = self.next_generation.get();
        self.next_generation.set((generation + 1) & (u32::MAX >> 1));
        let key = self.slots.borrow_mut().insert(Slot { generation, shape, early: None, held, stage });
        let token = Token { key: u32::try_from(key).expect("a shard has fewer requests"), generation };
        self.push(&entry.user_data(token.user_data()));
        token
    }

    /// Asks the kernel to cancel a request. It completes all the same, with a result of its own or `ECANCELED`.
    pub(super) fn cancel(&self, token: Token) {
        self.push(&opcode::AsyncCancel::new(token.user_data()).build().user_data(CANCELLATION));
    }

    fn push(&self, entry: &io_uring::squeue::Entry) {
        self.in_flight.set(self.in_flight.get() + 1);
        // SAFETY: either the entry points to nothing, as a cancellation, or it comes from a `Request`, whose memory
        // the slot keeps until the last completion.
        unsafe { self.ring.borrow_mut().push(entry) }
    }

    /// Hands the kernel what is queued now, and not when the tasks that are ready have run: for a request that a device
    /// would stand idle without.
    pub(super) fn hand_over(&self) {
        self.ring.borrow_mut().enter(Wait::Not);
    }

    fn complete(&self, completion: &cqueue::Entry) {
        let (result, flags) = (completion.result(), completion.flags());
        let last = !cqueue::more(flags);
        if last {
            self.in_flight.set(self.in_flight.get() - 1);
        }
        if completion.user_data() == CANCELLATION {
            return;
        }
        let token = Token::from_user_data(completion.user_data());
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(token.index()).filter(|slot| slot.generation == token.generation);
        let slot = slot.expect("a completion finds the slot of its request");
        if matches!(slot.stage, Stage::Reported) {
            let report = Report::of(&slot.held);
            let freed = if last { Some(slots.remove(token.index()).held) } else { None };
            drop(slots);
            self.deliver(report, freed, result, flags);
            return;
        }
        if !last {
            assert!(slot.shape == Shape::ZeroCopy, "a request that a future waits for completes once");
            slot.early = Some(result);
            match &mut slot.stage {
                Stage::Awaited(waker) => {
                    let waker = waker.take();
                    drop(slots);
                    waker.into_iter().for_each(Waker::wake);
                }
                _ => {
                    let socket = slot.held.give_up_socket();
                    drop(slots);
                    reset(socket);
                }
            }
            return;
        }
        let result = slot.early.unwrap_or(result);
        let descriptor = (slot.shape == Shape::Descriptor && result >= 0).then(|| {
            // SAFETY: the kernel has just installed it for this request, and tells of it once.
            unsafe { sys::take_descriptor(result) }
        });
        let receiver = match &slot.held {
            Held::ReceiveInto { receiver, .. } => Some(Rc::clone(receiver)),
            _ => None,
        };
        let outcome = Stage::Done(Outcome { result, descriptor });
        match std::mem::replace(&mut slot.stage, outcome) {
            Stage::Awaited(waker) => {
                drop(slots);
                waker.into_iter().for_each(Waker::wake);
            }
            Stage::Orphaned => {
                let freed = slots.remove(token.index());
                drop(slots);
                drop(freed);
            }
            Stage::Done(_) | Stage::Reported => unreachable!("completed once before, or handled above"),
        }
        if let Some(receiver) = receiver {
            receiver.receive_into_ended();
        }
    }

    /// Hands a completion to what the request holds; `freed` is that itself, after the last one.
    fn deliver(&self, report: Report, freed: Option<Held>, result: i32, flags: u32) {
        let last = freed.is_some();
        match report {
            Report::Receive(receiver) => {
                let len = usize::try_from(result).unwrap_or_default();
                let bytes =
                    cqueue::buffer_select(flags).map(|id| self.with_buffers(|buffers| buffers.lend(id, len)));
                let bytes = bytes.or_else(|| {
                    let Some(Held::ReceiveOnce { mut buf, .. }) = freed else { return None };
                    buf.set_len(len);
                    Some(buf.freeze())
                });
                receiver.completed(self, result, bytes, last);
            }
            Report::Accept(acceptor) => acceptor.completed(self, result, last),
            Report::Event(event, kind) => {
                if kind == EventKind::Signal && result > 0 {
                    self.stop.request();
                }
                if last && !self.winding_down.get() {
                    self.start(Request::poll_event(event, kind));
                }
            }
        }
    }

    /// Whether the kernel has provided buffers to receive into.
    pub(super) fn has_buffers(&self) -> bool {
        self.with_buffers(|buffers| {
            if buffers.available() == 0 {
                buffers.collect();
            }
            buffers.available() > 0
        })
    }

    fn with_buffers<R>(&self, act: impl FnOnce(&mut BufferRing) -> R) -> R {
        act(self.buffers.borrow_mut().as_mut().expect("the buffers live as long as the core"))
    }

    /// Notes a stream that has more received than it should.
    pub(super) fn crowd(&self, receiver: &Rc<Receiver>) {
        self.crowded.borrow_mut().push(Rc::downgrade(receiver));
    }

    /// Memory for a list of pieces, if some is left from an earlier request.
    pub(super) fn spare_vector(&self) -> Option<Box<Vector>> {
        self.vectors.borrow_mut().pop()
    }

    /// Keeps the memory of a list of pieces for later.
    pub(super) fn keep_vector(&self, vector: Option<Box<Vector>>) {
        let mut vectors = self.vectors.borrow_mut();
        if vectors.len() < SPARE_VECTORS {
            vectors.extend(vector);
        }
    }

    pub(super) fn counters(&self) -> Counters {
        let ring = self.ring.borrow().counters();
        Counters {
            enters: ring.enters,
            requests: ring.submitted,
            completions: ring.completed,
            task_polls: self.polled_tasks.get(),
            in_flight: self.in_flight() as u64,
        }
    }

    fn poll_operation(&self, token: Token, cx: &Context<'_>) -> Poll<Completion> {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[token.index()];
        match &mut slot.stage {
            Stage::Awaited(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Stage::Done(_) => {
                let Slot { held, stage: Stage::Done(outcome), .. } = slots.remove(token.index()) else {
                    unreachable!("looked at just now")
                };
                let result = match usize::try_from(outcome.result) {
                    Ok(result) => Ok(result),
                    Err(_) => Err(io::Error::from_raw_os_error(-outcome.result)),
                };
                Poll::Ready(Completion { result, held, descriptor: outcome.descriptor })
            }
            Stage::Orphaned | Stage::Reported => unreachable!("an operation polls its own slot"),
        }
    }

    /// The result of a zero-copy send that went well, while the kernel has its memory.
    fn poll_early(&self, token: Token, cx: &Context<'_>) -> Poll<Option<usize>> {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[token.index()];
        match (&mut slot.stage, slot.early) {
            (Stage::Awaited(waker), None) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            (Stage::Awaited(_), Some(result)) => Poll::Ready(usize::try_from(result).ok()),
            _ => Poll::Ready(None),
        }
    }

    /// Leaves a slot to its last completion.
    fn abandon(&self, token: Token) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[token.index()];
        if matches!(slot.stage, Stage::Done(_)) {
            let freed = slots.remove(token.index());
            drop(slots);
            drop(freed);
            return;
        }
        let stage = std::mem::replace(&mut slot.stage, Stage::Orphaned);
        let is_sent = slot.early.is_some();
        let socket = if is_sent { slot.held.give_up_socket() } else { None };
        drop(slots);
        drop(stage);
        if is_sent {
            reset(socket);
        } else {
            self.cancel(token);
        }
    }
}

/// Ends the connection abruptly. What was sent without a copy is with the kernel until the peer has it or the connection is gone: a
/// peer that takes nothing would keep the memory, after whoever sent it has given up, for as long as TCP tries.
fn reset(socket: Option<Descriptor>) {
    if let Some(socket) = socket {
        // At once; where that is refused, when the last holder closes it.
        let _ = socket2::SockRef::from(&*socket).set_linger(Some(std::time::Duration::ZERO));
        let _ = rustix::net::connect_unspec(&*socket);
    }
}

impl Engine for Core {
    type System = Kernel;

    fn start(
        _index: ShardIndex,
        config: &RuntimeConfig,
        kernel: Kernel,
        common: &Common,
        alarm: Arc<Alarm>,
    ) -> io::Result<Rc<Self>> {
        let event = alarm.event();
        let core = Core::new(config, kernel, Arc::clone(&common.stop), common.clock)?;
        core.start(Request::poll_event(event, EventKind::Alarm));
        if let Some(signals) = &common.signals {
            core.start(Request::poll_event(signals.event(), EventKind::Signal));
        }
        Ok(core)
    }

    fn driver(self: &Rc<Self>) -> runtime::Driver {
        runtime::Driver::Uring(super::Driver { core: Rc::clone(self) })
    }

    /// Takes back buffers, and stops streams that have received too much.
    fn keep_house(&self) {
        self.with_buffers(BufferRing::collect);
        for receiver in self.crowded.take() {
            if let Some(receiver) = receiver.upgrade() {
                receiver.pause_if_crowded(self);
            }
        }
    }

    /// The kernel tells completions by itself, those of another thread's alarm among them.
    fn is_idle(&self) -> bool {
        true
    }

    fn has_news(&self) -> bool {
        self.ring.borrow_mut().has_news()
    }

    fn turn(&self, wait: Wait) {
        let mut completions = self.completions.take();
        {
            let mut ring = self.ring.borrow_mut();
            ring.enter(wait);
            ring.reap(&mut completions);
        }
        for completion in &completions {
            self.complete(completion);
        }
        completions.clear();
        self.completions.replace(completions);
    }

    fn polled_tasks(&self, count: u64) {
        self.polled_tasks.set(self.polled_tasks.get() + count);
    }

    fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    fn cancel_everything(&self) {
        self.winding_down.set(true);
        self.push(&opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCELLATION));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.in_flight() > 0 {
            // Only after a panic of the driver itself. What the kernel may still write to is given up.
            tracing::error!(
                in_flight = self.in_flight(),
                "a shard ends with requests in flight; their memory leaks"
            );
            std::mem::forget(self.slots.take());
            std::mem::forget(self.buffers.take());
        }
    }
}

/// Who gets the completions of a request that no future waits for.
enum Report {
    Receive(Rc<Receiver>),
    Accept(Rc<super::accept::Acceptor>),
    Event(Arc<std::fs::File>, EventKind),
}

impl Report {
    fn of(held: &Held) -> Self {
        match held {
            Held::Receive(receiver) | Held::ReceiveOnce { receiver, .. } => {
                Report::Receive(Rc::clone(receiver))
            }
            Held::Accept(acceptor) => Report::Accept(Rc::clone(acceptor)),
            Held::Event { event, kind } => Report::Event(Arc::clone(event), *kind),
            _ => unreachable!("a future waits for all others"),
        }
    }
}

/// A request in flight that somebody waits for.
pub(super) struct Operation {
    core: Rc<Core>,
    token: Option<Token>,
}

impl Operation {
    /// The result of a zero-copy send as soon as it is there, if the kernel still has the memory; `None` if the operation itself
    /// tells, or will, since it is over or has failed.
    pub(super) async fn early(&mut self) -> Option<usize> {
        let token = self.token.expect("an operation is not polled after its completion");
        std::future::poll_fn(|cx| self.core.poll_early(token, cx)).await
    }
}

impl Future for Operation {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let token = self.token.expect("an operation is not polled after its completion");
        let completion = std::task::ready!(self.core.poll_operation(token, cx));
        self.token = None;
        Poll::Ready(completion)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.core.abandon(token);
        }
    }
}

/// Whether a request that failed with this is simply to be made again.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// A descriptor of the shard.
pub(super) fn descriptor(fd: impl Into<OwnedFd>) -> Descriptor {
    Rc::new(fd.into())
}

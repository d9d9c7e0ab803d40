//! A socket, and whether it is worth a try to read from it or write to it.
//!
//! Events are edges: each tells once that a socket became readable or writable. From then on it counts as such until a
//! system call says that it is not (`EAGAIN`, or less than was asked for). The kernel reports the next edge after that call,
//! never before, so that none is missed.
//!
//! A socket that is always ready could hold up everything else on its shard. So a turn of the shard's loop has a limit of
//! calls for each, and who reaches it goes on in the next turn.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::EventFlags;

use super::core::Core;

/// Calls that one socket is worth in a turn.
const CALLS_PER_TURN: u32 = 32;

/// What events say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Readiness {
    readable: bool,
    writable: bool,
    /// Nothing more will come, or nothing more can go: each call says so from now on, and no edge will.
    ended: bool,
}

impl Readiness {
    pub(super) fn of(flags: EventFlags) -> Self {
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        Readiness {
            readable: ended || flags.contains(EventFlags::IN),
            writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
            ended,
        }
    }
}

/// One direction of a socket.
pub(super) struct Side {
    is_ready: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Side {
    /// Ready until a call says otherwise.
    fn new() -> Self {
        Side { is_ready: Cell::new(true), waiting: RefCell::default() }
    }

    /// Not ready before the first event.
    fn not_ready() -> Self {
        Side { is_ready: Cell::new(false), waiting: RefCell::default() }
    }

    fn became_ready(&self) {
        self.is_ready.set(true);
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Nothing is to be had until the next event.
    pub(super) fn is_exhausted(&self) {
        self.is_ready.set(false);
    }

    /// Worth a try whatever the events said.
    pub(super) fn is_worth_a_try(&self) {
        self.is_ready.set(true);
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

/// What the core knows of a socket.
pub(super) struct Watched {
    key: usize,
    generation: u32,
    reading: Side,
    writing: Side,
    /// Ready once the stream has ended.
    ending: Side,
    turn: Cell<u64>,
    calls: Cell<u32>,
}

impl Watched {
    pub(super) fn new(key: usize, generation: u32) -> Self {
        Watched {
            key,
            generation,
            reading: Side::new(),
            writing: Side::new(),
            ending: Side::not_ready(),
            turn: Cell::new(0),
            calls: Cell::new(0),
        }
    }

    pub(super) fn key(&self) -> usize {
        self.key
    }

    /// What events of this socket carry, and those of no other, not even of one that had its key before.
    pub(super) fn event_data(&self) -> u64 {
        let key = u32::try_from(self.key).expect("a shard has fewer sockets");
        u64::from(self.generation) << 32 | u64::from(key)
    }

    pub(super) fn key_of(event_data: u64) -> usize {
        usize::try_from(event_data & u64::from(u32::MAX)).expect("masked")
    }

    pub(super) fn became(&self, readiness: Readiness) {
        if readiness.ended {
            self.ending.became_ready();
        }
        if readiness.readable {
            self.reading.became_ready();
        }
        if readiness.writable {
            self.writing.became_ready();
        }
    }

    /// Counts a call; whether this turn has one left.
    fn may_call(&self, turn: u64) -> bool {
        if self.turn.replace(turn) != turn {
            self.calls.set(0);
        }
        let calls = self.calls.get();
        self.calls.set(calls.saturating_add(1));
        calls < CALLS_PER_TURN
    }
}

/// A socket of the shard.
pub(super) struct Source {
    core: Rc<Core>,
    socket: Arc<OwnedFd>,
    watched: Rc<Watched>,
}

impl Source {
    /// The socket must not block.
    pub(super) fn new(core: &Rc<Core>, socket: OwnedFd) -> io::Result<Self> {
        let watched = core.watch(&socket)?;
        Ok(Source { core: Rc::clone(core), socket: Arc::new(socket), watched })
    }

    pub(super) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// The descriptor; the last holder closes it.
    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// The direction of data, or of connections, that come.
    pub(super) fn reading(&self) -> &Side {
        &self.watched.reading
    }

    /// The direction of data that goes, or of a connection that is made.
    pub(super) fn writing(&self) -> &Side {
        &self.watched.writing
    }

    /// Whether the peer or an error has ended the stream: there is no further event to wait for.
    pub(super) fn has_ended(&self) -> bool {
        self.watched.ending.is_ready.get()
    }

    /// Resolves when it has.
    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_ended() {
            return Poll::Ready(());
        }
        self.watched.ending.wait(cx);
        Poll::Pending
    }

    /// Resolves when a call in this direction is worth a try.
    pub(super) fn poll_ready(&self, side: &Side, cx: &Context<'_>) -> Poll<()> {
        if !side.is_ready.get() {
            side.wait(cx);
            return Poll::Pending;
        }
        if !self.watched.may_call(self.core.turn_number()) {
            self.core.put_off(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.core.forget(&*self.socket, &self.watched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_the_peer_is_readable_and_an_error_is_both() {
        let end = Readiness::of(EventFlags::RDHUP);
        assert_eq!(end, Readiness { readable: true, writable: false, ended: true });
        let error = Readiness::of(EventFlags::ERR);
        assert_eq!(error, Readiness { readable: true, writable: true, ended: true });
        let room = Readiness::of(EventFlags::OUT);
        assert_eq!(room, Readiness { readable: false, writable: true, ended: false });
    }

    #[test]
    fn socket_has_so_many_calls_a_turn() {
        let watched = Watched::new(0, 0);
        for turn in 1..4 {
            let calls = (0..2 * CALLS_PER_TURN).filter(|_| watched.may_call(turn)).count();
            assert_eq!(calls, CALLS_PER_TURN as usize);
        }
    }

    #[test]
    fn events_of_a_key_that_is_used_again_are_told_apart() {
        let (before, after) = (Watched::new(7, 1), Watched::new(7, 2));
        assert_ne!(before.event_data(), after.event_data());
        assert_eq!(Watched::key_of(before.event_data()), 7);
        assert_eq!(Watched::key_of(after.event_data()), 7);
    }
}

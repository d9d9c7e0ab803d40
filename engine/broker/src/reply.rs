//! What becomes of a request.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use crate::memory::ResponseMemory;

/// The end of a request.
pub(crate) enum Outcome {
    /// A response.
    Reply(Reply),
    /// No response, as for a produce with acks=0.
    Silence,
    /// The connection is closed: the only way to tell a client that expects no response that something is wrong.
    Close,
}

/// A response, and what is held until it is sent.
pub(crate) struct Reply {
    /// The frame, to be sent one piece after the other.
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) held: Held,
}

/// What a response holds until it is sent; dropping it gives it back.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// What the response takes of the budget.
    pub(crate) memory: Option<ResponseMemory>,
    /// What its records keep from being used again of the log's memory.
    #[expect(dead_code, reason = "held, not looked at")]
    pub(crate) pinned: Option<Pinned>,
}

impl Reply {
    pub(crate) fn size_bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// A response in one piece.
    pub(crate) fn of(frame: Bytes) -> Self {
        Reply { pieces: vec![frame], held: Held::default() }
    }
}

/// Bytes that are sent out of the log's own memory; dropping it takes them off the count.
#[derive(Debug)]
pub(crate) struct Pinned {
    count: Rc<Cell<usize>>,
    bytes: usize,
}

impl Pinned {
    pub(crate) fn new(count: &Rc<Cell<usize>>, bytes: usize) -> Self {
        count.set(count.get() + bytes);
        Pinned { count: Rc::clone(count), bytes }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.count.set(self.count.get() - self.bytes);
    }
}

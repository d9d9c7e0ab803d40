//! What becomes of a request.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// The log's memory comes in pieces of this size in bytes, each at a multiple of it, unless there is very little of it.
pub(crate) const SLAB_BYTES: usize = 1 << 20;

/// How many slabs of each shard's log are held, by all shards together: what one shard's connections hold may all be another
/// shard's memory. One that two shards hold counts twice.
pub(crate) type SlabCounts = Arc<[AtomicUsize]>;

/// Which of the log's memory cannot be used again, since replies out of it are being sent. Many readers of one log hold the
/// same.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Replies by slab, and whose it is.
    slabs: RefCell<BTreeMap<usize, Slab>>,
    held_of: SlabCounts,
}

#[derive(Debug)]
struct Slab {
    owner: usize,
    replies: usize,
}

impl Pins {
    pub(crate) fn new(held_of: &SlabCounts) -> Self {
        Pins { slabs: RefCell::default(), held_of: Arc::clone(held_of) }
    }
}

/// What one reply holds; dropping it lets it go.
#[derive(Debug)]
pub(crate) struct Pinned {
    pins: Rc<Pins>,
    slabs: BTreeSet<usize>,
    last: Option<usize>,
}

impl Pinned {
    pub(crate) fn new(pins: &Rc<Pins>) -> Self {
        Pinned { pins: Rc::clone(pins), slabs: BTreeSet::new(), last: None }
    }

    /// Holds the slab of `piece` too, unless it would be one of more than `most` of the shard `owner`; whether it is held.
    pub(crate) fn hold(&mut self, piece: &Bytes, owner: usize, most: usize) -> bool {
        let slab = piece.as_ptr().addr() / SLAB_BYTES;
        if self.last == Some(slab) || self.slabs.contains(&slab) {
            self.last = Some(slab);
            return true;
        }
        let mut slabs = self.pins.slabs.borrow_mut();
        match slabs.get_mut(&slab) {
            Some(held) => held.replies += 1,
            None => {
                let one_more = |held: usize| (held < most).then_some(held + 1);
                let count = &self.pins.held_of[owner];
                if count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                    return false;
                }
                slabs.insert(slab, Slab { owner, replies: 1 });
            }
        }
        self.slabs.insert(slab);
        self.last = Some(slab);
        true
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut slabs = self.pins.slabs.borrow_mut();
        for slab in &self.slabs {
            let Some(held) = slabs.get_mut(slab) else { continue };
            held.replies -= 1;
            if held.replies == 0 {
                self.pins.held_of[held.owner].fetch_sub(1, Ordering::Relaxed);
                slabs.remove(slab);
            }
        }
    }
}

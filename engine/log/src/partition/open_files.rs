//! The descriptors of a shard's segments: opened when needed, and given back when there are more than a bound, those first
//! that were used longest ago.
//!
//! ```text
//!   segment ── weak ──► OpenFile ◄── strong ── the last ones used, up to the bound
//!                           ▲─────── strong ── whoever uses it at the moment
//!                           └─────── strong ── the list of what has to be flushed
//! ```
//!
//! * A segment finds its description as long as anybody has it, so that one that is written through, and holds the lock that
//!   a second one would wait for, is never opened twice.
//! * What was written through a description is flushed through the same one: the system tells an error of write-back to
//!   descriptions that were open when it happened, and a later one may be told that all is well. Hence what has to be flushed
//!   keeps its description, and is flushed before its time where that makes more than the bound.
//! * What compaction made keeps its description until it has its name: under that name another file would be opened.
//! * The bound may be passed by what is in use at a moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use highwater_io::fs;

/// The descriptors of one shard's segments.
pub(crate) struct OpenFiles {
    limit: usize,
    /// Descriptions that are open, whoever has them.
    open: Rc<Cell<usize>>,
    /// By the moment of their last use.
    recent: RefCell<BTreeMap<u64, Rc<OpenFile>>>,
    /// Number of uses so far.
    uses: Cell<u64>,
}

/// A segment's file while it is open.
pub(crate) struct OpenFile {
    file: fs::File,
    used_at: Cell<u64>,
    open: Rc<Cell<usize>>,
}

impl Deref for OpenFile {
    type Target = fs::File;

    fn deref(&self) -> &fs::File {
        &self.file
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

impl OpenFiles {
    /// At most `limit` descriptors, and at least one.
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(OpenFiles {
            limit: limit.max(1),
            open: Rc::default(),
            recent: RefCell::default(),
            uses: Cell::new(0),
        })
    }

    /// Takes over a file that was just opened, and gives back what is too much.
    pub(crate) fn keep(&self, file: fs::File) -> Rc<OpenFile> {
        self.open.set(self.open.get() + 1);
        let file = Rc::new(OpenFile { file, used_at: Cell::new(0), open: Rc::clone(&self.open) });
        self.note_use(&file);
        while self.is_over() {
            let mut recent = self.recent.borrow_mut();
            // The newest is about to be used.
            let oldest = if recent.len() > 1 { recent.pop_first() } else { None };
            drop(recent);
            if oldest.is_none() {
                break;
            }
        }
        file
    }

    /// Notes that it is used now.
    pub(crate) fn note_use(&self, file: &Rc<OpenFile>) {
        let mut recent = self.recent.borrow_mut();
        let last = file.used_at.get();
        if last == self.uses.get() && recent.contains_key(&last) {
            return;
        }
        recent.remove(&last);
        let now = self.uses.get() + 1;
        self.uses.set(now);
        file.used_at.set(now);
        recent.insert(now, Rc::clone(file));
    }

    /// Gives it back, as soon as nobody uses it any more.
    pub(crate) fn forget(&self, file: &OpenFile) {
        let forgotten = self.recent.borrow_mut().remove(&file.used_at.get());
        drop(forgotten);
    }

    /// Whether there are more than the bound allows.
    pub(crate) fn is_over(&self) -> bool {
        self.open.get() > self.limit
    }

    /// Number of descriptors.
    pub(crate) fn count(&self) -> usize {
        self.open.get()
    }
}

//! What happened in a world: a hash over all of it, and the last events in words.
//!
//! Two runs of one seed must have equal hashes ([`World::trace_hash`](super::World::trace_hash)); the events tell
//! where a failed run went wrong.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use twox_hash::XxHash3_64;

use super::disk::DiskOp;
use super::rng::Chance;
use crate::time::MonoTime;

/// Declares the kinds of events, with what the numbers of each are.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $numbers:expr,)*) => {
        /// Kind of an event of the trace.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum What {
            $($(#[$doc])* $kind,)*
        }

        impl What {
            /// What its numbers are; an empty name is a number that says nothing.
            fn numbers(self) -> [&'static str; 3] {
                match self {
                    $(What::$kind => $numbers,)*
                }
            }
        }
    };
}

kinds! {
    /// A process starts.
    Start: ["node", "process", "shards"],
    /// A process ends, in its own time or not.
    End: ["node", "process", "abrupt"],
    /// A task runs.
    Poll: ["process", "shard", "ready"],
    /// A shard has done its work.
    MainReturned: ["process", "shard", ""],
    /// Timers expire.
    Timers: ["process", "shard", "count"],
    /// A request to a disk.
    Submit: ["disk", "request", "op"],
    /// Its completion.
    Complete: ["disk", "request", "errno"],
    /// Its process dies, and it will land later.
    Orphan: ["disk", "request", "process"],
    /// It is given up.
    Discard: ["disk", "request", "killed"],
    /// A rule hits a request.
    Fault: ["disk", "rule", "op"],
    /// A machine goes down.
    Crash: ["disk", "versions", "kept"],
    /// A connection is attempted.
    Connect: ["connection", "client", "server"],
    /// Bytes go on the wire.
    Send: ["connection", "side", "bytes"],
    /// Bytes arrive.
    Deliver: ["connection", "side", "bytes"],
    /// Bytes are received.
    Receive: ["connection", "side", "bytes"],
    /// An end is closed.
    Fin: ["connection", "side", ""],
    /// A reset arrives.
    Reset: ["connection", "side", ""],
    /// A link is blocked.
    Block: ["from", "to", ""],
    /// A link is unblocked.
    Unblock: ["from", "to", ""],
    /// A process is stopped.
    Pause: ["node", "", ""],
    /// A process goes on.
    Resume: ["node", "", ""],
    /// A wall clock jumps.
    WallClock: ["node", "millis", ""],
    /// A process is asked to stop.
    Stop: ["node", "", ""],
}

#[derive(Debug, Clone)]
struct Event {
    at: MonoTime,
    what: What,
    numbers: [u64; 3],
    path: Option<Rc<str>>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14} ns  {:?}", self.at.as_nanos(), self.what)?;
        let named = self.what.numbers().into_iter().zip(self.numbers).filter(|(name, _)| !name.is_empty());
        for (name, number) in named {
            match DiskOp::ALL.get(number as usize).filter(|_| name == "op") {
                Some(op) => write!(f, " {op:?}")?,
                None => write!(f, " {name} {number}")?,
            }
        }
        match &self.path {
            Some(path) => write!(f, "  {path}"),
            None => Ok(()),
        }
    }
}

pub(crate) struct Trace {
    hash: u64,
    count: u64,
    recent: VecDeque<Event>,
    keep: usize,
}

impl Trace {
    pub(crate) fn new(keep: usize) -> Self {
        Trace { hash: 0, count: 0, recent: VecDeque::with_capacity(keep), keep }
    }

    pub(crate) fn record(
        &mut self,
        at: MonoTime,
        chance: &Chance,
        what: What,
        numbers: [u64; 3],
        path: Option<&Rc<str>>,
    ) {
        let mut bytes = [0; 48];
        let words = [at.as_nanos(), chance.folded(), numbers[0], numbers[1], numbers[2], what as u64];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        self.hash = XxHash3_64::oneshot_with_seed(self.hash, &bytes);
        self.count += 1;
        if self.keep == 0 {
            return;
        }
        if self.recent.len() == self.keep {
            self.recent.pop_front();
        }
        self.recent.push_back(Event { at, what, numbers, path: path.cloned() });
    }

    pub(crate) fn hash(&self, chance: &Chance) -> u64 {
        XxHash3_64::oneshot_with_seed(self.hash, &chance.folded().to_le_bytes())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} events, the last {}:", self.count, self.recent.len())?;
        self.recent.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

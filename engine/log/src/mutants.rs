//! Lies that this engine can be made to tell, so that the checkers prove that they would notice.
//!
//! Each breaks one rule of the journal. They exist only in test builds (`cfg(test)` or the feature `mutants`); in any
//! other build [`Mutant::is_on`] is the constant `false`. A mutant is switched on for the current thread
//! ([`Mutant::enable`]), which is how the simulator uses it, or for the whole process ([`enable_globally`]), for a
//! broker that lies to the harness.

/// One way to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutant {
    /// For the command line and for reports.
    pub name: &'static str,
    /// The rule of the journal that it breaks, or 0.
    pub rule: u8,
    #[cfg(any(test, feature = "mutants"))]
    bit: u64,
}

macro_rules! mutants {
    ($($(#[$doc:meta])* $bit:literal $constant:ident = $name:literal, rule $rule:literal;)*) => {
        $($(#[$doc])*
        pub const $constant: Mutant = Mutant {
            name: $name,
            rule: $rule,
            #[cfg(any(test, feature = "mutants"))]
            bit: 1 << $bit,
        };)*

        /// All of them.
        pub const ALL: &[Mutant] = &[$($constant),*];
    };
}

mutants! {
    /// Acknowledges before the group is written.
    0 ACK_BEFORE_WRITE = "ack-before-write", rule 1;
    /// Reports durability without flushing the journal.
    1 SKIP_JOURNAL_FLUSH = "skip-journal-flush", rule 1;
    /// Takes a flushing write for a flush of the plain writes before it.
    2 FUA_COVERS_PLAIN = "fua-covers-plain", rule 1;
    /// Acknowledges a written group as if it were flushed, with the flush still to come.
    3 ACK_BEFORE_FLUSH = "ack-before-flush", rule 1;
    /// Takes whole batches behind the log's end in its segment for part of the log.
    4 END_FROM_SCAN = "end-from-scan", rule 2;
    /// Does not wait for a dead process's writes.
    5 SKIP_LOCK_WAIT = "skip-lock-wait", rule 3;
    /// Acts on a truncation or a move of the log's start before it is durable.
    6 ACT_BEFORE_DURABLE = "act-before-durable", rule 4;
    /// Tries a flush that failed once more, and believes it.
    7 RETRY_FAILED_FLUSH = "retry-failed-flush", rule 7;
    /// Creates a partition without flushing its directory.
    8 SKIP_CREATE_FLUSH = "skip-create-flush", rule 5;
    /// Acknowledges a duplicate at once.
    9 DUPLICATE_ACKED_AT_ONCE = "duplicate-acked-at-once", rule 6;
    /// Stores a retry a second time.
    10 RETRY_STORED_TWICE = "retry-stored-twice", rule 6;
    /// Serves batches without looking at their checksum.
    12 SERVE_UNCHECKED = "serve-unchecked", rule 10;
    /// Leaves the clean-stop marker in place while running.
    13 KEEP_CLEAN_MARKER = "keep-clean-marker", rule 11;
    /// Writes the checkpoint without flushing the segments it vouches for.
    14 CHECKPOINT_BEFORE_FLUSH = "checkpoint-before-flush", rule 0;
    /// Reuses journal files before the checkpoint that passes them is durable.
    15 REUSE_BEFORE_CHECKPOINT = "reuse-before-checkpoint", rule 0;
    /// Does not repeat the settled start of a block.
    16 SKIP_SETTLED_PREFIX = "skip-settled-prefix", rule 0;
    /// Writes groups behind that are not durable yet.
    17 DRAIN_BEFORE_DURABLE = "drain-before-durable", rule 0;
    /// Serves recovered records before they are flushed.
    18 SERVE_BEFORE_RECOVERY_FLUSH = "serve-before-recovery-flush", rule 0;
    /// Takes damage below the durable bound for a torn end.
    19 CUT_AT_ROT = "cut-at-rot", rule 0;
    /// Gives one offset to two batches.
    20 OFFSET_GIVEN_TWICE = "offset-given-twice", rule 0;
    /// Alters a byte of a record and its checksum.
    21 RECORD_ALTERED = "record-altered", rule 0;
    /// Applies groups of a killed process before they are flushed.
    23 REPLAY_BEFORE_FLUSH = "replay-before-flush", rule 0;
    /// Puts a compacted segment in the place of the old ones before it is flushed.
    24 SWAP_BEFORE_FLUSH = "swap-before-flush", rule 0;
    /// Removes what a compaction replaces before the replacement is decided: before its name is flushed.
    27 REMOVE_BEFORE_DECISION = "remove-before-decision", rule 0;
    /// Gives a compacted segment its name before the removal of what it replaces is flushed.
    28 NAME_BEFORE_REMOVAL = "name-before-removal", rule 0;
    /// The same in a start that finishes a compaction.
    29 FINISH_BEFORE_REMOVAL = "finish-before-removal", rule 0;
    /// Takes the name that a killed process gave a replacement for durable.
    31 FINISH_BEFORE_DECISION = "finish-before-decision", rule 0;
    /// Compacts a segment that the journal may still replay into.
    25 COMPACT_NAMED_SEGMENT = "compact-named-segment", rule 4;
    /// Drops a tombstone in the pass that meets it first.
    26 TOMBSTONE_DROPPED_EARLY = "tombstone-dropped-early", rule 0;
    /// Drops the last record of a key in the pass that meets it first.
    30 LAST_OF_KEY_DROPPED = "last-of-key-dropped", rule 0;
    /// Lets retention take one segment more than leaves `retention.bytes`.
    32 RETENTION_TAKES_TOO_MUCH = "retention-takes-too-much", rule 0;
    /// Makes a partition under an id of which the journal says that it is deleted.
    33 DELETION_NOT_PASSED = "deletion-not-passed", rule 5;
    /// Drops one flush of ten.
    22 DROP_FLUSH_SOMETIMES = "drop-flush-sometimes", rule 1;
}

#[cfg(any(test, feature = "mutants"))]
mod switch {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Mutant;

    thread_local! {
        static HERE: Cell<u64> = const { Cell::new(0) };
    }

    static EVERYWHERE: AtomicU64 = AtomicU64::new(0);

    /// Switches the mutant off when dropped.
    #[derive(Debug)]
    pub struct Enabled {
        bit: u64,
    }

    impl Drop for Enabled {
        fn drop(&mut self) {
            HERE.set(HERE.get() & !self.bit);
        }
    }

    impl Mutant {
        /// Lies on this thread until the guard is dropped.
        #[must_use]
        pub fn enable(self) -> Enabled {
            HERE.set(HERE.get() | self.bit);
            Enabled { bit: self.bit }
        }

        /// Whether to lie.
        #[must_use]
        pub fn is_on(self) -> bool {
            (HERE.get() | EVERYWHERE.load(Ordering::Relaxed)) & self.bit != 0
        }
    }

    /// Lies in the whole process from now on.
    pub fn enable_globally(mutant: Mutant) {
        EVERYWHERE.fetch_or(mutant.bit, Ordering::Relaxed);
    }
}

#[cfg(any(test, feature = "mutants"))]
pub use switch::{Enabled, enable_globally};

#[cfg(not(any(test, feature = "mutants")))]
impl Mutant {
    /// Never, in this build.
    #[must_use]
    #[inline]
    pub const fn is_on(self) -> bool {
        false
    }
}

//! What compaction took: never the last value of a key.
//!
//! ```text
//!   key k, offsets →      a     b     c          a may be gone while b or c is there
//!                         v     v     v          c may not
//!                         v     v     tombstone  all may be gone once the tombstone's time has passed; while a or b is
//!                                                there, the tombstone is
//! ```
//!
//! A log is known to be compacted by the keys in the ledger. Compaction moves nothing: what is there is at the offset at which
//! it was acknowledged, and all that is said of that (`acks`, `order`, `readers`) stands.

use super::Case;
use crate::contract::{Compaction, Contract, Permission};
use crate::ledger::{Key, Lane, Ledger, Outcome};
use crate::reading::Reading;
use crate::units::{Nanos, PartitionIndex};
use std::collections::BTreeMap;

/// What the final read of one partition says about its keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The lowest and the highest offset at which a key is.
    there: BTreeMap<u32, (i64, i64)>,
    /// What the tombstones of a key that are gone may have covered.
    gone: BTreeMap<u32, Covered>,
    /// The end of the log: compaction takes nothing behind it, and never the last of a log.
    log_end: i64,
}

/// What tombstones of one key may have covered.
#[derive(Clone, Copy, Debug)]
struct Covered {
    /// Everything up to this offset.
    to_offset: i64,
    /// Wherever it is, what was sent up to here: a copy of a tombstone may lie behind it.
    sent_by: Option<Nanos>,
}

/// Looks at every partition that is compacted. After what was found is marked.
pub(super) fn look(case: &mut Case<'_>, reference: &Reading) {
    let Some(compaction) = case.contract.compaction else { return };
    let has_gone = |sent_at: Nanos| compaction.read_at.since(sent_at) >= compaction.delete_retention;
    for partition in case.ledger.layout.partitions() {
        let read = &reference.partitions[partition.get()];
        let log_end = read.bounds.map_or(i64::MIN, |(_, end)| end);
        let mut keys = Keys { log_end, ..Keys::default() };
        for run in &read.runs {
            for (offset, sequence) in (run.offset..run.end()).zip(run.first_sequence..) {
                let Some(key) = key_of(&case.ledger, run.producer, partition, sequence) else { continue };
                let (_, highest) = keys.there.entry(key.number).or_insert((offset, offset));
                *highest = offset;
            }
        }
        for lane in case.ledger.lanes.iter().map(|lanes| &lanes[partition.get()]) {
            for (sequence, key) in lane.keys().filter(|(_, key)| key.is_tombstone) {
                let state = lane.states[sequence as usize];
                if state.found() > 0 || !has_gone(lane.sent_at[sequence as usize]) {
                    continue;
                }
                if matches!(state.outcome(), Outcome::Fail | Outcome::NeverSent) {
                    continue;
                }
                let covered = covered(lane, sequence, case.contract, compaction);
                let gone = keys.gone.entry(key.number).or_insert(covered);
                gone.to_offset = gone.to_offset.max(covered.to_offset);
                gone.sent_by = gone.sent_by.max(covered.sent_by);
            }
        }
        case.keys.push(keys);
    }
}

fn covered(lane: &Lane, sequence: u64, contract: &Contract, compaction: Compaction) -> Covered {
    let duplicates = contract.duplicates;
    let acks = || lane.acks_of(sequence);
    let Some(to_offset) = acks().map(|(offset, _)| offset).max() else {
        // Where it was nobody knows; where what a producer sends stays in order, not behind what that sent later.
        let in_order = duplicates == Permission::Forbidden && contract.reordering == Permission::Forbidden;
        let later = lane.acks.iter().chain(&lane.deleted).filter(|run| run.first_sequence > sequence);
        let bound = later.map(|run| run.base_offset - 1).min().filter(|_| in_order);
        return Covered { to_offset: bound.unwrap_or(i64::MAX), sent_by: None };
    };
    let may_have_copies = duplicates == Permission::Permitted;
    let last_copy =
        acks().map(|(_, acked_at)| Nanos(acked_at.0.saturating_add(compaction.copies_within.0))).max();
    Covered { to_offset, sent_by: last_copy.filter(|_| may_have_copies) }
}

fn key_of(ledger: &Ledger, producer: u32, partition: PartitionIndex, sequence: u64) -> Option<Key> {
    ledger.lane(producer, partition)?.key(sequence)
}

impl Case<'_> {
    /// Whether compaction may have taken a record from its offset, where nothing else is there.
    pub(super) fn may_be_compacted(
        &self,
        partition: PartitionIndex,
        (producer, sequence): (u32, u64),
        offset: i64,
    ) -> bool {
        let keys = self.keys.get(partition.get()).filter(|keys| offset < keys.log_end);
        let lane = self.ledger.lane(producer, partition);
        let (Some(keys), Some(lane)) = (keys, lane) else { return false };
        let Some(key) = lane.key(sequence) else { return false };
        let there = keys.there.get(&key.number);
        if there.is_some_and(|(_, highest)| *highest > offset) {
            return true;
        }
        // The tombstone is the last of its key: what it covers goes before it does.
        let sent_at = lane.sent_at[sequence as usize];
        let is_covered = keys.gone.get(&key.number).is_some_and(|gone| {
            offset <= gone.to_offset || gone.sent_by.is_some_and(|sent_by| sent_at <= sent_by)
        });
        is_covered && there.is_none()
    }
}

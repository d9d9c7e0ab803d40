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
use crate::contract::Permission;
use crate::ledger::{Key, Ledger, Outcome};
use crate::reading::Reading;
use crate::units::PartitionIndex;
use std::collections::BTreeMap;

/// What the final read of one partition says about its keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The lowest and the highest offset at which a key is.
    there: BTreeMap<u32, (i64, i64)>,
    /// The highest offset at which a key may have had a tombstone that is gone.
    gone: BTreeMap<u32, i64>,
}

/// Looks at every partition that is compacted. After what was found is marked.
pub(super) fn look(case: &mut Case<'_>, reference: &Reading) {
    let Some(compaction) = case.contract.compaction else { return };
    let has_gone =
        |sent_at: crate::units::Nanos| compaction.read_at.since(sent_at) >= compaction.delete_retention;
    for partition in case.ledger.layout.partitions() {
        let mut keys = Keys::default();
        for run in &reference.partitions[partition.get()].runs {
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
                let offset = match state.outcome() {
                    Outcome::Fail | Outcome::NeverSent => continue,
                    // A copy of it may have been anywhere.
                    _ if case.contract.duplicates == Permission::Permitted => i64::MAX,
                    Outcome::Ack => lane.acked_offset(sequence).unwrap_or(i64::MAX),
                    _ => i64::MAX,
                };
                let gone = keys.gone.entry(key.number).or_insert(offset);
                *gone = offset.max(*gone);
            }
        }
        case.keys.push(keys);
    }
}

fn key_of(ledger: &Ledger, producer: u32, partition: PartitionIndex, sequence: u64) -> Option<Key> {
    ledger.lane(producer, partition)?.key(sequence)
}

impl Case<'_> {
    /// Whether compaction may have taken a record from its offset.
    pub(super) fn may_be_compacted(
        &self,
        partition: PartitionIndex,
        (producer, sequence): (u32, u64),
        offset: i64,
    ) -> bool {
        let Some(keys) = self.keys.get(partition.get()) else { return false };
        let Some(key) = key_of(&self.ledger, producer, partition, sequence) else { return false };
        let there = keys.there.get(&key.number);
        if there.is_some_and(|(_, highest)| *highest > offset) {
            return true;
        }
        // The tombstone is the last of its key: what it covers goes before it does.
        let is_covered = keys.gone.get(&key.number).is_some_and(|gone| *gone >= offset);
        is_covered && there.is_none()
    }
}

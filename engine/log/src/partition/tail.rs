//! The hot tail: recent batches in memory, for readers at the end and for the write-behind.
//!
//! ```text
//!     batches   ┌──────── in the segment ────────┬──────── not yet ────────┐
//!               0                             drained                    len
//!               evicted from here when memory is short        appended here when a group is sealed
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use highwater_model::batch::BatchHeader;
use highwater_model::{Offset, Timestamp};
use smallvec::SmallVec;

use crate::mutants;

/// Bytes that lie in one slab or across the border of two; more only for a batch larger than a slab.
pub(crate) type Slices = SmallVec<[Bytes; 2]>;

/// A batch in memory.
#[derive(Debug, Clone)]
pub(crate) struct HotBatch {
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) segment_base: Offset,
    pub(crate) position_bytes: u64,
    pub(crate) size_bytes: usize,
    /// Journal group that holds it.
    pub(crate) sequence: u64,
    /// The bytes, in order.
    pub(crate) chunks: Slices,
}

impl HotBatch {
    /// `header` has its final offsets and epoch. Sequence and bytes follow when the group is sealed.
    pub(crate) fn new(header: &BatchHeader, segment_base: Offset, position_bytes: u64) -> Self {
        HotBatch {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            segment_base,
            position_bytes,
            size_bytes: header.size_bytes,
            sequence: 0,
            chunks: Slices::new(),
        }
    }

    pub(crate) fn end_position(&self) -> u64 {
        self.position_bytes + self.size_bytes as u64
    }
}

/// Batches of one partition in memory, in order of offset.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<HotBatch>,
    drained: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, batch: HotBatch) {
        debug_assert!(
            self.batches.back().is_none_or(|last| last.last_offset < batch.base_offset)
                // A liar must live to tell its lie.
                || mutants::OFFSET_GIVEN_TWICE.is_on()
        );
        self.batches.push_back(batch);
    }

    /// First offset in memory.
    pub(crate) fn first_offset(&self) -> Option<Offset> {
        self.batches.front().map(|batch| batch.base_offset)
    }

    /// Batches from the one that holds `offset`, or the first after it.
    pub(crate) fn starting_at(&self, offset: Offset) -> impl Iterator<Item = &HotBatch> {
        let start = self.batches.partition_point(|batch| batch.last_offset < offset);
        self.batches.range(start..)
    }

    /// All batches.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &HotBatch> {
        self.batches.iter()
    }

    /// Batches that are not wholly in their segment yet.
    pub(crate) fn undrained(&self) -> impl Iterator<Item = &HotBatch> {
        self.batches.range(self.drained..)
    }

    /// Notes that the segment at `segment_base`, and all before it, hold everything below `position_bytes`.
    pub(crate) fn note_drained(&mut self, segment_base: Offset, position_bytes: u64) {
        while let Some(batch) = self.batches.get(self.drained) {
            let done = batch.segment_base < segment_base
                || batch.segment_base == segment_base && batch.end_position() <= position_bytes;
            if !done {
                break;
            }
            self.drained += 1;
        }
    }

    /// Number of batches that are in their segment and only kept for readers.
    pub(crate) fn evictable(&self) -> usize {
        self.drained
    }

    /// Lets the oldest batches go, as far as they are in their segment.
    pub(crate) fn evict(&mut self, batches: usize) {
        let batches = batches.min(self.drained);
        self.drained -= batches;
        self.batches.drain(..batches);
    }

    /// Removes batches from `offset` on.
    pub(crate) fn truncate(&mut self, offset: Offset) {
        let keep = self.batches.partition_point(|batch| batch.base_offset < offset);
        self.batches.truncate(keep);
        self.drained = self.drained.min(keep);
    }

    /// Removes batches wholly below `offset` that are in their segment.
    pub(crate) fn forget_below(&mut self, offset: Offset) {
        while self.drained > 0 && self.batches.front().is_some_and(|batch| batch.last_offset < offset) {
            self.evict(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(offset: i64, segment: i64, position: u64) -> HotBatch {
        HotBatch {
            base_offset: Offset(offset),
            last_offset: Offset(offset + 1),
            max_timestamp: Timestamp(0),
            segment_base: Offset(segment),
            position_bytes: position,
            size_bytes: 100,
            sequence: 1,
            chunks: Slices::new(),
        }
    }

    fn tail() -> Tail {
        let mut tail = Tail::default();
        [batch(0, 0, 0), batch(2, 0, 100), batch(4, 4, 0)].into_iter().for_each(|b| tail.push(b));
        tail
    }

    #[test]
    fn lookup_finds_the_batch_that_holds_the_offset() {
        let first = |offset| tail().starting_at(Offset(offset)).next().map(|b| b.base_offset.0);
        assert_eq!(
            [first(0), first(1), first(2), first(5), first(6)],
            [Some(0), Some(0), Some(2), Some(4), None]
        );
    }

    #[test]
    fn only_drained_batches_are_evicted() {
        let mut tail = tail();
        tail.evict(1);
        assert_eq!(tail.first_offset(), Some(Offset(0)), "nothing is written yet");
        tail.note_drained(Offset(0), 199);
        assert_eq!(tail.evictable(), 1, "a batch that is partly written stays");
        tail.note_drained(Offset(4), 0);
        assert_eq!(tail.evictable(), 2);
        tail.evict(3);
        assert_eq!(tail.first_offset(), Some(Offset(4)));
    }

    #[test]
    fn truncation_keeps_the_drained_count_true() {
        let mut tail = tail();
        tail.note_drained(Offset(4), 0);
        tail.truncate(Offset(2));
        assert_eq!((tail.evictable(), tail.undrained().count()), (1, 0));
    }
}

//! What a partition remembers of idempotent producers: enough to tell a retry from a new batch. Kafka's
//! `ProducerStateManager` without transactions.

use std::collections::{BTreeMap, VecDeque};

use highwater_model::batch::BatchHeader;
use highwater_model::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::error::AppendError;

/// Batches remembered of each producer: as many as a producer may have in flight.
pub(crate) const REMEMBERED_BATCHES: usize = 5;

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppendedBatch {
    pub(crate) last_sequence: Sequence,
    pub(crate) last_offset: Offset,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: Timestamp,
}

impl AppendedBatch {
    pub(crate) fn base_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.offset_delta))
    }

    fn base_sequence(&self) -> Sequence {
        let modulus = i64::from(i32::MAX) + 1;
        let base = (i64::from(self.last_sequence.0) - i64::from(self.offset_delta)).rem_euclid(modulus);
        Sequence(i32::try_from(base).unwrap_or(0))
    }
}

/// One producer as seen by one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProducerState {
    pub(crate) epoch: ProducerEpoch,
    /// Of the last append, for expiry.
    pub(crate) last_timestamp: Timestamp,
    /// Oldest first, at most [`REMEMBERED_BATCHES`].
    pub(crate) batches: VecDeque<AppendedBatch>,
}

/// What a batch of an idempotent producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be appended.
    New,
    /// A retry of this one.
    Duplicate(AppendedBatch),
}

/// All producers that a partition remembers, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProducerTable {
    producers: BTreeMap<ProducerId, ProducerState>,
}

impl ProducerTable {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ProducerId, &ProducerState)> {
        self.producers.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.producers.len()
    }

    pub(crate) fn insert(&mut self, id: ProducerId, state: ProducerState) {
        self.producers.insert(id, state);
    }

    /// Tells what `header`'s batch is, or why it must not be appended.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<Standing, AppendError> {
        let Some(known) = self.producers.get(&header.producer_id) else {
            // As in Kafka: a producer that retention or a truncation made us forget goes on at any sequence.
            return Ok(Standing::New);
        };
        if header.producer_epoch < known.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id: header.producer_id,
                requested: header.producer_epoch,
                current: known.epoch,
            });
        }
        let expected = if header.producer_epoch > known.epoch {
            Sequence(0)
        } else {
            let (first, last) = (header.base_sequence, header.last_sequence());
            let retried =
                known.batches.iter().find(|b| b.base_sequence() == first && b.last_sequence == last);
            if let Some(original) = retried {
                return Ok(Standing::Duplicate(*original));
            }
            match known.batches.back() {
                Some(batch) => batch.last_sequence.wrapping_advance(1),
                None => return Ok(Standing::New),
            }
        };
        if header.base_sequence == expected {
            Ok(Standing::New)
        } else {
            Err(AppendError::OutOfOrderSequence {
                producer_id: header.producer_id,
                sequence: header.base_sequence,
                expected,
            })
        }
    }

    /// Remembers an appended batch of an idempotent producer. `header` has its final offsets.
    pub(crate) fn record(&mut self, header: &BatchHeader, max_producers: usize) {
        if !header.is_idempotent() {
            return;
        }
        let id = header.producer_id;
        if !self.producers.contains_key(&id) && self.producers.len() >= max_producers {
            self.forget_longest_silent();
        }
        let state = self.producers.entry(id).or_insert_with(|| ProducerState {
            epoch: header.producer_epoch,
            last_timestamp: header.max_timestamp,
            batches: VecDeque::new(),
        });
        if state.epoch != header.producer_epoch {
            state.epoch = header.producer_epoch;
            state.batches.clear();
        }
        state.last_timestamp = header.max_timestamp;
        if state.batches.len() == REMEMBERED_BATCHES {
            state.batches.pop_front();
        }
        state.batches.push_back(AppendedBatch {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        });
    }

    /// Whose last batch lies furthest back in the log; not by the times in batches: one who writes old records is not idle.
    fn forget_longest_silent(&mut self) {
        let last = |state: &ProducerState| state.batches.back().map(|batch| batch.last_offset);
        let silent = self.producers.iter().min_by_key(|(_, state)| last(state)).map(|(id, _)| *id);
        if let Some(silent) = silent {
            self.producers.remove(&silent);
        }
    }

    /// Forgets batches at or after `end`.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) {
        for state in self.producers.values_mut() {
            state.batches.retain(|batch| batch.last_offset < end);
        }
        self.producers.retain(|_, state| !state.batches.is_empty());
    }

    /// Forgets producers that have been idle since before `oldest`.
    pub(crate) fn expire(&mut self, oldest: Timestamp) {
        self.producers.retain(|_, state| state.last_timestamp >= oldest);
    }
}

#[cfg(test)]
mod tests {
    use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp, stamp};
    use highwater_model::compression::Compression;
    use highwater_model::{LeaderEpoch, NO_PARTITION_LEADER_EPOCH};

    use super::*;

    fn batch(epoch: i16, sequence: i32, count: usize, offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..count {
            builder.push(&NewRecord { timestamp: Timestamp(5), ..NewRecord::default() });
        }
        let producer = ProducerStamp {
            producer_id: ProducerId(8),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
        };
        let mut bytes = builder.build(producer).expect("a batch").to_vec();
        let epoch: LeaderEpoch = NO_PARTITION_LEADER_EPOCH;
        stamp(&mut bytes, Offset(offset), epoch);
        BatchHeader::parse(&bytes).expect("a batch")
    }

    fn table(batches: &[(i16, i32, usize, i64)]) -> ProducerTable {
        let mut table = ProducerTable::default();
        for &(epoch, sequence, count, offset) in batches {
            table.record(&batch(epoch, sequence, count, offset), 10);
        }
        table
    }

    #[test]
    fn each_of_the_last_five_batches_is_known_as_a_duplicate() {
        let table =
            table(&[(0, 0, 1, 0), (0, 1, 2, 1), (0, 3, 1, 3), (0, 4, 1, 4), (0, 5, 1, 5), (0, 6, 1, 6)]);
        let standing = table.check(&batch(0, 1, 2, 0)).expect("a retry");
        let Standing::Duplicate(original) = standing else { panic!("{standing:?}") };
        assert_eq!((original.base_offset(), original.last_offset), (Offset(1), Offset(2)));
        assert!(
            matches!(table.check(&batch(0, 0, 1, 0)), Err(AppendError::OutOfOrderSequence { .. })),
            "forgotten"
        );
        assert_eq!(table.check(&batch(0, 7, 1, 0)).ok(), Some(Standing::New));
    }

    #[test]
    fn gap_in_the_sequence_is_refused() {
        let table = table(&[(0, 0, 3, 0)]);
        let error = table.check(&batch(0, 4, 1, 0)).expect_err("a gap");
        assert!(matches!(error, AppendError::OutOfOrderSequence { expected: Sequence(3), .. }), "{error}");
    }

    #[test]
    fn new_epoch_starts_at_zero_and_fences_the_old_one() {
        let mut table = table(&[(0, 0, 3, 0)]);
        assert!(table.check(&batch(1, 5, 1, 0)).is_err());
        assert_eq!(table.check(&batch(1, 0, 1, 3)).ok(), Some(Standing::New));
        table.record(&batch(1, 0, 1, 3), 10);
        let error = table.check(&batch(0, 3, 1, 0)).expect_err("an old epoch");
        assert!(matches!(error, AppendError::InvalidProducerEpoch { .. }), "{error}");
    }

    #[test]
    fn sequence_wraps() {
        let table = table(&[(0, i32::MAX, 1, 0)]);
        assert_eq!(table.check(&batch(0, 0, 1, 0)).ok(), Some(Standing::New));
        let Ok(Standing::Duplicate(_)) = table.check(&batch(0, i32::MAX, 1, 0)) else { panic!("a retry") };
    }

    #[test]
    fn truncated_batches_are_not_duplicates() {
        let mut table = table(&[(0, 0, 1, 0), (0, 1, 1, 1)]);
        table.truncate_from_end(Offset(1));
        assert_eq!(table.check(&batch(0, 1, 1, 0)).ok(), Some(Standing::New));
    }

    #[test]
    fn longest_silent_producer_is_forgotten_at_the_bound_whatever_its_times() {
        for times in [[1, 2, 3], [3, 2, 1]] {
            let mut table = ProducerTable::default();
            for (producer, time) in (0..).zip(times) {
                let mut header = batch(0, 0, 1, producer);
                header.producer_id = ProducerId(producer);
                header.max_timestamp = Timestamp(time);
                table.record(&header, 2);
            }
            let mut known: Vec<_> = table.iter().map(|(id, _)| id.0).collect();
            known.sort_unstable();
            assert_eq!(known, [1, 2], "{times:?}");
        }
    }
}

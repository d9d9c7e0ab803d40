//! What was attempted, and what the producer was told.
//!
//! One [`ProducerLedger`] for each producer, filled by its own thread without locks, gathered into a
//! [`Ledger`] when the run has ended. A record is (producer, partition, sequence); sequences are dense,
//! so a record's place in its lane's vectors is its sequence:
//!
//! ```text
//! lane (producer, partition)   sequence →   0     1     2     3     4    …
//!   state    u8   outcome, times found      ack   ack   ack   info  pend
//!   sent_at  u64  intended send time, ns    …
//!   sizes         one number while all values are equally long, else u32 each
//!   acks          [0..3) at offset 17, acknowledged at t      32 bytes for each acknowledged run
//!   errors        [3..4) code 7
//!   keys          none, or one for each, where the log is compacted
//! ```
//!
//! The outcomes of a record and how they may change:
//!
//! ```text
//!            ┌→ Ack ─┐ (a second ack of the same record is kept: a late first attempt)
//! Pending ───┼→ Info → Ack                (a late answer settles what was unknown)
//!            ├→ Fail     Info → Fail stays Info: an earlier attempt may have been appended
//!            ├→ Sent     (acks=0)
//!            └→ NeverSent (its producer died with the record in its buffer)
//! ```
//!
//! A record that is still pending when the run ends is Info.

use crate::codes::ErrorClass;
use crate::identity::Identity;
use crate::units::{Layout, Nanos, Offset, PartitionIndex, ProducerId, RunId};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use thiserror::Error;

/// The harness contradicted itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// An outcome for a record that was never attempted.
    #[error(
        "producer {producer}, partition {partition}: outcome for sequences {first}..{end}, attempted {attempted}"
    )]
    NeverAttempted {
        /// The producer.
        producer: u32,
        /// The dense index of the partition.
        partition: usize,
        /// First sequence.
        first: u64,
        /// End, exclusive.
        end: u64,
        /// How many were attempted.
        attempted: u64,
    },
    /// A second outcome that cannot be true beside the first.
    #[error("producer {producer}, partition {partition}, sequence {sequence}: {now} after {before}")]
    Contradiction {
        /// The producer.
        producer: u32,
        /// The dense index of the partition.
        partition: usize,
        /// The record.
        sequence: u64,
        /// What was booked.
        before: &'static str,
        /// What came then.
        now: &'static str,
    },
    /// Ledgers of different runs or layouts, or producers not numbered densely from 0.
    #[error("the ledger at place {place} is of producer {producer}, or of another run or layout")]
    Mismatch {
        /// Where it was found.
        place: usize,
        /// Whose it is.
        producer: u32,
    },
}

/// A run of records of one producer and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// The first.
    pub first: u64,
    /// How many, at least 1.
    pub count: u32,
}

impl Sequences {
    /// One record.
    #[must_use]
    pub const fn one(sequence: u64) -> Self {
        Self { first: sequence, count: 1 }
    }

    const fn end(self) -> u64 {
        self.first.saturating_add(self.count as u64)
    }
}

/// The outcome of a record, as the low three bits of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    Pending = 0,
    Ack = 1,
    /// Every ack of it came between a power cut and the silence after it.
    AckAfterCut = 2,
    Fail = 3,
    Info = 4,
    Sent = 5,
    NeverSent = 6,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ack => "acknowledged",
            Self::AckAfterCut => "acknowledged after the cut",
            Self::Fail => "failed",
            Self::Info => "unknown",
            Self::Sent => "sent",
            Self::NeverSent => "never sent",
        }
    }

    /// What is booked when `next` arrives, if both can be true.
    fn then(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Pending, _) | (Self::Info, Self::Ack) => Some(next),
            (Self::Info, Self::Info | Self::Fail) => Some(Self::Info),
            (before, next) if before == next => Some(before),
            _ => None,
        }
    }
}

/// One record's byte: its outcome, how often the final read found it (0, 1, 2 for more), and marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State(u8);

impl State {
    const OUTCOME: u8 = 0b0000_0111;
    const FOUND_ONE: u8 = 0b0000_1000;
    const FOUND: u8 = 0b0001_1000;
    const FOUND_MORE: u8 = 0b0001_0000;
    /// The application was told of a failure and went on without the record.
    pub(crate) const ABANDONED: u8 = 0b0010_0000;
    /// Already booked as lost.
    pub(crate) const LOST: u8 = 0b0100_0000;
    /// Already booked as read and then lost.
    pub(crate) const READ_THEN_LOST: u8 = 0b1000_0000;

    pub(crate) fn outcome(self) -> Outcome {
        match self.0 & Self::OUTCOME {
            0 => Outcome::Pending,
            1 => Outcome::Ack,
            2 => Outcome::AckAfterCut,
            3 => Outcome::Fail,
            4 => Outcome::Info,
            5 => Outcome::Sent,
            _ => Outcome::NeverSent,
        }
    }

    pub(crate) fn set_outcome(&mut self, outcome: Outcome) {
        self.0 = (self.0 & !Self::OUTCOME) | outcome as u8;
    }

    /// 0, 1, or 2 for any more.
    pub(crate) const fn found(self) -> u8 {
        (self.0 & Self::FOUND) >> 3
    }

    pub(crate) fn find(&mut self) {
        if self.0 & Self::FOUND_MORE == 0 {
            self.0 += Self::FOUND_ONE;
        }
    }

    /// Sets a mark; whether it was not set before.
    pub(crate) fn mark(&mut self, mark: u8) -> bool {
        let first = self.0 & mark == 0;
        self.0 |= mark;
        first
    }

    pub(crate) const fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }
}

/// Records acknowledged together, at consecutive offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckRun {
    pub(crate) first_sequence: u64,
    pub(crate) base_offset: i64,
    pub(crate) acked_at: Nanos,
    pub(crate) count: u32,
}

impl AckRun {
    fn new(Sequences { first, count }: Sequences, base_offset: Offset, acked_at: Nanos) -> Self {
        AckRun { first_sequence: first, base_offset: base_offset.0, acked_at, count }
    }
}

#[derive(Clone, Copy, Debug)]
struct ErrorRun {
    records: Sequences,
    code: i16,
}

#[derive(Clone, Debug)]
enum Sizes {
    Uniform(u32),
    Each(Vec<u32>),
}

/// The key of a record in a log that is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Which of the partition's keys.
    pub number: u32,
    /// Whether the record has no value, and so says that the key has none.
    pub is_tombstone: bool,
}

/// The records of one producer in one partition.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) states: Vec<State>,
    pub(crate) sent_at: Vec<Nanos>,
    pub(crate) acks: Vec<AckRun>,
    /// Acks of records that were deleted by request since. Nobody holds them against the log.
    pub(crate) deleted: Vec<AckRun>,
    sizes: Sizes,
    errors: Vec<ErrorRun>,
    /// As long as up to the last record with a key.
    keys: Vec<Option<Key>>,
}

impl Lane {
    const fn new() -> Self {
        Self {
            states: Vec::new(),
            sent_at: Vec::new(),
            acks: Vec::new(),
            deleted: Vec::new(),
            sizes: Sizes::Uniform(0),
            errors: Vec::new(),
            keys: Vec::new(),
        }
    }

    pub(crate) fn key(&self, sequence: u64) -> Option<Key> {
        self.keys.get(sequence as usize).copied().flatten()
    }

    /// The records that have a key, by sequence.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (u64, Key)> {
        (0..).zip(&self.keys).filter_map(|(sequence, key)| Some((sequence, (*key)?)))
    }

    /// Every offset at which a record was acknowledged, with the instant, whether it was deleted since or not.
    pub(crate) fn acks_of(&self, sequence: u64) -> impl Iterator<Item = (i64, Nanos)> {
        let holds = move |ack: &&AckRun| {
            (ack.first_sequence..ack.first_sequence + u64::from(ack.count)).contains(&sequence)
        };
        let place = move |ack: &AckRun| {
            (ack.base_offset.saturating_add_unsigned(sequence - ack.first_sequence), ack.acked_at)
        };
        self.acks.iter().chain(&self.deleted).filter(holds).map(place)
    }

    pub(crate) fn len(&self) -> u64 {
        self.states.len() as u64
    }

    pub(crate) fn size(&self, sequence: u64) -> u32 {
        match &self.sizes {
            Sizes::Uniform(size) => *size,
            Sizes::Each(sizes) => sizes[sequence as usize],
        }
    }

    /// The error code that a record's producer was given, if any.
    pub(crate) fn error_code(&self, sequence: u64) -> Option<i16> {
        let mut runs = self.errors.iter().rev();
        runs.find(|run| (run.records.first..run.records.end()).contains(&sequence)).map(|run| run.code)
    }

    fn push(&mut self, sent_at: Nanos, size: u32) {
        match &mut self.sizes {
            Sizes::Uniform(uniform) if self.states.is_empty() => *uniform = size,
            Sizes::Uniform(uniform) if *uniform == size => {}
            Sizes::Uniform(uniform) => {
                let mut each = vec![*uniform; self.states.len()];
                each.push(size);
                self.sizes = Sizes::Each(each);
            }
            Sizes::Each(sizes) => sizes.push(size),
        }
        self.states.push(State::default());
        self.sent_at.push(sent_at);
    }

    fn push_ack(&mut self, ack: AckRun) {
        if let Some(last) = self.acks.last_mut() {
            let length = i64::from(last.count);
            let continues = last.acked_at == ack.acked_at
                && last.first_sequence + u64::from(last.count) == ack.first_sequence
                && last.base_offset.checked_add(length) == Some(ack.base_offset);
            if let (true, Some(count)) = (continues, last.count.checked_add(ack.count)) {
                last.count = count;
                return;
            }
        }
        self.acks.push(ack);
    }
}

/// The ledger of one producer, owned by the thread that drives it.
#[derive(Clone, Debug)]
pub struct ProducerLedger {
    run: RunId,
    producer: ProducerId,
    layout: Layout,
    lanes: Vec<Lane>,
}

impl ProducerLedger {
    /// An empty ledger.
    #[must_use]
    pub fn new(run: RunId, producer: ProducerId, layout: &Layout) -> Self {
        let lanes = layout.partitions().map(|_| Lane::new()).collect();
        Self { run, producer, layout: layout.clone(), lanes }
    }

    /// Books an attempt, and gives the identity to encode into the record's value. `sent_at` is the
    /// intended send time.
    pub fn attempt(&mut self, partition: PartitionIndex, sent_at: Nanos, value_len: u32) -> Identity {
        let lane = &mut self.lanes[partition.get()];
        let sequence = lane.len();
        lane.push(sent_at, value_len);
        let partition = self.layout.id(partition);
        Identity { run: self.run, producer: self.producer, partition, sequence, sent_at, value_len }
    }

    /// As [`attempt`](Self::attempt), of a record in a log that is compacted: others of its key supersede it, and it them.
    pub fn attempt_keyed(
        &mut self,
        partition: PartitionIndex,
        sent_at: Nanos,
        value_len: u32,
        key: Key,
    ) -> Identity {
        let identity = self.attempt(partition, sent_at, value_len);
        let keys = &mut self.lanes[partition.get()].keys;
        keys.resize(identity.sequence as usize, None);
        keys.push(Some(key));
        identity
    }

    /// Books an acknowledgement: `records` were given consecutive offsets from `base_offset`.
    ///
    /// # Errors
    /// [`LedgerError`] if they were not attempted, or their failure was certain.
    pub fn ack(
        &mut self,
        partition: PartitionIndex,
        records: Sequences,
        base_offset: Offset,
        acked_at: Nanos,
    ) -> Result<(), LedgerError> {
        self.settle(partition, records, Outcome::Ack)?;
        self.lanes[partition.get()].push_ack(AckRun::new(records, base_offset, acked_at));
        Ok(())
    }

    /// Where each partition's log ends at least, by what was acknowledged so far.
    pub fn acked_ends(&self) -> impl Iterator<Item = (PartitionIndex, Offset)> {
        let ends = self.lanes.iter().map(|lane| {
            lane.acks.iter().map(|ack| ack.base_offset.saturating_add(i64::from(ack.count))).max()
        });
        self.layout.partitions().zip(ends).filter_map(|(partition, end)| Some((partition, Offset(end?))))
    }

    /// Books an acknowledgement of records that were deleted by request since: whether they are there says nothing, so that
    /// their outcome is unknown. Where they were is known nevertheless: a tombstone among them covers nothing behind it.
    ///
    /// # Errors
    /// [`LedgerError`] if they were not attempted, or were acknowledged and not deleted.
    pub fn deleted(
        &mut self,
        partition: PartitionIndex,
        records: Sequences,
        base_offset: Offset,
        acked_at: Nanos,
    ) -> Result<(), LedgerError> {
        self.settle(partition, records, Outcome::Info)?;
        self.lanes[partition.get()].deleted.push(AckRun::new(records, base_offset, acked_at));
        Ok(())
    }

    /// Books an error of the class that [`crate::codes`] gives it, over all attempts. `code` is
    /// Kafka's, or `None` for a time-out or a lost connection.
    ///
    /// # Errors
    /// [`LedgerError`] if they were not attempted, or were acknowledged.
    pub fn error(
        &mut self,
        partition: PartitionIndex,
        records: Sequences,
        class: ErrorClass,
        code: Option<i16>,
    ) -> Result<(), LedgerError> {
        let outcome = match class {
            ErrorClass::Fail => Outcome::Fail,
            ErrorClass::Info => Outcome::Info,
        };
        self.settle(partition, records, outcome)?;
        if let Some(code) = code {
            self.lanes[partition.get()].errors.push(ErrorRun { records, code });
        }
        Ok(())
    }

    /// Books records handed to the socket with acks=0.
    ///
    /// # Errors
    /// [`LedgerError`] if they were not attempted, or have another outcome.
    pub fn sent(&mut self, partition: PartitionIndex, records: Sequences) -> Result<(), LedgerError> {
        self.settle(partition, records, Outcome::Sent)
    }

    /// Books records that never left the producer's buffer.
    ///
    /// # Errors
    /// [`LedgerError`] if they were not attempted, or have another outcome.
    pub fn never_sent(&mut self, partition: PartitionIndex, records: Sequences) -> Result<(), LedgerError> {
        self.settle(partition, records, Outcome::NeverSent)
    }

    /// Books that the application was told of a failure and went on: *application-lost* if the
    /// record is not in the log.
    ///
    /// # Errors
    /// [`LedgerError`] if they were not attempted.
    pub fn abandoned(&mut self, partition: PartitionIndex, records: Sequences) -> Result<(), LedgerError> {
        let range = self.range(partition, records)?;
        for state in &mut self.lanes[partition.get()].states[range] {
            state.mark(State::ABANDONED);
        }
        Ok(())
    }

    /// How many records were attempted in a partition.
    #[must_use]
    pub fn attempts(&self, partition: PartitionIndex) -> u64 {
        self.lanes[partition.get()].len()
    }

    fn settle(
        &mut self,
        partition: PartitionIndex,
        records: Sequences,
        next: Outcome,
    ) -> Result<(), LedgerError> {
        let range = self.range(partition, records)?;
        for (state, sequence) in self.lanes[partition.get()].states[range].iter_mut().zip(records.first..) {
            let before = state.outcome();
            let Some(settled) = before.then(next) else {
                return Err(LedgerError::Contradiction {
                    producer: self.producer.0,
                    partition: partition.get(),
                    sequence,
                    before: before.name(),
                    now: next.name(),
                });
            };
            state.set_outcome(settled);
        }
        Ok(())
    }

    fn range(&self, partition: PartitionIndex, records: Sequences) -> Result<Range<usize>, LedgerError> {
        let attempted = self.attempts(partition);
        if records.count > 0 && records.end() <= attempted {
            return Ok(records.first as usize..records.end() as usize);
        }
        Err(LedgerError::NeverAttempted {
            producer: self.producer.0,
            partition: partition.get(),
            first: records.first,
            end: records.end(),
            attempted,
        })
    }
}

/// The ledgers of all producers of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) run: RunId,
    pub(crate) layout: Layout,
    /// By producer, then by partition.
    pub(crate) lanes: Vec<Vec<Lane>>,
}

impl Ledger {
    /// Gathers the ledgers of producers 0, 1, 2 … in any order.
    ///
    /// # Errors
    /// [`LedgerError::Mismatch`] if they are not of one run and one layout, or not numbered so.
    pub fn gather(
        run: RunId,
        layout: &Layout,
        mut producers: Vec<ProducerLedger>,
    ) -> Result<Self, LedgerError> {
        producers.sort_by_key(|ledger| ledger.producer);
        let mut lanes = Vec::with_capacity(producers.len());
        for (place, ledger) in producers.into_iter().enumerate() {
            if ledger.run != run || ledger.layout != *layout || ledger.producer.0 as usize != place {
                return Err(LedgerError::Mismatch { place, producer: ledger.producer.0 });
            }
            lanes.push(ledger.lanes);
        }
        Ok(Self { run, layout: layout.clone(), lanes })
    }

    /// How many records were attempted in all.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.lanes.iter().flatten().map(Lane::len).sum()
    }

    pub(crate) fn lane(&self, producer: u32, partition: PartitionIndex) -> Option<&Lane> {
        self.lanes.get(producer as usize).map(|lanes| &lanes[partition.get()])
    }

    pub(crate) fn lane_mut(&mut self, producer: u32, partition: PartitionIndex) -> Option<&mut Lane> {
        self.lanes.get_mut(producer as usize).map(|lanes| &mut lanes[partition.get()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (ProducerLedger, PartitionIndex) {
        let layout = Layout::new(&[1]);
        let partition = layout.partitions().next().unwrap();
        (ProducerLedger::new(RunId(1), ProducerId(0), &layout), partition)
    }

    fn attempt(ledger: &mut ProducerLedger, partition: PartitionIndex, count: u64) {
        for sequence in 0..count {
            assert_eq!(ledger.attempt(partition, Nanos(0), 64).sequence, sequence);
        }
    }

    #[test]
    fn attempt_sequences_are_dense_and_sizes_are_kept() {
        let (mut ledger, partition) = ledger();
        for (sequence, size) in [100, 100, 300, 100].into_iter().enumerate() {
            let identity = ledger.attempt(partition, Nanos(sequence as u64), size);
            assert_eq!(identity.sequence, sequence as u64);
        }
        let sizes: Vec<u32> = (0..4).map(|sequence| ledger.lanes[0].size(sequence)).collect();
        assert_eq!(sizes, [100, 100, 300, 100]);
    }

    #[test]
    fn ack_of_adjacent_records_is_one_run() {
        let (mut ledger, partition) = ledger();
        attempt(&mut ledger, partition, 4);
        ledger.ack(partition, Sequences::one(0), Offset(10), Nanos(5)).unwrap();
        ledger.ack(partition, Sequences { first: 1, count: 2 }, Offset(11), Nanos(5)).unwrap();
        ledger.ack(partition, Sequences::one(3), Offset(13), Nanos(6)).unwrap();
        let counts: Vec<u32> = ledger.lanes[0].acks.iter().map(|run| run.count).collect();
        assert_eq!(counts, [3, 1]);
    }

    #[test]
    fn outcome_unknown_then_ack_is_ack_and_then_fail_stays_unknown() {
        let (mut ledger, partition) = ledger();
        attempt(&mut ledger, partition, 2);
        let both = Sequences { first: 0, count: 2 };
        ledger.error(partition, both, ErrorClass::Info, Some(7)).unwrap();
        ledger.ack(partition, Sequences::one(0), Offset(0), Nanos(1)).unwrap();
        ledger.error(partition, Sequences::one(1), ErrorClass::Fail, Some(10)).unwrap();
        assert_eq!(ledger.lanes[0].states[0].outcome(), Outcome::Ack);
        assert_eq!(ledger.lanes[0].states[1].outcome(), Outcome::Info);
        assert_eq!(ledger.lanes[0].error_code(1), Some(10), "the latest code is told");
    }

    #[test]
    fn outcome_that_contradicts_is_an_error() {
        let (mut ledger, partition) = ledger();
        ledger.attempt(partition, Nanos(0), 64);
        ledger.error(partition, Sequences::one(0), ErrorClass::Fail, Some(10)).unwrap();
        let late = ledger.ack(partition, Sequences::one(0), Offset(0), Nanos(1));
        assert!(matches!(late, Err(LedgerError::Contradiction { sequence: 0, .. })));
        let stranger = ledger.ack(partition, Sequences::one(1), Offset(0), Nanos(1));
        assert!(matches!(stranger, Err(LedgerError::NeverAttempted { attempted: 1, .. })));
        let wrap = Sequences { first: u64::MAX, count: 1 };
        assert!(ledger.sent(partition, wrap).is_err());
    }

    #[test]
    fn gather_refuses_gaps_in_producers() {
        let layout = Layout::new(&[1]);
        let of = |producer| ProducerLedger::new(RunId(1), ProducerId(producer), &layout);
        assert!(Ledger::gather(RunId(1), &layout, vec![of(1), of(0)]).is_ok());
        assert!(Ledger::gather(RunId(1), &layout, vec![of(0), of(2)]).is_err());
        assert!(Ledger::gather(RunId(2), &layout, vec![of(0)]).is_err());
    }

    #[test]
    fn state_found_saturates_and_keeps_its_neighbours() {
        let mut state = State::default();
        state.set_outcome(Outcome::NeverSent);
        state.mark(State::ABANDONED);
        let counts: Vec<u8> = (0..4)
            .map(|_| {
                state.find();
                state.found()
            })
            .collect();
        assert_eq!(counts, [1, 2, 2, 2]);
        assert_eq!(state.outcome(), Outcome::NeverSent);
        assert!(state.has(State::ABANDONED) && !state.has(State::LOST));
    }
}

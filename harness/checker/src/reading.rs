//! What consumers saw: the final reads after healing, and the polls during the run.
//!
//! Both are kept as runs of consecutive offsets that hold consecutive records of one producer, which
//! is how batches lie in a log: 24 bytes a batch, whatever the offsets are.

use crate::identity::{DecodeError, Identity};
use crate::units::{Layout, Nanos, Offset, PartitionIndex, RunId};
use serde::{Deserialize, Serialize};

/// How many foreign or corrupt values of a partition are remembered one by one; all are counted.
const STRANGERS_KEPT: usize = 16;

/// `isolation.level` of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Everything below the high watermark.
    ReadUncommitted,
    /// Below the last stable offset, without aborted transactions.
    ReadCommitted,
}

/// Who made a final read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Under which isolation.
    pub isolation: Isolation,
    /// The replica that was forced to lead for this read, if any.
    pub forced_leader: Option<i32>,
}

impl Reader {
    /// The plain final read.
    pub const FINAL: Self = Self { isolation: Isolation::ReadUncommitted, forced_leader: None };
}

/// Consecutive offsets with consecutive records of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: i64,
    pub(crate) first_sequence: u64,
    pub(crate) producer: u32,
    pub(crate) count: u32,
}

impl Run {
    const fn of(offset: i64, identity: &Identity) -> Self {
        Self { offset, first_sequence: identity.sequence, producer: identity.producer.0, count: 1 }
    }

    /// End, exclusive. Saturates, since a broker may make up any offset.
    pub(crate) const fn end(&self) -> i64 {
        self.offset.saturating_add(self.count as i64)
    }

    pub(crate) const fn sequence_at(&self, offset: i64) -> u64 {
        self.first_sequence + (offset - self.offset) as u64
    }

    /// Takes the next record into the run, if it is the next.
    fn extend(&mut self, offset: i64, identity: &Identity) -> bool {
        let continues = self.end() == offset
            && self.producer == identity.producer.0
            && self.first_sequence.checked_add(u64::from(self.count)) == Some(identity.sequence)
            && self.count < u32::MAX;
        self.count += u32::from(continues);
        continues
    }
}

/// A value that is no record of this run in this partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) offset: i64,
    pub(crate) what: StrangerKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrangerKind {
    Undecoded(DecodeError),
    /// Intact, but sent to another partition.
    Misplaced(Identity),
}

impl StrangerKind {
    pub(crate) const fn is_corrupt(self) -> bool {
        matches!(self, Self::Undecoded(error) if error.is_corrupt())
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Strangers {
    /// The first few.
    pub(crate) kept: Vec<Stranger>,
    /// All of them: offset, and whether it is corrupt.
    pub(crate) all: Vec<(i64, bool)>,
}

impl Strangers {
    fn push(&mut self, stranger: Stranger) {
        self.all.push((stranger.offset, stranger.what.is_corrupt()));
        if self.kept.len() < STRANGERS_KEPT {
            self.kept.push(stranger);
        }
    }
}

/// Sorts a value into records of this partition and strangers.
fn admit(
    layout: &Layout,
    partition: PartitionIndex,
    value: Result<Identity, DecodeError>,
) -> Result<Identity, StrangerKind> {
    let identity = value.map_err(StrangerKind::Undecoded)?;
    if layout.index(identity.partition) == Some(partition) {
        Ok(identity)
    } else {
        Err(StrangerKind::Misplaced(identity))
    }
}

/// Offsets that a broker does not give to anybody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) from: i64,
    /// Exclusive.
    pub(crate) to: i64,
    pub(crate) why: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionReading {
    /// Log start and log end, once they were stated.
    pub(crate) bounds: Option<(i64, i64)>,
    pub(crate) runs: Vec<Run>,
    pub(crate) strangers: Strangers,
    /// Pairs of offsets (before, after) that did not rise.
    pub(crate) backwards: Vec<(i64, i64)>,
    /// What the broker refused.
    pub(crate) unreadable: Vec<Unreadable>,
    last_offset: Option<i64>,
}

impl PartitionReading {
    /// Whether it was looked at from end to end: a refusal is an answer.
    pub(crate) fn is_read(&self) -> bool {
        self.bounds.is_some() || !self.unreadable.is_empty()
    }

    /// Why an offset could not be read, if so.
    pub(crate) fn refusal(&self, offset: i64) -> Option<&str> {
        let holds = |range: &&Unreadable| (range.from..range.to).contains(&offset);
        self.unreadable.iter().find(holds).map(|range| range.why.as_str())
    }
}

/// One final read: a fresh consumer over every partition from log start to log end.
#[derive(Clone, Debug)]
pub struct Reading {
    pub(crate) reader: Reader,
    pub(crate) partitions: Vec<PartitionReading>,
    pub(crate) run: RunId,
    pub(crate) layout: Layout,
    /// Why nobody answered at all, or no longer, if so.
    pub(crate) unserved: Option<String>,
}

impl Reading {
    /// An empty reading.
    #[must_use]
    pub fn new(reader: Reader, run: RunId, layout: &Layout) -> Self {
        let partitions = layout.partitions().map(|_| PartitionReading::default()).collect();
        Self { reader, partitions, run, layout: layout.clone(), unserved: None }
    }

    /// The reading of a broker that does not serve: nothing was found, since nobody answered.
    #[must_use]
    pub fn unserved(reader: Reader, run: RunId, layout: &Layout, why: &str) -> Self {
        let mut reading = Self { unserved: Some(why.to_owned()), ..Self::new(reader, run, layout) };
        layout.partitions().for_each(|partition| reading.refused(partition, why.to_owned()));
        reading
    }

    /// The broker ended before everything was read. What it had not given by then is booked apart.
    pub fn broke_off(&mut self, why: &str) {
        self.unserved = Some(why.to_owned());
    }

    /// A range (its end exclusive) that the broker claims to hold and refused to give, for good.
    pub fn unreadable(&mut self, partition: PartitionIndex, from: Offset, to: Offset, why: String) {
        self.partitions[partition.get()].unreadable.push(Unreadable { from: from.0, to: to.0, why });
    }

    /// A partition of which the broker does not even say where its log begins and ends.
    pub fn refused(&mut self, partition: PartitionIndex, why: String) {
        self.unreadable(partition, Offset(i64::MIN), Offset(i64::MAX), why);
    }

    /// States the log start and the log end (exclusive) between which the partition was read
    /// completely, save what [`Self::unreadable`] says. A partition of which neither is stated counts as not read.
    pub fn bounds(&mut self, partition: PartitionIndex, log_start: Offset, log_end: Offset) {
        self.partitions[partition.get()].bounds = Some((log_start.0, log_end.0));
    }

    /// Takes a record's value.
    pub fn value(&mut self, partition: PartitionIndex, offset: Offset, value: &[u8]) {
        self.record(partition, offset, Identity::decode(value, self.run));
    }

    /// Takes a record whose value was decoded elsewhere.
    pub fn record(
        &mut self,
        partition: PartitionIndex,
        offset: Offset,
        value: Result<Identity, DecodeError>,
    ) {
        let read = &mut self.partitions[partition.get()];
        if let Some(last) = read.last_offset.filter(|last| *last >= offset.0) {
            read.backwards.push((last, offset.0));
        }
        read.last_offset = Some(offset.0);
        match admit(&self.layout, partition, value) {
            Ok(identity) => {
                if !read.runs.last_mut().is_some_and(|run| run.extend(offset.0, &identity)) {
                    read.runs.push(Run::of(offset.0, &identity));
                }
            }
            Err(what) => read.strangers.push(Stranger { offset: offset.0, what }),
        }
    }

    /// How many records of this run it holds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.partitions.iter().flat_map(|read| &read.runs).map(|run| u64::from(run.count)).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollRun {
    pub(crate) run: Run,
    pub(crate) polled_at: Nanos,
    /// Whether this follows the run before it in one assignment, so that nothing may lie between.
    pub(crate) continues: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionPolls {
    pub(crate) runs: Vec<PollRun>,
    pub(crate) strangers: Strangers,
    /// Pairs of offsets (before, after) that did not rise within one assignment.
    pub(crate) backwards: Vec<(i64, i64)>,
    last_offset: Option<i64>,
}

/// What one consumer polled during the run.
#[derive(Clone, Debug)]
pub struct Polls {
    pub(crate) consumer: u32,
    pub(crate) isolation: Isolation,
    pub(crate) partitions: Vec<PartitionPolls>,
    pub(crate) run: RunId,
    pub(crate) layout: Layout,
}

impl Polls {
    /// A consumer that has seen nothing yet.
    #[must_use]
    pub fn new(consumer: u32, isolation: Isolation, run: RunId, layout: &Layout) -> Self {
        let partitions = layout.partitions().map(|_| PartitionPolls::default()).collect();
        Self { consumer, isolation, partitions, run, layout: layout.clone() }
    }

    /// How many records of this run it saw, those counted twice that it saw twice.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.partitions.iter().flat_map(|polls| &polls.runs).map(|poll| u64::from(poll.run.count)).sum()
    }

    /// The partition was assigned anew, or its position was set: continuity begins again.
    pub fn restarted(&mut self, partition: PartitionIndex) {
        self.partitions[partition.get()].last_offset = None;
    }

    /// Takes a record's value, returned by a poll that ended at `polled_at`.
    pub fn value(&mut self, partition: PartitionIndex, offset: Offset, value: &[u8], polled_at: Nanos) {
        self.record(partition, offset, Identity::decode(value, self.run), polled_at);
    }

    /// Takes a record whose value was decoded elsewhere.
    pub fn record(
        &mut self,
        partition: PartitionIndex,
        offset: Offset,
        value: Result<Identity, DecodeError>,
        polled_at: Nanos,
    ) {
        let polls = &mut self.partitions[partition.get()];
        let before = polls.last_offset.replace(offset.0);
        if let Some(before) = before.filter(|before| *before >= offset.0) {
            polls.backwards.push((before, offset.0));
        }
        let identity = match admit(&self.layout, partition, value) {
            Ok(identity) => identity,
            Err(what) => return polls.strangers.push(Stranger { offset: offset.0, what }),
        };
        let continues = before.is_some();
        let last = polls.runs.last_mut().filter(|last| continues && last.polled_at == polled_at);
        if !last.is_some_and(|last| last.run.extend(offset.0, &identity)) {
            polls.runs.push(PollRun { run: Run::of(offset.0, &identity), polled_at, continues });
        }
    }
}

/// Something that a broker reported about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Where.
    pub partition: PartitionIndex,
    /// When the question was sent. An answer is only held against answers that had arrived by then.
    pub asked_at: Nanos,
    /// When the answer arrived.
    pub at: Nanos,
    /// What.
    pub observed: Observed,
    /// The offset.
    pub offset: Offset,
}

/// What an [`Observation`] is of. All but [`Observed::Durable`] must not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Observed {
    /// The log end as consumers see it (the high watermark).
    LogEnd,
    /// The committed offset of a group, by its number in the workload.
    Committed {
        /// The group.
        group: u32,
    },
    /// The leader's durable offset: evidence for the forensic lines, never a verdict.
    Durable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{PartitionId, ProducerId};

    const RUN: RunId = RunId(9);

    fn identity(producer: u32, sequence: u64) -> Identity {
        Identity {
            run: RUN,
            producer: ProducerId(producer),
            partition: PartitionId { topic: 0, partition: 0 },
            sequence,
            sent_at: Nanos(0),
            value_len: 48,
        }
    }

    fn partition(layout: &Layout) -> PartitionIndex {
        layout.partitions().next().unwrap()
    }

    #[test]
    fn reading_of_batches_is_one_run_each() {
        let layout = Layout::new(&[1]);
        let at = partition(&layout);
        let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
        for (offset, producer, sequence) in [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 0, 2), (5, 0, 3)] {
            reading.record(at, Offset(offset), Ok(identity(producer, sequence)));
        }
        let counts: Vec<u32> = reading.partitions[0].runs.iter().map(|run| run.count).collect();
        assert_eq!(counts, [2, 1, 1, 1], "a producer change and an offset gap end a run");
        assert_eq!(reading.records(), 5);
    }

    #[test]
    fn reading_of_another_partitions_record_is_a_stranger() {
        let layout = Layout::new(&[2]);
        let other = layout.partitions().nth(1).unwrap();
        let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
        reading.record(other, Offset(0), Ok(identity(0, 0)));
        reading.value(other, Offset(1), b"hello");
        assert_eq!(reading.partitions[1].strangers.all, [(0, false), (1, false)]);
        assert!(reading.partitions[1].runs.is_empty());
    }

    #[test]
    fn polls_backwards_are_kept_within_an_assignment_only() {
        let layout = Layout::new(&[1]);
        let at = partition(&layout);
        let mut polls = Polls::new(0, Isolation::ReadUncommitted, RUN, &layout);
        polls.record(at, Offset(4), Ok(identity(0, 4)), Nanos(1));
        polls.restarted(at);
        polls.record(at, Offset(2), Ok(identity(0, 2)), Nanos(2));
        assert!(polls.partitions[0].backwards.is_empty());
        polls.record(at, Offset(2), Ok(identity(0, 2)), Nanos(3));
        assert_eq!(polls.partitions[0].backwards, [(2, 2)]);
        let continues: Vec<bool> = polls.partitions[0].runs.iter().map(|run| run.continues).collect();
        assert_eq!(continues, [false, false, true]);
    }
}

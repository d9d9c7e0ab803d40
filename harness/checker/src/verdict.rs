//! The result: kept or broken, every violation by name, the cells, and what was lost.

use crate::units::{Nanos, Offset, PartitionId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What can be wrong with a log or with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Anomaly {
    /// The broker did not serve again after what was done to it.
    Unrecovered,
    /// Acknowledged, not found, and nothing above it that is older than the fault was found.
    LostTail,
    /// Acknowledged, not found, although later records of its partition survived.
    LostHole,
    /// A lost tail that is longer than the contract's window.
    LostBeyondWindow,
    /// Acknowledged, and where its offset is the broker answers with an error, or with nothing.
    Unreadable,
    /// A topic whose creation was acknowledged is gone, or a topic is there in part.
    LostTopic,
    /// Retention took more than it may: what is left of a partition is smaller than `retention.bytes`.
    DeletedEarly,
    /// Seen by a consumer during the run, not found at its end.
    ReadThenLost,
    /// Found more than once.
    Duplicate,
    /// The producer was told that it certainly failed, and it was found or polled.
    AbortedRead,
    /// Found or polled, although it never left its producer.
    NeverSentRead,
    /// A value of another run, another partition or another origin.
    Phantom,
    /// A value whose CRC or length differs.
    Corrupt,
    /// Two values at one partition and offset, or one record acknowledged at an offset and found
    /// elsewhere.
    InconsistentOffset,
    /// The offset of a lost record was given to a later one.
    OffsetReused,
    /// Two final reads of one log do not agree.
    ReadingsDiffer,
    /// A consumer's offsets did not rise within one assignment.
    NonMonotonicPoll,
    /// A consumer went past a record that is in the log.
    PollSkip,
    /// Records of one producer in another order than it sent them.
    NonMonotonicSend,
    /// A record sent after another was acknowledged has a lower offset.
    RealTimeOrder,
    /// The log end went back.
    LogEndWentBack,
    /// A group's committed offset went back.
    CommittedOffsetWentBack,
    /// No ack under load for longer than the contract allows.
    UnavailabilityGap,
    /// A broken promise that is not about records: a setting that is gone, a start that calls an unclean stop clean.
    Other,
}

impl Anomaly {
    /// All of them, in order of gravity.
    pub const ALL: [Self; 24] = [
        Self::Unrecovered,
        Self::LostTail,
        Self::LostHole,
        Self::LostBeyondWindow,
        Self::Unreadable,
        Self::LostTopic,
        Self::DeletedEarly,
        Self::ReadThenLost,
        Self::Duplicate,
        Self::AbortedRead,
        Self::NeverSentRead,
        Self::Phantom,
        Self::Corrupt,
        Self::InconsistentOffset,
        Self::OffsetReused,
        Self::ReadingsDiffer,
        Self::NonMonotonicPoll,
        Self::PollSkip,
        Self::NonMonotonicSend,
        Self::RealTimeOrder,
        Self::LogEndWentBack,
        Self::CommittedOffsetWentBack,
        Self::UnavailabilityGap,
        Self::Other,
    ];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unrecovered => "did not come back",
            Self::LostTail => "lost (tail)",
            Self::LostHole => "lost (hole)",
            Self::LostBeyondWindow => "lost beyond the window",
            Self::Unreadable => "unreadable",
            Self::LostTopic => "lost topic",
            Self::DeletedEarly => "deleted early",
            Self::ReadThenLost => "read then lost",
            Self::Duplicate => "duplicate",
            Self::AbortedRead => "aborted read",
            Self::NeverSentRead => "read of a record never sent",
            Self::Phantom => "phantom",
            Self::Corrupt => "corrupt",
            Self::InconsistentOffset => "inconsistent offset",
            Self::OffsetReused => "offset reused",
            Self::ReadingsDiffer => "final reads differ",
            Self::NonMonotonicPoll => "non-monotonic poll",
            Self::PollSkip => "poll skip",
            Self::NonMonotonicSend => "non-monotonic send",
            Self::RealTimeOrder => "real-time order",
            Self::LogEndWentBack => "log end went back",
            Self::CommittedOffsetWentBack => "committed offset went back",
            Self::UnavailabilityGap => "unavailability gap",
            Self::Other => "another broken promise",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// An anomaly that was seen, with a few examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub anomaly: Anomaly,
    /// How often.
    pub count: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

/// Whether the contract was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No violation.
    Kept,
    /// At least one.
    Broken,
}

/// How often records of one outcome were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Not at all.
    pub absent: u64,
    /// Once.
    pub once: u64,
    /// Twice or more.
    pub more: u64,
}

impl Row {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.absent + self.once + self.more
    }
}

/// Outcome at the producer against times found in the final read. They add up to the attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    /// Acknowledged: lost, ok, duplicate.
    pub acknowledged: Row,
    /// Acknowledged between a power cut and the silence after it: booked apart. Where nothing may be lost, those that are
    /// absent are lost like any other, and counted there.
    pub acknowledged_after_cut: Row,
    /// Certainly not appended; found, an aborted read.
    pub failed: Row,
    /// Unknown: both are legal.
    pub unknown: Row,
    /// Sent with acks=0: no promise.
    pub sent: Row,
    /// Never left the producer.
    pub never_sent: Row,
}

impl Cells {
    /// The attempts.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.acknowledged.total()
            + self.acknowledged_after_cut.total()
            + self.failed.total()
            + self.unknown.total()
            + self.sent.total()
            + self.never_sent.total()
    }
}

/// What was lost of what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Records, tail and holes.
    pub records: u64,
    /// Their values' bytes.
    pub bytes: u64,
    /// Acknowledged records in all, those among them that retention ([`Self::expired`]) and compaction
    /// ([`Self::compacted`]) took included.
    pub of_records: u64,
    /// Their bytes in all.
    pub of_bytes: u64,
    /// Lost at the end of their partition.
    pub tail: u64,
    /// Lost with later records surviving.
    pub holes: u64,
    /// Lost although acknowledged while the fault was in effect (a leader that was cut off, say).
    pub during_fault: u64,
    /// Lost although no fault came after the ack.
    pub unexplained: u64,
    /// Partitions with a loss.
    pub partitions: u64,
    /// Acknowledged and not lost: below the log start, taken by the retention that the topic is set to.
    #[serde(default)]
    pub expired: u64,
    /// Acknowledged and not lost: taken by the compaction that the topic is set to, since a later record of the key is
    /// there, or since a tombstone of it was.
    #[serde(default)]
    pub compacted: u64,
    /// Acknowledged, not proven lost, and of no use to anybody: the broker refuses the range that they are in, or does
    /// not serve at all.
    #[serde(default)]
    pub unreadable: u64,
    /// The instant of the fault minus the earliest ack among the lost; where records were lost that
    /// were acknowledged during the fault, the span from the earliest to the latest of them all. What cannot be
    /// read counts as lost here.
    pub window: Option<Nanos>,
    /// With acks=0: sent before the fault, and absent.
    pub sent_absent: u64,
    /// With acks=0: the instant of the fault minus the earliest send among those.
    pub sent_window: Option<Nanos>,
}

impl Losses {
    /// Acknowledged records that could have been lost: those that retention or compaction took before anybody looked are no
    /// proof.
    #[must_use]
    pub const fn at_stake(&self) -> u64 {
        self.of_records.saturating_sub(self.expired + self.compacted)
    }

    /// Lost records over those that could have been; 0 if there were none.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        if self.at_stake() == 0 { 0.0 } else { self.records as f64 / self.at_stake() as f64 }
    }
}

/// The longest time without an ack under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// In which partition.
    pub partition: PartitionId,
    /// Since when an answer was due.
    pub from: Nanos,
    /// Until the next ack, or the end of the load.
    pub to: Nanos,
}

impl Gap {
    /// How long.
    #[must_use]
    pub const fn length(&self) -> Nanos {
        self.to.since(self.from)
    }
}

/// Where in its partition's log a lost record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At the end.
    Tail,
    /// Below records that survived.
    Hole,
}

/// The forensic line of a lost record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecord {
    /// Where it was sent.
    pub partition: PartitionId,
    /// The producer.
    pub producer: u32,
    /// Its number within (producer, partition).
    pub sequence: u64,
    /// The offset it was acknowledged at.
    pub offset: Offset,
    /// Length of its value in bytes.
    pub value_len: u32,
    /// Intended send time.
    pub sent_at: Nanos,
    /// When it was acknowledged.
    pub acked_at: Nanos,
    /// Tail or hole.
    pub place: Place,
    /// When the fault struck that explains it; absent if none came after the ack.
    pub fault_at: Option<Nanos>,
    /// When a consumer last saw it, and which.
    pub last_seen: Option<(Nanos, u32)>,
    /// The last durable offset that the broker had reported before the fault, and when.
    pub durable_offset: Option<(Nanos, Offset)>,
}

impl fmt::Display for LostRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, producer, sequence, offset, value_len, sent_at, acked_at, .. } = self;
        write!(
            f,
            "partition {partition}, offset {offset}, {value_len} B: producer {producer} sequence {sequence}"
        )?;
        write!(
            f,
            " sent at {:.6} s, acknowledged {} later",
            sent_at.as_secs_f64(),
            acked_at.since(*sent_at)
        )?;
        match self.fault_at {
            Some(at) if at >= *acked_at => write!(f, ", {} before the fault", at.since(*acked_at))?,
            Some(at) => write!(f, ", {} into the fault", acked_at.since(at))?,
            None => f.write_str(", and no fault came after")?,
        }
        match self.last_seen {
            Some((at, consumer)) => write!(f, "; consumer {consumer} saw it at {:.6} s", at.as_secs_f64())?,
            None => f.write_str("; no consumer saw it")?,
        }
        match self.durable_offset {
            Some((at, end)) if end > *offset => {
                write!(f, "; reported durable at {:.6} s", at.as_secs_f64())
            }
            Some((_, end)) => write!(f, "; the last durable offset reported was {end}"),
            None => Ok(()),
        }
    }
}

/// What the checker says of one trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Kept or broken.
    pub standing: Standing,
    /// What the contract forbids, by gravity.
    pub violations: Vec<Finding>,
    /// What was seen and the contract permits.
    pub permitted: Vec<Finding>,
    /// Records attempted.
    pub attempts: u64,
    /// Outcome against times found.
    pub cells: Cells,
    /// What was lost.
    pub losses: Losses,
    /// Reported as failed, not in the log, and the application went on: not the broker's loss.
    pub application_lost: u64,
    /// The longest time without an ack under load, if there was load.
    pub longest_gap: Option<Gap>,
    /// The lost records that were acknowledged first, so those that the contract should have kept
    /// most of all.
    pub lost_records: Vec<LostRecord>,
}

impl Verdict {
    /// How often an anomaly was a violation.
    #[must_use]
    pub fn violation(&self, anomaly: Anomaly) -> u64 {
        self.violations.iter().filter(|finding| finding.anomaly == anomaly).map(|finding| finding.count).sum()
    }

    /// Books a violation that no record shows, such as a topic that is gone.
    pub fn book(&mut self, anomaly: Anomaly, example: String) {
        self.standing = Standing::Broken;
        match self.violations.iter_mut().find(|finding| finding.anomaly == anomaly) {
            Some(finding) => {
                finding.count += 1;
                finding.examples.push(example);
            }
            None => self.violations.push(Finding { anomaly, count: 1, examples: vec![example] }),
        }
        self.violations.sort_by_key(|finding| finding.anomaly);
    }

    /// Whether the trial can prove anything: a trial in which nothing was acknowledged, or nothing
    /// of that was left by retention and compaction, cannot lose.
    #[must_use]
    pub const fn is_vacuous(&self) -> bool {
        self.losses.at_stake() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anomaly_names_are_unique_and_listed() {
        let mut names: Vec<&str> = Anomaly::ALL.iter().map(|anomaly| anomaly.words()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Anomaly::ALL.len());
        assert!(Anomaly::ALL.windows(2).all(|pair| pair[0] < pair[1]), "gravity is the order");
    }

    #[test]
    fn lost_record_line_tells_the_whole_story() {
        let record = LostRecord {
            partition: PartitionId { topic: 0, partition: 3 },
            producer: 1,
            sequence: 42,
            offset: Offset(100),
            value_len: 1024,
            sent_at: Nanos(1_000_000_000),
            acked_at: Nanos(1_002_000_000),
            place: Place::Tail,
            fault_at: Some(Nanos(1_500_000_000)),
            last_seen: None,
            durable_offset: Some((Nanos(1_400_000_000), Offset(90))),
        };
        assert_eq!(
            record.to_string(),
            "partition 0-3, offset 100, 1024 B: producer 1 sequence 42 sent at 1.000000 s, \
             acknowledged 2.00 ms later, 498 ms before the fault; no consumer saw it; \
             the last durable offset reported was 90"
        );
    }
}

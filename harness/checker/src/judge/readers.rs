//! Other readers against the reference: final reads under another isolation or another leader, and
//! consumers during the run.

use super::found::occupant;
use super::{Case, acks};
use crate::contract::{Loss, Permission};
use crate::ledger::{Outcome, State};
use crate::reading::{Isolation, PollRun, Polls, Reading, Run};
use crate::units::{Nanos, PartitionId, PartitionIndex};
use crate::verdict::Anomaly;

/// How a run of one reading lies against the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    Same,
    Other,
    Nothing,
}

/// Cuts a run into pieces that lie against the reference in one way each: (from, to, how).
fn pieces(run: &Run, reference: &[Run]) -> Vec<(i64, i64, Against)> {
    let mut pieces = Vec::new();
    let mut offset = run.offset;
    let first = reference.partition_point(|other| other.end() <= run.offset);
    for other in reference[first..].iter().take_while(|other| other.offset < run.end()) {
        if offset < other.offset {
            pieces.push((offset, other.offset, Against::Nothing));
            offset = other.offset;
        }
        let end = other.end().min(run.end());
        let same = other.producer == run.producer && other.sequence_at(offset) == run.sequence_at(offset);
        pieces.push((offset, end, if same { Against::Same } else { Against::Other }));
        offset = end;
    }
    if offset < run.end() {
        pieces.push((offset, run.end(), Against::Nothing));
    }
    pieces
}

/// How many records of the reference lie in an interval of offsets.
fn records_between(reference: &[Run], from: i64, to: i64) -> u64 {
    let first = reference.partition_point(|run| run.end() <= from);
    let inside = reference[first..].iter().take_while(|run| run.offset < to);
    inside.map(|run| run.end().min(to).abs_diff(run.offset.max(from))).sum()
}

/// Compares a final read with the reference. They read the same log, so they agree; only what loss
/// the contract permits may be missing on a replica that was forced to lead.
pub(super) fn compare(case: &mut Case<'_>, reference: &Reading, other: &Reading) {
    let name = name_of(other);
    let missing_permission = match other.reader.forced_leader {
        Some(_) => case.loss_permitted(),
        None => Permission::Forbidden,
    };
    for partition in case.ledger.layout.partitions() {
        let id = case.ledger.layout.id(partition);
        let reference = &reference.partitions[partition.get()].runs;
        let (mut conflicts, mut extra, mut same) = (0u64, 0u64, 0u64);
        let mut first_conflict = None;
        for run in &other.partitions[partition.get()].runs {
            for (from, to, how) in pieces(run, reference) {
                let length = from.abs_diff(to);
                match how {
                    Against::Same => same += length,
                    Against::Nothing => extra += length,
                    Against::Other => {
                        conflicts += length;
                        first_conflict.get_or_insert(from);
                    }
                }
            }
        }
        let all = reference.iter().map(|run| u64::from(run.count)).sum::<u64>();
        let refused = &other.partitions[partition.get()].unreadable;
        let unreadable =
            refused.iter().map(|range| records_between(reference, range.from, range.to)).sum::<u64>();
        let missing = all.saturating_sub(same + conflicts + unreadable);
        let findings = &mut case.findings;
        findings.add_many(Anomaly::InconsistentOffset, Permission::Forbidden, conflicts, || {
            let offset = first_conflict.unwrap_or_default();
            format!("partition {id}, offset {offset}: {name} holds another record than the final read")
        });
        findings.add_many(Anomaly::ReadingsDiffer, Permission::Forbidden, extra, || {
            format!("partition {id}: {name} holds {extra} records that the final read does not")
        });
        findings.add_many(Anomaly::Unreadable, missing_permission, unreadable, || {
            let why = refused.first().map_or("", |range| range.why.as_str());
            format!("partition {id}: {name} was refused {unreadable} records of the final read: {why}")
        });
        findings.add_many(Anomaly::ReadingsDiffer, missing_permission, missing, || {
            format!("partition {id}: {name} lacks {missing} records of the final read")
        });
    }
}

fn name_of(reading: &Reading) -> String {
    let isolation = match reading.reader.isolation {
        Isolation::ReadCommitted => "under read_committed",
        Isolation::ReadUncommitted => "under read_uncommitted",
    };
    match reading.reader.forced_leader {
        Some(broker) => format!("the read from broker {broker} {isolation}"),
        None => format!("the read {isolation}"),
    }
}

/// Follows a consumer of the run.
pub(super) fn follow(case: &mut Case<'_>, reference: &Reading, polls: &Polls) {
    let consumer = polls.consumer;
    let isolation = polls.isolation;
    for partition in case.ledger.layout.partitions() {
        let id = case.ledger.layout.id(partition);
        let polled = &polls.partitions[partition.get()];
        let read = &reference.partitions[partition.get()];
        let log = &read.runs;
        for (before, after) in &polled.backwards {
            case.findings.add(Anomaly::NonMonotonicPoll, Permission::Forbidden, || {
                format!(
                    "partition {id}: consumer {consumer} ({isolation:?}) went from offset {before} to {after}"
                )
            });
        }
        let retained = case.contract.retention_bytes.is_some();
        let given_again =
            if retained { acks::given_again(case, partition, &polled.runs) } else { Vec::new() };
        let mut position = None;
        for poll in &polled.runs {
            if let Some(position) = position.filter(|position| poll.continues && *position < poll.run.offset)
            {
                let skipped = records_between(log, position, poll.run.offset);
                case.findings.add_many(Anomaly::PollSkip, Permission::Forbidden, skipped, || {
                    format!(
                        "partition {id}: consumer {consumer} went from offset {} to {}",
                        position - 1,
                        poll.run.offset
                    )
                });
            }
            position = Some(poll.run.end());
            for (from, to, how) in pieces(&poll.run, log) {
                if how != Against::Same {
                    let log_start = read.bounds.map_or(i64::MIN, |(start, _)| start);
                    let seen = Seen { partition, id, consumer, poll, log_start, given_again: &given_again };
                    // What nobody can read any more has its own name.
                    let vanished = (from..to).filter(|offset| read.refusal(*offset).is_none());
                    vanished.for_each(|offset| check_vanished(case, &seen, offset, log));
                }
            }
        }
    }
}

struct Seen<'a> {
    partition: PartitionIndex,
    id: PartitionId,
    consumer: u32,
    poll: &'a PollRun,
    /// Of the final read.
    log_start: i64,
    /// Offsets with another record than the one that somebody saw or was acknowledged there before: from, to, since when at least.
    given_again: &'a [(i64, i64, Nanos)],
}

impl Seen<'_> {
    /// Whether the offset was another record's later on: retention takes a record, and never gives its offset away.
    fn was_given_away(&self, offset: i64) -> bool {
        let is_later =
            |&(from, to, at): &(i64, i64, Nanos)| (from..to).contains(&offset) && self.poll.polled_at < at;
        self.given_again.iter().any(is_later)
    }
}

/// A polled record that is not at its offset in the end.
fn check_vanished(case: &mut Case<'_>, seen: &Seen<'_>, offset: i64, log: &[Run]) {
    let Seen { partition, id, consumer, poll, log_start, .. } = *seen;
    let (producer, sequence, polled_at) = (poll.run.producer, poll.run.sequence_at(offset), poll.polled_at);
    let who = || {
        format!(
            "partition {id}, offset {offset}: consumer {consumer} saw producer {producer} sequence {sequence}"
        )
    };
    let explained = case.explanation(polled_at, partition, offset).is_some();
    // A fault that may take what consumers saw may take a record that has no ack yet; its producer then sends it again.
    let taken = case.contract.read_then_lost == Permission::Permitted
        && case.loss_since(polled_at, partition, offset) != Loss::Nothing;
    // Compaction leaves the offset empty; where it does not, it is no excuse.
    let is_compacted =
        occupant(log, offset).is_none() && case.may_be_compacted(partition, (producer, sequence), offset);
    // So does retention, save what had been lost before it came by.
    let is_expired = case.contract.retention_bytes.is_some()
        && offset < log_start
        && !case.was_cut_off(polled_at, partition, offset)
        && !seen.was_given_away(offset);
    let is_deleted = is_compacted || is_expired;
    let copy_is_deleted = is_deleted && case.contract.duplicates == Permission::Permitted;
    let moved =
        Permission::when(taken || copy_is_deleted || case.copy_may_be_lost(polled_at, partition, offset));
    let state =
        case.ledger.lane_mut(producer, partition).and_then(|lane| lane.states.get_mut(sequence as usize));
    let Some(state) = state else {
        return case
            .findings
            .add(Anomaly::Phantom, Permission::Forbidden, || format!("{}, never attempted", who()));
    };
    if state.found() > 0 {
        return case
            .findings
            .add(Anomaly::InconsistentOffset, moved, || format!("{}, found elsewhere", who()));
    }
    if !state.mark(State::READ_THEN_LOST) {
        return;
    }
    let outcome = state.outcome();
    match outcome {
        Outcome::Fail => case.findings.add(Anomaly::AbortedRead, Permission::Forbidden, who),
        Outcome::NeverSent => case.findings.add(Anomaly::NeverSentRead, Permission::Forbidden, who),
        _ => {}
    }
    if is_deleted {
        return;
    }
    case.findings.add(Anomaly::ReadThenLost, Permission::when(taken), who);
    if let (false, Some((other, other_sequence))) = (explained, occupant(log, offset)) {
        case.findings.add(Anomaly::InconsistentOffset, Permission::Forbidden, || {
            format!("{}; it holds producer {other} sequence {other_sequence}", who())
        });
    }
}

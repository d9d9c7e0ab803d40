//! What a final read holds: strangers, duplicates, and the order of each producer's records.

use super::Case;
use crate::contract::Permission;
use crate::ledger::{Outcome, State};
use crate::reading::{PartitionReading, Polls, Reading, Run, Stranger, StrangerKind, Strangers};
use crate::units::PartitionIndex;
use crate::verdict::Anomaly;

/// Books what is wrong with a reading by itself, and sorts its runs by offset without overlaps.
pub(super) fn normalise(case: &mut Case<'_>, reading: &mut Reading) {
    for partition in case.ledger.layout.partitions() {
        let id = case.ledger.layout.id(partition);
        let read = &mut reading.partitions[partition.get()];
        for (before, after) in &read.backwards {
            case.findings.add(Anomaly::NonMonotonicPoll, Permission::Forbidden, || {
                format!("partition {id}: the final read went from offset {before} to {after}")
            });
        }
        if !read.backwards.is_empty() {
            let conflicts = untangle(read);
            case.findings.add_many(Anomaly::InconsistentOffset, Permission::Forbidden, conflicts, || {
                format!("partition {id}: the final read gave {conflicts} offsets two values")
            });
        }
    }
}

/// Books the values that are no records of this run in their partition. What several readers saw at
/// one offset counts once.
pub(super) fn book_strangers(case: &mut Case<'_>, readings: &[Reading], polls: &[Polls]) {
    for partition in case.ledger.layout.partitions() {
        let id = case.ledger.layout.id(partition);
        let by_readings = readings.iter().map(|reading| &reading.partitions[partition.get()].strangers);
        let by_polls = polls.iter().map(|consumer| &consumer.partitions[partition.get()].strangers);
        let seen: Vec<&Strangers> = by_readings.chain(by_polls).collect();
        let mut all: Vec<(i64, bool)> = seen.iter().flat_map(|strangers| &strangers.all).copied().collect();
        all.sort_unstable();
        all.dedup();
        for (anomaly, corrupt) in [(Anomaly::Corrupt, true), (Anomaly::Phantom, false)] {
            let count = all.iter().filter(|(_, is_corrupt)| *is_corrupt == corrupt).count() as u64;
            let mut kept = seen.iter().flat_map(|strangers| &strangers.kept);
            case.findings.add_many(anomaly, Permission::Forbidden, count, || {
                let first = kept.find(|stranger| stranger.what.is_corrupt() == corrupt);
                format!("partition {id}, {}", first.map(describe).unwrap_or_default())
            });
        }
    }
}

fn describe(stranger: &Stranger) -> String {
    let what = match stranger.what {
        StrangerKind::Undecoded(error) => error.to_string(),
        StrangerKind::Misplaced(identity) => {
            format!("producer {} sent it to partition {}", identity.producer.0, identity.partition)
        }
    };
    format!("offset {}: {what}", stranger.offset)
}

/// Sorts runs that went backwards; what was read twice counts once. Returns how many offsets had two
/// different values.
fn untangle(read: &mut PartitionReading) -> u64 {
    let mut conflicts = 0;
    let mut sorted: Vec<Run> = Vec::with_capacity(read.runs.len());
    read.runs.sort_by_key(|run| (run.offset, run.producer, run.first_sequence));
    for run in read.runs.drain(..) {
        let taken_until = sorted.last().map_or(run.offset, Run::end);
        for offset in run.offset..run.end().min(taken_until) {
            let same = occupant(&sorted, offset) == Some((run.producer, run.sequence_at(offset)));
            conflicts += u64::from(!same);
        }
        if run.end() > taken_until {
            let offset = run.offset.max(taken_until);
            let (first_sequence, count) = (run.sequence_at(offset), (run.end() - offset) as u32);
            sorted.push(Run { offset, first_sequence, count, ..run });
        }
    }
    read.runs = sorted;
    conflicts
}

/// The record at an offset of sorted runs, as (producer, sequence).
pub(super) fn occupant(runs: &[Run], offset: i64) -> Option<(u32, u64)> {
    let after = runs.partition_point(|run| run.offset <= offset);
    let run = runs[..after].last().filter(|run| offset < run.end())?;
    Some((run.producer, run.sequence_at(offset)))
}

/// Marks every record of the reference reading as found.
pub(super) fn mark(case: &mut Case<'_>, reference: &Reading) {
    for partition in case.ledger.layout.partitions() {
        // For each producer the sequence after the highest one found so far.
        let mut next = vec![0u64; case.ledger.lanes.len()];
        for run in &reference.partitions[partition.get()].runs {
            mark_run(case, partition, run, &mut next);
        }
    }
}

fn mark_run(case: &mut Case<'_>, partition: PartitionIndex, run: &Run, next: &mut [u64]) {
    let id = case.ledger.layout.id(partition);
    let (mut duplicates, mut late, mut late_unknown) = (0u64, 0u64, 0u64);
    let known = match case.ledger.lane_mut(run.producer, partition) {
        None => 0,
        Some(lane) => {
            let first = run.first_sequence.min(lane.len());
            let end = run.first_sequence.saturating_add(u64::from(run.count)).min(lane.len());
            let next = &mut next[run.producer as usize];
            for (sequence, state) in (first..end).zip(&mut lane.states[first as usize..end as usize]) {
                match state.found() {
                    0 if sequence < *next && is_unknown(*state) => late_unknown += 1,
                    0 if sequence < *next => late += 1,
                    0 => *next = sequence + 1,
                    1 => duplicates += 1,
                    _ => {}
                }
                state.find();
            }
            end - first
        }
    };
    let line = |what: &str| {
        let Run { producer, first_sequence, offset, count, .. } = run;
        format!(
            "partition {id}, offsets {offset}..{}: producer {producer} sequences {first_sequence}.. {what}",
            offset.saturating_add(i64::from(*count))
        )
    };
    // What was acknowledged is held against its order in another place ([`super::order`]).
    let lacks_copies = case.may_lack_copies(run.producer, partition);
    let reordering = if lacks_copies { Permission::Permitted } else { case.contract.reordering };
    // Without idempotence an attempt that the client gave up may land after its later records.
    let late_landing = match case.contract.duplicates {
        Permission::Permitted => Permission::Permitted,
        Permission::Forbidden => reordering,
    };
    let phantoms = u64::from(run.count) - known;
    let findings = &mut case.findings;
    findings.add_many(Anomaly::Phantom, Permission::Forbidden, phantoms, || line("were never attempted"));
    findings.add_many(Anomaly::Duplicate, case.contract.duplicates, duplicates, || line("again"));
    findings.add_many(Anomaly::NonMonotonicSend, reordering, late, || line("after later ones"));
    findings.add_many(Anomaly::NonMonotonicSend, late_landing, late_unknown, || line("after later ones"));
}

impl Case<'_> {
    /// Whether the first copy of a producer's records may have been deleted or compacted away, so that the second seems to come
    /// late.
    pub(super) fn may_lack_copies(&self, producer: u32, partition: PartitionIndex) -> bool {
        let has_keys =
            || self.ledger.lane(producer, partition).is_some_and(|lane| lane.keys().next().is_some());
        self.contract.duplicates == Permission::Permitted
            && (self.contract.first_copies_deleted || self.contract.compaction.is_some() && has_keys())
    }
}

fn is_unknown(state: State) -> bool {
    matches!(state.outcome(), Outcome::Info | Outcome::Pending | Outcome::Sent)
}

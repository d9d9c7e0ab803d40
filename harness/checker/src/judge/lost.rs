//! Acknowledged records that are gone: where they were, which fault explains them, and whether the
//! contract permits it.

use super::Case;
use super::acks::{AckView, Joined, Missing};
use super::found::occupant;
use crate::contract::{Loss, Permission};
use crate::fault::FaultEvent;
use crate::ledger::{Ledger, Outcome, State};
use crate::reading::{Observation, Observed, Polls, Reading};
use crate::units::{Nanos, Offset, PartitionIndex};
use crate::verdict::{Anomaly, LostRecord, Place};
use std::collections::{BTreeSet, BinaryHeap};

/// Forensic lines kept of a trial.
const LINES: usize = 100;

/// A lost record, ordered by its ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    acked_at: Nanos,
    partition: PartitionIndex,
    producer: u32,
    sequence: u64,
    offset: i64,
    fault: Option<usize>,
    is_hole: bool,
}

/// The lost records that were acknowledged first, at most [`LINES`].
#[derive(Default)]
pub(super) struct WorstFirst(BinaryHeap<Lost>);

impl WorstFirst {
    fn push(&mut self, lost: Lost) {
        if self.0.len() < LINES {
            self.0.push(lost);
        } else if let Some(mut latest) = self.0.peek_mut().filter(|latest| lost < **latest) {
            *latest = lost;
        }
    }

    /// The forensic lines, the earliest ack first.
    pub(super) fn lines(
        self,
        ledger: &Ledger,
        faults: &[FaultEvent],
        polls: &[Polls],
        observations: &[Observation],
    ) -> Vec<LostRecord> {
        let line = |lost: Lost| {
            let lane = &ledger.lanes[lost.producer as usize][lost.partition.get()];
            let fault_at = lost.fault.map(|fault| faults[fault].struck_at);
            LostRecord {
                partition: ledger.layout.id(lost.partition),
                producer: lost.producer,
                sequence: lost.sequence,
                offset: Offset(lost.offset),
                value_len: lane.size(lost.sequence),
                sent_at: lane.sent_at[lost.sequence as usize],
                acked_at: lost.acked_at,
                place: if lost.is_hole { Place::Hole } else { Place::Tail },
                fault_at,
                last_seen: last_seen(polls, &lost),
                durable_offset: last_durable(observations, lost.partition, fault_at),
            }
        };
        self.0.into_sorted_vec().into_iter().map(line).collect()
    }
}

fn last_seen(polls: &[Polls], lost: &Lost) -> Option<(Nanos, u32)> {
    let seen_by = |consumer: &Polls| {
        let runs = &consumer.partitions[lost.partition.get()].runs;
        let holds = |run: &crate::reading::Run| {
            (run.offset..run.end()).contains(&lost.offset)
                && run.producer == lost.producer
                && run.sequence_at(lost.offset) == lost.sequence
        };
        runs.iter().filter(|poll| holds(&poll.run)).map(|poll| (poll.polled_at, consumer.consumer)).max()
    };
    polls.iter().filter_map(seen_by).max()
}

fn last_durable(
    observations: &[Observation],
    partition: PartitionIndex,
    fault_at: Option<Nanos>,
) -> Option<(Nanos, Offset)> {
    let before = |seen: &&Observation| {
        seen.partition == partition
            && seen.observed == Observed::Durable
            && fault_at.is_none_or(|fault| seen.at <= fault)
    };
    observations.iter().filter(before).map(|seen| (seen.at, seen.offset)).max()
}

/// What is known of a partition around one fault.
struct Around {
    /// The end of what is kept of the acks from before the fault: what is missing below is a hole.
    survivors_end: i64,
    /// Whether anything was acknowledged after the fault, in whatever partition, so that the final log end tells
    /// nothing: a record that was sent again may be there without an ack.
    load_went_on: bool,
    /// Records of the partition that it took.
    lost: u64,
}

impl Around {
    fn new(fault: &FaultEvent, views: &[AckView], last_ack_at: Nanos) -> Self {
        let before = views.iter().filter(|view| view.kept > 0 && view.acked_at <= fault.struck_at);
        Self {
            survivors_end: before.map(|view| view.kept_end).max().unwrap_or(i64::MIN),
            load_went_on: last_ack_at > fault.restored_at,
            lost: 0,
        }
    }
}

/// Books what is missing of a partition's acknowledged records. Those that are lost and not excused, as (producer, sequence).
pub(super) fn book(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    joined: &Joined,
    reference: &Reading,
) -> BTreeSet<(u32, u64)> {
    let mut booked = BTreeSet::new();
    if joined.missing.is_empty() {
        return booked;
    }
    let mut around: Vec<Around> =
        case.faults.iter().map(|fault| Around::new(fault, &joined.views, case.last_ack_at)).collect();
    let (log_start, log_end) = reference.partitions[partition.get()].bounds.unwrap_or((i64::MIN, i64::MIN));
    let may_expire = case.contract.retention_bytes.is_some();
    let mut span: Option<(Nanos, Nanos)> = None;
    let before = case.losses.records;
    for missing in &joined.missing {
        if !first_sight(case, partition, missing) {
            continue;
        }
        let was_cut_off = case.was_cut_off(missing.acked_at, partition, missing.offset);
        if may_expire && !was_cut_off && missing.offset < log_start {
            case.losses.expired += 1;
            continue;
        }
        // Compaction leaves the offset empty; where it does not, it is no excuse.
        if !was_cut_off
            && occupant(&reference.partitions[partition.get()].runs, missing.offset).is_none()
            && case.may_be_compacted(partition, (missing.producer, missing.sequence), missing.offset)
        {
            case.losses.compacted += 1;
            continue;
        }
        let fault = case.explanation(missing.acked_at, partition, missing.offset);
        let is_hole = match fault {
            None => missing.offset < log_end,
            Some(fault) => {
                around[fault].lost += 1;
                // Where somebody looked, the end that was seen tells; what is there now may have come since, without an ack.
                let is_inside = match case.faults[fault].recovered_end(partition) {
                    Some(end) => missing.offset < end.0,
                    None => !around[fault].load_went_on && missing.offset < log_end,
                };
                missing.offset < around[fault].survivors_end || is_inside
            }
        };
        let (acked_at, producer, sequence) = (missing.acked_at, missing.producer, missing.sequence);
        let offset = missing.offset;
        let lost = Lost { acked_at, partition, producer, sequence, offset, fault, is_hole };
        count(case, &lost);
        find(case, &lost);
        if !joined.across.is_empty() {
            booked.insert((producer, sequence));
        }
        case.worst.push(lost);
        if let Some(fault) = fault {
            let struck = case.faults[fault].struck_at;
            let (earliest, latest) = span.unwrap_or((acked_at, struck));
            span = Some((earliest.min(acked_at), latest.max(acked_at).max(struck)));
        }
    }
    case.losses.partitions += u64::from(case.losses.records > before);
    if let Some((earliest, latest)) = span {
        case.losses.window = case.losses.window.max(Some(latest.since(earliest)));
    }
    book_excess(case, partition, &around);
    booked
}

/// Whether this is an acknowledged record that was not booked before: it may have two acks, and acks
/// after a cut are booked apart.
pub(super) fn first_sight(case: &mut Case<'_>, partition: PartitionIndex, missing: &Missing) -> bool {
    let Some(lane) = case.ledger.lane_mut(missing.producer, partition) else { return false };
    let state = &mut lane.states[missing.sequence as usize];
    state.outcome() == Outcome::Ack && state.mark(State::LOST)
}

fn count(case: &mut Case<'_>, lost: &Lost) {
    let lane = &case.ledger.lanes[lost.producer as usize][lost.partition.get()];
    let losses = &mut case.losses;
    losses.records += 1;
    losses.bytes += u64::from(lane.size(lost.sequence));
    if lost.is_hole {
        losses.holes += 1;
    } else {
        losses.tail += 1;
    }
    match lost.fault {
        None => losses.unexplained += 1,
        Some(fault) if case.faults[fault].struck_at < lost.acked_at => losses.during_fault += 1,
        Some(_) => {}
    }
}

fn find(case: &mut Case<'_>, lost: &Lost) {
    let (anomaly, permission) = classify(case, lost);
    let Lost { partition, producer, sequence, offset, acked_at, .. } = *lost;
    let id = case.ledger.layout.id(partition);
    case.findings.add(anomaly, permission, || {
        let when = acked_at.as_secs_f64();
        format!("partition {id}, offset {offset}: producer {producer} sequence {sequence}, acknowledged at {when:.6} s")
    });
}

fn classify(case: &Case<'_>, lost: &Lost) -> (Anomaly, Permission) {
    let by_place = if lost.is_hole { Anomaly::LostHole } else { Anomaly::LostTail };
    let Some(fault) = lost.fault else { return (by_place, Permission::Forbidden) };
    match case.loss_since(lost.acked_at, lost.partition, lost.offset) {
        Loss::Nothing => (by_place, Permission::Forbidden),
        Loss::Tail { .. } if lost.is_hole => (by_place, Permission::Forbidden),
        Loss::Tail { window: Some(window), .. } => {
            let age = case.faults[fault].struck_at.since(lost.acked_at);
            if age.0 > window.0.saturating_add(case.contract.flush_allowance.0) {
                (Anomaly::LostBeyondWindow, Permission::Forbidden)
            } else {
                (by_place, Permission::Permitted)
            }
        }
        Loss::Tail { window: None, .. } | Loss::Anything | Loss::NothingAcknowledged => {
            (by_place, Permission::Permitted)
        }
    }
}

/// More messages of one partition than the window by count that the contract gives a fault.
fn book_excess(case: &mut Case<'_>, partition: PartitionIndex, around: &[Around]) {
    let id = case.ledger.layout.id(partition);
    for (fault, &Around { lost, .. }) in around.iter().enumerate() {
        let Loss::Tail { messages: Some(bound), .. } = case.loss_from(fault, partition) else { continue };
        case.findings.add_many(
            Anomaly::LostBeyondWindow,
            Permission::Forbidden,
            lost.saturating_sub(bound),
            || format!("partition {id}: {lost} messages lost, at most {bound} may be"),
        );
    }
}

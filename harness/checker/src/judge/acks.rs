//! Acknowledged offsets against the log.

use super::Case;
use crate::contract::{Loss, Permission};
use crate::ledger::{AckRun, Lane, Outcome, Sequences};
use crate::reading::{PollRun, Reading, Run};
use crate::units::{Nanos, PartitionIndex};
use crate::verdict::Anomaly;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// An acknowledged run, and how much of it is where it was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct AckView {
    pub(super) producer: u32,
    pub(super) count: u32,
    pub(super) first_sequence: u64,
    pub(super) base_offset: i64,
    pub(super) acked_at: Nanos,
    /// Records found at the offset they were acknowledged at.
    pub(super) kept: u32,
    /// The offset after the last of those; meaningless if there are none.
    pub(super) kept_end: i64,
}

impl AckView {
    /// End, exclusive.
    pub(super) fn end(&self) -> i64 {
        self.base_offset + i64::from(self.count)
    }

    fn sequence_at(&self, offset: i64) -> u64 {
        self.first_sequence + offset.abs_diff(self.base_offset)
    }

    pub(super) fn records(&self) -> Sequences {
        Sequences { first: self.first_sequence, count: self.count }
    }

    pub(super) fn is_all_kept(&self) -> bool {
        self.kept == self.count
    }
}

/// An acknowledged record that is not at its offset and nowhere else either.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub(super) producer: u32,
    pub(super) sequence: u64,
    pub(super) offset: i64,
    pub(super) acked_at: Nanos,
}

/// The acks of a partition, by offset, and what is missing of them.
pub(super) struct Joined {
    pub(super) views: Vec<AckView>,
    pub(super) missing: Vec<Missing>,
    /// Offsets that were given again after a fault.
    pub(super) across: Vec<Clash>,
}

/// Makes a deleted record an acknowledged one again where a recovery showed that it had been lost by then: what was deleted
/// later is no excuse.
pub(super) fn take_back_deletions(case: &mut Case<'_>) {
    for partition in case.ledger.layout.partitions() {
        for producer in 0..case.ledger.lanes.len() {
            let deleted = std::mem::take(&mut case.ledger.lanes[producer][partition.get()].deleted);
            let end = |ack: &AckRun| ack.base_offset.saturating_add(i64::from(ack.count));
            let (lost, deleted): (Vec<AckRun>, Vec<AckRun>) =
                deleted.into_iter().partition(|ack| case.was_cut_off(ack.acked_at, partition, end(ack) - 1));
            let lane = &mut case.ledger.lanes[producer][partition.get()];
            lane.deleted = deleted;
            for ack in lost {
                let first = ack.first_sequence as usize;
                let records = &mut lane.states[first..first + ack.count as usize];
                records.iter_mut().for_each(|state| state.set_outcome(Outcome::Ack));
                lane.acks.push(ack);
            }
        }
    }
}

/// Books a record apart whose every ack came between a power cut and the silence after it: whether
/// the broker knew of the cut, and what the disk had promised by then, cannot be told. (Where nothing may be lost that is
/// no excuse: [`trust_where_nothing_may_be_lost`].)
pub(super) fn book_after_cut(case: &mut Case<'_>) {
    let cuts: Vec<(Nanos, Nanos)> = case
        .faults
        .iter()
        .filter(|event| event.fault.kind.cuts_power())
        .map(|event| (event.struck_at, event.silenced_at))
        .collect();
    if cuts.is_empty() {
        return;
    }
    let in_doubt = |at: Nanos| cuts.iter().any(|(struck, silenced)| *struck < at && at <= *silenced);
    for Lane { acks, states, .. } in case.ledger.lanes.iter_mut().flatten() {
        let (doubted, trusted): (Vec<&AckRun>, Vec<&AckRun>) =
            acks.iter().partition(|ack| in_doubt(ack.acked_at));
        // Trusted acks come last, so that one of them outweighs any number in doubt.
        for (acks, outcome) in [(doubted, Outcome::AckAfterCut), (trusted, Outcome::Ack)] {
            for ack in acks {
                let first = ack.first_sequence as usize;
                let records = &mut states[first..first + ack.count as usize];
                records.iter_mut().for_each(|state| state.set_outcome(outcome));
            }
        }
    }
}

/// Takes back the doubt about acks after a cut whose record is gone, where nothing may be lost: whatever the instant at
/// which the ack reached its client, an honest broker gives none before the record is durable. Without this a broker that
/// acknowledges before it flushes would be excused by the very cut that finds it out.
pub(super) fn trust_where_nothing_may_be_lost(case: &mut Case<'_>) {
    if case.contract.loss != Loss::Nothing {
        return;
    }
    for state in case.ledger.lanes.iter_mut().flatten().flat_map(|lane| &mut lane.states) {
        if state.outcome() == Outcome::AckAfterCut && state.found() == 0 {
            state.set_outcome(Outcome::Ack);
        }
    }
}

/// Joins a partition's acks with the reference reading.
pub(super) fn join(case: &mut Case<'_>, partition: PartitionIndex, reference: &Reading) -> Joined {
    let mut views = views_by_offset(case, partition, |lane| &lane.acks);
    let deleted = views_by_offset(case, partition, |lane| &lane.deleted);
    let (contested, across) = contested_offsets(case, partition, &merged(&views, &deleted));
    let runs = &reference.partitions[partition.get()].runs;
    let mut missing = Vec::new();
    let mut from = 0;
    for view in &mut views {
        from += runs[from..].iter().take_while(|run| run.end() <= view.base_offset).count();
        join_view(case, partition, view, &runs[from..], &contested, &mut missing);
    }
    Joined { views, missing, across }
}

fn views_by_offset(
    case: &Case<'_>,
    partition: PartitionIndex,
    acks: impl Fn(&Lane) -> &Vec<AckRun>,
) -> Vec<AckView> {
    let mut views = Vec::new();
    for (producer, lanes) in case.ledger.lanes.iter().enumerate() {
        views.extend(acks(&lanes[partition.get()]).iter().map(|ack| AckView {
            producer: producer as u32,
            count: ack.count,
            first_sequence: ack.first_sequence,
            // No log reaches there; moved so that its records still have offsets, and are missed at them.
            base_offset: ack.base_offset.min(i64::MAX - i64::from(ack.count)),
            acked_at: ack.acked_at,
            kept: 0,
            kept_end: i64::MIN,
        }));
    }
    sort_by_offset(&mut views);
    views
}

fn sort_by_offset(views: &mut [AckView]) {
    views.sort_unstable_by_key(|view| (view.base_offset, view.acked_at, view.producer, view.first_sequence));
}

fn merged<'a>(views: &'a [AckView], deleted: &[AckView]) -> Cow<'a, [AckView]> {
    if deleted.is_empty() {
        return Cow::Borrowed(views);
    }
    let mut all = [views, deleted].concat();
    sort_by_offset(&mut all);
    Cow::Owned(all)
}

/// Two records that were acknowledged at the same offsets.
pub(super) struct Clash {
    one: AckView,
    other: AckView,
    from: i64,
    /// Exclusive.
    to: i64,
}

impl Clash {
    /// The records that share an offset, as (producer, sequence).
    fn at(&self, offset: i64) -> [(u32, u64); 2] {
        [&self.one, &self.other].map(|view| (view.producer, view.sequence_at(offset)))
    }
}

fn clashes(views: &[AckView]) -> Vec<Clash> {
    let mut clashes = Vec::new();
    let Some(mut furthest) = views.first().copied() else { return clashes };
    for view in &views[1..] {
        let to = furthest.end().min(view.end());
        let same_records = furthest.producer == view.producer
            && furthest.sequence_at(view.base_offset) == view.first_sequence;
        if view.base_offset < to && !same_records {
            clashes.push(Clash { one: furthest, other: *view, from: view.base_offset, to });
        }
        if view.end() > furthest.end() {
            furthest = *view;
        }
    }
    clashes
}

/// Offsets acknowledged for two records with no fault between the acks: no loss explains that, whether the records are still
/// there or deleted. And those with one between, which are looked at when it is known what was lost.
fn contested_offsets(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    views: &[AckView],
) -> (Vec<(i64, i64)>, Vec<Clash>) {
    let (across, clashes): (Vec<Clash>, Vec<Clash>) = clashes(views)
        .into_iter()
        .partition(|clash| case.fault_between(clash.one.acked_at, clash.other.acked_at));
    let mut contested: Vec<(i64, i64)> = Vec::new();
    for clash in clashes {
        match contested.last_mut().filter(|last| clash.from <= last.1) {
            Some(last) => last.1 = last.1.max(clash.to),
            None => contested.push((clash.from, clash.to)),
        }
        book_clash(case, partition, &clash, clash.from, clash.from.abs_diff(clash.to));
    }
    (contested, across)
}

/// Where nothing may be lost, an offset that was given again after a fault tells that the first record there was, whatever was
/// deleted or compacted away since. Where the loss is booked, that says it already.
pub(super) fn book_given_again(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    across: &[Clash],
    lost: &BTreeSet<(u32, u64)>,
) {
    if case.contract.loss != Loss::Nothing {
        return;
    }
    for clash in across {
        let is_booked = |offset: i64| clash.at(offset).iter().any(|record| lost.contains(record));
        let untold: Vec<i64> = (clash.from..clash.to).filter(|offset| !is_booked(*offset)).collect();
        if let Some(first) = untold.first() {
            book_clash(case, partition, clash, *first, untold.len() as u64);
        }
    }
}

/// Where the polls of a consumer and the acks of everybody name different records at one offset: from, to (exclusive), and the
/// later of the two instants. Of what was seen before that the offset was taken away.
pub(super) fn given_again(
    case: &Case<'_>,
    partition: PartitionIndex,
    polls: &[PollRun],
) -> Vec<(i64, i64, Nanos)> {
    let mut views = views_by_offset(case, partition, |lane| &lane.acks);
    views.extend(views_by_offset(case, partition, |lane| &lane.deleted));
    views.extend(polls.iter().map(|PollRun { run, polled_at, .. }| AckView {
        producer: run.producer,
        count: run.count,
        first_sequence: run.first_sequence,
        base_offset: run.offset.min(i64::MAX - i64::from(run.count)),
        acked_at: *polled_at,
        kept: 0,
        kept_end: i64::MIN,
    }));
    sort_by_offset(&mut views);
    let later = |clash: &Clash| clash.one.acked_at.max(clash.other.acked_at);
    clashes(&views).iter().map(|clash| (clash.from, clash.to, later(clash))).collect()
}

fn book_clash(case: &mut Case<'_>, partition: PartitionIndex, clash: &Clash, offset: i64, count: u64) {
    let id = case.ledger.layout.id(partition);
    let [(one, its), (other, others)] = clash.at(offset);
    case.findings.add_many(Anomaly::InconsistentOffset, Permission::Forbidden, count, || {
        format!(
            "partition {id}, offset {offset}: acknowledged for producer {one} sequence {its} and for producer {other} \
             sequence {others}"
        )
    });
}

/// Walks one ack along the runs, of which the first ends above the ack's base offset.
fn join_view(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    view: &mut AckView,
    runs: &[Run],
    contested: &[(i64, i64)],
    missing: &mut Vec<Missing>,
) {
    let view_end = view.end();
    let mut offset = view.base_offset;
    let mut overlapping = runs.iter().take_while(|run| run.offset < view_end);
    while offset < view_end {
        let run = overlapping.next();
        let vacant_until = run.map_or(view_end, |run| run.offset.max(offset));
        for vacant in offset..vacant_until {
            unmatched(case, partition, view, vacant, None, contested, missing);
        }
        let Some(run) = run else { break };
        let end = run.end().min(view_end);
        let same =
            run.producer == view.producer && run.sequence_at(vacant_until) == view.sequence_at(vacant_until);
        if same {
            view.kept += (end - vacant_until) as u32;
            view.kept_end = end;
        } else {
            for taken in vacant_until..end {
                unmatched(case, partition, view, taken, Some(run), contested, missing);
            }
        }
        offset = end;
    }
}

/// An acknowledged record that is not at its offset: missing, or displaced.
fn unmatched(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    view: &AckView,
    offset: i64,
    occupant: Option<&Run>,
    contested: &[(i64, i64)],
    missing: &mut Vec<Missing>,
) {
    let (producer, sequence, acked_at) = (view.producer, view.sequence_at(offset), view.acked_at);
    let Some(lane) = case.ledger.lane(producer, partition) else { return };
    if lane.states[sequence as usize].found() == 0 {
        missing.push(Missing { producer, sequence, offset, acked_at });
        if let Some(run) = occupant {
            book_occupied(case, partition, missing[missing.len() - 1], run, contested);
        }
        return;
    }
    // Its own second copy supersedes it.
    let is_compacted = case.contract.duplicates == Permission::Permitted
        && occupant.is_none()
        && case.may_be_compacted(partition, (producer, sequence), offset);
    let permission = Permission::when(is_compacted || case.copy_may_be_lost(acked_at, partition, offset));
    let id = case.ledger.layout.id(partition);
    case.findings.add(Anomaly::InconsistentOffset, permission, || {
        format!("partition {id}: producer {producer} sequence {sequence} acknowledged at offset {offset}, found elsewhere")
    });
}

/// The offset of a missing record has another value: explained by the loss, if a fault explains that.
fn book_occupied(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    missing: Missing,
    run: &Run,
    contested: &[(i64, i64)],
) {
    let Missing { producer, sequence, offset, acked_at } = missing;
    let explanation = case.explanation(acked_at, partition, offset);
    let explained = explanation.is_some();
    let before = contested.partition_point(|(from, _)| *from <= offset);
    if !explained && contested[..before].last().is_some_and(|(_, to)| offset < *to) {
        return;
    }
    let (anomaly, permission) = match explanation {
        Some(_) => {
            let loss = case.loss_since(acked_at, partition, offset);
            (Anomaly::OffsetReused, Permission::when(loss != Loss::Nothing))
        }
        None => (Anomaly::InconsistentOffset, Permission::Forbidden),
    };
    let id = case.ledger.layout.id(partition);
    case.findings.add(anomaly, permission, || {
        format!(
            "partition {id}, offset {offset}: acknowledged for producer {producer} sequence {sequence}, \
             holds producer {} sequence {}",
            run.producer,
            run.sequence_at(offset)
        )
    });
}

//! Order in acknowledged offsets: real time between producers, and each producer's own.

use super::Case;
use super::acks::AckView;
use crate::contract::Permission;
use crate::units::{Nanos, PartitionIndex};
use crate::verdict::Anomaly;

/// Checks both orders in one partition.
pub(super) fn check(case: &mut Case<'_>, partition: PartitionIndex, views: &[AckView]) {
    let mut by_ack: Vec<&AckView> = views.iter().collect();
    by_ack.sort_by_key(|view| view.acked_at);
    let acknowledged = Acknowledged::new(case, &by_ack);
    for view in &by_ack {
        check_real_time(case, partition, view, &acknowledged);
    }
    check_sends(case, partition, views);
}

/// The highest offset acknowledged before any instant, in two ways.
struct Acknowledged {
    at: Vec<Nanos>,
    /// Of records that are still there. A later send must lie above them whatever happened between.
    kept_end: Vec<i64>,
    /// Of all records since the last fault, kept or not: without a fault nothing takes them back.
    era: Vec<Option<usize>>,
    era_end: Vec<i64>,
}

impl Acknowledged {
    fn new(case: &Case<'_>, by_ack: &[&AckView]) -> Self {
        let mut running = (i64::MIN, None, i64::MIN);
        let mut this = Self { at: Vec::new(), kept_end: Vec::new(), era: Vec::new(), era_end: Vec::new() };
        for view in by_ack {
            let (kept_end, era, era_end) = running;
            let kept_end = if view.kept > 0 { kept_end.max(view.kept_end) } else { kept_end };
            let now = era_at(case, view.acked_at);
            let era_end = if now.is_some() && now == era { era_end.max(view.end()) } else { view.end() };
            running = (kept_end, now, era_end);
            this.at.push(view.acked_at);
            this.kept_end.push(kept_end);
            this.era.push(now);
            this.era_end.push(era_end);
        }
        this
    }

    /// The end of what a record sent at `sent_at` and acknowledged in `era` must lie above.
    fn end_before(&self, sent_at: Nanos, era: Option<usize>) -> i64 {
        let Some(last) = self.at.partition_point(|at| *at < sent_at).checked_sub(1) else { return i64::MIN };
        let same_era = era.is_some() && self.era[last] == era;
        self.kept_end[last].max(if same_era { self.era_end[last] } else { i64::MIN })
    }
}

/// How many faults had ended by an instant; none while one is in effect.
fn era_at(case: &Case<'_>, at: Nanos) -> Option<usize> {
    if case.fault_between(at, at) {
        return None;
    }
    Some(case.faults.iter().filter(|fault| fault.restored_at < at).count())
}

fn check_real_time(
    case: &mut Case<'_>,
    partition: PartitionIndex,
    view: &AckView,
    acknowledged: &Acknowledged,
) {
    let era = era_at(case, view.acked_at);
    let sent_at = &case.ledger.lanes[view.producer as usize][partition.get()].sent_at;
    let first = view.first_sequence as usize;
    let sent_at = &sent_at[first..first + view.count as usize];
    // The bound rises with the time of the send, so the last send decides for nearly every run.
    let latest = sent_at.iter().max().copied().unwrap_or_default();
    if acknowledged.end_before(latest, era) <= view.base_offset {
        return;
    }
    let late = |(index, sent_at): (usize, &Nanos)| {
        let offset = view.base_offset + index as i64;
        (acknowledged.end_before(*sent_at, era) > offset).then_some((offset, *sent_at))
    };
    let late: Vec<(i64, Nanos)> = sent_at.iter().enumerate().filter_map(late).collect();
    let Some((offset, sent_at)) = late.first().copied() else { return };
    let end = acknowledged.end_before(sent_at, era);
    let id = case.ledger.layout.id(partition);
    case.findings.add_many(Anomaly::RealTimeOrder, Permission::Forbidden, late.len() as u64, || {
        format!(
            "partition {id}: offset {} was acknowledged before producer {} sent what was given offset {offset}",
            end - 1,
            view.producer
        )
    });
}

/// Acknowledged offsets must rise with the sequence. What is kept is judged where it was found; here
/// are only pairs of which something is gone, or whose place in the log may be that of a second copy.
fn check_sends(case: &mut Case<'_>, partition: PartitionIndex, views: &[AckView]) {
    let mut by_send: Vec<&AckView> = views.iter().collect();
    by_send.sort_by_key(|view| (view.producer, view.first_sequence, view.acked_at));
    for pair in by_send.windows(2) {
        let (earlier, later) = (pair[0], pair[1]);
        let falls = earlier.producer == later.producer
            && earlier.records().first < later.records().first
            && later.base_offset < earlier.end();
        if !falls
            || (earlier.is_all_kept()
                && later.is_all_kept()
                && !case.may_lack_copies(later.producer, partition))
            || case.fault_between(earlier.acked_at, later.acked_at)
        {
            continue;
        }
        let id = case.ledger.layout.id(partition);
        case.findings.add(Anomaly::NonMonotonicSend, case.contract.reordering, || {
            format!(
                "partition {id}: producer {} sequence {} was given offset {} after sequence {} had {}",
                later.producer,
                later.first_sequence,
                later.base_offset,
                earlier.first_sequence,
                earlier.base_offset
            )
        });
    }
}

//! The longest time without an ack while an answer was due.

use super::Case;
use super::acks::AckView;
use crate::contract::Permission;
use crate::ledger::{Ledger, Outcome};
use crate::units::{Nanos, PartitionIndex};
use crate::verdict::{Anomaly, Gap};

/// Widens the longest gap so far by those of one partition.
pub(super) fn widen(
    longest: &mut Option<Gap>,
    ledger: &Ledger,
    partition: PartitionIndex,
    views: &[AckView],
) {
    let mut acked: Vec<(Nanos, Nanos)> =
        views.iter().map(|view| (view.acked_at, first_send(ledger, partition, view))).collect();
    acked.sort_unstable();
    let mut last = Nanos(0);
    for (at, sent_at) in acked {
        consider(
            longest,
            ledger,
            partition,
            Gap { partition: ledger.layout.id(partition), from: last, to: at },
            sent_at,
        );
        last = at;
    }
    let (first_unanswered, end) = unanswered_since(ledger, partition, last);
    consider(
        longest,
        ledger,
        partition,
        Gap { partition: ledger.layout.id(partition), from: last, to: end },
        first_unanswered,
    );
}

/// Books a gap that the contract forbids.
pub(super) fn check(case: &mut Case<'_>, longest: Option<Gap>) {
    let (Some(gap), Some(bound)) = (longest, case.contract.unavailable_at_most) else { return };
    if gap.length() > bound {
        case.findings.add(Anomaly::UnavailabilityGap, Permission::Forbidden, || {
            format!("partition {}: no ack for {}, at most {bound} is allowed", gap.partition, gap.length())
        });
    }
}

fn first_send(ledger: &Ledger, partition: PartitionIndex, view: &AckView) -> Nanos {
    ledger.lanes[view.producer as usize][partition.get()].sent_at[view.first_sequence as usize]
}

/// Takes the gap if it is the longest. An answer is due since the earliest send in it, or since its
/// beginning if the record that ended it was sent before.
fn consider(longest: &mut Option<Gap>, ledger: &Ledger, partition: PartitionIndex, gap: Gap, sent_at: Nanos) {
    let so_far = longest.map_or(Nanos(0), |gap| gap.length());
    if gap.length() <= so_far {
        return;
    }
    let lanes = ledger.lanes.iter().map(|lanes| &lanes[partition.get()].sent_at);
    let next_sends = lanes.filter_map(|sends| sends.get(sends.partition_point(|sent| *sent < gap.from)));
    let due = next_sends.copied().fold(sent_at, Nanos::min).max(gap.from);
    let gap = Gap { from: due, ..gap };
    if gap.length() > so_far {
        *longest = Some(gap);
    }
}

/// The first send after the last ack that was never answered, and the last send of all.
fn unanswered_since(ledger: &Ledger, partition: PartitionIndex, last_ack: Nanos) -> (Nanos, Nanos) {
    let mut first = Nanos(u64::MAX);
    let mut end = last_ack;
    for lane in ledger.lanes.iter().map(|lanes| &lanes[partition.get()]) {
        let begin = lane.sent_at.partition_point(|sent| *sent < last_ack);
        for (state, sent_at) in lane.states[begin..].iter().zip(&lane.sent_at[begin..]) {
            if matches!(state.outcome(), Outcome::Pending | Outcome::Info | Outcome::Fail) {
                first = first.min(*sent_at);
                end = end.max(*sent_at);
            }
        }
    }
    (first, end)
}

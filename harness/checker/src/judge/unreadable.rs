//! What is neither found nor proven lost, since the broker refuses it: one that does not serve any more, a partition that
//! it fenced, a range that it answers with an error. To whoever was given the ack that is the same as a loss, so it is
//! held to the same contract.
//!
//! A broker that serves a rotten batch as it is, and one that notices and refuses, are thereby judged alike.

use super::acks::{Joined, Missing};
use super::{Case, lost};
use crate::contract::{Loss, Permission, gives_up_medium};
use crate::reading::Reading;
use crate::units::PartitionIndex;
use crate::verdict::Anomaly;

/// Books a broker that did not serve again, or ended before everything was read. No setting permits that, as long as the medium kept what it promised.
pub(super) fn check_served(case: &mut Case<'_>, reference: &Reading) {
    let Some(why) = &reference.unserved else { return };
    let excused = case.faults.iter().any(|event| gives_up_medium(event.fault.kind));
    case.findings.add(Anomaly::Unrecovered, Permission::when(excused), || why.clone());
}

/// Books the acknowledged records of a partition that lie where the broker answers with an error.
pub(super) fn book(case: &mut Case<'_>, partition: PartitionIndex, joined: &Joined, reference: &Reading) {
    let read = &reference.partitions[partition.get()];
    if read.unreadable.is_empty() {
        return;
    }
    let kept = joined.views.iter().filter(|view| view.kept > 0);
    let kept_end = kept.map(|view| view.kept_end).max().unwrap_or(i64::MIN);
    let id = case.ledger.layout.id(partition);
    let before = case.losses.unreadable;
    for (place, missing) in joined.missing.iter().enumerate() {
        let Some(why) = read.refusal(missing.offset) else { continue };
        if !lost::first_sight(case, partition, missing) {
            continue;
        }
        let fault = case.explanation(missing.acked_at, partition, missing.offset);
        let of_newest = (joined.missing.len() - place) as u64;
        let permission = permission(case, partition, missing, fault, of_newest, kept_end);
        case.losses.unreadable += 1;
        if let Some(fault) = fault {
            let window = case.faults[fault].struck_at.since(missing.acked_at);
            case.losses.window = case.losses.window.max(Some(window));
        }
        let Missing { producer, sequence, offset, acked_at } = *missing;
        case.findings.add(Anomaly::Unreadable, permission, || {
            let when = acked_at.as_secs_f64();
            format!(
                "partition {id}, offset {offset}: producer {producer} sequence {sequence}, acknowledged at {when:.6} s: {why}"
            )
        });
    }
    case.losses.partitions += u64::from(case.losses.unreadable > before);
}

/// As for a loss at the same place: `of_newest` is how many of the partition's newest acknowledged records are gone or
/// refused from this one on.
fn permission(
    case: &Case<'_>,
    partition: PartitionIndex,
    missing: &Missing,
    fault: Option<usize>,
    of_newest: u64,
    kept_end: i64,
) -> Permission {
    let Some(fault) = fault else { return Permission::Forbidden };
    match case.loss_since(missing.acked_at, partition, missing.offset) {
        Loss::Nothing => Permission::Forbidden,
        Loss::Anything | Loss::NothingAcknowledged => Permission::Permitted,
        Loss::Tail { messages, window } => {
            let age = case.faults[fault].struck_at.since(missing.acked_at);
            let allowance = case.contract.flush_allowance.0;
            let is_tail = missing.offset >= kept_end;
            let within_count = messages.is_none_or(|bound| of_newest <= bound);
            let within_time = window.is_none_or(|window| age.0 <= window.0.saturating_add(allowance));
            Permission::when(is_tail && within_count && within_time)
        }
    }
}

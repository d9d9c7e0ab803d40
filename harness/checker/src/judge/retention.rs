//! What retention took: never more than the contract lets it.

use super::Case;
use crate::contract::{Loss, Permission};
use crate::reading::Reading;
use crate::units::PartitionIndex;
use crate::verdict::Anomaly;

/// The most that a record takes in a log beside its value: a batch header of its own (61), the longest fields of the
/// record's own header, a key of the harness (16).
const OVERHEAD_BYTES: u64 = 61 + 32 + 16;

/// Books a partition whose start was deleted although what is left cannot be as large as `retention.bytes`. Where the
/// contract lets the end of a log be lost, what is left may be small for that reason, and nothing is said.
pub(super) fn check(case: &mut Case<'_>, partition: PartitionIndex, reference: &Reading) {
    let Some(retained) = case.contract.retention_bytes.filter(|_| case.contract.loss == Loss::Nothing) else {
        return;
    };
    let read = &reference.partitions[partition.get()];
    let Some((log_start, log_end)) =
        read.bounds.filter(|(start, _)| *start > 0 && read.unreadable.is_empty())
    else {
        return;
    };
    let mut at_most = 0;
    for run in &read.runs {
        let Some(lane) = case.ledger.lane(run.producer, partition) else { continue };
        let sequences =
            run.first_sequence..run.first_sequence.saturating_add(u64::from(run.count)).min(lane.len());
        at_most += sequences.map(|sequence| u64::from(lane.size(sequence)) + OVERHEAD_BYTES).sum::<u64>();
    }
    if at_most < retained {
        let id = case.ledger.layout.id(partition);
        case.findings.add(Anomaly::DeletedEarly, Permission::Forbidden, || {
            format!(
                "partition {id}: offsets below {log_start} were deleted, and {log_start}..{log_end} are \
                 {at_most} bytes at most, where {retained} had to stay"
            )
        });
    }
}

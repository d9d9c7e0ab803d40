//! The cells: outcome at the producer against times found.

use super::Case;
use crate::contract::Permission;
use crate::ledger::{Lane, Outcome, State};
use crate::units::Nanos;
use crate::verdict::{Anomaly, Cells, Losses, Row};

pub(super) struct Counted {
    pub(super) cells: Cells,
    pub(super) application_lost: u64,
}

/// Counts every record, and books what was found although it failed.
pub(super) fn count(case: &mut Case<'_>) -> Counted {
    let mut counted = Counted { cells: Cells::default(), application_lost: 0 };
    let struck: Vec<Nanos> = case.faults.iter().map(|fault| fault.struck_at).collect();
    for (producer, lanes) in case.ledger.lanes.iter().enumerate() {
        for (partition, lane) in case.ledger.layout.partitions().zip(lanes) {
            let mut first = FirstOf::default();
            count_lane(lane, &struck, &mut counted, &mut case.losses, &mut first);
            let id = case.ledger.layout.id(partition);
            let kinds = [(Anomaly::AbortedRead, first.failed), (Anomaly::NeverSentRead, first.never_sent)];
            for (anomaly, (found, sequence)) in kinds {
                case.findings.add_many(anomaly, Permission::Forbidden, found, || {
                    let code = lane.error_code(sequence).map_or_else(String::new, |code| format!(" with code {code}"));
                    format!("partition {id}: producer {producer} sequence {sequence} failed{code} and is in the log")
                });
            }
        }
    }
    counted
}

/// Records found that should not be, as (how many, the first).
#[derive(Default)]
struct FirstOf {
    failed: (u64, u64),
    never_sent: (u64, u64),
}

fn count_lane(
    lane: &Lane,
    struck: &[Nanos],
    counted: &mut Counted,
    losses: &mut Losses,
    first: &mut FirstOf,
) {
    for (sequence, state) in (0u64..).zip(&lane.states) {
        let found = state.found();
        let row = row_of(&mut counted.cells, state.outcome());
        match found {
            0 => row.absent += 1,
            1 => row.once += 1,
            _ => row.more += 1,
        }
        match state.outcome() {
            Outcome::Ack => {
                losses.of_records += 1;
                losses.of_bytes += u64::from(lane.size(sequence));
            }
            Outcome::Sent if found == 0 => count_sent(losses, struck, lane.sent_at[sequence as usize]),
            Outcome::Fail if found > 0 => note(&mut first.failed, sequence),
            Outcome::NeverSent if found > 0 => note(&mut first.never_sent, sequence),
            _ => {}
        }
        counted.application_lost += u64::from(is_application_lost(*state));
    }
}

fn row_of(cells: &mut Cells, outcome: Outcome) -> &mut Row {
    match outcome {
        Outcome::Ack => &mut cells.acknowledged,
        Outcome::AckAfterCut => &mut cells.acknowledged_after_cut,
        Outcome::Fail => &mut cells.failed,
        Outcome::Pending | Outcome::Info => &mut cells.unknown,
        Outcome::Sent => &mut cells.sent,
        Outcome::NeverSent => &mut cells.never_sent,
    }
}

fn is_application_lost(state: State) -> bool {
    state.has(State::ABANDONED)
        && state.found() == 0
        && matches!(state.outcome(), Outcome::Fail | Outcome::Info | Outcome::Pending | Outcome::NeverSent)
}

fn count_sent(losses: &mut Losses, struck: &[Nanos], sent_at: Nanos) {
    if let Some(fault) = struck.iter().find(|fault| **fault >= sent_at) {
        losses.sent_absent += 1;
        losses.sent_window = losses.sent_window.max(Some(fault.since(sent_at)));
    }
}

fn note(first: &mut (u64, u64), sequence: u64) {
    if first.0 == 0 {
        first.1 = sequence;
    }
    first.0 += 1;
}

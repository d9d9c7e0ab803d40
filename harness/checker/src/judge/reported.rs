//! Offsets that brokers reported during the run and that must not go back.

use super::Case;
use crate::contract::Permission;
use crate::reading::{Observation, Observed};
use crate::units::{Nanos, Offset};
use crate::verdict::Anomaly;

/// Holds each answer against those that had arrived before its question was sent.
pub(super) fn check(case: &mut Case<'_>, observations: &[Observation]) {
    let mut by_subject: Vec<&Observation> =
        observations.iter().filter(|seen| seen.observed != Observed::Durable).collect();
    by_subject.sort_by_key(|seen| (seen.partition, seen.observed, seen.asked_at, seen.at));
    for answers in by_subject.chunk_by(|a, b| (a.partition, a.observed) == (b.partition, b.observed)) {
        check_subject(case, answers);
    }
}

fn check_subject(case: &mut Case<'_>, by_question: &[&Observation]) {
    let mut by_answer = by_question.to_vec();
    by_answer.sort_by_key(|seen| seen.at);
    let mut arrived = by_answer.into_iter().peekable();
    let mut highest: Option<(Offset, Nanos)> = None;
    for answer in by_question {
        while let Some(earlier) = arrived.next_if(|earlier| earlier.at < answer.asked_at) {
            highest = highest.max(Some((earlier.offset, earlier.at)));
        }
        let Some((before, since)) = highest.filter(|(before, _)| *before > answer.offset) else { continue };
        book(case, answer, before, since);
        // Said once: the next answer is held against the lower offset.
        highest = Some((answer.offset, answer.asked_at));
    }
}

fn book(case: &mut Case<'_>, answer: &Observation, before: Offset, since: Nanos) {
    let (anomaly, whose, granted) = match answer.observed {
        Observed::Committed { group } => {
            let whose = format!("the committed offset of group {group}");
            (Anomaly::CommittedOffsetWentBack, whose, case.loss_permitted())
        }
        Observed::LogEnd | Observed::Durable => {
            (Anomaly::LogEndWentBack, "the log end".to_owned(), case.contract.read_then_lost)
        }
    };
    let permission =
        if case.may_be_taken_between(since, answer.at) { granted } else { Permission::Forbidden };
    let id = case.ledger.layout.id(answer.partition);
    case.findings.add(anomaly, permission, || {
        format!(
            "partition {id}: {whose} went from {before} to {} at {:.6} s",
            answer.offset,
            answer.at.as_secs_f64()
        )
    });
}

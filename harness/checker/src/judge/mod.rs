//! The comparison of a trial with its contract.
//!
//! In order, each step in a file of its own:
//!
//! 1. acks of what was deleted, which nobody can hold against a log, count after all where the records were lost before (`acks`);
//!    acks between a power cut and the silence after it are booked apart, unless their record is gone and
//!    nothing may be lost (`acks`);
//! 2. the reference reading (the plain final read) marks what was found: phantoms, duplicates, order
//!    within a producer (`found`);
//! 3. partition by partition, acknowledged offsets are joined with the reference: what is at its
//!    offset is kept, the rest is unreadable (`unreadable`), lost, expired (`retention`), compacted away
//!    (`compaction`), reused or displaced (`acks`), ordered or not (`order`), and the time without acks is
//!    measured (`gap`);
//! 4. the other final reads and the polls are held against the reference (`readers`), and reported
//!    offsets against each other (`reported`);
//! 5. the cells are counted, and must add up (`cells`).
//!
//! What a fault explains: an acknowledged record that is gone needs a fault at or after its ack; two
//! acks that contradict each other need one between them. What no fault explains is a violation even
//! where the contract permits loss.

mod acks;
mod cells;
mod compaction;
mod found;
mod gap;
mod lost;
mod order;
mod readers;
mod reported;
mod retention;
mod unreadable;

use crate::contract::{Contract, Loss, Permission};
use crate::fault::{Fault, FaultEvent};
use crate::ledger::Ledger;
use crate::reading::{Observation, Polls, Reader, Reading};
use crate::units::{Nanos, PartitionId, PartitionIndex};
use crate::verdict::{Anomaly, Finding, Losses, Standing, Verdict};
use lost::WorstFirst;
use thiserror::Error;

/// Examples kept of each anomaly.
const EXAMPLES: usize = 5;

/// Everything that is known of a trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What was attempted and answered.
    pub ledger: Ledger,
    /// What was done to the brokers.
    pub faults: Vec<FaultEvent>,
    /// The final reads; one of them plain ([`Reader::FINAL`]).
    pub readings: Vec<Reading>,
    /// Consumers during the run.
    pub polls: Vec<Polls>,
    /// What brokers reported during the run.
    pub observations: Vec<Observation>,
}

/// The trial cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// No reading is the plain final read.
    #[error("no plain final read (read_uncommitted, no forced leader) was made")]
    NoFinalRead,
    /// A reading stops short.
    #[error("partition {partition} was not read from log start to log end by reading {reading}")]
    NotRead {
        /// The partition.
        partition: PartitionId,
        /// Which of the readings.
        reading: usize,
    },
    /// A reading or a consumer was made for another run or other topics.
    #[error("{what} {place} was made for another run or other topics than the ledger")]
    Mismatch {
        /// A reading or polls.
        what: &'static str,
        /// Which of them.
        place: usize,
    },
    /// A fault ends before it begins.
    #[error("fault {place} is out of order: struck, silenced and restored must not go back")]
    FaultOutOfOrder {
        /// Which of the faults.
        place: usize,
    },
}

/// Judges a trial.
///
/// # Errors
/// [`JudgeError`] if evidence is missing, so that no verdict could be trusted.
///
/// # Panics
/// If the cells do not add up to the attempts, which would be a defect of this crate.
pub fn judge(trial: Trial, contract: &Contract) -> Result<Verdict, JudgeError> {
    check_evidence(&trial)?;
    let Trial { ledger, mut faults, mut readings, polls, observations } = trial;
    faults.sort_by_key(|fault| fault.struck_at);
    let mut case = Case::new(ledger, faults, contract);
    found::book_strangers(&mut case, &readings, &polls);
    readings.iter_mut().for_each(|reading| found::normalise(&mut case, reading));
    let (reference, others) = split_reference(readings).ok_or(JudgeError::NoFinalRead)?;

    acks::take_back_deletions(&mut case);
    acks::book_after_cut(&mut case);
    found::mark(&mut case, &reference);
    acks::trust_where_nothing_may_be_lost(&mut case);
    compaction::look(&mut case, &reference);
    unreadable::check_served(&mut case, &reference);
    let mut longest_gap = None;
    for partition in case.ledger.layout.partitions() {
        let joined = acks::join(&mut case, partition, &reference);
        unreadable::book(&mut case, partition, &joined, &reference);
        let lost = lost::book(&mut case, partition, &joined, &reference);
        acks::book_given_again(&mut case, partition, &joined.across, &lost);
        retention::check(&mut case, partition, &reference);
        order::check(&mut case, partition, &joined.views);
        gap::widen(&mut longest_gap, &case.ledger, partition, &joined.views);
    }
    others.iter().for_each(|other| readers::compare(&mut case, &reference, other));
    polls.iter().for_each(|consumer| readers::follow(&mut case, &reference, consumer));
    reported::check(&mut case, &observations);
    gap::check(&mut case, longest_gap);
    let counted = cells::count(&mut case);

    let attempts = case.ledger.attempts();
    assert_eq!(counted.cells.total(), attempts, "the cells must add up to the attempts");
    let lost_records = case.worst.lines(&case.ledger, &case.faults, &polls, &observations);
    let (violations, permitted) = case.findings.into_lists();
    Ok(Verdict {
        standing: if violations.is_empty() { Standing::Kept } else { Standing::Broken },
        violations,
        permitted,
        attempts,
        cells: counted.cells,
        losses: case.losses,
        application_lost: counted.application_lost,
        longest_gap,
        lost_records,
    })
}

fn check_evidence(trial: &Trial) -> Result<(), JudgeError> {
    let Trial { ledger, readings, polls, .. } = trial;
    let readings_of = readings.iter().map(|reading| ("reading", reading.run, &reading.layout)).enumerate();
    let polls_of = polls.iter().map(|polls| ("consumer", polls.run, &polls.layout)).enumerate();
    for (place, (what, run, layout)) in readings_of.chain(polls_of) {
        if run != ledger.run || *layout != ledger.layout {
            return Err(JudgeError::Mismatch { what, place });
        }
    }
    for (place, reading) in trial.readings.iter().enumerate() {
        for partition in trial.ledger.layout.partitions() {
            if !reading.partitions[partition.get()].is_read() {
                let partition = trial.ledger.layout.id(partition);
                return Err(JudgeError::NotRead { partition, reading: place });
            }
        }
    }
    for (place, fault) in trial.faults.iter().enumerate() {
        if fault.silenced_at < fault.struck_at || fault.restored_at < fault.silenced_at {
            return Err(JudgeError::FaultOutOfOrder { place });
        }
    }
    Ok(())
}

fn split_reference(mut readings: Vec<Reading>) -> Option<(Reading, Vec<Reading>)> {
    let plain = readings.iter().position(|reading| reading.reader == Reader::FINAL)?;
    let reference = readings.remove(plain);
    Some((reference, readings))
}

/// The state that the steps share.
struct Case<'a> {
    ledger: Ledger,
    /// By the instant at which they struck.
    faults: Vec<FaultEvent>,
    contract: &'a Contract,
    findings: Findings,
    losses: Losses,
    worst: WorstFirst,
    /// When the last ack came, of any partition.
    last_ack_at: Nanos,
    /// By partition, where logs may be compacted.
    keys: Vec<compaction::Keys>,
}

impl<'a> Case<'a> {
    fn new(ledger: Ledger, faults: Vec<FaultEvent>, contract: &'a Contract) -> Self {
        let (findings, losses, worst) = (Findings::default(), Losses::default(), WorstFirst::default());
        let acks = ledger.lanes.iter().flatten().flat_map(|lane| &lane.acks);
        let last_ack_at = acks.map(|ack| ack.acked_at).max().unwrap_or_default();
        Self { ledger, faults, contract, findings, losses, worst, last_ack_at, keys: Vec::new() }
    }

    /// The faults of which one took what was there at `since` and is gone, if a fault did: those that had not ended by then and
    /// after whose recovery it was not seen, up to the first recovery that was looked at.
    fn suspects(
        &self,
        since: Nanos,
        partition: PartitionIndex,
        offset: i64,
    ) -> impl Iterator<Item = usize> + '_ {
        let recovered_end = move |fault: usize| self.faults[fault].recovered_end(partition);
        let mut is_gone = false;
        (0..self.faults.len())
            .filter(move |&fault| self.faults[fault].restored_at >= since)
            .filter(move |&fault| recovered_end(fault).is_none_or(|end| end.0 <= offset))
            .take_while(move |&fault| !std::mem::replace(&mut is_gone, recovered_end(fault).is_some()))
    }

    /// The fault that may have taken what was there at `since`: the first suspect. Where everybody who looked saw it, the last fault
    /// since.
    fn explanation(&self, since: Nanos, partition: PartitionIndex, offset: i64) -> Option<usize> {
        let later = || (0..self.faults.len()).filter(|fault| self.faults[*fault].restored_at >= since);
        self.suspects(since, partition, offset).next().or_else(|| later().next_back())
    }

    /// Whether a log ended, right after a recovery, before a record that had been acknowledged until then: it was lost there,
    /// whatever was deleted since.
    fn was_cut_off(&self, acked_at: Nanos, partition: PartitionIndex, offset: i64) -> bool {
        let shows = |fault: &FaultEvent| {
            acked_at <= fault.silenced_at && fault.recovered_end(partition).is_some_and(|end| end.0 <= offset)
        };
        self.faults.iter().any(shows)
    }

    /// What a fault may take.
    fn loss_by(&self, fault: usize) -> Loss {
        let FaultEvent { fault: Fault { kind, .. }, .. } = self.faults[fault];
        let of_kind = self.contract.loss_by_kind.iter().find(|(of, _)| *of == kind);
        of_kind.map_or(self.contract.loss, |(_, loss)| *loss)
    }

    /// What may be gone of what was there at `since`: the most that any suspect may have taken.
    fn loss_since(&self, since: Nanos, partition: PartitionIndex, offset: i64) -> Loss {
        let suspected = self.suspects(since, partition, offset).map(|fault| self.loss_by(fault));
        let explained = || self.explanation(since, partition, offset).map(|fault| self.loss_by(fault));
        suspected.reduce(Loss::weaker).or_else(explained).unwrap_or(Loss::Nothing)
    }

    /// What may be gone of what a fault, or one of those after it, took: up to the first recovery that was looked at.
    fn loss_from(&self, fault: usize, partition: PartitionIndex) -> Loss {
        let looked_at = |&fault: &usize| self.faults[fault].recovered_end(partition).is_some();
        let last = (fault..self.faults.len()).find(looked_at).unwrap_or(self.faults.len() - 1);
        (fault..=last).map(|fault| self.loss_by(fault)).reduce(Loss::weaker).unwrap_or(Loss::Nothing)
    }

    /// Whether a fault that may take anything was in effect between two instants.
    fn may_be_taken_between(&self, one: Nanos, other: Nanos) -> bool {
        let takes = |fault: &usize| self.loss_by(*fault) != Loss::Nothing;
        let touches = |fault: &usize| self.faults[*fault].touches(one.min(other), one.max(other));
        (0..self.faults.len()).filter(touches).any(|fault| takes(&fault))
    }

    /// Whether any fault was in effect between two instants.
    fn fault_between(&self, one: Nanos, other: Nanos) -> bool {
        self.faults.iter().any(|fault| fault.touches(one.min(other), one.max(other)))
    }

    fn loss_permitted(&self) -> Permission {
        Permission::when(self.contract.loss != Loss::Nothing)
    }

    /// Whether a record may have been stored twice and lost the copy at `offset`.
    fn copy_may_be_lost(&self, since: Nanos, partition: PartitionIndex, offset: i64) -> bool {
        let mut suspects = self.suspects(since, partition, offset);
        self.contract.duplicates == Permission::Permitted
            && suspects.any(|fault| self.loss_by(fault) != Loss::Nothing)
    }
}

/// Both kinds of findings, tallied by anomaly.
#[derive(Default)]
struct Findings {
    forbidden: Vec<Finding>,
    permitted: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, anomaly: Anomaly, permission: Permission, example: impl FnOnce() -> String) {
        self.add_many(anomaly, permission, 1, example);
    }

    fn add_many(
        &mut self,
        anomaly: Anomaly,
        permission: Permission,
        count: u64,
        example: impl FnOnce() -> String,
    ) {
        if count == 0 {
            return;
        }
        let list = match permission {
            Permission::Forbidden => &mut self.forbidden,
            Permission::Permitted => &mut self.permitted,
        };
        let place = list.iter().position(|finding| finding.anomaly == anomaly).unwrap_or_else(|| {
            list.push(Finding { anomaly, count: 0, examples: Vec::new() });
            list.len() - 1
        });
        list[place].count += count;
        if list[place].examples.len() < EXAMPLES {
            list[place].examples.push(example());
        }
    }

    fn into_lists(self) -> (Vec<Finding>, Vec<Finding>) {
        let sorted = |mut list: Vec<Finding>| {
            list.sort_by_key(|finding| finding.anomaly);
            list
        };
        (sorted(self.forbidden), sorted(self.permitted))
    }
}

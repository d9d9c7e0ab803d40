//! A broker that lies is caught, and for what it did: each lie with the name under which it is reported, and the number
//! of seeds within which it must be.

use highwater_checker::Anomaly;
use highwater_log::mutants::{self, Mutant};
use highwater_sim::{Breach, Outcome, Scenario, run};

/// How a lie is reported.
#[derive(Debug, Clone, Copy)]
enum Report {
    /// By the checker, about records.
    Of(Anomaly),
    /// The data directory looks clean and is not.
    LooksClean,
    /// Retention left less than it had to.
    DeletedEarly,
    /// What was said to be durable is not, and the broker itself finds out and does not start.
    Refused,
}

impl Report {
    fn is_in(self, outcome: &Outcome) -> bool {
        let breaches = |is: fn(&Breach) -> bool| outcome.breaches.iter().any(is);
        match self {
            Report::Of(anomaly) => outcome.violation(anomaly) > 0,
            Report::Refused => breaches(|breach| matches!(breach, Breach::StartRefused(_))),
            Report::DeletedEarly => breaches(|breach| matches!(breach, Breach::DeletedEarly(_))),
            Report::LooksClean => breaches(|breach| *breach == Breach::LooksClean(true)),
        }
    }
}

/// Lies that seeds of the whole broker show. Those that need a death within a flush are shown by the log's own seeds.
const LIES: [(Mutant, Report, u64); 12] = [
    (mutants::ACK_BEFORE_WRITE, Report::Of(Anomaly::LostTail), 20),
    (mutants::DROP_FLUSH_SOMETIMES, Report::Of(Anomaly::LostTail), 300),
    (mutants::SKIP_JOURNAL_FLUSH, Report::Refused, 100),
    (mutants::OFFSET_GIVEN_TWICE, Report::Of(Anomaly::InconsistentOffset), 20),
    (mutants::RECORD_ALTERED, Report::Of(Anomaly::Corrupt), 20),
    (mutants::RETRY_STORED_TWICE, Report::Of(Anomaly::Duplicate), 20),
    (mutants::DUPLICATE_ACKED_AT_ONCE, Report::Of(Anomaly::LostTail), 300),
    (mutants::CHECKPOINT_BEFORE_FLUSH, Report::Refused, 100),
    (mutants::LAST_OF_KEY_DROPPED, Report::Of(Anomaly::LostHole), 60),
    (mutants::TOMBSTONE_DROPPED_EARLY, Report::Of(Anomaly::LostHole), 100),
    (mutants::KEEP_CLEAN_MARKER, Report::LooksClean, 40),
    (mutants::RETENTION_TAKES_TOO_MUCH, Report::DeletedEarly, 200),
];

/// The first seed that reports the lie so.
fn first_seed(mutant: Mutant, report: Report, seeds: u64) -> Option<u64> {
    let _lying = mutant.enable();
    (0..seeds).find(|&seed| report.is_in(&run(seed, &Scenario::seeded(seed))))
}

#[test]
fn every_lie_is_reported_by_its_name() {
    let mut missed = Vec::new();
    for (mutant, report, seeds) in LIES {
        match first_seed(mutant, report, seeds) {
            Some(seed) => println!("{}: {report:?} at seed {seed}", mutant.name),
            None => missed.push(format!("{} is not reported as {report:?} in {seeds} seeds", mutant.name)),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

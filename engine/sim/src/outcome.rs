//! What came of a run.

use std::fmt;

use highwater_checker::{Anomaly, Verdict};
use highwater_io::sim::RunFailure;

/// A promise that was broken and that is not about single records: those are in the [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breach {
    /// A process died by itself, or the world came to a halt.
    Ended(RunFailure),
    /// The broker refused to start on what it had left behind.
    StartRefused(String),
    /// It did not serve within the time that any recovery of so little may take.
    NotServing,
    /// It did not stop when it was asked to.
    NotStopping,
    /// After this end the data directory looks as if it had been stopped cleanly, or it does not after a clean stop.
    LooksClean(bool),
    /// Recovery fenced partitions, or found what belongs to nobody.
    Damage(String),
    /// A producer was told of a storage error.
    StorageError(u64),
    /// What the broker holds could not be read to its end.
    NotReadable(String),
    /// A topic whose creation was acknowledged is gone.
    TopicLost(String),
    /// A topic is there that was never created, or whose deletion was acknowledged.
    TopicBack(String),
    /// A setting whose change was acknowledged is not in effect.
    SettingLost(String),
    /// A log begins before the start that was acknowledged.
    LogStartWentBack(String),
    /// A log begins after every start that was asked for.
    LogStartWentAhead(String),
    /// Retention left less of a log than it was ever asked to keep.
    DeletedEarly(String),
    /// A log ended, after a recovery, below where it had ended after an earlier one, although recovery flushes.
    LogEndWentBack(String),
    /// So many handles outlived every process: something of the broker's keeps itself in memory.
    MemoryKept(usize),
}

impl Breach {
    /// Whether it is the broker's, whatever its disk did: one that died, hangs or leaks does so by itself.
    fn excused_by_nothing(&self) -> bool {
        matches!(self, Breach::Ended(_) | Breach::NotServing | Breach::NotStopping | Breach::MemoryKept(_))
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::Ended(failure) => write!(f, "the run ended by itself: {failure:?}"),
            Breach::StartRefused(why) => write!(f, "the broker does not start: {why}"),
            Breach::NotServing => f.write_str("the broker does not serve"),
            Breach::NotStopping => f.write_str("the broker does not stop"),
            Breach::LooksClean(true) => f.write_str("a directory that was not stopped cleanly looks clean"),
            Breach::LooksClean(false) => {
                f.write_str("a directory that was stopped cleanly does not look clean")
            }
            Breach::Damage(what) => write!(f, "recovery reports damage: {what}"),
            Breach::StorageError(count) => write!(f, "{count} records were answered with a storage error"),
            Breach::NotReadable(why) => write!(f, "the final read fails: {why}"),
            Breach::TopicLost(what) => write!(f, "topic lost: {what}"),
            Breach::TopicBack(what) => write!(f, "topic that should be gone: {what}"),
            Breach::SettingLost(what) => write!(f, "setting lost: {what}"),
            Breach::LogStartWentBack(what) => write!(f, "log start went back: {what}"),
            Breach::LogStartWentAhead(what) => write!(f, "log start went ahead: {what}"),
            Breach::DeletedEarly(what) => write!(f, "deleted early: {what}"),
            Breach::LogEndWentBack(what) => write!(f, "log end went back: {what}"),
            Breach::MemoryKept(handles) => write!(f, "{handles} handles outlived every process"),
        }
    }
}

/// Whose fault a loss is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// Everything that was promised is there.
    Nobody,
    /// The disk acknowledged flushes that it did not do: no broker can keep what it was not given.
    Disk,
    /// The broker.
    Broker,
}

/// Numbers of a run, for whoever wants to see that something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Times the broker was started.
    pub starts: u32,
    /// Deaths of it that took what was not flushed.
    pub power_losses: u32,
    /// Deaths while it was recovering.
    pub deaths_in_recovery: u32,
    /// Records acknowledged.
    pub acked: u64,
    /// Records attempted.
    pub attempts: u64,
    /// Records read at the end.
    pub read: u64,
    /// Journal groups that recoveries replayed.
    pub groups_replayed: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: u64,
    /// Lives in which a log directory failed.
    pub directories_failed: u32,
    /// Records that were acknowledged beside one that failed.
    pub acked_beside: u64,
    /// Acknowledged records that compaction took.
    pub compacted: u64,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What the checker says of the records; absent if they could not be read.
    pub verdict: Option<Verdict>,
    /// What else was broken.
    pub breaches: Vec<Breach>,
    /// Flushes that the disk acknowledged and did not do.
    pub flushes_lied: u64,
    /// Equal for equal seeds, scenarios and programs.
    pub trace_hash: u64,
    /// Numbers.
    pub figures: Figures,
    /// The deaths and recoveries, in words.
    pub story: Vec<String>,
    /// The last events of the world, where the run ended by itself.
    pub trace: Option<String>,
}

impl Outcome {
    /// Whether everything that was promised was kept, by the broker and by the disk.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.culprit() == Culprit::Nobody
    }

    /// How often the checker saw an anomaly that the contract forbids.
    #[must_use]
    pub fn violation(&self, anomaly: Anomaly) -> u64 {
        self.verdict.as_ref().map_or(0, |verdict| verdict.violation(anomaly))
    }

    /// Whose fault it is if something was broken. A broker whose disk lied is not blamed.
    #[must_use]
    pub fn culprit(&self) -> Culprit {
        let lost = self.verdict.as_ref().is_some_and(|verdict| verdict.losses.records > 0);
        let violated = self.verdict.as_ref().is_none_or(|verdict| !verdict.violations.is_empty());
        let broken = violated || !self.breaches.is_empty();
        if self.breaches.iter().any(Breach::excused_by_nothing) {
            return Culprit::Broker;
        }
        match (broken, self.flushes_lied > 0) {
            (false, false) => Culprit::Nobody,
            (false, true) => {
                if lost {
                    Culprit::Disk
                } else {
                    Culprit::Nobody
                }
            }
            (true, true) => Culprit::Disk,
            (true, false) => Culprit::Broker,
        }
    }

    /// What was broken, a line each.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let violations = self.verdict.iter().flat_map(|verdict| &verdict.violations);
        let violations = violations.map(|finding| {
            let example = finding.examples.first().map(String::as_str).unwrap_or_default();
            format!("{} × {}: {example}", finding.anomaly, finding.count)
        });
        let lied = (self.flushes_lied > 0 && !self.is_kept())
            .then(|| format!("the disk lied about {} flushes", self.flushes_lied));
        violations.chain(self.breaches.iter().map(Breach::to_string)).chain(lied).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_that_lies_excuses_no_broker_that_hangs() {
        let outcome = |breach| Outcome {
            seed: 1,
            verdict: None,
            breaches: vec![breach],
            flushes_lied: 1,
            trace_hash: 0,
            figures: Figures::default(),
            story: Vec::new(),
            trace: None,
        };
        assert_eq!(outcome(Breach::NotStopping).culprit(), Culprit::Broker);
        assert_eq!(outcome(Breach::StartRefused("a gap".to_owned())).culprit(), Culprit::Disk);
    }
}

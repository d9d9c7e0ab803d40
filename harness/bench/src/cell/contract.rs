//! What a cell asks of a broker, what the broker says it does, and what it therefore owes.
//!
//! The contract is that of the settings *in effect*: whatever a broker made of what it was asked. A broker that was
//! asked for `flush.messages=1` and reports something else is not judged by the weaker promise; the cell fails.

use highwater_checker::{self as checker, Contract, FaultKind, Scope, Setting};

use crate::broker::admin::Settings;
use crate::broker::driver::Driver;
use crate::workload::Cell;
use crate::workload::settings::{Fault, Flush};

/// The topic setting that lets old records go.
pub const RETENTION_BYTES: &str = "retention.bytes";
/// Kafka's way to say never, in a topic's settings.
const NEVER: &str = "9223372036854775807";
/// Largest record batch that a topic takes by Kafka's default.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;
/// Room for a batch's header and the headers of its records.
const BATCH_OVERHEAD_BYTES: usize = 64 << 10;

/// Topic settings that decide what a broker owes, or how the figures come about; shown as they are in effect.
const SHOWN_OF_TOPIC: [&str; 10] = [
    "cleanup.policy",
    "compression.type",
    "flush.messages",
    "flush.ms",
    "max.message.bytes",
    "min.insync.replicas",
    "message.timestamp.type",
    RETENTION_BYTES,
    "segment.bytes",
    "unclean.leader.election.enable",
];

/// What the topic of a cell is created with.
#[must_use]
pub fn topic_settings(cell: &Cell, of_workload: &Settings) -> Settings {
    let mut settings = of_workload.clone();
    let Flush { messages, ms } = cell.settings.flush;
    let text = |value: Option<u64>| value.map_or(NEVER.to_owned(), |value| value.to_string());
    settings.insert("flush.messages".to_owned(), text(messages));
    settings.insert("flush.ms".to_owned(), text(ms));
    let largest = cell.settings.batch_size_bytes.max(cell.settings.record_size_bytes) + BATCH_OVERHEAD_BYTES;
    if largest > DEFAULT_MAX_MESSAGE_BYTES {
        settings.entry("max.message.bytes".to_owned()).or_insert_with(|| largest.to_string());
    }
    settings
}

/// What a broker reports as in effect.
#[derive(Debug, Clone, Default)]
pub struct Effective {
    /// Of the topic.
    pub topic: Settings,
    /// Of the broker.
    pub broker: Settings,
}

impl Effective {
    /// An error that names the first setting that the broker was asked for and did not take. Settings that it does not
    /// report are believed.
    pub fn check(&self, asked: &Settings) -> Result<(), String> {
        for (name, value) in asked {
            match self.topic.get(name) {
                Some(in_effect) if in_effect != value => {
                    return Err(format!(
                        "the broker was asked for {name}={value} and has {name}={in_effect}"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Those that the report prints, as (name, value).
    #[must_use]
    pub fn shown(&self, driver: &Driver) -> Vec<(String, String)> {
        let of_topic = SHOWN_OF_TOPIC
            .iter()
            .filter_map(|&name| Some((format!("topic {name}"), self.topic.get(name)?.clone())));
        let of_broker = driver
            .shown
            .iter()
            .filter_map(|name| Some((format!("broker {name}"), self.broker.get(name)?.clone())));
        of_topic.chain(of_broker).collect()
    }

    /// What retention must leave of each partition, if it takes anything.
    #[must_use]
    pub fn retention_bytes(&self) -> Option<u64> {
        // Kafka writes "no limit" as −1, which is no such number.
        self.topic.get(RETENTION_BYTES)?.parse().ok()
    }

    /// The settings that decide what may be lost.
    #[must_use]
    pub fn setting(&self, cell: &Cell, driver: &Driver) -> Setting {
        let asked = cell.settings.flush;
        let bounded = |name: &str, asked: Option<u64>| match self.topic.get(name) {
            Some(value) => value.parse::<u64>().ok().filter(|&value| value < i64::MAX as u64),
            None => asked,
        };
        let number = |name: &str| self.topic.get(name)?.parse::<u32>().ok();
        let ms = bounded("flush.ms", asked.ms);
        Setting {
            acks: cell.settings.acks,
            flush: checker::Flush {
                messages: bounded("flush.messages", asked.messages),
                ms,
                check_interval_ms: ms.and_then(|_| driver.flush_check_interval_ms(&self.broker)),
            },
            replication_factor: 1,
            min_insync_replicas: number("min.insync.replicas").unwrap_or(1),
            unclean_leader_election: self
                .topic
                .get("unclean.leader.election.enable")
                .is_some_and(|value| value == "true"),
            eligible_leader_replicas: false,
            idempotence: cell.settings.idempotence,
            max_in_flight: cell.settings.max_in_flight,
        }
    }
}

/// A cell's fault as the checker knows it.
#[must_use]
pub fn fault(fault: Fault) -> Option<checker::Fault> {
    let kind = match fault {
        Fault::None => return None,
        Fault::Kill => FaultKind::ProcessKill,
        Fault::PowerCut => FaultKind::PowerCut,
        Fault::LyingFlush => FaultKind::LyingFlush,
    };
    Some(one_broker(kind))
}

/// A fault of the one broker, which holds everything: to hit one is to hit all.
#[must_use]
pub fn one_broker(kind: FaultKind) -> checker::Fault {
    checker::Fault { kind, scope: Scope::OneBroker, in_sync_replicas: None }
}

/// What a broker owes.
#[must_use]
pub fn contract(setting: &Setting, fault: Option<&checker::Fault>) -> Contract {
    checker::promise(setting, fault)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use highwater_checker::Loss;

    use super::*;
    use crate::workload::Workload;

    fn cell(grid: &str) -> Cell {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.toml");
        std::fs::write(&path, format!("name='w'\ndescription='d'\nseed=1\n[[grid]]\n{grid}")).unwrap();
        Workload::read(&path).unwrap().expand(&["kafka".to_owned()], None).unwrap().remove(0)
    }

    fn kafka() -> Driver {
        let brokers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workloads/brokers");
        Driver::read(&brokers, "kafka").unwrap()
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn topic_is_asked_for_the_policy_in_kafkas_words() {
        let asked = topic_settings(&cell("flush = 'flush.ms=100'"), &settings(&[("segment.bytes", "1")]));
        assert_eq!(
            asked,
            settings(&[("flush.messages", NEVER), ("flush.ms", "100"), ("segment.bytes", "1")])
        );
        let asked = topic_settings(&cell("batch.size = '1MiB'"), &Settings::new());
        assert_eq!(asked["max.message.bytes"], (1_048_576 + 65_536).to_string());
    }

    #[test]
    fn broker_that_did_not_take_a_setting_is_caught() {
        let effective = Effective { topic: settings(&[("flush.messages", NEVER)]), broker: Settings::new() };
        assert_eq!(
            effective.check(&settings(&[("flush.messages", "1")])),
            Err(format!("the broker was asked for flush.messages=1 and has flush.messages={NEVER}"))
        );
        assert_eq!(effective.check(&settings(&[("not.reported", "1")])), Ok(()));
    }

    #[test]
    fn flush_by_time_is_only_as_good_as_the_brokers_look_at_the_clock() {
        let cell = cell("flush = 'flush.ms=100'\nfault = 'power-cut'");
        let effective = |interval: &str| Effective {
            topic: settings(&[("flush.messages", NEVER), ("flush.ms", "100")]),
            broker: settings(&[("log.flush.scheduler.interval.ms", interval)]),
        };
        let owed = |interval| {
            contract(&effective(interval).setting(&cell, &kafka()), fault(Fault::PowerCut).as_ref()).loss
        };
        assert_eq!(owed(NEVER), Loss::UNBOUNDED_TAIL);
        assert!(matches!(owed("50"), Loss::Tail { messages: None, window: Some(_) }));
    }

    #[test]
    fn retention_is_what_the_broker_reports() {
        let of = |value: &str| {
            let topic = settings(&[(RETENTION_BYTES, value)]);
            Effective { topic, broker: Settings::new() }.retention_bytes()
        };
        assert_eq!((of("1048576"), of("-1")), (Some(1_048_576), None));
        assert_eq!(Effective::default().retention_bytes(), None);
    }

    #[test]
    fn disk_that_lies_is_what_the_loss_is_booked_on() {
        let cell = cell("fault = 'lying-flush'");
        let effective = Effective { topic: topic_settings(&cell, &Settings::new()), broker: Settings::new() };
        let setting = effective.setting(&cell, &kafka());
        let owed = contract(&setting, fault(Fault::LyingFlush).as_ref());
        assert_eq!(owed.loss, Loss::Anything);
        assert!(owed.because.contains("the medium gave up what was flushed"), "{}", owed.because);
    }

    #[test]
    fn durable_cell_owes_everything() {
        let cell = cell("fault = 'power-cut'");
        let effective = Effective { topic: topic_settings(&cell, &Settings::new()), broker: Settings::new() };
        let setting = effective.setting(&cell, &kafka());
        assert_eq!(contract(&setting, fault(Fault::PowerCut).as_ref()).loss, Loss::Nothing);
    }
}

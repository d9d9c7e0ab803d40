//! From a workload's cells to the results' tree: configurations, their cells, their trials.
//!
//! The workload's cell is the results' *trial*: one run from one seed. Trials that differ only in repeat and in what
//! their fault is aimed at make one cell of the results; cells that differ only in fault and rate belong to one configuration, so that the report can set the
//! throughput of the one against the loss of the other.

use std::collections::BTreeMap;

use crate::broker::driver::Driver;
use crate::cell::contract::{self, Effective};
use crate::medium::MediumKind;
use crate::results::{self, CellPlan, Comparison, Configuration, Property, Purpose, Sweep};
use crate::workload::grid::CellSettings;
use crate::workload::settings::{Acks, Fault, Flush, Key, Payload, Start};
use crate::workload::{Cell, PairPlace, Workload};

/// One run, and where its results go.
#[derive(Debug, Clone)]
pub(super) struct PlannedTrial {
    /// What to run.
    pub(super) cell: Cell,
    /// Index of the results' cell.
    pub(super) place: usize,
    /// Number of the trial within it.
    pub(super) number: usize,
}

/// What a sweep is going to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) configurations: Vec<Configuration>,
    pub(super) cells: Vec<results::Cell>,
    pub(super) trials: Vec<PlannedTrial>,
}

/// A broker that takes part.
#[derive(Debug, Clone)]
pub(super) struct Contender {
    pub(super) driver: Driver,
    pub(super) home: std::path::PathBuf,
    pub(super) version: String,
}

/// Plans the sweep of `cells`.
pub(super) fn plan(
    workload: &Workload,
    cells: &[Cell],
    contenders: &BTreeMap<String, Contender>,
    medium_of: &dyn Fn(&Cell) -> MediumKind,
) -> Plan {
    let naming = Naming::of(cells);
    let mut plan = Plan { configurations: Vec::new(), cells: Vec::new(), trials: Vec::new() };
    for cell in cells {
        let contender = &contenders[&cell.broker];
        let configuration = naming.configuration(cell);
        if !plan.configurations.iter().any(|known| known.id == configuration) {
            plan.configurations.push(describe(&configuration, workload, cell, contender));
        }
        let id = naming.cell(cell);
        let place = plan.cells.iter().position(|known| known.plan.id == id).unwrap_or_else(|| {
            let plan_of_cell = describe_cell(id, configuration, cell, contender, medium_of(cell));
            plan.cells.push(results::Cell { plan: plan_of_cell, trials: Vec::new() });
            plan.cells.len() - 1
        });
        let number = plan.trials.iter().filter(|trial| trial.place == place).count();
        plan.trials.push(PlannedTrial { cell: cell.clone(), place, number });
    }
    plan
}

fn describe(id: &str, workload: &Workload, cell: &Cell, contender: &Contender) -> Configuration {
    let settings = &cell.settings;
    let overrides = workload.settings.get(&cell.broker);
    Configuration {
        id: id.to_owned(),
        broker: results::Broker {
            name: contender.driver.title.clone(),
            version: contender.version.clone(),
            count: 1,
        },
        setting: Effective::default().setting(cell, &contender.driver),
        workload: results::Workload {
            record_size_bytes: saturate(settings.record_size_bytes),
            partitions: settings.partitions.unsigned_abs(),
            idle_partitions: settings.idle_partitions,
            producers: settings.producers,
            consumers: measured_consumers(settings),
            keyed: settings.key == Key::Unique,
            zero_percent: crate::load::zero_percent(settings.payload),
            compression: settings.compression.to_string(),
            batch_size_bytes: saturate(settings.batch_size_bytes),
            linger_ms: u32::try_from(settings.linger_ms).unwrap_or(u32::MAX),
            cold: settings.start == Start::Cold,
        },
        broker_properties: properties(contender.driver.settings_for(settings.flush, overrides)),
        topic_properties: properties(contract::topic_settings(cell, &workload.topic)),
        producer_properties: properties(crate::load::producer_properties(cell)),
        client_ceiling: None,
    }
}

fn describe_cell(
    id: String,
    configuration: String,
    cell: &Cell,
    contender: &Contender,
    medium: MediumKind,
) -> CellPlan {
    let setting = Effective::default().setting(cell, &contender.driver);
    let purpose = match contract::fault(cell.settings.fault) {
        None => Purpose::Performance,
        Some(fault) => Purpose::Fault { contract: contract::contract(&setting, Some(&fault)), fault },
    };
    CellPlan { id, configuration, purpose, disk: medium.disk_kind(), effective: Vec::new() }
}

/// Settings as the results keep them.
pub(super) fn properties(settings: impl IntoIterator<Item = (String, String)>) -> Vec<Property> {
    settings.into_iter().map(|(name, value)| Property { name, value }).collect()
}

fn saturate(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Pairs of performance cells that ran side by side: those that were planned as such; else of two brokers under the same
/// settings, and of one cell with itself, which shows the noise.
pub(super) fn comparisons(sweep: &Sweep, trials: &[PlannedTrial]) -> Vec<Comparison> {
    let measured = trials.iter().filter_map(|trial| Measured::of(sweep, trial));
    let mut pairs: BTreeMap<(usize, usize, usize), Vec<(Figures, Figures)>> = BTreeMap::new();
    if trials.iter().any(|trial| trial.cell.pair.is_some()) {
        let mut sides: BTreeMap<(u32, u32), [Option<Measured>; 2]> = BTreeMap::new();
        for one in measured {
            if let Some(PairPlace { comparison, number, side }) = one.pair {
                sides.entry((comparison, number)).or_default()[side as usize] = Some(one);
            }
        }
        for ((comparison, _), sides) in sides {
            if let [Some(a), Some(b)] = sides {
                let key = (comparison as usize, a.place, b.place);
                pairs.entry(key).or_default().push((a.figures, b.figures));
            }
        }
    } else {
        // A rate that was offered is the same on both sides, whatever the broker.
        let measured: Vec<Measured> = measured.filter(|one| !one.offered).collect();
        for a in &measured {
            for b in measured.iter().filter(|b| a.is_beside(b)) {
                pairs.entry((0, a.place, b.place)).or_default().push((a.figures, b.figures));
            }
        }
    }
    pairs.into_iter().map(|((_, a, b), pairs)| comparison(sweep, a, b, &pairs)).collect()
}

fn comparison(sweep: &Sweep, a: usize, b: usize, pairs: &[(Figures, Figures)]) -> Comparison {
    let id = |place: usize| sweep.cells[place].plan.id.clone();
    let both = |of: fn(&Figures) -> Option<f64>| pairs.iter().filter_map(|(a, b)| of(a).zip(of(b))).collect();
    Comparison {
        a: id(a),
        b: id(b),
        pairs: both(|of| Some(of.bytes_per_second)),
        drained: both(|of| of.drained_bytes_per_second),
        per_cpu_second: both(|of| of.bytes_per_cpu_second),
        per_machine_cpu_second: both(|of| of.bytes_per_machine_cpu_second),
        p99: both(|of| of.p99),
    }
}

/// What is compared of a trial.
#[derive(Clone, Copy)]
struct Figures {
    bytes_per_second: f64,
    drained_bytes_per_second: Option<f64>,
    /// Of the broker's own processes.
    bytes_per_cpu_second: Option<f64>,
    /// Of the whole machine, less the client's.
    bytes_per_machine_cpu_second: Option<f64>,
    /// In ns.
    p99: Option<f64>,
}

/// A trial without a fault that took real time.
#[derive(Clone, Copy)]
struct Measured {
    place: usize,
    seed: u64,
    repeat: u32,
    pair: Option<PairPlace>,
    offered: bool,
    figures: Figures,
}

impl Measured {
    fn of(sweep: &Sweep, trial: &PlannedTrial) -> Option<Self> {
        let CellSettings { fault, rate, record_size_bytes, .. } = &trial.cell.settings;
        let seed = trial.cell.seed.0;
        let done = sweep.cells[trial.place].trials.iter().find(|done| done.seed == seed)?;
        if *fault != Fault::None || !done.load.is_measured() {
            return None;
        }
        let offered = rate.records_per_second(*record_size_bytes).is_some();
        let latency = if offered { &done.intended } else { &done.service };
        let per = |seconds: f64| (seconds > 0.0).then(|| done.load.bytes as f64 / seconds);
        Some(Measured {
            place: trial.place,
            seed,
            repeat: trial.cell.repeat,
            pair: trial.cell.pair,
            offered,
            figures: Figures {
                bytes_per_second: done.load.bytes_per_second(),
                drained_bytes_per_second: done.load.drained_bytes_per_second(),
                bytes_per_cpu_second: done.load.used.and_then(|used| per(used.cpu.as_secs_f64())),
                bytes_per_machine_cpu_second: done.load.broker_cpu.and_then(|cpu| per(cpu.as_secs_f64())),
                // That of a rate which was not sustained grows with the length of the run.
                p99: latency.quantile(0.99).filter(|_| done.load.is_sustained()).map(|nanos| nanos as f64),
            },
        })
    }

    /// Whether these two are a pair, this one its first. Cells that differ in the broker alone have the same seed;
    /// repeats reverse the order of brokers, and a pair keeps its sides.
    fn is_beside(&self, other: &Measured) -> bool {
        let same_repeat = self.seed == other.seed && self.place < other.place;
        let next_repeat =
            self.place == other.place && self.repeat.is_multiple_of(2) && other.repeat == self.repeat + 1;
        same_repeat || next_repeat
    }
}

/// Ids that a reader can read: acks and flush always, another axis only where the sweep varies it.
struct Naming {
    varies: Vec<&'static str>,
    rate_varies: bool,
    /// Among cells of one fault, as well.
    limit_varies: bool,
}

impl Naming {
    fn of(cells: &[Cell]) -> Self {
        let mut varies = Vec::new();
        if let Some(first) = cells.first() {
            for (place, (name, value)) in axes(&first.settings).into_iter().enumerate() {
                if cells.iter().any(|cell| axes(&cell.settings)[place].1 != value) {
                    varies.push(name);
                }
            }
        }
        // Only among cells of one fault: performance saturates and faults strike a steady load, and both say so already.
        let differ = |of: &dyn Fn(&CellSettings, &CellSettings) -> bool| {
            let apart =
                |a: &Cell, b: &Cell| a.settings.fault == b.settings.fault && of(&a.settings, &b.settings);
            cells.iter().any(|cell| cells.iter().any(|other| apart(cell, other)))
        };
        Naming {
            varies,
            rate_varies: differ(&|a, b| a.rate != b.rate),
            limit_varies: differ(&|a, b| {
                a.fault != Fault::None && a.memory_limit_bytes != b.memory_limit_bytes
            }),
        }
    }

    fn configuration(&self, cell: &Cell) -> String {
        let CellSettings { acks, flush, .. } = cell.settings;
        let flush = if flush == Flush::NEVER { "flush-never".to_owned() } else { flush.to_string() };
        let others = axes(&cell.settings)
            .into_iter()
            .filter(|(name, value)| self.varies.contains(name) && !value.is_empty());
        let others: String = others.map(|(name, value)| format!("-{name}-{value}")).collect();
        slug(&format!("{}-acks-{acks}-{flush}{others}", cell.broker))
    }

    fn cell(&self, cell: &Cell) -> String {
        let fault = match cell.settings.fault {
            Fault::None => "performance".to_owned(),
            fault => fault.to_string(),
        };
        let rate = if self.rate_varies { format!(".{}", cell.settings.rate) } else { String::new() };
        let limit = match cell.settings.memory_limit_bytes {
            Some(bytes) if self.limit_varies && cell.settings.fault != Fault::None => {
                format!(".memory-{bytes}")
            }
            _ => String::new(),
        };
        slug(&format!("{}.{fault}{rate}{limit}", self.configuration(cell)))
    }
}

/// The axes beside acks, flush, rate and fault, in the order in which they stand in a name. How long the disk of a power cut takes
/// for a flush is none: as the instant at which the cut is aimed, it is part of the accident, and those of one fault count together.
fn axes(settings: &CellSettings) -> [(&'static str, String); 14] {
    [
        ("linger.ms", settings.linger_ms.to_string()),
        ("batch.size", settings.batch_size_bytes.to_string()),
        ("record.size", settings.record_size_bytes.to_string()),
        (
            "payload",
            if settings.payload == Payload::Compressible { "compressible" } else { "random" }.to_owned(),
        ),
        ("keyed", (settings.key == Key::Unique).to_string()),
        ("compression", settings.compression.to_string()),
        ("partitions", settings.partitions.to_string()),
        ("idle", settings.idle_partitions.to_string()),
        ("producers", settings.producers.to_string()),
        ("consumers", measured_consumers(settings).to_string()),
        ("idempotence", unusual_idempotence(settings)),
        ("in-flight", settings.max_in_flight.to_string()),
        ("start", settings.start.to_string()),
        ("memory", memory_limit(settings)),
    ]
}

/// Of cells that are measured: where there is a fault, consumers are witnesses.
fn measured_consumers(settings: &CellSettings) -> u32 {
    if settings.fault == Fault::None { settings.consumers } else { 0 }
}

/// Of cells that are measured. A fault cell under a limit stays with its configuration: what is lost is then set beside the
/// speed on the whole machine, and the limit is said with it.
fn memory_limit(settings: &CellSettings) -> String {
    let limit = settings.memory_limit_bytes.filter(|_| settings.fault == Fault::None);
    limit.map_or_else(String::new, |bytes| bytes.to_string())
}

/// Only where it is not what Kafka's producer would do by itself: then `acks` says it already.
fn unusual_idempotence(settings: &CellSettings) -> String {
    match (settings.idempotence, settings.acks) {
        (true, Acks::All) | (false, Acks::Zero | Acks::One) => String::new(),
        (idempotence, _) => idempotence.to_string(),
    }
}

fn slug(text: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    text.to_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::results::{DeviceFloor, Latency, Load, Stamp, Timeline, Trial};

    fn planned(grid: &str, brokers: &[&str]) -> Plan {
        planned_from(grid, brokers, |workload, brokers| workload.expand(brokers, None))
    }

    fn planned_from(
        grid: &str,
        brokers: &[&str],
        cells: impl Fn(&Workload, &[String]) -> Result<Vec<Cell>, crate::workload::Problems>,
    ) -> Plan {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.toml");
        std::fs::write(&path, format!("name='w'\ndescription='d'\nseed=1\n{grid}")).unwrap();
        let workload = Workload::read(&path).unwrap();
        let drivers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workloads/brokers");
        let contender = |name: &&str| {
            let driver = Driver::read(&drivers, name).unwrap();
            ((*name).to_owned(), Contender { driver, home: "/".into(), version: "1".to_owned() })
        };
        let contenders = brokers.iter().map(contender).collect();
        let brokers: Vec<String> = brokers.iter().map(|&name| name.to_owned()).collect();
        plan(&workload, &cells(&workload, &brokers).unwrap(), &contenders, &|cell| {
            MediumKind::for_fault(cell.settings.fault, true)
        })
    }

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.cells.iter().map(|cell| cell.plan.id.as_str()).collect()
    }

    #[test]
    fn cells_of_one_configuration_differ_in_fault_and_rate() {
        let plan = planned(
            "[[grid]]\nfault='none'\nrate='saturating'\n[[grid]]\nfault='kill'\nrate='1 MB/s'\nrepeats=2",
            &["kafka"],
        );
        assert_eq!(plan.configurations.len(), 1);
        let configuration = "kafka-acks-all-flush.messages-1";
        assert_eq!(plan.configurations[0].id, configuration);
        assert_eq!(ids(&plan), [format!("{configuration}.performance"), format!("{configuration}.kill")]);
        let numbers: Vec<_> = plan.trials.iter().map(|trial| (trial.place, trial.number)).collect();
        assert_eq!(numbers, [(0, 0), (1, 0), (1, 1)]);
    }

    #[test]
    fn faults_with_different_aims_are_trials_of_one_cell() {
        let plan = planned("[[grid]]\nfault='power-cut'\nfault_at=['seeded','roll']\nrepeats=2", &["kafka"]);
        assert_eq!(ids(&plan), ["kafka-acks-all-flush.messages-1.power-cut"]);
        assert_eq!(plan.trials.iter().map(|trial| trial.number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn memory_limit_of_a_fault_is_of_its_cell_and_of_a_speed_of_its_configuration() {
        let plan = planned(
            "[[grid]]\nmemory.limit=['1 GiB','2 GiB']\n[[grid]]\nfault='kill'\n\
             [[grid]]\nfault='kill'\nmemory.limit='1 GiB'",
            &["kafka"],
        );
        assert_eq!(
            ids(&plan),
            [
                "kafka-acks-all-flush.messages-1-memory-1073741824.performance",
                "kafka-acks-all-flush.messages-1-memory-2147483648.performance",
                "kafka-acks-all-flush.messages-1.kill",
                "kafka-acks-all-flush.messages-1.kill.memory-1073741824",
            ]
        );
    }

    #[test]
    fn names_tell_apart_what_the_sweep_varies_and_nothing_else() {
        let plan =
            planned("[[grid]]\nacks=[1,'all']\nlinger.ms=[0,5]\nrate=['saturating','5 MB/s']", &["kafka"]);
        assert_eq!(plan.configurations.len(), 4);
        assert!(ids(&plan).contains(&"kafka-acks-1-flush.messages-1-linger.ms-0.performance.5-mb-s"));
        let mut distinct = ids(&plan);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn unusual_idempotence_has_a_name_of_its_own() {
        let plan = planned("[[grid]]\nenable.idempotence=[true,false]", &["kafka"]);
        assert_eq!(
            ids(&plan),
            [
                "kafka-acks-all-flush.messages-1.performance",
                "kafka-acks-all-flush.messages-1-idempotence-false.performance"
            ]
        );
    }

    fn trial(seed: u64, bytes: u64) -> Trial {
        let load = Load {
            elapsed: highwater_checker::Nanos::from_millis(1_000),
            target_records_per_second: None,
            records: bytes,
            bytes,
            failed: 0,
            broker_cpu: None,
            used: None,
            drain: None,
            polled: None,
        };
        Trial {
            seed,
            command: String::new(),
            load,
            service: Latency::default(),
            intended: Latency::default(),
            timeline: Timeline::default(),
            faults: Vec::new(),
            verdict: None,
            window_is_lower_bound: false,
            files: Vec::new(),
        }
    }

    fn swept(plan: &Plan) -> Sweep {
        let floor = DeviceFloor { fdatasync: Latency::default(), write_bytes_per_second: 1.0 };
        Sweep {
            stamp: Stamp {
                title: String::new(),
                started_at: String::new(),
                took: highwater_checker::Nanos(0),
                seed: 1,
                version: String::new(),
                commit: String::new(),
                command: String::new(),
                planned: None,
                pairs: None,
                complete: true,
                stopped: None,
            },
            environment: crate::machine::environment(Path::new("/"), floor),
            configurations: plan.configurations.clone(),
            comparisons: Vec::new(),
            cells: plan.cells.clone(),
            failures: Vec::new(),
        }
    }

    /// CPU of half a second a trial; service times of a millisecond for each byte.
    fn costly(planned: &PlannedTrial, bytes: u64) -> Trial {
        let mut trial = trial(planned.cell.seed.0, bytes);
        let cpu = highwater_checker::Nanos::from_millis(500);
        trial.load.used = Some(results::Used {
            cpu,
            peak_rss_bytes: 1,
            end_rss_bytes: 1,
            memory_limit_bytes: None,
            lap_bytes: None,
        });
        trial.service.record(bytes * 1_000_000);
        trial
    }

    #[test]
    fn planned_pairs_keep_their_sides_and_one_that_is_not_whole_is_left_out() {
        let workload = "[[grid]]\nacks=[1,'all']";
        let pairs = results::Pairs { pairs: 3, noise: true };
        let plan = planned_from(workload, &["kafka"], |workload, brokers| workload.in_pairs(brokers, pairs));
        let mut sweep = swept(&plan);
        // A A' A B, A' A B A, A A' A: the last B is missing.
        for (planned, bytes) in plan.trials.iter().zip([10, 11, 20, 40, 13, 12, 90, 30, 14, 15, 50]) {
            sweep.cells[planned.place].trials.push(costly(planned, bytes));
        }
        let comparisons = comparisons(&sweep, &plan.trials);
        let [noise, other] = comparisons.as_slice() else { panic!("{comparisons:?}") };
        assert_eq!(noise.a, noise.b);
        assert_eq!(noise.pairs, [(10.0, 11.0), (12.0, 13.0), (14.0, 15.0)]);
        assert_eq!(
            (other.a.as_str(), other.b.as_str()),
            (noise.a.as_str(), "kafka-acks-all-flush.messages-1.performance")
        );
        assert_eq!(other.pairs, [(20.0, 40.0), (30.0, 90.0)]);
        assert_eq!(other.per_cpu_second, [(40.0, 80.0), (60.0, 180.0)]);
        assert_eq!(other.p99.len(), 2);
        assert!(other.p99.iter().all(|(a, b)| b / a > 1.9), "{other:?}");
    }

    #[test]
    fn latency_of_a_rate_that_was_not_sustained_is_not_compared() {
        let pairs = results::Pairs { pairs: 2, noise: false };
        let workload = "[[grid]]\nacks=[1,'all']\nrate='1 MB/s'";
        let plan = planned_from(workload, &["kafka"], |workload, brokers| workload.in_pairs(brokers, pairs));
        let mut sweep = swept(&plan);
        for (planned, target) in plan.trials.iter().zip([1.0, 1.0, 1.0, 1e9]) {
            let mut trial = costly(planned, 100);
            trial.intended.record(5);
            trial.load.target_records_per_second = Some(target);
            sweep.cells[planned.place].trials.push(trial);
        }
        let comparisons = comparisons(&sweep, &plan.trials);
        assert_eq!((comparisons[0].pairs.len(), comparisons[0].p99.len()), (2, 1));
    }

    #[test]
    fn pairs_are_of_brokers_side_by_side_and_of_a_cell_with_itself() {
        let plan = planned("[[grid]]\nrepeats=2", &["kafka", "highwater"]);
        let mut sweep = swept(&plan);
        // In the order A B B A: Kafka 10 then 30, Highwater 20 then 40.
        for (planned, bytes) in plan.trials.iter().zip([10, 20, 40, 30]) {
            sweep.cells[planned.place].trials.push(trial(planned.cell.seed.0, bytes));
        }
        let comparisons = comparisons(&sweep, &plan.trials);
        let shown: Vec<_> = comparisons
            .iter()
            .map(|comparison| (comparison.a.as_str(), comparison.b.as_str(), comparison.pairs.clone()))
            .collect();
        let (kafka, highwater) = (
            "kafka-acks-all-flush.messages-1.performance",
            "highwater-acks-all-flush.messages-1.performance",
        );
        assert_eq!(
            shown,
            [
                (kafka, kafka, vec![(10.0, 30.0)]),
                (kafka, highwater, vec![(10.0, 20.0), (30.0, 40.0)]),
                (highwater, highwater, vec![(20.0, 40.0)]),
            ]
        );
    }
}

//! Results made up from a seed, in the shape of a real sweep. For tests only: no figure here was
//! measured, and none may leave this directory.

use highwater_bench::results::{
    Broker, Ceiling, Cell, CellPlan, Comparison, Configuration, DeviceFloor, DiskKind, Environment,
    FaultMark, Latency, Load, Property, Purpose, Stamp, Sweep, Timeline, Trial, Unflushed, Used, Workload,
};
use highwater_checker::verdict::{Gap, Place};
use highwater_checker::{
    Acks, Anomaly, Cells, Fault, FaultKind, Finding, Flush, Loss, Losses, LostRecord, Nanos, Offset,
    PartitionId, Row, Scope, Setting, Standing, Verdict, promise,
};

pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn around(&mut self, value: f64, spread: f64) -> f64 {
        value * (1.0 + spread * (self.unit() + self.unit() - 1.0))
    }
}

/// A setting's value as text.
struct Value(String);

impl<T: std::fmt::Display> From<T> for Value {
    fn from(value: T) -> Self {
        Self(value.to_string())
    }
}

fn property(name: &str, value: impl Into<Value>) -> Property {
    Property { name: name.to_owned(), value: value.into().0 }
}

struct Sort {
    id: &'static str,
    broker: &'static str,
    version: &'static str,
    setting: Setting,
    brokers: u32,
    megabytes: f64,
    p50_us: f64,
}

pub(crate) const KILL: Fault =
    Fault { kind: FaultKind::ProcessKill, scope: Scope::OneBroker, in_sync_replicas: None };
pub(crate) const CUT: Fault =
    Fault { kind: FaultKind::PowerCut, scope: Scope::OneBroker, in_sync_replicas: None };
pub(crate) const SITE: Fault =
    Fault { kind: FaultKind::PowerCut, scope: Scope::AllBrokers, in_sync_replicas: None };

fn sorts() -> Vec<Sort> {
    let one = |id, broker, acks, flush, megabytes, p50_us| Sort {
        id,
        broker,
        version: if broker == "Highwater" { "0.1.0" } else { "4.3.0" },
        setting: Setting {
            idempotence: acks == Acks::All,
            max_in_flight: 5,
            ..Setting::single_broker(acks, flush)
        },
        brokers: 1,
        megabytes,
        p50_us,
    };
    let three = |id, broker, acks, flush, megabytes, p50_us| {
        let sort = one(id, broker, acks, flush, megabytes, p50_us);
        let setting = Setting { replication_factor: 3, min_insync_replicas: 2, ..sort.setting };
        Sort { setting, brokers: 3, ..sort }
    };
    let never = Flush::LEFT_TO_SYSTEM;
    vec![
        one("highwater-0", "Highwater", Acks::Zero, never, 655.0, 900.0),
        one("highwater-1-never", "Highwater", Acks::One, never, 612.0, 1_400.0),
        one("highwater-1-100ms", "Highwater", Acks::One, Flush::every_ms(100, 0), 604.0, 1_450.0),
        one("highwater-1-10k", "Highwater", Acks::One, Flush::every_messages(10_000), 598.0, 1_500.0),
        one("highwater-all-flush1", "Highwater", Acks::All, Flush::EVERY_MESSAGE, 571.0, 1_900.0),
        one("kafka-1-never", "Apache Kafka", Acks::One, never, 402.0, 2_300.0),
        one("kafka-all-flush1", "Apache Kafka", Acks::All, Flush::EVERY_MESSAGE, 74.0, 9_800.0),
        three("highwater-all-flush1-x3", "Highwater", Acks::All, Flush::EVERY_MESSAGE, 214.0, 4_100.0),
        three("kafka-all-never-x3", "Apache Kafka", Acks::All, never, 176.0, 5_200.0),
    ]
}

fn configuration(sort: &Sort) -> Configuration {
    let Sort { setting, .. } = sort;
    let mut topic = vec![property("min.insync.replicas", setting.min_insync_replicas)];
    topic.extend(setting.flush.messages.map(|n| property("flush.messages", n)));
    topic.extend(setting.flush.ms.map(|n| property("flush.ms", n)));
    Configuration {
        id: sort.id.to_owned(),
        broker: Broker {
            name: sort.broker.to_owned(),
            version: sort.version.to_owned(),
            count: sort.brokers,
        },
        setting: *setting,
        workload: Workload {
            record_size_bytes: 1024,
            partitions: 16,
            idle_partitions: 0,
            producers: 4,
            consumers: 2,
            keyed: false,
            zero_percent: 0,
            compression: "none".to_owned(),
            batch_size_bytes: 131_072,
            linger_ms: 5,
            cold: false,
        },
        broker_properties: vec![property("num.network.threads", 3)],
        topic_properties: topic,
        producer_properties: vec![
            property("acks", setting.acks),
            property("enable.idempotence", setting.idempotence),
            property("batch.size", 131_072),
            property("linger.ms", 5),
        ],
        client_ceiling: Some(Ceiling { records_per_second: 686_000.0, bytes_per_second: 7.0e8 }),
    }
}

fn latency(rng: &mut Rng, p50_us: f64, samples: u32) -> Latency {
    let mut latency = Latency::default();
    for _ in 0..samples {
        let tail = 1.0 / (1.0 - rng.unit()).powf(0.42);
        latency.record((rng.around(p50_us, 0.5) * 1_000.0 * (0.55 + 0.45 * tail)) as u64);
    }
    latency
}

fn timeline(rng: &mut Rng, megabytes: f64, p50_us: f64, fault: Option<(f64, f64)>) -> Timeline {
    let mut line = Timeline { bucket: Nanos::from_millis(100), ..Timeline::default() };
    for bucket in 0..200 {
        let now = f64::from(bucket) / 10.0;
        let down = fault.is_some_and(|(struck, restored)| now >= struck && now < restored);
        let catching_up = fault.is_some_and(|(_, restored)| now >= restored && now < restored + 1.5);
        let rate = if down { 0.0 } else { rng.around(megabytes, 0.12) * if catching_up { 1.3 } else { 1.0 } };
        let slow = if catching_up { 60.0 } else { 1.0 };
        line.bytes.push((rate * 1e5) as u64);
        line.acked.push((rate * 1e5 / 1024.0) as u32);
        line.p50_us.push((!down).then(|| (rng.around(p50_us, 0.2) * slow) as u32));
        line.p99_us.push((!down).then(|| (rng.around(p50_us * 3.1, 0.4) * slow) as u32));
        line.errors.push(if down && rng.unit() < 0.4 { 37 } else { 0 });
    }
    line
}

fn trial(rng: &mut Rng, sort: &Sort, cell: &str, number: u64, fault: Option<&Fault>) -> Trial {
    let megabytes = rng.around(sort.megabytes, 0.05);
    let bytes = (megabytes * 20.0 * 1e6) as u64;
    let struck = 5.0 + 10.0 * rng.unit();
    let restored = struck + 1.2 + rng.unit();
    let seed = rng.next();
    Trial {
        seed,
        command: format!("highwater-bench trial --cell {cell} --seed {seed}"),
        load: Load {
            elapsed: Nanos(20_000_000_000),
            target_records_per_second: None,
            records: bytes / 1024,
            bytes,
            failed: 0,
            broker_cpu: Some(Nanos((bytes as f64 / 1.9) as u64)),
            used: Some(Used {
                cpu: Nanos((bytes as f64 / 0.4) as u64),
                peak_rss_bytes: 48_000_000,
                end_rss_bytes: 40_000_000,
                memory_limit_bytes: None,
                lap_bytes: Some(1 << 30),
            }),
            drain: fault.is_none().then_some(Nanos::from_millis(5_000)),
            polled: None,
        },
        service: latency(rng, sort.p50_us * 0.8, 1_500),
        intended: latency(rng, sort.p50_us, 1_500),
        timeline: timeline(rng, megabytes, sort.p50_us, fault.map(|_| (struck, restored))),
        faults: fault
            .map(|fault| FaultMark {
                fault: *fault,
                struck_at: seconds(struck),
                restored_at: seconds(restored),
                since_last_ack: Some(Nanos::from_millis(3)),
                aim: None,
                unflushed: fault
                    .kind
                    .cuts_power()
                    .then_some(Unflushed { sectors: 8 * (number % 3), requests: 0 }),
            })
            .into_iter()
            .collect(),
        verdict: fault.map(|fault| verdict(rng, sort, fault, struck, bytes / 1024)),
        window_is_lower_bound: fault.is_some_and(|fault| {
            fault.kind.cuts_power()
                && sort.setting.flush == Flush::LEFT_TO_SYSTEM
                && sort.id == "highwater-1-never"
                && number == 3
        }),
        files: vec![format!("cells/{cell}/logs/trial-{number:04}/broker.log")],
    }
}

fn seconds(value: f64) -> Nanos {
    Nanos((value * 1e9) as u64)
}

/// Loss as the contract permits it, now and then none.
fn verdict(rng: &mut Rng, sort: &Sort, fault: &Fault, struck: f64, acked: u64) -> Verdict {
    let rate = acked as f64 / 20.0;
    let window = match promise(&sort.setting, Some(fault)).loss {
        Loss::Nothing => 0.0,
        Loss::NothingAcknowledged if fault.kind == FaultKind::ProcessKill => 0.002 * rng.unit(),
        Loss::Tail { window: Some(window), .. } => window.as_secs_f64() * rng.unit(),
        Loss::Tail { messages: Some(messages), .. } => messages as f64 / rate * 16.0 * rng.unit() * 0.9,
        _ if rng.unit() < 0.1 => 0.0,
        _ => (struck * 0.6) * rng.unit().powf(0.4),
    };
    let lost = (rate * window) as u64;
    let zero = sort.setting.acks == Acks::Zero;
    let (acked, sent) = if zero { (0, acked) } else { (acked, 0) };
    let lost_acked = if zero { 0 } else { lost };
    let acknowledged = Row { absent: lost_acked, once: acked - lost_acked, more: 0 };
    let sent_row =
        Row { absent: if zero { lost } else { 0 }, once: sent - if zero { lost } else { 0 }, more: 0 };
    let unknown = Row { absent: rng.next() % 900, once: rng.next() % 700, more: 0 };
    let after_cut = if fault.kind.cuts_power() && !zero { rng.next() % 60 } else { 0 };
    let cells = Cells {
        acknowledged,
        acknowledged_after_cut: Row { absent: after_cut, once: 0, more: 0 },
        unknown,
        sent: sent_row,
        ..Cells::default()
    };
    let window = (lost > 0).then(|| seconds(window));
    let mut permitted = Vec::new();
    if lost_acked > 0 {
        let examples = vec![
            "partition 0-3, offset 71204: producer 2 sequence 17801, acknowledged at 8.104223 s".to_owned(),
        ];
        permitted.push(Finding { anomaly: Anomaly::LostTail, count: lost_acked, examples });
    }
    Verdict {
        standing: Standing::Kept,
        violations: Vec::new(),
        permitted,
        attempts: cells.total(),
        cells,
        losses: Losses {
            records: lost_acked,
            bytes: lost_acked * 1024,
            of_records: acked,
            of_bytes: acked * 1024,
            tail: lost_acked,
            partitions: if lost_acked > 0 { 16 } else { 0 },
            window: window.filter(|_| !zero),
            sent_absent: if zero { lost } else { 0 },
            sent_window: window.filter(|_| zero),
            ..Losses::default()
        },
        application_lost: 0,
        longest_gap: Some(Gap {
            partition: PartitionId { topic: 0, partition: 3 },
            from: seconds(struck),
            to: seconds(struck + 1.3 + rng.unit()),
        }),
        lost_records: (0..lost_acked.min(30)).map(|n| lost_record(n, struck)).collect(),
    }
}

fn lost_record(number: u64, struck: f64) -> LostRecord {
    LostRecord {
        partition: PartitionId { topic: 0, partition: (number % 16) as u32 },
        producer: (number % 4) as u32,
        sequence: 17_000 + number,
        offset: Offset(71_000 + number as i64),
        value_len: 1024,
        sent_at: seconds(struck - 2.0 + number as f64 / 1e4),
        acked_at: seconds(struck - 1.998 + number as f64 / 1e4),
        place: Place::Tail,
        fault_at: Some(seconds(struck)),
        last_seen: number.is_multiple_of(3).then(|| (seconds(struck - 1.9), 1)),
        durable_offset: Some((seconds(struck - 0.4), Offset(70_400))),
    }
}

/// A whole sweep, in which every contract was kept.
pub(crate) fn sweep(seed: u64, trials: u64) -> Sweep {
    let mut rng = Rng(seed);
    let sorts = sorts();
    let mut cells = Vec::new();
    for sort in &sorts {
        let mut add = |purpose: Purpose, suffix: &str, disk: DiskKind, trials: u64| {
            let id = format!("{}.{suffix}", sort.id);
            let fault = match &purpose {
                Purpose::Fault { fault, .. } => Some(*fault),
                Purpose::Performance => None,
            };
            let trials =
                (0..trials).map(|number| trial(&mut rng, sort, &id, number, fault.as_ref())).collect();
            let effective = vec![
                property("log.flush.interval.messages", 1),
                property("log.segment.bytes", 1_073_741_824),
            ];
            let plan = CellPlan { id, configuration: sort.id.to_owned(), purpose, disk, effective };
            cells.push(Cell { plan, trials });
        };
        add(Purpose::Performance, "speed", DiskKind::Directory, trials.min(8));
        add(Purpose::Performance, "steady", DiskKind::Directory, 1);
        let faults = if sort.brokers == 1 {
            vec![(KILL, "kill"), (CUT, "cut")]
        } else {
            vec![(KILL, "kill"), (CUT, "cut"), (SITE, "site")]
        };
        for (fault, name) in faults {
            let contract = promise(&sort.setting, Some(&fault));
            add(Purpose::Fault { fault, contract }, name, DiskKind::PowerSwitch, trials);
        }
    }
    // At a fixed rate, which every setting reaches.
    for cell in cells.iter_mut().filter(|cell| cell.plan.id.ends_with(".steady")) {
        for load in cell.trials.iter_mut().map(|trial| &mut trial.load) {
            (load.records, load.bytes) = (20 * 20_000, 20 * 20_000 * 1024);
            load.target_records_per_second = Some(20_000.0);
        }
    }
    // Faults strike a load of that rate, too.
    for cell in cells.iter_mut().filter(|cell| matches!(cell.plan.purpose, Purpose::Fault { .. })) {
        cell.trials.iter_mut().for_each(|trial| trial.load.target_records_per_second = Some(20_000.0));
    }
    Sweep {
        stamp: Stamp {
            title: "Made-up sample".to_owned(),
            started_at: "2001-01-01T00:00:00Z".to_owned(),
            took: Nanos(5_400_000_000_000),
            seed,
            version: "0.1.0".to_owned(),
            commit: "0000000".to_owned(),
            command: format!("highwater-bench sweep workloads/sample.toml --seed {seed}"),
            planned: None,
            pairs: None,
            complete: true,
            stopped: None,
        },
        environment: environment(&mut rng),
        configurations: sorts.iter().map(configuration).collect(),
        comparisons: vec![
            Comparison {
                a: "highwater-all-flush1.speed".to_owned(),
                b: "kafka-all-flush1.speed".to_owned(),
                pairs: pairs(&mut rng, 571.0, 74.0),
                drained: Vec::new(),
                per_cpu_second: Vec::new(),
                per_machine_cpu_second: Vec::new(),
                p99: Vec::new(),
            },
            Comparison {
                a: "highwater-all-flush1.speed".to_owned(),
                b: "highwater-all-flush1.speed".to_owned(),
                pairs: pairs(&mut rng, 571.0, 571.0),
                drained: Vec::new(),
                per_cpu_second: Vec::new(),
                per_machine_cpu_second: Vec::new(),
                p99: Vec::new(),
            },
        ],
        cells,
        failures: Vec::new(),
    }
}

fn pairs(rng: &mut Rng, a: f64, b: f64) -> Vec<(f64, f64)> {
    (0..12).map(|_| (rng.around(a * 1e6, 0.05), rng.around(b * 1e6, 0.05))).collect()
}

fn environment(rng: &mut Rng) -> Environment {
    let mut fdatasync = Latency::default();
    (0..2_000).for_each(|_| fdatasync.record(rng.around(116_000.0, 0.5) as u64));
    Environment {
        kernel: "Linux 0.0.0-sample".to_owned(),
        cpu_model: "Sample processor".to_owned(),
        cpus: 2,
        memory_bytes: 16_000_000_000,
        hypervisor: Some("KVM".to_owned()),
        filesystem: "ext4".to_owned(),
        mount_options: "rw,relatime".to_owned(),
        device: "virtio block device, write back".to_owned(),
        floor: DeviceFloor { fdatasync, write_bytes_per_second: 1.9e9 },
        client_ceiling: Some(Ceiling { records_per_second: 1.4e6, bytes_per_second: 1.43e9 }),
        tunables: vec![
            property("vm.dirty_expire_centisecs", 3000),
            property("vm.dirty_background_ratio", 10),
        ],
        replicas_share_a_disk: true,
    }
}

/// Breaks a contract in one trial: durable acks, and records gone from the middle of the log.
pub(crate) fn break_contract(sweep: &mut Sweep, cell: &str) {
    let cell = sweep.cells.iter_mut().find(|known| known.plan.id == cell).expect("the cell exists");
    let verdict = cell.trials[2].verdict.as_mut().expect("it was judged");
    verdict.standing = Standing::Broken;
    verdict.losses.records = 312;
    verdict.losses.bytes = 312 * 1024;
    verdict.losses.holes = 312;
    verdict.losses.window = Some(Nanos::from_millis(840));
    verdict.cells.acknowledged.absent += 312;
    verdict.cells.acknowledged.once -= 312;
    let examples = vec![
        "partition 0-3, offset 71204: producer 2 sequence 17801, acknowledged at 8.104223 s".to_owned(),
        "partition 0-3, offset 71205: producer 2 sequence 17802, acknowledged at 8.104223 s".to_owned(),
    ];
    verdict.violations.push(Finding { anomaly: Anomaly::LostHole, count: 312, examples });
    verdict.lost_records =
        (0..30).map(|n| LostRecord { place: Place::Hole, ..lost_record(n, 9.0) }).collect();
}

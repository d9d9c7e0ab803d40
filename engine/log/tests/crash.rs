//! The log under crashes: random work on small files, so that a short run laps the journal, rolls, settles, truncates,
//! deletes, compacts; the process killed or the power cut at any moment, recovery included; then what is left against what was
//! promised. A partition that was deleted is made anew, under its id or another.
//!
//! `HIGHWATER_SEEDS=10000` sets the number of seeds, `HIGHWATER_FIRST_SEED` the first, `HIGHWATER_SEED=17` runs one.
//!
//! The same runs with an engine that lies prove that a lie would be found.

mod common;

#[path = "common/model.rs"]
mod model;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use common::claims::BY_SEEDS;
use common::{keyed_batch_of, open_with, options, read_from, small_log, small_shard};
use highwater_io::Io;
use highwater_io::sim::{DiskConfig, NodeId, TornUnit, World, WorldConfig};
use highwater_log::verify::verify;
use highwater_log::{LogConfig, OpenOptions, Origin, Partition, ShardConfig, ShardLogs};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};
use model::{Accepted, Crash, DELETE_RETENTION_MS, PartitionModel};

const PARTITIONS: i32 = 5;
const WORKERS: usize = 4;

/// What the test knows, outside the world that crashes.
#[derive(Default)]
struct Truth {
    partitions: RefCell<BTreeMap<i32, PartitionModel>>,
    next_value: Cell<u64>,
    epoch: Cell<i32>,
    /// The first thing that was wrong.
    violation: RefCell<Option<String>>,
    history: RefCell<VecDeque<(i32, String)>>,
    /// Whether retention runs.
    retaining: Cell<bool>,
    /// Whether compaction runs.
    compacting: Cell<bool>,
    recovered: Cell<bool>,
    last_crash: Cell<Option<Crash>>,
}

impl Truth {
    /// What compaction took away was superseded by records up to here, none of which may be cut off.
    fn note_compacted(&self) {
        for model in self.partitions.borrow_mut().values_mut() {
            model.least_cut = model.accepted.last_key_value().map_or(model.least_cut, |(last, _)| last + 1);
        }
    }

    /// Notes what was done, for the message of a violation.
    fn note(&self, partition: i32, what: impl FnOnce() -> String) {
        let mut history = self.history.borrow_mut();
        if history.len() == 4_000 {
            history.pop_front();
        }
        history.push_back((partition, what()));
    }

    /// The last things that were done to a partition.
    fn history_of(&self, partition: i32) -> String {
        let history = self.history.borrow();
        let of = history.iter().filter(|(which, _)| *which == partition || *which < 0);
        let lines: Vec<&str> = of.map(|(_, what)| what.as_str()).collect();
        lines[lines.len().saturating_sub(60)..].join("\n  ")
    }

    fn violate(&self, what: String) {
        self.violation.borrow_mut().get_or_insert(what);
    }

    /// Every other creation makes a new topic, under the same name.
    fn id(&self, partition: i32) -> TopicPartition {
        let topic = self.with(partition, |model| model.topic);
        TopicPartition {
            topic_id: TopicId(uuid::Uuid::from_u128(u128::from(topic) + 1)),
            partition: PartitionIndex(partition),
        }
    }

    fn with<R>(&self, partition: i32, change: impl FnOnce(&mut PartitionModel) -> R) -> R {
        change(self.partitions.borrow_mut().entry(partition).or_default())
    }
}

/// A small generator of its own, so that the work does not change with the world's draws.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(Rc::new(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)))
    }

    fn below(&self, bound: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

fn log_config(dice: &Dice) -> LogConfig {
    let flush_messages = [1, 1, 1, 4, u64::MAX][dice.below(5) as usize];
    let flush_ms = (dice.below(3) == 0).then_some(Duration::from_millis(5));
    let retention_bytes = (dice.below(4) == 0).then_some(60 << 10);
    // `delete`, `compact`, both.
    let policy = dice.below(4);
    LogConfig {
        flush_messages,
        flush_ms,
        retention_bytes,
        delete_enabled: policy != 1,
        compact_enabled: policy <= 1 || policy == 2 && dice.below(2) == 0,
        min_cleanable_dirty_ppm: 10_000,
        delete_retention: Duration::from_millis(DELETE_RETENTION_MS.unsigned_abs()),
        ..small_log()
    }
}

/// Settings for a log, noted before they are given to it.
fn settings(truth: &Truth, dice: &Dice, partition: i32) -> LogConfig {
    let config = log_config(dice);
    truth.with(partition, |model| model.compacted |= config.compact_enabled);
    config
}

/// One life of the process: recover, check, work until the world ends it.
async fn life(io: Io, truth: Rc<Truth>, dice: Dice) {
    truth.recovered.set(false);
    if dice.below(4) == 0 {
        check_directory(&io, &truth).await;
    }
    // Few descriptors, so that segments are closed and opened again between any two steps, or as many as anybody wants.
    let max_open_segments = [1, 2, 4, 4096][dice.below(4) as usize];
    let shard = ShardConfig { max_open_segments, ..small_shard() };
    let (_dir, logs, report) = open_with(&io, OpenOptions { shard, ..options() }).await;
    if !report.fenced.is_empty() || !report.strays.is_empty() {
        let history = (0..PARTITIONS).map(|p| format!("{p}:\n  {}", truth.history_of(p))).collect::<String>();
        truth.violate(format!("recovery reports damage: {report:?}\n{history}"));
    }
    check_recovered(&io, &truth, &logs).await;
    truth.retaining.set(false);
    if truth.compacting.replace(false) {
        // It may have been decided before the end came.
        truth.note_compacted();
    }
    truth.recovered.set(true);
    truth.epoch.set(truth.epoch.get() + 1);
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| io.spawn(work(io.clone(), logs.clone(), Rc::clone(&truth), dice.clone())))
        .collect();
    for worker in workers {
        worker.await;
    }
}

/// Whatever a crash leaves is in order: what a start would not mend is damage.
async fn check_directory(io: &Io, truth: &Truth) {
    let dir = Path::new(common::DIR);
    // Before anything of it is durable it is nothing that could be checked.
    if !io.fs().exists(dir).await.expect("readable")
        || io.fs().read_dir(dir).await.expect("readable").is_empty()
    {
        return;
    }
    let report = verify(io, dir, |_| {}).await.expect("nobody uses it");
    if let Some(problem) = report.problems.first() {
        truth.violate(format!("verify finds damage: {problem}"));
    }
}

async fn check_recovered(io: &Io, truth: &Truth, logs: &ShardLogs) {
    let now_ms = io.wall_time().as_millis();
    let crash = truth.last_crash.get().unwrap_or(Crash::Kill);
    let known: Vec<i32> = truth.partitions.borrow().keys().copied().collect();
    for log in logs.partitions() {
        let partition = log.id().partition.0;
        let may_be_there = truth.with(partition, |model| model.created || model.creating);
        if truth.id(partition) != log.id() || !may_be_there {
            truth.violate(format!("partition {partition} was deleted and is back"));
        }
    }
    for partition in known {
        let Some(log) = logs.partition(&truth.id(partition)) else {
            truth.with(partition, |model| {
                if model.created && !model.deleting {
                    truth.violate(format!("partition {partition} is gone\n{}", truth.history_of(partition)));
                }
                model.begin_anew();
            });
            continue;
        };
        let marks = log.watermarks().get();
        let values = read_from(&log, marks.log_start_offset).await;
        let values: Vec<(i64, Vec<u8>)> =
            values.into_iter().map(|(offset, value)| (offset.0, value)).collect();
        truth.with(partition, |model| {
            model.created = true;
            model.creating = false;
            model.deleting = false;
            let (start, end) = (marks.log_start_offset.0, marks.log_end_offset.0);
            let retaining = truth.retaining.get();
            if let Err(what) = model.check_recovered(crash, retaining, start, end, &values, now_ms) {
                let offsets: Vec<i64> = values.iter().map(|(offset, _)| *offset).collect();
                let history = truth.history_of(partition);
                truth.violate(format!(
                    "partition {partition} after {crash:?}: {what}\nread: {start}..{end}, {offsets:?}\nhistory:\n  {history}"
                ));
            }
        });
        truth.note(partition, || format!("recovered {}..{}", marks.log_start_offset, marks.log_end_offset));
    }
}

async fn work(io: Io, logs: ShardLogs, truth: Rc<Truth>, dice: Dice) {
    loop {
        if let Some(failure) = logs.failure() {
            truth.violate(format!("storage failed on a sound disk: {failure}"));
            return;
        }
        let partition = dice.below(PARTITIONS as u64) as i32;
        let Some(log) = logs.partition(&truth.id(partition)) else {
            create(&io, &logs, &truth, &dice, partition).await;
            continue;
        };
        if truth.with(partition, |model| model.deleting || !model.created) {
            io.sleep(Duration::from_micros(200)).await;
            continue;
        }
        match dice.below(200) {
            0..=1 => delete(&logs, &truth, partition).await,
            2..=5 => truncate(&log, &truth, &dice, partition).await,
            6..=9 => delete_records(&log, &truth, &dice, partition).await,
            10..=11 => {
                truth.note(-1, || "checkpoint".to_owned());
                let done = logs.checkpoint().await.is_ok();
                truth.note(-1, || format!("checkpoint done: {done}"));
            }
            12..=13 => apply_retention(&logs, &truth).await,
            14..=15 => log.set_config(settings(&truth, &dice, partition)),
            36..=39 => compact(&logs, &truth).await,
            16..=25 => read_somewhere(&log, &truth, &dice, partition).await,
            26..=35 => io.sleep(Duration::from_micros(dice.below(3_000))).await,
            _ => append(&io, &log, &truth, &dice, partition).await,
        }
    }
}

async fn create(io: &Io, logs: &ShardLogs, truth: &Truth, dice: &Dice, partition: i32) {
    let fresh = truth.with(partition, |model| {
        !model.created && !model.deleting && !std::mem::replace(&mut model.creating, true)
    });
    if !fresh {
        io.sleep(Duration::from_micros(100)).await;
        return;
    }
    truth.note(partition, || format!("creating {}", truth.id(partition).topic_id));
    if logs.create_partition(truth.id(partition), "topic", settings(truth, dice, partition)).await.is_ok() {
        truth.with(partition, |model| {
            model.created = true;
            model.creating = false;
        });
    }
}

async fn delete(logs: &ShardLogs, truth: &Truth, partition: i32) {
    let busy = truth.with(partition, |model| std::mem::replace(&mut model.deleting, true));
    truth.note(partition, || format!("deleting {}", truth.id(partition).topic_id));
    if !busy && logs.delete_partition(&truth.id(partition)).await.is_ok() {
        truth.with(partition, PartitionModel::begin_anew);
        truth.note(partition, || "deleted".to_owned());
    }
}

async fn truncate(log: &Partition, truth: &Truth, dice: &Dice, partition: i32) {
    let offset = truth.with(partition, |model| {
        let end = model.accepted.last_key_value().map_or(model.start, |(last, _)| last + 1);
        // Not below the start, as replication never does.
        let offset = (end - dice.below(6).cast_signed()).max(model.start).max(model.least_cut);
        let housekeeping = truth.retaining.get() || truth.compacting.get();
        let busy = model.truncating_to.is_some() || model.moving_start_to.is_some() || housekeeping;
        if !busy {
            model.truncating_to = Some(offset);
        }
        (!busy).then_some(offset)
    });
    let Some(offset) = offset else { return };
    truth.note(partition, || format!("truncating to {offset}"));
    if log.truncate_to(Offset(offset)).await.is_ok() {
        truth.note(partition, || format!("truncated to {offset}: {:?}", log.watermarks().get()));
        truth.with(partition, |model| model.truncated(offset));
    }
}

async fn delete_records(log: &Partition, truth: &Truth, dice: &Dice, partition: i32) {
    let offset = truth.with(partition, |model| {
        let busy = model.truncating_to.is_some() || model.moving_start_to.is_some();
        let offset = (model.start + dice.below(30).cast_signed()).min(model.written_end);
        if !busy {
            model.moving_start_to = Some(offset);
        }
        (!busy).then_some(offset)
    });
    let Some(offset) = offset else { return };
    truth.note(partition, || format!("moving the start to {offset}"));
    if let Ok(start) = log.delete_records_before(Offset(offset)).await {
        truth.note(partition, || format!("moved the start to {start}"));
        truth.with(partition, |model| {
            model.moving_start_to = None;
            model.start = model.start.max(start.0);
            model.acknowledge(start.0, true);
        });
    }
}

/// Retention may move any start anywhere below the end.
async fn apply_retention(logs: &ShardLogs, truth: &Truth) {
    let cutting = truth.partitions.borrow().values().any(|model| model.truncating_to.is_some());
    if cutting || truth.retaining.replace(true) {
        return;
    }
    truth.note(-1, || "retention".to_owned());
    let done = logs.apply_retention().await.is_ok();
    truth.note(-1, || format!("retention done: {done}"));
    for log in logs.partitions() {
        let start = log.watermarks().get().log_start_offset.0;
        truth.with(log.id().partition.0, |model| {
            if done && model.moving_start_to.is_none() {
                model.start = model.start.max(start);
            }
        });
    }
    truth.retaining.set(!done);
}

/// Compaction may take away whatever a later record supersedes.
async fn compact(logs: &ShardLogs, truth: &Truth) {
    let cutting = truth.partitions.borrow().values().any(|model| model.truncating_to.is_some());
    if cutting || truth.compacting.replace(true) {
        return;
    }
    truth.note(-1, || "compaction".to_owned());
    let done = logs.compact().await.is_ok();
    truth.note(-1, || format!("compaction done: {done}"));
    truth.note_compacted();
    truth.compacting.set(false);
}

async fn append(io: &Io, log: &Partition, truth: &Rc<Truth>, dice: &Dice, partition: i32) {
    let at_ms = io.wall_time().as_millis();
    let records: Vec<Accepted> = (0..1 + dice.below(3))
        .map(|_| {
            let number = truth.next_value.replace(truth.next_value.get() + 1);
            let size = [20, 200, 1500, 4096, 9000][dice.below(5) as usize] + dice.below(100) as usize;
            let mut value = format!("{number}:").into_bytes();
            value.resize(size.max(value.len()), (number % 251) as u8);
            // A tombstone now and then.
            if dice.below(8) == 0 {
                value.clear();
            }
            // Some keys come again and again, others nearly never.
            let key = if dice.below(4) == 0 { 6 + dice.below(300) } else { dice.below(6) };
            Accepted { key, value, at_ms }
        })
        .collect();
    let epoch = LeaderEpoch(truth.epoch.get());
    log.begin_epoch(epoch);
    let keys: Vec<[u8; 8]> = records.iter().map(|record| record.key.to_be_bytes()).collect();
    let of = |record: &'_ Accepted| (!record.value.is_empty()).then(|| record.value.clone());
    let values: Vec<Option<Vec<u8>>> = records.iter().map(of).collect();
    let pairs: Vec<(&[u8], Option<&[u8]>)> =
        keys.iter().zip(&values).map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
    let batch = keyed_batch_of(&pairs, ProducerStamp::NONE);
    let Ok(appended) = log.append(batch, epoch, Origin::Client).await else { return };
    // Settings count as they are when it is accepted, for which it may have waited.
    let config = log.config();
    truth.note(partition, || {
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        format!("accepted {}..={}, {bytes} bytes", appended.base_offset, appended.last_offset)
    });
    truth.with(partition, |model| model.accept(appended.base_offset.0, records));
    let incarnation = truth.with(partition, |model| model.incarnation);
    let next_offset = appended.last_offset.0 + 1;
    let (truth, log) = (Rc::clone(truth), log.clone());
    let acknowledge = async move {
        if appended.acknowledged().await.is_ok() {
            let durable = config.flush_messages == 1;
            if durable && log.watermarks().get().durable_offset.0 < next_offset && log.fenced().is_none() {
                let truncated = truth.with(partition, |model| {
                    model.truncating_to.is_some() || !model.accepted.contains_key(&(next_offset - 1))
                });
                if !truncated {
                    truth
                        .violate(format!("partition {partition}: {next_offset} acknowledged beyond durable"));
                }
            }
            if truth.with(partition, |model| model.incarnation) != incarnation {
                return;
            }
            truth.with(partition, |model| {
                if model.accepted.contains_key(&(next_offset - 1)) {
                    model.acknowledge(next_offset, durable);
                    truth.note(partition, || format!("acknowledged {next_offset}, durable: {durable}"));
                }
            });
        }
    };
    if dice.below(3) == 0 {
        acknowledge.await;
    } else {
        io.spawn(acknowledge).detach();
        if dice.below(4) == 0 {
            io.yield_now().await;
        }
    }
}

async fn read_somewhere(log: &Partition, truth: &Truth, dice: &Dice, partition: i32) {
    let truncations = truth.with(partition, |model| model.truncations);
    let marks = log.watermarks().get();
    let span = (marks.log_end_offset.0 - marks.log_start_offset.0).unsigned_abs();
    if span == 0 {
        return;
    }
    let offset = Offset(marks.log_start_offset.0 + dice.below(span).cast_signed());
    let request = highwater_log::ReadRequest {
        offset,
        max_bytes: 3_000,
        min_one_batch: true,
        upper_bound: marks.log_end_offset,
    };
    let Ok(data) = log.read(request).await else { return };
    let bytes = data.chunks.concat();
    for header in highwater_model::batch::headers(&bytes) {
        let (at, header) = header.expect("a read gives whole batches");
        highwater_model::batch::verify(&bytes[at..]).expect("a read gives intact batches");
        let payload = &bytes[at + highwater_model::batch::BATCH_HEADER_BYTES..at + header.size_bytes];
        for record in highwater_model::record::records(payload) {
            let record = record.expect("well formed");
            let this = header.base_offset.0 + i64::from(record.offset_delta);
            truth.with(partition, |model| {
                // A truncation while we read may have brought another value.
                let steady = model.truncating_to.is_none() && model.truncations == truncations;
                let steady = steady && !model.deleting && model.created;
                if let (Some(known), true) = (model.accepted.get(&this), steady)
                    && known.value != record.value.unwrap_or_default()
                {
                    truth.violate(format!("partition {partition}: another value is read at {this}"));
                }
            });
        }
    }
}

/// Runs one seed: several lives and deaths. The violation, if there is one.
fn run_seed(seed: u64) -> Option<String> {
    let dice = Dice::new(seed);
    let torn_unit = [TornUnit::Sector512, TornUnit::Sector512, TornUnit::Block4096, TornUnit::ShornBlock4096];
    let disk = DiskConfig { torn_unit: torn_unit[dice.below(4) as usize], ..DiskConfig::default() };
    let mut world = World::new(seed, WorldConfig { disk, ..WorldConfig::default() });
    let node = world.add_node("broker");
    let truth = Rc::new(Truth::default());
    let lives = 3 + dice.below(4);
    for life_number in 0..=lives {
        let (state, work_dice) = (Rc::clone(&truth), dice.clone());
        world.start(node, vec![(state, work_dice)], |io, (truth, dice)| async move {
            life(io, truth, dice).await;
        });
        let last = life_number == lives;
        let outcome = run_life(&mut world, node, &truth, &dice, last);
        if let Some(violation) = truth.violation.take() {
            return Some(violation);
        }
        if let Err(error) = outcome {
            let history =
                (0..PARTITIONS).map(|p| format!("\n{p}:\n  {}", truth.history_of(p))).collect::<String>();
            return Some(format!("the process died by itself: {:?}{history}", error.failure));
        }
    }
    None
}

fn run_life(
    world: &mut World,
    node: NodeId,
    truth: &Truth,
    dice: &Dice,
    last: bool,
) -> Result<(), highwater_io::sim::RunError> {
    if last {
        world.run_until(|_| truth.recovered.get() || truth.violation.borrow().is_some())?;
        world.kill(node);
        return Ok(());
    }
    // Now and then the next crash comes while the last one is being recovered.
    let within_recovery = dice.below(4) == 0;
    if !within_recovery {
        world.run_until(|_| truth.recovered.get() || truth.violation.borrow().is_some())?;
    }
    let micros = if within_recovery { dice.below(20_000) } else { dice.below(300_000) };
    world.run_for(Duration::from_micros(micros))?;
    let crash = if dice.below(3) == 0 { Crash::Kill } else { Crash::PowerCut };
    match crash {
        Crash::Kill => world.kill(node),
        Crash::PowerCut => world.power_cut(node),
    }
    // Crashes before a check add up: the weakest promise counts.
    let weaker = truth.last_crash.get() == Some(Crash::PowerCut) && !truth.recovered.get();
    truth.note(-1, || format!("{crash:?}"));
    truth.last_crash.set(Some(if weaker { Crash::PowerCut } else { crash }));
    Ok(())
}

fn seeds(default: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("HIGHWATER_SEED") {
        return vec![seed];
    }
    let first = number("HIGHWATER_FIRST_SEED").unwrap_or(0);
    (first..first + number("HIGHWATER_SEEDS").unwrap_or(default)).collect()
}

/// Seeds within which each lie must be found.
const MUTANT_SEEDS: u64 = 400;

#[test]
fn every_mutant_that_a_crash_shows_is_caught() {
    let mut missed = Vec::new();
    for mutant in BY_SEEDS {
        let _lying = mutant.enable();
        let caught = (0..MUTANT_SEEDS).find_map(|seed| run_seed(seed).map(|violation| (seed, violation)));
        match caught {
            Some((seed, violation)) => {
                let violation = violation.lines().next().unwrap_or_default();
                println!("{}: seed {seed}: {violation:.160}", mutant.name);
            }
            None => missed.push(mutant.name),
        }
    }
    assert!(missed.is_empty(), "not caught in {MUTANT_SEEDS} seeds: {missed:?}");
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_process_dies() {
    for seed in seeds(150) {
        if let Some(violation) = run_seed(seed) {
            panic!("seed {seed}: {violation}");
        }
    }
}

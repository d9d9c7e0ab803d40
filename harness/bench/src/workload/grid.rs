//! From grids to cells.
//!
//! The order serves comparison: repeats outermost, so that an interrupted sweep has seen everything about equally
//! often; for each setting all brokers side by side, their order reversed from one repeat to the next (A B, B A), so
//! that a slow drift of the machine favours neither.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use twox_hash::XxHash3_64;

use super::pairs::PairPlace;
use super::settings::{Acks, Aim, CompressionType, Fault, Flush, Key, Payload, Start};
use super::units::Rate;
use super::{Grid, Problem, Problems, Repeats, Timing, Workload};
use crate::results::text::{counted, exact};
use crate::seed::Seed;

/// A sweep has no more trials than this: at the quickest it would take days, and its cells lie in memory.
pub const TRIALS_MAX: u64 = 100_000;
/// The axis that says how often a cell is repeated.
const FAULT: &str = "fault";

/// One run of one broker under one setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The broker's driver.
    pub broker: String,
    /// One value on each axis.
    pub settings: CellSettings,
    /// Times.
    pub timing: Timing,
    /// Which of the cell's repeats this is, from 0.
    pub repeat: u32,
    /// From this comes everything left to chance. The same for every broker: they get the same cuts and payloads.
    pub seed: Seed,
    /// Its place in interleaved pairs, where the sweep is made of those.
    pub pair: Option<PairPlace>,
}

/// One value on each axis of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellSettings {
    /// `acks`.
    pub acks: Acks,
    /// `flush`.
    pub flush: Flush,
    /// `linger.ms`.
    pub linger_ms: u64,
    /// `batch.size`, bytes.
    pub batch_size_bytes: usize,
    /// Bytes of a record's value.
    pub record_size_bytes: usize,
    /// What they look like.
    pub payload: Payload,
    /// Whether records carry a key.
    pub key: Key,
    /// `compression.type`.
    pub compression: CompressionType,
    /// Partitions of the one topic.
    pub partitions: i32,
    /// Partitions of other topics, with a few records each, that nobody uses while the clock runs.
    pub idle_partitions: u32,
    /// Producers at work.
    pub producers: u32,
    /// Consumers that read along, each everything.
    pub consumers: u32,
    /// Offered load.
    pub rate: Rate,
    /// `enable.idempotence`, resolved.
    pub idempotence: bool,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: u32,
    /// The fault.
    pub fault: Fault,
    /// What its instant is aimed at.
    pub aim: Aim,
    /// How many records must have been acknowledged before the fault, where progress says when it falls and not the
    /// clock.
    pub fault_acked: Option<u64>,
    /// How much longer than it must the disk with a power switch takes for a flush.
    pub flush_delay: Duration,
    /// Whether what is measured was warmed.
    pub start: Start,
    /// How much memory the broker may have, page cache included; `None`: the machine's.
    pub memory_limit_bytes: Option<u64>,
}

impl fmt::Display for CellSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acks={} flush={} linger.ms={} batch.size={} record.size={} record.payload={} record.key={} \
             compression.type={} partitions={} producers={} rate={} enable.idempotence={} \
             max.in.flight.requests.per.connection={} fault={}",
            self.acks,
            self.flush,
            self.linger_ms,
            self.batch_size_bytes,
            self.record_size_bytes,
            self.payload,
            self.key,
            self.compression,
            self.partitions,
            self.producers,
            self.rate,
            self.idempotence,
            self.max_in_flight,
            self.fault,
        )?;
        // Only where they are not what they always were before they could be chosen: seeds are drawn from this text, and
        // a seed in an old report must still mean the same run.
        if self.aim != Aim::Seeded {
            write!(f, " fault_at={}", self.aim)?;
        }
        if let Some(acked) = self.fault_acked {
            write!(f, " fault_acked={acked}")?;
        }
        if !self.flush_delay.is_zero() {
            write!(f, " disk.flush_delay={:?}", self.flush_delay)?;
        }
        if self.start != Start::Warm {
            write!(f, " start={}", self.start)?;
        }
        if self.idle_partitions != 0 {
            write!(f, " idle.partitions={}", self.idle_partitions)?;
        }
        if self.consumers != 0 {
            write!(f, " consumers={}", self.consumers)?;
        }
        if let Some(bytes) = self.memory_limit_bytes {
            write!(f, " memory.limit={bytes}")?;
        }
        Ok(())
    }
}

/// Names a cell for good: the same settings under the same seed have the same id in every sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId(pub u64);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 40 bits: among 10,000 cells the chance of a clash is 5 in 100,000.
        write!(f, "{:010x}", self.0 & 0xff_ffff_ffff)
    }
}

impl Cell {
    /// The cell's id.
    #[must_use]
    pub fn id(&self) -> CellId {
        let text =
            format!("{} {} {:?} {} {}", self.broker, self.settings, self.timing, self.repeat, self.seed);
        CellId(XxHash3_64::oneshot(text.as_bytes()) & 0xff_ffff_ffff)
    }

    /// When the fault falls by the clock, counted from its start; `None` without a fault. Not heeded where progress
    /// decides, save by the simulator, on whose clock no machine is slow.
    #[must_use]
    pub fn fault_after(&self) -> Option<Duration> {
        if self.settings.fault == Fault::None {
            return None;
        }
        let mut window = self.timing.duration.saturating_sub(self.timing.fault_earliest);
        if self.settings.aim != Aim::Seeded {
            // From then on it waits for what it is aimed at, which needs load to happen.
            window /= 2;
        }
        Some(self.timing.fault_earliest + window.mul_f64(self.seed.child("fault instant").unit()))
    }

    /// The cell in a line: broker, and what a reader compares by.
    #[must_use]
    pub fn title(&self) -> String {
        let CellSettings { acks, flush, rate, fault, aim, start, .. } = self.settings;
        let at = if aim == Aim::Seeded { String::new() } else { format!(" at {aim}") };
        let cold = if start == Start::Cold { " cold" } else { "" };
        let which = match &self.pair {
            Some(pair) => format!("pair {}{}", pair.number + 1, pair.side),
            None => format!("#{}", self.repeat),
        };
        format!("{} acks={acks} {} {rate}{cold} {fault}{at} {which}", self.broker, show_flush(flush))
    }
}

fn show_flush(flush: Flush) -> String {
    if flush == Flush::NEVER { "flush never".to_owned() } else { flush.to_string() }
}

impl Workload {
    /// All cells for `brokers`, in the order in which they run, each no more often than `max_repeats` where that is given.
    ///
    /// Fails where there would be more than [`TRIALS_MAX`], which is counted before anything is made.
    pub fn expand(&self, brokers: &[String], max_repeats: Option<u32>) -> Result<Vec<Cell>, Problems> {
        let repeats: Vec<Repeats> =
            self.grids.iter().map(|grid| grid.repeats.at_most(max_repeats.unwrap_or(u32::MAX))).collect();
        self.check_size(brokers, &repeats)?;
        let rounds = |grid: &Grid, repeats: Repeats| {
            grid.fault.iter().map(|&fault| repeats.of(fault)).max().unwrap_or(0)
        };
        // A grid that never runs was counted as nothing, however large its product.
        let run = self.grids.iter().zip(repeats).filter(|&(grid, repeats)| rounds(grid, repeats) > 0);
        let grids: Vec<(&Grid, Repeats, Vec<CellSettings>)> =
            run.map(|(grid, repeats)| (grid, repeats, product(grid))).collect();
        let rounds = grids.iter().map(|(grid, repeats, _)| rounds(grid, *repeats));
        let mut cells = Vec::new();
        for repeat in 0..rounds.max().unwrap_or(0) {
            for (grid, repeats, settings) in &grids {
                let due = settings.iter().filter(|settings| repeat < repeats.of(settings.fault));
                for settings in due {
                    self.side_by_side(brokers, settings, grid.timing, repeat, &mut cells);
                }
            }
        }
        // Two grids may name the same cell; it runs once.
        let mut seen = HashSet::new();
        cells.retain(|cell| seen.insert(cell.id()));
        Ok(cells)
    }

    /// Refuses what would be more than [`TRIALS_MAX`], at each grid that has at least its share of them.
    pub(super) fn check_size(&self, brokers: &[String], repeats: &[Repeats]) -> Result<(), Problems> {
        let brokers = brokers.len() as u64;
        let counts: Vec<Option<u64>> =
            self.grids.iter().zip(repeats).map(|(grid, &repeats)| trials(grid, repeats, brokers)).collect();
        let total = counts.iter().try_fold(0_u64, |total, &count| total.checked_add(count?));
        if total.is_some_and(|total| total <= TRIALS_MAX) {
            return Ok(());
        }
        let shown = |count: Option<u64>| {
            count.map_or_else(
                || format!("more than {} trials", exact(u64::MAX)),
                |count| format!("{} trials", exact(count)),
            )
        };
        let share = TRIALS_MAX / self.grids.len() as u64;
        let mut problems = Vec::new();
        for (index, count) in
            counts.iter().enumerate().filter(|(_, count)| count.is_none_or(|count| count > share))
        {
            let (grid, repeats) = (&self.grids[index], repeats[index]);
            let of_all = if self.grids.len() > 1 {
                format!(", of {} in all grids", shown(total))
            } else {
                String::new()
            };
            problems.push(self.grid_problem(
                index,
                grid,
                format!(
                    "{} would be {}{of_all}; a sweep has at most {}",
                    factors(grid, repeats, brokers),
                    shown(*count),
                    exact(TRIALS_MAX)
                ),
            ));
        }
        problems.sort_by_key(|problem| problem.line);
        Err(Problems { path: self.path.clone(), problems })
    }

    /// A problem of the grid at `index`, at its `repeats` if it has some, else where it begins.
    fn grid_problem(&self, index: usize, grid: &Grid, message: String) -> Problem {
        let names = grid.fault.iter().map(|fault| format!("repeats.{fault}"));
        let names: Vec<String> = std::iter::once("repeats".to_owned()).chain(names).collect();
        let places = [format!("grid[{index}]"), "defaults".to_owned()];
        let mut keys =
            places.iter().flat_map(|place| names.iter().map(move |name| format!("{place}.{name}")));
        let key = keys.find(|key| self.lines.contains_key(key)).unwrap_or_else(|| places[0].clone());
        self.problem(&key, message)
    }

    fn side_by_side(
        &self,
        brokers: &[String],
        settings: &CellSettings,
        timing: Timing,
        repeat: u32,
        cells: &mut Vec<Cell>,
    ) {
        let seed = self.seed.child(&format!("{settings} {timing:?} {repeat}"));
        let cell = |broker: &String| Cell {
            broker: broker.clone(),
            settings: *settings,
            timing,
            repeat,
            seed,
            pair: None,
        };
        if repeat.is_multiple_of(2) {
            cells.extend(brokers.iter().map(cell));
        } else {
            cells.extend(brokers.iter().rev().map(cell));
        }
    }
}

/// How many trials a grid comes to, or `None` if they cannot be counted in 64 bits.
fn trials(grid: &Grid, repeats: Repeats, brokers: u64) -> Option<u64> {
    let rounds: u64 = grid.fault.iter().map(|&fault| u64::from(repeats.of(fault))).sum();
    if rounds == 0 {
        return Some(0);
    }
    let axes = grid.axes().into_iter().filter(|&(name, _)| name != FAULT);
    axes.map(|(_, values)| values).chain([rounds, brokers]).try_fold(1_u64, u64::checked_mul)
}

/// What multiplies to the trials of a grid, in words: every axis with more than one value.
fn factors(grid: &Grid, repeats: Repeats, brokers: u64) -> String {
    let axes = grid.axes().into_iter().filter(|&(name, values)| values > 1 && name != FAULT);
    let mut factors: Vec<String> = axes.map(|(name, values)| format!("{} {name}", exact(values))).collect();
    let rounds = |&fault: &Fault| {
        format!("{} of fault={fault}", counted(repeats.of(fault).into(), "repeat", "repeats"))
    };
    let rounds: Vec<String> = grid.fault.iter().map(rounds).collect();
    factors.push(if rounds.len() > 1 { format!("({})", rounds.join(" + ")) } else { rounds.concat() });
    if brokers > 1 {
        factors.push(format!("{brokers} brokers"));
    }
    factors.join(" × ")
}

impl Grid {
    /// Every axis by its field's name, with how many values it has.
    fn axes(&self) -> [(&'static str, u64); 21] {
        [
            ("record.size", self.record_size_bytes.len()),
            ("record.payload", self.payload.len()),
            ("record.key", self.key.len()),
            ("compression.type", self.compression.len()),
            ("partitions", self.partitions.len()),
            ("idle.partitions", self.idle_partitions.len()),
            ("producers", self.producers.len()),
            ("consumers", self.consumers.len()),
            ("linger.ms", self.linger_ms.len()),
            ("batch.size", self.batch_size_bytes.len()),
            ("max.in.flight.requests.per.connection", self.max_in_flight.len()),
            ("acks", self.acks.len()),
            ("enable.idempotence", self.idempotence.len()),
            ("flush", self.flush.len()),
            ("rate", self.rate.len()),
            ("disk.flush_delay", self.flush_delay.len()),
            ("start", self.start.len()),
            ("memory.limit", self.memory_limit_bytes.len()),
            ("fault_acked", self.fault_acked.len()),
            ("fault_at", self.aim.len()),
            (FAULT, self.fault.len()),
        ]
        .map(|(name, values)| (name, values as u64))
    }
}

/// Every combination of the axes, the fault varying fastest.
pub(super) fn product(grid: &Grid) -> Vec<CellSettings> {
    let first = CellSettings {
        acks: grid.acks[0],
        flush: grid.flush[0],
        linger_ms: grid.linger_ms[0],
        batch_size_bytes: grid.batch_size_bytes[0],
        record_size_bytes: grid.record_size_bytes[0],
        payload: grid.payload[0],
        key: grid.key[0],
        compression: grid.compression[0],
        partitions: grid.partitions[0],
        idle_partitions: grid.idle_partitions[0],
        producers: grid.producers[0],
        consumers: grid.consumers[0],
        rate: grid.rate[0],
        idempotence: false,
        max_in_flight: grid.max_in_flight[0],
        fault: grid.fault[0],
        aim: grid.aim[0],
        fault_acked: grid.fault_acked[0],
        flush_delay: grid.flush_delay[0],
        start: grid.start[0],
        memory_limit_bytes: grid.memory_limit_bytes[0],
    };
    let mut cells = vec![first];
    vary(&mut cells, &grid.record_size_bytes, |cell, &bytes| cell.record_size_bytes = bytes);
    vary(&mut cells, &grid.payload, |cell, &payload| cell.payload = payload);
    vary(&mut cells, &grid.key, |cell, &key| cell.key = key);
    vary(&mut cells, &grid.compression, |cell, &compression| cell.compression = compression);
    vary(&mut cells, &grid.partitions, |cell, &partitions| cell.partitions = partitions);
    vary(&mut cells, &grid.idle_partitions, |cell, &partitions| cell.idle_partitions = partitions);
    vary(&mut cells, &grid.producers, |cell, &producers| cell.producers = producers);
    vary(&mut cells, &grid.consumers, |cell, &consumers| cell.consumers = consumers);
    vary(&mut cells, &grid.linger_ms, |cell, &ms| cell.linger_ms = ms);
    vary(&mut cells, &grid.batch_size_bytes, |cell, &bytes| cell.batch_size_bytes = bytes);
    vary(&mut cells, &grid.max_in_flight, |cell, &requests| cell.max_in_flight = requests);
    vary(&mut cells, &grid.acks, |cell, &acks| cell.acks = acks);
    vary(&mut cells, &grid.idempotence, |cell, &asked| {
        cell.idempotence = asked.unwrap_or(cell.acks == Acks::All && cell.max_in_flight <= 5);
    });
    vary(&mut cells, &grid.flush, |cell, &flush| cell.flush = flush);
    vary(&mut cells, &grid.rate, |cell, &rate| cell.rate = rate);
    vary(&mut cells, &grid.memory_limit_bytes, |cell, &bytes| cell.memory_limit_bytes = bytes);
    vary(&mut cells, &grid.start, |cell, &start| cell.start = start);
    vary(&mut cells, &grid.flush_delay, |cell, &delay| cell.flush_delay = delay);
    vary(&mut cells, &grid.fault_acked, |cell, &acked| cell.fault_acked = acked);
    vary(&mut cells, &grid.aim, |cell, &aim| cell.aim = aim);
    vary(&mut cells, &grid.fault, |cell, &fault| cell.fault = fault);
    cells
}

fn vary<T>(cells: &mut Vec<CellSettings>, axis: &[T], set: impl Fn(&mut CellSettings, &T)) {
    *cells = cells
        .iter()
        .flat_map(|cell| {
            axis.iter().map(|value| {
                let mut varied = *cell;
                set(&mut varied, value);
                varied
            })
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::workload::parse;

    fn workload(grid: &str) -> Workload {
        let text = format!("name = 'w'\ndescription = 'd'\nseed = 1\n{grid}");
        parse::workload(Path::new("w.toml"), &text).unwrap()
    }

    fn expand(grid: &str, brokers: &[&str]) -> Vec<Cell> {
        expand_at_most(grid, brokers, None).unwrap()
    }

    fn expand_at_most(grid: &str, brokers: &[&str], max_repeats: Option<u32>) -> Result<Vec<Cell>, Problems> {
        let brokers: Vec<String> = brokers.iter().map(|&name| name.to_owned()).collect();
        workload(grid).expand(&brokers, max_repeats)
    }

    /// `name = [0, 1, …]`, `count` values.
    fn axis(name: &str, count: u64) -> String {
        let values: Vec<String> = (0..count).map(|value| value.to_string()).collect();
        format!("{name} = [{}]\n", values.join(", "))
    }

    #[test]
    fn trials_are_counted_as_they_are_made() {
        let grid = "[[grid]]\nacks = [0, 1]\nlinger.ms = [1, 2, 3]\nfault = ['none', 'kill', 'power-cut']\n\
                    repeats.kill = 3\nrepeats.power-cut = 0";
        let parsed = &workload(grid).grids[0];
        assert_eq!(trials(parsed, parsed.repeats, 2), Some(2 * 3 * (1 + 3) * 2));
        assert_eq!(expand(grid, &["a", "b"]).len(), 2 * 3 * (1 + 3) * 2);
        let product: u64 = parsed.axes().iter().map(|(_, values)| values).product();
        assert_eq!(super::product(parsed).len() as u64, product);
        let fewer = parsed.repeats.at_most(1);
        assert_eq!(trials(parsed, fewer, 1), Some(2 * 3 * 2));
        assert_eq!(expand_at_most(grid, &["a"], Some(1)).unwrap().len(), 2 * 3 * 2);
    }

    /// Made first and counted then, the first would take more memory than there is.
    #[test]
    fn sweep_of_too_many_trials_is_refused_before_it_is_made() {
        let axes = axis("linger.ms", 300) + &axis("batch.size", 100);
        let refused = |grid: &str, most| expand_at_most(grid, &["a"], most).unwrap_err().to_string();
        assert_eq!(
            refused(&format!("[[grid]]\n{axes}repeats = 100000"), None),
            "w.toml:7: grid[0].repeats: 300 linger.ms × 100 batch.size × 100,000 repeats of fault=none would be \
             3,000,000,000 trials; a sweep has at most 100,000"
        );
        let twice = format!("[[grid]]\n[[grid]]\nfault = ['kill', 'none']\nrepeats.kill = 70000\n{axes}");
        assert_eq!(
            refused(&twice, Some(60_000)),
            "w.toml:7: grid[1].repeats.kill: 300 linger.ms × 100 batch.size × \
             (60,000 repeats of fault=kill + 1 repeat of fault=none) would be 1,800,030,000 trials, \
             of 1,800,030,001 trials in all grids; a sweep has at most 100,000"
        );
    }

    #[test]
    fn sweep_of_as_many_trials_as_may_be_is_made_and_of_one_more_is_not() {
        let grid = "[[grid]]\nrepeats = 100000";
        assert_eq!(expand(grid, &["a"]).len() as u64, TRIALS_MAX);
        let shown = expand_at_most(&format!("{grid}\n[[grid]]"), &["a"], None).unwrap_err().to_string();
        assert!(shown.contains("of 100,001 trials in all grids"), "{shown}");
        let shown = expand_at_most(grid, &["a", "b"], None).unwrap_err().to_string();
        assert!(
            shown.contains("100,000 repeats of fault=none × 2 brokers would be 200,000 trials"),
            "{shown}"
        );
    }

    /// Six axes of 10,000 values are more than 64 bits count.
    #[test]
    fn grid_that_cannot_be_counted_is_refused_unless_it_never_runs() {
        let mut workload = workload("[[grid]]");
        let grid = &mut workload.grids[0];
        grid.linger_ms = vec![1; 10_000];
        grid.batch_size_bytes = vec![1; 10_000];
        grid.record_size_bytes = vec![1; 10_000];
        grid.partitions = vec![1; 10_000];
        grid.max_in_flight = vec![1; 10_000];
        let shown = workload.expand(&["a".to_owned()], None).unwrap_err().to_string();
        assert!(shown.starts_with("w.toml:4: grid[0]: 10,000 record.size × "), "{shown}");
        assert!(shown.contains("would be more than 18,446,744,073,709,551,615 trials"), "{shown}");
        assert_eq!(workload.expand(&["a".to_owned()], Some(0)), Ok(Vec::new()));
    }

    #[test]
    fn grid_is_the_product_of_its_axes() {
        let cells = expand(
            "[[grid]]\nacks = [0, 1, 'all']\nflush = ['never', 'flush.ms=100']\nfault = ['none', 'kill']\nrepeats.kill = 2",
            &["a"],
        );
        assert_eq!(cells.len(), 3 * 2 * (1 + 2));
        let distinct: HashSet<CellId> = cells.iter().map(Cell::id).collect();
        assert_eq!(distinct.len(), cells.len());
    }

    #[test]
    fn cells_are_the_union_of_grids() {
        let cells = expand("[[grid]]\nacks = 0\n[[grid]]\nacks = [1, 'all']", &["a"]);
        assert_eq!(
            cells.iter().map(|cell| cell.settings.acks).collect::<Vec<_>>(),
            [Acks::Zero, Acks::One, Acks::All]
        );
    }

    #[test]
    fn brokers_alternate_a_b_b_a() {
        let cells = expand("[[grid]]\nrepeats = 2", &["a", "b"]);
        assert_eq!(cells.iter().map(|cell| cell.broker.as_str()).collect::<Vec<_>>(), ["a", "b", "b", "a"]);
    }

    #[test]
    fn seed_and_fault_instant_are_the_same_for_every_broker_and_differ_by_repeat() {
        let cells = expand("[[grid]]\nfault = 'power-cut'\nrepeats = 2", &["a", "b"]);
        assert_eq!(cells[0].seed, cells[1].seed);
        assert_eq!(cells[0].fault_after(), cells[1].fault_after());
        assert_ne!(cells[0].fault_after(), cells[2].fault_after());
        assert_ne!(cells[0].id(), cells[1].id());
    }

    #[test]
    fn same_file_gives_the_same_cells() {
        let text = "[[grid]]\nacks = [0, 1]\nfault = ['kill', 'none']\nrepeats = 3";
        assert_eq!(expand(text, &["a"]), expand(text, &["a"]));
    }

    #[test]
    fn cell_keeps_its_seed_when_other_cells_come_and_go() {
        let few = expand("[[grid]]\nacks = 'all'\nfault = 'kill'", &["a"]);
        let many = expand("[[grid]]\nacks = [0, 'all']\nfault = ['none', 'kill']\nrepeats = 4", &["b", "a"]);
        assert!(many.contains(&few[0]));
    }

    #[test]
    fn fault_instants_fill_the_window() {
        let cells = expand(
            "[[grid]]\nfault = 'power-cut'\nrepeats = 200\nduration = '4s'\nfault_earliest = '1s'",
            &["a"],
        );
        let instants: Vec<f64> =
            cells.iter().filter_map(Cell::fault_after).map(|after| after.as_secs_f64()).collect();
        assert_eq!(instants.len(), 200);
        assert!(instants.iter().all(|after| (1.0..4.0).contains(after)));
        for quarter in 0..4 {
            let from = 1.0 + 0.75 * f64::from(quarter);
            let inside = instants.iter().filter(|&&after| after >= from && after < from + 0.75).count();
            assert!((30..70).contains(&inside), "{inside} of 200 in quarter {quarter}");
        }
    }

    #[test]
    fn idempotence_defaults_to_kafkas_default() {
        let cells = expand("[[grid]]\nacks = [1, 'all']", &["a"]);
        assert_eq!(cells.iter().map(|cell| cell.settings.idempotence).collect::<Vec<_>>(), [false, true]);
    }
}

//! From grids to cells.
//!
//! The order serves comparison: repeats outermost, so that an interrupted sweep has seen everything about equally
//! often; for each setting all brokers side by side, their order reversed from one repeat to the next (A B, B A), so
//! that a slow drift of the machine favours neither.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use twox_hash::XxHash3_64;

use super::settings::{Acks, Aim, CompressionType, Fault, Flush, Key, Payload};
use super::units::Rate;
use super::{Grid, Timing, Workload};
use crate::seed::Seed;

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
    /// Producers at work.
    pub producers: u32,
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
        let CellSettings { acks, flush, rate, fault, aim, .. } = self.settings;
        let at = if aim == Aim::Seeded { String::new() } else { format!(" at {aim}") };
        format!("{} acks={acks} {} {rate} {fault}{at} #{}", self.broker, show_flush(flush), self.repeat)
    }
}

fn show_flush(flush: Flush) -> String {
    if flush == Flush::NEVER { "flush never".to_owned() } else { flush.to_string() }
}

impl Workload {
    /// All cells for `brokers`, in the order in which they run.
    #[must_use]
    pub fn expand(&self, brokers: &[String]) -> Vec<Cell> {
        let settings: Vec<(&Grid, Vec<CellSettings>)> =
            self.grids.iter().map(|grid| (grid, product(grid))).collect();
        let rounds = self.grids.iter().flat_map(|grid| {
            let used = |fault: &Fault| grid.repeats.of(*fault);
            grid.fault.iter().map(used)
        });
        let mut cells = Vec::new();
        for repeat in 0..rounds.max().unwrap_or(0) {
            for (grid, settings) in &settings {
                let due = settings.iter().filter(|settings| repeat < grid.repeats.of(settings.fault));
                for settings in due {
                    self.side_by_side(brokers, settings, grid.timing, repeat, &mut cells);
                }
            }
        }
        // Two grids may name the same cell; it runs once.
        let mut seen = HashSet::new();
        cells.retain(|cell| seen.insert(cell.id()));
        cells
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
        let cell =
            |broker: &String| Cell { broker: broker.clone(), settings: *settings, timing, repeat, seed };
        if repeat.is_multiple_of(2) {
            cells.extend(brokers.iter().map(cell));
        } else {
            cells.extend(brokers.iter().rev().map(cell));
        }
    }
}

/// Every combination of the axes, the fault varying fastest.
fn product(grid: &Grid) -> Vec<CellSettings> {
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
        producers: grid.producers[0],
        rate: grid.rate[0],
        idempotence: false,
        max_in_flight: grid.max_in_flight[0],
        fault: grid.fault[0],
        aim: grid.aim[0],
        fault_acked: grid.fault_acked[0],
        flush_delay: grid.flush_delay[0],
    };
    let mut cells = vec![first];
    vary(&mut cells, &grid.record_size_bytes, |cell, &bytes| cell.record_size_bytes = bytes);
    vary(&mut cells, &grid.payload, |cell, &payload| cell.payload = payload);
    vary(&mut cells, &grid.key, |cell, &key| cell.key = key);
    vary(&mut cells, &grid.compression, |cell, &compression| cell.compression = compression);
    vary(&mut cells, &grid.partitions, |cell, &partitions| cell.partitions = partitions);
    vary(&mut cells, &grid.producers, |cell, &producers| cell.producers = producers);
    vary(&mut cells, &grid.linger_ms, |cell, &ms| cell.linger_ms = ms);
    vary(&mut cells, &grid.batch_size_bytes, |cell, &bytes| cell.batch_size_bytes = bytes);
    vary(&mut cells, &grid.max_in_flight, |cell, &requests| cell.max_in_flight = requests);
    vary(&mut cells, &grid.acks, |cell, &acks| cell.acks = acks);
    vary(&mut cells, &grid.idempotence, |cell, &asked| {
        cell.idempotence = asked.unwrap_or(cell.acks == Acks::All && cell.max_in_flight <= 5);
    });
    vary(&mut cells, &grid.flush, |cell, &flush| cell.flush = flush);
    vary(&mut cells, &grid.rate, |cell, &rate| cell.rate = rate);
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
        workload(grid).expand(&brokers.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
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

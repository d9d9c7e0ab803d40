//! Workloads: what a sweep runs.
//!
//! A workload file is read by [`parse`] into a [`Workload`], which [`grid`] multiplies out into [`Cell`]s: one broker,
//! one value on every axis, one repeat, one seed. Everything after that (cell, sweep, report) sees cells only.
//! The fields are documented for users in `workloads/README.md`; a test keeps that page and [`parse`] in step.

pub mod document;
pub mod grid;
mod pairs;
mod parse;
pub mod settings;
pub mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use document::{Problem, Problems};
pub use grid::{Cell, CellId, TRIALS_MAX};
pub use pairs::{PairPlace, Side};
pub use parse::fields;
use settings::{Acks, Aim, CompressionType, Fault, Flush, Key, Payload, Start};
use units::Rate;

use crate::seed::Seed;

/// A workload file, read and checked.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name, part of the results folder's.
    pub name: String,
    /// What it shows, in a sentence.
    pub description: String,
    /// From this, and the settings of a cell, comes everything left to chance in the cell.
    pub seed: Seed,
    /// Brokers it runs unless others are asked for: names of files beside it in `brokers/`.
    pub brokers: Vec<String>,
    /// Topic settings for every broker, by Kafka's names.
    pub topic: BTreeMap<String, String>,
    /// Broker settings, by broker.
    pub settings: BTreeMap<String, BTreeMap<String, String>>,
    /// The grids; the sweep is all of their cells.
    pub grids: Vec<Grid>,
    /// Where it was read.
    pub path: PathBuf,
    /// The line of each of its keys (`topic.segment.bytes`, `brokers[0]`), for what is found wrong later.
    pub lines: BTreeMap<String, usize>,
}

/// Lists of values on each axis; their product is the cells.
#[derive(Debug, Clone)]
pub struct Grid {
    /// `acks`.
    pub acks: Vec<Acks>,
    /// `flush`.
    pub flush: Vec<Flush>,
    /// `linger.ms`.
    pub linger_ms: Vec<u64>,
    /// `batch.size`, bytes.
    pub batch_size_bytes: Vec<usize>,
    /// `record.size`: bytes of a record's value.
    pub record_size_bytes: Vec<usize>,
    /// `record.payload`.
    pub payload: Vec<Payload>,
    /// `record.key`.
    pub key: Vec<Key>,
    /// `compression.type`.
    pub compression: Vec<CompressionType>,
    /// `partitions` of the one topic.
    pub partitions: Vec<i32>,
    /// `idle.partitions`: of other topics, with a few records each, that nobody uses.
    pub idle_partitions: Vec<u32>,
    /// `producers`.
    pub producers: Vec<u32>,
    /// `consumers`.
    pub consumers: Vec<u32>,
    /// `rate`.
    pub rate: Vec<Rate>,
    /// `enable.idempotence`; `None` is Kafka's default: on with `acks=all`, else off.
    pub idempotence: Vec<Option<bool>>,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: Vec<u32>,
    /// `fault`.
    pub fault: Vec<Fault>,
    /// `fault_at`.
    pub aim: Vec<Aim>,
    /// `fault_acked`.
    pub fault_acked: Vec<Option<u64>>,
    /// `disk.flush_delay`.
    pub flush_delay: Vec<Duration>,
    /// `start`.
    pub start: Vec<Start>,
    /// `memory.limit`, bytes; `None`: the machine's.
    pub memory_limit_bytes: Vec<Option<u64>>,
    /// `repeats`, by fault.
    pub repeats: Repeats,
    /// Times of a cell.
    pub timing: Timing,
}

/// How often each cell is run, by its fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// Cells without a fault.
    pub none: u32,
    /// Cells whose broker is killed.
    pub kill: u32,
    /// Cells whose power is cut.
    pub power_cut: u32,
    /// Cells whose disk lies before its power is cut.
    pub lying_flush: u32,
}

impl Repeats {
    /// The repeats of cells with `fault`.
    #[must_use]
    pub fn of(self, fault: Fault) -> u32 {
        match fault {
            Fault::None => self.none,
            Fault::Kill => self.kill,
            Fault::PowerCut => self.power_cut,
            Fault::LyingFlush => self.lying_flush,
        }
    }

    /// None of them more than `most`.
    #[must_use]
    pub fn at_most(self, most: u32) -> Self {
        let Repeats { none, kill, power_cut, lying_flush } = self;
        Repeats {
            none: none.min(most),
            kill: kill.min(most),
            power_cut: power_cut.min(most),
            lying_flush: lying_flush.min(most),
        }
    }
}

/// Times of a cell that no axis varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Load that is not counted, before the clock starts.
    pub warm_up: Duration,
    /// Load that is counted; a fault falls within it and ends it.
    pub duration: Duration,
    /// The fault falls no earlier than this after the clock started.
    pub fault_earliest: Duration,
    /// `delivery.timeout.ms`, and how long acks may keep coming once sending has ended.
    pub delivery_timeout: Duration,
    /// `request.timeout.ms`.
    pub request_timeout: Duration,
}

impl Workload {
    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Workload, WorkloadError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| WorkloadError::Unreadable { path: path.to_owned(), source })?;
        Ok(parse::workload(path, &text)?)
    }

    /// Something wrong with what the file says at `key`. A key that is not in it is reported at its first line.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let line = self.lines.get(key).copied().unwrap_or(1);
        Problem { line, key: key.to_owned(), message: message.into() }
    }
}

/// Why there is no workload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The file cannot be read.
    #[error("workload {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
}

//! A cell of a sweep, simulated: for machines on which its broker cannot run, or whose power cannot be cut.
//!
//! The harness reaches brokers over the wire only and imports nothing of the engine, so this is the wire here: the
//! description of a cell comes in as one JSON object, and what happened goes out as JSON lines.
//!
//! ```text
//!   {"line":"event", …}      an attempt or an outcome, in the order in which they happened
//!   {"line":"struck", …}     the fault, with the log ends right after recovery
//!   {"line":"bounds", …}     log start and log end of a partition in the final read
//!   {"line":"found", …}      a record in it
//!   {"line":"stranger", …}   other bytes in it
//!   {"line":"end", …}        the last
//! ```
//!
//! No line says how fast anything was: time is virtual. Nor is there a verdict: the harness has the checker.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use highwater_checker::{Acks, FaultKind, Flush, Nanos};
use highwater_io::sim::TornUnit;
use serde::{Deserialize, Serialize};

use crate::books::Event;
use crate::scenario::{BrokerSize, Death, Deaths, DiskHonesty, Scenario};
use crate::scene::{Scene, Stopped};
use crate::trial::fault_kind;

/// So many records are attempted, more or less: what a cell is asked for as fast as it goes has no end in virtual time.
const RECORDS: u64 = 20_000;
const BURST: u64 = 8;
const SHARDS: usize = 2;

/// What is done to the broker of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellFault {
    /// Nothing; it is stopped and started again.
    None,
    /// Its process is killed.
    Kill,
    /// Its machine loses power.
    PowerCut,
    /// Its disk answers flushes that it does not do, until its machine loses power.
    LyingFlush,
}

/// A cell as it comes in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Everything left to chance follows from it.
    pub seed: u64,
    /// `acks`.
    pub acks: Acks,
    /// `flush.messages` and `flush.ms`.
    pub flush: Flush,
    /// `linger.ms`.
    pub linger_ms: u64,
    /// `batch.size`.
    pub batch_size_bytes: usize,
    /// Length of a value in bytes.
    pub record_size_bytes: u32,
    /// Partitions of the one topic.
    pub partitions: u32,
    /// Producers.
    pub producers: u32,
    /// `enable.idempotence`.
    pub idempotence: bool,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: u32,
    /// What is done to the broker.
    pub fault: CellFault,
    /// After how long in service, in milliseconds.
    pub load_ms: u64,
}

impl Cell {
    fn scenario(&self) -> Scenario {
        let deaths = match self.fault {
            CellFault::None => Deaths::Never,
            CellFault::Kill => Deaths::Once(Death::Kill),
            CellFault::PowerCut | CellFault::LyingFlush => Deaths::Once(Death::PowerCut),
        };
        let life_us = self.load_ms.max(1) * 1_000;
        // A pause is half of its bound on average, a burst half of its own.
        let pause_us = u64::from(self.producers.max(1)) * life_us * (BURST + 1) / RECORDS;
        Scenario {
            size: BrokerSize::Usual,
            shards: SHARDS,
            partitions: vec![self.partitions.max(1)],
            acks: self.acks,
            flush: self.flush,
            producers: self.producers.max(1),
            idempotence: self.idempotence,
            max_in_flight: self.max_in_flight.max(1),
            linger: Duration::from_millis(self.linger_ms),
            batch_bytes: self.batch_size_bytes,
            value_bytes: (self.record_size_bytes, self.record_size_bytes),
            pause_us: pause_us.max(100),
            burst: BURST,
            lives: 1,
            deaths,
            life_us,
            full_lives: true,
            lives_to_acknowledge: false,
            administration: false,
            careless_topics: false,
            bad_network: false,
            retention: false,
            compacted: None,
            torn_unit: TornUnit::Sector512,
            flush_us: 500,
            disk: match self.fault {
                CellFault::LyingFlush => DiskHonesty::LiesOnceIn(1),
                CellFault::None | CellFault::Kill | CellFault::PowerCut => DiskHonesty::Honest,
            },
            log_dirs: 1,
            directory_fails: false,
        }
    }
}

/// A line that goes out.
#[derive(Debug, Serialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line<'a> {
    Event(Event),
    Struck {
        kind: FaultKind,
        struck_at: Nanos,
        restored_at: Nanos,
        /// (partition, log end) right after recovery.
        recovered_ends: Vec<(u32, i64)>,
    },
    Bounds {
        partition: u32,
        log_start: i64,
        log_end: i64,
    },
    Found {
        partition: u32,
        offset: i64,
        producer: u32,
        of_partition: u32,
        sequence: u64,
        sent_at: Nanos,
        value_len: u32,
    },
    Stranger {
        partition: u32,
        offset: i64,
        value_hex: &'a str,
    },
    End {
        /// What was broken that is not about records, in words.
        breaches: Vec<String>,
    },
}

/// Runs a cell and writes what happened.
///
/// # Errors
/// As the writer's.
pub fn run(cell: &Cell, mut out: impl Write) -> io::Result<()> {
    let scenario = cell.scenario();
    let mut scene = Scene::new(cell.seed, &scenario);
    let played = scene.play();
    let mut put = |line: &Line<'_>| -> io::Result<()> {
        serde_json::to_writer(&mut out, line)?;
        out.write_all(b"\n")
    };
    for event in scene.hand.books.take_events() {
        put(&Line::Event(event))?;
    }
    // A stop is no fault.
    for struck in scene.deaths.iter().filter(|struck| struck.death != Death::Stop) {
        put(&Line::Struck {
            kind: fault_kind(&scenario, struck.death),
            struck_at: struck.at,
            restored_at: struck.served_at.unwrap_or(struck.restored_at),
            recovered_ends: struck
                .recovered_ends
                .iter()
                .map(|&(_, partition, end)| (partition, end))
                .collect(),
        })?;
    }
    let mut breaches: Vec<String> = scene.breaches.iter().map(ToString::to_string).collect();
    match &played {
        Err(Stopped { breach, .. }) => breaches.push(breach.to_string()),
        Ok(content) => {
            for ((_, partition), read) in &content.partitions {
                put_partition(&mut put, *partition, read)?;
            }
        }
    }
    put(&Line::End { breaches })
}

fn put_partition(
    put: &mut impl FnMut(&Line<'_>) -> io::Result<()>,
    partition: u32,
    read: &crate::actor::reader::PartitionContent,
) -> io::Result<()> {
    put(&Line::Bounds { partition, log_start: read.log_start, log_end: read.log_end })?;
    for (offset, record) in &read.records {
        match record {
            Ok(identity) => put(&Line::Found {
                partition,
                offset: *offset,
                producer: identity.producer.0,
                of_partition: identity.partition.partition,
                sequence: identity.sequence,
                sent_at: identity.sent_at,
                value_len: identity.value_len,
            })?,
            Err(bytes) => {
                let mut text = String::with_capacity(2 * bytes.len());
                bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes it"));
                put(&Line::Stranger { partition, offset: *offset, value_hex: &text })?;
            }
        }
    }
    Ok(())
}

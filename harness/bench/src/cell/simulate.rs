//! Cells in the simulator: the broker's own code in one process, on a disk that forgets what was not flushed.
//!
//! For machines that cannot cut a disk's power. The simulator is a program beside the broker (`highwater-sim cell`): a cell goes in as JSON, what happened
//! comes out as JSON lines, and the checker judges that as it judges everything else.
//!
//! Nothing of it says how fast a broker is: time is virtual there. A simulated cell has no throughput and no latency.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use highwater_checker::{
    self as checker, Acks, ErrorClass, FaultEvent, Identity, Layout, Ledger, LedgerError, Nanos, Offset,
    PartitionId, PartitionIndex, ProducerId, ProducerLedger, Reader, Reading, RunId, Sequences, judge,
};
use serde::{Deserialize, Serialize};

use super::contract::{self, Effective};
use super::{Bench, CellError, Details, Outcome, Simulate};
use crate::results::{FaultMark, Latency, Load, Timeline};
use crate::workload::Cell;
use crate::workload::settings::Fault;

/// The one broker whose code is in the simulator.
const BROKER: &str = "highwater";
/// The simulator's name, beside the broker's.
const PROGRAM: &str = "highwater-sim";

/// Why a simulated cell came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// It does not run.
    #[error("the simulator {program} does not run: {source}", program = program.display())]
    Program {
        /// Where it should be.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What it says cannot be understood.
    #[error("the simulator says what cannot be understood: {0}")]
    Line(#[from] serde_json::Error),
    /// What it says contradicts itself.
    #[error("the simulator contradicts itself: {0}")]
    Ledger(#[from] LedgerError),
    /// It ended too early.
    #[error("the simulator ended before its last line")]
    Unfinished,
}

/// The simulator, as a program.
#[derive(Debug)]
pub struct Simulator {
    program: PathBuf,
    /// Why the broker itself cannot use io_uring here, if so.
    no_io_uring: Option<String>,
}

impl Simulator {
    /// The simulator beside the broker at `home`, if it was built.
    #[must_use]
    pub fn beside(broker: &str, home: &Path) -> Option<Self> {
        let program = home.join(PROGRAM);
        (broker == BROKER && program.exists()).then(|| {
            let no_io_uring = probe(&program);
            Simulator { program, no_io_uring }
        })
    }

    fn start(&self, cell: &Cell) -> Result<Running, SimulationError> {
        let failed = |source| SimulationError::Program { program: self.program.clone(), source };
        let mut child = Command::new(&self.program)
            .arg("cell")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let description = serde_json::to_vec(&Description::of(cell))?;
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        let running = Running(child);
        stdin.write_all(&description).map_err(failed)?;
        Ok(running)
    }
}

/// What keeps the broker from using io_uring here, in the words of its own runtime.
fn probe(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("probe").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!output.status.success() && !said.is_empty()).then_some(said)
}

/// The simulator at work; it ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or is of no more use.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cell as the simulator wants it.
#[derive(Debug, Serialize)]
struct Description {
    seed: u64,
    acks: Acks,
    flush: checker::Flush,
    linger_ms: u64,
    batch_size_bytes: usize,
    record_size_bytes: u32,
    partitions: u32,
    producers: u32,
    idempotence: bool,
    max_in_flight: u32,
    fault: &'static str,
    load_ms: u64,
}

impl Description {
    fn of(cell: &Cell) -> Self {
        let settings = &cell.settings;
        let load = cell.fault_after().unwrap_or(cell.timing.duration);
        Description {
            seed: cell.seed.0,
            acks: settings.acks,
            flush: flush(cell),
            linger_ms: settings.linger_ms,
            batch_size_bytes: settings.batch_size_bytes,
            record_size_bytes: u32::try_from(settings.record_size_bytes).unwrap_or(u32::MAX),
            partitions: settings.partitions.unsigned_abs(),
            producers: settings.producers,
            idempotence: settings.idempotence,
            max_in_flight: settings.max_in_flight,
            fault: match settings.fault {
                Fault::None => "none",
                Fault::Kill => "kill",
                Fault::PowerCut => "power_cut",
                Fault::LyingFlush => "lying_flush",
            },
            load_ms: u64::try_from(load.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The broker's own flushing needs nobody to look after it.
fn flush(cell: &Cell) -> checker::Flush {
    let asked = cell.settings.flush;
    checker::Flush { messages: asked.messages, ms: asked.ms, check_interval_ms: asked.ms.map(|_| 0) }
}

/// A line of the simulator.
#[derive(Debug, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line {
    Event(Event),
    Struck { struck_at: Nanos, restored_at: Nanos, recovered_ends: Vec<(u32, i64)> },
    Bounds { partition: u32, log_start: i64, log_end: i64 },
    Found(Found),
    Stranger { partition: u32, offset: i64, value_hex: String },
    End { breaches: Vec<String> },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Attempt { producer: u32, partition: u32, sent_at: Nanos, value_len: u32 },
    Ack { producer: u32, partition: u32, first: u64, count: u32, base_offset: i64, at: Nanos },
    Error { producer: u32, partition: u32, first: u64, count: u32, class: ErrorClass, code: Option<i16> },
    Sent { producer: u32, partition: u32, first: u64, count: u32 },
    NeverSent { producer: u32, partition: u32, first: u64, count: u32 },
}

#[derive(Debug, Deserialize)]
struct Found {
    partition: u32,
    offset: i64,
    producer: u32,
    of_partition: u32,
    sequence: u64,
    sent_at: Nanos,
    value_len: u32,
}

/// A fault as the simulator tells it.
struct Struck {
    struck_at: Nanos,
    restored_at: Nanos,
    recovered_ends: Vec<(PartitionIndex, Offset)>,
}

/// What the simulator said so far.
struct Account {
    run: RunId,
    layout: Layout,
    ledgers: Vec<ProducerLedger>,
    reading: Reading,
    struck: Vec<Struck>,
    breaches: Option<Vec<String>>,
    /// Partitions of which log start and log end were told.
    bounded: usize,
    records: u64,
    bytes_each: u64,
}

impl Account {
    fn new(cell: &Cell) -> Self {
        let run = RunId(cell.seed.0);
        let layout = Layout::new(&[cell.settings.partitions.unsigned_abs()]);
        // The last is the simulator's administrator.
        let producers = 0..=cell.settings.producers;
        Account {
            run,
            ledgers: producers.map(|id| ProducerLedger::new(run, ProducerId(id), &layout)).collect(),
            reading: Reading::new(Reader::FINAL, run, &layout),
            layout,
            struck: Vec::new(),
            breaches: None,
            bounded: 0,
            records: 0,
            bytes_each: cell.settings.record_size_bytes as u64,
        }
    }

    fn place(&self, partition: u32) -> Option<PartitionIndex> {
        self.layout.index(PartitionId { topic: 0, partition })
    }

    fn take(&mut self, line: Line) -> Result<(), LedgerError> {
        match line {
            Line::Event(event) => return self.take_event(event),
            Line::Struck { struck_at, restored_at, recovered_ends } => {
                let recovered_ends = recovered_ends
                    .into_iter()
                    .filter_map(|(partition, end)| Some((self.place(partition)?, Offset(end))))
                    .collect();
                self.struck.push(Struck { struck_at, restored_at, recovered_ends });
            }
            Line::Bounds { partition, log_start, log_end } => {
                if let Some(place) = self.place(partition) {
                    self.reading.bounds(place, Offset(log_start), Offset(log_end));
                    self.bounded += 1;
                }
            }
            Line::Found(found) => self.take_found(&found),
            Line::Stranger { partition, offset, value_hex } => {
                if let Some(place) = self.place(partition) {
                    self.reading.value(place, Offset(offset), &from_hex(&value_hex));
                }
            }
            Line::End { breaches } => self.breaches = Some(breaches),
        }
        Ok(())
    }

    fn take_found(&mut self, found: &Found) {
        let identity = Identity {
            run: self.run,
            producer: ProducerId(found.producer),
            partition: PartitionId { topic: 0, partition: found.of_partition },
            sequence: found.sequence,
            sent_at: found.sent_at,
            value_len: found.value_len,
        };
        if let Some(place) = self.place(found.partition) {
            self.reading.record(place, Offset(found.offset), Ok(identity));
        }
    }

    fn take_event(&mut self, event: Event) -> Result<(), LedgerError> {
        let (producer, partition) = match event {
            Event::Attempt { producer, partition, .. }
            | Event::Ack { producer, partition, .. }
            | Event::Error { producer, partition, .. }
            | Event::Sent { producer, partition, .. }
            | Event::NeverSent { producer, partition, .. } => (producer, partition),
        };
        let Some(place) = self.place(partition) else { return Ok(()) };
        let Some(ledger) = self.ledgers.get_mut(producer as usize) else { return Ok(()) };
        match event {
            Event::Attempt { sent_at, value_len, .. } => {
                ledger.attempt(place, sent_at, value_len);
                Ok(())
            }
            Event::Ack { first, count, base_offset, at, .. } => {
                self.records += u64::from(count);
                ledger.ack(place, Sequences { first, count }, Offset(base_offset), at)
            }
            Event::Error { first, count, class, code, .. } => {
                ledger.error(place, Sequences { first, count }, class, code)
            }
            Event::Sent { first, count, .. } => {
                self.records += u64::from(count);
                ledger.sent(place, Sequences { first, count })
            }
            Event::NeverSent { first, count, .. } => ledger.never_sent(place, Sequences { first, count }),
        }
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl Simulate for Simulator {
    fn knows(&self, broker: &str) -> bool {
        broker == BROKER
    }

    fn io_uring_is_refused_because(&self) -> Option<&str> {
        self.no_io_uring.as_deref()
    }

    fn run(&self, bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, CellError> {
        let mut running = self.start(cell)?;
        let mut account = Account::new(cell);
        let stdout = running.0.stdout.take().expect("standard output is a pipe");
        for line in BufReader::new(stdout).lines() {
            bench.cancel.check()?;
            let line =
                line.map_err(|source| SimulationError::Program { program: self.program.clone(), source })?;
            let line = serde_json::from_str(&line).map_err(SimulationError::Line)?;
            account.take(line).map_err(SimulationError::Ledger)?;
        }
        outcome(bench, cell, account)
    }
}

/// What a cell that ran on this machine would give, without any figure of speed.
fn outcome(bench: &Bench<'_>, cell: &Cell, account: Account) -> Result<Outcome, CellError> {
    let breaches = account.breaches.ok_or(SimulationError::Unfinished)?;
    // A broker that could not be read, because it broke another promise first, does not serve.
    let is_read = account.bounded == account.layout.partitions().count();
    let reading = if is_read || breaches.is_empty() {
        account.reading
    } else {
        Reading::unserved(Reader::FINAL, account.run, &account.layout, &breaches.join("; "))
    };
    let setting = checker::Setting { flush: flush(cell), ..Effective::default().setting(cell, bench.driver) };
    let fault = contract::fault(cell.settings.fault);
    let contract = contract::contract(&setting, fault.as_ref());
    let event = |Struck { struck_at, restored_at, recovered_ends }| {
        Some(FaultEvent { fault: fault?, struck_at, silenced_at: struck_at, restored_at, recovered_ends })
    };
    let faults: Vec<FaultEvent> = account.struck.into_iter().filter_map(event).collect();
    let mark = |event: &FaultEvent| FaultMark {
        fault: event.fault,
        struck_at: event.struck_at,
        restored_at: event.restored_at,
        since_last_ack: None,
        aim: None,
        unflushed: None,
    };
    let marks = faults.iter().map(mark).collect();
    let trial = checker::Trial {
        ledger: Ledger::gather(account.run, &account.layout, account.ledgers)
            .map_err(SimulationError::Ledger)?,
        faults,
        readings: vec![reading],
        polls: Vec::new(),
        observations: Vec::new(),
    };
    let mut verdict = judge(trial, &contract)?;
    if is_read {
        breaches.into_iter().for_each(|breach| verdict.book(checker::Anomaly::Other, breach));
    }
    let overrides = bench.workload.settings.get(&cell.broker);
    Ok(Outcome {
        setting,
        verdict,
        contract,
        effective: vec![("medium".to_owned(), "simulated".to_owned())],
        broker_settings: bench.driver.settings_for(cell.settings.flush, overrides),
        topic_settings: contract::topic_settings(cell, &bench.workload.topic),
        load: Load {
            elapsed: Nanos(0),
            target_records_per_second: None,
            records: account.records,
            bytes: account.records * account.bytes_each,
            failed: 0,
            broker_cpu: None,
            used: None,
            drain: None,
            polled: None,
        },
        intended: Latency::default(),
        service: Latency::default(),
        timeline: Timeline::default(),
        faults: marks,
        window_is_lower_bound: false,
        details: Details::simulated(),
    })
}

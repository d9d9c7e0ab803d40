//! One measurement.

use std::collections::HashSet;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::engines::{Engine, Kind, Promise};
use crate::record::{Id, Maker, RECORD_BYTES, check};

/// Writers of the process that is killed.
const VICTIM_WRITERS: usize = 16;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Durable { writers: usize },
    Unflushed { writers: usize },
    Read,
    Crash,
}

impl FromStr for Cell {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let writers = |text: &str| match text.parse() {
            Ok(writers) if writers > 0 => Ok(writers),
            _ => Err(anyhow!("{text} is no number of writers")),
        };
        match name.split_once('-') {
            Some(("durable", text)) => Ok(Cell::Durable { writers: writers(text)? }),
            Some(("unflushed", text)) => Ok(Cell::Unflushed { writers: writers(text)? }),
            None if name == "read" => Ok(Cell::Read),
            None if name == "crash" => Ok(Cell::Crash),
            _ => bail!("there is no cell {name}, but durable-N, unflushed-N, read and crash"),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Durable { writers } => write!(f, "durable-{writers}"),
            Cell::Unflushed { writers } => write!(f, "unflushed-{writers}"),
            Cell::Read => f.write_str("read"),
            Cell::Crash => f.write_str("crash"),
        }
    }
}

/// How long, how much.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seconds: u64,
    pub records: u64,
}

/// What came of one measurement; what does not belong to its cell is missing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub engine: String,
    pub cell: String,
    pub repeat: usize,
    /// Records appended or read.
    pub records: u64,
    pub seconds: f64,
    pub records_per_second: f64,
    pub mb_per_second: f64,
    /// Of one append, with its flush.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency_p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency_p99_us: Option<f64>,
    /// After the kill: until the engine is open.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub open_ms: Option<f64>,
    /// After the kill: until the engine is open and the first record read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_read_ms: Option<f64>,
    /// Records that were acknowledged before the kill.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub acknowledged: Option<u64>,
    /// Of those, how many are gone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<u64>,
}

impl Outcome {
    fn new(records: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let records_per_second = records as f64 / seconds;
        let mb_per_second = records_per_second * RECORD_BYTES as f64 / 1e6;
        Outcome { records, seconds, records_per_second, mb_per_second, ..Outcome::default() }
    }

    /// In a few words.
    pub fn summary(&self) -> String {
        match (self.lost, self.open_ms, self.first_read_ms) {
            (Some(lost), Some(open), Some(first)) => {
                let acknowledged = self.acknowledged.unwrap_or(0);
                format!("open in {open:.1} ms, first read {first:.1} ms, {lost} of {acknowledged} lost")
            }
            _ => format!("{:.0} records/s, {:.1} MB/s", self.records_per_second, self.mb_per_second),
        }
    }
}

pub fn run(kind: Kind, cell: Cell, dir: &Path, settings: Settings) -> Result<Outcome> {
    let outcome = match cell {
        Cell::Durable { writers } => durable(kind, dir, writers, settings),
        Cell::Unflushed { writers } => unflushed(kind, dir, writers, settings),
        Cell::Read => read(kind, dir, settings),
        Cell::Crash => crash(kind, dir, settings),
    };
    let outcome = outcome.with_context(|| format!("{kind} in {cell}"))?;
    Ok(Outcome { engine: kind.name().to_owned(), cell: cell.to_string(), ..outcome })
}

/// Runs `write` on so many threads, which begin together; what each returned, and how long it took them all.
fn on_writers<T: Send>(
    writers: usize,
    write: impl Fn(Maker) -> Result<T> + Sync,
) -> Result<(Vec<T>, Duration)> {
    let ready = Barrier::new(writers + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let (ready, write) = (&ready, &write);
                scope.spawn(move || {
                    let maker = Maker::new(writer as u32);
                    ready.wait();
                    write(maker)
                })
            })
            .collect();
        ready.wait();
        let begin = Instant::now();
        let results: Result<Vec<T>> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a writer panicked"))?)
            .collect();
        Ok((results?, begin.elapsed()))
    })
}

fn durable(kind: Kind, dir: &Path, writers: usize, settings: Settings) -> Result<Outcome> {
    let engine = kind.open(dir, Promise::Durable)?;
    let length = Duration::from_secs(settings.seconds);
    let (latencies, took) = on_writers(writers, |mut maker| {
        let (mut record, mut latencies) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        while begin.elapsed() < length {
            maker.next(&mut record);
            let appending = Instant::now();
            engine.append(&record)?;
            latencies.push(appending.elapsed());
        }
        Ok(latencies)
    })?;
    let mut latencies = latencies.concat();
    ensure!(!latencies.is_empty(), "nothing was appended");
    latencies.sort_unstable();
    let quantile = |of: f64| latencies[((latencies.len() - 1) as f64 * of) as usize].as_secs_f64() * 1e6;
    let expected = latencies.len() as u64;
    expect(&*engine, expected)?;
    Ok(Outcome {
        latency_p50_us: Some(quantile(0.5)),
        latency_p99_us: Some(quantile(0.99)),
        ..Outcome::new(expected, took)
    })
}

fn append_unflushed(engine: &dyn Engine, writers: usize, records: u64) -> Result<Duration> {
    let each = records / writers as u64;
    let ((), took) = on_writers(writers, |mut maker| {
        let mut record = Vec::new();
        for _ in 0..each {
            maker.next(&mut record);
            engine.append_unflushed(&record)?;
        }
        Ok(())
    })
    .map(|(_, took)| ((), took))?;
    let begin = Instant::now();
    engine.settle()?;
    Ok(took + begin.elapsed())
}

fn unflushed(kind: Kind, dir: &Path, writers: usize, settings: Settings) -> Result<Outcome> {
    let engine = kind.open(dir, Promise::Unflushed)?;
    let took = append_unflushed(&*engine, writers, settings.records)?;
    Ok(Outcome::new(settings.records / writers as u64 * writers as u64, took))
}

fn read(kind: Kind, dir: &Path, settings: Settings) -> Result<Outcome> {
    let engine = kind.open(dir, Promise::Unflushed)?;
    append_unflushed(&*engine, 1, settings.records - 1)?;
    // The last one flushes what is before it, where nothing else would.
    let mut record = Vec::new();
    Maker::new(1).next(&mut record);
    engine.append(&record)?;
    drop(engine);
    let engine = kind.open(dir, Promise::Durable)?;
    let begin = Instant::now();
    expect(&*engine, settings.records)?;
    Ok(Outcome::new(settings.records, begin.elapsed()))
}

/// Reads and checks everything: so many records, none twice.
fn expect(engine: &dyn Engine, expected: u64) -> Result<()> {
    let mut seen = Seen::default();
    engine.read(&mut |record| seen.note(check(record)?).map(|()| true))?;
    ensure!(seen.count == expected, "{} records of {expected}", seen.count);
    Ok(())
}

/// Which numbers of which writers there were: a bit each.
#[derive(Default)]
struct Seen {
    bits: Vec<Vec<u64>>,
    count: u64,
}

impl Seen {
    fn note(&mut self, id: Id) -> Result<()> {
        let (writer, word, bit) = (id.writer as usize, (id.number / 64) as usize, 1 << (id.number % 64));
        ensure!(writer < 1 << 16 && word < 1 << 32, "{id:?} was never written");
        if self.bits.len() <= writer {
            self.bits.resize(writer + 1, Vec::new());
        }
        let words = &mut self.bits[writer];
        if words.len() <= word {
            words.resize((word + 1).next_power_of_two(), 0);
        }
        ensure!(words[word] & bit == 0, "{id:?} is there twice");
        words[word] |= bit;
        self.count += 1;
        Ok(())
    }
}

/// Appends durably on many threads, and says each id that was acknowledged, until the process is killed.
pub fn append_until_killed(kind: Kind, dir: &Path) -> Result<()> {
    let engine = kind.open(dir, Promise::Durable)?;
    on_writers(VICTIM_WRITERS, |mut maker| -> Result<()> {
        let mut record = Vec::new();
        loop {
            let id = maker.next(&mut record);
            engine.append(&record)?;
            // One write to a pipe, of less than PIPE_BUF: whole, or not at all.
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&id.to_bytes())?;
            stdout.flush()?;
        }
    })?;
    Ok(())
}

fn crash(kind: Kind, dir: &Path, settings: Settings) -> Result<Outcome> {
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--victim", kind.name()])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = victim.stdout.take().context("piped")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        said.read_to_end(&mut bytes).map(|_| bytes)
    });
    std::thread::sleep(Duration::from_secs(settings.seconds));
    ensure!(victim.try_wait()?.is_none(), "the victim ended by itself");
    victim.kill()?;
    victim.wait()?;
    let bytes = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    let (acknowledged, rest) = bytes.as_chunks::<{ Id::BYTES }>();
    ensure!(rest.is_empty() && !acknowledged.is_empty(), "{} bytes were said", bytes.len());
    let mut missing: HashSet<Id> = acknowledged.iter().map(Id::from_bytes).collect();

    let begin = Instant::now();
    let engine = kind.open(dir, Promise::Durable)?;
    let open = begin.elapsed();
    engine.read(&mut |record| check(record).map(|_| false))?;
    let first_read = begin.elapsed();
    let mut count = 0;
    let begin = Instant::now();
    engine.read(&mut |record| {
        missing.remove(&check(record)?);
        count += 1;
        Ok(true)
    })?;
    let ms = |duration: Duration| Some(duration.as_secs_f64() * 1e3);
    Ok(Outcome {
        open_ms: ms(open),
        first_read_ms: ms(first_read),
        acknowledged: Some(acknowledged.len() as u64),
        lost: Some(missing.len() as u64),
        ..Outcome::new(count, begin.elapsed())
    })
}

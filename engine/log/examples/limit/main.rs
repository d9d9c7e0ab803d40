//! The engine against a bare loop: how much of what the device gives do durable appends get?
//!
//!     cargo run --release -p highwater-log --example limit -- --pairs 8
//!     cargo run --release -p highwater-log --example limit -- --shapes 16x65536,1000x4096 --json runs.json
//!     cargo run --release -p highwater-log --example limit -- --shapes 16x4096,256x4096,1000x4096 --in-flight 512
//!
//! Each shape is a number of partitions and the size in bytes of an append. The *engine* appends validated batches to
//! each partition, as many in flight as `--depth` says, each of them acknowledged when it is durable, until the total is
//! reached; then a checkpoint brings everything into segments, flushed, before the clock stops. The *bare* loop makes the
//! same writes with nothing around them: one flushing write a group to a journal of the same size, chunks into segment
//! files behind it, and a flush of each at the end. It checks, copies and keeps nothing.
//!
//! Runs are interleaved (A B B A), those of the shapes as well. The ratio is the engine's over the bare loop's, pair by pair: the median and a 95 %
//! bootstrap interval. Runs pass three laps of the journal; memory and files are warmed by a run that is not counted.
//!
//!     cargo run --release -p highwater-log --example limit -- --against straight --shapes 16x65536,16x1048576,1x1048576
//!     cargo run --release -p highwater-log --example limit -- --against two-steps --shapes 1x4096,256x4096,16x65536
//!
//! hold other loops against the bare one: what writes each append once, straight to its segment ([`straight`]), and what
//! writes a group and then flushes it, in place of one write that does both.

mod bare;
#[path = "../shared/batch.rs"]
mod batch;
#[path = "../shared/cpu.rs"]
mod cpu;
mod engine;
#[path = "../shared/files.rs"]
mod files;
mod report;
mod straight;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use clap::Parser;
use highwater_io::{Runtime, RuntimeConfig};
use highwater_log::ShardConfig;
use straight::Promise;

/// Partitions, and bytes of each append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    partitions: usize,
    append_bytes: usize,
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (partitions, append_bytes) = text.split_once('x').ok_or("a shape is PARTITIONSxBYTES")?;
        let number = |part: &str| part.parse().map_err(|_| format!("{part} is no number"));
        Ok(Shape { partitions: number(partitions)?, append_bytes: number(append_bytes)? })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.partitions, self.append_bytes)
    }
}

/// The engine's durable appends against a bare loop of the same writes, in interleaved pairs.
#[derive(Debug, Parser)]
struct Options {
    /// Partitions and bytes of an append; several with commas.
    #[arg(long, value_delimiter = ',', default_value = "256x4096,16x65536")]
    shapes: Vec<Shape>,
    /// Appends of each partition in flight.
    #[arg(long, default_value_t = 2)]
    depth: usize,
    /// Appends in flight of all partitions together, instead of `--depth` for each: shapes of one append size then write groups
    /// of one size, whatever their number of partitions.
    #[arg(long, conflicts_with = "depth")]
    in_flight: Option<usize>,
    /// Pairs of each shape.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Bytes of each run, payload only.
    #[arg(long, default_value_t = 3 << 30)]
    bytes: u64,
    /// Shards, or bare loops, each on a thread of its own with a journal of its own; the partitions are dealt out.
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// Memory in bytes for the hot tail of each shard.
    #[arg(long, default_value_t = ShardConfig::default().hot_tail_bytes)]
    hot_tail_bytes: usize,
    /// Bytes of the chunks that are written behind.
    #[arg(long, default_value_t = ShardConfig::default().chunk_bytes)]
    chunk_bytes: usize,
    /// Appends of so many bytes are written to segments without a copy.
    #[arg(long, default_value_t = ShardConfig::default().aligned_append_bytes)]
    aligned_append_bytes: usize,
    /// Runs the engine with nothing else, to be looked at with a profiler.
    #[arg(long)]
    engine_only: bool,
    /// Runs the bare loop with nothing else.
    #[arg(long)]
    bare_only: bool,
    /// The bare loop writes all groups from one buffer, and all chunks from another.
    #[arg(long)]
    one_buffer: bool,
    /// Acknowledge when written, not when durable.
    #[arg(long)]
    unflushed: bool,
    /// What is held against the bare loop.
    #[arg(long, value_enum, default_value_t = Against::Engine)]
    against: Against,
    /// Where the files go: on the disk that is to be measured.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Writes every run here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is held against the bare loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Against {
    /// The engine.
    Engine,
    /// Loops that write each append straight to its segment, and a reference to the journal.
    Straight,
    /// The same loop with a write and a flush for a group, in place of a write that flushes.
    TwoSteps,
}

impl Against {
    fn sides(self) -> &'static [Side] {
        match self {
            Against::Engine => &[Side::Bare, Side::Engine],
            Against::Straight => &[Side::Bare, Side::Straight, Side::OneFlush],
            Against::TwoSteps => &[Side::Bare, Side::TwoSteps],
        }
    }
}

/// What one run is asked for.
#[derive(Debug, Clone)]
struct Work {
    dir: PathBuf,
    shape: Shape,
    depth: usize,
    in_flight: Option<usize>,
    bytes: u64,
    unflushed: bool,
    one_buffer: bool,
    shards: usize,
    /// Of each shard.
    settings: ShardConfig,
    /// Lets the shards begin together.
    start: Arc<Barrier>,
}

impl Work {
    /// Partitions that belong to `shard`.
    fn partitions_of(&self, shard: usize) -> impl Iterator<Item = usize> {
        (shard..self.shape.partitions).step_by(self.shards)
    }

    /// Appends that `shard` has in flight.
    fn in_flight_of(&self, shard: usize) -> usize {
        match self.in_flight {
            Some(all) => (shard..all).step_by(self.shards).count(),
            None => self.partitions_of(shard).count() * self.depth,
        }
    }

    /// Appends of each of those in flight, one after the other, until the total is reached.
    fn rounds(&self) -> u64 {
        let in_flight = self.in_flight.unwrap_or(self.shape.partitions * self.depth);
        self.bytes.div_ceil((in_flight * self.shape.append_bytes) as u64)
    }

    /// Appends of one group of the bare loop: what gathers while the other half of those in flight is written.
    fn group_appends(&self, shard: usize) -> usize {
        self.in_flight.map_or(self.partitions_of(shard).count(), |_| self.in_flight_of(shard).div_ceil(2))
    }

    /// Groups of each bare loop until the total is reached.
    fn groups(&self) -> u64 {
        let all: usize = (0..self.shards).map(|shard| self.group_appends(shard)).sum();
        self.bytes.div_ceil((all * self.shape.append_bytes) as u64)
    }
}

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    appends: u64,
    bytes: u64,
    /// Until the last ack.
    acknowledged: Duration,
    /// Until everything was in flushed segments.
    drained: Duration,
    /// Journal groups.
    groups: u64,
    /// System calls into the ring.
    enters: u64,
    /// Processor time of the shard's thread, until the clock stopped.
    thread_cpu: Duration,
}

impl Measured {
    /// What shards that ran at the same time did together.
    fn and(self, other: Measured) -> Self {
        Measured {
            appends: self.appends + other.appends,
            bytes: self.bytes + other.bytes,
            acknowledged: self.acknowledged.max(other.acknowledged),
            drained: self.drained.max(other.drained),
            groups: self.groups + other.groups,
            enters: self.enters + other.enters,
            thread_cpu: self.thread_cpu + other.thread_cpu,
        }
    }
}

/// Runs `main` on each shard with its part of `parts`, and returns what they did together.
fn on_shards<S, F, Fut>(work: &Work, parts: Vec<S>, main: F) -> Measured
where
    S: Send + 'static,
    F: Fn(highwater_io::Io, Work, usize, S) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Measured> + 'static,
{
    let (sender, receiver) = std::sync::mpsc::channel();
    let states: Vec<_> =
        parts.into_iter().enumerate().map(|(shard, part)| (work.clone(), shard, part)).collect();
    let runtime = Runtime::start(&RuntimeConfig::default(), states, move |io, (work, shard, part)| {
        let (main, sender) = (main.clone(), sender.clone());
        async move { sender.send(main(io, work, shard, part).await).expect("somebody waits") }
    });
    if let Err(panic) = runtime.expect("shards").join() {
        std::panic::resume_unwind(panic);
    }
    receiver.into_iter().reduce(Measured::and).expect("at least one shard")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Engine,
    Bare,
    /// Straight to segments, each write durable by itself.
    Straight,
    /// Straight to segments, with one flush for all.
    OneFlush,
    /// A write and a flush a group.
    TwoSteps,
}

fn run(side: Side, options: &Options, shape: Shape, bytes: u64) -> report::Run {
    let scratch = tempfile::tempdir_in(&options.dir).expect("a folder on the disk to be measured");
    let shards = options.shards.min(shape.partitions).min(options.in_flight.unwrap_or(usize::MAX)).max(1);
    let work = Work {
        dir: scratch.path().to_owned(),
        shape,
        depth: options.depth,
        in_flight: options.in_flight,
        bytes,
        unflushed: options.unflushed,
        one_buffer: options.one_buffer,
        settings: ShardConfig {
            hot_tail_bytes: options.hot_tail_bytes,
            chunk_bytes: options.chunk_bytes,
            aligned_append_bytes: options.aligned_append_bytes,
            ..ShardConfig::default()
        },
        shards,
        start: Arc::new(Barrier::new(shards)),
    };
    let cpu = cpu::Cpu::now();
    let measured = match side {
        Side::Engine => on_shards(&work, engine::seeds(&work), engine::run),
        Side::Bare => on_shards(&work, vec![bare::Steps::One; work.shards], bare::run),
        Side::TwoSteps => on_shards(&work, vec![bare::Steps::Two; work.shards], bare::run),
        Side::Straight => on_shards(&work, vec![Promise::FlushAFile; work.shards], straight::run),
        Side::OneFlush => on_shards(&work, vec![Promise::OneFlush; work.shards], straight::run),
    };
    report::Run { side, shape, measured, cpu: cpu::Cpu::now().since(&cpu) }
}

fn check(dir: &Path) {
    assert!(dir.is_dir(), "{} is no folder: --dir names one on the disk to be measured", dir.display());
}

fn main() {
    let options = Options::parse();
    check(&options.dir);
    let mut runs = Vec::new();
    if options.bare_only || options.engine_only {
        let side = if options.bare_only { Side::Bare } else { Side::Engine };
        for &shape in options.shapes.iter().cycle().take(options.shapes.len() * options.pairs) {
            println!("{}", run(side, &options, shape, options.bytes));
        }
        return;
    }
    let sides = options.against.sides();
    for &shape in &options.shapes {
        for &side in sides {
            run(side, &options, shape, options.bytes.min(1 << 30));
        }
    }
    for pair in 0..options.pairs {
        let mut order = sides.to_vec();
        if pair % 2 == 0 {
            order.reverse();
        }
        for &shape in &options.shapes {
            for &side in &order {
                let run = run(side, &options, shape, options.bytes);
                println!("{run}");
                runs.push(run);
            }
        }
    }
    for &shape in &options.shapes {
        for &side in &sides[1..] {
            println!("{}", report::ratio(&runs, shape, side));
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&runs)).expect("the results are written");
    }
}

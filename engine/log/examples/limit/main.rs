//! The engine against a bare loop: how much of what the device gives do durable appends get?
//!
//!     cargo run --release -p highwater-log --example limit -- --pairs 8
//!     cargo run --release -p highwater-log --example limit -- --shapes 16x65536,1000x4096 --json runs.json
//!
//! Each shape is a number of partitions and the size in bytes of an append. The *engine* appends validated batches to
//! each partition, as many in flight as `--depth` says, each of them acknowledged when it is durable, until the total is
//! reached; then a checkpoint brings everything into segments, flushed, before the clock stops. The *bare* loop makes the
//! same writes with nothing around them: one flushing write a group to a journal of the same size, chunks into segment
//! files behind it, and a flush of each at the end. It checks, copies and keeps nothing.
//!
//! Runs are interleaved (A B B A). The ratio is the engine's over the bare loop's, pair by pair: the median and a 95 %
//! bootstrap interval. Runs pass three laps of the journal; memory and files are warmed by a run that is not counted.

mod bare;
mod engine;
mod report;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use clap::Parser;
use highwater_io::{Runtime, RuntimeConfig};
use highwater_log::ShardConfig;

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
    /// Where the files go: on the disk that is to be measured.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Writes every run here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one run is asked for.
#[derive(Debug, Clone)]
struct Work {
    dir: PathBuf,
    shape: Shape,
    depth: usize,
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

    /// Rounds in which each partition gets `in_flight` appends of `append_bytes`, until the total is reached.
    fn rounds(&self, in_flight: usize, append_bytes: usize) -> u64 {
        self.bytes.div_ceil((self.shape.partitions * in_flight * append_bytes) as u64)
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
}

fn run(side: Side, options: &Options, shape: Shape, bytes: u64) -> report::Run {
    let scratch = tempfile::tempdir_in(&options.dir).expect("a folder on the disk to be measured");
    let work = Work {
        dir: scratch.path().to_owned(),
        shape,
        depth: options.depth,
        bytes,
        unflushed: options.unflushed,
        one_buffer: options.one_buffer,
        settings: ShardConfig {
            hot_tail_bytes: options.hot_tail_bytes,
            chunk_bytes: options.chunk_bytes,
            aligned_append_bytes: options.aligned_append_bytes,
            ..ShardConfig::default()
        },
        shards: options.shards.min(shape.partitions).max(1),
        start: Arc::new(Barrier::new(options.shards.min(shape.partitions).max(1))),
    };
    let cpu = report::Cpu::now();
    let measured = match side {
        Side::Engine => on_shards(&work, engine::seeds(&work), engine::run),
        Side::Bare => on_shards(&work, vec![(); work.shards], bare::run),
    };
    report::Run { side, shape, measured, cpu: report::Cpu::now().since(&cpu) }
}

fn check(dir: &Path) {
    assert!(dir.is_dir(), "{} is no folder: --dir names one on the disk to be measured", dir.display());
}

fn main() {
    let options = Options::parse();
    check(&options.dir);
    let mut runs = Vec::new();
    for &shape in &options.shapes {
        if options.bare_only {
            println!("{}", run(Side::Bare, &options, shape, options.bytes));
            continue;
        }
        if options.engine_only {
            for _ in 0..options.pairs {
                println!("{}", run(Side::Engine, &options, shape, options.bytes));
            }
            continue;
        }
        for side in [Side::Bare, Side::Engine] {
            run(side, &options, shape, options.bytes.min(1 << 30));
        }
        for pair in 0..options.pairs {
            let order = if pair % 2 == 0 { [Side::Engine, Side::Bare] } else { [Side::Bare, Side::Engine] };
            for side in order {
                let run = run(side, &options, shape, options.bytes);
                println!("{run}");
                runs.push(run);
            }
        }
        println!("{}", report::ratio(&runs, shape));
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&runs)).expect("the results are written");
    }
}

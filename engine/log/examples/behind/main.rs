//! What writing behind costs a flush: the latency of durable appends with and without the segment writer at work.
//!
//!     cargo run --release -p highwater-log --example behind -- --pairs 8
//!
//! An open loop: appends of `--append` bytes come at `--rate` bytes a second, each at its moment whatever became of those before
//! it, to `--partitions` in turn, and each is timed from its moment until it is durable. In one run of a pair chunks go to segments
//! and checkpoints are made as always; in the other everything stays in memory and in the journal until the clock has stopped.
//! Pairs are interleaved (A B B A). Both runs have the same memory and the same journal, which passes no lap.

#[path = "../shared/batch.rs"]
mod batch;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use highwater_io::{Io, Runtime, RuntimeConfig};
use highwater_log::{DataDir, LogConfig, OpenOptions, Origin, Partition, ShardConfig, ShardLogs};
use highwater_model::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};

const EPOCH: LeaderEpoch = LeaderEpoch(0);

/// Latency of durable appends with and without the segment writer, in interleaved pairs.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Bytes of an append.
    #[arg(long, default_value_t = 16_384)]
    append: usize,
    /// Bytes a second.
    #[arg(long, default_value_t = 50_000_000)]
    rate: u64,
    /// Partitions that take turns.
    #[arg(long, default_value_t = 16)]
    partitions: usize,
    /// Seconds of each run that are counted.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pairs of runs.
    #[arg(long, default_value_t = 6)]
    pairs: usize,
    /// Where the files go: on the disk that is to be measured.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Writes every run here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Before the clock starts: files are made, memory is touched.
const WARM_UP: Duration = Duration::from_secs(2);

/// Of a run without the segment writer everything stays in memory.
fn settings(options: &Options, writes_behind: bool) -> ShardConfig {
    let seconds = options.seconds + 2 * WARM_UP.as_secs();
    let bytes = usize::try_from(options.rate * seconds).expect("a size that fits memory");
    let defaults = ShardConfig::default();
    let journal_max_files = bytes / usize::try_from(defaults.journal_file_bytes).expect("a size") * 2 + 2;
    // Three quarters of it make a checkpoint.
    let common = ShardConfig { journal_max_files, hot_tail_bytes: 2 * bytes, ..defaults };
    if writes_behind {
        return common;
    }
    ShardConfig { chunk_bytes: bytes, chunks_in_flight: 1, checkpoint_interval_bytes: u64::MAX, ..common }
}

/// Milliseconds of each append, from its moment until it was durable.
async fn appended(
    io: &Io,
    partitions: &[Partition],
    batch: &Bytes,
    options: &Options,
    lasts: Duration,
) -> Vec<f64> {
    let every = Duration::from_secs_f64(batch.len() as f64 / options.rate as f64);
    let took = Rc::new(RefCell::new(Vec::new()));
    let (begin, mut tasks) = (io.now(), Vec::new());
    for (place, partition) in (0_u32..).zip(partitions.iter().cycle()) {
        let moment = begin + every * place;
        if moment - begin >= lasts {
            break;
        }
        let now = io.now();
        if now < moment {
            io.sleep(moment - now).await;
        }
        let (io_of_task, partition, batch, took) =
            (io.clone(), partition.clone(), batch.clone(), Rc::clone(&took));
        tasks.push(io.spawn(async move {
            let appended = partition.append(batch, EPOCH, Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("acknowledged");
            took.borrow_mut().push((io_of_task.now() - moment).as_secs_f64() * 1e3);
        }));
    }
    for task in tasks {
        task.await;
    }
    took.take()
}

async fn measure(io: Io, dir: PathBuf, options: Options, writes_behind: bool) -> Vec<f64> {
    let open = OpenOptions { shard: settings(&options, writes_behind), ..OpenOptions::default() };
    let (mut data, _) = DataDir::open(&io, &dir, open).await.expect("opens");
    let seed = data.split(1, |_, _| 0).await.expect("a journal").remove(0);
    let logs = ShardLogs::start(&io, seed).await.expect("starts");
    let config = LogConfig { flush_messages: 1, ..LogConfig::default() };
    let mut partitions = Vec::new();
    for index in 0..options.partitions {
        let partition = PartitionIndex(i32::try_from(index).expect("few partitions"));
        let id = TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition };
        let partition = logs.create_partition(id, "behind", config.clone()).await.expect("created");
        partition.begin_epoch(EPOCH);
        partitions.push(partition);
    }
    let batch = batch::batch(options.append);
    appended(&io, &partitions, &batch, &options, WARM_UP).await;
    let took = appended(&io, &partitions, &batch, &options, Duration::from_secs(options.seconds)).await;
    logs.close().await.expect("a clean stop");
    took
}

/// One run: how many appends, and p50, p99 and p99.9 in milliseconds.
struct Run {
    pair: usize,
    writes_behind: bool,
    appends: usize,
    percentiles: [f64; 3],
}

const PARTS: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

fn run(options: &Options, pair: usize, writes_behind: bool) -> Run {
    let scratch = tempfile::tempdir_in(&options.dir).expect("a folder on the disk to be measured");
    let (sender, receiver) = std::sync::mpsc::channel();
    let states = vec![(scratch.path().to_owned(), options.clone())];
    let runtime = Runtime::start(&RuntimeConfig::default(), states, move |io, (dir, options)| {
        let sender = sender.clone();
        async move { sender.send(measure(io, dir, options, writes_behind).await).expect("somebody waits") }
    });
    if let Err(panic) = runtime.expect("a shard").join() {
        std::panic::resume_unwind(panic);
    }
    let mut took = receiver.recv().expect("latencies");
    took.sort_by(f64::total_cmp);
    let percentile = |part: f64| took[((part * took.len() as f64) as usize).min(took.len() - 1)];
    Run { pair, writes_behind, appends: took.len(), percentiles: PARTS.map(|(_, part)| percentile(part)) }
}

fn json(runs: &[Run]) -> String {
    let line = |run: &Run| {
        let [p50, p99, p999] = run.percentiles;
        format!(
            "  {{\"pair\": {}, \"writes_behind\": {}, \"appends\": {}, \"latency_ms\": {{\"p50\": {p50:.4}, \
             \"p99\": {p99:.4}, \"p99.9\": {p999:.4}}}}}",
            run.pair, run.writes_behind, run.appends
        )
    };
    format!("[\n{}\n]\n", runs.iter().map(line).collect::<Vec<String>>().join(",\n"))
}

fn check(dir: &Path) {
    assert!(dir.is_dir(), "{} is no folder: --dir names one on the disk to be measured", dir.display());
}

fn main() {
    let options = Options::parse();
    check(&options.dir);
    run(&Options { seconds: 2, ..options.clone() }, 0, true);
    let mut runs = Vec::new();
    for pair in 0..options.pairs {
        let order = if pair % 2 == 0 { [true, false] } else { [false, true] };
        for writes_behind in order {
            let run = run(&options, pair, writes_behind);
            let told = PARTS.iter().zip(run.percentiles).map(|((name, _), ms)| format!("{name} {ms:.3} ms"));
            let how = if writes_behind { "with" } else { "without" };
            println!("pair {pair} {how:7} the segment writer: {}", told.collect::<Vec<String>>().join(", "));
            runs.push(run);
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, json(&runs)).expect("the results are written");
    }
}

//! Produces (and consumes) as fast as it can, and says how fast that was and what it cost.
//!
//! ```text
//! cargo run --release -p highwater-client --example perf -- produce --bootstrap 127.0.0.1:9092 --topic t \
//!     --records 2000000 --size 1024 --acks all --batch-size 1048576 --partitions 16
//! cargo run --release -p highwater-client --example perf -- consume --bootstrap 127.0.0.1:9092 --topic t
//! cargo run --release -p highwater-client --example perf -- null --port 9092     a broker that keeps nothing
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use highwater_client::adaptor::{Admin, Backend, Consumer, IoThread, Producer, timestamp_now};
use highwater_client::admin::{CreateTopics, NewTopic};
use highwater_client::consumer::{ConsumerEvent, StartAt};
use highwater_client::producer::{Outcome, ProducerRecord};
use highwater_client::{
    Acks, ClientConfig, ConsumerConfig, ErrorCode, Partition, ProducerConfig, parse_bootstrap_servers,
};
use highwater_model::PartitionIndex;
use highwater_model::compression::Compression;
use support::tcp::TcpBroker;

#[derive(Parser)]
#[command(about = "Kafka client throughput")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produce records and wait for their outcomes.
    Produce(ProduceArgs),
    /// Consume a topic from its start to its present end.
    Consume(ConsumeArgs),
    /// Be a broker that answers and keeps nothing.
    Null(NullArgs),
}

#[derive(Clone, Copy, ValueEnum)]
enum Runtime {
    Auto,
    Tokio,
    Uring,
}

impl From<Runtime> for Backend {
    fn from(runtime: Runtime) -> Backend {
        match runtime {
            Runtime::Auto => Backend::Auto,
            Runtime::Tokio => Backend::Tokio,
            Runtime::Uring => Backend::Uring,
        }
    }
}

#[derive(Args)]
struct Common {
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    #[arg(long, default_value = "perf")]
    topic: String,
    #[arg(long, value_enum, default_value = "auto")]
    runtime: Runtime,
}

#[derive(Args)]
struct ProduceArgs {
    #[command(flatten)]
    common: Common,
    /// Create the topic with so many partitions, if it is not there.
    #[arg(long, default_value_t = 16)]
    partitions: i32,
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Size of a value in bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    #[arg(long, default_value = "all")]
    acks: Acks,
    /// Turn idempotence off. It is off unless acks is all.
    #[arg(long)]
    no_idempotence: bool,
    #[arg(long, default_value_t = 1 << 20)]
    batch_size: usize,
    #[arg(long, default_value_t = 5)]
    linger_ms: u64,
    #[arg(long, default_value_t = 64 << 20)]
    buffer_memory: usize,
    #[arg(long, default_value_t = 16 << 20)]
    max_request_size: usize,
    #[arg(long, default_value_t = 5)]
    max_in_flight: usize,
    #[arg(long, default_value = "none", value_parser = compression)]
    compression: Compression,
    /// Records a second, evenly; as fast as possible if 0.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Number the records, for `consume --verify`.
    #[arg(long)]
    verify: bool,
}

#[derive(Args)]
struct ConsumeArgs {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 1 << 20)]
    max_partition_fetch_bytes: i32,
    #[arg(long)]
    no_sessions: bool,
    #[arg(long)]
    no_crc: bool,
    /// Say which numbers of `produce --verify` are missing, there twice or out of order.
    #[arg(long)]
    verify: bool,
}

#[derive(Args)]
struct NullArgs {
    #[arg(long, default_value_t = 9092)]
    port: u16,
    /// Partitions of the topic `t`, which is there from the start.
    #[arg(long, default_value_t = 16)]
    partitions: i32,
}

fn compression(text: &str) -> Result<Compression, String> {
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        .into_iter()
        .find(|codec| codec.name() == text)
        .ok_or_else(|| "none, gzip, snappy, lz4 or zstd".to_owned())
}

/// CPU seconds of this process so far, user and system.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Produce(args) => produce(&args),
        Command::Consume(args) => consume(&args),
        Command::Null(args) => null(&args),
    }
}

#[derive(Default)]
struct Outcomes {
    acked: AtomicU64,
    failed: AtomicU64,
    batches: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

fn produce(args: &ProduceArgs) -> anyhow::Result<()> {
    let io = IoThread::start(args.common.runtime.into())?;
    let servers = parse_bootstrap_servers(&args.common.bootstrap)?;
    create_topic(&io, &ClientConfig::new(servers.clone()), &args.common.topic, args.partitions)?;
    let mut config = ProducerConfig::new(servers);
    config.acks = args.acks;
    config.enable_idempotence = args.acks == Acks::All && !args.no_idempotence;
    config.batch_size_bytes = args.batch_size;
    config.linger = Duration::from_millis(args.linger_ms);
    config.buffer_memory_bytes = args.buffer_memory;
    config.max_request_size_bytes = args.max_request_size;
    config.max_in_flight = args.max_in_flight;
    config.compression = args.compression;
    let outcomes = Arc::new(Outcomes::default());
    let counted = Arc::clone(&outcomes);
    let producer = Producer::start(&io, config, 1, move |delivery| {
        let count = delivery.tokens.len() as u64;
        counted.batches.fetch_add(1, Ordering::Relaxed);
        match delivery.outcome {
            Outcome::Acked { .. } | Outcome::Sent => counted.acked.fetch_add(count, Ordering::Relaxed),
            Outcome::Failed(error) => {
                if let Ok(mut first) = counted.first_failure.lock() {
                    first.get_or_insert_with(|| error.to_string());
                }
                counted.failed.fetch_add(count, Ordering::Relaxed)
            }
        };
    })?;
    let topic = producer.topic(&args.common.topic);
    let partitions = producer.partition_count(topic).unwrap_or(0);
    println!("{} partitions, {:?}", partitions, io.backend());

    // Incompressible, and different from record to record.
    let mut seed = 7u64;
    let noise: Vec<u8> = (0..args.size * 2 + 4096)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        })
        .collect();
    let mut numbered = Vec::new();
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    for token in 0..args.records {
        let from = usize::try_from(token).unwrap_or(0) * 61 % (args.size + 4096);
        let mut value = &noise[from..from + args.size];
        if args.verify {
            numbered.clear();
            numbered.extend_from_slice(value);
            numbered[..8].copy_from_slice(&token.to_be_bytes());
            value = &numbered;
        }
        let record = ProducerRecord { token, ..ProducerRecord::new(topic, timestamp_now(), value) };
        let due = (token * 1_000_000_000).checked_div(args.rate).map(Duration::from_nanos);
        if let Some(wait) = due.and_then(|due| due.checked_sub(started.elapsed())) {
            std::thread::sleep(wait);
        }
        producer.send(&record)?;
    }
    let stats_source = &producer;
    let flushed = stats_source.flush(Duration::from_secs(120));
    let stats = producer.stats();
    let is_drained = producer.close(Duration::from_secs(1)) && flushed;
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu_before;
    let bytes = (args.records * args.size as u64) as f64;
    println!(
        "{:.1} MB/s, {:.0} records/s, {:.2} s, client CPU {:.2} s ({:.0} MB per CPU second)",
        bytes / elapsed / 1e6,
        args.records as f64 / elapsed,
        elapsed,
        cpu,
        bytes / cpu.max(0.01) / 1e6,
    );
    println!(
        "acked {}, failed {}, batches {}, requests {}, retries {}, splits {}, drained {is_drained}",
        outcomes.acked.load(Ordering::Relaxed),
        outcomes.failed.load(Ordering::Relaxed),
        outcomes.batches.load(Ordering::Relaxed),
        stats.requests,
        stats.batch_retries,
        stats.batch_splits,
    );
    if let Some(failure) = outcomes.first_failure.lock().ok().and_then(|first| first.clone()) {
        println!("first failure: {failure}");
    }
    Ok(())
}

fn create_topic(
    io: &IoThread,
    config: &ClientConfig,
    name: &str,
    partition_count: i32,
) -> anyhow::Result<()> {
    let admin = Admin::start(io, config, 1)?;
    let topic = NewTopic {
        name: name.to_owned(),
        partition_count,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    let timeout = Duration::from_secs(20);
    for (_, result) in admin.call(CreateTopics { topics: vec![topic], timeout }, timeout)? {
        match result {
            Err(error) if error.code != ErrorCode::TOPIC_ALREADY_EXISTS => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn consume(args: &ConsumeArgs) -> anyhow::Result<()> {
    let io = IoThread::start(args.common.runtime.into())?;
    let mut config = ConsumerConfig::new(parse_bootstrap_servers(&args.common.bootstrap)?);
    config.max_partition_fetch_bytes = args.max_partition_fetch_bytes;
    config.fetch_sessions = !args.no_sessions;
    config.check_crcs = !args.no_crc;
    let consumer = Consumer::start(&io, config, 1)?;
    let topic = consumer.topic(&args.common.topic);
    let count = consumer
        .partition_count(topic, Duration::from_secs(10))
        .ok_or_else(|| anyhow::anyhow!("the topic is not known"))?;
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    let mut last = started;
    let partitions: Vec<Partition> =
        (0..count).map(|index| Partition { topic, index: PartitionIndex(index) }).collect();
    for partition in &partitions {
        consumer.assign(*partition, StartAt::Earliest);
    }
    let (mut records, mut bytes, mut chunks) = (0u64, 0u64, 0u64);
    let mut numbers: Vec<(i32, u64)> = Vec::new();
    let is_at_end = |partition: &Partition| {
        let end = consumer.watermarks(*partition).map(|ends| ends.high_watermark);
        end.is_some() && consumer.position(*partition) >= end
    };
    // What was fetched comes before the silence in which everything is at its end.
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(ConsumerEvent::Records(fetched)) => {
                chunks += 1;
                for batch in fetched.batches() {
                    for record in batch?.records() {
                        records += 1;
                        let value = record?.value().unwrap_or_default();
                        bytes += value.len() as u64;
                        if args.verify {
                            let number = value.first_chunk().map_or(u64::MAX, |n| u64::from_be_bytes(*n));
                            numbers.push((fetched.partition().index.0, number));
                        }
                    }
                }
                last = Instant::now();
            }
            Some(ConsumerEvent::Stopped { error, .. }) => return Err(error.into()),
            None if partitions.iter().all(is_at_end) => break,
            Some(_) | None => {}
        }
    }
    let (elapsed, cpu) = ((last - started).as_secs_f64(), cpu_seconds() - cpu_before);
    println!(
        "{records} records, {:.1} MB/s, {elapsed:.2} s, client CPU {cpu:.2} s ({:.0} MB per CPU second), {chunks} chunks",
        bytes as f64 / elapsed / 1e6,
        bytes as f64 / cpu.max(0.01) / 1e6,
    );
    if args.verify {
        report_numbers(numbers);
    }
    Ok(())
}

fn report_numbers(mut numbers: Vec<(i32, u64)>) {
    let mut last: Vec<Option<u64>> = Vec::new();
    let mut disorder = 0;
    for (partition, number) in &numbers {
        let index = usize::try_from(*partition).unwrap_or(0);
        last.resize(last.len().max(index + 1), None);
        disorder += usize::from(last[index] > Some(*number));
        last[index] = Some(*number);
    }
    numbers.sort_unstable_by_key(|(_, number)| *number);
    let highest = numbers.last().map_or(0, |(_, number)| number + 1);
    let total = numbers.len() as u64;
    numbers.dedup_by_key(|(_, number)| *number);
    let distinct = numbers.len() as u64;
    println!(
        "verified: {} missing below {highest}, {} duplicates, {disorder} out of order",
        highest - distinct,
        total - distinct
    );
}

fn null(args: &NullArgs) -> anyhow::Result<()> {
    let broker = TcpBroker::start(args.port, args.partitions)?;
    broker.lock().keeps_log = false;
    broker.wait()
}

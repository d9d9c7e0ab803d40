//! A batch on its way takes no memory from the allocator: what it needs was there before.
//!
//! On the real driver, since the simulated one allocates for its own ends. The allocator counts for the whole process, so
//! this file has one test.

use std::alloc::System;
use std::rc::Rc;
use std::sync::mpsc;

use bytes::Bytes;
use highwater_io::{Io, Runtime, RuntimeConfig};
use highwater_log::{DataDir, LogConfig, OpenOptions, Origin, Partition, ShardLogs};
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, PartitionIndex, Timestamp, TopicId, TopicPartition};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const EPOCH: LeaderEpoch = LeaderEpoch(0);
const PARTITIONS: i32 = 64;
/// Of each partition in flight.
const DEPTH: usize = 4;
/// Until everything has the size that it keeps: the hot tail is full by then.
const WARM_ROUNDS: usize = 150;
const COUNTED_ROUNDS: usize = 150;
/// Of each batch. Large enough that the hot tail forgets batches, and segments are written behind, while we count.
const BATCH_BYTES: usize = 4 << 10;

/// What is left are chunks and checkpoints, which are made for many batches. Each batch took memory eight times and more before
/// this was looked at.
const MOST_PER_BATCH: f64 = 0.3;

#[test]
fn batch_in_the_steady_state_takes_no_memory_from_the_allocator() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (sender, receiver) = mpsc::channel();
    let state = (scratch.path().to_owned(), sender);
    let runtime = Runtime::start(&RuntimeConfig::default(), vec![state], |io, (path, sender)| async move {
        let mut options = OpenOptions::default();
        options.shard.hot_tail_bytes = 32 << 20;
        let (mut dir, _) = DataDir::open(&io, &path, options).await.expect("opens");
        let seed = dir.split(1, |_, _| 0).await.expect("a journal").pop().expect("one shard");
        let logs = ShardLogs::start(&io, seed).await.expect("starts");
        let partitions = create(&logs).await;
        rounds(&io, &partitions, WARM_ROUNDS).await;
        let region = Region::new(ALLOCATOR);
        rounds(&io, &partitions, COUNTED_ROUNDS).await;
        sender.send(region.change().allocations).expect("somebody waits");
        logs.close().await.expect("a clean stop");
    });
    runtime.expect("a shard").join().expect("no panic");
    let allocations = receiver.recv().expect("a count");
    let batches = COUNTED_ROUNDS * DEPTH * usize::try_from(PARTITIONS).expect("a few");
    let each = allocations as f64 / batches as f64;
    println!("{allocations} allocations for {batches} batches: {each:.3} each");
    assert!(each < MOST_PER_BATCH, "{allocations} allocations for {batches} batches");
}

async fn create(logs: &ShardLogs) -> Rc<[Partition]> {
    let mut partitions = Vec::new();
    for index in 0..PARTITIONS {
        let id = TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition: PartitionIndex(index) };
        let partition = logs.create_partition(id, "steady", LogConfig::default()).await.expect("created");
        partition.begin_epoch(EPOCH);
        partitions.push(partition);
    }
    partitions.into()
}

/// Appends to every partition, so many times, by tasks that are there from the start.
async fn rounds(io: &Io, partitions: &Rc<[Partition]>, rounds: usize) {
    let batch = batch();
    let tasks: Vec<_> = (0..partitions.len() * DEPTH)
        .map(|writer| {
            let partition = partitions[writer % partitions.len()].clone();
            let batch = batch.clone();
            io.spawn(async move {
                for _ in 0..rounds {
                    let appended = partition.append(batch.clone(), EPOCH, Origin::Client).await;
                    appended.expect("accepted").acknowledged().await.expect("durable");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
}

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = [7; 1000];
    while builder.size_bytes() + 1100 < BATCH_BYTES {
        builder.push(&NewRecord { timestamp: Timestamp(1_000), value: Some(&value), ..NewRecord::default() });
    }
    builder.build(ProducerStamp::NONE).expect("a batch")
}

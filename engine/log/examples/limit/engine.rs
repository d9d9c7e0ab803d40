//! The engine's side: partitions of each shard, with appends in flight.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use highwater_io::{Io, Runtime, RuntimeConfig};
use highwater_log::{DataDir, LogConfig, OpenOptions, Origin, Partition, ShardLogs, ShardSeed};
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, PartitionIndex, Timestamp, TopicId, TopicPartition};

use crate::report::thread_cpu;
use crate::{Measured, Work};

const EPOCH: LeaderEpoch = LeaderEpoch(0);
const RECORD_BYTES: usize = 1000;

/// Opens the directory and gives each shard its part.
pub(crate) fn seeds(work: &Work) -> Vec<ShardSeed> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let options = OpenOptions { shard: work.settings.clone(), ..OpenOptions::default() };
    let states = vec![(work.dir.clone(), work.shards, options)];
    let opening = Runtime::start(&RuntimeConfig::default(), states, move |io, (dir, shards, options)| {
        let sender = sender.clone();
        async move {
            let (mut dir, _) = DataDir::open(&io, &dir, options).await.expect("opens");
            sender.send(dir.split(shards, |_, _| 0).await.expect("journals")).expect("somebody waits");
        }
    });
    opening.expect("a shard").join().expect("no panic");
    receiver.recv().expect("seeds")
}

pub(crate) async fn run(io: Io, work: Work, shard: usize, seed: ShardSeed) -> Measured {
    let logs = ShardLogs::start(&io, seed).await.expect("starts");
    let config =
        LogConfig { flush_messages: if work.unflushed { u64::MAX } else { 1 }, ..LogConfig::default() };
    let mut partitions = Vec::new();
    for index in work.partitions_of(shard) {
        let partition = i32::try_from(index).expect("few partitions");
        let id =
            TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition: PartitionIndex(partition) };
        let partition = logs.create_partition(id, "limit", config.clone()).await.expect("created");
        partition.begin_epoch(EPOCH);
        partitions.push(partition);
    }
    let batch = batch(work.shape.append_bytes);
    let writers = partitions.len() * work.depth;
    let rounds = work.rounds(work.depth, batch.len());
    work.start.wait();
    let (enters, groups) = (io.counters().enters, logs.journal_counters().groups);

    let (begin, cpu) = (Instant::now(), thread_cpu());
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let partition = partitions[writer % partitions.len()].clone();
            io.spawn(write(partition, batch.clone(), rounds))
        })
        .collect();
    for task in tasks {
        task.await;
    }
    let acknowledged = begin.elapsed();
    logs.checkpoint().await.expect("a checkpoint");
    let drained = begin.elapsed();

    let appends = rounds * writers as u64;
    let measured = Measured {
        appends,
        bytes: appends * batch.len() as u64,
        acknowledged,
        drained,
        groups: logs.journal_counters().groups - groups,
        enters: io.counters().enters - enters,
        thread_cpu: thread_cpu() - cpu,
    };
    logs.close().await.expect("a clean stop");
    measured
}

async fn write(partition: Partition, batch: Bytes, rounds: u64) {
    for _ in 0..rounds {
        let appended = partition.append(batch.clone(), EPOCH, Origin::Client).await.expect("accepted");
        appended.acknowledged().await.expect("acknowledged");
    }
}

/// One batch of exactly `size_bytes`.
fn batch(size_bytes: usize) -> Bytes {
    let build = |values: &[usize]| {
        let mut builder = BatchBuilder::new(Compression::None);
        let noise: Rc<[u8]> = noise(size_bytes);
        for &len in values {
            let value = Some(&noise[..len]);
            builder.push(&NewRecord { timestamp: Timestamp(1_000), value, ..NewRecord::default() });
        }
        builder.build(ProducerStamp::NONE).expect("a batch")
    };
    let mut values = vec![RECORD_BYTES; (size_bytes / (RECORD_BYTES + 16)).saturating_sub(1)];
    let short = build(&values);
    // The rest goes into one record more; its own lengths take a few bytes.
    values.push(size_bytes.saturating_sub(short.len()));
    while build(&values).len() > size_bytes {
        *values.last_mut().expect("one was pushed") -= 1;
    }
    build(&values)
}

fn noise(size_bytes: usize) -> Rc<[u8]> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(size_bytes)
    .collect()
}

//! The engine's side: partitions of each shard, with appends in flight.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use highwater_io::{Io, Runtime, RuntimeConfig};
use highwater_log::{DataDir, LogConfig, OpenOptions, Origin, Partition, ShardLogs, ShardSeed};
use highwater_model::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};

use crate::batch::batch;
use crate::report::thread_cpu;
use crate::{Measured, Work};

const EPOCH: LeaderEpoch = LeaderEpoch(0);

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
    let partitions: Rc<[Partition]> = partitions.into();
    let batch = batch(work.shape.append_bytes);
    let writers = work.in_flight_of(shard);
    let rounds = usize::try_from(work.rounds()).expect("rounds");
    // Segments are there before the clock starts, and memory was written to, as those of the bare loop are.
    let warm_up_appends = (work.settings.hot_tail_bytes / batch.len()).next_multiple_of(partitions.len());
    append_all(&io, &partitions, writers, warm_up_appends.div_ceil(writers), &batch).await;
    logs.checkpoint().await.expect("a checkpoint");
    work.start.wait();
    let (enters, groups) = (io.counters().enters, logs.journal_counters().groups);

    let (begin, cpu) = (Instant::now(), thread_cpu());
    append_all(&io, &partitions, writers, rounds, &batch).await;
    let acknowledged = begin.elapsed();
    logs.checkpoint().await.expect("a checkpoint");
    let drained = begin.elapsed();

    let appends = (rounds * writers) as u64;
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

/// Appends from so many writers, so many each, to the partitions in turn.
async fn append_all(io: &Io, partitions: &Rc<[Partition]>, writers: usize, each: usize, batch: &Bytes) {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            // With fewer writers than partitions, each goes on to the next that nobody wrote to.
            let (partitions, count) = (Rc::clone(partitions), partitions.len());
            let places = (writer..).step_by(writers).map(move |place| place % count);
            io.spawn(write(partitions, places.take(each), batch.clone()))
        })
        .collect();
    for task in tasks {
        task.await;
    }
}

async fn write(partitions: Rc<[Partition]>, places: impl Iterator<Item = usize>, batch: Bytes) {
    for place in places {
        let appended =
            partitions[place].append(batch.clone(), EPOCH, Origin::Client).await.expect("accepted");
        appended.acknowledged().await.expect("acknowledged");
    }
}

//! What the log says of itself: offsets by time, ends of epochs, how safe a retry is.

use std::time::Duration;

use crate::common::{create, id, open, open_with, options, read_values, small_log, small_shard};
use bytes::Bytes;
use highwater_io::Io;
use highwater_io::race::{Either, first};
use highwater_io::sim::{self, DiskOp, Fault, FaultEffect};
use highwater_log::{
    Appended, LogConfig, OpenOptions, Origin, Partition, ReadError, ReadRequest, ShardConfig,
};
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::common::scene::{End, Scene};

/// A batch of records with these timestamps.
fn batch_at(times: &[i64], producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for &time in times {
        builder.push(&NewRecord {
            timestamp: Timestamp(time),
            value: Some(b"value"),
            ..NewRecord::default()
        });
    }
    builder.build(producer).expect("a batch")
}

async fn append_at(partition: &Partition, times: &[i64]) -> Appended {
    let epoch = partition.latest_epoch().max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    let appended = partition.append(batch_at(times, ProducerStamp::NONE), epoch, Origin::Client).await;
    let appended = appended.expect("accepted");
    appended.acknowledged().await.expect("the disk is sound");
    appended
}

async fn offset_at(partition: &Partition, time: i64) -> Option<i64> {
    let found = partition.offset_for_timestamp(Timestamp(time)).await.expect("readable");
    found.map(|found| found.offset.0)
}

#[test]
fn offset_for_a_time_below_the_start_of_the_log_is_the_start() {
    for closes in [false, true] {
        sim::run(3, move |io| async move {
            let (dir, mut logs, _) = open(&io).await;
            let mut partition = create(&logs, 0).await;
            for n in 0..10 {
                append_at(&partition, &[1_000 + 10 * n, 1_005 + 10 * n]).await;
            }
            if closes {
                // Everything in the segment, nothing in the hot tail.
                logs.close().await.expect("a clean stop");
                dir.mark_clean().await.expect("marked");
                (_, logs, _) = open(&io).await;
                partition = logs.partition(&id(0)).expect("is there");
            }
            assert_eq!(offset_at(&partition, 1_000).await, Some(0));
            // In the middle of a batch, whose first record stays on disk.
            partition.delete_records_before(Offset(7)).await.expect("durable");
            for time in [0, 1_000, 1_030, 1_035] {
                assert_eq!(offset_at(&partition, time).await, Some(7), "time {time}, closed: {closes}");
            }
            assert_eq!(offset_at(&partition, 1_036).await, Some(8), "closed: {closes}");
            assert_eq!(offset_at(&partition, 2_000).await, None, "closed: {closes}");
            logs.close().await.expect("a clean stop");
        });
    }
}

/// With few descriptors the file of a segment is opened for a read, and may be gone by then. The consumer was told that the
/// storage had failed.
#[test]
fn segment_that_goes_under_a_reader_is_no_failure() {
    let mut out_of_range = 0;
    for seed in 0..8 {
        let mut scene = Scene::new(seed);
        let slow = FaultEffect::Delay(Duration::from_millis(1 + seed % 4));
        scene.disk().inject(Fault::new(DiskOp::Open, slow).on(".log"));
        out_of_range += scene.live(|io| async move {
            let shard = ShardConfig { max_open_segments: 1, ..small_shard() };
            let options = OpenOptions { shard, ..options() };
            let (dir, logs, _) = open_with(&io, options.clone()).await;
            let partition = create(&logs, 0).await;
            for n in 0..200 {
                append_at(&partition, &[1_000 + n; 40]).await;
            }
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
            // Nothing is in memory any more.
            let (_dir, logs, _) = open_with(&io, options).await;
            let partition = logs.partition(&id(0)).expect("is there");
            let reader = io.spawn(read_while_it_goes(io.clone(), partition.clone()));
            for n in 1..=50 {
                partition.delete_records_before(Offset(n * 160)).await.expect("durable");
                io.sleep(Duration::from_millis(1)).await;
            }
            reader.await
        });
    }
    assert!(out_of_range > 0, "no read met a removal");
}

/// Reads where the log begins, and asks for times, until it is empty. How many reads came too late.
async fn read_while_it_goes(io: Io, partition: Partition) -> u32 {
    let mut out_of_range = 0;
    loop {
        let marks = partition.watermarks().get();
        if marks.log_start_offset == marks.log_end_offset {
            return out_of_range;
        }
        let offset = marks.log_start_offset;
        let upper_bound = marks.log_end_offset;
        match partition.read(ReadRequest { offset, max_bytes: 100, min_one_batch: true, upper_bound }).await {
            Ok(data) => assert!(data.size_bytes > 0),
            Err(ReadError::OffsetOutOfRange { log_start_offset, .. }) if offset < log_start_offset => {
                out_of_range += 1;
            }
            Err(error) => panic!("{error}"),
        }
        partition.offset_for_timestamp(Timestamp(1_100)).await.expect("readable");
        partition.max_timestamp(partition.watermarks().get().log_end_offset).await.expect("readable");
        io.yield_now().await;
    }
}

/// KIP-101: a leadership is noted when it begins. Without, a consumer that holds the epoch of an idle leadership is told
/// that its log was cut.
#[test]
fn epoch_that_appended_nothing_has_an_end() {
    for end in [End::PowerCut, End::Kill] {
        let mut scene = Scene::new(5);
        scene.live(|io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            append_at(&partition, &[1_000, 1_001]).await;
            partition.begin_epoch(LeaderEpoch(4));
            logs.close().await.expect("a clean stop");
        });
        scene.end(end);
        scene.live(|io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = logs.partition(&id(0)).expect("is there");
            partition.begin_epoch(LeaderEpoch(6));
            let end_of = |epoch| partition.end_offset_for_epoch(LeaderEpoch(epoch)).map(|(_, end)| end.0);
            for epoch in [0, 4, 5, 6] {
                assert_eq!(end_of(epoch), Some(2), "epoch {epoch}");
            }
            assert_eq!(end_of(7), None, "an epoch that is to come");
            assert_eq!(end_of(-1), None, "no epoch");
            append_at(&partition, &[1_002]).await;
            assert_eq!(partition.end_offset_for_epoch(LeaderEpoch(6)), Some((LeaderEpoch(6), Offset(3))));
            assert_eq!(end_of(4), Some(2));
        });
    }
}

/// Rule 6 where only each second message is flushed: the retry of the one that asked for the flush waits for it.
#[test]
fn retry_of_the_append_that_asked_for_a_flush_waits_for_it() {
    let producer = |sequence| ProducerStamp {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
    };
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config = LogConfig { flush_messages: 2, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        let append =
            |sequence| partition.append(batch_at(&[1], producer(sequence)), LeaderEpoch(0), Origin::Client);
        append(0).await.expect("accepted").acknowledged().await.expect("written");
        disk.inject(Fault::new(DiskOp::Flush, FaultEffect::Delay(Duration::from_secs(2))).on("journal-0"));
        disk.inject(
            Fault::new(DiskOp::Write, FaultEffect::Delay(Duration::from_secs(2))).on("journal-0").times(1),
        );
        let original = append(1).await.expect("accepted");
        let retry = append(1).await.expect("accepted");
        assert!(!original.is_duplicate && retry.is_duplicate);
        retry.acknowledged().await.expect("the disk is sound");
        assert!(
            partition.watermarks().get().durable_offset > original.last_offset,
            "acknowledged before it is durable"
        );
        // The next one waits for no flush, and nor does its retry.
        append(2).await.expect("accepted").acknowledged().await.expect("written");
        let retry = append(2).await.expect("accepted");
        assert!(retry.is_duplicate);
        retry.acknowledged().await.expect("written");
        assert!(partition.watermarks().get().durable_offset <= retry.last_offset, "nobody asked for a flush");
        assert_eq!(read_values(&partition).await.len(), 3);
    });
}

/// With `flush.messages` = N a power cut takes N - 1 acknowledged messages at most. Those accepted right behind the one that
/// asked for the flush were acknowledged before it was done, and N - 1 more of them (seeds 3333 and 9892 of the simulator).
#[test]
fn append_behind_one_that_asked_for_a_flush_waits_for_it() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config = LogConfig { flush_messages: 4, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        let append = || partition.append(batch_at(&[1], ProducerStamp::NONE), LeaderEpoch(0), Origin::Client);
        for _ in 0..3 {
            append().await.expect("accepted").acknowledged().await.expect("written");
        }
        disk.inject(Fault::new(DiskOp::Flush, FaultEffect::Delay(Duration::from_secs(2))).on("journal-0"));
        let asks = append().await.expect("accepted");
        let behind = append().await.expect("accepted");
        behind.acknowledged().await.expect("the disk is sound");
        let durable = partition.watermarks().get().durable_offset;
        assert!(durable > asks.last_offset, "five are acknowledged, {durable} are durable");
    });
}

/// Whoever set `flush.messages` to 1 was told so, and then an append that had been waiting was acknowledged when it was written.
#[test]
fn append_that_waited_while_each_one_came_to_be_flushed_waits_for_its_flush() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config = LogConfig { flush_messages: 1_000, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        // The append waits for its segment's space, and the flush takes longer than the write.
        let slow = FaultEffect::Delay(Duration::from_secs(2));
        disk.inject(Fault::new(DiskOp::Allocate, slow).on("topic-0"));
        disk.inject(Fault::new(DiskOp::Flush, slow).on("journal-0"));
        let append = partition.append(batch_at(&[1], ProducerStamp::NONE), LeaderEpoch(0), Origin::Client);
        let strict = async {
            io.sleep(Duration::from_secs(1)).await;
            partition.set_config(LogConfig { flush_messages: 1, ..small_log() });
            std::future::pending::<()>().await;
        };
        let appended = match first(append, strict).await {
            Either::Left(appended) => appended.expect("accepted"),
            Either::Right(()) => unreachable!("it waits for ever"),
        };
        appended.acknowledged().await.expect("the disk is sound");
        let durable = partition.watermarks().get().durable_offset;
        assert!(durable > appended.last_offset, "acknowledged, and {durable} are durable");
    });
}

/// A shard's memory, and what each of its checkpoints writes, is bounded over all partitions.
#[test]
fn producers_of_all_partitions_are_bounded_together() {
    let shard = ShardConfig { max_producers: 100, ..small_shard() };
    sim::run(12, |io| async move {
        let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
        let by = |producer| ProducerStamp {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence(0),
        };
        let append = async |partition: &Partition, producer| {
            let batch = batch_at(&[1], by(producer));
            let appended = partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("the disk is sound");
            appended.base_offset.0
        };
        let mut partitions = Vec::new();
        for number in 0..3 {
            let partition = create(&logs, number).await;
            partition.begin_epoch(LeaderEpoch(0));
            for producer in 0..80 {
                assert_eq!(append(&partition, producer).await, producer);
            }
            // What was forgotten in vain meanwhile is counted anew.
            logs.checkpoint().await.expect("the disk is sound");
            partitions.push(partition);
        }
        // 80 of the first, 20 of the second, and of each at least sixteen.
        for (partition, known) in partitions.iter().zip([80, 20, 16]) {
            for producer in 80 - known..80 {
                assert_eq!(append(partition, producer).await, producer, "a retry is known as one");
            }
            if known < 80 {
                assert_eq!(append(partition, 79 - known).await, 80, "and this one no more");
            }
        }
        logs.close().await.expect("a clean stop");
    });
}

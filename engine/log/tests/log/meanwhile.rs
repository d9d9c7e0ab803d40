//! What moves from memory into segments while somebody looks: it is in one of the two for whoever looks at both. Retention
//! took an acknowledged record, and look-ups by time passed over records, when it was in neither.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::Io;
use highwater_io::sim::{Disk, DiskOp, Fault, FaultEffect};
use highwater_log::{LogConfig, Origin, Partition, ShardLogs};
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, Timestamp};

use crate::common::scene::{End, Scene};
use crate::common::{id, open, read_values, small_log};

const HOUR: i64 = 3_600_000;
/// When simulations begin.
const WALL_CLOCK: i64 = 1_750_000_000_000;

fn hour_long() -> LogConfig {
    LogConfig { segment_bytes: 1 << 20, retention_ms: Some(Duration::from_hours(1)), ..small_log() }
}

fn batch_at(time: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&NewRecord { timestamp: Timestamp(time), value: Some(b"value"), ..NewRecord::default() });
    builder.build(ProducerStamp::NONE).expect("a batch")
}

/// Appends a record of this time, and waits until it is acknowledged.
async fn append_at(partition: &Partition, time: i64) -> Offset {
    let epoch = partition.latest_epoch().max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    let appended = partition.append(batch_at(time), epoch, Origin::Client).await.expect("accepted");
    appended.acknowledged().await.expect("the disk is sound");
    appended.base_offset
}

/// Appends these without waiting for each, and then for all.
async fn fill(partition: &Partition, times: impl Iterator<Item = i64>) {
    let epoch = partition.latest_epoch().max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    let mut appended = Vec::new();
    for time in times {
        appended.push(partition.append(batch_at(time), epoch, Origin::Client).await.expect("accepted"));
    }
    for each in appended {
        each.acknowledged().await.expect("the disk is sound");
    }
}

/// Has the segment of the partition written while `look` reads it, however quick that would be by itself.
async fn while_written<T>(io: &Io, logs: &ShardLogs, disk: &Disk, look: impl Future<Output = T>) -> T {
    let slow = disk.inject(Fault::new(DiskOp::Read, FaultEffect::Delay(Duration::from_secs(2))).on(".log"));
    let writing = {
        let (io, logs) = (io.clone(), logs.clone());
        io.clone().spawn(async move {
            // The look is on its way.
            io.sleep(Duration::from_millis(500)).await;
            logs.checkpoint().await.expect("the disk is sound");
        })
    };
    let found = look.await;
    writing.await;
    disk.lift(slow);
    found
}

/// A log whose segment holds old records, after a clean stop: nothing is known of it, and looking takes a read.
fn with_old_records(seed: u64, times: Vec<i64>) -> Scene {
    let mut scene = Scene::new(seed);
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open(&io).await;
        let partition = logs.create_partition(id(0), "topic", hour_long()).await.expect("created");
        fill(&partition, times.into_iter()).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
    scene
}

async fn reopened(io: &Io) -> (highwater_log::DataDir, ShardLogs, Partition) {
    let (dir, logs, _) = open(io).await;
    let partition = logs.partition(&id(0)).expect("is there");
    partition.set_config(hour_long());
    (dir, logs, partition)
}

#[test]
fn retention_leaves_a_record_that_is_written_while_it_looks() {
    for seed in 0..10 {
        let mut scene = with_old_records(seed, (0..50).map(|n| WALL_CLOCK - 2 * HOUR + n).collect());
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (_dir, logs, partition) = reopened(&io).await;
            let now = io.wall_time().as_millis();
            assert!((now - WALL_CLOCK).abs() < HOUR / 2, "{now}");
            let fresh = append_at(&partition, now).await;
            while_written(&io, &logs, &disk, logs.apply_retention()).await.expect("the disk is sound");
            let marks = partition.watermarks().get();
            assert!(marks.log_start_offset <= fresh, "seed {seed}: {marks:?}");
            assert_eq!(read_values(&partition).await.last().map(Vec::as_slice), Some(&b"value"[..]));
            // Nobody writes to it, and it is as old as the others now.
            io.sleep(Duration::from_hours(2)).await;
            logs.apply_retention().await.expect("the disk is sound");
            assert_eq!(partition.watermarks().get().log_start_offset, Offset(51), "seed {seed}");
            logs.close().await.expect("a clean stop");
        });
    }
}

#[test]
fn look_up_by_time_finds_what_is_written_while_it_looks() {
    for seed in 0..10 {
        let mut scene = with_old_records(seed, (0..50).collect());
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (_dir, logs, partition) = reopened(&io).await;
            let wanted = append_at(&partition, HOUR).await;
            append_at(&partition, 2 * HOUR).await;
            let looking = partition.offset_for_timestamp(Timestamp(HOUR));
            let found = while_written(&io, &logs, &disk, looking).await.expect("readable");
            assert_eq!(found.map(|found| found.offset), Some(wanted), "seed {seed}");
            logs.close().await.expect("a clean stop");
        });
    }
}

/// The same where it has left memory, too, by the time the look comes there, and where segments were rolled meanwhile.
#[test]
fn look_up_by_time_finds_what_left_memory_while_it_looks() {
    for seed in 0..5 {
        let mut scene = with_old_records(seed, (0..50).collect());
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (_dir, logs, partition) = reopened(&io).await;
            partition.set_config(LogConfig { segment_bytes: 8 << 10, ..hour_long() });
            let wanted = append_at(&partition, HOUR).await;
            let slow = disk.inject(
                Fault::new(DiskOp::Read, FaultEffect::Delay(Duration::from_secs(5))).on("0000.log").times(1),
            );
            let looked = Rc::new(std::cell::Cell::new(false));
            let pushing = {
                let (looked, partition) = (Rc::clone(&looked), partition.clone());
                io.clone().spawn(async move {
                    // More than the hot tail takes (2 MiB), and many segments.
                    let mut round = 0;
                    while !looked.get() {
                        fill(&partition, (0..500).map(|n| 2 * HOUR + 500 * round + n)).await;
                        round += 1;
                    }
                    round
                })
            };
            let found = partition.offset_for_timestamp(Timestamp(HOUR)).await.expect("readable");
            looked.set(true);
            let rounds = pushing.await;
            assert!(rounds > 60, "seed {seed}: {rounds} rounds while it looked");
            assert_eq!(found.map(|found| found.offset), Some(wanted), "seed {seed}");
            disk.lift(slow);
            logs.close().await.expect("a clean stop");
        });
    }
}

/// KIP-734, asked while appends are on their way: what is not visible yet does not hide what is.
#[test]
fn largest_time_is_that_of_visible_records() {
    let mut scene = Scene::new(3);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config = LogConfig { index_interval_bytes: 100, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        let largest = async || {
            let end = partition.watermarks().get().durable_offset;
            let found = partition.max_timestamp(end).await.expect("readable");
            found.map(|found| (found.offset.0, found.timestamp.0))
        };
        assert_eq!(largest().await, None);
        for round in 0..40 {
            fill(&partition, (0..20).map(|n| 1_000 * (round + 1) + n)).await;
            let last = 20 * (round + 1) - 1;
            assert_eq!(largest().await, Some((last, 1_000 * (round + 1) + 19)));
            let held = disk
                .inject(Fault::new(DiskOp::Write, FaultEffect::Delay(Duration::from_secs(1))).on("journal"));
            let epoch = partition.latest_epoch();
            let appended =
                partition.append(batch_at(1_000_000), epoch, Origin::Client).await.expect("accepted");
            assert_eq!(largest().await, Some((last, 1_000 * (round + 1) + 19)), "round {round}");
            disk.lift(held);
            // It would be the largest for good.
            partition.truncate_to(appended.base_offset).await.expect("the disk is sound");
            if round % 3 == 2 {
                logs.checkpoint().await.expect("the disk is sound");
            }
        }
        logs.close().await.expect("a clean stop");
    });
}

#[test]
fn largest_time_is_not_that_of_a_deleted_record() {
    for closes in [false, true] {
        let mut scene = Scene::new(4);
        scene.live_and(End::Kill, move |io| async move {
            let (dir, logs, _) = open(&io).await;
            let partition = logs.create_partition(id(0), "topic", small_log()).await.expect("created");
            fill(&partition, [100, 9_000, 300, 700, 500].into_iter()).await;
            partition.delete_records_before(Offset(2)).await.expect("durable");
            let found = partition.max_timestamp(Offset(5)).await.expect("readable");
            assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), Some((3, 700)));
            if closes {
                logs.close().await.expect("a clean stop");
                dir.mark_clean().await.expect("marked");
            }
        });
        scene.live(move |io| async move {
            let (_dir, logs, partition) = reopened(&io).await;
            let found = partition.max_timestamp(Offset(5)).await.expect("readable");
            assert_eq!(
                found.map(|found| (found.offset.0, found.timestamp.0)),
                Some((3, 700)),
                "closed: {closes}"
            );
            logs.close().await.expect("a clean stop");
        });
    }
}

/// Records of very old clients, and what compaction leaves of a batch, tell no time: they stay as long as what is behind them.
#[test]
fn segment_that_tells_no_time_goes_with_the_next_that_does() {
    let mut scene = Scene::new(8);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let size = batch_at(0).len() as u64;
        // Ten records a segment.
        let config = LogConfig { segment_bytes: 10 * size, ..hour_long() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        let now = io.wall_time().as_millis();
        fill(&partition, (0..20).map(|_| -1)).await;
        fill(&partition, (0..10).map(|_| now)).await;
        fill(&partition, (0..10).map(|_| -1)).await;
        fill(&partition, (0..5).map(|_| now + HOUR)).await;
        logs.checkpoint().await.expect("the disk is sound");
        logs.apply_retention().await.expect("the disk is sound");
        assert_eq!(
            partition.watermarks().get().log_start_offset,
            Offset(0),
            "what tells no time is not old by itself"
        );
        io.sleep(Duration::from_secs(3_700)).await;
        logs.apply_retention().await.expect("the disk is sound");
        assert_eq!(partition.watermarks().get().log_start_offset, Offset(30));
        logs.close().await.expect("a clean stop");
    });
}

/// What compaction left nothing of, in front of the segment that is appended to, keeps that one for ever no more.
#[test]
fn segments_that_tell_no_time_go_with_the_one_that_is_appended_to() {
    let mut scene = Scene::new(9);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let size = batch_at(0).len() as u64;
        let config = LogConfig { segment_bytes: 10 * size, ..hour_long() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        fill(&partition, (0..20).map(|_| -1)).await;
        let now = io.wall_time().as_millis();
        fill(&partition, (0..5).map(|_| now)).await;
        logs.checkpoint().await.expect("the disk is sound");
        logs.apply_retention().await.expect("the disk is sound");
        assert_eq!(partition.watermarks().get().log_start_offset, Offset(0));
        io.sleep(Duration::from_secs(3_700)).await;
        logs.apply_retention().await.expect("the disk is sound");
        assert_eq!(partition.watermarks().get().log_start_offset, Offset(25));
        logs.close().await.expect("a clean stop");
    });
}

/// The start lies in a batch, behind its latest record.
#[test]
fn largest_time_is_found_where_the_start_lies_within_a_batch() {
    sim_run_with_batch(|partition| async move {
        partition.delete_records_before(Offset(2)).await.expect("durable");
        let found = partition.max_timestamp(Offset(4)).await.expect("readable");
        assert_eq!(found.map(|found| (found.offset.0, found.timestamp.0)), Some((3, 500)));
        // Nothing but the rest of that batch is left.
        partition.truncate_to(Offset(3)).await.expect("the disk is sound");
        assert_eq!(partition.max_timestamp(Offset(3)).await.expect("readable"), None);
    });
}

/// A log of a batch with the times 9,000, 1 and 2, and one with 500.
fn sim_run_with_batch<F, Fut>(main: F)
where
    F: FnOnce(Partition) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    Scene::new(10).live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = logs.create_partition(id(0), "topic", small_log()).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        let mut builder = BatchBuilder::new(Compression::None);
        for time in [9_000, 1, 2] {
            builder.push(&NewRecord {
                timestamp: Timestamp(time),
                value: Some(b"v"),
                ..NewRecord::default()
            });
        }
        let batch = builder.build(ProducerStamp::NONE).expect("a batch");
        let appended = partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
        appended.acknowledged().await.expect("the disk is sound");
        append_at(&partition, 500).await;
        main(partition).await;
        logs.close().await.expect("a clean stop");
    });
}

//! The story: a deletion took the partition's write-behind turn and then waited for room in the journal. The journal was
//! full, so the room could only come from a checkpoint, and the checkpoint waited for that turn: the shard stood still
//! for ever. The simulator of the whole broker found it.

use std::time::Duration;

use crate::common::scene::Scene;
use crate::common::{append_one, create, id, open, open_with, options, small_log, small_shard};
use highwater_io::Io;
use highwater_io::sim::{DiskOp, Fault, FaultEffect};
use highwater_log::{LogConfig, OpenOptions, Partition, ShardConfig};

/// Fills the journal again and again.
async fn fill(log: Partition) {
    fill_with(log, 200).await;
}

async fn fill_with(log: Partition, appends: usize) {
    for _ in 0..appends {
        append_one(&log, &[7; 3_000]).await;
    }
}

async fn delete_while_others_append(io: Io) {
    let (_dir, logs, _) = open(&io).await;
    let mut fillers = Vec::new();
    for partition in 0..3 {
        fillers.push(io.spawn(fill(create(&logs, partition).await)));
    }
    let work = async {
        for _ in 0..40 {
            let log = create(&logs, 9).await;
            append_one(&log, &[9; 3_000]).await;
            logs.delete_partition(&id(9)).await.expect("deleted");
        }
        for filler in fillers {
            filler.await;
        }
    };
    io.timeout(Duration::from_secs(600), work).await.expect("nothing stands still");
}

#[test]
fn deletion_while_the_journal_is_full_lets_it_go_on() {
    for seed in 0..8 {
        highwater_io::sim::run(seed, delete_while_others_append);
    }
}

/// Memory asked for a checkpoint, whose line lay in the first of two journal files; while segments were flushed, appends filled both.
/// The checkpoint made no room for them, and yet its end said that nobody waited for any.
#[test]
fn journal_that_fills_up_during_a_checkpoint_gets_another_one() {
    for seed in 0..4 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let shard = ShardConfig {
                journal_file_bytes: 4 << 20,
                journal_max_files: 2,
                checkpoint_interval_bytes: 1 << 40,
                ..small_shard()
            };
            let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
            let mut partitions = Vec::new();
            for n in 0..3 {
                let config = LogConfig { segment_bytes: 32 << 20, ..small_log() };
                partitions.push(logs.create_partition(id(n), "topic", config).await.expect("created"));
            }
            io.sleep(Duration::from_secs(1)).await;
            let late = |seconds| FaultEffect::Delay(Duration::from_secs(seconds));
            disk.inject(Fault::new(DiskOp::Write, late(2)).on("00000000.log").times(3));
            let flushes = disk.inject(Fault::new(DiskOp::Flush, late(60)).on("00000000.log").times(3));
            let fill = |log: Partition| async move {
                for _ in 0..1_500 {
                    append_one(&log, &[7; 3_000]).await;
                }
            };
            let fillers: Vec<_> = partitions.into_iter().map(|log| io.spawn(fill(log))).collect();
            let work = async {
                for filler in fillers {
                    filler.await;
                }
            };
            io.timeout(Duration::from_secs(1_000), work).await.expect("nothing stands still");
            assert!(disk.fired(flushes) > 0);
        });
    }
}

/// Whether nothing is appended for seconds, and who reads a cold log knows that some wait for it.
async fn waits_and_is_known_to(io: &Io, log: &Partition) -> bool {
    let end = log.watermarks().get().log_end_offset;
    for _ in 0..3 {
        io.sleep(Duration::from_secs(1)).await;
        if log.watermarks().get().log_end_offset != end || !log.has_appends_beside() {
            return false;
        }
    }
    true
}

/// Appends that wait for a checkpoint, for space or for a flush are in no group that is on its way. Who reads a cold log saw nothing
/// being written, took them for gone, and read as deep as it could, beside the very flushes that they waited for.
#[test]
fn appends_that_wait_are_appends_to_a_cold_reader() {
    let waits = [
        (DiskOp::Flush, ".log", 1, 200),
        (DiskOp::Allocate, ".log", 1, 200),
        (DiskOp::Flush, "journal", 2, 1),
    ];
    for (op, path, flush_messages, appends) in waits {
        let mut scene = Scene::new(1);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let config = LogConfig { flush_messages, ..small_log() };
            let log = logs.create_partition(id(0), "topic", config).await.expect("created");
            append_one(&log, &[7; 3_000]).await;
            io.sleep(Duration::from_secs(1)).await;
            let slow = FaultEffect::Delay(Duration::from_secs(60));
            let slow = disk.inject(Fault::new(op, slow).on(path).times(1));
            let filler = io.spawn(fill_with(log.clone(), appends));
            io.sleep(Duration::from_secs(10)).await;
            assert!(waits_and_is_known_to(&io, &log).await, "{op:?} in {path}");
            filler.await;
            assert_eq!(disk.fired(slow), 1);
            io.sleep(Duration::from_secs(100)).await;
            let _ = log.has_appends_beside();
            io.sleep(Duration::from_secs(1)).await;
            assert!(!log.has_appends_beside(), "nobody appends any more");
        });
    }
}

//! Rare meetings: a roll that finds no space, a close with more ends than the journal holds, a flush whose failure looks
//! like a full disk. Each was found by reading, and each lost records or stood still.

use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{
    append_one, batch_of, create, id, open, open_with, options, read_values, small_log, small_shard,
};
use highwater_io::Io;
use highwater_io::sim::{Disk, DiskOp, Fault, FaultEffect, run};
use highwater_log::{AppendError, LogConfig, LogError, OpenOptions, Origin, Partition, ShardConfig};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

async fn try_append(partition: &Partition, value: &[u8]) -> Result<(), AppendError> {
    partition.begin_epoch(LeaderEpoch(0));
    let appended =
        partition.append(batch_of(&[value], ProducerStamp::NONE), LeaderEpoch(0), Origin::Client).await?;
    Ok(appended.acknowledged().await?)
}

async fn settle<T>(io: &Io, what: &str, work: impl Future<Output = T>) -> T {
    io.timeout(Duration::from_secs(600), work).await.unwrap_or_else(|_| panic!("{what} stands still"))
}

/// The file of the segment that was to begin was made, and then there was no space for it. What was accepted instead went
/// into the segment before, under the offset with which that file was named.
#[test]
fn roll_that_finds_no_space_hides_nothing_later() {
    for (seed, is_clean) in [(1, true), (2, false)] {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        let written = scene.live(move |io| async move {
            let (dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            let mut written = Vec::new();
            for n in 0..7u8 {
                written.push(vec![n; 3_000]);
            }
            for value in &written {
                try_append(&partition, value).await.expect("there is space");
            }
            disk.set_capacity(disk.used_bytes());
            let refused = try_append(&partition, &[100; 4_000]).await;
            assert!(matches!(refused, Err(AppendError::Log(LogError::OutOfSpace { .. }))), "{refused:?}");
            written.push(vec![7; 500]);
            try_append(&partition, &[7; 500]).await.expect("fits into the segment that is there");
            disk.set_capacity(disk.used_bytes() + (64 << 20));
            written.push(vec![8; 4_000]);
            try_append(&partition, &[8; 4_000]).await.expect("there is space again");
            assert_eq!(read_values(&partition).await, written);
            logs.checkpoint().await.expect("there is space");
            if is_clean {
                logs.close().await.expect("a clean stop");
                dir.mark_clean().await.expect("marked");
            }
            written
        });
        scene.end(End::PowerCut);
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "{report:?}");
            let partition = logs.partition(&id(0)).expect("is there");
            assert_eq!(read_values(&partition).await, written, "clean: {is_clean}");
        });
    }
}

/// The file that was made for a roll which never came was unlinked, and then there was no descriptor to make that durable. The
/// next roll took it for one that is there, and the log directory was given up.
#[test]
fn roll_is_made_anew_after_a_removal_that_was_short_of_descriptors() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    let written = scene.live_and(End::PowerCut, move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        let mut written = Vec::new();
        for n in 0..7u8 {
            written.push(vec![n; 3_000]);
            try_append(&partition, &[n; 3_000]).await.expect("there is space");
        }
        disk.set_capacity(disk.used_bytes());
        try_append(&partition, &[100; 4_000]).await.expect_err("there is no space");
        disk.set_capacity(disk.used_bytes() + (64 << 20));
        disk.inject(Fault::new(DiskOp::SyncDirectory, FaultEffect::Errno(EMFILE)).on("topic-0").times(1));
        let refused = try_append(&partition, &[7; 500]).await;
        assert!(matches!(refused, Err(AppendError::Log(LogError::OutOfDescriptors { .. }))), "{refused:?}");
        written.push(vec![8; 4_000]);
        try_append(&partition, &[8; 4_000]).await.expect("there is space again, and a descriptor");
        assert!(logs.failure().is_none());
        written
    });
    scene.live(move |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert!(report.fenced.is_empty(), "{report:?}");
        assert_eq!(read_values(&logs.partition(&id(0)).expect("is there")).await, written);
    });
}

/// The number of the newest checkpoint on the disk.
fn checkpoint_number(disk: &Disk) -> u64 {
    let files = disk.snapshot_files().into_iter();
    let slots = files.filter(|(path, bytes)| path.contains("/checkpoint-") && bytes.len() > 32);
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes[24..32].try_into().expect("eight"));
    slots.map(|(_, bytes)| number(&bytes)).max().expect("there are some")
}

/// Whoever asks for something may go away before it is done. A checkpoint that was dropped while segments were flushed took the
/// list of them with it, and the next one vouched for what nobody had flushed.
#[test]
fn work_whose_caller_goes_away_is_done() {
    for what in ["checkpoint", "create", "truncate", "delete", "delete records", "compact", "close"] {
        for step in 0..40u32 {
            let mut scene = Scene::new(u64::from(step));
            let disk = scene.disk();
            let expected = scene.live_and(End::PowerCut, move |io| async move {
                let shard = ShardConfig { checkpoint_interval_bytes: 1 << 40, ..small_shard() };
                let (dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
                let partition = create(&logs, 0).await;
                let other = create(&logs, 1).await;
                for n in 0..12u8 {
                    try_append(&partition, &[n; 2_500]).await.expect("accepted");
                    try_append(&other, &[n; 2_500]).await.expect("accepted");
                }
                if what == "compact" {
                    let config =
                        LogConfig { compact_enabled: true, min_cleanable_dirty_ppm: 1, ..small_log() };
                    other.set_config(config);
                }
                let patience = Duration::from_micros(u64::from(step) * 100);
                let number = checkpoint_number(&disk);
                let mut expected: Vec<Vec<u8>> = (0..12u8).map(|n| vec![n; 2_500]).collect();
                match what {
                    "checkpoint" => drop(io.timeout(patience, logs.checkpoint()).await),
                    "create" => {
                        drop(io.timeout(patience, logs.create_partition(id(2), "topic", small_log())).await);
                    }
                    "truncate" => {
                        drop(io.timeout(patience, partition.truncate_to(Offset(5))).await);
                        expected.truncate(5);
                    }
                    "delete" => drop(io.timeout(patience, logs.delete_partition(&id(1))).await),
                    "delete records" => {
                        drop(io.timeout(patience, partition.delete_records_before(Offset(10))).await);
                        expected.drain(..10);
                    }
                    "compact" => drop(io.timeout(patience, logs.compact()).await),
                    _ => drop(io.timeout(patience, logs.close()).await),
                }
                // What was asked for has begun. It is done before anybody else asks for something.
                io.sleep(Duration::from_secs(1)).await;
                let marks = partition.watermarks().get();
                match what {
                    "checkpoint" => assert_eq!(checkpoint_number(&disk), number + 1, "step {step}"),
                    "create" => assert!(logs.partition(&id(2)).is_some(), "step {step}"),
                    "truncate" => {
                        assert_eq!(marks.log_end_offset, Offset(5), "step {step}");
                        try_append(&partition, &[100; 2_500]).await.expect("accepted");
                        expected.push(vec![100; 2_500]);
                    }
                    "delete" => {
                        assert!(logs.partition(&id(1)).is_none(), "step {step}");
                        assert!(disk.file_lengths().keys().all(|path| !path.contains("/topic-1")));
                    }
                    "delete records" => assert_eq!(marks.log_start_offset, Offset(10), "step {step}"),
                    "compact" => {}
                    _ => {
                        let now = io.now();
                        logs.close().await.expect("a clean stop");
                        assert_eq!(io.now(), now, "step {step}: it is over");
                        dir.mark_clean().await.expect("marked");
                        return expected;
                    }
                }
                logs.checkpoint().await.expect("the disk is sound");
                assert!(logs.failure().is_none(), "{what}, step {step}");
                expected
            });
            scene.live(move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert!(report.fenced.is_empty(), "{what}, step {step}: {report:?}");
                assert_eq!(report.was_clean, what == "close");
                let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
                assert_eq!(values, expected, "{what}, step {step}");
                assert_eq!(logs.partition(&id(2)).is_some(), what == "create");
                match logs.partition(&id(1)) {
                    Some(other) => {
                        let is_whole = read_values(&other).await.len() == 12;
                        assert!(is_whole || what == "compact", "{what}, step {step}");
                    }
                    None => assert_eq!(what, "delete"),
                }
            });
        }
    }
}

/// The second of two closes said that all was well, and the directory was marked clean.
#[test]
fn close_after_one_that_failed_fails_as_well() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        try_append(&partition, &[1; 3_000]).await.expect("accepted");
        disk.inject(Fault::new(DiskOp::Flush, FaultEffect::Errno(5)).on("00000000.log").times(1));
        logs.close().await.expect_err("a flush fails");
        logs.close().await.expect_err("it was not clean");
        logs.checkpoint().await.expect_err("it is closed");
        logs.delete_partition(&id(0)).await.expect_err("it is closed");
    });
}

/// While a checkpoint flushes a segment, that one is completed, and its name is being made durable: the checkpoint does not vouch
/// for it before.
#[test]
fn checkpoint_waits_for_names_that_are_being_made_durable() {
    for seed in 0..20 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live_for(Duration::from_secs(20), End::PowerCut, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            let slowly = |seconds| FaultEffect::Delay(Duration::from_secs(seconds));
            disk.inject(Fault::new(DiskOp::Flush, slowly(2)).on("00000000.log").times(1));
            disk.inject(Fault::new(DiskOp::SyncDirectory, slowly(60)).on("topic-0").times(1));
            for number in 0..30_u8 {
                append_one(&partition, &[number; 1_000])
                    .await
                    .acknowledged()
                    .await
                    .expect("the disk is sound");
                if number == 10 {
                    let logs = logs.clone();
                    io.spawn(async move { logs.checkpoint().await }).detach();
                    io.sleep(Duration::from_millis(500)).await;
                }
            }
            std::future::pending::<()>().await;
        });
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "seed {seed}: {report:?}");
            let partition = logs.partition(&id(0)).expect("is there");
            assert_eq!(read_values(&partition).await.len(), 30, "seed {seed}");
        });
    }
}

/// What is deleted and made anew under the same id is not what the journal says was deleted, whichever checkpoint a start finds.
#[test]
fn partition_that_is_made_anew_under_its_id_survives() {
    for (seed, end, newest_rots) in
        [(1, End::Kill, false), (2, End::PowerCut, false), (3, End::Kill, true), (4, End::PowerCut, true)]
    {
        for old in [0, 4, 12] {
            let mut scene = Scene::new(seed);
            scene.live_and(end, move |io| async move {
                let (_dir, logs, _) = open(&io).await;
                let other = create(&logs, 1).await;
                let first = create(&logs, 0).await;
                for n in 0..old {
                    try_append(&first, &[n; 3_000]).await.expect("accepted");
                    try_append(&other, &[n; 3_000]).await.expect("accepted");
                }
                for round in 0..3 {
                    logs.delete_partition(&id(0)).await.expect("deleted");
                    let again = create(&logs, 0).await;
                    for n in 0..3 {
                        try_append(&again, &[100 + 10 * round + n; 500]).await.expect("accepted");
                    }
                }
            });
            scene.pass(Duration::from_secs(10));
            if newest_rots {
                let number = |bytes: &[u8]| u64::from_be_bytes(bytes[24..32].try_into().expect("eight"));
                let files = scene.disk().snapshot_files();
                let slots =
                    files.iter().filter(|(path, bytes)| path.contains("/checkpoint-") && bytes.len() > 32);
                let newest = slots.max_by_key(|(_, bytes)| number(bytes)).expect("there are some").0;
                scene.disk().corrupt(newest, 40..48);
            }
            scene.live(move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert!(report.fenced.is_empty() && report.strays.is_empty(), "{end:?}, {old}: {report:?}");
                let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
                let expected: Vec<Vec<u8>> = (120..123).map(|n| vec![n; 500]).collect();
                assert_eq!(values, expected, "{end:?}, {old} old records, newest rots: {newest_rots}");
                assert_eq!(read_values(&logs.partition(&id(1)).expect("is there")).await.len(), old.into());
            });
        }
    }
}

/// Whoever asked for a deletion went away before anything in the journal told of it: a creation gave the old partition, which was
/// deleted right after.
#[test]
fn creation_waits_for_a_deletion_that_was_asked_for() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let (partition, other) = (create(&logs, 0).await, create(&logs, 1).await);
            try_append(&partition, b"old").await.expect("accepted");
            try_append(&other, b"other").await.expect("accepted");
            let slowly = FaultEffect::Delay(Duration::from_secs(5));
            disk.inject(Fault::new(DiskOp::Flush, slowly).on("topic-1/").times(1));
            let again = logs.clone();
            io.spawn(async move { again.checkpoint().await }).detach();
            io.sleep(Duration::from_secs(1)).await;
            // Deletions wait for the checkpoint.
            let deletion = io.timeout(Duration::from_secs(1), logs.delete_partition(&id(0))).await;
            assert!(deletion.is_err(), "seed {seed}");
            let anew = create(&logs, 0).await;
            assert!(read_values(&anew).await.is_empty(), "seed {seed}: it is the old one");
            io.sleep(Duration::from_secs(60)).await;
            try_append(&anew, b"new").await.expect("accepted");
            assert_eq!(read_values(&logs.partition(&id(0)).expect("is there")).await, [b"new"]);
        });
    }
}

/// The name under which a directory waits for its removal is longer than the topic's.
#[test]
fn topic_with_the_longest_name_is_deleted() {
    run(1, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let name = "n".repeat(249);
        for round in 1..=2 {
            let id =
                TopicPartition { topic_id: TopicId::from_bytes([round; 16]), partition: PartitionIndex(12) };
            let partition = logs.create_partition(id, &name, small_log()).await.expect("created");
            try_append(&partition, b"value").await.expect("accepted");
            logs.delete_partition(&id).await.expect("deleted");
            assert!(logs.failure().is_none());
        }
    });
}

/// Rule 7, whatever the errno: thin volumes and quotas answer a flush with ENOSPC.
#[test]
fn flush_that_fails_for_want_of_space_is_never_retried() {
    for (op, path) in [(DiskOp::Flush, "00000000000000000000.log"), (DiskOp::SyncDirectory, "topic-0")] {
        let mut scene = Scene::new(3);
        let disk = scene.disk();
        let acknowledged = scene.live(move |io| async move {
            let shard = ShardConfig { checkpoint_interval_bytes: 1 << 30, ..small_shard() };
            let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
            let partition = create(&logs, 0).await;
            let fault = disk.inject(Fault::new(op, FaultEffect::Errno(ENOSPC)).on(path).times(1));
            let mut acknowledged = 0;
            // Enough for a roll, at which the first segment is flushed: no checkpoint comes before.
            for _ in 0..12 {
                if try_append(&partition, &[1; 3_000]).await.is_err() {
                    break;
                }
                acknowledged += 1;
                io.sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(disk.fired(fault), 1, "{op:?}");
            assert!(logs.failure().is_some(), "{op:?}: goes on after a failed flush");
            acknowledged
        });
        scene.end(End::PowerCut);
        scene.live(move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
            assert!(values.len() >= acknowledged, "{op:?}: {} of {acknowledged}", values.len());
        });
    }
}

/// A checkpoint flushed the segment while a write to it was in flight, and a truncation saw to it that nothing was written
/// there again.
#[test]
fn write_that_a_flush_did_not_cover_is_flushed_by_the_next_checkpoint() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let config = LogConfig { segment_bytes: 1 << 20, ..small_log() };
            let shard = ShardConfig { journal_file_bytes: 4 << 20, ..small_shard() };
            let shard = ShardConfig { checkpoint_interval_bytes: 1 << 30, ..shard };
            let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
            let first = logs.create_partition(id(0), "topic", config.clone()).await.expect("created");
            let second = logs.create_partition(id(1), "topic", config).await.expect("created");
            try_append(&first, &[0; 1_000]).await.expect("accepted");
            try_append(&second, &[0; 1_000]).await.expect("accepted");
            let slow = |millis| FaultEffect::Delay(Duration::from_millis(millis));
            disk.inject(
                Fault::new(DiskOp::Write, slow(1_000)).on("topic-1/00000000000000000000.log").times(1),
            );
            let checkpoint = {
                let logs = logs.clone();
                io.spawn(async move { logs.checkpoint().await })
            };
            // The first partition is drained, the second one is at it.
            io.sleep(Duration::from_millis(500)).await;
            disk.inject(Fault::new(DiskOp::Write, slow(3_000)).on("topic-0/00000000000000000000.log"));
            for n in 1..=20 {
                try_append(&first, &[n; 1_000]).await.expect("accepted");
            }
            checkpoint.await.expect("the disk is sound");
            io.sleep(Duration::from_secs(60)).await;
            disk.lift_all();
            first.truncate_to(Offset(5)).await.expect("the disk is sound");
            logs.checkpoint().await.expect("the disk is sound");
        });
        scene.end(End::PowerCut);
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "seed {seed}: {report:?}");
            let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
            let expected: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 1_000]).collect();
            assert_eq!(values, expected, "seed {seed}");
        });
    }
}

/// Each partition's end goes through the journal once more before its segment is trimmed, and the journal holds only so
/// many of them.
#[test]
fn close_ends_with_more_partitions_than_the_journal_has_blocks() {
    for seed in 0..3 {
        run(seed, |io| async move {
            for round in 0..2 {
                let (dir, logs, _) = open(&io).await;
                for n in 0..200 {
                    let partition = create(&logs, n).await;
                    assert_eq!(read_values(&partition).await.len(), round);
                    append_one(&partition, &[7; 3_000]).await.acknowledged().await.expect("durable");
                }
                // All ends are settled.
                logs.checkpoint().await.expect("the disk is sound");
                settle(&io, "the close", logs.close()).await.expect("a clean stop");
                dir.mark_clean().await.expect("marked");
            }
            let (_dir, logs, report) = open(&io).await;
            assert!(report.was_clean && report.fenced.is_empty(), "{report:?}");
            for n in 0..200 {
                assert_eq!(read_values(&logs.partition(&id(n)).expect("is there")).await.len(), 2);
            }
        });
    }
}

#[test]
fn append_that_waits_for_memory_learns_of_a_failure() {
    for seed in 0..5 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let shard = ShardConfig { journal_file_bytes: 8 << 20, ..small_shard() };
            let shard = ShardConfig { checkpoint_interval_bytes: 1 << 30, ..shard };
            let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
            let mut partitions = Vec::new();
            for n in 0..8 {
                let config = LogConfig { segment_bytes: 4 << 20, ..small_log() };
                partitions.push(logs.create_partition(id(n), "topic", config).await.expect("created"));
            }
            let late = Duration::from_secs(5);
            disk.inject(Fault::new(DiskOp::Write, FaultEffect::Delay(late)).on(".log").times(1));
            disk.inject(Fault::eio(DiskOp::Write).on(".log").skip(1));
            let appends: Vec<_> = (0..8)
                .zip(partitions)
                .map(|(n, partition)| {
                    io.spawn(async move {
                        for _ in 0..200 {
                            try_append(&partition, &[n; 8_000]).await?;
                        }
                        Ok::<(), AppendError>(())
                    })
                })
                .collect();
            let mut failed = 0;
            for append in appends {
                failed += u32::from(settle(&io, "an append", append).await.is_err());
            }
            assert!(failed > 0, "seed {seed}: nobody met the failure");
            let _ = settle(&io, "the close", logs.close()).await;
        });
    }
}

#[test]
fn batch_that_the_hot_tail_cannot_hold_is_refused() {
    run(1, |io| async move {
        let shard = ShardConfig { journal_file_bytes: 16 << 20, ..small_shard() };
        let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
        let config = LogConfig { segment_bytes: 32 << 20, max_message_bytes: 8 << 20, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        let refused = settle(&io, "the append", try_append(&partition, &vec![1; 3 << 20])).await;
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
        settle(&io, "the append", try_append(&partition, &vec![1; 900 << 10])).await.expect("fits");
    });
}

/// `flush.ms` lowered while records wait under the old one.
#[test]
fn lowered_flush_ms_takes_effect_at_once() {
    run(1, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config =
            |flush_ms| LogConfig { flush_messages: u64::MAX, flush_ms: Some(flush_ms), ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config(Duration::from_secs(3_600))).await;
        let partition = partition.expect("created");
        try_append(&partition, b"before").await.expect("written");
        partition.set_config(config(Duration::from_millis(10)));
        for n in 2..6 {
            try_append(&partition, b"after").await.expect("written");
            io.sleep(Duration::from_secs(1)).await;
            assert_eq!(partition.watermarks().get().durable_offset, Offset(n), "10 ms are over");
        }
    });
}

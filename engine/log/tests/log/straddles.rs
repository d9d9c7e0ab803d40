//! What is under way while a segment's file is flushed, reopened, replaced or removed by somebody else. Each was found by reading.

use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{
    append_one, batch_of, create, id, keyed_batch_of, open, open_with, options, read_values, small_log,
    small_shard,
};
use highwater_io::Io;
use highwater_io::sim::{Disk, DiskOp, Fault, FaultEffect};
use highwater_log::{AppendError, LogConfig, OpenOptions, Origin, Partition, ShardConfig, ShardLogs};
use highwater_model::batch::{ProducerStamp, stamp};
use highwater_model::{LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};

const ENOSPC: i32 = 28;
const FIRST: &str = "topic-0/00000000000000000000.log";

fn slowly(seconds: u64) -> FaultEffect {
    FaultEffect::Delay(Duration::from_secs(seconds))
}

/// No checkpoint but those that are asked for.
async fn open_without_checkpoints(io: &Io) -> ShardLogs {
    let shard = ShardConfig { checkpoint_interval_bytes: 1 << 40, ..small_shard() };
    let (_dir, logs, _) = open_with(io, OpenOptions { shard, ..options() }).await;
    logs
}

async fn acknowledged(partition: &Partition, value: &[u8]) {
    append_one(partition, value).await.acknowledged().await.expect("acknowledged");
}

async fn settle<T>(io: &Io, what: &str, work: impl Future<Output = T>) -> T {
    io.timeout(Duration::from_secs(600), work).await.unwrap_or_else(|_| panic!("{what} stands still"))
}

fn checkpoints(disk: &Disk) -> Vec<Vec<u8>> {
    disk.durable_files()
        .into_iter()
        .filter(|(path, _)| path.contains("checkpoint"))
        .map(|(_, bytes)| bytes)
        .collect()
}

/// The system tells an error once for each description. A close met it, and the checkpoint that flushed the same segment, a moment
/// later, was told that all is well: what the failed flush had dropped was in the journal, below its line.
#[test]
fn checkpoint_vouches_for_no_segment_whose_flush_failed_for_somebody_else() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    let written = scene.live(move |io| async move {
        let logs = open_without_checkpoints(&io).await;
        let partition = create(&logs, 0).await;
        let mut written = Vec::new();
        for n in 0..3u8 {
            written.push(vec![n; 1_000]);
            acknowledged(&partition, &[n; 1_000]).await;
        }
        let before = checkpoints(&disk);
        disk.inject(Fault::new(DiskOp::Flush, slowly(5)).on(FIRST).times(1));
        let failing = disk.inject(Fault::eio(DiskOp::Flush).on(FIRST).times(1));
        let checkpoint = {
            let logs = logs.clone();
            io.spawn(async move { logs.checkpoint().await })
        };
        io.sleep(Duration::from_millis(500)).await;
        for n in 3..40u8 {
            let Ok(appended) = partition
                .append(batch_of(&[&[n; 1_000]], ProducerStamp::NONE), LeaderEpoch(0), Origin::Client)
                .await
            else {
                break;
            };
            if appended.acknowledged().await.is_err() {
                break;
            }
            written.push(vec![n; 1_000]);
            io.sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(disk.fired(failing), 1);
        assert!(logs.failure().is_some());
        let outcome = settle(&io, "the checkpoint", checkpoint).await;
        assert!(outcome.is_err(), "a checkpoint vouches for a flush that failed");
        assert_eq!(checkpoints(&disk), before);
        written
    });
    scene.end(End::PowerCut);
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
        assert!(values.len() >= written.len(), "{} of {}", values.len(), written.len());
    });
}

fn log_files(disk: &Disk) -> Vec<String> {
    let files = disk.file_lengths().into_keys();
    files.filter(|path| path.contains("/topic-0/") && path.ends_with(".log")).collect()
}

/// A look-up that was under way opened the next segment by its path, made it anew in the directory of the topic that has this name
/// now, and kept its lock: an append there waited for ever.
#[test]
fn reader_of_a_deleted_partition_makes_no_files_in_the_one_that_has_its_name_now() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        for n in 0..12u8 {
            acknowledged(&partition, &[n; 3_000]).await;
        }
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = logs.partition(&id(0)).expect("is there");
        disk.inject(Fault::new(DiskOp::Read, slowly(5)).on(FIRST).times(1));
        let look_up = {
            let partition = partition.clone();
            io.spawn(async move { partition.offset_for_timestamp(Timestamp(2_000)).await })
        };
        io.sleep(Duration::from_secs(1)).await;
        logs.delete_partition(&id(0)).await.expect("deleted");
        let again = TopicPartition { topic_id: TopicId::from_bytes([9; 16]), partition: PartitionIndex(0) };
        let again = logs.create_partition(again, "topic", small_log()).await.expect("created");
        io.sleep(Duration::from_secs(10)).await;
        drop(settle(&io, "the look-up", look_up).await);
        assert_eq!(log_files(&disk), Vec::<String>::new(), "of a log without records");
        for n in 0..12u8 {
            settle(&io, "an append", acknowledged(&again, &[n; 3_000])).await;
        }
        settle(&io, "a clean stop", logs.close()).await.expect("a clean stop");
    });
}

/// What was replaced or deleted kept its descriptor, and with it its space, until thousands of others had been opened.
#[test]
fn space_of_what_is_compacted_away_or_deleted_is_free_again() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config = LogConfig { compact_enabled: true, delete_enabled: false, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        for n in 0..40u8 {
            let batch = keyed_batch_of(&[(b"key", Some(&[n; 3_000]))], ProducerStamp::NONE);
            let appended = partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("acknowledged");
        }
        logs.checkpoint().await.expect("a checkpoint");
        logs.compact().await.expect("compacts");
        let named =
            |disk: &Disk| disk.file_lengths().values().map(|len| len.next_multiple_of(4096)).sum::<u64>();
        let slack = 64 << 10;
        assert!(disk.used_bytes() <= named(&disk) + slack, "{} of {}", disk.used_bytes(), named(&disk));
        read_values(&partition).await;
        logs.delete_partition(&id(0)).await.expect("deleted");
        assert_eq!(logs.open_segments(), 0);
    });
}

/// A look-up that was opening a closed segment kept a description that cannot be written to, and the segment was appended to again.
#[test]
fn segment_that_is_opened_while_a_truncation_makes_it_the_last_is_written_to() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let logs = open_without_checkpoints(&io).await;
        let partition = create(&logs, 0).await;
        for n in 0..9u8 {
            acknowledged(&partition, &[n; 3_000]).await;
        }
        logs.checkpoint().await.expect("a checkpoint");
        disk.inject(Fault::new(DiskOp::Open, slowly(5)).on(FIRST).times(1));
        let look_up = {
            let partition = partition.clone();
            io.spawn(async move { partition.offset_for_timestamp(Timestamp(1_000)).await })
        };
        io.sleep(Duration::from_secs(1)).await;
        partition.truncate_to(Offset(0)).await.expect("cut");
        io.sleep(Duration::from_secs(10)).await;
        drop(settle(&io, "the look-up", look_up).await);
        acknowledged(&partition, &[1; 3_000]).await;
        logs.checkpoint().await.expect("a checkpoint");
        assert!(logs.failure().is_none(), "{:?}", logs.failure());
        assert_eq!(read_values(&partition).await, [vec![1; 3_000]]);
    });
}

/// An index that ended where a read had failed was written as if it were whole, and the largest time in it was taken for that of the
/// segment: retention took records whose time had not come.
#[test]
fn segment_whose_index_could_not_be_made_is_not_deleted_before_its_time() {
    // In the second case the index files of the first stop tell of old records alone.
    for of_first_life_are_old in [30, 40] {
        index_that_could_not_be_made(of_first_life_are_old);
    }
}

fn index_that_could_not_be_made(of_first_life_are_old: usize) {
    const NEW: i64 = 1_000_000_000_000;
    // Close enough that no segment ends for its age.
    const OLD: i64 = NEW - 3_600_000;
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    let config = LogConfig { segment_bytes: 200 << 10, retention_ms: None, ..small_log() };
    let shard = ShardConfig { journal_file_bytes: 1 << 20, ..small_shard() };
    let open_options = OpenOptions { shard, default_log: config.clone(), ..OpenOptions::default() };
    let batch_at = |time: i64| {
        let mut builder =
            highwater_model::batch::BatchBuilder::new(highwater_model::compression::Compression::None);
        let (timestamp, value) = (Timestamp(time), Some(&[7; 3_000][..]));
        builder.push(&highwater_model::batch::NewRecord { timestamp, value, ..Default::default() });
        builder.build(ProducerStamp::NONE).expect("a batch")
    };
    let append = move |partition: Partition, time: i64| async move {
        partition.begin_epoch(LeaderEpoch(0));
        let appended =
            partition.append(batch_at(time), LeaderEpoch(0), Origin::Client).await.expect("accepted");
        appended.acknowledged().await.expect("acknowledged");
    };
    let (first, of_first) = (open_options.clone(), config.clone());
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open_with(&io, first).await;
        let partition = logs.create_partition(id(0), "topic", of_first).await.expect("created");
        for n in 0..40 {
            append(partition.clone(), if n < of_first_life_are_old { OLD } else { NEW }).await;
        }
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
    let second = open_options.clone();
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open_with(&io, second).await;
        let partition = logs.partition(&id(0)).expect("is there");
        append(partition.clone(), NEW).await;
        let failing = disk.inject(Fault::eio(DiskOp::Read).on(FIRST).skip(1).times(1));
        for _ in 0..40 {
            append(partition.clone(), NEW).await;
        }
        logs.checkpoint().await.expect("a checkpoint");
        assert_eq!(disk.fired(failing), 1, "the walk at the roll");
        disk.lift_all();
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
    scene.live(move |io| async move {
        let (_dir, logs, _) = open_with(&io, open_options).await;
        let partition = logs.partition(&id(0)).expect("is there");
        let now = io.wall_time().as_millis();
        let age = Duration::from_millis(u64::try_from(now - NEW).expect("later") + 1_800_000);
        partition.set_config(LogConfig { retention_ms: Some(age), ..config });
        logs.apply_retention().await.expect("applies");
        assert_eq!(partition.watermarks().get().log_start_offset, Offset(0));
    });
}

/// Rule 7, whatever the errno, also of a directory.
#[test]
fn flush_of_names_that_fails_for_want_of_space_is_never_retried() {
    for (step, skip) in [("compact", 0), ("compact", 1), ("compact", 2), ("truncate", 0), ("truncate", 1)] {
        let mut scene = Scene::new(3);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let logs = open_without_checkpoints(&io).await;
            let config = LogConfig { compact_enabled: true, delete_enabled: false, ..small_log() };
            let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
            for n in 0..20u8 {
                let batch = keyed_batch_of(&[(b"key", Some(&[n; 3_000]))], ProducerStamp::NONE);
                partition.begin_epoch(LeaderEpoch(0));
                let appended =
                    partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
                appended.acknowledged().await.expect("acknowledged");
            }
            logs.checkpoint().await.expect("a checkpoint");
            let full = Fault::new(DiskOp::SyncDirectory, FaultEffect::Errno(ENOSPC)).on("topic-0");
            let failing = disk.inject(full.skip(skip).times(1));
            match step {
                "compact" => drop(settle(&io, "compaction", logs.compact()).await),
                _ => drop(settle(&io, "a truncation", partition.truncate_to(Offset(2))).await),
            }
            assert_eq!(disk.fired(failing), 1, "{step} {skip}");
            assert!(logs.failure().is_some(), "{step} {skip}: goes on after a failed flush");
        });
    }
}

/// A leader that was deposed while its append waited for space wrote into the epoch of the next one.
#[test]
fn append_that_waited_is_fenced_by_the_epoch_that_began_meanwhile() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let logs = open_without_checkpoints(&io).await;
        let partition = create(&logs, 0).await;
        for n in 0..7u8 {
            acknowledged(&partition, &[n; 3_000]).await;
        }
        disk.inject(Fault::new(DiskOp::Allocate, slowly(5)).on("topic-0"));
        let waiting = {
            let partition = partition.clone();
            io.spawn(async move {
                let batch = batch_of(&[&[7; 4_000]], ProducerStamp::NONE);
                partition.append(batch, LeaderEpoch(0), Origin::Client).await.map(drop)
            })
        };
        io.sleep(Duration::from_secs(1)).await;
        partition.begin_epoch(LeaderEpoch(1));
        let outcome = settle(&io, "the append", waiting).await;
        assert!(matches!(outcome, Err(AppendError::FencedLeaderEpoch { .. })), "{outcome:?}");
        assert_eq!(partition.latest_epoch(), LeaderEpoch(1));
    });
}

/// What a follower has got already was taken once more, acknowledged, and found to be damage by the next start.
#[test]
fn replicated_batch_below_the_end_of_the_log_is_refused() {
    let mut scene = Scene::new(1);
    scene.live(move |io| async move {
        let logs = open_without_checkpoints(&io).await;
        let partition = create(&logs, 0).await;
        let batch_at = |offset: i64| {
            let mut batch = batch_of(&[&[1; 100][..]; 5], ProducerStamp::NONE).to_vec();
            stamp(&mut batch, Offset(offset), LeaderEpoch(0));
            bytes::Bytes::from(batch)
        };
        for offset in [0, 5] {
            let appended = partition.append(batch_at(offset), LeaderEpoch(0), Origin::Replication).await;
            appended.expect("accepted").acknowledged().await.expect("acknowledged");
        }
        for offset in [0, 5, 9] {
            let again =
                partition.append(batch_at(offset), LeaderEpoch(0), Origin::Replication).await.map(drop);
            assert!(matches!(again, Err(AppendError::InvalidRecord(_))), "{offset}: {again:?}");
        }
        assert_eq!(partition.watermarks().get().log_end_offset, Offset(10));
        let ahead = partition.append(batch_at(12), LeaderEpoch(0), Origin::Replication).await;
        ahead.expect("compaction leaves gaps").acknowledged().await.expect("acknowledged");
    });
}

/// Segments whose files a truncation could not remove were in no list, and a later start took them for a part of the log that had
/// grown past where they begin.
#[test]
fn segments_that_a_truncation_could_not_remove_do_not_come_back() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open_with(&io, options()).await;
        let partition = create(&logs, 0).await;
        for n in 0..30u8 {
            acknowledged(&partition, &[n; 3_000]).await;
        }
        logs.checkpoint().await.expect("a checkpoint");
        let full = disk.inject(Fault::new(DiskOp::Remove, FaultEffect::Errno(ENOSPC)).on(".log").times(1));
        partition.truncate_to(Offset(2)).await.expect_err("short of space");
        assert_eq!(disk.fired(full), 1);
        for n in 100..130u8 {
            acknowledged(&partition, &[n; 2_900]).await;
        }
        logs.checkpoint().await.expect("a checkpoint");
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
    scene.live(move |io| async move {
        let (_dir, logs, _) = open_with(&io, options()).await;
        let partition = logs.partition(&id(0)).expect("is there");
        let (kept, new) = ((0..2u8).map(|n| vec![n; 3_000]), (100..130u8).map(|n| vec![n; 2_900]));
        assert_eq!(read_values(&partition).await, kept.chain(new).collect::<Vec<_>>());
    });
}

/// Each clean stop writes what the producers have sent so far, where the log ends.
#[test]
fn snapshots_of_earlier_stops_are_removed() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    for life in 0..8u8 {
        scene.live_and(End::Kill, move |io| async move {
            let (dir, logs, _) = open_with(&io, options()).await;
            let partition =
                if life == 0 { create(&logs, 0).await } else { logs.partition(&id(0)).expect("is there") };
            acknowledged(&partition, &[life; 3_000]).await;
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
        });
    }
    let names: Vec<String> =
        disk.file_lengths().into_keys().filter(|name| name.ends_with(".snapshot")).collect();
    assert!((1..=2).contains(&names.len()), "{names:?}");
}

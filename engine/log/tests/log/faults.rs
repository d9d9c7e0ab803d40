//! The log on a disk that misbehaves: what fails stops, what is full waits, what is damaged is never served.

use std::path::Path;
use std::time::Duration;

use crate::common::scenarios::{self, Verdict};
use crate::common::scene::{End, Scene};
use crate::common::{
    append_one, batch_of, create, id, open, open_with, options, read_values, small_log, small_shard,
};
use highwater_io::Io;
use highwater_io::sim::{Disk, DiskOp, Fault, FaultEffect};
use highwater_log::{
    AppendError, LogError, OpenOptions, Origin, Partition, ReadRequest, ShardConfig, ShardLogs,
};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TopicId, TopicPartition};

fn holds(verdict: Verdict) {
    if let Err(seen) = verdict {
        panic!("{seen}");
    }
}

#[test]
fn rot_in_a_segment_is_never_served() {
    holds(scenarios::rot_in_a_segment_is_never_served());
}

#[test]
fn rot_in_a_durable_group_fences_its_partition_and_serves_what_lies_below() {
    holds(scenarios::rot_in_a_durable_group_fences_its_partition());
}

#[test]
fn unreadable_sector_is_rot_below_the_durable_bound_and_torn_above() {
    holds(scenarios::unreadable_sector_is_rot_below_the_durable_bound_and_torn_above());
}

#[test]
fn log_ends_where_it_was_truncated_whatever_the_segment_holds() {
    holds(scenarios::batches_behind_a_truncation_are_not_the_log());
}

#[test]
fn start_waits_for_the_writes_of_a_dead_process() {
    holds(scenarios::late_write_of_a_dead_process_does_no_harm());
}

#[test]
fn failed_flush_is_never_retried() {
    holds(scenarios::failed_flush_is_the_end_of_its_journal());
}

#[test]
fn directory_in_use_never_looks_clean() {
    holds(scenarios::directory_in_use_never_looks_clean());
}

#[test]
fn only_durable_groups_are_written_behind() {
    holds(scenarios::settled_block_is_rewritten_only_when_its_image_is_durable());
}

#[test]
fn recovery_flushes_groups_before_it_applies_them() {
    holds(scenarios::groups_are_flushed_before_they_are_applied());
}

#[test]
fn replacement_by_compaction_is_whole_wherever_the_power_goes() {
    holds(scenarios::replacement_is_whole_wherever_the_power_goes());
}

/// An index has no checksum. One that points behind the wanted batch once made a read pass over records without a word.
#[test]
fn rotten_index_neither_hides_records_nor_stops_reads() {
    for rotten_entry in 0..8 {
        let mut scene = Scene::new(rotten_entry as u64);
        scene.live_and(End::Kill, |io| async move {
            let (dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            for _ in 0..100 {
                try_append(&partition, &[b'x'; 300]).await.expect("the disk is sound");
            }
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("a clean stop");
        });
        let index = scene.path_of("00000000000000000000.index");
        scene.live(move |io| async move {
            // The entry's offset is one lower: its place comes earlier than the entry says.
            let mut bytes = io.fs().read_file(&index, 1 << 20).await.expect("is there").to_vec();
            let entry = bytes.as_chunks_mut::<8>().0.get_mut(rotten_entry).expect("has so many");
            let offset = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]) - 1;
            entry[..4].copy_from_slice(&offset.to_be_bytes());
            io.fs().replace_file_durable(&index, bytes.into()).await.expect("the disk is sound");
            let (_dir, logs, _) = open(&io).await;
            let partition = logs.partition(&id(0)).expect("is there");
            for offset in (0..100).rev() {
                let upper_bound = partition.watermarks().get().log_end_offset;
                let request =
                    ReadRequest { offset: Offset(offset), max_bytes: 1, min_one_batch: true, upper_bound };
                let data = partition.read(request).await.expect("the segment is sound");
                assert_eq!(
                    data.next_offset,
                    Offset(offset + 1),
                    "rot in entry {rotten_entry}: read at {offset}"
                );
            }
        });
    }
}

async fn try_append(partition: &Partition, value: &[u8]) -> Result<(), AppendError> {
    let epoch = partition.latest_epoch().max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    let appended = partition.append(batch_of(&[value], ProducerStamp::NONE), epoch, Origin::Client).await?;
    Ok(appended.acknowledged().await?)
}

/// Nothing completes any more, and every error is the first one.
async fn assert_stopped(logs: &ShardLogs, partition: &Partition, file: &str) {
    let failure = logs.failure().expect("latched");
    assert!(failure.cause.contains(file), "{failure} names {file}");
    assert!(failure.cause.contains("os error 5"), "{failure} has the errno");
    let first = failure.to_string();
    for _ in 0..3 {
        let error = try_append(partition, b"after the failure").await.expect_err("nothing is acknowledged");
        assert_eq!(error.to_string(), first);
        // Unless everything accepted was durable before.
        if let Err(error) = partition.flush().await {
            assert_eq!(error.to_string(), first);
        }
        assert_eq!(logs.checkpoint().await.expect_err("nothing is written").to_string(), first);
    }
    logs.close().await.expect_err("this is no clean stop");
}

/// An append that is acknowledged, then a fault that hits what `provoke` does; then nothing more, and after a power cut what
/// was acknowledged is there.
fn assert_fail_stop(fault: &Fault, file: &'static str, provoke: Provocation) {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let (disk, fault) = (scene.disk(), fault.clone());
        scene.live_and(End::PowerCut, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            try_append(&partition, b"before").await.expect("the disk is sound");
            let id = disk.inject(fault);
            match provoke {
                Provocation::Append => {
                    try_append(&partition, &[b'x'; 500]).await.expect_err("nothing is acknowledged");
                }
                Provocation::Checkpoint => {
                    logs.checkpoint().await.expect_err("nothing is vouched for");
                }
            }
            assert_eq!(disk.fired(id), 1, "seed {seed}");
            assert_stopped(&logs, &partition, file).await;
            assert_eq!(disk.fired(id), 1, "seed {seed}: nothing is tried again");
        });
        scene.live(|io| async move {
            let (_dir, logs, _) = open(&io).await;
            let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
            assert_eq!(values[0], b"before");
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Provocation {
    Append,
    Checkpoint,
}

#[test]
fn failed_write_of_the_journal_stops_everything() {
    assert_fail_stop(&Fault::eio(DiskOp::Write).on("journal-0").times(1), "journal-0", Provocation::Append);
}

#[test]
fn failed_flush_of_the_journal_stops_everything() {
    assert_fail_stop(&Fault::eio(DiskOp::Flush).on("journal-0").times(1), "journal-0", Provocation::Append);
}

#[test]
fn failed_write_of_a_segment_fences_the_log_directory() {
    let fault = Fault::eio(DiskOp::Write).on("00000000.log").times(1);
    assert_fail_stop(&fault, "00000000000000000000.log", Provocation::Checkpoint);
}

#[test]
fn failed_flush_of_a_segment_fences_the_log_directory() {
    let fault = Fault::eio(DiskOp::Flush).on("00000000.log").times(1);
    assert_fail_stop(&fault, "00000000000000000000.log", Provocation::Checkpoint);
}

#[test]
fn failed_write_of_a_checkpoint_fences_the_log_directory() {
    let fault = Fault::eio(DiskOp::Write).on("checkpoint-1").times(1);
    assert_fail_stop(&fault, "checkpoint-1", Provocation::Checkpoint);
}

/// Rule 8: the producer is told, readers notice nothing, and writes resume when there is space.
#[test]
fn full_disk_is_an_error_to_the_producer_and_no_failure() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live_and(End::PowerCut, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            try_append(&partition, b"before").await.expect("there is space");
            let used = disk.used_bytes();
            disk.set_capacity(used);
            let mut taken = 1;
            let refused = loop {
                match try_append(&partition, &[b'x'; 4000]).await {
                    Ok(()) => taken += 1,
                    Err(error) => break error,
                }
                assert!(taken < 200, "seed {seed}: the disk never gets full");
            };
            assert!(
                matches!(refused, AppendError::Log(LogError::OutOfSpace { .. })),
                "seed {seed}: {refused}"
            );
            assert!(logs.failure().is_none() && partition.fenced().is_none(), "seed {seed}");
            assert_eq!(read_values(&partition).await.len(), taken, "seed {seed}: reads go on");
            disk.set_capacity(used + (64 << 20));
            wait_until_it_takes(&io, &partition).await;
            logs.checkpoint().await.expect("there is space again");
            assert_eq!(read_values(&partition).await.len(), taken + 1, "seed {seed}");
        });
        scene.live(|io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty());
            assert_eq!(read_values(&logs.partition(&id(0)).expect("is there")).await[0], b"before");
        });
    }
}

/// Space that was freed is taken within some attempts, as a producer makes them.
async fn wait_until_it_takes(io: &Io, partition: &Partition) {
    for _ in 0..20 {
        match try_append(partition, b"after").await {
            Ok(()) => return,
            Err(AppendError::Log(LogError::OutOfSpace { .. })) => io.sleep(Duration::from_millis(500)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("writes do not resume");
}

const EMFILE: i32 = 24;

/// A crowd of connections once took the last descriptor, and the log directory was given up until the next start.
#[test]
fn lack_of_descriptors_is_an_error_to_the_producer_and_no_failure() {
    for seed in 0..20 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        let appended = scene.live_and(End::PowerCut, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            let mut appended = 0;
            for round in 0..12 {
                // Now one is missing for a segment or an index, then for its directory, then for a checkpoint.
                let on = ["topic-0/", "topic-0", "checkpoint-", "journal-"][round % 4];
                for op in [DiskOp::Open, DiskOp::Create, DiskOp::SyncDirectory] {
                    let fault = Fault::new(op, FaultEffect::Errno(EMFILE)).on(on);
                    disk.inject(fault.skip(seed % 3).times(2 + seed % 5));
                }
                for _ in 0..12 {
                    match try_append(&partition, &[b'x'; 3000]).await {
                        Ok(()) => appended += 1,
                        Err(AppendError::Log(LogError::OutOfDescriptors { .. })) => {
                            io.sleep(Duration::from_millis(200)).await;
                        }
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
                match logs.checkpoint().await {
                    Ok(()) | Err(LogError::OutOfDescriptors { .. }) => {}
                    Err(error) => panic!("seed {seed}: {error}"),
                }
                disk.lift_all();
                assert!(logs.failure().is_none() && partition.fenced().is_none(), "seed {seed}");
            }
            appended
        });
        assert!(appended > 60, "seed {seed}: {appended}");
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "seed {seed}: {:?}", report.fenced);
            let partition = logs.partition(&id(0)).expect("is there");
            assert_eq!(read_values(&partition).await.len(), appended, "seed {seed}");
        });
    }
}

async fn stands_not_still<T>(io: &Io, what: &str, work: impl Future<Output = T>) -> T {
    io.timeout(Duration::from_secs(600), work).await.unwrap_or_else(|_| panic!("{what} stands still"))
}

/// Each time that there was no descriptor for a journal file to be used again, the journal had one file less, until it had none.
#[test]
fn journal_file_that_finds_no_descriptor_is_used_again_later() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        for number in 0..400_u32 {
            if number % 40 == 39 {
                for op in [DiskOp::Open, DiskOp::Create] {
                    disk.inject(Fault::new(op, FaultEffect::Errno(EMFILE)).on("/journal-").times(1));
                }
            }
            stands_not_still(&io, "an append", try_append(&partition, &[b'x'; 3000]))
                .await
                .expect("accepted");
        }
        stands_not_still(&io, "the close", logs.close()).await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
}

/// A journal file has its number from when its header was written: another one had the same where there was no descriptor for the
/// last step, and no start was possible any more.
#[test]
fn journal_file_that_was_begun_is_finished_before_others() {
    for op in [DiskOp::SyncDirectory, DiskOp::Flush] {
        let mut scene = Scene::new(1);
        let disk = scene.disk();
        let appended = scene.live_and(End::Kill, move |io| async move {
            let shard =
                ShardConfig { journal_max_files: 8, checkpoint_interval_bytes: 1 << 40, ..small_shard() };
            let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
            let partition = create(&logs, 0).await;
            io.sleep(Duration::from_secs(1)).await;
            let on = if op == DiskOp::Flush { "shard-0/journal-2" } else { "shard-0" };
            let fault = disk.inject(Fault::new(op, FaultEffect::Errno(EMFILE)).on(on).times(1));
            let mut appended = 0;
            while disk.fired(fault) == 0 {
                try_append(&partition, &[b'x'; 3000]).await.expect("accepted");
                appended += 1;
            }
            logs.checkpoint().await.expect("the disk is sound");
            for _ in 0..5 {
                try_append(&partition, &[b'x'; 3000]).await.expect("accepted");
                appended += 1;
                io.sleep(Duration::from_millis(500)).await;
            }
            appended
        });
        scene.pass(Duration::from_secs(10));
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "{op:?}: {report:?}");
            let partition = logs.partition(&id(0)).expect("is there");
            assert_eq!(read_values(&partition).await.len(), appended, "{op:?}");
        });
    }
}

/// A deletion that was only short of something is finished when it is asked for again, or by the next checkpoint. Before, it was
/// said to be done, its name stayed taken, and after a crash its directory was nobody's and full of records.
#[test]
fn deletion_that_was_short_of_something_is_finished_later() {
    let again = ["delete", "create", "create under the name", "checkpoint", "close", "crash"];
    for (op, errno) in [(DiskOp::SyncDirectory, EMFILE), (DiskOp::Rename, ENOSPC)] {
        for then in again {
            let mut scene = Scene::new(1);
            let disk = scene.disk();
            scene.live_and(End::PowerCut, move |io| async move {
                let (dir, logs, _) = open(&io).await;
                let (partition, other) = (create(&logs, 0).await, create(&logs, 1).await);
                for _ in 0..12 {
                    try_append(&partition, &[b'x'; 3000]).await.expect("accepted");
                    try_append(&other, &[b'x'; 3000]).await.expect("accepted");
                }
                io.sleep(Duration::from_secs(1)).await;
                disk.inject(Fault::new(op, FaultEffect::Errno(errno)).times(1));
                logs.delete_partition(&id(0)).await.expect_err("it is short of something");
                assert!(logs.failure().is_none());
                match then {
                    "delete" => {
                        logs.delete_partition(&id(0)).await.expect("deleted");
                        let new = TopicPartition { topic_id: TopicId::from_bytes([9; 16]), ..id(0) };
                        logs.create_partition(new, "topic", small_log()).await.expect("the name is free");
                        logs.delete_partition(&new).await.expect("deleted");
                    }
                    "create" => {
                        let anew = create(&logs, 0).await;
                        assert!(read_values(&anew).await.is_empty());
                        try_append(&anew, b"new").await.expect("accepted");
                        logs.delete_partition(&id(0)).await.expect("deleted");
                    }
                    "create under the name" => {
                        let new = TopicPartition { topic_id: TopicId::from_bytes([9; 16]), ..id(0) };
                        let anew = logs.create_partition(new, "topic", small_log()).await;
                        let anew = anew.expect("the name is free");
                        try_append(&anew, b"new").await.expect("accepted");
                        logs.delete_partition(&new).await.expect("deleted");
                    }
                    "checkpoint" => {
                        logs.checkpoint().await.expect("the disk is sound");
                        assert!(logs.partition(&id(0)).is_none(), "{op:?}: it is still there");
                        logs.checkpoint().await.expect("the disk is sound");
                    }
                    "close" => {
                        logs.close().await.expect("a clean stop");
                        dir.mark_clean().await.expect("marked");
                    }
                    _ => {}
                }
            });
            scene.live(move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert!(report.fenced.is_empty() && report.strays.is_empty(), "{op:?}, {then}: {report:?}");
                assert_eq!(logs.partitions().len(), 1, "{op:?}, {then}: it is back");
                let other = logs.partition(&id(1)).expect("is there");
                assert_eq!(read_values(&other).await.len(), 12, "{op:?}, {then}");
            });
        }
    }
}

/// The last step of a deletion was short of a descriptor: nobody tried it again before the next start, and the space stayed
/// taken. Nor is that any reason for a checkpoint to fail.
#[test]
fn files_of_a_deleted_partition_go_once_there_is_a_descriptor() {
    for then in ["delete", "checkpoint", "by hand", "close"] {
        let mut scene = Scene::new(1);
        let disk = scene.disk();
        scene.live_and(End::PowerCut, move |io| async move {
            let (dir, logs, _) = open(&io).await;
            let (partition, other) = (create(&logs, 0).await, create(&logs, 1).await);
            for _ in 0..12 {
                try_append(&partition, &[b'x'; 3000]).await.expect("accepted");
                try_append(&other, &[b'x'; 3000]).await.expect("accepted");
            }
            io.sleep(Duration::from_secs(1)).await;
            let rest = |disk: &Disk| disk.file_lengths().into_keys().any(|path| path.contains("-delete"));
            let fault =
                disk.inject(Fault::new(DiskOp::Inspect, FaultEffect::Errno(EMFILE)).on("-delete").times(2));
            logs.delete_partition(&id(0)).await.expect("durable, and nothing is in the way of its name");
            assert!(logs.partition(&id(0)).is_none() && rest(&disk));
            logs.checkpoint().await.expect("the deletion is nothing to it");
            assert_eq!(disk.fired(fault), 2, "{then}: nobody tried again");
            match then {
                "delete" => logs.delete_partition(&id(1)).await.expect("deleted"),
                "checkpoint" => logs.checkpoint().await.expect("the disk is sound"),
                "by hand" => {
                    remove_deleted_dirs(&io).await;
                    logs.checkpoint().await.expect("somebody else was so kind");
                }
                _ => {
                    logs.close().await.expect("a clean stop");
                    dir.mark_clean().await.expect("marked");
                }
            }
            assert!(!rest(&disk), "{then}: the space is taken still");
            assert!(then == "close" || logs.failure().is_none());
        });
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty() && report.strays.is_empty(), "{then}: {report:?}");
            assert_eq!(logs.partitions().len(), usize::from(then != "delete"));
        });
    }
}

/// As an operator does who looks for space.
async fn remove_deleted_dirs(io: &Io) {
    for entry in io.fs().read_dir("/data").await.expect("lists") {
        if !entry.name.ends_with("-delete") {
            continue;
        }
        let dir = Path::new("/data").join(entry.name);
        for file in io.fs().read_dir(&dir).await.expect("lists") {
            io.fs().remove_file(dir.join(file.name)).await.expect("removed");
        }
        io.fs().remove_dir(&dir).await.expect("removed");
    }
}

/// While there was no space for a new journal file that had been begun, those that checkpoints released were not used.
#[test]
fn journal_file_that_finds_no_space_holds_up_no_spent_one() {
    // The header that is missing for a while is written once it can be: the file has its number.
    for (skip, times) in [(0, None), (0, Some(3)), (1, Some(3))] {
        for seed in 1..=3 {
            let mut scene = Scene::new(seed);
            let disk = scene.disk();
            let appended = scene.live_and(End::Kill, move |io| async move {
                let (_dir, logs, _) = open(&io).await;
                let partition = create(&logs, 0).await;
                let fault = Fault::new(DiskOp::Write, FaultEffect::Errno(ENOSPC)).on("shard-0/journal-2");
                let fault = disk.inject(fault.skip(skip).times(times.unwrap_or(u64::MAX)));
                let mut appended = 0;
                for _ in 0..400 {
                    stands_not_still(&io, "an append", try_append(&partition, &[b'x'; 3000]))
                        .await
                        .expect("accepted");
                    appended += 1;
                }
                assert!(disk.fired(fault) > 0, "seed {seed}");
                appended
            });
            scene.pass(Duration::from_secs(10));
            scene.live(move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert!(report.fenced.is_empty(), "seed {seed}: {report:?}");
                let partition = logs.partition(&id(0)).expect("is there");
                assert_eq!(read_values(&partition).await.len(), appended, "seed {seed}");
            });
        }
    }
}

const PRODUCER: ProducerStamp = ProducerStamp {
    producer_id: ProducerId(7),
    producer_epoch: ProducerEpoch(0),
    base_sequence: Sequence(0),
};

/// Rule 6: a retry has the original's offsets, waits as the original does, and is stored once.
#[test]
fn retry_waits_for_the_ack_of_its_original() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            try_append(&partition, b"before").await.expect("the disk is sound");
            let slow = FaultEffect::Delay(Duration::from_secs(2));
            disk.inject(Fault::new(DiskOp::Write, slow).on("journal-0"));
            let epoch = LeaderEpoch(0);
            let batch = batch_of(&[b"once"], PRODUCER);
            let original = partition.append(batch.clone(), epoch, Origin::Client).await.expect("accepted");
            let retry = partition.append(batch, epoch, Origin::Client).await.expect("accepted");
            assert!(!original.is_duplicate && retry.is_duplicate, "seed {seed}");
            assert_eq!((retry.base_offset, retry.last_offset), (original.base_offset, original.last_offset));
            let early = io.timeout(Duration::from_secs(1), retry.acknowledged()).await;
            assert!(
                early.is_err(),
                "seed {seed}: a retry is acknowledged while its original waits for the flush"
            );
            retry.acknowledged().await.expect("the disk is sound");
            assert!(partition.watermarks().get().durable_offset > original.last_offset, "seed {seed}");
            assert_eq!(read_values(&partition).await, [&b"before"[..], b"once"]);
        });
        scene.end(End::PowerCut);
        // After a restart it is still known.
        scene.live(|io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = logs.partition(&id(0)).expect("is there");
            let retry =
                partition.append(batch_of(&[b"once"], PRODUCER), LeaderEpoch(0), Origin::Client).await;
            let retry = retry.expect("accepted");
            assert!(retry.is_duplicate && retry.base_offset.0 == 1, "{retry:?}");
            retry.acknowledged().await.expect("what was recovered is durable");
            assert_eq!(read_values(&partition).await.len(), 2);
        });
    }
}

#[test]
fn retry_shares_the_failure_of_its_original() {
    let mut scene = Scene::new(1);
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        append_one(&partition, b"before").await.acknowledged().await.expect("the disk is sound");
        disk.inject(Fault::eio(DiskOp::Flush).on("journal-0").times(1));
        let batch = batch_of(&[b"once"], PRODUCER);
        let original =
            partition.append(batch.clone(), LeaderEpoch(0), Origin::Client).await.expect("accepted");
        let retry = partition.append(batch.clone(), LeaderEpoch(0), Origin::Client).await.expect("accepted");
        let failure = original.acknowledged().await.expect_err("the flush fails").to_string();
        assert_eq!(retry.acknowledged().await.expect_err("shares it").to_string(), failure);
        // A retry that comes after the failure has no better fate.
        let late = partition.append(batch, LeaderEpoch(0), Origin::Client).await;
        match late {
            Ok(late) => assert_eq!(late.acknowledged().await.expect_err("shares it").to_string(), failure),
            Err(error) => assert_eq!(error.to_string(), failure),
        }
    });
}

/// Linux's numbers.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Tasks that keep house meet errors of every kind, again and again, while nobody appends: none goes round in a circle.
#[test]
fn unreadable_disk_keeps_no_task_busy() {
    for op in [DiskOp::Read, DiskOp::Write, DiskOp::Flush, DiskOp::Allocate, DiskOp::Any] {
        for errno in [EIO, ENOSPC] {
            let mut scene = Scene::new(1);
            let disk = scene.disk();
            let calls = scene.live(move |io| async move {
                let (_dir, logs, _) = open(&io).await;
                let partition = create(&logs, 0).await;
                // Enough for rolls and checkpoints that are due.
                for _ in 0..60 {
                    try_append(&partition, &[b'x'; 900]).await.expect("the disk is sound");
                }
                let failing = disk.inject(Fault::new(op, FaultEffect::Errno(errno)));
                for _ in 0..40 {
                    let append = try_append(&partition, &[b'x'; 900]);
                    if !matches!(io.timeout(Duration::from_secs(1), append).await, Ok(Ok(()))) {
                        break;
                    }
                }
                let settled = disk.fired(failing);
                let begin = io.now();
                io.sleep(Duration::from_secs(60)).await;
                assert!(io.now() - begin >= Duration::from_secs(60));
                let calls = disk.fired(failing) - settled;
                drop((logs, partition));
                calls
            });
            // What waits for space looks now and then.
            assert!(calls <= 60 * 2 * 4, "{op:?} fails with {errno}: {calls} more calls in a minute");
        }
    }
}

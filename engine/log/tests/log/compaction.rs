//! Compaction on the simulated disk: what stays, who reads meanwhile, what fails, and the power cut at every single step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{
    append_one, batch_of, id, keyed_batch_of, open, open_with, options, small_log, small_shard,
};
use highwater_io::Io;
use highwater_io::sim::{DiskOp, Fault, FaultEffect};
use highwater_log::verify::verify;
use highwater_log::{
    AppendError, LogConfig, LogError, OpenOptions, Origin, Partition, ReadRequest, ShardConfig, ShardLogs,
    StoredCompression,
};
use highwater_model::batch::rewrite::plain_records;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp, headers, verify as verify_batch};
use highwater_model::compression::Compression;
use highwater_model::record::records;
use highwater_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

const EPOCH: LeaderEpoch = LeaderEpoch(0);
const KEYS: u64 = 10;

fn compacted() -> LogConfig {
    LogConfig {
        delete_enabled: false,
        compact_enabled: true,
        min_cleanable_dirty_ppm: 10_000,
        segment_bytes: 8 << 10,
        ..small_log()
    }
}

async fn create(logs: &ShardLogs, config: LogConfig) -> Partition {
    logs.create_partition(id(0), "topic", config).await.expect("created")
}

fn the_partition(logs: &ShardLogs) -> Partition {
    let partition = logs.partition(&id(0)).expect("it is there");
    partition.set_config(compacted());
    partition
}

fn key_of(number: u64) -> [u8; 8] {
    (number % KEYS).to_be_bytes()
}

fn value_of(number: u64) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(300, 7);
    value
}

/// Appends numbered values, ten keys in turn.
async fn fill(partition: &Partition, numbers: std::ops::Range<u64>) {
    partition.begin_epoch(EPOCH);
    for number in numbers {
        let batch = keyed_batch_of(&[(&key_of(number), Some(&value_of(number)))], ProducerStamp::NONE);
        let appended = partition.append(batch, EPOCH, Origin::Client).await.expect("accepted");
        appended.acknowledged().await.expect("the disk is sound");
    }
}

/// Offset, key, value.
type Found = (i64, Vec<u8>, Option<Vec<u8>>);

/// Everything that is there.
async fn read_all(partition: &Partition) -> Vec<Found> {
    let marks = partition.watermarks().get();
    let mut offset = marks.log_start_offset;
    let mut found = Vec::new();
    while offset < marks.log_end_offset {
        let request =
            ReadRequest { offset, max_bytes: 4_000, min_one_batch: true, upper_bound: marks.log_end_offset };
        let data = partition.read(request).await.expect("readable");
        assert!(data.next_offset > offset, "a read at {offset} goes on");
        let bytes = data.chunks.concat();
        for header in headers(&bytes) {
            let (at, header) = header.expect("whole batches");
            verify_batch(&bytes[at..]).expect("intact");
            let plain = plain_records(&header, &bytes[at..]).expect("records");
            for record in records(&plain) {
                let record = record.expect("well formed");
                let this = header.base_offset.0 + i64::from(record.offset_delta);
                if this >= offset.0 {
                    let value = record.value.map(<[u8]>::to_vec);
                    found.push((this, record.key.unwrap_or_default().to_vec(), value));
                }
            }
        }
        offset = data.next_offset;
    }
    found
}

/// Whether every record is one of those of [`fill`], at its offset, and the last of each key is there.
fn check(found: &[Found], count: u64) {
    let mut last = BTreeMap::new();
    for (offset, key, value) in found {
        let number = offset.unsigned_abs();
        assert_eq!((key.as_slice(), value.as_ref()), (&key_of(number)[..], Some(&value_of(number))));
        last.insert(key.clone(), number);
    }
    let wanted = (count - KEYS..count).map(|number| (key_of(number).to_vec(), number));
    assert_eq!(last, wanted.collect::<BTreeMap<_, _>>());
}

#[test]
fn last_value_of_each_key_stays_and_small_segments_become_one() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, compacted()).await;
        fill(&partition, 0..200).await;
        let before = partition.size_bytes();
        logs.compact().await.expect("the disk is sound");
        let found = read_all(&partition).await;
        check(&found, 200);
        assert!(found.len() < 60, "{} records", found.len());
        assert!(partition.size_bytes() * 3 < before, "{} of {before} bytes", partition.size_bytes());
        assert_eq!(partition.watermarks().get().log_start_offset, Offset(0));
        // From the middle of what is gone, the next one that is there.
        let request =
            ReadRequest { offset: Offset(15), max_bytes: 1, min_one_batch: true, upper_bound: Offset(200) };
        assert!(partition.read(request).await.expect("readable").next_offset > Offset(100));
        fill(&partition, 200..260).await;
        logs.compact().await.expect("the disk is sound");
        check(&read_all(&partition).await, 260);
    });
    let files = scene.disk().file_lengths();
    let segments = files.keys().filter(|path| path.ends_with(".log")).count();
    // Ten were full before.
    assert!(segments <= 6, "{files:?}");
    scene.live(|io| async move {
        let report = verify(&io, Path::new(crate::common::DIR), |_| {}).await.expect("nobody uses it");
        assert_eq!(report.problems, []);
        let (_dir, logs, _) = open(&io).await;
        check(&read_all(&the_partition(&logs)).await, 260);
    });
}

/// The dirty part is not looked at again after a restart, and a log that is clean is left alone.
#[test]
fn clean_log_is_left_alone_also_after_a_restart() {
    let mut scene = Scene::new(2);
    scene.live(|io| async move {
        let (dir, logs, _) = open(&io).await;
        let partition = create(&logs, compacted()).await;
        fill(&partition, 0..200).await;
        logs.compact().await.expect("the disk is sound");
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    scene.end(End::Kill);
    let written =
        scene.disk().inject(Fault::new(DiskOp::Create, FaultEffect::Delay(Duration::ZERO)).on(".cleaned"));
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = the_partition(&logs);
        // What was the active segment is dirty, and no more.
        partition.set_config(LogConfig { min_cleanable_dirty_ppm: 900_000, ..compacted() });
        logs.compact().await.expect("the disk is sound");
        check(&read_all(&partition).await, 200);
    });
    assert_eq!(scene.disk().fired(written), 0);
}

#[test]
fn tombstone_is_kept_for_its_time_and_then_goes_with_the_key() {
    let mut scene = Scene::new(3);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let config = LogConfig { delete_retention: Duration::from_secs(10), ..compacted() };
        let partition = create(&logs, config).await;
        fill(&partition, 0..40).await;
        let tombstone = keyed_batch_of(&[(&key_of(3), None)], ProducerStamp::NONE);
        partition.append(tombstone, EPOCH, Origin::Client).await.expect("accepted");
        let is_there = |found: &[Found]| {
            let mut of_key = found.iter().filter(|(_, key, _)| key[..] == key_of(3));
            of_key.any(|(_, _, value)| value.is_none())
        };
        // Other keys, so that segments roll.
        let other = |number: u64| [b"other".as_slice(), &(number % 3).to_be_bytes()].concat();
        for round in 0..3u64 {
            for number in 0..60 {
                let batch = keyed_batch_of(&[(&other(number), Some(&value_of(number)))], ProducerStamp::NONE);
                partition.append(batch, EPOCH, Origin::Client).await.expect("accepted");
            }
            logs.compact().await.expect("the disk is sound");
            let found = read_all(&partition).await;
            assert!(
                !found
                    .iter()
                    .any(|(offset, key, value)| *offset < 40 && key[..] == key_of(3) && value.is_some()),
                "what the tombstone covers is gone"
            );
            assert_eq!(is_there(&found), round < 2, "round {round}");
            io.sleep(Duration::from_secs(if round == 0 { 5 } else { 6 })).await;
        }
    });
}

/// Also where descriptors are so few that a new segment's is given back before it has its name: opened anew under that name, the
/// old file was there, and was read as the new one.
#[test]
fn readers_go_on_while_segments_are_replaced() {
    for seed in 0..20 {
        let max_open_segments = if seed % 2 == 0 { 1 } else { small_shard().max_open_segments };
        let mut scene = Scene::new(seed);
        let slow = FaultEffect::Delay(Duration::from_millis(3));
        for op in [DiskOp::Rename, DiskOp::Remove, DiskOp::SyncDirectory, DiskOp::Read] {
            scene.disk().inject(Fault::new(op, slow));
        }
        // Longer than a replacement takes, so that what is opened is another file by then.
        let slower = FaultEffect::Delay(Duration::from_millis(10 * (seed % 4)));
        scene.disk().inject(Fault::new(DiskOp::Open, slower).on(".log"));
        scene.live(move |io| async move {
            let shard = ShardConfig { max_open_segments, ..small_shard() };
            let options = OpenOptions { shard, ..options() };
            let (dir, logs, _) = open_with(&io, options.clone()).await;
            fill(&create(&logs, compacted()).await, 0..150).await;
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("a clean stop");
            // Nothing is in memory any more.
            let (_dir, logs, _) = open_with(&io, options).await;
            let partition = the_partition(&logs);
            let done = Rc::new(Cell::new(false));
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    let (partition, done) = (partition.clone(), Rc::clone(&done));
                    io.spawn(async move {
                        let mut reads = 0;
                        while !done.get() || reads == 0 {
                            check(&read_all(&partition).await, 150);
                            let newest = partition
                                .max_timestamp(partition.watermarks().get().log_end_offset)
                                .await
                                .expect("readable");
                            assert_eq!(newest.map(|found| found.timestamp.0), Some(1_000));
                            reads += 1;
                        }
                    })
                })
                .collect();
            logs.compact().await.expect("the disk is sound");
            done.set(true);
            for reader in readers {
                reader.await;
            }
        });
    }
}

#[test]
fn rate_is_bounded() {
    let mut scene = Scene::new(5);
    let took = scene.live(|io| async move {
        let shard = ShardConfig { cleaner_io_max_bytes_per_second: Some(100 << 10), ..small_shard() };
        let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
        let partition = create(&logs, LogConfig { segment_bytes: 1 << 20, ..compacted() }).await;
        fill(&partition, 0..1_000).await;
        partition.set_config(LogConfig { segment_bytes: 64 << 10, ..compacted() });
        fill(&partition, 1_000..1_001).await;
        let began_at = io.now();
        logs.compact().await.expect("the disk is sound");
        check(&read_all(&partition).await, 1_001);
        io.now().since(began_at)
    });
    // 350 KB are read twice.
    assert!((5..10).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn memory_for_few_keys_makes_more_passes() {
    let mut scene = Scene::new(6);
    scene.live(|io| async move {
        let shard = ShardConfig { cleaner_dedupe_buffer_bytes: 0, ..small_shard() };
        let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
        let partition = create(&logs, LogConfig { segment_bytes: 16 << 10, ..compacted() }).await;
        partition.begin_epoch(EPOCH);
        let keys: Vec<[u8; 8]> = (0..3_000u64).map(u64::to_be_bytes).collect();
        for value in [b"first".as_slice(), b"second"] {
            for keys in keys.chunks(50) {
                let batch: Vec<(&[u8], Option<&[u8]>)> =
                    keys.iter().map(|key| (key.as_slice(), Some(value))).collect();
                let batch = keyed_batch_of(&batch, ProducerStamp::NONE);
                let appended = partition.append(batch, EPOCH, Origin::Client).await.expect("accepted");
                appended.acknowledged().await.expect("the disk is sound");
            }
        }
        logs.compact().await.expect("the disk is sound");
        let found = read_all(&partition).await;
        let distinct: std::collections::BTreeSet<&[u8]> = found.iter().map(|(_, key, _)| &key[..]).collect();
        assert_eq!(distinct.len(), 3_000);
        assert!(found.len() < 4_200, "{} records of 3000 keys", found.len());
    });
}

#[test]
fn full_disk_is_no_failure_and_compaction_comes_later() {
    let mut scene = Scene::new(7);
    let disk = scene.disk();
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, compacted()).await;
        fill(&partition, 0..200).await;
        logs.checkpoint().await.expect("the disk is sound");
        let full = disk.inject(Fault::new(DiskOp::Write, FaultEffect::Errno(28)).on(".cleaned"));
        let error = logs.compact().await.expect_err("no space");
        assert!(matches!(error, LogError::OutOfSpace { .. }), "{error}");
        assert!(logs.failure().is_none() && partition.fenced().is_none());
        check(&read_all(&partition).await, 200);
        fill(&partition, 200..210).await;
        disk.lift(full);
        logs.compact().await.expect("there is space again");
        let found = read_all(&partition).await;
        check(&found, 210);
        assert!(found.len() < 60);
    });
    let files = scene.disk().file_lengths();
    assert!(!files.keys().any(|path| path.ends_with(".cleaned")), "{files:?}");
}

/// The smaller one may make room for the larger, which was tried first, each time, and kept it from its turn.
#[test]
fn partition_that_lacks_space_keeps_no_other_from_its_turn() {
    let mut scene = Scene::new(17);
    let disk = scene.disk();
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let dirtiest = create(&logs, compacted()).await;
        let other = logs.create_partition(id(1), "topic", compacted()).await.expect("created");
        fill(&dirtiest, 0..300).await;
        fill(&other, 0..200).await;
        logs.checkpoint().await.expect("the disk is sound");
        // Whatever it begins to write.
        let full = disk.inject(Fault::new(DiskOp::Create, FaultEffect::Errno(28)).on("topic-0/"));
        let error = logs.compact().await.expect_err("no space");
        assert!(matches!(error, LogError::OutOfSpace { .. }), "{error}");
        assert_eq!(read_all(&dirtiest).await.len(), 300);
        let found = read_all(&other).await;
        check(&found, 200);
        assert!(found.len() < 60, "{} records", found.len());
        disk.lift(full);
        logs.compact().await.expect("there is space again");
        assert!(read_all(&dirtiest).await.len() < 60);
    });
}

/// What came as gzip of 600 kB and is stored as zstd of much less inflates by more than a client's batch may.
#[test]
fn batch_that_inflates_greatly_is_compacted() {
    const RECORDS: u64 = 18;
    let mut scene = Scene::new(18);
    scene.live(|io| async move {
        let shard = ShardConfig { journal_file_bytes: 8 << 20, hot_tail_bytes: 16 << 20, ..small_shard() };
        let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
        let config = LogConfig {
            compression: Some(StoredCompression { codec: Compression::Zstd, level: Some(3) }),
            segment_bytes: 4 << 20,
            ..compacted()
        };
        let partition = create(&logs, config).await;
        partition.begin_epoch(EPOCH);
        // The same 2 KiB of noise each 64 KiB, further apart than gzip looks back.
        let mut noise = vec![0; 2 << 10];
        io.random_bytes(&mut noise);
        noise.resize(64 << 10, 0);
        let value = noise.repeat(16);
        for _ in 0..2 {
            let mut builder = BatchBuilder::new(Compression::Gzip);
            for key in 0..RECORDS {
                builder.push(&NewRecord {
                    key: Some(&key.to_be_bytes()),
                    value: Some(&value),
                    ..NewRecord::default()
                });
            }
            let batch = builder.build(ProducerStamp::NONE).expect("a batch");
            let before = partition.size_bytes();
            let appended = partition.append(batch, EPOCH, Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("the disk is sound");
            let stored = partition.size_bytes() - before;
            assert!(stored * 64 < RECORDS << 20, "{stored} bytes are more than a sixty-fourth");
        }
        // So that those are not in the segment that is appended to.
        partition.set_config(LogConfig { segment_bytes: 1 << 10, ..partition.config() });
        fill(&partition, 100..101).await;
        logs.checkpoint().await.expect("the disk is sound");
        logs.compact().await.expect("the disk is sound");
        let found = read_all(&partition).await;
        assert_eq!(found.len() as u64, RECORDS + 1, "each key once, and the last");
    });
}

#[test]
fn failed_flush_of_a_compacted_segment_fences_and_changes_nothing() {
    let mut scene = Scene::new(8);
    let disk = scene.disk();
    scene.live_and(End::PowerCut, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, compacted()).await;
        fill(&partition, 0..200).await;
        disk.inject(Fault::eio(DiskOp::Flush).on(".cleaned").times(1));
        assert!(logs.compact().await.is_err());
        assert!(logs.failure().is_some());
    });
    scene.disk().lift_all();
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let found = read_all(&the_partition(&logs)).await;
        assert_eq!(found.len(), 200, "nothing was replaced");
        check(&found, 200);
    });
}

/// Rule 10: what is rotten does not get a new checksum.
#[test]
fn rot_is_not_compacted() {
    let mut scene = Scene::new(9);
    scene.live(|io| async move {
        let (dir, logs, _) = open(&io).await;
        fill(&create(&logs, compacted()).await, 0..200).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    scene.end(End::Kill);
    let path = scene.path_of("00000000000000000000.log");
    scene.disk().corrupt(&path, 1_000..1_001);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = the_partition(&logs);
        logs.compact().await.expect("damage of one log is no failure of all");
        let request =
            ReadRequest { offset: Offset(2), max_bytes: 1, min_one_batch: true, upper_bound: Offset(200) };
        partition.read(request).await.expect_err("it is still damaged");
        fill(&partition, 200..201).await;
    });
}

#[test]
fn record_without_a_key_is_refused_by_a_compacted_log_only() {
    let mut scene = Scene::new(10);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, small_log()).await;
        append_one(&partition, b"no key").await;
        partition.set_config(compacted());
        let refused =
            partition.append(batch_of(&[b"no key"], ProducerStamp::NONE), EPOCH, Origin::Client).await;
        assert!(matches!(refused, Err(AppendError::InvalidRecord(_))), "{refused:?}");
        fill(&partition, 1..2).await;
    });
}

/// A truncation that is answered while a pass runs is not undone by it.
#[test]
fn truncation_and_deletion_of_records_in_the_middle_of_a_pass_count() {
    for seed in 0..30 {
        let mut scene = Scene::new(seed);
        let slow = FaultEffect::Delay(Duration::from_millis(1 + seed % 7));
        scene.disk().inject(Fault::new(DiskOp::Write, slow).on(".cleaned"));
        scene.disk().inject(Fault::new(DiskOp::SyncDirectory, slow));
        scene.live_and(if seed % 2 == 0 { End::Kill } else { End::PowerCut }, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, compacted()).await;
            fill(&partition, 0..150).await;
            let compaction = {
                let logs = logs.clone();
                io.spawn(async move { logs.compact().await })
            };
            io.sleep(Duration::from_millis(seed)).await;
            // As Kafka's high watermark has it: not below what may have been compacted.
            partition.truncate_to(Offset(149)).await.expect("the disk is sound");
            partition.delete_records_before(Offset(60)).await.expect("the disk is sound");
            fill(&partition, 149..151).await;
            compaction.await.expect("the disk is sound");
            check(&read_all(&partition).await, 151);
        });
        scene.disk().lift_all();
        scene.live(|io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "{report:?}");
            let partition = the_partition(&logs);
            assert_eq!(partition.watermarks().get().log_start_offset, Offset(60));
            check(&read_all(&partition).await, 151);
        });
    }
}

#[test]
fn topic_is_deleted_in_the_middle_of_a_pass() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        scene
            .disk()
            .inject(Fault::new(DiskOp::Write, FaultEffect::Delay(Duration::from_millis(3))).on(".cleaned"));
        scene.live(move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            fill(&create(&logs, compacted()).await, 0..150).await;
            let compaction = {
                let logs = logs.clone();
                io.spawn(async move { logs.compact().await })
            };
            io.sleep(Duration::from_millis(3 * seed)).await;
            logs.delete_partition(&id(0)).await.expect("the disk is sound");
            compaction.await.expect("nothing failed");
            assert!(logs.failure().is_none());
            fill(&create(&logs, compacted()).await, 0..20).await;
        });
    }
}

#[test]
fn log_closes_in_the_middle_of_a_pass() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        scene
            .disk()
            .inject(Fault::new(DiskOp::Write, FaultEffect::Delay(Duration::from_millis(3))).on(".cleaned"));
        scene.live(move |io| async move {
            let (dir, logs, _) = open(&io).await;
            fill(&create(&logs, compacted()).await, 0..150).await;
            let compaction = {
                let logs = logs.clone();
                io.spawn(async move { logs.compact().await })
            };
            io.sleep(Duration::from_millis(3 * seed)).await;
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("a clean stop");
            let _ = compaction.await;
            let (_dir, logs, report) = open(&io).await;
            assert!(report.was_clean);
            check(&read_all(&the_partition(&logs)).await, 150);
        });
    }
}

/// Every step of a pass, and of the recovery from it: the power goes there.
#[test]
fn power_cut_at_every_step_of_a_pass_loses_no_last_value() {
    const COUNT: u64 = 90;
    let prepared = |seed: u64| {
        let mut scene = Scene::new(seed);
        scene.live_and(End::Kill, |io| async move {
            let (dir, logs, _) = open(&io).await;
            fill(&create(&logs, compacted()).await, 0..COUNT).await;
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("a clean stop");
        });
        scene
    };
    async fn pass(io: Io) {
        let (_dir, logs, _) = open(&io).await;
        the_partition(&logs);
        logs.compact().await.expect("the disk is sound");
    }
    let mut scene = prepared(0);
    let first = scene.disk().events();
    scene.live(pass);
    let last = scene.disk().events();
    let mut swaps = 0;
    for event in first + 1..=last {
        let mut scene = prepared(0);
        scene.disk().cut_power_at_event(event);
        scene.live_until_down(pass);
        swaps += usize::from(scene.disk().file_lengths().keys().any(|path| path.ends_with(".swap")));
        // The recovery is cut as well, here and there.
        if event % 3 == 0 {
            scene.disk().cut_power_at_event(scene.disk().events() + 1 + event % 23);
            scene.live_until_down(pass);
        }
        scene.disk().cut_power_at_event(0);
        scene.live(move |io| async move {
            let report = verify(&io, Path::new(crate::common::DIR), |_| {}).await.expect("nobody uses it");
            assert_eq!(report.problems, [], "event {event}");
            let (_dir, logs, report) = open(&io).await;
            assert!(report.fenced.is_empty(), "event {event}: {report:?}");
            let partition = the_partition(&logs);
            check(&read_all(&partition).await, COUNT);
            fill(&partition, COUNT..COUNT + 30).await;
            logs.compact().await.expect("the disk is sound");
            check(&read_all(&partition).await, COUNT + 30);
        });
    }
    assert!(swaps > 3, "a decided replacement was seen {swaps} times in {} steps", last - first);
}

#[test]
fn lags_hold_compaction_back_and_hurry_it() {
    let mut scene = Scene::new(11);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        // Records of the year 1970 are old enough for any lag, unless it is longer than that.
        let young = LogConfig { min_compaction_lag: Duration::from_hours(24 * 365 * 200), ..compacted() };
        let partition = create(&logs, young).await;
        fill(&partition, 0..200).await;
        logs.compact().await.expect("the disk is sound");
        assert_eq!(read_all(&partition).await.len(), 200);
        let patient = LogConfig { min_cleanable_dirty_ppm: 1_000_000, ..compacted() };
        partition.set_config(patient.clone());
        logs.compact().await.expect("the disk is sound");
        assert_eq!(read_all(&partition).await.len(), 200);
        partition.set_config(LogConfig { max_compaction_lag: Some(Duration::from_secs(1)), ..patient });
        logs.compact().await.expect("the disk is sound");
        assert!(read_all(&partition).await.len() < 60);
    });
}

#[test]
fn batches_are_stored_in_the_codec_of_the_topic() {
    let mut scene = Scene::new(12);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, small_log()).await;
        let codecs =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        let producer = |number: u64| ProducerStamp {
            producer_id: ProducerId(5),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence(i32::try_from(number).expect("small")),
        };
        partition.begin_epoch(EPOCH);
        for (number, codec) in (0u64..).zip(codecs) {
            let compression = Some(StoredCompression { codec, level: None });
            partition.set_config(LogConfig { compression, ..small_log() });
            for _retry in 0..2 {
                let batch = keyed_batch_of(&[(&key_of(number), Some(&value_of(number)))], producer(number));
                let appended = partition.append(batch, EPOCH, Origin::Client).await.expect("accepted");
                assert_eq!(appended.base_offset, Offset(number.cast_signed()), "a retry is known as one");
            }
            let request = ReadRequest {
                offset: Offset(number.cast_signed()),
                max_bytes: 1,
                min_one_batch: true,
                upper_bound: Offset(i64::MAX),
            };
            partition.flush().await.expect("the disk is sound");
            let bytes = partition.read(request).await.expect("readable").chunks.concat();
            let header = verify_batch(&bytes).expect("intact");
            assert_eq!(header.compression(), Ok(codec));
        }
        let found = read_all(&partition).await;
        let values: Vec<_> = found.into_iter().map(|(_, _, value)| value.expect("a value")).collect();
        assert_eq!(values, (0..5).map(value_of).collect::<Vec<_>>());
    });
}

/// `compact,delete`: compacted segments go by their age like all others, down to the active one.
#[test]
fn retention_takes_compacted_segments_too() {
    let mut scene = Scene::new(13);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let both = LogConfig { delete_enabled: true, ..compacted() };
        let partition = create(&logs, both.clone()).await;
        fill(&partition, 0..200).await;
        logs.compact().await.expect("the disk is sound");
        logs.apply_retention().await.expect("the disk is sound");
        assert_eq!(partition.watermarks().get().log_start_offset, Offset(0));
        partition.set_config(LogConfig { retention_ms: Some(Duration::from_secs(1)), ..both });
        logs.apply_retention().await.expect("the disk is sound");
        assert_eq!(
            partition.watermarks().get().log_start_offset,
            Offset(200),
            "the active one has expired, too"
        );
        fill(&partition, 200..201).await;
        assert_eq!(read_all(&partition).await.len(), 1);
    });
}

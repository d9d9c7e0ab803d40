//! What recovery reads of the journal, counted: its time is the device's, whatever is in the journal.

use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{append_one, batch_of, create, id, open_with, options, small_log};
use highwater_io::Io;
use highwater_io::sim::{DiskOp, Fault, FaultEffect};
use highwater_log::{
    DataDir, LogConfig, OpenOptions, Origin, Partition, ReadRequest, RecoveryReport, ShardConfig, ShardLogs,
};
use highwater_model::batch::{BatchHeader, ProducerStamp};
use highwater_model::{LeaderEpoch, Offset};

const JOURNAL_FILE_BYTES: u64 = 4 << 20;

/// Chunks of a megabyte in a journal file.
const CHUNKS_IN_FILE: u64 = 4;

/// Bytes of a group with one small record.
const BLOCK: u64 = 4096;

/// No checkpoint but those that a test asks for.
async fn open_large(io: &Io) -> (DataDir, ShardLogs, RecoveryReport) {
    let shard = ShardConfig {
        journal_file_bytes: JOURNAL_FILE_BYTES,
        journal_max_files: 3,
        checkpoint_interval_bytes: 1 << 40,
        hot_tail_bytes: 8 << 20,
        ..ShardConfig::default()
    };
    open_with(io, OpenOptions { shard, ..options() }).await
}

async fn append_groups(logs: &ShardLogs, count: u32) {
    let partition = create(logs, 0).await;
    for number in 0..count {
        append_one(&partition, &number.to_be_bytes()).await.acknowledged().await.expect("the disk is sound");
    }
}

/// Starts, and gives the report and the number of reads of journal files.
fn start_counting(scene: &mut Scene) -> (RecoveryReport, u64) {
    let disk = scene.disk();
    // A rule that changes nothing counts.
    let reads = disk.inject(Fault::new(DiskOp::Read, FaultEffect::Delay(Duration::ZERO)).on("/journal-"));
    let report = scene.live(|io| async move { open_large(&io).await.2 });
    let count = disk.fired(reads);
    disk.lift(reads);
    (report, count)
}

/// Searching the rest of the journal for each damaged group once took minutes for a journal that had rotted in many places.
#[test]
fn journal_with_rot_in_many_places_is_searched_once() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open_large(&io).await;
        append_groups(&logs, 400).await;
    });
    scene.pass(Duration::from_secs(10));
    let (disk, journal) = (scene.disk(), scene.path_of("shard-0/journal-0"));
    for group in (10..390).step_by(2) {
        // In one the payload, in the next the header.
        let at = group * BLOCK + if group % 4 == 0 { 20 } else { 100 };
        disk.corrupt(&journal, at..at + 1);
    }
    let (report, reads) = start_counting(&mut scene);
    assert_eq!(report.fenced.len(), 1);
    assert_eq!(report.fenced[0].0, id(0));
    // The headers, the groups, the search, the copy that is kept: each of two files once, and what was read ahead.
    assert!(reads <= 12 * CHUNKS_IN_FILE, "{reads} reads");
}

/// Groups of a block each were once read with two reads each, one after the other.
#[test]
fn journal_of_small_groups_is_read_in_large_pieces_and_searched_once_for_what_follows_its_end() {
    let mut scene = Scene::new(2);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open_large(&io).await;
        append_groups(&logs, 900).await;
    });
    scene.pass(Duration::from_secs(10));
    let (report, reads) = start_counting(&mut scene);
    assert_eq!((report.groups_replayed, report.bytes_cut, report.fenced.len()), (900, 0, 0));
    // Two files' headers, the groups, and the search of the rest; the next file, which is prepared, is looked at for the
    // next group and searched.
    assert!(reads <= 4 * CHUNKS_IN_FILE, "{reads} reads");
}

/// Most of a journal is behind its checkpoint when the process dies.
#[test]
fn journal_before_the_checkpoint_is_not_read() {
    let mut scene = Scene::new(3);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open_large(&io).await;
        append_groups(&logs, 900).await;
        logs.checkpoint().await.expect("the disk is sound");
        append_groups(&logs, 3).await;
    });
    scene.pass(Duration::from_secs(10));
    let (report, reads) = start_counting(&mut scene);
    assert_eq!((report.groups_replayed, report.fenced.len()), (3, 0));
    // Two headers; of the first file the end, twice; of the second, which is prepared, a look and all.
    assert!(reads <= 2 + 2 + 1 + CHUNKS_IN_FILE, "{reads} reads");
}

#[test]
fn journal_of_a_clean_stop_is_not_searched() {
    let mut scene = Scene::new(4);
    scene.live_and(End::Kill, |io| async move {
        let (dir, logs, _) = open_large(&io).await;
        append_groups(&logs, 3).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    let (report, reads) = start_counting(&mut scene);
    assert!(report.was_clean && report.fenced.is_empty());
    // Two headers, and a look at each of the two places where the next group would be.
    assert!(reads <= 4, "{reads} reads");
}

/// Whoever read first and went away, or came while the index was being read, made it count for nothing: the segment was walked.
#[test]
fn index_is_used_whoever_reads_first() {
    let segments = || {
        let mut scene = Scene::new(3);
        scene.live_and(End::Kill, |io| async move {
            let (dir, logs, _) = open_large(&io).await;
            let config = LogConfig { segment_bytes: 1 << 20, index_interval_bytes: 4096, ..small_log() };
            let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
            for _ in 0..150 {
                append_one(&partition, &[1; 10_000]).await.acknowledged().await.expect("durable");
            }
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
        });
        scene
    };
    let read = |partition: Partition| async move {
        let upper_bound = partition.watermarks().get().log_end_offset;
        let request = ReadRequest { offset: Offset(90), max_bytes: 1, min_one_batch: true, upper_bound };
        partition.read(request).await.map(|data| data.next_offset)
    };
    for step in 0..60 {
        let mut scene = segments();
        let disk = scene.disk();
        let reads = scene.live(move |io| async move {
            let (_dir, logs, _) = open_large(&io).await;
            let partition = logs.partition(&id(0)).expect("is there");
            let none = Fault::new(DiskOp::Open, FaultEffect::Errno(24)).on("00000000.index").times(1);
            let reads = Fault::new(DiskOp::Read, FaultEffect::Delay(Duration::ZERO)).on("00000000.log");
            let reads = disk.inject(reads);
            let patience = Duration::from_micros(10 * step);
            match step % 3 {
                0 => drop(io.timeout(patience, read(partition.clone())).await),
                1 => {
                    let other = io.spawn(read(partition.clone()));
                    io.sleep(patience).await;
                    drop(read(partition.clone()).await);
                    drop(other.await);
                }
                _ => {
                    disk.inject(none);
                    drop(read(partition.clone()).await);
                    disk.lift(reads);
                    let reads =
                        Fault::new(DiskOp::Read, FaultEffect::Delay(Duration::ZERO)).on("00000000.log");
                    let reads = disk.inject(reads);
                    assert_eq!(read(partition).await.expect("readable"), Offset(91));
                    return disk.fired(reads);
                }
            }
            assert_eq!(read(partition).await.expect("readable"), Offset(91));
            disk.fired(reads)
        });
        assert!(reads <= 6, "step {step}: {reads} reads, the segment is walked");
    }
}

/// Batches of two records each, as large as `sizes` in turn, more than a segment of them; then the first segment is read batch by
/// batch, where `max_bytes` has room for no second one. The reads of that segment's file, and how many batches it has.
fn read_each_batch_cold(seed: u64, sizes: &'static [usize], max_bytes: usize) -> (u64, u64) {
    const SEGMENT_BYTES: u64 = 1 << 20;
    let mut scene = Scene::new(seed);
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open_large(&io).await;
        let config = LogConfig { segment_bytes: SEGMENT_BYTES, index_interval_bytes: 4096, ..small_log() };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        let mut written = 0;
        for &size in sizes.iter().cycle() {
            let half = vec![1; size / 2];
            let batch = batch_of(&[&half, &half], ProducerStamp::NONE);
            written += batch.len() as u64;
            let appended = partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("durable");
            if written > 2 * SEGMENT_BYTES {
                break;
            }
        }
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("marked");
    });
    let disk = scene.disk();
    scene.live(move |io| async move {
        let (_dir, logs, _) = open_large(&io).await;
        let partition = logs.partition(&id(0)).expect("is there");
        let upper_bound = partition.watermarks().get().log_end_offset;
        let reads = Fault::new(DiskOp::Read, FaultEffect::Delay(Duration::ZERO)).on("00000000.log");
        let reads = disk.inject(reads);
        let (mut before, mut batches) = (0, 0);
        for offset in (0..upper_bound.0).step_by(2).map(Offset) {
            let request = ReadRequest { offset, max_bytes, min_one_batch: true, upper_bound };
            let data = partition.read(request).await.expect("readable");
            let header = BatchHeader::parse(&data.chunks.concat()).expect("a batch");
            assert_eq!((header.base_offset, data.next_offset), (offset, Offset(offset.0 + 2)));
            let reads = disk.fired(reads);
            if reads == before {
                break;
            }
            (before, batches) = (reads, batches + 1);
        }
        (before, batches)
    })
}

/// The index tells where a batch begins at or before the one that is wanted. Of batches as large as a read, the one before was
/// read each time, and with it nothing of the wanted one.
#[test]
fn large_batches_are_read_once_each() {
    let (reads, batches) = read_each_batch_cold(5, &[40_000], 64 << 10);
    assert!(batches > 20, "{batches} batches");
    // The index has no entry of a segment's first batch: that one is read again in front of the second.
    assert!(reads <= batches + 1, "{reads} reads of {batches} batches");
}

/// Of small batches not each has an entry: behind one that has, the next entry is mostly of a later batch than the wanted one.
#[test]
fn small_batches_take_one_read_each() {
    let (reads, batches) = read_each_batch_cold(7, &[3_000], 1);
    assert_eq!(reads, batches);
}

#[test]
fn batches_between_the_entries_of_the_index_are_found() {
    let (_, batches) = read_each_batch_cold(6, &[20, 20, 5_000, 20, 3_000, 3_000, 20, 40_000], 1);
    assert!(batches > 100, "{batches} batches");
}

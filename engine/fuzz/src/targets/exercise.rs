//! Opens a directory of a simulated disk and uses everything that is in it.
//!
//! Whatever the files hold: the log opens, fences a partition, or refuses with an error. Nothing panics, hangs or serves
//! a batch that is not intact; and what was opened can be closed and opened again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::Io;
use highwater_io::fs::{Durability, OpenOptions};
use highwater_io::sim::{self, WorldConfig};
use highwater_log::{
    DataDir, LogConfig, OpenOptions as LogOptions, Origin, Partition, ReadError, ReadRequest, ShardConfig,
    ShardLogs,
};
use highwater_model::batch::{self, BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, Timestamp};

use crate::Reached;

pub(crate) const DIR: &str = "/data";

/// A file of the directory, by its path in it, and its bytes.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Steps of the simulation after which something has gone round in a circle.
const MAX_STEPS: u64 = 2_000_000;

/// Most reads of one partition.
const MAX_READS: usize = 200;

pub(crate) fn run(files: Files) -> Reached {
    let config = WorldConfig { max_steps: MAX_STEPS, ..WorldConfig::default() };
    sim::run_with(0, config, move |io| async move {
        lay_out(&io, files).await;
        use_directory(&io).await
    })
}

async fn lay_out(io: &Io, files: Files) {
    for (name, bytes) in files {
        let path = Path::new(DIR).join(name);
        io.fs().create_dir_all_durable(path.parent().expect("below the directory")).await.expect("created");
        let file = io.fs().open(path, OpenOptions::read_write().create().truncate()).await.expect("created");
        file.write_at(vec![bytes.into()], 0, Durability::Plain).await.expect("written");
    }
}

fn options() -> LogOptions {
    let shard = ShardConfig {
        journal_file_bytes: 64 << 10,
        journal_max_files: 3,
        checkpoint_interval_bytes: 48 << 10,
        group_max_bytes: 16 << 10,
        unflushed_max_bytes: 16 << 10,
        hot_tail_bytes: 2 << 20,
        chunk_bytes: 8 << 10,
        chunks_in_flight: 2,
        cleaner_enabled: false,
        cleaner_dedupe_buffer_bytes: 64 << 10,
        ..ShardConfig::default()
    };
    let default_log = LogConfig {
        segment_bytes: 16 << 10,
        index_interval_bytes: 512,
        retention_ms: Some(Duration::from_hours(1)),
        ..LogConfig::default()
    };
    LogOptions { shard, default_log, ..LogOptions::default() }
}

async fn use_directory(io: &Io) -> Reached {
    let Ok((mut dir, report)) = DataDir::open(io, Path::new(DIR), options()).await else {
        return Reached::Refused;
    };
    let Ok(mut seeds) = dir.split(1, |_, _| 0).await else { return Reached::Refused };
    let logs = ShardLogs::start(io, seeds.pop().expect("one shard")).await.expect("the disk is sound");
    let mut reached = Reached::accepted_if(report.groups_replayed > 0);
    for partition in logs.partitions() {
        let was_fenced = report.fenced.iter().any(|(id, _)| *id == partition.id());
        assert_eq!(partition.fenced().is_some(), was_fenced, "a fence is reported: {report:?}");
        reached = reached.max(use_partition(io, &partition).await);
    }
    let _ = logs.apply_retention().await;
    for partition in logs.partitions() {
        let config = partition.config();
        partition.set_config(LogConfig { compact_enabled: true, min_cleanable_dirty_ppm: 0, ..config });
    }
    let _ = logs.compact().await;
    for partition in logs.partitions() {
        read_all(&partition).await;
    }
    if let Some(failure) = logs.failure() {
        // Nothing is wrong with the disk: only a size that no file system takes may end here.
        assert!(failure.cause.contains("too large") || failure.cause.contains("nvalid"), "{failure}");
        return reached;
    }
    logs.close().await.expect("a sound disk takes a clean stop");
    let ends: Vec<_> = logs.partitions().iter().map(|log| (log.id(), log.watermarks().get())).collect();
    dir.mark_clean().await.expect("a sound disk takes a clean stop");
    open_again(io, &ends).await;
    reached
}

async fn open_again(io: &Io, ends: &[(highwater_model::TopicPartition, highwater_log::Watermarks)]) {
    let (mut dir, report) =
        DataDir::open(io, Path::new(DIR), options()).await.expect("what was closed can be opened");
    assert!(report.was_clean && report.groups_replayed == 0, "{report:?}");
    let seeds = dir.split(1, |_, _| 0).await.expect("what was closed can be opened");
    let logs = ShardLogs::start(io, seeds.into_iter().next().expect("one shard")).await.expect("starts");
    for (id, marks) in ends {
        let partition = logs.partition(id).expect("is still there");
        let now = partition.watermarks().get();
        assert_eq!(
            (now.log_start_offset, now.log_end_offset),
            (marks.log_start_offset, marks.log_end_offset)
        );
    }
    logs.close().await.expect("a sound disk takes a clean stop");
}

async fn use_partition(io: &Io, partition: &Partition) -> Reached {
    let marks = partition.watermarks().get();
    assert!(marks.log_start_offset.0 >= 0 && marks.log_start_offset <= marks.log_end_offset, "{marks:?}");
    let mut reached = Reached::accepted_if(read_all(partition).await > 0);
    let middle = Offset(marks.log_start_offset.0 / 2 + marks.log_end_offset.0 / 2);
    let _ = partition.max_timestamp(partition.watermarks().get().log_end_offset).await;
    let _ = partition.offset_for_timestamp(Timestamp(6)).await;
    let _ = partition.end_offset_for_epoch(LeaderEpoch(1));
    let _ = partition.epoch_at(middle);
    let _ = read_from(partition, middle).await;
    if append(partition).await {
        reached = Reached::Accepted;
        let _ = partition.truncate_to(middle).await;
        append(partition).await;
        let _ = partition.delete_records_before(middle).await;
        append(partition).await;
        io.yield_now().await;
        read_all(partition).await;
    }
    reached
}

/// Appends and waits for the ack, unless the partition is fenced or full.
async fn append(partition: &Partition) -> bool {
    let epoch = partition.latest_epoch().max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    let mut builder = BatchBuilder::new(Compression::None);
    let value = [b'v'; 700];
    builder.push(&NewRecord { timestamp: Timestamp(8), value: Some(&value), ..NewRecord::default() });
    let batch = builder.build(ProducerStamp::NONE).expect("a batch");
    match partition.append(batch, epoch, Origin::Client).await {
        Ok(appended) => appended.acknowledged().await.is_ok(),
        Err(_) => false,
    }
}

async fn read_all(partition: &Partition) -> usize {
    read_from(partition, partition.watermarks().get().log_start_offset).await
}

/// Reads to the end, or to the first damage; returns the number of batches.
async fn read_from(partition: &Partition, from: Offset) -> usize {
    let mut offset = from;
    let mut count = 0;
    let end = partition.watermarks().get().log_end_offset;
    for _ in 0..MAX_READS {
        let request = ReadRequest { offset, max_bytes: 3_000, min_one_batch: true, upper_bound: end };
        let data = match partition.read(request).await {
            Ok(data) if data.size_bytes > 0 => data,
            Ok(_)
            | Err(ReadError::Corrupt { .. } | ReadError::OffsetOutOfRange { .. } | ReadError::Io { .. }) => {
                break;
            }
            Err(error) => panic!("a read ends with {error}"),
        };
        count += check_batches(&Bytes::from(data.chunks.concat()), offset, data.next_offset);
        offset = data.next_offset;
    }
    count
}

fn check_batches(bytes: &Bytes, wanted: Offset, next_offset: Offset) -> usize {
    let mut count = 0;
    let mut expected = wanted;
    for found in batch::headers(bytes) {
        let (at, header) = found.expect("a read gives whole batches");
        batch::verify(&bytes[at..]).expect("a read gives intact batches");
        assert!(header.last_offset() >= expected, "offsets go back");
        expected = header.next_offset();
        count += 1;
    }
    assert_eq!(expected, next_offset, "the read says where to go on");
    count
}

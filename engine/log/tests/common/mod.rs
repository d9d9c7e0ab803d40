//! What the tests of the log share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[cfg(feature = "mutants")]
pub(crate) mod claims;
pub(crate) mod scenarios;
pub(crate) mod scene;

use std::path::Path;

use bytes::Bytes;
use highwater_io::Io;
use highwater_log::{
    Appended, DataDir, LogConfig, OpenOptions, Origin, Partition, ReadRequest, RecoveryReport, ShardConfig,
    ShardLogs,
};
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchBuilder, NewRecord, ProducerStamp, headers};
use highwater_model::compression::Compression;
use highwater_model::record::records;
use highwater_model::{LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};

/// Small everything, so that a short run laps the journal, rolls and checkpoints.
pub(crate) fn small_shard() -> ShardConfig {
    ShardConfig {
        journal_file_bytes: 128 << 10,
        journal_max_files: 3,
        checkpoint_interval_bytes: 96 << 10,
        group_max_bytes: 32 << 10,
        aligned_append_bytes: 3000,
        unflushed_max_bytes: 32 << 10,
        hot_tail_bytes: 2 << 20,
        chunk_bytes: 8 << 10,
        chunks_in_flight: 2,
        // Tests say when.
        cleaner_enabled: false,
        ..ShardConfig::default()
    }
}

pub(crate) fn small_log() -> LogConfig {
    LogConfig {
        segment_bytes: 24 << 10,
        index_interval_bytes: 512,
        retention_ms: None,
        ..LogConfig::default()
    }
}

pub(crate) fn options() -> OpenOptions {
    OpenOptions { shard: small_shard(), default_log: small_log(), ..OpenOptions::default() }
}

pub(crate) const DIR: &str = "/data";

pub(crate) async fn open(io: &Io) -> (DataDir, ShardLogs, RecoveryReport) {
    open_with(io, options()).await
}

pub(crate) async fn open_with(io: &Io, options: OpenOptions) -> (DataDir, ShardLogs, RecoveryReport) {
    let (mut dir, report) = DataDir::open(io, Path::new(DIR), options).await.expect("the directory opens");
    let seed = dir.split(1, |_, _| 0).await.expect("a new generation").pop().expect("one shard");
    let logs = ShardLogs::start(io, seed).await.expect("the shard starts");
    (dir, logs, report)
}

pub(crate) fn id(partition: i32) -> TopicPartition {
    TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition: PartitionIndex(partition) }
}

pub(crate) async fn create(logs: &ShardLogs, partition: i32) -> Partition {
    logs.create_partition(id(partition), "topic", small_log()).await.expect("created")
}

pub(crate) fn batch_of(values: &[&[u8]], producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(&NewRecord { timestamp: Timestamp(1_000), value: Some(value), ..NewRecord::default() });
    }
    builder.build(producer).expect("a batch")
}

/// A batch of keys with values; a key without one is a tombstone.
pub(crate) fn keyed_batch_of(records: &[(&[u8], Option<&[u8]>)], producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for (key, value) in records {
        let timestamp = Timestamp(1_000);
        builder.push(&NewRecord { timestamp, key: Some(key), value: *value, ..NewRecord::default() });
    }
    builder.build(producer).expect("a batch")
}

pub(crate) async fn append_one(partition: &Partition, value: &[u8]) -> Appended {
    let epoch = LeaderEpoch(-1).max(partition.latest_epoch()).max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    partition.append(batch_of(&[value], ProducerStamp::NONE), epoch, Origin::Client).await.expect("accepted")
}

/// All values from the start to the end, in order; that of a tombstone is empty.
pub(crate) async fn read_values(partition: &Partition) -> Vec<Vec<u8>> {
    read_from(partition, partition.watermarks().get().log_start_offset)
        .await
        .into_iter()
        .map(|(_, v)| v)
        .collect()
}

pub(crate) async fn read_from(partition: &Partition, offset: Offset) -> Vec<(Offset, Vec<u8>)> {
    let mut values = Vec::new();
    let mut offset = offset;
    let end = partition.watermarks().get().log_end_offset;
    while offset < end {
        let request = ReadRequest { offset, max_bytes: 10_000, min_one_batch: true, upper_bound: end };
        let data = partition.read(request).await.expect("readable");
        assert!(data.size_bytes > 0, "a read at {offset} of {end} gives nothing");
        let bytes = data.chunks.concat();
        assert_eq!(bytes.len(), data.size_bytes);
        for header in headers(&bytes) {
            let (at, header) = header.expect("whole batches");
            highwater_model::batch::verify(&bytes[at..]).expect("intact");
            for record in records(&bytes[at + BATCH_HEADER_BYTES..at + header.size_bytes]) {
                let record = record.expect("well formed");
                let this = Offset(header.base_offset.0 + i64::from(record.offset_delta));
                if this >= offset {
                    values.push((this, record.value.unwrap_or_default().to_vec()));
                }
            }
        }
        offset = data.next_offset;
    }
    values
}

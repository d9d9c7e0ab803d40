//! The metadata log: one partition on the first shard, read at start and appended to by the controller.
//!
//! It is read whole or not at all. Offsets follow each other without a gap from its start to its end, in whole batches of
//! whole records; anything else is damage, and a broker that went on with what is left would have lost topics, and with
//! them what was acknowledged in them.

use std::cell::Cell;
use std::path::PathBuf;

use bytes::Bytes;
use highwater_cluster::image::ApplyError;
use highwater_cluster::{METADATA_PARTITION, METADATA_TOPIC, MetadataImage, Record};
use highwater_log::{AppendError, LogConfig, LogError, Origin, Partition, ReadError, ReadRequest, ShardLogs};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::record::records;
use highwater_model::{LeaderEpoch, Offset, Timestamp};

/// Bytes that are read at once at start.
const READ_BYTES: usize = 1 << 20;

/// What one decision makes is one batch; what would be larger is cut into several, and is a snapshot.
const BATCH_BYTES: usize = 512 << 10;

/// Largest batch that the log accepts: the most that one request can make.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Size of its segments: small, since a snapshot frees whole segments only.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The metadata log cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataLogError {
    /// It cannot be opened or flushed.
    #[error("metadata log: {0}")]
    Log(#[from] LogError),
    /// It refuses a batch.
    #[error("metadata log: {0}")]
    Append(#[from] AppendError),
    /// A part of it is damaged, missing or not understood.
    #[error(
        "{path}: the metadata log is damaged at offset {offset}: {what}; restore the data directory from a copy, or \
         run `highwater verify {data_dir}` for more"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// The first offset that cannot be read.
        offset: Offset,
        /// What is wrong.
        what: String,
        /// The data directory.
        data_dir: PathBuf,
    },
}

impl MetadataLogError {
    /// Whether the disk is full.
    pub(crate) fn is_out_of_space(&self) -> bool {
        matches!(
            self,
            Self::Log(LogError::OutOfSpace { .. })
                | Self::Append(AppendError::Log(LogError::OutOfSpace { .. }))
        )
    }
}

/// A place in the log, and what is wrong there.
struct Damage {
    offset: Offset,
    what: String,
}

/// Durable and kept whole, whatever the broker's own settings say.
fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_bytes: None,
        retention_ms: None,
        flush_messages: 1,
        max_message_bytes: MAX_BATCH_BYTES,
        message_timestamp_after_max_ms: None,
        delete_enabled: true,
        ..LogConfig::default()
    }
}

/// The metadata log.
pub(crate) struct MetadataLog {
    partition: Partition,
    leader_epoch: LeaderEpoch,
    /// Where a snapshot begins that is not whole. A replay takes all behind it for a part of it, and then for nothing: it is
    /// cut off before anything is appended.
    unfinished_snapshot: Cell<Option<Offset>>,
}

/// What the records so far make.
#[derive(Default)]
struct Replay {
    image: MetadataImage,
    /// Where a snapshot began whose end did not come.
    unfinished_snapshot: Option<Offset>,
}

impl Replay {
    fn apply(&mut self, record: &Record, offset: Offset) -> Result<(), ApplyError> {
        self.image.apply(record)?;
        self.unfinished_snapshot =
            self.image.is_in_snapshot().then(|| self.unfinished_snapshot.unwrap_or(offset));
        Ok(())
    }
}

impl MetadataLog {
    /// Opens or creates it.
    pub(crate) async fn open(logs: &ShardLogs) -> Result<Self, MetadataLogError> {
        let partition = logs.create_partition(METADATA_PARTITION, METADATA_TOPIC, log_config()).await?;
        let leader_epoch = LeaderEpoch(partition.latest_epoch().0.saturating_add(1).max(0));
        partition.begin_epoch(leader_epoch);
        Ok(MetadataLog { partition, leader_epoch, unfinished_snapshot: Cell::default() })
    }

    /// Number of records that it holds, about.
    pub(crate) fn record_count(&self) -> u64 {
        let watermarks = self.partition.watermarks().get();
        u64::try_from(watermarks.log_end_offset.0 - watermarks.log_start_offset.0).unwrap_or(0)
    }

    /// The image that its records make.
    pub(crate) async fn replay(&self) -> Result<MetadataImage, MetadataLogError> {
        let watermarks = self.partition.watermarks().get();
        let mut replay = Replay::default();
        let mut offset = watermarks.log_start_offset;
        while offset < watermarks.log_end_offset {
            let bytes = self.read(offset, watermarks.log_end_offset).await?;
            offset = apply_batches(&mut replay, &bytes, offset).map_err(|Damage { offset, what }| {
                // What recovery found comes first: this is where it shows.
                self.damaged(offset, self.partition.fenced().unwrap_or(what))
            })?;
        }
        if let Some(reason) = self.partition.fenced() {
            return Err(self.damaged(offset, reason));
        }
        let Replay { mut image, unfinished_snapshot } = replay;
        image.end_of_log();
        self.unfinished_snapshot.set(unfinished_snapshot);
        Ok(image)
    }

    /// Whole batches from `offset` on, which lies before `end`.
    async fn read(&self, offset: Offset, end: Offset) -> Result<Bytes, MetadataLogError> {
        let request = ReadRequest { offset, max_bytes: READ_BYTES, min_one_batch: true, upper_bound: end };
        match self.partition.read(request).await {
            Ok(data) => Ok(data.chunks.concat().into()),
            Err(ReadError::Corrupt { position_bytes, what, .. }) => {
                Err(self.damaged(offset, format!("{what} (from byte {position_bytes} on)")))
            }
            Err(error) => Err(self.damaged(offset, error.to_string())),
        }
    }

    fn damaged(&self, offset: Offset, what: String) -> MetadataLogError {
        let path = self.partition.segment_path(offset);
        // <data directory>/__cluster_metadata-0/<segment>
        let data_dir = path.ancestors().nth(2).unwrap_or(&path).to_owned();
        MetadataLogError::Damaged { path, offset, what, data_dir }
    }

    /// Appends the records of one decision as one batch, and waits until they are durable.
    pub(crate) async fn append(&self, records: &[Record], now: Timestamp) -> Result<(), MetadataLogError> {
        self.cut_unfinished_snapshot().await?;
        let encoded: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        self.append_batch(&encoded, now).await
    }

    /// Appends a snapshot, waits until it is durable, and drops what came before it.
    pub(crate) async fn snapshot(
        &self,
        image: &MetadataImage,
        now: Timestamp,
    ) -> Result<(), MetadataLogError> {
        self.cut_unfinished_snapshot().await?;
        let begin = self.partition.watermarks().get().log_end_offset;
        self.unfinished_snapshot.set(Some(begin));
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut batch_bytes = 0;
        for record in image.snapshot() {
            let encoded = record.encode();
            batch_bytes += encoded.len();
            batch.push(encoded);
            if batch_bytes >= BATCH_BYTES {
                self.append_batch(&batch, now).await?;
                batch.clear();
                batch_bytes = 0;
            }
        }
        self.append_batch(&batch, now).await?;
        self.unfinished_snapshot.set(None);
        self.partition.delete_records_before(begin).await?;
        Ok(())
    }

    async fn cut_unfinished_snapshot(&self) -> Result<(), MetadataLogError> {
        if let Some(begin) = self.unfinished_snapshot.get() {
            self.partition.truncate_to(begin).await?;
            self.unfinished_snapshot.set(None);
        }
        Ok(())
    }

    async fn append_batch(&self, encoded: &[Vec<u8>], now: Timestamp) -> Result<(), MetadataLogError> {
        if encoded.is_empty() {
            return Ok(());
        }
        let mut builder = BatchBuilder::new(Compression::None);
        for value in encoded {
            builder.push(&NewRecord { timestamp: now, key: None, value: Some(value), headers: &[] });
        }
        let batch = builder.build(ProducerStamp::NONE).map_err(AppendError::from)?;
        let appended = self.partition.append(batch, self.leader_epoch, Origin::Coordinator).await?;
        appended.durable().await?;
        Ok(())
    }
}

/// Applies every record of `batches`, which must go on at `next`; gives the offset after them.
fn apply_batches(replay: &mut Replay, batches: &[u8], mut next: Offset) -> Result<Offset, Damage> {
    if batches.is_empty() {
        return Err(Damage { offset: next, what: "the records from there on are missing".to_owned() });
    }
    for header in batch::headers(batches) {
        let (at, header) = header.map_err(|error| Damage { offset: next, what: error.to_string() })?;
        if header.base_offset != next {
            let what = format!("the batch there says that it begins at offset {}", header.base_offset);
            return Err(Damage { offset: next, what });
        }
        apply_records(replay, &header, &batches[at + BATCH_HEADER_BYTES..at + header.size_bytes])?;
        next = header.next_offset();
    }
    Ok(next)
}

fn apply_records(replay: &mut Replay, header: &BatchHeader, body: &[u8]) -> Result<(), Damage> {
    let mut offset = header.base_offset;
    for record in records(body) {
        let apply = || -> Result<(), String> {
            let record = record.map_err(|error| error.to_string())?;
            if i64::from(record.offset_delta) != offset.0 - header.base_offset.0 {
                return Err(format!("the record there says that it is number {}", record.offset_delta));
            }
            let decoded = Record::decode(record.value.unwrap_or_default());
            replay
                .apply(&decoded.map_err(|error| error.to_string())?, offset)
                .map_err(|error| error.to_string())
        };
        apply().map_err(|what| Damage { offset, what })?;
        offset.0 += 1;
    }
    if offset != header.next_offset() {
        return Err(Damage { offset, what: "the batch ends before its last record".to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use highwater_cluster::image::ConfigResource;
    use highwater_io::{Io, sim};
    use highwater_log::{DataDir, OpenOptions};
    use highwater_model::TopicId;
    use uuid::Uuid;

    use super::*;

    fn batch_at(base_offset: i64, values: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None);
        for value in values {
            builder.push(&NewRecord { value: Some(value), ..NewRecord::default() });
        }
        let mut batch = builder.build(ProducerStamp::NONE).expect("a batch").to_vec();
        batch::stamp(&mut batch, Offset(base_offset), LeaderEpoch(0));
        batch
    }

    fn topic(number: u8) -> Vec<u8> {
        let topic_id = TopicId::from_bytes([number; 16]);
        Record::Topic { topic_id, name: format!("topic{number}") }.encode()
    }

    fn apply(batches: &[Vec<u8>]) -> Result<(usize, Offset), (Offset, String)> {
        let mut replay = Replay::default();
        apply_batches(&mut replay, &batches.concat(), Offset(3))
            .map(|next| (replay.image.topic_count(), next))
            .map_err(|damage| (damage.offset, damage.what))
    }

    fn new_topic(number: u128) -> Record {
        let topic_id = TopicId(Uuid::from_u128(number));
        Record::Topic { topic_id, name: format!("a-topic-with-a-name-of-some-length-{number}") }
    }

    async fn log_of(io: &Io) -> (ShardLogs, MetadataLog) {
        let (mut dir, _) =
            DataDir::open(io, Path::new("/data"), OpenOptions::default()).await.expect("opens");
        let seed = dir.split(1, |_, _| 0).await.expect("a journal").remove(0);
        let logs = ShardLogs::start(io, seed).await.expect("starts");
        let log = MetadataLog::open(&logs).await.expect("opens");
        (logs, log)
    }

    /// A log of which a snapshot's first batches are on the medium, and the next one was refused: it is too large.
    async fn with_half_a_snapshot(io: &Io) -> (ShardLogs, MetadataLog) {
        let (logs, log) = log_of(io).await;
        log.append(&[new_topic(1)], Timestamp(0)).await.expect("durable");
        let mut image = log.replay().await.expect("whole");
        for number in 2..12_000 {
            image.apply(&new_topic(number)).expect("fits");
        }
        let (resource, name) = (ConfigResource::AllBrokers, "a.setting".to_owned());
        let value = Some("v".repeat(MAX_BATCH_BYTES));
        image.apply(&Record::Config { resource, name, value }).expect("fits");
        let before = log.record_count();
        log.snapshot(&image, Timestamp(0)).await.expect_err("a batch that is too large");
        assert!(log.record_count() > before + 1_000, "some of it is there");
        (logs, log)
    }

    async fn topics_of(log: &MetadataLog) -> Vec<String> {
        let image = log.replay().await.expect("whole");
        image.topics().map(|topic| topic.name.clone()).collect()
    }

    fn names(records: &[Record]) -> Vec<String> {
        let name = |record: &Record| match record {
            Record::Topic { name, .. } => Some(name.clone()),
            _ => None,
        };
        records.iter().filter_map(name).collect()
    }

    /// It was taken for a part of the snapshot, and dropped with it by the next start.
    #[test]
    fn what_comes_after_half_a_snapshot_is_kept() {
        sim::run(1, |io| async move {
            let (logs, log) = with_half_a_snapshot(&io).await;
            log.append(&[new_topic(20_000)], Timestamp(0)).await.expect("durable");
            assert_eq!(topics_of(&log).await, names(&[new_topic(1), new_topic(20_000)]));
            let image = log.replay().await.expect("whole");
            log.snapshot(&image, Timestamp(0)).await.expect("durable");
            assert_eq!(topics_of(&log).await, names(&[new_topic(1), new_topic(20_000)]));
            logs.close().await.expect("a clean stop");
        });
    }

    #[test]
    fn what_the_start_after_half_a_snapshot_appends_is_kept() {
        sim::run(1, |io| async move {
            let (logs, log) = with_half_a_snapshot(&io).await;
            // As one that was opened by a new process.
            log.unfinished_snapshot.set(None);
            assert_eq!(topics_of(&log).await, names(&[new_topic(1)]));
            log.append(&[new_topic(20_000)], Timestamp(0)).await.expect("durable");
            assert_eq!(topics_of(&log).await, names(&[new_topic(1), new_topic(20_000)]));
            logs.close().await.expect("a clean stop");
        });
    }

    #[test]
    fn batches_that_follow_each_other_make_the_image() {
        let batches = [batch_at(3, &[topic(1), topic(2)]), batch_at(5, &[topic(3)])];
        assert_eq!(apply(&batches), Ok((3, Offset(6))));
    }

    #[test]
    fn nothing_where_a_record_should_be_is_damage() {
        assert_eq!(apply(&[]).expect_err("no batch").0, Offset(3));
        assert_eq!(apply(&[batch_at(4, &[topic(1)])]).expect_err("a gap").0, Offset(3));
        let gap = [batch_at(3, &[topic(1)]), batch_at(5, &[topic(2)])];
        assert_eq!(apply(&gap).expect_err("a gap").0, Offset(4));
        let again = [batch_at(3, &[topic(1)]), batch_at(3, &[topic(2)])];
        assert_eq!(apply(&again).expect_err("twice").0, Offset(4));
    }

    #[test]
    fn record_that_is_not_understood_is_damage_at_its_offset() {
        let unknown = batch_at(3, &[topic(1), vec![200, 0, 1]]);
        assert_eq!(apply(&[unknown]).expect_err("no such record").0, Offset(4));
        let twice = batch_at(3, &[topic(1), topic(1)]);
        assert_eq!(apply(&[twice]).expect_err("does not fit").0, Offset(4));
    }

    #[test]
    fn batch_that_ends_before_its_last_record_is_damage() {
        let mut batch = batch_at(3, &[topic(1), topic(2)]);
        // The last offset delta.
        batch[26] = 2;
        assert_eq!(apply(&[batch]).expect_err("one is missing").0, Offset(5));
    }
}

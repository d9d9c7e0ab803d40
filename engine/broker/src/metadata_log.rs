//! The metadata log: one partition on the first shard, read at start and appended to by the controller.

use highwater_cluster::image::ApplyError;
use highwater_cluster::record::RecordError;
use highwater_cluster::{METADATA_PARTITION, METADATA_TOPIC, MetadataImage, Record};
use highwater_log::{AppendError, LogConfig, LogError, Origin, Partition, ReadError, ReadRequest, ShardLogs};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchBuilder, BatchError, NewRecord, ProducerStamp};
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
    /// It cannot be read.
    #[error("metadata log: {0}")]
    Read(#[from] ReadError),
    /// It refuses a batch.
    #[error("metadata log: {0}")]
    Append(#[from] AppendError),
    /// A batch in it is damaged.
    #[error("metadata log at offset {offset}: {error}")]
    Batch {
        /// Where.
        offset: Offset,
        /// What is wrong.
        error: BatchError,
    },
    /// A record in it is not understood.
    #[error("metadata log at offset {offset}: {error}")]
    Record {
        /// Where.
        offset: Offset,
        /// What is wrong.
        error: RecordError,
    },
    /// A record in it does not fit those before it.
    #[error("metadata log at offset {offset}: {error}")]
    Apply {
        /// Where.
        offset: Offset,
        /// What is wrong.
        error: ApplyError,
    },
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
}

impl MetadataLog {
    /// Opens or creates it.
    pub(crate) async fn open(logs: &ShardLogs) -> Result<Self, MetadataLogError> {
        let partition = logs.create_partition(METADATA_PARTITION, METADATA_TOPIC, log_config()).await?;
        let leader_epoch = LeaderEpoch(partition.latest_epoch().0.saturating_add(1).max(0));
        partition.begin_epoch(leader_epoch);
        Ok(MetadataLog { partition, leader_epoch })
    }

    /// Number of records that it holds, about.
    pub(crate) fn record_count(&self) -> u64 {
        let watermarks = self.partition.watermarks().get();
        u64::try_from(watermarks.log_end_offset.0 - watermarks.log_start_offset.0).unwrap_or(0)
    }

    /// The image that its records make.
    pub(crate) async fn replay(&self) -> Result<MetadataImage, MetadataLogError> {
        let mut image = MetadataImage::default();
        let watermarks = self.partition.watermarks().get();
        let mut offset = watermarks.log_start_offset;
        while offset < watermarks.log_end_offset {
            let request = ReadRequest {
                offset,
                max_bytes: READ_BYTES,
                min_one_batch: true,
                upper_bound: watermarks.log_end_offset,
            };
            let data = self.partition.read(request).await?;
            apply_batches(&mut image, &data.chunks.concat(), offset)?;
            assert!(data.next_offset > offset, "a read below the end of the log gives a batch");
            offset = data.next_offset;
        }
        image.end_of_log();
        Ok(image)
    }

    /// Appends the records of one decision as one batch, and waits until they are durable.
    pub(crate) async fn append(&self, records: &[Record], now: Timestamp) -> Result<(), MetadataLogError> {
        let encoded: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        self.append_batch(&encoded, now).await
    }

    /// Appends a snapshot, waits until it is durable, and drops what came before it.
    pub(crate) async fn snapshot(
        &self,
        image: &MetadataImage,
        now: Timestamp,
    ) -> Result<(), MetadataLogError> {
        let begin = self.partition.watermarks().get().log_end_offset;
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
        self.partition.delete_records_before(begin).await?;
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

/// Applies every record of `batches`, from `offset` on.
fn apply_batches(image: &mut MetadataImage, batches: &[u8], offset: Offset) -> Result<(), MetadataLogError> {
    for header in batch::headers(batches) {
        let (at, header) = header.map_err(|error| MetadataLogError::Batch { offset, error })?;
        // A snapshot begins a batch, and so does what is left of the log after it.
        let base_offset = header.base_offset;
        let body = &batches[at + BATCH_HEADER_BYTES..at + header.size_bytes];
        for record in records(body) {
            let record = record.map_err(|error| MetadataLogError::Batch { offset: base_offset, error })?;
            let offset = Offset(base_offset.0 + i64::from(record.offset_delta));
            let decoded = Record::decode(record.value.unwrap_or_default())
                .map_err(|error| MetadataLogError::Record { offset, error })?;
            image.apply(&decoded).map_err(|error| MetadataLogError::Apply { offset, error })?;
        }
    }
    Ok(())
}

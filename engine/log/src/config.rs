//! Settings of a log and of a shard. Names and defaults are Kafka's where Kafka has the setting.

use std::time::Duration;

use highwater_model::compression::Compression;

/// What a record's timestamp means (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The moment of appending.
    LogAppendTime,
}

/// The codec in which batches are stored, whatever their producer used (`compression.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCompression {
    /// The codec.
    pub codec: Compression,
    /// `compression.gzip.level`, `compression.zstd.level`: the codec's own kind of level; `None` for its default.
    pub level: Option<i32>,
}

/// Settings of one partition's log; each may change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is rolled before it grows beyond.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is rolled before a record whose timestamp is later than its first batch's by more than this.
    pub segment_ms: Duration,
    /// `retention.bytes`: whole segments go from the start while the log is larger; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`: whole segments go when their newest record is older; `None` for no limit.
    pub retention_ms: Option<Duration>,
    /// `flush.messages`: the append that brings the unflushed messages to this number waits for the flush, and so does
    /// its ack. 1 makes every ack durable and is the default; `u64::MAX` leaves flushing to time or to nobody.
    pub flush_messages: u64,
    /// `flush.ms`: a message is flushed at most this long after it was appended; `None` for never by time.
    pub flush_ms: Option<Duration>,
    /// `max.message.bytes`: largest batch that is accepted.
    pub max_message_bytes: usize,
    /// `index.interval.bytes`: distance of entries in the sparse index.
    pub index_interval_bytes: u64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a record's timestamp may lie in the past; `None` for any.
    pub message_timestamp_before_max_ms: Option<Duration>,
    /// `message.timestamp.after.max.ms`: how far a record's timestamp may lie in the future; `None` for any.
    pub message_timestamp_after_max_ms: Option<Duration>,
    /// Whether `cleanup.policy` includes `delete`.
    pub delete_enabled: bool,
    /// Whether `cleanup.policy` includes `compact`: of each key only the last record stays.
    pub compact_enabled: bool,
    /// `min.cleanable.dirty.ratio`, in millionths: compaction begins where more of the log is dirty.
    pub min_cleanable_dirty_ppm: u32,
    /// `min.compaction.lag.ms`: segments with younger records are not compacted.
    pub min_compaction_lag: Duration,
    /// `max.compaction.lag.ms`: a record is rolled and compacted after this time, however little is dirty; `None` for never.
    pub max_compaction_lag: Option<Duration>,
    /// `delete.retention.ms`: how long compaction keeps a tombstone.
    pub delete_retention: Duration,
    /// `segment.jitter.ms`: segments are rolled up to this much before `segment.ms`, so that not all are at once.
    pub segment_jitter: Duration,
    /// `segment.index.bytes`: a segment is rolled when its index is as large.
    pub segment_index_bytes: u64,
    /// `compression.type`; `None` for `producer`, which leaves batches as they came.
    pub compression: Option<StoredCompression>,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: Duration::from_hours(168),
            retention_bytes: None,
            retention_ms: Some(Duration::from_hours(168)),
            flush_messages: 1,
            flush_ms: None,
            max_message_bytes: 1_048_588,
            index_interval_bytes: 4096,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: None,
            message_timestamp_after_max_ms: Some(Duration::from_hours(1)),
            delete_enabled: true,
            compact_enabled: false,
            min_cleanable_dirty_ppm: 500_000,
            min_compaction_lag: Duration::ZERO,
            max_compaction_lag: None,
            delete_retention: Duration::from_hours(24),
            segment_jitter: Duration::ZERO,
            segment_index_bytes: 10 << 20,
            compression: None,
        }
    }
}

impl LogConfig {
    /// After what time of its records a segment is rolled. The jitter of a segment is always the same, and a number from 0 on.
    pub(crate) fn roll_after(&self, jitter: u64) -> Duration {
        let after = match self.max_compaction_lag {
            Some(lag) if self.compact_enabled && !lag.is_zero() => self.segment_ms.min(lag),
            _ => self.segment_ms,
        };
        let most = self.segment_jitter.min(after).as_millis();
        let millis = u64::try_from(most).ok().filter(|most| *most > 0).map_or(0, |most| jitter % most);
        after - Duration::from_millis(millis)
    }

    /// Whether every acknowledged append is durable.
    #[must_use]
    pub fn is_durable_ack(&self) -> bool {
        self.flush_messages <= 1
    }
}

/// Settings of a shard's storage: its journal, its memory, its housekeeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardConfig {
    /// Size in bytes of each journal file. A batch above a quarter of it is refused (MESSAGE_TOO_LARGE).
    pub journal_file_bytes: u64,
    /// Number of journal files a shard may use, at least 2. When all are in use, appends wait for a checkpoint.
    pub journal_max_files: usize,
    /// A checkpoint is made after this many bytes of journal.
    pub checkpoint_interval_bytes: u64,
    /// A journal group takes no further append beyond this size in bytes.
    pub group_max_bytes: usize,
    /// Appends of so many bytes are placed in their group as they will lie in the segment, behind a gap below a block, and
    /// written there without a copy, unless gaps would be more than a sixteenth of the group.
    pub aligned_append_bytes: usize,
    /// Where no setting asks for a flush, the journal is flushed after this many bytes: only durable groups can be
    /// written behind.
    pub unflushed_max_bytes: u64,
    /// Bound in bytes of the memory that holds groups and the hot tail.
    pub hot_tail_bytes: usize,
    /// Size in bytes of the chunks in which the hot tail is written behind into segments.
    pub chunk_bytes: usize,
    /// Chunks that may be in flight at once.
    pub chunks_in_flight: usize,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval: Duration,
    /// `producer.id.expiration.ms`: idle producers are forgotten after this time.
    pub producer_id_expiration: Duration,
    /// Most idempotent producers that one partition remembers; the longest silent goes first.
    pub max_producers_per_partition: usize,
    /// Most that all partitions of a shard remember together: with so many, a partition forgets one for each that is new to it,
    /// as soon as it remembers 16. Each checkpoint writes all of them, at about 50 to 150 bytes each.
    pub max_producers: usize,
    /// Whether compaction runs by itself (`log.cleaner.enable`).
    pub cleaner_enabled: bool,
    /// `log.cleaner.backoff.ms`: how often it looks for something to do.
    pub cleaner_backoff: Duration,
    /// `log.cleaner.io.max.bytes.per.second`: bound of what compaction reads and writes; `None` for none.
    pub cleaner_io_max_bytes_per_second: Option<u64>,
    /// `log.cleaner.dedupe.buffer.size`: memory in bytes for the keys of one pass, taken only while one runs. Where they do
    /// not fit, more passes are made.
    pub cleaner_dedupe_buffer_bytes: usize,
    /// Most descriptors of segments that stay open. More are open only for as long as more are in use at once; with fewer
    /// than are written to in turn, segments are flushed more often than checkpoints ask for.
    pub max_open_segments: usize,
    /// Whether direct I/O is used where the file system has it (otherwise the page cache, with `fdatasync`).
    pub direct_io: bool,
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            journal_file_bytes: 64 << 20,
            journal_max_files: 8,
            checkpoint_interval_bytes: 128 << 20,
            group_max_bytes: 2 << 20,
            aligned_append_bytes: 8 << 10,
            unflushed_max_bytes: 16 << 20,
            hot_tail_bytes: 192 << 20,
            chunk_bytes: 256 << 10,
            chunks_in_flight: 8,
            retention_check_interval: Duration::from_mins(5),
            producer_id_expiration: Duration::from_hours(24),
            max_producers_per_partition: 10_000,
            max_producers: 500_000,
            cleaner_enabled: true,
            cleaner_backoff: Duration::from_secs(15),
            cleaner_io_max_bytes_per_second: None,
            cleaner_dedupe_buffer_bytes: 128 << 20,
            max_open_segments: 4_096,
            direct_io: true,
        }
    }
}

//! What can go wrong, in families of operations.

use std::path::PathBuf;
use std::sync::Arc;

use highwater_io::FileError;
use highwater_model::batch::BatchError;
use highwater_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// A log directory that cannot be opened. Each displays as a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the directory.
    #[error("{path}: another process uses this data directory; stop it first")]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// `meta.properties` says that this is not what we think it is.
    #[error("{path}: {why}")]
    NotOurs {
        /// The file or directory.
        path: PathBuf,
        /// What was found and what to do.
        why: String,
    },
    /// A file is damaged in a way that recovery does not repair.
    #[error("{path}: damaged at byte {position_bytes}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position_bytes: u64,
        /// What is wrong.
        what: String,
    },
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why storage has stopped accepting: latched, and shared by everyone who waits.
#[derive(Debug, Clone, thiserror::Error)]
#[error("storage is fenced: {cause}")]
pub struct StorageFailure {
    /// The first error, with file, position and errno.
    pub cause: Arc<str>,
}

/// An operation on a log that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A write or flush failed, now or before: nothing more is acknowledged from this journal or directory.
    #[error(transparent)]
    Storage(#[from] StorageFailure),
    /// The partition is fenced because recovery found damage in it.
    #[error("partition is fenced: {reason}")]
    Fenced {
        /// What was found.
        reason: Arc<str>,
    },
    /// No space is left for the batch; the log goes on when there is some.
    #[error("no space left in {path}")]
    OutOfSpace {
        /// The file that could not grow.
        path: Arc<str>,
    },
    /// No descriptor is left to open a file with; the log goes on when there is one.
    #[error("no descriptor is left to open {path}: raise the limit of open files (ulimit -n, LimitNOFILE)")]
    OutOfDescriptors {
        /// The file that could not be opened.
        path: Arc<str>,
    },
    /// The log cannot be read now where it is to be changed: the block that it ends in, which the first append after a start
    /// needs, or where it is to be cut. Nothing was changed, and the next one tries again.
    #[error("the log cannot be read where it is to be changed: {cause}")]
    Unreadable {
        /// The error, with file, position and errno.
        cause: Arc<str>,
    },
    /// Another topic's partition of the same name is still there.
    #[error("{path} belongs to another topic of this name, which is not deleted yet")]
    NameInUse {
        /// The directory.
        path: Arc<str>,
    },
    /// The partition was deleted, or the shard is closing.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// Whether it is a lack of space or of descriptors, which passes.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, LogError::OutOfSpace { .. } | LogError::OutOfDescriptors { .. })
    }
}

/// A batch that was not appended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log cannot take it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It is damaged or not well formed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A client may not send this kind of batch, or a replicated one begins below the end of the log.
    #[error("batch is refused: {0}")]
    InvalidRecord(&'static str),
    /// It is larger than `max.message.bytes`, or than the journal takes.
    #[error("batch of {size_bytes} bytes is larger than {limit_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A timestamp is outside what the topic allows.
    #[error("timestamp {timestamp} is out of range")]
    InvalidTimestamp {
        /// The timestamp in milliseconds.
        timestamp: i64,
    },
    /// A client's batch says that its timestamps are a broker's.
    #[error("a client may not send the timestamp type LogAppendTime")]
    InvalidTimestampType,
    /// The leader epoch is not the current one.
    #[error("leader epoch {requested} is not the current {current}")]
    FencedLeaderEpoch {
        /// As asked.
        requested: LeaderEpoch,
        /// As it is.
        current: LeaderEpoch,
    },
    /// The sequence does not follow the producer's last one.
    #[error("producer {producer_id} sent sequence {sequence}, expected {expected}")]
    OutOfOrderSequence {
        /// Producer.
        producer_id: ProducerId,
        /// As sent.
        sequence: Sequence,
        /// As expected.
        expected: Sequence,
    },
    /// A newer epoch of this producer has been seen.
    #[error("producer {producer_id} has epoch {current}, the batch says {requested}")]
    InvalidProducerEpoch {
        /// Producer.
        producer_id: ProducerId,
        /// As sent.
        requested: ProducerEpoch,
        /// As known.
        current: ProducerEpoch,
    },
    /// Nothing is known of this producer, yet the sequence does not start at 0.
    #[error("producer {producer_id} is not known here")]
    UnknownProducer {
        /// Producer.
        producer_id: ProducerId,
    },
}

/// A read that gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The offset lies before the log's start or after its end.
    #[error("offset {offset} is outside {log_start_offset}..={log_end_offset}")]
    OffsetOutOfRange {
        /// As asked.
        offset: Offset,
        /// First offset in the log.
        log_start_offset: Offset,
        /// Next offset to be written.
        log_end_offset: Offset,
    },
    /// The bytes on the medium are not what was written. Never served.
    #[error("{path}: damaged at byte {position_bytes}: {what}")]
    Corrupt {
        /// Segment.
        path: Arc<str>,
        /// Where in it.
        position_bytes: u64,
        /// What is wrong.
        what: Arc<str>,
    },
    /// The file system failed.
    #[error("read failed: {cause}")]
    Io {
        /// The error, with file, position and errno.
        cause: Arc<str>,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

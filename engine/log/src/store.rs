//! The log as a storage backend: a [`Store`] opens a directory on a thread of its own, and its [`Log`]s are used from
//! any thread or executor.
//!
//! ```text
//!   your threads, your tasks                     the store's thread (one shard: one ring, one journal)
//!   Log::append ── bounded by `buffer_memory` ─▶ gather: records of a moment become one batch (`batch_size`, `linger`)
//!   Ack         ◀── as safe as `flush_messages` ─ Partition::append, journal group, flush
//!   Log::read   ─────────────────────────────▶ Partition::read: hot tail or segment, checksums looked at
//! ```
//!
//! ```
//! use highwater_log::store::{NewRecord, Store, StoreOptions, Wait};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path().join("log");
//! let store = Store::open(&dir, StoreOptions::default())?;
//! let events = store.log("events", 0).wait()?;
//! let ack = events.append(NewRecord::value("signed up")).wait()?; // in the buffer
//! let offset = ack.wait()?.offset; //                               on the medium: survives a power cut
//! let read = events.read(offset, 1 << 20).wait()?;
//! assert_eq!(read.records[0].value.as_deref(), Some(&b"signed up"[..]));
//! store.close().wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! The crate's [front page](crate) goes through everything that a log can do.
//!
//! Every operation is a future for any executor; [`Wait::wait`] blocks a plain thread on it instead. Every one ends with
//! [`StoreError::Closed`] once the store is closed or dropped.
//!
//! Invariants: an [`Ack`] resolves once its record is as safe as the log's `flush.messages` promises (1, the default: it
//! survives power loss); records of one log are stored in the order in which they were appended; a reader sees nothing
//! that a power cut could take back, unless the log acknowledges without a flush.
//!
//! Deliberately absent: several shards, replication, idempotent producers: whoever needs them talks to a broker.

mod calls;
mod gather;
mod record;
mod serve;
mod tail;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use highwater_io::mailbox::{self, Reply};
use highwater_io::{Runtime, RuntimeConfig, StartError, block_on, block_on_timeout};
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use crate::dir::OpenOptions;
use crate::error::{AppendError, LogError, OpenError, ReadError};

use calls::Call;
use serve::{Command, Start, Waiting};

// Whoever embeds a store needs no other crate of ours.
pub use crate::config::{LogConfig, ShardConfig};
pub use crate::dir::RecoveryReport;
pub use crate::partition::{ReadData, TimestampOffset, Watermarks};
pub use highwater_io::DriverChoice;
pub use highwater_model::compression::Compression;
pub use highwater_model::{Offset, Timestamp, TopicPartition};
pub use record::{NewRecord, Record, Records};
pub use tail::Tail;

/// Commands that may wait for the store's thread; a sender waits for room.
const MAILBOX_SLOTS: usize = 4096;

/// How a [`Store`] works. The defaults are for records that must not be lost.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How files are reached. By itself by io_uring, and by a few threads where that is refused.
    pub driver: DriverChoice,
    /// Journal, memory and housekeeping.
    pub shard: ShardConfig,
    /// Settings of the logs, see [`Store::log_with`] for one log's own.
    pub log: LogConfig,
    /// `batch.size` in bytes: records of one log that wait together are stored as one batch up to this size. A larger
    /// record is a batch of its own.
    pub batch_size: usize,
    /// `linger.ms`: how long the first record of a batch waits for others. Zero waits for nobody: what arrives while
    /// [`max_in_flight`](Self::max_in_flight) batches are on their way becomes the next one.
    pub linger: Duration,
    /// Batches of one log that may be on their way to the medium at once, at least 1. While so many are, the next one waits
    /// until it is full, and no longer.
    pub max_in_flight: usize,
    /// `buffer.memory` in bytes: appended records that are not acknowledged yet take no more; `append` waits for room.
    pub buffer_memory: usize,
    /// `compression.type`: how batches are compressed.
    pub compression: Compression,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            driver: DriverChoice::Auto,
            shard: ShardConfig::default(),
            log: LogConfig::default(),
            batch_size: 64 << 10,
            linger: Duration::ZERO,
            max_in_flight: 5,
            buffer_memory: 32 << 20,
            compression: Compression::None,
        }
    }
}

/// What can go wrong with a [`Store`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store's thread cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A record was not stored, or may not have been ([`LogError::Storage`]).
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A read that gave nothing.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another operation on a log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Not the name of a log.
    #[error(
        "{name:?} is no log: a topic has 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_', '-', and a partition is \
         0 or more"
    )]
    InvalidName {
        /// Topic and partition.
        name: String,
    },
    /// The store was closed. Whether an append that waited for its ack is stored is not known.
    #[error("the store is closed")]
    Closed,
}

/// Blocks a plain thread on a future. Not for threads of an executor: await there.
pub trait Wait: Future + Sized {
    /// Waits for the output.
    fn wait(self) -> Self::Output {
        block_on(self)
    }

    /// Waits for the output for at most `duration`; `None` if it has not come by then. What was asked for may still be
    /// done: only the waiting ends.
    fn wait_timeout(self, duration: Duration) -> Option<Self::Output> {
        block_on_timeout(self, duration)
    }
}

impl<F: Future> Wait for F {}

/// What the handles share.
struct Shared {
    commands: mailbox::Sender<Command>,
    buffer: Arc<Semaphore>,
    buffer_memory: usize,
}

impl Shared {
    /// Has the store's thread do it.
    async fn call<T>(&self, call: Call<T>) -> Result<T, StoreError> {
        self.commands.send(call.command).await.map_err(|_| StoreError::Closed)?;
        call.reply.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// A directory of logs, on a thread of its own. Dropping it stops it cleanly, and blocks while it does.
pub struct Store {
    shared: Arc<Shared>,
    recovery: RecoveryReport,
    /// Dropped last: it asks the thread to stop, and waits.
    _runtime: Runtime,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("recovery", &self.recovery).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the directory at `path`, creating it if it is missing, and recovers what an unclean stop left. Blocks until
    /// that is done.
    ///
    /// # Errors
    /// [`StoreError::Start`], [`StoreError::Open`].
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Store, StoreError> {
        let buffer_memory = options.buffer_memory.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let (commands, receiver) = mailbox::channel(MAILBOX_SLOTS);
        let (opened, reply) = mailbox::oneshot();
        let config = RuntimeConfig {
            thread_name: "highwater-store".to_owned(),
            driver: options.driver,
            ..RuntimeConfig::default()
        };
        let start = Start { path: path.as_ref().to_owned(), options, commands: receiver, opened };
        let runtime = Runtime::start(&config, vec![start], serve::run)?;
        let recovery = block_on(reply).unwrap_or(Err(StoreError::Closed))?;
        let buffer = Arc::new(Semaphore::new(buffer_memory));
        Ok(Store {
            shared: Arc::new(Shared { commands, buffer, buffer_memory }),
            recovery,
            _runtime: runtime,
        })
    }

    /// What opening found and did: whether the last stop was clean, what was replayed from the journal, what was cut off its
    /// end (bytes that nobody was told are safe), and which logs are damaged and fenced.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Opens partition `partition` of `topic`, creating it if it is missing: durable when this resolves. The name follows
    /// Kafka's rules for topics (letters, digits, `.`, `_`, `-`, at most 249 of them), `partition` is 0 or more. Its settings
    /// are [`StoreOptions::log`], or what they were changed to since the store was opened.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`]; [`StoreError::Log`] when there is no space or descriptor left, or storage has failed.
    pub async fn log(&self, topic: &str, partition: i32) -> Result<Log, StoreError> {
        self.open_log(topic, partition, None).await
    }

    /// As [`log`](Self::log), with settings of its own, which hold until the store is closed: they are not stored, give them
    /// again after the next opening.
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub async fn log_with(&self, topic: &str, partition: i32, config: LogConfig) -> Result<Log, StoreError> {
        self.open_log(topic, partition, Some(config)).await
    }

    async fn open_log(
        &self,
        topic: &str,
        partition: i32,
        config: Option<LogConfig>,
    ) -> Result<Log, StoreError> {
        let id = self.shared.call(calls::open_log(topic.to_owned(), partition, config)).await?;
        Ok(Log { shared: Arc::clone(&self.shared), topic: topic.into(), id })
    }

    /// Names and partitions of all logs in the directory, in order, opened or not.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn logs(&self) -> Result<Vec<(String, i32)>, StoreError> {
        self.shared.call(calls::list()).await
    }

    /// Deletes a log with everything in it: durable when this resolves. What was appended before is acknowledged first. Its
    /// handles fail from then on, with [`LogError::Closed`] or [`StoreError::Closed`], and who waits for its next record is
    /// woken; a log of the same name may be opened anew.
    ///
    /// # Errors
    /// [`StoreError::Log`]; the log may then be deleted or not, which the next opening decides.
    pub async fn delete(&self, log: &Log) -> Result<(), StoreError> {
        self.shared.call(calls::delete(log.id)).await
    }

    /// Applies `retention_bytes` and `retention_ms` of every log now, instead of waiting for
    /// [`ShardConfig::retention_check_interval`]: whole segments go from the start, durably. The segment that is appended to
    /// stays, unless every record in it is older than `retention_ms`.
    ///
    /// # Errors
    /// [`StoreError::Log`], of the first log that failed.
    pub async fn apply_retention(&self) -> Result<(), StoreError> {
        self.shared.call(calls::apply_retention()).await
    }

    /// Compacts now every log with [`compact_enabled`](LogConfig::compact_enabled) that is dirty enough, instead of waiting
    /// for [`ShardConfig::cleaner_backoff`]: of each key only the last record stays, under its offset. The segment that is
    /// appended to is left alone, so a key may be in it once more. Reads go on meanwhile; a power cut leaves the log before
    /// or after each step.
    ///
    /// # Errors
    /// [`StoreError::Log`], of the first log that failed.
    pub async fn compact(&self) -> Result<(), StoreError> {
        self.shared.call(calls::compact()).await
    }

    /// Stops cleanly: what was appended is acknowledged, the journal drained, the directory marked clean, so that the
    /// next opening has nothing to recover.
    ///
    /// # Errors
    /// [`StoreError::Log`] and [`StoreError::Open`]: nothing acknowledged is lost, and the next opening recovers.
    pub async fn close(self) -> Result<(), StoreError> {
        let (sender, reply) = mailbox::oneshot();
        let sent = self.shared.commands.send(Command::Close(sender)).await;
        sent.map_err(|_| StoreError::Closed)?;
        reply.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Where a record was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its offset. Of records that were appended together, that of the first; the others follow without a gap.
    pub offset: Offset,
    /// Its timestamp, that of the first.
    pub timestamp: Timestamp,
}

/// Resolves when a record is as safe as its log's `flush.messages` promises: with 1, the default, it survives a power cut;
/// otherwise it survives a killed process. Dropping it changes nothing: the record is stored all the same.
///
/// An error says that the record is not stored, or with [`LogError::Storage`] and [`StoreError::Closed`] that this is not
/// known.
#[derive(Debug)]
#[must_use = "a record is not known to be stored until its ack resolves"]
pub struct Ack {
    reply: Reply<Result<Stored, StoreError>>,
}

impl Future for Ack {
    type Output = Result<Stored, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(cx).map(|reply| reply.unwrap_or(Err(StoreError::Closed)))
    }
}

/// One log: a partition of a topic. Cheap to clone, for any thread. It does not keep its store open.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    topic: Arc<str>,
    id: TopicPartition,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("topic", &self.topic).field("partition", &self.id.partition).finish()
    }
}

impl Log {
    /// Name of the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Topic id and partition index.
    #[must_use]
    pub fn id(&self) -> TopicPartition {
        self.id
    }

    /// Appends a record. Resolves when it is in the buffer, in order after everything this caller appended before; the
    /// [`Ack`] tells when it is stored. Waits while the buffer ([`StoreOptions::buffer_memory`]) is full.
    ///
    /// Records that wait together are stored together, and share one flush: append many, then wait for their acks, from one
    /// thread or from many.
    ///
    /// # Errors
    /// [`StoreError::Closed`]. What is wrong with the record itself is told by the [`Ack`], and concerns no other record.
    pub async fn append(&self, record: NewRecord) -> Result<Ack, StoreError> {
        self.append_together(SmallVec::from_buf([record])).await
    }

    /// Appends records that belong together: they are stored in one batch, so that after a crash either all are there or
    /// none, and a read gives them without others between them. The [`Ack`] has the offset of the first.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`AppendError::InvalidRecord`] without a record. The [`Ack`] tells of
    /// [`AppendError::TooLarge`] when they are more than [`LogConfig::max_message_bytes`] or a quarter of
    /// [`ShardConfig::journal_file_bytes`].
    pub async fn append_batch(
        &self,
        records: impl IntoIterator<Item = NewRecord>,
    ) -> Result<Ack, StoreError> {
        let records: SmallVec<[NewRecord; 1]> = records.into_iter().collect();
        if records.is_empty() {
            return Err(StoreError::Append(AppendError::InvalidRecord("it has no record")));
        }
        self.append_together(records).await
    }

    async fn append_together(&self, records: SmallVec<[NewRecord; 1]>) -> Result<Ack, StoreError> {
        let wanted: usize = records.iter().map(NewRecord::memory_bytes).sum();
        let wanted =
            u32::try_from(wanted.min(self.shared.buffer_memory)).expect("buffer_memory is clamped to it");
        let memory = Arc::clone(&self.shared.buffer).acquire_many_owned(wanted).await;
        let memory = memory.map_err(|_| StoreError::Closed)?;
        let (ack, reply) = mailbox::oneshot();
        let command = Command::Append { log: self.id, waiting: Waiting { records, ack, memory } };
        self.shared.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        Ok(Ack { reply })
    }

    /// Reads records from `offset` on, about `max_bytes` of batches, at least one batch if there is any. Empty at the end.
    /// Checksums are looked at.
    ///
    /// # Errors
    /// [`StoreError::Read`]: an offset beyond either end of the log; damage on the medium, which is never served.
    pub async fn read(&self, offset: Offset, max_bytes: usize) -> Result<Records, StoreError> {
        let data = self.read_batches(offset, max_bytes).await?;
        decode(&data, offset)
    }

    /// As [`read`](Self::read), as whole record batches in Kafka's format v2, as they are stored: nothing is decompressed
    /// or copied. The first may begin below `offset`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_batches(&self, offset: Offset, max_bytes: usize) -> Result<ReadData, StoreError> {
        self.shared.call(calls::read(self.id, offset, max_bytes)).await
    }

    /// As [`read`](Self::read), from the first record on whose timestamp is at or after `timestamp`: those behind it come in
    /// the order of the log, and may be older. Without such a record it is empty, and `next_offset` is the log's end.
    ///
    /// A `SystemTime` is made a [`Timestamp`] with `into()`. Retention or a truncation at the same time may overtake it, as
    /// any read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_from_time(
        &self,
        timestamp: impl Into<Timestamp>,
        max_bytes: usize,
    ) -> Result<Records, StoreError> {
        let call = calls::read_from_time(self.id, timestamp.into(), max_bytes);
        let (data, offset) = self.shared.call(call).await?;
        decode(&data, offset)
    }

    /// The first record at or after `timestamp` that can be read, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp: Timestamp,
    ) -> Result<Option<TimestampOffset>, StoreError> {
        self.shared.call(calls::offset_for_timestamp(self.id, timestamp)).await
    }

    /// Where the log starts, and how far it is written and durable.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn watermarks(&self) -> Result<Watermarks, StoreError> {
        self.shared.call(calls::watermarks(self.id)).await
    }

    /// Bytes of the log as it is stored, those that are still in memory and the journal included.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn size_bytes(&self) -> Result<u64, StoreError> {
        self.shared.call(calls::size_bytes(self.id)).await
    }

    /// Follows the log from `offset` on: everything that is there, then each record as it comes.
    #[must_use]
    pub fn tail(&self, offset: Offset) -> Tail {
        Tail::new(self.clone(), offset)
    }

    /// Waits until there is something to read at `offset`. [`tail`](Self::tail) does that, and reads.
    ///
    /// # Errors
    /// [`StoreError::Log`]: the log was deleted.
    pub async fn wait_for(&self, offset: Offset) -> Result<(), StoreError> {
        self.shared.call(calls::wait_for(self.id, offset)).await
    }

    /// Makes everything acknowledged so far durable, whatever `flush.messages` says: the flush of a log that acknowledges
    /// without one. It is one flush for all logs of the store.
    ///
    /// # Errors
    /// [`StoreError::Log`]: a flush failed, and nothing more is acknowledged by this store.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.call(calls::flush(self.id)).await
    }

    /// Moves the log's start up to `offset`, durably; whole segments below it are removed. An offset beyond the end counts
    /// as the end, one below the start changes nothing. Returns where it starts now.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn delete_before(&self, offset: Offset) -> Result<Offset, StoreError> {
        self.shared.call(calls::delete_before(self.id, offset)).await
    }

    /// Cuts the log's end, durably: the batch that holds `offset` goes, and everything after it. Returns where it ends now,
    /// at or below `offset`: records that were stored as one batch go together. Appends that are on their way are stored
    /// after it.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn truncate_to(&self, offset: Offset) -> Result<Offset, StoreError> {
        self.shared.call(calls::truncate_to(self.id, offset)).await
    }

    /// The log's settings.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn config(&self) -> Result<LogConfig, StoreError> {
        self.shared.call(calls::config(self.id)).await
    }

    /// Changes the log's settings; they take effect at once, and hold until the store is closed.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn set_config(&self, config: LogConfig) -> Result<(), StoreError> {
        self.shared.call(calls::set_config(self.id, config)).await
    }
}

fn decode(data: &ReadData, offset: Offset) -> Result<Records, StoreError> {
    Records::decode(data, offset).map_err(|error| StoreError::Append(AppendError::Batch(error)))
}

impl OpenOptions {
    fn for_store(options: &StoreOptions) -> Self {
        OpenOptions {
            shard: options.shard.clone(),
            default_log: options.log.clone(),
            ..OpenOptions::default()
        }
    }
}

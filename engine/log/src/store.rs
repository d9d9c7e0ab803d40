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
//! ```no_run
//! use highwater_log::store::{NewRecord, Store, StoreOptions, Wait};
//!
//! # fn main() -> Result<(), highwater_log::store::StoreError> {
//! let store = Store::open("/var/lib/app/log", StoreOptions::default())?;
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
//! Every operation is a future for any executor; [`Wait::wait`] blocks a plain thread on it instead.
//!
//! Invariants: an [`Ack`] resolves once its record is as safe as the log's `flush.messages` promises (1, the default: it
//! survives power loss); records of one log are stored in the order in which they were appended; a reader sees nothing
//! that a power cut could take back, unless the log acknowledges without a flush.
//!
//! Deliberately absent: several shards, replication, idempotent producers: whoever needs them talks to a broker.

mod gather;
mod record;
mod serve;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use highwater_io::mailbox::{self, Reply};
use highwater_io::{DriverChoice, Runtime, RuntimeConfig, StartError, block_on};
use highwater_model::compression::Compression;
use highwater_model::{Offset, Timestamp, TopicPartition};
use tokio::sync::Semaphore;

use crate::config::{LogConfig, ShardConfig};
use crate::dir::{OpenOptions, RecoveryReport};
use crate::error::{AppendError, LogError, OpenError, ReadError};
use crate::partition::{ReadData, ReadRequest, TimestampOffset, Watermarks};

use serve::{Command, Serving, Start, Waiting};

pub use record::{NewRecord, Record, Records};

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
    /// Batches of one log that may be on their way to the medium at once, at least 1.
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
}

impl<F: Future> Wait for F {}

/// What the handles share.
struct Shared {
    commands: mailbox::Sender<Command>,
    buffer: Arc<Semaphore>,
    buffer_memory: usize,
}

impl Shared {
    /// Runs `work` on the store's thread.
    async fn call<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(std::rc::Rc<Serving>) -> F + Send + 'static,
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let (sender, reply) = mailbox::oneshot();
        let command =
            Command::Call(Box::new(move |serving| Box::pin(async move { sender.send(work(serving).await) })));
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        reply.await.unwrap_or(Err(StoreError::Closed))
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

    /// What opening found and did.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Opens partition `partition` of `topic`, creating it if it is missing: durable when this resolves. The name follows
    /// Kafka's rules for topics (letters, digits, `.`, `_`, `-`, at most 249).
    ///
    /// # Errors
    /// [`StoreError::InvalidName`], [`StoreError::Log`].
    pub async fn log(&self, topic: &str, partition: i32) -> Result<Log, StoreError> {
        self.open_log(topic, partition, None).await
    }

    /// As [`log`](Self::log), with settings of its own, which hold until the store is closed.
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
        let name = topic.to_owned();
        let id = self
            .shared
            .call(move |serving| async move { serving.open_log(&name, partition, config).await })
            .await?;
        Ok(Log { shared: Arc::clone(&self.shared), topic: topic.into(), id })
    }

    /// Names and partitions of all logs, in order.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn logs(&self) -> Result<Vec<(String, i32)>, StoreError> {
        self.shared.call(|serving| async move { Ok(serving.list()) }).await
    }

    /// Deletes a log with everything in it: durable when this resolves. Its handles fail from then on.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn delete(&self, log: &Log) -> Result<(), StoreError> {
        let id = log.id;
        self.shared.call(move |serving| async move { serving.delete(id).await }).await
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
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
}

/// Resolves when a record is as safe as its log's `flush.messages` promises. Dropping it changes nothing: the record is
/// stored all the same.
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
    /// [`Ack`] tells when it is stored.
    ///
    /// # Errors
    /// [`StoreError::Closed`]. What is wrong with the record itself is told by the [`Ack`].
    pub async fn append(&self, record: NewRecord) -> Result<Ack, StoreError> {
        let wanted = record.memory_bytes().min(self.shared.buffer_memory);
        let wanted = u32::try_from(wanted).expect("buffer_memory is clamped to it");
        let memory = Arc::clone(&self.shared.buffer).acquire_many_owned(wanted).await;
        let memory = memory.map_err(|_| StoreError::Closed)?;
        let (ack, reply) = mailbox::oneshot();
        let command = Command::Append { log: self.id, waiting: Waiting { record, ack, memory } };
        self.shared.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        Ok(Ack { reply })
    }

    /// Reads records from `offset` on, about `max_bytes` of batches, at least one batch if there is any. Empty at the end.
    ///
    /// # Errors
    /// [`StoreError::Read`]: an offset beyond either end of the log; damage on the medium, which is never served.
    pub async fn read(&self, offset: Offset, max_bytes: usize) -> Result<Records, StoreError> {
        let data = self.read_batches(offset, max_bytes).await?;
        Records::decode(&data, offset).map_err(|error| StoreError::Append(AppendError::Batch(error)))
    }

    /// As [`read`](Self::read), as whole record batches in Kafka's format v2, as they are stored.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_batches(&self, offset: Offset, max_bytes: usize) -> Result<ReadData, StoreError> {
        let id = self.id;
        let read = move |serving: std::rc::Rc<Serving>| async move {
            let partition = serving.partition(id)?;
            let upper_bound = serve::visible_end(&partition);
            let request = ReadRequest { offset, max_bytes, min_one_batch: true, upper_bound };
            Ok(partition.read(request).await?)
        };
        self.shared.call(read).await
    }

    /// The first record at or after `timestamp`.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp: Timestamp,
    ) -> Result<Option<TimestampOffset>, StoreError> {
        let id = self.id;
        let find = move |serving: std::rc::Rc<Serving>| async move {
            Ok(serving.partition(id)?.offset_for_timestamp(timestamp).await?)
        };
        self.shared.call(find).await
    }

    /// Where the log starts, and how far it is written and durable.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn watermarks(&self) -> Result<Watermarks, StoreError> {
        let id = self.id;
        self.shared.call(move |serving| async move { Ok(serving.partition(id)?.watermarks().get()) }).await
    }

    /// Waits until there is something to read at `offset`: for readers that follow the end.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn wait_for(&self, offset: Offset) -> Result<(), StoreError> {
        let id = self.id;
        self.shared
            .call(move |serving| async move {
                let partition = serving.partition(id)?;
                let readable = |_: &Watermarks| (serve::visible_end(&partition) > offset).then_some(());
                partition.watermarks().wait_for(readable).await;
                Ok(())
            })
            .await
    }

    /// Makes everything acknowledged so far durable, whatever `flush.messages` says.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        let id = self.id;
        self.shared.call(move |serving| async move { Ok(serving.partition(id)?.flush().await?) }).await
    }

    /// Moves the log's start up to `offset`, durably; whole segments below it are removed. Returns where it starts now.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn delete_before(&self, offset: Offset) -> Result<Offset, StoreError> {
        let id = self.id;
        self.shared
            .call(
                move |serving| async move { Ok(serving.partition(id)?.delete_records_before(offset).await?) },
            )
            .await
    }

    /// Cuts the log so that it ends at `offset`, durably. Appends that are on their way are stored after it.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn truncate_to(&self, offset: Offset) -> Result<(), StoreError> {
        let id = self.id;
        self.shared
            .call(move |serving| async move { Ok(serving.partition(id)?.truncate_to(offset).await?) })
            .await
    }

    /// Changes the log's settings; they take effect at once, and hold until the store is closed.
    ///
    /// # Errors
    /// [`StoreError::Log`].
    pub async fn set_config(&self, config: LogConfig) -> Result<(), StoreError> {
        let id = self.id;
        self.shared
            .call(move |serving| async move {
                serving.partition(id)?.set_config(config);
                Ok(())
            })
            .await
    }
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

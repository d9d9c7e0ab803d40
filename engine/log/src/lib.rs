//! A shard's logs: the embeddable storage backend.
//!
//! # A tour
//!
//! A [`Store`](store::Store) is a directory of logs on a thread of its own: no broker, no other process. Its calls are futures
//! for any executor; on a plain thread [`wait`](store::Wait::wait) blocks on them. In `engine/log/examples` each of the
//! following is a program.
//!
//! ```
//! use highwater_log::store::{LogConfig, NewRecord, Offset, Store, StoreOptions, Wait};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path().join("log");
//! let store = Store::open(&dir, StoreOptions::default())?;
//! let log = store.log("events", 0).wait()?;
//!
//! // Append. The first wait is for room in the buffer, the second for the medium: what is acknowledged survives a power cut.
//! let stored = log.append(NewRecord::key_value("ann", "signed up")).wait()?.wait()?;
//! assert_eq!(stored.offset, Offset(0));
//!
//! // Many at once: append, then wait for the acks. What waits together is stored together, and shares a flush.
//! let acks: Vec<_> = (0..1000).map(|n| log.append(NewRecord::value(format!("{n}"))).wait()).collect::<Result<_, _>>()?;
//! for ack in acks {
//!     ack.wait()?;
//! }
//!
//! // All or none.
//! log.append_batch([NewRecord::value("debit"), NewRecord::value("credit")]).wait()?.wait()?;
//!
//! // Read from an offset on, about so many bytes at a time.
//! let found = log.read(Offset(1), 64 << 10).wait()?;
//! assert_eq!(found.records[0].value.as_deref(), Some(&b"0"[..]));
//! let more = log.read(found.next_offset, 64 << 10).wait()?;
//! # assert!(more.next_offset >= found.next_offset);
//!
//! // Or from a time on.
//! let yesterday = std::time::SystemTime::now() - std::time::Duration::from_hours(24);
//! assert_eq!(log.read_from_time(yesterday, 1).wait()?.records[0].offset, Offset(0));
//!
//! // Follow: what is there, then what comes.
//! let mut tail = log.tail(Offset(1001));
//! assert_eq!(tail.next().wait()?.records.len(), 2);
//!
//! // Give room back: by hand, or by size and age.
//! log.delete_before(Offset(500)).wait()?;
//! let week = std::time::Duration::from_hours(7 * 24);
//! log.set_config(LogConfig { retention_bytes: Some(1 << 30), retention_ms: Some(week), ..LogConfig::default() }).wait()?;
//!
//! // A log that keeps the last record of each key, and of deleted keys a tombstone for a while.
//! let compacted = LogConfig { compact_enabled: true, delete_enabled: false, ..LogConfig::default() };
//! let state = store.log_with("state", 0, compacted).wait()?;
//! state.append(NewRecord::key_value("ann", "42")).wait()?.wait()?;
//! state.append(NewRecord::tombstone("ann")).wait()?.wait()?;
//! store.compact().wait()?; // it happens by itself, too
//!
//! assert_eq!(store.logs().wait()?, [("events".to_owned(), 0), ("state".to_owned(), 0)]);
//! store.delete(&state).wait()?;
//! store.close().wait()?;
//!
//! // Open again: after a crash this replays the journal, and tells.
//! let store = Store::open(&dir, StoreOptions::default())?;
//! assert!(store.recovery().was_clean);
//! # Ok(())
//! # }
//! ```
//!
//! How safe an acknowledged record is, is the log's `flush_messages`:
//!
//! ```
//! # use highwater_log::store::{LogConfig, NewRecord, Store, StoreOptions, Wait};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
//! // Survives a killed process, and a power cut once it is flushed: at most a second later, or when somebody asks.
//! let relaxed = LogConfig {
//!     flush_messages: u64::MAX,
//!     flush_ms: Some(std::time::Duration::from_secs(1)),
//!     ..LogConfig::default()
//! };
//! let metrics = store.log_with("metrics", 0, relaxed).wait()?;
//! metrics.append(NewRecord::value("load 0.7")).wait()?.wait()?;
//! metrics.flush().wait()?;
//! let marks = metrics.watermarks().wait()?;
//! assert_eq!(marks.durable_offset, marks.log_end_offset);
//! # Ok(())
//! # }
//! ```
//!
//! With tokio, or any other executor, `await` stands for `wait`:
//!
//! ```
//! # use highwater_log::store::{NewRecord, Store, StoreError, StoreOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let log = store.log("events", 0).await?;
//! let stored = log.append(NewRecord::value("signed up")).await?.await?;
//! let found = log.tail(stored.offset).next().await?;
//! assert_eq!(found.records.len(), 1);
//! # Ok::<(), StoreError>(())
//! # })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! ```text
//!   append ──▶ journal group ──one write──▶ written ──flush──▶ durable ──▶ ack
//!                   │ (bytes stay in memory: the hot tail)
//!                   └──── write-behind, in large chunks ────▶ segments (Kafka's files)
//!                                                                │
//!                             checkpoint: everything up to here is in segments and flushed; the journal is reused
//! ```
//!
//! * [`store`]: all of it behind a few calls, for embedding.
//! * [`DataDir`] opens, locks and recovers a directory and gives each shard its part.
//! * [`ShardLogs`] has the partitions of one shard; [`Partition`] appends, reads, cuts.
//! * `journal` (group commit), `partition` (one log), `drain` (write-behind), `checkpoint`, `recovery`, `compaction`.
//! * [`verify`] checks a directory that nobody uses; [`salvage`] gives its fenced partitions their way out.
//! * [`mutants`]: the ways in which a test build can be made to lie.
//!
//! Invariants, each asserted where it is kept:
//!
//! * What is acknowledged under `flush.messages=1` survives power loss; what is acknowledged otherwise survives a killed
//!   process.
//! * `log_start_offset ≤ durable_offset ≤ log_end_offset`; the log's end comes from checkpoint and journal alone.
//! * After the first failed write or flush of a journal nothing completes successfully from it.
//!
//! Deliberately absent: replication, high watermarks, request handling; any clock, file or random number that does not
//! come through `highwater-io`.

mod checkpoint;
mod compaction;
mod config;
mod dir;
mod drain;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod golden;
mod journal;
mod kafka_files;
pub mod mutants;
mod partition;
mod recovery;
pub mod salvage;
mod shard;
pub mod store;
pub mod verify;

pub use config::{LogConfig, ShardConfig, StoredCompression, TimestampType};
pub use dir::{DataDir, FoundPartition, Identity, MetadataPlace, OpenOptions, RecoveryReport, ShardSeed};
pub use error::{AppendError, LogError, OpenError, ReadError, StorageFailure};
pub use journal::JournalCounters;
pub use partition::{Appended, Origin, Partition, ReadData, ReadRequest, TimestampOffset, Watermarks};
pub use shard::{NewPartition, ShardLogs};

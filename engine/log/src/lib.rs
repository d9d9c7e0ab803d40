//! A shard's logs: the embeddable storage backend.
//!
//! ```text
//!   append ──▶ journal group ──one write──▶ written ──flush──▶ durable ──▶ ack
//!                   │ (bytes stay in memory: the hot tail)
//!                   └──── write-behind, in large chunks ────▶ segments (Kafka's files)
//!                                                                │
//!                             checkpoint: everything up to here is in segments and flushed; the journal is reused
//! ```
//!
//! * [`store`]: all of it behind a few calls, for embedding; start there.
//! * [`DataDir`] opens, locks and recovers a directory and gives each shard its part.
//! * [`ShardLogs`] has the partitions of one shard; [`Partition`] appends, reads, cuts.
//! * `journal` (group commit), `partition` (one log), `drain` (write-behind), `checkpoint`, `recovery`, `compaction`.
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
mod shard;
pub mod store;
pub mod verify;

pub use config::{LogConfig, ShardConfig, StoredCompression, TimestampType};
pub use dir::{DataDir, FoundPartition, OpenOptions, RecoveryReport, ShardSeed};
pub use error::{AppendError, LogError, OpenError, ReadError, StorageFailure};
pub use journal::JournalCounters;
pub use partition::{Appended, Origin, Partition, ReadData, ReadRequest, TimestampOffset, Watermarks};
pub use shard::ShardLogs;

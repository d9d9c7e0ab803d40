//! The stand-in: the smallest broker that the harness can drive, and one that can be told to lie.
//!
//! It has two uses. Keeping nothing, it is the null broker against which the client's own ceiling is measured. Keeping
//! plain files, it is the broker of the harness's own tests: honest, it must be found honest; told to lie in one of the
//! ways in which brokers lose records ([`Lie`]), it must be found out, or the harness is worth nothing.
//!
//! * [`store`]: topics, one file a partition.
//! * [`serve`]: connections and requests.
//!
//! Deliberately absent: replication, groups, transactions, retention, indexes on disk, and any effort to be fast with
//! files. One thread a connection, of which there are few.

mod serve;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use serve::serve;

/// What the stand-in does with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// Counts them and lets them go.
    Nothing,
    /// Appends them to one file a partition.
    Files,
}

/// How the stand-in betrays its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lie {
    /// It does not.
    None,
    /// Acknowledges records that it has yet to write.
    AckBeforeWrite,
    /// Acknowledges what should have been flushed, without flushing.
    SkipFlush,
    /// Cuts a partition's last batch when it starts on existing files.
    TruncateRecovery,
    /// Appends every tenth batch twice.
    Duplicate,
    /// Does not start on existing files.
    NoReturn,
    /// Answers with an error for the first batch of every partition that it finds when it starts.
    RefuseBatch,
    /// Answers with an error for everything of partition 0 if there is something in it when it starts.
    FencePartition,
    /// Ends when it is first asked for records.
    EndAtFetch,
}

/// How to run a stand-in.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub listen: SocketAddr,
    /// Where the files go; unused with --keep nothing.
    #[arg(long, default_value = ".")]
    pub data_dir: PathBuf,
    /// What becomes of records.
    #[arg(long, value_enum, default_value_t = Keep::Files)]
    pub keep: Keep,
    /// How it betrays its clients.
    #[arg(long, value_enum, default_value_t = Lie::None)]
    pub lie: Lie,
}

//! The engines, each as its own documentation says that it is used best for this.

mod fjall;
mod highwater;
mod nodedb_wal;
mod redb;
mod sqlite;
mod wal_db;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

/// Takes each record that is read; `false` is enough.
pub type Each<'a> = &'a mut dyn FnMut(&[u8]) -> Result<bool>;

/// A log of records, for many threads. Dropped, it stops cleanly.
pub trait Engine: Send + Sync {
    /// Stores a record: on the medium when this returns.
    fn append(&self, record: &[u8]) -> Result<()>;

    /// Stores a record sometime: no flush is waited for.
    fn append_unflushed(&self, record: &[u8]) -> Result<()>;

    /// Waits until everything that was appended is taken by the engine or the system, flushed or not.
    fn settle(&self) -> Result<()>;

    /// Reads from the start.
    fn read(&self, each: Each<'_>) -> Result<()>;
}

/// What an engine is to do with records, where it is a setting of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Acknowledged records survive a power cut.
    Durable,
    /// Nothing is flushed for an acknowledgement.
    Unflushed,
}

macro_rules! kinds {
    ($($kind:ident = $name:literal, $open:expr, $version:literal, $configured:literal;)*) => {
        /// An engine and the way in which it is used.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// The crate that it is.
            pub fn package(self) -> &'static str {
                match self { $(Kind::$kind => $version,)* }
            }

            /// How it is used, in a sentence.
            pub fn configured(self) -> &'static str {
                match self { $(Kind::$kind => $configured,)* }
            }

            /// Opens the directory, or makes it.
            pub fn open(self, dir: &Path, promise: Promise) -> Result<Box<dyn Engine>> {
                match self { $(Kind::$kind => $open(dir, promise),)* }
            }
        }
    };
}

kinds! {
    Highwater = "highwater", highwater::open, "highwater-log",
        "Store with its defaults (flush.messages=1; unflushed: never by itself, at most 4096 acks outstanding), one log";
    WalDb = "wal-db", wal_db::open, "wal-db",
        "Wal with its defaults, append and then sync, which is its group commit; unflushed: append";
    NodedbWal = "nodedb-wal", nodedb_wal::open, "nodedb-wal",
        "WalWriter under its GroupCommitter (unflushed: append), with its double-write buffer, without O_DIRECT: with it, the readers \
         of 0.4 find only the first flush; 0.6 wants a newer Rust";
    Redb = "redb", redb::open_single, "redb",
        "a transaction a record, Durability::Immediate (unflushed: None), sequential keys";
    RedbBatched = "redb-batched", redb::open_batched, "redb",
        "as redb, but one thread commits what waits together as one transaction, as its documentation advises";
    Fjall = "fjall", fjall::open_single, "fjall",
        "insert and persist(SyncData) (unflushed: insert), no compression, sequential keys";
    FjallBatched = "fjall-batched", fjall::open_batched, "fjall",
        "as fjall, but one thread commits what waits together as one batch with PersistMode::SyncData";
    Sqlite = "sqlite", sqlite::open_single, "rusqlite",
        "journal_mode=WAL, synchronous=FULL (unflushed: NORMAL), a prepared INSERT a transaction, one connection";
    SqliteBatched = "sqlite-batched", sqlite::open_batched, "rusqlite",
        "as sqlite, but one thread commits what waits together as one transaction, as its documentation advises";
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match Kind::ALL.iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(*kind),
            None => {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                bail!("there is no engine {name}, but {}", names.join(", "))
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

//! Fuzz targets for every decoder of bytes that come from the wire or from the disk.
//!
//! A target is a function of bytes: it feeds them to one decoder (or to a whole directory, or a whole broker, on the
//! simulated driver), and asserts what must hold of anything that is accepted. It returns how far the bytes came, so
//! that tests can tell a target that tests nothing.
//!
//! | target | decoder |
//! |---|---|
//! | `request` | frames of every API and version that is served |
//! | `response` | what a client decodes |
//! | `client-frames` | the client's cut of a stream into frames |
//! | `batch` | record batches: headers, checksums, records, decompression |
//! | `metadata` | metadata records, and the image that they make |
//! | `log-files` | checkpoint, journal header and entries, indexes, snapshots, small texts, each by itself |
//! | `journal` | a data directory of ours: checkpoint, journal and segments as the bytes say, opened and used |
//! | `kafka-dir` | a directory as Apache Kafka leaves it, opened and used |
//! | `connection` | bytes on a connection of a broker that goes on serving others |
//!
//! `scripts/fuzz` runs them under libFuzzer (the binary `highwater-fuzz`), starting from [`Target::seeds`].
//!
//! Deliberately absent: any knowledge of the engine's internals. The bytes of our own files are made anew after
//! `docs/format.md` (`format`), so that the document is checked as well.

mod format;
mod source;
mod targets;

use std::fmt;

/// How far bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// The decoder refused them.
    Refused,
    /// They were decoded to something.
    Accepted,
}

impl Reached {
    fn accepted_if(accepted: bool) -> Self {
        if accepted { Reached::Accepted } else { Reached::Refused }
    }
}

/// Something to fuzz.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Feeds bytes to it; panics where something is wrong.
    pub run: fn(&[u8]) -> Reached,
    /// Bytes that are accepted, to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Most bytes of memory that an input may make it hold, beyond [`BYTES_PER_BYTE`] for each of the input's.
    pub memory_bytes: usize,
}

/// Memory in bytes that each byte of an input may cost.
pub const BYTES_PER_BYTE: usize = 256;

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "request",
        run: targets::request::run,
        seeds: targets::request::seeds,
        memory_bytes: 64 << 10,
    },
    Target {
        name: "response",
        run: targets::response::run,
        seeds: targets::response::seeds,
        memory_bytes: 64 << 10,
    },
    Target {
        name: "client-frames",
        run: targets::client_frames::run,
        seeds: targets::client_frames::seeds,
        memory_bytes: 2 << 20,
    },
    // The window of a codec.
    Target { name: "batch", run: targets::batch::run, seeds: targets::batch::seeds, memory_bytes: 32 << 20 },
    Target {
        name: "metadata",
        run: targets::metadata::run,
        seeds: targets::metadata::seeds,
        memory_bytes: 64 << 10,
    },
    Target {
        name: "log-files",
        run: targets::log_files::run,
        seeds: targets::log_files::seeds,
        memory_bytes: 64 << 10,
    },
    // A simulated world with its disk and an open log in it.
    Target {
        name: "journal",
        run: targets::journal::run,
        seeds: targets::journal::seeds,
        memory_bytes: 64 << 20,
    },
    Target {
        name: "kafka-dir",
        run: targets::kafka_dir::run,
        seeds: targets::kafka_dir::seeds,
        memory_bytes: 64 << 20,
    },
    Target {
        name: "connection",
        run: targets::connection::run,
        seeds: targets::connection::seeds,
        memory_bytes: 256 << 20,
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

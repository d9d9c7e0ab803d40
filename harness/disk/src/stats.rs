//! What a disk reports about itself, so that a verdict on a lost record can say what was flushed when.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::fault::CutMode;

/// An instant on both clocks of the machine, comparable between all its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Nanoseconds since 1970 (`CLOCK_REALTIME`).
    pub unix_ns: u64,
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`): the one to subtract.
    pub monotonic_ns: u64,
}

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
        };
        Self { unix_ns: read(ClockId::Realtime), monotonic_ns: read(ClockId::Monotonic) }
    }
}

/// Where a disk stands between power on and power on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// Mounted and serving.
    On,
    /// The switch is off. Whoever does I/O hangs.
    Cut,
    /// The switch is off and hung I/O has failed with EIO (after an OS crash: was carried out).
    Released,
    /// Off, unmounted and detached.
    Detached,
}

impl PowerState {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Cut => "cut, with its I/O hanging",
            Self::Released => "cut, with its I/O released",
            Self::Detached => "off and detached",
        }
    }
}

/// How a flush ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushOutcome {
    /// What was written before is durable.
    Persisted,
    /// Success was reported and nothing done.
    Lied,
    /// EIO was reported; the cache was kept.
    Failed,
    /// EIO was reported; the cache was lost.
    FailedCacheLost,
}

/// One flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushRecord {
    /// Counted from one.
    pub number: u64,
    /// When it reached the disk.
    pub arrived: Stamp,
    /// When its outcome was fixed, just before the reply.
    pub finished: Stamp,
    /// How it ended.
    pub outcome: FlushOutcome,
    /// How many 512-byte sectors it made durable (or lost).
    pub sectors: u64,
}

/// What a cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    /// As asked.
    pub mode: CutMode,
    /// When the switch went off: nothing that arrived later was done.
    pub at: Stamp,
    /// Unflushed sectors that are gone.
    pub dropped_sectors: u64,
    /// Unflushed sectors that survived, in one of their versions.
    pub kept_sectors: u64,
    /// Blocks that were interrupted midway.
    pub shorn_blocks: u64,
    /// Durable sectors that were damaged with them.
    pub damaged_sectors: u64,
    /// Write requests since the last flush that persisted.
    pub unflushed_writes: u64,
    /// When the first of them came.
    pub oldest_unflushed_write: Option<Stamp>,
    /// The last flush before the cut.
    pub last_flush: Option<FlushRecord>,
    /// Requests that had arrived but were not answered, because of a delay or a stall.
    pub requests_in_flight: u64,
}

impl CutReport {
    /// Of a disk that does not see its writes.
    pub(crate) fn without_device(mode: CutMode) -> Self {
        Self {
            mode,
            at: Stamp::now(),
            dropped_sectors: 0,
            kept_sectors: 0,
            shorn_blocks: 0,
            damaged_sectors: 0,
            unflushed_writes: 0,
            oldest_unflushed_write: None,
            last_flush: None,
            requests_in_flight: 0,
        }
    }
}

/// Counters of a disk since it was made, save where it says otherwise. A plain loop device knows only its power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Where the disk stands.
    pub power: PowerState,
    /// Whether its I/O is stalled by command.
    pub stalled: bool,
    /// Reads carried out.
    pub reads: u64,
    /// Bytes that they returned.
    pub bytes_read: u64,
    /// Writes carried out.
    pub writes: u64,
    /// Bytes that they carried.
    pub bytes_written: u64,
    /// Flushes that came to an end, whatever their outcome.
    pub flushes: u64,
    /// Of these, those that lied.
    pub flushes_lied: u64,
    /// Reads, writes and flushes that failed by a fault rule.
    pub injected_errors: u64,
    /// Unflushed 512-byte sectors now in the cache.
    pub cached_sectors: u64,
    /// Sectors written out early because the cache was full: they survive a cut without a flush.
    pub destaged_sectors: u64,
    /// Requests now waiting: hung by a cut, stalled or delayed.
    pub waiting_requests: u64,
    /// Write requests since the last flush that persisted.
    pub unflushed_writes: u64,
    /// When the first of them came.
    pub oldest_unflushed_write: Option<Stamp>,
    /// When the last write was carried out.
    pub last_write: Option<Stamp>,
    /// The last flushes, oldest first, at most [`RECENT_FLUSHES`].
    pub recent_flushes: Vec<FlushRecord>,
    /// The last cut.
    pub last_cut: Option<CutReport>,
    /// Why the disk stopped recording, if it did.
    pub recording_error: Option<String>,
    /// Why the medium cannot be trusted any longer (its own image failed, as on a full host): a failure of
    /// this tool, never an injected one. All I/O fails with EIO from then on.
    pub medium_error: Option<String>,
}

impl Stats {
    /// Of a disk that does not see its requests.
    pub(crate) fn without_device(power: PowerState) -> Self {
        Self {
            power,
            stalled: false,
            reads: 0,
            bytes_read: 0,
            writes: 0,
            bytes_written: 0,
            flushes: 0,
            flushes_lied: 0,
            injected_errors: 0,
            cached_sectors: 0,
            destaged_sectors: 0,
            waiting_requests: 0,
            unflushed_writes: 0,
            oldest_unflushed_write: None,
            last_write: None,
            recent_flushes: Vec::new(),
            last_cut: None,
            recording_error: None,
            medium_error: None,
        }
    }
}

/// How many flushes [`Stats::recent_flushes`] remembers.
pub const RECENT_FLUSHES: usize = 64;

//! What was done to the brokers, and when.

use crate::units::{Nanos, Offset, PartitionIndex};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a broker, its disk or its network was hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// SIGKILL: memory of the process gone, page cache kept.
    ProcessKill,
    /// Page cache and the disk's own cache gone; one flush persists the whole device.
    PowerCut,
    /// The same, where a flush persists its file only, and a name only its directory's.
    PowerCutEachFlush,
    /// Page cache gone, the disk's own cache kept.
    SystemCrash,
    /// A power cut that tears or reorders the last writes.
    TornWrite,
    /// No space left.
    DiskFull,
    /// A write or a flush fails with EIO.
    DiskError,
    /// A flush that reports success and did nothing, then a power cut.
    LyingFlush,
    /// Writes and flushes take far longer.
    SlowDisk,
    /// Writes and flushes stand still for a while.
    StalledDisk,
    /// The leader cannot reach the others.
    NetworkPartition,
    /// SIGSTOP beyond the session time-out, then SIGCONT.
    Pause,
    /// Bits of a closed file flipped while the broker was down.
    BitRot,
    /// The broker's clock jumped.
    ClockJump,
    /// Leadership moved on command or by a clean stop.
    LeaderChange,
    /// The active controller was killed.
    ControllerLoss,
}

impl FaultKind {
    /// Whether memory that was not flushed is gone, so that an ack after the stamped instant may come
    /// from a broker that does not know yet.
    #[must_use]
    pub const fn cuts_power(self) -> bool {
        matches!(
            self,
            Self::PowerCut | Self::PowerCutEachFlush | Self::SystemCrash | Self::TornWrite | Self::LyingFlush
        )
    }

    /// In words, singular.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::ProcessKill => "process kill",
            Self::PowerCut => "power cut",
            Self::PowerCutEachFlush => "power cut, each flush on its own",
            Self::SystemCrash => "operating system crash",
            Self::TornWrite => "torn write",
            Self::DiskFull => "full disk",
            Self::DiskError => "disk error",
            Self::LyingFlush => "lying flush",
            Self::SlowDisk => "slow disk",
            Self::StalledDisk => "stalled disk",
            Self::NetworkPartition => "network partition",
            Self::Pause => "pause",
            Self::BitRot => "bit rot",
            Self::ClockJump => "clock jump",
            Self::LeaderChange => "leader change",
            Self::ControllerLoss => "controller loss",
        }
    }
}

/// How many of a partition's brokers were hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The leader's broker alone.
    OneBroker,
    /// Every broker at the same instant.
    AllBrokers,
}

/// A fault as a cell of a sweep declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// To how many.
    pub scope: Scope,
    /// Members of the ISR when it strikes, if the schedule shrank it first; else all replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync_replicas: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.words())?;
        if self.scope == Scope::AllBrokers {
            f.write_str(", all brokers at once")?;
        }
        if let Some(members) = self.in_sync_replicas {
            write!(f, ", ISR of {members}")?;
        }
        Ok(())
    }
}

/// A fault as it happened in a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultEvent {
    /// What was done.
    pub fault: Fault,
    /// When it took effect: for a power cut, when the disk's switch went off.
    pub struck_at: Nanos,
    /// From when on no ack can come from a broker that was hit: processes dead, links down. Acks
    /// between `struck_at` and this are booked apart if the fault cuts power.
    pub silenced_at: Nanos,
    /// When the brokers were whole again.
    pub restored_at: Nanos,
    /// Log end offsets seen right after recovery, before new load, where they were asked for. They
    /// tell a lost tail from a hole although later records reused its offsets.
    pub recovered_ends: Vec<(PartitionIndex, Offset)>,
}

impl FaultEvent {
    /// Whether the fault was in effect at any instant of `from..=to`.
    pub(crate) fn touches(&self, from: Nanos, to: Nanos) -> bool {
        self.struck_at <= to && from <= self.restored_at
    }

    pub(crate) fn recovered_end(&self, partition: PartitionIndex) -> Option<Offset> {
        self.recovered_ends.iter().find(|(at, _)| *at == partition).map(|(_, end)| *end)
    }
}

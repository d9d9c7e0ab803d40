//! The raw results of a sweep: everything that the report says is computed from these, and can be
//! computed again.
//!
//! ```text
//! Sweep ── stamp, environment, the command that repeats it
//!   ├─ Configuration      a broker with its settings, and a workload      ("kafka-all-flush1")
//!   ├─ Cell               a configuration measured, or under one fault    ("kafka-all-flush1.power-cut")
//!   │    └─ Trial         one run from one seed: throughput, histograms, timeline, verdict
//!   └─ Comparison         interleaved pairs of two cells
//! ```
//!
//! On disk ([`store`]) a trial is a file of its own, written when it ends, so that an interrupted
//! sweep keeps what it has. [`summary`] derives what is shown, once for the terminal and the page.
//!
//! Invariants: raw figures only, no averages; counts in records and bytes, times in nanoseconds on
//! the trial's clock; histograms are kept whole, since percentiles cannot be merged. A change of
//! meaning raises [`SCHEMA`].

pub mod answer;
pub mod compare;
pub mod histogram;
pub mod recommend;
pub mod stats;
pub mod store;
pub mod summary;
pub mod text;

use highwater_checker::{Contract, Fault, Nanos, Setting, Verdict};
pub use histogram::Latency;
use serde::{Deserialize, Serialize};

/// Version of the files. Readers refuse any other.
pub const SCHEMA: u32 = 1;

/// A sweep with all that was measured so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// When, with what and how to repeat it.
    pub stamp: Stamp,
    /// Where.
    pub environment: Environment,
    /// What was compared, in the order of the workload file.
    pub configurations: Vec<Configuration>,
    /// Interleaved pairs.
    pub comparisons: Vec<Comparison>,
    /// What was measured, in the order of the workload file.
    pub cells: Vec<Cell>,
    /// Trials that came to nothing, in the order in which that happened.
    pub failures: Vec<Failure>,
}

impl Sweep {
    /// Whether a trial was run to its verdict.
    #[must_use]
    pub fn has_trial(&self, cell: &str, seed: u64) -> bool {
        let of = self.cells.iter().find(|known| known.plan.id == cell);
        of.is_some_and(|known| known.trials.iter().any(|trial| trial.seed == seed))
    }

    /// Trials that were run to their verdict.
    #[must_use]
    pub fn trials(&self) -> u64 {
        self.cells.iter().map(|cell| cell.trials.len() as u64).sum()
    }

    /// Failures whose trial ran again, to its verdict.
    #[must_use]
    pub fn repeated(&self) -> Vec<&Failure> {
        self.failures.iter().filter(|failure| self.has_trial(&failure.cell, failure.seed)).collect()
    }

    /// Failures whose trial has no verdict to this day; each trial once, with its last reason.
    #[must_use]
    pub fn without_verdict(&self) -> Vec<&Failure> {
        let later = |place: usize, failure: &Failure| {
            self.failures[place + 1..]
                .iter()
                .any(|other| other.seed == failure.seed && other.cell == failure.cell)
        };
        let open = self.failures.iter().enumerate().filter(|(place, failure)| {
            !self.has_trial(&failure.cell, failure.seed) && !later(*place, failure)
        });
        open.map(|(_, failure)| failure).collect()
    }
}

/// A trial that has no verdict, since the harness or the machine failed. What a broker does after a fault is never one of
/// these: it is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The cell's id.
    pub cell: String,
    /// The trial's number in it.
    pub number: usize,
    /// The trial's seed.
    pub seed: u64,
    /// The one command that repeats it.
    pub command: String,
    /// Why it failed.
    pub reason: String,
    /// The fault had struck. Such a trial is not tried again: that would be to choose among the faults.
    pub after_fault: bool,
    /// When, RFC 3339, UTC.
    pub at: String,
}

/// When, with what and how to repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// The workload's name.
    pub title: String,
    /// Start, RFC 3339, UTC.
    pub started_at: String,
    /// How long it took so far.
    pub took: Nanos,
    /// The seed from which every trial's seed comes.
    pub seed: u64,
    /// Version of the harness.
    pub version: String,
    /// Commit of the harness, with `-dirty` if the tree had changes.
    pub commit: String,
    /// The one command that runs it again.
    pub command: String,
    /// How many trials it is to have; absent in files older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<u64>,
    /// Set where it is made of interleaved pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Pairs>,
    /// Set once every planned trial ran.
    pub complete: bool,
    /// How it ended, if it is not complete. A sweep that still runs, or was killed, has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
}

/// Why a sweep that ended is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// Somebody asked it to (SIGINT, SIGTERM).
    Interrupted,
    /// So many trials in a row failed that nothing good could be expected of the rest.
    GivenUp {
        /// How many.
        failures: u32,
    },
    /// It tried every trial, and some failed that can still be run.
    TriedAll,
}

/// The machine and its disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// `uname -sr`.
    pub kernel: String,
    /// Model name of the processor.
    pub cpu_model: String,
    /// Logical processors that the harness and the brokers share.
    pub cpus: u32,
    /// Main memory.
    pub memory_bytes: u64,
    /// The hypervisor, if one is visible.
    pub hypervisor: Option<String>,
    /// The file system below the log directories, as in `/proc/mounts`.
    pub filesystem: String,
    /// Its mount options.
    pub mount_options: String,
    /// The device below, with model and cache mode where they are known.
    pub device: String,
    /// What the bare device does.
    pub floor: DeviceFloor,
    /// What the client reaches against a broker that does nothing, on this machine: with the settings of the first
    /// configuration. Each configuration has its own beside it.
    pub client_ceiling: Option<Ceiling>,
    /// `vm.dirty_*` and whatever else of the system bears on the figures, by name.
    pub tunables: Vec<Property>,
    /// All replicas' log directories are on one device.
    pub replicas_share_a_disk: bool,
}

/// What the bare device does, measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceFloor {
    /// Duration of `fdatasync` after a 4 KiB overwrite.
    pub fdatasync: Latency,
    /// Sequential writes with direct I/O, in large blocks.
    pub write_bytes_per_second: f64,
}

/// The client's own ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Records a second.
    pub records_per_second: f64,
    /// Value bytes a second.
    pub bytes_per_second: f64,
}

/// A setting by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    /// Its name, as its owner spells it.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// A broker with its settings, and a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Unique in the sweep; part of file names: lower case letters, digits, dots and hyphens.
    pub id: String,
    /// Which broker.
    pub broker: Broker,
    /// What decides over loss, as the broker and the producer really had it.
    pub setting: Setting,
    /// What is sent.
    pub workload: Workload,
    /// What a user sets to get this: broker, then topic, then producer.
    pub broker_properties: Vec<Property>,
    /// Topic settings.
    pub topic_properties: Vec<Property>,
    /// Producer settings.
    pub producer_properties: Vec<Property>,
    /// What the client reaches with these settings against a broker that does nothing, measured in the same run; absent
    /// where it was not measured, and in files older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ceiling: Option<Ceiling>,
}

/// Which broker, and how many of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// As its makers call it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Brokers in the cluster.
    pub count: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is sent. Only equal workloads are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Workload {
    /// Length of a record's value.
    pub record_size_bytes: u32,
    /// Partitions in all.
    pub partitions: u32,
    /// Partitions beside those, with a few records each, that nobody uses.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub idle_partitions: u32,
    /// Producers at work.
    pub producers: u32,
    /// Consumers that read along while the speed was measured. Those of fault cells are witnesses, see [`Load::polled`].
    pub consumers: u32,
    /// Whether records carry a key.
    pub keyed: bool,
    /// How much of a value is zeros, in per cent; 0 does not compress.
    pub zero_percent: u8,
    /// `compression.type`.
    pub compression: String,
    /// `batch.size`.
    pub batch_size_bytes: u32,
    /// `linger.ms`.
    pub linger_ms: u32,
    /// Nothing was warmed before the clock started: neither memory touched nor a load served. Another thing than a warm
    /// run, and never held against one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
}

/// A configuration, measured or under a fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What was planned.
    pub plan: CellPlan,
    /// What came of it, in the order in which the trials ran.
    pub trials: Vec<Trial>,
}

/// What a cell is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellPlan {
    /// Unique in the sweep, of the same letters as a configuration's.
    pub id: String,
    /// The configuration's id.
    pub configuration: String,
    /// Why it is run.
    pub purpose: Purpose,
    /// Below the log directories.
    pub disk: DiskKind,
    /// The configuration that the broker reported, as it took effect.
    pub effective: Vec<Property>,
}

/// Why a cell is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To see how fast it is.
    Performance,
    /// To see what is lost.
    Fault {
        /// What is done.
        fault: Fault,
        /// What the broker owes.
        contract: Contract,
    },
}

/// What is below the log directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A directory of the real device's file system.
    Directory,
    /// ext4 on a loop device with direct I/O.
    Loop,
    /// ext4 on a loop device on a file behind a power switch.
    PowerSwitch,
    /// A directory behind a power switch where each flush persists its own file only.
    PowerSwitchEachFlush,
    /// The simulator's disk.
    Simulated,
}

impl DiskKind {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Directory => "plain directory on the real device",
            Self::Loop => "ext4 on a loop device, direct I/O",
            Self::PowerSwitch => "ext4 on a disk with a power switch",
            Self::PowerSwitchEachFlush => "power switch, each flush on its own",
            Self::Simulated => "simulated disk",
        }
    }
}

/// One run from one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Everything left to chance comes from it.
    pub seed: u64,
    /// The one command that repeats this trial.
    pub command: String,
    /// How much was done.
    pub load: Load,
    /// From sending to the ack.
    pub service: Latency,
    /// From the *intended* send time to the ack; failures and time-outs count at their time-out.
    pub intended: Latency,
    /// By time.
    pub timeline: Timeline,
    /// What was done to the brokers.
    pub faults: Vec<FaultMark>,
    /// What the checker says; absent where the log was not read back.
    pub verdict: Option<Verdict>,
    /// The load ended before what it left unflushed could grow to its bound, so that the loss window
    /// is a lower bound only.
    pub window_is_lower_bound: bool,
    /// Logs and other raw files, relative to the results' directory.
    pub files: Vec<String>,
}

/// A speed that is to hold in the long run comes from a load of more laps than this: before, what was put off need not have
/// been paid.
pub const LAPS: f64 = 3.0;

/// How much was done while the clock ran.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// How long the clock ran, the drain included.
    pub elapsed: Nanos,
    /// The target, if the load was not as fast as possible.
    pub target_records_per_second: Option<f64>,
    /// Records acknowledged, or handed to the socket with acks=0.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Records that failed, with certainty or not.
    pub failed: u64,
    /// CPU time of the machine less that of the client, the kernel's write-back included: until the drain ended, where
    /// there was one.
    pub broker_cpu: Option<Nanos>,
    /// What the broker's own processes used; absent in the simulator, and in files older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
    /// How long it took after that until what the broker had left in the page cache was flushed and it wrote no more by
    /// itself; measured without a fault only. The time in which consumers caught up counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Nanos>,
    /// Records that consumers saw, the warm-up included; absent where there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polled: Option<u64>,
}

/// What the processes of a broker used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// User and system time while the clock ran, up to the fault if there was one. The kernel counts it in hundredths of
    /// a second.
    pub cpu: Nanos,
    /// Most memory resident at once since the broker started, summed over its processes.
    pub peak_rss_bytes: u64,
    /// Memory resident when the load ended.
    pub end_rss_bytes: u64,
    /// How much memory it could have, page cache included, where that was limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Bytes of one lap of its journal or log buffer, where it has one and tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lap_bytes: Option<u64>,
}

impl Load {
    /// Whether it took real time. That of the simulator is virtual: how much was done says nothing about speed.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.elapsed.0 > 0
    }

    /// Value bytes a second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.bytes, self.elapsed)
    }

    /// Value bytes a second, if the clock ran until the broker's files were on the device and it wrote no more; absent if that
    /// was not measured. What it keeps in its memory for good is not charged: of Highwater less than a chunk a partition, which
    /// is in the journal.
    #[must_use]
    pub fn drained_bytes_per_second(&self) -> Option<f64> {
        self.drain.map(|drain| per_second(self.bytes, Nanos(self.elapsed.0 + drain.0)))
    }

    /// How often it went round the broker's journal or log buffer, where there is one.
    #[must_use]
    pub fn laps(&self) -> Option<f64> {
        let lap = self.used?.lap_bytes.filter(|lap| *lap > 0)?;
        Some(self.bytes as f64 / lap as f64)
    }

    /// Records a second.
    #[must_use]
    pub fn records_per_second(&self) -> f64 {
        per_second(self.records, self.elapsed)
    }

    /// Whether at least 99 % of the target was reached.
    #[must_use]
    pub fn is_sustained(&self) -> bool {
        self.target_records_per_second.is_none_or(|target| self.records_per_second() >= 0.99 * target)
    }
}

fn per_second(count: u64, elapsed: Nanos) -> f64 {
    if elapsed.0 == 0 { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

/// A trial by time, one column a figure. Bucket `i` covers `[i, i + 1) × bucket` since the trial began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Width of a bucket.
    pub bucket: Nanos,
    /// Records acknowledged in it.
    pub acked: Vec<u32>,
    /// Bytes of their values.
    pub bytes: Vec<u64>,
    /// Median latency from the intended send time, µs; absent without an ack.
    pub p50_us: Vec<Option<u32>>,
    /// 99th percentile, likewise.
    pub p99_us: Vec<Option<u32>>,
    /// Records that failed in it.
    pub errors: Vec<u32>,
}

/// A fault as it happened, on the timeline's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultMark {
    /// What was done.
    pub fault: Fault,
    /// When it took effect.
    pub struck_at: Nanos,
    /// When the brokers were whole again.
    pub restored_at: Nanos,
    /// How long before the fault the last ack had come: a fault that meets silence proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_last_ack: Option<Nanos>,
    /// What its instant was aimed at, if at anything, and how near it fell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<AimMark>,
    /// What the disk had not made durable when its power went; absent where it was not cut, or cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unflushed: Option<Unflushed>,
}

/// What a power cut met on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unflushed {
    /// Sectors of 512 bytes that were written and not flushed, gone or kept.
    pub sectors: u64,
    /// Requests that had come and were not answered.
    pub requests: u64,
}

/// What the instant of a fault was aimed at, and how near it fell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AimMark {
    /// As the workload calls it: `roll`, `checkpoint`, …
    pub at: String,
    /// What was seen, in words.
    pub what: String,
    /// From there to the fault.
    pub distance: Nanos,
    /// How near it was meant to fall.
    pub within: Nanos,
}

impl FaultMark {
    /// Acks were flowing when it struck. A fault of which that is not known is given the benefit.
    #[must_use]
    pub fn met_acks(&self) -> bool {
        self.since_last_ack.is_none_or(|silence| silence <= FLOWING)
    }

    /// There was something for it to take: a write on its way, or one that was answered and not flushed.
    #[must_use]
    pub fn met_writes(&self) -> Option<bool> {
        self.unflushed.map(|Unflushed { sectors, requests }| sectors + requests > 0)
    }

    /// It fell as near as it was to.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.aim.as_ref().is_none_or(|aim| aim.distance <= aim.within)
    }
}

/// Acks flow if the last one is no older than this.
pub const FLOWING: Nanos = Nanos::from_millis(100);

/// Two cells measured in interleaved pairs (A B B A …).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Cell A.
    pub a: String,
    /// Cell B; the same as A to show the noise.
    pub b: String,
    /// Bytes a second of A and B, pair by pair.
    pub pairs: Vec<(f64, f64)>,
    /// Bytes a second until the broker had drained, likewise; as the next ones empty in files older than this field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drained: Vec<(f64, f64)>,
    /// Bytes per second of CPU of the broker's own processes, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_cpu_second: Vec<(f64, f64)>,
    /// Bytes per second of CPU of the machine less the client's, until the broker had drained, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_machine_cpu_second: Vec<(f64, f64)>,
    /// 99th percentile of latency in ns, likewise: from the intended send time where a rate was offered, else from the send.
    /// A pair with a rate that was not sustained has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub p99: Vec<(f64, f64)>,
}

/// What a sweep that is made of interleaved pairs was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// Pairs of each comparison.
    pub pairs: u32,
    /// Whether each A is compared with itself, too.
    pub noise: bool,
}

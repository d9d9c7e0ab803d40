//! What a world is like: latencies, sizes, and how badly its devices behave.
//!
//! The defaults are those of a machine with a decent disk whose power cuts are as nasty as the contract of
//! [`crate::fs`] allows. Chances are given in thousandths.

use std::time::Duration;

use crate::time::WallTime;

/// How long something takes: usually between `least` and `usual`, sometimes up to `tail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Lower bound.
    pub least: Duration,
    /// Upper bound of the usual case.
    pub usual: Duration,
    /// Upper bound of the rare case.
    pub tail: Duration,
    /// How often the rare case happens.
    pub tail_per_mille: u32,
}

impl Latency {
    /// Between `least_us` and `usual_us` microseconds, and up to `tail_us` in one of a hundred cases.
    #[must_use]
    pub const fn micros(least_us: u64, usual_us: u64, tail_us: u64) -> Self {
        Latency {
            least: Duration::from_micros(least_us),
            usual: Duration::from_micros(usual_us),
            tail: Duration::from_micros(tail_us),
            tail_per_mille: 10,
        }
    }
}

/// The zero of the monotonic clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonoOrigin {
    /// Each process counts from a point of its own, as on real machines: a monotonic time means nothing to another.
    PerProcess,
    /// All processes count as [`World::now`](super::World::now) does.
    Shared,
}

/// What the device writes in one piece when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TornUnit {
    /// Each sector of 512 bytes is old or new.
    Sector512,
    /// Each block of 4,096 bytes is old or new.
    Block4096,
    /// Each block of 4,096 bytes that a write in flight touches is old, new, or garbage as a whole, with the durable
    /// neighbours of what was written.
    ShornBlock4096,
}

/// A simulated disk with its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Size of the file system in bytes.
    pub capacity_bytes: u64,
    /// Alignment in bytes that direct I/O needs, from 512 to 4,096.
    pub direct_alignment: usize,
    /// Whether the file system knows direct I/O; without, files are opened through the page cache.
    pub direct_supported: bool,
    /// What is torn when the power goes.
    pub torn_unit: TornUnit,
    /// How often a sector that a file grew over, and whose bytes did not reach the medium, holds garbage after a
    /// power cut instead of zeros.
    pub garbage_per_mille: u32,
    /// How often a sector that was being written when the power went cannot be read afterwards.
    pub unreadable_after_cut_per_mille: u32,
    /// Reads.
    pub read: Latency,
    /// Writes to the page cache.
    pub page_cache_write: Latency,
    /// Direct writes to the device's cache.
    pub direct_write: Latency,
    /// Flushes, and what a durable write takes longer.
    pub flush: Latency,
    /// Opening, listing, renaming and the like.
    pub metadata: Latency,
    /// How long after a kill the writes of the dead process may still land.
    pub orphan: Latency,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            capacity_bytes: 16 << 30,
            direct_alignment: 4096,
            direct_supported: true,
            torn_unit: TornUnit::Sector512,
            garbage_per_mille: 100,
            unreadable_after_cut_per_mille: 0,
            read: Latency::micros(5, 100, 5_000),
            page_cache_write: Latency::micros(1, 10, 2_000),
            direct_write: Latency::micros(20, 150, 10_000),
            flush: Latency::micros(50, 500, 30_000),
            metadata: Latency::micros(2, 30, 1_000),
            orphan: Latency::micros(100, 20_000, 3_000_000),
        }
    }
}

/// The simulated network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// One way between two nodes.
    pub latency: Latency,
    /// One way within a node.
    pub loopback: Latency,
    /// Bytes of one direction of a stream that may be sent and not yet received.
    pub window_bytes: usize,
    /// Largest piece in which sent bytes travel, in bytes.
    pub max_segment_bytes: usize,
    /// Most bytes that one receive gives.
    pub recv_buffer_bytes: usize,
    /// How often the peer of a killed process sees nothing at all instead of an end or a reset.
    pub silent_kill_per_mille: u32,
    /// How long a connection attempt that nobody answers goes on.
    pub connect_timeout: Duration,
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            latency: Latency::micros(20, 200, 40_000),
            loopback: Latency::micros(3, 30, 1_000),
            window_bytes: 256 * 1024,
            max_segment_bytes: 16 * 1024,
            recv_buffer_bytes: 32 * 1024,
            silent_kill_per_mille: 125,
            connect_timeout: Duration::from_secs(20),
        }
    }
}

/// A whole world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldConfig {
    /// Disks that are made without a configuration of their own.
    pub disk: DiskConfig,
    /// The network.
    pub net: NetConfig,
    /// What a step of a task costs in virtual time.
    pub poll: Latency,
    /// Zero of the monotonic clocks.
    pub mono_origin: MonoOrigin,
    /// Wall clock time at the world's beginning.
    pub epoch: WallTime,
    /// Largest difference, either way, between the wall clocks of nodes and the true time.
    pub wall_skew: Duration,
    /// Steps after which a run is given up as endless.
    pub max_steps: u64,
    /// Virtual time after which a run is given up as endless.
    pub max_time: Duration,
    /// Number of recent events that are kept for [`World::dump_trace`](super::World::dump_trace).
    pub trace_events: usize,
}

impl Default for WorldConfig {
    fn default() -> Self {
        WorldConfig {
            disk: DiskConfig::default(),
            net: NetConfig::default(),
            poll: Latency {
                least: Duration::from_nanos(100),
                usual: Duration::from_nanos(3_000),
                tail: Duration::from_micros(500),
                tail_per_mille: 2,
            },
            mono_origin: MonoOrigin::PerProcess,
            epoch: WallTime::from_millis(1_750_000_000_000),
            wall_skew: Duration::from_millis(50),
            max_steps: 50_000_000,
            max_time: Duration::from_secs(24 * 3600),
            trace_events: 256,
        }
    }
}

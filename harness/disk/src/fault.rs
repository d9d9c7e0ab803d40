//! The vocabulary of what can be done to a disk: power cuts and faults.
//!
//! Pure values, shared by the library, the control protocol and the command line. What they mean is
//! carried out by `medium` (what a cut leaves) and `device` (everything that happens while power is on).

use serde::{Deserialize, Serialize};

/// What a cut leaves of the writes that no flush covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum CutMode {
    /// Power is lost and nothing unflushed was written out: the strictest legal disk of all.
    DropAll,
    /// Power is lost while the disk was writing its cache out in an order of its own. A seeded subset of
    /// the unflushed sectors survives, each in one of the versions it had since the last flush.
    KeepSubset {
        /// Decides which sectors survive and in which version. The same cache and the same seed leave
        /// the same medium.
        seed: u64,
        /// What survives or is lost as one piece; drawn from the seed if absent.
        grain: Option<Grain>,
    },
    /// As `KeepSubset` in pieces of 4 KiB, some of which were interrupted midway: their first sectors are
    /// new, their other unflushed sectors old. Where such a piece held sectors that were *durable* and not
    /// being written, these are damaged as well. Beyond what most software promises to survive.
    Shorn {
        /// As in `KeepSubset`.
        seed: u64,
    },
    /// The operating system crashes: the page cache is gone, the disk keeps its power and its cache. This
    /// is not a power cut, since direct writes survive that were never flushed.
    OsCrash,
}

impl CutMode {
    /// Whether the disk itself loses power.
    pub fn loses_power(self) -> bool {
        !matches!(self, Self::OsCrash)
    }
}

/// What survives a cut, or is lost in it, as one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grain {
    /// Each 512-byte sector by itself: tears every write.
    Sector,
    /// Each aligned 4 KiB by itself: tears writes of several blocks.
    Block,
    /// Each write request as it reached the disk: reorders writes, tears none (a later write that went over
    /// an earlier one still hides it).
    Write,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Never.
    #[default]
    Off,
    /// Each time.
    Always,
    /// Every n-th time, counted from when the rule was set. Zero counts as never.
    OneIn(u32),
    /// The next n times, then never again.
    Next(u32),
}

/// What a failed flush does to the writes that it should have made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailedFlush {
    /// They stay in the cache, and a later flush saves them.
    #[default]
    KeepsCache,
    /// The disk was reset: they are gone and reads return what was durable before, so that whoever retries
    /// the flush and then acknowledges has lost data.
    LosesCache,
}

/// A fault that lasts until it is replaced by another of its kind or healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "fault")]
pub enum Fault {
    /// Reads fail with EIO.
    ReadError {
        /// When.
        rule: Rule,
    },
    /// Writes fail with EIO and change nothing.
    WriteError {
        /// When.
        rule: Rule,
    },
    /// Flushes fail with EIO.
    FlushError {
        /// When.
        rule: Rule,
        /// What becomes of the cache.
        cache: FailedFlush,
    },
    /// Flushes report success and do nothing. The next honest flush makes up for it.
    FlushLie {
        /// When.
        rule: Rule,
    },
    /// Each operation takes this much longer. Zero is no delay.
    Delay {
        /// For a read.
        read_us: u64,
        /// For a write.
        write_us: u64,
        /// For a flush.
        flush_us: u64,
    },
    /// Reads that touch this range of the disk fail with EIO; a write to a sector of it heals that sector.
    Unreadable {
        /// First byte, rounded down to a sector.
        offset_bytes: u64,
        /// Length, rounded up to a sector.
        length_bytes: u64,
    },
}

/// A well mixed hash of two numbers: the only source of chance here, so that a seed decides everything.
pub(crate) fn mix(seed: u64, value: u64) -> u64 {
    // The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), over a combination of both.
    let mut z = seed ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_neighbouring_values_differ_in_about_half_the_bits() {
        let total: u32 = (0..1000).map(|v| (mix(7, v) ^ mix(7, v + 1)).count_ones()).sum();
        assert!((31_000..33_000).contains(&total), "{total} bits over 1000 pairs");
    }
}

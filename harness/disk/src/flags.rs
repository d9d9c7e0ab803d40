//! The command line of `highwater-disk`: what can be said, and what it means in terms of the library.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use highwater_disk::strict::StrictConfig;
use highwater_disk::{
    Backing, CutMode, DiskConfig, FailedFlush, FileSystem, Grain, Kind, Rule, SectorSize, StopAfter,
};

/// A disk with a power switch: an ext4 whose unflushed writes can be lost on command.
///
/// Start one with `highwater-disk run --size 4G --mount /mnt/victim`, put a broker's or a database's data directory
/// on it, and command it from another shell: `highwater-disk cut --kill-users`, `highwater-disk on`.
/// Needs root, /dev/fuse, loop devices, e2fsprogs and xfsprogs; `highwater-disk check` says what is missing.
#[derive(Debug, Parser)]
#[command(name = "highwater-disk", version, max_term_width = 110)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which disk a command is for. Not needed while only one runs.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The disk with this control socket. With `run`: where to put it.
    #[arg(long, global = true, value_name = "SOCKET", conflicts_with = "disk")]
    pub(crate) control: Option<PathBuf>,
    /// The disk that is mounted here.
    #[arg(long, global = true, value_name = "MOUNT")]
    pub(crate) disk: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a disk and serve it in the foreground, until interrupted. Then nothing of it is left.
    Run(Run),
    /// Cut the power: drop what was not flushed, unmount, detach. `on` brings it back.
    Cut(Cut),
    /// Switch the power on: attach, mount (ext4 replays its journal), check.
    On,
    /// Let reads, writes or flushes fail with EIO.
    Eio(Eio),
    /// Let flushes report success and do nothing.
    Lie(When),
    /// Let every operation take longer. What is not named is not delayed.
    Slow(Slow),
    /// Make a range of the disk unreadable until it is written.
    Bad {
        /// First byte.
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        offset: u64,
        /// Length.
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        length: u64,
    },
    /// Answer no request until `resume`.
    Stall,
    /// End a stall.
    Resume,
    /// End all faults and a stall.
    Heal,
    /// Fill the file system with a balloon file.
    Full {
        /// Leave this much free.
        #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0")]
        leave: u64,
        /// Free the space again.
        #[arg(long, conflicts_with = "leave")]
        undo: bool,
    },
    /// Show counters, the last flushes and the last cut.
    Stats,
    /// Show the processes that use the disk.
    Users,
    /// Take the disk down, wherever it is being served.
    Stop,
    /// List the disks of this machine.
    List,
    /// Remove mounts, loop devices and directories that dead servers left.
    Cleanup,
    /// Say whether this machine can run such disks, and what is missing.
    Check,
    /// Make an image of what the medium would hold had the power been cut at some point of a recording.
    Replay(Replay),
    /// Serve and record a directory in which each flush counts for itself, in the foreground, until interrupted.
    ///
    /// fsync makes that file durable and no other, a write that carries O_DSYNC itself, and a name only the fsync of its
    /// directory. Cut the power of the recording with `strict-replay`.
    Strict(Strict),
    /// Make a plain directory of what a strict one would hold had the power been cut at some point of its recording.
    StrictReplay(StrictReplay),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Size of the medium, such as 512M or 4G. Only what is written takes space.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    /// Where to mount it; made if missing, must be empty. Default: a directory of its own under /run.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Keep the medium in an unnamed file in this directory.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    backing: PathBuf,
    /// Keep the medium in memory.
    #[arg(long, conflicts_with = "backing")]
    memory: bool,
    /// A plain loop device without a power switch: faster, but only `cut --mode os-crash` works.
    #[arg(long)]
    plain: bool,
    /// Show 4096-byte sectors instead of 512.
    #[arg(long)]
    sectors_4k: bool,
    /// Limit of the volatile cache; what exceeds it is written out early.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "1G")]
    cache: u64,
    /// The file system on it.
    #[arg(long, value_enum, default_value_t = FileSystemFlag::Ext4)]
    fs: FileSystemFlag,
    /// Options for mkfs, in place of the default ones.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    mkfs: Option<String>,
    /// Options for `mount -o`.
    #[arg(long, value_name = "OPTIONS")]
    mount_options: Option<String>,
    /// Record all writes and flushes, for `replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Do not check the file system with e2fsck after a cut.
    #[arg(long)]
    no_check: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FileSystemFlag {
    /// ext4.
    Ext4,
    /// XFS: at least 300M.
    Xfs,
    /// Btrfs: at least 110M.
    Btrfs,
}

impl FileSystemFlag {
    fn file_system(self) -> FileSystem {
        match self {
            Self::Ext4 => FileSystem::Ext4,
            Self::Xfs => FileSystem::Xfs,
            Self::Btrfs => FileSystem::Btrfs,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cut {
    #[command(flatten)]
    pub(crate) leaves: Leaves,
    /// SIGKILL this process after the switch is off. May be repeated.
    #[arg(long, value_name = "PID")]
    pub(crate) kill: Vec<u32>,
    /// SIGKILL every process that uses the disk.
    #[arg(long)]
    pub(crate) kill_users: bool,
    /// Do only one step of the three, to do something in between: `off`, kill what uses the disk, `release`, `finish`.
    #[arg(long, value_enum, conflicts_with_all = ["kill", "kill_users"])]
    pub(crate) only: Option<Step>,
}

/// What a cut leaves of the writes that were not flushed.
#[derive(Debug, Args)]
pub(crate) struct Leaves {
    /// What survives of the unflushed writes.
    #[arg(long, value_enum, default_value_t = Mode::Nothing)]
    mode: Mode,
    /// Decides what survives, with `subset` and `shorn`.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What survives as one piece, with `subset`; drawn from the seed by default.
    #[arg(long, value_enum)]
    grain: Option<GrainFlag>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Nothing: the strictest disk.
    Nothing,
    /// A seeded subset of the sectors.
    Subset,
    /// A seeded subset of 4 KiB blocks, some torn, with damage to durable neighbours.
    Shorn,
    /// Everything: only the page cache is lost. Not a power cut.
    OsCrash,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GrainFlag {
    /// 512 bytes.
    Sector,
    /// 4 KiB.
    Block,
    /// A whole write request.
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Switch off: all I/O hangs.
    Off,
    /// Fail the hung I/O with EIO.
    Release,
    /// Shut ext4 down, unmount, detach.
    Finish,
}

#[derive(Debug, Args)]
pub(crate) struct Eio {
    /// Which operation fails.
    #[arg(long, value_enum)]
    pub(crate) on: Operation,
    #[command(flatten)]
    pub(crate) when: When,
    /// With `--on flush`: lose the unflushed writes too, so that retrying the flush is a mistake.
    #[arg(long)]
    lose_cache: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Operation {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
}

/// When a fault strikes. Always, unless told otherwise.
#[derive(Debug, Args)]
pub(crate) struct When {
    /// Every N-th time.
    #[arg(long, value_name = "N", conflicts_with_all = ["next", "off"])]
    every: Option<u32>,
    /// The next N times.
    #[arg(long, value_name = "N", conflicts_with = "off")]
    next: Option<u32>,
    /// No longer.
    #[arg(long)]
    off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Slow {
    /// Microseconds more for a read.
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub(crate) read_us: u64,
    /// Microseconds more for a write.
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub(crate) write_us: u64,
    /// Microseconds more for a flush.
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub(crate) flush_us: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// What `run --record` wrote.
    pub(crate) recording: PathBuf,
    /// The image to make; must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: PathBuf,
    /// Cut after the N-th flush. Default: after the last event.
    #[arg(long, value_name = "N", conflicts_with = "after_event")]
    after_flush: Option<u64>,
    /// Cut after the N-th event (writes and flushes alike).
    #[arg(long, value_name = "N")]
    after_event: Option<u64>,
    #[command(flatten)]
    pub(crate) leaves: Leaves,
}

#[derive(Debug, Args)]
pub(crate) struct Strict {
    /// Where to mount it; made if missing, must be empty. Default: a directory of its own under /run.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Record what happens to this file.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// Microseconds that a flush takes.
    #[arg(long, value_name = "US", default_value_t = 200)]
    flush_us: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StrictReplay {
    /// What `strict --record` wrote.
    pub(crate) recording: PathBuf,
    /// The directory to make; must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) into: PathBuf,
    /// Cut after the N-th flush. Default: after the last event.
    #[arg(long, value_name = "N", conflicts_with = "after_event")]
    after_flush: Option<u64>,
    /// Cut after the N-th event.
    #[arg(long, value_name = "N")]
    after_event: Option<u64>,
    #[command(flatten)]
    pub(crate) leaves: Leaves,
}

impl Strict {
    pub(crate) fn config(self) -> StrictConfig {
        StrictConfig {
            mount_point: self.mount,
            flush_delay_us: self.flush_us,
            ..StrictConfig::new(self.record)
        }
    }
}

impl StrictReplay {
    pub(crate) fn stop(&self) -> StopAfter {
        stop_after(self.after_flush, self.after_event)
    }
}

impl Run {
    pub(crate) fn config(self, control: Option<PathBuf>) -> DiskConfig {
        let mut config = DiskConfig::new(self.size);
        config.mount_point = self.mount;
        config.kind = if self.plain { Kind::PlainLoop } else { Kind::PowerSwitch };
        config.backing = if self.memory { Backing::Memory } else { Backing::Directory(self.backing) };
        config.sector_size = if self.sectors_4k { SectorSize::B4096 } else { SectorSize::B512 };
        config.cache_limit_bytes = self.cache;
        config.control = control;
        config.recording = self.record;
        config.check_after_cut = !self.no_check;
        config = config.on(self.fs.file_system());
        if let Some(options) = self.mkfs {
            config.mkfs_options = options.split_whitespace().map(str::to_owned).collect();
        }
        if let Some(options) = self.mount_options {
            config.mount_options = options;
        }
        config
    }
}

impl Leaves {
    pub(crate) fn mode(&self) -> CutMode {
        match self.mode {
            Mode::Nothing => CutMode::DropAll,
            Mode::Subset => CutMode::KeepSubset { seed: self.seed, grain: self.grain.map(GrainFlag::grain) },
            Mode::Shorn => CutMode::Shorn { seed: self.seed },
            Mode::OsCrash => CutMode::OsCrash,
        }
    }
}

impl GrainFlag {
    fn grain(self) -> Grain {
        match self {
            Self::Sector => Grain::Sector,
            Self::Block => Grain::Block,
            Self::Write => Grain::Write,
        }
    }
}

impl When {
    pub(crate) fn rule(&self) -> Rule {
        match (self.every, self.next) {
            _ if self.off => Rule::Off,
            (Some(n), _) => Rule::OneIn(n),
            (_, Some(n)) => Rule::Next(n),
            (None, None) => Rule::Always,
        }
    }
}

impl Eio {
    pub(crate) fn failed_flush(&self) -> FailedFlush {
        if self.lose_cache { FailedFlush::LosesCache } else { FailedFlush::KeepsCache }
    }
}

impl Replay {
    pub(crate) fn stop(&self) -> StopAfter {
        stop_after(self.after_flush, self.after_event)
    }
}

fn stop_after(flush: Option<u64>, event: Option<u64>) -> StopAfter {
    match (flush, event) {
        (Some(number), _) => StopAfter::Flush(number),
        (_, Some(number)) => StopAfter::Event(number),
        (None, None) => StopAfter::End,
    }
}

/// Bytes, with a binary suffix: 4096, 64K, 512M, 4G, 1T.
fn parse_size(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let plain = upper.trim_end_matches('B').trim_end_matches('I');
    let (digits, shift) = match plain.char_indices().last() {
        Some((at, 'K')) => (&plain[..at], 10),
        Some((at, 'M')) => (&plain[..at], 20),
        Some((at, 'G')) => (&plain[..at], 30),
        Some((at, 'T')) => (&plain[..at], 40),
        _ => (plain, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is no size; say 64K, 512M or 4G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn parse_size_suffixes_are_binary() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        assert_eq!(parse_size("64KiB"), Ok(64 << 10));
        assert!(parse_size("G").is_err() && parse_size("").is_err() && parse_size("99999999T").is_err());
    }
}

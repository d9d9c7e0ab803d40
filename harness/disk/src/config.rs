//! What a disk is made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};

/// What stands under the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A disk with a power switch and all its faults.
    #[default]
    PowerSwitch,
    /// A plain loop device over the image: nearly the speed of the host's disk, but only the operating system
    /// can crash, and no fault can be injected.
    PlainLoop,
}

/// Where the medium's bytes are kept. Either way they vanish with the process that serves the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// In an unnamed sparse file in this directory.
    Directory(PathBuf),
    /// In memory.
    Memory,
}

/// The sector size that the disk shows to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SectorSize {
    /// 512 bytes.
    #[default]
    B512,
    /// 4096 bytes. A cut still tears at 512, which a disk is free to do.
    B4096,
}

/// The file system on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSystem {
    /// ext4.
    #[default]
    Ext4,
    /// XFS, which needs 300 MiB.
    Xfs,
    /// Btrfs, which needs 110 MiB.
    Btrfs,
}

impl FileSystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// As mount(8) names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// What this machine lacks for it, if anything.
    pub fn missing(self) -> Option<String> {
        let maker = format!("mkfs.{}", self.name());
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if crate::command::find_tool(&maker).is_none() {
            Some(format!("{maker} is not installed"))
        } else if !known.split_whitespace().any(|name| name == self.name()) {
            Some(format!("the kernel does not mount {}", self.name()))
        } else {
            None
        }
    }

    fn mkfs_options(self) -> Vec<String> {
        let options: &[&str] = match self {
            // Nothing initialised lazily: it would write in the background, at instants of its own. No blocks
            // reserved for root: a broker run by root shall meet a full disk like any other.
            Self::Ext4 => {
                &["-b", "4096", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
            }
            Self::Xfs | Self::Btrfs => &["-K"],
        };
        options.iter().map(|option| (*option).to_owned()).collect()
    }
}

/// How to make a [`Disk`](crate::Disk). Start from [`DiskConfig::new`] and change what differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Size of the medium; rounded up to 4 KiB, at least [`MIN_SIZE_BYTES`]. It is sparse: only what is written
    /// takes space.
    pub size_bytes: u64,
    /// Where to mount it, created if missing; by default a directory under [`crate::STATE_DIRECTORY`].
    pub mount_point: Option<PathBuf>,
    /// What stands under the file system.
    pub kind: Kind,
    /// Where the bytes are kept; by default in `/var/tmp`.
    pub backing: Backing,
    /// Sector size.
    pub sector_size: SectorSize,
    /// The file system on it; see [`DiskConfig::on`].
    pub file_system: FileSystem,
    /// Options for `mkfs`, besides those for quiet and force.
    pub mkfs_options: Vec<String>,
    /// Options for `mount -o`.
    pub mount_options: String,
    /// Memory for the volatile cache; as much again may hold earlier versions. What exceeds it is written out
    /// early, as by a real disk, and counted as destaged.
    pub cache_limit_bytes: u64,
    /// Where to put the control socket, which must not exist; by default in the state directory.
    pub control: Option<PathBuf>,
    /// Record all writes and flushes to this file, for [`crate::replay`].
    pub recording: Option<PathBuf>,
    /// After each cut, check the recovered file system, of ext4 with `e2fsck -fn` (mount, unmount, check, mount).
    pub check_after_cut: bool,
    /// The program that serves the disk.
    #[serde(skip)]
    pub server: ServerProgram,
}

/// The program that the library starts to serve a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServerProgram {
    /// `highwater-disk`, from the variable `HIGHWATER_DISK`, from beside the running program, or from `PATH`.
    #[default]
    Find,
    /// This `highwater-disk`.
    Path(PathBuf),
    /// The running program itself, whose `main` calls [`crate::serve_if_asked`] first.
    ThisProgram,
    /// The running test program, which has a test of this name that calls [`crate::serve_if_asked`] and does nothing else.
    ThisTest(String),
}

/// The smallest disk: ext4 needs room for its journal.
pub const MIN_SIZE_BYTES: u64 = 16 << 20;

impl DiskConfig {
    /// A disk with a power switch of this size and the defaults for the rest.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            mount_point: None,
            kind: Kind::default(),
            backing: Backing::Directory(PathBuf::from("/var/tmp")),
            sector_size: SectorSize::default(),
            file_system: FileSystem::Ext4,
            mkfs_options: FileSystem::Ext4.mkfs_options(),
            mount_options: "defaults".to_owned(),
            cache_limit_bytes: 1 << 30,
            control: None,
            recording: None,
            check_after_cut: true,
            server: ServerProgram::default(),
        }
    }

    /// The same with this file system, made with the options that fit it.
    #[must_use]
    pub fn on(self, file_system: FileSystem) -> Self {
        Self { file_system, mkfs_options: file_system.mkfs_options(), ..self }
    }

    /// Refuses what cannot work and rounds what can.
    pub(crate) fn checked(mut self) -> Result<Self> {
        let invalid = |problem: String| Err(Error::Invalid(problem));
        if self.size_bytes < MIN_SIZE_BYTES {
            return invalid(format!("a disk has at least {MIN_SIZE_BYTES} bytes, not {}", self.size_bytes));
        }
        if self.size_bytes > 1 << 44 {
            return invalid(format!("ext4 with 4 KiB blocks ends at 16 TiB; {} is more", self.size_bytes));
        }
        if self.kind == Kind::PlainLoop && self.recording.is_some() {
            return invalid("a plain loop device cannot be recorded".to_owned());
        }
        self.size_bytes = self.size_bytes.next_multiple_of(4096);
        for path in [&mut self.mount_point, &mut self.control, &mut self.recording].into_iter().flatten() {
            *path = std::path::absolute(&path).at("make absolute", path)?;
        }
        Ok(self)
    }
}

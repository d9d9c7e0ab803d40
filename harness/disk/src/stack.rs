//! ext4 on a loop device on the medium: made, mounted, crashed, taken down and put up again.
//!
//! Everything is done by the system's tools (`command` says why), and nothing is believed that the kernel can be
//! asked: that the loop device does direct I/O, that ext4 is gone from every namespace, that the loop device is
//! free again. On the mount point lies a bind mount of itself with shared propagation, and ext4 on top: a process
//! in a mount namespace of its own (as every one started by `ip netns exec`) would otherwise keep a private copy
//! of the mount, and ext4 alive, when the disk is unmounted here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::command::{Tool, find_tool, wait_for_pid};
use crate::config::{DiskConfig, FileSystem, SectorSize};
use crate::error::{Error, Result};
use crate::kernel::{self, User};

/// How long the kernel may take to close the files of processes that have ended.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long killed processes may take to end, once their I/O does not hang any more.
const DYING: Duration = Duration::from_secs(5);

/// The file system after it was put up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerOnReport {
    /// Whether ext4 had been cut off and replayed its journal; of the other file systems it is not known, and false.
    pub replayed_journal: bool,
    /// How long attaching and mounting took, journal replay included.
    pub mount_us: u64,
    /// What the check of the file system found after the replay; none if the check is off.
    pub check: Option<FileSystemCheck>,
}

/// What `e2fsck -fn`, or the checker of another file system, found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemCheck {
    /// Nothing to complain about.
    pub is_clean: bool,
    /// Its exit status (e2fsck(8)).
    pub exit_status: Option<i32>,
    /// What it said.
    pub output: String,
}

/// Whether the machine can run disks: root, devices, tools. The error is one sentence with the remedies.
pub fn preflight() -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("it needs root (run it with sudo)".to_owned());
    }
    for (device, remedy) in [("/dev/fuse", "modprobe fuse"), ("/dev/loop-control", "modprobe loop")] {
        if !Path::new(device).exists() {
            missing
                .push(format!("{device} is missing (try `{remedy}`, or pass the device into the container)"));
        }
    }
    for (package, tools) in [
        ("util-linux", ["losetup"].as_slice()),
        ("mount", &["mount", "umount"]),
        ("e2fsprogs", &["mkfs.ext4", "e2fsck", "dumpe2fs"]),
        ("xfsprogs", &["xfs_io"]),
    ] {
        let absent: Vec<&str> = tools.iter().copied().filter(|tool| find_tool(tool).is_none()).collect();
        if !absent.is_empty() {
            missing.push(format!("{} is missing (install the package {package})", absent.join(" and ")));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Unsupported(missing.join(", "))) }
}

/// The layers above the medium.
pub(crate) struct Stack {
    /// The file that the loop device stands on.
    medium: PathBuf,
    mount_point: PathBuf,
    file_system: FileSystem,
    mount_options: String,
    sector_size: SectorSize,
    loop_device: Option<PathBuf>,
}

impl Stack {
    pub(crate) fn new(medium: PathBuf, mount_point: PathBuf, config: &DiskConfig) -> Self {
        let mount_options = config.mount_options.clone();
        let (file_system, sector_size) = (config.file_system, config.sector_size);
        Self { medium, mount_point, file_system, mount_options, sector_size, loop_device: None }
    }

    pub(crate) fn loop_device(&self) -> Option<&Path> {
        self.loop_device.as_deref()
    }

    /// Lays the shared bind mount under the place where ext4 goes.
    pub(crate) fn prepare_mount_point(&self) -> Result<()> {
        let bind = Tool::new("mount").args(["--bind", "--make-shared"]);
        bind.arg(&self.mount_point).arg(&self.mount_point).run().map(drop)
    }

    pub(crate) fn attach(&mut self) -> Result<()> {
        let mut tool = Tool::new("losetup").args(["--find", "--show", "--direct-io=on"]);
        if self.sector_size == SectorSize::B4096 {
            tool = tool.args(["--sector-size", "4096"]);
        }
        let device = PathBuf::from(tool.arg(&self.medium).run()?.trim());
        let is_direct = kernel::is_direct(&device);
        self.loop_device = Some(device.clone());
        if is_direct {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "{} refuses direct I/O on {}, and a page cache in between would hide which writes were flushed",
            device.display(),
            self.medium.display()
        )))
    }

    pub(crate) fn format(&self, mkfs_options: &[String]) -> Result<()> {
        let device = self.device("format the disk")?;
        let force = if self.file_system == FileSystem::Ext4 { "-F" } else { "-f" };
        let tool = Tool::new(&format!("mkfs.{}", self.file_system.name())).args(["-q", force]);
        tool.args(mkfs_options).arg(device).run().map(drop)
    }

    pub(crate) fn mount(&self) -> Result<()> {
        let device = self.device("mount the disk")?;
        let options = ["-t", self.file_system.name(), "-o", &self.mount_options];
        Tool::new("mount").args(options).arg(device).arg(&self.mount_point).run().map(drop)
    }

    /// `EXT4_IOC_SHUTDOWN` without flushing the log: ext4 stops on the spot and its page cache will not be
    /// written. (`xfs_io`'s shutdown is the same ioctl; `-f` would flush the log.)
    pub(crate) fn crash_ext4(&self) -> Result<()> {
        crash_ext4(&self.mount_point)
    }

    /// Unmounts, waiting for killed processes to be gone, and until ext4 is gone everywhere.
    pub(crate) fn unmount(&self) -> Result<()> {
        let device = self.device("unmount the disk")?;
        let started = Instant::now();
        while kernel::mounts()?.iter().any(|mount| mount.source == device) {
            let finished = Tool::new("umount").arg(&self.mount_point).finish()?;
            if finished.status.success() {
                break;
            }
            let users = kernel::users_of(&self.mount_point);
            if !finished.stderr.contains("busy") {
                let command = format!("umount {}", self.mount_point.display());
                let outcome = format!("failed ({})", finished.status);
                return Err(Error::Command { command, outcome, stderr: finished.stderr });
            }
            if started.elapsed() >= if users.is_empty() { PATIENCE } else { DYING } {
                return Err(self.busy(&users, "by the kernel for a process that has ended"));
            }
            // Without a process to wait for it is the kernel that closes files of a dead io_uring.
            wait_for_exit(&users, Duration::from_millis(20));
        }
        if eventually(PATIENCE, || !kernel::is_mounted_anywhere(device)) {
            return Ok(());
        }
        Err(self.busy(&kernel::namespaces_with(device), "in a mount namespace that no process is in"))
    }

    fn busy(&self, users: &[User], otherwise: &str) -> Error {
        let list: Vec<String> = users.iter().map(User::to_string).collect();
        let users = if list.is_empty() { otherwise.to_owned() } else { format!("by {}", list.join(", ")) };
        Error::Busy { mount_point: self.mount_point.clone(), users }
    }

    /// Frees the loop device.
    pub(crate) fn detach(&mut self) -> Result<()> {
        let device = self.device("detach the disk")?.to_owned();
        detach_loop(&device)?;
        self.loop_device = None;
        Ok(())
    }

    /// Attaches, mounts and, if asked, checks what a cut left.
    pub(crate) fn restart(&mut self, check: bool) -> Result<PowerOnReport> {
        let started = Instant::now();
        self.attach()?;
        let replayed_journal = self.needs_recovery()?;
        self.mount()?;
        let mount_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let check = if check {
            self.unmount()?;
            let check = self.check()?;
            self.mount()?;
            Some(check)
        } else {
            None
        };
        Ok(PowerOnReport { replayed_journal, mount_us, check })
    }

    fn needs_recovery(&self) -> Result<bool> {
        let device = self.device("look at the disk")?;
        if self.file_system != FileSystem::Ext4 {
            return Ok(false);
        }
        let text = Tool::new("dumpe2fs").arg("-h").arg(device).run()?;
        let features = text.lines().find_map(|line| line.strip_prefix("Filesystem features:"));
        Ok(features.is_some_and(|features| features.split_whitespace().any(|name| name == "needs_recovery")))
    }

    fn check(&self) -> Result<FileSystemCheck> {
        let device = self.device("check the disk")?;
        let tool = match self.file_system {
            FileSystem::Ext4 => Tool::new("e2fsck").arg("-fn"),
            FileSystem::Xfs => Tool::new("xfs_repair").arg("-n"),
            FileSystem::Btrfs => Tool::new("btrfs").arg("check"),
        };
        let finished = tool.arg(device).finish()?;
        let output = [finished.stdout.trim(), finished.stderr.trim()].join("\n").trim().to_owned();
        let exit_status = finished.status.code();
        Ok(FileSystemCheck { is_clean: finished.status.success(), exit_status, output })
    }

    fn device(&self, request: &'static str) -> Result<&Path> {
        let state = "detached from its loop device";
        self.loop_device.as_deref().ok_or(Error::WrongState { request, state })
    }
}

pub(crate) fn crash_ext4(mount_point: &Path) -> Result<()> {
    Tool::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(mount_point).run().map(drop)
}

/// Frees a loop device and waits until it is free.
pub(crate) fn detach_loop(device: &Path) -> Result<()> {
    let backing = kernel::loop_backing(device);
    let tool = Tool::new("losetup").arg("--detach").arg(device);
    tool.run()?;
    // Whoever has it open at this instant (udev does) delays it.
    if eventually(PATIENCE, || kernel::loop_backing(device) != backing) {
        return Ok(());
    }
    Err(Error::Refused(format!("{} is still in use after `losetup --detach`", device.display())))
}

/// Waits until the condition holds, with growing pauses. False if it does not within the limit.
pub(crate) fn eventually(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    true
}

/// Waits until one of the processes ends or, with none to wait for, a moment.
fn wait_for_exit(users: &[User], moment: Duration) {
    let first = users.first().and_then(|user| Pid::from_raw(i32::try_from(user.pid).ok()?));
    match first {
        // An error here means that it cannot be watched; the pause is as good then.
        Some(pid) => drop(wait_for_pid(pid, moment)),
        None => std::thread::sleep(moment),
    }
}

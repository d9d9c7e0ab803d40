//! Takes down what is left of a disk: mounts, loop device, FUSE, directories.
//!
//! One way for all occasions: the server's own end, and the removal of what a dead server left. It asks the kernel
//! what there is rather than trusting what was planned, goes on after a failure, and reports each step. What live
//! processes still hold open is detached lazily and vanishes when they end: killing them is not ours to do.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::command::Tool;
use crate::error::{At, Error, Result};
use crate::kernel::{self, LoopDevice, User};
use crate::place::{self, Record};
use crate::stack;

/// What a clean-up did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// Each thing that was removed, in words.
    pub removed: Vec<String>,
    /// Each thing that could not be, with the reason.
    pub problems: Vec<String>,
}

/// Removes what dead servers left on this machine. Living disks are not touched.
pub fn cleanup() -> Result<Cleanup> {
    let _sweeping = place::lock_all()?;
    let mut report = Cleanup::default();
    for directory in place::all()? {
        if place::is_dead(&directory)? {
            // One that resists, or is of another version, must not keep the others.
            match sweep_directory(&directory) {
                Ok(swept) => report.add(swept),
                Err(error) => report.problems.push(error.to_string()),
            }
        }
    }
    Ok(report)
}

/// Removes what belongs to one state directory if its server is dead and it exists.
pub(crate) fn sweep_if_dead(directory: &Path) -> Result<Cleanup> {
    let _sweeping = place::lock_all()?;
    if directory.exists() && place::is_dead(directory)? {
        sweep_directory(directory)
    } else {
        Ok(Cleanup::default())
    }
}

/// Removes what belongs to one state directory, whose server is dead or is this process.
pub(crate) fn sweep_directory(directory: &Path) -> Result<Cleanup> {
    let mut report = Cleanup::default();
    let record = place::load(directory).unwrap_or_else(|error| {
        report.problems.push(error.to_string());
        None
    });
    for device in loops_of(directory, record.as_ref())? {
        report.take_down(&device)?;
    }
    if let Some(record) = &record {
        // The bind mount under the disk, and whatever a half-made disk left there.
        report.unmount_all(|mount_point| mount_point == record.mount_point)?;
    }
    report.unmount_all(|mount_point| mount_point.starts_with(directory))?;
    if let Some(record) = record {
        if record.made_mount_point {
            report.remove(&record.mount_point, fs::remove_dir(&record.mount_point));
        }
        report.remove(&record.control, fs::remove_file(&record.control));
    }
    report.remove(&directory.join("fuse"), fs::remove_dir(directory.join("fuse")));
    // The control socket too, in case there was no record to name it.
    for name in ["control", "disk.json", "disk.json.next", "lock"] {
        report.remove(&directory.join(name), fs::remove_file(directory.join(name)));
    }
    report.remove(directory, fs::remove_dir(directory));
    Ok(report)
}

fn loops_of(directory: &Path, record: Option<&Record>) -> Result<Vec<LoopDevice>> {
    let recorded = record.and_then(|record| record.loop_device.clone().zip(record.loop_backing.clone()));
    let is_ours = |device: &LoopDevice| {
        let is_recorded = recorded
            .as_ref()
            .is_some_and(|(name, backing)| (name, backing) == (&device.device, &device.backing));
        is_recorded || device.backing.starts_with(directory)
    };
    Ok(kernel::loop_devices()?.into_iter().filter(is_ours).collect())
}

impl Cleanup {
    fn add(&mut self, other: Self) {
        self.removed.extend(other.removed);
        self.problems.extend(other.problems);
    }

    fn note(&mut self, what: String, result: Result<()>) {
        match result {
            Ok(()) => self.removed.push(what),
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    /// Crashes and unmounts the file systems of a loop device and frees it.
    fn take_down(&mut self, device: &LoopDevice) -> Result<()> {
        for mount in kernel::mounts()?.iter().filter(|mount| mount.source == device.device) {
            // Nothing is worth writing any more. A file system whose device has failed may refuse.
            let _ = stack::crash_ext4(&mount.mount_point);
            self.unmount(&mount.mount_point);
        }
        let what = format!("loop device {}", device.device.display());
        if kernel::is_mounted_anywhere(&device.device) {
            // Someone still has files open; the loop device then goes with the last of them.
            let detached = Tool::new("losetup").arg("--detach").arg(&device.device).run();
            self.note(format!("{what} (when its last user ends)"), detached.map(drop));
        } else {
            self.note(what, stack::detach_loop(&device.device));
        }
        Ok(())
    }

    /// Unmounts what is mounted now on the places asked for, the topmost first.
    fn unmount_all(&mut self, is_wanted: impl Fn(&Path) -> bool) -> Result<()> {
        for mount in kernel::mounts()?.iter().rev().filter(|mount| is_wanted(&mount.mount_point)) {
            self.unmount(&mount.mount_point);
        }
        Ok(())
    }

    fn unmount(&mut self, mount_point: &Path) {
        let what = format!("mount {}", mount_point.display());
        let Err(error) = Tool::new("umount").arg(mount_point).run() else {
            return self.removed.push(what);
        };
        let users: Vec<String> = kernel::users_of(mount_point).iter().map(User::to_string).collect();
        let lazily = Tool::new("umount").arg("--lazy").arg(mount_point).run();
        let what =
            if users.is_empty() { what } else { format!("{what} (still used by {})", users.join(", ")) };
        self.note(what, lazily.map(drop).map_err(|_| error));
    }

    fn remove(&mut self, path: &Path, result: std::io::Result<()>) {
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => self.note(path.display().to_string(), other.at("remove", path)),
        }
    }

    /// An error if anything is left.
    pub fn into_result(self) -> Result<Vec<String>> {
        if self.problems.is_empty() {
            Ok(self.removed)
        } else {
            Err(Error::Refused(self.problems.join("; ")))
        }
    }
}

/// A disk that is being served on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The process that serves it.
    pub pid: u32,
    /// Its control socket.
    pub control: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its size.
    pub size_bytes: u64,
}

/// The living disks of this machine.
pub fn list() -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for directory in place::all()? {
        let name = directory.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(|name| name.parse().ok());
        // A disk may go while one looks.
        let record = place::load(&directory).ok().flatten().filter(|record| record.kind.is_some()).zip(pid);
        if let Some((record, pid)) = record.filter(|_| matches!(place::is_dead(&directory), Ok(false))) {
            let Record { control, mount_point, size_bytes, .. } = record;
            listed.push(Listed { pid, control, mount_point, size_bytes });
        }
    }
    Ok(listed)
}

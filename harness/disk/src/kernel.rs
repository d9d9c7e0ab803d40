//! What the kernel says about mounts, loop devices and who uses them, read from `/proc` and `/sys`.
//!
//! Nothing here touches a file system that may hang: links are read, never followed, and no file of `/proc` is
//! opened that needs a process's memory map (`cmdline`, `maps`), which a process that hangs in a page fault
//! keeps locked.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, Result};

/// One line of `mountinfo`, in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) mount_point: PathBuf,
    pub(crate) source: PathBuf,
}

/// The mounts of this process's namespace, in the order in which they were made.
pub(crate) fn mounts() -> Result<Vec<Mount>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).at("read", path)?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<Mount> {
    // proc_pid_mountinfo(5): the mount point is field 5; the source is the second after the lone dash.
    let (before, after) = line.split_once(" - ")?;
    let mount_point = unescaped(before.split(' ').nth(4)?);
    let source = unescaped(after.split(' ').nth(1)?);
    Some(Mount { mount_point, source })
}

/// Undoes the octal escapes for space, tab, newline and backslash.
fn unescaped(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes[at + 1..].first_chunk::<3>().filter(|_| bytes[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(out).into()
}

/// A loop device in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoopDevice {
    /// `/dev/loopN`.
    pub(crate) device: PathBuf,
    /// As the kernel names it; " (deleted)" may follow the path.
    pub(crate) backing: PathBuf,
}

/// All loop devices in use.
pub(crate) fn loop_devices() -> Result<Vec<LoopDevice>> {
    let path = Path::new("/sys/block");
    let mut devices = Vec::new();
    for entry in fs::read_dir(path).at("list", path)? {
        let name = entry.at("list", path)?.file_name();
        let device = Path::new("/dev").join(name);
        // A device that is not in use, or no longer, has no such file.
        if let Some(backing) = loop_backing(&device) {
            devices.push(LoopDevice { device, backing });
        }
    }
    Ok(devices)
}

/// What a loop device stands on; none if it is free.
pub(crate) fn loop_backing(device: &Path) -> Option<PathBuf> {
    let bytes = fs::read(loop_attribute(device, "backing_file")?).ok()?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Some(OsString::from_vec(line.to_vec()).into())
}

/// Whether a loop device does direct I/O.
pub(crate) fn is_direct(device: &Path) -> bool {
    let read = loop_attribute(device, "dio").and_then(|path| fs::read_to_string(path).ok());
    read.is_some_and(|text| text.trim() == "1")
}

fn loop_attribute(device: &Path, name: &str) -> Option<PathBuf> {
    Some(Path::new("/sys/block").join(device.file_name()?).join("loop").join(name))
}

/// Whether an ext4 or XFS on the device is mounted anywhere, in whatever namespace.
pub(crate) fn is_mounted_anywhere(device: &Path) -> bool {
    let of = |name| ["/sys/fs/ext4", "/sys/fs/xfs"].iter().any(|all| Path::new(all).join(name).exists());
    device.file_name().is_some_and(of)
}

/// A process that uses a mounted disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its process id.
    pub pid: u32,
    /// Its short name.
    pub command: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.command)
    }
}

/// The processes with an open file, a working directory, a root or a program on a mount.
pub(crate) fn users_of(mount_point: &Path) -> Vec<User> {
    processes(|process| {
        let links = ["cwd", "root", "exe"].map(|name| process.join(name));
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        links
            .into_iter()
            .chain(open)
            .any(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(mount_point)))
    })
}

/// The processes whose mount namespace has a mount of this device.
pub(crate) fn namespaces_with(device: &Path) -> Vec<User> {
    processes(|process| {
        let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        text.lines().filter_map(parse_mount).any(|mount| mount.source == device)
    })
}

/// Processes come and go while one looks; what cannot be read any more does not count.
fn processes(is_wanted: impl Fn(&Path) -> bool) -> Vec<User> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_process = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    let mut users: Vec<User> = entries
        .filter_map(of_process)
        .filter(|(_, process)| is_wanted(process))
        .map(|(pid, process)| {
            let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
            User { pid, command: command.trim().to_owned() }
        })
        .collect();
    users.sort_by_key(|user| user.pid);
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_line_with_optional_fields_and_escapes_is_parsed() {
        let line = "36 35 98:0 /mnt1 /mnt\\040two rw,noatime shared:1 master:2 - ext4 /dev/loop7 rw";
        let expected = Mount { mount_point: "/mnt two".into(), source: "/dev/loop7".into() };
        assert_eq!(parse_mount(line), Some(expected));
    }

    #[test]
    fn unescaped_lone_backslash_at_the_end_stays() {
        assert_eq!(unescaped("a\\"), Path::new("a\\"));
        assert_eq!(unescaped("\\134\\011b\\9zz"), Path::new("\\\tb\\9zz"));
    }

    #[test]
    fn users_of_an_open_file_include_this_process() {
        let directory = tempfile::tempdir().unwrap();
        let _open = fs::File::create(directory.path().join("file")).unwrap();
        let users = users_of(&directory.path().canonicalize().unwrap());
        assert_eq!(users.iter().map(|user| user.pid).collect::<Vec<_>>(), [std::process::id()]);
    }
}

//! The state directory of a disk, and who owns it.
//!
//! ```text
//! /run/highwater-disk/        STATE_DIRECTORY
//!   .lock                     held while a directory is made or swept
//!   1234/                     named by the process that serves the disk
//!     lock                    held by that process for life: free means dead
//!     disk.json               the Record: what there is to clean up
//!     control                 the control socket, unless told otherwise
//!     fuse/                   where the medium is mounted
//!     mnt/                    where the disk is mounted, unless told otherwise
//! ```
//!
//! Invariant: whatever a disk leaves in the kernel can be found from its directory, so that any later process
//! can remove what a dead one left. The image is an unnamed file and needs no removing.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Kind;
use crate::error::{At, Error, Result};
use crate::kernel;

/// Where all disks of a machine keep their state.
pub const STATE_DIRECTORY: &str = "/run/highwater-disk";

/// What there is to clean up, and what a listing shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// None for a strict directory, which has no control socket.
    pub(crate) kind: Option<Kind>,
    pub(crate) size_bytes: u64,
    pub(crate) control: PathBuf,
    pub(crate) mount_point: PathBuf,
    /// The mount point did not exist before and goes with the disk.
    pub(crate) made_mount_point: bool,
    pub(crate) loop_device: Option<PathBuf>,
    /// How the kernel names what the loop device stands on: a number alone may be someone else's by now.
    pub(crate) loop_backing: Option<PathBuf>,
}

/// The directory of one living disk, held by a lock.
pub(crate) struct Place {
    directory: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the directory of this process's disk.
    pub(crate) fn create() -> Result<Self> {
        let _creation = lock_all()?;
        let directory = Path::new(STATE_DIRECTORY).join(std::process::id().to_string());
        if directory.exists() {
            // Of a dead process with the same id: this one has made none yet.
            crate::cleanup::sweep_directory(&directory)?;
        }
        make_directory(&directory)?;
        let lock_path = directory.join("lock");
        let lock = File::create(&lock_path).at("create", &lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        let place = Self { directory, _lock: lock };
        make_directory(&place.fuse())?;
        Ok(place)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn fuse(&self) -> PathBuf {
        self.directory.join("fuse")
    }

    /// Replaces the record.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let path = self.directory.join("disk.json");
        let next = self.directory.join("disk.json.next");
        let text = serde_json::to_vec_pretty(record).map_err(std::io::Error::from).at("encode", &path)?;
        fs::write(&next, text).at("write", &next)?;
        fs::rename(&next, &path).at("replace", &path)
    }
}

/// The record of a disk; none if its maker died before it wrote one.
pub(crate) fn load(directory: &Path) -> Result<Option<Record>> {
    let path = directory.join("disk.json");
    match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", &path),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(std::io::Error::from).at("decode", &path),
    }
}

/// The directories of all disks, living or dead.
pub(crate) fn all() -> Result<Vec<PathBuf>> {
    let root = Path::new(STATE_DIRECTORY);
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", root)?,
    };
    let mut directories = Vec::new();
    for entry in entries {
        let entry = entry.at("list", root)?;
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
            directories.push(entry.path());
        }
    }
    directories.sort();
    Ok(directories)
}

/// Whether the process that serves a disk is gone. Only certain while [`lock_all`] is held.
pub(crate) fn is_dead(directory: &Path) -> Result<bool> {
    let path = directory.join("lock");
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        other => other.at("open", &path)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).at("lock", &path),
    }
}

/// Keeps others from making or sweeping directories until dropped.
pub(crate) fn lock_all() -> Result<File> {
    let root = Path::new(STATE_DIRECTORY);
    make_directory(root)?;
    let path = root.join(".lock");
    let file = File::create(&path).at("create", &path)?;
    file.lock().at("lock", &path)?;
    Ok(file)
}

/// Makes a directory for root alone, unless it exists.
fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.at("create the directory", path),
    }
}

/// Makes a mount point and says whether it had to be made. It must be empty: a mount would hide what is there.
pub(crate) fn make_mount_point(path: &Path) -> Result<bool> {
    if kernel::mounts()?.iter().any(|mount| mount.mount_point == path) {
        return Err(Error::Invalid(format!("something is mounted on {} already", path.display())));
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let is_empty = fs::read_dir(path).at("list", path)?.next().is_none();
            if is_empty {
                return Ok(false);
            }
            Err(Error::Invalid(format!("the mount point {} is not empty", path.display())))
        }
        Err(error) => Err(error).at("create the mount point", path),
    }
}

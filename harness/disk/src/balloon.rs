//! A file that fills a file system.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use crate::error::{At, Result};

/// Its name, at the root of the disk.
const NAME: &str = ".highwater-balloon";
/// ext4's block, below which there is nothing left to take.
const BLOCK_BYTES: u64 = 4096;

/// What fills a disk. Dropping it leaves the disk full; [`Balloon::deflate`] frees the space.
#[derive(Debug)]
pub struct Balloon {
    path: PathBuf,
    size_bytes: u64,
}

impl Balloon {
    /// Takes all space but `leave_bytes`, adding to a balloon that is there already.
    pub(crate) fn inflate(mount_point: &Path, leave_bytes: u64) -> Result<Self> {
        let path = mount_point.join(NAME);
        let file = File::options().append(true).create(true).open(&path).at("open the balloon", &path)?;
        let mut size_bytes = file.metadata().at("look at the balloon", &path)?.len();
        let mut chunk = u64::MAX;
        loop {
            let space = fstatvfs(&file).at("ask for the free space of", mount_point)?;
            let excess = (space.f_bavail * space.f_frsize).saturating_sub(leave_bytes);
            chunk = chunk.min(excess) / BLOCK_BYTES * BLOCK_BYTES;
            if chunk == 0 {
                return Ok(Self { path, size_bytes });
            }
            match fallocate(&file, FallocateFlags::empty(), size_bytes, chunk) {
                Ok(()) => size_bytes += chunk,
                // The last blocks go to the map of the blocks before.
                Err(Errno::NOSPC) => chunk /= 2,
                Err(errno) => Err(errno).at("inflate the balloon", &path)?,
            }
        }
    }

    /// How large it is.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Frees the space.
    pub fn deflate(self) -> Result<()> {
        std::fs::remove_file(&self.path).at("remove the balloon", &self.path)
    }

    /// The balloon on a disk, wherever it was made; none if there is none.
    pub fn find(mount_point: &Path) -> Option<Self> {
        let path = mount_point.join(NAME);
        let size_bytes = std::fs::metadata(&path).ok()?.len();
        Some(Self { path, size_bytes })
    }
}

//! Directories and file systems, as far as a plain system call tells of them. These wait for the device.

use std::path::Path;

use super::sys;
use crate::buf::IO_ALIGNMENT;
use crate::error::{FileError, FileOp};
use crate::fs::{DirEntry, FileKind, OpenOptions, Space};

/// Permissions of new files, before the umask.
pub(crate) const FILE_MODE: u32 = 0o644;
/// Permissions of new directories, before the umask.
pub(crate) const DIRECTORY_MODE: u32 = 0o755;

/// The flags of open(2), without `O_DIRECT`, which is asked for afterwards: open(2) with it creates a file before it refuses
/// to open it so.
pub(crate) fn open_flags(options: OpenOptions) -> i32 {
    let mut flags = match (options.read, options.write) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        (_, false) => libc::O_RDONLY,
    };
    for (wanted, flag) in [
        (options.create, libc::O_CREAT),
        (options.create_new, libc::O_CREAT | libc::O_EXCL),
        (options.truncate, libc::O_TRUNC),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    flags
}

/// What a mode of stat(2) says the thing is.
pub(crate) fn kind(mode: u32) -> FileKind {
    match mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::File,
        libc::S_IFDIR => FileKind::Directory,
        _ => FileKind::Other,
    }
}

/// Lists a directory, in no order.
pub(crate) fn read_dir(path: &Path) -> Result<Vec<DirEntry>, FileError> {
    let entries = list(path, |_, _| Ok(0))?;
    Ok(entries.into_iter().map(|(entry, _)| entry).collect())
}

/// The same, with the length in bytes of each file.
pub(crate) fn read_dir_with_lengths(path: &Path) -> Result<Vec<(DirEntry, u64)>, FileError> {
    list(path, |entry, kind| if kind == FileKind::File { Ok(entry.metadata()?.len()) } else { Ok(0) })
}

fn list(
    path: &Path,
    len_of: impl Fn(&std::fs::DirEntry, FileKind) -> std::io::Result<u64>,
) -> Result<Vec<(DirEntry, u64)>, FileError> {
    let failed = |error| FileError::new(FileOp::List, path, error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let file_type = entry.file_type().map_err(failed)?;
        let kind = match () {
            () if file_type.is_file() => FileKind::File,
            () if file_type.is_dir() => FileKind::Directory,
            () => FileKind::Other,
        };
        let len_bytes = len_of(&entry, kind).map_err(failed)?;
        entries.push((DirEntry { name, kind }, len_bytes));
    }
    Ok(entries)
}

/// `f_type` of a ramfs (statfs(2)).
const RAMFS_MAGIC: libc::__fsword_t = 0x8584_58f6;

pub(crate) fn space(path: &Path) -> Result<Space, FileError> {
    let space = sys::c_path(path).and_then(|path| sys::statfs(&path));
    let space = space.map_err(|error| FileError::new(FileOp::Space, path, error))?;
    let block_bytes = space.f_frsize.unsigned_abs();
    Ok(Space {
        available_bytes: space.f_bavail.saturating_mul(block_bytes),
        total_bytes: space.f_blocks.saturating_mul(block_bytes),
        is_in_memory: matches!(space.f_type, libc::TMPFS_MAGIC | RAMFS_MAGIC),
    })
}

/// What is known of a directory's alignment in bytes; 0 for what is not told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Alignments {
    /// Block of the file system.
    pub(crate) block: u64,
    /// Physical block of the device.
    pub(crate) physical_block: u64,
    /// Of memory, and of positions in a file, as `statx` reports them.
    pub(crate) reported: [u64; 2],
}

impl Alignments {
    /// The greatest, and at least [`IO_ALIGNMENT`]; a power of two.
    pub(crate) fn greatest(self) -> usize {
        let [memory, position] = self.reported;
        let greatest = [self.block, self.physical_block, memory, position].into_iter().max();
        let greatest = usize::try_from(greatest.unwrap_or_default()).unwrap_or_default();
        greatest.max(IO_ALIGNMENT).next_power_of_two()
    }
}

/// Physical block of the device in bytes; 0 for what is no block device, or is not told.
pub(crate) fn physical_block(major: u32, minor: u32) -> u64 {
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue of its own, and stands in the directory of its disk.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{device}/{queue}/physical_block_size")).ok())
        .and_then(|size| size.trim().parse().ok())
        .unwrap_or_default()
}

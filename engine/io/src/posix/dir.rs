//! Names, directories and file systems: each operation is one job.

use std::io;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, StatxFlags, statx};
use rustix::io::{Errno, retry_on_intr};

use super::core::Core;
use super::file;
use crate::error::{FileError, FileOp};
use crate::fs::{DirEntry, FileId, Metadata, Space};
use crate::real::dir::{self, Alignments, DIRECTORY_MODE};
use crate::real::sys;

/// Unit of `st_blocks` in bytes.
const STAT_BLOCK_BYTES: u64 = 512;

pub(super) async fn create_dir(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    let mode = Mode::from_raw_mode(DIRECTORY_MODE);
    on_path(core, FileOp::Create, path, move |path| retry(|| rustix::fs::mkdir(path, mode))).await
}

pub(super) async fn remove_file(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    on_path(core, FileOp::Remove, path, |path| retry(|| rustix::fs::unlink(path))).await
}

pub(super) async fn remove_dir(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    on_path(core, FileOp::Remove, path, |path| retry(|| rustix::fs::rmdir(path))).await
}

pub(super) async fn rename(core: &Rc<Core>, from: &Path, to: &Path) -> Result<(), FileError> {
    let to = to.to_owned();
    on_path(core, FileOp::Rename, from, move |from| retry(|| rustix::fs::rename(from, &to))).await
}

pub(super) async fn sync_dir(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    on_path(core, FileOp::SyncDirectory, path, |path| {
        let directory = file::open(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
        Ok(file::sync_all(&directory)?)
    })
    .await
}

pub(super) async fn read_dir(core: &Rc<Core>, path: &Path) -> Result<Vec<DirEntry>, FileError> {
    let path = path.to_owned();
    core.carry_out(move || dir::read_dir(&path)).await
}

pub(super) async fn metadata(core: &Rc<Core>, path: &Path) -> Result<Metadata, FileError> {
    on_path(core, FileOp::Metadata, path, |path| {
        let stat = rustix::fs::stat(path)?;
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        Ok(Metadata {
            len_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            allocated_bytes: blocks * STAT_BLOCK_BYTES,
            kind: dir::kind(stat.st_mode),
            id: FileId { device: stat.st_dev, inode: stat.st_ino },
        })
    })
    .await
}

pub(super) async fn space(core: &Rc<Core>, path: &Path) -> Result<Space, FileError> {
    let path = path.to_owned();
    core.carry_out(move || dir::space(&path)).await
}

/// The greatest of what the file system, its device and `statx` say.
pub(super) async fn direct_io_alignment(core: &Rc<Core>, path: &Path) -> Result<usize, FileError> {
    on_path(core, FileOp::Metadata, path, |path| {
        let block = sys::statfs(&sys::c_path(path)?)?.f_frsize.unsigned_abs();
        let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
        let physical_block = dir::physical_block(stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Alignments { block, physical_block, reported: reported_alignment(path) }.greatest())
    })
    .await
}

/// Alignment of memory and position that `statx` reports (Linux 6.1); zeros where it does not. It reports for files
/// only, hence an unnamed one.
fn reported_alignment(directory: &Path) -> [u64; 2] {
    let Ok(file) = file::open(directory, libc::O_TMPFILE | libc::O_RDWR) else { return [0; 2] };
    match statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) => [stat.stx_dio_mem_align, stat.stx_dio_offset_align].map(u64::from),
        Err(_) => [0; 2],
    }
}

/// A job on a path.
async fn on_path<T: Send + 'static>(
    core: &Rc<Core>,
    op: FileOp,
    path: &Path,
    job: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, FileError> {
    let to_use = path.to_owned();
    core.carry_out(move || job(&to_use)).await.map_err(|error| FileError::new(op, path, error))
}

/// Makes a call that has no result, and makes it anew when it was interrupted.
fn retry(call: impl FnMut() -> Result<(), Errno>) -> io::Result<()> {
    Ok(retry_on_intr(call)?)
}

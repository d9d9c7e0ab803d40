//! Names, directories and file systems, as a shard sees them.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::rc::Rc;

use io_uring::types::FsyncFlags;

use super::core::Core;
use super::file;
use super::request::{Request, StatTarget};
use crate::error::{FileError, FileOp};
use crate::fs::{FileId, Metadata};
use crate::real::dir::{self, Alignments, DIRECTORY_MODE};
use crate::real::sys;

/// Unit of `stx_blocks` in bytes.
const STAT_BLOCK_BYTES: u64 = 512;

pub(super) async fn create_dir(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    on_path(core, FileOp::Create, path, |path| Request::create_dir(path, DIRECTORY_MODE)).await
}

pub(super) async fn remove_file(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    on_path(core, FileOp::Remove, path, |path| Request::unlink(path, 0)).await
}

pub(super) async fn remove_dir(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    on_path(core, FileOp::Remove, path, |path| Request::unlink(path, libc::AT_REMOVEDIR)).await
}

async fn on_path(
    core: &Rc<Core>,
    op: FileOp,
    path: &Path,
    request: impl Fn(CString) -> Request,
) -> Result<(), FileError> {
    let failed = |error| FileError::new(op, path, error);
    let c_path = sys::c_path(path).map_err(failed)?;
    core.repeat(|| request(c_path.clone())).await.map_err(failed)
}

pub(super) async fn rename(core: &Rc<Core>, from: &Path, to: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::new(FileOp::Rename, from, error);
    let c_from = sys::c_path(from).map_err(failed)?;
    let c_to = sys::c_path(to).map_err(failed)?;
    core.repeat(|| Request::rename(c_from.clone(), c_to.clone())).await.map_err(failed)
}

pub(super) async fn sync_dir(core: &Rc<Core>, path: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::new(FileOp::SyncDirectory, path, error);
    let directory = file::open(core, path, libc::O_RDONLY | libc::O_DIRECTORY).await.map_err(failed)?;
    file::sync(core, &directory, FsyncFlags::empty()).await.map_err(failed)
}

async fn stat(core: &Rc<Core>, target: StatTarget, mask: u32) -> io::Result<Box<libc::statx>> {
    let completion = core.submit(Request::stat(target, mask)).await;
    completion.result?;
    Ok(completion.held.into_stat())
}

async fn stat_path(core: &Rc<Core>, path: &Path) -> io::Result<Box<libc::statx>> {
    stat(core, StatTarget::Path(sys::c_path(path)?), libc::STATX_BASIC_STATS).await
}

pub(super) async fn metadata(core: &Rc<Core>, path: &Path) -> Result<Metadata, FileError> {
    let stat = stat_path(core, path).await.map_err(|error| FileError::new(FileOp::Metadata, path, error))?;
    let kind = dir::kind(u32::from(stat.stx_mode));
    let allocated_bytes = stat.stx_blocks * STAT_BLOCK_BYTES;
    let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
    let id = FileId { device, inode: stat.stx_ino };
    Ok(Metadata { len_bytes: stat.stx_size, allocated_bytes, kind, id })
}

/// The greatest of what the file system, its device and `statx` say.
pub(super) async fn direct_io_alignment(core: &Rc<Core>, path: &Path) -> Result<usize, FileError> {
    let failed = |error| FileError::new(FileOp::Metadata, path, error);
    let stat = stat_path(core, path).await.map_err(failed)?;
    let c_path = sys::c_path(path).map_err(failed)?;
    let block = sys::statfs(&c_path).map_err(failed)?.f_frsize.unsigned_abs();
    let physical_block = dir::physical_block(stat.stx_dev_major, stat.stx_dev_minor);
    let reported = reported_alignment(core, path).await;
    Ok(Alignments { block, physical_block, reported }.greatest())
}

/// Alignment of memory and position that `statx` reports (Linux 6.1); zeros where it does not. It reports for files
/// only, hence an unnamed one.
async fn reported_alignment(core: &Rc<Core>, directory: &Path) -> [u64; 2] {
    let Ok(file) = file::open(core, directory, libc::O_TMPFILE | libc::O_RDWR).await else { return [0; 2] };
    match stat(core, StatTarget::File(file), libc::STATX_DIOALIGN).await {
        Ok(stat) => [stat.stx_dio_mem_align, stat.stx_dio_offset_align].map(u64::from),
        Err(_) => [0; 2],
    }
}

//! Open files of a shard: each operation is one job.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use super::core::Core;
use crate::buf::IoBuf;
use crate::error::{FileError, FileOp};
use crate::fs::{Durability, OpenOptions};
use crate::real::dir::{FILE_MODE, open_flags};
use crate::real::pieces::{MAX_BYTES, MAX_PIECES, Pieces};
use crate::real::sys;

pub(crate) struct File {
    core: Rc<Core>,
    /// The last holder closes it; a job is a holder.
    file: Arc<OwnedFd>,
    path: Rc<Path>,
    direct: bool,
    /// Whether the file system has refused `RWF_DSYNC`.
    without_dsync: Arc<AtomicBool>,
}

/// An errno, and what was asked where it came.
type Failed = (FileOp, Option<u64>, io::Error);

impl File {
    pub(super) async fn open(core: &Rc<Core>, path: &Path, options: OpenOptions) -> Result<Self, FileError> {
        let to_open = path.to_owned();
        let open = move || {
            let file = open(&to_open, open_flags(options))?;
            let direct = options.direct && sys::set_direct(&file)?;
            Ok((file, direct))
        };
        let opened: io::Result<(OwnedFd, bool)> = core.carry_out(open).await;
        let (file, direct) = opened.map_err(|error| FileError::new(FileOp::Open, path, error))?;
        let file = Arc::new(file);
        Ok(File { core: Rc::clone(core), file, path: Rc::from(path), direct, without_dsync: Arc::default() })
    }

    pub(super) fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    fn error(&self, (op, position_bytes, source): Failed) -> FileError {
        FileError { op, path: self.path.to_path_buf(), position_bytes, source }
    }

    /// A job on this file.
    async fn carry_out<T: Send + 'static>(
        &self,
        job: impl FnOnce(&OwnedFd) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, FileError> {
        let file = Arc::clone(&self.file);
        self.core.carry_out(move || job(&file)).await.map_err(|failed| self.error(failed))
    }

    pub(crate) async fn read_at(
        &self,
        buf: IoBuf,
        position_bytes: u64,
        len: usize,
    ) -> Result<IoBuf, FileError> {
        let direct = self.direct;
        self.carry_out(move |file| read(file, buf, position_bytes, len, direct)).await
    }

    pub(crate) async fn write_at(
        &self,
        data: Vec<Bytes>,
        position_bytes: u64,
        durability: Durability,
    ) -> Result<(), FileError> {
        let pieces = Pieces::new(data);
        if pieces.is_done() {
            return Ok(());
        }
        let without_dsync = Arc::clone(&self.without_dsync);
        self.carry_out(move |file| write(file, pieces, position_bytes, durability, &without_dsync)).await
    }

    pub(crate) async fn sync_data(&self) -> Result<(), FileError> {
        self.carry_out(|file| sync_data(file).map_err(|error| (FileOp::SyncData, None, error.into()))).await
    }

    pub(crate) async fn sync_all(&self) -> Result<(), FileError> {
        self.carry_out(|file| sync_all(file).map_err(|error| (FileOp::SyncAll, None, error.into()))).await
    }

    pub(crate) async fn allocate(&self, position_bytes: u64, len_bytes: u64) -> Result<(), FileError> {
        self.carry_out(move |file| {
            let allocate = || rustix::fs::fallocate(file, FallocateFlags::empty(), position_bytes, len_bytes);
            retry_on_intr(allocate).map_err(|error| (FileOp::Allocate, Some(position_bytes), error.into()))
        })
        .await
    }

    pub(crate) async fn set_len(&self, len_bytes: u64) -> Result<(), FileError> {
        let failed = move |error| (FileOp::SetLength, Some(len_bytes), error);
        if i64::try_from(len_bytes).is_err() {
            return Err(self.error(failed(io::ErrorKind::FileTooLarge.into())));
        }
        self.carry_out(move |file| {
            retry_on_intr(|| rustix::fs::ftruncate(file, len_bytes)).map_err(|error| failed(error.into()))
        })
        .await
    }

    pub(crate) async fn len(&self) -> Result<u64, FileError> {
        self.carry_out(len).await
    }

    #[expect(clippy::unused_async, reason = "the facade awaits what another driver may have to wait for")]
    pub(crate) async fn try_lock(&self) -> Result<bool, FileError> {
        // Does not wait.
        sys::try_lock(&*self.file).map_err(|error| self.error((FileOp::Lock, None, error)))
    }
}

/// Opens without regard to what comes after.
pub(super) fn open(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags.unsigned_abs()) | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| rustix::fs::open(path, flags, Mode::from_raw_mode(FILE_MODE)))?)
}

/// `fdatasync`. Never made again, whatever the error: the kernel may have dropped the dirty pages.
fn sync_data(file: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fdatasync(file)
}

/// `fsync`, and as little made again.
pub(super) fn sync_all(file: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fsync(file)
}

fn len(file: &OwnedFd) -> Result<u64, Failed> {
    let stat = rustix::fs::fstat(file).map_err(|error| (FileOp::Metadata, None, error.into()))?;
    Ok(stat.st_size.unsigned_abs())
}

fn read(
    file: &OwnedFd,
    mut buf: IoBuf,
    position_bytes: u64,
    wanted: usize,
    direct: bool,
) -> Result<IoBuf, Failed> {
    buf.set_len(wanted);
    let mut at = 0;
    while at < wanted {
        let end = wanted.min(at + MAX_BYTES);
        let position = position_bytes + at as u64;
        let read = match rustix::io::pread(file, &mut buf[at..end], position) {
            Ok(0) => break,
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err((FileOp::Read, Some(position), error.into())),
        };
        at += read;
        // The end of the file may not be aligned, so it cannot be found by reading on from there.
        if direct && at < wanted && position + read as u64 >= len(file)? {
            break;
        }
    }
    buf.set_len(at);
    Ok(buf)
}

fn write(
    file: &OwnedFd,
    mut pieces: Pieces,
    position_bytes: u64,
    durability: Durability,
    without_dsync: &AtomicBool,
) -> Result<(), Failed> {
    let mut position = position_bytes;
    while !pieces.is_done() {
        let list: Vec<IoSlice<'_>> = pieces.left().take(MAX_PIECES).map(IoSlice::new).collect();
        let dsync = durability == Durability::Sync && !without_dsync.load(Ordering::Relaxed);
        let flags = if dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let failed = |error| (FileOp::Write, Some(position), error);
        // Without flags the older call does: a sandbox may not know the newer one.
        let written = if dsync {
            rustix::io::pwritev2(file, &list, position, flags)
        } else {
            rustix::io::pwritev(file, &list, position)
        };
        match written {
            Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                pieces.advance(written);
                position += written as u64;
            }
            Err(Errno::INTR) => {}
            // Nothing was written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if dsync => without_dsync.store(true, Ordering::Relaxed),
            Err(error) => return Err(failed(error.into())),
        }
    }
    // Of what a first part may have written with the flag, this makes nothing worse.
    if durability == Durability::Sync && without_dsync.load(Ordering::Relaxed) {
        sync_data(file).map_err(|error| (FileOp::Write, Some(position_bytes), error.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The null device takes every byte, and refuses to flush.
    #[test]
    fn flush_in_place_of_a_flushing_write_fails_the_write() {
        let null = open(Path::new("/dev/null"), libc::O_RDWR).expect("is there");
        let pieces = || Pieces::new(vec![Bytes::from_static(b"abc")]);
        let without_dsync = AtomicBool::new(true);
        write(&null, pieces(), 0, Durability::Plain, &without_dsync).expect("nothing is flushed");
        let (op, position, error) =
            write(&null, pieces(), 0, Durability::Sync, &without_dsync).expect_err("cannot be flushed");
        assert_eq!((op, position, error.raw_os_error()), (FileOp::Write, Some(0), Some(libc::EINVAL)));
    }

    #[test]
    fn write_that_is_flushed_afterwards_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = open(&dir.path().join("f"), libc::O_RDWR | libc::O_CREAT).expect("created");
        let pieces = Pieces::new(vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"de")]);
        write(&file, pieces, 1, Durability::Sync, &AtomicBool::new(true)).expect("written");
        let read = read(&file, IoBuf::with_capacity(10), 0, 10, false).expect("read");
        assert_eq!(&read[..], b"\0abcde");
    }
}

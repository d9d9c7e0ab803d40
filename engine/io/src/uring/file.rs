//! Open files of a shard.

use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use io_uring::types::FsyncFlags;

use super::core::{Core, descriptor, is_transient};
use super::request::{Descriptor, Outgoing, Request, StatTarget};
use crate::buf::IoBuf;
use crate::error::{FileError, FileOp};
use crate::fs::{Durability, OpenOptions};
use crate::real::dir::{FILE_MODE, open_flags};
use crate::real::sys;

pub(crate) struct File {
    core: Rc<Core>,
    file: Descriptor,
    path: Rc<Path>,
    direct: bool,
}

impl File {
    pub(super) async fn open(core: &Rc<Core>, path: &Path, options: OpenOptions) -> Result<Self, FileError> {
        let failed = |error| FileError::new(FileOp::Open, path, error);
        let file = open(core, path, open_flags(options)).await.map_err(failed)?;
        // Asked for afterwards: open(2) with O_DIRECT creates a file before it refuses to open it so.
        let direct = options.direct && sys::set_direct(&*file).map_err(failed)?;
        Ok(File { core: Rc::clone(core), file, path: Rc::from(path), direct })
    }

    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.file
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    fn failed(&self, op: FileOp) -> impl Fn(io::Error) -> FileError {
        move |error| FileError::new(op, &*self.path, error)
    }

    pub(crate) async fn read_at(
        &self,
        mut buf: IoBuf,
        position_bytes: u64,
        len: usize,
    ) -> Result<IoBuf, FileError> {
        buf.set_len(0);
        while buf.len() < len {
            let position = position_bytes + buf.len() as u64;
            let missing = len - buf.len();
            let completion = self.core.submit(Request::read(&self.file, buf, missing, position)).await;
            buf = completion.held.into_buffer();
            let read = match completion.result {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return Err(FileError::at(FileOp::Read, &*self.path, position, error)),
            };
            buf.set_len(len - missing + read);
            // The end of the file may not be aligned, so it cannot be found by reading on from there.
            if self.direct && read < missing && position + read as u64 >= self.len().await? {
                break;
            }
        }
        Ok(buf)
    }

    pub(crate) async fn write_at(
        &self,
        data: Vec<Bytes>,
        position_bytes: u64,
        durability: Durability,
    ) -> Result<(), FileError> {
        let flags = match durability {
            Durability::Plain => 0,
            Durability::Sync => libc::RWF_DSYNC,
        };
        let mut position = position_bytes;
        let mut pieces = Outgoing::new(data, || self.core.spare_vector());
        while !pieces.is_done() {
            let written = self.core.submit(Request::write(&self.file, pieces, position, flags));
            if durability == Durability::Sync {
                // Whoever gathers what comes next does it while this one is on its way.
                self.core.hand_over();
            }
            let completion = written.await;
            pieces = completion.held.into_pieces();
            let failed = |error| FileError::at(FileOp::Write, &*self.path, position, error);
            match completion.result {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    pieces.advance(written);
                    position += written as u64;
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.core.keep_vector(pieces.into_vector());
        Ok(())
    }

    pub(crate) async fn sync_data(&self) -> Result<(), FileError> {
        sync(&self.core, &self.file, FsyncFlags::DATASYNC).await.map_err(self.failed(FileOp::SyncData))
    }

    pub(crate) async fn sync_all(&self) -> Result<(), FileError> {
        sync(&self.core, &self.file, FsyncFlags::empty()).await.map_err(self.failed(FileOp::SyncAll))
    }

    pub(crate) async fn allocate(&self, position_bytes: u64, len_bytes: u64) -> Result<(), FileError> {
        self.core
            .repeat(|| Request::allocate(&self.file, position_bytes, len_bytes))
            .await
            .map_err(|error| FileError::at(FileOp::Allocate, &*self.path, position_bytes, error))
    }

    pub(crate) async fn set_len(&self, len_bytes: u64) -> Result<(), FileError> {
        let failed = |error| FileError::at(FileOp::SetLength, &*self.path, len_bytes, error);
        let signed = i64::try_from(len_bytes).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        if self.core.kernel.ftruncate {
            self.core.repeat(|| Request::truncate(&self.file, len_bytes)).await.map_err(failed)
        } else {
            sys::truncate(&*self.file, signed).map_err(failed)
        }
    }

    pub(crate) async fn len(&self) -> Result<u64, FileError> {
        let target = StatTarget::File(Rc::clone(&self.file));
        let completion = self.core.submit(Request::stat(target, libc::STATX_SIZE)).await;
        completion.result.map_err(self.failed(FileOp::Metadata))?;
        Ok(completion.held.into_stat().stx_size)
    }

    pub(crate) async fn try_lock(&self) -> Result<bool, FileError> {
        sys::try_lock(&*self.file).map_err(self.failed(FileOp::Lock))
    }
}

/// Opens without regard to what comes after.
pub(super) async fn open(core: &Rc<Core>, path: &Path, flags: i32) -> io::Result<Descriptor> {
    let path = sys::c_path(path)?;
    loop {
        let completion = core.submit(Request::open(path.clone(), flags, FILE_MODE)).await;
        match completion.result {
            Ok(_) => return Ok(descriptor(completion.descriptor.expect("an open gives a descriptor"))),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Flushes a file or directory. Never made again, whatever the error: the kernel may have dropped the dirty pages.
pub(super) async fn sync(core: &Rc<Core>, file: &Descriptor, flags: FsyncFlags) -> io::Result<()> {
    core.submit(Request::sync(file, flags)).await.result.map(drop)
}

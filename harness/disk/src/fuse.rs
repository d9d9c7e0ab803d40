//! A FUSE file system with one file, the medium, and nothing else.
//!
//! Each read, write and fsync of the file becomes a request to the [`Device`], which answers when it likes; the
//! threads here never wait for it. The file is opened for direct I/O, so the kernel caches nothing of it: what
//! the loop device writes arrives here, and its flush is an fsync.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request as FuseRequest, Session,
    WriteFlags,
};

use crate::device::{Device, Failure, Request};

/// The name of the one file.
pub(crate) const MEDIUM_NAME: &str = "medium";

const ROOT: INodeNo = INodeNo(1);
const MEDIUM: INodeNo = INodeNo(2);
/// Nothing here ever changes.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// More than two bring nothing: the device has one lock, and copying is most of the work.
const THREADS: usize = 2;
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// The loop device keeps up to 128 requests in flight; none shall queue in the kernel's background limit.
const MAX_BACKGROUND: u16 = 512;

/// Mounts the medium in a directory and serves it from background threads.
pub(crate) fn serve(device: Arc<Device>, directory: &Path) -> io::Result<BackgroundSession> {
    let medium = MediumFile { size_bytes: device.size_bytes(), device };
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("highwater-disk".to_owned()), MountOption::DefaultPermissions];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    Session::new(medium, directory, &config)?.spawn()
}

struct MediumFile {
    device: Arc<Device>,
    size_bytes: u64,
}

impl MediumFile {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = match inode {
            ROOT => (FileType::Directory, 0o700, 0),
            _ => (FileType::RegularFile, 0o600, self.size_bytes),
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::Io => Errno::EIO,
        Failure::Invalid => Errno::EINVAL,
    }
}

impl Filesystem for MediumFile {
    fn init(&mut self, _request: &FuseRequest, config: &mut KernelConfig) -> io::Result<()> {
        let unsupported = |name| io::Error::other(format!("this kernel's FUSE lacks {name}"));
        config.set_max_write(MAX_WRITE_BYTES).map_err(|_| unsupported("large writes"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| unsupported("background requests"))?;
        // Without it each of the loop device's requests would wait for the one before.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| unsupported("asynchronous direct I/O"))
    }

    fn lookup(&self, _request: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == ROOT && name == MEDIUM_NAME {
            reply.entry(&FOREVER, &self.attributes(MEDIUM), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &FuseRequest, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _request: &FuseRequest, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &FuseRequest,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let read = Request::Read { offset, length: length.min(size as usize) };
        self.device.submit(
            read,
            Box::new(move |answer| match answer {
                Ok(data) => reply.data(&data),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }

    fn write(
        &self,
        _request: &FuseRequest,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // A request never exceeds the 1 MiB that init allowed.
        let length = data.len() as u32;
        self.device.submit(
            Request::Write { offset, data },
            Box::new(move |answer| match answer {
                Ok(_) => reply.written(length),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }

    fn fsync(
        &self,
        _request: &FuseRequest,
        _inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.device.submit(
            Request::Flush,
            Box::new(move |answer| match answer {
                Ok(_) => reply.ok(),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }

    /// Called on each close; not a flush of the disk, despite its name.
    fn flush(
        &self,
        _request: &FuseRequest,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    /// Discards and zeroing by range are left to the layers above, which then write zeros.
    fn fallocate(
        &self,
        _request: &FuseRequest,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &FuseRequest,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (ROOT, FileType::Directory, "."),
            (ROOT, FileType::Directory, ".."),
            (MEDIUM, FileType::RegularFile, MEDIUM_NAME),
        ];
        for (index, (inode, kind, name)) in (0..).zip(entries).skip_while(|&(index, _)| index < offset) {
            if reply.add(inode, index + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

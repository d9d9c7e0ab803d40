//! The strict directory as a FUSE file system.
//!
//! Each request is checked against the tree, becomes an event, and is applied and recorded under one lock: the order of
//! the recording is the order of the directory. All files are opened for direct I/O, so the kernel caches no bytes, and
//! nothing is remembered of names and attributes.
//!
//! How what programs say arrives here (seen on Linux 6.18):
//!
//! - `RWF_DSYNC`, and `O_DSYNC` of an open file, come as `O_DSYNC` in the flags of the WRITE request itself, if the file is
//!   open for direct I/O *here* (`FOPEN_DIRECT_IO`); no FSYNC follows. Without that flag the kernel would send a plain WRITE
//!   and then an FSYNC of the whole file, which forgives what this disk must not. A write of more than [`MAX_WRITE_BYTES`]
//!   comes in pieces, each with the flag.
//! - `O_DIRECT` changes nothing here, and the kernel allows it.
//! - `flock` stays within the kernel. `fallocate`, `ftruncate`, `rename` and `unlink` of an open file come as themselves.
//!
//! A flush takes effect when it is answered, some time after it came, and covers what had been done when it came.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, Session, TimeOrNow, WriteFlags,
};

use super::content::Number;
use super::names::{Inode, ROOT};
use super::recording::Recorder;
use super::tree::{Node, StrictAction, Tree};
use crate::stats::Stamp;

/// The kernel sends what is larger in pieces.
pub(super) const MAX_WRITE_BYTES: u32 = 1 << 20;
/// So many flushes may be waiting while others write.
const THREADS: usize = 8;
const BLOCK_BYTES: u32 = 4096;
/// What statfs says: nobody shall see a full disk here.
const SHOWN_BLOCKS: u64 = 1 << 30;
const MAX_NAME_BYTES: u32 = 255;
/// Attributes and names may change with each request.
const NEVER: Duration = Duration::ZERO;

/// What all threads of the file system share.
pub(super) struct Shared {
    state: Mutex<State>,
    flush_delay: Duration,
}

struct State {
    tree: Tree,
    open: BTreeMap<Inode, u64>,
    recorder: Recorder,
    last: Number,
    last_inode: Inode,
    /// The first failure to record: from then on everything fails, as a recording with a gap is worth nothing.
    broken: bool,
}

/// Mounts an empty strict directory and serves it from background threads.
pub(super) fn serve(shared: &Arc<Shared>, mount_point: &Path) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("highwater-disk".to_owned()), MountOption::DefaultPermissions];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    Session::new(StrictFiles { shared: Arc::clone(shared) }, mount_point, &config)?.spawn()
}

impl Shared {
    pub(super) fn new(recorder: Recorder, flush_delay: Duration) -> Self {
        let state = State {
            tree: Tree::default(),
            open: BTreeMap::new(),
            recorder,
            last: 0,
            last_inode: ROOT,
            broken: false,
        };
        Shared { state: Mutex::new(state), flush_delay }
    }

    /// A thread that panicked has said so on standard error.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what was recorded to the kernel.
    pub(super) fn finish_recording(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::Error::other("an event could not be recorded"));
        }
        state.recorder.flush()
    }
}

impl State {
    fn happen(&mut self, action: &StrictAction) -> Result<Number, Errno> {
        if self.broken {
            return Err(Errno::EIO);
        }
        let number = self.last + 1;
        if let Err(error) = self.recorder.append(number, Stamp::now().monotonic_ns, action) {
            eprintln!("highwater-disk: the recording has a gap from event {number} on: {error}");
            self.broken = true;
            return Err(Errno::EIO);
        }
        self.last = number;
        self.tree.apply(number, action);
        if matches!(action, StrictAction::SyncDirectory { .. }) {
            self.forget_unreferenced();
        }
        Ok(number)
    }

    fn forget_unreferenced(&mut self) {
        let open = &self.open;
        self.tree.forget_unreferenced(|inode| open.contains_key(&inode));
    }

    fn new_inode(&mut self) -> Inode {
        self.last_inode += 1;
        self.last_inode
    }

    fn attributes(&self, inode: Inode) -> Result<FileAttr, Errno> {
        self.tree.node(inode).map(|node| attributes(inode, node)).ok_or(Errno::ENOENT)
    }

    fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.tree.node(inode), Some(Node::Directory))
    }

    fn is_empty(&self, directory: Inode) -> bool {
        self.tree.list(directory).next().is_none()
    }

    fn create(&mut self, parent: Inode, name: &OsStr, kind: FileType) -> Result<FileAttr, Errno> {
        if name.len() > MAX_NAME_BYTES as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        if !self.is_directory(parent) {
            return Err(Errno::ENOENT);
        }
        if self.tree.lookup(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let (inode, name) = (self.new_inode(), name.to_owned());
        self.happen(&match kind {
            FileType::Directory => StrictAction::CreateDirectory { parent, inode, name },
            _ => StrictAction::CreateFile { parent, inode, name },
        })?;
        self.attributes(inode)
    }

    fn remove(&mut self, parent: Inode, name: &OsStr, wanted: FileType) -> Result<(), Errno> {
        let (inode, node) = self.tree.lookup(parent, name).ok_or(Errno::ENOENT)?;
        match (node, wanted) {
            (Node::Directory, FileType::Directory) if !self.is_empty(inode) => return Err(Errno::ENOTEMPTY),
            (Node::Directory, FileType::Directory) | (Node::File(_), FileType::RegularFile) => {}
            (Node::Directory, _) => return Err(Errno::EISDIR),
            (Node::File(_), _) => return Err(Errno::ENOTDIR),
        }
        self.happen(&StrictAction::Remove { parent, name: name.to_owned() }).map(drop)
    }

    fn rename(&mut self, from: (Inode, &OsStr), to: (Inode, &OsStr), keep: bool) -> Result<(), Errno> {
        let (_, moved) = self.tree.lookup(from.0, from.1).ok_or(Errno::ENOENT)?;
        if to.1.len() > MAX_NAME_BYTES as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        if let Some((inode, replaced)) = self.tree.lookup(to.0, to.1) {
            match (moved, replaced) {
                _ if keep => return Err(Errno::EEXIST),
                (Node::Directory, Node::Directory) if !self.is_empty(inode) => return Err(Errno::ENOTEMPTY),
                (Node::Directory, Node::Directory) | (Node::File(_), Node::File(_)) => {}
                (Node::Directory, Node::File(_)) => return Err(Errno::ENOTDIR),
                (Node::File(_), Node::Directory) => return Err(Errno::EISDIR),
            }
        }
        self.happen(&StrictAction::Rename {
            parent: from.0,
            name: from.1.to_owned(),
            new_parent: to.0,
            new_name: to.1.to_owned(),
        })
        .map(drop)
    }

    fn set_len(&mut self, inode: Inode, len_bytes: u64) -> Result<(), Errno> {
        self.tree.file(inode).ok_or(Errno::EISDIR)?;
        self.happen(&StrictAction::SetLength { inode, len_bytes }).map(drop)
    }

    fn write(&mut self, inode: Inode, offset_bytes: u64, data: &[u8]) -> Result<Number, Errno> {
        self.tree.file(inode).ok_or(Errno::EBADF)?;
        if data.is_empty() {
            return Ok(self.last);
        }
        self.happen(&StrictAction::Write { inode, offset_bytes, data: data.to_vec() })
    }

    fn read(&self, inode: Inode, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let content = self.tree.file(inode).ok_or(Errno::EBADF)?.live();
        let left = usize::try_from(content.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(size as usize)];
        content.read(offset, &mut bytes);
        Ok(bytes)
    }

    fn release(&mut self, inode: Inode) {
        if let Some(count) = self.open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&inode);
                self.forget_unreferenced();
            }
        }
    }
}

fn attributes(inode: Inode, node: &Node) -> FileAttr {
    let (kind, perm, nlink, size, allocated) = match node {
        Node::Directory => (FileType::Directory, 0o755, 2, u64::from(BLOCK_BYTES), 0),
        Node::File(file) => {
            (FileType::RegularFile, 0o644, 1, file.live().len(), file.live().allocated_bytes())
        }
    };
    FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: allocated / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

struct StrictFiles {
    shared: Arc<Shared>,
}

impl StrictFiles {
    /// Waits as long as the medium takes, then lets the flush happen.
    fn flush(&self, action: impl FnOnce(Number) -> StrictAction) -> Result<(), Errno> {
        let upto = self.shared.lock().last;
        std::thread::sleep(self.shared.flush_delay);
        self.shared.lock().happen(&action(upto)).map(drop)
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&NEVER, &attributes, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn answer_attributes(reply: ReplyAttr, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.attr(&NEVER, &attributes),
        Err(errno) => reply.error(errno),
    }
}

const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

impl Filesystem for StrictFiles {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let unsupported = |name| io::Error::other(format!("this kernel's FUSE lacks {name}"));
        config.set_max_write(MAX_WRITE_BYTES).map_err(|_| unsupported("large writes"))?;
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| unsupported("asynchronous direct I/O"))
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.shared.lock();
        let found = state.tree.lookup(parent.0, name);
        answer_entry(reply, found.map(|(inode, node)| attributes(inode, node)).ok_or(Errno::ENOENT));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.shared.lock().attributes(inode.0));
    }

    /// Only the length matters here: owners, modes and times are accepted and forgotten.
    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.shared.lock();
        let done = size.map_or(Ok(()), |len| state.set_len(inode.0, len));
        answer_attributes(reply, done.and_then(|()| state.attributes(inode.0)));
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.shared.lock().create(parent.0, name, FileType::Directory));
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.shared.lock();
        match state.create(parent.0, name, FileType::RegularFile) {
            Ok(attributes) => {
                *state.open.entry(attributes.ino.0).or_default() += 1;
                reply.created(&NEVER, &attributes, Generation(0), FileHandle(0), OPENED);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.shared.lock().remove(parent.0, name, FileType::RegularFile));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.shared.lock().remove(parent.0, name, FileType::Directory));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep = flags == RenameFlags::RENAME_NOREPLACE;
        if !keep && !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        answer(reply, self.shared.lock().rename((parent.0, name), (new_parent.0, new_name), keep));
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut state = self.shared.lock();
        if state.tree.file(inode.0).is_none() {
            return reply.error(Errno::ENOENT);
        }
        *state.open.entry(inode.0).or_default() += 1;
        reply.opened(FileHandle(0), OPENED);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.lock().release(inode.0);
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.shared.lock().read(inode.0, offset, size);
        match read {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_flushing = flags.0 & libc::O_DSYNC != 0;
        let written = self.shared.lock().write(inode.0, offset, data);
        let settled = written.and_then(|write| {
            if !is_flushing {
                return Ok(());
            }
            std::thread::sleep(self.shared.flush_delay);
            self.shared.lock().happen(&StrictAction::Settle { inode: inode.0, write }).map(drop)
        });
        match settled {
            // A request never exceeds the 1 MiB that init allowed.
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.flush(|upto| StrictAction::SyncFile { inode: inode.0, upto }));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.flush(|upto| StrictAction::SyncDirectory { inode: inode.0, upto }));
    }

    /// Called on each close; not a flush of the disk, despite its name.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = self.shared.lock();
        let end = offset.saturating_add(length);
        let grows = state.tree.file(inode.0).is_some_and(|file| file.live().len() < end);
        answer(reply, if grows { state.set_len(inode.0, end) } else { Ok(()) });
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let (total, free) = (SHOWN_BLOCKS, SHOWN_BLOCKS / 2);
        reply.statfs(total, free, free, total, free, BLOCK_BYTES, MAX_NAME_BYTES, BLOCK_BYTES);
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.shared.lock();
        // By number and not by place, so that nothing is left out where names go while one lists.
        let mut entries: Vec<(u64, Inode, FileType, &OsStr)> = [".", ".."]
            .into_iter()
            .zip(1..)
            .map(|(name, next)| (next, inode.0, FileType::Directory, OsStr::new(name)))
            .chain(state.tree.list(inode.0).map(|(name, inode, node)| match node {
                Node::Directory => (inode + 2, inode, FileType::Directory, name),
                Node::File(_) => (inode + 2, inode, FileType::RegularFile, name),
            }))
            .filter(|(next, ..)| *next > offset)
            .collect();
        entries.sort_unstable_by_key(|(next, ..)| *next);
        for (next, inode, kind, name) in entries {
            if reply.add(INodeNo(inode), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

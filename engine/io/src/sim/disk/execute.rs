//! What each request does at the moment it lands.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;

use super::content::PAGE;
use super::fault::{DiskOp, FaultEffect, Phase};
use super::file::{FileState, Sequence, WritePath};
use super::names::{InodeId, Name, ROOT};
use super::request::{Action, Errno, NamePath, Opened, Reply, Request};
use super::{Description, DescriptionId, DiskState, Inode, Node};
use crate::buf::IoBuf;
use crate::fs::{DirEntry, Durability, FileId, FileKind, Metadata, OpenOptions, Space};
use crate::sim::kernel::{Kernel, ProcessId};

/// Granularity in bytes at which reads see parts of a write in flight, and failed writes stop.
const PART: usize = 512;

/// Longest name in a directory, in bytes, as on Linux's file systems.
const NAME_MAX: usize = 255;

impl DiskState {
    pub(super) fn execute(&mut self, kernel: &mut Kernel, request: &mut Request) -> Result<Reply, Errno> {
        let effect = self.hit(kernel, request.action.op(), &Rc::clone(&request.path), Phase::End);
        let upto = request.asked_after;
        let description = request.description;
        match (&mut request.action, effect) {
            (Action::Write { data, position, durability }, effect) => {
                let write = WriteRequest { data, position: *position, durability: *durability };
                self.write(kernel, opened(description), &write, effect, &request.path)
            }
            (Action::Flush, effect) => {
                let inode = self.description(opened(description))?.inode;
                self.flush(kernel, inode, upto, effect)
            }
            (_, Some(FaultEffect::Errno(errno))) => Err(errno),
            (Action::SyncDir { .. }, Some(FaultEffect::Lie)) => Ok(Reply::Done),
            (Action::SyncDir { directory }, _) => {
                self.names.sync((*directory)?, upto);
                self.collect_unlinked();
                Ok(Reply::Done)
            }
            (Action::Open { names, options }, _) => self.open(request.process, names, *options),
            (Action::CreateDir { names }, _) => self.create_dir(names),
            (Action::RemoveFile { names }, _) => self.remove(names, FileKind::File),
            (Action::RemoveDir { names }, _) => self.remove(names, FileKind::Directory),
            (Action::Rename { from, to }, _) => self.rename(from, to),
            (Action::ReadDir { names }, _) => self.read_dir(names),
            (Action::Metadata { names }, _) => self.metadata(names),
            (Action::Space { names }, _) => self.space(names),
            (Action::DirectAlignment { names }, _) => {
                self.resolve(names)?;
                Ok(Reply::Number(self.config.direct_alignment as u64))
            }
            (Action::Read { buf, position, len }, _) => {
                let buf = buf.take().expect("a read has its buffer until it is done");
                self.read(kernel, opened(description), buf, *position, *len)
            }
            (Action::Allocate { position, len }, _) => self.allocate(opened(description), *position, *len),
            (Action::SetLen { len }, _) => self.set_len(opened(description), *len),
            (Action::Len, _) => {
                let inode = self.description(opened(description))?.inode;
                Ok(Reply::Number(self.file(inode)?.live().len()))
            }
            (Action::TryLock, _) => self.try_lock(opened(description)),
        }
    }

    fn description(&self, id: DescriptionId) -> Result<&Description, Errno> {
        self.descriptions.get(&id).ok_or(libc::EBADF)
    }

    pub(super) fn file(&self, id: InodeId) -> Result<&FileState, Errno> {
        match &self.inode(id).node {
            Node::File(file) => Ok(file),
            Node::Directory => Err(libc::EISDIR),
        }
    }

    /// Changes a file and keeps account of the space that it takes.
    pub(super) fn change_file<R>(
        &mut self,
        id: InodeId,
        change: impl FnOnce(&mut FileState) -> R,
    ) -> Result<R, Errno> {
        let before = self.inode(id).allocated_pages();
        let Node::File(file) = &mut self.inode_mut(id).node else { return Err(libc::EISDIR) };
        let result = change(file);
        self.used_pages = self.used_pages + self.inode(id).allocated_pages() - before;
        Ok(result)
    }

    /// What `names` lead to.
    pub(super) fn resolve(&self, names: &[Rc<str>]) -> Result<InodeId, Errno> {
        names.iter().try_fold(ROOT, |at, name| {
            self.expect_directory(at)?;
            self.names.get(&(at, Rc::clone(name))).ok_or(libc::ENOENT)
        })
    }

    fn expect_directory(&self, id: InodeId) -> Result<(), Errno> {
        match self.inode(id).node {
            Node::Directory => Ok(()),
            Node::File(_) => Err(libc::ENOTDIR),
        }
    }

    /// The directory of the last name, and that name.
    fn resolve_parent(&self, names: &NamePath) -> Result<Name, Errno> {
        let (last, parents) = names.split_last().ok_or(libc::EBUSY)?;
        if last.len() > NAME_MAX {
            return Err(libc::ENAMETOOLONG);
        }
        let parent = self.resolve(parents)?;
        self.expect_directory(parent)?;
        Ok((parent, Rc::clone(last)))
    }

    fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.inode(id).node, Node::Directory)
    }

    fn create(&mut self, name: Name, node: Node) -> InodeId {
        let id = InodeId(self.next_inode);
        self.next_inode += 1;
        self.inodes.insert(id, Inode::new(node));
        self.change_names(vec![(name, Some(id))]);
        id
    }

    /// Changes names and counts which inodes they lead to.
    fn change_names(&mut self, names: Vec<(Name, Option<InodeId>)>) {
        let old: Vec<InodeId> = names.iter().filter_map(|(name, _)| self.names.get(name)).collect();
        let new: Vec<InodeId> = names.iter().filter_map(|(_, target)| *target).collect();
        let sequence = self.next_sequence();
        self.names.change(sequence, names);
        for id in new {
            self.inode_mut(id).links += 1;
        }
        for id in old {
            let before = self.inode(id).allocated_pages();
            self.inode_mut(id).links -= 1;
            self.used_pages -= before - self.inode(id).allocated_pages();
            self.collect(id);
        }
    }

    /// After names became durable, what they used to lead to may be gone for good.
    fn collect_unlinked(&mut self) {
        let mut unused: BTreeSet<InodeId> =
            self.inodes.iter().filter(|(_, inode)| !inode.is_in_use()).map(|(&id, _)| id).collect();
        if !unused.is_empty() {
            self.names.referenced().for_each(|id| _ = unused.remove(&id));
            unused.iter().for_each(|id| _ = self.inodes.remove(id));
        }
    }

    fn open(&mut self, process: ProcessId, names: &NamePath, options: OpenOptions) -> Result<Reply, Errno> {
        if !options.read && !options.write {
            return Err(libc::EINVAL);
        }
        if names.is_empty() {
            return Err(libc::EISDIR);
        }
        let name = self.resolve_parent(names)?;
        let inode = match self.names.get(&name) {
            Some(_) if options.create_new => return Err(libc::EEXIST),
            Some(id) if self.is_directory(id) => return Err(libc::EISDIR),
            Some(id) => id,
            None if options.create || options.create_new => self.create(name, Node::File(Box::default())),
            None => return Err(libc::ENOENT),
        };
        if options.truncate && self.file(inode)?.live().len() > 0 {
            let sequence = self.next_sequence();
            self.change_file(inode, |file| file.set_len(sequence, 0))?;
        }
        let direct = options.direct && self.config.direct_supported;
        let id = DescriptionId(self.next_description);
        self.next_description += 1;
        self.inode_mut(inode).descriptions += 1;
        let options = OpenOptions { direct, ..options };
        self.descriptions.insert(id, Description { inode, process, options, open: true, in_flight: 0 });
        Ok(Reply::Opened(Opened { description: id, direct }))
    }

    fn create_dir(&mut self, names: &NamePath) -> Result<Reply, Errno> {
        if names.is_empty() {
            return Err(libc::EEXIST);
        }
        let name = self.resolve_parent(names)?;
        if self.names.get(&name).is_some() {
            return Err(libc::EEXIST);
        }
        self.create(name, Node::Directory);
        Ok(Reply::Done)
    }

    fn remove(&mut self, names: &NamePath, kind: FileKind) -> Result<Reply, Errno> {
        let name = self.resolve_parent(names)?;
        let id = self.names.get(&name).ok_or(libc::ENOENT)?;
        match (kind, self.is_directory(id)) {
            (FileKind::Directory, false) => return Err(libc::ENOTDIR),
            (FileKind::Directory, true) if !self.is_empty_directory(id) => return Err(libc::ENOTEMPTY),
            (FileKind::File | FileKind::Other, true) => return Err(libc::EISDIR),
            _ => {}
        }
        self.change_names(vec![(name, None)]);
        Ok(Reply::Done)
    }

    fn is_empty_directory(&self, id: InodeId) -> bool {
        self.names.list(id).next().is_none()
    }

    fn rename(&mut self, from: &NamePath, to: &NamePath) -> Result<Reply, Errno> {
        let (old, new) = (self.resolve_parent(from)?, self.resolve_parent(to)?);
        let moved = self.names.get(&old).ok_or(libc::ENOENT)?;
        if to.len() > from.len() && to.starts_with(from) {
            return Err(libc::EINVAL);
        }
        if let Some(replaced) = self.names.get(&new) {
            match (self.is_directory(moved), self.is_directory(replaced)) {
                _ if replaced == moved => return Ok(Reply::Done),
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.is_empty_directory(replaced) => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.change_names(vec![(old, None), (new, Some(moved))]);
        Ok(Reply::Done)
    }

    fn kind(&self, id: InodeId) -> FileKind {
        if self.is_directory(id) { FileKind::Directory } else { FileKind::File }
    }

    fn read_dir(&self, names: &NamePath) -> Result<Reply, Errno> {
        let directory = self.resolve(names)?;
        self.expect_directory(directory)?;
        let entries = self.names.list(directory);
        let entries = entries.map(|(name, id)| DirEntry { name: name.to_string(), kind: self.kind(id) });
        Ok(Reply::Entries(entries.collect()))
    }

    /// The directory that a flush of names concerns, or the error it will end with.
    pub(crate) fn directory_to_sync(&self, names: &NamePath) -> Result<InodeId, Errno> {
        let directory = self.resolve(names)?;
        self.expect_directory(directory)?;
        Ok(directory)
    }

    fn metadata(&self, names: &NamePath) -> Result<Reply, Errno> {
        let id = self.resolve(names)?;
        let (len_bytes, pages) = match &self.inode(id).node {
            Node::File(file) => (file.live().len(), file.allocated_pages()),
            Node::Directory => (PAGE, 1),
        };
        let allocated_bytes = pages * PAGE;
        let file_id = FileId { device: 0, inode: id.0 };
        Ok(Reply::Metadata(Metadata { len_bytes, allocated_bytes, kind: self.kind(id), id: file_id }))
    }

    fn space(&self, names: &NamePath) -> Result<Reply, Errno> {
        self.resolve(names)?;
        let available_bytes = self.available_pages() * PAGE;
        Ok(Reply::Space(Space {
            available_bytes,
            total_bytes: self.config.capacity_bytes,
            is_in_memory: false,
        }))
    }

    fn is_aligned(&self, value: u64) -> bool {
        value.is_multiple_of(self.config.direct_alignment as u64)
    }

    fn read(
        &mut self,
        kernel: &mut Kernel,
        id: DescriptionId,
        mut buf: IoBuf,
        position: u64,
        len: usize,
    ) -> Result<Reply, Errno> {
        let description = self.description(id)?;
        let (inode, options) = (description.inode, description.options);
        if !options.read {
            return Err(libc::EBADF);
        }
        buf.set_len(len);
        let aligned = [position, len as u64, buf.as_ptr() as u64].iter().all(|&value| self.is_aligned(value));
        if options.direct && !aligned {
            return Err(libc::EINVAL);
        }
        let file = self.file(inode)?;
        if file.is_unreadable(position, len as u64) {
            return Err(libc::EIO);
        }
        let count = file.live().read(position, &mut buf);
        buf.set_len(count);
        self.show_in_flight(kernel, inode, position, &mut buf);
        Ok(Reply::Read(buf))
    }

    /// A reader may already see parts of the writes that are on their way.
    fn show_in_flight(&self, kernel: &mut Kernel, inode: InodeId, position: u64, buf: &mut [u8]) {
        for request in self.requests.values() {
            let Action::Write { data, position: at, .. } = &request.action else { continue };
            let same = request.description.and_then(|id| self.descriptions.get(&id));
            if same.is_some_and(|description| description.inode == inode) {
                overlay(kernel, data, *at, position, buf);
            }
        }
    }

    fn write(
        &mut self,
        kernel: &mut Kernel,
        id: DescriptionId,
        write: &WriteRequest<'_>,
        effect: Option<FaultEffect>,
        path: &Rc<str>,
    ) -> Result<Reply, Errno> {
        let description = self.description(id)?;
        let (inode, options) = (description.inode, description.options);
        if !options.write {
            return Err(libc::EBADF);
        }
        let way = if options.direct { WritePath::Direct } else { WritePath::PageCache };
        if options.direct && !self.is_write_aligned(write) {
            return Err(libc::EINVAL);
        }
        match effect {
            Some(FaultEffect::Errno(errno)) => {
                self.apply_write(inode, write.position, &beginning(kernel, write.data), way);
                return Err(errno);
            }
            Some(FaultEffect::Lie) => return Ok(Reply::Done),
            Some(FaultEffect::Delay(_)) | None => {}
        }
        if self.file(inode)?.missing_pages(write.position, write.len()) > self.available_pages() {
            self.apply_fitting(kernel, inode, write, way);
            return Err(libc::ENOSPC);
        }
        let sequence = self.apply_write(inode, write.position, write.data, way);
        if write.durability == Durability::Sync {
            self.flush_one_write(kernel, inode, sequence, path)?;
        }
        Ok(Reply::Done)
    }

    fn is_write_aligned(&self, write: &WriteRequest<'_>) -> bool {
        let pieces = write.data.iter().filter(|piece| !piece.is_empty());
        self.is_aligned(write.position)
            && pieces
                .into_iter()
                .all(|piece| self.is_aligned(piece.as_ptr() as u64) && self.is_aligned(piece.len() as u64))
    }

    /// A full disk takes the beginning of a write, or nothing.
    fn apply_fitting(
        &mut self,
        kernel: &mut Kernel,
        inode: InodeId,
        write: &WriteRequest<'_>,
        way: WritePath,
    ) {
        let part = beginning(kernel, write.data);
        let len: u64 = part.iter().map(|piece| piece.len() as u64).sum();
        let Ok(file) = self.file(inode) else { return };
        if file.missing_pages(write.position, len) <= self.available_pages() {
            self.apply_write(inode, write.position, &part, way);
        }
    }

    fn flush_one_write(
        &mut self,
        kernel: &mut Kernel,
        inode: InodeId,
        sequence: Sequence,
        path: &Rc<str>,
    ) -> Result<(), Errno> {
        match self.hit(kernel, DiskOp::Flush, path, Phase::End) {
            Some(FaultEffect::Errno(errno)) => Err(errno),
            Some(_) => Ok(()),
            None => self.change_file(inode, |file| file.settle_last(sequence)),
        }
    }

    pub(super) fn apply_write(
        &mut self,
        inode: InodeId,
        position: u64,
        data: &[Bytes],
        way: WritePath,
    ) -> Sequence {
        let sequence = self.next_sequence();
        let written = self.change_file(inode, |file| file.write(sequence, position, data, way));
        written.expect("what is open for writing is a file");
        sequence
    }

    fn flush(
        &mut self,
        kernel: &mut Kernel,
        inode: InodeId,
        upto: Sequence,
        effect: Option<FaultEffect>,
    ) -> Result<Reply, Errno> {
        match effect {
            Some(FaultEffect::Errno(errno)) => {
                let evicts = kernel.chance.coin();
                self.change_file(inode, |file| {
                    file.forget(upto, || kernel.chance.coin());
                    if evicts {
                        file.evict();
                    }
                })?;
                Err(errno)
            }
            Some(_) => Ok(Reply::Done),
            None => self.change_file(inode, |file| file.flush(upto)).map(|()| Reply::Done),
        }
    }

    fn allocate(&mut self, id: DescriptionId, position: u64, len: u64) -> Result<Reply, Errno> {
        let description = self.description(id)?;
        let inode = description.inode;
        if !description.options.write {
            return Err(libc::EBADF);
        }
        if len == 0 {
            return Err(libc::EINVAL);
        }
        if self.file(inode)?.missing_pages(position, len) > self.available_pages() {
            return Err(libc::ENOSPC);
        }
        let sequence = self.next_sequence();
        self.change_file(inode, |file| file.allocate(sequence, position, len)).map(|()| Reply::Done)
    }

    fn set_len(&mut self, id: DescriptionId, len: u64) -> Result<Reply, Errno> {
        let description = self.description(id)?;
        let inode = description.inode;
        if !description.options.write {
            return Err(libc::EINVAL);
        }
        let sequence = self.next_sequence();
        self.change_file(inode, |file| file.set_len(sequence, len)).map(|()| Reply::Done)
    }

    fn try_lock(&mut self, id: DescriptionId) -> Result<Reply, Errno> {
        let inode = self.description(id)?.inode;
        let entry = self.inode_mut(inode);
        let holder = *entry.locked_by.get_or_insert(id);
        Ok(Reply::Locked(holder == id))
    }
}

struct WriteRequest<'a> {
    data: &'a [Bytes],
    position: u64,
    durability: Durability,
}

impl WriteRequest<'_> {
    fn len(&self) -> u64 {
        self.data.iter().map(|piece| piece.len() as u64).sum()
    }
}

fn opened(description: Option<DescriptionId>) -> DescriptionId {
    description.expect("an operation on a file has the file's description")
}

/// Some beginning of `data`, in whole sectors.
pub(super) fn beginning(kernel: &mut Kernel, data: &[Bytes]) -> Vec<Bytes> {
    let len: usize = data.iter().map(Bytes::len).sum();
    let mut left = kernel.chance.index(len / PART + 1) * PART;
    let mut part = Vec::new();
    for piece in data {
        let count = piece.len().min(left);
        left -= count;
        if count > 0 {
            part.push(piece.slice(..count));
        }
    }
    part
}

/// Puts no, all or some sectors of a write at `at` into what was read at `position`.
fn overlay(kernel: &mut Kernel, data: &[Bytes], at: u64, position: u64, buf: &mut [u8]) {
    let share = [0, 500, 1000][kernel.chance.index(3)];
    let end = position + buf.len() as u64;
    let mut at = at;
    for piece in data {
        for part in piece.chunks(PART) {
            let part_end = at + part.len() as u64;
            let (from, to) = (at.max(position), part_end.min(end));
            if from < to && kernel.chance.per_mille(share) {
                let source = &part[(from - at) as usize..(to - at) as usize];
                buf[(from - position) as usize..(to - position) as usize].copy_from_slice(source);
            }
            at = part_end;
        }
    }
}

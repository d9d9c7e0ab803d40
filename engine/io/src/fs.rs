//! Files and directories.
//!
//! Durability is explicit. A write is in the page cache (or, with direct I/O, in the device's cache) when its future
//! resolves; it survives power loss only after [`File::sync_data`] that was *asked for after* the write resolved, or
//! when it was written with [`Durability::Sync`]. A name (creation, removal, rename) survives power loss only after
//! [`Fs::sync_dir`] of its directory.
//!
//! Errors carry path, position and errno ([`FileError`]). Nothing is retried except short reads and writes and `EINTR`.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use crate::buf::IoBuf;
use crate::error::FileError;
use crate::runtime::{Driver, Io};
use crate::{posix, sim, uring};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of open(2), which combine freely")]
pub struct OpenOptions {
    /// `O_RDONLY` or, with `write`, `O_RDWR`.
    pub read: bool,
    /// `O_WRONLY` or, with `read`, `O_RDWR`.
    pub write: bool,
    /// `O_CREAT`.
    pub create: bool,
    /// `O_CREAT | O_EXCL`.
    pub create_new: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_DIRECT`: positions, lengths and memory must be aligned to [`Fs::direct_io_alignment`]. Where the file
    /// system refuses the flag, the file is opened without and [`File::is_direct`] says so.
    pub direct: bool,
}

impl OpenOptions {
    /// Opens an existing file for reading.
    #[must_use]
    pub const fn read_only() -> Self {
        OpenOptions {
            read: true,
            write: false,
            create: false,
            create_new: false,
            truncate: false,
            direct: false,
        }
    }

    /// Opens an existing file for reading and writing.
    #[must_use]
    pub const fn read_write() -> Self {
        OpenOptions { write: true, ..Self::read_only() }
    }

    /// Also creates the file if it is missing.
    #[must_use]
    pub const fn create(self) -> Self {
        OpenOptions { create: true, ..self }
    }

    /// Also creates the file, and fails if it exists.
    #[must_use]
    pub const fn create_new(self) -> Self {
        OpenOptions { create_new: true, ..self }
    }

    /// Also empties the file.
    #[must_use]
    pub const fn truncate(self) -> Self {
        OpenOptions { truncate: true, ..self }
    }

    /// Also bypasses the page cache where the file system allows.
    #[must_use]
    pub const fn direct(self) -> Self {
        OpenOptions { direct: true, ..self }
    }
}

/// What a resolved write promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the death of the process, not of the power.
    Plain,
    /// This write's bytes, and what is needed to find them, survive power loss (`RWF_DSYNC`). Says nothing of
    /// earlier writes: the device may have used FUA for this one alone.
    Sync,
}

/// Kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name within its directory. Names that are not UTF-8 are left out of listings: none of ours are.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
}

/// Size and kind of what a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Length of a file in bytes.
    pub len_bytes: u64,
    /// Bytes that are allocated on the medium for it.
    pub allocated_bytes: u64,
    /// What it is.
    pub kind: FileKind,
    /// Which one it is.
    pub id: FileId,
}

/// What tells a file or directory from every other that is there at the same time, whatever path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// Number of the device of its file system.
    pub device: u64,
    /// Number in the file system.
    pub inode: u64,
}

/// Space of a file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be allocated by this process.
    pub available_bytes: u64,
    /// Size of the file system in bytes.
    pub total_bytes: u64,
    /// Whether it is tmpfs or ramfs, which keep nothing when the machine goes down.
    pub is_in_memory: bool,
}

/// The file system, as seen from one shard. Made by [`Io::fs`].
#[derive(Clone, Debug)]
pub struct Fs {
    io: Io,
}

macro_rules! on_driver {
    ($io:expr, $driver:ident => $call:expr) => {
        match $io.driver() {
            Driver::Uring($driver) => $call.await,
            Driver::Posix($driver) => $call.await,
            Driver::Sim($driver) => $call.await,
        }
    };
}

impl Fs {
    pub(crate) fn new(io: Io) -> Self {
        Fs { io }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// As open(2).
    pub async fn open(&self, path: impl AsRef<Path>, options: OpenOptions) -> Result<File, FileError> {
        let path = path.as_ref();
        let inner = match self.io.driver() {
            Driver::Uring(driver) => FileInner::Uring(driver.open(path, options).await?),
            Driver::Posix(driver) => FileInner::Posix(driver.open(path, options).await?),
            Driver::Sim(driver) => FileInner::Sim(driver.open(path, options).await?),
        };
        Ok(File { inner, path: Rc::from(path) })
    }

    /// Creates a directory. Its name is durable after [`sync_dir`](Self::sync_dir) of its parent.
    ///
    /// # Errors
    /// As mkdir(2); an existing one is an error of kind `AlreadyExists`.
    pub async fn create_dir(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        on_driver!(self.io, driver => driver.create_dir(path.as_ref()))
    }

    /// Creates a directory and its missing parents, and makes the names durable: also that of the last one that is there,
    /// which an earlier call may have made before its process died. Of that it is no error if its parent may not be read.
    ///
    /// # Errors
    /// As mkdir(2) and fsync(2), except that existing directories are no error.
    pub async fn create_dir_all_durable(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        let mut missing: Vec<PathBuf> = Vec::new();
        for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            if self.metadata(ancestor).await.is_ok() {
                match self.sync_parent(ancestor).await {
                    Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => return Err(error),
                    _ => break,
                }
            }
            missing.push(ancestor.to_owned());
        }
        for directory in missing.into_iter().rev() {
            match self.create_dir(&directory).await {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            self.sync_parent(&directory).await?;
        }
        Ok(())
    }

    /// Makes durable what the name in `path` stands for. The root has none.
    async fn sync_parent(&self, path: &Path) -> Result<(), FileError> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent).await,
            Some(_) => self.sync_dir(".").await,
            None => Ok(()),
        }
    }

    /// Removes a file's name. Its bytes go when the last descriptor is closed.
    ///
    /// # Errors
    /// As unlink(2).
    pub async fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        on_driver!(self.io, driver => driver.remove_file(path.as_ref()))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub async fn remove_dir(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        on_driver!(self.io, driver => driver.remove_dir(path.as_ref()))
    }

    /// Renames, replacing what `to` names. Atomic for readers; durable after [`sync_dir`](Self::sync_dir) of the
    /// directories.
    ///
    /// # Errors
    /// As rename(2).
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), FileError> {
        on_driver!(self.io, driver => driver.rename(from.as_ref(), to.as_ref()))
    }

    /// Lists a directory in the order of names.
    ///
    /// # Errors
    /// As opendir(3). May block the shard: for start-up and administration, not for the path of a request.
    pub async fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>, FileError> {
        let mut entries: Vec<DirEntry> = on_driver!(self.io, driver => driver.read_dir(path.as_ref()))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Lists a directory in the order of names, with the length in bytes of each file.
    ///
    /// # Errors
    /// As opendir(3) and stat(2). Blocks the shard: for start-up only, where thousands of directories are looked at, and a
    /// request for each file would take many times as long.
    pub async fn read_dir_with_lengths(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Vec<(DirEntry, u64)>, FileError> {
        let path = path.as_ref();
        if !matches!(self.io.driver(), Driver::Sim(_)) {
            let mut entries = crate::real::dir::read_dir_with_lengths(path)?;
            entries.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
            return Ok(entries);
        }
        let mut entries = Vec::new();
        for entry in self.read_dir(path).await? {
            let len_bytes = match entry.kind {
                FileKind::File => self.metadata(path.join(&entry.name)).await?.len_bytes,
                _ => 0,
            };
            entries.push((entry, len_bytes));
        }
        Ok(entries)
    }

    /// Makes the names of a directory durable: creations, removals and renames that were done before.
    ///
    /// # Errors
    /// As fsync(2).
    pub async fn sync_dir(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        on_driver!(self.io, driver => driver.sync_dir(path.as_ref()))
    }

    /// Size and kind of what `path` names.
    ///
    /// # Errors
    /// As stat(2).
    pub async fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, FileError> {
        on_driver!(self.io, driver => driver.metadata(path.as_ref()))
    }

    /// Whether `path` names anything.
    ///
    /// # Errors
    /// As stat(2), except for a missing name.
    pub async fn exists(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        match self.metadata(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Space of the file system that holds `path`.
    ///
    /// # Errors
    /// As statfs(2).
    pub async fn space(&self, path: impl AsRef<Path>) -> Result<Space, FileError> {
        on_driver!(self.io, driver => driver.space(path.as_ref()))
    }

    /// Alignment in bytes that direct I/O needs in the directory `path`: the greatest of 4,096, the file system's
    /// block, the physical block and what `statx` reports. A power of two.
    ///
    /// # Errors
    /// As statx(2).
    pub async fn direct_io_alignment(&self, path: impl AsRef<Path>) -> Result<usize, FileError> {
        on_driver!(self.io, driver => driver.direct_io_alignment(path.as_ref()))
    }

    /// Reads a whole small file through the page cache. `limit_bytes` bounds the memory.
    ///
    /// # Errors
    /// As open(2) and read(2); a longer file is an error of kind `FileTooLarge`.
    pub async fn read_file(&self, path: impl AsRef<Path>, limit_bytes: usize) -> Result<Bytes, FileError> {
        let path = path.as_ref();
        let file = self.open(path, OpenOptions::read_only()).await?;
        let len = file.len().await?;
        if len > limit_bytes as u64 {
            let why = std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                format!("{len} bytes, at most {limit_bytes} are read"),
            );
            return Err(FileError::new(crate::FileOp::Read, path, why));
        }
        let len = usize::try_from(len).unwrap_or(limit_bytes);
        Ok(file.read_at(IoBuf::with_capacity(len), 0, len).await?.freeze())
    }

    /// Writes a whole small file so that, after a crash, either the old or the new content is there: temporary name,
    /// flush, rename, flush of the directory.
    ///
    /// # Errors
    /// Of any of these steps.
    pub async fn replace_file_durable(
        &self,
        path: impl AsRef<Path>,
        content: Bytes,
    ) -> Result<(), FileError> {
        let path = path.as_ref();
        self.replace_file(path, content).await?;
        self.sync_parent(path).await
    }

    /// Writes several small files of `directory`, each as [`replace_file_durable`](Self::replace_file_durable) does, with one
    /// flush of the directory in the end.
    ///
    /// # Errors
    /// Of any of these steps.
    pub async fn replace_files_durable(
        &self,
        directory: impl AsRef<Path>,
        files: impl IntoIterator<Item = (PathBuf, Bytes)>,
    ) -> Result<(), FileError> {
        for (path, content) in files {
            debug_assert_eq!(
                path.parent(),
                Some(directory.as_ref()),
                "its name is flushed with this directory"
            );
            self.replace_file(&path, content).await?;
        }
        self.sync_dir(directory).await
    }

    /// The same as [`replace_file_durable`](Self::replace_file_durable), but for the flush of the directory.
    async fn replace_file(&self, path: &Path, content: Bytes) -> Result<(), FileError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let options = OpenOptions::read_write().create().truncate();
        let file = self.open(&temporary, options).await?;
        file.write_at(vec![content], 0, Durability::Plain).await?;
        file.sync_all().await?;
        drop(file);
        self.rename(&temporary, path).await
    }
}

enum FileInner {
    Uring(uring::File),
    Posix(posix::File),
    Sim(sim::File),
}

/// An open file of this shard. Dropping it closes the descriptor once nothing is in flight on it.
pub struct File {
    inner: FileInner,
    path: Rc<Path>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("File").field(&self.path).finish()
    }
}

macro_rules! on_file {
    ($self:expr, $file:ident => $call:expr) => {
        match &$self.inner {
            FileInner::Uring($file) => $call.await,
            FileInner::Posix($file) => $call.await,
            FileInner::Sim($file) => $call.await,
        }
    };
}

impl File {
    /// Path it was opened under.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        match &self.inner {
            FileInner::Uring(file) => file.is_direct(),
            FileInner::Posix(file) => file.is_direct(),
            FileInner::Sim(file) => file.is_direct(),
        }
    }

    /// Reads up to `len` bytes at `position_bytes` into the start of `buf`; its length is then what was there: less
    /// than asked only at the end of the file. `len` must not exceed the buffer's capacity.
    ///
    /// # Errors
    /// As pread(2). The buffer is lost with the error.
    pub async fn read_at(&self, buf: IoBuf, position_bytes: u64, len: usize) -> Result<IoBuf, FileError> {
        assert!(len <= buf.capacity(), "a read of {len} bytes fits its buffer");
        on_file!(self, file => file.read_at(buf, position_bytes, len))
    }

    /// Writes all of `data`, one piece after the other, at `position_bytes`.
    ///
    /// # Errors
    /// As pwritev2(2). What was written then is unknown.
    pub async fn write_at(
        &self,
        data: Vec<Bytes>,
        position_bytes: u64,
        durability: Durability,
    ) -> Result<(), FileError> {
        on_file!(self, file => file.write_at(data, position_bytes, durability))
    }

    /// `fdatasync`: everything whose write resolved before this was called survives power loss, and the file's
    /// length with it. Never retry a failed one: the kernel may have dropped the dirty pages.
    ///
    /// # Errors
    /// As fdatasync(2).
    pub async fn sync_data(&self) -> Result<(), FileError> {
        on_file!(self, file => file.sync_data())
    }

    /// `fsync`.
    ///
    /// # Errors
    /// As fsync(2).
    pub async fn sync_all(&self) -> Result<(), FileError> {
        on_file!(self, file => file.sync_all())
    }

    /// Reserves space for `len_bytes` at `position_bytes`, which reads as zeros, and extends the file's length.
    ///
    /// # Errors
    /// As fallocate(2).
    pub async fn allocate(&self, position_bytes: u64, len_bytes: u64) -> Result<(), FileError> {
        on_file!(self, file => file.allocate(position_bytes, len_bytes))
    }

    /// Cuts or extends the file to `len_bytes`.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub async fn set_len(&self, len_bytes: u64) -> Result<(), FileError> {
        on_file!(self, file => file.set_len(len_bytes))
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// As fstat(2).
    pub async fn len(&self) -> Result<u64, FileError> {
        on_file!(self, file => file.len())
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As fstat(2).
    pub async fn is_empty(&self) -> Result<bool, FileError> {
        Ok(self.len().await? == 0)
    }

    /// Tries to take the advisory lock of the whole open file: the exclusive one, or the shared one where the file is open
    /// for reading only (fcntl(2), `F_OFD_SETLK`). It goes with the last reference to the description, requests in flight
    /// of a killed process included. Record locks of other programs exclude it, flock(2) does not.
    ///
    /// # Errors
    /// As fcntl(2); `Ok(false)` when somebody else has it.
    pub async fn try_lock(&self) -> Result<bool, FileError> {
        on_file!(self, file => file.try_lock())
    }

    pub(crate) fn uring(&self) -> Option<&uring::File> {
        match &self.inner {
            FileInner::Uring(file) => Some(file),
            FileInner::Posix(_) | FileInner::Sim(_) => None,
        }
    }

    pub(crate) fn posix(&self) -> Option<&posix::File> {
        match &self.inner {
            FileInner::Posix(file) => Some(file),
            FileInner::Uring(_) | FileInner::Sim(_) => None,
        }
    }

    pub(crate) fn sim(&self) -> Option<&sim::File> {
        match &self.inner {
            FileInner::Sim(file) => Some(file),
            FileInner::Uring(_) | FileInner::Posix(_) => None,
        }
    }
}

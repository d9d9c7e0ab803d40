//! The error of a file operation: which operation, on which path, at which position, and the errno.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What was asked of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the system call it is named after")]
pub enum FileOp {
    Open,
    Read,
    Write,
    SyncData,
    SyncAll,
    SyncDirectory,
    Allocate,
    SetLength,
    Lock,
    Metadata,
    Create,
    Remove,
    Rename,
    List,
    Space,
}

/// A failed file operation. Displayed with path, position and errno, so that one line tells what to look at.
#[derive(Debug)]
pub struct FileError {
    /// What was asked.
    pub op: FileOp,
    /// The file or directory.
    pub path: PathBuf,
    /// Byte position in the file, where the operation has one.
    pub position_bytes: Option<u64>,
    /// The cause, with errno where the system gave one.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(op: FileOp, path: impl Into<PathBuf>, source: io::Error) -> Self {
        FileError { op, path: path.into(), position_bytes: None, source }
    }

    pub(crate) fn at(op: FileOp, path: impl Into<PathBuf>, position_bytes: u64, source: io::Error) -> Self {
        FileError { op, path: path.into(), position_bytes: Some(position_bytes), source }
    }

    /// The kind of the cause.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The errno, where the system gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the file system is out of space or quota, which is not a failure of the device.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// Whether the process or the system has no descriptor left (`EMFILE`, `ENFILE`): nothing was carried out, whatever the
    /// operation, since only its opening of a file or directory fails so.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self.errno(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// Whether the file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            FileOp::Open => "open",
            FileOp::Read => "read",
            FileOp::Write => "write",
            FileOp::SyncData => "fdatasync",
            FileOp::SyncAll => "fsync",
            FileOp::SyncDirectory => "fsync of directory",
            FileOp::Allocate => "fallocate",
            FileOp::SetLength => "ftruncate",
            FileOp::Lock => "lock",
            FileOp::Metadata => "stat",
            FileOp::Create => "create",
            FileOp::Remove => "unlink",
            FileOp::Rename => "rename",
            FileOp::List => "list",
            FileOp::Space => "statfs",
        };
        write!(f, "{op} {}", self.path.display())?;
        if let Some(position) = self.position_bytes {
            write!(f, " at byte {position}")?;
        }
        write!(f, ": {}", self.source)
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

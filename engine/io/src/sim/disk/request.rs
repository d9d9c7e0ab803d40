//! What a process asks of a disk, and how the answer finds its way back.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::DescriptionId;
use super::fault::DiskOp;
use super::file::Sequence;
use super::names::InodeId;
use crate::buf::IoBuf;
use crate::fs::{DirEntry, Durability, Metadata, OpenOptions, Space};
use crate::sim::kernel::ProcessId;

/// An errno.
pub(crate) type Errno = i32;

/// Names from the root to a file or directory.
pub(crate) type NamePath = Vec<Rc<str>>;

/// Numbers are never used twice on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

pub(crate) enum Action {
    Open { names: NamePath, options: OpenOptions },
    CreateDir { names: NamePath },
    RemoveFile { names: NamePath },
    RemoveDir { names: NamePath },
    Rename { from: NamePath, to: NamePath },
    ReadDir { names: NamePath },
    SyncDir { directory: Result<InodeId, Errno> },
    Metadata { names: NamePath },
    Space { names: NamePath },
    DirectAlignment { names: NamePath },
    Read { buf: Option<IoBuf>, position: u64, len: usize },
    Write { data: Vec<Bytes>, position: u64, durability: Durability },
    Flush,
    Allocate { position: u64, len: u64 },
    SetLen { len: u64 },
    Len,
    TryLock,
}

impl Action {
    pub(crate) fn op(&self) -> DiskOp {
        match self {
            Action::Open { options, .. } if options.create || options.create_new || options.truncate => {
                DiskOp::Create
            }
            Action::Open { .. } => DiskOp::Open,
            Action::CreateDir { .. } => DiskOp::Create,
            Action::RemoveFile { .. } | Action::RemoveDir { .. } => DiskOp::Remove,
            Action::Rename { .. } => DiskOp::Rename,
            Action::SyncDir { .. } => DiskOp::SyncDirectory,
            Action::Read { .. } => DiskOp::Read,
            Action::Write { .. } => DiskOp::Write,
            Action::Flush => DiskOp::Flush,
            Action::Allocate { .. } => DiskOp::Allocate,
            Action::SetLen { .. } => DiskOp::SetLength,
            Action::ReadDir { .. }
            | Action::Metadata { .. }
            | Action::Space { .. }
            | Action::DirectAlignment { .. }
            | Action::Len
            | Action::TryLock => DiskOp::Inspect,
        }
    }

    /// Whether it changes what is on the disk, so that its moments are points at which a crash differs.
    pub(crate) fn modifies(&self) -> bool {
        !matches!(self.op(), DiskOp::Open | DiskOp::Read | DiskOp::Inspect)
    }
}

/// What opening a file gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) description: DescriptionId,
    pub(crate) direct: bool,
}

pub(crate) enum Reply {
    Done,
    Opened(Opened),
    Read(IoBuf),
    Entries(Vec<DirEntry>),
    Metadata(Metadata),
    Space(Space),
    Number(u64),
    Locked(bool),
}

/// The reply that an action of its kind has.
macro_rules! reply_of {
    ($($name:ident: $variant:ident -> $of:ty),* $(,)?) => {
        impl Reply {
            $(pub(crate) fn $name(self) -> $of {
                match self {
                    Reply::$variant(value) => value,
                    _ => unreachable!("a disk answers what it was asked"),
                }
            })*
        }
    };
}

reply_of! {
    opened: Opened -> Opened,
    read: Read -> IoBuf,
    entries: Entries -> Vec<DirEntry>,
    metadata: Metadata -> Metadata,
    space: Space -> Space,
    number: Number -> u64,
    locked: Locked -> bool,
}

pub(crate) struct Request {
    pub(crate) process: ProcessId,
    pub(crate) shard: usize,
    pub(crate) path: Rc<str>,
    pub(crate) description: Option<DescriptionId>,
    pub(crate) action: Action,
    /// What the disk had applied when this was asked for: all that a flush has to cover.
    pub(crate) asked_after: Sequence,
    /// Which of the events that make it land is meant: it may have been put off.
    pub(crate) attempt: u32,
    /// Its process is dead and the device will do it all the same.
    pub(crate) orphan: bool,
    pub(crate) slot: Rc<Slot>,
}

/// Where the answer of one request is left.
#[derive(Default)]
pub(crate) struct Slot {
    inner: RefCell<SlotInner>,
}

#[derive(Default)]
struct SlotInner {
    reply: Option<Result<Reply, Errno>>,
    waker: Option<Waker>,
    abandoned: bool,
}

impl Slot {
    /// Leaves the answer; gives it back if nobody waits any more.
    pub(crate) fn complete(&self, reply: Result<Reply, Errno>) -> Option<Result<Reply, Errno>> {
        let mut inner = self.inner.borrow_mut();
        if inner.abandoned {
            return Some(reply);
        }
        inner.reply = Some(reply);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.inner.borrow().abandoned
    }

    /// Nobody waits any more; an answer that was not taken is given back.
    pub(crate) fn abandon(&self) -> Option<Result<Reply, Errno>> {
        let mut inner = self.inner.borrow_mut();
        inner.abandoned = true;
        inner.waker = None;
        inner.reply.take()
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Reply, Errno>> {
        let mut inner = self.inner.borrow_mut();
        match inner.reply.take() {
            Some(reply) => Poll::Ready(reply),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

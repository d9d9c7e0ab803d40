//! What is asked of the kernel: an entry of the submission queue, and the memory and descriptors it points to.
//!
//! Only the constructors here put pointers into entries, and each puts what it points to into [`Held`] beside it:
//! heap memory, which stays where it is when its handle moves. [`Core`](super::core::Core) keeps the `Held` until the
//! last completion. These two are what makes submission sound.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use socket2::SockAddr;

use super::accept::Acceptor;
use super::buffers::RECV_GROUP;
use super::recv::Receiver;
use crate::buf::IoBuf;
use crate::real::pieces::{MAX_BYTES, MAX_PIECES, Pieces};

/// A descriptor of the shard. Its last holder closes it; a request in flight is a holder.
///
/// Closed by close(2) and not through the ring: what a close may have to wait for, the kernel does when the calling
/// thread leaves the system call, either way.
pub(super) type Descriptor = Rc<OwnedFd>;

const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// What the kernel may use until the last completion of a request.
pub(super) enum Held {
    Descriptor(#[expect(dead_code, reason = "held for its destructor")] Descriptor),
    Descriptors(#[expect(dead_code, reason = "held for their destructors")] [Descriptor; 2]),
    Path(#[expect(dead_code, reason = "held for its destructor")] CString),
    Paths(#[expect(dead_code, reason = "held for their destructors")] [CString; 2]),
    Stat {
        out: Box<libc::statx>,
        _at: StatTarget,
    },
    Buffer {
        buf: IoBuf,
        _file: Descriptor,
    },
    Pieces {
        pieces: Outgoing,
        _to: Descriptor,
    },
    /// Pieces that the kernel sends from where they are. `to` is gone once nobody waits for them.
    PiecesZeroCopy {
        pieces: Outgoing,
        to: Option<Descriptor>,
    },
    Connect {
        _socket: Descriptor,
        _address: Box<SockAddr>,
    },
    Event {
        event: Arc<File>,
        kind: EventKind,
    },
    Accept(Rc<Acceptor>),
    Receive(Rc<Receiver>),
    ReceiveOnce {
        buf: IoBuf,
        receiver: Rc<Receiver>,
    },
    ReceiveInto {
        buf: IoBuf,
        receiver: Rc<Receiver>,
    },
}

impl Held {
    /// The buffer of a read or receive.
    pub(super) fn into_buffer(self) -> IoBuf {
        match self {
            Held::Buffer { buf, .. } | Held::ReceiveInto { buf, .. } => buf,
            _ => unreachable!("a request that fills a buffer holds it"),
        }
    }

    /// The pieces of a write or send.
    pub(super) fn into_pieces(self) -> Outgoing {
        match self {
            Held::Pieces { pieces, .. } | Held::PiecesZeroCopy { pieces, .. } => pieces,
            _ => unreachable!("a request that takes pieces holds them"),
        }
    }

    /// The socket of a zero-copy send, which is held no longer.
    pub(super) fn give_up_socket(&mut self) -> Option<Descriptor> {
        match self {
            Held::PiecesZeroCopy { to, .. } => to.take(),
            _ => None,
        }
    }

    /// What a `statx` has filled.
    pub(super) fn into_stat(self) -> Box<libc::statx> {
        match self {
            Held::Stat { out, .. } => out,
            _ => unreachable!("a statx holds its result"),
        }
    }
}

/// Why an event descriptor is polled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EventKind {
    /// Another thread woke the shard.
    Alarm,
    /// The process got a signal.
    Signal,
}

/// What a `statx` is about.
pub(super) enum StatTarget {
    Path(CString),
    File(Descriptor),
}

/// How a request completes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Once, to a future.
    Single,
    /// Once, to a future, with a descriptor.
    Descriptor,
    /// To a future, when the last completion has said that the kernel has let go of the memory. The result is that of the
    /// first, which [`Operation::early`](super::core::Operation::early) gives at once.
    ZeroCopy,
    /// Possibly many times, until a completion says that it was the last; to what the request holds.
    Reported,
}

/// An entry and what it points to.
pub(super) struct Request {
    entry: squeue::Entry,
    held: Held,
    shape: Shape,
}

fn raw(descriptor: &Descriptor) -> Fd {
    Fd(descriptor.as_raw_fd())
}

fn here() -> Fd {
    Fd(libc::AT_FDCWD)
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes.min(MAX_BYTES)).expect("a bounded length fits")
}

impl Request {
    pub(super) fn into_parts(self) -> (squeue::Entry, Held, Shape) {
        (self.entry, self.held, self.shape)
    }

    fn single(entry: squeue::Entry, held: Held) -> Self {
        Request { entry, held, shape: Shape::Single }
    }

    pub(super) fn open(path: CString, flags: i32, mode: u32) -> Self {
        let entry =
            opcode::OpenAt::new(here(), path.as_ptr()).flags(flags | libc::O_CLOEXEC).mode(mode).build();
        Request { entry, held: Held::Path(path), shape: Shape::Descriptor }
    }

    pub(super) fn create_dir(path: CString, mode: u32) -> Self {
        let entry = opcode::MkDirAt::new(here(), path.as_ptr()).mode(mode).build();
        Self::single(entry, Held::Path(path))
    }

    /// `flags`: 0, or `AT_REMOVEDIR`.
    pub(super) fn unlink(path: CString, flags: i32) -> Self {
        let entry = opcode::UnlinkAt::new(here(), path.as_ptr()).flags(flags).build();
        Self::single(entry, Held::Path(path))
    }

    pub(super) fn rename(from: CString, to: CString) -> Self {
        let entry = opcode::RenameAt::new(here(), from.as_ptr(), here(), to.as_ptr()).build();
        Self::single(entry, Held::Paths([from, to]))
    }

    pub(super) fn stat(target: StatTarget, mask: u32) -> Self {
        // SAFETY: all zeros are a valid `statx`, which has only integers.
        let mut out: Box<libc::statx> = Box::new(unsafe { std::mem::zeroed() });
        let (at, path, flags) = match &target {
            StatTarget::Path(path) => (here(), path.as_ptr(), 0),
            StatTarget::File(file) => (raw(file), c"".as_ptr(), libc::AT_EMPTY_PATH),
        };
        let to = std::ptr::from_mut(&mut *out).cast();
        let entry = opcode::Statx::new(at, path, to).flags(flags).mask(mask).build();
        Self::single(entry, Held::Stat { out, _at: target })
    }

    /// Reads up to `len` bytes at `position_bytes` into the memory behind the buffer's content.
    pub(super) fn read(file: &Descriptor, mut buf: IoBuf, len: usize, position_bytes: u64) -> Self {
        let (to, len) = (spare(&mut buf), length(len.min(buf.remaining())));
        let entry = opcode::Read::new(raw(file), to, len).offset(position_bytes).build();
        Self::single(entry, Held::Buffer { buf, _file: Rc::clone(file) })
    }

    /// `flags` are those of pwritev2(2).
    pub(super) fn write(file: &Descriptor, mut pieces: Outgoing, position_bytes: u64, flags: i32) -> Self {
        let entry = match pieces.gather() {
            Gathered::One(at, len) => {
                opcode::Write::new(raw(file), at, len).offset(position_bytes).rw_flags(flags).build()
            }
            Gathered::Many(vector) => {
                let (iovecs, count) = vector.as_raw();
                opcode::Writev::new(raw(file), iovecs, count).offset(position_bytes).rw_flags(flags).build()
            }
        };
        Self::single(entry, Held::Pieces { pieces, _to: Rc::clone(file) })
    }

    pub(super) fn sync(file: &Descriptor, flags: FsyncFlags) -> Self {
        let entry = opcode::Fsync::new(raw(file)).flags(flags).build();
        Self::single(entry, Held::Descriptor(Rc::clone(file)))
    }

    pub(super) fn allocate(file: &Descriptor, position_bytes: u64, len_bytes: u64) -> Self {
        let entry = opcode::Fallocate::new(raw(file), len_bytes).offset(position_bytes).build();
        Self::single(entry, Held::Descriptor(Rc::clone(file)))
    }

    pub(super) fn truncate(file: &Descriptor, len_bytes: u64) -> Self {
        let entry = opcode::Ftruncate::new(raw(file), len_bytes).build();
        Self::single(entry, Held::Descriptor(Rc::clone(file)))
    }

    /// Moves up to `len` bytes; one of the ends is a pipe, and has no position.
    pub(super) fn splice(
        from: &Descriptor,
        position_bytes: Option<u64>,
        to: &Descriptor,
        len: usize,
        flags: u32,
    ) -> Self {
        // A position beyond i64 is beyond every file: the kernel says EINVAL to the negative one.
        let position = position_bytes.map_or(-1, |position| i64::try_from(position).unwrap_or(i64::MIN));
        let entry = opcode::Splice::new(raw(from), position, raw(to), -1, length(len)).flags(flags).build();
        Self::single(entry, Held::Descriptors([Rc::clone(from), Rc::clone(to)]))
    }

    pub(super) fn poll_writable(socket: &Descriptor) -> Self {
        let entry = opcode::PollAdd::new(raw(socket), u32::from(libc::POLLOUT.unsigned_abs())).build();
        Self::single(entry, Held::Descriptor(Rc::clone(socket)))
    }

    /// Completes when the peer sends no more, or the connection has failed, whatever is there to be received.
    pub(super) fn poll_hung_up(socket: &Descriptor) -> Self {
        let entry = opcode::PollAdd::new(raw(socket), u32::from(libc::POLLRDHUP.unsigned_abs())).build();
        Self::single(entry, Held::Descriptor(Rc::clone(socket)))
    }

    pub(super) fn connect(socket: &Descriptor, address: SockAddr) -> Self {
        let address = Box::new(address);
        let entry = opcode::Connect::new(raw(socket), address.as_ptr().cast(), address.len()).build();
        Self::single(entry, Held::Connect { _socket: Rc::clone(socket), _address: address })
    }

    pub(super) fn send(socket: &Descriptor, mut pieces: Outgoing) -> Self {
        let entry = match pieces.gather() {
            Gathered::One(at, len) => opcode::Send::new(raw(socket), at, len).flags(SEND_FLAGS).build(),
            Gathered::Many(vector) => opcode::SendMsg::new(raw(socket), vector.as_message())
                .flags(SEND_FLAGS.unsigned_abs())
                .build(),
        };
        Self::single(entry, Held::Pieces { pieces, _to: Rc::clone(socket) })
    }

    /// As [`send`](Self::send), but the kernel sends from where the pieces are, and holds them until the peer has them.
    pub(super) fn send_zero_copy(socket: &Descriptor, mut pieces: Outgoing) -> Self {
        let entry = match pieces.gather() {
            Gathered::One(at, len) => opcode::SendZc::new(raw(socket), at, len).flags(SEND_FLAGS).build(),
            Gathered::Many(vector) => opcode::SendMsgZc::new(raw(socket), vector.as_message())
                .flags(SEND_FLAGS.unsigned_abs())
                .build(),
        };
        let held = Held::PiecesZeroCopy { pieces, to: Some(Rc::clone(socket)) };
        Request { entry, held, shape: Shape::ZeroCopy }
    }

    /// Receives into the memory behind the buffer's content, until the buffer has `end` bytes.
    pub(super) fn receive_into(receiver: &Rc<Receiver>, buf: IoBuf, end: usize) -> Self {
        Self::receive_direct(receiver, buf, end, libc::MSG_WAITALL)
    }

    /// Receives what there is, at least a byte, into the memory behind the buffer's content, up to its byte `end`.
    pub(super) fn receive_some_into(receiver: &Rc<Receiver>, buf: IoBuf, end: usize) -> Self {
        Self::receive_direct(receiver, buf, end, 0)
    }

    fn receive_direct(receiver: &Rc<Receiver>, mut buf: IoBuf, end: usize, flags: i32) -> Self {
        let (to, len) = (spare(&mut buf), length((end - buf.len()).min(buf.remaining())));
        let entry = opcode::Recv::new(raw(receiver.socket()), to, len).flags(flags).build();
        Self::single(entry, Held::ReceiveInto { buf, receiver: Rc::clone(receiver) })
    }

    /// Receives into provided buffers, again and again.
    pub(super) fn receive(receiver: Rc<Receiver>) -> Self {
        let entry = opcode::RecvMulti::new(raw(receiver.socket()), RECV_GROUP).build();
        Request { entry, held: Held::Receive(receiver), shape: Shape::Reported }
    }

    /// Receives once, what there is, into a buffer that is the stream's own.
    pub(super) fn receive_once(receiver: Rc<Receiver>, mut buf: IoBuf) -> Self {
        let (to, len) = (spare(&mut buf), length(buf.remaining()));
        let entry = opcode::Recv::new(raw(receiver.socket()), to, len).build();
        Request { entry, held: Held::ReceiveOnce { buf, receiver }, shape: Shape::Reported }
    }

    /// Accepts, again and again.
    pub(super) fn accept(acceptor: Rc<Acceptor>) -> Self {
        let entry = opcode::AcceptMulti::new(raw(acceptor.socket())).flags(libc::SOCK_CLOEXEC).build();
        Request { entry, held: Held::Accept(acceptor), shape: Shape::Reported }
    }

    /// Completes whenever `event` is written to.
    pub(super) fn poll_event(event: Arc<File>, kind: EventKind) -> Self {
        let readable = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(Fd(event.as_raw_fd()), readable).multi(true).build();
        Request { entry, held: Held::Event { event, kind }, shape: Shape::Reported }
    }
}

/// Where the memory behind the content of `buf` starts.
fn spare(buf: &mut IoBuf) -> *mut u8 {
    let len = buf.len();
    // SAFETY: the content ends within the buffer's memory, or at its end.
    unsafe { buf.as_mut_ptr().add(len) }
}

/// Bytes on their way out, and the memory for a list of them.
pub(super) struct Outgoing {
    pieces: Pieces,
    vector: Option<Box<Vector>>,
}

enum Gathered<'a> {
    One(*const u8, u32),
    Many(&'a mut Vector),
}

impl Outgoing {
    /// `vector` is the memory for the list of pieces, if there is one to use again.
    pub(super) fn new(data: Vec<Bytes>, vector: impl FnOnce() -> Option<Box<Vector>>) -> Self {
        let pieces = Pieces::new(data);
        let vector = if pieces.count() > 1 { Some(vector().unwrap_or_default()) } else { None };
        Outgoing { pieces, vector }
    }

    pub(super) fn is_done(&self) -> bool {
        self.pieces.is_done()
    }

    /// Bytes that are left.
    pub(super) fn left_bytes(&self) -> usize {
        self.pieces.left().map(<[u8]>::len).sum()
    }

    /// Counts `bytes` more as done.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.pieces.advance(bytes);
    }

    pub(super) fn into_vector(self) -> Option<Box<Vector>> {
        self.vector
    }

    /// Lists what is left, as much as one request takes.
    fn gather(&mut self) -> Gathered<'_> {
        let mut left = self.pieces.left();
        let first = left.next().expect("a request has something to do");
        let Some(vector) = &mut self.vector else {
            return Gathered::One(first.as_ptr(), length(first.len()));
        };
        vector.iovecs.clear();
        vector.iovecs.push(iovec(first));
        vector.iovecs.extend(left.take(MAX_PIECES - 1).map(iovec));
        match vector.iovecs.len() {
            1 => Gathered::One(first.as_ptr(), length(first.len())),
            _ => Gathered::Many(vector),
        }
    }
}

fn iovec(piece: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

/// The memory for a list of pieces. It is in a box of its own, which does not move while the kernel reads it.
pub(super) struct Vector {
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Default for Vector {
    fn default() -> Self {
        // SAFETY: all zeros are a valid `msghdr`: null pointers and lengths of zero.
        let message = unsafe { std::mem::zeroed() };
        Vector { iovecs: Vec::new(), message }
    }
}

impl Vector {
    fn as_raw(&self) -> (*const libc::iovec, u32) {
        (self.iovecs.as_ptr(), u32::try_from(self.iovecs.len()).expect("at most MAX_PIECES"))
    }

    fn as_message(&mut self) -> *const libc::msghdr {
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len() as _;
        &raw const self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(pieces: &mut Outgoing) -> Vec<usize> {
        match pieces.gather() {
            Gathered::One(_, len) => vec![len as usize],
            Gathered::Many(vector) => vector.iovecs.iter().map(|iovec| iovec.iov_len).collect(),
        }
    }

    #[test]
    fn pieces_beyond_the_limit_of_a_request_are_left_for_the_next() {
        let mut pieces = Outgoing::new(vec![Bytes::from_static(b"ab"); MAX_PIECES + 7], || None);
        assert_eq!(left(&mut pieces).len(), MAX_PIECES);
        pieces.advance(2 * MAX_PIECES);
        assert_eq!(left(&mut pieces).len(), 7);
        pieces.advance(2 * 6 + 1);
        assert_eq!(left(&mut pieces), [1]);
    }
}

//! Bytes from a file to a socket through a pipe, without a copy through user space.
//!
//! The kernel runs a splice on a worker thread, which must not be left blocking in a full socket: a peer that does not
//! read would hold it for ever. So each splice into the socket waits until the socket is writable, and then moves no
//! more than fits what "writable" promises.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use socket2::SockRef;

use super::core::{Core, descriptor, is_transient};
use super::request::{Descriptor, Request};
use crate::real::sys;

/// Bytes that a pipe is asked to hold: the limit of unprivileged processes.
const PIPE_BYTES: i32 = 1 << 20;
/// Pipes that a shard keeps for later.
const SPARE_PIPES: usize = 16;
/// Bytes that are always worth a splice.
const LEAST_BYTES: usize = 4096;

/// A pipe with nothing in it.
pub(super) struct Pipe {
    reader: Descriptor,
    writer: Descriptor,
    capacity_bytes: usize,
}

impl Pipe {
    fn open(core: &Core) -> io::Result<Self> {
        if let Some(pipe) = core.pipes.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (reader, writer) = io::pipe()?;
        let capacity_bytes = sys::set_pipe_capacity(&writer, PIPE_BYTES)?.max(LEAST_BYTES);
        let (reader, writer): (OwnedFd, OwnedFd) = (reader.into(), writer.into());
        Ok(Pipe { reader: descriptor(reader), writer: descriptor(writer), capacity_bytes })
    }

    fn keep(self, core: &Core) {
        let mut pipes = core.pipes.borrow_mut();
        if pipes.len() < SPARE_PIPES {
            pipes.push(self);
        }
    }
}

/// Sends `len_bytes` of `file` from `position_bytes` over `socket`.
pub(super) async fn send_file(
    core: &Rc<Core>,
    file: &Descriptor,
    socket: &Descriptor,
    position_bytes: u64,
    len_bytes: u64,
) -> io::Result<()> {
    // Dropped with what is in it when anything fails.
    let pipe = Pipe::open(core)?;
    let mut sent = 0;
    while sent < len_bytes {
        let want = usize::try_from(len_bytes - sent).unwrap_or(usize::MAX).min(pipe.capacity_bytes);
        let filled = splice(core, file, Some(position_bytes + sent), &pipe.writer, want, 0).await?;
        if filled == 0 {
            let why = format!("the file ends {} bytes early", len_bytes - sent);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        sent += filled as u64;
        empty(core, &pipe, socket, filled, sent < len_bytes).await?;
    }
    pipe.keep(core);
    Ok(())
}

/// Moves all of what is in the pipe into the socket; `more` says whether more will follow.
async fn empty(
    core: &Rc<Core>,
    pipe: &Pipe,
    socket: &Descriptor,
    filled: usize,
    more: bool,
) -> io::Result<()> {
    let mut left = filled;
    while left > 0 {
        core.submit(Request::poll_writable(socket)).await.result?;
        // A socket is writable when a third of its buffer is free; headers take some of that.
        let room = SockRef::from(&**socket).send_buffer_size()? / 4;
        let len = left.min(room.max(LEAST_BYTES));
        let flags = if more || len < left { libc::SPLICE_F_MORE } else { 0 };
        let moved = splice(core, &pipe.reader, None, socket, len, flags).await?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        left -= moved;
    }
    Ok(())
}

async fn splice(
    core: &Rc<Core>,
    from: &Descriptor,
    position_bytes: Option<u64>,
    to: &Descriptor,
    len: usize,
    flags: u32,
) -> io::Result<usize> {
    loop {
        match core.submit(Request::splice(from, position_bytes, to, len, flags)).await.result {
            Err(error) if is_transient(&error) => {}
            done => return done,
        }
    }
}

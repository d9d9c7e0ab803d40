//! TCP sockets of a shard.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use socket2::{SockRef, Socket};

use super::accept::Acceptor;
use super::core::Core;
use super::file::File;
use super::send_file;
use super::source::Source;
use crate::buf::IoBuf;
use crate::net::ListenOptions;
use crate::real::net::Ends;
use crate::real::pieces::Pieces;
use crate::real::{self, sys};

/// Pieces in one call at most, so that their list needs no memory beside the stack.
const MAX_PIECES: usize = 64;

pub(crate) struct TcpListener {
    core: Rc<Core>,
    acceptor: Acceptor,
    local_addr: SocketAddr,
}

impl TcpListener {
    pub(super) fn bind(core: &Rc<Core>, address: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let (socket, local_addr) = real::net::listen(address, options)?;
        socket.set_nonblocking(true)?;
        let acceptor = Acceptor::new(core, socket.into())?;
        Ok(TcpListener { core: Rc::clone(core), acceptor, local_addr })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let socket = poll_fn(|cx| self.acceptor.poll_accept(cx)).await?;
            // Fails if the peer has gone since: an error of this connection only.
            let Ok(ends) = real::net::set_up_stream(&socket) else { continue };
            return TcpStream::over(&self.core, socket, ends);
        }
    }
}

/// What a stream gives for ever after.
#[derive(Clone, Copy)]
enum End {
    Eof,
    Errno(i32),
}

pub(crate) struct TcpStream {
    source: Source,
    /// Once nothing more will be received.
    end: Cell<Option<End>>,
    ends: Ends,
}

impl TcpStream {
    pub(super) async fn connect(core: &Rc<Core>, address: SocketAddr) -> io::Result<Self> {
        let socket = real::net::open_socket(address)?;
        socket.set_nonblocking(true)?;
        let is_under_way = match socket.connect(&address.into()) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
            Err(error) => return Err(error),
        };
        let source = Source::new(core, socket.into())?;
        if is_under_way {
            // Its end, whichever it is, makes the socket writable.
            source.writing().is_exhausted();
            poll_fn(|cx| source.poll_ready(source.writing(), cx)).await;
            if let Some(error) = SockRef::from(&**source.socket()).take_error()? {
                return Err(error);
            }
        }
        let ends = real::net::set_up_stream(&**source.socket())?;
        Ok(TcpStream { source, end: Cell::new(None), ends })
    }

    /// A stream over one end of a pair that this process has both of. Neither end has an address.
    pub(super) fn of_pair(core: &Rc<Core>, socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        Self::over(core, socket.into(), Ends::NOWHERE)
    }

    fn over(core: &Rc<Core>, socket: OwnedFd, ends: Ends) -> io::Result<Self> {
        Ok(TcpStream { source: Source::new(core, socket)?, end: Cell::new(None), ends })
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.ends.peer
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.ends.local
    }

    pub(crate) async fn recv(&self) -> io::Result<Bytes> {
        let received = poll_fn(|cx| {
            ready!(self.poll_receivable(cx))?;
            let mut buf = self.source.core().receive_buffer();
            buf.set_len(buf.capacity());
            let received = ready!(self.poll_receive(&mut buf, cx))?;
            buf.set_len(received);
            Poll::Ready(Ok(buf.freeze()))
        });
        received.await
    }

    pub(crate) async fn recv_into(&self, mut buf: IoBuf, least: usize, most: usize) -> io::Result<IoBuf> {
        let mut at = buf.len();
        let target = at + least;
        buf.set_len(at + most);
        while at < target {
            let received = poll_fn(|cx| {
                ready!(self.poll_receivable(cx))?;
                self.poll_receive(&mut buf[at..], cx)
            });
            match received.await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => at += received,
            }
        }
        buf.set_len(at);
        Ok(buf)
    }

    /// Resolves when it is worth to have memory to receive into.
    fn poll_receivable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.end.get() {
            Some(End::Errno(errno)) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            Some(End::Eof) => Poll::Ready(Ok(())),
            None => self.source.poll_ready(self.source.reading(), cx).map(Ok),
        }
    }

    /// Receives into `memory`, which has at least one byte, and tells how many; 0 at the end of the stream.
    fn poll_receive(&self, memory: &mut [u8], cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(End::Eof) = self.end.get() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match recv(self.source.socket(), &mut *memory, RecvFlags::empty()) {
                Ok((0, _)) => {
                    self.end.set(Some(End::Eof));
                    return Poll::Ready(Ok(0));
                }
                Ok((received, _)) => {
                    // All that was there. What comes later is another edge, save for an end that was told before.
                    if received < memory.len() && !self.source.has_ended() {
                        self.source.reading().is_exhausted();
                    }
                    return Poll::Ready(Ok(received));
                }
                Err(Errno::AGAIN) => {
                    self.source.reading().is_exhausted();
                    ready!(self.source.poll_ready(self.source.reading(), cx));
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.end.set(Some(End::Errno(error.raw_os_error())));
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }

    pub(crate) async fn hung_up(&self) {
        poll_fn(|cx| self.source.poll_ended(cx)).await;
    }

    pub(crate) async fn send(&self, data: Vec<Bytes>) -> io::Result<()> {
        let mut pieces = Pieces::new(data);
        poll_fn(|cx| {
            while !pieces.is_done() {
                ready!(self.source.poll_ready(self.source.writing(), cx));
                match send_some(&self.source, &pieces) {
                    Ok(sent) => pieces.advance(sent),
                    Err(Errno::AGAIN) => self.source.writing().is_exhausted(),
                    Err(Errno::INTR) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    pub(crate) async fn send_file(&self, file: &File, position_bytes: u64, len_bytes: u64) -> io::Result<()> {
        send_file::send_file(&self.source, file.descriptor(), position_bytes, len_bytes).await
    }

    pub(crate) fn shutdown(&self) {
        // Fails only if the connection is down already.
        let _ = sys::shut_down(&**self.source.socket());
    }
}

/// Sends as much of the pieces as the socket and one call take.
fn send_some(source: &Source, pieces: &Pieces) -> Result<usize, Errno> {
    let mut list = [IoSlice::new(&[]); MAX_PIECES];
    let (mut count, mut bytes) = (0, 0);
    for (at, piece) in list.iter_mut().zip(pieces.left()) {
        *at = IoSlice::new(piece);
        count += 1;
        bytes += piece.len();
    }
    let mut nothing_beside = SendAncillaryBuffer::default();
    let sent = sendmsg(source.socket(), &list[..count], &mut nothing_beside, SendFlags::NOSIGNAL)?;
    if sent < bytes {
        // The socket is full, and tells when it is not any more.
        source.writing().is_exhausted();
    }
    Ok(sent)
}

//! TCP sockets of a shard.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;

use super::accept::Acceptor;
use super::core::{Core, Operation, descriptor, is_transient};
use super::file::File;
use super::recv::Receiver;
use super::request::{Descriptor, Outgoing, Request};
use super::splice;
use crate::buf::IoBuf;
use crate::net::ListenOptions;
use crate::real::net::Ends;
use crate::real::{self, sys};

pub(crate) struct TcpListener {
    core: Rc<Core>,
    acceptor: Rc<Acceptor>,
    local_addr: SocketAddr,
}

impl TcpListener {
    pub(super) fn bind(core: &Rc<Core>, address: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let (socket, local_addr) = real::net::listen(address, options)?;
        let acceptor = Acceptor::new(descriptor(socket));
        Ok(TcpListener { core: Rc::clone(core), acceptor, local_addr })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let fd = poll_fn(|cx| self.acceptor.poll_accept(&self.core, cx)).await?;
            // Fails if the peer has gone since: an error of this connection only.
            if let Ok(stream) = TcpStream::new(&self.core, fd) {
                return Ok(stream);
            }
        }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.acceptor.abandon(&self.core);
    }
}

pub(crate) struct TcpStream {
    core: Rc<Core>,
    socket: Descriptor,
    receiver: Rc<Receiver>,
    /// Whether the socket has no zero-copy send.
    copies: Cell<bool>,
    ends: Ends,
}

impl TcpStream {
    pub(super) async fn connect(core: &Rc<Core>, address: SocketAddr) -> io::Result<Self> {
        let socket = descriptor(real::net::open_socket(address)?);
        // Not made again after EINTR: the connection may be under way, and a second connect(2) would report that.
        core.submit(Request::connect(&socket, address.into())).await.result?;
        TcpStream::adopt(core, socket)
    }

    /// A stream over a connected socket.
    fn new(core: &Rc<Core>, socket: OwnedFd) -> io::Result<Self> {
        Self::adopt(core, descriptor(socket))
    }

    /// A stream over one end of a pair that this process has both of. Neither end has an address.
    pub(super) fn of_pair(core: &Rc<Core>, socket: OwnedFd) -> Self {
        Self::over(core, descriptor(socket), Ends::NOWHERE)
    }

    fn adopt(core: &Rc<Core>, socket: Descriptor) -> io::Result<Self> {
        let ends = real::net::set_up_stream(&*socket)?;
        Ok(Self::over(core, socket, ends))
    }

    fn over(core: &Rc<Core>, socket: Descriptor, ends: Ends) -> Self {
        let receiver = Receiver::new(Rc::clone(&socket));
        TcpStream { core: Rc::clone(core), socket, receiver, copies: Cell::new(false), ends }
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.ends.peer
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.ends.local
    }

    pub(crate) async fn recv(&self) -> io::Result<Bytes> {
        self.receiver.recv(&self.core).await
    }

    pub(crate) async fn recv_into(&self, buf: IoBuf, least: usize, most: usize) -> io::Result<IoBuf> {
        self.receiver.recv_into(&self.core, buf, least, most).await
    }

    pub(crate) async fn hung_up(&self) {
        loop {
            match self.core.submit(Request::poll_hung_up(&self.socket)).await.result {
                Ok(_) => return,
                Err(error) if is_transient(&error) => {}
                // It cannot be told: as if the peer were there.
                Err(_) => std::future::pending().await,
            }
        }
    }

    pub(crate) async fn start_send(&self, data: Vec<Bytes>) -> io::Result<Sent> {
        let mut pieces = Outgoing::new(data, || self.core.spare_vector());
        let enough = self.core.zero_copy_min_bytes;
        let mut zero_copy = enough < usize::MAX && !self.copies.get() && pieces.left_bytes() >= enough;
        while !pieces.is_done() {
            let completion = if zero_copy {
                let left = pieces.left_bytes();
                let mut sending = self.core.submit(Request::send_zero_copy(&self.socket, pieces));
                if sending.early().await == Some(left) {
                    return Ok(Sent { zero_copy: Some((Rc::clone(&self.core), sending)) });
                }
                sending.await
            } else {
                self.core.submit(Request::send(&self.socket, pieces)).await
            };
            pieces = completion.held.into_pieces();
            match completion.result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => pieces.advance(sent),
                Err(error) if is_transient(&error) => {}
                Err(error) if zero_copy && self.is_for_a_copy(&error) => zero_copy = false,
                Err(error) => return Err(error),
            }
        }
        self.core.keep_vector(pieces.into_vector());
        Ok(Sent { zero_copy: None })
    }

    /// Whether a zero-copy send failed for what a copying one does not need: a socket that can do it, and pages to lock.
    fn is_for_a_copy(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => {
                self.copies.set(true);
                true
            }
            Some(libc::ENOMEM | libc::ENOBUFS) => {
                if !self.core.has_told_of_copies.replace(true) {
                    tracing::warn!(%error, "a zero-copy send was refused, and copies: RLIMIT_MEMLOCK bounds what may be on its way");
                }
                true
            }
            _ => false,
        }
    }

    pub(crate) async fn send_file(&self, file: &File, position_bytes: u64, len_bytes: u64) -> io::Result<()> {
        splice::send_file(&self.core, file.descriptor(), &self.socket, position_bytes, len_bytes).await
    }

    pub(crate) fn shutdown(&self) {
        // Fails only if the connection is down already.
        let _ = sys::shut_down(&*self.socket);
    }
}

/// What the kernel has taken to send.
pub(crate) struct Sent {
    /// Of a zero-copy send, until the kernel has let go of the memory. Dropped before, it takes the connection along.
    zero_copy: Option<(Rc<Core>, Operation)>,
}

impl Sent {
    pub(crate) async fn delivered(self) {
        if let Some((core, sending)) = self.zero_copy {
            core.keep_vector(sending.await.held.into_pieces().into_vector());
        }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.receiver.abandon(&self.core);
    }
}

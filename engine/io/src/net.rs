//! TCP listeners and streams.
//!
//! A stream receives into buffers that the driver provides (one set of them a shard) and hands them on as
//! [`Bytes`]; holding on to one keeps its buffer from being filled again. What is received without a consumer asking
//! for it is bounded by that set, and for one stream by a share of it (on `posix` it is nothing): a slow consumer holds its
//! sender back. A consumer that asks is served even when all are lent, with memory of its own, so that no stream waits for
//! another's consumer; the memory of what was handed out is the consumer's to budget. A large frame can be received
//! straight into its own memory ([`TcpStream::recv_into`]).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use bytes::Bytes;

use crate::buf::IoBuf;
use crate::fs::File;
use crate::runtime::{Driver, Io};
use crate::{posix, sim, uring};

/// How a listener is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// `SO_REUSEPORT`: several shards listen on one port and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Length of the queue of connections that wait to be accepted.
    pub backlog: u32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { reuse_port: false, backlog: 1024 }
    }
}

enum ListenerInner {
    Uring(uring::TcpListener),
    Posix(posix::TcpListener),
    Sim(sim::TcpListener),
}

/// A listening socket (multishot accept on `uring`).
pub struct TcpListener {
    inner: ListenerInner,
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("local_addr", &self.local_addr()).finish()
    }
}

impl TcpListener {
    pub(crate) async fn bind(io: &Io, address: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let inner = match io.driver() {
            Driver::Uring(driver) => ListenerInner::Uring(driver.listen(address, options).await?),
            Driver::Posix(driver) => ListenerInner::Posix(driver.listen(address, options).await?),
            Driver::Sim(driver) => ListenerInner::Sim(driver.listen(address, options).await?),
        };
        Ok(TcpListener { inner })
    }

    /// Address it is bound to; tells the port that was given for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match &self.inner {
            ListenerInner::Uring(listener) => listener.local_addr(),
            ListenerInner::Posix(listener) => listener.local_addr(),
            ListenerInner::Sim(listener) => listener.local_addr(),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// As accept(2). Errors that concern one connection are passed over; out of descriptors (`EMFILE`, `ENFILE`) is
    /// returned, and the caller waits before it asks again.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        let inner = match &self.inner {
            ListenerInner::Uring(listener) => StreamInner::Uring(listener.accept().await?),
            ListenerInner::Posix(listener) => StreamInner::Posix(listener.accept().await?),
            ListenerInner::Sim(listener) => StreamInner::Sim(listener.accept().await?),
        };
        Ok(TcpStream { inner })
    }
}

enum StreamInner {
    Uring(uring::TcpStream),
    Posix(posix::TcpStream),
    Sim(sim::TcpStream),
}

/// What the system has taken to send, and may still hold. Dropped while it does, the connection is cut off, so that it lets go.
#[must_use = "dropping it may cut the connection off"]
pub struct Sent {
    zero_copy: Option<uring::Sent>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").finish_non_exhaustive()
    }
}

impl Sent {
    /// Resolves when the system holds nothing of it any more.
    pub async fn delivered(self) {
        if let Some(zero_copy) = self.zero_copy {
            zero_copy.delivered().await;
        }
    }
}

/// A connected socket with `TCP_NODELAY`. One task may receive while another sends.
pub struct TcpStream {
    inner: StreamInner,
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream").field("peer_addr", &self.peer_addr()).finish()
    }
}

macro_rules! on_stream {
    ($self:expr, $stream:ident => $call:expr) => {
        match &$self.inner {
            StreamInner::Uring($stream) => $call,
            StreamInner::Posix($stream) => $call,
            StreamInner::Sim($stream) => $call,
        }
    };
}

impl TcpStream {
    pub(crate) async fn connect(io: &Io, address: SocketAddr) -> io::Result<Self> {
        let inner = match io.driver() {
            Driver::Uring(driver) => StreamInner::Uring(driver.connect(address).await?),
            Driver::Posix(driver) => StreamInner::Posix(driver.connect(address).await?),
            Driver::Sim(driver) => StreamInner::Sim(driver.connect(address).await?),
        };
        Ok(TcpStream { inner })
    }

    /// Takes over one end of a pair.
    pub(crate) fn adopt(io: &Io, end: UnixStream) -> io::Result<Self> {
        let inner = match io.driver() {
            Driver::Uring(driver) => StreamInner::Uring(driver.adopt(end)),
            Driver::Posix(driver) => StreamInner::Posix(driver.adopt(end)?),
            Driver::Sim(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(TcpStream { inner })
    }

    /// Address of the other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        on_stream!(self, stream => stream.peer_addr())
    }

    /// Address of this end.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        on_stream!(self, stream => stream.local_addr())
    }

    /// The next bytes, in one of the driver's buffers; empty at the end of the stream. Dropping the bytes gives the
    /// buffer back: copy what is small and kept long. Cancel safe: a dropped future loses nothing.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn recv(&self) -> io::Result<Bytes> {
        on_stream!(self, stream => stream.recv().await)
    }

    /// Appends exactly `len` bytes to `buf`, which must have the room, without passing through provided buffers
    /// where they have not arrived yet. Not cancel safe: a dropped future loses what it had received.
    ///
    /// # Errors
    /// As recv(2); an end of the stream before `len` bytes is `UnexpectedEof`.
    pub async fn recv_into(&self, buf: IoBuf, len: usize) -> io::Result<IoBuf> {
        assert!(len <= buf.remaining(), "{len} bytes fit into the buffer");
        on_stream!(self, stream => stream.recv_into(buf, len, len).await)
    }

    /// As [`recv_into`](Self::recv_into), but appends at least `len` bytes, and whatever else has arrived when these have,
    /// as far as there is room. Bytes that arrive in pieces may cost a receive more.
    ///
    /// # Errors
    /// As `recv_into`.
    pub async fn recv_at_least(&self, buf: IoBuf, len: usize) -> io::Result<IoBuf> {
        let room = buf.remaining();
        assert!(len <= room, "{len} bytes fit into the buffer");
        on_stream!(self, stream => stream.recv_into(buf, len, room).await)
    }

    /// Resolves when nothing follows from the peer, or the connection failed, even where bytes that came before that were not
    /// received yet. Takes none of them.
    pub async fn hung_up(&self) {
        on_stream!(self, stream => stream.hung_up().await);
    }

    /// Sends all of `data`, one piece after the other. Dropped before its end, what was sent is unknown, and the stream is of no
    /// more use.
    ///
    /// # Errors
    /// As sendmsg(2). What was sent then is unknown, and the stream is of no more use.
    pub async fn send(&self, data: Vec<Bytes>) -> io::Result<()> {
        self.start_send(data).await?.delivered().await;
        Ok(())
    }

    /// As [`send`](Self::send), but done when the system has taken everything. Where it sends from where the bytes are
    /// ([`zero_copy_min_bytes`](crate::RuntimeConfig::zero_copy_min_bytes)), it holds them until the peer has them.
    ///
    /// # Errors
    /// As `send`.
    pub async fn start_send(&self, data: Vec<Bytes>) -> io::Result<Sent> {
        let zero_copy = match &self.inner {
            StreamInner::Uring(stream) => Some(stream.start_send(data).await?),
            StreamInner::Posix(stream) => stream.send(data).await.map(|()| None)?,
            StreamInner::Sim(stream) => stream.send(data).await.map(|()| None)?,
        };
        Ok(Sent { zero_copy })
    }

    /// Sends `len_bytes` of `file` from `position_bytes` without a copy through user space (splice, sendfile).
    ///
    /// # Errors
    /// As splice(2) or sendfile(2); a file that ends early is `UnexpectedEof`.
    pub async fn send_file(&self, file: &File, position_bytes: u64, len_bytes: u64) -> io::Result<()> {
        match &self.inner {
            StreamInner::Uring(stream) => {
                let file = file.uring().expect("a file and a stream of one shard have one driver");
                stream.send_file(file, position_bytes, len_bytes).await
            }
            StreamInner::Posix(stream) => {
                let file = file.posix().expect("a file and a stream of one shard have one driver");
                stream.send_file(file, position_bytes, len_bytes).await
            }
            StreamInner::Sim(stream) => {
                let file = file.sim().expect("a file and a stream of one shard have one driver");
                stream.send_file(file, position_bytes, len_bytes).await
            }
        }
    }

    /// Ends both directions. A receive that waits resolves to the end of the stream.
    pub fn shutdown(&self) {
        on_stream!(self, stream => stream.shutdown());
    }
}

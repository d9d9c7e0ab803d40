//! The driver for hosts that forbid io_uring: one thread and one epoll a shard, and a few threads that carry out what may
//! wait for a device.
//!
//! ```text
//!   the shard's loop (`real`) ──> core ──> epoll: a socket became readable or writable ──> source ──> the task that waits
//!                                  │                                                       (accept, receive, send by it)
//!                                  └──> pool: job ──> thread: pread, pwritev2, fdatasync, … ──> done ──> the alarm
//! ```
//!
//! * Sockets are non-blocking and belong to their shard alone: nothing is received or accepted unless a task asks, so that
//!   what is received unasked is nothing, and a future that is dropped has nothing in flight (`source`, `net`).
//! * Whatever concerns a file is a job ([`pool`]). A job owns the descriptor, the path and the memory that it works with; a
//!   future that is dropped leaves its job to run to the end, and gives up no more than the result.
//! * The descriptors of a process are closed after the last of its threads has left its system call, so a lock (fcntl(2)) of
//!   a killed process stands until its last write is done, as with a ring.
//!
//! Absent on purpose: `unsafe`. System calls go through `rustix`; what the kernel writes to is borrowed for the call.

#![forbid(unsafe_code)]

mod accept;
mod core;
mod dir;
mod file;
mod net;
mod pool;
mod send_file;
mod source;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

pub(crate) use self::core::Core;
pub(crate) use file::File;
pub(crate) use net::{TcpListener, TcpStream};

use crate::error::FileError;
use crate::fs::{DirEntry, Metadata, OpenOptions, Space};
use crate::net::ListenOptions;
use crate::real::clock;
use crate::runtime::Counters;
use crate::time::MonoTime;

/// A shard's way to its sockets and its pool.
pub(crate) struct Driver {
    core: Rc<Core>,
}

impl Driver {
    pub(crate) fn now(&self) -> MonoTime {
        clock::now(self.core.clock)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.core.counters()
    }

    pub(crate) async fn open(&self, path: &Path, options: OpenOptions) -> Result<File, FileError> {
        File::open(&self.core, path, options).await
    }

    pub(crate) async fn create_dir(&self, path: &Path) -> Result<(), FileError> {
        dir::create_dir(&self.core, path).await
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        dir::remove_file(&self.core, path).await
    }

    pub(crate) async fn remove_dir(&self, path: &Path) -> Result<(), FileError> {
        dir::remove_dir(&self.core, path).await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        dir::rename(&self.core, from, to).await
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, FileError> {
        dir::read_dir(&self.core, path).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        dir::sync_dir(&self.core, path).await
    }

    pub(crate) async fn metadata(&self, path: &Path) -> Result<Metadata, FileError> {
        dir::metadata(&self.core, path).await
    }

    pub(crate) async fn space(&self, path: &Path) -> Result<Space, FileError> {
        dir::space(&self.core, path).await
    }

    pub(crate) async fn direct_io_alignment(&self, path: &Path) -> Result<usize, FileError> {
        dir::direct_io_alignment(&self.core, path).await
    }

    #[expect(clippy::unused_async, reason = "the facade awaits what another driver may have to wait for")]
    pub(crate) async fn listen(
        &self,
        address: SocketAddr,
        options: ListenOptions,
    ) -> io::Result<TcpListener> {
        TcpListener::bind(&self.core, address, options)
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(&self.core, address).await
    }

    pub(crate) fn adopt(&self, end: UnixStream) -> io::Result<TcpStream> {
        TcpStream::of_pair(&self.core, end.into())
    }

    pub(crate) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let host = host.to_owned();
        let look_up = move || Ok((host.as_str(), port).to_socket_addrs()?.collect());
        self.core.carry_out(look_up).await
    }

    pub(crate) async fn stop_requested(&self) {
        self.core.stop.requested().await;
    }
}

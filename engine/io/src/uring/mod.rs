//! The driver for the real world: one thread and one io_uring a shard.
//!
//! ```text
//!   the shard's loop (`real`) ──> core (slots of requests in flight) ──> ring (io_uring)
//!                                  ^           │                           buffers
//!                                  │           └─> recv, accept (multishot)
//!                        file, dir, net, splice (straight-line async code over `request`)
//! ```
//!
//! * `request` is the one place where pointers get into entries, `core` the one that keeps what they point to.
//! * `recv` and `accept` turn completions of multishot requests into a queue, with a bound.
//!
//! Absent on purpose: registered files and buffers, polling the kernel busily. Each waits for a measurement that asks for it.

mod accept;
mod buffers;
mod core;
mod dir;
mod file;
mod net;
mod probe;
mod recv;
mod request;
mod ring;
mod splice;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

pub(crate) use self::core::Core;
pub(crate) use file::File;
pub(crate) use net::{Sent, TcpListener, TcpStream};
pub(crate) use probe::Kernel;
pub use probe::{Feature, Features, probe};

use crate::error::FileError;
use crate::fs::{DirEntry, Metadata, OpenOptions, Space};
use crate::net::ListenOptions;
use crate::real::{clock, dir as listing};
use crate::runtime::Counters;
use crate::time::MonoTime;

/// A shard's way to its ring.
pub(crate) struct Driver {
    core: Rc<Core>,
}

#[expect(clippy::unused_async, reason = "the facade awaits what another driver may have to wait for")]
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
        // The ring has no operation for it.
        listing::read_dir(path)
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        dir::sync_dir(&self.core, path).await
    }

    pub(crate) async fn metadata(&self, path: &Path) -> Result<Metadata, FileError> {
        dir::metadata(&self.core, path).await
    }

    pub(crate) async fn space(&self, path: &Path) -> Result<Space, FileError> {
        listing::space(path)
    }

    pub(crate) async fn direct_io_alignment(&self, path: &Path) -> Result<usize, FileError> {
        dir::direct_io_alignment(&self.core, path).await
    }

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

    pub(crate) fn adopt(&self, end: UnixStream) -> TcpStream {
        TcpStream::of_pair(&self.core, end.into())
    }

    pub(crate) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    pub(crate) async fn stop_requested(&self) {
        self.core.stop.requested().await;
    }
}

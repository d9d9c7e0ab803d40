//! The driver for the real world: one thread and one io_uring a shard.
//!
//! ```text
//!   runtime ── threads ──> shard (the loop) ──> core (slots of requests in flight) ──> ring (io_uring)
//!                            │                    ^           │                           buffers
//!                          ready, alarm           │           └─> recv, accept (multishot)
//!                                        file, dir, net, splice (straight-line async code over `request`)
//! ```
//!
//! * `request` is the one place where pointers get into entries, `core` the one that keeps what they point to.
//! * `recv` and `accept` turn completions of multishot requests into a queue, with a bound.
//! * `sys` has the few system calls that the ring has no operation for.
//!
//! Absent on purpose: registered files and buffers, `SEND_ZC`, polling the kernel busily. Each waits for a measurement
//! that asks for it.

mod accept;
mod buffers;
mod core;
mod dir;
mod file;
mod net;
mod probe;
mod ready;
mod recv;
mod request;
mod ring;
mod runtime;
mod shard;
mod signals;
mod splice;
mod stop;
mod sys;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub(crate) use file::File;
pub(crate) use net::{TcpListener, TcpStream};
pub use probe::{Feature, Features, probe};
pub(crate) use runtime::Runtime;

use self::core::Core;
use crate::error::FileError;
use crate::fs::{DirEntry, Metadata, OpenOptions, Space};
use crate::net::ListenOptions;
use crate::runtime::Counters;
use crate::time::{MonoTime, WallTime};

/// A shard's way to its ring.
pub(crate) struct Driver {
    core: Rc<Core>,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::unused_async, reason = "the facade awaits what another driver may have to wait for")]
impl Driver {
    /// Since the start of the runtime, the same on all its shards.
    pub(crate) fn now(&self) -> MonoTime {
        MonoTime::from_nanos(nanos(self.core.clock.elapsed()))
    }

    pub(crate) fn wall_time(&self) -> WallTime {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        WallTime::from_millis(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        })
    }

    pub(crate) fn counters(&self) -> Counters {
        let ring = self.core.ring_counters();
        Counters {
            enters: ring.enters,
            requests: ring.submitted,
            completions: ring.completed,
            task_polls: self.core.polled_tasks.get(),
            in_flight: self.core.in_flight() as u64,
        }
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
        dir::read_dir(path)
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        dir::sync_dir(&self.core, path).await
    }

    pub(crate) async fn metadata(&self, path: &Path) -> Result<Metadata, FileError> {
        dir::metadata(&self.core, path).await
    }

    pub(crate) async fn space(&self, path: &Path) -> Result<Space, FileError> {
        dir::space(path)
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

    #[expect(clippy::unused_self, reason = "the facade asks a driver, and another one needs to know which")]
    pub(crate) fn exit_now(&self, code: i32) -> ! {
        sys::exit_now(code)
    }
}

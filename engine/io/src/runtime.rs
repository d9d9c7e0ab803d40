//! The handle [`Io`] and the runtime that drives real shards. Simulated ones are driven by [`crate::sim`].

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::exec::{Executor, Place, Task};
use crate::fs::Fs;
use crate::net::{ListenOptions, TcpListener, TcpStream};
use crate::real::{self, clock, sys};
use crate::time::{MonoTime, SharedTimers, Sleep, TimedOut, WallTime};
use crate::{posix, sim, uring};

pub use crate::uring::{Feature, Features, probe};

/// Number of a shard within its process, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub usize);

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(crate) enum Driver {
    Uring(uring::Driver),
    Posix(posix::Driver),
    Sim(sim::Driver),
}

pub(crate) struct Shard {
    pub(crate) index: ShardIndex,
    pub(crate) executor: Executor,
    pub(crate) timers: SharedTimers,
    pub(crate) driver: Driver,
    pub(crate) rng: std::cell::RefCell<ChaCha8Rng>,
}

/// A shard's handle to the world. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct Io {
    shard: Rc<Shard>,
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("shard", &self.shard.index).finish_non_exhaustive()
    }
}

impl Io {
    pub(crate) fn new(
        index: ShardIndex,
        executor: Executor,
        timers: SharedTimers,
        driver: Driver,
        seed: [u8; 32],
    ) -> Self {
        let rng = std::cell::RefCell::new(ChaCha8Rng::from_seed(seed));
        Io { shard: Rc::new(Shard { index, executor, timers, driver, rng }) }
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.shard.driver
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.shard.executor
    }

    pub(crate) fn timers(&self) -> &SharedTimers {
        &self.shard.timers
    }

    /// Which shard this is.
    #[must_use]
    pub fn shard(&self) -> ShardIndex {
        self.shard.index
    }

    /// What stands behind this handle.
    #[must_use]
    pub fn driver_kind(&self) -> DriverKind {
        match self.driver() {
            Driver::Uring(_) => DriverKind::Uring,
            Driver::Posix(_) => DriverKind::Posix,
            Driver::Sim(_) => DriverKind::Sim,
        }
    }

    /// Starts a task on this shard. It runs after the current one yields, never at once.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.shard.executor.spawn(Place::Last, future)
    }

    /// As [`spawn`](Self::spawn), but whenever the task is ready it runs before all others of the shard (the simulator
    /// chooses as ever): for what a device would stand idle without. What such tasks do between two waits should be short,
    /// and they should be few.
    pub fn spawn_urgent<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.shard.executor.spawn(Place::First, future)
    }

    /// Monotonic time.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        match self.driver() {
            Driver::Uring(driver) => driver.now(),
            Driver::Posix(driver) => driver.now(),
            Driver::Sim(driver) => driver.now(),
        }
    }

    /// Wall clock time.
    #[must_use]
    pub fn wall_time(&self) -> WallTime {
        match self.driver() {
            Driver::Uring(_) | Driver::Posix(_) => clock::wall_time(),
            Driver::Sim(driver) => driver.wall_time(),
        }
    }

    /// Resolves after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::until(self.clone(), self.now() + duration)
    }

    /// Resolves at `deadline`.
    pub fn sleep_until(&self, deadline: MonoTime) -> Sleep {
        Sleep::until(self.clone(), deadline)
    }

    /// Awaits `future` for at most `duration`; a future that is not done then is dropped.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, TimedOut> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(duration));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(cx).map(|()| Err(TimedOut))
        })
        .await
    }

    /// Lets other ready tasks run first.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// What this shard has done so far; zeros on the simulated driver.
    #[must_use]
    pub fn counters(&self) -> Counters {
        match self.driver() {
            Driver::Uring(driver) => driver.counters(),
            Driver::Posix(driver) => driver.counters(),
            Driver::Sim(_) => Counters::default(),
        }
    }

    /// A random number, seeded by the system or by the simulation.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        self.shard.rng.borrow_mut().next_u64()
    }

    /// Fills `bytes` with random ones. Not for secrets.
    pub fn random_bytes(&self, bytes: &mut [u8]) {
        self.shard.rng.borrow_mut().fill_bytes(bytes);
    }

    /// A random (version 4) id.
    #[must_use]
    pub fn random_uuid(&self) -> uuid::Uuid {
        let mut bytes = [0; 16];
        self.random_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// The seed of a hash map: random on a real driver, reproducible on the simulated one.
    #[must_use]
    pub fn hash_state(&self) -> ahash::RandomState {
        let seed = || self.random_u64();
        ahash::RandomState::with_seeds(seed(), seed(), seed(), seed())
    }

    /// Files and directories.
    #[must_use]
    pub fn fs(&self) -> Fs {
        Fs::new(self.clone())
    }

    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub async fn listen(&self, address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
        TcpListener::bind(self, address, options).await
    }

    /// Connects to `address`. Bound it with [`timeout`](Self::timeout).
    ///
    /// # Errors
    /// As connect(2).
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(self, address).await
    }

    /// Takes over one end of a [`UnixStream::pair`]: a connection within this process, used as one that came over the
    /// network. Both its addresses are the loopback's, with port 0.
    ///
    /// # Errors
    /// `Unsupported` on the simulated driver, whose network has no sockets; as epoll_ctl(2).
    pub fn adopt(&self, end: UnixStream) -> io::Result<TcpStream> {
        TcpStream::adopt(self, end)
    }

    /// Addresses of `host`, which may be a number or a name. May block the shard: for start-up and administration.
    ///
    /// # Errors
    /// As getaddrinfo(3).
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self.driver() {
            Driver::Uring(driver) => driver.resolve(host, port).await,
            Driver::Posix(driver) => driver.resolve(host, port).await,
            Driver::Sim(driver) => driver.resolve(host, port).await,
        }
    }

    /// Resolves once somebody asked this process to stop: a signal, [`Runtime::stop`], or the simulation.
    pub async fn stop_requested(&self) {
        match self.driver() {
            Driver::Uring(driver) => driver.stop_requested().await,
            Driver::Posix(driver) => driver.stop_requested().await,
            Driver::Sim(driver) => driver.stop_requested().await,
        }
    }

    /// Ends the process at once, without running destructors or flushing anything; the simulation kills the node.
    /// For a state in which going on could acknowledge what is lost.
    pub fn exit_now(&self, code: i32) -> ! {
        match self.driver() {
            Driver::Uring(_) | Driver::Posix(_) => sys::exit_now(code),
            Driver::Sim(driver) => driver.exit_now(code),
        }
    }
}

/// What a shard has done since it started, for metrics. All but `in_flight` only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Calls of `io_uring_enter`, or of `epoll_wait`.
    pub enters: u64,
    /// Requests and cancellations handed to the ring, or jobs to the pool.
    pub requests: u64,
    /// Completions taken from the ring, or jobs that came back.
    pub completions: u64,
    /// Polls of tasks.
    pub task_polls: u64,
    /// Requests that have not completed.
    pub in_flight: u64,
}

/// Which driver real shards are to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// io_uring, or where the kernel or a sandbox refuses it, the other one, with a warning that says why.
    #[default]
    Auto,
    /// io_uring, or no start.
    Uring,
    /// epoll, and a pool of threads for files.
    Posix,
}

/// A driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll, and a pool of threads for files.
    Posix,
    /// The simulation.
    Sim,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverKind::Uring => "uring",
            DriverKind::Posix => "posix",
            DriverKind::Sim => "sim",
        })
    }
}

/// How real shards run. The defaults fit two cores: no pinning, no busy polling.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Name of the threads; the shard's number is appended.
    pub thread_name: String,
    /// Which driver they have.
    pub driver: DriverChoice,
    /// `uring`: entries of each shard's submission queue, a power of two.
    pub ring_entries: u32,
    /// `posix`: threads a shard for what concerns files, at least one. So many of its reads, writes and flushes go on at
    /// once; more wait for their turn.
    pub io_threads: usize,
    /// Size in bytes of each provided receive buffer.
    pub recv_buffer_bytes: usize,
    /// Number of provided receive buffers a shard, a power of two. On `uring` the bound of what a shard has received without
    /// being asked.
    pub recv_buffers: u16,
    /// `uring`: buffers that one stream may have queued before its receive is disarmed until they are consumed.
    pub recv_queue_per_stream: usize,
    /// `uring`: a send of at least so many bytes leaves from where they are (`IORING_OP_SENDMSG_ZC`), and is done when the peer
    /// has them all. `usize::MAX`, the default: the kernel copies every one, and it is done when it has. The kernel locks what is
    /// on its way, within `RLIMIT_MEMLOCK` of the user; beyond that sends copy.
    pub zero_copy_min_bytes: usize,
    /// Whether `SIGTERM` and `SIGINT` count as [`Io::stop_requested`].
    pub handle_signals: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            thread_name: "highwater".to_owned(),
            driver: DriverChoice::Auto,
            ring_entries: 256,
            io_threads: 4,
            recv_buffer_bytes: 32 * 1024,
            recv_buffers: 64,
            recv_queue_per_stream: 8,
            zero_copy_min_bytes: usize::MAX,
            handle_signals: false,
        }
    }
}

/// Why the runtime did not start. Displayed as a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel or a sandbox refuses io_uring.
    #[error(
        "io_uring is not available ({reason}): it needs Linux 6.1 or newer with kernel.io_uring_disabled=0, and a container \
         profile that allows io_uring_setup"
    )]
    UringUnavailable {
        /// What was tried and what the system answered.
        reason: String,
    },
    /// A thread or a system resource was refused.
    #[error("cannot start a shard: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether io_uring, or the locked memory for it, is what the system refuses, and not something that every driver needs.
    pub(crate) fn is_refusal_of_uring(&self) -> bool {
        match self {
            StartError::UringUnavailable { .. } => true,
            StartError::System(error) => error.kind() == io::ErrorKind::OutOfMemory,
        }
    }
}

/// Running shards. Dropping it asks them to stop and waits.
pub struct Runtime {
    inner: real::Runtime,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Runtime {
    /// Starts one shard for each of `states` and runs `main` on it with its state. A shard ends when its `main`
    /// returns; tasks that are left are dropped then, and nothing stays in flight.
    ///
    /// # Errors
    /// [`StartError`], with no shard left running.
    pub fn start<S, F, Fut>(config: &RuntimeConfig, states: Vec<S>, main: F) -> Result<Runtime, StartError>
    where
        S: Send + 'static,
        F: Fn(Io, S) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        Ok(Runtime { inner: real::Runtime::start(config, states, main)? })
    }

    /// The driver that the shards have.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.inner.kind()
    }

    /// Asks every shard to stop: [`Io::stop_requested`] resolves. Does not wait.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// Waits until every shard's `main` has returned.
    ///
    /// # Errors
    /// The payload of the first shard that panicked.
    pub fn join(self) -> Result<(), Box<dyn Any + Send>> {
        self.inner.join()
    }
}

//! How drivers run shards, and what tests need of them.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_io::net::{ListenOptions, TcpListener, TcpStream};
use highwater_io::{DriverChoice, Io, Runtime, RuntimeConfig, sim};

/// Longer than any promise takes to be kept, in the time of the driver.
const PATIENCE: Duration = Duration::from_secs(120);

/// The address that shards listen on.
pub(crate) const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A driver that runs shards.
#[derive(Clone, Copy)]
pub(crate) enum Host {
    /// Real shards on real files and loopback, by io_uring.
    Uring,
    /// The same by epoll and threads.
    Posix,
    /// Simulated shards; `HIGHWATER_SEED` chooses another course of events.
    Sim,
}

/// What a shard runs, told which one it is. Boxed, so that a promise is compiled once and not once a driver.
type Main = Arc<dyn Fn(Io, usize) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

impl Host {
    /// Runs `main` on one shard for each of `states` to the end, and passes on a panic.
    pub(crate) fn run<S, Fut>(self, states: Vec<S>, main: impl Fn(Io, S) -> Fut + Send + Sync + 'static)
    where
        S: Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let shards = states.len();
        let states = Mutex::new(states.into_iter().map(Some).collect::<Vec<_>>());
        let run = move |io, shard: usize| -> Pin<Box<dyn Future<Output = ()>>> {
            let state = states.lock().expect("no shard fails with it")[shard].take();
            Box::pin(main(io, state.expect("each shard starts once")))
        };
        self.run_shards(shards, Arc::new(run));
    }

    fn run_shards(self, shards: usize, main: Main) {
        let driver = match self {
            Host::Uring => DriverChoice::Uring,
            Host::Posix => DriverChoice::Posix,
            Host::Sim => {
                let seed = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok());
                return sim::run_shards(seed.unwrap_or(1), (0..shards).collect(), move |io, shard| {
                    main(io, shard)
                });
            }
        };
        let config = RuntimeConfig { driver, ..RuntimeConfig::default() };
        let runtime = Runtime::start(&config, (0..shards).collect(), move |io, shard| main(io, shard));
        if let Err(payload) = runtime.expect("the runtime starts").join() {
            resume_unwind(payload);
        }
    }

    /// Runs `main` on one shard, with an empty directory, and not for ever.
    pub(crate) fn one_shard<Fut>(self, main: impl Fn(Io, PathBuf) -> Fut + Send + Sync + 'static)
    where
        Fut: Future<Output = ()> + 'static,
    {
        let (directory, path) = self.directory();
        self.run(vec![path], move |io, path| {
            let main = main(io.clone(), path);
            async move { io.timeout(PATIENCE, main).await.expect("the test takes too long") }
        });
        drop(directory);
    }

    /// An empty directory that shards of the next [`run`](Self::run) see; on a real disk it goes with what keeps it.
    fn directory(self) -> (Option<tempfile::TempDir>, PathBuf) {
        if let Host::Sim = self {
            return (None, "/".into());
        }
        // Not the system's directory for temporary files, which may be in memory.
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory beside the build");
        let path = directory.path().to_owned();
        (Some(directory), path)
    }
}

/// A listener on a port of its own.
pub(crate) async fn listen(io: &Io) -> TcpListener {
    io.listen(SocketAddr::new(IP, 0), ListenOptions::default()).await.expect("a free port is there")
}

/// The two ends of a connection.
pub(crate) async fn connected(io: &Io) -> (TcpStream, TcpStream) {
    let listener = listen(io).await;
    let address = listener.local_addr();
    let connecting = io.spawn({
        let io = io.clone();
        async move { io.connect(address).await }
    });
    let accepted = listener.accept().await.expect("the connection is accepted");
    (connecting.await.expect("the connection is made"), accepted)
}

/// Bytes that tell their position: no two stretches of any length that tests compare are alike.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A number below `bound`.
pub(crate) fn below(io: &Io, bound: usize) -> usize {
    usize::try_from(io.random_u64() % bound as u64).expect("below a usize")
}

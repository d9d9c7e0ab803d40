//! How drivers run shards, and what tests need of them.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_io::net::{ListenOptions, TcpListener, TcpStream};
use highwater_io::{DriverChoice, Io, Runtime, RuntimeConfig, sim};

/// Longer than any promise takes to be kept, in the time of the driver.
const PATIENCE: Duration = Duration::from_secs(120);

/// A driver that runs shards.
pub(crate) trait Host {
    /// A directory of its own for one test; what it was given for goes with it.
    type Directory: AsRef<Path>;

    /// Runs `main` on one shard for each of `states` to the end, and passes on a panic.
    fn run<S, F, Fut>(states: Vec<S>, main: F)
    where
        S: Send + 'static,
        F: Fn(Io, S) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static;

    /// An empty directory that shards of the next [`run`](Self::run) see.
    fn directory() -> Self::Directory;

    /// The address that shards listen on.
    const IP: IpAddr;
}

/// Real shards on real files and loopback.
macro_rules! real_host {
    ($name:ident, $driver:expr) => {
        pub(crate) struct $name;

        impl Host for $name {
            type Directory = tempfile::TempDir;

            fn run<S, F, Fut>(states: Vec<S>, main: F)
            where
                S: Send + 'static,
                F: Fn(Io, S) -> Fut + Clone + Send + 'static,
                Fut: Future<Output = ()> + 'static,
            {
                let config = RuntimeConfig { driver: $driver, ..RuntimeConfig::default() };
                let runtime = Runtime::start(&config, states, main).expect("the runtime starts");
                if let Err(payload) = runtime.join() {
                    resume_unwind(payload);
                }
            }

            fn directory() -> tempfile::TempDir {
                // Not the system's directory for temporary files, which may be in memory.
                tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory beside the build")
            }

            const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        }
    };
}

real_host!(Uring, DriverChoice::Uring);
real_host!(Posix, DriverChoice::Posix);

/// Simulated shards; `HIGHWATER_SEED` chooses another course of events.
pub(crate) struct Sim;

impl Host for Sim {
    type Directory = PathBuf;

    fn run<S, F, Fut>(states: Vec<S>, main: F)
    where
        S: Send + 'static,
        F: Fn(Io, S) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let seed = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok());
        sim::run_shards(seed.unwrap_or(1), states, main);
    }

    fn directory() -> PathBuf {
        "/".into()
    }

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
}

/// Runs `main` on one shard, with an empty directory, and not for ever.
pub(crate) fn one_shard<H, Fut>(main: impl Fn(Io, PathBuf) -> Fut + Clone + Send + 'static)
where
    H: Host,
    Fut: Future<Output = ()> + 'static,
{
    let directory = H::directory();
    H::run(vec![directory.as_ref().to_owned()], move |io, directory| {
        let main = main.clone();
        async move {
            io.timeout(PATIENCE, main(io.clone(), directory)).await.expect("the test takes too long");
        }
    });
}

/// A listener on a port of its own.
pub(crate) async fn listen<H: Host>(io: &Io) -> TcpListener {
    io.listen(SocketAddr::new(H::IP, 0), ListenOptions::default()).await.expect("a free port is there")
}

/// The two ends of a connection.
pub(crate) async fn connected<H: Host>(io: &Io) -> (TcpStream, TcpStream) {
    let listener = listen::<H>(io).await;
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

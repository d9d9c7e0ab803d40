//! A broker in this process, on threads of its own: for the binary, for embedding, for tests.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use highwater_io::{Runtime, RuntimeConfig};
use tempfile::TempDir;

use crate::config::BrokerConfig;
use crate::counters::Metrics;
use crate::node::{BrokerError, Connector, NodeHandle, Started, prepare, run_shard};

/// Whether signals ask the broker to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signals {
    /// Signals are the process's own business.
    #[default]
    Ignore,
    /// `SIGTERM` and `SIGINT` ask it to stop; a second one ends the process.
    Stop,
}

/// A running broker. Dropping it stops it cleanly and waits until its threads have ended, its port is closed and, of an
/// [ephemeral](BrokerConfig::ephemeral) one, its directory is gone.
///
/// In a test, a broker of its own for each case; it is there as soon as the disk has flushed a dozen small files, in less
/// than 50 ms on one that is not busy:
///
/// ```
/// use highwater_broker::{Broker, Config};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::start(Config::ephemeral())?;
/// let bootstrap_servers = broker.bootstrap(); // 127.0.0.1 and a port that was free
/// std::net::TcpStream::connect(&bootstrap_servers)?; // any client of Kafka's
///
/// let dir = broker.data_dir().to_owned();
/// drop(broker);
/// assert!(!dir.exists());
/// assert!(std::net::TcpStream::connect(&bootstrap_servers).is_err());
/// # Ok(())
/// # }
/// ```
///
/// With settings of one's own, each under Kafka's name:
///
/// ```
/// # use highwater_broker::{Broker, Config};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::ephemeral();
/// config.set("num.partitions", "3")?;
/// config.set("auto.create.topics.enable", "false")?;
/// let broker = Broker::start(config)?;
/// # Ok(())
/// # }
/// ```
///
/// [`started`](Self::started) tells how long a start took; `cargo run --release --example ephemeral` prints it for a dozen.
#[derive(Debug)]
pub struct Broker {
    runtime: Runtime,
    handle: NodeHandle,
    started: Started,
    data_dir: PathBuf,
    /// Removed when everything above is gone.
    _scratch: Option<TempDir>,
}

impl Broker {
    /// Starts a broker, and returns when it accepts connections. Port 0 takes a free one, see [`addr`](Self::addr).
    ///
    /// # Errors
    /// [`BrokerError`], with nothing left running.
    pub fn start(config: impl Borrow<BrokerConfig>) -> Result<Broker, BrokerError> {
        Broker::start_with(config, Signals::Ignore)
    }

    /// As [`start`](Self::start), and says who handles signals.
    ///
    /// # Errors
    /// [`BrokerError`], with nothing left running.
    pub fn start_with(config: impl Borrow<BrokerConfig>, signals: Signals) -> Result<Broker, BrokerError> {
        Broker::begin(config.borrow(), signals)
    }

    // Not generic: it is the whole broker, which is compiled here once and not in each program that starts one.
    fn begin(config: &BrokerConfig, signals: Signals) -> Result<Broker, BrokerError> {
        let scratch = config.is_ephemeral.then(|| scratch_in(&config.log_dirs[0])).transpose()?;
        let config = match &scratch {
            Some(dir) => &config.moved_to(dir.path())?,
            None => config,
        };
        let runtime_config = RuntimeConfig {
            driver: config.io_driver,
            zero_copy_min_bytes: config.zero_copy_min_bytes,
            handle_signals: signals == Signals::Stop,
            ..RuntimeConfig::default()
        };
        let (states, mut handle) = prepare(config);
        let runtime = Runtime::start(&runtime_config, states, run_shard)?;
        match highwater_io::block_on(&mut handle.started) {
            Some(Ok(started)) => Ok(Broker {
                runtime,
                handle,
                started,
                data_dir: config.metadata_log_dir.clone(),
                _scratch: scratch,
            }),
            Some(Err(error)) => {
                // Says why by itself.
                drop(runtime.join());
                Err(error)
            }
            None => Err(BrokerError::Ended),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.started.addr
    }

    /// Where it listens, as clients take it for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.started.addr.to_string()
    }

    /// Its data directory; of several, the one with the metadata log.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Makes connections to it from within this process, without a port.
    #[must_use]
    pub fn connector(&self) -> Connector {
        self.handle.connector()
    }

    /// How the start went.
    #[must_use]
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// What it has counted so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.handle.metrics()
    }

    /// Asks it to stop, and waits: accepted requests are answered, logs closed, the directory marked clean.
    ///
    /// # Errors
    /// [`BrokerError::NotClean`].
    ///
    /// # Panics
    /// If a shard panicked, with its panic.
    pub fn stop(self) -> Result<(), BrokerError> {
        self.runtime.stop();
        self.wait()
    }

    /// Waits until it has stopped, because a signal asked it to.
    ///
    /// # Errors
    /// [`BrokerError::NotClean`].
    ///
    /// # Panics
    /// If a shard panicked, with its panic.
    pub fn wait(self) -> Result<(), BrokerError> {
        if let Err(panic) = self.runtime.join() {
            std::panic::resume_unwind(panic);
        }
        let mut stopped = self.handle.stopped;
        highwater_io::block_on(&mut stopped).unwrap_or(Err(BrokerError::Ended))
    }
}

/// A directory of its own, with a name that nobody else has.
fn scratch_in(parent: &Path) -> Result<TempDir, BrokerError> {
    tempfile::Builder::new().prefix("highwater-").tempdir_in(parent).map_err(|error| BrokerError::DataDir {
        path: parent.to_owned(),
        reason: format!("no directory can be made in it: {error}"),
    })
}

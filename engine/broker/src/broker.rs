//! A broker in this process, on threads of its own: for the binary, for embedding, for tests.

use std::net::SocketAddr;

use highwater_io::{Runtime, RuntimeConfig};

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

/// A running broker. Dropping it stops it cleanly.
#[derive(Debug)]
pub struct Broker {
    runtime: Runtime,
    handle: NodeHandle,
    started: Started,
}

impl Broker {
    /// Starts a broker, and returns when it accepts connections. Port 0 takes a free one, see [`addr`](Self::addr).
    ///
    /// # Errors
    /// [`BrokerError`], with nothing left running.
    pub fn start(config: &BrokerConfig) -> Result<Broker, BrokerError> {
        Broker::start_with(config, Signals::Ignore)
    }

    /// As [`start`](Self::start), and says who handles signals.
    ///
    /// # Errors
    /// [`BrokerError`], with nothing left running.
    pub fn start_with(config: &BrokerConfig, signals: Signals) -> Result<Broker, BrokerError> {
        let runtime_config = RuntimeConfig {
            driver: config.io_driver,
            handle_signals: signals == Signals::Stop,
            ..RuntimeConfig::default()
        };
        let (states, mut handle) = prepare(config);
        let runtime = Runtime::start(&runtime_config, states, run_shard)?;
        match highwater_io::block_on(&mut handle.started) {
            Some(Ok(started)) => Ok(Broker { runtime, handle, started }),
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

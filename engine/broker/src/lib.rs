//! The broker: the shell around logs and cluster state that speaks Kafka's protocol.
//!
//! ```text
//!   listener ─► connection ─► handlers ─► Shard::on(owner) ─► partition ─► log
//!   (each shard)    ▲             │
//!                   └── replies ──┘        controller (first shard): metadata log, image for every shard
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | settings, from names and texts |
//! | `node`, [`Broker`] | start and stop |
//! | `shard` | one thread's state; work for other shards |
//! | `listener`, `connection`, `frame`, `reply` | from sockets to requests and back |
//! | `memory`, `limits` | what is admitted before it is taken |
//! | `handlers` | what requests mean, one module an API family |
//! | `fetch`, `partition` | reading within limits, sessions, waiting; the order of appends |
//! | `open_dirs`, `log_dirs` | several log directories: opened each by itself, which of them serve |
//! | `controller`, `metadata_log` | changes of metadata: decided, durable, spread |
//!
//! Invariants: a partition belongs to one shard, and a request takes at most one hop to it; replies leave in the order of
//! requests; nothing is acknowledged before the log says so; nothing that a peer sends panics or blocks a shard, and
//! everything it can make grow has a bound that is a setting. Deliberately absent: what batches look like on disk, and
//! any decision about the cluster that is not a pure function of its image.

mod broker;
pub mod config;
mod connection;
mod controller;
mod counters;
mod errors;
mod fetch;
mod frame;
mod handlers;
mod limits;
mod listener;
mod log_dirs;
mod memory;
mod metadata_log;
mod node;
mod open_dirs;
mod pace;
mod partition;
mod producer_ids;
mod reply;
mod shard;

pub use broker::{Broker, Signals};
pub use config::{BrokerConfig, BrokerConfig as Config, ConfigError};
pub use counters::Metrics;
pub use metadata_log::MetadataLogError;
pub use node::{BrokerError, Connector, NodeHandle, ShardState, Started, prepare, run_shard};

//! Kafka producer and consumer as sans-I/O cores with adaptors.

#[cfg(feature = "tokio")]
pub mod adaptor;
pub mod admin;
mod config;
pub mod consumer;
mod drive;
mod error_code;
mod metadata;
mod network;
pub mod producer;
mod rng;
mod time;
mod wire;

pub use config::*;
pub use drive::*;
pub use highwater_protocol::ErrorCode;
pub use metadata::{Partition, TopicHandle};
pub use time::MonoTime;
pub use wire::{DEFAULT_MAX_FRAME_BYTES, FrameReader, WireError};

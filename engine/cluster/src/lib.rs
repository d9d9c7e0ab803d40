//! Pure state machines of the cluster. No I/O, no clock, no randomness of their own.
//!
//! * [`image`]: what the cluster is: topics, partitions with leader and epoch, brokers, configs.
//! * [`record`]: changes to it, as the bytes that one replicated log keeps.
//! * [`topics`], [`alter_configs`], [`lifecycle`]: what is asked, checked against an image, becomes records or an error.
//! * [`config`]: every setting that exists, in one table a scope: type, default, check, what it means.
//!
//! ```text
//!   request ──► decide(image, request) ──► records ──► metadata log (durable) ──► image.apply(record)
//!                       │                                                              │
//!                       └──► error, nothing changes                       what every shard reads
//! ```
//!
//! Invariants: deciding changes nothing; applying cannot fail for a record that was decided against the image before
//! it; replaying the log gives the same image. The names of errors are Kafka's, their numbers are the protocol's.
//! Deliberately absent: where the log is, and who may ask.

pub mod alter_configs;
pub mod config;
pub mod directories;
mod error;
pub mod image;
pub mod lifecycle;
pub mod record;
pub mod topics;

pub use error::MetadataError;
pub use image::{Broker, ConfigResource, LogDir, MetadataImage, PartitionState, Topic};
pub use record::Record;

use highwater_model::{PartitionIndex, TopicId, TopicPartition};

/// The one partition that the metadata log is: the id is the one that Kafka gives its own metadata topic.
pub const METADATA_PARTITION: TopicPartition =
    TopicPartition { topic_id: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(0) };

/// Name of the metadata log's topic, which no client may create, see or delete.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

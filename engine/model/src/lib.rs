//! What every other crate calls things: offsets, epochs and ids as types of their own, and Kafka's record batch.
//!
//! * [`ids`]: newtypes, so that an offset is never taken for a position, nor an epoch for a partition.
//! * [`batch`]: the record batch of format v2: parse, validate, change in place, build. A batch is validated once,
//!   given its base offset and leader epoch in place, and from then on moves unchanged.
//! * [`record`]: the records inside a batch.
//! * [`compression`]: Kafka's four codecs, decoding with bounded memory.
//! * [`crc`]: CRC-32C, and how checksums of parts make that of the whole.
//!
//! Every byte that is parsed here may come from a hostile peer or a rotten disk: lengths are checked before memory is
//! taken, and nothing panics. Deliberately absent: I/O, clocks, and formats v0 and v1, which Kafka 4 no longer accepts.

pub mod batch;
pub mod compression;
pub mod crc;
pub mod ids;
pub mod record;
pub mod varint;

pub use ids::{
    BrokerId, DirectoryId, LeaderEpoch, NO_PARTITION_LEADER_EPOCH, Offset, PartitionIndex, ProducerEpoch,
    ProducerId, Sequence, Timestamp, TopicId, TopicPartition,
};

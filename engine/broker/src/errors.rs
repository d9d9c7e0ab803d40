//! From our errors to Kafka's codes: one match a family, so that the contract is read in one place.

use highwater_cluster::MetadataError;
use highwater_log::{AppendError, LogError, ReadError};
use highwater_model::batch::BatchError;
use highwater_protocol::ErrorCode;

/// What a storage failure is for a client: it may try again, since the partition may move to another broker.
pub(crate) fn of_log(error: &LogError) -> ErrorCode {
    match error {
        // Deleted, or the broker stops: a fresh look at the metadata tells which.
        LogError::Closed => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        // Storage, Fenced, OutOfSpace, OutOfDescriptors, Unreadable.
        _ => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// What a refused batch is for a producer.
pub(crate) fn of_append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Log(error) => of_log(error),
        AppendError::Batch(error) => of_batch(error),
        AppendError::InvalidRecord(_) => ErrorCode::INVALID_RECORD,
        AppendError::TooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        AppendError::InvalidTimestamp { .. } | AppendError::InvalidTimestampType => {
            ErrorCode::INVALID_TIMESTAMP
        }
        AppendError::FencedLeaderEpoch { .. } => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
        AppendError::UnknownProducer { .. } => ErrorCode::UNKNOWN_PRODUCER_ID,
        _ => ErrorCode::UNKNOWN_SERVER_ERROR,
    }
}

/// What a damaged batch is for a producer. Damage on the way is worth another try; a batch that was made wrong is not.
pub(crate) fn of_batch(error: &BatchError) -> ErrorCode {
    match error {
        BatchError::Corrupt { .. } => ErrorCode::CORRUPT_MESSAGE,
        // The old formats are known, and refused; anything else never was a format.
        BatchError::UnsupportedMagic(magic) if !(0..=2).contains(magic) => ErrorCode::CORRUPT_MESSAGE,
        BatchError::UnknownCompression(_) => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        // A producer answers this by splitting its batch.
        BatchError::Inflated { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        // Cut, not well formed, or impossible to decompress although the checksum fits.
        _ => ErrorCode::INVALID_RECORD,
    }
}

/// What a failed read is for a consumer. Damage does not go away by trying again.
pub(crate) fn of_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        ReadError::Corrupt { .. } => ErrorCode::CORRUPT_MESSAGE,
        ReadError::Io { .. } => ErrorCode::KAFKA_STORAGE_ERROR,
        ReadError::Log(error) => of_log(error),
        _ => ErrorCode::UNKNOWN_SERVER_ERROR,
    }
}

/// What a refused change is for an administrator.
pub(crate) fn of_metadata(error: &MetadataError) -> ErrorCode {
    match error {
        MetadataError::InvalidTopic(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
        MetadataError::TopicAlreadyExists(_) => ErrorCode::TOPIC_ALREADY_EXISTS,
        MetadataError::UnknownTopic(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        MetadataError::UnknownTopicId => ErrorCode::UNKNOWN_TOPIC_ID,
        MetadataError::InvalidPartitions(_) => ErrorCode::INVALID_PARTITIONS,
        MetadataError::InvalidReplicationFactor(_) => ErrorCode::INVALID_REPLICATION_FACTOR,
        MetadataError::InvalidReplicaAssignment(_) => ErrorCode::INVALID_REPLICA_ASSIGNMENT,
        MetadataError::InvalidConfig(_) => ErrorCode::INVALID_CONFIG,
        MetadataError::InvalidRequest(_) => ErrorCode::INVALID_REQUEST,
        MetadataError::PolicyViolation(_) => ErrorCode::POLICY_VIOLATION,
        MetadataError::TopicDeletionDisabled => ErrorCode::TOPIC_DELETION_DISABLED,
        MetadataError::Exhausted(_) => ErrorCode::UNKNOWN_SERVER_ERROR,
    }
}

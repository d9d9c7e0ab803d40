//! Why the cluster does not do what was asked.

/// A refused change. The variants carry Kafka's names; the text is what the client shows.
///
/// Exhaustive on purpose: whoever maps it to wire codes must map every one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// `INVALID_TOPIC_EXCEPTION`.
    #[error("{0}")]
    InvalidTopic(String),
    /// `TOPIC_ALREADY_EXISTS`.
    #[error("Topic '{0}' already exists.")]
    TopicAlreadyExists(String),
    /// `UNKNOWN_TOPIC_OR_PARTITION`.
    #[error("{0}")]
    UnknownTopic(String),
    /// `UNKNOWN_TOPIC_ID`.
    #[error("This server does not host this topic ID.")]
    UnknownTopicId,
    /// `INVALID_PARTITIONS`.
    #[error("{0}")]
    InvalidPartitions(String),
    /// `INVALID_REPLICATION_FACTOR`.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// `INVALID_REPLICA_ASSIGNMENT`.
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// `INVALID_CONFIG`.
    #[error("{0}")]
    InvalidConfig(String),
    /// `INVALID_REQUEST`.
    #[error("{0}")]
    InvalidRequest(String),
    /// `POLICY_VIOLATION`.
    #[error("{0}")]
    PolicyViolation(String),
    /// `TOPIC_DELETION_DISABLED`.
    #[error("Topic deletion is disabled.")]
    TopicDeletionDisabled,
    /// `UNKNOWN_SERVER_ERROR`, for what can only be a bug of ours, such as producer ids running out.
    #[error("{0}")]
    Exhausted(&'static str),
}

impl MetadataError {
    /// A topic that does not exist, in Kafka's words.
    #[must_use]
    pub fn unknown_topic() -> Self {
        MetadataError::UnknownTopic("This server does not host this topic-partition.".to_owned())
    }
}

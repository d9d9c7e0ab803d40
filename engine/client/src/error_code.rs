//! What a client makes of Kafka's error codes.

use highwater_protocol::ErrorCode;

/// Whether an error says that this client's view of leaders and topics is stale. Source: the exceptions of Apache Kafka
/// 4.3 that are `InvalidMetadataException`s.
pub(crate) fn is_stale_metadata(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::REPLICA_NOT_AVAILABLE
            | ErrorCode::NETWORK_EXCEPTION
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::LISTENER_NOT_FOUND
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE
            | ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE
            | ErrorCode::ELECTION_NOT_NEEDED
            | ErrorCode::UNKNOWN_TOPIC_ID
            | ErrorCode::INCONSISTENT_TOPIC_ID
    )
}

/// `Ok` if it is no error.
pub(crate) fn check(code: ErrorCode) -> Result<(), ErrorCode> {
    if code == ErrorCode::NONE { Ok(()) } else { Err(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_metadata_is_always_retriable() {
        for code in ErrorCode::ALL {
            assert!(!is_stale_metadata(*code) || code.is_retriable(), "{code}");
        }
    }
}

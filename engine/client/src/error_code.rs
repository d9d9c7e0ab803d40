//! Kafka's error codes: their names, which of them are worth a retry, and which say that metadata is stale.
//!
//! Source: `org.apache.kafka.common.protocol.Errors` of Apache Kafka 4.3 (retriable: the exception is a
//! `RetriableException`; stale metadata: it is an `InvalidMetadataException`).

use std::fmt;

/// An error code of the protocol. 0 is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i16);

macro_rules! codes {
    ($($code:literal $name:ident),* $(,)?) => {
        impl ErrorCode {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                pub const $name: ErrorCode = ErrorCode($code);
            )*

            /// Kafka's name for it, if it is known.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

impl ErrorCode {
    /// `Ok` if it is no error.
    ///
    /// # Errors
    /// Itself.
    pub fn check(self) -> Result<(), ErrorCode> {
        if self == ErrorCode::NONE { Ok(()) } else { Err(self) }
    }

    /// Whether the same request may succeed when it is sent again.
    #[must_use]
    pub fn is_retriable(self) -> bool {
        matches!(
            self,
            ErrorCode::CORRUPT_MESSAGE
                | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                | ErrorCode::LEADER_NOT_AVAILABLE
                | ErrorCode::NOT_LEADER_OR_FOLLOWER
                | ErrorCode::REQUEST_TIMED_OUT
                | ErrorCode::REPLICA_NOT_AVAILABLE
                | ErrorCode::NETWORK_EXCEPTION
                | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
                | ErrorCode::COORDINATOR_NOT_AVAILABLE
                | ErrorCode::NOT_COORDINATOR
                | ErrorCode::NOT_ENOUGH_REPLICAS
                | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | ErrorCode::NOT_CONTROLLER
                | ErrorCode::CONCURRENT_TRANSACTIONS
                | ErrorCode::KAFKA_STORAGE_ERROR
                | ErrorCode::FETCH_SESSION_ID_NOT_FOUND
                | ErrorCode::INVALID_FETCH_SESSION_EPOCH
                | ErrorCode::LISTENER_NOT_FOUND
                | ErrorCode::FENCED_LEADER_EPOCH
                | ErrorCode::UNKNOWN_LEADER_EPOCH
                | ErrorCode::OFFSET_NOT_AVAILABLE
                | ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE
                | ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE
                | ErrorCode::ELECTION_NOT_NEEDED
                | ErrorCode::UNSTABLE_OFFSET_COMMIT
                | ErrorCode::THROTTLING_QUOTA_EXCEEDED
                | ErrorCode::UNKNOWN_TOPIC_ID
                | ErrorCode::INCONSISTENT_TOPIC_ID
                | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
                | ErrorCode::SHARE_SESSION_NOT_FOUND
                | ErrorCode::INVALID_SHARE_SESSION_EPOCH
                | ErrorCode::SHARE_SESSION_LIMIT_REACHED
        )
    }

    /// Whether it says that this client's view of leaders and topics is stale.
    #[must_use]
    pub fn is_stale_metadata(self) -> bool {
        matches!(
            self,
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
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl std::error::Error for ErrorCode {}

codes! {
    -1 UNKNOWN_SERVER_ERROR,
    0 NONE,
    1 OFFSET_OUT_OF_RANGE,
    2 CORRUPT_MESSAGE,
    3 UNKNOWN_TOPIC_OR_PARTITION,
    4 INVALID_FETCH_SIZE,
    5 LEADER_NOT_AVAILABLE,
    6 NOT_LEADER_OR_FOLLOWER,
    7 REQUEST_TIMED_OUT,
    8 BROKER_NOT_AVAILABLE,
    9 REPLICA_NOT_AVAILABLE,
    10 MESSAGE_TOO_LARGE,
    11 STALE_CONTROLLER_EPOCH,
    12 OFFSET_METADATA_TOO_LARGE,
    13 NETWORK_EXCEPTION,
    14 COORDINATOR_LOAD_IN_PROGRESS,
    15 COORDINATOR_NOT_AVAILABLE,
    16 NOT_COORDINATOR,
    17 INVALID_TOPIC_EXCEPTION,
    18 RECORD_LIST_TOO_LARGE,
    19 NOT_ENOUGH_REPLICAS,
    20 NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    21 INVALID_REQUIRED_ACKS,
    22 ILLEGAL_GENERATION,
    23 INCONSISTENT_GROUP_PROTOCOL,
    24 INVALID_GROUP_ID,
    25 UNKNOWN_MEMBER_ID,
    26 INVALID_SESSION_TIMEOUT,
    27 REBALANCE_IN_PROGRESS,
    28 INVALID_COMMIT_OFFSET_SIZE,
    29 TOPIC_AUTHORIZATION_FAILED,
    30 GROUP_AUTHORIZATION_FAILED,
    31 CLUSTER_AUTHORIZATION_FAILED,
    32 INVALID_TIMESTAMP,
    33 UNSUPPORTED_SASL_MECHANISM,
    34 ILLEGAL_SASL_STATE,
    35 UNSUPPORTED_VERSION,
    36 TOPIC_ALREADY_EXISTS,
    37 INVALID_PARTITIONS,
    38 INVALID_REPLICATION_FACTOR,
    39 INVALID_REPLICA_ASSIGNMENT,
    40 INVALID_CONFIG,
    41 NOT_CONTROLLER,
    42 INVALID_REQUEST,
    43 UNSUPPORTED_FOR_MESSAGE_FORMAT,
    44 POLICY_VIOLATION,
    45 OUT_OF_ORDER_SEQUENCE_NUMBER,
    46 DUPLICATE_SEQUENCE_NUMBER,
    47 INVALID_PRODUCER_EPOCH,
    48 INVALID_TXN_STATE,
    49 INVALID_PRODUCER_ID_MAPPING,
    50 INVALID_TRANSACTION_TIMEOUT,
    51 CONCURRENT_TRANSACTIONS,
    52 TRANSACTION_COORDINATOR_FENCED,
    53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    54 SECURITY_DISABLED,
    55 OPERATION_NOT_ATTEMPTED,
    56 KAFKA_STORAGE_ERROR,
    57 LOG_DIR_NOT_FOUND,
    58 SASL_AUTHENTICATION_FAILED,
    59 UNKNOWN_PRODUCER_ID,
    60 REASSIGNMENT_IN_PROGRESS,
    61 DELEGATION_TOKEN_AUTH_DISABLED,
    62 DELEGATION_TOKEN_NOT_FOUND,
    63 DELEGATION_TOKEN_OWNER_MISMATCH,
    64 DELEGATION_TOKEN_REQUEST_NOT_ALLOWED,
    65 DELEGATION_TOKEN_AUTHORIZATION_FAILED,
    66 DELEGATION_TOKEN_EXPIRED,
    67 INVALID_PRINCIPAL_TYPE,
    68 NON_EMPTY_GROUP,
    69 GROUP_ID_NOT_FOUND,
    70 FETCH_SESSION_ID_NOT_FOUND,
    71 INVALID_FETCH_SESSION_EPOCH,
    72 LISTENER_NOT_FOUND,
    73 TOPIC_DELETION_DISABLED,
    74 FENCED_LEADER_EPOCH,
    75 UNKNOWN_LEADER_EPOCH,
    76 UNSUPPORTED_COMPRESSION_TYPE,
    77 STALE_BROKER_EPOCH,
    78 OFFSET_NOT_AVAILABLE,
    79 MEMBER_ID_REQUIRED,
    80 PREFERRED_LEADER_NOT_AVAILABLE,
    81 GROUP_MAX_SIZE_REACHED,
    82 FENCED_INSTANCE_ID,
    83 ELIGIBLE_LEADERS_NOT_AVAILABLE,
    84 ELECTION_NOT_NEEDED,
    85 NO_REASSIGNMENT_IN_PROGRESS,
    86 GROUP_SUBSCRIBED_TO_TOPIC,
    87 INVALID_RECORD,
    88 UNSTABLE_OFFSET_COMMIT,
    89 THROTTLING_QUOTA_EXCEEDED,
    90 PRODUCER_FENCED,
    91 RESOURCE_NOT_FOUND,
    92 DUPLICATE_RESOURCE,
    93 UNACCEPTABLE_CREDENTIAL,
    94 INCONSISTENT_VOTER_SET,
    95 INVALID_UPDATE_VERSION,
    96 FEATURE_UPDATE_FAILED,
    97 PRINCIPAL_DESERIALIZATION_FAILURE,
    98 SNAPSHOT_NOT_FOUND,
    99 POSITION_OUT_OF_RANGE,
    100 UNKNOWN_TOPIC_ID,
    101 DUPLICATE_BROKER_REGISTRATION,
    102 BROKER_ID_NOT_REGISTERED,
    103 INCONSISTENT_TOPIC_ID,
    104 INCONSISTENT_CLUSTER_ID,
    105 TRANSACTIONAL_ID_NOT_FOUND,
    106 FETCH_SESSION_TOPIC_ID_ERROR,
    107 INELIGIBLE_REPLICA,
    108 NEW_LEADER_ELECTED,
    109 OFFSET_MOVED_TO_TIERED_STORAGE,
    110 FENCED_MEMBER_EPOCH,
    111 UNRELEASED_INSTANCE_ID,
    112 UNSUPPORTED_ASSIGNOR,
    113 STALE_MEMBER_EPOCH,
    114 MISMATCHED_ENDPOINT_TYPE,
    115 UNSUPPORTED_ENDPOINT_TYPE,
    116 UNKNOWN_CONTROLLER_ID,
    117 UNKNOWN_SUBSCRIPTION_ID,
    118 TELEMETRY_TOO_LARGE,
    119 INVALID_REGISTRATION,
    120 TRANSACTION_ABORTABLE,
    121 INVALID_RECORD_STATE,
    122 SHARE_SESSION_NOT_FOUND,
    123 INVALID_SHARE_SESSION_EPOCH,
    124 FENCED_STATE_EPOCH,
    125 INVALID_VOTER_KEY,
    126 DUPLICATE_VOTER,
    127 VOTER_NOT_FOUND,
    128 INVALID_REGULAR_EXPRESSION,
    129 REBOOTSTRAP_REQUIRED,
    130 STREAMS_INVALID_TOPOLOGY,
    131 STREAMS_INVALID_TOPOLOGY_EPOCH,
    132 STREAMS_TOPOLOGY_FENCED,
    133 SHARE_SESSION_LIMIT_REACHED,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_shows_name_and_number() {
        assert_eq!(ErrorCode(6).to_string(), "NOT_LEADER_OR_FOLLOWER (6)");
        assert_eq!(ErrorCode(-7).to_string(), "error code -7");
    }

    #[test]
    fn stale_metadata_is_always_retriable() {
        for code in -1..200 {
            let code = ErrorCode(code);
            assert!(!code.is_stale_metadata() || code.is_retriable(), "{code}");
        }
        assert!(!ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER.is_retriable());
        assert!(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND.is_retriable());
    }
}

//! What became of records: acknowledged, sent without an answer, or failed, and then whether they may be in the log
//! all the same.

use highwater_model::{Offset, Timestamp};

use crate::config::Acks;
use crate::metadata::Partition;
use crate::time::MonoTime;
use highwater_protocol::ErrorCode;

/// The outcome of consecutive records of one batch. Every appended record is part of exactly one delivery.
#[derive(Debug)]
pub struct Delivery {
    /// Where they went.
    pub partition: Partition,
    /// The tokens that they were appended with, in the batch's order.
    pub tokens: Vec<u64>,
    /// When the batch was begun.
    pub created_at: MonoTime,
    /// When the outcome was known.
    pub completed_at: MonoTime,
    /// How often the batch was sent.
    pub attempts: u32,
    /// What became of them.
    pub outcome: Outcome,
}

impl Delivery {
    /// Each record's token and, where it is known, its offset.
    pub fn records(&self) -> impl Iterator<Item = (u64, Option<Offset>)> + '_ {
        let base = match self.outcome {
            Outcome::Acked { base_offset, .. } => base_offset,
            Outcome::Sent | Outcome::Failed(_) => None,
        };
        let offset = move |index: usize| base?.checked_add(i64::try_from(index).ok()?);
        self.tokens.iter().enumerate().map(move |(index, token)| (*token, offset(index)))
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The broker acknowledged it, under the promise of `acks`.
    Acked {
        /// Offset of the first record. `None` if the broker knows only that it has the batch already
        /// (`DUPLICATE_SEQUENCE_NUMBER` long after it was appended).
        base_offset: Option<Offset>,
        /// The time of appending, where the topic's timestamps are that.
        log_append_time: Option<Timestamp>,
    },
    /// acks=0: handed to the operating system.
    Sent,
    /// Neither.
    Failed(ProduceError),
}

/// Why a batch failed, and what that says about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceError {
    /// Why the producer gave up.
    pub reason: FailureReason,
    /// Whether the records may be in the log.
    pub appended: Appended,
}

impl std::fmt::Display for ProduceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let appended = match self.appended {
            Appended::NeverSent => "never sent",
            Appended::No => "not appended",
            Appended::Unknown => "may have been appended",
        };
        write!(f, "{}; {appended}", self.reason)
    }
}

impl std::error::Error for ProduceError {}

/// Whether records that failed may be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Appended {
    /// No: they never left this process.
    NeverSent,
    /// No: every attempt was answered with an error that is given before anything is appended.
    No,
    /// They may be: an attempt had no answer, or one that says nothing about it.
    Unknown,
}

/// Why a producer gave up on a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailureReason {
    /// The broker's last word, not retriable or after `retries`.
    #[error("{0}")]
    Broker(ErrorCode),
    /// `delivery.timeout.ms` has passed; the last error met, if there was one.
    #[error("delivery.timeout.ms has passed, last error: {}", .last.map_or("none".to_owned(), |code| code.to_string()))]
    DeliveryTimeout {
        /// `NETWORK_EXCEPTION` stands for a lost connection.
        last: Option<ErrorCode>,
    },
    /// The connection was lost, after `retries` or with acks=0.
    #[error("the connection was lost")]
    Disconnected,
    /// Idempotence: the broker has lost track of the sequence, or a batch before this one may be missing. Sending this
    /// one again under another producer epoch could duplicate it, for it may have been appended under the old one.
    #[error("the sequence before it is broken")]
    SequenceBroken,
    /// The producer was closed first.
    #[error("the producer was closed")]
    Closed,
    /// The records could not be compressed or sent.
    #[error("the batch could not be encoded")]
    Encoding,
}

impl FailureReason {
    /// Whether the application may try again with hope (Kafka's `RetriableException`).
    #[must_use]
    pub fn is_retriable(self) -> bool {
        match self {
            FailureReason::Broker(code) => code.is_retriable(),
            FailureReason::DeliveryTimeout { .. }
            | FailureReason::Disconnected
            | FailureReason::SequenceBroken => true,
            FailureReason::Closed | FailureReason::Encoding => false,
        }
    }
}

/// What an error answer to a produce request says about the log.
///
/// Certain are only those errors that Kafka gives before it appends. Behind acks=all stands a wait after the append,
/// and that can end with an error about the partition, too: `DelayedProduce` answers `NOT_LEADER_OR_FOLLOWER`,
/// `UNKNOWN_TOPIC_OR_PARTITION` and `KAFKA_STORAGE_ERROR` for a batch which the leader had appended.
#[must_use]
pub fn appended_after(code: ErrorCode, acks: Acks) -> Appended {
    match code {
        ErrorCode::CORRUPT_MESSAGE
        | ErrorCode::MESSAGE_TOO_LARGE
        | ErrorCode::INVALID_TOPIC_EXCEPTION
        | ErrorCode::RECORD_LIST_TOO_LARGE
        | ErrorCode::NOT_ENOUGH_REPLICAS
        | ErrorCode::INVALID_REQUIRED_ACKS
        | ErrorCode::TOPIC_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
        | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | ErrorCode::INVALID_TIMESTAMP
        | ErrorCode::UNSUPPORTED_VERSION
        | ErrorCode::INVALID_REQUEST
        | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
        | ErrorCode::POLICY_VIOLATION
        | ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::INVALID_TXN_STATE
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
        | ErrorCode::INVALID_RECORD
        | ErrorCode::THROTTLING_QUOTA_EXCEEDED
        | ErrorCode::PRODUCER_FENCED => Appended::No,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
        | ErrorCode::LEADER_NOT_AVAILABLE
        | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::UNKNOWN_TOPIC_ID
        | ErrorCode::FENCED_LEADER_EPOCH
            if acks != Acks::All =>
        {
            Appended::No
        }
        _ => Appended::Unknown,
    }
}

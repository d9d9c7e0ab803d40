//! What a produce error says about the record: certainly not appended, or unknown.
//!
//! The table decides what an *aborted read* is, so it errs to one side only: a code is
//! [`ErrorClass::Fail`] if Kafka's produce path raises it strictly before the append. Everything
//! else, known or not, is [`ErrorClass::Info`], for which presence and absence are both legal.
//!
//! A code speaks of one attempt. A record fails only if *every* attempt for it failed: use
//! [`conclude`] where the client retries.

use serde::{Deserialize, Serialize};

/// What is known of a record whose producer was not given an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Certainly not appended. Finding it is an aborted read.
    Fail,
    /// Unknown: it may be there or not.
    Info,
}

/// When the broker answers, which decides what a lost leadership means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckPoint {
    /// With the append (acks=1, unflushed): an error was raised instead of the append.
    AtAppend,
    /// After a wait behind the append (acks=all, or an ack that waits for a flush): an error may
    /// follow an append that nobody takes back.
    AfterWait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Before,
    Unknown,
    /// Raised by the leader check before the append, and again by the wait for replicas after it.
    BeforeOrWhileWaiting,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct CodeEntry {
    /// Kafka's number.
    pub code: i16,
    /// Kafka's name.
    pub name: &'static str,
    /// Why it is classed as it is.
    pub why: &'static str,
    rule: Rule,
}

const fn entry(code: i16, name: &'static str, rule: Rule, why: &'static str) -> CodeEntry {
    CodeEntry { code, name, why, rule }
}

/// Every code that the produce path can give, by number.
#[rustfmt::skip]
pub const TABLE: &[CodeEntry] = &[
    entry(-1, "UNKNOWN_SERVER_ERROR", Rule::Unknown, "any exception, before or after the append"),
    entry(2, "CORRUPT_MESSAGE", Rule::Before, "the batch's CRC is checked before anything is appended"),
    entry(3, "UNKNOWN_TOPIC_OR_PARTITION", Rule::BeforeOrWhileWaiting, "checked before the append; also given when the topic is deleted while acks=all waits"),
    entry(5, "LEADER_NOT_AVAILABLE", Rule::Before, "there is no leader to append to"),
    entry(6, "NOT_LEADER_OR_FOLLOWER", Rule::BeforeOrWhileWaiting, "checked before the append; also given when leadership is lost while acks=all waits, and the record may survive on the new leader"),
    entry(7, "REQUEST_TIMED_OUT", Rule::Unknown, "appended by the leader, replication not seen in time"),
    entry(8, "BROKER_NOT_AVAILABLE", Rule::Unknown, "the request's fate is not known"),
    entry(10, "MESSAGE_TOO_LARGE", Rule::Before, "the size is checked before the append"),
    entry(13, "NETWORK_EXCEPTION", Rule::Unknown, "made by the client: the connection ended before the response"),
    entry(17, "INVALID_TOPIC_EXCEPTION", Rule::Before, "the name is checked before the append"),
    entry(18, "RECORD_LIST_TOO_LARGE", Rule::Before, "a batch larger than a segment is refused whole"),
    entry(19, "NOT_ENOUGH_REPLICAS", Rule::Before, "the ISR is counted before the append"),
    entry(20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", Rule::Unknown, "appended, then the ISR shrank"),
    entry(21, "INVALID_REQUIRED_ACKS", Rule::Before, "the request is refused whole"),
    entry(29, "TOPIC_AUTHORIZATION_FAILED", Rule::Before, "authorised before the append"),
    entry(31, "CLUSTER_AUTHORIZATION_FAILED", Rule::Before, "authorised before the append"),
    entry(32, "INVALID_TIMESTAMP", Rule::Before, "records are validated before the append"),
    entry(33, "UNSUPPORTED_SASL_MECHANISM", Rule::Before, "the connection never carried the request"),
    entry(34, "ILLEGAL_SASL_STATE", Rule::Before, "the connection never carried the request"),
    entry(35, "UNSUPPORTED_VERSION", Rule::Before, "the request is not parsed"),
    entry(42, "INVALID_REQUEST", Rule::Before, "the request is refused whole"),
    entry(43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", Rule::Before, "records are validated before the append"),
    entry(44, "POLICY_VIOLATION", Rule::Before, "refused by policy before the append"),
    entry(45, "OUT_OF_ORDER_SEQUENCE_NUMBER", Rule::Before, "the producer state is checked before the append"),
    entry(46, "DUPLICATE_SEQUENCE_NUMBER", Rule::Unknown, "an earlier attempt was appended, at an offset that is not told"),
    entry(47, "INVALID_PRODUCER_EPOCH", Rule::Before, "the producer state is checked before the append"),
    entry(48, "INVALID_TXN_STATE", Rule::Before, "the transaction is verified before the append"),
    entry(49, "INVALID_PRODUCER_ID_MAPPING", Rule::Before, "the transaction is verified before the append"),
    entry(51, "CONCURRENT_TRANSACTIONS", Rule::Before, "the transaction is verified before the append"),
    entry(53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", Rule::Before, "authorised before the append"),
    entry(54, "SECURITY_DISABLED", Rule::Before, "authorised before the append"),
    entry(55, "OPERATION_NOT_ATTEMPTED", Rule::Before, "not attempted, by definition"),
    entry(56, "KAFKA_STORAGE_ERROR", Rule::Unknown, "the write or the flush failed; bytes may have reached the disk"),
    entry(58, "SASL_AUTHENTICATION_FAILED", Rule::Before, "the connection never carried the request"),
    entry(59, "UNKNOWN_PRODUCER_ID", Rule::Before, "the producer state is checked before the append"),
    entry(74, "FENCED_LEADER_EPOCH", Rule::BeforeOrWhileWaiting, "the epoch is checked before the append, and may move while acks=all waits"),
    entry(76, "UNSUPPORTED_COMPRESSION_TYPE", Rule::Before, "records are validated before the append"),
    entry(87, "INVALID_RECORD", Rule::Before, "records are validated before the append"),
    entry(89, "THROTTLING_QUOTA_EXCEEDED", Rule::Before, "refused by quota before the append"),
    entry(90, "PRODUCER_FENCED", Rule::Before, "the producer state is checked before the append"),
    entry(100, "UNKNOWN_TOPIC_ID", Rule::BeforeOrWhileWaiting, "as UNKNOWN_TOPIC_OR_PARTITION, by topic id"),
    entry(103, "INCONSISTENT_TOPIC_ID", Rule::BeforeOrWhileWaiting, "as UNKNOWN_TOPIC_OR_PARTITION, by topic id"),
    entry(120, "TRANSACTION_ABORTABLE", Rule::Before, "the transaction is verified before the append"),
];

/// The table's line for a code, if the produce path gives it.
#[must_use]
pub fn lookup(code: i16) -> Option<&'static CodeEntry> {
    TABLE.binary_search_by_key(&code, |entry| entry.code).ok().map(|found| &TABLE[found])
}

/// The class of one attempt that ended with `code`. A code not in the table is [`ErrorClass::Info`].
#[must_use]
pub fn classify(code: i16, ack_point: AckPoint) -> ErrorClass {
    match (lookup(code).map(|entry| entry.rule), ack_point) {
        (Some(Rule::Before), _) | (Some(Rule::BeforeOrWhileWaiting), AckPoint::AtAppend) => ErrorClass::Fail,
        _ => ErrorClass::Info,
    }
}

/// The class of a record that was attempted more than once, none of them acknowledged: certain only
/// if every attempt is. A time-out or a lost connection is an attempt of class [`ErrorClass::Info`].
#[must_use]
pub fn conclude(attempts: impl IntoIterator<Item = ErrorClass>) -> ErrorClass {
    if attempts.into_iter().all(|class| class == ErrorClass::Fail) {
        ErrorClass::Fail
    } else {
        ErrorClass::Info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_by_code_and_explains_each() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(TABLE.iter().all(|entry| !entry.name.is_empty() && entry.why.len() > 10));
    }

    #[test]
    fn classify_unknown_outcomes_are_info_at_either_ack_point() {
        for code in [-1, 7, 13, 20, 46, 56, 999, i16::MIN] {
            assert_eq!(classify(code, AckPoint::AtAppend), ErrorClass::Info, "{code}");
            assert_eq!(classify(code, AckPoint::AfterWait), ErrorClass::Info, "{code}");
        }
    }

    #[test]
    fn classify_lost_leadership_is_fail_only_without_a_wait() {
        for code in [3, 6, 100] {
            assert_eq!(classify(code, AckPoint::AtAppend), ErrorClass::Fail, "{code}");
            assert_eq!(classify(code, AckPoint::AfterWait), ErrorClass::Info, "{code}");
        }
    }

    #[test]
    fn conclude_is_fail_only_if_every_attempt_failed() {
        use ErrorClass::{Fail, Info};
        assert_eq!(conclude([Fail, Fail]), Fail);
        assert_eq!(conclude([Info, Fail]), Info);
        assert_eq!(conclude([Fail, Info]), Info);
    }
}

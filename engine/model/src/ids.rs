//! Newtypes for the numbers of the field.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                $name(value)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

number! {
    /// A record's number in its partition, from 0. As an end, exclusive: `log_end_offset` is the next to be written.
    Offset(i64)
}

number! {
    /// Index of a partition within its topic, from 0.
    PartitionIndex(i32)
}

number! {
    /// Number of a leadership of a partition; each new leader, and each restart of one, has a higher one.
    LeaderEpoch(i32)
}

number! {
    /// Id of a broker (`node.id`).
    BrokerId(i32)
}

number! {
    /// Id of an idempotent producer, −1 for none.
    ProducerId(i64)
}

number! {
    /// Epoch of a producer id; a higher one fences a lower one. −1 for none.
    ProducerEpoch(i16)
}

number! {
    /// Number of a record in an idempotent producer's stream to one partition; after `i32::MAX` comes 0. −1 for none.
    Sequence(i32)
}

number! {
    /// Milliseconds since the Unix epoch, −1 for none.
    Timestamp(i64)
}

/// The leader epoch of a batch that no leader has stamped.
pub const NO_PARTITION_LEADER_EPOCH: LeaderEpoch = LeaderEpoch(-1);

impl Offset {
    /// The offset `count` further on, or `None` past the end of the range.
    #[must_use]
    pub fn checked_add(self, count: i64) -> Option<Offset> {
        self.0.checked_add(count).map(Offset)
    }
}

/// Times before the epoch are negative; those that no `i64` of milliseconds reaches are the last one.
impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let millis = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Timestamp(millis(after)),
            Err(before) => Timestamp(-millis(before.duration())),
        }
    }
}

impl Timestamp {
    /// "No timestamp".
    pub const NONE: Timestamp = Timestamp(-1);
}

impl ProducerId {
    /// The id of a producer that is not idempotent.
    pub const NONE: ProducerId = ProducerId(-1);
}

impl ProducerEpoch {
    /// The epoch of a producer that is not idempotent.
    pub const NONE: ProducerEpoch = ProducerEpoch(-1);
}

impl Sequence {
    /// The sequence of a producer that is not idempotent.
    pub const NONE: Sequence = Sequence(-1);

    /// The sequence `count` (≥ 0) further on: after `i32::MAX` comes 0.
    #[must_use]
    pub fn wrapping_advance(self, count: i32) -> Sequence {
        let advanced = i64::from(self.0) + i64::from(count);
        Sequence(i32::try_from(advanced % (i64::from(i32::MAX) + 1)).unwrap_or(0))
    }
}

/// Id of a topic; a topic deleted and created again under its old name has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub uuid::Uuid);

impl TopicId {
    /// The id that stands for "none" on the wire.
    pub const NIL: TopicId = TopicId(uuid::Uuid::nil());

    /// The 16 bytes, as on the wire and on disk.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From the 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        TopicId(uuid::Uuid::from_bytes(bytes))
    }

    /// Parses Kafka's text form: 22 characters of unpadded URL-safe base64.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bits: u128 = 0;
        if text.len() != 22 {
            return None;
        }
        for (index, character) in text.bytes().enumerate() {
            let digit = BASE64_URL.iter().position(|&known| known == character)? as u128;
            if index == 21 {
                // 22 characters carry 132 bits; the last four are padding.
                if digit & 0xf != 0 {
                    return None;
                }
                bits = bits << 2 | digit >> 4;
            } else {
                bits = bits << 6 | digit;
            }
        }
        Some(TopicId(uuid::Uuid::from_u128(bits)))
    }
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    /// Kafka's text form: unpadded URL-safe base64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.as_u128();
        for index in 0..22 {
            let digit = if index == 21 { bits << 4 & 0x3f } else { bits >> (122 - 6 * index) & 0x3f };
            let digit = usize::try_from(digit).unwrap_or(0);
            write!(f, "{}", char::from(BASE64_URL[digit]))?;
        }
        Ok(())
    }
}

/// A log directory, by the id in its `meta.properties` (KIP-858).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub uuid::Uuid);

impl DirectoryId {
    /// The id that stands for "not assigned".
    pub const UNASSIGNED: DirectoryId = DirectoryId(uuid::Uuid::nil());
}

impl fmt::Display for DirectoryId {
    /// Kafka's text form: unpadded URL-safe base64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

/// A partition of a topic, by id: what storage and replication mean by a partition. Names are for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition in it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_id_text_is_kafkas_base64() {
        // As printed by Kafka for this id: Base64.getUrlEncoder().withoutPadding() of the 16 bytes.
        let id = TopicId::from_bytes(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f");
        assert_eq!(id.to_string(), "AAECAwQFBgcICQoLDA0ODw");
        assert_eq!(TopicId::parse("AAECAwQFBgcICQoLDA0ODw"), Some(id));
        let ones = TopicId::from_bytes([0xff; 16]);
        assert_eq!(ones.to_string(), "_____________________w");
        assert_eq!(TopicId::parse(&ones.to_string()), Some(ones));
    }

    #[test]
    fn topic_id_refuses_other_text() {
        for text in ["", "AAECAwQFBgcICQoLDA0OD", "AAECAwQFBgcICQoLDA0OD!", "AAECAwQFBgcICQoLDA0ODx"] {
            assert_eq!(TopicId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sequence_wraps_to_zero() {
        assert_eq!(Sequence(i32::MAX).wrapping_advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).wrapping_advance(3), Sequence(1));
        assert_eq!(Sequence(5).wrapping_advance(2), Sequence(7));
    }
}

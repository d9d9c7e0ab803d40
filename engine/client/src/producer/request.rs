//! Produce requests by hand, so that no record byte is copied: framing and batch headers are small and go into one
//! buffer, the records stay where the accumulator put them.
//!
//! ```text
//!   parts:  │ length, header, … index, 61 B │ records │ … index, 61 B │ records │ trailer │
//!           └── slice of one buffer ────────┘         └── slice ──────┘         └ slice ──┘
//! ```
//!
//! Small batches are copied: that costs less than another part. Source: `ProduceRequest.json`, versions 3 to 13
//! (flexible from 9, topic ids at 13).

use bytes::{BufMut, Bytes, BytesMut};
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchRecords, ProducerStamp};
use highwater_model::{PartitionIndex, TopicId};
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::ApiKey;

use crate::config::Acks;
use crate::wire::put_unsigned_varint;

/// First version whose encoding is flexible: varint lengths and tagged fields.
const FLEXIBLE_FROM: i16 = 9;
/// First version that names topics by id.
pub(super) const TOPIC_IDS_FROM: i16 = 13;

/// Records of fewer bytes are copied between their neighbours.
const COPY_BELOW_BYTES: usize = 1024;

pub(super) struct Head<'a> {
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) client_id: &'a StrBytes,
    pub(super) acks: Acks,
    pub(super) timeout_ms: i32,
}

pub(super) struct TopicData<'a> {
    pub(super) name: &'a StrBytes,
    pub(super) id: TopicId,
    pub(super) partitions: Vec<PartitionData<'a>>,
}

pub(super) struct PartitionData<'a> {
    pub(super) index: PartitionIndex,
    pub(super) records: &'a BatchRecords,
    pub(super) stamp: ProducerStamp,
}

/// The request as the parts of one frame. `None` if something does not fit its length field.
pub(super) fn encode(head: &Head<'_>, topics: &[TopicData<'_>]) -> Option<Vec<Bytes>> {
    let mut out = Encoder {
        flexible: head.version >= FLEXIBLE_FROM,
        by_id: head.version >= TOPIC_IDS_FROM,
        framing: BytesMut::with_capacity(capacity(head, topics)),
        payloads: Vec::new(),
    };
    out.framing.put_i32(0);
    out.framing.put_i16(ApiKey::Produce as i16);
    out.framing.put_i16(head.version);
    out.framing.put_i32(head.correlation_id);
    // The client id keeps its old encoding in every header version.
    out.framing.put_i16(i16::try_from(head.client_id.len()).ok()?);
    out.framing.put_slice(head.client_id.as_bytes());
    out.tags();
    out.null_string();
    out.framing.put_i16(head.acks.code());
    out.framing.put_i32(head.timeout_ms);
    out.array_len(topics.len())?;
    for topic in topics {
        out.topic(topic)?;
    }
    out.tags();
    out.finish()
}

fn capacity(head: &Head<'_>, topics: &[TopicData<'_>]) -> usize {
    let fixed = 64 + head.client_id.len();
    let topics: usize = (topics.iter())
        .map(|topic| {
            let partitions: usize = (topic.partitions.iter())
                .map(|partition| {
                    let payload = partition.records.payload().len();
                    24 + BATCH_HEADER_BYTES + if payload < COPY_BELOW_BYTES { payload } else { 0 }
                })
                .sum();
            32 + topic.name.len() + partitions
        })
        .sum();
    fixed + topics
}

struct Encoder {
    flexible: bool,
    by_id: bool,
    framing: BytesMut,
    /// Records that are not copied, each with its position in the framing.
    payloads: Vec<(usize, Bytes)>,
}

impl Encoder {
    fn tags(&mut self) {
        if self.flexible {
            self.framing.put_u8(0);
        }
    }

    fn null_string(&mut self) {
        if self.flexible { self.framing.put_u8(0) } else { self.framing.put_i16(-1) }
    }

    fn array_len(&mut self, len: usize) -> Option<()> {
        let len = i32::try_from(len).ok()?;
        if self.flexible {
            put_unsigned_varint(&mut self.framing, len.cast_unsigned() + 1);
        } else {
            self.framing.put_i32(len);
        }
        Some(())
    }

    fn topic(&mut self, topic: &TopicData<'_>) -> Option<()> {
        if self.by_id {
            self.framing.put_slice(topic.id.as_bytes());
        } else if self.flexible {
            put_unsigned_varint(&mut self.framing, u32::try_from(topic.name.len()).ok()?.checked_add(1)?);
            self.framing.put_slice(topic.name.as_bytes());
        } else {
            self.framing.put_i16(i16::try_from(topic.name.len()).ok()?);
            self.framing.put_slice(topic.name.as_bytes());
        }
        self.array_len(topic.partitions.len())?;
        for partition in &topic.partitions {
            self.partition(partition)?;
        }
        self.tags();
        Some(())
    }

    fn partition(&mut self, partition: &PartitionData<'_>) -> Option<()> {
        self.framing.put_i32(partition.index.0);
        self.bytes_len(partition.records.size_bytes())?;
        self.framing.put_slice(&partition.records.header(partition.stamp));
        let payload = partition.records.payload();
        if payload.len() < COPY_BELOW_BYTES {
            self.framing.put_slice(payload);
        } else {
            self.payloads.push((self.framing.len(), payload.clone()));
        }
        self.tags();
        Some(())
    }

    fn bytes_len(&mut self, len: usize) -> Option<()> {
        let len = i32::try_from(len).ok()?;
        if self.flexible {
            put_unsigned_varint(&mut self.framing, len.cast_unsigned() + 1);
        } else {
            self.framing.put_i32(len);
        }
        Some(())
    }

    fn finish(mut self) -> Option<Vec<Bytes>> {
        let payload_bytes: usize = self.payloads.iter().map(|(_, payload)| payload.len()).sum();
        let length = i32::try_from(self.framing.len() - 4 + payload_bytes).ok()?;
        self.framing[..4].copy_from_slice(&length.to_be_bytes());
        let framing = self.framing.freeze();
        let mut parts = Vec::with_capacity(2 * self.payloads.len() + 1);
        let mut from = 0;
        for (at, payload) in self.payloads {
            parts.push(framing.slice(from..at));
            parts.push(payload);
            from = at;
        }
        if from < framing.len() {
            parts.push(framing.slice(from..));
        }
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use highwater_model::batch::{self, BatchBuilder, NewRecord};
    use highwater_model::compression::Compression;
    use highwater_protocol::codec::{Decodable, HeaderVersion};
    use highwater_protocol::messages::{ProduceRequest, RequestHeader};

    use super::*;

    fn records(value_bytes: usize) -> BatchRecords {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&NewRecord { value: Some(&vec![7; value_bytes]), ..NewRecord::default() });
        builder.finish().expect("one record")
    }

    #[test]
    fn every_version_decodes_to_what_was_meant() {
        let (name, client_id) = (StrBytes::from_static_str("topic"), StrBytes::from_static_str("me"));
        let other = StrBytes::from_static_str("other");
        let id = TopicId::from_bytes(*b"0123456789abcdef");
        let (small, large) = (records(10), records(5000));
        for version in 3..=13 {
            let head =
                Head { version, correlation_id: 77, client_id: &client_id, acks: Acks::All, timeout_ms: 9 };
            let data = |index, records| PartitionData {
                index: PartitionIndex(index),
                records,
                stamp: ProducerStamp::NONE,
            };
            let topics = [
                TopicData { name: &name, id, partitions: vec![data(3, &large), data(4, &small)] },
                TopicData { name: &other, id, partitions: vec![data(0, &large)] },
            ];
            let parts = encode(&head, &topics).expect("fits");
            let mut frame = Bytes::from(parts.concat());
            let length = i32::from_be_bytes(*frame.first_chunk().expect("a length"));
            let _ = frame.split_to(4);
            assert_eq!(usize::try_from(length).expect("positive"), frame.len(), "version {version}");
            let header = RequestHeader::decode(&mut frame, ProduceRequest::header_version(version));
            let header = header.expect("a header");
            assert_eq!((header.request_api_version, header.correlation_id), (version, 77));
            assert_eq!(header.client_id.expect("sent").as_str(), "me");
            let request = ProduceRequest::decode(&mut frame, version).expect("a body");
            assert!(frame.is_empty(), "version {version}");
            assert_eq!((request.acks, request.timeout_ms, request.transactional_id), (-1, 9, None));
            assert_eq!(request.topic_data.len(), 2);
            if version >= 13 {
                assert_eq!(request.topic_data[0].topic_id, id.0);
            } else {
                assert_eq!(request.topic_data[1].name.as_str(), "other");
            }
            let partitions = &request.topic_data[0].partition_data;
            assert_eq!((partitions[0].index, partitions[1].index), (3, 4));
            for partition in partitions {
                batch::validate(partition.records.as_ref().expect("records")).expect("a valid batch");
            }
        }
    }

    #[test]
    fn records_of_some_size_are_not_copied() {
        let (name, client_id) = (StrBytes::from_static_str("t"), StrBytes::from_static_str("me"));
        let large = records(5000);
        let head =
            Head { version: 13, correlation_id: 0, client_id: &client_id, acks: Acks::Leader, timeout_ms: 1 };
        let partition =
            PartitionData { index: PartitionIndex(0), records: &large, stamp: ProducerStamp::NONE };
        let topics = [TopicData { name: &name, id: TopicId::NIL, partitions: vec![partition] }];
        let parts = encode(&head, &topics).expect("fits");
        assert!(parts.iter().any(|part| part.as_ptr() == large.payload().as_ptr()));
    }
}

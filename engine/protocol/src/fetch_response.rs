//! The response to Fetch, framed without a copy of the records.
//!
//! Records make up nearly all of a fetch response, and lie in memory that the log gave out by reference. The frame is a
//! list of pieces: what is encoded here, cut wherever records go between.
//!
//! ```text
//!   size, header, session, topic, partition 0 … length │ records │ partition 1 … length │ records │ …
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

use crate::error_code::ErrorCode;
use crate::request::RequestHeader;
use crate::response::{EncodeError, begin_frame, end_frame, too_large};
use crate::wire::Writer;

/// A response to Fetch, in the terms of the newest version.
#[derive(Debug, Clone, Default)]
pub struct FetchResponse {
    /// How long the client is held back because of a quota.
    pub throttle_time_ms: i32,
    /// Error of the request as a whole (from version 7).
    pub error_code: ErrorCode,
    /// Fetch session, or 0 for none (from version 7).
    pub session_id: i32,
    /// The topics.
    pub topics: Vec<FetchedTopic>,
}

/// A topic in a [`FetchResponse`].
#[derive(Debug, Clone, Default)]
pub struct FetchedTopic {
    /// Name (up to version 12).
    pub name: StrBytes,
    /// Id (from version 13).
    pub topic_id: uuid::Uuid,
    /// The partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// A partition in a [`FetchedTopic`].
#[derive(Debug, Clone)]
pub struct FetchedPartition {
    /// Index of the partition.
    pub partition_index: i32,
    /// Error of this partition.
    pub error_code: ErrorCode,
    /// High watermark, or −1 with an error.
    pub high_watermark: i64,
    /// Last stable offset, or −1.
    pub last_stable_offset: i64,
    /// First offset in the log, or −1 (from version 5).
    pub log_start_offset: i64,
    /// Largest epoch, and its end offset, up to which the fetcher's log agrees (from version 12).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// Where the leader is, with an error that says so (from version 12).
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// Aborted transactions in the records: producer id and first offset. `None` unless read_committed was asked for.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// Replica to read from instead, −1 for none (from version 11).
    pub preferred_read_replica: i32,
    /// Whole batches, in pieces.
    pub records: Vec<Bytes>,
}

impl FetchedPartition {
    /// A partition without records that answers `error_code`.
    #[must_use]
    pub fn failed(partition_index: i32, error_code: ErrorCode) -> Self {
        FetchedPartition {
            partition_index,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }

    /// Size of the records in bytes.
    #[must_use]
    pub fn records_size_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// An epoch and the offset after its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// Epoch.
    pub epoch: i32,
    /// Exclusive.
    pub end_offset: i64,
}

/// A leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// Broker, −1 if unknown.
    pub leader_id: i32,
    /// Its epoch.
    pub leader_epoch: i32,
}

/// A transaction whose records a reader of committed data skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
}

impl FetchResponse {
    /// Encodes the response to the request of `header` as a frame in pieces, to be sent one after the other.
    ///
    /// # Errors
    /// [`EncodeError`], if a length exceeds what the version can say.
    pub fn encode(self, header: &RequestHeader) -> Result<Vec<Bytes>, EncodeError> {
        let mut out = BytesMut::with_capacity(64 + 64 * self.topics.len());
        begin_frame(&mut out, header.api_key, header.api_version, header.correlation_id);
        let flexible = header.api_key.is_flexible(header.api_version);
        let mut framer = Framer {
            writer: Writer::new(out, flexible),
            version: header.api_version,
            cuts: Vec::new(),
            records_size_bytes: 0,
        };
        framer.response(self);
        framer.finish().ok_or_else(|| too_large(header.api_key, header.api_version))
    }
}

/// Collects encoded bytes, and where records go between them.
struct Framer {
    writer: Writer,
    version: i16,
    /// Position in the encoded bytes, and the records that come before what is encoded from there on.
    cuts: Vec<(usize, Vec<Bytes>)>,
    records_size_bytes: usize,
}

impl Framer {
    fn response(&mut self, response: FetchResponse) {
        self.writer.out.put_i32(response.throttle_time_ms);
        if self.version >= 7 {
            self.writer.out.put_i16(response.error_code.0);
            self.writer.out.put_i32(response.session_id);
        }
        self.writer.array(response.topics.len());
        for topic in response.topics {
            self.topic(topic);
        }
        self.writer.tags(0);
    }

    fn topic(&mut self, topic: FetchedTopic) {
        if self.version >= 13 {
            self.writer.out.put_slice(topic.topic_id.as_bytes());
        } else {
            self.writer.string(&topic.name);
        }
        self.writer.array(topic.partitions.len());
        for partition in topic.partitions {
            self.partition(partition);
        }
        self.writer.tags(0);
    }

    fn partition(&mut self, partition: FetchedPartition) {
        let out = &mut self.writer.out;
        out.put_i32(partition.partition_index);
        out.put_i16(partition.error_code.0);
        out.put_i64(partition.high_watermark);
        out.put_i64(partition.last_stable_offset);
        if self.version >= 5 {
            out.put_i64(partition.log_start_offset);
        }
        self.aborted_transactions(partition.aborted_transactions.as_deref());
        if self.version >= 11 {
            self.writer.out.put_i32(partition.preferred_read_replica);
        }
        let tags = PartitionTags::of(&partition);
        self.records(partition.records);
        if self.version >= 12 {
            tags.write(&mut self.writer);
        }
    }

    fn aborted_transactions(&mut self, transactions: Option<&[AbortedTransaction]>) {
        let Some(transactions) = transactions else { return self.writer.null_array() };
        self.writer.array(transactions.len());
        for transaction in transactions {
            self.writer.out.put_i64(transaction.producer_id);
            self.writer.out.put_i64(transaction.first_offset);
            self.writer.tags(0);
        }
    }

    fn records(&mut self, records: Vec<Bytes>) {
        let size_bytes = records.iter().map(Bytes::len).sum();
        self.writer.records(size_bytes);
        if size_bytes > 0 {
            self.records_size_bytes += size_bytes;
            self.cuts.push((self.writer.out.len(), records));
        }
    }

    /// The pieces, or `None` if a length did not fit.
    fn finish(mut self) -> Option<Vec<Bytes>> {
        if self.writer.overflowed() || !end_frame(&mut self.writer.out, self.records_size_bytes) {
            return None;
        }
        let mut rest = self.writer.out.freeze();
        let mut done = 0;
        let mut pieces = Vec::with_capacity(1 + 2 * self.cuts.len());
        for (at, records) in self.cuts {
            pieces.push(rest.split_to(at - done));
            done = at;
            pieces.extend(records.into_iter().filter(|piece| !piece.is_empty()));
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        Some(pieces)
    }
}

/// The tagged fields of a partition.
struct PartitionTags {
    diverging_epoch: Option<EpochEndOffset>,
    current_leader: Option<LeaderIdAndEpoch>,
}

impl PartitionTags {
    fn of(partition: &FetchedPartition) -> Self {
        PartitionTags { diverging_epoch: partition.diverging_epoch, current_leader: partition.current_leader }
    }

    fn write(&self, writer: &mut Writer) {
        let count = u32::from(self.diverging_epoch.is_some()) + u32::from(self.current_leader.is_some());
        writer.tags(count);
        if let Some(EpochEndOffset { epoch, end_offset }) = self.diverging_epoch {
            let mut content = Vec::with_capacity(13);
            content.put_i32(epoch);
            content.put_i64(end_offset);
            content.put_u8(0);
            writer.tagged(0, &content);
        }
        if let Some(LeaderIdAndEpoch { leader_id, leader_epoch }) = self.current_leader {
            let mut content = Vec::with_capacity(9);
            content.put_i32(leader_id);
            content.put_i32(leader_epoch);
            content.put_u8(0);
            writer.tagged(1, &content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ApiKey;
    use kafka_protocol::messages::fetch_response as codec;
    use kafka_protocol::messages::{BrokerId, FetchResponse as CodecResponse, TopicName};

    fn header(api_version: i16) -> RequestHeader {
        RequestHeader { api_key: ApiKey::Fetch, api_version, correlation_id: 42, client_id: None }
    }

    fn example() -> FetchResponse {
        let read = FetchedPartition {
            high_watermark: 100,
            last_stable_offset: 90,
            log_start_offset: 5,
            aborted_transactions: Some(vec![AbortedTransaction { producer_id: 9, first_offset: 50 }]),
            records: vec![Bytes::from_static(b"first batch"), Bytes::new(), Bytes::from_static(b"second")],
            ..FetchedPartition::failed(0, ErrorCode::NONE)
        };
        let diverged = FetchedPartition {
            diverging_epoch: Some(EpochEndOffset { epoch: 3, end_offset: 77 }),
            ..FetchedPartition::failed(1, ErrorCode::NONE)
        };
        let moved = FetchedPartition {
            current_leader: Some(LeaderIdAndEpoch { leader_id: 2, leader_epoch: 8 }),
            ..FetchedPartition::failed(2, ErrorCode::FENCED_LEADER_EPOCH)
        };
        let last = FetchedPartition { records: vec![Bytes::from(vec![7; 300])], ..read.clone() };
        let topic = |name, partitions| FetchedTopic {
            name: StrBytes::from_static_str(name),
            topic_id: uuid::Uuid::from_u128(0x1234),
            partitions,
        };
        FetchResponse {
            throttle_time_ms: 1,
            error_code: ErrorCode::NONE,
            session_id: 0,
            topics: vec![topic("a", vec![read, diverged]), topic("b", vec![moved, last])],
        }
    }

    /// The same response in the codec crate's terms.
    fn as_codec(response: &FetchResponse, version: i16) -> CodecResponse {
        let partition = |p: &FetchedPartition| {
            let mut out = codec::PartitionData::default()
                .with_partition_index(p.partition_index)
                .with_error_code(p.error_code.0)
                .with_high_watermark(p.high_watermark)
                .with_last_stable_offset(p.last_stable_offset)
                .with_log_start_offset(p.log_start_offset)
                .with_records(Some(Bytes::from(p.records.concat())))
                .with_aborted_transactions(p.aborted_transactions.as_ref().map(|all| {
                    all.iter()
                        .map(|t| {
                            codec::AbortedTransaction::default()
                                .with_producer_id(t.producer_id.into())
                                .with_first_offset(t.first_offset)
                        })
                        .collect()
                }));
            if let Some(diverging) = p.diverging_epoch.filter(|_| version >= 12) {
                out.diverging_epoch = codec::EpochEndOffset::default()
                    .with_epoch(diverging.epoch)
                    .with_end_offset(diverging.end_offset);
            }
            if let Some(leader) = p.current_leader.filter(|_| version >= 12) {
                out.current_leader = codec::LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader.leader_id))
                    .with_leader_epoch(leader.leader_epoch);
            }
            out
        };
        let topic = |t: &FetchedTopic| {
            codec::FetchableTopicResponse::default()
                .with_topic(TopicName(t.name.clone()))
                .with_topic_id(t.topic_id)
                .with_partitions(t.partitions.iter().map(partition).collect())
        };
        CodecResponse::default()
            .with_throttle_time_ms(response.throttle_time_ms)
            .with_session_id(response.session_id)
            .with_error_code(response.error_code.0)
            .with_responses(response.topics.iter().map(topic).collect())
    }

    #[test]
    fn every_version_is_the_codecs_bytes() {
        for version in 4..=18 {
            let expected = crate::encode_response(&header(version), &as_codec(&example(), version));
            let pieces = example().encode(&header(version)).expect("encodes");
            assert_eq!(pieces.concat(), expected.expect("encodes"), "version {version}");
        }
    }

    #[test]
    fn records_are_not_copied() {
        let response = example();
        let record = response.topics[1].partitions[1].records[0].clone();
        let pieces = response.encode(&header(16)).expect("encodes");
        assert!(pieces.iter().any(|piece| piece.as_ptr() == record.as_ptr() && piece.len() == record.len()));
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn name_too_long_for_an_old_version_is_an_error() {
        let long = StrBytes::from_string("x".repeat(40_000));
        let topic = FetchedTopic { name: long, ..FetchedTopic::default() };
        let response = FetchResponse { topics: vec![topic], ..FetchResponse::default() };
        assert!(response.clone().encode(&header(12)).is_ok());
        assert!(response.encode(&header(11)).is_err());
    }
}

//! The part of a partition that a checkpoint keeps: a handful of numbers that, with the segments on disk, make the log.
//!
//! The log's end comes from here and from the journal, never from a scan of a segment: bytes beyond a truncation have
//! valid checksums (rule 2).

use std::sync::Arc;

use highwater_model::batch::BatchHeader;
use highwater_model::{Offset, TopicPartition};

use crate::journal::format::{Fields, put_topic_partition};
use crate::partition::epochs::EpochCache;
use crate::partition::producers::{AppendedBatch, ProducerState, ProducerTable, REMEMBERED_BATCHES};

/// No segment is larger: the positions of Kafka's index entries have 32 bits.
pub(crate) const MAX_SEGMENT_BYTES: u64 = u32::MAX as u64;

/// No log that was written record by record comes so far. Files may say anything; below this, arithmetic on offsets does
/// not overflow.
pub(crate) const MAX_OFFSET: Offset = Offset(i64::MAX >> 1);

/// What a checkpoint says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionState {
    pub(crate) id: TopicPartition,
    pub(crate) topic_name: String,
    pub(crate) log_start_offset: Offset,
    /// The next offset to be given.
    pub(crate) next_offset: Offset,
    /// Base offset of the segment that is appended to.
    pub(crate) segment_base: Offset,
    /// Where in it the next byte goes.
    pub(crate) position_bytes: u64,
    /// Largest timestamp of the active segment's first batch, in ms, for `segment.ms`; without one the wall clock at its append.
    pub(crate) segment_first_timestamp: Option<i64>,
    pub(crate) epochs: EpochCache,
    pub(crate) producers: ProducerTable,
    /// Why recovery fenced it, if it did.
    pub(crate) fenced: Option<String>,
}

impl PartitionState {
    /// A log without records.
    pub(crate) fn empty(id: TopicPartition, topic_name: &str) -> Self {
        PartitionState {
            id,
            topic_name: topic_name.to_owned(),
            log_start_offset: Offset(0),
            next_offset: Offset(0),
            segment_base: Offset(0),
            position_bytes: 0,
            segment_first_timestamp: None,
            epochs: EpochCache::default(),
            producers: ProducerTable::default(),
            fenced: None,
        }
    }

    /// Notes a batch that was appended at the end. `header` has its final offsets and epoch.
    pub(crate) fn record_batch(&mut self, header: &BatchHeader, max_producers: usize) {
        self.epochs.assign(header.leader_epoch, header.base_offset);
        self.producers.record(header, max_producers);
        if self.segment_first_timestamp.is_none() && header.max_timestamp.0 >= 0 {
            self.segment_first_timestamp = Some(header.max_timestamp.0);
        }
        self.next_offset = header.next_offset();
        self.position_bytes += header.size_bytes as u64;
    }

    /// Notes that the log now ends earlier.
    pub(crate) fn truncate(&mut self, next_offset: Offset, segment_base: Offset, position_bytes: u64) {
        if segment_base != self.segment_base || position_bytes == 0 {
            self.segment_first_timestamp = None;
        }
        self.next_offset = next_offset;
        self.segment_base = segment_base;
        self.position_bytes = position_bytes;
        self.log_start_offset = self.log_start_offset.min(next_offset);
        self.epochs.truncate_from_end(next_offset);
        self.producers.truncate_from_end(next_offset);
    }

    /// Notes that the active segment is complete and the next begins at the log's end.
    pub(crate) fn roll(&mut self, next_base: Offset) {
        self.segment_base = next_base;
        self.position_bytes = 0;
        self.segment_first_timestamp = None;
    }

    /// Whether a segment that ends where one begins at `next_base` is before the log's start.
    pub(crate) fn is_passed(&self, next_base: Offset) -> bool {
        next_base <= self.log_start_offset && next_base <= self.segment_base
    }

    /// Segment and byte at which the log ends.
    pub(crate) fn end_place(&self) -> (Offset, u64) {
        (self.segment_base, self.position_bytes)
    }

    /// Notes that the log now starts later.
    pub(crate) fn move_start(&mut self, log_start_offset: Offset) {
        self.log_start_offset = self.log_start_offset.max(log_start_offset);
        self.epochs.truncate_from_start(self.log_start_offset);
    }

    /// Appends the state to a checkpoint.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_topic_partition(out, &self.id);
        put_text(out, &self.topic_name);
        for offset in [self.log_start_offset, self.next_offset, self.segment_base] {
            out.extend_from_slice(&offset.0.to_be_bytes());
        }
        out.extend_from_slice(&self.position_bytes.to_be_bytes());
        out.extend_from_slice(&self.segment_first_timestamp.unwrap_or(-1).to_be_bytes());
        put_count(out, self.epochs.starts().len());
        for start in self.epochs.starts() {
            out.extend_from_slice(&start.epoch.0.to_be_bytes());
            out.extend_from_slice(&start.start_offset.0.to_be_bytes());
        }
        put_count(out, self.producers.len());
        for (id, producer) in self.producers.iter() {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.extend_from_slice(&producer.epoch.0.to_be_bytes());
            out.extend_from_slice(&producer.last_timestamp.0.to_be_bytes());
            put_count(out, producer.batches.len());
            for batch in &producer.batches {
                out.extend_from_slice(&batch.last_sequence.0.to_be_bytes());
                out.extend_from_slice(&batch.last_offset.0.to_be_bytes());
                out.extend_from_slice(&batch.offset_delta.to_be_bytes());
                out.extend_from_slice(&batch.timestamp.0.to_be_bytes());
            }
        }
        put_text(out, self.fenced.as_deref().unwrap_or(""));
    }

    /// Reads one state back. `None` if it is not well formed.
    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.topic_partition()?;
        let topic_name = text(fields)?;
        let log_start_offset = Offset(fields.i64()?);
        let next_offset = Offset(fields.i64()?);
        let segment_base = Offset(fields.i64()?);
        let position_bytes = fields.u64()?;
        let segment_first_timestamp = Some(fields.i64()?).filter(|&ms| ms >= 0);
        let mut epochs = EpochCache::default();
        for _ in 0..fields.u32()? {
            epochs.assign(fields.i32()?.into(), fields.i64()?.into());
        }
        let mut producers = ProducerTable::default();
        for _ in 0..fields.u32()? {
            let id = fields.i64()?.into();
            let epoch = fields.i16()?.into();
            let last_timestamp = fields.i64()?.into();
            let mut state = ProducerState { epoch, last_timestamp, batches: Default::default() };
            for _ in 0..fields.u32()? {
                state.batches.push_back(AppendedBatch {
                    last_sequence: fields.i32()?.into(),
                    last_offset: fields.i64()?.into(),
                    offset_delta: fields.i32()?,
                    timestamp: fields.i64()?.into(),
                });
            }
            producers.insert(id, state);
        }
        let fenced = Some(text(fields)?).filter(|reason| !reason.is_empty());
        let state = PartitionState {
            id,
            topic_name,
            log_start_offset,
            next_offset,
            segment_base,
            position_bytes,
            segment_first_timestamp,
            epochs,
            producers,
            fenced,
        };
        state.is_possible().then_some(state)
    }

    /// Whether a log can be like this, whoever says so.
    fn is_possible(&self) -> bool {
        let starts = [self.log_start_offset, self.segment_base];
        self.id.partition.0 >= 0
            && starts.iter().all(|start| (Offset(0)..=self.next_offset).contains(start))
            && self.next_offset <= MAX_OFFSET
            && self.position_bytes <= MAX_SEGMENT_BYTES
            && self.producers.iter().all(|(_, producer)| producer.batches.len() <= REMEMBERED_BATCHES)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).expect("counts are bounded far below 2^32").to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let len = u16::try_from(end).expect("cut to fit");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn text(fields: &mut Fields<'_>) -> Option<String> {
    let len = fields.u16()?;
    String::from_utf8(fields.bytes(len.into())?.to_vec()).ok()
}

/// Why a partition refuses appends.
pub(crate) type FenceReason = Arc<str>;

#[cfg(test)]
pub(crate) mod tests {
    use highwater_model::{PartitionIndex, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId};

    use super::*;

    pub(crate) fn sample_state() -> PartitionState {
        let id = TopicPartition { topic_id: TopicId::from_bytes([3; 16]), partition: PartitionIndex(4) };
        let mut state = PartitionState::empty(id, "orders");
        state.log_start_offset = Offset(10);
        state.next_offset = Offset(99);
        state.segment_base = Offset(50);
        state.position_bytes = 12_345;
        state.segment_first_timestamp = Some(1_700_000_000_000);
        state.epochs.assign(1.into(), 10.into());
        state.epochs.assign(4.into(), 60.into());
        let batch = AppendedBatch {
            last_sequence: Sequence(7),
            last_offset: Offset(98),
            offset_delta: 3,
            timestamp: Timestamp(5),
        };
        state.producers.insert(
            ProducerId(77),
            ProducerState { epoch: ProducerEpoch(2), last_timestamp: Timestamp(5), batches: [batch].into() },
        );
        state.fenced = Some("segment damaged at byte 4096".to_owned());
        state
    }

    #[test]
    fn state_survives_the_round_trip() {
        let mut bytes = Vec::new();
        sample_state().encode(&mut bytes);
        let mut fields = Fields(&bytes);
        assert_eq!(PartitionState::decode(&mut fields), Some(sample_state()));
        assert!(fields.0.is_empty());
        for cut in 0..bytes.len() {
            assert_eq!(PartitionState::decode(&mut Fields(&bytes[..cut])), None, "cut at {cut}");
        }
    }

    /// Found by the fuzz target `journal`: under a checksum that fits, such a state became a log and its watermarks.
    #[test]
    fn state_that_no_log_can_have_is_refused() {
        type Change = fn(&mut PartitionState);
        let impossible: [Change; 6] = [
            |state| state.log_start_offset = Offset(100),
            |state| state.segment_base = Offset(-1),
            |state| state.next_offset = Offset(-5),
            |state| state.next_offset = Offset(i64::MAX),
            |state| state.position_bytes = u64::MAX,
            |state| state.id.partition = PartitionIndex(-1),
        ];
        for change in impossible {
            let mut state = sample_state();
            change(&mut state);
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            assert_eq!(PartitionState::decode(&mut Fields(&bytes)), None, "{state:?}");
        }
    }
}

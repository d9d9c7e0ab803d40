//! The files that Kafka keeps beside its segments, in Kafka's formats.
//!
//! | file | content |
//! |---|---|
//! | `00000000000000000042.log` | record batches; the name is the base offset |
//! | `….index` | sparse: 4 B offset from the base, 4 B position, rising |
//! | `….timeindex` | sparse: 8 B timestamp, 4 B offset from the base, rising |
//! | `….snapshot` | what was known of idempotent producers where the segment begins |
//! | `leader-epoch-checkpoint` | text: version 0, count, then `epoch start_offset` a line |
//! | `partition.metadata` | text: `version: 0`, `topic_id: …` |
//!
//! Index, epoch and snapshot files are written at a roll and at a clean stop only. Index files are hints: verified on
//! use, rebuilt lazily.

use std::path::{Path, PathBuf};

use highwater_model::{LeaderEpoch, Offset, TopicId, crc};

use crate::journal::format::Fields;
use crate::partition::epochs::EpochStart;
use crate::partition::producers::{AppendedBatch, ProducerState, ProducerTable};
use crate::partition::state::MAX_OFFSET;
use highwater_model::{ProducerId, Sequence};

pub(crate) const LOG_SUFFIX: &str = ".log";
pub(crate) const INDEX_SUFFIX: &str = ".index";
pub(crate) const TIME_INDEX_SUFFIX: &str = ".timeindex";
pub(crate) const SNAPSHOT_SUFFIX: &str = ".snapshot";
pub(crate) const EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
pub(crate) const PARTITION_METADATA: &str = "partition.metadata";

/// Path of a segment's file of one kind.
pub(crate) fn segment_path(dir: &Path, base_offset: Offset, suffix: &str) -> PathBuf {
    dir.join(format!("{:020}{suffix}", base_offset.0))
}

/// Base offset in the name of a segment's file, if it is one with this suffix.
pub(crate) fn base_offset_of(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Offset).filter(|base| *base <= MAX_OFFSET)
}

/// Name of a partition's directory.
pub(crate) fn partition_dir_name(topic_name: &str, partition: i32) -> String {
    format!("{topic_name}-{partition}")
}

/// Topic and partition in the name of a directory, if it is one of a partition.
pub(crate) fn parse_partition_dir(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    if topic.is_empty() || partition.is_empty() || !partition.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((topic, partition.parse().ok()?))
}

pub(crate) fn encode_partition_metadata(topic_id: TopicId) -> String {
    format!("version: 0\ntopic_id: {topic_id}")
}

pub(crate) fn parse_partition_metadata(text: &str) -> Option<TopicId> {
    let mut version = None;
    let mut topic_id = None;
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("version", value)) => version = value.trim().parse::<u32>().ok(),
            Some(("topic_id", value)) => topic_id = TopicId::parse(value.trim()),
            _ => {}
        }
    }
    (version? == 0).then_some(topic_id?)
}

pub(crate) fn encode_epochs(starts: &[EpochStart]) -> String {
    let mut text = format!("0\n{}\n", starts.len());
    for start in starts {
        text.push_str(&format!("{} {}\n", start.epoch, start.start_offset));
    }
    text
}

pub(crate) fn parse_epochs(text: &str) -> Option<Vec<EpochStart>> {
    let mut lines = text.lines();
    if lines.next()?.trim() != "0" {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let starts: Vec<EpochStart> = lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (epoch, offset) = line.trim().split_once(' ')?;
            Some(EpochStart {
                epoch: LeaderEpoch(epoch.parse().ok()?),
                start_offset: Offset(offset.parse().ok()?),
            })
        })
        .collect::<Option<_>>()?;
    (starts.len() == count).then_some(starts)
}

const SNAPSHOT_VERSION: i16 = 1;
/// Bytes of a snapshot that its checksum does not cover: version and the checksum.
const SNAPSHOT_CRC_COVERS_FROM: usize = 6;

/// Kafka keeps only the last batch of each producer.
pub(crate) fn encode_producer_snapshot(producers: &ProducerTable) -> Vec<u8> {
    let kept: Vec<_> =
        producers.iter().filter_map(|(id, state)| Some((id, state, state.batches.back()?))).collect();
    let mut out = Vec::new();
    out.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&u32::try_from(kept.len()).expect("producers are bounded").to_be_bytes());
    for (id, state, batch) in kept {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&state.epoch.0.to_be_bytes());
        out.extend_from_slice(&batch.last_sequence.0.to_be_bytes());
        out.extend_from_slice(&batch.last_offset.0.to_be_bytes());
        out.extend_from_slice(&batch.offset_delta.to_be_bytes());
        out.extend_from_slice(&batch.timestamp.0.to_be_bytes());
        // No coordinator and no open transaction.
        out.extend_from_slice(&(-1i32).to_be_bytes());
        out.extend_from_slice(&(-1i64).to_be_bytes());
    }
    let crc = crc::crc32c(&out[SNAPSHOT_CRC_COVERS_FROM..]);
    out[2..6].copy_from_slice(&crc.to_be_bytes());
    out
}

/// `None` for a damaged snapshot or one of another version.
pub(crate) fn parse_producer_snapshot(bytes: &[u8]) -> Option<ProducerTable> {
    let mut fields = Fields(bytes);
    if fields.i16()? != SNAPSHOT_VERSION
        || fields.u32()? != crc::crc32c(bytes.get(SNAPSHOT_CRC_COVERS_FROM..)?)
    {
        return None;
    }
    let mut table = ProducerTable::default();
    for _ in 0..fields.u32()? {
        let id = ProducerId(fields.i64()?);
        let epoch = fields.i16()?.into();
        let last_sequence = Sequence(fields.i32()?);
        let last_offset = Offset(fields.i64()?);
        let offset_delta = fields.i32()?;
        let timestamp = fields.i64()?.into();
        let _coordinator_epoch = fields.i32()?;
        let _transaction_first_offset = fields.i64()?;
        let batch = AppendedBatch { last_sequence, last_offset, offset_delta, timestamp };
        // Kafka writes −1 for a producer of which only the epoch is known.
        let batches =
            if last_offset.0 >= 0 && offset_delta >= 0 { [batch].into() } else { Default::default() };
        table.insert(id, ProducerState { epoch, last_timestamp: timestamp, batches });
    }
    fields.0.is_empty().then_some(table)
}

#[cfg(test)]
mod tests {
    use crate::partition::state::tests::sample_state;

    use super::*;

    #[test]
    fn names_are_kafkas() {
        let dir = Path::new("d");
        assert_eq!(segment_path(dir, Offset(42), LOG_SUFFIX), Path::new("d/00000000000000000042.log"));
        assert_eq!(base_offset_of("00000000000000000042.log", LOG_SUFFIX), Some(Offset(42)));
        // The last is no offset that a log can come to.
        let others = [
            "42.log",
            "00000000000000000042.index",
            "0000000000000000004x.log",
            ".log",
            "09223372036854775807.log",
        ];
        for name in others {
            assert_eq!(base_offset_of(name, LOG_SUFFIX), None, "{name}");
        }
        assert_eq!(parse_partition_dir("my-topic-12"), Some(("my-topic", 12)));
        for name in ["journal", "-1", "t-", "t-1x", "t-99999999999"] {
            assert_eq!(parse_partition_dir(name), None, "{name}");
        }
    }

    #[test]
    fn partition_metadata_survives_the_round_trip() {
        let id = TopicId::from_bytes([5; 16]);
        crate::golden::check("partition.metadata", encode_partition_metadata(id).as_bytes());
        assert_eq!(parse_partition_metadata(&encode_partition_metadata(id)), Some(id));
        assert_eq!(parse_partition_metadata("version: 1\ntopic_id: AAECAwQFBgcICQoLDA0ODw"), None);
    }

    #[test]
    fn epochs_survive_the_round_trip() {
        let starts = sample_state().epochs.starts().to_vec();
        assert_eq!(encode_epochs(&starts), "0\n2\n1 10\n4 60\n");
        assert_eq!(parse_epochs(&encode_epochs(&starts)), Some(starts));
        assert_eq!(parse_epochs("0\n2\n1 10\n"), None, "fewer than it says");
    }

    #[test]
    fn producer_snapshot_survives_the_round_trip_and_refuses_damage() {
        let table = sample_state().producers;
        let bytes = encode_producer_snapshot(&table);
        crate::golden::check("producer.snapshot", &bytes);
        assert_eq!(parse_producer_snapshot(&bytes), Some(table));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(parse_producer_snapshot(&damaged), None, "byte {at}");
        }
    }
}

//! The decoders of files as functions of bytes, for the fuzz targets of `engine/fuzz`. No interface of the log.
//!
//! Each returns whether the bytes were accepted, and panics where an accepted value does not survive the round trip.

use highwater_model::{Offset, Timestamp};

use crate::checkpoint;
use crate::dir::MetaProperties;
use crate::journal::format::{Entry, FileHeader, GroupHeader, Incarnation};
use crate::kafka_files::{
    LOG_SUFFIX, base_offset_of, encode_epochs, encode_partition_metadata, encode_producer_snapshot,
    parse_epochs, parse_partition_dir, parse_partition_metadata, parse_producer_snapshot,
};
use crate::partition::index::SparseIndex;

/// A checkpoint file.
#[must_use]
pub fn checkpoint(bytes: &[u8]) -> bool {
    let Some(decoded) = checkpoint::decode(bytes) else { return false };
    let mut body = Vec::new();
    decoded.partitions.iter().for_each(|state| state.encode(&mut body));
    let again = checkpoint::encode(decoded.generation, decoded.number, &decoded.place, &body);
    assert_eq!(checkpoint::decode(&again), Some(decoded), "a checkpoint changes when it is written again");
    true
}

/// The first block of a journal file.
#[must_use]
pub fn journal_file_header(bytes: &[u8]) -> bool {
    let Some(decoded) = FileHeader::decode(bytes) else { return false };
    assert_eq!(FileHeader::decode(&decoded.encode()), Some(decoded));
    true
}

/// A group's header in a file of `incarnation`.
#[must_use]
pub fn group_header(bytes: &[u8], incarnation: [u8; 16], position_bytes: u64) -> bool {
    let incarnation = Incarnation(incarnation);
    let Some((header, checksum)) = GroupHeader::decode(bytes, incarnation, position_bytes) else {
        return false;
    };
    let (again, _) = header.encode(incarnation);
    assert_eq!(again[..44], bytes[..44], "a header is more than its fields");
    assert!(header.content_bytes() < 1 << 34 && checksum != 0);
    true
}

/// An entry list.
#[must_use]
pub fn entry_list(bytes: &[u8], count: u32) -> bool {
    let Some(entries) = Entry::decode_list(bytes, count) else { return false };
    let mut again = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut again));
    assert_eq!(again, bytes, "an entry list changes when it is written again");
    true
}

/// The two index files of a segment of `size_bytes`, and look-ups in them.
#[must_use]
pub fn index(offsets: &[u8], times: &[u8], base_offset: i64, size_bytes: u64, wanted: i64) -> bool {
    let base_offset = Offset(base_offset);
    let Some(mut index) = SparseIndex::decode(offsets, times, base_offset, size_bytes) else { return false };
    let position = index.position_for(Offset(wanted));
    assert!(position == 0 || position < size_bytes, "a look-up leaves the segment");
    assert!(index.position_for_time(Timestamp(wanted)) < size_bytes.max(1), "a look-up leaves the segment");
    assert_eq!(index.encode_offsets(base_offset), offsets, "an index changes when it is written again");
    let _ = index.encode_times(base_offset);
    index.truncate(position, Offset(wanted));
    assert!(index.covered_bytes() <= size_bytes);
    true
}

/// A producer snapshot.
#[must_use]
pub fn producer_snapshot(bytes: &[u8]) -> bool {
    let Some(table) = parse_producer_snapshot(bytes) else { return false };
    assert!(parse_producer_snapshot(&encode_producer_snapshot(&table)).is_some());
    true
}

/// A small text file or a name, by every one of its readers.
#[must_use]
pub fn text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let epochs = parse_epochs(text);
    if let Some(starts) = &epochs {
        assert_eq!(parse_epochs(&encode_epochs(starts)).as_ref(), Some(starts));
    }
    let topic_id = parse_partition_metadata(text);
    if let Some(topic_id) = topic_id {
        assert_eq!(parse_partition_metadata(&encode_partition_metadata(topic_id)), Some(topic_id));
    }
    let dir = parse_partition_dir(text);
    let segment = base_offset_of(text, LOG_SUFFIX);
    let meta = MetaProperties::parse(text);
    if let Some(meta) = &meta {
        assert!(MetaProperties::parse(&meta.encode()).is_some(), "meta.properties cannot be read again");
    }
    epochs.is_some() || topic_id.is_some() || dir.is_some() || segment.is_some() || meta.is_some()
}

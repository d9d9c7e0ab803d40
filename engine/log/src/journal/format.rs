//! Bytes of a journal: file header, group, entry. All integers are big-endian.
//!
//! ```text
//!   file   ┌ header ┬ group ┬ group ┬ ─ ─ ─ zeros or an old lap ─ ─ ─ ┐
//!          0        4096    each a multiple of the alignment
//!
//!   file header                          group
//!    0   8  magic "HWJRNL01"              0   4  magic "HWGR"
//!    8  16  incarnation (random)          4   2  version 1
//!   24  16  generation                    6   2  zero
//!   40   8  file number                   8   8  sequence
//!   48   8  xxh3-64 of the above         16   8  durable_through
//!   56   8  length of the file           24   8  header checksum of the previous group
//!   64   8  xxh3-64 of the above         32   4  payload length
//!                                        36   4  entry list length
//!                                        40   4  entry count
//!                                        44   4  zero
//!                                        48   8  position of this group in its file
//!                                        56   8  checksum of the entry list
//!                                        64   8  checksum of the above
//!                                        72      payload, entry list, zeros up to the alignment
//! ```
//!
//! Length and second checksum are zeros where a file header is older than they are, or the length is not settled yet.
//!
//! The checksums of header and entry list are seeded by the file's incarnation, and the header's covers the group's
//! place: neither an old lap nor a payload that happens to hold a group can pass for one. Header and entry list have
//! checksums of their own, so that a damaged payload still tells whose it is. The payload of an append is covered by the
//! checksum in its entry and by those of its batches, see `partition::append`.

use highwater_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};
use twox_hash::XxHash3_64;

/// Bytes of a journal file before its first group: one block of the largest alignment that is common.
pub(crate) const FILE_HEADER_BYTES: u64 = 4096;

/// Bytes of a group before its payload.
pub(crate) const GROUP_HEADER_BYTES: usize = 72;

/// Distance at which groups are looked for after damage: no alignment is smaller.
pub(crate) const MIN_ALIGNMENT: u64 = 4096;

const FILE_MAGIC: &[u8; 8] = b"HWJRNL01";
/// What a file's magic begins with, whatever its version.
const FILE_MAGIC_STEM: &[u8] = b"HWJRNL";
const GROUP_MAGIC: &[u8; 4] = b"HWGR";
const GROUP_VERSION: u16 = 1;

/// Random id of one use of one journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incarnation(pub(crate) [u8; 16]);

impl Incarnation {
    fn seed(self) -> u64 {
        XxHash3_64::oneshot(&self.0)
    }

    fn checksum(self, bytes: &[u8]) -> u64 {
        XxHash3_64::oneshot_with_seed(self.seed(), bytes)
    }
}

/// Reads big-endian fields from the front of bytes that were not checked; `None` where they end.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn topic_partition(&mut self) -> Option<TopicPartition> {
        Some(TopicPartition {
            topic_id: TopicId::from_bytes(self.array()?),
            partition: PartitionIndex(self.i32()?),
        })
    }
}

pub(crate) fn put_topic_partition(out: &mut Vec<u8>, id: &TopicPartition) {
    out.extend_from_slice(id.topic_id.as_bytes());
    out.extend_from_slice(&id.partition.0.to_be_bytes());
}

/// First block of a journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) incarnation: Incarnation,
    /// Which start of the data directory this belongs to.
    pub(crate) generation: [u8; 16],
    /// Place in the sequence of files of this journal: the n-th use of a file is number n.
    pub(crate) file_number: u64,
    /// Length of the file in bytes, durable before the header that tells it: a shorter file was cut. 0 if it is not told.
    pub(crate) len_bytes: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER_BYTES as usize);
        out.extend_from_slice(FILE_MAGIC);
        out.extend_from_slice(&self.incarnation.0);
        out.extend_from_slice(&self.generation);
        out.extend_from_slice(&self.file_number.to_be_bytes());
        let checksum = XxHash3_64::oneshot(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        if self.len_bytes > 0 {
            out.extend_from_slice(&self.len_bytes.to_be_bytes());
            let checksum = XxHash3_64::oneshot(&out);
            out.extend_from_slice(&checksum.to_be_bytes());
        }
        out.resize(FILE_HEADER_BYTES as usize, 0);
        out
    }

    /// `None` if this is not the header of a journal file, or a damaged one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..48)?;
        let mut fields = Fields(bytes);
        if fields.array::<8>()? != *FILE_MAGIC {
            return None;
        }
        let incarnation = Incarnation(fields.array()?);
        let generation = fields.array()?;
        let file_number = fields.u64()?;
        if fields.u64()? != XxHash3_64::oneshot(covered) {
            return None;
        }
        let len_bytes = match (fields.u64()?, fields.u64()?) {
            (0, 0) => 0,
            (len_bytes, checksum) if checksum == XxHash3_64::oneshot(bytes.get(..64)?) => len_bytes,
            _ => return None,
        };
        Some(FileHeader { incarnation, generation, file_number, len_bytes })
    }

    /// Whether this is the whole header of a journal file in a version that this build does not know.
    pub(crate) fn is_of_unknown_version(bytes: &[u8]) -> bool {
        let checksum = |covered| Some(Fields(bytes.get(48..)?).u64()? == XxHash3_64::oneshot(covered));
        bytes.starts_with(FILE_MAGIC_STEM)
            && !bytes.starts_with(FILE_MAGIC)
            && bytes.get(..48).and_then(checksum) == Some(true)
    }
}

/// Header of a group, without its two checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) sequence: u64,
    /// Highest sequence whose flush was seen to complete before this group was submitted.
    pub(crate) durable_through: u64,
    /// Header checksum of the group before, 0 for the first of a generation.
    pub(crate) previous_checksum: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) entries_bytes: u32,
    pub(crate) entry_count: u32,
    /// Of the group in its file.
    pub(crate) position_bytes: u64,
    pub(crate) entries_checksum: u64,
}

impl GroupHeader {
    /// Encodes the header; returns the bytes and their checksum.
    pub(crate) fn encode(&self, incarnation: Incarnation) -> ([u8; GROUP_HEADER_BYTES], u64) {
        let mut out = Vec::with_capacity(GROUP_HEADER_BYTES);
        out.extend_from_slice(GROUP_MAGIC);
        out.extend_from_slice(&GROUP_VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.durable_through.to_be_bytes());
        out.extend_from_slice(&self.previous_checksum.to_be_bytes());
        out.extend_from_slice(&self.payload_bytes.to_be_bytes());
        out.extend_from_slice(&self.entries_bytes.to_be_bytes());
        out.extend_from_slice(&self.entry_count.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.position_bytes.to_be_bytes());
        out.extend_from_slice(&self.entries_checksum.to_be_bytes());
        let checksum = incarnation.checksum(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        (out.try_into().expect("the fields add up to the header's size"), checksum)
    }

    /// The header at the front of `bytes`, and its checksum; `None` if it is none of this file at this place.
    pub(crate) fn decode(bytes: &[u8], incarnation: Incarnation, position_bytes: u64) -> Option<(Self, u64)> {
        let (header, checksum, version) = Self::decode_any(bytes, incarnation, position_bytes)?;
        (version == GROUP_VERSION).then_some((header, checksum))
    }

    /// The version of the whole group header at the front of `bytes` that is one of this file at this place, if this build
    /// does not know it.
    pub(crate) fn unknown_version(
        bytes: &[u8],
        incarnation: Incarnation,
        position_bytes: u64,
    ) -> Option<u16> {
        let (_, _, version) = Self::decode_any(bytes, incarnation, position_bytes)?;
        (version != GROUP_VERSION).then_some(version)
    }

    /// Header, checksum and version, whatever that is: in all versions these fields stand where they stand in the first.
    fn decode_any(bytes: &[u8], incarnation: Incarnation, position_bytes: u64) -> Option<(Self, u64, u16)> {
        let covered = bytes.get(..GROUP_HEADER_BYTES - 8)?;
        let mut fields = Fields(bytes);
        if fields.array::<4>()? != *GROUP_MAGIC {
            return None;
        }
        let version = fields.u16()?;
        if fields.u16()? != 0 {
            return None;
        }
        let sequence = fields.u64()?;
        let durable_through = fields.u64()?;
        let previous_checksum = fields.u64()?;
        let payload_bytes = fields.u32()?;
        let entries_bytes = fields.u32()?;
        let entry_count = fields.u32()?;
        let _zero = fields.u32()?;
        let position = fields.u64()?;
        let entries_checksum = fields.u64()?;
        let checksum = fields.u64()?;
        if position != position_bytes || checksum != incarnation.checksum(covered) {
            return None;
        }
        let header = GroupHeader {
            sequence,
            durable_through,
            previous_checksum,
            payload_bytes,
            entries_bytes,
            entry_count,
            position_bytes,
            entries_checksum,
        };
        Some((header, checksum, version))
    }

    /// The sequence of what looks like a group at its place, in a file that does not tell its incarnation.
    pub(crate) fn sequence_unchecked(bytes: &[u8], position_bytes: u64) -> Option<u64> {
        let mut fields = Fields(bytes.get(..GROUP_HEADER_BYTES)?);
        let is_group = fields.array::<4>()? == *GROUP_MAGIC && fields.u16()? == GROUP_VERSION;
        let _zero = fields.u16()?;
        let sequence = fields.u64()?;
        let position = Fields(bytes.get(48..)?).u64()?;
        (is_group && position == position_bytes).then_some(sequence)
    }

    /// Bytes of header, payload and entry list, without padding.
    pub(crate) fn content_bytes(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + u64::from(self.payload_bytes) + u64::from(self.entries_bytes)
    }
}

/// Checksum of an entry list.
pub(crate) fn entries_checksum(incarnation: Incarnation, entries: &[u8]) -> u64 {
    incarnation.checksum(entries)
}

/// What a group does to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: TopicPartition,
    pub(crate) change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Bytes of whole batches, after the first `prefix_bytes`, which repeat the settled start of a block.
    Append {
        /// Before the prefix in the payload, and of no meaning: what follows lies within a block as it will in the segment.
        gap_bytes: u16,
        leader_epoch: LeaderEpoch,
        segment_base: Offset,
        /// Of the first byte (of the prefix, if there is one) in the segment.
        position_bytes: u64,
        base_offset: Offset,
        next_offset: Offset,
        prefix_bytes: u32,
        /// Prefix and batches.
        len_bytes: u32,
        /// CRC-32C of the prefix and of the first 21 bytes of each batch; the batches' own checksums cover the rest.
        crc: u32,
    },
    /// The log now ends at `next_offset`, which is `position_bytes` into the segment.
    Truncate { segment_base: Offset, position_bytes: u64, next_offset: Offset },
    /// The segment is complete with `size_bytes`; the next begins at `next_base`.
    Roll { segment_base: Offset, size_bytes: u64, next_base: Offset },
    /// The log now starts at `log_start_offset`.
    MoveStart { log_start_offset: Offset },
    /// The partition is deleted.
    Delete,
}

const KIND_APPEND: u8 = 1;
const KIND_TRUNCATE: u8 = 2;
const KIND_ROLL: u8 = 3;
const KIND_MOVE_START: u8 = 4;
const KIND_DELETE: u8 = 5;
/// An append whose gap is told, behind all else.
const KIND_APPEND_AFTER_GAP: u8 = 6;

impl Entry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self.change {
            Change::Append { gap_bytes: 0, .. } => KIND_APPEND,
            Change::Append { .. } => KIND_APPEND_AFTER_GAP,
            Change::Truncate { .. } => KIND_TRUNCATE,
            Change::Roll { .. } => KIND_ROLL,
            Change::MoveStart { .. } => KIND_MOVE_START,
            Change::Delete => KIND_DELETE,
        };
        out.push(kind);
        put_topic_partition(out, &self.id);
        match self.change {
            Change::Append {
                gap_bytes,
                leader_epoch,
                segment_base,
                position_bytes,
                base_offset,
                next_offset,
                prefix_bytes,
                len_bytes,
                crc,
            } => {
                out.extend_from_slice(&leader_epoch.0.to_be_bytes());
                out.extend_from_slice(&segment_base.0.to_be_bytes());
                out.extend_from_slice(&position_bytes.to_be_bytes());
                out.extend_from_slice(&base_offset.0.to_be_bytes());
                out.extend_from_slice(&next_offset.0.to_be_bytes());
                out.extend_from_slice(&prefix_bytes.to_be_bytes());
                out.extend_from_slice(&len_bytes.to_be_bytes());
                out.extend_from_slice(&crc.to_be_bytes());
                if gap_bytes > 0 {
                    out.extend_from_slice(&gap_bytes.to_be_bytes());
                }
            }
            Change::Truncate { segment_base, position_bytes, next_offset } => {
                out.extend_from_slice(&segment_base.0.to_be_bytes());
                out.extend_from_slice(&position_bytes.to_be_bytes());
                out.extend_from_slice(&next_offset.0.to_be_bytes());
            }
            Change::Roll { segment_base, size_bytes, next_base } => {
                out.extend_from_slice(&segment_base.0.to_be_bytes());
                out.extend_from_slice(&size_bytes.to_be_bytes());
                out.extend_from_slice(&next_base.0.to_be_bytes());
            }
            Change::MoveStart { log_start_offset } => {
                out.extend_from_slice(&log_start_offset.0.to_be_bytes());
            }
            Change::Delete => {}
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let kind = fields.u8()?;
        let id = fields.topic_partition()?;
        let change = match kind {
            KIND_APPEND | KIND_APPEND_AFTER_GAP => Change::Append {
                leader_epoch: LeaderEpoch(fields.i32()?),
                segment_base: Offset(fields.i64()?),
                position_bytes: fields.u64()?,
                base_offset: Offset(fields.i64()?),
                next_offset: Offset(fields.i64()?),
                prefix_bytes: fields.u32()?,
                len_bytes: fields.u32()?,
                crc: fields.u32()?,
                gap_bytes: if kind == KIND_APPEND { 0 } else { fields.u16()? },
            },
            KIND_TRUNCATE => Change::Truncate {
                segment_base: Offset(fields.i64()?),
                position_bytes: fields.u64()?,
                next_offset: Offset(fields.i64()?),
            },
            KIND_ROLL => Change::Roll {
                segment_base: Offset(fields.i64()?),
                size_bytes: fields.u64()?,
                next_base: Offset(fields.i64()?),
            },
            KIND_MOVE_START => Change::MoveStart { log_start_offset: Offset(fields.i64()?) },
            KIND_DELETE => Change::Delete,
            _ => return None,
        };
        Some(Entry { id, change })
    }

    /// Decodes a whole entry list. `None` if it is not well formed.
    pub(crate) fn decode_list(bytes: &[u8], count: u32) -> Option<Vec<Entry>> {
        let mut fields = Fields(bytes);
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry::decode(&mut fields)?);
        }
        fields.0.is_empty().then_some(entries)
    }

    /// Where this entry's part of the payload lies, if the part before it ends at `at`.
    pub(crate) fn payload(&self, at: usize) -> std::ops::Range<usize> {
        let (gap_bytes, len_bytes) = match self.change {
            Change::Append { gap_bytes, len_bytes, .. } => (usize::from(gap_bytes), len_bytes as usize),
            _ => (0, 0),
        };
        at + gap_bytes..at + gap_bytes + len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn id(partition: i32) -> TopicPartition {
        TopicPartition { topic_id: TopicId::from_bytes([7; 16]), partition: PartitionIndex(partition) }
    }

    fn entries() -> Vec<Entry> {
        let append = Change::Append {
            gap_bytes: 0,
            leader_epoch: LeaderEpoch(3),
            segment_base: Offset(100),
            position_bytes: 8192,
            base_offset: Offset(120),
            next_offset: Offset(125),
            prefix_bytes: 17,
            len_bytes: 1017,
            crc: 0xdead_beef,
        };
        let changes = [
            append,
            Change::Truncate { segment_base: Offset(100), position_bytes: 9000, next_offset: Offset(121) },
            Change::Roll { segment_base: Offset(100), size_bytes: 9000, next_base: Offset(121) },
            Change::MoveStart { log_start_offset: Offset(110) },
            Change::Delete,
        ];
        changes.into_iter().enumerate().map(|(i, change)| Entry { id: id(i as i32), change }).collect()
    }

    #[test]
    fn entries_survive_the_round_trip() {
        let mut list = Vec::new();
        entries().iter().for_each(|entry| entry.encode(&mut list));
        crate::golden::check("entries.bin", &list);
        assert_eq!(Entry::decode_list(&list, 5), Some(entries()));
        assert_eq!(Entry::decode_list(&list, 4), None, "bytes are left");
        assert_eq!(Entry::decode_list(&list[..list.len() - 1], 5), None, "cut");
    }

    #[test]
    fn append_after_a_gap_survives_the_round_trip() {
        let mut entry = entries()[0];
        let Change::Append { gap_bytes, .. } = &mut entry.change else { unreachable!("it is an append") };
        *gap_bytes = 4095;
        let mut list = Vec::new();
        entry.encode(&mut list);
        crate::golden::check("entry-after-gap.bin", &list);
        assert_eq!(Entry::decode_list(&list, 1), Some(vec![entry]));
        assert_eq!(Entry::decode_list(&list[..list.len() - 1], 1), None, "cut");
        assert_eq!(entry.payload(100), 4195..5212);
    }

    #[test]
    fn group_header_is_bound_to_file_and_place() {
        let incarnation = Incarnation([1; 16]);
        let header = GroupHeader {
            sequence: 9,
            durable_through: 8,
            previous_checksum: 77,
            payload_bytes: 1017,
            entries_bytes: 65,
            entry_count: 1,
            position_bytes: 4096,
            entries_checksum: 5,
        };
        let (bytes, checksum) = header.encode(incarnation);
        crate::golden::check("group-header.bin", &bytes);
        assert_eq!(GroupHeader::decode(&bytes, incarnation, 4096), Some((header, checksum)));
        assert_eq!(GroupHeader::decode(&bytes, incarnation, 8192), None, "another place");
        assert_eq!(GroupHeader::decode(&bytes, Incarnation([2; 16]), 4096), None, "another use of the file");
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(GroupHeader::decode(&damaged, incarnation, 4096), None, "byte {at}");
        }
    }

    #[test]
    fn file_header_survives_the_round_trip_and_refuses_damage() {
        let header = FileHeader {
            incarnation: Incarnation([9; 16]),
            generation: [4; 16],
            file_number: 12,
            len_bytes: 1 << 26,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, FILE_HEADER_BYTES);
        crate::golden::check("journal-file-header.bin", &bytes[..80]);
        assert_eq!(FileHeader::decode(&bytes), Some(header));
        for at in 0..72 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(FileHeader::decode(&damaged), None, "byte {at}");
        }
        let untold = FileHeader { len_bytes: 0, ..header };
        assert_eq!(untold.encode()[..56], bytes[..56], "as it was before lengths were told");
        assert_eq!(FileHeader::decode(&untold.encode()), Some(untold));
    }
}

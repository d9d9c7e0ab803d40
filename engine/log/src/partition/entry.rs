//! What an append becomes in a journal group: its batches with their final headers, and the entry that tells of them.

use std::rc::Rc;

use bytes::Bytes;
use highwater_model::batch::{self, BatchHeader, CRC_COVERS_FROM};
use highwater_model::{LeaderEpoch, Offset, Timestamp, crc};

use super::append::Incoming;
use super::state::PartitionState;
use super::tail::HotBatch;
use super::{Batches, Effect, Partition};
use crate::journal::format::{Change, Entry};
use crate::journal::group::Group;
use crate::mutants;

/// A batch with its final header.
pub(super) struct Placed {
    pub(super) header: BatchHeader,
    /// The first bytes of the batch, as they go to disk: the rest is unchanged.
    pub(super) head: Head,
}

/// The start of a batch up to what its checksum covers, which is all that changes, or the whole batch.
pub(super) enum Head {
    Start([u8; CRC_COVERS_FROM]),
    Whole(Vec<u8>),
}

impl Head {
    fn start_of(bytes: &[u8]) -> Self {
        Head::Start(bytes[..CRC_COVERS_FROM].try_into().expect("the length fits"))
    }
}

impl std::ops::Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Head::Start(start) => start,
            Head::Whole(whole) => whole,
        }
    }
}

impl std::ops::DerefMut for Head {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Head::Start(start) => start,
            Head::Whole(whole) => whole,
        }
    }
}

impl Placed {
    pub(super) fn as_it_is(bytes: &[u8], header: BatchHeader) -> Self {
        Placed { header, head: Head::start_of(bytes) }
    }
}

/// Gives a batch its offsets and epoch, without touching the request's bytes.
pub(super) fn place(
    bytes: &[u8],
    batch: &Incoming,
    next_offset: Offset,
    leader_epoch: LeaderEpoch,
    log_append_time: Timestamp,
) -> Placed {
    let mut header = batch.header;
    header.base_offset = next_offset;
    header.leader_epoch = leader_epoch;
    let largest = Timestamp(batch.summary.max_timestamp);
    let mut head = if log_append_time != Timestamp::NONE {
        header.max_timestamp = log_append_time;
        let mut whole = bytes.to_vec();
        batch::stamp_log_append_time(&mut whole, header.size_bytes, log_append_time);
        Head::Whole(whole)
    } else if largest != header.max_timestamp {
        // As Kafka, the broker corrects a header that does not fit its records.
        header.max_timestamp = largest;
        let mut whole = bytes.to_vec();
        batch::stamp_max_timestamp(&mut whole, header.size_bytes, largest);
        Head::Whole(whole)
    } else if mutants::RECORD_ALTERED.is_on() && next_offset.0 % 101 == 100 {
        Head::Whole(altered(bytes))
    } else {
        Head::start_of(bytes)
    };
    batch::stamp(&mut head, next_offset, leader_epoch);
    Placed { header, head }
}

/// A lie: a byte of the last record's value changed, under a checksum that fits. The last byte counts its headers.
fn altered(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    let of_value = whole.len() - 2;
    whole[of_value] ^= 1;
    let crc = crc::crc32c(&whole[CRC_COVERS_FROM..]);
    whole[CRC_COVERS_FROM - 4..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
    whole
}

/// Puts the batches of one append into a group and makes their entry.
///
/// The entry's checksum covers the repeated block and the first 21 bytes of each batch; the rest of a batch is covered
/// by the batch's own checksum, which is among those 21 bytes. So each byte is summed once, when the batch came.
pub(super) struct EntryBuilder {
    gap_bytes: u16,
    segment_base: Offset,
    position_bytes: u64,
    base_offset: Offset,
    prefix_bytes: usize,
    len_bytes: usize,
    crc: u32,
    batches: Batches,
}

impl EntryBuilder {
    pub(super) fn begin(
        state: &PartitionState,
        prefix: &Bytes,
        aligned_bytes: Option<usize>,
        group: &mut Group,
    ) -> Self {
        let position_bytes = state.position_bytes - prefix.len() as u64;
        let gap_bytes = aligned_bytes.map_or(0, |len| group.align(position_bytes, prefix.len() + len));
        group.put(prefix);
        EntryBuilder {
            gap_bytes,
            segment_base: state.segment_base,
            position_bytes,
            base_offset: state.next_offset,
            prefix_bytes: prefix.len(),
            len_bytes: prefix.len(),
            crc: crc::crc32c(prefix),
            batches: Batches::new(),
        }
    }

    pub(super) fn add(&mut self, placed: &Placed, bytes: &[u8], hot: HotBatch, group: &mut Group) {
        let mut span = group.put(&placed.head);
        span.len += group.put(&bytes[placed.head.len()..]).len;
        self.crc = crc::append(self.crc, &placed.head[..CRC_COVERS_FROM]);
        self.len_bytes += span.len;
        self.batches.push((hot, span));
    }

    pub(super) fn finish(
        self,
        partition: &Partition,
        leader_epoch: LeaderEpoch,
        next_offset: Offset,
        group: &mut Group,
    ) {
        let change = Change::Append {
            gap_bytes: self.gap_bytes,
            leader_epoch,
            segment_base: self.segment_base,
            position_bytes: self.position_bytes,
            base_offset: self.base_offset,
            next_offset,
            prefix_bytes: u32::try_from(self.prefix_bytes).expect("below a block"),
            len_bytes: u32::try_from(self.len_bytes).expect("bounded by a quarter of a journal file"),
            crc: self.crc,
        };
        let effect = Effect::appended(Rc::clone(&partition.core), self.batches);
        group.push(Entry { id: partition.core.id, change }, effect);
    }
}

/// The checksum that an append entry has for `payload`; `None` if the payload is not the repeated block and whole,
/// intact batches.
pub(crate) fn entry_crc(payload: &[u8], prefix_bytes: usize) -> Option<u32> {
    let (prefix, mut rest) = payload.split_at_checked(prefix_bytes)?;
    let mut sum = crc::crc32c(prefix);
    while !rest.is_empty() {
        let header = batch::verify(rest).ok()?;
        sum = crc::append(sum, &rest[..CRC_COVERS_FROM]);
        rest = &rest[header.size_bytes..];
    }
    Some(sum)
}

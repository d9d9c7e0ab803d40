//! A group while it is filled: appends of a moment, of all partitions, that will go down as one aligned write.
//!
//! ```text
//!   slab 0                     slab 1                    slab 2
//!   ┌ header ┬ payload ─ ─ ─ ─ ┬ ─ ─ payload ─ ─ ─ ─ ─ ─ ┬ ─ payload ┬ entries ┬ pad ┐┄ next group ┄
//! ```
//!
//! The payload is copied here once, from where the network put it; sealing turns the slabs into shared bytes, of which
//! the journal write, the hot tail and the readers all hold slices, and the write-behind where they lie in memory as they
//! will in the segment, which is what the gap before a large append is for.

use bytes::Bytes;
use highwater_io::{IO_ALIGNMENT, IoBuf};

use crate::journal::format::{Entry, GROUP_HEADER_BYTES, GroupHeader, Incarnation, entries_checksum};
use crate::partition::Effect;
use crate::partition::tail::Slices;

/// Where bytes lie in a group, counted from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl Span {
    /// The slices of `slabs` (consecutive from the group's start) that make up this span.
    pub(crate) fn slices(self, slabs: &[Bytes]) -> Slices {
        let mut slices = Slices::new();
        let (mut skip, mut wanted) = (self.start, self.len);
        for slab in slabs {
            if wanted == 0 {
                break;
            }
            if skip >= slab.len() {
                skip -= slab.len();
                continue;
            }
            let take = wanted.min(slab.len() - skip);
            slices.push(slab.slice(skip..skip + take));
            skip = 0;
            wanted -= take;
        }
        debug_assert_eq!(wanted, 0, "a span lies inside its group");
        slices
    }
}

/// A group that takes appends.
pub(crate) struct Group {
    /// The filled slabs, the one being filled last, then empty ones in reserve.
    slabs: Vec<IoBuf>,
    /// Index of the slab being filled.
    filling: usize,
    /// Header and payload so far.
    len_bytes: usize,
    /// Of these, those of gaps.
    gaps_bytes: usize,
    lists: Lists,
    /// Whether somebody in it waits for durability.
    pub(crate) wants_flush: bool,
}

/// What groups list, whose memory is used again.
#[derive(Default)]
pub(crate) struct Lists {
    entries: Vec<Entry>,
    pub(crate) effects: Vec<Effect>,
    encoded: Vec<u8>,
}

impl Group {
    /// An empty group, with the lists of earlier ones.
    pub(crate) fn new(lists: Lists) -> Self {
        Group { slabs: Vec::new(), filling: 0, len_bytes: 0, gaps_bytes: 0, lists, wants_flush: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lists.entries.is_empty()
    }

    /// Bytes so far, without padding.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes + self.lists.entries.len() * ENTRY_BYTES_BOUND
    }

    /// Bytes that can still be taken with the slabs at hand.
    pub(crate) fn room_bytes(&self) -> usize {
        let room: usize = self.slabs.iter().skip(self.filling).map(IoBuf::remaining).sum();
        let reserved = self.lists.entries.len() * ENTRY_BYTES_BOUND + ALIGNMENT_BOUND;
        let header = if self.len_bytes == 0 { GROUP_HEADER_BYTES } else { 0 };
        room.saturating_sub(reserved + header)
    }

    /// Adds an empty slab in reserve.
    pub(crate) fn add_slab(&mut self, slab: IoBuf) {
        self.slabs.push(slab);
    }

    fn copy_in(&mut self, mut bytes: &[u8]) {
        self.len_bytes += bytes.len();
        while !bytes.is_empty() {
            let slab = &mut self.slabs[self.filling];
            if slab.remaining() == 0 {
                self.filling += 1;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(slab.remaining()));
            slab.extend_from_slice(now);
            bytes = later;
        }
    }

    fn begin(&mut self) {
        if self.len_bytes == 0 {
            self.copy_in(&[0; GROUP_HEADER_BYTES]);
        }
    }

    /// Leaves a gap, so that the `len_bytes` which are put next lie within a block of memory as at `position_bytes` within a
    /// block of a file. Returns its size in bytes, below a block. It is 0, whatever comes of that, where gaps would be more
    /// than a [part](GAP_FRACTION) of the group.
    pub(crate) fn align(&mut self, position_bytes: u64, len_bytes: usize) -> u16 {
        self.begin();
        let block = IO_ALIGNMENT as u64;
        // Slabs begin at a block, are whole blocks, and so is what earlier groups took of the first.
        let gap_bytes = (position_bytes % block + block - self.len_bytes as u64 % block) % block;
        if self.gaps_bytes + gap_bytes as usize > (self.len_bytes + len_bytes) / GAP_FRACTION {
            return 0;
        }
        self.gaps_bytes += gap_bytes as usize;
        self.copy_in(&[0; IO_ALIGNMENT][..gap_bytes as usize]);
        u16::try_from(gap_bytes).expect("below a block")
    }

    /// Copies `bytes` to the end of the payload. The caller made room.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Span {
        self.begin();
        let start = self.len_bytes;
        self.copy_in(bytes);
        Span { start, len: bytes.len() }
    }

    /// Adds an entry, whose payload was [`put`](Self::put) before, and what it does to its partition.
    pub(crate) fn push(&mut self, entry: Entry, effect: Effect) {
        self.begin();
        self.lists.entries.push(entry);
        self.lists.effects.push(effect);
    }

    /// Finishes the group: header, entry list, padding.
    ///
    /// # Panics
    /// If the group is empty.
    pub(crate) fn seal(mut self, place: Placement) -> Sealed {
        assert!(!self.is_empty(), "an empty group is not written");
        let payload_bytes = self.len_bytes - GROUP_HEADER_BYTES;
        let mut list = std::mem::take(&mut self.lists.encoded);
        list.clear();
        self.lists.entries.iter().for_each(|entry| entry.encode(&mut list));
        self.copy_in(&list);
        let header = GroupHeader {
            sequence: place.sequence,
            durable_through: place.durable_through,
            previous_checksum: place.previous_checksum,
            payload_bytes: u32::try_from(payload_bytes).expect("groups are bounded by the file size"),
            entries_bytes: u32::try_from(list.len()).expect("groups are bounded by the file size"),
            entry_count: u32::try_from(self.lists.entries.len())
                .expect("groups are bounded by the file size"),
            position_bytes: place.position_bytes,
            entries_checksum: entries_checksum(place.incarnation, &list),
        };
        let (header, checksum) = header.encode(place.incarnation);
        self.slabs[0][..GROUP_HEADER_BYTES].copy_from_slice(&header);

        let mut last = self.slabs.split_off(self.filling);
        let mut reserve = last.split_off(1);
        let mut tail = last.pop().expect("the slab being filled exists");
        tail.pad_to(place.alignment);
        let end = tail.len();
        let data_end = tail.split_to(end);
        let mut data: Vec<Bytes> = self.slabs.into_iter().map(IoBuf::freeze).collect();
        data.push(data_end.freeze());
        if tail.capacity() > 0 {
            reserve.insert(0, tail);
        }
        let size_bytes = data.iter().map(Bytes::len).sum::<usize>() as u64;
        let wants_flush = self.wants_flush;
        self.lists.entries.clear();
        self.lists.encoded = list;
        Sealed {
            sequence: place.sequence,
            checksum,
            data,
            size_bytes,
            lists: self.lists,
            wants_flush,
            reserve,
        }
    }
}

/// What gaps may cost: this part of a group.
const GAP_FRACTION: usize = 16;

/// Upper bound of an encoded entry in bytes.
const ENTRY_BYTES_BOUND: usize = 80;

/// Upper bound of padding in bytes.
const ALIGNMENT_BOUND: usize = IO_ALIGNMENT;

/// Bytes of slab that an append of `payload_bytes` in one entry needs at most in a fresh group.
pub(crate) fn bytes_needed(payload_bytes: usize, entries: usize) -> usize {
    payload_bytes + entries * ENTRY_BYTES_BOUND
}

/// Size in bytes of a group's write, at most, if it holds `payload_bytes` in `entries` entries.
pub(crate) fn size_bound(len_bytes: usize) -> u64 {
    (GROUP_HEADER_BYTES + len_bytes + ALIGNMENT_BOUND) as u64
}

/// Where a group goes and what stands before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    pub(crate) sequence: u64,
    pub(crate) durable_through: u64,
    pub(crate) previous_checksum: u64,
    pub(crate) position_bytes: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) alignment: usize,
}

/// A finished group.
pub(crate) struct Sealed {
    pub(crate) sequence: u64,
    /// Of the header, for the next group's chain.
    pub(crate) checksum: u64,
    /// Aligned pieces, in order.
    pub(crate) data: Vec<Bytes>,
    pub(crate) size_bytes: u64,
    /// With the effects in it.
    pub(crate) lists: Lists,
    pub(crate) wants_flush: bool,
    /// Memory for the next group: what is left of the last slab, then unused ones.
    pub(crate) reserve: Vec<IoBuf>,
}

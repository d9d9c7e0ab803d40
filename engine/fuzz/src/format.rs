//! Our own files as `docs/format.md` has them, written from that document and not from the engine's code.

use twox_hash::XxHash3_64;

pub(crate) const BLOCK: usize = 4096;
pub(crate) const GENERATION: [u8; 16] = [0xa5; 16];
const GROUP_HEADER_BYTES: usize = 72;

/// Bytes of one journal file that grows group by group.
pub(crate) struct JournalFile {
    pub(crate) bytes: Vec<u8>,
    seed: u64,
}

/// Where a journal stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) checksum: u64,
}

/// What goes into a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) durable_through: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) entries: Vec<u8>,
    pub(crate) entry_count: u32,
}

impl JournalFile {
    pub(crate) fn new(number: u64) -> Self {
        let incarnation = [number as u8 ^ 0x3c; 16];
        let mut bytes = b"HWJRNL01".to_vec();
        bytes.extend(incarnation);
        bytes.extend(GENERATION);
        bytes.extend(number.to_be_bytes());
        let checksum = XxHash3_64::oneshot(&bytes);
        bytes.extend(checksum.to_be_bytes());
        bytes.resize(BLOCK, 0);
        JournalFile { bytes, seed: XxHash3_64::oneshot(&incarnation) }
    }

    fn checksum(&self, bytes: &[u8]) -> u64 {
        XxHash3_64::oneshot_with_seed(self.seed, bytes)
    }

    /// Appends a group with checksums that fit, and brings `place` behind it.
    pub(crate) fn push(&mut self, place: &mut Place, group: &Group) {
        let start = self.bytes.len();
        let size = |len: usize| u32::try_from(len).expect("short");
        let mut header = b"HWGR\0\x01\0\0".to_vec();
        place.sequence = place.sequence.wrapping_add(1);
        for field in [place.sequence, group.durable_through, place.checksum] {
            header.extend(field.to_be_bytes());
        }
        for field in [size(group.payload.len()), size(group.entries.len()), group.entry_count, 0] {
            header.extend(field.to_be_bytes());
        }
        header.extend((start as u64).to_be_bytes());
        header.extend(self.checksum(&group.entries).to_be_bytes());
        place.checksum = self.checksum(&header);
        header.extend(place.checksum.to_be_bytes());
        assert_eq!(header.len(), GROUP_HEADER_BYTES);
        self.bytes.extend(header);
        self.bytes.extend(&group.payload);
        self.bytes.extend(&group.entries);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }
}

/// A checkpoint with a checksum that fits.
pub(crate) fn checkpoint(
    number: u64,
    place: Place,
    file_number: u64,
    end_bytes: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut out = b"HWCKPT01".to_vec();
    out.extend(GENERATION);
    for field in [number, place.sequence, place.checksum, file_number, end_bytes, body.len() as u64] {
        out.extend(field.to_be_bytes());
    }
    let checksum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&out), body);
    out.extend(checksum.to_be_bytes());
    out.extend(body);
    out
}

/// A partition as a checkpoint has it, without epochs, producers and a reason for a fence.
pub(crate) struct PartitionState {
    pub(crate) topic_id: [u8; 16],
    pub(crate) partition: i32,
    pub(crate) log_start_offset: u64,
    pub(crate) next_offset: u64,
    pub(crate) segment_base: u64,
    pub(crate) position_bytes: u64,
    /// What follows: epochs, producers, reason.
    pub(crate) rest: Vec<u8>,
}

impl PartitionState {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.topic_id);
        out.extend(self.partition.to_be_bytes());
        out.extend(5u16.to_be_bytes());
        out.extend(b"topic");
        for field in
            [self.log_start_offset, self.next_offset, self.segment_base, self.position_bytes, u64::MAX]
        {
            out.extend(field.to_be_bytes());
        }
        out.extend(&self.rest);
    }
}

/// No epochs, no producers, no reason.
pub(crate) const NOTHING_MORE: [u8; 10] = [0; 10];

/// An append entry, for `payload` of which the first `prefix_bytes` repeat a block.
pub(crate) struct Append {
    pub(crate) leader_epoch: u32,
    pub(crate) segment_base: u64,
    pub(crate) position_bytes: u64,
    pub(crate) base_offset: u64,
    pub(crate) next_offset: u64,
    pub(crate) prefix_bytes: u32,
}

pub(crate) fn put_id(out: &mut Vec<u8>, kind: u8, topic_id: [u8; 16], partition: i32) {
    out.push(kind);
    out.extend(topic_id);
    out.extend(partition.to_be_bytes());
}

impl Append {
    /// What follows the entry's kind and partition, but for the gap.
    pub(crate) fn put(&self, out: &mut Vec<u8>, payload: &[u8]) {
        out.extend(self.leader_epoch.to_be_bytes());
        for field in [self.segment_base, self.position_bytes, self.base_offset, self.next_offset] {
            out.extend(field.to_be_bytes());
        }
        out.extend(self.prefix_bytes.to_be_bytes());
        out.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
        out.extend(self.crc(payload).to_be_bytes());
    }

    /// CRC-32C of the prefix and of the first 21 bytes of each batch.
    fn crc(&self, payload: &[u8]) -> u32 {
        let (prefix, mut rest) = payload.split_at((self.prefix_bytes as usize).min(payload.len()));
        let mut covered = prefix.to_vec();
        while let Some((head, length)) = rest.get(..21).zip(rest.get(8..12)) {
            covered.extend(head);
            let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
            rest = rest.get(length as usize + 12..).unwrap_or_default();
        }
        crc32c::crc32c(&covered)
    }
}

//! Sparse index of one segment, in memory: where to begin looking for an offset or a timestamp.
//!
//! A hint. It covers the segment up to some position; beyond that, a look-up walks batch headers and the index learns
//! from them. An entry that turns out wrong (a damaged `.index` file) is dropped with the rest and built anew.

use highwater_model::batch::BatchHeader;
use highwater_model::{Offset, Timestamp};

/// A batch that the index knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    last_offset: Offset,
    position_bytes: u64,
}

/// The largest timestamp up to some offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp: Timestamp,
    /// Offset of the last record of the batch that brought it.
    pub(crate) offset: Offset,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SparseIndex {
    entries: Vec<IndexEntry>,
    times: Vec<TimeEntry>,
    /// Everything below is known.
    covered_bytes: u64,
    /// No offset at or above it is in the covered part.
    covered_offset: Offset,
    /// No batch behind the covered part begins below it.
    next_floor: Offset,
    bytes_since_entry: u64,
    max_time: Option<TimeEntry>,
}

impl SparseIndex {
    pub(crate) fn covered_bytes(&self) -> u64 {
        self.covered_bytes
    }

    /// An offset that the covered part does not reach; offsets below are looked for with [`position_for`](Self::position_for).
    pub(crate) fn covered_offset(&self) -> Offset {
        self.covered_offset
    }

    /// An offset below which no batch behind the covered part begins.
    pub(crate) fn next_floor(&self) -> Offset {
        self.next_floor
    }

    /// The largest timestamp in the covered part.
    pub(crate) fn max_time(&self) -> Option<TimeEntry> {
        self.max_time
    }

    /// The largest timestamp of batches that end in `floor..end`; and where one is that the index cannot tell, the position from
    /// which to look for larger ones.
    pub(crate) fn max_time_within(&self, floor: Offset, end: Offset) -> (Option<Timestamp>, Option<u64>) {
        let Some(max) = self.max_time else { return (None, None) };
        if max.offset < floor {
            // It is gone with what was deleted.
            return (None, Some(self.position_for(floor)));
        }
        if max.offset < end {
            return (Some(max.timestamp), None);
        }
        // With each entry for an offset the largest time up to it was noted.
        let known = self.entries.partition_point(|entry| entry.last_offset < end).checked_sub(1);
        let Some(known) = known.map(|place| self.entries[place]) else { return (None, Some(0)) };
        let times = self.times.partition_point(|entry| entry.offset <= known.last_offset).checked_sub(1);
        match times.map(|place| self.times[place]) {
            Some(time) if time.offset >= floor => (Some(time.timestamp), Some(known.position_bytes)),
            _ => (None, Some(self.position_for(floor))),
        }
    }

    /// Learns of the batch at `position_bytes`, if it is the next.
    pub(crate) fn note(&mut self, header: &BatchHeader, position_bytes: u64, interval_bytes: u64) {
        if position_bytes != self.covered_bytes {
            return;
        }
        let last_offset = header.last_offset();
        // A batch that compaction emptied tells no time.
        if header.record_count > 0 && self.max_time.is_none_or(|max| header.max_timestamp > max.timestamp) {
            self.max_time = Some(TimeEntry { timestamp: header.max_timestamp, offset: last_offset });
        }
        if self.bytes_since_entry > interval_bytes {
            self.entries.push(IndexEntry { last_offset, position_bytes });
            self.note_time();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += header.size_bytes as u64;
        self.covered_bytes += header.size_bytes as u64;
        self.covered_offset = header.next_offset();
        self.next_floor = self.covered_offset;
    }

    fn note_time(&mut self) {
        if let Some(max) = self.max_time
            && self.times.last().is_none_or(|last| max.timestamp > last.timestamp && max.offset > last.offset)
        {
            self.times.push(max);
        }
    }

    /// A batch at or before the one that holds `offset`: its last offset, and where it begins. `None` if none is known.
    pub(crate) fn entry_for(&self, offset: Offset) -> Option<(Offset, u64)> {
        let after = self.entries.partition_point(|entry| entry.last_offset <= offset);
        let entry = self.entries[after.checked_sub(1)?];
        Some((entry.last_offset, entry.position_bytes))
    }

    /// The batch after the one that ends right before `offset`, if both have entries: its last offset, and where it begins. One
    /// without an entry may lie between them.
    pub(crate) fn entry_behind(&self, offset: Offset) -> Option<(Offset, u64)> {
        let next = self.entries.partition_point(|entry| entry.last_offset < offset);
        let before = self.entries[next.checked_sub(1)?];
        let entry = self.entries.get(next).filter(|_| before.last_offset.0 + 1 == offset.0)?;
        Some((entry.last_offset, entry.position_bytes))
    }

    /// Position of a batch at or before the one that holds `offset`.
    pub(crate) fn position_for(&self, offset: Offset) -> u64 {
        self.entry_for(offset).map_or(0, |(_, position_bytes)| position_bytes)
    }

    /// Position from which to look for the first record at or after `timestamp`.
    pub(crate) fn position_for_time(&self, timestamp: Timestamp) -> u64 {
        let after = self.times.partition_point(|entry| entry.timestamp < timestamp);
        after.checked_sub(1).map_or(0, |floor| self.position_for(self.times[floor].offset))
    }

    /// Forgets everything from `position_bytes` on.
    pub(crate) fn truncate(&mut self, position_bytes: u64, next_offset: Offset) {
        if position_bytes >= self.covered_bytes {
            return;
        }
        self.entries.retain(|entry| entry.position_bytes < position_bytes);
        self.times.retain(|entry| entry.offset < next_offset);
        // What lies between the last entry that is left and the end is walked again.
        let resume = self.entries.last().map_or(0, |entry| entry.position_bytes);
        self.covered_bytes = resume;
        self.covered_offset = self.entries.last().map_or(Offset(0), |entry| entry.last_offset);
        self.bytes_since_entry = 0;
        self.entries.pop();
        self.next_floor = self.entries.last().map_or(Offset(0), |entry| Offset(entry.last_offset.0 + 1));
        self.max_time = self.times.last().copied();
    }

    /// Bytes of the larger one of Kafka's two files, as far as the index is now.
    pub(crate) fn largest_file_bytes(&self) -> u64 {
        (self.entries.len() * 8).max(self.times.len() * 12) as u64
    }

    /// What the index says: last offset of a batch, and where the batch begins.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Offset, u64)> {
        self.entries.iter().map(|entry| (entry.last_offset, entry.position_bytes))
    }

    /// Kafka's `.index`.
    pub(crate) fn encode_offsets(&self, base_offset: Offset) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * 8);
        for entry in &self.entries {
            let relative = u32::try_from(entry.last_offset.0 - base_offset.0);
            let position = u32::try_from(entry.position_bytes);
            let (Ok(relative), Ok(position)) = (relative, position) else { break };
            out.extend_from_slice(&relative.to_be_bytes());
            out.extend_from_slice(&position.to_be_bytes());
        }
        out
    }

    /// Kafka's `.timeindex`; its last entry is the largest timestamp of the segment.
    pub(crate) fn encode_times(&self, base_offset: Offset) -> Vec<u8> {
        let mut closing = self.clone();
        closing.note_time();
        let mut out = Vec::with_capacity(closing.times.len() * 12);
        for entry in &closing.times {
            let Ok(relative) = u32::try_from(entry.offset.0 - base_offset.0) else { break };
            out.extend_from_slice(&entry.timestamp.0.to_be_bytes());
            out.extend_from_slice(&relative.to_be_bytes());
        }
        out
    }

    /// Reads Kafka's two files. `None` if they contradict themselves: then the segment is walked.
    pub(crate) fn decode(offsets: &[u8], times: &[u8], base_offset: Offset, size_bytes: u64) -> Option<Self> {
        let mut index = SparseIndex::default();
        for entry in whole_entries::<8>(offsets)? {
            let relative = u32::from_be_bytes(*entry.first_chunk()?);
            let position_bytes = u64::from(u32::from_be_bytes(*entry.last_chunk()?));
            let last_offset = Offset(base_offset.0.checked_add(relative.into())?);
            let rises = index
                .entries
                .last()
                .is_none_or(|last| last_offset > last.last_offset && position_bytes > last.position_bytes);
            if !rises || position_bytes >= size_bytes {
                return None;
            }
            index.entries.push(IndexEntry { last_offset, position_bytes });
        }
        for entry in whole_entries::<12>(times)? {
            let timestamp = Timestamp(i64::from_be_bytes(*entry.first_chunk()?));
            let relative = u32::from_be_bytes(*entry.last_chunk()?);
            let offset = Offset(base_offset.0.checked_add(relative.into())?);
            if index.times.last().is_some_and(|last| timestamp < last.timestamp || offset < last.offset) {
                return None;
            }
            index.times.push(TimeEntry { timestamp, offset });
        }
        index.max_time = index.times.last().copied();
        index.covered_bytes = size_bytes;
        index.covered_offset = Offset(i64::MAX);
        Some(index)
    }
}

fn whole_entries<const N: usize>(bytes: &[u8]) -> Option<impl Iterator<Item = &[u8; N]>> {
    let (entries, rest) = bytes.as_chunks::<N>();
    rest.is_empty().then(|| entries.iter())
}

#[cfg(test)]
mod tests {
    use highwater_model::LeaderEpoch;
    use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp, stamp};
    use highwater_model::compression::Compression;

    use super::*;

    fn header(offset: i64, timestamp: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&NewRecord {
            timestamp: Timestamp(timestamp),
            value: Some(&[0; 400]),
            ..NewRecord::default()
        });
        let mut bytes = builder.build(ProducerStamp::NONE).expect("a batch").to_vec();
        stamp(&mut bytes, Offset(offset), LeaderEpoch(0));
        BatchHeader::parse(&bytes).expect("a batch")
    }

    fn filled(count: i64) -> (SparseIndex, u64) {
        let mut index = SparseIndex::default();
        let mut position = 0;
        for offset in 0..count {
            let header = header(100 + offset, 1_000 + offset);
            index.note(&header, position, 1_000);
            position += header.size_bytes as u64;
        }
        (index, position)
    }

    #[test]
    fn look_up_never_passes_the_batch() {
        let (index, _) = filled(50);
        let size = header(0, 0).size_bytes as u64;
        for offset in 0..50u64 {
            let position = index.position_for(Offset(100 + offset.cast_signed()));
            assert!(position <= offset * size && offset * size - position <= 4 * size, "offset {offset}");
            let position = index.position_for_time(Timestamp(1_000 + offset.cast_signed()));
            assert!(position <= offset * size, "timestamp {offset}");
        }
    }

    #[test]
    fn files_survive_the_round_trip() {
        let (index, size_bytes) = filled(50);
        let offsets = index.encode_offsets(Offset(100));
        let times = index.encode_times(Offset(100));
        crate::golden::check("segment.index", &offsets);
        crate::golden::check("segment.timeindex", &times);
        let read = SparseIndex::decode(&offsets, &times, Offset(100), size_bytes).expect("well formed");
        assert_eq!(read.entries, index.entries);
        assert_eq!(read.max_time(), Some(TimeEntry { timestamp: Timestamp(1_049), offset: Offset(149) }));
        assert!(SparseIndex::decode(&offsets[1..], &times, Offset(100), size_bytes).is_none(), "cut");
        assert!(SparseIndex::decode(&offsets, &times, Offset(100), 1_000).is_none(), "beyond the segment");
    }

    #[test]
    fn truncated_index_learns_again() {
        let (mut index, size_bytes) = filled(50);
        let size = header(0, 0).size_bytes as u64;
        index.truncate(20 * size, Offset(120));
        assert!(index.covered_bytes() <= 20 * size);
        let mut position = index.covered_bytes();
        for offset in (position / size)..50 {
            let header = header(100 + offset.cast_signed(), 1_000);
            index.note(&header, position, 1_000);
            position += size;
        }
        assert_eq!(index.covered_bytes(), size_bytes);
    }
}

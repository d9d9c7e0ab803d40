//! Reading: from the hot tail where the bytes are in memory, else from a segment, with every checksum looked at
//! (rule 10); look-ups by offset and by time.

use std::rc::Rc;

use bytes::Bytes;
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, Timestamp, record};

use crate::error::ReadError;
use crate::journal::progress::Mark;
use crate::mutants;
use crate::partition::Partition;
use crate::partition::segment::{OffsetRange, Part, Segment, Walk};

/// Reads at or below this size are copied, so that a few bytes do not hold a whole slab of the hot tail.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// Least bytes that one read takes from a segment: between two entries of the index lies about as much.
const MIN_SEGMENT_READ_BYTES: usize = 32 << 10;

/// Most bytes that one read takes from a segment, whatever the request allows.
const MAX_SEGMENT_READ_BYTES: usize = 4 << 20;

/// The same beside appends.
const MAX_READ_BESIDE_APPENDS_BYTES: usize = 1 << 20;

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// First offset wanted.
    pub offset: Offset,
    /// Most bytes wanted; a read ends with the last whole batch that fits.
    pub max_bytes: usize,
    /// Whether the first batch is returned even if it is larger.
    pub min_one_batch: bool,
    /// Exclusive end: high watermark, last stable offset or log end.
    pub upper_bound: Offset,
}

/// Whole batches in order. The first one holds the wanted offset, or is the first after it.
#[derive(Debug, Clone, Default)]
pub struct ReadData {
    /// The bytes, in pieces.
    pub chunks: Vec<Bytes>,
    /// Their sum.
    pub size_bytes: usize,
    /// Offset after the last batch, or the wanted one if there is none.
    pub next_offset: Offset,
    /// Whether the bytes lie in the hot tail: while somebody holds them, what was appended at about the same time cannot be
    /// written over.
    pub is_hot: bool,
}

/// A record found by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its offset.
    pub offset: Offset,
    /// Epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
}

/// A part of a segment that holds whole batches in the file.
struct Stretch {
    segment: Rc<Segment>,
    /// Exclusive end of what the file holds.
    end_bytes: u64,
    /// Exclusive end of the offsets in it.
    bound: Offset,
}

impl Stretch {
    /// From a batch's start to the end.
    fn from(&self, from_bytes: u64) -> Part {
        let offsets = OffsetRange { floor: self.segment.base_offset, bound: self.bound };
        Part { from_bytes, end_bytes: self.end_bytes, offsets }
    }
}

/// Where to begin looking for a batch.
struct Start {
    part: Part,
    /// Last offset of the batch there, if the index says so, which is checked.
    hint: Option<Offset>,
    /// Where to begin, with which hint, if the batch there does not begin with the wanted offset.
    or_else: Option<(u64, Option<Offset>)>,
}

/// What a look through some bytes of a segment came to.
enum Reached {
    /// The wanted batch begins at this index.
    Batch(usize, BatchHeader),
    /// It is not among them; the next batch begins at this index, which may be behind them.
    End(usize),
}

/// Looks for the first batch that ends at or after `offset` in whole batches from `position` on.
fn first_reaching(
    segment: &Segment,
    position: u64,
    bytes: &[u8],
    offset: Offset,
    offsets: &mut OffsetRange,
) -> Result<Reached, ReadError> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES) {
        let header = segment.header(position + at as u64, rest, offsets)?;
        if header.last_offset() >= offset {
            return Ok(Reached::Batch(at, header));
        }
        at += header.size_bytes;
    }
    Ok(Reached::End(at))
}

/// `wanted`, which lies in memory of `read_bytes`; by itself where it is less than half of that. Whoever holds it is charged
/// for its length: of a small batch before a large one, in each of many partitions, that would be next to nothing.
fn without_waste(wanted: Bytes, read_bytes: usize) -> Bytes {
    if wanted.len() < read_bytes / 2 { Bytes::copy_from_slice(&wanted) } else { wanted }
}

impl Partition {
    /// Reads batches from `request.offset` on. Empty at the upper bound.
    ///
    /// # Errors
    /// [`ReadError`]; an offset beyond the log's end or before its start is [`ReadError::OffsetOutOfRange`].
    pub async fn read(&self, request: ReadRequest) -> Result<ReadData, ReadError> {
        loop {
            let before = self.core.departures.get();
            match self.read_once(request).await {
                // Segments left the log in the middle of it: is the offset still there?
                Err(_) if self.core.departures.get() != before => {}
                outcome => return outcome,
            }
        }
    }

    /// Whether what is at `offset` has to be read from a segment.
    #[must_use]
    pub fn is_in_segments(&self, offset: Offset) -> bool {
        let is_in_memory = self.core.live.borrow().tail.first_offset().is_some_and(|first| first <= offset);
        !is_in_memory && offset < self.core.watermarks.get().log_end_offset
    }

    /// Whether others append to logs of the same shard and directory: who reads much from segments at once delays them.
    #[must_use]
    pub fn has_appends_beside(&self) -> bool {
        let journal = &self.shard.journal;
        let written = journal.progress().through(Mark::Written);
        self.shard.read_pace.has_appends(written, journal.some_wait(), self.shard.io.now())
    }

    async fn read_once(&self, request: ReadRequest) -> Result<ReadData, ReadError> {
        let marks = self.core.watermarks.get();
        if request.offset < marks.log_start_offset || request.offset > marks.log_end_offset {
            return Err(ReadError::OffsetOutOfRange {
                offset: request.offset,
                log_start_offset: marks.log_start_offset,
                log_end_offset: marks.log_end_offset,
            });
        }
        let upper_bound = request.upper_bound.min(marks.log_end_offset);
        let request = ReadRequest { upper_bound, ..request };
        let empty = ReadData { next_offset: request.offset, ..ReadData::default() };
        if request.offset >= upper_bound {
            return Ok(empty);
        }
        if let Some(data) = self.read_hot(&request) {
            return Ok(data);
        }
        self.read_cold(&request).await
    }

    /// Reads from memory; `None` if the wanted offset is not there.
    fn read_hot(&self, request: &ReadRequest) -> Option<ReadData> {
        let live = self.core.live.borrow();
        if live.tail.first_offset()? > request.offset {
            return None;
        }
        let mut data = ReadData { next_offset: request.offset, ..ReadData::default() };
        for hot in live.tail.starting_at(request.offset) {
            let first = data.size_bytes == 0;
            let fits = data.size_bytes + hot.size_bytes <= request.max_bytes;
            let wanted = fits || first && request.min_one_batch;
            if hot.last_offset >= request.upper_bound || !wanted {
                break;
            }
            data.chunks.extend(hot.chunks.iter().cloned());
            data.size_bytes += hot.size_bytes;
            data.next_offset = Offset(hot.last_offset.0 + 1);
        }
        data.is_hot = data.size_bytes > COPY_BELOW_BYTES;
        if !data.is_hot && !data.chunks.is_empty() {
            data.chunks = vec![Bytes::from(data.chunks.concat())];
        }
        Some(data)
    }

    async fn read_cold(&self, request: &ReadRequest) -> Result<ReadData, ReadError> {
        let mut offset = request.offset;
        loop {
            let Some(stretch) = self.stretch_with(offset) else {
                self.check_for_hole(offset)?;
                return Ok(ReadData { next_offset: request.offset, ..ReadData::default() });
            };
            let data = match self.read_stretch(&stretch, offset, request).await {
                // Its file went, or is another by now, in which what was read need not be all: the one that took its place
                // has what it held.
                _ if stretch.segment.is_replaced() => continue,
                // A damaged index misleads, and so does a log that was cut meanwhile: the segment is walked as it is now.
                Err(ReadError::Corrupt { .. }) if stretch.segment.index.borrow().covered_bytes() > 0 => {
                    stretch.segment.drop_index();
                    let Some(stretch) = self.stretch_with(offset) else { continue };
                    match self.read_stretch(&stretch, offset, request).await {
                        _ if stretch.segment.is_replaced() => continue,
                        outcome => outcome?,
                    }
                }
                outcome => outcome?,
            };
            if data.size_bytes > 0 || data.next_offset == offset {
                return Ok(data);
            }
            // The rest of this segment holds nothing at or after the offset: go on with the next.
            self.check_for_hole(offset)?;
            offset = data.next_offset;
            if let Some(data) = self.read_hot(&ReadRequest { offset, ..*request }) {
                return Ok(data);
            }
        }
    }

    /// Where recovery missed a part of the log, no read passes over what is not there. Elsewhere compaction may have left
    /// offsets out.
    fn check_for_hole(&self, offset: Offset) -> Result<(), ReadError> {
        let Some(reason) = self.core.fenced.borrow().clone() else { return Ok(()) };
        Err(ReadError::Corrupt {
            path: self.segment_path(offset).display().to_string().into(),
            position_bytes: 0,
            what: format!("nothing at offset {offset}: {reason}").into(),
        })
    }

    /// The segment that holds `offset`, as far as it is in the file.
    fn stretch_with(&self, offset: Offset) -> Option<Stretch> {
        let live = self.core.live.borrow();
        let segment = live.segments.range(..=offset).next_back().map(|(_, segment)| Rc::clone(segment))?;
        let end_bytes = match segment.base_offset.cmp(&live.drain.segment_base) {
            std::cmp::Ordering::Less => segment.size_bytes(),
            std::cmp::Ordering::Equal => live.drain.written_bytes,
            std::cmp::Ordering::Greater => return None,
        };
        // A batch that is written in part is served from memory.
        let bound = self.core.offsets_of(&segment).bound;
        let (end_bytes, bound) = live
            .tail
            .undrained()
            .find(|hot| hot.segment_base == segment.base_offset)
            .map_or((end_bytes, bound), |hot| {
                (end_bytes.min(hot.position_bytes), bound.min(hot.base_offset))
            });
        Some(Stretch { segment, end_bytes, bound })
    }

    async fn read_stretch(
        &self,
        stretch: &Stretch,
        offset: Offset,
        request: &ReadRequest,
    ) -> Result<ReadData, ReadError> {
        let segment = &stretch.segment;
        let has_appends = self.has_appends_beside();
        let most_bytes = if has_appends { MAX_READ_BESIDE_APPENDS_BYTES } else { MAX_SEGMENT_READ_BYTES };
        let budget = request.max_bytes.min(most_bytes);
        let Start { part, mut hint, mut or_else } = self.start_for(stretch, offset).await?;
        let Part { from_bytes: mut position, end_bytes, mut offsets } = part;
        let mut len = budget.max(MIN_SEGMENT_READ_BYTES) as u64;
        while position < end_bytes {
            // With the header behind the last batch: its offset tells whether that of the last one is right.
            let end = (position + len + BATCH_HEADER_BYTES as u64).min(end_bytes);
            let (io, direct) = (&self.shard.io, self.shard.direct);
            let take = |len| self.shard.read_bufs.take(len);
            let paced = Some(self.shard.read_pace.of_read(has_appends));
            let bytes = segment.read_into(io, direct, position, end, take, paced).await?;
            if let Some(last_offset) = hint.take() {
                let header = segment.header(position, &bytes, &mut { offsets })?;
                if let Some(earlier) = or_else.take()
                    && header.base_offset != offset
                {
                    (position, hint) = earlier;
                    continue;
                }
                if header.last_offset() != last_offset {
                    return Err(segment.corrupt(position, "the index misleads"));
                }
            }
            let (at, first) = match first_reaching(segment, position, &bytes, offset, &mut offsets)? {
                Reached::Batch(at, header) => (at, header),
                Reached::End(0) => {
                    return Err(segment.corrupt(position, "the segment ends in a batch's header"));
                }
                Reached::End(passed) => {
                    position += passed as u64;
                    continue;
                }
            };
            position += at as u64;
            if position + first.size_bytes as u64 > end_bytes {
                return Err(segment.corrupt(position, "the batch is longer than the segment"));
            }
            let is_too_large = first.size_bytes > request.max_bytes && !request.min_one_batch;
            if first.last_offset() >= request.upper_bound || is_too_large {
                return Ok(ReadData { next_offset: offset, ..ReadData::default() });
            }
            offsets.floor = first.base_offset;
            // Mostly one read brings what the index makes us pass, and the wanted batch.
            if at + first.size_bytes <= bytes.len() {
                let read_bytes = bytes.len();
                let mut data = self.whole_batches(segment, position, &bytes.slice(at..), offsets, request)?;
                drop(bytes);
                data.chunks = data.chunks.into_iter().map(|chunk| without_waste(chunk, read_bytes)).collect();
                return Ok(data);
            }
            len = budget.max(first.size_bytes) as u64;
        }
        Ok(ReadData { next_offset: self.after(segment), ..ReadData::default() })
    }

    /// Where to begin looking for the batch that holds `offset`: at it, or not far before it.
    async fn start_for(&self, stretch: &Stretch, offset: Offset) -> Result<Start, ReadError> {
        let Stretch { segment, end_bytes, bound } = stretch;
        let shard = &self.shard;
        segment.load_index(&shard.io).await;
        let (covered_offset, entry, behind) = {
            let index = segment.index.borrow();
            (index.covered_offset(), index.entry_for(offset), index.entry_behind(offset))
        };
        let rest = segment.not_covered(*end_bytes, *bound);
        if offset == covered_offset {
            return Ok(Start { part: rest, hint: None, or_else: None });
        }
        if offset < covered_offset || rest.from_bytes >= *end_bytes {
            let position_bytes = entry.map_or(0, |(_, position_bytes)| position_bytes);
            let hint = entry.map(|(last_offset, _)| last_offset);
            // A reader goes on where the batch before ends, which would be read again. A large one has its successor's entry behind
            // its own; behind a small one the next may be of a later batch, and the guess would cost a read.
            let is_worth_it =
                |at: u64| at >= position_bytes + MIN_SEGMENT_READ_BYTES as u64 && at < *end_bytes;
            if let Some((last_offset, behind_bytes)) = behind.filter(|(_, at)| is_worth_it(*at)) {
                let or_else = Some((position_bytes, hint));
                return Ok(Start { part: stretch.from(behind_bytes), hint: Some(last_offset), or_else });
            }
            return Ok(Start { part: stretch.from(position_bytes), hint, or_else: None });
        }
        let interval = self.core.config.borrow().index_interval_bytes;
        let mut offsets = rest.offsets;
        let learn = |position, header: &BatchHeader| {
            if header.last_offset() >= offset {
                return Walk::Stop;
            }
            offsets.floor = header.next_offset();
            segment.index.borrow_mut().note(header, position, interval);
            Walk::On
        };
        let from_bytes = segment.walk(&shard.io, shard.direct, rest, learn).await?;
        Ok(Start { part: Part { from_bytes, offsets, ..rest }, hint: None, or_else: None })
    }

    /// Offset at which to go on after `segment`.
    fn after(&self, segment: &Segment) -> Offset {
        let live = self.core.live.borrow();
        let next = live.segments.range(Offset(segment.base_offset.0 + 1)..).next();
        next.map_or(live.state.next_offset, |(base, _)| *base)
    }

    /// The first batch at which `wanted` holds, from the place that the index gives.
    async fn find_batch(
        &self,
        stretch: &Stretch,
        wanted: impl Fn(&BatchHeader) -> bool,
        start: impl Fn(&crate::partition::index::SparseIndex) -> u64,
    ) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let Stretch { segment, end_bytes, bound } = stretch;
        let shard = &self.shard;
        let interval = self.core.config.borrow().index_interval_bytes;
        segment.load_index(&shard.io).await;
        if segment.index.borrow().covered_bytes() < *end_bytes {
            segment.extend_index(&shard.io, shard.direct, *end_bytes, *bound, interval).await?;
        }
        let part = stretch.from(start(&segment.index.borrow()).min(*end_bytes));
        let mut found = None;
        let position = segment
            .walk(&shard.io, shard.direct, part, |_, header| {
                if wanted(header) {
                    found = Some(*header);
                    return Walk::Stop;
                }
                Walk::On
            })
            .await?;
        Ok(found.map(|header| (position, header)))
    }

    /// Cuts `bytes` to whole batches below the bound, and looks at each checksum. What is before a damaged batch is
    /// served; where offsets do not follow each other, either of the two batches may be the damaged one.
    fn whole_batches(
        &self,
        segment: &Segment,
        position: u64,
        bytes: &Bytes,
        mut offsets: OffsetRange,
        request: &ReadRequest,
    ) -> Result<ReadData, ReadError> {
        let interval = self.core.config.borrow().index_interval_bytes;
        let note = |(end, header, _): (usize, BatchHeader, Offset)| {
            let at = position + (end - header.size_bytes) as u64;
            segment.index.borrow_mut().note(&header, at, interval);
        };
        let (mut end, mut next_offset) = (0, request.offset);
        // The batch before `end`, of whose offset the next header tells, and what it moved `next_offset` from.
        let mut last: Option<(usize, BatchHeader, Offset)> = None;
        let damage = loop {
            let Some(rest) = bytes.get(end..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES) else {
                break None;
            };
            let at = position + end as u64;
            let header = match BatchHeader::parse(rest) {
                Ok(header) => header,
                Err(error) => break Some(segment.bad_batch(at, &error)),
            };
            if !offsets.admit(&header) {
                if let Some((_, before, from_offset)) = last.take() {
                    end -= before.size_bytes;
                    next_offset = from_offset;
                }
                break Some(segment.misplaced(at));
            }
            last.take().into_iter().for_each(note);
            let after = end + header.size_bytes;
            let is_beyond = after > bytes.len() || header.last_offset() >= request.upper_bound;
            if is_beyond || end > 0 && after > request.max_bytes {
                break None;
            }
            if !mutants::SERVE_UNCHECKED.is_on()
                && let Err(error) = batch::verify(&bytes[end..after])
            {
                break Some(segment.bad_batch(at, &error));
            }
            end = after;
            last = Some((end, header, next_offset));
            next_offset = header.next_offset();
        };
        last.into_iter().for_each(note);
        match damage {
            Some(error) if end == 0 => Err(error),
            _ => {
                Ok(ReadData { chunks: vec![bytes.slice(..end)], size_bytes: end, next_offset, is_hot: false })
            }
        }
    }

    /// The first record whose timestamp is at or after `timestamp`, in the order of offsets.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp: Timestamp,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        loop {
            let before = self.core.departures.get();
            let outcome = self.look_up_timestamp(timestamp).await;
            // Where segments left the log in the middle of it, what was seen does not fit together.
            if self.core.departures.get() == before {
                return outcome;
            }
        }
    }

    async fn look_up_timestamp(&self, timestamp: Timestamp) -> Result<Option<TimestampOffset>, ReadError> {
        // Everything below was looked at.
        let mut from = self.core.watermarks.get().log_start_offset;
        let mut before = None;
        loop {
            if let Some(found) = self.find_timestamp_in_segments(timestamp, &mut from).await? {
                return Ok(Some(found));
            }
            // What was in memory only has gone into segments meanwhile, and perhaps out of memory: then it is looked for there.
            let in_memory = {
                let live = self.core.live.borrow();
                live.tail.first_offset().unwrap_or(live.state.next_offset)
            };
            // A gap that compaction left is passed the second time.
            if in_memory <= from || before == Some(from) {
                return Ok(self.hot_offset_for_timestamp(timestamp, from));
            }
            before = Some(from);
        }
    }

    /// Looks at everything in segments from `from` on, as far as it is in their files, and moves `from` behind it.
    async fn find_timestamp_in_segments(
        &self,
        timestamp: Timestamp,
        from: &mut Offset,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        for segment in self.segments_from(*from) {
            let Some(stretch) = self.stretch_with(segment.base_offset) else { break };
            if stretch.segment.base_offset != segment.base_offset {
                continue;
            }
            loop {
                let reaches = |header: &BatchHeader| {
                    // What compaction emptied tells no time.
                    header.max_timestamp >= timestamp
                        && header.last_offset() >= *from
                        && header.record_count > 0
                };
                let found =
                    self.find_batch(&stretch, reaches, |index| index.position_for_time(timestamp)).await?;
                let Some((position, header)) = found else { break };
                let end = position + header.size_bytes as u64;
                let bytes = segment.read(&self.shard.io, self.shard.direct, position, end).await?;
                batch::verify(&bytes).map_err(|error| segment.bad_batch(position, &error))?;
                if let Some(found) = self.first_at_or_after(&header, &bytes, timestamp) {
                    return Ok(Some(found));
                }
                // Those of its records that are late enough lie below the start of the log.
                *from = header.next_offset();
            }
            *from = (*from).max(stretch.bound);
        }
        Ok(None)
    }

    /// The segment that holds `offset`, and all behind it.
    fn segments_from(&self, offset: Offset) -> Vec<Rc<Segment>> {
        let live = self.core.live.borrow();
        let first = live.segments.range(..=offset).next_back().map_or(offset, |(base, _)| *base);
        live.segments.range(first..).map(|(_, segment)| Rc::clone(segment)).collect()
    }

    /// In memory, from `from` on.
    fn hot_offset_for_timestamp(&self, timestamp: Timestamp, from: Offset) -> Option<TimestampOffset> {
        let live = self.core.live.borrow();
        let marks = self.core.watermarks.get();
        let candidates = live.tail.starting_at(from).filter(|hot| {
            hot.max_timestamp >= timestamp
                && hot.last_offset >= marks.log_start_offset
                && hot.last_offset < marks.log_end_offset
        });
        candidates.map(|hot| hot.chunks.concat()).find_map(|bytes| {
            let header = BatchHeader::parse(&bytes).ok()?;
            self.first_at_or_after(&header, &bytes, timestamp)
        })
    }

    /// The first record in a batch at or after `timestamp` and the log's start.
    fn first_at_or_after(
        &self,
        header: &BatchHeader,
        bytes: &[u8],
        timestamp: Timestamp,
    ) -> Option<TimestampOffset> {
        if header.record_count == 0 {
            // Compaction emptied it.
            return None;
        }
        let log_start_offset = self.core.watermarks.get().log_start_offset;
        let found =
            |timestamp, offset| TimestampOffset { timestamp, offset, leader_epoch: header.leader_epoch };
        if header.is_log_append_time() {
            return Some(found(header.max_timestamp, header.base_offset.max(log_start_offset)));
        }
        let payload = &bytes[BATCH_HEADER_BYTES..header.size_bytes];
        let plain = match header.compression().ok()? {
            Compression::None => None,
            codec => {
                Some(codec.decompress(payload, record::max_stored_uncompressed_bytes(payload.len())).ok()?)
            }
        };
        let records = record::records(plain.as_deref().unwrap_or(payload));
        records
            .map_while(Result::ok)
            .map(|record| {
                let time = header.base_timestamp.0.saturating_add(record.timestamp_delta);
                (Timestamp(time), Offset(header.base_offset.0 + i64::from(record.offset_delta)))
            })
            .find(|(time, offset)| *time >= timestamp && *offset >= log_start_offset)
            .map(|(time, offset)| found(time, offset))
    }

    /// The record with the largest timestamp among those below `end` (KIP-734): a reader may not see all that was accepted.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self, end: Offset) -> Result<Option<TimestampOffset>, ReadError> {
        let (mut floor, mut has_skipped) = (Offset(0), false);
        loop {
            let (departures, cuts) = (self.core.departures.get(), self.core.cuts.get());
            floor = floor.max(self.core.watermarks.get().log_start_offset);
            let outcome = self.look_up_max_timestamp(OffsetRange { floor, bound: end }).await;
            // Where segments left the log in the middle of it, what was seen does not fit together.
            if self.core.departures.get() != departures || self.core.cuts.get() != cuts {
                continue;
            }
            let (found, largest) = outcome?;
            if found.is_some() || largest.is_none() || has_skipped {
                return Ok(found);
            }
            has_skipped = true;
            // It was that of a record below the start, in the batch that the start lies in: what is behind that batch counts. Once:
            // an index that Kafka wrote may tell a time that no record has, and a log has many batches.
            let request = ReadRequest { offset: floor, max_bytes: 1, min_one_batch: true, upper_bound: end };
            let next = Offset(floor.0 + 1);
            floor = match self.read(request).await {
                Ok(data) => next.max(data.next_offset),
                // It is below the start by now.
                Err(ReadError::OffsetOutOfRange { .. }) => next,
                Err(error) => return Err(error),
            };
        }
    }

    /// The first record at the largest timestamp of batches that end in `visible`, and that timestamp.
    async fn look_up_max_timestamp(
        &self,
        visible: OffsetRange,
    ) -> Result<(Option<TimestampOffset>, Option<Timestamp>), ReadError> {
        // Before the first wait: what leaves memory meanwhile may be behind what is looked at in segments.
        let in_memory = {
            let live = self.core.live.borrow();
            let seen = live.tail.starting_at(visible.floor).take_while(|hot| hot.last_offset < visible.bound);
            seen.map(|hot| hot.max_timestamp).max()
        };
        let mut largest = in_memory;
        for segment in self.segments_from(visible.floor) {
            let Some(stretch) = self.stretch_with(segment.base_offset) else { break };
            if stretch.segment.base_offset == segment.base_offset {
                largest = largest.max(self.max_timestamp_in(&stretch, visible).await?);
            }
        }
        match largest.filter(|largest| largest.0 >= 0) {
            Some(timestamp) => Ok((self.look_up_timestamp(timestamp).await?, Some(timestamp))),
            None => Ok((None, None)),
        }
    }

    /// The largest timestamp of a batch in the file that ends in `visible`.
    async fn max_timestamp_in(
        &self,
        stretch: &Stretch,
        visible: OffsetRange,
    ) -> Result<Option<Timestamp>, ReadError> {
        let interval = self.core.config.borrow().index_interval_bytes;
        let Stretch { segment, end_bytes, bound } = stretch;
        let (io, direct) = (&self.shard.io, self.shard.direct);
        segment.extend_index(io, direct, *end_bytes, *bound, interval).await?;
        let (mut largest, unknown_from) =
            segment.index.borrow().max_time_within(visible.floor, visible.bound);
        if let Some(position) = unknown_from {
            let part = stretch.from(position.min(*end_bytes));
            let note = |_, header: &BatchHeader| {
                let is_visible = (visible.floor..visible.bound).contains(&header.last_offset());
                if is_visible && header.record_count > 0 {
                    largest = largest.max(Some(header.max_timestamp));
                }
                if header.last_offset() < visible.bound { Walk::On } else { Walk::Stop }
            };
            segment.walk(io, direct, part, note).await?;
        }
        Ok(largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_of_what_was_read_does_not_hold_the_rest() {
        let read = Bytes::from(vec![7; 1 << 20]);
        let is_in_place = |len| {
            let kept = without_waste(read.slice(..len), read.len());
            assert_eq!(kept, read.slice(..len));
            kept.as_ptr() == read.as_ptr()
        };
        assert!(!is_in_place(100));
        assert!(is_in_place(1 << 19));
    }
}

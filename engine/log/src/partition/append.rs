//! Appending: validate, wait for a turn, give offsets, copy into the journal's group.
//!
//! Everything that can be refused is refused before the first offset is given. From the first offset to the copy there
//! is no await: the order of acceptance is the order of offsets.

use std::rc::Rc;

use bytes::Bytes;
use highwater_io::IO_ALIGNMENT;
use highwater_io::sync::Permit;
use highwater_model::batch::{self, BatchHeader};
use highwater_model::record::RecordsSummary;
use highwater_model::{LeaderEpoch, Offset, Timestamp};
use smallvec::SmallVec;

use crate::config::{LogConfig, StoredCompression, TimestampType};
use crate::error::{AppendError, LogError};
use crate::journal::format::{Change, Entry};
use crate::journal::group::Group;
use crate::journal::progress::Mark;
use crate::mutants;
use crate::partition::entry::{EntryBuilder, Placed, place};
use crate::partition::producers::Standing;
use crate::partition::segment::Segment;
use crate::partition::tail::HotBatch;
use crate::partition::{Effect, EndBlock, Partition};
use crate::shard::ShardCore;

/// Most bytes of a group that an append takes beside its batches: the end block again, and a gap of nearly as much.
const MOST_BESIDE_BATCHES: usize = 2 * IO_ALIGNMENT;

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A producer: offsets are given, records validated, sequences checked.
    Client,
    /// The leader, to its follower: offsets and epochs stay as they are. None may lie below the end of the log.
    Replication,
    /// The broker itself: as a client, but control batches are allowed.
    Coordinator,
}

/// An append that was accepted: it has its offsets and is on its way into the journal.
#[derive(Clone)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// Time of appending, where the topic says so, else [`Timestamp::NONE`].
    pub log_append_time: Timestamp,
    /// Start of the log at that moment.
    pub log_start_offset: Offset,
    /// Whether this is a retry of an append that is there already; the offsets are the original's.
    pub is_duplicate: bool,
    shard: Rc<ShardCore>,
    sequence: u64,
    ack: Mark,
    /// Must be durable, too, before this is acknowledged: the group of the last flush that `flush.messages` asked for. It may
    /// be this one's own, and then more than was counted would be at risk until it is flushed. A retry waits for the
    /// flush that its original may have asked for.
    flushed_with: u64,
}

impl std::fmt::Debug for Appended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appended")
            .field("base_offset", &self.base_offset)
            .field("last_offset", &self.last_offset)
            .field("is_duplicate", &self.is_duplicate)
            .finish_non_exhaustive()
    }
}

impl Appended {
    /// Resolves when the append is as safe as the partition's `flush.messages` asks before its ack: written, or flushed.
    /// A duplicate waits as its original did, or longer, and shares its failure (rule 6).
    ///
    /// # Errors
    /// [`LogError::Storage`]: the record may or may not be there after a restart.
    pub async fn acknowledged(&self) -> Result<(), LogError> {
        self.wait(self.ack, self.sequence).await?;
        self.wait(Mark::Durable, self.flushed_with).await
    }

    /// Resolves when the append survives power loss, whatever the partition's settings. Does not ask for a flush.
    ///
    /// # Errors
    /// [`LogError::Storage`].
    pub async fn durable(&self) -> Result<(), LogError> {
        self.wait(Mark::Durable, self.sequence).await
    }

    async fn wait(&self, mark: Mark, sequence: u64) -> Result<(), LogError> {
        let lie = mutants::ACK_BEFORE_FLUSH.is_on() && mark == Mark::Durable;
        let mark = if lie { Mark::Written } else { mark };
        if self.is_duplicate && mutants::DUPLICATE_ACKED_AT_ONCE.is_on() {
            return Ok(());
        }
        Ok(self.shard.journal.progress().wait(mark, sequence).await?)
    }
}

/// A validated batch and where it lies in the request.
pub(super) struct Incoming {
    pub(super) header: BatchHeader,
    pub(super) summary: RecordsSummary,
    start: usize,
}

/// The batches of one request for one partition: mostly one.
type Incomings = SmallVec<[Incoming; 1]>;

impl Partition {
    /// Appends one or more consecutive batches as they came from the network. Resolves when they are accepted: they
    /// have offsets and memory, and what happens to them is told by [`Appended`].
    ///
    /// With several batches, all or none are accepted; a duplicate among several is an error, as in Kafka.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    pub async fn append(
        &self,
        batches: Bytes,
        leader_epoch: LeaderEpoch,
        origin: Origin,
    ) -> Result<Appended, AppendError> {
        let config = Rc::clone(&self.core.config.borrow());
        // First: what is too large is not worth the work of looking inside.
        self.check_sizes(&batches, &config)?;
        let incoming = validate(&batches, origin)?;
        self.check_timestamps(&incoming, &config, origin)?;
        check_keys(&incoming, &config, origin)?;
        let (batches, incoming) = match config.compression {
            Some(stored) if origin == Origin::Client => {
                let (batches, incoming) = recompress(batches, incoming, stored)?;
                self.check_sizes(&batches, &config)?;
                (batches, incoming)
            }
            _ => (batches, incoming),
        };
        let _waits = self.shard.journal.append_begins();
        let turn = self.core.append_turn.acquire(1).await;
        self.core.check_writable()?;
        self.check_epoch(leader_epoch, origin)?;
        if origin == Origin::Replication {
            self.check_offsets(&incoming)?;
        }
        if let Some(original) = self.find_duplicate(&incoming)? {
            return Ok(original);
        }
        // What is seldom waited for is apart, in memory of its own: it would be most of what each append is, and there is
        // one for each request at work.
        if !self.knows_end_block() {
            Box::pin(self.know_end_block()).await?;
        }
        let latest = incoming.iter().map(|batch| batch.summary.max_timestamp).max().unwrap_or(-1);
        let roll = self.needs_roll(batches.len() as u64, latest, &config);
        if roll || !self.has_space(batches.len() as u64) {
            Box::pin(self.reserve_space(roll, batches.len() as u64)).await?;
        }
        self.core.is_complete.set(false);
        let journal = &self.shard.journal;
        if !journal.admits(batches.len() + MOST_BESIDE_BATCHES, 3) {
            Box::pin(journal.admit(batches.len() + MOST_BESIDE_BATCHES, 3)).await?;
        }
        self.core.check_writable()?;
        // Another epoch may have begun while we waited.
        self.check_epoch(leader_epoch, origin)?;
        // Only now: a checkpoint may have drawn its line while we waited.
        let prefix = self.end_block_to_repeat();
        Ok(self.accept(&batches, incoming, &prefix, roll, leader_epoch, origin, &config, turn))
    }

    fn check_sizes(&self, batches: &[u8], config: &LogConfig) -> Result<(), AppendError> {
        // Headers that make no sense are the validation's to name.
        for (_, header) in batch::headers(batches).map_while(Result::ok) {
            let size_bytes = header.size_bytes;
            if size_bytes > config.max_message_bytes {
                return Err(AppendError::TooLarge { size_bytes, limit_bytes: config.max_message_bytes });
            }
        }
        let size_bytes = batches.len();
        // An entry carries the repeated block as well, or a gap.
        let limit_bytes = self.shard.journal.max_append_bytes() - MOST_BESIDE_BATCHES;
        let limit_bytes = limit_bytes.min(usize::try_from(config.segment_bytes).unwrap_or(usize::MAX));
        // What does not fit into the memory of the hot tail would wait for it for ever.
        let limit_bytes = limit_bytes.min(self.shard.max_hot_append_bytes());
        if size_bytes > limit_bytes {
            return Err(AppendError::TooLarge { size_bytes, limit_bytes });
        }
        Ok(())
    }

    fn check_timestamps(
        &self,
        incoming: &[Incoming],
        config: &LogConfig,
        origin: Origin,
    ) -> Result<(), AppendError> {
        if origin != Origin::Client || config.message_timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        let now = self.shard.io.wall_time().as_millis();
        let millis = |limit: Option<std::time::Duration>| {
            limit.map_or(i64::MAX, |limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX))
        };
        let oldest = now.saturating_sub(millis(config.message_timestamp_before_max_ms));
        let newest = now.saturating_add(millis(config.message_timestamp_after_max_ms));
        for batch in incoming {
            let RecordsSummary { min_timestamp, max_timestamp, .. } = batch.summary;
            for timestamp in [max_timestamp, min_timestamp] {
                if timestamp >= 0 && !(oldest..=newest).contains(&timestamp) {
                    return Err(AppendError::InvalidTimestamp { timestamp });
                }
            }
        }
        Ok(())
    }

    fn check_epoch(&self, requested: LeaderEpoch, origin: Origin) -> Result<(), AppendError> {
        let current = self.core.live.borrow().leader_epoch;
        if origin != Origin::Replication && requested != current {
            return Err(AppendError::FencedLeaderEpoch { requested, current });
        }
        Ok(())
    }

    /// Batches that have their offsets go on where the log ends, or beyond: compaction leaves gaps.
    fn check_offsets(&self, incoming: &[Incoming]) -> Result<(), AppendError> {
        let mut next_offset = self.core.live.borrow().state.next_offset;
        for Incoming { header, .. } in incoming {
            if header.base_offset < next_offset {
                return Err(AppendError::InvalidRecord("it begins below the end of the log"));
            }
            next_offset = header.next_offset();
        }
        Ok(())
    }

    /// The original of a retry, or `None` for a new append.
    fn find_duplicate(&self, incoming: &[Incoming]) -> Result<Option<Appended>, AppendError> {
        let live = self.core.live.borrow();
        let mut ahead: Option<BatchHeader> = None;
        for batch in incoming.iter().filter(|batch| batch.header.is_idempotent()) {
            let header = &batch.header;
            // Batches of one request follow each other, which the table does not know yet.
            if let Some(before) = ahead.filter(|before| before.producer_id == header.producer_id) {
                let expected = before.last_sequence().wrapping_advance(1);
                if header.base_sequence != expected || header.producer_epoch != before.producer_epoch {
                    return Err(AppendError::OutOfOrderSequence {
                        producer_id: header.producer_id,
                        sequence: header.base_sequence,
                        expected,
                    });
                }
            } else if let Standing::Duplicate(original) = live.state.producers.check(header)? {
                if mutants::RETRY_STORED_TWICE.is_on() {
                    return Ok(None);
                }
                if incoming.len() > 1 {
                    return Err(AppendError::InvalidRecord("a retried batch together with others"));
                }
                return Ok(Some(Appended {
                    base_offset: original.base_offset(),
                    last_offset: original.last_offset,
                    log_append_time: match self.core.config.borrow().message_timestamp_type {
                        TimestampType::LogAppendTime => original.timestamp,
                        TimestampType::CreateTime => Timestamp::NONE,
                    },
                    log_start_offset: live.state.log_start_offset,
                    is_duplicate: true,
                    shard: Rc::clone(&self.shard),
                    // The last append of this partition is not before the original.
                    sequence: live.last_sequence,
                    ack: self.ack_mark(),
                    flushed_with: live.last_flushing_sequence,
                }));
            }
            ahead = Some(*header);
        }
        Ok(None)
    }

    fn ack_mark(&self) -> Mark {
        if self.core.config.borrow().is_durable_ack() { Mark::Durable } else { Mark::Written }
    }

    /// Brings the end block into the journal, by itself: its segment is about to be trimmed. Waits for room in the journal,
    /// which whoever closes the log has made.
    pub(crate) async fn repeat_end_block(&self) -> Result<(), LogError> {
        self.know_end_block().await?;
        self.shard.journal.admit_last(IO_ALIGNMENT, 1).await?;
        self.repeat_end_block_now();
        Ok(())
    }

    /// As [`repeat_end_block`](Self::repeat_end_block), if there is room without a checkpoint: whether there was.
    pub(crate) async fn repeat_end_block_if_room(&self) -> Result<bool, LogError> {
        self.know_end_block().await?;
        let has_room = self.shard.journal.admit_without_checkpoint(IO_ALIGNMENT, 1).await?;
        if has_room {
            self.repeat_end_block_now();
        }
        Ok(has_room)
    }

    fn repeat_end_block_now(&self) {
        let prefix = self.end_block_to_repeat();
        let mut live = self.core.live.borrow_mut();
        live.repeat_end_block = false;
        if prefix.is_empty() {
            return;
        }
        let (leader_epoch, next_offset) = (live.leader_epoch, live.state.next_offset);
        live.last_sequence = self.shard.journal.append(|group| {
            EntryBuilder::begin(&live.state, &prefix, None, group).finish(
                self,
                leader_epoch,
                next_offset,
                group,
            );
        });
        live.touched = true;
    }

    /// The start of the end block, if the next append repeats it.
    fn end_block_to_repeat(&self) -> Bytes {
        let live = self.core.live.borrow();
        match &live.end_block {
            EndBlock::Known(block) if live.repeat_end_block && !mutants::SKIP_SETTLED_PREFIX.is_on() => {
                Bytes::copy_from_slice(block)
            }
            _ => Bytes::new(),
        }
    }

    fn knows_end_block(&self) -> bool {
        matches!(self.core.live.borrow().end_block, EndBlock::Known(_))
    }

    /// Reads the end block from the segment, where recovery settled it, if it is not in memory.
    pub(crate) async fn know_end_block(&self) -> Result<(), LogError> {
        if self.knows_end_block() {
            return Ok(());
        }
        let (segment, position) = {
            let live = self.core.live.borrow();
            let base = live.state.segment_base;
            (live.segments.get(&base).cloned(), live.state.position_bytes)
        };
        let block_start = position / IO_ALIGNMENT as u64 * IO_ALIGNMENT as u64;
        let block = match segment {
            Some(segment) => segment
                .read(&self.shard.io, self.shard.direct, block_start, position)
                .await
                .map_err(|error| self.core.unreadable(&error, "the end of the log cannot be read"))?,
            None => Bytes::new(),
        };
        let mut live = self.core.live.borrow_mut();
        if matches!(live.end_block, EndBlock::OnMedium) {
            live.drain.settled = block.clone();
            live.end_block = EndBlock::Known(block.to_vec());
        }
        Ok(())
    }

    /// Whether batches of so many bytes, with `latest` for their largest timestamp, begin a new segment. By time as Kafka does
    /// it: by that of the records, from the first batch on, and by the clock where they have none.
    fn needs_roll(&self, add_bytes: u64, latest: i64, config: &LogConfig) -> bool {
        let live = self.core.live.borrow();
        if live.state.position_bytes == 0 {
            return false;
        }
        let by_clock = latest < 0 || config.message_timestamp_type == TimestampType::LogAppendTime;
        let latest = if by_clock { self.shard.io.wall_time().as_millis() } else { latest };
        let jitter = if config.segment_jitter.is_zero() { 0 } else { segment_jitter(&live.state) };
        let segment_ms = i64::try_from(config.roll_after(jitter).as_millis()).unwrap_or(i64::MAX);
        let expired =
            live.state.segment_first_timestamp.is_some_and(|first| latest.saturating_sub(first) > segment_ms);
        // Index entries have 32 bits for offsets and positions.
        let index_full = live.state.next_offset.0 - live.state.segment_base.0 > i64::from(i32::MAX)
            || live.segments.get(&live.state.segment_base).is_some_and(|segment| {
                segment.index.borrow().largest_file_bytes() >= config.segment_index_bytes
            });
        live.state.position_bytes + add_bytes > config.segment_bytes.min(i32::MAX as u64)
            || expired
            || index_full
    }

    /// Whether [`reserve_space`](Self::reserve_space) has nothing to do for so many bytes in the active segment.
    fn has_space(&self, add_bytes: u64) -> bool {
        let live = self.core.live.borrow();
        let segment = live.segments.get(&live.state.segment_base);
        live.next_segment.is_none()
            && segment.is_some_and(|segment| segment.is_reserved(live.state.position_bytes + add_bytes))
    }

    /// Makes sure that the segment's file has room on the medium, before anything is accepted (rule 8).
    async fn reserve_space(&self, roll: bool, add_bytes: u64) -> Result<(), AppendError> {
        let next_base = roll.then(|| self.core.live.borrow().state.next_offset);
        self.drop_unused_segment(next_base).await?;
        if let Some(next_base) = next_base {
            let segment = {
                let mut live = self.core.live.borrow_mut();
                let segment = live.next_segment.get_or_insert_with(|| self.next_segment(next_base));
                Rc::clone(segment)
            };
            return Ok(self.shard.reserve(&self.core, &segment, add_bytes).await?);
        }
        let (segment, end_bytes) = {
            let mut live = self.core.live.borrow_mut();
            let (base, position_bytes) = (live.state.segment_base, live.state.position_bytes);
            let segment = live.segments.entry(base).or_insert_with(|| self.next_segment(base));
            (Rc::clone(segment), position_bytes + add_bytes)
        };
        Ok(self.shard.reserve(&self.core, &segment, end_bytes).await?)
    }

    /// Removes the file that was made for a roll which never came, unless it would begin at `wanted`: the batch did not
    /// fit on the medium, or its producer went away, and what comes now still goes into the segment before. Removes, too, what
    /// is left of a truncation that was short of something. Durable before more is accepted: a restart would take such a file
    /// for a segment, and hide what it seems to hold.
    pub(crate) async fn drop_unused_segment(&self, wanted: Option<Offset>) -> Result<(), LogError> {
        let unused = {
            let live = self.core.live.borrow();
            // A removal that came to no end is done again: what is marked as removed does not come back.
            live.next_segment.clone().filter(|next| Some(next.base_offset) != wanted || next.is_removed())
        };
        if let Some(unused) = unused {
            self.shard.remove_segments(&self.core, &[unused]).await?;
            self.core.live.borrow_mut().next_segment = None;
        }
        let cut_off = self.core.live.borrow().cut_off.clone();
        if !cut_off.is_empty() {
            self.shard.remove_segments(&self.core, &cut_off).await?;
            self.core.live.borrow_mut().cut_off.clear();
        }
        Ok(())
    }

    /// The segment that begins at `base_offset`, not on disk yet.
    fn next_segment(&self, base_offset: Offset) -> Rc<Segment> {
        Segment::new(Rc::clone(&self.core.dir), base_offset, 0, false, &self.shard.open_files)
    }

    #[expect(clippy::too_many_arguments, reason = "the steps before it each made one of them")]
    fn accept(
        &self,
        batches: &Bytes,
        incoming: Incomings,
        prefix: &Bytes,
        roll: bool,
        leader_epoch: LeaderEpoch,
        origin: Origin,
        config: &LogConfig,
        turn: Permit,
    ) -> Appended {
        let now = Timestamp(self.shard.io.wall_time().as_millis());
        let log_append_time = match (config.message_timestamp_type, origin) {
            (TimestampType::LogAppendTime, Origin::Client | Origin::Coordinator) => now,
            _ => Timestamp::NONE,
        };
        // As it is now, not as it was before all waiting: who changed it has been told that it counts.
        let (flush_messages, flush_ms) = {
            let config = self.core.config.borrow();
            (config.flush_messages, config.flush_ms)
        };
        let mut live = self.core.live.borrow_mut();
        let records: u64 =
            incoming.iter().map(|batch| u64::try_from(batch.header.last_offset_delta).unwrap_or(0) + 1).sum();
        live.unflushed_messages += records;
        let flush = live.unflushed_messages >= flush_messages;
        let mut base_offset = None;
        let mut last_offset = live.state.next_offset;
        let sequence = self.shard.journal.append(|group| {
            let mut prefix = prefix.clone();
            if roll {
                if !prefix.is_empty() {
                    // Trimming the segment writes its last block again, with nothing new in it.
                    let repeated = EntryBuilder::begin(&live.state, &prefix, None, group);
                    repeated.finish(self, leader_epoch, live.state.next_offset, group);
                }
                self.roll(&mut live, group);
                prefix.clear();
            }
            let is_large = batches.len() >= self.shard.config.aligned_append_bytes;
            let aligned_bytes = is_large.then_some(batches.len());
            let mut entry = EntryBuilder::begin(&live.state, &prefix, aligned_bytes, group);
            for batch in incoming {
                let bytes = &batches[batch.start..batch.start + batch.header.size_bytes];
                let placed = match origin {
                    Origin::Replication => Placed::as_it_is(bytes, batch.header),
                    _ => place(bytes, &batch, live.state.next_offset, leader_epoch, log_append_time),
                };
                let hot = HotBatch::new(&placed.header, live.state.segment_base, live.state.position_bytes);
                entry.add(&placed, bytes, hot, group);
                if let Some(segment) = live.segments.get(&live.state.segment_base) {
                    let position = live.state.position_bytes;
                    segment.index.borrow_mut().note(&placed.header, position, config.index_interval_bytes);
                    segment.set_size(position + placed.header.size_bytes as u64);
                }
                let known = live.state.producers.len();
                live.state.record_batch(&placed.header, self.shard.most_producers(known));
                self.shard.count_producers(live.state.producers.len().saturating_sub(known));
                live.note_end(&placed.head, &bytes[placed.head.len()..]);
                live.state.segment_first_timestamp.get_or_insert(now.0);
                base_offset.get_or_insert(placed.header.base_offset);
                last_offset = placed.header.last_offset();
                if mutants::OFFSET_GIVEN_TWICE.is_on() && placed.header.base_offset.0 % 97 == 96 {
                    live.state.next_offset = placed.header.base_offset;
                }
            }
            group.wants_flush |= flush;
            entry.finish(self, leader_epoch, live.state.next_offset, group);
        });
        live.last_sequence = sequence;
        live.touched = true;
        if let (true, Some(rolled)) = (roll, live.segments.range(..live.state.segment_base).next_back()) {
            rolled.1.rolled_in.set(sequence);
        }
        if flush {
            live.last_flushing_sequence = sequence;
            live.unflushed_messages = 0;
            live.flush_deadline = None;
        } else if let (Some(limit), None) = (flush_ms, live.flush_deadline) {
            let deadline = self.shard.io.now() + limit;
            live.flush_deadline = Some(deadline);
            self.shard.flush_by(deadline, &self.core, &mut live);
        }
        let (log_start_offset, flushed_with) = (live.state.log_start_offset, live.last_flushing_sequence);
        drop(live);
        drop(turn);
        Appended {
            base_offset: base_offset.unwrap_or(last_offset),
            last_offset,
            log_append_time,
            log_start_offset,
            is_duplicate: false,
            shard: Rc::clone(&self.shard),
            sequence,
            ack: if flush { Mark::Durable } else { Mark::Written },
            flushed_with,
        }
    }

    fn roll(&self, live: &mut super::Live, group: &mut Group) {
        let next_base = live.state.next_offset;
        let change = Change::Roll {
            segment_base: live.state.segment_base,
            size_bytes: live.state.position_bytes,
            next_base,
        };
        group.push(Entry { id: self.core.id, change }, Effect::none(Rc::clone(&self.core)));
        self.shard.note_roll(&self.core, live.state.segment_base, &live.state);
        live.state.roll(next_base);
        let segment = live.next_segment.take().expect("its space was reserved");
        debug_assert_eq!(
            segment.base_offset, next_base,
            "the segment that was reserved is the one that begins"
        );
        live.segments.insert(next_base, segment);
        live.end_block = EndBlock::Known(Vec::new());
        live.repeat_end_block = false;
    }
}

impl super::Live {
    /// Keeps the start of the block that the next byte goes to, after `head` and `rest` (as they go to disk) went to the
    /// end and the position was moved past them.
    fn note_end(&mut self, head: &[u8], rest: &[u8]) {
        let keep = usize::try_from(self.state.position_bytes % IO_ALIGNMENT as u64).expect("below a block");
        let EndBlock::Known(block) = &mut self.end_block else {
            unreachable!("the end block is known before anything is accepted");
        };
        if rest.len() >= keep {
            block.clear();
            block.extend_from_slice(&rest[rest.len() - keep..]);
        } else {
            block.extend_from_slice(head);
            block.extend_from_slice(rest);
            block.drain(..block.len() - keep);
        }
        self.repeat_end_block = false;
    }
}

fn validate(bytes: &Bytes, origin: Origin) -> Result<Incomings, AppendError> {
    let mut incoming = Incomings::new();
    let mut start = 0;
    while start < bytes.len() {
        let (header, summary) = match origin {
            Origin::Client => batch::validate(&bytes[start..])?,
            Origin::Replication | Origin::Coordinator => {
                let header = batch::verify(&bytes[start..])?;
                let max_timestamp = header.max_timestamp.0;
                (header, RecordsSummary { max_timestamp, ..RecordsSummary::default() })
            }
        };
        if origin == Origin::Client {
            check_client_batch(&header)?;
        }
        incoming.push(Incoming { header, summary, start });
        start += header.size_bytes;
    }
    if incoming.is_empty() {
        return Err(AppendError::InvalidRecord("no batch"));
    }
    Ok(incoming)
}

/// Compresses anew what came with another codec than the topic's, which is all that changes.
fn recompress(
    batches: Bytes,
    mut incoming: Incomings,
    stored: StoredCompression,
) -> Result<(Bytes, Incomings), AppendError> {
    if incoming.iter().all(|batch| batch.header.compression() == Ok(stored.codec)) {
        return Ok((batches, incoming));
    }
    let mut out = Vec::with_capacity(batches.len());
    for batch in &mut incoming {
        let bytes = &batches[batch.start..batch.start + batch.header.size_bytes];
        batch.start = out.len();
        if batch.header.compression()? == stored.codec {
            out.extend_from_slice(bytes);
            continue;
        }
        let changed = batch::rewrite::recompressed(&batch.header, bytes, stored.codec, stored.level)?;
        batch.header = BatchHeader::parse(&changed)?;
        out.extend_from_slice(&changed);
    }
    Ok((out.into(), incoming))
}

/// What has no key cannot be compacted.
fn check_keys(incoming: &[Incoming], config: &LogConfig, origin: Origin) -> Result<(), AppendError> {
    let lacks_key = incoming.iter().any(|batch| batch.summary.has_missing_key);
    if origin == Origin::Client && config.compact_enabled && lacks_key {
        return Err(AppendError::InvalidRecord("a compacted topic cannot accept a message without a key"));
    }
    Ok(())
}

fn check_client_batch(header: &BatchHeader) -> Result<(), AppendError> {
    if header.is_control() {
        return Err(AppendError::InvalidRecord("a client may not write control records"));
    }
    if header.base_offset.0 != 0 {
        // As Kafka: the base offset of a client's batch counts from zero.
        return Err(AppendError::InvalidRecord("the base offset is not zero"));
    }
    if header.has_delete_horizon() {
        return Err(AppendError::InvalidRecord("a client may not set the delete horizon"));
    }
    if header.is_log_append_time() {
        return Err(AppendError::InvalidTimestampType);
    }
    if header.is_idempotent() && header.base_sequence.0 < 0 {
        return Err(AppendError::InvalidRecord("an idempotent producer without a sequence"));
    }
    Ok(())
}

/// A number that differs from segment to segment, and not from start to start.
fn segment_jitter(state: &super::state::PartitionState) -> u64 {
    let mut seed = Vec::with_capacity(28);
    crate::journal::format::put_topic_partition(&mut seed, &state.id);
    seed.extend_from_slice(&state.segment_base.0.to_be_bytes());
    twox_hash::XxHash3_64::oneshot(&seed)
}

//! Compaction: of each key only the last record stays (`cleanup.policy=compact`). Kafka's `LogCleaner`.
//!
//! ```text
//!   log start          first dirty                 uncleanable
//!       │ clean part        │ dirty part               │ what no pass may touch yet
//!       └──────── cleaned against the ────────┴── scanned: last offset of every key
//! ```
//!
//! A pass scans the dirty part as far as the memory for keys goes, writes everything below that end anew, small
//! neighbours together, and puts each new segment in the place of the old ones ([`swap`]). Which records stay is decided in
//! [`filter`].
//!
//! Invariants:
//!
//! * A segment is touched only when no journal entry that a start could replay names it: its roll lies at or below the line
//!   of *both* checkpoints, as a start takes the older one where the newer is damaged.
//! * Segments are replaced in the order of the log, each durably before the next: a tombstone does not go before what it
//!   covers.
//! * Offsets, sequences and epochs do not change; what is written anew was read with its checksum looked at.
//! * Between two pieces of work others have their turn; memory is bounded by `log.cleaner.dedupe.buffer.size` and one batch.
//!
//! Deliberately absent: truncation below what was compacted is for the caller to rule out, as Kafka's high watermark does.

mod filter;
mod map;
pub(crate) mod swap;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use highwater_io::{FileError, MonoTime};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use highwater_model::{Offset, Timestamp, TopicPartition};

use crate::config::LogConfig;
use crate::error::{LogError, ReadError};
use crate::mutants;
use crate::partition::PartitionCore;
use crate::partition::segment::{OffsetRange, Segment};
use crate::shard::{ShardCore, ShardLogs};

use filter::{Filter, Kept, LastOffsets, Retention, Scan, Scanned};
use map::OffsetMap;
use swap::{CleanedWriter, Swapped};

/// Bytes that are read at a time; a larger batch is read whole.
const READ_BYTES: u64 = 256 << 10;

/// After so many bytes others have their turn.
const TURN_BYTES: u64 = 64 << 10;

/// A pause is no longer than this, so that a close or a deletion is noticed.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What was not read or written in this time is not made up for.
const MOST_AHEAD: Duration = Duration::from_secs(1);

/// Kafka's file of the offsets up to which logs are clean; ours is one a partition, in its directory.
/// Up to where a partition's log was compacted: a hint.
pub(crate) const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";
const CLEANER_CHECKPOINT_BYTES: usize = 4096;

/// Where the compaction of a partition stands.
#[derive(Debug, Default)]
pub(crate) struct Cleaning {
    /// The first offset that no pass has scanned; `None` until it was looked up on disk.
    first_dirty: Cell<Option<Offset>>,
    /// Why no further pass is tried, if one met damage.
    given_up: RefCell<Option<String>>,
    /// Where the log's closed segments ended when there was nothing to gain: the first transaction was open still.
    fruitless_end: Cell<Offset>,
}

/// Why a pass ended before its end.
#[derive(Debug)]
enum Stop {
    /// The log was cut, closed or deleted.
    Stale,
    /// Of a lack of space or descriptors, or because storage failed.
    Log(LogError),
    /// What was read is damaged, or cannot be read.
    Damage(String),
    /// The first transaction of the dirty part is open still.
    Fruitless,
}

/// A pass that came to nothing for want of something, or because storage failed.
struct Failed {
    /// Whose; `None` if no partition is to blame.
    partition: Option<TopicPartition>,
    error: LogError,
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Failed { partition: None, error }
    }
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Closed => Stop::Stale,
            error => Stop::Log(error),
        }
    }
}

/// How far a plan looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Over every segment that is not appended to any more: a checkpoint may be wanted first.
    Rolled,
    /// Over those that may be touched.
    Passed,
}

/// What a pass would do.
struct Plan {
    /// Closed segments up to the first that must not be touched yet.
    segments: Vec<Rc<Segment>>,
    /// Exclusive end of the last of them.
    end: Offset,
    first_dirty: Offset,
    /// Bytes of the dirty part.
    dirty_bytes: u64,
    total_bytes: u64,
    /// Whether a checkpoint has to pass some of them first.
    waits_for_checkpoint: bool,
    /// Whether `max.compaction.lag.ms` asks for a pass, however little is dirty.
    is_overdue: bool,
}

impl Plan {
    fn is_due(&self, config: &LogConfig) -> bool {
        let dirty_ppm = self.dirty_bytes.saturating_mul(1_000_000) / self.total_bytes.max(1);
        self.dirty_bytes > 0 && (self.is_overdue || dirty_ppm > u64::from(config.min_cleanable_dirty_ppm))
    }

    /// For the choice of the dirtiest.
    fn dirty_share(&self) -> u64 {
        self.dirty_bytes.saturating_mul(1_000_000) / self.total_bytes.max(1)
    }
}

/// Bounds the bytes that compaction reads and writes in a second, and gives others their turn.
struct Pace<'a> {
    shard: &'a ShardCore,
    core: &'a PartitionCore,
    budget: Budget,
    since_turn: u64,
}

/// Bytes held against the time since a pass began. Time that passes without any is given up after a while: a pass that stood still
/// does not make up for it beside everybody else.
struct Budget {
    began_at: MonoTime,
    bytes: u64,
}

impl Budget {
    /// How long to wait before more, at this many bytes a second.
    fn pause(&mut self, rate: u64, now: MonoTime) -> Duration {
        let micros = u128::from(self.bytes) * 1_000_000 / u128::from(rate.max(1));
        let due = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let since = now.since(self.began_at);
        if since > due + MOST_AHEAD {
            self.began_at = self.began_at + (since - due - MOST_AHEAD);
        }
        due.saturating_sub(now.since(self.began_at))
    }
}

impl<'a> Pace<'a> {
    fn new(shard: &'a ShardCore, core: &'a PartitionCore) -> Self {
        Pace { shard, core, budget: Budget { began_at: shard.io.now(), bytes: 0 }, since_turn: 0 }
    }

    /// Counts bytes, and waits where there were too many.
    ///
    /// # Errors
    /// [`Stop::Stale`] when the log is closed or deleted.
    async fn spend(&mut self, bytes: u64) -> Result<(), Stop> {
        self.budget.bytes += bytes;
        self.since_turn += bytes;
        if self.since_turn < TURN_BYTES {
            return Ok(());
        }
        self.since_turn = 0;
        self.shard.io.yield_now().await;
        loop {
            if self.shard.is_closing() || self.core.live.borrow().closed {
                return Err(Stop::Stale);
            }
            let pause = self.pause();
            if pause.is_zero() {
                return Ok(());
            }
            self.shard.io.sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    fn pause(&mut self) -> Duration {
        let Some(rate) = self.shard.config.cleaner_io_max_bytes_per_second else { return Duration::ZERO };
        self.budget.pause(rate, self.shard.io.now())
    }
}

impl ShardLogs {
    /// Compacts now every partition whose settings ask for it and that is dirty enough.
    ///
    /// # Errors
    /// [`LogError`] of the first partition that failed. One that lacks space keeps none of the others from its turn, unless it is a
    /// checkpoint that lacks it.
    pub async fn compact(&self) -> Result<(), LogError> {
        let core = Rc::clone(&self.core);
        self.core.to_the_end(async move { core.compact_all_due().await }).await
    }
}

impl ShardCore {
    pub(crate) async fn compaction_loop(self: Rc<Self>) {
        loop {
            let closing = self.wait_for_close();
            if self.io.timeout(self.config.cleaner_backoff, closing).await.is_ok() {
                return;
            }
            if let Err(error) = self.compact_all_due().await {
                if self.journal.progress().failure().is_some() {
                    return;
                }
                self.tell_shortage(&error);
            }
        }
    }

    /// Compacts every partition that is due, the dirtiest first. One that lacks something is left for the next time: what it
    /// lacks others may make room for.
    async fn compact_all_due(self: &Rc<Self>) -> Result<(), LogError> {
        let (mut passed_over, mut first_error) = (Vec::new(), None);
        loop {
            match self.compact_dirtiest(&passed_over).await {
                Ok(true) => {}
                Ok(false) => return first_error.map_or(Ok(()), Err),
                Err(Failed { partition: Some(partition), error }) => {
                    passed_over.push(partition);
                    first_error.get_or_insert(error);
                }
                Err(Failed { partition: None, error }) => return Err(error),
            }
        }
    }

    /// Makes a pass over the partition that is dirtiest, of those that are due and not passed over; whether there was one.
    async fn compact_dirtiest(self: &Rc<Self>, passed_over: &[TopicPartition]) -> Result<bool, Failed> {
        let _turn = self.compaction_turn.acquire(1).await;
        if let Some(failure) = self.journal.progress().failure() {
            return Err(LogError::from(failure).into());
        }
        let mut dirtiest: Option<(Rc<PartitionCore>, Plan)> = None;
        for core in self.all_partitions() {
            let config = Rc::clone(&core.config.borrow());
            let is_out = !config.compact_enabled || passed_over.contains(&core.id);
            if is_out || self.is_closing() || !core.may_be_compacted() {
                continue;
            }
            if let Some(plan) = self.plan(&core, Reach::Rolled).await
                && plan.is_due(&config)
                && plan.end > core.cleaning.fruitless_end.get()
                && dirtiest.as_ref().is_none_or(|(_, best)| plan.dirty_share() > best.dirty_share())
            {
                dirtiest = Some((core, plan));
            }
            self.io.yield_now().await;
        }
        let Some((core, plan)) = dirtiest else { return Ok(false) };
        if plan.waits_for_checkpoint && !self.is_closing() {
            // Twice: the line of the older one counts.
            self.checkpoint().await?;
            self.checkpoint().await?;
        }
        let rolled_end = plan.end;
        let _cleaning_turn = core.cleaning_turn.acquire(1).await;
        // Whoever closes the log or deletes it says so, and then waits for this turn once: after that, no file is touched.
        if self.is_closing() || !core.may_be_compacted() {
            return Ok(false);
        }
        let plan = self.plan(&core, Reach::Passed).await.filter(|plan| plan.dirty_bytes > 0);
        let Some(plan) = plan else { return Ok(false) };
        match self.pass(&core, plan).await {
            Ok(()) => Ok(true),
            Err(Stop::Stale) => Ok(false),
            Err(Stop::Fruitless) => {
                core.cleaning.fruitless_end.set(rolled_end);
                Ok(true)
            }
            Err(Stop::Log(error)) => Err(Failed { partition: Some(core.id), error }),
            Err(Stop::Damage(what)) => {
                tracing::error!(
                    topic = %core.topic_name, partition = %core.id.partition,
                    "not compacted until the next start: {what}"
                );
                core.cleaning.given_up.replace(Some(what));
                Ok(true)
            }
        }
    }

    /// What there is to do; `None` if nothing can be told.
    async fn plan(&self, core: &Rc<PartitionCore>, reach: Reach) -> Option<Plan> {
        let config = Rc::clone(&core.config.borrow());
        let stored = self.first_dirty(core).await;
        let (candidates, active_base) = {
            let live = core.live.borrow();
            let closed = live.segments.range(..live.state.segment_base);
            (closed.map(|(_, segment)| Rc::clone(segment)).collect::<Vec<_>>(), live.state.segment_base)
        };
        let log_start = candidates.first()?.base_offset;
        let first_dirty = if (log_start..=active_base).contains(&stored) { stored } else { log_start };
        let now = self.io.wall_time().as_millis();
        let lies = mutants::COMPACT_NAMED_SEGMENT.is_on();
        let passed = if lies { u64::MAX } else { self.passed_by_both_checkpoints() };
        let mut plan = Plan {
            segments: Vec::new(),
            end: log_start,
            first_dirty,
            dirty_bytes: 0,
            total_bytes: 0,
            waits_for_checkpoint: false,
            is_overdue: false,
        };
        for (index, segment) in candidates.iter().enumerate() {
            let end = candidates.get(index + 1).map_or(active_base, |next| next.base_offset);
            let is_dirty = end > first_dirty;
            if is_dirty && self.lags(core, segment, &config, now).await? {
                break;
            }
            if !segment.is_closed() || segment.rolled_in.get() > passed {
                if reach == Reach::Passed || lies {
                    break;
                }
                plan.waits_for_checkpoint = true;
            }
            plan.total_bytes += segment.size_bytes();
            if is_dirty {
                plan.dirty_bytes += segment.size_bytes();
                plan.is_overdue |= self.is_overdue(segment, &config, now).await?;
            }
            plan.end = end;
            plan.segments.push(Rc::clone(segment));
        }
        (!plan.segments.is_empty()).then_some(plan)
    }

    /// Whether `min.compaction.lag.ms` protects a segment: its newest record is too young.
    async fn lags(
        &self,
        core: &Rc<PartitionCore>,
        segment: &Rc<Segment>,
        config: &LogConfig,
        now: i64,
    ) -> Option<bool> {
        if config.min_compaction_lag.is_zero() {
            return Some(false);
        }
        let limit = now.saturating_sub(millis(config.min_compaction_lag));
        if !segment.is_closed() {
            return Some(newest_of_appended(segment).is_none_or(|newest| newest.0 > limit));
        }
        let (size_bytes, bound) = (segment.size_bytes(), core.offsets_of(segment).bound);
        let interval = config.index_interval_bytes;
        segment.extend_index(&self.io, self.direct, size_bytes, bound, interval).await.ok()?;
        let newest = segment.index.borrow().max_time();
        Some(newest.is_some_and(|newest| newest.timestamp.0 > limit))
    }

    /// Whether `max.compaction.lag.ms` has passed since a segment's first record.
    async fn is_overdue(&self, segment: &Rc<Segment>, config: &LogConfig, now: i64) -> Option<bool> {
        let Some(limit) = config.max_compaction_lag else { return Some(false) };
        let limit = now.saturating_sub(millis(limit));
        if !segment.is_closed() {
            return Some(newest_of_appended(segment).is_some_and(|newest| newest.0 < limit));
        }
        if segment.size_bytes() < BATCH_HEADER_BYTES as u64 {
            return Some(false);
        }
        let head = segment.read(&self.io, self.direct, 0, BATCH_HEADER_BYTES as u64).await.ok()?;
        let first = BatchHeader::parse(&head).ok()?.max_timestamp;
        Some(first.0 > 0 && first.0 < limit)
    }

    async fn pass(&self, core: &Rc<PartitionCore>, plan: Plan) -> Result<(), Stop> {
        let config = Rc::clone(&core.config.borrow());
        let cuts = core.cuts.get();
        let mut pace = Pace::new(self, core);
        let scan = self.scan(core, &plan, &mut pace).await?;
        let end = scan.end();
        if end <= plan.first_dirty {
            return Err(Stop::Fruitless);
        }
        let retention = Retention {
            now: Timestamp(self.io.wall_time().as_millis()),
            delete_retention_ms: millis(config.delete_retention),
        };
        let mut filter = scan.into_filter(retention, core.last_offsets());
        let segments: Vec<Rc<Segment>> =
            plan.segments.iter().filter(|segment| segment.base_offset < end).cloned().collect();
        let pass_end = plan.segments.get(segments.len()).map_or(plan.end, |next| next.base_offset);
        let mut before = 0;
        let mut after = 0;
        let groups = group(&segments, pass_end, &config);
        let last_group = groups.len() - 1;
        for (index, Group { segments, end }) in groups.into_iter().enumerate() {
            before += segments.iter().map(|segment| segment.size_bytes()).sum::<u64>();
            let job = Job { segments: &segments, end, is_last: index == last_group, cuts };
            after += self.clean(core, job, &mut filter, &mut pace).await?;
        }
        let first_dirty = filter.end();
        tracing::info!(
            topic = %core.topic_name, partition = %core.id.partition, %first_dirty, before, after, "compacted"
        );
        self.note_first_dirty(core, first_dirty, cuts).await
    }

    async fn scan(&self, core: &Rc<PartitionCore>, plan: &Plan, pace: &mut Pace<'_>) -> Result<Scan, Stop> {
        let seeds = [self.io.hash_state(), self.io.hash_state()];
        let offsets = usize::try_from(plan.end.0 - plan.first_dirty.0).unwrap_or(usize::MAX);
        let map = OffsetMap::new(seeds, self.config.cleaner_dedupe_buffer_bytes, offsets);
        let mut scan = Scan::new(map, plan.first_dirty);
        for (index, segment) in plan.segments.iter().enumerate() {
            let end = plan.segments.get(index + 1).map_or(plan.end, |next| next.base_offset);
            if end <= plan.first_dirty {
                continue;
            }
            let mut batches = self.batches(core, segment, end);
            while let Some((position, header, bytes)) = batches.next(self, pace).await? {
                if header.last_offset() < plan.first_dirty {
                    continue;
                }
                let scanned = scan.add(&header, &bytes);
                match scanned.map_err(|error| damage(&segment.bad_batch(position, &error)))? {
                    Scanned::Yes => {}
                    Scanned::Full => return Ok(scan),
                }
            }
            // Offsets up to the next segment's are gone, if the segment does not have them.
            scan.reach(end);
        }
        Ok(scan)
    }

    fn batches(&self, core: &PartitionCore, segment: &Rc<Segment>, bound: Offset) -> Batches {
        Batches {
            segment: Rc::clone(segment),
            offsets: OffsetRange { floor: segment.base_offset, bound },
            position_bytes: 0,
            window: bytes::Bytes::new(),
            window_start: 0,
            cuts: core.cuts.get(),
        }
    }

    /// Writes what is left of some neighbours into one segment, and puts it in their place; its size in bytes.
    async fn clean(
        &self,
        core: &Rc<PartitionCore>,
        job: Job<'_>,
        filter: &mut Filter,
        pace: &mut Pace<'_>,
    ) -> Result<u64, Stop> {
        let mut writer = CleanedWriter::create(self, core, job.segments[0].base_offset)
            .await
            .map_err(|error| self.refusal(core, &error))?;
        let written = self.write_cleaned(core, &job, filter, &mut writer, pace).await;
        let is_changed = match written {
            Ok(is_changed) => is_changed,
            Err(stop) => {
                writer.discard(self).await;
                return Err(stop);
            }
        };
        let size_bytes = writer.size_bytes();
        if !is_changed && job.segments.len() == 1 {
            writer.discard(self).await;
            return Ok(size_bytes);
        }
        let cleaned = writer.finish(self).await.map_err(|error| self.refusal(core, &error))?;
        match self.swap(core, job.segments, job.end, cleaned, job.cuts).await? {
            Swapped::Yes => Ok(size_bytes),
            Swapped::Stale => Err(Stop::Stale),
        }
    }

    /// Whether anything is other than it was.
    async fn write_cleaned(
        &self,
        core: &Rc<PartitionCore>,
        job: &Job<'_>,
        filter: &mut Filter,
        writer: &mut CleanedWriter,
        pace: &mut Pace<'_>,
    ) -> Result<bool, Stop> {
        let mut is_changed = false;
        for (index, segment) in job.segments.iter().enumerate() {
            let next = job.segments.get(index + 1);
            let end = next.map_or(job.end, |next| next.base_offset);
            let mut batches = self.batches(core, segment, end);
            while let Some((position, header, bytes)) = batches.next(self, pace).await? {
                let is_last = job.is_last && next.is_none() && batches.is_at_end();
                let kept = filter.next(&header, &bytes, is_last);
                let kept = kept.map_err(|error| damage(&segment.bad_batch(position, &error)))?;
                let out: &[u8] = match &kept {
                    Kept::Whole => &bytes,
                    Kept::Changed(changed) => changed,
                    Kept::Nothing => &[],
                };
                is_changed |= kept != Kept::Whole;
                if !out.is_empty() {
                    writer.push(out).await.map_err(|error| self.refusal(core, &error))?;
                    pace.spend(out.len() as u64).await?;
                }
            }
        }
        Ok(is_changed)
    }

    /// What an error while the new segment is written means: of a partition that is being deleted, nothing.
    fn refusal(&self, core: &PartitionCore, error: &FileError) -> Stop {
        if core.live.borrow().closed && error.is_not_found() {
            return Stop::Stale;
        }
        Stop::Log(self.fence(error))
    }

    /// The first offset that no pass has scanned, as the last pass left it.
    async fn first_dirty(&self, core: &PartitionCore) -> Offset {
        if let Some(known) = core.cleaning.first_dirty.get() {
            return known;
        }
        let cuts = core.cuts.get();
        let path = core.dir.join(CLEANER_CHECKPOINT);
        let bytes = self.io.fs().read_file(path, CLEANER_CHECKPOINT_BYTES).await.unwrap_or_default();
        // It is a hint: with none, everything is looked at again.
        let stored = std::str::from_utf8(&bytes).ok().and_then(parse_first_dirty).unwrap_or_default();
        let stored = if core.cuts.get() == cuts { stored } else { Offset(0) };
        core.cleaning.first_dirty.set(Some(stored));
        stored
    }

    async fn note_first_dirty(
        &self,
        core: &PartitionCore,
        first_dirty: Offset,
        cuts: u64,
    ) -> Result<(), Stop> {
        let _files_turn = core.files_turn.acquire(1).await;
        if core.cuts.get() != cuts || core.live.borrow().closed {
            return Err(Stop::Stale);
        }
        core.cleaning.first_dirty.set(Some(first_dirty));
        let content = format!("0\n1\n{} {} {first_dirty}\n", core.topic_name, core.id.partition);
        let path = core.dir.join(CLEANER_CHECKPOINT);
        let noted = self.io.fs().replace_file_durable(path, content.into()).await;
        noted.map_err(|error| Stop::Log(self.fence(&error)))
    }

    /// The log is about to be cut: what lies behind the cut is dirty when it is written again. The caller has the turn of
    /// the files, and flushes the directory.
    pub(crate) async fn forget_first_dirty(&self, core: &PartitionCore) -> Result<(), LogError> {
        core.cuts.set(core.cuts.get() + 1);
        core.cleaning.first_dirty.set(Some(Offset(0)));
        match self.io.fs().remove_file(core.dir.join(CLEANER_CHECKPOINT)).await {
            Err(error) if !error.is_not_found() => Err(self.fence(&error)),
            _ => Ok(()),
        }
    }
}

impl PartitionCore {
    fn may_be_compacted(&self) -> bool {
        self.check_writable().is_ok() && self.cleaning.given_up.borrow().is_none()
    }

    fn last_offsets(&self) -> LastOffsets {
        let live = self.live.borrow();
        let producers = live.state.producers.iter();
        producers.filter_map(|(id, state)| Some((*id, state.batches.back()?.last_offset))).collect()
    }
}

fn parse_first_dirty(text: &str) -> Option<Offset> {
    let mut lines = text.lines();
    if lines.next()? != "0" || lines.next()? != "1" {
        return None;
    }
    lines.next()?.rsplit_once(' ')?.1.parse().ok().map(Offset)
}

/// The newest timestamp of a segment that is not complete on disk yet, if this process appended all of it.
fn newest_of_appended(segment: &Segment) -> Option<Timestamp> {
    let index = segment.index.borrow();
    let knows_all = index.covered_bytes() == segment.size_bytes();
    index.max_time().filter(|_| knows_all).map(|newest| newest.timestamp)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn damage(error: &ReadError) -> Stop {
    match error {
        ReadError::Log(error) => Stop::Log(error.clone()),
        error => Stop::Damage(error.to_string()),
    }
}

/// Segments that become one.
struct Group {
    segments: Vec<Rc<Segment>>,
    /// Exclusive end.
    end: Offset,
}

/// What is to be made of a group.
struct Job<'a> {
    segments: &'a [Rc<Segment>],
    end: Offset,
    is_last: bool,
    cuts: u64,
}

/// Neighbours together, as long as they fit into one segment even where nothing goes. `end` is that of the last.
fn group(segments: &[Rc<Segment>], end: Offset, config: &LogConfig) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut size_bytes = 0;
    for (index, segment) in segments.iter().enumerate() {
        let end = segments.get(index + 1).map_or(end, |next| next.base_offset);
        let fits = |first: &Segment| {
            // Index entries have 32 bits for offsets and positions.
            size_bytes + segment.size_bytes() <= config.segment_bytes.min(i32::MAX as u64)
                && end.0 - first.base_offset.0 <= i64::from(i32::MAX)
        };
        match groups.last_mut() {
            Some(group) if fits(&group.segments[0]) => {
                size_bytes += segment.size_bytes();
                group.segments.push(Rc::clone(segment));
                group.end = end;
            }
            _ => {
                size_bytes = segment.size_bytes();
                groups.push(Group { segments: vec![Rc::clone(segment)], end });
            }
        }
    }
    groups
}

/// Reads a segment batch by batch, each with its checksum.
struct Batches {
    segment: Rc<Segment>,
    offsets: OffsetRange,
    position_bytes: u64,
    window: bytes::Bytes,
    window_start: u64,
    cuts: u64,
}

impl Batches {
    fn is_at_end(&self) -> bool {
        self.position_bytes >= self.segment.size_bytes()
    }

    /// The next batch: where it begins, its header, its bytes.
    async fn next(
        &mut self,
        shard: &ShardCore,
        pace: &mut Pace<'_>,
    ) -> Result<Option<(u64, BatchHeader, bytes::Bytes)>, Stop> {
        let end_bytes = self.segment.size_bytes();
        let position = self.position_bytes;
        if position >= end_bytes {
            return Ok(None);
        }
        let mut need = BATCH_HEADER_BYTES as u64;
        loop {
            let window_end = self.window_start + self.window.len() as u64;
            if position < self.window_start || position + need > window_end {
                let end = (position + need.max(READ_BYTES)).min(end_bytes);
                if position + need > end_bytes {
                    return self.stop_at(position, "a batch goes beyond the segment's end", pace);
                }
                let read = self.segment.read(&shard.io, shard.direct, position, end).await;
                self.window = match read {
                    Ok(window) => window,
                    Err(_) if self.is_stale(pace) => return Err(Stop::Stale),
                    Err(error) => return Err(damage(&error)),
                };
                self.window_start = position;
                pace.spend(end - position).await?;
            }
            let at = usize::try_from(position - self.window_start).expect("inside the window");
            let rest = self.window.slice(at..);
            let header = match BatchHeader::parse(&rest) {
                Ok(header) => header,
                Err(error) => return self.stop_at(position, &error.to_string(), pace),
            };
            if header.size_bytes > rest.len() {
                need = header.size_bytes as u64;
                continue;
            }
            let batch = rest.slice(..header.size_bytes);
            if let Err(error) = batch::verify(&batch) {
                return self.stop_at(position, &error.to_string(), pace);
            }
            if !self.offsets.admit(&header) {
                return self.stop_at(position, "the batch's offsets do not follow the batch before", pace);
            }
            self.position_bytes = position + header.size_bytes as u64;
            return Ok(Some((position, header, batch)));
        }
    }

    /// Whether the segment may be another one by now.
    fn is_stale(&self, pace: &Pace<'_>) -> bool {
        pace.core.cuts.get() != self.cuts || self.segment.is_removed() || pace.core.live.borrow().closed
    }

    fn stop_at<T>(&self, position_bytes: u64, what: &str, pace: &Pace<'_>) -> Result<Option<T>, Stop> {
        if self.is_stale(pace) {
            return Err(Stop::Stale);
        }
        Err(damage(&self.segment.corrupt(position_bytes, what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_that_stood_still_does_not_make_up_for_it() {
        const RATE: u64 = 1_000_000;
        let begin = MonoTime::default();
        let mut budget = Budget { began_at: begin, bytes: RATE };
        assert_eq!(budget.pause(RATE, begin), Duration::from_secs(1));
        let later = begin + Duration::from_secs(61);
        assert_eq!(budget.pause(RATE, later), Duration::ZERO);
        budget.bytes += 3 * RATE;
        assert_eq!(budget.pause(RATE, later), Duration::from_secs(2));
    }

    #[test]
    fn clean_offset_is_read_back_and_nonsense_is_none() {
        assert_eq!(parse_first_dirty("0\n1\na topic 3 77\n"), Some(Offset(77)));
        for text in ["", "1\n1\nt 0 5\n", "0\n0\n", "0\n1\n", "0\n1\nt 0 x\n"] {
            assert_eq!(parse_first_dirty(text), None, "{text:?}");
        }
    }
}

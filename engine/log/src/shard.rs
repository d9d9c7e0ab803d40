//! The logs of one shard: its partitions, its journal, and the tasks that keep house.
//!
//! | task | woken by | does |
//! |---|---|---|
//! | journal's write loop | appends | one group after the other |
//! | write-behind (several) | a chunk's worth of durable bytes | chunks into segments |
//! | checkpointer | journal bytes, or appends short of files or memory | lets the journal be used again |
//! | flusher | `flush.ms` deadlines | asks the journal for a flush |
//! | retention | time | moves log starts up, expires producers |
//! | compaction | time | leaves the last record of each key ([`crate::compaction`]) |

mod checkpoint;
mod close;
mod lives;
mod retention;
mod to_the_end;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use highwater_io::sync::{Semaphore, Watch};
use highwater_io::{BufPool, IO_ALIGNMENT, Io, MonoTime};
use highwater_model::{Offset, Timestamp, TopicPartition};

use crate::config::{LogConfig, ShardConfig};
use crate::dir::{ShardSeed, TakenDirs};
use crate::drain::DrainQueue;
use crate::error::{LogError, OpenError, StorageFailure};
use crate::journal::progress::Mark;
use crate::journal::{Journal, JournalCounters};
use crate::kafka_files::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, encode_producer_snapshot, segment_path,
};
use crate::partition::open_files::{OpenFile, OpenFiles};
use crate::partition::read_bufs::ReadBufs;
use crate::partition::read_pace::ReadPace;
use crate::partition::segment::Segment;
use crate::partition::state::PartitionState;
use crate::partition::{Live, Partition, PartitionCore};

/// Bytes of slab in which the hot tail is kept, where it is large enough for several of them.
const SLAB_BYTES: usize = 1 << 20;
/// Slabs that a smaller hot tail is divided into, as long as they are not too small: a slab is free again only when nothing in
/// it is needed any more.
const LEAST_SLABS: usize = 16;
const LEAST_SLAB_BYTES: usize = 256 << 10;
/// A partition may remember so many producers, whatever all of them remember.
const FEWEST_PRODUCERS: usize = 16;
/// Space reserved for a segment at first, doubled each time up to the largest step.
const FIRST_RESERVE_BYTES: u64 = 64 << 10;
const LARGEST_RESERVE_STEP_BYTES: u64 = 16 << 20;

/// Segments that a checkpoint flushes at once, and new directories that are flushed at once. The file system and the device make
/// one flush of several that are asked for together, so that the journal's own waits for fewer.
const FLUSHES_IN_FLIGHT: usize = 64;

type SegmentKey = (TopicPartition, Offset);

/// Segments to be flushed, each with the description that it was written through.
type Dirty = BTreeMap<SegmentKey, (Rc<Segment>, Rc<OpenFile>)>;

/// Everything of a shard; shared by its tasks and handles.
pub(crate) struct ShardCore {
    pub(crate) io: Io,
    pub(crate) config: ShardConfig,
    /// Whether segments are read and written past the page cache.
    pub(crate) direct: bool,
    data_dir: PathBuf,
    journal_dir: PathBuf,
    generation: [u8; 16],
    pub(crate) journal: Rc<Journal>,
    pub(crate) hot_pool: BufPool,
    pub(crate) chunk_pool: BufPool,
    pub(crate) read_bufs: ReadBufs,
    pub(crate) read_pace: ReadPace,
    pub(crate) drain_queue: Rc<DrainQueue>,
    partitions: RefCell<BTreeMap<TopicPartition, Rc<PartitionCore>>>,
    /// Idempotent producers that are remembered. What cuts and deletions took counts until the next checkpoint or expiry.
    producers: Cell<usize>,
    told_producers: Cell<bool>,
    /// The directories of all shards' partitions, of which no two are the same.
    taken_dirs: TakenDirs,
    /// Producer snapshots as they were at rolls whose segments are not complete yet.
    rolled: RefCell<BTreeMap<SegmentKey, Vec<u8>>>,
    /// Segments written to since their last flush.
    dirty: RefCell<Dirty>,
    /// Directories with new names that no flush covers.
    new_names: RefCell<BTreeSet<TopicPartition>>,
    /// Those whose names somebody is making durable at this moment.
    naming: Watch<BTreeSet<TopicPartition>>,
    /// Held while segments are flushed: what is being flushed stands in no list meanwhile.
    flush_turn: Semaphore,
    pub(crate) open_files: Rc<OpenFiles>,
    flush_deadlines: RefCell<BTreeMap<MonoTime, Vec<Weak<PartitionCore>>>>,
    flush_deadlines_changed: Watch<u64>,
    checkpoint_number: Cell<u64>,
    /// When a lack of space or descriptors was last told.
    pub(crate) shortage_told_at: Cell<Option<MonoTime>>,
    checkpoint_turn: Semaphore,
    /// The lines of the last two checkpoints, the older one first.
    checkpoint_lines: Cell<[u64; 2]>,
    /// Partitions that were deleted, and the groups that say so, as long as a start may find those.
    deletions: RefCell<BTreeMap<TopicPartition, u64>>,
    /// Directories of deleted partitions, out of the way durably, whose files are still to be removed.
    doomed: RefCell<Vec<PathBuf>>,
    /// Held while compaction looks for work and does it: one log at a time.
    pub(crate) compaction_turn: Semaphore,
    /// Held while partitions are created, and for a moment by the close, which needs to know them all.
    create_turn: Semaphore,
    closing: Watch<bool>,
    /// How the close went, once it is over.
    closed: Watch<Option<Result<(), LogError>>>,
}

/// A partition that is to be created.
#[derive(Debug, Clone)]
pub struct NewPartition {
    /// Topic id and partition index.
    pub id: TopicPartition,
    /// Name of the topic.
    pub topic_name: Rc<str>,
    /// Settings.
    pub config: LogConfig,
}

/// The logs of one shard. Cheap to clone, bound to its shard.
///
/// Whatever changes the logs is done to its end once it has begun, even if the future is dropped.
#[derive(Clone)]
pub struct ShardLogs {
    pub(crate) core: Rc<ShardCore>,
}

impl std::fmt::Debug for ShardLogs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardLogs")
            .field("partitions", &self.core.partitions.borrow().len())
            .finish_non_exhaustive()
    }
}

impl ShardLogs {
    /// Takes over the partitions of `seed` and starts the shard's tasks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn start(io: &Io, seed: ShardSeed) -> Result<ShardLogs, OpenError> {
        let ShardSeed { data_dir, journal_dir, generation, config, default_log, partitions, taken_dirs } =
            seed;
        let slab_bytes = (config.hot_tail_bytes / LEAST_SLABS).clamp(LEAST_SLAB_BYTES, SLAB_BYTES);
        let slabs = (config.hot_tail_bytes / slab_bytes).max(LEAST_SLABS / 2);
        let hot_pool = BufPool::new(slab_bytes, slabs, slabs);
        let chunk_bytes = config.chunk_bytes.next_multiple_of(IO_ALIGNMENT);
        let chunks = config.chunks_in_flight.max(1);
        let journal = Journal::create(io, &journal_dir, generation, &config, hot_pool.clone()).await?;
        let alignment = io.fs().direct_io_alignment(&data_dir).await?;
        let core = Rc::new(ShardCore {
            io: io.clone(),
            direct: config.direct_io && alignment <= IO_ALIGNMENT,
            data_dir,
            journal_dir,
            generation,
            journal,
            hot_pool,
            chunk_pool: BufPool::new(chunk_bytes + 2 * IO_ALIGNMENT, chunks * 2, chunks * 2),
            read_bufs: ReadBufs::new(config.hot_tail_bytes),
            read_pace: ReadPace::new(io.now()),
            drain_queue: DrainQueue::new(chunk_bytes),
            partitions: RefCell::default(),
            producers: Cell::default(),
            told_producers: Cell::default(),
            taken_dirs,
            rolled: RefCell::default(),
            dirty: RefCell::default(),
            new_names: RefCell::default(),
            naming: Watch::new(BTreeSet::new()),
            flush_turn: Semaphore::new(1),
            open_files: OpenFiles::new(config.max_open_segments),
            flush_deadlines: RefCell::default(),
            flush_deadlines_changed: Watch::new(0),
            checkpoint_number: Cell::new(0),
            shortage_told_at: Cell::new(None),
            checkpoint_turn: Semaphore::new(1),
            checkpoint_lines: Cell::new([0; 2]),
            deletions: RefCell::default(),
            doomed: RefCell::default(),
            compaction_turn: Semaphore::new(1),
            create_turn: Semaphore::new(1),
            closing: Watch::new(false),
            closed: Watch::new(None),
            config,
        });
        for partition in partitions {
            core.adopt(partition, default_log.clone());
        }
        core.journal.start();
        for _ in 0..chunks {
            io.spawn(Rc::clone(&core).drain_loop()).detach();
        }
        io.spawn(Rc::clone(&core).checkpoint_loop()).detach();
        io.spawn(Rc::clone(&core).flush_loop()).detach();
        io.spawn(Rc::clone(&core).retention_loop()).detach();
        if core.config.cleaner_enabled {
            io.spawn(Rc::clone(&core).compaction_loop()).detach();
        }
        Ok(ShardLogs { core })
    }

    /// The partition, if this shard has it.
    #[must_use]
    pub fn partition(&self, id: &TopicPartition) -> Option<Partition> {
        let core = self.core.partitions.borrow().get(id).cloned()?;
        Some(Partition { core, shard: Rc::clone(&self.core) })
    }

    /// All partitions of this shard.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        let partitions = self.core.partitions.borrow();
        partitions
            .values()
            .map(|core| Partition { core: Rc::clone(core), shard: Rc::clone(&self.core) })
            .collect()
    }

    /// Creates a partition, durably: its directory, with the topic id in it, and the directory's name (rule 5). One that
    /// is there already is returned.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn create_partition(
        &self,
        id: TopicPartition,
        topic_name: &str,
        config: LogConfig,
    ) -> Result<Partition, LogError> {
        let new = NewPartition { id, topic_name: topic_name.into(), config };
        self.create_partitions(vec![new]).await.pop().unwrap_or(Err(LogError::Closed))
    }

    /// Creates many partitions as [`create_partition`](Self::create_partition) does each, in the order of `new`, with one
    /// flush of the directory that holds them all. None is there before that: a start may find some or all of them.
    ///
    /// An id that was deleted may be used again: checkpoints pass the deletion first. One whose deletion is asked for is waited
    /// for.
    pub async fn create_partitions(&self, new: Vec<NewPartition>) -> Vec<Result<Partition, LogError>> {
        let this = self.clone();
        self.core.to_the_end(async move { this.create_all(new).await }).await
    }

    /// Deletes a partition. Durable when this returns; a crash before it leaves the partition as it was.
    ///
    /// # Errors
    /// [`LogError`]. Where the deletion was only short of space or descriptors, it is finished when it is asked for again or
    /// when a partition is to be created under its name, and otherwise by the next checkpoint. Where only the removal of its
    /// files was, that is no error, and made up for at the next deletion or checkpoint.
    pub async fn delete_partition(&self, id: &TopicPartition) -> Result<(), LogError> {
        let Some(partition) = self.partition(id) else { return Ok(()) };
        self.core.to_the_end(partition.delete()).await
    }

    /// Stops cleanly: everything accepted is in segments, trimmed and flushed, Kafka's files are beside them, and the
    /// journal is empty. Appends and reads end with [`LogError::Closed`].
    ///
    /// # Errors
    /// [`LogError`]: the directory is then unclean, and the next start recovers it.
    pub async fn close(&self) -> Result<(), LogError> {
        self.core.close().await
    }

    /// The failure that stopped this shard's storage, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<StorageFailure> {
        self.core.journal.progress().failure()
    }

    /// Resolves when this shard's storage fails; never once it is being closed.
    pub async fn failed(&self) -> StorageFailure {
        let failure = self.core.journal.progress().wait_for_failure().await;
        if self.core.closing.get() {
            std::future::pending::<()>().await;
        }
        failure
    }

    /// Latches a failure that another shard has met in the same log directory: nothing more completes here (rule 7).
    pub fn fail(&self, failure: StorageFailure) {
        self.core.journal.fail(failure);
    }

    /// Descriptors of segments that are open at the moment.
    #[must_use]
    pub fn open_segments(&self) -> usize {
        self.core.open_files.count()
    }

    /// What the journal has done so far.
    #[must_use]
    pub fn journal_counters(&self) -> JournalCounters {
        self.core.journal.counters()
    }

    /// Makes a checkpoint now: the journal so far is not needed any more.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn checkpoint(&self) -> Result<(), LogError> {
        let core = Rc::clone(&self.core);
        self.core.to_the_end(async move { core.checkpoint().await }).await
    }

    /// Applies retention to every partition now.
    ///
    /// # Errors
    /// [`LogError`] of the first partition that failed. It keeps none of the others from theirs.
    pub async fn apply_retention(&self) -> Result<(), LogError> {
        let mut outcome = Ok(());
        for partition in self.partitions() {
            outcome = outcome.and(partition.apply_retention().await);
        }
        outcome
    }
}

impl ShardCore {
    /// How many producers a log that remembers `known` may remember.
    pub(crate) fn most_producers(&self, known: usize) -> usize {
        let most = self.config.max_producers_per_partition;
        if self.producers.get() < self.config.max_producers {
            return most;
        }
        if !self.told_producers.replace(true) {
            tracing::warn!(
                "{} idempotent producers are remembered, as many as may be: partitions forget one for each that is new to \
                 them, and take a late retry of those for a new batch (max.producers)",
                self.producers.get()
            );
        }
        most.min(known.max(FEWEST_PRODUCERS))
    }

    /// Notes that a log remembers so many producers more.
    pub(crate) fn count_producers(&self, more: usize) {
        self.producers.set(self.producers.get() + more);
    }

    /// Makes sure that `segment`'s file has room on the medium up to `end_bytes`.
    pub(crate) async fn reserve(
        &self,
        core: &PartitionCore,
        segment: &Rc<Segment>,
        end_bytes: u64,
    ) -> Result<(), LogError> {
        core.is_complete.set(false);
        if segment.is_reserved(end_bytes) {
            return Ok(());
        }
        let end_bytes = end_bytes.next_multiple_of(IO_ALIGNMENT as u64);
        let is_new = segment.reserved_bytes.get() == 0 && !segment.is_open();
        let file = segment.file_or_new(&self.io, self.direct).await.map_err(|error| self.fence(&error))?;
        if is_new {
            self.new_names.borrow_mut().insert(core.id);
        }
        let reserved = segment.reserved_bytes.get();
        if end_bytes <= reserved {
            return Ok(());
        }
        let limit = core.config.borrow().segment_bytes.next_multiple_of(IO_ALIGNMENT as u64);
        let step = reserved.clamp(FIRST_RESERVE_BYTES, LARGEST_RESERVE_STEP_BYTES);
        let generous = (reserved + step).min(limit).max(end_bytes);
        for target in [generous, end_bytes] {
            match file.allocate(reserved, target - reserved).await {
                Ok(()) => {
                    segment.reserved_bytes.set(target);
                    return Ok(());
                }
                Err(error) if error.is_out_of_space() && target > end_bytes => {}
                Err(error) => return Err(self.fence(&error)),
            }
        }
        unreachable!("the second attempt returns")
    }

    /// Keeps what a completed segment's snapshot will hold.
    pub(crate) fn note_roll(&self, core: &PartitionCore, segment_base: Offset, state: &PartitionState) {
        let snapshot = encode_producer_snapshot(&state.producers);
        self.rolled.borrow_mut().insert((core.id, segment_base), snapshot);
    }

    pub(crate) fn rolled_producers(&self, core: &PartitionCore, segment_base: Offset) -> Vec<u8> {
        let kept = self.rolled.borrow().get(&(core.id, segment_base)).cloned();
        kept.unwrap_or_else(|| encode_producer_snapshot(&core.live.borrow().state.producers))
    }

    pub(crate) fn forget_roll(&self, core: &PartitionCore, segment_base: Offset) {
        self.rolled.borrow_mut().remove(&(core.id, segment_base));
    }

    /// Forgets rolls from `segment_base` on: a truncation took them back.
    pub(crate) fn forget_rolls(&self, core: &PartitionCore, segment_base: Offset) {
        self.rolled.borrow_mut().retain(|(id, base), _| *id != core.id || *base < segment_base);
    }

    /// Notes that a segment is written to through `file`, and has to be flushed.
    pub(crate) fn note_dirty(&self, core: &PartitionCore, segment: &Rc<Segment>, file: &Rc<OpenFile>) {
        let written = (Rc::clone(segment), Rc::clone(file));
        self.dirty.borrow_mut().insert((core.id, segment.base_offset), written);
    }

    pub(crate) fn note_clean(&self, core: &PartitionCore, segment: &Segment) {
        self.dirty.borrow_mut().remove(&(core.id, segment.base_offset));
    }

    /// Makes the names in a partition's directory durable, unless they are; whoever else does so is waited for.
    pub(crate) async fn flush_dir_if_new(&self, core: &PartitionCore) -> Result<(), LogError> {
        self.naming.wait_for(|naming| (!naming.contains(&core.id)).then_some(())).await;
        if !self.new_names.borrow_mut().remove(&core.id) {
            return Ok(());
        }
        let _naming = Naming::begin(&self.naming, core.id);
        if let Err(error) = self.io.fs().sync_dir(&core.dir).await {
            let error = self.fence_device(&error);
            if error.is_shortage() {
                self.new_names.borrow_mut().insert(core.id);
            }
            return Err(error);
        }
        Ok(())
    }

    /// Largest append in bytes that finds room in the hot tail, whatever else is in it.
    pub(crate) fn max_hot_append_bytes(&self) -> usize {
        self.hot_pool.limit() * self.hot_pool.slab_bytes() / 2
    }

    /// Flushes what was written where that keeps more descriptors open than there may be.
    pub(crate) async fn bound_open_files(self: &Rc<Self>) -> Result<(), LogError> {
        if self.open_files.is_over() && !self.dirty.borrow().is_empty() {
            self.flush_dirty().await
        } else {
            Ok(())
        }
    }

    /// Unlinks segments that the log does not have any more.
    pub(crate) async fn remove_segments(
        &self,
        core: &PartitionCore,
        segments: &[Rc<Segment>],
    ) -> Result<(), LogError> {
        if segments.is_empty() {
            return Ok(());
        }
        core.departures.set(core.departures.get() + 1);
        for segment in segments {
            segment.set_removed();
            self.note_clean(core, segment);
            self.forget_roll(core, segment.base_offset);
            segment.close_file();
            for suffix in [LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, SNAPSHOT_SUFFIX] {
                let path = segment_path(&core.dir, segment.base_offset, suffix);
                match self.io.fs().remove_file(path).await {
                    Err(error) if !error.is_not_found() => return Err(self.fence(&error)),
                    _ => {}
                }
            }
        }
        self.io.fs().sync_dir(&core.dir).await.map_err(|error| self.fence_device(&error))
    }

    /// Makes everything accepted so far durable; the sequence of its last group.
    pub(crate) async fn flush_journal(&self) -> Result<u64, StorageFailure> {
        let sequence = self.journal.request_flush();
        self.journal.progress().wait(Mark::Durable, sequence).await?;
        Ok(sequence)
    }

    /// Asks for a flush at `deadline` if nothing flushes the partition before. A partition whose turn comes earlier
    /// anyway is asked again then: it stands in the list once, however often its deadline moves.
    pub(crate) fn flush_by(&self, deadline: MonoTime, core: &Rc<PartitionCore>, live: &mut Live) {
        if live.flush_queued.is_some_and(|queued| queued <= deadline) {
            return;
        }
        live.flush_queued = Some(deadline);
        self.flush_deadlines.borrow_mut().entry(deadline).or_default().push(Rc::downgrade(core));
        self.flush_deadlines_changed.update(|changes| *changes += 1);
    }

    async fn flush_loop(self: Rc<Self>) {
        loop {
            let changes = self.flush_deadlines_changed.get();
            let next = self.flush_deadlines.borrow().first_key_value().map(|(deadline, _)| *deadline);
            let changed = self
                .flush_deadlines_changed
                .wait_for(|now| (*now != changes || self.closing.get()).then_some(()));
            match next {
                None => changed.await,
                Some(deadline) => {
                    let wait = deadline.since(self.io.now());
                    let _ = self.io.timeout(wait, changed).await;
                }
            }
            if self.closing.get() {
                return;
            }
            self.flush_due();
        }
    }

    fn flush_due(&self) {
        let now = self.io.now();
        let later = self.flush_deadlines.borrow_mut().split_off(&(now + std::time::Duration::from_nanos(1)));
        let due = std::mem::replace(&mut *self.flush_deadlines.borrow_mut(), later);
        let mut wanted = false;
        let due = due.into_iter().flat_map(|(at, cores)| cores.into_iter().map(move |core| (at, core)));
        for (at, core) in due.filter_map(|(at, core)| Some((at, core.upgrade()?))) {
            let mut live = core.live.borrow_mut();
            if live.flush_queued != Some(at) {
                continue;
            }
            live.flush_queued = None;
            match live.flush_deadline {
                Some(deadline) if deadline > now => self.flush_by(deadline, &core, &mut live),
                Some(_) => {
                    live.flush_deadline = None;
                    wanted = true;
                }
                None => {}
            }
        }
        if wanted {
            self.journal.request_flush();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Resolves when the shard closes.
    pub(crate) async fn wait_for_close(&self) {
        self.closing.wait_for(|closing| closing.then_some(())).await;
    }

    pub(crate) fn all_partitions(&self) -> Vec<Rc<PartitionCore>> {
        self.partitions.borrow().values().cloned().collect()
    }

    async fn retention_loop(self: Rc<Self>) {
        loop {
            let closing = self.closing.wait_for(|closing| closing.then_some(()));
            if self.io.timeout(self.config.retention_check_interval, closing).await.is_ok() {
                return;
            }
            self.expire_producers();
            self.read_bufs.trim_if_idle();
            let logs = ShardLogs { core: Rc::clone(&self) };
            if let Err(error) = logs.apply_retention().await {
                tracing::error!("retention failed: {error}");
            }
        }
    }

    fn expire_producers(&self) {
        let age = i64::try_from(self.config.producer_id_expiration.as_millis()).unwrap_or(i64::MAX);
        let oldest = Timestamp(self.io.wall_time().as_millis().saturating_sub(age));
        let mut producers = 0;
        for core in self.partitions.borrow().values() {
            let known = &mut core.live.borrow_mut().state.producers;
            known.expire(oldest);
            producers += known.len();
        }
        self.producers.set(producers);
    }
}

/// A partition in the list of those whose names are being made durable, until this is dropped.
struct Naming<'a> {
    list: &'a Watch<BTreeSet<TopicPartition>>,
    id: TopicPartition,
}

impl<'a> Naming<'a> {
    fn begin(list: &'a Watch<BTreeSet<TopicPartition>>, id: TopicPartition) -> Self {
        list.update(|naming| naming.insert(id));
        Naming { list, id }
    }
}

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        self.list.update(|naming| naming.remove(&self.id));
    }
}

//! The write-behind: from the hot tail into segments, in large aligned chunks, off the path of any ack. Large batches are
//! written from where they lie in memory, small ones and what is left of a block copied together, see [`chunk`].
//!
//! ```text
//!   segment   ┌───────────── in the file ─────────────┬─ hot tail ──────────────────┐
//!                                               written                            end
//!   chunk                                 ┌ settled ┬ ─ ─ whole batches ─ ─ ┐        cut to whole blocks,
//!                                         block start                       │        or padded when it settles
//! ```
//!
//! Invariants:
//!
//! * Only bytes of durable groups are written.
//! * One chunk of a partition is in flight: a chunk that overlaps an older one follows it.
//! * Memory is let go only after its chunk completed; readers get bytes from the tail or from completed chunks.
//! * A segment is trimmed once its roll is durable: a trim writes the last block again, which is whole in the journal by
//!   then.
//! * A segment is complete (trimmed, flushed, with its index files) before the next one is written to.
//! * A failed write or flush of a segment fences the log directory.

mod chunk;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use highwater_io::sync::Watch;
use highwater_io::{FileError, IO_ALIGNMENT, IoBuf, fs};
use highwater_model::Offset;

use crate::drain::chunk::{Chunk, Planned};
use crate::error::{LogError, StorageFailure};
use crate::journal::progress::Mark;
use crate::kafka_files::{
    EPOCH_CHECKPOINT, INDEX_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, encode_epochs, segment_path,
};
use crate::mutants;
use crate::partition::segment::Segment;
use crate::partition::{DrainPoint, Live, PartitionCore};
use crate::shard::ShardCore;

/// Memory that a batch in the hot tail costs beside its bytes, generously.
const BATCH_OVERHEAD_BYTES: usize = 1024;

/// Partitions with enough durable bytes for a chunk, in order of arrival.
///
/// A partition has its queue, so that the queue must not keep the partition, with the memory of its tail and its open
/// files, when all else is gone.
pub(crate) struct DrainQueue {
    /// Durable bytes of one partition that are worth a chunk.
    pub(crate) chunk_bytes: usize,
    queue: RefCell<VecDeque<Weak<PartitionCore>>>,
    arrivals: Watch<u64>,
    /// Partitions whose batches went into segments, and how many of them, in that order: the order in which the tail forgets.
    drained: RefCell<VecDeque<(Weak<PartitionCore>, usize)>>,
    /// Batches in all.
    drained_batches: Cell<usize>,
    closed: Cell<bool>,
}

impl DrainQueue {
    pub(crate) fn new(chunk_bytes: usize) -> Rc<Self> {
        Rc::new(DrainQueue {
            chunk_bytes,
            queue: RefCell::default(),
            arrivals: Watch::new(0),
            drained: RefCell::default(),
            drained_batches: Cell::new(0),
            closed: Cell::new(false),
        })
    }

    pub(crate) fn push(&self, core: &Rc<PartitionCore>) {
        self.queue.borrow_mut().push_back(Rc::downgrade(core));
        self.arrivals.update(|arrivals| *arrivals += 1);
    }

    async fn pop(&self) -> Option<Rc<PartitionCore>> {
        let take = |_: &u64| {
            if self.closed.get() {
                return Some(None);
            }
            let mut queue = self.queue.borrow_mut();
            std::iter::from_fn(|| queue.pop_front()).find_map(|core| core.upgrade()).map(Some)
        };
        self.arrivals.wait_for(take).await
    }

    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.queue.borrow_mut().clear();
        self.arrivals.update(|_| ());
    }
}

/// How far to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Whole blocks only, while there is a chunk's worth.
    Chunks,
    /// Everything in groups up to this sequence, the last block padded.
    Sequence(u64),
}

/// What there is to do next for a partition, before any byte is touched.
enum Plan {
    Write(Planned),
    Close { segment: Rc<Segment>, next_base: Offset },
    Nothing,
}

/// What there is to do next for a partition.
enum Step {
    Write(Chunk),
    /// The segment is all in the file, and no longer the active one.
    Close {
        segment: Rc<Segment>,
        next_base: Offset,
    },
    Nothing,
}

impl ShardCore {
    /// Writes chunks behind until the shard closes.
    pub(crate) async fn drain_loop(self: Rc<Self>) {
        while let Some(core) = self.drain_queue.pop().await {
            core.drain_queued.set(false);
            // What was drained stays drained, and the journal keeps the rest. Of all else, whoever met it has told.
            if let Err(error) = self.drain(&core, Until::Chunks).await {
                self.tell_shortage(&error);
            }
        }
    }

    /// Brings everything in groups up to `sequence`, which is durable, into the partition's segments.
    pub(crate) async fn drain_through(
        self: &Rc<Self>,
        core: &Rc<PartitionCore>,
        sequence: u64,
    ) -> Result<(), LogError> {
        self.drain(core, Until::Sequence(sequence)).await
    }

    async fn drain(self: &Rc<Self>, core: &Rc<PartitionCore>, until: Until) -> Result<(), LogError> {
        let _turn = core.drain_turn.acquire(1).await;
        if core.live.borrow().deleted {
            return Ok(());
        }
        loop {
            if let Some(failure) = self.journal.progress().failure() {
                return Err(failure.into());
            }
            match self.next_step(core, until).await {
                Step::Nothing => return Ok(()),
                Step::Write(chunk) => self.write_chunk(core, chunk).await?,
                Step::Close { segment, next_base } => {
                    self.close_segment(core, &segment, next_base).await?;
                    let mut live = core.live.borrow_mut();
                    live.drain = DrainPoint { segment_base: next_base, ..DrainPoint::default() };
                    live.tail.note_drained(next_base, 0);
                }
            }
        }
    }

    async fn next_step(&self, core: &Rc<PartitionCore>, until: Until) -> Step {
        let mut taken: Option<IoBuf> = None;
        loop {
            {
                let live = core.live.borrow();
                match self.plan_chunk(&live, until) {
                    Plan::Nothing => return Step::Nothing,
                    Plan::Close { segment, next_base } => return Step::Close { segment, next_base },
                    Plan::Write(planned) => {
                        if let Some(buf) = taken.take().or_else(|| self.chunk_pool.try_take()) {
                            return Step::Write(planned.gather(&live, buf));
                        }
                    }
                }
            }
            taken = Some(self.chunk_pool.take().await);
        }
    }

    /// What there is to do next, found without a look at the bytes.
    fn plan_chunk(&self, live: &Live, until: Until) -> Plan {
        if live.tail.undrained().next().is_none() && !live.is_behind_a_roll() {
            return Plan::Nothing;
        }
        let durable = if mutants::DRAIN_BEFORE_DURABLE.is_on() {
            u64::MAX
        } else {
            self.journal.progress().through(Mark::Durable)
        };
        let limit = match until {
            Until::Chunks => durable,
            Until::Sequence(sequence) => sequence.min(durable),
        };
        let drain = &live.drain;
        let Some(segment) = live.segments.get(&drain.segment_base).cloned() else { return Plan::Nothing };
        let next_base = live.segments.range(Offset(drain.segment_base.0 + 1)..).next().map(|(base, _)| *base);
        let rolled = live.state.segment_base > drain.segment_base;
        // One block stays free for the padding.
        let extent = Extent::of(live, limit, self.chunk_pool.slab_bytes() - IO_ALIGNMENT);
        let whole_segment = rolled && extent.end_bytes == segment.size_bytes();
        if whole_segment && extent.end_bytes == drain.written_bytes {
            return match next_base {
                Some(next_base) if segment.rolled_in.get() <= limit => Plan::Close { segment, next_base },
                _ => Plan::Nothing,
            };
        }
        let settles = whole_segment || !extent.is_full && until != Until::Chunks;
        let enough = settles || extent.is_full || extent.len() >= self.drain_queue.chunk_bytes;
        let end_bytes = if settles { extent.end_bytes } else { extent.end_of_whole_blocks() };
        if enough && end_bytes > drain.written_bytes {
            Plan::Write(Planned { segment, start_bytes: extent.start_bytes, end_bytes })
        } else {
            Plan::Nothing
        }
    }

    async fn write_chunk(self: &Rc<Self>, core: &Rc<PartitionCore>, chunk: Chunk) -> Result<(), LogError> {
        let Chunk { segment, start_bytes, pieces, len_bytes, written_bytes, settled } = chunk;
        let outcome = async {
            self.reserve(core, &segment, start_bytes + len_bytes as u64).await?;
            let file = segment.file(&self.io, self.direct).await.map_err(|error| self.fence(&error))?;
            self.note_dirty(core, &segment, &file);
            file.write_at(pieces, start_bytes, fs::Durability::Plain)
                .await
                .map_err(|error| self.fence(&error))?;
            // Again: a checkpoint that flushed meanwhile did not cover this write, and a truncation may see to it that
            // none comes after it.
            self.note_dirty(core, &segment, &file);
            Ok::<(), LogError>(())
        };
        outcome.await?;
        let drained = {
            let mut live = core.live.borrow_mut();
            let before = live.tail.evictable();
            live.drain = DrainPoint { segment_base: segment.base_offset, written_bytes, settled };
            live.tail.note_drained(segment.base_offset, written_bytes);
            live.tail.evictable() - before
        };
        if drained > 0 {
            let queue = &self.drain_queue;
            queue.drained.borrow_mut().push_back((Rc::downgrade(core), drained));
            queue.drained_batches.set(queue.drained_batches.get() + drained);
        }
        self.evict();
        self.bound_open_files().await
    }

    /// Lets drained batches go while more than half of the memory is in use, or there are too many small ones.
    pub(crate) fn evict(&self) {
        let pool = &self.hot_pool;
        let most = self.config.hot_tail_bytes / BATCH_OVERHEAD_BYTES;
        let queue = &self.drain_queue;
        while pool.lent() > pool.limit() / 2 || queue.drained_batches.get() > most {
            let Some((core, batches)) = queue.drained.borrow_mut().pop_front() else { return };
            queue.drained_batches.set(queue.drained_batches.get() - batches);
            if let Some(core) = core.upgrade() {
                core.live.borrow_mut().tail.evict(batches);
            }
        }
    }

    /// Completes a rolled segment, which is all in the file: trims it, flushes it, writes Kafka's files beside it.
    pub(crate) async fn close_segment(
        &self,
        core: &Rc<PartitionCore>,
        segment: &Rc<Segment>,
        next_base: Offset,
    ) -> Result<(), LogError> {
        let producers = self.rolled_producers(core, segment.base_offset);
        self.complete_segment(core, segment).await?;
        self.write_kafka_files(core, segment, next_base, producers)
            .await
            .map_err(|error| self.fence(&error))?;
        segment.set_closed(true);
        segment.close_file();
        self.forget_roll(core, segment.base_offset);
        self.note_clean(core, segment);
        Ok(())
    }

    async fn complete_segment(&self, core: &Rc<PartitionCore>, segment: &Segment) -> Result<(), LogError> {
        let file = segment.file(&self.io, self.direct).await.map_err(|error| self.fence(&error))?;
        file.set_len(segment.size_bytes()).await.map_err(|error| self.fence(&error))?;
        segment.reserved_bytes.set(segment.size_bytes());
        file.sync_all().await.map_err(|error| self.fence_device(&error))?;
        self.flush_dir_if_new(core).await
    }

    async fn write_kafka_files(
        &self,
        core: &Rc<PartitionCore>,
        segment: &Rc<Segment>,
        next_base: Offset,
        producers: Vec<u8>,
    ) -> Result<(), FileError> {
        let interval = core.config.borrow().index_interval_bytes;
        let bound = core.offsets_of(segment).bound;
        let size_bytes = segment.size_bytes();
        let extended = segment.extend_index(&self.io, self.direct, size_bytes, bound, interval).await;
        if let Err(error) = &extended {
            // The index is a hint, and without index files the segment is walked where that is needed: one that tells of a part
            // would be taken for the whole, as would those of a stop before the last appends. The damage shows when somebody reads
            // there.
            tracing::error!("{error}: the segment is kept, without index files");
            for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
                match self.io.fs().remove_file(segment.path(suffix)).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        let (offsets, times) = {
            let index = segment.index.borrow();
            (index.encode_offsets(segment.base_offset), index.encode_times(segment.base_offset))
        };
        let epochs = encode_epochs(core.live.borrow().state.epochs.starts());
        let snapshot = segment_path(&core.dir, next_base, SNAPSHOT_SUFFIX);
        let mut files = vec![(snapshot, producers.into()), (core.dir.join(EPOCH_CHECKPOINT), epochs.into())];
        if extended.is_ok() {
            files.push((segment.path(INDEX_SUFFIX), offsets.into()));
            files.push((segment.path(TIME_INDEX_SUFFIX), times.into()));
        }
        self.io.fs().replace_files_durable(&core.dir, files).await
    }

    /// Latches a failure of the log directory; a full disk is none (rule 8), and nor is a lack of descriptors.
    pub(crate) fn fence(&self, error: &FileError) -> LogError {
        if error.is_out_of_space() {
            return LogError::OutOfSpace { path: error.path.display().to_string().into() };
        }
        self.fence_device(error)
    }

    /// Latches a failure of the log directory, whatever the errno: a flush that failed is never retried (rule 7). One that
    /// was not begun, for lack of a descriptor, is another matter: the caller must try it again.
    pub(crate) fn fence_device(&self, error: &FileError) -> LogError {
        if error.is_out_of_descriptors() {
            return LogError::OutOfDescriptors { path: error.path.display().to_string().into() };
        }
        let failure = StorageFailure { cause: error.to_string().into() };
        tracing::error!("{error}: the log directory is fenced");
        self.journal.fail(failure.clone());
        failure.into()
    }
}

impl ShardCore {
    /// Whether this is a shortage, which passes; it is told now and then while it lasts.
    pub(crate) fn tell_shortage(&self, error: &LogError) -> bool {
        if !error.is_shortage() {
            return false;
        }
        let now = self.io.now();
        if self.shortage_told_at.get().is_none_or(|at| now - at >= TELL_AGAIN_AFTER) {
            self.shortage_told_at.set(Some(now));
            tracing::warn!(
                "{error}: what is appended stays in the journal, and producers wait when that is full"
            );
        }
        true
    }
}

/// A shortage that lasts is told again after this.
const TELL_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(10);

impl Live {
    /// Whether the write-behind has an older segment to complete.
    fn is_behind_a_roll(&self) -> bool {
        self.drain.segment_base < self.state.segment_base
    }
}

/// Bytes of a segment that can be written together, from the block in which the file ends.
struct Extent {
    start_bytes: u64,
    /// Position of the byte after the last one.
    end_bytes: u64,
    /// Whether there is more than fits.
    is_full: bool,
}

impl Extent {
    /// The settled block and what follows it, while it fits into `room` bytes and its groups are at or below `limit`.
    fn of(live: &Live, limit: u64, room: usize) -> Self {
        let drain = &live.drain;
        let start_bytes = drain.written_bytes - drain.settled.len() as u64;
        debug_assert_eq!(start_bytes % IO_ALIGNMENT as u64, 0, "a chunk starts at a block");
        let bound = start_bytes + room as u64;
        let mut end_bytes = drain.written_bytes;
        for hot in live.tail.undrained() {
            if hot.segment_base != drain.segment_base || hot.sequence > limit || end_bytes > bound {
                break;
            }
            end_bytes = end_bytes.max(hot.end_position());
        }
        Extent { start_bytes, end_bytes: end_bytes.min(bound), is_full: end_bytes > bound }
    }

    fn len(&self) -> usize {
        usize::try_from(self.end_bytes - self.start_bytes).expect("bounded by a buffer")
    }

    fn end_of_whole_blocks(&self) -> u64 {
        self.end_bytes / IO_ALIGNMENT as u64 * IO_ALIGNMENT as u64
    }
}

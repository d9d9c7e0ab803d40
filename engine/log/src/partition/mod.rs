//! One partition's log, on the shard that owns it.
//!
//! ```text
//!   offsets   log_start ─────────── durable ──── log_end ──── next (accepted)
//!                 │                    │            │            └ given out, on its way into a journal group
//!                 │                    │            └ written: survives a killed process
//!                 │                    └ flushed: survives power loss
//!                 └ moved up by retention and DeleteRecords
//!
//!   bytes     segments on disk ──────────────┬─── hot tail ──────────┐
//!                          write-behind is here                  end block (the start of the block that the next
//!                                                                byte goes to, repeated after a settle)
//! ```
//!
//! * [`append`]: validation, order of acceptance, the copy into the journal's group.
//! * [`read`]: from the hot tail or a segment; look-ups by offset and time.
//! * [`crate::drain`]: the way from the tail to segments.
//!
//! Everything here is single-threaded; a `RefCell` is never borrowed across an await.

pub(crate) mod append;
pub(crate) mod entry;
pub(crate) mod epochs;
pub(crate) mod index;
pub(crate) mod open_files;
pub(crate) mod producers;
pub(crate) mod read;
pub(crate) mod read_bufs;
pub(crate) mod read_pace;
pub(crate) mod segment;
pub(crate) mod state;
pub(crate) mod tail;
mod truncate;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use highwater_io::MonoTime;
use highwater_io::sync::{Semaphore, Watch};
use highwater_model::{LeaderEpoch, NO_PARTITION_LEADER_EPOCH, Offset, TopicPartition};
use smallvec::SmallVec;

use crate::compaction::Cleaning;
use crate::config::LogConfig;
use crate::drain::DrainQueue;
use crate::error::{LogError, ReadError};
use crate::journal::group::Span;
use crate::kafka_files::{LOG_SUFFIX, segment_path};
use crate::mutants;
use crate::partition::segment::{OffsetRange, Segment};
use crate::partition::state::{FenceReason, PartitionState};
use crate::partition::tail::{HotBatch, Tail};
use crate::shard::ShardCore;

pub use append::{Appended, Origin};
pub use read::{ReadData, ReadRequest, TimestampOffset};

/// The start and the two ends of a log: `log_start_offset ≤ durable_offset ≤ log_end_offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that can be read.
    pub log_start_offset: Offset,
    /// Below it (exclusive), everything survives power loss.
    pub durable_offset: Offset,
    /// Below it (exclusive), everything survives a killed process. The next offset to be seen.
    pub log_end_offset: Offset,
}

impl Watermarks {
    fn check(&self) {
        assert!(
            self.log_start_offset <= self.log_end_offset && self.durable_offset <= self.log_end_offset,
            "watermarks out of order: {self:?}"
        );
    }
}

/// Where the write-behind stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct DrainPoint {
    /// The segment being filled.
    pub(crate) segment_base: Offset,
    /// Everything below is in the file. Not a multiple of the block only after a settle.
    pub(crate) written_bytes: u64,
    /// The bytes of the last, settled block; empty when `written_bytes` is a multiple of the block.
    pub(crate) settled: Bytes,
}

/// The block that the next byte goes to.
#[derive(Debug, Clone)]
pub(crate) enum EndBlock {
    /// Its bytes so far.
    Known(Vec<u8>),
    /// On the medium only; read before the next append.
    OnMedium,
}

/// What changes with every append.
pub(crate) struct Live {
    pub(crate) state: PartitionState,
    pub(crate) segments: BTreeMap<Offset, Rc<Segment>>,
    /// Made ahead for a roll; a segment of the log once that is accepted.
    pub(crate) next_segment: Option<Rc<Segment>>,
    /// Taken by a truncation, and still on disk.
    pub(crate) cut_off: Vec<Rc<Segment>>,
    pub(crate) tail: Tail,
    pub(crate) drain: DrainPoint,
    pub(crate) end_block: EndBlock,
    /// Whether the next append repeats the end block: it was settled, or found at start, or cut by a truncation.
    pub(crate) repeat_end_block: bool,
    /// Epoch that may append.
    pub(crate) leader_epoch: LeaderEpoch,
    /// Records accepted since `flush.messages` last asked for a flush. A flush for another reason does not count: until it is
    /// done, they are at risk.
    pub(crate) unflushed_messages: u64,
    /// When the oldest of them has to be flushed.
    pub(crate) flush_deadline: Option<MonoTime>,
    /// The earliest deadline under which the shard looks after this partition.
    pub(crate) flush_queued: Option<MonoTime>,
    /// Sequence of the journal group that holds the last append.
    pub(crate) last_sequence: u64,
    /// Journal sequence of the last append that asked for a flush.
    pub(crate) last_flushing_sequence: u64,
    /// Whether anything was appended since the last checkpoint.
    pub(crate) touched: bool,
    /// Whether the partition is deleted, or its shard closed.
    pub(crate) closed: bool,
    /// Whether an entry in the journal says that it is deleted.
    pub(crate) deleted: bool,
}

pub(crate) struct PartitionCore {
    pub(crate) id: TopicPartition,
    pub(crate) topic_name: Rc<str>,
    pub(crate) dir: Rc<Path>,
    /// Replaced when it changes: who works under the old one may keep it.
    pub(crate) config: RefCell<Rc<LogConfig>>,
    pub(crate) live: RefCell<Live>,
    pub(crate) watermarks: Watch<Watermarks>,
    pub(crate) fenced: RefCell<Option<FenceReason>>,
    /// Held from a look at the end to the acceptance of what goes there: its order is the order of offsets.
    pub(crate) append_turn: Semaphore,
    /// Held while a chunk of this partition is on its way, so that chunks that overlap follow each other.
    pub(crate) drain_turn: Semaphore,
    /// Held while compaction works on the log, and before its directory goes.
    pub(crate) cleaning_turn: Semaphore,
    /// Held by whoever changes which closed segments there are, or says in the journal where in one of them the log ends.
    pub(crate) files_turn: Semaphore,
    /// How many deletions of it are asked for and not over.
    pub(crate) deletions: Cell<usize>,
    /// Where its directory goes once it is deleted.
    pub(crate) doomed: RefCell<Option<PathBuf>>,
    /// Truncations so far.
    pub(crate) cuts: Cell<u64>,
    /// How often segments left the log so far: compacted ones took their place, or they were removed.
    pub(crate) departures: Cell<u64>,
    pub(crate) cleaning: Cleaning,
    /// Whether its files are as a clean stop leaves them: nothing was changed since the last one.
    pub(crate) is_complete: Cell<bool>,
    drain_queue: Rc<DrainQueue>,
    /// Whether it stands in that queue.
    pub(crate) drain_queued: Cell<bool>,
    /// Durable bytes since the write-behind last looked.
    drainable_bytes: Cell<usize>,
}

impl PartitionCore {
    /// Offsets that the batches of a segment may have.
    pub(crate) fn offsets_of(&self, segment: &Segment) -> OffsetRange {
        let live = self.live.borrow();
        let next = live.segments.range(Offset(segment.base_offset.0 + 1)..).next();
        // A truncation moves the state's end before it is durable, and what readers see after that.
        let end = || live.state.next_offset.max(self.watermarks.get().log_end_offset);
        OffsetRange { floor: segment.base_offset, bound: next.map_or_else(end, |(base, _)| *base) }
    }

    /// A partition as recovery or creation left it.
    pub(crate) fn new(
        dir: Rc<Path>,
        state: PartitionState,
        segments: BTreeMap<Offset, Rc<Segment>>,
        config: LogConfig,
        drain_queue: Rc<DrainQueue>,
    ) -> Rc<Self> {
        let watermarks = Watermarks {
            log_start_offset: state.log_start_offset,
            durable_offset: state.next_offset,
            log_end_offset: state.next_offset,
        };
        let end_is_aligned = state.position_bytes.is_multiple_of(highwater_io::IO_ALIGNMENT as u64);
        let live = Live {
            drain: DrainPoint {
                segment_base: state.segment_base,
                written_bytes: state.position_bytes,
                settled: Bytes::new(),
            },
            end_block: if end_is_aligned { EndBlock::Known(Vec::new()) } else { EndBlock::OnMedium },
            repeat_end_block: !end_is_aligned,
            leader_epoch: state.epochs.latest().map_or(NO_PARTITION_LEADER_EPOCH, |latest| latest.epoch),
            segments,
            next_segment: None,
            cut_off: Vec::new(),
            tail: Tail::default(),
            unflushed_messages: 0,
            flush_deadline: None,
            flush_queued: None,
            last_sequence: 0,
            last_flushing_sequence: 0,
            touched: false,
            closed: false,
            deleted: false,
            state,
        };
        Rc::new(PartitionCore {
            id: live.state.id,
            topic_name: live.state.topic_name.as_str().into(),
            dir,
            config: RefCell::new(Rc::new(config)),
            watermarks: Watch::new(watermarks),
            fenced: RefCell::new(live.state.fenced.as_deref().map(Arc::from)),
            live: RefCell::new(live),
            append_turn: Semaphore::new(1),
            drain_turn: Semaphore::new(1),
            cleaning_turn: Semaphore::new(1),
            files_turn: Semaphore::new(1),
            deletions: Cell::new(0),
            doomed: RefCell::default(),
            cuts: Cell::new(0),
            departures: Cell::new(0),
            cleaning: Cleaning::default(),
            is_complete: Cell::new(false),
            drain_queue,
            drain_queued: Cell::new(false),
            drainable_bytes: Cell::new(0),
        })
    }

    /// Whether it is deleted, or its deletion is asked for and not over.
    pub(crate) fn is_going(&self) -> bool {
        self.deletions.get() > 0 || self.live.borrow().deleted
    }

    /// Refuses appends to a fenced or closed partition.
    pub(crate) fn check_writable(&self) -> Result<(), LogError> {
        if let Some(reason) = &*self.fenced.borrow() {
            return Err(LogError::Fenced { reason: Arc::clone(reason) });
        }
        if self.live.borrow().closed { Err(LogError::Closed) } else { Ok(()) }
    }

    /// What a change is told that cannot read what it goes on from. Damage fences; a device that cannot read now may be able to
    /// later, and nothing is wrong with what it has, as far as anybody knows.
    pub(crate) fn unreadable(&self, error: &ReadError, what: &str) -> LogError {
        match error {
            // It was not even tried.
            ReadError::Log(error) => error.clone(),
            ReadError::Io { cause } => {
                tracing::warn!(topic = %self.topic_name, partition = %self.id.partition, "{what}: {cause}");
                LogError::Unreadable { cause: Arc::clone(cause) }
            }
            _ => {
                let reason = format!("{what}: {error}");
                tracing::error!(topic = %self.topic_name, partition = %self.id.partition, "{reason}");
                self.fence(&reason);
                LogError::Fenced { reason: reason.into() }
            }
        }
    }

    /// Refuses appends from now on, because of damage that was found.
    pub(crate) fn fence(&self, reason: &str) {
        self.fenced.borrow_mut().get_or_insert_with(|| reason.into());
        self.live.borrow_mut().state.fenced.get_or_insert_with(|| reason.to_owned());
    }

    /// Counts durable bytes, and asks for the write-behind once they make a chunk.
    fn note_drainable(self: &Rc<Self>, bytes: usize) {
        let drainable = self.drainable_bytes.get() + bytes;
        self.drainable_bytes.set(drainable);
        if drainable >= self.drain_queue.chunk_bytes && !self.drain_queued.replace(true) {
            self.drainable_bytes.set(0);
            self.drain_queue.push(self);
        }
    }

    pub(crate) fn segment(&self, base_offset: Offset) -> Option<Rc<Segment>> {
        self.live.borrow().segments.get(&base_offset).cloned()
    }
}

/// The batches of one append: mostly one.
pub(crate) type Batches = SmallVec<[(HotBatch, Span); 1]>;

/// What a journal group does to a partition, told at each stage of the group's life.
pub(crate) struct Effect {
    partition: Rc<PartitionCore>,
    batches: Batches,
    /// End of the log once it is written; `None` for an entry that moves no end.
    next_offset: Option<Offset>,
    size_bytes: usize,
}

impl Effect {
    /// Appended batches, whose bytes lie in the group.
    pub(crate) fn appended(partition: Rc<PartitionCore>, batches: Batches) -> Self {
        let next_offset = batches.last().map(|(batch, _)| Offset(batch.last_offset.0 + 1));
        let size_bytes = batches.iter().map(|(batch, _)| batch.size_bytes).sum();
        Effect { partition, batches, next_offset, size_bytes }
    }

    /// An entry that whoever wrote it acts upon when the group is durable.
    pub(crate) fn none(partition: Rc<PartitionCore>) -> Self {
        Effect { partition, batches: Batches::new(), next_offset: None, size_bytes: 0 }
    }

    /// The group has its sequence and its bytes are final: batches enter the hot tail.
    pub(crate) fn sealed(&mut self, sequence: u64, slabs: &[Bytes]) {
        let mut live = self.partition.live.borrow_mut();
        for (mut batch, span) in self.batches.drain(..) {
            batch.sequence = sequence;
            batch.chunks = span.slices(slabs);
            live.tail.push(batch);
        }
    }

    /// The group was written.
    pub(crate) fn written(&self) {
        let Some(next_offset) = self.next_offset else { return };
        self.partition.watermarks.update(|marks| {
            marks.log_end_offset = marks.log_end_offset.max(next_offset);
            marks.check();
        });
        if mutants::DRAIN_BEFORE_DURABLE.is_on() {
            self.partition.note_drainable(self.size_bytes);
        }
    }

    /// The group was flushed.
    pub(crate) fn durable(&self) {
        let Some(next_offset) = self.next_offset else { return };
        self.partition.watermarks.update(|marks| {
            marks.durable_offset = marks.durable_offset.max(next_offset);
            marks.check();
        });
        self.partition.note_drainable(self.size_bytes);
    }
}

/// One partition's log. Cheap to clone, bound to its shard.
#[derive(Clone)]
pub struct Partition {
    pub(crate) core: Rc<PartitionCore>,
    pub(crate) shard: Rc<ShardCore>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("topic", &self.core.topic_name)
            .field("partition", &self.core.id.partition)
            .finish_non_exhaustive()
    }
}

impl Partition {
    /// Topic id and partition index.
    #[must_use]
    pub fn id(&self) -> TopicPartition {
        self.core.id
    }

    /// Name of the topic.
    #[must_use]
    pub fn topic_name(&self) -> &str {
        &self.core.topic_name
    }

    /// Whether it is deleted or about to be, and what is left of it goes.
    pub(crate) fn is_going(&self) -> bool {
        self.core.is_going()
    }

    /// Current settings.
    #[must_use]
    pub fn config(&self) -> LogConfig {
        LogConfig::clone(&self.core.config.borrow())
    }

    /// Changes the settings; they take effect at once.
    pub fn set_config(&self, config: LogConfig) {
        let flush_now = {
            let mut current = self.core.config.borrow_mut();
            let stricter =
                config.flush_messages < current.flush_messages || config.flush_ms != current.flush_ms;
            *current = Rc::new(config);
            stricter
        };
        // What waited under the old settings is not left to wait longer than the new ones allow.
        let mut live = self.core.live.borrow_mut();
        if flush_now && live.unflushed_messages > 0 {
            live.flush_deadline = None;
            self.shard.journal.request_flush();
        }
    }

    /// Start and ends of the log; tasks wait for their changes.
    #[must_use]
    pub fn watermarks(&self) -> &Watch<Watermarks> {
        &self.core.watermarks
    }

    /// Bytes of all segments, the unwritten part of the hot tail included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.core.live.borrow().segments.values().map(|segment| segment.size_bytes()).sum()
    }

    /// The segment file that holds `offset`, or would hold it.
    #[must_use]
    pub fn segment_path(&self, offset: Offset) -> PathBuf {
        let live = self.core.live.borrow();
        let below = live.segments.range(..=offset).next_back().map(|(base, _)| *base);
        let base = if live.state.segment_base <= offset { Some(live.state.segment_base) } else { below };
        segment_path(&self.core.dir, base.unwrap_or(live.state.log_start_offset), LOG_SUFFIX)
    }

    /// Why the partition refuses appends, if it does.
    #[must_use]
    pub fn fenced(&self) -> Option<String> {
        self.core.fenced.borrow().as_deref().map(str::to_owned)
    }

    /// Epoch of the last append or of [`begin_epoch`](Self::begin_epoch), or [`NO_PARTITION_LEADER_EPOCH`].
    #[must_use]
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.core.live.borrow().state.epochs.latest().map_or(NO_PARTITION_LEADER_EPOCH, |latest| latest.epoch)
    }

    /// Lets appends of `epoch` in, and fences lower ones. The caller has made the epoch durable elsewhere.
    ///
    /// The epoch begins at the log's end, whether or not anything is ever appended in it: who holds the epoch of an
    /// idle leadership must not be told that its log was cut. It goes into the next checkpoint; where a crash takes it,
    /// the epoch that begins after the crash stands for it, at the same offset.
    pub fn begin_epoch(&self, epoch: LeaderEpoch) {
        let mut live = self.core.live.borrow_mut();
        if epoch <= live.leader_epoch {
            return;
        }
        live.leader_epoch = epoch;
        let next_offset = live.state.next_offset;
        live.state.epochs.assign(epoch, next_offset);
    }

    /// The largest epoch not above `epoch` that led here, and the offset at which it ended (KIP-101, KIP-279).
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let log_end_offset = self.core.watermarks.get().log_end_offset;
        self.core.live.borrow().state.epochs.end_offset_for(epoch, log_end_offset)
    }

    /// Epoch of the record at `offset`.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.core.live.borrow().state.epochs.epoch_at(offset)
    }

    /// Makes everything accepted so far durable.
    ///
    /// # Errors
    /// [`LogError::Storage`].
    pub async fn flush(&self) -> Result<(), LogError> {
        self.shard.flush_journal().await?;
        Ok(())
    }
}

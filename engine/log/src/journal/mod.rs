//! The journal of one shard: group commit across all its partitions.
//!
//! ```text
//!   appends ──▶ forming group ──take──▶ sealed ──one write──▶ written ──flush──▶ durable
//!                    ▲                                           │                  │
//!                    └──────── while one is in flight ───────────┘                  └▶ acks that wait for it
//! ```
//!
//! Invariants:
//!
//! * One group is in flight, and those who waited for it are told while the next one is (`Untold`): the device does not wait
//!   for them. Marks advance over a contiguous prefix of groups (rule 1).
//! * A flush is submitted after the completions of what it covers were seen, and a durable group after plain ones needs
//!   a full flush: the device may persist a flushing write alone (rule 1).
//! * The first failed write or flush latches; nothing is retried and nothing after it completes (rule 7).
//! * A file is used again only after a durable checkpoint passed its last group.
//!
//! Deliberately absent: any knowledge of what the bytes mean. Partitions learn of their fate through [`Effect`].

pub(crate) mod files;
pub(crate) mod format;
pub(crate) mod group;
pub(crate) mod progress;
pub(crate) mod read_ahead;
pub(crate) mod scan;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use highwater_io::race::{Either, first};
use highwater_io::sync::Watch;
use highwater_io::{BufPool, FileError, Io, fs};

use crate::config::ShardConfig;
use crate::error::{LogError, StorageFailure};
use crate::journal::files::{Files, JournalFile};
use crate::journal::format::FILE_HEADER_BYTES;
use crate::journal::group::{Group, Lists, Placement, Sealed};
use crate::journal::progress::{Mark, Progress};
use crate::mutants;
use crate::partition::Effect;

/// Place in the journal after some group: where a reader that knows everything up to it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct JournalPlace {
    /// The last group's sequence; groups count from 1.
    pub(crate) sequence: u64,
    /// Header checksum of that group, 0 before the first.
    pub(crate) checksum: u64,
    /// File in which it lies.
    pub(crate) file_number: u64,
    /// Its end in that file.
    pub(crate) position_bytes: u64,
}

/// Why an append has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    GroupFull,
    File,
    Memory,
}

/// What appends are short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pressure {
    /// Journal files: a checkpoint frees some.
    pub(crate) files: bool,
    /// Memory: the hot tail has to be written behind.
    pub(crate) memory: bool,
}

/// One append that may have to wait until it is accepted, as long as this is not dropped.
pub(crate) struct Waits<'a> {
    waiting: &'a Cell<usize>,
}

impl<'a> Waits<'a> {
    fn begin(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Waits { waiting }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.waiting.set(self.waiting.get() - 1);
    }
}

/// What the write loop is asked for, besides the groups themselves.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    /// Somebody appended, or asked for something.
    work: bool,
    flush: bool,
    stop: bool,
}

/// Written groups that no flush has covered, oldest first.
type Unflushed = VecDeque<(u64, Lists)>;

/// What the last group that was written has become, while nobody has been told.
#[derive(Default)]
enum Untold {
    #[default]
    Nothing,
    /// It is written, and the newest of those that no flush has covered.
    Written,
    /// It was written and flushed in one: its sequence, and what it does.
    Durable(u64, Lists),
}

/// Starts `operation`, does something while it is on its way, and waits for it.
async fn overlapped<T>(operation: impl Future<Output = T>, meanwhile: impl FnOnce()) -> T {
    let mut operation = std::pin::pin!(operation);
    let mut meanwhile = Some(meanwhile);
    std::future::poll_fn(|cx| {
        let polled = operation.as_mut().poll(cx);
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile();
        }
        polled
    })
    .await
}

/// Lists of groups that are kept for later ones: the forming one has some, and the one in flight.
const SPARE_LISTS: usize = 4;
/// Effects that a kept list has room for at most.
const LONGEST_SPARE_LIST: usize = 4096;

/// Counters for metrics and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalCounters {
    /// Groups written.
    pub groups: u64,
    /// Bytes written, padding included.
    pub bytes: u64,
    /// Flushing writes and flushes.
    pub flushes: u64,
}

pub(crate) struct Journal {
    io: Io,
    config: ShardConfig,
    alignment: usize,
    pool: BufPool,
    files: Rc<Files>,
    /// `None` once the journal is stopped.
    current: RefCell<Option<Rc<JournalFile>>>,
    /// The next file, once it is ready.
    prepared: Watch<Option<(usize, Rc<JournalFile>)>>,
    forming: RefCell<Group>,
    /// Of groups that are over.
    spare_lists: RefCell<Vec<Lists>>,
    /// Whether a checkpoint's boundary lies after the forming group: nothing more may enter it.
    forming_closed: Cell<bool>,
    /// Bumped when there may be room again: the forming group was taken, or a file became ready.
    changes: Watch<u64>,
    wanted: Watch<Wanted>,
    progress: Progress,
    /// End of the last group that was sealed.
    place: Cell<JournalPlace>,
    /// The group up to which a checkpoint will vouch, and its place once it is sealed.
    boundary: Cell<(u64, JournalPlace)>,
    unflushed: RefCell<Unflushed>,
    unflushed_bytes: Cell<u64>,
    bytes_since_checkpoint: Watch<u64>,
    /// What appends wait for; taken by the checkpoint that is to relieve it.
    pressure: Watch<Pressure>,
    /// How many appends wait to be accepted: for space, for room in the journal, for each other.
    waiting: Cell<usize>,
    /// Whether groups that were written are being flushed.
    flushing: Cell<bool>,
    counters: Cell<JournalCounters>,
    /// Whether the log closes: nobody may wait for room any more, except the close itself.
    closing: Cell<bool>,
    stopped: Watch<bool>,
}

impl Journal {
    /// A new, empty journal in `dir`, which exists.
    pub(crate) async fn create(
        io: &Io,
        dir: &Path,
        generation: [u8; 16],
        config: &ShardConfig,
        pool: BufPool,
    ) -> Result<Rc<Journal>, FileError> {
        let alignment = io.fs().direct_io_alignment(dir).await?;
        let direct = config.direct_io && alignment <= highwater_io::IO_ALIGNMENT;
        let (files, current) =
            Files::create(io, dir, generation, config.journal_file_bytes, config.journal_max_files, direct)
                .await?;
        let place = JournalPlace {
            file_number: current.header.file_number,
            position_bytes: FILE_HEADER_BYTES,
            ..JournalPlace::default()
        };
        Ok(Rc::new(Journal {
            io: io.clone(),
            config: config.clone(),
            alignment: alignment.min(highwater_io::IO_ALIGNMENT),
            pool,
            files,
            current: RefCell::new(Some(current)),
            prepared: Watch::new(None),
            forming: RefCell::new(Group::new(Lists::default())),
            spare_lists: RefCell::default(),
            forming_closed: Cell::new(false),
            changes: Watch::new(0),
            wanted: Watch::new(Wanted::default()),
            progress: Progress::default(),
            place: Cell::new(place),
            boundary: Cell::new((0, place)),
            unflushed: RefCell::default(),
            unflushed_bytes: Cell::new(0),
            bytes_since_checkpoint: Watch::new(0),
            pressure: Watch::new(Pressure::default()),
            waiting: Cell::new(0),
            flushing: Cell::new(false),
            counters: Cell::default(),
            closing: Cell::new(false),
            stopped: Watch::new(false),
        }))
    }

    /// Starts the tasks that write groups and prepare files.
    pub(crate) fn start(self: &Rc<Self>) {
        let writer = Rc::clone(self);
        // It hands the device its next group.
        self.io.spawn_urgent(async move { writer.write_loop().await }).detach();
        let preparer = Rc::clone(self);
        self.io.spawn(async move { preparer.prepare_loop().await }).detach();
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn counters(&self) -> JournalCounters {
        self.counters.get()
    }

    /// Largest payload in bytes that one append may bring: a quarter of a file (rule 9).
    pub(crate) fn max_append_bytes(&self) -> usize {
        usize::try_from(self.config.journal_file_bytes / 4).unwrap_or(usize::MAX)
    }

    /// Waits until the forming group has room for `payload_bytes` in `entries` entries. The room is there until the
    /// caller yields.
    ///
    /// # Errors
    /// [`LogError::Storage`] once the journal failed; [`LogError::Closed`] where the log closes and there is no room.
    pub(crate) async fn admit(&self, payload_bytes: usize, entries: usize) -> Result<(), LogError> {
        self.admit_if(payload_bytes, entries, || !self.closing.get()).await
    }

    /// As [`admit`](Self::admit), for the close, which makes room by itself.
    pub(crate) async fn admit_last(&self, payload_bytes: usize, entries: usize) -> Result<(), LogError> {
        self.admit_if(payload_bytes, entries, || true).await
    }

    async fn admit_if(
        &self,
        payload_bytes: usize,
        entries: usize,
        may_wait: impl Fn() -> bool,
    ) -> Result<(), LogError> {
        let needed = group::bytes_needed(payload_bytes, entries);
        loop {
            if let Some(failure) = self.progress.failure() {
                return Err(failure.into());
            }
            let changes = self.changes.get();
            match self.obstacle(needed) {
                None => return Ok(()),
                Some(_) if !may_wait() => return Err(LogError::Closed),
                Some(Obstacle::Memory) => {
                    let Some(slab) = self.pool.try_take() else {
                        self.pressure.update(|pressure| pressure.memory = true);
                        // A failed journal writes nothing behind any more: no memory comes back.
                        let changed = self.changes.wait_for(|now| (*now != changes).then_some(()));
                        if let Either::Left(slab) = first(self.pool.take(), changed).await {
                            self.forming.borrow_mut().add_slab(slab);
                        }
                        continue;
                    };
                    self.forming.borrow_mut().add_slab(slab);
                }
                Some(obstacle) => {
                    if obstacle == Obstacle::File {
                        self.pressure.update(|pressure| pressure.files = true);
                    }
                    self.changes.wait_for(|now| (*now != changes).then_some(())).await;
                }
            }
        }
    }

    /// As [`admit`](Self::admit), but only waits for what comes without a checkpoint: whether there is room. The answer
    /// holds until the caller yields, and no longer: groups that are written apart take more of a file than together.
    pub(crate) async fn admit_without_checkpoint(
        &self,
        payload_bytes: usize,
        entries: usize,
    ) -> Result<bool, LogError> {
        let needed = group::bytes_needed(payload_bytes, entries);
        loop {
            if let Some(failure) = self.progress.failure() {
                return Err(failure.into());
            }
            let changes = self.changes.get();
            match self.obstacle(needed) {
                None => return Ok(true),
                Some(Obstacle::GroupFull) => {
                    self.changes.wait_for(|now| (*now != changes).then_some(())).await;
                }
                Some(Obstacle::Memory) => match self.pool.try_take() {
                    Some(slab) => self.forming.borrow_mut().add_slab(slab),
                    None => return Ok(false),
                },
                Some(Obstacle::File) => return Ok(false),
            }
        }
    }

    /// Whether an append of so many bytes is [admitted](Self::admit) without a wait.
    pub(crate) fn admits(&self, payload_bytes: usize, entries: usize) -> bool {
        self.progress.failure().is_none()
            && self.obstacle(group::bytes_needed(payload_bytes, entries)).is_none()
    }

    /// Whether a change without bytes is [admitted](Self::admit) without a wait. A failed journal admits it, to say so.
    pub(crate) fn admits_change(&self) -> bool {
        self.progress.failure().is_some() || self.obstacle(group::bytes_needed(0, 1)).is_none()
    }

    /// The log closes: sends away whoever waits for room, since nobody makes any.
    pub(crate) fn begin_close(&self) {
        self.closing.set(true);
        self.changed();
    }

    /// What stands in the way of an append that needs so many bytes. Everything accepted can be written without a
    /// checkpoint: a checkpoint has to wait for it.
    fn obstacle(&self, needed: usize) -> Option<Obstacle> {
        let forming = self.forming.borrow();
        let len_bytes = forming.len_bytes() + needed;
        let group_max_bytes = self.config.group_max_bytes.min(self.max_append_bytes());
        let end_bytes = self.place.get().position_bytes + group::size_bound(len_bytes);
        if self.forming_closed.get() || !forming.is_empty() && len_bytes > group_max_bytes {
            Some(Obstacle::GroupFull)
        } else if end_bytes > self.current().size_bytes && self.prepared.with(Option::is_none) {
            Some(Obstacle::File)
        } else if forming.room_bytes() < needed {
            Some(Obstacle::Memory)
        } else {
            None
        }
    }

    /// Fills the forming group and returns the sequence it will have. The caller was [admitted](Self::admit).
    pub(crate) fn append(&self, fill: impl FnOnce(&mut Group)) -> u64 {
        fill(&mut self.forming.borrow_mut());
        self.wanted.update(|wanted| wanted.work = true);
        self.next_sequence()
    }

    fn next_sequence(&self) -> u64 {
        self.place.get().sequence + 1
    }

    /// Begins with an append that may have to wait.
    pub(crate) fn append_begins(&self) -> Waits<'_> {
        Waits::begin(&self.waiting)
    }

    /// Whether appends wait: to be accepted, for their group to be written, or for its flush. None does in a journal that failed.
    pub(crate) fn some_wait(&self) -> bool {
        let is_behind = self.accepted_through() > self.progress.through(Mark::Written);
        (is_behind || self.waiting.get() > 0 || self.flushing.get()) && self.progress.failure().is_none()
    }

    /// The sequence of the group with what was accepted last.
    pub(crate) fn accepted_through(&self) -> u64 {
        self.place.get().sequence + u64::from(!self.forming.borrow().is_empty())
    }

    /// Draws a line after everything accepted so far, asks for its flush, and returns the sequence of the group before
    /// the line. What is accepted from now on may still enter that group, unless the caller yields first: so the
    /// forming group is closed to it.
    pub(crate) fn draw_boundary(&self) -> u64 {
        let place = self.place.get();
        let forming = u64::from(!self.forming.borrow().is_empty());
        let sequence = place.sequence + forming;
        self.boundary.set((sequence, place));
        self.forming_closed.set(forming == 1);
        self.request_flush();
        sequence
    }

    /// Place after the group before the boundary, once that is written.
    pub(crate) fn boundary_place(&self) -> JournalPlace {
        self.boundary.get().1
    }

    /// Asks for a flush of everything accepted so far, and returns the sequence that will be durable then.
    pub(crate) fn request_flush(&self) -> u64 {
        {
            let mut forming = self.forming.borrow_mut();
            forming.wants_flush |= !forming.is_empty();
        }
        self.wanted.update(|wanted| {
            wanted.work = true;
            wanted.flush = true;
        });
        self.accepted_through()
    }

    /// Bytes written since the last checkpoint; changes wake the checkpointer.
    pub(crate) fn bytes_since_checkpoint(&self) -> &Watch<u64> {
        &self.bytes_since_checkpoint
    }

    /// What appends wait for, and only the write-behind can give.
    pub(crate) fn pressure(&self) -> &Watch<Pressure> {
        &self.pressure
    }

    fn current(&self) -> Rc<JournalFile> {
        self.current.borrow().clone().expect("the journal has a file until it is stopped")
    }

    fn changed(&self) {
        self.changes.update(|changes| *changes += 1);
    }

    /// Lets files be used again whose groups are all at or below `sequence`: a durable checkpoint has passed them. Tells whether
    /// there were any.
    pub(crate) fn release_through(&self, sequence: u64) -> bool {
        let released = self.files.release_through(sequence);
        if released {
            // The preparer looks again.
            self.prepared.update(|_| ());
        }
        released
    }

    /// Ends the write loop once everything accepted is durable, or has failed.
    pub(crate) async fn stop(&self) -> Result<(), StorageFailure> {
        self.request_flush();
        self.wanted.update(|wanted| wanted.stop = true);
        self.stopped.wait_for(|stopped| stopped.then_some(())).await;
        let failure = self.progress.failure();
        // Nothing is accepted any more, and the files are given up.
        self.progress.fail(StorageFailure { cause: "the log is closed".into() });
        self.files.stop();
        self.current.replace(None);
        self.prepared.set(None);
        failure.map_or(Ok(()), Err)
    }

    /// Latches a failure that happened elsewhere in the directory.
    pub(crate) fn fail(&self, failure: StorageFailure) {
        self.progress.fail(failure);
        self.changed();
        self.wanted.update(|wanted| wanted.work = true);
    }

    async fn write_loop(&self) {
        let mut untold = Untold::Nothing;
        loop {
            // The device does not stand idle while those are woken who waited for the last group.
            if self.forming.borrow().is_empty() || !self.has_room() {
                self.tell(std::mem::take(&mut untold));
            }
            let wanted = self.wanted.wait_for(|wanted| (wanted.work || wanted.stop).then_some(*wanted)).await;
            self.wanted.update(|wanted| {
                wanted.work = false;
                wanted.flush = false;
            });
            if self.progress.failure().is_some() {
                self.changed();
                break;
            }
            let outcome = if self.forming.borrow().is_empty() {
                if wanted.flush { self.flush().await } else { Ok(()) }
            } else {
                self.write_group(wanted.flush, &mut untold).await
            };
            if let Err(error) = outcome {
                tracing::error!("{error}: the journal is fenced");
                self.fail(StorageFailure { cause: error.to_string().into() });
                continue;
            }
            if wanted.stop && self.forming.borrow().is_empty() {
                self.tell(std::mem::take(&mut untold));
                break;
            }
        }
        self.stopped.set(true);
    }

    /// Writes the forming group, with everything that was appended while we waited for a file. Tells of the group before
    /// while this one is on its way, and leaves what is to be told of this one.
    async fn write_group(&self, flush_requested: bool, untold: &mut Untold) -> Result<(), FileError> {
        let file = loop {
            let file = self.file_with_room().await?;
            let end_bytes =
                self.place.get().position_bytes + group::size_bound(self.forming.borrow().len_bytes());
            if file.is_zeroed_through(end_bytes) {
                break file;
            }
            self.tell(std::mem::take(untold));
            file.claim(end_bytes).await;
        };
        let group = self.take_forming();
        let place = self.place.get();
        let durable_through = match untold {
            Untold::Durable(sequence, _) => *sequence,
            _ => self.progress.through(Mark::Durable),
        };
        let sealed = group.seal(Placement {
            sequence: place.sequence + 1,
            durable_through,
            previous_checksum: place.checksum,
            position_bytes: place.position_bytes,
            incarnation: file.incarnation(),
            alignment: self.alignment,
        });
        let Sealed { sequence, checksum, data, size_bytes, mut lists, wants_flush, reserve } = sealed;
        self.keep_reserve(reserve);
        let end_bytes = place.position_bytes + size_bytes;
        let place_after = JournalPlace {
            sequence,
            checksum,
            file_number: file.header.file_number,
            position_bytes: end_bytes,
        };
        self.place.set(place_after);
        if self.boundary.get().0 == sequence {
            self.boundary.set((sequence, place_after));
        }
        self.forming_closed.set(false);
        let wants_flush = wants_flush || flush_requested;
        let alone = self.unflushed.borrow().is_empty() || mutants::FUA_COVERS_PLAIN.is_on();
        let durability = if wants_flush && alone && file.file.is_direct() {
            fs::Durability::Sync
        } else {
            fs::Durability::Plain
        };
        let said = if self.drops_this_flush() { fs::Durability::Plain } else { durability };
        let write = file.file.write_at(data.clone(), place.position_bytes, said);
        let meanwhile = || {
            lists.effects.iter_mut().for_each(|effect| effect.sealed(sequence, &data));
            self.changed();
            self.tell(std::mem::take(untold));
            if mutants::ACK_BEFORE_WRITE.is_on() {
                self.note_written(sequence, &lists);
                self.note_durable(sequence, &lists);
            }
        };
        overlapped(write, meanwhile).await?;
        self.count(|counters| {
            counters.groups += 1;
            counters.bytes += size_bytes;
            counters.flushes += u64::from(durability == fs::Durability::Sync);
        });
        self.bytes_since_checkpoint.update(|bytes| *bytes += size_bytes);
        if durability == fs::Durability::Sync {
            *untold = Untold::Durable(sequence, lists);
            return Ok(());
        }
        self.unflushed.borrow_mut().push_back((sequence, lists));
        self.unflushed_bytes.set(self.unflushed_bytes.get() + size_bytes);
        *untold = Untold::Written;
        // Only durable groups can be written behind: where nobody asks for a flush, memory does.
        if wants_flush || self.unflushed_bytes.get() >= self.config.unflushed_max_bytes {
            self.tell(std::mem::take(untold));
            self.flush().await?;
        }
        Ok(())
    }

    /// Tells those who wait for a group that it is written, or flushed as well.
    fn tell(&self, untold: Untold) {
        match untold {
            Untold::Nothing => {}
            Untold::Written => {
                let unflushed = self.unflushed.borrow();
                let (sequence, lists) = unflushed.back().expect("it was written and not flushed");
                self.note_written(*sequence, lists);
            }
            Untold::Durable(sequence, lists) => {
                self.note_written(sequence, &lists);
                self.note_unflushed_durable();
                self.note_durable(sequence, &lists);
                self.keep_lists(lists);
            }
        }
    }

    /// Whether the forming group fits into the current file.
    fn has_room(&self) -> bool {
        let needed = group::size_bound(self.forming.borrow().len_bytes());
        self.place.get().position_bytes + needed <= self.current().size_bytes
    }

    /// A lie: one flush of ten is only said to have happened.
    fn drops_this_flush(&self) -> bool {
        mutants::DROP_FLUSH_SOMETIMES.is_on() && self.counters.get().flushes % 10 == 9
    }

    fn note_unflushed_durable(&self) {
        self.unflushed_bytes.set(0);
        let unflushed = std::mem::take(&mut *self.unflushed.borrow_mut());
        for (sequence, lists) in unflushed {
            self.note_durable(sequence, &lists);
            self.keep_lists(lists);
        }
    }

    /// Makes every written group durable. All unflushed ones lie in the current file: a full one is flushed before
    /// the next is begun.
    async fn flush(&self) -> Result<(), FileError> {
        if self.unflushed.borrow().is_empty() {
            return Ok(());
        }
        let file = self.current();
        if !mutants::SKIP_JOURNAL_FLUSH.is_on() && !self.drops_this_flush() {
            self.flushing.set(true);
            let flushed = match file.file.sync_data().await {
                Err(_) if mutants::RETRY_FAILED_FLUSH.is_on() => file.file.sync_data().await,
                outcome => outcome,
            };
            self.flushing.set(false);
            flushed?;
        }
        self.count(|counters| counters.flushes += 1);
        self.note_unflushed_durable();
        Ok(())
    }

    fn note_written(&self, sequence: u64, lists: &Lists) {
        if self.progress.failure().is_some() || self.progress.through(Mark::Written) >= sequence {
            return;
        }
        lists.effects.iter().for_each(Effect::written);
        self.progress.advance(Mark::Written, sequence);
    }

    fn note_durable(&self, sequence: u64, lists: &Lists) {
        if self.progress.failure().is_some() || self.progress.through(Mark::Durable) >= sequence {
            return;
        }
        lists.effects.iter().for_each(Effect::durable);
        self.progress.advance(Mark::Durable, sequence);
    }

    fn take_forming(&self) -> Group {
        let lists = self.spare_lists.borrow_mut().pop().unwrap_or_default();
        std::mem::replace(&mut *self.forming.borrow_mut(), Group::new(lists))
    }

    /// Keeps the memory of a group's lists for a later one.
    fn keep_lists(&self, mut lists: Lists) {
        lists.effects.clear();
        let mut spare = self.spare_lists.borrow_mut();
        if spare.len() < SPARE_LISTS && lists.effects.capacity() <= LONGEST_SPARE_LIST {
            spare.push(lists);
        }
    }

    /// Gives the forming group, which is empty, the memory that the last one left.
    fn keep_reserve(&self, reserve: Vec<highwater_io::IoBuf>) {
        let mut forming = self.forming.borrow_mut();
        reserve.into_iter().for_each(|slab| forming.add_slab(slab));
    }

    /// The current file if the forming group fits, else the next one.
    async fn file_with_room(&self) -> Result<Rc<JournalFile>, FileError> {
        loop {
            if self.has_room() {
                return Ok(self.current());
            }
            let place = self.place.get();
            // Groups of one file are flushed through its own descriptor.
            self.flush().await?;
            let (slot, next) = self.next_file().await;
            self.files.switch(place.sequence, slot);
            self.place.set(JournalPlace {
                file_number: next.header.file_number,
                position_bytes: FILE_HEADER_BYTES,
                ..place
            });
            *self.current.borrow_mut() = Some(next);
        }
    }

    async fn next_file(&self) -> (usize, Rc<JournalFile>) {
        let next = self.prepared.wait_for(Clone::clone).await;
        self.prepared.set(None);
        next
    }

    /// Keeps the next file ready.
    async fn prepare_loop(&self) {
        loop {
            self.prepared.wait_for(|prepared| (prepared.is_none() || self.stopped.get()).then_some(())).await;
            if self.stopped.get() {
                return;
            }
            match self.files.prepare_next().await {
                // Nothing that was accepted needs it any more, and its lock would keep the next start waiting.
                Ok(Some(_)) if self.stopped.get() => return,
                Err(error) if self.stopped.get() => {
                    tracing::warn!("{error}: a journal file that is not needed any more");
                    return;
                }
                Ok(Some(next)) => {
                    self.prepared.set(Some(next));
                    self.changed();
                }
                Ok(None) => self.wait_for_release().await,
                Err(error) if error.is_out_of_space() || error.is_out_of_descriptors() => {
                    tracing::warn!("{error}: no further journal file until there is room");
                    self.io.sleep(std::time::Duration::from_secs(1)).await;
                }
                Err(error) => {
                    tracing::error!("{error}: the journal is fenced");
                    self.fail(StorageFailure { cause: error.to_string().into() });
                    return;
                }
            }
        }
    }

    /// Waits for the next [`release_through`](Self::release_through) or the end.
    async fn wait_for_release(&self) {
        let mut first = true;
        self.prepared.wait_for(|_| (!std::mem::take(&mut first)).then_some(())).await;
    }

    fn count(&self, change: impl FnOnce(&mut JournalCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

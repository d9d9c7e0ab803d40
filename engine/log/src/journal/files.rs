//! The files of a journal: the current one, the next one in preparation, those still needed, those to be used again.
//!
//! ```text
//!   journal/<generation>/shard-0/  journal-0  journal-1  journal-2 …      fixed names, reused in place
//!
//!   spent ──prepare──▶ prepared ──current is full──▶ current ──full──▶ closed ──checkpoint passed──▶ spent
//!     ▲                                                                                                │
//!     └────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Preparation writes a header with a new random incarnation and the next file number, flushed: from then on nothing
//! of the old lap can pass for a group. A new file is filled with zeros before, so that group writes overwrite blocks in
//! place and their flush carries no file system metadata. The first file of a journal is filled behind its header, in the
//! background, which gives way as soon as groups catch up with it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::sync::Semaphore;
use highwater_io::{FileError, Io, IoBuf, Task, fs};

use crate::journal::format::{FILE_HEADER_BYTES, FileHeader, Incarnation};
use crate::mutants;

/// Bytes of zeros written at a time.
const ZERO_STEP_BYTES: u64 = 1 << 20;

/// One journal file in one use.
pub(crate) struct JournalFile {
    pub(crate) file: fs::File,
    pub(crate) header: FileHeader,
    pub(crate) size_bytes: u64,
    /// End of the part that is filled with zeros or groups; group writes beyond it wait for [`Self::zeroing`].
    zeroed_bytes: Cell<u64>,
    /// Held while zeros are written, so that they never land on a group.
    zeroing: Semaphore,
    /// Set once a group was written beyond the zeros: from then on no more are.
    overtaken: Cell<bool>,
}

impl JournalFile {
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.header.incarnation
    }

    /// Whether [`claim`](Self::claim) has nothing to wait for.
    pub(crate) fn is_zeroed_through(&self, end_bytes: u64) -> bool {
        end_bytes <= self.zeroed_bytes.get() || self.overtaken.get()
    }

    /// Makes sure that no zeros will be written below `end_bytes` from now on.
    pub(crate) async fn claim(&self, end_bytes: u64) {
        if self.is_zeroed_through(end_bytes) {
            return;
        }
        self.overtaken.set(true);
        let _turn = self.zeroing.acquire(1).await;
    }

    /// Writes zeros from `from_bytes` on until the end or until groups catch up.
    async fn zero_rest(&self) -> Result<(), FileError> {
        let zeros = zeros();
        loop {
            let _turn = self.zeroing.acquire(1).await;
            let at = self.zeroed_bytes.get();
            if self.overtaken.get() || at >= self.size_bytes {
                return Ok(());
            }
            let len = ZERO_STEP_BYTES.min(self.size_bytes - at);
            let piece = zeros.slice(..usize::try_from(len).expect("a step fits memory"));
            self.file.write_at(vec![piece], at, fs::Durability::Plain).await?;
            self.zeroed_bytes.set(at + len);
        }
    }
}

fn zeros() -> Bytes {
    let step = usize::try_from(ZERO_STEP_BYTES).expect("a step fits memory");
    let mut buf = IoBuf::with_capacity(step);
    buf.set_len(step);
    buf.freeze()
}

/// A file whose groups are all below some sequence.
struct Closed {
    slot: usize,
    last_sequence: u64,
}

/// The files of one journal and their use.
pub(crate) struct Files {
    io: Io,
    dir: PathBuf,
    generation: [u8; 16],
    file_bytes: u64,
    max_files: usize,
    direct: bool,
    next_number: Cell<u64>,
    slots: Cell<usize>,
    spent: RefCell<Vec<usize>>,
    /// The slot whose header may have been written with the next number, and which is not ready: it is the next one, or
    /// two files had that number.
    begun: Cell<Option<usize>>,
    closed: RefCell<VecDeque<Closed>>,
    current_slot: Cell<usize>,
    /// Fills the first file; ends with the journal.
    zeroing: RefCell<Option<Task<()>>>,
}

impl Files {
    /// The first file of a new journal in `dir`, which exists and is empty. Its name is durable when this returns.
    pub(crate) async fn create(
        io: &Io,
        dir: &Path,
        generation: [u8; 16],
        file_bytes: u64,
        max_files: usize,
        direct: bool,
    ) -> Result<(Rc<Self>, Rc<JournalFile>), FileError> {
        let files = Rc::new(Files {
            io: io.clone(),
            dir: dir.to_owned(),
            generation,
            file_bytes,
            max_files: max_files.max(2),
            direct,
            next_number: Cell::new(0),
            slots: Cell::new(0),
            spent: RefCell::default(),
            begun: Cell::new(None),
            closed: RefCell::default(),
            current_slot: Cell::new(0),
            zeroing: RefCell::new(None),
        });
        let (slot, first) =
            files.prepare(Zeroing::FirstStep).await?.expect("a new journal has room for a file");
        files.current_slot.set(slot);
        let zeroed = Rc::clone(&first);
        // Zeros are for speed alone: where they cannot be written, groups still can, or will say why not.
        let zeroing = io.spawn(async move {
            if let Err(error) = zeroed.zero_rest().await {
                tracing::warn!("{error}: the journal goes on without being filled in advance");
            }
        });
        files.zeroing.replace(Some(zeroing));
        Ok((files, first))
    }

    /// Makes the next file ready: a spent one, or a new one while there may be more. `None` when all are in use.
    pub(crate) async fn prepare_next(&self) -> Result<Option<(usize, Rc<JournalFile>)>, FileError> {
        self.prepare(Zeroing::Whole).await
    }

    async fn prepare(&self, zeroing: Zeroing) -> Result<Option<(usize, Rc<JournalFile>)>, FileError> {
        let Some(slot) = self.take_slot() else { return Ok(None) };
        let is_new = slot >= self.slots.get();
        let prepared = self.prepare_slot(slot, is_new, zeroing).await;
        if prepared.is_err() && !is_new && self.begun.get() != Some(slot) {
            self.spent.borrow_mut().push(slot);
        }
        Ok(Some((slot, Rc::new(prepared?))))
    }

    /// The slot of the next file, which whoever takes it gives back if it comes to nothing.
    fn take_slot(&self) -> Option<usize> {
        let slots = self.slots.get();
        let may_grow = || (slots < self.max_files).then_some(slots);
        self.begun.get().or_else(|| self.spent.borrow_mut().pop()).or_else(may_grow)
    }

    async fn prepare_slot(
        &self,
        slot: usize,
        is_new: bool,
        zeroing: Zeroing,
    ) -> Result<JournalFile, FileError> {
        let file = self.open_slot(slot).await?;
        // Begun before: it is filled.
        let is_filled = !is_new || self.begun.get() == Some(slot);
        let mut incarnation = [0; 16];
        self.io.random_bytes(&mut incarnation);
        let number = self.next_number.get();
        let header = FileHeader {
            incarnation: Incarnation(incarnation),
            generation: self.generation,
            file_number: number,
            len_bytes: self.file_bytes,
        };
        let prepared = JournalFile {
            file,
            header,
            size_bytes: self.file_bytes,
            zeroed_bytes: Cell::new(if is_filled { self.file_bytes } else { FILE_HEADER_BYTES }),
            zeroing: Semaphore::new(1),
            overtaken: Cell::new(false),
        };
        if !is_filled {
            prepared.file.allocate(0, self.file_bytes).await?;
            // What finds no space does so before the file has a number: a spent one takes its turn then.
            if zeroing == Zeroing::Whole {
                prepared.zero_rest().await?;
            }
            // The header tells the length.
            prepared.file.sync_all().await?;
        }
        let mut block = IoBuf::with_capacity(FILE_HEADER_BYTES as usize);
        block.extend_from_slice(&header.encode());
        self.begun.set(Some(slot));
        prepared.file.write_at(vec![block.freeze()], 0, fs::Durability::Plain).await?;
        prepared.file.sync_data().await?;
        if is_new {
            self.io.fs().sync_dir(&self.dir).await?;
            self.slots.set(slot + 1);
        }
        self.next_number.set(number + 1);
        self.begun.set(None);
        Ok(prepared)
    }

    async fn open_slot(&self, slot: usize) -> Result<fs::File, FileError> {
        let path = self.dir.join(format!("journal-{slot}"));
        let options = fs::OpenOptions::read_write().create();
        let options = if self.direct { options.direct() } else { options };
        let file = self.io.fs().open(path, options).await?;
        lock_for_writing(&self.io, &file).await?;
        Ok(file)
    }

    /// Ends what goes on in the background.
    pub(crate) fn stop(&self) {
        self.zeroing.take();
    }

    /// Notes that the current file is full with `last_sequence` in it, and that `slot` is current now.
    pub(crate) fn switch(&self, last_sequence: u64, slot: usize) {
        let full = self.current_slot.replace(slot);
        self.closed.borrow_mut().push_back(Closed { slot: full, last_sequence });
    }

    /// Lets files be used again whose groups are all at or below `sequence`; tells whether there were any.
    pub(crate) fn release_through(&self, sequence: u64) -> bool {
        let mut closed = self.closed.borrow_mut();
        let mut released = false;
        while closed.front().is_some_and(|file| file.last_sequence <= sequence) {
            let file = closed.pop_front().expect("looked at");
            self.spent.borrow_mut().push(file.slot);
            released = true;
        }
        released
    }
}

/// Makes the first file of a journal that begins with the next start's first append, so that a journal without any file is
/// one that lost them. Its name is durable once `dir` is flushed.
pub(crate) async fn create_first(io: &Io, dir: &Path, generation: [u8; 16]) -> Result<(), FileError> {
    let options = fs::OpenOptions::read_write().create();
    let file = io.fs().open(dir.join("journal-0"), options).await?;
    lock_for_writing(io, &file).await?;
    // No group ever belongs to this incarnation.
    let header =
        FileHeader { incarnation: Incarnation(generation), generation, file_number: 0, len_bytes: 0 };
    file.write_at(vec![header.encode().into()], 0, fs::Durability::Plain).await?;
    file.sync_all().await
}

#[derive(PartialEq, Eq)]
enum Zeroing {
    FirstStep,
    Whole,
}

/// Waits for the lock of a file that will be written through the ring (rule 3): requests of a dead process keep it
/// until the last of them has landed.
pub(crate) async fn lock_for_writing(io: &Io, file: &fs::File) -> Result<(), FileError> {
    const RETRY: Duration = Duration::from_millis(2);
    const REPORT_AFTER: u32 = 1_000;
    let mut attempts = 0;
    while !file.try_lock().await? && !mutants::SKIP_LOCK_WAIT.is_on() {
        attempts += 1;
        if attempts == REPORT_AFTER {
            tracing::warn!(path = %file.path().display(), "waiting for the lock: a dead process may still be writing");
        }
        io.sleep(RETRY).await;
    }
    Ok(())
}

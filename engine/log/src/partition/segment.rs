//! One segment: a file of record batches, in Kafka's format, with its sparse index.
//!
//! Written only by the write-behind ([`crate::drain`]) and by recovery, in aligned direct chunks. While it is the active
//! one its file is longer than its data (space is reserved ahead); at a roll it is trimmed. Descriptors are opened when
//! needed and given back under a bound ([`super::open_files`]).

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use highwater_io::sync::Semaphore;
use highwater_io::{FileError, FileOp, IO_ALIGNMENT, Io, IoBuf, fs};
use highwater_model::Offset;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};

use crate::error::{LogError, ReadError};
use crate::journal::files::lock_for_writing;
use crate::kafka_files::{INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX, segment_path};
use crate::partition::index::SparseIndex;
use crate::partition::open_files::{OpenFile, OpenFiles};
use crate::partition::read_pace::Paced;

/// Bytes read at a time when batch headers are walked.
const WALK_BYTES: usize = 64 << 10;

/// Largest index file in bytes that is read; Kafka's default bound is 10 MiB.
const MAX_INDEX_BYTES: usize = 64 << 20;

pub(crate) struct Segment {
    pub(crate) base_offset: Offset,
    dir: Rc<Path>,
    /// Data in bytes, accepted appends included.
    size_bytes: Cell<u64>,
    /// File length in bytes that is reserved on the medium.
    pub(crate) reserved_bytes: Cell<u64>,
    /// Sequence of the group with its roll; 0 if it has none, or none that this process wrote.
    pub(crate) rolled_in: Cell<u64>,
    /// Whether it is trimmed, flushed and never written again.
    closed: Cell<bool>,
    /// Whether the log does not have it any more, and its files go.
    removed: Cell<bool>,
    /// Whether compaction has put another one in its place: what cannot be read here is there.
    replaced: Cell<bool>,
    file: RefCell<Weak<OpenFile>>,
    /// The same while compaction has not given it its name: under that name another file is found.
    nameless: RefCell<Option<Rc<OpenFile>>>,
    files: Rc<OpenFiles>,
    /// Held while the file is opened: a second description would wait for the first one's lock.
    opening: Semaphore,
    pub(crate) index: RefCell<SparseIndex>,
    index_loaded: Cell<bool>,
}

impl Segment {
    /// A segment that exists on disk with `size_bytes` of data, or is to be created with none.
    pub(crate) fn new(
        dir: Rc<Path>,
        base_offset: Offset,
        size_bytes: u64,
        closed: bool,
        files: &Rc<OpenFiles>,
    ) -> Rc<Self> {
        Rc::new(Segment {
            base_offset,
            dir,
            size_bytes: Cell::new(size_bytes),
            reserved_bytes: Cell::new(0),
            rolled_in: Cell::new(0),
            closed: Cell::new(closed),
            removed: Cell::new(false),
            replaced: Cell::new(false),
            file: RefCell::new(Weak::new()),
            nameless: RefCell::default(),
            files: Rc::clone(files),
            opening: Semaphore::new(1),
            index: RefCell::default(),
            // A new segment's index is complete from the start.
            index_loaded: Cell::new(size_bytes == 0),
        })
    }

    /// A segment that compaction made: closed, with its file open, and the whole of its index known. The file stays open, whatever
    /// the bound says, until [`close_file`](Self::close_file) says that it has its name.
    pub(crate) fn compacted(
        dir: Rc<Path>,
        base_offset: Offset,
        size_bytes: u64,
        file: fs::File,
        index: SparseIndex,
        files: &Rc<OpenFiles>,
    ) -> Rc<Self> {
        let segment = Segment::new(dir, base_offset, size_bytes, true, files);
        segment.reserved_bytes.set(size_bytes);
        let file = files.keep(file);
        segment.file.replace(Rc::downgrade(&file));
        segment.nameless.replace(Some(file));
        segment.index.replace(index);
        segment.index_loaded.set(true);
        segment
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes.get()
    }

    pub(crate) fn set_size(&self, size_bytes: u64) {
        self.size_bytes.set(size_bytes);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.get()
    }

    pub(crate) fn set_removed(&self) {
        self.removed.set(true);
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.get()
    }

    pub(crate) fn set_replaced(&self) {
        self.replaced.set(true);
    }

    pub(crate) fn set_closed(&self, closed: bool) {
        self.closed.set(closed);
    }

    pub(crate) fn path(&self, suffix: &str) -> PathBuf {
        segment_path(&self.dir, self.base_offset, suffix)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path(LOG_SUFFIX)
    }

    /// Whether its file is there and has room on the medium up to `end_bytes`.
    pub(crate) fn is_reserved(&self, end_bytes: u64) -> bool {
        let reserved = self.reserved_bytes.get();
        end_bytes.next_multiple_of(IO_ALIGNMENT as u64) <= reserved && (self.is_open() || reserved > 0)
    }

    /// Whether a descriptor is open.
    pub(crate) fn is_open(&self) -> bool {
        self.file.borrow().strong_count() > 0
    }

    /// Gives the descriptor back; it is opened again when needed.
    pub(crate) fn close_file(&self) {
        self.nameless.take();
        if let Some(file) = self.file.take().upgrade() {
            self.files.forget(&file);
        }
    }

    fn open_file(&self) -> Option<Rc<OpenFile>> {
        let file = self.file.borrow().upgrade()?;
        self.files.note_use(&file);
        Some(file)
    }

    /// The file, for reading and writing, which is there. The first opening for writing waits for a dead process's requests.
    ///
    /// Of a segment that the log does not have any more only a description that is open still: what has its path now is another
    /// file, perhaps another topic's.
    pub(crate) async fn file(&self, io: &Io, direct: bool) -> Result<Rc<OpenFile>, FileError> {
        self.file_with(io, direct, false).await
    }

    /// As [`file`](Self::file), and makes it if it is not there. Only for who is about to write to it, and so keeps truncations and
    /// deletions away.
    pub(crate) async fn file_or_new(&self, io: &Io, direct: bool) -> Result<Rc<OpenFile>, FileError> {
        self.file_with(io, direct, true).await
    }

    async fn file_with(&self, io: &Io, direct: bool, create: bool) -> Result<Rc<OpenFile>, FileError> {
        if let Some(file) = self.open_file() {
            return Ok(file);
        }
        let _turn = self.opening.acquire(1).await;
        loop {
            if let Some(file) = self.open_file() {
                return Ok(file);
            }
            self.check_is_there()?;
            let closed = self.closed.get();
            let options = if closed { fs::OpenOptions::read_only() } else { fs::OpenOptions::read_write() };
            let options = if closed || !create { options } else { options.create() };
            let options = if direct { options.direct() } else { options };
            let file = io.fs().open(self.log_path(), options).await?;
            if !closed {
                lock_for_writing(io, &file).await?;
                self.reserved_bytes.set(self.reserved_bytes.get().max(file.len().await?));
            }
            // What became of it while it was being opened.
            self.check_is_there()?;
            if self.closed.get() == closed {
                let file = self.files.keep(file);
                self.file.replace(Rc::downgrade(&file));
                return Ok(file);
            }
        }
    }

    fn check_is_there(&self) -> Result<(), FileError> {
        if !self.is_removed() && !self.is_replaced() {
            return Ok(());
        }
        let source = std::io::ErrorKind::NotFound.into();
        Err(FileError { op: FileOp::Open, path: self.log_path(), position_bytes: None, source })
    }

    /// Reads the bytes from `position_bytes` up to `end_bytes`, whatever the alignment.
    pub(crate) async fn read(
        &self,
        io: &Io,
        direct: bool,
        position_bytes: u64,
        end_bytes: u64,
    ) -> Result<Bytes, ReadError> {
        self.read_into(io, direct, position_bytes, end_bytes, IoBuf::with_capacity, None).await
    }

    /// As [`read`](Self::read), into memory of so many bytes that `buf` gives, and no faster than `paced` lets it.
    pub(crate) async fn read_into(
        &self,
        io: &Io,
        direct: bool,
        position_bytes: u64,
        end_bytes: u64,
        buf: impl FnOnce(usize) -> IoBuf,
        paced: Option<Paced<'_>>,
    ) -> Result<Bytes, ReadError> {
        let alignment = highwater_io::IO_ALIGNMENT as u64;
        let start = position_bytes / alignment * alignment;
        let end = end_bytes.next_multiple_of(alignment);
        let len = usize::try_from(end - start).expect("reads are bounded by the request");
        let piece_of = |missing| paced.map_or(missing, |paced| paced.piece_bytes(missing));
        let turn_for = async |missing| match paced {
            Some(paced) => Some(paced.begin(piece_of(missing)).await),
            None => None,
        };
        // Who waits for its turn holds neither file nor memory.
        let mut turn = turn_for(len).await;
        let file = self.file(io, direct).await.map_err(|error| io_error(&error))?;
        let mut rest = buf(len);
        let mut buf = rest.split_to(0);
        loop {
            let piece_bytes = piece_of(len - buf.len());
            let (piece, at) = (rest.split_to(piece_bytes), start + buf.len() as u64);
            let piece = file.read_at(piece, at, piece_bytes).await.map_err(|error| io_error(&error))?;
            drop(turn);
            let is_end = piece.len() < piece_bytes;
            buf.unsplit(piece);
            if is_end || buf.len() >= len {
                break;
            }
            turn = turn_for(len - buf.len()).await;
        }
        let skip = usize::try_from(position_bytes - start).expect("less than a block");
        let wanted = usize::try_from(end_bytes - position_bytes).expect("reads are bounded by the request");
        let bytes = buf.freeze();
        if bytes.len() < skip + wanted {
            let at = start + bytes.len() as u64;
            return Err(self.corrupt(at, format!("the file ends, {end_bytes} bytes were expected")));
        }
        Ok(bytes.slice(skip..skip + wanted))
    }

    /// An error about damage in this segment.
    pub(crate) fn corrupt(&self, position_bytes: u64, what: impl Into<Arc<str>>) -> ReadError {
        let path = self.log_path().display().to_string().into();
        ReadError::Corrupt { path, position_bytes, what: what.into() }
    }

    pub(crate) fn bad_batch(&self, position_bytes: u64, error: &BatchError) -> ReadError {
        self.corrupt(position_bytes, error.to_string())
    }

    /// Loads the index files of a closed segment, once. Without usable ones the index is built by walking.
    pub(crate) async fn load_index(&self, io: &Io) {
        if self.index_loaded.get() {
            return;
        }
        if !self.closed.get() {
            self.index_loaded.set(true);
            return;
        }
        let offsets = io.fs().read_file(self.path(INDEX_SUFFIX), MAX_INDEX_BYTES).await;
        let times = io.fs().read_file(self.path(TIME_INDEX_SUFFIX), MAX_INDEX_BYTES).await;
        // Only now: whoever came meanwhile reads them, too, and does not walk the segment because of one who went away. What is
        // there and was not opened for lack of a descriptor is there the next time.
        let is_short =
            |read: &Result<Bytes, FileError>| read.as_ref().is_err_and(FileError::is_out_of_descriptors);
        let is_tried = !is_short(&offsets) && !is_short(&times);
        if self.index_loaded.replace(is_tried) {
            // Somebody was faster, or found that it misleads.
            self.index_loaded.set(true);
            return;
        }
        let (Ok(offsets), Ok(times)) = (offsets, times) else { return };
        // Cut meanwhile, it has no index files any more.
        if self.index.borrow().covered_bytes() > 0 || !self.closed.get() {
            return;
        }
        // An index without entries says nothing of a segment that has many batches, and Kafka's preallocated index
        // files of an unclean stop are full of zeros, which do not rise.
        if let Some(index) = SparseIndex::decode(&offsets, &times, self.base_offset, self.size_bytes.get())
            && index.max_time().is_some()
        {
            *self.index.borrow_mut() = index;
        }
    }

    /// Forgets the index: it misled us.
    pub(crate) fn drop_index(&self) {
        self.index_loaded.set(true);
        *self.index.borrow_mut() = SparseIndex::default();
    }

    /// Walks batch headers from where the index ends until `visit` has seen enough or `end_bytes` is reached, and lets
    /// the index learn from them.
    pub(crate) async fn extend_index(
        &self,
        io: &Io,
        direct: bool,
        end_bytes: u64,
        bound: Offset,
        interval_bytes: u64,
    ) -> Result<(), ReadError> {
        self.load_index(io).await;
        let part = self.not_covered(end_bytes, bound);
        self.walk(io, direct, part, |position, header| {
            self.index.borrow_mut().note(header, position, interval_bytes);
            Walk::On
        })
        .await
        .map(|_| ())
    }

    /// What the index does not know of the bytes up to `end_bytes` and the offsets up to `bound`.
    pub(crate) fn not_covered(&self, end_bytes: u64, bound: Offset) -> Part {
        let index = self.index.borrow();
        let floor = index.next_floor().max(self.base_offset);
        Part { from_bytes: index.covered_bytes(), end_bytes, offsets: OffsetRange { floor, bound } }
    }

    /// The header of the batch at `position_bytes`, whose offsets must follow those of the batch before.
    pub(crate) fn header(
        &self,
        position_bytes: u64,
        bytes: &[u8],
        offsets: &mut OffsetRange,
    ) -> Result<BatchHeader, ReadError> {
        let header = BatchHeader::parse(bytes).map_err(|error| self.bad_batch(position_bytes, &error))?;
        if offsets.admit(&header) { Ok(header) } else { Err(self.misplaced(position_bytes)) }
    }

    /// An error about a batch that [`OffsetRange`] does not admit.
    pub(crate) fn misplaced(&self, position_bytes: u64) -> ReadError {
        self.corrupt(position_bytes, "the batch's offsets do not follow the batch before")
    }

    /// Walks batch headers; returns where it stopped.
    pub(crate) async fn walk(
        &self,
        io: &Io,
        direct: bool,
        part: Part,
        mut visit: impl FnMut(u64, &BatchHeader) -> Walk,
    ) -> Result<u64, ReadError> {
        let Part { from_bytes, end_bytes, mut offsets } = part;
        let mut position = from_bytes;
        let mut window = Bytes::new();
        let mut window_start = from_bytes;
        while position < end_bytes {
            let window_end = window_start + window.len() as u64;
            if position + BATCH_HEADER_BYTES as u64 > window_end {
                let end = (position + WALK_BYTES as u64).min(end_bytes);
                window = self.read(io, direct, position, end).await?;
                window_start = position;
            }
            let at = usize::try_from(position - window_start).expect("inside the window");
            let header = self.header(position, &window[at..], &mut offsets)?;
            let next = position + header.size_bytes as u64;
            if next > end_bytes {
                return Err(self.corrupt(position, "the batch is longer than the segment"));
            }
            if visit(position, &header) == Walk::Stop {
                return Ok(position);
            }
            position = next;
        }
        Ok(position)
    }
}

/// Offsets that the next batch may have. No checksum covers a base offset, but offsets rise from batch to batch (where
/// compaction left some out, by more than one), and those of the next segment are above all of this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OffsetRange {
    /// Least base offset.
    pub(crate) floor: Offset,
    /// Exclusive end.
    pub(crate) bound: Offset,
}

impl OffsetRange {
    /// Whether `header` is the next batch's; then the one after it begins above.
    pub(crate) fn admit(&mut self, header: &BatchHeader) -> bool {
        let follows = header.base_offset >= self.floor && header.last_offset() < self.bound;
        if follows {
            self.floor = header.next_offset();
        }
        follows
    }
}

/// A part of a segment that holds whole batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Where a batch begins.
    pub(crate) from_bytes: u64,
    pub(crate) end_bytes: u64,
    pub(crate) offsets: OffsetRange,
}

/// Whether to look at the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    On,
    Stop,
}

pub(crate) fn io_error(error: &FileError) -> ReadError {
    if error.is_out_of_descriptors() {
        return LogError::OutOfDescriptors { path: error.path.display().to_string().into() }.into();
    }
    ReadError::Io { cause: error.to_string().into() }
}

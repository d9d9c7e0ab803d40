//! Reading a journal file from front to back, with several large reads in flight.
//!
//! ```text
//!   file   ─────────┬──── kept ────┬──── in flight ────┬─────────
//!                asked for                          end of reading ahead
//! ```
//!
//! Each byte is read once, in chunks of [`CHUNK_BYTES`], so that recovery goes at the speed of the device whatever the size
//! of the groups. One smaller chunk is read at first, and more ahead the further the reader comes, up to [`CHUNKS_IN_FLIGHT`]: a look
//! at one place costs little. What is asked for is given as it was read, without a copy, unless it lies across chunks. An
//! unreadable sector counts as nothing there: zeros stand for the block around it, and the blocks beside it are read one by
//! one.
//!
//! The memory of the chunks is a pool's, which goes round: memory that is new to the process costs more than the reading.
//! Whoever keeps a part of a chunk keeps its memory; where the pool has none left, a chunk has its own.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{BufPool, FileError, Io, IoBuf, Task, fs};

use crate::journal::format::MIN_ALIGNMENT;

/// Bytes of one read: few of the entries lie across two.
pub(crate) const CHUNK_BYTES: u64 = 2 << 20;

/// Bytes of the first.
const FIRST_CHUNK_BYTES: u64 = 1 << 20;

/// Reads that are submitted ahead of the place where bytes are wanted.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Chunks in the memory that the readers of one recovery share: what is gathered for segments, and what is read ahead.
const POOLED_CHUNKS: usize = 32;

/// Bytes of the unit in which damage is gone round.
const BLOCK_BYTES: usize = MIN_ALIGNMENT as usize;

/// Linux's number for an input/output error.
const EIO: i32 = 5;

/// Memory for the chunks of any number of readers; see the module.
pub(crate) fn chunk_pool() -> BufPool {
    BufPool::new(CHUNK_BYTES as usize, POOLED_CHUNKS, POOLED_CHUNKS)
}

/// Bytes that follow each other in a file, in the pieces in which they were read.
pub(crate) struct Stretch {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Stretch {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The pieces in order. All but the last of a file are whole blocks.
    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// A part, which must lie inside: a copy only if it lies in more than one piece.
    pub(crate) fn slice(&self, range: Range<usize>) -> Bytes {
        let mut parts: Vec<Bytes> = Vec::new();
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + piece.len();
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                parts.push(piece.slice(from - start..to - start));
            }
            start = end;
        }
        if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() }
    }
}

struct Chunk {
    position_bytes: u64,
    len: usize,
    content: Content,
}

enum Content {
    Coming(Task<Result<Bytes, FileError>>),
    Here(Bytes),
}

/// One file, read forwards.
pub(crate) struct ReadAhead {
    io: Io,
    pool: BufPool,
    file: Rc<fs::File>,
    end_bytes: u64,
    /// Where the next read begins.
    next_bytes: u64,
    /// Reads that may be in flight.
    window: usize,
    chunks: VecDeque<Chunk>,
}

impl ReadAhead {
    /// Begins at `position_bytes`, a multiple of [`MIN_ALIGNMENT`]. Nothing is read until something is asked for. What is
    /// left of `end_bytes` behind the last whole block cannot be read directly, and no group ends in it. Whether a file
    /// was cut, the length in its header tells.
    pub(crate) fn new(
        io: &Io,
        pool: &BufPool,
        file: Rc<fs::File>,
        position_bytes: u64,
        end_bytes: u64,
    ) -> Self {
        debug_assert!(position_bytes.is_multiple_of(MIN_ALIGNMENT), "reads are direct");
        ReadAhead {
            io: io.clone(),
            pool: pool.clone(),
            file,
            end_bytes: end_bytes / MIN_ALIGNMENT * MIN_ALIGNMENT,
            next_bytes: position_bytes,
            window: 1,
            chunks: VecDeque::new(),
        }
    }

    /// The bytes from `position_bytes` on, `len` of them or as many as the file has. Positions never go back.
    pub(crate) async fn bytes(&mut self, position_bytes: u64, len: usize) -> Result<Bytes, FileError> {
        let found = self.stretch(position_bytes, len).await?;
        Ok(found.slice(0..found.len()))
    }

    /// As [`bytes`](Self::bytes), in the pieces in which they were read.
    pub(crate) async fn stretch(&mut self, position_bytes: u64, len: usize) -> Result<Stretch, FileError> {
        let end = position_bytes.saturating_add(len as u64).min(self.end_bytes);
        self.forget_before(position_bytes);
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut at = position_bytes;
        let mut index = 0;
        while at < end {
            self.request_ahead();
            let Some(chunk) = self.chunks.get_mut(index) else { break };
            let bytes = chunk.wait().await?;
            let from = usize::try_from(at - chunk.position_bytes).expect("inside the chunk");
            let to = bytes.len().min(from + usize::try_from(end - at).expect("at most what was asked for"));
            if from >= to {
                // The file ends before its length.
                break;
            }
            pieces.push(bytes.slice(from..to));
            at += (to - from) as u64;
            index += 1;
            if at < end {
                self.widen();
            }
        }
        let len = pieces.iter().map(Bytes::len).sum();
        Ok(Stretch { pieces, len })
    }

    fn forget_before(&mut self, position_bytes: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.end_bytes() <= position_bytes) {
            self.chunks.pop_front();
            self.widen();
        }
        if self.chunks.is_empty() {
            self.next_bytes = self.next_bytes.max(position_bytes / MIN_ALIGNMENT * MIN_ALIGNMENT);
        }
    }

    fn widen(&mut self) {
        self.window = (self.window * 2).min(CHUNKS_IN_FLIGHT);
    }

    fn request_ahead(&mut self) {
        let coming = self.chunks.iter().filter(|chunk| matches!(chunk.content, Content::Coming(_))).count();
        for _ in coming..self.window {
            if self.next_bytes >= self.end_bytes {
                return;
            }
            let position_bytes = self.next_bytes;
            let wanted = if self.window == 1 { FIRST_CHUNK_BYTES } else { CHUNK_BYTES };
            let len = usize::try_from(wanted.min(self.end_bytes - position_bytes)).expect("a chunk");
            let buf = self.pool.try_take().unwrap_or_else(|| IoBuf::with_capacity(len));
            let reading = read_round_damage(Rc::clone(&self.file), buf, position_bytes, len);
            let content = Content::Coming(self.io.spawn(reading));
            self.chunks.push_back(Chunk { position_bytes, len, content });
            self.next_bytes += len as u64;
        }
    }
}

impl Chunk {
    fn end_bytes(&self) -> u64 {
        self.position_bytes + self.len as u64
    }

    async fn wait(&mut self) -> Result<Bytes, FileError> {
        let bytes = match &mut self.content {
            Content::Here(bytes) => return Ok(bytes.clone()),
            Content::Coming(task) => task.await?,
        };
        self.content = Content::Here(bytes.clone());
        Ok(bytes)
    }
}

async fn read_round_damage(
    file: Rc<fs::File>,
    buf: IoBuf,
    position_bytes: u64,
    len: usize,
) -> Result<Bytes, FileError> {
    if let Some(bytes) = read_into(&file, buf, position_bytes, len).await? {
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let want = BLOCK_BYTES.min(len - bytes.len());
        let block = read_or_nothing(&file, position_bytes + bytes.len() as u64, want).await?;
        let block = block.unwrap_or_else(|| vec![0; want].into());
        bytes.extend_from_slice(&block);
        if block.len() < want {
            break;
        }
    }
    Ok(bytes.into())
}

/// Reads; `None` where a sector cannot be read.
pub(crate) async fn read_or_nothing(
    file: &fs::File,
    position_bytes: u64,
    len: usize,
) -> Result<Option<Bytes>, FileError> {
    read_into(file, IoBuf::with_capacity(len), position_bytes, len).await
}

async fn read_into(
    file: &fs::File,
    buf: IoBuf,
    position_bytes: u64,
    len: usize,
) -> Result<Option<Bytes>, FileError> {
    match file.read_at(buf, position_bytes, len).await {
        Ok(buf) => Ok(Some(buf.freeze())),
        Err(error) if error.errno() == Some(EIO) => {
            tracing::warn!("{error}: counts as torn");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

//! Reading a journal file from front to back, with several large reads in flight.
//!
//! ```text
//!   file   ─────────┬──── kept ────┬──── in flight ────┬─────────
//!                asked for                          end of reading ahead
//! ```
//!
//! Each byte is read once, in chunks of [`CHUNK_BYTES`], so that recovery goes at the speed of the device whatever the size
//! of the groups. One chunk is read at first, and more ahead the further the reader comes, up to [`CHUNKS_IN_FLIGHT`]: a look
//! at one place costs little. An unreadable sector counts as nothing there: zeros stand for
//! the block around it, and the blocks beside it are read one by one.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{FileError, Io, IoBuf, Task, fs};

use crate::journal::format::MIN_ALIGNMENT;

/// Bytes of one read.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// Reads that are submitted ahead of the place where bytes are wanted.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Bytes of the unit in which damage is gone round.
const BLOCK_BYTES: usize = MIN_ALIGNMENT as usize;

/// Linux's number for an input/output error.
const EIO: i32 = 5;

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
    pub(crate) fn new(io: &Io, file: Rc<fs::File>, position_bytes: u64, end_bytes: u64) -> Self {
        debug_assert!(position_bytes.is_multiple_of(MIN_ALIGNMENT), "reads are direct");
        ReadAhead {
            io: io.clone(),
            file,
            end_bytes: end_bytes / MIN_ALIGNMENT * MIN_ALIGNMENT,
            next_bytes: position_bytes,
            window: 1,
            chunks: VecDeque::new(),
        }
    }

    /// The bytes from `position_bytes` on, `len` of them or as many as the file has. Positions never go back.
    pub(crate) async fn bytes(&mut self, position_bytes: u64, len: usize) -> Result<Bytes, FileError> {
        let end = position_bytes.saturating_add(len as u64).min(self.end_bytes);
        self.forget_before(position_bytes);
        let mut found: Vec<Bytes> = Vec::new();
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
            found.push(bytes.slice(from..to));
            at += (to - from) as u64;
            index += 1;
            if at < end {
                self.widen();
            }
        }
        Ok(if found.len() == 1 { found.remove(0) } else { found.concat().into() })
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
            let len = usize::try_from(CHUNK_BYTES.min(self.end_bytes - position_bytes)).expect("a chunk");
            let reading = read_round_damage(Rc::clone(&self.file), position_bytes, len);
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

async fn read_round_damage(file: Rc<fs::File>, position_bytes: u64, len: usize) -> Result<Bytes, FileError> {
    if let Some(bytes) = read_or_nothing(&file, position_bytes, len).await? {
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
    match file.read_at(IoBuf::with_capacity(len), position_bytes, len).await {
        Ok(buf) => Ok(Some(buf.freeze())),
        Err(error) if error.errno() == Some(EIO) => {
            tracing::warn!("{error}: counts as torn");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

//! The batches of one segment, with what is damaged and what still follows.

use std::path::Path;

use bytes::Bytes;
use highwater_io::{FileError, Io, IoBuf, fs};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};

use crate::recovery::EIO;

/// Bytes that are read at a time; a larger batch is read whole.
const WINDOW_BYTES: u64 = 4 << 20;

/// What begins at some byte.
pub(super) enum Seen {
    Intact(BatchHeader),
    /// With the header, where that can be read: then the next batch may be found.
    Damaged {
        header: Option<BatchHeader>,
        what: String,
    },
}

/// Goes through a segment from a batch's first byte to an exclusive end.
pub(super) struct Walk {
    file: fs::File,
    position_bytes: u64,
    end_bytes: u64,
    window: Bytes,
    window_start: u64,
    /// Behind the last batch that was intact.
    intact_end: u64,
}

impl Walk {
    pub(super) async fn open(io: &Io, path: &Path, from: u64, end_bytes: u64) -> Result<Self, FileError> {
        let file = io.fs().open(path, fs::OpenOptions::read_only()).await?;
        let end_bytes = file.len().await?.min(end_bytes);
        Ok(Walk {
            file,
            position_bytes: from,
            end_bytes,
            window: Bytes::new(),
            window_start: 0,
            intact_end: from,
        })
    }

    /// Behind the last batch that was intact.
    pub(super) fn intact_end(&self) -> u64 {
        self.intact_end
    }

    /// What begins at the next batch's place, and the place; `None` at the end, or where nothing can be told any more.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Seen)>, FileError> {
        let position = self.position_bytes;
        if position >= self.end_bytes {
            return Ok(None);
        }
        let (size, seen) = self.look(position).await?;
        self.position_bytes = size.map_or(self.end_bytes, |size| position + size);
        if matches!(seen, Seen::Intact(_)) {
            self.intact_end = self.position_bytes;
        }
        Ok(Some((position, seen)))
    }

    async fn look(&mut self, position: u64) -> Result<(Option<u64>, Seen), FileError> {
        let damaged = |header, what: String| Seen::Damaged { header, what };
        let Some(head) = self.bytes(position, BATCH_HEADER_BYTES as u64).await? else {
            return Ok((None, damaged(None, "cannot be read".to_owned())));
        };
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(error) => return Ok((None, damaged(None, format!("no batch begins here: {error}")))),
        };
        let size = header.size_bytes as u64;
        if size > self.end_bytes - position {
            let what = format!("a batch goes beyond the end at byte {}", self.end_bytes);
            return Ok((None, damaged(Some(header), what)));
        }
        let seen = match self.bytes(position, size).await? {
            None => damaged(Some(header), "cannot be read".to_owned()),
            Some(bytes) => match batch::verify(&bytes) {
                Ok(header) => Seen::Intact(header),
                Err(error) => damaged(Some(header), error.to_string()),
            },
        };
        Ok((Some(size), seen))
    }

    /// So many bytes, or up to the end; `None` if the medium does not give them.
    async fn bytes(&mut self, position: u64, len: u64) -> Result<Option<Bytes>, FileError> {
        let len = len.min(self.end_bytes - position);
        let begin = position.checked_sub(self.window_start);
        let begin = begin.filter(|begin| begin + len <= self.window.len() as u64);
        let in_memory = |begin: u64, len: u64| {
            let at = usize::try_from(begin).expect("inside the window");
            at..at + usize::try_from(len).expect("inside the window")
        };
        if let Some(begin) = begin {
            return Ok(Some(self.window.slice(in_memory(begin, len))));
        }
        for size in [WINDOW_BYTES.max(len).min(self.end_bytes - position), len] {
            let size = usize::try_from(size).expect("below a batch's largest length");
            match self.file.read_at(IoBuf::with_capacity(size), position, size).await {
                Ok(buf) => {
                    self.window = buf.freeze();
                    self.window_start = position;
                    let len = len.min(self.window.len() as u64);
                    return Ok(Some(self.window.slice(in_memory(0, len))));
                }
                // Less of it may be readable.
                Err(error) if error.errno() == Some(EIO) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

//! One segment's batches, and the index files that point at them.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use highwater_io::{FileError, IoBuf, fs};
use highwater_model::Offset;
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};

use super::{Check, PartitionFound, Progress};
use crate::kafka_files::{INDEX_SUFFIX, TIME_INDEX_SUFFIX, segment_path};
use crate::partition::index::SparseIndex;

/// Bytes that are read at a time; a larger batch is read whole.
const WINDOW_BYTES: u64 = 4 << 20;

/// Largest index file that is read.
const MAX_INDEX_BYTES: usize = 64 << 20;

/// Last offsets of batches by the position at which they begin.
type Batches = BTreeMap<u64, Offset>;

/// What is to be checked of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) base_offset: Offset,
    /// Exclusive end.
    pub(super) end_bytes: u64,
    /// Whether the last batch may go beyond the end.
    pub(super) may_be_cut: bool,
    /// Whether nothing is appended to it any more, so that its index must fit.
    pub(super) has_index: bool,
}

impl<P: FnMut(Progress)> Check<'_, P> {
    /// Checks the batches of a part; returns the offset after the last whole one.
    pub(super) async fn segment(
        &mut self,
        dir: &Path,
        path: &Path,
        part: Part,
        found: &mut PartitionFound,
    ) -> Result<Offset, FileError> {
        let Part { base_offset, end_bytes, may_be_cut, has_index } = part;
        let file = self.io.fs().open(path, fs::OpenOptions::read_only()).await?;
        let mut batches = Batches::new();
        let mut next_offset = base_offset;
        let mut position = 0;
        let mut window = Bytes::new();
        let mut window_start = 0;
        while position < end_bytes {
            let at = usize::try_from(position - window_start).expect("inside the window");
            let rest = window.get(at..).unwrap_or_default();
            let header = if rest.len() < BATCH_HEADER_BYTES { None } else { Some(BatchHeader::parse(rest)) };
            let size_bytes = match &header {
                None => BATCH_HEADER_BYTES,
                Some(Ok(header)) => header.size_bytes,
                Some(Err(error)) => {
                    self.problem(path, Some(position), format!("no batch begins here: {error}"));
                    return Ok(next_offset);
                }
            };
            if position + size_bytes as u64 > end_bytes {
                if may_be_cut {
                    // What the journal rewrites begins inside this batch, and has the rest of it.
                    return Ok(next_offset);
                }
                self.problem(
                    path,
                    Some(position),
                    format!("a batch goes beyond the end at byte {end_bytes}"),
                );
                return Ok(next_offset);
            }
            if rest.len() < size_bytes {
                let len = WINDOW_BYTES.max(size_bytes as u64).min(end_bytes - position);
                let len = usize::try_from(len).expect("below a batch's largest length");
                window = match file.read_at(IoBuf::with_capacity(len), position, len).await {
                    Ok(buf) => buf.freeze(),
                    Err(error) => {
                        self.problem(path, Some(position), error.to_string());
                        return Ok(next_offset);
                    }
                };
                if window.len() < size_bytes {
                    self.problem(path, Some(position), "the file ends in the middle of a batch");
                    return Ok(next_offset);
                }
                window_start = position;
                self.at.checked_bytes += window.len() as u64;
                (self.progress)(self.at);
                continue;
            }
            let Some(Ok(header)) = header else { continue };
            batches.insert(position, header.last_offset());
            if let Err(error) = batch::verify(&rest[..size_bytes]) {
                let offsets = format!("offsets {} to {}", header.base_offset, header.last_offset());
                self.problem(path, Some(position), format!("{error} ({offsets})"));
            } else if header.base_offset < next_offset {
                let what = format!("offset {} after {next_offset}", header.base_offset);
                self.problem(path, Some(position), what);
            } else {
                next_offset = header.next_offset();
                found.batches += 1;
                found.records += u64::from(header.record_count.unsigned_abs());
            }
            found.checked_bytes += size_bytes as u64;
            position += size_bytes as u64;
        }
        if has_index {
            self.index(dir, base_offset, end_bytes, &batches).await?;
        }
        Ok(next_offset)
    }

    /// Compares the index files of a closed segment with its batches. They are hints, so that missing ones are no damage.
    async fn index(
        &mut self,
        dir: &Path,
        base_offset: Offset,
        size_bytes: u64,
        batches: &Batches,
    ) -> Result<(), FileError> {
        let path = segment_path(dir, base_offset, INDEX_SUFFIX);
        let times_path = segment_path(dir, base_offset, TIME_INDEX_SUFFIX);
        if !self.io.fs().exists(&path).await? || !self.io.fs().exists(&times_path).await? {
            self.report.notes.push(format!("{}: no index; it is built when needed", path.display()));
            return Ok(());
        }
        let offsets = self.io.fs().read_file(&path, MAX_INDEX_BYTES).await?;
        let times = self.io.fs().read_file(&times_path, MAX_INDEX_BYTES).await?;
        let Some(index) = SparseIndex::decode(&offsets, &times, base_offset, size_bytes) else {
            self.problem(&path, None, "contradicts itself or the segment; it is built anew when needed");
            return Ok(());
        };
        let wrong =
            index.entries().find(|(last_offset, position)| batches.get(position) != Some(last_offset));
        if let Some((last_offset, position)) = wrong {
            let what = format!("says that a batch up to offset {last_offset} begins at byte {position}");
            self.problem(&path, None, what);
        }
        Ok(())
    }
}

//! The files of a compaction: written aside, then put in the place of what they replace, whatever crashes.
//!
//! ```text
//!   A.log  B.log  C.log                        A.log.cleaned                  written, flushed
//!   A.log  B.log  C.log                        A.log.<end>.swap               renamed, directory flushed: decided
//!   A.log                                      A.log.<end>.swap               B, C and stale indexes removed, flushed
//!   A.log (the new one)                                                       renamed, directory flushed
//! ```
//!
//! A start removes `.cleaned`, flushes the directory where there is a `.swap`, and finishes what that says: the segments with
//! base offsets from A up to, and without, `<end>` are replaced. Nothing else is inferred, so that a swap is whole or has not
//! been, also where the segments it replaces have become empty.
//!
//! Readers go on: from the decision on they find the new segment, which keeps its descriptor until it has its name, however few
//! there may be; what who still holds an old one reads is given up once it was replaced, and looked for again.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use highwater_io::{FileError, IO_ALIGNMENT, Io, IoBuf, fs};
use highwater_model::Offset;
use highwater_model::batch::BatchHeader;

use crate::error::LogError;
use crate::kafka_files::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, base_offset_of, segment_path,
};
use crate::mutants;
use crate::partition::PartitionCore;
use crate::partition::index::SparseIndex;
use crate::partition::open_files::OpenFiles;
use crate::partition::segment::Segment;
use crate::shard::ShardCore;

const CLEANED_SUFFIX: &str = ".log.cleaned";
const SWAP_SUFFIX: &str = ".swap";

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// What was decided is finished; where a descriptor or space is short, it is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Segments that are replaced together: base offsets from the first up to, and without, the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) base_offset: Offset,
    pub(crate) end: Offset,
}

impl Replaced {
    pub(crate) fn covers(&self, base_offset: Offset) -> bool {
        (self.base_offset..self.end).contains(&base_offset)
    }

    /// The decided replacement.
    pub(crate) fn swap_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}{LOG_SUFFIX}.{:020}{SWAP_SUFFIX}", self.base_offset.0, self.end.0))
    }

    /// From the name of a decided replacement.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (log, end) = name.strip_suffix(SWAP_SUFFIX)?.rsplit_once('.')?;
        let base_offset = base_offset_of(log, LOG_SUFFIX)?;
        let end = base_offset_of(end, "")?;
        (base_offset < end).then_some(Replaced { base_offset, end })
    }
}

/// Whether a file is one that was being written when its process ended.
pub(crate) fn is_unfinished(name: &str) -> bool {
    base_offset_of(name, CLEANED_SUFFIX).is_some()
}

/// Brings a partition's directory to where every compaction has happened, or has not. Before anything else looks at it.
///
/// It looks again until nothing is left to do: a rename that a dead process had under way may land in between, and finds
/// nothing to rename after that.
pub(crate) async fn finish_swaps(io: &Io, dir: &Path) -> Result<(), FileError> {
    loop {
        let names: Vec<String> = io.fs().read_dir(dir).await?.into_iter().map(|entry| entry.name).collect();
        let unfinished: Vec<&String> = names.iter().filter(|name| is_unfinished(name)).collect();
        let decided: Vec<Replaced> = names.iter().filter_map(|name| Replaced::parse(name)).collect();
        if unfinished.is_empty() && decided.is_empty() {
            return Ok(());
        }
        // The process that decided it may have been killed before its name was durable.
        if !decided.is_empty() && !mutants::FINISH_BEFORE_DECISION.is_on() {
            io.fs().sync_dir(dir).await?;
        }
        for name in unfinished {
            remove_if_there(io, &dir.join(name)).await?;
        }
        for replaced in decided {
            finish_swap(io, dir, &replaced, &names).await?;
        }
    }
}

async fn finish_swap(io: &Io, dir: &Path, replaced: &Replaced, names: &[String]) -> Result<(), FileError> {
    for name in names.iter().filter(|name| is_replaced(name, replaced)) {
        remove_if_there(io, &dir.join(name)).await?;
    }
    if !mutants::FINISH_BEFORE_REMOVAL.is_on() {
        io.fs().sync_dir(dir).await?;
    }
    let target = segment_path(dir, replaced.base_offset, LOG_SUFFIX);
    match io.fs().rename(replaced.swap_path(dir), target).await {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    tracing::info!(dir = %dir.display(), base_offset = %replaced.base_offset, "a compaction was finished");
    io.fs().sync_dir(dir).await
}

/// Whether a file goes before the replacement takes its place, which its rename puts over the first segment.
fn is_replaced(name: &str, replaced: &Replaced) -> bool {
    let of = |suffix| base_offset_of(name, suffix).filter(|base| replaced.covers(*base));
    of(INDEX_SUFFIX).or(of(TIME_INDEX_SUFFIX)).is_some()
        || of(LOG_SUFFIX).or(of(SNAPSHOT_SUFFIX)).is_some_and(|base| base != replaced.base_offset)
}

/// A segment that is being written beside those it will replace.
pub(super) struct CleanedWriter {
    file: fs::File,
    path: PathBuf,
    buf: IoBuf,
    /// Bytes that are in the file.
    written_bytes: u64,
    index: SparseIndex,
    interval_bytes: u64,
}

/// A segment that is whole and flushed, under a name that a start removes.
pub(super) struct Cleaned {
    file: fs::File,
    path: PathBuf,
    pub(super) size_bytes: u64,
    index: SparseIndex,
}

impl CleanedWriter {
    pub(super) async fn create(
        shard: &ShardCore,
        core: &PartitionCore,
        base_offset: Offset,
    ) -> Result<Self, FileError> {
        let path = segment_path(&core.dir, base_offset, CLEANED_SUFFIX);
        remove_if_there(&shard.io, &path).await?;
        let options = fs::OpenOptions::read_write().create_new();
        let options = if shard.direct { options.direct() } else { options };
        Ok(CleanedWriter {
            file: shard.io.fs().open(&path, options).await?,
            path,
            buf: IoBuf::with_capacity(WRITE_BYTES),
            written_bytes: 0,
            index: SparseIndex::default(),
            interval_bytes: core.config.borrow().index_interval_bytes,
        })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.written_bytes + self.buf.len() as u64
    }

    /// Appends a batch.
    pub(super) async fn push(&mut self, batch: &[u8]) -> Result<(), FileError> {
        if let Ok(header) = BatchHeader::parse(batch) {
            self.index.note(&header, self.size_bytes(), self.interval_bytes);
        }
        let mut rest = batch;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(self.buf.remaining()));
            self.buf.extend_from_slice(now);
            rest = later;
            if self.buf.remaining() == 0 {
                self.write().await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), FileError> {
        let mut full = std::mem::replace(&mut self.buf, IoBuf::with_capacity(WRITE_BYTES));
        let len_bytes = full.len() as u64;
        full.pad_to(IO_ALIGNMENT);
        self.file.write_at(vec![full.freeze()], self.written_bytes, fs::Durability::Plain).await?;
        self.written_bytes += len_bytes;
        Ok(())
    }

    /// Ends the segment, durably but for its name.
    pub(super) async fn finish(mut self, shard: &ShardCore) -> Result<Cleaned, FileError> {
        if let Err(error) = self.complete().await {
            self.discard(shard).await;
            return Err(error);
        }
        let CleanedWriter { file, path, written_bytes, index, .. } = self;
        Ok(Cleaned { file, path, size_bytes: written_bytes, index })
    }

    async fn complete(&mut self) -> Result<(), FileError> {
        if !self.buf.is_empty() {
            self.write().await?;
        }
        self.file.set_len(self.written_bytes).await?;
        if mutants::SWAP_BEFORE_FLUSH.is_on() { Ok(()) } else { self.file.sync_all().await }
    }

    pub(super) async fn discard(self, shard: &ShardCore) {
        remove_quietly(&shard.io, &self.path).await;
    }
}

impl Cleaned {
    pub(super) async fn discard(self, shard: &ShardCore) {
        remove_quietly(&shard.io, &self.path).await;
    }
}

async fn remove_if_there(io: &Io, path: &Path) -> Result<(), FileError> {
    match io.fs().remove_file(path).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// A start removes what is left.
async fn remove_quietly(io: &Io, path: &Path) {
    if let Err(error) = remove_if_there(io, path).await {
        tracing::warn!("{error}: a file that is not needed stays until the next start");
    }
}

/// What became of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swapped {
    Yes,
    /// The log was cut, or closed, or does not have these segments any more.
    Stale,
}

impl ShardCore {
    /// Puts `cleaned` in the place of `group`, durably. `cuts` is the number of truncations that the caller knows of.
    pub(super) async fn swap(
        &self,
        core: &Rc<PartitionCore>,
        group: &[Rc<Segment>],
        end: Offset,
        cleaned: Cleaned,
        cuts: u64,
    ) -> Result<Swapped, LogError> {
        let _files_turn = core.files_turn.acquire(1).await;
        let replaced = Replaced { base_offset: group[0].base_offset, end };
        if core.cuts.get() != cuts || !core.has_all(group) {
            cleaned.discard(self).await;
            return Ok(Swapped::Stale);
        }
        let fs = self.io.fs();
        let swap_path = replaced.swap_path(&core.dir);
        fs.rename(&cleaned.path, &swap_path).await.map_err(|error| self.fence(&error))?;
        if !mutants::REMOVE_BEFORE_DECISION.is_on() {
            self.flush_names(core).await?;
        }
        let segment = core.replace_segments(group, replaced, cleaned, &self.open_files);
        for old in group {
            self.note_clean(core, old);
            // Its space is free once nobody reads it any more.
            old.close_file();
            let is_first = old.base_offset == replaced.base_offset;
            let rest: &[&str] = if is_first { &[] } else { &[LOG_SUFFIX, SNAPSHOT_SUFFIX] };
            for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX].iter().chain(rest) {
                let path = segment_path(&core.dir, old.base_offset, suffix);
                self.finally(|| remove_if_there(&self.io, &path)).await?;
            }
        }
        if !mutants::NAME_BEFORE_REMOVAL.is_on() {
            self.flush_names(core).await?;
        }
        let target = segment.log_path();
        self.finally(|| fs.rename(&swap_path, &target)).await?;
        self.flush_names(core).await?;
        // It is opened under its own name from now on, as one of the bounded number.
        segment.close_file();
        match self.write_index_files(&segment).await.map_err(|error| self.fence(&error)) {
            // Without index files the segment is walked where that is needed.
            Err(error) if !self.tell_shortage(&error) => Err(error),
            _ => Ok(Swapped::Yes),
        }
    }

    async fn write_index_files(&self, segment: &Segment) -> Result<(), FileError> {
        let (offsets, times) = {
            let index = segment.index.borrow();
            (index.encode_offsets(segment.base_offset), index.encode_times(segment.base_offset))
        };
        let fs = self.io.fs();
        fs.replace_file_durable(segment.path(INDEX_SUFFIX), offsets.into()).await?;
        fs.replace_file_durable(segment.path(TIME_INDEX_SUFFIX), times.into()).await
    }

    /// Does a step of what was decided. Where something is only short, again and again, until the log closes: the next
    /// start finishes it then.
    async fn finally<F, Fut>(&self, step: F) -> Result<(), LogError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), FileError>>,
    {
        self.finally_or(step, |error| self.fence(error)).await
    }

    /// As [`finally`](Self::finally), of a flush: one that failed for want of space is not tried again (rule 7), one that was not
    /// begun for want of a descriptor is.
    async fn flush_names(&self, core: &PartitionCore) -> Result<(), LogError> {
        let fs = self.io.fs();
        self.finally_or(|| fs.sync_dir(&core.dir), |error| self.fence_device(error)).await
    }

    async fn finally_or<F, Fut>(
        &self,
        step: F,
        fence: impl Fn(&FileError) -> LogError,
    ) -> Result<(), LogError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), FileError>>,
    {
        loop {
            let Err(error) = step().await else { return Ok(()) };
            let error = fence(&error);
            if !self.tell_shortage(&error) || self.is_closing() {
                return Err(error);
            }
            self.io.sleep(RETRY_AFTER).await;
        }
    }
}

impl PartitionCore {
    /// Whether the log still has these very segments, and nobody deletes or closes it.
    fn has_all(&self, group: &[Rc<Segment>]) -> bool {
        let live = self.live.borrow();
        let has = |segment: &Rc<Segment>| {
            let here = live.segments.get(&segment.base_offset);
            here.is_some_and(|here| Rc::ptr_eq(here, segment)) && segment.is_closed()
        };
        !live.closed && group.iter().all(has)
    }

    /// From here on readers find the new segment. The tail forgets what lies at other places now.
    fn replace_segments(
        &self,
        group: &[Rc<Segment>],
        replaced: Replaced,
        cleaned: Cleaned,
        files: &Rc<OpenFiles>,
    ) -> Rc<Segment> {
        let Cleaned { file, size_bytes, index, .. } = cleaned;
        let dir = Rc::clone(&self.dir);
        let segment = Segment::compacted(dir, replaced.base_offset, size_bytes, file, index, files);
        let mut live = self.live.borrow_mut();
        for old in group {
            live.segments.remove(&old.base_offset);
            old.set_replaced();
        }
        live.segments.insert(replaced.base_offset, Rc::clone(&segment));
        live.tail.forget_below(replaced.end);
        self.departures.set(self.departures.get() + 1);
        segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_replacement_tells_what_it_replaces() {
        let replaced = Replaced { base_offset: Offset(42), end: Offset(99) };
        let path = replaced.swap_path(Path::new("d"));
        assert_eq!(path, Path::new("d/00000000000000000042.log.00000000000000000099.swap"));
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(Replaced::parse(name), Some(replaced));
        for other in [
            "00000000000000000042.log.swap",
            "00000000000000000042.log.00000000000000000042.swap",
            "00000000000000000042.index.00000000000000000099.swap",
            "00000000000000000042.log",
        ] {
            assert_eq!(Replaced::parse(other), None, "{other}");
        }
        assert!(is_unfinished("00000000000000000042.log.cleaned"));
        assert!(!is_unfinished("00000000000000000042.log"));
    }

    #[test]
    fn what_is_replaced_goes_and_nothing_else() {
        let replaced = Replaced { base_offset: Offset(42), end: Offset(99) };
        let name = |base: i64, suffix: &str| format!("{base:020}{suffix}");
        let goes = [(42, ".index"), (42, ".timeindex"), (50, ".log"), (98, ".index"), (50, ".snapshot")];
        for (base, suffix) in goes {
            assert!(is_replaced(&name(base, suffix), &replaced), "{base}{suffix}");
        }
        let stays = [(42, ".log"), (42, ".snapshot"), (41, ".log"), (99, ".log"), (99, ".snapshot")];
        for (base, suffix) in stays {
            assert!(!is_replaced(&name(base, suffix), &replaced), "{base}{suffix}");
        }
    }
}

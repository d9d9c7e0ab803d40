//! Recovery: from checkpoints and journals to segments that stand on their own. Always before serving.
//!
//! ```text
//!   newest valid checkpoint ──▶ groups after it, in order ──▶ segments ──flush──▶ seeds for the shards
//!                                 │ torn end: cut
//!                                 └ rot below the durable bound: the partitions concerned are fenced
//! ```
//!
//! The log's end comes from the checkpoint and the journal alone. Entries are applied in order, truncations and rolls
//! included, none skipped by offset; since the first append after a settle repeats the settled block, a block is always
//! written whole, and running it all again gives the same bytes. Nothing here asks cluster metadata.

mod flush;
mod kafka;
mod replay;
mod run;
mod turns;
mod writes;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use highwater_io::{BufPool, Io, IoBuf, concurrent, fs};
use highwater_model::Offset;

use crate::checkpoint;
use crate::compaction::swap::{Replaced, finish_swaps, is_unfinished};
use crate::dir::{
    DAMAGED_PREFIX, FoundDirs, Generation, OpenOptions, PartitionSeed, RecoveryReport, SegmentFile,
    remove_generation,
};
use crate::error::OpenError;
use crate::journal::read_ahead::chunk_pool;
use crate::journal::scan::{Access, Ending, Gap, JournalReader, Next};
use crate::kafka_files::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, base_offset_of, segment_path,
};
use crate::partition::state::PartitionState;
use crate::recovery::replay::Replay;
use crate::recovery::turns::InTurn;

pub(crate) use kafka::import_kafka;
pub(crate) use replay::Inspected;

/// Linux's number for an input/output error.
pub(crate) const EIO: i32 = 5;

/// Journals that are read at the same time: what each waits for, the others do not.
const JOURNALS_AT_ONCE: usize = 4;

/// Recovers every journal of `generation`.
pub(crate) async fn recover(
    io: &Io,
    path: &Path,
    generation: &Generation,
    options: &OpenOptions,
    found: FoundDirs,
    report: &mut RecoveryReport,
) -> Result<Vec<PartitionSeed>, OpenError> {
    if let Some(path) = generation.missing_dir(io).await? {
        return Err(missing(path));
    }
    let mut listings = BTreeMap::new();
    for dir in found.values() {
        let mut listing = Listing::of(io, &dir.path).await?;
        if listing.has_swaps() {
            finish_swaps(io, &dir.path).await?;
            listing = Listing::of(io, &dir.path).await?;
        }
        listings.insert(dir.path.clone(), listing);
    }
    let mut replay = Replay::new(io, path, options, found, Access::Recover);
    replay.set_listings(listings);
    let (mut replay, damaged) = replay_journals(io, generation, replay, report).await?;
    replay.fence_unfounded().await?;
    let held_back = replay.held_back();
    let mut seeds = replay.finish(report).await?;
    let is_complete = |seed: &PartitionSeed| report.was_clean && seed.state.fenced.is_none();
    seeds.iter_mut().for_each(|seed| seed.is_complete = is_complete(seed));
    if damaged || held_back {
        keep_damaged(io, generation, report).await?;
    }
    Ok(seeds)
}

/// What [`recover`] would come to, with nothing changed: the partitions as they would be, and whether they would be fenced.
pub(crate) async fn inspect(
    io: &Io,
    path: &Path,
    generation: &Generation,
    found: FoundDirs,
    report: &mut RecoveryReport,
) -> Result<Vec<Inspected>, OpenError> {
    if let Some(path) = generation.missing_dir(io).await? {
        return Err(missing(path));
    }
    let replay = Replay::new(io, path, &OpenOptions::default(), found, Access::Inspect);
    let (mut replay, _) = replay_journals(io, generation, replay, report).await?;
    replay.fence_unfounded().await?;
    replay.inspect(report).await
}

/// Applies every journal, several at a time, since each has partitions of its own; tells whether rot was found in one.
async fn replay_journals(
    io: &Io,
    generation: &Generation,
    replay: Replay,
    report: &mut RecoveryReport,
) -> Result<(Replay, bool), OpenError> {
    let ending = if report.was_clean { Ending::Clean } else { Ending::Unknown };
    let entries = io.fs().read_dir(&generation.dir).await?;
    let dirs = entries.into_iter().filter(|entry| entry.kind == fs::FileKind::Directory);
    let access = replay.access();
    let (replay, pool) = (Rc::new(InTurn::new(replay)), chunk_pool());
    let work = dirs.map(|entry| {
        let journal = JournalDir {
            io: io.clone(),
            pool: pool.clone(),
            path: generation.dir.join(&entry.name),
            generation: generation.id,
            access,
            ending,
        };
        let replay = Rc::clone(&replay);
        async move { recover_journal(&journal, &replay).await }
    });
    let mut damaged = false;
    for recovered in concurrent::all(io, JOURNALS_AT_ONCE, work).await {
        let recovered = recovered?;
        damaged |= recovered.damaged;
        report.journals += 1;
        report.groups_replayed += recovered.groups_replayed;
        report.bytes_replayed += recovered.bytes_replayed;
        report.bytes_cut += recovered.bytes_cut;
    }
    let replay = Rc::into_inner(replay).expect("every journal is through");
    Ok((replay.into_inner(), damaged))
}

fn missing(path: PathBuf) -> OpenError {
    OpenError::NotOurs {
        path,
        why: "missing, and with it records that were acknowledged; put it back, or restore the data directory from a copy"
            .to_owned(),
    }
}

/// One journal, and how it is read.
struct JournalDir {
    io: Io,
    pool: BufPool,
    path: PathBuf,
    generation: [u8; 16],
    access: Access,
    ending: Ending,
}

/// What applying one journal came to.
#[derive(Default)]
struct Recovered {
    groups_replayed: u64,
    bytes_replayed: u64,
    bytes_cut: u64,
    /// Whether rot was found in it.
    damaged: bool,
}

/// Applies one journal.
async fn recover_journal(journal: &JournalDir, replay: &InTurn<Replay>) -> Result<Recovered, OpenError> {
    let JournalDir { io, pool, path: dir, generation, access, ending } = journal;
    let Some(checkpoint) = checkpoint::read_newest(io, dir, *access).await? else {
        return Err(OpenError::Damaged {
            path: dir.join("checkpoint-0"),
            position_bytes: 0,
            what: "neither checkpoint of this journal is whole, so the end of its logs is not known; \
                   repair the partitions from a replica, or restore a copy"
                .to_owned(),
        });
    };
    let mut partitions = replay.take().await.begin_journal(checkpoint.partitions);
    let place = &checkpoint.place;
    let mut reader = JournalReader::open(io, pool, dir, *generation, place, *access, *ending).await?;
    match reader.gap() {
        Some(Gap::Missing(path)) => return Err(missing(path.clone())),
        Some(Gap::Cut { path, len_bytes }) => {
            return Err(OpenError::Damaged {
                path: path.clone(),
                position_bytes: *len_bytes,
                what: "the journal file ends here, and was longer; put back a whole one, or restore the data directory \
                       from a copy"
                    .to_owned(),
            });
        }
        None => {}
    }
    let mut recovered = Recovered::default();
    loop {
        match reader.next().await? {
            Next::Group(group) => {
                recovered.groups_replayed += 1;
                recovered.bytes_replayed += group.size_bytes;
                replay.take().await.apply_group(&mut partitions, group).await?;
            }
            Next::Rotten { sequence, entries } => {
                recovered.damaged = true;
                let reason =
                    format!("journal {} is damaged at group {sequence}, which was durable", dir.display());
                tracing::error!("{reason}");
                let mut replay = replay.take().await;
                replay.fence(&partitions, entries.as_deref(), &reason);
                // What is gathered keeps the memory of what was read around it.
                replay.write_all_pending().await?;
            }
            Next::Unknown { path } => {
                recovered.damaged = true;
                let reason = format!("{}: the header of this journal file is damaged", path.display());
                tracing::error!("{reason}");
                replay.take().await.fence(&partitions, None, &reason);
            }
            Next::End { cut_bytes } => {
                recovered.bytes_cut += cut_bytes;
                return Ok(recovered);
            }
        }
    }
}

/// Keeps a damaged journal beside the new one: what can still be read of it may be salvaged.
///
/// A copy, since this generation counts until the next one is complete, and goes then: under its name only once it is whole
/// and durable, so that a crash leaves either the original or a copy that can be relied upon.
async fn keep_damaged(
    io: &Io,
    generation: &Generation,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let name = generation.dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let kept = generation.dir.with_file_name(format!("{DAMAGED_PREFIX}{}", name.unwrap_or_default()));
    if !io.fs().exists(&kept).await? {
        let begun = kept.with_extension("tmp");
        if io.fs().exists(&begun).await? {
            remove_generation(io, &begun).await?;
        }
        copy_generation(io, &generation.dir, &begun).await?;
        io.fs().rename(&begun, &kept).await?;
    }
    // A run that crashed may have come to the renaming and no further.
    if let Some(root) = kept.parent() {
        io.fs().sync_dir(root).await?;
    }
    report.strays.push(format!("{}: the damaged journal is kept here", kept.display()));
    Ok(())
}

/// Copies the files of all journals of a generation, durably with their names.
async fn copy_generation(io: &Io, from: &Path, to: &Path) -> Result<(), OpenError> {
    io.fs().create_dir_all_durable(to).await?;
    for shard in io.fs().read_dir(from).await? {
        let (from, to) = (from.join(&shard.name), to.join(&shard.name));
        io.fs().create_dir_all_durable(&to).await?;
        for file in io.fs().read_dir(&from).await? {
            copy_file(io, &from.join(&file.name), &to.join(&file.name)).await?;
        }
        io.fs().sync_dir(&to).await?;
    }
    Ok(io.fs().sync_dir(to).await?)
}

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Where a piece cannot be read, it is copied in pieces of this size: what an unreadable sector takes with it.
const SALVAGE_BYTES: usize = 4 << 10;

/// Copies a file, with zeros for what cannot be read of it.
pub(crate) async fn copy_file(io: &Io, from: &Path, to: &Path) -> Result<(), OpenError> {
    copy_file_from(io, from, to, 0).await
}

/// Copies a file from a byte on, with zeros for what cannot be read of it. Durable when this returns, but for its name.
pub(crate) async fn copy_file_from(
    io: &Io,
    from: &Path,
    to: &Path,
    first_byte: u64,
) -> Result<(), OpenError> {
    let source = io.fs().open(from, fs::OpenOptions::read_only()).await?;
    let target = io.fs().open(to, fs::OpenOptions::read_write().create().truncate()).await?;
    let len = source.len().await?;
    target.set_len(len.saturating_sub(first_byte)).await?;
    for piece in pieces(first_byte..len, COPY_BYTES) {
        if copy_piece(&source, &target, piece.clone(), first_byte).await? == Copied::Unreadable {
            for small in pieces(piece, SALVAGE_BYTES) {
                if copy_piece(&source, &target, small.clone(), first_byte).await? == Copied::Unreadable {
                    let (from, at) = (from.display(), small.start);
                    tracing::warn!("{from}: unreadable at byte {at}, and left out of the copy");
                }
            }
        }
    }
    Ok(target.sync_all().await?)
}

/// Cuts a range of bytes into pieces of a size; the last may be shorter.
fn pieces(range: Range<u64>, size_bytes: usize) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(size_bytes).map(move |start| start..end.min(start + size_bytes as u64))
}

#[derive(Debug, PartialEq, Eq)]
enum Copied {
    Whole,
    Unreadable,
}

async fn copy_piece(
    source: &fs::File,
    target: &fs::File,
    piece: Range<u64>,
    first_byte: u64,
) -> Result<Copied, OpenError> {
    let len = usize::try_from(piece.end - piece.start).unwrap_or(COPY_BYTES);
    match source.read_at(IoBuf::with_capacity(len), piece.start, len).await {
        Ok(buf) => {
            // Space that was only reserved is not written.
            if buf.iter().any(|byte| *byte != 0) {
                let position = piece.start - first_byte;
                target.write_at(vec![buf.freeze()], position, fs::Durability::Plain).await?;
            }
            Ok(Copied::Whole)
        }
        Err(error) if error.errno() == Some(EIO) => Ok(Copied::Unreadable),
        Err(error) => Err(error.into()),
    }
}

/// The files of a partition's directory with their lengths, as a start found them: thousands of directories are looked at
/// once each.
pub(crate) struct Listing(Vec<(String, u64)>);

impl Listing {
    pub(crate) async fn of(io: &Io, dir: &Path) -> Result<Self, OpenError> {
        let entries = io.fs().read_dir_with_lengths(dir).await?;
        Ok(Listing(entries.into_iter().map(|(entry, len_bytes)| (entry.name, len_bytes)).collect()))
    }

    /// Whether a compaction may have been interrupted here.
    fn has_swaps(&self) -> bool {
        self.0.iter().any(|(name, _)| is_unfinished(name) || Replaced::parse(name).is_some())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Length in bytes of a segment's data file.
    pub(crate) fn len_of(&self, base: Offset) -> Option<u64> {
        let is_it = |name: &str| base_offset_of(name, LOG_SUFFIX) == Some(base);
        self.0.iter().find(|(name, _)| is_it(name)).map(|(_, len_bytes)| *len_bytes)
    }
}

/// The segments that belong to a partition, and whether files were removed, so that the directory has to be flushed.
pub(crate) struct Settled {
    pub(crate) segments: Vec<SegmentFile>,
    pub(crate) has_removed: bool,
}

/// Lists a partition's segments as they belong to `state`, and removes those that do not: made ahead for a roll that was
/// never recorded, or passed by the log's start. One that is not there, although the log needs it, fences the partition;
/// of a fenced one nothing is removed.
pub(crate) async fn settle_segments(
    io: &Io,
    dir: &Path,
    state: &mut PartitionState,
    listing: &Listing,
) -> Result<Settled, OpenError> {
    let mut settled = Settled { segments: Vec::new(), has_removed: false };
    let named = names_in(io, dir, listing.names(), Access::Recover).await?;
    if state.fenced.is_none()
        && let Some(base) = missing_segment(&named, state)
    {
        let path = segment_path(dir, base, LOG_SUFFIX);
        fence(state, &format!("{}: missing, and with it records from offset {base} on", path.display()));
    }
    for (&base, &has_data) in &named {
        let passed = next_base(&named, base).is_some_and(|next| state.is_passed(next));
        if base > state.segment_base || passed {
            if state.fenced.is_none() {
                remove_segment(io, dir, base).await?;
                settled.has_removed = true;
            }
            continue;
        }
        if !has_data {
            continue;
        }
        let path = segment_path(dir, base, LOG_SUFFIX);
        let len_bytes = listing.len_of(base).unwrap_or(0);
        let size_bytes = if base == state.segment_base { state.position_bytes } else { len_bytes };
        if len_bytes < size_bytes {
            fence(state, &format!("{}: {len_bytes} bytes long, {size_bytes} expected", path.display()));
        }
        settled.segments.push(SegmentFile { base_offset: base, size_bytes: size_bytes.min(len_bytes) });
    }
    if state.fenced.is_none() {
        remove_snapshots_between(io, dir, state, listing, &settled.segments).await?;
    }
    Ok(settled)
}

/// Removes snapshots of producers that were written where the log ended at a stop, and that it has gone on from since, or was cut
/// back from. One that comes back does no harm.
async fn remove_snapshots_between(
    io: &Io,
    dir: &Path,
    state: &PartitionState,
    listing: &Listing,
    segments: &[SegmentFile],
) -> Result<(), OpenError> {
    for offset in listing.names().filter_map(|name| base_offset_of(name, SNAPSHOT_SUFFIX)) {
        let begins_segment = segments.binary_search_by_key(&offset, |segment| segment.base_offset).is_ok();
        if !begins_segment && offset != state.next_offset && offset != state.segment_base {
            match io.fs().remove_file(segment_path(dir, offset, SNAPSHOT_SUFFIX)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Fences the partition as [`settle_segments`] would after a recovery, which writes what is from `rewritten_from` on. Nothing
/// is changed, and an interrupted compaction counts as finished.
async fn inspect_segments(
    io: &Io,
    dir: &Path,
    state: &mut PartitionState,
    rewritten_from: Option<(Offset, u64)>,
) -> Result<(), OpenError> {
    let mut named = segment_names(io, dir, Access::Inspect).await?;
    if let Some((base, _)) = rewritten_from {
        named.range_mut(base..).for_each(|(_, has_data)| *has_data = true);
        named.extend([(base, true), (state.segment_base, true)]);
    }
    if state.fenced.is_none()
        && let Some(base) = missing_segment(&named, state)
    {
        let path = segment_path(dir, base, LOG_SUFFIX);
        fence(state, &format!("{}: missing, and with it records from offset {base} on", path.display()));
    }
    let is_rewritten = rewritten_from.is_some_and(|(base, _)| base <= state.segment_base);
    let path = segment_path(dir, state.segment_base, LOG_SUFFIX);
    if !is_rewritten && io.fs().exists(&path).await? {
        let len_bytes = io.fs().metadata(&path).await?.len_bytes;
        let size_bytes = state.position_bytes;
        if len_bytes < size_bytes {
            fence(state, &format!("{}: {len_bytes} bytes long, {size_bytes} expected", path.display()));
        }
    }
    Ok(())
}

/// Base offsets of segments of which there is a data or an index file, and whether there is the data.
pub(crate) type SegmentNames = BTreeMap<Offset, bool>;

pub(crate) async fn segment_names(io: &Io, dir: &Path, access: Access) -> Result<SegmentNames, OpenError> {
    let entries = io.fs().read_dir(dir).await?;
    names_in(io, dir, entries.iter().map(|entry| entry.name.as_str()), access).await
}

async fn names_in(
    io: &Io,
    dir: &Path,
    names: impl Iterator<Item = &str>,
    access: Access,
) -> Result<SegmentNames, OpenError> {
    let mut named = SegmentNames::new();
    let mut swaps = Vec::new();
    for name in names {
        if name.ends_with(".tmp") {
            if access == Access::Recover {
                io.fs().remove_file(dir.join(name)).await?;
            }
            continue;
        }
        swaps.extend(Replaced::parse(name));
        if let Some(base) = base_offset_of(name, LOG_SUFFIX) {
            named.insert(base, true);
        }
        for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
            if let Some(base) = base_offset_of(name, suffix) {
                named.entry(base).or_insert(false);
            }
        }
    }
    for swap in swaps {
        named.retain(|base, _| !swap.covers(*base));
        named.insert(swap.base_offset, true);
    }
    Ok(named)
}

fn next_base(named: &SegmentNames, base: Offset) -> Option<Offset> {
    let after = (std::ops::Bound::Excluded(base), std::ops::Bound::Unbounded);
    named.range(after).next().map(|(next, _)| *next)
}

/// A segment that the log needs and that has no data file. Index files are written beside a segment that is complete, and go
/// after it, so that one alone tells of a segment that went by itself.
fn missing_segment(named: &SegmentNames, state: &PartitionState) -> Option<Offset> {
    let has_data = |base: &Offset| named.get(base).copied().unwrap_or(false);
    // What lies behind was made for a roll that the journal has lost.
    let mut ours = named.range(..=state.segment_base);
    let first = ours.find(|(_, has_data)| **has_data).map_or(state.segment_base, |(base, _)| *base);
    if first > state.log_start_offset {
        return Some(state.log_start_offset);
    }
    let is_needed = |base: &Offset| {
        let next = next_base(named, *base).unwrap_or(state.segment_base);
        *base < state.segment_base && !state.is_passed(next)
    };
    let active = (state.position_bytes > 0).then_some(state.segment_base);
    let mut needed = named.keys().copied().filter(is_needed).chain(active);
    needed.find(|base| !has_data(base))
}

async fn remove_segment(io: &Io, dir: &Path, base: Offset) -> Result<(), OpenError> {
    for suffix in [LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
        match io.fs().remove_file(segment_path(dir, base, suffix)).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn fence(state: &mut PartitionState, reason: &str) {
    tracing::error!(topic = %state.topic_name, partition = %state.id.partition, "{reason}");
    state.fenced.get_or_insert_with(|| reason.to_owned());
}

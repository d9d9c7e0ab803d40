//! Checks a data directory that nobody uses, and changes nothing.
//!
//! What is checked, and against what:
//!
//! | what | against |
//! |---|---|
//! | checkpoint, journal groups after it | their checksums; a damaged group that was durable is rot, a torn end is legal |
//! | segments, up to where the checkpoint vouches for them | every batch's checksum; offsets that rise; the checkpoint's end |
//! | index files of closed segments | the batches that they point at |
//! | snapshots of producers, leader epochs | their format and checksum |
//!
//! Behind the checkpoint the journal counts, not the segment: bytes there are whatever the write-behind had reached. A
//! directory that Apache Kafka wrote has no journal; its segments are checked to their ends.

mod segment;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use highwater_io::{FileError, Io, fs};
use highwater_model::{Offset, TopicPartition};

use crate::checkpoint;
use crate::compaction::swap::{Replaced, is_unfinished};
use crate::dir::{self, Generation};
use crate::error::OpenError;
use crate::journal::format::{Change, Entry};
use crate::journal::read_ahead::chunk_pool;
use crate::journal::scan::{Access, Ending, Gap, JournalReader, Next};
use crate::kafka_files::{
    EPOCH_CHECKPOINT, LOG_SUFFIX, PARTITION_METADATA, SNAPSHOT_SUFFIX, base_offset_of, parse_epochs,
    parse_partition_dir, parse_producer_snapshot, partition_dir_name, segment_path,
};
use crate::partition::state::PartitionState;

use segment::Part;

const SMALL_FILE_BYTES: usize = 16 << 20;

/// Who wrote a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenBy {
    /// This engine: it has a journal.
    Highwater,
    /// Apache Kafka, or this engine before it had stored anything.
    Kafka,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file.
    pub position_bytes: Option<u64>,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(position) = self.position_bytes {
            write!(f, ": at byte {position}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// A journal as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalFound {
    /// Its directory.
    pub path: PathBuf,
    /// Groups after the checkpoint.
    pub groups: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes of groups at the end that are not whole: a start cuts them off, none was acknowledged as durable.
    pub torn_bytes: u64,
}

/// A partition as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFound {
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// Where the log starts.
    pub log_start_offset: Offset,
    /// Where it ends, journal included.
    pub log_end_offset: Offset,
    /// Segments.
    pub segments: usize,
    /// Bytes of segments that were checked.
    pub checked_bytes: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes that are in the journal only, as far as the checkpoint knows.
    pub journal_bytes: u64,
    /// Number of [`VerifyReport::problems`] that concern it.
    pub problems: usize,
}

/// What a directory holds and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Who wrote it.
    pub written_by: WrittenBy,
    /// Whether it was stopped cleanly.
    pub was_clean: bool,
    /// Its journals.
    pub journals: Vec<JournalFound>,
    /// Its partitions, by name.
    pub partitions: Vec<PartitionFound>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Partitions done.
    pub partitions_done: usize,
    /// Of so many.
    pub partitions: usize,
    /// Bytes of segments checked.
    pub checked_bytes: u64,
}

/// The segment and byte up to which segments are vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    segment_base: Offset,
    position_bytes: u64,
    /// Whether the journal rewrites the segment from there on, so that a batch may begin before and end after.
    is_rewritten: bool,
}

impl Limit {
    fn at(segment_base: Offset, position_bytes: u64) -> Self {
        Limit { segment_base, position_bytes, is_rewritten: false }
    }

    fn lower(&mut self, segment_base: Offset, position_bytes: u64) {
        if (segment_base, position_bytes) < (self.segment_base, self.position_bytes) {
            *self = Limit { segment_base, position_bytes, is_rewritten: true };
        }
    }
}

/// What checkpoint and journal say of one partition.
struct Vouched {
    /// As the journal leaves it.
    state: PartitionState,
    /// Up to where the checkpoint vouches for segments, as lowered by what the journal changes after it.
    through: Limit,
    /// Where the segment after that one begins, if there is one by now.
    rolled_to: Option<Offset>,
    journal_bytes: u64,
    deleted: bool,
}

/// Checks the directory at `path`. `progress` is told about every partition, and about every few MiB of a large one.
///
/// # Errors
/// [`OpenError::Locked`] while a process uses it; [`OpenError::File`] and [`OpenError::NotOurs`] where it cannot be read
/// at all. Damage is no error: it is in the report.
pub async fn verify(io: &Io, path: &Path, progress: impl FnMut(Progress)) -> Result<VerifyReport, OpenError> {
    let _lock = lock(io, path).await?;
    let meta = dir::read_meta(io, path).await?;
    let has_meta = meta.is_some();
    let generation = dir::current_generation(io, path).await?;
    let mut check = Check {
        io,
        report: VerifyReport {
            written_by: if generation.is_some() { WrittenBy::Highwater } else { WrittenBy::Kafka },
            was_clean: io.fs().exists(path.join(dir::CLEAN_MARKER)).await?,
            journals: Vec::new(),
            partitions: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        },
        vouched: BTreeMap::new(),
        seen: BTreeMap::new(),
        at: Progress { partitions_done: 0, partitions: 0, checked_bytes: 0 },
        progress,
    };
    match &generation {
        Some(generation) => check.journals(generation).await?,
        None if meta.is_some_and(|meta| meta.has_journal) => check.problem(
            &path.join(dir::JOURNAL_DIR),
            None,
            "the journal of this directory is missing, and with it records that were acknowledged",
        ),
        None => {}
    }
    check.partitions(path).await?;
    if !has_meta && generation.is_none() {
        let is_new = io.fs().exists(path.join(dir::LOCK_FILE)).await?;
        if check.report.partitions.is_empty() && !is_new {
            return Err(OpenError::NotOurs {
                path: path.to_owned(),
                why: "is no data directory: it has no meta.properties, no journal and no partitions"
                    .to_owned(),
            });
        }
        if !check.report.partitions.is_empty() {
            check.problem(&path.join("meta.properties"), None, "missing");
        }
    }
    Ok(check.report)
}

pub(crate) async fn lock(io: &Io, path: &Path) -> Result<Option<fs::File>, OpenError> {
    // Without a lock file nobody can have it; none is made, since nothing is changed.
    if io.fs().exists(path.join(dir::LOCK_FILE)).await? {
        dir::lock_with(io, path, fs::OpenOptions::read_only()).await.map(Some)
    } else {
        Ok(None)
    }
}

struct Check<'a, P> {
    io: &'a Io,
    report: VerifyReport,
    vouched: BTreeMap<TopicPartition, Vouched>,
    /// Directories so far.
    seen: BTreeMap<TopicPartition, PathBuf>,
    at: Progress,
    progress: P,
}

impl<P: FnMut(Progress)> Check<'_, P> {
    fn problem(&mut self, path: &Path, position_bytes: Option<u64>, what: impl Into<String>) {
        self.report.problems.push(Problem { path: path.to_owned(), position_bytes, what: what.into() });
    }

    async fn journals(&mut self, generation: &Generation) -> Result<(), FileError> {
        if let Some(missing) = generation.missing_dir(self.io).await? {
            self.problem(&missing, None, "missing, and with it records that were acknowledged");
            if missing == generation.dir {
                return Ok(());
            }
        }
        for entry in self.io.fs().read_dir(&generation.dir).await? {
            if entry.kind == fs::FileKind::Directory {
                self.journal(generation, &generation.dir.join(&entry.name)).await?;
            }
        }
        Ok(())
    }

    async fn journal(&mut self, generation: &Generation, dir: &Path) -> Result<(), FileError> {
        let Some(checkpoint) = checkpoint::read_newest(self.io, dir, Access::Inspect).await? else {
            self.problem(dir, None, "neither checkpoint of this journal is whole");
            return Ok(());
        };
        for state in checkpoint.partitions {
            if let Some(reason) = &state.fenced {
                self.problem(dir, None, format!("{} {}: {reason}", state.topic_name, state.id.partition));
            }
            let through = Limit::at(state.segment_base, state.position_bytes);
            let vouched = Vouched { state, through, rolled_to: None, journal_bytes: 0, deleted: false };
            self.vouched.insert(vouched.state.id, vouched);
        }
        let mut found = JournalFound { path: dir.to_owned(), ..JournalFound::default() };
        let (place, access) = (&checkpoint.place, Access::Inspect);
        let mut reader =
            JournalReader::open(self.io, &chunk_pool(), dir, generation.id, place, access, Ending::Unknown)
                .await?;
        match reader.gap() {
            Some(Gap::Missing(path)) => {
                self.problem(path, None, "missing, and with it records that were acknowledged");
            }
            Some(Gap::Cut { path, len_bytes }) => {
                self.problem(path, Some(*len_bytes), "the file ends here, and was longer");
            }
            None => {}
        }
        loop {
            match reader.next().await? {
                Next::Group(group) => {
                    found.groups += 1;
                    found.size_bytes += group.size_bytes;
                    group.entries.iter().for_each(|(entry, payload)| self.follow(entry, payload.len()));
                }
                Next::Rotten { sequence, entries } => {
                    let whom = match entries {
                        Some(entries) => {
                            let ids: Vec<_> = entries.iter().map(|entry| entry.id.to_string()).collect();
                            ids.join(", ")
                        }
                        None => "every partition of this journal".to_owned(),
                    };
                    self.problem(
                        dir,
                        None,
                        format!("group {sequence} was durable and is damaged; it concerns {whom}"),
                    );
                }
                Next::Unknown { path } => {
                    self.problem(&path, Some(0), "the header of this journal file is damaged");
                }
                Next::End { cut_bytes } => {
                    found.torn_bytes = cut_bytes;
                    break;
                }
            }
        }
        self.report.journals.push(found);
        Ok(())
    }

    /// Brings what is known of a partition forward by a journal entry.
    fn follow(&mut self, entry: &Entry, payload_bytes: usize) {
        let vouched = self.vouched.entry(entry.id).or_insert_with(|| Vouched {
            state: PartitionState::empty(entry.id, ""),
            through: Limit::at(Offset(0), 0),
            rolled_to: None,
            journal_bytes: 0,
            deleted: false,
        });
        match entry.change {
            Change::Append { segment_base, position_bytes, next_offset, .. } => {
                // From the start of the block that it repeats, the segment is rewritten, and may be torn.
                vouched.through.lower(segment_base, position_bytes);
                vouched.state.next_offset = next_offset;
                vouched.journal_bytes += payload_bytes as u64;
            }
            Change::Truncate { segment_base, position_bytes, next_offset } => {
                vouched.state.truncate(next_offset, segment_base, position_bytes);
                vouched.through.lower(segment_base, position_bytes);
            }
            Change::Roll { segment_base, next_base, .. } => {
                if segment_base == vouched.through.segment_base {
                    vouched.rolled_to = Some(next_base);
                }
            }
            Change::MoveStart { log_start_offset } => vouched.state.move_start(log_start_offset),
            Change::Delete => vouched.deleted = true,
        }
    }

    async fn partitions(&mut self, path: &Path) -> Result<(), OpenError> {
        let mut found = Vec::new();
        for entry in self.io.fs().read_dir(path).await? {
            if entry.kind != fs::FileKind::Directory || entry.name == dir::JOURNAL_DIR {
                continue;
            }
            let dir = path.join(&entry.name);
            match parse_partition_dir(&entry.name) {
                _ if entry.name.ends_with("-delete") => {
                    self.report.notes.push(format!("{}: the next start removes it", dir.display()));
                }
                Some((topic, partition)) => found.push((topic.to_owned(), partition, dir)),
                None => self.report.notes.push(format!("{}: not a partition, ignored", dir.display())),
            }
        }
        found.sort_unstable();
        self.at.partitions = found.len();
        for (topic, partition, dir) in found {
            self.partition(topic, partition, &dir).await?;
            self.at.partitions_done += 1;
            (self.progress)(self.at);
        }
        let lost = self.vouched.values().filter(|vouched| !vouched.deleted);
        let lost: Vec<String> =
            lost.map(|vouched| format!("{} {}", vouched.state.topic_name, vouched.state.id)).collect();
        for lost in lost {
            let what = format!("no directory has the topic id and number of partition {}", lost.trim_start());
            self.problem(path, None, what);
        }
        Ok(())
    }

    async fn partition(&mut self, topic: String, partition: i32, dir: &Path) -> Result<(), OpenError> {
        let problems_before = self.report.problems.len();
        let topic_id = dir::topic_id_of(self.io, dir).await?;
        let metadata = dir.join(PARTITION_METADATA);
        if topic_id.is_none() && self.io.fs().exists(&metadata).await? {
            self.problem(&metadata, None, "does not tell the topic's id");
        } else if topic_id.is_none() && self.report.written_by == WrittenBy::Highwater {
            let entries = self.io.fs().read_dir(dir).await?;
            if entries.iter().any(|entry| entry.name.ends_with(LOG_SUFFIX)) {
                self.problem(&metadata, None, "missing");
            } else {
                let note = "its creation was interrupted; the next start removes it";
                self.report.notes.push(format!("{}: {note}", dir.display()));
            }
        } else if topic_id.is_none() {
            self.report.notes.push(format!("{}: no topic id ({PARTITION_METADATA})", dir.display()));
        }
        let id = topic_id.map(|topic_id| TopicPartition { topic_id, partition: partition.into() });
        if let Some(id) = id
            && let Some(other) = self.seen.insert(id, dir.to_owned())
        {
            let what =
                format!("the same partition of the same topic as {}: one of them is a copy", other.display());
            self.problem(&metadata, None, what);
        }
        let vouched = id.and_then(|id| self.vouched.remove(&id));
        if vouched.as_ref().is_some_and(|vouched| vouched.deleted) {
            self.report.notes.push(format!("{}: deleted; the next start removes it", dir.display()));
            return Ok(());
        }
        let through = match (&vouched, self.report.written_by) {
            (Some(vouched), _) => Some(vouched.through),
            (None, WrittenBy::Highwater) => Some(Limit::at(Offset(0), 0)),
            (None, WrittenBy::Kafka) => None,
        };
        let mut found = PartitionFound {
            topic,
            partition,
            log_start_offset: Offset(0),
            log_end_offset: Offset(0),
            segments: 0,
            checked_bytes: 0,
            batches: 0,
            records: 0,
            journal_bytes: 0,
            problems: 0,
        };
        // A segment goes once the log's start has passed it.
        let is_passed = vouched.as_ref().is_some_and(|vouched| {
            vouched.rolled_to.is_some_and(|next_base| next_base <= vouched.state.log_start_offset)
        });
        if let Some(limit) = through
            && limit.position_bytes > 0
            && !is_passed
            && !self.io.fs().exists(segment_path(dir, limit.segment_base, LOG_SUFFIX)).await?
        {
            self.problem(dir, None, format!("segment {} is missing", limit.segment_base));
        }
        let log_start_offset = vouched.as_ref().map(|vouched| vouched.state.log_start_offset);
        if let Some(name) = vouched.as_ref().map(|vouched| &vouched.state.topic_name)
            && !name.is_empty()
            && *name != found.topic
        {
            self.problem(dir, None, format!("its name must be {}", partition_dir_name(name, partition)));
        }
        self.segments(dir, through, log_start_offset, &mut found).await?;
        self.small_files(dir).await?;
        if let Some(vouched) = vouched {
            found.log_start_offset = vouched.state.log_start_offset;
            found.log_end_offset = vouched.state.next_offset;
            found.journal_bytes = vouched.journal_bytes;
        }
        found.problems = self.report.problems.len() - problems_before;
        self.report.partitions.push(found);
        Ok(())
    }

    /// Checks segments up to `through`, or to their ends.
    async fn segments(
        &mut self,
        dir: &Path,
        through: Option<Limit>,
        log_start_offset: Option<Offset>,
        found: &mut PartitionFound,
    ) -> Result<(), FileError> {
        let entries = self.io.fs().read_dir(dir).await?;
        let swaps: Vec<Replaced> = entries.iter().filter_map(|entry| Replaced::parse(&entry.name)).collect();
        let is_replaced = |base: &Offset| swaps.iter().any(|swap| swap.covers(*base));
        let names = entries.iter().filter_map(|entry| base_offset_of(&entry.name, LOG_SUFFIX));
        let mut bases: Vec<Offset> = names.filter(|base| !is_replaced(base)).collect();
        bases.extend(swaps.iter().map(|swap| swap.base_offset));
        bases.sort_unstable();
        for entry in entries.iter().filter(|entry| is_unfinished(&entry.name)) {
            let path = dir.join(&entry.name);
            self.report.notes.push(format!("{}: unfinished; the next start removes it", path.display()));
        }
        found.segments = bases.len();
        found.log_start_offset = bases.first().copied().unwrap_or_default();
        found.log_end_offset = found.log_start_offset;
        if let Some((start, first)) = log_start_offset.zip(bases.first())
            && start < *first
            && through.is_some_and(|limit| limit.segment_base > start)
        {
            self.problem(
                dir,
                None,
                format!("the segment with offsets from {start} on is missing; the first begins at {first}"),
            );
        }
        for (index, &base) in bases.iter().enumerate() {
            let limit = through.filter(|limit| base >= limit.segment_base);
            if limit.is_some_and(|limit| base > limit.segment_base) {
                // Made after the checkpoint: the journal has all of it.
                continue;
            }
            let swap = swaps.iter().find(|swap| swap.base_offset == base);
            let path = match swap {
                Some(swap) => swap.swap_path(dir),
                None => segment_path(dir, base, LOG_SUFFIX),
            };
            if swap.is_some() {
                self.report.notes.push(format!("{}: the next start puts it in its place", path.display()));
            }
            let next_base = bases.get(index + 1);
            if next_base.zip(log_start_offset).is_some_and(|(next_base, start)| *next_base <= start) {
                self.report
                    .notes
                    .push(format!("{}: before the log's start; the next start removes it", path.display()));
                continue;
            }
            let len_bytes = self.io.fs().metadata(&path).await?.len_bytes;
            if let Some(limit) = limit.filter(|limit| limit.position_bytes > len_bytes) {
                let what = format!("the file ends here; {} bytes are vouched for", limit.position_bytes);
                self.problem(&path, Some(len_bytes), what);
            }
            let is_closed = limit.is_none() && next_base.is_some();
            let part = Part {
                base_offset: base,
                end_bytes: limit.map_or(len_bytes, |limit| limit.position_bytes.min(len_bytes)),
                may_be_cut: limit.is_some_and(|limit| limit.is_rewritten),
                // A compacted one gets its index files when it is in its place.
                has_index: is_closed && swap.is_none(),
            };
            let next_offset = self.segment(dir, &path, part, found).await?;
            found.log_end_offset = found.log_end_offset.max(next_offset);
            if let Some(&next_base) = next_base.filter(|_| is_closed) {
                self.compare_ends(&path, next_offset, next_base);
            }
        }
        Ok(())
    }

    fn compare_ends(&mut self, path: &Path, next_offset: Offset, next_base: Offset) {
        if next_offset > next_base {
            let what = format!("holds offsets up to {next_offset}, the next segment begins at {next_base}");
            self.problem(path, None, what);
        } else if next_offset < next_base {
            self.report.notes.push(format!(
                "{}: ends at offset {next_offset}, the next segment begins at {next_base}: compacted, or one is missing",
                path.display()
            ));
        }
    }

    /// Files beside the segments.
    async fn small_files(&mut self, dir: &Path) -> Result<(), FileError> {
        for entry in self.io.fs().read_dir(dir).await? {
            let path = dir.join(&entry.name);
            let is_whole: fn(&[u8]) -> bool = if entry.name == EPOCH_CHECKPOINT {
                |bytes| std::str::from_utf8(bytes).ok().and_then(parse_epochs).is_some()
            } else if base_offset_of(&entry.name, SNAPSHOT_SUFFIX).is_some() {
                |bytes| parse_producer_snapshot(bytes).is_some()
            } else {
                continue;
            };
            let bytes = self.io.fs().read_file(&path, SMALL_FILE_BYTES).await?;
            if !is_whole(&bytes) {
                self.problem(&path, None, "damaged, or not in Kafka's format");
            }
        }
        Ok(())
    }
}

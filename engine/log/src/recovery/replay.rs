//! Applying journal entries to segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{FileError, IO_ALIGNMENT, Io, IoBuf, fs};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use highwater_model::{LeaderEpoch, Offset, TopicPartition};

use crate::dir::{self, FoundDirs, OpenOptions, PartitionSeed, RecoveryReport};
use crate::error::OpenError;
use crate::journal::files::lock_for_writing;
use crate::journal::format::{Change, Entry};
use crate::journal::scan::{Access, WholeGroup};
use crate::kafka_files::{
    INDEX_SUFFIX, LOG_SUFFIX, PARTITION_METADATA, TIME_INDEX_SUFFIX, base_offset_of,
    encode_partition_metadata, partition_dir_name, segment_path,
};
use crate::mutants;
use crate::partition::state::{MAX_OFFSET, MAX_SEGMENT_BYTES, PartitionState};
use crate::recovery::run::{Piece, Run};
use crate::recovery::writes::{SegmentKey, Writes};
use crate::recovery::{EIO, Listing, Settled, flush, inspect_segments, segment_names, settle_segments};

/// Bytes of groups whose entries are gathered before they are written.
pub(super) const PENDING_BYTES: usize = 32 << 20;

/// A partition while its journal is applied.
struct Target {
    state: PartitionState,
    dir: PathBuf,
    /// Whether it has no directory of its own: then either its deletion shows up further on, or it is lost.
    is_stray: bool,
    /// Whether the checkpoint has it, so that its topic's name is known, and its creation was durable.
    is_in_checkpoint: bool,
    /// Whether a directory was made for its bytes.
    has_stray_dir: bool,
    deleted: bool,
    /// Segment and byte from which on the journal rewrites it, if it does.
    rewritten_from: Option<(Offset, u64)>,
    pending: Vec<Piece>,
    /// Where the last piece was written to, and the bytes of the block in which it ended.
    written: Option<(Offset, u64, Bytes)>,
    /// Segments that the journal has from their first byte on, or whose file was there before it was written to.
    founded: BTreeSet<Offset>,
    /// Segments that the journal goes on with behind their first byte, and whose file is not there. No damage where it went
    /// because of an entry further on: the log's start passed it, or a cut took it. Until then nothing is made in its place, so
    /// that running all of this again finds the same.
    unfounded: BTreeSet<Offset>,
}

/// A partition as a recovery would leave it, and nothing was changed.
pub(crate) struct Inspected {
    pub(crate) state: PartitionState,
    pub(crate) dir: PathBuf,
    /// Segment and byte from which on the journal has what is in the log, and the segments may have anything.
    pub(crate) rewritten_from: Option<(Offset, u64)>,
}

/// Partitions that one journal knows, by its checkpoint or by an entry so far, for fencing all of them.
pub(super) struct JournalPartitions(BTreeSet<TopicPartition>);

pub(super) struct Replay {
    io: Io,
    path: PathBuf,
    direct: bool,
    max_producers: usize,
    found: FoundDirs,
    targets: BTreeMap<TopicPartition, Target>,
    /// Segments that were written to, and are to be flushed through this description: no more than the bound.
    open: BTreeMap<SegmentKey, Rc<fs::File>>,
    writes: Writes,
    max_open: usize,
    /// What the start found in the partitions' directories.
    listings: BTreeMap<PathBuf, Listing>,
    /// Bytes of groups that were read since everything was written: what is gathered keeps their memory.
    pending_bytes: u64,
    changed_dirs: BTreeSet<PathBuf>,
    /// Damage that concerns whoever a journal knew.
    nameless_damage: Option<String>,
    access: Access,
    /// Whether records of a fenced partition were not applied.
    held_back: bool,
}

impl Replay {
    pub(super) fn new(io: &Io, path: &Path, options: &OpenOptions, found: FoundDirs, access: Access) -> Self {
        Replay {
            access,
            held_back: false,
            io: io.clone(),
            path: path.to_owned(),
            direct: options.shard.direct_io,
            max_producers: options.shard.max_producers_per_partition,
            found,
            targets: BTreeMap::new(),
            open: BTreeMap::new(),
            writes: Writes::new(io),
            max_open: options.shard.max_open_segments.max(1),
            listings: BTreeMap::new(),
            pending_bytes: 0,
            changed_dirs: BTreeSet::new(),
            nameless_damage: None,
        }
    }

    pub(super) fn set_listings(&mut self, listings: BTreeMap<PathBuf, Listing>) {
        self.listings = listings;
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Whether the journal has records that no segment got, since their partition is fenced.
    pub(super) fn held_back(&self) -> bool {
        self.held_back
    }

    /// Takes the states of a checkpoint.
    pub(super) fn begin_journal(&mut self, states: Vec<PartitionState>) -> JournalPartitions {
        let ids = states.iter().map(|state| state.id).collect();
        for state in states {
            match self.found.remove(&state.id) {
                Some(found) => {
                    let target = Target::new(state, found.path, false);
                    let mut target = Target { is_in_checkpoint: true, ..target };
                    if found.topic_name != target.state.topic_name {
                        let name = partition_dir_name(&target.state.topic_name, target.state.id.partition.0);
                        target.fence(format!(
                            "{}: its name must be {name}; rename it back",
                            target.dir.display()
                        ));
                    }
                    self.targets.insert(target.state.id, target);
                }
                None => {
                    let stray = Target::stray(state, &self.path);
                    let target = Target { is_in_checkpoint: true, ..stray };
                    self.targets.insert(target.state.id, target);
                }
            }
        }
        JournalPartitions(ids)
    }

    /// Fences the partitions that a damaged group names, or all of the journal's.
    pub(super) fn fence(&mut self, journal: &JournalPartitions, entries: Option<&[Entry]>, reason: &str) {
        let concerned: BTreeSet<TopicPartition> = match entries {
            Some(entries) => entries.iter().map(|entry| entry.id).collect(),
            None => {
                // Of some only the damaged part knows. They are those that are left over in the end, and as nothing says
                // whose they were, damage of any journal fences them.
                self.nameless_damage.get_or_insert_with(|| reason.to_owned());
                journal.0.clone()
            }
        };
        for id in concerned {
            let target = self.target(id);
            target.state.fenced.get_or_insert_with(|| reason.to_owned());
        }
    }

    fn target(&mut self, id: TopicPartition) -> &mut Target {
        let (found, path) = (&mut self.found, &self.path);
        self.targets.entry(id).or_insert_with(|| match found.remove(&id) {
            // Created after the checkpoint; its directory was durable before its first entry.
            Some(found) => Target::new(PartitionState::empty(id, &found.topic_name), found.path, false),
            None => Target::stray(PartitionState::empty(id, &format!("{id}.stray")), path),
        })
    }

    /// Applies a group of a journal.
    pub(super) async fn apply_group(
        &mut self,
        journal: &mut JournalPartitions,
        group: WholeGroup,
    ) -> Result<(), OpenError> {
        for (entry, payload) in group.entries {
            self.apply(journal, &entry, payload).await?;
        }
        self.pending_bytes += group.size_bytes;
        if self.pending_bytes >= PENDING_BYTES as u64 {
            self.write_all_pending().await?;
        }
        Ok(())
    }

    /// Applies one entry of a journal.
    async fn apply(
        &mut self,
        journal: &mut JournalPartitions,
        entry: &Entry,
        payload: Bytes,
    ) -> Result<(), OpenError> {
        let id = entry.id;
        journal.0.insert(id);
        let max_producers = self.max_producers;
        let target = self.target(id);
        if target.state.fenced.is_some() && entry.change != Change::Delete {
            // Behind the damage nothing fits any more. But the start that was answered stays, as far as there is a log: the
            // segments below it are gone.
            if let Change::MoveStart { log_start_offset } = entry.change {
                target.state.move_start(log_start_offset.min(target.state.next_offset));
            }
            self.held_back |= matches!(entry.change, Change::Append { .. });
            return Ok(());
        }
        match entry.change {
            Change::Append {
                leader_epoch,
                segment_base,
                position_bytes,
                base_offset,
                next_offset,
                prefix_bytes,
                ..
            } => {
                let prefix_bytes = u64::from(prefix_bytes);
                let expected = Append {
                    leader_epoch,
                    segment_base,
                    position_bytes: position_bytes.saturating_add(prefix_bytes),
                    base_offset,
                    next_offset,
                };
                let begins_at = (segment_base, position_bytes);
                self.find_begin(id, begins_at).await?;
                let target = self.target(id);
                if let Err(what) = target.append(&expected, &payload[prefix_bytes as usize..], max_producers)
                {
                    target.fence(what);
                    self.held_back = true;
                    return Ok(());
                }
                target.note_rewritten(segment_base, position_bytes);
                if self.access == Access::Inspect {
                    return Ok(());
                }
                self.target(id).pending.push(Piece { segment_base, position_bytes, bytes: payload });
            }
            Change::Truncate { segment_base, position_bytes, next_offset } => {
                if !target.is_before_end(segment_base, position_bytes, next_offset) {
                    target.misfit(&format!("a cut to offset {next_offset}"));
                    return Ok(());
                }
                self.write_pending(id).await?;
                self.truncate(id, segment_base, position_bytes, next_offset).await?;
            }
            Change::Roll { segment_base, size_bytes, next_base } => {
                self.write_pending(id).await?;
                self.roll(id, segment_base, size_bytes, next_base).await?;
            }
            Change::MoveStart { log_start_offset } => {
                if log_start_offset > target.state.next_offset {
                    target.misfit(&format!("a move of the log's start to {log_start_offset}"));
                    return Ok(());
                }
                target.state.move_start(log_start_offset);
            }
            Change::Delete => {
                target.deleted = true;
                target.pending.clear();
            }
        }
        Ok(())
    }

    async fn roll(
        &mut self,
        id: TopicPartition,
        segment_base: Offset,
        size_bytes: u64,
        next_base: Offset,
    ) -> Result<(), OpenError> {
        self.find_begin(id, (segment_base, size_bytes)).await?;
        let target = self.target(id);
        let state = &target.state;
        let is_at_end = state.segment_base == segment_base && state.position_bytes == size_bytes;
        if !is_at_end || state.next_offset != next_base {
            target.misfit(&format!("a roll of segment {segment_base} at {size_bytes} to {next_base}"));
            return Ok(());
        }
        target.state.roll(next_base);
        target.written = None;
        if self.access == Access::Inspect {
            return Ok(());
        }
        let gone = next_base <= self.target(id).state.log_start_offset;
        if gone && !self.exists(id, segment_base).await? || self.target(id).unfounded.contains(&segment_base)
        {
            return Ok(());
        }
        self.writes.complete((id, segment_base)).await?;
        let file = self.file(id, segment_base).await?;
        file.set_len(size_bytes).await?;
        self.forget_index_files(id, segment_base).await
    }

    /// Removes index files of a segment that was appended to after they were written: they describe a part of it.
    async fn forget_index_files(
        &mut self,
        id: TopicPartition,
        segment_base: Offset,
    ) -> Result<(), OpenError> {
        let dir = self.target(id).dir.clone();
        for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
            match self.io.fs().remove_file(segment_path(&dir, segment_base, suffix)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        self.changed_dirs.insert(dir);
        Ok(())
    }

    async fn truncate(
        &mut self,
        id: TopicPartition,
        segment_base: Offset,
        position_bytes: u64,
        next_offset: Offset,
    ) -> Result<(), OpenError> {
        let access = self.access;
        let target = self.target(id);
        target.state.truncate(next_offset, segment_base, position_bytes);
        target.note_rewritten(segment_base, position_bytes);
        target.written = None;
        let is_left = |base: &Offset| *base < segment_base || *base == segment_base && position_bytes > 0;
        target.founded.retain(is_left);
        target.unfounded.retain(is_left);
        if access == Access::Inspect {
            return Ok(());
        }
        let dir = target.dir.clone();
        // The next append repeats the block; only files behind the cut have to go.
        if self.io.fs().exists(&dir).await? {
            for entry in self.io.fs().read_dir(&dir).await? {
                let base = base_offset_of(&entry.name, LOG_SUFFIX);
                if let Some(base) = base.filter(|base| *base > segment_base) {
                    self.writes.complete((id, base)).await?;
                    self.open.remove(&(id, base));
                    self.io.fs().remove_file(dir.join(&entry.name)).await?;
                    self.changed_dirs.insert(dir.clone());
                }
            }
        }
        Ok(())
    }

    pub(super) async fn write_all_pending(&mut self) -> Result<(), OpenError> {
        let ids: Vec<TopicPartition> = self.targets.keys().copied().collect();
        for id in ids {
            self.write_pending(id).await?;
        }
        self.pending_bytes = 0;
        Ok(())
    }

    /// Writes what is gathered for a partition: runs of pieces that follow each other, each in whole blocks.
    async fn write_pending(&mut self, id: TopicPartition) -> Result<(), OpenError> {
        let pending = std::mem::take(&mut self.target(id).pending);
        let mut pieces = pending.into_iter().peekable();
        while let Some(first) = pieces.next() {
            let segment_base = first.segment_base;
            let mut run = Run::begin(&first, self.target(id).written.take())?;
            while let Some(next) =
                pieces.next_if(|next| next.segment_base == segment_base && run.accepts(next))
            {
                run.add(&next);
            }
            self.write_run(id, segment_base, run).await?;
        }
        Ok(())
    }

    async fn write_run(
        &mut self,
        id: TopicPartition,
        segment_base: Offset,
        run: Run,
    ) -> Result<(), OpenError> {
        let log_start_offset = self.target(id).state.log_start_offset;
        let is_active = self.target(id).state.segment_base <= segment_base;
        if !is_active && segment_base < log_start_offset && !self.exists(id, segment_base).await? {
            // The log's start has passed it, and its file went.
            return Ok(());
        }
        let (start_bytes, end_bytes) = (run.start_bytes, run.end_bytes());
        let mut parts = run.into_parts();
        let block = parts.last_block();
        if !self.target(id).unfounded.contains(&segment_base) {
            let file = Rc::clone(self.file(id, segment_base).await?);
            let mut at = start_bytes;
            while at < end_bytes {
                let mut buf = self.writes.buf().await;
                parts.fill(&mut buf);
                buf.pad_to(IO_ALIGNMENT);
                let len = buf.len() as u64;
                self.writes.begin((id, segment_base), Rc::clone(&file), buf.freeze(), at).await?;
                at += len;
            }
        }
        self.target(id).written = Some((segment_base, end_bytes, block));
        Ok(())
    }

    /// Notes whether what comes before a byte of a segment is there: the journal has it, or there is a file.
    ///
    /// A new segment's name is flushed by the checkpoint that covers its first entries, so that a power cut may take the name
    /// only while the journal has all that was in the file.
    async fn find_begin(
        &mut self,
        id: TopicPartition,
        (segment_base, position_bytes): (Offset, u64),
    ) -> Result<(), OpenError> {
        let target = self.target(id);
        if position_bytes == 0 {
            target.founded.insert(segment_base);
            target.unfounded.remove(&segment_base);
            return Ok(());
        }
        if target.founded.contains(&segment_base) || target.unfounded.contains(&segment_base) {
            return Ok(());
        }
        let dir = &self.targets[&id].dir;
        let listing = self.listings.get(dir).filter(|_| !self.changed_dirs.contains(dir));
        let exists = match listing {
            Some(listing) => listing.len_of(segment_base).is_some(),
            None => self.exists(id, segment_base).await?,
        };
        let target = self.target(id);
        let known = if exists || target.is_stray { &mut target.founded } else { &mut target.unfounded };
        known.insert(segment_base);
        Ok(())
    }

    /// Fences partitions whose journal goes on in a segment that is not there, although the log needs it.
    pub(super) async fn fence_unfounded(&mut self) -> Result<(), OpenError> {
        for target in self.targets.values_mut() {
            if target.unfounded.is_empty() || target.deleted || target.state.fenced.is_some() {
                continue;
            }
            let mut bases = target.unfounded.clone();
            bases.extend(segment_names(&self.io, &target.dir, self.access).await?.into_keys());
            let state = &target.state;
            let is_needed = |base: &Offset| match base.cmp(&state.segment_base) {
                std::cmp::Ordering::Less => {
                    let next = bases.range(Offset(base.0 + 1)..).next().unwrap_or(&state.segment_base);
                    !state.is_passed(*next.min(&state.segment_base))
                }
                std::cmp::Ordering::Equal => state.position_bytes > 0,
                std::cmp::Ordering::Greater => false,
            };
            if let Some(base) = target.unfounded.iter().copied().find(is_needed) {
                let path = segment_path(&target.dir, base, LOG_SUFFIX);
                target
                    .fence(format!("{}: missing, and with it records from offset {base} on", path.display()));
                self.held_back = true;
            }
        }
        Ok(())
    }

    async fn exists(&mut self, id: TopicPartition, segment_base: Offset) -> Result<bool, FileError> {
        let path = segment_path(&self.target(id).dir, segment_base, LOG_SUFFIX);
        self.io.fs().exists(path).await
    }

    /// The segment's file, opened once a dead process's writes have landed.
    async fn file(&mut self, id: TopicPartition, segment_base: Offset) -> Result<&Rc<fs::File>, OpenError> {
        if !self.open.contains_key(&(id, segment_base)) {
            if self.open.len() >= self.max_open {
                self.flush_open().await?;
            }
            if self.target(id).is_stray && !self.target(id).has_stray_dir {
                self.make_stray_dir(id).await?;
            }
            let dir = self.target(id).dir.clone();
            let options = fs::OpenOptions::read_write().create();
            let options = if self.direct { options.direct() } else { options };
            let file = self.io.fs().open(segment_path(&dir, segment_base, LOG_SUFFIX), options).await?;
            lock_for_writing(&self.io, &file).await?;
            self.changed_dirs.insert(dir);
            self.open.insert((id, segment_base), Rc::new(file));
        }
        Ok(&self.open[&(id, segment_base)])
    }

    /// Makes the directory of a partition that was lost, so that the partition stays known: without its records, if it had
    /// any, and fenced.
    async fn make_dir_again(&self, target: Target, report: &mut RecoveryReport) -> Result<Target, OpenError> {
        let Target { mut state, dir: stray_dir, has_stray_dir, .. } = target;
        let dir = self.path.join(partition_dir_name(&state.topic_name, state.id.partition.0));
        let metadata = dir.join(PARTITION_METADATA);
        if self.io.fs().exists(&dir).await? {
            return Err(OpenError::Damaged {
                path: metadata,
                position_bytes: 0,
                what: format!(
                    "this partition has topic id {} in the journal and another or none here; put the file back from a \
                     copy of the data directory",
                    state.id.topic_id
                ),
            });
        }
        if has_stray_dir {
            report_stray(report, &state, &stray_dir, true);
        }
        if state.log_start_offset < state.next_offset {
            state.fenced = Some(missing_dir(&dir, state.next_offset));
        }
        self.io.fs().create_dir_all_durable(&dir).await?;
        let content = encode_partition_metadata(state.id.topic_id);
        self.io.fs().replace_file_durable(&metadata, content.into()).await?;
        Ok(Target::new(state, dir, false))
    }

    /// Flushes what was written, and closes it.
    async fn flush_open(&mut self) -> Result<(), OpenError> {
        self.writes.complete_all().await?;
        let open = std::mem::take(&mut self.open);
        if !mutants::SERVE_BEFORE_RECOVERY_FLUSH.is_on() {
            flush::files(&self.io, open.into_values().collect()).await?;
        }
        Ok(())
    }

    async fn make_stray_dir(&mut self, id: TopicPartition) -> Result<(), OpenError> {
        let target = self.target(id);
        target.has_stray_dir = true;
        let dir = target.dir.clone();
        match self.io.fs().create_dir(&dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        Ok(())
    }

    /// Writes what is left, flushes every file and directory that was touched, and lists what there is now.
    pub(super) async fn finish(
        mut self,
        report: &mut RecoveryReport,
    ) -> Result<Vec<PartitionSeed>, OpenError> {
        self.write_all_pending().await?;
        self.flush_open().await?;
        self.take_unknown().await?;
        let mut seeds = Vec::new();
        for target in std::mem::take(&mut self.targets).into_values() {
            let target = if target.is_lost() { self.make_dir_again(target, report).await? } else { target };
            let Target { mut state, dir, is_stray, is_in_checkpoint, has_stray_dir, deleted, .. } = target;
            if deleted {
                // A directory of its name may by now be that of a newer topic; this one was found by its id.
                if !is_stray {
                    self.retire(&state, &dir).await?;
                } else if has_stray_dir {
                    dir::remove_partition_dir(&self.io, &dir).await?;
                }
                continue;
            }
            if is_stray {
                report_stray(report, &state, &dir, has_stray_dir);
                continue;
            }
            if mutants::END_FROM_SCAN.is_on() {
                extend_by_scan(&self.io, &dir, &mut state).await?;
            }
            let known = self.listings.remove(&dir).filter(|_| !self.changed_dirs.contains(&dir));
            let listing = match known {
                Some(listing) => listing,
                None => Listing::of(&self.io, &dir).await?,
            };
            let Settled { segments, has_removed } =
                settle_segments(&self.io, &dir, &mut state, &listing).await?;
            // Of one that no checkpoint had the dead process may not have come to flush the creation.
            if has_removed || !is_in_checkpoint {
                self.changed_dirs.insert(dir.clone());
            }
            if let Some(reason) = &state.fenced {
                report.fenced.push((state.id, reason.clone()));
            }
            seeds.push(PartitionSeed { dir, state, segments, is_complete: false });
        }
        flush::dirs(&self.io, std::mem::take(&mut self.changed_dirs).into_iter().collect()).await?;
        self.io.fs().sync_dir(&self.path).await?;
        Ok(seeds)
    }

    /// Removes a deleted partition's directory, as it is done while the log serves: out of the way first, durably, so that
    /// half of it is never taken for a partition.
    async fn retire(&self, state: &PartitionState, dir: &Path) -> Result<(), OpenError> {
        let doomed = dir::doomed_dir(&self.io, &self.path, &state.topic_name, state.id);
        self.io.fs().rename(dir, &doomed).await?;
        self.io.fs().sync_dir(&self.path).await?;
        Ok(dir::remove_partition_dir(&self.io, &doomed).await?)
    }

    /// Takes the directories that no journal knew.
    async fn take_unknown(&mut self) -> Result<(), OpenError> {
        for (id, found) in std::mem::take(&mut self.found) {
            let mut target = Target::new(PartitionState::empty(id, &found.topic_name), found.path, false);
            target.state.fenced = dir::was_lost(&self.io, &self.path, id).await?;
            if let Some(reason) = &self.nameless_damage {
                target.fence(reason.clone());
            } else if let Some(path) = first_with_records(&self.io, &target.dir).await? {
                target.fence(format!(
                    "{}: holds records, and neither checkpoint nor journal knows of any",
                    path.display()
                ));
            }
            self.targets.insert(id, target);
        }
        Ok(())
    }

    /// Lists what [`finish`](Self::finish) would, and changes nothing.
    pub(super) async fn inspect(mut self, report: &mut RecoveryReport) -> Result<Vec<Inspected>, OpenError> {
        self.take_unknown().await?;
        let mut inspected = Vec::new();
        for target in std::mem::take(&mut self.targets).into_values() {
            let is_lost = target.is_lost();
            let Target { mut state, mut dir, is_stray, deleted, rewritten_from, .. } = target;
            if deleted || is_stray && !is_lost {
                continue;
            }
            if is_lost {
                dir = self.path.join(partition_dir_name(&state.topic_name, state.id.partition.0));
                if state.log_start_offset < state.next_offset {
                    state.fenced = Some(missing_dir(&dir, state.next_offset));
                }
            } else {
                inspect_segments(&self.io, &dir, &mut state, rewritten_from).await?;
            }
            if let Some(reason) = &state.fenced {
                report.fenced.push((state.id, reason.clone()));
            }
            inspected.push(Inspected { state, dir, rewritten_from });
        }
        report.partitions = inspected.len();
        Ok(inspected)
    }
}

/// Why a partition without a directory is fenced.
fn missing_dir(dir: &Path, next_offset: Offset) -> String {
    format!(
        "{}: the directory is missing, and with it records up to offset {next_offset}; restore the data directory from a \
         copy, or delete the topic",
        dir.display()
    )
}

fn report_stray(report: &mut RecoveryReport, state: &PartitionState, dir: &Path, has_stray_dir: bool) {
    let what = if has_stray_dir { "its last records are kept here" } else { "it had none since" };
    let name = &state.topic_name;
    report.strays.push(format!("the directory of {name} {} is missing; {what}: {}", state.id, dir.display()));
}

/// A segment in `dir` that begins with a batch. One that was only made ahead holds zeros.
async fn first_with_records(io: &Io, dir: &Path) -> Result<Option<PathBuf>, OpenError> {
    for entry in io.fs().read_dir(dir).await? {
        if base_offset_of(&entry.name, LOG_SUFFIX).is_none() {
            continue;
        }
        let path = dir.join(&entry.name);
        let file = io.fs().open(&path, fs::OpenOptions::read_only()).await?;
        match file.read_at(IoBuf::with_capacity(BATCH_HEADER_BYTES), 0, BATCH_HEADER_BYTES).await {
            Ok(head) if BatchHeader::parse(&head).is_err() => {}
            Ok(_) => return Ok(Some(path)),
            // There is something, or was.
            Err(error) if error.errno() == Some(EIO) => return Ok(Some(path)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// A lie: whole batches that follow the log's end in its segment become part of it.
async fn extend_by_scan(io: &Io, dir: &Path, state: &mut PartitionState) -> Result<(), OpenError> {
    let path = segment_path(dir, state.segment_base, LOG_SUFFIX);
    if !io.fs().exists(&path).await? {
        return Ok(());
    }
    let bytes = io.fs().read_file(&path, PENDING_BYTES).await?;
    let end = usize::try_from(state.position_bytes).unwrap_or(usize::MAX);
    let mut rest = bytes.get(end..).unwrap_or_default();
    while let Ok(header) = batch::verify(rest)
        && header.base_offset == state.next_offset
    {
        state.record_batch(&header, 0);
        rest = &rest[header.size_bytes..];
    }
    Ok(())
}

/// What an append entry says of itself, without the repeated block.
struct Append {
    leader_epoch: LeaderEpoch,
    segment_base: Offset,
    position_bytes: u64,
    base_offset: Offset,
    next_offset: Offset,
}

impl Target {
    fn new(state: PartitionState, dir: PathBuf, is_stray: bool) -> Self {
        Target {
            state,
            dir,
            is_stray,
            is_in_checkpoint: false,
            has_stray_dir: false,
            deleted: false,
            rewritten_from: None,
            pending: Vec::new(),
            written: None,
            founded: BTreeSet::new(),
            unfounded: BTreeSet::new(),
        }
    }

    /// A partition without a directory. Should there be bytes of it, they go beside the others under its id.
    fn stray(state: PartitionState, path: &Path) -> Self {
        let dir = dir::stray_dir(path, state.id);
        Target::new(state, dir, true)
    }

    /// Whether its directory is gone and nothing says that it was deleted. Damage in the journal may have taken that.
    fn is_lost(&self) -> bool {
        self.is_stray && self.is_in_checkpoint && !self.deleted && self.state.fenced.is_none()
    }

    /// Notes that the journal rewrites the segment from there on.
    fn note_rewritten(&mut self, segment_base: Offset, position_bytes: u64) {
        let from = (segment_base, position_bytes);
        self.rewritten_from = Some(self.rewritten_from.map_or(from, |known| known.min(from)));
    }

    fn fence(&mut self, reason: String) {
        tracing::error!(partition = %self.state.id, "{reason}");
        self.state.fenced.get_or_insert(reason);
    }

    /// Whether a cut there leaves a log, as far as the checkpoint and the entries so far tell.
    fn is_before_end(&self, segment_base: Offset, position_bytes: u64, next_offset: Offset) -> bool {
        let state = &self.state;
        let is_inside = match segment_base.cmp(&state.segment_base) {
            std::cmp::Ordering::Less => position_bytes <= MAX_SEGMENT_BYTES,
            std::cmp::Ordering::Equal => position_bytes <= state.position_bytes,
            std::cmp::Ordering::Greater => false,
        };
        is_inside
            && Offset(0) <= segment_base
            && segment_base <= next_offset
            && next_offset <= state.next_offset
    }

    /// Fences the partition because an entry says what cannot be.
    fn misfit(&mut self, entry: &str) {
        let what = format!("{entry} does not fit the log, which ends at {}", self.state.next_offset);
        self.fence(what);
    }

    /// Brings the state forward by the batches of an append, which must follow the log's end.
    fn append(&mut self, entry: &Append, batches: &[u8], max_producers: usize) -> Result<(), String> {
        let state = &mut self.state;
        let fits = entry.segment_base == state.segment_base
            && entry.position_bytes == state.position_bytes
            && entry.base_offset >= state.next_offset;
        if !fits {
            return Err(format!(
                "a journal entry at offset {} (segment {}, byte {}) does not follow the log's end at {} \
                 (segment {}, byte {})",
                entry.base_offset,
                entry.segment_base,
                entry.position_bytes,
                state.next_offset,
                state.segment_base,
                state.position_bytes
            ));
        }
        for header in batch::headers(batches) {
            let (_, header) =
                header.map_err(|error| format!("a journal entry holds a bad batch: {error}"))?;
            let is_possible = header.next_offset() <= MAX_OFFSET && state.position_bytes <= MAX_SEGMENT_BYTES;
            if header.base_offset < state.next_offset || !is_possible {
                return Err(format!("a journal entry holds a batch at offset {}", header.base_offset));
            }
            state.record_batch(&header, max_producers);
        }
        if state.next_offset != entry.next_offset {
            return Err(format!(
                "a journal entry of epoch {} ends at offset {}, its batches at {}",
                entry.leader_epoch, entry.next_offset, state.next_offset
            ));
        }
        Ok(())
    }
}

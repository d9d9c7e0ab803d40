//! A data directory: whose it is, who has it, what is in it.
//!
//! ```text
//!   D/  meta.properties          Kafka's, with highwater.journal=1: a journal belongs to it
//!       .lock                    held while a process uses it
//!       .highwater_clean         written last at a clean stop, removed first at a start
//!       journal/current          names the generation that counts, and says how many journals it has
//!       journal/<generation>/shard-<n>/   journal-<k>, checkpoint-0, checkpoint-1
//!       <topic>-<partition>/     Kafka's files
//! ```
//!
//! A start recovers the journals of the current generation into the segments, flushes, then begins a new generation with
//! one empty journal a shard, and switches `current` over. So every journal is empty when service begins, and shards may
//! change in number between starts. A crash anywhere before the switch is recovered by running it again.
//!
//! A copy of a live directory must include `journal/`.

mod meta;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_io::{FileError, Io, IoBuf, concurrent, fs};
use highwater_model::{BrokerId, DirectoryId, LeaderEpoch, Offset, ProducerId, TopicId, TopicPartition};

use crate::checkpoint;
use crate::config::{LogConfig, ShardConfig};
use crate::dir::meta::{META_PROPERTIES, check_meta, write_meta};
use crate::error::OpenError;
use crate::journal::JournalPlace;
use crate::journal::files;
use crate::journal::scan::Access;
use crate::kafka_files::{LOG_SUFFIX, PARTITION_METADATA, parse_partition_dir, parse_partition_metadata};
use crate::mutants;
use crate::partition::state::PartitionState;
use crate::recovery;

pub(crate) use crate::dir::meta::{MetaProperties, read_meta};

pub(crate) const LOCK_FILE: &str = ".lock";
pub(crate) const CLEAN_MARKER: &str = ".highwater_clean";
pub(crate) const JOURNAL_DIR: &str = "journal";
const CURRENT_FILE: &str = "current";
/// What is added before the name of a generation whose journal was damaged, where it is kept.
pub(crate) const DAMAGED_PREFIX: &str = "damaged-";

/// Most bytes of a small text file that are read.
const SMALL_FILE_BYTES: usize = 1 << 20;

/// Most bytes of a `partition.metadata` that are read: it has two short lines.
const METADATA_BYTES: usize = 4096;

/// More shards than any machine has.
const MAX_JOURNALS: usize = 1 << 16;

/// Longest name of a file or directory: `NAME_MAX`.
const MAX_NAME_BYTES: usize = 255;

/// Journals that are begun, or removed, at the same time.
const JOURNALS_AT_ONCE: usize = 16;

/// How to open a data directory.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Settings of each shard.
    pub shard: ShardConfig,
    /// Cluster that the directory belongs to. Written to a fresh one; must match an existing one. `None` takes what is
    /// there, or a random one.
    pub cluster_id: Option<String>,
    /// Broker that the directory belongs to; must match an existing one.
    pub node_id: BrokerId,
    /// Settings of the partitions that are found, until somebody sets theirs.
    pub default_log: LogConfig,
    /// Where the metadata log is that says what is in the directory.
    pub metadata: MetadataPlace,
}

/// Where the metadata log is that a data directory's partitions belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetadataPlace {
    /// In the directory itself, or there is none: it is the only one.
    #[default]
    Here,
    /// In this other one of the same broker. Written to the directory, so that it is never taken for a whole one.
    In(DirectoryId),
    /// Whoever opens it does not care.
    Anywhere,
}

/// What a directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Cluster that it belongs to.
    pub cluster_id: String,
    /// Its own id (KIP-858).
    pub directory_id: DirectoryId,
}

/// What recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the last stop was clean, so that nothing had to be recovered.
    pub was_clean: bool,
    /// Whether Apache Kafka wrote the directory, and it is ours from now on.
    pub was_kafka: bool,
    /// Journals read.
    pub journals: usize,
    /// Groups applied.
    pub groups_replayed: u64,
    /// Their bytes.
    pub bytes_replayed: u64,
    /// Bytes of groups at the end that were never acknowledged as durable, and are gone.
    pub bytes_cut: u64,
    /// Partitions found.
    pub partitions: usize,
    /// Partitions fenced because of damage, and why.
    pub fenced: Vec<(TopicPartition, String)>,
    /// What was found that belongs to nobody, and where it was put.
    pub strays: Vec<String>,
}

impl RecoveryReport {
    /// Adds what the recovery of another log directory did.
    pub fn add(&mut self, other: RecoveryReport) {
        self.was_clean &= other.was_clean;
        self.was_kafka |= other.was_kafka;
        self.journals += other.journals;
        self.groups_replayed += other.groups_replayed;
        self.bytes_replayed += other.bytes_replayed;
        self.bytes_cut += other.bytes_cut;
        self.partitions += other.partitions;
        self.fenced.extend(other.fenced);
        self.strays.extend(other.strays);
    }
}

/// What a directory says of a partition before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundPartition<'a> {
    /// Topic id and partition index.
    pub id: TopicPartition,
    /// Name of the topic.
    pub topic_name: &'a str,
    /// Epoch of the last append, if there was one.
    pub latest_epoch: Option<LeaderEpoch>,
    /// The highest id of an idempotent producer that is remembered.
    pub max_producer_id: Option<ProducerId>,
}

/// A partition as found on disk, before a shard takes it over. `Send`.
#[derive(Debug)]
pub(crate) struct PartitionSeed {
    pub(crate) dir: PathBuf,
    pub(crate) state: PartitionState,
    pub(crate) segments: Vec<SegmentFile>,
    /// Whether its files are as a clean stop left them, so that the next one need not complete them.
    pub(crate) is_complete: bool,
}

/// A segment's data on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) base_offset: Offset,
    pub(crate) size_bytes: u64,
}

/// What a shard needs to start; may be sent to its thread.
#[derive(Debug)]
pub struct ShardSeed {
    pub(crate) data_dir: PathBuf,
    pub(crate) journal_dir: PathBuf,
    pub(crate) generation: [u8; 16],
    pub(crate) config: ShardConfig,
    pub(crate) default_log: LogConfig,
    pub(crate) partitions: Vec<PartitionSeed>,
    pub(crate) taken_dirs: TakenDirs,
}

/// The partition directories of a data directory, on whichever of its shards. A topic that is created under the name of one that
/// was deleted is another shard's, mostly: it waits until the first has given up the name.
#[derive(Debug, Clone, Default)]
pub(crate) struct TakenDirs(Arc<Mutex<BTreeSet<PathBuf>>>);

impl TakenDirs {
    /// Takes a name for good, unless it is taken: whether it was free.
    pub(crate) fn claim(&self, dir: &Path) -> bool {
        self.lock().insert(dir.to_owned())
    }

    pub(crate) fn is_taken(&self, dir: &Path) -> bool {
        self.lock().contains(dir)
    }

    /// Gives up a name: nothing is there any more, durably.
    pub(crate) fn release(&self, dir: &Path) {
        self.lock().remove(dir);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An opened, locked and recovered data directory. Stays on the shard that opened it, and holds the lock.
pub struct DataDir {
    io: Io,
    path: PathBuf,
    options: OpenOptions,
    meta: MetaProperties,
    /// What `meta.properties` says, if there is one.
    meta_on_disk: Option<MetaProperties>,
    partitions: Vec<PartitionSeed>,
    /// Generations that the next switch makes superfluous.
    old_generations: Vec<PathBuf>,
    _lock: fs::File,
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir").field("path", &self.path).finish_non_exhaustive()
    }
}

impl DataDir {
    /// What the directory at `path` says about itself, before it is opened; `None` if nobody has used it yet.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn identify(io: &Io, path: &Path) -> Result<Option<Identity>, OpenError> {
        let meta = read_meta(io, path).await?;
        Ok(meta.map(|meta| Identity { cluster_id: meta.cluster_id, directory_id: meta.directory_id }))
    }

    /// What would be refused about the directory at `path` before anything is done there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn check(io: &Io, path: &Path, options: &OpenOptions) -> Result<(), OpenError> {
        let found = read_meta(io, path).await?;
        check_meta(io, path, options, found).map(drop)
    }

    /// Opens `path`, creating it if it is missing: takes the lock, recovers, lists the partitions.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        io: &Io,
        path: &Path,
        options: OpenOptions,
    ) -> Result<(DataDir, RecoveryReport), OpenError> {
        io.fs().create_dir_all_durable(path).await?;
        let lock = lock_dir(io, path).await?;
        DataDir::open_locked(io, path, options, lock).await
    }

    /// [`open`](Self::open), for whoever has the lock.
    pub(crate) async fn open_locked(
        io: &Io,
        path: &Path,
        options: OpenOptions,
        lock: fs::File,
    ) -> Result<(DataDir, RecoveryReport), OpenError> {
        let was_clean = take_clean_marker(io, path).await?;
        let found = read_meta(io, path).await?;
        let meta_on_disk = found.clone();
        let is_fresh = found.is_none();
        let meta = check_meta(io, path, &options, found)?;
        let current = current_generation(io, path).await?;
        if meta.has_journal && current.is_none() && !is_fresh {
            return Err(missing_journal(path));
        }
        let mut report = RecoveryReport { was_clean, ..RecoveryReport::default() };
        let found = discover(io, path, current.is_some(), Access::Recover, &mut report).await?;
        if is_fresh && !found.is_empty() {
            // Whoever wrote partitions wrote that before, and it says whether there is a journal to look for.
            return Err(OpenError::NotOurs {
                path: path.join(META_PROPERTIES),
                why: "is missing beside partitions; put it back from where the directory was copied"
                    .to_owned(),
            });
        }
        let partitions = match &current {
            Some(generation) => recovery::recover(io, path, generation, &options, found, &mut report).await?,
            None if found.is_empty() => Vec::new(),
            None => {
                report.was_kafka = true;
                recovery::import_kafka(io, path, &options, found, &mut report).await?
            }
        };
        report.partitions = partitions.len();
        let old_generations = generations(io, path).await?;
        let dir = DataDir {
            io: io.clone(),
            path: path.to_owned(),
            options,
            meta,
            meta_on_disk,
            partitions,
            old_generations,
            _lock: lock,
        };
        Ok((dir, report))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cluster that it belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.meta.cluster_id
    }

    /// Its own id (KIP-858).
    #[must_use]
    pub fn directory_id(&self) -> DirectoryId {
        self.meta.directory_id
    }

    /// Whether nobody has used it before.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.meta_on_disk.is_none()
    }

    /// Partitions that were found, until [`split`](Self::split) gives them away.
    pub fn partitions(&self) -> impl Iterator<Item = FoundPartition<'_>> {
        self.partitions.iter().map(|seed| FoundPartition {
            id: seed.state.id,
            topic_name: &seed.state.topic_name,
            latest_epoch: seed.state.epochs.latest().map(|start| start.epoch),
            max_producer_id: seed.state.producers.iter().map(|(id, _)| *id).max(),
        })
    }

    /// The partitions as the next generation will have them.
    pub(crate) fn seeds_mut(&mut self) -> &mut [PartitionSeed] {
        &mut self.partitions
    }

    /// Begins the next leader epoch of every partition, at its end; durable with the [`split`](Self::split) that follows. For
    /// those who note epochs nowhere else: an unflushed tail that was lost must not share one with what takes its place.
    pub(crate) fn raise_epochs(&mut self) {
        for PartitionSeed { state, .. } in &mut self.partitions {
            // Where none is known, the first may be lost: that of a log which is made begins with its first append.
            let latest = state.epochs.latest().map_or(LeaderEpoch(0), |latest| latest.epoch);
            state.epochs.assign(LeaderEpoch(latest.0 + 1), state.next_offset);
        }
    }

    /// Divides the partitions among `shards` shards as `assign` says (a number below `shards`), and begins a new
    /// generation with an empty journal for each. Durable when this returns: from then on only the new journals count.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn split(
        &mut self,
        shards: usize,
        assign: impl Fn(&TopicPartition, &str) -> usize,
    ) -> Result<Vec<ShardSeed>, OpenError> {
        let generation = *self.io.random_uuid().as_bytes();
        let journal_root = self.path.join(JOURNAL_DIR);
        let generation_dir = journal_root.join(hex(&generation));
        let taken_dirs = TakenDirs::default();
        self.partitions.iter().for_each(|partition| _ = taken_dirs.claim(&partition.dir));
        let mut seeds: Vec<ShardSeed> = (0..shards.max(1))
            .map(|shard| ShardSeed {
                data_dir: self.path.clone(),
                journal_dir: journal_dir(&generation_dir, shard),
                generation,
                config: self.options.shard.clone(),
                default_log: self.options.default_log.clone(),
                partitions: Vec::new(),
                taken_dirs: taken_dirs.clone(),
            })
            .collect();
        for partition in std::mem::take(&mut self.partitions) {
            let shard = assign(&partition.state.id, &partition.state.topic_name);
            seeds[shard % shards.max(1)].partitions.push(partition);
        }
        // One after the other, since each finds the directories above that the first has made.
        for seed in &seeds {
            self.io.fs().create_dir_all_durable(&seed.journal_dir).await?;
        }
        let work = seeds.iter().map(|seed| {
            let mut body = Vec::new();
            seed.partitions.iter().for_each(|partition| partition.state.encode(&mut body));
            let bytes = checkpoint::encode(generation, 0, &JournalPlace::default(), &body);
            let (io, dir) = (self.io.clone(), seed.journal_dir.clone());
            async move {
                files::create_first(&io, &dir, generation).await?;
                checkpoint::create_slots(&io, &dir, bytes).await
            }
        });
        let begun = concurrent::all(&self.io, JOURNALS_AT_ONCE, work).await;
        begun.into_iter().collect::<Result<(), FileError>>()?;
        let current = journal_root.join(CURRENT_FILE);
        let content = format!("{} {}\n", hex(&generation), seeds.len());
        self.io.fs().replace_file_durable(current, content.into()).await?;
        // Only now may meta.properties say that there is a journal: the other way round, a crash in between would look
        // like a journal that got lost.
        // What a killed process wrote there was flushed before it had its name, and recovery flushed the name.
        let is_said = self.meta_on_disk.as_ref().is_some_and(|said| said.has_journal && *said == self.meta);
        if !is_said {
            write_meta(&self.io, &self.path, &self.meta).await?;
        }
        for old in std::mem::take(&mut self.old_generations) {
            remove_generation(&self.io, &old).await?;
        }
        Ok(seeds)
    }

    /// Marks the directory as cleanly stopped, once every shard has closed, and gives up the lock.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn mark_clean(self) -> Result<(), OpenError> {
        let marker = self.path.join(CLEAN_MARKER);
        self.io.fs().replace_file_durable(marker, "version: 1\n".into()).await?;
        Ok(())
    }
}

/// The refusal of a directory whose journal is gone.
pub(crate) fn missing_journal(path: &Path) -> OpenError {
    OpenError::NotOurs {
        path: path.join(JOURNAL_DIR),
        why: "the journal of this data directory is missing, and with it records that were acknowledged; \
              put it back from where the directory was copied, or restore a copy that includes journal/"
            .to_owned(),
    }
}

pub(crate) async fn lock_dir(io: &Io, path: &Path) -> Result<fs::File, OpenError> {
    lock_with(io, path, fs::OpenOptions::read_write().create()).await
}

/// Takes the lock with a file that is opened so.
pub(crate) async fn lock_with(io: &Io, path: &Path, options: fs::OpenOptions) -> Result<fs::File, OpenError> {
    let lock = io.fs().open(path.join(LOCK_FILE), options).await?;
    if !lock.try_lock().await? {
        return Err(OpenError::Locked { path: path.to_owned() });
    }
    Ok(lock)
}

/// Removes the marker of a clean stop, durably, before anything is changed; tells whether it was there.
async fn take_clean_marker(io: &Io, path: &Path) -> Result<bool, OpenError> {
    let marker = path.join(CLEAN_MARKER);
    if !io.fs().exists(&marker).await? {
        return Ok(false);
    }
    if !mutants::KEEP_CLEAN_MARKER.is_on() {
        io.fs().remove_file(&marker).await?;
        io.fs().sync_dir(path).await?;
    }
    Ok(true)
}

/// Directory of the generation that counts, and its id.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) dir: PathBuf,
    pub(crate) id: [u8; 16],
    /// Number of its journals, one a shard; `None` if it is older than that is told.
    journals: Option<usize>,
}

impl Generation {
    /// The first directory of a journal that is not there, although it counts.
    pub(crate) async fn missing_dir(&self, io: &Io) -> Result<Option<PathBuf>, FileError> {
        if !io.fs().exists(&self.dir).await? {
            return Ok(Some(self.dir.clone()));
        }
        for shard in 0..self.journals.unwrap_or(0) {
            let dir = journal_dir(&self.dir, shard);
            if !io.fs().exists(&dir).await? {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }
}

/// Directory of one shard's journal in that of its generation.
fn journal_dir(generation: &Path, shard: usize) -> PathBuf {
    generation.join(format!("shard-{shard}"))
}

pub(crate) async fn current_generation(io: &Io, path: &Path) -> Result<Option<Generation>, OpenError> {
    let root = path.join(JOURNAL_DIR);
    let current = root.join(CURRENT_FILE);
    if !io.fs().exists(&current).await? {
        return Ok(None);
    }
    let bytes = io.fs().read_file(&current, SMALL_FILE_BYTES).await?;
    let damaged = || OpenError::Damaged {
        path: current.clone(),
        position_bytes: 0,
        what: "does not name a generation of the journal".to_owned(),
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    let mut words = text.split_ascii_whitespace();
    let name = words.next().ok_or_else(damaged)?;
    let id = parse_hex(name).ok_or_else(damaged)?;
    let journals = words.next().map(|count| count.parse().ok().filter(|count| *count <= MAX_JOURNALS));
    let journals = journals.map(|count| count.ok_or_else(damaged)).transpose()?;
    Ok(Some(Generation { dir: root.join(name), id, journals }))
}

/// All generations in the directory.
async fn generations(io: &Io, path: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let root = path.join(JOURNAL_DIR);
    if !io.fs().exists(&root).await? {
        return Ok(Vec::new());
    }
    let entries = io.fs().read_dir(&root).await?;
    Ok(entries
        .into_iter()
        .filter(|entry| entry.kind == fs::FileKind::Directory && parse_hex(&entry.name).is_some())
        .map(|entry| root.join(entry.name))
        .collect())
}

pub(crate) async fn remove_generation(io: &Io, dir: &Path) -> Result<(), FileError> {
    let shards = io.fs().read_dir(dir).await?;
    let work = shards.into_iter().map(|shard| {
        let (io, shard) = (io.clone(), dir.join(&shard.name));
        async move {
            for file in io.fs().read_dir(&shard).await? {
                io.fs().remove_file(shard.join(&file.name)).await?;
            }
            io.fs().remove_dir(&shard).await
        }
    });
    let removed = concurrent::all(io, JOURNALS_AT_ONCE, work).await;
    removed.into_iter().collect::<Result<(), FileError>>()?;
    io.fs().remove_dir(dir).await
}

/// Removes a partition's directory that nothing refers to any more. Need not be durable: a rest is found at the next
/// start by its name.
pub(crate) async fn remove_partition_dir(io: &Io, dir: &Path) -> Result<(), FileError> {
    for entry in io.fs().read_dir(dir).await? {
        io.fs().remove_file(dir.join(&entry.name)).await?;
    }
    io.fs().remove_dir(dir).await
}

/// Where a deleted partition's directory waits for its removal, under Kafka's kind of name.
pub(crate) fn doomed_dir(io: &Io, data_dir: &Path, topic_name: &str, id: TopicPartition) -> PathBuf {
    let unique = io.random_uuid().simple();
    let tail = format!("-{}.{unique}-delete", id.partition.0);
    // As in Kafka, a long name is cut: file systems take no more.
    let topic = topic_name.get(..MAX_NAME_BYTES - tail.len()).unwrap_or(topic_name);
    data_dir.join(format!("{topic}{tail}"))
}

/// A partition's directory.
#[derive(Debug, Clone)]
pub(crate) struct FoundDir {
    pub(crate) path: PathBuf,
    pub(crate) topic_name: String,
}

/// Directories of partitions by id.
pub(crate) type FoundDirs = BTreeMap<TopicPartition, FoundDir>;

/// Where the last records of a partition are kept whose directory was lost.
pub(crate) fn stray_dir(data_dir: &Path, id: TopicPartition) -> PathBuf {
    data_dir.join(format!("{id}.stray"))
}

/// Whether a start found records of this partition in the journal and no directory: why it is fenced then.
pub(crate) async fn was_lost(
    io: &Io,
    data_dir: &Path,
    id: TopicPartition,
) -> Result<Option<String>, FileError> {
    let stray = stray_dir(data_dir, id);
    if !io.fs().exists(&stray).await? {
        return Ok(None);
    }
    let reason = format!(
        "its directory was missing at a start, and with it records; the last ones are kept in {}: restore the data directory \
         from a copy, or delete the topic",
        stray.display()
    );
    tracing::error!(partition = %id, "{reason}");
    Ok(Some(reason))
}

/// Lists the directories of partitions, and in a recovery finishes deletions that a crash interrupted. In one that is ours each has its
/// `partition.metadata` before it has anything else.
pub(crate) async fn discover(
    io: &Io,
    path: &Path,
    is_ours: bool,
    access: Access,
    report: &mut RecoveryReport,
) -> Result<FoundDirs, OpenError> {
    let mut found = FoundDirs::new();
    for entry in io.fs().read_dir(path).await? {
        if entry.kind != fs::FileKind::Directory || entry.name == JOURNAL_DIR {
            continue;
        }
        let dir = path.join(&entry.name);
        if entry.name.ends_with("-delete") {
            if access == Access::Recover {
                remove_partition_dir(io, &dir).await?;
            }
            continue;
        }
        if entry.name.ends_with("-future") {
            return Err(OpenError::NotOurs {
                path: dir,
                why: "a move between log directories was interrupted; start Kafka on it once to finish the move"
                    .to_owned(),
            });
        }
        let Some((topic_name, partition)) = parse_partition_dir(&entry.name) else { continue };
        match topic_id_of(io, &dir).await? {
            Some(topic_id) => {
                let id = TopicPartition { topic_id, partition: partition.into() };
                if let Some(other) = found.get(&id).map(|other: &FoundDir| other.path.display()) {
                    return Err(OpenError::NotOurs {
                        why: format!(
                            "is the same partition of the same topic as {other} by its {PARTITION_METADATA}: one of them \
                             is a copy; move that out of the data directory"
                        ),
                        path: dir,
                    });
                }
                found.insert(id, FoundDir { path: dir, topic_name: topic_name.to_owned() });
            }
            None => {
                let metadata = dir.join(PARTITION_METADATA);
                if io.fs().exists(&metadata).await? {
                    return Err(OpenError::Damaged {
                        path: metadata,
                        position_bytes: 0,
                        what: "does not tell the topic's id; put the file back from a copy of the data directory"
                            .to_owned(),
                    });
                }
                let entries = io.fs().read_dir(&dir).await?;
                if entries.iter().any(|entry| entry.name.ends_with(LOG_SUFFIX)) {
                    if is_ours {
                        return Err(OpenError::NotOurs {
                            path: metadata,
                            why: "is missing beside segments; put it back from a copy of the data directory, or move \
                                  the partition's directory out of it"
                                .to_owned(),
                        });
                    }
                    report.strays.push(format!("{}: no topic id, ignored", dir.display()));
                } else if access == Access::Recover {
                    // Its creation was interrupted before anything could be appended.
                    remove_partition_dir(io, &dir).await?;
                }
            }
        }
    }
    Ok(found)
}

pub(crate) async fn topic_id_of(io: &Io, dir: &Path) -> Result<Option<TopicId>, OpenError> {
    let path = dir.join(PARTITION_METADATA);
    let file = match io.fs().open(&path, fs::OpenOptions::read_only()).await {
        Err(error) if error.is_not_found() => return Ok(None),
        opened => opened?,
    };
    // Nobody asks for its length first: there may be thousands.
    let bytes = file.read_at(IoBuf::with_capacity(METADATA_BYTES), 0, METADATA_BYTES).await?;
    Ok(std::str::from_utf8(&bytes).ok().and_then(parse_partition_metadata))
}

pub(crate) fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_names_survive_the_round_trip() {
        let id = [0x0f; 16];
        assert_eq!(parse_hex(&hex(&id)), Some(id));
        assert_eq!(parse_hex("zz"), None);
    }
}

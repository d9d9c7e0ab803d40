//! The start of a broker's log directories: each is opened, locked and recovered by itself.
//!
//! A directory that cannot be read or written is offline, and the others are served; the one with the metadata log is the
//! exception, since it says what is in them. What is wrong in another way (a directory named twice, one of another broker, one
//! without its journal) is a mistake to be put right, and the start is refused: before anything is touched where
//! `meta.properties` tells, else the others may have been recovered by then, and lost their mark of a clean stop, which loses nothing.
//!
//! They are recovered at the same time: each has journals and a device of its own. Only where that with the metadata log is
//! new, it comes first, since the others are told whose they are.
//!
//! A directory that is empty is new, unless the metadata remember another one in its place that has partitions: then its
//! disk is not mounted or was replaced, and nothing is put there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use highwater_cluster::config::effective::ConfigView;
use highwater_cluster::{
    LogDir as RegisteredDir, METADATA_PARTITION, MetadataImage, Record, directories, lifecycle,
};
use highwater_io::fs::FileId;
use highwater_io::{Io, concurrent};
use highwater_log::{
    DataDir, FoundPartition, LogConfig, MetadataPlace, OpenError, OpenOptions, RecoveryReport, ShardSeed,
};
use highwater_model::{DirectoryId, NO_PARTITION_LEADER_EPOCH, ProducerId, TopicPartition};

use crate::config::{BrokerConfig, log_config};
use crate::log_dirs::{LogDir, LogDirs};
use crate::node::{BrokerError, data_dir_error};
use crate::shard::shard_of;

/// Directories that are recovered at the same time.
const RECOVERED_AT_ONCE: usize = 16;

/// Directories above one that are looked at.
const MOST_ANCESTORS: usize = 64;

/// A directory that was opened, or why it was not.
struct OpenDir {
    path: PathBuf,
    takes_partitions: bool,
    /// As its `meta.properties` says.
    id: Option<DirectoryId>,
    opened: Result<DataDir, String>,
}

/// All directories of a broker at its start.
pub(crate) struct OpenDirs {
    dirs: Vec<OpenDir>,
    metadata: usize,
    /// What recovery did, by path.
    pub(crate) reports: Vec<(PathBuf, RecoveryReport)>,
}

impl OpenDirs {
    /// Opens all that can be opened.
    ///
    /// # Errors
    /// [`BrokerError::DataDir`].
    pub(crate) async fn open(io: &Io, config: &BrokerConfig) -> Result<OpenDirs, BrokerError> {
        let mut paths = config.log_dirs.clone();
        if !paths.contains(&config.metadata_log_dir) {
            paths.push(config.metadata_log_dir.clone());
        }
        let metadata = paths.iter().position(|path| *path == config.metadata_log_dir).unwrap_or(0);
        if paths.len() > 1 {
            check_apart(io, &paths).await?;
        }
        let identities = identify(io, &paths).await;
        check_ids(&paths, &identities)?;
        let known = |index: usize| identities[index].as_ref().map(|known| known.cluster_id.clone());
        let cluster_id = (0..paths.len()).filter(|_| paths.len() > 1).find_map(known);
        let of_main = options(config, cluster_id, MetadataPlace::Here);
        let failed = |error: OpenError| data_dir_error(config, &paths[metadata], &error);
        DataDir::check(io, &paths[metadata], &of_main).await.map_err(failed)?;
        let others: Vec<usize> = (0..paths.len()).filter(|index| *index != metadata).collect();
        let of_others = |id: DirectoryId, cluster_id: String| {
            let options = options(config, Some(cluster_id), MetadataPlace::In(id));
            others.iter().map(|index| (*index, paths[*index].clone(), options.clone())).collect()
        };
        let mut all: Vec<ToOpen> = match (id_in(&identities, metadata), known(metadata)) {
            (Some(id), Some(cluster_id)) => of_others(id, cluster_id),
            // What the others belong to is decided when it is opened.
            _ => Vec::new(),
        };
        all.push((metadata, paths[metadata].clone(), of_main));
        let mut opened = open_all(io, all).await;
        let (main, report) = opened.remove(&metadata).ok_or(BrokerError::Ended)?.map_err(failed)?;
        let mut reports = vec![(paths[metadata].clone(), report)];
        if opened.is_empty() {
            opened = open_all(io, of_others(main.directory_id(), main.cluster_id().to_owned())).await;
        }

        let mut main = Some(main);
        let mut dirs = Vec::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            let of_metadata = || id_in(&identities, index);
            let (id, opened) = match opened.remove(&index) {
                None => (main.as_ref().map(DataDir::directory_id), main.take().ok_or_else(String::new)),
                Some(Ok((dir, report))) => {
                    refuse_second_metadata(&dir, &paths[metadata])?;
                    reports.push((path.clone(), report));
                    (Some(dir.directory_id()), Ok(dir))
                }
                Some(Err(error)) => (of_metadata(), Err(unless_mistaken(config, path, &error)?)),
            };
            let takes_partitions = config.log_dirs.contains(path);
            dirs.push(OpenDir { path: path.clone(), takes_partitions, id, opened });
        }
        let dirs = OpenDirs { dirs, metadata, reports };
        dirs.refuse_copies()?;
        Ok(dirs)
    }

    fn main(&mut self) -> Option<&mut DataDir> {
        self.dirs[self.metadata].opened.as_mut().ok()
    }

    fn open_dirs(&self) -> impl Iterator<Item = &DataDir> {
        self.dirs.iter().filter_map(|dir| dir.opened.as_ref().ok())
    }

    /// Cluster that they belong to.
    pub(crate) fn cluster_id(&self) -> String {
        self.open_dirs().next().map(|dir| dir.cluster_id().to_owned()).unwrap_or_default()
    }

    /// What is on the media, before the metadata say what should be.
    pub(crate) fn leftovers(&self) -> Leftovers {
        let mut leftovers = Leftovers { partitions: Vec::new(), next_producer_id: ProducerId(0) };
        for dir in self.open_dirs() {
            let directory = (self.dirs.len() > 1).then(|| dir.directory_id());
            let partitions = dir.partitions().filter(|partition| partition.id != METADATA_PARTITION);
            let found = |partition: FoundPartition<'_>| lifecycle::Found {
                id: partition.id,
                topic_name: partition.topic_name.to_owned(),
                latest_epoch: partition.latest_epoch.unwrap_or(NO_PARTITION_LEADER_EPOCH),
                directory,
            };
            leftovers.partitions.extend(partitions.map(found));
            let max_producer_id = dir.partitions().filter_map(|partition| partition.max_producer_id).max();
            let next = max_producer_id.map_or(ProducerId(0), |id| ProducerId(id.0.saturating_add(1)));
            leftovers.next_producer_id = leftovers.next_producer_id.max(next);
        }
        leftovers
    }

    /// Gives each shard its part of the directory with the metadata log.
    ///
    /// # Errors
    /// [`BrokerError::DataDir`].
    pub(crate) async fn split_main(&mut self, config: &BrokerConfig) -> Result<Vec<ShardSeed>, BrokerError> {
        let path = self.dirs[self.metadata].path.clone();
        let main = self.main().ok_or(BrokerError::Ended)?;
        split(main, config).await.map_err(|error| data_dir_error(config, &path, &error))
    }

    /// Gives each shard its part of the other directories: by directory, then by shard, and nothing for those that are
    /// offline. One that fails now is.
    ///
    /// # Errors
    /// [`BrokerError::DataDir`].
    pub(crate) async fn split_others(
        &mut self,
        config: &BrokerConfig,
    ) -> Result<Vec<Option<Vec<ShardSeed>>>, BrokerError> {
        let mut seeds = Vec::with_capacity(self.dirs.len());
        for (index, dir) in self.dirs.iter_mut().enumerate() {
            if index == self.metadata {
                seeds.push(None);
                continue;
            }
            let of_dir = match &mut dir.opened {
                Ok(opened) => match split(opened, config).await {
                    Ok(of_shards) => Some(of_shards),
                    Err(error) => {
                        dir.opened = Err(unless_mistaken(config, &dir.path, &error)?);
                        None
                    }
                },
                Err(_) => None,
            };
            seeds.push(of_dir);
        }
        Ok(seeds)
    }

    /// Holds what was opened against what the metadata say: an empty directory where one with partitions was is offline. One
    /// that is open at another path now was not there: disks may change places.
    pub(crate) fn compare(&mut self, config: &BrokerConfig, image: &MetadataImage) {
        if self.dirs.len() == 1 {
            return;
        }
        let counts = self.partition_counts(config, image);
        let mut registered = registered(config, image);
        registered.retain(|known| self.open_dirs().all(|dir| dir.directory_id() != known.id));
        for dir in &mut self.dirs {
            let here = |known: &&RegisteredDir| dir.path == Path::new(&known.path);
            let has_partitions = |known: &&RegisteredDir| counts.contains_key(&known.id);
            let before = registered.iter().filter(here).find(has_partitions);
            match &dir.opened {
                Ok(opened) if opened.is_fresh() => {
                    let Some(before) = before else { continue };
                    dir.id = Some(before.id);
                    dir.opened = Err(format!(
                        "it is empty, and had {} partitions before (directory.id={}): mount its disk, or restore it from a \
                         copy; to begin anew in it, delete the topics that have partitions there",
                        counts[&before.id], before.id
                    ));
                }
                Ok(_) => {}
                Err(_) => {
                    let last = registered.iter().rfind(here);
                    dir.id = dir.id.or(before.or(last).map(|known| known.id));
                }
            }
        }
    }

    fn partition_counts(&self, config: &BrokerConfig, image: &MetadataImage) -> BTreeMap<DirectoryId, usize> {
        let metadata_dir = self.dirs[self.metadata].id.unwrap_or(DirectoryId::UNASSIGNED);
        directories::partition_counts(image, config.node_id, metadata_dir)
    }

    /// A partition is in one directory. Before the first of them begins a new generation of journals: what that names is
    /// made again where it is missing, so that a copy could not be moved out any more.
    fn refuse_copies(&self) -> Result<(), BrokerError> {
        let mut seen: BTreeMap<TopicPartition, &Path> = BTreeMap::new();
        for dir in self.open_dirs() {
            for partition in dir.partitions() {
                let Some(other) = seen.insert(partition.id, dir.path()) else { continue };
                return Err(BrokerError::DataDir {
                    path: dir.path().to_owned(),
                    reason: format!(
                        "partition {}-{} is there and in {}: one of them is a copy; move that out of the log directories",
                        partition.topic_name,
                        partition.id.partition,
                        other.display()
                    ),
                });
            }
        }
        Ok(())
    }

    /// What the metadata must say about where partitions are and do not. What is in a directory that is not open is not
    /// known: a partition of it that is in another one, too, may be an old copy.
    pub(crate) fn moved(
        &self,
        config: &BrokerConfig,
        image: &MetadataImage,
        found: &Leftovers,
    ) -> Vec<Record> {
        let metadata_dir = self.dirs[self.metadata].id;
        let moved = found.partitions.iter().filter_map(|partition| {
            let state = image.partition(&partition.id)?;
            let directory = partition.directory?;
            let known = state.directory_of(config.node_id).or(metadata_dir);
            let is_moved =
                known != Some(directory) && self.open_dirs().any(|dir| known == Some(dir.directory_id()));
            is_moved.then(|| Record::Partition {
                id: partition.id,
                state: state.clone().with_directory(config.node_id, directory),
            })
        });
        moved.collect()
    }

    /// The directories as the broker registers them: those that are configured, and those that have partitions still. None
    /// where there was never more than one.
    pub(crate) fn to_register(&self, config: &BrokerConfig, image: &MetadataImage) -> Vec<RegisteredDir> {
        let before = registered(config, image);
        if self.dirs.len() == 1 && before.is_empty() {
            return before;
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let known = |dir: &OpenDir| Some(RegisteredDir { id: dir.id?, path: text(&dir.path) });
        let mut register: Vec<RegisteredDir> = self.dirs.iter().filter_map(known).collect();
        let counts = self.partition_counts(config, image);
        for dir in before {
            let is_new = register.iter().all(|known| known.id != dir.id);
            if is_new && counts.contains_key(&dir.id) {
                register.push(dir);
            }
        }
        register
    }

    /// Why a first start cannot go on without a directory: what is in it would be unknown.
    pub(crate) fn first_offline(&self) -> Option<BrokerError> {
        self.dirs.iter().find_map(|dir| {
            let reason = dir.opened.as_ref().err()?.clone();
            Some(BrokerError::DataDir {
                path: dir.path.clone(),
                reason: format!("{reason}; the first start needs every log directory"),
            })
        })
    }

    /// Tells loudly what is not served, and gives the directories to the shards, and those that are open to whoever marks
    /// them clean, by index.
    pub(crate) fn finish(
        self,
        config: &BrokerConfig,
        image: &MetadataImage,
    ) -> (LogDirs, Vec<(usize, DataDir)>) {
        let counts = self.partition_counts(config, image);
        let mut known = Vec::with_capacity(self.dirs.len());
        let mut open = Vec::new();
        for (index, dir) in self.dirs.into_iter().enumerate() {
            let is_open = match dir.opened {
                Ok(opened) => {
                    open.push((index, opened));
                    true
                }
                Err(reason) => {
                    let partitions = dir.id.and_then(|id| counts.get(&id)).copied().unwrap_or(0);
                    tracing::error!(
                        log_dir = %dir.path.display(),
                        partitions,
                        "log directory is offline: {reason}; its partitions are not served until it is there at a start"
                    );
                    false
                }
            };
            known.push(LogDir {
                path: dir.path,
                id: dir.id,
                takes_partitions: dir.takes_partitions,
                is_open,
                failure: OnceLock::new(),
            });
        }
        for (id, partitions) in &counts {
            if known.iter().all(|dir| dir.id != Some(*id)) {
                let path =
                    registered(config, image).into_iter().find(|dir| dir.id == *id).map(|dir| dir.path);
                tracing::error!(
                    partitions,
                    "log directory {} (directory.id={id}) is not among log.dirs: its partitions are not served",
                    path.unwrap_or_else(|| "of an unknown place".to_owned())
                );
            }
        }
        (LogDirs::new(config.node_id, known, self.metadata), open)
    }
}

/// What is on the media before the metadata say what should be.
pub(crate) struct Leftovers {
    pub(crate) partitions: Vec<lifecycle::Found>,
    pub(crate) next_producer_id: ProducerId,
}

fn registered(config: &BrokerConfig, image: &MetadataImage) -> Vec<RegisteredDir> {
    image.brokers().get(&config.node_id).map(|broker| broker.log_dirs.clone()).unwrap_or_default()
}

fn options(config: &BrokerConfig, cluster_id: Option<String>, metadata: MetadataPlace) -> OpenOptions {
    let image = MetadataImage::default();
    let view = ConfigView { image: &image, static_config: &config.static_config, broker_id: config.node_id };
    OpenOptions {
        shard: config.shard.clone(),
        cluster_id,
        node_id: config.node_id,
        // Nothing is deleted of a partition before the metadata say what is to be kept of it, and never if they do not know it.
        default_log: LogConfig {
            retention_ms: None,
            retention_bytes: None,
            compact_enabled: false,
            ..log_config(&view, None)
        },
        metadata,
    }
}

async fn split(dir: &mut DataDir, config: &BrokerConfig) -> Result<Vec<ShardSeed>, OpenError> {
    let shards = config.num_shards;
    dir.split(shards, move |id: &TopicPartition, _: &str| shard_of(id, shards)).await
}

/// Why a directory is offline, if it is the medium that failed; a mistake is an error of the start.
fn unless_mistaken(config: &BrokerConfig, path: &Path, error: &OpenError) -> Result<String, BrokerError> {
    match error {
        OpenError::File(_) | OpenError::Damaged { .. } => match data_dir_error(config, path, error) {
            BrokerError::DataDir { reason, .. } => Ok(reason),
            other => Err(other),
        },
        _ => Err(data_dir_error(config, path, error)),
    }
}

/// One directory alone has a metadata log.
fn refuse_second_metadata(dir: &DataDir, metadata_dir: &Path) -> Result<(), BrokerError> {
    if dir.partitions().all(|partition| partition.id != METADATA_PARTITION) {
        return Ok(());
    }
    Err(BrokerError::DataDir {
        path: dir.path().to_owned(),
        reason: format!(
            "it has a metadata log, and so would {}: name the directory whose log counts first in log.dirs, or as \
             metadata.log.dir",
            metadata_dir.display()
        ),
    })
}

/// A directory that is to be opened, with its index.
type ToOpen = (usize, PathBuf, OpenOptions);

type Opened = Result<(DataDir, RecoveryReport), OpenError>;

/// Opens directories, several at once, by index.
async fn open_all(io: &Io, dirs: Vec<ToOpen>) -> BTreeMap<usize, Opened> {
    let work = dirs.into_iter().map(|(index, path, options)| {
        let io = io.clone();
        async move { (index, DataDir::open(&io, &path, options).await) }
    });
    concurrent::all(io, RECOVERED_AT_ONCE, work).await.into_iter().collect()
}

async fn identify(io: &Io, paths: &[PathBuf]) -> Vec<Option<highwater_log::Identity>> {
    let mut identities = Vec::with_capacity(paths.len());
    for path in paths {
        // What is wrong with it is said when it is opened.
        identities.push(DataDir::identify(io, path).await.ok().flatten());
    }
    identities
}

fn id_in(identities: &[Option<highwater_log::Identity>], index: usize) -> Option<DirectoryId> {
    let id = identities[index].as_ref()?.directory_id;
    (id != DirectoryId::UNASSIGNED).then_some(id)
}

/// No directory is a copy of another one.
fn check_ids(paths: &[PathBuf], identities: &[Option<highwater_log::Identity>]) -> Result<(), BrokerError> {
    let mut seen: BTreeMap<DirectoryId, &PathBuf> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        let Some(id) = id_in(identities, index) else { continue };
        if let Some(other) = seen.insert(id, path) {
            return Err(BrokerError::DataDir {
                path: path.clone(),
                reason: format!(
                    "directory.id={id} is that of {}, too: one of them is a copy",
                    other.display()
                ),
            });
        }
    }
    Ok(())
}

/// No directory is named twice, whatever the names, and none lies in another.
async fn check_apart(io: &Io, paths: &[PathBuf]) -> Result<(), BrokerError> {
    let mut ids: Vec<Option<FileId>> = Vec::with_capacity(paths.len());
    for path in paths {
        // One that cannot be looked at is offline, or made.
        ids.push(io.fs().metadata(path).await.ok().map(|found| found.id));
    }
    let refused =
        |index: usize, reason: String| Err(BrokerError::DataDir { path: paths[index].clone(), reason });
    for (index, path) in paths.iter().enumerate() {
        let same =
            |other: &usize| paths[*other] == *path || ids[index].is_some() && ids[*other] == ids[index];
        if let Some(other) = (0..index).find(same) {
            return refused(index, format!("is named twice in log.dirs: it is {}", paths[other].display()));
        }
    }
    for (index, path) in paths.iter().enumerate() {
        let above = ancestors(io, path).await;
        let is_above = |other: &usize| {
            *other != index
                && (path.starts_with(&paths[*other]) || ids[*other].is_some_and(|id| above.contains(&id)))
        };
        if let Some(other) = (0..paths.len()).find(is_above) {
            return refused(index, format!("lies in another log directory, {}", paths[other].display()));
        }
    }
    Ok(())
}

/// The directories above `path`, links resolved.
async fn ancestors(io: &Io, path: &Path) -> Vec<FileId> {
    let mut above: Vec<FileId> = Vec::new();
    let mut at = path.to_owned();
    if io.fs().metadata(&at).await.is_err() {
        // It will be made: from the first that is there.
        while at.pop() {
            if let Ok(found) = io.fs().metadata(&at).await {
                above.push(found.id);
                break;
            }
        }
    }
    for _ in 0..MOST_ANCESTORS {
        at.push("..");
        let Ok(found) = io.fs().metadata(&at).await else { break };
        // The root is its own parent.
        if above.last() == Some(&found.id) {
            break;
        }
        above.push(found.id);
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Topics of Kafka's that were left alone once lost what was a week old.
    #[test]
    fn partition_that_no_metadata_know_keeps_everything() {
        let mut config = BrokerConfig::for_data_dir("/data");
        config.set("log.retention.bytes", "1").expect("valid");
        config.set("log.cleanup.policy", "compact,delete").expect("valid");
        let LogConfig { retention_ms, retention_bytes, compact_enabled, .. } =
            options(&config, None, MetadataPlace::Here).default_log;
        assert_eq!((retention_ms, retention_bytes, compact_enabled), (None, None, false));
    }
}

//! The log directories of a broker: which of them serve, and which has a partition.
//!
//! ```text
//!   online ──► failed        a write or flush failed: nothing is appended in it until the next start; what is intact is read
//!   absent                   could not be opened at the start, or is another one than it was: nothing is known of its partitions
//! ```
//!
//! Invariants: a partition whose directory is not online is made anew nowhere; a directory that failed stays failed. What a
//! healthy directory serves depends on no other one, except on the one that has the metadata log for changes of metadata.

use std::path::PathBuf;
use std::sync::OnceLock;

use highwater_cluster::{MetadataImage, PartitionState, Record, directories};
use highwater_model::{BrokerId, DirectoryId};

/// A log directory, as every shard knows it.
#[derive(Debug)]
pub(crate) struct LogDir {
    pub(crate) path: PathBuf,
    /// What it is by its `meta.properties`, or was when it was last there; `None` if that is not known.
    pub(crate) id: Option<DirectoryId>,
    /// Whether new partitions may be placed there: it is one of `log.dirs`.
    pub(crate) takes_partitions: bool,
    /// Whether it was opened at the start.
    pub(crate) is_open: bool,
    /// Why it failed since, if it did.
    pub(crate) failure: OnceLock<String>,
}

impl LogDir {
    /// Whether all of it is served.
    pub(crate) fn is_online(&self) -> bool {
        self.is_open && self.failure.get().is_none()
    }
}

/// The log directories of a broker.
#[derive(Debug)]
pub(crate) struct LogDirs {
    broker_id: BrokerId,
    dirs: Vec<LogDir>,
    metadata: usize,
}

/// What can be done with a partition that this broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is in the directory with this index, which serves.
    Online(usize),
    /// Its directory has failed while the broker ran: what is intact can be read.
    Failed,
    /// Its directory is not there.
    Absent,
}

impl LogDirs {
    /// Those of a broker; `metadata` is the index of the one with the metadata log.
    pub(crate) fn new(broker_id: BrokerId, dirs: Vec<LogDir>, metadata: usize) -> Self {
        LogDirs { broker_id, dirs, metadata }
    }

    /// All of them, by index.
    pub(crate) fn all(&self) -> &[LogDir] {
        &self.dirs
    }

    /// Index of the one with the metadata log, which every start needs.
    pub(crate) fn metadata(&self) -> usize {
        self.metadata
    }

    /// Where a partition is. What nobody assigned was made when there was one directory.
    pub(crate) fn place_of(&self, state: &PartitionState) -> Place {
        let found = match state.directory_of(self.broker_id) {
            None => Some(self.metadata),
            Some(id) => self.dirs.iter().position(|dir| dir.id == Some(id)),
        };
        match found {
            Some(index) if self.dirs[index].is_online() => Place::Online(index),
            Some(index) if self.dirs[index].is_open => Place::Failed,
            Some(_) | None => Place::Absent,
        }
    }

    /// Whether every directory that this broker is known to have is there and serves.
    pub(crate) fn are_complete(&self, image: &MetadataImage) -> bool {
        let is_online = |id: DirectoryId| self.dirs.iter().any(|dir| dir.id == Some(id) && dir.is_online());
        let registered = image.brokers().get(&self.broker_id).map_or(&[][..], |broker| &broker.log_dirs);
        self.dirs.iter().all(LogDir::is_online) && registered.iter().all(|dir| is_online(dir.id))
    }

    /// Notes that a directory failed; whether that is news.
    pub(crate) fn fail(&self, index: usize, cause: &str) -> bool {
        self.dirs[index].failure.set(cause.to_owned()).is_ok()
    }

    /// Chooses directories for the new partitions in `records`. With one directory there is nothing to choose.
    ///
    /// # Errors
    /// If none is online that takes partitions.
    pub(crate) fn assign(&self, image: &MetadataImage, records: &mut [Record]) -> Result<(), NoneOnline> {
        if self.dirs.len() == 1 || records.is_empty() {
            return Ok(());
        }
        let candidates = self.dirs.iter().filter(|dir| dir.is_online() && dir.takes_partitions);
        let candidates: Vec<DirectoryId> = candidates.filter_map(|dir| dir.id).collect();
        if candidates.is_empty() {
            return Err(NoneOnline);
        }
        let metadata_dir = self.dirs[self.metadata].id.unwrap_or(DirectoryId::UNASSIGNED);
        let counts = directories::partition_counts(image, self.broker_id, metadata_dir);
        directories::place(image, records, self.broker_id, &candidates, counts);
        Ok(())
    }

    /// Tells that a directory failed.
    pub(crate) fn tell_failure(&self, index: usize, partitions: usize) {
        let path = self.dirs[index].path.display();
        if index == self.metadata {
            tracing::error!(
                log_dir = %path,
                partitions,
                "log directory is offline until the next start, and it has the metadata log: no topic or setting can be \
                 changed; partitions in other directories are served on"
            );
        } else {
            tracing::error!(
                log_dir = %path,
                partitions,
                "log directory is offline until the next start: its partitions take no appends, those in other \
                 directories are served on"
            );
        }
    }
}

/// No directory takes partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no log directory is online that could take a partition")]
pub(crate) struct NoneOnline;

#[cfg(test)]
mod tests {
    use highwater_model::LeaderEpoch;

    use super::*;

    const BROKER: BrokerId = BrokerId(1);

    fn id(number: u128) -> DirectoryId {
        DirectoryId(uuid::Uuid::from_u128(number))
    }

    fn dirs(open: &[bool]) -> LogDirs {
        let dir = |(number, &is_open): (u128, &bool)| LogDir {
            path: format!("/{number}").into(),
            id: Some(id(number)),
            takes_partitions: true,
            is_open,
            failure: OnceLock::new(),
        };
        LogDirs::new(BROKER, (1..).zip(open).map(dir).collect(), 0)
    }

    fn state() -> PartitionState {
        PartitionState {
            replicas: vec![BROKER],
            in_sync_replicas: vec![BROKER],
            leader: BROKER,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: 0,
            directories: Vec::new(),
        }
    }

    #[test]
    fn partition_is_where_the_metadata_say_and_nowhere_else() {
        let dirs = dirs(&[true, false, true]);
        assert_eq!(dirs.place_of(&state()), Place::Online(0), "made when there was one directory");
        let place = |number| dirs.place_of(&state().with_directory(BROKER, id(number)));
        assert_eq!(
            [1, 2, 3, 9].map(place),
            [Place::Online(0), Place::Absent, Place::Online(2), Place::Absent]
        );
        assert!(dirs.fail(2, "EIO"));
        assert!(!dirs.fail(2, "again"), "told once");
        assert_eq!(place(3), Place::Failed);
    }

    #[test]
    fn new_partitions_go_to_directories_that_are_online() {
        let directories = dirs(&[true, true, false]);
        let partition = |index: i32| Record::Partition {
            id: highwater_model::TopicPartition {
                topic_id: highwater_model::TopicId(uuid::Uuid::from_u128(7)),
                partition: index.into(),
            },
            state: state(),
        };
        let assigned = |dirs: &LogDirs| {
            let mut records = vec![partition(0), partition(1)];
            dirs.assign(&MetadataImage::default(), &mut records).map(|()| {
                let of = |record: &Record| match record {
                    Record::Partition { state, .. } => state.directory_of(BROKER),
                    _ => None,
                };
                records.iter().map(of).collect::<Vec<_>>()
            })
        };
        assert_eq!(assigned(&directories), Ok(vec![Some(id(1)), Some(id(2))]));
        directories.fail(0, "EIO");
        assert_eq!(assigned(&directories), Ok(vec![Some(id(2)); 2]));
        directories.fail(1, "EIO");
        assert_eq!(assigned(&directories), Err(NoneOnline));
        assert_eq!(assigned(&dirs(&[true])), Ok(vec![None; 2]), "nothing to choose, nothing to write");
    }
}

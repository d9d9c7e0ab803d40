//! Partitions that come and go: their directories are made, their deletion is written down, and what is left of them is taken
//! away, at once or when what that was short of is there again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use highwater_io::FileError;
use highwater_model::{Offset, TopicPartition};

use super::{FLUSHES_IN_FLIGHT, NewPartition, SegmentKey, ShardCore, ShardLogs};
use crate::config::LogConfig;
use crate::dir::{self, PartitionSeed};
use crate::error::LogError;
use crate::journal::format::{Change, Entry};
use crate::journal::progress::Mark;
use crate::kafka_files::{PARTITION_METADATA, encode_partition_metadata, partition_dir_name};
use crate::mutants;
use crate::partition::segment::Segment;
use crate::partition::state::PartitionState;
use crate::partition::{Effect, Partition, PartitionCore};

impl ShardLogs {
    pub(super) async fn create_all(&self, new: Vec<NewPartition>) -> Vec<Result<Partition, LogError>> {
        let core = &self.core;
        let _turn = core.create_turn.acquire(1).await;
        let mut made = Vec::with_capacity(new.len());
        let (mut begun, mut ids) = (Vec::new(), BTreeSet::new());
        for NewPartition { id, topic_name, config } in new {
            let going = self.partition(&id).filter(Partition::is_going);
            if going.is_some()
                && let Err(error) = self.delete_partition(&id).await
            {
                made.push((id, config, Err(error)));
                continue;
            }
            if self.partition(&id).is_some() || ids.contains(&id) {
                made.push((id, config, Ok(None)));
                continue;
            }
            if let Err(error) = core.pass_deletion(&id).await {
                made.push((id, config, Err(error)));
                continue;
            }
            let dir: Rc<Path> = core.data_dir.join(partition_dir_name(&topic_name, id.partition.0)).into();
            if let Some(going) = core.going_at(&dir)
                && let Err(error) = self.delete_partition(&going).await
            {
                made.push((id, config, Err(error)));
                continue;
            }
            if let Err(refused) = core.claim_dir(&dir) {
                made.push((id, config, Err(refused)));
                continue;
            }
            ids.insert(id);
            begun.push((made.len(), id, Rc::clone(&dir)));
            made.push((id, config, Ok(Some((dir, topic_name)))));
        }
        // Some may have waited for a checkpoint, and the log may have begun to close. It waits for what begins now.
        if core.closing.get() {
            for (place, _, dir) in begun.drain(..) {
                core.taken_dirs.release(&dir);
                made[place].2 = Err(LogError::Closed);
            }
        }
        let mut is_lost: BTreeMap<TopicPartition, Option<String>> = BTreeMap::new();
        for (place, id, outcome) in core.create_partition_dirs(begun).await {
            match outcome {
                Ok(lost) => drop(is_lost.insert(id, lost)),
                Err(error) => {
                    if let Ok(Some((dir, _))) = &made[place].2 {
                        core.taken_dirs.release(dir);
                    }
                    made[place].2 = Err(error);
                }
            }
        }
        made.into_iter()
            .map(|(id, config, outcome)| {
                if let Some((dir, topic_name)) = outcome? {
                    let mut state = PartitionState::empty(id, &topic_name);
                    state.fenced = is_lost.remove(&id).flatten();
                    let dir = dir.to_path_buf();
                    core.adopt(
                        PartitionSeed { dir, state, segments: Vec::new(), is_complete: false },
                        config,
                    );
                    return self.partition(&id).ok_or(LogError::Closed);
                }
                let partition = self.partition(&id).ok_or(LogError::Closed)?;
                partition.set_config(config);
                Ok(partition)
            })
            .collect()
    }
}

impl Partition {
    pub(super) async fn delete(self) -> Result<(), LogError> {
        let Partition { core: partition, shard } = self;
        let _asked = Asked::begin(&partition.deletions);
        let _append_turn = partition.append_turn.acquire(1).await;
        // No checkpoint passes the entry before the directory's name is gone: it would come back without a record of
        // its end. Nor may we wait for the journal while we keep checkpoints away, or the write-behind of which they are
        // made.
        let _turns = loop {
            shard.journal.admit(0, 1).await?;
            let Some(checkpoint_turn) = shard.checkpoint_turn.try_acquire(1) else {
                drop(shard.checkpoint_turn.acquire(1).await);
                continue;
            };
            match partition.drain_turn.try_acquire(1) {
                Some(drain_turn) => break (checkpoint_turn, drain_turn),
                None => {
                    drop(checkpoint_turn);
                    drop(partition.drain_turn.acquire(1).await);
                }
            }
        };
        if partition.live.borrow().deleted {
            // An attempt before this one was short of something, or has just come to its end.
            return shard.finish_deletions().await;
        }
        if partition.live.borrow().closed {
            return Err(LogError::Closed);
        }
        let entry = Entry { id: partition.id, change: Change::Delete };
        let effect = Effect::none(Rc::clone(&partition));
        let sequence = shard.journal.append(|group| {
            group.push(entry, effect);
            group.wants_flush = true;
        });
        {
            let mut live = partition.live.borrow_mut();
            live.closed = true;
            live.deleted = true;
        }
        shard.deletions.borrow_mut().insert(partition.id, sequence);
        shard.journal.progress().wait(Mark::Durable, sequence).await?;
        shard.finish_deletion(&partition).await
    }
}

impl ShardCore {
    pub(super) fn adopt(&self, seed: PartitionSeed, config: LogConfig) {
        let PartitionSeed { dir, state, segments, is_complete } = seed;
        self.count_producers(state.producers.len());
        let dir: Rc<Path> = dir.into();
        let segments: BTreeMap<Offset, Rc<Segment>> = segments
            .into_iter()
            .map(|found| {
                let closed = found.base_offset < state.segment_base;
                let segment = Segment::new(
                    Rc::clone(&dir),
                    found.base_offset,
                    found.size_bytes,
                    closed,
                    &self.open_files,
                );
                (found.base_offset, segment)
            })
            .collect();
        let core = PartitionCore::new(dir, state, segments, config, Rc::clone(&self.drain_queue));
        core.is_complete.set(is_complete);
        core.live.borrow_mut().closed = self.closing.get();
        self.partitions.borrow_mut().insert(core.id, core);
    }

    /// Takes the directory of a partition that is to be made.
    fn claim_dir(&self, dir: &Path) -> Result<(), LogError> {
        if self.closing.get() {
            return Err(LogError::Closed);
        }
        if let Some(failure) = self.journal.progress().failure() {
            return Err(failure.into());
        }
        let in_use = || LogError::NameInUse { path: dir.display().to_string().into() };
        self.taken_dirs.claim(dir).then_some(()).ok_or_else(in_use)
    }

    /// The partition that has this directory still, though it is to be deleted.
    fn going_at(&self, dir: &Rc<Path>) -> Option<TopicPartition> {
        if !self.taken_dirs.is_taken(dir) {
            return None;
        }
        let partitions = self.partitions.borrow();
        let found = partitions.values().find(|core| core.dir == *dir)?;
        found.is_going().then_some(found.id)
    }

    /// Makes sure that no start finds the deletion of a partition in the journal, whichever of the two checkpoints it takes: it
    /// would remove what is made under that id now.
    async fn pass_deletion(self: &Rc<Self>, id: &TopicPartition) -> Result<(), LogError> {
        let is_found = |passed| self.deletions.borrow().get(id).is_some_and(|&sequence| sequence > passed);
        while is_found(self.passed_by_both_checkpoints()) && !mutants::DELETION_NOT_PASSED.is_on() {
            self.checkpoint().await?;
        }
        Ok(())
    }

    /// Makes directories of partitions, several at once, and then all of their names durable. Why each is fenced, if it is
    /// not new: a start found records of it in the journal, and no directory.
    async fn create_partition_dirs<P: 'static>(
        self: &Rc<Self>,
        new: Vec<(P, TopicPartition, Rc<Path>)>,
    ) -> Vec<(P, TopicPartition, Result<Option<String>, LogError>)> {
        let at_once = new.len().min(FLUSHES_IN_FLIGHT);
        let new = Rc::new(RefCell::new(VecDeque::from(new)));
        let begin = |_| {
            let (core, new) = (Rc::clone(self), Rc::clone(&new));
            self.io.spawn(async move {
                let mut made = Vec::new();
                loop {
                    let Some((place, id, dir)) = new.borrow_mut().pop_front() else { return made };
                    let outcome = match core.create_partition_dir(&dir, id).await {
                        Ok(()) => dir::was_lost(&core.io, &core.data_dir, id).await,
                        Err(error) => Err(error),
                    };
                    made.push((place, id, outcome.map_err(|error| core.fence(&error))));
                }
            })
        };
        let tasks: Vec<_> = (0..at_once).map(begin).collect();
        let mut made = Vec::new();
        for task in tasks {
            made.append(&mut task.await);
        }
        let has_new = made.iter().any(|(.., outcome)| outcome.is_ok());
        if has_new
            && !mutants::SKIP_CREATE_FLUSH.is_on()
            && let Err(error) = self.io.fs().sync_dir(&self.data_dir).await
        {
            let error = self.fence_device(&error);
            for (.., outcome) in made.iter_mut().filter(|(.., outcome)| outcome.is_ok()) {
                *outcome = Err(error.clone());
            }
        }
        made
    }

    /// Makes a partition's directory, all but for the flush of its name.
    async fn create_partition_dir(&self, dir: &Path, id: TopicPartition) -> Result<(), FileError> {
        let fs = self.io.fs();
        match fs.create_dir(dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let metadata = encode_partition_metadata(id.topic_id);
        if mutants::SKIP_CREATE_FLUSH.is_on() {
            return Ok(());
        }
        fs.replace_file_durable(dir.join(PARTITION_METADATA), metadata.into()).await
    }

    /// Finishes the deletions that the journal tells of and that came to no end. For whoever has the checkpoint's turn: no
    /// checkpoint passes them before, or nothing would tell any more that the directory is nobody's.
    pub(super) async fn finish_deletions(&self) -> Result<(), LogError> {
        let begun: Vec<Rc<PartitionCore>> =
            self.partitions.borrow().values().filter(|core| core.live.borrow().deleted).cloned().collect();
        if !begun.is_empty() {
            self.flush_journal().await?;
        }
        for partition in begun {
            self.finish_deletion(&partition).await?;
        }
        self.remove_doomed().await
    }

    /// Removes a partition, of which the journal says durably that it is deleted.
    async fn finish_deletion(&self, partition: &Rc<PartitionCore>) -> Result<(), LogError> {
        // Compaction notices, and ends.
        let _cleaning_turn = partition.cleaning_turn.acquire(1).await;
        self.forget_partition(&partition.id);
        // Whoever still reads finds nothing under these names, which may be another topic's soon.
        {
            let live = partition.live.borrow();
            for segment in live.segments.values().chain(&live.next_segment) {
                segment.set_removed();
                segment.close_file();
            }
        }
        let doomed = self.retire_dir(partition).await?;
        // Until now nothing else could take its name.
        self.partitions.borrow_mut().remove(&partition.id);
        self.taken_dirs.release(&partition.dir);
        self.doomed.borrow_mut().push(doomed);
        self.remove_doomed().await
    }

    /// Removes what is left of deleted partitions. What is short of something stays for the next time: it concerns nobody but
    /// the space that it takes. For whoever has the checkpoint's turn, so that one does it at a time.
    async fn remove_doomed(&self) -> Result<(), LogError> {
        let all = self.doomed.borrow().clone();
        for dir in all {
            let removed = match dir::remove_partition_dir(&self.io, &dir).await {
                // Somebody else was so kind.
                Err(error) if error.is_not_found() => Ok(()),
                removed => removed.map_err(|error| self.fence(&error)),
            };
            match removed {
                Ok(()) => self.doomed.borrow_mut().retain(|left| *left != dir),
                Err(error) if error.is_shortage() => {
                    tracing::warn!("{error}: the files of a deleted partition keep their space for a while");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes a deleted partition's directory out of the way, durably.
    async fn retire_dir(&self, partition: &PartitionCore) -> Result<PathBuf, LogError> {
        let fs = self.io.fs();
        let choose = || dir::doomed_dir(&self.io, &self.data_dir, &partition.topic_name, partition.id);
        let doomed = partition.doomed.borrow_mut().get_or_insert_with(choose).clone();
        if let Err(error) = fs.rename(&partition.dir, &doomed).await {
            // An attempt before this one may have come so far.
            let is_done =
                error.is_not_found() && fs.exists(&doomed).await.map_err(|error| self.fence(&error))?;
            if !is_done {
                return Err(self.fence(&error));
            }
        }
        fs.sync_dir(&self.data_dir).await.map_err(|error| self.fence_device(&error))?;
        Ok(doomed)
    }

    fn forget_partition(&self, id: &TopicPartition) {
        let others = |key: &SegmentKey| key.0 != *id;
        self.rolled.borrow_mut().retain(|key, _| others(key));
        self.dirty.borrow_mut().retain(|key, _| others(key));
        self.new_names.borrow_mut().remove(id);
    }
}

/// A deletion among those that are asked for, until this is dropped.
struct Asked<'a>(&'a Cell<usize>);

impl<'a> Asked<'a> {
    fn begin(deletions: &'a Cell<usize>) -> Self {
        deletions.set(deletions.get() + 1);
        Asked(deletions)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

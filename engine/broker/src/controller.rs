//! The controller: decides about changes of metadata, one after the other, makes them durable, and tells every shard.
//!
//! ```text
//!   handler ── Shard::on(controller) ──► decide ─► metadata log, durable ─► new image ─► every shard:
//!                                                                              partitions created, removed, configured
//!                                                        handler's reply ◄──── all of them have it
//! ```
//!
//! So whoever is told that a topic exists can produce to it at once, through any shard.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use highwater_cluster::image::{ApplyError, ConfigResource};
use highwater_cluster::{MetadataImage, Record, lifecycle};
use highwater_io::sync::Semaphore;
use highwater_log::{AppendError, LogError, NewPartition};
use highwater_model::{PartitionIndex, Timestamp, TopicId, TopicPartition};
use highwater_protocol::ErrorCode;

use crate::config::log_config;
use crate::log_dirs::{NoneOnline, Place};
use crate::metadata_log::{MetadataLog, MetadataLogError};
use crate::partition::{PartitionConfig, ShardPartition};
use crate::shard::Shard;

/// Partitions that a shard opens or creates in one go: then others have their turn.
const PARTITIONS_AT_ONCE: usize = 1024;

/// Before what could not be made is tried again; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether a partition that could not be made may be made later.
fn may_pass(error: &LogError) -> bool {
    matches!(
        error,
        LogError::OutOfSpace { .. } | LogError::OutOfDescriptors { .. } | LogError::NameInUse { .. }
    )
}

/// A change that was decided and could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// No log directory can have its partitions.
    #[error(transparent)]
    Directories(#[from] NoneOnline),
    /// The metadata log refused it.
    #[error(transparent)]
    Log(#[from] MetadataLogError),
    /// What was decided does not fit the image: a bug of ours. Nothing was written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl ChangeError {
    /// What a client is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            ChangeError::Log(MetadataLogError::Append(AppendError::TooLarge { .. })) => {
                ErrorCode::POLICY_VIOLATION
            }
            ChangeError::Log(_) | ChangeError::Directories(_) => ErrorCode::KAFKA_STORAGE_ERROR,
            ChangeError::Apply(_) => ErrorCode::UNKNOWN_SERVER_ERROR,
        }
    }
}

/// Lives on the first shard.
pub(crate) struct Controller {
    log: MetadataLog,
    turn: Semaphore,
    snapshot_failed: Cell<bool>,
}

impl Controller {
    pub(crate) fn new(log: MetadataLog) -> Self {
        Controller { log, turn: Semaphore::new(1), snapshot_failed: Cell::new(false) }
    }

    /// Lets `decide` look at the current image, makes what it decided durable, and spreads it. Nothing else changes in
    /// between. Without records, nothing happens.
    pub(crate) async fn change<R>(
        &self,
        shard: &Rc<Shard>,
        decide: impl FnOnce(&MetadataImage) -> (Vec<Record>, R),
    ) -> Result<R, ChangeError> {
        let _turn = self.turn.acquire(1).await;
        let image = shard.image();
        let (mut records, result) = decide(&image);
        if records.is_empty() {
            return Ok(result);
        }
        shard.broker.log_dirs.assign(&image, &mut records)?;
        let mut changed = (*image).clone();
        for record in &records {
            changed.apply(record)?;
        }
        self.log.append(&records, now(shard)).await?;
        self.publish(shard, changed, records).await;
        self.snapshot_in_turn(shard).await;
        Ok(result)
    }

    /// Gives the new image to every shard, and waits until each has done what it asks for.
    async fn publish(&self, shard: &Rc<Shard>, mut image: MetadataImage, records: Vec<Record>) {
        let published = Arc::new(image.clone());
        let records: Arc<[Record]> = records.into();
        let outcomes =
            shard.on_all(move |shard| async move { shard.apply_metadata(published, &records).await }).await;
        // What is gone from every shard's disk need not be remembered as removed.
        let mut all_removed = outcomes.iter().all(Option::is_some);
        for outcome in outcomes.into_iter().flatten() {
            all_removed &= outcome == Applied::Completely;
        }
        all_removed &= shard.broker.log_dirs.are_complete(&image);
        if all_removed && !image.removed_topics().is_empty() {
            let removed: Vec<TopicId> = image.removed_topics().iter().copied().collect();
            removed.iter().for_each(|id| image.forget_removed(id));
            shard.metadata.set(Arc::new(image));
        }
    }

    /// Replaces a log that has grown far beyond the image by a snapshot.
    pub(crate) async fn snapshot_if_due(&self, shard: &Rc<Shard>) {
        let _turn = self.turn.acquire(1).await;
        self.snapshot_in_turn(shard).await;
    }

    /// As [`snapshot_if_due`](Self::snapshot_if_due), by who has the turn: a change within a snapshot, or before one that does not
    /// have it, would be lost with the log that it replaces.
    async fn snapshot_in_turn(&self, shard: &Rc<Shard>) {
        let image = shard.image();
        if self.snapshot_failed.get() || !lifecycle::is_snapshot_due(&image, self.log.record_count()) {
            return;
        }
        if let Err(error) = self.log.snapshot(&image, now(shard)).await {
            // The log without a snapshot is as good, only longer. What is there of it is cut off before the next change.
            tracing::error!(%error, "no snapshot of the metadata could be written");
            self.snapshot_failed.set(true);
        }
    }
}

pub(crate) fn now(shard: &Shard) -> Timestamp {
    Timestamp(shard.io.wall_time().as_millis())
}

/// Flushes what a laxer policy left unflushed. A failure is the log's to remember: the next append meets it.
async fn flush(partition: Rc<ShardPartition>) {
    if let Err(error) = partition.log.flush().await {
        tracing::error!(partition = %partition.log.id(), %error, "flush failed");
    }
}

/// How far a shard came with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Its partitions are as the metadata says.
    Completely,
    /// Its storage failed; the next start goes on.
    Partly,
}

impl Shard {
    /// Takes over a new image: creates, removes and configures what this shard has of it.
    pub(crate) async fn apply_metadata(
        self: &Rc<Self>,
        image: Arc<MetadataImage>,
        records: &[Record],
    ) -> Applied {
        let _turn = self.metadata_turn.acquire(1).await;
        let created = records.iter().filter_map(|record| match record {
            Record::Partition { id, .. } if self.owner(id) == self.index => Some(*id),
            _ => None,
        });
        let mut is_complete = self.open_partitions(created.collect(), &image).await;
        for record in records {
            if let Record::RemoveTopic { topic_id } = record {
                is_complete &= self.remove_topic(topic_id).await;
            }
        }
        let applied = if is_complete { Applied::Completely } else { Applied::Partly };
        self.reconfigure(&image, records);
        self.metadata.set(image);
        applied
    }

    fn partition_config(&self, image: &MetadataImage, topic: &str) -> PartitionConfig {
        let view = self.config_view(image);
        let min_in_sync_replicas = view.topic_value("min.insync.replicas", Some(topic));
        PartitionConfig {
            log: log_config(&view, Some(topic)),
            min_in_sync_replicas: min_in_sync_replicas.trim().parse().unwrap_or(1),
        }
    }

    /// Serves partitions that the metadata says are this broker's, and creates those that are not there; whether all of them
    /// are served.
    pub(crate) async fn open_partitions(
        self: &Rc<Self>,
        ids: Vec<TopicPartition>,
        image: &Arc<MetadataImage>,
    ) -> bool {
        let mut is_complete = true;
        let mut ids = ids.as_slice();
        while let Some((portion, rest)) = ids.split_at_checked(ids.len().min(PARTITIONS_AT_ONCE))
            && !portion.is_empty()
        {
            is_complete &= self.open_some(portion, image).await;
            ids = rest;
        }
        is_complete
    }

    async fn open_some(self: &Rc<Self>, ids: &[TopicPartition], image: &MetadataImage) -> bool {
        // Most follow another of their topic.
        let mut config_of: Option<(TopicId, Rc<str>, PartitionConfig)> = None;
        let mut new: Vec<Vec<NewPartition>> = self.logs.iter().map(|_| Vec::new()).collect();
        let mut leaderships: Vec<Vec<_>> = self.logs.iter().map(|_| Vec::new()).collect();
        for &id in ids {
            let Some(topic) = image.topic_by_id(&id.topic_id) else { continue };
            let Some(state) = topic.partition(id.partition) else { continue };
            // One whose directory is not online is made nowhere else.
            let Place::Online(index) = self.broker.log_dirs.place_of(state) else { continue };
            let known = config_of.take_if(|(of, ..)| *of == id.topic_id);
            let (topic_id, topic_name, config) = known.unwrap_or_else(|| {
                (id.topic_id, topic.name.as_str().into(), self.partition_config(image, &topic.name))
            });
            let (name, log) = (Rc::clone(&topic_name), config.log.clone());
            new[index].push(NewPartition { id, topic_name: name, config: log });
            leaderships[index].push((id, Rc::clone(&topic_name), state.leader_epoch, config.clone()));
            config_of = Some((topic_id, topic_name, config));
        }
        let mut is_complete = true;
        for (index, ((logs, new), leaderships)) in self.logs.iter().zip(new).zip(leaderships).enumerate() {
            let Some(logs) = logs.as_ref().filter(|_| !new.is_empty()) else { continue };
            let opened = logs.create_partitions(new).await;
            for ((id, topic, leader_epoch, config), opened) in leaderships.into_iter().zip(opened) {
                match opened {
                    Ok(log) => {
                        let partition = Rc::new(ShardPartition::new(log, index, leader_epoch, &config));
                        self.partitions.borrow_mut().insert(id, partition);
                    }
                    Err(error) => {
                        tracing::error!(%topic, partition = id.partition.0, %error, "partition is not served");
                        is_complete = false;
                        if may_pass(&error) {
                            self.serve_later(id);
                        }
                    }
                }
            }
        }
        is_complete
    }

    fn serve_later(self: &Rc<Self>, id: TopicPartition) {
        self.unserved.borrow_mut().insert(id);
        if !self.serves_later.replace(true) {
            let shard = Rc::clone(self);
            self.io.spawn(async move { shard.serve_what_is_left().await }).detach();
        }
    }

    /// Tries again to make what could not be made, until all of it is served or gone.
    async fn serve_what_is_left(self: Rc<Self>) {
        let mut pause = FIRST_PAUSE;
        while !self.unserved.borrow().is_empty() && !self.is_stopping() {
            self.io.sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            let _turn = self.metadata_turn.acquire(1).await;
            let mut left = std::mem::take(&mut *self.unserved.borrow_mut());
            left.retain(|id| self.partition(id).is_none());
            // What fails again comes back into the list; what is not to be there any more does not.
            let image = self.image();
            self.open_partitions(left.into_iter().collect(), &image).await;
        }
        self.serves_later.set(false);
    }

    async fn remove_topic(self: &Rc<Self>, topic_id: &TopicId) -> bool {
        let bound = |index| TopicPartition { topic_id: *topic_id, partition: PartitionIndex(index) };
        let doomed: Vec<TopicPartition> =
            self.partitions.borrow().range(bound(i32::MIN)..=bound(i32::MAX)).map(|(id, _)| *id).collect();
        let mut is_complete = true;
        // One after the other: a removal keeps checkpoints away while it lasts.
        for id in doomed {
            is_complete &= self.remove_partition(&id).await;
        }
        is_complete
    }

    async fn remove_partition(&self, id: &TopicPartition) -> bool {
        let partition = self.partitions.borrow_mut().remove(id);
        if let Some(partition) = partition {
            // Those who wait for its watermarks look again, and find it gone.
            partition.log.watermarks().update(|_| ());
        }
        let Some(logs) = self.logs.iter().flatten().find(|logs| logs.partition(id).is_some()) else {
            return true;
        };
        match logs.delete_partition(id).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(partition = %id, %error, "partition is not removed from disk");
                false
            }
        }
    }

    /// Gives partitions the settings that `records` changed.
    fn reconfigure(&self, image: &MetadataImage, records: &[Record]) {
        let mut all = false;
        let mut topics: Vec<&str> = Vec::new();
        for record in records {
            match record {
                Record::Config { resource: ConfigResource::Topic(name), .. } => topics.push(name),
                Record::Config { .. } => all = true,
                _ => {}
            }
        }
        topics.sort_unstable();
        topics.dedup();
        let affected: Vec<_> = if all {
            image.topics().collect()
        } else {
            topics.into_iter().filter_map(|name| image.topic(name)).collect()
        };
        for topic in affected {
            let config = self.partition_config(image, &topic.name);
            for (id, _) in topic.partition_ids() {
                if let Some(partition) = self.partition(&id)
                    && partition.set_config(config.clone())
                {
                    self.io.spawn(flush(partition)).detach();
                }
            }
        }
    }
}

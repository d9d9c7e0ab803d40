//! The cluster as it is: the result of every metadata record so far.
//!
//! An image does not change once it is published; a change makes a new one that shares what stayed the same. Every shard
//! reads its own reference without a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::{
    BrokerId, DirectoryId, LeaderEpoch, PartitionIndex, ProducerId, TopicId, TopicPartition,
};

use crate::record::Record;

/// Overridden settings of one resource, by name.
pub type ConfigOverrides = BTreeMap<String, String>;

/// What settings are overridden on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigResource {
    /// One topic, by name.
    Topic(String),
    /// One broker.
    Broker(BrokerId),
    /// Every broker that does not override it itself.
    AllBrokers,
}

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Different at each start of the process.
    pub incarnation_id: uuid::Uuid,
    /// Where clients reach it.
    pub host: String,
    /// Where clients reach it.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
    /// Its log directories, where it has or had several.
    pub log_dirs: Vec<LogDir>,
}

/// A log directory of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDir {
    /// What its `meta.properties` says that it is.
    pub id: DirectoryId,
    /// Where it was last.
    pub path: String,
}

/// Who has a partition, and who leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// Assigned replicas, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// The in-sync ones.
    pub in_sync_replicas: Vec<BrokerId>,
    /// The leader, −1 for none.
    pub leader: BrokerId,
    /// Raised with each leadership, and with each start of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Raised with each change of this state.
    pub partition_epoch: i32,
    /// The log directory of each replica, in their order (KIP-858). Empty if nobody has assigned any: each replica is then
    /// in the directory that has its broker's metadata log, which was the only one.
    pub directories: Vec<DirectoryId>,
}

impl PartitionState {
    /// The log directory of a replica, if one is assigned.
    #[must_use]
    pub fn directory_of(&self, broker_id: BrokerId) -> Option<DirectoryId> {
        let place = self.replicas.iter().position(|replica| *replica == broker_id)?;
        self.directories.get(place).copied().filter(|id| *id != DirectoryId::UNASSIGNED)
    }

    /// The same with a replica in this log directory.
    #[must_use]
    pub fn with_directory(mut self, broker_id: BrokerId, directory: DirectoryId) -> Self {
        self.directories.resize(self.replicas.len(), DirectoryId::UNASSIGNED);
        for (replica, assigned) in self.replicas.iter().zip(&mut self.directories) {
            if *replica == broker_id {
                *assigned = directory;
            }
        }
        self
    }
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionState>,
}

impl Topic {
    /// The state of a partition.
    #[must_use]
    pub fn partition(&self, index: PartitionIndex) -> Option<&PartitionState> {
        usize::try_from(index.0).ok().and_then(|index| self.partitions.get(index))
    }

    /// The partitions with their ids.
    pub fn partition_ids(&self) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        (0..).zip(&self.partitions).map(|(index, state)| {
            (TopicPartition { topic_id: self.id, partition: PartitionIndex(index) }, state)
        })
    }

    /// Whether it belongs to the cluster's own machinery.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }
}

/// Whether a topic of this name belongs to the cluster's own machinery.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

/// What names of metrics make of a topic's name, if that differs between names that do.
pub(crate) fn metric_name(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

/// Everything that the metadata log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataImage {
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    names: BTreeMap<TopicId, Arc<str>>,
    /// Names that contain a dot or an underscore, by what metrics make of them.
    metric_names: BTreeMap<String, Arc<str>>,
    brokers: BTreeMap<BrokerId, Arc<Broker>>,
    configs: BTreeMap<ConfigResource, Arc<ConfigOverrides>>,
    next_producer_id: ProducerId,
    partition_count: usize,
    /// Topics of which something may be left on disk, which may go.
    removed_topics: BTreeSet<TopicId>,
    /// The image that a snapshot in the log is building up, until it is whole.
    unfinished_snapshot: Option<Box<MetadataImage>>,
}

/// A record that does not fit the image: the log is not the one that it was decided for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata record does not fit what came before it: {what}")]
pub struct ApplyError {
    /// What does not fit.
    pub what: String,
}

fn misfit(what: impl Into<String>) -> ApplyError {
    ApplyError { what: what.into() }
}

impl MetadataImage {
    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: &TopicId) -> Option<&Arc<Topic>> {
        self.names.get(id).and_then(|name| self.topics.get(name))
    }

    /// The topic whose name metrics cannot tell from `name`, because one has a dot where the other has an underscore.
    #[must_use]
    pub fn colliding_topic(&self, name: &str) -> Option<&str> {
        self.metric_names.get(&metric_name(name)?).map(|existing| &**existing)
    }

    /// The topics in the order of names, those below `from` left out.
    pub fn topics_from<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a Arc<Topic>> + use<'a> {
        self.topics
            .range::<str, _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded))
            .map(|(_, t)| t)
    }

    /// All topics in the order of names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Number of topics.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Number of overrides of all resources.
    #[must_use]
    pub fn override_count(&self) -> usize {
        self.configs.values().map(|overrides| overrides.len()).sum()
    }

    /// Number of partitions of all topics.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// A partition's state, by id.
    #[must_use]
    pub fn partition(&self, id: &TopicPartition) -> Option<&PartitionState> {
        self.topic_by_id(&id.topic_id).and_then(|topic| topic.partition(id.partition))
    }

    /// The brokers by id.
    #[must_use]
    pub fn brokers(&self) -> &BTreeMap<BrokerId, Arc<Broker>> {
        &self.brokers
    }

    /// What is overridden on `resource`.
    #[must_use]
    pub fn overrides(&self, resource: &ConfigResource) -> Option<&ConfigOverrides> {
        self.configs.get(resource).map(|overrides| &**overrides)
    }

    /// The first producer id that is not given away.
    #[must_use]
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// Topics that were removed, and of which something may be left on disk.
    #[must_use]
    pub fn removed_topics(&self) -> &BTreeSet<TopicId> {
        &self.removed_topics
    }

    /// Applies a record.
    ///
    /// # Errors
    /// [`ApplyError`], with the image unchanged or, for a damaged log, in a state that must not be used.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::BeginSnapshot => self.unfinished_snapshot = Some(Box::default()),
            Record::EndSnapshot => {
                let whole =
                    self.unfinished_snapshot.take().ok_or_else(|| misfit("snapshot ends before it began"))?;
                *self = *whole;
            }
            record => match &mut self.unfinished_snapshot {
                Some(snapshot) => snapshot.apply_change(record)?,
                None => self.apply_change(record)?,
            },
        }
        Ok(())
    }

    /// Whether the records so far end within a snapshot.
    #[must_use]
    pub fn is_in_snapshot(&self) -> bool {
        self.unfinished_snapshot.is_some()
    }

    /// The log ended: a snapshot that is not whole by now never will be.
    pub fn end_of_log(&mut self) {
        self.unfinished_snapshot = None;
    }

    fn apply_change(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::Topic { topic_id, name } => self.add_topic(*topic_id, name),
            Record::Partition { id, state } => self.set_partition(*id, state),
            Record::RemoveTopic { topic_id } => {
                self.remove_topic(topic_id);
                Ok(())
            }
            Record::Config { resource, name, value } => {
                self.set_config(resource, name, value.as_deref());
                Ok(())
            }
            Record::ProducerIds { next } => {
                self.next_producer_id = self.next_producer_id.max(*next);
                Ok(())
            }
            Record::RaiseEpochs { broker_id } => {
                self.raise_epochs(*broker_id);
                Ok(())
            }
            Record::RegisterBroker { broker_id, broker } => {
                self.brokers.insert(*broker_id, Arc::new(broker.clone()));
                Ok(())
            }
            Record::BeginSnapshot | Record::EndSnapshot => Err(misfit("snapshot inside a snapshot")),
        }
    }

    fn add_topic(&mut self, id: TopicId, name: &str) -> Result<(), ApplyError> {
        if self.topics.contains_key(name) || self.names.contains_key(&id) {
            return Err(misfit(format!("topic {name} ({id}) exists already")));
        }
        // Ids are never used twice: what a removed topic left on disk would be taken for this one's, and removed.
        if self.removed_topics.contains(&id) {
            return Err(misfit(format!("topic {name} ({id}) was removed before")));
        }
        if let Some(other) = self.colliding_topic(name) {
            return Err(misfit(format!("topic {name} cannot be told from {other} in names of metrics")));
        }
        let name: Arc<str> = name.into();
        let topic = Topic { id, name: name.to_string(), partitions: Vec::new() };
        self.names.insert(id, Arc::clone(&name));
        if let Some(metric_name) = metric_name(&name) {
            self.metric_names.insert(metric_name, Arc::clone(&name));
        }
        self.topics.insert(name, Arc::new(topic));
        Ok(())
    }

    fn topic_mut(&mut self, id: &TopicId) -> Option<&mut Topic> {
        let name = self.names.get(id)?;
        self.topics.get_mut(name).map(Arc::make_mut)
    }

    fn set_partition(&mut self, id: TopicPartition, state: &PartitionState) -> Result<(), ApplyError> {
        let topic = self
            .topic_mut(&id.topic_id)
            .ok_or_else(|| misfit(format!("partition {id} of a topic that does not exist")))?;
        let index = usize::try_from(id.partition.0).map_err(|_| misfit(format!("partition {id}")))?;
        let count = topic.partitions.len();
        match topic.partitions.get_mut(index) {
            Some(existing) => *existing = state.clone(),
            None if index == count => {
                topic.partitions.push(state.clone());
                self.partition_count += 1;
            }
            None => return Err(misfit(format!("partition {id} comes before the one below it"))),
        }
        Ok(())
    }

    /// A topic that is not there is only remembered as removed, as a snapshot has it.
    fn remove_topic(&mut self, id: &TopicId) {
        if let Some(name) = self.names.remove(id) {
            if let Some(topic) = self.topics.remove(&name) {
                self.partition_count -= topic.partitions.len();
            }
            if let Some(metric_name) = metric_name(&name) {
                self.metric_names.remove(&metric_name);
            }
            self.configs.remove(&ConfigResource::Topic(name.to_string()));
        }
        self.removed_topics.insert(*id);
    }

    fn set_config(&mut self, resource: &ConfigResource, name: &str, value: Option<&str>) {
        match value {
            Some(value) => {
                let overrides = self.configs.entry(resource.clone()).or_default();
                Arc::make_mut(overrides).insert(name.to_owned(), value.to_owned());
            }
            None => {
                let Some(overrides) = self.configs.get_mut(resource) else { return };
                Arc::make_mut(overrides).remove(name);
                if overrides.is_empty() {
                    self.configs.remove(resource);
                }
            }
        }
    }

    fn raise_epochs(&mut self, broker_id: BrokerId) {
        for topic in self.topics.values_mut() {
            if topic.partitions.iter().all(|partition| partition.leader != broker_id) {
                continue;
            }
            for partition in &mut Arc::make_mut(topic).partitions {
                if partition.leader == broker_id {
                    partition.leader_epoch = LeaderEpoch(partition.leader_epoch.0.saturating_add(1));
                    partition.partition_epoch = partition.partition_epoch.saturating_add(1);
                }
            }
        }
    }

    /// Nothing is left on disk of this removed topic: the next snapshot leaves it out.
    pub fn forget_removed(&mut self, id: &TopicId) {
        self.removed_topics.remove(id);
    }

    /// The records that make this image from nothing, between the marks of a snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = vec![Record::BeginSnapshot];
        for (&broker_id, broker) in &self.brokers {
            records.push(Record::RegisterBroker { broker_id, broker: (**broker).clone() });
        }
        for topic in self.topics.values() {
            records.push(Record::Topic { topic_id: topic.id, name: topic.name.clone() });
            records.extend(
                topic.partition_ids().map(|(id, state)| Record::Partition { id, state: state.clone() }),
            );
        }
        for (resource, overrides) in &self.configs {
            records.extend(overrides.iter().map(|(name, value)| Record::Config {
                resource: resource.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            }));
        }
        records.extend(self.removed_topics.iter().map(|&topic_id| Record::RemoveTopic { topic_id }));
        records.push(Record::ProducerIds { next: self.next_producer_id });
        records.push(Record::EndSnapshot);
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId(uuid::Uuid::from_u128(77));

    fn state(leader: i32, epoch: i32) -> PartitionState {
        PartitionState {
            replicas: vec![BrokerId(leader)],
            in_sync_replicas: vec![BrokerId(leader)],
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(epoch),
            partition_epoch: 0,
            directories: Vec::new(),
        }
    }

    fn partition(index: i32, leader: i32) -> Record {
        let id = TopicPartition { topic_id: TOPIC, partition: PartitionIndex(index) };
        Record::Partition { id, state: state(leader, 0) }
    }

    fn image(records: &[Record]) -> MetadataImage {
        let mut image = MetadataImage::default();
        for record in records {
            image.apply(record).expect("fits");
        }
        image
    }

    fn example() -> MetadataImage {
        let resource = ConfigResource::Topic("orders".to_owned());
        let config = |name: &str, value: Option<&str>| Record::Config {
            resource: resource.clone(),
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        image(&[
            Record::Topic { topic_id: TOPIC, name: "orders".to_owned() },
            partition(0, 1),
            partition(1, 2),
            config("flush.messages", Some("1")),
            config("retention.ms", Some("5")),
            config("retention.ms", None),
            Record::ProducerIds { next: ProducerId(2000) },
        ])
    }

    #[test]
    fn raised_epochs_concern_only_what_the_broker_leads() {
        let mut image = example();
        image.apply(&Record::RaiseEpochs { broker_id: BrokerId(1) }).expect("fits");
        let topic = image.topic("orders").expect("exists");
        assert_eq!(topic.partitions[0].leader_epoch, LeaderEpoch(1));
        assert_eq!(topic.partitions[1].leader_epoch, LeaderEpoch(0));
    }

    #[test]
    fn snapshot_replays_to_the_same_image() {
        let before = example();
        let mut replayed = image(&[Record::RegisterBroker {
            broker_id: BrokerId(9),
            broker: Broker {
                incarnation_id: TOPIC.0,
                host: "h".to_owned(),
                port: 1,
                rack: None,
                log_dirs: Vec::new(),
            },
        }]);
        for record in before.snapshot() {
            replayed.apply(&record).expect("fits");
        }
        assert_eq!(replayed, before);
    }

    #[test]
    fn snapshot_that_is_cut_changes_nothing() {
        let before = example();
        let mut replayed = before.clone();
        let mut records = before.snapshot();
        records.pop();
        for record in
            records.iter().filter(|record| !matches!(record, Record::Topic { .. } | Record::Partition { .. }))
        {
            replayed.apply(record).expect("fits");
        }
        replayed.end_of_log();
        assert_eq!(replayed, before);
    }

    #[test]
    fn removed_topic_leaves_its_id_and_nothing_else() {
        let mut image = example();
        image.apply(&Record::RemoveTopic { topic_id: TOPIC }).expect("fits");
        assert_eq!(image.topic_count(), 0);
        assert_eq!(image.partition_count(), 0);
        assert!(image.overrides(&ConfigResource::Topic("orders".to_owned())).is_none());
        assert!(image.removed_topics().contains(&TOPIC));
        let mut replayed = MetadataImage::default();
        image.snapshot().iter().for_each(|record| replayed.apply(record).expect("fits"));
        assert_eq!(replayed, image);
        image.forget_removed(&TOPIC);
        assert!(!image.snapshot().contains(&Record::RemoveTopic { topic_id: TOPIC }));
    }

    /// Found by the fuzz target `metadata`: the snapshot of such an image lost the topic.
    #[test]
    fn id_of_a_removed_topic_is_not_used_again() {
        let mut image = example();
        image.apply(&Record::RemoveTopic { topic_id: TOPIC }).expect("fits");
        let before = image.clone();
        assert!(image.apply(&Record::Topic { topic_id: TOPIC, name: "again".to_owned() }).is_err());
        assert_eq!(image, before);
    }

    #[test]
    fn topics_that_metrics_cannot_tell_apart_are_refused() {
        let mut image = MetadataImage::default();
        let topic = |id, name: &str| Record::Topic {
            topic_id: TopicId(uuid::Uuid::from_u128(id)),
            name: name.to_owned(),
        };
        image.apply(&topic(1, "a.b")).expect("fits");
        assert!(image.apply(&topic(2, "a_b")).is_err());
        assert_eq!(image.colliding_topic("a_b"), Some("a.b"));
    }

    #[test]
    fn records_that_do_not_fit_are_refused() {
        let mut image = example();
        assert!(image.apply(&Record::Topic { topic_id: TOPIC, name: "other".to_owned() }).is_err());
        assert!(image.apply(&partition(5, 1)).is_err());
        assert!(image.apply(&Record::EndSnapshot).is_err());
        assert_eq!(image, example());
    }
}

//! Creating topics.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use highwater_model::{BrokerId, PartitionIndex, TopicId, TopicPartition};

use super::names::{check_new_name, collision};
use super::{MAX_PARTITIONS_PER_REQUEST, check_assignment, new_partition, place};
use crate::config::effective::ConfigView;
use crate::config::{check_value_size, topic};
use crate::error::MetadataError;
use crate::image::{ConfigOverrides, ConfigResource, metric_name};
use crate::record::Record;

/// A topic that is to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// Number of partitions; −1 for the default, or with assignments.
    pub num_partitions: i32,
    /// Replicas of each; −1 for the default, or with assignments.
    pub replication_factor: i16,
    /// Who gets which partition, if the client says so.
    pub assignments: Vec<ReplicaAssignment>,
    /// Settings.
    pub configs: Vec<(String, Option<String>)>,
}

/// The replicas of one partition, the preferred leader first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaAssignment {
    /// The partition.
    pub partition: PartitionIndex,
    /// Its replicas.
    pub replicas: Vec<BrokerId>,
}

/// A topic that was created, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Id.
    pub id: TopicId,
    /// Number of partitions.
    pub num_partitions: usize,
    /// Replicas of each.
    pub replication_factor: usize,
    /// Settings that it overrides.
    pub overrides: ConfigOverrides,
}

/// What creation depends on besides the request.
#[derive(Debug, Clone, Copy)]
pub struct CreateContext<'a> {
    /// The image, and the broker's settings.
    pub config: ConfigView<'a>,
    /// `num.partitions`.
    pub default_num_partitions: usize,
    /// `default.replication.factor`.
    pub default_replication_factor: usize,
    /// `max.partitions`.
    pub max_partitions: usize,
}

/// The outcome of each topic, by name.
pub type CreateResults = Vec<(String, Result<CreatedTopic, MetadataError>)>;

/// Creates `topics`, each by itself: the records of those that can be created, and what became of each. A name that
/// occurs twice is created not at all. `new_id` gives random ids.
pub fn create(
    context: &CreateContext<'_>,
    topics: &[NewTopic],
    new_id: &mut dyn FnMut() -> TopicId,
) -> (Vec<Record>, CreateResults) {
    let mut records = Vec::new();
    let mut results: CreateResults = Vec::with_capacity(topics.len());
    let mut created = CreatedInRequest::default();
    for (name, topic) in unique_by_name(topics) {
        let result = match topic {
            Some(topic) => check_new_name(name, context.config.image)
                .and_then(|()| created.check_name(name))
                .and_then(|()| plan(context, topic, created.partitions)),
            None => Err(MetadataError::InvalidRequest("Duplicate topic name.".to_owned())),
        };
        let result = result.map(|plan| {
            created.add(name, plan.partitions.len());
            plan.into_records(name, new_id(), &mut records)
        });
        results.push((name.to_owned(), result));
    }
    (records, results)
}

/// The names in the order of their first mention, with their topic, or `None` for one that is given more than once.
fn unique_by_name(topics: &[NewTopic]) -> Vec<(&str, Option<&NewTopic>)> {
    let mut unique: Vec<(&str, Option<&NewTopic>)> = Vec::with_capacity(topics.len());
    let mut positions: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in topics {
        match positions.entry(&topic.name) {
            Entry::Vacant(vacant) => {
                vacant.insert(unique.len());
                unique.push((&topic.name, Some(topic)));
            }
            Entry::Occupied(occupied) => unique[*occupied.get()].1 = None,
        }
    }
    unique
}

/// What the topics before this one in the same request create.
#[derive(Default)]
struct CreatedInRequest {
    partitions: usize,
    names_by_metric_name: BTreeMap<String, String>,
}

impl CreatedInRequest {
    fn check_name(&self, name: &str) -> Result<(), MetadataError> {
        let existing = metric_name(name).and_then(|metric_name| self.names_by_metric_name.get(&metric_name));
        existing.map_or(Ok(()), |existing| Err(collision(name, existing)))
    }

    fn add(&mut self, name: &str, partitions: usize) {
        self.partitions += partitions;
        if let Some(metric_name) = metric_name(name) {
            self.names_by_metric_name.insert(metric_name, name.to_owned());
        }
    }
}

/// A topic that can be created.
struct Plan {
    partitions: Vec<Vec<BrokerId>>,
    overrides: ConfigOverrides,
}

impl Plan {
    fn into_records(self, name: &str, id: TopicId, records: &mut Vec<Record>) -> CreatedTopic {
        let created = CreatedTopic {
            id,
            num_partitions: self.partitions.len(),
            replication_factor: self.partitions.first().map_or(0, Vec::len),
            overrides: self.overrides.clone(),
        };
        records.push(Record::Topic { topic_id: id, name: name.to_owned() });
        for (index, replicas) in (0..).zip(self.partitions) {
            let id = TopicPartition { topic_id: id, partition: PartitionIndex(index) };
            records.push(Record::Partition { id, state: new_partition(replicas) });
        }
        records.extend(self.overrides.into_iter().map(|(key, value)| Record::Config {
            resource: ConfigResource::Topic(name.to_owned()),
            name: key,
            value: Some(value),
        }));
        created
    }
}

fn plan(
    context: &CreateContext<'_>,
    topic: &NewTopic,
    created_partitions: usize,
) -> Result<Plan, MetadataError> {
    let overrides = check_configs(&topic.configs)?;
    context.config.check_topic(&overrides)?;
    let partitions = if topic.assignments.is_empty() {
        place_automatically(context, topic, created_partitions)?
    } else {
        assign_manually(context, topic)?
    };
    let of_request = created_partitions + partitions.len();
    check_partition_count(of_request)?;
    check_cluster_limit(context.config.image.partition_count() + of_request, context.max_partitions)?;
    Ok(Plan { partitions, overrides })
}

fn check_partition_count(of_request: usize) -> Result<(), MetadataError> {
    if of_request > MAX_PARTITIONS_PER_REQUEST {
        let why = "Excessively large number of partitions per request.";
        return Err(MetadataError::PolicyViolation(why.to_owned()));
    }
    Ok(())
}

pub(super) fn check_cluster_limit(partitions: usize, limit: usize) -> Result<(), MetadataError> {
    if partitions > limit {
        let why = format!("The cluster would have {partitions} partitions; max.partitions={limit}.");
        return Err(MetadataError::PolicyViolation(why));
    }
    Ok(())
}

fn check_configs(configs: &[(String, Option<String>)]) -> Result<ConfigOverrides, MetadataError> {
    let mut overrides = ConfigOverrides::new();
    let nulls: Vec<&str> =
        configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        let why = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return Err(MetadataError::InvalidConfig(why));
    }
    for (name, value) in configs {
        let value = value.as_deref().unwrap_or_default();
        check_value_size(value)?;
        validate_topic_config(name, value)?;
        overrides.insert(name.clone(), value.to_owned());
    }
    Ok(overrides)
}

/// Checks one setting of a topic.
pub(crate) fn validate_topic_config(name: &str, value: &str) -> Result<(), MetadataError> {
    let config = topic::find(name)
        .ok_or_else(|| MetadataError::InvalidConfig(format!("Unknown topic config name: {name}")))?;
    config.def.validate(value).map_err(MetadataError::InvalidConfig)
}

fn place_automatically(
    context: &CreateContext<'_>,
    topic: &NewTopic,
    created_partitions: usize,
) -> Result<Vec<Vec<BrokerId>>, MetadataError> {
    let replication_factor = match topic.replication_factor {
        -1 => context.default_replication_factor,
        asked => usize::try_from(asked).ok().filter(|&asked| asked > 0).ok_or_else(|| {
            let why = "Replication factor must be larger than 0, or -1 to use the default value.";
            MetadataError::InvalidReplicationFactor(why.to_owned())
        })?,
    };
    let num_partitions = match topic.num_partitions {
        -1 => context.default_num_partitions,
        asked => usize::try_from(asked).ok().filter(|&asked| asked > 0).ok_or_else(|| {
            let why = "Number of partitions was set to an invalid non-positive value.";
            MetadataError::InvalidPartitions(why.to_owned())
        })?,
    };
    // Before memory is taken for each.
    check_partition_count(created_partitions.saturating_add(num_partitions))?;
    place(context.config.image.brokers(), 0, num_partitions, replication_factor)
}

fn assign_manually(
    context: &CreateContext<'_>,
    topic: &NewTopic,
) -> Result<Vec<Vec<BrokerId>>, MetadataError> {
    let invalid = |why: &str| Err(MetadataError::InvalidRequest(why.to_owned()));
    if topic.replication_factor != -1 {
        return invalid(
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        );
    }
    if topic.num_partitions != -1 {
        return invalid("A manual partition assignment was specified, but numPartitions was not set to -1.");
    }
    let mut assignments: Vec<&ReplicaAssignment> = topic.assignments.iter().collect();
    assignments.sort_by_key(|assignment| assignment.partition);
    for pair in assignments.windows(2) {
        if pair[0].partition == pair[1].partition {
            return Err(MetadataError::InvalidReplicaAssignment(format!(
                "Found multiple manual partition assignments for partition {}",
                pair[0].partition
            )));
        }
    }
    let mut expected = None;
    for assignment in &topic.assignments {
        check_assignment(&assignment.replicas, context.config.image.brokers(), expected)?;
        expected = Some(assignment.replicas.len());
    }
    for (index, assignment) in (0..).zip(&assignments) {
        if assignment.partition != PartitionIndex(index) {
            let why = "partitions should be a consecutive 0-based integer sequence";
            return Err(MetadataError::InvalidReplicaAssignment(why.to_owned()));
        }
    }
    Ok(assignments.into_iter().map(|assignment| assignment.replicas.clone()).collect())
}

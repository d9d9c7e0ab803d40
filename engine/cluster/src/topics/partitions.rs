//! Adding partitions to a topic.

use highwater_model::{BrokerId, PartitionIndex, TopicPartition};

use super::create::check_cluster_limit;
use super::{MAX_PARTITIONS_PER_REQUEST, check_assignment, new_partition, place};
use crate::error::MetadataError;
use crate::image::{MetadataImage, Topic};
use crate::record::Record;

/// A topic that is to have more partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewPartitions {
    /// Name of the topic.
    pub topic: String,
    /// How many it shall have in all.
    pub count: i32,
    /// The replicas of each new one, if the client says so.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// Adds partitions to one topic: the records.
///
/// # Errors
/// [`MetadataError`], in Kafka's words.
pub fn create_partitions(
    image: &MetadataImage,
    request: &NewPartitions,
    max_partitions: usize,
) -> Result<Vec<Record>, MetadataError> {
    let topic = image.topic(&request.topic).ok_or_else(MetadataError::unknown_topic)?;
    let existing = topic.partitions.len();
    let additional = count_additional(topic, request.count)?;
    if additional > MAX_PARTITIONS_PER_REQUEST {
        let why = "Excessively large number of partitions per request.";
        return Err(MetadataError::PolicyViolation(why.to_owned()));
    }
    check_cluster_limit(image.partition_count() + additional, max_partitions)?;
    let replication_factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let placed = match &request.assignments {
        None => place(image.brokers(), existing, additional, replication_factor)?,
        Some(assignments) => {
            check_manual(image, assignments, additional, replication_factor)?;
            assignments.clone()
        }
    };
    let index = |added: usize| i32::try_from(existing + added).map(PartitionIndex);
    placed
        .into_iter()
        .enumerate()
        .map(|(added, replicas)| {
            let partition = index(added).map_err(|_| MetadataError::Exhausted("partition indexes"))?;
            let id = TopicPartition { topic_id: topic.id, partition };
            Ok(Record::Partition { id, state: new_partition(replicas) })
        })
        .collect()
}

fn count_additional(topic: &Topic, count: i32) -> Result<usize, MetadataError> {
    let existing = topic.partitions.len();
    let wanted = usize::try_from(count).unwrap_or(0);
    if wanted == existing {
        return Err(MetadataError::InvalidPartitions(format!("Topic already has {existing} partition(s).")));
    }
    wanted.checked_sub(existing).ok_or_else(|| {
        MetadataError::InvalidPartitions(format!(
            "The topic {} currently has {existing} partition(s); {count} would not be an increase.",
            topic.name
        ))
    })
}

fn check_manual(
    image: &MetadataImage,
    assignments: &[Vec<BrokerId>],
    additional: usize,
    replication_factor: usize,
) -> Result<(), MetadataError> {
    if assignments.len() != additional {
        return Err(MetadataError::InvalidReplicaAssignment(format!(
            "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
            assignments.len()
        )));
    }
    assignments
        .iter()
        .try_for_each(|replicas| check_assignment(replicas, image.brokers(), Some(replication_factor)))
}

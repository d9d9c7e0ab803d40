//! Creating and deleting topics, adding partitions.
//!
//! Checks, their order and their words are those of Kafka's `ReplicationControlManager`.

mod create;
mod delete;
mod names;
mod partitions;

pub(crate) use create::validate_topic_config;
pub use create::{CreateContext, CreateResults, CreatedTopic, NewTopic, ReplicaAssignment, create};
pub use delete::{DeletedTopic, TopicSelector, delete};
pub use names::validate_name;
pub use partitions::{NewPartitions, create_partitions};

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::{BrokerId, LeaderEpoch};

use crate::error::MetadataError;
use crate::image::{Broker, PartitionState};

/// Most partitions that one request may create, as in Kafka.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

type Brokers = BTreeMap<BrokerId, Arc<Broker>>;

/// Who may be assigned, and with how many replicas.
fn check_assignment(
    replicas: &[BrokerId],
    brokers: &Brokers,
    expected_replicas: Option<usize>,
) -> Result<(), MetadataError> {
    let invalid = |why: String| Err(MetadataError::InvalidReplicaAssignment(why));
    if replicas.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".to_owned());
    }
    for (index, replica) in replicas.iter().enumerate() {
        if !brokers.contains_key(replica) {
            return invalid(format!(
                "The manual partition assignment includes broker {replica}, but no such broker is registered."
            ));
        }
        if replicas[..index].contains(replica) {
            return invalid(format!(
                "The manual partition assignment includes the broker {replica} more than once."
            ));
        }
    }
    match expected_replicas {
        Some(expected) if expected != replicas.len() => invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {expected} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

/// Spreads `partitions` with `replication_factor` replicas each over the brokers: leaders in turn, and the followers of
/// one leader on different brokers from one round to the next.
fn place(
    brokers: &Brokers,
    first_partition: usize,
    partitions: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<BrokerId>>, MetadataError> {
    let brokers: Vec<BrokerId> = brokers.keys().copied().collect();
    if replication_factor > brokers.len() {
        return Err(MetadataError::InvalidReplicationFactor(format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because only {} broker(s) are registered.",
            brokers.len()
        )));
    }
    let assign = |partition: usize| {
        let leader = partition % brokers.len();
        let others = brokers.len() - 1;
        let round = partition / brokers.len();
        (0..replication_factor)
            .map(|replica| match replica {
                0 => brokers[leader],
                _ => brokers[(leader + 1 + (round + replica - 1) % others) % brokers.len()],
            })
            .collect()
    };
    Ok((first_partition..first_partition + partitions).map(assign).collect())
}

/// A new partition with these replicas, led by the first.
pub(crate) fn new_partition(replicas: Vec<BrokerId>) -> PartitionState {
    PartitionState {
        in_sync_replicas: replicas.clone(),
        leader: replicas[0],
        replicas,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        directories: Vec::new(),
    }
}

#[cfg(test)]
mod tests;

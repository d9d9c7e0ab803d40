//! Which log directory has a partition of a broker that has several (KIP-858).
//!
//! Where a partition is, is part of the metadata: one whose directory is not there is not made anew in another.

use std::collections::BTreeMap;

use highwater_model::{BrokerId, DirectoryId};

use crate::image::MetadataImage;
use crate::record::Record;

/// How many partitions each log directory of a broker has. Those that nobody assigned count for `metadata_dir`, where they
/// are.
#[must_use]
pub fn partition_counts(
    image: &MetadataImage,
    broker_id: BrokerId,
    metadata_dir: DirectoryId,
) -> BTreeMap<DirectoryId, usize> {
    let mut counts = BTreeMap::new();
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    for state in partitions.filter(|state| state.replicas.contains(&broker_id)) {
        *counts.entry(state.directory_of(broker_id).unwrap_or(metadata_dir)).or_default() += 1;
    }
    counts
}

/// Assigns each partition of `broker_id` in `records` that is not in `image` to the directory of `candidates` with the fewest
/// partitions, the first of several: Kafka's rule. `counts` has those that exist, of every directory.
pub fn place(
    image: &MetadataImage,
    records: &mut [Record],
    broker_id: BrokerId,
    candidates: &[DirectoryId],
    mut counts: BTreeMap<DirectoryId, usize>,
) {
    for record in records {
        let Record::Partition { id, state } = record else { continue };
        if !state.replicas.contains(&broker_id) || image.partition(id).is_some() {
            continue;
        }
        let count = |id: &DirectoryId| counts.get(id).copied().unwrap_or(0);
        let Some(chosen) = candidates.iter().min_by_key(|id| count(id)).copied() else { return };
        *counts.entry(chosen).or_default() += 1;
        *state = state.clone().with_directory(broker_id, chosen);
    }
}

#[cfg(test)]
mod tests {
    use highwater_model::{PartitionIndex, TopicId, TopicPartition};

    use super::*;
    use crate::topics::new_partition;

    const BROKER: BrokerId = BrokerId(1);

    fn dir(number: u128) -> DirectoryId {
        DirectoryId(uuid::Uuid::from_u128(number))
    }

    fn topic(number: u128, partitions: i32) -> Vec<Record> {
        let topic_id = TopicId(uuid::Uuid::from_u128(number));
        let mut records = vec![Record::Topic { topic_id, name: format!("topic{number}") }];
        records.extend((0..partitions).map(|index| Record::Partition {
            id: TopicPartition { topic_id, partition: PartitionIndex(index) },
            state: new_partition(vec![BROKER]),
        }));
        records
    }

    fn directories(records: &[Record]) -> Vec<Option<DirectoryId>> {
        let of = |record: &Record| match record {
            Record::Partition { state, .. } => Some(state.directory_of(BROKER)),
            _ => None,
        };
        records.iter().filter_map(of).collect()
    }

    #[test]
    fn partitions_of_one_request_are_spread_evenly() {
        let mut records = topic(1, 5);
        place(&MetadataImage::default(), &mut records, BROKER, &[dir(1), dir(2)], BTreeMap::new());
        let expected = [1, 2, 1, 2, 1].map(|number| Some(dir(number)));
        assert_eq!(directories(&records), expected);
    }

    #[test]
    fn directory_with_the_fewest_partitions_is_chosen_and_one_that_is_no_candidate_never() {
        let mut image = MetadataImage::default();
        // Nobody assigned these: they are where the metadata log is.
        topic(1, 3).iter().for_each(|record| image.apply(record).expect("fits"));
        let counts = partition_counts(&image, BROKER, dir(1));
        assert_eq!(counts, BTreeMap::from([(dir(1), 3)]));
        let mut records = topic(2, 4);
        place(&MetadataImage::default(), &mut records, BROKER, &[dir(1), dir(2)], counts.clone());
        assert_eq!(directories(&records), [2, 2, 2, 1].map(|number| Some(dir(number))));
        let mut records = topic(2, 2);
        place(&MetadataImage::default(), &mut records, BROKER, &[dir(1)], counts);
        assert_eq!(directories(&records), [Some(dir(1)); 2]);
    }

    #[test]
    fn partition_that_exists_stays_where_it_is() {
        let mut image = MetadataImage::default();
        topic(1, 1).iter().for_each(|record| image.apply(record).expect("fits"));
        let mut records = topic(1, 2);
        place(&image, &mut records, BROKER, &[dir(2)], BTreeMap::new());
        assert_eq!(directories(&records), [None, Some(dir(2))]);
    }

    #[test]
    fn partitions_of_other_brokers_are_left_alone() {
        let mut records = topic(1, 2);
        place(&MetadataImage::default(), &mut records, BrokerId(2), &[dir(1)], BTreeMap::new());
        assert_eq!(directories(&records), [None; 2]);
    }
}

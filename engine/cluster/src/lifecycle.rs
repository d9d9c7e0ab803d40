//! What a broker writes about itself: its start, blocks of producer ids, snapshots.

use std::collections::BTreeMap;
use std::ops::Range;

use highwater_model::{BrokerId, DirectoryId, LeaderEpoch, ProducerId, TopicId, TopicPartition};

use crate::error::MetadataError;
use crate::image::{Broker, ConfigResource, MetadataImage, PartitionState};
use crate::record::Record;

/// A broker starts: it registers, and raises the leader epoch of every partition that it leads, so that a tail which
/// was lost with the power never comes back under the same epoch with other records. Durable before anything is served.
#[must_use]
pub fn start(broker_id: BrokerId, broker: Broker) -> Vec<Record> {
    vec![Record::RegisterBroker { broker_id, broker }, Record::RaiseEpochs { broker_id }]
}

/// A partition on the medium that no metadata knows: Apache Kafka wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Topic id and partition index.
    pub id: TopicPartition,
    /// Name of the topic.
    pub topic_name: String,
    /// Epoch of the last append; −1 for none.
    pub latest_epoch: LeaderEpoch,
    /// The log directory that has it, where that must be told from others.
    pub directory: Option<DirectoryId>,
}

/// What becomes of partitions that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// To be written together with those of [`start`], before them.
    pub records: Vec<Record>,
    /// Topics that are left alone, and why.
    pub left_alone: Vec<(String, &'static str)>,
}

/// Makes what Apache Kafka left in a directory part of this cluster: each topic whose partitions are all there, led by
/// this broker alone, under the epochs that it had. What Kafka was told to keep is not known, so everything is kept until
/// somebody says otherwise: `retention.ms` and `retention.bytes` of each are −1. `next_producer_id` is above every producer
/// id that is remembered.
#[must_use]
pub fn adopt(found: &[Found], broker_id: BrokerId, next_producer_id: ProducerId) -> Adopted {
    let mut topics: BTreeMap<(&str, TopicId), Vec<&Found>> = BTreeMap::new();
    for partition in found {
        topics.entry((&partition.topic_name, partition.id.topic_id)).or_default().push(partition);
    }
    let mut adopted = Adopted::default();
    let mut image = MetadataImage::default();
    for ((name, topic_id), mut partitions) in topics {
        partitions.sort_unstable_by_key(|partition| partition.id.partition);
        if (0..).zip(&partitions).any(|(index, partition)| partition.id.partition.0 != index) {
            adopted.left_alone.push((name.to_owned(), "some of its partitions are not here"));
            continue;
        }
        let topic = Record::Topic { topic_id, name: name.to_owned() };
        if image.apply(&topic).is_err() {
            adopted.left_alone.push((name.to_owned(), "its name or id is that of another topic"));
            continue;
        }
        adopted.records.push(topic);
        adopted.records.extend(["retention.ms", "retention.bytes"].map(|setting| Record::Config {
            resource: ConfigResource::Topic(name.to_owned()),
            name: setting.to_owned(),
            value: Some("-1".to_owned()),
        }));
        adopted.records.extend(partitions.iter().map(|partition| Record::Partition {
            id: partition.id,
            state: PartitionState {
                replicas: vec![broker_id],
                in_sync_replicas: vec![broker_id],
                leader: broker_id,
                leader_epoch: partition.latest_epoch.max(LeaderEpoch(0)),
                partition_epoch: 0,
                directories: partition.directory.into_iter().collect(),
            },
        }));
    }
    if next_producer_id > ProducerId(0) {
        adopted.records.push(Record::ProducerIds { next: next_producer_id });
    }
    adopted
}

/// Raises leader epochs above what is on the medium, where a metadata log that was cut in a salvage has lost that they were
/// given, or where a partition's log was cut: an offset is not given twice in an epoch.
#[must_use]
pub fn overtake(image: &MetadataImage, found: &[Found]) -> Vec<Record> {
    let overtaken = found.iter().filter_map(|found| {
        let state = image.partition(&found.id)?;
        (state.leader_epoch <= found.latest_epoch).then(|| Record::Partition {
            id: found.id,
            state: PartitionState {
                leader_epoch: LeaderEpoch(found.latest_epoch.0.saturating_add(1)),
                ..state.clone()
            },
        })
    });
    overtaken.collect()
}

/// Gives away the next `count` producer ids: the record, and the ids. Durable before any of them is used.
///
/// # Errors
/// [`MetadataError::Exhausted`], after 2⁶³ ids.
pub fn allocate_producer_ids(
    image: &MetadataImage,
    count: u16,
) -> Result<(Vec<Record>, Range<i64>), MetadataError> {
    let first = image.next_producer_id().0;
    let end = first.checked_add(count.into()).ok_or(MetadataError::Exhausted("producer ids are used up"))?;
    Ok((vec![Record::ProducerIds { next: ProducerId(end) }], first..end))
}

/// Records that the log may hold before a snapshot is due, beyond what the snapshot itself would take.
const SNAPSHOT_SLACK_RECORDS: u64 = 10_000;

/// Whether the log has grown so far beyond the image that a snapshot should replace it.
#[must_use]
pub fn is_snapshot_due(image: &MetadataImage, records_in_log: u64) -> bool {
    let image_records = image.partition_count()
        + image.topic_count()
        + image.override_count()
        + image.removed_topics().len()
        + image.brokers().len();
    records_in_log > SNAPSHOT_SLACK_RECORDS + 2 * image_records as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings were not counted: where there were many, a snapshot was due right after one.
    #[test]
    fn no_snapshot_is_due_after_one() {
        let mut image = MetadataImage::default();
        for number in 1..=2_000_u16 {
            let topic_id =
                TopicId::from_bytes([number.to_be_bytes(); 8].concat().try_into().expect("16 bytes"));
            let name = format!("topic{number}");
            image.apply(&Record::Topic { topic_id, name: name.clone() }).expect("fits");
            for setting in 0..8 {
                let (resource, value) = (ConfigResource::Topic(name.clone()), Some("1".to_owned()));
                let config = Record::Config { resource, name: format!("setting.{setting}"), value };
                image.apply(&config).expect("fits");
            }
        }
        let records = image.snapshot().len() as u64;
        assert!(!is_snapshot_due(&image, records));
        assert!(is_snapshot_due(&image, SNAPSHOT_SLACK_RECORDS + 2 * records));
    }

    #[test]
    fn epochs_on_the_medium_are_overtaken() {
        let id = TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition: 0.into() };
        let found = |epoch: i32| {
            [Found { id, topic_name: "t".to_owned(), latest_epoch: epoch.into(), directory: None }]
        };
        let mut image = MetadataImage::default();
        assert_eq!(overtake(&image, &found(9)), [], "nobody knows the topic");
        let adopted = adopt(&found(7), BrokerId(1), ProducerId(0));
        adopted.records.iter().for_each(|record| image.apply(record).expect("fits"));
        assert_eq!(overtake(&image, &found(6)), []);
        for epoch in [7, 9] {
            let records = overtake(&image, &found(epoch));
            records.iter().for_each(|record| image.apply(record).expect("fits"));
            let state = image.partition(&id).expect("exists");
            assert_eq!(state.leader_epoch, LeaderEpoch(epoch + 1));
        }
    }

    #[test]
    fn producer_ids_are_given_away_once() {
        let mut image = MetadataImage::default();
        let (records, first) = allocate_producer_ids(&image, 1000).expect("there are enough");
        records.iter().for_each(|record| image.apply(record).expect("fits"));
        let (_, second) = allocate_producer_ids(&image, 1000).expect("there are enough");
        assert_eq!((first, second), (0..1000, 1000..2000));
    }

    #[test]
    fn topics_that_are_whole_are_adopted_with_their_epochs() {
        let found = |topic: u8, name: &str, partition: i32, epoch: i32| Found {
            id: TopicPartition { topic_id: TopicId::from_bytes([topic; 16]), partition: partition.into() },
            topic_name: name.to_owned(),
            latest_epoch: epoch.into(),
            directory: None,
        };
        let partitions = [
            found(1, "whole", 1, 7),
            found(1, "whole", 0, -1),
            found(2, "half", 1, 0),
            found(1, "same", 0, 0),
        ];
        let Adopted { records, left_alone } = adopt(&partitions, BrokerId(3), ProducerId(5000));
        let mut image = MetadataImage::default();
        records.iter().for_each(|record| image.apply(record).expect("fits"));
        start(BrokerId(3), broker()).iter().for_each(|record| image.apply(record).expect("fits"));
        let topic = image.topic("same").or_else(|| image.topic("whole")).expect("one of them");
        assert_eq!(image.topic_count(), 1);
        // What Kafka would have kept for a year is not deleted after the week that is the default.
        let resource = ConfigResource::Topic(topic.name.to_string());
        let settings = image.overrides(&resource).expect("it has some");
        assert_eq!((&*settings["retention.ms"], &*settings["retention.bytes"]), ("-1", "-1"));
        assert!(topic.partitions.iter().all(|partition| partition.leader == BrokerId(3)));
        let names: Vec<&str> = left_alone.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["half", "whole"]);
        assert_eq!(allocate_producer_ids(&image, 1).expect("there are enough").1, 5000..5001);
    }

    #[test]
    fn adopted_partition_goes_on_above_its_epoch() {
        let id = TopicPartition { topic_id: TopicId::from_bytes([1; 16]), partition: 0.into() };
        let found = Found { id, topic_name: "t".to_owned(), latest_epoch: LeaderEpoch(7), directory: None };
        let mut records = adopt(&[found], BrokerId(3), ProducerId(0)).records;
        records.extend(start(BrokerId(3), broker()));
        let mut image = MetadataImage::default();
        records.iter().for_each(|record| image.apply(record).expect("fits"));
        assert_eq!(image.partition(&id).expect("adopted").leader_epoch, LeaderEpoch(8));
    }

    fn broker() -> Broker {
        Broker {
            incarnation_id: uuid::Uuid::from_u128(1),
            host: "h".to_owned(),
            port: 1,
            rack: None,
            log_dirs: Vec::new(),
        }
    }

    #[test]
    fn producer_ids_run_out_with_an_error() {
        let mut image = MetadataImage::default();
        image.apply(&Record::ProducerIds { next: ProducerId(i64::MAX - 5) }).expect("fits");
        assert!(allocate_producer_ids(&image, 1000).is_err());
    }
}

//! Metadata records, and the image that a log of them makes.

use highwater_cluster::image::{Broker, ConfigResource, LogDir, MetadataImage, PartitionState};
use highwater_cluster::record::Record;
use highwater_model::{
    BrokerId, DirectoryId, LeaderEpoch, PartitionIndex, ProducerId, TopicId, TopicPartition,
};

use crate::Reached;
use crate::source::{Source, put_piece};

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let mut source = Source::new(bytes);
    let mut image = MetadataImage::default();
    let mut reached = Reached::Refused;
    while !source.is_empty() {
        let Ok(record) = Record::decode(source.piece()) else { continue };
        assert_eq!(
            Record::decode(&record.encode()).as_ref(),
            Ok(&record),
            "a record changes when written again"
        );
        // One that does not fit ends a broker's start; here the others are tried all the same, from before it.
        let mut next = image.clone();
        if next.apply(&record).is_ok() {
            image = next;
            reached = Reached::Accepted;
        }
    }
    image.end_of_log();
    check(&image);
    reached
}

/// A snapshot of an image is that image.
fn check(image: &MetadataImage) {
    let mut copy = MetadataImage::default();
    for record in image.snapshot() {
        let record = Record::decode(&record.encode()).expect("its own bytes");
        copy.apply(&record).expect("a snapshot fits");
    }
    copy.end_of_log();
    assert_eq!(&copy, image, "a snapshot is not the image");
    assert_eq!(image.partition_count(), image.topics().map(|topic| topic.partitions.len()).sum::<usize>());
    for topic in image.topics() {
        assert!(image.topic_by_id(&topic.id).is_some_and(|same| same.name == topic.name));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let topic_id = TopicId(uuid::Uuid::from_u128(7));
    let state = PartitionState {
        replicas: vec![BrokerId(0)],
        in_sync_replicas: vec![BrokerId(0)],
        leader: BrokerId(0),
        leader_epoch: LeaderEpoch(1),
        partition_epoch: 2,
        directories: Vec::new(),
    };
    let broker = Broker {
        incarnation_id: uuid::Uuid::from_u128(3),
        host: "localhost".to_owned(),
        port: 9092,
        rack: Some("r".to_owned()),
        log_dirs: Vec::new(),
    };
    let partition = |index| Record::Partition {
        id: TopicPartition { topic_id, partition: PartitionIndex(index) },
        state: state.clone(),
    };
    let topic_config = |value| Record::Config {
        resource: ConfigResource::Topic("a_b".to_owned()),
        name: "flush.messages".to_owned(),
        value,
    };
    let changes = [
        Record::RegisterBroker { broker_id: BrokerId(0), broker: broker.clone() },
        Record::Topic { topic_id, name: "a_b".to_owned() },
        partition(0),
        partition(1),
        topic_config(Some("1".to_owned())),
        Record::ProducerIds { next: ProducerId(1000) },
        Record::RaiseEpochs { broker_id: BrokerId(0) },
        topic_config(None),
        Record::RemoveTopic { topic_id },
    ];
    let log = |records: &[Record]| {
        let mut out = Vec::new();
        records.iter().for_each(|record| put_piece(&mut out, &record.encode()));
        out
    };
    let mut snapshot = vec![Record::BeginSnapshot];
    snapshot.extend_from_slice(&changes[..5]);
    snapshot.push(Record::EndSnapshot);
    // Of a broker with several log directories.
    let directory = DirectoryId(uuid::Uuid::from_u128(9));
    let log_dirs = vec![LogDir { id: directory, path: "/data".to_owned() }];
    let assigned = [
        Record::RegisterBroker { broker_id: BrokerId(0), broker: Broker { log_dirs, ..broker } },
        Record::Topic { topic_id, name: "a_b".to_owned() },
        Record::Partition {
            id: TopicPartition { topic_id, partition: PartitionIndex(0) },
            state: state.clone().with_directory(BrokerId(0), directory),
        },
    ];
    vec![log(&changes), log(&changes[..5]), log(&snapshot), log(&assigned)]
}

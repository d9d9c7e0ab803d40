//! The words are those of Apache Kafka 4.3, asked with the same requests.

use highwater_model::{PartitionIndex, TopicId};

use super::*;
use crate::config::effective::{ConfigView, StaticConfig};
use crate::image::MetadataImage;
use crate::record::Record;

fn image_with_brokers(count: i32) -> MetadataImage {
    let mut image = MetadataImage::default();
    for id in 1..=count {
        let broker = Broker {
            incarnation_id: uuid::Uuid::nil(),
            host: "h".to_owned(),
            port: 1,
            rack: None,
            log_dirs: Vec::new(),
        };
        image.apply(&Record::RegisterBroker { broker_id: BrokerId(id), broker }).expect("fits");
    }
    image
}

fn apply(image: &mut MetadataImage, records: &[Record]) {
    records.iter().for_each(|record| image.apply(record).expect("fits"));
}

fn try_create(image: &MetadataImage, topics: &[NewTopic]) -> (Vec<Record>, CreateResults) {
    let file = StaticConfig::new();
    let context = CreateContext {
        config: ConfigView { image, static_config: &file, broker_id: BrokerId(1) },
        default_num_partitions: 4,
        default_replication_factor: 1,
        max_partitions: 20_000,
    };
    let mut next = image.topic_count() as u128;
    create(&context, topics, &mut || {
        next += 1;
        TopicId(uuid::Uuid::from_u128(next))
    })
}

fn topic(name: &str, num_partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic { name: name.to_owned(), num_partitions, replication_factor, ..NewTopic::default() }
}

fn with_config(name: &str, key: &str, value: Option<&str>) -> NewTopic {
    let configs = vec![(key.to_owned(), value.map(str::to_owned))];
    NewTopic { configs, ..topic(name, 1, 1) }
}

fn manual(name: &str, assignments: &[(i32, &[i32])]) -> NewTopic {
    let assignments = assignments
        .iter()
        .map(|&(partition, replicas)| ReplicaAssignment {
            partition: PartitionIndex(partition),
            replicas: replicas.iter().copied().map(BrokerId).collect(),
        })
        .collect();
    NewTopic { assignments, ..topic(name, -1, -1) }
}

fn refusal(image: &MetadataImage, topic: NewTopic) -> String {
    let (records, results) = try_create(image, &[topic]);
    assert_eq!(records, []);
    results[0].1.as_ref().expect_err("refused").to_string()
}

#[test]
fn topic_is_created_with_its_partitions_and_configs() {
    let mut image = image_with_brokers(1);
    let (records, results) = try_create(&image, &[with_config("orders", "flush.messages", Some("5"))]);
    apply(&mut image, &records);
    let created = results[0].1.as_ref().expect("created");
    let topic = image.topic("orders").expect("exists");
    assert_eq!(topic.id, created.id);
    assert_eq!(topic.partitions, [new_partition(vec![BrokerId(1)])]);
    let resource = crate::ConfigResource::Topic("orders".to_owned());
    assert_eq!(image.overrides(&resource).expect("has some")["flush.messages"], "5");
}

#[test]
fn defaults_stand_in_for_minus_one() {
    let (_, results) = try_create(&image_with_brokers(1), &[topic("t", -1, -1)]);
    let created = results[0].1.as_ref().expect("created");
    assert_eq!((created.num_partitions, created.replication_factor), (4, 1));
}

#[test]
fn invalid_names_are_refused() {
    let image = image_with_brokers(1);
    let refused = |name: &str| refusal(&image, topic(name, 1, 1));
    assert_eq!(refused(""), "Topic name is invalid: the empty string is not allowed");
    assert_eq!(refused("."), "Topic name is invalid: '.' is not allowed");
    assert_eq!(
        refused("p a"),
        "Topic name is invalid: 'p a' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    );
    let long = "p".repeat(250);
    assert_eq!(
        refused(&long),
        format!("Topic name is invalid: the length of '{long}' is longer than the max allowed length 249")
    );
    assert_eq!(refused("__cluster_metadata"), "Creation of internal topic __cluster_metadata is prohibited.");
}

#[test]
fn names_that_metrics_cannot_tell_apart_collide() {
    let mut image = image_with_brokers(1);
    let (records, results) = try_create(&image, &[topic("a.b", 1, 1), topic("a_b", 1, 1)]);
    assert!(results[0].1.is_ok());
    assert_eq!(
        results[1].1.as_ref().expect_err("refused").to_string(),
        "Topic 'a_b' collides with existing topic: a.b"
    );
    apply(&mut image, &records);
    assert_eq!(refusal(&image, topic("a_b", 1, 1)), "Topic 'a_b' collides with existing topic: a.b");
    assert_eq!(refusal(&image, topic("a.b", 1, 1)), "Topic 'a.b' already exists.");
}

#[test]
fn name_given_twice_is_not_created() {
    let (records, results) =
        try_create(&image_with_brokers(1), &[topic("t", 1, 1), topic("t", 2, 1), topic("u", 1, 1)]);
    assert_eq!(results.len(), 2);
    assert_eq!(results[0].1.as_ref().expect_err("refused").to_string(), "Duplicate topic name.");
    assert!(results[1].1.is_ok());
    assert_eq!(records.len(), 2);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let image = image_with_brokers(1);
    for partitions in [0, -2] {
        assert_eq!(
            refusal(&image, topic("t", partitions, 1)),
            "Number of partitions was set to an invalid non-positive value."
        );
    }
    for factor in [0, -2] {
        assert_eq!(
            refusal(&image, topic("t", 1, factor)),
            "Replication factor must be larger than 0, or -1 to use the default value."
        );
    }
    assert_eq!(
        refusal(&image, topic("t", 1, 2)),
        "Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot be reached because \
         only 1 broker(s) are registered."
    );
    for partitions in [10_001, i32::MAX] {
        assert_eq!(
            refusal(&image, topic("t", partitions, 1)),
            "Excessively large number of partitions per request."
        );
    }
}

#[test]
fn cluster_never_has_more_partitions_than_allowed() {
    let mut image = image_with_brokers(1);
    for name in ["a", "b"] {
        let (records, _) = try_create(&image, &[topic(name, 10_000, 1)]);
        apply(&mut image, &records);
    }
    assert!(refusal(&image, topic("c", 1, 1)).contains("max.partitions=20000"));
    let more = NewPartitions { topic: "a".to_owned(), count: 10_001, assignments: None };
    assert!(create_partitions(&image, &more, 20_000).is_err());
}

#[test]
fn invalid_configs_are_refused() {
    let image = image_with_brokers(1);
    assert_eq!(refusal(&image, with_config("t", "nope", Some("1"))), "Unknown topic config name: nope");
    assert_eq!(
        refusal(&image, with_config("t", "retention.ms", None)),
        "Null value not supported for topic configs: retention.ms"
    );
    assert!(refusal(&image, with_config("t", "segment.bytes", Some("1"))).contains("at least 1048576"));
}

#[test]
fn manual_assignments_are_checked() {
    let image = image_with_brokers(3);
    let refused = |assignments: &[(i32, &[i32])]| refusal(&image, manual("t", assignments));
    assert_eq!(
        refused(&[(0, &[1]), (2, &[1])]),
        "partitions should be a consecutive 0-based integer sequence"
    );
    assert_eq!(refused(&[(0, &[])]), "The manual partition assignment includes an empty replica list.");
    assert_eq!(
        refused(&[(0, &[1, 1])]),
        "The manual partition assignment includes the broker 1 more than once."
    );
    assert_eq!(
        refused(&[(0, &[7])]),
        "The manual partition assignment includes broker 7, but no such broker is registered."
    );
    assert!(refused(&[(0, &[1]), (1, &[1, 2])]).contains("not consistent with previous partitions"));
    let both = NewTopic { num_partitions: 1, ..manual("t", &[(0, &[1])]) };
    assert!(refusal(&image, both).contains("numPartitions was not set to -1"));
    let (_, results) = try_create(&image, &[manual("t", &[(1, &[2, 1]), (0, &[1, 3])])]);
    assert_eq!(results[0].1.as_ref().expect("created").replication_factor, 2);
}

#[test]
fn leaders_and_followers_are_spread() {
    let placed = place(image_with_brokers(3).brokers(), 0, 6, 2).expect("possible");
    let pairs: Vec<(i32, i32)> = placed.iter().map(|replicas| (replicas[0].0, replicas[1].0)).collect();
    assert_eq!(pairs, [(1, 2), (2, 3), (3, 1), (1, 3), (2, 1), (3, 2)]);
}

#[test]
fn partitions_can_only_grow() {
    let mut image = image_with_brokers(1);
    let (records, _) = try_create(&image, &[topic("t", 5, 1)]);
    apply(&mut image, &records);
    let grow = |count, assignments: Option<Vec<Vec<i32>>>| {
        let assignments = assignments
            .map(|all| all.into_iter().map(|one| one.into_iter().map(BrokerId).collect()).collect());
        let request = NewPartitions { topic: "t".to_owned(), count, assignments };
        create_partitions(&image, &request, 100_000).map_err(|error| error.to_string())
    };
    assert_eq!(grow(7, None).expect("possible").len(), 2);
    assert_eq!(grow(5, None).expect_err("refused"), "Topic already has 5 partition(s).");
    assert_eq!(
        grow(-1, None).expect_err("refused"),
        "The topic t currently has 5 partition(s); -1 would not be an increase."
    );
    assert_eq!(
        grow(7, Some(vec![vec![1]])).expect_err("refused"),
        "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified."
    );
    assert_eq!(
        grow(6, Some(vec![vec![9]])).expect_err("refused"),
        "The manual partition assignment includes broker 9, but no such broker is registered."
    );
    let unknown = NewPartitions { topic: "none".to_owned(), count: 2, assignments: None };
    assert_eq!(create_partitions(&image, &unknown, 100), Err(MetadataError::unknown_topic()));
}

#[test]
fn deleted_topic_can_be_created_again_under_another_id() {
    let mut image = image_with_brokers(1);
    let (records, _) = try_create(&image, &[topic("t", 1, 1)]);
    apply(&mut image, &records);
    let before = image.topic("t").expect("exists").id;
    let by_name = TopicSelector::Name("t".to_owned());
    let (records, results) = delete(&image, &[by_name, TopicSelector::Id(before)]);
    assert_eq!(records, [Record::RemoveTopic { topic_id: before }]);
    assert!(results.iter().all(Result::is_ok));
    apply(&mut image, &records);
    let (_, results) = delete(&image, &[TopicSelector::Id(before), TopicSelector::Name("t".to_owned())]);
    assert_eq!(results[0], Err(MetadataError::UnknownTopicId));
    assert_eq!(results[1], Err(MetadataError::unknown_topic()));
    assert!(try_create(&image, &[topic("t", 1, 1)]).1[0].1.is_ok());
}

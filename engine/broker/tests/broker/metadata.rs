use highwater_protocol::ErrorCode;
use highwater_protocol::messages::describe_topic_partitions_request::TopicRequest;
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::{DescribeClusterRequest, DescribeTopicPartitionsRequest, MetadataRequest};

use crate::client::{TestBroker, topic_name};

fn by_name(name: &str) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

#[test]
fn topics_and_broker_are_told_in_every_version() {
    let broker = TestBroker::start(&[]);
    let id = broker.create_topic("t", 3, &[]);
    for version in 0..=13 {
        // Older versions always allow creation.
        let request = by_name("t").with_allow_auto_topic_creation(version < 4);
        let response = broker.connect().call(version, &request);
        let told = &response.brokers[0];
        assert_eq!((&*told.host, told.port), ("127.0.0.1", i32::from(broker.addr().port())));
        let topic = &response.topics[0];
        assert_eq!(topic.name, Some(topic_name("t")));
        assert_eq!(topic.partitions.len(), 3);
        assert_eq!((topic.partitions[2].partition_index, topic.partitions[2].leader_id.0), (2, 1));
        if version >= 10 {
            assert_eq!(topic.topic_id, id);
        }
    }
}

#[test]
fn all_topics_are_told_without_the_metadata_log() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("a", 1, &[]);
    broker.create_topic("b", 1, &[]);
    let names = |request: &MetadataRequest, version| {
        let response = broker.connect().call(version, request);
        response.topics.iter().map(|topic| topic.name.clone().expect("named").to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&MetadataRequest::default().with_topics(None), 9), ["a", "b"]);
    // Version 0 has no null: an empty list means all.
    assert_eq!(names(&MetadataRequest::default().with_topics(Some(vec![])), 0), ["a", "b"]);
    assert!(names(&MetadataRequest::default().with_topics(Some(vec![])), 1).is_empty());
}

#[test]
fn topic_is_found_by_its_id() {
    let broker = TestBroker::start(&[]);
    let id = broker.create_topic("t", 1, &[]);
    let request = |id| {
        let topic = MetadataRequestTopic::default().with_topic_id(id);
        MetadataRequest::default().with_topics(Some(vec![topic]))
    };
    let response = broker.connect().call(12, &request(id));
    assert_eq!(response.topics[0].name, Some(topic_name("t")));
    let unknown = uuid::Uuid::from_u128(5);
    let response = broker.connect().call(12, &request(unknown));
    assert_eq!(ErrorCode(response.topics[0].error_code), ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(response.topics[0].topic_id, unknown);
    // Versions 10 and 11 have the field, but not the right to use it.
    let both = MetadataRequestTopic::default().with_topic_id(id).with_name(Some(topic_name("t")));
    let request = MetadataRequest::default().with_topics(Some(vec![both]));
    let response = broker.connect().call(11, &request);
    assert_eq!(ErrorCode(response.topics[0].error_code), ErrorCode::INVALID_REQUEST);
}

#[test]
fn topic_is_created_on_demand_if_client_and_broker_allow_it() {
    let broker = TestBroker::start(&[]);
    let code = |request: &MetadataRequest| ErrorCode(broker.connect().call(9, request).topics[0].error_code);
    assert_eq!(code(&by_name("new")), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let allowed = by_name("new").with_allow_auto_topic_creation(true);
    assert_eq!(code(&allowed), ErrorCode::NONE);
    assert_eq!(broker.connect().call(9, &by_name("new")).topics[0].partitions.len(), 2);
    let invalid = by_name("not valid").with_allow_auto_topic_creation(true);
    assert_eq!(code(&invalid), ErrorCode::INVALID_TOPIC_EXCEPTION);
    let strict = TestBroker::start(&[("auto.create.topics.enable", "false")]);
    let response = strict.connect().call(9, &allowed);
    assert_eq!(ErrorCode(response.topics[0].error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn cluster_is_described_in_every_version() {
    let broker = TestBroker::start(&[]);
    for version in 0..=2 {
        let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        let response = broker.connect().call(version, &request);
        assert_eq!(&*response.cluster_id, broker.broker().started().cluster_id);
        assert_eq!(response.brokers.len(), 1);
        assert_ne!(response.cluster_authorized_operations, i32::MIN);
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    let response = broker.connect().call(1, &controllers);
    assert_eq!(ErrorCode(response.error_code), ErrorCode::MISMATCHED_ENDPOINT_TYPE);
}

#[test]
fn partitions_are_described_a_page_at_a_time() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("a", 3, &[]);
    broker.create_topic("b", 3, &[]);
    let topics = ["a", "b", "unknown"].map(|name| TopicRequest::default().with_name(topic_name(name)));
    let mut request = DescribeTopicPartitionsRequest::default()
        .with_topics(topics.to_vec())
        .with_response_partition_limit(2);
    let mut told = Vec::new();
    loop {
        let response = broker.connect().call(0, &request);
        for topic in &response.topics {
            let name = topic.name.clone().expect("named").to_string();
            told.extend(topic.partitions.iter().map(|partition| (name.clone(), partition.partition_index)));
            if topic.error_code != 0 {
                told.push((name, -i32::from(topic.error_code)));
            }
        }
        let Some(cursor) = response.next_cursor else { break };
        request.cursor = Some(
            highwater_protocol::messages::describe_topic_partitions_request::Cursor::default()
                .with_topic_name(cursor.topic_name)
                .with_partition_index(cursor.partition_index),
        );
    }
    let told: Vec<(&str, i32)> = told.iter().map(|(name, index)| (&**name, *index)).collect();
    let unknown = -i32::from(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
    assert_eq!(told, [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2), ("unknown", unknown)]);
}

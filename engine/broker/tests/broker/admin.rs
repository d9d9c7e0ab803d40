use std::collections::BTreeSet;

use highwater_protocol::ErrorCode;
use highwater_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use highwater_protocol::messages::delete_topics_request::DeleteTopicState;
use highwater_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeLogDirsRequest, InitProducerIdRequest, TransactionalId,
};

use crate::client::{TestBroker, batch, topic_name};

fn new_topic(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

#[test]
fn topics_are_created_in_every_version() {
    let broker = TestBroker::start(&[]);
    for version in 2..=7 {
        let request =
            CreateTopicsRequest::default().with_topics(vec![new_topic(&format!("t{version}"), 3, 1)]);
        let response = broker.connect().call(version, &request);
        let topic = &response.topics[0];
        assert_eq!(topic.error_code, 0);
        if version >= 5 {
            assert_eq!((topic.num_partitions, topic.replication_factor), (3, 1));
            assert!(topic.configs.as_ref().is_some_and(|configs| !configs.is_empty()));
        }
        // The topic is there when the answer is.
        assert_eq!(broker.connect().produce(&format!("t{version}"), 2, -1, batch(&["x"])).error_code, 0);
    }
}

#[test]
fn refused_topics_have_code_and_reason() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let request = CreateTopicsRequest::default().with_topics(vec![
        new_topic("t", 1, 1),
        new_topic("a b", 1, 1),
        new_topic("u", 0, 1),
        new_topic("v", 1, 2),
        new_topic("w", 1, 1),
    ]);
    let response = broker.connect().call(5, &request);
    let codes: Vec<ErrorCode> = response.topics.iter().map(|topic| ErrorCode(topic.error_code)).collect();
    assert_eq!(
        codes,
        [
            ErrorCode::TOPIC_ALREADY_EXISTS,
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            ErrorCode::INVALID_PARTITIONS,
            ErrorCode::INVALID_REPLICATION_FACTOR,
            ErrorCode::NONE
        ]
    );
    assert_eq!(response.topics[0].error_message.as_deref(), Some("Topic 't' already exists."));
}

#[test]
fn validation_creates_nothing() {
    let broker = TestBroker::start(&[]);
    let request =
        CreateTopicsRequest::default().with_topics(vec![new_topic("t", 1, 1)]).with_validate_only(true);
    assert_eq!(broker.connect().call(5, &request).topics[0].error_code, 0);
    let answer = broker.connect().produce("t", 0, 1, batch(&["x"]));
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    let broker = TestBroker::start(&[]);
    for version in 1..=5 {
        broker.create_topic("t", 2, &[]);
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("t"), topic_name("u")]);
        let response = broker.connect().call(version, &request);
        let codes: Vec<ErrorCode> =
            response.responses.iter().map(|topic| ErrorCode(topic.error_code)).collect();
        assert_eq!(codes, [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION], "version {version}");
    }
    let id = broker.create_topic("t", 2, &[]);
    let state = |id| DeleteTopicState::default().with_name(None).with_topic_id(id);
    let request =
        DeleteTopicsRequest::default().with_topics(vec![state(id), state(uuid::Uuid::from_u128(3))]);
    let response = broker.connect().call(6, &request);
    assert_eq!(response.responses[0].name, Some(topic_name("t")));
    assert_eq!(ErrorCode(response.responses[1].error_code), ErrorCode::UNKNOWN_TOPIC_ID);
}

/// A name and an id that belonged to two topics once deleted the one with the name.
#[test]
fn topic_named_twice_or_not_at_all_is_not_deleted() {
    let broker = TestBroker::start(&[]);
    let id = broker.create_topic("t", 1, &[]);
    let other = broker.create_topic("other", 1, &[]);
    let state = |name: Option<&str>, id| {
        DeleteTopicState::default().with_name(name.map(topic_name)).with_topic_id(id)
    };
    let nil = uuid::Uuid::nil();
    let delete = |topics| {
        let response = broker.connect().call(6, &DeleteTopicsRequest::default().with_topics(topics));
        let codes = response.responses.iter().map(|topic| ErrorCode(topic.error_code));
        codes.collect::<Vec<ErrorCode>>()
    };
    let refused = ErrorCode::INVALID_REQUEST;
    assert_eq!(delete(vec![state(Some("t"), other)]), [refused], "a name and an id");
    assert_eq!(delete(vec![state(None, nil)]), [refused], "neither");
    assert_eq!(delete(vec![state(Some("t"), nil), state(Some("t"), nil)]), [refused], "a name twice");
    assert_eq!(delete(vec![state(None, id), state(None, id), state(None, id)]), [refused], "an id thrice");
    assert_eq!(delete(vec![state(None, other), state(Some("other"), nil)]), [ErrorCode::NONE, refused]);
    assert_eq!(delete(vec![state(Some("t"), nil)]), [ErrorCode::NONE], "it is still there");
}

#[test]
fn deletion_can_be_disabled() {
    let broker = TestBroker::start(&[("delete.topic.enable", "false")]);
    broker.create_topic("t", 1, &[]);
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("t")]);
    let code = |version| ErrorCode(broker.connect().call(version, &request).responses[0].error_code);
    assert_eq!(code(5), ErrorCode::TOPIC_DELETION_DISABLED);
    assert_eq!(code(2), ErrorCode::INVALID_REQUEST);
}

#[test]
fn partitions_are_added_and_serve_at_once() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    for version in 0..=3 {
        let count = i32::from(version) + 2;
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name("t"))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic.clone()]);
        assert_eq!(broker.connect().call(version, &request).results[0].error_code, 0);
        assert_eq!(broker.connect().produce("t", count - 1, -1, batch(&["x"])).error_code, 0);
        let refused = &broker.connect().call(version, &request).results[0];
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::INVALID_PARTITIONS);
        let twice = CreatePartitionsRequest::default().with_topics(vec![topic.clone(), topic]);
        let refused = broker.connect().call(version, &twice);
        assert_eq!(refused.results.len(), 1);
        assert_eq!(ErrorCode(refused.results[0].error_code), ErrorCode::INVALID_REQUEST);
    }
}

#[test]
fn records_below_an_offset_are_deleted() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    for value in ["a", "b", "c"] {
        client.produce("t", 0, -1, batch(&[value]));
    }
    let mut delete = |version, offset| {
        let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
        let topic = DeleteRecordsTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
        let response = client.call(version, &DeleteRecordsRequest::default().with_topics(vec![topic]));
        let answer = &response.topics[0].partitions[0];
        (ErrorCode(answer.error_code), answer.low_watermark)
    };
    assert_eq!(delete(0, 1), (ErrorCode::NONE, 1));
    assert_eq!(delete(1, 0), (ErrorCode::NONE, 1), "the start never goes back");
    assert_eq!(delete(2, 4), (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    assert_eq!(delete(2, -2), (ErrorCode::OFFSET_OUT_OF_RANGE, -1));
    let response = broker.connect().call(11, &crate::client::fetch_request(&[("t", 0, 0)]));
    let partition = &response.responses[0].partitions[0];
    assert_eq!(ErrorCode(partition.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(broker.connect().fetch_values("t", 0, 1), ["b", "c"]);
    assert_eq!(delete(2, -1), (ErrorCode::NONE, 3), "−1 is the high watermark");
}

#[test]
fn producer_ids_are_given_once() {
    let broker = TestBroker::start(&[]);
    let mut ids = BTreeSet::new();
    for number in 0..2100_i32 {
        let version = i16::try_from(number % 6).expect("small");
        let mut client = broker.connect();
        let response = client.call(version, &InitProducerIdRequest::default().with_transactional_id(None));
        assert_eq!((response.error_code, response.producer_epoch), (0, 0));
        assert!(ids.insert(response.producer_id.0), "{} was given before", response.producer_id.0);
    }
}

#[test]
fn transactions_are_refused_with_an_error_that_no_client_tries_again() {
    let broker = TestBroker::start(&[]);
    let code = |id: &str| {
        let id = Some(TransactionalId(id.to_owned().into()));
        let response = broker.connect().call(4, &InitProducerIdRequest::default().with_transactional_id(id));
        ErrorCode(response.error_code)
    };
    assert_eq!(code("t"), ErrorCode::UNSUPPORTED_VERSION);
    assert!(!code("t").is_retriable());
    assert_eq!(code(""), ErrorCode::INVALID_REQUEST);
}

#[test]
fn log_dirs_are_described_in_every_version() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 3, &[]);
    broker.connect().produce("t", 1, -1, batch(&["x"]));
    for version in 1..=4 {
        let response = broker.connect().call(version, &DescribeLogDirsRequest::default().with_topics(None));
        let result = &response.results[0];
        assert_eq!(result.error_code, 0);
        let topic = &result.topics[0];
        assert_eq!((&**topic.name, topic.partitions.len()), ("t", 3));
        assert!(topic.partitions[1].partition_size > 0);
        if version >= 4 {
            assert!(result.total_bytes >= result.usable_bytes && result.usable_bytes > 0);
        }
    }
}

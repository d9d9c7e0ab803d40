use highwater_protocol::ErrorCode;
use highwater_protocol::messages::ListOffsetsRequest;
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;

use crate::client::{Client, TestBroker, batch, topic_name};

fn ask(client: &mut Client, version: i16, partition: i32, timestamp: i64) -> ListOffsetsPartitionResponse {
    let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(topic_name("t")).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    client.call(version, &request).topics[0].partitions[0].clone()
}

/// The timestamp of every record that the tests make.
const TIMESTAMP: i64 = 1_700_000_000_000;

#[test]
fn first_last_and_searched_offsets_are_found() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut client = broker.connect();
    client.produce("t", 0, -1, batch(&["a", "b", "c"]));
    for version in 1..=10 {
        let mut offset = |timestamp| {
            let answer = ask(&mut client, version, 0, timestamp);
            assert_eq!(answer.error_code, 0);
            (answer.offset, answer.timestamp)
        };
        assert_eq!(offset(-1), (3, -1), "latest");
        assert_eq!(offset(-2), (0, -1), "earliest");
        assert_eq!(offset(0), (0, TIMESTAMP), "the first at or after a time");
        assert_eq!(offset(TIMESTAMP + 1), (-1, -1), "nothing so late");
    }
    assert_eq!(ask(&mut client, 7, 0, -3).offset, 0, "the largest timestamp");
    assert_eq!(ask(&mut client, 8, 0, -4).offset, 0, "earliest local");
    assert_eq!(ask(&mut client, 9, 0, -5).offset, -1, "nothing is tiered");
    assert_eq!(ask(&mut client, 7, 1, -3).offset, -1, "an empty partition");
}

#[test]
fn special_timestamps_need_the_version_that_knows_them() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    for (version, timestamp) in [(6, -3), (7, -4), (8, -5), (10, -6), (10, -7)] {
        let answer = ask(&mut client, version, 0, timestamp);
        assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNSUPPORTED_VERSION, "{version} {timestamp}");
    }
}

#[test]
fn partition_asked_twice_and_unknown_one_are_refused() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let asked = |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(topic_name("t")).with_partitions(vec![
        asked(0),
        asked(0),
        asked(4),
    ]);
    let request = ListOffsetsRequest::default().with_topics(vec![topic]);
    let response = broker.connect().call(5, &request);
    let codes: Vec<ErrorCode> =
        response.topics[0].partitions.iter().map(|answer| ErrorCode(answer.error_code)).collect();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::INVALID_REQUEST, unknown]);
}

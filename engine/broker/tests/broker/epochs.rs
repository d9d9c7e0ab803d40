use highwater_protocol::ErrorCode;
use highwater_protocol::messages::OffsetForLeaderEpochRequest;
use highwater_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use highwater_protocol::messages::offset_for_leader_epoch_response::EpochEndOffset;

use crate::client::{Client, TestBroker, batch, topic_name};

fn ask(client: &mut Client, version: i16, current: i32, epoch: i32) -> EpochEndOffset {
    let asked = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default().with_topic(topic_name("t")).with_partitions(vec![asked]);
    let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
    client.call(version, &request).topics[0].partitions[0].clone()
}

#[test]
fn every_start_begins_an_epoch_and_ends_the_one_before() {
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    broker.connect().produce("t", 0, -1, batch(&["a", "b"]));
    broker.restart();
    let mut client = broker.connect();
    client.produce("t", 0, -1, batch(&["c"]));
    for version in 2..=4 {
        let end = |answer: EpochEndOffset| (answer.leader_epoch, answer.end_offset);
        assert_eq!(end(ask(&mut client, version, -1, 0)), (0, 2), "the first epoch ended");
        assert_eq!(end(ask(&mut client, version, -1, 1)), (1, 3), "the second goes on");
        assert_eq!(end(ask(&mut client, version, 1, 1)), (1, 3));
        assert_eq!(end(ask(&mut client, version, -1, 7)), (-1, -1), "one that never was");
    }
    let code = |answer: EpochEndOffset| ErrorCode(answer.error_code);
    assert_eq!(code(ask(&mut client, 4, 0, 0)), ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(code(ask(&mut client, 4, 9, 0)), ErrorCode::UNKNOWN_LEADER_EPOCH);
}

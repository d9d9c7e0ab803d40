use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::FetchRequest;
use highwater_protocol::messages::fetch_response::PartitionData;

use crate::client::{TestBroker, batch, fetch_request, produce_request, values, values_of};

#[test]
fn records_come_in_every_version() {
    let broker = TestBroker::start(&[]);
    let id = broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    client.produce("t", 0, -1, batch(&["a", "b"]));
    for version in 4..=18 {
        let mut request = fetch_request(&[("t", 0, 0)]);
        if version >= 13 {
            request.topics[0].topic = Default::default();
            request.topics[0].topic_id = id;
        }
        let response = client.call(version, &request);
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "version {version}");
        assert_eq!((partition.high_watermark, partition.last_stable_offset), (2, 2));
        assert_eq!(partition.preferred_read_replica, -1);
        assert_eq!(values_of(partition.records.as_ref().expect("has records")), ["a", "b"]);
    }
}

/// Replies leave from where the records are, whatever that is: pieces of the hot tail, and buffers that a segment was read to.
#[test]
fn records_come_by_zero_copy_sends() {
    let settings =
        [("socket.send.zero.copy.min.bytes", "1"), ("hot.tail.bytes", "4194304"), ("num.shards", "1")];
    let broker = TestBroker::start(&settings);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let value = |i: usize| format!("{i:0>60000}");
    for i in 0..100 {
        client.produce("t", 0, -1, batch(&[&value(i)]));
    }
    let mut offset = 0;
    while offset < 100 {
        let response = client.call(11, &fetch_request(&[("t", 0, offset as i64)]));
        let read = values(&response, "t", 0);
        assert!(!read.is_empty(), "at offset {offset}");
        for read in read {
            assert_eq!(read, value(offset));
            offset += 1;
        }
    }
}

#[test]
fn read_committed_has_a_list_of_aborted_transactions() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    client.produce("t", 0, -1, batch(&["a"]));
    let request = fetch_request(&[("t", 0, 0)]).with_isolation_level(1);
    let response = client.call(11, &request);
    assert_eq!(response.responses[0].partitions[0].aborted_transactions, Some(vec![]));
    assert_eq!(values(&response, "t", 0), ["a"]);
}

#[test]
fn errors_are_answered_at_once_beside_what_can_be_read() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut client = broker.connect();
    client.produce("t", 0, -1, batch(&["a"]));
    let request = fetch_request(&[("t", 0, 0), ("t", 1, 5), ("t", 9, 0), ("unknown", 0, 0)])
        .with_max_wait_ms(60_000)
        .with_min_bytes(1 << 20);
    let response = client.call(11, &request);
    assert_eq!(values(&response, "t", 0), ["a"]);
    let codes: Vec<ErrorCode> = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| ErrorCode(partition.error_code))
        .collect();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::OFFSET_OUT_OF_RANGE, unknown, unknown]);
}

#[test]
fn unknown_topic_id_and_wrong_epochs_have_their_codes() {
    let broker = TestBroker::start(&[]);
    let id = broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let mut code = |id: uuid::Uuid, epoch: i32| {
        let mut request = fetch_request(&[("", 0, 0)]);
        request.topics[0].topic_id = id;
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        let response = client.call(16, &request);
        ErrorCode(response.responses[0].partitions[0].error_code)
    };
    assert_eq!(code(uuid::Uuid::from_u128(9), -1), ErrorCode::UNKNOWN_TOPIC_ID);
    assert_eq!(code(id, 0), ErrorCode::NONE);
    assert_eq!(code(id, 99), ErrorCode::UNKNOWN_LEADER_EPOCH);
}

#[test]
fn parked_fetch_is_woken_by_an_append_on_any_shard() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    for partition in 0..2 {
        let mut reader = broker.connect();
        let request = fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_max_wait_ms(60_000);
        let id = reader.send(11, &request);
        assert_eq!(broker.connect().produce("t", partition, -1, batch(&["woken"])).error_code, 0);
        let response = reader.receive::<FetchRequest>(11, id);
        assert_eq!(values(&response, "t", partition), ["woken"]);
        let mut client = broker.connect();
        let delete = highwater_protocol::messages::DeleteTopicsRequest::default()
            .with_topic_names(vec![crate::client::topic_name("t")]);
        assert_eq!(client.call(5, &delete).responses[0].error_code, 0);
        broker.create_topic("t", 2, &[]);
    }
}

#[test]
fn fetch_without_news_waits_as_long_as_it_was_asked_to() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut client = broker.connect();
    let begin = Instant::now();
    let response = client.call(11, &fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_max_wait_ms(300));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(response.responses[0].partitions.len(), 2);
    assert!(response.responses[0].partitions.iter().all(|partition| partition.high_watermark == 0));
}

#[test]
fn fetch_waits_for_min_bytes_over_all_partitions() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let size = i32::try_from(batch(&["x"]).len()).expect("fits");
    let mut reader = broker.connect();
    let request =
        fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_max_wait_ms(60_000).with_min_bytes(4 * size);
    let id = reader.send(11, &request);
    let mut writer = broker.connect();
    for partition in [0, 1, 0, 1] {
        writer.produce("t", partition, -1, batch(&["x"]));
    }
    let response = reader.receive::<FetchRequest>(11, id);
    assert_eq!(values(&response, "t", 0).len() + values(&response, "t", 1).len(), 4);
}

#[test]
fn deleted_topic_wakes_the_fetch_that_waits_for_it() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let mut reader = broker.connect();
    let request = fetch_request(&[("t", 0, 0), ("t", 1, 0)]).with_max_wait_ms(60_000);
    let id = reader.send(11, &request);
    let delete = highwater_protocol::messages::DeleteTopicsRequest::default()
        .with_topic_names(vec![crate::client::topic_name("t")]);
    assert_eq!(broker.connect().call(5, &delete).responses[0].error_code, 0);
    let response = reader.receive::<FetchRequest>(11, id);
    // The partitions go one after the other, and the first that is gone answers for all.
    let codes: Vec<ErrorCode> =
        response.responses[0].partitions.iter().map(|partition| ErrorCode(partition.error_code)).collect();
    assert!(codes.contains(&ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{codes:?}");
}

/// From memory, and from the device, where several partitions are read at once.
#[test]
fn limits_are_kept_and_one_batch_always_moves() {
    const PARTITIONS: i32 = 12;
    let mut broker = TestBroker::start(&[]);
    broker.create_topic("t", PARTITIONS, &[]);
    let large = "x".repeat(10_000);
    let has_records = |partition: i32| partition % 3 != 0;
    for partition in (0..PARTITIONS).filter(|&partition| has_records(partition)) {
        for _ in 0..5 {
            broker.connect().produce("t", partition, -1, batch(&[&large]));
        }
    }
    for _ in ["hot", "cold"] {
        let mut client = broker.connect();
        let wanted: Vec<_> = (0..PARTITIONS).map(|partition| ("t", partition, 0)).collect();
        let mut counts = |max_bytes, partition_max_bytes| {
            let mut request = fetch_request(&wanted).with_max_bytes(max_bytes);
            for topic in &mut request.topics {
                topic.partitions[0].partition_max_bytes = partition_max_bytes;
            }
            let response = client.call(11, &request);
            (0..PARTITIONS).map(|partition| values(&response, "t", partition).len()).collect::<Vec<_>>()
        };
        let each =
            |count| (0..PARTITIONS).map(|at| if has_records(at) { count } else { 0 }).collect::<Vec<_>>();
        assert_eq!(counts(1 << 20, 1 << 20), each(5));
        assert_eq!(counts(1 << 20, 25_000), each(2), "whole batches within the partition's limit");
        let of_request = counts(75_000, 1 << 20);
        assert_eq!(
            of_request.iter().sum::<usize>(),
            7,
            "whole batches within the request's limit: {of_request:?}"
        );
        let some = counts(75_000, 25_000);
        assert!((1..=7).contains(&some.iter().sum::<usize>()), "{some:?}");
        for (max_bytes, partition_max_bytes) in [(1, 1), (0, 0), (9_000, 5_000), (1, 1 << 20)] {
            let one = counts(max_bytes, partition_max_bytes);
            assert_eq!(one.iter().sum::<usize>(), 1, "one batch however small the limits are: {one:?}");
        }
        broker.restart();
    }
}

/// Such a fetch once waited for its whole `max.wait.ms`, each time.
#[test]
fn fetch_that_wants_more_than_it_is_granted_does_not_wait_for_it() {
    let broker = TestBroker::start(&[("queued.max.response.bytes", "1048576")]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let value = "x".repeat(50_000);
    for _ in 0..20 {
        client.produce("t", 0, -1, batch(&[&value]));
    }
    let request = fetch_request(&[("t", 0, 0)]).with_max_wait_ms(600_000).with_min_bytes(900_000);
    let response = client.call(11, &request);
    assert!(!values(&response, "t", 0).is_empty());
}

#[test]
fn request_behind_a_parked_fetch_waits_for_it() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let fetch = client.send(11, &fetch_request(&[("t", 0, 0)]).with_max_wait_ms(60_000));
    let produce = client.send(9, &produce_request("t", 1, vec![(0, batch(&["later"]))]));
    // Another client ends the wait; only then the produce behind it is begun.
    broker.connect().produce("t", 0, 1, batch(&["first"]));
    assert_eq!(values(&client.receive::<FetchRequest>(11, fetch), "t", 0), ["first"]);
    let response = client.receive::<highwater_protocol::messages::ProduceRequest>(9, produce);
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 1);
}

#[test]
fn follower_is_told_that_it_is_none() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let request = fetch_request(&[("t", 0, 0)]).with_replica_id(5.into());
    let response = broker.connect().call(11, &request);
    let partition = &response.responses[0].partitions[0];
    assert_eq!(ErrorCode(partition.error_code), ErrorCode::NOT_LEADER_OR_FOLLOWER);
}

/// The first partition has nothing, the first batch of the next is larger than what is asked of it, and is given in the end since it
/// is the first of all. Meanwhile those behind it are read, and hold what may be read at once of the disk.
#[test]
fn batch_that_turns_out_to_be_the_first_waits_for_no_reads_that_stand_still() {
    const PARTITIONS: i32 = 9;
    let mut broker = TestBroker::start(&[("num.shards", "1"), ("journal.file.bytes", "16777216")]);
    broker.create_topic("t", PARTITIONS, &[("max.message.bytes", "4000000")]);
    let mut client = broker.connect();
    let value = "v".repeat(1_500_000);
    client.produce("t", 1, -1, batch(&[&value]));
    for partition in 2..PARTITIONS {
        for _ in 0..8 {
            client.produce("t", partition, -1, batch(&[&value[..200_000]]));
        }
    }
    // Nothing is in memory then.
    broker.restart();
    let mut client = broker.connect();
    let partitions: Vec<(&str, i32, i64)> = (0..PARTITIONS).map(|partition| ("t", partition, 0)).collect();
    // Of a session, whose order is kept.
    let request = fetch_request(&partitions).with_max_bytes(20 << 20).with_session_epoch(0);
    for _ in 0..20 {
        let response = client.call(11, &request);
        let given = response.responses.iter().flat_map(|topic| &topic.partitions);
        let bytes = |data: &PartitionData| data.records.as_ref().map_or(0, Bytes::len);
        let first = given.clone().find(|data| data.partition_index == 1).expect("was asked for");
        assert!(bytes(first) > value.len());
        // While the start is still writing, no more than 4 MiB.
        assert!(given.map(bytes).sum::<usize>() > 3 << 20, "the others bring what they can");
    }
}

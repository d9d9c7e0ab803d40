use std::collections::VecDeque;

use bytes::Bytes;
use highwater_model::batch::ProducerStamp;
use highwater_model::compression::Compression;
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::{ProduceRequest, TransactionalId};

use crate::client::{Client, TestBroker, batch, batch_of, fetch_request, produce_request, stamp, values};

#[test]
fn batches_come_back_in_every_version() {
    let broker = TestBroker::start(&[]);
    let id = broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    for version in 3..=13 {
        let mut request = produce_request("t", -1, vec![(0, batch(&[&format!("v{version}")]))]);
        if version >= 13 {
            request.topic_data[0].name = Default::default();
            request.topic_data[0].topic_id = id;
        }
        let response = client.call(version, &request);
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!((answer.error_code, answer.base_offset), (0, i64::from(version) - 3), "version {version}");
        assert_eq!(answer.log_append_time_ms, -1, "a topic with CreateTime");
    }
    let expected: Vec<String> = (3..=13).map(|version| format!("v{version}")).collect();
    assert_eq!(client.fetch_values("t", 0, 0), expected);
}

#[test]
fn every_codec_is_stored_as_it_came() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let batch = batch_of(&[codec.name()], codec, ProducerStamp::NONE);
        assert_eq!(client.produce("t", 0, 1, batch).error_code, 0, "{codec:?}");
    }
    assert_eq!(client.fetch_values("t", 0, 0), ["gzip", "snappy", "lz4", "zstd"]);
}

#[test]
fn pipelined_batches_are_appended_and_answered_in_order() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 4, &[]);
    let mut client = broker.connect();
    let ids: Vec<i32> = (0..200)
        .map(|number| {
            let value = number.to_string();
            let batches = (0..4).map(|partition| (partition, batch(&[&value]))).collect();
            client.send(9, &produce_request("t", 1, batches))
        })
        .collect();
    for (number, id) in (0..).zip(ids) {
        let response = client.receive::<ProduceRequest>(9, id);
        for answer in &response.responses[0].partition_responses {
            assert_eq!((answer.error_code, answer.base_offset), (0, number));
        }
    }
    let expected: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    for partition in 0..4 {
        assert_eq!(client.fetch_values("t", partition, 0), expected);
    }
}

#[test]
fn acks_zero_is_not_answered_and_not_lost() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    client.send(9, &produce_request("t", 0, vec![(0, batch(&["silent"]))]));
    // The next answer is that of the next request.
    assert_eq!(client.produce("t", 0, 1, batch(&["loud"])).base_offset, 1);
    assert_eq!(client.fetch_values("t", 0, 0), ["silent", "loud"]);
}

#[test]
fn acks_zero_survives_the_end_of_its_connection() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    for number in 0..50 {
        client.send(9, &produce_request("t", 0, vec![(0, batch(&[&number.to_string()]))]));
    }
    drop(client);
    // A fetch that waits until all of them are there.
    let mut request = fetch_request(&[("t", 0, 0)]).with_max_wait_ms(10_000);
    request.min_bytes = i32::try_from(50 * batch(&["0"]).len()).expect("fits");
    let response = broker.connect().call(11, &request);
    assert_eq!(values(&response, "t", 0).len(), 50);
}

#[test]
fn acks_zero_that_fails_closes_the_connection() {
    let broker = TestBroker::start(&[]);
    let mut client = broker.connect();
    client.send(9, &produce_request("unknown", 0, vec![(0, batch(&["x"]))]));
    assert!(client.is_closed());
}

#[test]
fn refused_batches_have_kafkas_codes() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[("max.message.bytes", "1000")]);
    let mut client = broker.connect();
    let mut code = |topic: &str, partition, acks, batch: Bytes| {
        let answer = client.produce(topic, partition, acks, batch);
        assert_eq!(answer.base_offset, -1);
        ErrorCode(answer.error_code)
    };
    let good = || batch(&["x"]);
    assert_eq!(code("unknown", 0, 1, good()), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code("t", 7, 1, good()), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code("t", 0, 2, good()), ErrorCode::INVALID_REQUIRED_ACKS);
    assert_eq!(code("t", 0, 1, batch(&["x".repeat(1000).as_str()])), ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(code("t", 0, 1, Bytes::new()), ErrorCode::INVALID_RECORD);
    let two = Bytes::from([good(), good()].concat());
    assert_eq!(code("t", 0, 1, two), ErrorCode::INVALID_RECORD);
    let mut damaged = good().to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    assert_eq!(code("t", 0, 1, damaged.into()), ErrorCode::CORRUPT_MESSAGE);
    let cut = good().slice(..good().len() - 1);
    assert_eq!(code("t", 0, 1, cut), ErrorCode::INVALID_RECORD);
    for (magic, expected) in [(1, ErrorCode::INVALID_RECORD), (7, ErrorCode::CORRUPT_MESSAGE)] {
        let mut other = good().to_vec();
        other[16] = magic;
        assert_eq!(code("t", 0, 1, other.into()), expected);
    }
    assert_eq!(client.produce("t", 0, 1, good()).error_code, 0, "and a good one is still taken");
}

#[test]
fn unknown_topic_id_is_told_apart_from_an_unknown_name() {
    let broker = TestBroker::start(&[]);
    let mut request = produce_request("", 1, vec![(0, batch(&["x"]))]);
    request.topic_data[0].topic_id = uuid::Uuid::from_u128(99);
    let response = broker.connect().call(13, &request);
    let answer = &response.responses[0].partition_responses[0];
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNKNOWN_TOPIC_ID);
}

#[test]
fn one_bad_partition_does_not_spoil_the_others() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    let batches = vec![(0, batch(&["a"])), (9, batch(&["b"])), (1, batch(&["c"]))];
    let response = broker.connect().call(9, &produce_request("t", -1, batches));
    let codes: Vec<(i32, ErrorCode)> = response.responses[0]
        .partition_responses
        .iter()
        .map(|answer| (answer.index, ErrorCode(answer.error_code)))
        .collect();
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert_eq!(codes, [(0, ErrorCode::NONE), (9, unknown), (1, ErrorCode::NONE)]);
}

/// Requests name partitions of different shards in any order, and each waits for its place in all of them.
#[test]
fn requests_that_name_partitions_of_shards_in_opposite_orders_do_not_wait_for_each_other() {
    const CONNECTIONS: usize = 8;
    const REQUESTS: usize = 150;
    const IN_FLIGHT: usize = 5;
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 4, &[]);
    let address = broker.addr();
    let produce = |number: usize| {
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            let mut order: Vec<i32> = (0..4).collect();
            if number.is_multiple_of(2) {
                order.reverse();
            }
            let batches = order.iter().map(|partition| (*partition, batch(&["x"]))).collect();
            let request = produce_request("t", -1, batches);
            let mut sent = VecDeque::new();
            for _ in 0..REQUESTS {
                if sent.len() == IN_FLIGHT {
                    receive(&mut client, sent.pop_front().expect("not empty"));
                }
                sent.push_back(client.send(9, &request));
            }
            sent.into_iter().for_each(|id| receive(&mut client, id));
        })
    };
    let threads: Vec<_> = (0..CONNECTIONS).map(produce).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("all is answered"));
    let ends = broker.connect().fetch_values("t", 0, 0).len();
    assert_eq!(ends, CONNECTIONS * REQUESTS);
}

fn receive(client: &mut Client, correlation_id: i32) {
    let response = client.receive::<ProduceRequest>(9, correlation_id);
    let answers = &response.responses[0].partition_responses;
    assert!(answers.iter().all(|answer| answer.error_code == 0), "{answers:?}");
}

#[test]
fn idempotent_retry_is_answered_with_the_first_offset() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let first = batch_of(&["a", "b"], Compression::None, stamp(7, 0, 0));
    let second = batch_of(&["c"], Compression::None, stamp(7, 0, 2));
    assert_eq!(client.produce("t", 0, -1, first.clone()).base_offset, 0);
    assert_eq!(client.produce("t", 0, -1, second).base_offset, 2);
    let retried = client.produce("t", 0, -1, first);
    assert_eq!((retried.error_code, retried.base_offset), (0, 0));
    let gap = batch_of(&["z"], Compression::None, stamp(7, 0, 9));
    let refused = client.produce("t", 0, -1, gap);
    assert_eq!(ErrorCode(refused.error_code), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(client.fetch_values("t", 0, 0), ["a", "b", "c"]);
}

#[test]
fn time_of_appending_is_told_where_the_topic_stamps_it() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let answer = broker.connect().produce("t", 0, 1, batch(&["x"]));
    assert!(answer.log_append_time_ms > 1_700_000_000_000, "{answer:?}");
    // A retry is told the time of its original.
    let batch = batch_of(&["y"], Compression::None, stamp(7, 0, 0));
    let original = broker.connect().produce("t", 0, 1, batch.clone());
    let retried = broker.connect().produce("t", 0, 1, batch);
    assert_eq!((retried.base_offset, retried.error_code), (1, 0));
    assert_eq!(retried.log_append_time_ms, original.log_append_time_ms);
}

/// A batch of one record for each of these times, told in ms from now.
fn batch_from_now(times: &[i64], compression: Compression) -> Bytes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let now = i64::try_from(now.as_millis()).expect("before the year 292 million");
    let mut builder = highwater_model::batch::BatchBuilder::new(compression);
    for from_now in times {
        builder.push(&highwater_model::batch::NewRecord {
            timestamp: highwater_model::Timestamp(now + from_now),
            value: Some(b"x"),
            ..Default::default()
        });
    }
    builder.build(ProducerStamp::NONE).expect("a batch")
}

#[test]
fn records_too_far_from_now_are_refused_with_their_batch() {
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    let broker = TestBroker::start(&[]);
    let (before, after) =
        (("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "600000"));
    broker.create_topic("bounded", 1, &[before, after]);
    broker.create_topic("stamped", 1, &[before, after, ("message.timestamp.type", "LogAppendTime")]);
    broker.create_topic("default", 1, &[]);
    let code = |topic: &str, times: &[i64], compression| {
        ErrorCode(broker.connect().produce(topic, 0, -1, batch_from_now(times, compression)).error_code)
    };
    for compression in [Compression::None, Compression::Zstd] {
        for accepted in [0, -50 * MINUTE, 5 * MINUTE] {
            assert_eq!(code("bounded", &[accepted], compression), ErrorCode::NONE, "{accepted} ms from now");
        }
        for refused in [-70 * MINUTE, 15 * MINUTE] {
            assert_eq!(
                code("bounded", &[refused], compression),
                ErrorCode::INVALID_TIMESTAMP,
                "{refused} ms from now"
            );
            assert_eq!(
                code("bounded", &[0, refused, 0], compression),
                ErrorCode::INVALID_TIMESTAMP,
                "{refused} among others"
            );
            assert_eq!(
                code("stamped", &[refused], compression),
                ErrorCode::NONE,
                "the broker's own time counts"
            );
        }
        // Kafka 4's defaults: as old as they like, and an hour ahead.
        assert_eq!(code("default", &[-100_000 * HOUR], compression), ErrorCode::NONE);
        assert_eq!(code("default", &[50 * MINUTE], compression), ErrorCode::NONE);
        assert_eq!(code("default", &[2 * HOUR], compression), ErrorCode::INVALID_TIMESTAMP);
    }
    assert_eq!(
        broker.connect().fetch_values("bounded", 0, 0).len(),
        6,
        "nothing of what was refused is there"
    );
}

/// Kafka refuses it as well: consumers would see one time for all records.
#[test]
fn batch_that_claims_a_brokers_time_is_refused() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("created", 1, &[]);
    broker.create_topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let mut stamped = batch(&["x"]).to_vec();
    let size = stamped.len();
    highwater_model::batch::stamp_log_append_time(
        &mut stamped,
        size,
        highwater_model::Timestamp(1_700_000_000_000),
    );
    for topic in ["created", "stamped"] {
        let answer = broker.connect().produce(topic, 0, -1, stamped.clone().into());
        assert_eq!(ErrorCode(answer.error_code), ErrorCode::INVALID_TIMESTAMP, "{topic}");
    }
}

#[test]
fn transactional_batch_is_refused_since_nobody_began_a_transaction() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut builder = highwater_model::batch::BatchBuilder::new(Compression::None).transactional();
    builder.push(&highwater_model::batch::NewRecord { value: Some(b"x"), ..Default::default() });
    let batch = builder.build(stamp(7, 0, 0)).expect("a batch");
    let mut request = produce_request("t", -1, vec![(0, batch)]);
    let code = |request: &ProduceRequest| {
        ErrorCode(broker.connect().call(9, request).responses[0].partition_responses[0].error_code)
    };
    assert_eq!(code(&request), ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    request.transactional_id = Some(TransactionalId("t".into()));
    assert_eq!(code(&request), ErrorCode::INVALID_TXN_STATE);
}

#[test]
fn partition_needs_no_more_in_sync_replicas_than_it_has() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[("min.insync.replicas", "2")]);
    assert_eq!(broker.connect().produce("t", 0, -1, batch(&["x"])).error_code, 0);
}

//! The handles on real sockets, over both runtimes, against a model broker.

#![cfg(feature = "tokio")]

mod support;

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use highwater_client::adaptor::{Admin, Backend, Consumer, IoThread, Producer, SendError};
use highwater_client::admin::{CreateTopics, DescribeCluster, NewTopic, Target};
use highwater_client::consumer::{ConsumerEvent, StartAt};
use highwater_client::producer::{
    AppendError, Appended, FailureReason, Outcome, ProduceError, ProducerRecord,
};
use highwater_client::{Acks, ClientConfig, ConsumerConfig, ErrorCode, HostPort, Partition, ProducerConfig};
use highwater_model::compression::Compression;
use highwater_model::{PartitionIndex, Timestamp};
use support::tcp::TcpBroker;

/// Every runtime that this machine allows.
fn runtimes() -> Vec<IoThread> {
    let auto = IoThread::start(Backend::Auto).expect("some runtime is there");
    let mut all = vec![IoThread::start(Backend::Tokio).expect("tokio is always there")];
    if auto.backend() == Backend::Uring {
        all.push(auto);
    }
    all
}

fn servers(port: u16) -> Vec<HostPort> {
    vec![HostPort { host: "127.0.0.1".to_owned(), port }]
}

fn producer(
    io: &IoThread,
    port: u16,
    change: impl FnOnce(&mut ProducerConfig),
) -> (Producer, Receiver<(u64, Outcome)>) {
    let mut config = ProducerConfig::new(servers(port));
    change(&mut config);
    let (sender, receiver) = channel();
    let producer = Producer::start(io, config, 1, move |delivery| {
        for token in &delivery.tokens {
            // The test may have seen enough.
            let _ = sender.send((*token, delivery.outcome));
        }
    });
    (producer.expect("settings of the test"), receiver)
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn what_is_produced_is_consumed_with_every_codec_and_acks() {
    let codecs =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for io in runtimes() {
        let broker = TcpBroker::start(0, 3).expect("a port");
        let mut sent = 0u64;
        for codec in codecs {
            for acks in [Acks::None, Acks::Leader, Acks::All] {
                let (producer, outcomes) = producer(&io, broker.port(), |config| {
                    config.compression = codec;
                    config.acks = acks;
                    config.enable_idempotence = acks == Acks::All;
                });
                let topic = producer.topic("t");
                for _ in 0..200 {
                    let value = sent.to_be_bytes().repeat(40);
                    let record =
                        ProducerRecord { token: sent, ..ProducerRecord::new(topic, Timestamp(1), &value) };
                    producer.send(&record).expect("accepted");
                    sent += 1;
                }
                assert!(producer.flush(LONG));
                assert!(producer.close(LONG));
                let outcomes: Vec<_> = outcomes.iter().collect();
                assert_eq!(outcomes.len(), 200);
                assert!(outcomes.iter().all(|(_, outcome)| match acks {
                    Acks::None => *outcome == Outcome::Sent,
                    _ => matches!(outcome, Outcome::Acked { base_offset: Some(_), .. }),
                }));
            }
        }
        // What acks=0 has sent may still be on its way.
        assert_eq!(consume(&io, broker.port(), sent), (0..sent).collect::<Vec<_>>());
    }
}

/// Reads until `count` records have come, and returns the numbers in them, sorted.
fn consume(io: &IoThread, port: u16, count: u64) -> Vec<u64> {
    let consumer = Consumer::start(io, ConsumerConfig::new(servers(port)), 1).expect("settings of the test");
    let topic = consumer.topic("t");
    let partitions = consumer.partition_count(topic, LONG).expect("known");
    for index in 0..partitions {
        consumer.assign(Partition { topic, index: PartitionIndex(index) }, StartAt::Earliest);
    }
    let mut numbers = Vec::new();
    while (numbers.len() as u64) < count {
        match consumer.poll(LONG).expect("more is to come") {
            ConsumerEvent::Records(records) => {
                for batch in records.batches() {
                    let batch = batch.expect("valid");
                    numbers.extend(batch.records().map(|record| {
                        let value = record.expect("valid").value().expect("a value").to_vec();
                        u64::from_be_bytes(*value.first_chunk().expect("a number"))
                    }));
                }
            }
            ConsumerEvent::Positioned { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    numbers.sort_unstable();
    numbers
}

#[test]
fn connections_that_are_cut_lose_and_duplicate_nothing() {
    for io in runtimes() {
        let broker = TcpBroker::start(0, 3).expect("a port");
        let (producer, outcomes) = producer(&io, broker.port(), |config| {
            config.linger = Duration::ZERO;
            config.batch_size_bytes = 2000;
            config.client.retry_backoff = Duration::from_millis(5);
            config.client.reconnect_backoff = Duration::from_millis(5);
        });
        let topic = producer.topic("t");
        for token in 0..3000u64 {
            let value = token.to_be_bytes().repeat(8);
            let record = ProducerRecord { token, ..ProducerRecord::new(topic, Timestamp(1), &value) };
            producer.send(&record).expect("accepted");
            if token % 300 == 299 {
                broker.cut();
            }
        }
        assert!(producer.close(LONG));
        let acked = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Acked { .. })).count();
        assert_eq!(acked, 3000);
        assert_eq!(consume(&io, broker.port(), 3000), (0..3000).collect::<Vec<_>>());
    }
}

#[test]
fn send_blocks_for_max_block_and_no_longer() {
    for io in runtimes() {
        // Nobody listens there: no metadata will ever come.
        let port = TcpBroker::start(0, 1).expect("a port").port();
        let max_block = Duration::from_millis(200);
        let (producer, _outcomes) = producer(&io, port, |config| config.max_block = max_block);
        let topic = producer.topic("t");
        let started = Instant::now();
        let error = producer.send(&ProducerRecord::new(topic, Timestamp(1), b"v")).expect_err("no broker");
        assert_eq!(error, SendError::Blocked(AppendError::NoMetadata));
        assert!(started.elapsed() >= max_block);
    }
}

#[test]
fn send_waits_for_memory_that_deliveries_free() {
    for io in runtimes() {
        let broker = TcpBroker::start(0, 1).expect("a port");
        let (producer, outcomes) = producer(&io, broker.port(), |config| {
            config.buffer_memory_bytes = 3000;
            config.batch_size_bytes = 1000;
        });
        let topic = producer.topic("t");
        for token in 0..500 {
            let record = ProducerRecord { token, ..ProducerRecord::new(topic, Timestamp(1), &[0; 600]) };
            producer.send(&record).expect("accepted in the end");
        }
        assert!(producer.stats().buffer_exhausted > 0, "it did have to wait");
        assert!(producer.close(LONG));
        assert_eq!(outcomes.iter().count(), 500);
    }
}

#[test]
fn dropped_producer_says_what_was_never_sent() {
    for io in runtimes() {
        let broker = TcpBroker::start(0, 1).expect("a port");
        let (producer, outcomes) =
            producer(&io, broker.port(), |config| config.linger = Duration::from_secs(60));
        let topic = producer.topic("t");
        producer.send(&ProducerRecord::new(topic, Timestamp(1), b"v")).expect("accepted");
        drop(producer);
        let (_, outcome) = outcomes.recv_timeout(LONG).expect("an outcome");
        let error = ProduceError { reason: FailureReason::Closed, appended: Appended::NeverSent };
        assert_eq!(outcome, Outcome::Failed(error));
        assert!(broker.lock().partition("t", 0).log.is_empty());
    }
}

#[test]
fn administrator_gets_answers_and_times_out() {
    for io in runtimes() {
        let broker = TcpBroker::start(0, 1).expect("a port");
        let admin = Admin::start(&io, &ClientConfig::new(servers(broker.port())), 1).expect("settings");
        let topic = NewTopic {
            name: "new".to_owned(),
            partition_count: 4,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: Vec::new(),
        };
        let create = CreateTopics { topics: vec![topic], timeout: LONG };
        assert_eq!(admin.call(create.clone(), LONG).expect("answered"), [("new".to_owned(), Ok(()))]);
        let again = admin.call(create.clone(), LONG).expect("answered");
        let code = again[0].1.as_ref().map_err(|error| error.code);
        assert_eq!(code, Err(ErrorCode::TOPIC_ALREADY_EXISTS));
        let describe = DescribeCluster { topics: Some(vec!["new".to_owned()]), target: Target::Controller };
        let cluster = admin.call(describe, LONG).expect("answered");
        assert_eq!(cluster.topics[0].partitions.as_ref().map(Vec::len), Ok(4));
        drop(broker);
        let late = admin.call(create, Duration::from_millis(100)).expect_err("nobody answers");
        assert_eq!(late, highwater_client::admin::AdminError::TimedOut);
    }
}

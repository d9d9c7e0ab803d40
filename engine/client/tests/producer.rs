//! What a producer does when, setting by setting, told by a script.

mod support;

use std::time::Duration;

use highwater_client::producer::{
    AppendError, Appended, Delivery, FailureReason, Outcome, ProduceError, ProducerCore, ProducerRecord,
};
use highwater_client::{Acks, Core, ErrorCode, MonoTime, Partition, ProducerConfig, parse_bootstrap_servers};
use highwater_model::compression::Compression;
use highwater_model::{Offset, PartitionIndex, Timestamp};
use highwater_protocol::codec::Request as _;
use highwater_protocol::messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest};
use support::net::Net;
use support::{Fault, ModelCluster};

struct Bench {
    core: ProducerCore,
    cluster: ModelCluster,
    net: Net,
    now: MonoTime,
}

impl Bench {
    /// A producer that has its metadata and its producer id.
    fn new(change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let mut cluster = ModelCluster::new(2);
        cluster.create_topic("t", 2);
        Bench::on(cluster, change)
    }

    fn on(cluster: ModelCluster, change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let mut config = ProducerConfig::new(parse_bootstrap_servers("broker-1:9092").expect("well formed"));
        config.linger = Duration::ZERO;
        change(&mut config);
        let core = ProducerCore::new(config, 1).expect("settings of the test");
        let mut bench = Bench { core, cluster, net: Net::default(), now: MonoTime(0) };
        bench.core.topic("t");
        bench.settle();
        bench
    }

    fn settle(&mut self) {
        self.net.settle(&mut self.core, &mut self.cluster, self.now);
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    /// Lets time pass until nothing is due any more or `until` is reached.
    fn run_until(&mut self, until: MonoTime) {
        loop {
            self.settle();
            let wake = self.core.wake_at();
            if wake > until {
                return;
            }
            self.now = self.now.max(wake);
        }
    }

    fn append(&mut self, partition: i32, token: u64, value: &[u8]) -> Result<bool, AppendError> {
        let topic = self.core.topic("t");
        let record = ProducerRecord {
            partition: Some(PartitionIndex(partition)),
            token,
            ..ProducerRecord::new(topic, Timestamp(5), value)
        };
        self.core.append(&record, self.now).map(|info| info.wake)
    }

    fn deliveries(&mut self) -> Vec<Delivery> {
        std::iter::from_fn(|| self.core.pop_delivery()).collect()
    }

    fn outcomes(&mut self) -> Vec<(u64, Outcome)> {
        self.deliveries()
            .into_iter()
            .flat_map(|delivery| delivery.tokens.into_iter().map(move |token| (token, delivery.outcome)))
            .collect()
    }

    fn failures(&mut self) -> Vec<(u64, FailureReason, Appended)> {
        self.outcomes()
            .into_iter()
            .filter_map(|(token, outcome)| match outcome {
                Outcome::Failed(ProduceError { reason, appended }) => Some((token, reason, appended)),
                _ => None,
            })
            .collect()
    }

    /// Moves everything until produce requests are on the wire that no broker has read.
    fn send_only(&mut self) {
        self.net.settle_except(&mut self.core, &mut self.cluster, self.now, &[ProduceRequest::KEY]);
    }

    /// Lets brokers read what was sent, with a fault, and the client their answers.
    fn with_fault(&mut self, fault: Fault) {
        self.send_only();
        for connection in self.net.links.keys().copied().collect::<Vec<_>>() {
            self.net.deliver_to_broker(connection, &mut self.cluster, |_, _| fault);
            self.net.deliver_to_client(connection, &mut self.core, self.now);
        }
    }

    fn values(&mut self, partition: i32) -> Vec<Vec<u8>> {
        self.cluster.partition("t", partition).records().into_iter().map(|(_, value)| value).collect()
    }

    fn batches(&mut self, partition: i32) -> usize {
        self.cluster.partition("t", partition).log.len()
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn record_lingers_and_shares_its_batch_until_linger_has_passed() {
    let mut bench = Bench::new(|config| config.linger = 10 * MS);
    bench.append(0, 1, b"a").expect("room");
    bench.pass(9 * MS);
    bench.append(0, 2, b"b").expect("room");
    bench.settle();
    assert_eq!(bench.batches(0), 0, "still lingering");
    bench.pass(MS);
    bench.settle();
    assert_eq!((bench.batches(0), bench.values(0)), (1, vec![b"a".to_vec(), b"b".to_vec()]));
    let deliveries = bench.deliveries();
    let records: Vec<_> = deliveries[0].records().collect();
    assert_eq!(records, [(1, Some(Offset(0))), (2, Some(Offset(1)))]);
}

#[test]
fn full_batch_does_not_linger() {
    let mut bench = Bench::new(|config| {
        config.linger = Duration::from_secs(5);
        config.batch_size_bytes = 500;
    });
    assert_eq!(bench.append(0, 1, &[0; 300]), Ok(true), "a new batch");
    assert_eq!(bench.append(0, 2, &[0; 50]), Ok(false), "nothing new to do");
    assert_eq!(bench.append(0, 3, &[0; 300]), Ok(true), "the first is full");
    bench.settle();
    assert_eq!(bench.batches(0), 1);
    assert_eq!(bench.outcomes().len(), 2);
}

#[test]
fn linger_0_sends_at_once_and_batches_while_requests_are_in_flight() {
    let mut bench = Bench::new(|config| config.max_in_flight = 1);
    for token in 0..10 {
        bench.append(0, token, b"v").expect("room");
        bench.send_only();
    }
    bench.settle();
    assert_eq!(bench.batches(0), 2, "one alone, the others together");
}

#[test]
fn batch_size_0_makes_every_record_a_batch() {
    let mut bench = Bench::new(|config| config.batch_size_bytes = 0);
    for token in 0..5 {
        bench.append(0, token, b"v").expect("room");
    }
    bench.settle();
    assert_eq!((bench.batches(0), bench.outcomes().len()), (5, 5));
}

#[test]
fn full_buffer_refuses_sends_what_lingers_and_accepts_again() {
    let mut bench = Bench::new(|config| {
        config.linger = Duration::from_secs(5);
        config.batch_size_bytes = 1000;
        config.buffer_memory_bytes = 2500;
    });
    bench.append(0, 1, b"a").expect("room");
    bench.append(1, 2, b"b").expect("room");
    bench.append(0, 3, &[0; 900]).expect_err("the buffer is full");
    bench.settle();
    assert_eq!(bench.batches(1), 1, "what lingered has gone");
    assert_eq!(bench.outcomes().len(), 2);
    bench.append(0, 3, &[0; 900]).expect("room again");
    bench.settle();
    assert_eq!(bench.values(0).len(), 1, "and now it lingers");
    assert_eq!(bench.core.stats().buffer_exhausted, 1);
}

#[test]
fn record_above_max_request_size_is_refused_for_good() {
    let mut bench = Bench::new(|config| config.max_request_size_bytes = 1000);
    let error = bench.append(0, 1, &[0; 1000]).expect_err("too large");
    assert!(matches!(error, AppendError::TooLarge { limit_bytes: 1000, .. }) && !error.passes());
    bench.append(0, 1, &[0; 800]).expect("fits");
}

#[test]
fn requests_carry_many_partitions_up_to_max_request_size() {
    let mut cluster = ModelCluster::new(1);
    cluster.create_topic("t", 8);
    let mut bench = Bench::on(cluster, |config| {
        config.max_request_size_bytes = 1000;
        config.linger = 5 * MS;
    });
    for index in 0..8 {
        bench.append(index, 0, &[0; 300]).expect("room");
    }
    bench.pass(5 * MS);
    let before = bench.core.stats().requests;
    bench.settle();
    assert_eq!(bench.outcomes().len(), 8);
    assert_eq!(bench.core.stats().requests - before, 4, "two batches of 370 bytes a request");
}

#[test]
fn retriable_error_is_retried_and_a_fatal_one_is_not() {
    let mut bench = Bench::new(|_| {});
    bench.append(0, 1, b"a").expect("room");
    bench.with_fault(Fault::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS));
    assert!(bench.outcomes().is_empty());
    bench.run_until(bench.now + 500 * MS);
    assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]));
    bench.append(0, 2, b"b").expect("room");
    bench.with_fault(Fault::Refuse(ErrorCode::INVALID_RECORD));
    let reason = FailureReason::Broker(ErrorCode::INVALID_RECORD);
    assert_eq!(bench.failures(), [(2, reason, Appended::No)]);
    assert!(!reason.is_retriable());
}

#[test]
fn lost_answer_is_retried_without_a_duplicate_and_with_one_if_not_idempotent() {
    for idempotent in [true, false] {
        let mut bench = Bench::new(|config| config.enable_idempotence = idempotent);
        bench.append(0, 1, b"a").expect("room");
        bench.with_fault(Fault::AppendThen(ErrorCode::REQUEST_TIMED_OUT));
        bench.run_until(bench.now + 500 * MS);
        let outcomes = bench.outcomes();
        let offset = if idempotent { 0 } else { 1 };
        let acked = Outcome::Acked { base_offset: Some(Offset(offset)), log_append_time: None };
        assert_eq!(outcomes, [(1, acked)], "idempotent: {idempotent}");
        assert_eq!(bench.values(0).len(), if idempotent { 1 } else { 2 });
    }
}

#[test]
fn delivery_timeout_ends_retries_and_says_what_is_known() {
    let timeout = Duration::from_secs(40);
    for (fault, appended) in [
        (Fault::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS), Appended::No),
        (Fault::AppendThen(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND), Appended::Unknown),
    ] {
        let mut bench = Bench::new(|config| config.delivery_timeout = timeout);
        bench.append(0, 1, b"a").expect("room");
        let until = bench.now + timeout;
        while bench.now < until {
            bench.with_fault(fault);
            bench.now = bench.core.wake_at().min(until);
        }
        bench.with_fault(fault);
        let failures = bench.failures();
        assert!(
            matches!(failures[..], [(1, FailureReason::DeliveryTimeout { last: Some(_) }, told)] if told == appended),
            "{failures:?}"
        );
        assert!(bench.core.stats().batch_retries > 30);
    }
}

#[test]
fn retries_are_counted() {
    let mut bench = Bench::new(|config| {
        config.enable_idempotence = false;
        config.retries = 2;
    });
    bench.append(0, 1, b"a").expect("room");
    for _ in 0..3 {
        assert!(bench.outcomes().is_empty());
        bench.with_fault(Fault::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS));
        bench.pass(Duration::from_secs(2));
    }
    let reason = FailureReason::Broker(ErrorCode::NOT_ENOUGH_REPLICAS);
    assert_eq!(bench.failures(), [(1, reason, Appended::No)]);
}

#[test]
fn moved_leader_is_found_by_metadata() {
    let mut bench = Bench::new(|_| {});
    bench.cluster.partition("t", 0).leader = 2;
    bench.cluster.partition("t", 0).leader_epoch = 1;
    bench.append(0, 1, b"a").expect("room");
    bench.run_until(bench.now + Duration::from_secs(1));
    assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]));
}

#[test]
fn batch_that_is_too_large_is_split_until_it_fits() {
    for compression in [Compression::None, Compression::Zstd] {
        let mut bench = Bench::new(|config| {
            config.batch_size_bytes = 100_000;
            config.linger = 5 * MS;
            config.compression = compression;
        });
        bench.cluster.max_message_bytes = 700;
        let mut noise = 1u32;
        for token in 0..20 {
            let value: Vec<u8> = (0..200)
                .map(|_| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (noise >> 24) as u8
                })
                .collect();
            bench.append(0, token, &value).expect("room");
        }
        bench.run_until(bench.now + Duration::from_secs(5));
        let outcomes = bench.outcomes();
        assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Acked { .. })));
        assert_eq!(outcomes.iter().map(|(token, _)| *token).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert!(bench.core.stats().batch_splits > 0);
    }
}

#[test]
fn single_record_that_is_too_large_fails() {
    let mut bench = Bench::new(|_| {});
    bench.cluster.max_message_bytes = 100;
    bench.append(0, 1, &[0; 200]).expect("room");
    bench.settle();
    let reason = FailureReason::Broker(ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(bench.failures(), [(1, reason, Appended::No)]);
}

#[test]
fn acks_0_is_done_when_sent_and_has_no_offset() {
    let mut bench = Bench::new(|config| {
        config.acks = Acks::None;
        config.enable_idempotence = false;
    });
    bench.append(0, 1, b"a").expect("room");
    bench.send_only();
    assert_eq!(bench.outcomes(), [(1, Outcome::Sent)], "before the broker has read it");
    bench.settle();
    assert_eq!(bench.values(0), [b"a"]);
    bench.append(0, 2, b"b").expect("room");
    bench.with_fault(Fault::Refuse(ErrorCode::INVALID_RECORD));
    assert_eq!(bench.outcomes(), [(2, Outcome::Sent)], "nobody says that it failed");
}

#[test]
fn abort_tells_what_was_never_sent_from_what_may_be_there() {
    let mut bench = Bench::new(|config| config.linger = Duration::from_secs(5));
    bench.append(0, 1, b"a").expect("room");
    let mark = bench.core.flush(bench.now);
    bench.send_only();
    bench.append(1, 2, b"b").expect("room");
    assert!(!bench.core.is_flushed(mark));
    bench.core.abort();
    let mut failures = bench.failures();
    failures.sort_by_key(|(token, ..)| *token);
    let closed = FailureReason::Closed;
    assert_eq!(failures, [(1, closed, Appended::Unknown), (2, closed, Appended::NeverSent)]);
    assert_eq!(bench.append(0, 3, b"c"), Err(AppendError::Closed));
}

#[test]
fn flush_waits_for_what_came_before_it_only() {
    let mut bench = Bench::new(|config| config.linger = Duration::from_secs(5));
    bench.append(0, 1, b"a").expect("room");
    let mark = bench.core.flush(bench.now);
    bench.settle();
    assert!(bench.core.is_flushed(mark));
    bench.append(0, 2, b"b").expect("room");
    assert!(bench.core.is_flushed(mark) && !bench.core.is_drained());
    bench.settle();
    assert_eq!(bench.values(0).len(), 1, "what came after lingers");
    bench.core.close(bench.now);
    bench.settle();
    assert!(bench.core.is_drained());
}

#[test]
fn broker_that_never_answers_costs_its_connection_and_no_more() {
    let mut bench = Bench::new(|_| {});
    bench.append(0, 1, b"a").expect("room");
    bench.send_only();
    let connects = bench.net.connects;
    bench.net.links.values_mut().for_each(|link| link.to_broker.clear());
    bench.pass(Duration::from_secs(30));
    bench.run_until(bench.now + Duration::from_secs(1));
    assert!(bench.net.connects > connects);
    assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]));
}

#[test]
fn unreachable_broker_is_tried_with_backoff_and_bootstrap_servers_again() {
    let mut bench = Bench::new(|_| {});
    let connections: Vec<_> = bench.net.links.keys().copied().collect();
    connections.iter().for_each(|c| bench.net.cut(*c, &mut bench.core, bench.now, false));
    bench.append(0, 1, b"a").expect("room");
    let (connects, until) = (bench.net.connects, bench.now + Duration::from_secs(10));
    while bench.now < until {
        bench.net.perform(&mut bench.core, &bench.cluster, bench.now, |_| false);
        bench.now = bench.core.wake_at();
    }
    let attempts = bench.net.connects - connects;
    assert!(
        (10..=60).contains(&attempts),
        "{attempts} attempts in 10 s at two brokers and a bootstrap server"
    );
    bench.run_until(bench.now + Duration::from_secs(3));
    assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]));
}

#[test]
fn every_produce_version_works() {
    for version in 3..=13 {
        let mut cluster = ModelCluster::new(2);
        cluster.create_topic("t", 2);
        cluster.max_versions.insert(ProduceRequest::KEY, version);
        let mut bench = Bench::on(cluster, |_| {});
        bench.append(0, 1, b"a").expect("room");
        bench.settle();
        assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]), "version {version}");
    }
}

#[test]
fn metadata_without_topic_ids_makes_produce_speak_of_names() {
    for metadata_version in [1, 4, 9] {
        let mut cluster = ModelCluster::new(1);
        cluster.create_topic("t", 1);
        cluster.topics.get_mut("t").expect("created").id = uuid::Uuid::nil();
        cluster.max_versions.insert(MetadataRequest::KEY, metadata_version);
        let mut bench = Bench::on(cluster, |config| config.client.allow_auto_create_topics = true);
        bench.append(0, 1, b"a").expect("room");
        bench.settle();
        assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]), "version {metadata_version}");
    }
}

#[test]
fn broker_that_knows_only_old_api_versions_is_asked_again() {
    for known in [0, 2] {
        let mut cluster = ModelCluster::new(1);
        cluster.create_topic("t", 1);
        cluster.max_api_versions = known;
        cluster.max_versions.insert(ApiVersionsRequest::KEY, known);
        let mut bench = Bench::on(cluster, |_| {});
        bench.append(0, 1, b"a").expect("room");
        bench.settle();
        assert!(matches!(bench.outcomes()[..], [(1, Outcome::Acked { .. })]), "ApiVersions {known}");
    }
}

#[test]
fn unknown_topic_is_waited_for_and_found_when_it_appears() {
    let cluster = ModelCluster::new(1);
    let mut bench = Bench::on(cluster, |_| {});
    assert_eq!(bench.append(0, 1, b"a"), Err(AppendError::NoMetadata));
    bench.cluster.create_topic("t", 1);
    bench.run_until(bench.now + Duration::from_secs(2));
    bench.append(0, 1, b"a").expect("known by now");
    assert_eq!(bench.append(5, 2, b"a"), Err(AppendError::NoMetadata), "no such partition");
}

#[test]
fn keys_choose_partitions_as_kafka_does_and_no_key_sticks_for_a_batch() {
    let mut cluster = ModelCluster::new(1);
    cluster.create_topic("t", 7);
    let mut bench = Bench::on(cluster, |config| config.batch_size_bytes = 300);
    let topic = bench.core.topic("t");
    let keyed = ProducerRecord { key: Some(b"21"), ..ProducerRecord::new(topic, Timestamp(0), b"v") };
    let info = bench.core.append(&keyed, bench.now).expect("room");
    assert_eq!(info.partition, Partition { topic, index: PartitionIndex((-973_932_308 & i32::MAX) % 7) });
    let mut visited = Vec::new();
    for _ in 0..60 {
        let record = ProducerRecord::new(topic, Timestamp(0), &[0; 100]);
        let index = bench.core.append(&record, bench.now).expect("room").partition.index.0;
        visited.push(index);
        bench.settle();
    }
    visited.dedup();
    assert!((5..=30).contains(&visited.len()), "moves on after a batch's worth: {visited:?}");
}

//! What a consumer reads, told by scripts, and under lost connections, moving leaders and a log whose start moves.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use highwater_client::consumer::{ConsumerCore, ConsumerError, ConsumerEvent, FetchedRecords, StartAt};
use highwater_client::{
    AutoOffsetReset, ConsumerConfig, ErrorCode, IsolationLevel, MonoTime, Partition, parse_bootstrap_servers,
};
use highwater_model::batch::{self, BatchBuilder, BatchError, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, Timestamp};
use highwater_protocol::codec::Request as _;
use highwater_protocol::messages::FetchRequest;
use proptest::prelude::*;
use support::ModelCluster;
use support::net::Net;

struct Bench {
    core: ConsumerCore,
    cluster: ModelCluster,
    net: Net,
    now: MonoTime,
}

const CONTROL: i16 = 0x20;

/// A batch of `values` as a leader has stored it.
fn stored(values: &[&[u8]], compression: Compression, base_offset: i64, producer: Option<i64>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression);
    if producer.is_some() {
        builder = builder.transactional();
    }
    for value in values {
        builder.push(&NewRecord {
            timestamp: Timestamp(1000 + base_offset),
            key: Some(b"k"),
            value: Some(value),
            headers: &[("h", Some(b"x"))],
        });
    }
    let stamp = producer.map_or(ProducerStamp::NONE, |id| ProducerStamp {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(0),
    });
    let mut bytes = builder.build(stamp).expect("records").to_vec();
    batch::stamp(&mut bytes, Offset(base_offset), LeaderEpoch(0));
    bytes
}

impl Bench {
    fn new(change: impl FnOnce(&mut ConsumerConfig)) -> Self {
        let mut cluster = ModelCluster::new(2);
        cluster.create_topic("t", 4);
        Bench::on(cluster, change)
    }

    fn on(cluster: ModelCluster, change: impl FnOnce(&mut ConsumerConfig)) -> Self {
        let mut config = ConsumerConfig::new(parse_bootstrap_servers("broker-1:9092").expect("well formed"));
        config.auto_offset_reset = AutoOffsetReset::Earliest;
        change(&mut config);
        let mut core = ConsumerCore::new(config, 1).expect("settings of the test");
        core.topic("t");
        Bench { core, cluster, net: Net::default(), now: MonoTime(0) }
    }

    fn partition(&mut self, index: i32) -> Partition {
        Partition { topic: self.core.topic("t"), index: PartitionIndex(index) }
    }

    fn assign(&mut self, index: i32, start: StartAt) {
        let partition = self.partition(index);
        self.core.assign(partition, start);
    }

    fn store(&mut self, index: i32, batch: Vec<u8>) {
        let header = batch::verify(&batch).expect("valid");
        let partition = self.cluster.partition("t", index);
        partition.next_offset = header.next_offset().0;
        partition.log.push(Bytes::from(batch));
    }

    fn append(&mut self, index: i32, values: &[&[u8]], compression: Compression) {
        let base_offset = self.cluster.partition("t", index).next_offset;
        self.store(index, stored(values, compression, base_offset, None));
    }

    /// Everything that can be read now. Brokers answer a fetch that finds nothing at once, so that time has to pass.
    fn read(&mut self) -> Vec<ConsumerEvent> {
        let mut events = Vec::new();
        for _ in 0..20 {
            self.net.perform(&mut self.core, &self.cluster, self.now, |_| true);
            for connection in self.net.links.keys().copied().collect::<Vec<_>>() {
                self.net.deliver_to_broker(connection, &mut self.cluster, |_, _| support::Fault::None);
                self.net.deliver_to_client(connection, &mut self.core, self.now);
            }
            events.extend(std::iter::from_fn(|| self.core.pop_event()));
            self.now = self.now + Duration::from_millis(60);
        }
        events
    }
}

fn values(records: &FetchedRecords) -> Vec<(i64, Vec<u8>)> {
    let mut all = Vec::new();
    for batch in records.batches() {
        let batch = batch.expect("a valid batch");
        for record in batch.records() {
            let record = record.expect("a valid record");
            let value = record.value().expect("a value");
            assert_eq!(batch.share(value), value, "shared, not copied");
            all.push((record.offset.0, value.to_vec()));
        }
    }
    all
}

fn all_values(events: &[ConsumerEvent]) -> Vec<(i64, Vec<u8>)> {
    (events.iter())
        .filter_map(|event| match event {
            ConsumerEvent::Records(records) => Some(values(records)),
            _ => None,
        })
        .flatten()
        .collect()
}

fn offsets(events: &[ConsumerEvent]) -> Vec<i64> {
    all_values(events).into_iter().map(|(offset, _)| offset).collect()
}

#[test]
fn every_codec_and_every_fetch_version_is_read() {
    let codecs =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for version in 4..=18 {
        let mut cluster = ModelCluster::new(2);
        cluster.create_topic("t", 4);
        cluster.max_versions.insert(FetchRequest::KEY, version);
        let mut bench = Bench::on(cluster, |_| {});
        for codec in codecs {
            bench.append(1, &[b"first", codec.name().as_bytes()], codec);
        }
        bench.assign(1, StartAt::Earliest);
        let read = all_values(&bench.read());
        assert_eq!(read.len(), 10, "version {version}");
        assert_eq!(read[9], (9, b"zstd".to_vec()));
        let partition = bench.partition(1);
        assert_eq!(bench.core.watermarks(partition).expect("told").high_watermark, Offset(10));
        assert_eq!(bench.core.position(partition), Some(Offset(10)));
    }
}

#[test]
fn record_has_key_timestamp_and_headers() {
    let mut bench = Bench::new(|_| {});
    bench.append(0, &[b"v"], Compression::None);
    bench.assign(0, StartAt::Offset(Offset(0)));
    let events = bench.read();
    let Some(ConsumerEvent::Records(records)) = events.first() else { panic!("{events:?}") };
    let batch = records.batches().next().expect("a batch").expect("valid");
    let record = batch.records().next().expect("a record").expect("valid");
    assert_eq!((record.key(), record.timestamp), (Some(&b"k"[..]), Timestamp(1000)));
    let headers: Vec<_> = record.headers().map(|header| header.expect("valid")).collect();
    assert_eq!(headers, [(&b"h"[..], Some(&b"x"[..]))]);
}

#[test]
fn start_may_be_earliest_latest_or_an_offset_inside_a_batch() {
    for (start, expected) in [
        (StartAt::Earliest, vec![0, 1, 2, 3]),
        (StartAt::Offset(Offset(1)), vec![1, 2, 3]),
        (StartAt::Latest, vec![3]),
    ] {
        let mut bench = Bench::new(|_| {});
        bench.append(0, &[b"0", b"1", b"2"], Compression::None);
        bench.assign(0, start);
        let mut events = bench.read();
        bench.append(0, &[b"3"], Compression::None);
        events.extend(bench.read());
        assert_eq!(offsets(&events), expected, "{start:?}");
    }
}

#[test]
fn position_outside_of_the_log_is_reset_as_told() {
    for (policy, expected) in [
        (AutoOffsetReset::Earliest, vec![1, 2]),
        (AutoOffsetReset::Latest, vec![]),
        (AutoOffsetReset::None, vec![]),
    ] {
        let mut bench = Bench::new(|config| config.auto_offset_reset = policy);
        bench.append(0, &[b"0"], Compression::None);
        bench.append(0, &[b"1", b"2"], Compression::None);
        bench.cluster.partition("t", 0).log.remove(0);
        bench.cluster.partition("t", 0).log_start_offset = 1;
        bench.assign(0, StartAt::Offset(Offset(0)));
        let events = bench.read();
        assert_eq!(offsets(&events), expected, "{policy:?}");
        let told = |event: &ConsumerEvent| match event {
            ConsumerEvent::Reset { from, to, .. } => Some((from.0, to.0)),
            ConsumerEvent::Stopped { at: Some(at), error: ConsumerError::Broker(code), .. } => {
                assert_eq!(*code, ErrorCode::OFFSET_OUT_OF_RANGE);
                Some((at.0, -1))
            }
            _ => None,
        };
        let to = match policy {
            AutoOffsetReset::Earliest => 1,
            AutoOffsetReset::Latest => 3,
            AutoOffsetReset::None => -1,
        };
        assert_eq!(events.iter().find_map(told), Some((0, to)), "{policy:?}");
    }
}

#[test]
fn corrupt_batch_is_never_handed_on() {
    let mut bench = Bench::new(|_| {});
    bench.append(0, &[b"good"], Compression::None);
    bench.append(0, &[b"evil"], Compression::None);
    let log = &mut bench.cluster.partition("t", 0).log;
    let mut damaged = log[1].to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    log[1] = damaged.into();
    bench.assign(0, StartAt::Earliest);
    let events = bench.read();
    assert_eq!(offsets(&events), [0]);
    let stopped = |event: &ConsumerEvent| match event {
        ConsumerEvent::Stopped { at, error: ConsumerError::Batch(BatchError::Corrupt { .. }), .. } => *at,
        _ => None,
    };
    assert_eq!(events.iter().find_map(stopped), Some(Offset(1)));
}

#[test]
fn read_committed_passes_over_what_was_aborted_and_over_markers() {
    for (isolation, expected) in
        [(IsolationLevel::ReadUncommitted, vec![0, 2, 3, 5]), (IsolationLevel::ReadCommitted, vec![2, 3])]
    {
        let mut bench = Bench::new(|config| config.isolation_level = isolation);
        // Producer 7 aborts what it wrote at 0; producer 8 commits; producer 7 aborts again at 5.
        bench.store(0, stored(&[b"aborted"], Compression::None, 0, Some(7)));
        bench.store(0, marker(1, 7, 0));
        bench.store(0, stored(&[b"committed"], Compression::None, 2, Some(8)));
        bench.store(0, stored(&[b"committed"], Compression::None, 3, Some(7)));
        bench.store(0, marker(4, 7, 1));
        bench.store(0, stored(&[b"aborted"], Compression::None, 5, Some(7)));
        bench.store(0, marker(6, 7, 0));
        bench.cluster.partition("t", 0).aborted = vec![(7, 0), (7, 5)];
        bench.assign(0, StartAt::Earliest);
        assert_eq!(offsets(&bench.read()), expected, "{isolation:?}");
        let partition = bench.partition(0);
        assert_eq!(bench.core.position(partition), Some(Offset(7)));
    }
}

/// A transaction marker: 0 aborts, 1 commits.
fn marker(offset: i64, producer: i64, kind: u8) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None).transactional();
    builder.push(&NewRecord { key: Some(&[0, 0, 0, kind]), value: Some(&[0; 6]), ..NewRecord::default() });
    let stamp = ProducerStamp {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence::NONE,
    };
    let mut bytes = builder.build(stamp).expect("a record").to_vec();
    let attributes = i16::from_be_bytes([bytes[21], bytes[22]]) | CONTROL;
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = highwater_model::crc::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    batch::stamp(&mut bytes, Offset(offset), LeaderEpoch(0));
    bytes
}

#[test]
fn partition_is_fetched_ahead_by_two_answers_and_not_while_it_is_paused() {
    let mut bench = Bench::new(|config| config.max_partition_fetch_bytes = 1);
    for _ in 0..4 {
        bench.append(0, &[b"v"], Compression::None);
    }
    bench.assign(0, StartAt::Offset(Offset(0)));
    bench.net.settle(&mut bench.core, &mut bench.cluster, bench.now);
    let partition = bench.partition(0);
    assert_eq!(bench.core.position(partition), Some(Offset(2)), "two answers are buffered");
    bench.core.pause(partition);
    assert!(matches!(bench.core.pop_event(), Some(ConsumerEvent::Records(_))));
    bench.net.settle(&mut bench.core, &mut bench.cluster, bench.now);
    assert_eq!(bench.core.position(partition), Some(Offset(2)), "paused");
    bench.core.resume(partition);
    assert_eq!(offsets(&bench.read()), [1, 2, 3]);
}

#[test]
fn nothing_is_fetched_while_fetch_max_bytes_are_buffered() {
    let mut bench = Bench::new(|config| config.fetch_max_bytes = 150);
    for index in [0, 2] {
        bench.append(index, &[&[0; 200]], Compression::None);
        bench.append(index, &[&[0; 200]], Compression::None);
        bench.assign(index, StartAt::Offset(Offset(0)));
    }
    bench.net.settle(&mut bench.core, &mut bench.cluster, bench.now);
    let (one, two) = (bench.partition(0), bench.partition(2));
    let buffered = bench.core.position(one).max(bench.core.position(two));
    assert_eq!(buffered, Some(Offset(1)), "an answer is larger than the budget, and the last one");
    assert_eq!(offsets(&bench.read()).len(), 4);
}

#[test]
fn seek_voids_what_was_asked_for_before() {
    let mut bench = Bench::new(|_| {});
    bench.append(0, &[b"0", b"1", b"2"], Compression::None);
    bench.assign(0, StartAt::Offset(Offset(0)));
    bench.net.settle_except(&mut bench.core, &mut bench.cluster, bench.now, &[FetchRequest::KEY]);
    bench.assign(0, StartAt::Offset(Offset(2)));
    assert_eq!(offsets(&bench.read()), [2]);
}

#[test]
fn session_names_a_partition_again_only_when_it_has_moved() {
    let mut bench = Bench::new(|_| {});
    for index in [0, 2] {
        bench.append(index, &[b"v"], Compression::None);
        bench.assign(index, StartAt::Earliest);
    }
    bench.read();
    let asked = bench.cluster.partitions_asked;
    bench.read();
    assert_eq!(bench.cluster.partitions_asked, asked, "empty requests go on");
    bench.append(2, &[b"w"], Compression::None);
    assert_eq!(offsets(&bench.read()), [1]);
    assert!(bench.cluster.partitions_asked - asked <= 2);
    bench.cluster.sessions.clear();
    bench.append(0, &[b"x"], Compression::None);
    assert_eq!(offsets(&bench.read()), [1], "a session that the broker forgot begins anew");
}

#[test]
fn unknown_topic_is_read_once_it_exists() {
    let mut bench = Bench::on(ModelCluster::new(1), |_| {});
    bench.assign(0, StartAt::Earliest);
    assert!(bench.read().is_empty());
    bench.cluster.create_topic("t", 1);
    bench.append(0, &[b"v"], Compression::None);
    assert_eq!(offsets(&bench.read()), [0]);
}

#[derive(Debug, Clone)]
struct Chaos {
    seed: u64,
    cut_percent: u64,
    sessions: bool,
    retention: bool,
}

fn dice(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % bound
}

/// Every partition is read from start to end in order: each record once, and a gap only where a reset was told.
fn reads_everything(chaos: &Chaos) {
    let mut bench = Bench::new(|config| {
        config.fetch_sessions = chaos.sessions;
        config.max_partition_fetch_bytes = 200;
    });
    let mut state = chaos.seed;
    for index in 0..4 {
        bench.assign(index, StartAt::Earliest);
    }
    let mut next: BTreeMap<Partition, i64> = BTreeMap::new();
    let mut written = [0i64; 4];
    for step in 0..4000u64 {
        let writes = step < 2000;
        bench.net.perform(&mut bench.core, &bench.cluster, bench.now, |_| true);
        let connections: Vec<_> = bench.net.links.keys().copied().collect();
        let pick = |state: &mut u64| {
            let count = connections.len().max(1) as u64;
            connections.get(usize::try_from(dice(state, count)).expect("small")).copied()
        };
        let index = i32::try_from(dice(&mut state, 4)).expect("small");
        match dice(&mut state, 10) {
            0 if writes => {
                let count = usize::try_from(1 + dice(&mut state, 3)).expect("small");
                bench.append(index, &vec![&b"value"[..]; count], Compression::None);
                written[usize::try_from(index).expect("small")] += i64::try_from(count).expect("small");
            }
            1 if writes && dice(&mut state, 100) < chaos.cut_percent => {
                if let Some(connection) = pick(&mut state) {
                    bench.net.cut(connection, &mut bench.core, bench.now, false);
                }
            }
            2 if writes && dice(&mut state, 100) < chaos.cut_percent => {
                let partition = bench.cluster.partition("t", index);
                partition.leader = 3 - partition.leader;
                partition.leader_epoch += 1;
            }
            3 if writes && chaos.retention && dice(&mut state, 10) == 0 => {
                let partition = bench.cluster.partition("t", index);
                if partition.log.len() > 1 {
                    partition.log.remove(0);
                    let first = batch::verify(&partition.log[0]).expect("valid");
                    partition.log_start_offset = first.base_offset.0;
                }
            }
            4 | 5 => {
                if let Some(connection) = pick(&mut state) {
                    bench.net.deliver_to_broker(connection, &mut bench.cluster, |_, _| support::Fault::None);
                }
            }
            6 | 7 => {
                if let Some(connection) = pick(&mut state) {
                    bench.net.deliver_to_client(connection, &mut bench.core, bench.now);
                }
            }
            8 => bench.now = bench.now + Duration::from_millis(dice(&mut state, 100)),
            _ => take(&mut bench.core, &mut next),
        }
    }
    for event in bench.read().into_iter().chain(bench.read()) {
        account(event, &mut next);
    }
    for (index, count) in (0..).zip(written) {
        let partition = bench.partition(index);
        assert_eq!(next.get(&partition).copied().unwrap_or(0), count, "partition {index} of {chaos:?}");
    }
}

fn take(core: &mut ConsumerCore, next: &mut BTreeMap<Partition, i64>) {
    if let Some(event) = core.pop_event() {
        account(event, next);
    }
}

fn account(event: ConsumerEvent, next: &mut BTreeMap<Partition, i64>) {
    let partition = event.partition();
    let expected = next.entry(partition).or_insert(0);
    match event {
        ConsumerEvent::Records(records) => {
            for (offset, _) in values(&records) {
                assert_eq!(offset, *expected);
                *expected += 1;
            }
        }
        ConsumerEvent::Positioned { offset, .. } => *expected = offset.0,
        ConsumerEvent::Reset { from, to, .. } => {
            assert_eq!(from.0, *expected);
            assert!(to > from, "only retention moves the start");
            *expected = to.0;
        }
        ConsumerEvent::Stopped { error, .. } => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn consumer_reads_everything_in_order_whatever_happens(
        seed in any::<u64>(),
        cut_percent in 0..60u64,
        sessions in any::<bool>(),
        retention in any::<bool>(),
    ) {
        reads_everything(&Chaos { seed, cut_percent, sessions, retention });
    }
}

//! A log directory fails while the broker runs: what producers, consumers and administrators see of it, and that the other
//! one goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_broker::BrokerConfig;
use highwater_io::Io;
use highwater_io::sim::{Disk, DiskOp, Fault, FaultEffect, NodeId, World, WorldConfig};
use highwater_model::Timestamp;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchBuilder, NewRecord, ProducerStamp, headers};
use highwater_model::compression::Compression;
use highwater_model::record::records;
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::delete_topics_request::DeleteTopicState;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeLogDirsRequest, FetchRequest, MetadataRequest,
    ProduceRequest,
};

use crate::boot::{Report, boot};
use crate::wire::{Connection, topic_name};

const OK: ErrorCode = ErrorCode::NONE;
const STORAGE_ERROR: ErrorCode = ErrorCode::KAFKA_STORAGE_ERROR;

/// A broker with the log directories /data-0 and /data-1, which has lives.
struct Stage {
    world: World,
    broker: NodeId,
    client: NodeId,
    report: Report,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, WorldConfig::default());
        let (broker, client) = (world.add_node("broker"), world.add_node("client"));
        Stage { world, broker, client, report: Rc::default() }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.world.address(self.broker), 9092)
    }

    fn disk(&self) -> Disk {
        self.world.disk_of(self.broker)
    }

    /// Starts the broker, whether or not it comes to serve.
    fn start(&mut self) {
        let mut config = BrokerConfig::for_data_dir("/data-0");
        for (name, value) in [
            ("log.dirs", "/data-0,/data-1"),
            ("listeners", &format!("PLAINTEXT://{}", self.address())),
            ("num.shards", "2"),
            ("journal.file.bytes", "4194304"),
        ] {
            config.set(name, value).expect("valid");
        }
        self.report = boot(&mut self.world, self.broker, &config);
    }

    fn is_refused(&mut self) -> String {
        self.start();
        let (broker, report) = (self.broker, Rc::clone(&self.report));
        self.world.run_until(move |world| report.borrow().is_some() && !world.is_up(broker)).expect("runs");
        match self.report.take() {
            Some(Err(error)) => error.to_string(),
            other => panic!("started: {other:?}"),
        }
    }

    /// A client's life.
    fn play<F, Fut>(&mut self, play: F)
    where
        F: FnOnce(Client, Disk) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let state = (self.address(), self.disk(), play);
        self.world.start(self.client, vec![state], move |io, (address, disk, play)| async move {
            let wire = Connection::open(&io, address).await;
            play(Client { io, wire }, disk).await;
        });
        let (client, broker) = (self.client, self.broker);
        self.world.run_until(move |world| !world.is_up(client) || !world.is_up(broker)).expect("runs");
        assert!(self.world.is_up(self.broker), "the broker goes on");
    }

    fn stop(&mut self) {
        self.world.stop(self.broker);
        let broker = self.broker;
        self.world.run_until(move |world| !world.is_up(broker)).expect("stops");
    }
}

struct Client {
    io: Io,
    wire: Connection,
}

impl Client {
    /// Creates a topic of four partitions.
    async fn create(&mut self, name: &str) -> ErrorCode {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(4)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
        ErrorCode(self.wire.call(7, &request).await.expect("answered").topics[0].error_code)
    }

    async fn delete(&mut self, name: &str) -> ErrorCode {
        let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
        ErrorCode(self.wire.call(6, &request).await.expect("answered").responses[0].error_code)
    }

    async fn produce(&mut self, topic: &str, partition: i32, value: &str) -> ErrorCode {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&NewRecord {
            timestamp: Timestamp(1_700_000_000_000),
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        });
        let batch = builder.build(ProducerStamp::NONE).expect("a batch");
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(vec![topic]);
        let response = self.wire.call(9, &request).await.expect("answered");
        ErrorCode(response.responses[0].partition_responses[0].error_code)
    }

    /// What is in a partition from its beginning, or why that is not told.
    async fn values(&mut self, topic: &str, partition: i32) -> Result<Vec<String>, ErrorCode> {
        let mut values = Vec::new();
        let mut offset = 0;
        loop {
            let wanted = FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(1 << 20);
            let wanted = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![wanted]);
            let request = FetchRequest::default()
                .with_max_bytes(1 << 20)
                .with_session_epoch(-1)
                .with_topics(vec![wanted]);
            let response = self.wire.call(11, &request).await.expect("answered");
            let data = &response.responses[0].partitions[0];
            if data.error_code != 0 {
                return Err(ErrorCode(data.error_code));
            }
            if offset >= data.high_watermark {
                return Ok(values);
            }
            let bytes: Bytes = data.records.clone().unwrap_or_default();
            for header in headers(&bytes) {
                let (at, header) = header.expect("whole batches");
                for record in records(&bytes[at + BATCH_HEADER_BYTES..at + header.size_bytes]) {
                    let value = record.expect("well formed").value.expect("has one").to_vec();
                    values.push(String::from_utf8(value).expect("is text"));
                }
                offset = header.last_offset().0 + 1;
            }
        }
    }

    /// Leader, error and number of offline replicas of each partition.
    async fn metadata(&mut self, topic: &str) -> BTreeMap<i32, (i32, i16, usize)> {
        let request = MetadataRequest::default().with_topics(None);
        let response = self.wire.call(9, &request).await.expect("answered");
        let is_wanted = |name: &Option<_>| name.as_ref().is_some_and(|name| *name == topic_name(topic));
        let topic = response.topics.into_iter().find(|found| is_wanted(&found.name)).expect("exists");
        let told = topic.partitions.into_iter().map(|partition| {
            let offline = partition.offline_replicas.len();
            (partition.partition_index, (partition.leader_id.0, partition.error_code, offline))
        });
        told.collect()
    }

    /// The error and the number of partitions of each log directory.
    async fn log_dirs(&mut self) -> Vec<(ErrorCode, usize)> {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let response = self.wire.call(4, &request).await.expect("answered");
        let told = response.results.into_iter().map(|result| {
            let partitions = result.topics.iter().map(|topic| topic.partitions.len()).sum();
            (ErrorCode(result.error_code), partitions)
        });
        told.collect()
    }

    async fn expect_intact(&mut self, topic: &str) {
        for partition in 0..4 {
            let values = self.values(topic, partition).await.expect("is served");
            assert_eq!(values[0], format!("p{partition}"));
            let of = |prefix: &str| values.iter().filter(|value| value.starts_with(prefix)).count();
            assert_eq!(of("acked"), if partition % 2 == 0 { of("acked") } else { 0 });
        }
    }
}

/// Partitions 0 and 2 of a topic are in /data-0, 1 and 3 in /data-1; each has one record.
async fn fill(client: &mut Client) {
    assert_eq!(client.create("t").await, OK);
    for partition in 0..4 {
        assert_eq!(client.produce("t", partition, &format!("p{partition}")).await, OK);
    }
    assert_eq!(client.log_dirs().await, [(OK, 2), (OK, 2)]);
}

/// /data-1 has failed: what is told, what is served.
async fn expect_second_failed(client: &mut Client) {
    for round in 0..3 {
        for partition in [0, 2] {
            assert_eq!(client.produce("t", partition, &format!("acked{round}")).await, OK);
        }
        for partition in [1, 3] {
            assert_eq!(client.produce("t", partition, "refused").await, STORAGE_ERROR);
        }
    }
    for partition in 0..4 {
        let values = client.values("t", partition).await.expect("what is intact is read");
        assert_eq!(values[0], format!("p{partition}"));
        assert_eq!(values.len(), if partition % 2 == 0 { 4 } else { 1 }, "{values:?}");
    }
    let told = client.metadata("t").await;
    assert_eq!(told.into_values().collect::<Vec<_>>(), [(1, 0, 0), (1, 0, 1), (1, 0, 0), (1, 0, 1)]);
    assert_eq!(client.log_dirs().await, [(OK, 2), (STORAGE_ERROR, 0)]);
}

fn seeds() -> std::ops::Range<u64> {
    0..6
}

#[test]
fn directory_that_fails_is_fenced_on_every_shard_and_the_other_serves() {
    for (seed, op) in seeds().flat_map(|seed| [DiskOp::Write, DiskOp::Flush].map(|op| (seed, op))) {
        let mut stage = Stage::new(seed);
        stage.start();
        stage.play(move |mut client, disk| async move {
            fill(&mut client).await;
            let fault = disk.inject(Fault::eio(op).on("data-1/"));
            // One shard meets it, and it is true for all.
            assert_eq!(client.produce("t", 1, "refused").await, STORAGE_ERROR);
            disk.lift(fault);
            expect_second_failed(&mut client).await;
            // New partitions go where something serves.
            assert_eq!(client.create("u").await, OK);
            assert_eq!(client.log_dirs().await, [(OK, 6), (STORAGE_ERROR, 0)]);
            for partition in 0..4 {
                assert_eq!(client.produce("u", partition, &format!("p{partition}")).await, OK);
            }
        });
        stage.stop();
        stage.start();
        stage.play(|mut client, _| async move {
            client.expect_intact("t").await;
            client.expect_intact("u").await;
            for partition in 0..4 {
                assert_eq!(client.produce("t", partition, "again").await, OK);
            }
            assert_eq!(client.log_dirs().await, [(OK, 6), (OK, 2)]);
        });
    }
}

/// It was told of to everybody, and served after the next start only.
#[test]
fn partition_that_could_not_be_made_for_want_of_space_is_served_when_there_is_some() {
    const ENOSPC: i32 = 28;
    for seed in seeds() {
        let mut stage = Stage::new(seed);
        stage.start();
        stage.play(|mut client, disk| async move {
            let full = Fault::new(DiskOp::Create, FaultEffect::Errno(ENOSPC)).on("u-");
            let full = disk.inject(full);
            client.create("u").await;
            assert!(disk.fired(full) > 0);
            assert_eq!(client.produce("u", 1, "early").await, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            client.io.sleep(Duration::from_secs(2)).await;
            disk.lift(full);
            client.io.sleep(Duration::from_secs(30)).await;
            for partition in 0..4 {
                assert_eq!(client.produce("u", partition, &format!("p{partition}")).await, OK);
            }
            client.expect_intact("u").await;
        });
        stage.stop();
        stage.start();
        stage.play(|mut client, _| async move { client.expect_intact("u").await });
    }
}

#[test]
fn topic_that_is_deleted_beside_a_failed_directory_is_gone_after_a_restart() {
    for seed in seeds() {
        let mut stage = Stage::new(seed);
        stage.start();
        stage.play(|mut client, disk| async move {
            fill(&mut client).await;
            assert_eq!(client.create("u").await, OK);
            disk.inject(Fault::eio(DiskOp::Write).on("data-1/"));
            assert_eq!(client.produce("t", 3, "refused").await, STORAGE_ERROR);
            assert_eq!(client.delete("t").await, OK);
            assert_eq!(client.delete("u").await, OK);
            assert_eq!(client.create("t").await, OK);
            assert_eq!(client.produce("t", 1, "p1").await, OK);
        });
        stage.stop();
        stage.disk().lift_all();
        stage.start();
        stage.play(|mut client, _| async move {
            assert_eq!(client.values("t", 1).await.as_deref(), Ok(&["p1".to_owned()][..]));
            assert_eq!(client.log_dirs().await, [(OK, 4), (OK, 0)]);
        });
        stage.stop();
        let left = stage.disk().snapshot_files();
        assert!(left.keys().all(|path| !path.contains("data-1/t-")), "what was deleted is removed");
    }
}

/// Kafka stops the broker then. We serve on what needs no change of metadata.
#[test]
fn failed_directory_of_the_metadata_log_leaves_the_other_serving() {
    for seed in seeds() {
        let mut stage = Stage::new(seed);
        stage.start();
        stage.play(|mut client, disk| async move {
            fill(&mut client).await;
            disk.inject(Fault::eio(DiskOp::Flush).on("data-0/"));
            assert_eq!(client.create("u").await, STORAGE_ERROR);
            for partition in 0..4 {
                let expected = if partition % 2 == 0 { STORAGE_ERROR } else { OK };
                assert_eq!(client.produce("t", partition, "more").await, expected);
                let values = client.values("t", partition).await.expect("what is intact is read");
                assert_eq!(values[0], format!("p{partition}"));
            }
            assert_eq!(client.log_dirs().await, [(STORAGE_ERROR, 0), (OK, 2)]);
        });
        stage.stop();
        let refused = stage.is_refused();
        assert!(refused.contains("/data-0"), "{refused}");
        stage.disk().lift_all();
        stage.start();
        stage.play(|mut client, _| async move {
            for partition in [1, 3] {
                let values = client.values("t", partition).await.expect("is served");
                assert_eq!(values, [format!("p{partition}"), "more".to_owned()]);
            }
            client.expect_intact("t").await;
            assert_eq!(client.produce("t", 0, "again").await, OK);
        });
    }
}

#[test]
fn directory_that_cannot_be_used_at_a_start_is_offline_until_it_can() {
    let ops = [DiskOp::Read, DiskOp::Write, DiskOp::Flush, DiskOp::Inspect, DiskOp::Open, DiskOp::Create];
    for (seed, op) in (0..).zip(ops) {
        let mut stage = Stage::new(seed);
        stage.start();
        stage.play(|mut client, _| async move { fill(&mut client).await });
        // As after a power cut, so that there is something to recover.
        stage.world.power_cut(stage.broker);
        stage.disk().inject(Fault::eio(op).on("data-1"));
        stage.start();
        stage.play(move |mut client, _| async move {
            for partition in 0..4 {
                let expected = if partition % 2 == 0 { OK } else { STORAGE_ERROR };
                assert_eq!(client.produce("t", partition, "acked").await, expected, "{op:?}");
                let values = client.values("t", partition).await;
                let expected = if partition % 2 == 0 { Ok(2) } else { Err(STORAGE_ERROR) };
                assert_eq!(values.map(|values| values.len()), expected, "{op:?}");
            }
            assert_eq!(client.log_dirs().await, [(OK, 2), (STORAGE_ERROR, 0)]);
            assert_eq!(client.create("u").await, OK);
            assert_eq!(client.log_dirs().await, [(OK, 6), (STORAGE_ERROR, 0)]);
        });
        stage.stop();
        stage.disk().lift_all();
        stage.start();
        stage.play(|mut client, _| async move {
            client.expect_intact("t").await;
            assert_eq!(client.log_dirs().await, [(OK, 6), (OK, 2)]);
        });
    }
}

//! Whether one client holds up others: requests that are much work, answers that nobody takes, devices that stand still.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_broker::BrokerConfig;
use highwater_io::Io;
use highwater_io::net::TcpStream;
use highwater_io::sim::{Disk, DiskOp, Fault, FaultEffect, Latency, NetConfig, World, WorldConfig};
use highwater_model::Timestamp;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::fetch_response::PartitionData;
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest,
    ProduceRequest,
};
use highwater_protocol::{ErrorCode, encode_request};

use crate::boot::boot;
use crate::wire::{Connection, topic_name};

/// Longer than any request here waits by itself.
const STANDSTILL: Duration = Duration::from_secs(100);

/// Steps and ways of equal length, so that turns can be counted.
fn even() -> WorldConfig {
    let always =
        |duration: Duration| Latency { least: duration, usual: duration, tail: duration, tail_per_mille: 0 };
    let way = always(Duration::from_micros(20));
    WorldConfig {
        net: NetConfig { latency: way, loopback: way, ..NetConfig::default() },
        poll: always(Duration::from_micros(1)),
        ..WorldConfig::default()
    }
}

/// A broker with these settings, and what clients on another node do.
fn play<F, Fut>(settings: &[(&str, &str)], play: F)
where
    F: FnOnce(Client) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut world = World::new(1, even());
    let (broker, client) = (world.add_node("broker"), world.add_node("client"));
    let address = SocketAddr::new(world.address(broker), 9092);
    let mut config = BrokerConfig::for_data_dir("/data-0");
    let listeners = format!("PLAINTEXT://{address}");
    let usual = [("listeners", listeners.as_str()), ("journal.file.bytes", "4194304")];
    for (name, value) in usual.iter().chain(settings) {
        config.set(name, value).expect("valid");
    }
    let _report = boot(&mut world, broker, &config);
    let broker_tasks = Rc::new(Cell::new(0));
    let state = (address, world.disk_of(broker), Rc::clone(&broker_tasks), play);
    world.start(client, vec![state], move |io, (address, disk, broker_tasks, play)| {
        play(Client { io, address, disk, broker_tasks })
    });
    let is_over = move |world: &World| {
        broker_tasks.set(world.live_tasks(broker));
        !world.is_up(client) || !world.is_up(broker)
    };
    world.run_until(is_over).expect("runs");
    assert!(world.is_up(broker), "the broker goes on");
}

#[derive(Clone)]
struct Client {
    io: Io,
    address: SocketAddr,
    disk: Disk,
    /// How many tasks of the broker, on all shards, have not finished.
    broker_tasks: Rc<Cell<usize>>,
}

impl Client {
    async fn connect(&self) -> Connection {
        Connection::open(&self.io, self.address).await
    }

    async fn connect_raw(&self) -> TcpStream {
        self.io.connect(self.address).await.expect("connects")
    }

    async fn create(&self, name: &str, partitions: i32) {
        let topic = CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(partitions);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic.with_replication_factor(1)])
            .with_timeout_ms(60_000);
        let frame = encode_request(7, 1, None, &request).expect("encodes");
        let stream = self.connect_raw().await;
        stream.send(vec![frame]).await.expect("is sent");
        assert!(!stream.recv().await.expect("is answered").is_empty());
        let known = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic_name(name)))]));
        let told = self.connect().await.call(9, &known).await.expect("is answered");
        assert_eq!(told.topics[0].error_code, 0);
    }

    /// How often another client of the broker is answered while `request` is worked on.
    async fn answers_beside(&self, frame: Bytes) -> usize {
        let is_over = Rc::new(Cell::new(false));
        let (mut other, until) = (self.connect().await, Rc::clone(&is_over));
        let count = self.io.spawn(async move {
            let mut answers = 0;
            while !until.get() {
                other.call(3, &ApiVersionsRequest::default()).await.expect("is answered");
                answers += 1;
            }
            answers
        });
        let stream = self.connect_raw().await;
        stream.send(vec![frame]).await.expect("is sent");
        assert!(!stream.recv().await.expect("is answered").is_empty());
        is_over.set(true);
        count.await
    }
}

fn batch(value: &str, compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    builder.push(&NewRecord {
        timestamp: Timestamp(1_700_000_000_000),
        value: Some(value.as_bytes()),
        ..NewRecord::default()
    });
    builder.build(ProducerStamp::NONE).expect("a batch")
}

fn produce(topic: &str, batches: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partitions = batches
        .into_iter()
        .map(|(index, batch)| PartitionProduceData::default().with_index(index).with_records(Some(batch)));
    let topic =
        TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(partitions.collect());
    ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000_000).with_topic_data(vec![topic])
}

/// Each batch may become megabytes to look at. One request with some thousands of them once kept its shard from everybody else
/// for minutes.
#[test]
fn compressed_batches_of_one_request_let_others_have_their_turn() {
    play(&[("num.shards", "1")], |client| async move {
        client.create("t", 1).await;
        // Refused at the first look, so that nothing but the look is work.
        let mut damaged = batch("x", Compression::Gzip).to_vec();
        *damaged.last_mut().expect("not empty") ^= 1;
        let damaged = Bytes::from(damaged);
        let frame = |count| {
            let request = produce("t", vec![(0, damaged.clone()); count]);
            encode_request(9, 1, None, &request).expect("encodes")
        };
        let (few, many) = (client.answers_beside(frame(10)).await, client.answers_beside(frame(8_000)).await);
        assert!(many >= few + 8, "{many} answers beside 8000 batches, {few} beside 10");
    });
}

fn searches(topic: &str, partitions: i32) -> Bytes {
    let asked = (0..partitions)
        .map(|index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(1_000));
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(asked.collect());
    let request = ListOffsetsRequest::default().with_topics(vec![topic]);
    encode_request(4, 1, None, &request).expect("encodes")
}

/// A search by time may inflate a batch; nothing else was served while all that were asked for were searched.
#[test]
fn searches_by_time_let_others_have_their_turn() {
    play(&[("num.shards", "1")], |client| async move {
        client.create("t", 8_000).await;
        let (few, many) = (
            client.answers_beside(searches("t", 10)).await,
            client.answers_beside(searches("t", 8_000)).await,
        );
        assert!(many >= few + 8, "{many} answers beside 8000 searches, {few} beside 10");
    });
}

/// What a client asked of another shard's partitions once went on there when the client had gone, and what admitted it was free
/// for the next.
#[test]
fn searches_of_clients_that_go_away_end_on_every_shard() {
    play(&[("num.shards", "2")], |client| async move {
        client.create("t", 4_000).await;
        client.io.sleep(Duration::from_secs(1)).await;
        let at_rest = client.broker_tasks.get();
        let mut crowd = Vec::new();
        for _ in 0..200 {
            let stream = client.connect_raw().await;
            stream.send(vec![searches("t", 4_000)]).await.expect("is sent");
            crowd.push(stream);
        }
        client.io.sleep(Duration::from_millis(20)).await;
        let at_work = client.broker_tasks.get();
        drop(crowd);
        client.io.sleep(Duration::from_millis(5)).await;
        let left = client.broker_tasks.get();
        assert!(at_work >= at_rest + 200, "{at_work} tasks, {at_rest} at rest");
        assert!(left <= at_rest, "{left} tasks, {at_rest} at rest");
        for partition in 0..2 {
            let begun = client.io.now();
            let one = produce("t", vec![(partition, batch("one", Compression::Gzip))]);
            client.connect().await.call(9, &one).await.expect("is answered");
            let took = client.io.now() - begun;
            assert!(took < Duration::from_millis(5), "after {took:?}");
        }
    });
}

/// Names that lead to nothing are looked up all the same.
#[test]
fn metadata_of_many_names_let_others_have_their_turn() {
    play(&[("num.shards", "1"), ("auto.create.topics.enable", "false")], |client| async move {
        let frame = |count: u32| {
            let named =
                |number| MetadataRequestTopic::default().with_name(Some(topic_name(&format!("{number:x}"))));
            let request = MetadataRequest::default().with_topics(Some((0..count).map(named).collect()));
            encode_request(9, 1, None, &request).expect("encodes")
        };
        let (few, many) =
            (client.answers_beside(frame(10)).await, client.answers_beside(frame(40_000)).await);
        assert!(many >= few + 8, "{many} answers beside 40000 names, {few} beside 10");
    });
}

/// What a topic that was created is set to is told of each.
#[test]
fn creation_of_many_topics_lets_others_have_their_turn() {
    play(&[("num.shards", "1")], |client| async move {
        let frame = |count: u32| {
            let named = |number| {
                let topic = CreatableTopic::default().with_name(topic_name(&format!("t{number}")));
                topic.with_num_partitions(1).with_replication_factor(1)
            };
            let request = CreateTopicsRequest::default().with_topics((0..count).map(named).collect());
            encode_request(7, 1, None, &request.with_validate_only(true)).expect("encodes")
        };
        let (few, many) = (client.answers_beside(frame(10)).await, client.answers_beside(frame(4_000)).await);
        assert!(many >= few + 8, "{many} answers beside 4000 topics, {few} beside 10");
    });
}

/// Eight answers that nobody took once kept the places of all that are large.
#[test]
fn metadata_are_told_while_others_do_not_take_theirs() {
    play(&[("num.shards", "1")], |client| async move {
        client.create("wide", 1_200).await;
        let request = MetadataRequest::default().with_topics(None);
        let mut deaf = Vec::new();
        for _ in 0..9 {
            let stream = client.connect_raw().await;
            for id in 0..20 {
                let frame = encode_request(9, id, None, &request).expect("encodes");
                stream.send(vec![frame]).await.expect("is sent");
            }
            deaf.push(stream);
        }
        // Their answers fill what the network holds.
        client.io.sleep(Duration::from_secs(1)).await;
        let mut good = client.connect().await;
        let told = good.call(9, &request).await.expect("is answered");
        assert!(told.topics.iter().any(|topic| topic.partitions.len() == 1_200));
        drop(deaf);
    });
}

/// A request that spans shards once held its places on one of them until the other one's device had answered.
#[test]
fn shard_that_stands_still_holds_up_no_partition_of_another_one() {
    play(&[("num.shards", "2")], |client| async move {
        client.create("t", 2).await;
        for stalled in ["shard-0/", "shard-1/"] {
            let fault = Fault::new(DiskOp::Write, FaultEffect::Delay(STANDSTILL)).on(stalled);
            let fault = client.disk.inject(fault);
            // From enough connections that each shard has some.
            let mut waiting = Vec::new();
            for _ in 0..8 {
                let both = produce(
                    "t",
                    vec![(0, batch("both", Compression::None)), (1, batch("both", Compression::None))],
                );
                let stream = client.connect_raw().await;
                stream
                    .send(vec![encode_request(9, 1, None, &both).expect("encodes")])
                    .await
                    .expect("is sent");
                waiting.push(stream);
            }
            client.io.sleep(Duration::from_secs(1)).await;
            let mut served = 0;
            for partition in 0..2 {
                let one = produce("t", vec![(partition, batch("one", Compression::None))]);
                served += usize::from(client.connect().await.call(9, &one).await.is_ok());
            }
            assert_eq!(served, 1, "the partition of the shard whose device goes on, {stalled}");
            client.disk.lift(fault);
            client.io.sleep(2 * STANDSTILL).await;
        }
    });
}

/// A request that waited for room on one device once held its places in the lines of partitions on others.
#[test]
fn log_directory_that_stands_still_holds_up_no_partition_of_another_one() {
    play(&[("num.shards", "1"), ("log.dirs", "/data-0,/data-1")], |client| async move {
        for partition in 0..2 {
            let topic = format!("t{partition}");
            client.create(&topic, 2).await;
            // The partition that its own device holds up comes first in the request.
            let stalled = format!("data-{partition}/{topic}-");
            let fault = Fault::new(DiskOp::Allocate, FaultEffect::Delay(STANDSTILL)).on(&stalled);
            let fault = client.disk.inject(fault);
            let batches = [partition, 1 - partition].map(|index| (index, batch("both", Compression::None)));
            let both = produce(&topic, batches.to_vec());
            let waiting = client.connect_raw().await;
            waiting.send(vec![encode_request(9, 1, None, &both).expect("encodes")]).await.expect("is sent");
            client.io.sleep(Duration::from_millis(500)).await;
            let one = produce(&topic, vec![(1 - partition, batch("one", Compression::None))]);
            let answer = client.connect().await.call(9, &one).await.expect("is not held up");
            let answer = &answer.responses[0].partition_responses[0];
            assert_eq!((ErrorCode(answer.error_code), answer.base_offset), (ErrorCode::NONE, 1));
            client.disk.lift(fault);
            client.io.sleep(2 * STANDSTILL).await;
        }
    });
}

/// Bytes of records that a fetch of partitions `0..offsets.len()` of `topic`, and of `hot`'s only one, brings of each; offsets move on.
async fn fetch_on(
    connection: &mut Connection,
    topic: &str,
    offsets: &mut [i64],
    min_bytes: i32,
) -> (Vec<usize>, usize) {
    let ask = |partition, offset| {
        FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(1 << 20)
    };
    let cold = (0..).zip(offsets.iter()).map(|(partition, &offset)| ask(partition, offset));
    let topics = [(topic, cold.collect()), ("hot", vec![ask(0, 0)])]
        .map(|(name, asked)| FetchTopic::default().with_topic(topic_name(name)).with_partitions(asked));
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(60_000)
        .with_min_bytes(min_bytes)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(topics.to_vec());
    let response = connection.call(11, &request).await.expect("is answered");
    let [cold, hot] = response.responses.as_slice() else { panic!("{response:?}") };
    let bytes = |data: &PartitionData| data.records.as_ref().map_or(0, Bytes::len);
    for (data, offset) in cold.partitions.iter().zip(offsets) {
        assert_eq!(data.error_code, 0);
        *offset += highwater_model::batch::headers(data.records.as_deref().unwrap_or_default())
            .map_while(Result::ok)
            .count() as i64;
    }
    (cold.partitions.iter().map(bytes).collect(), bytes(&hot.partitions[0]))
}

/// Who catches up is answered in pieces while others append, and what lies in memory is given beside that.
#[test]
fn who_catches_up_beside_appends_is_answered_in_pieces() {
    const PARTITIONS: i32 = 12;
    const PIECE_BYTES: usize = 4 << 20;
    play(&[("num.shards", "1"), ("hot.tail.bytes", "4194304")], |client| async move {
        for (topic, partitions) in [("cold", PARTITIONS), ("after", 1), ("hot", 1), ("busy", 1)] {
            client.create(topic, partitions).await;
        }
        let mut connection = client.connect().await;
        let value = "v".repeat(240_000);
        for round in 0..4 * PARTITIONS {
            let one = produce("cold", vec![(round % PARTITIONS, batch(&value, Compression::None))]);
            connection.call(9, &one).await.expect("is answered");
        }
        for _ in 0..40 {
            let one = produce("after", vec![(0, batch(&value, Compression::None))]);
            connection.call(9, &one).await.expect("is answered");
        }
        let hot = produce("hot", vec![(0, batch("hot", Compression::None))]);
        connection.call(9, &hot).await.expect("is answered");

        let mut offsets = vec![0; PARTITIONS.unsigned_abs() as usize];
        // A look that finds the journal further than the last one did takes that for appends.
        fetch_on(&mut connection, "cold", &mut offsets, 1).await;
        client.io.sleep(Duration::from_secs(5)).await;
        offsets.fill(0);
        let (cold, hot) = fetch_on(&mut connection, "cold", &mut offsets, 8 << 20).await;
        assert!(cold.iter().all(|&bytes| bytes > 4 * value.len()) && hot > 0, "{cold:?}, {hot}");

        let is_over = Rc::new(Cell::new(false));
        let (mut other, until, io) = (client.connect().await, Rc::clone(&is_over), client.io.clone());
        let appends = client.io.spawn(async move {
            while !until.get() {
                let one = produce("busy", vec![(0, batch("small", Compression::None))]);
                other.call(9, &one).await.expect("is answered");
                io.sleep(Duration::from_millis(1)).await;
            }
        });
        client.io.sleep(Duration::from_millis(50)).await;
        let begun = client.io.now();
        offsets.fill(0);
        // What the limit leaves out is not waited for.
        let mut min_bytes = 8 << 20;
        while offsets.iter().any(|&offset| offset < 4) {
            let (cold, hot) = fetch_on(&mut connection, "cold", &mut offsets, min_bytes).await;
            let size_bytes: usize = cold.iter().sum();
            assert!((1..=PIECE_BYTES).contains(&size_bytes) && hot > 0, "{cold:?}, {hot}");
            min_bytes = 1;
        }
        assert!(client.io.now() - begun < Duration::from_secs(10), "nothing was waited for");
        is_over.set(true);
        appends.await;
    });
}

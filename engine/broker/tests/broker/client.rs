//! A broker in a directory of its own, and a client without any cleverness.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use highwater_broker::{Broker, BrokerConfig};
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::record::records;
use highwater_model::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use highwater_protocol::codec::{Request, StrBytes};
use highwater_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_protocol::messages::produce_response::PartitionProduceResponse;
use highwater_protocol::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, ProduceRequest, TopicName,
};
use highwater_protocol::{ErrorCode, decode_response, encode_request};

/// Whatever should happen has happened by then, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Names the `io.driver` of brokers under test, if it is set.
pub(crate) const IO_DRIVER: &str = "HIGHWATER_TEST_IO_DRIVER";

/// A broker, its directory, and how to start it again.
pub(crate) struct TestBroker {
    broker: Option<Broker>,
    config: BrokerConfig,
    dir: tempfile::TempDir,
}

impl TestBroker {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let mut broker = TestBroker::prepare(settings);
        broker.try_restart().expect("starts");
        broker
    }

    fn prepare(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = BrokerConfig::for_data_dir(dir.path());
        let small = [
            ("num.shards", "2"),
            ("num.partitions", "2"),
            ("journal.file.bytes", "4194304"),
            ("hot.tail.bytes", "16777216"),
        ];
        for (name, value) in small.iter().chain(settings) {
            config.set(name, value).expect("a valid setting");
        }
        if let Ok(driver) = std::env::var(IO_DRIVER) {
            config.set("io.driver", &driver).expect("a driver");
        }
        TestBroker { broker: None, config, dir }
    }

    /// With a log directory for each of `names`, in the broker's own.
    pub(crate) fn start_in(names: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut broker = TestBroker::prepare(settings);
        broker.use_dirs(names);
        broker.try_restart().expect("starts");
        broker
    }

    /// Stops without minding whether that is clean, and starts again.
    pub(crate) fn restart_unclean(&mut self) {
        drop(self.broker.take());
        self.try_restart().expect("starts again");
    }

    /// The log directories of the next start.
    pub(crate) fn use_dirs(&mut self, names: &[&str]) {
        let dirs: Vec<String> =
            names.iter().map(|name| self.dir.path().join(name).display().to_string()).collect();
        self.config.set("log.dirs", &dirs.join(",")).expect("valid");
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.config.set(name, value).expect("a valid setting");
    }

    pub(crate) fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("runs")
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.broker().addr()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    pub(crate) fn stop(&mut self) {
        self.broker.take().expect("runs").stop().expect("stops cleanly");
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.broker = Some(Broker::start(&self.config).expect("starts again"));
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Starts a stopped broker again, or says why it does not start.
    pub(crate) fn try_restart(&mut self) -> Result<(), String> {
        assert!(self.broker.is_none(), "it runs");
        self.broker = Some(Broker::start(&self.config).map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Creates a topic and gives its id.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> uuid::Uuid {
        let configs = configs.iter().map(|&(name, value)| {
            CreatableTopicConfig::default()
                .with_name(name.to_owned().into())
                .with_value(Some(value.to_owned().into()))
        });
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        let response = self.connect().call(7, &request);
        assert_eq!(ErrorCode(response.topics[0].error_code), ErrorCode::NONE, "{response:?}");
        response.topics[0].topic_id
    }
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    next_correlation_id: i32,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("connects");
        stream.set_nodelay(true).expect("can be set");
        stream.set_read_timeout(Some(PATIENCE)).expect("can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("can be set");
        Client { stream, next_correlation_id: 1 }
    }

    /// Sends a request, and gives its correlation id.
    pub(crate) fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let client_id = StrBytes::from_static_str("test");
        let frame = encode_request(version, id, Some(&client_id), request).expect("encodes");
        self.stream.write_all(&frame).expect("is sent");
        id
    }

    /// The next frame, without its size; `None` when the broker closed the connection.
    pub(crate) fn receive_frame(&mut self) -> Option<Bytes> {
        let mut size = [0; 4];
        match self.stream.read_exact(&mut size) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer in time"),
            Err(_) => return None,
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(size)).expect("a size")];
        self.stream.read_exact(&mut frame).expect("the whole frame");
        Some(frame.into())
    }

    pub(crate) fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let frame = self.receive_frame().expect("an answer");
        let (id, response) = decode_response::<R>(frame, version).expect("decodes");
        assert_eq!(id, correlation_id, "answers come in order");
        response
    }

    pub(crate) fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request);
        self.receive::<R>(version, id)
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        self.receive_frame().is_none()
    }

    /// Produces one batch, and gives the answer about its partition.
    pub(crate) fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        batch: Bytes,
    ) -> PartitionProduceResponse {
        let response = self.call(9, &produce_request(topic, acks, vec![(partition, batch)]));
        response.responses[0].partition_responses[0].clone()
    }

    /// Reads one partition from `offset` to its high watermark, and gives the values.
    pub(crate) fn fetch_values(&mut self, topic: &str, partition: i32, offset: i64) -> Vec<String> {
        let mut values = Vec::new();
        loop {
            let next = offset + i64::try_from(values.len()).expect("fits");
            let response = self.call(11, &fetch_request(&[(topic, partition, next)]));
            let data = &response.responses[0].partitions[0];
            assert_eq!(ErrorCode(data.error_code), ErrorCode::NONE);
            if next >= data.high_watermark {
                return values;
            }
            // The first batch may begin below the offset that was asked for; these tests ask for beginnings.
            values.extend(values_of(data.records.as_ref().expect("has records")));
        }
    }
}

/// A batch of records with these values.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    batch_of(values, Compression::None, ProducerStamp::NONE)
}

pub(crate) fn batch_of(values: &[&str], compression: Compression, producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for value in values {
        builder.push(&NewRecord {
            timestamp: Timestamp(1_700_000_000_000),
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        });
    }
    builder.build(producer).expect("a batch")
}

pub(crate) fn stamp(id: i64, epoch: i16, sequence: i32) -> ProducerStamp {
    ProducerStamp {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
    }
}

pub(crate) fn produce_request(topic: &str, acks: i16, batches: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partitions = batches.into_iter().map(|(partition, batch)| {
        PartitionProduceData::default().with_index(partition).with_records(Some(batch))
    });
    let topic =
        TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(partitions.collect());
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// A fetch of (topic, partition, offset), which does not wait.
pub(crate) fn fetch_request(partitions: &[(&str, i32, i64)]) -> FetchRequest {
    let topics = partitions.iter().map(|&(topic, partition, offset)| {
        let partition = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition])
    });
    FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(10 << 20)
        .with_session_epoch(-1)
        .with_topics(topics.collect())
}

/// The values of all records of one partition.
pub(crate) fn values(response: &FetchResponse, topic: &str, partition: i32) -> Vec<String> {
    let of_topic = response.responses.iter().filter(|found| *found.topic == *topic);
    let partitions = of_topic.flat_map(|topic| &topic.partitions);
    let found = partitions.filter(|found| found.partition_index == partition);
    found.flat_map(|data| values_of(data.records.as_deref().unwrap_or_default())).collect()
}

pub(crate) fn values_of(bytes: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    for header in highwater_model::batch::headers(bytes) {
        let (at, header) = header.expect("whole batches");
        let body = &bytes[at + highwater_model::batch::BATCH_HEADER_BYTES..at + header.size_bytes];
        let body = header.compression().expect("known").decompress(body, 1 << 20).expect("decompresses");
        for record in records(&body) {
            let value = record.expect("well formed").value.expect("has a value");
            values.push(String::from_utf8(value.to_vec()).expect("is text"));
        }
    }
    values
}

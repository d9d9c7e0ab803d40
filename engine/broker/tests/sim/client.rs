//! A client over the simulated network, and a ledger of what it was told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::net::TcpStream;
use highwater_io::{Io, IoBuf};
use highwater_model::Timestamp;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchBuilder, NewRecord, ProducerStamp, headers};
use highwater_model::compression::Compression;
use highwater_model::record::records;
use highwater_protocol::codec::{Request, StrBytes};
use highwater_protocol::messages::create_topics_request::CreatableTopic;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_protocol::messages::{CreateTopicsRequest, FetchRequest, ProduceRequest, TopicName};
use highwater_protocol::{ErrorCode, decode_response, encode_request};

pub(crate) const PARTITIONS: i32 = 3;

/// Requests that are sent before the first is answered.
const IN_FLIGHT: usize = 4;

/// What the client was told, and what it read.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Whether the topic's creation was acknowledged.
    is_created: bool,
    next_value: u64,
    /// Acknowledged values by partition and offset.
    acknowledged: BTreeMap<(i32, i64), u64>,
    /// Values that were sent, acknowledged or not.
    sent: BTreeMap<u64, i32>,
    /// What the last read found.
    read: BTreeMap<(i32, i64), u64>,
}

impl Ledger {
    /// Compares the last read with everything that was acknowledged.
    pub(crate) fn check(&mut self, seed: u64) {
        for (place, value) in &self.acknowledged {
            assert_eq!(self.read.get(place), Some(value), "seed {seed}: acknowledged at {place:?}");
        }
        let mut last: BTreeMap<i32, u64> = BTreeMap::new();
        for (&(partition, offset), &value) in &self.read {
            assert_eq!(self.sent.get(&value), Some(&partition), "seed {seed}: {value} was never sent there");
            let before = last.insert(partition, value);
            assert!(before.is_none_or(|before| before < value), "seed {seed}: order at {partition} {offset}");
        }
        // What survived without an acknowledgement has been read, and must not go again.
        self.acknowledged.extend(self.read.iter().map(|(place, value)| (*place, *value)));
    }
}

pub(crate) struct Client {
    io: Io,
    stream: TcpStream,
    next_correlation_id: i32,
}

/// The connection ended, as it does when the broker does.
struct Gone;

impl Client {
    /// Connects as soon as the broker listens.
    pub(crate) async fn connect(io: &Io, address: SocketAddr) -> Self {
        loop {
            match io.connect(address).await {
                Ok(stream) => return Client { io: io.clone(), stream, next_correlation_id: 1 },
                Err(_) => io.sleep(Duration::from_millis(1)).await,
            }
        }
    }

    async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), Gone> {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let client_id = StrBytes::from_static_str("sim");
        let frame = encode_request(version, id, Some(&client_id), request).expect("encodes");
        self.stream.send(vec![frame]).await.map_err(|_| Gone)
    }

    async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, Gone> {
        let size = self.stream.recv_into(IoBuf::with_capacity(4), 4).await.map_err(|_| Gone)?;
        let size = usize::try_from(i32::from_be_bytes([size[0], size[1], size[2], size[3]])).expect("a size");
        let frame = self.stream.recv_into(IoBuf::with_capacity(size), size).await.map_err(|_| Gone)?;
        Ok(decode_response::<R>(frame.freeze(), version).expect("decodes").1)
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Gone> {
        self.send(version, request).await?;
        self.receive::<R>(version).await
    }

    /// Creates the topic if need be, then produces until the connection ends.
    pub(crate) async fn produce(mut self, ledger: &RefCell<Ledger>) {
        let Err(Gone) = self.produce_until_gone(ledger).await;
    }

    async fn produce_until_gone(
        &mut self,
        ledger: &RefCell<Ledger>,
    ) -> Result<std::convert::Infallible, Gone> {
        let topic = CreatableTopic::default()
            .with_name(topic_name())
            .with_num_partitions(PARTITIONS)
            .with_replication_factor(1);
        let created = self.call(5, &CreateTopicsRequest::default().with_topics(vec![topic])).await?;
        let code = ErrorCode(created.topics[0].error_code);
        let is_first = code.is_none();
        assert!(is_first || code == ErrorCode::TOPIC_ALREADY_EXISTS, "{code}");
        assert!(!(is_first && ledger.borrow().is_created), "a created topic is gone");
        ledger.borrow_mut().is_created = true;
        let mut waiting = std::collections::VecDeque::new();
        loop {
            while waiting.len() < IN_FLIGHT {
                let (partition, values) = self.next_batch(ledger);
                self.send(9, &produce_request(partition, &values)).await?;
                waiting.push_back((partition, values));
            }
            let response = self.receive::<ProduceRequest>(9).await?;
            let answer = &response.responses[0].partition_responses[0];
            let (partition, values) = waiting.pop_front().expect("one waits");
            if ErrorCode(answer.error_code).is_none() {
                let mut ledger = ledger.borrow_mut();
                for (offset, value) in (answer.base_offset..).zip(values) {
                    let before = ledger.acknowledged.insert((partition, offset), value);
                    assert_eq!(before, None, "an offset is given once");
                }
            }
        }
    }

    fn next_batch(&self, ledger: &RefCell<Ledger>) -> (i32, Vec<u64>) {
        let mut ledger = ledger.borrow_mut();
        let random = self.io.random_u64();
        let partition = i32::try_from(random % 3).expect("small");
        let count = 1 + random / 3 % 5;
        let first = ledger.next_value;
        ledger.next_value += count;
        let values: Vec<u64> = (first..first + count).collect();
        ledger.sent.extend(values.iter().map(|&value| (value, partition)));
        (partition, values)
    }

    /// Reads every partition from the beginning to its high watermark.
    pub(crate) async fn read_everything(mut self, ledger: &RefCell<Ledger>) {
        ledger.borrow_mut().read.clear();
        for partition in 0..PARTITIONS {
            let mut offset = 0;
            loop {
                let Ok(response) = self.call(11, &fetch_request(partition, offset)).await else {
                    panic!("the broker ended while it was read");
                };
                let data = &response.responses[0].partitions[0];
                let code = ErrorCode(data.error_code);
                if code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION && !ledger.borrow().is_created {
                    return;
                }
                assert!(code.is_none(), "{code}");
                if offset >= data.high_watermark {
                    break;
                }
                for (at, value) in values_of(data.records.as_ref().expect("has records")) {
                    assert!(at >= offset);
                    offset = at + 1;
                    ledger.borrow_mut().read.insert((partition, at), value);
                }
            }
        }
    }
}

fn topic_name() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

fn produce_request(partition: i32, values: &[u64]) -> ProduceRequest {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        // Long enough to go round the journal soon.
        let text = format!("{value:0500}");
        builder.push(&NewRecord {
            timestamp: Timestamp(0),
            key: None,
            value: Some(text.as_bytes()),
            headers: &[],
        });
    }
    let batch = builder.build(ProducerStamp::NONE).expect("a batch");
    let partition = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(topic_name()).with_partition_data(vec![partition]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(60_000).with_topic_data(vec![topic])
}

fn fetch_request(partition: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(20_000);
    let topic = FetchTopic::default().with_topic(topic_name()).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(100_000)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

fn values_of(bytes: &Bytes) -> Vec<(i64, u64)> {
    let mut values = Vec::new();
    for header in headers(bytes) {
        let (at, header) = header.expect("whole batches");
        for record in records(&bytes[at + BATCH_HEADER_BYTES..at + header.size_bytes]) {
            let record = record.expect("well formed");
            let text = std::str::from_utf8(record.value.expect("has a value")).expect("is text");
            let offset = header.base_offset.0 + i64::from(record.offset_delta);
            values.push((offset, text.parse().expect("a number")));
        }
    }
    values
}

//! A Kafka cluster as a function: requests in, responses out, no socket, no thread, no time.
//!
//! It keeps one log a partition, which all its brokers see, checks sequences as Kafka does
//! (`ProducerAppendInfo.checkSequence`, with five batches remembered), and answers with the errors that a test asks for.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod net;
pub mod tcp;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_client::ErrorCode;
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use highwater_model::record;
use highwater_model::{LeaderEpoch, Offset};
use highwater_protocol::codec::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes};
use highwater_protocol::messages::api_versions_response::ApiVersion;
use highwater_protocol::messages::create_topics_response::CreatableTopicResult;
use highwater_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use highwater_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use highwater_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use highwater_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use highwater_protocol::messages::*;

/// What a partition does with the next batch it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing unusual.
    None,
    /// Refuse it with this error, before anything is appended.
    Refuse(ErrorCode),
    /// Append it, and answer with this error all the same.
    AppendThen(ErrorCode),
}

#[derive(Debug, Default)]
struct ProducerState {
    epoch: i16,
    /// First and last sequence, and base offset, of the last five batches.
    batches: VecDeque<(i32, i32, i64)>,
}

pub struct Partition {
    pub leader: i32,
    pub leader_epoch: i32,
    pub log_start_offset: i64,
    pub next_offset: i64,
    /// Whole batches with their offsets.
    pub log: Vec<Bytes>,
    /// Aborted transactions: producer id and first offset.
    pub aborted: Vec<(i64, i64)>,
    producers: BTreeMap<i64, ProducerState>,
}

impl Partition {
    /// Every record in the log: offset and value.
    pub fn records(&self) -> Vec<(i64, Vec<u8>)> {
        let mut all = Vec::new();
        for batch in &self.log {
            let header = batch::verify(batch).expect("only valid batches are stored");
            let codec = header.compression().expect("a known codec");
            let payload = codec
                .decompress(&batch[BATCH_HEADER_BYTES..], 1 << 30)
                .expect("only valid batches are stored");
            for record in record::records(&payload) {
                let record = record.expect("only valid batches are stored");
                all.push((
                    header.base_offset.0 + i64::from(record.offset_delta),
                    record.value.unwrap_or_default().to_vec(),
                ));
            }
        }
        all
    }

    /// A power cut that nothing survives.
    pub fn lose_everything(&mut self) {
        self.log.clear();
        self.next_offset = 0;
        self.producers.clear();
    }

    fn append(&mut self, bytes: &Bytes) -> Result<i64, ErrorCode> {
        let (header, _) = batch::validate(bytes).map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
        if let Some(duplicate_at) = self.check_sequence(&header)? {
            return Ok(duplicate_at);
        }
        let base_offset = self.next_offset;
        let mut stored = bytes.to_vec();
        batch::stamp(&mut stored, Offset(base_offset), LeaderEpoch(self.leader_epoch));
        self.next_offset += i64::from(header.record_count);
        self.log.push(stored.into());
        if header.is_idempotent() {
            let state = self.producers.entry(header.producer_id.0).or_default();
            if state.epoch != header.producer_epoch.0 {
                state.batches.clear();
            }
            state.epoch = header.producer_epoch.0;
            state.batches.push_back((header.base_sequence.0, header.last_sequence().0, base_offset));
            if state.batches.len() > 5 {
                state.batches.pop_front();
            }
        }
        Ok(base_offset)
    }

    fn check_sequence(&self, header: &BatchHeader) -> Result<Option<i64>, ErrorCode> {
        let Some(state) = self.producers.get(&header.producer_id.0).filter(|_| header.is_idempotent()) else {
            return Ok(None);
        };
        let (first, last) = (header.base_sequence.0, header.last_sequence().0);
        if header.producer_epoch.0 < state.epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if header.producer_epoch.0 > state.epoch {
            return if first == 0 { Ok(None) } else { Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) };
        }
        if let Some((.., offset)) = state.batches.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
            return Ok(Some(*offset));
        }
        let expected = state.batches.back().map_or(0, |(_, last, _)| last.wrapping_add(1) & i32::MAX);
        if first == expected { Ok(None) } else { Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) }
    }
}

pub struct Topic {
    pub id: uuid::Uuid,
    pub partitions: Vec<Partition>,
}

pub struct ModelCluster {
    /// Id, host and port.
    pub brokers: Vec<(i32, String, u16)>,
    pub topics: BTreeMap<String, Topic>,
    /// Highest version to advertise, by API key; the codec's highest where there is none.
    pub max_versions: BTreeMap<i16, i16>,
    /// Highest version of ApiVersions that is understood.
    pub max_api_versions: i16,
    /// Whether batches are kept. A null broker only counts them.
    pub keeps_log: bool,
    pub max_message_bytes: usize,
    /// Whether fetch sessions are given.
    pub gives_sessions: bool,
    /// By id: the next epoch, and what is fetched.
    pub sessions: BTreeMap<i32, (i32, BTreeMap<SessionKey, fetch_request::FetchPartition>)>,
    /// Partitions named in fetch requests so far.
    pub partitions_asked: usize,
    next_producer_id: i64,
}

/// Topic id, topic name, partition.
pub type SessionKey = (uuid::Uuid, TopicName, i32);

/// The part of a request that a model decodes first.
struct Head {
    api_key: i16,
    version: i16,
    correlation_id: i32,
}

impl ModelCluster {
    pub fn new(broker_count: i32) -> Self {
        ModelCluster {
            brokers: (1..=broker_count).map(|id| (id, format!("broker-{id}"), 9092)).collect(),
            topics: BTreeMap::new(),
            max_versions: BTreeMap::new(),
            max_api_versions: 4,
            keeps_log: true,
            max_message_bytes: usize::MAX,
            gives_sessions: true,
            sessions: BTreeMap::new(),
            partitions_asked: 0,
            next_producer_id: 1000,
        }
    }

    pub fn create_topic(&mut self, name: &str, partition_count: i32) {
        let id = uuid::Uuid::from_u128(0xfeed_0000 + self.topics.len() as u128);
        let brokers: Vec<i32> = self.brokers.iter().map(|(id, ..)| *id).collect();
        let partitions = (0..partition_count)
            .map(|index| Partition {
                leader: brokers[index as usize % brokers.len()],
                leader_epoch: 0,
                log_start_offset: 0,
                next_offset: 0,
                log: Vec::new(),
                aborted: Vec::new(),
                producers: BTreeMap::new(),
            })
            .collect();
        self.topics.insert(name.to_owned(), Topic { id, partitions });
    }

    pub fn partition(&mut self, topic: &str, index: i32) -> &mut Partition {
        &mut self.topics.get_mut(topic).expect("a topic of the test").partitions[index as usize]
    }

    pub fn broker_at(&self, host: &str, port: u16) -> Option<i32> {
        self.brokers.iter().find(|(_, h, p)| h == host && *p == port).map(|(id, ..)| *id)
    }

    /// Answers a frame (without its length) that came to `broker`, with a frame (without its length); `None` for
    /// produce with acks=0.
    pub fn handle(
        &mut self,
        broker: i32,
        frame: Bytes,
        mut fault: impl FnMut(&str, i32) -> Fault,
    ) -> Option<Bytes> {
        let (head, body) = parse_header(frame);
        match head.api_key {
            ApiVersionsRequest::KEY => Some(self.api_versions(&head)),
            MetadataRequest::KEY => {
                Some(respond::<MetadataRequest>(&head, body, |request| self.metadata(&request)))
            }
            InitProducerIdRequest::KEY => Some(respond::<InitProducerIdRequest>(&head, body, |_| {
                self.next_producer_id += 1;
                InitProducerIdResponse::default()
                    .with_producer_id(self.next_producer_id.into())
                    .with_producer_epoch(0)
            })),
            ProduceRequest::KEY => {
                let mut wants_answer = true;
                let answer = respond::<ProduceRequest>(&head, body, |request| {
                    wants_answer = request.acks != 0;
                    self.produce(broker, &request, head.version, &mut fault)
                });
                wants_answer.then_some(answer)
            }
            FetchRequest::KEY => Some(respond::<FetchRequest>(&head, body, |request| {
                self.fetch(broker, &request, head.version)
            })),
            ListOffsetsRequest::KEY => Some(respond::<ListOffsetsRequest>(&head, body, |request| {
                self.list_offsets(broker, &request)
            })),
            CreateTopicsRequest::KEY => Some(respond::<CreateTopicsRequest>(&head, body, |request| {
                let results = (request.topics.iter())
                    .map(|topic| {
                        let exists = self.topics.contains_key(topic.name.as_str());
                        if !exists {
                            self.create_topic(&topic.name, topic.num_partitions);
                        }
                        let code = if exists { ErrorCode::TOPIC_ALREADY_EXISTS } else { ErrorCode::NONE };
                        CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(code.0)
                    })
                    .collect();
                CreateTopicsResponse::default().with_topics(results)
            })),
            other => panic!("the model does not know API {other}"),
        }
    }

    fn api_versions(&self, head: &Head) -> Bytes {
        let version_of = |key: i16, min: i16, max: i16| {
            let max = self.max_versions.get(&key).copied().unwrap_or(max).min(max);
            ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
        };
        macro_rules! known {
            ($($request:ty),*) => {
                vec![$(version_of(<$request>::KEY, <$request>::VERSIONS.min, <$request>::VERSIONS.max)),*]
            };
        }
        let api_keys = known![
            ApiVersionsRequest,
            MetadataRequest,
            InitProducerIdRequest,
            ProduceRequest,
            FetchRequest,
            ListOffsetsRequest,
            CreateTopicsRequest
        ];
        let mut response = ApiVersionsResponse::default().with_api_keys(api_keys);
        let mut version = head.version;
        if version > self.max_api_versions {
            response = response.with_error_code(ErrorCode::UNSUPPORTED_VERSION.0);
            for api in &mut response.api_keys {
                if api.api_key == ApiVersionsRequest::KEY {
                    api.max_version = self.max_api_versions;
                }
            }
            version = 0;
        }
        let mut out = BytesMut::new();
        out.put_i32(head.correlation_id);
        response.encode(&mut out, version).expect("fits its schema");
        out.freeze()
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let brokers = (self.brokers.iter())
            .map(|(id, host, port)| {
                MetadataResponseBroker::default()
                    .with_node_id((*id).into())
                    .with_host(StrBytes::from_string(host.clone()))
                    .with_port((*port).into())
            })
            .collect();
        let topics = (request.topics.iter().flatten())
            .map(|asked| {
                let name = asked.name.clone().expect("asked by name");
                let answer = MetadataResponseTopic::default().with_name(Some(name.clone()));
                let Some(topic) = self.topics.get(name.as_str()) else {
                    return answer.with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
                };
                let partitions = (0..)
                    .zip(&topic.partitions)
                    .map(|(index, partition)| {
                        MetadataResponsePartition::default()
                            .with_partition_index(index)
                            .with_leader_id(partition.leader.into())
                            .with_leader_epoch(partition.leader_epoch)
                    })
                    .collect();
                answer.with_topic_id(topic.id).with_partitions(partitions)
            })
            .collect();
        let controller = self.brokers.first().map_or(-1, |(id, ..)| *id);
        MetadataResponse::default()
            .with_brokers(brokers)
            .with_topics(topics)
            .with_controller_id(controller.into())
    }

    fn topic_name(&self, id: uuid::Uuid, name: &TopicName, by_id: bool) -> Option<String> {
        if !by_id {
            return self.topics.contains_key(name.as_str()).then(|| name.to_string());
        }
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone())
    }

    fn produce(
        &mut self,
        broker: i32,
        request: &ProduceRequest,
        version: i16,
        fault: &mut impl FnMut(&str, i32) -> Fault,
    ) -> ProduceResponse {
        let responses = (request.topic_data.iter())
            .map(|data| {
                let name = self.topic_name(data.topic_id, &data.name, version >= 13);
                let partitions = (data.partition_data.iter())
                    .map(|partition| {
                        let records = partition.records.clone().unwrap_or_default();
                        let result = match &name {
                            Some(name) => self.produce_one(broker, name, partition.index, &records, fault),
                            None if version >= 13 => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                            None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                        };
                        let answer = PartitionProduceResponse::default().with_index(partition.index);
                        match result {
                            Ok(offset) => answer.with_base_offset(offset),
                            Err(code) => answer.with_error_code(code.0).with_base_offset(-1),
                        }
                    })
                    .collect();
                let answer = TopicProduceResponse::default().with_partition_responses(partitions);
                if version >= 13 {
                    answer.with_topic_id(data.topic_id)
                } else {
                    answer.with_name(data.name.clone())
                }
            })
            .collect();
        ProduceResponse::default().with_responses(responses)
    }

    fn produce_one(
        &mut self,
        broker: i32,
        topic: &str,
        index: i32,
        records: &Bytes,
        fault: &mut impl FnMut(&str, i32) -> Fault,
    ) -> Result<i64, ErrorCode> {
        let too_large = records.len() > self.max_message_bytes;
        let keeps_log = self.keeps_log;
        let partition = (self.topics.get_mut(topic))
            .and_then(|topic| topic.partitions.get_mut(index as usize))
            .ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if partition.leader != broker {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if too_large {
            return Err(ErrorCode::MESSAGE_TOO_LARGE);
        }
        if !keeps_log {
            let header = BatchHeader::parse(records).map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
            let base_offset = partition.next_offset;
            partition.next_offset += i64::from(header.record_count);
            return Ok(base_offset);
        }
        match fault(topic, index) {
            Fault::None => partition.append(records),
            Fault::Refuse(code) => Err(code),
            Fault::AppendThen(code) => partition.append(records).and(Err(code)),
        }
    }

    fn fetch(&mut self, broker: i32, request: &FetchRequest, version: i16) -> FetchResponse {
        let (session_id, wanted) = match self.session(request) {
            Ok(session) => session,
            Err(code) => return FetchResponse::default().with_error_code(code.0),
        };
        let is_incremental = request.session_epoch > 0;
        let mut left_bytes = request.max_bytes.max(0) as usize;
        let mut responses: Vec<FetchableTopicResponse> = Vec::new();
        for ((topic_id, topic_name, index), asked) in &wanted {
            let answer = PartitionData::default().with_partition_index(*index).with_records(None);
            let name = self.topic_name(*topic_id, topic_name, version >= 13);
            let partition = name
                .as_ref()
                .and_then(|name| self.topics.get(name))
                .and_then(|topic| topic.partitions.get(*index as usize));
            let answer = match partition {
                Some(partition) => fetch_one(partition, broker, asked, answer, &mut left_bytes),
                None => answer.with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0),
            };
            let has_news =
                answer.error_code != 0 || answer.records.as_ref().is_some_and(|bytes| !bytes.is_empty());
            if is_incremental && !has_news {
                continue;
            }
            let topic = FetchableTopicResponse::default().with_partitions(vec![answer]);
            responses.push(if version >= 13 {
                topic.with_topic_id(*topic_id)
            } else {
                topic.with_topic(topic_name.clone())
            });
        }
        FetchResponse::default().with_session_id(session_id).with_responses(responses)
    }

    /// The session's id, and everything that is fetched in it now.
    fn session(
        &mut self,
        request: &FetchRequest,
    ) -> Result<(i32, BTreeMap<SessionKey, fetch_request::FetchPartition>), ErrorCode> {
        let mut named: BTreeMap<SessionKey, fetch_request::FetchPartition> = BTreeMap::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                named.insert((topic.topic_id, topic.topic.clone(), partition.partition), partition.clone());
            }
        }
        self.partitions_asked += named.len();
        if request.session_epoch <= 0 {
            self.sessions.remove(&request.session_id);
            if request.session_epoch < 0 || !self.gives_sessions {
                return Ok((0, named));
            }
            let id = self.sessions.last_key_value().map_or(100, |(id, _)| id + 1);
            self.sessions.insert(id, (1, named.clone()));
            return Ok((id, named));
        }
        let (epoch, partitions) =
            self.sessions.get_mut(&request.session_id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if *epoch != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        *epoch += 1;
        for topic in &request.forgotten_topics_data {
            for index in &topic.partitions {
                let gone = partitions.remove(&(topic.topic_id, topic.topic.clone(), *index));
                assert!(gone.is_some(), "forgets what it never asked for");
            }
        }
        partitions.extend(named);
        Ok((request.session_id, partitions.clone()))
    }

    fn list_offsets(&mut self, broker: i32, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let topics = (request.topics.iter())
            .map(|asked| {
                let partitions = (asked.partitions.iter())
                    .map(|p| {
                        let answer = ListOffsetsPartitionResponse::default()
                            .with_partition_index(p.partition_index)
                            .with_offset(-1)
                            .with_timestamp(-1);
                        let topic = self.topics.get(asked.name.as_str());
                        let Some(partition) =
                            topic.and_then(|topic| topic.partitions.get(p.partition_index as usize))
                        else {
                            return answer.with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
                        };
                        if partition.leader != broker {
                            return answer.with_error_code(ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
                        }
                        match p.timestamp {
                            -2 => answer.with_offset(partition.log_start_offset),
                            _ => answer.with_offset(partition.next_offset),
                        }
                    })
                    .collect();
                ListOffsetsTopicResponse::default().with_name(asked.name.clone()).with_partitions(partitions)
            })
            .collect();
        ListOffsetsResponse::default().with_topics(topics)
    }
}

fn fetch_one(
    partition: &Partition,
    broker: i32,
    asked: &fetch_request::FetchPartition,
    answer: PartitionData,
    left_bytes: &mut usize,
) -> PartitionData {
    if partition.leader != broker {
        return answer.with_error_code(ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
    }
    if asked.fetch_offset < partition.log_start_offset || asked.fetch_offset > partition.next_offset {
        return answer
            .with_error_code(ErrorCode::OFFSET_OUT_OF_RANGE.0)
            .with_log_start_offset(partition.log_start_offset);
    }
    let mut out = BytesMut::new();
    for batch in &partition.log {
        let header = BatchHeader::parse(batch).expect("only valid batches are stored");
        if header.last_offset().0 < asked.fetch_offset {
            continue;
        }
        let limit = (asked.partition_max_bytes.max(0) as usize).min(*left_bytes);
        if !out.is_empty() && out.len() + batch.len() > limit {
            // Brokers cut the last batch where the limit falls.
            out.extend_from_slice(&batch[..limit.saturating_sub(out.len()).min(batch.len())]);
            break;
        }
        out.extend_from_slice(batch);
    }
    *left_bytes = left_bytes.saturating_sub(out.len());
    let aborted = (partition.aborted.iter())
        .map(|(producer_id, first)| {
            fetch_response::AbortedTransaction::default()
                .with_producer_id((*producer_id).into())
                .with_first_offset(*first)
        })
        .collect();
    answer
        .with_aborted_transactions(Some(aborted))
        .with_high_watermark(partition.next_offset)
        .with_last_stable_offset(partition.next_offset)
        .with_log_start_offset(partition.log_start_offset)
        .with_records(Some(out.freeze()))
}

fn parse_header(mut frame: Bytes) -> (Head, Bytes) {
    let api_key = i16::from_be_bytes(frame[..2].try_into().expect("two bytes"));
    let version = i16::from_be_bytes(frame[2..4].try_into().expect("two bytes"));
    let correlation_id = i32::from_be_bytes(frame[4..8].try_into().expect("four bytes"));
    if api_key == ApiVersionsRequest::KEY && version > 4 {
        return (Head { api_key, version, correlation_id }, Bytes::new());
    }
    let header_version = ApiKey::try_from(api_key).expect("a known API").request_header_version(version);
    RequestHeader::decode(&mut frame, header_version).expect("a well-formed header");
    (Head { api_key, version, correlation_id }, frame)
}

fn respond<R: Request>(head: &Head, mut body: Bytes, answer: impl FnOnce(R) -> R::Response) -> Bytes {
    let request = R::decode(&mut body, head.version).expect("a well-formed request");
    assert!(!body.has_remaining(), "bytes after the request");
    let response = answer(request);
    let mut out = BytesMut::new();
    out.put_i32(head.correlation_id);
    if R::Response::header_version(head.version) >= 1 {
        out.put_u8(0);
    }
    response.encode(&mut out, head.version).expect("the response fits its schema");
    out.freeze()
}

//! The stand-in's connections: one thread each, one request at a time, answered in order.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use highwater_protocol::codec::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use highwater_protocol::messages::api_versions_response::ApiVersion;
use highwater_protocol::messages::create_topics_response::CreatableTopicResult;
use highwater_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use highwater_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use highwater_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use highwater_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use highwater_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use highwater_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, CreateTopicsRequest, CreateTopicsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, FetchRequest, FetchResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    ProduceRequest, ProduceResponse, ProducerId, RequestHeader, ResponseHeader,
};

use super::store::{Store, Topic};
use super::{Config, Lie};
use crate::broker::admin::EARLIEST;

const NODE_ID: i32 = 1;
/// Larger frames are refused by closing the connection.
const MAX_FRAME_BYTES: usize = 128 << 20;
/// How long a fetch at the end of a log waits before it answers with nothing.
const EMPTY_FETCH_WAIT: Duration = Duration::from_millis(5);

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const KAFKA_STORAGE_ERROR: i16 = 56;
const RESOURCE_TOPIC: i8 = 2;

/// What is served, and in which versions: topics by name only.
const SERVED: [(ApiKey, i16, i16); 8] = [
    (ApiKey::Produce, 3, 9),
    (ApiKey::Fetch, 4, 12),
    (ApiKey::ListOffsets, 1, 7),
    (ApiKey::Metadata, 0, 9),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::CreateTopics, 2, 6),
    (ApiKey::InitProducerId, 0, 4),
    (ApiKey::DescribeConfigs, 1, 4),
];

struct Server {
    store: Store,
    address: SocketAddr,
    next_producer_id: AtomicI64,
    lie: Lie,
}

/// Serves until the process ends.
pub fn serve(config: &Config) -> io::Result<()> {
    if config.lie != Lie::None {
        eprintln!("stand-in: this broker lies ({:?})", config.lie);
    }
    let store = Store::open(&config.data_dir, config.keep, config.lie)?;
    let listener = TcpListener::bind(config.listen)?;
    let address = listener.local_addr()?;
    let next_producer_id = AtomicI64::new(first_producer_id());
    let server = Arc::new(Server { store, address, next_producer_id, lie: config.lie });
    eprintln!("stand-in: listening on {address}");
    for stream in listener.incoming() {
        let stream = stream?;
        let server = server.clone();
        std::thread::Builder::new().name("connection".into()).spawn(move || {
            if let Err(error) = server.converse(&stream)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                eprintln!("stand-in: {error}");
            }
        })?;
    }
    Ok(())
}

/// Producer ids must not repeat over restarts, and nothing is kept that could tell.
fn first_producer_id() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(0)
}

impl Server {
    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = stream;
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length > MAX_FRAME_BYTES {
                return Err(invalid(format!("a frame of {length} bytes")));
            }
            let mut frame = BytesMut::zeroed(length);
            stream.read_exact(&mut frame)?;
            if let Some(response) = self.answer(frame.freeze())? {
                stream.write_all(&response)?;
            }
        }
    }

    fn answer(&self, mut frame: Bytes) -> io::Result<Option<Bytes>> {
        let key_and_version = frame.get(..4).ok_or_else(|| invalid("a frame without a header".into()))?;
        let number = i16::from_be_bytes([key_and_version[0], key_and_version[1]]);
        let version = i16::from_be_bytes([key_and_version[2], key_and_version[3]]);
        let key = ApiKey::try_from(number).map_err(|()| invalid(format!("API key {number}")))?;
        let header =
            RequestHeader::decode(&mut frame, key.request_header_version(version)).map_err(foreign)?;
        let served = SERVED.iter().any(|&(api, min, max)| api == key && (min..=max).contains(&version));
        if !served && key == ApiKey::ApiVersions {
            return respond::<ApiVersionsRequest>(&header, 0, &api_versions(UNSUPPORTED_VERSION)).map(Some);
        }
        if !served {
            return Err(invalid(format!("{key:?} version {version} is not served")));
        }
        match key {
            ApiKey::ApiVersions => {
                respond::<ApiVersionsRequest>(&header, version, &api_versions(0)).map(Some)
            }
            ApiKey::Produce => {
                let request = decode::<ProduceRequest>(&mut frame, version)?;
                let response = self.produce(&request);
                if request.acks == 0 {
                    return Ok(None);
                }
                respond::<ProduceRequest>(&header, version, &response).map(Some)
            }
            ApiKey::Fetch => self.handle::<FetchRequest>(&header, &mut frame, Self::fetch),
            ApiKey::ListOffsets => self.handle::<ListOffsetsRequest>(&header, &mut frame, Self::list_offsets),
            ApiKey::Metadata => self.handle::<MetadataRequest>(&header, &mut frame, Self::metadata),
            ApiKey::CreateTopics => {
                self.handle::<CreateTopicsRequest>(&header, &mut frame, Self::create_topics)
            }
            ApiKey::InitProducerId => {
                self.handle::<InitProducerIdRequest>(&header, &mut frame, Self::init_producer_id)
            }
            _ => self.handle::<DescribeConfigsRequest>(&header, &mut frame, Self::describe_configs),
        }
    }

    fn handle<R: Request>(
        &self,
        header: &RequestHeader,
        frame: &mut Bytes,
        handler: impl FnOnce(&Self, &R) -> R::Response,
    ) -> io::Result<Option<Bytes>> {
        let version = header.request_api_version;
        let request = decode::<R>(frame, version)?;
        respond::<R>(header, version, &handler(self, &request)).map(Some)
    }

    fn produce(&self, request: &ProduceRequest) -> ProduceResponse {
        let topics = request.topic_data.iter().map(|data| {
            let topic = self.store.topic(&data.name);
            let partitions = data.partition_data.iter().map(|partition| {
                let records = partition.records.as_deref().unwrap_or_default();
                let (code, base_offset) = append(topic.as_deref(), partition.index, records);
                PartitionProduceResponse::default()
                    .with_index(partition.index)
                    .with_error_code(code)
                    .with_base_offset(base_offset)
                    .with_log_append_time_ms(-1)
                    .with_log_start_offset(0)
            });
            TopicProduceResponse::default()
                .with_name(data.name.clone())
                .with_partition_responses(partitions.collect())
        });
        ProduceResponse::default().with_responses(topics.collect())
    }

    fn fetch(&self, request: &FetchRequest) -> FetchResponse {
        if self.lie == Lie::EndAtFetch {
            eprintln!("stand-in: asked for records, of all things");
            std::process::exit(7);
        }
        let mut left = usize::try_from(request.max_bytes).unwrap_or(0);
        let mut empty = true;
        let mut topics = Vec::new();
        for asked in &request.topics {
            let topic = self.store.topic(&asked.topic);
            let mut partitions = Vec::new();
            for partition in &asked.partitions {
                let max_bytes = usize::try_from(partition.partition_max_bytes).unwrap_or(0).min(left);
                let data =
                    fetch_partition(topic.as_deref(), partition.partition, partition.fetch_offset, max_bytes);
                let bytes = data.records.as_ref().map_or(0, Bytes::len);
                left = left.saturating_sub(bytes);
                empty &= bytes == 0 && data.error_code == 0;
                partitions.push(data);
            }
            topics.push(
                FetchableTopicResponse::default().with_topic(asked.topic.clone()).with_partitions(partitions),
            );
        }
        if empty {
            std::thread::sleep(EMPTY_FETCH_WAIT);
        }
        FetchResponse::default().with_responses(topics)
    }

    fn list_offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let topics = request.topics.iter().map(|asked| {
            let topic = self.store.topic(&asked.name);
            let partitions = asked.partitions.iter().map(|partition| {
                let end = topic.as_deref().and_then(|topic| topic.end(index(partition.partition_index)));
                let fenced =
                    topic.as_deref().is_some_and(|topic| topic.is_fenced(index(partition.partition_index)));
                let offset = if partition.timestamp == EARLIEST { end.map(|_| 0) } else { end };
                let code = match offset {
                    _ if fenced => KAFKA_STORAGE_ERROR,
                    Some(_) => 0,
                    None => UNKNOWN_TOPIC_OR_PARTITION,
                };
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code)
                    .with_offset(offset.unwrap_or(-1))
                    .with_timestamp(-1)
            });
            ListOffsetsTopicResponse::default()
                .with_name(asked.name.clone())
                .with_partitions(partitions.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let names: Vec<String> = match &request.topics {
            Some(topics) => {
                topics.iter().filter_map(|topic| topic.name.as_ref()).map(|name| name.to_string()).collect()
            }
            None => self.store.names(),
        };
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(NODE_ID))
            .with_host(StrBytes::from_string(self.address.ip().to_string()))
            .with_port(i32::from(self.address.port()));
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_static_str("stand-in")))
            .with_controller_id(BrokerId(NODE_ID))
            .with_topics(names.iter().map(|name| self.describe_topic(name)).collect())
    }

    fn describe_topic(&self, name: &str) -> MetadataResponseTopic {
        let described =
            MetadataResponseTopic::default().with_name(Some(crate::broker::admin::topic_name(name)));
        let Some(topic) = self.store.topic(name) else {
            return described.with_error_code(UNKNOWN_TOPIC_OR_PARTITION);
        };
        let partition = |index: usize| {
            MetadataResponsePartition::default()
                .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
                .with_leader_id(BrokerId(NODE_ID))
                .with_leader_epoch(0)
                .with_replica_nodes(vec![BrokerId(NODE_ID)])
                .with_isr_nodes(vec![BrokerId(NODE_ID)])
        };
        described.with_partitions((0..topic.partition_count()).map(partition).collect())
    }

    fn create_topics(&self, request: &CreateTopicsRequest) -> CreateTopicsResponse {
        let topics = request.topics.iter().map(|asked| {
            let settings: BTreeMap<String, String> = asked
                .configs
                .iter()
                .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())))
                .collect();
            let code = match self.store.create(&asked.name, index(asked.num_partitions.max(1)), settings) {
                Ok(true) => 0,
                Ok(false) => TOPIC_ALREADY_EXISTS,
                Err(error) => storage_error(&error),
            };
            CreatableTopicResult::default().with_name(asked.name.clone()).with_error_code(code)
        });
        CreateTopicsResponse::default().with_topics(topics.collect())
    }

    fn init_producer_id(&self, _request: &InitProducerIdRequest) -> InitProducerIdResponse {
        let id = self.next_producer_id.fetch_add(1, Ordering::Relaxed);
        InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0)
    }

    fn describe_configs(&self, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
        let results = request.resources.iter().map(|resource| {
            let topic = self
                .store
                .topic(&resource.resource_name)
                .filter(|_| resource.resource_type == RESOURCE_TOPIC);
            let settings = topic.map(|topic| topic.settings.clone()).unwrap_or_default();
            let configs = settings.iter().map(|(name, value)| {
                DescribeConfigsResourceResult::default()
                    .with_name(StrBytes::from_string(name.clone()))
                    .with_value(Some(StrBytes::from_string(value.clone())))
            });
            DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_configs(configs.collect())
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }
}

fn append(topic: Option<&Topic>, partition: i32, records: &[u8]) -> (i16, i64) {
    match topic.map(|topic| topic.append(index(partition), records)) {
        Some(Ok(Some(base_offset))) => (0, base_offset),
        Some(Ok(None)) | None => (UNKNOWN_TOPIC_OR_PARTITION, -1),
        Some(Err(error)) => (storage_error(&error), -1),
    }
}

fn fetch_partition(topic: Option<&Topic>, partition: i32, offset: i64, max_bytes: usize) -> PartitionData {
    let data =
        PartitionData::default().with_partition_index(partition).with_preferred_read_replica(BrokerId(-1));
    let (Some(topic), Some(end)) = (topic, topic.and_then(|topic| topic.end(index(partition)))) else {
        return data.with_error_code(UNKNOWN_TOPIC_OR_PARTITION);
    };
    let data = data.with_high_watermark(end).with_last_stable_offset(end).with_log_start_offset(0);
    match topic.read(index(partition), offset, max_bytes) {
        Ok(Some(bytes)) => data.with_records(Some(Bytes::from(bytes))),
        Ok(None) => data.with_error_code(OFFSET_OUT_OF_RANGE),
        Err(error) => data.with_error_code(storage_error(&error)),
    }
}

fn api_versions(error_code: i16) -> ApiVersionsResponse {
    let served = SERVED.iter().map(|&(key, min, max)| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max)
    });
    ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(served.collect())
}

fn decode<R: Decodable>(frame: &mut Bytes, version: i16) -> io::Result<R> {
    R::decode(frame, version).map_err(foreign)
}

fn respond<R: Request>(header: &RequestHeader, version: i16, response: &R::Response) -> io::Result<Bytes> {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    ResponseHeader::default()
        .with_correlation_id(header.correlation_id)
        .encode(&mut frame, R::Response::header_version(version))
        .and_then(|()| response.encode(&mut frame, version))
        .map_err(foreign)?;
    let length = i32::try_from(frame.len() - 4).map_err(|error| invalid(error.to_string()))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// A negative number names no partition, and neither does this.
fn index(partition: i32) -> usize {
    usize::try_from(partition).unwrap_or(usize::MAX)
}

fn storage_error(error: &io::Error) -> i16 {
    eprintln!("stand-in: {error}");
    KAFKA_STORAGE_ERROR
}

fn foreign(error: impl std::fmt::Display) -> io::Error {
    invalid(error.to_string())
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

//! What the harness asks of a broker besides records: is it ready, make a topic, what is in effect, where do logs end.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use highwater_model::Timestamp;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use highwater_protocol::messages::describe_configs_request::DescribeConfigsResource;
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_protocol::messages::{
    BrokerId, CreateTopicsRequest, DescribeConfigsRequest, ListOffsetsRequest, MetadataRequest,
    ProduceRequest, TopicName,
};

use super::wire::{Connection, WireError};

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Bytes of records in one request of [`fill`].
const FILL_BYTES: usize = 4 << 20;
const CREATE_TIMEOUT_MS: i32 = 30_000;

/// ListOffsets' name for the log start.
pub const EARLIEST: i64 = -2;
/// ListOffsets' name for the end that consumers see.
pub const LATEST: i64 = -1;

/// Why a broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No response.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A response that is a refusal.
    #[error("{request} of {subject} was refused with Kafka's error code {code}{}", message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
    Refused {
        /// What was asked.
        request: &'static str,
        /// About what.
        subject: String,
        /// Kafka's code.
        code: i16,
        /// The broker's own words.
        message: Option<String>,
    },
}

/// Settings in effect, by name.
pub type Settings = BTreeMap<String, String>;

/// A broker's id and how many of a topic's partitions have a leader; the id is `None` while the broker does not count
/// itself among the live ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// `node.id` of the first broker.
    pub broker_id: Option<i32>,
    /// Partitions with a leader.
    pub led_partitions: usize,
}

/// Asks for the state of the broker, and of `topic` if there is one.
pub fn readiness(connection: &mut Connection, topic: Option<&str>) -> Result<Readiness, WireError> {
    let topics = topic.map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))));
    let request = MetadataRequest::default()
        .with_topics(Some(topics.into_iter().collect()))
        .with_allow_auto_topic_creation(false);
    let response = connection.call(&request, 9)?;
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    Ok(Readiness {
        broker_id: response.brokers.first().map(|broker| broker.node_id.0),
        led_partitions: partitions
            .filter(|partition| partition.error_code == 0 && partition.leader_id.0 >= 0)
            .count(),
    })
}

/// Creates a topic with one replica a partition.
pub fn create_topic(
    connection: &mut Connection,
    name: &str,
    partitions: i32,
    configs: &Settings,
) -> Result<(), AdminError> {
    let config = |(name, value): (&String, &String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(CREATE_TIMEOUT_MS);
    let response = connection.call(&request, 5)?;
    match response.topics.iter().find(|topic| topic.error_code != 0) {
        None => Ok(()),
        Some(refused) => Err(AdminError::Refused {
            request: "creation",
            subject: format!("topic {name}"),
            code: refused.error_code,
            message: refused.error_message.as_ref().map(|message| message.to_string()),
        }),
    }
}

/// Appends one batch of records to each partition of a topic.
pub fn fill(
    connection: &mut Connection,
    topic: &str,
    partitions: i32,
    records: usize,
    record_size_bytes: usize,
) -> Result<(), AdminError> {
    let value = vec![0x5a; record_size_bytes];
    let mut builder = BatchBuilder::new(Compression::None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = Timestamp(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    for _ in 0..records {
        builder.push(&NewRecord { timestamp, value: Some(&value), ..NewRecord::default() });
    }
    let batch = builder.build(ProducerStamp::NONE).expect("a few records make a batch");
    let at_once = (FILL_BYTES / batch.len()).max(1);
    let all: Vec<i32> = (0..partitions).collect();
    for some in all.chunks(at_once) {
        let data = some.iter().map(|&index| {
            PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()))
        });
        let topic_data =
            TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(data.collect());
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(CREATE_TIMEOUT_MS)
            .with_topic_data(vec![topic_data]);
        let response = connection.call(&request, 9)?;
        let answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        if let Some(refused) = answers.into_iter().find(|answer| answer.error_code != 0) {
            return Err(AdminError::Refused {
                request: "filling",
                subject: format!("{topic}-{}", refused.index),
                code: refused.error_code,
                message: refused.error_message.as_ref().map(|message| message.to_string()),
            });
        }
    }
    Ok(())
}

/// The settings in effect of a topic.
pub fn topic_settings(connection: &mut Connection, topic: &str) -> Result<Settings, AdminError> {
    describe(connection, RESOURCE_TOPIC, topic)
}

/// The settings in effect of a broker.
pub fn broker_settings(connection: &mut Connection, broker_id: i32) -> Result<Settings, AdminError> {
    describe(connection, RESOURCE_BROKER, &broker_id.to_string())
}

fn describe(connection: &mut Connection, kind: i8, name: &str) -> Result<Settings, AdminError> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let response = connection.call(&DescribeConfigsRequest::default().with_resources(vec![resource]), 4)?;
    let mut settings = Settings::new();
    for result in response.results {
        if result.error_code != 0 {
            return Err(AdminError::Refused {
                request: "description",
                subject: name.to_owned(),
                code: result.error_code,
                message: result.error_message.as_ref().map(|message| message.to_string()),
            });
        }
        settings.extend(
            result
                .configs
                .iter()
                .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string()))),
        );
    }
    Ok(settings)
}

/// One end of every partition's log, by partition: [`EARLIEST`] or [`LATEST`].
pub fn list_offsets(
    connection: &mut Connection,
    topic: &str,
    partitions: i32,
    isolation_level: i8,
    which: i64,
) -> Result<Vec<i64>, AdminError> {
    let answers = log_ends(connection, topic, partitions, isolation_level, which)?;
    let refused = |(partition, answer): (usize, Result<i64, i16>)| {
        answer.map_err(|code| AdminError::Refused {
            request: "listing the offsets",
            subject: format!("{topic}-{partition}"),
            code,
            message: None,
        })
    };
    answers.into_iter().enumerate().map(refused).collect()
}

/// The same, where some partitions may refuse: the offset or Kafka's error code. A partition of which the answer says
/// nothing is an unknown one (3).
pub fn log_ends(
    connection: &mut Connection,
    topic: &str,
    partitions: i32,
    isolation_level: i8,
    which: i64,
) -> Result<Vec<Result<i64, i16>>, WireError> {
    let partition = |index| {
        ListOffsetsPartition::default()
            .with_partition_index(index)
            .with_timestamp(which)
            .with_current_leader_epoch(-1)
    };
    let topics = vec![
        ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions((0..partitions).map(partition).collect()),
    ];
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation_level)
        .with_topics(topics);
    let response = connection.call(&request, 6)?;
    let mut ends = vec![Err(UNKNOWN_TOPIC_OR_PARTITION); usize::try_from(partitions).unwrap_or(0)];
    for answer in response.topics.iter().flat_map(|topic| &topic.partitions) {
        let place = usize::try_from(answer.partition_index).ok();
        if let Some(slot) = place.and_then(|index| ends.get_mut(index)) {
            *slot = if answer.error_code == 0 { Ok(answer.offset) } else { Err(answer.error_code) };
        }
    }
    Ok(ends)
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A topic's name on the wire.
#[must_use]
pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

//! The operations of an administrator: each a plain description of what is wanted, and of what comes back.
//!
//! What is not here can be had all the same: implement [`Operation`] for a type of your own.

use std::time::Duration;

use highwater_model::{BrokerId, LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId};
use highwater_protocol::ErrorCode;
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use highwater_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use highwater_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use highwater_protocol::messages::delete_topics_request::DeleteTopicState;
use highwater_protocol::messages::describe_configs_request::DescribeConfigsResource;
use highwater_protocol::messages::elect_leaders_request::TopicPartitions;
use highwater_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::{
    BrokerId as WireBrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse, ElectLeadersRequest,
    ElectLeadersResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse, TopicName,
};

use super::{Operation, Target};
use crate::config::IsolationLevel;
use crate::error_code::check;

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

fn brokers(ids: &[WireBrokerId]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(id.0)).collect()
}

/// An error of one item, with the broker's explanation if it gave one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}", .message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
pub struct ItemError {
    /// The code.
    pub code: ErrorCode,
    /// The explanation.
    pub message: Option<String>,
}

fn item_result(code: i16, message: Option<&StrBytes>) -> Result<(), ItemError> {
    check(ErrorCode(code))
        .map_err(|code| ItemError { code, message: message.map(|message| message.to_string()) })
}

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions; −1 for the broker's default.
    pub partition_count: i32,
    /// Number of replicas; −1 for the broker's default.
    pub replication_factor: i16,
    /// The replicas of each partition, preferred leader first, in place of the two numbers. Empty: the broker chooses.
    pub assignments: Vec<Vec<BrokerId>>,
    /// Settings of the topic.
    pub configs: Vec<(String, String)>,
}

/// Creates topics.
#[derive(Debug, Clone)]
pub struct CreateTopics {
    /// The topics.
    pub topics: Vec<NewTopic>,
    /// How long the broker may wait for the creation to be complete.
    pub timeout: Duration,
}

impl Operation for CreateTopics {
    type Request = CreateTopicsRequest;
    type Output = Vec<(String, Result<(), ItemError>)>;

    fn request(&self, _version: i16) -> CreateTopicsRequest {
        let topics = (self.topics.iter())
            .map(|topic| {
                let configs = (topic.configs.iter())
                    .map(|(name, value)| {
                        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
                    })
                    .collect();
                let assignments: Vec<_> = (0..)
                    .zip(&topic.assignments)
                    .map(|(index, replicas)| {
                        CreatableReplicaAssignment::default()
                            .with_partition_index(index)
                            .with_broker_ids(replicas.iter().map(|id| WireBrokerId(id.0)).collect())
                    })
                    .collect();
                let by_hand = !assignments.is_empty();
                CreatableTopic::default()
                    .with_name(topic_name(&topic.name))
                    .with_num_partitions(if by_hand { -1 } else { topic.partition_count })
                    .with_replication_factor(if by_hand { -1 } else { topic.replication_factor })
                    .with_assignments(assignments)
                    .with_configs(configs)
            })
            .collect();
        CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(millis(self.timeout))
    }

    fn output(&self, response: CreateTopicsResponse) -> Self::Output {
        (response.topics.iter())
            .map(|topic| {
                (topic.name.to_string(), item_result(topic.error_code, topic.error_message.as_ref()))
            })
            .collect()
    }
}

/// Deletes topics.
#[derive(Debug, Clone)]
pub struct DeleteTopics {
    /// Their names.
    pub names: Vec<String>,
    /// How long the broker may wait for the deletion to be complete.
    pub timeout: Duration,
}

impl Operation for DeleteTopics {
    type Request = DeleteTopicsRequest;
    type Output = Vec<(String, Result<(), ItemError>)>;

    fn request(&self, version: i16) -> DeleteTopicsRequest {
        let request = DeleteTopicsRequest::default().with_timeout_ms(millis(self.timeout));
        let names = self.names.iter().map(|name| topic_name(name));
        if version >= 6 {
            request.with_topics(names.map(|name| DeleteTopicState::default().with_name(Some(name))).collect())
        } else {
            request.with_topic_names(names.collect())
        }
    }

    fn output(&self, response: DeleteTopicsResponse) -> Self::Output {
        (response.responses.iter())
            .map(|topic| {
                let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
                (name, item_result(topic.error_code, topic.error_message.as_ref()))
            })
            .collect()
    }
}

/// Raises the number of partitions of a topic.
#[derive(Debug, Clone)]
pub struct CreatePartitions {
    /// The topic.
    pub name: String,
    /// The new number, not the number to add.
    pub total_count: i32,
    /// How long the broker may wait for the creation to be complete.
    pub timeout: Duration,
}

impl Operation for CreatePartitions {
    type Request = CreatePartitionsRequest;
    type Output = Result<(), ItemError>;

    fn request(&self, _version: i16) -> CreatePartitionsRequest {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(&self.name))
            .with_count(self.total_count)
            .with_assignments(None);
        CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(self.timeout))
    }

    fn output(&self, response: CreatePartitionsResponse) -> Self::Output {
        match response.results.first() {
            Some(result) => item_result(result.error_code, result.error_message.as_ref()),
            None => item_result(ErrorCode::UNKNOWN_SERVER_ERROR.0, None),
        }
    }
}

/// Describes the cluster and topics.
#[derive(Debug, Clone)]
pub struct DescribeCluster {
    /// The topics; all if `None`.
    pub topics: Option<Vec<String>>,
    /// Who is asked: brokers' views lag behind each other.
    pub target: Target,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerDescription {
    /// Its id.
    pub id: BrokerId,
    /// Host that it advertises.
    pub host: String,
    /// Port that it advertises.
    pub port: u16,
}

/// A partition, as a broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its index.
    pub index: PartitionIndex,
    /// Its leader, if it has one.
    pub leader: Option<BrokerId>,
    /// The leader's epoch; −1 where the version does not tell.
    pub leader_epoch: LeaderEpoch,
    /// Its replicas, preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub in_sync_replicas: Vec<BrokerId>,
    /// Those that are offline.
    pub offline_replicas: Vec<BrokerId>,
}

/// A topic, as a broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id; [`TopicId::NIL`] where the version does not tell.
    pub id: TopicId,
    /// Its partitions, or why there are none.
    pub partitions: Result<Vec<PartitionDescription>, ErrorCode>,
}

/// A cluster, as a broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// The cluster's id, if it has one.
    pub cluster_id: Option<String>,
    /// The controller, if there is one.
    pub controller: Option<BrokerId>,
    /// The brokers.
    pub brokers: Vec<BrokerDescription>,
    /// The topics that were asked for.
    pub topics: Vec<TopicDescription>,
}

impl Operation for DescribeCluster {
    type Request = MetadataRequest;
    type Output = ClusterDescription;

    fn target(&self) -> Target {
        self.target
    }

    fn request(&self, version: i16) -> MetadataRequest {
        let topics = self.topics.as_ref().map(|names| {
            let topic = |name: &String| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        // Version 0 has no null: an empty list is all.
        let topics = if version == 0 { Some(topics.unwrap_or_default()) } else { topics };
        MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(version < 4)
    }

    fn output(&self, response: MetadataResponse) -> ClusterDescription {
        let brokers_known = (response.brokers.iter())
            .map(|broker| BrokerDescription {
                id: BrokerId(broker.node_id.0),
                host: broker.host.to_string(),
                port: u16::try_from(broker.port).unwrap_or(0),
            })
            .collect();
        let topics = (response.topics.iter())
            .map(|topic| {
                let partitions = (topic.partitions.iter())
                    .map(|partition| PartitionDescription {
                        index: PartitionIndex(partition.partition_index),
                        leader: Some(BrokerId(partition.leader_id.0)).filter(|leader| leader.0 >= 0),
                        leader_epoch: LeaderEpoch(partition.leader_epoch),
                        replicas: brokers(&partition.replica_nodes),
                        in_sync_replicas: brokers(&partition.isr_nodes),
                        offline_replicas: brokers(&partition.offline_replicas),
                    })
                    .collect();
                TopicDescription {
                    name: topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default(),
                    id: TopicId(topic.topic_id),
                    partitions: check(ErrorCode(topic.error_code)).map(|()| partitions),
                }
            })
            .collect();
        ClusterDescription {
            cluster_id: response.cluster_id.map(|id| id.to_string()),
            controller: Some(BrokerId(response.controller_id.0)).filter(|id| id.0 >= 0),
            brokers: brokers_known,
            topics,
        }
    }
}

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker.
    Broker(BrokerId),
}

impl ConfigResource {
    fn code(&self) -> i8 {
        match self {
            ConfigResource::Topic(_) => 2,
            ConfigResource::Broker(_) => 4,
        }
    }

    fn name(&self) -> StrBytes {
        match self {
            ConfigResource::Topic(name) => text(name),
            ConfigResource::Broker(id) => text(&id.to_string()),
        }
    }

    /// A broker answers for its own settings.
    fn target(&self) -> Target {
        match self {
            ConfigResource::Topic(_) => Target::Any,
            ConfigResource::Broker(id) => Target::Broker(*id),
        }
    }
}

/// Reads all settings of a resource, as they are in effect.
#[derive(Debug, Clone)]
pub struct DescribeConfigs {
    /// The resource.
    pub resource: ConfigResource,
}

/// A setting in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` if it is sensitive or has none.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be changed.
    pub is_read_only: bool,
    /// Whether its value is kept secret.
    pub is_sensitive: bool,
}

/// Where a setting's value comes from. Source: `DescribeConfigsResponse.ConfigSource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConfigSource {
    /// Set for this topic.
    Topic,
    /// Set for this broker, while it runs.
    DynamicBroker,
    /// Set for all brokers, while they run.
    DynamicDefaultBroker,
    /// From the broker's file.
    StaticBroker,
    /// Kafka's default.
    Default,
    /// Something else.
    Other(i8),
}

impl From<i8> for ConfigSource {
    fn from(code: i8) -> Self {
        match code {
            1 => ConfigSource::Topic,
            2 => ConfigSource::DynamicBroker,
            3 => ConfigSource::DynamicDefaultBroker,
            4 => ConfigSource::StaticBroker,
            5 => ConfigSource::Default,
            other => ConfigSource::Other(other),
        }
    }
}

impl Operation for DescribeConfigs {
    type Request = DescribeConfigsRequest;
    type Output = Result<Vec<ConfigEntry>, ItemError>;

    fn target(&self) -> Target {
        self.resource.target()
    }

    fn request(&self, _version: i16) -> DescribeConfigsRequest {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(self.resource.code())
            .with_resource_name(self.resource.name())
            .with_configuration_keys(None);
        DescribeConfigsRequest::default().with_resources(vec![resource])
    }

    fn output(&self, response: DescribeConfigsResponse) -> Self::Output {
        let Some(result) = response.results.first() else {
            return item_result(ErrorCode::UNKNOWN_SERVER_ERROR.0, None).map(|()| Vec::new());
        };
        item_result(result.error_code, result.error_message.as_ref())?;
        let entry = |config: &highwater_protocol::messages::describe_configs_response::DescribeConfigsResourceResult| {
            ConfigEntry {
                name: config.name.to_string(),
                value: config.value.as_ref().map(|value| value.to_string()),
                source: config.config_source.into(),
                is_read_only: config.read_only,
                is_sensitive: config.is_sensitive,
            }
        };
        Ok(result.configs.iter().map(entry).collect())
    }
}

/// Changes settings of a resource, one by one.
#[derive(Debug, Clone)]
pub struct AlterConfigs {
    /// The resource.
    pub resource: ConfigResource,
    /// Each setting's name and new value; `None` removes it, so that the default holds again.
    pub changes: Vec<(String, Option<String>)>,
}

impl Operation for AlterConfigs {
    type Request = IncrementalAlterConfigsRequest;
    type Output = Result<(), ItemError>;

    fn target(&self) -> Target {
        self.resource.target()
    }

    fn request(&self, _version: i16) -> IncrementalAlterConfigsRequest {
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let configs = (self.changes.iter())
            .map(|(name, value)| {
                AlterableConfig::default()
                    .with_name(text(name))
                    .with_config_operation(if value.is_some() { SET } else { DELETE })
                    .with_value(value.as_deref().map(text))
            })
            .collect();
        let resource = AlterConfigsResource::default()
            .with_resource_type(self.resource.code())
            .with_resource_name(self.resource.name())
            .with_configs(configs);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    }

    fn output(&self, response: IncrementalAlterConfigsResponse) -> Self::Output {
        match response.responses.first() {
            Some(result) => item_result(result.error_code, result.error_message.as_ref()),
            None => item_result(ErrorCode::UNKNOWN_SERVER_ERROR.0, None),
        }
    }
}

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OffsetSpec {
    /// The log's start.
    Earliest,
    /// The high watermark, or the last stable offset with [`IsolationLevel::ReadCommitted`].
    Latest,
    /// Of the record with the largest timestamp.
    MaxTimestamp,
    /// Of the first record that is not older.
    Timestamp(Timestamp),
}

/// Looks offsets up, of partitions that one broker leads.
#[derive(Debug, Clone)]
pub struct ListOffsets {
    /// The leader.
    pub leader: BrokerId,
    /// The topic.
    pub topic: String,
    /// The partitions and what is wanted of them.
    pub partitions: Vec<(PartitionIndex, OffsetSpec)>,
    /// What counts as readable.
    pub isolation_level: IsolationLevel,
}

/// An offset that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; `None` if there is no such record.
    pub offset: Option<Offset>,
    /// Its record's timestamp, if it is one that was looked for by time.
    pub timestamp: Option<Timestamp>,
    /// The epoch in which it was written, if told.
    pub leader_epoch: Option<LeaderEpoch>,
}

impl Operation for ListOffsets {
    type Request = ListOffsetsRequest;
    type Output = Vec<(PartitionIndex, Result<ListedOffset, ErrorCode>)>;

    fn target(&self) -> Target {
        Target::Broker(self.leader)
    }

    fn min_version(&self) -> i16 {
        let has_max = self.partitions.iter().any(|(_, spec)| *spec == OffsetSpec::MaxTimestamp);
        if has_max { 7 } else { 1 }
    }

    fn request(&self, version: i16) -> ListOffsetsRequest {
        let partitions = (self.partitions.iter())
            .map(|(index, spec)| {
                let timestamp = match spec {
                    OffsetSpec::Latest => -1,
                    OffsetSpec::Earliest => -2,
                    OffsetSpec::MaxTimestamp => -3,
                    OffsetSpec::Timestamp(timestamp) => timestamp.0,
                };
                ListOffsetsPartition::default().with_partition_index(index.0).with_timestamp(timestamp)
            })
            .collect();
        let topic =
            ListOffsetsTopic::default().with_name(topic_name(&self.topic)).with_partitions(partitions);
        let isolation_level = if version >= 2 { self.isolation_level.code() } else { 0 };
        ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(isolation_level)
            .with_topics(vec![topic])
    }

    fn output(&self, response: ListOffsetsResponse) -> Self::Output {
        (response.topics.iter().flat_map(|topic| &topic.partitions))
            .map(|partition| {
                let listed = ListedOffset {
                    offset: Some(Offset(partition.offset)).filter(|offset| offset.0 >= 0),
                    timestamp: Some(Timestamp(partition.timestamp)).filter(|time| time.0 >= 0),
                    leader_epoch: Some(LeaderEpoch(partition.leader_epoch)).filter(|epoch| epoch.0 >= 0),
                };
                let result = check(ErrorCode(partition.error_code)).map(|()| listed);
                (PartitionIndex(partition.partition_index), result)
            })
            .collect()
    }
}

/// Moves the log start of partitions that one broker leads.
#[derive(Debug, Clone)]
pub struct DeleteRecords {
    /// The leader.
    pub leader: BrokerId,
    /// The topic.
    pub topic: String,
    /// Each partition and its new log start; `None` is the high watermark.
    pub before: Vec<(PartitionIndex, Option<Offset>)>,
    /// How long the leader may wait for its followers.
    pub timeout: Duration,
}

impl Operation for DeleteRecords {
    type Request = DeleteRecordsRequest;
    type Output = Vec<(PartitionIndex, Result<Offset, ErrorCode>)>;

    fn target(&self) -> Target {
        Target::Broker(self.leader)
    }

    fn request(&self, _version: i16) -> DeleteRecordsRequest {
        let partitions = (self.before.iter())
            .map(|(index, before)| {
                let offset = before.map_or(-1, |offset| offset.0);
                DeleteRecordsPartition::default().with_partition_index(index.0).with_offset(offset)
            })
            .collect();
        let topic =
            DeleteRecordsTopic::default().with_name(topic_name(&self.topic)).with_partitions(partitions);
        DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(self.timeout))
    }

    fn output(&self, response: DeleteRecordsResponse) -> Self::Output {
        (response.topics.iter().flat_map(|topic| &topic.partitions))
            .map(|partition| {
                let result = check(ErrorCode(partition.error_code));
                (PartitionIndex(partition.partition_index), result.map(|()| Offset(partition.low_watermark)))
            })
            .collect()
    }
}

/// How a leader is elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElectionType {
    /// The preferred replica, if it is in sync.
    Preferred,
    /// Any live replica, in sync or not.
    Unclean,
}

/// Elects leaders of a topic's partitions.
#[derive(Debug, Clone)]
pub struct ElectLeaders {
    /// How.
    pub election_type: ElectionType,
    /// The topic.
    pub topic: String,
    /// The partitions.
    pub partitions: Vec<PartitionIndex>,
    /// How long the broker may wait.
    pub timeout: Duration,
}

impl Operation for ElectLeaders {
    type Request = ElectLeadersRequest;
    type Output = Result<Vec<(PartitionIndex, Result<(), ItemError>)>, ErrorCode>;

    fn min_version(&self) -> i16 {
        // Version 0 knows preferred leaders only.
        i16::from(self.election_type == ElectionType::Unclean)
    }

    fn request(&self, version: i16) -> ElectLeadersRequest {
        let topic = TopicPartitions::default()
            .with_topic(topic_name(&self.topic))
            .with_partitions(self.partitions.iter().map(|index| index.0).collect());
        let request = ElectLeadersRequest::default()
            .with_topic_partitions(Some(vec![topic]))
            .with_timeout_ms(millis(self.timeout));
        let election_type = i8::from(self.election_type == ElectionType::Unclean);
        if version >= 1 { request.with_election_type(election_type) } else { request }
    }

    fn output(&self, response: ElectLeadersResponse) -> Self::Output {
        check(ErrorCode(response.error_code))?;
        Ok((response.replica_election_results.iter().flat_map(|topic| &topic.partition_result))
            .map(|partition| {
                let result = item_result(partition.error_code, partition.error_message.as_ref());
                (PartitionIndex(partition.partition_id), result)
            })
            .collect())
    }
}

//! Requests as a broker decodes them: the frame's content, in every API and version that is served.

use bytes::Bytes;
use highwater_protocol::api::ApiKey;
use highwater_protocol::codec::{Request, StrBytes};
use highwater_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use highwater_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use highwater_protocol::messages::describe_configs_request::DescribeConfigsResource;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use highwater_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_protocol::messages::{
    ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, FetchRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest, TopicName,
};
use highwater_protocol::{decode_request, encode_request};

use crate::Reached;
use crate::targets::batch;

pub(crate) fn run(bytes: &[u8]) -> Reached {
    match decode_request(Bytes::copy_from_slice(bytes)) {
        Ok(request) => {
            let header = &request.header;
            assert!(header.api_key.serves(header.api_version), "{header} is not served");
            Reached::Accepted
        }
        Err(error) => {
            // What goes into logs and answers.
            assert!(!error.to_string().is_empty());
            Reached::Refused
        }
    }
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str("orders"))
}

/// One request of each kind in every version that can say it, as frames with their size.
pub(crate) fn frames() -> Vec<Bytes> {
    let mut frames = Vec::new();
    let text = StrBytes::from_static_str;
    all(&mut frames, &ApiVersionsRequest::default().with_client_software_name(text("fuzz")));
    all(&mut frames, &ApiVersionsRequest::default());
    all(&mut frames, &MetadataRequest::default().with_topics(None));
    let by_name = MetadataRequestTopic::default().with_name(Some(topic()));
    all(&mut frames, &MetadataRequest::default().with_topics(Some(vec![by_name])));
    let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![0.into()]);
    let config =
        CreatableTopicConfig::default().with_name(text("flush.messages")).with_value(Some(text("1")));
    let created =
        CreatableTopic::default().with_name(topic()).with_num_partitions(2).with_replication_factor(1);
    let assigned = created.clone().with_assignments(vec![assignment]).with_configs(vec![config]);
    all(&mut frames, &CreateTopicsRequest::default().with_topics(vec![created, assigned]));
    all(&mut frames, &DeleteTopicsRequest::default().with_topic_names(vec![topic()]));
    all(&mut frames, &CreatePartitionsRequest::default());
    produce(&mut frames);
    fetch(&mut frames);
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let listed = ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
    all(&mut frames, &ListOffsetsRequest::default().with_topics(vec![listed]));
    let partition = OffsetForLeaderPartition::default().with_leader_epoch(1);
    let epochs = OffsetForLeaderTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    all(&mut frames, &OffsetForLeaderEpochRequest::default().with_topics(vec![epochs]));
    let partition = DeleteRecordsPartition::default().with_offset(1);
    let deleted = DeleteRecordsTopic::default().with_name(topic()).with_partitions(vec![partition]);
    all(&mut frames, &DeleteRecordsRequest::default().with_topics(vec![deleted]));
    all(&mut frames, &InitProducerIdRequest::default().with_producer_id((-1).into()).with_producer_epoch(-1));
    let described = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("orders"))
        .with_configuration_keys(Some(vec![text("flush.messages")]));
    all(&mut frames, &DescribeConfigsRequest::default().with_resources(vec![described]));
    let change = AlterableConfig::default().with_name(text("flush.messages")).with_value(Some(text("1")));
    let changed = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("orders"))
        .with_configs(vec![change]);
    all(&mut frames, &IncrementalAlterConfigsRequest::default().with_resources(vec![changed]));
    all(&mut frames, &DescribeClusterRequest::default());
    all(&mut frames, &DescribeLogDirsRequest::default().with_topics(None));
    all(&mut frames, &DescribeTopicPartitionsRequest::default());
    frames
}

fn produce(frames: &mut Vec<Bytes>) {
    let records = batch::examples().swap_remove(0);
    let partition = PartitionProduceData::default().with_records(Some(records.into()));
    let data = TopicProduceData::default().with_name(topic()).with_partition_data(vec![partition]);
    all(
        frames,
        &ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![data.clone()]),
    );
    let by_id = data.with_name(TopicName::default()).with_topic_id(uuid::Uuid::from_u128(7));
    all(frames, &ProduceRequest::default().with_acks(1).with_topic_data(vec![by_id]));
}

fn fetch(frames: &mut Vec<Bytes>) {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let by_name = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition.clone()]);
    let forgotten = ForgottenTopic::default().with_topic(topic()).with_partitions(vec![0]);
    let request = FetchRequest::default().with_max_bytes(1 << 20).with_min_bytes(1).with_session_id(3);
    all(frames, &request.clone().with_topics(vec![by_name]));
    all(frames, &request.clone().with_forgotten_topics_data(vec![forgotten]));
    let id = uuid::Uuid::from_u128(7);
    let by_id = FetchTopic::default().with_topic_id(id).with_partitions(vec![partition]);
    all(frames, &request.with_topics(vec![by_id]));
}

/// The request in every version that is served and can say it.
fn all<R: Request>(frames: &mut Vec<Bytes>, request: &R) {
    let client_id = StrBytes::from_static_str("fuzz");
    let api = ApiKey::from_key(R::KEY).expect("served");
    let versions = api.served_versions();
    let encoded = (versions.min..=versions.max)
        .filter_map(|version| encode_request(version, i32::from(version), Some(&client_id), request).ok());
    frames.extend(encoded);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    frames().iter().map(|frame| frame[4..].to_vec()).collect()
}

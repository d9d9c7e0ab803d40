//! Responses as a client decodes them. The first byte says to which request, the second in which version.

use bytes::Bytes;
use highwater_protocol::codec::{Encodable, HeaderVersion, Request, StrBytes};
use highwater_protocol::messages::api_versions_response::ApiVersion;
use highwater_protocol::messages::create_topics_response::CreatableTopicResult;
use highwater_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use highwater_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, PartitionData,
};
use highwater_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use highwater_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use highwater_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use highwater_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreatePartitionsRequest, CreateTopicsRequest,
    CreateTopicsResponse, DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    DescribeConfigsResponse, ElectLeadersRequest, FetchRequest, FetchResponse,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, TopicName,
};
use highwater_protocol::{client, decode_response};

use crate::Reached;
use crate::targets::batch;

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let &[api, version, ref frame @ ..] = bytes else { return Reached::Refused };
    let frame = Bytes::copy_from_slice(frame);
    Reached::accepted_if(decode(api, version, frame))
}

macro_rules! responses {
    ($($code:literal $request:ident;)*) => {
        fn decode(api: u8, version: u8, frame: Bytes) -> bool {
            match api % responses!(@count $($code)*) {
                $($code => decode_as::<$request>(version, frame),)*
                _ => unreachable!("a remainder"),
            }
        }

        fn seeds_of_defaults(seeds: &mut Vec<Vec<u8>>) {
            $(seed::<$request>(seeds, $code, &Default::default());)*
        }
    };
    (@count $($code:literal)*) => { [$($code),*].len() as u8 };
}

responses! {
    0 ProduceRequest;
    1 FetchRequest;
    2 ListOffsetsRequest;
    3 MetadataRequest;
    4 ApiVersionsRequest;
    5 CreateTopicsRequest;
    6 DeleteTopicsRequest;
    7 CreatePartitionsRequest;
    8 InitProducerIdRequest;
    9 DescribeConfigsRequest;
    10 IncrementalAlterConfigsRequest;
    11 DeleteRecordsRequest;
    12 ElectLeadersRequest;
}

fn decode_as<R: Request>(version: u8, frame: Bytes) -> bool {
    let versions = R::VERSIONS;
    let count = versions.max - versions.min + 1;
    let version = versions.min + i16::from(version) % count;
    let id = client::correlation_id(&frame);
    match decode_response::<R>(frame, version) {
        Ok((correlation_id, _)) => {
            assert_eq!(Some(correlation_id), id);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// The response in every version that can say it.
fn seed<R: Request>(seeds: &mut Vec<Vec<u8>>, api: u8, response: &R::Response) {
    let versions = R::VERSIONS;
    for version in versions.min..=versions.max {
        let mut out = vec![api, (version - versions.min) as u8, 0, 0, 0, 9];
        if R::Response::header_version(version) == 1 {
            out.push(0);
        }
        if response.encode(&mut out, version).is_ok() {
            seeds.push(out);
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    seeds_of_defaults(&mut seeds);
    let name = || TopicName(StrBytes::from_static_str("orders"));
    let text = || Some(StrBytes::from_static_str("why"));
    let partition = PartitionProduceResponse::default()
        .with_base_offset(3)
        .with_record_errors(vec![BatchIndexAndErrorMessage::default().with_batch_index_error_message(text())])
        .with_error_message(text());
    let topic =
        TopicProduceResponse::default().with_name(name()).with_partition_responses(vec![partition.clone()]);
    seed::<ProduceRequest>(&mut seeds, 0, &ProduceResponse::default().with_responses(vec![topic]));
    let plain = partition.with_record_errors(Vec::new()).with_error_message(None);
    let topic =
        TopicProduceResponse::default().with_name(name()).with_partition_responses(vec![plain.clone()]);
    seed::<ProduceRequest>(&mut seeds, 0, &ProduceResponse::default().with_responses(vec![topic]));
    let topic = TopicProduceResponse::default()
        .with_topic_id(uuid::Uuid::from_u128(7))
        .with_partition_responses(vec![plain]);
    seed::<ProduceRequest>(&mut seeds, 0, &ProduceResponse::default().with_responses(vec![topic]));
    fetch(&mut seeds);
    let partition = ListOffsetsPartitionResponse::default().with_offset(3).with_timestamp(5);
    let topic = ListOffsetsTopicResponse::default().with_name(name()).with_partitions(vec![partition]);
    seed::<ListOffsetsRequest>(&mut seeds, 2, &ListOffsetsResponse::default().with_topics(vec![topic]));
    let broker = MetadataResponseBroker::default().with_host(StrBytes::from_static_str("h")).with_port(9092);
    let partition = MetadataResponsePartition::default()
        .with_replica_nodes(vec![0.into()])
        .with_isr_nodes(vec![0.into()]);
    let topic = MetadataResponseTopic::default().with_name(Some(name())).with_partitions(vec![partition]);
    let metadata = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
    seed::<MetadataRequest>(&mut seeds, 3, &metadata);
    let api = ApiVersion::default().with_api_key(3).with_max_version(13);
    seed::<ApiVersionsRequest>(&mut seeds, 4, &ApiVersionsResponse::default().with_api_keys(vec![api]));
    let created = CreatableTopicResult::default().with_name(name()).with_error_message(text());
    seed::<CreateTopicsRequest>(&mut seeds, 5, &CreateTopicsResponse::default().with_topics(vec![created]));
    let config =
        DescribeConfigsResourceResult::default().with_name(StrBytes::from_static_str("c")).with_value(text());
    let described = DescribeConfigsResult::default().with_configs(vec![config]);
    seed::<DescribeConfigsRequest>(
        &mut seeds,
        9,
        &DescribeConfigsResponse::default().with_results(vec![described]),
    );
    seeds
}

fn fetch(seeds: &mut Vec<Vec<u8>>) {
    let records = batch::examples().swap_remove(0);
    let partition = PartitionData::default()
        .with_high_watermark(3)
        .with_aborted_transactions(Some(vec![AbortedTransaction::default()]))
        .with_records(Some(records.into()));
    let topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
    let by_name = topic.clone().with_topic(TopicName(StrBytes::from_static_str("orders")));
    seed::<FetchRequest>(seeds, 1, &FetchResponse::default().with_responses(vec![by_name]));
    let by_id = topic.with_topic_id(uuid::Uuid::from_u128(7));
    seed::<FetchRequest>(seeds, 1, &FetchResponse::default().with_responses(vec![by_id]));
}

//! Every API in every version that is advertised is decoded, handled and answered, with a minimal request.

use highwater_protocol::codec::{Request, StrBytes};
use highwater_protocol::messages::{
    ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, FetchRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use highwater_protocol::{ApiKey, decode_response, encode_request};

use crate::client::TestBroker;

/// Sends `request` in every version that the codec knows; the answer must be decoded to its last byte.
fn check<R: Request>(broker: &TestBroker, request: &R) {
    let api = ApiKey::from_key(R::KEY).expect("served");
    let served = api.served_versions();
    for version in served.min..=served.max.min(R::VERSIONS.max) {
        let mut client = broker.connect();
        let id = client.send(version, request);
        let frame = client.receive_frame().unwrap_or_else(|| panic!("{} {version} is closed", api.name()));
        let (answered, response) = decode_response::<R>(frame.clone(), version)
            .unwrap_or_else(|error| panic!("{} {version}: {error}", api.name()));
        assert_eq!(answered, id);
        let header = if api.response_header_version(version) == 1 { 5 } else { 4 };
        let mut again = Vec::new();
        highwater_protocol::codec::Encodable::encode(&response, &mut again, version).expect("encodes");
        assert_eq!(again.len(), frame.len() - header, "{} {version} has bytes left over", api.name());
    }
}

#[test]
fn minimal_request_is_answered_in_every_version() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 2, &[]);
    check(&broker, &ApiVersionsRequest::default());
    check(&broker, &MetadataRequest::default());
    check(&broker, &CreateTopicsRequest::default());
    check(&broker, &DeleteTopicsRequest::default());
    check(&broker, &CreatePartitionsRequest::default());
    check(&broker, &ProduceRequest::default().with_acks(1));
    check(&broker, &FetchRequest::default());
    check(&broker, &ListOffsetsRequest::default());
    check(&broker, &InitProducerIdRequest::default());
    check(&broker, &OffsetForLeaderEpochRequest::default());
    check(&broker, &DeleteRecordsRequest::default());
    check(&broker, &DescribeConfigsRequest::default());
    check(&broker, &IncrementalAlterConfigsRequest::default());
    check(&broker, &DescribeClusterRequest::default());
    check(&broker, &DescribeTopicPartitionsRequest::default());
    check(&broker, &DescribeLogDirsRequest::default());
}

#[test]
fn versions_that_the_codec_lacks_are_answered() {
    let broker = TestBroker::start(&[]);
    broker.create_topic("t", 1, &[]);
    let mut client = broker.connect();
    let mut send_as = |frame: bytes::Bytes, version: u8| {
        // The version is the second of the two bytes after size and key.
        let mut frame = frame.to_vec();
        frame[7] = version;
        std::io::Write::write_all(&mut client.stream, &frame).expect("is sent");
        client.receive_frame().expect("an answer")
    };
    let client_id = StrBytes::from_static_str("test");
    let list_offsets =
        encode_request(10, 1, Some(&client_id), &ListOffsetsRequest::default()).expect("encodes");
    decode_response::<ListOffsetsRequest>(send_as(list_offsets, 11), 10).expect("decodes as version 10");
    let log_dirs =
        encode_request(4, 2, Some(&client_id), &DescribeLogDirsRequest::default()).expect("encodes");
    let answer = send_as(log_dirs, 5);
    assert!(answer.ends_with(&[0, 0, 0]), "not cordoned, and two empty lists of tagged fields");
}

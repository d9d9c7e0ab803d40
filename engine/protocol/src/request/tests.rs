use super::*;
use crate::client::encode_request;
use crate::response::FRAME_SIZE_BYTES;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest, TopicName};

fn frame(framed: &Bytes) -> Bytes {
    framed.slice(FRAME_SIZE_BYTES..)
}

#[test]
fn produce_records_share_the_frames_memory() {
    let records = Bytes::from(vec![9; 1000]);
    for version in 3..=13 {
        let partition = PartitionProduceData::default().with_index(4).with_records(Some(records.clone()));
        let mut topic = TopicProduceData::default().with_partition_data(vec![partition]);
        if version < 13 {
            topic.name = TopicName(StrBytes::from_static_str("t"));
        } else {
            topic.topic_id = uuid::Uuid::from_u128(5);
        }
        let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
        let client = StrBytes::from_static_str("client");
        let framed = encode_request(version, 11, Some(&client), &request).expect("encodes");
        let frame = frame(&framed);
        let decoded = decode_request(frame.clone()).expect("decodes");
        assert_eq!(decoded.header.client_id, Some(client));
        assert_eq!(decoded.header.correlation_id, 11);
        let RequestBody::Produce(body) = decoded.body else { panic!("a produce request") };
        assert_eq!(body, request);
        let received = body.topic_data[0].partition_data[0].records.clone().expect("has records");
        let inside = frame.as_ptr_range();
        assert!(inside.contains(&received.as_ptr()), "version {version} copies records");
    }
}

#[test]
fn unsupported_version_keeps_the_correlation_id() {
    let bytes = [0, 18, 0, 99, 0, 0, 0, 77, 0xde, 0xad];
    assert_eq!(
        decode_request(Bytes::copy_from_slice(&bytes)),
        Err(DecodeError::UnsupportedVersion {
            api_key: ApiKey::ApiVersions,
            api_version: 99,
            correlation_id: 77
        })
    );
}

#[test]
fn unknown_api_and_cut_header_are_errors() {
    let unknown = Bytes::from_static(&[0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
    assert_eq!(decode_request(unknown), Err(DecodeError::UnknownApi { api_key: 0x7fff, api_version: 0 }));
    let framed = encode_request(3, 1, None, &ApiVersionsRequest::default()).expect("encodes");
    let frame = frame(&framed);
    for length in 0..frame.len() {
        assert!(decode_request(frame.slice(..length)).is_err(), "cut at {length}");
    }
}

#[test]
fn bytes_after_the_request_are_ignored_as_in_kafka() {
    let framed = encode_request(1, 1, None, &MetadataRequest::default().with_topics(None)).expect("encodes");
    let mut longer = frame(&framed).to_vec();
    longer.extend([1, 2, 3]);
    assert!(decode_request(longer.into()).is_ok());
}

#[test]
fn client_id_that_is_not_utf8_is_refused() {
    let bytes = [0, 3, 0, 0, 0, 0, 0, 1, 0, 1, 0xff, 0, 0, 0, 0];
    assert_eq!(decode_request(Bytes::copy_from_slice(&bytes)), Err(DecodeError::ClientId));
}

use std::io::Write;

use highwater_protocol::messages::ApiVersionsRequest;
use highwater_protocol::{ApiKey, ErrorCode, decode_response};

use crate::client::TestBroker;

fn request() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name("test".into())
        .with_client_software_version("1.0".into())
}

#[test]
fn table_is_told_in_every_version() {
    let broker = TestBroker::start(&[]);
    for version in 0..=4 {
        let response = broker.connect().call(version, &request());
        assert_eq!(response.error_code, 0);
        let produce = response.api_keys.iter().find(|api| api.api_key == 0).expect("has Produce");
        // librdkafka turns compression off when it does not see version 0.
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        assert_eq!(response.api_keys.len(), ApiKey::ALL.len());
        assert!(response.finalized_features.is_empty(), "no feature is claimed that is not served");
    }
}

#[test]
fn unknown_version_is_answered_in_version_zero_and_the_connection_stays() {
    let broker = TestBroker::start(&[]);
    let mut client = broker.connect();
    // Size, key 18, version 99, correlation id 5, and a body that nobody can read.
    client.stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff]).expect("is sent");
    let frame = client.receive_frame().expect("an answer");
    let (id, response) = decode_response::<ApiVersionsRequest>(frame, 0).expect("decodes as version 0");
    assert_eq!(id, 5);
    assert_eq!(ErrorCode(response.error_code), ErrorCode::UNSUPPORTED_VERSION);
    assert!(!response.api_keys.is_empty());
    assert_eq!(client.call(3, &request()).error_code, 0);
}

#[test]
fn client_without_a_proper_name_is_refused() {
    let broker = TestBroker::start(&[]);
    let nameless = ApiVersionsRequest::default().with_client_software_name("-".into());
    let response = broker.connect().call(3, &nameless);
    assert_eq!(ErrorCode(response.error_code), ErrorCode::INVALID_REQUEST);
}

//! ApiVersions: which APIs are served, in which versions.
//!
//! A client asks in the newest version it knows. If the broker does not know that, the answer comes in version 0, with
//! the table, and the client asks again.

use highwater_protocol::messages::api_versions_response::ApiVersion;
use highwater_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use highwater_protocol::{ApiKey, ErrorCode, RequestHeader, encode_response_as};

use super::reply;
use crate::reply::{Outcome, Reply};

pub(crate) fn handle(header: &RequestHeader, request: &ApiVersionsRequest) -> Outcome {
    let named =
        is_valid_name(&request.client_software_name) && is_valid_name(&request.client_software_version);
    if header.api_version >= 3 && !named {
        let refusal = ApiVersionsResponse::default().with_error_code(ErrorCode::INVALID_REQUEST.0);
        return reply(header, &refusal);
    }
    reply(header, &table(ErrorCode::NONE))
}

/// The answer to a version that is not served.
pub(crate) fn unsupported(correlation_id: i32) -> Outcome {
    match encode_response_as(ApiKey::ApiVersions, 0, correlation_id, &table(ErrorCode::UNSUPPORTED_VERSION)) {
        Ok(frame) => Outcome::Reply(Reply::of(frame)),
        Err(_) => Outcome::Close,
    }
}

fn table(error: ErrorCode) -> ApiVersionsResponse {
    let versions = |api: &ApiKey| {
        let advertised = api.advertised_versions();
        ApiVersion::default()
            .with_api_key(api.key())
            .with_min_version(advertised.min)
            .with_max_version(advertised.max)
    };
    ApiVersionsResponse::default()
        .with_error_code(error.0)
        .with_api_keys(ApiKey::ALL.iter().map(versions).collect())
}

/// What Kafka accepts as the name or version of a client (KIP-511): letters and digits, in between also `-` and `.`.
fn is_valid_name(name: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(is_plain)
        && bytes.last().is_some_and(is_plain)
        && bytes.iter().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clients_are_checked_as_kafka_does() {
        for valid in ["a", "apache-kafka-java", "4.3.0", "a.b-c"] {
            assert!(is_valid_name(valid), "{valid}");
        }
        for invalid in ["", "-a", "a.", "a b", "ä"] {
            assert!(!is_valid_name(invalid), "{invalid}");
        }
    }
}

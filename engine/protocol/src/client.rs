//! The other side: requests as frames, and responses from them. For clients and for tests of the broker.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::response::FRAME_SIZE_BYTES;
use crate::schema::{self, responses};

/// A message that the codec refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} API {api_key} version {api_version}: {reason}")]
pub struct CodecError {
    /// What was tried.
    pub verb: &'static str,
    /// API key.
    pub api_key: i16,
    /// Version.
    pub api_version: i16,
    /// What the codec says.
    pub reason: String,
}

/// Encodes a request as a whole frame.
///
/// # Errors
/// [`CodecError`], where the request has a field that the version lacks, or is 2 GiB or more.
pub fn encode_request<R: Request>(
    api_version: i16,
    correlation_id: i32,
    client_id: Option<&StrBytes>,
    request: &R,
) -> Result<Bytes, CodecError> {
    let failed = |reason: String| CodecError { verb: "encode", api_key: R::KEY, api_version, reason };
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(api_version)
        .with_correlation_id(correlation_id)
        .with_client_id(client_id.cloned());
    let body_size = request.compute_size(api_version).map_err(|error| failed(error.to_string()))?;
    let mut frame = BytesMut::with_capacity(FRAME_SIZE_BYTES + 64 + body_size);
    frame.put_i32(0);
    header.encode(&mut frame, R::header_version(api_version)).map_err(|error| failed(error.to_string()))?;
    request.encode(&mut frame, api_version).map_err(|error| failed(error.to_string()))?;
    let size = i32::try_from(frame.len() - FRAME_SIZE_BYTES).map_err(|error| failed(error.to_string()))?;
    frame[..FRAME_SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
    Ok(frame.freeze())
}

/// The correlation id at the front of a response's frame (what follows its size), or `None` if it is cut.
#[must_use]
pub fn correlation_id(frame: &[u8]) -> Option<i32> {
    frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes))
}

/// Decodes the response to a request `R` from its frame (what follows its size), with its correlation id. Record bytes
/// share the frame's memory. Memory beyond that is in proportion to the frame, whatever it claims (see
/// [`crate::schema`]).
///
/// # Errors
/// [`CodecError`], where the bytes are not such a response, or its layout is not known here.
pub fn decode_response<R: Request>(
    mut frame: Bytes,
    api_version: i16,
) -> Result<(i32, R::Response), CodecError> {
    let failed = |reason: String| CodecError { verb: "decode", api_key: R::KEY, api_version, reason };
    let correlation_id = frame.try_get_i32().map_err(|error| failed(error.to_string()))?;
    if R::Response::header_version(api_version) == 1 {
        let tags = schema::walk_header_tags(&frame).map_err(|error| failed(error.to_string()))?;
        frame.advance(tags.consumed);
    }
    let schema =
        responses::of(R::KEY).ok_or_else(|| failed("the layout of its response is not known".to_owned()))?;
    schema::walk_response(schema, api_version, &frame).map_err(|error| failed(error.to_string()))?;
    let response = R::Response::decode(&mut frame, api_version).map_err(|error| failed(error.to_string()))?;
    Ok((correlation_id, response))
}

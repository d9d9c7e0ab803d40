//! From a frame's bytes to a request.
//!
//! ```text
//!   frame    size i32 │ what follows here, size bytes
//!   header   api key i16, api version i16, correlation id i32, client id nullable string
//!            flexible versions: tagged fields
//!   body     by api key and version
//! ```

use std::fmt;

use bytes::{Buf, Bytes};
use kafka_protocol::protocol::StrBytes;

use crate::api::{ApiKey, RequestBody};
use crate::schema::requests::HEADER_FIXED_BYTES;
use crate::schema::{self, BoundsError};

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// What is asked.
    pub api_key: ApiKey,
    /// In which version; one that is served.
    pub api_version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<StrBytes>,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The header.
    pub header: RequestHeader,
    /// The body.
    pub body: RequestBody,
}

/// Why a frame is not a request that can be answered. Kafka closes the connection on each of them, except that
/// [`UnsupportedVersion`](DecodeError::UnsupportedVersion) of ApiVersions has an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No API of this key is served.
    #[error("API key {api_key} (version {api_version}) is not served")]
    UnknownApi {
        /// As sent.
        api_key: i16,
        /// As sent.
        api_version: i16,
    },
    /// The API is served, this version is not. Nothing after the correlation id was read: its layout is unknown.
    #[error("{} version {api_version} is not served", api_key.name())]
    UnsupportedVersion {
        /// As sent.
        api_key: ApiKey,
        /// As sent.
        api_version: i16,
        /// As sent.
        correlation_id: i32,
    },
    /// The header is not well formed.
    #[error("request header: {0}")]
    Header(BoundsError),
    /// The body is not well formed.
    #[error("{} version {api_version}: {error}", api_key.name())]
    Bounds {
        /// As sent.
        api_key: ApiKey,
        /// As sent.
        api_version: i16,
        /// What is wrong.
        error: BoundsError,
    },
    /// The body has the right lengths and wrong content, such as a string that is not UTF-8.
    #[error("{} version {api_version}: {reason}", api_key.name())]
    Content {
        /// As sent.
        api_key: ApiKey,
        /// As sent.
        api_version: i16,
        /// What is wrong.
        reason: String,
    },
    /// The client id is not UTF-8.
    #[error("client id is not UTF-8")]
    ClientId,
}

/// A request whose lengths and counts fit what is there, and which is not decoded yet.
#[derive(Debug, Clone)]
pub struct CheckedRequest {
    header: RequestHeader,
    body: Bytes,
    elements: usize,
}

impl CheckedRequest {
    /// Array elements and tagged fields of the body: what decoding it takes memory for, besides a little for any request.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Which API it is of.
    #[must_use]
    pub fn api_key(&self) -> ApiKey {
        self.header.api_key
    }

    /// Decodes it. Record bytes and strings of the result share the frame's memory. Bytes after the request are ignored, as Kafka
    /// does.
    ///
    /// # Errors
    /// [`DecodeError::Content`].
    pub fn decode(mut self) -> Result<Request, DecodeError> {
        let RequestHeader { api_key, api_version, .. } = self.header;
        let body = RequestBody::decode(api_key, api_version, &mut self.body)
            .map_err(|reason| DecodeError::Content { api_key, api_version, reason })?;
        Ok(Request { header: self.header, body })
    }
}

/// Checks the request in `frame`, which is what follows the frame's size, without taking memory for it.
///
/// # Errors
/// [`DecodeError`].
pub fn check_request(mut frame: Bytes) -> Result<CheckedRequest, DecodeError> {
    let header = decode_header(&mut frame)?;
    let RequestHeader { api_key, api_version, .. } = header;
    match schema::walk(api_key.schema(), api_version, &frame) {
        Ok(walked) => Ok(CheckedRequest { header, body: frame, elements: walked.elements }),
        Err(error) => Err(DecodeError::Bounds { api_key, api_version, error }),
    }
}

/// Checks the request in `frame` and decodes it. Memory beyond the frame's is in proportion to the frame, whatever it claims (see
/// [`crate::schema`]).
///
/// # Errors
/// [`DecodeError`].
pub fn decode_request(frame: Bytes) -> Result<Request, DecodeError> {
    check_request(frame)?.decode()
}

fn decode_header(frame: &mut Bytes) -> Result<RequestHeader, DecodeError> {
    if frame.len() < HEADER_FIXED_BYTES {
        let error = BoundsError::BeyondEnd { field: "header", position_bytes: 0 };
        return Err(DecodeError::Header(error));
    }
    let (key, api_version, correlation_id) = (frame.get_i16(), frame.get_i16(), frame.get_i32());
    let api_key = ApiKey::from_key(key).ok_or(DecodeError::UnknownApi { api_key: key, api_version })?;
    if !api_key.serves(api_version) {
        return Err(DecodeError::UnsupportedVersion { api_key, api_version, correlation_id });
    }
    let client_id = decode_client_id(frame)?;
    if api_key.is_flexible(api_version) {
        let tags = schema::walk_header_tags(frame).map_err(DecodeError::Header)?;
        frame.advance(tags.consumed);
    }
    Ok(RequestHeader { api_key, api_version, correlation_id, client_id })
}

fn decode_client_id(frame: &mut Bytes) -> Result<Option<StrBytes>, DecodeError> {
    let beyond_end = BoundsError::BeyondEnd { field: "client id", position_bytes: HEADER_FIXED_BYTES };
    let length = frame.try_get_i16().map_err(|_| DecodeError::Header(beyond_end))?;
    if length == -1 {
        return Ok(None);
    }
    let null = BoundsError::NullOrNegative { field: "client id", position_bytes: HEADER_FIXED_BYTES };
    let length = usize::try_from(length).map_err(|_| DecodeError::Header(null))?;
    if length > frame.len() {
        return Err(DecodeError::Header(beyond_end));
    }
    let client_id = StrBytes::from_utf8(frame.split_to(length)).map_err(|_| DecodeError::ClientId)?;
    Ok(Some(client_id))
}

impl fmt::Display for RequestHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{} #{}", self.api_key.name(), self.api_version, self.correlation_id)
    }
}

#[cfg(test)]
mod tests;

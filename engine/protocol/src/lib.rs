//! Kafka's protocol: the APIs that are served, requests from hostile bytes, responses as frames.
//!
//! * [`api`]: the table of APIs and versions.
//! * [`request`]: from a frame to a [`Request`], with bounded memory ([`schema`]).
//! * [`response`] and [`fetch_response`]: from a response to a frame; records are never copied.
//! * [`error_code`]: Kafka's error codes.
//! * [`client`]: the other side of the same.
//!
//! Messages are those of the `kafka-protocol` crate ([`messages`], [`codec`]). What that crate lacks is here: bounds
//! before memory is taken, frames in pieces, the newest versions of ListOffsets and DescribeLogDirs. Deliberately
//! absent: sockets, and what requests mean.

pub mod api;
pub mod client;
pub mod error_code;
pub mod fetch_response;
pub mod request;
pub mod response;
pub mod schema;
mod wire;

pub use kafka_protocol::messages;
pub use kafka_protocol::protocol as codec;

pub use api::{ApiKey, RequestBody};
pub use client::{CodecError, decode_response, encode_request};
pub use error_code::ErrorCode;
pub use fetch_response::FetchResponse;
pub use request::{CheckedRequest, DecodeError, Request, RequestHeader, check_request, decode_request};
pub use response::{EncodeError, encode_describe_log_dirs, encode_response, encode_response_as};

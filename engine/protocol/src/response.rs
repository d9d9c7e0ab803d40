//! From a response to a frame's bytes.
//!
//! ```text
//!   frame    size i32 │ what follows
//!   header   correlation id i32; version 1: tagged fields
//!   body     by api key and version
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::DescribeLogDirsResponse;
use kafka_protocol::protocol::Encodable;

use crate::api::ApiKey;
use crate::request::RequestHeader;
use crate::wire::Writer;

/// A response that cannot be encoded: it has a field that its version lacks, or a length that its version cannot say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} version {api_version} cannot be encoded: {reason}", api_key.name())]
pub struct EncodeError {
    /// The API.
    pub api_key: ApiKey,
    /// The version.
    pub api_version: i16,
    /// What the codec says.
    pub reason: String,
}

/// Bytes of a frame's size.
pub const FRAME_SIZE_BYTES: usize = 4;

/// Begins a frame: room for the size, and the response header.
pub(crate) fn begin_frame(out: &mut BytesMut, api: ApiKey, version: i16, correlation_id: i32) {
    out.put_i32(0);
    out.put_i32(correlation_id);
    if api.response_header_version(version) == 1 {
        out.put_u8(0);
    }
}

/// Sets the size of a frame that begins at the front of `out` and has `extra_bytes` elsewhere. `false` if it is 2 GiB or
/// more, which a frame cannot say.
#[must_use]
pub(crate) fn end_frame(out: &mut BytesMut, extra_bytes: usize) -> bool {
    let Ok(size) = i32::try_from(out.len() - FRAME_SIZE_BYTES + extra_bytes) else { return false };
    out[..FRAME_SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
    true
}

pub(crate) fn too_large(api_key: ApiKey, api_version: i16) -> EncodeError {
    EncodeError { api_key, api_version, reason: "a length exceeds what its field can say".to_owned() }
}

/// Encodes `body` as the response to the request of `header`, as a whole frame.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_response(header: &RequestHeader, body: &impl Encodable) -> Result<Bytes, EncodeError> {
    encode_response_as(header.api_key, header.api_version, header.correlation_id, body)
}

/// As [`encode_response`], for a request whose header could not be read to its end.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_response_as(
    api_key: ApiKey,
    api_version: i16,
    correlation_id: i32,
    body: &impl Encodable,
) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::with_capacity(256);
    begin_frame(&mut out, api_key, api_version, correlation_id);
    body.encode(&mut out, api_key.codec_version(api_version)).map_err(|error| EncodeError {
        api_key,
        api_version,
        reason: error.to_string(),
    })?;
    if end_frame(&mut out, 0) { Ok(out.freeze()) } else { Err(too_large(api_key, api_version)) }
}

/// Encodes a DescribeLogDirs response. Version 5 (KIP-1066) adds whether a directory is cordoned, which ours never are.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_describe_log_dirs(
    header: &RequestHeader,
    body: &DescribeLogDirsResponse,
) -> Result<Bytes, EncodeError> {
    if header.api_version < 5 {
        return encode_response(header, body);
    }
    let mut out = BytesMut::with_capacity(256);
    begin_frame(&mut out, header.api_key, header.api_version, header.correlation_id);
    let mut writer = Writer::new(out, true);
    write_describe_log_dirs_v5(&mut writer, body);
    if writer.overflowed() || !end_frame(&mut writer.out, 0) {
        return Err(too_large(header.api_key, header.api_version));
    }
    Ok(writer.out.freeze())
}

fn write_describe_log_dirs_v5(writer: &mut Writer, body: &DescribeLogDirsResponse) {
    writer.out.put_i32(body.throttle_time_ms);
    writer.out.put_i16(body.error_code);
    writer.array(body.results.len());
    for result in &body.results {
        writer.out.put_i16(result.error_code);
        writer.string(&result.log_dir);
        writer.array(result.topics.len());
        for topic in &result.topics {
            writer.string(&topic.name);
            writer.array(topic.partitions.len());
            for partition in &topic.partitions {
                writer.out.put_i32(partition.partition_index);
                writer.out.put_i64(partition.partition_size);
                writer.out.put_i64(partition.offset_lag);
                writer.out.put_u8(partition.is_future_key.into());
                writer.tags(0);
            }
            writer.tags(0);
        }
        writer.out.put_i64(result.total_bytes);
        writer.out.put_i64(result.usable_bytes);
        writer.out.put_u8(false.into());
        writer.tags(0);
    }
    writer.tags(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
    };
    use kafka_protocol::protocol::StrBytes;

    fn header(api_version: i16) -> RequestHeader {
        RequestHeader { api_key: ApiKey::DescribeLogDirs, api_version, correlation_id: 7, client_id: None }
    }

    #[test]
    fn log_dirs_v5_is_v4_with_a_byte_more_in_each_result() {
        let partition = DescribeLogDirsPartition::default().with_partition_size(1234).with_partition_index(3);
        let topic = DescribeLogDirsTopic::default()
            .with_name(StrBytes::from_static_str("topic").into())
            .with_partitions(vec![partition]);
        let result = DescribeLogDirsResult::default()
            .with_log_dir(StrBytes::from_static_str("/data"))
            .with_topics(vec![topic])
            .with_total_bytes(99)
            .with_usable_bytes(9);
        let body = DescribeLogDirsResponse::default().with_results(vec![result]);
        let v4 = encode_describe_log_dirs(&header(4), &body).expect("encodes");
        let v5 = encode_describe_log_dirs(&header(5), &body).expect("encodes");
        // The result's tagged fields and the response's are the last two bytes.
        let mut expected = v4.to_vec();
        expected.insert(v4.len() - 2, 0);
        expected[..4].copy_from_slice(&(i32::from_be_bytes([v4[0], v4[1], v4[2], v4[3]]) + 1).to_be_bytes());
        assert_eq!(v5, expected);
    }
}

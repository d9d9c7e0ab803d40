//! Frames: how a request becomes bytes and how bytes become responses.
//!
//! ```text
//!   frame     = length i32 | header | body             length: bytes after itself
//!   request   : header v1 = api key i16 | version i16 | correlation id i32 | client id (nullable string)
//!               header v2 = the same | tagged fields      where the version is flexible
//!   response  : header v0 = correlation id i32            header v1 = the same | tagged fields
//! ```
//!
//! Bodies are decoded by `kafka-protocol`, whose arrays take memory for as many elements as the sender claims: a
//! broker is trusted that far. What this module itself reads is bounded.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_protocol::codec::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes};
use highwater_protocol::messages::RequestHeader;

/// What is wrong with bytes from the wire, or with a message that should go there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The length field is negative or above the limit.
    #[error("a frame of {length} bytes is outside of 0 to {limit}")]
    FrameLength {
        /// As on the wire.
        length: i32,
        /// Largest length accepted.
        limit: usize,
    },
    /// The response's header is cut.
    #[error("the response header is malformed")]
    Header,
    /// The body is not what the schema says.
    #[error("{api} version {version} is malformed: {reason}")]
    Body {
        /// The message's type.
        api: &'static str,
        /// Its version.
        version: i16,
        /// What the codec says.
        reason: String,
    },
    /// A response to nothing that was asked.
    #[error("response with correlation id {got}, expected {expected:?}")]
    Correlation {
        /// As on the wire.
        got: i32,
        /// Of the oldest request that waits, if there is one.
        expected: Option<i32>,
    },
}

fn body_error<M>(version: i16, reason: impl std::fmt::Display) -> WireError {
    let api = std::any::type_name::<M>().rsplit("::").next().unwrap_or("message");
    WireError::Body { api, version, reason: reason.to_string() }
}

/// One whole frame around `request`.
pub(crate) fn encode_request<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &StrBytes,
) -> Result<Bytes, WireError> {
    let mut out = BytesMut::with_capacity(256);
    out.put_i32(0);
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(client_id.clone()));
    header.encode(&mut out, R::header_version(version)).map_err(|error| body_error::<R>(version, error))?;
    request.encode(&mut out, version).map_err(|error| body_error::<R>(version, error))?;
    let length = i32::try_from(out.len() - 4).map_err(|error| body_error::<R>(version, error))?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

/// The body of a response to `R`, from its frame without the header. Bytes fields share the frame's memory.
pub(crate) fn decode_response<R: Request>(mut body: Bytes, version: i16) -> Result<R::Response, WireError> {
    let range = <R::Response as Message>::VERSIONS;
    if version < range.min || version > range.max {
        return Err(body_error::<R::Response>(version, "version not supported"));
    }
    R::Response::decode(&mut body, version).map_err(|error| body_error::<R::Response>(version, error))
}

/// Header version of responses to `R`.
pub(crate) fn response_header_version<R: Request>(version: i16) -> i16 {
    R::Response::header_version(version)
}

/// Correlation id of a response frame.
pub(crate) fn correlation_id(frame: &[u8]) -> Result<i32, WireError> {
    frame.first_chunk().map(|id| i32::from_be_bytes(*id)).ok_or(WireError::Header)
}

/// A response frame without its header.
pub(crate) fn strip_header(mut frame: Bytes, header_version: i16) -> Result<Bytes, WireError> {
    if frame.len() < 4 {
        return Err(WireError::Header);
    }
    frame.advance(4);
    if header_version >= 1 {
        for _ in 0..get_unsigned_varint(&mut frame)? {
            let _tag = get_unsigned_varint(&mut frame)?;
            let size = get_unsigned_varint(&mut frame)? as usize;
            if size > frame.len() {
                return Err(WireError::Header);
            }
            frame.advance(size);
        }
    }
    Ok(frame)
}

fn get_unsigned_varint(bytes: &mut Bytes) -> Result<u32, WireError> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = bytes.try_get_u8().map_err(|_| WireError::Header)?;
        value |= u32::from(byte & 0x7f).checked_shl(shift).ok_or(WireError::Header)?;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Header)
}

pub(crate) fn put_unsigned_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Largest response accepted unless a caller says otherwise: twice Kafka's default `fetch.max.bytes`, since a first
/// batch may exceed it.
pub const DEFAULT_MAX_FRAME_BYTES: usize = 128 << 20;

/// Cuts a stream of bytes into frames. Holds no more than one frame and what was received with it.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    max_frame_bytes: usize,
}

/// Room asked for before a read that is not inside a frame of known length.
const READ_BYTES: usize = 64 * 1024;

impl FrameReader {
    /// Refuses frames of more than `max_frame_bytes`.
    #[must_use]
    pub fn new(max_frame_bytes: usize) -> Self {
        FrameReader { buffer: BytesMut::new(), max_frame_bytes }
    }

    /// The buffer to append received bytes to, with room for the rest of the current frame, or for the start of the
    /// next. An adaptor whose reads need an owned buffer takes it and puts it back.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        let missing = self.frame_end().map_or(READ_BYTES, |end| end.saturating_sub(self.buffer.len()));
        self.buffer.reserve(missing.max(1));
        &mut self.buffer
    }

    /// Appends received bytes by copying them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// End in the buffer of the frame at its front, if its length was received and is sane.
    fn frame_end(&self) -> Option<usize> {
        let length = usize::try_from(i32::from_be_bytes(*self.buffer.first_chunk()?)).ok()?;
        (length <= self.max_frame_bytes).then_some(4 + length)
    }

    /// The next whole frame, without its length field; `None` until more bytes have come.
    ///
    /// # Errors
    /// [`WireError::FrameLength`]: the connection is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some(length) = self.buffer.first_chunk() else { return Ok(None) };
        let length = i32::from_be_bytes(*length);
        let limit = self.max_frame_bytes;
        let end = self.frame_end().ok_or(WireError::FrameLength { length, limit })?;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(end);
        frame.advance(4);
        Ok(Some(frame.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len()).expect("short");
        [&length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let stream = [frame(b"one"), frame(b""), frame(&[7; 100_000])].concat();
        for chunk_bytes in [1, 3, 4, 5, 1000, stream.len()] {
            let mut reader = FrameReader::new(100_000);
            let mut frames = Vec::new();
            for chunk in stream.chunks(chunk_bytes) {
                reader.push(chunk);
                while let Some(frame) = reader.next_frame().expect("sane lengths") {
                    frames.push(frame);
                }
            }
            let lengths: Vec<_> = frames.iter().map(Bytes::len).collect();
            assert_eq!(lengths, [3, 0, 100_000], "in chunks of {chunk_bytes}");
            assert_eq!(&frames[0][..], b"one");
        }
    }

    #[test]
    fn frame_above_the_limit_or_negative_is_refused_before_its_memory_is_taken() {
        for length in [1001, i32::MAX, -1] {
            let mut reader = FrameReader::new(1000);
            reader.push(&length.to_be_bytes());
            assert!(reader.buffer_mut().capacity() < 1 << 20);
            assert_eq!(reader.next_frame(), Err(WireError::FrameLength { length, limit: 1000 }));
        }
    }

    #[test]
    fn response_header_is_stripped_with_its_tagged_fields() {
        let with_tags = Bytes::from_static(&[0, 0, 0, 9, 1, 5, 2, 0xaa, 0xbb, 0x77]);
        assert_eq!(correlation_id(&with_tags), Ok(9));
        assert_eq!(strip_header(with_tags, 1).expect("well formed"), &[0x77][..]);
        let plain = Bytes::from_static(&[0, 0, 0, 9, 0x77]);
        assert_eq!(strip_header(plain, 0).expect("well formed"), &[0x77][..]);
        assert_eq!(strip_header(Bytes::from_static(&[0, 0, 0, 9, 1, 5, 200]), 1), Err(WireError::Header));
        assert_eq!(strip_header(Bytes::from_static(&[0, 0]), 0), Err(WireError::Header));
    }

    #[test]
    fn unsigned_varint_survives_the_round_trip() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1 << 21, u32::MAX] {
            let mut out = BytesMut::new();
            put_unsigned_varint(&mut out, value);
            assert_eq!(get_unsigned_varint(&mut out.freeze()), Ok(value));
        }
    }
}

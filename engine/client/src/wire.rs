//! Frames, cut out of a stream of bytes.
//!
//! ```text
//!   frame = length i32 (bytes after itself) | header | body
//! ```
//!
//! What is in them is `highwater-protocol`'s matter. Everything that is read is bounded, there as here.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_protocol::CodecError;

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
    /// A response without a header.
    #[error("the response is cut before its correlation id ends")]
    Cut,
    /// A message that is not what its schema says.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Every version of ApiVersions is refused.
    #[error("the broker refuses every version of ApiVersions")]
    NoVersions,
    /// A response to nothing that was asked.
    #[error("response with correlation id {got}, expected {expected:?}")]
    Correlation {
        /// As on the wire.
        got: i32,
        /// Of the oldest request that waits, if there is one.
        expected: Option<i32>,
    },
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
    fn unsigned_varint_is_as_long_as_its_bits_need() {
        for (value, encoded) in
            [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f])]
        {
            let mut out = BytesMut::new();
            put_unsigned_varint(&mut out, value);
            assert_eq!(out, encoded, "{value}");
        }
    }
}

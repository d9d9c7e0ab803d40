//! Building a batch: records go straight into one buffer, and the header is made last.
//!
//! ```text
//!   BatchBuilder  ── push, push, push ──▶  ── finish ──▶  BatchRecords ── header(stamp) ──▶ 61 bytes
//!     one buffer, given back by            compresses,         └──────── payload ─────────▶ the records, shared
//!     BatchRecords::into_buffer            copies nothing
//!                                          otherwise
//! ```
//!
//! A producer sends header and payload as two pieces of one vectored write: no record byte is copied after `push`, and
//! a batch that must be sent under another producer epoch needs a new header only. [`BatchBuilder::build`] makes one
//! contiguous batch of the two, for everyone else.

use bytes::{Bytes, BytesMut};

use super::{
    BATCH_HEADER_BYTES, BatchError, CRC_AT, CRC_COVERS_FROM, LOG_OVERHEAD_BYTES, ProducerStamp, TRANSACTIONAL,
};
use crate::compression::{Compression, Compressor};
use crate::crc;
use crate::ids::Timestamp;
use crate::varint;

/// A record to be put into a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Timestamp.
    pub timestamp: Timestamp,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Value, if any.
    pub value: Option<&'a [u8]>,
    /// Headers: name and value.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Builds one batch, record by record.
#[derive(Debug)]
pub struct BatchBuilder {
    records: BytesMut,
    record_count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    compression: Compression,
    is_transactional: bool,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        BatchBuilder::with_buffer(BytesMut::new(), compression)
    }

    /// An empty batch whose records go into `buffer`, which is cleared first. It grows if they do not fit.
    #[must_use]
    pub fn with_buffer(mut buffer: BytesMut, compression: Compression) -> Self {
        buffer.clear();
        BatchBuilder {
            records: buffer,
            record_count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            compression,
            is_transactional: false,
        }
    }

    /// Marks the batch as part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.is_transactional = true;
        self
    }

    /// Number of records so far.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Size in bytes if it were built now without compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// Upper bound in bytes of what `record` would add.
    #[must_use]
    pub fn record_size_bound(record: &NewRecord<'_>) -> usize {
        const LENGTHS_AND_DELTAS: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;
        let headers: usize =
            record.headers.iter().map(|(name, value)| 10 + name.len() + value.map_or(0, <[u8]>::len)).sum();
        LENGTHS_AND_DELTAS + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers
    }

    /// Adds a record and returns its offset delta.
    ///
    /// # Panics
    /// If a key, value or header is longer than `i32::MAX`: the caller bounds record sizes.
    pub fn push(&mut self, record: &NewRecord<'_>) -> i32 {
        if self.record_count == 0 {
            self.base_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let offset_delta = self.record_count;
        let timestamp_delta = record.timestamp.0.wrapping_sub(self.base_timestamp.0);
        let headers_len: usize = record
            .headers
            .iter()
            .map(|(name, value)| field_len(Some(name.as_bytes())) + field_len(*value))
            .sum();
        let body_len = 1
            + varint::len_i64(timestamp_delta)
            + varint::len_i64(offset_delta.into())
            + field_len(record.key)
            + field_len(record.value)
            + varint::len_i64(len_i64(record.headers.len()))
            + headers_len;
        let out = &mut self.records;
        out.reserve(varint::MAX_BYTES + body_len);
        let mut front = Front::new();
        front.varint(len_i64(body_len));
        front.byte(0);
        front.varint(timestamp_delta);
        front.varint(offset_delta.into());
        if let Some(key) = record.key {
            front.varint(len_i64(key.len()));
            out.extend_from_slice(front.bytes());
            out.extend_from_slice(key);
            front = Front::new();
        } else {
            front.varint(-1);
        }
        front.varint(record.value.map_or(-1, |value| len_i64(value.len())));
        out.extend_from_slice(front.bytes());
        out.extend_from_slice(record.value.unwrap_or_default());
        varint::write_i64(out, len_i64(record.headers.len()));
        for (name, value) in record.headers {
            put_field(out, Some(name.as_bytes()));
            put_field(out, *value);
        }
        self.record_count += 1;
        offset_delta
    }

    /// Ends the batch: compresses its records, or else hands them on as they are, without a copy.
    ///
    /// # Errors
    /// [`BatchError::InvalidHeader`] for an empty batch or one above `i32::MAX` bytes, [`BatchError::Compression`].
    pub fn finish(self) -> Result<BatchRecords, BatchError> {
        let compressor = Compressor::new(self.compression);
        self.finish_with(&mut compressor.map_err(|error| BatchError::Compression(error.to_string()))?)
    }

    /// As [`finish`](Self::finish), with a compressor that is kept for the next batch.
    ///
    /// # Errors
    /// As `finish`.
    ///
    /// # Panics
    /// If the compressor's codec is not the batch's.
    pub fn finish_with(self, compressor: &mut Compressor) -> Result<BatchRecords, BatchError> {
        assert_eq!(compressor.codec(), self.compression, "the attributes name the batch's codec");
        if self.is_empty() {
            return Err(BatchError::InvalidHeader("record count"));
        }
        let (payload, uncompressed) = match self.compression {
            Compression::None => (self.records.freeze(), None),
            _ => {
                let payload = compressor
                    .compress(&self.records)
                    .map_err(|error| BatchError::Compression(error.to_string()))?;
                (Bytes::from(payload), Some(self.records))
            }
        };
        let length = i32::try_from(BATCH_HEADER_BYTES - LOG_OVERHEAD_BYTES + payload.len())
            .map_err(|_| BatchError::InvalidHeader("length"))?;
        Ok(BatchRecords {
            payload,
            uncompressed,
            length,
            attributes: self.compression.code() | if self.is_transactional { TRANSACTIONAL } else { 0 },
            record_count: self.record_count,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
        })
    }

    /// The finished batch, with base offset 0 and no leader epoch, as a producer sends it.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn build(self, producer: ProducerStamp) -> Result<Bytes, BatchError> {
        let records = self.finish()?;
        let mut batch = BytesMut::with_capacity(records.size_bytes());
        batch.extend_from_slice(&records.header(producer));
        batch.extend_from_slice(records.payload());
        Ok(batch.freeze())
    }
}

/// The records of a finished batch, to be sent behind a header that says who sends them.
#[derive(Debug)]
pub struct BatchRecords {
    payload: Bytes,
    /// The builder's buffer, where compression made another one.
    uncompressed: Option<BytesMut>,
    /// As in the header.
    length: i32,
    attributes: i16,
    record_count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchRecords {
    /// Size in bytes of header and payload.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.payload.len()
    }

    /// Number of records; at least one.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// How the payload is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        Compression::from_attributes(self.attributes).unwrap_or_default()
    }

    /// Timestamp of the first record.
    #[must_use]
    pub fn base_timestamp(&self) -> Timestamp {
        self.base_timestamp
    }

    /// The records as they follow the header, compressed or not.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The records before compression, in the format of [`records`](crate::record::records).
    #[must_use]
    pub fn uncompressed(&self) -> &[u8] {
        self.uncompressed.as_deref().unwrap_or(&self.payload)
    }

    /// The header for these records from `producer`, with base offset 0 and no leader epoch. Reads the whole payload
    /// for the checksum.
    #[must_use]
    pub fn header(&self, producer: ProducerStamp) -> [u8; BATCH_HEADER_BYTES] {
        let mut header = [0; BATCH_HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            header[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&0i64.to_be_bytes());
        put(&self.length.to_be_bytes());
        put(&(-1i32).to_be_bytes());
        put(&[2]);
        put(&0u32.to_be_bytes());
        put(&self.attributes.to_be_bytes());
        put(&(self.record_count - 1).to_be_bytes());
        put(&self.base_timestamp.0.to_be_bytes());
        put(&self.max_timestamp.0.to_be_bytes());
        put(&producer.producer_id.0.to_be_bytes());
        put(&producer.producer_epoch.0.to_be_bytes());
        put(&producer.base_sequence.0.to_be_bytes());
        put(&self.record_count.to_be_bytes());
        let crc = crc::append(crc::crc32c(&header[CRC_COVERS_FROM..]), &self.payload);
        header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        header
    }

    /// The buffer that the builder was given, for the next batch; `None` while someone still holds the payload.
    #[must_use]
    pub fn into_buffer(self) -> Option<BytesMut> {
        self.uncompressed.or_else(|| self.payload.try_into_mut().ok())
    }
}

/// The small fields in front of a key or value, gathered so that they are appended at once.
struct Front {
    bytes: [u8; FRONT_BYTES],
    len: usize,
}

/// Record length, attributes, timestamp delta, offset delta, key and value length.
const FRONT_BYTES: usize = 5 * varint::MAX_BYTES + 1;

impl Front {
    fn new() -> Self {
        Front { bytes: [0; FRONT_BYTES], len: 0 }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, value: i64) {
        // Nearly all of them: deltas, lengths of short fields, −1 for none.
        if (-64..64).contains(&value) {
            return self.byte(((value << 1) ^ (value >> 63)) as u8);
        }
        let (encoded, len) = varint::encode(value);
        self.bytes[self.len..self.len + len].copy_from_slice(&encoded[..len]);
        self.len += len;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn len_i64(len: usize) -> i64 {
    i64::from(i32::try_from(len).expect("fields of a record are shorter than 2 GiB"))
}

fn field_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |content| varint::len_i64(len_i64(content.len())) + content.len())
}

fn put_field(out: &mut BytesMut, field: Option<&[u8]>) {
    match field {
        None => varint::write_i64(out, -1),
        Some(content) => {
            varint::write_i64(out, len_i64(content.len()));
            out.extend_from_slice(content);
        }
    }
}

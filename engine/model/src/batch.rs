//! The record batch, format v2 (magic 2): what a producer sends, a segment holds and a consumer gets.
//!
//! ```text
//!   byte  size  field
//!      0     8  base offset                 set by the leader, not under the checksum
//!      8     4  batch length                bytes after this field
//!     12     4  partition leader epoch      set by the leader, not under the checksum
//!     16     1  magic                       2
//!     17     4  CRC-32C                     of everything from byte 21 on
//!     21     2  attributes                  0–2 compression, 3 timestamp type, 4 transactional, 5 control,
//!                                           6 delete horizon
//!     23     4  last offset delta
//!     27     8  base timestamp (ms)
//!     35     8  max timestamp (ms)
//!     43     8  producer id                 −1: none
//!     51     2  producer epoch
//!     53     4  base sequence
//!     57     4  record count
//!     61        records (see `record`), compressed or not
//! ```
//!
//! All big-endian. Source: Kafka's `DefaultRecordBatch`.

use crate::compression::Compression;
use crate::crc;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::record::{self, RecordsSummary};

mod build;
pub mod rewrite;

pub use build::{BatchBuilder, BatchRecords, NewRecord};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Bytes of a batch that its length field does not count: base offset and the length itself.
pub const LOG_OVERHEAD_BYTES: usize = 12;

/// First byte under the checksum.
pub const CRC_COVERS_FROM: usize = 21;

const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const TIMESTAMP_TYPE: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("record batch is cut: {needed} bytes needed, {available} there")]
    Truncated {
        /// Bytes that the batch should have.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// A batch of format v0 or v1, or none at all.
    #[error("record batch has magic {0}, only 2 is supported")]
    UnsupportedMagic(i8),
    /// Header fields contradict each other or leave their range.
    #[error("record batch header is invalid: {0}")]
    InvalidHeader(&'static str),
    /// The checksum does not fit the bytes.
    #[error("record batch is corrupt: checksum is {computed:#010x}, the batch says {stored:#010x}")]
    Corrupt {
        /// As in the batch.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The compression codec is unknown.
    #[error("record batch has unknown compression codec {0}")]
    UnknownCompression(i16),
    /// The records cannot be decompressed.
    #[error("records cannot be decompressed: {0}")]
    Compression(String),
    /// The records become more than a batch of this size may.
    #[error("records become more than {limit_bytes} bytes when they are decompressed")]
    Inflated {
        /// The limit.
        limit_bytes: u64,
    },
    /// A record is not well formed.
    #[error("record is invalid: {0}")]
    InvalidRecord(&'static str),
}

/// A batch's header, parsed and checked for consistency. Copies 61 bytes' worth of fields, holds no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Length of the whole batch in bytes, at least [`BATCH_HEADER_BYTES`].
    pub size_bytes: usize,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from [`CRC_COVERS_FROM`] on.
    pub crc: u32,
    /// Raw attribute bits.
    pub attributes: i16,
    /// Offset of the last record, from the base offset; ≥ 0.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, or the delete horizon if that bit is set.
    pub base_timestamp: Timestamp,
    /// Largest timestamp.
    pub max_timestamp: Timestamp,
    /// Idempotent producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record.
    pub base_sequence: Sequence,
    /// Number of records; ≥ 0. Zero only in a batch that compaction emptied.
    pub record_count: i32,
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the caller checked the header's length")
}

impl BatchHeader {
    /// Parses the header at the front of `bytes`, of which it needs the first [`BATCH_HEADER_BYTES`]: the rest of the
    /// batch may still be missing, see [`size_bytes`](Self::size_bytes).
    ///
    /// # Errors
    /// [`BatchError::Truncated`], [`BatchError::UnsupportedMagic`] and [`BatchError::InvalidHeader`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The magic byte comes first, since old formats have shorter headers.
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic != 2
        {
            return Err(BatchError::UnsupportedMagic(magic.cast_signed()));
        }
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Truncated { needed: BATCH_HEADER_BYTES, available: bytes.len() });
        }
        let length = i32::from_be_bytes(read(bytes, 8));
        let size_bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(LOG_OVERHEAD_BYTES))
            .filter(|&size| size >= BATCH_HEADER_BYTES)
            .ok_or(BatchError::InvalidHeader("length"))?;
        let header = BatchHeader {
            base_offset: Offset(i64::from_be_bytes(read(bytes, 0))),
            size_bytes,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(read(bytes, EPOCH_AT))),
            crc: u32::from_be_bytes(read(bytes, CRC_AT)),
            attributes: i16::from_be_bytes(read(bytes, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(read(bytes, 23)),
            base_timestamp: Timestamp(i64::from_be_bytes(read(bytes, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(read(bytes, MAX_TIMESTAMP_AT))),
            producer_id: ProducerId(i64::from_be_bytes(read(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(read(bytes, 51))),
            base_sequence: Sequence(i32::from_be_bytes(read(bytes, 53))),
            record_count: i32::from_be_bytes(read(bytes, 57)),
        };
        header.check_ranges()?;
        Ok(header)
    }

    fn check_ranges(&self) -> Result<(), BatchError> {
        if self.last_offset_delta < 0 {
            return Err(BatchError::InvalidHeader("last offset delta"));
        }
        if self.record_count < 0 {
            return Err(BatchError::InvalidHeader("record count"));
        }
        if self.base_offset.0 < 0
            || self.base_offset.0.checked_add(i64::from(self.last_offset_delta) + 1).is_none()
        {
            return Err(BatchError::InvalidHeader("base offset"));
        }
        Ok(())
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + i64::from(self.last_offset_delta))
    }

    /// Offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0 + 1)
    }

    /// Sequence of the last record, or [`Sequence::NONE`] without an idempotent producer.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        if self.base_sequence == Sequence::NONE {
            Sequence::NONE
        } else {
            self.base_sequence.wrapping_advance(self.last_offset_delta)
        }
    }

    /// The compression codec.
    ///
    /// # Errors
    /// [`BatchError::UnknownCompression`].
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_attributes(self.attributes)
            .ok_or(BatchError::UnknownCompression(self.attributes & 0x7))
    }

    /// Whether an idempotent producer sent it.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// Whether it belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it holds control records (transaction markers), which no client may send.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether timestamps are the time of appending, not of creation.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE != 0
    }

    /// Whether the base timestamp is the delete horizon of compaction.
    #[must_use]
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }
}

/// Parses the batch at the front of `bytes` and checks that all of it is there and that its checksum fits.
///
/// # Errors
/// As [`BatchHeader::parse`], and [`BatchError::Corrupt`].
pub fn verify(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let batch = bytes
        .get(..header.size_bytes)
        .ok_or(BatchError::Truncated { needed: header.size_bytes, available: bytes.len() })?;
    let computed = crc::crc32c(&batch[CRC_COVERS_FROM..]);
    if computed != header.crc {
        return Err(BatchError::Corrupt { stored: header.crc, computed });
    }
    Ok(header)
}

/// Checks the batch at the front of `bytes` as a broker does before it appends: checksum, then every record.
///
/// # Errors
/// Every [`BatchError`].
pub fn validate(bytes: &[u8]) -> Result<(BatchHeader, RecordsSummary), BatchError> {
    let header = verify(bytes)?;
    if header.record_count == 0 {
        return Err(BatchError::InvalidHeader("record count"));
    }
    if header.last_offset_delta != header.record_count - 1 {
        return Err(BatchError::InvalidHeader("last offset delta differs from record count"));
    }
    let summary = record::check_records(&header, &bytes[BATCH_HEADER_BYTES..header.size_bytes])?;
    Ok((header, summary))
}

/// The headers of consecutive batches in `bytes`, each with its position, without looking at checksums. Ends after the
/// first error; a cut batch at the end is [`BatchError::Truncated`].
pub fn headers(bytes: &[u8]) -> impl Iterator<Item = Result<(usize, BatchHeader), BatchError>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let at = next.take().filter(|&at| at < bytes.len())?;
        let rest = &bytes[at..];
        Some(BatchHeader::parse(rest).and_then(|header| {
            if header.size_bytes > rest.len() {
                return Err(BatchError::Truncated { needed: header.size_bytes, available: rest.len() });
            }
            next = Some(at + header.size_bytes);
            Ok((at, header))
        }))
    })
}

/// Gives the batch at the front of `batch` its base offset and leader epoch, in place. The checksum covers neither.
///
/// # Panics
/// If `batch` is shorter than a header: the caller parsed it.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[EPOCH_AT..EPOCH_AT + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
}

/// Sets the time of appending on the whole batch at the front of `batch` (`message.timestamp.type=LogAppendTime`) and
/// its checksum.
///
/// # Panics
/// If `batch` is shorter than its own length field says: the caller parsed it.
pub fn stamp_log_append_time(batch: &mut [u8], size_bytes: usize, now: Timestamp) {
    let attributes = i16::from_be_bytes(read(batch, ATTRIBUTES_AT)) | TIMESTAMP_TYPE;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    stamp_max_timestamp(batch, size_bytes, now);
}

/// Corrects the largest timestamp of the batch at the front of `batch`, and its checksum.
///
/// # Panics
/// If `batch` is shorter than its own length field says: the caller parsed it.
pub fn stamp_max_timestamp(batch: &mut [u8], size_bytes: usize, max_timestamp: Timestamp) {
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp.0.to_be_bytes());
    let crc = crc::crc32c(&batch[CRC_COVERS_FROM..size_bytes]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Who sends a batch: the idempotent producer and its place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Producer id.
    pub producer_id: ProducerId,
    /// Epoch.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the batch's first record.
    pub base_sequence: Sequence,
}

impl ProducerStamp {
    /// Not idempotent.
    pub const NONE: ProducerStamp = ProducerStamp {
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
        base_sequence: Sequence::NONE,
    };
}

#[cfg(test)]
mod tests;

//! Making a stored batch anew: with fewer records, as compaction leaves it, or under another codec, as a topic's
//! `compression.type` asks.
//!
//! What stays as it was: base offset, last offset, leader epoch, and who sent it under which sequence. So offsets never
//! change, and of a producer whose records are gone the last sequence is still told. Source: Kafka's
//! `MemoryRecords.filterTo` and `DefaultRecordBatch.writeEmptyHeader`.

use bytes::BytesMut;

use super::{
    ATTRIBUTES_AT, BATCH_HEADER_BYTES, BatchError, BatchHeader, CRC_AT, CRC_COVERS_FROM, DELETE_HORIZON,
    LOG_OVERHEAD_BYTES,
};
use crate::compression::{Compression, Compressor};
use crate::crc;
use crate::ids::Timestamp;
use crate::record::{self, RecordView};

/// Bits of the attributes that name the codec.
const CODEC: i16 = 0x07;

/// The records of a whole batch, decompressed if they were compressed: for [`record::records`].
#[derive(Debug)]
pub enum Plain<'a> {
    /// As they are in the batch.
    Stored(&'a [u8]),
    /// Decompressed.
    Unpacked(Vec<u8>),
}

impl std::ops::Deref for Plain<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Plain::Stored(bytes) => bytes,
            Plain::Unpacked(bytes) => bytes,
        }
    }
}

/// The records of the whole batch at the front of `batch`. It was looked at when it came, in the codec
/// that it had then: memory is bounded by [`record::max_stored_uncompressed_bytes`].
///
/// # Errors
/// [`BatchError::UnknownCompression`], [`BatchError::Compression`], [`BatchError::Inflated`].
///
/// # Panics
/// If `batch` is shorter than `header` says: the caller verified it.
pub fn plain_records<'a>(header: &BatchHeader, batch: &'a [u8]) -> Result<Plain<'a>, BatchError> {
    let payload = &batch[BATCH_HEADER_BYTES..header.size_bytes];
    let codec = header.compression()?;
    if codec == Compression::None || payload.is_empty() {
        return Ok(Plain::Stored(payload));
    }
    let limit = record::max_stored_uncompressed_bytes(payload.len());
    let limit_bytes = limit as u64;
    codec.decompress(payload, limit).map(Plain::Unpacked).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => BatchError::Inflated { limit_bytes },
        _ => BatchError::Compression(error.to_string()),
    })
}

/// The batch of `header` with only `retained` of its records, in its own codec. With a `delete_horizon`, that becomes its
/// base timestamp (KIP-534); what a record's timestamp is does not change.
///
/// # Errors
/// [`BatchError::UnknownCompression`], [`BatchError::Compression`], [`BatchError::InvalidHeader`] for one that would be too
/// long.
pub fn with_records(
    header: &BatchHeader,
    retained: &[RecordView<'_>],
    delete_horizon: Option<Timestamp>,
) -> Result<BytesMut, BatchError> {
    let timestamp = |record: &RecordView<'_>| match header.is_log_append_time() {
        true => header.max_timestamp.0,
        false => header.base_timestamp.0.wrapping_add(record.timestamp_delta),
    };
    let first = retained.first().map_or(Timestamp::NONE, |record| Timestamp(timestamp(record)));
    let base_timestamp = delete_horizon.unwrap_or(first);
    let mut records = BytesMut::new();
    let mut largest = Timestamp::NONE;
    for record in retained {
        let timestamp = timestamp(record);
        largest = largest.max(Timestamp(timestamp));
        record.write(&mut records, timestamp.wrapping_sub(base_timestamp.0));
    }
    let payload = compressed(&records, header.compression()?, None)?;
    let horizon = if delete_horizon.is_some() { DELETE_HORIZON } else { 0 };
    assemble(
        &BatchHeader {
            attributes: header.attributes & !DELETE_HORIZON | horizon,
            base_timestamp,
            max_timestamp: if header.is_log_append_time() { header.max_timestamp } else { largest },
            record_count: i32::try_from(retained.len())
                .map_err(|_| BatchError::InvalidHeader("record count"))?,
            ..*header
        },
        payload.as_deref().unwrap_or(&records),
    )
}

/// The batch of `header` without any record: it tells of its producer and its offsets only.
#[must_use]
pub fn without_records(header: &BatchHeader) -> BytesMut {
    let emptied = BatchHeader {
        attributes: header.attributes & !(CODEC | DELETE_HORIZON),
        base_timestamp: Timestamp::NONE,
        record_count: 0,
        ..*header
    };
    assemble(&emptied, &[]).expect("a header alone is short")
}

/// The whole batch at the front of `batch` with its records compressed by `codec`. Everything else stays as it is.
///
/// # Errors
/// As [`plain_records`], and where the codec fails.
pub fn recompressed(
    header: &BatchHeader,
    batch: &[u8],
    codec: Compression,
    level: Option<i32>,
) -> Result<BytesMut, BatchError> {
    let records = plain_records(header, batch)?;
    let payload = compressed(&records, codec, level)?;
    let header = BatchHeader { attributes: header.attributes & !CODEC | codec.code(), ..*header };
    assemble(&header, payload.as_deref().unwrap_or(&records))
}

/// `None` if nothing has to be done.
fn compressed(records: &[u8], codec: Compression, level: Option<i32>) -> Result<Option<Vec<u8>>, BatchError> {
    if codec == Compression::None {
        return Ok(None);
    }
    let compressor = Compressor::with_level(codec, level);
    let compressed = compressor.and_then(|mut compressor| compressor.compress(records));
    compressed.map(Some).map_err(|error| BatchError::Compression(error.to_string()))
}

/// A batch of these fields and this payload; length and checksum are made anew.
fn assemble(header: &BatchHeader, payload: &[u8]) -> Result<BytesMut, BatchError> {
    let length = i32::try_from(BATCH_HEADER_BYTES - LOG_OVERHEAD_BYTES + payload.len())
        .map_err(|_| BatchError::InvalidHeader("length"))?;
    let mut batch = BytesMut::with_capacity(BATCH_HEADER_BYTES + payload.len());
    batch.extend_from_slice(&header.base_offset.0.to_be_bytes());
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(&header.leader_epoch.0.to_be_bytes());
    batch.extend_from_slice(&[2]);
    batch.extend_from_slice(&[0; 4]);
    debug_assert_eq!(batch.len(), ATTRIBUTES_AT);
    batch.extend_from_slice(&header.attributes.to_be_bytes());
    batch.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    batch.extend_from_slice(&header.base_timestamp.0.to_be_bytes());
    batch.extend_from_slice(&header.max_timestamp.0.to_be_bytes());
    batch.extend_from_slice(&header.producer_id.0.to_be_bytes());
    batch.extend_from_slice(&header.producer_epoch.0.to_be_bytes());
    batch.extend_from_slice(&header.base_sequence.0.to_be_bytes());
    batch.extend_from_slice(&header.record_count.to_be_bytes());
    debug_assert_eq!(batch.len(), BATCH_HEADER_BYTES);
    batch.extend_from_slice(payload);
    let crc = crc::crc32c(&batch[CRC_COVERS_FROM..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, NewRecord, ProducerStamp, stamp, verify};
    use super::*;
    use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn batch(codec: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        for number in 0..5i64 {
            builder.push(&NewRecord {
                timestamp: Timestamp(1_000 + 10 * number),
                key: Some(format!("key {number}").as_bytes()),
                value: (number != 3).then_some(b"value"),
                headers: &[("name", Some(b"content")), ("none", None)],
            });
        }
        let producer = ProducerStamp {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(1),
            base_sequence: Sequence(40),
        };
        let mut bytes = builder.build(producer).expect("a batch").to_vec();
        stamp(&mut bytes, Offset(100), LeaderEpoch(3));
        bytes
    }

    /// Offset, timestamp, key, and whether there is a value and how many headers.
    fn content(bytes: &[u8]) -> Vec<(i64, i64, Vec<u8>, bool, i32)> {
        let header = verify(bytes).expect("intact");
        let plain = plain_records(&header, bytes).expect("records");
        record::records(&plain)
            .map(|record| record.expect("well formed"))
            .map(|record| {
                assert_eq!(record.headers().filter(Result::is_ok).count(), 2);
                (
                    header.base_offset.0 + i64::from(record.offset_delta),
                    header.base_timestamp.0 + record.timestamp_delta,
                    record.key.expect("a key").to_vec(),
                    record.value.is_some(),
                    record.header_count(),
                )
            })
            .collect()
    }

    #[test]
    fn retained_records_keep_offsets_and_timestamps_with_and_without_a_horizon() {
        for codec in ALL {
            let original = batch(codec);
            let header = verify(&original).expect("intact");
            let plain = plain_records(&header, &original).expect("records");
            let keep: Vec<_> = record::records(&plain)
                .map(|record| record.expect("well formed"))
                .filter(|record| record.offset_delta % 2 == 1)
                .collect();
            for horizon in [None, Some(Timestamp(999_999))] {
                let left = with_records(&header, &keep, horizon).expect("a batch");
                let wanted: Vec<_> =
                    content(&original).into_iter().filter(|record| record.0 % 2 == 1).collect();
                assert_eq!(content(&left), wanted, "{codec:?} {horizon:?}");
                let after = verify(&left).expect("intact");
                assert_eq!((after.base_offset, after.last_offset()), (Offset(100), Offset(104)));
                assert_eq!((after.base_sequence, after.last_sequence()), (Sequence(40), Sequence(44)));
                assert_eq!((after.leader_epoch, after.max_timestamp), (LeaderEpoch(3), Timestamp(1_030)));
                assert_eq!(after.has_delete_horizon(), horizon.is_some());
                assert_eq!(after.compression(), Ok(codec));
                if let Some(horizon) = horizon {
                    assert_eq!(after.base_timestamp, horizon);
                }
            }
        }
    }

    #[test]
    fn emptied_batch_tells_of_its_producer_and_offsets() {
        let header = verify(&batch(Compression::Zstd)).expect("intact");
        let empty = without_records(&header);
        let after = verify(&empty).expect("intact");
        assert_eq!(after.size_bytes, BATCH_HEADER_BYTES);
        assert_eq!((after.base_offset, after.last_offset()), (Offset(100), Offset(104)));
        assert_eq!((after.producer_id, after.last_sequence()), (ProducerId(7), Sequence(44)));
        assert_eq!((after.record_count, after.compression()), (0, Ok(Compression::None)));
        assert_eq!(after.max_timestamp, header.max_timestamp);
    }

    #[test]
    fn recompressed_batch_holds_the_same_records() {
        for from in ALL {
            for to in ALL {
                let original = batch(from);
                let header = verify(&original).expect("intact");
                let other = recompressed(&header, &original, to, None).expect("a batch");
                assert_eq!(content(&other), content(&original), "{from:?} to {to:?}");
                let (after, _) = super::super::validate(&other).expect("valid");
                assert_eq!(after.compression(), Ok(to));
                assert_eq!(after.last_sequence(), header.last_sequence());
            }
        }
    }
}

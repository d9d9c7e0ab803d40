use proptest::prelude::*;

use super::*;
use crate::record::records;
use bytes::Bytes;

fn two_records(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    builder.push(&NewRecord {
        timestamp: Timestamp(1_000),
        key: Some(b"k"),
        value: Some(b"first"),
        headers: &[("h", Some(b"v")), ("none", None)],
    });
    builder.push(&NewRecord { timestamp: Timestamp(1_500), key: None, value: None, headers: &[] });
    builder.build(ProducerStamp::NONE).expect("a batch of two")
}

#[test]
fn built_batch_validates_with_every_codec() {
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let batch = two_records(codec);
        let (header, summary) = validate(&batch).expect("valid");
        assert_eq!(header.size_bytes, batch.len());
        assert_eq!((header.record_count, header.last_offset_delta), (2, 1));
        assert_eq!(header.compression(), Ok(codec));
        assert_eq!((summary.max_timestamp, summary.max_timestamp_offset_delta), (1_500, 1));
        assert!(summary.has_missing_key);
    }
}

#[test]
fn records_come_back_as_they_went_in() {
    let batch = two_records(Compression::None);
    let all: Vec<_> =
        records(&batch[BATCH_HEADER_BYTES..]).map(|record| record.expect("well formed")).collect();
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].key, all[0].value), (Some(&b"k"[..]), Some(&b"first"[..])));
    let headers: Vec<_> = all[0].headers().map(|header| header.expect("well formed")).collect();
    assert_eq!(headers, [(&b"h"[..], Some(&b"v"[..])), (&b"none"[..], None)]);
    assert_eq!((all[1].timestamp_delta, all[1].offset_delta, all[1].value), (500, 1, None));
}

#[test]
fn stamp_leaves_the_checksum_valid() {
    let mut batch = two_records(Compression::None).to_vec();
    stamp(&mut batch, Offset(42), LeaderEpoch(7));
    let header = verify(&batch).expect("the checksum covers neither field");
    assert_eq!((header.base_offset, header.leader_epoch), (Offset(42), LeaderEpoch(7)));
    assert_eq!((header.last_offset(), header.next_offset()), (Offset(43), Offset(44)));
}

#[test]
fn log_append_time_renews_the_checksum() {
    let mut batch = two_records(Compression::None).to_vec();
    let size_bytes = batch.len();
    stamp_log_append_time(&mut batch, size_bytes, Timestamp(9_999));
    let header = verify(&batch).expect("a new checksum");
    assert!(header.is_log_append_time());
    assert_eq!(header.max_timestamp, Timestamp(9_999));
}

#[test]
fn every_flipped_bit_under_the_checksum_is_found() {
    let batch = two_records(Compression::None).to_vec();
    for byte in CRC_AT..batch.len() {
        for bit in 0..8 {
            let mut damaged = batch.clone();
            damaged[byte] ^= 1 << bit;
            assert!(verify(&damaged).is_err(), "bit {bit} of byte {byte}");
        }
    }
}

#[test]
fn old_magic_is_refused_by_name() {
    let mut batch = two_records(Compression::None).to_vec();
    batch[MAGIC_AT] = 1;
    assert_eq!(verify(&batch), Err(BatchError::UnsupportedMagic(1)));
    assert_eq!(BatchHeader::parse(&batch[..20]), Err(BatchError::UnsupportedMagic(1)));
}

#[test]
fn headers_walks_batches_and_reports_a_cut_one() {
    let batch = two_records(Compression::None);
    let mut bytes = [&batch[..], &batch[..], &batch[..]].concat();
    bytes.truncate(bytes.len() - 1);
    let walked: Vec<_> = headers(&bytes).collect();
    assert_eq!(walked.len(), 3);
    assert!(walked[0].is_ok() && walked[1].as_ref().is_ok_and(|(at, _)| *at == batch.len()));
    assert!(matches!(walked[2], Err(BatchError::Truncated { .. })));
}

#[test]
fn header_that_lies_about_its_records_is_refused() {
    let mut batch = two_records(Compression::None).to_vec();
    batch[57..61].copy_from_slice(&3i32.to_be_bytes());
    batch[23..27].copy_from_slice(&2i32.to_be_bytes());
    let crc = crc::crc32c(&batch[CRC_COVERS_FROM..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(validate(&batch), Err(BatchError::InvalidRecord("fewer records than the header says")));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = validate(&bytes);
        let _ = headers(&bytes).count();
        let _ = records(&bytes).count();
    }

    #[test]
    fn hostile_records_under_a_valid_checksum_never_panic(
        codec in 0i16..8,
        count in any::<i32>(),
        payload in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut batch = two_records(Compression::None)[..BATCH_HEADER_BYTES].to_vec();
        batch.extend_from_slice(&payload);
        let length = i32::try_from(batch.len() - LOG_OVERHEAD_BYTES).expect("short");
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[21..23].copy_from_slice(&codec.to_be_bytes());
        batch[23..27].copy_from_slice(&count.wrapping_sub(1).to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = crc::crc32c(&batch[CRC_COVERS_FROM..]);
        batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        let _ = validate(&batch);
    }

    #[test]
    fn built_records_are_read_back(values in proptest::collection::vec(
        (any::<u32>(), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
         proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300))), 1..40)) {
        let mut builder = BatchBuilder::new(Compression::None);
        for (timestamp, key, value) in &values {
            let record = NewRecord {
                timestamp: Timestamp((*timestamp).into()),
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &[],
            };
            let before = builder.size_bytes();
            builder.push(&record);
            prop_assert!(builder.size_bytes() - before <= BatchBuilder::record_size_bound(&record));
        }
        let batch = builder.build(ProducerStamp::NONE).expect("not empty");
        validate(&batch).expect("valid");
        let read: Vec<_> = records(&batch[BATCH_HEADER_BYTES..])
            .map(|record| record.map(|r| (r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec))))
            .collect::<Result<_, _>>()
            .expect("well formed");
        let expected: Vec<_> = values.into_iter().map(|(_, key, value)| (key, value)).collect();
        prop_assert_eq!(read, expected);
    }
}

#[test]
fn header_and_payload_are_the_built_batch_and_the_buffer_comes_back() {
    let stamp = ProducerStamp {
        producer_id: ProducerId(9),
        producer_epoch: ProducerEpoch(1),
        base_sequence: Sequence(30),
    };
    for codec in [Compression::None, Compression::Zstd] {
        let build = || {
            let mut builder = BatchBuilder::with_buffer(bytes::BytesMut::with_capacity(4096), codec);
            builder.push(&NewRecord { value: Some(&[7; 900]), ..NewRecord::default() });
            builder
        };
        let whole = build().build(stamp).expect("not empty");
        let records = build().finish().expect("not empty");
        assert_eq!([&records.header(stamp)[..], records.payload()].concat(), whole);
        assert_eq!(records.size_bytes(), whole.len());
        assert_eq!(super::super::record::records(records.uncompressed()).count(), 1);
        let held = records.payload().clone();
        let sent = records.header(ProducerStamp { producer_epoch: ProducerEpoch(2), ..stamp });
        assert_eq!(validate(&[&sent[..], &held].concat()).expect("valid").0.producer_epoch, ProducerEpoch(2));
        drop(held);
        assert_eq!(records.into_buffer().expect("nobody holds it").capacity(), 4096);
    }
}

#[test]
fn buffer_stays_with_whoever_still_holds_the_payload() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&NewRecord::default());
    let records = builder.finish().expect("not empty");
    let held = records.payload().clone();
    assert!(records.into_buffer().is_none());
    drop(held);
}

/// A small batch in each codec that becomes large: what a producer may have filled is accepted, a bomb is refused, and
/// before its record is decompressed, since the record's length says enough.
#[test]
fn batch_that_becomes_too_much_is_refused() {
    let limit = usize::try_from(crate::record::ALWAYS_UNCOMPRESSED_BYTES).expect("fits");
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let compressed = |value: Vec<u8>| {
            let mut builder = BatchBuilder::new(codec);
            builder.push(&NewRecord { value: Some(&value), ..NewRecord::default() });
            builder.build(ProducerStamp::NONE).expect("not empty")
        };
        let honest = compressed(vec![0; limit - 100]);
        validate(&honest).expect("within the limit");
        let bomb = compressed(vec![0; 2 * limit]);
        let ratio = 2 * limit / bomb.len();
        let outcome = validate(&bomb);
        if ratio as u64 > crate::record::MAX_COMPRESSION_RATIO {
            assert!(matches!(outcome, Err(BatchError::Inflated { .. })), "{codec:?}: {outcome:?}");
        } else {
            assert_eq!(codec, Compression::Snappy, "its blocks grow by no more than some twenty times");
            outcome.expect("within the limit");
        }
    }
}

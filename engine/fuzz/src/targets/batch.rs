//! Record batches: the walk over headers, the broker's validation, the reader's records, and that they agree.

use bytes::Bytes;
use highwater_model::batch::{
    self, BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, CRC_COVERS_FROM, NewRecord, ProducerStamp,
};
use highwater_model::compression::Compression;
use highwater_model::record::{RecordsSummary, records};
use highwater_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::Reached;

/// Most bytes that records may become here.
const DECOMPRESSED_BYTES: usize = 1 << 20;

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let mut reached = Reached::Refused;
    let mut end = 0;
    for found in batch::headers(bytes) {
        let Ok((at, header)) = found else { break };
        assert_eq!(at, end, "batches follow each other");
        end = at + header.size_bytes;
        let whole = &bytes[at..end];
        // The fuzzer cannot guess a checksum: it gets one.
        reached = reached.max(check(&mend(whole), &header));
        check(whole, &header);
    }
    reached
}

fn mend(batch: &[u8]) -> Vec<u8> {
    let mut mended = batch.to_vec();
    let crc = crc32c::crc32c(&mended[CRC_COVERS_FROM..]);
    mended[CRC_COVERS_FROM - 4..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
    mended
}

fn check(bytes: &[u8], header: &BatchHeader) -> Reached {
    let _ = (header.last_offset(), header.next_offset(), header.last_sequence());
    let Ok((header, summary)) = batch::validate(bytes) else { return Reached::Refused };
    let mut stamped = bytes.to_vec();
    batch::stamp(&mut stamped, Offset(5), LeaderEpoch(3));
    batch::stamp_max_timestamp(&mut stamped, header.size_bytes, Timestamp(summary.max_timestamp));
    let again = batch::verify(&stamped).expect("a stamped batch is intact");
    assert_eq!((again.base_offset.0, again.record_count), (5, header.record_count));
    check_records(&header, &summary, &bytes[BATCH_HEADER_BYTES..header.size_bytes]);
    Reached::Accepted
}

/// What the broker let through, a consumer reads, and finds what the broker found.
fn check_records(header: &BatchHeader, summary: &RecordsSummary, payload: &[u8]) {
    let codec = header.compression().expect("validated");
    let plain = match codec.decompress(payload, DECOMPRESSED_BYTES) {
        Ok(plain) => plain,
        Err(error) => {
            assert!(
                summary.uncompressed_bytes > DECOMPRESSED_BYTES as u64,
                "{codec:?}: {} validated bytes cannot be read: {error}",
                summary.uncompressed_bytes
            );
            return;
        }
    };
    assert_eq!(plain.len() as u64, summary.uncompressed_bytes, "{codec:?}");
    let mut count = 0;
    let mut max_timestamp = -1;
    for record in records(&plain) {
        let record = record.expect("validated");
        assert_eq!(record.offset_delta, count);
        let headers = record.headers().filter(Result::is_ok).count();
        assert_eq!(i32::try_from(headers), Ok(record.header_count()), "every header is well formed");
        max_timestamp = max_timestamp.max(header.base_timestamp.0.saturating_add(record.timestamp_delta));
        count += 1;
    }
    assert_eq!((count, max_timestamp), (header.record_count, summary.max_timestamp), "{codec:?}");
}

/// One batch in each codec.
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let codecs =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    codecs.into_iter().map(|codec| example(codec, ProducerStamp::NONE).to_vec()).collect()
}

fn example(codec: Compression, producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    let headers: &[(&str, Option<&[u8]>)] = &[("h", Some(b"v")), ("n", None)];
    builder.push(&NewRecord { timestamp: Timestamp(5), value: Some(b"value"), ..NewRecord::default() });
    builder.push(&NewRecord { timestamp: Timestamp(9), key: Some(b"key"), headers, ..NewRecord::default() });
    builder.push(&NewRecord { timestamp: Timestamp(7), value: Some(&[b'a'; 300]), ..NewRecord::default() });
    builder.build(producer).expect("a batch")
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = examples();
    let producer = ProducerStamp {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(1),
        base_sequence: Sequence(3),
    };
    seeds.push([example(Compression::None, producer), example(Compression::Lz4, producer)].concat());
    // Raw snappy, as librdkafka makes it: its one block has no frame round it.
    let mut raw = seeds[2].clone();
    raw.drain(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + 20);
    let length = i32::try_from(raw.len() - 12).expect("short");
    raw[8..12].copy_from_slice(&length.to_be_bytes());
    seeds.push(mend(&raw));
    seeds
}

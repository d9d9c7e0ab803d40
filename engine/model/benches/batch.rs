//! What one batch costs the processor: the checksum, the whole validation of a produce request's batch, and building one.
//!
//!     cargo bench -p highwater-model

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use highwater_model::batch::{self, BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{Timestamp, crc};

const RECORD_BYTES: usize = 1024;
const BATCH_BYTES: [usize; 2] = [16 << 10, 1 << 20];
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Half noise, half zeros: codecs have something to find, and not everything.
fn value(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let noise = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    });
    noise.take(RECORD_BYTES / 2).chain(std::iter::repeat_n(0, RECORD_BYTES / 2)).collect()
}

fn build(batch_bytes: usize, compression: Compression, values: &[Vec<u8>]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    let values = values.iter().cycle().take(batch_bytes / RECORD_BYTES);
    for (number, value) in (0..).zip(values) {
        builder.push(&NewRecord {
            timestamp: Timestamp(1_700_000_000_000 + number),
            value: Some(value),
            ..NewRecord::default()
        });
    }
    builder.build(ProducerStamp::NONE).expect("a batch within its limits")
}

fn batches(criterion: &mut Criterion) {
    let values: Vec<Vec<u8>> = (1..=64).map(value).collect();

    let mut group = criterion.benchmark_group("crc32c");
    for bytes in BATCH_BYTES {
        let batch = build(bytes, Compression::None, &values);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &batch, |bencher, batch| {
            bencher.iter(|| crc::crc32c(black_box(batch)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("validate");
    for bytes in BATCH_BYTES {
        for codec in CODECS {
            let batch = build(bytes, codec, &values);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_with_input(BenchmarkId::new(codec.name(), bytes), &batch, |bencher, batch| {
                bencher.iter(|| batch::validate(black_box(batch)).expect("valid"));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("build");
    for bytes in BATCH_BYTES {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| build(bytes, Compression::None, black_box(&values)));
        });
    }
    group.finish();
}

criterion_group!(benches, batches);
criterion_main!(benches);

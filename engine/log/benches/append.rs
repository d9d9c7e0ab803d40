//! The storage backend on this machine's disk: durable appends by records outstanding, the same without waiting for a
//! flush, and a sequential read.
//!
//!     cargo bench -p highwater-log
//!
//! Files go below `target/`; set `TMPDIR` to measure another disk. A figure of one machine says little without the
//! disk's own flush beside it: `highwater-bench` measures that floor.

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use highwater_log::LogConfig;
use highwater_log::store::{Log, NewRecord, Store, StoreOptions, Wait};
use highwater_model::Offset;

const RECORD_BYTES: usize = 1024;
/// Kept small: the bench appends for as long as it is asked to.
const RETAINED_BYTES: u64 = 256 << 20;

/// A folder on the disk that is measured: not `/tmp`, which may be in memory.
fn scratch() -> tempfile::TempDir {
    let parent =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    tempfile::tempdir_in(parent).expect("a folder for the bench")
}

fn open(dir: &Path, flush_messages: u64) -> (Store, Log) {
    let store = Store::open(dir, StoreOptions { linger: Duration::ZERO, ..StoreOptions::default() });
    let store = store.expect("an empty directory opens");
    let config = LogConfig {
        flush_messages,
        segment_bytes: RETAINED_BYTES / 4,
        retention_bytes: Some(RETAINED_BYTES),
        ..LogConfig::default()
    };
    let log = store.log_with("bench", 0, config).wait().expect("a log");
    (store, log)
}

/// Appends `count` records, at most `outstanding` of them without their ack.
fn append(log: &Log, count: u64, outstanding: usize) -> Duration {
    let value = vec![7; RECORD_BYTES];
    let mut waiting = VecDeque::with_capacity(outstanding);
    let begin = Instant::now();
    for _ in 0..count {
        if waiting.len() == outstanding {
            let oldest: highwater_log::store::Ack = waiting.pop_front().expect("one is waiting");
            oldest.wait().expect("acknowledged");
        }
        waiting.push_back(log.append(NewRecord::value(value.clone())).wait().expect("accepted"));
    }
    for ack in waiting {
        ack.wait().expect("acknowledged");
    }
    begin.elapsed()
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.sample_size(10).throughput(Throughput::Bytes(RECORD_BYTES as u64));
    for (ack, flush_messages) in [("durable", 1), ("written", u64::MAX)] {
        for outstanding in [1, 16, 256, 4096] {
            let dir = scratch();
            let (store, log) = open(dir.path(), flush_messages);
            group.bench_function(BenchmarkId::new(ack, outstanding), |bencher| {
                bencher.iter_custom(|count| append(&log, count, outstanding));
            });
            store.close().wait().expect("closes");
        }
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    const RECORDS: u64 = 128 << 10;
    let dir = scratch();
    let (store, log) = open(dir.path(), u64::MAX);
    append(&log, RECORDS, 4096);
    let mut group = criterion.benchmark_group("read");
    group.sample_size(10).throughput(Throughput::Bytes(RECORDS * RECORD_BYTES as u64));
    group.bench_function("batches", |bencher| {
        bencher.iter(|| {
            let mut next = Offset(0);
            while next < Offset(RECORDS.cast_signed()) {
                let data = log.read_batches(next, 1 << 20).wait().expect("readable");
                next = black_box(data).next_offset;
            }
        });
    });
    group.finish();
    store.close().wait().expect("closes");
}

criterion_group!(benches, appends, reads);
criterion_main!(benches);

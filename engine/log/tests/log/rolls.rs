//! When a new segment begins, as Kafka means `segment.bytes`, `segment.ms`, `segment.jitter.ms` and `segment.index.bytes`.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::{Io, sim};
use highwater_log::{LogConfig, Origin, Partition};
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Timestamp};

use crate::common::scene::{End, Scene};
use crate::common::{DIR, id, open, small_log};

const HOUR: i64 = 3_600_000;
/// The record times of these tests; the clock is somewhere else.
const START: i64 = 1_000 * HOUR;

fn batch_at(time: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&NewRecord { timestamp: Timestamp(time), value: Some(b"value"), ..NewRecord::default() });
    builder.build(ProducerStamp::NONE).expect("a batch")
}

async fn append_at(partition: &Partition, time: i64) {
    let epoch = partition.latest_epoch().max(LeaderEpoch(0));
    partition.begin_epoch(epoch);
    let appended = partition.append(batch_at(time), epoch, Origin::Client).await.expect("accepted");
    appended.acknowledged().await.expect("the disk is sound");
}

/// Base offsets of the segments of `topic-0`.
async fn segments(io: &Io) -> Vec<i64> {
    let entries = io.fs().read_dir(Path::new(DIR).join("topic-0")).await.expect("is there");
    let base = |name: &str| name.strip_suffix(".log").and_then(|base| base.parse().ok());
    entries.iter().filter_map(|entry| base(&entry.name)).collect()
}

/// Appends records of these times to a new log; the base offsets of its segments then.
fn rolled(config: LogConfig, times: Vec<i64>) -> Vec<i64> {
    let bases = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let found = std::rc::Rc::clone(&bases);
    let mut scene = Scene::new(5);
    scene.live(move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        for time in times {
            append_at(&partition, time).await;
        }
        *found.borrow_mut() = segments(&io).await;
        logs.close().await.expect("a clean stop");
    });
    bases.take()
}

fn hourly() -> LogConfig {
    LogConfig { segment_bytes: 1 << 20, segment_ms: Duration::from_hours(1), ..small_log() }
}

#[test]
fn segment_spans_at_most_its_time_of_the_records_not_of_the_clock() {
    let times = vec![START, START + HOUR / 2, START + HOUR, START + HOUR + 1, START + 2 * HOUR];
    // An hour is within, a millisecond more is not; the next segment counts from its own first record.
    assert_eq!(rolled(hourly(), times), [0, 3]);
    // Years of records in a moment.
    assert_eq!(rolled(hourly(), (0..5).map(|n| START + n * 9_000 * HOUR).collect()), [0, 1, 2, 3, 4]);
}

#[test]
fn older_records_do_not_roll_a_segment() {
    assert_eq!(rolled(hourly(), vec![START, START - 500 * HOUR, START + HOUR / 2, 0]), [0]);
}

#[test]
fn first_time_of_a_segment_outlives_a_kill_and_a_clean_stop() {
    for clean in [false, true] {
        let mut scene = Scene::new(6);
        scene.live_and(End::Kill, move |io| async move {
            let (dir, logs, _) = open(&io).await;
            let partition = logs.create_partition(id(0), "topic", hourly()).await.expect("created");
            append_at(&partition, START).await;
            append_at(&partition, START + 1).await;
            if clean {
                logs.close().await.expect("a clean stop");
                dir.mark_clean().await.expect("marked");
            }
        });
        scene.live(move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = logs.partition(&id(0)).expect("is there");
            partition.set_config(hourly());
            append_at(&partition, START + HOUR).await;
            assert_eq!(segments(&io).await, [0], "clean: {clean}");
            append_at(&partition, START + HOUR + 1).await;
            assert_eq!(segments(&io).await, [0, 3], "clean: {clean}");
            logs.close().await.expect("a clean stop");
        });
    }
}

#[test]
fn jitter_rolls_segments_earlier_by_less_than_it_and_not_all_alike() {
    let jitter = Duration::from_mins(30);
    let config = LogConfig { segment_jitter: jitter, ..hourly() };
    // A record a minute: between 31 and 61 records a segment.
    let minute = HOUR / 60;
    let bases = rolled(config, (0..600).map(|n| START + n * minute).collect());
    let spans: Vec<i64> = bases.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(spans.len() > 9, "{spans:?}");
    assert!(spans.iter().all(|span| (30..=61).contains(span)), "{spans:?}");
    assert!(spans.iter().any(|span| *span != spans[0]), "{spans:?}");
    assert_eq!(rolled(hourly(), (0..600).map(|n| START + n * minute).collect()).len(), 10);
}

#[test]
fn segment_whose_index_is_full_is_rolled() {
    // An entry of 8 bytes in the offset index and of 12 in the time index for almost each batch.
    let config = |segment_index_bytes| LogConfig {
        segment_bytes: 1 << 20,
        index_interval_bytes: 1,
        segment_index_bytes,
        ..small_log()
    };
    let times: Vec<i64> = (0..100).map(|n| START + n).collect();
    let small = rolled(config(240), times.clone());
    let spans: Vec<i64> = small.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(!spans.is_empty() && spans.iter().all(|span| (18..=22).contains(span)), "{spans:?}");
    assert_eq!(rolled(config(10 << 20), times), [0]);
}

#[test]
fn segment_is_rolled_before_it_grows_beyond_its_bytes() {
    let size = batch_at(START).len() as u64;
    let config = LogConfig { segment_bytes: 5 * size, ..small_log() };
    assert_eq!(rolled(config, (0..11).map(|_| START).collect()), [0, 5, 10]);
}

/// A record without a time, as very old clients send it: there is only the clock then.
#[test]
fn records_without_a_time_are_rolled_by_the_clock() {
    sim::run(7, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = logs.create_partition(id(0), "topic", hourly()).await.expect("created");
        append_at(&partition, -1).await;
        io.sleep(Duration::from_mins(59)).await;
        append_at(&partition, -1).await;
        assert_eq!(segments(&io).await, [0]);
        io.sleep(Duration::from_mins(2)).await;
        append_at(&partition, -1).await;
        assert_eq!(segments(&io).await, [0, 2]);
        logs.close().await.expect("a clean stop");
    });
}

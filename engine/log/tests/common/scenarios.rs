//! Stories in which one lie of the engine does harm. Each ends well with an honest engine; the error says what was seen.

use std::path::Path;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::sim::{DiskConfig, DiskOp, Fault, FaultEffect, Latency, TornUnit};
use highwater_log::verify::verify;
use highwater_log::{
    LogConfig, OpenOptions, Origin, Partition, ReadError, ReadRequest, ShardConfig, ShardLogs,
};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset};

use crate::common::scene::{End, Scene};
use crate::common::{
    DIR, append_one, batch_of, create, id, keyed_batch_of, open, open_with, options, read_values, small_log,
    small_shard,
};

/// What was seen, if it should not have been.
pub(crate) type Verdict = Result<(), String>;

fn expect(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

fn value(number: u32, size: usize) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    value.resize(size, (number % 251) as u8);
    value
}

/// Appends values of `size` bytes and waits for each ack.
async fn append_acked(partition: &Partition, numbers: std::ops::Range<u32>, size: usize) {
    for number in numbers {
        append_one(partition, &value(number, size)).await.acknowledged().await.expect("the disk is sound");
    }
}

fn values(numbers: std::ops::Range<u32>, size: usize) -> Vec<Vec<u8>> {
    numbers.map(|number| value(number, size)).collect()
}

/// A setting under which nothing is flushed that nobody asks for.
fn unflushed() -> LogConfig {
    LogConfig { flush_messages: u64::MAX, ..small_log() }
}

fn the_partition(logs: &ShardLogs) -> Partition {
    logs.partition(&id(0)).expect("it is there")
}

/// Values as far as they can be read, and the error that ended it.
async fn read_until_damage(partition: &Partition) -> (Vec<Vec<u8>>, Option<ReadError>) {
    let marks = partition.watermarks().get();
    let mut offset = marks.log_start_offset;
    let mut bytes = Vec::new();
    let error = loop {
        if offset >= marks.log_end_offset {
            break None;
        }
        let request =
            ReadRequest { offset, max_bytes: 1, min_one_batch: true, upper_bound: marks.log_end_offset };
        match partition.read(request).await {
            Ok(data) => {
                bytes.extend(data.chunks.concat());
                offset = data.next_offset;
            }
            Err(error) => break Some(error),
        }
    };
    let mut values = Vec::new();
    for header in highwater_model::batch::headers(&bytes) {
        let (at, header) = header.expect("whole batches");
        let body = &bytes[at + highwater_model::batch::BATCH_HEADER_BYTES..at + header.size_bytes];
        for record in highwater_model::record::records(body).map_while(Result::ok) {
            values.push(record.value.unwrap_or_default().to_vec());
        }
    }
    (values, error)
}

/// Rule 10: a batch in a segment rots while the process is down. It is not served; what lies below is.
pub(crate) fn rot_in_a_segment_is_never_served() -> Verdict {
    let mut scene = Scene::new(1);
    scene.live(|io| async move {
        let (dir, logs, _) = open(&io).await;
        append_acked(&create(&logs, 0).await, 0..10, 500).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    scene.end(End::Kill);
    // The sixth of ten batches, in the middle of its record's value.
    let segment = scene.path_of("00000000000000000000.log");
    let batch_bytes = scene.disk().file_lengths()[&segment] / 10;
    scene.disk().corrupt(&segment, 5 * batch_bytes + 200..5 * batch_bytes + 201);
    let (read, error) = scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        read_until_damage(&the_partition(&logs)).await
    });
    expect(read == values(0..5, 500), || format!("{} values are served", read.len()))?;
    expect(matches!(error, Some(ReadError::Corrupt { .. })), || format!("the read ends with {error:?}"))
}

/// Rules 3 and 12 of recovery: a group that was durable rots. Its partition is fenced, and serves what lies below.
pub(crate) fn rot_in_a_durable_group_fences_its_partition() -> Verdict {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        // Each a group of one block, and each durable before the next.
        append_acked(&partition, 0..6, 500).await;
        append_acked(&create(&logs, 1).await, 0..3, 500).await;
    });
    // The pieces of a dead process land, then the third group rots.
    scene.pass(Duration::from_secs(10));
    scene.disk().corrupt(scene.path_of("journal-0"), (3 << 12) + 300..(3 << 12) + 301);
    let (fenced, refused, read, other) = scene.live(|io| async move {
        let (_dir, logs, report) = open(&io).await;
        let partition = the_partition(&logs);
        let epoch = LeaderEpoch(0);
        partition.begin_epoch(epoch);
        let batch = batch_of(&[b"refused"], ProducerStamp::NONE);
        let refused = partition.append(batch, epoch, Origin::Client).await.is_err();
        let other = logs.partition(&id(1)).expect("it is there");
        append_one(&other, b"goes on").await.acknowledged().await.expect("the disk is sound");
        let fenced = report.fenced.len() == 1 && partition.fenced().is_some();
        (fenced, refused, read_until_damage(&partition).await.0, read_values(&other).await.len())
    });
    expect(fenced && refused, || format!("fenced: {fenced}, appends refused: {refused}"))?;
    expect(read == values(0..2, 500), || format!("{} values are served below the damage", read.len()))?;
    expect(other == 4, || format!("the other partition has {other} values"))
}

/// The same with a sector that cannot be read: above the durable bound it counts as torn, and nobody is fenced.
pub(crate) fn unreadable_sector_is_rot_below_the_durable_bound_and_torn_above() -> Verdict {
    for below in [true, false] {
        let mut scene = Scene::new(2);
        scene.live_and(End::Kill, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            append_acked(&partition, 0..3, 500).await;
            partition.set_config(unflushed());
            append_acked(&partition, 3..5, 500).await;
        });
        scene.pass(Duration::from_secs(10));
        // Groups 2 and 5: the second is durable, the fifth was only written.
        let at: u64 = if below { 2 << 12 } else { 5 << 12 };
        scene.disk().make_unreadable(scene.path_of("journal-0"), at..at + 1);
        let (fenced, read) = scene.live(|io| async move {
            let (_dir, logs, report) = open(&io).await;
            (report.fenced.len(), read_until_damage(&the_partition(&logs)).await.0)
        });
        let (wanted, left) = if below { (1, 1) } else { (0, 4) };
        let seen = || format!("below: {below}, fenced: {fenced}, {} values", read.len());
        expect(fenced == wanted && read == values(0..left, 500), seen)?;
    }
    Ok(())
}

/// Rule 2: after a truncation in the middle of a segment, the bytes behind the cut are whole batches with valid
/// checksums that follow the end. They are not the log.
pub(crate) fn batches_behind_a_truncation_are_not_the_log() -> Verdict {
    let mut scene = Scene::new(3);
    scene.live_and(End::PowerCut, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        append_acked(&partition, 0..20, 500).await;
        logs.checkpoint().await.expect("the disk is sound");
        partition.truncate_to(Offset(8)).await.expect("the disk is sound");
        logs.checkpoint().await.expect("the disk is sound");
    });
    let read = scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        read_until_damage(&the_partition(&logs)).await.0
    });
    expect(read == values(0..8, 500), || format!("{} values after a cut to 8", read.len()))
}

/// Rule 3: a killed process's chunk lands in a segment after the restart. The restarted process has cut the log and
/// appended anew at that place.
pub(crate) fn late_write_of_a_dead_process_does_no_harm() -> Verdict {
    (0..20).try_for_each(late_write_of_a_dead_process)
}

fn late_write_of_a_dead_process(seed: u64) -> Verdict {
    let slow = Latency::micros(3_000_000, 4_000_000, 5_000_000);
    let mut scene = Scene::on(seed, DiskConfig { orphan: slow, ..DiskConfig::default() });
    let disk = scene.disk();
    let stall =
        disk.inject(Fault::new(DiskOp::Write, FaultEffect::Delay(Duration::from_secs(2))).on("00000000.log"));
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        append_acked(&create(&logs, 0).await, 0..30, 500).await;
    });
    // The first chunk is on its way to the segment.
    scene.pass(Duration::from_millis(100));
    scene.end(End::Kill);
    disk.lift(stall);
    let (read, error) = scene.live(|io| async move {
        let (dir, logs, _) = open(&io).await;
        let partition = the_partition(&logs);
        partition.truncate_to(Offset(0)).await.expect("the disk is sound");
        append_acked(&partition, 100..130, 500).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
        // By now whatever was to land has landed.
        io.sleep(Duration::from_secs(30)).await;
        let (_dir, logs, _) = open(&io).await;
        read_until_damage(&the_partition(&logs)).await
    });
    expect(error.is_none(), || format!("seed {seed}: the read ends with {error:?}"))?;
    expect(read == values(100..130, 500), || format!("seed {seed}: a dead process's bytes are read"))
}

/// Rule 7: a flush fails, and what it should have written is forgotten by the kernel. A second flush would report
/// success; what was acknowledged on its word is gone with the power.
pub(crate) fn failed_flush_is_the_end_of_its_journal() -> Verdict {
    for seed in 0..30 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        let acknowledged = scene.live_and(End::PowerCut, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            partition.set_config(unflushed());
            append_acked(&partition, 0..4, 500).await;
            disk.inject(Fault::eio(DiskOp::Flush).on("journal-0").times(1));
            let flushed = partition.flush().await.is_ok();
            assert_eq!(flushed, logs.failure().is_none());
            flushed
        });
        let read = scene.live(|io| async move {
            let (_dir, logs, _) = open(&io).await;
            read_until_damage(&the_partition(&logs)).await.0
        });
        let lost = acknowledged && read != values(0..4, 500);
        expect(!lost, || format!("seed {seed}: {} of 4 flushed values are left", read.len()))?;
    }
    Ok(())
}

/// Rule 11: the marker of a clean stop is gone before anything changes.
pub(crate) fn directory_in_use_never_looks_clean() -> Verdict {
    let mut scene = Scene::new(5);
    scene.live(|io| async move {
        let (dir, logs, _) = open(&io).await;
        append_acked(&create(&logs, 0).await, 0..3, 500).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
        let (_dir, logs, report) = open(&io).await;
        assert!(report.was_clean);
        append_acked(&the_partition(&logs), 3..5, 500).await;
    });
    scene.end(End::Kill);
    let was_clean = scene.live(|io| async move { open(&io).await.2.was_clean });
    expect(!was_clean, || "a killed process's directory looks clean".to_owned())
}

/// A disk that destroys the block that it was writing when the power went.
fn shorn() -> DiskConfig {
    DiskConfig { torn_unit: TornUnit::ShornBlock4096, ..DiskConfig::default() }
}

/// Only durable bytes are written behind: what is not durable would be written over the settled block in which what is
/// durable ends, and the power goes in the middle of that.
pub(crate) fn settled_block_is_rewritten_only_when_its_image_is_durable() -> Verdict {
    (0..169).try_for_each(settled_block_is_rewritten_with_a_power_cut)
}

/// Durable values, before any that is not.
const KEPT: u32 = 32;

fn settled_block_is_rewritten_with_a_power_cut(seed: u64) -> Verdict {
    let mut scene = Scene::on(seed, shorn());
    let slow = FaultEffect::Delay(Duration::from_millis(80));
    scene.disk().inject(Fault::new(DiskOp::Write, slow).on("00000000.log"));
    scene.live(move |io| async move {
        // No checkpoint and no flush but those that the story has.
        let shard = ShardConfig {
            journal_file_bytes: 1 << 20,
            checkpoint_interval_bytes: 1 << 30,
            unflushed_max_bytes: 1 << 20,
            ..small_shard()
        };
        let (_dir, logs, _) = open_with(&io, OpenOptions { shard, ..options() }).await;
        let partition = create(&logs, 0).await;
        let config = LogConfig { segment_bytes: 1 << 20, ..small_log() };
        partition.set_config(config.clone());
        // Chunks that keep the write-behind busy, and one more that it is asked for while the checkpoint has the turn.
        append_acked(&partition, 0..24, 1000).await;
        let mut last = append_one(&partition, &value(24, 1000)).await;
        for number in 25..KEPT {
            last = append_one(&partition, &value(number, 1000)).await;
        }
        let checkpoint = {
            let logs = logs.clone();
            io.spawn(async move { logs.checkpoint().await })
        };
        last.acknowledged().await.expect("the disk is sound");
        // Behind the checkpoint's line, and never flushed; at best while the last block is being settled.
        io.sleep(Duration::from_millis(245 + seed % 13 * 5)).await;
        partition.set_config(LogConfig { flush_messages: u64::MAX, ..config });
        append_acked(&partition, KEPT..KEPT + 18, 1000).await;
        checkpoint.await.expect("the disk is sound");
    });
    // Into the next chunk, if there is one.
    scene.pass(Duration::from_millis(5 + seed / 13 * 5));
    scene.end(End::PowerCut);
    let (read, fenced) = scene.live(|io| async move {
        let (_dir, logs, report) = open(&io).await;
        (read_until_damage(&the_partition(&logs)).await.0, report.fenced.len())
    });
    let kept = KEPT as usize;
    let intact = read.len() >= kept && read[..kept] == values(0..KEPT, 1000)[..];
    expect(intact && fenced == 0, || format!("seed {seed}: {} of {kept} durable values are read", read.len()))
}

/// A killed process left groups that nothing flushed. Recovery applies them, over the settled block in which what is
/// durable ends, and the power goes in the middle of that.
pub(crate) fn groups_are_flushed_before_they_are_applied() -> Verdict {
    for seed in 0..150 {
        let mut scene = Scene::on(seed, shorn());
        scene.live_and(End::Kill, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            append_acked(&partition, 0..5, 500).await;
            logs.checkpoint().await.expect("the disk is sound");
            partition.set_config(unflushed());
            append_acked(&partition, 5..9, 500).await;
        });
        scene.pass(Duration::from_secs(5));
        let disk = scene.disk();
        let delay = FaultEffect::Delay(Duration::from_millis(200));
        let stall = disk.inject(Fault::new(DiskOp::Write, delay).on("00000000.log"));
        // Into the write of the applied groups.
        scene.live_for(Duration::from_millis(120), End::PowerCut, |io| async move {
            open(&io).await;
        });
        disk.lift(stall);
        let (read, fenced) = scene.live(|io| async move {
            let (_dir, logs, report) = open(&io).await;
            (read_until_damage(&the_partition(&logs)).await.0, report.fenced.len())
        });
        let intact = read.len() >= 5 && read[..5] == values(0..5, 500)[..];
        expect(intact && fenced == 0, || {
            format!("seed {seed}: {} values are read, 5 were durable", read.len())
        })?;
    }
    Ok(())
}

const KEYS: u32 = 10;
/// Records before the pass.
const KEYED: u32 = 90;

fn compacted() -> LogConfig {
    LogConfig {
        delete_enabled: false,
        compact_enabled: true,
        min_cleanable_dirty_ppm: 10_000,
        segment_bytes: 16 << 10,
        ..small_log()
    }
}

/// A log of which a pass will leave little, after a clean stop.
fn before_a_pass(seed: u64) -> Scene {
    let mut scene = Scene::new(seed);
    scene.live_and(End::Kill, |io| async move {
        let (dir, logs, _) = open(&io).await;
        // Several of them make one.
        let small = LogConfig { segment_bytes: 4 << 10, ..compacted() };
        let partition = logs.create_partition(id(0), "topic", small).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        for number in 0..KEYED {
            let (key, value) = ((number % KEYS).to_be_bytes(), value(number, 300));
            let batch = keyed_batch_of(&[(&key, Some(&value))], ProducerStamp::NONE);
            let appended = partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("the disk is sound");
        }
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    scene
}

async fn pass(io: Io) {
    let (_dir, logs, _) = open(&io).await;
    the_partition(&logs).set_config(compacted());
    logs.compact().await.expect("the disk is sound");
}

/// Steps of a pass before its end in which it puts new segments in the place of old ones.
const STEPS: u64 = 45;

/// Flushes of the partition's directory in a pass that may be those of its replacements.
const FLUSHES_OF_A_PASS: u64 = 2;

/// Seeds that are tried of each.
const SEEDS_OF_A_PASS: u64 = 18;

/// Steps of a start until it has finished a replacement, and some more.
const STEPS_OF_A_START: u64 = 60;

/// As [`pass`], of which a flush fails.
async fn failing_pass(io: Io) {
    let (_dir, logs, _) = open(&io).await;
    the_partition(&logs).set_config(compacted());
    let _ = logs.compact().await;
}

/// How a pass comes to its end before it is done.
#[derive(Debug, Clone, Copy)]
enum Broken {
    /// The power goes at this event of the disk.
    PowerCut(u64),
    /// A flush of the partition's directory fails, after so many, and the process is killed: what it had named is there, and not
    /// durable. The power goes at this step of the start.
    Flush { skipped: u64, step: u64 },
}

/// A pass is broken off, and where a replacement is decided, the power goes (once more) at a step of the start that finishes it.
pub(crate) fn replacement_is_whole_wherever_the_power_goes() -> Verdict {
    let last_event = {
        let mut scene = before_a_pass(0);
        scene.live(pass);
        scene.disk().events()
    };
    let cuts = (last_event - STEPS..=last_event).map(Broken::PowerCut);
    let failures = (0..FLUSHES_OF_A_PASS)
        .flat_map(|skipped| (0..STEPS_OF_A_START).map(move |step| Broken::Flush { skipped, step }));
    let broken: Vec<Broken> = cuts.chain(failures).collect();
    let mut decided = 0;
    for (seed, broken) in
        (0..SEEDS_OF_A_PASS).flat_map(|seed| broken.iter().map(move |broken| (seed, *broken)))
    {
        let mut scene = before_a_pass(seed);
        let step = match broken {
            Broken::PowerCut(event) => {
                scene.disk().cut_power_at_event(event);
                scene.live_until_down(pass);
                event + 7 * seed
            }
            Broken::Flush { skipped, step } => {
                let fault = Fault::eio(DiskOp::SyncDirectory).on("topic-0").skip(skipped);
                let fault = scene.disk().inject(fault);
                scene.live_until_down(failing_pass);
                scene.disk().lift(fault);
                step
            }
        };
        if scene.disk().file_lengths().keys().any(|path| path.ends_with(".swap")) {
            decided += 1;
            scene.disk().cut_power_at_event(scene.disk().events() + 1 + step % STEPS_OF_A_START);
            scene.live_until_down(pass);
        }
        scene.disk().cut_power_at_event(0);
        let outcome = scene.live(|io| async move {
            let report = verify(&io, Path::new(DIR), |_| {}).await.expect("nobody uses it");
            if let Some(problem) = report.problems.first() {
                return Err(format!("verify finds damage: {problem}"));
            }
            let (_dir, logs, _) = open(&io).await;
            Ok(read_until_damage(&the_partition(&logs)).await)
        });
        let (read, error) = outcome.map_err(|what| format!("seed {seed}, {broken:?}: {what}"))?;
        let last = values(KEYED - KEYS..KEYED, 300);
        let is_whole = error.is_none() && last.iter().all(|value| read.contains(value));
        expect(is_whole, || format!("seed {seed}, {broken:?}: {} values are read, {error:?}", read.len()))?;
    }
    expect(decided > 20, || format!("a replacement was decided at {decided} steps only"))
}

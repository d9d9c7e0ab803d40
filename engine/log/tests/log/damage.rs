//! Files of a data directory that are damaged, cut or gone when it is opened: what was acknowledged is there, or its
//! partition is fenced, or the directory is refused with a sentence. Never less without a word.

mod later_build;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{DIR, append_one, batch_of, create, id, open_with, options, read_values, small_shard};
use highwater_io::sim::{DiskOp, Fault};
use highwater_io::{Io, fs};
use highwater_log::salvage::{Selection, salvage};
use highwater_log::verify::verify;
use highwater_log::{
    AppendError, DataDir, LogError, OpenOptions, Origin, Partition, ReadError, ReadRequest, RecoveryReport,
    ShardConfig, ShardLogs,
};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset, batch};

const RECORDS: u32 = 120;

/// No checkpoint but those that a test asks for.
fn no_checkpoints() -> OpenOptions {
    let shard = ShardConfig {
        journal_file_bytes: 512 << 10,
        checkpoint_interval_bytes: 1 << 40,
        hot_tail_bytes: 8 << 20,
        ..small_shard()
    };
    OpenOptions { shard, ..options() }
}

async fn open(io: &Io) -> (DataDir, ShardLogs, RecoveryReport) {
    open_with(io, no_checkpoints()).await
}

/// Records in two partitions, and how the process ends.
fn scene_with_records(checkpoint: bool) -> Scene {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        for number in 0..2 {
            let partition = create(&logs, number).await;
            for n in 0..RECORDS {
                let value = [u8::try_from(n).expect("small"); 600];
                append_one(&partition, &value).await.acknowledged().await.expect("the disk is sound");
            }
            if checkpoint {
                logs.checkpoint().await.expect("the disk is sound");
            }
        }
    });
    scene.pass(Duration::from_secs(10));
    scene
}

async fn try_open(io: &Io) -> Result<RecoveryReport, String> {
    let opened = DataDir::open(io, Path::new(DIR), no_checkpoints()).await;
    opened.map(|(_, report)| report).map_err(|error| error.to_string())
}

/// Opens the directory, which must be refused with a sentence about `file`.
fn assert_refused(scene: &mut Scene, file: &str) {
    let refusal = scene.live_and(End::Kill, |io| async move { try_open(&io).await });
    let refusal = refusal.expect_err("records are lost");
    assert!(refusal.contains(file) && refusal.lines().count() == 1, "{refusal}");
}

fn assert_whole(scene: &mut Scene) {
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert_eq!((report.fenced, report.strays), (Vec::new(), Vec::new()));
        for number in 0..2 {
            let partition = logs.partition(&id(number)).expect("is there");
            assert_eq!(read_values(&partition).await.len(), RECORDS as usize);
        }
    });
}

fn journal_path(scene: &Scene, file: &str) -> String {
    scene.path_of(&format!("shard-0/{file}"))
}

fn journal_files(scene: &Scene) -> Vec<String> {
    let files = scene.disk().file_lengths().into_keys();
    files.filter(|path| path.contains("shard-0/journal-")).collect()
}

/// Its groups were once taken for those of a file that was torn in preparation, and ignored.
#[test]
fn journal_file_whose_header_rots_fences_what_it_may_have_held() {
    for which in 0..3 {
        let mut scene = scene_with_records(false);
        scene.disk().corrupt(&journal_files(&scene)[which], 30..31);
        // The first file has groups of one partition, the second of both; the third is only prepared.
        let wanted: &[_] = if which < 2 { &[id(0), id(1)] } else { &[] };
        for start in 0..2 {
            let report = scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
            let fenced: Vec<_> = report.fenced.iter().map(|(id, _)| *id).collect();
            assert_eq!(fenced, wanted, "file {which}, start {start}");
        }
    }
}

const BLOCK_BYTES: u64 = 4096;

/// Corrupts the header of a group of this number, from 1, where each group takes one block.
fn corrupt_header_of_group(scene: &Scene, journal: &str, number: u64) {
    let at = number * BLOCK_BYTES;
    scene.disk().corrupt(journal_path_in(scene, journal), at..at + 16);
}

fn journal_path_in(scene: &Scene, shard: &str) -> String {
    scene.path_of(&format!("{shard}/journal-0"))
}

async fn append_acknowledged(logs: &ShardLogs, number: i32) {
    let partition = logs.partition(&id(number)).expect("is there");
    append_one(&partition, b"acknowledged").await.acknowledged().await.expect("the disk is sound");
}

fn fenced(report: &RecoveryReport) -> Vec<highwater_model::TopicPartition> {
    report.fenced.iter().map(|(id, _)| *id).collect()
}

/// Such a partition is in no checkpoint, and nothing that can be read names it.
#[test]
fn partition_that_only_an_unreadable_group_knows_is_fenced() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        create(&logs, 0).await;
        append_acknowledged(&logs, 0).await;
        create(&logs, 1).await;
        append_acknowledged(&logs, 1).await;
        append_acknowledged(&logs, 0).await;
    });
    scene.pass(Duration::from_secs(10));
    corrupt_header_of_group(&scene, "shard-0", 2);
    let report = scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
    assert_eq!(fenced(&report), [id(0), id(1)], "{report:?}");
}

/// Damage of one journal once fenced whoever another journal knew, too, if that was read before.
#[test]
fn unreadable_group_fences_the_partitions_of_its_own_journal_only() {
    for damaged in 0..2 {
        let mut scene = Scene::new(1);
        scene.live_and(End::Kill, |io| async move {
            let (mut dir, _) = DataDir::open(&io, Path::new(DIR), no_checkpoints()).await.expect("opens");
            let seeds = dir.split(2, |_, _| 0).await.expect("a new generation");
            for (number, seed) in (0..).zip(seeds) {
                let logs = ShardLogs::start(&io, seed).await.expect("starts");
                create(&logs, number).await;
                for _ in 0..3 {
                    append_acknowledged(&logs, number).await;
                }
            }
        });
        scene.pass(Duration::from_secs(10));
        corrupt_header_of_group(&scene, &format!("shard-{damaged}"), 2);
        let report = scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
        assert_eq!(fenced(&report), [id(damaged)], "{report:?}");
    }
}

/// Files by their path below the directory of their generation.
fn journal_of(files: BTreeMap<String, Vec<u8>>, generation: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = format!("{DIR}/journal/{generation}/");
    let below = |(path, bytes): (String, Vec<u8>)| Some((path.strip_prefix(&dir)?.to_owned(), bytes));
    files.into_iter().filter_map(below).collect()
}

/// A damaged journal, and the name of its generation.
fn scene_with_damaged_journal() -> (Scene, String) {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        create(&logs, 0).await;
        for _ in 0..8 {
            append_acknowledged(&logs, 0).await;
        }
    });
    scene.pass(Duration::from_secs(10));
    let path = journal_path(&scene, "journal-0");
    scene.disk().corrupt(&path, 2 * BLOCK_BYTES..2 * BLOCK_BYTES + 16);
    let generation = path.rsplit('/').nth(2).expect("a generation").to_owned();
    (scene, generation)
}

/// A crash while it was copied once left a part of it under its name, for which the next start deleted the original.
#[test]
fn damaged_journal_is_kept_whole_wherever_the_power_goes_in_its_recovery() {
    let recover = |io: Io| async move { open(&io).await.2 };
    let (mut scene, generation) = scene_with_damaged_journal();
    let original = journal_of(scene.disk().durable_files(), &generation);
    let before = scene.disk().events();
    scene.live_and(End::Kill, recover);
    let events = scene.disk().events() - before;
    let kept = format!("damaged-{generation}");
    assert!(journal_of(scene.disk().durable_files(), &kept) == original, "without a crash");
    for event in 1..events {
        let (mut scene, generation) = scene_with_damaged_journal();
        scene.disk().cut_power_at_event(scene.disk().events() + event);
        scene.live_for(Duration::from_secs(60), End::PowerCut, |io| async move {
            open(&io).await;
            std::future::pending::<()>().await;
        });
        // An event that did not come must not cut the next life short.
        scene.disk().cut_power_at_event(0);
        scene.live_and(End::Kill, recover);
        let kept = journal_of(scene.disk().durable_files(), &format!("damaged-{generation}"));
        assert!(kept == original, "cut at event {event} of {events}");
    }
}

/// A partition was deleted, and the process died before it took the directory away: the start does, file by file, and one that
/// was cut short of it could leave segments without their metadata, which no start takes.
#[test]
fn recovery_of_a_deletion_can_be_cut_short_anywhere() {
    let scene_with_deletion = || {
        let mut scene = Scene::new(1);
        let disk = scene.disk();
        let failing = disk.clone();
        scene.live_and(End::Kill, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            for number in 0..2 {
                let partition = create(&logs, number).await;
                for _ in 0..60 {
                    append_one(&partition, &[1; 600]).await.acknowledged().await.expect("durable");
                }
            }
            logs.checkpoint().await.expect("the disk is sound");
            failing.inject(Fault::eio(DiskOp::Rename).on("/data/topic-0").times(1));
            logs.delete_partition(&id(0)).await.expect_err("the disk fails");
        });
        disk.lift_all();
        scene.pass(Duration::from_secs(10));
        scene
    };
    let left = |scene: &Scene| {
        scene.disk().file_lengths().into_keys().filter(|path| path.contains("/data/topic-0/")).count()
    };
    let recover = |io: Io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert!(report.fenced.is_empty() && report.strays.is_empty(), "{report:?}");
        assert!(logs.partition(&id(0)).is_none(), "it is back");
        assert_eq!(read_values(&logs.partition(&id(1)).expect("is there")).await.len(), 60);
    };
    let mut scene = scene_with_deletion();
    let (before, all) = (scene.disk().events(), left(&scene));
    assert!(all > 5, "{all} files");
    scene.live_and(End::Kill, recover);
    let events = scene.disk().events() - before;
    for event in 1..events {
        let mut scene = scene_with_deletion();
        scene.disk().cut_power_at_event(scene.disk().events() + event);
        scene.live_for(Duration::from_secs(60), End::PowerCut, |io| async move {
            open(&io).await;
            std::future::pending::<()>().await;
        });
        scene.disk().cut_power_at_event(0);
        // In which order a file system lists them is its own affair.
        assert!([0, all].contains(&left(&scene)), "cut at event {event} of {events}: half of it is left");
        scene.live_and(End::Kill, recover);
    }
}

/// What a checkpoint's file has behind the checkpoint, an older and larger one left. Whatever was written can be read.
#[test]
fn checkpoint_file_of_any_length_is_read() {
    let mut scene = scene_with_records(true);
    scene.pass(Duration::from_secs(10));
    let files = scene.disk().file_lengths().into_keys();
    let paths: Vec<String> = files.filter(|path| path.contains("/checkpoint-")).collect();
    assert_eq!(paths.len(), 2);
    scene.live_and(End::Kill, |io| async move {
        for path in paths {
            let file = io.fs().open(path, fs::OpenOptions::read_write()).await.expect("is there");
            file.set_len(3 << 30).await.expect("holes take no space");
        }
    });
    scene.live(|io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert!(report.fenced.is_empty(), "{report:?}");
        assert_eq!(read_values(&logs.partition(&id(0)).expect("is there")).await.len(), RECORDS as usize);
    });
}

/// Nobody has the memory that it claims, and the file seems to be long enough.
#[test]
fn checkpoint_that_claims_a_petabyte_is_damaged() {
    for slot in ["checkpoint-0", "checkpoint-1"] {
        let mut scene = scene_with_records(true);
        let path = journal_path(&scene, slot);
        scene.disk().corrupt(&path, 64..72);
        scene.live_and(End::Kill, |io| async move {
            let file = io.fs().open(path, fs::OpenOptions::read_write()).await.expect("is there");
            file.set_len(1 << 50).await.expect("holes take no space");
        });
        scene.live_and(End::Kill, move |io| async move {
            let report = verify(&io, Path::new(DIR), |_| ()).await.expect("can be looked at");
            assert_eq!(report.partitions.len(), 2, "{slot}");
        });
        assert_whole(&mut scene);
    }
}

#[test]
fn unreadable_sector_of_a_damaged_journal_takes_only_itself_out_of_the_copy() {
    let (mut scene, generation) = scene_with_damaged_journal();
    let original = journal_of(scene.disk().durable_files(), &generation);
    scene.disk().make_unreadable(journal_path(&scene, "journal-0"), 3 * BLOCK_BYTES..4 * BLOCK_BYTES);
    scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
    let kept = journal_of(scene.disk().durable_files(), &format!("damaged-{generation}"));
    let expected = original.into_iter().map(|(path, mut bytes)| {
        if path.ends_with("journal-0") {
            bytes[3 * 4096..4 * 4096].fill(0);
        }
        (path, bytes)
    });
    assert!(kept == expected.collect());
}

#[test]
fn journal_file_whose_groups_are_all_in_segments_may_rot() {
    let mut scene = scene_with_records(true);
    for path in journal_files(&scene) {
        scene.disk().corrupt(&path, 30..31);
    }
    assert_whole(&mut scene);
}

#[test]
fn missing_journal_file_is_a_refusal_until_it_is_put_back() {
    let mut scene = scene_with_records(false);
    let journals = journal_files(&scene);
    // The third is only prepared, and without it nothing is missing.
    assert_eq!(journals.len(), 3);
    for path in &journals[..2] {
        let away = format!("{DIR}/away");
        let (from, to) = (path.clone(), away.clone());
        scene.live_and(End::Kill, |io| async move { io.fs().rename(from, to).await.expect("moved") });
        assert_refused(&mut scene, "shard-0/journal-");
        let to = path.clone();
        scene.live_and(End::Kill, |io| async move { io.fs().rename(away, to).await.expect("moved") });
    }
    assert_whole(&mut scene);
}

#[test]
fn journal_file_that_was_cut_is_a_refusal() {
    for len_bytes in [0, 4096, 3 * 4096] {
        let mut scene = scene_with_records(false);
        set_len(&mut scene, "journal-0", len_bytes);
        assert_refused(&mut scene, "journal-0");
    }
}

fn set_len(scene: &mut Scene, journal: &str, len_bytes: u64) {
    let path = journal_path(scene, journal);
    scene.live_and(End::Kill, move |io| async move {
        let options = highwater_io::fs::OpenOptions::read_write();
        let file = io.fs().open(path, options).await.expect("opens");
        file.set_len(len_bytes).await.expect("has this length");
    });
}

/// A direct read of the byte behind the last block was refused by the system, and so was the start.
#[test]
fn byte_behind_a_journal_file_is_nobodys() {
    let mut scene = scene_with_records(false);
    let files = scene.disk().file_lengths();
    for journal in ["journal-0", "journal-1", "journal-2"] {
        let len_bytes = files.iter().find(|(path, _)| path.ends_with(journal)).expect("is there").1;
        set_len(&mut scene, journal, len_bytes + 1);
    }
    assert_whole(&mut scene);
}

#[test]
fn missing_directory_of_a_journal_is_a_refusal_until_it_is_put_back() {
    for is_shard in [true, false] {
        let mut scene = scene_with_records(false);
        let journal = journal_path(&scene, "journal-0");
        let shard = Path::new(&journal).parent().expect("has one");
        let dir = if is_shard { shard } else { shard.parent().expect("has one") }.to_owned();
        let name = dir.file_name().expect("has one").to_string_lossy().into_owned();
        let away = Path::new(DIR).join("away");
        let (from, to) = (dir.clone(), away.clone());
        scene.live_and(End::Kill, |io| async move { io.fs().rename(from, to).await.expect("moved") });
        assert_refused(&mut scene, &name);
        scene.live_and(End::Kill, |io| async move { io.fs().rename(away, dir).await.expect("moved") });
        assert_whole(&mut scene);
    }
}

#[test]
fn newest_checkpoint_may_rot() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        for _ in 0..10 {
            append_one(&partition, b"kept").await.acknowledged().await.expect("the disk is sound");
        }
        logs.checkpoint().await.expect("the disk is sound");
    });
    scene.pass(Duration::from_secs(10));
    scene.disk().corrupt(journal_path(&scene, "checkpoint-1"), 100..101);
    scene.live(|io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert_eq!(report.fenced, []);
        assert_eq!(read_values(&logs.partition(&id(0)).expect("is there")).await.len(), 10);
    });
}

fn partition_file(number: i32, file: &str) -> String {
    format!("{DIR}/topic-{number}/{file}")
}

fn segments(scene: &Scene) -> Vec<String> {
    let files = scene.disk().file_lengths().into_keys();
    files.filter(|path| path.contains("topic-0/") && path.ends_with(".log")).collect()
}

/// Reads went on with the next segment once, as if the records between had never been.
#[test]
fn missing_segment_fences_its_partition_and_no_read_passes_over_it() {
    for which in 0..3 {
        let mut scene = scene_with_records(true);
        let all = segments(&scene);
        assert!(all.len() >= 3, "{all:?}");
        let path = all[[0, 1, all.len() - 1][which]].clone();
        let name = Path::new(&path).file_stem().expect("has one").to_string_lossy().into_owned();
        let first_missing: i64 = name.parse().expect("a base offset");
        scene.live_and(End::Kill, |io| async move { io.fs().remove_file(path).await.expect("is there") });
        for _ in 0..2 {
            scene.live_and(End::Kill, move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert_eq!(report.fenced.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(0)]);
                let partition = logs.partition(&id(0)).expect("is there");
                let upper_bound = partition.watermarks().get().log_end_offset;
                assert_eq!(upper_bound, Offset(i64::from(RECORDS)));
                let mut offset = Offset(0);
                let error = loop {
                    let request =
                        ReadRequest { offset, max_bytes: 1 << 20, min_one_batch: true, upper_bound };
                    match partition.read(request).await {
                        Ok(data) => {
                            assert!(data.next_offset > offset, "stuck at {offset}");
                            offset = data.next_offset;
                        }
                        Err(error) => break error,
                    }
                };
                assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
                assert_eq!(offset, Offset(first_missing));
            });
        }
    }
}

/// Half of the records are behind a checkpoint, the others only in the journal.
fn scene_behind_a_checkpoint(records: u32, behind: u32) -> Scene {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        for n in 0..records + behind {
            let value = [u8::try_from(n).expect("small"); 600];
            append_one(&partition, &value).await.acknowledged().await.expect("the disk is sound");
            if n + 1 == records {
                logs.checkpoint().await.expect("the disk is sound");
            }
        }
    });
    scene.pass(Duration::from_secs(10));
    scene
}

/// The journal went on in the middle of a segment that was gone: a new file was made, with a hole for what had been, and
/// served without a word.
#[test]
fn missing_segment_that_the_journal_goes_on_with_fences_its_partition() {
    // It rolls at about 34 records: what is behind the checkpoint stays in the segment, fills it just up, or goes on to others.
    for behind in [1, 4, 8, 60] {
        let mut scene = scene_behind_a_checkpoint(60, behind);
        let before = segments(&scene);
        let path = before[1].clone();
        let name = Path::new(&path).file_stem().expect("has one").to_string_lossy().into_owned();
        let first_missing: i64 = name.parse().expect("a base offset");
        assert!((1..60).contains(&first_missing), "{before:?}");
        let gone = PathBuf::from(&path);
        scene.live_and(End::Kill, |io| async move {
            io.fs().remove_file(&gone).await.expect("is there");
            // A power cut brings it back otherwise.
            io.fs().sync_dir(gone.parent().expect("has one")).await.expect("the disk is sound");
        });
        let found = scene.live_and(End::Kill, |io| async move { problems(&io).await });
        assert!(found.contains(&format!("segment {first_missing} is missing")), "{found}");
        let events = scene.disk().events();
        for start in 0..3 {
            // The first is cut short somewhere in its middle: what it left must not look like the segment.
            if start == 0 {
                scene.disk().cut_power_at_event(events + 12);
                scene.live_for(Duration::from_secs(60), End::PowerCut, |io| async move {
                    open(&io).await;
                    std::future::pending::<()>().await;
                });
                scene.disk().cut_power_at_event(0);
                continue;
            }
            let path = path.clone();
            scene.live_and(End::Kill, move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert_eq!(fenced(&report), [id(0)], "{behind} behind, start {start}: {report:?}");
                assert!(report.fenced[0].1.contains(&path), "{}", report.fenced[0].1);
                let partition = logs.partition(&id(0)).expect("is there");
                assert_eq!(partition.watermarks().get().log_end_offset, Offset(i64::from(60 + behind)));
                let (reached, error) = read_to_damage(&partition, Offset(0), 5_000).await;
                assert_eq!(reached, Offset(first_missing), "{behind} behind");
                assert!(matches!(error, Some(ReadError::Corrupt { .. })), "{error:?}");
                let appended = partition.append(
                    batch_of(&[b"more"], ProducerStamp::NONE),
                    LeaderEpoch(0),
                    Origin::Client,
                );
                let refusal = appended.await.expect_err("is fenced");
                assert!(matches!(refusal, AppendError::Log(LogError::Fenced { .. })), "{refusal}");
            });
        }
        let kept = scene.disk().file_lengths().into_keys().any(|path| path.contains("/damaged-"));
        assert!(kept, "what the journal had is kept");
        let plan = scene.live_and(End::Kill, |io| async move {
            salvage(&io, Path::new(DIR), &Selection::Fenced).await.expect("is salvaged")
        });
        assert_eq!(plan.partitions.len(), 1, "{plan}");
        scene.live_and(End::Kill, move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert_eq!(fenced(&report), []);
            let partition = logs.partition(&id(0)).expect("is there");
            assert_eq!(append_one(&partition, b"more").await.base_offset, Offset(first_missing));
        });
    }
}

/// What an entry further on took is no loss, although the journal goes on with it before.
#[test]
fn missing_segment_that_a_later_entry_took_is_no_damage() {
    for cut in [false, true] {
        let mut scene = Scene::new(1);
        scene.live_and(End::Kill, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            for n in 0..60 {
                append_one(&partition, &[n; 600]).await.acknowledged().await.expect("the disk is sound");
            }
            logs.checkpoint().await.expect("the disk is sound");
            for n in 60..120 {
                append_one(&partition, &[n; 600]).await.acknowledged().await.expect("the disk is sound");
            }
            if cut {
                partition.truncate_to(Offset(20)).await.expect("is cut");
            } else {
                let end = partition.watermarks().get().log_end_offset;
                partition.delete_records_before(end).await.expect("is deleted");
            }
            append_one(&partition, b"last").await.acknowledged().await.expect("the disk is sound");
        });
        scene.pass(Duration::from_secs(10));
        // As after a start that came no further: what the log does not need is removed before the new journal counts.
        for path in segments(&scene) {
            let name = Path::new(&path).file_stem().expect("has one").to_string_lossy().into_owned();
            let base: i64 = name.parse().expect("a base offset");
            let is_gone = if cut { base > 20 } else { base > 0 && base < 100 };
            if is_gone {
                scene
                    .live_and(End::Kill, |io| async move { io.fs().remove_file(path).await.expect("there") });
            }
        }
        for _ in 0..2 {
            scene.live_and(End::Kill, move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert_eq!((report.fenced, report.strays), (Vec::new(), Vec::new()), "cut: {cut}");
                let values = read_values(&logs.partition(&id(0)).expect("is there")).await;
                assert_eq!(values.last().expect("one").as_slice(), b"last");
                assert_eq!(values.len(), if cut { 21 } else { 1 });
            });
        }
    }
}

/// A cut may leave a segment that was made for a roll, and nothing else of what led there. It was taken for the first one
/// of a log whose beginning is missing (seed 14907 of the simulator).
#[test]
fn segment_of_a_roll_that_the_journal_lost_is_no_sign_of_damage() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        create(&logs, 0).await;
    });
    let path = Path::new(DIR).join("topic-0/00000000000000000001.log");
    scene.live_and(End::Kill, |io| async move {
        let options = highwater_io::fs::OpenOptions::read_write().create();
        io.fs().open(path, options).await.expect("is made").sync_all().await.expect("the disk is sound");
        io.fs().sync_dir(Path::new(DIR).join("topic-0")).await.expect("the disk is sound");
        assert_eq!(problems(&io).await, "");
        let (_dir, logs, report) = open(&io).await;
        assert_eq!((report.fenced, report.strays), (Vec::new(), Vec::new()));
        let partition = logs.partition(&id(0)).expect("is there");
        assert_eq!(append_one(&partition, b"first").await.base_offset, Offset(0));
    });
}

/// Without it the directory looked like one of Kafka's, whose journal nobody misses, and got another cluster id.
#[test]
fn missing_meta_properties_is_a_refusal_until_it_is_put_back() {
    for and_journal in [false, true] {
        let mut scene = scene_with_records(false);
        for name in ["meta.properties", "journal"].into_iter().take(1 + usize::from(and_journal)) {
            scene.live_and(End::Kill, move |io| async move {
                io.fs().rename(format!("{DIR}/{name}"), format!("{DIR}/away-{name}")).await.expect("moved");
            });
        }
        assert_refused(&mut scene, "meta.properties");
        for name in ["meta.properties", "journal"].into_iter().take(1 + usize::from(and_journal)) {
            scene.live_and(End::Kill, move |io| async move {
                io.fs().rename(format!("{DIR}/away-{name}"), format!("{DIR}/{name}")).await.expect("moved");
            });
        }
        assert_whole(&mut scene);
    }
}

fn copy_dir(scene: &mut Scene, from: &'static str, to: &'static str) {
    scene.live_and(End::Kill, move |io| async move {
        let fs = io.fs();
        fs.create_dir_all_durable(format!("{DIR}/{to}")).await.expect("made");
        for entry in fs.read_dir(format!("{DIR}/{from}")).await.expect("is there") {
            let bytes =
                fs.read_file(format!("{DIR}/{from}/{}", entry.name), 1 << 30).await.expect("is there");
            fs.replace_file_durable(format!("{DIR}/{to}/{}", entry.name), bytes).await.expect("made");
        }
    });
}

async fn problems(io: &Io) -> String {
    let report = verify(io, Path::new(DIR), |_| ()).await.expect("can be checked");
    report.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The copy that sorted last once became the partition, and got what was appended from then on.
#[test]
fn copy_of_a_partition_is_a_refusal_until_it_is_moved_away() {
    for checkpoint in [false, true] {
        for (from, to) in [("topic-0", "topic.bak-0"), ("topic-0", "a-0"), ("topic-1", "zzz-0")] {
            let mut scene = scene_with_records(checkpoint);
            copy_dir(&mut scene, from, to);
            assert_refused(&mut scene, to);
            let found = scene.live_and(End::Kill, |io| async move { problems(&io).await });
            assert!(found.contains("one of them is a copy"), "{found}");
            scene.live_and(End::Kill, move |io| async move {
                io.fs().rename(format!("{DIR}/{to}"), "/elsewhere").await.expect("moved");
            });
            assert_whole(&mut scene);
        }
    }
}

/// A partition of which only the journal knew once began anew at offset 0 when its directory was gone.
#[test]
fn partition_that_only_the_journal_knows_is_fenced_without_its_directory() {
    let mut scene = scene_with_records(false);
    scene.live_and(End::Kill, |io| async move {
        io.fs().rename(format!("{DIR}/topic-0"), "/away").await.expect("moved");
    });
    let found = scene.live_and(End::Kill, |io| async move { problems(&io).await });
    assert!(found.contains("no directory has the topic id"), "{found}");
    for _ in 0..3 {
        scene.live_and(End::Kill, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            // As a broker does, which has the topic in its metadata.
            let partition = create(&logs, 0).await;
            let reason = partition.fenced().expect("it had records");
            assert!(reason.contains(".stray"), "{reason}");
        });
    }
}

#[test]
fn missing_partition_metadata_is_a_refusal_until_it_is_put_back() {
    let mut scene = scene_with_records(true);
    scene.live_and(End::Kill, |io| async move {
        io.fs().rename(format!("{DIR}/topic-0/partition.metadata"), "/away").await.expect("moved");
    });
    assert_refused(&mut scene, "partition.metadata");
    let found = scene.live_and(End::Kill, |io| async move { problems(&io).await });
    assert!(found.contains("partition.metadata: missing"), "{found}");
    scene.live_and(End::Kill, |io| async move {
        io.fs().rename("/away", format!("{DIR}/topic-0/partition.metadata")).await.expect("moved");
    });
    assert_whole(&mut scene);
}

#[test]
fn renamed_partition_is_fenced_until_it_has_its_name() {
    let mut scene = scene_with_records(true);
    scene.live_and(End::Kill, |io| async move {
        io.fs().rename(format!("{DIR}/topic-0"), format!("{DIR}/other-0")).await.expect("moved");
    });
    let found = scene.live_and(End::Kill, |io| async move { problems(&io).await });
    assert!(found.contains("its name must be topic-0"), "{found}");
    let report = scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
    assert_eq!(fenced(&report), [id(0)]);
}

#[test]
fn check_of_what_is_no_data_directory_is_an_error() {
    let mut scene = Scene::new(1);
    let error = scene.live_and(End::Kill, |io| async move {
        io.fs().create_dir_all_durable("/empty").await.expect("made");
        verify(&io, Path::new("/empty"), |_| ()).await.expect_err("nothing was checked")
    });
    assert!(error.to_string().contains("is no data directory"), "{error}");
}

#[test]
fn check_finds_a_first_segment_missing() {
    let mut scene = scene_with_records(true);
    let path = segments(&scene)[0].clone();
    scene.live_and(End::Kill, |io| async move { io.fs().remove_file(path).await.expect("is there") });
    let found = scene.live_and(End::Kill, |io| async move { problems(&io).await });
    assert!(found.contains("from 0 on is missing"), "{found}");
}

/// Reads a partition to its end or to the damage; every record that is served must be what was appended at its offset.
async fn read_to_damage(
    partition: &Partition,
    first: Offset,
    max_bytes: usize,
) -> (Offset, Option<ReadError>) {
    let upper_bound = partition.watermarks().get().log_end_offset;
    let mut offset = first;
    while offset < upper_bound {
        let request = ReadRequest { offset, max_bytes, min_one_batch: true, upper_bound };
        let data = match partition.read(request).await {
            Ok(data) => data,
            Err(error) => return (offset, Some(error)),
        };
        assert!(data.size_bytes > 0 && data.next_offset > offset, "a read at {offset} gives nothing");
        let bytes = data.chunks.concat();
        for header in batch::headers(&bytes) {
            let (at, header) = header.expect("whole batches");
            assert_eq!(header.base_offset, offset, "records were passed over");
            let value = bytes[at + header.size_bytes - 100];
            assert_eq!(i64::from(value), header.base_offset.0, "another record's offset");
            offset = header.next_offset();
        }
        assert_eq!(offset, data.next_offset);
    }
    (offset, None)
}

/// Kafka's checksum does not cover a batch's base offset. A consumer once got records under offsets of others, or waited
/// for ever at a batch that seemed to lie beyond the end.
#[test]
fn flipped_base_offset_is_not_believed() {
    for byte in 0..8 {
        for which in 0..6u64 {
            let mut scene = scene_with_records(true);
            let path = segments(&scene)[1].clone();
            let first: i64 =
                Path::new(&path).file_stem().expect("has one").to_string_lossy().parse().expect("a number");
            let content = scene.disk().snapshot_files()[&path].clone();
            let batches: Vec<usize> =
                batch::headers(&content).map_while(|header| header.ok()).map(|(at, _)| at).collect();
            let last = batches.len() - 1;
            let index =
                [0, 1, last / 2, last / 2 + 1, last - 1, last][usize::try_from(which).expect("small")];
            let at = batches[index] as u64 + byte;
            scene.disk().corrupt(&path, at..at + 1);
            let damaged = Offset(first + i64::try_from(index).expect("small"));
            for (from, max_bytes) in
                [(0, 10_000), (damaged.0, 700), (damaged.0 - 1, 5_000), (0, 1), (0, 1 << 20)]
            {
                let (reached, error) = scene.live_and(End::Kill, move |io| async move {
                    let (_dir, logs, report) = open(&io).await;
                    assert_eq!(report.fenced, []);
                    read_to_damage(&logs.partition(&id(0)).expect("is there"), Offset(from), max_bytes).await
                });
                let error =
                    error.unwrap_or_else(|| panic!("batch {index}, byte {byte}, from {from}: passed over"));
                assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
                // Of two batches that do not follow each other, either may be the damaged one.
                let served = reached == damaged || reached.0 + 1 == damaged.0;
                assert!(served, "batch {index}, byte {byte}, from {from}: {reached} of {damaged}");
            }
        }
    }
}

#[test]
fn missing_directory_of_a_partition_fences_it() {
    let mut scene = scene_with_records(true);
    scene.live_and(End::Kill, |io| async move {
        io.fs().rename(format!("{DIR}/topic-0"), format!("{DIR}/away")).await.expect("moved");
    });
    for _ in 0..2 {
        let report = scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
        assert_eq!(report.fenced.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(0)]);
        assert!(report.fenced[0].1.contains("topic-0"), "{}", report.fenced[0].1);
    }
}

/// Records under a topic id that nothing knows were once removed as what is left of a creation.
#[test]
fn rotten_partition_metadata_is_a_refusal_until_it_is_mended() {
    let mut scene = scene_with_records(true);
    let path = partition_file(0, "partition.metadata");
    for (from, to) in [("version", "versiom"), ("topic_id: A", "topic_id: B")] {
        let rot = move |path: String, from: &'static str, to: &'static str| {
            move |io: Io| async move {
                let bytes = io.fs().read_file(&path, 1 << 12).await.expect("is there");
                let text = std::str::from_utf8(&bytes).expect("is text");
                assert!(text.contains(from), "{text}");
                let changed = text.replace(from, to).into_bytes();
                io.fs().replace_file_durable(&path, changed.into()).await.expect("written");
            }
        };
        scene.live_and(End::Kill, rot(path.clone(), from, to));
        assert_refused(&mut scene, "partition.metadata");
        scene.live_and(End::Kill, rot(path.clone(), to, from));
    }
    assert_whole(&mut scene);
}

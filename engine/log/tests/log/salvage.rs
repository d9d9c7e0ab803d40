//! A fenced partition's way out: what is listed is what is cut, nothing is touched before, copies are made first, and the
//! log goes on. Each kind of damage that fences, and the power cut at every event of a salvage.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{
    DIR, append_one, create, id, keyed_batch_of, open_with, options, read_values, small_log, small_shard,
};
use highwater_io::{Io, fs};
use highwater_log::salvage::{Cut, Plan, Selection, overview, plan, salvage};
use highwater_log::verify::verify;
use highwater_log::{
    DataDir, LogConfig, OpenError, OpenOptions, Origin, RecoveryReport, ShardConfig, ShardLogs,
};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset, batch};

const BLOCK_BYTES: u64 = 4096;

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

fn value(n: u32) -> Vec<u8> {
    vec![u8::try_from(n % 251).expect("small"); 600]
}

fn values(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(value).collect()
}

async fn append(logs: &ShardLogs, number: i32, range: std::ops::Range<u32>) {
    let partition = create(logs, number).await;
    for n in range {
        append_one(&partition, &value(n)).await.acknowledged().await.expect("the disk is sound");
    }
}

/// Eight records in one partition and four in another, each in a group and a block of its own; the third group rots.
fn scene_with_rotten_group(header: bool) -> Scene {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        append(&logs, 0, 0..8).await;
        append(&logs, 1, 0..4).await;
    });
    scene.pass(Duration::from_secs(10));
    let at = 3 * BLOCK_BYTES + if header { 0 } else { 300 };
    scene.disk().corrupt(scene.path_of("shard-0/journal-0"), at..at + 8);
    scene
}

/// A partition of many segments, and another, stopped or killed behind a checkpoint.
fn scene_with_segments(clean: bool) -> Scene {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, move |io| async move {
        let (dir, logs, _) = open(&io).await;
        append(&logs, 0, 0..120).await;
        append(&logs, 1, 0..4).await;
        if clean {
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("a clean stop");
        } else {
            logs.checkpoint().await.expect("the disk is sound");
        }
    });
    scene.pass(Duration::from_secs(10));
    scene
}

fn segments(scene: &Scene) -> Vec<String> {
    let files = scene.disk().file_lengths().into_keys();
    files.filter(|path| path.contains("/data/topic-0/") && path.ends_with(".log")).collect()
}

/// Starts, which finds the damage, and stops.
fn start_and_stop(scene: &mut Scene) {
    scene.live_and(End::Kill, |io| async move {
        let (dir, logs, _) = open(&io).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    scene.pass(Duration::from_secs(10));
}

fn planned(scene: &mut Scene, selection: Selection) -> Plan {
    let before = scene.disk().snapshot_files();
    let plan = scene.live_and(End::Kill, move |io| async move {
        plan(&io, Path::new(DIR), &selection).await.expect("can be looked at")
    });
    assert!(scene.disk().snapshot_files() == before, "looking changes nothing");
    plan
}

fn salvaged(scene: &mut Scene, selection: Selection) -> Plan {
    let plan = scene.live_and(End::Kill, move |io| async move {
        salvage(&io, Path::new(DIR), &selection).await.expect("is salvaged")
    });
    scene.pass(Duration::from_secs(10));
    plan
}

fn only(plan: &Plan) -> &Cut {
    let [cut] = plan.partitions.as_slice() else { panic!("one partition: {plan}") };
    cut
}

fn problems(scene: &mut Scene) -> Vec<String> {
    scene.live_and(End::Kill, |io| async move {
        let report = verify(&io, Path::new(DIR), |_| ()).await.expect("can be checked");
        report.problems.iter().map(ToString::to_string).collect()
    })
}

/// The directory is sound, the log has its first `kept` records, takes more in a new epoch, and keeps them.
fn assert_goes_on(scene: &mut Scene, kept: u32, others: u32) {
    assert_eq!(problems(scene), Vec::<String>::new());
    scene.live_and(End::PowerCut, move |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert_eq!((report.fenced, report.strays), (Vec::new(), Vec::new()));
        let partition = logs.partition(&id(0)).expect("is there");
        assert_eq!(read_values(&partition).await, values(kept));
        assert!(partition.latest_epoch() > LeaderEpoch(0), "{}", partition.latest_epoch());
        let appended = append_one(&partition, b"after").await;
        assert_eq!(appended.base_offset, Offset(kept.into()));
        appended.acknowledged().await.expect("the disk is sound");
    });
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert_eq!(report.fenced, []);
        let read = read_values(&logs.partition(&id(0)).expect("is there")).await;
        assert_eq!(read.last().expect("was acknowledged"), b"after");
        assert_eq!(read.len(), kept as usize + 1);
        if others > 0 {
            let other = logs.partition(&id(1)).expect("is there");
            assert_eq!(read_values(&other).await, values(others), "the other partition is untouched");
        }
    });
    scene.pass(Duration::from_secs(10));
}

/// Files that were copied aside, by name.
fn aside(scene: &Scene, plan: &Plan) -> BTreeMap<String, Vec<u8>> {
    let prefix = format!("{}/", plan.side_dir.display());
    let files = scene.disk().durable_files().into_iter();
    files.filter_map(|(path, bytes)| Some((path.strip_prefix(&prefix)?.to_owned(), bytes))).collect()
}

fn offsets(bytes: &[u8]) -> Vec<i64> {
    batch::headers(bytes).map_while(Result::ok).map(|(_, header)| header.base_offset.0).collect()
}

#[test]
fn rotten_group_costs_its_records_and_what_follows_is_kept_apart() {
    for started in [false, true] {
        for header in [false, true] {
            let mut scene = scene_with_rotten_group(header);
            if started {
                start_and_stop(&mut scene);
            }
            let listed = planned(&mut scene, Selection::Named(vec!["topic-0".to_owned()]));
            let cut = only(&listed).clone();
            assert_eq!((cut.next_offset, cut.known_end), (Offset(2), Offset(8)), "{listed}");
            assert_eq!(cut.lost, [Offset(2)..Offset(3)], "{listed}");
            assert_eq!(cut.apart.iter().map(|apart| apart.records).sum::<u64>(), 5, "{listed}");
            assert!(cut.fenced.as_ref().is_some_and(|reason| reason.contains("group 3")), "{listed}");
            let done = salvaged(&mut scene, Selection::Fenced);
            assert_eq!(done.partitions[0].next_offset, Offset(2));
            let aside = aside(&scene, &done);
            let journal = &aside["topic-0/journal-00000000000000000003.log"];
            assert_eq!(offsets(journal), [3, 4, 5, 6, 7]);
            let list = String::from_utf8(aside["topic-0/given-up.txt"].clone()).expect("is text");
            assert!(list.contains("lost for good: offsets 2\n"), "{list}");
            assert!(planned(&mut scene, Selection::Fenced).is_empty());
            assert_goes_on(&mut scene, 2, 4);
        }
    }
}

#[test]
fn damaged_header_of_a_journal_file_is_salvaged() {
    let mut scene = scene_with_rotten_group(false);
    scene.disk().corrupt(scene.path_of("shard-0/journal-0"), 30..31);
    let listed = planned(&mut scene, Selection::Fenced);
    assert_eq!(listed.partitions.len(), 2, "{listed}");
    salvaged(&mut scene, Selection::Fenced);
    assert_eq!(problems(&mut scene), Vec::<String>::new());
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert_eq!(report.fenced, []);
        append(&logs, 0, 0..1).await;
    });
}

#[test]
fn rot_in_a_segment_is_cut_where_it_is_named_and_the_rest_is_kept_apart() {
    for clean in [true, false] {
        for which in 0..3 {
            let mut scene = scene_with_segments(clean);
            let all = segments(&scene);
            let path = all[[0, 1, all.len() - 1][which]].clone();
            let content = scene.disk().snapshot_files()[&path].clone();
            let (at, header) = batch::headers(&content).nth(2).expect("has some").expect("is whole");
            let damaged = u32::try_from(header.base_offset.0).expect("small");
            scene.disk().corrupt(&path, at as u64 + 100..at as u64 + 101);
            assert!(planned(&mut scene, Selection::Fenced).is_empty(), "nothing is fenced by that");
            let name = Selection::Named(vec!["topic-0".to_owned()]);
            let listed = planned(&mut scene, name.clone());
            let cut = only(&listed);
            let damage = cut.damage.as_ref().expect("was found");
            assert_eq!((damage.path.to_str(), damage.position_bytes), (Some(path.as_str()), Some(at as u64)));
            let first = i64::from(damaged);
            assert_eq!(
                (cut.next_offset, cut.lost.as_slice()),
                (Offset(first), &[Offset(first)..Offset(first + 1)][..])
            );
            let records: u64 = cut.apart.iter().map(|apart| apart.records).sum();
            assert_eq!(records, u64::from(120 - damaged - 1), "{listed}");
            assert_eq!(salvaged(&mut scene, name), listed);
            let aside = aside(&scene, &listed);
            let tail = aside.iter().find(|(file, _)| file.contains(".log.from-")).expect("a copy").1;
            assert_eq!(
                tail[..],
                content[at..]
                    .iter()
                    .enumerate()
                    .map(|(n, byte)| if n == 100 { tail[100] } else { *byte })
                    .collect::<Vec<_>>()[..]
            );
            let whole = aside.keys().filter(|file| file.starts_with("topic-0/0") && file.ends_with(".log"));
            assert_eq!(whole.count(), all.iter().filter(|other| **other > path).count());
            assert_goes_on(&mut scene, damaged, 4);
        }
    }
}

#[test]
fn missing_segment_is_cut_before_it() {
    for started in [false, true] {
        for which in 0..3 {
            let mut scene = scene_with_segments(false);
            let all = segments(&scene);
            let path = all[[0, 1, all.len() - 1][which]].clone();
            let name = Path::new(&path).file_stem().expect("has one").to_string_lossy().into_owned();
            let first: u32 = name.parse().expect("a base offset");
            scene.live_and(End::Kill, |io| async move { io.fs().remove_file(path).await.expect("is there") });
            if started {
                start_and_stop(&mut scene);
            }
            let listed = planned(&mut scene, Selection::Fenced);
            assert_eq!(only(&listed).next_offset, Offset(first.into()), "{listed}");
            assert_eq!(only(&listed).lost[0].start, Offset(first.into()), "{listed}");
            assert_eq!(salvaged(&mut scene, Selection::Fenced), listed);
            assert_goes_on(&mut scene, first, 4);
        }
    }
}

#[test]
fn cut_and_unreadable_ends_of_a_segment_are_given_up() {
    for unreadable in [false, true] {
        let mut scene = scene_with_segments(true);
        let path = segments(&scene).pop().expect("has some");
        let content = scene.disk().snapshot_files()[&path].clone();
        let (at, header) = batch::headers(&content).nth(2).expect("has some").expect("is whole");
        if unreadable {
            scene.disk().make_unreadable(&path, at as u64 + 70..at as u64 + 71);
        } else {
            let path = path.clone();
            scene.live_and(End::Kill, move |io| async move {
                let file = io.fs().open(path, fs::OpenOptions::read_write()).await.expect("opens");
                file.set_len(at as u64 + 70).await.expect("is cut");
            });
        }
        let listed = planned(&mut scene, Selection::Named(vec!["topic-0".to_owned()]));
        let cut = only(&listed);
        assert!(cut.next_offset <= header.base_offset && cut.next_offset > Offset(90), "{listed}");
        assert_eq!(cut.fenced.is_none(), unreadable, "{listed}");
        let kept = u32::try_from(cut.next_offset.0).expect("small");
        salvaged(&mut scene, Selection::Named(vec!["topic-0".to_owned()]));
        // The simulated sector stays unreadable until it is written.
        if !unreadable {
            assert_goes_on(&mut scene, kept, 4);
        }
    }
}

#[test]
fn partition_whose_directory_is_gone_begins_anew() {
    for (checkpoint, started) in [(true, false), (true, true), (false, true)] {
        let mut scene = if checkpoint {
            scene_with_segments(false)
        } else {
            let mut scene = Scene::new(1);
            scene.live_and(End::Kill, |io| async move {
                let (_dir, logs, _) = open(&io).await;
                append(&logs, 0, 0..20).await;
            });
            scene.pass(Duration::from_secs(10));
            scene
        };
        scene.live_and(End::Kill, |io| async move {
            io.fs().rename(format!("{DIR}/topic-0"), "/away").await.expect("moved");
        });
        if started {
            scene.live_and(End::Kill, |io| async move {
                let (_dir, logs, _) = open(&io).await;
                // As a broker does, which has the topic in its metadata.
                assert!(create(&logs, 0).await.fenced().is_some());
                logs.checkpoint().await.expect("the disk is sound");
            });
            scene.pass(Duration::from_secs(10));
        }
        let listed = planned(&mut scene, Selection::Fenced);
        let cut = only(&listed);
        assert_eq!(cut.next_offset, Offset(0), "{listed}");
        assert_eq!(cut.known_end, Offset(if checkpoint { 120 } else { 20 }), "{listed}");
        assert_eq!(cut.lost.is_empty(), !checkpoint, "{listed}");
        salvaged(&mut scene, Selection::Fenced);
        let stray = aside(&scene, &listed).into_iter().find(|(file, _)| file.contains("stray-"));
        assert_eq!(stray.is_some(), !checkpoint);
        assert_goes_on(&mut scene, 0, if checkpoint { 4 } else { 0 });
    }
}

/// What the journal had for a partition under another name was neither applied nor kept.
#[test]
fn records_that_a_fence_holds_back_are_kept() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        append(&logs, 0, 0..3).await;
        logs.checkpoint().await.expect("the disk is sound");
        append(&logs, 0, 3..9).await;
    });
    scene.pass(Duration::from_secs(10));
    let rename = |from: &'static str, to: &'static str| {
        move |io: Io| async move {
            io.fs().rename(format!("{DIR}/{from}"), format!("{DIR}/{to}")).await.expect("moved");
        }
    };
    scene.live_and(End::Kill, rename("topic-0", "other-0"));
    let listed = planned(&mut scene, Selection::Fenced);
    assert!(listed.is_empty() && listed.left[0].why.contains("rename other-0 back to topic-0"), "{listed}");
    start_and_stop(&mut scene);
    scene.live_and(End::Kill, rename("other-0", "topic-0"));
    let listed = planned(&mut scene, Selection::Fenced);
    let cut = only(&listed);
    assert_eq!((cut.next_offset, cut.known_end, cut.lost.len()), (Offset(3), Offset(9), 0), "{listed}");
    salvaged(&mut scene, Selection::Fenced);
    assert_eq!(
        offsets(&aside(&scene, &listed)["topic-0/journal-00000000000000000003.log"]),
        [3, 4, 5, 6, 7, 8]
    );
    assert_goes_on(&mut scene, 3, 0);
}

/// The start of the log was moved, and segments below it were unlinked: before the damage was found, or behind it. The old start
/// came back, and a salvage, which found no segment there, cut the whole log.
#[test]
fn moved_start_of_a_fenced_partition_stays() {
    for moved_when_fenced in [false, true] {
        let mut scene = Scene::new(1);
        let move_start = |logs: ShardLogs| async move {
            let partition = logs.partition(&id(0)).expect("is there");
            let start = partition.delete_records_before(Offset(80)).await.expect("the disk is sound");
            assert_eq!(start, Offset(80));
        };
        scene.live_and(End::Kill, move |io| async move {
            let (_dir, logs, _) = open(&io).await;
            append(&logs, 0, 0..120).await;
            logs.checkpoint().await.expect("the disk is sound");
            append(&logs, 0, 120..124).await;
            if moved_when_fenced {
                logs.partition(&id(0)).expect("is there").flush().await.expect("the disk is sound");
                append(&logs, 1, 0..1).await;
            } else {
                move_start(logs).await;
            }
        });
        scene.pass(Duration::from_secs(10));
        let journal = scene.path_of("shard-0/journal-0");
        let bytes = scene.disk().snapshot_files().remove(&journal).expect("is there");
        let rotten = bytes.windows(600).position(|window| *window == value(121)).expect("is there") as u64;
        scene.disk().corrupt(&journal, rotten..rotten + 8);
        if moved_when_fenced {
            scene.live_and(End::Kill, move |io| async move {
                let (_dir, logs, report) = open(&io).await;
                assert_eq!(report.fenced.len(), 1);
                move_start(logs).await;
            });
            scene.pass(Duration::from_secs(10));
        }
        scene.live_and(End::Kill, move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert_eq!(report.fenced.len(), 1);
            let marks = logs.partition(&id(0)).expect("is there").watermarks().get();
            assert_eq!((marks.log_start_offset, marks.log_end_offset), (Offset(80), Offset(121)));
        });
        scene.pass(Duration::from_secs(10));
        let listed = planned(&mut scene, Selection::Fenced);
        let cut = only(&listed);
        assert_eq!((cut.log_start_offset, cut.next_offset), (Offset(80), Offset(121)), "{listed}");
        assert_eq!(cut.damage, None, "{listed}");
        salvaged(&mut scene, Selection::Fenced);
        scene.live(|io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert_eq!(report.fenced, []);
            let kept = read_values(&logs.partition(&id(0)).expect("is there")).await;
            assert_eq!(kept, (80..121).map(value).collect::<Vec<_>>());
        });
    }
}

#[test]
fn only_what_is_named_is_salvaged() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        append(&logs, 1, 0..1).await;
        append(&logs, 0, 0..8).await;
    });
    scene.pass(Duration::from_secs(10));
    // Of the group with the third record nothing can be read, so that everybody is fenced.
    scene.disk().corrupt(scene.path_of("shard-0/journal-0"), 4 * BLOCK_BYTES..4 * BLOCK_BYTES + 8);
    let named = Selection::Named(vec!["topic-1".to_owned()]);
    let done = salvaged(&mut scene, named);
    assert_eq!(only(&done).name, "topic-1");
    assert_eq!(done.left.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), ["topic-0"]);
    let overview = scene.live_and(End::Kill, |io| async move {
        overview(&io, Path::new(DIR)).await.expect("can be looked at")
    });
    assert_eq!(overview.fenced.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["topic-0"]);
    // The journal's copy is kept for the other.
    let done = salvaged(&mut scene, Selection::Fenced);
    assert_eq!(only(&done).apart.iter().map(|apart| apart.records).sum::<u64>(), 5, "{done}");
    assert_goes_on(&mut scene, 2, 1);
}

#[test]
fn directory_in_use_unknown_names_and_what_is_not_ours_are_refused() {
    let mut scene = scene_with_segments(true);
    let refusals = scene.live_and(End::Kill, |io| async move {
        let mut refusals = Vec::new();
        let path = Path::new(DIR);
        let unknown = Selection::Named(vec!["nobody-0".to_owned()]);
        refusals.push(plan(&io, path, &unknown).await.expect_err("unknown"));
        refusals.push(salvage(&io, Path::new("/nowhere"), &Selection::Fenced).await.expect_err("not there"));
        io.fs().create_dir_all_durable("/empty").await.expect("made");
        refusals.push(plan(&io, Path::new("/empty"), &Selection::Fenced).await.expect_err("empty"));
        let (_dir, _logs, _) = open(&io).await;
        refusals.push(plan(&io, path, &Selection::Fenced).await.expect_err("in use"));
        refusals.push(salvage(&io, path, &Selection::Fenced).await.expect_err("in use"));
        refusals
    });
    assert!(refusals[0].to_string().contains("no such partition"), "{}", refusals[0]);
    assert!(refusals[1].to_string().contains("no such data directory"), "{}", refusals[1]);
    assert!(refusals[2].to_string().contains("has no journal"), "{}", refusals[2]);
    for refusal in &refusals[3..] {
        assert!(matches!(refusal, OpenError::Locked { .. }), "{refusal}");
    }
}

/// Offsets that compaction left out are not missing.
#[test]
fn compacted_log_is_sound_and_is_cut_at_its_damage_only() {
    let mut scene = Scene::new(1);
    let kept = scene.live_and(End::Kill, |io| async move {
        let (dir, logs, _) = open(&io).await;
        let config = LogConfig {
            compact_enabled: true,
            delete_enabled: false,
            min_cleanable_dirty_ppm: 10_000,
            segment_bytes: 8 << 10,
            ..small_log()
        };
        let partition = logs.create_partition(id(0), "topic", config).await.expect("created");
        partition.begin_epoch(LeaderEpoch(0));
        for n in 0..200u64 {
            // Two keys come once, so that segments far apart keep a record each.
            let key = if n == 20 || n == 90 { n } else { n % 7 + 1000 }.to_be_bytes();
            let batch = keyed_batch_of(&[(&key, Some(&[7; 300]))], ProducerStamp::NONE);
            let appended = partition.append(batch, LeaderEpoch(0), Origin::Client).await.expect("accepted");
            appended.acknowledged().await.expect("the disk is sound");
        }
        logs.compact().await.expect("the disk is sound");
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
        let (_dir, logs, _) = open(&io).await;
        read_values(&logs.partition(&id(0)).expect("is there")).await.len()
    });
    scene.pass(Duration::from_secs(10));
    assert!(kept < 100, "{kept} are left");
    let named = || Selection::Named(vec!["topic-0".to_owned()]);
    assert_eq!(planned(&mut scene, named()).sound, ["topic-0"]);
    let path = segments(&scene).pop().expect("has some");
    scene.disk().corrupt(&path, 70..71);
    let done = salvaged(&mut scene, named());
    let first: i64 =
        Path::new(&path).file_stem().expect("has one").to_string_lossy().parse().expect("a number");
    assert_eq!(only(&done).next_offset, Offset(first), "{done}");
    assert_eq!(problems(&mut scene), Vec::<String>::new());
    let note = scene.disk().file_lengths().into_keys().find(|path| path.contains("cleaner-offset"));
    assert_eq!(note, None, "what is written there next is dirty");
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert_eq!(report.fenced, []);
        let partition = logs.partition(&id(0)).expect("is there");
        assert!(read_values(&partition).await.len() < kept);
        assert_eq!(partition.watermarks().get().log_end_offset, Offset(first));
    });
}

fn scene_with_much_to_salvage(started: bool) -> Scene {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        append(&logs, 0, 0..100).await;
        logs.checkpoint().await.expect("the disk is sound");
        append(&logs, 0, 100..104).await;
    });
    scene.pass(Duration::from_secs(10));
    let path = segments(&scene)[1].clone();
    scene.live_and(End::Kill, |io| async move {
        io.fs().remove_file(path).await.expect("is there");
        io.fs().sync_dir(format!("{DIR}/topic-0")).await.expect("the disk is sound");
    });
    if started {
        start_and_stop(&mut scene);
    }
    scene
}

#[test]
fn power_cut_anywhere_in_a_salvage_leaves_the_fence_or_a_log_that_goes_on() {
    for started in [false, true] {
        let mut scene = scene_with_much_to_salvage(started);
        let before = scene.disk().events();
        let listed = salvaged(&mut scene, Selection::Fenced);
        let events = scene.disk().events() - before;
        let kept = u32::try_from(only(&listed).next_offset.0).expect("small");
        assert!(events > 50 && kept > 0, "{events} events, {listed}");
        let whole = aside(&scene, &listed);
        for event in 1..events {
            let mut scene = scene_with_much_to_salvage(started);
            let first = planned(&mut scene, Selection::Fenced);
            scene.disk().cut_power_at_event(scene.disk().events() + event);
            scene.live_for(Duration::from_secs(60), End::PowerCut, |io| async move {
                let _cut_short = salvage(&io, Path::new(DIR), &Selection::Fenced).await;
                std::future::pending::<()>().await;
            });
            scene.disk().cut_power_at_event(0);
            let again = salvaged(&mut scene, Selection::Fenced);
            assert!(
                again.is_empty() || only(&again).next_offset == Offset(kept.into()),
                "event {event}: {again}"
            );
            let copied = aside(&scene, if again.is_empty() { &first } else { &again });
            let is_copied = |(file, bytes): (&String, &Vec<u8>)| {
                copied.get(file) == Some(bytes) || file.contains("journal-damaged")
            };
            // What is copied first stays: a recovery writes over some of it. (The journal that it keeps is named after the
            // generation.)
            assert!(whole.iter().all(is_copied), "cut at event {event} of {events}: {:?}", copied.keys());
            assert_goes_on(&mut scene, kept, 0);
        }
    }
}

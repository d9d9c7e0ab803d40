//! What a recovery does at the same time, in the time of the simulation: on a disk on which one kind of operation is slow, as
//! many as there are take little more than one.

use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{DIR, append_one, create, id, options, read_values};
use highwater_io::Io;
use highwater_io::sim::{DiskOp, Fault, FaultEffect};
use highwater_log::{DataDir, OpenOptions, RecoveryReport, ShardConfig, ShardLogs};

const SHARDS: usize = 4;
const PARTITIONS: i32 = 8;

/// What a slow operation takes: far more than everything else of a start.
const SLOW: Duration = Duration::from_secs(10);

/// A directory with the journals of several shards, and no checkpoint but those that a test asks for.
async fn open(io: &Io) -> (DataDir, Vec<ShardLogs>, RecoveryReport) {
    let shard = ShardConfig {
        journal_file_bytes: 4 << 20,
        journal_max_files: 3,
        checkpoint_interval_bytes: 1 << 40,
        hot_tail_bytes: 8 << 20,
        ..ShardConfig::default()
    };
    let opened = DataDir::open(io, DIR.as_ref(), OpenOptions { shard, ..options() }).await;
    let (mut dir, report) = opened.expect("a sound directory");
    let seeds = dir.split(SHARDS, |id, _| id.partition.0 as usize % SHARDS).await.expect("a new generation");
    let mut logs = Vec::new();
    for seed in seeds {
        logs.push(ShardLogs::start(io, seed).await.expect("a sound disk"));
    }
    (dir, logs, report)
}

fn shard_of(logs: &[ShardLogs], partition: i32) -> &ShardLogs {
    &logs[partition as usize % SHARDS]
}

/// A record in each partition, and the process killed.
fn killed_with_a_record_in_each(scene: &mut Scene) {
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        for partition in 0..PARTITIONS {
            let log = create(shard_of(&logs, partition), partition).await;
            append_one(&log, &partition.to_be_bytes()).await.acknowledged().await.expect("a sound disk");
        }
    });
    scene.pass(Duration::from_secs(60));
}

/// How long a recovery takes on whose disk `op` is slow in files with `path` in their names.
fn time_of_start(scene: &mut Scene, op: DiskOp, path: &str) -> Duration {
    let disk = scene.disk();
    let slow = disk.inject(Fault::new(op, FaultEffect::Delay(SLOW)).on(path));
    let time = scene.live_and(End::Kill, |io| async move {
        let begin = io.now();
        let opened = DataDir::open(&io, DIR.as_ref(), options()).await;
        let (_, report) = opened.expect("a sound directory");
        assert_eq!((report.journals, report.fenced.len()), (SHARDS, 0));
        assert_eq!(report.groups_replayed, u64::from(PARTITIONS.unsigned_abs()));
        io.now() - begin
    });
    disk.lift(slow);
    time
}

fn every_record_is_there(scene: &mut Scene) {
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        for partition in 0..PARTITIONS {
            let log = shard_of(&logs, partition).partition(&id(partition)).expect("is there");
            assert_eq!(read_values(&log).await, [partition.to_be_bytes()]);
        }
    });
}

/// A start once read one journal after the other.
#[test]
fn journals_of_several_shards_are_read_at_the_same_time() {
    let mut scene = Scene::new(1);
    killed_with_a_record_in_each(&mut scene);
    let time = time_of_start(&mut scene, DiskOp::Read, "/journal-");
    // A header, the first chunk, and what follows in as many steps as the reader widens its view; two files.
    assert!(time < SLOW * 12, "{time:?}");
    every_record_is_there(&mut scene);
}

/// What a killed process left in journal files is flushed before it is applied: once one file after the other.
#[test]
fn journal_files_are_flushed_at_the_same_time() {
    let mut scene = Scene::new(2);
    killed_with_a_record_in_each(&mut scene);
    let time = time_of_start(&mut scene, DiskOp::Flush, "/journal-");
    assert!(time < SLOW * 2, "{time:?}");
    every_record_is_there(&mut scene);
}

/// Each partition's bytes once waited for those of the one before.
#[test]
fn segments_are_written_at_the_same_time() {
    let mut scene = Scene::new(3);
    killed_with_a_record_in_each(&mut scene);
    let time = time_of_start(&mut scene, DiskOp::Write, ".log");
    assert!(time < SLOW * 2, "{time:?}");
    every_record_is_there(&mut scene);
}

/// A recovery that fails leaves all that the next one needs, and says why it failed although it waited for nothing.
#[test]
fn write_that_fails_fails_the_start_and_is_made_by_the_next() {
    let mut scene = Scene::new(4);
    killed_with_a_record_in_each(&mut scene);
    let failing = scene.disk().inject(Fault::eio(DiskOp::Write).on(".log").skip(3).times(1));
    let refused = scene.live_and(End::Kill, |io| async move {
        let opened = DataDir::open(&io, DIR.as_ref(), options()).await;
        opened.map(drop).expect_err("a write fails").to_string()
    });
    scene.disk().lift(failing);
    assert!(refused.contains(".log"), "{refused}");
    every_record_is_there(&mut scene);
}

//! What a closed log leaves behind in the process that goes on.

use std::path::Path;
use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{
    DIR, append_one, batch_of, create, id, open, open_with, options, read_values, small_log, small_shard,
};
use highwater_io::sim::{DiskOp, Fault, FaultEffect, World, WorldConfig};
use highwater_log::{DataDir, LogError, NewPartition, OpenOptions, Origin, ShardConfig};
use highwater_model::LeaderEpoch;
use highwater_model::batch::ProducerStamp;

/// Found by a fuzz target: a journal file that was being prepared during the close was kept open, and locked, by the
/// journal that nobody used any more, and the next start waited for that lock for ever.
#[test]
fn directory_is_opened_again_while_handles_of_the_closed_log_live() {
    for seed in 0..40 {
        let config = WorldConfig { max_steps: 100_000, ..WorldConfig::default() };
        let mut world = World::new(seed, config);
        let node = world.add_node("node");
        world.start(node, vec![()], |io, ()| async move {
            let (dir, logs, _) = open(&io).await;
            // At once: the second file of the journal is on its way.
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
            let (_dir, report) =
                DataDir::open(&io, Path::new(DIR), options()).await.expect("opens while handles are kept");
            assert!(report.was_clean);
            drop(logs);
        });
        world.run().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// Each partition's last block goes through the journal once more. Whether it had room was asked before that block was read,
/// and meanwhile the group before was written by itself, which takes more of the file: then the stop waited for a
/// checkpoint that nobody would make (seed 4932 of the simulator).
#[test]
fn clean_stop_ends_wherever_the_journal_is() {
    // Both files are in use, and the second is filled to each of its last blocks.
    let shard = ShardConfig { journal_max_files: 2, checkpoint_interval_bytes: 1 << 40, ..small_shard() };
    let options = OpenOptions { shard, ..options() };
    for fill in 36..64 {
        let options = options.clone();
        let mut scene = Scene::new(fill);
        scene.live_and(End::Kill, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            for number in 0..12 {
                let partition = create(&logs, number).await;
                append_one(&partition, &[1; 100]).await.acknowledged().await.expect("durable");
            }
        });
        scene.live(move |io| async move {
            // It finds their ends, in segments.
            let (dir, logs, _) = open_with(&io, options).await;
            let filler = create(&logs, 20).await;
            for _ in 0..fill {
                append_one(&filler, &[2; 100]).await.acknowledged().await.expect("durable");
            }
            let closed = io.timeout(Duration::from_secs(60), logs.close()).await;
            closed.unwrap_or_else(|_| panic!("fill {fill}: the stop stands still")).expect("a clean stop");
            dir.mark_clean().await.expect("marked");
        });
    }
}

/// Found by a fuzz target: the clean stop leaves a fenced partition as it is, and left its file open and locked.
#[test]
fn fenced_partition_holds_up_no_start_while_handles_of_the_closed_log_live() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        let partition = create(&logs, 0).await;
        for n in 0..6 {
            append_one(&partition, &[n; 500]).await.acknowledged().await.expect("durable");
        }
    });
    scene.pass(Duration::from_secs(10));
    // The third group rots.
    scene.disk().corrupt(scene.path_of("journal-0"), (3 << 12) + 300..(3 << 12) + 301);
    scene.live(|io| async move {
        let (dir, logs, report) = open(&io).await;
        assert_eq!(report.fenced.len(), 1);
        let partition = logs.partition(&id(0)).expect("is there");
        logs.checkpoint().await.expect("the disk is sound");
        logs.close().await.expect("a stop");
        drop(dir);
        let (_dir, again, _) =
            io.timeout(Duration::from_secs(60), open(&io)).await.expect("the next start waits for nobody");
        again.checkpoint().await.expect("the disk is sound");
        drop(partition);
    });
}

fn slowly(seconds: u64) -> FaultEffect {
    FaultEffect::Delay(Duration::from_secs(seconds))
}

/// The stop did not wait for a creation that had begun before it: what the new partition took was acknowledged, and the
/// checkpoint of the stop, behind which nothing is read, did not know of it.
#[test]
fn partition_that_is_made_during_the_close_loses_nothing() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        let acknowledged = scene.live_and(End::PowerCut, move |io| async move {
            let (dir, logs, _) = open(&io).await;
            let other = create(&logs, 0).await;
            append_one(&other, &[1; 500]).await.acknowledged().await.expect("durable");
            disk.inject(Fault::new(DiskOp::SyncDirectory, slowly(2)).on("topic-1").times(1));
            disk.inject(Fault::new(DiskOp::Flush, slowly(5)).on("topic-0/").times(1));
            let again = logs.clone();
            let creation = io.spawn(async move { again.create_partition(id(1), "topic", small_log()).await });
            io.sleep(Duration::from_secs(1)).await;
            let again = logs.clone();
            let close = io.spawn(async move { again.close().await });
            let mut acknowledged = Vec::new();
            if let Ok(partition) = creation.await {
                partition.begin_epoch(LeaderEpoch(0));
                let batch = batch_of(&[b"value"], ProducerStamp::NONE);
                if let Ok(appended) = partition.append(batch, LeaderEpoch(0), Origin::Client).await
                    && appended.acknowledged().await.is_ok()
                {
                    acknowledged.push(b"value".to_vec());
                }
            }
            close.await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
            acknowledged
        });
        scene.live(move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert!(report.was_clean && report.fenced.is_empty(), "seed {seed}: {report:?}");
            let partition = create(&logs, 1).await;
            assert_eq!(read_values(&partition).await, acknowledged, "seed {seed}");
            assert_eq!(read_values(&logs.partition(&id(0)).expect("is there")).await.len(), 1);
        });
    }
}

/// One of several new partitions waited for a checkpoint when the log was closed. The others had passed the question whether
/// it was, and their directories were made when it was closed, and the next start had the directory.
#[test]
fn creations_that_the_close_overtakes_make_nothing_after_it() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        let disk = scene.disk();
        scene.live(move |io| async move {
            let (dir, logs, _) = open(&io).await;
            let other = create(&logs, 2).await;
            create(&logs, 0).await;
            logs.delete_partition(&id(0)).await.expect("deleted");
            append_one(&other, &[1; 500]).await.acknowledged().await.expect("durable");
            disk.inject(Fault::new(DiskOp::Flush, slowly(3)).on("topic-2/").times(1));
            disk.inject(Fault::new(DiskOp::SyncDirectory, slowly(30)).on("topic-1").times(1));
            let again = logs.clone();
            let new = |n| NewPartition { id: id(n), topic_name: "topic".into(), config: small_log() };
            let creations = io.spawn(async move { again.create_partitions(vec![new(1), new(0)]).await });
            io.sleep(Duration::from_secs(1)).await;
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
            let files = disk.file_lengths();
            for outcome in creations.await {
                let outcome = outcome.map(|partition| partition.id());
                assert!(matches!(outcome, Err(LogError::Closed)), "seed {seed}: {outcome:?}");
            }
            assert_eq!(disk.file_lengths(), files, "seed {seed}");
            assert!(files.keys().all(|path| !path.contains("topic-1")), "seed {seed}: {files:?}");
        });
    }
}

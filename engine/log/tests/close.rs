//! What a closed log leaves behind in the process that goes on.

mod common;

use std::path::Path;
use std::time::Duration;

use common::scene::{End, Scene};
use common::{DIR, append_one, create, id, open, open_with, options, small_shard};
use highwater_io::sim::{World, WorldConfig};
use highwater_log::{DataDir, OpenOptions, ShardConfig};

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

//! Thousands of partitions in one shard: what a start does for each, and how many descriptors they take.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::scene::{End, Scene};
use crate::common::{DIR, append_one, create, id, open_with, options, read_values, small_log, small_shard};
use highwater_io::Io;
use highwater_io::sim::{DiskOp, Fault, FaultEffect};
use highwater_log::{DataDir, LogError, NewPartition, OpenOptions, RecoveryReport, ShardConfig, ShardLogs};
use highwater_model::{Offset, TopicId, TopicPartition};

const PARTITIONS: i32 = 2_000;
const ENOSPC: i32 = 28;

/// Descriptors that segments may keep; in use at once are no more than there are chunks and flushes in flight.
const MAX_OPEN: usize = 16;

async fn open(io: &Io) -> (DataDir, ShardLogs, RecoveryReport) {
    let shard = ShardConfig {
        max_open_segments: MAX_OPEN,
        journal_file_bytes: 16 << 20,
        checkpoint_interval_bytes: 1 << 40,
        hot_tail_bytes: 32 << 20,
        ..small_shard()
    };
    open_with(io, OpenOptions { shard, ..options() }).await
}

fn new(partition: i32) -> NewPartition {
    NewPartition { id: id(partition), topic_name: "topic".into(), config: small_log() }
}

async fn create_all(logs: &ShardLogs) {
    for created in logs.create_partitions((0..PARTITIONS).map(new).collect()).await {
        created.expect("created");
    }
}

async fn append_to_all(logs: &ShardLogs) {
    let mut appended = Vec::new();
    for number in 0..PARTITIONS {
        let partition = logs.partition(&id(number)).expect("is there");
        appended.push(append_one(&partition, &number.to_be_bytes()).await);
        assert!(logs.open_segments() <= MAX_OPEN, "{} descriptors", logs.open_segments());
    }
    for appended in appended {
        appended.acknowledged().await.expect("the disk is sound");
    }
}

/// Counts what is done to files whose path holds a text, while a process lives.
struct Counts(Vec<(DiskOp, &'static str, highwater_io::sim::FaultId)>);

impl Counts {
    fn begin(scene: &Scene, what: &[(DiskOp, &'static str)]) -> Self {
        // A rule that changes nothing counts.
        let rule = |&(op, path): &(DiskOp, &'static str)| {
            (op, path, scene.disk().inject(Fault::new(op, FaultEffect::Delay(Duration::ZERO)).on(path)))
        };
        Counts(what.iter().map(rule).collect())
    }

    fn end(self, scene: &Scene) -> Vec<u64> {
        let count = |(_, _, rule)| {
            let fired = scene.disk().fired(rule);
            scene.disk().lift(rule);
            fired
        };
        self.0.into_iter().map(count).collect()
    }
}

async fn check_all(logs: &ShardLogs, per_partition: usize) {
    for number in (0..PARTITIONS).step_by(97) {
        let partition = logs.partition(&id(number)).expect("is there");
        let values = read_values(&partition).await;
        assert_eq!(values, vec![number.to_be_bytes().to_vec(); per_partition]);
        assert!(logs.open_segments() <= MAX_OPEN, "{} descriptors", logs.open_segments());
    }
}

#[test]
fn thousands_of_partitions_start_without_a_look_into_a_segment_and_share_a_few_descriptors() {
    let mut scene = Scene::new(1);
    scene.live_and(End::Kill, |io| async move {
        let (dir, logs, _) = open(&io).await;
        create_all(&logs).await;
        append_to_all(&logs).await;
        // Each is written to between two flushes that checkpoints ask for.
        logs.checkpoint().await.expect("the disk is sound");
        assert!(logs.open_segments() <= MAX_OPEN + 64, "{} descriptors", logs.open_segments());
        check_all(&logs, 1).await;
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    let what = [(DiskOp::Read, ".log"), (DiskOp::Open, ".log"), (DiskOp::SyncDirectory, "/topic-")];
    let counts = Counts::begin(&scene, &what);
    scene.live_and(End::Kill, |io| async move {
        let (dir, logs, report) = open(&io).await;
        assert!(report.was_clean && report.fenced.is_empty());
        create_all(&logs).await;
        let ends =
            logs.partitions().iter().map(|it| it.watermarks().get().log_end_offset).collect::<Vec<_>>();
        assert!(ends.len() == PARTITIONS as usize && ends.iter().all(|end| *end == Offset(1)));
        // Nothing was done, and nothing has to be done.
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    });
    assert_eq!(counts.end(&scene), [0, 0, 0], "{what:?} of a start and a stop with nothing between");
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert!(report.was_clean);
        append_to_all(&logs).await;
    });
    // Of those that the journal has, all are written to, and none is read.
    let counts = Counts::begin(&scene, &what[..1]);
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, report) = open(&io).await;
        assert!(!report.was_clean && report.fenced.is_empty());
        assert_eq!(logs.partitions().len(), PARTITIONS as usize);
    });
    assert_eq!(counts.end(&scene), [0], "reads of segments after a kill");
    scene.live_and(End::Kill, |io| async move {
        let (_dir, logs, _) = open(&io).await;
        check_all(&logs, 2).await;
    });
}

/// With one flush of the names for all of them: a cut must leave each whole or not at all, and all once they are there.
#[test]
fn partitions_made_together_are_durable_together_when_the_call_returns() {
    let mut done = false;
    for event in 1.. {
        let mut scene = Scene::new(1);
        scene.live_and(End::Kill, |io| async move { open(&io).await.2 });
        scene.pass(Duration::from_secs(1));
        let acknowledged = std::rc::Rc::new(std::cell::RefCell::new(BTreeMap::new()));
        let told = std::rc::Rc::clone(&acknowledged);
        scene.disk().cut_power_at_event(scene.disk().events() + event);
        scene.live_for(Duration::from_secs(5), End::PowerCut, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let same_name = NewPartition { id: id(99), topic_name: "topic-0".into(), config: small_log() };
            let made = logs.create_partitions((0..6).map(new).chain([new(3), same_name]).collect()).await;
            assert_eq!(made.len(), 8);
            for (number, partition) in (0..).zip(made).take(6) {
                let partition = partition.expect("created");
                append_one(&partition, b"kept").await.acknowledged().await.expect("the disk is sound");
                told.borrow_mut().insert(number, ());
            }
        });
        let acknowledged: Vec<i32> = acknowledged.take().into_keys().collect();
        let is_last = acknowledged.len() == 6;
        scene.disk().cut_power_at_event(0);
        scene.live_and(End::Kill, move |io| async move {
            let (_dir, logs, report) = open(&io).await;
            assert_eq!((report.fenced, report.strays), (Vec::new(), Vec::new()), "event {event}");
            for number in acknowledged {
                let partition = logs.partition(&id(number)).expect("records were acknowledged in it");
                assert_eq!(read_values(&partition).await, [b"kept".to_vec()], "event {event}");
            }
        });
        if is_last {
            done = event > 20;
            break;
        }
    }
    assert!(done, "the power was cut while they were made");
}

#[test]
fn second_partition_of_a_directory_is_refused_among_others() {
    let mut scene = Scene::new(1);
    scene.live(|io| async move {
        let (_dir, logs, _) = open(&io).await;
        let twice = || NewPartition { id: id(7), topic_name: "a".into(), config: small_log() };
        let mut other = twice();
        other.id.topic_id = highwater_model::TopicId::from_bytes([2; 16]);
        let made = logs.create_partitions(vec![twice(), other.clone(), twice()]).await;
        assert!(matches!(&made[..], [Ok(_), Err(LogError::NameInUse { .. }), Ok(_)]), "{made:?}");
        logs.delete_partition(&id(7)).await.expect("deleted");
        logs.create_partition(other.id, "a", small_log()).await.expect("the name is free again");
    });
}

/// Starts two shards of one directory; partitions with an even index are the first one's.
async fn open_two(io: &Io) -> (DataDir, ShardLogs, ShardLogs) {
    let (mut dir, report) = DataDir::open(io, DIR.as_ref(), options()).await.expect("it opens");
    assert_eq!((report.fenced, report.strays), (Vec::new(), Vec::new()));
    let shard_of = |id: &TopicPartition| usize::from(id.topic_id.as_bytes()[0].is_multiple_of(2));
    let seeds = dir.split(2, |id, _| shard_of(id)).await.expect("a new generation");
    let mut logs = Vec::new();
    for seed in seeds {
        logs.push(ShardLogs::start(io, seed).await.expect("the shard starts"));
    }
    let second = logs.pop().expect("two");
    (dir, logs.pop().expect("two"), second)
}

/// The next topic of a name is another shard's, as often as not.
#[test]
fn name_of_a_partition_is_taken_on_every_shard() {
    let mut scene = Scene::new(1);
    let of_another = TopicPartition { topic_id: TopicId::from_bytes([2; 16]), ..id(0) };
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, first, second) = open_two(&io).await;
        let old = create(&first, 0).await;
        append_one(&old, b"old").await.acknowledged().await.expect("written");
        let refused = second.create_partition(of_another, "topic", small_log()).await;
        assert!(matches!(refused, Err(LogError::NameInUse { .. })), "{refused:?}");
        assert_eq!(read_values(&old).await, [b"old".to_vec()]);
    });
    let disk = scene.disk();
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, first, second) = open_two(&io).await;
        // It is short of space when its directory is to have another name.
        let full = disk.inject(Fault::new(DiskOp::Rename, FaultEffect::Errno(ENOSPC)).on("topic-0").times(1));
        first.delete_partition(&id(0)).await.expect_err("short of space");
        assert_eq!(disk.fired(full), 1);
        let refused = second.create_partition(of_another, "topic", small_log()).await;
        assert!(matches!(refused, Err(LogError::NameInUse { .. })), "{refused:?}");
        // The next checkpoint makes up for it.
        first.checkpoint().await.expect("a checkpoint");
        let new = second.create_partition(of_another, "topic", small_log()).await.expect("the name is free");
        append_one(&new, b"new").await.acknowledged().await.expect("written");
        for logs in [&second, &first] {
            logs.checkpoint().await.expect("a checkpoint");
        }
    });
    scene.live_and(End::Kill, move |io| async move {
        let (_dir, first, second) = open_two(&io).await;
        assert!(first.partition(&id(0)).is_none());
        let new = second.partition(&of_another).expect("is there");
        assert_eq!(read_values(&new).await, [b"new".to_vec()]);
    });
}

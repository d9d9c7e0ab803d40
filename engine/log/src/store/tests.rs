//! The store's thread in the simulator, and a real one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use highwater_io::sim::{DiskOp, Fault, FaultEffect, World, WorldConfig};
use highwater_io::{DriverChoice, Io, mailbox};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, Timestamp};
use tokio::sync::Semaphore;

use super::calls::Call;
use super::serve::{self, Start};
use super::{Command, Log, NewRecord, Shared, Store, StoreError, StoreOptions, Stored, Wait};
use crate::config::{LogConfig, ShardConfig};
use crate::error::LogError;

fn small() -> StoreOptions {
    StoreOptions {
        shard: ShardConfig {
            journal_file_bytes: 128 << 10,
            journal_max_files: 3,
            checkpoint_interval_bytes: 96 << 10,
            group_max_bytes: 32 << 10,
            hot_tail_bytes: 2 << 20,
            chunk_bytes: 8 << 10,
            ..ShardConfig::default()
        },
        batch_size: 2 << 10,
        buffer_memory: 16 << 10,
        ..StoreOptions::default()
    }
}

/// A store on this shard of a simulated world.
async fn open(io: &Io, options: StoreOptions) -> Arc<Shared> {
    let buffer_memory = options.buffer_memory;
    let (commands, receiver) = mailbox::channel(16);
    let (opened, reply) = mailbox::oneshot();
    let start = Start { path: "/data".into(), options, commands: receiver, opened };
    io.spawn(serve::run(io.clone(), start)).detach();
    reply.await.expect("an answer").expect("it opens");
    Arc::new(Shared { commands, buffer: Arc::new(Semaphore::new(buffer_memory)), buffer_memory })
}

async fn log(shared: &Arc<Shared>, topic: &'static str) -> Log {
    let id = shared.call(Call::new(move |serving| async move { serving.open_log(topic, 0, None).await }));
    Log { shared: Arc::clone(shared), topic: topic.into(), id: id.await.expect("a log") }
}

async fn read_all(log: &Log) -> Vec<(Offset, String)> {
    let mut found = Vec::new();
    let mut next = Offset(0);
    loop {
        let read = log.read(next, 4_000).await.expect("readable");
        if read.records.is_empty() {
            return found;
        }
        for record in read.records {
            let value = record.value.expect("a value");
            found.push((record.offset, String::from_utf8(value.to_vec()).expect("text")));
        }
        next = read.next_offset;
    }
}

type Acked = Rc<RefCell<Vec<(Offset, String)>>>;

/// Writers on many tasks, until the power goes; then everything that was acknowledged must be there.
#[test]
fn acknowledged_records_survive_power_cuts_and_kills() {
    const WRITERS: usize = 8;
    for seed in 0..30u64 {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("store");
        let acked: Acked = Rc::default();
        for life in 0..3 {
            let run = move |io: Io, acked: Acked| async move {
                let shared = open(&io, small()).await;
                let log = log(&shared, "events").await;
                let found = read_all(&log).await;
                for ack in acked.borrow().iter() {
                    assert!(found.contains(ack), "{ack:?} was acknowledged, {} found", found.len());
                }
                let writers: Vec<_> = (0..WRITERS)
                    .map(|writer| {
                        let (log, acked) = (log.clone(), Rc::clone(&acked));
                        io.spawn(async move {
                            for n in 0.. {
                                let value = format!("life {life} writer {writer} record {n}");
                                let record = NewRecord::value(value.clone());
                                let ack = log.append(record).await.expect("taken");
                                let Stored { offset, .. } = ack.await.expect("stored");
                                acked.borrow_mut().push((offset, value));
                            }
                        })
                    })
                    .collect();
                for writer in writers {
                    writer.await;
                }
            };
            world.start(node, vec![Rc::clone(&acked)], run);
            let millis = 20 + seed % 7;
            world.run_for(Duration::from_millis(millis)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            if seed % 3 == 2 { world.kill(node) } else { world.power_cut(node) }
        }
        assert!(acked.borrow().len() > WRITERS, "seed {seed}: hardly anything was acknowledged");
    }
}

/// A power cut took an epoch with all its records, which somebody may have read, and the next start began it again.
#[test]
fn no_two_starts_share_a_leader_epoch() {
    for seed in 0..20u64 {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("store");
        let epochs: Rc<RefCell<Vec<LeaderEpoch>>> = Rc::default();
        for life in 1..=4 {
            world.start(node, vec![Rc::clone(&epochs)], |io, epochs| async move {
                let unflushed = LogConfig { flush_messages: u64::MAX, ..LogConfig::default() };
                let shared = open(&io, StoreOptions { log: unflushed, ..small() }).await;
                let log = log(&shared, "events").await;
                log.append(NewRecord::value("a record")).await.expect("taken").await.expect("stored");
                let id = log.id();
                let epoch = shared
                    .call(Call::new(move |serving| async move {
                        let log = serving.logs.partition(&id).expect("is there");
                        Ok(log
                            .epoch_at(Offset(log.watermarks().get().log_end_offset.0 - 1))
                            .expect("of an epoch"))
                    }))
                    .await
                    .expect("known");
                epochs.borrow_mut().push(epoch);
            });
            world
                .run_until(|_| epochs.borrow().len() == life)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            world.power_cut(node);
        }
        assert!(epochs.borrow().is_sorted_by(|one, next| one < next), "seed {seed}: {epochs:?}");
    }
}

/// All logs of a topic have one id, so that a log that is deleted and opened anew has the id of the one before: a start took the
/// new one for the one that was deleted.
#[test]
fn log_that_is_opened_anew_after_its_deletion_survives() {
    for (seed, old, is_kill) in [(1, 0, true), (2, 0, false), (3, 5, true), (4, 5, false)] {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("store");
        let acked: Acked = Rc::default();
        let run = move |io: Io, acked: Acked| async move {
            let shared = open(&io, small()).await;
            let first = log(&shared, "events").await;
            let sibling =
                shared.call(Call::new(|serving| async move { serving.open_log("events", 1, None).await }));
            sibling.await.expect("a log");
            for n in 0..old {
                let ack = first.append(NewRecord::value(format!("old {n}"))).await.expect("taken");
                ack.await.expect("stored");
            }
            let id = first.id();
            shared
                .call(Call::new(move |serving| async move { serving.delete(id).await }))
                .await
                .expect("deleted");
            let again = log(&shared, "events").await;
            assert_eq!(again.id(), id, "a sibling keeps the topic's id");
            for n in 0..10 {
                let value = format!("new {n}");
                let ack = again.append(NewRecord::value(value.clone())).await.expect("taken");
                let Stored { offset, .. } = ack.await.expect("stored");
                acked.borrow_mut().push((offset, value));
            }
        };
        world.start(node, vec![Rc::clone(&acked)], run);
        world.run_until(|_| acked.borrow().len() == 10).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        if is_kill {
            world.kill(node);
        } else {
            world.power_cut(node);
        }
        let done = Rc::new(std::cell::Cell::new(false));
        world.start(node, vec![(Rc::clone(&acked), Rc::clone(&done))], |io, (acked, done)| async move {
            let shared = open(&io, small()).await;
            let found = read_all(&log(&shared, "events").await).await;
            assert_eq!(found, *acked.borrow());
            done.set(true);
        });
        world.run_until(|_| done.get()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// Whoever opened a log while it was deleted got the old one, and so did everybody after the deletion.
#[test]
fn log_that_was_opened_while_it_was_deleted_can_be_opened_anew() {
    for seed in 0..10 {
        highwater_io::sim::run(seed, move |io| async move {
            let shared = open(&io, small()).await;
            let first = log(&shared, "events").await;
            let sibling =
                shared.call(Call::new(|serving| async move { serving.open_log("events", 1, None).await }));
            sibling.await.expect("a log");
            first.append(NewRecord::value("old")).await.expect("taken").await.expect("stored");
            let (deleting, id) = (Arc::clone(&shared), first.id());
            let deleted = io.spawn(async move {
                deleting.call(Call::new(move |serving| async move { serving.delete(id).await })).await
            });
            // The old one or the new one, as it happens.
            log(&shared, "events").await;
            deleted.await.expect("deleted");
            let again = log(&shared, "events").await;
            let stored = again.append(NewRecord::value("new")).await.expect("taken").await;
            assert_eq!(stored.expect("stored").offset, Offset(0), "seed {seed}");
            assert_eq!(read_all(&again).await, [(Offset(0), "new".to_owned())]);
        });
    }
}

#[test]
fn records_that_wait_together_are_stored_as_one_batch() {
    highwater_io::sim::run(1, |io| async move {
        let options = StoreOptions { linger: Duration::from_millis(5), ..small() };
        let shared = open(&io, options).await;
        let log = log(&shared, "events").await;
        let mut acks = Vec::new();
        for n in 0..10 {
            acks.push(log.append(NewRecord::value(format!("{n}"))).await.expect("taken"));
        }
        for (n, ack) in (0..).zip(acks) {
            assert_eq!(ack.await.expect("stored").offset, Offset(n), "in the order of appending");
        }
        let data = log.read_batches(Offset(0), 1 << 20).await.expect("readable");
        let bytes = data.chunks.concat();
        assert_eq!(highwater_model::batch::headers(&bytes).count(), 1);
    });
}

/// A group of the journal was five batches of 64 KiB, however much waited: `max_in_flight` held back full ones, too.
#[test]
fn full_batches_do_not_wait_for_those_before_them() {
    let mut world = World::new(10, WorldConfig::default());
    let node = world.add_node("store");
    let disk = world.disk_of(node);
    let done = Rc::new(Cell::new(false));
    world.start(node, vec![Rc::clone(&done)], move |io, done: Rc<Cell<bool>>| {
        let disk = disk.clone();
        async move {
            let shared = open(&io, StoreOptions { max_in_flight: 1, ..small() }).await;
            let log = log(&shared, "events").await;
            let first = log.append(NewRecord::value("the segment is there")).await.expect("taken");
            first.await.expect("stored");
            let late = FaultEffect::Delay(Duration::from_secs(1));
            disk.inject(Fault::new(DiskOp::Write, late).on("journal"));
            let begin = io.now();
            let mut acks = Vec::new();
            for _ in 0..14 {
                acks.push(log.append(NewRecord::value(vec![0; 1_000])).await.expect("taken"));
            }
            for (n, ack) in (1..).zip(acks) {
                assert_eq!(ack.await.expect("stored").offset, Offset(n), "in the order of appending");
            }
            let took = io.now() - begin;
            assert!(took < Duration::from_secs(4), "{took:?}: a write of the journal for each batch");
            done.set(true);
        }
    });
    world.run_for(Duration::from_secs(60)).expect("it ends");
    assert!(done.get());
}

/// A batch is full by what it takes on the medium, not in memory: of small records that is a fraction.
#[test]
fn small_records_fill_their_batches() {
    highwater_io::sim::run(11, |io| async move {
        let shared = open(&io, StoreOptions { max_in_flight: 1, ..small() }).await;
        let log = log(&shared, "events").await;
        let mut acks = Vec::new();
        for _ in 0..100 {
            acks.push(log.append(NewRecord::value(vec![0; 10])).await.expect("taken"));
        }
        for ack in acks {
            ack.await.expect("stored");
        }
        let data = log.read_batches(Offset(0), 1 << 20).await.expect("readable");
        let batches = highwater_model::batch::headers(&data.chunks.concat()).count();
        assert!(batches <= 5, "{batches} batches of 100 records, of which 40 fit into one");
    });
}

/// It waited for what waited for a checkpoint, which a full disk had no room for.
#[test]
fn close_ends_on_a_full_disk_with_a_full_journal() {
    let mut world = World::new(12, WorldConfig::default());
    let node = world.add_node("store");
    let disk = world.disk_of(node);
    let done = Rc::new(Cell::new(false));
    world.start(node, vec![Rc::clone(&done)], move |io, done: Rc<Cell<bool>>| {
        let disk = disk.clone();
        async move {
            let shared = open(&io, small()).await;
            let log = log(&shared, "events").await;
            let first = log.append(NewRecord::value("the segment is there")).await.expect("taken");
            first.await.expect("stored");
            disk.set_capacity(disk.used_bytes());
            let waiting = loop {
                let mut ack = Box::pin(log.append(NewRecord::value(vec![0; 100])).await.expect("taken"));
                match io.timeout(Duration::from_secs(10), ack.as_mut()).await {
                    Ok(outcome) => drop(outcome.expect("stored")),
                    Err(_) => break ack,
                }
            };
            let (closer, closed) = mailbox::oneshot();
            assert!(shared.commands.send(Command::Close(closer)).await.is_ok());
            let outcome = io.timeout(Duration::from_secs(600), closed).await.expect("the close ends");
            // What the segments had reserved is room enough for the end.
            outcome.expect("an answer").expect("a clean stop");
            let told = io.timeout(Duration::from_secs(600), waiting).await.expect("is told");
            assert!(told.is_err(), "it found no room");
            done.set(true);
        }
    });
    world.run_for(Duration::from_secs(3_600)).expect("it ends");
    assert!(done.get());
}

#[test]
fn full_buffer_makes_appends_wait_and_loses_none() {
    highwater_io::sim::run(2, |io| async move {
        let options = StoreOptions { buffer_memory: 600, ..small() };
        let shared = open(&io, options).await;
        let log = log(&shared, "events").await;
        let mut acks = Vec::new();
        for _ in 0..100 {
            acks.push(log.append(NewRecord::value(vec![0; 100])).await.expect("taken"));
            assert!(shared.buffer.available_permits() <= 600);
        }
        for ack in acks {
            ack.await.expect("stored");
        }
        // Larger than the whole buffer: alone, but possible.
        let large = log.append(NewRecord::value(vec![0; 5_000])).await.expect("taken");
        assert_eq!(large.await.expect("stored").offset, Offset(100));
    });
}

#[test]
fn record_that_is_too_large_fails_alone() {
    highwater_io::sim::run(3, |io| async move {
        let shared = open(&io, small()).await;
        let log = log(&shared, "events").await;
        let small = log.append(NewRecord::value("a")).await.expect("taken");
        let large = log.append(NewRecord::value(vec![0; 40 << 10])).await.expect("taken");
        let after = log.append(NewRecord::value("b")).await.expect("taken");
        small.await.expect("stored");
        let error = large.await.expect_err("a quarter of a journal file is the limit");
        assert!(matches!(error, StoreError::Append(_)), "{error}");
        assert_eq!(after.await.expect("stored").offset, Offset(1));
    });
}

/// The first was refused with the batch that it happened to be in, and all who were in it.
#[test]
fn record_that_is_refused_takes_no_other_down() {
    highwater_io::sim::run(5, |io| async move {
        let options = StoreOptions { linger: Duration::from_millis(5), ..small() };
        let shared = open(&io, options).await;
        let log = log(&shared, "events").await;
        let config = log.config().await.expect("open");
        log.set_config(LogConfig { compact_enabled: true, ..config }).await.expect("open");
        let mut acks = Vec::new();
        for n in 0..9 {
            let key = (n % 3 != 1).then(|| bytes::Bytes::from("key"));
            let record = NewRecord { key, ..NewRecord::value(format!("{n}")) };
            acks.push(log.append(record).await.expect("taken"));
        }
        let mut offsets = Vec::new();
        for (n, ack) in (0..).zip(acks) {
            match ack.await {
                Ok(stored) => offsets.push(stored.offset),
                Err(error) => assert!(n % 3 == 1, "record {n}: {error}"),
            }
        }
        assert_eq!(offsets, (0..6).map(Offset).collect::<Vec<_>>(), "those with a key, in their order");
    });
}

#[test]
fn records_appended_together_are_one_batch_or_none() {
    highwater_io::sim::run(6, |io| async move {
        let shared = open(&io, small()).await;
        let log = log(&shared, "events").await;
        let mut acks = Vec::new();
        for pair in 0..20 {
            let records = ["a", "b"].map(|half| NewRecord::value(format!("{pair}{half}").repeat(100)));
            acks.push(log.append_batch(records).await.expect("taken"));
        }
        let too_large = (0..40).map(|_| NewRecord::value(vec![0; 1 << 10]));
        let too_large = log.append_batch(too_large).await.expect("taken");
        for (pair, ack) in (0..).zip(acks) {
            assert_eq!(ack.await.expect("stored").offset, Offset(2 * pair));
        }
        too_large.await.expect_err("a quarter of a journal file is the limit");
        assert!(log.append_batch([]).await.is_err(), "nothing to wait for");
        assert_eq!(log.watermarks().await.expect("open").log_end_offset, Offset(40));
        let mut next = Offset(0);
        while next < Offset(40) {
            let found = log.read(next, 1).await.expect("readable");
            assert!(found.records.len() % 2 == 0, "{} records at {next}", found.records.len());
            next = found.next_offset;
        }
    });
}

#[test]
fn tail_gives_every_record_once_and_ends_with_its_log() {
    highwater_io::sim::run(7, |io| async move {
        let shared = open(&io, small()).await;
        let log = log(&shared, "events").await;
        let mut tail = log.tail(Offset(0));
        let reader = io.spawn(async move {
            let mut seen = Vec::new();
            loop {
                match tail.next().await {
                    Ok(found) => seen.extend(found.records.iter().map(|record| record.offset)),
                    Err(error) => return (seen, error),
                }
            }
        });
        for n in 0..50 {
            let ack = log.append(NewRecord::value(format!("{n}"))).await.expect("taken");
            ack.await.expect("stored");
        }
        io.sleep(Duration::from_millis(1)).await;
        let id = log.id();
        shared
            .call(Call::new(move |serving| async move { serving.delete(id).await }))
            .await
            .expect("deleted");
        let (seen, error) = reader.await;
        assert_eq!(seen, (0..50).map(Offset).collect::<Vec<_>>());
        assert!(matches!(error, StoreError::Log(LogError::Closed)), "{error}");
    });
}

/// Who stopped waiting left a task behind, until the record came: each timeout one more.
#[test]
fn waiting_that_was_given_up_leaves_no_task() {
    highwater_io::sim::run(8, |io| async move {
        let shared = open(&io, small()).await;
        let log = log(&shared, "events").await;
        let handles = || Arc::strong_count(&log.topic);
        let before = handles();
        for _ in 0..10 {
            let mut tail = log.tail(Offset(0));
            io.timeout(Duration::from_millis(1), tail.next()).await.expect_err("nothing comes");
        }
        io.sleep(Duration::from_millis(1)).await;
        assert_eq!(handles(), before);
        let waiting = shared
            .call(Call::new(|serving| async move { Ok(Rc::strong_count(&serving)) }))
            .await
            .expect("open");
        // The loop's own, and this call's.
        assert_eq!(waiting, 2);
    });
}

#[test]
fn time_finds_what_may_be_read_and_nothing_beyond() {
    highwater_io::sim::run(9, |io| async move {
        let shared = open(&io, small()).await;
        let log = log(&shared, "events").await;
        for n in 0..10 {
            let record = NewRecord::value(format!("{n}")).at(Timestamp(1_000 * (n + 1)));
            log.append(record).await.expect("taken").await.expect("stored");
        }
        let first = |timestamp| {
            let log = &log;
            async move {
                let found = log.read_from_time(Timestamp(timestamp), 1 << 20).await.expect("readable");
                (found.records.first().map(|record| record.offset), found.next_offset)
            }
        };
        assert_eq!(first(0).await, (Some(Offset(0)), Offset(10)));
        assert_eq!(first(4_500).await, (Some(Offset(4)), Offset(10)));
        assert_eq!(first(10_000).await, (Some(Offset(9)), Offset(10)));
        assert_eq!(first(10_001).await, (None, Offset(10)));

        // Written, and not durable: what a power cut may take is not found by its time either.
        let config = log.config().await.expect("open");
        log.set_config(LogConfig { flush_messages: u64::MAX, ..config.clone() }).await.expect("open");
        let late = NewRecord::value("late").at(Timestamp(20_000));
        log.append(late).await.expect("taken").await.expect("stored");
        assert_eq!(first(15_000).await, (Some(Offset(10)), Offset(11)), "the log promises no more");
        let id = log.id();
        let strict = LogConfig { flush_messages: 1, ..config };
        let before_the_flush = shared
            .call(Call::new(move |serving| async move {
                serving.set_config(id, strict)?;
                serving.offset_for_timestamp(id, Timestamp(15_000)).await
            }))
            .await;
        assert_eq!(before_the_flush.expect("readable"), None);
        log.flush().await.expect("flushed");
        assert_eq!(first(15_000).await, (Some(Offset(10)), Offset(11)));
    });
}

#[test]
fn name_that_leads_elsewhere_is_refused() {
    highwater_io::sim::run(4, |io| async move {
        let shared = open(&io, small()).await;
        for name in ["", ".", "..", "../x", "a/b", "ä"] {
            let open =
                shared.call(Call::new(move |serving| async move { serving.open_log(name, 0, None).await }));
            assert!(matches!(open.await, Err(StoreError::InvalidName { .. })), "{name:?}");
        }
    });
}

fn real_store(options: StoreOptions) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path().join("data"), options).expect("it opens");
    (dir, store)
}

/// The two drivers are two ways to the same files.
#[test]
fn store_of_one_driver_is_read_by_the_other() {
    let options = StoreOptions { driver: DriverChoice::Posix, ..StoreOptions::default() };
    let (dir, store) = real_store(options);
    let log = store.log("events", 0).wait().expect("a log");
    for n in 0..20 {
        let record = NewRecord::value(format!("{n}"));
        log.append(record).wait().expect("taken").wait().expect("stored");
    }
    store.close().wait().expect("a clean stop");

    let store = Store::open(dir.path().join("data"), StoreOptions::default()).expect("it opens again");
    assert!(store.recovery().was_clean);
    let log = store.log("events", 0).wait().expect("a log");
    let read = log.read(Offset(19), 1).wait().expect("readable");
    assert_eq!(read.records[0].value.as_deref(), Some(&b"19"[..]));
}

#[test]
fn threads_append_read_follow_and_find_everything_after_a_clean_stop() {
    let options = StoreOptions { compression: Compression::Lz4, ..StoreOptions::default() };
    let (dir, store) = real_store(options.clone());
    let log = store.log("events", 3).wait().expect("a log");
    let follower = {
        let log = log.clone();
        std::thread::spawn(move || {
            log.wait_for(Offset(99)).wait().expect("it comes");
            log.read(Offset(99), 1).wait().expect("readable").records.remove(0)
        })
    };
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..50 {
                    let record = NewRecord::key_value(format!("{writer}"), format!("{n}"));
                    log.append(record).wait().expect("taken").wait().expect("stored");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("no panic");
    }
    let followed = follower.join().expect("no panic");
    assert_eq!(followed.offset, Offset(99));
    assert!(followed.key.is_some());
    assert_eq!(log.delete_before(Offset(10)).wait().expect("moved"), Offset(10));
    store.close().wait().expect("a clean stop");
    assert!(matches!(log.watermarks().wait(), Err(StoreError::Closed)));

    let store = Store::open(dir.path().join("data"), options).expect("it opens again");
    assert!(store.recovery().was_clean);
    assert_eq!(store.logs().wait().expect("a list"), [("events".to_owned(), 3)]);
    let log = store.log("events", 3).wait().expect("a log");
    let marks = log.watermarks().wait().expect("open");
    assert_eq!((marks.log_start_offset, marks.durable_offset), (Offset(10), Offset(200)));
    assert!(matches!(log.read(Offset(0), 1).wait(), Err(StoreError::Read(_))));
    store.delete(&log).wait().expect("deleted");
    assert!(store.logs().wait().expect("a list").is_empty());
}

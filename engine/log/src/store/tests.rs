//! The store's thread in the simulator, and a real one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use highwater_io::sim::{World, WorldConfig};
use highwater_io::{DriverChoice, Io, mailbox};
use highwater_model::Offset;
use highwater_model::compression::Compression;
use tokio::sync::Semaphore;

use super::serve::{self, Start};
use super::{Log, NewRecord, Shared, Store, StoreError, StoreOptions, Stored, Wait};
use crate::config::ShardConfig;

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
    let id = shared.call(move |serving| async move { serving.open_log(topic, 0, None).await });
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

#[test]
fn name_that_leads_elsewhere_is_refused() {
    highwater_io::sim::run(4, |io| async move {
        let shared = open(&io, small()).await;
        for name in ["", ".", "..", "../x", "a/b", "ä"] {
            let open = shared.call(move |serving| async move { serving.open_log(name, 0, None).await });
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

//! Promises of tasks, timers and the end of a shard.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use highwater_io::fs::{Durability, OpenOptions};
use highwater_io::{IoBuf, TimedOut, mailbox};

use crate::host::{Host, connected, listen};

const LONG: Duration = Duration::from_secs(3600);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Sets its flag when dropped.
struct Flag(Rc<Cell<bool>>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

pub(crate) fn spawned_task_runs_later_and_gives_its_output(host: Host) {
    host.one_shard(|io, _| async move {
        let ran = Rc::new(Cell::new(false));
        let task = io.spawn({
            let ran = Rc::clone(&ran);
            async move {
                ran.set(true);
                42
            }
        });
        assert!(!ran.get() && !task.is_finished(), "not before the current task yields");
        assert_eq!(task.await, 42);
        assert!(ran.get());
    });
}

pub(crate) fn dropped_task_is_cancelled(host: Host) {
    host.one_shard(|io, _| async move {
        let dropped = Rc::new(Cell::new(false));
        let flag = Flag(Rc::clone(&dropped));
        let task = io.spawn(async move {
            let _flag = flag;
            pending::<()>().await;
        });
        io.yield_now().await;
        drop(task);
        while !dropped.get() {
            io.yield_now().await;
        }
    });
}

pub(crate) fn detached_task_runs_on(host: Host) {
    host.one_shard(|io, _| async move {
        let (sender, mut receiver) = mailbox::channel(1);
        io.spawn({
            let io = io.clone();
            async move {
                io.sleep(millis(1)).await;
                sender.send("still here").await.expect("the receiver waits");
            }
        })
        .detach();
        assert_eq!(receiver.recv().await, Some("still here"));
    });
}

pub(crate) fn yield_lets_other_tasks_run(host: Host) {
    host.one_shard(|io, _| async move {
        let turns = Rc::new(Cell::new(0));
        let other = io.spawn({
            let (io, turns) = (io.clone(), Rc::clone(&turns));
            async move {
                for _ in 0..1000 {
                    turns.set(turns.get() + 1);
                    io.yield_now().await;
                }
            }
        });
        while !other.is_finished() {
            io.yield_now().await;
        }
        assert_eq!(turns.get(), 1000);
    });
}

pub(crate) fn sleeps_end_in_order_of_their_deadlines(host: Host) {
    host.one_shard(|io, _| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        let start = io.now();
        let tasks: Vec<_> = [50, 10, 30, 20, 40]
            .map(|delay| {
                let (io, order) = (io.clone(), Rc::clone(&order));
                io.clone().spawn(async move {
                    io.sleep_until(start + millis(delay)).await;
                    order.borrow_mut().push(delay);
                })
            })
            .into();
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30, 40, 50]);
    });
}

pub(crate) fn sleep_takes_at_least_its_time(host: Host) {
    host.one_shard(|io, _| async move {
        for delay in [0, 1, 15] {
            let start = io.now();
            io.sleep(millis(delay)).await;
            assert!(io.now().since(start) >= millis(delay));
        }
        let start = io.now();
        io.sleep_until(start).await;
    });
}

pub(crate) fn timeout_ends_what_takes_too_long(host: Host) {
    host.one_shard(|io, _| async move {
        let dropped = Rc::new(Cell::new(false));
        let flag = Flag(Rc::clone(&dropped));
        let start = io.now();
        let slow = async move {
            let _flag = flag;
            pending::<()>().await;
        };
        assert_eq!(io.timeout(millis(20), slow).await, Err(TimedOut));
        assert!(io.now().since(start) >= millis(20));
        assert!(dropped.get(), "what timed out is dropped");
        let accept = listen(&io).await;
        assert!(io.timeout(millis(5), accept.accept()).await.is_err());
    });
}

pub(crate) fn timeout_lets_pass_what_is_done(host: Host) {
    host.one_shard(|io, _| async move {
        assert_eq!(io.timeout(LONG, async { 7 }).await, Ok(7));
        let nap = io.sleep(millis(5));
        assert_eq!(io.timeout(LONG, nap).await, Ok(()));
        assert_eq!(io.timeout(Duration::ZERO, async { 8 }).await, Ok(8), "done at the first poll");
    });
}

pub(crate) fn dropped_sleep_does_not_disturb_others(host: Host) {
    host.one_shard(|io, _| async move {
        let start = io.now();
        let kept = io.spawn({
            let io = io.clone();
            async move { io.sleep_until(start + millis(30)).await }
        });
        for _ in 0..100 {
            let _ = io.timeout(Duration::ZERO, io.sleep_until(start + millis(30))).await;
        }
        kept.await;
        assert!(io.now().since(start) >= millis(30));
    });
}

pub(crate) fn random_numbers_differ(host: Host) {
    host.one_shard(|io, _| async move {
        assert_ne!(io.random_u64(), io.random_u64());
        assert_ne!(io.random_uuid(), io.random_uuid());
        let mut bytes = [0; 64];
        io.random_bytes(&mut bytes);
        assert_ne!(bytes, [0; 64]);
    });
}

pub(crate) fn panic_of_a_task_surfaces(host: Host) {
    let run = || {
        host.one_shard(|io, _| async move {
            io.spawn(async { panic!("on purpose") }).detach();
            pending::<()>().await;
        });
    };
    let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic is passed on");
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    assert!(text.is_some_and(|text| text.contains("on purpose")), "{text:?}");
}

/// Counts itself for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn end_drops_tasks_that_wait(host: Host) {
    let alive = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&alive);
    host.one_shard(move |io, _| {
        let alive = Arc::clone(&counted);
        async move {
            let (_sender, mut receiver) = mailbox::channel::<()>(1);
            let counted = Counted::new(&alive);
            io.spawn(async move {
                let _counted = counted;
                receiver.recv().await;
            })
            .detach();
            let counted = Counted::new(&alive);
            let nap = io.sleep(LONG);
            io.spawn(async move {
                let _counted = counted;
                nap.await;
            })
            .detach();
            let counted = Counted::new(&alive);
            io.spawn(async move {
                let _counted = counted;
                pending::<()>().await;
            })
            .detach();
            let never_polled = Counted::new(&alive);
            io.yield_now().await;
            io.spawn(async move { drop(never_polled) }).detach();
        }
    });
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

pub(crate) fn end_waits_for_requests_in_flight(host: Host) {
    host.one_shard(|io, dir| async move {
        let listener = listen(&io).await;
        io.spawn(async move { listener.accept().await.map(drop) }).detach();
        let (near, far) = connected(&io).await;
        let (near, far) = (Rc::new(near), Rc::new(far));
        io.spawn({
            let near = Rc::clone(&near);
            async move { near.recv().await.map(drop) }
        })
        .detach();
        io.spawn(async move { far.recv_into(IoBuf::with_capacity(100), 100).await.map(drop) }).detach();
        // More than any socket buffers: it waits for a receiver that does not come.
        io.spawn(async move { near.send(vec![vec![0; 64 << 20].into()]).await }).detach();
        let file = io.fs().open(dir.join("f"), OpenOptions::read_write().create()).await.expect("created");
        let file = Rc::new(file);
        for i in 0..20u64 {
            let file = Rc::clone(&file);
            io.spawn(async move {
                let mut data = IoBuf::with_capacity(1 << 16);
                data.set_len(1 << 16);
                let _ = file.write_at(vec![data.freeze()], i << 16, Durability::Sync).await;
                let _ = file.read_at(IoBuf::with_capacity(1 << 16), i << 16, 1 << 16).await;
                file.sync_all().await.map(drop)
            })
            .detach();
        }
        for _ in 0..3 {
            io.yield_now().await;
        }
    });
}

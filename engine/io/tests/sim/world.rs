//! Nodes, clocks, and how a run ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use highwater_io::fs::Durability;
use highwater_io::mailbox;
use highwater_io::sim::{
    Exit, Latency, MonoOrigin, NodeStatus, RunFailure, World, WorldConfig, run, run_with,
};
use highwater_io::{Io, MonoTime};

use crate::support::{CREATE, create, filled, outcomes};

#[test]
fn output_of_main_is_returned() {
    assert_eq!(run(1, |_| async { 7 }), 7);
}

#[test]
fn time_passes_only_virtually() {
    let config = WorldConfig { mono_origin: MonoOrigin::Shared, ..WorldConfig::default() };
    let started = std::time::Instant::now();
    let woken = run_with(1, config, |io| async move {
        let before = io.now();
        io.sleep(Duration::from_secs(3600)).await;
        let slept = io.now() - before;
        assert!(slept >= Duration::from_secs(3600) && slept < Duration::from_secs(3601));
        io.now()
    });
    assert!(woken >= MonoTime::from_nanos(3_600_000_000_000));
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn timeout_fires_before_a_longer_wait() {
    run(1, |io| async move {
        let waited = io.timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        assert!(waited.is_err());
        assert_eq!(io.timeout(Duration::from_millis(5), async { 3 }).await, Ok(3));
    });
}

#[test]
fn ready_tasks_run_in_many_orders() {
    let orders = outcomes(50, |seed| {
        run(seed, |io| async move {
            let order = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..3)
                .map(|index| {
                    let order = Rc::clone(&order);
                    io.spawn(async move { order.borrow_mut().push(index) })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            order.take()
        })
    });
    assert_eq!(orders.len(), 6, "all orders of three: {orders:?}");
}

#[test]
fn spawned_task_never_runs_at_once() {
    run(1, |io| async move {
        let ran = Rc::new(Cell::new(false));
        let flag = Rc::clone(&ran);
        let task = io.spawn(async move { flag.set(true) });
        assert!(!ran.get());
        task.await;
        assert!(ran.get());
    });
}

#[test]
fn shards_talk_through_mailboxes() {
    for seed in 0..20 {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("node");
        let (sender, receiver) = mailbox::channel::<u32>(2);
        let sum = Rc::new(Cell::new(0));
        let total = Rc::clone(&sum);
        world.start(node, vec![(Some(sender), None), (None, Some(receiver))], move |io, state| {
            let total = Rc::clone(&total);
            async move {
                match state {
                    (Some(sender), _) => {
                        assert_eq!(io.shard().0, 0);
                        for value in 1..=100 {
                            sender.send(value).await.expect("the receiver is there");
                        }
                    }
                    (_, Some(mut receiver)) => {
                        while let Some(value) = receiver.recv().await {
                            total.set(total.get() + value);
                        }
                    }
                    _ => unreachable!("each shard has a half"),
                }
            }
        });
        world.run().expect("the node ends");
        assert_eq!(sum.get(), 5050, "seed {seed}");
    }
}

#[test]
fn panic_is_reported_with_its_seed_and_node() {
    let mut world = World::new(4711, WorldConfig::default());
    let node = world.add_node("node");
    world.start(node, vec![()], |io, ()| async move {
        io.sleep(Duration::from_secs(1)).await;
        panic!("an invariant of {} broke", "ours");
    });
    let error = world.run().expect_err("the task panics");
    let message = "an invariant of ours broke".to_owned();
    assert_eq!(error.failure, RunFailure::Panicked { node, message });
    assert_eq!(world.status(node), NodeStatus::Down(Exit::Panicked));
    let text = error.to_string();
    assert!(text.contains("seed 4711") && text.contains("an invariant of ours broke"), "{text}");
    assert!(text.contains("Poll"), "the last events are there: {text}");
}

#[test]
fn deadlock_is_reported_as_stalled() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    world.start(node, vec![()], |_, ()| std::future::pending::<()>());
    assert_eq!(world.run().expect_err("nothing happens").failure, RunFailure::Stalled);
    world.run_for(Duration::from_secs(1)).expect("time may pass");
    assert!(world.is_up(node));
}

#[test]
fn endless_run_is_given_up() {
    let steps = WorldConfig { max_steps: 1000, ..WorldConfig::default() };
    let time = WorldConfig { max_time: Duration::from_secs(10), ..WorldConfig::default() };
    for config in [steps, time] {
        let mut world = World::new(1, config);
        let node = world.add_node("node");
        world.start(node, vec![()], |io, ()| async move {
            loop {
                io.sleep(Duration::from_millis(10)).await;
            }
        });
        assert_eq!(world.run().expect_err("it never ends").failure, RunFailure::Endless);
    }
}

#[test]
fn stop_resolves_on_every_shard_and_lets_each_end_in_its_way() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let ended = Rc::new(Cell::new(0));
    let count = Rc::clone(&ended);
    world.start(node, vec![0, 1, 2], move |io, shard| {
        let count = Rc::clone(&count);
        async move {
            io.stop_requested().await;
            io.sleep(Duration::from_millis(shard)).await;
            count.set(count.get() + 1);
        }
    });
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    assert_eq!(ended.get(), 0);
    world.stop(node);
    world.run().expect("the node ends");
    assert_eq!((ended.get(), world.status(node)), (3, NodeStatus::Down(Exit::Returned)));
}

#[test]
fn tasks_that_are_left_are_dropped_and_their_writes_drained() {
    for seed in 0..50 {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("node");
        world.start(node, vec![()], |io, ()| async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            let task = io.spawn(async move {
                file.write_at(vec![filled(1, 4096)], 0, Durability::Sync).await.expect("the disk is sound");
                unreachable!("its shard is gone by then");
            });
            task.detach();
            io.yield_now().await;
        });
        world.run().expect("the node ends");
        assert_eq!(world.disk_of(node).in_flight(), 0, "seed {seed}");
    }
}

#[test]
fn request_that_somebody_still_waits_for_fails_a_clean_end() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    type Kept = Rc<RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>>;
    let kept: Kept = Rc::default();
    let slot = Rc::clone(&kept);
    world.start(node, vec![()], move |io, ()| {
        let kept = Rc::clone(&slot);
        async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            let mut writing: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                drop(file.write_at(vec![filled(1, 4096)], 0, Durability::Plain).await);
            });
            assert!(io.timeout(Duration::ZERO, writing.as_mut()).await.is_err(), "a write takes longer");
            *kept.borrow_mut() = Some(writing);
        }
    });
    let error = world.run().expect_err("the write outlives its shard");
    assert_eq!(error.failure, RunFailure::InFlight { node, paths: vec!["/f".to_owned()] });
    drop(kept.take());
}

#[test]
fn paused_process_does_nothing_and_finds_its_timers_expired() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let ticks = Rc::new(Cell::new(0));
    let count = Rc::clone(&ticks);
    world.start(node, vec![()], move |io, ()| {
        let count = Rc::clone(&count);
        async move {
            loop {
                io.sleep(Duration::from_millis(100)).await;
                count.set(count.get() + 1);
            }
        }
    });
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    let before = ticks.get();
    assert!(before >= 9);
    world.pause(node);
    world.run_for(Duration::from_secs(30)).expect("nothing is wrong");
    assert_eq!(ticks.get(), before);
    world.resume(node);
    world.run_for(Duration::from_millis(50)).expect("nothing is wrong");
    assert_eq!(ticks.get(), before + 1, "the one that expired meanwhile");
}

#[test]
fn paused_process_does_not_run_what_is_ready() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let turns = Rc::new(Cell::new(0));
    let count = Rc::clone(&turns);
    world.start(node, vec![()], move |io, ()| {
        let count = Rc::clone(&count);
        async move {
            loop {
                io.yield_now().await;
                count.set(count.get() + 1);
            }
        }
    });
    world.run_for(Duration::from_millis(1)).expect("nothing is wrong");
    world.pause(node);
    let before = turns.get();
    world.run_for(Duration::from_millis(1)).expect("nothing is wrong");
    assert!(before > 0 && turns.get() == before);
    world.resume(node);
    world.run_until(|_| turns.get() > before).expect("it goes on");
}

#[test]
fn clocks_are_each_nodes_own() {
    let mut world = World::new(1, WorldConfig::default());
    let nodes = [world.add_node("a"), world.add_node("b")];
    let clocks = Rc::new(RefCell::new(Vec::new()));
    for node in nodes {
        let clocks = Rc::clone(&clocks);
        world.start(node, vec![()], move |io, ()| {
            let clocks = Rc::clone(&clocks);
            async move { clocks.borrow_mut().push(io.now().as_nanos() / 1_000_000_000) }
        });
    }
    world.run().expect("the nodes end");
    let clocks = clocks.take();
    assert_ne!(clocks[0], clocks[1], "a monotonic time means nothing to another process");
    let wall = |world: &World| nodes.map(|node| world.wall_time(node).as_millis());
    let before = wall(&world);
    assert!((before[0] - before[1]).abs() <= 101);
    world.jump_wall_clock(nodes[0], -3_600_000);
    let after = wall(&world);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [-3_600_000, 0]);
}

#[test]
fn random_numbers_follow_from_the_seed() {
    let draw = |seed| run(seed, |io: Io| async move { (io.random_u64(), io.random_uuid()) });
    assert_eq!(draw(5), draw(5));
    assert_ne!(draw(5), draw(6));
}

#[test]
fn slow_steps_are_possible() {
    let poll = Latency::micros(1_000, 1_000, 1_000);
    let config = WorldConfig { poll, ..WorldConfig::default() };
    run_with(1, config, |io| async move {
        let before = io.now();
        for _ in 0..100 {
            io.yield_now().await;
        }
        assert!(io.now() - before >= Duration::from_millis(100));
    });
}

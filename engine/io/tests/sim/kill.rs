//! What the death of a process leaves, and what it must not do any more.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use highwater_io::Io;
use highwater_io::fs::{Durability, File};
use highwater_io::sim::{Exit, NodeStatus, World, WorldConfig};

use crate::support::{CREATE, create, filled, outcomes, read, run_on, world_after, write};

#[test]
fn completed_writes_survive_a_kill_but_not_a_later_power_cut() {
    let found = outcomes(100, |seed| {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("node");
        let written = Rc::new(Cell::new(false));
        let flag = Rc::clone(&written);
        world.start(node, vec![()], move |io, ()| {
            let written = Rc::clone(&flag);
            async move {
                let file = create(&io.fs(), "/f", CREATE).await;
                write(&file, 0, filled(1, 512)).await;
                written.set(true);
                io.stop_requested().await;
            }
        });
        world.run_until(|_| written.get()).expect("it is written");
        world.kill(node);
        assert_eq!(world.status(node), NodeStatus::Down(Exit::Killed));
        let disk = world.disk_of(node);
        assert!(disk.snapshot_files()["/f"] == filled(1, 512), "seed {seed}: the page cache survives");
        world.power_cut(node);
        disk.snapshot_files()["/f"] == filled(1, 512)
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

/// A world in which a write of a locked file was in flight when its process was killed.
fn killed_while_writing(seed: u64) -> (World, highwater_io::sim::NodeId) {
    let (mut world, node) = world_after(seed, |io| async move {
        let file = create(&io.fs(), "/f", CREATE.direct()).await;
        write(&file, 0, filled(1, 4096)).await;
        file.sync_data().await.expect("the disk is sound");
    });
    let locked = Rc::new(Cell::new(false));
    let flag = Rc::clone(&locked);
    world.start(node, vec![()], move |io, ()| {
        let locked = Rc::clone(&flag);
        async move {
            let file = io.fs().open("/f", CREATE.direct()).await.expect("it is there");
            locked.set(file.try_lock().await.expect("it is open"));
            write(&file, 0, filled(2, 4096)).await;
        }
    });
    let disk = world.disk_of(node);
    let opened = disk.events() + 2;
    world.run_until(|_| disk.events() == opened + 1).expect("the write is submitted");
    assert!(locked.get());
    world.kill(node);
    (world, node)
}

#[test]
fn write_of_a_dead_process_lands_after_the_restart_while_its_lock_holds() {
    let found = outcomes(200, |seed| {
        let (mut world, node) = killed_while_writing(seed);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        run_on(&mut world, node, move |io| {
            let seen = Rc::clone(&log);
            async move {
                let file = io.fs().open("/f", CREATE.direct()).await.expect("it is there");
                // A process that does not wait for the lock reads what then changes under it.
                let before = read(&file, 0, 4096).await;
                while !file.try_lock().await.expect("it is open") {
                    io.sleep(Duration::from_millis(1)).await;
                }
                let locked = read(&file, 0, 4096).await;
                io.sleep(Duration::from_secs(60)).await;
                let later = read(&file, 0, 4096).await;
                assert!(locked == later, "with the lock taken nothing lands any more");
                seen.borrow_mut().extend([before == filled(1, 4096), later == filled(1, 4096)]);
            }
        });
        seen.take()
    });
    assert!(found.contains_key(&vec![true, false]), "it landed after the restart: {found:?}");
    assert!(found.contains_key(&vec![true, true]), "it never landed: {found:?}");
}

#[test]
fn write_of_a_dead_process_is_held_by_a_stalled_disk() {
    let found = outcomes(50, |seed| {
        let (mut world, node) = killed_while_writing(seed);
        let disk = world.disk_of(node);
        let in_flight = disk.in_flight();
        disk.stall();
        world.run_for(Duration::from_secs(600)).expect("nothing is wrong");
        assert_eq!(disk.in_flight(), in_flight, "seed {seed}: it does not land");
        disk.resume();
        world.run_for(Duration::from_secs(600)).expect("nothing is wrong");
        assert_eq!(disk.in_flight(), 0, "seed {seed}");
        (in_flight, disk.snapshot_files()["/f"] == filled(2, 4096))
    });
    assert!(found.contains_key(&(1, true)) && !found.contains_key(&(1, false)), "{found:?}");
}

#[test]
fn write_of_a_dead_process_is_part_of_a_power_cut() {
    let found = outcomes(200, |seed| {
        let (mut world, node) = killed_while_writing(seed);
        let disk = world.disk_of(node);
        let in_flight = disk.in_flight();
        world.power_cut(node);
        assert_eq!(disk.in_flight(), 0);
        let content = disk.snapshot_files().remove("/f").expect("the name was synced");
        (in_flight, content.contains(&1) && content.contains(&2))
    });
    assert!(found.contains_key(&(1, true)) && found.contains_key(&(1, false)), "{found:?}");
}

#[test]
fn cached_write_and_rename_in_flight_are_decided_at_the_kill() {
    let found = outcomes(200, |seed| {
        let (mut world, node) = world_after(seed, |io| async move {
            create(&io.fs(), "/f", CREATE).await;
        });
        world.start(node, vec![()], |io, ()| async move {
            io.fs().rename("/f", "/g").await.expect("it is there");
        });
        let disk = world.disk_of(node);
        let events = disk.events();
        world.run_until(|_| disk.events() > events).expect("the rename is submitted");
        world.kill(node);
        let after = disk.file_lengths();
        world.run_for(Duration::from_secs(60)).expect("nothing is wrong");
        assert_eq!(disk.file_lengths(), after, "seed {seed}");
        after.into_keys().collect::<Vec<_>>()
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

/// Whose destructor does all that a destructor could.
struct Meddler {
    io: Io,
    file: Rc<File>,
    ran: Rc<Cell<bool>>,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.ran.set(true);
        let (fs, mut cx) = (self.io.fs(), Context::from_waker(Waker::noop()));
        for polled_once in [
            pin!(self.file.write_at(vec![filled(8, 512)], 0, Durability::Plain))
                as Pin<&mut dyn Future<Output = _>>,
            pin!(fs.remove_file("/f")),
        ] {
            assert!(polled_once.poll(&mut cx).is_pending());
        }
        let (io, file) = (self.io.clone(), Rc::clone(&self.file));
        self.io
            .spawn(async move {
                write(&file, 0, filled(9, 512)).await;
                io.fs().remove_file("/f").await.expect("it is there");
            })
            .detach();
    }
}

#[test]
fn destructors_of_a_dead_process_have_no_effect() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let ran = Rc::new(Cell::new(false));
    let flag = Rc::clone(&ran);
    world.start(node, vec![()], move |io, ()| {
        let ran = Rc::clone(&flag);
        async move {
            let file = Rc::new(create(&io.fs(), "/f", CREATE).await);
            write(&file, 0, filled(1, 512)).await;
            let meddler = Meddler { io: io.clone(), file, ran };
            io.stop_requested().await;
            drop(meddler);
        }
    });
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    world.kill(node);
    assert!(ran.get(), "tasks are dropped, so that nothing is leaked");
    world.run_for(Duration::from_secs(10)).expect("nothing is wrong");
    assert!(world.disk_of(node).snapshot_files()["/f"] == filled(1, 512));
}

#[test]
fn exit_now_ends_the_process_in_its_tracks() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let ran = Rc::new(Cell::new(false));
    let flag = Rc::clone(&ran);
    world.start(node, vec![0, 1], move |io, shard| {
        let ran = Rc::clone(&flag);
        async move {
            let file = Rc::new(create(&io.fs(), "/f", CREATE).await);
            let _meddler = Meddler { io: io.clone(), file, ran };
            if shard == 1 {
                io.exit_now(70);
            }
            io.stop_requested().await;
        }
    });
    world.run().expect("the node ends");
    assert_eq!(world.status(node), NodeStatus::Down(Exit::Exited(70)));
    assert!(ran.get());
    assert_eq!(world.disk_of(node).file_lengths()["/f"], 0);
}

#[test]
fn dead_process_releases_its_lock_when_nothing_is_in_flight() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    for _ in 0..3 {
        let locked = Rc::new(Cell::new(None));
        let slot = Rc::clone(&locked);
        world.start(node, vec![()], move |io, ()| {
            let locked = Rc::clone(&slot);
            async move {
                let file = create(&io.fs(), "/lock", CREATE).await;
                locked.set(Some(file.try_lock().await.expect("it is open")));
                io.stop_requested().await;
            }
        });
        world.run_until(|_| locked.get().is_some()).expect("it tries");
        assert_eq!(locked.get(), Some(true));
        world.kill(node);
    }
}

#[test]
fn nodes_on_one_disk_contend_for_locks_and_lose_power_together() {
    let mut world = World::new(1, WorldConfig::default());
    let disk = world.add_disk();
    let nodes = [world.add_node_on("a", disk), world.add_node_on("b", disk)];
    let locks = Rc::new(Cell::new(0));
    for node in nodes {
        let locks = Rc::clone(&locks);
        world.start(node, vec![()], move |io, ()| {
            let locks = Rc::clone(&locks);
            async move {
                let file = create(&io.fs(), "/lock", CREATE).await;
                if file.try_lock().await.expect("it is open") {
                    locks.set(locks.get() + 1);
                }
                io.stop_requested().await;
            }
        });
    }
    world.run_for(Duration::from_secs(1)).expect("nothing is wrong");
    assert_eq!(locks.get(), 1);
    world.power_cut(nodes[0]);
    assert_eq!(nodes.map(|node| world.status(node)), [NodeStatus::Down(Exit::PowerCut); 2]);
}

#[test]
fn every_crash_point_of_a_durable_append_keeps_what_was_acknowledged() {
    // The pattern that storage code is tested with: run once to learn the number of events, then cut at each.
    let append = |io: Io, acknowledged: Rc<Cell<u8>>| async move {
        let file = create(&io.fs(), "/log", CREATE.direct()).await;
        for value in 1..=4_u8 {
            let position = u64::from(value - 1) * 4096;
            let done = file.write_at(vec![filled(value, 4096)], position, Durability::Sync).await;
            done.expect("the disk is sound");
            acknowledged.set(value);
        }
    };
    for seed in 0..10 {
        let run = |cut: Option<u64>| {
            let mut world = World::new(seed, WorldConfig::default());
            let node = world.add_node("node");
            let acknowledged = Rc::new(Cell::new(0));
            world.start(node, vec![Rc::clone(&acknowledged)], append);
            if let Some(event) = cut {
                world.disk_of(node).cut_power_at_event(event);
            }
            world.run().expect("the node ends");
            (world.disk_of(node), acknowledged.get())
        };
        let (disk, _) = run(None);
        for event in 1..=disk.events() {
            let (disk, acknowledged) = run(Some(event));
            let log = disk.snapshot_files().remove("/log").unwrap_or_default();
            for value in 1..=acknowledged {
                let block = &log[usize::from(value - 1) * 4096..][..4096];
                assert!(block == filled(value, 4096), "seed {seed}, event {event}, append {value}");
            }
        }
    }
}

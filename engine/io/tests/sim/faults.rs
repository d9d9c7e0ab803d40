//! Disks that misbehave.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use highwater_io::IoBuf;
use highwater_io::fs::{Durability, OpenOptions};
use highwater_io::sim::{DiskOp, Fault, FaultEffect, World, WorldConfig};

use crate::support::{CREATE, create, filled, outcomes, read, run_on, world_after, write};

/// A world with a disk that misbehaves as `fault` says.
fn faulty(seed: u64, fault: Fault) -> (World, highwater_io::sim::NodeId) {
    let mut world = World::new(seed, WorldConfig::default());
    let node = world.add_node("node");
    world.disk_of(node).inject(fault);
    (world, node)
}

#[test]
fn failed_flush_forgets_what_it_should_have_written() {
    // The story is that of fsync in many databases: it fails, is retried, succeeds, and the data is gone.
    let found = outcomes(100, |seed| {
        let (mut world, node) = faulty(seed, Fault::eio(DiskOp::Flush).on("/f").times(1));
        run_on(&mut world, node, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            write(&file, 0, filled(1, 512)).await;
            let failed = file.sync_data().await.expect_err("the first flush fails");
            assert_eq!((failed.errno(), failed.path.to_str()), (Some(libc::EIO), Some("/f")));
            file.sync_data().await.expect("the second one says that all is well");
        });
        world.power_cut(node);
        let disk = world.disk_of(node);
        assert_eq!(disk.snapshot_files(), disk.durable_files(), "seed {seed}: what is left is on the medium");
        world.disk_of(node).snapshot_files()["/f"] == filled(1, 512)
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn lying_flush_loses_what_it_said_was_durable() {
    for durability in [Durability::Plain, Durability::Sync] {
        let found = outcomes(100, |seed| {
            let (mut world, node) = faulty(seed, Fault::lying_flush().on("/f"));
            run_on(&mut world, node, move |io| async move {
                let file = create(&io.fs(), "/f", CREATE).await;
                file.write_at(vec![filled(1, 512)], 0, durability).await.expect("it says that all is well");
                file.sync_data().await.expect("it says that all is well");
            });
            world.power_cut(node);
            world.disk_of(node).snapshot_files()["/f"] == filled(1, 512)
        });
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

#[test]
fn failed_write_has_written_some_beginning() {
    let found = outcomes(100, |seed| {
        let (mut world, node) = faulty(seed, Fault::eio(DiskOp::Write).on("journal").skip(1).times(1));
        let written = Rc::new(Cell::new(0));
        let result = Rc::clone(&written);
        run_on(&mut world, node, move |io| {
            let result = Rc::clone(&result);
            async move {
                let file = create(&io.fs(), "/journal", CREATE.direct()).await;
                write(&file, 0, filled(1, 8192)).await;
                let failed = file.write_at(vec![filled(2, 8192)], 0, Durability::Plain).await;
                let failed = failed.expect_err("the second write fails");
                assert_eq!((failed.errno(), failed.position_bytes), (Some(libc::EIO), Some(0)));
                let content = read(&file, 0, 8192).await;
                let changed = content.iter().take_while(|&&byte| byte == 2).count();
                assert!(content[changed..].iter().all(|&byte| byte == 1));
                result.set(changed);
            }
        });
        written.get()
    });
    assert!(found.len() > 5 && found.keys().all(|count| count % 512 == 0), "{found:?}");
}

#[test]
fn lost_write_reports_success() {
    let (mut world, node) = faulty(1, Fault::new(DiskOp::Write, FaultEffect::Lie).skip(1).times(1));
    run_on(&mut world, node, |io| async move {
        let file = create(&io.fs(), "/f", CREATE).await;
        for value in 1..=3 {
            write(&file, u64::from(value - 1) * 512, filled(value, 512)).await;
        }
        let content = read(&file, 0, 2000).await;
        assert!(content == [filled(1, 512), filled(0, 512), filled(3, 512)].concat());
    });
}

#[test]
fn fault_by_chance_hits_some() {
    let (mut world, node) = faulty(1, Fault::eio(DiskOp::Write).one_in(4));
    run_on(&mut world, node, |io| async move {
        let file = create(&io.fs(), "/f", CREATE).await;
        let mut failures = 0;
        for _ in 0..200 {
            let done = file.write_at(vec![filled(1, 16)], 0, Durability::Plain).await;
            failures += u32::from(done.is_err());
        }
        assert!((20..90).contains(&failures), "{failures} of 200");
    });
}

#[test]
fn name_faults_leave_the_names_as_they_were() {
    let (mut world, node) = faulty(1, Fault::eio(DiskOp::Rename).times(1));
    world.disk_of(node).inject(Fault::new(DiskOp::Create, FaultEffect::Errno(libc::ENOSPC)).on("/g"));
    world.disk_of(node).inject(Fault::eio(DiskOp::SyncDirectory).skip(1));
    run_on(&mut world, node, |io| async move {
        let fs = io.fs();
        create(&fs, "/f", CREATE).await;
        fs.rename("/f", "/h").await.expect_err("the first rename fails");
        assert!(fs.exists("/f").await.expect("the disk is sound"));
        assert!(fs.open("/g", CREATE).await.expect_err("it cannot be created").is_out_of_space());
        fs.sync_dir("/").await.expect_err("the second one fails");
    });
}

#[test]
fn unreadable_sector_fails_until_it_is_written() {
    let (mut world, node) = world_after(1, |io| async move {
        let file = create(&io.fs(), "/f", CREATE.direct()).await;
        write(&file, 0, filled(1, 16_384)).await;
    });
    world.disk_of(node).make_unreadable("/f", 5000..5001);
    run_on(&mut world, node, |io| async move {
        let file = io.fs().open("/f", CREATE.direct()).await.expect("it is there");
        let attempt = |position| file.read_at(IoBuf::with_capacity(4096), position, 4096);
        attempt(0).await.expect("the first block is sound");
        let failed = attempt(4096).await.expect_err("the second is not");
        assert_eq!((failed.errno(), failed.position_bytes), (Some(libc::EIO), Some(4096)));
        write(&file, 4096, filled(2, 4096)).await;
        attempt(4096).await.expect("it was written again");
    });
}

#[test]
fn rot_changes_every_byte_of_its_range_and_no_other() {
    let (mut world, node) = world_after(1, |io| async move {
        let file = create(&io.fs(), "/f", CREATE).await;
        write(&file, 0, filled(9, 10_000)).await;
        file.sync_all().await.expect("the disk is sound");
    });
    world.disk_of(node).corrupt("/f", 4000..4200);
    for _ in 0..2 {
        let content = world.disk_of(node).snapshot_files().remove("/f").expect("it is there");
        let rotten: Vec<usize> = (0..content.len()).filter(|&at| content[at] != 9).collect();
        assert_eq!(rotten, (4000..4200).collect::<Vec<_>>());
        assert!(world.disk_of(node).durable_files()["/f"] == content, "the medium is what rots");
        world.power_cut(node);
    }
}

#[test]
fn stalled_disk_completes_nothing_until_it_resumes() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    world.start(node, vec![()], move |io, ()| {
        let done = Rc::clone(&flag);
        async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 4096)).await;
            done.set(true);
        }
    });
    world.disk_of(node).stall();
    world.run_for(Duration::from_secs(60)).expect("nothing is wrong");
    assert!(!done.get() && world.is_up(node));
    world.disk_of(node).resume();
    world.run().expect("the node ends");
    assert!(done.get());
}

#[test]
fn delayed_operation_takes_that_much_longer() {
    let delay = FaultEffect::Delay(Duration::from_secs(3));
    let (mut world, node) = faulty(1, Fault::new(DiskOp::Read, delay).times(1));
    run_on(&mut world, node, |io| async move {
        let file = create(&io.fs(), "/f", CREATE).await;
        let before = io.now();
        read(&file, 0, 10).await;
        assert!(io.now() - before >= Duration::from_secs(3));
        let before = io.now();
        read(&file, 0, 10).await;
        assert!(io.now() - before < Duration::from_secs(1));
    });
}

#[test]
fn lifted_fault_hits_no_more() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("node");
    let disk = world.disk_of(node);
    let fault = disk.inject(Fault::eio(DiskOp::Any));
    run_on(&mut world, node, |io| async move {
        io.fs().open("/f", CREATE).await.expect_err("everything fails");
    });
    assert_eq!(disk.fired(fault), 1);
    disk.lift(fault);
    run_on(&mut world, node, |io| async move {
        io.fs().open("/f", OpenOptions::read_write().create()).await.expect("nothing fails any more");
    });
}

//! What a power cut may leave.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use highwater_io::fs::{Durability, OpenOptions};
use highwater_io::sim::{DiskConfig, Exit, NodeStatus, TornUnit, World, WorldConfig};

use crate::support::{
    CREATE, after_power_cut, create, filled, outcomes, read, run_on, world_after, world_after_with, write,
};

const SEEDS: u64 = 200;

fn with_disk(disk: DiskConfig) -> WorldConfig {
    WorldConfig { disk, ..WorldConfig::default() }
}

#[test]
fn unsynced_write_is_lost_or_kept() {
    for options in [CREATE, CREATE.direct()] {
        let found = outcomes(SEEDS, |seed| {
            let (world, node) = world_after(seed, move |io| async move {
                let file = create(&io.fs(), "/f", options).await;
                write(&file, 0, filled(1, 4096)).await;
                file.sync_data().await.expect("the disk is sound");
                write(&file, 0, filled(2, 4096)).await;
            });
            let content = after_power_cut(world, node, "/f").expect("the name was synced");
            content.iter().copied().collect::<BTreeSet<u8>>()
        });
        let sets: Vec<Vec<u8>> = found.keys().map(|set| set.iter().copied().collect()).collect();
        assert_eq!(sets, [vec![1], vec![1, 2], vec![2]], "lost, torn and kept: {found:?}");
    }
}

#[test]
fn synced_write_survives() {
    for options in [CREATE, CREATE.direct()] {
        for seed in 0..SEEDS {
            let (world, node) = world_after(seed, move |io| async move {
                let file = create(&io.fs(), "/f", options).await;
                write(&file, 0, filled(1, 12_288)).await;
                write(&file, 4096, filled(2, 4096)).await;
                file.sync_data().await.expect("the disk is sound");
            });
            let content = after_power_cut(world, node, "/f").expect("the name was synced");
            let expected = [filled(1, 4096), filled(2, 4096), filled(1, 4096)].concat();
            assert!(content == expected, "seed {seed}");
        }
    }
}

#[test]
fn flush_of_one_file_does_not_cover_another() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let a = create(&io.fs(), "/a", CREATE).await;
            let b = create(&io.fs(), "/b", CREATE).await;
            write(&a, 0, filled(1, 512)).await;
            write(&b, 0, filled(1, 512)).await;
            b.sync_all().await.expect("the disk is sound");
        });
        let a = after_power_cut(world, node, "/a").expect("the name was synced");
        a.first().copied()
    });
    assert!(found.contains_key(&Some(1)) && found.contains_key(&None), "{found:?}");
}

#[test]
fn flush_does_not_cover_a_write_that_completed_after_it_was_asked_for() {
    // The story: a group is submitted, the flush of the previous one is asked for while it is in flight, and the
    // flush's completion is taken for both.
    let found = outcomes(SEEDS, |seed| {
        let early = Rc::new(Cell::new(false));
        let flag = Rc::clone(&early);
        let (world, node) = world_after(seed, move |io| {
            let early = Rc::clone(&flag);
            async move {
                let file = Rc::new(create(&io.fs(), "/f", CREATE.direct()).await);
                write(&file, 0, filled(1, 4096)).await;
                file.sync_data().await.expect("the disk is sound");
                let written = Rc::new(Cell::new(false));
                let (other, flag) = (Rc::clone(&file), Rc::clone(&written));
                let writing = io.spawn(async move {
                    write(&other, 0, filled(2, 4096)).await;
                    flag.set(true);
                });
                io.yield_now().await;
                file.sync_data().await.expect("the disk is sound");
                early.set(written.get());
                writing.await;
            }
        });
        // Whether the write completed before the flush did, and what is left.
        (early.get(), after_power_cut(world, node, "/f").expect("the name was synced")[0])
    });
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [(false, 1), (false, 2), (true, 1), (true, 2)]);
}

#[test]
fn directory_flush_does_not_cover_a_name_that_came_after_it_was_asked_for() {
    let found = outcomes(SEEDS, |seed| {
        let early = Rc::new(Cell::new(false));
        let flag = Rc::clone(&early);
        let (world, node) = world_after(seed, move |io| {
            let early = Rc::clone(&flag);
            async move {
                let created = Rc::new(Cell::new(false));
                let (other, flag) = (io.clone(), Rc::clone(&created));
                let creating = io.spawn(async move {
                    other.fs().open("/f", CREATE).await.expect("a fresh disk takes a file");
                    flag.set(true);
                });
                io.yield_now().await;
                io.fs().sync_dir("/").await.expect("the disk is sound");
                early.set(created.get());
                creating.await;
            }
        });
        (early.get(), after_power_cut(world, node, "/f").is_some())
    });
    assert!(found.contains_key(&(true, false)) && found.contains_key(&(true, true)), "{found:?}");
}

#[test]
fn durable_write_covers_itself_and_nothing_else() {
    for options in [CREATE, CREATE.direct()] {
        let found = outcomes(SEEDS, |seed| {
            let (world, node) = world_after(seed, move |io| async move {
                let file = create(&io.fs(), "/f", options).await;
                write(&file, 0, filled(1, 4096)).await;
                let durable = vec![filled(2, 4096)];
                file.write_at(durable, 4096, Durability::Sync).await.expect("the disk is sound");
            });
            let content = after_power_cut(world, node, "/f").expect("the name was synced");
            assert_eq!(content.len(), 8192, "seed {seed}: the length was needed to find the bytes");
            assert!(content[4096..] == filled(2, 4096), "seed {seed}");
            content[0] == 1
        });
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

#[test]
fn durable_write_is_not_undone_by_a_flush_that_covers_an_older_one() {
    for seed in 0..SEEDS {
        let (world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 8192)).await;
            file.write_at(vec![filled(2, 4096)], 0, Durability::Sync).await.expect("the disk is sound");
            file.sync_data().await.expect("the disk is sound");
        });
        let content = after_power_cut(world, node, "/f").expect("the name was synced");
        assert!(content == [filled(2, 4096), filled(1, 4096)].concat(), "seed {seed}");
    }
}

#[test]
fn durable_write_after_a_truncation_survives_with_the_truncation() {
    for seed in 0..SEEDS {
        let (world, node) = world_after(seed, move |io| async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 16_384)).await;
            file.sync_data().await.expect("the disk is sound");
            file.set_len(4096).await.expect("the disk is sound");
            file.set_len(16_384).await.expect("the disk is sound");
            file.write_at(vec![filled(2, 4096)], 8192, Durability::Sync).await.expect("the disk is sound");
            // A flush replays what was older than the durable write, and must not undo it.
            if seed % 2 == 0 {
                file.sync_data().await.expect("the disk is sound");
            }
        });
        let content = after_power_cut(world, node, "/f").expect("the name was synced");
        assert!(content[8192..12_288] == filled(2, 4096), "seed {seed}");
        assert!(
            content[4096..8192] == filled(0, 4096),
            "seed {seed}: the truncation is needed for the write"
        );
    }
}

#[test]
fn name_and_content_are_durable_each_by_itself() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let file = io.fs().open("/f", CREATE).await.expect("a fresh disk takes a file");
            write(&file, 0, filled(1, 512)).await;
            file.sync_all().await.expect("the disk is sound");
        });
        after_power_cut(world, node, "/f").map(|content| content == filled(1, 512))
    });
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        [&None, &Some(true)],
        "lost whole or there whole: {found:?}"
    );
}

#[test]
fn synced_name_of_an_unsynced_file_shows_any_length_it_had() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            write(&file, 0, filled(1, 512)).await;
            write(&file, 512, filled(1, 512)).await;
        });
        after_power_cut(world, node, "/f").expect("the name was synced").len()
    });
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 512, 1024]);
}

#[test]
fn bytes_that_a_file_grew_over_are_zeros_garbage_or_written() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            write(&file, 0, filled(1, 4096)).await;
        });
        let content = after_power_cut(world, node, "/f").expect("the name was synced");
        content.chunks(512).map(kind_of).max()
    });
    assert!(found.contains_key(&Some(0)) && found.contains_key(&Some(2)), "zeros and garbage: {found:?}");
}

fn kind_of(sector: &[u8]) -> u8 {
    match sector {
        _ if sector.iter().all(|&byte| byte == 0) => 0,
        _ if sector.iter().all(|&byte| byte == 1) => 1,
        _ => 2,
    }
}

#[test]
fn allocated_space_never_shows_garbage() {
    for seed in 0..SEEDS {
        let (world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            file.allocate(0, 1 << 20).await.expect("there is space");
        });
        let content = after_power_cut(world, node, "/f").expect("the name was synced");
        assert!(content.iter().all(|&byte| byte == 0), "seed {seed}");
        assert!(content.is_empty() || content.len() == 1 << 20, "seed {seed}");
    }
}

#[test]
fn unsynced_truncation_is_lost_or_kept_with_what_came_after() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            write(&file, 0, filled(1, 8192)).await;
            file.sync_data().await.expect("the disk is sound");
            file.set_len(100).await.expect("the disk is sound");
            write(&file, 4096, filled(2, 512)).await;
        });
        let content = after_power_cut(world, node, "/f").expect("the name was synced");
        if content.len() > 4096 && content[4096] == 2 {
            assert!(
                content[100..4096].iter().all(|&byte| byte == 0),
                "seed {seed}: cut before it was extended"
            );
        }
        (content.len(), content.get(4096).copied())
    });
    let seen: Vec<_> = found.keys().copied().collect();
    assert!(seen.contains(&(8192, Some(1))), "nothing: {seen:?}");
    assert!(seen.contains(&(100, None)), "the truncation alone: {seen:?}");
    assert!(seen.contains(&(4608, Some(2))), "everything: {seen:?}");
    assert!(
        !seen.contains(&(8192, Some(2))),
        "a write into blocks that only the lost truncation freed: {seen:?}"
    );
}

#[test]
fn truncation_that_is_lost_gives_everything_back() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            write(&file, 0, filled(1, 20_480)).await;
            file.sync_data().await.expect("the disk is sound");
            file.set_len(0).await.expect("the disk is sound");
            file.set_len(20_480).await.expect("the disk is sound");
        });
        after_power_cut(world, node, "/f").expect("the name was synced")
    });
    let expected = [vec![], vec![0; 20_480], vec![1; 20_480]];
    assert!(found.keys().cloned().collect::<Vec<_>>() == expected, "{} outcomes", found.len());
}

#[test]
fn sectors_tear_at_the_configured_unit() {
    for (torn_unit, unit) in [(TornUnit::Sector512, 512), (TornUnit::Block4096, 4096)] {
        let config = with_disk(DiskConfig { torn_unit, ..DiskConfig::default() });
        let found = outcomes(SEEDS, |seed| {
            let (world, node) = world_after_with(seed, config.clone(), |io| async move {
                let file = create(&io.fs(), "/f", CREATE.direct()).await;
                write(&file, 0, filled(1, 16_384)).await;
                file.sync_data().await.expect("the disk is sound");
                write(&file, 0, filled(2, 16_384)).await;
            });
            let content = after_power_cut(world, node, "/f").expect("the name was synced");
            let uniform = |block: &[u8]| block.iter().all(|&byte| byte == block[0]);
            assert!(content.chunks(unit).all(uniform), "seed {seed}");
            content.chunks(4096).all(uniform)
        });
        assert_eq!(found.contains_key(&false), unit == 512, "{found:?}");
    }
}

#[test]
fn shorn_block_damages_durable_neighbours_only_within_its_block() {
    let disk =
        DiskConfig { torn_unit: TornUnit::ShornBlock4096, direct_alignment: 512, ..DiskConfig::default() };
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after_with(seed, with_disk(disk.clone()), |io| async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 8192)).await;
            file.sync_data().await.expect("the disk is sound");
            write(&file, 512, filled(2, 512)).await;
        });
        let content = after_power_cut(world, node, "/f").expect("the name was synced");
        assert!(content[4096..] == filled(1, 4096), "seed {seed}: another block is safe");
        content[..512] == filled(1, 512)
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn write_in_flight_when_the_power_goes_may_be_there_in_part() {
    let found = outcomes(SEEDS, |seed| {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("node");
        run_on(&mut world, node, |io| async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 4096)).await;
            file.sync_data().await.expect("the disk is sound");
        });
        world.start(node, vec![()], |io, ()| async move {
            let file = io.fs().open("/f", CREATE.direct()).await.expect("it is there");
            write(&file, 0, filled(2, 4096)).await;
        });
        let disk = world.disk_of(node);
        let submitted = disk.events() + 2;
        disk.cut_power_at_event(submitted + 1);
        world.run_until(|world| !world.is_up(node)).expect("the power goes");
        assert_eq!(world.status(node), NodeStatus::Down(Exit::PowerCut));
        disk.snapshot_files()["/f"].iter().copied().collect::<BTreeSet<u8>>()
    });
    assert_eq!(found.len(), 3, "not, in part, whole: {found:?}");
}

#[test]
fn sector_that_was_being_written_may_become_unreadable() {
    let disk = DiskConfig { unreadable_after_cut_per_mille: 300, ..DiskConfig::default() };
    let found = outcomes(100, |seed| {
        let mut world = World::new(seed, with_disk(disk.clone()));
        let node = world.add_node("node");
        run_on(&mut world, node, |io| async move {
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 8192)).await;
            file.sync_data().await.expect("the disk is sound");
        });
        world.start(node, vec![()], |io, ()| async move {
            let file = io.fs().open("/f", CREATE.direct()).await.expect("it is there");
            write(&file, 4096, filled(2, 4096)).await;
        });
        let disk = world.disk_of(node);
        disk.cut_power_at_event(disk.events() + 3);
        world.run_until(|world| !world.is_up(node)).expect("the power goes");
        readable(&mut world, node)
    });
    assert!(found.keys().all(|&(first, _)| first), "what was not being written can be read");
    assert!(found.contains_key(&(true, false)) && found.contains_key(&(true, true)), "{found:?}");
}

fn readable(world: &mut World, node: highwater_io::sim::NodeId) -> (bool, bool) {
    let result = Rc::new(Cell::new((false, false)));
    let slot = Rc::clone(&result);
    run_on(world, node, move |io| {
        let slot = Rc::clone(&slot);
        async move {
            let file = io.fs().open("/f", OpenOptions::read_only()).await.expect("it is there");
            let mut found = [false; 2];
            for (block, found) in found.iter_mut().enumerate() {
                let buf = highwater_io::IoBuf::with_capacity(4096);
                *found = file.read_at(buf, 4096 * block as u64, 4096).await.is_ok();
            }
            slot.set((found[0], found[1]));
        }
    });
    result.get()
}

#[test]
fn replaced_file_is_old_or_new_at_every_crash_point() {
    let before = |io: highwater_io::Io| async move {
        io.fs().replace_file_durable("/f", filled(1, 5000)).await.expect("the disk is sound");
    };
    let replace = |io: highwater_io::Io, ()| async move {
        io.fs().replace_file_durable("/f", filled(2, 7000)).await.expect("the disk is sound");
    };
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        let (mut world, node) = world_after(seed, before);
        let start = world.disk_of(node).events();
        world.start(node, vec![()], replace);
        world.run().expect("the node ends");
        let end = world.disk_of(node).events();
        assert!(end > start + 6, "open, write, flush, rename and sync are two events each");
        for event in start + 1..=end {
            let (mut world, node) = world_after(seed, before);
            world.disk_of(node).cut_power_at_event(event);
            world.start(node, vec![()], replace);
            world.run_until(|world| !world.is_up(node)).expect("the power goes");
            assert_eq!(world.status(node), NodeStatus::Down(Exit::PowerCut));
            let files = world.disk_of(node).snapshot_files();
            let content = &files["/f"];
            let old = content == &filled(1, 5000);
            assert!(old || content == &filled(2, 7000), "seed {seed}, event {event}");
            assert!(!(old && event == end), "seed {seed}: the replacement was durable");
            seen.insert(old);
        }
    }
    assert_eq!(seen.len(), 2, "both come up");
}

#[test]
fn rename_without_a_synced_directory_is_kept_or_lost_but_never_half_done() {
    let found = outcomes(SEEDS, |seed| {
        let (mut world, node) = world_after(seed, |io| async move {
            for (path, value) in [("/old", 1), ("/new", 2)] {
                let file = create(&io.fs(), path, CREATE).await;
                write(&file, 0, filled(value, 512)).await;
                file.sync_all().await.expect("the disk is sound");
            }
            io.fs().rename("/old", "/new").await.expect("both are there");
        });
        world.power_cut(node);
        let files = world.disk_of(node).snapshot_files();
        files.iter().map(|(path, content)| (path.clone(), content[0])).collect::<Vec<_>>()
    });
    let named = |path: &str, value| (path.to_owned(), value);
    let expected = [vec![named("/new", 1)], vec![named("/new", 2), named("/old", 1)]];
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), expected);
}

#[test]
fn removed_file_comes_back_unless_its_directory_was_synced() {
    for synced in [false, true] {
        let found = outcomes(SEEDS, |seed| {
            let (world, node) = world_after(seed, move |io| async move {
                let file = create(&io.fs(), "/f", CREATE).await;
                write(&file, 0, filled(1, 512)).await;
                file.sync_all().await.expect("the disk is sound");
                drop(file);
                io.fs().remove_file("/f").await.expect("it is there");
                if synced {
                    io.fs().sync_dir("/").await.expect("the disk is sound");
                }
            });
            after_power_cut(world, node, "/f")
        });
        let expected = if synced { vec![None] } else { vec![None, Some(filled(1, 512).to_vec())] };
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn directory_is_lost_with_its_files_unless_its_parent_was_synced() {
    let found = outcomes(SEEDS, |seed| {
        let (world, node) = world_after(seed, |io| async move {
            let fs = io.fs();
            fs.create_dir("/d").await.expect("a fresh disk takes a directory");
            let file = fs.open("/d/f", CREATE).await.expect("the directory is there");
            file.sync_all().await.expect("the disk is sound");
            fs.sync_dir("/d").await.expect("the disk is sound");
        });
        after_power_cut(world, node, "/d/f").is_some()
    });
    assert_eq!(found.len(), 2, "{found:?}");
    for seed in 0..SEEDS {
        let (world, node) = world_after(seed, |io| async move {
            io.fs().create_dir_all_durable("/a/b/c").await.expect("a fresh disk takes directories");
            let file = io.fs().open("/a/b/c/f", CREATE).await.expect("the directory is there");
            file.sync_all().await.expect("the disk is sound");
            io.fs().sync_dir("/a/b/c").await.expect("the disk is sound");
        });
        assert!(after_power_cut(world, node, "/a/b/c/f").is_some(), "seed {seed}");
    }
    // A process that was killed had made the first of them, and come no further.
    for seed in 0..SEEDS {
        let (world, node) = world_after(seed, |io| async move {
            io.fs().create_dir("/a").await.expect("a fresh disk takes a directory");
            for _ in 0..2 {
                io.fs().create_dir_all_durable("/a/b").await.expect("a fresh disk takes directories");
            }
            let file = io.fs().open("/a/b/f", CREATE).await.expect("the directory is there");
            file.sync_all().await.expect("the disk is sound");
            io.fs().sync_dir("/a/b").await.expect("the disk is sound");
        });
        assert!(after_power_cut(world, node, "/a/b/f").is_some(), "seed {seed}");
    }
}

#[test]
fn os_crash_keeps_direct_writes_and_loses_page_cache() {
    let found = outcomes(SEEDS, |seed| {
        let (mut world, node) = world_after(seed, |io| async move {
            let direct = create(&io.fs(), "/direct", CREATE.direct()).await;
            let cached = create(&io.fs(), "/cached", CREATE).await;
            for file in [&direct, &cached] {
                file.allocate(0, 4096).await.expect("there is space");
                file.sync_all().await.expect("the disk is sound");
                write(file, 0, filled(1, 4096)).await;
            }
        });
        world.os_crash(node);
        assert_eq!(world.status(node), NodeStatus::Down(Exit::Returned), "no process ran");
        let files = world.disk_of(node).snapshot_files();
        assert!(files["/direct"] == filled(1, 4096), "seed {seed}");
        files["/cached"] == filled(1, 4096)
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn survivors_of_a_cut_are_durable() {
    for seed in 0..50 {
        let (mut world, node) = world_after(seed, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            for value in 1..10 {
                write(&file, u64::from(value) * 700, filled(value, 1000)).await;
            }
            file.set_len(5000).await.expect("the disk is sound");
        });
        world.power_cut(node);
        let first = world.disk_of(node).snapshot_files();
        assert_eq!(world.disk_of(node).durable_files(), first);
        assert_eq!(world.disk_of(node).unflushed(), 0);
        world.power_cut(node);
        assert_eq!(world.disk_of(node).snapshot_files(), first, "seed {seed}");
    }
}

#[test]
fn file_that_was_written_with_zeros_costs_next_to_nothing() {
    // A journal of 64 MiB, flushed, then cut: this is quick only as long as neither copies bytes.
    let (mut world, node) = world_after(7, |io| async move {
        let file = create(&io.fs(), "/journal", CREATE.direct()).await;
        let zeros = filled(0, 1 << 20);
        for chunk in 0..64 {
            write(&file, chunk << 20, zeros.clone()).await;
        }
        file.sync_data().await.expect("the disk is sound");
        write(&file, 1 << 20, filled(3, 8192)).await;
        assert!(read(&file, 1 << 20, 4096).await == filled(3, 4096));
    });
    let disk = world.disk_of(node);
    for _ in 0..1000 {
        world.power_cut(node);
    }
    assert_eq!(disk.file_lengths()["/journal"], 64 << 20);
    assert_eq!(disk.used_bytes(), 64 << 20);
}

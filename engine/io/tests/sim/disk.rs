//! Files and directories without crashes: what open(2), pread(2), rename(2) and their like promise.

use std::cell::RefCell;
use std::rc::Rc;

use highwater_io::fs::{Durability, FileKind, OpenOptions};
use highwater_io::sim::{DiskConfig, WorldConfig, run, run_with};
use highwater_io::{FileOp, IoBuf};

use crate::support::{CREATE, create, filled, outcomes, read, write};

#[test]
fn errors_carry_path_position_and_errno() {
    run(1, |io| async move {
        let fs = io.fs();
        let errno = |error: highwater_io::FileError| error.errno();
        let missing = fs.open("/missing", OpenOptions::read_only()).await.expect_err("it is missing");
        assert_eq!(
            (missing.op, missing.errno(), missing.path.to_str()),
            (FileOp::Open, Some(libc::ENOENT), Some("/missing"))
        );
        let file = create(&fs, "/f", CREATE).await;
        fs.create_dir("/d").await.expect("a fresh disk takes a directory");
        fs.create_dir("/d/e").await.expect("the directory is there");
        assert_eq!(fs.create_dir("/d").await.map_err(errno), Err(Some(libc::EEXIST)));
        assert_eq!(fs.open("/f", CREATE.create_new()).await.map_err(errno).err(), Some(Some(libc::EEXIST)));
        assert_eq!(fs.open("/f/x", CREATE).await.map_err(errno).err(), Some(Some(libc::ENOTDIR)));
        assert_eq!(fs.open("/d", CREATE).await.map_err(errno).err(), Some(Some(libc::EISDIR)));
        assert_eq!(fs.remove_dir("/d").await.map_err(errno), Err(Some(libc::ENOTEMPTY)));
        assert_eq!(fs.remove_dir("/f").await.map_err(errno), Err(Some(libc::ENOTDIR)));
        assert_eq!(fs.remove_file("/d").await.map_err(errno), Err(Some(libc::EISDIR)));
        assert_eq!(fs.rename("/d", "/d/e/f").await.map_err(errno), Err(Some(libc::EINVAL)));
        assert_eq!(fs.rename("/d", "/f").await.map_err(errno), Err(Some(libc::ENOTDIR)));
        assert_eq!(fs.sync_dir("/nowhere").await.map_err(errno), Err(Some(libc::ENOENT)));
        let reader = fs.open("/f", OpenOptions::read_only()).await.expect("it is there");
        let refused = reader.write_at(vec![filled(1, 8)], 64, Durability::Plain).await;
        let refused = refused.expect_err("it is open for reading");
        assert_eq!((refused.errno(), refused.position_bytes), (Some(libc::EBADF), Some(64)));
        drop(file);
    });
}

#[test]
fn misaligned_direct_io_is_refused() {
    for alignment in [512_usize, 4096] {
        let disk = DiskConfig { direct_alignment: alignment, ..DiskConfig::default() };
        run_with(1, WorldConfig { disk, ..WorldConfig::default() }, move |io| async move {
            assert_eq!(io.fs().direct_io_alignment("/").await.expect("the root is there"), alignment);
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            assert!(file.is_direct());
            let attempt = |position, bytes| file.write_at(vec![bytes], position, Durability::Plain);
            attempt(0, filled(1, 8192)).await.expect("it is aligned");
            let refused = |result: Result<(), highwater_io::FileError>| {
                assert_eq!(result.expect_err("it is misaligned").errno(), Some(libc::EINVAL));
            };
            refused(attempt(100, filled(1, 4096)).await);
            refused(attempt(0, filled(1, 100)).await);
            refused(attempt(0, filled(1, 8192).slice(256..256 + 4096)).await);
            let read = |position, len| file.read_at(IoBuf::with_capacity(8192), position, len);
            refused(read(1, 4096).await.map(drop));
            refused(read(0, 1000).await.map(drop));
            assert_eq!(read(4096, 8192).await.expect("it is aligned").len(), 4096, "short at the end");
            assert_eq!(read(512, 512).await.is_ok(), alignment == 512);
        });
    }
}

#[test]
fn file_system_without_direct_io_falls_back_to_the_page_cache() {
    let disk = DiskConfig { direct_supported: false, ..DiskConfig::default() };
    run_with(1, WorldConfig { disk, ..WorldConfig::default() }, |io| async move {
        let file = create(&io.fs(), "/f", CREATE.direct()).await;
        assert!(!file.is_direct());
        write(&file, 3, filled(1, 5)).await;
        assert_eq!(&read(&file, 0, 100).await[..], [0, 0, 0, 1, 1, 1, 1, 1]);
    });
}

#[test]
fn directory_lists_its_names_in_order() {
    run(3, |io| async move {
        let fs = io.fs();
        fs.create_dir_all_durable("/logs/topic-0").await.expect("a fresh disk takes directories");
        for name in ["b", "a", "c"] {
            create(&fs, &format!("/logs/{name}"), CREATE).await;
        }
        let list = fs.read_dir("/logs").await.expect("it is there");
        let names: Vec<(&str, FileKind)> =
            list.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
        let file = FileKind::File;
        assert_eq!(names, [("a", file), ("b", file), ("c", file), ("topic-0", FileKind::Directory)]);
        fs.rename("/logs/a", "/logs/topic-0/z").await.expect("it is there");
        assert!(!fs.exists("/logs/a").await.expect("the disk is sound"));
        assert!(fs.exists("logs/topic-0/../topic-0/z").await.expect("the disk is sound"));
    });
}

#[test]
fn removed_file_lives_on_while_it_is_open() {
    run(4, |io| async move {
        let fs = io.fs();
        let file = create(&fs, "/f", CREATE).await;
        write(&file, 0, filled(7, 8192)).await;
        let used = fs.space("/").await.expect("the root is there").available_bytes;
        fs.remove_file("/f").await.expect("it is there");
        let other = create(&fs, "/f", CREATE).await;
        assert_eq!(other.len().await.expect("it is open"), 0);
        assert!(read(&file, 0, 8192).await == filled(7, 8192));
        drop(file);
        let freed = fs.space("/").await.expect("the root is there").available_bytes;
        assert_eq!(freed - used, 8192);
    });
}

#[test]
fn full_disk_refuses_until_there_is_space() {
    for seed in 0..50 {
        let disk = DiskConfig { capacity_bytes: 64 << 10, ..DiskConfig::default() };
        run_with(seed, WorldConfig { disk, ..WorldConfig::default() }, |io| async move {
            let fs = io.fs();
            let file = create(&fs, "/f", CREATE).await;
            file.allocate(0, 32 << 10).await.expect("there is space");
            let full = file.allocate(0, 65 << 10).await.expect_err("there is not so much space");
            assert!(full.is_out_of_space());
            assert_eq!(file.len().await.expect("it is open"), 32 << 10, "nothing was reserved");
            write(&file, 0, filled(1, 32 << 10)).await;
            let other = create(&fs, "/g", CREATE).await;
            write(&other, 0, filled(1, 30 << 10)).await;
            let more = vec![filled(2, 16 << 10)];
            let full = other.write_at(more.clone(), 30 << 10, Durability::Plain).await;
            assert!(full.expect_err("there is not so much space").is_out_of_space());
            let space = fs.space("/").await.expect("the root is there");
            assert!(space.available_bytes <= 4 << 10 && space.total_bytes == 64 << 10);
            fs.remove_file("/f").await.expect("it is there");
            drop(file);
            other.write_at(more, 30 << 10, Durability::Plain).await.expect("there is space again");
            let metadata = fs.metadata("/g").await.expect("it is there");
            assert_eq!((metadata.len_bytes, metadata.allocated_bytes), (46 << 10, 48 << 10));
        });
    }
}

#[test]
fn overlapping_writes_in_flight_are_applied_in_either_order() {
    let found = outcomes(60, |seed| {
        run(seed, |io| async move {
            let file = Rc::new(create(&io.fs(), "/f", CREATE.direct()).await);
            let tasks: Vec<_> = [1, 2]
                .into_iter()
                .map(|value| {
                    let file = Rc::clone(&file);
                    io.spawn(async move { write(&file, 0, filled(value, 4096)).await })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            read(&file, 0, 4096).await[0]
        })
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn reader_may_see_parts_of_a_write_in_flight() {
    let found = outcomes(60, |seed| {
        run(seed, |io| async move {
            let file = Rc::new(create(&io.fs(), "/f", CREATE.direct()).await);
            write(&file, 0, filled(1, 4096)).await;
            let other = Rc::clone(&file);
            let writing = io.spawn(async move { write(&other, 0, filled(2, 4096)).await });
            io.yield_now().await;
            let seen = read(&file, 0, 4096).await;
            writing.await;
            assert!(read(&file, 0, 4096).await == filled(2, 4096));
            seen.contains(&1) && seen.contains(&2)
        })
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn abandoned_write_happens_or_not_and_keeps_its_buffer() {
    let found = outcomes(60, |seed| {
        run(seed, |io| async move {
            let pool = highwater_io::BufPool::new(4096, 64, 4);
            let file = create(&io.fs(), "/f", CREATE.direct()).await;
            write(&file, 0, filled(1, 4096)).await;
            let mut buf = pool.try_take().expect("a slab");
            buf.extend_from_slice(&[2; 4096]);
            let writing = file.write_at(vec![buf.freeze()], 0, Durability::Plain);
            let given_up = io.timeout(std::time::Duration::from_nanos(1), writing).await;
            assert!(given_up.is_err(), "a write takes longer");
            // The slab is not back before the device is done with it.
            let mut next = pool.try_take().expect("a slab");
            next.extend_from_slice(&[3; 4096]);
            io.sleep(std::time::Duration::from_secs(1)).await;
            let seen = read(&file, 0, 4096).await;
            assert!(seen == filled(1, 4096) || seen == filled(2, 4096));
            seen[0]
        })
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn lock_is_exclusive_between_descriptions_and_goes_with_the_last_reference() {
    run(5, |io| async move {
        let fs = io.fs();
        let first = create(&fs, "/f", CREATE).await;
        let second = create(&fs, "/f", CREATE).await;
        assert!(first.try_lock().await.expect("it is open"));
        assert!(first.try_lock().await.expect("it is open"), "it has it already");
        assert!(!second.try_lock().await.expect("it is open"));
        drop(first);
        assert!(second.try_lock().await.expect("it is open"));
    });
}

#[test]
fn completions_do_not_come_in_the_order_of_submission() {
    let orders = outcomes(20, |seed| {
        run(seed, |io| async move {
            let file = Rc::new(create(&io.fs(), "/f", CREATE.direct()).await);
            let order = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..4_u64)
                .map(|index| {
                    let (file, order) = (Rc::clone(&file), Rc::clone(&order));
                    io.spawn(async move {
                        write(&file, index * 4096, filled(1, 4096)).await;
                        order.borrow_mut().push(index);
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            order.take()
        })
    });
    assert!(orders.len() > 5, "{orders:?}");
}

#[test]
fn small_file_is_read_within_its_limit() {
    run(6, |io| async move {
        io.fs().replace_file_durable("/f", filled(4, 5000)).await.expect("the disk is sound");
        assert!(io.fs().read_file("/f", 5000).await.expect("it fits") == filled(4, 5000));
        let refused = io.fs().read_file("/f", 4999).await.expect_err("it does not fit");
        assert_eq!(refused.kind(), std::io::ErrorKind::FileTooLarge);
    });
}

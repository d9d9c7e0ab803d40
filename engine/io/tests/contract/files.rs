//! Promises of files and directories.

use std::io::ErrorKind;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use highwater_io::fs::{DirEntry, Durability, File, FileKind, OpenOptions};
use highwater_io::{BufPool, FileOp, Io, IoBuf};

use crate::host::{Host, pattern};

const NEW: OpenOptions = OpenOptions::read_write().create_new();
const BLOCK: usize = 4096;

async fn create(io: &Io, path: &Path) -> File {
    io.fs().open(path, NEW).await.expect("the file is created")
}

async fn file_with(io: &Io, path: &Path, content: Vec<u8>) -> File {
    let file = create(io, path).await;
    file.write_at(vec![content.into()], 0, Durability::Plain).await.expect("written");
    file
}

async fn read(file: &File, position_bytes: u64, len: usize) -> Vec<u8> {
    file.read_at(IoBuf::with_capacity(len), position_bytes, len).await.expect("read").to_vec()
}

async fn content(file: &File) -> Vec<u8> {
    let len = usize::try_from(file.len().await.expect("a length")).expect("a small file");
    read(file, 0, len).await
}

pub(crate) fn write_then_read_returns_the_bytes(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = create(&io, &dir.join("f")).await;
        let pieces: Vec<Bytes> =
            [1, 0, 4095, 4096, 10_000].map(|len| pattern(len as u64, len).into()).to_vec();
        let whole = pieces.concat();
        file.write_at(pieces, 77, Durability::Plain).await.expect("written");
        assert_eq!(read(&file, 77, whole.len()).await, whole);
        assert_eq!(file.len().await.expect("a length"), 77 + whole.len() as u64);
        assert!(!file.is_empty().await.expect("a length"));
    });
}

pub(crate) fn write_of_more_pieces_than_a_request_takes_is_whole(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = create(&io, &dir.join("f")).await;
        let pieces: Vec<Bytes> = (0..3000).map(|i| pattern(i, 1 + i as usize % 7).into()).collect();
        let whole = pieces.concat();
        file.write_at(pieces, 0, Durability::Plain).await.expect("written");
        assert_eq!(content(&file).await, whole);
    });
}

pub(crate) fn write_over_the_middle_leaves_the_rest(host: Host) {
    host.one_shard(|io, dir| async move {
        let mut expected = pattern(1, 10_000);
        let file = file_with(&io, &dir.join("f"), expected.clone()).await;
        let middle = pattern(2, 3000);
        file.write_at(vec![middle.clone().into()], 5000, Durability::Plain).await.expect("written");
        expected[5000..8000].copy_from_slice(&middle);
        assert_eq!(content(&file).await, expected);
    });
}

pub(crate) fn write_of_nothing_succeeds(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = create(&io, &dir.join("f")).await;
        file.write_at(Vec::new(), 5, Durability::Plain).await.expect("nothing to do");
        file.write_at(vec![Bytes::new(); 3], 5, Durability::Sync).await.expect("nothing to do");
        assert!(file.is_empty().await.expect("a length"));
    });
}

pub(crate) fn synchronous_write_is_whole(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = create(&io, &dir.join("f")).await;
        let (first, second) = (pattern(1, 4096), pattern(2, 100));
        let pieces = vec![first.clone().into(), second.clone().into()];
        file.write_at(pieces, 0, Durability::Sync).await.expect("written");
        assert_eq!(content(&file).await, [first, second].concat());
    });
}

pub(crate) fn read_across_the_end_is_short(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = file_with(&io, &dir.join("f"), pattern(1, 5000)).await;
        assert_eq!(read(&file, 4000, 4000).await, pattern(1, 5000)[4000..]);
        assert!(read(&file, 5000, 10).await.is_empty());
        assert!(read(&file, 1 << 40, 10).await.is_empty());
        assert!(read(&file, 0, 0).await.is_empty());
        let mut used = IoBuf::copy_from_slice(b"old content");
        used = file.read_at(used, 4998, 11).await.expect("read");
        assert_eq!(&used[..], &pattern(1, 5000)[4998..], "what the buffer held before is gone");
    });
}

pub(crate) fn read_of_a_hole_gives_zeros(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = create(&io, &dir.join("f")).await;
        file.write_at(vec![Bytes::from_static(b"end")], 100_000, Durability::Plain).await.expect("written");
        let mut expected = vec![0; 100_000];
        expected.extend_from_slice(b"end");
        assert_eq!(content(&file).await, expected);
    });
}

pub(crate) fn direct_file_takes_aligned_requests(host: Host) {
    host.one_shard(|io, dir| async move {
        // A file system may refuse direct I/O; the file works all the same then.
        let align = io.fs().direct_io_alignment(&dir).await.expect("an alignment");
        let file = io.fs().open(dir.join("f"), NEW.direct()).await.expect("created");
        let expected = pattern(1, 8 * align);
        let mut slab = IoBuf::copy_from_slice(&expected);
        let halves = vec![slab.split_to(4 * align).freeze(), slab.freeze()];
        file.write_at(halves, align as u64, Durability::Sync).await.expect("written");
        let read =
            file.read_at(IoBuf::with_capacity(8 * align), align as u64, 8 * align).await.expect("read");
        assert_eq!(&read[..], &expected[..]);
        let buffered = io.fs().open(dir.join("f"), OpenOptions::read_only()).await.expect("opened");
        assert!(!buffered.is_direct());
        assert_eq!(self::read(&buffered, align as u64, 8 * align).await, expected);
    });
}

pub(crate) fn direct_read_across_an_unaligned_end_is_short(host: Host) {
    host.one_shard(|io, dir| async move {
        let align = io.fs().direct_io_alignment(&dir).await.expect("an alignment");
        let path = dir.join("f");
        let expected = pattern(1, 2 * align + 100);
        drop(file_with(&io, &path, expected.clone()).await);
        let file = io.fs().open(&path, OpenOptions::read_only().direct()).await.expect("opened");
        let read = file.read_at(IoBuf::with_capacity(8 * align), 0, 8 * align).await.expect("read");
        assert_eq!(&read[..], &expected[..]);
        let aligned_end = 2 * align as u64;
        let read = file.read_at(read, aligned_end, 4 * align).await.expect("read");
        assert_eq!(&read[..], &expected[2 * align..]);
    });
}

pub(crate) fn many_requests_at_once_do_not_mix(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = std::rc::Rc::new(create(&io, &dir.join("f")).await);
        let write = |i: usize| {
            let file = file.clone();
            async move {
                let position = (i * 5000) as u64;
                let data = vec![pattern(i as u64, 5000).into()];
                file.write_at(data, position, Durability::Plain).await.expect("written");
                assert_eq!(read(&file, position, 5000).await, pattern(i as u64, 5000));
            }
        };
        let tasks: Vec<_> = (0..300).map(|i| io.spawn(write(i))).collect();
        for task in tasks {
            task.await;
        }
        let expected: Vec<u8> = (0..300).flat_map(|i| pattern(i, 5000)).collect();
        assert_eq!(content(&file).await, expected);
    });
}

pub(crate) fn missing_file_error_names_path_and_errno(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("missing");
        let error = io.fs().open(&path, OpenOptions::read_only()).await.expect_err("it is missing");
        assert!(error.is_not_found());
        assert_eq!(
            (error.op, error.path.as_path(), error.position_bytes),
            (FileOp::Open, path.as_path(), None)
        );
        assert_eq!(error.errno(), Some(2), "ENOENT");
        assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
        assert!(!io.fs().exists(&path).await.expect("a missing name is no error"));
    });
}

pub(crate) fn write_to_a_read_only_file_error_names_the_position(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        drop(file_with(&io, &path, pattern(1, 100)).await);
        let file = io.fs().open(&path, OpenOptions::read_only()).await.expect("opened");
        let data = vec![Bytes::from_static(b"x")];
        let error = file.write_at(data, 4711, Durability::Plain).await.expect_err("opened for reading");
        assert_eq!((error.op, error.path.as_path()), (FileOp::Write, path.as_path()));
        assert_eq!((error.position_bytes, error.errno()), (Some(4711), Some(9)), "EBADF");
        assert!(error.to_string().contains("4711"), "{error}");
        assert_eq!(content(&file).await, pattern(1, 100));
    });
}

pub(crate) fn create_new_refuses_an_existing_file(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        drop(file_with(&io, &path, pattern(1, 100)).await);
        for options in [NEW, NEW.direct()] {
            let error = io.fs().open(&path, options).await.expect_err("it exists");
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        }
        let file = io.fs().open(&path, OpenOptions::read_write().create()).await.expect("opened");
        assert_eq!(content(&file).await, pattern(1, 100));
    });
}

pub(crate) fn truncate_empties_the_file(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        drop(file_with(&io, &path, pattern(1, 100)).await);
        let file = io.fs().open(&path, OpenOptions::read_write().truncate()).await.expect("opened");
        assert!(file.is_empty().await.expect("a length"));
    });
}

pub(crate) fn rename_replaces_its_target(host: Host) {
    host.one_shard(|io, dir| async move {
        let (from, to) = (dir.join("from"), dir.join("to"));
        drop(file_with(&io, &from, pattern(1, 100)).await);
        let replaced = file_with(&io, &to, pattern(2, 200)).await;
        io.fs().rename(&from, &to).await.expect("renamed");
        assert!(!io.fs().exists(&from).await.expect("looked up"));
        let bytes = io.fs().read_file(&to, 1000).await.expect("read");
        assert_eq!(bytes, pattern(1, 100));
        assert_eq!(content(&replaced).await, pattern(2, 200), "an open file keeps its content");
        let error = io.fs().rename(&from, &to).await.expect_err("it is gone");
        assert!(error.is_not_found() && error.op == FileOp::Rename && error.path == from);
    });
}

pub(crate) fn removed_file_stays_readable_while_open(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        let file = file_with(&io, &path, pattern(1, 100)).await;
        io.fs().remove_file(&path).await.expect("removed");
        assert!(!io.fs().exists(&path).await.expect("looked up"));
        assert_eq!(content(&file).await, pattern(1, 100));
        let error = io.fs().remove_file(&path).await.expect_err("it is gone");
        assert!(error.is_not_found() && error.op == FileOp::Remove);
    });
}

pub(crate) fn directory_is_listed_in_order_with_kinds(host: Host) {
    host.one_shard(|io, dir| async move {
        for name in ["b", "a", "10", "9"] {
            drop(create(&io, &dir.join(name)).await);
        }
        io.fs().create_dir(dir.join("aa")).await.expect("created");
        drop(create(&io, &dir.join("aa").join("inner")).await);
        let entries = io.fs().read_dir(&dir).await.expect("listed");
        let expected: Vec<DirEntry> = [
            ("10", FileKind::File),
            ("9", FileKind::File),
            ("a", FileKind::File),
            ("aa", FileKind::Directory),
            ("b", FileKind::File),
        ]
        .map(|(name, kind)| DirEntry { name: name.to_owned(), kind })
        .to_vec();
        assert_eq!(entries, expected);
        let a = io.fs().open(dir.join("a"), OpenOptions::read_write()).await.expect("it is there");
        a.set_len(6_000).await.expect("extended");
        let with_lengths = io.fs().read_dir_with_lengths(&dir).await.expect("listed");
        let lengths: Vec<u64> = with_lengths.iter().map(|(_, len_bytes)| *len_bytes).collect();
        assert_eq!(lengths, [0, 0, 6_000, 0, 0]);
        assert_eq!(with_lengths.into_iter().map(|(entry, _)| entry).collect::<Vec<_>>(), expected);
    });
}

pub(crate) fn directory_errors_have_the_kind_of_the_system_call(host: Host) {
    host.one_shard(|io, dir| async move {
        let (fs, inner) = (io.fs(), dir.join("inner"));
        fs.create_dir(&inner).await.expect("created");
        drop(create(&io, &inner.join("f")).await);
        let error = fs.create_dir(&inner).await.expect_err("it exists");
        assert_eq!((error.kind(), error.op), (ErrorKind::AlreadyExists, FileOp::Create));
        let error = fs.remove_dir(&inner).await.expect_err("it is not empty");
        assert_eq!((error.kind(), error.op), (ErrorKind::DirectoryNotEmpty, FileOp::Remove));
        fs.remove_file(inner.join("f")).await.expect("removed");
        fs.remove_dir(&inner).await.expect("it is empty");
        let missing = dir.join("missing");
        let errors = [
            fs.remove_dir(&missing).await.expect_err("missing"),
            fs.read_dir(&missing).await.expect_err("missing"),
            fs.sync_dir(&missing).await.expect_err("missing"),
            fs.metadata(&missing).await.expect_err("missing"),
            fs.create_dir(missing.join("below")).await.expect_err("missing"),
        ];
        let ops = [FileOp::Remove, FileOp::List, FileOp::SyncDirectory, FileOp::Metadata, FileOp::Create];
        for (error, op) in errors.iter().zip(ops) {
            assert!(error.is_not_found(), "{error}");
            assert_eq!(error.op, op, "{error}");
            assert!(error.path.starts_with(&missing), "{error}");
        }
    });
}

pub(crate) fn create_dir_all_takes_what_exists(host: Host) {
    host.one_shard(|io, dir| async move {
        let deep = dir.join("a").join("b").join("c");
        for _ in 0..2 {
            io.fs().create_dir_all_durable(&deep).await.expect("created, then there");
            assert_eq!(io.fs().metadata(&deep).await.expect("it is there").kind, FileKind::Directory);
        }
    });
}

pub(crate) fn replaced_file_has_the_new_content(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        for seed in 0..3 {
            let content = Bytes::from(pattern(seed, 1000));
            io.fs().replace_file_durable(&path, content.clone()).await.expect("replaced");
            assert_eq!(io.fs().read_file(&path, 1000).await.expect("read"), content);
        }
        assert_eq!(io.fs().read_dir(&dir).await.expect("listed").len(), 1, "no temporary file is left");
    });
}

pub(crate) fn read_file_refuses_what_is_too_long(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        drop(file_with(&io, &path, pattern(1, 101)).await);
        let error = io.fs().read_file(&path, 100).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(io.fs().read_file(&path, 101).await.expect("read"), pattern(1, 101));
    });
}

pub(crate) fn sync_succeeds_on_files_and_directories(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = file_with(&io, &dir.join("f"), pattern(1, 10_000)).await;
        file.sync_data().await.expect("flushed");
        file.sync_all().await.expect("flushed");
        io.fs().sync_dir(&dir).await.expect("flushed");
        assert_eq!(content(&file).await, pattern(1, 10_000));
    });
}

pub(crate) fn allocate_extends_with_zeros(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        let file = file_with(&io, &path, pattern(1, 100)).await;
        file.allocate(0, 1 << 20).await.expect("allocated");
        assert_eq!(file.len().await.expect("a length"), 1 << 20);
        let mut expected = pattern(1, 100);
        expected.resize(1 << 20, 0);
        assert_eq!(content(&file).await, expected, "what was there stays");
        file.sync_all().await.expect("flushed");
        let metadata = io.fs().metadata(&path).await.expect("it is there");
        assert!(metadata.allocated_bytes >= 1 << 20, "{metadata:?}");
        file.allocate(0, 10).await.expect("allocated before");
        let error = file.allocate(0, 0).await.expect_err("fallocate(2) refuses it");
        assert_eq!((error.op, error.kind()), (FileOp::Allocate, ErrorKind::InvalidInput));
        assert_eq!(file.len().await.expect("a length"), 1 << 20);
    });
}

pub(crate) fn set_len_cuts_and_extends(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = file_with(&io, &dir.join("f"), pattern(1, 10_000)).await;
        file.set_len(5000).await.expect("cut");
        assert_eq!(content(&file).await, pattern(1, 10_000)[..5000]);
        file.set_len(10_000).await.expect("extended");
        let mut expected = pattern(1, 10_000);
        expected[5000..].fill(0);
        assert_eq!(content(&file).await, expected, "what was cut does not come back");
        file.set_len(0).await.expect("cut");
        assert!(file.is_empty().await.expect("a length"));
    });
}

pub(crate) fn metadata_tells_length_and_kind(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("f");
        drop(file_with(&io, &path, pattern(1, 12_345)).await);
        let metadata = io.fs().metadata(&path).await.expect("it is there");
        assert_eq!((metadata.len_bytes, metadata.kind), (12_345, FileKind::File));
        assert_eq!(io.fs().metadata(&dir).await.expect("it is there").kind, FileKind::Directory);
    });
}

pub(crate) fn space_is_plausible(host: Host) {
    host.one_shard(|io, dir| async move {
        let space = io.fs().space(&dir).await.expect("a file system");
        assert!(0 < space.available_bytes && space.available_bytes <= space.total_bytes, "{space:?}");
    });
}

pub(crate) fn alignment_is_a_power_of_two_of_at_least_4096(host: Host) {
    host.one_shard(|io, dir| async move {
        let alignment = io.fs().direct_io_alignment(&dir).await.expect("an alignment");
        assert!(alignment.is_power_of_two() && alignment >= BLOCK, "{alignment}");
        assert!(alignment <= 1 << 20, "{alignment}");
    });
}

pub(crate) fn lock_excludes_another_description_until_it_is_dropped(host: Host) {
    host.one_shard(|io, dir| async move {
        let path = dir.join("lock");
        let first = create(&io, &path).await;
        assert!(first.try_lock().await.expect("asked"));
        assert!(first.try_lock().await.expect("asked"), "who has it gets it again");
        let second = io.fs().open(&path, OpenOptions::read_write()).await.expect("opened");
        assert!(!second.try_lock().await.expect("asked"));
        first.write_at(vec![Bytes::from_static(b"mine")], 0, Durability::Plain).await.expect("written");
        drop(first);
        assert!(second.try_lock().await.expect("asked"));
    });
}

pub(crate) fn dropped_requests_leave_the_file_usable(host: Host) {
    host.one_shard(|io, dir| async move {
        let expected = pattern(1, 1 << 20);
        let file = file_with(&io, &dir.join("f"), expected.clone()).await;
        let mut cx = Context::from_waker(Waker::noop());
        for round in 0..50 {
            let position = round * 1000;
            let len = 100_000;
            // Each is polled once, so that it is under way, and dropped with its buffer in the kernel's hands.
            let _ = pin!(file.read_at(IoBuf::with_capacity(len), position, len)).as_mut().poll(&mut cx);
            let at = usize::try_from(position).expect("small");
            let same = Bytes::copy_from_slice(&expected[at..at + len]);
            let _ = pin!(file.write_at(vec![same], position, Durability::Plain)).as_mut().poll(&mut cx);
            let _ = pin!(file.sync_data()).as_mut().poll(&mut cx);
            let _ = pin!(io.fs().open(dir.join("f"), OpenOptions::read_only())).as_mut().poll(&mut cx);
            if round % 7 == 0 {
                assert_eq!(read(&file, position, len).await, expected[at..at + len]);
            }
        }
        assert_eq!(content(&file).await, expected);
    });
}

pub(crate) fn memory_of_a_dropped_read_is_not_reused_too_early(host: Host) {
    host.one_shard(|io, dir| async move {
        let file = file_with(&io, &dir.join("f"), vec![1; BLOCK]).await;
        let pool = BufPool::new(BLOCK, 64, 1);
        for _ in 0..50 {
            // The kernel may fill the buffer after the future is gone. If it were back in the pool by then, it would
            // be the one that is taken next.
            let mut cx = Context::from_waker(Waker::noop());
            assert!(
                pin!(file.read_at(pool.try_take().expect("a slab"), 0, BLOCK))
                    .as_mut()
                    .poll(&mut cx)
                    .is_pending()
            );
            let mut next = pool.try_take().expect("a slab");
            next.set_len(BLOCK);
            next.fill(2);
            for _ in 0..5 {
                io.sleep(Duration::from_micros(20)).await;
            }
            assert!(next.iter().all(|&byte| byte == 2));
        }
    });
}

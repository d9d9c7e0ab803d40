//! A data directory as a version of this engine left it when it was killed, kept in `tests/golden/directory`: every later
//! version must open it and find the same records. `HIGHWATER_BLESS=1` makes it anew, which only a new format version
//! justifies; the old directory then stays beside it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::common::{DIR, append_one, create, open, read_from, small_shard};
use highwater_io::sim::{World, WorldConfig};
use highwater_io::{Io, fs};
use highwater_log::verify::verify;
use highwater_model::Offset;

fn golden_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/directory")
}

/// The value of record `n`; sizes vary so that blocks and segments end anywhere.
fn value(n: u32) -> Vec<u8> {
    let mut value = format!("record {n} ").into_bytes();
    value.resize(200 + (n as usize * 97) % 1_500, b'a' + (n % 26) as u8);
    value
}

/// Rolls, a checkpoint, a truncation, a moved start, and a journal that nobody drained.
async fn make(io: &Io) {
    let (_dir, logs, _) = open(io).await;
    let partition = create(&logs, 0).await;
    for n in 0..50 {
        append_one(&partition, &value(n)).await.acknowledged().await.expect("durable");
    }
    logs.checkpoint().await.expect("written");
    partition.truncate_to(Offset(45)).await.expect("cut");
    partition.delete_records_before(Offset(3)).await.expect("moved");
    for n in 50..60 {
        append_one(&partition, &value(n)).await.acknowledged().await.expect("durable");
    }
}

/// What `make` leaves: offsets from 3, records 45 to 49 replaced.
fn expected() -> Vec<(Offset, Vec<u8>)> {
    let numbers = (3..45).chain(50..60);
    (3..).map(Offset).zip(numbers.map(value)).collect()
}

type Files = Vec<(PathBuf, Vec<u8>)>;

/// All files below `dir`, by their paths in it.
async fn files(io: &Io, dir: &Path) -> Files {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in io.fs().read_dir(&next).await.expect("readable") {
            let path = next.join(&entry.name);
            if entry.kind == fs::FileKind::Directory {
                dirs.push(path);
                continue;
            }
            let bytes = io.fs().read_file(&path, 1 << 24).await.expect("readable").to_vec();
            found.push((path.strip_prefix(dir).expect("below").to_owned(), bytes));
        }
    }
    found
}

fn bless() {
    let mut world = World::new(1, WorldConfig::default());
    let node = world.add_node("maker");
    world.start(node, vec![()], |io, ()| async move { make(&io).await });
    world.run_until(|world| !world.is_up(node)).expect("it ends by itself");
    let collected: Rc<RefCell<Files>> = Rc::default();
    world.start(node, vec![Rc::clone(&collected)], |io, collected| async move {
        let found = files(&io, Path::new(DIR)).await;
        collected.replace(found);
    });
    world.run_until(|world| !world.is_up(node)).expect("it ends by itself");
    std::fs::remove_dir_all(golden_dir()).or_else(|_| std::fs::create_dir_all(golden_dir())).expect("empty");
    for (path, mut bytes) in collected.take() {
        let is_journal = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"));
        if is_journal {
            // The zeros that a journal file is made of need not be kept.
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(end);
        }
        let path = golden_dir().join(path);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("created");
        std::fs::write(path, bytes).expect("written");
    }
}

fn read_host(dir: &Path) -> Files {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            found.push((path.strip_prefix(dir).expect("below").to_owned(), bytes));
        }
    }
    found
}

async fn put(io: &Io, files: Files) {
    for (path, mut bytes) in files {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-")) {
            bytes.resize(usize::try_from(small_shard().journal_file_bytes).expect("small"), 0);
        }
        let path = Path::new(DIR).join(path);
        io.fs().create_dir_all_durable(path.parent().expect("has one")).await.expect("created");
        let file = io.fs().open(&path, fs::OpenOptions::read_write().create()).await.expect("opens");
        if !bytes.is_empty() {
            file.write_at(vec![bytes.into()], 0, fs::Durability::Plain).await.expect("written");
        }
    }
}

#[test]
fn directory_of_version_1_opens_with_every_record() {
    if std::env::var_os("HIGHWATER_BLESS").is_some() {
        bless();
    }
    let golden = read_host(&golden_dir());
    assert!(golden.len() > 5, "the directory is kept in git");
    highwater_io::sim::run(7, move |io| async move {
        put(&io, golden).await;
        let report = verify(&io, Path::new(DIR), |_| {}).await.expect("readable");
        assert_eq!(report.problems, []);
        let (_dir, logs, report) = open(&io).await;
        assert!(!report.was_clean && report.groups_replayed > 10 && report.fenced.is_empty(), "{report:?}");
        let partition = logs.partitions().pop().expect("the partition is there");
        assert_eq!(read_from(&partition, Offset(3)).await, expected());
    });
}

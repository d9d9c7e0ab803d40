//! The strict directory on the real kernel: what a program has to do so that something is durable.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use highwater_disk::strict::{Replay, StrictAction, StrictConfig, StrictDirectory, preflight};
use highwater_disk::{CutMode, ServerProgram};

struct Strict {
    directory: StrictDirectory,
    place: tempfile::TempDir,
}

/// None, loudly, where strict directories cannot be served.
fn strict() -> Option<Strict> {
    if let Err(error) = preflight() {
        eprintln!("\n*** SKIPPED: {error} ***\n");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let server = ServerProgram::Path(env!("CARGO_BIN_EXE_highwater-disk").into());
    let mount_point = Some(place.path().join("strict"));
    let config = StrictConfig { server, mount_point, ..StrictConfig::new(place.path().join("recording")) };
    let directory = StrictDirectory::create(config).unwrap_or_else(|error| panic!("no directory: {error}"));
    Some(Strict { directory, place })
}

impl Strict {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.mount_point().join(name)
    }

    fn sync(&self, name: &str) {
        File::open(self.path(name)).unwrap().sync_all().unwrap();
    }

    /// Takes it down; what the strictest cut leaves, and all actions.
    fn left(self) -> (tempfile::TempDir, PathBuf, Vec<StrictAction>) {
        let mount_point = self.directory.mount_point().to_owned();
        self.directory.stop().unwrap();
        assert!(!mount_point.exists(), "{} is left", mount_point.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(mount_point.to_str().unwrap()), "still mounted:\n{mounts}");
        let mut replay = Replay::open(&self.place.path().join("recording")).unwrap();
        let mut actions = Vec::new();
        while let Some(event) = replay.advance().unwrap() {
            actions.push(event.action);
        }
        let left = self.place.path().join("left");
        replay.cut(CutMode::DropAll).write_to(&left).unwrap();
        (self.place, left, actions)
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn only_what_was_synced_is_left_of_files_and_names() {
    let Some(strict) = strict() else { return };
    fs::create_dir(strict.path("d")).unwrap();
    for name in ["d/synced", "d/unsynced", "nameless"] {
        fs::write(strict.path(name), name).unwrap();
    }
    strict.sync("d/synced");
    strict.sync("nameless");
    strict.sync("d");
    strict.sync("");
    fs::rename(strict.path("nameless"), strict.path("renamed")).unwrap();
    fs::write(strict.path("d/late"), "late").unwrap();
    fs::remove_file(strict.path("d/synced")).unwrap();
    assert_eq!(names(&strict.path("d")), ["late", "unsynced"]);
    let (_place, left, _) = strict.left();
    assert_eq!(names(&left), ["d", "nameless"]);
    assert_eq!(names(&left.join("d")), ["synced", "unsynced"]);
    assert_eq!(fs::read_to_string(left.join("d/synced")).unwrap(), "d/synced");
    assert_eq!(fs::read_to_string(left.join("d/unsynced")).unwrap(), "");
}

#[test]
fn write_with_o_dsync_makes_itself_durable_and_sends_no_fsync() {
    let Some(strict) = strict() else { return };
    let path = strict.path("file");
    let plain = File::create(&path).unwrap();
    strict.sync("");
    plain.write_all_at(&[1; 4096], 0).unwrap();
    let flushing = File::options().write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    flushing.write_all_at(&[2; 4096], 4096).unwrap();
    plain.write_all_at(&[3; 4096], 8192).unwrap();
    let (_place, left, actions) = strict.left();
    assert_eq!(fs::read(left.join("file")).unwrap(), [[0; 4096], [2; 4096]].concat());
    let flushes = actions.iter().filter(|action| matches!(action, StrictAction::SyncFile { .. })).count();
    let settled = actions.iter().filter(|action| matches!(action, StrictAction::Settle { .. })).count();
    assert_eq!((flushes, settled), (0, 1), "{actions:?}");
}

#[test]
fn program_sees_a_file_system_like_any_other() {
    let Some(strict) = strict() else { return };
    let path = strict.path("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    file.set_len(50_000).unwrap();
    file.set_len(60_000).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 70_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 70_000);
    let mut expected = vec![7; 50_000];
    expected.resize(70_000, 0);
    assert_eq!(fs::read(&path).unwrap(), expected);
    file.try_lock().unwrap();
    assert!(File::open(&path).unwrap().try_lock().is_err(), "flock holds");
    // Unlinked while it is open.
    fs::remove_file(&path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"still there").unwrap();
    let mut read = [0; 11];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"still there");
    drop(file);
    fs::create_dir_all(strict.path("a/b")).unwrap();
    assert!(fs::remove_dir(strict.path("a")).is_err(), "not empty");
    for number in 0..300 {
        fs::write(strict.path(&format!("a/b/{number}")), [number as u8; 10]).unwrap();
    }
    assert_eq!(names(&strict.path("a/b")).len(), 300);
    let direct = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "count=4", "oflag=direct", "status=none"])
        .arg(format!("of={}", strict.path("direct").display()))
        .status();
    assert!(direct.unwrap().success());
    fs::remove_dir_all(strict.path("a")).unwrap();
    assert_eq!(names(&strict.path("")), ["direct"]);
    assert_eq!(names(&strict.left().1), [""; 0]);
}

#[test]
fn server_that_is_killed_leaves_nothing_after_a_cleanup() {
    let Some(strict) = strict() else { return };
    let mount_point = strict.directory.mount_point().to_owned();
    fs::write(strict.path("file"), "x").unwrap();
    highwater_disk::kill(strict.directory.pid()).unwrap();
    let stopped = strict.directory.stop();
    assert!(stopped.is_err(), "the server could not answer");
    assert!(!mount_point.exists(), "{} is left", mount_point.display());
}

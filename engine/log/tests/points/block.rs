//! The same work on file systems: the disk below them records its writes and flushes, and what it holds after a cut at one of
//! them is mounted, whereupon the file system recovers, and opened.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use highwater_disk::{
    Action, Backing, CutMode, Disk, DiskConfig, DiskReplay, FileSystem, Grain, ServerProgram, preflight,
};

use crate::ledger::{Instant, Ledger};
use crate::walk::{DIR, Outcome, judged, scratch};
use crate::work::{Work, run};

/// XFS takes no less.
const SIZE_BYTES: u64 = 320 << 20;

/// A file system on an image file, until it is dropped.
struct Mounted {
    mount_point: PathBuf,
}

impl Mounted {
    fn new(image: &Path, mount_point: &Path, file_system: FileSystem) -> Result<Self, String> {
        std::fs::create_dir_all(mount_point).expect("a mount point");
        let options = if file_system == FileSystem::Xfs { "loop,nouuid" } else { "loop" };
        let mounted = Command::new("mount")
            .args(["-t", file_system.name(), "-o", options])
            .args([image, mount_point])
            .output()
            .expect("mount is there");
        if mounted.status.success() {
            return Ok(Mounted { mount_point: mount_point.to_owned() });
        }
        Err(format!("{} does not mount: {}", file_system.name(), String::from_utf8_lossy(&mounted.stderr)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let unmount = |options: &[&str]| Command::new("umount").args(options).arg(&self.mount_point).status();
        if !unmount(&[]).is_ok_and(|status| status.success()) {
            let _ = unmount(&["--lazy"]);
        }
    }
}

/// Points that are tried: at every n-th flush.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) points: u64,
    pub(crate) subsets: u64,
}

/// Does the work on a disk with this file system and goes through its recording; none, loudly, where it cannot be.
pub(crate) fn prove(
    work: &Work,
    file_system: FileSystem,
    server: ServerProgram,
    sample: Sample,
) -> Option<Outcome> {
    let missing = preflight().err().map(|error| error.to_string()).or_else(|| file_system.missing());
    if let Some(missing) = missing {
        eprintln!("\n*** SKIPPED: {}: {missing} ***\n", file_system.name());
        return None;
    }
    let place = scratch();
    let recording = place.path().join("recording");
    let config = DiskConfig {
        server,
        backing: Backing::Memory,
        recording: Some(recording.clone()),
        ..DiskConfig::new(SIZE_BYTES).on(file_system)
    };
    let disk = Disk::create(config).expect("a disk");
    let ledger = run(work, &disk.mount_point().join(DIR));
    assert_eq!(disk.stats().expect("it is there").recording_error, None);
    disk.stop().expect("it goes without a trace");
    assert_eq!(ledger.violation, None);
    Some(walk(&recording, ledger, file_system, sample))
}

fn walk(recording: &Path, ledger: Ledger, file_system: FileSystem, sample: Sample) -> Outcome {
    let ledger = Arc::new(ledger);
    // Before the file system is made there is nothing to mount: the first flushes are its maker's.
    let begun = ledger.begun();
    let mut flushes = 0;
    let mut replay = DiskReplay::open(recording).expect("a recording");
    while let Some(event) = replay.advance().expect("readable") {
        flushes += u64::from(event.action == Action::Flush && event.monotonic_ns > begun);
    }
    let every = (flushes / sample.points).max(1);
    let mut outcome = Outcome::default();
    let mut replay = DiskReplay::open(recording).expect("a recording");
    let mut point = 0;
    while let Some(next) = replay.peek() {
        let (is_flush, at) = (next.action == Action::Flush, next.monotonic_ns);
        if is_flush && at > begun {
            point += 1;
            if point % every == 0 {
                outcome += try_point(&replay, &ledger, file_system, point, at, sample.subsets);
            }
        }
        replay.advance().expect("readable");
    }
    outcome += try_point(&replay, &ledger, file_system, point + 1, Instant::MAX, sample.subsets);
    outcome
}

fn try_point(
    replay: &DiskReplay,
    ledger: &Arc<Ledger>,
    file_system: FileSystem,
    point: u64,
    at: Instant,
    subsets: u64,
) -> Outcome {
    let mut outcome = Outcome { points: 1, ..Outcome::default() };
    let mut seen = Vec::new();
    // No shorn blocks: file systems do not promise to survive them.
    let drawn = (0..subsets).flat_map(|number| {
        [Grain::Sector, Grain::Block]
            .map(|grain| CutMode::KeepSubset { seed: point * 1000 + number, grain: Some(grain) })
    });
    for mode in std::iter::once(CutMode::DropAll).chain(drawn) {
        let image = replay.cut(mode);
        if seen.contains(&image) {
            continue;
        }
        let place = scratch();
        let file = place.path().join("image");
        image.write_to(&file).expect("written");
        seen.push(image);
        outcome.states += 1;
        let verdict = Mounted::new(&file, &place.path().join("mnt"), file_system)
            .and_then(|mounted| judged(&mounted.mount_point.join(DIR), ledger, at));
        if let Err(what) = verdict {
            outcome.violations.push(format!("{}, point {point} ({mode:?}): {what}", file_system.name()));
        }
    }
    outcome
}

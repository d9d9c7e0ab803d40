//! A broker's data directory, watched for what it does to its files: the only way to know of a black box that it begins
//! a segment, notes a checkpoint or deletes by retention, and to hit it while it does.
//!
//! By inotify, so that what happens within a millisecond is seen. Directories that come later are not watched: a fault
//! that is aimed at a file comes while the broker's directories stand.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_checker::Nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::cancel::{Cancel, Interrupted};
use crate::clock::Clock;

/// How a segment's file is called, by Kafka and whoever keeps its format.
const SEGMENT_SUFFIX: &str = ".log";
/// Between two looks at whether somebody asked to stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const BUFFER_BYTES: usize = 16 << 10;

/// What is waited for.
#[derive(Debug, Clone)]
pub(super) enum Sign {
    /// A new segment.
    Roll,
    /// A segment that is gone, or has got a name that says so.
    Retention,
    /// One of these files is written, or renamed into its place.
    Checkpoint(Vec<String>),
}

/// Something that was waited for and happened.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) at: Nanos,
    /// The file, below the data directory.
    pub(super) file: PathBuf,
}

/// A watched directory.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    directories: BTreeMap<i32, PathBuf>,
    sign: Sign,
    clock: Clock,
}

impl Watch {
    /// Watches `data` and every directory below it.
    pub(super) fn new(data: &Path, sign: Sign, clock: Clock) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut watch = Watch { inotify, directories: BTreeMap::new(), sign, clock };
        let mut open = vec![PathBuf::new()];
        while let Some(directory) = open.pop() {
            let path = data.join(&directory);
            let id = match inotify::add_watch(&watch.inotify, &path, watch.sign.events()) {
                // The broker may have removed it since it was listed.
                Err(Errno::NOENT) => continue,
                added => added?,
            };
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(directory.join(entry.file_name()));
                }
            }
            watch.directories.insert(id, directory);
        }
        Ok(watch)
    }

    /// The next sign until `deadline`.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        cancel: &Cancel,
    ) -> io::Result<Result<Option<Seen>, Interrupted>> {
        loop {
            if let Some(seen) = self.read()? {
                return Ok(Ok(Some(seen)));
            }
            if let Err(interrupted) = cancel.check() {
                return Ok(Err(interrupted));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Ok(None));
            }
            let left = left.min(LOOK_INTERVAL);
            let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The last sign of those that have come: the nearest.
    fn read(&self) -> io::Result<Option<Seen>> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut last = None;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(last),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let name = event.file_name().and_then(|name| name.to_str().ok()).unwrap_or_default();
            if self.sign.matches(name) && !event.events().contains(ReadFlags::ISDIR) {
                let directory = self.directories.get(&event.wd()).cloned().unwrap_or_default();
                last = Some(Seen { at: self.clock.now(), file: directory.join(name) });
            }
        }
    }
}

impl Sign {
    fn events(&self) -> WatchFlags {
        match self {
            Sign::Roll => WatchFlags::CREATE | WatchFlags::MOVED_TO,
            Sign::Retention => WatchFlags::DELETE | WatchFlags::MOVED_FROM,
            Sign::Checkpoint(_) => WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO,
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Sign::Roll | Sign::Retention => name.ends_with(SEGMENT_SUFFIX),
            Sign::Checkpoint(files) => files.iter().any(|file| file == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(directory: &Path, sign: Sign) -> Watch {
        Watch::new(directory, sign, Clock::start()).unwrap()
    }

    fn next(watch: &Watch) -> Option<PathBuf> {
        watch.wait(Instant::now(), &Cancel::new()).unwrap().unwrap().map(|seen| seen.file)
    }

    #[test]
    fn roll_is_a_new_segment_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let partition = data.path().join("t-0");
        std::fs::create_dir(&partition).unwrap();
        std::fs::write(partition.join("old.log"), "").unwrap();
        let watch = watch(data.path(), Sign::Roll);
        std::fs::write(partition.join("0.index"), "").unwrap();
        std::fs::write(partition.join("old.log"), "more").unwrap();
        assert_eq!(next(&watch), None);
        std::fs::write(partition.join("1.log"), "").unwrap();
        assert_eq!(next(&watch), Some("t-0/1.log".into()));
    }

    #[test]
    fn retention_is_a_segment_that_is_removed_or_renamed() {
        let data = tempfile::tempdir().unwrap();
        for name in ["1.log", "2.log", "1.index"] {
            std::fs::write(data.path().join(name), "").unwrap();
        }
        let watch = watch(data.path(), Sign::Retention);
        std::fs::remove_file(data.path().join("1.index")).unwrap();
        assert_eq!(next(&watch), None);
        std::fs::remove_file(data.path().join("1.log")).unwrap();
        assert_eq!(next(&watch), Some("1.log".into()));
        std::fs::rename(data.path().join("2.log"), data.path().join("2.log.deleted")).unwrap();
        assert_eq!(next(&watch), Some("2.log".into()));
    }

    #[test]
    fn checkpoint_is_a_write_to_a_file_that_the_driver_names() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("checkpoint-0"), "old").unwrap();
        let watch = watch(data.path(), Sign::Checkpoint(vec!["checkpoint-0".to_owned()]));
        std::fs::write(data.path().join("other"), "").unwrap();
        assert_eq!(next(&watch), None);
        std::fs::write(data.path().join("checkpoint-0"), "new").unwrap();
        assert_eq!(next(&watch), Some("checkpoint-0".into()));
    }

    #[test]
    fn wait_ends_when_somebody_asks_to_stop() {
        let data = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        let far = Instant::now() + Duration::from_secs(3_600);
        let waited = watch(data.path(), Sign::Roll).wait(far, &cancel).unwrap();
        assert_eq!(waited.err(), Some(Interrupted));
    }
}

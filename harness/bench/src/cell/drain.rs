//! What a broker still owes the disk when its load is over: dirty pages, and what it writes behind its acks by itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::broker::process::Broker;
use crate::cancel::Cancel;

use super::CellError;

/// A broker that wrote nothing for so long has nothing under way.
const QUIET: Duration = Duration::from_millis(100);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A broker that goes on writing has done so for the load by then.
const WITHIN: Duration = Duration::from_secs(30);
/// Flushes that are asked for at once: the device does them together. A flush of a file that is durable already costs one of the
/// device all the same, and of ten thousand partitions each has such a file.
const FLUSHERS: usize = 16;
/// File times come from the clock's last tick.
const TICK: Duration = Duration::from_millis(20);

/// Flushes what in `data` changed after `since`, waits until the broker writes no more, and flushes that. How long that took:
/// until the last flush that had something to do.
///
/// File by file: nobody else's writes are charged to the broker, as they would be with the whole file system, and what lay
/// there before costs a look each.
pub(super) fn drain(
    broker: &Broker,
    data: &Path,
    since: SystemTime,
    cancel: &Cancel,
) -> Result<Duration, CellError> {
    let begun = Instant::now();
    flush_changed(data, since - TICK)?;
    let flushed = begun.elapsed();
    let (mut written, mut last) = (broker.usage().written_bytes, flushed);
    while begun.elapsed() < (last + QUIET).min(WITHIN) {
        cancel.wait(LOOK_INTERVAL)?;
        let now = broker.usage().written_bytes;
        if now != written {
            (written, last) = (now, begun.elapsed());
        }
    }
    if last == flushed {
        return Ok(flushed);
    }
    let again = Instant::now();
    flush_changed(data, since - TICK)?;
    Ok(last + again.elapsed())
}

/// Flushes every file below `data` whose content changed after `since`; how many these are.
fn flush_changed(data: &Path, since: SystemTime) -> Result<usize, CellError> {
    let changed = changed_files(data, since)?;
    let (next, flushed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let flush_some = || -> Result<(), CellError> {
        while let Some(path) = changed.get(next.fetch_add(1, Ordering::Relaxed)) {
            flushed.fetch_add(usize::from(flush(path)?), Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let flushers: Vec<_> = (0..FLUSHERS.min(changed.len())).map(|_| scope.spawn(flush_some)).collect();
        flushers.into_iter().try_for_each(|flusher| flusher.join().expect("it does not panic"))
    })?;
    Ok(flushed.into_inner())
}

fn changed_files(data: &Path, since: SystemTime) -> Result<Vec<PathBuf>, CellError> {
    let mut changed = Vec::new();
    let mut open = vec![data.to_owned()];
    while let Some(directory) = open.pop() {
        let io = |source| CellError::Io { path: directory.clone(), source };
        for entry in std::fs::read_dir(&directory).map_err(io)? {
            let entry = entry.map_err(io)?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() && has_changed(&entry, since) => changed.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(changed)
}

fn has_changed(entry: &std::fs::DirEntry, since: SystemTime) -> bool {
    entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified >= since)
}

/// Whether it was still there: the broker runs on, and may have removed it.
fn flush(path: &Path) -> Result<bool, CellError> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(false) };
    file.sync_data().map_err(|source| CellError::Io { path: path.to_owned(), source })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_change_is_not_flushed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (old, new) = (dir.path().join("old"), dir.path().join("topic-0/new"));
        std::fs::create_dir(new.parent().expect("a folder")).expect("made");
        std::fs::write(&old, "before").expect("written");
        let since = SystemTime::now();
        let long_ago = since - Duration::from_secs(60);
        std::fs::File::options()
            .write(true)
            .open(&old)
            .and_then(|file| file.set_modified(long_ago))
            .expect("the time is set");
        std::fs::write(&new, "since").expect("written");
        assert_eq!(flush_changed(dir.path(), since - TICK).expect("flushed"), 1);
        assert_eq!(flush_changed(dir.path(), long_ago).expect("flushed"), 2);
    }
}

//! What the bare device does: the floor below every figure of the report.
//!
//! Two measurements in the directory that brokers will use: how long `fdatasync` takes after a 4 KiB overwrite, the
//! least that a durable append can cost; and how fast large sequential writes go, the most that a log can take. Both
//! with direct I/O, so that the page cache takes no part.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand_chacha::rand_core::Rng;
use rustix::fs::OFlags;

use crate::cancel::{Cancel, Interrupted};
use crate::results::{DeviceFloor, Latency};
use crate::seed::Seed;

const BLOCK_BYTES: usize = 4 << 10;
const CHUNK_BYTES: usize = 1 << 20;
/// The blocks that are overwritten and flushed, in turn.
const FILE_BYTES: u64 = 16 << 20;
/// Sequential writes go no further than this, so that a fast disk is not filled.
const SEQUENTIAL_BYTES: u64 = 2 << 30;

/// A median flush below this is cheaper than any medium: something between here and it answers early.
pub const SUSPICIOUS_FLUSH: Duration = Duration::from_micros(15);

/// Why the device was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// The device refused.
    #[error("measuring the device at {path}: {source}; --scratch DIR names a place on another", path = path.display())]
    Io {
        /// The scratch file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Measures the device below `directory`, for `budget` each way. Leaves nothing behind.
pub fn device_floor(
    directory: &Path,
    budget: Duration,
    cancel: &Cancel,
) -> Result<DeviceFloor, CalibrationError> {
    let path = directory.join("calibration");
    let scratch = Scratch::create(path.clone()).map_err(|source| CalibrationError::Io { path, source })?;
    let io = |source| CalibrationError::Io { path: scratch.path.clone(), source };
    // Content that compresses would flatter a device that compresses.
    let mut buffer = Aligned::new(CHUNK_BYTES);
    Seed(0).child("calibration").rng().fill_bytes(buffer.bytes());
    scratch.fill(buffer.bytes()).map_err(io)?;
    let fdatasync = measure_fdatasync(&scratch.file, &buffer.bytes()[..BLOCK_BYTES], budget, cancel, io)?;
    let write_bytes_per_second = measure_sequential(&scratch.file, buffer.bytes(), budget, cancel, io)?;
    Ok(DeviceFloor { fdatasync, write_bytes_per_second })
}

fn measure_fdatasync(
    file: &File,
    block: &[u8],
    budget: Duration,
    cancel: &Cancel,
    io: impl Fn(io::Error) -> CalibrationError,
) -> Result<Latency, CalibrationError> {
    let mut latency = Latency::default();
    let end = Instant::now() + budget;
    let mut position = 0;
    while Instant::now() < end {
        cancel.check()?;
        file.write_all_at(block, position).map_err(&io)?;
        let before = Instant::now();
        file.sync_data().map_err(&io)?;
        latency.record(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
        position = (position + BLOCK_BYTES as u64) % FILE_BYTES;
    }
    Ok(latency)
}

fn measure_sequential(
    file: &File,
    chunk: &[u8],
    budget: Duration,
    cancel: &Cancel,
    io: impl Fn(io::Error) -> CalibrationError,
) -> Result<f64, CalibrationError> {
    let start = Instant::now();
    let mut written = 0;
    while start.elapsed() < budget && written < SEQUENTIAL_BYTES {
        cancel.check()?;
        file.write_all_at(chunk, FILE_BYTES + written).map_err(&io)?;
        written += chunk.len() as u64;
    }
    file.sync_data().map_err(&io)?;
    Ok(written as f64 / start.elapsed().as_secs_f64())
}

/// The file that is measured with, removed at the end.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create(path: PathBuf) -> io::Result<Self> {
        let mut options = File::options();
        options.create(true).truncate(true).write(true);
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = match options.clone().custom_flags(direct).open(&path) {
            // A file system in memory knows no direct I/O; its figures speak for themselves.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(&path)?,
            opened => opened?,
        };
        Ok(Scratch { path, file })
    }

    /// Blocks that were never written would make the first flush pay for their allocation.
    fn fill(&self, chunk: &[u8]) -> io::Result<()> {
        let mut position = 0;
        while position < FILE_BYTES {
            self.file.write_all_at(chunk, position)?;
            position += chunk.len() as u64;
        }
        self.file.sync_all()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Memory aligned for direct I/O.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    bytes: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + BLOCK_BYTES];
        let from = memory.as_ptr().align_offset(BLOCK_BYTES);
        Aligned { memory, from, bytes }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_floor_is_measured_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let floor = device_floor(directory.path(), Duration::from_millis(20), &Cancel::new()).unwrap();
        assert!(!floor.fdatasync.is_empty());
        assert!(floor.write_bytes_per_second > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn interrupted_calibration_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(device_floor(directory.path(), Duration::from_secs(60), &cancel).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn directory_that_is_not_there_is_named() {
        let error = device_floor(Path::new("/nonexistent"), Duration::ZERO, &Cancel::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/calibration"), "{error}");
    }
}

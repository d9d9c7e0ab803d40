//! Flushing what recovery touched: many files and directories, several at once, since the file system and the device make one
//! flush of several that are asked for together.

use std::path::PathBuf;
use std::rc::Rc;

use highwater_io::{FileError, Io, concurrent, fs};

/// Flushes in flight.
const AT_ONCE: usize = 64;

/// Flushes files, and closes them.
pub(super) async fn files(io: &Io, files: Vec<Rc<fs::File>>) -> Result<(), FileError> {
    let flushes = files.into_iter().map(|file| async move { file.sync_all().await });
    concurrent::all(io, AT_ONCE, flushes).await.into_iter().collect()
}

/// Flushes directories, those that are gone left out.
pub(super) async fn dirs(io: &Io, dirs: Vec<PathBuf>) -> Result<(), FileError> {
    let flushes = dirs.into_iter().map(|dir| {
        let io = io.clone();
        async move {
            match io.fs().sync_dir(&dir).await {
                Err(error) if error.is_not_found() => Ok(()),
                flushed => flushed,
            }
        }
    });
    concurrent::all(io, AT_ONCE, flushes).await.into_iter().collect()
}

//! Flushing what recovery touched: many files and directories, several at once, since the file system and the device make one
//! flush of several that are asked for together.

use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;

use highwater_io::{FileError, Io, fs};

/// Flushes in flight.
const AT_ONCE: usize = 64;

/// Flushes files, and closes them.
pub(super) async fn files(io: &Io, files: Vec<fs::File>) -> Result<(), FileError> {
    each(io, files, |_, file| async move { file.sync_all().await }).await
}

/// Flushes directories, those that are gone left out.
pub(super) async fn dirs(io: &Io, dirs: Vec<PathBuf>) -> Result<(), FileError> {
    each(io, dirs, |io, dir| async move {
        match io.fs().sync_dir(&dir).await {
            Err(error) if error.is_not_found() => Ok(()),
            flushed => flushed,
        }
    })
    .await
}

/// Does `work` for each, and gives the first failure.
async fn each<T, F, Fut>(io: &Io, all: Vec<T>, work: F) -> Result<(), FileError>
where
    T: 'static,
    F: Fn(Io, T) -> Fut + Clone + 'static,
    Fut: Future<Output = Result<(), FileError>> + 'static,
{
    let tasks = all.len().min(AT_ONCE);
    let all = Rc::new(RefCell::new(all));
    let begin = |_| {
        let (io, all, work) = (io.clone(), Rc::clone(&all), work.clone());
        io.clone().spawn(async move {
            loop {
                let Some(next) = all.borrow_mut().pop() else { return Ok(()) };
                work(io.clone(), next).await?;
            }
        })
    };
    let tasks: Vec<_> = (0..tasks).map(begin).collect();
    let mut outcome = Ok(());
    for task in tasks {
        outcome = outcome.and(task.await);
    }
    outcome
}

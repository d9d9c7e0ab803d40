//! The folder of a new sweep, which is there until something is worth keeping in it: a sweep that comes to nothing takes
//! away what it made, and nothing else.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::SweepError;
use crate::results::store::ResultsDir;

/// A folder that this sweep made for itself. Dropped it is removed, unless it was [kept](Self::keep).
#[derive(Debug)]
pub(super) struct NewFolder {
    pub(super) path: PathBuf,
    /// Directories around it that were not there either, from the outermost.
    around: Vec<PathBuf>,
}

impl NewFolder {
    /// Makes `results/NAME`, or `NAME-2`, `NAME-3`, … if that is taken. Two sweeps that begin together have two folders.
    pub(super) fn make(results: &Path, name: &str) -> Result<Self, SweepError> {
        let mut new = NewFolder { path: PathBuf::new(), around: Vec::new() };
        let failed = |path: &Path, source| SweepError::Results { path: path.to_owned(), source };
        make_all(results, &mut new.around).map_err(|source| failed(results, source))?;
        for number in 1_u32.. {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let path = results.join(format!("{name}{suffix}"));
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    new.path = path;
                    break;
                }
                Err(taken) if taken.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed(&path, source)),
            }
        }
        Ok(new)
    }

    /// As results.
    pub(super) fn results(&self) -> ResultsDir {
        ResultsDir::new(&self.path)
    }

    /// It stays.
    pub(super) fn keep(mut self) -> ResultsDir {
        self.around.clear();
        ResultsDir::new(std::mem::take(&mut self.path))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // What cannot be removed is harmless, and the error that led here says more.
        if self.path != Path::new("") {
            let _ = std::fs::remove_dir_all(&self.path);
        }
        // Where somebody put something meanwhile it is not empty, and stays.
        for directory in self.around.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Makes the directory `path` and what is missing around it, and adds what it made to `made`.
fn make_all(path: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let missing = path.ancestors().take_while(|path| *path != Path::new("") && !path.exists());
    let missing: Vec<&Path> = missing.collect();
    for directory in missing.into_iter().rev() {
        match std::fs::create_dir(directory) {
            Ok(()) => made.push(directory.to_owned()),
            // By another sweep, just now: not ours.
            Err(taken) if taken.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(source),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_that_begin_together_have_folders_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let results = directory.path().join("a/results");
        let make = || NewFolder::make(&results, "w").unwrap();
        let mut made: Vec<NewFolder> = std::thread::scope(|scope| {
            let begun: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            begun.into_iter().map(|sweep| sweep.join().unwrap()).collect()
        });
        let mut names: Vec<PathBuf> = made.iter().map(|new| new.path.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 8, "{names:?}");
        assert!(results.join("w").exists() && results.join("w-8").exists());

        let kept = made.pop().unwrap().keep();
        std::fs::write(kept.path().join("sweep.json"), "x").unwrap();
        drop(made);
        assert!(kept.path().join("sweep.json").exists());
        assert_eq!(std::fs::read_dir(&results).unwrap().count(), 1);
    }

    #[test]
    fn folder_that_is_not_kept_goes_with_what_was_made_around_it() {
        let directory = tempfile::tempdir().unwrap();
        drop(NewFolder::make(&directory.path().join("a/b"), "w").unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        drop(NewFolder::make(directory.path(), "w").unwrap());
        assert!(directory.path().exists());
        // A file is in the way: what was made before it was seen is gone too.
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(NewFolder::make(&directory.path().join("file/results"), "w").is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

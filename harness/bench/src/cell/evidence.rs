//! A data directory as a fault left it, before anybody repaired it: kept only if the verdict needs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::CellError;

const NAME: &str = "evidence";

/// A copy, beside the broker's own files until somebody wants it; it goes with them.
pub(super) struct Evidence {
    path: PathBuf,
}

impl Evidence {
    /// Copies `data` to a place in `work`.
    pub(super) fn take(data: &Path, work: &Path) -> Result<Self, CellError> {
        let path = work.join(NAME);
        copy(data, &path)?;
        Ok(Evidence { path })
    }

    /// Moves the copy to `to`, for people.
    pub(super) fn keep(&self, to: &Path) -> Result<(), CellError> {
        let io = |source| CellError::Io { path: to.to_owned(), source };
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        copy(&self.path, to)
    }
}

/// cp(1) knows what is sparse.
fn copy(from: &Path, to: &Path) -> Result<(), CellError> {
    let io = |source| CellError::Io { path: to.to_owned(), source };
    let mut command = Command::new("cp");
    command.args(["-a", "--sparse=always"]).arg(from).arg(to).stdin(Stdio::null());
    let output = command.output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    Err(io(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}

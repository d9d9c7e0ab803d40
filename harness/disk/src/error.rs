//! What can go wrong with a disk, each naming the thing that failed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a disk could not be made, cut, restarted or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine lacks something. The message is one sentence with the remedy.
    #[error("this machine cannot run a disk with a power switch: {0}")]
    Unsupported(String),

    /// A system call on a path failed.
    #[error("could not {action} {}: {cause}", path.display())]
    Io {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The errno. Part of the message, hence no `source` that would repeat it.
        cause: io::Error,
    },

    /// A system tool could not be started or ended with an error.
    #[error("`{command}` {outcome}{}", quoted(stderr))]
    Command {
        /// The command line as it was run.
        command: String,
        /// How it ended.
        outcome: String,
        /// What it wrote to standard error.
        stderr: String,
    },

    /// A system tool did not end in time. It was killed.
    #[error("`{command}` did not end within {limit:?} and was killed")]
    CommandHung {
        /// The command line as it was run.
        command: String,
        /// How long it was given.
        limit: Duration,
    },

    /// A command came in a state in which it makes no sense.
    #[error("cannot {request} while the disk is {state}")]
    WrongState {
        /// What was asked.
        request: &'static str,
        /// The state it came in.
        state: &'static str,
    },

    /// The file system cannot be unmounted since it is in use.
    #[error("{} is still in use {users}; kill them first", mount_point.display())]
    Busy {
        /// Where the disk is mounted.
        mount_point: PathBuf,
        /// Who uses it, in words.
        users: String,
    },

    /// A setting of the disk that cannot work.
    #[error("invalid setting: {0}")]
    Invalid(String),

    /// A request refused by the process that serves the disk, in its words.
    #[error("{0}")]
    Refused(String),

    /// The process that serves the disk is gone or answered out of protocol.
    #[error("the process that serves the disk {}: {problem}", place.display())]
    Server {
        /// The control socket or the program.
        place: PathBuf,
        /// What happened.
        problem: String,
    },

    /// A recording that is not one, or is damaged.
    #[error("recording {} at byte {position_bytes}: {problem}", path.display())]
    Recording {
        /// The recording.
        path: PathBuf,
        /// Where in it.
        position_bytes: u64,
        /// What is wrong there.
        problem: String,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn quoted(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!(": {}", text.replace('\n', "; ")) }
}

/// Adds the action and the path to an I/O error.
pub(crate) trait At<T> {
    /// `action` is a verb phrase that reads well before the path: "open", "create the directory".
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|cause| Error::Io { action, path: path.to_owned(), cause: cause.into() })
    }
}

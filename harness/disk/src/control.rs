//! What is said between the process that serves a disk and those that command it: one JSON object a line, each
//! request answered by one reply, over a Unix socket.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Kind;
use crate::error::{At, Error, Result};
use crate::fault::{CutMode, Fault};
use crate::stats::PowerState;

/// Longer than any message: the longest carries what e2fsck said.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A command to the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub(crate) enum Request {
    Describe,
    Stats,
    CutPower { mode: CutMode },
    ReleaseHungIo,
    FinishCut,
    PowerOn,
    Inject { fault: Fault },
    Heal,
    Stall,
    Resume,
    Stop,
}

/// The answer to one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply<T> {
    Ok(T),
    Error(String),
}

/// What a disk is and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The process that serves it.
    pub pid: u32,
    /// What stands under the file system.
    pub kind: Kind,
    /// Size of the medium.
    pub size_bytes: u64,
    /// Where it is mounted when it is on.
    pub mount_point: PathBuf,
    /// Its control socket.
    pub control: PathBuf,
    /// Its state directory.
    pub state_directory: PathBuf,
    /// Its loop device; none while it is detached. A new one may be used at each power on.
    pub loop_device: Option<PathBuf>,
    /// Where it stands.
    pub power: PowerState,
}

/// One end of a conversation.
pub(crate) struct Line {
    stream: BufReader<UnixStream>,
    place: PathBuf,
}

impl Line {
    /// `place` is how errors name the other end.
    pub(crate) fn new(stream: UnixStream, place: &Path) -> Self {
        Self { stream: BufReader::new(stream), place: place.to_owned() }
    }

    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_vec(message).map_err(std::io::Error::from).at("encode for", &self.place)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).at("write to", &self.place)
    }

    /// The next message; none if the other end has closed.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        match read {
            Ok(_) => {}
            // Closed with something unread on the way.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).at("read from", &self.place),
        }
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        let message = serde_json::from_slice(&line);
        message.map(Some).map_err(|error| self.broken(format!("sent what is no message here: {error}")))
    }

    /// Asks and waits for the answer.
    pub(crate) fn call<T: DeserializeOwned>(&mut self, message: &impl Serialize) -> Result<T> {
        self.send(message).map_err(|error| self.broken(error.to_string()))?;
        match self.receive()? {
            Some(Reply::Ok(value)) => Ok(value),
            Some(Reply::Error(text)) => Err(Error::Refused(text)),
            None => Err(self.broken("has ended".to_owned())),
        }
    }

    fn broken(&self, problem: String) -> Error {
        Error::Server { place: self.place.clone(), problem }
    }
}

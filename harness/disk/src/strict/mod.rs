//! The second, strict mode: a directory in which each flush counts for itself.
//!
//! A disk with a power switch forgives much: one flush makes everything durable, and the file system commits all metadata
//! with it, so a skipped flush of one file hides behind the next flush of another. A strict directory makes durable only
//! what a program may rely on by the letter:
//!
//! | What comes to its end | is durable then |
//! |---|---|
//! | `fsync`, `fdatasync` of a file | what was done to that file before: bytes and length, not its name |
//! | a write with `RWF_DSYNC`, or to a file opened with `O_DSYNC` | that write, and the length that is needed to find it |
//! | `fsync` of a directory | creations, removals and renames in it that were done before, not the files themselves |
//! | a rename between directories | once both are synced; until then it has happened or not, never by half |
//!
//! Nothing else is, however long one waits. A new directory whose own name is not durable is lost with all that is in it.
//!
//! ```text
//!   the program under test            O_DIRECT, io_uring, flock, fallocate, rename, …
//!   FUSE, a whole directory           served by a process of its own (fuse, server: below)
//!   live tree over durable tree       what readers see, what survives (tree, content, names)
//!   recording                         every change and every flush, in order (recording)
//!        │
//!        └─► Replay: the power is cut between any two events; what is left is written into a plain directory
//! ```
//!
//! [`StrictDirectory`] makes one and records it; [`Replay`] reads the recording. A cut is made in the replay, not in the live
//! directory: so thousands of cuts are made of one run, each state is opened without a mount, and the program under test
//! needs to be run only once. A [`CutMode`](crate::CutMode) says what survives of that which was not durable: nothing, or a
//! seeded subset of the changes of names, lengths and bytes, torn at 512 bytes or 4 KiB, with or without shorn blocks.
//!
//! ```no_run
//! use highwater_disk::strict::{Replay, StrictConfig, StrictDirectory};
//! use highwater_disk::CutMode;
//!
//! let directory = StrictDirectory::create(StrictConfig::new("recording"))?;
//! std::fs::write(directory.mount_point().join("file"), "not flushed")?;
//! directory.stop()?;
//! let mut replay = Replay::open("recording".as_ref())?;
//! while replay.advance()?.is_some() {}
//! replay.cut(CutMode::DropAll).write_to("left".as_ref())?; // empty
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it still forgives: sectors that a file grew over without being written read as zeros, never as garbage; a flush
//! covers a write that had come but was not answered when the flush came (the two are some microseconds apart). Absent:
//! links, owners, modes, times, extended attributes, shared writable mappings; a full disk; injected errors, which the disk
//! with a power switch has.

pub(crate) mod content;
pub(crate) mod draw;
mod fuse;
mod names;
mod recording;
mod tree;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cleanup::{self, sweep_directory};
use crate::config::ServerProgram;
use crate::control::{Line, Reply};
use crate::disk::{SERVE_STRICT_DIRECTORY, SERVE_VARIABLE, end, server_command};
use crate::error::{At, Error, Result};
use crate::place::{Place, Record, make_mount_point};
use crate::server::{Stop, protect_process, spawn, watch_signals};

pub use recording::{Replay, StrictEvent};
pub use tree::{Image, StrictAction};

/// How to make a [`StrictDirectory`]. Start from [`StrictConfig::new`] and change what differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrictConfig {
    /// Where to mount it, created if missing; by default a directory under [`crate::STATE_DIRECTORY`].
    pub mount_point: Option<PathBuf>,
    /// Where to record what happens; replaced if it exists.
    pub recording: PathBuf,
    /// How long a flush takes. What a program does too early falls into this time.
    pub flush_delay_us: u64,
    /// The program that serves it.
    #[serde(skip)]
    pub server: ServerProgram,
}

impl StrictConfig {
    /// A strict directory that is recorded to this file, with flushes of 200 µs.
    pub fn new(recording: impl Into<PathBuf>) -> Self {
        Self {
            mount_point: None,
            recording: recording.into(),
            flush_delay_us: 200,
            server: ServerProgram::default(),
        }
    }
}

/// What the server says once it is up.
#[derive(Debug, Serialize, Deserialize)]
struct Described {
    pid: u32,
    mount_point: PathBuf,
    state_directory: PathBuf,
}

/// A strict directory, mounted at [`StrictDirectory::mount_point`] and empty at first.
///
/// Dropping it takes it down; [`StrictDirectory::stop`] does the same and says what went wrong. Whatever was in it is then
/// in the recording alone.
pub struct StrictDirectory {
    described: Described,
    owned: Option<(Child, Line)>,
}

/// Whether the machine can serve strict directories. The error is one sentence with the remedies.
pub fn preflight() -> Result<()> {
    let problem = if !rustix::process::geteuid().is_root() {
        "it needs root (run it with sudo)"
    } else if !Path::new("/dev/fuse").exists() {
        "/dev/fuse is missing (try `modprobe fuse`, or pass the device into the container)"
    } else if crate::command::find_tool("umount").is_none() {
        "umount is missing (install the package mount)"
    } else {
        return Ok(());
    };
    Err(Error::Unsupported(problem.to_owned()))
}

impl StrictDirectory {
    /// Makes one, mounts it, and owns it. Removes first what dead servers left on this machine.
    pub fn create(config: StrictConfig) -> Result<Self> {
        preflight()?;
        let config = config.checked()?;
        // What cannot be removed is in nobody's way, or is met below with a better message.
        cleanup::cleanup()?;
        let (program, mut command) = server_command(&config.server)?;
        let (ours, theirs) = UnixStream::pair().at("make a control socket for", &program)?;
        let child = command
            .env(SERVE_VARIABLE, SERVE_STRICT_DIRECTORY)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .at("start", &program)?;
        // The command keeps its end of the socket open, and with it hides that the server has gone.
        drop(command);
        let mut line = Line::new(ours, &program);
        match line.call(&config) {
            Ok(described) => Ok(Self { described, owned: Some((child, line)) }),
            Err(error) => {
                drop(line);
                let _ = end(child);
                Err(error)
            }
        }
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.described.mount_point
    }

    /// The process that serves it.
    pub fn pid(&self) -> u32 {
        self.described.pid
    }

    /// Takes it down. The recording is complete then. Nobody may use it any more.
    pub fn stop(mut self) -> Result<()> {
        self.owned.take().map_or(Ok(()), |owned| self.take_down(owned))
    }

    fn take_down(&self, (child, mut line): (Child, Line)) -> Result<()> {
        let stopped: Result<()> = line.call(&"stop");
        drop(line);
        end(child)?;
        // Nothing if the server kept its word, everything if it was killed.
        cleanup::sweep_if_dead(&self.described.state_directory)?.into_result()?;
        stopped
    }
}

impl Drop for StrictDirectory {
    fn drop(&mut self) {
        if let Some(owned) = self.owned.take()
            && let Err(error) = self.take_down(owned)
        {
            eprintln!("highwater-disk: {} was not taken down: {error}", self.mount_point().display());
        }
    }
}

impl StrictConfig {
    fn checked(mut self) -> Result<Self> {
        for path in self.mount_point.iter_mut().chain([&mut self.recording]) {
            *path = std::path::absolute(&path).at("make absolute", path)?;
        }
        Ok(self)
    }
}

/// Serves a strict directory in the foreground until interrupted. `ready` is told where it is mounted.
pub fn serve(config: StrictConfig, ready: impl FnOnce(&Path)) -> Result<()> {
    preflight()?;
    cleanup::cleanup()?;
    let (stop, stopped) = sync_channel(1);
    watch_signals(stop)?;
    protect_process();
    let server = Server::start(config.checked()?)?;
    ready(&server.mount_point);
    // Cannot fail while signals are watched.
    let _ = stopped.recv();
    server.take_down()
}

/// Serves it for whoever has the other end of the line, until that closes or says stop.
pub(crate) fn serve_owner(mut owner: Line) -> Result<()> {
    let Some(config) = owner.receive::<StrictConfig>()? else { return Ok(()) };
    let (stop, stopped) = sync_channel(1);
    watch_signals(stop.clone())?;
    protect_process();
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return owner.send(&Reply::<()>::Error(error.to_string())),
    };
    owner.send(&Reply::Ok(Described {
        pid: std::process::id(),
        mount_point: server.mount_point.clone(),
        state_directory: server.place.directory().to_owned(),
    }))?;
    spawn("disk-owner", move || {
        let asked = matches!(owner.receive::<String>(), Ok(Some(_)));
        // A full channel means that the end is coming already.
        let _ = stop.try_send(if asked { Stop::Asked(owner) } else { Stop::Quietly });
    })?;
    let outcome = stopped.recv();
    let down = server.take_down();
    match outcome {
        Ok(Stop::Asked(mut owner)) => owner.send(&match down {
            Ok(()) => Reply::Ok(()),
            Err(error) => Reply::Error(error.to_string()),
        }),
        _ => down,
    }
}

/// The process that serves one strict directory. Like that of a disk it is a process of its own, since one that waits for
/// what it serves can deadlock, and it touches no file of the directory.
struct Server {
    place: Place,
    mount_point: PathBuf,
    shared: Arc<fuse::Shared>,
}

impl Server {
    fn start(config: StrictConfig) -> Result<Self> {
        let place = Place::create()?;
        let directory = place.directory().to_owned();
        let server = Self::build(config, place);
        if server.is_err() {
            // What was made so far goes again; the failure to report is the first one.
            let _ = sweep_directory(&directory);
        }
        server
    }

    fn build(config: StrictConfig, place: Place) -> Result<Self> {
        let mount_point = config.mount_point.unwrap_or_else(|| place.directory().join("mnt"));
        let record = Record {
            control: place.directory().join("control"),
            kind: None,
            size_bytes: 0,
            made_mount_point: make_mount_point(&mount_point)?,
            mount_point: mount_point.clone(),
            loop_device: None,
            loop_backing: None,
        };
        place.save(&record)?;
        let recorder = recording::Recorder::create(&config.recording)?;
        let flush_delay = Duration::from_micros(config.flush_delay_us);
        let shared = Arc::new(fuse::Shared::new(recorder, flush_delay));
        let session = fuse::serve(&shared, &mount_point).at("mount FUSE on", &mount_point)?;
        // It ends with its mount or with the process, whichever is first. Dropping it would unmount, waiting for it
        // could wait for ever.
        std::mem::forget(session);
        Ok(Self { place, mount_point, shared })
    }

    fn take_down(&self) -> Result<()> {
        let swept = sweep_directory(self.place.directory()).and_then(cleanup::Cleanup::into_result);
        self.shared.finish_recording().at("write the recording of", &self.mount_point)?;
        swept.map(drop)
    }
}

//! The handle to a disk: made and owned, or attached to by its control socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use crate::balloon::Balloon;
use crate::cleanup;
use crate::command::{find_tool, wait_for};
use crate::config::{DiskConfig, ServerProgram};
use crate::control::{Description, Line, Request};
use crate::error::{At, Error, Result};
use crate::fault::{CutMode, Fault};
use crate::kernel::{self, User};
use crate::server;
use crate::stack::{PowerOnReport, preflight};
use crate::stats::{CutReport, Stats};
use crate::strict;

/// Tells a program that calls [`serve_if_asked`] what to serve to whoever has the other end of its standard input.
pub(crate) const SERVE_VARIABLE: &str = "HIGHWATER_DISK_SERVE";
const SERVE_DISK: &str = "disk";
pub(crate) const SERVE_STRICT_DIRECTORY: &str = "strict-directory";
/// Names the program that serves disks.
const PROGRAM_VARIABLE: &str = "HIGHWATER_DISK";
const PROGRAM: &str = "highwater-disk";
/// How long a server may take to end after it has said that all is down.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// A disk with a power switch, mounted at [`Disk::mount_point`].
///
/// Dropping a disk that was made with [`Disk::create`] takes it down, and with it all that it left in the kernel;
/// [`Disk::stop`] does the same and says what went wrong. One that was attached to is left as it is.
///
/// # Cutting the power
///
/// In this order, and in no other: [`cut_power`](Disk::cut_power); links down; SIGKILL to the broker;
/// [`release_hung_io`](Disk::release_hung_io), since a process cannot die while it waits for I/O;
/// [`finish_cut`](Disk::finish_cut), which waits for the dead; [`power_on`](Disk::power_on).
///
/// While the disk is cut or stalled, a `sync(2)` anywhere on the machine hangs with it.
pub struct Disk {
    line: Mutex<Line>,
    description: Description,
    owned: Option<Child>,
}

impl Disk {
    /// Makes a disk, mounts it, and owns it. Removes first what dead servers left on this machine.
    pub fn create(config: DiskConfig) -> Result<Self> {
        preflight()?;
        let config = config.checked()?;
        // What cannot be removed is in nobody's way, or is met below with a better message.
        cleanup::cleanup()?;
        let (program, mut command) = server_command(&config.server)?;
        let (ours, theirs) = UnixStream::pair().at("make a control socket for", &program)?;
        let child = command
            .env(SERVE_VARIABLE, SERVE_DISK)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .at("start", &program)?;
        let mut line = Line::new(ours, &program);
        match line.call(&config) {
            Ok(description) => Ok(Self { line: Mutex::new(line), description, owned: Some(child) }),
            Err(error) => {
                drop(line);
                let _ = end(child);
                Err(error)
            }
        }
    }

    /// Commands a disk that someone else owns.
    pub fn attach(control: &Path) -> Result<Self> {
        let stream = UnixStream::connect(control).at("connect to", control)?;
        let mut line = Line::new(stream, control);
        let description = line.call(&Request::Describe)?;
        Ok(Self { line: Mutex::new(line), description, owned: None })
    }

    /// Where the disk is mounted. Keep data in a directory below it: beside it lie `lost+found` and the balloon.
    pub fn mount_point(&self) -> &Path {
        &self.description.mount_point
    }

    /// What the disk was when this handle was made.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What the disk is now.
    pub fn describe(&self) -> Result<Description> {
        self.call(&Request::Describe)
    }

    /// Counters, the last flushes, the last cut.
    pub fn stats(&self) -> Result<Stats> {
        self.call(&Request::Stats)
    }

    /// Switches the power off. From the instant in the report on, nothing that reaches the disk is done or answered.
    pub fn cut_power(&self, mode: CutMode) -> Result<CutReport> {
        self.call(&Request::CutPower { mode })
    }

    /// To be called once the disk's users were sent SIGKILL: their hung I/O ends, with EIO, and they with it.
    /// (After an OS crash it is carried out: that disk never lost its power.)
    pub fn release_hung_io(&self) -> Result<()> {
        self.call(&Request::ReleaseHungIo)
    }

    /// Drops the page cache (ext4 is shut down), unmounts, detaches the loop device. Waits some seconds for killed
    /// users to be gone, and names those that are not. May be repeated.
    pub fn finish_cut(&self) -> Result<()> {
        self.call(&Request::FinishCut)
    }

    /// Attaches and mounts again, whereupon ext4 replays its journal, and checks the result if so configured.
    pub fn power_on(&self) -> Result<PowerOnReport> {
        self.call(&Request::PowerOn)
    }

    /// Sets a fault, in place of an earlier one of its kind.
    pub fn inject(&self, fault: Fault) -> Result<()> {
        self.call(&Request::Inject { fault })
    }

    /// Ends all faults and a stall.
    pub fn heal(&self) -> Result<()> {
        self.call(&Request::Heal)
    }

    /// From now on no request is answered, until [`Disk::resume`].
    pub fn stall(&self) -> Result<()> {
        self.call(&Request::Stall)
    }

    /// Carries out what waited in a stall.
    pub fn resume(&self) -> Result<()> {
        self.call(&Request::Resume)
    }

    /// The processes with open files (or a working directory, …) on the disk.
    pub fn users(&self) -> Vec<User> {
        kernel::users_of(self.mount_point())
    }

    /// Sends SIGKILL to all users of the disk but this process. They end once their hung I/O is released.
    pub fn kill_users(&self) -> Result<Vec<User>> {
        let users: Vec<User> =
            self.users().into_iter().filter(|user| user.pid != std::process::id()).collect();
        for user in &users {
            kill(user.pid)?;
        }
        Ok(users)
    }

    /// Fills the file system until no more than this is free. Not durable: a cut may take the balloon back.
    pub fn fill(&self, leave_bytes: u64) -> Result<Balloon> {
        Balloon::inflate(self.mount_point(), leave_bytes)
    }

    /// Takes the disk down and says what was removed.
    pub fn stop(mut self) -> Result<Vec<String>> {
        match self.owned.take() {
            Some(child) => self.take_down(child),
            None => self.call(&Request::Stop),
        }
    }

    fn take_down(&mut self, child: Child) -> Result<Vec<String>> {
        let asked = self.call(&Request::Stop);
        end(child)?;
        // Nothing if the server kept its word, everything if it was killed.
        let swept = cleanup::sweep_if_dead(&self.description.state_directory)?;
        match asked {
            Err(Error::Server { .. }) => swept.into_result(),
            answer => answer,
        }
    }

    fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).call(request)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(child) = self.owned.take()
            && let Err(error) = self.take_down(child)
        {
            eprintln!("highwater-disk: {} was not taken down: {error}", self.mount_point().display());
        }
    }
}

/// Sends SIGKILL; a process that is gone already is what was wanted.
pub fn kill(pid: u32) -> Result<()> {
    let place = PathBuf::from(format!("/proc/{pid}"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match pid.map(|pid| kill_process(pid, Signal::KILL)) {
        Some(Err(Errno::SRCH)) | None => Ok(()),
        Some(other) => other.at("kill", &place),
    }
}

/// Waits for the server; one that lingers is killed, which frees what it holds.
pub(crate) fn end(mut child: Child) -> Result<()> {
    if !wait_for(&child, LAST_WORDS)? {
        let _ = child.kill();
    }
    child.wait().map(drop).at("wait for", Path::new(PROGRAM))
}

/// The program that serves, for messages, and the command that starts it.
pub(crate) fn server_command(wanted: &ServerProgram) -> Result<(PathBuf, Command)> {
    let this = || std::env::current_exe().at("find", Path::new("/proc/self/exe"));
    let path = match wanted {
        ServerProgram::Path(path) => path.clone(),
        ServerProgram::ThisProgram | ServerProgram::ThisTest(_) => this()?,
        ServerProgram::Find => match std::env::var_os(PROGRAM_VARIABLE) {
            Some(path) => path.into(),
            None => find_program(&this()?)?,
        },
    };
    let mut command = Command::new(&path);
    if let ServerProgram::ThisTest(name) = wanted {
        command.args([name, "--exact", "--nocapture"]);
    }
    // Not the harness's process group: the interrupt key must not kill the disk before its users.
    command.stdout(Stdio::null()).process_group(0);
    Ok((path, command))
}

/// Beside the running program or, for a test, beside the directory it is in.
fn find_program(this: &Path) -> Result<PathBuf> {
    let beside = this.ancestors().skip(1).take(2).map(|directory| directory.join(PROGRAM));
    beside.into_iter().find(|path| path.is_file()).or_else(|| find_tool(PROGRAM)).ok_or_else(|| {
        Error::Unsupported(format!(
            "the program {PROGRAM}, which serves disks, is neither beside {} nor on PATH; build it, or name it in \
             ${PROGRAM_VARIABLE}",
            this.display()
        ))
    })
}

/// Serves a disk or a strict directory and never returns, if this process was started for that with
/// [`ServerProgram::ThisProgram`] or [`ServerProgram::ThisTest`]; returns at once otherwise. The first thing in `main`, or
/// all that the test does.
pub fn serve_if_asked() {
    let Some(wanted) = std::env::var_os(SERVE_VARIABLE) else { return };
    let served = owner().and_then(|owner| {
        if wanted == SERVE_STRICT_DIRECTORY { strict::serve_owner(owner) } else { serve_owner(owner) }
    });
    let status = match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}");
            1
        }
    };
    std::process::exit(status);
}

fn owner() -> Result<Line> {
    let place = Path::new("the owner of the disk");
    let owner = std::io::stdin();
    let owner = std::os::fd::AsFd::as_fd(&owner).try_clone_to_owned().at("take over", place)?;
    Ok(Line::new(UnixStream::from(owner), place))
}

fn serve_owner(mut owner: Line) -> Result<()> {
    match owner.receive::<DiskConfig>()? {
        Some(config) => server::run(config, Some(owner), |_| {}),
        None => Ok(()),
    }
}

/// Serves a disk in the foreground until interrupted or stopped. `ready` is told once it is mounted.
pub fn serve(config: DiskConfig, ready: impl FnOnce(&Description)) -> Result<()> {
    preflight()?;
    cleanup::cleanup()?;
    server::run(config, None, ready)
}

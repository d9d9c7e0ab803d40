//! Runs the system's own tools (losetup, mount, mkfs.ext4, xfs_io, …) with a time limit.
//!
//! Tools rather than system calls, for two reasons. `mount`, `umount` and the ioctls of loop devices and ext4 do
//! I/O on the disk that this very process serves; were one of its threads to wait there when the process is
//! killed, the FUSE connection would never close and the machine would keep a dead mount for good. In a child
//! process they are harmless: the server dies, the connection closes, the child's I/O fails, the child ends. And
//! the shutdown ioctl has no safe wrapper in Rust.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{At, Error, Result};

/// Long enough for a slow machine to format or unmount, short enough that a hung one is noticed.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Standard output and error that are kept. A tool that says more has said enough.
const MAX_OUTPUT_BYTES: u64 = 32 * 1024;

/// Where administrators' tools live; often missing from the `PATH` of services.
const EXTRA_PATH: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Finds a tool on `PATH` or among the administrators' tools.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(EXTRA_PATH.map(PathBuf::from));
    places.map(|place| place.join(name)).find(|candidate| candidate.is_file())
}

/// What a tool that ended said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command line being put together.
pub(crate) struct Tool {
    command: Command,
}

impl Tool {
    pub(crate) fn new(name: &str) -> Self {
        let program = find_tool(name).unwrap_or_else(|| PathBuf::from(name));
        let mut command = Command::new(program);
        // Its own process group: the interrupt key is for the owner of the disk, who then tears it down in order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self { command }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Runs to success; anything else is an error that carries the command line and what it said.
    pub(crate) fn run(self) -> Result<String> {
        let line = self.line();
        let finished = self.finish()?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        let outcome = format!("failed ({})", finished.status);
        Err(Error::Command { command: line, outcome, stderr: finished.stderr })
    }

    /// Runs to any exit status.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        let line = self.line();
        let mut child = self.command.spawn().map_err(|error| Error::Command {
            command: line.clone(),
            outcome: "could not be started".to_owned(),
            stderr: error.to_string(),
        })?;
        let stdout = gather(child.stdout.take());
        let stderr = gather(child.stderr.take());
        let in_time = wait_for(&child, TIME_LIMIT)?;
        if !in_time {
            // A tool stuck in the kernel ends only later, or never; not waiting for it is the point.
            let _ = child.kill();
            return Err(Error::CommandHung { command: line, limit: TIME_LIMIT });
        }
        let status = child.wait().at("wait for the tool", Path::new(&line))?;
        let text = |gathered: std::thread::JoinHandle<String>| gathered.join().unwrap_or_default();
        Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
    }

    fn line(&self) -> String {
        let program = Path::new(self.command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str());
        let words = std::iter::once(name).chain(self.command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

fn gather(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            // What could be read is all there is to report.
            let _ = pipe.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut text);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Waits until a child ends, without reaping it. False if the limit passes first.
pub(crate) fn wait_for(child: &Child, limit: Duration) -> Result<bool> {
    let pid = Pid::from_child(child);
    wait_for_pid(pid, limit)
}

/// Waits until a process ends. False if the limit passes first; a process that is gone already has ended.
pub(crate) fn wait_for_pid(pid: Pid, limit: Duration) -> Result<bool> {
    let place = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other.at("watch the process", &place)?,
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() };
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.at("wait for the process", &place)? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_that_fails_names_command_line_status_and_stderr() {
        let error = Tool::new("ls").arg("/no/such/place").run().unwrap_err().to_string();
        assert!(error.starts_with("`ls /no/such/place` failed (exit status: 2): "), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn tool_that_does_not_exist_is_named() {
        let error = Tool::new("no-such-tool").run().unwrap_err().to_string();
        assert!(error.starts_with("`no-such-tool` could not be started"), "{error}");
    }

    #[test]
    fn tool_with_more_output_than_is_kept_still_ends() {
        let finished = Tool::new("head").args(["-c", "1000000", "/dev/zero"]).finish().unwrap();
        assert!(finished.status.success());
        assert_eq!(finished.stdout.len() as u64, MAX_OUTPUT_BYTES);
    }
}

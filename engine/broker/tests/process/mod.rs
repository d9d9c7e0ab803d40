//! A broker as a process.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

pub(crate) const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

/// A broker as a process.
pub(crate) struct Process {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Process {
    pub(crate) fn start(data_dir: &Path, settings: &[&str]) -> Self {
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        Process::start_with(data_dir, &arguments)
    }

    pub(crate) fn start_with(data_dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(HIGHWATER);
        command.args(["serve", "--listen", "127.0.0.1:0", "--set", "journal.file.bytes=4194304"]);
        if let Ok(driver) = std::env::var("HIGHWATER_TEST_IO_DRIVER") {
            command.args(["--set", &format!("io.driver={driver}")]);
        }
        Process::spawn(command.args(arguments).arg("--data-dir").arg(data_dir))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let command = command.env_remove("RUST_LOG").stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let log = BufReader::new(child.stderr.take().expect("is piped"));
        Process { child, log }
    }

    /// Reads the log up to the line that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.log.read_line(&mut line).expect("is text");
            assert_ne!(read, 0, "the log ended without {text}");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("runs");
        assert!(status.success());
    }

    /// Its exit code, once it ended by itself.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("ends").code()
    }

    /// A figure of `/proc/<pid>/status` in bytes, such as `VmRSS` or `VmHWM`.
    pub(crate) fn memory_bytes(&self, figure: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("runs");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)).expect("Linux tells it");
        let kilobytes = line.trim_start_matches(':').split_whitespace().next().expect("has a number");
        kilobytes.parse::<u64>().expect("has a number") << 10
    }
}

impl Drop for Process {
    /// A test that failed leaves no process behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line that says that the broker is ready.
pub(crate) fn address_in(line: &str) -> SocketAddr {
    let words = line.split(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | '"'));
    words.filter_map(|word| word.parse().ok()).next().expect("the line has an address")
}

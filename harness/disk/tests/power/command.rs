//! The command line, from start to interrupt, as a user types it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Sleeper, assert_no_trace_of, read_blocks, skip, sync_file, until, write_blocks};

const PROGRAM: &str = env!("CARGO_BIN_EXE_highwater-disk");

struct Running {
    child: Child,
    mount_point: PathBuf,
}

impl Running {
    fn start(mount_point: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["run", "--size", "64M", "--cache", "16M", "--memory", "--mount"])
            .args([mount_point, Path::new("--control"), &mount_point.with_extension("control")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("is ready; control socket "), "{line}");
        Self { child, mount_point: mount_point.to_owned() }
    }

    fn command(&self, arguments: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments.split(' ')).arg("--disk").arg(&self.mount_point).output().unwrap()
    }

    fn control(&self) -> PathBuf {
        self.mount_point.with_extension("control")
    }

    /// Runs to success and gives back what was printed.
    fn succeed(&self, arguments: &str) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only after a failed assertion; the server then takes itself down.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        }
        let _ = self.child.wait();
    }
}

#[test]
fn run_cut_and_on_from_the_shell_lose_what_was_not_flushed() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount_point = directory.path().join("victim");
    let running = Running::start(&mount_point);
    let file = mount_point.join("file");
    write_blocks(&file, 0..20, 1);
    sync_file(&file);
    write_blocks(&file, 0..20, 2);
    let user = Sleeper::in_directory(&mount_point);
    assert!(running.succeed("users").contains(&format!("{} (sleep)", user.id())));
    assert!(running.succeed("cut --kill-users").contains("unflushed sectors gone, 0 kept"));
    assert!(running.succeed("on").contains("the journal was replayed"));
    assert_eq!(read_blocks(&file), [1; 20]);

    running.succeed("eio --on write --next 1");
    running.succeed("lie --every 2");
    running.succeed("slow --flush-us 10");
    running.succeed("bad --offset 63M --length 4K");
    running.succeed("heal");
    assert!(running.succeed("full --leave 1M").contains("the balloon takes"));
    running.succeed("full --undo");
    running.succeed("stall");
    assert!(running.succeed("stats").contains("power On, stalled"));
    running.succeed("resume");
    let stats: serde_json::Value = serde_json::from_str(&running.succeed("stats --json")).unwrap();
    assert_eq!(stats["last_cut"]["mode"]["mode"], "drop-all");
    assert!(running.succeed("list").contains(mount_point.to_str().unwrap()));

    let by_socket =
        Command::new(PROGRAM).arg("stats").arg("--control").arg(running.control()).output().unwrap();
    assert!(by_socket.status.success());

    assert!(running.succeed("stop").contains("removed mount"));
    assert!(!running.control().exists());
    assert_no_trace_of(&mount_point, &mount_point);
    assert!(!mount_point.exists());
}

#[test]
fn run_interrupted_takes_the_disk_down_even_while_it_is_cut() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount_point = directory.path().join("victim");
    let mut running = Running::start(&mount_point);
    running.succeed("cut --only off --mode subset --seed 3");
    let interrupt = Command::new("kill").args(["-INT", &running.child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    assert!(running.child.wait().unwrap().success());
    assert_no_trace_of(&mount_point, &mount_point);
    assert!(!mount_point.exists());
}

#[test]
fn cleanup_removes_what_a_killed_server_left() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount_point = directory.path().join("victim");
    let mut running = Running::start(&mount_point);
    write_blocks(&mount_point.join("file"), 0..20, 1);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    // Another test's new disk may sweep first; either way it has to be gone.
    let output = Command::new(PROGRAM).arg("cleanup").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until(|| !mount_point.exists());
    assert_no_trace_of(&mount_point, &mount_point);
}

#[test]
fn command_for_no_disk_says_how_to_start_one() {
    if skip() {
        return;
    }
    let output = Command::new(PROGRAM).args(["stats", "--disk", "/no/such/disk"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("start one with `highwater-disk run`"), "{stderr}");
}

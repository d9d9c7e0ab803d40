//! What the tests on the real kernel share.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use highwater_disk::{CutMode, CutReport, Disk, DiskConfig, PowerOnReport, ServerProgram, preflight};

/// The size of what [`write_blocks`] counts in.
pub(crate) const PATTERN_BLOCK: usize = 4096;

/// True, loudly, where such disks cannot run.
pub(crate) fn skip() -> bool {
    let Err(error) = preflight() else { return false };
    eprintln!("\n*** SKIPPED: {error} ***\n");
    true
}

pub(crate) fn config() -> DiskConfig {
    DiskConfig {
        server: ServerProgram::Path(env!("CARGO_BIN_EXE_highwater-disk").into()),
        ..DiskConfig::new(64 << 20)
    }
}

pub(crate) fn disk(change: impl FnOnce(&mut DiskConfig)) -> Option<Disk> {
    if skip() {
        return None;
    }
    let mut config = config();
    change(&mut config);
    Some(Disk::create(config).unwrap_or_else(|error| panic!("no disk: {error}")))
}

/// Nobody uses the disk: all steps of a cut at once.
pub(crate) fn power_cycle(disk: &Disk, mode: CutMode) -> (CutReport, PowerOnReport) {
    let cut = disk.cut_power(mode).unwrap();
    disk.release_hung_io().unwrap();
    disk.finish_cut().unwrap();
    (cut, disk.power_on().unwrap())
}

/// Waits for something that other processes bring about.
pub(crate) fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come about in 30 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes blocks of one value past the page cache, without a flush.
pub(crate) fn write_blocks(path: &Path, blocks: Range<u64>, value: u8) {
    let mut writer = Command::new("dd")
        .args(["iflag=fullblock", "oflag=direct,seek_bytes", "conv=notrunc", "bs=4096", "status=none"])
        .arg(format!("seek={}", blocks.start * PATTERN_BLOCK as u64))
        .arg(format!("of={}", path.display()))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = vec![value; (blocks.end - blocks.start) as usize * PATTERN_BLOCK];
    std::io::Write::write_all(&mut writer.stdin.take().unwrap(), &bytes).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// The value of each block, after checking that the block is whole.
pub(crate) fn read_blocks(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.len().is_multiple_of(PATTERN_BLOCK));
    bytes
        .chunks(PATTERN_BLOCK)
        .map(|block| {
            assert!(block.iter().all(|&byte| byte == block[0]), "a block of {} is torn", path.display());
            block[0]
        })
        .collect()
}

pub(crate) fn sync_file(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

pub(crate) fn sync_directory(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// A `dd` that reads or writes the disk, in a process that can be killed.
pub(crate) struct Dd {
    child: Child,
}

pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Dd {
    /// 4 KiB writes over the first 32 MiB of a file.
    pub(crate) fn writing(path: &Path, flags: &str) -> Self {
        Self::start(&["if=/dev/zero", &format!("of={}", path.display()), "count=8192", flags])
    }

    /// One durable 4 KiB write.
    pub(crate) fn writing_once(path: &Path) -> Self {
        Self::start(&["if=/dev/zero", &format!("of={}", path.display()), "count=1", "oflag=direct,dsync"])
    }

    /// Reads a file past the page cache.
    pub(crate) fn reading(path: &Path) -> Self {
        Self::start(&[&format!("if={}", path.display()), "of=/dev/null", "iflag=direct"])
    }

    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new("dd");
        command.args(["bs=4096", "conv=notrunc", "status=none"]).args(arguments);
        Self { child: command.stderr(Stdio::piped()).spawn().unwrap() }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    pub(crate) fn wait(&mut self) -> Ended {
        let mut stderr = String::new();
        std::io::Read::read_to_string(self.child.stderr.as_mut().unwrap(), &mut stderr).unwrap();
        Ended { status: self.child.wait().unwrap(), stderr }
    }
}

/// A process that does nothing, and does not outlive its test.
pub(crate) struct Sleeper {
    child: Child,
}

impl Sleeper {
    /// With its working directory on the disk.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { child: Command::new("sleep").arg("60").current_dir(directory).spawn().unwrap() }
    }

    /// In a mount namespace of its own, with a copy of all mounts, as `ip netns exec` makes it.
    pub(crate) fn in_a_mount_namespace() -> Self {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", "echo ready; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Drops a disk and looks for what should be gone.
pub(crate) fn assert_nothing_left(disk: Disk) {
    let description = disk.description().clone();
    let removed = disk.stop();
    assert_no_trace_of(&description.state_directory, &description.mount_point);
    assert!(!description.mount_point.exists(), "{} is left", description.mount_point.display());
    removed.unwrap();
}

pub(crate) fn assert_no_trace_of(directory: &Path, mount_point: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let loops = Command::new("losetup").arg("--list").output().unwrap().stdout;
    let loops = String::from_utf8(loops).unwrap();
    for path in [directory, mount_point].map(|path| path.to_str().unwrap()) {
        assert!(!mounts.contains(path), "{path} is still mounted:\n{mounts}");
        assert!(!loops.contains(path), "a loop device still stands on {path}:\n{loops}");
    }
    assert!(!directory.join("lock").exists(), "{} is left", directory.display());
}

/// Starts a test of this very program again, in another role, and reads where the disk is that it made.
pub(crate) fn this_test_as_owner(test: &str, role: &str) -> (Child, PathBuf) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(role, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.as_mut().unwrap()).lines();
    let directory = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("disk in ")?.1.into()));
    (owner, directory.expect("the owner said where its disk is"))
}

/// Replays the journal of an image and lets e2fsck judge the result.
pub(crate) fn assert_ext4_recovers(image: &Path, context: &str) {
    let run = |arguments: &[&str]| Command::new("e2fsck").args(arguments).arg(image).output().unwrap();
    run(&["-p", "-E", "journal_only"]);
    let check = run(&["-fn"]);
    assert!(check.status.success(), "{context}: {}", String::from_utf8_lossy(&check.stdout));
}

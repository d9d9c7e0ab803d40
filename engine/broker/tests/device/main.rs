//! Faults of a real device under a broker's process: ext4 on a disk that fails, fills up, stalls and rots on command, as one of
//! two log directories. What producers and consumers see, what is fenced, what is there afterwards. `docs/operations.md` has the
//! table. Needs root; each test skips loudly without.
//!
//! Partition 0 of the topic is on the disk, partition 1 beside it, in a directory that nothing happens to.

#[path = "../broker/client.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod client;
#[path = "../process/mod.rs"]
mod process;

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use highwater_disk::{CutMode, Disk, DiskConfig, FailedFlush, Fault, Rule, ServerProgram, preflight};
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use highwater_protocol::messages::{CreateTopicsRequest, DescribeLogDirsRequest, ProduceRequest};

use client::{Client, PATIENCE, batch, fetch_request, produce_request, topic_name, values_of};
use process::{HIGHWATER, Process, address_in};

const OK: ErrorCode = ErrorCode::NONE;
const STORAGE_ERROR: ErrorCode = ErrorCode::KAFKA_STORAGE_ERROR;
const TOPIC: &str = "t";
/// On the disk.
const SICK: i32 = 0;
/// Beside it.
const HEALTHY: i32 = 1;

/// Not a test: serves the disks of the others.
#[test]
fn disk_is_served() {
    highwater_disk::serve_if_asked();
}

/// A broker with one log directory on a disk and one beside it, and what it has acknowledged.
struct Rig {
    process: Option<Process>,
    addr: SocketAddr,
    beside: tempfile::TempDir,
    disk: Disk,
    acked: [Vec<String>; 2],
    unknown: Vec<String>,
}

impl Rig {
    /// `None`, loudly, where such disks cannot run.
    fn new() -> Option<Rig> {
        if let Err(error) = preflight() {
            eprintln!("\n*** SKIPPED: {error} ***\n");
            return None;
        }
        let server = ServerProgram::ThisTest("disk_is_served".to_owned());
        let disk = Disk::create(DiskConfig { server, ..DiskConfig::new(192 << 20) }).expect("a disk");
        let beside = tempfile::tempdir().expect("a directory");
        let addr = ([127, 0, 0, 1], 0).into();
        let acked = [Vec::new(), Vec::new()];
        let mut rig = Rig { process: None, addr, beside, disk, acked, unknown: Vec::new() };
        rig.start();
        rig.create_topic();
        for number in 0..3 {
            assert_eq!(rig.produce(SICK, &format!("first {number}")), OK);
            assert_eq!(rig.produce(HEALTHY, &format!("first {number}")), OK);
        }
        Some(rig)
    }

    fn sick_dir(&self) -> PathBuf {
        self.disk.mount_point().join("data")
    }

    fn healthy_dir(&self) -> PathBuf {
        self.beside.path().join("data")
    }

    fn start(&mut self) {
        let sick = self.sick_dir().display().to_string();
        let metadata = format!("metadata.log.dir={}", self.healthy_dir().display());
        let arguments = ["--data-dir", &sick, "--set", "num.shards=2", "--set", &metadata];
        let mut process = Process::start_with(&self.healthy_dir(), &arguments);
        self.addr = address_in(&process.wait_for("ready"));
        self.process = Some(process);
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("runs")
    }

    /// Asks it to stop; whether that was clean.
    fn stop(&mut self) -> bool {
        let mut process = self.process.take().expect("runs");
        process.signal("-TERM");
        process.wait() == Some(0)
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("runs");
        process.signal("-KILL");
        process.wait();
    }

    /// The faults end, and the disk is mounted anew: ext4 makes itself read-only where its own journal failed.
    fn repair(&mut self) {
        self.disk.heal().expect("is healed");
        self.disk.cut_power(CutMode::OsCrash).expect("is cut");
        self.disk.release_hung_io().expect("is released");
        self.disk.finish_cut().expect("is taken down");
        self.disk.power_on().expect("is mounted");
    }

    fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    fn create_topic(&self) {
        let segment = CreatableTopicConfig::default()
            .with_name("segment.bytes".to_owned().into())
            .with_value(Some("1048576".to_owned().into()));
        let topic = CreatableTopic::default()
            .with_name(topic_name(TOPIC))
            .with_num_partitions(2)
            .with_replication_factor(1)
            .with_configs(vec![segment]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        assert_eq!(self.connect().call(7, &request).topics[0].error_code, 0);
        assert!(self.sick_dir().join("t-0").is_dir() && self.healthy_dir().join("t-1").is_dir());
    }

    fn produce(&mut self, partition: i32, value: &str) -> ErrorCode {
        let answer = self.connect().produce(TOPIC, partition, -1, batch(&[value]));
        let code = ErrorCode(answer.error_code);
        if code == OK {
            self.acked[usize::try_from(partition).expect("is one")].push(value.to_owned());
        } else {
            self.unknown.push(value.to_owned());
        }
        code
    }

    /// Appends to the partition on the disk until that has no room.
    fn produce_until_full(&mut self) {
        let large = "x".repeat(300 << 10);
        let deadline = Instant::now() + PATIENCE;
        let mut number = 0;
        while self.produce(SICK, &format!("{number} {large}")) == OK {
            assert!(Instant::now() < deadline, "it is never full");
            number += 1;
        }
    }

    /// The values of a partition from its beginning, up to the end or to what cannot be read, and why not.
    fn read(&self, partition: i32) -> (Vec<String>, ErrorCode) {
        let mut client = self.connect();
        let mut values = Vec::new();
        loop {
            let next = i64::try_from(values.len()).expect("fits");
            let response = client.call(11, &fetch_request(&[(TOPIC, partition, next)]));
            let data = &response.responses[0].partitions[0];
            let code = ErrorCode(data.error_code);
            if code != OK || next >= data.high_watermark {
                return (values, code);
            }
            values.extend(values_of(data.records.as_ref().expect("has records")));
        }
    }

    /// Everything acknowledged is read, in order, and nothing that nobody sent.
    fn expect_intact(&self, partition: i32) {
        let (values, code) = self.read(partition);
        assert_eq!(code, OK);
        let acked = &self.acked[usize::try_from(partition).expect("is one")];
        let of_acked: Vec<&String> = values.iter().filter(|value| acked.contains(value)).collect();
        assert_eq!(of_acked, acked.iter().collect::<Vec<_>>());
        assert!(
            values.iter().all(|value| acked.contains(value) || self.unknown.contains(value)),
            "{values:?}"
        );
    }

    fn expect_healthy_beside(&mut self) {
        for number in 0..3 {
            assert_eq!(self.produce(HEALTHY, &format!("beside {number}")), OK);
        }
        self.expect_intact(HEALTHY);
    }

    /// The error of each directory: on the disk, beside it.
    fn log_dirs(&self) -> (ErrorCode, ErrorCode) {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let results = self.connect().call(4, &request).results;
        let of = |dir: &Path| {
            let result = results.iter().find(|result| Path::new(&*result.log_dir) == dir);
            ErrorCode(result.expect("is told").error_code)
        };
        (of(&self.sick_dir()), of(&self.healthy_dir()))
    }

    /// The directory on the disk is fenced until the next start, the other one serves.
    fn expect_fenced(&mut self) {
        assert_eq!(self.produce(SICK, "while it is fenced"), STORAGE_ERROR);
        self.expect_intact(SICK);
        self.expect_healthy_beside();
        assert_eq!(self.log_dirs(), (STORAGE_ERROR, OK));
    }

    /// After the repair and a start all is as it was promised, and goes on.
    fn expect_whole_after_repair(&mut self) {
        assert!(!self.stop(), "a stop is not clean where a directory failed");
        self.repair();
        self.start();
        assert_eq!(self.log_dirs(), (OK, OK));
        self.expect_intact(SICK);
        self.expect_healthy_beside();
        assert_eq!(self.produce(SICK, "again"), OK);
        self.expect_intact(SICK);
        assert!(self.stop(), "clean");
    }

    /// The segments of the partition on the disk, the oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sick_dir().join("t-0")).expect("is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("is read").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        paths
    }

    /// Brings what was appended into segments that nobody has in memory.
    fn restart(&mut self) {
        assert!(self.stop(), "clean");
        self.start();
    }
}

/// Flips a byte of a value that is in the file once.
fn rot(path: &Path, value: &str) {
    let bytes = std::fs::read(path).expect("is read");
    let at = bytes.windows(value.len()).position(|window| window == value.as_bytes());
    let at = u64::try_from(at.expect("is there")).expect("fits");
    let file = File::options().write(true).open(path).expect("is opened");
    file.write_all_at(b"?", at).expect("is written");
    file.sync_all().expect("is flushed");
}

fn verify(dir: &Path) -> (bool, String) {
    let output = Command::new(HIGHWATER).arg("verify").arg(dir).output().expect("runs");
    (output.status.success(), String::from_utf8(output.stdout).expect("is text"))
}

#[test]
fn error_of_a_write_fences_the_directory_until_it_is_repaired() {
    let Some(mut rig) = Rig::new() else { return };
    rig.disk.inject(Fault::WriteError { rule: Rule::Always }).expect("is set");
    assert_eq!(rig.produce(SICK, "meets the error"), STORAGE_ERROR);
    let line = rig.process().wait_for("the journal is fenced");
    assert!(line.contains("/data/journal/") && line.contains("os error 5"), "file and errno: {line}");
    rig.process().wait_for("log directory is offline until the next start");
    rig.expect_fenced();
    // It stays so, whatever the device says later.
    rig.disk.heal().expect("is healed");
    rig.expect_fenced();
    rig.expect_whole_after_repair();
}

#[test]
fn error_of_a_flush_fences_the_directory_until_it_is_repaired() {
    let Some(mut rig) = Rig::new() else { return };
    // What was not flushed is gone: who flushed again and acknowledged would lie.
    rig.disk
        .inject(Fault::FlushError { rule: Rule::Next(1), cache: FailedFlush::LosesCache })
        .expect("is set");
    assert_eq!(rig.produce(SICK, "meets the error"), STORAGE_ERROR);
    let line = rig.process().wait_for("the journal is fenced");
    assert!(line.contains("/data/journal/") && line.contains("os error 5"), "file and errno: {line}");
    rig.expect_fenced();
    rig.expect_whole_after_repair();
}

#[test]
fn error_of_a_read_is_an_error_of_that_fetch_alone() {
    let Some(mut rig) = Rig::new() else { return };
    assert!(rig.stop(), "clean");
    // Nothing is in anybody's memory.
    rig.repair();
    rig.start();
    rig.disk.inject(Fault::ReadError { rule: Rule::Always }).expect("is set");
    assert_eq!(rig.read(SICK), (Vec::new(), STORAGE_ERROR));
    rig.expect_healthy_beside();
    assert_eq!(rig.log_dirs().1, OK);
    rig.disk.heal().expect("is healed");
    rig.expect_intact(SICK);
    assert_eq!(rig.log_dirs(), (OK, OK), "nothing is fenced");
    assert_eq!(rig.produce(SICK, "again"), OK);
    rig.expect_intact(SICK);
    assert!(rig.stop(), "clean");
}

/// The row's producer: who appends needs nothing that must be read, once the end of the log is known.
#[test]
fn error_of_a_read_keeps_no_producer_from_its_acks() {
    let Some(mut rig) = Rig::new() else { return };
    assert!(rig.stop(), "clean");
    rig.repair();
    rig.start();
    assert_eq!(rig.produce(SICK, "the end is known"), OK);
    rig.disk.inject(Fault::ReadError { rule: Rule::Always }).expect("is set");
    assert_eq!(rig.read(SICK), (Vec::new(), STORAGE_ERROR), "what is on the disk alone");
    for number in 0..5 {
        assert_eq!(rig.produce(SICK, &format!("meanwhile {number}")), OK);
    }
    rig.disk.heal().expect("is healed");
    rig.expect_intact(SICK);
    rig.restart();
    rig.expect_intact(SICK);
    assert!(rig.stop(), "clean");
}

/// The first append after a start has to read the block that the log ends in. It fenced the partition for good.
#[test]
fn end_of_a_log_that_cannot_be_read_takes_appends_when_it_can() {
    let Some(mut rig) = Rig::new() else { return };
    assert!(rig.stop(), "clean");
    rig.repair();
    rig.start();
    rig.disk.inject(Fault::ReadError { rule: Rule::Always }).expect("is set");
    assert_eq!(rig.produce(SICK, "refused"), STORAGE_ERROR);
    rig.expect_healthy_beside();
    assert_eq!(rig.produce(SICK, "refused again"), STORAGE_ERROR);
    rig.disk.heal().expect("is healed");
    assert_eq!(rig.produce(SICK, "again"), OK);
    rig.expect_intact(SICK);
    rig.restart();
    rig.expect_intact(SICK);
    assert!(rig.stop(), "clean");
}

#[test]
fn stop_on_a_full_disk_loses_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    let balloon = rig.disk.fill(0).expect("is filled");
    rig.produce_until_full();
    // Clean or not: what is left of the journal may fit into what segments have reserved.
    rig.stop();
    balloon.deflate().expect("is removed");
    rig.start();
    assert_eq!(rig.log_dirs(), (OK, OK));
    rig.expect_intact(SICK);
    rig.expect_healthy_beside();
    assert_eq!(rig.produce(SICK, "there is room"), OK);
    rig.expect_intact(SICK);
    assert!(rig.stop(), "clean");
}

#[test]
fn error_of_reads_at_a_start_leaves_the_directory_offline() {
    let Some(mut rig) = Rig::new() else { return };
    rig.kill();
    rig.repair();
    rig.disk.inject(Fault::ReadError { rule: Rule::Always }).expect("is set");
    rig.start();
    assert_eq!(rig.log_dirs(), (STORAGE_ERROR, OK));
    assert_eq!(rig.produce(SICK, "refused"), STORAGE_ERROR);
    assert_eq!(rig.read(SICK), (Vec::new(), STORAGE_ERROR));
    rig.expect_healthy_beside();
    assert!(rig.stop(), "clean: of what is open");
    rig.repair();
    rig.start();
    rig.expect_intact(SICK);
    assert_eq!(rig.produce(SICK, "again"), OK);
    assert!(rig.stop(), "clean");
}

#[test]
fn full_disk_refuses_and_goes_on_when_there_is_room() {
    let Some(mut rig) = Rig::new() else { return };
    let balloon = rig.disk.fill(0).expect("is filled");
    rig.produce_until_full();
    assert_eq!(rig.unknown.len(), 1);
    rig.expect_intact(SICK);
    rig.expect_healthy_beside();
    assert_eq!(rig.log_dirs(), (OK, OK), "a full disk is not a failed one");
    balloon.deflate().expect("is removed");
    let deadline = Instant::now() + PATIENCE;
    while rig.produce(SICK, "there is room") != OK {
        assert!(Instant::now() < deadline, "it stays full");
        std::thread::sleep(Duration::from_millis(10));
    }
    rig.expect_intact(SICK);
    rig.restart();
    rig.expect_intact(SICK);
    assert!(rig.stop(), "clean");
}

#[test]
fn slow_disk_is_slow_and_nothing_else() {
    let Some(mut rig) = Rig::new() else { return };
    rig.disk.inject(Fault::Delay { read_us: 2_000, write_us: 20_000, flush_us: 60_000 }).expect("is set");
    for number in 0..5 {
        assert_eq!(rig.produce(SICK, &format!("slow {number}")), OK);
    }
    rig.expect_healthy_beside();
    rig.expect_intact(SICK);
    assert_eq!(rig.log_dirs(), (OK, OK));
    assert!(rig.stop(), "clean");
    rig.start();
    rig.expect_intact(SICK);
    assert!(rig.stop(), "clean");
}

#[test]
fn stalled_disk_holds_up_its_own_partitions_alone() {
    let Some(mut rig) = Rig::new() else { return };
    rig.disk.stall().expect("is stalled");
    let mut waiting = rig.connect();
    let request = produce_request(TOPIC, -1, vec![(SICK, batch(&["waits"]))]);
    let id = waiting.send(9, &request);
    rig.expect_healthy_beside();
    // What was durable before is in memory, and is read.
    rig.expect_intact(SICK);
    rig.disk.resume().expect("goes on");
    let answer = waiting.receive::<ProduceRequest>(9, id);
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    rig.acked[0].push("waits".to_owned());
    rig.expect_intact(SICK);
    assert_eq!(rig.log_dirs(), (OK, OK));
    assert!(rig.stop(), "clean");
}

#[test]
fn rot_in_a_segment_is_never_served_and_what_is_before_it_is() {
    for while_it_runs in [true, false] {
        let Some(mut rig) = Rig::new() else { return };
        assert!(rig.stop(), "clean");
        if while_it_runs {
            rig.start();
        }
        rot(&rig.segments()[0], "first 1");
        if !while_it_runs {
            let (is_whole, report) = verify(&rig.sick_dir());
            assert!(!is_whole && report.contains("DAMAGE"), "{report}");
            let (is_whole, report) = verify(&rig.healthy_dir());
            assert!(is_whole, "{report}");
            rig.start();
        }
        assert_eq!(rig.read(SICK), (vec!["first 0".to_owned()], ErrorCode::CORRUPT_MESSAGE));
        // What lies behind it is intact, and served to whoever asks for it.
        let response = rig.connect().call(11, &fetch_request(&[(TOPIC, SICK, 2)]));
        let data = &response.responses[0].partitions[0];
        assert_eq!(values_of(data.records.as_ref().expect("has records")), ["first 2"]);
        assert_eq!(rig.produce(SICK, "goes on"), OK);
        rig.expect_healthy_beside();
        assert!(rig.stop(), "clean");
    }
}

#[test]
fn rot_in_the_journal_fences_the_partition_and_salvage_is_its_way_out() {
    let Some(mut rig) = Rig::new() else { return };
    rig.kill();
    let journals = std::fs::read_dir(rig.sick_dir().join("journal")).expect("is there");
    let generation = journals.map(|entry| entry.expect("is read").path()).find(|path| path.is_dir());
    let shards = std::fs::read_dir(generation.expect("is there")).expect("is there");
    let files = shards.map(|entry| entry.expect("is read").path().join("journal-0"));
    let has_it = |path: &PathBuf| {
        let bytes = std::fs::read(path).expect("is read");
        bytes.windows(7).any(|window| window == b"first 1")
    };
    rot(&files.into_iter().find(has_it).expect("is in a journal"), "first 1");
    rig.start();
    assert_eq!(rig.produce(SICK, "refused"), STORAGE_ERROR);
    let (values, code) = rig.read(SICK);
    assert_eq!((values, code), (vec!["first 0".to_owned()], OK), "nothing from behind the damage");
    rig.expect_healthy_beside();
    rig.stop();
    let salvage = Command::new(HIGHWATER).arg("salvage").arg(rig.sick_dir()).arg("--yes").output();
    let salvage = salvage.expect("runs");
    assert!(salvage.status.success(), "{}", String::from_utf8_lossy(&salvage.stdout));
    rig.start();
    let (values, code) = rig.read(SICK);
    assert_eq!((values.len(), code), (1, OK), "{values:?}");
    assert_eq!(rig.produce(SICK, "goes on"), OK);
    rig.expect_healthy_beside();
    assert!(rig.stop(), "clean");
}

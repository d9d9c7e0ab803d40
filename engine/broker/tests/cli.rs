//! The `highwater` command.

mod process;

use std::process::{Command, Output};

use process::{HIGHWATER, Process};

fn run(arguments: &[&str]) -> Output {
    Command::new(HIGHWATER).args(arguments).output().expect("runs")
}

fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("is text");
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    text.trim_end().to_owned()
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    assert_eq!(refusal(&["serve"]), "highwater: no data directory: set log.dirs, or give --data-dir");
    assert_eq!(
        refusal(&["serve", "--data-dir", "/d", "--set", "num_partitions=2"]),
        "highwater: there is no setting num_partitions (did you mean num.partitions?)"
    );
    assert_eq!(
        refusal(&["serve", "--data-dir", "/d", "--listen", "nowhere"]),
        "highwater: --listen nowhere is not HOST:PORT, such as 127.0.0.1:9092"
    );
    assert!(
        refusal(&["serve", "--config", "/no/such/file"]).starts_with("highwater: cannot read /no/such/file")
    );
    assert!(
        refusal(&["serve", "--data-dir", "/d", "--listen", "0.0.0.0:0"]).contains("advertised.listeners")
    );
}

#[test]
fn usage_errors_exit_with_two_and_help_with_zero() {
    assert_eq!(run(&["serve", "--no-such-option"]).status.code(), Some(2));
    let help = run(&["serve", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).expect("is text").contains("--data-dir"));
}

#[test]
fn every_setting_is_listed() {
    let list = |arguments: &[&str]| String::from_utf8(run(arguments).stdout).expect("is text");
    assert!(list(&["settings"]).contains("| `log.flush.interval.messages` | long | 1 | live |"));
    assert!(list(&["settings", "--topic"]).contains("| `flush.messages` | long | 1 | live |"));
}

#[test]
fn signal_stops_the_broker_cleanly() {
    let dir = tempfile::tempdir().expect("a directory");
    for (signal, found) in [("-TERM", "data directory is new"), ("-INT", "was stopped cleanly")] {
        let mut process = Process::start(dir.path(), &[]);
        process.wait_for(found);
        process.wait_for("ready");
        process.signal(signal);
        process.wait_for("stopped cleanly");
        assert_eq!(process.wait(), Some(0));
    }
}

#[test]
fn unknown_setting_of_a_file_is_warned_of_and_one_of_the_command_line_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("server.properties");
    std::fs::write(&file, "num.io.threads=8\nnum.partitions=3\n").expect("written");
    let mut process =
        Process::start_with(&dir.path().join("data"), &["--config", file.to_str().expect("is text")]);
    process.wait_for("there is no setting num.io.threads, which is ignored");
    process.wait_for("ready");
    assert!(refusal(&["serve", "--data-dir", "/d", "--set", "num.io.threads=8"]).contains("num.io.threads"));
}

#[test]
fn limit_of_open_files_is_raised() {
    let dir = tempfile::tempdir().expect("a directory");
    let serve = format!(
        "ulimit -Sn 256 && exec {} serve --listen 127.0.0.1:0 --data-dir {}",
        process::HIGHWATER,
        dir.path().display()
    );
    let mut process = Process::spawn(Command::new("sh").args(["-c", &serve]));
    let line = process.wait_for("open files");
    assert!(line.contains("before=\"256\"") || line.contains("before=256"), "{line}");
}

#[test]
fn broker_that_cannot_close_its_logs_says_so_and_exits_with_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = dir.path().join("data");
    let mut process = Process::start(&data_dir, &[]);
    process.wait_for("ready");
    std::fs::rename(&data_dir, dir.path().join("elsewhere")).expect("can be moved");
    process.signal("-TERM");
    process.wait_for("highwater: the broker has stopped, but not cleanly");
    assert_eq!(process.wait(), Some(1));
}

#[test]
fn killed_broker_is_recovered_by_the_next_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process = Process::start(dir.path(), &[]);
    process.wait_for("ready");
    process.signal("-KILL");
    process.wait();
    let mut process = Process::start(dir.path(), &[]);
    process.wait_for("is recovered");
    process.wait_for("ready");
    process.signal("-TERM");
    assert_eq!(process.wait(), Some(0));
}

#[test]
fn verify_tells_a_sound_directory_from_a_damaged_one_and_from_one_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("is text");
    let mut process = Process::start(dir.path(), &[]);
    process.wait_for("ready");
    assert!(refusal(&["verify", path]).contains("another process uses this data directory"));
    process.signal("-TERM");
    process.wait();

    let output = run(&["verify", path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).expect("is text").contains("no damage found"));

    let metadata_log = dir.path().join("__cluster_metadata-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&metadata_log).expect("the metadata log");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&metadata_log, bytes).expect("written");
    let output = run(&["verify", path]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("is text");
    assert!(text.contains("DAMAGE: ") && text.contains("00000000000000000000.log: at byte"), "{text}");
    assert!(refusal(&["verify", "/no/such/directory"]).contains("/no/such/directory"));
}

#[test]
fn damaged_metadata_log_is_refused_with_a_sentence_and_a_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("is text");
    let mut process = Process::start(dir.path(), &[]);
    process.wait_for("ready");
    process.signal("-TERM");
    process.wait();
    let metadata_log = dir.path().join("__cluster_metadata-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&metadata_log).expect("the metadata log");
    // The base offset of the first batch.
    bytes[6] ^= 1;
    std::fs::write(&metadata_log, bytes).expect("written");
    let output = run(&["serve", "--data-dir", path, "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("is text");
    let sentences = text.lines().filter(|line| line.starts_with("highwater: ")).count();
    assert!(sentences == 1 && !text.contains("panicked"), "{text}");
    assert!(text.contains("00000000000000000000.log"), "{text}");
}

/// The harness refuses what a workload asks of this broker and it does not have, without starting it.
#[test]
fn harness_knows_every_setting() {
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/../../workloads/brokers/highwater.toml");
    let driver = std::fs::read_to_string(driver).expect("a driver");
    for (key, arguments) in [("topic", &["settings", "--topic"][..]), ("broker", &["settings"])] {
        let (_, list) = driver.split_once(&format!("\n{key} = [")).expect("a list of known settings");
        let (list, _) = list.split_once(']').expect("its end");
        let known: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        let reference = String::from_utf8(run(arguments).stdout).expect("is text");
        let names = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        assert_eq!(known, names.map(|(name, _)| name).collect::<Vec<_>>(), "known.{key}");
    }
}

/// A broker that was stopped, and has no topics but its own.
fn stopped(data_dir: &std::path::Path) {
    let mut process = Process::start(data_dir, &[]);
    process.wait_for("ready");
    process.signal("-TERM");
    assert_eq!(process.wait(), Some(0));
}

fn told(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("is text")
}

#[test]
fn salvage_lists_then_cuts_and_the_broker_starts_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("is text");
    let mut process = Process::start(dir.path(), &[]);
    process.wait_for("ready");
    assert!(refusal(&["salvage", path]).contains("another process uses this data directory"));
    assert!(refusal(&["salvage", path, "--yes"]).contains("another process uses this data directory"));
    process.signal("-TERM");
    process.wait();
    // A second start, so that there is a batch to keep and one to lose.
    stopped(dir.path());
    assert!(told(&run(&["salvage", path]), 0).contains("nothing to salvage"));
    assert!(refusal(&["salvage", path, "--partition", "no-0"]).contains("no such partition"));
    assert_eq!(run(&["salvage", path, "--yes", "--dry-run"]).status.code(), Some(2));

    let segment = dir.path().join("__cluster_metadata-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).expect("the metadata log");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&segment, &bytes).expect("written");
    let named = ["salvage", path, "--partition", "__cluster_metadata-0"];
    let list = told(&run(&named), 1);
    assert!(list.contains("lost for good: offsets") && list.contains("nothing was changed"), "{list}");
    assert_eq!(std::fs::read(&segment).expect("is there"), bytes, "a list changes nothing");
    assert!(!dir.path().join("salvaged").exists());

    let done = told(&run(&[&named[..], &["--yes"]].concat()), 0);
    assert!(done.contains("1 salvaged"), "{done}");
    assert!(std::fs::metadata(&segment).expect("is there").len() < bytes.len() as u64);
    assert!(told(&run(&["verify", path]), 0).contains("no damage found"));
    stopped(dir.path());
    assert!(told(&run(&["verify", path]), 0).contains("no damage found"));
}

#[test]
fn doctor_tells_the_path_of_a_directory_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = dir.path().join("data");
    let path = data_dir.to_str().expect("is text");
    // Whether the device's flush is suspicious is up to the machine.
    let look = |expected: &str| {
        let output = run(&["doctor", path]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("is text");
        for label in ["driver", "file system", "space", "direct I/O", "device", "flush", "open files"] {
            assert!(text.lines().any(|line| line.starts_with(label)), "{label}: {text}");
        }
        assert!(text.contains(expected), "{expected}: {text}");
    };
    look("does not exist yet");
    assert!(!data_dir.exists());
    stopped(&data_dir);
    let names = || {
        let entries = std::fs::read_dir(&data_dir).expect("is there");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("is there").file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    look("1 partitions, stopped cleanly");
    assert_eq!(names(), before);
    let mut process = Process::start(&data_dir, &[]);
    process.wait_for("ready");
    look("a broker uses it");
    process.signal("-KILL");
    process.wait();
    look("1 partitions, not stopped cleanly");
}

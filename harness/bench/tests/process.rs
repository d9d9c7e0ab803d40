//! Supervision of processes, with shell scripts in the role of brokers that misbehave.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_bench::broker::admin::Settings;
use highwater_bench::broker::driver::{Driver, Place};
use highwater_bench::broker::process::{BrokerError, Installed, Stopped, free_ports};
use highwater_bench::cancel::Cancel;

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A driver whose broker is `start`, a shell script in `{work}`.
    fn install(&self, start: &str, prepare: &str) -> Result<Installed, BrokerError> {
        let driver = format!(
            "title = 'Script'\nhome = '/'\nmarker = 'bin/sh'\nmissing = ''\nready_within = '300ms'\n\
             stop_within = '300ms'\nconfig_file = 'c'\nconfig = 'p={{port}}'\n\
             prepare = [['/bin/sh', '-c', '''{prepare}''']]\nstart = ['/bin/sh', '-c', '''{start}''']\n"
        );
        std::fs::write(self.path("script.toml"), driver).unwrap();
        let driver = Driver::read(self.directory.path(), "script").unwrap();
        let (port, port2) = free_ports().unwrap();
        let work = self.directory.path().to_owned();
        let place = Place { home: "/".into(), data: work.join("data"), work, port, port2 };
        Installed::prepare(&driver, place, &Settings::new(), &Cancel::new())
    }

    fn wait_for_file(&self, name: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
            if text.ends_with('\n') {
                return text.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "{name} was not written");
            std::thread::yield_now();
        }
    }
}

/// Whether a process runs (a zombie does not).
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with('Z'))
}

fn wait_until_dead(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn prepare_that_fails_quotes_its_output() {
    let error = Bench::new().install("true", "echo cannot format; exit 3").unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.ends_with("; its log ends: cannot format"), "{error}");
}

#[test]
fn prepare_writes_the_configuration_first() {
    let bench = Bench::new();
    let installed = bench.install("true", "cat c > seen; echo >> seen").unwrap();
    assert_eq!(bench.wait_for_file("seen"), format!("p={}", installed.place().port));
}

#[test]
fn broker_that_ends_by_itself_is_reported_with_its_output() {
    let bench = Bench::new();
    let mut broker = bench.install("echo no license; exit 9", "true").unwrap().start().unwrap();
    let error = broker.wait_ready(None, &Cancel::new()).unwrap_err();
    let shown = error.to_string();
    assert!(matches!(error, BrokerError::Ended { .. }), "{shown}");
    assert!(shown.contains("exit status: 9") && shown.ends_with("; its log ends: no license"), "{shown}");
}

#[test]
fn broker_that_never_answers_is_not_ready_and_says_what_was_seen() {
    let bench = Bench::new();
    let mut broker = bench.install("exec sleep 1000", "true").unwrap().start().unwrap();
    let error = broker.wait_ready(None, &Cancel::new()).unwrap_err().to_string();
    assert!(error.contains("was not ready within 300ms") && error.contains("refused"), "{error}");
}

/// Tables show the first line of an error, and the log is moved when the cell ends.
#[test]
fn first_line_of_an_error_has_the_end_of_the_log_and_no_path() {
    let bench = Bench::new();
    let talks = "echo one; echo two; echo; echo three; echo four; echo; exec sleep 1000";
    for (script, expected) in [
        (talks, "; its log ends: two | three | four"),
        ("exec sleep 1000", "; its log is empty"),
        (
            "echo two; echo three; echo four; exit 9",
            "by itself (exit status: 9); its log ends: two | three | four",
        ),
        ("exit 9", "by itself (exit status: 9); its log is empty"),
    ] {
        let _ = std::fs::remove_file(bench.path("broker.log"));
        let mut broker = bench.install(script, "true").unwrap().start().unwrap();
        let error = broker.wait_ready(None, &Cancel::new()).unwrap_err();
        let shown = error.to_string();
        let first = shown.lines().next().unwrap();
        assert!(first.ends_with(expected), "{shown}");
        assert_eq!(error.of_the_broker().unwrap(), first);
        assert!(!shown.contains(&bench.path("").display().to_string()), "{shown}");
        assert!(!shown.contains(":\n") || shown.contains("the end of broker.log:\n  "), "{shown}");
    }
}

#[test]
fn program_that_does_not_exist_is_named() {
    let bench = Bench::new();
    let mut broker = bench.install("exec /no/such/broker", "true").unwrap().start().unwrap();
    let error = broker.wait_ready(None, &Cancel::new()).unwrap_err().to_string();
    assert!(error.contains("/no/such/broker"), "{error}");
}

#[test]
fn kill_takes_the_children_too() {
    let bench = Bench::new();
    let script = "sleep 1000 & echo $! > child; echo $$ > self; wait";
    let mut broker = bench.install(script, "true").unwrap().start().unwrap();
    let (child, itself) = (bench.wait_for_file("child"), bench.wait_for_file("self"));
    assert!(lives(&child) && lives(&itself));
    broker.kill().unwrap();
    wait_until_dead(&child);
    wait_until_dead(&itself);
}

#[test]
fn dropped_broker_is_killed() {
    let bench = Bench::new();
    let broker = bench.install("echo $$ > self; exec sleep 1000", "true").unwrap().start().unwrap();
    let itself = bench.wait_for_file("self");
    drop(broker);
    wait_until_dead(&itself);
}

#[test]
fn stop_is_clean_when_the_signal_is_obeyed_and_a_kill_when_it_is_not() {
    let bench = Bench::new();
    let obeys = "trap 'exit 0' TERM; echo $$ > self; while :; do sleep 0.01; done";
    let broker = bench.install(obeys, "true").unwrap().start().unwrap();
    bench.wait_for_file("self");
    assert_eq!(broker.stop().unwrap(), Stopped::Cleanly);

    let bench = Bench::new();
    let refuses = "trap '' TERM; echo $$ > self; while :; do sleep 0.01; done";
    let broker = bench.install(refuses, "true").unwrap().start().unwrap();
    let itself = bench.wait_for_file("self");
    assert_eq!(broker.stop().unwrap(), Stopped::Killed);
    wait_until_dead(&itself);
}

#[test]
fn interrupted_wait_gives_up_at_once_and_leaves_no_process() {
    let bench = Bench::new();
    let mut broker = bench.install("echo $$ > self; exec sleep 1000", "true").unwrap().start().unwrap();
    let itself = bench.wait_for_file("self");
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(broker.wait_ready(None, &cancel), Err(BrokerError::Interrupted(_))));
    drop(broker);
    wait_until_dead(&itself);
}

#[test]
fn usage_counts_the_whole_group() {
    let bench = Bench::new();
    let burns = "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo > burnt; sleep 1000) & wait";
    let broker = bench.install(burns, "true").unwrap().start().unwrap();
    bench.wait_for_file("burnt");
    let usage = broker.usage();
    assert!(usage.cpu >= Duration::from_millis(20), "{usage:?}");
    assert!(usage.peak_rss_bytes > 100_000, "{usage:?}");
}

//! Whole sweeps against the stand-in: honest it is found honest, told to lie it is found out, and whatever happens
//! nothing is left behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use highwater_bench::results::Trial;
use highwater_checker::Anomaly;

const PROGRAM: &str = env!("CARGO_BIN_EXE_highwater-bench");

struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    /// A project with the shipped drivers and one workload.
    fn new(workload: &str) -> Self {
        // Not below /tmp, which may be in memory: no direct I/O there.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let brokers = directory.path().join("workloads/brokers");
        std::fs::create_dir_all(&brokers).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workloads/brokers/stand-in.toml");
        std::fs::copy(shipped, brokers.join("stand-in.toml")).unwrap();
        let head = "name = 'w'\ndescription = 'd'\nseed = 7\nbrokers = ['stand-in']\n";
        let defaults = "[defaults]\nduration = '600ms'\nwarm_up = '50ms'\nfault_earliest = '200ms'\n\
                        partitions = 4\nrate = '2 MB/s'\n";
        std::fs::write(directory.path().join("workloads/w.toml"), format!("{head}{defaults}{workload}"))
            .unwrap();
        Project { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("HIGHWATER_BENCH_HOME", Path::new(PROGRAM).parent().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn sweep(&self, more: &[&str]) -> Output {
        self.run(&[&["run", "workloads/w.toml"], more].concat())
    }

    /// Files of trials, by path.
    fn trials(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.path("results")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    open.push(path);
                } else if name.starts_with("trial-") && name.ends_with(".json") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// Nothing may be left: no files of brokers, no process that was started for this project, no mount.
    fn assert_clean(&self) {
        let scratch = std::fs::read_dir(self.path("target/bench")).unwrap();
        assert_eq!(scratch.count(), 0, "files of a broker are left");
        let mark = self.directory.path().to_string_lossy().into_owned();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&arguments).contains(&mark), "a process is left: {process:?}");
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
}

#[test]
fn honest_broker_keeps_its_contracts_through_kills() {
    let project =
        Project::new("[[grid]]\nacks = [1, 'all']\nflush = ['never', 'flush.messages=1']\nfault = 'kill'");
    let output = project.sweep(&[]);
    assert_exit(&output, 0);
    assert_eq!(project.trials().len(), 4);
    project.assert_clean();
}

#[test]
fn cell_without_a_fault_is_measured_and_stamped() {
    let project = Project::new("[[grid]]\n");
    let output = project.sweep(&[]);
    assert_exit(&output, 0);
    let folder = project.trials()[0].ancestors().nth(3).unwrap().to_owned();
    let sweep = std::fs::read_to_string(folder.join("sweep.json")).unwrap();
    for stamped in ["\"kernel\":\"Linux ", "\"fdatasync\":", "\"client_ceiling\":{", "\"complete\":true"] {
        assert!(sweep.contains(stamped), "{stamped} is not in {sweep}");
    }
    let trial = std::fs::read_to_string(&project.trials()[0]).unwrap();
    assert!(trial.contains("\"target_records_per_second\":1953.125"), "{trial}");
    assert!(trial.contains("\"drain\":"), "{trial}");
    let trial: Trial = serde_json::from_str(&trial).unwrap();
    let used = trial.load.used.unwrap();
    assert!(used.peak_rss_bytes >= used.end_rss_bytes && used.end_rss_bytes > 0, "{used:?}");
    let table = std::fs::read_to_string(folder.join("table.txt")).unwrap();
    assert!(table.contains("of the client: of what it reaches with the same settings"), "{table}");
}

/// The producer's settings decide over what the client can do: acks twice, flush not at all.
#[test]
fn ceiling_of_the_client_is_measured_once_for_each_of_its_settings() {
    let project = Project::new("[[grid]]\nacks = [1, 'all']\nflush = ['never', 'flush.messages=1']\n");
    assert_exit(&project.sweep(&[]), 0);
    let folder = project.trials()[0].ancestors().nth(3).unwrap().to_owned();
    let sweep = highwater_bench::results::store::ResultsDir::new(&folder).load().unwrap();
    let ceilings: Vec<_> = sweep
        .configurations
        .iter()
        .map(|configuration| (configuration.setting.acks, configuration.client_ceiling.unwrap()))
        .collect();
    let [(_, one), (_, one_again), (_, all), (_, all_again)] = ceilings.as_slice() else {
        panic!("{ceilings:?}")
    };
    assert_eq!((one, all), (one_again, all_again));
    assert_ne!(one, all);
    assert_eq!(sweep.environment.client_ceiling.as_ref(), Some(one));
}

/// Each lie, and the fault under which it shows.
#[test]
fn lying_broker_is_found_out() {
    for lie in ["truncate-recovery", "ack-before-write", "duplicate"] {
        let project = Project::new(&format!("[settings.stand-in]\nlie = '{lie}'\n[[grid]]\nfault = 'kill'"));
        // A lie about a moment shows only if the kill meets that moment.
        let found = (1..=8).any(|seed: u32| {
            let output = project.sweep(&["--forensics", "--seed", &seed.to_string()]);
            output.status.code() == Some(1) && text(&output).contains("BROKEN")
        });
        assert!(found, "{lie}: not found by 8 kills");
        project.assert_clean();
    }
}

/// A consumer reads along: what it saw before the kill is there afterwards, or that is found out, too.
#[test]
fn what_consumers_saw_is_held_against_what_is_left() {
    let grid = "[[grid]]\nconsumers = 2\nfault = 'kill'";
    let trial_of = |project: &Project| -> Trial {
        serde_json::from_slice(&std::fs::read(project.trials().last().unwrap()).unwrap()).unwrap()
    };
    let honest = Project::new(grid);
    let output = honest.sweep(&[]);
    assert_exit(&output, 0);
    assert!(trial_of(&honest).load.polled > Some(0));
    assert!(
        text(&output).contains("0 records that a consumer had read before a fault were gone afterwards"),
        "{}",
        text(&output)
    );

    let lying = format!("[settings.stand-in]\nlie = 'truncate-recovery'\n{grid}");
    // What was acknowledged last may not have been seen yet.
    let found = (1..=8).any(|seed: u32| {
        let project = Project::new(&lying);
        project.sweep(&["--seed", &seed.to_string()]);
        trial_of(&project).verdict.unwrap().violation(Anomaly::ReadThenLost) > 0
    });
    assert!(found, "not found by 8 kills");
}

/// Consumers of a cell that is measured are part of its load; its drain begins where its producers end.
#[test]
fn consumers_read_along_while_speed_is_measured() {
    let project = Project::new("[[grid]]\nconsumers = [0, 1]\n");
    assert_exit(&project.sweep(&[]), 0);
    let read = |path: &PathBuf| -> Trial { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut loads: Vec<_> = project.trials().iter().map(|path| read(path).load).collect();
    loads.sort_by_key(|load| load.polled);
    let [without, along] = loads.as_slice() else { panic!("{loads:?}") };
    assert_eq!(without.polled, None);
    assert!(along.polled >= Some(along.records), "{along:?}");
}

/// The first verdict of a sweep of one cell, whose broker betrays its clients after the kill.
fn verdict_of(lie: &str) -> highwater_checker::Verdict {
    let project = Project::new(&format!("[settings.stand-in]\nlie = '{lie}'\n[[grid]]\nfault = 'kill'"));
    let driver = project.path("workloads/brokers/stand-in.toml");
    let patient = std::fs::read_to_string(&driver).unwrap();
    std::fs::write(&driver, patient.replace("ready_within = \"20s\"", "ready_within = \"2s\"")).unwrap();
    let output = project.sweep(&[]);
    assert_exit(&output, 1);
    let shown = text(&output);
    assert!(shown.contains("A contract was broken"), "{shown}");
    let ends = matches!(lie, "no-return" | "end-at-fetch");
    let told = shown.lines().filter(|line| line.contains("the broker ended by itself (exit status: "));
    // In the run's own output, and in the table.
    assert_eq!(told.count() >= 2, ends, "{shown}");
    project.assert_clean();
    // It has its verdict: there is nothing to be tried again until it goes well.
    assert_exit(&project.sweep(&["--resume"]), 2);
    let trials = project.trials();
    assert_eq!(trials.len(), 1);
    let trial: Trial = serde_json::from_slice(&std::fs::read(&trials[0]).unwrap()).unwrap();
    trial.verdict.unwrap()
}

#[test]
fn broker_that_does_not_come_back_is_judged_and_not_excused() {
    let verdict = verdict_of("no-return");
    assert_eq!(verdict.violation(Anomaly::Unrecovered), 1);
    assert!(verdict.losses.of_records > 0);
    assert_eq!(verdict.losses.unreadable, verdict.losses.of_records);
    let why = &verdict.violations[0].examples[0];
    assert!(why.contains("ended by itself") && why.contains("cannot be recovered"), "{why}");
}

#[test]
fn broker_that_ends_while_it_is_read_back_is_said_to_have_ended() {
    let verdict = verdict_of("end-at-fetch");
    assert_eq!(verdict.violation(Anomaly::Unrecovered), 1);
    assert_eq!(verdict.losses.unreadable, verdict.losses.of_records);
    let why = &verdict.violations[0].examples[0];
    let expected =
        "before everything was read back, the broker ended by itself (exit status: 7); its log ends: ";
    assert!(why.starts_with(expected) && why.contains("asked for records, of all things"), "{why}");
    let unreadable =
        verdict.violations.iter().find(|finding| finding.anomaly == Anomaly::Unreadable).unwrap();
    assert!(unreadable.examples[0].contains("ended by itself (exit status: 7)"), "{unreadable:?}");
}

#[test]
fn partition_that_is_fenced_after_a_restart_is_unreadable_and_the_others_are_read() {
    let verdict = verdict_of("fence-partition");
    assert_eq!(verdict.violation(Anomaly::Unrecovered), 0);
    assert!(verdict.losses.unreadable > 0 && verdict.losses.unreadable < verdict.losses.of_records);
    assert_eq!(verdict.losses.partitions, 1);
    assert!(verdict.violations[0].examples[0].contains("error code 56 (KAFKA_STORAGE_ERROR)"), "{verdict:?}");
}

#[test]
fn refused_batch_is_unreadable_and_what_is_behind_it_is_read() {
    let verdict = verdict_of("refuse-batch");
    assert!(verdict.violation(Anomaly::Unreadable) > 0);
    assert!(verdict.cells.acknowledged.once > verdict.losses.unreadable, "{:?}", verdict.cells);
    assert_eq!(verdict.losses.records, 0);
}

/// The load goes on through the kill on the way, a topic whose creation was answered is looked for, and every fault is
/// stamped with how near it fell and whether acks were flowing.
#[test]
fn aimed_faults_strike_where_they_should_and_say_how_near() {
    let project = Project::new(
        "[[grid]]\nacks = 1\nfault = 'kill'\nfault_at = ['after-restart', 'recovery', 'topic-creation']\n\
         fault_acked = 100\nduration = '2min'",
    );
    let output = project.sweep(&[]);
    assert_exit(&output, 0);
    project.assert_clean();
    let mut aims = Vec::new();
    for path in project.trials() {
        let trial: Trial = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let (last, earlier) = trial.faults.split_last().unwrap();
        let aim = last.aim.as_ref().unwrap();
        assert_eq!(earlier.len(), usize::from(aim.at != "topic-creation"), "{:?}", trial.faults);
        assert!(trial.faults.iter().all(|mark| mark.since_last_ack.is_some()), "{:?}", trial.faults);
        assert!(
            trial.faults.windows(2).all(|pair| pair[0].restored_at <= pair[1].struck_at),
            "{:?}",
            trial.faults
        );
        aims.push(aim.at.clone());
    }
    aims.sort();
    assert_eq!(aims, ["after-restart", "recovery", "topic-creation"]);
}

/// By the clock this fault would be an hour away.
#[test]
fn fault_that_waits_for_acks_strikes_once_they_have_come() {
    let project =
        Project::new("[[grid]]\nfault = 'kill'\nfault_acked = 100\nduration = '2h'\nfault_earliest = '1h'");
    assert_exit(&project.sweep(&[]), 0);
    let trial: Trial = serde_json::from_slice(&std::fs::read(&project.trials()[0]).unwrap()).unwrap();
    assert!(trial.verdict.as_ref().unwrap().losses.of_records >= 100, "{:?}", trial.verdict);
    project.assert_clean();
}

#[test]
fn fault_that_waits_for_more_acks_than_come_fails_its_cell_and_says_so() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nfault_acked = 100000000");
    let output = project.sweep(&[]);
    assert_exit(&output, 2);
    let shown = text(&output);
    assert!(
        shown.contains("the fault waits for 100,000,000 acknowledged records, and the load ended with"),
        "{shown}"
    );
    project.assert_clean();
}

#[test]
fn fault_aimed_at_what_never_comes_fails_its_cell_and_says_why() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nfault_at = 'checkpoint'");
    let output = project.sweep(&[]);
    assert_exit(&output, 2);
    assert!(
        text(&output).contains("aimed at checkpoint, and its driver names no checkpoint_files"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("This sweep failed: 1 trial has no verdict."), "{}", text(&output));
    assert!(!text(&output).contains("nterrupted"), "{}", text(&output));
    assert!(text(&output).contains("! 1 trial without a verdict"), "{}", text(&output));
    project.assert_clean();
    // Nothing had struck: it may run again, and does.
    let again = project.sweep(&["--resume"]);
    assert_exit(&again, 2);
    assert!(text(&again).contains("! 1 trial without a verdict"), "{}", text(&again));
    // And so says the report when it is written again from the files.
    let folder = std::fs::read_dir(project.path("results")).unwrap().next().unwrap().unwrap().path();
    let report = project.run(&["report", &folder.display().to_string()]);
    assert!(text(&report).contains("! This sweep failed: 1 trial has no verdict."), "{}", text(&report));
}

/// Needs root and FUSE; without them the cell must be left out, with the reason, and not be taken for a success.
#[test]
fn power_cut_finds_the_skipped_flush_or_says_what_is_missing() {
    let project = Project::new("[settings.stand-in]\nlie = 'skip-flush'\n[[grid]]\nfault = 'power-cut'");
    let output = project.sweep(&[]);
    match highwater_bench::medium::can_cut_power() {
        Ok(()) => assert_exit(&output, 1),
        Err(missing) => {
            assert!(text(&output).contains(&missing), "{}", text(&output));
            assert!(text(&output).contains("Left out"), "{}", text(&output));
        }
    }
    project.assert_clean();
}

#[test]
fn honest_broker_survives_a_power_cut_with_every_ack_flushed() {
    let project = Project::new("[[grid]]\nfault = 'power-cut'");
    let output = project.sweep(&[]);
    assert_exit(&output, 0);
    project.assert_clean();
}

#[test]
fn interrupted_sweep_leaves_nothing_behind_and_goes_on_where_it_stopped() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nrepeats = 3");
    let mut child = project.command(&["run", "workloads/w.toml"]).spawn().unwrap();
    wait_for(|| project.trials().len() == 1, &mut child);
    // The second trial is under way, somewhere.
    wait_for(|| std::fs::read_dir(project.path("target/bench")).is_ok_and(|dir| dir.count() > 0), &mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 130);
    project.assert_clean();
    let done = project.trials();
    let missing = ["2 of 3 planned trials are missing", "1 of 3 planned trials is missing"][done.len() - 1];
    assert!(text(&output).contains(&format!("This sweep was interrupted; {missing}.")), "{}", text(&output));
    let stamps: Vec<_> =
        done.iter().map(|path| std::fs::metadata(path).unwrap().modified().unwrap()).collect();
    assert!(done.len() < 3, "the sweep was not interrupted");

    assert_exit(&project.sweep(&["--resume"]), 0);
    assert_eq!(project.trials().len(), 3);
    for (path, stamp) in done.iter().zip(stamps) {
        assert_eq!(std::fs::metadata(path).unwrap().modified().unwrap(), stamp, "{path:?} ran again");
    }
    let nothing_left = project.sweep(&["--resume"]);
    assert_exit(&nothing_left, 2);
    assert!(text(&nothing_left).contains("no unfinished sweep"), "{}", text(&nothing_left));
}

fn wait_for(condition: impl Fn() -> bool, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(child.try_wait().unwrap().is_none(), "the sweep ended early");
        assert!(Instant::now() < deadline, "the sweep hangs");
        std::thread::yield_now();
    }
}

#[test]
fn changed_workload_is_not_resumed() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nrepeats = 2");
    let mut child = project.command(&["run", "workloads/w.toml"]).spawn().unwrap();
    wait_for(|| project.trials().len() == 1, &mut child);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert_exit(&child.wait_with_output().unwrap(), 130);
    let path = project.path("workloads/w.toml");
    let changed =
        std::fs::read_to_string(&path).unwrap().replace("'w'\ndescription = 'd'", "'w'\ndescription = 'e'");
    std::fs::write(&path, changed).unwrap();
    let output = project.sweep(&["--resume"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("differs from the workload"), "{}", text(&output));
}

#[test]
fn one_cell_runs_again_from_its_id() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nrepeats = 2");
    let listed = project.run(&["list", "workloads/w.toml"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    // Repeats differ in their number, as in the lines of a run.
    let ends: Vec<&str> = listed.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(ends, ["#0", "#1"], "{listed}");
    let id = &listed.lines().nth(1).unwrap()[..10];
    let output = project.run(&["cell", "workloads/w.toml", id]);
    assert_exit(&output, 0);
    assert!(text(&output).contains("nothing acknowledged may be lost"), "{}", text(&output));
    let output = project.run(&["cell", "workloads/w.toml", "zz"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("no cell's id begins with zz"), "{}", text(&output));
}

#[test]
fn broker_that_is_not_installed_is_said_before_anything_runs() {
    let project = Project::new("[[grid]]\n");
    let driver = project.path("workloads/brokers/gone.toml");
    std::fs::write(driver, "title='Gone'\nhome='nowhere'\nmarker='x'\nmissing='get it'\nstart=['x']\n")
        .unwrap();
    let output = project.sweep(&["--broker", "gone"]);
    assert_exit(&output, 2);
    assert!(
        text(&output).contains("Gone is not installed") && text(&output).contains("get it"),
        "{}",
        text(&output)
    );
    assert!(!project.path("results").exists());
}

#[test]
fn wrong_workload_is_refused_with_line_and_key() {
    let project = Project::new("[[grid]]\nacks = 2");
    let output = project.run(&["validate", "workloads/w.toml"]);
    assert_exit(&output, 2);
    assert!(
        text(&output).contains("w.toml:12: grid[0].acks: 2 is not one of 0, 1, \"all\""),
        "{}",
        text(&output)
    );
}

#[test]
fn workload_of_too_many_trials_is_refused_by_every_command() {
    let project = Project::new("[[grid]]\nlinger.ms = [1, 2, 3]\nrepeats = 100000");
    let expected = "w.toml:13: grid[0].repeats: 3 linger.ms × 100,000 repeats of fault=none would be 300,000 trials; \
                    a sweep has at most 100,000\n";
    for command in ["validate", "list", "run"] {
        let output = project.run(&[command, "workloads/w.toml"]);
        assert_exit(&output, 2);
        assert!(text(&output).ends_with(expected), "{}", text(&output));
    }
    let output = project.run(&["cell", "workloads/w.toml", "00"]);
    assert_exit(&output, 2);
    assert!(text(&output).ends_with(expected), "{}", text(&output));
    assert!(!project.path("results").exists());
    let output = project.run(&["list", "workloads/w.toml", "--max-repeats", "1"]);
    assert_exit(&output, 0);
}

#[test]
fn sweep_whose_broker_never_starts_is_given_up_and_called_failed() {
    let project = Project::new("[settings.stand-in]\nlie = 'white'\n[[grid]]\nrepeats = 5");
    let output = project.sweep(&[]);
    assert_exit(&output, 2);
    let expected =
        "This sweep failed: it was given up after 3 failures in a row; 5 of 5 planned trials are missing.";
    let shown = text(&output);
    assert!(shown.contains(expected) && !shown.contains("nterrupted"), "{shown}");
    let line = shown.lines().find(|line| line.contains("! 3 trials without a verdict, since they failed: "));
    let line = line.unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("its log ends: error: invalid value 'white'"), "{line}");
    assert!(!line.contains("broker.log") && !line.contains("target/bench"), "{line}");
    let folder = std::fs::read_dir(project.path("results")).unwrap().next().unwrap().unwrap().path();
    for file in ["report.html", "table.txt"] {
        let written = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(written.contains(expected) && !written.contains("was interrupted"), "{written}");
    }
}

#[test]
fn broker_that_never_gets_ready_is_quoted_in_the_table() {
    let project = Project::new("[[grid]]");
    let driver = "title='Mute'\nhome='/'\nmarker='bin/sh'\nmissing=''\nready_within='300ms'\n\
                  start=['/bin/sh', '-c', 'echo waiting for the moon; exec sleep 1000']\n";
    std::fs::write(project.path("workloads/brokers/mute.toml"), driver).unwrap();
    let output = project.sweep(&["--broker", "mute"]);
    assert_exit(&output, 2);
    let shown = text(&output);
    let line = shown.lines().find(|line| line.contains("! 1 trial without a verdict")).unwrap();
    assert!(line.contains("was not ready within 300ms"), "{line}");
    assert!(line.ends_with("; its log ends: waiting for the moon."), "{line}");
    project.assert_clean();
}

/// Root may write everywhere, so a file stands where a directory should.
#[test]
fn directory_that_cannot_be_made_names_the_flag_for_another_and_leaves_no_results() {
    let project = Project::new("[[grid]]\nfault = 'kill'");
    std::fs::write(project.path("file"), "").unwrap();
    let output = project.sweep(&["--results", "file/results"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("; --results DIR takes them elsewhere"), "{}", text(&output));
    let output = project.sweep(&["--scratch", "file/scratch"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("; --scratch DIR takes them elsewhere"), "{}", text(&output));
    assert!(!project.path("results").exists());
    let listed = project.run(&["list", "workloads/w.toml"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let output = project.run(&["cell", "workloads/w.toml", &listed[..10], "--scratch", "file/scratch"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("; --scratch DIR takes them elsewhere"), "{}", text(&output));
}

/// What a sweep that comes to nothing takes away is what it made: not a folder that was there, not the one beside its own.
#[test]
fn sweep_that_comes_to_nothing_takes_away_what_it_made_and_no_more() {
    let project = Project::new("[[grid]]\nfault = 'kill'");
    std::fs::write(project.path("file"), "").unwrap();
    std::fs::create_dir(project.path("mine")).unwrap();
    for (results, first_made) in [("mine", None), ("mine/a/b", Some("mine/a")), ("new/results", Some("new"))]
    {
        let output = project.sweep(&["--results", results, "--scratch", "file/scratch"]);
        assert_exit(&output, 2);
        assert!(text(&output).contains("; --scratch DIR takes them elsewhere"), "{}", text(&output));
        assert!(project.path("mine").exists(), "{results}");
        assert!(first_made.is_none_or(|made| !project.path(made).exists()), "{results}");
        assert!(std::fs::read_dir(project.path("mine")).unwrap().next().is_none(), "{results}");
    }
}

/// The name of a cell's folder is as long as that of its broker and some more, here more than a file system takes.
#[test]
fn sweep_whose_plan_cannot_be_written_leaves_no_folder() {
    let project = Project::new("[[grid]]\nfault = 'kill'");
    let (drivers, long) = (project.path("workloads/brokers"), "a".repeat(240));
    std::fs::copy(drivers.join("stand-in.toml"), drivers.join(format!("{long}.toml"))).unwrap();
    let output = project.sweep(&["--broker", &long]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("File name too long"), "{}", text(&output));
    assert!(!project.path("results").exists());
}

#[test]
fn unknown_brokers_and_settings_are_refused_without_a_run() {
    let project = Project::new("[settings.nope]\nx = 1\n[settings.stand-in]\nlies = 'duplicate'\n[[grid]]");
    for arguments in
        [&["validate", "workloads/w.toml"], &["list", "workloads/w.toml"], &["run", "workloads/w.toml"]]
    {
        let output = project.run(arguments);
        assert_exit(&output, 2);
        for expected in [
            "w.toml:11: settings.nope: no broker is called nope",
            "w.toml:14: settings.stand-in.lies: Stand-in has no broker setting of this name; did you mean `lie`?",
        ] {
            assert!(text(&output).contains(expected), "{}", text(&output));
        }
    }
    let project = Project::new("[[grid]]");
    let output = project.run(&["validate", "workloads/w.toml"]);
    assert_exit(&output, 0);
    assert_eq!(text(&output), "workloads/w.toml: 1 cell for stand-in\n");
    let output = project.run(&["validate", "workloads/w.toml", "--broker", "nope"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("no broker is called nope"), "{}", text(&output));
    assert!(!project.path("results").exists());
}

#[test]
fn value_that_the_broker_refuses_is_shown_where_it_was_written() {
    let project = Project::new("[settings.stand-in]\nlie = 'white'\n[[grid]]");
    let output = project.sweep(&[]);
    assert_exit(&output, 2);
    let shown = text(&output);
    let expected = "workloads/w.toml:12: settings.stand-in.lie: \"white\" was asked for";
    assert!(shown.contains(expected) && shown.contains("invalid value 'white'"), "{shown}");
}

/// A harness that is killed cannot clean up; the kernel and the disk's own process do.
#[test]
fn killed_harness_takes_its_broker_along() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nduration = '1h'\nfault_earliest = '59min'");
    let mut child = project.command(&["run", "workloads/w.toml"]).spawn().unwrap();
    let mark = format!("--data-dir {}", project.directory.path().display());
    // Not the moment between its start and its being tied to the harness.
    let tied = |arguments: &String| arguments.contains(&mark) && !arguments.contains("--pdeathsig");
    let brokers = || processes().filter(tied).count();
    wait_for(|| brokers() > 0, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while brokers() > 0 {
        assert!(Instant::now() < deadline, "the broker outlived the harness");
        std::thread::yield_now();
    }
}

fn processes() -> impl Iterator<Item = String> {
    std::fs::read_dir("/proc").unwrap().flatten().map(|process| {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).replace('\0', " ")
    })
}

#[test]
fn sweep_interrupted_before_its_first_cell_leaves_nothing_and_says_that_it_was_interrupted() {
    let project = Project::new("[[grid]]\nfault = 'kill'");
    let mut child = project.command(&["run", "workloads/w.toml"]).spawn().unwrap();
    wait_for(|| std::fs::read_dir(project.path("target/bench")).is_ok_and(|dir| dir.count() > 0), &mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_exit(&child.wait_with_output().unwrap(), 130);
    project.assert_clean();
}

/// Fresh directories, A B B A, each side with its figures; and nothing is read from two pairs.
#[test]
fn pairs_are_interleaved_and_too_few_of_them_are_not_quoted() {
    let project =
        Project::new("[[grid]]\nacks = [1, 'all']\nrate = 'saturating'\n[[grid]]\nfault = 'kill'\n");
    let output = project.sweep(&["--pairs", "2", "--noise"]);
    assert_exit(&output, 0);
    project.assert_clean();
    let shown = text(&output);
    assert!(shown.contains("Fewer than 6 pairs tell nothing"), "{shown}");
    assert!(!shown.contains("BROKEN") && !shown.contains(" kill "), "{shown}");
    let order: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split(": ").next())
        .collect();
    let expected = [
        "[1/8] stand-in acks=1 flush.messages=1 saturating none pair 1A",
        "[2/8] stand-in acks=1 flush.messages=1 saturating none pair 1B",
        "[3/8] stand-in acks=1 flush.messages=1 saturating none pair 1A",
        "[4/8] stand-in acks=all flush.messages=1 saturating none pair 1B",
        "[5/8] stand-in acks=1 flush.messages=1 saturating none pair 2B",
        "[6/8] stand-in acks=1 flush.messages=1 saturating none pair 2A",
        "[7/8] stand-in acks=all flush.messages=1 saturating none pair 2B",
        "[8/8] stand-in acks=1 flush.messages=1 saturating none pair 2A",
    ];
    assert_eq!(order, expected, "{shown}");
    let folder = project.trials()[0].ancestors().nth(3).unwrap().to_owned();
    let sweep = highwater_bench::results::store::ResultsDir::new(&folder).load().unwrap();
    let [noise, other] = sweep.comparisons.as_slice() else { panic!("{:?}", sweep.comparisons) };
    assert!(noise.a == noise.b && other.a == noise.a && other.b != other.a, "{:?}", sweep.comparisons);
    for comparison in [noise, other] {
        assert_eq!((comparison.pairs.len(), comparison.p99.len()), (2, 2), "{comparison:?}");
    }
    assert!(shown.contains("too few pairs to tell") && !shown.contains("is faster"), "{shown}");
    // The command of a trial finds it among the pairs.
    let trial = sweep.cells.iter().flat_map(|cell| &cell.trials).next().unwrap();
    assert!(trial.command.ends_with(" --pairs 2 --noise"), "{}", trial.command);
    let arguments: Vec<&str> = trial.command.split(' ').skip(1).collect();
    assert_exit(&project.run(&arguments), 0);
}

#[test]
fn cold_runs_are_cells_of_their_own_and_nothing_is_warmed_before_them() {
    let project = Project::new("[[grid]]\nstart = ['warm', 'cold']\n");
    assert_exit(&project.sweep(&[]), 0);
    let folder = project.trials()[0].ancestors().nth(3).unwrap().to_owned();
    let sweep = highwater_bench::results::store::ResultsDir::new(&folder).load().unwrap();
    let cold: Vec<bool> = sweep.configurations.iter().map(|of| of.workload.cold).collect();
    assert_eq!(cold, [false, true]);
    for cell in &sweep.cells {
        let details = folder.join("cells").join(&cell.plan.id).join("trial-0000/details.json");
        let details = std::fs::read_to_string(details).unwrap();
        let warmed = !cell.plan.id.contains("start-cold");
        assert!(details.contains(&format!("\"memory_warmed\": {warmed}")), "{details}");
        // Of a cold run every record counts that was ever attempted.
        let trial = &cell.trials[0];
        let attempts = trial.verdict.as_ref().unwrap().attempts;
        assert_eq!(attempts == trial.load.records, !warmed, "{attempts} {:?}", trial.load);
    }
}

#[test]
fn pairs_of_nothing_are_refused_with_what_would_be_compared() {
    let project = Project::new("[[grid]]\n");
    let output = project.sweep(&["--pairs", "6"]);
    assert_exit(&output, 2);
    assert!(text(&output).contains("w: nothing to compare: pairs are of two brokers"), "{}", text(&output));
    assert!(!project.path("results").exists());
}

/// Where this machine has no memory cgroup for us, the sweep says so and the record claims none.
#[test]
fn broker_with_a_memory_limit_runs_in_a_group_or_the_sweep_says_that_it_does_not() {
    let project = Project::new("[[grid]]\nfault = 'kill'\nmemory.limit = '256 MiB'\n");
    let output = project.sweep(&[]);
    assert_exit(&output, 0);
    project.assert_clean();
    let trial: Trial = serde_json::from_slice(&std::fs::read(&project.trials()[0]).unwrap()).unwrap();
    let limit = trial.load.used.unwrap().memory_limit_bytes;
    match highwater_bench::broker::memory::MemoryGroup::can_be_made() {
        Ok(()) => assert_eq!(limit, Some(256 << 20)),
        Err(missing) => {
            assert_eq!(limit, None);
            assert!(text(&output).contains(&missing), "{}", text(&output));
        }
    }
}

//! The checker is checked: Highwater, built so that it can lie, is run by the harness for real, killed and cut, and each
//! lie must be found out under its own name; the honest broker must come out clean, and what a lying disk loses must be
//! booked on the disk.
//!
//! Needs root (a FUSE disk on a loop device) and a broker with the feature `mutants`, whose folder `HIGHWATER_LIAR`
//! names: `scripts/test liars` builds it. Without them the test says so loudly and proves nothing.
//!
//! Nothing here is decided by the clock: a fault falls once so many records were acknowledged (`fault_acked`), however
//! long that takes, so that no machine is too slow for a scene to prove something. What chance decides, namely whether a
//! cut meets the one flush of ten that was dropped, is tried until it does, a bounded number of times.
//!
//! A new lie is one line of [`LIES`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use highwater_bench::results::FaultMark;
use highwater_checker::{Anomaly, Contract, Finding, Standing, Verdict};
use serde::Deserialize;

const PROGRAM: &str = env!("CARGO_BIN_EXE_highwater-bench");

/// A way to lie, what shows it, and what it must be called.
struct Lie {
    mutant: &'static str,
    scene: Scene,
    verdict: Anomaly,
    /// A lie about a moment shows only if the fault meets that moment: at most so many tries.
    cells: u32,
}

/// What a broker is put through.
#[derive(Clone, Copy)]
struct Scene {
    name: &'static str,
    /// Lines of `[[grid]]`.
    grid: &'static str,
    /// Lines of `[settings.highwater]`.
    settings: &'static str,
}

/// A batch a record: each offset is that of a batch, those at which a mutant lies among them.
const NO_FAULT: Scene = Scene {
    name: "no fault",
    grid: "batch.size = 0\nduration = '700ms'\nrate = '1500 records/s'",
    settings: "",
};
const KILL: Scene = Scene { name: "kill", grid: "fault = 'kill'\nfault_acked = 300", settings: "" };
const KILL_AND_RETRY: Scene = Scene {
    name: "kill, the load goes on, kill",
    grid: "fault = 'kill'\nfault_at = 'after-restart'\nfault_acked = 300",
    settings: "",
};
const CUT: Scene = Scene { name: "power cut", grid: "fault = 'power-cut'\nfault_acked = 300", settings: "" };
/// What is written and not yet flushed stays so for long enough that a cut meets it.
const CUT_SLOW: Scene = Scene {
    name: "power cut, slow flushes",
    grid: "fault = 'power-cut'\nfault_acked = 300\ndisk.flush_delay = '40ms'",
    settings: "",
};
/// The same through the page cache: there a write and its flush are two calls.
const CUT_SLOW_CACHED: Scene = Scene {
    name: "power cut, slow flushes, page cache",
    settings: "log.direct.io.enable = false",
    ..CUT_SLOW
};
/// A flush takes so long that the producer gives up on its first try and sends again. The first ack there is comes after
/// a retry: from a broker that lies, long before the flush is done.
const CUT_AND_RETRY: Scene = Scene {
    name: "power cut, retries",
    grid: "fault = 'power-cut'\nwarm_up = '0s'\nfault_acked = 1\n\
           disk.flush_delay = '400ms'\nrequest_timeout = '100ms'",
    settings: "",
};
/// A flush takes about as long as the producer waits: some requests are sent again while they are being stored, and some
/// are answered in time, so that there are acks to wait for. The cut falls once much was sent again.
const RETRY_THEN_CUT: Scene = Scene {
    name: "retries, power cut",
    grid: "fault = 'power-cut'\nwarm_up = '0s'\nfault_acked = 300\n\
           disk.flush_delay = ['60ms', '80ms', '95ms']\nrequest_timeout = '100ms'",
    settings: "",
};
/// So seldom flushed that no other flush makes up for the one that was dropped. A record, a flush: of ten numbers of
/// records in a row, one is that of a dropped flush.
const CUT_BETWEEN_FLUSHES: Scene = Scene {
    name: "power cut, few records",
    grid: "fault = 'power-cut'\nfault_acked = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]\nrate = '20 records/s'",
    settings: "",
};
const LYING_DISK: Scene =
    Scene { name: "lying disk", grid: "fault = 'lying-flush'\nfault_acked = 300", settings: "" };

const fn lie(mutant: &'static str, scene: Scene, verdict: Anomaly, cells: u32) -> Lie {
    Lie { mutant, scene, verdict, cells }
}

/// `ack-before-write` acknowledges and submits the write in one go: no SIGKILL comes between, and what is submitted is
/// done. It takes a power cut to show it.
const LIES: &[Lie] = &[
    lie("offset-given-twice", NO_FAULT, Anomaly::InconsistentOffset, 2),
    lie("record-altered", NO_FAULT, Anomaly::Corrupt, 2),
    lie("ack-before-write", CUT_SLOW, Anomaly::LostTail, 6),
    lie("ack-before-flush", CUT_SLOW_CACHED, Anomaly::LostTail, 6),
    lie("skip-journal-flush", CUT_SLOW_CACHED, Anomaly::LostTail, 6),
    lie("drop-flush-sometimes", CUT_BETWEEN_FLUSHES, Anomaly::LostTail, 60),
    lie("retry-stored-twice", RETRY_THEN_CUT, Anomaly::Duplicate, 9),
    lie("duplicate-acked-at-once", CUT_AND_RETRY, Anomaly::LostTail, 12),
];

/// What the honest broker must come through.
const HONEST: &[Scene] = &[
    NO_FAULT,
    KILL,
    KILL_AND_RETRY,
    CUT,
    CUT_SLOW,
    CUT_SLOW_CACHED,
    CUT_AND_RETRY,
    RETRY_THEN_CUT,
    CUT_BETWEEN_FLUSHES,
];
/// In so many cells that prove something, of at most so many.
const HONEST_CELLS: (usize, u32) = (2, 5);

/// What `highwater-bench cell --json` prints.
#[derive(Debug, Deserialize)]
struct Outcome {
    contract: Contract,
    verdict: Verdict,
    faults: Vec<FaultMark>,
    details: Details,
}

#[derive(Debug, Deserialize)]
struct Details {
    flushes_lied: u64,
}

/// A folder with a driver for a broker that lies, and a workload of one cell, as often as wanted.
struct Project {
    directory: tempfile::TempDir,
    liar: PathBuf,
    cells: u32,
}

impl Project {
    fn new(liar: &Path, mutant: Option<&str>, scene: Scene, cells: u32) -> Self {
        // Not below /tmp, which may be in memory: no direct I/O there.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let brokers = directory.path().join("workloads/brokers");
        std::fs::create_dir_all(&brokers).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workloads/brokers/highwater.toml");
        let mut driver = std::fs::read_to_string(shipped).unwrap();
        if let Some(mutant) = mutant {
            let serve = "\"serve\", ";
            assert!(driver.contains(serve), "the driver starts the broker in another way");
            driver = driver.replace(serve, &format!("{serve}\"--mutant\", \"{mutant}\", "));
        }
        std::fs::write(brokers.join("highwater.toml"), driver).unwrap();
        // One shard: another's flush would make up for the one that is missing, since a disk flushes as a whole.
        let Scene { grid, settings, .. } = scene;
        let head = format!(
            "name = 'w'\ndescription = 'd'\nseed = 11\n[settings.highwater]\nnum.shards = 1\n{settings}\n"
        );
        // A fault ends the load; the duration is the longest wait for the progress that it waits for.
        let defaults = "[defaults]\nwarm_up = '100ms'\nduration = '2min'\npartitions = 4\nrate = '4 MB/s'\n";
        let text = format!("{head}{defaults}[[grid]]\nrepeats = {cells}\n{grid}");
        std::fs::write(directory.path().join("workloads/w.toml"), text).unwrap();
        Project { directory, liar: liar.to_owned(), cells }
    }

    /// What the program prints, or what it says of why it cannot go on.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .current_dir(self.directory.path())
            .env("HIGHWATER_HOME", &self.liar)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        match output.status.code() {
            Some(0 | 1) => Ok(String::from_utf8(output.stdout).unwrap()),
            _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// What came of the cells, one by one; why, where nothing did.
    fn outcomes(&self) -> impl Iterator<Item = Result<Outcome, String>> {
        let listed = self.run(&["list", "workloads/w.toml"]).unwrap();
        let ids: Vec<String> = listed.lines().map(|line| line[..10].to_owned()).collect();
        ids.into_iter().take(self.cells as usize).map(|id| {
            let json = self.run(&["cell", "workloads/w.toml", &id, "--json"])?;
            Ok(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")))
        })
    }
}

/// Where the broker that can lie is, or what is missing.
fn liar() -> Result<PathBuf, String> {
    let folder = std::env::var_os("HIGHWATER_LIAR")
        .ok_or("HIGHWATER_LIAR names no folder of a broker that can lie; scripts/test liars builds one")?;
    highwater_bench::medium::can_cut_power()?;
    // Tests run in their crate's folder; who names one means the repository's.
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder).canonicalize().unwrap())
}

fn names(findings: &[Finding]) -> String {
    let named = findings.iter().map(|finding| format!("{} × {}", finding.anomaly, finding.count));
    named.collect::<Vec<_>>().join(", ")
}

/// Runs cells until the lie is found. What was found, and in which cell. A liar that finds its own lie out, and does not
/// start again, has not been found out by the harness.
fn find_out(liar: &Path, lie: &Lie) -> Result<(u32, String), String> {
    let project = Project::new(liar, Some(lie.mutant), lie.scene, lie.cells);
    let mut others = String::new();
    for (number, outcome) in (1..).zip(project.outcomes()) {
        match outcome {
            Ok(Outcome { verdict, .. }) if verdict.violation(lie.verdict) > 0 => {
                return Ok((number, names(&verdict.violations)));
            }
            Ok(Outcome { verdict, .. }) => others = names(&verdict.violations),
            Err(why) => others = why,
        }
    }
    Err(format!("not found in {} cells (the last showed: {others})", lie.cells))
}

fn honest_failures(liar: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    for scene in HONEST {
        let (wanted, at_most) = HONEST_CELLS;
        let mut proved = 0;
        for outcome in Project::new(liar, None, *scene, at_most).outcomes() {
            let verdict = match outcome {
                Ok(outcome) => outcome.verdict,
                // An honest broker comes back from everything here, in time.
                Err(why) => {
                    failures.push(format!("honest, {}: {why}", scene.name));
                    break;
                }
            };
            let (name, found) = (scene.name, names(&verdict.violations));
            let of = verdict.losses.of_records;
            println!("{:<26} {:<20} {name}: {:?}, {of} acknowledged", "(honest)", "clean", verdict.standing);
            if verdict.standing == Standing::Broken {
                failures.push(format!("honest, {name}: {of} acknowledged; {found}"));
            }
            proved += usize::from(!verdict.is_vacuous());
            if proved == wanted {
                break;
            }
        }
        if proved < wanted {
            failures.push(format!("honest, {}: {proved} of {at_most} cells prove something", scene.name));
        }
    }
    failures
}

/// The honest broker on a disk that lies loses what it had acknowledged, and the fault has the disk's name.
fn disk_failures(liar: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    for outcome in Project::new(liar, None, LYING_DISK, 2).outcomes() {
        let Outcome { contract, verdict, faults, details } = match outcome {
            Ok(outcome) => outcome,
            Err(why) => {
                failures.push(format!("lying disk: {why}"));
                continue;
            }
        };
        let fault = faults.iter().map(|mark| mark.fault.to_string()).collect::<Vec<_>>().join(", ");
        println!(
            "{:<26} {:<20} {fault}: {:?}, {} lost, {} flushes that the disk did not do; {}",
            "(honest, on a liar's disk)",
            "booked on the disk",
            verdict.standing,
            verdict.losses.records,
            details.flushes_lied,
            contract.because
        );
        let booked = verdict.standing == Standing::Kept
            && verdict.losses.records > 0
            && details.flushes_lied > 0
            && fault == "lying flush";
        if !booked {
            failures.push(format!("lying disk: {verdict:?}"));
        }
    }
    failures
}

#[test]
fn every_lie_is_found_out_by_name_and_the_honest_broker_is_clean() {
    let liar = match liar() {
        Ok(liar) => liar,
        Err(missing) => {
            eprintln!("!!! SKIPPED: no lying broker was run: {missing}");
            return;
        }
    };
    println!("{:<26} {:<20} found, after how many cells, as", "mutant", "expected");
    let mut failures = Vec::new();
    for lie in LIES {
        let found = find_out(&liar, lie);
        let shown = match &found {
            Ok((number, violations)) => {
                format!("{}, {number} of {}: {violations}", lie.scene.name, lie.cells)
            }
            Err(why) => format!("!!! {}, {why}", lie.scene.name),
        };
        println!("{:<26} {:<20} {shown}", lie.mutant, lie.verdict.words());
        failures.extend(found.err().map(|why| format!("{}: {why}", lie.mutant)));
    }
    failures.extend(honest_failures(&liar));
    failures.extend(disk_failures(&liar));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

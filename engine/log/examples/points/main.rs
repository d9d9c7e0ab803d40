//! Proof at every point, for as long as one likes:
//!
//! ```text
//! cargo run --release -p highwater-log --example points -- [--first-seed 1] [--runs 10] [--operations 40] [--lives 3]
//!     [--every 1] [--subsets 1] [--file-system-points 25]
//! ```
//!
//! Each run is work of each kind on a strict directory, cut at every n-th flush, then on every file system that the machine
//! has, cut at so many points. Needs root and FUSE. Prints what was tried and each violation; the exit status is 1 if there
//! was one. The same code is the test `points`.

#[path = "../../tests/points/block.rs"]
mod block;
#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/points/compaction.rs"]
mod compaction;
#[path = "../../tests/points/judge.rs"]
mod judge;
#[path = "../../tests/points/ledger.rs"]
mod ledger;
#[path = "../../tests/points/record.rs"]
mod record;
#[path = "../../tests/points/walk.rs"]
mod walk;
#[path = "../../tests/points/work.rs"]
mod work;

use std::process::ExitCode;

use highwater_disk::{FileSystem, ServerProgram};

use crate::block::{Sample, prove};
use crate::record::{Recorded, record};
use crate::walk::{Outcome, Plan, walk};
use crate::work::Work;

struct Flags {
    first_seed: u64,
    runs: u64,
    operations: u32,
    lives: u32,
    plan: Plan,
    file_system_points: u64,
}

fn flags() -> Result<Flags, String> {
    let mut flags = Flags {
        first_seed: 1,
        runs: 10,
        operations: 40,
        lives: 3,
        plan: Plan { every: 1, subsets: 1, enough: usize::MAX },
        file_system_points: 25,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let number = words.next().and_then(|word| word.parse::<u32>().ok());
        let number =
            number.ok_or_else(|| format!("{flag} takes a number; the flags are at the top of the source"))?;
        match flag.as_str() {
            "--first-seed" => flags.first_seed = number.into(),
            "--runs" => flags.runs = number.into(),
            "--operations" => flags.operations = number,
            "--lives" => flags.lives = number.max(1),
            "--every" => flags.plan.every = u64::from(number).max(1),
            "--subsets" => flags.plan.subsets = number.into(),
            "--file-system-points" => flags.file_system_points = number.into(),
            other => return Err(format!("no flag {other}; the flags are at the top of the source")),
        }
    }
    Ok(flags)
}

fn on_a_strict_directory(work: &Work, plan: Plan) -> Outcome {
    let Some(Recorded { mut ledger, recording, place: _place }) = record(work, ServerProgram::ThisProgram)
    else {
        return Outcome::default();
    };
    let violation = ledger.violation.take();
    let (operations, (gone, _)) = (ledger.operations(), ledger.compacted());
    let mut outcome = walk(&recording, ledger, plan);
    outcome.violations.extend(violation);
    report(
        &format!(
            "{:?}, seed {}, {operations} operations, {gone} records compacted away, strict directory",
            work.kind, work.seed
        ),
        &outcome,
    );
    outcome
}

fn report(what: &str, outcome: &Outcome) {
    let Outcome { points, states, violations } = outcome;
    println!("{what}: {points} points, {states} states, {} violations", violations.len());
    violations.iter().for_each(|violation| println!("  {violation}"));
}

fn main() -> ExitCode {
    highwater_disk::serve_if_asked();
    let flags = match flags() {
        Ok(flags) => flags,
        Err(problem) => {
            eprintln!("points: {problem}");
            return ExitCode::from(2);
        }
    };
    let mut all = Outcome::default();
    for seed in flags.first_seed..flags.first_seed + flags.runs {
        let everything = Work { operations: flags.operations, lives: flags.lives, ..Work::everything(seed) };
        for work in [&everything, &Work::settled_blocks(seed), &Work::compaction(seed)] {
            all += on_a_strict_directory(work, flags.plan);
        }
        for file_system in FileSystem::ALL {
            let sample = Sample { points: flags.file_system_points, subsets: flags.plan.subsets };
            if sample.points > 0
                && let Some(outcome) = prove(&everything, file_system, ServerProgram::ThisProgram, sample)
            {
                report(&format!("everything, seed {seed}, {}", file_system.name()), &outcome);
                all += outcome;
            }
        }
    }
    report("all", &all);
    if all.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

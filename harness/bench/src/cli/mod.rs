//! The command line.

mod flags;
mod recommend;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use highwater_checker::Standing;

use crate::cancel::{Cancel, Interrupted};
use crate::results::stats::FEWEST_PAIRS;
use crate::results::{Pairs, text};
use crate::stand_in;
use crate::sweep::{self, Options, Prepared, Progress};
use crate::workload::Cell;

use flags::{Command, Common, Flags};

/// A contract was broken.
const BROKEN: u8 = 1;
/// The command could not do its work.
const FAILED: u8 = 2;
/// Ctrl-C, as a shell would report it.
const INTERRUPTED: u8 = 130;

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    match run(Flags::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_interrupted(&error) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("highwater-bench: {}", shown(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Run(flags) => run_sweep(&flags),
        Command::Cell(flags) => run_cell(&flags),
        Command::List(flags) => list(&flags.common),
        Command::Validate(flags) => validate(&flags),
        Command::Report(flags) => show::report_again(&flags.folder, flags.forensics).map(|()| 0),
        Command::Recommend(flags) => recommend::run(&flags),
        Command::StandIn(config) => {
            stand_in::serve(&config).with_context(|| format!("stand-in on {}", config.listen))?;
            Ok(0)
        }
    }
}

/// The error with its causes. Most errors of this crate tell their cause themselves; it is not said twice.
fn shown(error: &anyhow::Error) -> String {
    let mut shown = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !shown.contains(&cause) {
            shown = format!("{shown}: {cause}");
        }
    }
    shown
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Interrupted>())
}

/// Where things are, seen from the workload file.
fn options(common: &Common, results: Option<PathBuf>, scratch: Option<PathBuf>) -> Result<Options> {
    let workload = std::path::absolute(&common.workload)
        .with_context(|| format!("workload {}", common.workload.display()))?;
    let directory = workload.parent().unwrap_or(Path::new("/"));
    let root = directory.parent().unwrap_or(directory).to_owned();
    let scratch = scratch.unwrap_or_else(|| root.join("target/bench"));
    Ok(Options {
        workload: common.workload.clone(),
        brokers: common.brokers.clone(),
        seed: common.seed,
        max_repeats: common.max_repeats,
        pairs: common.pairs.map(|pairs| Pairs { pairs, noise: common.noise }),
        driving: common.client,
        results: results.unwrap_or_else(|| root.join("results")),
        resume: false,
        evidence: common.evidence.clone(),
        drivers: directory.join("brokers"),
        scratch: std::path::absolute(&scratch).with_context(|| scratch.display().to_string())?,
        root,
        command: std::env::args().collect::<Vec<_>>().join(" "),
    })
}

fn prepare(options: &Options) -> Result<Prepared> {
    let prepared = sweep::prepare(options)?;
    let no_io_uring =
        prepared.simulator.as_ref().and_then(|simulator| simulator.io_uring_is_refused_because());
    if let Some(missing) = no_io_uring {
        eprintln!("Highwater runs on its posix driver here, and not as fast as it could: {missing}.");
    }
    if let Some(missing) = &prepared.no_power_cuts {
        let instead = if prepared.simulator.is_some() { "run on the simulated disk" } else { "are left out" };
        eprintln!("No power can be cut here: {missing}; cells that need it {instead}.");
    }
    if let Some(missing) = &prepared.no_memory_limit {
        eprintln!(
            "No broker's memory can be limited here: {missing}; cells that ask for it have all there is, and the results say so."
        );
    }
    Ok(prepared)
}

fn run_sweep(flags: &flags::Run) -> Result<u8> {
    let options = Options {
        resume: flags.resume,
        ..options(&flags.common, flags.results.clone(), flags.scratch.clone())?
    };
    let prepared = prepare(&options)?;
    if options.pairs.is_some_and(|asked| (asked.pairs as usize) < FEWEST_PAIRS) {
        eprintln!("Fewer than {FEWEST_PAIRS} pairs tell nothing: no ratio will be given.");
    }
    let cancel = Cancel::on_signals()?;
    let swept = match sweep::run(&options, &prepared, &cancel) {
        Err(error) if error.is_interrupted() => return Err(Interrupted.into()),
        done => done?,
    };
    show::swept(&swept, flags.forensics)?;
    Ok(match () {
        () if swept.is_interrupted() => INTERRUPTED,
        () if swept.is_broken() => BROKEN,
        () if !swept.failures.is_empty() => FAILED,
        () => 0,
    })
}

fn run_cell(flags: &flags::Cell) -> Result<u8> {
    let options = options(&flags.common, None, flags.scratch.clone())?;
    let prepared = prepare(&options)?;
    let cell = find(&prepared.cells, &flags.id)?;
    let logs = flags.logs.clone().unwrap_or_else(|| options.root.join("target/bench-logs"));
    let cancel = Cancel::on_signals()?;
    let progress = Progress::new(1);
    progress.begin(1, cell, std::iter::empty());
    let outcome = sweep::run_cell(&options, &prepared, cell, &logs, &progress, &cancel);
    let outcome = match outcome {
        Err(error) if error.is_interrupted() => return Err(Interrupted.into()),
        other => other.with_context(|| format!("{} ({})", cell.title(), cell.id()))?,
    };
    progress.end(cell, &sweep::said(&outcome));
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        show::cell(cell, &outcome, flags.forensics);
    }
    Ok(if outcome.verdict.standing == Standing::Broken { BROKEN } else { 0 })
}

fn find<'a>(cells: &'a [Cell], id: &str) -> Result<&'a Cell> {
    let found: Vec<&Cell> = cells.iter().filter(|cell| cell.id().to_string().starts_with(id)).collect();
    match found.as_slice() {
        [cell] => Ok(cell),
        [] => {
            bail!("no cell's id begins with {id}; `highwater-bench list` shows them (with the same --broker)")
        }
        many => bail!("{id} is the beginning of {} ids; write more of it", many.len()),
    }
}

fn list(common: &Common) -> Result<u8> {
    // Nothing is run, so the brokers need not be there.
    let (_, cells) = sweep::brokers_and_cells(&options(common, None, None)?)?;
    let line = |cell: &Cell| format!("{}  {} {} #{}\n", cell.id(), cell.broker, cell.settings, cell.repeat);
    let lines: String = cells.iter().map(line).collect();
    match std::io::stdout().write_all(lines.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        written => Ok(written.map(|()| 0)?),
    }
}

fn validate(flags: &flags::Validate) -> Result<u8> {
    let mut wrong = false;
    for path in &flags.workloads {
        let common = Common { workload: path.clone(), brokers: flags.brokers.clone(), ..Common::default() };
        let options = options(&common, None, None)?;
        match sweep::brokers_and_cells(&options) {
            Ok((brokers, cells)) => {
                let cells = text::counted(cells.len() as u64, "cell", "cells");
                println!("{}: {cells} for {}", path.display(), brokers.join(", "));
            }
            Err(error) => {
                wrong = true;
                eprintln!("{error}");
            }
        }
    }
    Ok(if wrong { FAILED } else { 0 })
}

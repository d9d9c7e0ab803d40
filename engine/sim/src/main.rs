//! The binary: `highwater-sim run` goes through seeds, `highwater-sim cell` runs a cell of a sweep.
//!
//! Exit status as everywhere in the project: 0 if everything was kept, 1 if something was broken, 2 if it could not be
//! tried.

use std::io::{BufWriter, IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use highwater_sim::{Culprit, DiskHonesty, Outcome, Scenario, run};

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// The same, where nobody watches.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Runs the whole broker from one seed, with everything that can go wrong, and judges what is left.
#[derive(Debug, Parser)]
#[command(name = "highwater-sim", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs seeds, and stops at the first that breaks a promise.
    Run(RunArgs),
    /// Runs a cell of a sweep: its description comes as JSON on standard input, what happened goes to standard output.
    Cell,
    /// Says whether a broker can use io_uring on this machine, and if not, why.
    Probe,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Runs this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Goes on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Tells what happened in each run, and shows the broker's own log.
    #[arg(long)]
    verbose: bool,
    /// Lets the disk acknowledge one flush in N without doing it.
    #[arg(long, value_name = "N")]
    lying_disk: Option<u64>,
    /// Gives the broker two log directories, of which one fails in each life.
    #[arg(long)]
    failing_directory: bool,
    /// Compacts a topic in every run, not only in those whose seed says so.
    #[arg(long)]
    compaction: bool,
    /// Lets the broker lie in this way (builds with the feature `mutants` only).
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run_seeds(&args),
        Command::Cell => run_cell(),
        Command::Probe => Ok(probe()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("highwater-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run_cell() -> anyhow::Result<ExitCode> {
    let cell = serde_json::from_reader(std::io::stdin().lock()).context("the description of the cell")?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    highwater_sim::cell::run(&cell, &mut out).and_then(|()| out.flush()).context("standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn probe() -> ExitCode {
    match highwater_io::probe() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_seeds(args: &RunArgs) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "mutants")]
    let _lying = args.mutant.as_deref().map(enable).transpose()?;
    if args.verbose {
        // What the broker itself logs; its times would be real ones.
        tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(std::io::stdout).init();
    }
    let (first, count) = args.seed.map_or((args.first, args.seeds), |seed| (seed, 1));
    let mut progress = Progress::new(count);
    let mut failed = Vec::new();
    for seed in first..first.saturating_add(count) {
        let scenario = scenario(args, seed);
        let outcome = run(seed, &scenario);
        if args.verbose {
            progress.clear();
            tell(&scenario, &outcome);
        }
        progress.count(&outcome);
        if outcome.culprit() == Culprit::Broker {
            progress.clear();
            report(&outcome);
            compare(&outcome, &run(seed, &scenario));
            failed.push(seed);
            if !args.keep_going {
                break;
            }
        }
    }
    progress.finish(&failed);
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

#[cfg(feature = "mutants")]
fn enable(name: &str) -> anyhow::Result<highwater_log::mutants::Enabled> {
    let all = highwater_log::mutants::ALL;
    let names = || all.iter().map(|mutant| mutant.name).collect::<Vec<_>>().join(", ");
    let mutant = all.iter().find(|mutant| mutant.name == name);
    let mutant = mutant.ok_or_else(|| anyhow::anyhow!("no mutant {name}; there are: {}", names()))?;
    Ok(mutant.enable())
}

fn scenario(args: &RunArgs, seed: u64) -> Scenario {
    let mut scenario = Scenario::seeded(seed);
    if let Some(n) = args.lying_disk {
        scenario.disk = DiskHonesty::LiesOnceIn(n.max(1));
    }
    if args.compaction {
        scenario = scenario.with_compaction(seed);
    }
    if args.failing_directory { scenario.with_failing_directory() } else { scenario }
}

fn tell(scenario: &Scenario, outcome: &Outcome) {
    println!("{scenario:#?}");
    println!("seed {}: {:?}", outcome.seed, outcome.culprit());
    outcome.story.iter().for_each(|line| println!("  {line}"));
    println!("  {:?}, trace {:016x}", outcome.figures, outcome.trace_hash);
}

fn report(outcome: &Outcome) {
    println!("seed {} FAILED, trace {:016x}", outcome.seed, outcome.trace_hash);
    outcome.complaints().iter().for_each(|line| println!("  {line}"));
    let findings = outcome.verdict.iter().flat_map(|verdict| &verdict.violations);
    findings.flat_map(|finding| finding.examples.iter().skip(1)).for_each(|line| println!("    {line}"));
    outcome.story.iter().for_each(|line| println!("  {line}"));
    println!("  {:?}", outcome.figures);
    println!("  again: highwater-sim run --seed {} --verbose", outcome.seed);
    if let Some(trace) = &outcome.trace {
        println!("{trace}");
    }
}

/// Whether a seed that failed does so again at once, as it must.
fn compare(first: &Outcome, again: &Outcome) {
    let same = |is_same: bool| if is_same { "the same" } else { "ANOTHER" };
    let (trace, verdict) = (first.trace_hash == again.trace_hash, first.complaints() == again.complaints());
    println!("  run again in this process: {} trace, {} verdict", same(trace), same(verdict));
    if !verdict {
        again.complaints().iter().for_each(|line| println!("    {line}"));
        again.story.iter().for_each(|line| println!("    {line}"));
    }
}

/// A line that shows how far it is.
struct Progress {
    of: u64,
    done: u64,
    acked: u64,
    power_losses: u64,
    lost_to_disk: u64,
    begun: Instant,
    shown: Instant,
    is_watched: bool,
}

impl Progress {
    fn new(of: u64) -> Self {
        let now = Instant::now();
        let is_watched = stderr().is_terminal();
        Progress {
            of,
            done: 0,
            acked: 0,
            power_losses: 0,
            lost_to_disk: 0,
            begun: now,
            shown: now,
            is_watched,
        }
    }

    fn count(&mut self, outcome: &Outcome) {
        self.done += 1;
        self.acked += outcome.figures.acked;
        self.power_losses += u64::from(outcome.figures.power_losses);
        self.lost_to_disk += u64::from(outcome.culprit() == Culprit::Disk);
        let every = if self.is_watched { PROGRESS_EVERY } else { LOG_EVERY };
        if self.shown.elapsed() >= every {
            self.shown = Instant::now();
            self.show();
        }
    }

    fn line(&self) -> String {
        let rate = self.done as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        format!(
            "{} of {} seeds, {rate:.1} a second, {} records acknowledged, {} losses of power",
            self.done, self.of, self.acked, self.power_losses
        )
    }

    fn show(&self) {
        let (start, end) = if self.is_watched { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody to show it to is no reason to stop.
        let _ = write!(stderr(), "{start}{}{end}", self.line()).and_then(|()| stderr().flush());
    }

    fn clear(&self) {
        if self.is_watched {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    fn finish(&self, failed: &[u64]) {
        self.clear();
        println!("{}", self.line());
        if self.lost_to_disk > 0 {
            println!("in {} of them the disk lost what it had acknowledged as flushed", self.lost_to_disk);
        }
        if failed.is_empty() {
            println!("every promise was kept");
        } else {
            println!("{} failed: {failed:?}", failed.len());
        }
    }
}

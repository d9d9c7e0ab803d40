//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::load::Driving;
use crate::results::recommend::{self, Rpo};
use crate::stand_in;

/// Sweep a broker's settings, crash it, and account for every record.
///
/// A workload (TOML, see workloads/README.md) names the settings; each combination is a cell. A cell starts a broker on
/// empty directories, loads it with records that each carry an identity, kills it or cuts its power at a seeded
/// instant, starts it again, reads everything back, and compares what was promised with what is left.
#[derive(Debug, Parser)]
#[command(version, about, long_about, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Flags {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "Exit status: 0 if every contract was kept, 1 if one was broken, 2 if the command could not \
do its work, 130 if it was interrupted. Of recommend: 0 if a setting was found, 1 if none qualifies, 2 as above.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run every cell of a workload into a folder of results.
    Run(Run),
    /// Run one cell again, from its seed: the same load, and a fault at the same instant. What a real broker loses to it
    /// still differs from run to run.
    Cell(Cell),
    /// List the cells of a workload, in the order in which they run.
    List(List),
    /// Check workload files, and say what is wrong by line and key.
    Validate(Validate),
    /// Write the report of a folder of results again.
    Report(Report),
    /// Pick the fastest setting of a finished sweep that loses no more, and answers no later, than is asked.
    ///
    /// A setting qualifies by what the sweep observed. Under every fault of it, no trial may have lost more than --rpo; with
    /// --rpo 0 the setting must also promise to lose nothing. Its p99 on an open loop, from the intended send time, must be
    /// within --p99. Of those that qualify the one with the highest throughput is printed with the lines to copy and with
    /// what its trials prove: 0 lost in n trials means, with 95 % confidence, that at most 3/n of such accidents lose
    /// anything. One line says of each other setting why it was refused.
    ///
    /// Exit status: 0 if a setting was found, 1 if none qualifies, 2 if the sweep cannot answer: it is incomplete, or the
    /// fault that was asked for was not injected.
    Recommend(Recommend),
    /// Serve the stand-in broker, with which this program tests itself.
    StandIn(stand_in::Config),
}

/// What a workload is run with.
#[derive(Debug, Default, Args)]
pub(super) struct Common {
    /// The workload file. Its drivers are in `brokers/` beside it; relative homes of brokers, and the folders `results`
    /// and `target/bench`, are relative to the directory above it.
    pub(super) workload: PathBuf,
    /// A broker to run in place of the workload's own; may be given more than once.
    #[arg(long = "broker", value_name = "NAME")]
    pub(super) brokers: Vec<String>,
    /// A seed in place of the workload's own.
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Run each cell no more often than this.
    #[arg(long, value_name = "N")]
    pub(super) max_repeats: Option<u32>,
    /// Measure in N interleaved pairs, A B B A, in place of the workload's repeats: cells without a fault only, each setting
    /// of the first broker against those of the others; with one broker the first setting against every other that starts
    /// as it does and is offered the same rate. Ratios have a 95 % bootstrap interval, and are given from 6 pairs on.
    #[arg(long, value_name = "N", conflicts_with = "max_repeats", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pairs: Option<u32>,
    /// Compare each A with itself, too: what two equal runs differ by.
    #[arg(long, requires = "pairs")]
    pub(super) noise: bool,
    /// Keep the data directory of each trial whose contract was broken below DIR, as the fault left it.
    #[arg(long, value_name = "DIR")]
    pub(super) evidence: Option<PathBuf>,
    /// How the client's bytes move.
    #[arg(long, value_enum, default_value_t)]
    pub(super) client: Driving,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) common: Common,
    /// Go on with the newest sweep of this workload that was not finished.
    #[arg(long)]
    pub(super) resume: bool,
    /// Where the folder of results is made.
    #[arg(long, value_name = "DIR")]
    pub(super) results: Option<PathBuf>,
    /// Where brokers keep their files while they run; on the disk that is to be measured.
    #[arg(long, value_name = "DIR")]
    pub(super) scratch: Option<PathBuf>,
    /// Print a line for each lost record that is known by name.
    #[arg(long)]
    pub(super) forensics: bool,
}

#[derive(Debug, Args)]
pub(super) struct Cell {
    #[command(flatten)]
    pub(super) common: Common,
    /// The cell's id, or the beginning of it: see `list`.
    pub(super) id: String,
    /// Where brokers keep their files while they run; on the disk that is to be measured.
    #[arg(long, value_name = "DIR")]
    pub(super) scratch: Option<PathBuf>,
    /// Where the broker's logs are kept.
    #[arg(long, value_name = "DIR")]
    pub(super) logs: Option<PathBuf>,
    /// Print a line for each lost record that is known by name.
    #[arg(long)]
    pub(super) forensics: bool,
    /// Print everything that is known of the cell as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Workload files.
    #[arg(required = true)]
    pub(super) workloads: Vec<PathBuf>,
    /// A broker to check them with, in place of their own; may be given more than once.
    #[arg(long = "broker", value_name = "NAME")]
    pub(super) brokers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = RECOMMEND_EXAMPLES)]
pub(super) struct Recommend {
    /// The folder of results.
    #[arg(value_name = "RESULTS")]
    pub(super) folder: PathBuf,
    /// How much any one accident may lose: a number of acknowledged records (0, 100), or how far back (500ms, 2s).
    #[arg(long, value_parser = recommend::parse_rpo)]
    pub(super) rpo: Rpo,
    /// The longest p99 of an ack. Without it any latency will do.
    #[arg(long, value_parser = recommend::parse_duration, value_name = "DURATION")]
    pub(super) p99: Option<Duration>,
    /// A fault that counts (kill, power-cut, …) in place of all that the sweep injected; may be given more than once.
    #[arg(long = "fault", value_name = "FAULT")]
    pub(super) faults: Vec<String>,
    /// A broker that may be chosen, in place of all; may be given more than once.
    #[arg(long = "broker", value_name = "NAME")]
    pub(super) brokers: Vec<String>,
    /// So many trials in which something could be lost there must be of each fault.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) trials: usize,
    /// Take a sweep of which trials are missing as it is.
    #[arg(long)]
    pub(super) incomplete: bool,
}

const RECOMMEND_EXAMPLES: &str = "Examples:
  highwater-bench recommend --rpo 0 --p99 20ms results/2026-11-24-durability
  highwater-bench recommend --rpo 500ms --fault power-cut --trials 7 results/2026-11-24-durability
  highwater-bench recommend --rpo 100 --broker kafka results/2026-11-24-durability";

#[derive(Debug, Args)]
pub(super) struct Report {
    /// The folder of results.
    pub(super) folder: PathBuf,
    /// Print a line for each lost record that is known by name.
    #[arg(long)]
    pub(super) forensics: bool,
}

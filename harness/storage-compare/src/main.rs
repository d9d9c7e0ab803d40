//! Compares the storage backend with what a Rust developer would take instead, under one contract.
//!
//! Every engine stores records of 1 KiB that cannot be compressed, from threads:
//!
//! | cell | what it is |
//! |---|---|
//! | `durable-N` | N threads, each appends its next record when the last one survives a power cut |
//! | `unflushed-N` | N threads append a number of records between them without waiting for a flush, until all are taken |
//! | `read` | all records in order, checked, after a clean stop and a new start; the page cache is warm |
//! | `crash` | 16 threads append durably in a process that is killed; then the time to open and to read the first record, and how many of the acknowledged records are gone |
//!
//! Each cell runs in a process of its own on a fresh directory. The order of the engines is reversed every other time, so
//! that a machine that grows slower favours none. Engines without a group commit of their own are measured as they come, and
//! with one thread that commits what waits together (`batched`), which is what their documentation advises.
//!
//! A kill leaves the page cache: `crash` tells whether recovery finds what was acknowledged, and not whether it was flushed.

mod batched;
mod cell;
mod engines;
mod record;
mod report;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;

use cell::{Cell, Outcome, Settings};
use engines::Kind;

/// Compares the storage backend with other crates.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Engines to compare; all unless given.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<Kind>,
    /// Cells to run: durable-N, unflushed-N, read, crash.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "durable-1,durable-16,durable-256,unflushed-1,unflushed-16,read,crash"
    )]
    cells: Vec<Cell>,
    /// How often each cell is run.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seconds of appending in each durable cell, and before the kill.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Records of the other cells.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// The folder on the disk that is measured; not one in memory.
    #[arg(long, default_value = "target/storage-compare")]
    dir: PathBuf,
    /// Where runs.jsonl, table.txt and machine.json are written; nowhere unless given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How the engines are configured, and nothing else.
    #[arg(long)]
    describe: bool,
    /// One cell, in this process: `ENGINE CELL DIRECTORY`.
    #[arg(long, num_args = 3, hide = true)]
    child: Option<Vec<String>>,
    /// Appends until it is killed, and tells what was acknowledged: `ENGINE DIRECTORY`.
    #[arg(long, num_args = 2, hide = true)]
    victim: Option<Vec<String>>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let settings = Settings { seconds: args.seconds, records: args.records };
    if let Some([engine, dir]) = args.victim.as_deref() {
        return cell::append_until_killed(engine.parse()?, dir.as_ref());
    }
    if let Some([engine, cell, dir]) = args.child.as_deref() {
        let outcome = cell::run(engine.parse()?, cell.parse()?, dir.as_ref(), settings)?;
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(());
    }
    let engines = if args.engines.is_empty() { Kind::ALL.to_vec() } else { args.engines.clone() };
    if args.describe {
        for engine in engines {
            println!("{:16} {}", engine.name(), engine.configured());
        }
        return Ok(());
    }
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let mut outcomes = Vec::new();
    for repeat in 0..args.repeats {
        for &cell in &args.cells {
            let mut order = engines.clone();
            if repeat % 2 == 1 {
                order.reverse();
            }
            for engine in order {
                let outcome = run_in_process(&args, engine, cell, repeat)?;
                eprintln!(
                    "{:2}  {:14} {:16} {}",
                    repeat + 1,
                    cell.to_string(),
                    engine.name(),
                    outcome.summary()
                );
                outcomes.push(outcome);
            }
        }
    }
    let table = report::table(&engines, &args.cells, &outcomes);
    println!("{table}");
    if let Some(out) = &args.out {
        report::write(out, &engines, &table, &outcomes)?;
    }
    let lost: u64 = outcomes.iter().filter_map(|outcome| outcome.lost).sum();
    if lost > 0 {
        bail!("{lost} acknowledged records are gone");
    }
    Ok(())
}

fn run_in_process(args: &Args, engine: Kind, cell: Cell, repeat: usize) -> Result<Outcome> {
    let dir = tempfile::tempdir_in(&args.dir)?;
    let path = dir.path().join("data");
    let (seconds, records) = (args.seconds.to_string(), args.records.to_string());
    let output = Command::new(std::env::current_exe()?)
        .args(["--seconds", &seconds, "--records", &records])
        .args(["--child", engine.name(), &cell.to_string()])
        .arg(&path)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("{} in {cell}: {}", engine.name(), output.status);
    }
    let outcome: Outcome = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("{} in {cell} said {:?}", engine.name(), String::from_utf8_lossy(&output.stdout))
    })?;
    Ok(Outcome { repeat, ..outcome })
}

//! The table, and the files of a record.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cell::{Cell, Outcome};
use crate::engines::Kind;

/// Median, and the smallest and largest.
fn spread(values: impl Iterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some((median, first, last))
}

/// Medians with the smallest and largest in brackets.
pub fn table(engines: &[Kind], cells: &[Cell], outcomes: &[Outcome]) -> String {
    let mut table = String::new();
    for &cell in cells {
        let columns: &[(&str, fn(&Outcome) -> Option<f64>)] = match cell {
            Cell::Durable { .. } => &[
                ("records/s", |outcome| Some(outcome.records_per_second)),
                ("p50 µs", |outcome| outcome.latency_p50_us),
                ("p99 µs", |outcome| outcome.latency_p99_us),
            ],
            Cell::Unflushed { .. } | Cell::Read => &[
                ("records/s", |outcome| Some(outcome.records_per_second)),
                ("MB/s", |outcome| Some(outcome.mb_per_second)),
            ],
            Cell::Crash => &[
                ("open ms", |outcome| outcome.open_ms),
                ("first read ms", |outcome| outcome.first_read_ms),
                ("acknowledged", |outcome| outcome.acknowledged.map(|count| count as f64)),
                ("lost", |outcome| outcome.lost.map(|count| count as f64)),
            ],
        };
        let _ = write!(table, "{:16}", cell.to_string());
        for (name, _) in columns {
            let _ = write!(table, " {name:>30}");
        }
        table.push('\n');
        for engine in engines {
            let of_cell = || {
                outcomes
                    .iter()
                    .filter(|outcome| outcome.engine == engine.name() && outcome.cell == cell.to_string())
            };
            let _ = write!(table, "  {engine:14}");
            for (_, value) in columns {
                let text = match spread(of_cell().filter_map(value)) {
                    Some((median, least, most)) => {
                        let digits = if most < 100.0 && most.fract() != 0.0 { 1 } else { 0 };
                        format!("{median:.digits$} [{least:.digits$}–{most:.digits$}]")
                    }
                    None => "-".to_owned(),
                };
                let _ = write!(table, " {text:>30}");
            }
            table.push('\n');
        }
        table.push('\n');
    }
    table
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Version of a package, by the lock file that this was built with.
fn version(package: &str) -> Option<&'static str> {
    let lock = include_str!("../Cargo.lock");
    let (_, after) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    after.split('"').next()
}

/// Writes the record of a comparison into `out`.
pub fn write(out: &Path, engines: &[Kind], table: &str, outcomes: &[Outcome]) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut lines = String::new();
    for outcome in outcomes {
        lines.push_str(&serde_json::to_string(outcome)?);
        lines.push('\n');
    }
    let about: Vec<_> = engines
        .iter()
        .map(|engine| {
            let (package, configured) = (engine.package(), engine.configured());
            json!({ "engine": engine.name(), "package": package, "version": version(package), "configured": configured })
        })
        .collect();
    let command: Vec<String> = std::env::args().skip(1).collect();
    let machine = json!({
        "command": format!("scripts/compare-storage {}", command.join(" ")),
        "commit": said("git", &["rev-parse", "HEAD"]),
        "kernel": said("uname", &["-sr"]),
        "cpu": said("sh", &["-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"]),
        "cores": std::thread::available_parallelism()?.get(),
        "engines": about,
    });
    std::fs::write(out.join("runs.jsonl"), lines)?;
    std::fs::write(out.join("table.txt"), table)?;
    std::fs::write(out.join("machine.json"), serde_json::to_string_pretty(&machine)? + "\n")?;
    Ok(())
}

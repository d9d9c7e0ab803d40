//! What is printed at the end: of a sweep the sentence, the table and where the report is; of a cell all that is known.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};
use highwater_checker::{Nanos, Row, Verdict};

use crate::cell::Outcome;
use crate::report;
use crate::results::answer;
use crate::results::store::ResultsDir;
use crate::results::text;
use crate::results::{Latency, Sweep};
use crate::sweep::Swept;
use crate::table::{self, Colour};
use crate::workload::Cell;

/// Writes the report of a sweep, and prints what it says in short.
pub(super) fn swept(swept: &Swept, forensics: bool) -> Result<()> {
    report(&swept.folder, &swept.sweep, forensics)?;
    if !swept.left_out.is_empty() {
        let cells = text::counted(swept.left_out.len() as u64, "cell", "cells");
        println!("Left out for want of a power cut: {cells}.");
    }
    for failure in &swept.failures {
        println!("Failed: {failure}");
    }
    if let Some(how) = answer::incomplete(&swept.sweep) {
        println!("{how} --resume runs what can still be run.");
    }
    Ok(())
}

/// The same of a folder that was written before.
pub(super) fn report_again(folder: &Path, forensics: bool) -> Result<()> {
    let folder = ResultsDir::new(folder);
    let sweep = folder.load().context("the results cannot be read")?;
    folder.save_histograms(&sweep).context("the histograms cannot be written")?;
    report(&folder, &sweep, forensics)
}

fn report(folder: &ResultsDir, sweep: &Sweep, forensics: bool) -> Result<()> {
    let path = folder.save_report(&report::render(sweep)).context("the report cannot be written")?;
    let plain = folder.path().join("table.txt");
    // The folder may be moved or committed: what lies in it names its neighbours only.
    std::fs::write(&plain, table::render(sweep, Path::new("report.html"), Colour::Plain))
        .with_context(|| plain.display().to_string())?;
    let mut stdout = std::io::stdout();
    let colourless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = if stdout.is_terminal() && !colourless { Colour::Ansi } else { Colour::Plain };
    stdout.write_all(table::render(sweep, &path, colour).as_bytes())?;
    if forensics {
        for cell in &sweep.cells {
            for (number, trial) in cell.trials.iter().enumerate() {
                if let Some(verdict) = &trial.verdict {
                    lost(&format!("{} #{number}: ", cell.plan.id), verdict);
                }
            }
        }
    }
    Ok(())
}

/// All that is known of a cell.
pub(super) fn cell(cell: &Cell, outcome: &Outcome, forensics: bool) {
    let Outcome { verdict, load, .. } = outcome;
    println!("{} {}", cell.broker, cell.settings);
    println!("contract   {} ({})", outcome.contract.sentence(), outcome.contract.because);
    println!("verdict    {:?}", verdict.standing);
    println!("           {:>14} {:>12} {:>12} {:>12}", "outcome", "absent", "once", "more");
    let cells = &verdict.cells;
    for (name, row) in [
        ("acknowledged", cells.acknowledged),
        ("after the cut", cells.acknowledged_after_cut),
        ("failed", cells.failed),
        ("unknown", cells.unknown),
        ("sent", cells.sent),
        ("never sent", cells.never_sent),
    ] {
        let Row { absent, once, more } = row;
        println!("           {name:>14} {absent:>12} {once:>12} {more:>12}");
    }
    for (title, findings) in [("violation", &verdict.violations), ("permitted", &verdict.permitted)] {
        for finding in findings {
            println!("{title:<10} {} × {}", finding.anomaly, finding.count);
            finding.examples.iter().for_each(|example| println!("           {example}"));
        }
    }
    if let Some(polled) = load.polled {
        println!("consumers  {} records seen", text::exact(polled));
    }
    if let Some(window) = verdict.losses.window.max(verdict.losses.sent_window) {
        let at_least = if outcome.window_is_lower_bound { "at least " } else { "" };
        println!("window     {at_least}{window}");
    }
    println!(
        "load       {:.2} MB/s, {:.0} records/s over {}{}",
        load.bytes_per_second() / 1e6,
        load.records_per_second(),
        load.elapsed,
        if load.is_sustained() { "" } else { ", not sustained" }
    );
    if let (Some(drain), Some(drained)) = (load.drain, load.drained_bytes_per_second()) {
        println!("drained    {:.2} MB/s: {drain} until the broker had drained", drained / 1e6);
    }
    if let Some(used) = &load.used {
        let per_second = |cpu: Nanos| match load.bytes as f64 / cpu.as_secs_f64() / 1e6 {
            rate if rate.is_finite() => format!(", {rate:.1} MB a second of it"),
            _ => String::new(),
        };
        println!("CPU        {} of the broker's processes{}", used.cpu, per_second(used.cpu));
        if let Some(machine) = load.broker_cpu {
            println!("           {machine} of the machine less the client's{}", per_second(machine));
        }
        let limit = used.memory_limit_bytes;
        let limit =
            limit.map_or_else(String::new, |bytes| format!(", of {} with page cache", text::bytes(bytes)));
        println!(
            "memory     {} at most, {} at the end of the load{limit}",
            text::bytes(used.peak_rss_bytes),
            text::bytes(used.end_rss_bytes)
        );
        if let Some(laps) = load.laps() {
            println!("laps       {} of the broker's journal", text::three_digits(laps));
        }
    }
    let closed = if load.target_records_per_second.is_none() {
        " (closed loop: with the time in the client's own buffer)"
    } else {
        ""
    };
    println!("latency    {}{closed}", quantiles("intended", &outcome.intended));
    println!("           {}", quantiles("service", &outcome.service));
    for (name, value) in &outcome.effective {
        println!("effective  {name}={value}");
    }
    if forensics {
        lost("lost       ", verdict);
    }
}

fn quantiles(name: &str, latency: &Latency) -> String {
    let shown = |quantile: f64| match latency.quantile(quantile) {
        Some(nanos) => format!("{}", Nanos(nanos)),
        None => "-".to_owned(),
    };
    format!("{name}: p50 {}, p99 {}, p99.9 {}, max {}", shown(0.5), shown(0.99), shown(0.999), shown(1.0))
}

fn lost(prefix: &str, verdict: &Verdict) {
    for record in &verdict.lost_records {
        println!("{prefix}{record}");
    }
    let unnamed = verdict.losses.records.saturating_sub(verdict.lost_records.len() as u64);
    if unnamed > 0 && !verdict.lost_records.is_empty() {
        println!("{prefix}… and {unnamed} more, acknowledged later");
    }
}

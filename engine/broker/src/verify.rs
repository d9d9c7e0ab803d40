//! `highwater verify`: checks a data directory that no broker uses.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use highwater_log::OpenError;
use highwater_log::verify::{Progress, VerifyReport, WrittenBy, verify};

use crate::offline;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Checks `dir`, prints what was found, and says by the status whether something is wrong.
pub(crate) fn run(dir: &Path) -> Result<ExitCode> {
    let dir = std::path::absolute(dir)?;
    // The error's own text names what it came from.
    let report = check(&dir)?.map_err(|error| anyhow!("cannot check {}: {error}", dir.display()))?;
    print(&dir, &report);
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(dir: &Path) -> Result<Result<VerifyReport, OpenError>> {
    offline::run(dir.to_owned(), |io, dir| async move {
        let mut meter = Meter::new();
        let report = verify(&io, &dir, |progress| meter.show(progress)).await;
        meter.end();
        report
    })
}

/// Progress on a terminal, now and then.
struct Meter {
    shown: Option<Instant>,
    begin: Instant,
}

impl Meter {
    fn new() -> Self {
        Meter { shown: None, begin: Instant::now() }
    }

    fn show(&mut self, progress: Progress) {
        let last = self.shown.unwrap_or(self.begin);
        if !std::io::stderr().is_terminal() || last.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.shown = Some(Instant::now());
        let Progress { partitions_done, partitions, checked_bytes } = progress;
        let mib = checked_bytes >> 20;
        let rate = mib as f64 / self.begin.elapsed().as_secs_f64();
        eprint!("\rpartition {partitions_done} of {partitions}, {mib} MiB checked, {rate:.0} MiB/s  ");
        // Only a picture of progress: that it cannot be shown is no reason to stop.
        let _shown = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}

fn print(dir: &Path, report: &VerifyReport) {
    let stopped = if report.was_clean { "stopped cleanly" } else { "not stopped cleanly" };
    match report.written_by {
        WrittenBy::Highwater => println!("{}: {stopped}", dir.display()),
        WrittenBy::Kafka => println!("{}: no journal; Apache Kafka's, or empty", dir.display()),
    }
    for journal in &report.journals {
        println!(
            "journal {}: {} groups, {} bytes after the checkpoint{}",
            journal.path.file_name().unwrap_or_default().display(),
            journal.groups,
            journal.size_bytes,
            match journal.torn_bytes {
                0 => String::new(),
                bytes => format!("; {bytes} bytes at the end are torn, none of them acknowledged as durable"),
            },
        );
    }
    let name = |topic: &str, partition: i32| format!("{topic}-{partition}");
    let names = report.partitions.iter().map(|found| name(&found.topic, found.partition).len());
    let width = names.max().unwrap_or(0).max("partition".len());
    println!(
        "{:width$}  {:>12}  {:>12}  {:>8}  {:>14}  {:>12}  {:>12}  state",
        "partition", "start", "end", "segments", "bytes checked", "records", "in journal"
    );
    for found in &report.partitions {
        println!(
            "{:width$}  {:>12}  {:>12}  {:>8}  {:>14}  {:>12}  {:>12}  {}",
            name(&found.topic, found.partition),
            found.log_start_offset.0,
            found.log_end_offset.0,
            found.segments,
            found.checked_bytes,
            found.records,
            found.journal_bytes,
            if found.problems == 0 { "ok" } else { "DAMAGED" },
        );
    }
    report.notes.iter().for_each(|note| println!("note: {note}"));
    report.problems.iter().for_each(|problem| println!("DAMAGE: {problem}"));
    match report.problems.len() {
        0 => println!("no damage found"),
        count => println!("{count} problems found"),
    }
}

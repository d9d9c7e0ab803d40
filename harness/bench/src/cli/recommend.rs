//! `recommend`: the setting to take, what speaks for it, and why the others were refused.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result};

use super::flags;
use crate::report;
use crate::results::recommend::{Answer, Bounds, Missing, Qualified, Rpo, recommend};
use crate::results::store::ResultsDir;
use crate::results::summary::summaries;
use crate::results::text;

/// No setting is within the bounds.
const NOTHING: u8 = 1;

pub(super) fn run(flags: &flags::Recommend) -> Result<u8> {
    let sweep = ResultsDir::new(&flags.folder).load().context("the results cannot be read")?;
    let cells = summaries(&sweep);
    let bounds = Bounds {
        rpo: flags.rpo,
        p99: flags.p99,
        faults: flags.faults.clone(),
        brokers: flags.brokers.clone(),
        trials: flags.trials,
    };
    let missing = if flags.incomplete { Missing::Accept } else { Missing::Refuse };
    let answers = recommend(&sweep, &cells, &bounds, missing)?;
    let mut out = String::new();
    for answer in &answers {
        if answers.len() > 1 {
            let _ = writeln!(out, "== {} ==", report::workload_words(answer.workload));
        }
        shown(&mut out, answer, &bounds);
    }
    match std::io::stdout().write_all(out.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if answers.iter().any(|answer| answer.chosen().is_some()) { 0 } else { NOTHING })
}

fn shown(out: &mut String, answer: &Answer<'_, '_>, bounds: &Bounds) {
    match answer.chosen() {
        None => {
            let _ = writeln!(out, "No setting is within {}.", words(bounds));
        }
        Some(chosen) => {
            let _ = writeln!(out, "{}", line(chosen));
            let _ = writeln!(out, "  the fastest within {}", words(bounds));
            if answer.is_close() {
                let _ =
                    writeln!(out, "  its trials and those of the next overlap: which is faster may be noise");
            }
            for said in chosen.doubts.iter().chain(&chosen.proofs) {
                let _ = writeln!(out, "  {said}");
            }
            let configuration = chosen.configuration;
            for (owner, properties) in [
                ("broker", &configuration.broker_properties),
                ("topic", &configuration.topic_properties),
                ("producer", &configuration.producer_properties),
            ] {
                let defaults = if properties.is_empty() { ": its defaults" } else { "" };
                let _ = write!(out, "\n# {owner}{defaults}\n");
                for property in properties {
                    let _ = writeln!(out, "{}={}", property.name, property.value);
                }
            }
        }
    }
    for (title, lines) in [
        ("Within the bounds, and slower", answer.qualified.iter().skip(1).map(line).collect::<Vec<_>>()),
        (
            "Refused",
            answer
                .refused
                .iter()
                .map(|refused| {
                    let configuration = refused.configuration;
                    format!("{} on {}: {}", configuration.label(), configuration.broker_label(), refused.why)
                })
                .collect(),
        ),
    ] {
        if !lines.is_empty() {
            let _ = write!(out, "\n{title}:\n");
        }
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
}

/// `acks=all, flush.messages=1 on Highwater 0.1.0: 347 MB/s [307–388], p99 6.74 ms at 20.0 MB/s offered`.
fn line(of: &Qualified<'_, '_>) -> String {
    let configuration = of.configuration;
    let speed = of.speed;
    let latency = of.open_loop.and_then(|cell| Some((cell, cell.offered()?)));
    let latency = latency.map_or_else(
        || "p99 not measured".to_owned(),
        |(cell, offered)| {
            let sustained = if cell.sustained { "" } else { ", not sustained" };
            let p99 = text::latency(cell.intended.quantile(0.99));
            format!("p99 {p99} at {} MB/s offered{sustained}", text::megabytes(offered))
        },
    );
    format!(
        "{} on {}: {} MB/s [{}–{}, {}], {latency}",
        configuration.label(),
        configuration.broker_label(),
        text::megabytes(speed.median),
        text::megabytes(speed.low),
        text::megabytes(speed.high),
        text::counted(speed.trials as u64, "trial", "trials")
    )
}

fn words(bounds: &Bounds) -> String {
    let rpo = match bounds.rpo {
        Rpo::Records(records) => format!("RPO {}", text::counted(records, "record", "records")),
        Rpo::Window(window) => format!("RPO {window:?}"),
    };
    match bounds.p99 {
        None => rpo,
        Some(p99) => format!("{rpo} and p99 {p99:?}"),
    }
}

//! Each cell in full: its timeline, the distribution of its losses, every anomaly with examples, the
//! forensic lines of what was lost, the broker's effective settings, and the commands that repeat it.

use super::frame::property_lines;
use super::html::Html;
use super::svg::Escaped;
use super::{Page, strip, timeline, words};
use crate::results::summary::{CellSummary, Judged};
use crate::results::text;
use crate::results::{DiskKind, Failure};
use highwater_checker::{Contract, Finding};

/// Forensic lines shown; all that were kept lie in the raw results.
const LOST_LINES: usize = 20;

pub(super) fn all(html: &mut Html, page: &Page<'_, '_>) {
    html.section("cells", "Each cell in full", |html| {
        for cell in page.cells {
            let id = &cell.cell.plan.id;
            let open = if cell.is_broken() { " open" } else { "" };
            html.markup(format_args!("<details class=\"cell\" id=\"{}\"{open}>\n<summary>", Escaped(id)));
            html.element("span", "cell-name", &name(page, cell));
            html.element("span", "cell-fault", &purpose(cell));
            html.element("span", "cell-badge", &badge(cell));
            html.markup(format_args!("</summary>\n"));
            body(html, page, cell);
            html.markup(format_args!("</details>\n"));
        }
    });
}

fn name(page: &Page<'_, '_>, cell: &CellSummary<'_>) -> String {
    let configuration = cell.configuration;
    format!(
        "#{} {}, {}",
        page.number(&configuration.id),
        configuration.broker_label(),
        page.label(configuration)
    )
}

fn purpose(cell: &CellSummary<'_>) -> String {
    let target = cell.cell.trials.first().and_then(|trial| trial.load.target_records_per_second);
    match (cell.ordeal(), target) {
        (Some(ordeal), _) => format!("{ordeal}{}", super::frame::at_rate(cell)),
        (None, Some(target)) => format!("speed at {} records/s", text::rounded(target as u64)),
        (None, None) => "speed".to_owned(),
    }
}

/// What came of a cell, in a few words.
fn badge(cell: &CellSummary<'_>) -> String {
    let mut trials = text::counted(cell.cell.trials.len() as u64, "trial", "trials");
    if cell.cell.plan.disk == DiskKind::Simulated {
        trials.push_str(", simulated");
    }
    match (&cell.judged, cell.bytes_per_second) {
        (Some(judged), _) if cell.is_broken() => {
            format!("✗ broken, {} lost, {trials}", text::exact(judged.lost))
        }
        (Some(judged), _) => format!("{} lost, {trials}", text::exact(judged.lost)),
        (None, Some(speed)) if cell.fault().is_none() => {
            format!("{} MB/s, {trials}", text::megabytes(speed.median))
        }
        _ => trials,
    }
}

fn body(html: &mut Html, page: &Page<'_, '_>, cell: &CellSummary<'_>) {
    if let Some(judged) = &cell.judged {
        html.element("p", "", &format!("{}.", sentence(cell, judged)));
        findings(html, page, cell);
        if let Some(chart) = strip::windows(judged, &name(page, cell)) {
            html.chart(&chart);
        }
    }
    let shown = cell.judged.as_ref().map_or(0, |judged| judged.worst_trial);
    if let Some(trial) = cell.cell.trials.get(shown)
        && let Some(chart) = timeline::chart(trial, &name(page, cell))
    {
        let which = if cell.fault().is_some() {
            "the trial that lost most, or the first of equals"
        } else {
            "the first"
        };
        html.element("p", "note", &format!("Trial {shown} of {} ({which}). Where buckets were merged, the worst latency of each is drawn.", cell.cell.trials.len()));
        html.chart(&chart);
        html.element("p", "note", "To repeat this trial:");
        html.markup(format_args!("<pre>{}</pre>\n", Escaped(&trial.command)));
    }
    if let Some(judged) = &cell.judged {
        lost_records(html, judged);
    }
    failed(html, page, cell);
    raw(html, cell);
}

fn sentence(cell: &CellSummary<'_>, judged: &Judged) -> String {
    let mut parts = vec![words::lost(cell, judged)];
    if let Some(contract) = cell.contract() {
        parts.push(format!("contract: {} ({})", contract.sentence(), contract.because));
    }
    if judged.acknowledged_after_cut > 0 {
        parts.push(format!(
            "{} acknowledged after the cut, booked apart",
            text::exact(judged.acknowledged_after_cut)
        ));
    }
    if judged.cuts > 0 {
        let (met, of) = (judged.cuts_into_writes, judged.cuts);
        parts.push(format!("{met} of {of} cuts met writes that were not durable yet"));
    }
    if let Some(polled) = judged.polled {
        let gone = text::exact(judged.read_then_lost);
        parts.push(format!("{gone} gone that a consumer had read, of {} reads", text::exact(polled)));
    }
    parts.push(format!("{} with an outcome unknown to the producer", text::exact(judged.unknown)));
    if judged.application_lost > 0 {
        parts.push(format!("{} given up by the application itself", text::exact(judged.application_lost)));
    }
    let mut sentence = parts.join("; ");
    sentence[..1].make_ascii_uppercase();
    sentence
}

/// Violations and permitted anomalies of a cell.
pub(super) fn findings(html: &mut Html, page: &Page<'_, '_>, cell: &CellSummary<'_>) {
    let Some(judged) = &cell.judged else { return };
    if !judged.violations.is_empty() {
        html.within("div", "violations", |html| {
            let contract =
                cell.contract().map(Contract::sentence).unwrap_or_else(|| "nothing may be lost".to_owned());
            html.element(
                "p",
                "",
                &format!("✗ {}, {}. Contract: {contract}. Seen:", name(page, cell), purpose(cell)),
            );
            list(html, &judged.violations);
        });
    }
    if !judged.permitted.is_empty() {
        html.element("p", "note", "Seen, and permitted by the contract:");
        list(html, &judged.permitted);
    }
}

fn list(html: &mut Html, findings: &[Finding]) {
    html.markup(format_args!("<ul class=\"findings\">\n"));
    for finding in findings {
        html.markup(format_args!("<li><b>{}</b> × {}", finding.anomaly, text::exact(finding.count)));
        for example in &finding.examples {
            html.element("div", "example", example);
        }
        html.markup(format_args!("</li>\n"));
    }
    html.markup(format_args!("</ul>\n"));
}

fn lost_records(html: &mut Html, judged: &Judged) {
    if judged.lost_records.is_empty() {
        return;
    }
    let shown = judged.lost_records.len().min(LOST_LINES);
    let lost = judged.lost_by_trial.iter().max().copied().unwrap_or_default();
    html.element(
        "p",
        "note",
        &format!("What was lost in that trial: the {shown} acknowledged first, of {}.", text::exact(lost)),
    );
    html.markup(format_args!("<ol class=\"forensic\">\n"));
    for record in &judged.lost_records[..shown] {
        html.element("li", "", &record.to_string());
    }
    html.markup(format_args!("</ol>\n"));
}

/// Trials of this cell that came to nothing, with the whole reason.
fn failed(html: &mut Html, page: &Page<'_, '_>, cell: &CellSummary<'_>) {
    let of = |failure: &&Failure| failure.cell == cell.cell.plan.id;
    for failure in page.sweep.failures.iter().filter(of) {
        let when = if failure.after_fault { "after the fault" } else { "before any fault" };
        let again = if page.sweep.has_trial(&failure.cell, failure.seed) { ", and was repeated" } else { "" };
        html.element("p", "note", &format!("Trial {} failed {when}{again}:", failure.number));
        html.markup(format_args!("<pre>{}\n{}</pre>\n", Escaped(&failure.reason), Escaped(&failure.command)));
    }
}

fn raw(html: &mut Html, cell: &CellSummary<'_>) {
    let plan = &cell.cell.plan;
    if !plan.effective.is_empty() {
        html.within("details", "raw", |html| {
            html.element("summary", "", "The broker's effective configuration");
            html.markup(format_args!("<pre>{}</pre>\n", Escaped(&property_lines(&plan.effective))));
        });
    }
    html.within("details", "raw", |html| {
        html.element(
            "summary",
            "",
            &format!(
                "{}: seeds, commands and files",
                text::counted(cell.cell.trials.len() as u64, "trial", "trials")
            ),
        );
        html.markup(format_args!("<pre>"));
        for (number, trial) in cell.cell.trials.iter().enumerate() {
            html.markup(format_args!("# trial {number}, seed {}\n{}\n", trial.seed, Escaped(&trial.command)));
            for file in &trial.files {
                html.markup(format_args!("#   {}\n", Escaped(file)));
            }
        }
        html.markup(format_args!("</pre>\n"));
    });
}

//! The terminal view: the sentence, the table, what speeds rest on, pairs, where the file is.

mod pairs;
mod speed;

use crate::report::workload_words;
use crate::results::answer::{self, Ordeal, Tone};
use crate::results::summary::{CellSummary, Judged, open_loop, performance, summaries};
use crate::results::{Configuration, Sweep, text};
use highwater_checker::{Acks, Loss, Scope, Standing};
use std::path::Path;

/// Whether the terminal takes colours. They repeat what signs and words say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Escape sequences.
    Ansi,
    /// None.
    Plain,
}

impl Colour {
    fn paint(self, paint: Paint, text: &str) -> String {
        let code = match (self, paint) {
            (Self::Plain, _) | (_, Paint::None) => return text.to_owned(),
            (Self::Ansi, Paint::Bad) => "1;31",
            (Self::Ansi, Paint::Strong) => "1",
            (Self::Ansi, Paint::Soft) => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    None,
    Bad,
    Strong,
    Soft,
}

/// Renders a sweep for the terminal. `report` is where the page was written.
#[must_use]
pub fn render(sweep: &Sweep, report: &Path, colour: Colour) -> String {
    let cells = summaries(sweep);
    let cards = answer::cards(&cells);
    let headline = answer::headline(&cells, &cards);
    let paint = if headline.tone == Tone::Broken { Paint::Bad } else { Paint::Strong };
    let mut out = format!("{}\n", colour.paint(paint, &printable(&headline.sentence)));
    for detail in &headline.details {
        out.push_str(&printable(detail));
        out.push('\n');
    }
    out.push('\n');
    out.push_str(&grid(&HEADS, WORDS, &rows(sweep, &cells), colour));
    if cells.iter().any(|cell| cell.fault().is_some()) {
        let lossy = |judged: &Judged| {
            judged.standing == Standing::Kept && judged.telling_trials > 0 && judged.lost > 0
        };
        if cells.iter().filter_map(|cell| cell.judged.as_ref()).any(lossy) {
            out.push_str("▽ lost, as the contract permits\n");
        }
        out.push_str(
            "lost: over all trials; 0 (≤ x): with 95 % confidence at most x of such faults lose anything\n",
        );
        let mut rates: Vec<String> = Vec::new();
        for rate in cells.iter().filter(|cell| cell.fault().is_some()).filter_map(CellSummary::offered) {
            let rate = text::megabytes(rate);
            if !rates.contains(&rate) {
                rates.push(rate);
            }
        }
        if !rates.is_empty() {
            out.push_str(&format!("faults struck a load at {} MB/s offered\n", rates.join(" or ")));
        }
        out.push_str(
            "loss window: of the worst trial; MB/s: without a fault, median [slowest–fastest] trial\n",
        );
    }
    if cells.iter().any(|cell| cell.judged.as_ref().is_some_and(|judged| judged.window_is_lower_bound)) {
        out.push_str("≥ the load ended before the loss window did: a lower bound\n");
    }
    if let Some(offered) = cells.iter().filter(|cell| cell.fault().is_none()).find_map(CellSummary::offered) {
        let offered = text::megabytes(offered);
        out.push_str(&format!("p99: without a fault, on an open loop at {offered} MB/s offered\n"));
    }
    let expired: u64 =
        cells.iter().filter_map(|cell| cell.judged.as_ref()).map(|judged| judged.expired).sum();
    if expired > 0 {
        let expired = text::rounded(expired);
        out.push_str(&format!("acked: without {expired} that retention deleted before they could be read\n"));
    }
    let judged = || cells.iter().filter_map(|cell| cell.judged.as_ref());
    let cuts: usize = judged().map(|judged| judged.cuts).sum();
    if cuts > 0 {
        let into_writes: usize = judged().map(|judged| judged.cuts_into_writes).sum();
        out.push_str(&format!("{into_writes} of {cuts} power cuts met writes that were not durable yet\n"));
    }
    let watched = || {
        let of_faults = cells.iter().filter(|cell| cell.fault().is_some());
        of_faults.filter_map(|cell| cell.judged.as_ref()).filter(|judged| judged.polled.is_some())
    };
    if watched().next().is_some() {
        let seen = text::rounded(watched().filter_map(|judged| judged.polled).sum());
        let gone = text::exact(watched().map(|judged| judged.read_then_lost).sum());
        out.push_str(&format!(
            "{gone} records that a consumer had read before a fault were gone afterwards, of {seen} reads\n"
        ));
    }
    if cells.iter().any(|cell| !cell.sustained) {
        out.push_str("! the offered rate was not sustained\n");
    }
    for line in answer::failures(sweep) {
        out.push_str(&format!("! {}\n", printable(&line)));
    }
    if let Some(line) = answer::incomplete(sweep) {
        out.push_str(&format!("! {line}\n"));
    }
    out.push_str(&speed::table(sweep, &cells, colour));
    out.push_str(&pairs::table(sweep, &cells, colour));
    out.push_str(&format!("\nReport: {}\n", printable(&report.display().to_string())));
    out
}

const HEADS: [&str; 11] = [
    "setting",
    "broker",
    "fault",
    "verdict",
    "trials",
    "acked",
    "lost",
    "twice",
    "loss window",
    "MB/s",
    "p99",
];
/// The first so many columns are words, the others numbers.
const WORDS: usize = 4;

/// A setting as rows tell it: what decides over loss, and what else not all settings of the sweep have in common.
fn setting(sweep: &Sweep, configuration: &Configuration) -> String {
    let words = workload_words(&configuration.workload);
    let others: Vec<String> =
        sweep.configurations.iter().map(|other| workload_words(&other.workload)).collect();
    let is_own = |word: &&str| others.iter().any(|other| other.split(", ").all(|theirs| theirs != *word));
    // What is cold, the short label says.
    let own: Vec<&str> = words.split(", ").filter(is_own).filter(|word| *word != "cold").collect();
    let label = configuration.short_label();
    if own.is_empty() { format!("acks={label}") } else { format!("acks={label}; {}", own.join(", ")) }
}

struct Row<const N: usize> {
    fields: [String; N],
    paint: Paint,
}

fn rows(sweep: &Sweep, cells: &[CellSummary<'_>]) -> Vec<Row<{ HEADS.len() }>> {
    let mut rows = Vec::new();
    for configuration in &sweep.configurations {
        let of = |cell: &&CellSummary<'_>| cell.configuration.id == configuration.id;
        let speed = performance(cells, &configuration.id);
        let steady = open_loop(cells, &configuration.id);
        let faults: Vec<&CellSummary<'_>> =
            cells.iter().filter(of).filter(|cell| cell.fault().is_some()).collect();
        rows.extend(faults.iter().map(|cell| fault_row(sweep, cell, speed, steady)));
        if let (true, Some(speed)) = (faults.is_empty(), speed) {
            let dash = || "–".to_owned();
            let [setting, broker, rate, p99] = common(sweep, speed, Some(speed), steady);
            let trials = speed.cell.trials.len().to_string();
            let fields = [
                setting,
                broker,
                "none".to_owned(),
                dash(),
                trials,
                dash(),
                dash(),
                dash(),
                dash(),
                rate,
                p99,
            ];
            rows.push(Row { fields, paint: Paint::None });
        }
    }
    rows
}

fn common(
    sweep: &Sweep,
    cell: &CellSummary<'_>,
    speed: Option<&CellSummary<'_>>,
    steady: Option<&CellSummary<'_>>,
) -> [String; 4] {
    let rate = speed.and_then(|speed| speed.bytes_per_second.map(|spread| (speed, spread)));
    let rate = rate.map_or_else(
        || "–".to_owned(),
        |(speed, spread)| {
            let doubt = if speed.sustained { "" } else { "! " };
            let range = format!("{}–{}", text::megabytes(spread.low), text::megabytes(spread.high));
            format!("{doubt}{} [{range}]", text::megabytes(spread.median))
        },
    );
    let p99 = text::latency(steady.and_then(|steady| steady.intended.quantile(0.99)));
    [setting(sweep, cell.configuration), cell.configuration.broker.name.clone(), rate, p99]
}

fn fault_row(
    sweep: &Sweep,
    cell: &CellSummary<'_>,
    speed: Option<&CellSummary<'_>>,
    steady: Option<&CellSummary<'_>>,
) -> Row<{ HEADS.len() }> {
    let [setting, broker, rate, p99] = common(sweep, cell, speed, steady);
    let fault = cell.ordeal().map(short_fault).unwrap_or_default();
    let Some(judged) = &cell.judged else {
        let dash = || "–".to_owned();
        let verdict = "not read back".to_owned();
        let fields = [setting, broker, fault, verdict, dash(), dash(), dash(), dash(), dash(), rate, p99];
        return Row { fields, paint: Paint::Soft };
    };
    let promised = cell.contract().is_none_or(|contract| contract.loss != Loss::NothingAcknowledged);
    let (verdict, paint) = match judged.standing {
        Standing::Broken => ("✗ BROKEN", Paint::Bad),
        Standing::Kept if judged.telling_trials == 0 => ("– proves nothing", Paint::Soft),
        Standing::Kept => match (judged.lost, promised) {
            (0, true) => ("✓ kept", Paint::None),
            (_, true) => ("▽ kept", Paint::None),
            (0, false) => ("– no promise", Paint::Soft),
            (_, false) => ("▽ no promise", Paint::Soft),
        },
    };
    let acknowledged = match cell.configuration.setting.acks {
        Acks::Zero => "none".to_owned(),
        Acks::One | Acks::All => text::rounded(judged.acknowledged),
    };
    let bound = if judged.window_is_lower_bound { "≥ " } else { "" };
    let window = judged.worst_window().map_or_else(|| "–".to_owned(), |window| format!("{bound}{window}"));
    let fields = [
        setting,
        broker,
        fault,
        verdict.to_owned(),
        judged.trials.to_string(),
        acknowledged,
        lost(judged.lost, judged.telling_trials),
        text::exact(judged.duplicates),
        window,
        rate,
        p99,
    ];
    Row { fields, paint }
}

fn short_fault(ordeal: Ordeal<'_>) -> String {
    let Ordeal { fault, simulated } = ordeal;
    let all = if fault.scope == Scope::AllBrokers { " (all)" } else { "" };
    let alone = fault.in_sync_replicas.map_or_else(String::new, |members| format!(" (ISR {members})"));
    let simulated = if simulated { "simulated " } else { "" };
    format!("{simulated}{}{all}{alone}", fault.kind.words())
}

/// A zero never stands without what it proves.
fn lost(lost: u64, trials: usize) -> String {
    match crate::results::stats::rule_of_three(trials) {
        _ if lost > 0 => text::exact(lost),
        Some(bound) => format!("0 (≤ {})", text::percent_at_most(bound)),
        None => "0 (few trials)".to_owned(),
    }
}

/// A table whose first `words` columns are words, the others numbers.
fn grid<const N: usize>(heads: &[&str; N], words: usize, rows: &[Row<N>], colour: Colour) -> String {
    let length = |text: &str| text.chars().count();
    let width = |column: usize| {
        let fields = rows.iter().map(|row| length(&row.fields[column]));
        fields.max().unwrap_or(0).max(length(heads[column]))
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |fields: &[String; N]| {
        let mut line = String::new();
        for (column, (field, width)) in fields.iter().zip(widths).enumerate() {
            let field = printable(field);
            let padding = " ".repeat(width.saturating_sub(length(&field)));
            let gap = if column == 0 { "" } else { "  " };
            line.push_str(gap);
            line.push_str(&if column < words { field + &padding } else { padding + &field });
        }
        line.trim_end().to_owned()
    };
    let heads = heads.map(str::to_owned);
    let mut out = format!("{}\n", colour.paint(Paint::Strong, &line(&heads)));
    for row in rows {
        out.push_str(&colour.paint(row.paint, &line(&row.fields)));
        out.push('\n');
    }
    out
}

/// Names come from files: a control character must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

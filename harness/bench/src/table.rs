//! The terminal view: the sentence, the table, where the file is.

use crate::results::answer::{self, Ordeal, Tone};
use crate::results::compare;
use crate::results::stats::{self, Spread};
use crate::results::summary::{CellSummary, Judged, Memory, open_loop, performance, summaries};
use crate::results::{Sweep, text};
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
    if cells.iter().any(|cell| !cell.sustained) {
        out.push_str("! the offered rate was not sustained\n");
    }
    for line in answer::failures(sweep) {
        out.push_str(&format!("! {}\n", printable(&line)));
    }
    if let Some(line) = answer::incomplete(sweep) {
        out.push_str(&format!("! {line}\n"));
    }
    out.push_str(&speed(sweep, &cells, colour));
    out.push_str(&pairs(sweep, &cells, colour));
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

struct Row<const N: usize> {
    fields: [String; N],
    paint: Paint,
}

const SPEED_HEADS: [&str; 10] = [
    "setting",
    "broker",
    "offered",
    "MB/s",
    "drained",
    "of the client",
    "MB/broker CPU-s",
    "MB/machine CPU-s",
    "memory peak",
    "at the end",
];
const SPEED_WORDS: usize = 2;

/// The second table: what the speed of each cell without a fault rests on. Nothing where a sweep is older than these
/// figures, or has no such cell.
fn speed(sweep: &Sweep, cells: &[CellSummary<'_>], colour: Colour) -> String {
    let measured: Vec<&CellSummary<'_>> = cells
        .iter()
        .filter(|cell| cell.fault().is_none() && (cell.memory.is_some() || cell.share_of_ceiling.is_some()))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let rows: Vec<Row<{ SPEED_HEADS.len() }>> = measured.iter().map(|cell| speed_row(cell)).collect();
    let mut out = format!("\n{}", grid(&SPEED_HEADS, SPEED_WORDS, &rows, colour));
    let mut ceilings: Vec<String> = Vec::new();
    for ceiling in sweep.configurations.iter().filter_map(|known| known.client_ceiling) {
        let shown = text::megabytes(ceiling.bytes_per_second);
        if !ceilings.contains(&shown) {
            ceilings.push(shown);
        }
    }
    if !ceilings.is_empty() {
        out.push_str(&format!(
            "of the client: of what it reaches with the same settings against a broker that keeps nothing, in this run: {} MB/s\n",
            text::listed(&ceilings)
        ));
    }
    if measured.iter().any(|cell| cell.is_limited_by_client()) {
        out.push_str("! limited by the client: at least 90 % of its ceiling\n");
    }
    out.push_str(
        "drained: MB/s until the broker's files were flushed; broker CPU: of its processes; machine CPU: everybody's less the \
         client's, until drained; memory: resident\n",
    );
    out
}

const PAIRS_HEADS: [&str; 9] =
    ["A", "B", "figure", "reading", "pairs", "of A", "of B", "B ÷ A", "95 % interval"];
const PAIRS_WORDS: usize = 4;

/// The third table: interleaved pairs, where the sweep is made of them or has enough of them to tell anything.
fn pairs(sweep: &Sweep, cells: &[CellSummary<'_>], colour: Colour) -> String {
    let mut compared = compare::compared(sweep);
    if sweep.stamp.pairs.is_none() {
        compared.retain(|of| of.ratio.is_some());
    }
    if compared.is_empty() {
        return String::new();
    }
    let name = |id: &str| {
        let cell = cells.iter().find(|cell| cell.cell.plan.id == id);
        cell.map_or_else(
            || id.to_owned(),
            |cell| {
                let rate = cell
                    .offered()
                    .map_or_else(String::new, |rate| format!(" at {} MB/s", text::megabytes(rate)));
                format!("{} acks={}{rate}", cell.configuration.broker.name, cell.configuration.short_label())
            },
        )
    };
    let row = |of: &compare::Compared<'_>| {
        let side = |spread: Option<Spread>| {
            let show = |value: f64| of.figure.shown(value);
            spread.map_or_else(
                || "–".to_owned(),
                |spread| format!("{} [{}–{}]", show(spread.median), show(spread.low), show(spread.high)),
            )
        };
        let (ratio, interval) = of.ratio.map_or_else(
            || ("–".to_owned(), "–".to_owned()),
            |ratio| (format!("{:.3}", ratio.median), format!("{:.3}–{:.3}", ratio.low, ratio.high)),
        );
        let fields = [
            name(&of.comparison.a),
            name(&of.comparison.b),
            of.figure.words().to_owned(),
            of.reading.to_owned(),
            of.pairs.to_string(),
            side(of.a),
            side(of.b),
            ratio,
            interval,
        ];
        Row { fields, paint: Paint::None }
    };
    let rows: Vec<Row<{ PAIRS_HEADS.len() }>> = compared.iter().map(row).collect();
    format!(
        "\n{}pairs A B B A; B ÷ A: median of the pairs' ratios, 95 % bootstrap interval, from {} pairs on; p99: from the \
         intended send time where a rate was offered, else from the send\n",
        grid(&PAIRS_HEADS, PAIRS_WORDS, &rows, colour),
        stats::FEWEST_PAIRS
    )
}

fn speed_row(cell: &CellSummary<'_>) -> Row<{ SPEED_HEADS.len() }> {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), text::megabytes);
    let median = |spread: Option<Spread>| rate(spread.map(|spread| spread.median));
    let limit = if cell.is_limited_by_client() { "! " } else { "" };
    let memory =
        |of: fn(Memory) -> u64| cell.memory.map_or_else(|| "–".to_owned(), |memory| text::bytes(of(memory)));
    let fields = [
        format!("acks={}", cell.configuration.short_label()),
        cell.configuration.broker.name.clone(),
        cell.offered().map_or_else(|| "–".to_owned(), text::megabytes),
        median(cell.bytes_per_second),
        median(cell.drained_bytes_per_second),
        cell.share_of_ceiling
            .map_or_else(|| "–".to_owned(), |share| format!("{limit}{}", text::percent(share))),
        rate(cell.bytes_per_broker_cpu_second),
        rate(cell.bytes_per_cpu_second),
        memory(|memory| memory.peak_bytes),
        memory(|memory| memory.end_bytes),
    ];
    Row { fields, paint: Paint::None }
}

fn rows(sweep: &Sweep, cells: &[CellSummary<'_>]) -> Vec<Row<{ HEADS.len() }>> {
    let mut rows = Vec::new();
    for configuration in &sweep.configurations {
        let of = |cell: &&CellSummary<'_>| cell.configuration.id == configuration.id;
        let speed = performance(cells, &configuration.id);
        let steady = open_loop(cells, &configuration.id);
        let faults: Vec<&CellSummary<'_>> =
            cells.iter().filter(of).filter(|cell| cell.fault().is_some()).collect();
        rows.extend(faults.iter().map(|cell| fault_row(cell, speed, steady)));
        if let (true, Some(speed)) = (faults.is_empty(), speed) {
            let dash = || "–".to_owned();
            let [setting, broker, rate, p99] = common(speed, Some(speed), steady);
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
    let setting = format!("acks={}", cell.configuration.short_label());
    [setting, cell.configuration.broker.name.clone(), rate, p99]
}

fn fault_row(
    cell: &CellSummary<'_>,
    speed: Option<&CellSummary<'_>>,
    steady: Option<&CellSummary<'_>>,
) -> Row<{ HEADS.len() }> {
    let [setting, broker, rate, p99] = common(cell, speed, steady);
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

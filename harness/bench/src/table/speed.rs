//! The second table: what the speed of each cell without a fault cost, and what the client itself could do.

use super::{Colour, Paint, Row, grid, setting};
use crate::results::stats::Spread;
use crate::results::summary::{CellSummary, Memory};
use crate::results::{Sweep, text};

const HEADS: [&str; 11] = [
    "setting",
    "broker",
    "offered",
    "MB/s",
    "drained",
    "laps",
    "of the client",
    "MB/broker CPU-s",
    "MB/machine CPU-s",
    "memory peak",
    "at the end",
];
const WORDS: usize = 2;

/// What the speed of each cell without a fault rests on. Nothing where a sweep is older than these
/// figures, or has no such cell.
pub(super) fn table(sweep: &Sweep, cells: &[CellSummary<'_>], colour: Colour) -> String {
    let measured: Vec<&CellSummary<'_>> = cells
        .iter()
        .filter(|cell| cell.fault().is_none() && (cell.memory.is_some() || cell.share_of_ceiling.is_some()))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let rows: Vec<Row<{ HEADS.len() }>> = measured.iter().map(|cell| row(sweep, cell)).collect();
    let mut out = format!("\n{}", grid(&HEADS, WORDS, &rows, colour));
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
    if measured.iter().any(|cell| cell.is_short()) {
        out.push_str("! at most three laps of the broker's journal: no speed of the long run\n");
    }
    out.push_str(
        "drained: MB/s until the broker's files were flushed and it wrote no more; broker CPU: of its processes; machine CPU: \
         everybody's less the client's, until drained; memory: resident\n",
    );
    out
}

fn row(sweep: &Sweep, cell: &CellSummary<'_>) -> Row<{ HEADS.len() }> {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), text::megabytes);
    let median = |spread: Option<Spread>| rate(spread.map(|spread| spread.median));
    let limit = if cell.is_limited_by_client() { "! " } else { "" };
    let memory =
        |of: fn(Memory) -> u64| cell.memory.map_or_else(|| "–".to_owned(), |memory| text::bytes(of(memory)));
    let fields = [
        setting(sweep, cell.configuration),
        cell.configuration.broker.name.clone(),
        cell.offered().map_or_else(|| "–".to_owned(), text::megabytes),
        median(cell.bytes_per_second),
        median(cell.drained_bytes_per_second),
        cell.laps.map_or_else(
            || "–".to_owned(),
            |laps| format!("{}{}", if cell.is_short() { "! " } else { "" }, text::three_digits(laps)),
        ),
        cell.share_of_ceiling
            .map_or_else(|| "–".to_owned(), |share| format!("{limit}{}", text::percent(share))),
        rate(cell.bytes_per_broker_cpu_second),
        rate(cell.bytes_per_cpu_second),
        memory(|memory| memory.peak_bytes),
        memory(|memory| memory.end_bytes),
    ];
    Row { fields, paint: Paint::None }
}

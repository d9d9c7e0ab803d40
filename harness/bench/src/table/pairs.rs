//! The third table: what interleaved pairs say.

use super::{Colour, Paint, Row, grid, setting};
use crate::results::compare;
use crate::results::stats::{self, Spread};
use crate::results::summary::CellSummary;
use crate::results::{Sweep, text};

const HEADS: [&str; 9] = ["A", "B", "figure", "reading", "pairs", "of A", "of B", "B ÷ A", "95 % interval"];
const WORDS: usize = 4;

/// The pairs, where the sweep is made of them or has enough of them to tell anything.
pub(super) fn table(sweep: &Sweep, cells: &[CellSummary<'_>], colour: Colour) -> String {
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
                format!("{} {}{rate}", cell.configuration.broker.name, setting(sweep, cell.configuration))
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
    let rows: Vec<Row<{ HEADS.len() }>> = compared.iter().map(row).collect();
    format!(
        "\n{}pairs A B B A; B ÷ A: median of the pairs' ratios, 95 % bootstrap interval, from {} pairs on; p99: from the \
         intended send time where a rate was offered, else from the send\n",
        grid(&HEADS, WORDS, &rows, colour),
        stats::FEWEST_PAIRS
    )
}

//! Latency: the percentile plot on a log-nines axis, and percentiles against offered load.

use super::svg::{Anchor, Area, At, Scale, Svg, at};
use crate::results::summary::CellSummary;
use crate::results::{Latency, text};
use highwater_checker::Nanos;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
/// More lines than this cannot be told apart.
pub(super) const LINES: usize = 6;

/// One curve of the percentile plot.
pub(super) struct Curve<'a> {
    pub(super) name: String,
    pub(super) target: &'a str,
    pub(super) intended: &'a Latency,
    pub(super) service: &'a Latency,
}

/// Two plots side by side with one vertical axis: from the intended send time, and service time.
pub(super) fn percentiles(curves: &[Curve<'_>]) -> Option<String> {
    let quantiles = |latency: &Latency| (latency.quantile(0.5), latency.max());
    let bounds = curves.iter().flat_map(|curve| [quantiles(curve.intended), quantiles(curve.service)]);
    let (lows, highs): (Vec<_>, Vec<_>) = bounds.unzip();
    let low = lows.into_iter().flatten().min()? as f64;
    let high = highs.into_iter().flatten().max()? as f64;
    let legend_height = 20.0 * curves.len() as f64;
    let label = "Latency percentiles, from the intended send time and from the send";
    let mut svg = Svg::new(WIDTH, HEIGHT + legend_height, label);
    let y = Scale::decades(low / 1e9, high / 1e9, HEIGHT - 60.0, 40.0);
    let plots = [
        ("from the intended send time", Area { left: 76.0, top: 40.0, right: 488.0, bottom: HEIGHT - 60.0 }),
        ("service time: from the send", Area { left: 548.0, top: 40.0, right: 934.0, bottom: HEIGHT - 60.0 }),
    ];
    let most = curves.iter().map(|curve| curve.intended.len()).max().unwrap_or(1);
    for (place, (title, area)) in plots.iter().enumerate() {
        let x = nines(most, area);
        frame(&mut svg, &x, &y, area, title, place == 0);
        for (number, curve) in curves.iter().enumerate() {
            let latency = if place == 0 { curve.intended } else { curve.service };
            let line = points(latency, &x, &y);
            svg.link(curve.target, &format!("{}: {}", curve.name, quantile_words(latency)), |svg| {
                svg.polyline(&format!("curve line{number}"), line);
            });
        }
    }
    svg.text("axis", at(505.0, HEIGHT - 16.0), Anchor::Middle, "percentile (each step is one more nine)");
    svg.text_upwards("axis", at(16.0, HEIGHT / 2.0), "latency (log)");
    for (number, curve) in curves.iter().enumerate() {
        let y = HEIGHT + 8.0 + 20.0 * number as f64;
        svg.link(curve.target, &curve.name, |svg| {
            svg.line(&format!("curve line{number}"), at(76.0, y - 4.0), at(116.0, y - 4.0));
            svg.text(
                "label",
                at(124.0, y),
                Anchor::Start,
                &format!("{}: {}", curve.name, quantile_words(curve.intended)),
            );
        });
    }
    Some(svg.finish())
}

/// An axis on which 90, 99, 99.9 … % are equally far apart, up to what the number of records can show.
fn nines(records: u64, area: &Area) -> Scale {
    Scale::linear(0.0, (records.max(10) as f64).log10().ceil(), area.left, area.right)
}

fn points(latency: &Latency, x: &Scale, y: &Scale) -> Vec<Option<At>> {
    let records = latency.len() as f64;
    let shown = latency.curve().into_iter().filter(|(quantile, _)| (1.0 - quantile) * records >= 1.0);
    shown
        .map(|(quantile, nanos)| {
            Some(at(x.position(-(1.0 - quantile).log10()), y.position(nanos as f64 / 1e9)))
        })
        .collect()
}

fn frame(svg: &mut Svg, x: &Scale, y: &Scale, area: &Area, title: &str, with_labels: bool) {
    for tick in y.minor_ticks() {
        svg.line("grid minor", at(area.left, y.position(tick)), at(area.right, y.position(tick)));
    }
    for tick in y.ticks() {
        svg.line("grid", at(area.left, y.position(tick)), at(area.right, y.position(tick)));
        if with_labels {
            svg.text("tick", at(area.left - 10.0, y.position(tick) + 4.0), Anchor::End, &duration_tick(tick));
        }
    }
    for nines in x.ticks().into_iter().filter(|tick| tick.fract() == 0.0) {
        let position = x.position(nines);
        svg.line("grid", at(position, area.top), at(position, area.bottom));
        if nines == 0.0 && !with_labels {
            continue;
        }
        let decimals = (nines - 2.0).max(0.0) as usize;
        let name = if nines == 0.0 {
            "0 %".to_owned()
        } else {
            format!("{:.decimals$} %", 100.0 - 10f64.powf(2.0 - nines))
        };
        svg.text("tick", at(position, area.bottom + 17.0), Anchor::Middle, &name);
    }
    svg.text("panel-name", at(area.left, area.top - 12.0), Anchor::Start, title);
}

/// A whole number of a unit, from seconds.
pub(super) fn duration_tick(seconds: f64) -> String {
    Nanos((seconds * 1e9).round() as u64).to_string().replacen(".00", "", 1).replacen(".0", "", 1)
}

fn quantile_words(latency: &Latency) -> String {
    let of = |quantile| text::latency(latency.quantile(quantile));
    format!("p50 {}, p99 {}, p99.9 {}, max {}", of(0.5), of(0.99), of(0.999), text::latency(latency.max()))
}

/// Percentiles against offered load, for a configuration measured at several targets.
pub(super) fn against_load(name: &str, cells: &[&CellSummary<'_>]) -> Option<String> {
    const PERCENTILES: [(f64, &str, &str); 3] =
        [(0.5, "p50", "line0"), (0.99, "p99", "line1"), (0.999, "p99.9", "line2")];
    let mut loads: Vec<(f64, &CellSummary<'_>)> = cells
        .iter()
        .filter_map(|cell| Some((cell.cell.trials.first()?.load.target_records_per_second?, *cell)))
        .collect();
    loads.sort_by(|a, b| a.0.total_cmp(&b.0));
    if loads.len() < 2 {
        return None;
    }
    let low = loads.iter().filter_map(|(_, cell)| cell.intended.quantile(0.5)).min()? as f64 / 1e9;
    let high = loads.iter().filter_map(|(_, cell)| cell.intended.quantile(0.999)).max()? as f64 / 1e9;
    let area = Area { left: 76.0, top: 34.0, right: 880.0, bottom: 260.0 };
    let mut svg = Svg::new(WIDTH, 310.0, &format!("Latency against offered load: {name}"));
    let y = Scale::decades(low, high, area.bottom, area.top);
    let x = Scale::from_zero(loads.last()?.0, area.left, area.right);
    for tick in y.ticks() {
        svg.line("grid", at(area.left, y.position(tick)), at(area.right, y.position(tick)));
        svg.text("tick", at(area.left - 10.0, y.position(tick) + 4.0), Anchor::End, &duration_tick(tick));
    }
    for tick in x.ticks() {
        svg.line("grid", at(x.position(tick), area.top), at(x.position(tick), area.bottom));
        svg.text(
            "tick",
            at(x.position(tick), area.bottom + 17.0),
            Anchor::Middle,
            &text::rounded(tick as u64),
        );
    }
    svg.text(
        "axis",
        at(480.0, area.bottom + 38.0),
        Anchor::Middle,
        "offered load, records/s (hollow: not sustained)",
    );
    svg.text("panel-name", at(area.left, area.top - 14.0), Anchor::Start, name);
    for (quantile, label, class) in PERCENTILES {
        let place = |(load, cell): &(f64, &CellSummary<'_>)| {
            cell.intended
                .quantile(quantile)
                .map(|nanos| at(x.position(*load), y.position(nanos as f64 / 1e9)))
        };
        let places: Vec<Option<At>> = loads.iter().map(place).collect();
        svg.polyline(&format!("curve {class}"), places.iter().copied());
        for ((load, cell), place) in loads.iter().zip(&places) {
            let Some(place) = place else { continue };
            let marker = if cell.sustained {
                format!("curve-dot {class}")
            } else {
                format!("curve-dot hollow {class}")
            };
            let title = format!(
                "{} records/s: {label} {}",
                text::rounded(*load as u64),
                text::latency(cell.intended.quantile(quantile))
            );
            svg.link(&cell.cell.plan.id, &title, |svg| svg.circle(&marker, *place, 3.6));
        }
        if let Some(end) = places.last().copied().flatten() {
            svg.text("label", at(end.x + 10.0, end.y + 4.0), Anchor::Start, label);
        }
    }
    Some(svg.finish())
}

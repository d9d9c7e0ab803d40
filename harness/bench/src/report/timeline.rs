//! A trial by time: throughput, latency and errors, with fault and recovery marked.

use super::latency::duration_tick;
use super::svg::{Anchor, Area, Scale, Svg, at};
use crate::results::{Timeline, Trial, text};

const WIDTH: f64 = 960.0;
/// Buckets are merged until at most so many are drawn.
const COLUMNS: usize = 400;

/// Buckets merged for drawing.
struct Column {
    start: f64,
    end: f64,
    megabytes_per_second: f64,
    p50: Option<u32>,
    p99: Option<u32>,
    errors: u64,
}

/// Draws a trial; absent if it has no timeline.
pub(super) fn chart(trial: &Trial, name: &str) -> Option<String> {
    let columns = columns(&trial.timeline);
    let end = columns.last()?.end;
    let mut svg = Svg::new(WIDTH, 330.0, &format!("Timeline of {name}"));
    let rate = Area { left: 76.0, top: 44.0, right: 934.0, bottom: 150.0 };
    let latency = Area { top: 178.0, bottom: 284.0, ..rate };
    let x = Scale::linear(0.0, end, rate.left, rate.right);
    mark_faults(&mut svg, trial, &x, &rate, &latency);
    draw_rate(&mut svg, &columns, &x, &rate);
    draw_latency(&mut svg, &columns, &x, &latency);
    for tick in x.ticks() {
        svg.text("tick", at(x.position(tick), latency.bottom + 17.0), Anchor::Middle, &text::tick(tick));
    }
    svg.text("axis", at(505.0, latency.bottom + 38.0), Anchor::Middle, "seconds since the trial began");
    Some(svg.finish())
}

fn columns(timeline: &Timeline) -> Vec<Column> {
    let width = timeline.bucket.as_secs_f64();
    let step = timeline.acked.len().div_ceil(COLUMNS).max(1);
    let merged = |first: usize| {
        let range = first..(first + step).min(timeline.acked.len());
        let bytes: u64 = timeline.bytes.get(range.clone()).unwrap_or_default().iter().sum();
        // Of merged buckets the worst is shown: a percentile cannot be merged, and none is averaged.
        let worst = |values: &[Option<u32>]| {
            values.get(range.clone()).unwrap_or_default().iter().flatten().max().copied()
        };
        let seconds = range.len() as f64 * width;
        Column {
            start: first as f64 * width,
            end: range.end as f64 * width,
            megabytes_per_second: bytes as f64 / 1e6 / seconds.max(1e-9),
            p50: worst(&timeline.p50_us),
            p99: worst(&timeline.p99_us),
            errors: timeline
                .errors
                .get(range.clone())
                .unwrap_or_default()
                .iter()
                .map(|n| u64::from(*n))
                .sum(),
        }
    };
    (0..timeline.acked.len()).step_by(step).map(merged).collect()
}

fn mark_faults(svg: &mut Svg, trial: &Trial, x: &Scale, rate: &Area, latency: &Area) {
    for mark in &trial.faults {
        let (struck, restored) = (mark.struck_at.as_secs_f64(), mark.restored_at.as_secs_f64());
        let (left, right) = (x.position(struck), x.position(restored));
        svg.titled(&format!("{}: struck at {struck:.3} s, restored at {restored:.3} s", mark.fault), |svg| {
            svg.rect(
                "fault-band",
                Area { left, top: rate.top, right: right.max(left + 1.5), bottom: latency.bottom },
            );
            svg.line("fault-line", at(left, rate.top - 10.0), at(left, latency.bottom));
            let late = left > f64::midpoint(rate.left, rate.right) + 200.0;
            let (anchor, shift) = if late { (Anchor::End, -5.0) } else { (Anchor::Start, 5.0) };
            let label = format!("⚡ {}, restored after {:.2} s", mark.fault, restored - struck);
            svg.text("fault-name", at(left + shift, rate.top - 12.0), anchor, &label);
        });
    }
}

fn draw_rate(svg: &mut Svg, columns: &[Column], x: &Scale, area: &Area) {
    let most = columns.iter().map(|column| column.megabytes_per_second).fold(0.0, f64::max);
    let y = Scale::from_zero(most.max(1e-3), area.bottom, area.top);
    for tick in y.ticks() {
        svg.line("grid", at(area.left, y.position(tick)), at(area.right, y.position(tick)));
        svg.text("tick", at(area.left - 10.0, y.position(tick) + 4.0), Anchor::End, &text::tick(tick));
    }
    svg.text_upwards("axis", at(16.0, f64::midpoint(area.top, area.bottom)), "MB/s");
    let steps = columns.iter().flat_map(|column| {
        let height = y.position(column.megabytes_per_second);
        [Some(at(x.position(column.start), height)), Some(at(x.position(column.end), height))]
    });
    let steps: Vec<_> = steps.collect();
    let ground = [Some(at(area.right, area.bottom)), Some(at(area.left, area.bottom))];
    svg.polyline("rate-area", steps.iter().copied().chain(ground));
    svg.polyline("rate-line", steps);
    for column in columns.iter().filter(|column| column.errors > 0) {
        let (left, right) = (x.position(column.start), x.position(column.end));
        let title =
            format!("{} in this interval", text::counted(column.errors, "record failed", "records failed"));
        svg.titled(&title, |svg| {
            let tick = Area {
                left,
                top: area.bottom + 7.0,
                right: right.max(left + 1.5),
                bottom: area.bottom + 14.0,
            };
            svg.rect("error-tick", tick);
        });
    }
    if columns.iter().any(|column| column.errors > 0) {
        svg.text("tick error-name", at(area.left - 10.0, area.bottom + 17.0), Anchor::End, "errors");
    }
}

fn draw_latency(svg: &mut Svg, columns: &[Column], x: &Scale, area: &Area) {
    let all = || columns.iter().flat_map(|column| [column.p50, column.p99]).flatten();
    let (Some(low), Some(high)) = (all().min(), all().max()) else { return };
    let y = Scale::decades(f64::from(low.max(1)) / 1e6, f64::from(high.max(1)) / 1e6, area.bottom, area.top);
    for tick in y.ticks() {
        svg.line("grid", at(area.left, y.position(tick)), at(area.right, y.position(tick)));
        svg.text("tick", at(area.left - 10.0, y.position(tick) + 4.0), Anchor::End, &duration_tick(tick));
    }
    svg.text_upwards("axis", at(16.0, f64::midpoint(area.top, area.bottom)), "latency (log)");
    let line = |value: fn(&Column) -> Option<u32>| {
        let place = |column: &Column| {
            value(column).map(|us| {
                at(x.position(f64::midpoint(column.start, column.end)), y.position(f64::from(us) / 1e6))
            })
        };
        columns.iter().map(place).collect::<Vec<_>>()
    };
    for (value, class, name) in [
        ((|column| column.p50) as fn(&Column) -> Option<u32>, "curve line0", "p50"),
        (|column| column.p99, "curve line1", "p99"),
    ] {
        let places = line(value);
        svg.polyline(class, places.iter().copied());
        if let Some(end) = places.iter().rev().flatten().next() {
            svg.text("label", at((end.x + 5.0).min(area.right + 2.0), end.y + 4.0), Anchor::Start, name);
        }
    }
}

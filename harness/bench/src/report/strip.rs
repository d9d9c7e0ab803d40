//! The distribution of a cell's losses: one mark a trial, since neither the median nor the worst
//! alone says what to expect.

use super::latency::duration_tick;
use super::svg::{Anchor, Area, Scale, Svg, at};
use crate::results::summary::Judged;
use crate::results::text;
use highwater_checker::Nanos;

const WIDTH: f64 = 960.0;

/// Draws the loss windows of a cell's trials; absent if no trial lost anything.
pub(super) fn windows(judged: &Judged, name: &str) -> Option<String> {
    let seconds = |window: &Nanos| window.as_secs_f64().max(1e-6);
    let lost = || judged.windows.iter().flatten().map(seconds);
    let (low, high) = (lost().reduce(f64::min)?, lost().reduce(f64::max)?);
    let label = format!("Loss window by trial: {name}");
    let mut svg = Svg::new(WIDTH, 96.0, &label);
    let area = Area { left: 200.0, top: 16.0, right: 934.0, bottom: 50.0 };
    let x = Scale::decades(low, high, area.left, area.right);
    for tick in x.minor_ticks() {
        svg.line("grid minor", at(x.position(tick), area.top), at(x.position(tick), area.bottom));
    }
    for tick in x.ticks() {
        svg.line("grid", at(x.position(tick), area.top), at(x.position(tick), area.bottom));
        svg.text("tick", at(x.position(tick), area.bottom + 16.0), Anchor::Middle, &duration_tick(tick));
    }
    let nothing = Area { left: 76.0, right: 180.0, ..area };
    svg.rect("lane", nothing);
    let middle = f64::midpoint(area.top, area.bottom);
    let none = judged.windows.iter().filter(|window| window.is_none()).count();
    let words = text::counted(none as u64, "trial", "trials");
    svg.text(
        "lane-name",
        at(f64::midpoint(nothing.left, nothing.right), middle + 4.0),
        Anchor::Middle,
        &words,
    );
    svg.text(
        "tick",
        at(f64::midpoint(nothing.left, nothing.right), area.bottom + 16.0),
        Anchor::Middle,
        "nothing lost",
    );
    for (trial, window) in judged.windows.iter().enumerate() {
        let (Some(window), Some(lost)) = (window, judged.lost_by_trial.get(trial)) else { continue };
        let title = format!("trial {trial}: {window}, {}", text::counted(*lost, "record", "records"));
        svg.titled(&title, |svg| {
            let position = x.position(seconds(window));
            svg.line("rug", at(position, area.top + 4.0), at(position, area.bottom - 4.0));
        });
    }
    let axis = "loss window by trial (log): from the earliest lost ack to the fault";
    svg.text("axis", at(f64::midpoint(area.left, area.right), area.bottom + 36.0), Anchor::Middle, axis);
    Some(svg.finish())
}

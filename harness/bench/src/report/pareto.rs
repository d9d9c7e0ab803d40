//! The chart of the project: throughput against what is lost, one panel a fault.
//!
//! *Nothing lost* is a lane of its own below the logarithmic axis, which has no zero. A point stands
//! at its worst trial; its whiskers span the trials.
//!
//! The two axes are of two loads: speed of a load as fast as possible, loss of one at a rate that was offered. Seconds of
//! loss do not depend on that rate, records do; so the axis has seconds, and the records stand beside the point with their
//! rate. acks=0 is drawn in outline and is on no frontier: what it sends is not acknowledged, and its speed is the socket's.

use super::labels::{Labels, Mark, Place, Weight};
use super::marks::{Certainty, Shape, mark, shape_of};
use super::svg::{Anchor, Area, At, Scale, Svg, at};
use crate::results::summary::{CellSummary, Judged, performance};
use crate::results::{stats::Spread, text};
use highwater_checker::{Acks, Nanos};

const WIDTH: f64 = 960.0;
const TOP: f64 = 34.0;
const PLOT_HEIGHT: f64 = 250.0;
const LANE_GAP: f64 = 10.0;
const LANE_HEIGHT: f64 = 92.0;
const PLOT: (f64, f64) = (84.0, WIDTH - 26.0);
const RADIUS: f64 = 6.5;
/// Between the rows of the lane, in which marks are moved apart that would hide each other.
const ROW: f64 = 17.0;

const AXIS: &str = "loss window, worst trial (log)";

/// A window at a mark of the axis, from seconds.
fn window_tick(seconds: f64) -> String {
    let nanos = Nanos((seconds * 1e9).round() as u64).to_string();
    nanos.replacen(".00", "", 1).replacen(".0", "", 1)
}

/// Trial by trial in seconds, zero where nothing was lost.
fn losses(judged: &Judged) -> Vec<f64> {
    let seconds = |window: &Option<Nanos>| window.map_or(0.0, |window| window.as_secs_f64().max(1e-6));
    judged.windows.iter().map(seconds).collect()
}

struct Point<'s, 'a> {
    cell: &'s CellSummary<'a>,
    judged: &'s Judged,
    speed: Spread,
    certainty: Certainty,
    shape: Shape,
    losses: Spread,
    /// The lowest loss of a trial that lost anything.
    least: f64,
    number: usize,
}

/// Draws a panel from the cells of one fault; absent if none of them has a throughput.
pub(super) fn panel(
    cells: &[CellSummary<'_>],
    of_fault: &[&CellSummary<'_>],
    brokers: &[String],
    numbers: &dyn Fn(&str) -> usize,
    title: &str,
) -> Option<String> {
    let points: Vec<Point<'_, '_>> =
        of_fault.iter().filter_map(|cell| point(cells, cell, brokers, numbers)).collect();
    if points.is_empty() {
        return None;
    }
    Some(Panel::new(&points, title).draw(&points))
}

fn point<'s, 'a>(
    cells: &'s [CellSummary<'a>],
    cell: &'s CellSummary<'a>,
    brokers: &[String],
    numbers: &dyn Fn(&str) -> usize,
) -> Option<Point<'s, 'a>> {
    let judged = cell.judged.as_ref()?;
    let speed = performance(cells, &cell.configuration.id)?;
    let losses = losses(judged);
    let least = losses.iter().copied().filter(|loss| *loss > 0.0).fold(f64::INFINITY, f64::min);
    let unacknowledged = cell.configuration.setting.acks == Acks::Zero;
    let in_doubt = !speed.sustained || judged.window_is_lower_bound || unacknowledged;
    Some(Point {
        cell,
        judged,
        speed: speed.bytes_per_second?,
        certainty: if in_doubt { Certainty::InDoubt } else { Certainty::Certain },
        shape: shape_of(brokers, &cell.configuration.broker.name),
        losses: Spread::of(losses)?,
        least,
        number: numbers(&cell.configuration.id),
    })
}

struct Panel {
    svg: Svg,
    x: Scale,
    y: Option<Scale>,
    lane: Area,
    labels: Labels,
}

impl Panel {
    fn new(points: &[Point<'_, '_>], title: &str) -> Self {
        let lost = || points.iter().filter(|point| point.losses.high > 0.0);
        let least = lost().map(|point| point.least).fold(f64::INFINITY, f64::min);
        let most = lost().map(|point| point.losses.high).fold(0.0, f64::max);
        let has_loss = most > 0.0;
        let bottom = if has_loss { TOP + PLOT_HEIGHT } else { TOP - LANE_GAP };
        let lane = Area {
            left: PLOT.0,
            top: bottom + LANE_GAP,
            right: PLOT.1,
            bottom: bottom + LANE_GAP + LANE_HEIGHT,
        };
        let fastest = points.iter().map(|point| point.speed.high / 1e6).fold(0.0, f64::max);
        Self {
            svg: Svg::new(WIDTH, lane.bottom + 46.0, title),
            x: Scale::from_zero(fastest * 1.04, PLOT.0, PLOT.1),
            y: has_loss.then(|| Scale::decades(least, most * 1.25, bottom, TOP)),
            lane,
            labels: Labels::within(Area {
                left: PLOT.0,
                top: TOP - 22.0,
                right: WIDTH - 2.0,
                bottom: lane.bottom,
            }),
        }
    }

    fn draw(mut self, points: &[Point<'_, '_>]) -> String {
        self.axes();
        let places = self.places(points);
        let frontier = self.frontier(points, &places);
        for (point, place) in points.iter().zip(&places) {
            self.whisker(point, *place);
        }
        let marks: Vec<Mark> =
            points.iter().zip(&places).map(|(point, place)| self.extent(point, *place)).collect();
        marks.iter().for_each(|mark| self.labels.take(mark));
        if let [.., before, last] = frontier.as_slice() {
            self.name_frontier(*before, *last);
        }
        // What matters most has the first choice of a place.
        let mut order: Vec<usize> = (0..points.len()).collect();
        let weight = |index: usize| {
            let point = &points[index];
            (
                !point.cell.is_broken(),
                !frontier.contains(&places[index]),
                point.certainty == Certainty::InDoubt,
            )
        };
        order.sort_by_key(|&index| weight(index));
        let mut found = vec![None; points.len()];
        for index in order {
            let texts = points[index].texts();
            let weight = if points[index].cell.is_broken() { Weight::Bold } else { Weight::Normal };
            let label = self.labels.beside(&marks[index], weight, &texts);
            found[index] = label.map(|(place, text)| (place, text.to_owned()));
        }
        for ((point, place), label) in points.iter().zip(&places).zip(found) {
            self.mark(point, *place, label.as_ref());
        }
        self.svg.finish()
    }

    /// What a point covers, for placing labels.
    fn extent(&self, point: &Point<'_, '_>, center: At) -> Mark {
        let ring = if point.cell.is_broken() { 4.0 } else { 0.0 };
        Mark {
            center,
            reach: RADIUS + 2.0 + ring,
            left: self.x.position(point.speed.low / 1e6),
            right: self.x.position(point.speed.high / 1e6),
        }
    }

    fn axes(&mut self) {
        let (svg, lane) = (&mut self.svg, self.lane);
        svg.rect("lane", lane);
        let top = if self.y.is_some() { TOP } else { lane.top };
        for tick in self.x.ticks() {
            let x = self.x.position(tick);
            svg.line("grid", at(x, top), at(x, lane.bottom));
            svg.text("tick", at(x, lane.bottom + 17.0), Anchor::Middle, &text::tick(tick));
        }
        let middle = f64::midpoint(PLOT.0, PLOT.1);
        let axis = "MB/s acknowledged without a fault, as fast as possible: median, whiskers over the trials (acks=0: handed to the socket)";
        svg.text("axis", at(middle, lane.bottom + 38.0), Anchor::Middle, axis);
        svg.text(
            "lane-name",
            at(PLOT.0 - 10.0, f64::midpoint(lane.top, lane.bottom) - 3.0),
            Anchor::End,
            "nothing",
        );
        svg.text(
            "lane-name",
            at(PLOT.0 - 10.0, f64::midpoint(lane.top, lane.bottom) + 11.0),
            Anchor::End,
            "lost",
        );
        svg.text("hint", at(PLOT.1, top - 12.0), Anchor::End, "faster →   ↓ safer");
        let Some(y) = self.y else { return };
        for tick in y.minor_ticks() {
            svg.line("grid minor", at(PLOT.0, y.position(tick)), at(PLOT.1, y.position(tick)));
        }
        for tick in y.ticks() {
            svg.line("grid", at(PLOT.0, y.position(tick)), at(PLOT.1, y.position(tick)));
            svg.text("tick", at(PLOT.0 - 10.0, y.position(tick) + 4.0), Anchor::End, &window_tick(tick));
        }
        svg.text_upwards("axis", at(16.0, TOP + PLOT_HEIGHT / 2.0), AXIS);
    }

    /// Where each point stands. In the lane, where height means nothing, points that would hide each
    /// other are moved apart.
    fn places(&self, points: &[Point<'_, '_>]) -> Vec<At> {
        let middle = f64::midpoint(self.lane.top, self.lane.bottom);
        let rows = [0.0, -ROW, ROW, -2.0 * ROW, 2.0 * ROW];
        let apart = |place: At, other: &At, width: f64| {
            (other.x - place.x).abs() >= width || (other.y - place.y).abs() >= ROW - 1.0
        };
        let mut places: Vec<At> = Vec::new();
        for point in points {
            let x = self.x.position(point.speed.median / 1e6);
            let y = match self.y {
                Some(scale) if point.losses.high > 0.0 => scale.position(point.losses.high),
                _ => {
                    // With room for a label where there is some, else for the mark.
                    let free = |width: f64| {
                        let place = |row: &&f64| {
                            places.iter().all(|other| apart(at(x, middle + **row), other, width))
                        };
                        rows.iter().find(place)
                    };
                    middle + free(90.0).or_else(|| free(2.0 * RADIUS + 4.0)).unwrap_or(&rows[0])
                }
            };
            places.push(at(x, y));
        }
        places
    }

    /// The settings that no other beats in both directions, joined by the steps of what can be had. Where they stand.
    fn frontier(&mut self, points: &[Point<'_, '_>], places: &[At]) -> Vec<At> {
        let mut sure: Vec<(f64, f64, At)> = (points.iter().zip(places))
            .filter(|(point, _)| point.certainty == Certainty::Certain && !point.cell.is_broken())
            .map(|(point, place)| (point.losses.high, point.speed.median, *place))
            .collect();
        sure.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut best: Vec<At> = Vec::new();
        let mut fastest = f64::NEG_INFINITY;
        for (_, speed, place) in sure {
            if speed > fastest {
                fastest = speed;
                best.push(place);
            }
        }
        let corner = |pair: &[At]| [Some(pair[0]), Some(at(pair[0].x, pair[1].y)), Some(pair[1])];
        for pair in best.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            self.labels.line(Area { left: from.x - 2.0, top: to.y, right: from.x + 2.0, bottom: from.y });
            self.labels.line(Area { left: from.x, top: to.y - 2.0, right: to.x, bottom: to.y + 2.0 });
        }
        self.svg.polyline("frontier", best.windows(2).flat_map(corner));
        best
    }

    /// Along the last step, on either side of it.
    fn name_frontier(&mut self, before: At, last: At) {
        let middle = f64::midpoint(last.x, before.x);
        let places = [
            (at(middle, last.y - 6.0), Anchor::Middle),
            (at(before.x, last.y - 6.0), Anchor::Start),
            (at(before.x + 6.0, last.y + 15.0), Anchor::Start),
            (at(before.x - 6.0, last.y + 15.0), Anchor::End),
            (at(before.x - 6.0, f64::midpoint(before.y, last.y)), Anchor::End),
        ];
        if let Some((place, anchor)) = self.labels.first_free(&places, "frontier") {
            self.svg.text("frontier-name", place, anchor, "frontier");
        }
    }

    fn whisker(&mut self, point: &Point<'_, '_>, place: At) {
        let class = format!("whisker {}", super::marks::class_of(point.cell.configuration.flush_class()));
        let (left, right) = (self.x.position(point.speed.low / 1e6), self.x.position(point.speed.high / 1e6));
        for (from, to) in [
            (at(left, place.y), at(right, place.y)),
            (at(left, place.y - 3.0), at(left, place.y + 3.0)),
            (at(right, place.y - 3.0), at(right, place.y + 3.0)),
        ] {
            self.svg.line(&class, from, to);
        }
        let pad = 4.0;
        self.labels.line(Area {
            left: left - pad,
            top: place.y - 3.0,
            right: right + pad,
            bottom: place.y + 3.0,
        });
        let Some(y) = self.y.filter(|_| point.losses.high > 0.0) else { return };
        let low = y.position(point.least);
        self.svg.line(&class, place, at(place.x, low));
        self.svg.line(&class, at(place.x - 3.0, low), at(place.x + 3.0, low));
        let mut end = low;
        if point.losses.low == 0.0 {
            // Some trials lost nothing: the whisker reaches into the lane.
            end = self.lane.top + 8.0;
            self.svg.line(&format!("{class} partly"), at(place.x, low), at(place.x, end));
            self.svg.line(&class, at(place.x - 3.0, end), at(place.x + 3.0, end));
        }
        self.labels.line(Area { left: place.x - 3.0, top: place.y, right: place.x + 3.0, bottom: end });
        if point.judged.window_is_lower_bound {
            let tip = place.y - 20.0;
            self.labels.line(Area {
                left: place.x - 5.0,
                top: tip - 1.0,
                right: place.x + 5.0,
                bottom: place.y,
            });
            self.svg.line(&class, place, at(place.x, tip));
            self.svg.polyline(
                &class,
                [at(place.x - 4.0, tip + 5.0), at(place.x, tip), at(place.x + 4.0, tip + 5.0)].map(Some),
            );
        }
    }

    fn mark(&mut self, point: &Point<'_, '_>, place: At, label: Option<&(Place, String)>) {
        let flush = point.cell.configuration.flush_class();
        let broken = point.cell.is_broken();
        self.svg.link(&point.cell.cell.plan.id, &point.title(), |svg| {
            if let Some((from, to)) = label.and_then(|(place, _)| place.leader) {
                svg.line("leader", from, to);
            }
            svg.circle("target", place, RADIUS * 2.2);
            mark(svg, point.shape, flush, point.certainty, place, RADIUS);
            if broken {
                svg.circle("broken-ring", place, RADIUS + 5.0);
            }
            let class = if broken { "label broken-label" } else { "label" };
            if let Some((place, text)) = label {
                svg.text(class, place.at, place.anchor, text);
            }
        });
    }
}

impl Point<'_, '_> {
    /// What its label may be, from the most telling on; at last the number of its row.
    fn texts(&self) -> Vec<String> {
        let broken = if self.cell.is_broken() { "✗ broken: " } else { "" };
        let unpromised = if self.cell.lost_nothing_unpromised() { " (not promised)" } else { "" };
        let short = format!("{broken}{}{unpromised}", self.cell.configuration.short_label());
        let number = format!("#{}", self.number);
        match self.judged.worst_loss() {
            0 => vec![short, number],
            lost => {
                let rate = super::frame::at_rate(self.cell);
                vec![format!("{short}: {} lost{rate}", text::rounded(lost)), short, number]
            }
        }
    }

    fn title(&self) -> String {
        let Self { cell, judged, speed, .. } = self;
        let mut lines = vec![
            format!("#{} {}", self.number, cell.configuration.broker_label()),
            cell.configuration.label(),
            format!(
                "{} MB/s [{} to {}, {}]",
                text::megabytes(speed.median),
                text::megabytes(speed.low),
                text::megabytes(speed.high),
                text::counted(speed.trials as u64, "trial", "trials")
            ),
            super::words::lost(cell, judged),
        ];
        if let Some(window) = judged.worst_window() {
            let bound = if judged.window_is_lower_bound { "at least " } else { "" };
            lines.push(format!("loss window {bound}{window} in the worst trial"));
        }
        if cell.is_broken() {
            lines.push("THE CONTRACT WAS BROKEN".to_owned());
        }
        lines.join("\n")
    }
}

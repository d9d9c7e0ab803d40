//! How a setting looks in every chart: shape for the broker, fill for the flush setting, outline only
//! where the figure is in doubt. Colour repeats the fill and is never the only mark.

use super::svg::{At, Svg};
use crate::results::Sweep;
use crate::results::answer::FlushClass;
use std::f64::consts::{FRAC_PI_2, TAU};

/// One shape a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Diamond,
    Square,
    Triangle,
    Hexagon,
}

impl Shape {
    const ALL: [Self; 5] = [Self::Circle, Self::Diamond, Self::Square, Self::Triangle, Self::Hexagon];

    /// Corners and the angle of the first, and a factor that makes all look equally large.
    const fn corners(self) -> (u32, f64, f64) {
        match self {
            Self::Circle => (48, 0.0, 1.0),
            Self::Diamond => (4, -FRAC_PI_2, 1.22),
            Self::Square => (4, -FRAC_PI_2 / 2.0, 1.2),
            Self::Triangle => (3, -FRAC_PI_2, 1.35),
            Self::Hexagon => (6, 0.0, 1.1),
        }
    }

    fn outline(self, center: At, radius: f64) -> Vec<At> {
        let (count, first, factor) = self.corners();
        let corner = |n: u32| {
            let angle = first + TAU * f64::from(n) / f64::from(count);
            At { x: center.x + radius * factor * angle.cos(), y: center.y + radius * factor * angle.sin() }
        };
        (0..count).map(corner).collect()
    }
}

/// The brokers of a sweep, in the order in which they first appear.
pub(super) fn brokers(sweep: &Sweep) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for configuration in &sweep.configurations {
        if !names.contains(&configuration.broker.name) {
            names.push(configuration.broker.name.clone());
        }
    }
    names
}

/// The shape of a broker. With more brokers than shapes they repeat; the labels still tell.
pub(super) fn shape_of(brokers: &[String], name: &str) -> Shape {
    let place = brokers.iter().position(|known| known == name).unwrap_or_default();
    Shape::ALL[place % Shape::ALL.len()]
}

/// The class of a flush setting, for the style sheet.
pub(super) const fn class_of(flush: FlushClass) -> &'static str {
    match flush {
        FlushClass::EveryMessage => "every",
        FlushClass::Window => "window",
        FlushClass::LeftToSystem => "system",
    }
}

/// How a mark is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    Certain,
    /// The rate was not sustained, or the loss window is a lower bound.
    InDoubt,
}

/// Draws a mark.
pub(super) fn mark(
    svg: &mut Svg,
    shape: Shape,
    flush: FlushClass,
    certainty: Certainty,
    center: At,
    radius: f64,
) {
    let class = class_of(flush);
    let outline = shape.outline(center, radius);
    if certainty == Certainty::InDoubt {
        svg.path(&format!("mark hollow {class}"), &closed(&outline));
        return;
    }
    match flush {
        FlushClass::EveryMessage => svg.path(&format!("mark solid {class}"), &closed(&outline)),
        FlushClass::Window => {
            svg.path(&format!("mark open {class}"), &closed(&outline));
            svg.path(&format!("mark solid {class}"), &closed(&left_half(&outline, center)));
        }
        FlushClass::LeftToSystem => {
            svg.path(&format!("mark open {class}"), &closed(&outline));
            svg.circle(&format!("dot {class}"), center, radius * 0.34);
        }
    }
}

/// The part of a convex outline left of its centre.
fn left_half(outline: &[At], center: At) -> Vec<At> {
    let mut half = Vec::new();
    for (place, from) in outline.iter().enumerate() {
        let to = outline[(place + 1) % outline.len()];
        if from.x <= center.x {
            half.push(*from);
        }
        if (from.x - center.x) * (to.x - center.x) < 0.0 {
            let share = (center.x - from.x) / (to.x - from.x);
            half.push(At { x: center.x, y: from.y + share * (to.y - from.y) });
        }
    }
    half
}

fn closed(points: &[At]) -> String {
    let mut data = String::new();
    for (place, At { x, y }) in points.iter().enumerate() {
        data.push_str(&format!("{}{x:.1} {y:.1}", if place == 0 { "M" } else { "L" }));
    }
    data.push('Z');
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_half_of_every_shape_is_left_and_has_an_area() {
        let center = At { x: 50.0, y: 20.0 };
        for shape in Shape::ALL {
            let half = left_half(&shape.outline(center, 7.0), center);
            assert!(half.len() >= 3, "{shape:?}");
            assert!(half.iter().all(|point| point.x <= center.x + 1e-9), "{shape:?}");
        }
    }
}

//! The few pieces of SVG that the charts are made of, and their axes.
//!
//! Written by hand rather than by a plotting crate: the charts take their colours from the page's
//! style sheet (light, dark and print), their points are links with titles, and their text stays
//! text. Positions are in the units of the view box.

use std::fmt::{self, Display, Write};

/// Text made safe for an element's content or a quoted attribute.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.0.split_inclusive(['&', '<', '>', '"', '\'']) {
            let (plain, special) = match piece.char_indices().next_back() {
                Some((at, '&')) => (&piece[..at], "&amp;"),
                Some((at, '<')) => (&piece[..at], "&lt;"),
                Some((at, '>')) => (&piece[..at], "&gt;"),
                Some((at, '"')) => (&piece[..at], "&quot;"),
                Some((at, '\'')) => (&piece[..at], "&#39;"),
                _ => (piece, ""),
            };
            f.write_str(plain)?;
            f.write_str(special)?;
        }
        Ok(())
    }
}

/// A position, in view box units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct At {
    pub(super) x: f64,
    pub(super) y: f64,
}

pub(super) const fn at(x: f64, y: f64) -> At {
    At { x, y }
}

/// Where a text stands against its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// An area of the chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    pub(super) fn width(&self) -> f64 {
        self.right - self.left
    }

    pub(super) fn height(&self) -> f64 {
        self.bottom - self.top
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        self.left <= other.left
            && other.right <= self.right
            && self.top <= other.top
            && other.bottom <= self.bottom
    }
}

/// A drawing.
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
    label: String,
}

impl Svg {
    /// An empty drawing; `label` is what a screen reader says of it.
    pub(super) fn new(width: f64, height: f64, label: &str) -> Self {
        Self { body: String::new(), width, height, label: label.to_owned() }
    }

    fn push(&mut self, arguments: fmt::Arguments<'_>) {
        self.body.write_fmt(arguments).expect("a string grows");
    }

    pub(super) fn line(&mut self, class: &str, from: At, to: At) {
        let (At { x: x1, y: y1 }, At { x: x2, y: y2 }) = (from, to);
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    pub(super) fn rect(&mut self, class: &str, area: Area) {
        let (x, y, width, height) = (area.left, area.top, area.width().max(0.0), area.height().max(0.0));
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ));
    }

    pub(super) fn circle(&mut self, class: &str, center: At, radius: f64) {
        let At { x, y } = center;
        self.push(format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"/>"));
    }

    /// A path from its data, which is made of numbers and letters only.
    pub(super) fn path(&mut self, class: &str, data: &str) {
        self.push(format_args!("<path class=\"{class}\" d=\"{data}\"/>"));
    }

    /// A line through points; a gap where one is absent.
    pub(super) fn polyline(&mut self, class: &str, points: impl IntoIterator<Item = Option<At>>) {
        let mut data = String::new();
        let mut pen_down = false;
        for point in points {
            if let Some(At { x, y }) = point {
                write!(data, "{}{x:.1} {y:.1}", if pen_down { "L" } else { "M" }).expect("a string grows");
            }
            pen_down = point.is_some();
        }
        if !data.is_empty() {
            self.path(class, &data);
        }
    }

    pub(super) fn text(&mut self, class: &str, position: At, anchor: Anchor, content: &str) {
        let (At { x, y }, anchor, content) = (position, anchor.name(), Escaped(content));
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
        ));
    }

    /// A text that runs upwards.
    pub(super) fn text_upwards(&mut self, class: &str, position: At, content: &str) {
        let (At { x, y }, content) = (position, Escaped(content));
        self.push(format_args!(
            "<text class=\"{class}\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\">{content}</text>"
        ));
    }

    /// What `draw` draws, with a title that shows when pointed at.
    pub(super) fn titled(&mut self, title: &str, draw: impl FnOnce(&mut Self)) {
        self.push(format_args!("<g><title>{}</title>", Escaped(title)));
        draw(self);
        self.push(format_args!("</g>"));
    }

    /// What `draw` draws, as a link within the page.
    pub(super) fn link(&mut self, target: &str, title: &str, draw: impl FnOnce(&mut Self)) {
        self.push(format_args!("<a href=\"#{}\"><title>{}</title>", Escaped(target), Escaped(title)));
        draw(self);
        self.push(format_args!("</a>"));
    }

    pub(super) fn finish(self) -> String {
        let Self { body, width, height, label } = self;
        format!(
            "<div class=\"chart\"><svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">{body}</svg></div>\n",
            Escaped(&label)
        )
    }
}

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Linear,
    Log,
}

/// An axis from values to positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// From zero to a round value at or above `max`.
    pub(super) fn from_zero(max: f64, from: f64, to: f64) -> Self {
        let step = round_step(max.max(1e-9), 5);
        let high = (max.max(1e-9) / step).ceil() * step;
        Self { kind: Kind::Linear, low: 0.0, high, from, to }
    }

    /// Exactly between two values.
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { kind: Kind::Linear, low, high: high.max(low + 1e-9), from, to }
    }

    /// Whole decades around two positive values.
    pub(super) fn decades(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = 10f64.powf(low.max(1e-12).log10().floor());
        let high = 10f64.powf(high.max(1e-12).log10().ceil()).max(low * 10.0);
        Self { kind: Kind::Log, low, high, from, to }
    }

    pub(super) fn position(&self, value: f64) -> f64 {
        let fraction = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Log => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
        };
        self.from + fraction.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values to mark.
    pub(super) fn ticks(&self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let step = round_step(self.high - self.low, 5);
                let first = (self.low / step).ceil();
                let last = (self.high / step + 1e-9).floor();
                (0..=(last - first) as i32).map(|n| (first + f64::from(n)) * step).collect()
            }
            Kind::Log => {
                let decades = (self.high / self.low).log10().round() as i32;
                (0..=decades).map(|n| self.low * 10f64.powi(n)).collect()
            }
        }
    }

    /// Finer marks between those of a logarithmic axis.
    pub(super) fn minor_ticks(&self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => Vec::new(),
            Kind::Log => {
                let decades = self.ticks();
                let within = |decade: &f64| (2..10).map(|n| decade * f64::from(n)).collect::<Vec<_>>();
                decades[..decades.len() - 1].iter().flat_map(within).collect()
            }
        }
    }
}

/// A step of 1, 2 or 5 times a power of ten, about `count` of which make up `span`.
fn round_step(span: f64, count: u32) -> f64 {
    let rough = span / f64::from(count);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_cannot_leave_its_element_or_attribute() {
        let hostile = "</title><script>alert('x')&\"";
        assert_eq!(Escaped(hostile).to_string(), "&lt;/title&gt;&lt;script&gt;alert(&#39;x&#39;)&amp;&quot;");
        assert_eq!(Escaped("µs → 3 × 4").to_string(), "µs → 3 × 4");
        assert_eq!(Escaped("").to_string(), "");
    }

    #[test]
    fn scale_from_zero_ends_at_a_round_value() {
        let scale = Scale::from_zero(612.0, 0.0, 100.0);
        assert_eq!(scale.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(scale.position(0.0), 0.0);
        assert_eq!(scale.position(400.0), 50.0);
    }

    #[test]
    fn scale_of_decades_spans_its_values() {
        let scale = Scale::decades(0.003, 7.2, 100.0, 0.0);
        assert_eq!(scale.ticks().len(), 5);
        assert!(scale.position(0.003) < 100.0 && scale.position(7.2) > 0.0);
        assert_eq!(scale.position(1e-9), 100.0, "below the axis is at its end");
        assert_eq!(Scale::decades(5.0, 5.0, 0.0, 1.0).ticks().len(), 2);
    }

    #[test]
    fn polyline_breaks_where_a_point_is_absent() {
        let mut svg = Svg::new(10.0, 10.0, "test");
        svg.polyline("a", [Some(at(0.0, 0.0)), Some(at(1.0, 1.0)), None, Some(at(2.0, 2.0))]);
        assert!(svg.body.contains("M0.0 0.0L1.0 1.0M2.0 2.0"), "{}", svg.body);
    }
}

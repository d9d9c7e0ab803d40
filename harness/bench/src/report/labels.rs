//! Where labels stand: beside what they name, and over nothing.
//!
//! Greedy: whoever is placed first has the first choice, and the nearest free place is taken. Marks, other labels and
//! leaders are never covered, nor are lines (whiskers, the frontier). Further off than beside its mark a label has a
//! leader to it. What finds no place has no label: pointing at its mark shows all, and so do the tables.
//!
//! The same points give the same places. The reader's font is not known: characters are taken to be as wide as in DejaVu
//! Sans, which is wider than the usual fonts of systems.

use super::svg::{Anchor, Area, At, at};

/// Of a label, as in the style sheet.
const FONT_SIZE: f64 = 11.5;
/// How much wider bold letters are.
const BOLD: f64 = 1.2;
/// Between a label and the next one.
const GAP: f64 = 3.0;
/// How far above the baseline of a label its area begins, and below it ends.
const ASCENT: f64 = 10.0;
const DESCENT: f64 = 3.0;
/// Distances at which a label with a leader is tried.
const LEADERS: [f64; 6] = [24.0, 34.0, 46.0, 60.0, 78.0, 98.0];
/// Half the width of what a leader needs for itself.
const LEADER_ROOM: f64 = 1.0;
const LEADER_STEP: f64 = 2.0;

/// How a label is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Normal,
    Bold,
}

/// A place that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Of the baseline.
    pub(super) at: At,
    pub(super) anchor: Anchor,
    /// From the mark to the label, where it does not stand beside it.
    pub(super) leader: Option<(At, At)>,
}

/// What a label is beside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) center: At,
    /// It covers no more than a square of twice this.
    pub(super) reach: f64,
    /// Ends of its horizontal whisker: a label may also stand beyond these.
    pub(super) left: f64,
    pub(super) right: f64,
}

/// What is on a chart already.
#[derive(Debug)]
pub(super) struct Labels {
    frame: Area,
    taken: Vec<Area>,
    lines: Vec<Area>,
}

impl Labels {
    /// Nothing yet; labels must stay within `frame`.
    pub(super) fn within(frame: Area) -> Self {
        Self { frame, taken: Vec::new(), lines: Vec::new() }
    }

    /// A mark is there, which neither a label nor a leader may cover.
    pub(super) fn take(&mut self, mark: &Mark) {
        let (At { x, y }, reach) = (mark.center, mark.reach);
        self.taken.push(Area { left: x - reach, top: y - reach, right: x + reach, bottom: y + reach });
    }

    /// A line is there, which a leader may cross and a label may not.
    pub(super) fn line(&mut self, area: Area) {
        self.lines.push(area);
    }

    /// The first of `texts`, from the most telling to the shortest, that finds a place near `mark`.
    pub(super) fn beside<'t>(
        &mut self,
        mark: &Mark,
        weight: Weight,
        texts: &'t [String],
    ) -> Option<(Place, &'t str)> {
        texts.iter().find_map(|text| {
            let width = width(text, weight);
            let place = candidates(mark).find(|place| self.is_free(mark, place, width))?;
            self.taken.push(area(place.at, place.anchor, width));
            self.taken.extend(place.leader.into_iter().flat_map(steps));
            Some((place, text.as_str()))
        })
    }

    /// The first of `places` at which `text` covers nothing.
    pub(super) fn first_free(&mut self, places: &[(At, Anchor)], text: &str) -> Option<(At, Anchor)> {
        let width = width(text, Weight::Normal);
        let free = |(at, anchor): &&(At, Anchor)| self.is_clear(&area(*at, *anchor, width));
        let (at, anchor) = places.iter().find(free).copied()?;
        self.taken.push(area(at, anchor, width));
        Some((at, anchor))
    }

    fn is_clear(&self, area: &Area) -> bool {
        self.frame.contains(area) && !self.taken.iter().chain(&self.lines).any(|other| other.overlaps(area))
    }

    fn is_free(&self, mark: &Mark, place: &Place, width: f64) -> bool {
        // A leader begins at its own mark, which is therefore not in its way.
        let own = |other: &&Area| !other.contains(&around(mark.center, 0.1));
        let crosses = |step: &Area| self.taken.iter().filter(own).any(|other| other.overlaps(step));
        self.is_clear(&area(place.at, place.anchor, width))
            && !place.leader.is_some_and(|leader| steps(leader).any(|step| crosses(&step)))
    }
}

/// Beside the mark, or beyond its whisker; above, below, at the corners; then further and further off, with a leader.
fn candidates(mark: &Mark) -> impl Iterator<Item = Place> {
    let Mark { center, reach, left, right } = *mark;
    let near = reach + 4.0;
    let beyond = |end: f64| near.max((end - center.x).abs() + 8.0);
    let sides = [(beyond(right), 4.0, Anchor::Start), (-beyond(left), 4.0, Anchor::End)];
    let above_below = [(0.0, -near - 1.0, Anchor::Middle), (0.0, near + 9.0, Anchor::Middle)];
    let corners = [
        (near - 2.0, -9.0, Anchor::Start),
        (near - 2.0, 16.0, Anchor::Start),
        (2.0 - near, -9.0, Anchor::End),
        (2.0 - near, 16.0, Anchor::End),
    ];
    let adjacent = sides.into_iter().chain(above_below).chain(corners).map(move |(dx, dy, anchor)| Place {
        at: at(center.x + dx, center.y + dy),
        anchor,
        leader: None,
    });
    adjacent.chain(LEADERS.into_iter().flat_map(move |distance| led(center, reach, distance)))
}

/// Places at `distance`, those to the right first.
fn led(center: At, reach: f64, distance: f64) -> impl Iterator<Item = Place> {
    // Of steep and of flat slope; cosine and sine.
    const SLOPES: [(f64, f64); 3] = [(0.8, 0.6), (0.5, 0.866), (0.97, 0.24)];
    let sideways = SLOPES.into_iter().flat_map(|(cos, sin)| {
        [(cos, -sin), (cos, sin), (-cos, -sin), (-cos, sin)]
            .map(|direction| (direction, if direction.0 > 0.0 { Anchor::Start } else { Anchor::End }))
    });
    let upright = [((0.0, -1.0), Anchor::Middle), ((0.0, 1.0), Anchor::Middle)];
    sideways.chain(upright).map(move |((dx, dy), anchor)| {
        let end = at(center.x + dx * distance, center.y + dy * distance);
        let from = at(center.x + dx * (reach - 1.0), center.y + dy * (reach - 1.0));
        // The leader ends short of the letters.
        let text = match anchor {
            Anchor::Start => at(end.x + 3.0, end.y + 4.0),
            Anchor::End => at(end.x - 3.0, end.y + 4.0),
            Anchor::Middle if dy < 0.0 => at(end.x, end.y - DESCENT - 2.0),
            Anchor::Middle => at(end.x, end.y + ASCENT + 2.0),
        };
        Place { at: text, anchor, leader: Some((from, end)) }
    })
}

/// A leader as little areas.
fn steps((from, to): (At, At)) -> impl Iterator<Item = Area> {
    let count = ((to.x - from.x).hypot(to.y - from.y) / LEADER_STEP).ceil().max(1.0);
    (0..=count as u32).map(move |step| {
        let share = f64::from(step) / count;
        around(at(from.x + share * (to.x - from.x), from.y + share * (to.y - from.y)), LEADER_ROOM)
    })
}

fn around(center: At, reach: f64) -> Area {
    let At { x, y } = center;
    Area { left: x - reach, top: y - reach, right: x + reach, bottom: y + reach }
}

/// How wide a text is at most.
fn width(text: &str, weight: Weight) -> f64 {
    let em: f64 = text.chars().map(em).sum();
    let wider = if weight == Weight::Bold { BOLD } else { 1.0 };
    em * wider * FONT_SIZE
}

/// Width of a character, in em: that of the widest of its kind in DejaVu Sans.
const fn em(character: char) -> f64 {
    match character {
        ' ' | ',' | '.' | 'i' | 'j' | 'l' | 'I' | 'J' => 0.32,
        ':' | ';' | '/' | '-' | '(' | ')' | 'f' | 'r' | 't' => 0.42,
        'c' | 'k' | 's' | 'v' | 'x' | 'y' | 'z' => 0.6,
        'm' | 'w' | 'M' | 'W' => 1.0,
        'a'..='z' | '0'..='9' => 0.64,
        'A'..='Z' => 0.79,
        // Signs: = # × ✗ µ …
        _ => 0.85,
    }
}

/// What a label covers, and the gap behind it.
fn area(position: At, anchor: Anchor, width: f64) -> Area {
    let width = width + GAP;
    let left = match anchor {
        Anchor::Start => position.x,
        Anchor::Middle => position.x - width / 2.0,
        Anchor::End => position.x - width,
    };
    Area { left, top: position.y - ASCENT, right: left + width, bottom: position.y + DESCENT }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Area = Area { left: 0.0, top: 0.0, right: 900.0, bottom: 300.0 };

    fn mark(x: f64, y: f64) -> Mark {
        Mark { center: at(x, y), reach: 8.0, left: x, right: x }
    }

    fn place(marks: &[Mark]) -> (Labels, Vec<Option<(Place, String)>>) {
        let mut labels = Labels::within(FRAME);
        marks.iter().for_each(|mark| labels.take(mark));
        let texts = ["acks=all, flush.ms=100: 3,980 lost".to_owned(), "#12".to_owned()];
        let found = marks
            .iter()
            .map(|mark| {
                labels.beside(mark, Weight::Normal, &texts).map(|(place, text)| (place, text.to_owned()))
            })
            .collect();
        (labels, found)
    }

    #[test]
    fn lonely_mark_has_its_label_to_the_right() {
        let (_, found) = place(&[mark(100.0, 100.0)]);
        let (place, text) = found[0].as_ref().unwrap();
        assert_eq!((place.at, place.anchor, place.leader), (at(112.0, 104.0), Anchor::Start, None));
        assert!(text.ends_with("lost"));
    }

    #[test]
    fn labels_of_a_crowd_cover_no_mark_and_no_other_label() {
        // Ten marks within a few units of each other, and some in a column.
        let crowd = (0..10).map(|n| mark(400.0 + f64::from(n % 3) * 4.0, 150.0 + f64::from(n / 3) * 5.0));
        let marks: Vec<Mark> = crowd.chain((0..4).map(|n| mark(600.0, 60.0 + f64::from(n) * 14.0))).collect();
        let (labels, found) = place(&marks);
        let covered =
            |(place, text): &(Place, String)| area(place.at, place.anchor, width(text, Weight::Normal));
        let areas: Vec<Area> = found.iter().flatten().map(covered).collect();
        assert!(areas.len() >= 12, "{} of {} have a label", areas.len(), marks.len());
        for (index, one) in areas.iter().enumerate() {
            assert!(FRAME.contains(one), "{one:?}");
            assert!(!areas[index + 1..].iter().any(|other| other.overlaps(one)), "{one:?}");
            assert!(!labels.taken[..marks.len()].iter().any(|mark| mark.overlaps(one)), "{one:?}");
            // Nor does any leader pass below it, its own aside, which ends before it.
            let leaders = found.iter().flatten().filter_map(|(place, _)| place.leader);
            assert!(
                !leaders.flat_map(steps).any(|step| around(
                    at(f64::midpoint(step.left, step.right), f64::midpoint(step.top, step.bottom)),
                    0.1
                )
                .overlaps(one)),
                "{one:?}"
            );
        }
    }

    /// Measured in a browser with DejaVu Sans at 11.5 px.
    #[test]
    fn estimated_width_is_no_less_than_that_in_a_wide_font_and_not_much_more() {
        for (text, weight, measured) in [
            ("#12", Weight::Normal, 24.3),
            ("#12", Weight::Bold, 25.7),
            ("all, flush 100 ms: 3,980 lost at 20.0 MB/s", Weight::Normal, 235.7),
            ("0 (no ack), flush=1", Weight::Normal, 110.1),
            ("all ×3, flush=10000 or 100 ms", Weight::Normal, 177.3),
            ("✗ broken: all, flush=1: 312 lost at 20.0 MB/s", Weight::Bold, 286.5),
            ("1, no flush: 37.1 k lost at 20.0 MB/s", Weight::Normal, 204.1),
            ("all, no flush (not promised)", Weight::Normal, 155.3),
        ] {
            let estimated = width(text, weight);
            assert!((measured..measured * 1.15).contains(&estimated), "{text}: {estimated} for {measured}");
        }
    }

    #[test]
    fn label_stays_off_lines_and_goes_without_where_there_is_no_place() {
        let mut labels = Labels::within(FRAME);
        let texts = ["label".to_owned()];
        labels.line(Area { left: 105.0, top: 0.0, right: 900.0, bottom: 300.0 });
        let (place, _) = labels.beside(&mark(100.0, 100.0), Weight::Normal, &texts).unwrap();
        assert_eq!(place.anchor, Anchor::End);
        labels.line(FRAME);
        assert_eq!(labels.beside(&mark(100.0, 200.0), Weight::Normal, &texts), None);
        assert_eq!(labels.first_free(&[(at(50.0, 50.0), Anchor::Start)], "x"), None);
    }
}

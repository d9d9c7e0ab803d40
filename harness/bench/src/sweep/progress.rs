//! What a sweep shows while it runs: on a terminal one line that moves, elsewhere one line a cell.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::cell::{Observer, Phase};
use crate::results::text::exact;
use crate::workload::Cell;
use crate::workload::settings::Fault;

/// Between two redrawings of the moving line.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// What a cell takes beside its load, before any has been seen.
const UNSEEN_OVERHEAD: Duration = Duration::from_secs(3);

/// Shows a sweep's progress.
#[derive(Debug)]
pub struct Progress {
    moving: bool,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    total: usize,
    number: usize,
    title: String,
    started: Instant,
    phase: Phase,
    left: Duration,
    /// Acknowledged so far, and when the clock of the load started with how many.
    acked: u64,
    at_start: Option<u64>,
    drawn: Option<Instant>,
    seen: Seen,
}

/// How long cells took so far, by broker and fault.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<(String, String), (Duration, u32)>);

impl Seen {
    pub(super) fn add(&mut self, cell: &Cell, took: Duration) {
        let (sum, count) = self.0.entry(kind(cell)).or_default();
        *sum += took;
        *count += 1;
    }

    /// How long a cell will take: as others of its kind, or its times and a guess.
    pub(super) fn estimate(&self, cell: &Cell) -> Duration {
        match self.0.get(&kind(cell)) {
            Some((sum, count)) => *sum / *count,
            None => {
                let share = if cell.settings.fault == Fault::None { 1.0 } else { 0.5 };
                cell.timing.warm_up + cell.timing.duration.mul_f64(share) + UNSEEN_OVERHEAD
            }
        }
    }
}

fn kind(cell: &Cell) -> (String, String) {
    (cell.broker.clone(), cell.settings.fault.to_string())
}

impl Progress {
    /// Progress of `total` cells on standard error.
    #[must_use]
    pub fn new(total: usize) -> Self {
        let state = State {
            total,
            number: 0,
            title: String::new(),
            started: Instant::now(),
            phase: Phase::Starting,
            left: Duration::ZERO,
            acked: 0,
            at_start: None,
            drawn: None,
            seen: Seen::default(),
        };
        Progress { moving: std::io::stderr().is_terminal(), state: RefCell::new(state) }
    }

    /// The cell `number` (from 1) begins, and `left` come after it.
    pub fn begin<'a>(&self, number: usize, cell: &Cell, left: impl Iterator<Item = &'a Cell>) {
        let mut state = self.state.borrow_mut();
        let left: Duration = left.map(|cell| state.seen.estimate(cell)).sum();
        state.left = left + state.seen.estimate(cell);
        state.number = number;
        state.title = cell.title();
        state.started = Instant::now();
        (state.acked, state.at_start, state.drawn) = (0, None, None);
    }

    /// The cell is over; `outcome` is said of it.
    pub fn end(&self, cell: &Cell, outcome: &str) {
        let mut state = self.state.borrow_mut();
        let took = state.started.elapsed();
        state.seen.add(cell, took);
        let line = format!(
            "[{}/{}] {}: {outcome} ({:.1} s)",
            state.number,
            state.total,
            state.title,
            took.as_secs_f64()
        );
        self.erase();
        eprintln!("{line}");
    }

    fn erase(&self) {
        if self.moving {
            eprint!("\r\x1b[2K");
        }
    }

    fn draw(&self, elapsed: Option<(Duration, Duration)>) {
        let mut state = self.state.borrow_mut();
        if !self.moving || state.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW_INTERVAL) {
            return;
        }
        state.drawn = Some(Instant::now());
        let left = state.left.saturating_sub(state.started.elapsed());
        let load = elapsed.map_or(String::new(), |(elapsed, of)| {
            let begun = state.at_start.unwrap_or(0);
            let rate = (state.acked - begun) as f64 / elapsed.as_secs_f64().max(1e-3);
            format!(
                " {:.1} of {:.0} s, {} records/s, {} acknowledged",
                elapsed.as_secs_f64(),
                of.as_secs_f64(),
                exact(rate as u64),
                exact(state.acked)
            )
        });
        let line = format!(
            "[{}/{}] {}: {}{load}, {} left",
            state.number,
            state.total,
            state.title,
            state.phase.words(),
            shown(left)
        );
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "\r\x1b[2K{line}");
        let _ = out.flush();
    }
}

impl Observer for Progress {
    fn phase(&self, phase: Phase) {
        let mut state = self.state.borrow_mut();
        state.phase = phase;
        state.drawn = None;
        drop(state);
        self.draw(None);
    }

    fn load(&self, acked: u64, elapsed: Duration, of: Duration) {
        let mut state = self.state.borrow_mut();
        state.at_start.get_or_insert(acked);
        state.acked = acked;
        drop(state);
        self.draw(Some((elapsed, of)));
    }
}

/// A duration for a person who waits.
pub(super) fn shown(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3_661, "1 h 01 min")] {
            assert_eq!(shown(Duration::from_secs(seconds)), text);
        }
    }
}

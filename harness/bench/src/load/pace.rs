//! When records should be sent.
//!
//! On an open loop the instants are fixed before the run: record *i* of a producer is due at start + *i* intervals,
//! whatever the broker does. Latency counts from there, so that a stall is charged with every record that it held up,
//! not only with the one that met it. The producers' schedules interleave evenly.

use highwater_checker::Nanos;

/// The schedule of one producer.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    start: Nanos,
    /// Nanoseconds between two records; `None` when saturating.
    interval: Option<f64>,
    /// Offset of the first, so that producers take turns.
    phase: f64,
    next: u64,
}

impl Pace {
    /// The schedule of producer `index` of `producers`, which send `records_per_second` together.
    pub(super) fn new(start: Nanos, records_per_second: Option<f64>, index: u32, producers: u32) -> Self {
        let interval = records_per_second.map(|rate| 1e9 * f64::from(producers) / rate);
        let phase = interval.unwrap_or(0.0) * f64::from(index) / f64::from(producers);
        Pace { start, interval, phase, next: 0 }
    }

    /// When the next record is due; when saturating, always `now`.
    pub(super) fn due(&self, now: Nanos) -> Nanos {
        match self.interval {
            Some(interval) => Nanos(self.start.0 + (self.phase + interval * self.next as f64) as u64),
            None => now,
        }
    }

    /// Goes on to the record after.
    pub(super) fn advance(&mut self) {
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_fixed_before_the_run() {
        let mut pace = Pace::new(Nanos(1_000), Some(1_000.0), 0, 1);
        assert_eq!(pace.due(Nanos(0)), Nanos(1_000));
        pace.advance();
        // Whether the sender is early or hopelessly late.
        assert_eq!(pace.due(Nanos(0)), Nanos(1_001_000));
        assert_eq!(pace.due(Nanos(u64::MAX)), Nanos(1_001_000));
    }

    #[test]
    fn producers_take_turns() {
        let due = |index| Pace::new(Nanos(0), Some(1_000.0), index, 4).due(Nanos(0)).0;
        assert_eq!([due(0), due(1), due(2), due(3)], [0, 1_000_000, 2_000_000, 3_000_000]);
    }

    #[test]
    fn rate_does_not_drift() {
        let mut pace = Pace::new(Nanos(0), Some(30_000.0), 0, 1);
        for _ in 0..300_000 {
            pace.advance();
        }
        assert_eq!(pace.due(Nanos(0)), Nanos(10_000_000_000));
    }

    #[test]
    fn saturating_is_due_now() {
        assert_eq!(Pace::new(Nanos(5), None, 0, 1).due(Nanos(77)), Nanos(77));
    }
}

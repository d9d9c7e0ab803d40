//! Interleaved pairs: a sweep that compares two by two, in the order A B B A.
//!
//! A drift of the machine, however slow, then favours neither side, and each pair gives a ratio of its own. With several
//! brokers each setting compares the first of them with every other; with one broker the first setting is compared with
//! every other that starts as it does (warm or cold) and is offered the same rate. Only cells without a fault are measured,
//! so those of a workload with a fault are left out.
//!
//! ```text
//!   pair 1   A B   A C        comparisons side by side, so that a sweep that was interrupted has seen each equally often
//!   pair 2   B A   C A
//!   pair 3   A B   A C
//! ```

use std::fmt;

use super::grid::{CellSettings, product};
use super::settings::Fault;
use super::{Cell, Problems, Repeats, TRIALS_MAX, Timing, Workload};
use crate::results::Pairs;
use crate::results::text::exact;

/// Where a cell stands in interleaved pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairPlace {
    /// Which comparison of the sweep, from 0.
    pub comparison: u32,
    /// Which of its pairs, from 0.
    pub number: u32,
    /// Which side of the pair, whichever of them ran first.
    pub side: Side,
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is compared with: the first broker, or the first setting.
    A,
    /// What is compared.
    B,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::A => "A",
            Side::B => "B",
        })
    }
}

/// A broker under a setting.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Contender<'a> {
    broker: &'a str,
    settings: CellSettings,
    timing: Timing,
}

impl Workload {
    /// The cells of `pairs.pairs` interleaved pairs of everything that this workload compares, in the order in which they
    /// run; with `pairs.noise` also of each A with itself. Empty if there is nothing to compare.
    ///
    /// Fails where there would be more than [`TRIALS_MAX`].
    pub fn in_pairs(&self, brokers: &[String], pairs: Pairs) -> Result<Vec<Cell>, Problems> {
        let once: Vec<Repeats> = self.grids.iter().map(|grid| grid.repeats.at_most(1)).collect();
        self.check_size(brokers, &once)?;
        let comparisons = self.comparisons(brokers, pairs.noise);
        let total = 2 * comparisons.len() as u64 * u64::from(pairs.pairs);
        if total > TRIALS_MAX {
            let message = format!(
                "{} comparisons in {} pairs would be {} trials; a sweep has at most {}",
                exact(comparisons.len() as u64),
                exact(pairs.pairs.into()),
                exact(total),
                exact(TRIALS_MAX)
            );
            return Err(Problems { path: self.path.clone(), problems: vec![self.problem("grid", message)] });
        }
        let mut cells = Vec::new();
        for number in 0..pairs.pairs {
            for (comparison, sides) in (0..).zip(&comparisons) {
                let [a, b] = self.pair(sides, comparison, number, pairs.pairs);
                cells.extend(if number.is_multiple_of(2) { [a, b] } else { [b, a] });
            }
        }
        Ok(cells)
    }

    /// What is compared, A first.
    fn comparisons<'a>(&self, brokers: &'a [String], noise: bool) -> Vec<[Contender<'a>; 2]> {
        let mut settings: Vec<(CellSettings, Timing)> = Vec::new();
        for grid in self.grids.iter().filter(|grid| grid.repeats.of(Fault::None) > 0) {
            for of in product(grid).into_iter().filter(|of| of.fault == Fault::None) {
                if !settings.contains(&(of, grid.timing)) {
                    settings.push((of, grid.timing));
                }
            }
        }
        let mut comparisons = Vec::new();
        let mut seen: Vec<(CellSettings, Timing)> = Vec::new();
        for (of, timing) in settings {
            let contender = |broker: &'a String| Contender { broker, settings: of, timing };
            let Some((first, others)) = brokers.split_first() else { break };
            let a = contender(first);
            let alike = seen.iter().find(|(known, _)| known.start == of.start && known.rate == of.rate);
            if let (true, Some(&(settings, timing))) = (others.is_empty(), alike) {
                comparisons.push([Contender { broker: first, settings, timing }, a]);
            } else {
                if noise {
                    comparisons.push([a, a]);
                }
                comparisons.extend(others.iter().map(|other| [a, contender(other)]));
                seen.push((of, timing));
            }
        }
        comparisons
    }

    /// Both sides of a pair, A first. Both have the same repeat, which no other pair has, and so the same seed where they
    /// differ in the broker alone; a cell that is compared with itself has two repeats, since a seed names a trial.
    fn pair(&self, sides: &[Contender<'_>; 2], comparison: u32, number: u32, pairs: u32) -> [Cell; 2] {
        let first = 2 * pairs * comparison;
        let [a, b] = sides;
        let repeats = if a == b {
            [first + 2 * number, first + 2 * number + 1]
        } else {
            [first + number, first + number]
        };
        let cell = |of: &Contender<'_>, repeat: u32, side: Side| Cell {
            broker: of.broker.to_owned(),
            settings: of.settings,
            timing: of.timing,
            repeat,
            seed: self.seed.child(&format!("{} {:?} {repeat}", of.settings, of.timing)),
            pair: Some(PairPlace { comparison, number, side }),
        };
        [cell(a, repeats[0], Side::A), cell(b, repeats[1], Side::B)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;
    use crate::workload::CellId;
    use crate::workload::parse;

    fn pairs(grid: &str, brokers: &[&str], pairs: u32, noise: bool) -> Vec<Cell> {
        let text = format!("name = 'w'\ndescription = 'd'\nseed = 1\n{grid}");
        let brokers: Vec<String> = brokers.iter().map(|&name| name.to_owned()).collect();
        let workload = parse::workload(Path::new("w.toml"), &text).unwrap();
        workload.in_pairs(&brokers, Pairs { pairs, noise }).unwrap()
    }

    /// Broker, acks, pair and side of each cell.
    fn order(cells: &[Cell]) -> Vec<String> {
        let place = |cell: &Cell| cell.pair.unwrap();
        cells
            .iter()
            .map(|cell| {
                format!("{} {} {}{}", cell.broker, cell.settings.acks, place(cell).number, place(cell).side)
            })
            .collect()
    }

    #[test]
    fn brokers_are_compared_with_the_first_of_them_under_each_setting() {
        let cells = pairs("[[grid]]\nacks = [1, 'all']", &["a", "b"], 2, false);
        assert_eq!(
            order(&cells),
            ["a 1 0A", "b 1 0B", "a all 0A", "b all 0B", "b 1 1B", "a 1 1A", "b all 1B", "a all 1A"]
        );
        assert_eq!(cells[0].seed, cells[1].seed);
        let three = pairs("[[grid]]", &["a", "b", "c"], 1, false);
        assert_eq!(order(&three), ["a all 0A", "b all 0B", "a all 0A", "c all 0B"]);
    }

    #[test]
    fn settings_of_one_broker_are_compared_with_the_first_of_the_same_start_and_rate() {
        let cells = pairs(
            "[[grid]]\nacks = [1, 'all']\nstart = ['warm', 'cold']\nrate = ['saturating', '5 MB/s']",
            &["a"],
            1,
            false,
        );
        assert_eq!(cells.len(), 2 * 4);
        for pair in cells.chunks(2) {
            assert_eq!(pair[0].settings.start, pair[1].settings.start);
            assert_eq!(pair[0].settings.rate, pair[1].settings.rate);
            assert_ne!(pair[0].settings.acks, pair[1].settings.acks);
        }
    }

    #[test]
    fn noise_is_a_cell_with_itself_and_every_trial_has_an_id_of_its_own() {
        let cells = pairs("[[grid]]\nacks = [1, 'all']", &["a", "b", "c"], 3, true);
        assert_eq!(cells.len(), 2 * 3 * 2 * 3);
        let same = cells.chunks(2).filter(|pair| pair[0].broker == pair[1].broker).count();
        assert_eq!(same, 2 * 3);
        let ids: HashSet<CellId> = cells.iter().map(Cell::id).collect();
        assert_eq!(ids.len(), cells.len());
        assert_eq!(
            order(&pairs("[[grid]]", &["a"], 2, true)),
            ["a all 0A", "a all 0B", "a all 1B", "a all 1A"]
        );
    }

    #[test]
    fn faults_are_not_measured_and_one_setting_of_one_broker_compares_with_nothing() {
        assert_eq!(pairs("[[grid]]\nfault = 'kill'", &["a", "b"], 6, true), []);
        assert_eq!(pairs("[[grid]]", &["a"], 6, false), []);
        let twice = pairs("[[grid]]\n[[grid]]\nfault = ['none', 'kill']", &["a", "b"], 1, false);
        assert_eq!(twice.len(), 2);
    }

    #[test]
    fn more_trials_than_a_sweep_has_are_refused() {
        let text = "name = 'w'\ndescription = 'd'\nseed = 1\n[[grid]]\nacks = [0, 1]";
        let workload = parse::workload(Path::new("w.toml"), text).unwrap();
        let many = Pairs { pairs: 50_001, noise: false };
        let shown = workload.in_pairs(&["a".to_owned()], many).unwrap_err().to_string();
        assert!(shown.contains("1 comparisons in 50,001 pairs would be 100,002 trials"), "{shown}");
    }
}

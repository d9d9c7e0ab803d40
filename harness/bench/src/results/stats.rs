//! The little statistics that the report needs, without an average in sight.

use std::fmt;

/// Lowest, median and highest of some trials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The lowest.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The highest.
    pub high: f64,
    /// How many trials.
    pub trials: usize,
}

impl Spread {
    /// Of some values; absent if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let trials = sorted.len();
        let median = f64::midpoint(sorted[(trials - 1) / 2], sorted[trials / 2]);
        Some(Self { low, median, high, trials })
    }
}

/// An upper bound, with 95 % confidence, on the probability of an event that `trials` trials never
/// showed: the rule of three. Absent up to 3 trials, where it says nothing.
#[must_use]
pub fn rule_of_three(trials: usize) -> Option<f64> {
    (trials > 3).then(|| 3.0 / trials as f64)
}

/// So many pairs it takes for the interval to mean what it says: with fewer, pairs that agree by chance (one time in two
/// with two of them) leave no resample on the other side. With six that is one time in 32.
pub const FEWEST_PAIRS: usize = 6;

/// A ratio with a bootstrap confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median of the pairs' ratios, B over A.
    pub median: f64,
    /// 2.5th percentile of resampled medians.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
    /// How many pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Whether there are enough pairs for the interval to tell anything.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.pairs >= FEWEST_PAIRS
    }

    /// Whether the interval leaves no doubt that A and B differ.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.tells() && (self.low > 1.0 || self.high < 1.0)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.median, self.low, self.high)
    }
}

/// B over A, from interleaved pairs. Pairs with a zero are left out; absent if none is left. The
/// resampling is seeded by a constant: the same pairs give the same interval.
#[must_use]
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Ratio> {
    const RESAMPLES: usize = 4_000;
    let ratios: Vec<f64> = pairs.iter().filter(|(a, b)| *a > 0.0 && *b > 0.0).map(|(a, b)| b / a).collect();
    let median = Spread::of(ratios.iter().copied())?.median;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let sample = (0..ratios.len()).map(|_| ratios[(next(&mut state) % ratios.len() as u64) as usize]);
            Spread::of(sample).map(|spread| spread.median)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let (low, high) = (medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40]);
    Some(Ratio { median, low, high, pairs: ratios.len() })
}

/// xorshift64*: enough for a bootstrap.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_even_count_has_the_middle_as_median() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high, spread.trials), (1.0, 2.5, 4.0, 4));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn rule_of_three_says_nothing_of_few_trials() {
        assert_eq!(rule_of_three(3), None);
        assert_eq!(rule_of_three(60), Some(0.05));
    }

    #[test]
    fn ratio_interval_holds_the_median_and_tells_noise_from_difference() {
        let noise: Vec<(f64, f64)> =
            (0..20).map(|n| (100.0, 100.0 + f64::from((n * 7) % 11) - 5.0)).collect();
        let same = ratio(&noise).unwrap();
        assert!(same.low <= same.median && same.median <= same.high);
        assert!(!same.is_significant(), "{same}");
        let faster: Vec<(f64, f64)> = noise.iter().map(|(a, b)| (*a, b * 1.5)).collect();
        assert!(ratio(&faster).unwrap().is_significant());
        assert_eq!(ratio(&faster), ratio(&faster), "the same pairs give the same interval");
    }

    #[test]
    fn ratio_of_few_pairs_tells_nothing_however_well_they_agree() {
        let pairs = |count: usize| ratio(&vec![(100.0, 200.0); count]).unwrap();
        assert!(!pairs(2).is_significant() && !pairs(FEWEST_PAIRS - 1).tells());
        assert!(pairs(FEWEST_PAIRS).is_significant());
    }

    #[test]
    fn ratio_without_usable_pairs_is_absent() {
        assert_eq!(ratio(&[]), None);
        assert_eq!(ratio(&[(0.0, 1.0)]), None);
    }
}

//! Seeds: how one number in a workload decides everything that is left to chance.
//!
//! A child's seed depends on its parent's and on a label, never on an order of drawing, so that one cell can be run
//! again without the cells before it. Both algorithms are fixed for good: a seed in an old report must still mean the
//! same run.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use twox_hash::XxHash3_64;

/// A 64-bit seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of the part called `label`.
    #[must_use]
    pub fn child(self, label: &str) -> Seed {
        Seed(XxHash3_64::oneshot_with_seed(self.0, label.as_bytes()))
    }

    /// A generator that starts from this seed.
    #[must_use]
    pub fn rng(self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.0)
    }

    /// The first number drawn from this seed, uniform in [0, 1).
    #[must_use]
    pub fn unit(self) -> f64 {
        // 53 bits: every value is exact in a float, and 1 is never reached.
        (self.rng().next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_depend_on_parent_and_label_only() {
        assert_eq!(Seed(7).child("a"), Seed(7).child("a"));
        assert_ne!(Seed(7).child("a"), Seed(7).child("b"));
        assert_ne!(Seed(7).child("a"), Seed(8).child("a"));
    }

    #[test]
    fn seeds_mean_the_same_for_good() {
        // Golden values: if these change, no old report can be run again.
        assert_eq!(Seed(1).child("durability").to_string(), "0xfad3805691bcd2c2");
        assert_eq!((Seed(1).unit() * 1e6) as u64, 402_485);
    }

    #[test]
    fn unit_is_spread_over_the_interval() {
        let draws: Vec<f64> = (0..1_000).map(|seed| Seed(seed).unit()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 1_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}

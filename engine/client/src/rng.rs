//! Random numbers for jitter and for the sticky partitioner, from the seed that a core is given: the same seed and the
//! same inputs make the same client.

use std::time::Duration;

/// SplitMix64: small, fast, good enough to spread load; never for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * bound as u128;
        usize::try_from(wide >> 64).expect("below the bound, which is a usize")
    }
}

/// Kafka's exponential back-off: doubles from `initial` with each failure up to `max`, spread by 20 % either way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The wait after `failures` (≥ 1) in a row.
    pub(crate) fn after(self, failures: u32, rng: &mut Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.initial.saturating_mul(1 << doublings).min(self.max.max(self.initial));
        let spread = u32::try_from(rng.below(401)).unwrap_or(0) + 800;
        wait.saturating_mul(spread) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum_within_a_fifth() {
        let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1) };
        let mut rng = Rng::new(7);
        for (failures, middle) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000)] {
            let wait = backoff.after(failures, &mut rng).as_millis();
            assert!((middle * 8 / 10..=middle * 12 / 10).contains(&wait), "{failures}: {wait}");
        }
    }
}

//! The one source of chance of a world.
//!
//! Every draw is folded into a running value that goes into the trace hash, so that two runs which differ in as much
//! as one draw do not have the same hash.

use std::time::Duration;

use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) struct Chance {
    source: ChaCha8Rng,
    folded: u64,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Chance { source: ChaCha8Rng::seed_from_u64(seed), folded: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let drawn = self.source.next_u64();
        self.folded = self.folded.rotate_left(7) ^ drawn;
        drawn
    }

    /// All draws so far, folded.
    pub(crate) fn folded(&self) -> u64 {
        self.folded
    }

    /// Uniform in `0..bound`, 0 for an empty range.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// An index of a list of `len` elements, which is not empty.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Uniform in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high.saturating_sub(low)).saturating_add(1))
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// True in `per_mille` of 1,000 cases. Draws nothing when the answer is certain.
    pub(crate) fn per_mille(&mut self, per_mille: u32) -> bool {
        match per_mille {
            0 => false,
            1000.. => true,
            _ => self.below(1000) < u64::from(per_mille),
        }
    }

    pub(crate) fn duration_between(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.between(nanos(low), nanos(high)))
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        seed
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }
}

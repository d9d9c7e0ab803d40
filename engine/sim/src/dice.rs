//! A generator of the simulator's own, so that the schedule does not change with the draws of the world.

use std::cell::Cell;
use std::time::Duration;

/// Numbers that follow from a seed.
#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    /// A generator for one purpose of a seed; those of other purposes give other numbers.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        Dice(Cell::new(seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95)))
    }

    /// Any number (SplitMix64).
    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is above 0.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// From `least` to `most`, both included.
    pub(crate) fn between(&self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Up to `micros` microseconds.
    pub(crate) fn micros(&self, micros: u64) -> Duration {
        Duration::from_micros(self.below(micros + 1))
    }

    /// Yes in one of `n` cases.
    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the choices.
    pub(crate) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).expect("an index")]
    }
}

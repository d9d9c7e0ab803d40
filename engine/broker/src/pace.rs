//! Long loops that let others have their turn.
//!
//! A task runs until it waits. A request may name a quarter of a million things, and reading or describing each may need
//! no wait at all: a shard would serve nobody else meanwhile.

use highwater_io::Io;

/// So many steps of a loop take some tens of microseconds.
const STEPS_A_TURN: usize = 128;

/// Counts the steps of one loop.
pub(crate) struct Pace {
    io: Io,
    steps: usize,
}

impl Pace {
    pub(crate) fn new(io: &Io) -> Self {
        Pace { io: io.clone(), steps: 0 }
    }

    /// To be awaited in each step: now and then, everything else that is ready runs first.
    pub(crate) async fn step(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_A_TURN) {
            self.io.yield_now().await;
        }
    }
}

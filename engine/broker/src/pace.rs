//! Long loops that let others have their turn.
//!
//! A task runs until it waits. A request may name a quarter of a million things, and reading or describing each may need
//! no wait at all: a shard would serve nobody else meanwhile ([`Pace`]). Of what a request carries a few kilobytes may become
//! megabytes to look at, and a crowd may send such requests at once ([`HeavySteps`]).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::sync::Semaphore;

/// So many steps of a loop take some tens of microseconds.
const STEPS_A_TURN: usize = 128;

/// So many bytes are looked at in the time of a step.
const STEP_BYTES: usize = 8 << 10;

/// Heavy steps of all tasks of a shard together take this long before everything else has a turn, and one step more.
const HEAVY_SLICE: Duration = Duration::from_millis(1);

/// As many heavy steps do, however short they are.
const HEAVY_STEPS_A_TURN: usize = 16;

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
        self.steps(1).await;
    }

    /// As [`step`](Self::step), for one that looks at so many bytes.
    pub(crate) async fn step_of(&mut self, bytes: usize) {
        self.steps(1 + bytes / STEP_BYTES).await;
    }

    async fn steps(&mut self, steps: usize) {
        self.steps += steps;
        if self.steps >= STEPS_A_TURN {
            self.steps = 0;
            self.io.yield_now().await;
        }
    }
}

/// Steps of which each may take as long as thousands of others, by what a peer sends: a batch of a few kilobytes that becomes
/// megabytes. Whoever takes one waits in line when others have taken their time, and everything else that is ready runs in
/// between, however many tasks want one.
pub(crate) struct HeavySteps {
    line: Semaphore,
    taken: Cell<Duration>,
    steps: Cell<usize>,
}

impl HeavySteps {
    pub(crate) fn new() -> Self {
        HeavySteps { line: Semaphore::new(1), taken: Cell::default(), steps: Cell::default() }
    }

    /// Awaits `work`, whose first poll is the heavy step.
    pub(crate) async fn first_poll<T>(&self, io: &Io, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let place = self.line.acquire(1).await;
        if self.taken.get() >= HEAVY_SLICE || self.steps.get() >= HEAVY_STEPS_A_TURN {
            io.yield_now().await;
            self.taken.set(Duration::ZERO);
            self.steps.set(0);
        }
        let mut place = Some(place);
        poll_fn(|cx| {
            let begun = place.is_some().then(|| io.now());
            let polled = work.as_mut().poll(cx);
            if let Some(begun) = begun {
                self.count(io.now() - begun);
                place = None;
            }
            polled
        })
        .await
    }

    fn count(&self, took: Duration) {
        self.taken.set(self.taken.get() + took);
        self.steps.set(self.steps.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use highwater_io::sim;

    use super::*;

    /// How often something else runs while `tasks` tasks take so many heavy steps each, of this duration.
    async fn turns_of_others(io: Io, tasks: usize, steps: usize, duration: Duration) -> usize {
        let heavy = Rc::new(HeavySteps::new());
        let left = Rc::new(Cell::new(tasks));
        for _ in 0..tasks {
            let (heavy, io_of_task, left) = (Rc::clone(&heavy), io.clone(), Rc::clone(&left));
            let work = async move {
                for _ in 0..steps {
                    // The clock stands still while a task runs here.
                    let step = async { heavy.taken.set(heavy.taken.get() + duration) };
                    heavy.first_poll(&io_of_task, step).await;
                }
                left.set(left.get() - 1);
            };
            io.spawn(work).detach();
        }
        let mut turns = 0;
        while left.get() > 0 {
            io.yield_now().await;
            turns += 1;
        }
        turns
    }

    #[test]
    fn others_have_a_turn_after_each_heavy_step_however_many_tasks_take_them() {
        sim::run(1, |io| async move {
            for (tasks, steps) in [(1, 40), (40, 1), (8, 5)] {
                let turns = turns_of_others(io.clone(), tasks, steps, 2 * HEAVY_SLICE).await;
                assert!(turns >= 30, "{turns} turns beside {tasks} tasks of {steps} steps");
            }
        });
    }

    #[test]
    fn short_steps_follow_each_other() {
        sim::run(1, |io| async move {
            let turns = turns_of_others(io, 1, 10 * HEAVY_STEPS_A_TURN, Duration::ZERO).await;
            assert!((9..40).contains(&turns), "{turns} turns beside 160 steps");
        });
    }
}

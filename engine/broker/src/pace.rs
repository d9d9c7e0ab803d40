//! Long loops that let others have their turn.
//!
//! A task runs until it waits. A request may name a quarter of a million things, and reading or describing each may need
//! no wait at all: a shard would serve nobody else meanwhile ([`Pace`]). Of what a request carries a few kilobytes may become
//! megabytes to look at, and a crowd may send such requests at once ([`HeavySteps`]).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
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

    /// To be awaited in each step that is as long as so many.
    pub(crate) async fn steps(&mut self, steps: usize) {
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
        match self.step(io, work.as_mut()).await {
            Poll::Ready(output) => output,
            Poll::Pending => {
                wake().await;
                work.await
            }
        }
    }

    /// Awaits `work`, any poll of which may be a heavy step.
    pub(crate) async fn each_poll<T>(&self, io: &Io, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Poll::Ready(output) = self.step(io, work.as_mut()).await {
                return output;
            }
            wake().await;
        }
    }

    /// Polls `work` once, when its turn has come.
    async fn step<T>(&self, io: &Io, mut work: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        let _place = self.line.acquire(1).await;
        if self.taken.get() >= HEAVY_SLICE || self.steps.get() >= HEAVY_STEPS_A_TURN {
            io.yield_now().await;
            self.taken.set(Duration::ZERO);
            self.steps.set(0);
        }
        let begun = io.now();
        let polled = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        self.taken.set(self.taken.get() + (io.now() - begun));
        self.steps.set(self.steps.get() + 1);
        polled
    }
}

/// Waits until the task is woken, by whatever it polled before.
async fn wake() {
    let mut was_polled = false;
    poll_fn(|_| if std::mem::replace(&mut was_polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use highwater_io::sim;
    use highwater_io::sync::Watch;

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
        turns_until_none_is(&left, &io).await
    }

    async fn turns_until_none_is(left: &Cell<usize>, io: &Io) -> usize {
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

    /// Of a search in what is on the device the step that takes long comes after a wait.
    #[test]
    fn others_have_a_turn_after_each_heavy_step_whatever_it_waited_for_before() {
        sim::run(1, |io| async move {
            let heavy = Rc::new(HeavySteps::new());
            let (left, waiting) = (Rc::new(Cell::new(40)), Rc::new(Cell::new(0)));
            let arrived = Rc::new(Watch::new(false));
            for _ in 0..40 {
                let (heavy, io_of_task, arrived) = (Rc::clone(&heavy), io.clone(), Rc::clone(&arrived));
                let (left, waiting) = (Rc::clone(&left), Rc::clone(&waiting));
                let task = async move {
                    let search = async {
                        waiting.set(waiting.get() + 1);
                        arrived.wait_for(|&arrived| arrived.then_some(())).await;
                        heavy.taken.set(heavy.taken.get() + 2 * HEAVY_SLICE);
                    };
                    heavy.each_poll(&io_of_task, search).await;
                    left.set(left.get() - 1);
                };
                io.spawn(task).detach();
            }
            while waiting.get() < 40 {
                io.yield_now().await;
            }
            arrived.set(true);
            let turns = turns_until_none_is(&left, &io).await;
            assert!(turns >= 30, "{turns} turns beside 40 tasks");
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

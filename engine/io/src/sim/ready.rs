//! Tasks that are ready, of all shards of all nodes, and the choice among them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_task::Runnable;

use super::kernel::ProcessId;
use super::rng::Chance;
use crate::exec::{Place, ReadySink};

pub(crate) struct Ready {
    pub(crate) process: ProcessId,
    pub(crate) shard: usize,
    pub(crate) runnable: Runnable,
}

impl Ready {
    fn home(&self) -> (ProcessId, usize) {
        (self.process, self.shard)
    }
}

/// Shared with the wakers, which do not know that there is only one thread.
#[derive(Default)]
pub(crate) struct ReadyList {
    tasks: Mutex<Vec<Ready>>,
}

impl ReadyList {
    fn lock(&self) -> MutexGuard<'_, Vec<Ready>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the tasks that match.
    pub(crate) fn take(&self, matches: impl Fn(&Ready) -> bool) -> Vec<Ready> {
        self.lock().extract_if(.., |ready| matches(ready)).collect()
    }

    pub(crate) fn put_back(&self, tasks: Vec<Ready>) {
        self.lock().extend(tasks);
    }

    /// Takes the one to run next, and tells how many there were.
    pub(crate) fn choose(&self, order: &mut Order, chance: &mut Chance) -> Option<(Ready, usize)> {
        let mut tasks = self.lock();
        let count = tasks.len();
        (count > 0).then(|| {
            let index = order.next(&tasks, chance);
            (tasks.remove(index), count)
        })
    }
}

/// Mostly random, with stretches of first come, first served, in which long chains get on, and stretches in which one
/// shard does not get on at all while another can.
#[derive(Default)]
pub(crate) struct Order {
    in_turn: u64,
    shunned: Option<(ProcessId, usize)>,
    shunned_for: u64,
}

impl Order {
    fn next(&mut self, tasks: &[Ready], chance: &mut Chance) -> usize {
        if tasks.len() == 1 {
            return 0;
        }
        self.change_mood(tasks, chance);
        let welcome: Vec<usize> =
            (0..tasks.len()).filter(|&index| self.shunned != Some(tasks[index].home())).collect();
        match (welcome.as_slice(), self.in_turn > 0) {
            ([], true) => 0,
            ([], false) => chance.index(tasks.len()),
            ([first, ..], true) => *first,
            (welcome, false) => welcome[chance.index(welcome.len())],
        }
    }

    fn change_mood(&mut self, tasks: &[Ready], chance: &mut Chance) {
        self.in_turn = self.in_turn.saturating_sub(1);
        self.shunned_for = self.shunned_for.saturating_sub(1);
        if self.shunned_for == 0 {
            self.shunned = None;
        }
        match chance.below(1000) {
            0..30 if self.in_turn == 0 => self.in_turn = chance.between(4, 64),
            30..40 if self.shunned.is_none() => {
                self.shunned = Some(tasks[chance.index(tasks.len())].home());
                self.shunned_for = chance.between(10, 500);
            }
            _ => {}
        }
    }
}

/// Where the tasks of one shard go.
pub(crate) struct ShardSink {
    pub(crate) list: Arc<ReadyList>,
    pub(crate) process: ProcessId,
    pub(crate) shard: usize,
}

impl ReadySink for ShardSink {
    fn push(&self, runnable: Runnable, _place: Place) {
        self.list.lock().push(Ready { process: self.process, shard: self.shard, runnable });
    }
}

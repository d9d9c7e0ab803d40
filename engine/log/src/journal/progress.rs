//! How far a journal has come, and who waits for it.
//!
//! ```text
//!   accepted ≥ written ≥ durable          (sequences of groups)
//!      │          │         └ flushed: survives power loss; acks with flush.messages=1
//!      │          └ the write completed: survives a killed process
//!      └ has offsets and a place in a group
//! ```
//!
//! A failure latches: from then on nobody is told of progress, whatever the kernel says later (rule 7).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::error::StorageFailure;

/// Which of the two marks somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Written,
    Durable,
}

/// Lists of wakers that are kept for later groups.
const SPARE_LISTS: usize = 4;

/// How far one mark has come, and who waits for it to come further. A waiter keeps its place in its group's list, and
/// lists are used again: a group that comes and goes takes no memory from the allocator.
#[derive(Default)]
struct Line {
    through: u64,
    /// Those who wait for the group after `through`, for the one after that, and so on.
    waiting: VecDeque<Vec<Option<Waker>>>,
    spare: Vec<Vec<Option<Waker>>>,
}

impl Line {
    /// The list of those who wait for `sequence`, which is above the mark.
    fn list(&mut self, sequence: u64) -> &mut Vec<Option<Waker>> {
        let at = usize::try_from(sequence - self.through - 1).expect("groups that are waited for are few");
        while self.waiting.len() <= at {
            self.waiting.push_back(self.spare.pop().unwrap_or_default());
        }
        &mut self.waiting[at]
    }

    /// Takes the oldest list if the mark may pass its group.
    fn pass_one(&mut self, through: u64) -> Option<Vec<Option<Waker>>> {
        if self.through >= through {
            return None;
        }
        let Some(list) = self.waiting.pop_front() else {
            self.through = through;
            return None;
        };
        self.through += 1;
        Some(list)
    }

    fn keep(&mut self, list: Vec<Option<Waker>>) {
        if self.spare.len() < SPARE_LISTS {
            self.spare.push(list);
        }
    }
}

#[derive(Default)]
struct State {
    written: Line,
    durable: Line,
    failure: Option<StorageFailure>,
    /// Those who wait for a failure.
    failing: Vec<Waker>,
}

impl State {
    fn line(&mut self, mark: Mark) -> &mut Line {
        match mark {
            Mark::Written => &mut self.written,
            Mark::Durable => &mut self.durable,
        }
    }

    fn reached(&self, mark: Mark) -> u64 {
        match mark {
            Mark::Written => self.written.through,
            Mark::Durable => self.durable.through,
        }
    }
}

/// Marks of one journal.
#[derive(Default)]
pub(crate) struct Progress {
    state: RefCell<State>,
}

impl Progress {
    pub(crate) fn through(&self, mark: Mark) -> u64 {
        self.state.borrow().reached(mark)
    }

    pub(crate) fn failure(&self) -> Option<StorageFailure> {
        self.state.borrow().failure.clone()
    }

    /// Raises a mark and wakes those it satisfies. Without effect after a failure.
    ///
    /// # Panics
    /// If a mark would go back, or what is durable would pass what is written: an ack would be a lie.
    pub(crate) fn advance(&self, mark: Mark, sequence: u64) {
        {
            let state = self.state.borrow();
            if state.failure.is_some() {
                return;
            }
            assert!(sequence >= state.reached(mark), "{mark:?} goes back to {sequence}");
            let durable = mark == Mark::Durable;
            assert!(!durable || sequence <= state.written.through, "durable {sequence} beyond written");
        }
        loop {
            // Waking may end a task that waits here as well: not while the lists are borrowed.
            let Some(mut list) = self.state.borrow_mut().line(mark).pass_one(sequence) else { return };
            list.drain(..).flatten().for_each(Waker::wake);
            self.state.borrow_mut().line(mark).keep(list);
        }
    }

    /// Latches the first failure and wakes everyone.
    pub(crate) fn fail(&self, failure: StorageFailure) {
        let woken = {
            let mut state = self.state.borrow_mut();
            state.failure.get_or_insert(failure);
            let lists =
                [std::mem::take(&mut state.written.waiting), std::mem::take(&mut state.durable.waiting)];
            (lists, std::mem::take(&mut state.failing))
        };
        let (woken, failing) = woken;
        failing.into_iter().for_each(Waker::wake);
        woken.into_iter().flatten().flatten().flatten().for_each(Waker::wake);
    }

    /// Waits until there is a failure.
    pub(crate) async fn wait_for_failure(&self) -> StorageFailure {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(failure) = &state.failure {
                return Poll::Ready(failure.clone());
            }
            if !state.failing.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.failing.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until `mark` has reached `sequence`. What had reached it before a failure counts as reached.
    pub(crate) async fn wait(&self, mark: Mark, sequence: u64) -> Result<(), StorageFailure> {
        let mut registration = Registration { progress: self, mark, sequence, place: None };
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.reached(mark) >= sequence {
                registration.place = None;
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = &state.failure {
                registration.place = None;
                return Poll::Ready(Err(failure.clone()));
            }
            let list = state.line(mark).list(sequence);
            match registration.place {
                Some(place) => list[place] = Some(cx.waker().clone()),
                None => {
                    registration.place = Some(list.len());
                    list.push(Some(cx.waker().clone()));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A place in the list of a group that is not reached yet.
struct Registration<'a> {
    progress: &'a Progress,
    mark: Mark,
    sequence: u64,
    place: Option<usize>,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let left = {
            let mut state = self.progress.state.borrow_mut();
            // The list goes when its group is passed, or with a failure.
            if state.failure.is_some() || state.reached(self.mark) >= self.sequence {
                return;
            }
            state.line(self.mark).list(self.sequence)[place].take()
        };
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn failure() -> StorageFailure {
        StorageFailure { cause: "fdatasync /d/journal-0: EIO".into() }
    }

    #[test]
    fn waiter_is_served_when_its_mark_arrives() {
        let progress = Progress::default();
        let mut durable = pin!(progress.wait(Mark::Durable, 2));
        assert!(poll_once(durable.as_mut()).is_pending());
        progress.advance(Mark::Written, 3);
        assert!(poll_once(durable.as_mut()).is_pending(), "written is not durable");
        progress.advance(Mark::Durable, 1);
        assert!(poll_once(durable.as_mut()).is_pending());
        progress.advance(Mark::Durable, 2);
        assert!(matches!(poll_once(durable), Poll::Ready(Ok(()))));
    }

    #[test]
    fn nothing_completes_after_a_failure() {
        let progress = Progress::default();
        progress.advance(Mark::Written, 2);
        progress.advance(Mark::Durable, 1);
        progress.fail(failure());
        progress.advance(Mark::Durable, 2);
        assert!(matches!(poll_once(pin!(progress.wait(Mark::Durable, 1))), Poll::Ready(Ok(()))));
        assert!(matches!(poll_once(pin!(progress.wait(Mark::Durable, 2))), Poll::Ready(Err(_))));
        assert_eq!(progress.through(Mark::Durable), 1);
    }

    #[test]
    #[should_panic(expected = "beyond written")]
    fn durable_never_passes_written() {
        Progress::default().advance(Mark::Durable, 1);
    }
}

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
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::error::StorageFailure;

/// Which of the two marks somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Written,
    Durable,
}

#[derive(Default)]
struct State {
    written_through: u64,
    durable_through: u64,
    failure: Option<StorageFailure>,
    waiting_written: BTreeMap<(u64, u64), Waker>,
    waiting_durable: BTreeMap<(u64, u64), Waker>,
    next_waiter: u64,
}

impl State {
    fn waiting(&mut self, mark: Mark) -> &mut BTreeMap<(u64, u64), Waker> {
        match mark {
            Mark::Written => &mut self.waiting_written,
            Mark::Durable => &mut self.waiting_durable,
        }
    }

    fn reached(&self, mark: Mark) -> u64 {
        match mark {
            Mark::Written => self.written_through,
            Mark::Durable => self.durable_through,
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
        let woken = {
            let mut state = self.state.borrow_mut();
            if state.failure.is_some() {
                return;
            }
            assert!(sequence >= state.reached(mark), "{mark:?} goes back to {sequence}");
            match mark {
                Mark::Written => state.written_through = sequence,
                Mark::Durable => {
                    assert!(sequence <= state.written_through, "durable {sequence} beyond written");
                    state.durable_through = sequence;
                }
            }
            let waiting = state.waiting(mark);
            let later = waiting.split_off(&(sequence + 1, 0));
            std::mem::replace(waiting, later)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// Latches the first failure and wakes everyone.
    pub(crate) fn fail(&self, failure: StorageFailure) {
        let woken = {
            let mut state = self.state.borrow_mut();
            state.failure.get_or_insert(failure);
            let written = std::mem::take(&mut state.waiting_written);
            let durable = std::mem::take(&mut state.waiting_durable);
            written.into_values().chain(durable.into_values()).collect::<Vec<_>>()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Waits until `mark` has reached `sequence`. What had reached it before a failure counts as reached.
    pub(crate) async fn wait(&self, mark: Mark, sequence: u64) -> Result<(), StorageFailure> {
        let mut registration = Registration { progress: self, mark, sequence, id: None };
        poll_fn(|cx| {
            registration.forget();
            let mut state = self.state.borrow_mut();
            if state.reached(mark) >= sequence {
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = &state.failure {
                return Poll::Ready(Err(failure.clone()));
            }
            let id = state.next_waiter;
            state.next_waiter += 1;
            state.waiting(mark).insert((sequence, id), cx.waker().clone());
            registration.id = Some(id);
            Poll::Pending
        })
        .await
    }
}

struct Registration<'a> {
    progress: &'a Progress,
    mark: Mark,
    sequence: u64,
    id: Option<u64>,
}

impl Registration<'_> {
    fn forget(&mut self) {
        if let Some(id) = self.id.take() {
            self.progress.state.borrow_mut().waiting(self.mark).remove(&(self.sequence, id));
        }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.forget();
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

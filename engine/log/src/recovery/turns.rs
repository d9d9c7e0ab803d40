//! One thing that several tasks of a shard change in turn, each for as long as it likes, awaits included.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use highwater_io::sync::{Permit, Semaphore};

pub(super) struct InTurn<T> {
    turn: Semaphore,
    /// Empty while somebody has it.
    value: Cell<Option<Box<T>>>,
}

impl<T> InTurn<T> {
    pub(super) fn new(value: T) -> Self {
        InTurn { turn: Semaphore::new(1), value: Cell::new(Some(Box::new(value))) }
    }

    /// Waits for the turn, which ends when what is returned is dropped.
    pub(super) async fn take(&self) -> Taken<'_, T> {
        let turn = self.turn.acquire(1).await;
        Taken { home: self, value: self.value.take(), _turn: turn }
    }

    pub(super) fn into_inner(self) -> T {
        *self.value.into_inner().expect(HERE)
    }
}

/// Who has the turn has the value.
const HERE: &str = "whoever had the turn gave the value back";

pub(super) struct Taken<'a, T> {
    home: &'a InTurn<T>,
    value: Option<Box<T>>,
    _turn: Permit,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect(HERE)
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect(HERE)
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.home.value.set(self.value.take());
    }
}

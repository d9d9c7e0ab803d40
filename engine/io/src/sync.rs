//! Coordination between the tasks of one shard: a watched value and a fair semaphore.
//!
//! Not for other threads; see [`crate::mailbox`] for those.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A value whose changes tasks can wait for.
///
/// Waiters look at the value when they run, not at each change: an intermediate value may go unseen.
pub struct Watch<T> {
    value: RefCell<T>,
    waiters: RefCell<Waiters>,
}

impl<T: fmt::Debug> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.value.borrow()).finish()
    }
}

impl<T> Watch<T> {
    /// A watched `value`.
    #[must_use]
    pub fn new(value: T) -> Self {
        Watch { value: RefCell::new(value), waiters: RefCell::default() }
    }

    /// Replaces the value and wakes everyone who waits.
    pub fn set(&self, value: T) {
        self.update(|current| *current = value);
    }

    /// Changes the value in place and wakes everyone who waits.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value.borrow_mut());
        let waiters = std::mem::take(&mut self.waiters.borrow_mut().wakers);
        waiters.into_values().for_each(Waker::wake);
        result
    }

    /// Looks at the value.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value.borrow())
    }

    /// A copy of the value.
    #[must_use]
    pub fn get(&self) -> T
    where
        T: Copy,
    {
        *self.value.borrow()
    }

    /// Waits until `look` gives something for the value.
    pub async fn wait_for<R>(&self, mut look: impl FnMut(&T) -> Option<R>) -> R {
        let mut registration = Registration { waiters: &self.waiters, key: None };
        poll_fn(|cx| {
            registration.forget();
            if let Some(found) = look(&self.value.borrow()) {
                return Poll::Ready(found);
            }
            let mut waiters = self.waiters.borrow_mut();
            let key = waiters.next_key;
            waiters.next_key += 1;
            waiters.wakers.insert(key, cx.waker().clone());
            registration.key = Some(key);
            Poll::Pending
        })
        .await
    }
}

/// Takes its waiter off the list when it is done or dropped.
struct Registration<'a> {
    waiters: &'a RefCell<Waiters>,
    key: Option<u64>,
}

impl Registration<'_> {
    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            self.waiters.borrow_mut().wakers.remove(&key);
        }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Wakers in the order of waiting, under keys that are never used twice.
#[derive(Default)]
struct Waiters {
    wakers: BTreeMap<u64, Waker>,
    next_key: u64,
}

/// A counting semaphore that serves in the order of asking, so that a large request is not starved by small ones.
#[derive(Clone)]
pub struct Semaphore {
    inner: Rc<SemaphoreInner>,
}

struct SemaphoreInner {
    available: Cell<usize>,
    limit: usize,
    queue: RefCell<VecDeque<Rc<Waiter>>>,
    /// Waiters that are done, for later ones: who waits all the time takes no memory each time.
    spare: RefCell<Vec<Rc<Waiter>>>,
}

/// Waiters that a semaphore keeps.
const SPARE_WAITERS: usize = 4;

struct Waiter {
    wanted: Cell<usize>,
    state: Cell<WaiterState>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WaiterState {
    Queued,
    Granted,
    Gone,
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.inner.available.get())
            .field("limit", &self.inner.limit)
            .finish()
    }
}

impl Semaphore {
    /// A semaphore with `limit` units.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Semaphore {
            inner: Rc::new(SemaphoreInner {
                available: Cell::new(limit),
                limit,
                queue: RefCell::default(),
                spare: RefCell::default(),
            }),
        }
    }

    /// Units not taken.
    #[must_use]
    pub fn available(&self) -> usize {
        self.inner.available.get()
    }

    /// All units, taken or not.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.inner.limit
    }

    /// Takes `wanted` units now, or nothing. Does not overtake those who wait.
    #[must_use]
    pub fn try_acquire(&self, wanted: usize) -> Option<Permit> {
        let wanted = wanted.min(self.inner.limit);
        if !self.inner.queue.borrow().is_empty() || self.inner.available.get() < wanted {
            return None;
        }
        self.inner.available.set(self.inner.available.get() - wanted);
        Some(Permit { semaphore: self.clone(), units: wanted })
    }

    /// Waits for `wanted` units. More than there are at all counts as all of them, so that one oversized request
    /// proceeds alone instead of never.
    pub fn acquire(&self, wanted: usize) -> Acquire {
        Acquire { semaphore: self.clone(), wanted: wanted.min(self.inner.limit), waiter: None }
    }

    fn waiter(&self, wanted: usize, waker: &Waker) -> Rc<Waiter> {
        let waiter = self.inner.spare.borrow_mut().pop().unwrap_or_else(|| {
            let (wanted, state) = (Cell::new(0), Cell::new(WaiterState::Gone));
            Rc::new(Waiter { wanted, state, waker: RefCell::default() })
        });
        waiter.wanted.set(wanted);
        waiter.state.set(WaiterState::Queued);
        *waiter.waker.borrow_mut() = Some(waker.clone());
        waiter
    }

    fn release(&self, units: usize) {
        self.inner.available.set(self.inner.available.get() + units);
        self.serve();
    }

    fn serve(&self) {
        loop {
            let next = match self.inner.queue.borrow().front() {
                Some(waiter) => Rc::clone(waiter),
                None => return,
            };
            if next.state.get() == WaiterState::Queued {
                if self.inner.available.get() < next.wanted.get() {
                    return;
                }
                self.inner.available.set(self.inner.available.get() - next.wanted.get());
                next.state.set(WaiterState::Granted);
            }
            self.inner.queue.borrow_mut().pop_front();
            if let Some(waker) = next.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// Future of [`Semaphore::acquire`].
#[must_use = "nothing is acquired until awaited"]
pub struct Acquire {
    semaphore: Semaphore,
    wanted: usize,
    waiter: Option<Rc<Waiter>>,
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let Some(waiter) = &self.waiter else {
            if let Some(permit) = self.semaphore.try_acquire(self.wanted) {
                return Poll::Ready(permit);
            }
            let waiter = self.semaphore.waiter(self.wanted, cx.waker());
            self.semaphore.inner.queue.borrow_mut().push_back(Rc::clone(&waiter));
            self.waiter = Some(waiter);
            return Poll::Pending;
        };
        if waiter.state.get() == WaiterState::Granted {
            waiter.state.set(WaiterState::Gone);
            return Poll::Ready(Permit { semaphore: self.semaphore.clone(), units: self.wanted });
        }
        *waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        match waiter.state.replace(WaiterState::Gone) {
            WaiterState::Granted => self.semaphore.release(self.wanted),
            WaiterState::Queued => self.semaphore.serve(),
            // It left the queue when it was granted.
            WaiterState::Gone => {
                let mut spare = self.semaphore.inner.spare.borrow_mut();
                if spare.len() < SPARE_WAITERS {
                    spare.push(waiter);
                }
            }
        }
    }
}

/// Units taken from a [`Semaphore`]; dropping gives them back.
#[must_use = "dropping a permit gives its units back"]
pub struct Permit {
    semaphore: Semaphore,
    units: usize,
}

impl Permit {
    /// Adds the units of another permit of the same semaphore.
    ///
    /// # Panics
    /// If `other` is of another semaphore.
    pub fn merge(&mut self, mut other: Permit) {
        assert!(Rc::ptr_eq(&self.semaphore.inner, &other.semaphore.inner), "permits of one semaphore");
        self.units += std::mem::take(&mut other.units);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("units", &self.units).finish_non_exhaustive()
    }
}

impl Permit {
    /// Units held.
    #[must_use]
    pub fn units(&self) -> usize {
        self.units
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release(self.units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn semaphore_serves_in_order_of_asking() {
        let semaphore = Semaphore::new(4);
        let held = semaphore.try_acquire(3).expect("three of four");
        let mut large = semaphore.acquire(4);
        assert!(poll_once(&mut large).is_pending());
        let mut small = semaphore.acquire(1);
        assert!(poll_once(&mut small).is_pending(), "a small request does not overtake a large one");
        drop(held);
        let Poll::Ready(large) = poll_once(&mut large) else { panic!("the large request is served first") };
        assert!(poll_once(&mut small).is_pending());
        drop(large);
        assert!(poll_once(&mut small).is_ready());
    }

    #[test]
    fn dropped_waiter_does_not_block_the_queue() {
        let semaphore = Semaphore::new(2);
        let held = semaphore.try_acquire(1).expect("one of two");
        let mut large = semaphore.acquire(2);
        assert!(poll_once(&mut large).is_pending());
        let mut small = semaphore.acquire(1);
        assert!(poll_once(&mut small).is_pending());
        drop(large);
        assert!(poll_once(&mut small).is_ready());
        drop(held);
        assert_eq!(semaphore.available(), 2);
    }

    #[test]
    fn oversized_request_takes_everything() {
        let semaphore = Semaphore::new(2);
        let Poll::Ready(all) = poll_once(&mut semaphore.acquire(100)) else { panic!("served at once") };
        assert_eq!((all.units(), semaphore.available()), (2, 0));
    }

    #[test]
    fn watch_wakes_on_change() {
        let watch = Watch::new(1);
        let mut wait = std::pin::pin!(watch.wait_for(|&v| (v > 1).then_some(v)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        watch.set(5);
        assert_eq!(wait.as_mut().poll(&mut cx), Poll::Ready(5));
    }
}

//! The request to stop, shared by the shards of one runtime.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use slab::Slab;

/// Set once, by [`Runtime::stop`](crate::Runtime::stop), a signal or a panic; seen by everyone who waits.
#[derive(Default)]
pub(crate) struct StopRequest {
    requested: AtomicBool,
    waiters: Mutex<Slab<Waker>>,
}

impl StopRequest {
    /// Asks to stop. From any thread.
    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        let waiters = std::mem::take(&mut *self.waiters());
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Resolves once a stop is asked for.
    pub(crate) async fn requested(&self) {
        let mut place = Place { request: self, key: None };
        poll_fn(|cx| {
            let mut waiters = self.waiters();
            // Looked at under the lock: `request` sets the flag before it takes the lock to collect the wakers.
            if self.requested.load(Ordering::SeqCst) {
                place.key = None;
                return Poll::Ready(());
            }
            match place.key {
                Some(key) => waiters[key].clone_from(cx.waker()),
                None => place.key = Some(waiters.insert(cx.waker().clone())),
            }
            Poll::Pending
        })
        .await;
    }

    fn waiters(&self) -> MutexGuard<'_, Slab<Waker>> {
        // Wakers only; a panic between two of their moves leaves nothing half done.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiter's place in the list, given up when it stops waiting.
struct Place<'a> {
    request: &'a StopRequest,
    key: Option<usize>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.request.waiters().try_remove(key);
            drop(waker);
        }
    }
}

//! Waiting on a thread that has no executor.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Blocks this thread, which must be none of a shard's, until `future` is done.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        woken.wait();
    }
}

/// As [`block_on`], for at most `duration`: a future that is not done then is dropped, which gives `None`.
pub fn block_on_timeout<T>(future: impl Future<Output = T>, duration: Duration) -> Option<T> {
    let begin = Instant::now();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        // A difference, since the sum of an instant and a very long duration is none.
        let left = duration.checked_sub(begin.elapsed()).filter(|left| !left.is_zero())?;
        woken.wait_at_most(left);
    }
}

#[derive(Default)]
struct Woken {
    is_woken: Mutex<bool>,
    changed: Condvar,
}

impl Woken {
    fn wait(&self) {
        let mut is_woken = self.is_woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_woken {
            is_woken = self.changed.wait(is_woken).unwrap_or_else(PoisonError::into_inner);
        }
        *is_woken = false;
    }

    /// As [`wait`](Self::wait), or less: whoever waits looks again.
    fn wait_at_most(&self, duration: Duration) {
        let mut is_woken = self.is_woken.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_woken {
            is_woken =
                self.changed.wait_timeout(is_woken, duration).unwrap_or_else(PoisonError::into_inner).0;
        }
        *is_woken = false;
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn future_woken_from_another_thread_ends_the_wait() {
        let (sender, reply) = crate::mailbox::oneshot();
        let thread = std::thread::spawn(move || sender.send(7));
        assert_eq!(block_on(reply), Some(7));
        thread.join().expect("no panic");
    }
    #[test]
    fn wait_with_an_end_gives_what_came_and_ends_without() {
        let (sender, reply) = crate::mailbox::oneshot::<u8>();
        let thread = std::thread::spawn(move || sender.send(7));
        assert_eq!(block_on_timeout(reply, Duration::MAX), Some(Some(7)));
        thread.join().expect("no panic");
        let (sender, reply) = crate::mailbox::oneshot::<u8>();
        assert_eq!(block_on_timeout(reply, Duration::from_millis(1)), None);
        sender.send(7);
    }
}

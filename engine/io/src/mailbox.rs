//! Bounded channels between shards, and single replies.
//!
//! The only way from one shard to another (and from a foreign thread or runtime into a shard). A full mailbox makes
//! the sender wait or tells it so; nothing is dropped. Wakers cross threads: the receiving shard is woken through
//! its driver if it sleeps. Both halves work under any executor.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crossbeam::queue::ArrayQueue;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are wakers; a panic between two of their moves leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    receiver: Mutex<Option<Waker>>,
    waiting_senders: Mutex<WaitingSenders>,
    sender_count: AtomicUsize,
    receiver_gone: AtomicBool,
}

impl<T> Shared<T> {
    fn wake_receiver(&self) {
        let waker = lock(&self.receiver).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wake_one_sender(&self) {
        let waker = lock(&self.waiting_senders).wakers.pop_first();
        if let Some((_, waker)) = waker {
            waker.wake();
        }
    }

    fn wake_all_senders(&self) {
        let wakers = std::mem::take(&mut lock(&self.waiting_senders).wakers);
        wakers.into_values().for_each(Waker::wake);
    }
}

/// Wakers in the order of waiting, each under a key of its sender's.
#[derive(Default)]
struct WaitingSenders {
    wakers: BTreeMap<u64, Waker>,
    next_key: u64,
}

/// The place of a sender among those that wait. One that is woken and goes without having made use of it wakes the next in its
/// stead.
struct Waiting<'a, T> {
    shared: &'a Shared<T>,
    key: Option<u64>,
}

impl<T> Waiting<'_, T> {
    /// Takes a place, or the same again.
    fn wait(&mut self, waker: &Waker) {
        let mut waiting = lock(&self.shared.waiting_senders);
        let key = *self.key.get_or_insert_with(|| {
            waiting.next_key += 1;
            waiting.next_key
        });
        waiting.wakers.insert(key, waker.clone());
    }

    /// The message is sent into the room that it was woken for, if it was, or never will be.
    fn is_over(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.shared.waiting_senders).wakers.remove(&key);
        }
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let was_woken = lock(&self.shared.waiting_senders).wakers.remove(&key).is_none();
        if was_woken {
            self.shared.wake_one_sender();
        }
    }
}

/// A mailbox that holds at most `capacity` messages.
#[must_use]
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity.max(1)),
        receiver: Mutex::new(None),
        waiting_senders: Mutex::default(),
        sender_count: AtomicUsize::new(1),
        receiver_gone: AtomicBool::new(false),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// The sending half; clone it for every sender.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queued", &self.shared.queue.len()).finish()
    }
}

/// Why a message was not taken; the message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError<T> {
    /// The mailbox is full.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone.
    #[error("the mailbox's receiver is gone")]
    Closed(T),
}

impl<T: Send> Sender<T> {
    /// Puts `message` into the mailbox, or gives it back at once.
    ///
    /// # Errors
    /// [`SendError::Full`] and [`SendError::Closed`], with the message.
    pub fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        if self.shared.receiver_gone.load(Ordering::Acquire) {
            return Err(SendError::Closed(message));
        }
        match self.shared.queue.push(message) {
            Ok(()) => {
                self.shared.wake_receiver();
                Ok(())
            }
            Err(message) => Err(SendError::Full(message)),
        }
    }

    /// Puts `message` into the mailbox, waiting for room.
    ///
    /// # Errors
    /// [`SendError::Closed`], with the message.
    pub async fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut message = Some(message);
        let mut waiting = Waiting { shared: &*self.shared, key: None };
        poll_fn(|cx| {
            let Some(unsent) = message.take() else { return Poll::Pending };
            let unsent = match self.try_send(unsent) {
                Err(SendError::Full(unsent)) => unsent,
                done => {
                    waiting.is_over();
                    return Poll::Ready(done);
                }
            };
            match self.wait_or_send(unsent, &mut waiting, cx.waker()) {
                Err(SendError::Full(unsent)) => {
                    message = Some(unsent);
                    Poll::Pending
                }
                done => Poll::Ready(done),
            }
        })
        .await
    }

    /// Takes a place among those that wait, and tries again: room may have come since the last attempt. If so the place is
    /// dropped as one that needs no turn: what it is given meanwhile is for the next.
    fn wait_or_send(
        &self,
        message: T,
        waiting: &mut Waiting<'_, T>,
        waker: &Waker,
    ) -> Result<(), SendError<T>> {
        waiting.wait(waker);
        self.try_send(message)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.sender_count.fetch_add(1, Ordering::Relaxed);
        Sender { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.sender_count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.wake_receiver();
        }
    }
}

/// The receiving half.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.shared.queue.len()).finish()
    }
}

impl<T: Send> Receiver<T> {
    /// The next message, if one is there.
    #[must_use]
    pub fn try_recv(&mut self) -> Option<T> {
        let message = self.shared.queue.pop()?;
        self.shared.wake_one_sender();
        Some(message)
    }

    /// The next message, or `None` when every sender is gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Polls for the next message.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(message) = self.try_recv() {
            return Poll::Ready(Some(message));
        }
        *lock(&self.shared.receiver) = Some(cx.waker().clone());
        // A message or the last sender's end may have come between the look and the registration; the end first,
        // since a sender sends before it ends.
        let ended = self.shared.sender_count.load(Ordering::Acquire) == 0;
        match self.try_recv() {
            Some(message) => Poll::Ready(Some(message)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        while self.shared.queue.pop().is_some() {}
        self.shared.wake_all_senders();
    }
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
    /// Of a sender that wants to know whether anybody still waits.
    sender_waker: Option<Waker>,
    reply_gone: bool,
}

/// A channel for one value: the reply to a message.
pub fn oneshot<T: Send>() -> (ReplySender<T>, Reply<T>) {
    let slot = Slot { value: None, waker: None, sender_gone: false, sender_waker: None, reply_gone: false };
    let slot = Arc::new(Mutex::new(slot));
    (ReplySender { slot: Arc::clone(&slot) }, Reply { slot })
}

/// Sends the one value of a [`Reply`]. Dropped without, the reply resolves to `None`.
pub struct ReplySender<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> fmt::Debug for ReplySender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySender").finish_non_exhaustive()
    }
}

impl<T> ReplySender<T> {
    /// Delivers the value. Nobody waiting any more is not an error: the caller has given up.
    pub fn send(self, value: T) {
        lock(&self.slot).value = Some(value);
    }

    /// Resolves once the [`Reply`] was dropped: nobody waits any more.
    pub async fn abandoned(&self) {
        poll_fn(|cx| {
            let mut slot = lock(&self.slot);
            if slot.reply_gone {
                return Poll::Ready(());
            }
            slot.sender_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = lock(&self.slot);
            slot.sender_gone = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Resolves to the value, or to `None` if the sender went without one.
#[must_use = "a reply does nothing until awaited"]
pub struct Reply<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = lock(&self.slot);
            slot.reply_gone = true;
            slot.sender_waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = lock(&self.slot);
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Some(value));
        }
        if slot.sender_gone {
            return Poll::Ready(None);
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn full_mailbox_gives_the_message_back() {
        let (sender, mut receiver) = channel(1);
        sender.try_send(1).expect("room for one");
        assert_eq!(sender.try_send(2), Err(SendError::Full(2)));
        assert_eq!(receiver.try_recv(), Some(1));
        sender.try_send(2).expect("room again");
    }

    #[test]
    fn waiting_sender_goes_on_after_a_receive() {
        let (sender, mut receiver) = channel(1);
        sender.try_send(1).expect("room for one");
        let mut send = std::pin::pin!(sender.send(2));
        assert!(poll_once(send.as_mut()).is_pending());
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(poll_once(send), Poll::Ready(Ok(())));
    }

    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// The room that a receive had made was once offered to senders that had given up, and to nobody else.
    #[test]
    fn sender_that_gives_up_does_not_take_the_turn_of_the_next() {
        for is_woken_first in [false, true] {
            let (sender, mut receiver) = channel(1);
            sender.try_send(1).expect("room for one");
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            let waker = Waker::from(Arc::clone(&woken));
            let mut gives_up = Box::pin(sender.send(2));
            let mut waits = std::pin::pin!(sender.send(3));
            assert!(poll_once(gives_up.as_mut()).is_pending());
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            if is_woken_first {
                assert_eq!(receiver.try_recv(), Some(1));
                drop(gives_up);
            } else {
                drop(gives_up);
                assert_eq!(receiver.try_recv(), Some(1));
            }
            assert!(woken.0.load(Ordering::Relaxed), "there is room");
            assert_eq!(poll_once(waits), Poll::Ready(Ok(())));
        }
    }

    /// Does something else, once, in the middle of what wakes it.
    struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

    impl std::task::Wake for Meanwhile {
        fn wake(self: Arc<Self>) {
            if let Some(meanwhile) = lock(&self.0).take() {
                meanwhile();
            }
        }
    }

    /// One that found room while it took its place once kept a turn that it was given at that moment.
    #[test]
    fn sender_that_needed_no_turn_passes_it_on() {
        let (sender, mut receiver) = channel(1);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let (waker, next) = (Waker::from(Arc::clone(&woken)), sender.clone());
        let mut waits = Box::pin(async move { next.send(2).await });
        let shared = Arc::clone(&sender.shared);
        let others = move || {
            let mut cx = Context::from_waker(&waker);
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert_eq!(receiver.try_recv(), Some(1), "which makes room for one");
            std::mem::forget((waits, receiver));
        };
        let meanwhile = Meanwhile(Mutex::new(Some(Box::new(others))));
        *lock(&shared.receiver) = Some(Waker::from(Arc::new(meanwhile)));
        let mut waiting = Waiting { shared: &*sender.shared, key: None };
        assert_eq!(sender.wait_or_send(1, &mut waiting, Waker::noop()), Ok(()));
        drop(waiting);
        assert!(woken.0.load(Ordering::Relaxed), "there is room");
    }

    #[test]
    fn receiver_ends_after_the_last_sender_and_the_last_message() {
        let (sender, mut receiver) = channel(2);
        sender.try_send(7).expect("room");
        drop(sender);
        assert_eq!(poll_once(std::pin::pin!(receiver.recv())), Poll::Ready(Some(7)));
        assert_eq!(poll_once(std::pin::pin!(receiver.recv())), Poll::Ready(None));
    }

    #[test]
    fn sender_learns_that_the_receiver_is_gone() {
        let (sender, receiver) = channel(1);
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(SendError::Closed(1)));
    }

    #[test]
    fn reply_without_a_value_is_none() {
        let (sender, mut reply) = oneshot::<u8>();
        assert!(poll_once(Pin::new(&mut reply)).is_pending());
        drop(sender);
        assert_eq!(poll_once(Pin::new(&mut reply)), Poll::Ready(None));
        let (sender, mut reply) = oneshot();
        sender.send(3);
        assert_eq!(poll_once(Pin::new(&mut reply)), Poll::Ready(Some(3)));
    }
    #[test]
    fn sender_learns_that_nobody_waits_for_the_reply() {
        let (sender, reply) = oneshot::<u8>();
        let mut abandoned = std::pin::pin!(sender.abandoned());
        assert!(poll_once(abandoned.as_mut()).is_pending());
        drop(reply);
        assert!(poll_once(abandoned).is_ready());
    }
}

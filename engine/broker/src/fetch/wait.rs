//! Parked fetches: waits until one of many partitions has more to read.
//!
//! Each shard watches its own partitions. A shard that sees a change replies, and the fetch looks again; it withdraws
//! from the other shards by dropping its end of their withdrawal mailboxes. Nothing of what was read is held meanwhile;
//! what a fetch asks for is, and when memory for requests is short, all waits end early.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use highwater_io::mailbox;
use highwater_model::{Offset, TopicPartition};

use crate::memory::SHORT_MEMORY_PATIENCE;
use crate::pace::Pace;
use crate::partition::IsolationLevel;
use crate::shard::{Call, Shard};
use highwater_io::race::{Either, first};

/// A partition, and the end of what a fetch has seen of it.
pub(crate) type Seen = (TopicPartition, Offset);

/// What to wait for.
pub(crate) struct Wait {
    /// By shard.
    pub(crate) seen: Vec<(usize, Vec<Seen>)>,
    pub(crate) isolation: IsolationLevel,
    pub(crate) timeout: Duration,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// There is more to read, or something else is new.
    Changed,
    /// The time is up, or the broker stops.
    Over,
    /// Others wait for the memory that requests hold, and a fetch that waits makes no use of its own.
    MemoryShort,
}

/// Waits for the first change.
pub(crate) async fn wait(shard: &Rc<Shard>, wait: Wait) -> Woken {
    if shard.is_stopping() {
        return Woken::Over;
    }
    let mut calls = Vec::with_capacity(wait.seen.len());
    let mut withdrawals = Vec::with_capacity(wait.seen.len());
    for (owner, seen) in wait.seen {
        let (withdrawal, withdrawn) = mailbox::channel(1);
        let isolation = wait.isolation;
        calls.push(shard.on(owner, move |shard| watch(shard, seen, isolation, withdrawn)).await);
        withdrawals.push(withdrawal);
    }
    let changed = first_of(calls);
    let stopping = shard.stopping.wait_for(|&stopping| stopping.then_some(()));
    let short = shard.request_budget.is_short_for(&shard.io, SHORT_MEMORY_PATIENCE);
    let woken = shard.io.timeout(wait.timeout, first(short, first(changed, stopping))).await;
    drop::<Vec<mailbox::Sender<()>>>(withdrawals);
    match woken {
        Ok(_) if shard.is_stopping() => Woken::Over,
        Ok(Either::Left(())) => Woken::MemoryShort,
        Ok(Either::Right(_)) => Woken::Changed,
        Err(_) => Woken::Over,
    }
}

async fn first_of(mut calls: Vec<Call<()>>) {
    poll_fn(|cx| {
        let is_ready = calls.iter_mut().any(|call| Pin::new(call).poll(cx).is_ready());
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// On the owner: waits until a partition has more than was seen of it, or is gone, or the fetch withdraws.
async fn watch(
    shard: Rc<Shard>,
    seen: Vec<Seen>,
    isolation: IsolationLevel,
    mut withdrawn: mailbox::Receiver<()>,
) {
    let mut watched = Vec::with_capacity(seen.len());
    let mut pace = Pace::new(&shard.io);
    for (id, end) in seen {
        pace.step().await;
        match shard.partition(&id) {
            Some(partition) => watched.push((id, partition, end)),
            None => return,
        }
    }
    let mut changes: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::with_capacity(watched.len());
    for (id, partition, end) in &watched {
        let shard = &shard;
        let has_more = move |_: &_| {
            let is_gone = shard.partition(id).is_none_or(|now| !Rc::ptr_eq(&now, partition));
            is_gone || partition.has_more_than(*end, isolation)
        };
        changes.push(Box::pin(async move {
            partition.log.watermarks().wait_for(|watermarks| has_more(watermarks).then_some(())).await;
        }));
    }
    let any = poll_fn(|cx| {
        let is_ready = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    });
    first(any, withdrawn.recv()).await;
}

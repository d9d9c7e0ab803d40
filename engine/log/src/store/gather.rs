//! Gathers the records of one log into batches: what waits together is stored together.
//!
//! A batch goes when it is full (`batch_size`), or its first record has waited for `linger`, and fewer than
//! `max_in_flight` are on their way. Records keep the order of their arrival. Memory is bounded by the permits that the
//! records bring with them.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::sync::{Permit, Semaphore, Watch};
use highwater_io::{Io, MonoTime};
use highwater_model::batch::{BatchBuilder, BatchError, NewRecord as BatchRecord, ProducerStamp};
use highwater_model::{Offset, Timestamp};

use super::serve::Waiting;
use super::{StoreError, StoreOptions, Stored};
use crate::error::AppendError;
use crate::partition::{Appended, Origin, Partition};

struct Queued {
    waiting: Waiting,
    timestamp: Timestamp,
    arrived: MonoTime,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<Queued>,
    size_bytes: usize,
    closing: bool,
}

pub(super) struct Gatherer {
    io: Io,
    partition: Partition,
    options: Rc<StoreOptions>,
    queue: Watch<Queue>,
    in_flight: Semaphore,
    /// Whether the loop has ended.
    ended: Watch<bool>,
}

impl Gatherer {
    pub(super) fn start(io: &Io, partition: Partition, options: Rc<StoreOptions>) -> Rc<Self> {
        let gatherer = Rc::new(Gatherer {
            io: io.clone(),
            partition,
            in_flight: Semaphore::new(options.max_in_flight.max(1)),
            options,
            queue: Watch::new(Queue::default()),
            ended: Watch::new(false),
        });
        io.spawn(Rc::clone(&gatherer).run()).detach();
        gatherer
    }

    pub(super) fn push(&self, waiting: Waiting) {
        let timestamp =
            waiting.record.timestamp.unwrap_or_else(|| Timestamp(self.io.wall_time().as_millis()));
        let queued = Queued { timestamp, arrived: self.io.now(), waiting };
        self.queue.update(|queue| {
            queue.size_bytes += size_bound(&queued);
            queue.records.push_back(queued);
        });
    }

    /// Waits until everything that was pushed has been stored.
    pub(super) async fn close(&self) {
        self.queue.update(|queue| queue.closing = true);
        self.ended.wait_for(|ended| ended.then_some(())).await;
    }

    async fn run(self: Rc<Self>) {
        while let Some(first_arrived) = self.wait_for_first().await {
            self.linger(first_arrived).await;
            let slot = self.in_flight.acquire(1).await;
            let (batch, waiting) = self.take_batch();
            let appended = match batch {
                Ok(batch) => self.append(batch).await,
                Err(error) => Err(AppendError::Batch(error)),
            };
            match appended {
                Ok(appended) => self.io.spawn(acknowledge(appended, waiting, slot)).detach(),
                Err(error) => fail(waiting, &error),
            }
        }
        // Every slot is back: nothing is on its way.
        drop(self.in_flight.acquire(self.in_flight.limit()).await);
        self.ended.set(true);
    }

    /// When the oldest record in the queue arrived; `None` once there is none and none will come.
    async fn wait_for_first(&self) -> Option<MonoTime> {
        let look = |queue: &Queue| match queue.records.front() {
            Some(first) => Some(Some(first.arrived)),
            None => queue.closing.then_some(None),
        };
        self.queue.wait_for(look).await
    }

    async fn linger(&self, first_arrived: MonoTime) {
        let left = (first_arrived + self.options.linger).since(self.io.now());
        if left.is_zero() {
            return;
        }
        let limit = self.batch_limit();
        let full = self.queue.wait_for(|queue| (queue.closing || queue.size_bytes >= limit).then_some(()));
        // Late is no error: then the batch goes as it is.
        let _late = self.io.timeout(left, full).await;
    }

    /// A batch that is larger than what the log takes would take its records down together.
    fn batch_limit(&self) -> usize {
        self.options.batch_size.min(self.partition.config().max_message_bytes)
    }

    /// Takes as many records as fit, at least one.
    fn take_batch(&self) -> (Result<Bytes, BatchError>, Vec<(Waiting, Timestamp)>) {
        let limit = self.batch_limit();
        let mut builder = BatchBuilder::new(self.options.compression);
        let mut taken = Vec::new();
        self.queue.update(|queue| {
            while let Some(next) = queue.records.front() {
                let size = size_bound(next);
                if !taken.is_empty() && builder.size_bytes() + size > limit {
                    break;
                }
                queue.size_bytes -= size;
                let Some(Queued { waiting, timestamp, .. }) = queue.records.pop_front() else { break };
                push(&mut builder, &waiting, timestamp);
                taken.push((waiting, timestamp));
            }
        });
        (builder.build(ProducerStamp::NONE), taken)
    }

    async fn append(&self, batch: Bytes) -> Result<Appended, AppendError> {
        let epoch = self.partition.core.live.borrow().leader_epoch;
        self.partition.append(batch, epoch, Origin::Client).await
    }
}

fn push(builder: &mut BatchBuilder, waiting: &Waiting, timestamp: Timestamp) {
    let record = &waiting.record;
    let headers: Vec<_> =
        record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    builder.push(&BatchRecord {
        timestamp,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    });
}

fn size_bound(queued: &Queued) -> usize {
    // Covers the lengths and deltas that stand before keys, values and headers.
    queued.waiting.record.memory_bytes()
}

async fn acknowledge(appended: Appended, waiting: Vec<(Waiting, Timestamp)>, slot: Permit) {
    let acknowledged = appended.acknowledged().await;
    drop(slot);
    if let Err(error) = acknowledged {
        return fail(waiting, &AppendError::Log(error));
    }
    let append_time = appended.log_append_time;
    for (offset, (waiting, timestamp)) in (appended.base_offset.0..).zip(waiting) {
        let timestamp = if append_time == Timestamp::NONE { timestamp } else { append_time };
        waiting.ack.send(Ok(Stored { offset: Offset(offset), timestamp }));
        drop(waiting.memory);
    }
}

fn fail(waiting: Vec<(Waiting, Timestamp)>, error: &AppendError) {
    for (Waiting { ack, memory, .. }, _) in waiting {
        ack.send(Err(StoreError::Append(error.clone())));
        drop(memory);
    }
}

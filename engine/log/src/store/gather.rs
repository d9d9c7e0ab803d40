//! Gathers the records of one log into batches: what waits together is stored together.
//!
//! A batch goes when it is full (`batch_size`), or its first record has waited for `linger` and fewer than `max_in_flight` are
//! on their way: one that is full gains nothing by waiting for those before it. Records keep the order of their arrival, and
//! those that were appended together are in one batch. Memory is bounded by the permits that the records bring with them.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::race::{Either, first};
use highwater_io::sync::{Permit, Semaphore, Watch};
use highwater_io::{Io, MonoTime};
use highwater_model::batch::{BatchBuilder, BatchError, NewRecord as BatchRecord, ProducerStamp};
use highwater_model::{Offset, Timestamp};
use smallvec::SmallVec;

use super::serve::Waiting;
use super::{NewRecord, StoreError, StoreOptions, Stored};
use crate::error::AppendError;
use crate::partition::{Appended, Origin, Partition};

/// Full batches that may be on their way at once, besides the others: with the default `batch_size` as much as two groups of
/// the journal hold.
const FULL_IN_FLIGHT: usize = 64;

struct Queued {
    waiting: Waiting,
    /// In a batch, at most.
    size_bytes: usize,
    /// For records without a time of their own.
    arrived_at: Timestamp,
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
    full_in_flight: Semaphore,
    /// Whether the loop has ended.
    ended: Watch<bool>,
}

impl Gatherer {
    pub(super) fn start(io: &Io, partition: Partition, options: Rc<StoreOptions>) -> Rc<Self> {
        let gatherer = Rc::new(Gatherer {
            io: io.clone(),
            partition,
            in_flight: Semaphore::new(options.max_in_flight.max(1)),
            full_in_flight: Semaphore::new(FULL_IN_FLIGHT),
            options,
            queue: Watch::new(Queue::default()),
            ended: Watch::new(false),
        });
        io.spawn(Rc::clone(&gatherer).run()).detach();
        gatherer
    }

    pub(super) fn push(&self, waiting: Waiting) {
        let arrived_at = Timestamp(self.io.wall_time().as_millis());
        let size_bytes = size_bound(&waiting);
        let queued = Queued { waiting, size_bytes, arrived_at, arrived: self.io.now() };
        self.queue.update(|queue| {
            queue.size_bytes += size_bytes;
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
            let slot = self.slot().await;
            let (batch, taken) = self.take_batch();
            match self.append(batch).await {
                Ok(appended) => self.io.spawn(acknowledge(appended, taken, slot)).detach(),
                Err(error) if taken.len() > 1 && is_about_records(&error) => {
                    drop(slot);
                    self.append_one_by_one(taken).await;
                }
                Err(error) => fail(taken, &error),
            }
        }
        // Every slot is back: nothing is on its way.
        drop(self.in_flight.acquire(self.in_flight.limit()).await);
        drop(self.full_in_flight.acquire(FULL_IN_FLIGHT).await);
        self.ended.set(true);
    }

    /// Waits until the next batch may go.
    async fn slot(&self) -> Permit {
        let limit = self.batch_limit();
        let full = async {
            self.queue.wait_for(|queue| (queue.size_bytes >= limit).then_some(())).await;
            self.full_in_flight.acquire(1).await
        };
        match first(self.in_flight.acquire(1), full).await {
            Either::Left(slot) | Either::Right(slot) => slot,
        }
    }

    /// What is wrong with one record is no other's fault: of a batch that was refused, the others are stored.
    async fn append_one_by_one(&self, taken: Vec<Queued>) {
        for queued in taken {
            let slot = self.in_flight.acquire(1).await;
            let mut builder = BatchBuilder::new(self.options.compression);
            push(&mut builder, &queued);
            match self.append(builder.build(ProducerStamp::NONE)).await {
                Ok(appended) => self.io.spawn(acknowledge(appended, vec![queued], slot)).detach(),
                Err(error) => fail(vec![queued], &error),
            }
        }
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
    fn take_batch(&self) -> (Result<Bytes, BatchError>, Vec<Queued>) {
        let limit = self.batch_limit();
        let mut builder = BatchBuilder::new(self.options.compression);
        let mut taken = Vec::new();
        self.queue.update(|queue| {
            while let Some(next) = queue.records.front() {
                if !taken.is_empty() && builder.size_bytes() + next.size_bytes > limit {
                    break;
                }
                queue.size_bytes -= next.size_bytes;
                let Some(next) = queue.records.pop_front() else { break };
                push(&mut builder, &next);
                taken.push(next);
            }
        });
        (builder.build(ProducerStamp::NONE), taken)
    }

    async fn append(&self, batch: Result<Bytes, BatchError>) -> Result<Appended, AppendError> {
        let epoch = self.partition.core.live.borrow().leader_epoch;
        self.partition.append(batch?, epoch, Origin::Client).await
    }
}

/// Whether an append failed because of what is in the batch, and not because of the log's state.
fn is_about_records(error: &AppendError) -> bool {
    !matches!(error, AppendError::Log(_) | AppendError::FencedLeaderEpoch { .. })
}

fn push(builder: &mut BatchBuilder, queued: &Queued) {
    for record in &queued.waiting.records {
        with_batch_record(record, queued.arrived_at, |record| builder.push(record));
    }
}

/// What the records take in a batch at most, before compression.
fn size_bound(waiting: &Waiting) -> usize {
    let size_of = |record| with_batch_record(record, Timestamp::NONE, BatchBuilder::record_size_bound);
    waiting.records.iter().map(size_of).sum()
}

/// Gives `record` as a batch takes it, with `arrived_at` for its time if it has none.
fn with_batch_record<T>(
    record: &NewRecord,
    arrived_at: Timestamp,
    give: impl FnOnce(&BatchRecord<'_>) -> T,
) -> T {
    let headers: SmallVec<[_; 4]> =
        record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    give(&BatchRecord {
        timestamp: record.timestamp.unwrap_or(arrived_at),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    })
}

async fn acknowledge(appended: Appended, taken: Vec<Queued>, slot: Permit) {
    let acknowledged = appended.acknowledged().await;
    drop(slot);
    if let Err(error) = acknowledged {
        return fail(taken, &AppendError::Log(error));
    }
    let append_time = appended.log_append_time;
    let mut offset = Offset(appended.last_offset.0 + 1);
    // The last one first: who waits for the oldest of many is woken once, and finds the others there.
    for Queued { waiting: Waiting { records, ack, memory }, arrived_at, .. } in taken.into_iter().rev() {
        offset = Offset(offset.0 - records.len() as i64);
        let own_time = records.first().and_then(|record| record.timestamp).unwrap_or(arrived_at);
        let timestamp = if append_time == Timestamp::NONE { own_time } else { append_time };
        ack.send(Ok(Stored { offset, timestamp }));
        drop(memory);
    }
}

fn fail(taken: Vec<Queued>, error: &AppendError) {
    for Queued { waiting: Waiting { ack, memory, .. }, .. } in taken {
        ack.send(Err(StoreError::Append(error.clone())));
        drop(memory);
    }
}

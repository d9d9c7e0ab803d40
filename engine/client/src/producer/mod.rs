//! The producer as a state machine.
//!
//! ```text
//!   append ─▶ partitioner ─▶ accumulator: a queue of batches a partition ─▶ sender: a request a broker ─▶ Send
//!                                 ▲                                              │
//!                                 └── retry, split, new epoch ◀── on_frame ──────┤
//!                                                                                ▼
//!                                                              pop_delivery: the outcome of every record
//! ```
//!
//! Kafka's behaviour, setting for setting: a batch goes when it is full, when `linger.ms` has passed, on flush, or when
//! memory has run out; batches of many partitions share a request to their broker; errors worth it are retried within
//! `delivery.timeout.ms`; an idempotent producer keeps order and makes no duplicates with five requests in flight.
//! Where it differs, it says so: [`queue`] on what happens when a sequence breaks, [`split`] on halving.
//!
//! Invariants:
//!
//! * Every record that `append` accepted is part of exactly one [`Delivery`].
//! * What a failed delivery says about the log ([`Appended`]) is never more than is known.
//! * Memory is bounded by `buffer.memory`, requests in flight by `max.in.flight.requests.per.connection`; nothing is
//!   dropped: `append` refuses.
//!
//! Deliberately absent: transactions, serializers and interceptors (a record is bytes), compression-ratio estimation
//! (`batch.size` counts uncompressed bytes).

mod memory;
mod outcome;
mod partitioner;
mod queue;
mod request;
mod sender;
mod split;
mod stats;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchBuilder, NewRecord};
use highwater_model::compression::Compressor;
use highwater_model::{BrokerId, PartitionIndex, Timestamp};

pub use self::outcome::{Appended, Delivery, FailureReason, Outcome, ProduceError, appended_after};
pub use self::partitioner::{murmur2, partition_for_key};
pub use self::stats::ProducerStats;

use self::memory::Memory;
use self::partitioner::{BatchEnd, Sticky};
use self::queue::{Finished, Incomplete, Next, OpenBatch, PartitionQueue, Policy};
use self::sender::{ProducerIdentity, Request};
use crate::config::{ConfigError, ProducerConfig};
use crate::drive::{Action, ConnectionId, Core};
use crate::metadata::{Metadata, Partition, TopicHandle, TopicState};
use crate::network::Network;
use crate::rng::Rng;
use crate::time::MonoTime;
use highwater_protocol::ErrorCode;

/// A record to be sent.
#[derive(Debug, Clone, Copy)]
pub struct ProducerRecord<'a> {
    /// The topic, from [`ProducerCore::topic`].
    pub topic: TopicHandle,
    /// The partition; chosen by the key, or else in turn, if `None`.
    pub partition: Option<PartitionIndex>,
    /// Time of creation.
    pub timestamp: Timestamp,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Value, if any.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Whatever the application wants to recognise the record by in its [`Delivery`].
    pub token: u64,
}

impl<'a> ProducerRecord<'a> {
    /// A record without key, headers and a partition of its own.
    #[must_use]
    pub fn new(topic: TopicHandle, timestamp: Timestamp, value: &'a [u8]) -> Self {
        ProducerRecord {
            topic,
            partition: None,
            timestamp,
            key: None,
            value: Some(value),
            headers: &[],
            token: 0,
        }
    }
}

/// A record was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendInfo {
    /// Where it will go.
    pub partition: Partition,
    /// Whether whoever drives the core should look at it now: there is something to send, or an earlier time to wake.
    pub wake: bool,
}

/// A record was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// `buffer.memory` is used up. Passes.
    #[error("buffer.memory is used up")]
    Full,
    /// The topic's partitions are not known yet. Passes, if the topic exists.
    #[error("the topic's metadata is not there yet")]
    NoMetadata,
    /// The record alone is above `max.request.size` or `buffer.memory`.
    #[error("a record of up to {size_bytes} bytes is above the limit of {limit_bytes}")]
    TooLarge {
        /// Upper bound of its size in a batch of its own.
        size_bytes: usize,
        /// The lesser of `max.request.size` and `buffer.memory`.
        limit_bytes: usize,
    },
    /// The cluster refuses the topic.
    #[error("topic: {0}")]
    Topic(ErrorCode),
    /// The producer is of no more use.
    #[error("producer: {0}")]
    Fatal(ErrorCode),
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

impl AppendError {
    /// Whether the same record may be accepted later: what `max.block.ms` is for.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, AppendError::Full | AppendError::NoMetadata)
    }
}

/// What a flush waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushMark(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    Open,
    /// No more appends; what is there is still sent.
    Closing,
    Failed(ErrorCode),
}

/// A producer without I/O. See the [module](self) and [`Core`].
#[derive(Debug)]
pub struct ProducerCore {
    config: ProducerConfig,
    policy: Policy,
    network: Network<Request>,
    metadata: Metadata,
    identity: ProducerIdentity,
    /// By topic handle, then by partition index.
    queues: Vec<Vec<PartitionQueue>>,
    sticky: Vec<Sticky>,
    memory: Memory,
    compressor: Compressor,
    /// Partitions with something to send, by leader.
    ready: BTreeMap<BrokerId, VecDeque<Partition>>,
    timers: BTreeSet<(MonoTime, Partition)>,
    last_serial: u64,
    /// Open batches up to this serial do not linger.
    flush_through: u64,
    /// An append was refused for want of memory: nothing lingers until one gets some.
    is_starved: bool,
    incomplete: Incomplete,
    finished: Vec<Finished>,
    deliveries: VecDeque<Delivery>,
    stats: ProducerStats,
    lifecycle: Lifecycle,
    rng: Rng,
    now: MonoTime,
}

impl ProducerCore {
    /// A producer whose random choices follow from `seed`.
    ///
    /// # Errors
    /// As [`ProducerConfig::validate`].
    pub fn new(config: ProducerConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Rng::new(seed);
        Ok(ProducerCore {
            policy: Policy::new(&config),
            network: Network::new(&config.client, rng.next_u64()),
            metadata: Metadata::new(&config.client),
            identity: ProducerIdentity::new(&config),
            queues: Vec::new(),
            sticky: Vec::new(),
            memory: Memory::new(config.buffer_memory_bytes, config.batch_size_bytes),
            compressor: Compressor::new(config.compression).map_err(|_| ConfigError::Invalid {
                setting: "compression.type",
                reason: "the codec cannot be made ready",
            })?,
            ready: BTreeMap::new(),
            timers: BTreeSet::new(),
            last_serial: 0,
            flush_through: 0,
            is_starved: false,
            incomplete: Incomplete::default(),
            finished: Vec::new(),
            deliveries: VecDeque::new(),
            stats: ProducerStats::default(),
            lifecycle: Lifecycle::Open,
            rng,
            now: MonoTime(0),
            config,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ProducerConfig {
        &self.config
    }

    /// The handle of a topic. Its metadata is asked for from now on.
    pub fn topic(&mut self, name: &str) -> TopicHandle {
        let handle = self.metadata.intern(name);
        self.queues.resize_with(self.metadata.topic_count(), Vec::new);
        self.sticky.resize_with(self.metadata.topic_count(), Sticky::default);
        handle
    }

    /// The name of a topic.
    #[must_use]
    pub fn topic_name(&self, topic: TopicHandle) -> &str {
        self.metadata.topic(topic).name.as_str()
    }

    /// Number of partitions of a topic, if it is known.
    #[must_use]
    pub fn partition_count(&self, topic: TopicHandle) -> Option<i32> {
        let topic = self.metadata.topic(topic);
        (topic.state == TopicState::Known).then(|| i32::try_from(topic.leaders.len()).unwrap_or(i32::MAX))
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        self.stats
    }

    /// Bytes of `buffer.memory` that are free.
    #[must_use]
    pub fn available_memory_bytes(&self) -> usize {
        self.memory.available_bytes()
    }

    /// Takes a record, which is copied once.
    ///
    /// # Errors
    /// [`AppendError`]; the record then has no delivery.
    pub fn append(&mut self, record: &ProducerRecord<'_>, now: MonoTime) -> Result<AppendInfo, AppendError> {
        self.append_at(record, || now)
    }

    /// As [`append`](Self::append), but looks at the clock only if a batch begins or ends, which is rare.
    ///
    /// # Errors
    /// As `append`.
    pub fn append_at(
        &mut self,
        record: &ProducerRecord<'_>,
        clock: impl FnOnce() -> MonoTime,
    ) -> Result<AppendInfo, AppendError> {
        match self.lifecycle {
            Lifecycle::Open => {}
            Lifecycle::Closing => return Err(AppendError::Closed),
            Lifecycle::Failed(code) => return Err(AppendError::Fatal(code)),
        }
        let new = NewRecord {
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let bound_bytes = BatchBuilder::record_size_bound(&new);
        let size_bytes = BATCH_HEADER_BYTES + bound_bytes;
        let limit_bytes = self.config.max_request_size_bytes.min(self.config.buffer_memory_bytes);
        if size_bytes > limit_bytes {
            return Err(AppendError::TooLarge { size_bytes, limit_bytes });
        }
        let partition = self.choose_partition(record)?;
        let batch_size_bytes = self.config.batch_size_bytes;
        let size_if_open =
            self.queue(partition).open.as_ref().map(|open| open.builder.size_bytes() + bound_bytes);
        let begins = size_if_open.is_none_or(|size| size > batch_size_bytes);
        let may_end = size_if_open.unwrap_or(size_bytes) >= batch_size_bytes;
        if begins || may_end {
            self.now = self.now.max(clock());
        }
        let now = self.now;
        if begins {
            self.open_batch(partition, size_bytes, now)?;
        }
        let Some(open) = &mut self.queue(partition).open else { return Err(AppendError::Full) };
        let before_bytes = open.builder.size_bytes();
        open.builder.push(&new);
        open.tokens.push(record.token);
        let after_bytes = open.builder.size_bytes();
        let end = if after_bytes >= batch_size_bytes { BatchEnd::Ended } else { BatchEnd::Open };
        if end == BatchEnd::Ended {
            self.close_open(partition);
        }
        self.stats.records_appended += 1;
        if record.partition.is_none() && record.key.is_none() {
            let appended_bytes = after_bytes - before_bytes;
            self.sticky[partition.topic.0 as usize].on_appended(appended_bytes, batch_size_bytes, end);
        }
        let wake = begins || end == BatchEnd::Ended;
        if wake {
            self.touch(partition, now);
        }
        Ok(AppendInfo { partition, wake })
    }

    fn choose_partition(&mut self, record: &ProducerRecord<'_>) -> Result<Partition, AppendError> {
        let topic = record.topic;
        let known = self.metadata.topic(topic);
        match known.state {
            TopicState::Known if !known.leaders.is_empty() => {}
            TopicState::Failed(code) => {
                self.metadata.request_update();
                return Err(AppendError::Topic(code));
            }
            _ => return Err(AppendError::NoMetadata),
        }
        let count = i32::try_from(known.leaders.len()).unwrap_or(i32::MAX);
        let index = match (record.partition, record.key) {
            (Some(index), _) if (0..count).contains(&index.0) => index,
            (Some(_), _) => {
                self.metadata.request_update();
                return Err(AppendError::NoMetadata);
            }
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => self.sticky_partition(topic)?,
        };
        Ok(Partition { topic, index })
    }

    fn sticky_partition(&mut self, topic: TopicHandle) -> Result<PartitionIndex, AppendError> {
        let leaders = &self.metadata.topic(topic).leaders;
        let sticky = &mut self.sticky[topic.0 as usize];
        let has_leader = |index: PartitionIndex| {
            usize::try_from(index.0).ok().and_then(|i| leaders.get(i)).is_some_and(|l| l.broker.is_some())
        };
        if sticky.current().is_some_and(|index| !has_leader(index)) {
            sticky.leave();
        }
        let all = || (0..i32::try_from(leaders.len()).unwrap_or(i32::MAX)).map(PartitionIndex);
        let available = || {
            let led: Vec<_> = all().filter(|index| has_leader(*index)).collect();
            if led.is_empty() { all().collect() } else { led }
        };
        sticky.partition(&mut self.rng, available).ok_or(AppendError::NoMetadata)
    }

    /// Closes the partition's open batch, if there is one, and opens another.
    fn open_batch(
        &mut self,
        partition: Partition,
        needed_bytes: usize,
        now: MonoTime,
    ) -> Result<(), AppendError> {
        if self.queue(partition).open.is_some() {
            self.close_open(partition);
            self.touch(partition, now);
        }
        let Some((buffer, memory_bytes)) = self.memory.take(needed_bytes) else {
            self.stats.buffer_exhausted += 1;
            if !self.is_starved {
                self.is_starved = true;
                self.touch_all(now);
            }
            return Err(AppendError::Full);
        };
        self.is_starved = false;
        self.last_serial += 1;
        let open = OpenBatch {
            serial: self.last_serial,
            builder: BatchBuilder::with_buffer(buffer, self.config.compression),
            tokens: self.memory.take_tokens(),
            created_at: now,
            memory_bytes,
        };
        self.incomplete.add(open.serial);
        self.queue(partition).open = Some(open);
        Ok(())
    }

    fn close_open(&mut self, partition: Partition) {
        let Some(queue) = queue_of(&mut self.queues, partition) else { return };
        queue.close_open(&mut self.compressor, &mut self.finished);
        self.deliver(partition);
    }

    /// The queue of a partition that metadata knows.
    fn queue(&mut self, partition: Partition) -> &mut PartitionQueue {
        let index = usize::try_from(partition.index.0).expect("a known partition has an index from 0");
        let queues = &mut self.queues[partition.topic.0 as usize];
        if queues.len() <= index {
            queues.resize_with(index + 1, PartitionQueue::default);
        }
        &mut queues[index]
    }

    /// Open batches up to this serial do not linger.
    fn forced_through(&self) -> u64 {
        if self.is_starved || self.lifecycle == Lifecycle::Closing { u64::MAX } else { self.flush_through }
    }

    /// Looks at a partition to which something happened: lists it as ready, or sets its timer.
    fn touch(&mut self, partition: Partition, now: MonoTime) {
        let leader = self.metadata.leader(partition).and_then(|leader| leader.broker);
        let forced_through = self.forced_through();
        let policy = self.policy;
        let queue = self.queue(partition);
        let Some(deadline) = queue.delivery_deadline(&policy) else {
            self.arm(partition, None);
            return;
        };
        let next = leader.map(|broker| (broker, queue.next(broker, forced_through, &policy, now)));
        match next {
            Some((broker, Next::Now)) => {
                self.list(partition, broker);
                self.arm(partition, Some(deadline));
            }
            Some((_, Next::At(at))) => self.arm(partition, Some(at.min(deadline))),
            Some((_, Next::Nothing)) => self.arm(partition, Some(deadline)),
            None => {
                self.metadata.request_update();
                self.arm(partition, Some(deadline));
            }
        }
    }

    fn list(&mut self, partition: Partition, broker: BrokerId) {
        let queue = self.queue(partition);
        if queue.listed_at.is_none() {
            queue.listed_at = Some(broker);
            self.ready.entry(broker).or_default().push_back(partition);
        }
    }

    /// Sets the partition's timer to go off at `at` or before.
    fn arm(&mut self, partition: Partition, at: Option<MonoTime>) {
        let queue = self.queue(partition);
        let armed = queue.armed_at;
        if armed == at || matches!((armed, at), (Some(armed), Some(at)) if armed < at) {
            return;
        }
        queue.armed_at = at;
        if let Some(armed) = armed {
            self.timers.remove(&(armed, partition));
        }
        if let Some(at) = at {
            self.timers.insert((at, partition));
        }
    }

    /// Looks at every partition that holds something.
    fn touch_all(&mut self, now: MonoTime) {
        let holding: Vec<Partition> = (0..)
            .zip(&self.queues)
            .flat_map(|(topic, queues)| {
                (0..).zip(queues).filter(|(_, queue)| !queue.is_empty()).map(move |(index, _)| Partition {
                    topic: TopicHandle(topic),
                    index: PartitionIndex(index),
                })
            })
            .collect();
        for partition in holding {
            self.touch(partition, now);
        }
    }

    /// Turns finished batches of `partition` into deliveries.
    fn deliver(&mut self, partition: Partition) {
        for finished in std::mem::take(&mut self.finished) {
            self.incomplete.remove(finished.origin);
            self.memory.give_back(finished.memory_bytes, finished.buffer);
            let count = finished.tokens.len() as u64;
            match finished.outcome {
                Outcome::Acked { .. } | Outcome::Sent => self.stats.records_acked += count,
                Outcome::Failed(_) => self.stats.records_failed += count,
            }
            self.deliveries.push_back(Delivery {
                partition,
                tokens: finished.tokens,
                created_at: finished.created_at,
                completed_at: self.now,
                attempts: finished.attempts,
                outcome: finished.outcome,
            });
        }
    }

    /// The next outcome.
    pub fn pop_delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// Gives the memory of a delivery back for the next batch. Optional.
    pub fn recycle(&mut self, delivery: Delivery) {
        self.memory.give_back_tokens(delivery.tokens);
    }

    /// Sends everything appended so far without lingering. It is done when [`is_flushed`](Self::is_flushed).
    pub fn flush(&mut self, now: MonoTime) -> FlushMark {
        self.now = self.now.max(now);
        self.flush_through = self.last_serial;
        self.touch_all(now);
        FlushMark(self.last_serial)
    }

    /// Whether every record that was appended before the flush has its delivery.
    #[must_use]
    pub fn is_flushed(&self, mark: FlushMark) -> bool {
        self.incomplete.is_done_through(mark.0)
    }

    /// Accepts no more records, and sends what is there. It is done when [`is_drained`](Self::is_drained).
    pub fn close(&mut self, now: MonoTime) {
        self.now = self.now.max(now);
        if self.lifecycle == Lifecycle::Open {
            self.lifecycle = Lifecycle::Closing;
            self.touch_all(now);
        }
    }

    /// Whether every record has its delivery.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Gives up on everything at once: each record gets a delivery that tells whether it was ever sent.
    pub fn abort(&mut self) {
        if self.lifecycle == Lifecycle::Open {
            self.lifecycle = Lifecycle::Closing;
        }
        self.fail_all(FailureReason::Closed);
    }

    fn fail_all(&mut self, reason: FailureReason) {
        let all: Vec<Partition> = (0..)
            .zip(&self.queues)
            .flat_map(|(topic, queues)| {
                (0..).zip(queues).map(move |(index, _)| Partition {
                    topic: TopicHandle(topic),
                    index: PartitionIndex(index),
                })
            })
            .collect();
        for partition in all {
            if let Some(queue) = queue_of(&mut self.queues, partition) {
                queue.fail_all(reason, &mut self.compressor, &mut self.finished);
            }
            self.deliver(partition);
            self.arm(partition, None);
        }
    }
}

/// The queue of a partition, if it has one, apart from the rest of the core.
fn queue_of(queues: &mut [Vec<PartitionQueue>], partition: Partition) -> Option<&mut PartitionQueue> {
    queues.get_mut(partition.topic.0 as usize)?.get_mut(usize::try_from(partition.index.0).ok()?)
}

impl Core for ProducerCore {
    fn poll_action(&mut self, now: MonoTime) -> Option<Action> {
        self.now = self.now.max(now);
        self.network.next_action().or_else(|| {
            self.advance(now);
            self.network.next_action()
        })
    }

    fn wake_at(&self) -> MonoTime {
        let timer = self.timers.first().map_or(MonoTime::NEVER, |(at, _)| *at);
        // What is due already waits for the network.
        let later = |at: MonoTime| if at > self.now { at } else { MonoTime::NEVER };
        timer
            .min(self.network.wake_at(self.now))
            .min(later(self.metadata.wake_at()))
            .min(later(self.identity.wake_at()))
    }

    fn on_connected(&mut self, connection: ConnectionId, now: MonoTime) {
        self.network.on_connected(connection, now);
        self.handle_events(now);
    }

    fn on_disconnected(&mut self, connection: ConnectionId, now: MonoTime) {
        self.network.on_disconnected(connection, now);
        self.handle_events(now);
    }

    fn on_sent(&mut self, connection: ConnectionId, correlation_id: i32, now: MonoTime) {
        self.network.on_sent(connection, correlation_id);
        self.handle_events(now);
    }

    fn on_frame(&mut self, connection: ConnectionId, frame: Bytes, now: MonoTime) {
        self.network.on_frame(connection, frame, now);
        self.handle_events(now);
    }
}

//! The consumer as a state machine, for partitions that are assigned by hand.
//!
//! ```text
//!   assign, seek ─▶ position unknown ── ListOffsets ──▶ position known ── Fetch ──▶ Records event
//!                        ▲                                  │   ▲                       │
//!                        └── out of range, auto.offset.reset ┘   └──── pop_event ────────┘
//! ```
//!
//! One fetch a broker is in flight, for all of its partitions that are not paused. While the application works through
//! one answer the next is fetched: a partition has up to two buffered, as long as less than `fetch.max.bytes` are
//! buffered in all, so that memory is bounded by that and one answer a broker.
//!
//! Invariants:
//!
//! * Records of a partition come in the order of their offsets, and the next come from where the last ended, unless a
//!   [`ConsumerEvent::Reset`] or the application's `seek` lies between.
//! * With `check.crcs`, no record of a batch whose checksum is wrong is ever handed on.
//!
//! Deliberately absent: groups, committed offsets, fetching from followers (KIP-392).

mod fetch;
mod records;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use highwater_model::batch::BatchError;
use highwater_model::{BrokerId, LeaderEpoch, Offset, Timestamp};

pub use self::records::{ConsumerRecord, FetchedBatch, FetchedRecords, Watermarks};

use self::fetch::Request;
use self::session::FetchSession;
use crate::config::{AutoOffsetReset, ConfigError, ConsumerConfig};
use crate::drive::{Action, ConnectionId, Core};
use crate::metadata::{Metadata, Partition, TopicHandle, TopicState};
use crate::network::Network;
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;
use highwater_protocol::ErrorCode;

/// Where to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// This offset.
    Offset(Offset),
    /// The log's start.
    Earliest,
    /// Its end: the high watermark, or the last stable offset if `read_committed`.
    Latest,
    /// The first record that is not older, or else the end.
    Timestamp(Timestamp),
}

/// Something that the application should know.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// Records, or at least progress over what has none.
    Records(FetchedRecords),
    /// A partition's position was found, as its start or a seek asked.
    Positioned {
        /// The partition.
        partition: Partition,
        /// The next record to be read.
        offset: Offset,
    },
    /// A position was outside of the log and was moved, as `auto.offset.reset` says.
    Reset {
        /// The partition.
        partition: Partition,
        /// The offset that was out of range.
        from: Offset,
        /// The next record to be read.
        to: Offset,
    },
    /// A partition cannot be read on until the application seeks.
    Stopped {
        /// The partition.
        partition: Partition,
        /// The next offset, if it was known.
        at: Option<Offset>,
        /// Why.
        error: ConsumerError,
    },
}

/// Why a partition cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The broker's word, not retriable; `OFFSET_OUT_OF_RANGE` where `auto.offset.reset` is none.
    #[error("{0}")]
    Broker(ErrorCode),
    /// What came is not valid.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// The broker's versions and ours have nothing in common.
    #[error("the broker does not support this API in any common version")]
    UnsupportedVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// To be looked up. `out_of_range` is the offset that made it necessary.
    Unknown {
        at: StartAt,
        out_of_range: Option<Offset>,
    },
    Known(Offset),
    /// Until the application seeks.
    Stopped,
}

#[derive(Debug)]
struct Assigned {
    position: Position,
    is_paused: bool,
    /// In a request that has no answer yet.
    in_flight: bool,
    /// Answers with records that have not been taken.
    buffered: u32,
    /// Answers to requests of before the last seek are void.
    generation: u64,
    failures: u32,
    retry_at: MonoTime,
    watermarks: Option<Watermarks>,
}

/// A consumer without I/O. See the [module](self) and [`Core`].
#[derive(Debug)]
pub struct ConsumerCore {
    config: ConsumerConfig,
    network: Network<Request>,
    metadata: Metadata,
    assigned: BTreeMap<Partition, Assigned>,
    sessions: BTreeMap<BrokerId, FetchSession>,
    /// Brokers with a fetch in flight.
    fetching: BTreeSet<BrokerId>,
    events: VecDeque<ConsumerEvent>,
    /// Of records in events.
    buffered_bytes: usize,
    next_generation: u64,
    backoff: Backoff,
    rng: Rng,
    now: MonoTime,
}

impl ConsumerCore {
    /// A consumer whose random choices follow from `seed`.
    ///
    /// # Errors
    /// As [`ConsumerConfig::validate`].
    pub fn new(config: ConsumerConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Rng::new(seed);
        Ok(ConsumerCore {
            network: Network::new(&config.client, rng.next_u64()),
            metadata: Metadata::new(&config.client),
            assigned: BTreeMap::new(),
            sessions: BTreeMap::new(),
            fetching: BTreeSet::new(),
            events: VecDeque::new(),
            buffered_bytes: 0,
            next_generation: 0,
            backoff: Backoff { initial: config.client.retry_backoff, max: config.client.retry_backoff_max },
            rng,
            now: MonoTime(0),
            config,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ConsumerConfig {
        &self.config
    }

    /// The handle of a topic. Its metadata is asked for from now on.
    pub fn topic(&mut self, name: &str) -> TopicHandle {
        self.metadata.intern(name)
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

    /// Begins to read a partition, or reads it on from elsewhere.
    pub fn assign(&mut self, partition: Partition, start: StartAt) {
        self.next_generation += 1;
        let position = match start {
            StartAt::Offset(offset) => Position::Known(offset),
            at => Position::Unknown { at, out_of_range: None },
        };
        let is_paused = self.assigned.get(&partition).is_some_and(|assigned| assigned.is_paused);
        let fresh = Assigned {
            position,
            is_paused,
            in_flight: false,
            buffered: 0,
            generation: self.next_generation,
            failures: 0,
            retry_at: MonoTime(0),
            watermarks: None,
        };
        self.assigned.insert(partition, fresh);
        self.drop_events(partition);
    }

    /// Stops reading a partition. Records of it that were not taken are dropped.
    pub fn unassign(&mut self, partition: Partition) {
        self.assigned.remove(&partition);
        self.drop_events(partition);
    }

    fn drop_events(&mut self, partition: Partition) {
        self.events.retain(|event| event.partition() != partition);
        self.buffered_bytes = self.events.iter().map(ConsumerEvent::size_bytes).sum();
    }

    /// Fetches no more of a partition until [`resume`](Self::resume).
    pub fn pause(&mut self, partition: Partition) {
        if let Some(assigned) = self.assigned.get_mut(&partition) {
            assigned.is_paused = true;
        }
    }

    /// Fetches a paused partition again.
    pub fn resume(&mut self, partition: Partition) {
        if let Some(assigned) = self.assigned.get_mut(&partition) {
            assigned.is_paused = false;
        }
    }

    /// The offset that will be fetched next, if it is known. Records up to it have been handed on or wait in an event.
    #[must_use]
    pub fn position(&self, partition: Partition) -> Option<Offset> {
        match self.assigned.get(&partition)?.position {
            Position::Known(offset) => Some(offset),
            _ => None,
        }
    }

    /// The ends of a partition's log, as last told.
    #[must_use]
    pub fn watermarks(&self, partition: Partition) -> Option<Watermarks> {
        self.assigned.get(&partition)?.watermarks
    }

    /// The next event. Taking a partition's records lets it be fetched on.
    pub fn pop_event(&mut self) -> Option<ConsumerEvent> {
        let event = self.events.pop_front()?;
        self.buffered_bytes -= event.size_bytes();
        if let ConsumerEvent::Records(records) = &event
            && let Some(assigned) = self.assigned.get_mut(&records.partition)
        {
            assigned.buffered -= 1;
        }
        Some(event)
    }

    fn stop(&mut self, partition: Partition, error: ConsumerError) {
        let at = self.position(partition);
        if let Some(assigned) = self.assigned.get_mut(&partition) {
            assigned.position = Position::Stopped;
        }
        self.events.push_back(ConsumerEvent::Stopped { partition, at, error });
    }

    fn retry_later(&mut self, partition: Partition, now: MonoTime) {
        if let Some(assigned) = self.assigned.get_mut(&partition) {
            assigned.failures = assigned.failures.saturating_add(1);
            assigned.retry_at = now + self.backoff.after(assigned.failures, &mut self.rng);
        }
    }

    /// The position is outside of the log.
    fn on_out_of_range(&mut self, partition: Partition, offset: Offset) {
        let at = match self.config.auto_offset_reset {
            AutoOffsetReset::Earliest => StartAt::Earliest,
            AutoOffsetReset::Latest => StartAt::Latest,
            AutoOffsetReset::None => {
                return self.stop(partition, ConsumerError::Broker(ErrorCode::OFFSET_OUT_OF_RANGE));
            }
        };
        if let Some(assigned) = self.assigned.get_mut(&partition) {
            assigned.position = Position::Unknown { at, out_of_range: Some(offset) };
        }
    }

    fn leader(&self, partition: Partition) -> Option<(BrokerId, LeaderEpoch)> {
        let leader = self.metadata.leader(partition)?;
        Some((leader.broker?, leader.epoch))
    }
}

impl ConsumerEvent {
    fn size_bytes(&self) -> usize {
        match self {
            ConsumerEvent::Records(records) => records.bytes.len(),
            _ => 0,
        }
    }

    /// The partition that it is about.
    #[must_use]
    pub fn partition(&self) -> Partition {
        match self {
            ConsumerEvent::Records(records) => records.partition,
            ConsumerEvent::Positioned { partition, .. }
            | ConsumerEvent::Reset { partition, .. }
            | ConsumerEvent::Stopped { partition, .. } => *partition,
        }
    }
}

impl Core for ConsumerCore {
    fn poll_action(&mut self, now: MonoTime) -> Option<Action> {
        self.now = self.now.max(now);
        self.network.next_action().or_else(|| {
            self.advance(now);
            self.network.next_action()
        })
    }

    fn wake_at(&self) -> MonoTime {
        // What is due already waits for the network.
        let later = |at: MonoTime| if at > self.now { at } else { MonoTime::NEVER };
        let retries = self.assigned.values().map(|assigned| later(assigned.retry_at));
        retries
            .min()
            .unwrap_or(MonoTime::NEVER)
            .min(self.network.wake_at(self.now))
            .min(later(self.metadata.wake_at()))
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

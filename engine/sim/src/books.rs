//! What everybody outside the broker knows: each record's attempt and outcome, what consumers saw, what the
//! administrator was promised. It lives outside the world that crashes.
//!
//! Attempts and outcomes are kept as [`Event`]s in the order in which they happened, so that they can be written out and
//! read back, and so that the ledger can be made at the end, when it is known which topics are left to be judged.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use highwater_checker::{ErrorClass, Identity, Key, Nanos, PartitionId, ProducerId, RunId};
use highwater_io::MonoTime;
use serde::{Deserialize, Serialize};

/// Something that happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It was handed to the client. Sequences count from 0 within (producer, topic, partition).
    Attempt {
        /// Where, and whose.
        #[serde(flatten)]
        lane: Lane,
        /// Intended send time.
        sent_at: Nanos,
        /// Length of its value in bytes.
        value_len: u32,
        /// Its key, where the topic is compacted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
    },
    /// Records were acknowledged at consecutive offsets.
    Ack {
        /// Where, and whose.
        #[serde(flatten)]
        records: Records,
        /// Of the first.
        base_offset: i64,
        /// When.
        at: Nanos,
    },
    /// Their outcome is an error, or unknown.
    Error {
        /// Where, and whose.
        #[serde(flatten)]
        records: Records,
        /// What it says about the log.
        class: ErrorClass,
        /// Kafka's code, if a broker gave one.
        code: Option<i16>,
    },
    /// They were sent, with acks=0.
    Sent {
        /// Where, and whose.
        #[serde(flatten)]
        records: Records,
    },
    /// They never left the producer.
    NeverSent {
        /// Where, and whose.
        #[serde(flatten)]
        records: Records,
    },
}

/// The records of one producer in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lane {
    /// The producer.
    pub producer: u32,
    /// The topic, by number.
    pub topic: u32,
    /// The partition.
    pub partition: u32,
}

/// A run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Which lane.
    #[serde(flatten)]
    pub lane: Lane,
    /// The first sequence.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// Virtual time, as the checker counts it, for everyone outside the broker. Set before each step of the world.
#[derive(Debug, Default)]
pub(crate) struct Clock(Cell<u64>);

impl Clock {
    pub(crate) fn set(&self, now: MonoTime) {
        self.0.set(now.as_nanos());
    }

    pub(crate) fn now(&self) -> Nanos {
        Nanos(self.0.get())
    }
}

/// A record that was polled while the load went on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Polled {
    pub(crate) topic: u32,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) value: Result<Identity, highwater_checker::DecodeError>,
    pub(crate) at: Nanos,
}

/// What a consumer noted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PollNote {
    Record(Polled),
    /// Its position was set anew.
    Restarted {
        topic: u32,
        partition: u32,
    },
    /// A log end that a broker reported.
    LogEnd {
        topic: u32,
        partition: u32,
        end: i64,
        asked_at: Nanos,
        at: Nanos,
    },
}

/// Everything that is known outside the broker.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) run: RunId,
    pub(crate) clock: Clock,
    events: RefCell<Vec<Event>>,
    next_sequence: RefCell<BTreeMap<Lane, u64>>,
    pub(crate) polls: RefCell<Vec<PollNote>>,
    /// Records acknowledged so far.
    pub(crate) acked: Cell<u64>,
    /// KAFKA_STORAGE_ERROR answers: a sound disk gives no reason for one.
    pub(crate) storage_errors: Cell<u64>,
}

const KAFKA_STORAGE_ERROR: i16 = 56;

impl Books {
    pub(crate) fn new(run: RunId) -> Self {
        Books {
            run,
            clock: Clock::default(),
            events: RefCell::default(),
            next_sequence: RefCell::default(),
            polls: RefCell::default(),
            acked: Cell::new(0),
            storage_errors: Cell::new(0),
        }
    }

    /// Books an attempt, and gives the identity that the record carries.
    pub(crate) fn attempt(&self, lane: Lane, value_len: u32, key: Option<Key>) -> Identity {
        let sent_at = self.clock.now();
        self.events.borrow_mut().push(Event::Attempt { lane, sent_at, value_len, key });
        let mut sequences = self.next_sequence.borrow_mut();
        let next = sequences.entry(lane).or_default();
        let sequence = *next;
        *next += 1;
        Identity {
            run: self.run,
            producer: ProducerId(lane.producer),
            partition: PartitionId { topic: lane.topic, partition: lane.partition },
            sequence,
            sent_at,
            value_len,
        }
    }

    /// Books an acknowledgement that came now.
    pub(crate) fn ack(&self, records: Records, base_offset: i64) {
        self.acked.set(self.acked.get() + u64::from(records.count));
        self.events.borrow_mut().push(Event::Ack { records, base_offset, at: self.clock.now() });
    }

    /// Books any other outcome.
    pub(crate) fn outcome(&self, event: Event) {
        if let Event::Error { code: Some(KAFKA_STORAGE_ERROR), .. } = event {
            self.storage_errors.set(self.storage_errors.get() + 1);
        }
        self.events.borrow_mut().push(event);
    }

    pub(crate) fn note_poll(&self, note: PollNote) {
        self.polls.borrow_mut().push(note);
    }

    /// How many records were attempted.
    pub(crate) fn attempts(&self) -> u64 {
        self.next_sequence.borrow().values().sum()
    }

    pub(crate) fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }
}

//! One producer thread: appends records when they are due, moves bytes, books outcomes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use highwater_checker::{AckPoint, Acks, Filler, Nanos, PartitionId, PartitionIndex, ProducerId};
use highwater_client::adaptor::timestamp_now;
use highwater_client::producer::{ProducerRecord, partition_for_key};
use highwater_client::{HostPort, MonoTime, ProducerConfig};
use highwater_model::compression::Compression;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::book::{Book, Window};
use super::client::Client;
use super::pace::Pace;
use super::{LoadError, Plan, Progress, Signals, producer_seed};
use crate::clock::{after, nanos};
use crate::workload::Cell;
use crate::workload::grid::CellSettings;
use crate::workload::settings::{CompressionType, Key, Payload, Start};

/// A producer looks for signals at least so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// An open loop wakes no more often than this: finer steps would cost CPU that the broker shares.
const FINEST_STEP: Duration = Duration::from_micros(100);
/// Records appended in a row before the sockets get their turn.
const RECORDS_A_TURN: u32 = 256;
const MIN_BUFFER_MEMORY_BYTES: usize = 2 << 20;
const MAX_BUFFER_MEMORY_BYTES: usize = 256 << 20;
const MIN_REQUEST_BYTES: usize = 1 << 20;
/// Room in a request beside its largest batch.
const REQUEST_OVERHEAD_BYTES: usize = 64 << 10;

/// What a producer hands over at its end.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) book: Book,
}

struct Producer<'a> {
    plan: &'a Plan,
    signals: &'a Signals,
    client: Client,
    book: Book,
    rng: ChaCha8Rng,
    index: u32,
    value: Vec<u8>,
    filler: Filler,
    /// The partition that records without a key go to at the moment, and bytes that went there.
    sticky: (i32, usize),
    /// A record that was booked and that the client has not taken yet.
    waiting: Option<Waiting>,
}

struct Waiting {
    partition: i32,
    key: Option<[u8; 16]>,
    token: u64,
}

/// The settings that the client runs with.
pub(super) fn config(cell: &Cell, address: SocketAddr) -> ProducerConfig {
    let settings = &cell.settings;
    let mut config = ProducerConfig::new(vec![host_port(address)]);
    config.client.client_id = "highwater-bench".to_owned();
    config.client.request_timeout = cell.timing.request_timeout;
    config.acks = match settings.acks {
        Acks::Zero => highwater_client::Acks::None,
        Acks::One => highwater_client::Acks::Leader,
        Acks::All => highwater_client::Acks::All,
    };
    config.enable_idempotence = settings.idempotence;
    config.max_in_flight = settings.max_in_flight as usize;
    config.linger = Duration::from_millis(settings.linger_ms);
    config.delivery_timeout = cell.timing.delivery_timeout.max(config.linger + config.client.request_timeout);
    config.batch_size_bytes = settings.batch_size_bytes;
    config.max_request_size_bytes = (settings.batch_size_bytes.max(settings.record_size_bytes)
        + REQUEST_OVERHEAD_BYTES)
        .max(MIN_REQUEST_BYTES);
    config.buffer_memory_bytes = buffer_memory_bytes(settings, config.max_request_size_bytes);
    config.compression = match settings.compression {
        CompressionType::None => Compression::None,
        CompressionType::Gzip => Compression::Gzip,
        CompressionType::Snappy => Compression::Snappy,
        CompressionType::Lz4 => Compression::Lz4,
        CompressionType::Zstd => Compression::Zstd,
    };
    config
}

/// The settings that a user would give a producer to get the same.
pub(super) fn properties(cell: &Cell) -> Vec<(String, String)> {
    let config = config(cell, SocketAddr::from(([127, 0, 0, 1], 9092)));
    let settings = [
        ("acks", cell.settings.acks.to_string()),
        ("batch.size", config.batch_size_bytes.to_string()),
        ("buffer.memory", config.buffer_memory_bytes.to_string()),
        ("compression.type", cell.settings.compression.to_string()),
        ("delivery.timeout.ms", config.delivery_timeout.as_millis().to_string()),
        ("enable.idempotence", config.enable_idempotence.to_string()),
        ("linger.ms", config.linger.as_millis().to_string()),
        ("max.in.flight.requests.per.connection", config.max_in_flight.to_string()),
        ("max.request.size", config.max_request_size_bytes.to_string()),
        ("request.timeout.ms", config.client.request_timeout.as_millis().to_string()),
    ];
    settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// When the broker answers, as the cell asks for it; a flush that is asked for may come before the ack.
fn ack_point(settings: &CellSettings) -> AckPoint {
    match settings.acks {
        Acks::All => AckPoint::AfterWait,
        Acks::Zero | Acks::One if settings.flush.messages.is_some() => AckPoint::AfterWait,
        Acks::Zero | Acks::One => AckPoint::AtAppend,
    }
}

/// How much of a value's filler is zeros, in per cent.
pub(super) fn zero_percent(payload: Payload) -> u8 {
    match payload {
        Payload::Incompressible => 0,
        Payload::Compressible => 50,
    }
}

/// `buffer.memory`: one batch open a partition, and twice what can be on its way. More would only queue: a saturating
/// load would measure its own queue, and take as long to drain it.
fn buffer_memory_bytes(settings: &CellSettings, max_request_bytes: usize) -> usize {
    let partitions = usize::try_from(settings.partitions).unwrap_or(1);
    let open = partitions.saturating_mul(settings.batch_size_bytes.max(settings.record_size_bytes));
    let on_its_way = (settings.max_in_flight as usize).saturating_mul(open.min(max_request_bytes));
    (open + 2 * on_its_way).clamp(MIN_BUFFER_MEMORY_BYTES, MAX_BUFFER_MEMORY_BYTES)
}

pub(super) fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string(), port: address.port() }
}

pub(super) fn run(
    plan: &Plan,
    index: u32,
    signals: &Signals,
    progress: Arc<Progress>,
) -> Result<Notes, LoadError> {
    let config = config(&plan.cell, plan.address);
    let delivery_timeout = nanos(config.delivery_timeout);
    let seed = producer_seed(&plan.cell, index);
    let client = Client::start(plan.driving, config, seed.child("client").0, &plan.topic, plan.clock)?;
    let length = nanos(plan.cell.timing.warm_up + plan.cell.timing.duration);
    let settings = &plan.cell.settings;
    let mut producer = Producer {
        plan,
        signals,
        client,
        book: Book::new(
            (plan.run, ProducerId(index), &plan.layout),
            length,
            delivery_timeout,
            ack_point(settings),
            progress,
        ),
        rng: seed.child("partitions").rng(),
        index,
        value: vec![0; settings.record_size_bytes],
        filler: Filler { zero_percent: zero_percent(settings.payload) },
        sticky: (0, usize::MAX),
        waiting: None,
    };
    producer.warm_up()?;
    producer.measured()?;
    Ok(Notes { book: producer.book })
}

impl Producer<'_> {
    fn now(&self) -> Nanos {
        self.plan.clock.now()
    }

    fn is_aborted(&self) -> bool {
        self.signals.abort.load(Ordering::Acquire)
    }

    fn warm_up(&mut self) -> Result<(), LoadError> {
        let from = self.now();
        if self.plan.cell.settings.start == Start::Warm {
            self.send(from, after(from, self.plan.cell.timing.warm_up))?;
        }
        self.client.flush();
        while !self.client.is_drained() && !self.is_aborted() {
            self.turn(self.soon())?;
        }
        self.signals.warm.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn measured(&mut self) -> Result<(), LoadError> {
        let start_at = loop {
            let start_at = Nanos(self.signals.start_at.load(Ordering::Acquire));
            if start_at.0 > 0 || self.is_aborted() {
                break start_at;
            }
            self.turn(MonoTime(after(self.now(), Duration::from_millis(1)).0))?;
        };
        let until = after(start_at, self.plan.cell.timing.duration);
        if !self.is_aborted() {
            self.book.window = Window { from: start_at, until };
            self.send(start_at, until)?;
        }
        self.drain()
    }

    /// Sends what is due from `from` until `until`.
    fn send(&mut self, from: Nanos, until: Nanos) -> Result<(), LoadError> {
        let settings = &self.plan.cell.settings;
        let rate = settings.rate.records_per_second(settings.record_size_bytes);
        let mut pace = Pace::new(from, rate, self.index, settings.producers);
        while !self.is_aborted() {
            let next = self.append_due(&mut pace, until)?;
            if self.now() >= until && (rate.is_none() || pace.due(until) >= until) {
                break;
            }
            self.turn(next)?;
        }
        Ok(())
    }

    /// Appends every record that is due now and before `until`. Gives the instant of the next.
    fn append_due(&mut self, pace: &mut Pace, until: Nanos) -> Result<MonoTime, LoadError> {
        for _ in 0..RECORDS_A_TURN {
            if !self.append_waiting()? {
                return Ok(self.soon());
            }
            let now = self.now();
            let due = pace.due(now);
            if due >= until {
                return Ok(MonoTime(until.0).min(self.soon()));
            }
            if due > now {
                return Ok(MonoTime(due.0).max(MonoTime(after(now, FINEST_STEP).0)).min(self.soon()));
            }
            self.prepare(due)?;
            pace.advance();
        }
        self.append_waiting()?;
        Ok(self.plan.clock.mono())
    }

    /// Books the next record and writes its value.
    fn prepare(&mut self, due: Nanos) -> Result<(), LoadError> {
        let settings = &self.plan.cell.settings;
        let (partition, key) = match settings.key {
            Key::None => (self.next_sticky(), None),
            Key::Unique => {
                let mut key = [0; 16];
                self.rng.fill_bytes(&mut key);
                (partition_for_key(&key, settings.partitions).0, Some(key))
            }
        };
        let length = u32::try_from(self.value.len()).expect("the parser bounds record.size");
        let (identity, token) = self.book.attempt(self.place(partition), due, length);
        identity.encode(&mut self.value, self.filler).expect("the value has the length that was booked");
        self.waiting = Some(Waiting { partition, key, token });
        Ok(())
    }

    fn place(&self, partition: i32) -> PartitionIndex {
        let partition = PartitionId { topic: 0, partition: partition.unsigned_abs() };
        self.plan.layout.index(partition).expect("the layout has the cell's partitions")
    }

    /// As Kafka's client without keys: about a batch's worth to one partition, then another (KIP-794). The harness
    /// chooses, since the identity in the value names the partition.
    fn next_sticky(&mut self) -> i32 {
        let settings = &self.plan.cell.settings;
        let (partition, bytes) = self.sticky;
        if bytes < settings.batch_size_bytes {
            self.sticky.1 += settings.record_size_bytes;
            return partition;
        }
        let chosen = self.rng.next_u32() % settings.partitions.unsigned_abs();
        self.sticky = (chosen.cast_signed(), settings.record_size_bytes);
        self.sticky.0
    }

    /// Hands the waiting record to the client. False while the client has no room for it.
    fn append_waiting(&mut self) -> Result<bool, LoadError> {
        let Some(waiting) = &self.waiting else { return Ok(true) };
        let record = ProducerRecord {
            partition: Some(highwater_model::PartitionIndex(waiting.partition)),
            key: waiting.key.as_ref().map(|key| &key[..]),
            token: waiting.token,
            ..ProducerRecord::new(self.client.topic(), timestamp_now(), &self.value)
        };
        let now = self.now();
        match self.client.append(&record) {
            Ok(()) => {
                self.book.sent(waiting.token, now);
                self.waiting = None;
                Ok(true)
            }
            Err(error) if error.passes() => Ok(false),
            Err(source) => Err(LoadError::Append { producer: self.index, source }),
        }
    }

    /// Waits for the outcome of everything, or gives up on it when told to.
    fn drain(&mut self) -> Result<(), LoadError> {
        while self.waiting.is_some() && !self.is_aborted() {
            if !self.append_waiting()? {
                self.turn(self.soon())?;
            }
        }
        self.client.flush();
        while !self.client.is_drained() && !self.is_aborted() {
            self.turn(self.soon())?;
        }
        self.client.abort();
        self.deliver()?;
        if let Some(waiting) = self.waiting.take() {
            self.book.never_sent(waiting.token)?;
        }
        Ok(())
    }

    fn turn(&mut self, until: MonoTime) -> Result<(), LoadError> {
        self.client.turn(until)?;
        self.deliver()
    }

    fn deliver(&mut self) -> Result<(), LoadError> {
        while let Some(settled) = self.client.pop() {
            self.book.settle(&settled)?;
        }
        Ok(())
    }

    fn soon(&self) -> MonoTime {
        MonoTime(after(self.now(), LOOK_INTERVAL).0)
    }
}

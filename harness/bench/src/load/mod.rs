//! The load: producers on an open loop or saturating, every record with its identity, every outcome in the ledger.
//!
//! ```text
//!   warm up ──▶ all acknowledged? ──▶ the clock starts ──▶ sending ends ──▶ drained
//!                                          │
//!                                          └── a fault ends it earlier: nothing more is sent, what is
//!                                              outstanding gets the outcome that is known of it
//! ```
//!
//! * [`pace`]: when records should be sent.
//! * [`client`], [`turn`]: the client, and how its bytes move.
//! * [`producer`]: one thread, one producer.
//! * [`follower`]: one thread, one consumer that reads along.
//! * [`book`], [`timeline`]: what is noted.
//!
//! Records of the warm-up are in the ledger like all others, and in no figure.

mod book;
mod client;
mod follower;
mod pace;
mod producer;
mod timeline;
mod turn;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_checker::{
    Layout, Ledger, LedgerError, Nanos, Offset, PartitionIndex, Polls, ProducerLedger, RunId,
};
use highwater_client::ConfigError;
use highwater_client::producer::{AppendError, Outcome};

use crate::cancel::{Cancel, Interrupted};
use crate::clock::{Clock, after, nanos};
use crate::machine;
use crate::results::{Latency, Load, Timeline};
use crate::seed::Seed;
use crate::workload::Cell;
use crate::workload::settings::Payload;

use book::Counts;
pub use client::Driving;
use timeline::Buckets;

/// Between two looks of whoever waits for the producers.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// From the decision to start the clock to its start, so that all producers see it in time.
const START_DELAY: Duration = Duration::from_millis(10);

/// What a load is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The broker.
    pub address: SocketAddr,
    /// The topic, which exists.
    pub topic: String,
    /// Settings and times.
    pub cell: Cell,
    /// The run that the records belong to.
    pub run: RunId,
    /// One topic with the cell's partitions.
    pub layout: Layout,
    /// The trial's clock.
    pub clock: Clock,
    /// How the client's bytes move.
    pub driving: Driving,
}

/// Why a load failed. What a broker does to records is no failure but an outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The client refuses the settings.
    #[error("the client's settings: {0}")]
    Config(#[from] ConfigError),
    /// The client refuses a record for good.
    #[error("producer {producer}: {source}")]
    Append {
        /// Which.
        producer: u32,
        /// Why.
        source: AppendError,
    },
    /// The harness contradicted itself.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The operating system refuses a thread, or to wait.
    #[error("load: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing of the warm-up was acknowledged in time.
    #[error("the warm-up was not acknowledged within {within:?}")]
    WarmUp {
        /// How long it was given.
        within: Duration,
    },
    /// A producer's thread ended by a panic.
    #[error("producer {0} panicked")]
    Panicked(u32),
    /// A consumer's thread ended by a panic.
    #[error("consumer {0} panicked")]
    FollowerPanicked(u32),
    /// Somebody asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// What can be seen of a load while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    attempted: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
    last_ack_at: AtomicU64,
}

impl Progress {
    fn attempted(&self) {
        self.attempted.fetch_add(1, Ordering::Relaxed);
    }

    fn delivered(&self, outcome: &Outcome, records: u64, at: Nanos) {
        match outcome {
            // An ack that does not say where is none that a broker can be held to.
            Outcome::Failed(_) | Outcome::Acked { base_offset: None, .. } => {
                self.failed.fetch_add(records, Ordering::Relaxed);
            }
            Outcome::Acked { .. } | Outcome::Sent => {
                self.acked.fetch_add(records, Ordering::Relaxed);
                self.last_ack_at.fetch_max(at.0, Ordering::Relaxed);
            }
        }
    }

    /// Records acknowledged (acks=0: handed to the socket), the warm-up included.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// When the last of them was.
    #[must_use]
    pub fn last_ack_at(&self) -> Nanos {
        Nanos(self.last_ack_at.load(Ordering::Relaxed))
    }
}

/// What producers and consumers are told.
#[derive(Debug, Default)]
struct Signals {
    /// How many have had their warm-up acknowledged.
    warm: AtomicU64,
    /// When the clock starts; 0 until that is decided.
    start_at: AtomicU64,
    /// Send nothing more and give up on what is outstanding.
    abort: AtomicBool,
    /// Where the log of each partition ends at least, once all producers are done.
    sent: OnceLock<Vec<(PartitionIndex, Offset)>>,
}

/// A load that runs. Dropping it aborts it.
#[derive(Debug)]
pub struct Running {
    plan: Arc<Plan>,
    signals: Arc<Signals>,
    progress: Arc<Progress>,
    threads: Vec<JoinHandle<Result<producer::Notes, LoadError>>>,
    followers: Vec<JoinHandle<Result<Polls, LoadError>>>,
    cpu_before: Duration,
}

/// What came of a load.
#[derive(Debug)]
pub struct Done {
    /// What was attempted and answered.
    pub ledger: Ledger,
    /// How much, over the measured time.
    pub load: Load,
    /// From the intended send time.
    pub intended: Latency,
    /// From the send.
    pub service: Latency,
    /// By time.
    pub timeline: Timeline,
    /// CPU time of the client over the measured time.
    pub client_cpu: Duration,
    /// What consumers saw, one each.
    pub polls: Vec<Polls>,
    /// What passed until they had caught up.
    pub lingered: Lingered,
}

/// What passes between the end of the producers and that of the consumers: the broker may go on with what it put off.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lingered {
    /// How long.
    pub elapsed: Duration,
    /// CPU time of the machine less the client's, where it is known.
    pub broker_cpu: Option<Duration>,
}

/// Starts the consumers, and the producers, which warm up at once.
pub fn start(plan: Plan) -> Result<Running, LoadError> {
    let plan = Arc::new(plan);
    let mut running = Running {
        signals: Arc::new(Signals::default()),
        progress: Arc::new(Progress::default()),
        threads: Vec::new(),
        followers: Vec::new(),
        cpu_before: Duration::ZERO,
        plan,
    };
    for index in 0..running.plan.cell.settings.consumers {
        let (plan, signals) = (running.plan.clone(), running.signals.clone());
        let thread = std::thread::Builder::new()
            .name(format!("consumer-{index}"))
            .spawn(move || follower::run(&plan, index, &signals))?;
        running.followers.push(thread);
    }
    for index in 0..running.plan.cell.settings.producers {
        let (plan, signals, progress) =
            (running.plan.clone(), running.signals.clone(), running.progress.clone());
        let thread = std::thread::Builder::new()
            .name(format!("producer-{index}"))
            .spawn(move || producer::run(&plan, index, &signals, progress))?;
        running.threads.push(thread);
    }
    Ok(running)
}

impl Running {
    /// Waits for the warm-up, then starts the clock. Gives the instant at which it starts.
    pub fn start_clock(&mut self, cancel: &Cancel) -> Result<Nanos, LoadError> {
        let timing = &self.plan.cell.timing;
        let within = timing.warm_up + timing.delivery_timeout + Duration::from_secs(1);
        let deadline = self.plan.clock.instant(after(self.plan.clock.now(), within));
        while self.signals.warm.load(Ordering::Acquire) < self.threads.len() as u64 {
            if self.threads.iter().any(JoinHandle::is_finished)
                || self.followers.iter().any(JoinHandle::is_finished)
            {
                return Err(self.first_error());
            }
            if Instant::now() >= deadline {
                return Err(LoadError::WarmUp { within });
            }
            cancel.wait(LOOK_INTERVAL)?;
        }
        self.cpu_before = client_cpu();
        let start_at = after(self.plan.clock.now(), START_DELAY);
        self.signals.start_at.store(start_at.0, Ordering::Release);
        Ok(start_at)
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether all producers are done.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Sends nothing more, and gives up on what is outstanding.
    pub fn abort(&self) {
        self.signals.abort.store(true, Ordering::Release);
    }

    /// Waits until all producers are done, and gathers what they noted.
    pub fn finish(mut self, cancel: &Cancel) -> Result<Done, LoadError> {
        while !self.is_finished() {
            if let Err(interrupted) = cancel.wait(LOOK_INTERVAL) {
                self.abort();
                self.join()?;
                return Err(interrupted.into());
            }
        }
        let client_cpu = client_cpu().saturating_sub(self.cpu_before);
        let start_at = Nanos(self.signals.start_at.load(Ordering::Acquire));
        let aborted = self.signals.abort.load(Ordering::Acquire);
        let ended = if aborted { Ended::ByFault } else { Ended::BySchedule };
        let notes = self.join_producers();
        let ledgers = notes.iter().flatten().map(|notes| &notes.book.ledger);
        let (polls, lingered) = self.join_followers(ledgers.flat_map(ProducerLedger::acked_ends).collect());
        Ok(Done { polls: polls?, lingered, ..gather(&self.plan, start_at, notes?, client_cpu, ended)? })
    }

    /// Waits for all threads. The first error, if there was one.
    fn join(&mut self) -> Result<(), LoadError> {
        let notes = self.join_producers();
        let (polls, _) = self.join_followers(Vec::new());
        notes.and(polls.map(drop))
    }

    /// Lets consumers come to these ends, or wait until nothing comes any more where there are none.
    fn join_followers(
        &mut self,
        ends: Vec<(PartitionIndex, Offset)>,
    ) -> (Result<Vec<Polls>, LoadError>, Lingered) {
        // Whoever comes second has nobody to tell.
        let _ = self.signals.sent.set(ends);
        if self.followers.is_empty() {
            return (Ok(Vec::new()), Lingered::default());
        }
        let (began, machine, client) = (Instant::now(), machine::busy_cpu(), client_cpu());
        let followers = std::mem::take(&mut self.followers).into_iter().zip(0..);
        let polls = followers
            .map(|(thread, index)| thread.join().unwrap_or(Err(LoadError::FollowerPanicked(index))))
            .collect();
        let client = client_cpu().saturating_sub(client);
        let broker_cpu = machine::busy_cpu()
            .zip(machine)
            .map(|(now, before)| now.saturating_sub(before).saturating_sub(client));
        (polls, Lingered { elapsed: began.elapsed(), broker_cpu })
    }

    fn join_producers(&mut self) -> Result<Vec<producer::Notes>, LoadError> {
        let threads = std::mem::take(&mut self.threads);
        let joined = threads
            .into_iter()
            .zip(0..)
            .map(|(thread, index)| thread.join().unwrap_or(Err(LoadError::Panicked(index))));
        joined.collect()
    }

    fn first_error(&mut self) -> LoadError {
        self.abort();
        match self.join() {
            Err(error) => error,
            Ok(_) => LoadError::WarmUp { within: self.plan.cell.timing.warm_up },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.abort();
        let _ = self.join();
    }
}

/// What ended a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    BySchedule,
    ByFault,
}

fn gather(
    plan: &Plan,
    start_at: Nanos,
    notes: Vec<producer::Notes>,
    client_cpu: Duration,
    ended: Ended,
) -> Result<Done, LoadError> {
    let (mut intended, mut service) = (Latency::default(), Latency::default());
    let (mut ledgers, mut buckets) = (Vec::new(), Vec::new());
    let mut total = Counts::default();
    for book in notes.into_iter().map(|notes| notes.book) {
        intended.merge(&book.intended);
        service.merge(&book.service);
        ledgers.push(book.ledger);
        buckets.push(book.buckets);
        total.acked += book.counts.acked;
        total.acked_bytes += book.counts.acked_bytes;
        total.failed += book.counts.failed;
        total.last_outcome_at = total.last_outcome_at.max(book.counts.last_outcome_at);
    }
    let settings = &plan.cell.settings;
    let target = settings.rate.records_per_second(settings.record_size_bytes);
    let mut elapsed = total.last_outcome_at.since(start_at);
    if target.is_some() && ended == Ended::BySchedule {
        // An open loop that kept up ends with its last instant, not with its last ack.
        elapsed = elapsed.max(nanos(plan.cell.timing.duration));
    }
    let load = Load {
        elapsed,
        target_records_per_second: target,
        records: total.acked,
        bytes: total.acked_bytes,
        failed: total.failed,
        broker_cpu: None,
        used: None,
        drain: None,
        polled: None,
    };
    let ledger = Ledger::gather(plan.run, &plan.layout, ledgers)?;
    let timeline = Buckets::merge(buckets);
    let (polls, lingered) = (Vec::new(), Lingered::default());
    Ok(Done { ledger, load, intended, service, timeline, client_cpu, polls, lingered })
}

/// The settings that a user would give a producer to get what a cell has, by Kafka's names.
#[must_use]
pub fn producer_properties(cell: &Cell) -> Vec<(String, String)> {
    producer::properties(cell)
}

/// How much of a record's filler is zeros, in per cent.
#[must_use]
pub fn zero_percent(payload: Payload) -> u8 {
    producer::zero_percent(payload)
}

/// CPU time of this process so far.
fn client_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or(0), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// The seed of everything that producer `index` leaves to chance.
fn producer_seed(cell: &Cell, index: u32) -> Seed {
    cell.seed.child(&format!("producer {index}"))
}

/// The seed of what consumer `index` leaves to chance.
fn follower_seed(cell: &Cell, index: u32) -> Seed {
    cell.seed.child(&format!("consumer {index}"))
}

//! One cell: a broker from an empty directory to a verdict.
//!
//! ```text
//!   medium ─ prepare ─ start ─ topic ─ settle ─ warm memory ─ warm up ─ LOAD ─ fault ─ restart ─ final reads ─ verdict
//!                                       │                                │                        │
//!                     nothing of this may be lost to a cut    every outcome in the ledger   both isolation levels
//! ```
//!
//! Whatever happens on the way, the broker is killed and the medium is gone when [`run`] returns: both belong to values
//! that clean up when they are dropped.

mod aim;
pub mod contract;
mod drain;
mod evidence;
mod fault;
mod files;
mod outcome;
mod read_back;
mod simulate;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use highwater_checker::{
    self as checker, Contract, FaultEvent, Layout, Loss, Nanos, RunId, Setting, Standing, Verdict, judge,
};
use highwater_disk::PowerOnReport;

use crate::broker::admin::{self, AdminError, Settings};
use crate::broker::driver::{Driver, Place};
use crate::broker::memory::MemoryGroup;
use crate::broker::process::{Broker, Installed, Stopped, Usage, free_ports};
use crate::broker::wire::{Connection, WireError};
use crate::cancel::Cancel;
use crate::clock::{Clock, after};
use crate::load::{self, Done, Driving, Running};
use crate::machine;
use crate::medium::{Medium, MediumKind, Scratch};
use crate::results::{FaultMark, Load, Used};
use crate::workload::settings::{Fault, Start};
use crate::workload::{Cell, Workload};

use aim::Reached;
use contract::Effective;
use evidence::Evidence;
use fault::Strike;
pub use outcome::{CellError, Details, Outcome};
pub use simulate::{SimulationError, Simulator};

/// The topic of every cell.
const TOPIC: &str = "bench";
/// Medium of a disk with a power switch. Sparse: only what is written takes space.
const DISK_BYTES: u64 = 4 << 30;
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Partitions that nobody uses are made a topic at a time, and each has so many records.
const IDLE_PARTITIONS_OF_A_TOPIC: u32 = 500;
const IDLE_RECORDS: usize = 10;
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// A broker that has just started may refuse a topic until it counts itself in.
const CREATE_WITHIN: Duration = Duration::from_secs(20);
const CREATE_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Between two looks at a running load.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at how much is acknowledged, where a fault waits for that.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(1);
/// Such a fault strikes up to this much later, as the seed says: not always in the same phase of a flush.
const PROGRESS_DELAY: Duration = Duration::from_millis(20);
/// Memory touched before a performance cell, through the page cache.
const WARM_BYTES: u64 = 1 << 30;

/// What a cell needs besides itself.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// How to run its broker.
    pub driver: &'a Driver,
    /// Where the broker is installed.
    pub home: &'a Path,
    /// The workload it is from.
    pub workload: &'a Workload,
    /// Where its files go while it runs, on a real disk.
    pub scratch: &'a Path,
    /// Where logs are kept afterwards.
    pub logs: &'a Path,
    /// Where the data directory is kept, as the fault left it, of a trial that broke its contract.
    pub evidence: Option<&'a Path>,
    /// Whether this machine can cut the power of a disk.
    pub can_cut_power: bool,
    /// Runs what this machine cannot, if there is such a thing.
    pub simulator: Option<&'a dyn Simulate>,
    /// How the client's bytes move.
    pub driving: Driving,
    /// Somebody may ask to stop.
    pub cancel: &'a Cancel,
    /// Who wants to know how far it is.
    pub observer: &'a dyn Observer,
}

/// A world in which brokers run without a real disk, and its power can be cut without a real machine.
pub trait Simulate {
    /// Whether it can run this broker: only one whose code is part of it.
    fn knows(&self, broker: &str) -> bool;
    /// Why that broker cannot use io_uring on this machine, and runs on its slower driver; `None` if it can.
    fn io_uring_is_refused_because(&self) -> Option<&str>;
    /// Runs a cell.
    fn run(&self, bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, CellError>;
}

/// What is below the data directory of a cell.
#[must_use]
pub fn medium_kind(cell: &Cell, can_cut_power: bool) -> MediumKind {
    MediumKind::for_fault(cell.settings.fault, can_cut_power)
}

/// Who wants to know how far a cell is.
pub trait Observer {
    /// A phase begins.
    fn phase(&self, phase: Phase);
    /// The load has run for `elapsed` of `of`, and `acked` records were acknowledged so far.
    fn load(&self, acked: u64, elapsed: Duration, of: Duration);
}

/// The phases of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Medium, data directory, broker, topic.
    Starting,
    /// Memory and load.
    WarmingUp,
    /// The clock runs.
    Loading,
    /// After the fault, until the broker serves again.
    Recovering,
    /// The final reads.
    Reading,
}

impl Phase {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::WarmingUp => "warming up",
            Phase::Loading => "loading",
            Phase::Recovering => "recovering",
            Phase::Reading => "reading back",
        }
    }
}

/// Runs a cell.
pub fn run(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, CellError> {
    let kind = medium_kind(cell, bench.can_cut_power);
    if kind == MediumKind::Simulated {
        return match bench.simulator.filter(|simulator| simulator.knows(&cell.broker)) {
            Some(simulator) => simulator.run(bench, cell),
            None => Err(CellError::NeedsSimulation),
        };
    }
    bench.observer.phase(Phase::Starting);
    let scratch = Scratch::create(bench.scratch)?;
    let medium = Medium::create(kind, &scratch, DISK_BYTES)?;
    let work = scratch.child("work")?;
    // From here on logs are worth keeping, whatever happens.
    let kept = KeepLogs { from: work.path().to_owned(), to: bench.logs.to_owned() };
    let outcome = Trial::new(*bench, cell, &medium, work.path())?.run();
    drop(kept);
    medium.remove()?;
    outcome
}

/// Copies the logs of a cell's broker when it is dropped.
struct KeepLogs {
    from: PathBuf,
    to: PathBuf,
}

impl Drop for KeepLogs {
    fn drop(&mut self) {
        for name in ["broker.log", "prepare.log"] {
            // A log that cannot be kept must not hide what the cell found.
            let _ = std::fs::create_dir_all(&self.to)
                .and_then(|()| std::fs::copy(self.from.join(name), self.to.join(name)));
        }
    }
}

/// What a load is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Its end: there is no fault.
    Finished,
    /// The instant of the fault.
    At(Nanos),
    /// The number of acknowledged records at which the fault is due, those `before` the clock started included.
    Acked { total: u64, before: u64 },
}

impl Until {
    fn of(cell: &Cell, started_at: Nanos, acked_before: u64) -> Self {
        match (cell.fault_after(), cell.settings.fault_acked) {
            (None, _) => Until::Finished,
            (Some(_), Some(acked)) => Until::Acked { total: acked_before + acked, before: acked_before },
            (Some(delay), None) => Until::At(after(started_at, delay)),
        }
    }
}

/// A cell under way.
struct Trial<'a> {
    bench: Bench<'a>,
    cell: &'a Cell,
    medium: &'a Medium,
    installed: Installed,
    layout: Layout,
    run: RunId,
    broker_settings: Settings,
    topic_settings: Settings,
}

/// What is known once the load has ended.
struct Loaded {
    done: Done,
    started_at: Nanos,
    strike: Option<Strike>,
    reached: Reached,
    usage: Usage,
    /// Of the machine while the clock ran, the client's share included, and while what was left was flushed.
    machine_cpu: Option<Duration>,
}

/// What the broker owes, as the settings in effect say.
struct Owed {
    setting: Setting,
    contract: Contract,
    effective: Effective,
    fault: Option<checker::Fault>,
}

/// How the start on the empty directory went.
#[derive(Clone, Copy)]
struct Started {
    ready_ms: u64,
    memory_warmed: bool,
}

/// A broker after a fault, back or not.
struct Recovered {
    event: FaultEvent,
    power_on: Option<PowerOnReport>,
    /// How long it took, if it is back whole.
    took: Option<Duration>,
    evidence: Option<Evidence>,
    /// Why it does not serve, if so.
    unserved: Option<String>,
}

impl<'a> Trial<'a> {
    fn new(bench: Bench<'a>, cell: &'a Cell, medium: &'a Medium, work: &Path) -> Result<Self, CellError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| CellError::Io { path, source }
        };
        let (port, port2) = free_ports().map_err(io(work))?;
        let data = medium.data();
        std::fs::create_dir_all(&data).map_err(io(&data))?;
        let place = Place { home: bench.home.to_owned(), data, work: work.to_owned(), port, port2 };
        let overrides = bench.workload.settings.get(&cell.broker);
        let broker_settings = bench.driver.settings_for(cell.settings.flush, overrides);
        let installed = Installed::prepare(bench.driver, place, &broker_settings, bench.cancel)?;
        // Where there can be no group the sweep has said so, and the results do not claim one.
        let group = cell.settings.memory_limit_bytes.and_then(|bytes| MemoryGroup::create(bytes).ok());
        let installed = installed.within(group);
        Ok(Trial {
            bench,
            cell,
            medium,
            installed,
            layout: Layout::new(&[cell.settings.partitions.unsigned_abs()]),
            run: RunId(cell.seed.child(&cell.broker).0),
            broker_settings,
            topic_settings: contract::topic_settings(cell, &bench.workload.topic),
        })
    }

    fn run(self) -> Result<Outcome, CellError> {
        let clock = Clock::start();
        let starting = Instant::now();
        let mut broker = self.installed.start()?;
        let broker_id = broker.wait_ready(None, self.bench.cancel)?;
        let ready_ms = millis(starting.elapsed());
        self.create_topic(&mut broker)?;
        let effective = self.effective(broker_id)?;
        effective.check(&self.topic_settings).map_err(CellError::NotInEffect)?;
        let setting = effective.setting(self.cell, self.bench.driver);
        let fault = contract::fault(self.cell.settings.fault);
        let contract = Contract {
            retention_bytes: effective.retention_bytes(),
            ..contract::contract(&setting, fault.as_ref())
        };
        self.settle()?;

        let memory_warmed = self.warm_memory()?;
        let loaded = self.load(&mut broker, clock, Duration::from_millis(ready_ms))?;
        let struck = loaded.strike.is_some() || !loaded.reached.earlier.is_empty();
        let owed = Owed { setting, contract, effective, fault };
        let started = Started { ready_ms, memory_warmed };
        let outcome = self.conclude(broker, loaded, owed, started, clock);
        if struck { outcome.map_err(CellError::after_fault) } else { outcome }
    }

    /// From the end of the load to the verdict. Whatever the broker does here is part of the verdict, be it that it does
    /// not come back: only the harness and the machine can fail.
    fn conclude(
        self,
        mut broker: Broker,
        loaded: Loaded,
        owed: Owed,
        started: Started,
        clock: Clock,
    ) -> Result<Outcome, CellError> {
        let Owed { setting, contract, effective, fault } = owed;
        let recovered = match (loaded.strike, fault) {
            (Some(strike), Some(fault)) => Some(self.recover(&mut broker, &strike, fault, clock)?),
            _ => None,
        };
        let unserved = match &recovered {
            Some(recovered) => recovered.unserved.clone(),
            None => loaded.reached.unserved.clone(),
        };
        if unserved.is_none() {
            if recovered.is_none() {
                self.wait_until_quiet(&loaded)?;
            }
            self.wait_for_retention()?;
        }
        self.bench.observer.phase(Phase::Reading);
        let readings = match &unserved {
            Some(why) => self.nothing_read(why),
            None => self.read_back(&mut broker)?,
        };

        let Loaded { done, started_at, strike, reached, usage, machine_cpu } = loaded;
        let (events, faults) = self.faults(&reached, strike.as_ref(), recovered.as_ref());
        let outage = !reached.earlier.is_empty();
        let attempted_from = started_at.since(crate::clock::nanos(self.cell.timing.warm_up));
        let trial = checker::Trial {
            ledger: done.ledger,
            faults: events,
            readings,
            polls: done.polls,
            observations: Vec::new(),
        };
        let mut verdict = judge(trial, &contract)?;
        if let (Some(strike), None) = (strike, &unserved) {
            self.judge_creation(reached, strike.struck_at, &mut verdict)?;
        }
        let stopped_cleanly = broker.stop()? == Stopped::Cleanly;
        let (power_on, took, evidence) = match recovered {
            Some(recovered) => (recovered.power_on, recovered.took, recovered.evidence),
            None => (None, None, None),
        };
        if let (Some(evidence), Some(to), Standing::Broken) =
            (evidence, self.bench.evidence, verdict.standing)
        {
            evidence.keep(&to.join(self.cell.id().to_string()))?;
        }
        let broker_cpu = machine_cpu.map(|machine| machine.saturating_sub(done.client_cpu));
        Ok(Outcome {
            window_is_lower_bound: strike.is_some_and(|strike| {
                is_lower_bound(&contract, &verdict, strike.struck_at.since(attempted_from))
            }),
            load: Load {
                broker_cpu: broker_cpu.map(crate::clock::nanos),
                used: Some(Used {
                    cpu: crate::clock::nanos(usage.cpu),
                    peak_rss_bytes: usage.peak_rss_bytes,
                    end_rss_bytes: usage.rss_bytes,
                    memory_limit_bytes: self.installed.memory_limit_bytes(),
                    lap_bytes: self.bench.driver.lap_bytes(&effective.broker),
                }),
                // A broker that the harness itself took away for a while is not held to the rate.
                target_records_per_second: done.load.target_records_per_second.filter(|_| !outage),
                ..done.load
            },
            intended: done.intended,
            service: done.service,
            timeline: done.timeline,
            faults,
            verdict,
            details: Details {
                ready_ms: started.ready_ms,
                recovery_ms: took.map(millis),
                broker_process_cpu_ms: millis(usage.cpu),
                broker_peak_rss_bytes: usage.peak_rss_bytes,
                client_cpu_ms: millis(done.client_cpu),
                memory_warmed: started.memory_warmed,
                stopped_cleanly,
                cut: strike.and_then(|strike| strike.cut),
                flushes_lied: strike.map_or(0, |strike| strike.flushes_lied),
                power_on,
            },
            effective: effective.shown(self.bench.driver),
            setting,
            contract,
            broker_settings: self.broker_settings,
            topic_settings: self.topic_settings,
        })
    }

    /// What was done to the broker, for the checker and for the results.
    fn faults(
        &self,
        reached: &Reached,
        strike: Option<&Strike>,
        recovered: Option<&Recovered>,
    ) -> (Vec<FaultEvent>, Vec<FaultMark>) {
        let (mut events, mut marks): (Vec<_>, Vec<_>) = reached.earlier.iter().cloned().unzip();
        if let (Some(strike), Some(Recovered { event, .. })) = (strike, recovered) {
            events.push(event.clone());
            marks.push(FaultMark {
                fault: event.fault,
                struck_at: event.struck_at,
                restored_at: event.restored_at,
                since_last_ack: Some(crate::clock::nanos(strike.since_last_ack)),
                aim: reached.mark(self.cell.settings.aim, event.struck_at),
                unflushed: strike.unflushed(),
            });
        }
        (events, marks)
    }

    fn partitions(&self) -> i32 {
        self.cell.settings.partitions
    }

    fn connect(&self) -> Result<Connection, WireError> {
        Connection::open(self.installed.address(), ADMIN_TIMEOUT)
    }

    fn create_topic(&self, broker: &mut Broker) -> Result<(), CellError> {
        let deadline = Instant::now() + CREATE_WITHIN;
        let mut connection = self.connect()?;
        while let Err(error) =
            admin::create_topic(&mut connection, TOPIC, self.partitions(), &self.topic_settings)
        {
            broker.check_alive()?;
            if Instant::now() >= deadline {
                return Err(error.into());
            }
            self.bench.cancel.wait(CREATE_AGAIN_AFTER)?;
        }
        broker.wait_ready(Some((TOPIC, self.partitions())), self.bench.cancel)?;
        self.create_idle()
    }

    /// Makes the partitions that nobody will use, with a few records in each.
    fn create_idle(&self) -> Result<(), CellError> {
        let mut left = self.cell.settings.idle_partitions;
        let mut connection = Connection::open(self.installed.address(), IDLE_TIMEOUT)?;
        for number in 0.. {
            if left == 0 {
                break;
            }
            self.bench.cancel.check()?;
            let partitions = left.min(IDLE_PARTITIONS_OF_A_TOPIC);
            let name = format!("idle-{number}");
            let count = i32::try_from(partitions).unwrap_or(i32::MAX);
            admin::create_topic(&mut connection, &name, count, &self.topic_settings)?;
            admin::fill(&mut connection, &name, count, IDLE_RECORDS, self.cell.settings.record_size_bytes)?;
            left -= partitions;
        }
        Ok(())
    }

    fn effective(&self, broker_id: i32) -> Result<Effective, CellError> {
        let mut connection = self.connect()?;
        match admin::topic_settings(&mut connection, TOPIC) {
            Ok(topic) => {
                let broker = admin::broker_settings(&mut connection, broker_id)?;
                Ok(Effective { topic, broker })
            }
            // A broker that cannot be asked is believed.
            Err(AdminError::Wire(WireError::Unsupported { .. })) => Ok(Effective::default()),
            Err(error) => Err(error.into()),
        }
    }

    fn settle(&self) -> Result<(), CellError> {
        self.medium.settle().map_err(|source| CellError::Io { path: self.medium.data(), source })
    }

    /// A virtual machine's first touch of a page costs far more than a write to it. Touches memory through the page
    /// cache, before cells that are measured.
    fn warm_memory(&self) -> Result<bool, CellError> {
        self.bench.observer.phase(Phase::WarmingUp);
        if self.cell.settings.fault != Fault::None || self.cell.settings.start == Start::Cold {
            return Ok(false);
        }
        let path = self.installed.place().work.join("warm");
        let io = |source| CellError::Io { path: path.clone(), source };
        let file = std::fs::File::create(&path).map_err(io)?;
        let chunk = vec![0x5a; 1 << 20];
        let mut written = 0;
        while written < WARM_BYTES {
            self.bench.cancel.check()?;
            std::io::Write::write_all(&mut &file, &chunk).map_err(io)?;
            written += chunk.len() as u64;
        }
        drop(file);
        std::fs::remove_file(&path).map_err(io)?;
        Ok(true)
    }

    fn load(&self, broker: &mut Broker, clock: Clock, ready: Duration) -> Result<Loaded, CellError> {
        let plan = load::Plan {
            address: broker.address(),
            topic: TOPIC.to_owned(),
            cell: self.cell.clone(),
            run: self.run,
            layout: self.layout.clone(),
            clock,
            driving: self.bench.driving,
        };
        let mut running = load::start(plan)?;
        let since = SystemTime::now();
        let started_at = running.start_clock(self.bench.cancel)?;
        let before = (machine::busy_cpu(), broker.usage());
        fault::prepare(self.medium.disk(), &self.cell.settings)?;
        self.bench.observer.phase(Phase::Loading);
        let until = Until::of(self.cell, started_at, running.progress().acked());
        self.watch(broker, &running, started_at, until, clock)?;
        let usage = broker.usage();
        let (mut reached, mut strike) = (Reached::default(), None);
        if until != Until::Finished {
            reached = self.reach(broker, &running, clock, ready)?;
            if reached.unserved.is_none() {
                strike = Some(self.strike(broker, &running, clock).map_err(CellError::after_fault)?);
                reached.stop_watching();
            } else {
                running.abort();
            }
            self.bench.observer.phase(Phase::Recovering);
        }
        let mut machine_cpu = busy_since(before.0);
        let done = running.finish(self.bench.cancel).map_err(CellError::from);
        let struck = strike.is_some() || !reached.earlier.is_empty();
        let done = if struck { done.map_err(CellError::after_fault)? } else { done? };
        // What the client does between its end and the drain, to gather what it noted, is charged to nobody.
        let undrained = machine::busy_cpu();
        let mut drain = None;
        if until == Until::Finished {
            // What the broker writes by itself meanwhile takes that time, too.
            let meanwhile = Duration::from_nanos(clock.now().since(started_at).since(done.load.elapsed).0);
            let wrote = broker.usage().written_bytes != usage.written_bytes;
            let before = if wrote { meanwhile } else { done.lingered.elapsed };
            let took = drain::drain(broker, self.medium.data().as_ref(), since, self.bench.cancel)?;
            drain = Some(crate::clock::nanos(before + took));
            let more = busy_since(undrained).map(|cpu| cpu + done.lingered.broker_cpu.unwrap_or_default());
            machine_cpu = machine_cpu.zip(more).map(|(load, drain)| load + drain);
        }
        let polled = match done.polls.as_slice() {
            [] => None,
            consumers => Some(consumers.iter().map(checker::Polls::records).sum()),
        };
        let done = Done { load: Load { drain, polled, ..done.load }, ..done };
        let cpu = usage.cpu.saturating_sub(before.1.cpu);
        Ok(Loaded { done, started_at, strike, reached, usage: Usage { cpu, ..usage }, machine_cpu })
    }

    /// Waits for `until`, or until the load is finished, which is an error where a fault waits for progress.
    fn watch(
        &self,
        broker: &mut Broker,
        running: &Running,
        started_at: Nanos,
        until: Until,
        clock: Clock,
    ) -> Result<(), CellError> {
        let of = self.cell.timing.duration;
        loop {
            // Before the count is read: what was acknowledged up to the end counts.
            let finished = running.is_finished();
            let (now, acked) = (clock.now(), running.progress().acked());
            match until {
                Until::At(instant) if now >= instant => return Ok(()),
                Until::Acked { total, .. } if acked >= total => {
                    return Ok(self.bench.cancel.wait(self.progress_delay())?);
                }
                Until::Acked { total, before } if finished => {
                    return Err(CellError::TooFewAcked { wanted: total - before, acked: acked - before });
                }
                _ if finished => return Ok(()),
                Until::At(_) | Until::Acked { .. } | Until::Finished => {}
            }
            let elapsed = Duration::from_nanos(now.since(started_at).0).min(of);
            self.bench.observer.load(acked, elapsed, of);
            broker.check_alive()?;
            let next = Instant::now() + LOOK_INTERVAL;
            match until {
                Until::At(instant) => self.bench.cancel.wait_until(next.min(clock.instant(instant)))?,
                Until::Finished => self.bench.cancel.wait_until(next)?,
                Until::Acked { total, .. } => {
                    while running.progress().acked() < total && Instant::now() < next {
                        self.bench.cancel.wait(PROGRESS_INTERVAL)?;
                    }
                }
            }
        }
    }

    /// How long after the progress that a fault waits for it strikes.
    fn progress_delay(&self) -> Duration {
        PROGRESS_DELAY.mul_f64(self.cell.seed.child("fault instant").unit())
    }

    fn strike(&self, broker: &mut Broker, running: &Running, clock: Clock) -> Result<Strike, CellError> {
        let strike = match self.medium.disk() {
            Some(disk) if self.cell.settings.fault.cuts_power() => {
                fault::cut_power(broker, disk, running, clock, self.cell)
            }
            _ => fault::kill(broker, running, clock),
        };
        running.abort();
        strike
    }

    /// Brings the broker back.
    fn recover(
        &self,
        broker: &mut Broker,
        strike: &Strike,
        fault: checker::Fault,
        clock: Clock,
    ) -> Result<Recovered, CellError> {
        let power_on = match self.medium.disk() {
            Some(disk) => Some(fault::restore_power(disk)?),
            None => None,
        };
        let evidence = match self.bench.evidence {
            Some(_) => Some(Evidence::take(&self.medium.data(), &self.installed.place().work)?),
            None => None,
        };
        let restarting = Instant::now();
        *broker = self.installed.start()?;
        let (took, unserved) = match broker.wait_ready(Some((TOPIC, self.partitions())), self.bench.cancel) {
            Ok(_) => (Some(restarting.elapsed()), None),
            Err(error) => match error.of_the_broker() {
                // It serves some of its partitions, perhaps: the final read will tell which.
                Some(_) if broker.answers() => (None, None),
                Some(why) => (None, Some(why)),
                None => return Err(error.into()),
            },
        };
        let recovered_ends = match unserved {
            None => self.log_ends().unwrap_or_default(),
            Some(_) => Vec::new(),
        };
        let event = FaultEvent {
            fault,
            struck_at: strike.struck_at,
            silenced_at: strike.silenced_at,
            restored_at: clock.now(),
            recovered_ends,
        };
        Ok(Recovered { event, power_on, took, evidence, unserved })
    }
}

/// Whether more would have been lost, had the load run longer: the loss is unbounded, and reached back to where the load
/// began.
fn is_lower_bound(contract: &Contract, verdict: &Verdict, load: Nanos) -> bool {
    let unbounded = match contract.loss {
        Loss::Tail { messages: None, window: None } | Loss::NothingAcknowledged => true,
        Loss::Nothing | Loss::Anything | Loss::Tail { .. } => false,
    };
    let window = verdict.losses.window.max(verdict.losses.sent_window);
    unbounded && window.is_some_and(|window| window.0 as f64 >= 0.9 * load.0 as f64)
}

/// CPU time of the machine since `before`.
fn busy_since(before: Option<Duration>) -> Option<Duration> {
    machine::busy_cpu().zip(before).map(|(after, before)| after.saturating_sub(before))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

//! A broker in a world, those who use it, and the lives it leads.
//!
//! ```text
//!   start ─ recover ─ (look at the ends) ─ serve ─ death ─┐      last: start ─ serve ─ clients finish ─ read all ─ stop
//!     ▲         └─ or death here already ─────────────────┤
//!     └───────────────────────────────────────────────────┘
//! ```

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use highwater_broker::{BrokerConfig, Started};
use highwater_checker::{Nanos, RunId};
use highwater_io::sim::{
    DiskConfig, DiskOp, Exit, Fault, FaultId, Latency, NetConfig, NodeId, NodeStatus, RunError, World,
    WorldConfig,
};
use highwater_io::sync::Watch;

use crate::actor::reader::{Content, Found, ReadError, read_ends, read_everything};
use crate::actor::{Stage, Stagehand, admin, poller, producer, steady_topic};
use crate::books::Books;
use crate::boot::{Report, boot};
use crate::dice::Dice;
use crate::outcome::{Breach, Figures};
use crate::promises::{Promises, Topic};
use crate::scenario::{BrokerSize, Death, Deaths, DiskHonesty, Scenario};
use crate::trial::Struck;

const PORT: u16 = 9092;
/// Recovery of so little, with every latency at its worst.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// Where something can be acknowledged at all.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(2);
/// The broker gives its connections 30 s.
const STOPPED_WITHIN: Duration = Duration::from_secs(90);
/// For what is outstanding to be answered or given up: beyond the producers' `delivery.timeout.ms`.
const FINISHED_WITHIN: Duration = Duration::from_secs(60);
const READ_WITHIN: Duration = Duration::from_secs(600);
/// Between two mishaps of the network, at most.
const MISHAP_EVERY_US: u64 = 30_000;
/// Longest time without power, in most cases.
const DOWN_US: u64 = 50_000;
/// Longest time that bytes are on their way.
pub(crate) const ON_THE_WAY: Duration = Duration::from_millis(50);
const LONG_DOWN: Duration = Duration::from_secs(4);

/// Why a run ended before its end.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) breach: Breach,
    pub(crate) trace: Option<String>,
}

impl From<RunError> for Stopped {
    fn from(error: RunError) -> Self {
        Stopped { breach: Breach::Ended(error.failure), trace: Some(error.trace) }
    }
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) hand: Stagehand,
    pub(crate) deaths: Vec<Struck>,
    pub(crate) breaches: Vec<Breach>,
    pub(crate) figures: Figures,
    pub(crate) story: Vec<String>,
    dice: Dice,
    broker: NodeId,
    clients: Vec<NodeId>,
    reader: NodeId,
    lies: Option<FaultId>,
    lied: u64,
    /// How the last log directory fails in this life, and what was acknowledged before.
    failing: Option<(FaultId, u64)>,
    report: Report,
    /// Whether the broker came into service in this life.
    has_served: bool,
    /// Deaths after which it was started again.
    restored: usize,
    /// Whether the data directory must look clean at the next start; `None` if either is right.
    looks_clean: Option<bool>,
    /// Whether a stop may have been clean: no directory failed before it.
    may_be_clean: bool,
}

impl Scene {
    pub(crate) fn new(seed: u64, scenario: &Scenario) -> Self {
        let mut world = World::new(seed, world_config(scenario));
        let broker = world.add_node("broker");
        let clients = (0..scenario.producers + 2).map(|_| world.add_node("client")).collect();
        let reader = world.add_node("reader");
        let topics = scenario.partitions.iter().enumerate();
        let topics = topics.map(|(number, &partitions)| Topic::new(steady_topic(number), partitions));
        let promises = Promises { topics: topics.collect(), ..Promises::default() };
        let hand = Stagehand {
            seed,
            scenario: Rc::new(scenario.clone()),
            address: SocketAddr::new(world.address(broker), PORT),
            books: Rc::new(Books::new(RunId(seed))),
            promises: Rc::new(RefCell::new(promises)),
            stage: Rc::new(Watch::new(Stage::Working)),
        };
        let lies = match scenario.disk {
            DiskHonesty::Honest => None,
            DiskHonesty::LiesOnceIn(n) => Some(world.disk_of(broker).inject(Fault::lying_flush().one_in(n))),
        };
        Scene {
            world,
            hand,
            deaths: Vec::new(),
            breaches: Vec::new(),
            figures: Figures::default(),
            story: Vec::new(),
            dice: Dice::new(seed, 2),
            broker,
            clients,
            reader,
            lies,
            lied: 0,
            failing: None,
            report: Rc::default(),
            has_served: false,
            restored: 0,
            looks_clean: Some(false),
            may_be_clean: true,
        }
    }

    /// Flushes that the disk acknowledged and did not do.
    pub(crate) fn flushes_lied(&self) -> u64 {
        self.lied + self.lies.map_or(0, |lies| self.world.disk_of(self.broker).fired(lies))
    }

    fn now(&self) -> Nanos {
        Nanos(self.world.now().as_nanos())
    }

    fn tell(&mut self, what: impl std::fmt::Display) {
        self.story.push(format!("{:.6} s: {what}", self.now().as_secs_f64()));
    }

    /// All lives. What the broker holds at the end.
    pub(crate) fn play(&mut self) -> Result<Content, Stopped> {
        self.start_clients();
        for _ in 0..self.hand.scenario.lives {
            self.live()?;
        }
        self.last_life()
    }

    fn start_clients(&mut self) {
        let producers = self.hand.scenario.producers;
        for (number, &node) in (0..).zip(&self.clients) {
            let hand = self.hand.clone();
            if number < producers {
                let part = move || producer::Part { hand: hand.clone(), producer: number };
                self.world.start(node, vec![part()], producer::produce);
            } else if number == producers {
                self.world.start(node, vec![hand], admin::administrate);
            } else {
                self.world.start(node, vec![hand], poller::poll);
            }
        }
    }

    fn live(&mut self) -> Result<(), Stopped> {
        let death = self.choose_death();
        if death.takes_memory() || death == Death::Kill {
            // Now and then the next death comes while the last one is being recovered from.
            let in_recovery = self.hand.scenario.deaths == Deaths::Any && self.dice.one_in(4);
            let in_recovery =
                in_recovery || (self.hand.scenario.deaths == Deaths::WithoutPowerLoss && self.dice.one_in(4));
            if in_recovery && !self.deaths.is_empty() {
                let before = self.looks_clean;
                self.start_broker();
                self.die_at_an_event(death, self.dice.micros(20_000))?;
                if !self.has_served {
                    self.figures.deaths_in_recovery += 1;
                    // The start may not have come to the marker.
                    self.looks_clean = before.filter(|&before| !before);
                }
                return self.stay_down();
            }
        }
        if self.dice.one_in(2) {
            self.start_and_look_at_ends()?;
        } else {
            self.start_broker();
            self.wait_until_served()?;
        }
        self.serve(death)?;
        self.stay_down()
    }

    fn choose_death(&self) -> Death {
        match self.hand.scenario.deaths {
            Deaths::Once(death) => death,
            Deaths::Never => Death::Stop,
            Deaths::WithoutPowerLoss => self.dice.pick(&[Death::Kill, Death::Kill, Death::Stop]),
            Deaths::Any => self.dice.pick(&[
                Death::PowerCut,
                Death::PowerCut,
                Death::PowerCut,
                Death::PowerCut,
                Death::Kill,
                Death::Kill,
                Death::OsCrash,
                Death::Stop,
            ]),
        }
    }

    fn start_broker(&mut self) {
        self.figures.starts += 1;
        self.has_served = false;
        // Whatever is acknowledged from now on, even before anybody knows that the broker serves, is owed by this life.
        let now = self.now();
        self.deaths[self.restored..].iter_mut().for_each(|struck| struck.restored_at = now);
        self.restored = self.deaths.len();
        let config = self.broker_config();
        self.report = boot(&mut self.world, self.broker, &config);
    }

    fn broker_config(&self) -> BrokerConfig {
        let mut config = BrokerConfig::for_data_dir("/data");
        let scenario = &self.hand.scenario;
        let dirs = match scenario.log_dirs {
            0 | 1 => "/data".to_owned(),
            dirs => (0..dirs).map(log_dir).collect::<Vec<_>>().join(","),
        };
        let settings = [
            ("log.dirs", dirs),
            ("listeners", format!("PLAINTEXT://{}", self.hand.address)),
            ("num.shards", self.hand.scenario.shards.to_string()),
            ("log.retention.check.interval.ms", "25".to_owned()),
        ];
        for (name, value) in settings {
            config.set(name, &value).expect("the settings are valid");
        }
        if let Some(compacted) = scenario.compacted {
            let backoff = compacted.backoff.as_millis().to_string();
            config.set("log.cleaner.backoff.ms", &backoff).expect("the settings are valid");
        }
        match self.hand.scenario.size {
            BrokerSize::Tiny => make_tiny(&mut config, scenario.compacted.is_some()),
            // Files of the real size would be filled with zeros for longer than the run takes.
            BrokerSize::Usual => {
                config.shard.journal_file_bytes = 4 << 20;
                config.shard.checkpoint_interval_bytes = 8 << 20;
            }
        }
        config
    }

    /// The run cannot go on.
    fn stopped(&self, breach: Breach) -> Stopped {
        Stopped { breach, trace: Some(self.world.dump_trace()) }
    }

    // Time.

    /// Lets things happen until `condition` holds or the time is up; whether it held. Whatever ends a process of its
    /// own will, or a client, ends the run.
    fn run_until(
        &mut self,
        within: Duration,
        mut condition: impl FnMut(&World) -> bool,
    ) -> Result<bool, Stopped> {
        let deadline = self.world.now() + within;
        let (books, mut holds) = (Rc::clone(&self.hand.books), false);
        self.world.run_until(|world| {
            books.clock.set(world.now());
            holds = condition(world);
            holds || world.now() >= deadline
        })?;
        Ok(holds)
    }

    fn run_for(&mut self, duration: Duration) -> Result<(), Stopped> {
        self.run_until(duration, |_| false).map(drop)
    }

    /// The broker must not end by itself.
    fn check_up(&self) -> Result<(), Stopped> {
        if self.world.is_up(self.broker) {
            return Ok(());
        }
        let why = match self.report.borrow_mut().take() {
            Some(Err(error)) => error.to_string(),
            _ => format!("{:?}", self.world.status(self.broker)),
        };
        Err(self.stopped(Breach::StartRefused(why)))
    }

    fn wait_until_served(&mut self) -> Result<(), Stopped> {
        let (broker, report) = (self.broker, Rc::clone(&self.report));
        let is_decided = move |world: &World| report.borrow().is_some() || !world.is_up(broker);
        if !self.run_until(SERVING_WITHIN, is_decided)? {
            return Err(self.stopped(Breach::NotServing));
        }
        let report = Rc::clone(&self.report);
        if let Some(Ok(started)) = &*report.borrow() {
            self.came_into_service(started);
            return Ok(());
        }
        // A refusal ends the broker.
        self.run_until(STOPPED_WITHIN, |world| !world.is_up(broker))?;
        self.check_up()
    }

    /// The broker serves: what its recovery says of itself.
    fn came_into_service(&mut self, started: &Started) {
        let recovery = &started.recovery;
        self.has_served = true;
        let now = self.now();
        self.deaths.iter_mut().for_each(|struck| _ = struck.served_at.get_or_insert(now));
        self.figures.groups_replayed += recovery.groups_replayed;
        if self.looks_clean.is_some_and(|expected| expected != recovery.was_clean) {
            self.breaches.push(Breach::LooksClean(recovery.was_clean));
        }
        self.tell(format_args!(
            "serves; clean: {}, groups replayed: {}, bytes cut: {}",
            recovery.was_clean, recovery.groups_replayed, recovery.bytes_cut
        ));
        if !recovery.fenced.is_empty() || !recovery.strays.is_empty() {
            let damage = format!("fenced {:?}, strays {:?}", recovery.fenced, recovery.strays);
            self.breaches.push(Breach::Damage(damage));
        }
    }

    /// Starts the broker, and asks for the log ends before anybody can have written anything new. The clients stand still
    /// all the while: the broker listens before it has recovered, and requests would wait at its door.
    fn start_and_look_at_ends(&mut self) -> Result<(), Stopped> {
        self.clients.iter().for_each(|&client| self.world.pause(client));
        self.start_broker();
        let found: Found<Vec<(u32, u32, i64)>> = Rc::default();
        let mut result = self.wait_until_served();
        if result.is_ok() && !self.deaths.is_empty() {
            result = self.read(Rc::clone(&found), read_ends);
        }
        self.clients.iter().for_each(|&client| self.world.resume(client));
        result?;
        let Some(Ok(ends)) = found.take() else { return Ok(()) };
        let last = self.deaths.len() - 1;
        self.deaths[last].recovered_ends = ends;
        Ok(())
    }

    /// Runs a reader to its end.
    fn read<T: 'static, F, Fut>(&mut self, found: Found<T>, read: F) -> Result<(), Stopped>
    where
        F: Fn(highwater_io::Io, Stagehand, Found<T>) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let (hand, reader, broker) = (self.hand.clone(), self.reader, self.broker);
        self.world.start(reader, vec![(hand, found)], move |io, (hand, found)| read(io, hand, found));
        let is_done = move |world: &World| !world.is_up(reader) || !world.is_up(broker);
        if !self.run_until(READ_WITHIN, is_done)? {
            return Err(self.stopped(Breach::NotReadable("it comes to no end".to_owned())));
        }
        self.check_up()
    }

    // Lives.

    /// In service until the death.
    fn serve(&mut self, death: Death) -> Result<(), Stopped> {
        let scenario = Rc::clone(&self.hand.scenario);
        let micros = match self.dice.below(3) {
            _ if scenario.full_lives => scenario.life_us,
            0 => self.log_uniform(scenario.life_us),
            _ => self.dice.below(scenario.life_us),
        };
        if scenario.lives_to_acknowledge {
            let books = Rc::clone(&self.hand.books);
            self.run_until(ACKNOWLEDGED_WITHIN, move |_| books.acked.get() > 0)?;
        }
        let deadline = self.world.now() + Duration::from_micros(micros);
        if scenario.directory_fails {
            self.run_for(self.dice.micros(micros))?;
            self.let_a_directory_fail();
        }
        while self.world.now() < deadline {
            let left = deadline - self.world.now();
            if !scenario.bad_network {
                self.run_for(left)?;
                break;
            }
            let pause = self.dice.micros(MISHAP_EVERY_US);
            self.run_for(pause.min(left))?;
            self.mishap()?;
        }
        self.check_up()?;
        if death == Death::Stop {
            return self.stop();
        }
        if scenario.deaths == Deaths::Any && self.dice.one_in(4) {
            self.stall_the_disk()?;
        }
        self.die_at_an_event(death, self.dice.micros(5_000))
    }

    /// One of the next writes or flushes in the last log directory fails, and all that follow, until the broker has ended.
    fn let_a_directory_fail(&mut self) {
        let op = self.dice.pick(&[DiskOp::Write, DiskOp::Flush, DiskOp::SyncDirectory]);
        let name = log_dir(self.hand.scenario.log_dirs - 1);
        let name = format!("{}/", name.trim_start_matches('/'));
        let fault = Fault::eio(op).on(name).skip(self.dice.below(12));
        self.tell(format_args!("a log directory is to fail: {op:?}"));
        let fault = self.world.disk_of(self.broker).inject(fault);
        self.failing = Some((fault, self.hand.books.acked.get()));
    }

    /// When something failed in the directory that was to fail.
    fn directory_failed_at(&self) -> Option<Nanos> {
        let (fault, _) = self.failing?;
        let at = self.world.disk_of(self.broker).first_fired_at(fault)?;
        Some(Nanos(at.as_nanos()))
    }

    /// The directory is whole again; when anything failed in it.
    fn mend_the_directory(&mut self) -> Option<Nanos> {
        let failed_at = self.directory_failed_at();
        let (fault, acked_before) = self.failing.take()?;
        self.world.disk_of(self.broker).lift(fault);
        if failed_at.is_some() {
            self.figures.directories_failed += 1;
            self.figures.acked_beside += self.hand.books.acked.get() - acked_before;
        }
        failed_at
    }

    /// Times of any order are likely.
    fn log_uniform(&self, most: u64) -> u64 {
        let bits = u64::from(most.max(2).ilog2());
        self.dice.below((1 << self.dice.between(1, bits + 1)) + 1).min(most)
    }

    /// Something goes wrong with the network.
    fn mishap(&mut self) -> Result<(), Stopped> {
        match self.dice.below(4) {
            0 | 1 => self.reset_a_connection(),
            2 => {
                // Answers are lost, requests are not.
                let client = self.dice.pick(&self.clients);
                self.world.block(self.broker, client);
                self.run_for(self.dice.micros(600_000))?;
                self.world.unblock(self.broker, client);
            }
            _ => {
                let client = self.dice.pick(&self.clients);
                self.world.partition(self.broker, client);
                self.run_for(self.dice.micros(100_000))?;
                self.world.heal(self.broker, client);
            }
        }
        Ok(())
    }

    fn reset_a_connection(&mut self) {
        let connections = self.world.connections();
        if !connections.is_empty() {
            let chosen = self.dice.below(connections.len() as u64);
            self.world.reset_connection(connections[usize::try_from(chosen).expect("an index")].id);
        }
    }

    /// Nothing that was asked of the disk is done any more, while clients lose their patience and try again.
    fn stall_the_disk(&mut self) -> Result<(), Stopped> {
        self.tell("the disk stalls");
        self.world.disk_of(self.broker).stall();
        for _ in 0..self.dice.between(1, 6) {
            self.run_for(self.dice.micros(20_000))?;
            self.reset_a_connection();
        }
        self.run_for(self.dice.micros(20_000))
    }

    /// Dies when the time is up, or right after one of the next changes to the disk.
    fn die_at_an_event(&mut self, death: Death, within: Duration) -> Result<(), Stopped> {
        let disk = self.world.disk_of(self.broker);
        let events = if self.dice.one_in(2) { self.dice.between(1, 60) } else { u64::MAX / 2 };
        let event = disk.events() + events;
        let broker = self.broker;
        if death == Death::PowerCut {
            disk.cut_power_at_event(event);
        }
        self.run_until(within, |world| !world.is_up(broker) || disk.events() >= event)?;
        // One that was to die in its recovery may have been quick.
        let report = Rc::clone(&self.report);
        if let (false, Some(Ok(started))) = (self.has_served, &*report.borrow()) {
            self.came_into_service(started);
        }
        if self.world.is_up(broker) {
            match death {
                Death::PowerCut => self.world.power_cut(broker),
                Death::OsCrash => self.world.os_crash(broker),
                Death::Kill | Death::Stop => self.world.kill(broker),
            }
        } else if self.world.status(broker) != NodeStatus::Down(Exit::PowerCut) {
            return self.check_up();
        }
        // An event that did not come must not cut the next life short.
        disk.cut_power_at_event(0);
        self.died(death);
        Ok(())
    }

    fn died(&mut self, death: Death) {
        let failed_at = self.mend_the_directory();
        // The disk of a dead machine stalls no more.
        self.world.disk_of(self.broker).resume();
        self.figures.power_losses += u32::from(death.takes_memory());
        self.tell(format_args!("{death:?}"));
        let at = self.now();
        // A flush that failed may have dropped what nobody had asked to be flushed, as if the power had gone there and then:
        // nothing was flushed any more until this end.
        let may_forget = failed_at.is_some() && !self.hand.scenario.flush.is_every_message();
        let death = if may_forget { Death::PowerCut } else { death };
        if let Some(at) = failed_at.filter(|_| may_forget) {
            self.deaths.push(Struck {
                death,
                at,
                restored_at: at,
                served_at: None,
                recovered_ends: Vec::new(),
            });
        }
        self.deaths.push(Struck { death, at, restored_at: at, served_at: None, recovered_ends: Vec::new() });
        self.looks_clean = Some(false);
        self.may_be_clean = failed_at.is_none();
    }

    fn stop(&mut self) -> Result<(), Stopped> {
        let broker = self.broker;
        self.tell("is asked to stop");
        let had_failed = self.directory_failed_at().is_some();
        self.world.stop(broker);
        // Not every stop is let finish.
        if self.hand.scenario.deaths == Deaths::Any && self.dice.one_in(3) {
            let within = self.dice.micros(20_000);
            self.run_until(within, |world| !world.is_up(broker))?;
            if self.world.is_up(broker) {
                self.run_until(self.dice.micros(2_000), |world| !world.is_up(broker))?;
                let end = if self.world.is_up(broker) { Death::PowerCut } else { Death::Stop };
                self.world.power_cut(broker);
                self.died(end);
                // It may have left the marker just before.
                self.looks_clean = None;
                return Ok(());
            }
        }
        if !self.run_until(STOPPED_WITHIN, |world| !world.is_up(broker))? {
            return Err(self.stopped(Breach::NotStopping));
        }
        self.died(Death::Stop);
        // What failed only now may be a file that nobody needed any more.
        let is_clean = (self.may_be_clean || had_failed).then_some(self.may_be_clean);
        if self.hand.scenario.deaths == Deaths::Any && self.dice.one_in(3) {
            // What a clean stop leaves is on the medium.
            self.world.power_cut(broker);
            self.died(Death::PowerCut);
        }
        self.looks_clean = is_clean;
        Ok(())
    }

    fn stay_down(&mut self) -> Result<(), Stopped> {
        let down = if self.dice.one_in(12) { LONG_DOWN } else { self.dice.micros(DOWN_US) };
        // An ack that was on its way when the broker died must not arrive after it is back, where the checker could not
        // see that the death took what it promised. Where a death may take nothing, none needs to be seen.
        let least = if self.hand.scenario.flush.is_every_message() { Duration::ZERO } else { ON_THE_WAY };
        self.run_for(down + least)
    }

    /// The clients finish in it, and everything is read.
    fn last_life(&mut self) -> Result<Content, Stopped> {
        self.start_and_look_at_ends()?;
        self.hand.stage.set(Stage::Closing);
        let clients = self.clients.clone();
        let are_done = move |world: &World| clients.iter().all(|&client| !world.is_up(client));
        if !self.run_until(FINISHED_WITHIN, are_done)? {
            return Err(self.stopped(Breach::NotServing));
        }
        self.check_up()?;
        let found: Found<Content> = Rc::default();
        self.read(Rc::clone(&found), read_everything)?;
        let content = found.take().unwrap_or(Err(ReadError::Gone));
        let content = content.map_err(|error| self.stopped(Breach::NotReadable(error.to_string())))?;
        self.world.stop(self.broker);
        let broker = self.broker;
        if !self.run_until(STOPPED_WITHIN, |world| !world.is_up(broker))? {
            self.breaches.push(Breach::NotStopping);
        }
        Ok(content)
    }
}

/// Where the log directory of this number is, if there are several.
fn log_dir(number: u32) -> String {
    format!("/data-{number}")
}

fn make_tiny(config: &mut BrokerConfig, compacts: bool) {
    // Smaller than an administrator may set it. What is appended to is not compacted, so that segments are smaller yet.
    let segment_bytes: u32 = if compacts { 16 << 10 } else { 40 << 10 };
    config.static_config.insert("log.segment.bytes".to_owned(), segment_bytes.to_string());
    config.shard.journal_file_bytes = 128 << 10;
    config.shard.checkpoint_interval_bytes = 96 << 10;
    config.shard.journal_max_files = 3;
    config.shard.group_max_bytes = 32 << 10;
    config.shard.aligned_append_bytes = 3000;
    config.shard.unflushed_max_bytes = 32 << 10;
    config.shard.hot_tail_bytes = 2 << 20;
    config.shard.chunk_bytes = 8 << 10;
    config.shard.chunks_in_flight = 2;
    // Fewer than there are partitions, so that their segments are closed and opened again all the time.
    config.shard.max_open_segments = 4;
}

fn world_config(scenario: &Scenario) -> WorldConfig {
    let disk = DiskConfig {
        torn_unit: scenario.torn_unit,
        flush: Latency::micros(50, scenario.flush_us, 30_000.max(2 * scenario.flush_us)),
        ..DiskConfig::default()
    };
    let net = NetConfig { connect_timeout: Duration::from_secs(1), ..NetConfig::default() };
    WorldConfig { disk, net, ..WorldConfig::default() }
}

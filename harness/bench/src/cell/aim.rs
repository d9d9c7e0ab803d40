//! From the instant that a cell's seed gives to the one at which the fault strikes: what a fault is aimed at is waited
//! for, or made to happen.
//!
//! ```text
//!   seeded           now
//!   roll             a new segment is seen                 ─┐
//!   checkpoint       the broker's checkpoint is written     ├─ then up to 3 ms, as the seed says
//!   retention        a segment vanishes                    ─┘
//!   topic-creation   the request is sent, or answered      ─┘
//!   after-restart    SIGKILL, start, ready, the first ack     then up to 30 ms
//!   recovery         SIGKILL, start                           then up to a third of what the first start took
//! ```
//!
//! Whatever came of it is stamped with what was hit and how near; the load goes on all the while.

use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_checker::{Anomaly, FaultEvent, FaultKind, Nanos, Verdict};

use super::files::{Seen, Sign, Watch};
use super::{CellError, Trial, fault};
use crate::broker::admin::{self, Settings};
use crate::broker::process::Broker;
use crate::broker::wire::Connection;
use crate::clock::Clock;
use crate::load::Running;
use crate::results::{AimMark, FaultMark};
use crate::seed::Seed;
use crate::workload::settings::Aim;

/// A fault that is aimed at something falls within this of it.
const WITHIN: Duration = Duration::from_millis(10);
/// The seed draws from so much of that; the rest is for what it takes to strike: to be woken on a busy machine, mostly.
const SHARE: f64 = 0.3;
/// The same, after the first ack of a broker that has started again.
const WITHIN_AFTER_RESTART: Duration = Duration::from_millis(100);
/// Of the signs that come, one of the first so many.
const FIRST_SIGNS: f64 = 4.0;
/// A sign that has not come within this does not come.
const SIGN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Whether somebody listens on this machine is known at once.
const LISTENING_WITHIN: Duration = Duration::from_millis(50);
/// A topic that a start brings back is there within this.
const TOPIC_WITHIN: Duration = Duration::from_secs(10);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The topic that is created when a fault is aimed at that.
const CREATED: &str = "created-under-load";
const CREATED_PARTITIONS: i32 = 4;

/// What a fault was aimed at, once it is time to strike.
#[derive(Default)]
pub(super) struct Reached {
    /// When what was aimed at happened, in words, and how near the fault is meant to fall.
    at: Option<(Nanos, String, Duration)>,
    /// The faults on the way there.
    pub(super) earlier: Vec<(FaultEvent, FaultMark)>,
    /// A topic that is being created.
    creation: Option<Creation>,
    /// Why the broker does not serve since the fault before this one, if so: there is nothing left to strike.
    pub(super) unserved: Option<String>,
    /// What saw it. Kept until the fault has struck: to close it takes the kernel up to 15 ms.
    watch: Option<Watch>,
}

impl Reached {
    /// The fault has struck: nothing is watched for any more.
    pub(super) fn stop_watching(&mut self) {
        self.watch = None;
    }

    /// How near to it the fault struck.
    pub(super) fn mark(&self, aim: Aim, struck_at: Nanos) -> Option<AimMark> {
        let (at, what, within) = self.at.as_ref()?;
        let mut what = what.clone();
        if let Some(creation) = &self.creation {
            what = creation.words(struck_at);
        }
        let within = crate::clock::nanos(*within);
        Some(AimMark { at: aim.to_string(), what, distance: struck_at.since(*at), within })
    }
}

impl Trial<'_> {
    /// Waits for what the fault is aimed at, or makes it happen. `ready` is how long the broker's first start took.
    pub(super) fn reach(
        &self,
        broker: &mut Broker,
        running: &Running,
        clock: Clock,
        ready: Duration,
    ) -> Result<Reached, CellError> {
        let aim = self.cell.settings.aim;
        let sign = match aim {
            Aim::Seeded => return Ok(Reached::default()),
            Aim::TopicCreation => return self.reach_creation(clock),
            Aim::AfterRestart => return self.reach_restarted(broker, running, clock),
            Aim::Recovery => return self.reach_recovering(broker, running, clock, ready),
            Aim::Roll => Sign::Roll,
            Aim::Retention => Sign::Retention,
            Aim::Checkpoint => {
                let files = self.bench.driver.checkpoint_files.clone();
                if files.is_empty() {
                    return Err(self.not_reached("its driver names no checkpoint_files"));
                }
                Sign::Checkpoint(files)
            }
        };
        let data = self.medium.data();
        let watch = Watch::new(&data, sign, clock).map_err(|source| CellError::Io { path: data, source })?;
        let seen = self.wait_for(&watch)?;
        self.bench.cancel.wait(self.delay(WITHIN))?;
        Ok(Reached {
            at: Some((seen.at, seen.file.display().to_string(), WITHIN)),
            watch: Some(watch),
            ..Reached::default()
        })
    }

    fn wait_for(&self, watch: &Watch) -> Result<Seen, CellError> {
        let io = |source| CellError::Io { path: self.medium.data(), source };
        let deadline = Instant::now() + SIGN_WITHIN;
        let skipped = (self.seed("aim sign").unit() * FIRST_SIGNS) as u32;
        let mut seen = None;
        for _ in 0..=skipped {
            seen = watch.wait(deadline, self.bench.cancel).map_err(io)??;
        }
        seen.ok_or_else(|| self.not_reached("nothing of the kind was seen"))
    }

    /// A topic is created: half of the faults strike while the request is out, the other half once it is answered.
    fn reach_creation(&self, clock: Clock) -> Result<Reached, CellError> {
        let connection = Connection::open(self.installed.address(), ADMIN_TIMEOUT)?;
        let creation = Creation::start(connection, self.topic_settings.clone(), clock)?;
        if self.seed("aim side").unit() < 0.5 {
            let deadline = Instant::now() + SIGN_WITHIN;
            while creation.answer.get().is_none() {
                if Instant::now() >= deadline {
                    return Err(self.not_reached("the creation was not answered"));
                }
                self.bench.cancel.wait(LOOK_INTERVAL)?;
            }
        }
        self.bench.cancel.wait(self.delay(WITHIN))?;
        let at = creation.answered_at().unwrap_or(creation.sent_at);
        Ok(Reached { at: Some((at, String::new(), WITHIN)), creation: Some(creation), ..Reached::default() })
    }

    fn reach_restarted(
        &self,
        broker: &mut Broker,
        running: &Running,
        clock: Clock,
    ) -> Result<Reached, CellError> {
        let killed = self.kill_under_load(broker, running, clock)?;
        *broker = self.installed.start()?;
        let ready = broker.wait_ready(Some((super::TOPIC, self.partitions())), self.bench.cancel);
        let restored_at = clock.now();
        if let Err(error) = ready {
            let Some(why) = error.of_the_broker() else {
                return Err(CellError::from(error).after_fault());
            };
            return Ok(Reached {
                earlier: vec![killed.over(restored_at)],
                unserved: Some(why),
                ..Reached::default()
            });
        }
        let acked = running.progress().acked();
        let deadline = Instant::now() + SIGN_WITHIN;
        while running.progress().acked() == acked {
            let alive = broker.check_alive();
            if let Some(why) = alive.err().and_then(|error| error.of_the_broker()) {
                let earlier = vec![killed.over(restored_at)];
                return Ok(Reached { earlier, unserved: Some(why), ..Reached::default() });
            }
            if running.is_finished() || Instant::now() >= deadline {
                let error = self.not_reached("nothing was acknowledged after the restart");
                return Err(error.after_fault());
            }
            self.bench.cancel.wait(LOOK_INTERVAL)?;
        }
        let first_ack_at = running.progress().last_ack_at();
        self.bench.cancel.wait(self.delay(WITHIN_AFTER_RESTART))?;
        let what = format!("the first ack, {} after it was ready again", first_ack_at.since(restored_at));
        Ok(Reached {
            at: Some((first_ack_at, what, WITHIN_AFTER_RESTART)),
            earlier: vec![killed.over(restored_at)],
            ..Reached::default()
        })
    }

    fn reach_recovering(
        &self,
        broker: &mut Broker,
        running: &Running,
        clock: Clock,
        ready: Duration,
    ) -> Result<Reached, CellError> {
        let killed = self.kill_under_load(broker, running, clock)?;
        let started_at = clock.now();
        *broker = self.installed.start()?;
        self.bench.cancel.wait(self.delay(ready))?;
        let listening = TcpStream::connect_timeout(&broker.address(), LISTENING_WITHIN).is_ok();
        let what = if listening {
            "its start, and it listened already"
        } else {
            "its start, and it did not listen yet"
        };
        // What the kill did is over when the next fault takes over.
        Ok(Reached {
            at: Some((started_at, what.to_owned(), ready)),
            earlier: vec![killed.over(clock.now())],
            ..Reached::default()
        })
    }

    fn kill_under_load(
        &self,
        broker: &mut Broker,
        running: &Running,
        clock: Clock,
    ) -> Result<Killed, CellError> {
        let strike = fault::kill(broker, running, clock)?;
        let kind = FaultKind::ProcessKill;
        Ok(Killed(
            FaultEvent {
                fault: super::contract::one_broker(kind),
                struck_at: strike.struck_at,
                silenced_at: strike.silenced_at,
                restored_at: strike.silenced_at,
                // Load went on: whatever the ends are when somebody asks, they are not those of recovery.
                recovered_ends: Vec::new(),
            },
            strike.since_last_ack,
        ))
    }

    fn seed(&self, label: &str) -> Seed {
        self.cell.seed.child(label)
    }

    /// How long after what it is aimed at the fault is to come.
    fn delay(&self, within: Duration) -> Duration {
        within.mul_f64(SHARE * self.seed("aim delay").unit())
    }

    fn not_reached(&self, why: &'static str) -> CellError {
        CellError::NotReached { aim: self.cell.settings.aim, why }
    }

    /// Whether the topic that was being created is there, whole or not at all; and there, if its creation was answered
    /// before the fault.
    pub(super) fn judge_creation(
        &self,
        reached: Reached,
        struck_at: Nanos,
        verdict: &mut Verdict,
    ) -> Result<(), CellError> {
        let Some(creation) = reached.creation else { return Ok(()) };
        let answered = creation.answered_at().is_some_and(|at| at < struck_at);
        creation.join();
        let wanted = usize::try_from(CREATED_PARTITIONS).unwrap_or(usize::MAX);
        let deadline = Instant::now() + TOPIC_WITHIN;
        loop {
            // A broker that does not answer leads nothing; it is asked again until the time is over.
            let led =
                self.connect().and_then(|mut connection| admin::readiness(&mut connection, Some(CREATED)));
            let led = led.map_or(0, |readiness| readiness.led_partitions);
            if led == wanted || (led == 0 && !answered) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let ack = if answered { "acknowledged before the fault" } else { "never acknowledged" };
                verdict.book(
                    Anomaly::LostTopic,
                    format!("topic {CREATED}, {ack}: {led} of {wanted} partitions are there"),
                );
                return Ok(());
            }
            self.bench.cancel.wait(LOOK_INTERVAL)?;
        }
    }
}

/// A kill on the way to another fault, and how long before it the last ack had come.
struct Killed(FaultEvent, Duration);

impl Killed {
    fn over(self, restored_at: Nanos) -> (FaultEvent, FaultMark) {
        let Killed(event, since_last_ack) = self;
        let mark = FaultMark {
            fault: event.fault,
            struck_at: event.struck_at,
            restored_at,
            since_last_ack: Some(crate::clock::nanos(since_last_ack)),
            aim: None,
            unflushed: None,
        };
        (FaultEvent { restored_at, ..event }, mark)
    }
}

/// The creation of a topic, on a thread of its own: a broker that lost its power never answers.
struct Creation {
    sent_at: Nanos,
    /// When it was answered, if it was not refused.
    answer: Arc<OnceLock<Option<Nanos>>>,
    thread: JoinHandle<()>,
}

impl Creation {
    fn start(mut connection: Connection, settings: Settings, clock: Clock) -> Result<Self, CellError> {
        let answer = Arc::new(OnceLock::new());
        let told = Arc::clone(&answer);
        let sent_at = clock.now();
        let create = move || {
            let created = admin::create_topic(&mut connection, CREATED, CREATED_PARTITIONS, &settings);
            let _ = told.set(created.is_ok().then(|| clock.now()));
        };
        let thread = std::thread::Builder::new().name("topic-creation".into()).spawn(create);
        let thread = thread.map_err(|source| CellError::Io { path: "a thread".into(), source })?;
        Ok(Creation { sent_at, answer, thread })
    }

    fn answered_at(&self) -> Option<Nanos> {
        self.answer.get().copied().flatten()
    }

    fn words(&self, struck_at: Nanos) -> String {
        match self.answered_at().filter(|at| *at < struck_at) {
            Some(at) => format!("the answer, which came {} after the request", at.since(self.sent_at)),
            None => "the request, which was not answered".to_owned(),
        }
    }

    /// Ends once the broker is dead, or after the time limit of a call.
    fn join(self) {
        let _ = self.thread.join();
    }
}

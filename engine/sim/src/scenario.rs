//! What a run is like: the broker's size, what it is asked to promise, who writes, how it dies.

use std::time::Duration;

use highwater_checker::{Acks, Flush, Setting};
use highwater_io::sim::TornUnit;

use crate::dice::Dice;

/// How lives of the broker may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaths {
    /// In any way.
    Any,
    /// Without loss of power: what was written stays, so that nothing acknowledged may be lost whatever was flushed.
    WithoutPowerLoss,
    /// In one way, once: what a cell of a sweep does.
    Once(Death),
    /// Not at all, until it is asked to.
    Never,
}

/// One way to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Asked to stop, and given the time.
    Stop,
    /// Killed: page cache and device go on.
    Kill,
    /// The operating system crashes: the page cache is gone.
    OsCrash,
    /// The machine loses power.
    PowerCut,
}

impl Death {
    /// Whether it takes what was not flushed.
    #[must_use]
    pub fn takes_memory(self) -> bool {
        matches!(self, Death::OsCrash | Death::PowerCut)
    }
}

/// How far the disk can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskHonesty {
    /// What it says it flushed is flushed.
    Honest,
    /// One flush in so many is acknowledged and not done.
    LiesOnceIn(u64),
}

/// How large the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerSize {
    /// Little of everything, so that a short run goes round the journal, rolls segments and makes checkpoints.
    Tiny,
    /// Like a real one that is not busy.
    Usual,
}

/// How a topic is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Whether `cleanup.policy` has `delete` beside `compact`.
    pub deletes_too: bool,
    /// Keys of each partition.
    pub keys: u32,
    /// `delete.retention.ms`.
    pub delete_retention: Duration,
    /// `log.cleaner.backoff.ms`: short, so that there are passes within a life.
    pub backoff: Duration,
}

impl Compacted {
    fn seeded(dice: &Dice) -> Self {
        Compacted {
            deletes_too: dice.one_in(3),
            keys: dice.pick(&[2, 8, 30]),
            delete_retention: Duration::from_millis(dice.pick(&[5, 50, 500, 60_000])),
            backoff: Duration::from_millis(dice.pick(&[1, 5, 20])),
        }
    }
}

/// What a seed is asked for compaction.
const COMPACTION: u64 = 10;

/// A run, apart from what its seed decides.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How large the broker is.
    pub size: BrokerSize,
    /// Shards of the broker.
    pub shards: usize,
    /// Partitions of each topic that is never deleted.
    pub partitions: Vec<u32>,
    /// `acks` of the producers.
    pub acks: Acks,
    /// What the topics' `flush.messages` and `flush.ms` promise at least.
    pub flush: Flush,
    /// Producers.
    pub producers: u32,
    /// `enable.idempotence` of all of them.
    pub idempotence: bool,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: u32,
    /// `linger.ms`.
    pub linger: Duration,
    /// `batch.size`.
    pub batch_bytes: usize,
    /// Least and largest length of a value in bytes.
    pub value_bytes: (u32, u32),
    /// Longest pause of a producer between two bursts, in microseconds.
    pub pause_us: u64,
    /// Most records of a burst.
    pub burst: u64,
    /// Lives of the broker before the last, in which everything is read.
    pub lives: u32,
    /// How they end.
    pub deaths: Deaths,
    /// Longest time in service before a death, in microseconds; times spread over all orders below it.
    pub life_us: u64,
    /// Whether each life lasts as long as it may.
    pub full_lives: bool,
    /// Whether the broker lives until something is acknowledged, and only then its time in service begins. Else some
    /// scenes come to their end while it starts and recovers.
    pub lives_to_acknowledge: bool,
    /// Whether an administrator creates and deletes topics, trims logs and changes settings all along.
    pub administration: bool,
    /// Whether topics that are there for a while promise nothing: they are not flushed, beside others that may be, and
    /// their acknowledgements are not held against the broker.
    pub careless_topics: bool,
    /// Whether connections are cut and links fail while all goes on.
    pub bad_network: bool,
    /// Whether retention may discard segments.
    pub retention: bool,
    /// How the first topic is compacted, if it is: its records have keys then, and some are tombstones.
    pub compacted: Option<Compacted>,
    /// What a power cut tears.
    pub torn_unit: TornUnit,
    /// Longest usual time of a flush, in microseconds.
    pub flush_us: u64,
    /// Whether its disk lies.
    pub disk: DiskHonesty,
    /// Log directories of the broker.
    pub log_dirs: u32,
    /// Whether the last of them fails in each life, and is whole again in the next.
    pub directory_fails: bool,
}

impl Scenario {
    /// The scenario that a seed chooses.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let dice = Dice::new(seed, 1);
        let flush = dice.pick(&[
            Flush::EVERY_MESSAGE,
            Flush::EVERY_MESSAGE,
            Flush::EVERY_MESSAGE,
            Flush::EVERY_MESSAGE,
            Flush::every_messages(4),
            Flush::every_ms(5, 0),
            Flush::LEFT_TO_SYSTEM,
            Flush::LEFT_TO_SYSTEM,
        ]);
        let acks = match dice.below(16) {
            0 => Acks::Zero,
            1..=4 => Acks::One,
            _ => Acks::All,
        };
        let idempotence = acks == Acks::All && !dice.one_in(3);
        // With nothing flushed only the deaths that leave the page cache alone are a promise to hold the broker to.
        let unflushed = !flush.is_every_message();
        let deaths = if unflushed && dice.one_in(2) { Deaths::WithoutPowerLoss } else { Deaths::Any };
        Scenario {
            size: BrokerSize::Tiny,
            shards: dice.pick(&[1, 2, 2, 3]),
            partitions: (0..dice.between(1, 2))
                .map(|_| u32::try_from(dice.between(1, 4)).expect("few"))
                .collect(),
            acks,
            flush,
            producers: u32::try_from(dice.between(1, 3)).expect("few"),
            idempotence,
            max_in_flight: dice.pick(&[1, 2, 5]),
            linger: Duration::from_millis(dice.pick(&[0, 0, 1, 5])),
            batch_bytes: dice.pick(&[0, 400, 2_000, 8_000]),
            value_bytes: dice.pick(&[(48, 60), (48, 400), (200, 1_200), (500, 4_500)]),
            pause_us: dice.pick(&[500, 2_000, 6_000]),
            burst: dice.pick(&[1, 4, 12]),
            lives: u32::try_from(dice.between(2, 5)).expect("few"),
            deaths,
            life_us: dice.pick(&[20_000, 100_000, 300_000]),
            full_lives: false,
            lives_to_acknowledge: acks != Acks::Zero && !Dice::new(seed, 9).one_in(4),
            administration: !dice.one_in(3),
            careless_topics: dice.one_in(3),
            bad_network: dice.one_in(2),
            retention: dice.one_in(4),
            compacted: {
                let dice = Dice::new(seed, COMPACTION);
                dice.one_in(3).then(|| Compacted::seeded(&dice))
            },
            torn_unit: dice.pick(&[
                TornUnit::Sector512,
                TornUnit::Sector512,
                TornUnit::Block4096,
                TornUnit::ShornBlock4096,
            ]),
            flush_us: dice.pick(&[500, 500, 3_000, 20_000]),
            disk: DiskHonesty::Honest,
            log_dirs: 1,
            directory_fails: false,
        }
    }

    /// The same with two log directories, of which one fails in each life.
    #[must_use]
    pub fn with_failing_directory(self) -> Self {
        Scenario { log_dirs: 2, directory_fails: true, ..self }
    }

    /// The same with a topic that is compacted.
    #[must_use]
    pub fn with_compaction(self, seed: u64) -> Self {
        let dice = Dice::new(seed, COMPACTION);
        Scenario { compacted: self.compacted.or_else(|| Some(Compacted::seeded(&dice))), ..self }
    }

    /// How a topic is compacted, if it is.
    pub(crate) fn compacted_topic(&self, topic: usize) -> Option<Compacted> {
        self.compacted.filter(|_| topic == 0)
    }

    /// Whether retention may discard segments of a topic: of none that is compacted and nothing else.
    pub(crate) fn may_expire(&self, topic: usize) -> bool {
        self.retention && self.compacted_topic(topic).is_none_or(|compacted| compacted.deletes_too)
    }

    /// The settings that decide what is owed.
    #[must_use]
    pub fn setting(&self) -> Setting {
        Setting {
            idempotence: self.idempotence,
            max_in_flight: self.max_in_flight,
            ..Setting::single_broker(self.acks, self.flush)
        }
    }
}

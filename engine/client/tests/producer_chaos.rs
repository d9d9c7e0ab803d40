//! The producer's promises under random errors, lost connections, moving leaders, late strays and time-outs, against a
//! cluster that checks sequences as Kafka does.
//!
//! * A record that was acknowledged is in the log, at the offset that was told. With idempotence, once.
//! * A record of which it was said that it was not appended is not in the log.
//! * With idempotence no record is there twice, whatever its outcome, and the order is that of `append`.
//! * Every record has one outcome; memory comes back.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_client::producer::{
    AppendError, Appended, Outcome, ProduceError, ProducerCore, ProducerRecord,
};
use highwater_client::{Acks, Core, ErrorCode, MonoTime, ProducerConfig, parse_bootstrap_servers};
use highwater_model::compression::Compression;
use highwater_model::{PartitionIndex, Timestamp};
use proptest::prelude::*;
use support::net::Net;
use support::{Fault, ModelCluster};

const PARTITIONS: i32 = 2;
const BROKERS: i32 = 3;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn hits(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("small")]
    }
}

#[derive(Debug, Clone, Copy)]
struct Chaos {
    seed: u64,
    idempotent: bool,
    acks: Acks,
    /// In percent, of every batch and of every step.
    error_percent: u64,
    cut_percent: u64,
    /// Whether requests of a lost connection may still be read.
    strays: bool,
    /// Whether `delivery.timeout.ms` is short enough to pass.
    short_delivery: bool,
    /// Whether all brokers may lose power at once, and with it every log and what they knew of producers.
    amnesia: bool,
    records: u64,
}

struct World {
    core: ProducerCore,
    cluster: ModelCluster,
    net: Net,
    dice: Dice,
    now: MonoTime,
    chaos: Chaos,
    /// How often brokers read, and the client.
    speeds: (u64, u64),
    appended: Vec<(i32, u64)>,
    outcomes: BTreeMap<u64, (Outcome, Option<i64>)>,
}

impl World {
    fn new(chaos: Chaos) -> Self {
        let mut cluster = ModelCluster::new(BROKERS);
        cluster.create_topic("t", PARTITIONS);
        let servers = parse_bootstrap_servers("broker-1:9092,broker-2:9092").expect("well formed");
        let mut dice = Dice(chaos.seed);
        let mut config = ProducerConfig::new(servers);
        config.enable_idempotence = chaos.idempotent;
        config.acks = chaos.acks;
        config.max_in_flight = if chaos.idempotent { 5 } else { dice.pick(&[1, 2, 5]) };
        config.linger = Duration::from_millis(dice.below(20));
        config.batch_size_bytes = dice.pick(&[0, 100, 300]);
        config.buffer_memory_bytes = 20_000;
        config.compression = dice.pick(&[Compression::None, Compression::Lz4]);
        config.client.request_timeout = Duration::from_secs(2);
        config.delivery_timeout =
            if chaos.short_delivery { Duration::from_millis(2100) } else { Duration::from_secs(3600) };
        let core = ProducerCore::new(config, chaos.seed).expect("settings of the test");
        World {
            core,
            cluster,
            net: Net::default(),
            speeds: (1 + dice.below(6), 1 + dice.below(6)),
            dice,
            now: MonoTime(0),
            chaos,
            appended: Vec::new(),
            outcomes: BTreeMap::new(),
        }
    }

    fn step(&mut self, faults: bool) {
        self.net.perform(&mut self.core, &self.cluster, self.now, |_| true);
        let connections: Vec<_> = self.net.links.keys().copied().collect();
        let chaos = self.chaos;
        let (broker_speed, client_speed) = self.speeds;
        match self.dice.below(4 + broker_speed + client_speed) {
            kind if kind < broker_speed && !connections.is_empty() => {
                let connection = self.dice.pick(&connections);
                let (dice, acks) = (&mut self.dice, chaos.acks);
                self.net.deliver_to_broker(connection, &mut self.cluster, |_, _| {
                    if faults && dice.hits(chaos.error_percent) {
                        random_fault(dice, acks)
                    } else {
                        Fault::None
                    }
                });
            }
            kind if kind < broker_speed + client_speed && !connections.is_empty() => {
                let connection = self.dice.pick(&connections);
                self.net.deliver_to_client(connection, &mut self.core, self.now);
            }
            kind if kind % 4 == 0 => self.advance(),
            _ if faults => self.disturb(&connections),
            _ => {}
        }
        while let Some(delivery) = self.core.pop_delivery() {
            for (token, offset) in delivery.records() {
                let earlier = self.outcomes.insert(token, (delivery.outcome, offset.map(|o| o.0)));
                assert!(earlier.is_none(), "record {token} has two outcomes");
            }
            self.core.recycle(delivery);
        }
    }

    fn advance(&mut self) {
        let wake = self.core.wake_at();
        let jump = Duration::from_millis(self.dice.below(30));
        let soon = self.now + jump;
        self.now = if wake == MonoTime::NEVER {
            soon
        } else {
            soon.max(wake.min(self.now + Duration::from_secs(1)))
        };
    }

    fn disturb(&mut self, connections: &[highwater_client::ConnectionId]) {
        match self.dice.below(4) {
            0 if self.dice.hits(self.chaos.cut_percent) && !connections.is_empty() => {
                let connection = self.dice.pick(connections);
                let stays = self.chaos.strays && self.dice.hits(70);
                self.net.cut(connection, &mut self.core, self.now, stays);
            }
            1 if self.dice.hits(self.chaos.cut_percent) => {
                let index = i32::try_from(self.dice.below(2)).expect("small");
                let leader = 1 + i32::try_from(self.dice.below(3)).expect("small");
                let partition = self.cluster.partition("t", index);
                partition.leader = leader;
                partition.leader_epoch += 1;
            }
            2 if !self.net.stray.is_empty() => {
                let index = self.dice.below(self.net.stray.len() as u64);
                let (broker, frame) = self.net.stray.remove(usize::try_from(index).expect("small"));
                self.cluster.handle(broker, frame, |_, _| Fault::None);
            }
            3 if self.chaos.amnesia && self.dice.hits(self.chaos.cut_percent / 3) => {
                for connection in connections {
                    self.net.cut(*connection, &mut self.core, self.now, false);
                }
                self.net.stray.clear();
                (0..PARTITIONS).for_each(|index| self.cluster.partition("t", index).lose_everything());
            }
            _ => {}
        }
    }

    fn append(&mut self) {
        let topic = self.core.topic("t");
        let token = self.appended.len() as u64;
        let index = i32::try_from(self.dice.below(2)).expect("small");
        let value = token.to_string();
        let record = ProducerRecord {
            partition: Some(PartitionIndex(index)),
            token,
            ..ProducerRecord::new(topic, Timestamp(0), value.as_bytes())
        };
        match self.core.append(&record, self.now) {
            Ok(_) => self.appended.push((index, token)),
            Err(AppendError::Full | AppendError::NoMetadata) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn run(&mut self) {
        let mut steps = 0u64;
        while (self.appended.len() as u64) < self.chaos.records {
            self.append();
            for _ in 0..self.dice.below(6) {
                self.step(true);
            }
            steps += 1;
            assert!(steps < 200_000, "appends make no progress");
        }
        for _ in 0..2000 {
            self.step(true);
        }
        // Healed: every record must come to an outcome.
        self.core.close(self.now);
        let mut steps = 0u64;
        while !self.core.is_drained() {
            self.step(false);
            steps += 1;
            assert!(steps < 500_000, "a closed producer must drain: {:?}", self.core.stats());
        }
        self.step(false);
        for (broker, frame) in std::mem::take(&mut self.net.stray) {
            self.cluster.handle(broker, frame, |_, _| Fault::None);
        }
    }

    fn check(&mut self) {
        assert_eq!(self.outcomes.len(), self.appended.len(), "one outcome a record");
        assert_eq!(self.core.available_memory_bytes(), 20_000, "memory comes back");
        for index in 0..PARTITIONS {
            let log: Vec<(i64, u64)> = (self.cluster.partition("t", index).records().into_iter())
                .map(|(offset, value)| {
                    let token = String::from_utf8(value).expect("a number").parse().expect("a number");
                    (offset, token)
                })
                .collect();
            let mut found: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
            for (offset, token) in &log {
                found.entry(*token).or_default().push(*offset);
            }
            for (_, token) in self.appended.iter().filter(|(at, _)| *at == index) {
                self.check_record(*token, found.get(token).map_or(&[], Vec::as_slice));
            }
            if self.chaos.idempotent {
                let order: Vec<u64> = log.iter().map(|(_, token)| *token).collect();
                assert!(order.is_sorted(), "partition {index} is out of order: {order:?}");
            }
        }
    }

    fn check_record(&self, token: u64, found: &[i64]) {
        let (outcome, offset) = self.outcomes[&token];
        match outcome {
            Outcome::Acked { .. } if self.chaos.amnesia => {}
            Outcome::Acked { .. } => {
                assert!(!found.is_empty(), "record {token} was acknowledged and is lost");
                if let Some(offset) = offset {
                    assert!(found.contains(&offset), "record {token}: told {offset}, found at {found:?}");
                }
            }
            Outcome::Failed(ProduceError { appended: Appended::No | Appended::NeverSent, .. }) => {
                assert!(found.is_empty(), "record {token} is in the log, in spite of {outcome:?}");
            }
            Outcome::Failed(_) | Outcome::Sent => {}
        }
        if self.chaos.idempotent || self.chaos.acks == Acks::None {
            assert!(found.len() <= 1, "record {token} is in the log {} times, {outcome:?}", found.len());
        }
    }
}

fn random_fault(dice: &mut Dice, acks: Acks) -> Fault {
    let refusals = [
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::MESSAGE_TOO_LARGE,
        ErrorCode::INVALID_RECORD,
        ErrorCode::INVALID_RECORD,
        ErrorCode::THROTTLING_QUOTA_EXCEEDED,
        ErrorCode::UNKNOWN_SERVER_ERROR,
    ];
    let after = [
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::UNKNOWN_SERVER_ERROR,
    ];
    if acks == Acks::All && dice.hits(50) {
        Fault::AppendThen(dice.pick(&after))
    } else {
        Fault::Refuse(dice.pick(&refusals))
    }
}

fn chaos(idempotent: bool) -> impl Strategy<Value = Chaos> {
    (any::<u64>(), 0..40u64, 0..60u64, any::<bool>(), any::<bool>()).prop_map(
        move |(seed, error_percent, cut_percent, strays, short_delivery)| Chaos {
            seed,
            idempotent,
            acks: Acks::All,
            error_percent,
            cut_percent,
            strays,
            short_delivery,
            amnesia: false,
            records: 120,
        },
    )
}

fn survives(chaos: Chaos) {
    let mut world = World::new(chaos);
    world.run();
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn idempotent_producer_never_loses_duplicates_or_reorders(chaos in chaos(true)) {
        survives(chaos);
    }

    #[test]
    fn idempotent_producer_keeps_order_when_brokers_forget_everything(chaos in chaos(true)) {
        survives(Chaos { amnesia: true, strays: false, ..chaos });
    }

    #[test]
    fn plain_producer_never_loses_what_was_acknowledged(chaos in chaos(false)) {
        survives(chaos);
    }

    #[test]
    fn acks_1_and_0_keep_their_word(
        chaos in chaos(false),
        acks in prop_oneof![Just(Acks::Leader), Just(Acks::None)],
    ) {
        survives(Chaos { acks, ..chaos });
    }
}

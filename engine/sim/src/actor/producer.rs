//! A producer: the client's own core, which knows nothing of the simulation, and a ledger of every record.

use std::rc::Rc;
use std::time::Duration;

use highwater_checker::{ErrorClass, Filler, Key};
use highwater_client::producer::{Appended, Delivery, FailureReason, Outcome, ProducerCore, ProducerRecord};
use highwater_client::{Acks, ClientConfig, HostPort, ProducerConfig, TopicHandle};
use highwater_io::Io;
use highwater_model::{PartitionIndex, Timestamp};

use super::drive::{Driven, until};
use super::reader::IDENTITY_HEADER;
use super::{Stagehand, steady_topic};
use crate::books::{Books, Event, Lane, Records};
use crate::dice::Dice;
use crate::scenario::{BrokerSize, Scenario};

/// Small, so that it runs full while the broker is away.
const LEAST_BUFFER_BYTES: usize = 48 << 10;
/// Room that a record takes beside its value.
const OVERHEAD_BYTES: usize = 512;
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);
/// Long enough for most absences of the broker, not for all.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(3);
const WAIT_FOR_METADATA: Duration = Duration::from_millis(3);

/// Tokens hold a lane's number and a sequence.
const SEQUENCE_BITS: u32 = 40;

/// What a producer needs to know.
pub(crate) struct Part {
    pub(crate) hand: Stagehand,
    pub(crate) producer: u32,
}

/// Produces until the end is asked for, then waits for the last outcome.
pub(crate) async fn produce(io: Io, part: Part) {
    let dice = Dice::new(part.hand.seed, 100 + u64::from(part.producer));
    let core = ProducerCore::new(config(&part.hand), dice.next()).expect("the settings are valid");
    let driven = Driven::new(io.clone(), core);
    let lanes = lanes(&part, &driven);
    let books = Rc::clone(&part.hand.books);
    let of_lanes: Vec<Lane> = lanes.iter().map(|&(_, lane)| lane).collect();
    let collect = move |core: &mut ProducerCore| {
        while let Some(delivery) = core.pop_delivery() {
            book(&books, &of_lanes, &delivery);
            core.recycle(delivery);
        }
    };
    let driving = io.spawn(Rc::clone(&driven).drive(collect));
    until(part.hand.closing(), work(&part.hand, &driven, &lanes, &dice)).await;
    driven.core.borrow_mut().close(driven.now());
    driven.wake();
    while !driven.core.borrow().is_drained() {
        io.sleep(Duration::from_millis(5)).await;
    }
    drop(driving);
}

fn config(hand: &Stagehand) -> ProducerConfig {
    let scenario = &hand.scenario;
    let server = HostPort { host: hand.address.ip().to_string(), port: hand.address.port() };
    ProducerConfig {
        client: ClientConfig {
            request_timeout: REQUEST_TIMEOUT,
            retry_backoff: Duration::from_millis(1),
            retry_backoff_max: Duration::from_millis(20),
            reconnect_backoff: Duration::from_millis(1),
            reconnect_backoff_max: Duration::from_millis(20),
            connection_setup_timeout: Duration::from_millis(500),
            ..ClientConfig::new(vec![server])
        },
        acks: match scenario.acks {
            highwater_checker::Acks::Zero => Acks::None,
            highwater_checker::Acks::One => Acks::Leader,
            highwater_checker::Acks::All => Acks::All,
        },
        enable_idempotence: scenario.idempotence,
        max_in_flight: scenario.max_in_flight as usize,
        delivery_timeout: DELIVERY_TIMEOUT,
        linger: scenario.linger,
        batch_size_bytes: scenario.batch_bytes,
        buffer_memory_bytes: buffer_bytes(scenario),
        ..ProducerConfig::default()
    }
}

/// `buffer.memory`: for a broker of the usual size an open batch a partition, and as many on their way.
fn buffer_bytes(scenario: &Scenario) -> usize {
    let partitions: u32 = scenario.partitions.iter().sum();
    let batch_bytes = scenario.batch_bytes.max(scenario.value_bytes.1 as usize) + OVERHEAD_BYTES;
    match scenario.size {
        BrokerSize::Tiny => LEAST_BUFFER_BYTES,
        BrokerSize::Usual => LEAST_BUFFER_BYTES.max(2 * partitions as usize * batch_bytes),
    }
}

/// Every partition that it writes, with the client's name for its topic.
fn lanes(part: &Part, driven: &Driven<ProducerCore>) -> Vec<(TopicHandle, Lane)> {
    let topics = part.hand.scenario.partitions.iter().enumerate();
    topics
        .flat_map(|(topic, &partitions)| {
            let handle = driven.core.borrow_mut().topic(&steady_topic(topic));
            let topic = u32::try_from(topic).expect("few topics");
            let producer = part.producer;
            (0..partitions).map(move |partition| (handle, Lane { producer, topic, partition }))
        })
        .collect()
}

async fn work(hand: &Stagehand, driven: &Driven<ProducerCore>, lanes: &[(TopicHandle, Lane)], dice: &Dice) {
    let knows_all = || {
        let core = driven.core.borrow();
        lanes.iter().all(|(topic, _)| core.partition_count(*topic).is_some())
    };
    while !knows_all() {
        driven.wake();
        driven.io.sleep(WAIT_FOR_METADATA).await;
    }
    loop {
        for _ in 0..dice.between(1, hand.scenario.burst) {
            send_one(hand, driven, lanes, dice);
        }
        driven.wake();
        driven.io.sleep(dice.micros(hand.scenario.pause_us)).await;
    }
}

fn send_one(hand: &Stagehand, driven: &Driven<ProducerCore>, lanes: &[(TopicHandle, Lane)], dice: &Dice) {
    let number = dice.below(lanes.len() as u64);
    let (topic, lane) = lanes[usize::try_from(number).expect("an index")];
    let (least, most) = hand.scenario.value_bytes;
    let value_len = u32::try_from(dice.between(u64::from(least), u64::from(most))).expect("short");
    // A record that would not be taken is not attempted.
    let needed_bytes = (value_len as usize + OVERHEAD_BYTES).max(hand.scenario.batch_bytes);
    if driven.core.borrow().available_memory_bytes() < needed_bytes {
        return;
    }
    let key = key(hand, lane, dice);
    let identity = hand.books.attempt(lane, value_len, key);
    let mut value = vec![0; value_len as usize];
    identity.encode(&mut value, Filler::INCOMPRESSIBLE).expect("the value has its length");
    let timestamp = Timestamp(driven.io.wall_time().as_millis());
    let key_bytes = key.map(|key| key.number.to_be_bytes());
    // A tombstone has no value that could tell who it is.
    let of_tombstone = [(IDENTITY_HEADER, Some(value.as_slice()))];
    let is_tombstone = key.is_some_and(|key| key.is_tombstone);
    let record = ProducerRecord {
        partition: Some(PartitionIndex(lane.partition.cast_signed())),
        key: key_bytes.as_ref().map(|bytes| bytes.as_slice()),
        value: (!is_tombstone).then_some(&value),
        headers: if is_tombstone { &of_tombstone } else { &[] },
        token: number << SEQUENCE_BITS | identity.sequence,
        ..ProducerRecord::new(topic, timestamp, &value)
    };
    if driven.core.borrow_mut().append(&record, driven.now()).is_err() {
        let records = Records { lane, first: identity.sequence, count: 1 };
        hand.books.outcome(Event::NeverSent { records });
    }
}

/// The key of the next record, where the topic is compacted.
fn key(hand: &Stagehand, lane: Lane, dice: &Dice) -> Option<Key> {
    let compacted = hand.scenario.compacted_topic(lane.topic as usize)?;
    let number = u32::try_from(dice.below(compacted.keys.into())).expect("few keys");
    Some(Key { number, is_tombstone: dice.one_in(6) })
}

/// Books the outcome of a batch, in runs of consecutive sequences.
fn book(books: &Books, lanes: &[Lane], delivery: &Delivery) {
    let mut runs: Vec<(i64, Records)> = Vec::with_capacity(1);
    for (place, &token) in (0..).zip(&delivery.tokens) {
        let lane = lanes[usize::try_from(token >> SEQUENCE_BITS).expect("an index")];
        let sequence = token & ((1 << SEQUENCE_BITS) - 1);
        match runs.last_mut() {
            Some((_, run)) if run.first + u64::from(run.count) == sequence => run.count += 1,
            _ => runs.push((place, Records { lane, first: sequence, count: 1 })),
        }
    }
    for (place, records) in runs {
        book_run(books, place, records, delivery.outcome);
    }
}

fn book_run(books: &Books, place: i64, records: Records, outcome: Outcome) {
    let error = match outcome {
        Outcome::Acked { base_offset: Some(base), .. } => return books.ack(records, base.0 + place),
        // The broker has it, and does not say where: no evidence to hold it to.
        Outcome::Acked { base_offset: None, .. } => {
            return books.outcome(Event::Error { records, class: ErrorClass::Info, code: None });
        }
        Outcome::Sent => return books.outcome(Event::Sent { records }),
        Outcome::Failed(error) => error,
    };
    let code = match error.reason {
        FailureReason::Broker(code) => Some(code.0),
        FailureReason::DeliveryTimeout { last } => last.map(|code| code.0),
        _ => None,
    };
    books.outcome(match error.appended {
        Appended::NeverSent => Event::NeverSent { records },
        Appended::No => Event::Error { records, class: ErrorClass::Fail, code },
        Appended::Unknown => Event::Error { records, class: ErrorClass::Info, code },
    });
}

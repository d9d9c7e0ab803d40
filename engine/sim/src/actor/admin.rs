//! The administrator: creates topics and deletes them, trims logs, changes settings, and remembers what it was promised.
//!
//! One request at a time. An answer that does not come leaves open whether the request was carried out; what the books
//! then say admits both.

use std::time::Duration;

use bytes::Bytes;
use highwater_checker::codes::classify;
use highwater_checker::{ErrorClass, Filler, Flush};
use highwater_client::IsolationLevel;
use highwater_client::admin::{
    AlterConfigs, ConfigResource, CreateTopics, DeleteRecords, DeleteTopics, ItemError, ListOffsets,
    NewTopic, OffsetSpec,
};
use highwater_io::Io;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{BrokerId, Offset, PartitionIndex, Timestamp};
use highwater_protocol::ErrorCode;
use highwater_protocol::messages::ProduceRequest;
use highwater_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

use super::Stagehand;
use crate::books::{Event, Lane, Records};
use crate::dice::Dice;
use crate::promises::{Presence, Topic};
use crate::wire::{Connection, Gone, topic_name};

/// The one broker.
pub(crate) const BROKER: BrokerId = BrokerId(1);
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest pause between two requests, in microseconds.
const PAUSE_US: u64 = 8_000;
/// Most topics that are there for a while.
const MAX_PASSING_TOPICS: usize = 24;
const PASSING_VALUE_BYTES: u32 = 300;
/// Kafka's way to say never.
const RETENTION_BYTES: &str = "retention.bytes";
const NEVER: &str = "9223372036854775807";

/// Works until the end is asked for.
pub(crate) async fn administrate(io: Io, hand: Stagehand) {
    let dice = Dice::new(hand.seed, 3);
    let admin = Admin { io, hand, dice };
    while !admin.hand.is_closing() {
        let mut connection = Connection::open(&admin.io, admin.hand.address).await;
        let Err(Gone) = admin.work(&mut connection).await else { return };
        admin.lost();
    }
}

struct Admin {
    io: Io,
    hand: Stagehand,
    dice: Dice,
}

impl Admin {
    async fn work(&self, connection: &mut Connection) -> Result<(), Gone> {
        for topic in 0..self.hand.scenario.partitions.len() {
            self.create(connection, topic).await?;
        }
        if !self.hand.scenario.administration {
            return Ok(());
        }
        while !self.hand.is_closing() {
            match self.dice.below(12) {
                0..=2 => self.change_setting(connection).await?,
                3..=5 => self.trim(connection).await?,
                6 => self.begin_passing_topic(connection).await?,
                7 => self.end_passing_topic(connection).await?,
                _ => self.produce_to_passing_topic(connection).await?,
            }
            self.io.sleep(self.dice.micros(PAUSE_US)).await;
        }
        Ok(())
    }

    /// The connection is gone, and with it the order of requests on it: one that was sent may still be carried out. A
    /// topic whose last request had no answer is left alone from now on.
    fn lost(&self) {
        let promises = &mut *self.hand.promises.borrow_mut();
        for topic in &mut promises.topics {
            if topic.presence == Presence::Asked && topic.name.starts_with(PASSING) {
                topic.presence = Presence::Leaving;
            }
        }
    }

    fn presence(&self, topic: usize) -> Presence {
        self.hand.promises.borrow().topics[topic].presence
    }

    fn set_presence(&self, topic: usize, presence: Presence) {
        self.hand.promises.borrow_mut().topics[topic].presence = presence;
    }

    async fn create(&self, connection: &mut Connection, topic: usize) -> Result<(), Gone> {
        while self.presence(topic) == Presence::Asked {
            let Topic { name, partitions, .. } = self.hand.promises.borrow().topics[topic].clone();
            let new = NewTopic {
                name,
                partition_count: partitions.cast_signed(),
                replication_factor: 1,
                assignments: Vec::new(),
                configs: self.topic_settings(topic),
            };
            let created =
                connection.operate(5, &CreateTopics { topics: vec![new], timeout: TIMEOUT }).await?;
            match created.into_iter().next().map(|(_, result)| result) {
                Some(Ok(())) => self.set_presence(topic, Presence::There),
                Some(Err(ItemError { code: ErrorCode::TOPIC_ALREADY_EXISTS, .. })) => {
                    self.set_presence(topic, Presence::There);
                }
                // It has not counted itself in yet, say.
                _ => self.io.sleep(Duration::from_millis(5)).await,
            }
        }
        Ok(())
    }

    /// What a topic is created with.
    fn topic_settings(&self, topic: usize) -> Vec<(String, String)> {
        let scenario = &self.hand.scenario;
        let is_careless = scenario.careless_topics && topic >= scenario.partitions.len();
        let flush = if is_careless { Flush::LEFT_TO_SYSTEM } else { scenario.flush };
        let text = |value: Option<u64>| value.map_or(NEVER.to_owned(), |value| value.to_string());
        let mut settings = vec![("flush.messages", text(flush.messages)), ("flush.ms", text(flush.ms))];
        if let Some(compacted) = scenario.compacted_topic(topic) {
            let policy = if compacted.deletes_too { "compact,delete" } else { "compact" };
            settings.extend([
                ("cleanup.policy", policy.to_owned()),
                ("min.cleanable.dirty.ratio", "0.01".to_owned()),
                ("delete.retention.ms", compacted.delete_retention.as_millis().to_string()),
            ]);
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    async fn begin_passing_topic(&self, connection: &mut Connection) -> Result<(), Gone> {
        let topic = {
            let topics = &mut self.hand.promises.borrow_mut().topics;
            if topics.len() >= MAX_PASSING_TOPICS {
                return Ok(());
            }
            // A name is used again as soon as its topic is gone for certain.
            let free = |name: &str| {
                let is_over = |topic: &Topic| topic.presence == Presence::Gone && !topic.is_in_doubt;
                topics.iter().all(|topic| topic.name != name || is_over(topic))
            };
            let name = (0..)
                .map(|number| format!("{PASSING}{number}"))
                .find(|name| free(name))
                .expect("names do not run out");
            topics.push(Topic::new(name, 1));
            topics.len() - 1
        };
        self.create(connection, topic).await
    }

    /// A topic that may be deleted, and is there.
    fn passing_topic(&self) -> Option<usize> {
        let steady = self.hand.scenario.partitions.len();
        let promises = self.hand.promises.borrow();
        let there: Vec<usize> = (steady..promises.topics.len())
            .filter(|&topic| promises.topics[topic].presence == Presence::There)
            .collect();
        (!there.is_empty()).then(|| self.dice.pick(&there))
    }

    async fn end_passing_topic(&self, connection: &mut Connection) -> Result<(), Gone> {
        let Some(topic) = self.passing_topic() else { return Ok(()) };
        self.set_presence(topic, Presence::Leaving);
        let names = vec![self.hand.promises.borrow().topics[topic].name.clone()];
        let deleted = connection.operate(5, &DeleteTopics { names, timeout: TIMEOUT }).await?;
        if let Some((_, Ok(()))) = deleted.first() {
            self.set_presence(topic, Presence::Gone);
        }
        Ok(())
    }

    async fn produce_to_passing_topic(&self, connection: &mut Connection) -> Result<(), Gone> {
        // Without idempotence a request that got no answer may land after later ones. So none are sent after it.
        let is_in_doubt = |topic: &usize| self.hand.promises.borrow().topics[*topic].is_in_doubt;
        let Some(topic) = self.passing_topic().filter(|topic| !is_in_doubt(topic)) else { return Ok(()) };
        let name = self.hand.promises.borrow().topics[topic].name.clone();
        let producer = self.hand.scenario.producers;
        let lane = Lane { producer, topic: u32::try_from(topic).expect("few topics"), partition: 0 };
        let count = u32::try_from(self.dice.between(1, 3)).expect("few");
        let (first, batch) = self.batch(lane, count);
        let records = Records { lane, first, count };
        let unknown = Event::Error { records, class: ErrorClass::Info, code: None };
        let data = PartitionProduceData::default().with_index(0).with_records(Some(batch));
        let data = TopicProduceData::default().with_name(topic_name(&name)).with_partition_data(vec![data]);
        // Without acks there would be no answer to wait for.
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(vec![data]);
        let Ok(response) = connection.call(9, &request).await else {
            self.hand.books.outcome(unknown);
            self.hand.promises.borrow_mut().topics[topic].is_in_doubt = true;
            return Err(Gone);
        };
        let answer = &response.responses[0].partition_responses[0];
        if ErrorCode(answer.error_code).is_none() && self.hand.scenario.careless_topics {
            self.hand.books.outcome(unknown);
        } else if ErrorCode(answer.error_code).is_none() {
            self.hand.books.ack(records, answer.base_offset);
        } else {
            let class = classify(answer.error_code, self.hand.scenario.setting().ack_point());
            self.hand.books.outcome(Event::Error { records, class, code: Some(answer.error_code) });
        }
        Ok(())
    }

    fn batch(&self, lane: Lane, count: u32) -> (u64, Bytes) {
        let mut builder = BatchBuilder::new(Compression::None);
        let mut first = None;
        for _ in 0..count {
            let identity = self.hand.books.attempt(lane, PASSING_VALUE_BYTES, None);
            first.get_or_insert(identity.sequence);
            let mut value = vec![0; PASSING_VALUE_BYTES as usize];
            identity.encode(&mut value, Filler::INCOMPRESSIBLE).expect("the value has its length");
            let timestamp = Timestamp(self.io.wall_time().as_millis());
            builder.push(&NewRecord { timestamp, value: Some(&value), ..NewRecord::default() });
        }
        (first.expect("count is above 0"), builder.build(ProducerStamp::NONE).expect("a batch"))
    }

    /// Changes a setting of a topic that stays, never to less than the scenario promises.
    async fn change_setting(&self, connection: &mut Connection) -> Result<(), Gone> {
        let topic = self.any_steady_topic();
        let (name, value) = self.new_setting();
        {
            let mut promises = self.hand.promises.borrow_mut();
            promises.settings.entry((topic, name)).or_default().asked.push(value.clone());
            // -1 keeps everything.
            if let Some(bytes) = value.parse().ok().filter(|_: &u64| name == RETENTION_BYTES) {
                let retained = promises.retained_bytes.entry(topic).or_insert(bytes);
                *retained = bytes.min(*retained);
            }
        }
        let resource = ConfigResource::Topic(self.hand.promises.borrow().topics[topic].name.clone());
        let changes = vec![(name.to_owned(), Some(value.clone()))];
        let changed = connection.operate(1, &AlterConfigs { resource, changes }).await?;
        if changed.is_ok() {
            let mut promises = self.hand.promises.borrow_mut();
            let setting = promises.settings.entry((topic, name)).or_default();
            // Earlier requests without an answer stay: they may still be on their way, on a connection that is lost.
            setting.asked.pop();
            setting.acknowledged = Some(value);
        }
        Ok(())
    }

    fn new_setting(&self) -> (&'static str, String) {
        let scenario = &self.hand.scenario;
        match self.dice.below(4) {
            0 => ("segment.ms", self.dice.pick(&["1", "20", "200", "604800000"]).to_owned()),
            1 if scenario.retention => {
                (RETENTION_BYTES, self.dice.pick(&["-1", "20000", "100000"]).to_owned())
            }
            2 => {
                let most = scenario.flush.messages.unwrap_or(u64::MAX);
                let value = self.dice.pick(&[1, 2, 4, 100]).min(most);
                ("flush.messages", value.to_string())
            }
            _ => ("index.interval.bytes", self.dice.pick(&["0", "512", "4096"]).to_owned()),
        }
    }

    async fn trim(&self, connection: &mut Connection) -> Result<(), Gone> {
        let topic = self.any_steady_topic();
        let partitions = u64::from(self.hand.scenario.partitions[topic]);
        let partition = u32::try_from(self.dice.below(partitions)).expect("few");
        let index = PartitionIndex(partition.cast_signed());
        let name = self.hand.promises.borrow().topics[topic].name.clone();
        let ask = ListOffsets {
            leader: BROKER,
            topic: name.clone(),
            partitions: vec![(index, OffsetSpec::Latest)],
            isolation_level: IsolationLevel::ReadUncommitted,
        };
        let listed = connection.operate(5, &ask).await?;
        let Some(Ok(Some(end))) = listed.first().map(|(_, result)| result.map(|listed| listed.offset)) else {
            return Ok(());
        };
        let start = self.hand.promises.borrow().trims.get(&(topic, partition)).map_or(0, |trim| trim.asked);
        let room = (end.0 - start).max(0).unsigned_abs();
        // Rarely everything: what is gone cannot be lost.
        let step = if self.dice.one_in(20) { room } else { self.dice.below(room / 4 + 1) };
        let before = start + step.cast_signed();
        let key = (topic, partition);
        {
            let mut promises = self.hand.promises.borrow_mut();
            let trim = promises.trims.entry(key).or_default();
            trim.asked = trim.asked.max(before);
        }
        let request = DeleteRecords {
            leader: BROKER,
            topic: name,
            before: vec![(index, Some(Offset(before)))],
            timeout: TIMEOUT,
        };
        let deleted = connection.operate(2, &request).await?;
        if let Some((_, Ok(start))) = deleted.first() {
            let mut promises = self.hand.promises.borrow_mut();
            let trim = promises.trims.entry(key).or_default();
            trim.acknowledged = trim.acknowledged.max(start.0);
        }
        Ok(())
    }

    fn any_steady_topic(&self) -> usize {
        usize::try_from(self.dice.below(self.hand.scenario.partitions.len() as u64)).expect("an index")
    }
}

/// How the names of topics begin that are there for a while.
const PASSING: &str = "passing-";

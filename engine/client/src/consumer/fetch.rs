//! The consumer's requests, ListOffsets and Fetch, and what their answers do.

use std::collections::BTreeMap;

use bytes::Bytes;
use highwater_model::batch::{self, BatchError, BatchHeader};
use highwater_model::{BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerId, TopicId};
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use highwater_protocol::messages::fetch_response::PartitionData;
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use highwater_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, TopicName,
};
use highwater_protocol::{ErrorCode, decode_response};

use super::records::{FetchedRecords, Watermarks};
use super::session::{Asked, SessionRequest};
use super::{ConsumerCore, ConsumerError, ConsumerEvent, Position, StartAt};
use crate::config::IsolationLevel;
use crate::error_code::is_stale_metadata;
use crate::metadata::{Partition, TopicHandle, TopicState};
use crate::network::{LinkState, NetEvent};
use crate::time::MonoTime;
use crate::wire::WireError;

/// Answers of one partition that wait for the application: one to work through and one to go on with.
const MAX_BUFFERED: u32 = 2;

/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 13;

/// What a request in flight is for.
#[derive(Debug)]
pub(super) enum Request {
    Metadata,
    ListOffsets { partitions: Vec<InFlight> },
    Fetch { broker: BrokerId, partitions: Vec<InFlight> },
}

/// A partition in a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    partition: Partition,
    generation: u64,
    /// What was asked for: an offset, or with ListOffsets a timestamp.
    asked: i64,
}

const TIMESTAMP_LATEST: i64 = -1;
const TIMESTAMP_EARLIEST: i64 = -2;

impl StartAt {
    fn timestamp(self) -> i64 {
        match self {
            StartAt::Latest | StartAt::Offset(_) => TIMESTAMP_LATEST,
            StartAt::Earliest => TIMESTAMP_EARLIEST,
            StartAt::Timestamp(timestamp) => timestamp.0,
        }
    }
}

impl ConsumerCore {
    /// Does everything that is due.
    pub(super) fn advance(&mut self, now: MonoTime) {
        self.network.expire(now);
        self.handle_events(now);
        self.ask_metadata(now);
        self.stop_refused_topics();
        self.ask_offsets(now);
        self.fetch(now);
    }

    fn ask_metadata(&mut self, now: MonoTime) {
        if !self.metadata.is_due(now) {
            return;
        }
        let Some(broker) = self.network.any_broker(now) else { return };
        let Some(version) = self.network.version::<MetadataRequest>(broker) else {
            self.metadata.on_failure(&mut self.rng, now);
            return;
        };
        let request = self.metadata.request(version);
        if self.network.send(broker, &request, version, Request::Metadata, now).is_err() {
            self.metadata.on_failure(&mut self.rng, now);
        }
    }

    fn stop_refused_topics(&mut self) {
        let refused: Vec<(Partition, ErrorCode)> = (self.assigned.iter())
            .filter(|(_, assigned)| assigned.position != Position::Stopped)
            .filter_map(|(partition, _)| match self.metadata.topic(partition.topic).state {
                TopicState::Failed(code) => Some((*partition, code)),
                _ => None,
            })
            .collect();
        for (partition, code) in refused {
            self.stop(partition, ConsumerError::Broker(code));
        }
    }

    /// Whether a partition may be part of a request now.
    fn is_idle(&self, partition: Partition, now: MonoTime) -> bool {
        (self.assigned.get(&partition))
            .is_some_and(|assigned| !assigned.in_flight && !assigned.is_paused && assigned.retry_at <= now)
    }

    fn ask_offsets(&mut self, now: MonoTime) {
        let mut by_broker: BTreeMap<BrokerId, Vec<(InFlight, LeaderEpoch)>> = BTreeMap::new();
        for (partition, assigned) in &self.assigned {
            let Position::Unknown { at, .. } = assigned.position else { continue };
            if !self.is_idle(*partition, now) {
                continue;
            }
            let Some((broker, epoch)) = self.leader(*partition) else {
                self.metadata.request_update();
                continue;
            };
            let asked = at.timestamp();
            let in_flight = InFlight { partition: *partition, generation: assigned.generation, asked };
            by_broker.entry(broker).or_default().push((in_flight, epoch));
        }
        for (broker, partitions) in by_broker {
            match self.network.link(broker, now) {
                LinkState::Up { .. } => self.send_list_offsets(broker, &partitions, now),
                LinkState::NotYet => {}
                LinkState::Unknown => self.metadata.request_update(),
            }
        }
    }

    fn send_list_offsets(&mut self, broker: BrokerId, asked: &[(InFlight, LeaderEpoch)], now: MonoTime) {
        let partitions: Vec<InFlight> = asked.iter().map(|(in_flight, _)| *in_flight).collect();
        let Some(version) = self.network.version::<ListOffsetsRequest>(broker) else {
            for in_flight in partitions {
                self.stop(in_flight.partition, ConsumerError::UnsupportedVersion);
            }
            return;
        };
        let mut topics: Vec<(TopicHandle, Vec<ListOffsetsPartition>)> = Vec::new();
        for (in_flight, epoch) in asked {
            let mut entry = ListOffsetsPartition::default()
                .with_partition_index(in_flight.partition.index.0)
                .with_timestamp(in_flight.asked);
            if version >= 4 {
                entry = entry.with_current_leader_epoch(epoch.0);
            }
            match topics.last_mut().filter(|(topic, _)| *topic == in_flight.partition.topic) {
                Some((_, entries)) => entries.push(entry),
                None => topics.push((in_flight.partition.topic, vec![entry])),
            }
        }
        let topics = (topics.into_iter())
            .map(|(topic, partitions)| {
                let name = TopicName(self.metadata.topic(topic).name.clone());
                ListOffsetsTopic::default().with_name(name).with_partitions(partitions)
            })
            .collect();
        let isolation_level = if version >= 2 { self.config.isolation_level.code() } else { 0 };
        let mut request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(isolation_level)
            .with_topics(topics);
        if version >= 10 {
            request = request.with_timeout_ms(millis(self.config.client.request_timeout));
        }
        let context = Request::ListOffsets { partitions: partitions.clone() };
        if self.network.send(broker, &request, version, context, now).is_ok() {
            self.mark_in_flight(&partitions);
        }
    }

    fn mark_in_flight(&mut self, partitions: &[InFlight]) {
        for in_flight in partitions {
            if let Some(assigned) = self.assigned.get_mut(&in_flight.partition) {
                assigned.in_flight = true;
            }
        }
    }

    fn fetch(&mut self, now: MonoTime) {
        let most_bytes = usize::try_from(self.config.fetch_max_bytes).unwrap_or(0);
        if self.buffered_bytes > 0 && self.buffered_bytes >= most_bytes {
            return;
        }
        let mut by_broker: BTreeMap<BrokerId, BTreeMap<Partition, Asked>> = BTreeMap::new();
        for (partition, assigned) in &self.assigned {
            let Position::Known(offset) = assigned.position else { continue };
            if assigned.buffered >= MAX_BUFFERED || !self.is_idle(*partition, now) {
                continue;
            }
            let Some((broker, leader_epoch)) = self.leader(*partition) else {
                self.metadata.request_update();
                continue;
            };
            let topic_id = self.metadata.topic(partition.topic).id;
            by_broker.entry(broker).or_default().insert(*partition, Asked { topic_id, offset, leader_epoch });
        }
        for (broker, wanted) in by_broker {
            if self.fetching.contains(&broker) {
                continue;
            }
            match self.network.link(broker, now) {
                LinkState::Up { .. } => self.send_fetch(broker, wanted, now),
                LinkState::NotYet => {}
                LinkState::Unknown => self.metadata.request_update(),
            }
        }
    }

    fn send_fetch(&mut self, broker: BrokerId, wanted: BTreeMap<Partition, Asked>, now: MonoTime) {
        let partitions: Vec<InFlight> = (wanted.iter())
            .map(|(partition, asked)| InFlight {
                partition: *partition,
                generation: self.assigned.get(partition).map_or(0, |assigned| assigned.generation),
                asked: asked.offset.0,
            })
            .collect();
        let Some(version) = self.network.version::<FetchRequest>(broker) else {
            for in_flight in partitions {
                self.stop(in_flight.partition, ConsumerError::UnsupportedVersion);
            }
            return;
        };
        let has_ids = wanted.values().all(|asked| asked.topic_id != TopicId::NIL);
        let version = if has_ids { version } else { version.min(TOPIC_IDS_FROM - 1) };
        let session = self.sessions.entry(broker).or_default();
        let named = session.request(wanted, version, self.config.fetch_sessions);
        let request = self.fetch_request(&named, version);
        let context = Request::Fetch { broker, partitions: partitions.clone() };
        if self.network.send(broker, &request, version, context, now).is_ok() {
            self.fetching.insert(broker);
            self.mark_in_flight(&partitions);
        } else {
            self.sessions.remove(&broker);
        }
    }

    fn fetch_request(&self, named: &SessionRequest, version: i16) -> FetchRequest {
        let name = |topic: TopicHandle| TopicName(self.metadata.topic(topic).name.clone());
        let mut topics: Vec<FetchTopic> = Vec::new();
        let mut last = None;
        for (partition, asked) in &named.fetch {
            let mut entry = FetchPartition::default()
                .with_partition(partition.index.0)
                .with_fetch_offset(asked.offset.0)
                .with_partition_max_bytes(self.config.max_partition_fetch_bytes);
            if version >= 9 {
                entry = entry.with_current_leader_epoch(asked.leader_epoch.0);
            }
            if last != Some((partition.topic, asked.topic_id)) {
                last = Some((partition.topic, asked.topic_id));
                let topic = FetchTopic::default();
                topics.push(if version >= TOPIC_IDS_FROM {
                    topic.with_topic_id(asked.topic_id.0)
                } else {
                    topic.with_topic(name(partition.topic))
                });
            }
            if let Some(topic) = topics.last_mut() {
                topic.partitions.push(entry);
            }
        }
        let forgotten = (named.forget.iter())
            .map(|(partition, id)| {
                let topic = ForgottenTopic::default().with_partitions(vec![partition.index.0]);
                if version >= TOPIC_IDS_FROM {
                    topic.with_topic_id(id.0)
                } else {
                    topic.with_topic(name(partition.topic))
                }
            })
            .collect();
        FetchRequest::default()
            .with_max_wait_ms(millis(self.config.fetch_max_wait))
            .with_min_bytes(self.config.fetch_min_bytes)
            .with_max_bytes(self.config.fetch_max_bytes)
            .with_isolation_level(self.config.isolation_level.code())
            .with_session_id(named.id)
            .with_session_epoch(named.epoch)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten)
    }

    pub(super) fn handle_events(&mut self, now: MonoTime) {
        self.now = self.now.max(now);
        while let Some(event) = self.network.next_event() {
            match event {
                NetEvent::Sent { context } | NetEvent::Lost { context } => self.on_lost(context, now),
                NetEvent::Response { node, context, version, frame } => {
                    if self.on_response(node, &context, version, frame, now).is_err() {
                        self.on_lost(context, now);
                        self.network.reject(node, now);
                    }
                }
            }
        }
    }

    fn on_lost(&mut self, context: Request, now: MonoTime) {
        self.metadata.request_update();
        match context {
            Request::Metadata => self.metadata.on_failure(&mut self.rng, now),
            Request::ListOffsets { partitions } => self.release(&partitions, now),
            Request::Fetch { broker, partitions } => {
                self.fetching.remove(&broker);
                self.sessions.entry(broker).or_default().reset(true);
                self.release(&partitions, now);
            }
        }
    }

    /// Partitions of a request without a usable answer are asked for again.
    fn release(&mut self, partitions: &[InFlight], now: MonoTime) {
        for in_flight in partitions {
            if self.settle(*in_flight) {
                self.retry_later(in_flight.partition, now);
            }
        }
    }

    /// A partition's request is over. Whether its answer still matters.
    fn settle(&mut self, in_flight: InFlight) -> bool {
        let assigned = self.assigned.get_mut(&in_flight.partition);
        let Some(assigned) = assigned.filter(|assigned| assigned.generation == in_flight.generation) else {
            return false;
        };
        assigned.in_flight = false;
        true
    }

    fn on_response(
        &mut self,
        node: BrokerId,
        context: &Request,
        version: i16,
        frame: Bytes,
        now: MonoTime,
    ) -> Result<(), WireError> {
        match context {
            Request::Metadata => {
                let (_, response) = decode_response::<MetadataRequest>(frame, version)?;
                self.network.throttle(node, response.throttle_time_ms, now);
                let brokers = self.metadata.on_response(&response, &mut self.rng, now);
                if !brokers.is_empty() {
                    self.network.set_brokers(&brokers);
                }
            }
            Request::ListOffsets { partitions } => {
                let (_, response) = decode_response::<ListOffsetsRequest>(frame, version)?;
                self.network.throttle(node, response.throttle_time_ms, now);
                self.on_offsets(partitions, &response, now);
            }
            Request::Fetch { broker, partitions } => {
                let (_, response) = decode_response::<FetchRequest>(frame, version)?;
                self.network.throttle(node, response.throttle_time_ms, now);
                self.fetching.remove(broker);
                self.on_fetched(*broker, partitions, response, now);
            }
        }
        Ok(())
    }

    fn on_offsets(&mut self, partitions: &[InFlight], response: &ListOffsetsResponse, now: MonoTime) {
        let mut answers: BTreeMap<Partition, &ListOffsetsPartitionResponse> = BTreeMap::new();
        for topic in &response.topics {
            let Some(handle) = self.metadata.find(&topic.name) else { continue };
            for answer in &topic.partitions {
                let index = PartitionIndex(answer.partition_index);
                answers.insert(Partition { topic: handle, index }, answer);
            }
        }
        for in_flight in partitions {
            if !self.settle(*in_flight) {
                continue;
            }
            match answers.get(&in_flight.partition) {
                Some(answer) if answer.error_code == 0 => {
                    self.on_offset(in_flight.partition, Offset(answer.offset));
                }
                Some(answer) => {
                    self.on_partition_error(in_flight.partition, ErrorCode(answer.error_code), now);
                }
                None => self.retry_later(in_flight.partition, now),
            }
        }
    }

    fn on_offset(&mut self, partition: Partition, offset: Offset) {
        let Some(assigned) = self.assigned.get_mut(&partition) else { return };
        let Position::Unknown { at, out_of_range } = assigned.position else { return };
        assigned.failures = 0;
        if offset.0 < 0 {
            // No record is that young: the end, which is never without an offset.
            if at != StartAt::Latest {
                assigned.position = Position::Unknown { at: StartAt::Latest, out_of_range };
            }
            return;
        }
        assigned.position = Position::Known(offset);
        self.events.push_back(match out_of_range {
            None => ConsumerEvent::Positioned { partition, offset },
            Some(from) => ConsumerEvent::Reset { partition, from, to: offset },
        });
    }

    /// An error that is not about the position.
    fn on_partition_error(&mut self, partition: Partition, code: ErrorCode, now: MonoTime) {
        if code.is_retriable() || code == ErrorCode::UNKNOWN_SERVER_ERROR {
            if is_stale_metadata(code) {
                self.metadata.request_update();
            }
            self.retry_later(partition, now);
        } else {
            self.stop(partition, ConsumerError::Broker(code));
        }
    }

    fn on_fetched(
        &mut self,
        broker: BrokerId,
        partitions: &[InFlight],
        response: FetchResponse,
        now: MonoTime,
    ) {
        let code = ErrorCode(response.error_code);
        let session = self.sessions.entry(broker).or_default();
        if code != ErrorCode::NONE {
            session.reset(code != ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
            let is_session_error = matches!(
                code,
                ErrorCode::FETCH_SESSION_ID_NOT_FOUND | ErrorCode::INVALID_FETCH_SESSION_EPOCH
            );
            if !is_session_error {
                self.metadata.request_update();
            }
            for in_flight in partitions {
                if self.settle(*in_flight) && !is_session_error {
                    self.retry_later(in_flight.partition, now);
                }
            }
            return;
        }
        session.on_answer(response.session_id);
        for endpoint in &response.node_endpoints {
            if let Ok(port) = u16::try_from(endpoint.port) {
                self.network.add_broker(BrokerId(endpoint.node_id.0), &endpoint.host, port);
            }
        }
        let mut answers: BTreeMap<Partition, PartitionData> = BTreeMap::new();
        for topic in response.responses {
            let by_id = self.metadata.find_id(TopicId(topic.topic_id));
            let Some(handle) = by_id.or_else(|| self.metadata.find(&topic.topic)) else { continue };
            for answer in topic.partitions {
                let index = PartitionIndex(answer.partition_index);
                answers.insert(Partition { topic: handle, index }, answer);
            }
        }
        for in_flight in partitions {
            // A session leaves out what has no news.
            if self.settle(*in_flight)
                && let Some(answer) = answers.remove(&in_flight.partition)
            {
                self.on_partition_fetched(*in_flight, answer, now);
            }
        }
    }

    fn on_partition_fetched(&mut self, in_flight: InFlight, answer: PartitionData, now: MonoTime) {
        let InFlight { partition, asked, .. } = in_flight;
        let leader = &answer.current_leader;
        let epoch = LeaderEpoch(leader.leader_epoch);
        let is_leader_news = self.metadata.on_leader(partition, BrokerId(leader.leader_id.0), epoch);
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => self.on_records(partition, Offset(asked), answer),
            ErrorCode::OFFSET_OUT_OF_RANGE => self.on_out_of_range(partition, Offset(asked)),
            code if is_stale_metadata(code) && is_leader_news => {
                debug_assert!(code.is_retriable());
            }
            code => self.on_partition_error(partition, code, now),
        }
    }

    fn on_records(&mut self, partition: Partition, asked: Offset, answer: PartitionData) {
        let Some(assigned) = self.assigned.get_mut(&partition) else { return };
        assigned.failures = 0;
        // Versions without a field say −1.
        let at_least = |told: i64, otherwise: i64| Offset(if told >= 0 { told } else { otherwise });
        let high_watermark = Offset(answer.high_watermark);
        let watermarks = Watermarks {
            log_start_offset: at_least(answer.log_start_offset, 0),
            high_watermark,
            last_stable_offset: at_least(answer.last_stable_offset, high_watermark.0),
        };
        assigned.watermarks = Some(watermarks);
        let bytes = answer.records.unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        let whole = match self.whole_batches(&bytes, asked) {
            Ok(whole) => whole,
            Err(error) => return self.stop(partition, ConsumerError::Batch(error)),
        };
        if let Some(assigned) = self.assigned.get_mut(&partition) {
            assigned.position = Position::Known(whole.next_offset);
            assigned.buffered += 1;
        }
        self.buffered_bytes += whole.size_bytes;
        let mut aborted: Vec<(ProducerId, Offset)> = Vec::new();
        if self.config.isolation_level == IsolationLevel::ReadCommitted {
            aborted = (answer.aborted_transactions.iter().flatten())
                .map(|transaction| (ProducerId(transaction.producer_id.0), Offset(transaction.first_offset)))
                .collect();
            aborted.sort_unstable_by_key(|(_, first)| *first);
        }
        self.events.push_back(ConsumerEvent::Records(FetchedRecords {
            partition,
            bytes: bytes.slice(..whole.size_bytes),
            offsets: asked.0..whole.next_offset.0,
            watermarks,
            aborted,
            max_decompressed_bytes: self.config.max_decompressed_batch_bytes,
        }));
        // A batch that is wrong behind others is met again, as the first.
    }

    /// The whole and valid batches at the front of `bytes`. An error is about the very first.
    fn whole_batches(&self, bytes: &Bytes, asked: Offset) -> Result<WholeBatches, BatchError> {
        let mut whole = WholeBatches { size_bytes: 0, next_offset: asked };
        while whole.size_bytes < bytes.len() {
            let rest = &bytes[whole.size_bytes..];
            match self.check_batch(rest) {
                Ok(header) => {
                    whole.size_bytes += header.size_bytes;
                    whole.next_offset = whole.next_offset.max(header.next_offset());
                }
                Err(error) if whole.size_bytes == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(whole)
    }

    fn check_batch(&self, bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if self.config.check_crcs {
            return batch::verify(bytes);
        }
        let header = BatchHeader::parse(bytes)?;
        if header.size_bytes > bytes.len() {
            return Err(BatchError::Truncated { needed: header.size_bytes, available: bytes.len() });
        }
        Ok(header)
    }
}

struct WholeBatches {
    size_bytes: usize,
    next_offset: Offset,
}

fn millis(span: std::time::Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

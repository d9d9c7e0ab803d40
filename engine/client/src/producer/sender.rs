//! The sending half of the producer: timers, metadata, the producer id, requests, and their answers.

use highwater_model::batch::ProducerStamp;
use highwater_model::{
    BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, Timestamp, TopicId,
};
use highwater_protocol::messages::produce_response::PartitionProduceResponse;
use highwater_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, MetadataRequest, MetadataResponse, ProduceRequest,
    ProduceResponse,
};
use highwater_protocol::{ErrorCode, decode_response};

use super::queue::{Answer, AnswerContext, Identity, Next};
use super::request::{self, Head, PartitionData, TopicData};
use super::{FailureReason, Lifecycle, ProducerCore, queue_of};
use crate::config::{Acks, ProducerConfig};
use crate::error_code::is_stale_metadata;
use crate::metadata::{Partition, TopicHandle};
use crate::network::{Awaits, LinkState, NetEvent};
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;

/// What a request in flight is for.
#[derive(Debug)]
pub(super) enum Request {
    Metadata,
    InitProducerId,
    Produce(ProduceInFlight),
}

#[derive(Debug)]
pub(super) struct ProduceInFlight {
    topics: Vec<(TopicHandle, TopicId)>,
    /// In the order of their partitions, one each.
    batches: Vec<Sent>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    partition: Partition,
    serial: u64,
    stamp: ProducerStamp,
}

/// The producer id, which an idempotent producer asks for before it sends anything.
#[derive(Debug)]
pub(super) struct ProducerIdentity {
    is_needed: bool,
    current: Option<Identity>,
    in_flight: bool,
    failures: u32,
    retry_at: MonoTime,
    backoff: Backoff,
}

impl ProducerIdentity {
    pub(super) fn new(config: &ProducerConfig) -> Self {
        ProducerIdentity {
            is_needed: config.enable_idempotence,
            current: None,
            in_flight: false,
            failures: 0,
            retry_at: MonoTime(0),
            backoff: Backoff { initial: config.client.retry_backoff, max: config.client.retry_backoff_max },
        }
    }

    fn is_missing(&self) -> bool {
        self.is_needed && self.current.is_none()
    }

    pub(super) fn wake_at(&self) -> MonoTime {
        if self.is_missing() && !self.in_flight { self.retry_at } else { MonoTime::NEVER }
    }

    fn on_failure(&mut self, rng: &mut Rng, now: MonoTime) {
        self.in_flight = false;
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + self.backoff.after(self.failures, rng);
    }
}

impl ProducerCore {
    /// Does everything that is due.
    pub(super) fn advance(&mut self, now: MonoTime) {
        self.network.expire(now);
        self.handle_events(now);
        self.fire_timers(now);
        self.ask_metadata(now);
        self.ask_producer_id(now);
        self.drain(now);
    }

    fn fire_timers(&mut self, now: MonoTime) {
        while let Some((at, partition)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, partition));
            if let Some(queue) = queue_of(&mut self.queues, partition) {
                queue.armed_at = None;
                queue.expire(&self.policy, now, &mut self.compressor, &mut self.finished);
            }
            self.deliver(partition);
            self.touch(partition, now);
        }
    }

    fn ask_metadata(&mut self, now: MonoTime) {
        if !self.metadata.is_due(now) {
            return;
        }
        let Some(broker) = self.network.any_broker(now) else { return };
        let Some(version) = self.network.version::<MetadataRequest>(broker) else {
            self.fail(ErrorCode::UNSUPPORTED_VERSION);
            return;
        };
        let request = self.metadata.request(version);
        if self.network.send(broker, &request, version, Request::Metadata, now).is_err() {
            self.metadata.on_failure(&mut self.rng, now);
        }
    }

    fn ask_producer_id(&mut self, now: MonoTime) {
        if self.identity.wake_at() > now {
            return;
        }
        let Some(broker) = self.network.any_broker(now) else { return };
        let Some(version) = self.network.version::<InitProducerIdRequest>(broker) else {
            self.fail(ErrorCode::UNSUPPORTED_VERSION);
            return;
        };
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        match self.network.send(broker, &request, version, Request::InitProducerId, now) {
            Ok(()) => self.identity.in_flight = true,
            Err(_) => self.identity.on_failure(&mut self.rng, now),
        }
    }

    /// The producer cannot go on.
    fn fail(&mut self, code: ErrorCode) {
        self.lifecycle = Lifecycle::Failed(code);
        self.fail_all(FailureReason::Broker(code));
    }

    /// Sends to every broker that is owed something, as far as requests in flight allow.
    fn drain(&mut self, now: MonoTime) {
        if self.identity.is_missing() {
            return;
        }
        let brokers: Vec<BrokerId> = self.ready.keys().copied().collect();
        for broker in brokers {
            loop {
                match self.network.link(broker, now) {
                    LinkState::Up { in_flight } if in_flight < self.config.max_in_flight => {}
                    LinkState::Up { .. } | LinkState::NotYet => break,
                    LinkState::Unknown => {
                        self.metadata.request_update();
                        break;
                    }
                }
                if !self.send_to(broker, now) {
                    break;
                }
            }
            if self.ready.get(&broker).is_some_and(std::collections::VecDeque::is_empty) {
                self.ready.remove(&broker);
            }
        }
    }

    /// Sends one request to a broker. Whether there was something to send.
    fn send_to(&mut self, broker: BrokerId, now: MonoTime) -> bool {
        let Some(version) = self.network.version::<ProduceRequest>(broker) else {
            self.fail(ErrorCode::UNSUPPORTED_VERSION);
            return false;
        };
        let mut batches = self.choose_batches(broker, now);
        if batches.is_empty() {
            return false;
        }
        batches.sort_unstable_by_key(|sent| sent.partition);
        self.send_batches(broker, version, &batches, now);
        true
    }

    /// Takes at most one batch of each ready partition, up to `max.request.size`, and puts it on the wire.
    fn choose_batches(&mut self, broker: BrokerId, now: MonoTime) -> Vec<Sent> {
        let mut batches = Vec::new();
        let mut size_bytes = 0;
        let Some(listed) = self.ready.get_mut(&broker) else { return batches };
        let mut listed = std::mem::take(listed);
        while let Some(partition) = listed.pop_front() {
            self.queue(partition).listed_at = None;
            let Some(sendable_bytes) = self.sendable_bytes(partition, broker, now) else {
                self.touch(partition, now);
                continue;
            };
            if !batches.is_empty() && size_bytes + sendable_bytes > self.config.max_request_size_bytes {
                self.queue(partition).listed_at = Some(broker);
                listed.push_front(partition);
                break;
            }
            size_bytes += sendable_bytes;
            let fresh = self.identity.current;
            if let Some((batch, stamp)) = self.queue(partition).send(broker, fresh) {
                batches.push(Sent { partition, serial: batch.serial, stamp });
            }
            self.touch(partition, now);
        }
        // What was listed again comes after what was not reached.
        if let Some(again) = self.ready.get_mut(&broker) {
            listed.append(again);
            *again = listed;
        }
        self.stats.batches_sent += batches.len() as u64;
        self.stats.batch_bytes_sent += size_bytes as u64;
        batches
    }

    /// Size of the batch that a partition can send to `broker` now.
    fn sendable_bytes(&mut self, partition: Partition, broker: BrokerId, now: MonoTime) -> Option<usize> {
        let leader = self.metadata.leader(partition)?.broker;
        let forced_through = self.forced_through();
        let policy = self.policy;
        let spent = self.identity.current.filter(|fresh| self.queue(partition).has_spent(fresh.producer_id));
        if spent.is_some() {
            self.identity.current = None;
            return None;
        }
        let queue = self.queue(partition);
        if leader != Some(broker) || queue.next(broker, forced_through, &policy, now) != Next::Now {
            return None;
        }
        let queue = queue_of(&mut self.queues, partition)?;
        let size_bytes =
            queue.peek(&mut self.compressor, &mut self.finished).map(|batch| batch.records.size_bytes());
        self.deliver(partition);
        size_bytes
    }

    fn send_batches(&mut self, broker: BrokerId, version: i16, batches: &[Sent], now: MonoTime) {
        let mut topics: Vec<(TopicHandle, TopicId)> = Vec::new();
        for sent in batches {
            if topics.last().is_none_or(|(topic, _)| *topic != sent.partition.topic) {
                topics.push((sent.partition.topic, self.metadata.topic(sent.partition.topic).id));
            }
        }
        let has_ids = topics.iter().all(|(_, id)| *id != TopicId::NIL);
        let version = if has_ids { version } else { version.min(request::TOPIC_IDS_FROM - 1) };
        let (metadata, queues, config) = (&self.metadata, &self.queues, &self.config);
        let client_id = self.network.client_id().clone();
        let encode = |correlation_id| {
            let head = Head {
                version,
                correlation_id,
                client_id: &client_id,
                acks: config.acks,
                timeout_ms: i32::try_from(config.client.request_timeout.as_millis()).unwrap_or(i32::MAX),
            };
            let of_topic = |topic: TopicHandle| {
                (batches.iter().filter(move |sent| sent.partition.topic == topic))
                    .map(|sent| {
                        let index = usize::try_from(sent.partition.index.0).ok()?;
                        let batch = queues[topic.0 as usize].get(index)?.get(sent.serial)?;
                        let (records, stamp) = (&batch.records, sent.stamp);
                        Some(PartitionData { index: sent.partition.index, records, stamp })
                    })
                    .collect::<Option<Vec<_>>>()
            };
            let data = (topics.iter())
                .map(|(topic, id)| {
                    let partitions = of_topic(*topic)?;
                    Some(TopicData { name: &metadata.topic(*topic).name, id: *id, partitions })
                })
                .collect::<Option<Vec<_>>>()?;
            request::encode(&head, &data)
        };
        let awaits = if config.acks == Acks::None { Awaits::Sent } else { Awaits::Response };
        let context = Request::Produce(ProduceInFlight { topics: topics.clone(), batches: batches.to_vec() });
        let sent = self.network.send_parts(broker, version, context, awaits, now, encode);
        match sent {
            Ok(()) => self.stats.requests += 1,
            Err(Request::Produce(produce)) => {
                // Nothing of it has left: what could not be encoded cannot be sent again either.
                for sent in produce.batches {
                    self.answer(sent, Answer::Error(ErrorCode::INVALID_REQUEST), now);
                }
            }
            Err(_) => {}
        }
    }

    pub(super) fn handle_events(&mut self, now: MonoTime) {
        self.now = self.now.max(now);
        while let Some(event) = self.network.next_event() {
            match event {
                NetEvent::Sent { context } => {
                    if let Request::Produce(produce) = context {
                        for sent in produce.batches {
                            self.answer(sent, Answer::Sent, now);
                        }
                    }
                }
                NetEvent::Lost { context } => self.on_lost(context, now),
                NetEvent::Response { node, context, version, frame } => match context {
                    Request::Metadata => match decode_response::<MetadataRequest>(frame, version) {
                        Ok((_, response)) => self.on_metadata(node, &response, now),
                        Err(_) => {
                            self.metadata.on_failure(&mut self.rng, now);
                            self.network.reject(node, now);
                        }
                    },
                    Request::InitProducerId => {
                        match decode_response::<InitProducerIdRequest>(frame, version) {
                            Ok((_, response)) => self.on_producer_id(node, &response, now),
                            Err(_) => {
                                self.identity.on_failure(&mut self.rng, now);
                                self.network.reject(node, now);
                            }
                        }
                    }
                    Request::Produce(produce) => match decode_response::<ProduceRequest>(frame, version) {
                        Ok((_, response)) => self.on_produced(node, &produce, &response, now),
                        Err(_) => {
                            self.on_lost(Request::Produce(produce), now);
                            self.network.reject(node, now);
                        }
                    },
                },
            }
        }
    }

    fn on_lost(&mut self, context: Request, now: MonoTime) {
        match context {
            Request::Metadata => self.metadata.on_failure(&mut self.rng, now),
            Request::InitProducerId => self.identity.on_failure(&mut self.rng, now),
            Request::Produce(produce) => {
                self.metadata.request_update();
                for sent in produce.batches {
                    self.answer(sent, Answer::Lost, now);
                }
            }
        }
    }

    fn on_metadata(&mut self, node: BrokerId, response: &MetadataResponse, now: MonoTime) {
        self.network.throttle(node, response.throttle_time_ms, now);
        let brokers = self.metadata.on_response(response, &mut self.rng, now);
        if !brokers.is_empty() {
            self.network.set_brokers(&brokers);
        }
        self.touch_all(now);
    }

    fn on_producer_id(&mut self, node: BrokerId, response: &InitProducerIdResponse, now: MonoTime) {
        self.network.throttle(node, response.throttle_time_ms, now);
        let code = ErrorCode(response.error_code);
        if code == ErrorCode::NONE {
            self.identity.in_flight = false;
            self.identity.failures = 0;
            self.identity.current = Some(Identity {
                producer_id: ProducerId(response.producer_id.0),
                producer_epoch: ProducerEpoch(response.producer_epoch),
            });
        } else if code.is_retriable() {
            self.identity.on_failure(&mut self.rng, now);
        } else {
            self.identity.in_flight = false;
            self.fail(code);
        }
    }

    fn on_produced(
        &mut self,
        node: BrokerId,
        produce: &ProduceInFlight,
        response: &ProduceResponse,
        now: MonoTime,
    ) {
        self.network.throttle(node, response.throttle_time_ms, now);
        for endpoint in &response.node_endpoints {
            if let Ok(port) = u16::try_from(endpoint.port) {
                self.network.add_broker(BrokerId(endpoint.node_id.0), &endpoint.host, port);
            }
        }
        let mut unanswered: Vec<Option<Sent>> = produce.batches.iter().copied().map(Some).collect();
        for topic in &response.responses {
            let by_id = topic.topic_id != TopicId::NIL.0;
            let handle = if by_id {
                produce.topics.iter().find(|(_, id)| id.0 == topic.topic_id).map(|(topic, _)| *topic)
            } else {
                self.metadata.find(&topic.name)
            };
            let Some(handle) = handle else { continue };
            for answered in &topic.partition_responses {
                let partition = Partition { topic: handle, index: PartitionIndex(answered.index) };
                let found = produce.batches.binary_search_by_key(&partition, |sent| sent.partition);
                if let Some(sent) = found.ok().and_then(|index| unanswered[index].take()) {
                    self.on_partition_answer(sent, answered, now);
                }
            }
        }
        // A broker that leaves a partition out has said nothing about it.
        for sent in unanswered.into_iter().flatten() {
            self.answer(sent, Answer::Lost, now);
        }
    }

    fn on_partition_answer(&mut self, sent: Sent, answered: &PartitionProduceResponse, now: MonoTime) {
        let code = ErrorCode(answered.error_code);
        let leader = &answered.current_leader;
        let is_leader_news = self.metadata.on_leader(
            sent.partition,
            BrokerId(leader.leader_id.0),
            LeaderEpoch(leader.leader_epoch),
        );
        if is_stale_metadata(code) && !is_leader_news {
            self.metadata.request_update();
        }
        let answer = if code == ErrorCode::NONE {
            Answer::Acked {
                base_offset: Offset(answered.base_offset),
                log_append_time: Some(Timestamp(answered.log_append_time_ms)).filter(|time| time.0 >= 0),
            }
        } else {
            Answer::Error(code)
        };
        self.answer(sent, answer, now);
    }

    fn answer(&mut self, sent: Sent, answer: Answer, now: MonoTime) {
        let partition = sent.partition;
        let Some(queue) = queue_of(&mut self.queues, partition) else { return };
        let mut context = AnswerContext {
            policy: &self.policy,
            rng: &mut self.rng,
            now,
            out: &mut self.finished,
            last_serial: &mut self.last_serial,
            incomplete: &mut self.incomplete,
            stats: &mut self.stats,
        };
        queue.on_answer(sent.serial, answer, &mut context);
        self.deliver(partition);
        self.touch(partition, now);
    }
}

//! What a client knows of topics and leaders, and when it asks again.
//!
//! A leader that was learnt from a newer epoch is never replaced by one from an older (brokers' views lag behind each
//! other). Asking again is cheap to want and limited in rate: any number of reasons make one request, and requests
//! are a back-off apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_model::{BrokerId, LeaderEpoch, PartitionIndex, TopicId};
use highwater_protocol::ErrorCode;
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::metadata_response::MetadataResponseTopic;
use highwater_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};

use crate::config::ClientConfig;
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;

/// A topic that a client works with: a number, so that a record carries no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicHandle(pub(crate) u32);

/// A partition of a topic that a client works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: TopicHandle,
    /// The partition in it.
    pub index: PartitionIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// Not answered yet, or with an error that will pass.
    Unknown,
    Known,
    /// Answered with an error that will not pass by itself. Still asked for again.
    Failed(ErrorCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) broker: Option<BrokerId>,
    /// −1 where the broker's version does not tell.
    pub(crate) epoch: LeaderEpoch,
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: StrBytes,
    /// [`TopicId::NIL`] where the broker's version does not tell.
    pub(crate) id: TopicId,
    pub(crate) state: TopicState,
    /// By partition index.
    pub(crate) leaders: Vec<Leader>,
}

#[derive(Debug)]
pub(crate) struct Metadata {
    topics: Vec<Topic>,
    by_name: BTreeMap<StrBytes, TopicHandle>,
    controller: Option<BrokerId>,
    allow_auto_create: bool,
    max_age: Duration,
    backoff: Backoff,
    wanted: bool,
    in_flight: bool,
    failures: u32,
    retry_at: MonoTime,
    expires_at: MonoTime,
}

impl Metadata {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Metadata {
            topics: Vec::new(),
            by_name: BTreeMap::new(),
            controller: None,
            allow_auto_create: config.allow_auto_create_topics,
            max_age: config.metadata_max_age,
            backoff: Backoff { initial: config.retry_backoff, max: config.retry_backoff_max },
            wanted: true,
            in_flight: false,
            failures: 0,
            retry_at: MonoTime(0),
            expires_at: MonoTime(0),
        }
    }

    /// The handle of the topic `name`, which is asked for from now on.
    pub(crate) fn intern(&mut self, name: &str) -> TopicHandle {
        if let Some(handle) = self.by_name.get(name.as_bytes()) {
            return *handle;
        }
        let handle = TopicHandle(u32::try_from(self.topics.len()).expect("fewer than four billion topics"));
        let name = StrBytes::from_string(name.to_owned());
        self.topics.push(Topic {
            name: name.clone(),
            id: TopicId::NIL,
            state: TopicState::Unknown,
            leaders: Vec::new(),
        });
        self.by_name.insert(name, handle);
        self.wanted = true;
        self.retry_at = MonoTime(0);
        handle
    }

    pub(crate) fn topic(&self, handle: TopicHandle) -> &Topic {
        &self.topics[handle.0 as usize]
    }

    pub(crate) fn find(&self, name: &str) -> Option<TopicHandle> {
        self.by_name.get(name.as_bytes()).copied()
    }

    pub(crate) fn find_id(&self, id: TopicId) -> Option<TopicHandle> {
        let index = self.topics.iter().position(|topic| topic.id == id && id != TopicId::NIL)?;
        u32::try_from(index).ok().map(TopicHandle)
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn leader(&self, partition: Partition) -> Option<Leader> {
        let index = usize::try_from(partition.index.0).ok()?;
        self.topic(partition.topic).leaders.get(index).copied()
    }

    pub(crate) fn controller(&self) -> Option<BrokerId> {
        self.controller
    }

    /// Something said that this view is stale.
    pub(crate) fn request_update(&mut self) {
        self.wanted = true;
    }

    pub(crate) fn is_due(&self, now: MonoTime) -> bool {
        !self.in_flight && now >= self.retry_at && (self.wanted || now >= self.expires_at)
    }

    pub(crate) fn wake_at(&self) -> MonoTime {
        match (self.in_flight, self.wanted) {
            (true, _) => MonoTime::NEVER,
            (false, true) => self.retry_at,
            (false, false) => self.expires_at.max(self.retry_at),
        }
    }

    /// The request to send now.
    pub(crate) fn request(&mut self, version: i16) -> MetadataRequest {
        self.in_flight = true;
        self.wanted = false;
        let topics = (self.topics.iter())
            .map(|topic| MetadataRequestTopic::default().with_name(Some(TopicName(topic.name.clone()))))
            .collect();
        let request = MetadataRequest::default().with_topics(Some(topics));
        // Below version 4 the broker alone decides.
        let auto_create = version < 4 || self.allow_auto_create;
        request.with_allow_auto_topic_creation(auto_create)
    }

    /// The request was lost, or its answer unusable.
    pub(crate) fn on_failure(&mut self, rng: &mut Rng, now: MonoTime) {
        self.in_flight = false;
        self.wanted = true;
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + self.backoff.after(self.failures, rng);
    }

    /// Takes the answer over, and returns the brokers that it names.
    pub(crate) fn on_response(
        &mut self,
        response: &MetadataResponse,
        rng: &mut Rng,
        now: MonoTime,
    ) -> Vec<(BrokerId, Arc<str>, u16)> {
        self.in_flight = false;
        self.controller = Some(BrokerId(response.controller_id.0)).filter(|id| id.0 >= 0);
        for answered in &response.topics {
            let handle = answered.name.as_ref().and_then(|name| self.find(name));
            if let Some(handle) = handle {
                self.topics[handle.0 as usize].take_over(answered);
            }
        }
        if self.topics.iter().any(Topic::is_incomplete) {
            self.wanted = true;
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        self.retry_at = now + self.backoff.after(self.failures.max(1), rng);
        self.expires_at = now + self.max_age;
        (response.brokers.iter())
            .filter_map(|broker| {
                let port = u16::try_from(broker.port).ok()?;
                Some((BrokerId(broker.node_id.0), Arc::from(broker.host.as_str()), port))
            })
            .collect()
    }

    /// A response named the leader of a partition (KIP-951). Returns whether that was news.
    pub(crate) fn on_leader(&mut self, partition: Partition, broker: BrokerId, epoch: LeaderEpoch) -> bool {
        let index = usize::try_from(partition.index.0).ok();
        let Some(leader) =
            index.and_then(|index| self.topics[partition.topic.0 as usize].leaders.get_mut(index))
        else {
            return false;
        };
        if broker.0 < 0 || epoch <= leader.epoch {
            return false;
        }
        *leader = Leader { broker: Some(broker), epoch };
        true
    }
}

impl Topic {
    fn is_incomplete(&self) -> bool {
        match self.state {
            TopicState::Unknown => true,
            TopicState::Known => self.leaders.iter().any(|leader| leader.broker.is_none()),
            TopicState::Failed(_) => false,
        }
    }

    fn take_over(&mut self, answered: &MetadataResponseTopic) {
        let code = ErrorCode(answered.error_code);
        if code != ErrorCode::NONE {
            // What is known stays in use: the error may be one broker's lagging view.
            if self.state != TopicState::Known || !code.is_retriable() {
                self.state = if code.is_retriable() { TopicState::Unknown } else { TopicState::Failed(code) };
            }
            return;
        }
        let id = TopicId(answered.topic_id);
        let is_another_topic = id != self.id && self.id != TopicId::NIL && id != TopicId::NIL;
        if is_another_topic {
            self.leaders.clear();
        }
        self.id = id;
        self.state = TopicState::Known;
        let nobody = Leader { broker: None, epoch: LeaderEpoch(-1) };
        // A broker that claims an absurd number of partitions must at least have sent them.
        for partition in &answered.partitions {
            let Ok(index) = usize::try_from(partition.partition_index) else { continue };
            if index >= answered.partitions.len().max(self.leaders.len()) {
                continue;
            }
            if self.leaders.len() <= index {
                self.leaders.resize(index + 1, nobody);
            }
            let epoch = LeaderEpoch(partition.leader_epoch);
            let known = &mut self.leaders[index];
            if epoch >= known.epoch || epoch.0 < 0 {
                let broker = Some(BrokerId(partition.leader_id.0)).filter(|id| id.0 >= 0);
                *known = Leader { broker, epoch };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition,
    };

    fn response(error: ErrorCode, leaders: &[(i32, i32)]) -> MetadataResponse {
        let partitions = (leaders.iter().enumerate())
            .map(|(index, (leader, epoch))| {
                MetadataResponsePartition::default()
                    .with_partition_index(i32::try_from(index).expect("few"))
                    .with_leader_id((*leader).into())
                    .with_leader_epoch(*epoch)
            })
            .collect();
        let topic = MetadataResponseTopic::default()
            .with_error_code(error.0)
            .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
            .with_partitions(partitions);
        MetadataResponse::default().with_topics(vec![topic]).with_brokers(vec![
            MetadataResponseBroker::default()
                .with_node_id(1.into())
                .with_host(StrBytes::from_static_str("h"))
                .with_port(9092),
        ])
    }

    fn metadata() -> (Metadata, TopicHandle, Rng) {
        let mut metadata = Metadata::new(&ClientConfig::default());
        let topic = metadata.intern("t");
        (metadata, topic, Rng::new(1))
    }

    #[test]
    fn older_epoch_never_replaces_a_newer_leader() {
        let (mut metadata, topic, mut rng) = metadata();
        let partition = Partition { topic, index: PartitionIndex(0) };
        metadata.on_response(&response(ErrorCode::NONE, &[(1, 5)]), &mut rng, MonoTime(0));
        assert!(metadata.on_leader(partition, BrokerId(2), LeaderEpoch(6)));
        metadata.on_response(&response(ErrorCode::NONE, &[(1, 5)]), &mut rng, MonoTime(0));
        let leader = metadata.leader(partition).expect("known");
        assert_eq!((leader.broker, leader.epoch), (Some(BrokerId(2)), LeaderEpoch(6)));
        assert!(!metadata.on_leader(partition, BrokerId(3), LeaderEpoch(6)));
    }

    #[test]
    fn missing_leader_is_asked_for_again_after_a_backoff() {
        let (mut metadata, _, mut rng) = metadata();
        assert!(metadata.is_due(MonoTime(0)));
        metadata.request(13);
        assert!(!metadata.is_due(MonoTime(0)), "one request at a time");
        metadata.on_response(&response(ErrorCode::NONE, &[(1, 5), (-1, 5)]), &mut rng, MonoTime(0));
        assert!(!metadata.is_due(MonoTime(0)));
        let at = metadata.wake_at();
        assert!(metadata.is_due(at) && at < MonoTime(0) + Duration::from_millis(200));
        metadata.request(13);
        metadata.on_response(&response(ErrorCode::NONE, &[(1, 5), (1, 6)]), &mut rng, at);
        assert_eq!(metadata.wake_at(), at + Duration::from_secs(300));
    }

    #[test]
    fn passing_error_keeps_what_is_known_and_lasting_error_is_told() {
        let (mut metadata, topic, mut rng) = metadata();
        metadata.on_response(&response(ErrorCode::LEADER_NOT_AVAILABLE, &[]), &mut rng, MonoTime(0));
        assert_eq!(metadata.topic(topic).state, TopicState::Unknown);
        metadata.on_response(&response(ErrorCode::NONE, &[(1, 5)]), &mut rng, MonoTime(0));
        metadata.on_response(&response(ErrorCode::LEADER_NOT_AVAILABLE, &[]), &mut rng, MonoTime(0));
        assert_eq!(metadata.topic(topic).state, TopicState::Known);
        metadata.on_response(&response(ErrorCode::TOPIC_AUTHORIZATION_FAILED, &[]), &mut rng, MonoTime(0));
        assert_eq!(metadata.topic(topic).state, TopicState::Failed(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    }
}

//! Metadata: brokers, topics, and who leads what. May create the topics that it is asked for.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use highwater_cluster::image::is_internal;
use highwater_cluster::topics::{NewTopic, validate_name};
use highwater_cluster::{MetadataImage, Topic};
use highwater_model::TopicId;
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::metadata_request::MetadataRequestTopic;
use highwater_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use highwater_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{Leader, operations, reply, topics};
use crate::errors;
use crate::pace::Pace;
use crate::reply::{Held, Outcome, Reply};
use crate::shard::Shard;

/// About what a partition takes in a response.
const PARTITION_BYTES: usize = 64;

/// Responses above this size take their memory from the budget of responses first.
const LARGE_BYTES: usize = 64 << 10;

pub(super) async fn handle(shard: &Rc<Shard>, header: &RequestHeader, request: MetadataRequest) -> Outcome {
    let asked = Asked::of(shard, header.api_version, &request).await;
    if let Asked::These { names, .. } = &asked
        && request.allow_auto_topic_creation
        && shard.broker.config.auto_create_topics
    {
        create_missing(shard, names).await;
    }
    let image = shard.image();
    let estimate = asked.partition_count(shard, &image).await * PARTITION_BYTES;
    let mut memory = match estimate {
        0..=LARGE_BYTES => None,
        _ => Some(shard.response_budget.grant(estimate).await),
    };
    let operations = |wanted: bool, operations: i32| if wanted { operations } else { operations::NOT_ASKED };
    let topic_operations = operations(request.include_topic_authorized_operations, operations::TOPIC);
    let cluster_operations = operations(
        request.include_cluster_authorized_operations && (8..=10).contains(&header.api_version),
        operations::CLUSTER,
    );
    let topics = asked.answer(shard, &image, topic_operations).await;
    let response = MetadataResponse::default()
        .with_brokers(brokers(&image))
        .with_cluster_id(Some(shard.broker.cluster_id.clone().into()))
        .with_controller_id(BrokerId(shard.broker.config.node_id.0))
        .with_topics(topics)
        .with_cluster_authorized_operations(cluster_operations);
    match reply(header, &response) {
        Outcome::Reply(reply) => {
            // Also gives its place among the small grants to the next: a client that reads slowly holds up nobody.
            if let Some(memory) = &mut memory {
                memory.settle(reply.size_bytes());
            }
            Outcome::Reply(Reply { held: Held { memory, pinned: None }, ..reply })
        }
        other => other,
    }
}

fn brokers(image: &MetadataImage) -> Vec<MetadataResponseBroker> {
    let broker = |(id, broker): (&highwater_model::BrokerId, &Arc<highwater_cluster::Broker>)| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id.0))
            .with_host(broker.host.clone().into())
            .with_port(broker.port.into())
            .with_rack(broker.rack.clone().map(Into::into))
    };
    image.brokers().iter().map(broker).collect()
}

/// Which topics a request is about, each once.
enum Asked {
    All,
    These {
        names: BTreeSet<StrBytes>,
        ids: BTreeSet<TopicId>,
        /// Names a topic in a way that the version does not allow.
        malformed: Vec<MetadataRequestTopic>,
    },
}

impl Asked {
    async fn of(shard: &Shard, version: i16, request: &MetadataRequest) -> Self {
        let Some(topics) = &request.topics else { return Asked::All };
        // Before version 1 there was no null.
        if version == 0 && topics.is_empty() {
            return Asked::All;
        }
        let (mut names, mut ids, mut malformed) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let mut pace = Pace::new(&shard.io);
        for topic in topics {
            pace.step().await;
            match &topic.name {
                // An id counts, whatever the name beside it says.
                _ if !topic.topic_id.is_nil() && version >= 12 => {
                    ids.insert(TopicId(topic.topic_id));
                }
                Some(name) if topic.topic_id.is_nil() => {
                    names.insert(name.0.clone());
                }
                _ => malformed.push(topic.clone()),
            }
        }
        Asked::These { names, ids, malformed }
    }

    /// How many partitions the answer has.
    async fn partition_count(&self, shard: &Shard, image: &MetadataImage) -> usize {
        let Asked::These { names, ids, .. } = self else { return image.partition_count() };
        let mut pace = Pace::new(&shard.io);
        let mut count = 0;
        for name in names {
            pace.step().await;
            count += image.topic(name).map_or(0, |topic| topic.partitions.len());
        }
        for id in ids {
            pace.step().await;
            count += image.topic_by_id(id).map_or(0, |topic| topic.partitions.len());
        }
        count
    }

    async fn answer(
        &self,
        shard: &Shard,
        image: &MetadataImage,
        operations: i32,
    ) -> Vec<MetadataResponseTopic> {
        let mut pace = Pace::new(&shard.io);
        let mut answers = Vec::new();
        match self {
            Asked::All => {
                for topic in image.topics() {
                    answers.push(describe(shard, topic, operations, &mut pace).await);
                }
            }
            Asked::These { names, ids, malformed } => {
                for name in names {
                    pace.step().await;
                    answers.push(match image.topic(name) {
                        Some(topic) => describe(shard, topic, operations, &mut pace).await,
                        None => unknown_name(name),
                    });
                }
                for id in ids {
                    pace.step().await;
                    answers.push(match image.topic_by_id(id) {
                        Some(topic) => describe(shard, topic, operations, &mut pace).await,
                        None => MetadataResponseTopic::default()
                            .with_name(None)
                            .with_topic_id(id.0)
                            .with_error_code(ErrorCode::UNKNOWN_TOPIC_ID.0),
                    });
                }
                for topic in malformed {
                    pace.step().await;
                    let answer = MetadataResponseTopic::default()
                        .with_name(Some(topic.name.clone().unwrap_or_default()))
                        .with_topic_id(topic.topic_id)
                        .with_error_code(ErrorCode::INVALID_REQUEST.0);
                    answers.push(answer);
                }
            }
        }
        answers
    }
}

fn unknown_name(name: &StrBytes) -> MetadataResponseTopic {
    let error = match validate_name(name) {
        Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(error) => errors::of_metadata(&error),
    };
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(name.clone())))
        .with_is_internal(is_internal(name))
        .with_error_code(error.0)
}

async fn describe(shard: &Shard, topic: &Topic, operations: i32, pace: &mut Pace) -> MetadataResponseTopic {
    let ids = |brokers: &[highwater_model::BrokerId]| brokers.iter().map(|id| BrokerId(id.0)).collect();
    let mut partitions = Vec::with_capacity(topic.partitions.len());
    for (index, state) in (0..).zip(&topic.partitions) {
        pace.step().await;
        let leader = Leader::of(shard, state);
        let partition = MetadataResponsePartition::default()
            .with_error_code(leader.error.0)
            .with_offline_replicas(leader.offline_replicas)
            .with_partition_index(index)
            .with_leader_id(leader.id)
            .with_leader_epoch(state.leader_epoch.0)
            .with_replica_nodes(ids(&state.replicas))
            .with_isr_nodes(ids(&state.in_sync_replicas));
        partitions.push(partition);
    }
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(topic.name.clone().into())))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.is_internal())
        .with_topic_authorized_operations(operations)
        .with_partitions(partitions)
}

/// Creates those of `names` that do not exist, with the broker's defaults. What cannot be created is answered as
/// unknown.
async fn create_missing(shard: &Rc<Shard>, names: &BTreeSet<StrBytes>) {
    let image = shard.image();
    let mut pace = Pace::new(&shard.io);
    let mut missing: Vec<NewTopic> = Vec::new();
    for name in names {
        pace.step().await;
        if image.topic(name).is_none() && !is_internal(name) && validate_name(name).is_ok() {
            let name = name.to_string();
            missing.push(NewTopic {
                name,
                num_partitions: -1,
                replication_factor: -1,
                ..NewTopic::default()
            });
        }
    }
    if missing.is_empty() {
        return;
    }
    if let Err(error) = topics::create_on_controller(shard, missing, topics::Mode::Create).await {
        tracing::warn!(%error, "topics were not created");
    }
}

//! DescribeTopicPartitions: partitions of topics, a page at a time (KIP-966).

use std::collections::BTreeSet;

use highwater_cluster::topics::validate_name;
use highwater_cluster::{MetadataImage, PartitionState, Topic};
use highwater_protocol::codec::StrBytes;
use highwater_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use highwater_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{Leader, operations, reply};
use crate::errors;
use crate::reply::Outcome;
use crate::shard::Shard;

/// Most partitions in one response, as Kafka's `max.request.partition.size.limit`.
const MAX_PARTITIONS: usize = 2000;

pub(super) fn handle(
    shard: &Shard,
    header: &RequestHeader,
    request: DescribeTopicPartitionsRequest,
) -> Outcome {
    let image = shard.image();
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, MAX_PARTITIONS);
    let (from_topic, from_partition) = match request.cursor {
        Some(cursor) => (cursor.topic_name.0, usize::try_from(cursor.partition_index).unwrap_or(0)),
        None => (StrBytes::new(), 0),
    };
    let mut page = Page { shard, room: limit, topics: Vec::new(), next_cursor: None };
    let first = |topic: &str| if topic == &*from_topic { from_partition } else { 0 };
    if request.topics.is_empty() {
        for topic in image.topics_from(&from_topic) {
            if !page.add(topic, first(&topic.name)) {
                break;
            }
        }
    } else {
        let names: BTreeSet<StrBytes> = request.topics.into_iter().map(|topic| topic.name.0).collect();
        for name in names.into_iter().filter(|name| **name >= *from_topic) {
            if !page.add_named(&image, &name, first(&name)) {
                break;
            }
        }
    }
    let response = DescribeTopicPartitionsResponse::default()
        .with_topics(page.topics)
        .with_next_cursor(page.next_cursor);
    reply(header, &response)
}

struct Page<'a> {
    shard: &'a Shard,
    room: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next_cursor: Option<Cursor>,
}

impl Page<'_> {
    /// Adds a topic's partitions from `first` on; `false` if the page is full before they end.
    fn add(&mut self, topic: &Topic, first: usize) -> bool {
        if self.room == 0 {
            self.set_cursor(&topic.name, first);
            return false;
        }
        let described: Vec<_> = {
            let partitions = (0..).zip(&topic.partitions).skip(first).take(self.room);
            partitions.map(|partition| describe(self.shard, partition)).collect()
        };
        self.room -= described.len();
        let next = first + described.len();
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(TopicName(topic.name.clone().into())))
                .with_topic_id(topic.id.0)
                .with_is_internal(topic.is_internal())
                .with_topic_authorized_operations(operations::TOPIC)
                .with_partitions(described),
        );
        if next < topic.partitions.len() {
            self.set_cursor(&topic.name, next);
            return false;
        }
        true
    }

    fn add_named(&mut self, image: &MetadataImage, name: &StrBytes, first: usize) -> bool {
        if let Some(topic) = image.topic(name) {
            return self.add(topic, first);
        }
        let error = match validate_name(name) {
            Ok(()) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Err(error) => errors::of_metadata(&error),
        };
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(TopicName(name.clone())))
                .with_error_code(error.0),
        );
        true
    }

    fn set_cursor(&mut self, topic: &str, partition: usize) {
        self.next_cursor = Some(
            Cursor::default()
                .with_topic_name(TopicName(topic.to_owned().into()))
                .with_partition_index(i32::try_from(partition).unwrap_or(i32::MAX)),
        );
    }
}

fn describe(
    shard: &Shard,
    (index, state): (i32, &PartitionState),
) -> DescribeTopicPartitionsResponsePartition {
    let ids = |brokers: &[highwater_model::BrokerId]| brokers.iter().map(|id| BrokerId(id.0)).collect();
    let leader = Leader::of(shard, state);
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(leader.error.0)
        .with_offline_replicas(leader.offline_replicas)
        .with_partition_index(index)
        .with_leader_id(leader.id)
        .with_leader_epoch(state.leader_epoch.0)
        .with_replica_nodes(ids(&state.replicas))
        .with_isr_nodes(ids(&state.in_sync_replicas))
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}

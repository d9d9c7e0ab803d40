//! DescribeLogDirs: the data directory, its space, and what partitions take of it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use highwater_model::{TopicId, TopicPartition};
use highwater_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use highwater_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use highwater_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use highwater_protocol::{ErrorCode, RequestHeader, encode_describe_log_dirs};

use crate::reply::{Outcome, Reply};
use crate::shard::Shard;

/// Size and lag of a partition, by its index.
type Sizes = BTreeMap<i32, (u64, i64)>;

pub(super) async fn handle(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: DescribeLogDirsRequest,
) -> Outcome {
    let wanted = request.topics.map(|topics| wanted(shard, &topics));
    let topics = describe(shard, wanted).await;
    let data_dir = &shard.broker.config.data_dir;
    let space = shard.io.fs().space(data_dir).await;
    let as_i64 = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let result = DescribeLogDirsResult::default()
        .with_log_dir(data_dir.display().to_string().into())
        .with_topics(topics);
    let result = match space {
        Ok(space) => result
            .with_total_bytes(as_i64(space.total_bytes))
            .with_usable_bytes(as_i64(space.available_bytes)),
        Err(error) => {
            tracing::warn!(%error, "the space of the data directory is not known");
            result.with_error_code(ErrorCode::KAFKA_STORAGE_ERROR.0)
        }
    };
    let response = DescribeLogDirsResponse::default().with_results(vec![result]);
    match encode_describe_log_dirs(header, &response) {
        Ok(frame) => Outcome::Reply(Reply::of(frame)),
        Err(error) => {
            tracing::error!(%error, "connection closed");
            Outcome::Close
        }
    }
}

fn wanted(shard: &Shard, topics: &[DescribableLogDirTopic]) -> BTreeSet<TopicPartition> {
    let image = shard.image();
    topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|&partition| (&topic.topic, partition)))
        .filter_map(|(name, partition)| super::find_by_name(&image, name, partition).ok())
        .collect()
}

async fn describe(shard: &Rc<Shard>, wanted: Option<BTreeSet<TopicPartition>>) -> Vec<DescribeLogDirsTopic> {
    let of_shards = shard
        .on_all(move |shard| async move {
            let partitions = shard.partitions.borrow();
            let is_wanted = |id: &TopicPartition| wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
            let sizes: Vec<(TopicPartition, u64, i64)> = partitions
                .iter()
                .filter(|(id, _)| is_wanted(id))
                .map(|(id, partition)| {
                    let lag =
                        partition.log.watermarks().get().log_end_offset.0 - partition.high_watermark().0;
                    (*id, partition.log.size_bytes(), lag.max(0))
                })
                .collect();
            sizes
        })
        .await;
    let image = shard.image();
    let mut topics: BTreeMap<TopicId, Sizes> = BTreeMap::new();
    for (id, size_bytes, lag) in of_shards.into_iter().flatten().flatten() {
        topics.entry(id.topic_id).or_default().insert(id.partition.0, (size_bytes, lag));
    }
    let described = topics.into_iter().filter_map(|(id, sizes)| {
        let name = image.topic_by_id(&id)?.name.clone();
        Some(
            DescribeLogDirsTopic::default()
                .with_name(TopicName(name.into()))
                .with_partitions(of_sizes(sizes)),
        )
    });
    described.collect()
}

fn of_sizes(sizes: Sizes) -> Vec<DescribeLogDirsPartition> {
    let partition = |(index, (size_bytes, lag)): (i32, (u64, i64))| {
        DescribeLogDirsPartition::default()
            .with_partition_index(index)
            .with_partition_size(i64::try_from(size_bytes).unwrap_or(i64::MAX))
            .with_offset_lag(lag)
    };
    sizes.into_iter().map(partition).collect()
}

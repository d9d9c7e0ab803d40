//! DescribeLogDirs: the log directories, which of them serve, their space, and what partitions take of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use highwater_io::fs::Space;
use highwater_model::{TopicId, TopicPartition};
use highwater_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use highwater_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use highwater_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use highwater_protocol::{ErrorCode, RequestHeader, encode_describe_log_dirs};

use crate::log_dirs::Place;
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
    let mut by_dir = describe(shard, wanted).await;
    let mut results = Vec::new();
    for (index, dir) in shard.broker.log_dirs.all().iter().enumerate() {
        let result = DescribeLogDirsResult::default().with_log_dir(dir.path.display().to_string().into());
        let space = if dir.is_online() { space_of(shard, &dir.path).await } else { None };
        // As in Kafka, nothing is said of what is in one that is offline.
        results.push(match space {
            None => result.with_error_code(ErrorCode::KAFKA_STORAGE_ERROR.0),
            Some(space) => {
                let as_i64 = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                result
                    .with_total_bytes(as_i64(space.total_bytes))
                    .with_usable_bytes(as_i64(space.available_bytes))
                    .with_topics(by_dir.remove(&index).unwrap_or_default())
            }
        });
    }
    let response = DescribeLogDirsResponse::default().with_results(results);
    match encode_describe_log_dirs(header, &response) {
        Ok(frame) => Outcome::Reply(Reply::of(frame)),
        Err(error) => {
            tracing::error!(%error, "connection closed");
            Outcome::Close
        }
    }
}

async fn space_of(shard: &Shard, path: &Path) -> Option<Space> {
    let space = shard.io.fs().space(path).await;
    space.inspect_err(|error| tracing::warn!(%error, "the space of a log directory is not known")).ok()
}

fn wanted(shard: &Shard, topics: &[DescribableLogDirTopic]) -> BTreeSet<TopicPartition> {
    let image = shard.image();
    topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|&partition| (&topic.topic, partition)))
        .filter_map(|(name, partition)| super::find_by_name(&image, name, partition).ok())
        .collect()
}

/// What is in each directory, by its index.
async fn describe(
    shard: &Rc<Shard>,
    wanted: Option<BTreeSet<TopicPartition>>,
) -> BTreeMap<usize, Vec<DescribeLogDirsTopic>> {
    let of_shards = shard
        .on_all(move |shard| async move {
            let image = shard.image();
            let partitions = shard.partitions.borrow();
            let is_wanted = |id: &TopicPartition| wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
            let sizes: Vec<(usize, TopicPartition, u64, i64)> = partitions
                .iter()
                .filter(|(id, _)| is_wanted(id))
                .filter_map(|(id, partition)| {
                    let Place::Online(dir) = shard.broker.log_dirs.place_of(image.partition(id)?) else {
                        return None;
                    };
                    let lag =
                        partition.log.watermarks().get().log_end_offset.0 - partition.high_watermark().0;
                    Some((dir, *id, partition.log.size_bytes(), lag.max(0)))
                })
                .collect();
            sizes
        })
        .await;
    let image = shard.image();
    let mut by_dir: BTreeMap<usize, BTreeMap<TopicId, Sizes>> = BTreeMap::new();
    for (dir, id, size_bytes, lag) in of_shards.into_iter().flatten().flatten() {
        let topics = by_dir.entry(dir).or_default();
        topics.entry(id.topic_id).or_default().insert(id.partition.0, (size_bytes, lag));
    }
    let described = |(id, sizes): (TopicId, Sizes)| {
        let name = image.topic_by_id(&id)?.name.clone();
        Some(
            DescribeLogDirsTopic::default()
                .with_name(TopicName(name.into()))
                .with_partitions(of_sizes(sizes)),
        )
    };
    by_dir
        .into_iter()
        .map(|(dir, topics)| (dir, topics.into_iter().filter_map(described).collect()))
        .collect()
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

//! DeleteRecords: moves the start of logs up.

use std::rc::Rc;

use highwater_cluster::image::is_internal;
use highwater_model::{Offset, TopicPartition};
use highwater_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use highwater_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{Abandoned, ask_owners, find_by_name, reply};
use crate::errors;
use crate::reply::Outcome;
use crate::shard::Shard;

/// Stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;

pub(super) async fn handle(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: DeleteRecordsRequest,
) -> Outcome {
    let image = shard.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut questions = Vec::new();
    for topic in request.topics {
        topics.push((topic.name.clone(), topic.partitions.len()));
        questions.extend(topic.partitions.into_iter().map(|asked| {
            let found = if is_internal(&topic.name) {
                Err(ErrorCode::INVALID_TOPIC_EXCEPTION)
            } else {
                find_by_name(&image, &topic.name, asked.partition_index)
            };
            found.map(|id| (id, Offset(asked.offset))).map_err(|error| refusal(asked.partition_index, error))
        }));
    }
    let gone = |id: &TopicPartition| refusal(id.partition.0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let mut answers = ask_owners(shard, Abandoned::GoesOn, questions, gone, delete_before).await.into_iter();
    let topics = topics.into_iter().map(|(name, count)| {
        DeleteRecordsTopicResult::default()
            .with_name(name)
            .with_partitions(answers.by_ref().take(count).collect())
    });
    reply(header, &DeleteRecordsResponse::default().with_topics(topics.collect()))
}

fn refusal(partition: i32, error: ErrorCode) -> DeleteRecordsPartitionResult {
    DeleteRecordsPartitionResult::default()
        .with_partition_index(partition)
        .with_low_watermark(-1)
        .with_error_code(error.0)
}

async fn delete_before(shard: Rc<Shard>, id: TopicPartition, offset: Offset) -> DeleteRecordsPartitionResult {
    let index = id.partition.0;
    let Some(partition) = shard.partition(&id) else {
        return refusal(index, shard.why_missing(&id));
    };
    if !partition.log.config().delete_enabled {
        return refusal(index, ErrorCode::POLICY_VIOLATION);
    }
    let high_watermark = partition.high_watermark();
    let offset = if offset.0 == HIGH_WATERMARK { high_watermark } else { offset };
    if offset.0 < 0 || offset > high_watermark {
        return refusal(index, ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    match partition.log.delete_records_before(offset).await {
        Ok(low_watermark) => DeleteRecordsPartitionResult::default()
            .with_partition_index(index)
            .with_low_watermark(low_watermark.0),
        Err(error) => refusal(index, errors::of_log(&error)),
    }
}

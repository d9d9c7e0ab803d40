//! ListOffsets: the first, the last, or the offset at a time.

use std::collections::BTreeSet;
use std::rc::Rc;

use highwater_log::TimestampOffset;
use highwater_model::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use highwater_protocol::messages::list_offsets_request::ListOffsetsPartition;
use highwater_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use highwater_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{Abandoned, ask_owners, find_by_name, reply};
use crate::errors;
use crate::pace::Pace;
use crate::partition::{IsolationLevel, ShardPartition};
use crate::reply::Outcome;
use crate::shard::Shard;

/// Timestamps that stand for something else, and the first version that knows each.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// What is asked of one partition.
struct Question {
    asked: ListOffsetsPartition,
    isolation: IsolationLevel,
    version: i16,
}

pub(super) async fn handle(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: ListOffsetsRequest,
) -> Outcome {
    let image = shard.image();
    let version = header.api_version;
    let isolation = IsolationLevel::from_code(request.isolation_level);
    let mut seen = BTreeSet::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut questions = Vec::new();
    let mut pace = Pace::new(&shard.io);
    for topic in request.topics {
        topics.push((topic.name.clone(), topic.partitions.len()));
        for asked in topic.partitions {
            pace.step().await;
            let index = asked.partition_index;
            let is_first = seen.insert((topic.name.clone(), index));
            let checked = match isolation {
                Some(isolation) if is_first => check_timestamp(asked.timestamp, version)
                    .and_then(|()| find_by_name(&image, &topic.name, index))
                    .map(|id| (id, Question { asked, isolation, version })),
                _ => Err(ErrorCode::INVALID_REQUEST),
            };
            questions.push(checked.map_err(|error| refusal(index, error)));
        }
    }
    let gone = |id: &TopicPartition| refusal(id.partition.0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let mut answers = ask_owners(shard, Abandoned::Ends, questions, gone, find_offset).await.into_iter();
    let topics = topics.into_iter().map(|(name, count)| {
        ListOffsetsTopicResponse::default()
            .with_name(name)
            .with_partitions(answers.by_ref().take(count).collect())
    });
    reply(header, &ListOffsetsResponse::default().with_topics(topics.collect()))
}

fn check_timestamp(timestamp: i64, version: i16) -> Result<(), ErrorCode> {
    let since = match timestamp {
        0.. | LATEST | EARLIEST => 0,
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        EARLIEST_PENDING_UPLOAD => 11,
        _ => i16::MAX,
    };
    if version >= since { Ok(()) } else { Err(ErrorCode::UNSUPPORTED_VERSION) }
}

fn refusal(partition: i32, error: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default().with_partition_index(partition).with_error_code(error.0)
}

async fn find_offset(
    shard: Rc<Shard>,
    id: TopicPartition,
    question: Question,
) -> ListOffsetsPartitionResponse {
    let index = id.partition.0;
    let Some(partition) = shard.partition(&id) else {
        return refusal(index, shard.why_missing(&id));
    };
    if let Err(error) = partition.check_epoch(question.asked.current_leader_epoch) {
        return refusal(index, error);
    }
    let is_search = question.asked.timestamp >= 0 || question.asked.timestamp == MAX_TIMESTAMP;
    let finding = find(&partition, &question);
    let found = if is_search {
        // It may inflate a batch, at once or when that has come from the device.
        shard.heavy_steps.each_poll(&shard.io, finding).await
    } else {
        finding.await
    };
    match found {
        Ok(found) => {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
            let Some(TimestampOffset { timestamp, offset, leader_epoch }) = found else { return answer };
            let answer = answer.with_timestamp(timestamp.0).with_offset(offset.0);
            if question.version >= 4 { answer.with_leader_epoch(leader_epoch.0) } else { answer }
        }
        Err(error) => refusal(index, error),
    }
}

async fn find(partition: &ShardPartition, question: &Question) -> Result<Option<TimestampOffset>, ErrorCode> {
    let end = partition.visible_end(question.isolation);
    let start = partition.log.watermarks().get().log_start_offset;
    let failed = |error: highwater_log::ReadError| errors::of_read(&error);
    let found = match question.asked.timestamp {
        LATEST => Some(plain(end, partition.leader_epoch())),
        EARLIEST | EARLIEST_LOCAL => {
            let epoch = partition.log.epoch_at(start).unwrap_or(partition.leader_epoch());
            Some(plain(start, epoch))
        }
        // Nothing is ever moved to another tier.
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => None,
        MAX_TIMESTAMP => partition.log.max_timestamp(end).await.map_err(failed)?,
        timestamp => partition.log.offset_for_timestamp(Timestamp(timestamp)).await.map_err(failed)?,
    };
    let is_search = question.asked.timestamp >= 0 || question.asked.timestamp == MAX_TIMESTAMP;
    Ok(found.filter(|found| !is_search || found.offset < end))
}

fn plain(offset: Offset, leader_epoch: LeaderEpoch) -> TimestampOffset {
    TimestampOffset { timestamp: Timestamp::NONE, offset, leader_epoch }
}

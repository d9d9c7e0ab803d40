//! OffsetForLeaderEpoch: where an epoch ended, so that a client can tell whether its log was cut (KIP-101, KIP-320).

use std::rc::Rc;

use highwater_model::{LeaderEpoch, TopicPartition};
use highwater_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use highwater_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use highwater_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{Abandoned, ask_owners, find_by_name, reply};
use crate::pace::Pace;
use crate::reply::Outcome;
use crate::shard::Shard;

pub(super) async fn handle(
    shard: &Rc<Shard>,
    header: &RequestHeader,
    request: OffsetForLeaderEpochRequest,
) -> Outcome {
    let image = shard.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut questions = Vec::new();
    let mut pace = Pace::new(&shard.io);
    for topic in request.topics {
        topics.push((topic.topic.clone(), topic.partitions.len()));
        for asked in topic.partitions {
            pace.step().await;
            questions.push(match find_by_name(&image, &topic.topic, asked.partition) {
                Ok(id) => Ok((id, asked)),
                Err(error) => Err(refusal(asked.partition, error)),
            });
        }
    }
    let gone = |id: &TopicPartition| refusal(id.partition.0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let mut answers = ask_owners(shard, Abandoned::Ends, questions, gone, end_of_epoch).await.into_iter();
    let topics = topics.into_iter().map(|(name, count)| {
        OffsetForLeaderTopicResult::default()
            .with_topic(name)
            .with_partitions(answers.by_ref().take(count).collect())
    });
    reply(header, &OffsetForLeaderEpochResponse::default().with_topics(topics.collect()))
}

fn refusal(partition: i32, error: ErrorCode) -> EpochEndOffset {
    EpochEndOffset::default()
        .with_error_code(error.0)
        .with_partition(partition)
        .with_leader_epoch(-1)
        .with_end_offset(-1)
}

async fn end_of_epoch(
    shard: Rc<Shard>,
    id: TopicPartition,
    asked: OffsetForLeaderPartition,
) -> EpochEndOffset {
    let Some(partition) = shard.partition(&id) else {
        return refusal(asked.partition, shard.why_missing(&id));
    };
    if let Err(error) = partition.check_epoch(asked.current_leader_epoch) {
        return refusal(asked.partition, error);
    }
    let ours = partition.leader_epoch();
    let end = if asked.leader_epoch == ours.0 {
        // It goes on, whether or not anything was appended in it yet.
        Some((ours, partition.log.watermarks().get().log_end_offset))
    } else {
        partition.log.end_offset_for_epoch(LeaderEpoch(asked.leader_epoch))
    };
    let (epoch, offset) = end.map_or((-1, -1), |(epoch, offset)| (epoch.0, offset.0));
    EpochEndOffset::default().with_partition(asked.partition).with_leader_epoch(epoch).with_end_offset(offset)
}

//! What requests mean: one module a family of APIs.
//!
//! A handler is given a decoded request and gives an [`Outcome`]. It runs as a task of its own on the shard of the
//! connection, and sends work to the shards that have the partitions.

pub(crate) mod api_versions;
mod cluster;
mod configs;
mod delete_records;
mod epochs;
mod fetch;
mod list_offsets;
mod log_dirs;
mod metadata;
mod operations;
mod produce;
mod producer_id;
mod topic_partitions;
mod topics;

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use highwater_cluster::{MetadataImage, PartitionState, Topic};
use highwater_io::Task;
use highwater_model::{PartitionIndex, TopicPartition};
use highwater_protocol::codec::{Encodable, StrBytes};
use highwater_protocol::{ApiKey, ErrorCode, Request, RequestBody, RequestHeader, encode_response, messages};

use crate::log_dirs::Place;
use crate::memory::USUAL_BATCH_BYTES;
use crate::pace::Pace;
use crate::reply::{Outcome, Reply};
use crate::shard::Shard;

/// Administrative requests that a shard works on at once: their replies can be a thousand times as large as they are.
pub(crate) const ADMIN_AT_ONCE: usize = 8;

/// Whether a request is one of an administrator's, that waits for others of the kind.
fn is_admin(api: ApiKey) -> bool {
    match api {
        ApiKey::Produce
        | ApiKey::Fetch
        | ApiKey::ListOffsets
        | ApiKey::Metadata
        | ApiKey::ApiVersions
        | ApiKey::InitProducerId
        | ApiKey::OffsetForLeaderEpoch => false,
        ApiKey::CreateTopics
        | ApiKey::DeleteTopics
        | ApiKey::DeleteRecords
        | ApiKey::DescribeConfigs
        | ApiKey::DescribeLogDirs
        | ApiKey::CreatePartitions
        | ApiKey::IncrementalAlterConfigs
        | ApiKey::DescribeCluster
        | ApiKey::DescribeTopicPartitions => true,
    }
}

/// Whether a request only reads: nobody misses what it would have found when its client goes away.
pub(crate) fn is_mere_look(api: ApiKey) -> bool {
    matches!(api, ApiKey::Fetch | ApiKey::ListOffsets | ApiKey::OffsetForLeaderEpoch)
}

/// What an element of a request takes of memory until the reply is sent, besides its bytes in the frame: decoded, asked of its
/// owner, answered, and encoded in the reply.
const ELEMENT_BYTES: usize = 288;

/// As [`ELEMENT_BYTES`], of one API.
pub(crate) fn element_bytes(api: ApiKey) -> usize {
    match api {
        ApiKey::Produce => produce::ELEMENT_BYTES,
        _ => ELEMENT_BYTES,
    }
}

/// The memory that a request takes while it is worked on, besides its frame, and with what it was decoded to.
pub(crate) fn state_bytes(shard: &Shard, request: &Request) -> usize {
    match &request.body {
        RequestBody::Fetch(body) => fetch::state_bytes(shard, &request.header, body),
        _ => 0,
    }
}

/// Begins with a request: when this returns, its work has been sent to the shards in the order of requests, and the
/// task gives the outcome.
pub(crate) async fn begin(shard: &Rc<Shard>, request: Request) -> Task<Outcome> {
    if is_admin(request.header.api_key) {
        let shard = Rc::clone(shard);
        let io = shard.io.clone();
        return io.spawn(async move { administer(&shard, request).await });
    }
    dispatch(shard, request).await
}

/// An administrator's request: waits for its place in the lane and until there is memory for replies, and holds what its
/// reply takes of that until it is sent. The lane is free again before: a client that reads slowly holds up nobody.
async fn administer(shard: &Rc<Shard>, request: Request) -> Outcome {
    let _lane = shard.admin_lane.acquire(1).await;
    let mut memory = shard.response_budget.grant(USUAL_BATCH_BYTES).await;
    let mut outcome = dispatch(shard, request).await.await;
    if let Outcome::Reply(reply) = &mut outcome {
        memory.settle(reply.size_bytes());
        reply.held.memory = Some(memory);
    }
    outcome
}

async fn dispatch(shard: &Rc<Shard>, request: Request) -> Task<Outcome> {
    let Request { header, body } = request;
    tracing::trace!(%header, "request");
    let shard = Rc::clone(shard);
    let io = shard.io.clone();
    match body {
        RequestBody::Produce(body) => {
            let outcome = produce::begin(&shard, header, body).await;
            io.spawn(outcome)
        }
        RequestBody::Fetch(body) => io.spawn(async move { fetch::handle(&shard, header, body).await }),
        RequestBody::ListOffsets(body) => {
            io.spawn(async move { list_offsets::handle(&shard, &header, body).await })
        }
        RequestBody::Metadata(body) => io.spawn(async move { metadata::handle(&shard, &header, body).await }),
        RequestBody::ApiVersions(body) => io.spawn(async move { api_versions::handle(&header, &body) }),
        RequestBody::CreateTopics(body) => {
            io.spawn(async move { topics::create(&shard, &header, body).await })
        }
        RequestBody::DeleteTopics(body) => {
            io.spawn(async move { topics::delete(&shard, &header, body).await })
        }
        RequestBody::CreatePartitions(body) => {
            io.spawn(async move { topics::create_partitions(&shard, &header, body).await })
        }
        RequestBody::DeleteRecords(body) => {
            io.spawn(async move { delete_records::handle(&shard, &header, body).await })
        }
        RequestBody::InitProducerId(body) => {
            io.spawn(async move { producer_id::handle(&shard, &header, body).await })
        }
        RequestBody::OffsetForLeaderEpoch(body) => {
            io.spawn(async move { epochs::handle(&shard, &header, body).await })
        }
        RequestBody::DescribeConfigs(body) => {
            io.spawn(async move { configs::describe(&shard, &header, body).await })
        }
        RequestBody::IncrementalAlterConfigs(body) => {
            io.spawn(async move { configs::alter(&shard, &header, body).await })
        }
        RequestBody::DescribeCluster(body) => {
            io.spawn(async move { cluster::handle(&shard, &header, &body) })
        }
        RequestBody::DescribeTopicPartitions(body) => {
            io.spawn(async move { topic_partitions::handle(&shard, &header, body) })
        }
        RequestBody::DescribeLogDirs(body) => {
            io.spawn(async move { log_dirs::handle(&shard, &header, body).await })
        }
    }
}

/// The response as an outcome. One that cannot be encoded is a bug, and closes the connection.
fn reply(header: &RequestHeader, body: &impl Encodable) -> Outcome {
    match encode_response(header, body) {
        Ok(frame) => Outcome::Reply(Reply::of(frame)),
        Err(error) => {
            tracing::error!(%error, "connection closed");
            Outcome::Close
        }
    }
}

/// Longest text of an error that a response carries.
const MESSAGE_BYTES: usize = 2048;

/// The text of an error, cut if it is long: names in it are the client's.
fn message(error: &impl ToString) -> StrBytes {
    let mut text = error.to_string();
    if text.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text.into()
}

/// Who leads a partition, as clients are told.
struct Leader {
    id: messages::BrokerId,
    error: ErrorCode,
    offline_replicas: Vec<messages::BrokerId>,
}

impl Leader {
    /// Where the log directory failed, the broker still leads: it has what is intact. Where it is not there, nobody does.
    fn of(shard: &Shard, state: &PartitionState) -> Self {
        let ours = messages::BrokerId(shard.broker.config.node_id.0);
        let id = messages::BrokerId(state.leader.0);
        match shard.broker.log_dirs.place_of(state) {
            Place::Online(_) => Leader { id, error: ErrorCode::NONE, offline_replicas: Vec::new() },
            Place::Failed => Leader { id, error: ErrorCode::NONE, offline_replicas: vec![ours] },
            Place::Absent => Leader {
                id: messages::BrokerId(-1),
                error: ErrorCode::LEADER_NOT_AVAILABLE,
                offline_replicas: vec![ours],
            },
        }
    }
}

/// A topic and one of its partitions, as an image has them.
fn find_partition(topic: Option<&Arc<Topic>>, index: i32) -> Result<TopicPartition, ErrorCode> {
    let topic = topic.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = PartitionIndex(index);
    topic.partition(partition).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    Ok(TopicPartition { topic_id: topic.id, partition })
}

/// A partition by the name of its topic.
fn find_by_name(image: &MetadataImage, name: &str, index: i32) -> Result<TopicPartition, ErrorCode> {
    find_partition(image.topic(name), index)
}

/// What becomes of work on other shards whose client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abandoned {
    /// It changes something, and is done to its end.
    GoesOn,
    /// It only looks, and ends.
    Ends,
}

/// Answers about many partitions: what each asks goes to the shard that has it, and the answers come back in the order
/// of the questions. `work` runs on that shard.
async fn ask_owners<Q, A, F, Fut>(
    shard: &Rc<Shard>,
    abandoned: Abandoned,
    questions: Vec<Result<(TopicPartition, Q), A>>,
    gone: impl Fn(&TopicPartition) -> A,
    work: F,
) -> Vec<A>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(Rc<Shard>, TopicPartition, Q) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = A> + 'static,
{
    let mut answers: Vec<Option<A>> = Vec::with_capacity(questions.len());
    let mut by_shard: BTreeMap<usize, Vec<(usize, TopicPartition, Q)>> = BTreeMap::new();
    for (position, question) in questions.into_iter().enumerate() {
        match question {
            Ok((id, question)) => {
                answers.push(None);
                by_shard.entry(shard.owner(&id)).or_default().push((position, id, question));
            }
            Err(answer) => answers.push(Some(answer)),
        }
    }
    let mut calls = Vec::with_capacity(by_shard.len());
    for (owner, questions) in by_shard {
        let ids: Vec<(usize, TopicPartition)> = questions.iter().map(|(at, id, _)| (*at, *id)).collect();
        let work = work.clone();
        let answer = move |shard: Rc<Shard>| async move {
            let mut pace = Pace::new(&shard.io);
            let mut answers = Vec::with_capacity(questions.len());
            for (_, id, question) in questions {
                pace.step().await;
                answers.push(work(Rc::clone(&shard), id, question).await);
            }
            answers
        };
        let call = match abandoned {
            Abandoned::GoesOn => shard.on(owner, answer).await,
            Abandoned::Ends => shard.look_on(owner, answer).await,
        };
        calls.push((ids, call));
    }
    for (ids, call) in calls {
        let mut given = call.await.unwrap_or_default().into_iter();
        for (position, id) in ids {
            answers[position] = Some(given.next().unwrap_or_else(|| gone(&id)));
        }
    }
    answers.into_iter().map(|answer| answer.expect("every question has an answer")).collect()
}

//! Fetch: records to consumers.
//!
//! ```text
//!   session ─► partitions ─► read ──► enough, an error, or the time is up ──► session ─► reply
//!                             ▲                  │ else: drop what was read
//!                             └── more to read ──┴── wait
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use highwater_io::MonoTime;
use highwater_model::{Offset, TopicId};
use highwater_protocol::codec::StrBytes;
use highwater_protocol::fetch_response::{FetchResponse, FetchedPartition, FetchedTopic};
use highwater_protocol::messages::FetchRequest;
use highwater_protocol::{ErrorCode, RequestHeader};

use super::{find_by_name, find_partition};
use crate::fetch::read::{Limits, ReadPartition, Target, detach, read};
use crate::fetch::session::{
    FetchContext, FetchList, Gathered, PartitionFetch, PartitionKey, SessionRequest, TopicKey,
};
use crate::fetch::wait::{Wait, Woken, wait};
use crate::memory::ResponseMemory;
use crate::pace::Pace;
use crate::partition::IsolationLevel;
use crate::reply::{Held, Outcome, Pinned, Reply, SLAB_BYTES};
use crate::shard::Shard;

/// A fetch that wants more than a byte looks again at most this often, and no sooner than after as long as a look takes:
/// half of its time goes to others.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// What a partition of a fetch takes of memory until the reply is sent: what is asked, found, waited for and told.
const PARTITION_BYTES: usize = 512;

/// So many partitions are covered by the memory that the smallest request holds.
const FREE_PARTITIONS: usize = 32;

/// Of a shard's memory for recent appends, this fraction may be kept from being used again by replies that are being sent, of all
/// shards.
const PINNED_FRACTION: usize = 8;

/// A partition of a fetch: what is asked, and where it is or why it is not.
struct Asked {
    key: PartitionKey,
    fetch: PartitionFetch,
    target: Result<Target, ErrorCode>,
}

/// What a request says besides its partitions.
struct Params {
    isolation: IsolationLevel,
    takes_turns: bool,
    max_bytes: usize,
    min_bytes: usize,
    deadline: MonoTime,
}

/// The answer about one partition.
struct Answer {
    data: FetchedPartition,
    visible_end: Offset,
    /// Whether the records lie in the log's memory.
    is_hot: bool,
}

/// The answers, in the order of the request.
struct Answers {
    partitions: Vec<Answer>,
    size_bytes: usize,
    /// What of `max_bytes` was granted.
    granted_bytes: usize,
    /// Whether the limits left out records that are there.
    is_cut: bool,
    memory: ResponseMemory,
}

impl Answers {
    /// Whether there is nothing to wait for. More than was granted cannot be read, however long a fetch waits; and of
    /// what is granted, whole batches may leave a rest.
    fn is_enough(&self, min_bytes: usize) -> bool {
        self.is_cut || self.size_bytes >= min_bytes.min(self.granted_bytes)
    }
}

pub(super) async fn handle(shard: &Rc<Shard>, header: RequestHeader, request: FetchRequest) -> Outcome {
    let version = header.api_version;
    let session = session_of(version, &request);
    let replica_id = if version >= 15 { request.replica_state.replica_id } else { request.replica_id };
    let Some(isolation) = IsolationLevel::from_code(request.isolation_level) else {
        return refuse(&header, ErrorCode::INVALID_REQUEST);
    };
    // Kafka ends a connection whose fetch waits for longer than that.
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0))
        .min(shard.broker.config.network.max_idle);
    let max_bytes = shard.broker.config.fetch.max_bytes.min(usize::try_from(request.max_bytes).unwrap_or(0));
    let mut params = Params {
        isolation,
        takes_turns: false,
        max_bytes,
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
        deadline: shard.io.now() + max_wait,
    };
    let (list, forgotten) = partitions_of(shard, request, session.uses_topic_ids).await;
    let begun = shard.fetch_sessions.borrow_mut().begin(session, list, &forgotten, shard.io.now());
    let (context, list) = match begun {
        Ok(begun) => begun,
        Err(error) => return refuse(&header, error),
    };
    // Followers fetch once there is a second broker to be one.
    let is_follower = replica_id.0 >= 0;
    params.takes_turns = matches!(context, FetchContext::Sessionless);
    let asked = locate(shard, list, is_follower).await;
    let answers = read_until_enough(shard, &asked, &params).await;
    respond(shard, &header, session, &context, asked, answers)
}

fn session_of(version: i16, request: &FetchRequest) -> SessionRequest {
    SessionRequest { id: request.session_id, epoch: request.session_epoch, uses_topic_ids: version >= 13 }
}

/// The memory that a fetch takes besides its frame. It may hold it for long, and a small request may go on with a large
/// session.
pub(super) fn state_bytes(shard: &Shard, header: &RequestHeader, request: &FetchRequest) -> usize {
    let session = session_of(header.api_version, request);
    let asked: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let partitions = asked + shard.fetch_sessions.borrow().partition_count(session);
    partitions.saturating_sub(FREE_PARTITIONS) * PARTITION_BYTES
}

fn refuse(header: &RequestHeader, error: ErrorCode) -> Outcome {
    encode(header, FetchResponse { error_code: error, ..FetchResponse::default() }, Held::default())
}

fn encode(header: &RequestHeader, response: FetchResponse, held: Held) -> Outcome {
    match response.encode(header) {
        Ok(pieces) => Outcome::Reply(Reply { pieces, held }),
        Err(error) => {
            tracing::debug!(%error, "connection closed");
            Outcome::Close
        }
    }
}

/// What a request asks for and what it forgets. Names are copied: a session outlives the request's memory.
async fn partitions_of(shard: &Shard, request: FetchRequest, by_id: bool) -> (FetchList, Vec<PartitionKey>) {
    let key = |name: &StrBytes, id: uuid::Uuid| {
        if by_id { TopicKey::Id(TopicId(id)) } else { TopicKey::Name(name.as_str().into()) }
    };
    let mut pace = Pace::new(&shard.io);
    let mut gathered = Gathered::default();
    for topic in request.topics {
        let topic_key = key(&topic.topic, topic.topic_id);
        for partition in topic.partitions {
            pace.step().await;
            let key = PartitionKey { topic: topic_key.clone(), partition: partition.partition };
            let fetch = PartitionFetch {
                fetch_offset: partition.fetch_offset,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                max_bytes: partition.partition_max_bytes,
            };
            gathered.add(key, fetch);
        }
    }
    let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
        let topic_key = key(&topic.topic, topic.topic_id);
        topic.partitions.iter().map(move |&partition| PartitionKey { topic: topic_key.clone(), partition })
    });
    (gathered.into_list(), forgotten.collect())
}

async fn locate(shard: &Shard, list: FetchList, is_follower: bool) -> Vec<Asked> {
    let image = shard.image();
    let mut pace = Pace::new(&shard.io);
    let mut located = Vec::with_capacity(list.len());
    for (place, (key, fetch)) in list.into_iter().enumerate() {
        pace.step().await;
        let found = match &key.topic {
            _ if is_follower => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            TopicKey::Name(name) => find_by_name(&image, name, key.partition),
            TopicKey::Id(id) => match image.topic_by_id(id) {
                None => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                topic => find_partition(topic, key.partition),
            },
        };
        let target = found.map(|id| Target { place, id, fetch });
        located.push(Asked { key, fetch, target });
    }
    located
}

async fn read_until_enough(shard: &Rc<Shard>, asked: &[Asked], params: &Params) -> Answers {
    let mut is_parked = false;
    let mut gives_way = false;
    loop {
        let begin = shard.io.now();
        let answers = read_all(shard, asked, params).await;
        let look_duration = shard.io.now() - begin;
        let has_news = answers
            .partitions
            .iter()
            .any(|Answer { data, .. }| !data.error_code.is_none() || data.diverging_epoch.is_some());
        let left = params.deadline - shard.io.now();
        let is_over = left.is_zero() || gives_way || shard.is_stopping() || asked.is_empty();
        if answers.is_enough(params.min_bytes) || has_news || is_over {
            return answers;
        }
        let seen = seen_by_owner(shard, asked, &answers);
        drop(answers);
        if !std::mem::replace(&mut is_parked, true) {
            shard.counters().fetches_parked.add(1);
        }
        let woken = wait(shard, Wait { seen, isolation: params.isolation, timeout: left }).await;
        gives_way = woken == Woken::MemoryShort;
        if woken == Woken::Changed && params.min_bytes > 1 {
            let left = params.deadline - shard.io.now();
            shard.io.sleep(left.min(look_duration.max(LOOK_AGAIN_AFTER))).await;
        }
    }
}

fn seen_by_owner(
    shard: &Shard,
    asked: &[Asked],
    answers: &Answers,
) -> Vec<(usize, Vec<crate::fetch::wait::Seen>)> {
    let mut seen: BTreeMap<usize, Vec<crate::fetch::wait::Seen>> = BTreeMap::new();
    for (asked, Answer { visible_end, .. }) in asked.iter().zip(&answers.partitions) {
        if let Ok(target) = &asked.target {
            seen.entry(shard.owner(&target.id)).or_default().push((target.id, *visible_end));
        }
    }
    seen.into_iter().collect()
}

/// Reads every partition once, on one shard after the other, each with what is left of the limit.
async fn read_all(shard: &Rc<Shard>, asked: &[Asked], params: &Params) -> Answers {
    let mut memory = shard.response_budget.grant(params.max_bytes).await;
    let mut partitions: Vec<Answer> = asked
        .iter()
        .map(|asked| {
            let error = asked.target.as_ref().err().copied().unwrap_or(ErrorCode::NOT_LEADER_OR_FOLLOWER);
            let data = FetchedPartition::failed(asked.key.partition, error);
            Answer { data, visible_end: Offset(0), is_hot: false }
        })
        .collect();
    let granted_bytes = memory.bytes();
    let mut is_cut = false;
    let Params { isolation, takes_turns, .. } = *params;
    let mut limits = Limits { max_bytes: granted_bytes, min_one_batch: true, takes_turns, isolation };
    let mut size_bytes = 0;
    for (owner, targets) in by_owner(shard, asked) {
        let call = shard.look_on(owner, move |shard| read(shard, targets, limits)).await;
        // Without an answer the shard has ended, and the partitions stay as they are above.
        for answer in call.await.unwrap_or_default() {
            let ReadPartition { place, data, visible_end, is_cut: cut, is_hot, .. } = answer;
            let read_bytes = data.records_size_bytes();
            size_bytes += read_bytes;
            is_cut |= cut;
            limits.max_bytes = limits.max_bytes.saturating_sub(read_bytes);
            limits.min_one_batch &= read_bytes == 0;
            partitions[place] = Answer { data, visible_end, is_hot };
        }
    }
    memory.settle(size_bytes);
    Answers { partitions, size_bytes, granted_bytes, is_cut, memory }
}

/// The targets of each shard, the shard of the first partition first: who is first in the request is first to read.
fn by_owner(shard: &Shard, asked: &[Asked]) -> Vec<(usize, Vec<Target>)> {
    let mut groups: Vec<(usize, Vec<Target>)> = Vec::new();
    for target in asked.iter().filter_map(|asked| asked.target.as_ref().ok()) {
        let owner = shard.owner(&target.id);
        match groups.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, targets)) => targets.push(*target),
            None => groups.push((owner, vec![*target])),
        }
    }
    groups
}

fn respond(
    shard: &Shard,
    header: &RequestHeader,
    session: SessionRequest,
    context: &FetchContext,
    asked: Vec<Asked>,
    answers: Answers,
) -> Outcome {
    shard.counters().fetched_bytes.add(answers.size_bytes as u64);
    // Whose memory it lies in, where it lies in the log's.
    let mut hot_of = Vec::with_capacity(asked.len());
    let read: Vec<(PartitionKey, PartitionFetch, FetchedPartition)> = asked
        .into_iter()
        .zip(answers.partitions)
        .map(|(asked, answer)| {
            let owner = asked.target.as_ref().ok().map(|target| shard.owner(&target.id));
            hot_of.push(owner.filter(|_| answer.is_hot));
            (asked.key, asked.fetch, answer.data)
        })
        .collect();
    let mut random = || shard.io.random_u64();
    let (session_id, told) = {
        let mut sessions = shard.fetch_sessions.borrow_mut();
        let finished = sessions.finish(context, session, &read, shard.io.now(), &mut random);
        let (open, evicted) = sessions.counts();
        shard.counters().fetch_sessions.set(open as u64);
        shard.counters().fetch_sessions_evicted.set(evicted);
        finished
    };
    let most_slabs = shard.broker.config.shard.hot_tail_bytes / SLAB_BYTES / PINNED_FRACTION;
    let mut pinned = Pinned::new(&shard.pins);
    let mut topics: Vec<FetchedTopic> = Vec::new();
    let mut last_topic = None;
    for (((key, _, mut data), told), hot_of) in read.into_iter().zip(told).zip(hot_of) {
        if !told {
            continue;
        }
        if let Some(owner) = hot_of {
            data.records = detach(data.records, &mut pinned, owner, most_slabs);
        }
        if last_topic.as_ref() != Some(&key.topic) {
            topics.push(named(&key.topic));
            last_topic = Some(key.topic);
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(data);
        }
    }
    let response = FetchResponse { session_id, topics, ..FetchResponse::default() };
    encode(header, response, Held { memory: Some(answers.memory), pinned: Some(pinned) })
}

fn named(key: &TopicKey) -> FetchedTopic {
    match key {
        TopicKey::Name(name) => {
            FetchedTopic { name: StrBytes::from_string(name.to_string()), ..FetchedTopic::default() }
        }
        TopicKey::Id(id) => FetchedTopic { topic_id: id.0, ..FetchedTopic::default() },
    }
}

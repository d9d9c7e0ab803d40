//! Produce: batches to partitions, and acknowledgements when they are as safe as was asked.
//!
//! ```text
//!   begin:  check ─► to each owner, in the order of requests: take a turn in every partition
//!   there:  turn ─► append (accepted: offsets assigned) ─► next turn ─► acknowledged ─► answer
//! ```
//!
//! Shards, and on a shard the batches of each log directory, go on by themselves: what waits for a device that stands still
//! holds up its own producer, and no others'.
//!
//! A partition that is named more than once has all of its batches appended, in order. Kafka appends the last one and
//! acknowledges it alone.
//!
//! acks=0 is answered by nothing, and by a closed connection if something is wrong. acks=1 and acks=all wait until the
//! batch is as safe as the partition's `flush.messages` asks; with one replica they differ in two things only: acks=all
//! respects `min.insync.replicas`, and gives up after the request's timeout.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use highwater_cluster::image::is_internal;
use highwater_cluster::{MetadataImage, Topic};
use highwater_io::concurrent;
use highwater_log::{Appended, Origin};
use highwater_model::batch::{self, BatchHeader};
use highwater_model::compression::Compression;
use highwater_model::{PartitionIndex, TopicId, TopicPartition};
use highwater_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use highwater_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use highwater_protocol::messages::{ProduceResponse, TopicName};
use highwater_protocol::{ErrorCode, RequestHeader};
use smallvec::SmallVec;

use super::{message, reply};
use crate::errors;
use crate::pace::Pace;
use crate::partition::{ShardPartition, Turn};
use crate::reply::Outcome;
use crate::shard::{Call, Shard};

/// When a produce is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acks {
    None,
    Leader,
    All,
}

impl Acks {
    fn of(code: i16) -> Option<Self> {
        match code {
            0 => Some(Acks::None),
            1 => Some(Acks::Leader),
            -1 => Some(Acks::All),
            _ => None,
        }
    }
}

/// Where the answer about a partition goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    topic: usize,
    partition: usize,
}

/// A batch on its way to its partition.
struct Batch {
    place: Place,
    id: TopicPartition,
    replicas: Replicas,
    records: Bytes,
    is_compressed: bool,
}

/// How many replicas a partition has, and how many of them are in sync.
#[derive(Debug, Clone, Copy)]
struct Replicas {
    assigned: usize,
    in_sync: usize,
}

impl Replicas {
    /// Whether a produce with acks=all is accepted. As in Kafka, a partition never needs more replicas than it has.
    fn suffice(self, min_in_sync_replicas: usize) -> bool {
        self.in_sync >= min_in_sync_replicas.min(self.assigned)
    }
}

/// A batch with its place in the line of its partition, if the partition is there.
struct Placed {
    batch: Batch,
    line: Option<(Turn, Rc<ShardPartition>)>,
}

/// What became of a batch until it is acknowledged: where its answer goes, its partition, and its offsets or why it has none.
type Accepted = (Place, i32, Result<Appended, PartitionProduceResponse>);

/// What a batch takes of memory at most until the reply is sent, besides its bytes in the frame: as it is sorted by owner, in a list
/// that may have room for as many again, or then in a line, accepted, and answered.
pub(super) const ELEMENT_BYTES: usize = {
    let answer = size_of::<PartitionProduceResponse>();
    let sorted = size_of::<PartitionProduceData>() + 2 * size_of::<Batch>();
    let placed = size_of::<Place>() + size_of::<Placed>() + WAITER_BYTES;
    let answered = placed + size_of::<Accepted>() + size_of::<(Place, PartitionProduceResponse)>();
    answer + if sorted > answered { sorted } else { answered } + REPLY_BYTES
};

/// Who waits in the line of a partition.
const WAITER_BYTES: usize = 80;

/// An answer in the reply, at most, but for the text of an error.
const REPLY_BYTES: usize = 64;

/// How far to wait.
#[derive(Debug, Clone, Copy)]
struct Wait {
    acks: Acks,
    timeout: Duration,
}

/// A list of mostly one: producers send a request for each batch, or for a few.
type Few<T> = SmallVec<[T; 1]>;

/// The answers of one shard.
type Answers = Few<(Place, PartitionProduceResponse)>;

/// A produce request whose batches are on their way.
struct Pending {
    header: RequestHeader,
    acks: Acks,
    topics: Vec<TopicProduceResponse>,
    calls: Few<Option<(Few<Place>, Call<Answers>)>>,
}

/// Begins with a request: its batches have their places in line when this returns.
pub(super) async fn begin(
    shard: &Rc<Shard>,
    header: RequestHeader,
    request: ProduceRequest,
) -> impl Future<Output = Outcome> + use<> {
    let pending = send_to_owners(shard, header, request).await;
    finish(Rc::clone(shard), pending)
}

/// What a request says about all of its batches.
struct Terms {
    version: i16,
    acks: Option<Acks>,
    names_transaction: bool,
}

async fn send_to_owners(shard: &Rc<Shard>, header: RequestHeader, request: ProduceRequest) -> Pending {
    let image = shard.image();
    let terms = Terms {
        version: header.api_version,
        acks: Acks::of(request.acks),
        names_transaction: request.transactional_id.is_some(),
    };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut by_owner: Few<(usize, Few<Batch>)> = Few::new();
    let mut pace = Pace::new(&shard.io);
    for (topic, data) in request.topic_data.into_iter().enumerate() {
        let found = find_topic(&image, terms.version, &data);
        let mut answer = TopicProduceResponse::default().with_name(data.name).with_topic_id(data.topic_id);
        answer.partition_responses.reserve_exact(data.partition_data.len());
        for (partition, data) in data.partition_data.into_iter().enumerate() {
            pace.step().await;
            let index = data.index;
            let mut response = PartitionProduceResponse::default().with_index(index);
            match check(&terms, found, Place { topic, partition }, data) {
                Ok(batch) => of_owner(&mut by_owner, shard.owner(&batch.id)).push(batch),
                Err(error) => response = refusal(index, error),
            }
            answer.partition_responses.push(response);
        }
        topics.push(answer);
    }
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let wait = Wait { acks: terms.acks.unwrap_or(Acks::Leader), timeout };
    // In the order of shards, whatever the client's: so are places in lines taken. Once they are, no shard waits for what another
    // one does of the same request, so that no two requests wait for each other's places.
    by_owner.sort_unstable_by_key(|(owner, _)| *owner);
    let mut calls = Few::with_capacity(by_owner.len());
    for (owner, batches) in by_owner {
        let places = batches.iter().map(|batch| batch.place).collect();
        calls.push(Some((places, shard.on(owner, move |shard| append(shard, batches, wait)).await)));
    }
    Pending { header, acks: wait.acks, topics, calls }
}

/// What goes to `owner`, of a list as long as there are shards at most.
fn of_owner(by_owner: &mut Few<(usize, Few<Batch>)>, owner: usize) -> &mut Few<Batch> {
    let place = by_owner.iter().position(|(other, _)| *other == owner).unwrap_or_else(|| {
        by_owner.push((owner, Few::new()));
        by_owner.len() - 1
    });
    &mut by_owner[place].1
}

fn find_topic<'a>(
    image: &'a MetadataImage,
    version: i16,
    data: &TopicProduceData,
) -> Result<&'a Topic, ErrorCode> {
    if version >= 13 {
        image.topic_by_id(&TopicId(data.topic_id)).map(|topic| &**topic).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)
    } else {
        image.topic(&data.name).map(|topic| &**topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }
}

/// Checks what can be checked before the partition is asked.
fn check(
    terms: &Terms,
    topic: Result<&Topic, ErrorCode>,
    place: Place,
    data: PartitionProduceData,
) -> Result<Batch, ErrorCode> {
    let topic = topic?;
    let partition = PartitionIndex(data.index);
    let state = topic.partition(partition).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    terms.acks.ok_or(ErrorCode::INVALID_REQUIRED_ACKS)?;
    if is_internal(&topic.name) {
        return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    let records = data.records.unwrap_or_default();
    let header = check_batch(terms, &records)?;
    // What is no codec is the log's to name: the checksum comes first.
    let is_compressed = header.compression() != Ok(Compression::None);
    let id = TopicPartition { topic_id: topic.id, partition };
    let replicas = Replicas { assigned: state.replicas.len(), in_sync: state.in_sync_replicas.len() };
    Ok(Batch { place, id, replicas, records, is_compressed })
}

/// One whole batch of format v2 and nothing else, as Kafka asks of every version that is served, and nothing of a
/// transaction, since there are none: Kafka refuses it as one that nobody may write, if the request names no
/// transaction, else as one that was not begun.
fn check_batch(terms: &Terms, records: &[u8]) -> Result<BatchHeader, ErrorCode> {
    let mut headers = batch::headers(records);
    let (_, header): (usize, BatchHeader) = match headers.next() {
        Some(first) => first.map_err(|error| errors::of_batch(&error))?,
        None => return Err(ErrorCode::INVALID_RECORD),
    };
    if headers.next().is_some() {
        return Err(ErrorCode::INVALID_RECORD);
    }
    if header.is_transactional() && !terms.names_transaction {
        return Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    }
    if header.is_transactional() {
        return Err(ErrorCode::INVALID_TXN_STATE);
    }
    // Clients that speak older versions cannot read zstd.
    if terms.version < 7 && header.compression() == Ok(Compression::Zstd) {
        return Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    }
    Ok(header)
}

fn refusal(index: i32, error: ErrorCode) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(error.0)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
}

/// On the owner: takes a place in the line of every partition now, and gives the answers when awaited.
fn append(shard: Rc<Shard>, batches: Few<Batch>, wait: Wait) -> impl Future<Output = Answers> {
    let mut placed: Few<Placed> = batches
        .into_iter()
        .map(|batch| {
            let partition = shard.partition(&batch.id);
            let line = partition.map(|partition| (partition.take_turn(), partition));
            Placed { batch, line }
        })
        .collect();
    async move {
        let dir_of = |placed: &Placed| placed.line.as_ref().map(|(_, partition)| partition.log_dir());
        let first = placed.first().and_then(dir_of);
        if placed.iter().all(|placed| dir_of(placed) == first) {
            return append_in_order(&shard, &mut placed, wait).await;
        }
        // What waits for one device holds no places in the lines of partitions on others.
        let mut by_dir: BTreeMap<Option<usize>, Few<Placed>> = BTreeMap::new();
        for placed in placed.drain(..) {
            by_dir.entry(dir_of(&placed)).or_default().push(placed);
        }
        let work = by_dir.into_values().map(|mut placed| {
            let shard = Rc::clone(&shard);
            async move { append_in_order(&shard, &mut placed, wait).await }
        });
        concurrent::all(&shard.io, usize::MAX, work).await.into_iter().flatten().collect()
    }
}

/// Appends one batch after the other, then waits until all of them are acknowledged. The list is emptied where it is: moved, it
/// would be in here twice, and there is one of these for each request.
async fn append_in_order(shard: &Rc<Shard>, placed: &mut Few<Placed>, wait: Wait) -> Answers {
    let started = shard.io.now();
    let mut accepted: Few<Accepted> = Few::with_capacity(placed.len());
    let mut pace = Pace::new(&shard.io);
    for (number, Placed { batch, line }) in placed.drain(..).enumerate() {
        if number > 0 {
            pace.step_of(batch.records.len()).await;
        }
        let Batch { place, id, replicas, .. } = batch;
        let result = match line {
            Some((_, partition))
                if wait.acks == Acks::All && !replicas.suffice(partition.min_in_sync_replicas()) =>
            {
                Err(refusal(id.partition.0, ErrorCode::NOT_ENOUGH_REPLICAS))
            }
            Some((turn, partition)) => append_one(shard, &partition, turn, batch).await,
            None => Err(refusal(id.partition.0, shard.why_missing(&id))),
        };
        accepted.push((place, id.partition.0, result));
    }
    let mut answers = Answers::with_capacity(accepted.len());
    for (place, index, result) in accepted.drain(..) {
        let answer = match result {
            Ok(appended) => {
                let left = wait.timeout.saturating_sub(shard.io.now() - started);
                acknowledge(shard, index, &appended, Wait { timeout: left, ..wait }).await
            }
            Err(refusal) => refusal,
        };
        if answer.error_code != ErrorCode::NONE.0 {
            shard.counters().produce_errors.add(1);
        }
        answers.push((place, answer));
    }
    answers
}

/// Appends when the turn has come, and lets the next one have its turn as soon as the batch is accepted.
async fn append_one(
    shard: &Shard,
    partition: &ShardPartition,
    turn: Turn,
    batch: Batch,
) -> Result<Appended, PartitionProduceResponse> {
    let _turn = turn.await;
    let size_bytes = batch.records.len();
    let is_heavy = batch.is_compressed || partition.recompresses();
    let mut appending = pin!(partition.log.append(batch.records, partition.leader_epoch(), Origin::Client));
    let appended = if is_heavy {
        // What it does before it waits for the first time is to look into the batch.
        shard.heavy_steps.first_poll(&shard.io, appending.as_mut()).await
    } else {
        appending.await
    };
    let error = match appended {
        Ok(appended) => {
            shard.counters().produced_batches.add(1);
            shard.counters().produced_bytes.add(size_bytes as u64);
            return Ok(appended);
        }
        Err(error) => error,
    };
    let id = partition.log.id();
    tracing::debug!(partition = %id, %error, "batch refused");
    let start = partition.log.watermarks().get().log_start_offset;
    Err(refusal(id.partition.0, errors::of_append(&error))
        .with_log_start_offset(start.0)
        .with_error_message(Some(message(&error))))
}

async fn acknowledge(shard: &Shard, index: i32, appended: &Appended, wait: Wait) -> PartitionProduceResponse {
    let acknowledged = match wait.acks {
        // Accepted is all that acks=0 is told, and it is not even told that.
        Acks::None => Ok(Ok(())),
        Acks::Leader => Ok(appended.acknowledged().await),
        Acks::All => shard.io.timeout(wait.timeout, appended.acknowledged()).await,
    };
    match acknowledged {
        Ok(Ok(())) => PartitionProduceResponse::default()
            .with_index(index)
            .with_base_offset(appended.base_offset.0)
            .with_log_append_time_ms(appended.log_append_time.0)
            .with_log_start_offset(appended.log_start_offset.0),
        Ok(Err(error)) => refusal(index, errors::of_log(&error)),
        Err(_) => refusal(index, ErrorCode::REQUEST_TIMED_OUT),
    }
}

async fn finish(shard: Rc<Shard>, pending: Pending) -> Outcome {
    let Pending { header, acks, mut topics, mut calls } = pending;
    // All at once: what this shard has to do itself is done only when it is polled, and holds places in lines until then.
    poll_fn(|cx| {
        let mut are_over = true;
        for waiting in &mut calls {
            let Some((_, call)) = waiting else { continue };
            let Poll::Ready(answers) = Pin::new(call).poll(cx) else {
                are_over = false;
                continue;
            };
            if let Some((places, _)) = waiting.take() {
                put_in_place(&mut topics, &places, answers);
            }
        }
        if are_over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if acks == Acks::None {
        let mut answers = topics.iter().flat_map(|topic| &topic.partition_responses);
        return match answers.find(|answer| answer.error_code != ErrorCode::NONE.0) {
            Some(failed) => {
                let error = ErrorCode(failed.error_code);
                tracing::debug!(shard = shard.index, %error, "connection closed: a produce with acks=0 failed");
                Outcome::Close
            }
            None => Outcome::Silence,
        };
    }
    for topic in &mut topics {
        clear_other_version(header.api_version, topic);
    }
    reply(&header, &ProduceResponse::default().with_responses(topics))
}

/// Puts the answers of a shard where they belong; `None` if the shard has ended, or will before long: what became of the batches
/// is not known.
fn put_in_place(topics: &mut [TopicProduceResponse], places: &[Place], answers: Option<Answers>) {
    let Some(answers) = answers else {
        for place in places {
            let response = &mut topics[place.topic].partition_responses[place.partition];
            *response = refusal(response.index, ErrorCode::KAFKA_STORAGE_ERROR);
        }
        return;
    };
    for (place, answer) in answers {
        topics[place.topic].partition_responses[place.partition] = answer;
    }
}

/// A topic is named by its name or by its id, by the version.
fn clear_other_version(version: i16, topic: &mut TopicProduceResponse) {
    if version >= 13 {
        topic.name = TopicName::default();
    } else {
        topic.topic_id = uuid::Uuid::nil();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was once taken for the size of what is decoded, though four lists hold something for each batch at the end.
    #[test]
    fn element_counts_everything_that_it_is_in_at_once() {
        let answer = size_of::<PartitionProduceResponse>();
        let lists = [answer, size_of::<Placed>(), size_of::<Accepted>(), answer + size_of::<Place>()];
        assert!(lists.iter().sum::<usize>() < ELEMENT_BYTES);
    }
}

//! One read of many partitions, within the limits of a request.
//!
//! Partitions are read in the order of the request until its byte limit is reached; the first that has anything gives
//! at least one batch, however large, so that no client is stuck. Several shards read one after the other, each with what
//! the others left. Beside appends, less is taken from segments at once than the request allows.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use highwater_log::ReadRequest;
use highwater_model::{LeaderEpoch, Offset, TopicPartition};
use highwater_protocol::ErrorCode;
use highwater_protocol::fetch_response::{EpochEndOffset, FetchedPartition, LeaderIdAndEpoch};

use super::session::PartitionFetch;
use crate::errors;
use crate::pace::Pace;
use crate::partition::{IsolationLevel, ShardPartition};
use crate::reply::Pinned;
use crate::shard::Shard;

/// A partition to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Its place in the request.
    pub(crate) place: usize,
    pub(crate) id: TopicPartition,
    pub(crate) fetch: PartitionFetch,
}

impl Target {
    fn asked_bytes(&self) -> usize {
        usize::try_from(self.fetch.max_bytes).unwrap_or(0)
    }

    /// How what it asks for is read.
    fn way(&self, shard: &Shard) -> Way {
        let offset = Offset(self.fetch.fetch_offset);
        match shard.partition(&self.id) {
            Some(partition) if partition.log.is_in_segments(offset) => {
                if partition.log.has_appends_beside() {
                    Way::BesideAppends
                } else {
                    Way::FromSegments
                }
            }
            _ => Way::FromMemory,
        }
    }
}

/// Where a read finds what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In memory, if anything.
    FromMemory,
    FromSegments,
    /// In segments of a shard that appends.
    BesideAppends,
}

/// What may be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_bytes: usize,
    /// Whether nothing was read yet, so that one batch may exceed the limit.
    pub(crate) min_one_batch: bool,
    /// Whether nobody else sees to it that each partition has its turn to be first, as a session does.
    pub(crate) takes_turns: bool,
    pub(crate) isolation: IsolationLevel,
}

/// What was read of a partition.
pub(crate) struct ReadPartition {
    pub(crate) place: usize,
    pub(crate) data: FetchedPartition,
    /// The end of what could be read: a waiting fetch waits until it moves.
    pub(crate) visible_end: Offset,
    /// Whether there is more, which the limits left out.
    pub(crate) is_cut: bool,
    /// Whether there is a batch, which the limits have no room for.
    pub(crate) is_too_large: bool,
    /// Whether the records lie in the log's memory.
    pub(crate) is_hot: bool,
}

/// Partitions that are read at once at most: where they come from the device, it has more than one thing to do.
const READS_IN_FLIGHT: usize = 8;

/// What a reply takes from segments at most while the same shard appends. One of 16 MiB is sent in one go, as fast as the client
/// takes it, and keeps both from everything else for as long.
const CATCH_UP_BYTES: usize = 4 << 20;

/// What one partition takes of that at most, if its batches are no larger: beside appends a log reads no more at once.
const CATCH_UP_READ_BYTES: usize = 1 << 20;

/// So many partitions may take their most.
const CATCH_UPS: usize = CATCH_UP_BYTES / CATCH_UP_READ_BYTES;

/// A read that was begun, and what it may bring at most.
struct Reading {
    target: Target,
    max_bytes: usize,
    /// Of [`CATCH_UP_BYTES`].
    catch_up_bytes: usize,
    had_one_batch: bool,
    read: Pin<Box<dyn Future<Output = ReadPartition>>>,
    done: Option<ReadPartition>,
}

impl Reading {
    fn begin(shard: &Rc<Shard>, target: Target, limits: Limits, catch_up_bytes: usize) -> Self {
        let read = Box::pin(read_partition(Rc::clone(shard), target, limits));
        let max_bytes = target.asked_bytes().min(limits.max_bytes);
        Reading { target, max_bytes, catch_up_bytes, had_one_batch: limits.min_one_batch, read, done: None }
    }

    /// What it brings, while those behind it go on: none of them may stand still with something that another one waits for.
    async fn answer(&mut self, later: &mut VecDeque<Reading>) -> ReadPartition {
        poll_fn(|cx| {
            self.poll(cx);
            if self.done.is_none() {
                later.iter_mut().for_each(|later| later.poll(cx));
            }
            self.done.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether what is left of the request's limit, which is less than the partition's own, is less than its next batch.
    fn found_no_room_for(&self, answer: &ReadPartition) -> bool {
        answer.is_too_large && (1..self.target.asked_bytes()).contains(&self.max_bytes)
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.done.is_none()
            && let Poll::Ready(read) = self.read.as_mut().poll(cx)
        {
            self.done = Some(read);
        }
    }
}

/// Reads `targets` on this shard. What is begun fits into the limits together; answers are taken in order.
pub(crate) async fn read(
    shard: Rc<Shard>,
    mut targets: Vec<Target>,
    mut limits: Limits,
) -> Vec<ReadPartition> {
    let mut read = Vec::with_capacity(targets.len());
    let mut pace = Pace::new(&shard.io);
    let is_beside_appends = |target: &Target| target.way(&shard) == Way::BesideAppends;
    if limits.takes_turns && targets.len() > CATCH_UPS && targets.iter().any(is_beside_appends) {
        let places = targets.len() as u64;
        targets.rotate_left(usize::try_from(shard.io.random_u64() % places).unwrap_or(0));
    }
    let mut targets = targets.into_iter().peekable();
    let mut readings: VecDeque<Reading> = VecDeque::new();
    let (mut caught_up_bytes, mut segments_have_room) = (0, true);
    loop {
        let begun: usize = readings.iter().map(|reading| reading.max_bytes).sum();
        if readings.len() < READS_IN_FLIGHT
            && let Some(target) = targets.peek().copied()
            && (readings.is_empty() || begun + target.asked_bytes() <= limits.max_bytes)
        {
            let way = target.way(&shard);
            let catch_up_bytes = match way {
                Way::BesideAppends => target.asked_bytes().min(CATCH_UP_READ_BYTES),
                Way::FromMemory | Way::FromSegments => 0,
            };
            let taken: usize = readings.iter().map(|reading| reading.catch_up_bytes).sum();
            let has_room = caught_up_bytes + taken + catch_up_bytes <= CATCH_UP_BYTES || catch_up_bytes == 0;
            let has_turn = has_room && (segments_have_room || way == Way::FromMemory);
            if has_turn || readings.is_empty() {
                targets.next();
                pace.step().await;
                let min_one_batch = limits.min_one_batch && readings.is_empty();
                let max_bytes = if has_turn { limits.max_bytes - begun } else { 0 };
                let limits = Limits { max_bytes, min_one_batch, ..limits };
                readings.push_back(Reading::begin(&shard, target, limits, catch_up_bytes));
                continue;
            }
        }
        let Some(mut reading) = readings.pop_front() else { break };
        let mut answer = reading.answer(&mut readings).await;
        let size_bytes = answer.data.records_size_bytes();
        if size_bytes == 0 && limits.min_one_batch && !reading.had_one_batch {
            // Those before it had nothing, so that it is the first after all. What it waits for those behind it may have.
            reading = Reading::begin(&shard, reading.target, limits, reading.catch_up_bytes);
            answer = reading.answer(&mut readings).await;
        }
        let mut size_bytes = answer.data.records_size_bytes();
        if size_bytes > limits.max_bytes && !limits.min_one_batch {
            // The first batch of all was larger than the limit, and this was begun before that was known.
            answer.data.records.clear();
            (answer.is_cut, size_bytes) = (true, 0);
        }
        limits.max_bytes = limits.max_bytes.saturating_sub(size_bytes);
        limits.min_one_batch &= size_bytes == 0;
        if reading.found_no_room_for(&answer) {
            // Nor would most of those behind it, each of which would have to be read to know.
            (answer.is_cut, segments_have_room) = (true, false);
        }
        if reading.catch_up_bytes > 0 {
            caught_up_bytes += size_bytes;
        }
        read.push(answer);
    }
    read
}

async fn read_partition(shard: Rc<Shard>, target: Target, limits: Limits) -> ReadPartition {
    let place = target.place;
    let index = target.id.partition.0;
    let Some(partition) = shard.partition(&target.id) else {
        let data = FetchedPartition::failed(index, shard.why_missing(&target.id));
        let (visible_end, is_cut, is_too_large, is_hot) = (Offset(0), false, false, false);
        return ReadPartition { place, data, visible_end, is_cut, is_too_large, is_hot };
    };
    let visible_end = partition.visible_end(limits.isolation);
    let Found { data, next_offset, is_hot } = match read_one(&partition, &target, limits, visible_end).await {
        Ok(found) => found,
        Err(error) => Found::without_records(failed(&shard, &partition, index, error), visible_end),
    };
    let has_records = data.records_size_bytes() > 0;
    let is_readable = data.error_code.is_none() && data.diverging_epoch.is_none();
    let has_more = is_readable && next_offset < visible_end;
    let is_cut = has_more && (has_records || limits.max_bytes == 0);
    ReadPartition { place, data, visible_end, is_cut, is_too_large: has_more && !has_records, is_hot }
}

/// What is read of one partition.
struct Found {
    data: FetchedPartition,
    /// The offset after it.
    next_offset: Offset,
    /// Whether it lies in the log's memory.
    is_hot: bool,
}

impl Found {
    fn without_records(data: FetchedPartition, next_offset: Offset) -> Self {
        Found { data, next_offset, is_hot: false }
    }
}

async fn read_one(
    partition: &ShardPartition,
    target: &Target,
    limits: Limits,
    visible_end: Offset,
) -> Result<Found, ErrorCode> {
    let PartitionFetch { fetch_offset, current_leader_epoch, last_fetched_epoch, max_bytes } = target.fetch;
    partition.check_epoch(current_leader_epoch)?;
    let mut data = FetchedPartition {
        high_watermark: partition.high_watermark().0,
        last_stable_offset: partition.last_stable_offset().0,
        log_start_offset: partition.log.watermarks().get().log_start_offset.0,
        ..FetchedPartition::failed(target.id.partition.0, ErrorCode::NONE)
    };
    if limits.isolation == IsolationLevel::ReadCommitted {
        data.aborted_transactions = Some(Vec::new());
    }
    if let Some(diverging) = divergence(partition, fetch_offset, last_fetched_epoch)? {
        data.diverging_epoch = Some(diverging);
        return Ok(Found::without_records(data, Offset(fetch_offset)));
    }
    let watermarks = partition.log.watermarks().get();
    if fetch_offset < watermarks.log_start_offset.0 || fetch_offset > watermarks.log_end_offset.0 {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let max_bytes = usize::try_from(max_bytes).unwrap_or(0).min(limits.max_bytes);
    if fetch_offset >= visible_end.0 || (max_bytes == 0 && !limits.min_one_batch) {
        return Ok(Found::without_records(data, Offset(fetch_offset)));
    }
    let request = ReadRequest {
        offset: Offset(fetch_offset),
        max_bytes,
        min_one_batch: limits.min_one_batch,
        upper_bound: visible_end,
    };
    let read = partition.log.read(request).await.map_err(|error| {
        if !matches!(error, highwater_log::ReadError::OffsetOutOfRange { .. }) {
            tracing::warn!(partition = %target.id, %error, "read failed");
        }
        errors::of_read(&error)
    })?;
    data.records = read.chunks;
    Ok(Found { data, next_offset: read.next_offset, is_hot: read.is_hot })
}

/// Where a follower's log, whose last batch before `fetch_offset` has `last_fetched_epoch`, stops being ours (KIP-595).
fn divergence(
    partition: &ShardPartition,
    fetch_offset: i64,
    last_fetched_epoch: i32,
) -> Result<Option<EpochEndOffset>, ErrorCode> {
    if last_fetched_epoch < 0 {
        return Ok(None);
    }
    let end = partition.log.end_offset_for_epoch(LeaderEpoch(last_fetched_epoch));
    let (epoch, end_offset) = end.ok_or(ErrorCode::OFFSET_OUT_OF_RANGE)?;
    let diverges = epoch.0 < last_fetched_epoch || end_offset.0 < fetch_offset;
    Ok(diverges.then_some(EpochEndOffset { epoch: epoch.0, end_offset: end_offset.0 }))
}

/// An answer without records; one about leadership says who leads.
fn failed(shard: &Shard, partition: &ShardPartition, index: i32, error: ErrorCode) -> FetchedPartition {
    let says_leader = matches!(error, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::FENCED_LEADER_EPOCH);
    let leader = LeaderIdAndEpoch {
        leader_id: shard.broker.config.node_id.0,
        leader_epoch: partition.leader_epoch().0,
    };
    FetchedPartition {
        current_leader: says_leader.then_some(leader),
        ..FetchedPartition::failed(index, error)
    }
}

/// Pieces smaller than this go together into one: to list each for the kernel would cost as much as to copy it.
const JOIN_BELOW_BYTES: usize = 1 << 10;

/// Takes `records`, which lie in the memory of the shard `owner`'s log, out of it where they cannot stay there until they are
/// sent: where more of it would be held than `most_slabs`. Small ones are copied anyway.
pub(crate) fn detach(
    records: Vec<Bytes>,
    pinned: &mut Pinned,
    owner: usize,
    most_slabs: usize,
) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(records.len());
    let mut joined = BytesMut::new();
    for piece in records {
        let stays = piece.len() >= JOIN_BELOW_BYTES && pinned.hold(&piece, owner, most_slabs);
        if !stays {
            joined.extend_from_slice(&piece);
            continue;
        }
        if !joined.is_empty() {
            pieces.push(joined.split().freeze());
        }
        pieces.push(piece);
    }
    if !joined.is_empty() {
        pieces.push(joined.freeze());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::reply::{Pins, SLAB_BYTES, SlabCounts};

    /// Three slabs, and a part of their neighbours; `at` of the second one's bytes.
    fn slabs() -> impl Fn(usize, usize) -> Bytes {
        let memory = Bytes::from(vec![7; 3 * SLAB_BYTES]);
        let start = SLAB_BYTES - memory.as_ptr().addr() % SLAB_BYTES;
        move |from, len| memory.slice(start + from..start + from + len)
    }

    fn counts(shards: usize) -> SlabCounts {
        (0..shards).map(|_| AtomicUsize::new(0)).collect()
    }

    #[test]
    fn small_pieces_and_those_above_the_limit_are_copied() {
        let pins = Rc::new(Pins::new(&counts(1)));
        let at = slabs();
        let records =
            vec![at(0, 4096), at(8192, 10), at(9000, 20), at(10_000, 4096), at(SLAB_BYTES, 4096), at(0, 5)];

        let mut pinned = Pinned::new(&pins);
        let pieces = detach(records.clone(), &mut pinned, 0, 1);
        assert_eq!(pieces.concat(), records.concat());
        let lens: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lens, [4096, 30, 4096, 4101], "the second slab is one too many");
        assert_eq!(pieces[0].as_ptr(), records[0].as_ptr());
        assert_eq!(pieces[2].as_ptr(), records[3].as_ptr());

        let mut another = Pinned::new(&pins);
        assert!(another.hold(&records[0], 0, 1), "what is held already costs nothing");
        assert!(!another.hold(&records[4], 0, 1));
        drop((pinned, another));
        assert!(Pinned::new(&pins).hold(&records[4], 0, 1), "what was let go is free");
    }

    /// Connections of eight shards that took nothing could once hold an eighth each of one shard's memory: all of it.
    #[test]
    fn limit_is_for_the_shard_that_has_the_memory_whoever_holds_it() {
        let counts = counts(2);
        let [here, there] = [0, 1].map(|_| Rc::new(Pins::new(&counts)));
        let at = slabs();
        let mut pinned = Pinned::new(&here);
        assert!(pinned.hold(&at(0, 4096), 1, 1));
        let mut another = Pinned::new(&there);
        assert!(!another.hold(&at(SLAB_BYTES, 4096), 1, 1), "the other shard has it");
        assert!(another.hold(&at(SLAB_BYTES, 4096), 0, 1), "of another owner");
        drop(pinned);
        assert!(Pinned::new(&there).hold(&at(0, 4096), 1, 1));
        drop(another);
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
    }
}

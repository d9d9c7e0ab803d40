//! One read of many partitions, within the limits of a request.
//!
//! Partitions are read in the order of the request until its byte limit is reached; the first that has anything gives
//! at least one batch, however large, so that no client is stuck. Several shards read one after the other, each with what
//! the others left.

use std::rc::Rc;

use bytes::Bytes;
use highwater_log::ReadRequest;
use highwater_model::{LeaderEpoch, Offset, TopicPartition};
use highwater_protocol::ErrorCode;
use highwater_protocol::fetch_response::{EpochEndOffset, FetchedPartition, LeaderIdAndEpoch};

use super::session::PartitionFetch;
use crate::errors;
use crate::pace::Pace;
use crate::partition::{IsolationLevel, ShardPartition};
use crate::shard::Shard;

/// A partition to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Its place in the request.
    pub(crate) place: usize,
    pub(crate) id: TopicPartition,
    pub(crate) fetch: PartitionFetch,
}

/// What may be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_bytes: usize,
    /// Whether nothing was read yet, so that one batch may exceed the limit.
    pub(crate) min_one_batch: bool,
    pub(crate) isolation: IsolationLevel,
}

/// What was read of a partition.
pub(crate) struct ReadPartition {
    pub(crate) place: usize,
    pub(crate) data: FetchedPartition,
    /// The end of what could be read: a waiting fetch waits until it moves.
    pub(crate) visible_end: Offset,
    /// Whether records were read and more follow, which the limits left out.
    pub(crate) is_cut: bool,
}

/// Reads `targets` on this shard.
pub(crate) async fn read(shard: Rc<Shard>, targets: Vec<Target>, mut limits: Limits) -> Vec<ReadPartition> {
    let mut read = Vec::with_capacity(targets.len());
    let mut pace = Pace::new(&shard.io);
    for target in targets {
        pace.step().await;
        let index = target.id.partition.0;
        let Some(partition) = shard.partition(&target.id) else {
            let data = FetchedPartition::failed(index, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            read.push(ReadPartition { place: target.place, data, visible_end: Offset(0), is_cut: false });
            continue;
        };
        let visible_end = partition.visible_end(limits.isolation);
        let (data, next_offset) = match read_one(&partition, &target, limits, visible_end).await {
            Ok(read) => read,
            Err(error) => (failed(&shard, &partition, index, error), visible_end),
        };
        let size_bytes = data.records_size_bytes();
        limits.max_bytes = limits.max_bytes.saturating_sub(size_bytes);
        limits.min_one_batch &= size_bytes == 0;
        let is_cut = size_bytes > 0 && next_offset < visible_end;
        read.push(ReadPartition { place: target.place, data, visible_end, is_cut });
    }
    read
}

/// What is read of one partition, and the offset after it.
async fn read_one(
    partition: &ShardPartition,
    target: &Target,
    limits: Limits,
    visible_end: Offset,
) -> Result<(FetchedPartition, Offset), ErrorCode> {
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
        return Ok((data, Offset(fetch_offset)));
    }
    let watermarks = partition.log.watermarks().get();
    if fetch_offset < watermarks.log_start_offset.0 || fetch_offset > watermarks.log_end_offset.0 {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    let max_bytes = usize::try_from(max_bytes).unwrap_or(0).min(limits.max_bytes);
    if fetch_offset >= visible_end.0 || (max_bytes == 0 && !limits.min_one_batch) {
        return Ok((data, Offset(fetch_offset)));
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
    Ok((data, read.next_offset))
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

/// Pieces smaller than this are copied out of the log's memory: they would keep much more of it from being used again.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// Takes `records` out of the log's memory where they must not stay there until they are sent: small pieces, and
/// everything when `may_pin` bytes are used up. Gives the number of bytes that stay.
pub(crate) fn detach(records: &mut [Bytes], may_pin: usize) -> usize {
    let mut pinned = 0;
    for piece in records {
        if piece.len() < COPY_BELOW_BYTES || pinned + piece.len() > may_pin {
            *piece = Bytes::copy_from_slice(piece);
        } else {
            pinned += piece.len();
        }
    }
    pinned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_and_those_above_the_limit_are_copied() {
        let large = Bytes::from(vec![1; COPY_BELOW_BYTES]);
        let small = Bytes::from(vec![2; 10]);
        let mut records = [large.clone(), small.clone(), large.clone()];
        assert_eq!(detach(&mut records, COPY_BELOW_BYTES), COPY_BELOW_BYTES);
        assert_eq!(records[0].as_ptr(), large.as_ptr());
        assert_ne!(records[1].as_ptr(), small.as_ptr());
        assert_ne!(records[2].as_ptr(), large.as_ptr());
        assert_eq!(records, [large.clone(), small, large]);
    }
}

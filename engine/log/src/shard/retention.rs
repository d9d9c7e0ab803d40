//! Which segments `retention.bytes` and `retention.ms` let go.

use std::rc::Rc;

use highwater_model::{Offset, Timestamp};

use crate::error::{LogError, ReadError};
use crate::mutants;
use crate::partition::Partition;
use crate::partition::segment::Segment;

impl Partition {
    /// Moves the log's start past whole segments that `retention.bytes` and `retention.ms` let go.
    pub(crate) async fn apply_retention(&self) -> Result<(), LogError> {
        let config = self.config();
        if !config.delete_enabled || self.core.check_writable().is_err() {
            return Ok(());
        }
        // What is listed here is all that may go: the log goes on while its segments are looked at.
        let (segments, drain_base): (Vec<Rc<Segment>>, Offset) = {
            let live = self.core.live.borrow();
            let drain_base = live.drain.segment_base;
            (live.segments.range(..drain_base).map(|(_, segment)| Rc::clone(segment)).collect(), drain_base)
        };
        let mut excess = config.retention_bytes.map_or(0, |limit| self.size_bytes().saturating_sub(limit));
        let oldest_kept = config.retention_ms.map(|age| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            self.shard.io.wall_time().as_millis().saturating_sub(age)
        });
        let cuts = self.core.cuts.get();
        let (mut new_start, mut is_over) = (None, true);
        for (index, segment) in segments.iter().enumerate() {
            let lies = mutants::RETENTION_TAKES_TOO_MUCH.is_on() && excess > 0;
            let by_size = (lies || excess >= segment.size_bytes()) && segment.size_bytes() > 0;
            let age = match oldest_kept {
                // Compaction left nothing of it.
                _ if segment.size_bytes() == 0 => Age::Unknown,
                Some(oldest) => self.age_of(segment, oldest).await,
                None => Age::Within,
            };
            excess = excess.saturating_sub(segment.size_bytes());
            match age {
                Age::Within if !by_size => {
                    is_over = false;
                    break;
                }
                Age::Unknown if !by_size => {}
                _ => new_start = Some(segments.get(index + 1).map_or(drain_base, |next| next.base_offset)),
            }
        }
        if is_over
            && let Some(oldest) = oldest_kept
            && let Some(end) = self.end_if_all_expired(drain_base, oldest).await
        {
            new_start = Some(end);
        }
        // What was cut meanwhile has other records at these offsets now.
        if self.core.cuts.get() != cuts {
            return Ok(());
        }
        if let Some(start) = new_start {
            let committed = self.core.watermarks.get().durable_offset;
            tracing::info!(topic = %self.core.topic_name, partition = %self.core.id.partition, %start, "retention");
            self.delete_records_before(start.min(committed)).await?;
        }
        Ok(())
    }

    /// The log's end, where retention leaves no segment but the active one, and every record in that is too old as well.
    async fn end_if_all_expired(&self, start: Offset, oldest: i64) -> Option<Offset> {
        let (segment, end) = {
            let live = self.core.live.borrow();
            let is_whole = live.state.segment_base == live.drain.segment_base;
            if start != live.state.segment_base || !is_whole || live.state.position_bytes == 0 {
                return None;
            }
            (live.segments.get(&start).cloned()?, live.state.next_offset)
        };
        if end <= self.core.watermarks.get().log_start_offset {
            return None;
        }
        // Both before the first wait: what is written into the file meanwhile would be in neither.
        let (in_file, bound, in_memory) = {
            let live = self.core.live.borrow();
            let undrained = live.tail.undrained().next();
            let in_file = undrained.map_or(live.drain.written_bytes, |hot| hot.position_bytes);
            let in_memory = live.tail.undrained().map(|hot| hot.max_timestamp).max();
            (in_file, undrained.map_or(end, |hot| hot.base_offset), in_memory)
        };
        let interval = self.core.config.borrow().index_interval_bytes;
        let (io, direct) = (&self.shard.io, self.shard.direct);
        segment.extend_index(io, direct, in_file, bound, interval).await.ok()?;
        let live = self.core.live.borrow();
        let newest = segment.index.borrow().max_time().map(|newest| newest.timestamp).max(in_memory)?;
        (newest.0 >= 0 && newest.0 < oldest && live.state.next_offset == end).then_some(end)
    }

    /// How a segment's newest record stands to `oldest`.
    async fn age_of(&self, segment: &Rc<Segment>, oldest: i64) -> Age {
        match self.newest_timestamp(segment).await {
            Ok(Some(newest)) if newest.0 < oldest => Age::Over,
            Ok(None) => Age::Unknown,
            Ok(Some(_)) | Err(_) => Age::Within,
        }
    }

    async fn newest_timestamp(&self, segment: &Rc<Segment>) -> Result<Option<Timestamp>, ReadError> {
        let interval = self.core.config.borrow().index_interval_bytes;
        let (size_bytes, bound) = (segment.size_bytes(), self.core.offsets_of(segment).bound);
        let (io, direct) = (&self.shard.io, self.shard.direct);
        segment.extend_index(io, direct, size_bytes, bound, interval).await?;
        Ok(segment.index.borrow().max_time().map(|newest| newest.timestamp).filter(|newest| newest.0 >= 0))
    }
}

/// What `retention.ms` says of a segment.
enum Age {
    /// A record in it is to be kept, or nobody can tell.
    Within,
    Over,
    /// Nothing in it tells a time: records without one, or batches that compaction emptied. It goes with the next that does.
    Unknown,
}

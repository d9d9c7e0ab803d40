//! Which segments `retention.bytes` and `retention.ms` let go.

use std::rc::Rc;

use highwater_model::{Offset, Timestamp};

use crate::error::LogError;
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
        let segments: Vec<Rc<Segment>> = {
            let live = self.core.live.borrow();
            let drain_base = live.drain.segment_base;
            live.segments.range(..drain_base).map(|(_, segment)| Rc::clone(segment)).collect()
        };
        let mut excess = config.retention_bytes.map_or(0, |limit| self.size_bytes().saturating_sub(limit));
        let oldest_kept = config.retention_ms.map(|age| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            self.shard.io.wall_time().as_millis().saturating_sub(age)
        });
        let mut new_start = None;
        for (index, segment) in segments.iter().enumerate() {
            let lies = mutants::RETENTION_TAKES_TOO_MUCH.is_on() && excess > 0;
            let by_size = (lies || excess >= segment.size_bytes()) && segment.size_bytes() > 0;
            let by_time = match oldest_kept {
                // Compaction left nothing of it.
                Some(_) if segment.size_bytes() == 0 => true,
                Some(oldest) => self.newest_timestamp(segment).await.is_some_and(|newest| newest.0 < oldest),
                None => false,
            };
            if !by_size && !by_time {
                break;
            }
            excess = excess.saturating_sub(segment.size_bytes());
            let next = segments.get(index + 1).map(|next| next.base_offset);
            new_start = Some(next.unwrap_or_else(|| self.core.live.borrow().drain.segment_base));
        }
        if let Some(oldest) = oldest_kept
            && let Some(end) = self.end_if_all_expired(new_start, oldest).await
        {
            new_start = Some(end);
        }
        if let Some(start) = new_start {
            let committed = self.core.watermarks.get().durable_offset;
            tracing::info!(topic = %self.core.topic_name, partition = %self.core.id.partition, %start, "retention");
            self.delete_records_before(start.min(committed)).await?;
        }
        Ok(())
    }

    /// The log's end, where retention leaves no segment but the active one, and every record in that is too old as well.
    async fn end_if_all_expired(&self, new_start: Option<Offset>, oldest: i64) -> Option<Offset> {
        let (segment, end) = {
            let live = self.core.live.borrow();
            let first = live.segments.keys().next().copied();
            let start = new_start.or(first)?;
            let is_whole = live.state.segment_base == live.drain.segment_base;
            if start != live.state.segment_base || !is_whole || live.state.position_bytes == 0 {
                return None;
            }
            (live.segments.get(&start).cloned()?, live.state.next_offset)
        };
        if end <= self.core.watermarks.get().log_start_offset {
            return None;
        }
        let (in_file, bound) = {
            let live = self.core.live.borrow();
            let undrained = live.tail.undrained().next();
            let in_file = undrained.map_or(live.drain.written_bytes, |hot| hot.position_bytes);
            (in_file, undrained.map_or(end, |hot| hot.base_offset))
        };
        let interval = self.core.config.borrow().index_interval_bytes;
        let (io, direct) = (&self.shard.io, self.shard.direct);
        segment.extend_index(io, direct, in_file, bound, interval).await.ok()?;
        let live = self.core.live.borrow();
        let in_memory = live.tail.undrained().map(|hot| hot.max_timestamp).max();
        let newest = segment.index.borrow().max_time().map(|newest| newest.timestamp).max(in_memory)?;
        (newest.0 >= 0 && newest.0 < oldest && live.state.next_offset == end).then_some(end)
    }

    async fn newest_timestamp(&self, segment: &Rc<Segment>) -> Option<Timestamp> {
        let interval = self.core.config.borrow().index_interval_bytes;
        let (size_bytes, bound) = (segment.size_bytes(), self.core.offsets_of(segment).bound);
        let (io, direct) = (&self.shard.io, self.shard.direct);
        segment.extend_index(io, direct, size_bytes, bound, interval).await.ok()?;
        segment.index.borrow().max_time().map(|newest| newest.timestamp).filter(|newest| newest.0 >= 0)
    }
}

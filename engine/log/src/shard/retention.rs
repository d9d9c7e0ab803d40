//! Which segments `retention.bytes` and `retention.ms` let go.

use std::rc::Rc;

use highwater_model::Timestamp;

use crate::error::LogError;
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
            let by_size = excess >= segment.size_bytes() && segment.size_bytes() > 0;
            let by_time = match oldest_kept {
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
        if let Some(start) = new_start {
            let committed = self.core.watermarks.get().durable_offset;
            tracing::info!(topic = %self.core.topic_name, partition = %self.core.id.partition, %start, "retention");
            self.delete_records_before(start.min(committed)).await?;
        }
        Ok(())
    }

    async fn newest_timestamp(&self, segment: &Rc<Segment>) -> Option<Timestamp> {
        self.shard.note_open(segment);
        let interval = self.core.config.borrow().index_interval_bytes;
        let (size_bytes, bound) = (segment.size_bytes(), self.core.offsets_of(segment).bound);
        let (io, direct) = (&self.shard.io, self.shard.direct);
        segment.extend_index(io, direct, size_bytes, bound, interval).await.ok()?;
        segment.index.borrow().max_time().map(|newest| newest.timestamp).filter(|newest| newest.0 >= 0)
    }
}

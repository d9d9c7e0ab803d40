//! The leader-epoch cache: at which offset each leadership began. Kafka's `LeaderEpochFileCache`.

use highwater_model::{LeaderEpoch, Offset};

/// One leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochStart {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) start_offset: Offset,
}

/// Leaderships in order; both fields rise strictly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EpochCache {
    starts: Vec<EpochStart>,
}

impl EpochCache {
    pub(crate) fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// Notes that `epoch` begins at `offset`, with or without an append. A cache that knew later epochs or offsets forgets them: it follows the
    /// log, which was truncated below.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) {
        if self.latest().is_some_and(|latest| latest.epoch == epoch && latest.start_offset <= start_offset) {
            return;
        }
        self.starts.retain(|known| known.epoch < epoch && known.start_offset < start_offset);
        self.starts.push(EpochStart { epoch, start_offset });
    }

    pub(crate) fn latest(&self) -> Option<EpochStart> {
        self.starts.last().copied()
    }

    /// Forgets what began at or after `end`.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) {
        self.starts.retain(|known| known.start_offset < end);
    }

    /// Forgets what ended before `start`, and lets the one that covers it begin there.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) {
        let covering = self.starts.iter().rposition(|known| known.start_offset <= start);
        if let Some(covering) = covering {
            self.starts.drain(..covering);
            self.starts[0].start_offset = self.starts[0].start_offset.max(start);
        }
    }

    /// The largest epoch not above `epoch`, and the offset at which it ended (KIP-101, KIP-279).
    pub(crate) fn end_offset_for(
        &self,
        epoch: LeaderEpoch,
        log_end_offset: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.latest()?;
        if epoch < LeaderEpoch(0) {
            return None;
        }
        if epoch == latest.epoch {
            return Some((epoch, log_end_offset));
        }
        let higher = self.starts.iter().find(|known| known.epoch > epoch)?;
        let floor = self.starts.iter().rev().find(|known| known.epoch <= epoch);
        Some((floor.map_or(epoch, |floor| floor.epoch), higher.start_offset))
    }

    /// Epoch of the record at `offset`.
    pub(crate) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.starts.iter().rev().find(|known| known.start_offset <= offset).map(|known| known.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(starts: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::default();
        starts.iter().for_each(|&(epoch, offset)| cache.assign(LeaderEpoch(epoch), Offset(offset)));
        cache
    }

    #[test]
    fn end_offset_is_that_of_the_floor_epoch() {
        let cache = cache(&[(2, 0), (4, 10), (7, 30)]);
        let end = |epoch| cache.end_offset_for(LeaderEpoch(epoch), Offset(50)).map(|(e, o)| (e.0, o.0));
        assert_eq!(end(7), Some((7, 50)), "the latest ends at the log's end");
        assert_eq!(end(4), Some((4, 30)));
        assert_eq!(end(5), Some((4, 30)), "an epoch that never appended ends with its floor");
        assert_eq!(end(1), Some((1, 0)), "an epoch before all ends where the first began");
        assert_eq!(end(8), None, "an epoch that is to come");
    }

    #[test]
    fn truncation_forgets_from_both_sides() {
        let mut cache = cache(&[(2, 0), (4, 10), (7, 30)]);
        cache.truncate_from_end(Offset(30));
        assert_eq!(cache.latest().map(|s| s.epoch.0), Some(4));
        cache.truncate_from_start(Offset(15));
        assert_eq!(cache.starts(), [EpochStart { epoch: LeaderEpoch(4), start_offset: Offset(15) }]);
        assert_eq!(cache.epoch_at(Offset(20)), Some(LeaderEpoch(4)));
    }

    #[test]
    fn assign_below_a_known_start_replaces_it() {
        let mut cache = cache(&[(2, 0), (4, 10)]);
        cache.assign(LeaderEpoch(5), Offset(10));
        assert_eq!(cache.starts().len(), 2);
        assert_eq!(cache.epoch_at(Offset(12)), Some(LeaderEpoch(5)));
        cache.assign(LeaderEpoch(5), Offset(40));
        assert_eq!(cache.starts().len(), 2, "the same leadership goes on");
    }
}

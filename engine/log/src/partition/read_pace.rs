//! How much is read from segments at once. A device does first what it was asked for first: a flush that comes to it behind eight
//! reads of a megabyte waits for all of them. So those who catch up go deep while nobody appends, and one small read at a time
//! beside appends.

use std::cell::Cell;
use std::time::Duration;

use highwater_io::MonoTime;
use highwater_io::sync::{Permit, Semaphore};

/// Under way at once while nothing is appended: enough for a device that is far away.
const MOST_UNDER_WAY_BYTES: usize = 8 << 20;

/// Under way at once beside appends: on a device of 2 GB/s a flush waits for an eighth of a millisecond at most.
const BESIDE_APPENDS_BYTES: usize = 256 << 10;

/// So long after the last group was seen to be written nobody appends.
const QUIET_AFTER: Duration = Duration::from_millis(100);

/// The reads from segments of one shard and directory.
pub(crate) struct ReadPace {
    room: Semaphore,
    /// How far the journal was written when somebody looked, and when that was first seen.
    written: Cell<(u64, MonoTime)>,
}

impl ReadPace {
    pub(crate) fn new(now: MonoTime) -> Self {
        ReadPace { room: Semaphore::new(MOST_UNDER_WAY_BYTES), written: Cell::new((0, now)) }
    }

    /// Whether groups are being written, of which the newest that is has this sequence. While some wait to be there are: a device that
    /// stands still is not to be asked for more.
    pub(super) fn has_appends(&self, written_through: u64, some_wait: bool, now: MonoTime) -> bool {
        let (through, since) = self.written.get();
        if through != written_through || some_wait {
            self.written.set((written_through, now));
            return true;
        }
        through > 0 && now - since < QUIET_AFTER
    }

    /// The pace of one read.
    pub(super) fn of_read(&self, has_appends: bool) -> Paced<'_> {
        Paced { pace: self, has_appends }
    }
}

/// One read, piece by piece.
#[derive(Clone, Copy)]
pub(crate) struct Paced<'a> {
    pace: &'a ReadPace,
    has_appends: bool,
}

impl Paced<'_> {
    /// How much of `missing_bytes` the next piece takes. A small rest goes with the last.
    pub(super) fn piece_bytes(self, missing_bytes: usize) -> usize {
        let is_last = missing_bytes < BESIDE_APPENDS_BYTES + BESIDE_APPENDS_BYTES / 4;
        if is_last || !self.has_appends { missing_bytes } else { BESIDE_APPENDS_BYTES }
    }

    /// Waits until `len_bytes` may be read. More than may be under way is read alone.
    pub(super) async fn begin(self, len_bytes: usize) -> Permit {
        let weight = if self.has_appends { MOST_UNDER_WAY_BYTES / BESIDE_APPENDS_BYTES } else { 1 };
        self.pace.room.acquire(len_bytes.saturating_mul(weight)).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    /// Bytes under way when one more read has to wait.
    fn under_way(has_appends: bool, len_bytes: usize) -> usize {
        let pace = ReadPace::new(MonoTime::default());
        let begun = std::iter::from_fn(|| now_or_never(pace.of_read(has_appends).begin(len_bytes)));
        begun.collect::<Vec<Permit>>().len() * len_bytes
    }

    #[test]
    fn beside_appends_less_is_under_way() {
        assert_eq!(under_way(false, 256 << 10), MOST_UNDER_WAY_BYTES);
        assert_eq!(under_way(true, 64 << 10), BESIDE_APPENDS_BYTES);
        assert_eq!(under_way(true, BESIDE_APPENDS_BYTES), BESIDE_APPENDS_BYTES);
        // One that is larger than all of it goes alone.
        assert_eq!(under_way(false, 64 << 20), 64 << 20);
        assert_eq!(under_way(true, 4 << 20), 4 << 20);
    }

    #[test]
    fn read_beside_appends_goes_in_pieces_and_a_small_rest_with_the_last() {
        let pace = ReadPace::new(MonoTime::default());
        let pieces = |has_appends, len_bytes: usize| {
            let mut missing = len_bytes;
            let mut next = || {
                let piece = pace.of_read(has_appends).piece_bytes(missing);
                missing -= piece;
                (piece > 0).then_some(piece)
            };
            std::iter::from_fn(&mut next).collect::<Vec<usize>>()
        };
        assert_eq!(pieces(false, 4 << 20), [4 << 20]);
        let quarter = 256 << 10;
        assert_eq!(pieces(true, (1 << 20) + 4096), [quarter, quarter, quarter, quarter + 4096]);
        assert_eq!(pieces(true, quarter + (quarter / 2)), [quarter, quarter / 2]);
    }

    #[test]
    fn nobody_appends_once_the_journal_stood_still_for_a_while() {
        let begin = MonoTime::default();
        let pace = ReadPace::new(begin);
        assert!(!pace.has_appends(0, false, begin));
        assert!(pace.has_appends(1, false, begin));
        let soon = begin + QUIET_AFTER / 2;
        assert!(pace.has_appends(1, false, soon));
        assert!(pace.has_appends(2, false, soon));
        assert!(pace.has_appends(2, false, begin + QUIET_AFTER));
        assert!(!pace.has_appends(2, false, soon + QUIET_AFTER));
    }

    #[test]
    fn appends_that_wait_for_the_device_are_appends() {
        let begin = MonoTime::default();
        let pace = ReadPace::new(begin);
        assert!(pace.has_appends(0, true, begin));
        let later = begin + 10 * QUIET_AFTER;
        assert!(pace.has_appends(0, true, later));
        assert!(pace.has_appends(1, false, later + QUIET_AFTER / 2));
        assert!(!pace.has_appends(1, false, later + 2 * QUIET_AFTER));
    }
}

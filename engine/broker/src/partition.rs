//! A partition as its shard serves it: the log, who appends next, and how far consumers may read.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use highwater_io::sync::{Acquire, Permit, Semaphore};
use highwater_log::{LogConfig, Partition};
use highwater_model::{LeaderEpoch, Offset};
use highwater_protocol::ErrorCode;

/// A partition that this shard leads.
pub(crate) struct ShardPartition {
    pub(crate) log: Partition,
    log_dir: usize,
    turn: Semaphore,
    leader_epoch: Cell<LeaderEpoch>,
    is_durable_ack: Cell<bool>,
    recompresses: Cell<bool>,
    min_in_sync_replicas: Cell<usize>,
    high_watermark: Cell<Offset>,
}

/// What the settings of a topic mean for its partitions.
#[derive(Debug, Clone)]
pub(crate) struct PartitionConfig {
    pub(crate) log: LogConfig,
    /// `min.insync.replicas`.
    pub(crate) min_in_sync_replicas: usize,
}

impl ShardPartition {
    /// Begins to lead a partition, whose log is in the directory with the index `log_dir` and has the settings already.
    pub(crate) fn new(
        log: Partition,
        log_dir: usize,
        leader_epoch: LeaderEpoch,
        config: &PartitionConfig,
    ) -> Self {
        log.begin_epoch(leader_epoch);
        ShardPartition {
            log,
            log_dir,
            turn: Semaphore::new(1),
            leader_epoch: Cell::new(leader_epoch),
            is_durable_ack: Cell::new(config.log.is_durable_ack()),
            recompresses: Cell::new(config.log.compression.is_some()),
            min_in_sync_replicas: Cell::new(config.min_in_sync_replicas),
            high_watermark: Cell::new(Offset(0)),
        }
    }

    /// Index of the log directory that has it.
    pub(crate) fn log_dir(&self) -> usize {
        self.log_dir
    }

    /// Changes the settings at once. Whether there is something unflushed that the new ones want flushed.
    #[must_use]
    pub(crate) fn set_config(&self, config: PartitionConfig) -> bool {
        self.is_durable_ack.set(config.log.is_durable_ack());
        self.recompresses.set(config.log.compression.is_some());
        self.min_in_sync_replicas.set(config.min_in_sync_replicas);
        self.log.set_config(config.log);
        // What consumers may read may have moved.
        self.log.watermarks().update(|_| ());
        let watermarks = self.log.watermarks().get();
        self.is_durable_ack.get() && watermarks.durable_offset < watermarks.log_end_offset
    }

    /// Whether batches may be stored in another codec than they came in.
    pub(crate) fn recompresses(&self) -> bool {
        self.recompresses.get()
    }

    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch.get()
    }

    /// How many replicas must be in sync for a produce with acks=all.
    pub(crate) fn min_in_sync_replicas(&self) -> usize {
        self.min_in_sync_replicas.get()
    }

    /// A place in the line of those who append, taken now: batches go in the order in which places were taken.
    pub(crate) fn take_turn(&self) -> Turn {
        Turn::take(&self.turn)
    }

    /// The offset below which consumers may read: with one replica, what is as safe as the partition's own flush policy
    /// asks. Never goes back, not even when the policy becomes stricter.
    pub(crate) fn high_watermark(&self) -> Offset {
        let watermarks = self.log.watermarks().get();
        let safe =
            if self.is_durable_ack.get() { watermarks.durable_offset } else { watermarks.log_end_offset };
        let high_watermark = safe.max(self.high_watermark.get()).max(watermarks.log_start_offset);
        self.high_watermark.set(high_watermark);
        high_watermark
    }

    /// The offset below which no transaction is open. There are none yet.
    pub(crate) fn last_stable_offset(&self) -> Offset {
        self.high_watermark()
    }

    /// The offset below which a reader of this isolation level may read.
    pub(crate) fn visible_end(&self, isolation: IsolationLevel) -> Offset {
        match isolation {
            IsolationLevel::ReadUncommitted => self.high_watermark(),
            IsolationLevel::ReadCommitted => self.last_stable_offset(),
        }
    }

    /// Whether a reader who has seen everything below `end` can read more.
    pub(crate) fn has_more_than(&self, end: Offset, isolation: IsolationLevel) -> bool {
        self.visible_end(isolation) > end
    }

    /// Checks the leader epoch that a client believes in, −1 for none.
    pub(crate) fn check_epoch(&self, current_leader_epoch: i32) -> Result<(), ErrorCode> {
        let ours = self.leader_epoch.get().0;
        if current_leader_epoch < 0 || current_leader_epoch == ours {
            Ok(())
        } else if current_leader_epoch < ours {
            Err(ErrorCode::FENCED_LEADER_EPOCH)
        } else {
            Err(ErrorCode::UNKNOWN_LEADER_EPOCH)
        }
    }
}

/// Which records a reader wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IsolationLevel {
    /// All below the high watermark.
    ReadUncommitted,
    /// Those below the last stable offset.
    ReadCommitted,
}

impl IsolationLevel {
    /// From the number on the wire.
    pub(crate) fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(IsolationLevel::ReadUncommitted),
            1 => Some(IsolationLevel::ReadCommitted),
            _ => None,
        }
    }
}

/// A place in a line; awaiting it gives the turn itself.
#[derive(Debug)]
pub(crate) enum Turn {
    Come(Option<Permit>),
    Waiting(Acquire),
}

impl Turn {
    fn take(line: &Semaphore) -> Turn {
        if let Some(permit) = line.try_acquire(1) {
            return Turn::Come(Some(permit));
        }
        // The semaphore puts whoever waits into its queue at the first poll.
        let mut acquire = line.acquire(1);
        match Pin::new(&mut acquire).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Turn::Come(Some(permit)),
            Poll::Pending => Turn::Waiting(acquire),
        }
    }
}

impl Future for Turn {
    type Output = Permit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        match self.get_mut() {
            Turn::Come(permit) => Poll::Ready(permit.take().expect("a turn is awaited once")),
            Turn::Waiting(acquire) => Pin::new(acquire).poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_once(turn: &mut Turn) -> Poll<Permit> {
        Pin::new(turn).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn turns_come_in_the_order_of_taking_however_they_are_polled() {
        let line = Semaphore::new(1);
        let mut first = Turn::take(&line);
        let mut second = Turn::take(&line);
        let mut third = Turn::take(&line);
        let Poll::Ready(permit) = poll_once(&mut first) else { panic!("the first has its turn") };
        assert!(poll_once(&mut third).is_pending());
        assert!(poll_once(&mut second).is_pending());
        drop(permit);
        assert!(poll_once(&mut third).is_pending());
        let Poll::Ready(permit) = poll_once(&mut second) else { panic!("the second has its turn") };
        drop(permit);
        assert!(poll_once(&mut third).is_ready());
    }

    #[test]
    fn place_that_is_given_up_does_not_block_the_line() {
        let line = Semaphore::new(1);
        let first = Turn::take(&line);
        let second = Turn::take(&line);
        let mut third = Turn::take(&line);
        drop(second);
        drop(first);
        assert!(poll_once(&mut third).is_ready());
    }
}

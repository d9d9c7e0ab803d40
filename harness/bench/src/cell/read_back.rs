//! What a cell's log came to: waits until it stands still, then everything is read back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use highwater_checker::{self as checker, Isolation, Offset, PartitionId, Reading};

use super::{CellError, LOOK_INTERVAL, Loaded, TOPIC, Trial, contract};
use crate::broker::admin::{self, EARLIEST, LATEST};
use crate::broker::process::Broker;
use crate::broker::wire::WireError;
use crate::final_read::{Source, final_read};
use crate::workload::settings::Acks;

/// With acks=0 the log is taken to be complete once it has not grown for so long.
const QUIET: Duration = Duration::from_millis(500);
const QUIET_WITHIN: Duration = Duration::from_secs(30);
/// A process whose sockets are closed is over within this time, if that is why they are.
const ENDED_WITHIN: Duration = Duration::from_secs(2);

impl Trial<'_> {
    /// Where retention deletes, log starts may still move, and a reader that is at one of them would fall off.
    pub(super) fn wait_for_retention(&self) -> Result<(), CellError> {
        if !self.topic_settings.contains_key(contract::RETENTION_BYTES) {
            return Ok(());
        }
        let deadline = Instant::now() + QUIET_WITHIN;
        let (mut last, mut since) = (Vec::new(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < deadline {
            // A broker that does not say has its answer in the final read.
            let Ok(starts) = self.ends(EARLIEST) else { return Ok(()) };
            if starts != last {
                (last, since) = (starts, Instant::now());
            }
            self.bench.cancel.wait(LOOK_INTERVAL)?;
        }
        Ok(())
    }

    fn ends(&self, which: i64) -> Result<Vec<Result<i64, i16>>, WireError> {
        admin::log_ends(&mut self.connect()?, TOPIC, self.partitions(), 0, which)
    }

    /// The ends of those partitions that tell them.
    pub(super) fn log_ends(&self) -> Result<Vec<(checker::PartitionIndex, Offset)>, WireError> {
        let placed = (0..).zip(self.ends(LATEST)?).filter_map(|(partition, end)| {
            Some((self.layout.index(PartitionId { topic: 0, partition })?, Offset(end.ok()?)))
        });
        Ok(placed.collect())
    }

    /// With acks=0 the broker may still be working on what left the client long ago.
    pub(super) fn wait_until_quiet(&self, loaded: &Loaded) -> Result<(), CellError> {
        if self.cell.settings.acks != Acks::Zero {
            return Ok(());
        }
        let attempts = i64::try_from(loaded.done.ledger.attempts()).unwrap_or(i64::MAX);
        let deadline = Instant::now() + QUIET_WITHIN;
        let (mut last, mut since) = (-1, Instant::now());
        loop {
            let Ok(ends) = self.log_ends() else { return Ok(()) };
            let total: i64 = ends.iter().map(|(_, end)| end.0).sum();
            if total != last {
                (last, since) = (total, Instant::now());
            }
            if total >= attempts || since.elapsed() >= QUIET || Instant::now() >= deadline {
                return Ok(());
            }
            self.bench.cancel.wait(LOOK_INTERVAL)?;
        }
    }

    /// What both readers find where nobody answers.
    pub(super) fn nothing_read(&self, why: &str) -> Vec<Reading> {
        let read = |isolation| {
            let reader = checker::Reader { isolation, ..checker::Reader::FINAL };
            Reading::unserved(reader, self.run, &self.layout, why)
        };
        [Isolation::ReadUncommitted, Isolation::ReadCommitted].map(read).into()
    }

    /// Both isolation levels at once: they share nothing but the broker.
    pub(super) fn read_back(&self, broker: &mut Broker) -> Result<Vec<Reading>, CellError> {
        let address = broker.address();
        // Whichever reader meets the end, it is the end for both.
        let seen = Mutex::new((broker, None));
        let ended = || {
            let (broker, how) = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
            let why = broker.wait_ended(ENDED_WITHIN)?.of_the_broker()?;
            *how = Some(format!("before everything was read back, {why}"));
            how.clone()
        };
        let source = Source {
            address,
            topic: TOPIC,
            partitions: self.partitions(),
            run: self.run,
            layout: &self.layout,
            ended: &ended,
        };
        let read = |isolation| final_read(&source, isolation, self.bench.cancel);
        let (uncommitted, committed) = std::thread::scope(|scope| {
            let committed = scope.spawn(|| read(Isolation::ReadCommitted));
            let uncommitted = read(Isolation::ReadUncommitted);
            (uncommitted, committed.join().expect("a reader does not panic"))
        });
        let mut readings = vec![uncommitted?, committed?];
        if let (_, Some(how)) = seen.into_inner().unwrap_or_else(PoisonError::into_inner) {
            readings.iter_mut().for_each(|reading| reading.broke_off(&how));
        }
        Ok(readings)
    }
}

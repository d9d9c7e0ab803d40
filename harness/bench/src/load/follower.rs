//! One consumer thread: reads along from the log's start, and notes what the broker showed it and when.
//!
//! What a consumer has seen cannot be taken back. A record that is gone after a fault although somebody had read it is
//! worse than one that nobody saw, and only who was there can tell.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use highwater_checker::{
    DecodeError, Identity, Isolation, Layout, Offset, PartitionId, PartitionIndex, Polls, RunId,
};
use highwater_client::consumer::{ConsumerCore, ConsumerError, ConsumerEvent, FetchedRecords, StartAt};
use highwater_client::{AutoOffsetReset, ConsumerConfig, Partition};

use super::turn::Turner;
use super::{LoadError, Plan, Signals, follower_seed, producer};
use crate::clock::Clock;

/// A consumer looks for signals at least so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// When the producers are done it reads what was acknowledged, at most for so long.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(10);
/// Where nothing was acknowledged, until nothing new came for so long.
const QUIET: Duration = Duration::from_millis(200);
/// `fetch.max.wait.ms`, short, so that one that has nothing to read ends soon.
const FETCH_MAX_WAIT: Duration = Duration::from_millis(100);
const BATCH_DAMAGED: &str = "a consumer cannot read its batch";
const RECORD_DAMAGED: &str = "a record breaks its format in a batch whose checksum is right";

/// Follows the topic until the load is aborted, or its producers are done and it has caught up.
pub(super) fn run(plan: &Plan, index: u32, signals: &Signals) -> Result<Polls, LoadError> {
    let mut config = ConsumerConfig::new(vec![producer::host_port(plan.address)]);
    config.client.client_id = "highwater-bench".to_owned();
    config.client.request_timeout = plan.cell.timing.request_timeout;
    config.fetch_max_wait = FETCH_MAX_WAIT;
    config.auto_offset_reset = AutoOffsetReset::Earliest;
    let mut core = ConsumerCore::new(config, follower_seed(&plan.cell, index).0)?;
    let topic = core.topic(&plan.topic);
    for index in (0..plan.cell.settings.partitions).map(highwater_model::PartitionIndex) {
        core.assign(Partition { topic, index }, StartAt::Earliest);
    }
    let mut turner = Turner::new(plan.clock);
    let mut seen = Seen::new(plan, index);
    let mut sent_since = None;
    let mut last_news = Instant::now();
    loop {
        // Before the turn: what it still finds is taken.
        let aborted = signals.abort.load(Ordering::Acquire);
        let wait = if aborted { Duration::ZERO } else { LOOK_INTERVAL };
        turner.turn(&mut core, plan.clock.mono() + wait)?;
        if seen.take_all(&mut core) {
            last_news = Instant::now();
        }
        if aborted {
            return Ok(seen.polls);
        }
        let Some(ends) = signals.sent.get() else { continue };
        let is_read = |&(place, end): &(PartitionIndex, Offset)| {
            let index = plan.layout.id(place).partition.cast_signed();
            let partition = Partition { topic, index: highwater_model::PartitionIndex(index) };
            core.position(partition).is_some_and(|position| position.0 >= end.0)
        };
        let is_done = match ends.as_slice() {
            [] => last_news.elapsed() >= QUIET,
            ends => ends.iter().all(is_read),
        };
        if is_done || sent_since.get_or_insert_with(Instant::now).elapsed() >= CATCH_UP_WITHIN {
            return Ok(seen.polls);
        }
    }
}

/// What was seen so far.
struct Seen {
    polls: Polls,
    run: RunId,
    layout: Layout,
    clock: Clock,
}

impl Seen {
    fn new(plan: &Plan, index: u32) -> Self {
        let layout = plan.layout.clone();
        let polls = Polls::new(index, Isolation::ReadUncommitted, plan.run, &layout);
        Seen { polls, run: plan.run, layout, clock: plan.clock }
    }

    /// Whether there was anything.
    fn take_all(&mut self, core: &mut ConsumerCore) -> bool {
        let mut news = false;
        while let Some(event) = core.pop_event() {
            let Some(place) = self.place(event.partition()) else { continue };
            news = true;
            match event {
                ConsumerEvent::Records(records) => self.take(place, &records),
                ConsumerEvent::Positioned { .. } | ConsumerEvent::Reset { .. } => self.polls.restarted(place),
                // Not read on: a consumer would meet the same at the same place again.
                ConsumerEvent::Stopped { at, error: ConsumerError::Batch(_), .. } => {
                    self.damaged(place, at.map_or(0, |at| at.0), BATCH_DAMAGED);
                }
                // What a broker refuses for good, the final read is refused, too.
                ConsumerEvent::Stopped { .. } => {}
            }
        }
        news
    }

    fn take(&mut self, place: PartitionIndex, records: &FetchedRecords) {
        let polled_at = self.clock.now();
        let mut expected = records.offsets().start.0;
        for batch in records.batches() {
            let Ok(batch) = batch else { return self.damaged(place, expected, BATCH_DAMAGED) };
            for record in batch.records() {
                let Ok(record) = record else { return self.damaged(place, expected, RECORD_DAMAGED) };
                expected = record.offset.0 + 1;
                let identity = Identity::decode(record.value().unwrap_or_default(), self.run);
                self.polls.record(place, Offset(record.offset.0), identity, polled_at);
            }
        }
    }

    fn damaged(&mut self, place: PartitionIndex, offset: i64, why: &'static str) {
        self.polls.record(place, Offset(offset), Err(DecodeError::Unreadable { why }), self.clock.now());
    }

    fn place(&self, partition: Partition) -> Option<PartitionIndex> {
        let partition = u32::try_from(partition.index.0).ok()?;
        self.layout.index(PartitionId { topic: 0, partition })
    }
}

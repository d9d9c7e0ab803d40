//! The work that is recorded: several lives of a process on the real driver, on files so small that a short run laps the
//! journal, rolls, makes checkpoints, settles blocks, truncates, moves starts, retains, compacts, deletes and creates topics.

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use highwater_io::{Io, Runtime, RuntimeConfig};
#[cfg(feature = "mutants")]
use highwater_log::mutants::Mutant;
use highwater_log::{LogConfig, Origin, Partition, ShardLogs};
use highwater_model::batch::ProducerStamp;
use highwater_model::{LeaderEpoch, Offset, TopicPartition};

use crate::common::{batch_of, options, small_log};
use crate::compaction::{compacted_log, keyed_batch};
use crate::judge::{find, find_all, open_unlocked};
use crate::ledger::{Ledger, Noted, Operation, now, value};

/// Written on one thread after the other, never on two at once.
pub(crate) type SharedLedger = Arc<Mutex<Ledger>>;

pub(crate) fn lock(ledger: &SharedLedger) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All partitions at once, everything that can be done with a log.
    Everything,
    /// One log, again and again: a checkpoint settles the block in which it ends, and what follows is written behind into that
    /// block; every other time without a flush, and then the process dies.
    SettledBlocks,
    /// One log of few keys, compacted again and again; each life but the last ends within a pass.
    Compaction,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    pub(crate) seed: u64,
    /// How often the process starts; all but the last time it dies in the middle of its work.
    pub(crate) lives: u32,
    /// Operations of each partition in each life.
    pub(crate) operations: u32,
    #[cfg(feature = "mutants")]
    pub(crate) mutant: Option<Mutant>,
}

/// The six partitions, and what each is there for.
const DURABLE: i32 = 0;
const RETAINED: i32 = 1;
/// Changes between durable and unflushed acknowledgements.
const MIXED: i32 = 2;
const EVERY_FOURTH: i32 = 3;
/// Is deleted and created again and again.
const SHORT_LIVED: i32 = 4;
/// Holds records with keys, of which compaction leaves the last.
const COMPACTED: i32 = 5;
const PARTITIONS: i32 = 6;

#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// Does the work in `dir`, and gives what was asked and answered.
pub(crate) fn run(work: &Work, dir: &Path) -> Ledger {
    let ledger = SharedLedger::default();
    for life in 0..work.lives {
        let state = (work.clone(), life, dir.to_owned(), Arc::clone(&ledger));
        let runtime = Runtime::start(&RuntimeConfig::default(), vec![state], live);
        if let Err(panic) = runtime.expect("io_uring is available").join() {
            let message = panic.downcast_ref::<String>().cloned();
            lock(&ledger).violate(format!("the process died by itself: {message:?}"));
        }
    }
    std::mem::take(&mut lock(&ledger))
}

async fn live(io: Io, (work, life, dir, ledger): (Work, u32, PathBuf, SharedLedger)) {
    #[cfg(feature = "mutants")]
    let _lying = work.mutant.map(Mutant::enable);
    let data_dir = dir;
    let (mut dir, report) = open_unlocked(&io, &data_dir, options()).await.expect("the directory opens");
    let seed = dir.split(1, |_, _| 0).await.expect("a new generation").pop().expect("one shard");
    let logs = ShardLogs::start(&io, seed).await.expect("the shard starts");
    if !report.fenced.is_empty() || !report.strays.is_empty() {
        lock(&ledger).violate(format!("a start after the death of the process reports damage: {report:?}"));
        return;
    }
    match find_all(&logs).await {
        Ok(found) => lock(&ledger).recovered(&found),
        Err(what) => lock(&ledger).violate(what),
    }
    let partitions = match work.kind {
        Kind::Everything => 0..PARTITIONS,
        Kind::SettledBlocks => MIXED..MIXED + 1,
        Kind::Compaction => COMPACTED..COMPACTED + 1,
    };
    let worker = |partition: i32| {
        let seed = work.seed << 20 | u64::from(life) << 8 | u64::from(partition.unsigned_abs());
        let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Worker { io: io.clone(), logs: logs.clone(), ledger: Arc::clone(&ledger), partition, dice }
    };
    let workers: Vec<_> = partitions
        .map(|partition| {
            let worker = worker(partition);
            let (kind, operations) = (work.kind, work.operations);
            io.spawn(async move {
                match kind {
                    Kind::Everything | Kind::Compaction => worker.work(operations).await,
                    Kind::SettledBlocks => worker.settle_blocks(operations).await,
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await;
    }
    if work.kind != Kind::SettledBlocks {
        // Now and then before a pass has decided anything.
        let step = if (work.seed + u64::from(life)) % 4 == 3 { ".cleaned" } else { ".swap" };
        worker(COMPACTED).compact_until(step, &data_dir).await;
    }
    if let Some(failure) = logs.failure() {
        lock(&ledger).violate(format!("storage failed on a sound disk: {failure}"));
    }
    if life + 1 == work.lives {
        logs.close().await.expect("a clean stop");
        dir.mark_clean().await.expect("a clean stop");
    }
}

/// A batch of the values that have these numbers.
fn batch(numbers: &[u32]) -> Bytes {
    let values: Vec<Vec<u8>> = numbers.iter().map(|number| value(*number)).collect();
    let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    batch_of(&slices, ProducerStamp::NONE)
}

struct Worker {
    io: Io,
    logs: ShardLogs,
    ledger: SharedLedger,
    partition: i32,
    dice: Dice,
}

impl Worker {
    async fn work(mut self, operations: u32) {
        if let Some(log) = self.id().and_then(|id| self.logs.partition(&id)) {
            log.set_config(self.settings());
        }
        for number in 0..operations {
            if self.logs.failure().is_some() {
                return;
            }
            let log = self.id().and_then(|id| self.logs.partition(&id));
            let Some(log) = log else {
                self.create().await;
                continue;
            };
            if self.partition == MIXED && number % 7 == 0 {
                let durable = number % 14 == 0;
                log.set_config(LogConfig {
                    flush_messages: if durable { 1 } else { u64::MAX },
                    ..small_log()
                });
            }
            let deletes = self.partition == SHORT_LIVED && number % 12 == 11;
            match self.dice.below(40) {
                _ if deletes => self.delete(&log).await,
                _ if self.partition == COMPACTED && number % 10 == 9 => self.compact(&log).await,
                0..=1 => self.truncate(&log).await,
                2..=3 => self.move_start(&log).await,
                4..=5 if self.partition == RETAINED => self.retain(&log).await,
                6 => {
                    // A failure is found by whoever looks next.
                    let _ = self.logs.checkpoint().await;
                }
                7..=9 => self.io.sleep(Duration::from_micros(self.dice.below(800))).await,
                _ => self.append(&log).await,
            }
        }
    }

    async fn settle_blocks(mut self, rounds: u32) {
        let Some(log) = self.only_log().await else { return };
        for round in 0..rounds {
            log.set_config(small_log());
            for _ in 0..2 {
                self.append_and_wait(&log).await;
            }
            // A failure is found by whoever looks next.
            let _ = self.logs.checkpoint().await;
            if round % 2 == 1 {
                log.set_config(LogConfig { flush_messages: u64::MAX, ..small_log() });
            }
            for _ in 0..5 {
                self.append_and_wait(&log).await;
            }
            // Until what can be written behind is.
            self.io.sleep(Duration::from_millis(3)).await;
        }
    }

    async fn only_log(&self) -> Option<Partition> {
        if self.id().is_none() {
            self.create().await;
        }
        self.logs.partition(&self.id()?)
    }

    fn id(&self) -> Option<TopicPartition> {
        lock(&self.ledger).current(self.partition).map(|log| log.id)
    }

    /// What the log should hold, if nobody loses anything: where it starts and ends.
    fn ends(&self) -> (i64, i64) {
        let ledger = lock(&self.ledger);
        let state = ledger.current(self.partition).expect("the log was created").state();
        (state.start, state.end())
    }

    fn ask(&self, id: TopicPartition, operation: Operation) -> Noted {
        lock(&self.ledger).ask(id, operation)
    }

    fn settings(&self) -> LogConfig {
        match self.partition {
            DURABLE | SHORT_LIVED => small_log(),
            RETAINED => LogConfig { retention_bytes: Some(40 << 10), ..small_log() },
            MIXED => LogConfig { flush_messages: u64::MAX, ..small_log() },
            EVERY_FOURTH => LogConfig { flush_messages: 4, ..small_log() },
            COMPACTED => compacted_log(),
            other => unreachable!("there is no partition {other}"),
        }
    }

    async fn create(&self) {
        let id = lock(&self.ledger).begin(self.partition);
        let noted = self.ask(id, Operation::Create);
        if self.logs.create_partition(id, "topic", self.settings()).await.is_ok() {
            lock(&self.ledger).durable(noted);
        }
    }

    async fn delete(&self, log: &Partition) {
        let noted = self.ask(log.id(), Operation::Delete);
        if self.logs.delete_partition(&log.id()).await.is_ok() {
            lock(&self.ledger).durable(noted);
        }
    }

    async fn truncate(&mut self, log: &Partition) {
        let (start, end) = self.ends();
        // Not below the start, nor below what was compacted, as replication never does.
        let offset = (end - self.dice.below(6).cast_signed()).max(start).max(self.least_cut());
        let noted = self.ask(log.id(), Operation::Truncate(offset));
        if log.truncate_to(Offset(offset)).await.is_ok() {
            lock(&self.ledger).durable(noted);
        }
    }

    async fn move_start(&mut self, log: &Partition) {
        let (start, end) = self.ends();
        // Only what is written is there to be deleted.
        let highest = end.min(log.watermarks().get().log_end_offset.0);
        let offset = (start + self.dice.below(30).cast_signed()).min(highest);
        let noted = self.ask(log.id(), Operation::MoveStart(offset));
        if log.delete_records_before(Offset(offset)).await.is_ok() {
            lock(&self.ledger).durable(noted);
        }
    }

    async fn retain(&self, log: &Partition) {
        let noted = self.ask(log.id(), Operation::Retain);
        if self.logs.apply_retention().await.is_ok() {
            lock(&self.ledger).retained(noted, log.watermarks().get().log_start_offset.0);
        }
    }

    fn least_cut(&self) -> i64 {
        let ledger = lock(&self.ledger);
        ledger.current(self.partition).map_or(0, |log| log.compactions.least_cut)
    }

    /// A pass, if one is due, and everything read before and after.
    async fn compact(&self, log: &Partition) {
        self.read(log).await;
        lock(&self.ledger).ask_for_compaction(log.id());
        // A failure is found by whoever looks next.
        let _ = self.logs.compact().await;
        self.read(log).await;
    }

    async fn read(&self, log: &Partition) {
        let since = now();
        match find(log).await {
            Ok(found) => lock(&self.ledger).saw(log.id(), &found, since),
            Err(_) if self.logs.failure().is_some() => {}
            Err(what) => lock(&self.ledger).violate(format!("{}: {what}", log.id())),
        }
    }

    /// Begins a pass, and is back as soon as there is a file with this ending, or none will come.
    async fn compact_until(mut self, ending: &str, data_dir: &Path) {
        let Some(log) = self.id().and_then(|id| self.logs.partition(&id)) else { return };
        // Enough for a segment that rolls, so that there is something to do.
        for _ in 0..8 {
            self.append_and_wait(&log).await;
        }
        lock(&self.ledger).ask_for_compaction(log.id());
        let is_over = Rc::new(Cell::new(false));
        let (logs, over) = (self.logs.clone(), Rc::clone(&is_over));
        let pass = async move {
            let _ = logs.compact().await;
            over.set(true);
        };
        self.io.spawn(pass).detach();
        let dir = data_dir.join(format!("topic-{}", self.partition));
        while !is_over.get() {
            let entries = self.io.fs().read_dir(&dir).await.unwrap_or_default();
            if entries.iter().any(|entry| entry.name.ends_with(ending)) {
                return;
            }
            self.io.sleep(Duration::from_micros(20)).await;
        }
    }

    async fn append(&mut self, log: &Partition) {
        let Some(acknowledged) = self.accept(log).await else { return };
        if self.dice.below(3) == 0 {
            acknowledged.await;
        } else {
            self.io.spawn(acknowledged).detach();
        }
    }

    async fn append_and_wait(&mut self, log: &Partition) {
        if let Some(acknowledged) = self.accept(log).await {
            acknowledged.await;
        }
    }

    /// Appends a batch and gives what waits for its acknowledgement, and notes that.
    async fn accept(&mut self, log: &Partition) -> Option<impl Future<Output = ()> + use<>> {
        let numbers = lock(&self.ledger).fresh_numbers(1 + self.dice.below(3) as u32);
        let batch = if self.partition == COMPACTED { keyed_batch(&numbers) } else { batch(&numbers) };
        let epoch: LeaderEpoch = lock(&self.ledger).leader_epoch();
        log.begin_epoch(epoch);
        let is_durable = log.config().is_durable_ack();
        let noted = self.ask(log.id(), Operation::Append(numbers));
        let appended = match log.append(batch, epoch, Origin::Client).await {
            Ok(appended) => appended,
            Err(error) => {
                lock(&self.ledger).violate(format!("an append was refused: {error}"));
                return None;
            }
        };
        lock(&self.ledger).accepted(noted, appended.base_offset.0);
        let (ledger, log) = (Arc::clone(&self.ledger), log.clone());
        Some(async move {
            if appended.acknowledged().await.is_err() {
                return;
            }
            let mut ledger = lock(&ledger);
            if is_durable {
                ledger.durable(noted);
            } else {
                ledger.written(noted);
            }
            ledger.durable_below(noted, log.watermarks().get().durable_offset.0);
        })
    }
}

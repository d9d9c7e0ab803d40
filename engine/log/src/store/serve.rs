//! The store's thread: opens the directory, carries out commands, closes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::mailbox::{Receiver, ReplySender};
use highwater_io::race::{Either, first};
use highwater_io::sync::Semaphore;
use highwater_model::{LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId, TopicPartition};
use smallvec::SmallVec;
use tokio::sync::OwnedSemaphorePermit;

use super::gather::Gatherer;
use super::{NewRecord, StoreError, StoreOptions, Stored};
use crate::config::LogConfig;
use crate::dir::{DataDir, OpenOptions, RecoveryReport};
use crate::error::{LogError, OpenError};
use crate::partition::{Partition, ReadData, ReadRequest, TimestampOffset, Watermarks};
use crate::shard::ShardLogs;

/// What the thread starts with.
pub(super) struct Start {
    pub(super) path: PathBuf,
    pub(super) options: StoreOptions,
    pub(super) commands: Receiver<Command>,
    pub(super) opened: ReplySender<Result<RecoveryReport, StoreError>>,
}

/// Records on their way that belong together, mostly one; with the memory they take and who waits for them.
pub(super) struct Waiting {
    pub(super) records: SmallVec<[NewRecord; 1]>,
    pub(super) ack: ReplySender<Result<Stored, StoreError>>,
    pub(super) memory: OwnedSemaphorePermit,
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// What a handle asks for.
pub(super) enum Command {
    /// Adds a record to a log's next batch.
    Append { log: TopicPartition, waiting: Waiting },
    /// Anything else.
    Call(Box<dyn FnOnce(Rc<Serving>) -> Work + Send>),
    /// Stops cleanly, and says how that went.
    Close(ReplySender<Result<(), StoreError>>),
}

/// An open directory.
pub(super) struct Serving {
    io: Io,
    pub(super) logs: ShardLogs,
    options: Rc<StoreOptions>,
    gatherers: RefCell<BTreeMap<TopicPartition, Rc<Gatherer>>>,
    /// Held while a log is looked up and created, so that all partitions of a topic get one id, and while one is deleted, so
    /// that nobody opens what is about to go.
    open_turn: Semaphore,
}

/// Runs a store from its opening to its end.
pub(super) async fn run(io: Io, start: Start) {
    let Start { path, options, mut commands, opened } = start;
    let (dir, serving) = match open(&io, path, options).await {
        Ok((dir, report, serving)) => {
            opened.send(Ok(report));
            (dir, serving)
        }
        Err(error) => return opened.send(Err(error.into())),
    };
    let closer = serve(&io, &serving, &mut commands).await;
    drop(commands);
    let closed = close(&serving, dir).await;
    match closer {
        Some(closer) => closer.send(closed),
        None => {
            if let Err(error) = closed {
                tracing::error!("the store did not stop cleanly: {error}");
            }
        }
    }
}

async fn open(
    io: &Io,
    path: PathBuf,
    options: StoreOptions,
) -> Result<(DataDir, RecoveryReport, Rc<Serving>), OpenError> {
    let (mut dir, report) = DataDir::open(io, &path, OpenOptions::for_store(&options)).await?;
    dir.raise_epochs();
    let seeds = dir.split(1, |_, _| 0).await?;
    let seed = seeds.into_iter().next().expect("one shard was asked for");
    let logs = ShardLogs::start(io, seed).await?;
    let serving = Serving {
        io: io.clone(),
        logs,
        options: Rc::new(options),
        gatherers: RefCell::default(),
        open_turn: Semaphore::new(1),
    };
    Ok((dir, report, Rc::new(serving)))
}

/// Carries out commands until somebody closes the store; returns who wants to know when it is done.
async fn serve(
    io: &Io,
    serving: &Rc<Serving>,
    commands: &mut Receiver<Command>,
) -> Option<ReplySender<Result<(), StoreError>>> {
    loop {
        match first(commands.recv(), io.stop_requested()).await {
            Either::Left(Some(Command::Append { log, waiting })) => serving.append(log, waiting),
            Either::Left(Some(Command::Call(work))) => io.spawn(work(Rc::clone(serving))).detach(),
            Either::Left(Some(Command::Close(closer))) => return Some(closer),
            Either::Left(None) | Either::Right(()) => return None,
        }
    }
}

async fn close(serving: &Serving, dir: DataDir) -> Result<(), StoreError> {
    let gatherers = std::mem::take(&mut *serving.gatherers.borrow_mut());
    let mut stored = pin!(async {
        for gatherer in gatherers.values() {
            gatherer.close().await;
        }
    });
    // What waits for room gets it by a checkpoint. Where none can be made, as on a full disk, it is sent away.
    let is_stored = loop {
        if serving.io.timeout(ROOM_AFTER, stored.as_mut()).await.is_ok() {
            break true;
        }
        if serving.logs.checkpoint().await.is_err() {
            break false;
        }
    };
    serving.logs.close().await?;
    if !is_stored {
        stored.await;
    }
    dir.mark_clean().await?;
    Ok(())
}

/// A close that waits for so long sees to it that there is room in the journal.
const ROOM_AFTER: Duration = Duration::from_secs(1);

impl Serving {
    pub(super) fn partition(&self, id: TopicPartition) -> Result<Partition, StoreError> {
        self.logs.partition(&id).ok_or(StoreError::Log(LogError::Closed))
    }

    pub(super) fn list(&self) -> Vec<(String, i32)> {
        let name = |partition: &Partition| (partition.topic_name().to_owned(), partition.id().partition.0);
        let mut names: Vec<_> = self.logs.partitions().iter().map(name).collect();
        names.sort_unstable();
        names
    }

    /// Finds or creates a log, and makes it ready for appends.
    pub(super) async fn open_log(
        &self,
        topic: &str,
        partition: i32,
        config: Option<LogConfig>,
    ) -> Result<TopicPartition, StoreError> {
        check_name(topic, partition)?;
        let _turn = self.open_turn.acquire(1).await;
        let known = self.logs.partitions();
        let siblings = || known.iter().filter(|log| log.topic_name() == topic);
        let topic_id =
            siblings().next().map_or_else(|| TopicId(self.io.random_uuid()), |log| log.id().topic_id);
        let id = TopicPartition { topic_id, partition: PartitionIndex(partition) };
        let log = match self.logs.partition(&id).filter(|log| !log.is_going()) {
            Some(log) => {
                config.into_iter().for_each(|config| log.set_config(config));
                log
            }
            None => {
                let config = config.unwrap_or_else(|| self.options.log.clone());
                self.logs.create_partition(id, topic, config).await?
            }
        };
        self.gatherers.borrow_mut().entry(id).or_insert_with(|| {
            // The start has raised it, save where the log is new.
            log.begin_epoch(log.latest_epoch().max(LeaderEpoch(0)));
            Gatherer::start(&self.io, log, Rc::clone(&self.options))
        });
        Ok(id)
    }

    pub(super) async fn delete(&self, id: TopicPartition) -> Result<(), StoreError> {
        let _turn = self.open_turn.acquire(1).await;
        let gatherer = self.gatherers.borrow_mut().remove(&id);
        if let Some(gatherer) = gatherer {
            gatherer.close().await;
        }
        let log = self.logs.partition(&id);
        let deleted = self.logs.delete_partition(&id).await;
        if let Some(log) = log {
            wake_waiting(&log);
        }
        Ok(deleted?)
    }

    /// Waits until there is something to read at `offset`.
    pub(super) async fn wait_for(&self, id: TopicPartition, offset: Offset) -> Result<(), StoreError> {
        let log = self.partition(id)?;
        let look = |_: &Watermarks| {
            if log.core.live.borrow().closed {
                return Some(Err(StoreError::Log(LogError::Closed)));
            }
            (visible_end(&log) > offset).then_some(Ok(()))
        };
        log.watermarks().wait_for(look).await
    }

    /// The first record that a reader may see at or after `timestamp`.
    pub(super) async fn offset_for_timestamp(
        &self,
        id: TopicPartition,
        timestamp: Timestamp,
    ) -> Result<Option<TimestampOffset>, StoreError> {
        let log = self.partition(id)?;
        let found = log.offset_for_timestamp(timestamp).await?;
        Ok(found.filter(|found| found.offset < visible_end(&log)))
    }

    pub(super) async fn read(
        &self,
        id: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<ReadData, StoreError> {
        let log = self.partition(id)?;
        let upper_bound = visible_end(&log);
        Ok(log.read(ReadRequest { offset, max_bytes, min_one_batch: true, upper_bound }).await?)
    }

    pub(super) fn set_config(&self, id: TopicPartition, config: LogConfig) -> Result<(), StoreError> {
        let log = self.partition(id)?;
        log.set_config(config);
        // What readers may see depends on it.
        wake_waiting(&log);
        Ok(())
    }

    /// Applies `retention.bytes` and `retention.ms` to every log now.
    pub(super) async fn apply_retention(&self) -> Result<(), StoreError> {
        // Only segments that are complete on disk can go.
        self.logs.checkpoint().await?;
        Ok(self.logs.apply_retention().await?)
    }

    pub(super) async fn compact(&self) -> Result<(), StoreError> {
        Ok(self.logs.compact().await?)
    }

    fn append(&self, log: TopicPartition, waiting: Waiting) {
        match self.gatherers.borrow().get(&log) {
            Some(gatherer) => gatherer.push(waiting),
            None => waiting.ack.send(Err(StoreError::Closed)),
        }
    }
}

/// End of what a reader may see: nothing that could be taken back, by what the log promises with an ack.
pub(super) fn visible_end(partition: &Partition) -> Offset {
    let marks = partition.watermarks().get();
    if partition.config().is_durable_ack() { marks.durable_offset } else { marks.log_end_offset }
}

/// Those who wait for a log look at it again.
fn wake_waiting(log: &Partition) {
    log.watermarks().update(|_| {});
}

/// Kafka's rules for the names of topics.
fn check_name(topic: &str, partition: i32) -> Result<(), StoreError> {
    const MAX_CHARS: usize = 249;
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = !topic.is_empty() && topic.len() <= MAX_CHARS && topic.bytes().all(is_legal);
    if is_name && topic != "." && topic != ".." && partition >= 0 {
        return Ok(());
    }
    Err(StoreError::InvalidName { name: format!("{topic}-{partition}") })
}

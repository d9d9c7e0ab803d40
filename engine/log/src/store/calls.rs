//! What handles ask of the store's thread.
//!
//! Plain functions, though all they make is futures: the body of an `async fn` is compiled anew in each program that awaits
//! it, with everything that it awaits in turn. Of a handle that would be the whole engine.

use std::future::Future;
use std::rc::Rc;

use highwater_io::mailbox::{self, Reply};
use highwater_io::race::{Either, first};
use highwater_model::{Offset, Timestamp, TopicPartition};

use super::StoreError;
use super::serve::{Command, Serving, visible_end};
use crate::config::LogConfig;
use crate::partition::{ReadData, TimestampOffset, Watermarks};

/// Work for the store's thread, and what tells how it ended.
pub(super) struct Call<T> {
    pub(super) command: Command,
    pub(super) reply: Reply<Result<T, StoreError>>,
}

impl<T: Send + 'static> Call<T> {
    pub(super) fn new<F>(work: impl FnOnce(Rc<Serving>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let (sender, reply) = mailbox::oneshot();
        let command =
            Command::Call(Box::new(move |serving| Box::pin(async move { sender.send(work(serving).await) })));
        Call { command, reply }
    }
}

pub(super) fn open_log(topic: String, partition: i32, config: Option<LogConfig>) -> Call<TopicPartition> {
    Call::new(move |serving| async move { serving.open_log(&topic, partition, config).await })
}

pub(super) fn list() -> Call<Vec<(String, i32)>> {
    Call::new(|serving| async move { Ok(serving.list()) })
}

pub(super) fn delete(id: TopicPartition) -> Call<()> {
    Call::new(move |serving| async move { serving.delete(id).await })
}

pub(super) fn apply_retention() -> Call<()> {
    Call::new(|serving| async move { serving.apply_retention().await })
}

pub(super) fn compact() -> Call<()> {
    Call::new(|serving| async move { serving.compact().await })
}

pub(super) fn read(id: TopicPartition, offset: Offset, max_bytes: usize) -> Call<ReadData> {
    Call::new(move |serving| async move { serving.read(id, offset, max_bytes).await })
}

/// Reads from the first record at or after `timestamp`, and tells its offset.
pub(super) fn read_from_time(
    id: TopicPartition,
    timestamp: Timestamp,
    max_bytes: usize,
) -> Call<(ReadData, Offset)> {
    Call::new(move |serving| async move {
        let end = visible_end(&serving.partition(id)?);
        let offset = serving.offset_for_timestamp(id, timestamp).await?.map_or(end, |found| found.offset);
        Ok((serving.read(id, offset, max_bytes).await?, offset))
    })
}

pub(super) fn offset_for_timestamp(
    id: TopicPartition,
    timestamp: Timestamp,
) -> Call<Option<TimestampOffset>> {
    Call::new(move |serving| async move { serving.offset_for_timestamp(id, timestamp).await })
}

pub(super) fn watermarks(id: TopicPartition) -> Call<Watermarks> {
    Call::new(move |serving| async move { Ok(serving.partition(id)?.watermarks().get()) })
}

pub(super) fn size_bytes(id: TopicPartition) -> Call<u64> {
    Call::new(move |serving| async move { Ok(serving.partition(id)?.size_bytes()) })
}

/// Waits until there is something to read at `offset`. Whoever stops waiting leaves nothing behind that waits on.
pub(super) fn wait_for(id: TopicPartition, offset: Offset) -> Call<()> {
    let (sender, reply) = mailbox::oneshot();
    let wait = move |serving: Rc<Serving>| async move {
        let waited = first(serving.wait_for(id, offset), sender.abandoned()).await;
        if let Either::Left(outcome) = waited {
            sender.send(outcome);
        }
    };
    Call { command: Command::Call(Box::new(move |serving| Box::pin(wait(serving)))), reply }
}

pub(super) fn flush(id: TopicPartition) -> Call<()> {
    Call::new(move |serving| async move { Ok(serving.partition(id)?.flush().await?) })
}

pub(super) fn delete_before(id: TopicPartition, offset: Offset) -> Call<Offset> {
    Call::new(move |serving| async move { Ok(serving.partition(id)?.delete_records_before(offset).await?) })
}

/// Cuts the log's end, and tells where it ends then.
pub(super) fn truncate_to(id: TopicPartition, offset: Offset) -> Call<Offset> {
    Call::new(move |serving| async move {
        let log = serving.partition(id)?;
        log.truncate_to(offset).await?;
        Ok(log.watermarks().get().log_end_offset)
    })
}

pub(super) fn config(id: TopicPartition) -> Call<LogConfig> {
    Call::new(move |serving| async move { Ok(serving.partition(id)?.config()) })
}

pub(super) fn set_config(id: TopicPartition, config: LogConfig) -> Call<()> {
    Call::new(move |serving| async move { serving.set_config(id, config) })
}

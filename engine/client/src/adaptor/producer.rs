//! A producer that any thread may use.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::Timestamp;

use super::driver::{Host, Shared};
use super::io_thread::IoThread;
use crate::config::{ConfigError, ProducerConfig};
use crate::metadata::{Partition, TopicHandle};
use crate::producer::{AppendError, Delivery, FlushMark, ProducerCore, ProducerRecord, ProducerStats};

/// A record was not accepted by [`Producer::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Not within `max.block.ms`.
    #[error("not accepted within max.block.ms: {0}")]
    Blocked(AppendError),
    /// Not now and not later.
    #[error(transparent)]
    Refused(AppendError),
}

/// A producer on an I/O thread. Threads may share it by reference.
///
/// Outcomes go to the function that [`start`](Producer::start) was given, on the I/O thread, in the order in which
/// they were known. Dropping the producer gives up on what has no outcome yet; [`close`](Self::close) waits for it.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared<ProducerCore>>,
    max_block: Duration,
    /// Keeps the thread alive.
    _io: IoThread,
}

struct ProducerHost<F> {
    deliveries: Vec<Delivery>,
    on_delivery: F,
}

impl<F: FnMut(&Delivery) + Send + 'static> Host for ProducerHost<F> {
    type Core = ProducerCore;

    fn collect(&mut self, core: &mut ProducerCore) {
        self.deliveries.drain(..).for_each(|delivery| core.recycle(delivery));
        self.deliveries.extend(std::iter::from_fn(|| core.pop_delivery()));
    }

    fn dispatch(&mut self) {
        self.deliveries.iter().for_each(&mut self.on_delivery);
    }

    fn stop(&mut self, core: &mut ProducerCore) {
        core.abort();
    }
}

impl Producer {
    /// Starts a producer. `on_delivery` is called on the I/O thread, which waits for it: it should be quick, and must not
    /// block on this producer.
    ///
    /// # Errors
    /// As [`ProducerConfig::validate`].
    pub fn start(
        io: &IoThread,
        config: ProducerConfig,
        seed: u64,
        on_delivery: impl FnMut(&Delivery) + Send + 'static,
    ) -> Result<Producer, ConfigError> {
        let (max_block, max_frame_bytes) = (config.max_block, config.client.max_frame_bytes);
        let shared = Shared::new(ProducerCore::new(config, seed)?);
        let host = ProducerHost { deliveries: Vec::new(), on_delivery };
        io.host(Arc::clone(&shared), host, max_frame_bytes);
        Ok(Producer { shared, max_block, _io: io.clone() })
    }

    /// The handle of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> TopicHandle {
        let topic = self.shared.lock().topic(name);
        self.shared.wake();
        topic
    }

    /// Number of partitions of a topic; waits up to `max.block.ms` for its metadata.
    #[must_use]
    pub fn partition_count(&self, topic: TopicHandle) -> Option<i32> {
        self.shared.wait_for(self.max_block, |core, _| core.partition_count(topic))
    }

    /// Hands a record over, without waiting.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn try_send(&self, record: &ProducerRecord<'_>) -> Result<Partition, AppendError> {
        let appended = self.shared.lock().append_at(record, || self.shared.now());
        // Memory is freed, and metadata asked for, only if the driver looks.
        if appended.is_ok_and(|info| info.wake) || appended.is_err() {
            self.shared.wake();
        }
        appended.map(|info| info.partition)
    }

    /// Hands a record over, waiting up to `max.block.ms` for memory and metadata.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, record: &ProducerRecord<'_>) -> Result<Partition, SendError> {
        let first = match self.try_send(record) {
            Ok(partition) => return Ok(partition),
            Err(error) if error.passes() => error,
            Err(error) => return Err(SendError::Refused(error)),
        };
        let mut last = first;
        let answer = self.shared.wait_for(self.max_block, |core, now| match core.append(record, now) {
            Ok(info) => Some(Ok(info)),
            Err(error) if error.passes() => {
                last = error;
                None
            }
            Err(error) => Some(Err(error)),
        });
        match answer {
            Some(Ok(info)) => {
                if info.wake {
                    self.shared.wake();
                }
                Ok(info.partition)
            }
            Some(Err(error)) => Err(SendError::Refused(error)),
            None => Err(SendError::Blocked(last)),
        }
    }

    /// Hands records over under one lock, until one is not accepted. Returns how many were, and why it ended before
    /// the last.
    pub fn try_send_all<'a>(
        &self,
        records: impl IntoIterator<Item = ProducerRecord<'a>>,
    ) -> (usize, Option<AppendError>) {
        let mut accepted = 0;
        let mut wake = false;
        let mut refused = None;
        {
            let mut core = self.shared.lock();
            for record in records {
                match core.append_at(&record, || self.shared.now()) {
                    Ok(info) => {
                        accepted += 1;
                        wake |= info.wake;
                    }
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
        }
        if wake || refused.is_some() {
            self.shared.wake();
        }
        (accepted, refused)
    }

    /// Sends what was handed over so far without lingering, and waits for its outcomes. Whether they were all known in
    /// time.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let mark: FlushMark = {
            let mut core = self.shared.lock();
            let now = self.shared.now();
            core.flush(now)
        };
        self.shared.wake();
        self.shared.wait_for(timeout, |core, _| core.is_flushed(mark).then_some(())).is_some()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        self.shared.lock().stats()
    }

    /// Bytes of `buffer.memory` that are free.
    #[must_use]
    pub fn available_memory_bytes(&self) -> usize {
        self.shared.lock().available_memory_bytes()
    }

    /// Accepts nothing more, and waits for the outcomes of what was handed over. Whether they were all known in time:
    /// the others are given up, and their deliveries tell whether they were ever sent. All deliveries have been made
    /// when this returns.
    pub fn close(self, timeout: Duration) -> bool {
        {
            let mut core = self.shared.lock();
            let now = self.shared.now();
            core.close(now);
        }
        self.shared.wake();
        let is_drained = self.shared.wait_for(timeout, |core, _| core.is_drained().then_some(())).is_some();
        self.shared.stop();
        let _ = self.shared.wait_for(Duration::MAX, |_, _| None::<()>);
        is_drained
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// The wall clock, for records whose application has no timestamp of its own.
#[must_use]
pub fn timestamp_now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

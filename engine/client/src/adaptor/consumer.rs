//! A consumer that any thread may use.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::Offset;

use super::driver::{Host, Shared};
use super::io_thread::IoThread;
use crate::config::{ConfigError, ConsumerConfig};
use crate::consumer::{ConsumerCore, ConsumerEvent, StartAt, Watermarks};
use crate::metadata::{Partition, TopicHandle};

/// A consumer of assigned partitions on an I/O thread. Threads may share it by reference.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared<ConsumerCore>>,
    /// Keeps the thread alive.
    _io: IoThread,
}

struct ConsumerHost;

impl Host for ConsumerHost {
    type Core = ConsumerCore;

    /// Events wait in the core, whose bound they are, until the application polls.
    fn collect(&mut self, _core: &mut ConsumerCore) {}

    fn dispatch(&mut self) {}

    fn stop(&mut self, _core: &mut ConsumerCore) {}
}

impl Consumer {
    /// Starts a consumer.
    ///
    /// # Errors
    /// As [`ConsumerConfig::validate`].
    pub fn start(io: &IoThread, config: ConsumerConfig, seed: u64) -> Result<Consumer, ConfigError> {
        let max_frame_bytes = config.client.max_frame_bytes;
        let shared = Shared::new(ConsumerCore::new(config, seed)?);
        io.host(Arc::clone(&shared), ConsumerHost, max_frame_bytes);
        Ok(Consumer { shared, _io: io.clone() })
    }

    fn with<T>(&self, call: impl FnOnce(&mut ConsumerCore) -> T) -> T {
        let answer = call(&mut self.shared.lock());
        self.shared.wake();
        answer
    }

    /// The handle of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> TopicHandle {
        self.with(|core| core.topic(name))
    }

    /// Number of partitions of a topic; waits for its metadata.
    #[must_use]
    pub fn partition_count(&self, topic: TopicHandle, timeout: Duration) -> Option<i32> {
        self.shared.wait_for(timeout, |core, _| core.partition_count(topic))
    }

    /// Begins to read a partition, or reads it on from elsewhere.
    pub fn assign(&self, partition: Partition, start: StartAt) {
        self.with(|core| core.assign(partition, start));
    }

    /// Stops reading a partition. Records of it that were not polled are dropped.
    pub fn unassign(&self, partition: Partition) {
        self.with(|core| core.unassign(partition));
    }

    /// Fetches no more of a partition until [`resume`](Self::resume).
    pub fn pause(&self, partition: Partition) {
        self.with(|core| core.pause(partition));
    }

    /// Fetches a paused partition again.
    pub fn resume(&self, partition: Partition) {
        self.with(|core| core.resume(partition));
    }

    /// The offset that will be fetched next, if it is known.
    #[must_use]
    pub fn position(&self, partition: Partition) -> Option<Offset> {
        self.shared.lock().position(partition)
    }

    /// The ends of a partition's log, as last told.
    #[must_use]
    pub fn watermarks(&self, partition: Partition) -> Option<Watermarks> {
        self.shared.lock().watermarks(partition)
    }

    /// The next event, within `timeout`.
    #[must_use]
    pub fn poll(&self, timeout: Duration) -> Option<ConsumerEvent> {
        let event = self.shared.wait_for(timeout, |core, _| core.pop_event());
        if event.is_some() {
            // What was taken can be fetched on.
            self.shared.wake();
        }
        event
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

//! A shard: one thread with its own partitions, connections, sessions and budgets.
//!
//! Shards share nothing; what one wants of another it sends there as a piece of work ([`Shard::on`]). A piece has two
//! parts: its beginning runs on the other shard in the order of sending, and what it returns is awaited there by itself,
//! so that a slow piece holds up nobody. What only looks ([`Shard::look_on`]) ends when nobody waits for it any more. The order of beginnings is what keeps the batches of a producer in order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use highwater_cluster::config::effective::ConfigView;
use highwater_cluster::{METADATA_PARTITION, MetadataImage, PartitionState};
use highwater_io::Io;
use highwater_io::mailbox::{self, Reply, ReplySender};
use highwater_io::race::{Either, first};
use highwater_io::sync::{Semaphore, Watch};
use highwater_log::{ShardLogs, StorageFailure};
use highwater_model::TopicPartition;
use highwater_protocol::ErrorCode;

use crate::config::{BrokerConfig, HostPort};
use crate::controller::Controller;
use crate::counters::ShardCounters;
use crate::fetch::session::FetchSessions;
use crate::frame::FramePools;
use crate::handlers::ADMIN_AT_ONCE;
use crate::limits::ConnectionLimits;
use crate::log_dirs::{LogDirs, Place};
use crate::memory::{RequestBudget, ResponseBudget};
use crate::pace::HeavySteps;
use crate::partition::ShardPartition;
use crate::producer_ids::ProducerIds;
use crate::reply::{Pins, SlabCounts};

/// Work for a shard.
pub(crate) type Message = Box<dyn FnOnce(&Rc<Shard>) + Send>;

/// What every shard of a broker knows and nobody changes.
#[derive(Debug)]
pub(crate) struct BrokerContext {
    pub(crate) config: BrokerConfig,
    pub(crate) cluster_id: String,
    /// Where clients reach this broker.
    pub(crate) advertised: HostPort,
    pub(crate) limits: Arc<ConnectionLimits>,
    pub(crate) counters: Arc<[ShardCounters]>,
    pub(crate) log_dirs: LogDirs,
    pub(crate) pinned_slabs: SlabCounts,
}

/// A shard's state. One reference a task.
pub(crate) struct Shard {
    pub(crate) io: Io,
    pub(crate) index: usize,
    pub(crate) broker: Arc<BrokerContext>,
    /// Its logs in each log directory, by index; `None` where the directory is not there.
    pub(crate) logs: Vec<Option<ShardLogs>>,
    pub(crate) partitions: RefCell<BTreeMap<TopicPartition, Rc<ShardPartition>>>,
    pub(crate) metadata: Watch<Arc<MetadataImage>>,
    /// Held while partitions are made and removed as the metadata say.
    pub(crate) metadata_turn: Semaphore,
    /// Partitions that could not be made for want of something that may be there again later.
    pub(crate) unserved: RefCell<BTreeSet<TopicPartition>>,
    /// Whether somebody tries again.
    pub(crate) serves_later: Cell<bool>,
    pub(crate) request_budget: RequestBudget,
    pub(crate) response_budget: Rc<ResponseBudget>,
    pub(crate) frame_pools: FramePools,
    /// One permit for each administrative request that may be at work.
    pub(crate) admin_lane: Semaphore,
    pub(crate) heavy_steps: HeavySteps,
    pub(crate) fetch_sessions: RefCell<FetchSessions>,
    pub(crate) producer_ids: ProducerIds,
    /// What of the logs' own memory, its own or other shards', is being sent.
    pub(crate) pins: Rc<Pins>,
    /// Set when every shard is ready: connections are accepted.
    pub(crate) accepting: Watch<bool>,
    /// Set when the broker stops: no more requests are read, and those that wait are answered.
    pub(crate) stopping: Watch<bool>,
    /// Number of connections that are being served.
    pub(crate) connections: Watch<usize>,
    /// Set when nothing is left to do.
    pub(crate) ended: Watch<bool>,
    /// Only on the first shard.
    pub(crate) controller: Option<Controller>,
    peers: Vec<mailbox::Sender<Message>>,
}

/// The shard that has the metadata log, and decides about changes.
pub(crate) const CONTROLLER_SHARD: usize = 0;

/// Which shard has a partition.
pub(crate) fn shard_of(id: &TopicPartition, shards: usize) -> usize {
    if *id == METADATA_PARTITION {
        return CONTROLLER_SHARD;
    }
    // Partitions of one topic go round the shards, each topic beginning somewhere else.
    let topic = id.topic_id.0.as_u128();
    let mixed = (topic ^ topic >> 64) as u64;
    let start = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let partition = u64::from(id.partition.0.cast_unsigned());
    usize::try_from((start + partition) % shards as u64).unwrap_or(0)
}

/// Everything a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) io: Io,
    pub(crate) index: usize,
    pub(crate) broker: Arc<BrokerContext>,
    pub(crate) logs: Vec<Option<ShardLogs>>,
    pub(crate) image: Arc<MetadataImage>,
    pub(crate) controller: Option<Controller>,
    pub(crate) peers: Vec<mailbox::Sender<Message>>,
}

impl Shard {
    pub(crate) fn new(parts: ShardParts) -> Rc<Self> {
        let ShardParts { io, index, broker, logs, image, controller, peers } = parts;
        let config = &broker.config;
        let sessions = FetchSessions::new(&config.fetch, index, peers.len());
        Rc::new(Shard {
            index,
            logs,
            partitions: RefCell::default(),
            metadata: Watch::new(image),
            metadata_turn: Semaphore::new(1),
            unserved: RefCell::default(),
            serves_later: Cell::default(),
            request_budget: RequestBudget::new(config.network.request_memory_bytes),
            response_budget: ResponseBudget::new(config.fetch.response_memory_bytes),
            frame_pools: FramePools::new(config.network.request_memory_bytes),
            admin_lane: Semaphore::new(ADMIN_AT_ONCE),
            heavy_steps: HeavySteps::new(),
            fetch_sessions: RefCell::new(sessions),
            producer_ids: ProducerIds::new(),
            pins: Rc::new(Pins::new(&broker.pinned_slabs)),
            accepting: Watch::new(false),
            stopping: Watch::new(false),
            ended: Watch::new(false),
            connections: Watch::new(0),
            controller,
            peers,
            broker,
            io,
        })
    }

    /// The metadata as this shard knows it.
    pub(crate) fn image(&self) -> Arc<MetadataImage> {
        self.metadata.with(Arc::clone)
    }

    /// The settings as this broker sees them, in `image`.
    pub(crate) fn config_view<'a>(&'a self, image: &'a MetadataImage) -> ConfigView<'a> {
        let config = &self.broker.config;
        ConfigView { image, static_config: &config.static_config, broker_id: config.node_id }
    }

    pub(crate) fn counters(&self) -> &ShardCounters {
        &self.broker.counters[self.index]
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.peers.len()
    }

    /// Which shard has `id`.
    pub(crate) fn owner(&self, id: &TopicPartition) -> usize {
        shard_of(id, self.peers.len())
    }

    /// A partition that this shard has.
    pub(crate) fn partition(&self, id: &TopicPartition) -> Option<Rc<ShardPartition>> {
        self.partitions.borrow().get(id).map(Rc::clone)
    }

    /// Why this shard does not have a partition that a client asks for, and that the metadata give to it.
    pub(crate) fn why_missing(&self, id: &TopicPartition) -> ErrorCode {
        let image = self.image();
        match image.partition(id).map(|state| self.broker.log_dirs.place_of(state)) {
            Some(Place::Failed | Place::Absent) => ErrorCode::KAFKA_STORAGE_ERROR,
            Some(Place::Online(_)) | None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }

    /// Takes a log directory offline, on every shard, as soon as one of them meets a failure of it (rule 7).
    pub(crate) fn watch_log_dirs(self: &Rc<Self>) {
        for (index, logs) in self.logs.iter().enumerate() {
            let Some(logs) = logs.clone() else { continue };
            let shard = Rc::clone(self);
            self.io
                .spawn(async move {
                    let failure = logs.failed().await;
                    if shard.note_failed_dir(index, &failure) {
                        shard.fail_log_dir(index, failure).await;
                    }
                })
                .detach();
        }
    }

    /// Notes that a log directory failed, and tells it; whether that is news.
    pub(crate) fn note_failed_dir(&self, index: usize, failure: &StorageFailure) -> bool {
        let dirs = &self.broker.log_dirs;
        let image = self.image();
        let is_there = |state: &PartitionState| dirs.place_of(state) == Place::Online(index);
        let partitions =
            image.topics().flat_map(|topic| &topic.partitions).filter(|state| is_there(state)).count();
        let is_news = dirs.fail(index, &failure.cause);
        if is_news {
            dirs.tell_failure(index, partitions);
        }
        is_news
    }

    /// Nothing more completes in a log directory, on any shard.
    pub(crate) async fn fail_log_dir(self: &Rc<Self>, index: usize, failure: StorageFailure) {
        self.on_all(move |shard| async move {
            if let Some(logs) = &shard.logs[index] {
                logs.fail(failure);
            }
        })
        .await;
    }

    /// Whether the broker is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Sends `begin` to `shard`, and gives its result when awaited. When this returns, `begin` has run (here) or will
    /// run after everything that was sent there before (elsewhere). `None` if the other shard has ended.
    ///
    /// Elsewhere the work is done to its end, whether or not anybody waits for that.
    pub(crate) async fn on<T, F, Fut>(self: &Rc<Self>, shard: usize, begin: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.send(shard, begin, |sender, work| async move { sender.send(work.await) }).await
    }

    /// As [`on`](Self::on), for work that changes nothing: it is dropped there once the [`Call`] is dropped here. What admitted
    /// it has by then been given back, so that a client that asks and goes away could otherwise pile up any amount of it.
    pub(crate) async fn look_on<T, F, Fut>(self: &Rc<Self>, shard: usize, begin: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let run = |sender: ReplySender<T>, work| async move {
            let found = match first(sender.abandoned(), work).await {
                Either::Left(()) => return,
                Either::Right(found) => found,
            };
            sender.send(found);
        };
        self.send(shard, begin, run).await
    }

    /// Sends `begin` to `shard`, where `run` does the work and replies.
    async fn send<T, F, Fut, R, Run>(self: &Rc<Self>, shard: usize, begin: F, run: R) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        R: FnOnce(ReplySender<T>, Fut) -> Run + Send + 'static,
        Run: Future<Output = ()> + 'static,
    {
        if shard == self.index {
            return Call::Here(Box::pin(begin(Rc::clone(self))));
        }
        let (sender, reply) = mailbox::oneshot();
        let message: Message = Box::new(move |shard: &Rc<Shard>| {
            let work = begin(Rc::clone(shard));
            shard.io.spawn(run(sender, work)).detach();
        });
        // A shard that is gone drops the message, and the reply tells so.
        drop(self.peers[shard].send(message).await);
        Call::There(reply)
    }

    /// Sends the work of `begin` to every shard, and waits for all results, in the order of shards.
    pub(crate) async fn on_all<T, F, Fut>(self: &Rc<Self>, begin: F) -> Vec<Option<T>>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let mut calls = Vec::with_capacity(self.peers.len());
        for shard in 0..self.peers.len() {
            calls.push(self.on(shard, begin.clone()).await);
        }
        let mut results = Vec::with_capacity(calls.len());
        for call in calls {
            results.push(call.await);
        }
        results
    }

    /// Runs the work that other shards send, for as long as the shard lives.
    pub(crate) async fn serve_mailbox(self: Rc<Self>, mut mailbox: mailbox::Receiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            self.counters().messages.add(1);
            message(&self);
        }
    }
}

/// The result of work on some shard; `None` if that shard has ended.
#[must_use = "work on this shard is done only when awaited"]
pub(crate) enum Call<T> {
    Here(Pin<Box<dyn Future<Output = T>>>),
    There(Reply<T>),
}

impl<T> Future for Call<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.get_mut() {
            Call::Here(work) => work.as_mut().poll(cx).map(Some),
            Call::There(reply) => Pin::new(reply).poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_model::{PartitionIndex, TopicId};

    fn id(topic: u128, partition: i32) -> TopicPartition {
        let topic_id = TopicId(uuid::Uuid::from_u128(topic));
        TopicPartition { topic_id, partition: PartitionIndex(partition) }
    }

    #[test]
    fn partitions_of_a_topic_are_spread_evenly() {
        for topic in [7, u128::MAX, 0x1234_5678_9abc_def0 << 64] {
            let mut count = [0; 3];
            for partition in 0..30 {
                count[shard_of(&id(topic, partition), 3)] += 1;
            }
            assert_eq!(count, [10, 10, 10]);
        }
    }

    #[test]
    fn single_partitions_of_many_topics_are_spread() {
        let on_first = (0..1000).filter(|&topic| shard_of(&id(topic << 70, 0), 2) == 0).count();
        assert!((400..600).contains(&on_first), "{on_first} of 1000");
    }

    #[test]
    fn metadata_is_with_the_controller() {
        assert_eq!(shard_of(&METADATA_PARTITION, 5), CONTROLLER_SHARD);
    }
}

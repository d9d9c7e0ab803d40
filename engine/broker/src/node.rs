//! Start and stop of a broker's shards.
//!
//! ```text
//!   first shard                                       the others
//!   ───────────────────────────────────────────────────────────────────────────
//!   listen, so that a taken port is found first
//!   open, lock and recover the data directories ([`crate::open_dirs`])
//!   start the logs of the one with the metadata log, replay it
//!   register, raise leader epochs: durable
//!   send out seeds and the image ───────────────────► start logs, open partitions, listen
//!   open its own partitions                    ◄───── ready
//!   everybody accepts
//!
//!   asked to stop: nobody accepts, accepted requests are answered
//!   every shard closes its logs                ◄────► close
//!   mark the directories clean                        end
//! ```
//!
//! A broker that cannot start says why in one sentence, and leaves the directory as it was or recovered.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use highwater_cluster::{Broker, METADATA_PARTITION, MetadataImage, Record, lifecycle};
use highwater_io::mailbox::{self, Reply, ReplySender};
use highwater_io::net::TcpListener;
use highwater_io::race::{Either, first};
use highwater_io::{FileOp, Io, MonoTime, TimedOut, concurrent};
use highwater_log::{DataDir, OpenError, RecoveryReport, ShardLogs, ShardSeed, StorageFailure};
use highwater_model::Timestamp;

use crate::config::{BrokerConfig, ConfigError, HostPort};
use crate::controller::Controller;
use crate::counters::{Metrics, ShardCounters};
use crate::limits::ConnectionLimits;
use crate::listener;
use crate::metadata_log::{MetadataLog, MetadataLogError};
use crate::open_dirs::{Leftovers, OpenDirs};
use crate::shard::{BrokerContext, CONTROLLER_SHARD, Message, Shard, ShardParts};

/// Why a broker does not start, or did not stop as it should. Displays as a sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The threads cannot be started.
    #[error(transparent)]
    Runtime(#[from] highwater_io::StartError),
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: HostPort,
        /// What the system says.
        reason: String,
    },
    /// Clients cannot be told where the broker is.
    #[error("listeners={0} is no address that clients can reach: set advertised.listeners to one that is")]
    NotReachable(HostPort),
    /// The data directory cannot be opened.
    #[error("cannot open {path}: {reason}")]
    DataDir {
        /// The data directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The metadata log cannot be read or written.
    #[error("{0}")]
    Metadata(String),
    /// Another shard did not start.
    #[error("shard {index} does not start: {reason}")]
    Shard {
        /// Which one.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// It has stopped, and left a directory that the next start has to recover. No acknowledged record is lost by that.
    #[error("the broker has stopped, but not cleanly: {0}; the next start recovers the data directory")]
    NotClean(String),
    /// The broker's threads ended without saying why.
    #[error("the broker ended without saying why")]
    Ended,
}

/// A broker that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Id of its cluster.
    pub cluster_id: String,
    /// What recovery did.
    pub recovery: RecoveryReport,
    /// How long the start took.
    pub start_duration: Duration,
}

/// What a shard is started with; one for each.
pub struct ShardState {
    index: usize,
    config: BrokerConfig,
    counters: Arc<[ShardCounters]>,
    peers: Vec<mailbox::Sender<Message>>,
    mailbox: mailbox::Receiver<Message>,
    role: Role,
}

impl std::fmt::Debug for ShardState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardState").field("index", &self.index).finish_non_exhaustive()
    }
}

enum Role {
    First {
        others: Vec<mailbox::Sender<StartShard>>,
        report: ReplySender<Result<Started, BrokerError>>,
        stopped: ReplySender<Result<(), BrokerError>>,
    },
    Other(mailbox::Receiver<StartShard>),
}

/// What the first shard gives another one.
struct StartShard {
    broker: Arc<BrokerContext>,
    /// By log directory; `None` for one that is not there.
    seeds: Vec<Option<ShardSeed>>,
    image: Arc<MetadataImage>,
    address: SocketAddr,
    ready: ReplySender<Result<(), String>>,
}

/// What whoever started the shards keeps of them.
#[derive(Debug)]
pub struct NodeHandle {
    /// Resolves when the broker runs, or to the reason why it does not; `None` if its shards ended without a reason.
    pub started: Reply<Result<Started, BrokerError>>,
    /// Resolves when a broker that ran has stopped: whether its data directory is closed and marked clean.
    pub stopped: Reply<Result<(), BrokerError>>,
    counters: Arc<[ShardCounters]>,
    connector: Connector,
}

/// Makes connections to a broker from within its process, without a port: for an embedded broker's clients.
#[derive(Debug, Clone)]
pub struct Connector {
    shards: Arc<[mailbox::Sender<Message>]>,
    next: Arc<AtomicUsize>,
}

impl Connector {
    /// A connection, as one that came over the network: Kafka's frames go in and come out. It may be made before the
    /// broker runs, and is served then.
    ///
    /// # Errors
    /// `ConnectionRefused` once the broker has stopped; what socketpair(2) says.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let message: Message = Box::new(move |shard| listener::adopt(shard, ours));
        highwater_io::block_on(self.shards[shard].send(message))
            .map_err(|_| io::Error::new(io::ErrorKind::ConnectionRefused, "the broker has stopped"))?;
        Ok(theirs)
    }
}

impl NodeHandle {
    /// Makes connections from within this process.
    #[must_use]
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// What the broker has counted so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::sum(&self.counters)
    }
}

/// Everything that is needed to run a broker: one state a shard, for [`run_shard`] on a shard of its own each.
///
/// # Panics
/// If the settings are [those of an ephemeral broker](BrokerConfig::ephemeral), whose directory
/// [`Broker::start`](crate::Broker::start) makes.
#[must_use]
pub fn prepare(config: &BrokerConfig) -> (Vec<ShardState>, NodeHandle) {
    assert!(!config.is_ephemeral, "an ephemeral broker is started by Broker::start");
    let shards = config.num_shards;
    let counters: Arc<[ShardCounters]> = (0..shards).map(|_| ShardCounters::default()).collect();
    let (report, started) = mailbox::oneshot();
    let (stopped_sender, stopped) = mailbox::oneshot();
    let (peers, mailboxes): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| mailbox::channel(config.network.mailbox_slots)).unzip();
    let (others, starts): (Vec<_>, Vec<_>) = (1..shards).map(|_| mailbox::channel(1)).unzip();
    let roles = std::iter::once(Role::First { others, report, stopped: stopped_sender })
        .chain(starts.into_iter().map(Role::Other));
    let states = mailboxes
        .into_iter()
        .zip(roles)
        .enumerate()
        .map(|(index, (mailbox, role))| ShardState {
            index,
            config: config.clone(),
            counters: Arc::clone(&counters),
            peers: peers.clone(),
            mailbox,
            role,
        })
        .collect();
    let connector = Connector { shards: peers.into(), next: Arc::default() };
    (states, NodeHandle { started, stopped, counters, connector })
}

/// Runs one shard from its start to its end.
pub async fn run_shard(io: Io, state: ShardState) {
    let ShardState { index, config, counters, peers, mailbox, role } = state;
    match role {
        Role::First { others, report, stopped } => {
            let first = FirstShard { io, config, counters, peers };
            if let Some(Running { shard, data_dirs, _others }) =
                run_first(first, mailbox, others, report).await
            {
                stopped.send(stop(&shard, data_dirs).await);
            }
        }
        Role::Other(start) => run_other(io, index, peers, mailbox, start).await,
    }
}

struct FirstShard {
    io: Io,
    config: BrokerConfig,
    counters: Arc<[ShardCounters]>,
    peers: Vec<mailbox::Sender<Message>>,
}

/// A started first shard, and what it must keep.
struct Running {
    shard: Rc<Shard>,
    /// Those that are open, with their indexes.
    data_dirs: Vec<(usize, DataDir)>,
    /// By these the other shards know that this one is there: they end when it is gone, whatever became of it.
    _others: Vec<mailbox::Sender<StartShard>>,
}

/// Starts the broker, says how that went, and returns what runs when it is asked to stop.
async fn run_first(
    first: FirstShard,
    mailbox: mailbox::Receiver<Message>,
    others: Vec<mailbox::Sender<StartShard>>,
    report: ReplySender<Result<Started, BrokerError>>,
) -> Option<Running> {
    match start_first(&first, mailbox, others).await {
        Ok((running, started)) => {
            report.send(Ok(started));
            running.shard.io.stop_requested().await;
            Some(running)
        }
        Err(error) => {
            report.send(Err(error));
            None
        }
    }
}

async fn start_first(
    first: &FirstShard,
    mailbox: mailbox::Receiver<Message>,
    others: Vec<mailbox::Sender<StartShard>>,
) -> Result<(Running, Started), BrokerError> {
    let FirstShard { io, config, counters, peers } = first;
    let begin = io.now();
    let listener = listen_first(io, config).await?;
    let address = listener.local_addr();
    let advertised = advertised(config, address)?;
    let mut dirs = OpenDirs::open(io, config).await?;
    let mut recovery = RecoveryReport { was_clean: true, ..RecoveryReport::default() };
    for (path, report) in std::mem::take(&mut dirs.reports) {
        log_recovery(&path, &report);
        warn_of_memory(io, &path).await;
        recovery.add(report);
    }
    let found = dirs.leftovers();
    let mut main_seeds = dirs.split_main(config).await?.into_iter();
    let seed = main_seeds.next().ok_or(BrokerError::Ended)?;
    let main_failed = |error: OpenError| data_dir_error(config, &config.metadata_log_dir, &error);
    let main_logs = ShardLogs::start(io, seed).await.map_err(main_failed)?;
    let mut seeds = Seeds::new(others.len());
    let Metadata { log: metadata_log, image } =
        load_metadata(io, config, &main_logs, &advertised, &mut dirs, &mut seeds, &found).await?;
    let image = Arc::new(image);
    let cluster_id = dirs.cluster_id();
    let (log_dirs, data_dirs) = dirs.finish(config, &image);
    seeds.set_main(log_dirs.metadata(), main_seeds);
    let broker = Arc::new(BrokerContext {
        cluster_id,
        advertised,
        limits: ConnectionLimits::new(config.network.max_connections, config.network.max_connections_per_ip),
        counters: Arc::clone(counters),
        config: config.clone(),
        log_dirs,
        pinned_slabs: peers.iter().map(|_| AtomicUsize::new(0)).collect(),
    });
    let mut waiting = Vec::with_capacity(others.len());
    for (other, seeds) in others.iter().zip(seeds.of_others) {
        let (ready, reply) = mailbox::oneshot();
        let (broker, image) = (Arc::clone(&broker), Arc::clone(&image));
        let start = StartShard { broker, seeds, image, address, ready };
        drop(other.send(start).await);
        waiting.push(reply);
    }
    let mut logs = start_logs(io, &broker, seeds.of_first).await?;
    logs[broker.log_dirs.metadata()] = Some(main_logs);
    let controller = Some(Controller::new(metadata_log));
    let parts = ShardParts {
        io: io.clone(),
        index: CONTROLLER_SHARD,
        broker,
        logs,
        image,
        controller,
        peers: peers.clone(),
    };
    let shard = begin_shard(parts, mailbox, listener).await;
    for (index, ready) in (1..).zip(waiting) {
        let ready = ready.await.unwrap_or_else(|| Err("it ended".to_owned()));
        ready.map_err(|reason| BrokerError::Shard { index, reason })?;
    }
    go(&shard).await;
    let started = Started {
        addr: address,
        cluster_id: shard.broker.cluster_id.clone(),
        recovery,
        start_duration: io.now() - begin,
    };
    log_ready(&shard, &started);
    Ok((Running { shard, data_dirs, _others: others }, started))
}

async fn listen_first(io: &Io, config: &BrokerConfig) -> Result<TcpListener, BrokerError> {
    let failed = |reason: String| BrokerError::Listen { address: config.listener.clone(), reason };
    let HostPort { host, port } = &config.listener;
    let addresses = io.resolve(host, *port).await.map_err(|error| failed(error.to_string()))?;
    let address = addresses.into_iter().next().ok_or_else(|| failed("the name has no address".to_owned()))?;
    listener::wait_until_free(io, address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => failed("another process listens there".to_owned()),
        _ => failed(error.to_string()),
    })?;
    listener::listen(io, address, config.network.backlog).await.map_err(|error| failed(error.to_string()))
}

/// Where clients are told to connect.
fn advertised(config: &BrokerConfig, address: SocketAddr) -> Result<HostPort, BrokerError> {
    match &config.advertised {
        Some(advertised) => {
            let port = if advertised.port == 0 { address.port() } else { advertised.port };
            Ok(HostPort { host: advertised.host.clone(), port })
        }
        None if address.ip().is_unspecified() => Err(BrokerError::NotReachable(config.listener.clone())),
        None => Ok(HostPort { host: config.listener.host.clone(), port: address.port() }),
    }
}

pub(crate) fn data_dir_error(config: &BrokerConfig, path: &Path, error: &OpenError) -> BrokerError {
    BrokerError::DataDir { path: path.to_owned(), reason: format!("{error}{}", advice(config, error)) }
}

/// What each shard is started with: by shard, then by log directory.
struct Seeds {
    of_first: Vec<Option<ShardSeed>>,
    of_others: Vec<Vec<Option<ShardSeed>>>,
}

impl Seeds {
    fn new(other_shards: usize) -> Self {
        Seeds { of_first: Vec::new(), of_others: (0..other_shards).map(|_| Vec::new()).collect() }
    }

    /// Adds the next log directory: a seed for each shard, or nothing.
    fn add(&mut self, of_dir: Option<Vec<ShardSeed>>) {
        let mut of_shards = of_dir.into_iter().flatten();
        self.of_first.push(of_shards.next());
        self.of_others.iter_mut().for_each(|seeds| seeds.push(of_shards.next()));
    }

    /// Those of the directory with the metadata log, of which the first shard has its own already.
    fn set_main(&mut self, metadata: usize, mut of_shards: impl Iterator<Item = ShardSeed>) {
        self.of_others.iter_mut().for_each(|seeds| seeds[metadata] = of_shards.next());
    }
}

/// Starts a shard's logs in every directory. One that fails now, and has no metadata log, is offline.
async fn start_logs(
    io: &Io,
    broker: &BrokerContext,
    seeds: Vec<Option<ShardSeed>>,
) -> Result<Vec<Option<ShardLogs>>, BrokerError> {
    let mut all = Vec::with_capacity(seeds.len());
    for (index, seed) in seeds.into_iter().enumerate() {
        let started = match seed {
            Some(seed) => Some(ShardLogs::start(io, seed).await),
            None => None,
        };
        all.push(match started {
            Some(Ok(logs)) => Some(logs),
            None => None,
            Some(Err(error)) => {
                let path = &broker.log_dirs.all()[index].path;
                let error = data_dir_error(&broker.config, path, &error);
                if index == broker.log_dirs.metadata() {
                    return Err(error);
                }
                if broker.log_dirs.fail(index, &error.to_string()) {
                    tracing::error!("{error}: its partitions are not served until the next start");
                }
                None
            }
        });
    }
    Ok(all)
}

/// What to do about a failure of the file system, where that is known.
fn advice(config: &BrokerConfig, error: &OpenError) -> String {
    let OpenError::File(error) = error else { return String::new() };
    let is_flush = matches!(error.op, FileOp::SyncData | FileOp::SyncAll | FileOp::SyncDirectory);
    if error.is_out_of_space() && !is_flush {
        return make_room(config);
    }
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; run the broker as the owner of its data directory, or give the directory to its user".to_owned()
        }
        std::io::ErrorKind::NotADirectory => "; the data directory must be a directory, and is a file".to_owned(),
        std::io::ErrorKind::ReadOnlyFilesystem => {
            "; mount the file system for writing, or choose another --data-dir (highwater verify needs no writing)"
                .to_owned()
        }
        _ => String::new(),
    }
}

/// What to do about a full disk. What was promised is on the medium: room is made sure of before anything is accepted.
fn make_room(config: &BrokerConfig) -> String {
    format!(
        "; nothing is lost: make room on that file system and start again (each of the {} shards takes a journal file \
         of {} MiB, journal.file.bytes, and what the journal holds goes into segments first)",
        config.num_shards,
        config.shard.journal_file_bytes.div_ceil(1 << 20)
    )
}

/// The metadata log, and what it says.
struct Metadata {
    log: MetadataLog,
    image: MetadataImage,
}

/// Replays the metadata log, and makes this start part of it.
async fn load_metadata(
    io: &Io,
    config: &BrokerConfig,
    logs: &ShardLogs,
    advertised: &HostPort,
    dirs: &mut OpenDirs,
    seeds: &mut Seeds,
    found: &Leftovers,
) -> Result<Metadata, BrokerError> {
    let failed = |error: MetadataLogError| {
        let advice = if error.is_out_of_space() { make_room(config) } else { String::new() };
        BrokerError::Metadata(format!("{error}{advice}"))
    };
    let log = MetadataLog::open(logs).await.map_err(failed)?;
    let mut image = log.replay().await.map_err(failed)?;
    dirs.compare(config, &image);
    if log.record_count() == 0
        && let Some(error) = dirs.first_offline()
    {
        return Err(error);
    }
    dirs.split_others(config).await?.into_iter().for_each(|of_dir| seeds.add(of_dir));
    let broker = Broker {
        incarnation_id: io.random_uuid(),
        host: advertised.host.clone(),
        port: advertised.port,
        rack: None,
        log_dirs: dirs.to_register(config, &image),
    };
    let mut records: Vec<Record> = Vec::new();
    if log.record_count() == 0 {
        // The first start on this directory. Until its records are durable, the next one is the first, too.
        let lifecycle::Adopted { records: adopted, left_alone } =
            lifecycle::adopt(&found.partitions, config.node_id, found.next_producer_id);
        for (topic, why) in left_alone {
            tracing::warn!(topic, why, "a topic of Apache Kafka's is left alone");
        }
        records.extend(adopted);
    }
    records.extend(lifecycle::start(config.node_id, broker));
    let misfit = |error: highwater_cluster::image::ApplyError| BrokerError::Metadata(error.to_string());
    records.iter().try_for_each(|record| image.apply(record)).map_err(misfit)?;
    let moved = dirs.moved(config, &image, found);
    moved.iter().try_for_each(|record| image.apply(record)).map_err(misfit)?;
    records.extend(moved);
    let overtaken = lifecycle::overtake(&image, &found.partitions);
    overtaken.iter().try_for_each(|record| image.apply(record)).map_err(misfit)?;
    records.extend(overtaken);
    note_start(io, log.append(&records, Timestamp(io.wall_time().as_millis()))).await.map_err(failed)?;
    Ok(Metadata { log, image })
}

/// Waits for the start's records to be durable, and tells while they find no room.
async fn note_start<T>(io: &Io, append: impl Future<Output = T>) -> T {
    let mut append = pin!(append);
    loop {
        match io.timeout(TELL_OF_WAIT_AFTER, append.as_mut()).await {
            Ok(appended) => return appended,
            Err(TimedOut) => {
                tracing::warn!(
                    "not started yet: the journal has no room for the start; is the file system full?"
                );
            }
        }
    }
}

/// A start that waits for room in the journal says so after this, again and again.
const TELL_OF_WAIT_AFTER: Duration = Duration::from_secs(5);

async fn run_other(
    io: Io,
    index: usize,
    peers: Vec<mailbox::Sender<Message>>,
    mailbox: mailbox::Receiver<Message>,
    mut start: mailbox::Receiver<StartShard>,
) {
    // The first shard did not come that far.
    let Some(StartShard { broker, seeds, image, address, ready }) = start.recv().await else { return };
    let backlog = broker.config.network.backlog;
    let logs = start_logs(&io, &broker, seeds).await.map_err(|error| error.to_string());
    let listener = listener::listen(&io, address, backlog).await.map_err(|error| error.to_string());
    let (logs, listener) = match (logs, listener) {
        (Ok(logs), Ok(listener)) => (logs, listener),
        (Err(error), _) | (_, Err(error)) => return ready.send(Err(error)),
    };
    let parts = ShardParts { io, index, broker, logs, image, controller: None, peers };
    let shard = begin_shard(parts, mailbox, listener).await;
    ready.send(Ok(()));
    // The first shard says when, or is gone: it did not start, or panicked. Then nothing is closed, as with a killed process.
    let ended = shard.ended.wait_for(|&ended| ended.then_some(()));
    if let Either::Right(_) = first(ended, start.recv()).await {
        tracing::debug!(shard = index, "the first shard is gone: this one ends, too");
    }
}

/// Opens a shard's partitions, and starts what serves.
async fn begin_shard(
    parts: ShardParts,
    mailbox: mailbox::Receiver<Message>,
    listener: TcpListener,
) -> Rc<Shard> {
    let shard = Shard::new(parts);
    let image = shard.image();
    let all = image.topics().flat_map(|topic| topic.partition_ids().map(|(id, _)| id));
    let owned = all.filter(|id| shard.owner(id) == shard.index).collect();
    {
        let _turn = shard.metadata_turn.acquire(1).await;
        shard.open_partitions(owned, &image).await;
    }
    remove_leftovers(&shard, &image).await;
    shard.io.spawn(Rc::clone(&shard).serve_mailbox(mailbox)).detach();
    shard.watch_log_dirs();
    shard.io.spawn(listener::accept(Rc::clone(&shard), listener)).detach();
    shard
}

/// Removes what is left on disk of topics that were deleted; what no metadata knows is only reported.
async fn remove_leftovers(shard: &Rc<Shard>, image: &MetadataImage) {
    let partitions = shard.logs.iter().flatten().flat_map(|logs| {
        let partitions = logs.partitions().into_iter();
        partitions.map(move |partition| (logs, partition))
    });
    for (logs, partition) in partitions {
        let id = partition.id();
        if id == METADATA_PARTITION || image.partition(&id).is_some() {
            continue;
        }
        if image.removed_topics().contains(&id.topic_id) {
            if let Err(error) = logs.delete_partition(&id).await {
                tracing::error!(partition = %id, %error, "a deleted partition is not removed from disk");
            }
        } else {
            let topic = partition.topic_name();
            tracing::warn!(topic, partition = %id, "a partition on disk is in no metadata, and is left alone");
        }
    }
}

/// Everybody accepts connections.
async fn go(shard: &Rc<Shard>) {
    // What did not start on one shard is served by none.
    for (index, dir) in shard.broker.log_dirs.all().iter().enumerate() {
        if let Some(cause) = dir.failure.get() {
            shard.fail_log_dir(index, StorageFailure { cause: cause.as_str().into() }).await;
        }
    }
    shard.on_all(|shard| async move { shard.accepting.set(true) }).await;
    if let Some(controller) = &shard.controller {
        controller.snapshot_if_due(shard).await;
    }
}

async fn stop(shard: &Rc<Shard>, data_dirs: Vec<(usize, DataDir)>) -> Result<(), BrokerError> {
    let begin = shard.io.now();
    tracing::info!("stopping: accepted requests are answered");
    shard.on_all(|shard| async move { drain(&shard).await }).await;
    let closed = shard.on_all(|shard| async move { close_logs(&shard).await }).await;
    let mut failure = None;
    for (index, data_dir) in data_dirs {
        if let Err(error) = finish_dir(&closed, index, data_dir).await {
            failure.get_or_insert(error);
        }
    }
    if failure.is_none() {
        log_stopped(begin, shard.io.now());
    }
    shard.on_all(|shard| async move { shard.ended.set(true) }).await;
    failure.map_or(Ok(()), |reason| Err(BrokerError::NotClean(reason)))
}

/// Closes a shard's logs in every directory: what came of it, by directory. One that failed keeps none of the others from
/// being closed cleanly.
async fn close_logs(shard: &Shard) -> Vec<Result<(), String>> {
    let closing = shard.logs.iter().map(|logs| {
        let logs = logs.clone();
        async move {
            let logs = logs.ok_or_else(|| "it is offline".to_owned())?;
            logs.close().await.map_err(|error| error.to_string())
        }
    });
    concurrent::all(&shard.io, shard.logs.len().max(1), closing).await
}

/// Marks a directory as clean if every shard has closed its logs there.
async fn finish_dir(
    closed: &[Option<Vec<Result<(), String>>>],
    index: usize,
    data_dir: DataDir,
) -> Result<(), String> {
    let path = data_dir.path().display().to_string();
    let mut failure = None;
    for (shard, closed) in closed.iter().enumerate() {
        let ended = || Err("it ended".to_owned());
        if let Err(error) = closed.as_ref().map_or_else(ended, |of_dirs| of_dirs[index].clone()) {
            tracing::error!(shard, log_dir = path, %error, "the logs are not closed cleanly");
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)?;
    data_dir.mark_clean().await.map_err(|error| {
        tracing::error!(log_dir = path, %error, "the data directory is not marked clean");
        error.to_string()
    })
}

/// Stops accepting, and waits until every accepted request is answered.
async fn drain(shard: &Rc<Shard>) {
    shard.stopping.set(true);
    let idle = shard.connections.wait_for(|&count| (count == 0).then_some(()));
    if shard.io.timeout(shard.broker.config.network.drain_timeout, idle).await.is_err() {
        let connections = shard.connections.get();
        tracing::warn!(shard = shard.index, connections, "connections are cut off");
    }
}

/// A file system in memory answers a flush at once, and has nothing after a power cut.
async fn warn_of_memory(io: &Io, path: &Path) {
    let space = io.fs().space(path).await;
    if space.is_ok_and(|space| space.is_in_memory) {
        let path = path.display();
        tracing::warn!(data_dir = %path, "data directory is in memory (tmpfs): an ack outlives the process, not the machine");
    }
}

fn log_recovery(path: &Path, report: &RecoveryReport) {
    let path = path.display();
    if report.was_kafka {
        tracing::info!(data_dir = %path, "data directory came from Apache Kafka, and is ours from now on");
    }
    let is_new = !report.was_clean && report.journals == 0 && report.partitions == 0;
    if is_new {
        tracing::info!(data_dir = %path, "data directory is new");
    } else if report.was_clean {
        tracing::info!(data_dir = %path, partitions = report.partitions, "data directory was stopped cleanly");
    } else {
        tracing::info!(
            data_dir = %path,
            partitions = report.partitions,
            journals = report.journals,
            groups_replayed = report.groups_replayed,
            bytes_replayed = report.bytes_replayed,
            bytes_cut = report.bytes_cut,
            "data directory is recovered"
        );
    }
    for (partition, why) in &report.fenced {
        tracing::error!(%partition, why, "partition is fenced; highwater salvage lists what its way out gives up");
    }
    for stray in &report.strays {
        tracing::warn!(stray, "found in the data directory, and belongs to nobody");
    }
}

fn log_ready(shard: &Shard, started: &Started) {
    let HostPort { host, port } = &shard.broker.advertised;
    let image = shard.image();
    tracing::info!(
        listening = %started.addr,
        advertised = %HostPort { host: host.clone(), port: *port },
        node_id = shard.broker.config.node_id.0,
        cluster_id = started.cluster_id,
        shards = shard.shard_count(),
        io = %shard.io.driver_kind(),
        topics = image.topic_count(),
        partitions = image.partition_count(),
        ms = started.start_duration.as_millis(),
        "ready"
    );
}

fn log_stopped(begin: MonoTime, end: MonoTime) {
    tracing::info!(ms = (end - begin).as_millis(), "stopped cleanly");
}

#[cfg(test)]
mod tests {
    use std::io;

    use highwater_io::FileError;

    use super::*;

    #[test]
    fn failure_to_open_says_what_to_do() {
        let config = BrokerConfig::for_data_dir("/data");
        let says_after = |op: FileOp, errno: i32| {
            let path = PathBuf::from("/data/journal/j/shard-0/journal-0");
            let source = io::Error::from_raw_os_error(errno);
            let error = OpenError::File(FileError { op, path, position_bytes: Some(0), source });
            data_dir_error(&config, Path::new("/data"), &error).to_string()
        };
        let says = |errno| says_after(FileOp::Allocate, errno);
        let full = says(28);
        assert!(full.contains("No space left on device") && full.contains("make room"), "{full}");
        assert!(full.contains("journal file of 64 MiB"), "{full}");
        let flush = says_after(FileOp::SyncData, 28);
        assert!(!flush.contains("nothing is lost"), "a flush that failed promises nothing: {flush}");
        assert!(says(13).contains("owner of its data directory"));
        assert!(says(20).contains("is a file"));
        assert!(says(30).contains("mount the file system for writing"));
    }
}

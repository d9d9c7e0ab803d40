//! The broker's settings: from names and texts to typed values.
//!
//! Names, defaults and checks are in one table ([`highwater_cluster::config::broker`]); this module reads Kafka's
//! properties format, checks every setting against the table, and gives the broker the few values that it works with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_cluster::config::effective::{ConfigView, StaticConfig};
use highwater_cluster::config::{broker, parse_list};
use highwater_io::DriverChoice;
use highwater_log::{LogConfig, ShardConfig, StoredCompression, TimestampType};
use highwater_model::BrokerId;
use highwater_model::compression::Compression;

use crate::connection::SEND_BYTES;

/// A setting that cannot be used. Displays as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such setting.
    #[error("there is no setting {name}{}", hint(name))]
    Unknown {
        /// As given.
        name: String,
    },
    /// The value does not fit.
    #[error("{0}")]
    Invalid(String),
    /// A line of a properties file that is none.
    #[error("line {line} is not NAME=VALUE: {text}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// The data directory is not given.
    #[error("no data directory: set log.dirs, or give --data-dir")]
    NoDataDir,
}

/// The setting whose name is closest, if one is close.
fn hint(name: &str) -> String {
    let closest = broker::BROKER_CONFIGS.iter().map(|config| config.def.name).find(|known| {
        known.contains(name) || name.contains(known) || known.replace('.', "_") == name.replace('-', "_")
    });
    closest.map_or_else(String::new, |known| format!(" (did you mean {known}?)"))
}

/// A host and a port, as in a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address.
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A broker's settings.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// What was set, by name: the file and the command line.
    pub static_config: StaticConfig,
    /// `log.dirs`, or `log.dir`: at least one.
    pub log_dirs: Vec<PathBuf>,
    /// `metadata.log.dir`, or the first of the others. It may be none of them, and has no other partitions then.
    pub metadata_log_dir: PathBuf,
    /// `listeners`.
    pub listener: HostPort,
    /// `advertised.listeners`.
    pub advertised: Option<HostPort>,
    /// `node.id`.
    pub node_id: BrokerId,
    /// `num.shards`, with 0 replaced by what it stands for.
    pub num_shards: usize,
    /// `io.driver`.
    pub io_driver: DriverChoice,
    /// `socket.send.zero.copy.min.bytes`.
    pub zero_copy_min_bytes: usize,
    /// `num.partitions`.
    pub num_partitions: usize,
    /// `default.replication.factor`.
    pub default_replication_factor: usize,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// `max.partitions`.
    pub max_partitions: usize,
    /// Bounds of connections and requests.
    pub network: NetworkConfig,
    /// Bounds of fetches.
    pub fetch: FetchConfig,
    /// Storage of one shard.
    pub shard: ShardConfig,
    /// Whether the broker makes a directory of its own in `log.dirs` when it starts, and removes it when it is gone.
    pub(crate) is_ephemeral: bool,
}

/// Bounds of connections and requests. Budgets are those of one shard.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// `socket.listen.backlog.size`.
    pub backlog: u32,
    /// `socket.request.max.bytes`.
    pub request_max_bytes: usize,
    /// `socket.request.read.timeout.ms`.
    pub request_read_timeout: Duration,
    /// `socket.response.write.timeout.ms`.
    pub response_write_timeout: Duration,
    /// `connections.max.idle.ms`.
    pub max_idle: Duration,
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: usize,
    /// `shutdown.drain.timeout.ms`.
    pub drain_timeout: Duration,
    /// `queued.max.request.bytes`, this shard's share.
    pub request_memory_bytes: usize,
    /// `shard.mailbox.slots`.
    pub mailbox_slots: usize,
}

/// Bounds of fetches. Budgets are those of one shard.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// `fetch.max.bytes`.
    pub max_bytes: usize,
    /// `queued.max.response.bytes`, this shard's share.
    pub response_memory_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`, this shard's share.
    pub session_slots: usize,
    /// `max.incremental.fetch.session.cache.partitions`, this shard's share.
    pub session_partitions: usize,
    /// `min.incremental.fetch.session.eviction.ms`.
    pub session_eviction: Duration,
    /// `fetch.session.max.partitions`.
    pub session_max_partitions: usize,
}

/// What a short life is better off with.
const EPHEMERAL: &[(&str, &str)] = &[
    ("num.shards", "1"),
    // A quarter of it is the largest batch: Kafka's default fits.
    ("journal.file.bytes", "8388608"),
    ("hot.tail.bytes", "16777216"),
    ("log.cleaner.dedupe.buffer.size", "8388608"),
];

/// Reads checked values by name.
struct Reader<'a>(&'a StaticConfig);

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        let default = broker::find(name).and_then(|config| config.def.default);
        self.0.get(name).map(String::as_str).or(default)
    }

    /// A number; the table has checked that it is one, and not negative where it must not be.
    fn number(&self, name: &str) -> u64 {
        let number = self.text(name).and_then(|text| text.trim().parse::<i64>().ok());
        u64::try_from(number.unwrap_or(0)).unwrap_or(0)
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(usize::MAX)
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).and_then(highwater_cluster::config::parse_bool).unwrap_or(false)
    }
}

impl BrokerConfig {
    /// A broker in `data_dir` with every setting at its default and a free port on the loopback interface: what tests
    /// and embedding start from.
    ///
    /// # Panics
    /// Never: the defaults are valid.
    #[must_use]
    pub fn for_data_dir(data_dir: impl AsRef<Path>) -> Self {
        let mut settings = StaticConfig::new();
        settings.insert("log.dirs".to_owned(), data_dir.as_ref().display().to_string());
        settings.insert("listeners".to_owned(), "PLAINTEXT://127.0.0.1:0".to_owned());
        BrokerConfig::from_settings(settings).expect("the defaults are valid")
    }

    /// A broker for a test, or for anything else that it must not outlive: a directory of its own, which is made when it
    /// starts and removed when it is dropped or stopped; a free port on the loopback interface; one shard; one partition a
    /// topic, unless said otherwise; a journal and memory of a few MiB. Everything else is as in production, durability
    /// included, and any setting can be changed ([`set`](Self::set)).
    ///
    /// The directory is made in the system's place for temporary files (`TMPDIR`, `/tmp`), or in the one that is given as
    /// `log.dirs`: `/dev/shm` never waits for a disk. A process that is killed leaves it behind.
    ///
    /// # Panics
    /// Never: the settings are valid.
    #[must_use]
    pub fn ephemeral() -> Self {
        let parent = std::env::temp_dir();
        let mut settings = BrokerConfig::for_data_dir(parent).static_config;
        for (name, value) in EPHEMERAL {
            settings.insert((*name).to_owned(), (*value).to_owned());
        }
        let config = BrokerConfig::from_settings(settings).expect("the settings are valid");
        BrokerConfig { is_ephemeral: true, ..config }
    }

    /// The same broker in `data_dir`.
    ///
    /// # Errors
    /// [`ConfigError`]: the path is none that a setting can hold.
    pub(crate) fn moved_to(&self, data_dir: &Path) -> Result<Self, ConfigError> {
        let mut moved = self.clone();
        moved.static_config.insert("log.dirs".to_owned(), data_dir.display().to_string());
        moved.log_dirs = parse_log_dirs(&moved.static_config["log.dirs"])?;
        moved.metadata_log_dir = data_dir.to_owned();
        moved.is_ephemeral = false;
        Ok(moved)
    }

    /// Changes one setting, and derives everything from the settings anew: fields that were changed by hand are lost.
    ///
    /// # Errors
    /// [`ConfigError`], with nothing changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let mut settings = self.static_config.clone();
        settings.insert(name.to_owned(), value.to_owned());
        let is_ephemeral = self.is_ephemeral;
        *self = BrokerConfig { is_ephemeral, ..BrokerConfig::from_settings(settings)? };
        Ok(())
    }

    /// From settings by name.
    ///
    /// # Errors
    /// [`ConfigError`], for the first that is not valid.
    pub fn from_settings(settings: StaticConfig) -> Result<Self, ConfigError> {
        for (name, value) in &settings {
            let config = broker::find(name).ok_or_else(|| ConfigError::Unknown { name: name.clone() })?;
            config.def.validate(value).map_err(ConfigError::Invalid)?;
        }
        let read = Reader(&settings);
        let log_dirs = parse_log_dirs(read.text("log.dirs").or(read.text("log.dir")).unwrap_or_default())?;
        let metadata_log_dir = match read.text("metadata.log.dir").map(str::trim) {
            None | Some("") => log_dirs[0].clone(),
            Some(dir) => PathBuf::from(dir),
        };
        let num_dirs = log_dirs.len() + usize::from(!log_dirs.contains(&metadata_log_dir));
        let num_shards = match read.size("num.shards") {
            0 => default_shards(),
            shards => shards,
        };
        let mut listeners = parse_listeners("listeners", read.text("listeners").unwrap_or_default())?;
        let advertised =
            parse_listeners("advertised.listeners", read.text("advertised.listeners").unwrap_or_default())?;
        let listener = listeners.pop().ok_or_else(|| {
            ConfigError::Invalid("listeners must name an address, as PLAINTEXT://host:port".to_owned())
        })?;
        Ok(BrokerConfig {
            log_dirs,
            metadata_log_dir,
            listener,
            advertised: advertised.into_iter().next(),
            node_id: BrokerId(i32::try_from(read.number("node.id")).unwrap_or(i32::MAX)),
            num_shards,
            io_driver: io_driver(&read),
            zero_copy_min_bytes: zero_copy_min_bytes(&read),
            num_partitions: read.size("num.partitions"),
            default_replication_factor: read.size("default.replication.factor"),
            auto_create_topics: read.flag("auto.create.topics.enable"),
            delete_topics: read.flag("delete.topic.enable"),
            max_partitions: read.size("max.partitions"),
            network: network_config(&read, num_shards),
            fetch: fetch_config(&read, num_shards),
            shard: shard_config(&read, num_shards, num_dirs),
            is_ephemeral: false,
            static_config: settings,
        })
    }
}

fn io_driver(read: &Reader<'_>) -> DriverChoice {
    match read.text("io.driver").map(str::trim) {
        Some("uring") => DriverChoice::Uring,
        Some("posix") => DriverChoice::Posix,
        // The table has refused what is none of them.
        _ => DriverChoice::Auto,
    }
}

/// What no part of a response reaches is never: the driver need not look then.
fn zero_copy_min_bytes(read: &Reader<'_>) -> usize {
    let bytes = read.size("socket.send.zero.copy.min.bytes");
    if bytes > SEND_BYTES { usize::MAX } else { bytes }
}

fn network_config(read: &Reader<'_>, num_shards: usize) -> NetworkConfig {
    NetworkConfig {
        backlog: u32::try_from(read.number("socket.listen.backlog.size")).unwrap_or(u32::MAX),
        request_max_bytes: read.size("socket.request.max.bytes"),
        request_read_timeout: read.millis("socket.request.read.timeout.ms"),
        response_write_timeout: read.millis("socket.response.write.timeout.ms"),
        drain_timeout: read.millis("shutdown.drain.timeout.ms"),
        max_idle: read.millis("connections.max.idle.ms"),
        max_connections: read.size("max.connections"),
        max_connections_per_ip: read.size("max.connections.per.ip"),
        max_in_flight: read.size("max.in.flight.requests.per.connection"),
        request_memory_bytes: read.size("queued.max.request.bytes") / num_shards,
        mailbox_slots: read.size("shard.mailbox.slots"),
    }
}

fn fetch_config(read: &Reader<'_>, num_shards: usize) -> FetchConfig {
    FetchConfig {
        max_bytes: read.size("fetch.max.bytes"),
        response_memory_bytes: read.size("queued.max.response.bytes") / num_shards,
        session_slots: read.size("max.incremental.fetch.session.cache.slots").div_ceil(num_shards),
        session_partitions: read.size("max.incremental.fetch.session.cache.partitions").div_ceil(num_shards),
        session_eviction: read.millis("min.incremental.fetch.session.eviction.ms"),
        session_max_partitions: read.size("fetch.session.max.partitions"),
    }
}

/// Each shard has logs of its own in each directory, which share what is given to all of them.
fn shard_config(read: &Reader<'_>, num_shards: usize, num_dirs: usize) -> ShardConfig {
    let shares = num_shards * num_dirs;
    let journal_file_bytes = read.number("journal.file.bytes");
    ShardConfig {
        journal_file_bytes,
        journal_max_files: read.size("journal.max.files"),
        checkpoint_interval_bytes: 2 * journal_file_bytes,
        hot_tail_bytes: read.size("hot.tail.bytes") / shares,
        retention_check_interval: read.millis("log.retention.check.interval.ms"),
        producer_id_expiration: read.millis("producer.id.expiration.ms"),
        max_producers_per_partition: read.size("max.producers.per.partition"),
        max_producers: read
            .size("max.producers")
            .div_ceil(shares)
            .max(read.size("max.producers.per.partition")),
        cleaner_enabled: read.flag("log.cleaner.enable"),
        // Not without a pause.
        cleaner_backoff: read.millis("log.cleaner.backoff.ms").max(Duration::from_millis(1)),
        cleaner_io_max_bytes_per_second: cleaner_rate(read, shares),
        cleaner_dedupe_buffer_bytes: read.size("log.cleaner.dedupe.buffer.size") / shares,
        direct_io: read.flag("log.direct.io.enable"),
        max_open_segments: read.size("max.open.segments").div_ceil(shares),
        ..ShardConfig::default()
    }
}

/// One share of the rate; `None` where there is none to speak of.
fn cleaner_rate(read: &Reader<'_>, shares: usize) -> Option<u64> {
    let rate = read.text("log.cleaner.io.max.bytes.per.second")?.trim().parse::<f64>().ok()?;
    let share = rate / shares as f64;
    (share < u64::MAX as f64).then_some((share as u64).max(1))
}

/// One a core, but for one core, which is left to the kernel and to whoever else is on the machine.
fn default_shards() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

fn parse_log_dirs(value: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let dirs: Vec<PathBuf> = parse_list(value).map(PathBuf::from).collect();
    if dirs.is_empty() { Err(ConfigError::NoDataDir) } else { Ok(dirs) }
}

fn parse_listeners(name: &str, value: &str) -> Result<Vec<HostPort>, ConfigError> {
    let listeners: Vec<HostPort> =
        parse_list(value).map(|listener| parse_listener(name, listener)).collect::<Result<_, _>>()?;
    if listeners.len() > 1 {
        return Err(ConfigError::Invalid(format!("{name} names more than one address; one is supported")));
    }
    Ok(listeners)
}

fn parse_listener(name: &str, listener: &str) -> Result<HostPort, ConfigError> {
    let address = match listener.split_once("://") {
        Some(("PLAINTEXT", address)) => address,
        Some((protocol, _)) => {
            return Err(ConfigError::Invalid(format!(
                "{name}: the protocol {protocol} is not supported, only PLAINTEXT is"
            )));
        }
        None => listener,
    };
    parse_host_port(address)
        .ok_or_else(|| ConfigError::Invalid(format!("{name}: {listener} is not PLAINTEXT://host:port")))
}

/// Reads `host:port`, where an IPv6 address stands in brackets, and no host for every interface.
#[must_use]
pub fn parse_host_port(address: &str) -> Option<HostPort> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Some(HostPort { host: address.ip().to_string(), port: address.port() });
    }
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    if host.contains([':', '/', '[', ']']) || host.chars().any(char::is_whitespace) {
        return None;
    }
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    Some(HostPort { host: host.to_owned(), port })
}

/// Reads Kafka's properties format: `name=value` a line, `#` and `!` begin a comment, a backslash at the end goes on in
/// the next line. The last of two equal names counts.
///
/// # Errors
/// [`ConfigError::Line`].
pub fn parse_properties(text: &str) -> Result<StaticConfig, ConfigError> {
    let mut settings = StaticConfig::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let mut line = first.trim_start().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.ends_with('\\') && !line.ends_with("\\\\") {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next.trim_start());
        }
        let (name, value) = line
            .split_once(['=', ':'])
            .ok_or_else(|| ConfigError::Line { line: index + 1, text: first.trim().to_owned() })?;
        settings.insert(name.trim().to_owned(), value.trim().replace("\\\\", "\\"));
    }
    Ok(settings)
}

/// Settings that would protect what is then unprotected: ignored, they do harm.
const NOT_IGNORED: &[&str] = &["authorizer.class.name"];

/// What of a file's settings is known, and a sentence about everything that is left out: as in Kafka, a file may have
/// settings that a broker does not know. Listeners that are a controller's are left out too, as ours has none to offer.
///
/// # Errors
/// [`ConfigError::Invalid`] for a setting that must not be ignored.
pub fn known_settings(file: StaticConfig) -> Result<(StaticConfig, Vec<String>), ConfigError> {
    let controllers: Vec<String> = file
        .get("controller.listener.names")
        .map(|names| parse_list(names).map(|name| format!("{name}://")).collect())
        .unwrap_or_default();
    let mut known = StaticConfig::new();
    let mut left_out = Vec::new();
    for (name, mut value) in file {
        if NOT_IGNORED.contains(&name.as_str()) && !value.is_empty() {
            return Err(ConfigError::Invalid(format!("{name} is not supported, and not ignored either")));
        }
        if broker::find(&name).is_none() {
            left_out.push(format!("there is no setting {name}, which is ignored{}", hint(&name)));
            continue;
        }
        if matches!(name.as_str(), "listeners" | "advertised.listeners") {
            let is_controllers =
                |listener: &&str| controllers.iter().any(|prefix| listener.starts_with(prefix));
            let (not_ours, ours): (Vec<&str>, Vec<&str>) = parse_list(&value).partition(is_controllers);
            left_out.extend(not_ours.iter().map(|listener| {
                format!("{name}: {listener} is ignored, since there are no controllers of their own")
            }));
            value = ours.join(",");
        }
        known.insert(name, value);
    }
    Ok((known, left_out))
}

/// The log settings of a topic's partitions, or with `None` of a topic that overrides nothing.
#[must_use]
pub fn log_config(view: &ConfigView<'_>, topic: Option<&str>) -> LogConfig {
    let number = |name: &'static str| view.topic_value(name, topic).trim().parse::<i64>().unwrap_or(-1);
    let limit = |name: &'static str| u64::try_from(number(name)).ok();
    let duration = |name: &'static str| {
        limit(name).filter(|&millis| millis != i64::MAX.cast_unsigned()).map(Duration::from_millis)
    };
    let timestamp_type = match view.topic_value("message.timestamp.type", topic).as_str() {
        "LogAppendTime" => TimestampType::LogAppendTime,
        _ => TimestampType::CreateTime,
    };
    let cleanup = view.topic_value("cleanup.policy", topic);
    LogConfig {
        segment_bytes: limit("segment.bytes").unwrap_or(1 << 30),
        segment_ms: Duration::from_millis(limit("segment.ms").unwrap_or(u64::MAX)),
        retention_bytes: limit("retention.bytes"),
        retention_ms: duration("retention.ms"),
        flush_messages: limit("flush.messages").unwrap_or(1),
        flush_ms: duration("flush.ms"),
        max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or(0),
        index_interval_bytes: limit("index.interval.bytes").unwrap_or(0),
        message_timestamp_type: timestamp_type,
        message_timestamp_before_max_ms: duration("message.timestamp.before.max.ms"),
        message_timestamp_after_max_ms: duration("message.timestamp.after.max.ms"),
        delete_enabled: parse_list(&cleanup).any(|policy| policy == "delete"),
        compact_enabled: parse_list(&cleanup).any(|policy| policy == "compact"),
        min_cleanable_dirty_ppm: millionths(&view.topic_value("min.cleanable.dirty.ratio", topic)),
        min_compaction_lag: Duration::from_millis(limit("min.compaction.lag.ms").unwrap_or(0)),
        max_compaction_lag: duration("max.compaction.lag.ms"),
        delete_retention: Duration::from_millis(limit("delete.retention.ms").unwrap_or(0)),
        segment_jitter: Duration::from_millis(limit("segment.jitter.ms").unwrap_or(0)),
        segment_index_bytes: limit("segment.index.bytes").unwrap_or(u64::MAX),
        compression: stored_compression(view, topic),
    }
}

/// A fraction from 0 to 1, which the table has checked.
fn millionths(value: &str) -> u32 {
    let fraction = value.trim().parse::<f64>().unwrap_or(0.0).clamp(0.0, 1.0);
    (fraction * 1e6).round() as u32
}

/// The codec in which a topic's batches are stored; `None` for that of each producer.
fn stored_compression(view: &ConfigView<'_>, topic: Option<&str>) -> Option<StoredCompression> {
    let level = |name| view.topic_value(name, topic).trim().parse::<i32>().ok();
    let (codec, level) = match view.topic_value("compression.type", topic).trim() {
        "uncompressed" => (Compression::None, None),
        "gzip" => (Compression::Gzip, level("compression.gzip.level")),
        "snappy" => (Compression::Snappy, None),
        "lz4" => (Compression::Lz4, None),
        "zstd" => (Compression::Zstd, level("compression.zstd.level")),
        _ => return None,
    };
    Some(StoredCompression { codec, level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_cluster::MetadataImage;

    fn settings(pairs: &[(&str, &str)]) -> StaticConfig {
        let mut settings: StaticConfig =
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        settings.entry("log.dirs".to_owned()).or_insert_with(|| "/data".to_owned());
        settings
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        BrokerConfig::from_settings(settings(pairs)).expect_err("refused").to_string()
    }

    #[test]
    fn defaults_of_the_log_are_the_log_crates() {
        let (image, file) = (MetadataImage::default(), StaticConfig::new());
        let view = ConfigView { image: &image, static_config: &file, broker_id: BrokerId(1) };
        assert_eq!(log_config(&view, None), LogConfig::default());
    }

    #[test]
    fn refusals_are_sentences_that_help() {
        assert_eq!(
            refusal(&[("num_partitions", "1")]),
            "there is no setting num_partitions (did you mean num.partitions?)"
        );
        assert_eq!(
            refusal(&[("num.partitions", "x")]),
            "Invalid value x for configuration num.partitions: Not a number of type INT"
        );
        assert_eq!(refusal(&[("log.dirs", "")]), "no data directory: set log.dirs, or give --data-dir");
        assert_eq!(
            refusal(&[("listeners", "SSL://h:1")]),
            "listeners: the protocol SSL is not supported, only PLAINTEXT is"
        );
        assert_eq!(refusal(&[("listeners", "h")]), "listeners: h is not PLAINTEXT://host:port");
    }

    #[test]
    fn log_directories_are_those_that_kafka_would_take() {
        let dirs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
            let config = BrokerConfig::from_settings(pairs.collect()).expect("valid");
            let text = |path: &Path| path.display().to_string();
            let all: Vec<String> = config.log_dirs.iter().map(|dir| text(dir)).collect();
            (all.join(" "), text(&config.metadata_log_dir))
        };
        let expected = |all: &str, metadata: &str| (all.to_owned(), metadata.to_owned());
        assert_eq!(dirs(&[("log.dir", "/a")]), expected("/a", "/a"));
        assert_eq!(dirs(&[("log.dir", "/c"), ("log.dirs", "/a, /b")]), expected("/a /b", "/a"));
        assert_eq!(dirs(&[("log.dirs", "/a,/b"), ("metadata.log.dir", "/b")]), expected("/a /b", "/b"));
        assert_eq!(dirs(&[("log.dirs", "/a"), ("metadata.log.dir", "/m")]), expected("/a", "/m"));
        let config = BrokerConfig::from_settings(settings(&[
            ("num.shards", "2"),
            ("log.dirs", "/a,/b"),
            ("hot.tail.bytes", "8388608"),
        ]));
        assert_eq!(config.expect("valid").shard.hot_tail_bytes, 2 << 20, "directories share memory, too");
    }

    #[test]
    fn budgets_are_shared_out_to_shards() {
        let config = BrokerConfig::from_settings(settings(&[
            ("num.shards", "4"),
            ("queued.max.request.bytes", "4194304"),
            ("hot.tail.bytes", "8388608"),
        ]))
        .expect("valid");
        assert_eq!(config.network.request_memory_bytes, 1 << 20);
        assert_eq!(config.shard.hot_tail_bytes, 2 << 20);
    }

    #[test]
    fn no_part_of_a_response_is_above_the_bound_for_zero_copy_by_default() {
        let bound = |set: &[(&str, &str)]| {
            BrokerConfig::from_settings(settings(set)).expect("valid").zero_copy_min_bytes
        };
        let name = "socket.send.zero.copy.min.bytes";
        assert_eq!(bound(&[]), usize::MAX);
        assert_eq!(bound(&[(name, "65536")]), 65_536);
        assert_eq!(bound(&[(name, "1048576")]), 1 << 20);
        assert_eq!(bound(&[(name, "1048577")]), usize::MAX);
    }

    #[test]
    fn addresses_are_read_in_every_form() {
        let read = |text: &str| parse_host_port(text).map(|address| address.to_string());
        assert_eq!(read("127.0.0.1:9092").as_deref(), Some("127.0.0.1:9092"));
        assert_eq!(read("[::1]:9092").as_deref(), Some("[::1]:9092"));
        assert_eq!(read("broker.example:1").as_deref(), Some("broker.example:1"));
        assert_eq!(read(":9092").as_deref(), Some("0.0.0.0:9092"));
        for wrong in ["", "9092", "host", "host:", "host:99999", "::1:9092", "a b:1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn file_of_kafkas_is_read_for_what_is_known() {
        let text = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n\
                    listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ninter.broker.listener.name=PLAINTEXT\n\
                    advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
                    controller.listener.names=CONTROLLER\nnum.network.threads=3\nnum.io.threads=8\n\
                    socket.request.max.bytes=104857600\nlog.dirs=/tmp/logs\nnum.partitions=1\n\
                    offsets.topic.replication.factor=1\nlog.retention.hours=168\nlog.segment.bytes=1073741824\n\
                    log.retention.check.interval.ms=300000\n";
        let file = parse_properties(text).expect("valid");
        let (known, left_out) = known_settings(file).expect("nothing that must not be ignored");
        assert_eq!(left_out.len(), 9, "{left_out:?}");
        assert!(left_out.iter().any(|what| what.starts_with("there is no setting num.io.threads")));
        let config = BrokerConfig::from_settings(known).expect("valid");
        assert_eq!(config.listener.to_string(), "0.0.0.0:9092");
        assert_eq!(config.advertised.expect("given").to_string(), "localhost:9092");
        let guarded = settings(&[("authorizer.class.name", "Some")]);
        assert!(known_settings(guarded).is_err());
    }

    #[test]
    fn properties_are_read_as_kafka_reads_them() {
        let text = "# comment\n! too\n\n num.partitions = 3\nlog.dirs=/a\\\n   /b\nnode.id:7\nnode.id=8\n";
        let read = parse_properties(text).expect("valid");
        let pairs: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(pairs, [("log.dirs", "/a/b"), ("node.id", "8"), ("num.partitions", "3")]);
        assert_eq!(
            parse_properties("x=1\nnonsense\n"),
            Err(ConfigError::Line { line: 2, text: "nonsense".to_owned() })
        );
    }
}

//! What can be set, under Kafka's names and with Kafka's defaults.

use std::time::Duration;

use highwater_model::compression::Compression;

use crate::wire::DEFAULT_MAX_FRAME_BYTES;

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A setting that makes no sense, by itself or with another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not `host:port`.
    #[error("`{0}` is not of the form host:port")]
    HostPort(String),
    /// Nowhere to connect to.
    #[error("bootstrap.servers is empty")]
    NoBootstrapServers,
    /// A value outside of what its setting allows, or two that contradict each other.
    #[error("{setting}: {reason}")]
    Invalid {
        /// Kafka's name of the setting.
        setting: &'static str,
        /// What it must be.
        reason: &'static str,
    },
}

impl std::str::FromStr for HostPort {
    type Err = ConfigError;

    /// `host:port`, with an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::HostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(invalid());
        }
        Ok(HostPort { host: host.to_owned(), port: port.parse().map_err(|_| invalid())? })
    }
}

/// Parses `bootstrap.servers`: `host:port`, separated by commas.
///
/// # Errors
/// [`ConfigError::HostPort`], [`ConfigError::NoBootstrapServers`].
pub fn parse_bootstrap_servers(text: &str) -> Result<Vec<HostPort>, ConfigError> {
    let servers: Vec<HostPort> =
        text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    if servers.is_empty() { Err(ConfigError::NoBootstrapServers) } else { Ok(servers) }
}

/// What every kind of client has.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `client.id`.
    pub client_id: String,
    /// `bootstrap.servers`.
    pub bootstrap_servers: Vec<HostPort>,
    /// `request.timeout.ms`: a request without an answer for so long costs its connection.
    pub request_timeout: Duration,
    /// `retry.backoff.ms`.
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`.
    pub retry_backoff_max: Duration,
    /// `reconnect.backoff.ms`.
    pub reconnect_backoff: Duration,
    /// `reconnect.backoff.max.ms`.
    pub reconnect_backoff_max: Duration,
    /// `socket.connection.setup.timeout.ms`.
    pub connection_setup_timeout: Duration,
    /// `metadata.max.age.ms`.
    pub metadata_max_age: Duration,
    /// `allow.auto.create.topics`: whether asking for an unknown topic may create it.
    pub allow_auto_create_topics: bool,
    /// Largest response accepted, in bytes. Not a setting of Kafka's clients.
    pub max_frame_bytes: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            client_id: "highwater".to_owned(),
            bootstrap_servers: Vec::new(),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_secs(1),
            connection_setup_timeout: Duration::from_secs(10),
            metadata_max_age: Duration::from_secs(300),
            allow_auto_create_topics: false,
            max_frame_bytes: DEFAULT_MAX_FRAME_BYTES,
        }
    }
}

impl ClientConfig {
    /// Kafka's defaults, with these servers.
    #[must_use]
    pub fn new(bootstrap_servers: Vec<HostPort>) -> Self {
        ClientConfig { bootstrap_servers, ..ClientConfig::default() }
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.bootstrap_servers.is_empty() {
            return Err(ConfigError::NoBootstrapServers);
        }
        require(self.request_timeout > Duration::ZERO, "request.timeout.ms", "must be above 0")
    }
}

fn require(holds: bool, setting: &'static str, reason: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid { setting, reason }) }
}

/// `acks`: whose copy an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Acks {
    /// `0`: there is no answer.
    None,
    /// `1`: the leader's.
    Leader,
    /// `all`: every in-sync replica's.
    All,
}

impl Acks {
    /// As in the request.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

impl std::str::FromStr for Acks {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "0" => Ok(Acks::None),
            "1" => Ok(Acks::Leader),
            "all" | "-1" => Ok(Acks::All),
            _ => Err(ConfigError::Invalid { setting: "acks", reason: "must be 0, 1, all or -1" }),
        }
    }
}

/// A producer's settings.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// What every client has.
    pub client: ClientConfig,
    /// `acks`.
    pub acks: Acks,
    /// `enable.idempotence`.
    pub enable_idempotence: bool,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: usize,
    /// `retries`: how often a batch is sent again.
    pub retries: u32,
    /// `delivery.timeout.ms`: from `append` to the outcome.
    pub delivery_timeout: Duration,
    /// `linger.ms`. (Kafka 4's default is 5.)
    pub linger: Duration,
    /// `batch.size`, uncompressed; 0 makes each record a batch.
    pub batch_size_bytes: usize,
    /// `buffer.memory`.
    pub buffer_memory_bytes: usize,
    /// `max.request.size`: of a request, and of a record uncompressed.
    pub max_request_size_bytes: usize,
    /// `max.block.ms`: how long an adaptor waits for memory or metadata. The core never waits.
    pub max_block: Duration,
    /// `compression.type`.
    pub compression: Compression,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            client: ClientConfig::default(),
            acks: Acks::All,
            enable_idempotence: true,
            max_in_flight: 5,
            retries: i32::MAX.cast_unsigned(),
            delivery_timeout: Duration::from_secs(120),
            linger: Duration::from_millis(5),
            batch_size_bytes: 16 * 1024,
            buffer_memory_bytes: 32 << 20,
            max_request_size_bytes: 1 << 20,
            max_block: Duration::from_secs(60),
            compression: Compression::None,
        }
    }
}

impl ProducerConfig {
    /// Kafka's defaults, with these servers.
    #[must_use]
    pub fn new(bootstrap_servers: Vec<HostPort>) -> Self {
        ProducerConfig { client: ClientConfig::new(bootstrap_servers), ..ProducerConfig::default() }
    }

    /// Checks the settings against each other, as Kafka's producer does.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.client.validate()?;
        require(self.max_in_flight >= 1, "max.in.flight.requests.per.connection", "must be at least 1")?;
        require(
            self.delivery_timeout >= self.linger.saturating_add(self.client.request_timeout),
            "delivery.timeout.ms",
            "must be at least linger.ms + request.timeout.ms",
        )?;
        require(self.buffer_memory_bytes > 0, "buffer.memory", "must be above 0")?;
        require(
            i32::try_from(self.batch_size_bytes).is_ok()
                && i32::try_from(self.max_request_size_bytes).is_ok(),
            "batch.size, max.request.size",
            "must be below 2 GiB",
        )?;
        if self.enable_idempotence {
            require(self.acks == Acks::All, "acks", "must be all with enable.idempotence")?;
            require(self.retries > 0, "retries", "must be above 0 with enable.idempotence")?;
            require(
                self.max_in_flight <= 5,
                "max.in.flight.requests.per.connection",
                "must be at most 5 with enable.idempotence",
            )?;
        }
        Ok(())
    }
}

/// `isolation.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IsolationLevel {
    /// Everything below the high watermark.
    #[default]
    ReadUncommitted,
    /// Below the last stable offset, without what was aborted.
    ReadCommitted,
}

impl IsolationLevel {
    /// As in requests.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            IsolationLevel::ReadUncommitted => 0,
            IsolationLevel::ReadCommitted => 1,
        }
    }
}

/// `auto.offset.reset`: what to do when a position is outside of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AutoOffsetReset {
    /// Go to the log's start.
    Earliest,
    /// Go to its end.
    #[default]
    Latest,
    /// Stop, and say so.
    None,
}

/// A consumer's settings.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// What every client has.
    pub client: ClientConfig,
    /// `fetch.min.bytes`.
    pub fetch_min_bytes: i32,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: i32,
    /// `max.partition.fetch.bytes`.
    pub max_partition_fetch_bytes: i32,
    /// `fetch.max.wait.ms`.
    pub fetch_max_wait: Duration,
    /// `isolation.level`.
    pub isolation_level: IsolationLevel,
    /// `auto.offset.reset`.
    pub auto_offset_reset: AutoOffsetReset,
    /// `check.crcs`.
    pub check_crcs: bool,
    /// Whether to keep fetch sessions (KIP-227), so that a request names only what changed. Kafka's consumer always
    /// does.
    pub fetch_sessions: bool,
    /// Largest size in bytes that the records of one compressed batch may grow to. Not a setting of Kafka's clients.
    pub max_decompressed_batch_bytes: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            client: ClientConfig::default(),
            fetch_min_bytes: 1,
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            fetch_max_wait: Duration::from_millis(500),
            isolation_level: IsolationLevel::ReadUncommitted,
            auto_offset_reset: AutoOffsetReset::Latest,
            check_crcs: true,
            fetch_sessions: true,
            max_decompressed_batch_bytes: 256 << 20,
        }
    }
}

impl ConsumerConfig {
    /// Kafka's defaults, with these servers.
    #[must_use]
    pub fn new(bootstrap_servers: Vec<HostPort>) -> Self {
        ConsumerConfig { client: ClientConfig::new(bootstrap_servers), ..ConsumerConfig::default() }
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.client.validate()?;
        require(self.fetch_min_bytes >= 0, "fetch.min.bytes", "must not be negative")?;
        require(
            self.fetch_max_bytes >= 0 && self.max_partition_fetch_bytes >= 0,
            "fetch.max.bytes, max.partition.fetch.bytes",
            "must not be negative",
        )?;
        require(
            self.fetch_max_wait < self.client.request_timeout,
            "fetch.max.wait.ms",
            "must be below request.timeout.ms",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_servers_are_parsed_or_refused_by_name() {
        let servers = parse_bootstrap_servers("a:1, [::1]:9092 ,").expect("two");
        assert_eq!(servers[1], HostPort { host: "::1".into(), port: 9092 });
        assert_eq!(parse_bootstrap_servers(" , "), Err(ConfigError::NoBootstrapServers));
        for bad in ["a", ":1", "a:x", "a:70000"] {
            assert_eq!(parse_bootstrap_servers(bad), Err(ConfigError::HostPort(bad.to_owned())));
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let config = ProducerConfig::new(parse_bootstrap_servers("a:1").expect("one"));
        assert_eq!(config.validate(), Ok(()));
        let refused = |change: fn(&mut ProducerConfig)| {
            let mut config = config.clone();
            change(&mut config);
            config.validate().is_err()
        };
        assert!(refused(|c| c.acks = Acks::Leader));
        assert!(refused(|c| c.max_in_flight = 6));
        assert!(refused(|c| c.retries = 0));
        assert!(refused(|c| c.delivery_timeout = Duration::from_secs(30)));
        assert!(refused(|c| c.client.bootstrap_servers.clear()));
        assert!(!refused(|c| {
            c.enable_idempotence = false;
            c.acks = Acks::None;
            c.max_in_flight = 100;
        }));
    }
}

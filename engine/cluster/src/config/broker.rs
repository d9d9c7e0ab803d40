//! The settings of a broker.

use super::topic::COMPRESSION_TYPES;
use super::{Check, ConfigDef, ConfigType};

/// Whether a setting may change while the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateMode {
    /// Only by a restart.
    ReadOnly,
    /// By IncrementalAlterConfigs, for one broker or for all.
    Dynamic,
}

/// A setting of a broker.
#[derive(Debug, Clone, Copy)]
pub struct BrokerConfigDef {
    /// The setting.
    pub def: ConfigDef,
    /// Whether it may change while the broker runs.
    pub update: UpdateMode,
}

const fn fixed(
    name: &'static str,
    ty: ConfigType,
    default: Option<&'static str>,
    check: Check,
    doc: &'static str,
) -> BrokerConfigDef {
    BrokerConfigDef { def: ConfigDef { name, ty, default, check, doc }, update: UpdateMode::ReadOnly }
}

const fn dynamic(
    name: &'static str,
    ty: ConfigType,
    default: Option<&'static str>,
    check: Check,
    doc: &'static str,
) -> BrokerConfigDef {
    BrokerConfigDef { def: ConfigDef { name, ty, default, check, doc }, update: UpdateMode::Dynamic }
}

use Check::{Any, AtLeast, Between, BetweenOr, OneOf};
use ConfigType::{Boolean, Double, Int, List, Long, String};

/// Every setting of a broker, by name. Those that Kafka does not have say so.
pub const BROKER_CONFIGS: &[BrokerConfigDef] = &[
    fixed(
        "advertised.listeners",
        List,
        None,
        Any,
        "The address that clients are told, as PLAINTEXT://host:port; the listener's own where it is not set.",
    ),
    fixed(
        "auto.create.topics.enable",
        Boolean,
        Some("true"),
        Any,
        "Whether a topic is created when a client that allows it asks for its metadata.",
    ),
    dynamic(
        "compression.gzip.level",
        Int,
        Some("-1"),
        BetweenOr(1, 9, -1),
        "See the topic's compression.gzip.level.",
    ),
    dynamic(
        "compression.lz4.level",
        Int,
        Some("9"),
        Between(1, 17),
        "See the topic's compression.lz4.level.",
    ),
    dynamic(
        "compression.type",
        String,
        Some("producer"),
        OneOf(COMPRESSION_TYPES),
        "See the topic's compression.type.",
    ),
    dynamic(
        "compression.zstd.level",
        Int,
        Some("3"),
        Between(-131_072, 22),
        "See the topic's compression.zstd.level.",
    ),
    fixed(
        "connections.max.idle.ms",
        Long,
        Some("600000"),
        AtLeast(1),
        "A connection without a request for this time in milliseconds is closed; no fetch waits longer.",
    ),
    fixed(
        "default.replication.factor",
        Int,
        Some("1"),
        Between(1, 32767),
        "Replicas of a topic that is created without saying how many.",
    ),
    fixed("delete.topic.enable", Boolean, Some("true"), Any, "Whether topics can be deleted."),
    fixed(
        "fetch.max.bytes",
        Int,
        Some("57671680"),
        AtLeast(1024),
        "The most bytes of records in one fetch response. One batch is always returned, however large.",
    ),
    fixed(
        "fetch.session.max.partitions",
        Int,
        Some("100000"),
        AtLeast(1),
        "The most partitions that one incremental fetch session remembers; a client that asks for more is served \
         without a session. Not in Kafka.",
    ),
    fixed(
        "hot.tail.bytes",
        Long,
        Some("201326592"),
        AtLeast(4_194_304),
        "Memory in bytes, of all shards together, for what was appended last: it is read from there, and written \
         behind into segments. Not in Kafka.",
    ),
    fixed(
        "io.driver",
        String,
        Some("auto"),
        OneOf(&["auto", "uring", "posix"]),
        "How the broker reaches files and sockets: uring is io_uring, posix is epoll and a few threads for files, with the \
         same guarantees at more CPU and latency; auto is uring, or posix where the system refuses io_uring. Not in Kafka.",
    ),
    fixed(
        "journal.file.bytes",
        Long,
        Some("67108864"),
        AtLeast(4_194_304),
        "Size in bytes of a journal file. A batch larger than a quarter of it is refused. Not in Kafka.",
    ),
    fixed(
        "journal.max.files",
        Int,
        Some("8"),
        Between(2, 1024),
        "Journal files that a shard may use; when all are in use, appends wait for a checkpoint. Not in Kafka.",
    ),
    fixed(
        "listeners",
        List,
        Some("PLAINTEXT://127.0.0.1:9092"),
        Any,
        "The address to listen on, as PLAINTEXT://host:port. Kafka's default listens on every interface; ours on \
         the loopback one, since nobody is authenticated.",
    ),
    fixed(
        "log.cleaner.backoff.ms",
        Long,
        Some("15000"),
        AtLeast(0),
        "How often, in milliseconds, compaction looks for a log that is dirty enough.",
    ),
    fixed(
        "log.cleaner.dedupe.buffer.size",
        Long,
        Some("134217728"),
        AtLeast(0),
        "Memory in bytes, of all shards together, for the keys of compaction, 24 bytes each, taken while it runs. Where \
         the keys of a log do not fit, it is compacted in several passes.",
    ),
    dynamic(
        "log.cleaner.delete.retention.ms",
        Long,
        Some("86400000"),
        AtLeast(0),
        "See the topic's delete.retention.ms.",
    ),
    fixed("log.cleaner.enable", Boolean, Some("true"), Any, "Whether logs are compacted."),
    fixed(
        "log.cleaner.io.max.bytes.per.second",
        Double,
        Some("1.7976931348623157E308"),
        AtLeast(1),
        "The most bytes a second, of all shards together, that compaction reads and writes.",
    ),
    dynamic(
        "log.cleaner.max.compaction.lag.ms",
        Long,
        Some("9223372036854775807"),
        AtLeast(1),
        "See the topic's max.compaction.lag.ms.",
    ),
    dynamic(
        "log.cleaner.min.cleanable.ratio",
        Double,
        Some("0.5"),
        Between(0, 1),
        "See the topic's min.cleanable.dirty.ratio.",
    ),
    dynamic(
        "log.cleaner.min.compaction.lag.ms",
        Long,
        Some("0"),
        AtLeast(0),
        "See the topic's min.compaction.lag.ms.",
    ),
    dynamic(
        "log.cleanup.policy",
        List,
        Some("delete"),
        OneOf(&["compact", "delete"]),
        "See the topic's cleanup.policy.",
    ),
    fixed("log.dir", String, None, Any, "The data directory, where log.dirs is not set."),
    fixed(
        "log.direct.io.enable",
        Boolean,
        Some("true"),
        Any,
        "Whether journal and segments bypass the page cache where the file system allows it. Not in Kafka.",
    ),
    fixed(
        "log.dirs",
        List,
        None,
        Any,
        "The data directories. If one fails, the partitions in the others are served on.",
    ),
    dynamic("log.flush.interval.messages", Long, Some("1"), AtLeast(1), "See the topic's flush.messages."),
    dynamic("log.flush.interval.ms", Long, None, AtLeast(0), "See the topic's flush.ms."),
    dynamic(
        "log.index.interval.bytes",
        Int,
        Some("4096"),
        AtLeast(0),
        "See the topic's index.interval.bytes.",
    ),
    dynamic(
        "log.index.size.max.bytes",
        Int,
        Some("10485760"),
        AtLeast(4),
        "See the topic's segment.index.bytes.",
    ),
    dynamic(
        "log.message.timestamp.after.max.ms",
        Long,
        Some("3600000"),
        AtLeast(0),
        "See the topic's message.timestamp.after.max.ms.",
    ),
    dynamic(
        "log.message.timestamp.before.max.ms",
        Long,
        Some("9223372036854775807"),
        AtLeast(0),
        "See the topic's message.timestamp.before.max.ms.",
    ),
    dynamic(
        "log.message.timestamp.type",
        String,
        Some("CreateTime"),
        OneOf(&["CreateTime", "LogAppendTime"]),
        "See the topic's message.timestamp.type.",
    ),
    dynamic("log.preallocate", Boolean, Some("false"), Any, "See the topic's preallocate."),
    dynamic("log.retention.bytes", Long, Some("-1"), Any, "See the topic's retention.bytes."),
    fixed(
        "log.retention.check.interval.ms",
        Long,
        Some("300000"),
        AtLeast(1),
        "How often, in milliseconds, segments are looked at for retention.",
    ),
    fixed(
        "log.retention.hours",
        Int,
        Some("168"),
        AtLeast(-1),
        "See the topic's retention.ms; counts where neither log.retention.ms nor log.retention.minutes is set.",
    ),
    fixed(
        "log.retention.minutes",
        Int,
        None,
        AtLeast(-1),
        "See the topic's retention.ms; counts where log.retention.ms is not set.",
    ),
    dynamic("log.retention.ms", Long, None, AtLeast(-1), "See the topic's retention.ms."),
    fixed(
        "log.roll.hours",
        Int,
        Some("168"),
        AtLeast(1),
        "See the topic's segment.ms; counts where log.roll.ms is not set.",
    ),
    fixed(
        "log.roll.jitter.hours",
        Int,
        Some("0"),
        AtLeast(0),
        "See the topic's segment.jitter.ms; counts where log.roll.jitter.ms is not set.",
    ),
    dynamic("log.roll.jitter.ms", Long, None, AtLeast(0), "See the topic's segment.jitter.ms."),
    dynamic("log.roll.ms", Long, None, AtLeast(1), "See the topic's segment.ms."),
    dynamic(
        "log.segment.bytes",
        Int,
        Some("1073741824"),
        AtLeast(1_048_576),
        "See the topic's segment.bytes.",
    ),
    dynamic(
        "log.segment.delete.delay.ms",
        Long,
        Some("60000"),
        AtLeast(0),
        "See the topic's file.delete.delay.ms.",
    ),
    fixed(
        "max.connections",
        Int,
        Some("10000"),
        AtLeast(1),
        "The most connections; one more is closed at once. Kafka's default is 2147483647.",
    ),
    fixed(
        "max.connections.per.ip",
        Int,
        Some("2147483647"),
        AtLeast(1),
        "The most connections from one address; one more is closed at once.",
    ),
    fixed(
        "max.in.flight.requests.per.connection",
        Int,
        Some("64"),
        Between(1, 65536),
        "The most produce requests of one connection that are worked on at once; the next is not read before one is \
         answered. Not in Kafka, which works on one.",
    ),
    fixed(
        "max.incremental.fetch.session.cache.partitions",
        Int,
        Some("500000"),
        AtLeast(0),
        "The most partitions that all incremental fetch sessions together remember, each in some 250 bytes; without room \
         a client is served without a session. A name longer than any topic's counts for several. Not in Kafka.",
    ),
    fixed(
        "max.incremental.fetch.session.cache.slots",
        Int,
        Some("1000"),
        AtLeast(0),
        "The most incremental fetch sessions; without a free slot a client is served without a session.",
    ),
    fixed(
        "max.open.segments",
        Int,
        Some("4096"),
        AtLeast(1),
        "Files of segments, of all shards together, that stay open; those used longest ago are closed first, and what \
         was written to them is flushed before. At most a quarter of the limit of open files is taken. Not in Kafka.",
    ),
    fixed(
        "max.partitions",
        Int,
        Some("100000"),
        AtLeast(1),
        "The most partitions of all topics together; creating more is refused. Not in Kafka.",
    ),
    fixed(
        "max.producers",
        Int,
        Some("500000"),
        AtLeast(1),
        "The most idempotent producers that all partitions remember together, one that writes to several counted in each: \
         with so many, a partition forgets one for each that is new to it. About 200 bytes of memory each. Not in Kafka.",
    ),
    fixed(
        "max.producers.per.partition",
        Int,
        Some("10000"),
        AtLeast(1),
        "The most idempotent producers that a partition remembers; the longest silent is forgotten first. Not in \
         Kafka.",
    ),
    dynamic("message.max.bytes", Int, Some("1048588"), AtLeast(0), "See the topic's max.message.bytes."),
    fixed(
        "metadata.log.dir",
        String,
        None,
        Any,
        "The directory that has the metadata log; without it the broker does not start. The first of log.dirs where it is \
         not set.",
    ),
    fixed(
        "min.incremental.fetch.session.eviction.ms",
        Long,
        Some("120000"),
        AtLeast(0),
        "A fetch session that was idle for this time in milliseconds makes room for another.",
    ),
    dynamic("min.insync.replicas", Int, Some("1"), AtLeast(1), "See the topic's min.insync.replicas."),
    fixed("node.id", Int, Some("1"), AtLeast(0), "The broker's id."),
    fixed(
        "num.partitions",
        Int,
        Some("1"),
        AtLeast(1),
        "Partitions of a topic that is created without saying how many.",
    ),
    fixed(
        "num.shards",
        Int,
        Some("0"),
        Between(0, 1024),
        "Threads that serve, each with its own partitions and connections; 0 for one a core less one, at least \
         one. Not in Kafka.",
    ),
    fixed(
        "producer.id.expiration.ms",
        Int,
        Some("86400000"),
        AtLeast(1),
        "An idempotent producer that wrote nothing to a partition for this time in milliseconds is forgotten there.",
    ),
    fixed(
        "queued.max.request.bytes",
        Long,
        Some("268435456"),
        AtLeast(1_048_576),
        "Memory in bytes, of all shards together, for requests from their first byte to their answer; no more is read \
         while it is spent. An eighth of it, where that is 16 KiB a shard or more, is for requests of up to 16 KiB alone. Kafka's default is -1, without a limit.",
    ),
    fixed(
        "queued.max.response.bytes",
        Long,
        Some("268435456"),
        AtLeast(1_048_576),
        "Bytes of records, of all shards together, in fetch responses that are not yet sent; fetches return less, \
         then wait, while it is spent. Not in Kafka.",
    ),
    fixed(
        "shard.mailbox.slots",
        Int,
        Some("1024"),
        AtLeast(1),
        "Messages from other shards that may wait for a shard; who sends one more waits. Not in Kafka.",
    ),
    fixed(
        "shutdown.drain.timeout.ms",
        Long,
        Some("15000"),
        AtLeast(0),
        "Time in milliseconds that clients have to take their answers when the broker stops, before connections are cut \
         off. Logs are closed after it, so that it must be well below the time until a supervisor kills the process. \
         Not in Kafka.",
    ),
    fixed(
        "socket.listen.backlog.size",
        Int,
        Some("1024"),
        AtLeast(1),
        "Connections that may wait to be accepted. Kafka's default is 50.",
    ),
    fixed(
        "socket.request.max.bytes",
        Int,
        Some("104857600"),
        AtLeast(1),
        "The largest request in bytes; a connection that announces more is closed.",
    ),
    fixed(
        "socket.request.read.timeout.ms",
        Long,
        Some("30000"),
        AtLeast(1),
        "A request that has not arrived whole this time in milliseconds after its first byte closes its connection. \
         Not in Kafka.",
    ),
    fixed(
        "socket.response.write.timeout.ms",
        Long,
        Some("60000"),
        AtLeast(1),
        "A client that does not take a mebibyte of its response within this time in milliseconds is disconnected. \
         Not in Kafka.",
    ),
    fixed(
        "socket.send.zero.copy.min.bytes",
        Long,
        Some("9223372036854775807"),
        AtLeast(1),
        "Responses leave in parts of at most a mebibyte; one of at least so many bytes is not copied into the socket's memory but \
         sent from where it is, and holds its memory until the client has it (SENDMSG_ZC of io_uring; io.driver=posix copies). May \
         pay on a network card that takes scattered pages, and does not over loopback. Bounded by RLIMIT_MEMLOCK; above a mebibyte \
         never. Not in Kafka.",
    ),
    dynamic(
        "unclean.leader.election.enable",
        Boolean,
        Some("false"),
        Any,
        "See the topic's unclean.leader.election.enable.",
    ),
];

/// The setting of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static BrokerConfigDef> {
    BROKER_CONFIGS
        .binary_search_by(|config| config.def.name.cmp(name))
        .ok()
        .map(|index| &BROKER_CONFIGS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted() {
        for pair in BROKER_CONFIGS.windows(2) {
            assert!(pair[0].def.name < pair[1].def.name, "{} before {}", pair[0].def.name, pair[1].def.name);
        }
    }
}

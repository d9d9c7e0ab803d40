//! The settings of a topic.

use super::{Check, ConfigDef, ConfigType};

/// A setting of a topic.
#[derive(Debug, Clone, Copy)]
pub struct TopicConfig {
    /// The setting.
    pub def: ConfigDef,
    /// Broker settings that count where the topic does not set it, the most important first, each with what its unit is
    /// in the topic's unit.
    pub synonyms: &'static [(&'static str, i64)],
}

/// Values of `compression.type`, of topics and of the broker.
pub(super) const COMPRESSION_TYPES: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

const fn config(
    name: &'static str,
    ty: ConfigType,
    default: &'static str,
    check: Check,
    synonyms: &'static [(&'static str, i64)],
    doc: &'static str,
) -> TopicConfig {
    TopicConfig { def: ConfigDef { name, ty, default: Some(default), check, doc }, synonyms }
}

/// Every setting of a topic, by name.
pub const TOPIC_CONFIGS: &[TopicConfig] = &[
    config(
        "cleanup.policy",
        ConfigType::List,
        "delete",
        Check::OneOf(&["compact", "delete"]),
        &[("log.cleanup.policy", 1)],
        "What happens to old segments. `delete` discards them when their retention time or size limit has been \
         reached; `compact` keeps the last record of each key; both may be set; an empty list keeps everything.",
    ),
    config(
        "compression.gzip.level",
        ConfigType::Int,
        "-1",
        Check::BetweenOr(1, 9, -1),
        &[("compression.gzip.level", 1)],
        "The level of gzip where compression.type=gzip.",
    ),
    config(
        "compression.lz4.level",
        ConfigType::Int,
        "9",
        Check::Between(1, 17),
        &[("compression.lz4.level", 1)],
        "The level of LZ4 where compression.type=lz4. Accepted, without effect: LZ4 has one level here.",
    ),
    config(
        "compression.type",
        ConfigType::String,
        "producer",
        Check::OneOf(COMPRESSION_TYPES),
        &[("compression.type", 1)],
        "The compression of stored batches. `producer` keeps each as its producer compressed it; with another value the \
         broker compresses anew what came with another codec.",
    ),
    config(
        "compression.zstd.level",
        ConfigType::Int,
        "3",
        Check::Between(-131_072, 22),
        &[("compression.zstd.level", 1)],
        "The level of zstd where compression.type=zstd.",
    ),
    config(
        "delete.retention.ms",
        ConfigType::Long,
        "86400000",
        Check::AtLeast(0),
        &[("log.cleaner.delete.retention.ms", 1)],
        "The time in milliseconds for which compaction keeps a tombstone, and the marker of a transaction, after the pass \
         that met it first.",
    ),
    config(
        "file.delete.delay.ms",
        ConfigType::Long,
        "60000",
        Check::AtLeast(0),
        &[("log.segment.delete.delay.ms", 1)],
        "The time in milliseconds before a file is deleted. Accepted, without effect: files are deleted at once, and who \
         reads one reads it to its end.",
    ),
    config(
        "flush.messages",
        ConfigType::Long,
        "1",
        Check::AtLeast(1),
        &[("log.flush.interval.messages", 1)],
        "Number of messages after which a flush is forced; the append that reaches it is acknowledged after the \
         flush. 1 makes every acknowledged message survive power loss, and is the default here; Kafka's default is \
         9223372036854775807, which leaves flushing to the operating system.",
    ),
    config(
        "flush.ms",
        ConfigType::Long,
        "9223372036854775807",
        Check::AtLeast(0),
        &[("log.flush.interval.ms", 1)],
        "Time in milliseconds after which a message is flushed at the latest.",
    ),
    config(
        "follower.replication.throttled.replicas",
        ConfigType::List,
        "",
        Check::Any,
        &[],
        "Replicas whose replication is throttled on the followers' side. Accepted, without effect: nothing is throttled.",
    ),
    config(
        "index.interval.bytes",
        ConfigType::Int,
        "4096",
        Check::AtLeast(0),
        &[("log.index.interval.bytes", 1)],
        "Distance in bytes of log between two entries of the offset index.",
    ),
    config(
        "leader.replication.throttled.replicas",
        ConfigType::List,
        "",
        Check::Any,
        &[],
        "Replicas whose replication is throttled on the leader's side. Accepted, without effect: nothing is throttled.",
    ),
    config(
        "local.retention.bytes",
        ConfigType::Long,
        "-2",
        Check::AtLeast(-2),
        &[],
        "The size in bytes of local segments with remote storage. Accepted, without effect: there is no remote storage.",
    ),
    config(
        "local.retention.ms",
        ConfigType::Long,
        "-2",
        Check::AtLeast(-2),
        &[],
        "The time in milliseconds of local segments with remote storage. Accepted, without effect: there is no remote \
         storage.",
    ),
    config(
        "max.compaction.lag.ms",
        ConfigType::Long,
        "9223372036854775807",
        Check::AtLeast(1),
        &[("log.cleaner.max.compaction.lag.ms", 1)],
        "The time in milliseconds after which a message is compacted, however little of the log is dirty.",
    ),
    config(
        "max.message.bytes",
        ConfigType::Int,
        "1048588",
        Check::AtLeast(0),
        &[("message.max.bytes", 1)],
        "The largest record batch in bytes that is accepted, after compression.",
    ),
    config(
        "message.timestamp.after.max.ms",
        ConfigType::Long,
        "3600000",
        Check::AtLeast(0),
        &[("log.message.timestamp.after.max.ms", 1)],
        "How far in milliseconds a message's timestamp may lie after the broker's clock. Ignored with \
         message.timestamp.type=LogAppendTime.",
    ),
    config(
        "message.timestamp.before.max.ms",
        ConfigType::Long,
        "9223372036854775807",
        Check::AtLeast(0),
        &[("log.message.timestamp.before.max.ms", 1)],
        "How far in milliseconds a message's timestamp may lie before the broker's clock. Ignored with \
         message.timestamp.type=LogAppendTime.",
    ),
    config(
        "message.timestamp.type",
        ConfigType::String,
        "CreateTime",
        Check::OneOf(&["CreateTime", "LogAppendTime"]),
        &[("log.message.timestamp.type", 1)],
        "Whether a message's timestamp is the time of its creation or of its append.",
    ),
    config(
        "min.cleanable.dirty.ratio",
        ConfigType::Double,
        "0.5",
        Check::Between(0, 1),
        &[("log.cleaner.min.cleanable.ratio", 1)],
        "The part of a log above which it is compacted: bytes that no pass has seen, of all that could be compacted.",
    ),
    config(
        "min.compaction.lag.ms",
        ConfigType::Long,
        "0",
        Check::AtLeast(0),
        &[("log.cleaner.min.compaction.lag.ms", 1)],
        "The time in milliseconds for which a message is not compacted.",
    ),
    config(
        "min.insync.replicas",
        ConfigType::Int,
        "1",
        Check::AtLeast(1),
        &[("min.insync.replicas", 1)],
        "The smallest number of in-sync replicas with which a produce with acks=all is accepted. All in-sync replicas \
         must have it, however small this number is.",
    ),
    config(
        "preallocate",
        ConfigType::Boolean,
        "false",
        Check::Any,
        &[("log.preallocate", 1)],
        "Whether a segment's file is allocated whole. Accepted, without effect: space is reserved ahead in steps, so that \
         a batch is refused before there is none.",
    ),
    config(
        "remote.log.copy.disable",
        ConfigType::Boolean,
        "false",
        Check::Any,
        &[],
        "Whether nothing more is copied to remote storage. Accepted, without effect: there is no remote storage.",
    ),
    config(
        "remote.log.delete.on.disable",
        ConfigType::Boolean,
        "false",
        Check::Any,
        &[],
        "Whether remote segments go when remote storage is switched off. Accepted, without effect: there is none.",
    ),
    config(
        "remote.storage.enable",
        ConfigType::Boolean,
        "false",
        Check::OneOf(&["false"]),
        &[],
        "Whether old segments are kept in remote storage. There is none here: only false is accepted.",
    ),
    config(
        "retention.bytes",
        ConfigType::Long,
        "-1",
        Check::Any,
        &[("log.retention.bytes", 1)],
        "The size in bytes above which a partition's oldest segments are discarded; -1 for no limit.",
    ),
    config(
        "retention.ms",
        ConfigType::Long,
        "604800000",
        Check::AtLeast(-1),
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTE_MS), ("log.retention.hours", HOUR_MS)],
        "The time in milliseconds after which a segment is discarded; -1 for no limit.",
    ),
    config(
        "segment.bytes",
        ConfigType::Int,
        "1073741824",
        Check::AtLeast(1_048_576),
        &[("log.segment.bytes", 1)],
        "The size in bytes at which a segment is closed and the next begun. Segments are discarded whole.",
    ),
    config(
        "segment.index.bytes",
        ConfigType::Int,
        "10485760",
        Check::AtLeast(4),
        &[("log.index.size.max.bytes", 1)],
        "The size in bytes of a segment's index at which the segment is closed.",
    ),
    config(
        "segment.jitter.ms",
        ConfigType::Long,
        "0",
        Check::AtLeast(0),
        &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)],
        "The most milliseconds by which a segment is closed before segment.ms, so that not all are closed at once.",
    ),
    config(
        "segment.ms",
        ConfigType::Long,
        "604800000",
        Check::AtLeast(1),
        &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)],
        "The time in milliseconds after which a segment is closed even if it is not full.",
    ),
    config(
        "unclean.leader.election.enable",
        ConfigType::Boolean,
        "false",
        Check::Any,
        &[("unclean.leader.election.enable", 1)],
        "Whether a replica that is not in sync may become leader as a last resort, which loses messages.",
    ),
];

/// Checks the settings of a topic together, each by its value that counts.
///
/// # Errors
/// What does not go together, in Kafka's words.
pub(crate) fn check_together(value: impl Fn(&'static str) -> String) -> Result<(), String> {
    let number = |name| value(name).trim().parse::<i64>().unwrap_or(0);
    let (least, most) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    if least > most {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
        ));
    }
    Ok(())
}

/// The setting of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static TopicConfig> {
    TOPIC_CONFIGS.binary_search_by(|config| config.def.name.cmp(name)).ok().map(|index| &TOPIC_CONFIGS[index])
}

#[cfg(test)]
mod tests {
    use super::super::broker;
    use super::*;

    #[test]
    fn table_is_sorted_and_synonyms_exist() {
        assert!(TOPIC_CONFIGS.is_sorted_by(|a, b| a.def.name < b.def.name));
        for config in TOPIC_CONFIGS {
            for (synonym, _) in config.synonyms {
                assert!(broker::find(synonym).is_some(), "{synonym}");
            }
        }
    }

    /// The topic settings of Apache Kafka 4 (`TopicConfig`, `LogConfig`): name, type, default.
    const KAFKAS: &[(&str, ConfigType, &str)] = &[
        ("cleanup.policy", ConfigType::List, "delete"),
        ("compression.gzip.level", ConfigType::Int, "-1"),
        ("compression.lz4.level", ConfigType::Int, "9"),
        ("compression.type", ConfigType::String, "producer"),
        ("compression.zstd.level", ConfigType::Int, "3"),
        ("delete.retention.ms", ConfigType::Long, "86400000"),
        ("file.delete.delay.ms", ConfigType::Long, "60000"),
        ("flush.messages", ConfigType::Long, "9223372036854775807"),
        ("flush.ms", ConfigType::Long, "9223372036854775807"),
        ("follower.replication.throttled.replicas", ConfigType::List, ""),
        ("index.interval.bytes", ConfigType::Int, "4096"),
        ("leader.replication.throttled.replicas", ConfigType::List, ""),
        ("local.retention.bytes", ConfigType::Long, "-2"),
        ("local.retention.ms", ConfigType::Long, "-2"),
        ("max.compaction.lag.ms", ConfigType::Long, "9223372036854775807"),
        ("max.message.bytes", ConfigType::Int, "1048588"),
        ("message.timestamp.after.max.ms", ConfigType::Long, "3600000"),
        ("message.timestamp.before.max.ms", ConfigType::Long, "9223372036854775807"),
        ("message.timestamp.type", ConfigType::String, "CreateTime"),
        ("min.cleanable.dirty.ratio", ConfigType::Double, "0.5"),
        ("min.compaction.lag.ms", ConfigType::Long, "0"),
        ("min.insync.replicas", ConfigType::Int, "1"),
        ("preallocate", ConfigType::Boolean, "false"),
        ("remote.log.copy.disable", ConfigType::Boolean, "false"),
        ("remote.log.delete.on.disable", ConfigType::Boolean, "false"),
        ("remote.storage.enable", ConfigType::Boolean, "false"),
        ("retention.bytes", ConfigType::Long, "-1"),
        ("retention.ms", ConfigType::Long, "604800000"),
        ("segment.bytes", ConfigType::Int, "1073741824"),
        ("segment.index.bytes", ConfigType::Int, "10485760"),
        ("segment.jitter.ms", ConfigType::Long, "0"),
        ("segment.ms", ConfigType::Long, "604800000"),
        ("unclean.leader.election.enable", ConfigType::Boolean, "false"),
    ];

    #[test]
    fn table_has_every_setting_of_kafkas_with_its_type_and_default_but_one() {
        let ours: Vec<_> = TOPIC_CONFIGS
            .iter()
            .map(|config| {
                let durable = config.def.name == "flush.messages";
                let default =
                    if durable { "9223372036854775807" } else { config.def.default.unwrap_or_default() };
                (config.def.name, config.def.ty, default)
            })
            .collect();
        assert_eq!(ours, KAFKAS);
        assert_eq!(find("flush.messages").and_then(|config| config.def.default), Some("1"));
    }
}

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
        Check::OneOf(&["delete"]),
        &[("log.cleanup.policy", 1)],
        "What happens to old segments. `delete` discards them when their retention time or size limit has been \
         reached; an empty list keeps everything.",
    ),
    config(
        "compression.type",
        ConfigType::String,
        "producer",
        Check::OneOf(&["producer"]),
        &[("compression.type", 1)],
        "The compression of stored batches. `producer` keeps each as its producer compressed it.",
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
        "index.interval.bytes",
        ConfigType::Int,
        "4096",
        Check::AtLeast(0),
        &[("log.index.interval.bytes", 1)],
        "Distance in bytes of log between two entries of the offset index.",
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
        "min.insync.replicas",
        ConfigType::Int,
        "1",
        Check::AtLeast(1),
        &[("min.insync.replicas", 1)],
        "The smallest number of in-sync replicas with which a produce with acks=all is accepted. All in-sync replicas \
         must have it, however small this number is.",
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
}

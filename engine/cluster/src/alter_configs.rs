//! Changing settings: IncrementalAlterConfigs.

use std::collections::BTreeSet;

use crate::config::broker::{self, UpdateMode};
use crate::config::effective::ConfigView;
use crate::config::{ConfigDef, ConfigType, check_value_size, parse_list, topic};
use crate::error::MetadataError;
use crate::image::ConfigResource;
use crate::record::Record;
use crate::topics::validate_topic_config;

/// What to do with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlterOp {
    /// Override it.
    Set,
    /// Take the override away.
    Delete,
    /// Add elements to a list.
    Append,
    /// Take elements from a list.
    Subtract,
}

impl AlterOp {
    /// From the number on the wire.
    #[must_use]
    pub fn from_code(code: i8) -> Option<Self> {
        Some(match code {
            0 => AlterOp::Set,
            1 => AlterOp::Delete,
            2 => AlterOp::Append,
            3 => AlterOp::Subtract,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            AlterOp::Set => "SET",
            AlterOp::Delete => "DELETE",
            AlterOp::Append => "APPEND",
            AlterOp::Subtract => "SUBTRACT",
        }
    }
}

/// A change of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// Name of the setting.
    pub name: String,
    /// What to do.
    pub op: AlterOp,
    /// With which value.
    pub value: Option<String>,
}

/// Changes settings of one resource, all or none: the records. What is already so takes none, as with Kafka: whoever takes away
/// what is not there, under any name, leaves nothing in the log.
///
/// # Errors
/// [`MetadataError`], in Kafka's words. Other than Kafka, a broker's setting that does not exist is refused.
pub fn alter_configs(
    view: &ConfigView<'_>,
    resource: &ConfigResource,
    changes: &[ConfigChange],
) -> Result<Vec<Record>, MetadataError> {
    check_form(changes)?;
    if let ConfigResource::Topic(name) = resource
        && view.image.topic(name).is_none()
    {
        return Err(MetadataError::UnknownTopic(format!("The topic '{name}' does not exist.")));
    }
    let records = changes
        .iter()
        .map(|change| {
            let value = new_value(view, resource, change)?;
            if let Some(value) = &value {
                check_value_size(value)?;
                validate(resource, &change.name, value)?;
            }
            Ok(Record::Config { resource: resource.clone(), name: change.name.clone(), value })
        })
        .collect::<Result<Vec<Record>, MetadataError>>()?;
    if let ConfigResource::Topic(_) = resource {
        let mut overrides = view.image.overrides(resource).cloned().unwrap_or_default();
        for record in &records {
            if let Record::Config { name, value, .. } = record {
                match value {
                    Some(value) => overrides.insert(name.clone(), value.clone()),
                    None => overrides.remove(name),
                };
            }
        }
        view.check_topic(&overrides)?;
    }
    let current = view.image.overrides(resource);
    let changes_something = |record: &Record| match record {
        Record::Config { name, value, .. } => {
            current.and_then(|overrides| overrides.get(name)).map(String::as_str) != value.as_deref()
        }
        _ => true,
    };
    Ok(records.into_iter().filter(changes_something).collect())
}

fn check_form(changes: &[ConfigChange]) -> Result<(), MetadataError> {
    let names: BTreeSet<&str> = changes.iter().map(|change| change.name.as_str()).collect();
    if names.len() < changes.len() {
        return Err(MetadataError::InvalidRequest("Error due to duplicate config keys".to_owned()));
    }
    let nulls: Vec<&str> = changes
        .iter()
        .filter(|change| change.op != AlterOp::Delete && change.value.is_none())
        .map(|change| change.name.as_str())
        .collect();
    if nulls.is_empty() {
        return Ok(());
    }
    Err(MetadataError::InvalidRequest(format!("Null value not supported for : {}", nulls.join(","))))
}

fn definition(resource: &ConfigResource, name: &str) -> Option<&'static ConfigDef> {
    match resource {
        ConfigResource::Topic(_) => topic::find(name).map(|config| &config.def),
        ConfigResource::Broker(_) | ConfigResource::AllBrokers => {
            broker::find(name).map(|config| &config.def)
        }
    }
}

fn validate(resource: &ConfigResource, name: &str, value: &str) -> Result<(), MetadataError> {
    if let ConfigResource::Topic(_) = resource {
        return validate_topic_config(name, value);
    }
    let config = broker::find(name)
        .ok_or_else(|| MetadataError::InvalidRequest(format!("Unknown broker config name: {name}")))?;
    if config.update == UpdateMode::ReadOnly {
        let why = format!("Cannot update these configs dynamically: [{name}]");
        return Err(MetadataError::InvalidRequest(why));
    }
    config.def.validate(value).map_err(MetadataError::InvalidRequest)
}

/// The override that the change leaves, if any.
fn new_value(
    view: &ConfigView<'_>,
    resource: &ConfigResource,
    change: &ConfigChange,
) -> Result<Option<String>, MetadataError> {
    if change.op == AlterOp::Delete {
        return Ok(None);
    }
    let given = change.value.clone().unwrap_or_default();
    // Before anything is done with it.
    check_value_size(&given)?;
    if change.op == AlterOp::Set {
        return Ok(Some(given));
    }
    let def = definition(resource, &change.name);
    let Some(def) = def.filter(|def| def.ty == ConfigType::List) else {
        return Err(MetadataError::InvalidConfig(format!(
            "Can't {} to key {} because its type is not LIST.",
            change.op.name(),
            change.name
        )));
    };
    let current = view.image.overrides(resource).and_then(|overrides| overrides.get(&change.name));
    let current = current.map(String::as_str).or(def.default).unwrap_or_default();
    Ok(Some(match change.op {
        AlterOp::Subtract => without(current, &given),
        _ => with(current, &given),
    }))
}

/// The list `current`, and behind it what of `given` it does not have yet.
fn with(current: &str, given: &str) -> String {
    let mut elements: Vec<&str> = parse_list(current).collect();
    let mut known: BTreeSet<&str> = elements.iter().copied().collect();
    elements.extend(parse_list(given).filter(|element| known.insert(element)));
    elements.join(",")
}

/// The list `current` without the elements of `given`.
fn without(current: &str, given: &str) -> String {
    let gone: BTreeSet<&str> = parse_list(given).collect();
    let left: Vec<&str> = parse_list(current).filter(|element| !gone.contains(element)).collect();
    left.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_VALUE_BYTES;
    use crate::config::effective::StaticConfig;
    use crate::image::MetadataImage;
    use highwater_model::{BrokerId, TopicId};

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let topic_id = TopicId(uuid::Uuid::from_u128(1));
        image.apply(&Record::Topic { topic_id, name: "t".to_owned() }).expect("fits");
        overrides("retention.ms", Some("7")).iter().for_each(|record| image.apply(record).expect("fits"));
        image
    }

    fn alter(
        resource: &ConfigResource,
        changes: &[(&str, AlterOp, Option<&str>)],
    ) -> Result<Vec<Record>, String> {
        let (image, file) = (image(), StaticConfig::new());
        let view = ConfigView { image: &image, static_config: &file, broker_id: BrokerId(1) };
        let changes: Vec<ConfigChange> = changes
            .iter()
            .map(|&(name, op, value)| ConfigChange {
                name: name.to_owned(),
                op,
                value: value.map(str::to_owned),
            })
            .collect();
        alter_configs(&view, resource, &changes).map_err(|error| error.to_string())
    }

    fn topic() -> ConfigResource {
        ConfigResource::Topic("t".to_owned())
    }

    fn overrides(name: &str, value: Option<&str>) -> Vec<Record> {
        vec![Record::Config { resource: topic(), name: name.to_owned(), value: value.map(str::to_owned) }]
    }

    #[test]
    fn valid_changes_become_records() {
        use AlterOp::{Append, Delete, Set, Subtract};
        assert_eq!(
            alter(&topic(), &[("retention.ms", Set, Some("5"))]),
            Ok(overrides("retention.ms", Some("5")))
        );
        assert_eq!(alter(&topic(), &[("retention.ms", Delete, None)]), Ok(overrides("retention.ms", None)));
        let same = Ok(overrides("cleanup.policy", Some("delete")));
        assert_eq!(alter(&topic(), &[("cleanup.policy", Append, Some("delete"))]), same);
        assert_eq!(alter(&topic(), &[("cleanup.policy", Subtract, Some("compact"))]), same);
        let both = Ok(overrides("cleanup.policy", Some("delete,compact")));
        assert_eq!(alter(&topic(), &[("cleanup.policy", Append, Some("compact"))]), both);
        let none = Ok(overrides("cleanup.policy", Some("")));
        assert_eq!(alter(&topic(), &[("cleanup.policy", Subtract, Some("delete"))]), none);
    }

    /// Each was a durable record once, with whatever name the client gave it.
    #[test]
    fn changes_that_change_nothing_take_no_record() {
        use AlterOp::{Delete, Set};
        let nothing = Ok(Vec::new());
        assert_eq!(alter(&topic(), &[("retention.ms", Set, Some("7"))]), nothing);
        assert_eq!(alter(&topic(), &[("segment.bytes", Delete, None)]), nothing);
        assert_eq!(alter(&topic(), &[(&"x".repeat(1 << 20), Delete, None)]), nothing);
        assert_eq!(alter(&ConfigResource::AllBrokers, &[("nope", Delete, None)]), nothing);
    }

    /// Each element was once compared with every other one: minutes in which the shard of the controller served nobody. What is
    /// bounded here is the work, by the size of the lists alone: that way they would take some 10^11 comparisons, which come to no
    /// end within the time that a run of the tests has.
    #[test]
    fn list_of_two_hundred_thousand_elements_is_gone_through_once() {
        let given: Vec<String> = (0..200_000).map(|number| format!("element-{number:06}")).collect();
        let given = given.join(",");
        assert_eq!(with("", &given), given);
        assert_eq!(with(&given, &given), given);
        assert_eq!(without(&given, &given), "");
        assert_eq!(with("a,a", "b,a,b"), "a,a,b");
    }

    #[test]
    fn value_that_is_longer_than_kafkas_longest_is_refused() {
        use AlterOp::{Append, Set, Subtract};
        let longest = "delete,".repeat(MAX_VALUE_BYTES / 7);
        let beyond = format!("{longest}delete");
        assert!(longest.len() <= MAX_VALUE_BYTES && beyond.len() > MAX_VALUE_BYTES);
        for op in [Set, Append, Subtract] {
            let refused = alter(&topic(), &[("cleanup.policy", op, Some(&beyond))]).expect_err("refused");
            assert!(refused.contains("exceeds the maximum value size of 32767 bytes"), "{refused}");
            assert!(alter(&topic(), &[("cleanup.policy", op, Some(&longest))]).is_ok());
        }
    }

    #[test]
    fn invalid_changes_are_refused_in_kafkas_words() {
        use AlterOp::{Append, Set};
        let refused = |resource: &ConfigResource, changes: &[(&str, AlterOp, Option<&str>)]| {
            alter(resource, changes).expect_err("refused")
        };
        assert_eq!(refused(&topic(), &[("nope", Set, Some("x"))]), "Unknown topic config name: nope");
        assert_eq!(
            refused(&topic(), &[("retention.ms", Append, Some("5"))]),
            "Can't APPEND to key retention.ms because its type is not LIST."
        );
        assert_eq!(
            refused(&topic(), &[("retention.ms", Set, None)]),
            "Null value not supported for : retention.ms"
        );
        assert_eq!(
            refused(&topic(), &[("retention.ms", Set, Some("1")), ("retention.ms", Set, Some("2"))]),
            "Error due to duplicate config keys"
        );
        assert_eq!(
            refused(
                &topic(),
                &[("min.compaction.lag.ms", Set, Some("5")), ("max.compaction.lag.ms", Set, Some("4"))]
            ),
            "conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (4)"
        );
        assert_eq!(
            refused(&ConfigResource::Topic("none".to_owned()), &[("retention.ms", Set, Some("1"))]),
            "The topic 'none' does not exist."
        );
        assert_eq!(
            refused(&ConfigResource::AllBrokers, &[("num.partitions", Set, Some("3"))]),
            "Cannot update these configs dynamically: [num.partitions]"
        );
        assert_eq!(
            refused(&ConfigResource::AllBrokers, &[("log.retention.ms", Set, Some("zz"))]),
            "Invalid value zz for configuration log.retention.ms: Not a number of type LONG"
        );
    }
}

//! Which value of a setting counts, and where it came from.
//!
//! ```text
//!   topic override ▸ this broker's override ▸ override for all brokers ▸ the broker's file ▸ default
//! ```
//!
//! Within one source the first synonym that is set counts. Kafka's rule, and what DescribeConfigs tells.

use std::collections::BTreeMap;

use highwater_model::BrokerId;

use super::broker::{self, BrokerConfigDef, UpdateMode};
use super::topic::{self, TopicConfig};
use crate::error::MetadataError;
use crate::image::{ConfigOverrides, ConfigResource, MetadataImage};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Overridden on the topic.
    Topic,
    /// Overridden on this broker.
    Broker,
    /// Overridden for all brokers.
    AllBrokers,
    /// In the broker's file or on its command line.
    Static,
    /// Nobody set it.
    Default,
}

impl ConfigSource {
    /// Number on the wire.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            ConfigSource::Topic => 1,
            ConfigSource::Broker => 2,
            ConfigSource::AllBrokers => 3,
            ConfigSource::Static => 4,
            ConfigSource::Default => 5,
        }
    }
}

/// A value, the name under which it was set, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigValue {
    /// Name of the setting or of a synonym.
    pub name: &'static str,
    /// The value as it was set there; `None` for null.
    pub value: Option<String>,
    /// Where.
    pub source: ConfigSource,
}

/// Everything that DescribeConfigs tells about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConfig {
    /// The value that counts, in the setting's own unit.
    pub value: Option<String>,
    /// Where it came from.
    pub source: ConfigSource,
    /// Whether it can be changed while the broker runs.
    pub is_read_only: bool,
    /// Every place that sets it or a synonym, the one that counts first.
    pub synonyms: Vec<ConfigValue>,
}

/// What is set in the broker's file and on its command line.
pub type StaticConfig = BTreeMap<String, String>;

/// Reads settings as one broker sees them.
#[derive(Debug, Clone, Copy)]
pub struct ConfigView<'a> {
    /// Overrides.
    pub image: &'a MetadataImage,
    /// The broker's file and command line.
    pub static_config: &'a StaticConfig,
    /// The broker.
    pub broker_id: BrokerId,
}

impl ConfigView<'_> {
    /// The broker setting `name` in every place that sets it, the one that counts first.
    fn broker_values(&self, names: &'static [(&'static str, i64)]) -> Vec<(ConfigValue, i64)> {
        let of_broker = self.image.overrides(&ConfigResource::Broker(self.broker_id));
        let of_all = self.image.overrides(&ConfigResource::AllBrokers);
        let sources = [
            (ConfigSource::Broker, of_broker),
            (ConfigSource::AllBrokers, of_all),
            (ConfigSource::Static, Some(self.static_config)),
        ];
        let mut values = Vec::new();
        for (source, overrides) in sources {
            for &(name, unit) in names {
                if let Some(value) = overrides.and_then(|overrides| overrides.get(name)) {
                    values.push((ConfigValue { name, value: Some(value.clone()), source }, unit));
                }
            }
        }
        for &(name, unit) in names {
            let default = broker::find(name).and_then(|config| config.def.default);
            if let Some(default) = default {
                let value = Some(default.to_owned());
                values.push((ConfigValue { name, value, source: ConfigSource::Default }, unit));
            }
        }
        values
    }

    /// A topic's setting, with the overrides that the topic has or is about to have.
    #[must_use]
    pub fn describe_topic(
        &self,
        config: &TopicConfig,
        overrides: Option<&ConfigOverrides>,
    ) -> DescribedConfig {
        let name = config.def.name;
        let mut values = Vec::new();
        if let Some(value) = overrides.and_then(|overrides| overrides.get(name)) {
            values.push((ConfigValue { name, value: Some(value.clone()), source: ConfigSource::Topic }, 1));
        }
        values.extend(self.broker_values(config.synonyms));
        let (value, source) = match values.first() {
            Some((first, unit)) => (first.value.as_deref().map(|value| in_unit(value, *unit)), first.source),
            None => (config.def.default.map(str::to_owned), ConfigSource::Default),
        };
        let synonyms = values.into_iter().map(|(value, _)| value).collect();
        DescribedConfig { value, source, is_read_only: false, synonyms }
    }

    /// A broker's setting.
    #[must_use]
    pub fn describe_broker(&self, config: &'static BrokerConfigDef) -> DescribedConfig {
        let of_broker = self.image.overrides(&ConfigResource::Broker(self.broker_id));
        let of_all = self.image.overrides(&ConfigResource::AllBrokers);
        let name = config.def.name;
        let set = [
            (ConfigSource::Broker, of_broker.and_then(|overrides| overrides.get(name))),
            (ConfigSource::AllBrokers, of_all.and_then(|overrides| overrides.get(name))),
            (ConfigSource::Static, self.static_config.get(name)),
        ];
        let mut synonyms: Vec<ConfigValue> = set
            .into_iter()
            .filter_map(|(source, value)| Some(ConfigValue { name, value: Some(value?.clone()), source }))
            .collect();
        if let Some(default) = config.def.default {
            let value = Some(default.to_owned());
            synonyms.push(ConfigValue { name, value, source: ConfigSource::Default });
        }
        let (value, source) = match synonyms.first() {
            Some(first) => (first.value.clone(), first.source),
            None => (None, ConfigSource::Default),
        };
        DescribedConfig { value, source, is_read_only: config.update == UpdateMode::ReadOnly, synonyms }
    }

    /// Checks that the settings of a topic with these overrides go together.
    ///
    /// # Errors
    /// [`MetadataError::InvalidConfig`].
    pub(crate) fn check_topic(&self, overrides: &ConfigOverrides) -> Result<(), MetadataError> {
        topic::check_together(|name| {
            let config = topic::find(name).expect("a constant of the check");
            self.describe_topic(config, Some(overrides)).value.unwrap_or_default()
        })
        .map_err(MetadataError::InvalidConfig)
    }

    /// The value of a topic's setting that counts.
    ///
    /// # Panics
    /// If there is no such setting: the name is a constant of the caller.
    #[must_use]
    pub fn topic_value(&self, name: &'static str, topic: Option<&str>) -> String {
        let config = topic::find(name).unwrap_or_else(|| panic!("{name} is a setting of topics"));
        let overrides =
            topic.and_then(|topic| self.image.overrides(&ConfigResource::Topic(topic.to_owned())));
        self.describe_topic(config, overrides).value.unwrap_or_default()
    }
}

/// A value in a unit that is `unit` of the setting's own; a negative one says "no limit" in every unit.
fn in_unit(value: &str, unit: i64) -> String {
    match value.trim().parse::<i64>() {
        Ok(number) if unit != 1 && number >= 0 => number.saturating_mul(unit).to_string(),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn set(image: &mut MetadataImage, resource: ConfigResource, name: &str, value: &str) {
        let record = Record::Config { resource, name: name.to_owned(), value: Some(value.to_owned()) };
        image.apply(&record).expect("fits");
    }

    #[test]
    fn sources_count_in_kafkas_order() {
        let mut image = MetadataImage::default();
        let mut file = StaticConfig::new();
        let value = |image: &MetadataImage, file: &StaticConfig| {
            let view = ConfigView { image, static_config: file, broker_id: BrokerId(1) };
            view.topic_value("retention.ms", Some("t"))
        };
        assert_eq!(value(&image, &file), "604800000");
        file.insert("log.retention.hours".to_owned(), "2".to_owned());
        assert_eq!(value(&image, &file), "7200000");
        file.insert("log.retention.minutes".to_owned(), "3".to_owned());
        assert_eq!(value(&image, &file), "180000");
        set(&mut image, ConfigResource::AllBrokers, "log.retention.ms", "4");
        assert_eq!(value(&image, &file), "4");
        set(&mut image, ConfigResource::Broker(BrokerId(2)), "log.retention.ms", "99");
        assert_eq!(value(&image, &file), "4", "another broker's override");
        set(&mut image, ConfigResource::Broker(BrokerId(1)), "log.retention.ms", "5");
        assert_eq!(value(&image, &file), "5");
        set(&mut image, ConfigResource::Topic("t".to_owned()), "retention.ms", "6");
        assert_eq!(value(&image, &file), "6");
    }

    #[test]
    fn no_limit_has_no_unit() {
        let image = MetadataImage::default();
        let file = StaticConfig::from([("log.retention.hours".to_owned(), "-1".to_owned())]);
        let view = ConfigView { image: &image, static_config: &file, broker_id: BrokerId(1) };
        assert_eq!(view.topic_value("retention.ms", None), "-1");
    }

    #[test]
    fn description_lists_every_place_that_sets_it() {
        let mut image = MetadataImage::default();
        set(&mut image, ConfigResource::Topic("t".to_owned()), "flush.messages", "7");
        let file = StaticConfig::from([("log.flush.interval.messages".to_owned(), "100".to_owned())]);
        let view = ConfigView { image: &image, static_config: &file, broker_id: BrokerId(1) };
        let config = topic::find("flush.messages").expect("exists");
        let overrides = image.overrides(&ConfigResource::Topic("t".to_owned()));
        let described = view.describe_topic(config, overrides);
        let places: Vec<_> =
            described.synonyms.iter().map(|v| (v.name, v.value.as_deref(), v.source)).collect();
        assert_eq!(described.source, ConfigSource::Topic);
        assert_eq!(
            places,
            [
                ("flush.messages", Some("7"), ConfigSource::Topic),
                ("log.flush.interval.messages", Some("100"), ConfigSource::Static),
                ("log.flush.interval.messages", Some("1"), ConfigSource::Default),
            ]
        );
    }
}

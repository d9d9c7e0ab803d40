//! Settings: one table a scope says what exists, and everything else follows from it: checks, defaults, what
//! DescribeConfigs tells, the reference in the documentation.
//!
//! * [`topic`]: what can be set on a topic, and which broker settings stand in where it is not.
//! * [`broker`]: what can be set on a broker, and whether it may change while it runs.
//! * [`effective`]: which value counts, and where it came from.
//!
//! Names, types and checks are Kafka's; defaults too, with exceptions that the table states. Of the settings of topics all
//! of Kafka's are there, since clients and tools set them; one without effect here says so. Of a broker's settings, one
//! that would be accepted without effect is not in the table.

pub mod broker;
pub mod effective;
pub mod topic;

use std::fmt;

use crate::error::MetadataError;

/// Most bytes of a value, as in Kafka: beyond that, older versions of DescribeConfigs could not tell it.
pub(crate) const MAX_VALUE_BYTES: usize = i16::MAX as usize;

/// Checks that `value` is not longer than a value may be, whatever the setting.
pub(crate) fn check_value_size(value: &str) -> Result<(), MetadataError> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    let beyond = "The configuration value cannot be added because it exceeds the maximum value size of";
    Err(MetadataError::InvalidConfig(format!("{beyond} {MAX_VALUE_BYTES} bytes.")))
}

/// Type of a setting, as DescribeConfigs tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the Kafka type that it is named after")]
pub enum ConfigType {
    Boolean,
    String,
    Int,
    Long,
    Double,
    List,
}

impl ConfigType {
    /// Number on the wire.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            ConfigType::Boolean => 1,
            ConfigType::String => 2,
            ConfigType::Int => 3,
            ConfigType::Long => 5,
            ConfigType::Double => 6,
            ConfigType::List => 7,
        }
    }
}

impl fmt::Display for ConfigType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfigType::Boolean => "BOOLEAN",
            ConfigType::String => "STRING",
            ConfigType::Int => "INT",
            ConfigType::Long => "LONG",
            ConfigType::Double => "DOUBLE",
            ConfigType::List => "LIST",
        })
    }
}

/// Which values of the type are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// All.
    Any,
    /// Numbers from this one on.
    AtLeast(i64),
    /// Numbers from the first to the second.
    Between(i64, i64),
    /// Numbers from the first to the second, or the third.
    BetweenOr(i64, i64, i64),
    /// One of these; of a list, each element.
    OneOf(&'static [&'static str]),
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct ConfigDef {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub ty: ConfigType,
    /// Value where nothing sets it; `None` for null.
    pub default: Option<&'static str>,
    /// Which values are valid.
    pub check: Check,
    /// What it means.
    pub doc: &'static str,
}

impl ConfigDef {
    /// Checks `value`.
    ///
    /// # Errors
    /// What is wrong with it, in Kafka's words.
    pub fn validate(&self, value: &str) -> Result<(), String> {
        let invalid = |why: String| format!("Invalid value {value} for configuration {}: {why}", self.name);
        match self.ty {
            ConfigType::Boolean => {
                let value = parse_bool(value)
                    .ok_or_else(|| invalid("Expected value to be either true or false".to_owned()))?;
                self.check_word(if value { "true" } else { "false" }).map_err(invalid)
            }
            ConfigType::Int => {
                let number = value.trim().parse::<i32>().map_err(|_| invalid(self.not_a_number()))?;
                self.check_number(number.into()).map_err(invalid)
            }
            ConfigType::Long => {
                let number = value.trim().parse::<i64>().map_err(|_| invalid(self.not_a_number()))?;
                self.check_number(number).map_err(invalid)
            }
            ConfigType::Double => {
                let number = value.trim().parse::<f64>().ok().filter(|number| !number.is_nan());
                let number = number.ok_or_else(|| invalid(self.not_a_number()))?;
                self.check_fraction(number).map_err(invalid)
            }
            ConfigType::String => self.check_word(value).map_err(invalid),
            ConfigType::List => parse_list(value).try_for_each(|word| {
                self.check_word(word)
                    .map_err(|why| format!("Invalid value {word} for configuration {}: {why}", self.name))
            }),
        }
    }

    fn not_a_number(&self) -> String {
        format!("Not a number of type {}", self.ty)
    }

    fn check_number(&self, number: i64) -> Result<(), String> {
        let (min, max) = match self.check {
            Check::Any | Check::OneOf(_) => return Ok(()),
            Check::AtLeast(min) => (min, i64::MAX),
            Check::BetweenOr(_, _, other) if number == other => return Ok(()),
            Check::Between(min, max) | Check::BetweenOr(min, max, _) => (min, max),
        };
        if number < min {
            Err(format!("Value must be at least {min}"))
        } else if number > max {
            Err(format!("Value must be no more than {max}"))
        } else {
            Ok(())
        }
    }

    fn check_fraction(&self, number: f64) -> Result<(), String> {
        match self.check {
            Check::AtLeast(min) | Check::Between(min, _) if number < min as f64 => {
                Err(format!("Value must be at least {min}"))
            }
            Check::Between(_, max) if number > max as f64 => Err(format!("Value must be no more than {max}")),
            _ => Ok(()),
        }
    }

    fn check_word(&self, word: &str) -> Result<(), String> {
        match self.check {
            Check::OneOf(words) if !words.contains(&word) => {
                Err(format!("String must be one of: {}", words.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

/// A boolean as Kafka reads it.
#[must_use]
pub fn parse_bool(value: &str) -> Option<bool> {
    let value = value.trim();
    if value.eq_ignore_ascii_case("true") {
        Some(true)
    } else if value.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The elements of a list as Kafka reads it: separated by commas, blanks trimmed, an empty text for none.
pub fn parse_list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_valid() {
        let broker = broker::BROKER_CONFIGS.iter().map(|config| &config.def);
        for def in topic::TOPIC_CONFIGS.iter().map(|config| &config.def).chain(broker) {
            if let Some(default) = def.default {
                assert_eq!(def.validate(default), Ok(()), "{}", def.name);
            }
            assert!(def.doc.ends_with('.'), "{} is described in sentences", def.name);
        }
    }

    #[test]
    fn errors_are_in_kafkas_words() {
        let def = topic::find("segment.bytes").expect("exists").def;
        assert_eq!(
            def.validate("abc").expect_err("no number"),
            "Invalid value abc for configuration segment.bytes: Not a number of type INT"
        );
        assert_eq!(
            def.validate("1").expect_err("too small"),
            "Invalid value 1 for configuration segment.bytes: Value must be at least 1048576"
        );
        assert!(def.validate("2147483648").is_err(), "beyond an INT");
        let def = topic::find("message.timestamp.type").expect("exists").def;
        assert_eq!(
            def.validate("x").expect_err("no such word"),
            "Invalid value x for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime"
        );
        let def = topic::find("unclean.leader.election.enable").expect("exists").def;
        assert_eq!(
            def.validate("maybe").expect_err("no boolean"),
            "Invalid value maybe for configuration unclean.leader.election.enable: \
             Expected value to be either true or false"
        );
    }

    #[test]
    fn fractions_and_flags_have_bounds_too() {
        let def = topic::find("min.cleanable.dirty.ratio").expect("exists").def;
        assert_eq!(def.validate("0.01"), Ok(()));
        for wrong in ["1.5", "-0.1", "x", "NaN"] {
            assert!(def.validate(wrong).is_err(), "{wrong}");
        }
        let def = topic::find("remote.storage.enable").expect("exists").def;
        assert_eq!(def.validate("false"), Ok(()));
        assert!(def.validate("true").is_err(), "there is no remote storage");
    }

    #[test]
    fn lists_are_split_at_commas_and_trimmed() {
        assert_eq!(parse_list(" a, b ,").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(parse_list("").count(), 0);
    }
}

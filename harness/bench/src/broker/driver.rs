//! Broker drivers: what a file in `workloads/brokers/` says about how to run one kind of broker.
//!
//! A driver is commands and a template, no code: it says where the broker is installed, what its configuration file
//! looks like, how it is prepared and started, and which broker settings a flush policy needs besides the topic
//! settings `flush.messages` and `flush.ms`, which every broker is given through CreateTopics.
//!
//! Placeholders, in the template, in commands and in values of settings:
//!
//! | | |
//! |---|---|
//! | `{home}` | where the broker is installed |
//! | `{data}` | the data directory, on the medium under test |
//! | `{work}` | a directory for everything else, on no such medium |
//! | `{config}` | the configuration file, written from the template |
//! | `{port}`, `{port2}` | two free ports on 127.0.0.1 |
//! | `{settings}` | all broker settings, each written as `setting` says |
//! | `{value}` | in `[flush.…]`: the value of the policy |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::admin::Settings;
use crate::workload::document::{Field, Problems, Reader, Section, nearest};
use crate::workload::settings::Flush;
use crate::workload::units;

/// A name of a setting is a slip of the pen if it is no further than this, in edits, from a known one.
const SLIP: usize = 2;

/// One kind of broker.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Its name on the command line and in workloads.
    pub name: String,
    /// Its name in the report.
    pub title: String,
    /// Where it may be installed, the first that exists wins.
    homes: Vec<String>,
    /// A path under the home that an installation has.
    marker: String,
    /// What to do when it is not installed.
    missing: String,
    /// The command whose first line of output is the version.
    version: Vec<String>,
    config_file: Option<String>,
    config: String,
    setting: Vec<String>,
    /// Commands that make a fresh data directory usable; the file system is synced after them.
    prepare: Vec<Vec<String>>,
    start: Vec<String>,
    environment: BTreeMap<String, String>,
    /// How long until a started broker must answer, also when it recovers.
    pub ready_within: Duration,
    /// How long until a stopped broker must be gone.
    pub stop_within: Duration,
    /// The signal that stops it cleanly.
    pub stop_signal: Signal,
    /// Settings it always has.
    settings: Settings,
    flush_messages: Settings,
    flush_ms: Settings,
    flush_check_interval: Option<String>,
    /// Broker settings that the report prints as they are in effect.
    pub shown: Vec<String>,
    /// Names of the files in which it notes how far its log is recovered.
    pub checkpoint_files: Vec<String>,
    /// Broker settings whose product is the bytes that its journal or log buffer takes before it is written over.
    lap: Vec<String>,
    known: Known,
}

/// The names of all settings that a broker has, where the driver tells them.
#[derive(Debug, Clone, Default)]
struct Known {
    topic: Option<Vec<String>>,
    broker: Option<Vec<String>>,
}

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No file for the broker's name.
    #[error("no broker is called {name}: {path} cannot be read ({source})", path = path.display())]
    Unreadable {
        /// The name.
        name: String,
        /// Where the driver would be.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// The file says something wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
    /// The broker is not there.
    #[error("{title} is not installed ({looked}): {missing}")]
    NotInstalled {
        /// The broker.
        title: String,
        /// Where it was looked for.
        looked: String,
        /// What to do.
        missing: String,
    },
}

/// Where the broker of one cell lives: what the placeholders stand for.
#[derive(Debug, Clone)]
pub struct Place {
    /// `{home}`
    pub home: PathBuf,
    /// `{data}`
    pub data: PathBuf,
    /// `{work}`
    pub work: PathBuf,
    /// `{port}`
    pub port: u16,
    /// `{port2}`
    pub port2: u16,
}

/// A command, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Program and arguments, at least one.
    pub words: Vec<String>,
    /// Variables added to the environment.
    pub environment: BTreeMap<String, String>,
}

/// Everything a driver says, for one place and one set of settings.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Path and content of the configuration file.
    pub config: Option<(PathBuf, String)>,
    /// See [`Driver::prepare`].
    pub prepare: Vec<Line>,
    /// The broker itself.
    pub start: Line,
}

impl Driver {
    /// Reads the driver `name` from `directory`.
    pub fn read(directory: &Path, name: &str) -> Result<Driver, DriverError> {
        let path = directory.join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).map_err(|source| DriverError::Unreadable {
            name: name.to_owned(),
            path: path.clone(),
            source,
        })?;
        Ok(parse(&path, name, &text)?)
    }

    /// Where the broker is installed. Relative homes are relative to `root`.
    pub fn home(&self, root: &Path) -> Result<PathBuf, DriverError> {
        let expanded = self.homes.iter().filter_map(|home| expand_variable(home));
        let candidates: Vec<PathBuf> = expanded.map(|home| root.join(home)).collect();
        if let Some(home) = candidates.iter().find(|home| home.join(&self.marker).exists()) {
            return Ok(home.clone());
        }
        let looked: Vec<String> =
            candidates.iter().map(|home| format!("no {}", home.join(&self.marker).display())).collect();
        Err(DriverError::NotInstalled {
            title: self.title.clone(),
            looked: looked.join(", "),
            missing: self.missing.clone(),
        })
    }

    /// The broker settings of a cell: the driver's own, those of the flush policy, then `overrides`.
    #[must_use]
    pub fn settings_for(&self, flush: Flush, overrides: Option<&Settings>) -> Settings {
        let mut settings = self.settings.clone();
        for (mapping, value) in [(&self.flush_messages, flush.messages), (&self.flush_ms, flush.ms)] {
            let Some(value) = value.map(|value| value.to_string()) else { continue };
            settings
                .extend(mapping.iter().map(|(name, text)| (name.clone(), text.replace("{value}", &value))));
        }
        settings.extend(overrides.cloned().unwrap_or_default());
        settings
    }

    /// What is wrong with a topic setting of this name, if the driver can tell.
    #[must_use]
    pub fn unknown_topic_setting(&self, name: &str) -> Option<String> {
        let message = unknown(name, self.known.topic.as_ref()?, "topic")?;
        Some(format!("{} {message}", self.title))
    }

    /// What is wrong with a broker setting of this name, if the driver can tell. Where it does not list them all, one
    /// that is spelled almost like one of its own is taken for a mistake.
    #[must_use]
    pub fn unknown_broker_setting(&self, name: &str) -> Option<String> {
        if let Some(known) = &self.known.broker {
            return Some(format!("{} {}", self.title, unknown(name, known, "broker")?));
        }
        let mapped: Vec<String> = [&self.settings, &self.flush_messages, &self.flush_ms]
            .into_iter()
            .flat_map(|settings| settings.keys())
            .chain(&self.shown)
            .chain(&self.flush_check_interval)
            .cloned()
            .collect();
        let meant = nearest(name, &mapped, SLIP).filter(|&meant| meant != name)?;
        Some(format!("is not a setting that the driver of {} has; did you mean `{meant}`?", self.title))
    }

    /// How often this broker looks whether `flush.ms` has passed, from its settings in effect; 0 if it flushes by
    /// itself, `None` if it never looks.
    #[must_use]
    pub fn flush_check_interval_ms(&self, effective: &Settings) -> Option<u64> {
        let Some(name) = &self.flush_check_interval else { return Some(0) };
        let interval: u64 = effective.get(name)?.parse().ok()?;
        // Kafka writes "never" as the largest long.
        (interval < i64::MAX as u64).then_some(interval)
    }

    /// The bytes of one lap of its journal or log buffer, by the settings in effect; `None` if it has none, or does not say.
    /// A setting of 0 stands for one a core less one, at least one.
    #[must_use]
    pub fn lap_bytes(&self, effective: &Settings) -> Option<u64> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let value = |name: &String| match effective.get(name)?.parse::<u64>().ok()? {
            0 => Some(cores.saturating_sub(1).max(1)),
            value => Some(value),
        };
        let product = self.lap.iter().try_fold(1_u64, |product, name| product.checked_mul(value(name)?));
        product.filter(|_| !self.lap.is_empty())
    }

    /// The command that prints the version.
    #[must_use]
    pub fn version_line(&self, place: &Place) -> Option<Line> {
        if self.version.is_empty() {
            return None;
        }
        Some(self.line(&self.version, place, &Settings::new()))
    }

    /// Files and commands for one cell.
    #[must_use]
    pub fn plan(&self, place: &Place, settings: &Settings) -> Plan {
        let config = self.config_file.as_ref().map(|name| {
            let lines: Vec<String> =
                settings.iter().map(|(name, value)| self.written(name, value, place).join(" ")).collect();
            (place.work.join(name), fill(&self.config.replace("{settings}", &lines.join("\n")), place, self))
        });
        Plan {
            config,
            prepare: self.prepare.iter().map(|words| self.line(words, place, settings)).collect(),
            start: self.line(&self.start, place, settings),
        }
    }

    fn line(&self, words: &[String], place: &Place, settings: &Settings) -> Line {
        let mut filled = Vec::new();
        for word in words {
            if word == "{settings}" {
                filled.extend(settings.iter().flat_map(|(name, value)| self.written(name, value, place)));
            } else {
                filled.push(fill(word, place, self));
            }
        }
        let environment =
            self.environment.iter().map(|(name, value)| (name.clone(), fill(value, place, self))).collect();
        Line { words: filled, environment }
    }

    fn written(&self, name: &str, value: &str, place: &Place) -> Vec<String> {
        let value = fill(value, place, self);
        self.setting.iter().map(|word| word.replace("{name}", name).replace("{value}", &value)).collect()
    }
}

fn fill(text: &str, place: &Place, driver: &Driver) -> String {
    let config = driver.config_file.as_ref().map(|name| place.work.join(name)).unwrap_or_default();
    text.replace("{home}", &place.home.to_string_lossy())
        .replace("{data}", &place.data.to_string_lossy())
        .replace("{work}", &place.work.to_string_lossy())
        .replace("{config}", &config.to_string_lossy())
        .replace("{port2}", &place.port2.to_string())
        .replace("{port}", &place.port.to_string())
}

/// `$NAME` and `$NAME/rest`, if the variable is set; anything else as it is.
fn expand_variable(home: &str) -> Option<PathBuf> {
    let Some(named) = home.strip_prefix('$') else { return Some(PathBuf::from(home)) };
    let (name, rest) = named.split_once('/').unwrap_or((named, ""));
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    Some(if rest.is_empty() { PathBuf::from(value) } else { PathBuf::from(value).join(rest) })
}

fn parse(path: &Path, name: &str, text: &str) -> Result<Driver, Problems> {
    let mut reader = Reader::new(path, text);
    let document = reader.parse()?;
    let driver = read(&mut reader, name, &document);
    reader.finish(driver)
}

fn read(reader: &mut Reader<'_>, name: &str, document: &toml::de::DeTable<'_>) -> Option<Driver> {
    let tables = ["settings", "environment", "flush.messages", "flush.ms"];
    let mut top = Section::new(reader, "", 0, document, &tables);
    let title = top.require(reader, "title", owned);
    let homes = top.require(reader, "home", words);
    let marker = top.require(reader, "marker", owned);
    let missing = top.require(reader, "missing", owned);
    let start = top.require(reader, "start", command);
    let version = top.read(reader, "version", command).unwrap_or_default();
    let config_file = top.read(reader, "config_file", owned);
    let config = top.read(reader, "config", owned).unwrap_or_default();
    let setting = top.read(reader, "setting", words).unwrap_or_else(|| vec!["{name}={value}".to_owned()]);
    let prepare = top.read(reader, "prepare", commands).unwrap_or_default();
    let ready_within = top.read(reader, "ready_within", units::positive_duration);
    let stop_within = top.read(reader, "stop_within", units::positive_duration);
    let stop_signal = top.read(reader, "stop_signal", signal).unwrap_or(Signal::TERM);
    let shown = top.read(reader, "shown", words).unwrap_or_default();
    let checkpoint_files = top.read(reader, "checkpoint_files", words).unwrap_or_default();
    let lap = top.read(reader, "lap", words).unwrap_or_default();
    let flush_check_interval = top.read(reader, "flush.check_interval", owned);
    let settings = top.settings(reader, "settings");
    let environment = top.settings(reader, "environment");
    let flush_messages = top.settings(reader, "flush.messages");
    let flush_ms = top.settings(reader, "flush.ms");
    let known = Known {
        topic: top.read(reader, "known.topic", words),
        broker: top.read(reader, "known.broker", words),
    };
    top.finish(reader);
    let driver = Driver {
        name: name.to_owned(),
        title: title?,
        homes: homes?,
        marker: marker?,
        missing: missing?,
        version,
        config_file,
        config,
        setting,
        prepare,
        start: start?,
        environment,
        ready_within: ready_within.unwrap_or(Duration::from_secs(60)),
        stop_within: stop_within.unwrap_or(Duration::from_secs(30)),
        stop_signal,
        settings,
        flush_messages,
        flush_ms,
        flush_check_interval,
        shown,
        checkpoint_files,
        lap,
        known,
    };
    check_known(reader, &driver);
    Some(driver)
}

/// `has no such … setting`, unless it is a known one.
fn unknown(name: &str, known: &[String], of: &str) -> Option<String> {
    if known.iter().any(|known| known == name) {
        return None;
    }
    let hint = match nearest(name, known, 1 + name.len() / 4) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("its driver lists those it has in `known.{of}`"),
    };
    Some(format!("has no {of} setting of this name; {hint}"))
}

/// Reports the broker settings of the driver itself that the broker does not have.
fn check_known(reader: &mut Reader<'_>, driver: &Driver) {
    let tables = [
        ("settings", &driver.settings),
        ("flush.messages", &driver.flush_messages),
        ("flush.ms", &driver.flush_ms),
    ];
    let in_tables = tables
        .into_iter()
        .flat_map(|(table, settings)| settings.keys().map(move |name| (format!("{table}.{name}"), name)));
    let shown = |(index, name)| (format!("shown[{index}]"), name);
    let shown = driver.shown.iter().enumerate().map(shown);
    let interval = driver.flush_check_interval.iter().map(|name| ("flush.check_interval".to_owned(), name));
    let lap = driver.lap.iter().enumerate().map(|(index, name)| (format!("lap[{index}]"), name));
    let Some(known) = &driver.known.broker else { return };
    for (key, name) in in_tables.chain(shown).chain(interval).chain(lap) {
        if let Some(message) = unknown(name, known, "broker") {
            reader.report_key(&key, format!("{} {message}", driver.title));
        }
    }
}

fn owned(field: &Field<'_>) -> Result<String, String> {
    field.text().map(str::to_owned)
}

fn words(field: &Field<'_>) -> Result<Vec<String>, String> {
    field.items().iter().map(owned).collect()
}

fn command(field: &Field<'_>) -> Result<Vec<String>, String> {
    if !field.value.is_array() {
        return Err(format!("{} is not a command: write [\"program\", \"argument\"]", field.shown()));
    }
    let words = words(field)?;
    if words.is_empty() { Err("is an empty command".to_owned()) } else { Ok(words) }
}

fn commands(field: &Field<'_>) -> Result<Vec<Vec<String>>, String> {
    field.items().iter().map(command).collect()
}

fn signal(field: &Field<'_>) -> Result<Signal, String> {
    match field.text()? {
        "TERM" => Ok(Signal::TERM),
        "INT" => Ok(Signal::INT),
        "QUIT" => Ok(Signal::QUIT),
        other => Err(format!("\"{other}\" is not one of \"TERM\", \"INT\", \"QUIT\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = r#"
title = "Fake"
home = ["$HIGHWATER_TEST_UNSET", "nowhere", "."]
marker = "Cargo.toml"
missing = "install it"
config_file = "fake.properties"
config = """
port={port}
log.dirs={data}
{settings}
"""
prepare = [["{home}/format", "{config}"]]
start = ["{home}/fake", "--port2", "{port2}", "{settings}"]
setting = ["--set", "{name}={value}"]
stop_signal = "INT"
[settings]
a.b = 1
[environment]
LOGS = "{work}/logs"
[flush]
check_interval = "check.ms"
[flush.ms]
"check.ms" = "{value}"
"#;

    fn driver() -> Driver {
        parse(Path::new("fake.toml"), "fake", DRIVER).unwrap()
    }

    fn place() -> Place {
        Place { home: "/h".into(), data: "/d".into(), work: "/w".into(), port: 1, port2: 2 }
    }

    #[test]
    fn plan_fills_template_commands_and_environment() {
        let settings = driver().settings_for(Flush { messages: None, ms: Some(100) }, None);
        let plan = driver().plan(&place(), &settings);
        let (path, content) = plan.config.unwrap();
        assert_eq!(path, Path::new("/w/fake.properties"));
        assert_eq!(content, "port=1\nlog.dirs=/d\n--set a.b=1\n--set check.ms=100\n");
        assert_eq!(plan.prepare[0].words, ["/h/format", "/w/fake.properties"]);
        let expected = ["/h/fake", "--port2", "2", "--set", "a.b=1", "--set", "check.ms=100"];
        assert_eq!(plan.start.words, expected);
        assert_eq!(plan.start.environment["LOGS"], "/w/logs");
    }

    #[test]
    fn settings_follow_the_flush_policy_and_give_way_to_overrides() {
        assert!(!driver().settings_for(Flush::NEVER, None).contains_key("check.ms"));
        let overrides = Settings::from([("a.b".to_owned(), "7".to_owned())]);
        assert_eq!(driver().settings_for(Flush::NEVER, Some(&overrides))["a.b"], "7");
    }

    #[test]
    fn check_interval_is_read_from_the_settings_in_effect() {
        let effective = |value: &str| Settings::from([("check.ms".to_owned(), value.to_owned())]);
        assert_eq!(driver().flush_check_interval_ms(&effective("100")), Some(100));
        assert_eq!(driver().flush_check_interval_ms(&effective("9223372036854775807")), None);
        assert_eq!(driver().flush_check_interval_ms(&Settings::new()), None);
        let by_itself = Driver { flush_check_interval: None, ..driver() };
        assert_eq!(by_itself.flush_check_interval_ms(&Settings::new()), Some(0));
    }

    #[test]
    fn lap_is_the_product_of_its_settings_in_effect() {
        let lap = Driver { lap: vec!["file.bytes".to_owned(), "files".to_owned()], ..driver() };
        let effective = |files: &str| {
            Settings::from([
                ("file.bytes".to_owned(), "64".to_owned()),
                ("files".to_owned(), files.to_owned()),
            ])
        };
        assert_eq!(lap.lap_bytes(&effective("8")), Some(512));
        assert!(lap.lap_bytes(&effective("0")).unwrap() >= 64);
        assert_eq!(lap.lap_bytes(&Settings::new()), None);
        assert_eq!(driver().lap_bytes(&effective("8")), None);
    }

    #[test]
    fn home_is_the_first_that_has_the_marker() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(driver().home(root).unwrap(), root.join("."));
        let error = Driver { marker: "no-such-file".into(), ..driver() }.home(root).unwrap_err().to_string();
        assert!(
            error.starts_with("Fake is not installed (no ") && error.ends_with(": install it"),
            "{error}"
        );
    }

    #[test]
    fn wrong_driver_names_line_and_key() {
        let text = DRIVER.replace("\"INT\"", "\"HUP\"").replace("marker", "markr");
        let error = parse(Path::new("fake.toml"), "fake", &text).unwrap_err().to_string();
        assert!(error.contains("fake.toml:15: stop_signal: \"HUP\" is not one of"), "{error}");
        assert!(error.contains("markr: is not a known field; did you mean `marker`?"), "{error}");
        assert!(error.contains("marker: is missing"), "{error}");
    }

    #[test]
    fn setting_that_the_broker_does_not_have_is_reported_in_the_driver_and_told_of_others() {
        let listed = format!("{DRIVER}[known]\ntopic = ['segment.bytes']\nbroker = ['a.b', 'check.ms']\n");
        let driver = parse(Path::new("fake.toml"), "fake", &listed).unwrap();
        assert_eq!(driver.unknown_topic_setting("segment.bytes"), None);
        assert_eq!(
            driver.unknown_topic_setting("segment.byte").unwrap(),
            "Fake has no topic setting of this name; did you mean `segment.bytes`?"
        );
        assert_eq!(
            driver.unknown_broker_setting("quite.different").unwrap(),
            "Fake has no broker setting of this name; its driver lists those it has in `known.broker`"
        );
        let wrong = listed.replace("a.b = 1", "a.c = 1").replace("\"check.ms\" = ", "\"check.s\" = ");
        let error = parse(Path::new("fake.toml"), "fake", &wrong).unwrap_err().to_string();
        assert!(error.contains("fake.toml:17: settings.a.c: Fake has no broker setting"), "{error}");
        assert!(error.contains("fake.toml:23: flush.ms.check.s: Fake has no broker setting"), "{error}");
    }

    #[test]
    fn driver_that_lists_no_settings_knows_a_slip_of_the_pen_in_its_own() {
        assert_eq!(driver().unknown_topic_setting("anything"), None);
        assert_eq!(driver().unknown_broker_setting("check.ms"), None);
        assert_eq!(driver().unknown_broker_setting("log.segment.bytes"), None);
        let message = driver().unknown_broker_setting("check_ms").unwrap();
        assert!(message.ends_with("did you mean `check.ms`?"), "{message}");
    }

    #[test]
    fn broker_without_a_driver_is_named() {
        let error = Driver::read(Path::new("/nonexistent"), "rabbit").unwrap_err().to_string();
        assert!(error.starts_with("no broker is called rabbit"), "{error}");
    }
}

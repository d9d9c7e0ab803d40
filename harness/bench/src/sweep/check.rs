//! What a workload says of brokers, held against their drivers: the file by itself cannot tell whether a broker is there
//! or has a setting. Values are left to the broker; where it refuses one, [`blame`] says where that was written.

use std::collections::BTreeMap;
use std::path::Path;

use super::SweepError;
use crate::broker::admin::{AdminError, Settings};
use crate::broker::driver::{Driver, DriverError};
use crate::broker::process::BrokerError;
use crate::cell::CellError;
use crate::workload::document::nearest;
use crate::workload::{Problem, Problems, Workload};

/// Kafka's error code for a setting that a topic cannot have.
const INVALID_CONFIG: i16 = 40;

/// The drivers of `brokers`, by name, if they and everything that the workload says of brokers make sense. Every
/// problem of the workload is reported at once; one of a driver's own file is reported by itself.
pub(super) fn drivers(
    workload: &Workload,
    directory: &Path,
    brokers: &[String],
) -> Result<BTreeMap<String, Driver>, SweepError> {
    let mut check = Check { workload, directory, drivers: BTreeMap::new(), problems: Vec::new() };
    for (index, name) in workload.brokers.iter().enumerate() {
        // One broker may stand there without a list; and without either it is the default.
        let keys = [format!("brokers[{index}]"), "brokers".to_owned()];
        let key = keys.iter().find(|key| workload.lines.contains_key(*key)).unwrap_or(&keys[1]);
        check.find(name, key)?;
    }
    for (name, settings) in &workload.settings {
        let table = format!("settings.{name}");
        check.find(name, &table)?;
        check.settings(settings, &table, name, Driver::unknown_broker_setting);
    }
    for name in brokers {
        if !workload.brokers.contains(name) && !check.drivers.contains_key(name) {
            // Not of the workload: it was asked for by name, and the error is of that name.
            check.drivers.insert(name.clone(), Driver::read(directory, name)?);
        }
        check.settings(&workload.topic, "topic", name, Driver::unknown_topic_setting);
    }
    let Check { mut drivers, mut problems, .. } = check;
    if problems.is_empty() {
        drivers.retain(|name, _| brokers.contains(name));
        return Ok(drivers);
    }
    problems.sort_by_key(|problem| problem.line);
    problems.dedup();
    Err(SweepError::Workload(Problems { path: workload.path.clone(), problems }.into()))
}

struct Check<'a> {
    workload: &'a Workload,
    directory: &'a Path,
    drivers: BTreeMap<String, Driver>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    /// Reads the driver `name`; that there is none is a problem of the workload at `key`.
    fn find(&mut self, name: &str, key: &str) -> Result<(), DriverError> {
        match Driver::read(self.directory, name) {
            Ok(driver) => {
                self.drivers.insert(name.to_owned(), driver);
            }
            Err(DriverError::Unreadable { path, source, .. }) => {
                let there = names(self.directory);
                let hint = match nearest(name, &there, 1 + name.len() / 4) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("there are: {}", there.join(", ")),
                };
                let path = path.display();
                let message = format!("no broker is called {name}: {path} cannot be read ({source}); {hint}");
                self.problems.push(self.workload.problem(key, message));
            }
            Err(wrong) => return Err(wrong),
        }
        Ok(())
    }

    fn settings(
        &mut self,
        settings: &Settings,
        table: &str,
        broker: &str,
        unknown: fn(&Driver, &str) -> Option<String>,
    ) {
        let Some(driver) = self.drivers.get(broker) else { return };
        for name in settings.keys() {
            if let Some(message) = unknown(driver, name) {
                self.problems.push(self.workload.problem(&format!("{table}.{name}"), message));
            }
        }
    }
}

/// The brokers that have a driver in `directory`, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// `error`, with the places of the workload that it is about: the settings that a broker names when it refuses to start
/// or to make a topic. Only before a fault; what comes after it is no matter of settings. Nor is a start that takes too
/// long: that broker refused nothing, and brokers log their settings.
pub(super) fn blame(error: CellError, workload: &Workload, broker: &str) -> CellError {
    let of_topic = || workload.topic.keys().map(|name| (format!("topic.{name}"), name.as_str()));
    let of_broker = || {
        let names = workload.settings.get(broker).into_iter().flat_map(BTreeMap::keys);
        names.map(|name| (format!("settings.{broker}.{name}"), name.as_str()))
    };
    let mut keys: Vec<(String, &str)> = match &error {
        CellError::Admin(AdminError::Refused { message, .. }) => {
            said(message.as_deref().unwrap_or_default(), of_topic())
        }
        CellError::NotInEffect(message) => said(message, of_topic()),
        CellError::Broker(BrokerError::Ended { quoted, .. } | BrokerError::Prepare { quoted, .. }) => {
            said(quoted, of_broker())
        }
        _ => return error,
    };
    if let (true, CellError::Admin(AdminError::Refused { code: INVALID_CONFIG, .. })) =
        (keys.is_empty(), &error)
    {
        // It does not say which; it is one of these.
        keys = of_topic().collect();
    }
    if keys.is_empty() {
        return error;
    }
    let problem = |(key, name): (String, &str)| {
        let value = workload.topic.get(name).filter(|_| key.starts_with("topic."));
        let value = value.or_else(|| workload.settings.get(broker)?.get(name)).map_or("", String::as_str);
        workload.problem(&key, format!("{value:?} was asked for"))
    };
    let mut problems: Vec<Problem> = keys.into_iter().map(problem).collect();
    problems.sort_by_key(|problem| problem.line);
    let source = Box::new(error);
    CellError::Setting { problems: Problems { path: workload.path.clone(), problems }, source }
}

/// Those whose name `text` has as a word.
fn said<'n>(text: &str, names: impl Iterator<Item = (String, &'n str)>) -> Vec<(String, &'n str)> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let words: Vec<&str> = text
        .split(|c| !in_name(c))
        // A sentence may end with the name, and a flag begins with dashes.
        .map(|word| word.trim_end_matches('.').trim_start_matches('-'))
        .collect();
    names.filter(|(_, name)| words.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAKE: &str = "title='Fake'\nhome='.'\nmarker='x'\nmissing='m'\nstart=['x']\n\
                        [known]\ntopic=['segment.bytes']\nbroker=['num.shards']\n";

    /// A workload file with the driver `fake` beside it.
    fn check(rest: &str, brokers: &[&str]) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.toml");
        std::fs::write(&path, format!("name = 'w'\ndescription = 'd'\nseed = 1\n{rest}[[grid]]\n")).unwrap();
        let beside = directory.path().join("brokers");
        std::fs::create_dir(&beside).unwrap();
        std::fs::write(beside.join("fake.toml"), FAKE).unwrap();
        let workload = Workload::read(&path).unwrap();
        let brokers: Vec<String> = match brokers {
            [] => workload.brokers.clone(),
            given => given.iter().map(|&name| name.to_owned()).collect(),
        };
        let found = drivers(&workload, &beside, &brokers);
        let here = format!("{}/", directory.path().display());
        found
            .map(|drivers| drivers.into_keys().collect())
            .map_err(|error| error.to_string().replace(&here, ""))
    }

    #[test]
    fn workload_that_its_brokers_can_have_gives_their_drivers() {
        let settings = "[topic]\nsegment.bytes = 9\n[settings.fake]\nnum.shards = 1\n";
        assert_eq!(check(&format!("brokers = ['fake']\n{settings}"), &[]).unwrap(), ["fake"]);
        assert_eq!(
            check("", &["fake"]).unwrap_err(),
            "w.toml:1: brokers: no broker is called highwater: \
            brokers/highwater.toml cannot be read (No such file or directory (os error 2)); there are: fake"
        );
    }

    #[test]
    fn unknown_brokers_and_settings_are_all_reported_with_line_and_key() {
        let shown = check(
            "brokers = ['fake',\n 'nope']\n[topic]\nsegment.byte = 9\n[settings.fake]\nnum.chards = 1\n\
             [settings.fak]\nx = 1\n",
            &[],
        )
        .unwrap_err();
        let expected = [
            "w.toml:5: brokers[1]: no broker is called nope: brokers/nope.toml cannot be read",
            "w.toml:7: topic.segment.byte: Fake has no topic setting of this name; did you mean `segment.bytes`?",
            "w.toml:9: settings.fake.num.chards: Fake has no broker setting of this name; did you mean `num.shards`?",
            "w.toml:10: settings.fak: no broker is called fak: ",
        ];
        assert_eq!(shown.lines().count(), expected.len(), "{shown}");
        for (line, expected) in shown.lines().zip(expected) {
            assert!(line.starts_with(expected), "{line}\n is not {expected}");
        }
        assert!(shown.ends_with("did you mean \"fake\"?"), "{shown}");
    }

    #[test]
    fn broker_in_place_of_the_workloads_is_held_against_the_topic_too() {
        let shown = check("brokers = 'fake'\n[topic]\nx = 9\n", &["fake"]).unwrap_err();
        assert!(shown.starts_with("w.toml:6: topic.x: Fake has no topic setting"), "{shown}");
        let shown = check("brokers = 'fake'\n", &["nope"]).unwrap_err();
        assert!(shown.starts_with("no broker is called nope"), "{shown}");
    }

    fn blamed(error: CellError) -> String {
        let text = "name = 'w'\ndescription = 'd'\nseed = 1\n[topic]\nsegment.bytes = 'x'\nsegment.ms = 1\n\
                    [settings.fake]\nlie = 'y'\n[[grid]]\n";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.toml");
        std::fs::write(&path, text).unwrap();
        let here = format!("{}/", directory.path().display());
        blame(error, &Workload::read(&path).unwrap(), "fake").to_string().replace(&here, "")
    }

    fn refused(code: i16, message: &str) -> CellError {
        let message = Some(message.to_owned());
        AdminError::Refused { request: "creation", subject: "topic t".to_owned(), code, message }.into()
    }

    #[test]
    fn refused_setting_is_shown_where_it_was_written() {
        let shown = blamed(refused(40, "Invalid value x for configuration segment.bytes: Not a number"));
        assert!(
            shown.starts_with("w.toml:5: topic.segment.bytes: \"x\" was asked for: creation of topic t"),
            "{shown}"
        );
        let shown = blamed(refused(40, "no"));
        // Which one it means it does not say: all of them and its words are in the first line, which reports show.
        let first = shown.lines().next().unwrap();
        let suspects = "one of w.toml:5: topic.segment.bytes: \"x\" was asked for, \
                        w.toml:6: topic.segment.ms: \"1\" was asked for: creation of topic t";
        assert!(first.starts_with(suspects) && first.ends_with("code 40: no"), "{shown}");
        assert!(blamed(refused(41, "no")).starts_with("creation of topic t"));
        let shown = blamed(CellError::Broker(BrokerError::Ended {
            status: std::os::unix::process::ExitStatusExt::from_raw(256),
            log: "broker.log".into(),
            quoted: "error: invalid value 'y' for '--lie <LIE>'".to_owned(),
        }));
        assert!(shown.starts_with("w.toml:8: settings.fake.lie: \"y\" was asked for: the broker"), "{shown}");
    }

    #[test]
    fn slow_start_is_no_refusal_of_what_the_log_happens_to_mention() {
        let shown = blamed(CellError::Broker(BrokerError::NotReady {
            within: std::time::Duration::from_secs(1),
            last: "connection refused".to_owned(),
            log: "broker.log".into(),
            quoted: "lie = y\nloading segments".to_owned(),
        }));
        assert!(shown.starts_with("the broker was not ready within 1s"), "{shown}");
    }
}

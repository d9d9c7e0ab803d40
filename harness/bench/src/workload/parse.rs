//! Workload files: every field, its bounds, its default.
//!
//! `[defaults]` holds what all grids share; a `[[grid]]` overrides it field by field.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::document::{Field, Problems, Reader, Section};
use super::settings::{Acks, Aim, CompressionType, Fault, Flush, Key, Payload, Start};
use super::units::{self, Rate};
use super::{Grid, Repeats, Timing, Workload};
use crate::seed::Seed;

/// Smallest `record.size`: the identity of a record must fit into its value.
pub(super) const RECORD_SIZE_MIN_BYTES: u64 = 64;
const RECORD_SIZE_MAX_BYTES: u64 = 8 << 20;
const BATCH_SIZE_MAX_BYTES: u64 = 16 << 20;
/// Less and no broker starts.
const MEMORY_LIMIT_MIN_BYTES: u64 = 64 << 20;
const MEMORY_LIMIT_MAX_BYTES: u64 = 1 << 50;
const FAULT_ACKED_MAX: u64 = 1_000_000_000;

/// Reads the workload in `text`, which came from `path`.
pub(super) fn workload(path: &Path, text: &str) -> Result<Workload, Problems> {
    let mut reader = Reader::new(path, text);
    let document = reader.parse()?;
    let workload = read(&mut reader, path, &document);
    reader.finish(workload)
}

/// Every field there is, as `name` at the top and `grid.name` in a grid.
#[must_use]
pub fn fields() -> Vec<String> {
    let text = "[[grid]]\n[defaults]\n[settings]\n[topic]\n";
    let mut reader = Reader::new(Path::new(""), text);
    let mut fields = Vec::new();
    if let Ok(document) = reader.parse() {
        // An empty workload is wrong, but the way to finding that out passes every field.
        let _ = read(&mut reader, Path::new(""), &document);
        fields = reader.into_known();
    }
    fields
}

fn read(reader: &mut Reader<'_>, path: &Path, document: &DeTable<'_>) -> Option<Workload> {
    let mut top = Section::new(reader, "", 0, document, &["topic", "settings", "defaults"]);
    let name = top.require(reader, "name", short_name);
    let description = top.require(reader, "description", |field| field.text().map(str::to_owned));
    let seed = top.require(reader, "seed", Field::number).map(Seed);
    let brokers = top.list(reader, "brokers", short_name);
    let topic = top.settings(reader, "topic");
    let settings = settings_by_broker(reader, &mut top);
    let defaults = match top.take("defaults") {
        Some(field) => grid(reader, &field, &Grid::default()),
        None => Grid::default(),
    };
    let grids = grids(reader, &mut top, &defaults);
    top.finish(reader);
    Some(Workload {
        name: name?,
        description: description?,
        seed: seed?,
        brokers: brokers.unwrap_or_else(|| vec!["highwater".to_owned()]),
        topic,
        settings,
        grids,
        path: path.to_owned(),
        lines: reader.lines(),
    })
}

/// Names become parts of file names.
fn short_name(field: &Field<'_>) -> Result<String, String> {
    let text = field.text()?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.len() <= 40 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("\"{text}\" is not a name: 1 to 40 lower-case letters, digits and hyphens are"))
}

fn settings_by_broker(
    reader: &mut Reader<'_>,
    top: &mut Section<'_>,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let Some(field) = top.take("settings") else { return BTreeMap::new() };
    let Some(table) = field.value.as_table() else {
        reader.report(field.position, &field.key, "is not a table: write `[settings.BROKER]`");
        return BTreeMap::new();
    };
    let names: Vec<&str> = table.keys().map(|key| key.get_ref().as_ref()).collect();
    let mut section = Section::new(reader, &field.key, field.position, table, &names);
    names.iter().map(|&name| (name.to_owned(), section.settings(reader, name))).collect()
}

fn grids(reader: &mut Reader<'_>, top: &mut Section<'_>, defaults: &Grid) -> Vec<Grid> {
    let Some(field) = top.take("grid") else {
        reader.report(0, "grid", "is missing: a workload needs at least one `[[grid]]`, which may be empty");
        return Vec::new();
    };
    field.items().iter().map(|item| grid(reader, item, defaults)).collect()
}

impl Default for Grid {
    fn default() -> Self {
        Grid {
            acks: vec![Acks::All],
            flush: vec![Flush { messages: Some(1), ms: None }],
            linger_ms: vec![5],
            batch_size_bytes: vec![16_384],
            record_size_bytes: vec![1_024],
            payload: vec![Payload::Incompressible],
            key: vec![Key::None],
            compression: vec![CompressionType::None],
            partitions: vec![16],
            idle_partitions: vec![0],
            producers: vec![1],
            consumers: vec![0],
            rate: vec![Rate::Saturating],
            idempotence: vec![None],
            max_in_flight: vec![5],
            fault: vec![Fault::None],
            aim: vec![Aim::Seeded],
            fault_acked: vec![None],
            flush_delay: vec![Duration::ZERO],
            start: vec![Start::Warm],
            memory_limit_bytes: vec![None],
            repeats: Repeats { none: 1, kill: 1, power_cut: 1, lying_flush: 1 },
            timing: Timing {
                warm_up: Duration::from_secs(1),
                duration: Duration::from_secs(5),
                fault_earliest: Duration::from_millis(500),
                delivery_timeout: Duration::from_secs(30),
                request_timeout: Duration::from_secs(10),
            },
        }
    }
}

fn grid(reader: &mut Reader<'_>, field: &Field<'_>, defaults: &Grid) -> Grid {
    let Some(table) = field.value.as_table() else {
        reader.report(field.position, &field.key, format!("{} is not a table", field.shown()));
        return defaults.clone();
    };
    let mut section = Section::new(reader, &field.key, field.position, table, &[]);
    let mut grid = defaults.clone();
    axes(reader, &mut section, &mut grid);
    grid.repeats = repeats(reader, &mut section, defaults.repeats);
    grid.timing = timing(reader, &mut section, &defaults.timing);
    section.finish(reader);
    check_together(reader, field, &grid);
    grid
}

fn axes(reader: &mut Reader<'_>, section: &mut Section<'_>, grid: &mut Grid) {
    let mut axes = Axes { reader, section };
    axes.read("acks", &mut grid.acks, acks);
    axes.read("flush", &mut grid.flush, flush);
    axes.read("linger.ms", &mut grid.linger_ms, |field| field.number_within(0..=60_000));
    axes.read("batch.size", &mut grid.batch_size_bytes, |field| bytes(field, 0..=BATCH_SIZE_MAX_BYTES));
    axes.read("record.size", &mut grid.record_size_bytes, |field| {
        bytes(field, RECORD_SIZE_MIN_BYTES..=RECORD_SIZE_MAX_BYTES)
    });
    axes.read("record.payload", &mut grid.payload, |field| word(field, Payload::ALL, Payload::parse));
    axes.read("record.key", &mut grid.key, |field| word(field, Key::ALL, Key::parse));
    axes.read("compression.type", &mut grid.compression, |field| {
        word(field, CompressionType::ALL, CompressionType::parse)
    });
    axes.read("partitions", &mut grid.partitions, |field| count(field, 1..=10_000));
    axes.read("idle.partitions", &mut grid.idle_partitions, |field| count(field, 0..=100_000));
    axes.read("producers", &mut grid.producers, |field| count(field, 1..=256));
    axes.read("consumers", &mut grid.consumers, |field| count(field, 0..=64));
    axes.read("rate", &mut grid.rate, units::rate);
    axes.read("enable.idempotence", &mut grid.idempotence, |field| field.boolean().map(Some));
    axes.read("max.in.flight.requests.per.connection", &mut grid.max_in_flight, |field| {
        count(field, 1..=1_000)
    });
    axes.read("fault", &mut grid.fault, |field| word(field, Fault::ALL, Fault::parse));
    axes.read("fault_at", &mut grid.aim, |field| word(field, Aim::ALL, Aim::parse));
    axes.read("fault_acked", &mut grid.fault_acked, |field| {
        field.number_within(1..=FAULT_ACKED_MAX).map(Some)
    });
    axes.read("disk.flush_delay", &mut grid.flush_delay, units::duration);
    axes.read("memory.limit", &mut grid.memory_limit_bytes, |field| {
        units::size_within(field, MEMORY_LIMIT_MIN_BYTES..=MEMORY_LIMIT_MAX_BYTES).map(Some)
    });
    axes.read("start", &mut grid.start, |field| word(field, Start::ALL, Start::parse));
}

/// Reads axes one after the other; an axis that is absent or wrong keeps its default.
struct Axes<'r, 's, 't, 'text> {
    reader: &'r mut Reader<'text>,
    section: &'s mut Section<'t>,
}

impl<'t> Axes<'_, '_, 't, '_> {
    fn read<T: PartialEq>(
        &mut self,
        name: &str,
        axis: &mut Vec<T>,
        read: impl Fn(&Field<'t>) -> Result<T, String>,
    ) {
        if let Some(values) = self.section.list(self.reader, name, read) {
            *axis = values;
        }
    }
}

fn acks(field: &Field<'_>) -> Result<Acks, String> {
    match field.setting()?.as_str() {
        "0" => Ok(Acks::Zero),
        "1" => Ok(Acks::One),
        "-1" | "all" => Ok(Acks::All),
        _ => Err(format!("{} is not one of 0, 1, \"all\"", field.shown())),
    }
}

fn flush(field: &Field<'_>) -> Result<Flush, String> {
    field.text().ok().and_then(Flush::parse).ok_or_else(|| {
        format!(
            "{} is not a flush policy: \"never\", \"flush.messages=1\", \"flush.ms=100\" and \
             \"flush.messages=1000,flush.ms=100\" are",
            field.shown()
        )
    })
}

fn word<T: Copy + std::fmt::Display>(
    field: &Field<'_>,
    all: &[T],
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, String> {
    field.text().ok().and_then(parse).ok_or_else(|| {
        let words: Vec<String> = all.iter().map(|word| format!("\"{word}\"")).collect();
        format!("{} is not one of {}", field.shown(), words.join(", "))
    })
}

fn bytes(field: &Field<'_>, range: RangeInclusive<u64>) -> Result<usize, String> {
    usize::try_from(units::size_within(field, range)?).map_err(|error| error.to_string())
}

fn count<T: TryFrom<u64>>(field: &Field<'_>, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = field.number_within(range)?;
    T::try_from(number).map_err(|_| format!("{number} is too large"))
}

fn repeats(reader: &mut Reader<'_>, section: &mut Section<'_>, defaults: Repeats) -> Repeats {
    let mut read = |name: &str| section.read(reader, name, |field| count(field, 0..=100_000));
    let all = read("repeats");
    Repeats {
        none: read("repeats.none").or(all).unwrap_or(defaults.none),
        kill: read("repeats.kill").or(all).unwrap_or(defaults.kill),
        power_cut: read("repeats.power-cut").or(all).unwrap_or(defaults.power_cut),
        lying_flush: read("repeats.lying-flush").or(all).unwrap_or(defaults.lying_flush),
    }
}

fn timing(reader: &mut Reader<'_>, section: &mut Section<'_>, defaults: &Timing) -> Timing {
    let mut read = |name: &str, read: fn(&Field<'_>) -> Result<Duration, String>, default: Duration| {
        section.read(reader, name, read).unwrap_or(default)
    };
    Timing {
        warm_up: read("warm_up", units::duration, defaults.warm_up),
        duration: read("duration", units::positive_duration, defaults.duration),
        fault_earliest: read("fault_earliest", units::duration, defaults.fault_earliest),
        delivery_timeout: read("delivery_timeout", units::positive_duration, defaults.delivery_timeout),
        request_timeout: read("request_timeout", units::positive_duration, defaults.request_timeout),
    }
}

/// What is wrong only in combination.
fn check_together(reader: &mut Reader<'_>, field: &Field<'_>, grid: &Grid) {
    let mut report = |name: &str, message: &str| {
        reader.report(field.position, &format!("{}.{name}", field.key), message);
    };
    if grid.timing.fault_earliest >= grid.timing.duration {
        report("fault_earliest", "leaves no time for a fault: it must be shorter than `duration`");
    }
    if grid.aim != [Aim::Seeded] && grid.fault.contains(&Fault::None) {
        report("fault_at", "aims a fault, and the grid has cells without one");
    }
    if grid.fault_acked != [None] && grid.fault.contains(&Fault::None) {
        report("fault_acked", "waits to strike, and the grid has cells without a fault");
    }
    if grid.flush_delay != [Duration::ZERO] && !grid.fault.iter().all(|fault| fault.cuts_power()) {
        report(
            "disk.flush_delay",
            "needs the disk with a power switch: every fault of the grid must cut power",
        );
    }
    if grid.start != [Start::Warm] && grid.fault != [Fault::None] {
        report("start", "is of cells that are measured, and the grid has cells with a fault");
    }
    if grid.idempotence.contains(&Some(true)) {
        if grid.acks.iter().any(|&acks| acks != Acks::All) {
            report("enable.idempotence", "needs acks=\"all\" in every cell of the grid, as in Kafka");
        }
        if grid.max_in_flight.iter().any(|&requests| requests > 5) {
            report("enable.idempotence", "allows at most 5 for max.in.flight.requests.per.connection");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = 'w'\ndescription = 'd'\nseed = 1\n";

    fn problems(rest: &str) -> String {
        workload(Path::new("w.toml"), &format!("{HEAD}{rest}")).unwrap_err().to_string()
    }

    fn parsed(rest: &str) -> Workload {
        workload(Path::new("w.toml"), &format!("{HEAD}{rest}")).unwrap()
    }

    #[test]
    fn smallest_workload_is_one_durable_cell() {
        let workload = parsed("[[grid]]\n");
        assert_eq!(workload.brokers, ["highwater"]);
        assert_eq!(workload.grids.len(), 1);
        assert_eq!(workload.grids[0].flush, [Flush { messages: Some(1), ms: None }]);
    }

    #[test]
    fn every_wrong_value_names_line_and_key() {
        for (rest, expected) in [
            ("[[grid]]\nacks = [0, 2]", "w.toml:5: grid[0].acks[1]: 2 is not one of 0, 1, \"all\""),
            ("[[grid]]\n\nflush = 'often'", "w.toml:6: grid[0].flush: \"often\" is not a flush policy"),
            ("[[grid]]\nlinger.ms = -1", "w.toml:5: grid[0].linger.ms: -1 is not a whole number"),
            ("[[grid]]\nbatch.size = '1 GB'", "w.toml:5: grid[0].batch.size: 1000000000 B is outside"),
            ("[[grid]]\nrecord.size = 10", "w.toml:5: grid[0].record.size: 10 B is outside 64 B to 8 MiB"),
            (
                "[[grid]]\nfault = 'fire'",
                "\"fire\" is not one of \"none\", \"kill\", \"power-cut\", \"lying-flush\"",
            ),
            ("[[grid]]\nfault = 'kill'\nfault_at = 'noon'", "\"noon\" is not one of \"seeded\", \"roll\""),
            ("[[grid]]\npartitions = 0", "w.toml:5: grid[0].partitions: 0 is outside 1 to 10000"),
            ("[[grid]]\nrate = 'slow'", "w.toml:5: grid[0].rate: \"slow\" is not a rate"),
            ("[[grid]]\nduration = '0s'", "w.toml:5: grid[0].duration: must be longer than 0"),
            ("[defaults]\nacks = 'most'\n[[grid]]", "w.toml:5: defaults.acks: \"most\""),
            ("grid = 3", "w.toml:4: grid: 3 is not a table"),
            ("[[grid]]\nlinger = 3", "w.toml:5: grid[0].linger: is not a known field"),
            ("[topic]\nx = []\n[[grid]]", "w.toml:5: topic.x: a list is not a string"),
        ] {
            let shown = problems(rest);
            assert!(shown.contains(expected), "{rest}\n gave {shown}");
        }
    }

    #[test]
    fn missing_fields_are_named() {
        let shown = workload(Path::new("w.toml"), "").unwrap_err().to_string();
        for name in ["name: is missing", "description: is missing", "seed: is missing", "grid: is missing"] {
            assert!(shown.contains(name), "{shown}");
        }
    }

    #[test]
    fn combinations_that_kafka_refuses_are_refused() {
        let shown = problems("[[grid]]\nacks = [1, 'all']\nenable.idempotence = true");
        assert!(shown.contains("grid[0].enable.idempotence: needs acks=\"all\""), "{shown}");
        let shown = problems("[[grid]]\nduration = '1s'\nfault_earliest = '1s'");
        assert!(shown.contains("grid[0].fault_earliest: leaves no time"), "{shown}");
        let shown = problems("[[grid]]\nfault_at = 'roll'");
        assert!(shown.contains("grid[0].fault_at: aims a fault"), "{shown}");
        let shown = problems("[[grid]]\nstart = 'cold'\nfault = ['none', 'kill']");
        assert!(shown.contains("grid[0].start: is of cells that are measured"), "{shown}");
        let shown = problems("[[grid]]\nfault_acked = 9");
        assert!(shown.contains("grid[0].fault_acked: waits to strike"), "{shown}");
        let shown = problems("[[grid]]\nfault = 'kill'\ndisk.flush_delay = '5ms'");
        assert!(shown.contains("grid[0].disk.flush_delay: needs the disk"), "{shown}");
    }

    #[test]
    fn grid_overrides_defaults_field_by_field() {
        let workload = parsed(
            "[defaults]\nacks = 1\nlinger.ms = 0\nrepeats = 3\n[[grid]]\nacks = 'all'\n[[grid]]\nrepeats.kill = 7",
        );
        assert_eq!(workload.grids[0].acks, [Acks::All]);
        assert_eq!(workload.grids[0].linger_ms, [0]);
        assert_eq!(workload.grids[1].acks, [Acks::One]);
        assert_eq!(workload.grids[1].repeats, Repeats { none: 3, kill: 7, power_cut: 3, lying_flush: 3 });
    }

    #[test]
    fn settings_are_kept_by_broker() {
        let workload = parsed("[settings.kafka]\nlog.segment.bytes = 1048576\n[[grid]]\n");
        assert_eq!(workload.settings["kafka"]["log.segment.bytes"], "1048576");
    }

    #[test]
    fn fields_lists_all_of_them() {
        let fields = fields();
        for name in
            ["seed", "topic", "grid.acks", "grid.linger.ms", "grid.repeats.power-cut", "grid.duration"]
        {
            assert!(fields.iter().any(|field| field == name), "{name} not in {fields:?}");
        }
    }
}

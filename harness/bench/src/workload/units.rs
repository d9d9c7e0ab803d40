//! Quantities as people write them in a workload: sizes, durations, rates.

use std::time::Duration;

use super::document::Field;

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("", 1),
];

const DURATION_UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3_600.0)];

/// How fast records are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the broker acknowledges: a closed loop, whose latency says nothing about an open one.
    Saturating,
    /// Records a second over all producers, on an open loop.
    RecordsPerSecond(u64),
    /// Record bytes a second over all producers, on an open loop.
    BytesPerSecond(u64),
}

impl Rate {
    /// Records a second for records of `record_size_bytes`; `None` when saturating.
    #[must_use]
    pub fn records_per_second(self, record_size_bytes: usize) -> Option<f64> {
        match self {
            Rate::Saturating => None,
            Rate::RecordsPerSecond(records) => Some(records as f64),
            Rate::BytesPerSecond(bytes) => Some(bytes as f64 / record_size_bytes as f64),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::Saturating => f.write_str("saturating"),
            Rate::RecordsPerSecond(records) => write!(f, "{records} records/s"),
            Rate::BytesPerSecond(bytes) => write!(f, "{}/s", show_size(*bytes)),
        }
    }
}

/// `"saturating"`, `"20 MB/s"` or `"5000 records/s"`.
pub fn rate(field: &Field<'_>) -> Result<Rate, String> {
    let expected =
        || format!("{} is not a rate: \"saturating\", \"20 MB/s\" and \"5000 records/s\" are", field.shown());
    let text = field.text().map_err(|_| expected())?;
    if text == "saturating" {
        return Ok(Rate::Saturating);
    }
    let amount = text.strip_suffix("/s").ok_or_else(expected)?.trim();
    let rate = match amount.strip_suffix("records") {
        Some(records) => records.trim().parse().map(Rate::RecordsPerSecond).map_err(|_| expected())?,
        None if amount.ends_with('B') => Rate::BytesPerSecond(parse_size(amount).ok_or_else(expected)?),
        None => return Err(expected()),
    };
    match rate {
        Rate::RecordsPerSecond(0) | Rate::BytesPerSecond(0) => Err("a rate of nothing never ends".into()),
        rate => Ok(rate),
    }
}

/// Bytes: a plain number, or a number with a unit in quotes (`"16KiB"`, `"1 MB"`).
pub fn size(field: &Field<'_>) -> Result<u64, String> {
    if let Ok(number) = field.number() {
        return Ok(number);
    }
    field
        .text()
        .ok()
        .and_then(parse_size)
        .ok_or_else(|| format!("{} is not a size: 16384, \"16KiB\" and \"1 MB\" are", field.shown()))
}

/// A size within bounds.
pub fn size_within(field: &Field<'_>, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let bytes = size(field)?;
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("{bytes} B is outside {} to {}", show_size(*range.start()), show_size(*range.end())))
}

/// `"250ms"`, `"3s"`, `"2min"`.
pub fn duration(field: &Field<'_>) -> Result<Duration, String> {
    let expected = || format!("{} is not a duration: \"250ms\", \"3s\" and \"2min\" are", field.shown());
    parse_duration(field.text().map_err(|_| expected())?).ok_or_else(expected)
}

/// A number with one of `ms`, `s`, `min` and `h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let (_, seconds) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// A duration that is not 0.
pub fn positive_duration(field: &Field<'_>) -> Result<Duration, String> {
    match duration(field)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    let bytes = number * *factor as f64;
    // Past 2^53 a float no longer counts bytes; nobody means such a size.
    (bytes.fract() == 0.0 && (0.0..9e15).contains(&bytes)).then_some(bytes as u64)
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// A size as a person would write it: in the largest unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {unit}", bytes / factor);
        }
    }
    for (unit, factor) in [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {unit}", bytes / factor);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use toml::de::DeValue;

    use super::*;

    fn with<T>(toml: &str, read: impl Fn(&Field<'_>) -> Result<T, String>) -> Result<T, String> {
        let value = DeValue::parse(toml).unwrap();
        read(&Field { key: "k".into(), position: 0, value: value.get_ref() })
    }

    #[test]
    fn sizes_are_read_with_both_kinds_of_unit() {
        for (toml, bytes) in [
            ("16384", 16_384),
            ("'16KiB'", 16_384),
            ("'1 MB'", 1_000_000),
            ("'1.5 MiB'", 1_572_864),
            ("'512 B'", 512),
            ("'512'", 512),
        ] {
            assert_eq!(with(toml, size), Ok(bytes), "{toml}");
        }
    }

    #[test]
    fn nonsense_sizes_are_refused_with_examples() {
        for toml in ["'16 kilobytes'", "-1", "'1.3 B'", "true", "''", "'MB'"] {
            assert!(with(toml, size).unwrap_err().contains("\"16KiB\""), "{toml}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(with("'250ms'", duration), Ok(Duration::from_millis(250)));
        assert_eq!(with("'1.5 s'", duration), Ok(Duration::from_millis(1_500)));
        for toml in ["5", "'5'", "'5 years'", "'s'"] {
            assert!(with(toml, duration).unwrap_err().contains("\"250ms\""), "{toml}");
        }
        assert!(with("'0s'", positive_duration).is_err());
    }

    #[test]
    fn rates_are_saturating_or_by_bytes_or_by_records() {
        assert_eq!(with("'saturating'", rate), Ok(Rate::Saturating));
        assert_eq!(with("'20 MB/s'", rate), Ok(Rate::BytesPerSecond(20_000_000)));
        assert_eq!(with("'5000 records/s'", rate), Ok(Rate::RecordsPerSecond(5_000)));
        for toml in ["'5000'", "'5000/s'", "'fast'", "20", "'0 MB/s'"] {
            assert!(with(toml, rate).is_err(), "{toml}");
        }
    }

    #[test]
    fn rate_shown_reads_back_as_itself() {
        for rate_ in [Rate::Saturating, Rate::BytesPerSecond(20_000_000), Rate::RecordsPerSecond(7)] {
            assert_eq!(with(&format!("'{rate_}'"), rate), Ok(rate_));
        }
    }
}

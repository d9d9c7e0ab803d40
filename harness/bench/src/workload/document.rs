//! A TOML document read with positions, so that every complaint names line and key.
//!
//! Workloads and broker drivers are both read through here. A dotted key and a nested table are the same thing in TOML
//! (`linger.ms = 5`), and Kafka's names are full of dots, so a [`Section`] shows nested tables as dotted names: the
//! reader asks for `linger.ms` however it was spelled. What nobody asked for is a mistake of spelling, and is reported
//! with the nearest known name. All problems of a file are collected before any is reported.
//!
//! Deliberately absent: serde. Its errors stop at types; most of what can be wrong here is a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// One thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// The key in full (`grid[2].linger.ms`); empty where the file is not TOML at all.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Everything wrong with one file, in order of lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: ", self.path.display(), problem.line)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

/// Where the problems of one file gather while it is read.
#[derive(Debug)]
pub struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
    known: BTreeSet<String>,
    /// Byte position of every key that was seen, in full, and of every item of a list.
    places: BTreeMap<String, usize>,
}

impl<'a> Reader<'a> {
    /// A reader of `text`, which came from `path`.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Reader { path, text, problems: Vec::new(), known: BTreeSet::new(), places: BTreeMap::new() }
    }

    /// The top of the document. Text that is not TOML is a problem of its own, and nothing more can be read.
    pub fn parse(&mut self) -> Result<DeTable<'a>, Problems> {
        DeTable::parse(self.text).map(toml::Spanned::into_inner).map_err(|error| {
            let position = error.span().map_or(0, |span| span.start);
            self.report(position, "", error.message());
            Problems { path: self.path.to_owned(), problems: std::mem::take(&mut self.problems) }
        })
    }

    /// Notes one more problem, at byte `position`.
    pub fn report(&mut self, position: usize, key: &str, message: impl Into<String>) {
        let line = self.line(position);
        self.problems.push(Problem { line, key: key.to_owned(), message: message.into() });
    }

    /// The same, at a key that was read before.
    pub fn report_key(&mut self, key: &str, message: impl Into<String>) {
        // An item stands where its key does if there is no list.
        let whole = key.split('[').next().unwrap_or(key);
        let position = self.places.get(key).or_else(|| self.places.get(whole)).copied();
        self.report(position.unwrap_or(0), key, message);
    }

    fn line(&self, position: usize) -> usize {
        1 + self.text.bytes().take(position).filter(|&byte| byte == b'\n').count()
    }

    /// The line of every key and list item of the file, for complaints that come only after it was read.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<String, usize> {
        self.places.iter().map(|(key, &position)| (key.clone(), self.line(position))).collect()
    }

    /// Every field that a section of this file was asked for, indices left out.
    #[must_use]
    pub fn into_known(self) -> Vec<String> {
        self.known.into_iter().collect()
    }

    /// `value`, if nothing was wrong.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        self.problems.sort_by_key(|problem| problem.line);
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(Problems { path: self.path.to_owned(), problems: self.problems }),
        }
    }
}

/// One key with its value and place.
#[derive(Debug, Clone)]
pub struct Field<'t> {
    /// The key in full.
    pub key: String,
    /// Byte position of the value.
    pub position: usize,
    /// The value.
    pub value: &'t DeValue<'t>,
}

impl<'t> Field<'t> {
    /// The items of an array, or the value itself as the only one.
    pub fn items(&self) -> Vec<Field<'t>> {
        match self.value {
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| Field {
                    key: format!("{}[{index}]", self.key),
                    position: item.span().start,
                    value: item.get_ref(),
                })
                .collect(),
            _ => vec![self.clone()],
        }
    }

    /// The value as a person would write it, for messages.
    pub fn shown(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("\"{text}\""),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(yes) => yes.to_string(),
            DeValue::Array(_) => "a list".to_owned(),
            other => format!("a {}", other.type_str()),
        }
    }

    /// The value as text.
    pub fn text(&self) -> Result<&'t str, String> {
        self.value.as_str().ok_or_else(|| format!("{} is not a string in quotes", self.shown()))
    }

    /// The value as a whole number of at least 0.
    pub fn number(&self) -> Result<u64, String> {
        self.value
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .ok_or_else(|| format!("{} is not a whole number of at least 0", self.shown()))
    }

    /// The value as a whole number within `range`.
    pub fn number_within(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
        let number = self.number()?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(format!("{number} is outside {} to {}", range.start(), range.end()))
    }

    /// The value as a number with or without a fraction.
    pub fn fraction(&self) -> Result<f64, String> {
        let text = match self.value {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) => number.as_str(),
            _ => "",
        };
        text.parse().map_err(|_| format!("{} is not a number", self.shown()))
    }

    /// The value as `true` or `false`.
    pub fn boolean(&self) -> Result<bool, String> {
        self.value.as_bool().ok_or_else(|| format!("{} is neither true nor false", self.shown()))
    }

    /// The value as a setting's text: Kafka's settings are numbers, strings or booleans, and all travel as text.
    pub fn setting(&self) -> Result<String, String> {
        match self.value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => Ok(self.shown()),
            _ => Err(format!("{} is not a string, a number or a boolean", self.shown())),
        }
    }
}

/// One table, its nested tables shown as dotted names.
#[derive(Debug)]
pub struct Section<'t> {
    path: String,
    position: usize,
    fields: BTreeMap<String, Field<'t>>,
    asked: Vec<String>,
}

impl<'t> Section<'t> {
    /// The section at `path` (empty at the top). Tables named in `tables` are kept whole, for [`Section::take`].
    pub fn new(
        reader: &mut Reader<'_>,
        path: &str,
        position: usize,
        table: &'t DeTable<'t>,
        tables: &[&str],
    ) -> Self {
        let mut section =
            Section { path: path.to_owned(), position, fields: BTreeMap::new(), asked: Vec::new() };
        section.flatten(reader, "", table, tables);
        section
    }

    fn flatten(&mut self, reader: &mut Reader<'_>, prefix: &str, table: &'t DeTable<'t>, tables: &[&str]) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if !tables.contains(&name.as_str()) => {
                    self.flatten(reader, &format!("{name}."), inner, tables);
                }
                inner => {
                    let full = self.full(&name);
                    let field = Field { key: full.clone(), position: key.span().start, value: inner };
                    reader.places.insert(full.clone(), field.position);
                    if inner.is_array() {
                        reader.places.extend(field.items().into_iter().map(|item| (item.key, item.position)));
                    }
                    if self.fields.insert(name, field).is_some() {
                        reader.report(
                            key.span().start,
                            &full,
                            "is given twice, once with quotes and once without",
                        );
                    }
                }
            }
        }
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field `name`, which from now on is a known one.
    pub fn take(&mut self, name: &str) -> Option<Field<'t>> {
        self.asked.push(name.to_owned());
        self.fields.remove(name)
    }

    /// The field `name` read by `read`; `None` if it is absent or wrong (which is then reported).
    pub fn read<T>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &str,
        read: impl FnOnce(&Field<'t>) -> Result<T, String>,
    ) -> Option<T> {
        let field = self.take(name)?;
        read(&field).map_err(|message| reader.report(field.position, &field.key, message)).ok()
    }

    /// As [`Section::read`], and reported where absent.
    pub fn require<T>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &str,
        read: impl FnOnce(&Field<'t>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.fields.contains_key(name) {
            reader.report(self.position, &self.full(name), "is missing");
        }
        self.read(reader, name, read)
    }

    /// The field `name` as a list, one value standing for a list of one. An empty or repetitive list is reported.
    pub fn list<T: PartialEq>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &str,
        read: impl Fn(&Field<'t>) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let field = self.take(name)?;
        let items = field.items();
        if items.is_empty() {
            reader.report(field.position, &field.key, "is an empty list: a grid over nothing has no cells");
            return None;
        }
        let mut values = Vec::with_capacity(items.len());
        for item in &items {
            match read(item) {
                Ok(value) if values.contains(&value) => {
                    reader.report(item.position, &item.key, format!("{} is given twice", item.shown()));
                }
                Ok(value) => values.push(value),
                Err(message) => reader.report(item.position, &item.key, message),
            }
        }
        (values.len() == items.len()).then_some(values)
    }

    /// Names and texts of every setting in the table `name`, as written: `[topic]`, `[settings.kafka]`.
    pub fn settings(&mut self, reader: &mut Reader<'_>, name: &str) -> BTreeMap<String, String> {
        let Some(field) = self.take(name) else { return BTreeMap::new() };
        let Some(table) = field.value.as_table() else {
            reader.report(
                field.position,
                &field.key,
                format!("{} is not a table of settings", field.shown()),
            );
            return BTreeMap::new();
        };
        let inner = Section::new(reader, &field.key, field.position, table, &[]);
        let mut settings = BTreeMap::new();
        for (name, field) in inner.fields {
            match field.setting() {
                Ok(text) => {
                    settings.insert(name, text);
                }
                Err(message) => reader.report(field.position, &field.key, message),
            }
        }
        settings
    }

    /// Reports every field that was never asked for, with the nearest name that was.
    pub fn finish(self, reader: &mut Reader<'_>) {
        let path = self.path.split('[').next().unwrap_or_default();
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        reader.known.extend(self.asked.iter().map(|name| format!("{prefix}{name}")));
        for (name, field) in &self.fields {
            let message = match nearest(name, &self.asked, 1 + name.len() / 4) {
                Some(known) => format!("is not a known field; did you mean `{known}`?"),
                None => format!("is not a known field; known here: {}", self.asked.join(", ")),
            };
            reader.report(field.position, &field.key, message);
        }
    }
}

/// The one of `known` that is spelled most like `name`, no more than `within` edits away.
#[must_use]
pub fn nearest<'k>(
    name: &str,
    known: impl IntoIterator<Item = &'k String>,
    within: usize,
) -> Option<&'k String> {
    let by_distance = known.into_iter().map(|known| (distance(known, name), known));
    by_distance.min().filter(|(distance, _)| *distance <= within).map(|(_, known)| known)
}

/// Levenshtein distance in bytes, which is enough for names of settings.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, byte) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, check: impl FnOnce(&mut Reader<'_>, &mut Section<'_>)) -> Result<(), String> {
        let mut reader = Reader::new(Path::new("w.toml"), text);
        let table = reader.parse().map_err(|problems| problems.to_string())?;
        let mut section = Section::new(&mut reader, "", 0, &table, &["topic"]);
        check(&mut reader, &mut section);
        section.finish(&mut reader);
        reader.finish(Some(())).map_err(|problems| problems.to_string())
    }

    #[test]
    fn text_that_is_no_toml_names_its_line() {
        let error = read("a = 1\nb = = 2\n", |_, _| {}).unwrap_err();
        assert!(error.starts_with("w.toml:2: "), "{error}");
    }

    #[test]
    fn dotted_and_quoted_keys_are_the_same_key() {
        for text in ["linger.ms = 5", "\"linger.ms\" = 5", "[linger]\nms = 5"] {
            let mut seen = None;
            read(text, |reader, section| seen = section.read(reader, "linger.ms", Field::number)).unwrap();
            assert_eq!(seen, Some(5), "{text}");
        }
    }

    #[test]
    fn key_spelled_two_ways_is_reported() {
        let error = read("\"linger.ms\" = 5\nlinger.ms = 6", |reader, section| {
            section.read(reader, "linger.ms", Field::number);
        });
        assert!(error.unwrap_err().contains("is given twice"));
    }

    #[test]
    fn unknown_key_suggests_the_nearest() {
        let error = read("# one\nlinger_ms = 5", |reader, section| {
            section.read(reader, "linger.ms", Field::number);
        });
        assert_eq!(
            error.unwrap_err(),
            "w.toml:2: linger_ms: is not a known field; did you mean `linger.ms`?"
        );
    }

    #[test]
    fn wrong_item_names_its_index_and_all_problems_are_reported() {
        let error = read("acks = [1,\n -3,\n 1]\nx = 'a'", |reader, section| {
            section.list(reader, "acks", Field::number);
            section.read(reader, "x", Field::number);
        });
        assert_eq!(
            error.unwrap_err(),
            "w.toml:2: acks[1]: -3 is not a whole number of at least 0\n\
             w.toml:3: acks[2]: 1 is given twice\n\
             w.toml:4: x: \"a\" is not a whole number of at least 0"
        );
    }

    #[test]
    fn missing_key_and_empty_list_are_reported() {
        let error = read("a = []", |reader, section| {
            section.require(reader, "name", Field::text);
            section.list(reader, "a", Field::number);
        });
        let error = error.unwrap_err();
        assert!(error.contains("name: is missing") && error.contains("a: is an empty list"), "{error}");
    }

    #[test]
    fn table_of_settings_keeps_dotted_names_and_texts() {
        let mut seen = BTreeMap::new();
        read(
            "[topic]\nsegment.bytes = 1_048_576\n\"cleanup.policy\" = 'delete'\nflag = true",
            |reader, section| {
                seen = section.settings(reader, "topic");
            },
        )
        .unwrap();
        let expected = [("segment.bytes", "1_048_576"), ("cleanup.policy", "delete"), ("flag", "true")];
        // Underscores are TOML's, not Kafka's: they must not reach a broker.
        let expected = expected.map(|(name, text)| (name.to_owned(), text.replace('_', "")));
        assert_eq!(seen, BTreeMap::from(expected));
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("linger.ms", "linger_ms"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

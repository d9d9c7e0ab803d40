//! What a compacted log may lack: the keys of its records, and the measure of what is left of them.
//!
//! A record of such a log has a number, as every other. From that follow its key, whether it is a tombstone, and its value; its
//! timestamp is the number, so that a tombstone can be told from another one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use highwater_log::LogConfig;
use highwater_model::Timestamp;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;

use crate::common::small_log;
use crate::ledger::{Found, Instant, value};

/// So few that most of what one pass has kept goes with the next, and too many for one segment.
const KEYS: u32 = 16;

/// `delete.retention.ms`: longer than it takes to append a tombstone and to pass over it, shorter than a run.
const DELETE_RETENTION: Duration = Duration::from_millis(60);

/// Wall clock milliseconds are cut to whole ones, and the ledger's instants are not.
const ROUNDING: Duration = Duration::from_millis(1);

/// Settings of the log that is compacted.
pub(crate) fn compacted_log() -> LogConfig {
    LogConfig {
        delete_enabled: false,
        compact_enabled: true,
        min_cleanable_dirty_ppm: 10_000,
        delete_retention: DELETE_RETENTION,
        segment_bytes: 14 << 10,
        ..small_log()
    }
}

fn hash(number: u32) -> u64 {
    u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn key(number: u32) -> u32 {
    (hash(number) % u64::from(KEYS)) as u32
}

fn is_tombstone(number: u32) -> bool {
    (hash(number) / u64::from(KEYS)).is_multiple_of(4)
}

/// A batch of the records that have these numbers.
pub(crate) fn keyed_batch(numbers: &[u32]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for &number in numbers {
        let (key, value) = (key(number).to_be_bytes(), value(number));
        builder.push(&NewRecord {
            timestamp: Timestamp(number.into()),
            key: Some(&key),
            value: (!is_tombstone(number)).then_some(&value),
            ..NewRecord::default()
        });
    }
    builder.build(ProducerStamp::NONE).expect("a batch")
}

/// The number of a record, if it is intact.
pub(crate) fn number_of_keyed(timestamp: i64, record_key: &[u8], record_value: Option<&[u8]>) -> Option<u32> {
    let number = u32::try_from(timestamp).ok()?;
    let wanted = (!is_tombstone(number)).then(|| value(number));
    (record_key == key(number).to_be_bytes() && record_value == wanted.as_deref()).then_some(number)
}

/// What is known of a log's compactions.
#[derive(Debug, Default)]
pub(crate) struct Compactions {
    /// When the first one was asked for.
    since: Option<Instant>,
    /// End of the log when the last one was asked for. No truncation goes below: Kafka's high watermark sees to that.
    pub(crate) least_cut: i64,
    /// When tombstones were asked for, by number.
    tombstones: BTreeMap<u32, Instant>,
    /// Offsets that were seen to be gone, and when that was first seen.
    gone: BTreeMap<i64, Instant>,
    /// Of those, the ones that an earlier pass had written anew.
    pub(crate) gone_later: u64,
    /// Offsets that the last reading saw below what a pass had taken.
    kept: Vec<i64>,
}

impl Compactions {
    pub(crate) fn asked(&mut self, end: i64, at: Instant) {
        self.since.get_or_insert(at);
        self.least_cut = self.least_cut.max(end);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.since.is_some()
    }

    pub(crate) fn appended(&mut self, numbers: &[u32], at: Instant) {
        self.tombstones
            .extend(numbers.iter().filter(|number| is_tombstone(**number)).map(|number| (*number, at)));
    }

    /// Offsets that compaction has taken, as far as somebody looked.
    pub(crate) fn gone(&self) -> usize {
        self.gone.len()
    }

    /// What is not there any more does not come back.
    pub(crate) fn saw(&mut self, found: &Found, at: Instant) {
        let there = |offset: &i64| found.values.binary_search_by_key(offset, |(offset, _)| *offset).is_ok();
        let gone_later = self.kept.iter().filter(|offset| **offset >= found.start && !there(offset)).count();
        self.gone_later += gone_later as u64;
        for offset in (found.start..found.end).filter(|offset| !there(offset)) {
            self.gone.entry(offset).or_insert(at);
        }
        let passed = self.gone.last_key_value().map_or(0, |(last, _)| *last);
        let offsets = found.values.iter().map(|(offset, _)| *offset);
        self.kept = offsets.take_while(|offset| *offset < passed).collect();
    }

    /// What is wrong with what was found of a log that had these numbers, from offset 0 on: each record at its offset, of each
    /// key the last one, and no value whose tombstone is gone.
    pub(crate) fn objection(&self, numbers: &[u32], found: &Found, at: Instant) -> Option<String> {
        let may_lack = self.since.is_some_and(|since| since < at);
        let mut there = found.values.iter().peekable();
        let mut lacking = Vec::new();
        let all = (0..).zip(numbers).skip(usize::try_from(found.start).unwrap_or(0));
        for (offset, &number) in all {
            match there.next_if(|(found, _)| *found == offset) {
                Some((_, found)) if *found == number => {}
                Some((_, found)) => {
                    return Some(format!("{found} is at {offset}, where {number} was appended"));
                }
                None => lacking.push((offset, number)),
            }
        }
        if let Some((offset, number)) = there.next() {
            return Some(format!("{number} is at {offset}, where nothing was appended"));
        }
        let is_back = |offset: &i64| self.gone.get(offset).is_some_and(|seen| *seen < at);
        if let Some((offset, _)) = found.values.iter().find(|(offset, _)| is_back(offset)) {
            return Some(format!("{offset} was compacted away and is back"));
        }
        lacking.into_iter().find_map(|(offset, number)| {
            let behind = numbers[usize::try_from(offset).unwrap_or(0)..].iter().skip(1);
            let is_superseded = behind.into_iter().any(|later| key(*later) == key(number));
            if !may_lack {
                return Some(format!("{number} is not at {offset}"));
            }
            if !is_superseded && !self.has_expired(number, at) {
                return Some(format!("{number} is not at {offset}, the last of key {}", key(number)));
            }
            let values = found.values.iter().take_while(|(other, _)| *other < offset);
            let covered = values.into_iter().find(|(_, other)| key(*other) == key(number));
            let (there, _) = covered.filter(|_| is_tombstone(number))?;
            Some(format!("{there} is there, and its tombstone at {offset} is gone"))
        })
    }

    /// Whether a tombstone may be gone although it is the last of its key.
    fn has_expired(&self, number: u32, at: Instant) -> bool {
        let least = DELETE_RETENTION.saturating_sub(ROUNDING).as_nanos() as u64;
        self.tombstones.get(&number).is_some_and(|asked| at.saturating_sub(*asked) >= least)
    }
}

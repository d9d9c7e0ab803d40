//! What a log must have kept, from what it was asked and what it answered.
//!
//! Of each partition: the values accepted at each offset, how far they were acknowledged, and the cuts that were asked
//! for. After a crash the log may end anywhere between what it had promised and what it had accepted, and what it holds
//! must be what was accepted there.
//!
//! Of a log that was ever compacted, a record may be gone that a later one of its key supersedes, and a tombstone once
//! its time has passed. The last value of a key is never gone, what is gone does not come back, and no value is there
//! whose tombstone is gone.

use std::collections::{BTreeMap, BTreeSet};

/// `delete.retention.ms` of compacted logs.
pub(crate) const DELETE_RETENTION_MS: i64 = 80;

/// A record; a tombstone has an empty value.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) key: u64,
    pub(crate) value: Vec<u8>,
    /// Wall clock milliseconds.
    pub(crate) at_ms: i64,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    Kill,
    PowerCut,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionModel {
    /// Records by offset, as accepted last.
    pub(crate) accepted: BTreeMap<i64, Accepted>,
    /// Whether it was ever compacted.
    pub(crate) compacted: bool,
    /// Offsets that compaction has taken away.
    pub(crate) gone: BTreeSet<i64>,
    /// No truncation goes below what was compacted: Kafka's high watermark sees to that.
    pub(crate) least_cut: i64,
    /// First offsets of batches: where a log may end.
    pub(crate) batch_starts: BTreeSet<i64>,
    /// Next offset that is promised to survive a kill, and a power cut.
    pub(crate) written_end: i64,
    pub(crate) durable_end: i64,
    /// A truncation that was asked for and not answered.
    pub(crate) truncating_to: Option<i64>,
    /// Truncations that were answered.
    pub(crate) truncations: u64,
    pub(crate) start: i64,
    /// A move of the start that was asked for and not answered.
    pub(crate) moving_start_to: Option<i64>,
    /// Whether its creation was asked for and answered, and its deletion asked for.
    pub(crate) creating: bool,
    pub(crate) created: bool,
    pub(crate) deleting: bool,
    /// How many there were before it, each deleted or never made.
    pub(crate) incarnation: u64,
    /// Number of the topic's id: what follows a deleted partition has the same one now and then.
    pub(crate) topic: u64,
}

impl PartitionModel {
    /// The partition is gone; every other time the next one has another id.
    pub(crate) fn begin_anew(&mut self) {
        let incarnation = self.incarnation + 1;
        *self = PartitionModel { incarnation, topic: incarnation / 2, ..PartitionModel::default() };
    }

    pub(crate) fn accept(&mut self, base_offset: i64, records: Vec<Accepted>) {
        assert!(!self.accepted.contains_key(&base_offset), "offset {base_offset} is given twice");
        self.batch_starts.insert(base_offset);
        for (offset, record) in (base_offset..).zip(records) {
            self.accepted.insert(offset, record);
        }
    }

    pub(crate) fn acknowledge(&mut self, next_offset: i64, durable: bool) {
        self.written_end = self.written_end.max(next_offset);
        if durable {
            self.durable_end = self.durable_end.max(next_offset);
        }
    }

    /// A truncation was answered: the log ends at the start of the batch that holds `offset`.
    pub(crate) fn truncated(&mut self, offset: i64) {
        self.truncating_to = None;
        self.truncations += 1;
        let end = self.end_after_truncation(offset);
        self.end_at(end);
        self.written_end = self.written_end.min(end);
        self.durable_end = self.durable_end.min(end);
        // The start may lie inside the batch that went.
        self.start = self.start.min(end);
    }

    fn end_after_truncation(&self, offset: i64) -> i64 {
        let end = self.accepted.last_key_value().map_or(self.durable_end, |(last, _)| last + 1);
        if offset >= end {
            return end;
        }
        self.batch_starts.range(..=offset).next_back().copied().unwrap_or(offset)
    }

    fn end_at(&mut self, end: i64) {
        self.accepted.retain(|offset, _| *offset < end);
        self.gone.retain(|offset| *offset < end);
        self.batch_starts.retain(|offset| *offset < end);
    }

    /// Judges what a log holds after a crash, and takes it as the new truth: everything in it is durable now.
    pub(crate) fn check_recovered(
        &mut self,
        crash: Crash,
        retaining: bool,
        start: i64,
        end: i64,
        values: &[(i64, Vec<u8>)],
        now_ms: i64,
    ) -> Result<(), String> {
        let promised = match crash {
            Crash::Kill => self.written_end,
            Crash::PowerCut => self.durable_end,
        };
        let truncated_end = self.truncating_to.map(|offset| self.end_after_truncation(offset));
        let lowest = truncated_end.map_or(promised, |end| end.min(promised));
        if end < lowest {
            return Err(format!("lost: the log ends at {end}, {promised} was promised"));
        }
        let asked = self.moving_start_to.unwrap_or(self.start).max(self.start);
        let highest_start = if retaining { end } else { asked };
        let lowest_start = truncated_end.map_or(self.start, |end| end.min(self.start));
        if start < lowest_start || start > highest_start {
            return Err(format!("the log starts at {start}, not in {}..={highest_start}", self.start));
        }
        let mut expected = start;
        let mut missing: Vec<i64> = Vec::new();
        for (offset, value) in values {
            if *offset != expected {
                self.check_hole(expected..*offset, end, now_ms)?;
                missing.extend(expected..*offset);
                expected = *offset;
            }
            if self.gone.contains(offset) {
                return Err(format!("resurrected: {offset} was compacted away and is back"));
            }
            match self.accepted.get(offset) {
                Some(known) if known.value == *value => {}
                Some(_) => return Err(format!("altered: another value at {offset}")),
                None => return Err(format!("phantom: nothing was accepted at {offset}")),
            }
            expected += 1;
        }
        if expected != end.max(start) {
            self.check_hole(expected..end, end, now_ms)?;
            missing.extend(expected..end);
        }
        self.check_tombstones(&missing, values)?;
        self.gone.extend(missing);
        self.truncating_to = None;
        self.moving_start_to = None;
        self.start = start;
        self.end_at(end);
        self.written_end = end;
        self.durable_end = end;
        Ok(())
    }

    /// Whether compaction may have taken all of these.
    fn check_hole(&self, offsets: std::ops::Range<i64>, end: i64, now_ms: i64) -> Result<(), String> {
        for offset in offsets {
            let hole = |why: &str| Err(format!("hole: {offset} is not there, {why}"));
            if !self.compacted {
                return hole("and the log was never compacted");
            }
            let Some(record) = self.accepted.get(&offset) else { return hole("and was never accepted") };
            let superseded = self.accepted.range(offset + 1..end).any(|(_, later)| later.key == record.key);
            let expired = record.value.is_empty() && record.at_ms + DELETE_RETENTION_MS <= now_ms;
            if !superseded && !expired {
                return hole("the last of its key");
            }
        }
        Ok(())
    }

    /// Whether a value is there whose tombstone is gone.
    fn check_tombstones(&self, missing: &[i64], values: &[(i64, Vec<u8>)]) -> Result<(), String> {
        let is_tombstone =
            |offset: &&i64| self.accepted.get(offset).is_some_and(|record| record.value.is_empty());
        for tombstone in missing.iter().filter(is_tombstone) {
            let key = self.accepted[tombstone].key;
            let below = values.iter().take_while(|(offset, _)| offset < tombstone);
            for (offset, _) in below {
                if self.accepted.get(offset).is_some_and(|record| record.key == key) {
                    return Err(format!(
                        "resurrected: {offset} is there, its tombstone at {tombstone} is gone"
                    ));
                }
            }
        }
        Ok(())
    }
}

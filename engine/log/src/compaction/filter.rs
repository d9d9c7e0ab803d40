//! Which records compaction keeps: pure, batch by batch.
//!
//! ```text
//!   dirty part ──▶ Scan: last offset of every key, transactions that were aborted ──▶ Filter ◀── clean part, then dirty part
//!                                                                                       │
//!                                     the batch as it is, the batch with fewer records, an empty batch, or nothing
//! ```
//!
//! Kafka's rules (`Cleaner`, `CleanedTransactionMetadata`), in the order in which they are asked:
//!
//! * Of a transaction that was aborted, no record stays. An aborted record supersedes none.
//! * A record stays if it is the last of its key. One without a key does not stay.
//! * A tombstone stays until the delete horizon: `delete.retention.ms` after the pass that first kept it, which writes the
//!   horizon into its batch (KIP-534).
//! * A transaction marker stays until no batch of its transaction is left, and then until its delete horizon.
//! * The last batch of a producer, and the last one of the pass, stay without records: the producer's sequence and the end
//!   of what was compacted stay known.
//!
//! Transactions are read from the log itself: their markers tell which were aborted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use highwater_model::batch::rewrite::{plain_records, with_records, without_records};
use highwater_model::batch::{BatchError, BatchHeader};
use highwater_model::record::{self, RecordView};
use highwater_model::{Offset, ProducerId, Timestamp};

use super::map::{KeyHash, OffsetMap};
use crate::mutants;

/// What a transaction marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Abort,
    Commit,
}

/// The marker in a control batch; `None` for another kind of control record, or for none.
fn marker(records: &[u8]) -> Option<Marker> {
    let record = record::records(records).next()?.ok()?;
    // Version, then type.
    match record.key?.get(2..4)? {
        [0, 0] => Some(Marker::Abort),
        [0, 1] => Some(Marker::Commit),
        _ => None,
    }
}

/// Batches of one aborted transaction: from the first up to the marker.
#[derive(Debug, Clone, Copy)]
struct Aborted {
    first: Offset,
    marker: Offset,
}

/// A transaction whose marker was not seen yet.
struct Pending {
    first: Offset,
    keys: Vec<(KeyHash, i64)>,
}

/// Whether a batch went into the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    Yes,
    /// There is no room for its keys: the scan ends before it.
    Full,
}

/// What is learned from the part of a log that no pass has looked at before.
pub(super) struct Scan {
    map: OffsetMap,
    pending: BTreeMap<ProducerId, Pending>,
    pending_keys: usize,
    aborted: BTreeMap<ProducerId, Vec<Aborted>>,
    start: Offset,
    next_offset: Offset,
}

impl Scan {
    pub(super) fn new(map: OffsetMap, first_dirty: Offset) -> Self {
        Scan {
            map,
            pending: BTreeMap::new(),
            pending_keys: 0,
            aborted: BTreeMap::new(),
            start: first_dirty,
            next_offset: first_dirty,
        }
    }

    /// Learns from the next batch, which is whole and intact.
    pub(super) fn add(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<Scanned, BatchError> {
        let plain = plain_records(header, batch)?;
        if header.is_control() {
            self.end_transaction(header, marker(&plain));
        } else {
            let records = usize::try_from(header.record_count).unwrap_or(0);
            if self.map.room() < self.pending_keys + records {
                if self.end() == self.start {
                    // Without it there would be no progress: a batch, or a transaction, must fit.
                    self.map.reserve(self.pending_keys + records);
                } else {
                    return Ok(Scanned::Full);
                }
            }
            self.add_records(header, &plain)?;
        }
        self.next_offset = header.next_offset();
        Ok(Scanned::Yes)
    }

    fn add_records(&mut self, header: &BatchHeader, plain: &[u8]) -> Result<(), BatchError> {
        let mut keys = Vec::new();
        for record in record::records(plain) {
            let record = record?;
            if let Some(key) = record.key {
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                keys.push((self.map.hash(key), offset));
            }
        }
        if header.is_transactional() {
            self.pending_keys += keys.len();
            let first = header.base_offset;
            let pending = self.pending.entry(header.producer_id);
            pending.or_insert_with(|| Pending { first, keys: Vec::new() }).keys.append(&mut keys);
        } else {
            keys.into_iter().for_each(|(hash, offset)| self.map.put(hash, offset));
        }
        Ok(())
    }

    fn end_transaction(&mut self, header: &BatchHeader, marker: Option<Marker>) {
        let Some(marker) = marker else { return };
        let Some(pending) = self.pending.remove(&header.producer_id) else { return };
        self.pending_keys -= pending.keys.len();
        match marker {
            Marker::Commit => pending.keys.into_iter().for_each(|(hash, offset)| self.map.put(hash, offset)),
            Marker::Abort => self
                .aborted
                .entry(header.producer_id)
                .or_default()
                .push(Aborted { first: pending.first, marker: header.base_offset }),
        }
    }

    /// A segment is at its end: there is nothing below `offset` any more.
    pub(super) fn reach(&mut self, offset: Offset) {
        self.next_offset = self.next_offset.max(offset);
    }

    /// Exclusive end of what can be compacted: up to where the scan came, and to the first transaction that is open there.
    pub(super) fn end(&self) -> Offset {
        self.pending.values().map(|pending| pending.first).fold(self.next_offset, Offset::min)
    }

    pub(super) fn into_filter(self, retention: Retention, last_offsets: LastOffsets) -> Filter {
        Filter {
            end: self.end(),
            map: self.map,
            aborted: self.aborted,
            retention,
            last_offsets,
            ongoing: BTreeSet::new(),
        }
    }
}

/// The last offset of the last batch of every producer that the log remembers.
pub(super) type LastOffsets = HashMap<ProducerId, Offset>;

/// How long tombstones and markers stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) now: Timestamp,
    /// `delete.retention.ms`.
    pub(super) delete_retention_ms: i64,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It stays as it is.
    Whole,
    /// This takes its place.
    Changed(Vec<u8>),
    /// Nothing of it is left.
    Nothing,
}

/// Decides, batch by batch in the order of the log.
pub(super) struct Filter {
    map: OffsetMap,
    end: Offset,
    aborted: BTreeMap<ProducerId, Vec<Aborted>>,
    retention: Retention,
    last_offsets: LastOffsets,
    /// Producers of which a batch was met since their last marker.
    ongoing: BTreeSet<ProducerId>,
}

impl Filter {
    /// Exclusive end of what is compacted.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// What becomes of the next batch, which is whole and intact.
    pub(super) fn next(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        is_last_of_pass: bool,
    ) -> Result<Kept, BatchError> {
        if header.base_offset >= self.end {
            return Ok(Kept::Whole);
        }
        let plain = plain_records(header, batch)?;
        let horizon = header.has_delete_horizon().then_some(header.base_timestamp);
        let has_passed = horizon.is_some_and(|horizon| horizon <= self.retention.now);
        let (is_spent_marker, discards) = if header.is_control() {
            let is_spent = self.meet_marker(header, &plain);
            (is_spent, is_spent && has_passed)
        } else {
            (false, self.meet_data(header))
        };
        let (retained, dropped, tombstones) = if discards {
            (Vec::new(), header.record_count > 0, false)
        } else {
            self.retain(header, &plain, has_passed)?
        };
        if retained.is_empty() {
            let is_last_of_producer = header.is_idempotent()
                && self.last_offsets.get(&header.producer_id) == Some(&header.last_offset());
            return Ok(if !is_last_of_producer && !is_last_of_pass {
                Kept::Nothing
            } else if header.record_count == 0 {
                Kept::Whole
            } else {
                Kept::Changed(without_records(header).to_vec())
            });
        }
        let new_horizon = (tombstones || is_spent_marker) && horizon.is_none();
        if !dropped && !new_horizon {
            return Ok(Kept::Whole);
        }
        let horizon = if new_horizon {
            let delay = self.retention.delete_retention_ms;
            Some(Timestamp(self.retention.now.0.saturating_add(delay)))
        } else {
            horizon
        };
        Ok(Kept::Changed(with_records(header, &retained, horizon)?.to_vec()))
    }

    /// The records that stay, whether any goes, and whether a tombstone is among those that stay.
    fn retain<'a>(
        &self,
        header: &BatchHeader,
        plain: &'a [u8],
        has_passed: bool,
    ) -> Result<(Vec<RecordView<'a>>, bool, bool), BatchError> {
        let mut retained = Vec::new();
        let (mut dropped, mut tombstones) = (false, false);
        for record in record::records(plain) {
            let record = record?;
            if header.is_control() || self.keeps(header, &record, has_passed) {
                tombstones |= record.value.is_none() && !header.is_control();
                retained.push(record);
            } else {
                dropped = true;
            }
        }
        Ok((retained, dropped, tombstones))
    }

    fn keeps(&self, header: &BatchHeader, record: &RecordView<'_>, has_passed: bool) -> bool {
        let Some(key) = record.key else { return false };
        let offset = Offset(header.base_offset.0 + i64::from(record.offset_delta));
        let lies = mutants::LAST_OF_KEY_DROPPED.is_on();
        let is_last = self.map.last_offset(key).is_none_or(|last| offset > last || offset == last && !lies);
        let is_needed = record.value.is_some() || !has_passed && !mutants::TOMBSTONE_DROPPED_EARLY.is_on();
        is_last && is_needed
    }

    /// Whether nothing of the marker's transaction is left.
    fn meet_marker(&mut self, header: &BatchHeader, plain: &[u8]) -> bool {
        if header.record_count == 0 {
            // An earlier pass emptied it.
            return true;
        }
        marker(plain).is_some() && !self.ongoing.remove(&header.producer_id)
    }

    /// Whether the batch belongs to a transaction that was aborted.
    fn meet_data(&mut self, header: &BatchHeader) -> bool {
        if !header.is_transactional() {
            return false;
        }
        self.ongoing.insert(header.producer_id);
        let aborted = self.aborted.get(&header.producer_id).map(Vec::as_slice).unwrap_or_default();
        aborted.iter().any(|part| part.first <= header.base_offset && header.base_offset < part.marker)
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;

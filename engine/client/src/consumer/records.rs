//! What one fetch brought of one partition, and how its records are read without copying them.
//!
//! ```text
//!   FetchedRecords ─ batches() ─▶ FetchedBatch ─ records() ─▶ ConsumerRecord (borrows the batch)
//!     bytes as received            payload: a slice of them, or decompressed, one batch at a time
//! ```
//!
//! Control batches are passed over, and so is what a transaction aborted, if the consumer is `read_committed`.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, headers};
use highwater_model::compression::Compression;
use highwater_model::record::{RecordView, records};
use highwater_model::{Offset, ProducerId, Timestamp};

use crate::metadata::Partition;

/// The ends of a partition's log, as the last answer told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that is there.
    pub log_start_offset: Offset,
    /// Exclusive end of what consumers may read.
    pub high_watermark: Offset,
    /// Exclusive end of what is decided; [`high_watermark`](Self::high_watermark) unless a transaction is open.
    pub last_stable_offset: Offset,
}

/// Whole batches of one partition, their checksums verified if `check.crcs`.
#[derive(Debug, Clone)]
pub struct FetchedRecords {
    pub(super) partition: Partition,
    pub(super) bytes: Bytes,
    pub(super) offsets: Range<i64>,
    pub(super) watermarks: Watermarks,
    /// Producer id and first offset of each aborted transaction, by first offset. Empty unless `read_committed`.
    pub(super) aborted: Vec<(ProducerId, Offset)>,
    pub(super) max_decompressed_bytes: usize,
}

impl FetchedRecords {
    /// Where they come from.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// From the offset that was asked for to the next that will be: what lies between without a record is a control
    /// batch, was aborted or compacted away.
    #[must_use]
    pub fn offsets(&self) -> Range<Offset> {
        Offset(self.offsets.start)..Offset(self.offsets.end)
    }

    /// The ends of the log when they were fetched.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    /// Size in bytes as received.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batches with something to read, decompressed one at a time. Ends after the first error.
    pub fn batches(&self) -> impl Iterator<Item = Result<FetchedBatch, BatchError>> + '_ {
        let mut filter = AbortedFilter { next: 0, aborted: &self.aborted, active: BTreeSet::new() };
        headers(&self.bytes).filter_map(move |item| match item {
            Ok((at, header)) => {
                let batch = self.bytes.slice(at..at + header.size_bytes);
                let is_visible = filter.is_visible(&header, &batch);
                is_visible.then(|| FetchedBatch::new(header, &batch, self))
            }
            Err(error) => Some(Err(error)),
        })
    }
}

/// Knows which batches belong to aborted transactions. Source: `CompletedFetch` of Kafka's consumer.
struct AbortedFilter<'a> {
    next: usize,
    aborted: &'a [(ProducerId, Offset)],
    active: BTreeSet<i64>,
}

impl AbortedFilter<'_> {
    fn is_visible(&mut self, header: &BatchHeader, batch: &Bytes) -> bool {
        while let Some((producer_id, _)) =
            self.aborted.get(self.next).filter(|(_, first)| *first <= header.last_offset())
        {
            self.active.insert(producer_id.0);
            self.next += 1;
        }
        if header.is_control() {
            if is_abort_marker(batch) {
                self.active.remove(&header.producer_id.0);
            }
            return false;
        }
        !(header.is_transactional() && self.active.contains(&header.producer_id.0))
    }
}

/// Whether a control batch ends a transaction by aborting it. Its one record's key is a version and a type, 0 for
/// abort. Source: `ControlRecordType`.
fn is_abort_marker(batch: &Bytes) -> bool {
    let key = records(&batch[BATCH_HEADER_BYTES..]).next().and_then(Result::ok).and_then(|record| record.key);
    key.and_then(|key| key.get(2..4)).is_some_and(|kind| kind == [0, 0])
}

/// One batch, decompressed.
#[derive(Debug, Clone)]
pub struct FetchedBatch {
    header: BatchHeader,
    payload: Bytes,
    first_wanted: i64,
}

impl FetchedBatch {
    fn new(header: BatchHeader, batch: &Bytes, from: &FetchedRecords) -> Result<Self, BatchError> {
        let payload = match header.compression()? {
            Compression::None => batch.slice(BATCH_HEADER_BYTES..),
            codec => codec
                .decompress(&batch[BATCH_HEADER_BYTES..], from.max_decompressed_bytes)
                .map(Bytes::from)
                .map_err(|error| BatchError::Compression(error.to_string()))?,
        };
        Ok(FetchedBatch { header, payload, first_wanted: from.offsets.start })
    }

    /// The batch's header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records from the offset that was asked for. Ends after the first error.
    pub fn records(&self) -> impl Iterator<Item = Result<ConsumerRecord<'_>, BatchError>> {
        records(&self.payload).filter_map(|record| match record {
            Ok(view) => {
                let offset = self.header.base_offset.0 + i64::from(view.offset_delta);
                let record =
                    ConsumerRecord { offset: Offset(offset), timestamp: self.timestamp(&view), view };
                (offset >= self.first_wanted).then_some(Ok(record))
            }
            Err(error) => Some(Err(error)),
        })
    }

    fn timestamp(&self, record: &RecordView<'_>) -> Timestamp {
        if self.header.is_log_append_time() {
            self.header.max_timestamp
        } else {
            Timestamp(self.header.base_timestamp.0.wrapping_add(record.timestamp_delta))
        }
    }

    /// Shares the memory of a key, value or header of this batch.
    ///
    /// # Panics
    /// If `part` is not one.
    #[must_use]
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.payload.slice_ref(part)
    }
}

/// A record, borrowed from its batch.
#[derive(Debug, Clone)]
pub struct ConsumerRecord<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its time of creation or of appending, as the topic has it.
    pub timestamp: Timestamp,
    view: RecordView<'a>,
}

impl<'a> ConsumerRecord<'a> {
    /// The key, if any.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.view.key
    }

    /// The value; a record without is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.view.value
    }

    /// The headers: name and value.
    pub fn headers(
        &self,
    ) -> impl Iterator<Item = Result<(&'a [u8], Option<&'a [u8]>), BatchError>> + use<'a> {
        self.view.headers()
    }
}

//! Records as the users of a [`Store`](super::Store) see them.

use bytes::Bytes;
use highwater_model::batch::{BATCH_HEADER_BYTES, BatchError, headers};
use highwater_model::compression::Compression;
use highwater_model::record::{max_stored_uncompressed_bytes, records};
use highwater_model::{Offset, Timestamp};

use crate::partition::ReadData;

/// A record to be appended. The bytes are shared, not copied, on their way to the store's thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecord {
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Time of the record; `None` takes the time of its arrival.
    pub timestamp: Option<Timestamp>,
}

impl NewRecord {
    /// A record with a value only.
    #[must_use]
    pub fn value(value: impl Into<Bytes>) -> Self {
        NewRecord { value: Some(value.into()), ..NewRecord::default() }
    }

    /// A record with key and value.
    #[must_use]
    pub fn key_value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        NewRecord { key: Some(key.into()), ..NewRecord::value(value) }
    }

    /// A record that says that its key is gone: once a log with [`compact_enabled`](crate::LogConfig::compact_enabled) is
    /// compacted, nothing of the key is left but this, and after `delete_retention` not even this.
    #[must_use]
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        NewRecord { key: Some(key.into()), ..NewRecord::default() }
    }

    /// The same record with this time of its own: milliseconds since the Unix epoch.
    #[must_use]
    pub fn at(self, timestamp: impl Into<Timestamp>) -> Self {
        NewRecord { timestamp: Some(timestamp.into()), ..self }
    }

    /// What it counts for in `buffer.memory`: its bytes, and something for the book-keeping.
    pub(super) fn memory_bytes(&self) -> usize {
        const EACH: usize = 128;
        let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| EACH + name.len() + part(value)).sum();
        EACH + part(&self.key) + part(&self.value) + headers
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Records in the order of their offsets, and where to read on.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// The offset to read next.
    pub next_offset: Offset,
}

impl Records {
    /// The records of `data` from `offset` on; those of control batches are left out.
    pub(super) fn decode(data: &ReadData, offset: Offset) -> Result<Self, BatchError> {
        let bytes = match data.chunks.as_slice() {
            [one] => one.clone(),
            many => Bytes::from(many.concat()),
        };
        let mut found = Records { records: Vec::new(), next_offset: data.next_offset };
        for header in headers(&bytes) {
            let (at, header) = header?;
            if header.is_control() {
                continue;
            }
            let payload = bytes.slice(at + BATCH_HEADER_BYTES..at + header.size_bytes);
            let plain = match header.compression()? {
                Compression::None => payload,
                codec => {
                    let plain = codec.decompress(&payload, max_stored_uncompressed_bytes(payload.len()));
                    Bytes::from(plain.map_err(|_| BatchError::InvalidRecord("compressed records"))?)
                }
            };
            for view in records(&plain) {
                let view = view?;
                let this = Offset(header.base_offset.0 + i64::from(view.offset_delta));
                if this < offset {
                    continue;
                }
                let timestamp = if header.is_log_append_time() {
                    header.max_timestamp
                } else {
                    Timestamp(header.base_timestamp.0.saturating_add(view.timestamp_delta))
                };
                let part = |part: &[u8]| plain.slice_ref(part);
                let record_headers =
                    view.headers().map(|header| header.map(|(name, value)| (part(name), value.map(part))));
                found.records.push(Record {
                    offset: this,
                    timestamp,
                    key: view.key.map(part),
                    value: view.value.map(part),
                    headers: record_headers.collect::<Result<_, _>>()?,
                });
            }
        }
        Ok(found)
    }
}

//! The records inside a batch.
//!
//! ```text
//!   length          varint   bytes after this field
//!   attributes      i8       unused
//!   timestamp delta varlong  from the batch's base timestamp
//!   offset delta    varint   from the batch's base offset
//!   key             varint length (−1: null), bytes
//!   value           varint length (−1: null), bytes
//!   headers         varint count, each: varint length and bytes of the name, the same (−1: null) of the value
//! ```
//!
//! Two ways to read them: [`records`] over bytes in memory, and [`check_records`], which only makes sure that they are
//! well formed and keeps nothing, for batches that a broker stores as they came.

use std::io::{self, Read};

use bytes::BytesMut;

use crate::batch::{BatchError, BatchHeader};
use crate::varint;

/// A record, borrowed from its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Timestamp in milliseconds, from the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset, from the batch's base offset.
    pub offset_delta: i32,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value, if any: a record without is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, not parsed further than their count.
    headers: HeadersView<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeadersView<'a> {
    count: i32,
    bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The headers: name and value.
    pub fn headers(
        &self,
    ) -> impl Iterator<Item = Result<(&'a [u8], Option<&'a [u8]>), BatchError>> + use<'a> {
        let HeadersView { count, mut bytes } = self.headers;
        (0..count).map(move |_| parse_header(&mut bytes).ok_or(BatchError::InvalidRecord("header")))
    }

    /// Writes the record with another distance from its batch's base timestamp; all else stays as it is.
    pub(crate) fn write(&self, out: &mut BytesMut, timestamp_delta: i64) {
        let mut body = BytesMut::with_capacity(
            FIELDS_BYTES
                + self.key.map_or(0, <[u8]>::len)
                + self.value.map_or(0, <[u8]>::len)
                + self.headers.bytes.len(),
        );
        body.extend_from_slice(&[0]);
        varint::write_i64(&mut body, timestamp_delta);
        varint::write_i64(&mut body, self.offset_delta.into());
        put_bytes(&mut body, self.key);
        put_bytes(&mut body, self.value);
        varint::write_i64(&mut body, self.headers.count.into());
        body.extend_from_slice(self.headers.bytes);
        varint::write_i64(out, body.len().try_into().unwrap_or(i64::MAX));
        out.extend_from_slice(&body);
    }

    /// Number of headers.
    #[must_use]
    pub fn header_count(&self) -> i32 {
        self.headers.count
    }
}

/// Bytes of a record's small fields, at most.
const FIELDS_BYTES: usize = 1 + 5 * varint::MAX_BYTES;

fn put_bytes(out: &mut BytesMut, content: Option<&[u8]>) {
    varint::write_i64(out, content.map_or(-1, |content| content.len().try_into().unwrap_or(i64::MAX)));
    out.extend_from_slice(content.unwrap_or_default());
}

fn parse_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint::read_i32(bytes)? {
        -1 => Some(None),
        len => {
            let (content, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
            *bytes = rest;
            Some(Some(content))
        }
    }
}

fn parse_header<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let name = parse_bytes(bytes)??;
    Some((name, parse_bytes(bytes)?))
}

/// Parses one record's body (what its length covers).
fn parse_body(body: &[u8]) -> Option<RecordView<'_>> {
    let (_attributes, mut rest) = body.split_first()?;
    let timestamp_delta = varint::read_i64(&mut rest)?;
    let offset_delta = varint::read_i32(&mut rest)?;
    let key = parse_bytes(&mut rest)?;
    let value = parse_bytes(&mut rest)?;
    let count = varint::read_i32(&mut rest).filter(|count| *count >= 0)?;
    let headers = HeadersView { count, bytes: rest };
    for _ in 0..count {
        parse_header(&mut rest)?;
    }
    rest.is_empty().then_some(RecordView { timestamp_delta, offset_delta, key, value, headers })
}

/// The records in `bytes`, which is the decompressed part of a batch after its header. Ends after the first error.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<RecordView<'_>, BatchError>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let mut bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        let body = varint::read_i32(&mut bytes)
            .and_then(|len| usize::try_from(len).ok())
            .and_then(|len| bytes.split_at_checked(len));
        let Some((body, after)) = body else { return Some(Err(BatchError::InvalidRecord("length"))) };
        Some(match parse_body(body) {
            Some(record) => {
                rest = Some(after);
                Ok(record)
            }
            None => Err(BatchError::InvalidRecord("body")),
        })
    })
}

/// What [`check_records`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordsSummary {
    /// Largest timestamp in milliseconds, −1 if there is none.
    pub max_timestamp: i64,
    /// Least timestamp in milliseconds of the records that have one (it is not negative), −1 if none has.
    pub min_timestamp: i64,
    /// Offset delta of the first record with the largest timestamp.
    pub max_timestamp_offset_delta: i32,
    /// Bytes of the records when not compressed.
    pub uncompressed_bytes: u64,
    /// Whether a record has no key, which a compacted topic refuses.
    pub has_missing_key: bool,
}

/// What any compressed batch may become in bytes, however small it is.
pub const ALWAYS_UNCOMPRESSED_BYTES: u64 = 16 << 20;

/// Beyond that, how many bytes each compressed one may become.
pub const MAX_COMPRESSION_RATIO: u64 = 64;

/// Most bytes that the records of a batch may become that is stored already, in `compressed_bytes`: in another codec than it
/// came with, perhaps, or written by Kafka.
#[must_use]
pub fn max_stored_uncompressed_bytes(compressed_bytes: usize) -> usize {
    const ALWAYS: usize = 256 << 20;
    ALWAYS.max(usize::try_from(max_uncompressed_bytes(compressed_bytes)).unwrap_or(usize::MAX))
}

/// Most bytes that the records of a batch may become from `compressed_bytes`. A megabyte can be made to become thirty
/// gigabytes, which would keep a shard from everybody else for seconds; producers fill batches up to a few megabytes
/// before they compress them.
#[must_use]
pub fn max_uncompressed_bytes(compressed_bytes: usize) -> u64 {
    ALWAYS_UNCOMPRESSED_BYTES.max((compressed_bytes as u64).saturating_mul(MAX_COMPRESSION_RATIO))
}

/// Checks that the records of a batch are what its header says: their number, offset deltas 0, 1, 2 … up to the last
/// one, every length inside its record. `payload` is the batch after its header, compressed or not. Memory is bounded by
/// the codec's window, and work by what the records may become ([`max_uncompressed_bytes`]).
///
/// # Errors
/// [`BatchError::InvalidRecord`], [`BatchError::Compression`] and [`BatchError::Inflated`].
pub fn check_records(header: &BatchHeader, payload: &[u8]) -> Result<RecordsSummary, BatchError> {
    let compression = header.compression()?;
    if compression == crate::compression::Compression::None {
        return check_plain(header, payload);
    }
    let reader = compression.reader(payload).map_err(|error| BatchError::Compression(error.to_string()))?;
    let limit_bytes = max_uncompressed_bytes(payload.len());
    let reader = io::BufReader::with_capacity(16 * 1024, reader);
    let mut skimmer = Skimmer { reader, read_bytes: 0, limit_bytes };
    let mut check = Check::new(header);
    for _ in 0..header.record_count {
        let record = skimmer.record().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => BatchError::InvalidRecord("compressed body"),
            io::ErrorKind::FileTooLarge => BatchError::Inflated { limit_bytes },
            _ => BatchError::Compression(error.to_string()),
        })?;
        check.add(&record)?;
    }
    if skimmer.reader.read(&mut [0]).map_err(|error| BatchError::Compression(error.to_string()))? != 0 {
        return Err(BatchError::InvalidRecord("bytes after the last record"));
    }
    check.finish(skimmer.read_bytes)
}

fn check_plain(header: &BatchHeader, payload: &[u8]) -> Result<RecordsSummary, BatchError> {
    let mut check = Check::new(header);
    for record in records(payload) {
        let record = record?;
        check.add(&Skimmed {
            timestamp_delta: record.timestamp_delta,
            offset_delta: record.offset_delta,
            has_key: record.key.is_some(),
        })?;
    }
    check.finish(payload.len() as u64)
}

/// What the check needs of a record.
struct Skimmed {
    timestamp_delta: i64,
    offset_delta: i32,
    has_key: bool,
}

struct Check<'a> {
    header: &'a BatchHeader,
    seen: i32,
    summary: RecordsSummary,
}

impl<'a> Check<'a> {
    fn new(header: &'a BatchHeader) -> Self {
        let summary = RecordsSummary {
            max_timestamp: -1,
            min_timestamp: -1,
            max_timestamp_offset_delta: 0,
            uncompressed_bytes: 0,
            has_missing_key: false,
        };
        Check { header, seen: 0, summary }
    }

    fn add(&mut self, record: &Skimmed) -> Result<(), BatchError> {
        if record.offset_delta != self.seen {
            return Err(BatchError::InvalidRecord("offset delta"));
        }
        if self.seen == self.header.record_count {
            return Err(BatchError::InvalidRecord("more records than the header says"));
        }
        let timestamp = self.header.base_timestamp.0.saturating_add(record.timestamp_delta);
        if timestamp > self.summary.max_timestamp {
            self.summary.max_timestamp = timestamp;
            self.summary.max_timestamp_offset_delta = record.offset_delta;
        }
        let min = self.summary.min_timestamp;
        if timestamp >= 0 && (min < 0 || timestamp < min) {
            self.summary.min_timestamp = timestamp;
        }
        self.summary.has_missing_key |= !record.has_key;
        self.seen += 1;
        Ok(())
    }

    fn finish(mut self, uncompressed_bytes: u64) -> Result<RecordsSummary, BatchError> {
        if self.seen != self.header.record_count {
            return Err(BatchError::InvalidRecord("fewer records than the header says"));
        }
        self.summary.uncompressed_bytes = uncompressed_bytes;
        Ok(self.summary)
    }
}

/// Reads records from a stream and keeps nothing of keys, values and headers.
struct Skimmer<R> {
    reader: R,
    read_bytes: u64,
    limit_bytes: u64,
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl<R: Read> Skimmer<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.claim(1)?;
        self.reader.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Counts bytes before they are decompressed.
    fn claim(&mut self, len: u64) -> io::Result<()> {
        if len > self.limit_bytes - self.read_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.read_bytes += len;
        Ok(())
    }

    fn varlong(&mut self) -> io::Result<i64> {
        let mut encoded = [0; 10];
        for at in 0..encoded.len() {
            encoded[at] = self.byte()?;
            if encoded[at] & 0x80 == 0 {
                return varint::read_i64(&mut &encoded[..=at]).ok_or_else(malformed);
            }
        }
        Err(malformed())
    }

    fn varint(&mut self) -> io::Result<i32> {
        i32::try_from(self.varlong()?).map_err(|_| malformed())
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        self.claim(len)?;
        let skipped = io::copy(&mut (&mut self.reader).take(len), &mut io::sink())?;
        if skipped < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Skips a length-prefixed field, and tells whether it is not null.
    fn skip_field(&mut self) -> io::Result<bool> {
        match self.varint()? {
            -1 => Ok(false),
            len => self.skip(u64::try_from(len).map_err(|_| malformed())?).map(|()| true),
        }
    }

    fn record(&mut self) -> io::Result<Skimmed> {
        let len = u64::try_from(self.varint()?).map_err(|_| malformed())?;
        let start = self.read_bytes;
        let _attributes = self.byte()?;
        let timestamp_delta = self.varlong()?;
        let offset_delta = self.varint()?;
        let has_key = self.skip_field()?;
        self.skip_field()?;
        let headers = self.varint()?;
        if headers < 0 || u64::from(headers.unsigned_abs()) > len {
            return Err(malformed());
        }
        for _ in 0..headers {
            if !self.skip_field()? {
                return Err(malformed());
            }
            self.skip_field()?;
        }
        if self.read_bytes - start != len {
            return Err(malformed());
        }
        Ok(Skimmed { timestamp_delta, offset_delta, has_key })
    }
}

//! The final read: what a fresh consumer finds from log start to log end, partition by partition.
//!
//! Plain Fetch requests on a connection of its own, no client library between the broker's bytes and the checker: every
//! batch is verified, every record is looked at, and the ends that bound the reading are the broker's own.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use highwater_checker::{
    DecodeError, Isolation, Layout, Offset, PartitionId, PartitionIndex, Reader, Reading, RunId,
};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use highwater_model::compression::Compression;
use highwater_model::record;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::fetch_response::PartitionData;
use highwater_protocol::messages::{BrokerId, FetchRequest};

use crate::broker::admin::{self, AdminError, EARLIEST, LATEST, topic_name};
use crate::broker::wire::{Connection, WireError};
use crate::cancel::{Cancel, Interrupted};

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const FETCH_MAX_BYTES: i32 = 32 << 20;
const PARTITION_MAX_BYTES: i32 = 4 << 20;
const MAX_WAIT_MS: i32 = 100;
/// A batch does not decompress to more than this.
const MAX_BATCH_BYTES: usize = 64 << 20;
/// So many fetches in a row without a single new batch, although the broker says that there are more.
const MAX_EMPTY_FETCHES: u32 = 100;

/// Why a log was not read to its end, so that nothing can be said of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The broker refuses, or does not answer.
    #[error("final read: {0}")]
    Admin(#[from] AdminError),
    /// The same, of a fetch.
    #[error("final read: {0}")]
    Wire(#[from] WireError),
    /// The broker refuses a partition.
    #[error("final read: fetch of partition {partition} at offset {offset} got Kafka's error code {code}")]
    Fetch {
        /// Which.
        partition: i32,
        /// From where.
        offset: i64,
        /// Kafka's code.
        code: i16,
    },
    /// The broker claims more records than it gives.
    #[error(
        "final read: partition {partition} gives nothing at offset {offset}, though its log ends at {end}"
    )]
    Stuck {
        /// Which.
        partition: i32,
        /// Where it stops.
        offset: i64,
        /// What it claims.
        end: i64,
    },
    /// Somebody asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A topic to be read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The broker.
    pub address: SocketAddr,
    /// The topic.
    pub topic: &'a str,
    /// Its partitions.
    pub partitions: i32,
    /// The run whose records are looked for.
    pub run: RunId,
    /// One topic with those partitions.
    pub layout: &'a Layout,
}

/// Reads everything under one isolation level.
pub fn final_read(source: &Source<'_>, isolation: Isolation, cancel: &Cancel) -> Result<Reading, ReadError> {
    let mut connection = Connection::open(source.address, CALL_TIMEOUT)?;
    let level = level(isolation);
    let mut ends =
        |which| admin::list_offsets(&mut connection, source.topic, source.partitions, level, which);
    let (starts, ends) = (ends(EARLIEST)?, ends(LATEST)?);
    let mut reading = Reading::new(Reader { isolation, ..Reader::FINAL }, source.run, source.layout);
    let mut spans: Vec<Span> = Vec::new();
    for (partition, (&start, &end)) in (0..).zip(starts.iter().zip(&ends)) {
        let Some(place) = source.layout.index(PartitionId { topic: 0, partition }) else { continue };
        reading.bounds(place, Offset(start), Offset(end));
        spans.push(Span { partition: partition.cast_signed(), place, next: start, end, empty_fetches: 0 });
    }
    // A span's place is its partition's number.
    while spans.iter().any(|span| span.next < span.end) {
        cancel.check()?;
        read_some(&mut connection, source.topic, level, &mut spans, &mut reading)?;
    }
    Ok(reading)
}

/// What of a partition is still to be read.
struct Span {
    partition: i32,
    place: PartitionIndex,
    next: i64,
    /// Exclusive.
    end: i64,
    empty_fetches: u32,
}

fn read_some(
    connection: &mut Connection,
    topic: &str,
    level: i8,
    spans: &mut [Span],
    reading: &mut Reading,
) -> Result<(), ReadError> {
    let partitions = spans.iter().filter(|span| span.next < span.end).map(|span| {
        FetchPartition::default()
            .with_partition(span.partition)
            .with_fetch_offset(span.next)
            .with_current_leader_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(PARTITION_MAX_BYTES)
    });
    let topics =
        vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(partitions.collect())];
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(MAX_WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_MAX_BYTES)
        .with_isolation_level(level)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics);
    let response = connection.call(&request, 11)?;
    for data in response.responses.iter().flat_map(|topic| &topic.partitions) {
        let Some(span) = spans.iter_mut().find(|span| span.partition == data.partition_index) else {
            continue;
        };
        span.take(data, reading)?;
    }
    Ok(())
}

impl Span {
    fn take(&mut self, data: &PartitionData, reading: &mut Reading) -> Result<(), ReadError> {
        if data.error_code != 0 {
            let (partition, offset, code) = (self.partition, self.next, data.error_code);
            return Err(ReadError::Fetch { partition, offset, code });
        }
        let before = self.next;
        let bytes = data.records.as_deref().unwrap_or_default();
        // A batch that was cut at the end of a response comes whole in the next one.
        for (at, header) in batch::headers(bytes).map_while(Result::ok) {
            self.take_batch(&header, &bytes[at..at + header.size_bytes], reading);
        }
        self.empty_fetches = if self.next > before { 0 } else { self.empty_fetches + 1 };
        if self.empty_fetches >= MAX_EMPTY_FETCHES {
            let (partition, offset, end) = (self.partition, self.next, self.end);
            return Err(ReadError::Stuck { partition, offset, end });
        }
        Ok(())
    }

    /// Shows the checker every record of a batch from the position on, and whatever of it is damaged, at the offset at
    /// which a consumer would stumble over it.
    fn take_batch(&mut self, header: &BatchHeader, bytes: &[u8], reading: &mut Reading) {
        let end = header.last_offset().0 + 1;
        if end <= self.next || header.base_offset.0 >= self.end {
            self.next = self.next.max(end.min(self.end));
            return;
        }
        if !header.is_control() {
            match payload_of(bytes) {
                Ok(payload) => self.take_records(header, &payload, reading),
                Err(why) => self.damaged(header.base_offset.0, why, reading),
            }
        }
        self.next = end;
    }

    fn take_records(&self, header: &BatchHeader, payload: &[u8], reading: &mut Reading) {
        let mut expected = header.base_offset.0;
        for record in record::records(payload) {
            let Ok(record) = record else {
                return self.damaged(
                    expected,
                    "a record breaks its format in a batch whose checksum is right",
                    reading,
                );
            };
            let offset = header.base_offset.0 + i64::from(record.offset_delta);
            expected = offset + 1;
            if (self.next..self.end).contains(&offset) {
                reading.value(self.place, Offset(offset), record.value.unwrap_or_default());
            }
        }
    }

    fn damaged(&self, offset: i64, why: &'static str, reading: &mut Reading) {
        reading.record(self.place, Offset(offset.max(self.next)), Err(DecodeError::Unreadable { why }));
    }
}

/// The records of a batch, decompressed, or what is wrong with it.
fn payload_of(bytes: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let header = batch::verify(bytes).map_err(|_| "the checksum of its batch is wrong")?;
    let payload = &bytes[BATCH_HEADER_BYTES..];
    match header.compression().map_err(|_| "its batch names a codec that does not exist")? {
        Compression::None => Ok(Cow::Borrowed(payload)),
        codec => {
            let payload =
                codec.decompress(payload, MAX_BATCH_BYTES).map_err(|_| "its batch cannot be decompressed")?;
            Ok(Cow::Owned(payload))
        }
    }
}

fn level(isolation: Isolation) -> i8 {
    match isolation {
        Isolation::ReadUncommitted => 0,
        Isolation::ReadCommitted => 1,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use highwater_checker::{Acks, Filler, Flush, Setting, Verdict, promise};
    use highwater_checker::{Anomaly, Ledger, Nanos, ProducerId, ProducerLedger, Sequences, Trial, judge};
    use highwater_model::Timestamp;
    use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
    use highwater_model::crc::crc32c;

    use super::*;

    const RUN: RunId = RunId(1);
    /// Where a batch's checksum is, and from where on it covers the batch.
    const CRC: std::ops::Range<usize> = 17..21;

    /// Three acknowledged records in one batch at offset 0, which is then changed by `change`.
    fn verdict(change: impl FnOnce(&mut Vec<u8>)) -> Verdict {
        let layout = Layout::new(&[1]);
        let place = layout.partitions().next().unwrap();
        let mut ledger = ProducerLedger::new(RUN, ProducerId(0), &layout);
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..3 {
            let identity = ledger.attempt(place, Nanos(1), 100);
            let mut value = [0; 100];
            identity.encode(&mut value, Filler { zero_percent: 0 }).unwrap();
            builder.push(&NewRecord {
                timestamp: Timestamp(1),
                key: None,
                value: Some(&value),
                headers: &[],
            });
        }
        ledger.ack(place, Sequences { first: 0, count: 3 }, Offset(0), Nanos(2)).unwrap();
        let mut bytes = builder.build(ProducerStamp::NONE).unwrap().to_vec();
        change(&mut bytes);

        let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
        reading.bounds(place, Offset(0), Offset(3));
        let mut span = Span { partition: 0, place, next: 0, end: 3, empty_fetches: 0 };
        let data = PartitionData::default().with_records(Some(Bytes::from(bytes)));
        span.take(&data, &mut reading).unwrap();
        let ledger = Ledger::gather(RUN, &layout, vec![ledger]).unwrap();
        let (polls, observations) = (Vec::new(), Vec::new());
        let trial = Trial { ledger, faults: Vec::new(), readings: vec![reading], polls, observations };
        judge(trial, &promise(&Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE), None)).unwrap()
    }

    fn corrupt_and_lost(verdict: &Verdict) -> (u64, u64) {
        (verdict.violation(Anomaly::Corrupt), verdict.losses.records)
    }

    #[test]
    fn whole_batch_is_what_was_acknowledged() {
        assert_eq!(verdict(|_| {}).violations, []);
    }

    #[test]
    fn batch_whose_checksum_is_wrong_is_corrupt() {
        let verdict = verdict(|bytes| *bytes.last_mut().unwrap() ^= 1);
        assert_eq!(corrupt_and_lost(&verdict), (1, 3));
    }

    /// The last byte of a record counts its headers. A broker that altered it and made the checksum fit serves a record
    /// that no consumer can read: it must not pass for one that is merely gone.
    #[test]
    fn record_that_breaks_its_format_under_a_right_checksum_is_corrupt() {
        let verdict = verdict(|bytes| {
            *bytes.last_mut().unwrap() ^= 1;
            let crc = crc32c(&bytes[CRC.end..]);
            bytes[CRC].copy_from_slice(&crc.to_be_bytes());
        });
        assert_eq!(corrupt_and_lost(&verdict), (1, 1));
    }
}

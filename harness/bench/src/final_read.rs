//! The final read: what a fresh consumer finds from log start to log end, partition by partition.
//!
//! Plain Fetch requests on a connection of its own, no client library between the broker's bytes and the checker: every
//! batch is verified, every record is looked at, and the ends that bound the reading are the broker's own.
//!
//! Nothing that the broker does here is an error of the harness: an offset that it refuses, a partition that it fenced, a
//! connection that it breaks is what a consumer meets, and goes to the checker as unreadable.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use highwater_checker::{
    DecodeError, Isolation, Layout, Offset, PartitionId, PartitionIndex, Reader, Reading, RunId,
};
use highwater_model::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use highwater_model::compression::Compression;
use highwater_model::record;
use highwater_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_protocol::messages::fetch_response::PartitionData;
use highwater_protocol::messages::{BrokerId, FetchRequest, FetchResponse};

use crate::broker::admin::{self, EARLIEST, LATEST, topic_name};
use crate::broker::wire::{Connection, WireError};
use crate::cancel::{Cancel, Interrupted};

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const FETCH_MAX_BYTES: i32 = 32 << 20;
const PARTITION_MAX_BYTES: i32 = 4 << 20;
const MAX_WAIT_MS: i32 = 100;
/// A batch does not decompress to more than this.
const MAX_BATCH_BYTES: usize = 64 << 20;
/// So many fetches in a row that get no new batch of a partition, although the broker says that there are more. Where others
/// got something, only those count that name it first: what comes behind may get nothing for as long as the response is full.
const MAX_EMPTY_FETCHES: u32 = 100;
/// A broker that refuses an offset for so long, asked again and again, does not mean to give it.
const REFUSED_FOR: Duration = Duration::from_secs(3);
/// So long something readable is looked for behind that, offset by offset, in each partition.
const SEARCH_FOR: Duration = Duration::from_secs(3);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// So many connections may break during one reading.
const MAX_FAILURES: u32 = 3;

/// Kafka's word for what a broker says of an offset that it refuses.
fn refusal(code: i16) -> String {
    let name =
        highwater_checker::codes::lookup(code).map_or(String::new(), |entry| format!(" ({})", entry.name));
    format!("a fetch got Kafka's error code {code}{name}")
}

/// A topic to be read.
#[derive(Clone, Copy)]
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
    /// Asked where the broker does not answer any more: how it ended, if it did.
    pub ended: &'a (dyn Fn() -> Option<String> + Sync),
}

/// Reads everything under one isolation level. What the broker refuses, or is not there to give, is part of the reading.
pub fn final_read(
    source: &Source<'_>,
    isolation: Isolation,
    cancel: &Cancel,
) -> Result<Reading, Interrupted> {
    let reader = Reader { isolation, ..Reader::FINAL };
    let mut reading = Reading::new(reader, source.run, source.layout);
    let begun = Connection::open(source.address, CALL_TIMEOUT).and_then(|mut connection| {
        Ok((spans(&mut connection, source, isolation, &mut reading)?, connection))
    });
    let (mut spans, mut connection) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let why = (source.ended)().unwrap_or_else(|| format!("no log can be read: {}", of_wire(&error)));
            return Ok(Reading::unserved(reader, source.run, source.layout, &why));
        }
    };
    let mut failures = 0;
    while spans.iter().any(|span| span.next < span.end) {
        cancel.check()?;
        let Err(error) = read_some(&mut connection, source.topic, level(isolation), &mut spans, &mut reading)
        else {
            continue;
        };
        failures += 1;
        match Connection::open(source.address, CALL_TIMEOUT) {
            Ok(again) if failures < MAX_FAILURES => connection = again,
            _ => {
                let why = (source.ended)().unwrap_or_else(|| of_wire(&error));
                spans.iter_mut().for_each(|span| span.give_up(&why, &mut reading));
                break;
            }
        }
    }
    Ok(reading)
}

/// What is to be read of each partition; one that does not tell its ends is booked as refused.
fn spans(
    connection: &mut Connection,
    source: &Source<'_>,
    isolation: Isolation,
    reading: &mut Reading,
) -> Result<Vec<Span>, WireError> {
    let mut ends =
        |which| admin::log_ends(connection, source.topic, source.partitions, level(isolation), which);
    let (starts, ends) = (ends(EARLIEST)?, ends(LATEST)?);
    let mut spans = Vec::new();
    for (partition, bounds) in (0..).zip(starts.into_iter().zip(ends)) {
        let Some(place) = source.layout.index(PartitionId { topic: 0, partition }) else { continue };
        match bounds {
            (Ok(start), Ok(end)) => {
                reading.bounds(place, Offset(start), Offset(end));
                spans.push(Span::new(partition.cast_signed(), place, start, end));
            }
            (Err(code), _) | (_, Err(code)) => {
                let why = refusal(code).replacen("a fetch", "the question where the log ends", 1);
                reading.refused(place, why);
            }
        }
    }
    Ok(spans)
}

/// Without the address, which differs from run to run.
fn of_wire(error: &WireError) -> String {
    match error {
        WireError::Silent { within, .. } => format!("the broker did not answer within {within:?}"),
        WireError::Io { source, .. } => format!("the connection broke: {source}"),
        WireError::Garbled { problem, .. } => format!("the answer cannot be understood: {problem}"),
        WireError::Unsupported { .. } => error.to_string(),
    }
}

/// What of a partition is still to be read.
struct Span {
    partition: i32,
    place: PartitionIndex,
    next: i64,
    /// Exclusive.
    end: i64,
    /// Fetches that gave something of it, or named it first.
    turns: u64,
    /// Whether the fetch on its way names it first.
    is_first: bool,
    empty_fetches: u32,
    /// Since when the broker refuses what is at `next`, and how it says so.
    refused: Option<Refused>,
    /// What is left of the time in which something readable is looked for behind what is refused.
    search: Duration,
}

/// An offset that the broker refuses.
struct Refused {
    since: Instant,
    /// Where the range of refused offsets began.
    from: i64,
    why: String,
}

fn read_some(
    connection: &mut Connection,
    topic: &str,
    level: i8,
    spans: &mut [Span],
    reading: &mut Reading,
) -> Result<(), WireError> {
    let partitions = in_turn(spans).into_iter().map(|(partition, offset)| {
        FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
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
    if !take(&response, spans, reading, Instant::now()) {
        // A broker that refuses does so at once: it is asked again, not hammered.
        std::thread::sleep(ASK_AGAIN_AFTER);
    }
    Ok(())
}

/// What the next fetch asks for: partition and offset of each that is not read to its end, whose turn came least often first.
fn in_turn(spans: &mut [Span]) -> Vec<(i32, i64)> {
    spans.sort_by_key(|span| span.turns);
    let mut pending: Vec<&mut Span> = spans.iter_mut().filter(|span| span.next < span.end).collect();
    if let Some(first) = pending.first_mut() {
        first.is_first = true;
    }
    pending.iter().map(|span| (span.partition, span.next)).collect()
}

/// Takes what a response gives of each partition that was asked for; one that it leaves out has nothing. Whether anything new
/// came.
fn take(response: &FetchResponse, spans: &mut [Span], reading: &mut Reading, now: Instant) -> bool {
    let given = || response.responses.iter().flat_map(|topic| &topic.partitions);
    let nothing = PartitionData::default().with_error_code(response.error_code);
    let is_empty = given().all(|data| data.records.as_deref().unwrap_or_default().is_empty());
    let mut moved = false;
    for span in spans.iter_mut().filter(|span| span.next < span.end) {
        let data = given().find(|data| data.partition_index == span.partition).unwrap_or(&nothing);
        let before = span.next;
        span.is_first |= is_empty;
        span.take(data, reading, now);
        moved |= span.next > before;
    }
    moved
}

impl Span {
    fn new(partition: i32, place: PartitionIndex, start: i64, end: i64) -> Self {
        let (turns, is_first, empty_fetches) = (0, false, 0);
        Span {
            partition,
            place,
            next: start,
            end,
            turns,
            is_first,
            empty_fetches,
            refused: None,
            search: SEARCH_FOR,
        }
    }

    /// Takes what a response gives of it.
    fn take(&mut self, data: &PartitionData, reading: &mut Reading, now: Instant) {
        let was_its_turn = std::mem::take(&mut self.is_first);
        if data.error_code != 0 {
            return self.refuse(&refusal(data.error_code), reading, now);
        }
        let before = self.next;
        let bytes = data.records.as_deref().unwrap_or_default();
        let first = batch::headers(bytes).find_map(Result::ok);
        if let Some((_, header)) = first.filter(|(_, header)| header.last_offset().0 >= self.next) {
            self.readable_from(header.base_offset.0.max(self.next), reading);
        }
        // A batch that was cut at the end of a response comes whole in the next one.
        for (at, header) in batch::headers(bytes).map_while(Result::ok) {
            self.take_batch(&header, &bytes[at..at + header.size_bytes], reading);
        }
        let has_moved = self.next > before;
        self.turns += u64::from(was_its_turn || has_moved);
        self.empty_fetches = if has_moved { 0 } else { self.empty_fetches + u32::from(was_its_turn) };
        if self.empty_fetches >= MAX_EMPTY_FETCHES {
            self.refuse("nothing is given, though the log goes on", reading, now);
        }
    }

    /// The broker does not give what is at `next`. It is asked again for a while, as a consumer would; then the offset is
    /// given up, and something readable is looked for behind it.
    fn refuse(&mut self, why: &str, reading: &mut Reading, now: Instant) {
        let from = self.next;
        let refused = self.refused.get_or_insert_with(|| Refused { since: now, from, why: why.to_owned() });
        let elapsed = now.saturating_duration_since(refused.since);
        if refused.from == self.next && elapsed < REFUSED_FOR {
            return;
        }
        if elapsed >= REFUSED_FOR + self.search {
            return self.give_up(why, reading);
        }
        self.next += 1;
        if self.next >= self.end {
            self.readable_from(self.end, reading);
        }
    }

    /// What was refused ends here.
    fn readable_from(&mut self, offset: i64, reading: &mut Reading) {
        let Some(refused) = self.refused.take() else { return };
        let searched = refused.since.elapsed().saturating_sub(REFUSED_FOR);
        self.search = self.search.saturating_sub(searched);
        if offset > refused.from && self.next > refused.from {
            reading.unreadable(self.place, Offset(refused.from), Offset(offset), refused.why);
        }
    }

    /// Nothing more of this partition is read.
    fn give_up(&mut self, why: &str, reading: &mut Reading) {
        if self.next < self.end {
            let from = self.refused.take().map_or(self.next, |refused| refused.from);
            reading.unreadable(self.place, Offset(from), Offset(self.end), why.to_owned());
            self.next = self.end;
        }
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
    use highwater_checker::{Acks, Filler, Flush, Identity, Setting, Verdict, promise};
    use highwater_checker::{Anomaly, Ledger, Nanos, ProducerId, ProducerLedger, Sequences, Trial, judge};
    use highwater_model::Timestamp;
    use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp};
    use highwater_model::crc::crc32c;
    use highwater_protocol::messages::fetch_response::FetchableTopicResponse;

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
        let mut span = Span::new(0, place, 0, 3);
        let data = PartitionData::default().with_records(Some(Bytes::from(bytes)));
        span.take(&data, &mut reading, Instant::now());
        let ledger = Ledger::gather(RUN, &layout, vec![ledger]).unwrap();
        let (polls, observations) = (Vec::new(), Vec::new());
        let trial = Trial { ledger, faults: Vec::new(), readings: vec![reading], polls, observations };
        judge(trial, &promise(&Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE), None)).unwrap()
    }

    /// How many records of two partitions with 300 batches of one record each are read from a broker whose response has room
    /// for one batch, and which gives nothing of the partitions that `withheld` names.
    fn records_read(withheld: &[i32], error_code: i16) -> u64 {
        const RECORDS: i64 = 300;
        let layout = Layout::new(&[2]);
        let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
        let span = |(number, place)| Span::new(number, place, 0, RECORDS);
        let mut spans: Vec<Span> = (0..).zip(layout.partitions()).map(span).collect();
        let mut now = Instant::now();
        while spans.iter().any(|span| span.next < span.end) {
            now += MAX_WAIT_MS.unsigned_abs() * Duration::from_millis(1);
            let asked = in_turn(&mut spans);
            let first = asked.iter().find(|(partition, _)| !withheld.contains(partition));
            let data = first.map(|&(partition, offset)| {
                let id = PartitionId { topic: 0, partition: partition.unsigned_abs() };
                let (producer, sequence, sent_at) = (ProducerId(0), offset.unsigned_abs(), Nanos(1));
                let mut value = [0; 100];
                Identity { run: RUN, producer, partition: id, sequence, sent_at, value_len: 100 }
                    .encode(&mut value, Filler { zero_percent: 0 })
                    .unwrap();
                let mut batch = BatchBuilder::new(Compression::None);
                batch.push(&NewRecord {
                    timestamp: Timestamp(1),
                    key: None,
                    value: Some(&value),
                    headers: &[],
                });
                let mut bytes = batch.build(ProducerStamp::NONE).unwrap().to_vec();
                bytes[..8].copy_from_slice(&offset.to_be_bytes());
                PartitionData::default()
                    .with_partition_index(partition)
                    .with_records(Some(Bytes::from(bytes)))
            });
            let topic = FetchableTopicResponse::default().with_partitions(data.into_iter().collect());
            let response = FetchResponse::default().with_error_code(error_code).with_responses(vec![topic]);
            take(&response, &mut spans, &mut reading, now);
        }
        reading.records()
    }

    /// A response takes what is named first: where the others are long, a partition that is always named last gets nothing
    /// for hundreds of fetches, which is not to be held against the broker.
    #[test]
    fn partition_behind_long_ones_is_read_too() {
        assert_eq!(records_read(&[], 0), 600);
    }

    #[test]
    fn partition_of_which_nothing_is_given_is_given_up() {
        assert_eq!(records_read(&[0], 0), 300);
        assert_eq!(records_read(&[1], 0), 300);
        assert_eq!(records_read(&[0, 1], 0), 0);
    }

    #[test]
    fn read_ends_where_every_response_is_an_error() {
        assert_eq!(records_read(&[0, 1], 56), 0);
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

use ahash::RandomState;
use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp, stamp, verify};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, ProducerEpoch, Sequence};

use super::*;

/// What is in a log for the filter: batches, made at consecutive offsets.
#[derive(Default)]
struct Log {
    batches: Vec<Vec<u8>>,
    next: i64,
}

type KeyValue<'a> = (&'a str, Option<&'a str>);

fn producer(id: i64, sequence: i32) -> ProducerStamp {
    ProducerStamp {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
    }
}

impl Log {
    fn add(&mut self, builder: BatchBuilder, producer: ProducerStamp, control: bool) -> &mut Self {
        let mut bytes = builder.build(producer).expect("a batch").to_vec();
        if control {
            bytes[22] |= 0x20;
            let crc = highwater_model::crc::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        stamp(&mut bytes, Offset(self.next), LeaderEpoch(0));
        self.next = verify(&bytes).expect("a batch").next_offset().0;
        self.batches.push(bytes);
        self
    }

    fn batch(&mut self, records: &[KeyValue<'_>], producer: ProducerStamp) -> &mut Self {
        self.add(builder(records), producer, false)
    }

    fn plain(&mut self, records: &[KeyValue<'_>]) -> &mut Self {
        self.batch(records, ProducerStamp::NONE)
    }

    fn in_transaction(&mut self, records: &[KeyValue<'_>], id: i64) -> &mut Self {
        self.add(builder(records).transactional(), producer(id, 0), false)
    }

    fn marker(&mut self, id: i64, kind: u8) -> &mut Self {
        let mut builder = BatchBuilder::new(Compression::None).transactional();
        builder.push(&NewRecord {
            timestamp: Timestamp(5),
            key: Some(&[0, 0, 0, kind]),
            value: Some(&[0; 6]),
            ..NewRecord::default()
        });
        self.add(builder, ProducerStamp { base_sequence: Sequence::NONE, ..producer(id, 0) }, true)
    }

    /// One pass over everything, with all of it dirty, at a time.
    fn compact(&mut self, now: i64) -> &mut Self {
        self.compact_from(0, now, &LastOffsets::new())
    }

    fn compact_from(&mut self, first_dirty: i64, now: i64, last_offsets: &LastOffsets) -> &mut Self {
        let seeds = [RandomState::with_seeds(1, 2, 3, 4), RandomState::with_seeds(5, 6, 7, 8)];
        let mut scan = Scan::new(OffsetMap::new(seeds, 1 << 20, 100), Offset(first_dirty));
        for batch in &self.batches {
            let header = verify(batch).expect("intact");
            if header.base_offset.0 >= first_dirty {
                assert_eq!(scan.add(&header, batch), Ok(Scanned::Yes));
            }
        }
        let retention = Retention { now: Timestamp(now), delete_retention_ms: RETENTION_MS };
        let mut filter = scan.into_filter(retention, last_offsets.clone());
        let count = self.batches.len();
        let old = std::mem::take(&mut self.batches);
        for (index, batch) in old.into_iter().enumerate() {
            let header = verify(&batch).expect("intact");
            match filter.next(&header, &batch, index + 1 == count).expect("well formed") {
                Kept::Whole => self.batches.push(batch),
                Kept::Changed(changed) => self.batches.push(changed),
                Kept::Nothing => {}
            }
        }
        self
    }

    /// Offset, key and value of every record but markers.
    fn records(&self) -> Vec<String> {
        let mut records = Vec::new();
        for batch in &self.batches {
            let header = verify(batch).expect("intact");
            if header.is_control() {
                continue;
            }
            let plain = plain_records(&header, batch).expect("records");
            for record in record::records(&plain) {
                let record = record.expect("well formed");
                let text =
                    |bytes: Option<&[u8]>| bytes.map_or("-".into(), String::from_utf8_lossy).into_owned();
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                records.push(format!("{offset}:{}={}", text(record.key), text(record.value)));
            }
        }
        records
    }

    /// First offsets of all batches.
    fn offsets(&self) -> Vec<i64> {
        self.batches.iter().map(|batch| verify(batch).expect("intact").base_offset.0).collect()
    }
}

const RETENTION_MS: i64 = 100;
const ABORT: u8 = 0;
const COMMIT: u8 = 1;

fn builder(records: &[KeyValue<'_>]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    for (key, value) in records {
        builder.push(&NewRecord {
            timestamp: Timestamp(1),
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            ..NewRecord::default()
        });
    }
    builder
}

#[test]
fn last_record_of_each_key_stays_at_its_offset() {
    let mut log = Log::default();
    log.plain(&[("a", Some("1")), ("b", Some("1"))]).plain(&[("a", Some("2")), ("c", Some("1"))]);
    log.plain(&[("c", Some("2"))]).compact(0);
    assert_eq!(log.records(), ["1:b=1", "2:a=2", "4:c=2"]);
    log.compact(1);
    assert_eq!(log.records(), ["1:b=1", "2:a=2", "4:c=2"], "nothing more goes");
}

#[test]
fn record_without_a_key_goes() {
    let mut log = Log::default();
    let mut builder = builder(&[("a", Some("1"))]);
    builder.push(&NewRecord { value: Some(b"none"), ..NewRecord::default() });
    log.add(builder, ProducerStamp::NONE, false).plain(&[("b", Some("1"))]).compact(0);
    assert_eq!(log.records(), ["0:a=1", "2:b=1"]);
}

#[test]
fn tombstone_stays_until_its_horizon_which_the_first_pass_sets() {
    let mut log = Log::default();
    log.plain(&[("a", Some("1"))]).plain(&[("a", None)]).plain(&[("b", Some("1"))]).compact(1_000);
    assert_eq!(log.records(), ["1:a=-", "2:b=1"]);
    let header = verify(&log.batches[0]).expect("intact");
    assert_eq!((header.has_delete_horizon(), header.base_timestamp), (true, Timestamp(1_100)));
    assert_eq!(header.max_timestamp, Timestamp(1), "when it was made is still told");
    log.compact_from(3, 1_099, &LastOffsets::new());
    assert_eq!(log.records(), ["1:a=-", "2:b=1"]);
    log.compact_from(3, 1_100, &LastOffsets::new());
    assert_eq!(log.records(), ["2:b=1"]);
}

#[test]
fn last_batch_of_a_producer_and_of_the_pass_stay_empty() {
    let mut log = Log::default();
    log.batch(&[("a", Some("1"))], producer(7, 0)).batch(&[("a", Some("2"))], producer(7, 1));
    log.batch(&[("a", Some("3"))], producer(8, 0)).batch(&[("a", None)], producer(9, 0));
    let last = LastOffsets::from([(ProducerId(7), Offset(1)), (ProducerId(8), Offset(2))]);
    log.compact_from(0, 0, &last).compact_from(4, 1_000, &last);
    assert_eq!(log.records(), Vec::<String>::new());
    assert_eq!(log.offsets(), [1, 2, 3], "the last of 7 and of 8, and the end");
    let header = verify(&log.batches[0]).expect("intact");
    assert_eq!((header.record_count, header.last_sequence()), (0, Sequence(1)));
}

#[test]
fn aborted_records_go_and_supersede_none() {
    let mut log = Log::default();
    log.plain(&[("a", Some("1"))]).in_transaction(&[("a", Some("x")), ("b", Some("x"))], 7);
    log.in_transaction(&[("b", Some("2"))], 8).marker(7, ABORT).marker(8, COMMIT);
    log.plain(&[("c", Some("1"))]).compact(0);
    assert_eq!(log.records(), ["0:a=1", "3:b=2", "6:c=1"]);
}

#[test]
fn marker_stays_until_its_transaction_is_gone_and_its_horizon_passed() {
    let mut log = Log::default();
    log.in_transaction(&[("a", Some("x"))], 7).marker(7, ABORT);
    log.in_transaction(&[("a", Some("1"))], 7).marker(7, COMMIT).plain(&[("z", Some("1"))]);
    log.compact(1_000);
    assert_eq!(log.offsets(), [1, 2, 3, 4], "the aborted batch goes first");
    log.compact_from(5, 2_000, &LastOffsets::new());
    assert_eq!(log.offsets(), [1, 2, 3, 4], "now its marker has a horizon");
    assert!(verify(&log.batches[0]).expect("intact").has_delete_horizon());
    log.compact_from(5, 2_100, &LastOffsets::new());
    assert_eq!(log.offsets(), [2, 3, 4]);
    assert_eq!(log.records(), ["2:a=1", "4:z=1"], "what was committed stays, and so does its marker");
}

#[test]
fn nothing_from_an_open_transaction_on_is_touched() {
    let mut log = Log::default();
    log.plain(&[("a", Some("1"))]).plain(&[("a", Some("2"))]);
    log.in_transaction(&[("b", Some("1"))], 7).plain(&[("b", Some("2"))]).plain(&[("b", Some("3"))]);
    log.compact(0);
    assert_eq!(log.records(), ["1:a=2", "2:b=1", "3:b=2", "4:b=3"]);
}

#[test]
fn scan_ends_where_memory_does_and_what_lies_behind_stays() {
    let seeds = [RandomState::with_seeds(1, 2, 3, 4), RandomState::with_seeds(5, 6, 7, 8)];
    let mut scan = Scan::new(OffsetMap::new(seeds, 0, 0), Offset(0));
    let mut log = Log::default();
    for batch in 0..20 {
        let keys: Vec<String> = (0..100).map(|key| format!("{batch} {key}")).collect();
        let records: Vec<KeyValue<'_>> = keys.iter().map(|key| (key.as_str(), Some("1"))).collect();
        log.plain(&records);
    }
    let full = log
        .batches
        .iter()
        .position(|batch| scan.add(&verify(batch).expect("intact"), batch) == Ok(Scanned::Full));
    let full = full.expect("2000 keys do not fit");
    assert_eq!(scan.end(), Offset(100 * i64::try_from(full).expect("small")));
    let retention = Retention { now: Timestamp(0), delete_retention_ms: 0 };
    let mut filter = scan.into_filter(retention, LastOffsets::new());
    for batch in &log.batches {
        let header = verify(batch).expect("intact");
        assert_eq!(filter.next(&header, batch, false), Ok(Kept::Whole));
    }
}

#[test]
fn single_transaction_that_does_not_fit_is_taken_all_the_same() {
    let seeds = [RandomState::with_seeds(1, 2, 3, 4), RandomState::with_seeds(5, 6, 7, 8)];
    let mut scan = Scan::new(OffsetMap::new(seeds, 0, 0), Offset(0));
    let mut log = Log::default();
    for batch in 0..20 {
        let keys: Vec<String> = (0..100).map(|key| format!("{batch} {key}")).collect();
        let records: Vec<KeyValue<'_>> = keys.iter().map(|key| (key.as_str(), Some("1"))).collect();
        log.in_transaction(&records, 7);
    }
    log.marker(7, COMMIT);
    for batch in &log.batches {
        assert_eq!(scan.add(&verify(batch).expect("intact"), batch), Ok(Scanned::Yes));
    }
    assert_eq!(scan.end(), Offset(2_001));
}

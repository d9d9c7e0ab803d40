//! What compaction may take and what it may not, each case built by hand.

use highwater_checker::{
    Acks, Anomaly, Compaction, Contract, Flush, Isolation, Key, Layout, Ledger, Nanos, Offset,
    PartitionIndex, Polls, ProducerId, ProducerLedger, Reader, Reading, RunId, Sequences, Setting, Standing,
    Trial, Verdict, judge, promise,
};

const RUN: RunId = RunId(1);
/// `delete.retention.ms`.
const RETENTION: Nanos = Nanos(10);
/// When everything is read.
const READ_AT: Nanos = Nanos(100);

fn value(number: u32) -> Key {
    Key { number, is_tombstone: false }
}

fn tombstone(number: u32) -> Key {
    Key { number, is_tombstone: true }
}

fn partition(layout: &Layout) -> PartitionIndex {
    layout.partitions().next().expect("there is one")
}

fn durable() -> Contract {
    let compaction = Some(Compaction { delete_retention: RETENTION, read_at: READ_AT });
    let setting = Setting { idempotence: true, ..Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE) };
    Contract { compaction, ..promise(&setting, None) }
}

/// One producer and one partition. Records are sent at these instants, acknowledged at the offset of their sequence; those in
/// `left` are there in the end.
fn trial(records: &[(u64, Key)], left: &[u64]) -> Trial {
    let layout = Layout::new(&[1]);
    let place = partition(&layout);
    let mut ledger = ProducerLedger::new(RUN, ProducerId(0), &layout);
    let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
    reading.bounds(place, Offset(0), Offset(records.len() as i64));
    for (sequence, (sent_at, key)) in (0..).zip(records) {
        let identity = ledger.attempt_keyed(place, Nanos(*sent_at), 100, *key);
        let offset = Offset(sequence as i64);
        ledger.ack(place, Sequences::one(sequence), offset, Nanos(sent_at + 1)).expect("attempted");
        if left.contains(&sequence) {
            reading.record(place, offset, Ok(identity));
        }
    }
    let ledger = Ledger::gather(RUN, &layout, vec![ledger]).expect("of one run");
    Trial { ledger, faults: Vec::new(), readings: vec![reading], polls: Vec::new(), observations: Vec::new() }
}

fn verdict(records: &[(u64, Key)], left: &[u64]) -> Verdict {
    judge(trial(records, left), &durable()).expect("the evidence is whole")
}

#[test]
fn record_that_a_later_one_of_its_key_supersedes_may_be_gone() {
    let records = [(1, value(7)), (2, value(8)), (3, value(7)), (4, value(7))];
    for left in [&[0, 1, 2, 3][..], &[1, 2, 3], &[1, 3], &[0, 1, 3]] {
        let verdict = verdict(&records, left);
        assert_eq!(verdict.standing, Standing::Kept, "{left:?}: {:?}", verdict.violations);
        assert_eq!(verdict.losses.compacted, 4 - left.len() as u64);
        assert_eq!(verdict.losses.at_stake(), left.len() as u64);
    }
}

#[test]
fn last_record_of_a_key_may_not_be_gone() {
    let records = [(1, value(7)), (2, value(7)), (3, value(8))];
    // The one before it does not make up for it.
    let lacks_last = verdict(&records, &[0, 2]);
    assert_eq!((lacks_last.violation(Anomaly::LostHole), lacks_last.losses.records), (1, 1));
    let lacks_all = verdict(&records, &[2]);
    assert_eq!((lacks_all.violation(Anomaly::LostHole), lacks_all.losses.compacted), (2, 0));
}

#[test]
fn record_of_another_partition_or_key_supersedes_nothing() {
    let records = [(1, value(7)), (2, value(8))];
    assert_eq!(verdict(&records, &[1]).violation(Anomaly::LostHole), 1);
}

#[test]
fn nothing_may_be_gone_where_nothing_is_compacted() {
    let records = [(1, value(7)), (2, value(7))];
    let contract = Contract { compaction: None, ..durable() };
    let verdict = judge(trial(&records, &[1]), &contract).expect("the evidence is whole");
    assert_eq!(verdict.violation(Anomaly::LostHole), 1);
}

#[test]
fn tombstone_may_be_gone_after_its_time_with_all_that_it_covers() {
    for (sent_at, lost) in [(90, 0), (91, 2)] {
        let records = [(1, value(7)), (sent_at, tombstone(7)), (99, value(8))];
        assert_eq!(verdict(&records, &[2]).losses.records, lost, "sent at {sent_at}");
        // As long as it is there nothing is amiss.
        assert_eq!(verdict(&records, &[1, 2]).standing, Standing::Kept);
        assert_eq!(verdict(&records, &[0, 1, 2]).standing, Standing::Kept);
    }
}

#[test]
fn value_whose_tombstone_is_gone_may_not_be_there() {
    let records = [(1, value(7)), (2, tombstone(7)), (3, value(8))];
    let back_to_life = verdict(&records, &[0, 2]);
    assert_eq!(back_to_life.violation(Anomaly::LostHole), 1, "{back_to_life:?}");
    // A later value takes the place of both.
    let records = [(1, value(7)), (2, tombstone(7)), (3, value(7))];
    assert_eq!(verdict(&records, &[2]).standing, Standing::Kept);
    // A value behind a tombstone is not covered by it.
    let records = [(1, tombstone(7)), (2, value(7)), (3, value(8))];
    assert_eq!(verdict(&records, &[2]).violation(Anomaly::LostHole), 1);
}

#[test]
fn polled_record_may_be_compacted_away_afterwards() {
    let records = [(1, value(7)), (2, value(7)), (3, value(8))];
    let polled = |left: &[u64]| {
        let mut trial = trial(&records, left);
        let layout = Layout::new(&[1]);
        let place = partition(&layout);
        let mut again = ProducerLedger::new(RUN, ProducerId(0), &layout);
        let mut polls = Polls::new(0, Isolation::ReadUncommitted, RUN, &layout);
        for (offset, (sent_at, key)) in (0..).zip(&records) {
            let identity = again.attempt_keyed(place, Nanos(*sent_at), 100, *key);
            polls.record(place, Offset(offset), Ok(identity), Nanos(50));
        }
        trial.polls.push(polls);
        judge(trial, &durable()).expect("the evidence is whole")
    };
    assert_eq!(polled(&[1, 2]).standing, Standing::Kept);
    assert_eq!(polled(&[0, 2]).violation(Anomaly::ReadThenLost), 1);
}

/// Without idempotence a record may be there twice; then the second copy supersedes the first.
#[test]
fn copy_of_a_record_supersedes_it_where_there_may_be_copies() {
    let layout = Layout::new(&[1]);
    let place = partition(&layout);
    let trial = || {
        let mut ledger = ProducerLedger::new(RUN, ProducerId(0), &layout);
        let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
        reading.bounds(place, Offset(0), Offset(3));
        let first = ledger.attempt_keyed(place, Nanos(1), 100, value(7));
        let second = ledger.attempt_keyed(place, Nanos(2), 100, value(8));
        for sequence in 0..2 {
            let offset = Offset(sequence as i64);
            ledger.ack(place, Sequences::one(sequence), offset, Nanos(5)).expect("attempted");
        }
        reading.record(place, Offset(1), Ok(second));
        reading.record(place, Offset(2), Ok(first));
        let ledger = Ledger::gather(RUN, &layout, vec![ledger]).expect("of one run");
        Trial {
            ledger,
            faults: Vec::new(),
            readings: vec![reading],
            polls: Vec::new(),
            observations: Vec::new(),
        }
    };
    let setting = Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE);
    let setting = Setting { idempotence: false, max_in_flight: 1, ..setting };
    let contract = Contract { compaction: durable().compaction, ..promise(&setting, None) };
    let permitted = judge(trial(), &contract).expect("the evidence is whole");
    assert_eq!(permitted.standing, Standing::Kept, "{:?}", permitted.violations);
    let forbidden = judge(trial(), &durable()).expect("the evidence is whole");
    assert_eq!(forbidden.violation(Anomaly::InconsistentOffset), 1);
}

//! What compaction may take and what it may not, each case built by hand.

use highwater_checker::{
    Acks, Anomaly, Compaction, Contract, ErrorClass, Fault, FaultEvent, FaultKind, Flush, Isolation, Key,
    Layout, Ledger, Nanos, Offset, PartitionIndex, Polls, ProducerId, ProducerLedger, Reader, Reading, RunId,
    Scope, Sequences, Setting, Standing, Trial, Verdict, judge, promise,
};

const RUN: RunId = RunId(1);
/// `delete.retention.ms`.
const RETENTION: Nanos = Nanos(10);
/// When everything is read.
const READ_AT: Nanos = Nanos(100);
/// The request timeout.
const COPIES_WITHIN: Nanos = Nanos(20);

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
    let compaction =
        Some(Compaction { delete_retention: RETENTION, read_at: READ_AT, copies_within: COPIES_WITHIN });
    let setting = Setting { idempotence: true, ..Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE) };
    Contract { compaction, ..promise(&setting, None) }
}

/// The same without idempotence, with one request in flight.
fn with_copies() -> Contract {
    let setting = Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE);
    let setting = Setting { idempotence: false, max_in_flight: 1, ..setting };
    Contract { compaction: durable().compaction, ..promise(&setting, None) }
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
    let permitted = judge(trial(), &with_copies()).expect("the evidence is whole");
    assert_eq!(permitted.standing, Standing::Kept, "{:?}", permitted.violations);
    let forbidden = judge(trial(), &durable()).expect("the evidence is whole");
    assert_eq!(forbidden.violation(Anomaly::InconsistentOffset), 1);
}

/// What became of a record.
#[derive(Clone, Copy)]
enum Fate {
    /// Acknowledged at an offset.
    Acked(i64),
    /// Acknowledged at an offset below which everything was deleted since.
    Deleted(i64),
    /// Nobody knows.
    Unknown,
}

/// As [`trial`], with a fate for each record, and (offset, sequence) of what is there between `bounds`.
fn trial_of(records: &[(u64, Key, Fate)], there: &[(i64, usize)], bounds: (i64, i64)) -> Trial {
    let layout = Layout::new(&[1]);
    let place = partition(&layout);
    let mut ledger = ProducerLedger::new(RUN, ProducerId(0), &layout);
    let mut identities = Vec::new();
    for (sequence, (sent_at, key, fate)) in (0..).zip(records) {
        identities.push(ledger.attempt_keyed(place, Nanos(*sent_at), 100, *key));
        let (one, acked_at) = (Sequences::one(sequence), Nanos(sent_at + 1));
        let booked = match *fate {
            Fate::Acked(offset) => ledger.ack(place, one, Offset(offset), acked_at),
            Fate::Deleted(offset) => ledger.deleted(place, one, Offset(offset), acked_at),
            Fate::Unknown => ledger.error(place, one, ErrorClass::Info, None),
        };
        booked.expect("attempted");
    }
    let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
    reading.bounds(place, Offset(bounds.0), Offset(bounds.1));
    for (offset, sequence) in there {
        reading.record(place, Offset(*offset), Ok(identities[*sequence]));
    }
    let ledger = Ledger::gather(RUN, &layout, vec![ledger]).expect("of one run");
    Trial { ledger, faults: Vec::new(), readings: vec![reading], polls: Vec::new(), observations: Vec::new() }
}

/// The cut took the record of key 7 at offset 1; a later one of its key, at the same offset or behind it, makes up for nothing.
#[test]
fn later_record_of_its_key_excuses_no_lost_tail() {
    let records = [
        (1, value(8), Fate::Acked(0)),
        (2, value(7), Fate::Acked(1)),
        (20, value(8), Fate::Acked(2)),
        (21, value(7), Fate::Acked(3)),
    ];
    for (recovered_end, lost) in [(None, 0), (Some(2), 0), (Some(1), 1)] {
        let mut trial = trial_of(&records, &[(2, 2), (3, 3)], (0, 4));
        let place = partition(&Layout::new(&[1]));
        let fault = Fault { kind: FaultKind::PowerCut, scope: Scope::AllBrokers, in_sync_replicas: None };
        trial.faults.push(FaultEvent {
            fault,
            struck_at: Nanos(10),
            silenced_at: Nanos(10),
            restored_at: Nanos(15),
            recovered_ends: recovered_end.map(|end| (place, Offset(end))).into_iter().collect(),
        });
        let verdict = judge(trial, &durable()).expect("whole");
        assert_eq!(verdict.losses.records, lost, "{recovered_end:?}");
        assert_eq!(verdict.losses.compacted, 2 - lost);
    }
}

/// With one request in flight the next record is sent once the one before is acknowledged, wherever copies of it lie.
#[test]
fn acks_are_in_order_also_where_there_may_be_copies() {
    let records = [(1, value(7), Fate::Acked(1)), (3, value(8), Fate::Acked(0))];
    let verdict = judge(trial_of(&records, &[(0, 1), (1, 0)], (0, 2)), &with_copies()).expect("whole");
    assert_eq!(verdict.violation(Anomaly::NonMonotonicSend), 1);
}

/// Where it was is known: a value behind it was none of its.
#[test]
fn tombstone_below_the_deleted_start_covers_nothing_that_is_owed() {
    let records = [
        (1, tombstone(7), Fate::Deleted(10)),
        (2, value(8), Fate::Acked(20)),
        (50, value(7), Fate::Acked(50)),
        (51, value(8), Fate::Acked(51)),
    ];
    for contract in [durable(), with_copies()] {
        let in_hole = judge(trial_of(&records, &[(20, 1), (51, 3)], (20, 52)), &contract).expect("whole");
        assert_eq!((in_hole.violation(Anomaly::LostHole), in_hole.losses.compacted), (1, 0));
        let at_end = judge(trial_of(&records[..3], &[(20, 1)], (20, 50)), &contract).expect("whole");
        assert_eq!((at_end.violation(Anomaly::LostTail), at_end.losses.compacted), (1, 0));
    }
}

#[test]
fn tombstone_that_may_be_anywhere_excuses_nothing_behind_the_log_end() {
    let records =
        [(1, value(8), Fate::Acked(0)), (2, value(7), Fate::Acked(1)), (3, tombstone(7), Fate::Unknown)];
    for (log_end, lost) in [(1, 1), (2, 0)] {
        let verdict = judge(trial_of(&records, &[(0, 0)], (0, log_end)), &durable()).expect("whole");
        assert_eq!(verdict.losses.records, lost, "log end {log_end}");
    }
}

/// What an idempotent producer sent later lies behind it.
#[test]
fn tombstone_that_may_be_anywhere_covers_nothing_that_its_producer_sent_later() {
    let records =
        [(1, tombstone(7), Fate::Unknown), (50, value(7), Fate::Acked(0)), (51, value(8), Fate::Acked(1))];
    let verdict = |contract| judge(trial_of(&records, &[(1, 2)], (0, 2)), &contract).expect("whole");
    assert_eq!(verdict(durable()).violation(Anomaly::LostHole), 1);
    assert_eq!(verdict(with_copies()).losses.records, 0);
}

#[test]
fn record_whose_offset_has_another_was_not_compacted_away() {
    let records =
        [(1, value(7), Fate::Acked(0)), (2, value(7), Fate::Acked(1)), (3, value(8), Fate::Unknown)];
    let reused = judge(trial_of(&records, &[(0, 2), (1, 1)], (0, 2)), &durable()).expect("whole");
    assert_eq!((reused.losses.records, reused.losses.compacted), (1, 0));
}

/// Without idempotence a copy of a tombstone may lie behind the one that was acknowledged, but not for ever.
#[test]
fn tombstone_that_may_have_a_copy_covers_what_was_sent_while_that_was_on_its_way() {
    for (sent_at, lost) in [(22, 0), (23, 1)] {
        let records = [(1, tombstone(7)), (sent_at, value(7)), (99, value(8))];
        let verdict = judge(trial(&records, &[2]), &with_copies()).expect("whole");
        assert_eq!(verdict.losses.records, lost, "sent at {sent_at}");
        assert_eq!(verdict.losses.compacted, 2 - lost);
    }
}

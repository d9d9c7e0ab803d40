//! Single cases of the verdict, each built by hand so that every number in it is known.

use highwater_checker::ledger::LedgerError;
use highwater_checker::verdict::Place;
use highwater_checker::{
    Acks, Anomaly, Contract, ErrorClass, Fault, FaultEvent, FaultKind, Flush, Identity, Isolation,
    JudgeError, Layout, Ledger, Loss, Nanos, Observation, Observed, Offset, PartitionIndex, Polls,
    ProducerId, ProducerLedger, Reader, Reading, RunId, Scope, Sequences, Setting, Standing, Trial, Verdict,
    judge, promise,
};

const RUN: RunId = RunId(1);
const CUT: Fault = Fault { kind: FaultKind::PowerCut, scope: Scope::AllBrokers, in_sync_replicas: None };
const SIZE: u32 = 100;

/// One producer, one partition; records are sent 1 s apart beginning at 1 s, instants in seconds.
struct Case {
    layout: Layout,
    ledger: ProducerLedger,
    log: Vec<(i64, u64)>,
    log_start: i64,
    log_end: i64,
    faults: Vec<FaultEvent>,
    polls: Vec<Polls>,
    observations: Vec<Observation>,
}

fn at(seconds: f64) -> Nanos {
    Nanos((seconds * 1e9) as u64)
}

impl Case {
    fn new(records: u64) -> Self {
        let layout = Layout::new(&[1]);
        let mut ledger = ProducerLedger::new(RUN, ProducerId(0), &layout);
        let partition = layout.partitions().next().unwrap();
        for sequence in 0..records {
            ledger.attempt(partition, at(1.0 + sequence as f64), SIZE);
        }
        let (log, faults, polls, observations) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { layout, ledger, log, log_start: 0, log_end: 0, faults, polls, observations }
    }

    fn partition(&self) -> PartitionIndex {
        self.layout.partitions().next().unwrap()
    }

    /// Acknowledges a record at the offset of its sequence.
    fn ack(mut self, sequence: u64, seconds: f64) -> Self {
        let partition = self.partition();
        self.ledger.ack(partition, Sequences::one(sequence), Offset(sequence as i64), at(seconds)).unwrap();
        self
    }

    fn ack_at(mut self, sequence: u64, offset: i64, seconds: f64) -> Self {
        let partition = self.partition();
        self.ledger.ack(partition, Sequences::one(sequence), Offset(offset), at(seconds)).unwrap();
        self
    }

    /// Acknowledges a record at the offset of its sequence, which was deleted by request since.
    fn deleted(mut self, sequence: u64, seconds: f64) -> Self {
        let (partition, one) = (self.partition(), Sequences::one(sequence));
        self.ledger.deleted(partition, one, Offset(sequence as i64), at(seconds)).unwrap();
        self
    }

    /// Where the log ended right after the recovery from the last fault.
    fn recovered(mut self, end: i64) -> Self {
        let partition = self.partition();
        self.faults.last_mut().unwrap().recovered_ends.push((partition, Offset(end)));
        self
    }

    fn struck_by(mut self, kind: FaultKind) -> Self {
        self.faults.last_mut().unwrap().fault.kind = kind;
        self
    }

    fn log(mut self, entries: &[(i64, u64)], log_end: i64) -> Self {
        self.log = entries.to_vec();
        self.log_end = log_end;
        self
    }

    fn log_start(mut self, offset: i64) -> Self {
        self.log_start = offset;
        self
    }

    fn cut(mut self, struck: f64, silenced: f64, restored: f64) -> Self {
        let (struck_at, silenced_at, restored_at) = (at(struck), at(silenced), at(restored));
        let recovered_ends = Vec::new();
        self.faults.push(FaultEvent { fault: CUT, struck_at, silenced_at, restored_at, recovered_ends });
        self
    }

    fn identity(&self, sequence: u64) -> Identity {
        Identity {
            run: RUN,
            producer: ProducerId(0),
            partition: self.layout.id(self.partition()),
            sequence,
            sent_at: at(1.0 + sequence as f64),
            value_len: SIZE,
        }
    }

    fn polled(mut self, consumer: u32, seconds: f64, entries: &[(i64, u64)]) -> Self {
        let mut polls = Polls::new(consumer, Isolation::ReadUncommitted, RUN, &self.layout);
        for (offset, sequence) in entries {
            polls.record(self.partition(), Offset(*offset), Ok(self.identity(*sequence)), at(seconds));
        }
        self.polls.push(polls);
        self
    }

    fn trial(self) -> Trial {
        let mut reading = Reading::new(Reader::FINAL, RUN, &self.layout);
        let partition = self.partition();
        reading.bounds(partition, Offset(self.log_start), Offset(self.log_end));
        for (offset, sequence) in &self.log {
            reading.record(partition, Offset(*offset), Ok(self.identity(*sequence)));
        }
        Trial {
            ledger: Ledger::gather(RUN, &self.layout, vec![self.ledger]).unwrap(),
            faults: self.faults,
            readings: vec![reading],
            polls: self.polls,
            observations: self.observations,
        }
    }

    fn verdict(self, contract: &Contract) -> Verdict {
        judge(self.trial(), contract).unwrap()
    }
}

fn unflushed() -> Contract {
    promise(&Setting::single_broker(Acks::One, Flush::LEFT_TO_SYSTEM), Some(&CUT))
}

fn durable() -> Contract {
    promise(&Setting::single_broker(Acks::One, Flush::EVERY_MESSAGE), Some(&CUT))
}

#[test]
fn loss_window_is_from_the_earliest_lost_ack_to_the_fault() {
    let case =
        Case::new(4).ack(0, 1.1).ack(1, 2.25).ack(2, 3.5).ack(3, 4.5).log(&[(0, 0)], 1).cut(10.0, 10.5, 11.0);
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.standing, Standing::Kept);
    assert_eq!((verdict.losses.records, verdict.losses.tail, verdict.losses.holes), (3, 3, 0));
    assert_eq!(verdict.losses.bytes, 3 * u64::from(SIZE));
    assert_eq!(verdict.losses.window, Some(at(7.75)));
    assert!((verdict.losses.fraction() - 0.75).abs() < 1e-12);
}

#[test]
fn lost_record_below_a_survivor_is_a_hole() {
    let case =
        Case::new(3).ack(0, 1.1).ack(1, 2.1).ack(2, 3.1).log(&[(0, 0), (2, 2)], 3).cut(10.0, 10.5, 11.0);
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.violation(Anomaly::LostHole), 1);
    assert_eq!((verdict.losses.tail, verdict.losses.holes), (0, 1));
    assert_eq!(verdict.lost_records[0].place, Place::Hole);
}

#[test]
fn lost_tail_whose_offsets_were_reused_is_still_a_tail() {
    // 1 and 2 are lost; 3 is sent after recovery and gets offset 1.
    let mut case =
        Case::new(4).ack(0, 1.1).ack(1, 2.1).ack(2, 3.1).cut(3.5, 3.6, 3.7).log(&[(0, 0), (1, 3)], 2);
    let partition = case.partition();
    case.ledger.ack(partition, Sequences::one(3), Offset(1), at(4.1)).unwrap();
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.violations, []);
    assert_eq!((verdict.losses.tail, verdict.losses.holes), (2, 0));
    let names: Vec<Anomaly> = verdict.permitted.iter().map(|finding| finding.anomaly).collect();
    assert_eq!(names, [Anomaly::LostTail, Anomaly::OffsetReused]);
}

/// The broker lost 1 and 2 in the cut, went on at offset 1, and then retention deleted everything below 3.
#[test]
fn what_retention_deletes_later_excuses_no_lost_tail() {
    let case = || {
        let acked = Case::new(5).ack(0, 1.1).ack(1, 2.1).ack(2, 3.1).cut(3.5, 3.6, 3.7);
        acked.ack_at(3, 1, 4.1).ack_at(4, 3, 5.1).log(&[(3, 4)], 4).log_start(3)
    };
    let contract = retained(u64::from(SIZE));
    let verdict = case().recovered(1).verdict(&contract);
    assert_eq!((verdict.losses.records, verdict.losses.expired), (2, 2));
    assert_eq!(verdict.violation(Anomaly::LostTail), 2);
    // That two records were acknowledged at one offset is seen in any case.
    let unseen = case().verdict(&contract);
    assert_eq!((unseen.losses.expired, unseen.violation(Anomaly::InconsistentOffset)), (4, 1));
    let permitted = case().recovered(1).verdict(&Contract { retention_bytes: Some(1), ..unflushed() });
    assert_eq!((permitted.violations, permitted.losses.tail), (vec![], 2));
}

#[test]
fn what_is_deleted_by_request_later_excuses_no_lost_tail() {
    let case = || Case::new(3).deleted(0, 1.1).deleted(1, 2.1).ack(2, 5.1).log(&[(2, 2)], 3).log_start(2);
    let lost = case().cut(3.5, 3.6, 3.7).recovered(1).verdict(&durable());
    assert_eq!((lost.losses.records, lost.violation(Anomaly::LostTail)), (1, 1));
    for kept in [case(), case().cut(3.5, 3.6, 3.7), case().cut(3.5, 3.6, 3.7).recovered(2)] {
        assert_eq!(kept.verdict(&durable()).standing, Standing::Kept);
    }
    // And an offset that was given twice was given twice.
    let twice =
        Case::new(3).deleted(1, 2.1).ack_at(0, 1, 4.1).log(&[(1, 0)], 2).log_start(1).cut(3.5, 3.6, 3.7);
    assert!(twice.verdict(&durable()).violation(Anomaly::InconsistentOffset) > 0);
}

/// A kill takes nothing although power cuts, which also struck, may take a tail.
#[test]
fn loss_is_held_against_the_fault_that_took_it() {
    let case = || {
        let acked = Case::new(2).ack(0, 1.1).ack(1, 2.1).log(&[(0, 0)], 1);
        acked.cut(3.5, 3.6, 3.7).struck_by(FaultKind::ProcessKill)
    };
    let contract = by_kind();
    let by_the_kill = case().recovered(1).cut(8.0, 8.1, 8.2).recovered(1).verdict(&contract);
    assert_eq!(by_the_kill.violation(Anomaly::LostTail), 1);
    let by_the_cut = case().recovered(2).cut(8.0, 8.1, 8.2).recovered(1).verdict(&contract);
    assert_eq!((by_the_cut.violations, by_the_cut.losses.records), (vec![], 1));
    // Where nobody looked it may have been the cut.
    let by_either = case().cut(8.0, 8.1, 8.2).recovered(1).verdict(&contract);
    assert_eq!((by_either.violations, by_either.losses.records), (vec![], 1));
}

fn by_kind() -> Contract {
    let loss_by_kind =
        vec![(FaultKind::ProcessKill, Loss::Nothing), (FaultKind::PowerCut, Loss::UNBOUNDED_TAIL)];
    Contract { loss_by_kind, ..unflushed() }
}

/// A power cut that was over before the ack takes the blame for no kill, whether or not somebody looked.
#[test]
fn fault_that_had_ended_excuses_nothing_acknowledged_later() {
    let case = || Case::new(2).ack(0, 1.1).ack(1, 5.0).log(&[(0, 0)], 1).cut(3.5, 3.6, 3.7);
    let lost = |case: Case| {
        let verdict = case.verdict(&by_kind());
        (verdict.violation(Anomaly::LostTail), verdict.losses.records)
    };
    assert_eq!(lost(case().cut(8.0, 8.1, 8.2).struck_by(FaultKind::ProcessKill)), (1, 1));
    assert_eq!(lost(case().cut(8.0, 8.1, 8.2)), (0, 1));
    // What consumers saw is held against the same faults.
    let seen = case().cut(8.0, 8.1, 8.2).struck_by(FaultKind::ProcessKill).polled(0, 5.5, &[(1, 1)]);
    assert_eq!(seen.verdict(&by_kind()).violation(Anomaly::ReadThenLost), 1);
    let mut back = case().cut(8.0, 8.1, 8.2).struck_by(FaultKind::ProcessKill);
    let partition = back.partition();
    for (asked, end) in [(6.0, 2), (9.0, 1)] {
        let (asked_at, at, offset) = (at(asked), at(asked + 0.1), Offset(end));
        back.observations.push(Observation { partition, asked_at, at, observed: Observed::LogEnd, offset });
    }
    assert_eq!(back.verdict(&by_kind()).violation(Anomaly::LogEndWentBack), 1);
}

/// The end of the log was looked at right after the recovery. What came back to those offsets was sent again, and its ack was
/// lost. (The simulator's seed 1041807, in the code of 9e1123f.)
#[test]
fn tail_that_was_seen_to_be_gone_is_no_hole_whatever_came_since() {
    let case = || Case::new(3).ack(0, 1.1).ack(1, 2.1).cut(3.5, 3.6, 3.7).log(&[(0, 0), (1, 2)], 2);
    let seen = case().recovered(1).verdict(&unflushed());
    assert_eq!((seen.violations, seen.losses.tail, seen.losses.holes), (vec![], 1, 0));
    // Where nobody looked nothing came since, as far as anybody knows.
    assert_eq!(case().verdict(&unflushed()).violation(Anomaly::LostHole), 1);
}

/// Two copies of a record, of which the second was acknowledged; a kill, after which it was there still, takes neither.
#[test]
fn acknowledged_copy_is_taken_by_no_fault_that_it_survived() {
    let case = || Case::new(1).ack_at(0, 5, 4.0).log(&[(3, 0)], 6).cut(2.0, 2.1, 2.2);
    let moved = |case: Case| case.verdict(&by_kind()).violation(Anomaly::InconsistentOffset);
    assert_eq!(moved(case().cut(8.0, 8.1, 8.2).struck_by(FaultKind::ProcessKill).recovered(6)), 1);
    assert_eq!(moved(case().cut(8.0, 8.1, 8.2).struck_by(FaultKind::ProcessKill)), 1);
    assert_eq!(moved(case().cut(8.0, 8.1, 8.2).recovered(6)), 1);
    assert_eq!(moved(case().cut(8.0, 8.1, 8.2).recovered(5)), 0);
    assert_eq!(moved(case().cut(8.0, 8.1, 8.2)), 0);
}

/// Of a record that is twice in the log the first copy may be deleted: its place tells nothing then, its ack does.
#[test]
fn order_of_acks_is_judged_where_first_copies_may_be_gone() {
    let contract = Contract { first_copies_deleted: true, ..durable() };
    let kept = |log: &[(i64, u64)]| Case::new(2).ack(0, 1.1).ack(1, 2.1).log(log, 3).verdict(&contract);
    assert_eq!(kept(&[(0, 0), (1, 1), (2, 0)]).violations, []);
    let deleted = Case::new(2).deleted(0, 1.1).ack(1, 2.1).log(&[(1, 1), (2, 0)], 3).log_start(1);
    assert_eq!(deleted.verdict(&contract).violations, []);
    let turned = || Case::new(2).ack_at(0, 1, 1.1).ack_at(1, 0, 2.1).log(&[(0, 1), (1, 0)], 2);
    for contract in [&contract, &durable()] {
        assert_eq!(turned().verdict(contract).violation(Anomaly::NonMonotonicSend), 1);
    }
}

fn retained(bytes: u64) -> Contract {
    Contract { retention_bytes: Some(bytes), ..durable() }
}

/// Four records acknowledged; the first two are below the log start.
fn expired() -> Case {
    let acked = (0..4).fold(Case::new(4), |case, sequence| case.ack(sequence, 6.0));
    acked.log(&[(2, 2), (3, 3)], 4).log_start(2).cut(10.0, 10.5, 11.0)
}

#[test]
fn record_below_the_log_start_is_expired_only_where_retention_is_set() {
    let verdict = expired().verdict(&retained(2 * u64::from(SIZE)));
    assert_eq!(verdict.standing, Standing::Kept);
    assert_eq!((verdict.losses.expired, verdict.losses.records, verdict.losses.of_records), (2, 0, 4));
    let verdict = expired().verdict(&durable());
    assert_eq!(verdict.violation(Anomaly::LostHole), 2);
    assert_eq!(verdict.losses.expired, 0);
}

#[test]
fn record_above_the_log_start_is_lost_also_where_retention_is_set() {
    let acked = (0..4).fold(Case::new(4), |case, sequence| case.ack(sequence, 6.0));
    let case = acked.log(&[(2, 2)], 3).log_start(2).cut(10.0, 10.5, 11.0);
    let verdict = case.verdict(&retained(u64::from(SIZE)));
    assert_eq!(verdict.violation(Anomaly::LostTail), 1);
}

#[test]
fn retention_that_leaves_less_than_it_must_is_a_violation() {
    let verdict = expired().verdict(&retained(100 * u64::from(SIZE)));
    assert_eq!(verdict.violation(Anomaly::DeletedEarly), 1);
}

#[test]
fn topic_that_is_gone_breaks_the_contract_once_booked() {
    let mut verdict = Case::new(1).ack(0, 1.1).log(&[(0, 0)], 1).verdict(&durable());
    assert_eq!(verdict.standing, Standing::Kept);
    verdict.book(Anomaly::LostTopic, "topic t is gone".to_owned());
    assert_eq!((verdict.standing, verdict.violation(Anomaly::LostTopic)), (Standing::Broken, 1));
}

#[test]
fn ack_between_cut_and_silence_is_booked_apart_where_a_tail_may_be_lost() {
    let case = Case::new(3).ack(0, 1.1).ack(1, 5.2).ack(2, 5.4).log(&[(0, 0), (1, 1)], 2).cut(5.0, 5.5, 6.0);
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.violations, []);
    assert_eq!(verdict.losses.of_records, 1, "what is booked apart is not in the denominator");
    let apart = verdict.cells.acknowledged_after_cut;
    assert_eq!((apart.absent, apart.once), (1, 1));
}

#[test]
fn ack_after_a_kill_is_an_ack_like_any_other() {
    let mut case = Case::new(1).ack(0, 5.2).log(&[], 0).cut(5.0, 5.5, 6.0);
    case.faults[0].fault.kind = FaultKind::ProcessKill;
    let verdict = case.verdict(&durable());
    assert_eq!(verdict.violation(Anomaly::LostTail), 1);
    assert_eq!(verdict.losses.during_fault, 1);
}

#[test]
fn loss_that_no_fault_explains_is_a_violation_even_if_loss_is_permitted() {
    let case = Case::new(2).ack(0, 1.1).ack(1, 7.0).log(&[(0, 0)], 1).cut(5.0, 5.5, 6.0);
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.violation(Anomaly::LostTail), 1);
    assert_eq!(verdict.losses.unexplained, 1);
}

#[test]
fn loss_window_of_a_contract_has_an_edge() {
    let contract = Contract {
        loss: Loss::Tail { messages: None, window: Some(at(2.0)) },
        flush_allowance: at(0.5),
        ..unflushed()
    };
    let lost_at =
        |acked: f64| Case::new(1).ack(0, acked).log(&[], 0).cut(10.0, 10.5, 11.0).verdict(&contract);
    assert_eq!(lost_at(7.5).violations, []);
    assert_eq!(lost_at(7.499_999).violation(Anomaly::LostBeyondWindow), 1);
}

#[test]
fn loss_by_count_has_an_edge() {
    let contract = Contract { loss: Loss::Tail { messages: Some(2), window: None }, ..unflushed() };
    let lost = |count: u64| {
        let case = (0..count).fold(Case::new(count), |case, sequence| case.ack(sequence, 8.0));
        case.log(&[], 0).cut(10.0, 10.5, 11.0).verdict(&contract)
    };
    assert_eq!(lost(2).violations, []);
    assert_eq!(lost(3).violation(Anomaly::LostBeyondWindow), 1);
}

#[test]
fn second_fault_is_blamed_for_what_the_first_is_known_to_have_left() {
    let case = || Case::new(1).ack(0, 1.0).log(&[], 0).cut(2.0, 2.1, 2.2).cut(9.0, 9.1, 9.2);
    assert_eq!(case().verdict(&unflushed()).losses.window, Some(at(1.0)));
    let mut seen = case();
    let partition = seen.partition();
    seen.faults[0].recovered_ends.push((partition, Offset(1)));
    assert_eq!(seen.verdict(&unflushed()).losses.window, Some(at(8.0)));
}

#[test]
fn acks_zero_loss_counts_what_was_sent_before_the_fault() {
    let mut case = Case::new(4).log(&[(0, 0)], 1).cut(3.5, 3.6, 3.7);
    let partition = case.partition();
    case.ledger.sent(partition, Sequences { first: 0, count: 4 }).unwrap();
    let contract = promise(&Setting::single_broker(Acks::Zero, Flush::EVERY_MESSAGE), Some(&CUT));
    let verdict = case.verdict(&contract);
    assert_eq!(verdict.violations, []);
    assert_eq!((verdict.cells.sent.absent, verdict.cells.sent.once), (3, 1));
    assert_eq!(verdict.losses.sent_absent, 2, "the fourth was sent after the fault");
    assert_eq!(verdict.losses.sent_window, Some(at(1.5)));
    assert!(verdict.is_vacuous());
}

#[test]
fn cells_of_every_outcome_add_up() {
    let mut case = Case::new(8).ack(0, 1.1).log(&[(0, 0), (1, 2), (2, 2), (3, 4)], 4);
    let partition = case.partition();
    let one = Sequences::one;
    case.ledger.error(partition, one(1), ErrorClass::Fail, Some(10)).unwrap();
    case.ledger.error(partition, one(2), ErrorClass::Info, Some(7)).unwrap();
    case.ledger.error(partition, one(3), ErrorClass::Info, None).unwrap();
    case.ledger.error(partition, one(4), ErrorClass::Fail, Some(19)).unwrap();
    case.ledger.never_sent(partition, one(5)).unwrap();
    case.ledger.abandoned(partition, Sequences { first: 1, count: 4 }).unwrap();
    let verdict = case.verdict(&promise(&Setting::single_broker(Acks::One, Flush::EVERY_MESSAGE), None));
    assert_eq!(verdict.attempts, 8);
    assert_eq!(verdict.cells.total(), 8);
    assert_eq!((verdict.cells.failed.absent, verdict.cells.failed.once), (1, 1));
    assert_eq!(
        (verdict.cells.unknown.absent, verdict.cells.unknown.more),
        (3, 1),
        "pending counts as unknown"
    );
    assert_eq!(verdict.cells.never_sent.absent, 1);
    assert_eq!(verdict.application_lost, 2, "sequences 1 and 3; 2 and 4 are in the log after all");
    assert_eq!(verdict.violation(Anomaly::AbortedRead), 1);
    let example = &verdict.violations[0].examples[0];
    assert!(example.contains("sequence 4") && example.contains("code 19"), "{example}");
}

#[test]
fn never_sent_record_in_the_log_is_named() {
    let mut case = Case::new(1).log(&[(0, 0)], 1);
    let partition = case.partition();
    case.ledger.never_sent(partition, Sequences::one(0)).unwrap();
    assert_eq!(case.verdict(&durable()).violation(Anomaly::NeverSentRead), 1);
}

#[test]
fn forensic_line_knows_who_saw_the_record_and_what_was_durable() {
    let mut case = Case::new(2).ack(0, 1.1).ack(1, 2.1).log(&[(0, 0)], 1).cut(9.0, 9.1, 9.2);
    case = case.polled(4, 3.0, &[(0, 0), (1, 1)]).polled(5, 2.5, &[(1, 1)]);
    let partition = case.partition();
    for (seconds, offset) in [(3.0, 1), (9.5, 2)] {
        let observed = Observed::Durable;
        let (asked_at, at) = (at(seconds), at(seconds));
        case.observations.push(Observation { partition, asked_at, at, observed, offset: Offset(offset) });
    }
    let verdict = case.verdict(&unflushed());
    let [line] = verdict.lost_records.as_slice() else { panic!("{:?}", verdict.lost_records) };
    assert_eq!(line.last_seen, Some((at(3.0), 4)));
    assert_eq!(line.durable_offset, Some((at(3.0), Offset(1))), "the last one before the fault");
    assert_eq!(line.fault_at, Some(at(9.0)));
    assert_eq!(verdict.permitted.iter().find(|f| f.anomaly == Anomaly::ReadThenLost).unwrap().count, 1);
}

#[test]
fn polled_record_that_a_cut_took_and_its_idempotent_producer_sent_again_is_permitted() {
    let moved = || Case::new(1).polled(0, 2.0, &[(5, 0)]).log(&[(3, 0)], 4).cut(3.0, 3.0, 4.0);
    let idempotent =
        Setting { idempotence: true, ..Setting::single_broker(Acks::All, Flush::LEFT_TO_SYSTEM) };
    let unflushed = promise(&idempotent, Some(&CUT));
    assert_eq!(moved().verdict(&unflushed).standing, Standing::Kept);
    let durable = promise(&Setting { flush: Flush::EVERY_MESSAGE, ..idempotent }, Some(&CUT));
    assert_eq!(moved().verdict(&durable).violation(Anomaly::InconsistentOffset), 1);
}

#[test]
fn polled_unknown_record_that_vanishes_is_read_then_lost() {
    let case =
        Case::new(2).ack(0, 1.1).log(&[(0, 0)], 1).cut(9.0, 9.1, 9.2).polled(0, 3.0, &[(0, 0), (1, 1)]);
    assert_eq!(case.verdict(&durable()).violation(Anomaly::ReadThenLost), 1);
}

#[test]
fn polled_record_that_retention_took_is_no_loss_unless_it_was_lost_before() {
    let case = || {
        let case = Case::new(3).ack(0, 1.1).ack(1, 2.1).ack(2, 9.9).polled(0, 3.0, &[(0, 0), (1, 1)]);
        case.cut(9.0, 9.1, 9.2).log_start(2).log(&[(2, 2)], 3)
    };
    assert_eq!(case().recovered(2).verdict(&retained(1)).violations, []);
    let lost = case().recovered(1).verdict(&retained(1));
    assert_eq!(lost.violation(Anomaly::ReadThenLost), 1);
    // Nobody looked at the log right after the fault; but the offset was another record's then.
    let given_away = Case::new(3).ack(0, 1.1).ack_at(2, 1, 9.9).polled(0, 3.0, &[(0, 0), (1, 1)]);
    let given_away = given_away.cut(9.0, 9.1, 9.2).log_start(2).log(&[], 2);
    assert_eq!(given_away.verdict(&retained(1)).violation(Anomaly::ReadThenLost), 1);
    let not_to_be_deleted = case().recovered(2).verdict(&durable());
    assert_eq!(not_to_be_deleted.violation(Anomaly::ReadThenLost), 2);
}

#[test]
fn gap_begins_with_the_first_unanswered_send() {
    // Sends at 1, 2, 3 … 6 s. The third is answered at 8 s, the rest at once.
    let case = Case::new(6).ack(0, 1.1).ack(1, 2.1).ack(2, 8.0).ack(3, 8.1).ack(4, 8.1).ack(5, 8.1);
    let entries: Vec<(i64, u64)> = (0..6).map(|n| (n as i64, n)).collect();
    let verdict = case.log(&entries, 6).verdict(&durable());
    let gap = verdict.longest_gap.unwrap();
    assert_eq!((gap.from, gap.to), (at(3.0), at(8.0)));
}

#[test]
fn trial_without_the_evidence_is_refused() {
    let mut no_final = Case::new(1).trial();
    no_final.readings[0] = Reading::new(
        Reader { isolation: Isolation::ReadCommitted, forced_leader: None },
        RUN,
        &Layout::new(&[1]),
    );
    assert!(matches!(judge(no_final.clone(), &durable()), Err(JudgeError::NotRead { .. })));
    no_final.readings.clear();
    assert_eq!(judge(no_final, &durable()), Err(JudgeError::NoFinalRead));

    let mut other_run = Case::new(1).trial();
    other_run.polls.push(Polls::new(0, Isolation::ReadCommitted, RunId(2), &Layout::new(&[1])));
    assert!(matches!(judge(other_run, &durable()), Err(JudgeError::Mismatch { what: "consumer", place: 0 })));

    let backwards = Case::new(1).cut(5.0, 4.0, 6.0).trial();
    assert_eq!(judge(backwards, &durable()), Err(JudgeError::FaultOutOfOrder { place: 0 }));
}

#[test]
fn offset_that_a_broker_made_up_does_not_exhaust_memory() {
    let mut case = Case::new(2).log(&[(0, 0)], 1);
    let partition = case.partition();
    case.ledger.ack(partition, Sequences::one(0), Offset(i64::MAX), at(2.0)).unwrap();
    case.ledger.ack(partition, Sequences::one(1), Offset(-1), at(2.0)).unwrap();
    let verdict = case.verdict(&durable());
    assert!(verdict.violation(Anomaly::InconsistentOffset) > 0);
    assert_eq!(verdict.losses.records, 1);
}

#[test]
fn ledger_error_says_where() {
    let mut case = Case::new(1);
    let partition = case.partition();
    let error = case.ledger.ack(partition, Sequences::one(7), Offset(0), at(1.0)).unwrap_err();
    assert!(matches!(error, LedgerError::NeverAttempted { first: 7, attempted: 1, .. }));
    assert!(error.to_string().contains("7..8"), "{error}");
}

#[test]
fn offset_given_twice_is_named_even_if_a_permitted_loss_took_both() {
    let mut case = Case::new(2).ack(0, 2.5).log(&[], 0).cut(5.0, 5.5, 6.0);
    let partition = case.partition();
    case.ledger.ack(partition, Sequences::one(1), Offset(0), at(2.6)).unwrap();
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.violation(Anomaly::InconsistentOffset), 1, "{:?}", verdict.violations);
}

#[test]
fn loss_window_of_acks_during_a_fault_is_their_span() {
    let mut case = Case::new(2).ack(0, 5.2).ack(1, 5.4).log(&[], 0).cut(5.0, 5.5, 6.0);
    case.faults[0].fault.kind = FaultKind::NetworkPartition;
    let verdict = case.verdict(&unflushed());
    assert_eq!(verdict.losses.during_fault, 2);
    assert_eq!(verdict.losses.window, Some(at(0.2)));
}

#[test]
fn acknowledged_records_out_of_order_are_forbidden_or_counted_by_the_setting() {
    let swapped = || {
        let mut case = Case::new(2).log(&[(0, 1), (1, 0)], 2);
        let partition = case.partition();
        case.ledger.ack(partition, Sequences::one(0), Offset(1), at(9.0)).unwrap();
        case.ledger.ack(partition, Sequences::one(1), Offset(0), at(9.0)).unwrap();
        case
    };
    let one_in_flight = Setting::single_broker(Acks::One, Flush::EVERY_MESSAGE);
    let verdict = swapped().verdict(&promise(&one_in_flight, None));
    assert_eq!(verdict.violation(Anomaly::NonMonotonicSend), 1);
    let verdict = swapped().verdict(&promise(&Setting { max_in_flight: 5, ..one_in_flight }, None));
    assert_eq!(verdict.violations, []);
    assert_eq!(verdict.permitted.len(), 1);
}

#[test]
fn polled_record_that_ends_up_elsewhere_is_an_inconsistent_offset() {
    let case = Case::new(1).ack(0, 1.1).log(&[(0, 0)], 1).polled(0, 2.0, &[(3, 0)]);
    let verdict = case.verdict(&durable());
    assert_eq!(verdict.violation(Anomaly::InconsistentOffset), 1);
    assert_eq!(verdict.violation(Anomaly::ReadThenLost), 0);
}

/// A case whose final read was refused from `from` to `to`.
fn refused(case: Case, from: i64, to: i64, contract: &Contract) -> Verdict {
    let partition = case.partition();
    let mut trial = case.trial();
    trial.readings[0].unreadable(partition, Offset(from), Offset(to), "Kafka's error code 56".to_owned());
    judge(trial, contract).unwrap()
}

#[test]
fn acknowledged_record_that_the_broker_refuses_breaks_what_a_loss_would_break() {
    let case = || Case::new(3).ack(0, 1.1).ack(1, 2.1).ack(2, 3.1).log(&[(0, 0)], 3).cut(10.0, 10.5, 11.0);
    let verdict = refused(case(), 1, 3, &durable());
    assert_eq!(verdict.standing, Standing::Broken);
    assert_eq!(verdict.violation(Anomaly::Unreadable), 2);
    assert_eq!((verdict.losses.records, verdict.losses.unreadable), (0, 2));
    assert_eq!(verdict.losses.window, Some(at(7.9)));
    assert!(verdict.violations[0].examples[0].ends_with("Kafka's error code 56"), "{verdict:?}");
    // Where the newest may be lost they may be refused as well.
    let verdict = refused(case(), 1, 3, &unflushed());
    assert_eq!((verdict.standing, verdict.losses.unreadable), (Standing::Kept, 2));
}

#[test]
fn refused_record_below_a_survivor_is_never_permitted() {
    let case = Case::new(3).ack(0, 1.1).ack(1, 2.1).ack(2, 3.1).log(&[(2, 2)], 3).cut(10.0, 10.5, 11.0);
    assert_eq!(refused(case, 0, 2, &unflushed()).violation(Anomaly::Unreadable), 2);
}

#[test]
fn refused_records_beyond_a_bound_are_a_violation() {
    let case = || Case::new(3).ack(0, 1.1).ack(1, 2.1).ack(2, 3.1).log(&[], 3).cut(3.2, 10.5, 11.0);
    let bounded = |loss| Contract { loss, flush_allowance: Nanos(0), ..unflushed() };
    let by_count = bounded(Loss::Tail { messages: Some(1), window: None });
    assert_eq!(refused(case(), 0, 3, &by_count).violation(Anomaly::Unreadable), 2);
    let by_time = bounded(Loss::Tail { messages: None, window: Some(at(1.5)) });
    assert_eq!(refused(case(), 0, 3, &by_time).violation(Anomaly::Unreadable), 1);
}

fn unserved(fault: Fault, contract: &Contract) -> Verdict {
    let mut case = Case::new(2).ack(0, 1.1).ack(1, 2.1).cut(10.0, 10.5, 11.0);
    case.faults[0].fault = fault;
    let reading = Reading::unserved(Reader::FINAL, RUN, &case.layout, "it ended by itself");
    judge(Trial { readings: vec![reading], ..case.trial() }, contract).unwrap()
}

#[test]
fn broker_that_does_not_come_back_breaks_every_contract_on_a_sound_medium() {
    for contract in [durable(), unflushed()] {
        let verdict = unserved(CUT, &contract);
        assert_eq!(verdict.standing, Standing::Broken);
        assert_eq!(verdict.violations[0].anomaly, Anomaly::Unrecovered);
        assert_eq!(verdict.violations[0].examples, ["it ended by itself"]);
        assert_eq!((verdict.losses.of_records, verdict.losses.unreadable), (2, 2));
        assert_eq!(verdict.losses.window, Some(at(8.9)));
    }
}

#[test]
fn broker_that_ends_while_it_is_read_is_named_and_what_it_gave_counts() {
    let case = Case::new(2).ack(0, 1.1).ack(1, 2.1).log(&[(0, 0), (1, 1)], 2).cut(10.0, 10.5, 11.0);
    let partition = case.partition();
    let mut reading = Reading::new(Reader::FINAL, RUN, &case.layout);
    reading.bounds(partition, Offset(0), Offset(2));
    reading.record(partition, Offset(0), Ok(case.identity(0)));
    reading.unreadable(partition, Offset(1), Offset(2), "it ended by itself".to_owned());
    reading.broke_off("it ended by itself");
    let verdict = judge(Trial { readings: vec![reading], ..case.trial() }, &durable()).unwrap();
    assert_eq!(verdict.violations[0].anomaly, Anomaly::Unrecovered);
    assert_eq!(verdict.violations[0].examples, ["it ended by itself"]);
    assert_eq!((verdict.losses.of_records, verdict.losses.unreadable), (2, 1));
}

#[test]
fn broker_on_a_medium_that_lied_is_excused_from_coming_back() {
    let lying = Fault { kind: FaultKind::LyingFlush, ..CUT };
    let contract = promise(&Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE), Some(&lying));
    let verdict = unserved(lying, &contract);
    assert_eq!(verdict.standing, Standing::Kept);
    assert_eq!(verdict.losses.unreadable, 2);
}

#[test]
fn reader_that_is_refused_what_another_was_given_is_found() {
    let case = Case::new(2).ack(0, 1.1).ack(1, 2.1).log(&[(0, 0), (1, 1)], 2);
    let partition = case.partition();
    let reader = Reader { isolation: Isolation::ReadCommitted, ..Reader::FINAL };
    let mut committed = Reading::new(reader, RUN, &case.layout);
    committed.record(partition, Offset(0), Ok(case.identity(0)));
    committed.bounds(partition, Offset(0), Offset(2));
    committed.unreadable(partition, Offset(1), Offset(2), "Kafka's error code 2".to_owned());
    let mut trial = case.trial();
    trial.readings.push(committed);
    let verdict = judge(trial, &durable()).unwrap();
    assert_eq!(verdict.violation(Anomaly::Unreadable), 1);
    assert_eq!(verdict.violation(Anomaly::ReadingsDiffer), 0);
}

#[test]
fn ack_after_a_cut_whose_record_is_gone_is_a_loss_where_nothing_may_be_lost() {
    let case =
        || Case::new(3).ack(0, 1.1).ack(1, 10.2).ack(2, 10.3).log(&[(0, 0), (1, 1)], 2).cut(10.0, 10.5, 11.0);
    let verdict = case().verdict(&durable());
    assert_eq!(verdict.violation(Anomaly::LostTail), 1);
    assert_eq!((verdict.losses.records, verdict.losses.during_fault), (1, 1));
    // The one that is there stays apart, and so do both where a tail may be lost or the disk lied.
    assert_eq!(verdict.cells.acknowledged_after_cut.total(), 1);
    assert_eq!(case().verdict(&unflushed()).cells.acknowledged_after_cut.total(), 2);
    let lying = Fault { kind: FaultKind::LyingFlush, ..CUT };
    let on_the_disk = promise(&Setting::single_broker(Acks::All, Flush::EVERY_MESSAGE), Some(&lying));
    let mut lied = case();
    lied.faults[0].fault = lying;
    let verdict = lied.verdict(&on_the_disk);
    assert_eq!((verdict.standing, verdict.losses.records), (Standing::Kept, 0));
}

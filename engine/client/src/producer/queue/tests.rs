use highwater_model::batch::NewRecord;
use highwater_model::compression::Compression;

use super::*;

const HERE: BrokerId = BrokerId(1);
const IDENTITY: Identity = Identity { producer_id: ProducerId(7), producer_epoch: ProducerEpoch(0) };

/// One partition's queue with what the core would keep around it.
struct Bench {
    queue: PartitionQueue,
    policy: Policy,
    rng: Rng,
    last_serial: u64,
    incomplete: Incomplete,
    stats: ProducerStats,
    compressor: Compressor,
    out: Vec<Finished>,
    now: MonoTime,
}

impl Bench {
    fn idempotent() -> Self {
        Bench {
            queue: PartitionQueue::default(),
            policy: Policy::new(&ProducerConfig::default()),
            rng: Rng::new(1),
            last_serial: 0,
            incomplete: Incomplete::default(),
            stats: ProducerStats::default(),
            compressor: Compressor::new(Compression::None).expect("needs nothing"),
            out: Vec::new(),
            now: MonoTime(0),
        }
    }

    /// Adds a closed batch of `count` records.
    fn add(&mut self, count: usize) -> u64 {
        self.last_serial += 1;
        let mut builder = BatchBuilder::new(Compression::None);
        (0..count).for_each(|_| {
            builder.push(&NewRecord { value: Some(b"v"), ..NewRecord::default() });
        });
        self.queue.open = Some(OpenBatch {
            serial: self.last_serial,
            builder,
            tokens: vec![self.last_serial; count],
            created_at: self.now,
            memory_bytes: 100,
        });
        self.incomplete.add(self.last_serial);
        self.queue.close_open(&mut self.compressor, &mut self.out);
        self.last_serial
    }

    fn next(&self) -> Next {
        self.queue.next(HERE, 0, &self.policy, self.now)
    }

    /// Sends what can be sent, waiting out a back-off, and returns serial, epoch and first sequence.
    fn send(&mut self) -> (u64, i16, i32) {
        if let Next::At(at) = self.next() {
            self.now = at;
        }
        assert_eq!(self.next(), Next::Now);
        let (batch, stamp) = self.queue.send(HERE, Some(IDENTITY)).expect("a batch");
        (batch.serial, stamp.producer_epoch.0, stamp.base_sequence.0)
    }

    fn answer(&mut self, serial: u64, answer: Answer) {
        let mut context = AnswerContext {
            policy: &self.policy,
            rng: &mut self.rng,
            now: self.now,
            out: &mut self.out,
            last_serial: &mut self.last_serial,
            incomplete: &mut self.incomplete,
            stats: &mut self.stats,
        };
        self.queue.on_answer(serial, answer, &mut context);
    }

    fn ack(&mut self, serial: u64) {
        self.answer(serial, Answer::Acked { base_offset: Offset(0), log_append_time: None });
    }

    /// Acknowledges one batch of one record, so that several may be on the wire.
    fn establish(&mut self) {
        let serial = self.add(1);
        assert_eq!(self.send(), (serial, 0, 0));
        self.ack(serial);
        self.out.clear();
    }

    fn failed(&self) -> Vec<(u64, Appended)> {
        (self.out.iter())
            .filter_map(|finished| match finished.outcome {
                Outcome::Failed(error) => Some((finished.tokens[0], error.appended)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn first_batch_goes_alone_and_then_five_are_on_the_wire() {
    let mut bench = Bench::idempotent();
    let first = bench.add(1);
    (0..7).for_each(|_| {
        bench.add(2);
    });
    bench.send();
    assert_eq!(bench.next(), Next::Nothing, "the broker may know nothing of this producer");
    bench.ack(first);
    let sequences: Vec<i32> = (0..5).map(|_| bench.send().2).collect();
    assert_eq!(sequences, [1, 3, 5, 7, 9]);
    assert_eq!(bench.next(), Next::Nothing, "a broker remembers five");
}

#[test]
fn lost_batches_are_sent_again_one_by_one_under_their_sequences() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let batches: Vec<u64> = (0..3).map(|_| bench.add(2)).collect();
    let first: Vec<_> = batches.iter().map(|_| bench.send()).collect();
    batches.iter().for_each(|serial| bench.answer(*serial, Answer::Lost));
    bench.add(2);
    for sent in first {
        assert_eq!(bench.send(), sent, "the same epoch and sequence");
        assert_eq!(bench.next(), Next::Nothing, "alone");
        bench.ack(sent.0);
    }
    assert_eq!(bench.send().2, 7, "new ones go on behind");
    assert!(bench.failed().is_empty());
}

#[test]
fn gap_behind_a_refused_batch_does_not_begin_an_epoch() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let (one, two) = (bench.add(1), bench.add(1));
    bench.send();
    bench.send();
    bench.answer(one, Answer::Error(ErrorCode::NOT_ENOUGH_REPLICAS));
    bench.answer(two, Answer::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(bench.send(), (one, 0, 1));
    bench.ack(one);
    assert_eq!(bench.send(), (two, 0, 2));
    bench.ack(two);
    assert!(bench.failed().is_empty());
}

#[test]
fn broken_sequence_begins_an_epoch_without_what_may_be_appended() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let (lost, refused, unsent) = (bench.add(1), bench.add(1), bench.add(1));
    bench.send();
    bench.send();
    bench.answer(lost, Answer::Lost);
    bench.answer(refused, Answer::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    // The broker has lost what it acknowledged: even the first is not what it expects.
    bench.send();
    bench.answer(lost, Answer::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(bench.failed(), [(lost, Appended::Unknown)]);
    assert_eq!(bench.send(), (refused, 1, 0), "certainly not appended: goes on under the next epoch");
    bench.ack(refused);
    assert_eq!(bench.send(), (unsent, 1, 1));
}

#[test]
fn refused_for_good_begins_an_epoch_once_nothing_is_on_the_wire() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let (bad, good) = (bench.add(1), bench.add(1));
    bench.send();
    bench.send();
    bench.answer(bad, Answer::Error(ErrorCode::INVALID_RECORD));
    assert_eq!(bench.failed(), [(bad, Appended::No)]);
    assert_eq!(bench.next(), Next::Nothing, "the other is still on the wire");
    bench.answer(good, Answer::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(bench.send(), (good, 1, 0));
}

#[test]
fn new_leader_gets_nothing_while_the_old_one_owes_an_answer() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let (one, two) = (bench.add(1), bench.add(1));
    bench.send();
    let elsewhere = BrokerId(2);
    assert_eq!(bench.queue.next(elsewhere, 0, &bench.policy, bench.now), Next::Nothing);
    bench.answer(one, Answer::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert!(matches!(bench.queue.next(elsewhere, 0, &bench.policy, bench.now), Next::At(_)));
    assert_eq!(two, 3);
}

#[test]
fn delivery_timeout_tells_what_was_never_sent_from_what_is_unknown() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let (on_wire, unsent) = (bench.add(1), bench.add(1));
    bench.send();
    let late = bench.now + bench.policy.delivery_timeout;
    let policy = bench.policy;
    bench.queue.expire(&policy, late, &mut bench.compressor, &mut bench.out);
    assert_eq!(bench.failed(), [(on_wire, Appended::Unknown), (unsent, Appended::NeverSent)]);
}

#[test]
fn epochs_that_are_used_up_ask_for_another_producer_id() {
    let mut bench = Bench::idempotent();
    bench.queue.identity = Some(Identity { producer_epoch: ProducerEpoch(i16::MAX), ..IDENTITY });
    let bad = bench.add(1);
    bench.send();
    bench.answer(bad, Answer::Error(ErrorCode::INVALID_RECORD));
    assert!(bench.queue.has_spent(IDENTITY.producer_id));
    assert!(!bench.queue.has_spent(ProducerId(8)));
}

#[test]
fn batch_that_is_too_large_goes_on_as_two_with_its_sequences() {
    let mut bench = Bench::idempotent();
    bench.establish();
    let (large, behind) = (bench.add(10), bench.add(1));
    assert_eq!(bench.send(), (large, 0, 1));
    assert_eq!(bench.send(), (behind, 0, 11));
    bench.answer(large, Answer::Error(ErrorCode::MESSAGE_TOO_LARGE));
    bench.answer(behind, Answer::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    let (first, _, at) = bench.send();
    assert_eq!((first, at), (large, 1));
    bench.ack(first);
    let (second, _, at) = bench.send();
    assert_eq!(at, 6);
    assert!(!bench.incomplete.is_done_through(large), "a flush waits for both halves");
    bench.ack(second);
    assert_eq!(bench.send(), (behind, 0, 11));
    let acked: usize = bench.out.iter().map(|finished| finished.tokens.len()).sum();
    assert_eq!(acked, 10);
}

//! The batches of one partition: their order, their sequences, and what every answer does to them.
//!
//! ```text
//!   front                                                            back
//!   │ on wire │ on wire │ waiting (retry) │ waiting │ waiting │ open │ ◀─ append
//!   └──── have a sequence, if idempotent ─┘└── have none yet ────────┘
//! ```
//!
//! Invariants:
//!
//! * Batches are in the order of `append`, and sequences ascend without a gap from the front.
//! * Idempotent: a batch that is sent again goes alone, and as the first of all that are left; a new one is sent only
//!   behind new ones on the wire to the same broker. So sequences reach a leader in order, even one that has forgotten
//!   the producer and would take any.
//! * **A batch that may have been appended under one (producer id, epoch, sequence) is never sent under another**:
//!   no retry of an idempotent producer makes a duplicate. Where the sequence breaks, such batches fail as *unknown*,
//!   the others go on under the next epoch. (Kafka's producer sends all of them again, which duplicates one whose
//!   first attempt is still on its way.)
//! * The epoch changes only while nothing of the partition is on the wire.
//!
//! The epoch belongs to the partition, since that is where a broker checks it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use highwater_model::batch::{BatchBuilder, BatchRecords, ProducerStamp};
use highwater_model::compression::Compressor;
use highwater_model::{BrokerId, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use highwater_protocol::ErrorCode;

use super::outcome::{Appended, FailureReason, Outcome, ProduceError, appended_after};
use super::split;
use super::stats::ProducerStats;
use crate::config::{Acks, ProducerConfig};
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;

/// Batches of one producer that a broker remembers in a partition, and so the most that may be on the wire.
const MAX_ON_WIRE_IDEMPOTENT: usize = 5;

/// The settings that decide how a partition's batches are handled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) acks: Acks,
    pub(super) idempotent: bool,
    /// `max.in.flight.requests.per.connection` is 1: order is kept by waiting.
    pub(super) one_at_a_time: bool,
    pub(super) retries: u32,
    pub(super) linger: Duration,
    pub(super) delivery_timeout: Duration,
    pub(super) backoff: Backoff,
}

impl Policy {
    pub(super) fn new(config: &ProducerConfig) -> Self {
        Policy {
            acks: config.acks,
            idempotent: config.enable_idempotence,
            one_at_a_time: config.max_in_flight == 1,
            // Without answers there is nothing to retry on.
            retries: if config.acks == Acks::None { 0 } else { config.retries },
            linger: config.linger,
            delivery_timeout: config.delivery_timeout,
            backoff: Backoff { initial: config.client.retry_backoff, max: config.client.retry_backoff_max },
        }
    }
}

/// A batch, or what is left of it, once its outcome is known.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) origin: u64,
    pub(super) tokens: Vec<u64>,
    pub(super) created_at: MonoTime,
    pub(super) attempts: u32,
    pub(super) memory_bytes: usize,
    /// Its memory, unless the adaptor still holds it.
    pub(super) buffer: Option<BytesMut>,
    pub(super) outcome: Outcome,
}

/// The batch that takes records.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) serial: u64,
    pub(super) builder: BatchBuilder,
    pub(super) tokens: Vec<u64>,
    pub(super) created_at: MonoTime,
    pub(super) memory_bytes: usize,
}

impl OpenBatch {
    fn close(self, compressor: &mut Compressor) -> Result<Batch, Finished> {
        let OpenBatch { serial, builder, tokens, created_at, memory_bytes } = self;
        let fate = Fate { origin: serial, created_at, ..Fate::default() };
        match builder.finish_with(compressor) {
            Ok(records) => Ok(Batch { serial, fate, records, tokens, memory_bytes, sequence: None }),
            Err(_) => Err(fate.finished(tokens, memory_bytes, None, fate.failed(FailureReason::Encoding))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BatchState {
    OnWire,
    /// Not to be sent before this.
    Waiting(MonoTime),
}

/// What has happened to a batch so far; the halves of a split batch share it.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// The serial of the batch that this one was split from, or its own.
    origin: u64,
    created_at: MonoTime,
    /// Since it has its present size.
    attempts: u32,
    state: BatchState,
    was_sent: bool,
    may_be_appended: bool,
    last_error: Option<ErrorCode>,
}

impl Default for Fate {
    fn default() -> Self {
        Fate {
            origin: 0,
            created_at: MonoTime(0),
            attempts: 0,
            state: BatchState::Waiting(MonoTime(0)),
            was_sent: false,
            may_be_appended: false,
            last_error: None,
        }
    }
}

impl Fate {
    fn failed(&self, reason: FailureReason) -> Outcome {
        let appended = if self.may_be_appended || self.state == BatchState::OnWire {
            Appended::Unknown
        } else if self.was_sent {
            Appended::No
        } else {
            Appended::NeverSent
        };
        Outcome::Failed(ProduceError { reason, appended })
    }

    fn finished(
        &self,
        tokens: Vec<u64>,
        memory_bytes: usize,
        buffer: Option<BytesMut>,
        outcome: Outcome,
    ) -> Finished {
        Finished {
            origin: self.origin,
            tokens,
            created_at: self.created_at,
            attempts: self.attempts,
            memory_bytes,
            buffer,
            outcome,
        }
    }
}

/// A batch that takes no more records.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) serial: u64,
    fate: Fate,
    pub(super) records: BatchRecords,
    tokens: Vec<u64>,
    memory_bytes: usize,
    /// Idempotent, and sent before.
    sequence: Option<Sequence>,
}

impl Batch {
    fn finish(self, outcome: Outcome) -> Finished {
        self.fate.finished(self.tokens, self.memory_bytes, self.records.into_buffer(), outcome)
    }

    fn fail(self, reason: FailureReason) -> Finished {
        let outcome = self.fate.failed(reason);
        self.finish(outcome)
    }

    fn into_halves(mut self, first: BatchRecords, second: BatchRecords, second_serial: u64) -> [Batch; 2] {
        self.fate.state = BatchState::Waiting(MonoTime(0));
        self.fate.attempts = 0;
        let first_count = first.record_count();
        let second_tokens = self.tokens.split_off(usize::try_from(first_count).unwrap_or(usize::MAX));
        let second = Batch {
            serial: second_serial,
            fate: self.fate,
            records: second,
            tokens: second_tokens,
            memory_bytes: self.memory_bytes / 2,
            sequence: self.sequence.map(|base| base.wrapping_advance(first_count)),
        };
        self.memory_bytes -= second.memory_bytes;
        self.records = first;
        [self, second]
    }
}

/// What the broker said to a batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Acked {
        base_offset: Offset,
        log_append_time: Option<Timestamp>,
    },
    Error(ErrorCode),
    /// Nothing: the connection was lost.
    Lost,
    /// acks=0: handed to the operating system.
    Sent,
}

/// What a partition can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Something, now.
    Now,
    /// Something, at this time, unless more happens.
    At(MonoTime),
    /// Nothing, until something happens.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: ProducerId,
    pub(super) producer_epoch: ProducerEpoch,
}

/// The batches of one partition.
#[derive(Debug, Default)]
pub(super) struct PartitionQueue {
    pub(super) open: Option<OpenBatch>,
    batches: VecDeque<Batch>,
    /// Batches in requests without an answer, given up on or not.
    on_wire: usize,
    /// Where they went.
    on_wire_to: Option<BrokerId>,
    identity: Option<Identity>,
    /// A producer id whose epochs are used up here.
    spent: Option<ProducerId>,
    next_sequence: Sequence,
    /// The broker does not expect what would come next.
    is_broken: bool,
    /// A batch was acknowledged in this epoch.
    is_established: bool,
    /// The broker whose list of ready partitions has this one; kept by the core.
    pub(super) listed_at: Option<BrokerId>,
    /// When the core's timer for this partition goes off.
    pub(super) armed_at: Option<MonoTime>,
}

impl PartitionQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open.is_none()
    }

    /// When the oldest batch must have its outcome.
    pub(super) fn delivery_deadline(&self, policy: &Policy) -> Option<MonoTime> {
        let oldest = self.batches.front().map(|batch| batch.fate.created_at);
        oldest.or(self.open.as_ref().map(|open| open.created_at)).map(|at| at + policy.delivery_timeout)
    }

    /// Ends the open batch.
    pub(super) fn close_open(&mut self, compressor: &mut Compressor, out: &mut Vec<Finished>) {
        match self.open.take().map(|open| open.close(compressor)) {
            Some(Ok(batch)) => self.batches.push_back(batch),
            Some(Err(finished)) => out.push(finished),
            None => {}
        }
    }

    /// What could be sent to `broker`. Open batches up to serial `flush_through` do not wait for `linger.ms`.
    pub(super) fn next(&self, broker: BrokerId, flush_through: u64, policy: &Policy, now: MonoTime) -> Next {
        let is_held_back = self.is_broken
            || (policy.one_at_a_time && self.on_wire > 0)
            || (policy.idempotent && self.on_wire > 0 && self.on_wire_to != Some(broker));
        if is_held_back {
            return Next::Nothing;
        }
        let waiting = self.first_waiting();
        let may_send = !policy.idempotent
            || match waiting {
                Some((index, batch)) if batch.sequence.is_some() => index == 0,
                _ => self.on_wire < self.max_on_wire() && !self.is_retrying(),
            };
        if !may_send {
            return Next::Nothing;
        }
        let at = match (waiting.map(|(_, batch)| batch.fate.state), &self.open) {
            (Some(BatchState::Waiting(until)), _) => until,
            (_, Some(open)) if open.serial > flush_through => open.created_at + policy.linger,
            (_, Some(_)) => now,
            (_, None) => return Next::Nothing,
        };
        if at <= now { Next::Now } else { Next::At(at) }
    }

    /// A broker without any state of a producer takes whatever sequence comes first. So the first batch goes alone:
    /// if it were refused, the second could be appended before it.
    fn max_on_wire(&self) -> usize {
        if self.is_established { MAX_ON_WIRE_IDEMPOTENT } else { 1 }
    }

    fn is_retrying(&self) -> bool {
        let is_on_wire = |batch: &&Batch| batch.fate.state == BatchState::OnWire;
        self.batches.iter().take_while(is_on_wire).any(|batch| batch.fate.attempts > 1)
    }

    fn first_waiting(&self) -> Option<(usize, &Batch)> {
        self.batches.iter().enumerate().find(|(_, batch)| batch.fate.state != BatchState::OnWire)
    }

    /// The batch that [`next`](Self::next) meant, closed if it was open. `None` if closing it failed.
    pub(super) fn peek(&mut self, compressor: &mut Compressor, out: &mut Vec<Finished>) -> Option<&Batch> {
        if self.first_waiting().is_none() {
            self.close_open(compressor, out);
        }
        self.first_waiting().map(|(_, batch)| batch)
    }

    /// Puts the batch of [`peek`](Self::peek) on the wire to `broker`, with a sequence if `fresh` gives one to start
    /// from. Returns the batch and who sends it.
    pub(super) fn send(
        &mut self,
        broker: BrokerId,
        fresh: Option<Identity>,
    ) -> Option<(&Batch, ProducerStamp)> {
        let (index, _) = self.first_waiting()?;
        let batch = &mut self.batches[index];
        batch.fate.state = BatchState::OnWire;
        batch.fate.attempts = batch.fate.attempts.saturating_add(1);
        batch.fate.was_sent = true;
        self.on_wire += 1;
        self.on_wire_to = Some(broker);
        let Some(fresh) = fresh else { return Some((&*batch, ProducerStamp::NONE)) };
        let identity = *self.identity.get_or_insert(fresh);
        let base_sequence = *batch.sequence.get_or_insert_with(|| {
            let base = self.next_sequence;
            self.next_sequence = base.wrapping_advance(batch.records.record_count());
            base
        });
        let stamp = ProducerStamp {
            producer_id: identity.producer_id,
            producer_epoch: identity.producer_epoch,
            base_sequence,
        };
        Some((&*batch, stamp))
    }

    /// The batch of that serial, for a request that is being put together.
    pub(super) fn get(&self, serial: u64) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.serial == serial)
    }

    /// Takes the answer to a batch that was on the wire.
    pub(super) fn on_answer(&mut self, serial: u64, answer: Answer, context: &mut AnswerContext<'_>) {
        self.on_wire = self.on_wire.saturating_sub(1);
        let index = self.batches.iter().position(|batch| batch.serial == serial);
        match (index, answer) {
            (Some(index), Answer::Error(code)) => {
                self.on_error(index, code, context);
            }
            (Some(index), Answer::Lost) => {
                self.batches[index].fate.may_be_appended = true;
                self.retry_or_fail(index, ErrorCode::NETWORK_EXCEPTION, FailureReason::Disconnected, context);
            }
            (Some(index), Answer::Sent) => self.complete(index, Outcome::Sent, context.out),
            (Some(index), Answer::Acked { base_offset, log_append_time }) => {
                let base_offset = Some(base_offset).filter(|offset| offset.0 >= 0);
                self.complete(index, Outcome::Acked { base_offset, log_append_time }, context.out);
            }
            (None, _) => {}
        }
        self.settle(context.out);
    }

    fn complete(&mut self, index: usize, outcome: Outcome, out: &mut Vec<Finished>) {
        let Some(batch) = self.batches.remove(index) else { return };
        self.is_established = true;
        out.push(batch.finish(outcome));
    }

    fn on_error(&mut self, index: usize, code: ErrorCode, context: &mut AnswerContext<'_>) {
        let policy = context.policy;
        let batch = &mut self.batches[index];
        batch.fate.last_error = Some(code);
        batch.fate.state = BatchState::Waiting(MonoTime(0));
        batch.fate.may_be_appended |= appended_after(code, policy.acks) == Appended::Unknown;
        let is_sequence_error = policy.idempotent
            && matches!(
                code,
                ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                    | ErrorCode::UNKNOWN_PRODUCER_ID
                    | ErrorCode::INVALID_PRODUCER_EPOCH
            );
        match code {
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER if policy.idempotent => {
                let outcome = Outcome::Acked { base_offset: None, log_append_time: None };
                self.complete(index, outcome, context.out);
            }
            ErrorCode::MESSAGE_TOO_LARGE if batch.records.record_count() > 1 => {
                self.split(index, context);
            }
            _ if is_sequence_error => {
                // The first in line was expected next. One behind it only shows that the first did not arrive.
                self.is_broken |= index == 0;
                self.retry_or_fail(index, code, FailureReason::Broker(code), context);
            }
            _ if code.is_retriable() => {
                self.retry_or_fail(index, code, FailureReason::Broker(code), context);
            }
            _ => self.give_up(index, FailureReason::Broker(code), context.out),
        }
    }

    fn split(&mut self, index: usize, context: &mut AnswerContext<'_>) {
        let Some((first, second)) = split::halves(&self.batches[index].records) else {
            return self.give_up(index, FailureReason::Encoding, context.out);
        };
        let Some(batch) = self.batches.remove(index) else { return };
        *context.last_serial += 1;
        context.incomplete.add(batch.fate.origin);
        context.stats.batch_splits += 1;
        let [first, second] = batch.into_halves(first, second, *context.last_serial);
        self.batches.insert(index, second);
        self.batches.insert(index, first);
    }

    fn retry_or_fail(
        &mut self,
        index: usize,
        code: ErrorCode,
        reason: FailureReason,
        context: &mut AnswerContext<'_>,
    ) {
        let batch = &mut self.batches[index];
        batch.fate.last_error = Some(code);
        if batch.fate.attempts > context.policy.retries {
            batch.fate.state = BatchState::Waiting(MonoTime(0));
            self.give_up(index, reason, context.out);
        } else {
            let wait = context.policy.backoff.after(batch.fate.attempts, context.rng);
            batch.fate.state = BatchState::Waiting(context.now + wait);
            context.stats.batch_retries += 1;
        }
    }

    fn give_up(&mut self, index: usize, reason: FailureReason, out: &mut Vec<Finished>) {
        let Some(batch) = self.batches.remove(index) else { return };
        let is_sequenced = batch.sequence.is_some();
        let finished = batch.fail(reason);
        // Where it is not known, the broker's answer to the next batch will tell.
        let is_missing =
            !matches!(finished.outcome, Outcome::Failed(ProduceError { appended: Appended::Unknown, .. }));
        self.is_broken |= is_sequenced && is_missing;
        out.push(finished);
    }

    /// Gives up on batches whose `delivery.timeout.ms` has passed.
    pub(super) fn expire(
        &mut self,
        policy: &Policy,
        now: MonoTime,
        compressor: &mut Compressor,
        out: &mut Vec<Finished>,
    ) {
        let is_expired = |created_at: MonoTime| created_at + policy.delivery_timeout <= now;
        while let Some(batch) = self.batches.front().filter(|batch| is_expired(batch.fate.created_at)) {
            let last = batch.fate.last_error;
            self.give_up(0, FailureReason::DeliveryTimeout { last }, out);
        }
        if self.batches.is_empty() && self.open.as_ref().is_some_and(|open| is_expired(open.created_at)) {
            self.close_open(compressor, out);
            if !self.batches.is_empty() {
                self.give_up(0, FailureReason::DeliveryTimeout { last: None }, out);
            }
        }
        self.settle(out);
    }

    /// Gives up on everything.
    pub(super) fn fail_all(
        &mut self,
        reason: FailureReason,
        compressor: &mut Compressor,
        out: &mut Vec<Finished>,
    ) {
        self.close_open(compressor, out);
        out.extend(self.batches.drain(..).map(|batch| batch.fail(reason)));
    }

    /// Begins a new epoch if the sequence is broken.
    fn settle(&mut self, out: &mut Vec<Finished>) {
        if self.on_wire > 0 || !self.is_broken {
            return;
        }
        let (kept, unknown): (VecDeque<Batch>, VecDeque<Batch>) = std::mem::take(&mut self.batches)
            .into_iter()
            .partition(|batch| batch.sequence.is_none() || !batch.fate.may_be_appended);
        self.batches = kept;
        for batch in &mut self.batches {
            batch.sequence = None;
        }
        out.extend(unknown.into_iter().map(|batch| batch.fail(FailureReason::SequenceBroken)));
        self.begin_epoch();
        self.next_sequence = Sequence(0);
        self.is_broken = false;
        self.is_established = false;
    }

    fn begin_epoch(&mut self) {
        let Some(identity) = &mut self.identity else { return };
        match identity.producer_epoch.0.checked_add(1) {
            Some(epoch) => identity.producer_epoch = ProducerEpoch(epoch),
            None => {
                self.spent = Some(identity.producer_id);
                self.identity = None;
            }
        }
    }

    /// Whether the partition has used up all epochs of this producer id, and needs another.
    pub(super) fn has_spent(&self, producer_id: ProducerId) -> bool {
        self.identity.is_none() && self.spent == Some(producer_id)
    }
}

/// What an answer is handled with.
pub(super) struct AnswerContext<'a> {
    pub(super) policy: &'a Policy,
    pub(super) rng: &'a mut Rng,
    pub(super) now: MonoTime,
    pub(super) out: &'a mut Vec<Finished>,
    /// Serial of the newest batch.
    pub(super) last_serial: &'a mut u64,
    pub(super) incomplete: &'a mut Incomplete,
    pub(super) stats: &'a mut ProducerStats,
}

/// The batches without an outcome, by the serial that they began with: what a flush waits for.
#[derive(Debug, Default)]
pub(super) struct Incomplete(BTreeMap<u64, u32>);

impl Incomplete {
    /// A batch begins, or one that began as `origin` has become one more.
    pub(super) fn add(&mut self, origin: u64) {
        *self.0.entry(origin).or_insert(0) += 1;
    }

    pub(super) fn remove(&mut self, origin: u64) {
        if let Some(count) = self.0.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&origin);
            }
        }
    }

    /// Whether every batch up to `serial` has its outcome.
    pub(super) fn is_done_through(&self, serial: u64) -> bool {
        self.0.first_key_value().is_none_or(|(oldest, _)| *oldest > serial)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;

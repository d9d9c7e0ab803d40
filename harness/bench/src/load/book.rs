//! What one producer thread notes of its records: the ledger, the latencies, the timeline.
//!
//! A record is attempted (booked in the ledger, and given its identity) before the client sees it, and its outcome is
//! booked when the client tells it. Between the two it has a slot here, whose number is the record's token.

use std::sync::Arc;

use highwater_checker::{
    AckPoint, ErrorClass, Identity, Layout, LedgerError, Nanos, Offset, PartitionIndex, ProducerId,
    ProducerLedger, RunId, Sequences, codes,
};
use highwater_client::producer::{Appended, FailureReason, Outcome};

use super::Progress;
use super::client::Settled;
use super::timeline::Buckets;
use crate::results::Latency;

/// Which records count: those that were due within the measured time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: Nanos,
    pub(super) until: Nanos,
}

impl Window {
    /// Before the clock starts: nothing counts.
    pub(super) const NOTHING: Window = Window { from: Nanos(u64::MAX), until: Nanos(u64::MAX) };

    fn contains(self, at: Nanos) -> bool {
        self.from <= at && at < self.until
    }
}

/// A record whose outcome is not known yet.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    sequence: u64,
    partition: PartitionIndex,
    value_len: u32,
    intended: Nanos,
    sent: Nanos,
}

/// Counts over the measured window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) acked: u64,
    pub(super) acked_bytes: u64,
    pub(super) failed: u64,
    /// The last outcome of a record that counts.
    pub(super) last_outcome_at: Nanos,
}

/// The notes of one producer.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) ledger: ProducerLedger,
    pub(super) intended: Latency,
    pub(super) service: Latency,
    pub(super) buckets: Buckets,
    pub(super) counts: Counts,
    pub(super) window: Window,
    delivery_timeout: Nanos,
    ack_point: AckPoint,
    in_flight: Vec<InFlight>,
    free: Vec<u32>,
    progress: Arc<Progress>,
}

impl Book {
    pub(super) fn new(
        (run, producer, layout): (RunId, ProducerId, &Layout),
        length: Nanos,
        delivery_timeout: Nanos,
        ack_point: AckPoint,
        progress: Arc<Progress>,
    ) -> Self {
        Book {
            ledger: ProducerLedger::new(run, producer, layout),
            intended: Latency::default(),
            service: Latency::default(),
            buckets: Buckets::new(length),
            counts: Counts::default(),
            window: Window::NOTHING,
            delivery_timeout,
            ack_point,
            in_flight: Vec::new(),
            free: Vec::new(),
            progress,
        }
    }

    /// Books an attempt. Gives the record's identity and its token.
    pub(super) fn attempt(
        &mut self,
        partition: PartitionIndex,
        intended: Nanos,
        value_len: u32,
    ) -> (Identity, u64) {
        let identity = self.ledger.attempt(partition, intended, value_len);
        let record = InFlight { sequence: identity.sequence, partition, value_len, intended, sent: intended };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.in_flight[slot as usize] = record;
                slot
            }
            None => {
                self.in_flight.push(record);
                u32::try_from(self.in_flight.len() - 1).expect("buffer.memory bounds what is in flight")
            }
        };
        self.progress.attempted();
        (identity, u64::from(slot))
    }

    /// The client has taken the record.
    pub(super) fn sent(&mut self, token: u64, at: Nanos) {
        self.in_flight[token as usize].sent = at;
    }

    /// The client never took the record.
    pub(super) fn never_sent(&mut self, token: u64) -> Result<(), LedgerError> {
        let record = self.take(token);
        self.ledger.never_sent(record.partition, Sequences::one(record.sequence))
    }

    /// Books the outcome of a batch.
    pub(super) fn settle(&mut self, settled: &Settled) -> Result<(), LedgerError> {
        let Settled { at, tokens, outcome } = settled;
        for records in self.runs(tokens) {
            self.book(&records, *outcome, *at)?;
        }
        for &token in tokens {
            let record = self.take(token);
            self.measure(&record, outcome, *at);
        }
        self.progress.delivered(outcome, tokens.len() as u64, *at);
        Ok(())
    }

    /// The records of a batch as runs of consecutive sequences, each with its place in the batch. One run is the rule:
    /// one thread appends, and a batch keeps the order.
    fn runs(&self, tokens: &[u64]) -> Vec<BatchRun> {
        let mut runs: Vec<BatchRun> = Vec::with_capacity(1);
        for (place, &token) in tokens.iter().enumerate() {
            let record = self.in_flight[token as usize];
            match runs.last_mut() {
                Some(run) if run.records.first + u64::from(run.records.count) == record.sequence => {
                    run.records.count += 1;
                }
                _ => runs.push(BatchRun {
                    partition: record.partition,
                    place: place as i64,
                    records: Sequences::one(record.sequence),
                }),
            }
        }
        runs
    }

    fn book(&mut self, run: &BatchRun, outcome: Outcome, at: Nanos) -> Result<(), LedgerError> {
        let BatchRun { partition, place, records } = *run;
        match outcome {
            Outcome::Acked { base_offset: Some(base), .. } => {
                self.ledger.ack(partition, records, Offset(base.0 + place), at)
            }
            // The broker has it, and does not say where: no evidence to hold it to.
            Outcome::Acked { base_offset: None, .. } => {
                self.ledger.error(partition, records, ErrorClass::Info, None)
            }
            Outcome::Sent => self.ledger.sent(partition, records),
            Outcome::Failed(error) => {
                let code = match error.reason {
                    FailureReason::Broker(code) => Some(code.0),
                    FailureReason::DeliveryTimeout { last } => last.map(|code| code.0),
                    _ => None,
                };
                match error.appended {
                    Appended::NeverSent => self.ledger.never_sent(partition, records),
                    // Of the client's opinion and the checker's table the more careful one counts: the client cannot
                    // know whether an ack waits for a flush.
                    Appended::No => {
                        let class =
                            code.map_or(ErrorClass::Fail, |code| codes::classify(code, self.ack_point));
                        self.ledger.error(partition, records, class, code)
                    }
                    Appended::Unknown => self.ledger.error(partition, records, ErrorClass::Info, code),
                }
            }
        }
    }

    fn measure(&mut self, record: &InFlight, outcome: &Outcome, at: Nanos) {
        let latency = at.since(record.intended);
        if let Outcome::Acked { base_offset: None, .. } = outcome {
            // Unknown in the ledger, and no figure says otherwise.
            self.buckets.failed(at, 1);
            if self.window.contains(record.intended) {
                self.counts.failed += 1;
                self.counts.last_outcome_at = at;
            }
            return;
        }
        if let Outcome::Failed(error) = outcome {
            self.buckets.failed(at, 1);
            // What the harness itself gave up on says nothing about the broker's latency.
            if self.window.contains(record.intended) && error.reason != FailureReason::Closed {
                self.counts.failed += 1;
                self.counts.last_outcome_at = at;
                self.intended.record(latency.max(self.delivery_timeout).0);
            }
            return;
        }
        self.buckets.acked(at, u64::from(record.value_len), latency);
        if self.window.contains(record.intended) {
            self.counts.acked += 1;
            self.counts.acked_bytes += u64::from(record.value_len);
            self.counts.last_outcome_at = at;
            self.intended.record(latency.0);
            self.service.record(at.since(record.sent).0);
        }
    }

    fn take(&mut self, token: u64) -> InFlight {
        let slot = u32::try_from(token).expect("tokens are slots");
        self.free.push(slot);
        self.in_flight[slot as usize]
    }
}

#[derive(Debug, Clone, Copy)]
struct BatchRun {
    partition: PartitionIndex,
    /// Place of its first record in the batch.
    place: i64,
    records: Sequences,
}

#[cfg(test)]
mod tests {
    use highwater_checker::codes::TABLE;
    use highwater_client::Acks;
    use highwater_client::producer::appended_after;
    use highwater_protocol::ErrorCode;

    use super::*;

    /// Nothing that the client calls certainly not appended may be in doubt in the checker's table, or the harness would
    /// accuse a broker of an aborted read that the protocol permits.
    #[test]
    fn client_is_never_surer_of_a_failure_than_the_checker() {
        for (acks, point) in [(Acks::All, AckPoint::AfterWait), (Acks::Leader, AckPoint::AtAppend)] {
            for entry in TABLE {
                let sure = appended_after(ErrorCode(entry.code), acks) == Appended::No;
                let fails = codes::classify(entry.code, point) == ErrorClass::Fail;
                assert!(!sure || fails, "{} under {acks:?}", entry.name);
            }
        }
    }
}

//! The ledger of every record and the verdict on what a broker did with it.
//!
//! Purpose: decide, from what producers were told and from what consumers can still read, which
//! acknowledged records are gone, which came twice, and which of Kafka's promises were broken.
//!
//! The way of a trial:
//!
//! ```text
//!  producer threads            consumers during the run      after healing
//!  ProducerLedger (one each)   Polls (one each)              Reading (one for each final read)
//!      │ attempt, ack, fail        │ polled, restarted           │ bounds, value
//!      └──────── Ledger ───────────┴────────── Trial ────────────┘   + FaultEvents, Observations
//!                                                │ judge(contract)
//!                                                ▼
//!                                             Verdict: kept or broken, the cells, the losses
//! ```
//!
//! - [`identity`]: what every record carries in its value, and how it is told from foreign bytes.
//! - [`codes`]: which Kafka error means *certainly not appended* and which means *unknown*.
//! - [`ledger`]: what was attempted and what the producer was told.
//! - [`reading`]: what a consumer saw, during the run and at its end.
//! - [`fault`], [`contract`]: what was done to the broker, and what it may lose because of that.
//! - [`judge`](mod@judge), [`verdict`]: the comparison, and its result.
//!
//! Invariants: no I/O, no clock, no random numbers, no hash map whose order could show: the same
//! input gives the same verdict, byte for byte. All instants are nanoseconds of *one* monotonic
//! clock, since the order of an ack and a send is evidence. Storage is per (producer, partition)
//! vectors: 9 bytes a record and 32 bytes a batch.
//!
//! Deliberately absent: anomalies of transactions (precommitted read, torn transaction, stuck last
//! stable offset). Readers already carry their isolation level, and [`Anomaly`] is non-exhaustive.

pub mod codes;
pub mod contract;
pub mod fault;
pub mod identity;
pub mod judge;
pub mod ledger;
pub mod reading;
mod units;
pub mod verdict;

pub use codes::{AckPoint, ErrorClass};
pub use contract::{Acks, Compaction, Contract, Flush, Loss, Permission, Setting, promise};
pub use fault::{Fault, FaultEvent, FaultKind, Scope};
pub use identity::{DecodeError, Filler, HEADER_LEN, Identity};
pub use judge::{JudgeError, Trial, judge};
pub use ledger::{Key, Ledger, LedgerError, ProducerLedger, Sequences};
pub use reading::{Isolation, Observation, Observed, Polls, Reader, Reading};
pub use units::{Layout, Nanos, Offset, PartitionId, PartitionIndex, ProducerId, RunId};
pub use verdict::{Anomaly, Cells, Finding, Losses, LostRecord, Row, Standing, Verdict};

//! How fast the checker is: books and judges a run of many records, in batches, with a lost tail.
//!
//! `cargo run --release -p highwater-checker --example speed -- 20000000`

use highwater_checker::{
    Acks, Fault, FaultEvent, FaultKind, Flush, Identity, Layout, Ledger, Nanos, Offset, ProducerId,
    ProducerLedger, Reader, Reading, RunId, Scope, Sequences, Setting, Trial, judge, promise,
};
use std::time::Instant;

const RUN: RunId = RunId(7);
const PRODUCERS: u32 = 4;
const PARTITIONS: u32 = 16;
const BATCH: u32 = 100;

fn main() {
    let records: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(5_000_000);
    let batches = records / u64::from(BATCH);
    let layout = Layout::new(&[PARTITIONS]);
    let partitions: Vec<_> = layout.partitions().collect();
    let mut producers: Vec<ProducerLedger> =
        (0..PRODUCERS).map(|number| ProducerLedger::new(RUN, ProducerId(number), &layout)).collect();
    let mut log: Vec<Vec<(i64, Identity)>> = vec![Vec::new(); partitions.len()]; // the first of each batch
    let mut ends = vec![0i64; partitions.len()];
    let struck_at = Nanos(batches * 1_000);

    let started = Instant::now();
    for batch in 0..batches {
        let partition = partitions[(batch % u64::from(PARTITIONS)) as usize];
        let ledger = &mut producers[(batch / 7 % u64::from(PRODUCERS)) as usize];
        let first = ledger.attempts(partition);
        let base = ends[partition.get()];
        let first_identity = ledger.attempt(partition, Nanos(batch * 1_000), 1024);
        (1..BATCH).for_each(|_| _ = ledger.attempt(partition, Nanos(batch * 1_000), 1024));
        if batch < batches * 9 / 10 {
            log[partition.get()].push((base, first_identity));
        }
        ends[partition.get()] += i64::from(BATCH);
        let sequences = Sequences { first, count: BATCH };
        ledger.ack(partition, sequences, Offset(base), Nanos(batch * 1_000 + 500)).expect("it was attempted");
    }
    let booked = started.elapsed();

    let started = Instant::now();
    let mut reading = Reading::new(Reader::FINAL, RUN, &layout);
    for (partition, entries) in partitions.iter().zip(&log) {
        reading.bounds(*partition, Offset(0), Offset(entries.len() as i64 * i64::from(BATCH)));
        for (base, first) in entries {
            for index in 0..u64::from(BATCH) {
                let identity = Identity { sequence: first.sequence + index, ..*first };
                reading.record(*partition, Offset(base + index as i64), Ok(identity));
            }
        }
    }
    let read = started.elapsed();

    let started = Instant::now();
    let fault = Fault { kind: FaultKind::PowerCut, scope: Scope::AllBrokers, in_sync_replicas: None };
    let (silenced_at, restored_at) = (Nanos(struck_at.0 + 1), Nanos(struck_at.0 + 2));
    let trial = Trial {
        ledger: Ledger::gather(RUN, &layout, producers).expect("dense producers"),
        faults: vec![FaultEvent { fault, struck_at, silenced_at, restored_at, recovered_ends: Vec::new() }],
        readings: vec![reading],
        polls: Vec::new(),
        observations: Vec::new(),
    };
    let contract = promise(&Setting::single_broker(Acks::One, Flush::LEFT_TO_SYSTEM), Some(&fault));
    let verdict = judge(trial, &contract).expect("all evidence is there");
    let judged = started.elapsed();

    println!("{records} records, {:?}, {} lost", verdict.standing, verdict.losses.records);
    for (what, took) in [("booked", booked), ("read", read), ("judged", judged)] {
        let per_second = records as f64 / took.as_secs_f64() / 1e6;
        println!("{what:>7}: {:>8.1} ms, {per_second:>7.1} M records/s", took.as_secs_f64() * 1e3);
    }
}

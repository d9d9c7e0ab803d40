//! Producers, consumers and a fault around the broker of [`crate::broker`], all from one seed.

use crate::broker::{Append, Broker, Lie, Rng};
use highwater_checker::{
    AckPoint, Acks, Contract, ErrorClass, Fault, FaultEvent, FaultKind, Filler, Isolation, Layout, Ledger,
    Nanos, Observation, Observed, Offset, PartitionIndex, Polls, ProducerId, ProducerLedger, Reader, Reading,
    RunId, Sequences, Setting, Trial, Verdict, codes, judge, promise,
};

const RUN: RunId = RunId(0xC0FFEE);
const PRODUCERS: u32 = 3;
const PARTITIONS: u32 = 2;
const STEPS: u64 = 700;
const MILLI: u64 = 1_000_000;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) setting: Setting,
    pub(crate) fault: Option<Fault>,
    pub(crate) lie: Lie,
    pub(crate) load_goes_on: bool,
}

enum Stage {
    Requested,
    /// The broker's answer is on its way, or never comes.
    Answered(Option<Result<i64, i16>>),
}

struct Batch {
    producer: u32,
    partition: PartitionIndex,
    records: Sequences,
    values: Vec<Vec<u8>>,
    stage: Stage,
}

struct Consumer {
    polls: Polls,
    positions: Vec<i64>,
}

struct World {
    scenario: Scenario,
    rng: Rng,
    now: u64,
    broker: Broker,
    layout: Layout,
    ledgers: Vec<ProducerLedger>,
    in_flight: Vec<Batch>,
    consumers: Vec<Consumer>,
    observations: Vec<Observation>,
    faults: Vec<FaultEvent>,
}

/// The contract that the scenario's broker pretends to keep.
pub(crate) fn contract(scenario: &Scenario) -> Contract {
    let mut contract = promise(&scenario.setting, scenario.fault.as_ref());
    contract.flush_allowance = Nanos(MILLI);
    contract.unavailable_at_most = Some(Nanos(2_000 * MILLI));
    contract
}

/// Runs a trial and judges it.
pub(crate) fn verdict(scenario: &Scenario, seed: u64) -> Verdict {
    let trial = World::new(*scenario, seed).run();
    judge(trial, &contract(scenario)).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
}

impl World {
    fn new(scenario: Scenario, seed: u64) -> Self {
        let layout = Layout::new(&[PARTITIONS]);
        let partitions = layout.len();
        let consumer = |number| Consumer {
            polls: Polls::new(number, Isolation::ReadUncommitted, RUN, &layout),
            positions: vec![0; partitions],
        };
        let Setting { flush, idempotence, .. } = scenario.setting;
        Self {
            scenario,
            rng: Rng(seed),
            now: 0,
            broker: Broker::new(scenario.lie, flush, idempotence, partitions, seed),
            ledgers: (0..PRODUCERS).map(|n| ProducerLedger::new(RUN, ProducerId(n), &layout)).collect(),
            in_flight: Vec::new(),
            consumers: (0..2).map(consumer).collect(),
            observations: Vec::new(),
            faults: Vec::new(),
            layout,
        }
    }

    fn run(mut self) -> Trial {
        for step in 0..STEPS {
            if step == STEPS / 2 {
                self.strike();
                if !self.scenario.load_goes_on && self.scenario.fault.is_some() {
                    break;
                }
            }
            self.step();
        }
        self.finish()
    }

    fn step(&mut self) {
        self.now += 20_000 + self.rng.below(180_000);
        self.broker.tick(self.now);
        match self.rng.below(100) {
            0..27 => self.send(),
            27..54 => self.request(),
            54..84 => self.answer(),
            84..92 => self.poll(),
            _ => self.ask(),
        }
    }

    fn any_partition(&mut self) -> PartitionIndex {
        let place = self.rng.below(u64::from(PARTITIONS)) as usize;
        self.layout.partitions().nth(place).expect("it is below the count")
    }

    fn send(&mut self) {
        let producer = self.rng.below(u64::from(PRODUCERS)) as u32;
        let partition = self.any_partition();
        let same_lane = |batch: &&Batch| (batch.producer, batch.partition) == (producer, partition);
        if self.in_flight.iter().filter(same_lane).count() >= self.scenario.setting.max_in_flight as usize {
            return;
        }
        let (count, size) = (1 + self.rng.below(3) as u32, 48 + self.rng.below(40) as u32);
        let ledger = &mut self.ledgers[producer as usize];
        let first = ledger.attempts(partition);
        let values = (0..count).map(|_| {
            let identity = ledger.attempt(partition, Nanos(self.now), size);
            let mut value = vec![0; size as usize];
            identity.encode(&mut value, Filler::INCOMPRESSIBLE).expect("the size is right");
            value
        });
        let (values, records) = (values.collect(), Sequences { first, count });
        self.in_flight.push(Batch { producer, partition, records, values, stage: Stage::Requested });
    }

    /// The oldest request arrives, so that each connection keeps its order.
    fn request(&mut self) {
        let Some(place) = self.in_flight.iter().position(|batch| matches!(batch.stage, Stage::Requested))
        else {
            return;
        };
        let batch = &mut self.in_flight[place];
        let append = Append {
            partition: batch.partition.get(),
            producer: batch.producer,
            first_sequence: batch.records.first,
            values: batch.values.clone(),
        };
        batch.stage = Stage::Answered(self.broker.produce(self.now, append));
        self.now += self.broker.stall();
        if self.scenario.setting.acks == Acks::Zero {
            let Batch { producer, partition, records, .. } = self.in_flight.remove(place);
            self.ledgers[producer as usize].sent(partition, records).expect("it was attempted");
        }
    }

    /// One answer arrives, or is lost and the request made again.
    fn answer(&mut self) {
        let answered = |batch: &Batch| matches!(batch.stage, Stage::Answered(_));
        let places: Vec<usize> =
            (0..self.in_flight.len()).filter(|i| answered(&self.in_flight[*i])).collect();
        if places.is_empty() {
            return;
        }
        let place = places[self.rng.below(places.len() as u64) as usize];
        let succeeded = matches!(self.in_flight[place].stage, Stage::Answered(Some(Ok(_))));
        if succeeded && self.rng.one_in(8) {
            self.in_flight[place].stage = Stage::Requested;
            return;
        }
        let batch = self.in_flight.remove(place);
        self.settle(&batch);
    }

    fn settle(&mut self, batch: &Batch) {
        let ledger = &mut self.ledgers[batch.producer as usize];
        let Batch { partition, records, .. } = *batch;
        let booked = match batch.stage {
            Stage::Answered(Some(Ok(base))) => ledger.ack(partition, records, Offset(base), Nanos(self.now)),
            Stage::Answered(Some(Err(code))) => {
                let class = codes::classify(code, AckPoint::AtAppend);
                ledger.error(partition, records, class, Some(code))
            }
            Stage::Answered(None) | Stage::Requested => {
                ledger.error(partition, records, ErrorClass::Info, None)
            }
        };
        booked.expect("one outcome for each batch");
    }

    fn poll(&mut self) {
        let partition = self.any_partition();
        let consumer = &mut self.consumers[self.rng.below(2) as usize];
        let position = &mut consumer.positions[partition.get()];
        for entry in self.broker.fetch(partition.get(), *position) {
            consumer.polls.value(partition, Offset(entry.offset), &entry.value, Nanos(self.now));
            *position = entry.offset + 1;
        }
    }

    fn ask(&mut self) {
        let partition = self.any_partition();
        let (observed, offset) = if self.rng.one_in(2) {
            (Observed::LogEnd, self.broker.log_end(partition.get()))
        } else {
            let position = self.consumers[0].positions[partition.get()];
            (Observed::Committed { group: 0 }, self.broker.committed(position))
        };
        let asked_at = Nanos(self.now);
        self.now += 1_000;
        let (at, offset) = (Nanos(self.now), Offset(offset));
        self.observations.push(Observation { partition, asked_at, at, observed, offset });
    }

    fn strike(&mut self) {
        let Some(fault) = self.scenario.fault else { return };
        let struck_at = Nanos(self.now);
        let kills_only = fault.kind == FaultKind::ProcessKill;
        if kills_only {
            self.broker.kill();
        } else {
            self.broker.cut_power();
        }
        self.now += MILLI / 2;
        for batch in std::mem::take(&mut self.in_flight) {
            // Answers that were in the socket's buffers still arrive; the connection ends for the rest.
            let arrives = matches!(batch.stage, Stage::Answered(_)) && self.rng.one_in(2);
            let stage = if arrives { batch.stage } else { Stage::Requested };
            self.settle(&Batch { stage, ..batch });
        }
        self.now += MILLI / 2;
        let silenced_at = Nanos(self.now);
        self.now += 10 * MILLI;
        let ends =
            |partition: PartitionIndex| (partition, Offset(self.broker.read_all(partition.get(), false).0));
        let recovered_ends =
            if self.rng.one_in(2) { self.layout.partitions().map(ends).collect() } else { Vec::new() };
        self.faults.push(FaultEvent {
            fault,
            struck_at,
            silenced_at,
            restored_at: Nanos(self.now),
            recovered_ends,
        });
        self.now += 1_000;
        self.reset_consumers();
    }

    /// Positions beyond the log end are out of range, and set anew.
    fn reset_consumers(&mut self) {
        for partition in self.layout.partitions() {
            let end = self.broker.read_all(partition.get(), false).0;
            for consumer in &mut self.consumers {
                let position = &mut consumer.positions[partition.get()];
                if *position > end {
                    *position = end;
                    consumer.polls.restarted(partition);
                }
            }
        }
    }

    fn finish(mut self) -> Trial {
        self.broker.catch_up();
        for batch in std::mem::take(&mut self.in_flight) {
            if matches!(batch.stage, Stage::Requested) && self.scenario.setting.acks != Acks::Zero {
                self.settle(&batch);
            }
        }
        let readers = [
            Reader { isolation: Isolation::ReadCommitted, forced_leader: None },
            Reader::FINAL,
            Reader { isolation: Isolation::ReadUncommitted, forced_leader: Some(1) },
        ];
        Trial {
            readings: readers.map(|reader| self.read(reader)).into(),
            ledger: Ledger::gather(RUN, &self.layout, self.ledgers).expect("dense producers"),
            faults: self.faults,
            polls: self.consumers.into_iter().map(|consumer| consumer.polls).collect(),
            observations: self.observations,
        }
    }

    fn read(&self, reader: Reader) -> Reading {
        let mut reading = Reading::new(reader, RUN, &self.layout);
        for partition in self.layout.partitions() {
            let (end, entries) = self.broker.read_all(partition.get(), reader.forced_leader.is_some());
            reading.bounds(partition, Offset(0), Offset(end));
            for entry in entries {
                reading.value(partition, Offset(entry.offset), &entry.value);
            }
        }
        reading
    }
}

//! What every part of a world needs: the clock, chance, the trace and the events to come.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::config::Latency;
use super::disk::{DiskId, RequestId};
use super::net::NetEvent;
use super::rng::Chance;
use super::trace::{Trace, What};
use crate::time::MonoTime;

/// One life of a node. Numbers are never used twice, so that a handle of a dead process reaches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId(pub(crate) usize);

/// Something that will happen.
pub(crate) enum Event {
    Disk { disk: DiskId, request: RequestId, attempt: u32 },
    Net(NetEvent),
    Wake(Waker),
}

struct Process {
    alive: bool,
    disk: DiskId,
}

pub(crate) struct Kernel {
    pub(crate) now: MonoTime,
    pub(crate) chance: Chance,
    trace: Trace,
    events: BTreeMap<(MonoTime, u64), Event>,
    next_event: u64,
    processes: Vec<Process>,
    /// A disk whose machine loses power as soon as the current step is over.
    pub(crate) pending_cut: Option<DiskId>,
}

impl Kernel {
    pub(crate) fn new(seed: u64, trace_events: usize) -> Self {
        Kernel {
            now: MonoTime::default(),
            chance: Chance::new(seed),
            trace: Trace::new(trace_events),
            events: BTreeMap::new(),
            next_event: 0,
            processes: Vec::new(),
            pending_cut: None,
        }
    }

    pub(crate) fn new_process(&mut self, disk: DiskId) -> ProcessId {
        self.processes.push(Process { alive: true, disk });
        ProcessId(self.processes.len() - 1)
    }

    /// Whether what the process does has an effect.
    pub(crate) fn is_alive(&self, process: ProcessId) -> bool {
        let process = &self.processes[process.0];
        process.alive && self.pending_cut != Some(process.disk)
    }

    pub(crate) fn mark_dead(&mut self, process: ProcessId) {
        self.processes[process.0].alive = false;
    }

    pub(crate) fn record(&mut self, what: What, numbers: [u64; 3]) {
        self.trace.record(self.now, &self.chance, what, numbers, None);
    }

    pub(crate) fn record_path(&mut self, what: What, numbers: [u64; 3], path: &Rc<str>) {
        self.trace.record(self.now, &self.chance, what, numbers, Some(path));
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.hash(&self.chance)
    }

    pub(crate) fn draw(&mut self, latency: Latency) -> Duration {
        if self.chance.per_mille(latency.tail_per_mille) {
            self.chance.duration_between(latency.usual, latency.tail)
        } else {
            self.chance.duration_between(latency.least, latency.usual)
        }
    }

    pub(crate) fn schedule(&mut self, at: MonoTime, event: Event) {
        let sequence = self.next_event;
        self.next_event += 1;
        self.events.insert((at, sequence), event);
    }

    pub(crate) fn schedule_in(&mut self, delay: Duration, event: Event) {
        self.schedule(self.now + delay, event);
    }

    pub(crate) fn next_event_at(&self) -> Option<MonoTime> {
        self.events.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The first event that is due.
    pub(crate) fn take_due(&mut self) -> Option<Event> {
        let entry = self.events.first_entry()?;
        (entry.key().0 <= self.now).then(|| entry.remove())
    }
}

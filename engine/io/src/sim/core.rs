//! The state of a world that the handles of its shards reach: everything but the tasks.

use std::net::IpAddr;
use std::task::Waker;
use std::time::Duration;

use super::config::{MonoOrigin, WorldConfig};
use super::disk::{DiskId, DiskState};
use super::kernel::{Event, Kernel, ProcessId};
use super::net::Net;
use crate::time::{MonoTime, WallTime};

/// The running process of a node.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    /// How far its monotonic clock is ahead of the world's.
    pub(crate) clock_ahead: Duration,
    pub(crate) stop_requested: bool,
    pub(crate) waiting_for_stop: Vec<Waker>,
    /// Set by the process itself, which ends with it.
    pub(crate) exit_code: Option<i32>,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) disk: DiskId,
    pub(crate) wall_offset_ms: i64,
    pub(crate) process: Option<Process>,
}

pub(crate) struct Core {
    pub(crate) config: WorldConfig,
    pub(crate) kernel: Kernel,
    pub(crate) nodes: Vec<Node>,
    pub(crate) disks: Vec<DiskState>,
    pub(crate) net: Net,
}

impl Core {
    pub(crate) fn new(seed: u64, config: WorldConfig) -> Self {
        Core {
            kernel: Kernel::new(seed, config.trace_events),
            net: Net::new(config.net.clone()),
            nodes: Vec::new(),
            disks: Vec::new(),
            config,
        }
    }

    pub(crate) fn new_process(&mut self, node: usize) -> ProcessId {
        let id = self.kernel.new_process(self.nodes[node].disk);
        let clock_ahead = match self.config.mono_origin {
            MonoOrigin::Shared => Duration::ZERO,
            MonoOrigin::PerProcess => Duration::from_nanos(self.kernel.chance.below(1 << 50)),
        };
        self.nodes[node].process = Some(Process {
            id,
            clock_ahead,
            stop_requested: false,
            waiting_for_stop: Vec::new(),
            exit_code: None,
        });
        id
    }

    /// The process, if it is still the one that runs on its node.
    pub(crate) fn process(&mut self, node: usize, id: ProcessId) -> Option<&mut Process> {
        if !self.kernel.is_alive(id) {
            return None;
        }
        self.nodes[node].process.as_mut().filter(|process| process.id == id)
    }

    pub(crate) fn wall_time(&self, node: usize) -> WallTime {
        let passed = (self.kernel.now.as_nanos() / 1_000_000).cast_signed();
        let offset = self.nodes[node].wall_offset_ms;
        WallTime::from_millis(self.config.epoch.as_millis() + passed + offset)
    }

    /// Lets everything happen that is due, as long as nobody loses power by it.
    pub(crate) fn fire_due(&mut self) {
        while self.kernel.pending_cut.is_none()
            && let Some(event) = self.kernel.take_due()
        {
            match event {
                Event::Disk { disk, request, attempt } => {
                    self.disks[disk.0].land(&mut self.kernel, request, attempt);
                }
                Event::Net(event) => self.net.happen(&mut self.kernel, event),
                Event::Wake(waker) => waker.wake(),
            }
        }
    }

    pub(crate) fn advance_to(&mut self, at: MonoTime) {
        self.kernel.now = self.kernel.now.max(at);
    }
}

//! A disk with its file system: names, files, and the requests that are on their way.
//!
//! A request takes effect at one moment, when it lands, and completes in that moment. Until then its order against
//! others in flight is open, readers may see parts of a write in flight, and a loss of power may keep parts of it.
//! A flush covers what had completed when it was asked for, of one file; nothing else is ever durable for certain.

mod content;
mod crash;
mod execute;
mod fault;
mod file;
mod handle;
mod names;
mod request;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub use fault::{DiskOp, Fault, FaultEffect, FaultId};
pub use handle::Disk;

pub(crate) use crash::CrashKind;
pub(crate) use names::components;
pub(crate) use request::{Action, Errno, Opened, Reply, RequestId, Slot};

use self::content::PAGE;
use self::crash::CrashPlan;
use self::fault::{Faults, Phase};
use self::file::{FileState, Sequence, WritePath};
use self::names::{InodeId, Names, ROOT};
use self::request::Request;
use super::config::{DiskConfig, Latency};
use super::kernel::{Event, Kernel, ProcessId};
use super::trace::What;
use crate::fs::{Durability, OpenOptions};

/// A disk of a [`World`](super::World).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub(crate) usize);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}", self.0)
    }
}

/// An open file description. Numbers are never used twice on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DescriptionId(u64);

struct Description {
    inode: InodeId,
    process: ProcessId,
    options: OpenOptions,
    /// Whether the process has it open; what is in flight holds it too.
    open: bool,
    in_flight: usize,
}

enum Node {
    Directory,
    File(Box<FileState>),
}

struct Inode {
    node: Node,
    /// Names that readers see.
    links: usize,
    descriptions: usize,
    locked_by: Option<DescriptionId>,
}

impl Inode {
    fn new(node: Node) -> Self {
        Inode { node, links: 0, descriptions: 0, locked_by: None }
    }

    fn is_in_use(&self) -> bool {
        self.links > 0 || self.descriptions > 0
    }

    fn allocated_pages(&self) -> u64 {
        match &self.node {
            Node::File(file) if self.is_in_use() => file.allocated_pages(),
            _ => 0,
        }
    }
}

pub(crate) struct DiskState {
    id: DiskId,
    config: DiskConfig,
    inodes: BTreeMap<InodeId, Inode>,
    names: Names,
    descriptions: BTreeMap<DescriptionId, Description>,
    requests: BTreeMap<RequestId, Request>,
    faults: Faults,
    /// Requests that would have landed while the disk was stalled.
    held: Option<Vec<RequestId>>,
    applied: Sequence,
    used_pages: u64,
    next_inode: u64,
    next_description: u64,
    next_request: u64,
    events: u64,
    cut_at_event: Option<u64>,
}

/// Numbers of requests.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) all: usize,
    /// Those that somebody still waits for.
    pub(crate) awaited: usize,
}

/// Why a request in flight will not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Kill,
    PowerLoss,
}

/// Who asks for what, and under which path.
pub(crate) struct Submission {
    pub(crate) process: ProcessId,
    pub(crate) shard: usize,
    pub(crate) path: Rc<str>,
    pub(crate) description: Option<DescriptionId>,
    pub(crate) action: Action,
}

impl DiskState {
    pub(crate) fn new(id: DiskId, config: DiskConfig) -> Self {
        assert!(
            config.direct_alignment.is_power_of_two() && (512..=4096).contains(&config.direct_alignment),
            "direct I/O is aligned to a power of two from 512 to 4096"
        );
        DiskState {
            id,
            config,
            inodes: BTreeMap::from([(ROOT, Inode { links: 1, ..Inode::new(Node::Directory) })]),
            names: Names::default(),
            descriptions: BTreeMap::new(),
            requests: BTreeMap::new(),
            faults: Faults::default(),
            held: None,
            applied: 0,
            used_pages: 0,
            next_inode: ROOT.0 + 1,
            next_description: 0,
            next_request: 0,
            events: 0,
            cut_at_event: None,
        }
    }

    /// Takes a request; its answer will be left in the slot.
    pub(crate) fn submit(&mut self, kernel: &mut Kernel, submission: Submission) -> Rc<Slot> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let (op, modifies) = (submission.action.op(), submission.action.modifies());
        kernel.record_path(What::Submit, [self.id.0 as u64, id.0, op as u64], &submission.path);
        let duration = self.duration(kernel, &submission);
        kernel.schedule_in(duration, Event::Disk { disk: self.id, request: id, attempt: 0 });
        if let Some(description) = submission.description.and_then(|id| self.descriptions.get_mut(&id)) {
            description.in_flight += 1;
        }
        let slot = Rc::new(Slot::default());
        let request = Request {
            process: submission.process,
            shard: submission.shard,
            path: submission.path,
            description: submission.description,
            action: submission.action,
            asked_after: self.applied,
            attempt: 0,
            orphan: false,
            slot: Rc::clone(&slot),
        };
        self.requests.insert(id, request);
        if modifies {
            self.count_event(kernel);
        }
        slot
    }

    fn duration(&mut self, kernel: &mut Kernel, submission: &Submission) -> Duration {
        let direct = submission.description.is_some_and(|id| self.is_direct(id));
        let mut duration = match &submission.action {
            Action::Read { .. } => kernel.draw(self.config.read),
            Action::Write { .. } if direct => kernel.draw(self.config.direct_write),
            Action::Write { .. } => kernel.draw(self.config.page_cache_write),
            Action::Flush | Action::SyncDir { .. } => kernel.draw(self.config.flush),
            _ => kernel.draw(self.config.metadata),
        };
        if matches!(submission.action, Action::Write { durability: Durability::Sync, .. }) {
            duration += kernel.draw(self.config.flush);
        }
        match self.hit(kernel, submission.action.op(), &submission.path, Phase::Begin) {
            Some(FaultEffect::Delay(delay)) => duration + delay,
            _ => duration,
        }
    }

    fn hit(&mut self, kernel: &mut Kernel, op: DiskOp, path: &Rc<str>, phase: Phase) -> Option<FaultEffect> {
        let (id, effect) =
            self.faults.hit(op, path, phase, kernel.now, |bound| kernel.chance.below(bound))?;
        kernel.record_path(What::Fault, [self.id.0 as u64, id.0, op as u64], path);
        Some(effect)
    }

    fn is_direct(&self, description: DescriptionId) -> bool {
        self.descriptions.get(&description).is_some_and(|description| description.options.direct)
    }

    fn count_event(&mut self, kernel: &mut Kernel) {
        self.events += 1;
        if self.cut_at_event == Some(self.events) {
            self.cut_at_event = None;
            kernel.pending_cut = Some(self.id);
        }
    }

    /// The time of a request has come.
    pub(crate) fn land(&mut self, kernel: &mut Kernel, id: RequestId, attempt: u32) {
        if self.requests.get(&id).is_none_or(|request| request.attempt != attempt) {
            return;
        }
        if let Some(held) = &mut self.held {
            held.push(id);
            return;
        }
        let Some(mut request) = self.requests.remove(&id) else { return };
        if request.slot.is_abandoned()
            && !request.orphan
            && !self.happens_although_abandoned(kernel, &request)
        {
            kernel.record_path(What::Discard, [self.id.0 as u64, id.0, 0], &request.path);
            self.release(request.description);
            return;
        }
        let reply = self.execute(kernel, &mut request);
        let errno = reply.as_ref().err().copied().unwrap_or(0);
        kernel.record_path(What::Complete, [self.id.0 as u64, id.0, errno as u64], &request.path);
        if request.action.modifies() {
            self.count_event(kernel);
        }
        self.release(request.description);
        if let Some(Ok(Reply::Opened(opened))) = request.slot.complete(reply) {
            self.close(opened.description);
        }
    }

    fn happens_although_abandoned(&mut self, kernel: &mut Kernel, request: &Request) -> bool {
        request.action.modifies() && kernel.chance.per_mille(750)
    }

    /// A request no longer holds its description.
    fn release(&mut self, description: Option<DescriptionId>) {
        let Some(id) = description else { return };
        if let Some(description) = self.descriptions.get_mut(&id) {
            description.in_flight -= 1;
            self.reap(id);
        }
    }

    /// The process closed the file.
    pub(crate) fn close(&mut self, id: DescriptionId) {
        if let Some(description) = self.descriptions.get_mut(&id) {
            description.open = false;
            self.reap(id);
        }
    }

    /// Frees a description, and its lock with it, once neither process nor request holds it.
    fn reap(&mut self, id: DescriptionId) {
        let Some(description) = self.descriptions.get(&id) else { return };
        if description.open || description.in_flight > 0 {
            return;
        }
        let inode = description.inode;
        self.descriptions.remove(&id);
        let used = self.inode(inode).allocated_pages();
        let entry = self.inode_mut(inode);
        entry.descriptions -= 1;
        if entry.locked_by == Some(id) {
            entry.locked_by = None;
        }
        self.used_pages -= used - self.inode(inode).allocated_pages();
        self.collect(inode);
    }

    /// Forgets an inode that nothing leads to, not even after a crash.
    fn collect(&mut self, id: InodeId) {
        if !self.inode(id).is_in_use() && !self.names.referenced().any(|referenced| referenced == id) {
            self.inodes.remove(&id);
        }
    }

    fn inode(&self, id: InodeId) -> &Inode {
        self.inodes.get(&id).expect("an inode that something refers to is there")
    }

    fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an inode that something refers to is there")
    }

    fn next_sequence(&mut self) -> Sequence {
        self.applied += 1;
        self.applied
    }

    /// The requests of a shard that have not landed.
    pub(crate) fn in_flight(&self, process: ProcessId, shard: usize) -> InFlight {
        let mut in_flight = InFlight::default();
        for request in self.requests.values() {
            if (request.process, request.shard) == (process, shard) {
                in_flight.all += 1;
                in_flight.awaited += usize::from(!request.slot.is_abandoned());
            }
        }
        in_flight
    }

    /// Paths of the requests of a process that somebody waits for.
    pub(crate) fn paths_in_flight(&self, process: ProcessId) -> Vec<String> {
        let of_process = self.requests.values().filter(|request| request.process == process);
        of_process.filter(|it| !it.slot.is_abandoned()).map(|it| it.path.to_string()).collect()
    }

    /// The process is gone. Its direct writes may still land later; everything else was done or is not.
    pub(crate) fn process_killed(&mut self, kernel: &mut Kernel, process: ProcessId) {
        for id in self.requests_of(process) {
            if self.becomes_orphan(kernel, id) {
                continue;
            }
            let Some(mut request) = self.requests.remove(&id) else { continue };
            if request.action.modifies() && kernel.chance.coin() {
                self.interrupt(kernel, &mut request, Interruption::Kill);
            }
            kernel.record_path(What::Discard, [self.id.0 as u64, id.0, 1], &request.path);
            self.release(request.description);
        }
        self.process_ended(process);
    }

    fn requests_of(&self, process: ProcessId) -> Vec<RequestId> {
        let of_process = self.requests.iter().filter(|(_, request)| request.process == process);
        of_process.map(|(&id, _)| id).collect()
    }

    fn becomes_orphan(&mut self, kernel: &mut Kernel, id: RequestId) -> bool {
        let request = &self.requests[&id];
        let direct = request.description.is_some_and(|id| self.is_direct(id));
        if !direct || !matches!(request.action, Action::Write { .. }) || !kernel.chance.per_mille(750) {
            return false;
        }
        let request = self.requests.get_mut(&id).expect("the request was just seen");
        request.orphan = true;
        kernel.record_path(What::Orphan, [self.id.0 as u64, id.0, request.process.0 as u64], &request.path);
        if !self.held.as_ref().is_some_and(|held| held.contains(&id)) {
            self.postpone(kernel, id, self.config.orphan);
        }
        true
    }

    /// Lets a request land at another time than it would have.
    fn postpone(&mut self, kernel: &mut Kernel, id: RequestId, latency: Latency) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.attempt += 1;
        let lands_at = kernel.now + kernel.draw(latency);
        kernel.schedule(lands_at, Event::Disk { disk: self.id, request: id, attempt: request.attempt });
    }

    /// The process has ended, one way or the other: its files are closed.
    pub(crate) fn process_ended(&mut self, process: ProcessId) {
        let of_process = self.descriptions.iter().filter(|(_, description)| description.process == process);
        let ids: Vec<DescriptionId> = of_process.map(|(&id, _)| id).collect();
        ids.into_iter().for_each(|id| self.close(id));
    }

    /// The machine goes down with everything that is not on the medium, or at least in the device.
    pub(crate) fn crash(&mut self, kernel: &mut Kernel, kind: CrashKind) {
        self.held = self.held.take().map(|_| Vec::new());
        for mut request in std::mem::take(&mut self.requests).into_values() {
            if request.action.modifies() && kernel.chance.coin() {
                self.interrupt(kernel, &mut request, Interruption::PowerLoss);
            }
        }
        let names = self.names.unsynced_count() as u64;
        let files = self.inodes.values().filter_map(|inode| match &inode.node {
            Node::File(file) => file.first_unflushed(),
            Node::Directory => None,
        });
        let first = files.chain(self.names.first_unsynced()).min().unwrap_or(self.applied);
        let mut plan = CrashPlan::new(kind, &self.config, &mut kernel.chance, first..self.applied);
        self.names.crash(&mut plan);
        for inode in self.inodes.values_mut() {
            if let Node::File(file) = &mut inode.node {
                file.crash(&mut plan);
            }
        }
        let (versions, kept) = (plan.versions, plan.kept);
        kernel.record(What::Crash, [self.id.0 as u64, versions + names, kept]);
        self.recount();
    }

    /// A request whose process or machine goes down is done, or done in part.
    fn interrupt(&mut self, kernel: &mut Kernel, request: &mut Request, by: Interruption) {
        match (&request.action, request.description) {
            (Action::Write { data, position, .. }, Some(id)) => {
                let Some(description) = self.descriptions.get(&id) else { return };
                let inode = description.inode;
                let path = match (description.options.direct, by) {
                    (false, _) => WritePath::PageCache,
                    (true, Interruption::Kill) => WritePath::Direct,
                    (true, Interruption::PowerLoss) => WritePath::Interrupted,
                };
                // What a loss of power leaves of it is decided with the rest of what was not durable.
                let whole = by == Interruption::PowerLoss || kernel.chance.coin();
                let data = if whole { data.clone() } else { execute::beginning(kernel, data) };
                self.apply_write(inode, *position, &data, path);
            }
            (Action::Flush | Action::SyncDir { .. }, _) if by == Interruption::PowerLoss => {}
            _ => drop(self.execute(kernel, request)),
        }
    }

    /// Takes stock after a crash: only what the names lead to is left, and nothing is open.
    fn recount(&mut self) {
        self.descriptions.clear();
        let mut links: BTreeMap<InodeId, usize> = BTreeMap::from([(ROOT, 1)]);
        for &inode in self.names.live().values() {
            *links.entry(inode).or_default() += 1;
        }
        self.inodes.retain(|id, _| links.contains_key(id));
        for (id, inode) in &mut self.inodes {
            inode.links = links[id];
            inode.descriptions = 0;
            inode.locked_by = None;
        }
        self.used_pages = self.inodes.values().map(Inode::allocated_pages).sum();
    }

    pub(crate) fn stall(&mut self) {
        self.held.get_or_insert_default();
    }

    pub(crate) fn resume(&mut self, kernel: &mut Kernel) {
        for id in self.held.take().unwrap_or_default() {
            self.postpone(kernel, id, Latency::micros(1, 200, 5_000));
        }
    }

    fn available_pages(&self) -> u64 {
        (self.config.capacity_bytes / PAGE).saturating_sub(self.used_pages)
    }
}

/// A path as it is shown in traces and matched by faults: from the root.
pub(crate) fn display_path(path: &Path) -> Rc<str> {
    let mut text = String::new();
    for name in components(path) {
        text.push('/');
        text.push_str(&name);
    }
    if text.is_empty() { Rc::from("/") } else { Rc::from(text) }
}

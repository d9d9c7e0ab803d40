//! A world: its nodes, and the loop that lets one thing after another happen.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::config::{DiskConfig, Latency, WorldConfig};
use super::core::{Core, Node};
use super::disk::{CrashKind, Disk, DiskId, DiskState};
use super::driver::{Driver, ExitNow};
use super::error::{RunError, RunFailure};
use super::kernel::ProcessId;
use super::net::{ConnectionId, ConnectionInfo};
use super::ready::{Order, Ready, ReadyList, ShardSink};
use super::trace::What;
use crate::exec::{self, Executor};
use crate::runtime::{self, Io, ShardIndex};
use crate::time::{MonoTime, WallTime};

/// A node of a [`World`]: a machine with an address and a disk, on which a process of one or more shards may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// How a node's last process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The main of each shard returned.
    Returned,
    /// [`World::kill`].
    Killed,
    /// [`World::power_cut`], or a cut at an event of its disk.
    PowerCut,
    /// [`World::os_crash`].
    OsCrash,
    /// It called [`Io::exit_now`] with this code.
    Exited(i32),
    /// A task panicked.
    Panicked,
}

/// Whether a process runs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    /// None ever did.
    NeverStarted,
    /// One does.
    Up,
    /// The last one ended.
    Down(Exit),
}

enum Phase {
    Running,
    /// Its main returned and its tasks are gone; what they had asked of the disk has not all landed.
    Draining,
    Ended,
}

struct Shard {
    io: Io,
    main_returned: Rc<Cell<bool>>,
    phase: Phase,
}

struct Running {
    process: ProcessId,
    clock_ahead: Duration,
    shards: Vec<Shard>,
}

/// The part of a node that is not reached from within: its tasks.
struct Host {
    status: NodeStatus,
    running: Option<Running>,
    /// Ready tasks of a paused node.
    paused: Option<Vec<Ready>>,
}

/// Nodes, disks and a network, all on this thread, with everything that is left to chance decided by one seed.
///
/// See the [module](super) for an example.
pub struct World {
    seed: u64,
    core: Rc<RefCell<Core>>,
    ready: Arc<ReadyList>,
    order: Order,
    hosts: Vec<Host>,
    steps: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("now", &self.now()).finish_non_exhaustive()
    }
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, config: WorldConfig) -> Self {
        World {
            seed,
            core: Rc::new(RefCell::new(Core::new(seed, config))),
            ready: Arc::default(),
            order: Order::default(),
            hosts: Vec::new(),
            steps: 0,
        }
    }

    /// Adds an empty disk as [`WorldConfig::disk`] describes.
    pub fn add_disk(&mut self) -> DiskId {
        let config = self.core.borrow().config.disk.clone();
        self.add_disk_with(config)
    }

    /// Adds an empty disk.
    pub fn add_disk_with(&mut self, config: DiskConfig) -> DiskId {
        let mut core = self.core.borrow_mut();
        let id = DiskId(core.disks.len());
        core.disks.push(DiskState::new(id, config));
        id
    }

    /// Adds a node with a disk of its own.
    pub fn add_node(&mut self, name: &str) -> NodeId {
        let disk = self.add_disk();
        self.add_node_on(name, disk)
    }

    /// Adds a node on a disk. Nodes that share one are processes of one machine: they see each other's files and
    /// lose power together.
    pub fn add_node_on(&mut self, name: &str, disk: DiskId) -> NodeId {
        let core = &mut *self.core.borrow_mut();
        let skew = i64::try_from(core.config.wall_skew.as_millis()).unwrap_or(i64::MAX / 4);
        let wall_offset_ms = core.kernel.chance.between(0, 2 * skew.unsigned_abs()).cast_signed() - skew;
        let address = core.net.add_machine();
        core.nodes.push(Node { name: name.to_owned(), address, disk, wall_offset_ms, process: None });
        self.hosts.push(Host { status: NodeStatus::NeverStarted, running: None, paused: None });
        NodeId(self.hosts.len() - 1)
    }

    // Looking.

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time since the beginning of the world.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.core.borrow().kernel.now
    }

    /// A hash over everything that happened and every number that was drawn. Equal for equal seeds, configurations
    /// and programs.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core.borrow().kernel.trace_hash()
    }

    /// The state of the nodes and the last events, in words.
    #[must_use]
    pub fn dump_trace(&self) -> String {
        let core = self.core.borrow();
        let mut text = String::new();
        for (node, host) in core.nodes.iter().zip(&self.hosts) {
            text.push_str(&format!("{} ({}): {:?}", node.name, node.address, host.status));
            if let Some(running) = &host.running {
                let tasks = running.shards.iter().map(|shard| shard.io.executor().live_tasks());
                text.push_str(&format!(", tasks a shard: {:?}", tasks.collect::<Vec<_>>()));
            }
            text.push('\n');
        }
        text + &core.kernel.trace().to_string()
    }

    /// Address of a node.
    #[must_use]
    pub fn address(&self, node: NodeId) -> IpAddr {
        self.core.borrow().nodes[node.0].address
    }

    /// Whether a process runs on a node, and how the last one ended.
    #[must_use]
    pub fn status(&self, node: NodeId) -> NodeStatus {
        self.hosts[node.0].status
    }

    /// Whether a process runs on a node.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.status(node) == NodeStatus::Up
    }

    /// How many tasks of the process on a node have not finished, on all of its shards.
    #[must_use]
    pub fn live_tasks(&self, node: NodeId) -> usize {
        let running = self.hosts[node.0].running.iter();
        running.flat_map(|running| &running.shards).map(|shard| shard.io.executor().live_tasks()).sum()
    }

    /// A disk, to look into it or to make it misbehave.
    #[must_use]
    pub fn disk(&self, id: DiskId) -> Disk {
        Disk::new(Rc::clone(&self.core), id)
    }

    /// The disk of a node.
    #[must_use]
    pub fn disk_of(&self, node: NodeId) -> Disk {
        self.disk(self.core.borrow().nodes[node.0].disk)
    }

    /// Connections that are not over.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.core.borrow().net.connections()
    }

    // Running.

    /// Starts a process on a node: one shard for each of `states`, each running `main` with its state. As
    /// [`runtime::Runtime::start`], except that nothing need be `Send`.
    ///
    /// # Panics
    /// If a process runs on the node.
    pub fn start<S, F, Fut>(&mut self, node: NodeId, states: Vec<S>, main: F)
    where
        S: 'static,
        F: Fn(Io, S) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        assert!(!self.is_up(node), "{node} runs already");
        let process = self.new_process(node, states.len());
        let main = Rc::new(main);
        let shards = states.into_iter().enumerate().map(|(index, state)| {
            let io = self.new_io(node, process, index);
            let main_returned = Rc::new(Cell::new(false));
            let (main, returned, handle) = (Rc::clone(&main), Rc::clone(&main_returned), io.clone());
            io.spawn(async move {
                main(handle, state).await;
                returned.set(true);
            })
            .detach();
            Shard { io, main_returned, phase: Phase::Running }
        });
        let shards = shards.collect();
        let core = self.core.borrow();
        let clock_ahead = core.nodes[node.0].process.as_ref().map_or(Duration::ZERO, |it| it.clock_ahead);
        let host = &mut self.hosts[node.0];
        host.running = Some(Running { process, clock_ahead, shards });
        host.status = NodeStatus::Up;
        host.paused = None;
    }

    fn new_process(&mut self, node: NodeId, shards: usize) -> ProcessId {
        let core = &mut *self.core.borrow_mut();
        let process = core.new_process(node.0);
        core.kernel.record(What::Start, [node.0 as u64, process.0 as u64, shards as u64]);
        core.net.machine_up(&mut core.kernel, node.0);
        process
    }

    fn new_io(&self, node: NodeId, process: ProcessId, shard: usize) -> Io {
        let sink = ShardSink { list: Arc::clone(&self.ready), process, shard };
        let driver = Driver::new(&self.core, node.0, process, shard);
        let seed = self.core.borrow_mut().kernel.chance.seed();
        Io::new(
            ShardIndex(shard),
            Executor::new(Arc::new(sink)),
            Rc::default(),
            runtime::Driver::Sim(driver),
            seed,
        )
    }

    /// Runs until no process runs on any node.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run(&mut self) -> Result<(), RunError> {
        self.run_until(|world| world.hosts.iter().all(|host| host.running.is_none()))
    }

    /// Runs until `condition` holds, looking after each step.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run_until(&mut self, mut condition: impl FnMut(&World) -> bool) -> Result<(), RunError> {
        while !condition(self) {
            if !self.step(None)? && !condition(self) {
                return Err(self.error(RunFailure::Stalled));
            }
        }
        Ok(())
    }

    /// Runs for `duration` of virtual time. That nothing happens is no error.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run_for(&mut self, duration: Duration) -> Result<(), RunError> {
        let deadline = self.now() + duration;
        while self.now() < deadline {
            if !self.step(Some(deadline))? {
                self.core.borrow_mut().advance_to(deadline);
            }
        }
        Ok(())
    }

    /// Lets something happen. `Ok(false)` if nothing ever will, or not before `deadline`.
    fn step(&mut self, deadline: Option<MonoTime>) -> Result<bool, RunError> {
        self.steps += 1;
        self.check_budget()?;
        self.core.borrow_mut().fire_due();
        if self.cut_if_asked() {
            return Ok(true);
        }
        self.expire_timers();
        self.end_drained()?;
        if let Some(ready) = self.choose() {
            return self.poll(ready).map(|()| true);
        }
        let next = self.next_moment();
        let in_time = next.filter(|&next| deadline.is_none_or(|deadline| next <= deadline));
        if let Some(next) = in_time {
            self.core.borrow_mut().advance_to(next);
        }
        Ok(in_time.is_some())
    }

    fn check_budget(&self) -> Result<(), RunError> {
        let core = self.core.borrow();
        let over = self.steps > core.config.max_steps
            || core.kernel.now > MonoTime::default() + core.config.max_time;
        drop(core);
        if over { Err(self.error(RunFailure::Endless)) } else { Ok(()) }
    }

    fn error(&self, failure: RunFailure) -> RunError {
        RunError { failure, seed: self.seed, at: self.now(), trace: self.dump_trace() }
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        let awake = self.hosts.iter().filter(|host| host.paused.is_none());
        awake.filter_map(|host| host.running.as_ref())
    }

    fn expire_timers(&mut self) {
        let now = self.now();
        let mut expired = Vec::new();
        for running in self.running() {
            for (index, shard) in running.shards.iter().enumerate() {
                let wakers = shard.io.timers().borrow_mut().expire(now + running.clock_ahead);
                if !wakers.is_empty() {
                    expired.push(([running.process.0 as u64, index as u64, wakers.len() as u64], wakers));
                }
            }
        }
        for (numbers, wakers) in expired {
            self.core.borrow_mut().kernel.record(What::Timers, numbers);
            wakers.into_iter().for_each(std::task::Waker::wake);
        }
    }

    /// When something happens next, if nothing is ready.
    fn next_moment(&self) -> Option<MonoTime> {
        let timers = self.running().flat_map(|running| {
            let deadlines =
                running.shards.iter().filter_map(|shard| shard.io.timers().borrow().next_deadline());
            deadlines.map(|at| MonoTime::default() + at.since(MonoTime::default() + running.clock_ahead))
        });
        let event = self.core.borrow().kernel.next_event_at();
        timers.chain(event).min()
    }

    fn choose(&mut self) -> Option<Ready> {
        for host in &mut self.hosts {
            if let (Some(paused), Some(running)) = (&mut host.paused, &host.running) {
                paused.extend(self.ready.take(|ready| ready.process == running.process));
            }
        }
        let core = &mut *self.core.borrow_mut();
        let (ready, count) = self.ready.choose(&mut self.order, &mut core.kernel.chance)?;
        let numbers = [ready.process.0 as u64, ready.shard as u64, count as u64];
        core.kernel.record(What::Poll, numbers);
        Some(ready)
    }

    fn poll(&mut self, ready: Ready) -> Result<(), RunError> {
        let Some(node) = self.node_of(ready.process) else {
            // A task of a dead process that somebody held on to.
            drop(ready);
            return Ok(());
        };
        let shard = ready.shard;
        let result = exec::run(ready.runnable);
        {
            let core = &mut *self.core.borrow_mut();
            let cost = core.kernel.draw(core.config.poll);
            core.advance_to(core.kernel.now + cost);
        }
        if self.cut_if_asked() {
            return Ok(());
        }
        match result {
            Err(payload) => self.task_panicked(node, &*payload),
            Ok(()) => self.end_shard_if_returned(node, shard),
        }
    }

    fn node_of(&self, process: ProcessId) -> Option<NodeId> {
        let runs = |host: &Host| host.running.as_ref().is_some_and(|running| running.process == process);
        self.hosts.iter().position(runs).map(NodeId)
    }

    fn task_panicked(&mut self, node: NodeId, payload: &(dyn std::any::Any + Send)) -> Result<(), RunError> {
        if payload.is::<ExitNow>() {
            let code = self.core.borrow().nodes[node.0].process.as_ref().and_then(|it| it.exit_code);
            self.end_abruptly(node, Exit::Exited(code.unwrap_or_default()));
            return Ok(());
        }
        let message = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_else(|| "a value that is no message".to_owned());
        self.end_abruptly(node, Exit::Panicked);
        Err(self.error(RunFailure::Panicked { node, message }))
    }

    // Ending.

    fn end_shard_if_returned(&mut self, node: NodeId, shard: usize) -> Result<(), RunError> {
        let Some(running) = &mut self.hosts[node.0].running else { return Ok(()) };
        let process = running.process;
        let ending = &mut running.shards[shard];
        if !matches!(ending.phase, Phase::Running) || !ending.main_returned.get() {
            return Ok(());
        }
        ending.phase = Phase::Draining;
        let numbers = [process.0 as u64, shard as u64, 0];
        self.core.borrow_mut().kernel.record(What::MainReturned, numbers);
        let io = ending.io.clone();
        io.executor().wake_all();
        let ready = Arc::clone(&self.ready);
        let dropped = drop_tasks(&ready, |ready| ready.process == process && ready.shard == shard);
        if self.cut_if_asked() {
            return Ok(());
        }
        dropped.or_else(|payload| self.task_panicked(node, &*payload))
    }

    fn end_drained(&mut self) -> Result<(), RunError> {
        for node in 0..self.hosts.len() {
            self.end_drained_shards(NodeId(node))?;
        }
        Ok(())
    }

    fn end_drained_shards(&mut self, node: NodeId) -> Result<(), RunError> {
        let Some(running) = &mut self.hosts[node.0].running else { return Ok(()) };
        let process = running.process;
        let core = self.core.borrow();
        let disk = &core.disks[core.nodes[node.0].disk.0];
        let mut awaited = 0;
        for (index, shard) in running.shards.iter_mut().enumerate() {
            if matches!(shard.phase, Phase::Draining) {
                let in_flight = disk.in_flight(process, index);
                awaited += in_flight.awaited;
                if in_flight.all == 0 {
                    shard.phase = Phase::Ended;
                }
            }
        }
        if awaited > 0 {
            let paths = disk.paths_in_flight(process);
            drop(core);
            return Err(self.error(RunFailure::InFlight { node, paths }));
        }
        drop(core);
        if running.shards.iter().all(|shard| matches!(shard.phase, Phase::Ended)) {
            self.end_cleanly(node);
        }
        Ok(())
    }

    fn end_cleanly(&mut self, node: NodeId) {
        let core = &mut *self.core.borrow_mut();
        let host = &mut self.hosts[node.0];
        let Some(running) = host.running.take() else { return };
        core.disks[core.nodes[node.0].disk.0].process_ended(running.process);
        core.net.process_ended(&mut core.kernel, running.process, 0);
        core.kernel.mark_dead(running.process);
        core.nodes[node.0].process = None;
        core.kernel.record(What::End, [node.0 as u64, running.process.0 as u64, 0]);
        host.status = NodeStatus::Down(Exit::Returned);
    }

    /// The process dies where it stands; page cache and device go on.
    fn end_abruptly(&mut self, node: NodeId, exit: Exit) {
        let Some(running) = self.take_running(node, exit) else { return };
        {
            let core = &mut *self.core.borrow_mut();
            let silent = core.net.silent_kill_per_mille();
            core.disks[core.nodes[node.0].disk.0].process_killed(&mut core.kernel, running.process);
            core.net.process_ended(&mut core.kernel, running.process, silent);
        }
        self.bury(node, running);
    }

    fn take_running(&mut self, node: NodeId, exit: Exit) -> Option<Running> {
        let host = &mut self.hosts[node.0];
        let running = host.running.take()?;
        host.status = NodeStatus::Down(exit);
        let kernel = &mut self.core.borrow_mut().kernel;
        kernel.mark_dead(running.process);
        kernel.record(What::End, [node.0 as u64, running.process.0 as u64, 1]);
        Some(running)
    }

    /// Drops the tasks of a dead process. What their destructors do has no effect.
    fn bury(&mut self, node: NodeId, running: Running) {
        self.ready.put_back(self.hosts[node.0].paused.take().unwrap_or_default());
        for shard in &running.shards {
            shard.io.executor().wake_all();
        }
        // A real process that is killed runs no destructors, so that a panic in one means nothing.
        while drop_tasks(&self.ready, |ready| ready.process == running.process).is_err() {}
        drop(running);
        self.core.borrow_mut().nodes[node.0].process = None;
    }

    /// Kills the process (`SIGKILL`). What it had written is in the page cache or the device; its direct writes in
    /// flight may land at any later time, and hold its locks until then.
    pub fn kill(&mut self, node: NodeId) {
        self.end_abruptly(node, Exit::Killed);
    }

    /// The machine loses power, whether a process runs or not: page cache and device cache are gone, except what
    /// chance had written back. All nodes on its disk go down.
    pub fn power_cut(&mut self, node: NodeId) {
        let disk = self.core.borrow().nodes[node.0].disk;
        self.crash(disk, CrashKind::PowerCut, Exit::PowerCut);
    }

    /// The operating system crashes: the page cache is gone, the device keeps what it has. All nodes on the disk go
    /// down.
    pub fn os_crash(&mut self, node: NodeId) {
        let disk = self.core.borrow().nodes[node.0].disk;
        self.crash(disk, CrashKind::OsCrash, Exit::OsCrash);
    }

    fn cut_if_asked(&mut self) -> bool {
        let cut = self.core.borrow_mut().kernel.pending_cut.take();
        if let Some(disk) = cut {
            self.crash(disk, CrashKind::PowerCut, Exit::PowerCut);
        }
        cut.is_some()
    }

    fn crash(&mut self, disk: DiskId, kind: CrashKind, exit: Exit) {
        let nodes: Vec<NodeId> = (0..self.hosts.len())
            .filter(|&node| self.core.borrow().nodes[node].disk == disk)
            .map(NodeId)
            .collect();
        let dead: Vec<(NodeId, Running)> =
            nodes.iter().filter_map(|&node| Some((node, self.take_running(node, exit)?))).collect();
        {
            let core = &mut *self.core.borrow_mut();
            core.disks[disk.0].crash(&mut core.kernel, kind);
            for node in nodes {
                core.net.machine_down(&mut core.kernel, node.0);
            }
        }
        for (node, running) in dead {
            self.bury(node, running);
        }
    }

    /// Kills every process, and counts what still holds on to this world: handles that a caller keeps, and those that
    /// dead processes left in cycles of their own making, which keep this world and its disks in memory.
    pub fn kill_all(&mut self) -> usize {
        for node in 0..self.hosts.len() {
            self.kill(NodeId(node));
        }
        Rc::strong_count(&self.core) - 1
    }

    /// Asks the process to stop: [`Io::stop_requested`] resolves.
    pub fn stop(&mut self, node: NodeId) {
        let core = &mut *self.core.borrow_mut();
        core.kernel.record(What::Stop, [node.0 as u64, 0, 0]);
        if let Some(process) = &mut core.nodes[node.0].process {
            process.stop_requested = true;
            std::mem::take(&mut process.waiting_for_stop).into_iter().for_each(std::task::Waker::wake);
        }
    }

    /// The process does nothing any more (`SIGSTOP`) until [`resume`](Self::resume); what it had asked for happens.
    pub fn pause(&mut self, node: NodeId) {
        self.core.borrow_mut().kernel.record(What::Pause, [node.0 as u64, 0, 0]);
        if self.is_up(node) {
            self.hosts[node.0].paused.get_or_insert_default();
        }
    }

    /// The process goes on (`SIGCONT`).
    pub fn resume(&mut self, node: NodeId) {
        self.core.borrow_mut().kernel.record(What::Resume, [node.0 as u64, 0, 0]);
        if let Some(tasks) = self.hosts[node.0].paused.take() {
            self.ready.put_back(tasks);
        }
    }

    // Clocks.

    /// Wall clock time of a node.
    #[must_use]
    pub fn wall_time(&self, node: NodeId) -> WallTime {
        self.core.borrow().wall_time(node.0)
    }

    /// Moves a node's wall clock by `millis`, either way.
    pub fn jump_wall_clock(&mut self, node: NodeId, millis: i64) {
        let core = &mut *self.core.borrow_mut();
        core.kernel.record(What::WallClock, [node.0 as u64, millis.cast_unsigned(), 0]);
        core.nodes[node.0].wall_offset_ms += millis;
    }

    // The network.

    /// Nothing passes between two nodes any more, either way; streams stall.
    pub fn partition(&mut self, a: NodeId, b: NodeId) {
        self.block(a, b);
        self.block(b, a);
    }

    /// Nothing passes from one node to another any more; the other way is left as it is.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        let core = &mut *self.core.borrow_mut();
        core.net.block(&mut core.kernel, from.0, to.0);
    }

    /// Lets everything pass between two nodes again, what was held back first.
    pub fn heal(&mut self, a: NodeId, b: NodeId) {
        self.unblock(a, b);
        self.unblock(b, a);
    }

    /// Lets everything pass from one node to another again, what was held back first.
    pub fn unblock(&mut self, from: NodeId, to: NodeId) {
        let core = &mut *self.core.borrow_mut();
        core.net.unblock(&mut core.kernel, from.0, to.0);
    }

    /// Lifts all partitions.
    pub fn heal_all(&mut self) {
        for from in 0..self.hosts.len() {
            (0..self.hosts.len()).for_each(|to| self.unblock(NodeId(from), NodeId(to)));
        }
    }

    /// How long it takes from one node to another; `None` is what [`NetConfig`](super::NetConfig) says.
    pub fn set_link_latency(&mut self, from: NodeId, to: NodeId, latency: Option<Latency>) {
        self.core.borrow_mut().net.set_latency(from.0, to.0, latency);
    }

    /// Resets a connection: both ends see it at once.
    pub fn reset_connection(&mut self, id: ConnectionId) {
        let core = &mut *self.core.borrow_mut();
        core.net.cut(&mut core.kernel, id);
    }
}

/// Drops ready tasks that match, and those that become ready by it.
fn drop_tasks(
    list: &ReadyList,
    matches: impl Fn(&Ready) -> bool,
) -> Result<(), Box<dyn std::any::Any + Send>> {
    loop {
        let tasks = list.take(&matches);
        if tasks.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        for task in tasks {
            result = result.and(catch_unwind(AssertUnwindSafe(|| drop(task))));
        }
        result?;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} at {} ns\n{}", self.seed, self.now().as_nanos(), self.dump_trace());
        }
        self.kill_all();
    }
}

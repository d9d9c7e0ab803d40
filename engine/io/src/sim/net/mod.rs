//! The network: streams between nodes, listeners, and links that can be blocked one way.
//!
//! Streams behave as TCP does to those who use it: bytes arrive in order or not at all, in pieces of any size; a
//! receiver that does not receive stops the sender; who closes with bytes unread, or has no socket for what arrives,
//! answers with a reset. A blocked link holds everything back, as retransmission would, until it is unblocked. A
//! machine that lost power says nothing until it runs again, and then resets what it does not know.

mod pipe;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use self::pipe::{Packet, Pipe};
use super::config::{Latency, NetConfig};
use super::disk::Errno;
use super::kernel::{Event, Kernel, ProcessId};
use super::trace::What;
use crate::net::ListenOptions;

/// A connection of a [`World`](super::World).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListenerId(u64);

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// Something that travels, or a clock that runs out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NetEvent {
    Syn(ConnectionId),
    SynAck(ConnectionId),
    Refuse(ConnectionId),
    /// The first packet of the pipe that begins at this side.
    Deliver(ConnectionId, Side),
    /// A reset for this side.
    Reset(ConnectionId, Side),
    ConnectTimeout(ConnectionId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    Closed,
    /// Its process or machine went without a word.
    Gone,
}

struct End {
    node: usize,
    process: Option<ProcessId>,
    address: SocketAddr,
    life: Life,
    /// [`TcpStream::shutdown`](crate::net::TcpStream::shutdown) was called.
    shut: bool,
    reset: bool,
    /// Something was sent to it after it was gone, and the sender repeats it.
    missed: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
    /// Waits for the end of what comes.
    watcher: Option<Waker>,
}

impl End {
    fn new(node: usize, process: Option<ProcessId>, address: SocketAddr) -> Self {
        End {
            node,
            process,
            address,
            life: Life::Open,
            shut: false,
            reset: false,
            missed: false,
            receiver: None,
            sender: None,
            watcher: None,
        }
    }

    fn wake(&mut self) {
        for waker in [self.receiver.take(), self.sender.take(), self.watcher.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

enum Handshake {
    Connecting(Option<Waker>),
    Done,
    Failed(Errno),
}

struct Connection {
    handshake: Handshake,
    ends: [End; 2],
    /// The pipe that begins at each side.
    pipes: [Pipe; 2],
}

impl Connection {
    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    fn link(&self, from: Side) -> (usize, usize) {
        (self.ends[from as usize].node, self.ends[from.other() as usize].node)
    }

    fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.life != Life::Open)
    }
}

struct Listener {
    node: usize,
    process: ProcessId,
    address: SocketAddr,
    options: ListenOptions,
    backlog: VecDeque<ConnectionId>,
    acceptor: Option<Waker>,
}

#[derive(Default)]
struct Link {
    blocked: bool,
    latency: Option<Latency>,
    held: Vec<NetEvent>,
}

struct Machine {
    address: Ipv4Addr,
    up: bool,
}

/// A connection that is not over, as [`World::connections`](super::World::connections) lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Names it.
    pub id: ConnectionId,
    /// Address of the end that connected.
    pub client: SocketAddr,
    /// Address of the end that accepted.
    pub server: SocketAddr,
}

pub(crate) struct Net {
    config: NetConfig,
    machines: Vec<Machine>,
    links: BTreeMap<(usize, usize), Link>,
    listeners: BTreeMap<ListenerId, Listener>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_id: u64,
    next_port: u16,
}

const FIRST_FREE_PORT: u16 = 32_768;

impl Net {
    pub(crate) fn new(config: NetConfig) -> Self {
        Net {
            config,
            machines: Vec::new(),
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_id: 0,
            next_port: FIRST_FREE_PORT,
        }
    }

    /// Adds a machine and gives it an address.
    pub(crate) fn add_machine(&mut self) -> IpAddr {
        let number = u16::try_from(self.machines.len() + 1).expect("a world has at most 65,535 nodes");
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 0, high, low);
        self.machines.push(Machine { address, up: true });
        IpAddr::V4(address)
    }

    /// Most bytes that one receive gives.
    pub(crate) fn recv_buffer_bytes(&self) -> usize {
        self.config.recv_buffer_bytes
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            let taken = self.listeners.values().any(|listener| listener.address.port() == port);
            if !taken {
                return port;
            }
        }
    }

    fn is_local(&self, node: usize, address: IpAddr) -> bool {
        address.is_unspecified() || address.is_loopback() || address == self.machines[node].address
    }

    fn node_at(&self, from: usize, address: IpAddr) -> Option<usize> {
        if self.is_local(from, address) {
            return Some(from);
        }
        self.machines.iter().position(|machine| address == machine.address)
    }

    fn latency(&mut self, kernel: &mut Kernel, link: (usize, usize)) -> Duration {
        let usual = if link.0 == link.1 { self.config.loopback } else { self.config.latency };
        let latency = self.links.get(&link).and_then(|link| link.latency).unwrap_or(usual);
        kernel.draw(latency)
    }

    fn travel(&mut self, kernel: &mut Kernel, link: (usize, usize), event: NetEvent) {
        let latency = self.latency(kernel, link);
        kernel.schedule_in(latency, Event::Net(event));
    }

    // Listening.

    pub(crate) fn listen(
        &mut self,
        node: usize,
        process: ProcessId,
        address: SocketAddr,
        options: ListenOptions,
    ) -> Result<(ListenerId, SocketAddr), Errno> {
        if !self.is_local(node, address.ip()) {
            return Err(libc::EADDRNOTAVAIL);
        }
        let port = if address.port() == 0 { self.free_port() } else { address.port() };
        let address = SocketAddr::new(address.ip(), port);
        let clashes = self.listeners.values().any(|other| {
            other.node == node
                && other.address.port() == port
                && (other.address.ip() == address.ip()
                    || other.address.ip().is_unspecified()
                    || address.ip().is_unspecified())
                && !(other.options.reuse_port && options.reuse_port && other.process == process)
        });
        if clashes {
            return Err(libc::EADDRINUSE);
        }
        let id = ListenerId(self.new_id());
        let listener = Listener { node, process, address, options, backlog: VecDeque::new(), acceptor: None };
        self.listeners.insert(id, listener);
        Ok((id, address))
    }

    pub(crate) fn poll_accept(
        &mut self,
        id: ListenerId,
        cx: &mut Context<'_>,
    ) -> Poll<(ConnectionId, SocketAddr, SocketAddr)> {
        let Some(listener) = self.listeners.get_mut(&id) else { return Poll::Pending };
        while let Some(connection) = listener.backlog.pop_front() {
            if let Some(found) = self.connections.get(&connection) {
                return Poll::Ready((connection, found.ends[1].address, found.ends[0].address));
            }
        }
        listener.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn close_listener(&mut self, kernel: &mut Kernel, id: ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        for connection in listener.backlog {
            self.abort(kernel, connection, Side::Server);
        }
    }

    // Connecting.

    pub(crate) fn connect(
        &mut self,
        kernel: &mut Kernel,
        node: usize,
        process: ProcessId,
        to: SocketAddr,
    ) -> Result<(ConnectionId, SocketAddr), Errno> {
        let target = self.node_at(node, to.ip()).ok_or(libc::ENETUNREACH)?;
        let loopback = to.ip().is_loopback() || to.ip().is_unspecified();
        let own = if loopback { to.ip() } else { IpAddr::V4(self.machines[node].address) };
        let own = SocketAddr::new(own, self.free_port());
        let id = ConnectionId(self.new_id());
        let connection = Connection {
            handshake: Handshake::Connecting(None),
            ends: [End::new(node, Some(process), own), End::new(target, None, to)],
            pipes: Default::default(),
        };
        self.connections.insert(id, connection);
        kernel.record(What::Connect, [id.0, node as u64, target as u64]);
        self.travel(kernel, (node, target), NetEvent::Syn(id));
        kernel.schedule_in(self.config.connect_timeout, Event::Net(NetEvent::ConnectTimeout(id)));
        Ok((id, own))
    }

    pub(crate) fn poll_connected(
        &mut self,
        id: ConnectionId,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Errno>> {
        let Some(connection) = self.connections.get_mut(&id) else { return Poll::Pending };
        match &mut connection.handshake {
            Handshake::Connecting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Handshake::Done => Poll::Ready(Ok(())),
            Handshake::Failed(errno) => Poll::Ready(Err(*errno)),
        }
    }

    fn finish_handshake(&mut self, id: ConnectionId, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Handshake::Connecting(waker) = &mut connection.handshake else { return };
        let waker = waker.take();
        connection.handshake = match result {
            Ok(()) => Handshake::Done,
            Err(errno) => Handshake::Failed(errno),
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn syn_arrives(&mut self, kernel: &mut Kernel, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (node, to) = (connection.ends[1].node, connection.ends[1].address);
        let back = connection.link(Side::Server);
        if !self.machines[node].up {
            return;
        }
        let listening: Vec<ListenerId> = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.node == node && accepts(listener.address, to))
            .map(|(&id, _)| id)
            .collect();
        if listening.is_empty() {
            self.connections.get_mut(&id).expect("it was just seen").ends[1].life = Life::Closed;
            return self.travel(kernel, back, NetEvent::Refuse(id));
        }
        let chosen = listening[kernel.chance.index(listening.len())];
        let listener = self.listeners.get_mut(&chosen).expect("it was just listed");
        if listener.backlog.len() >= listener.options.backlog as usize {
            return kernel.schedule_in(Duration::from_secs(1), Event::Net(NetEvent::Syn(id)));
        }
        listener.backlog.push_back(id);
        let (process, acceptor) = (listener.process, listener.acceptor.take());
        let server = &mut self.connections.get_mut(&id).expect("it was just seen").ends[1];
        server.process = Some(process);
        server.life = Life::Open;
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        self.travel(kernel, back, NetEvent::SynAck(id));
    }

    // Bytes.

    /// Puts as much of the first of `data` on the wire as there is room for.
    pub(crate) fn poll_send(
        &mut self,
        kernel: &mut Kernel,
        (id, side): (ConnectionId, Side),
        data: &mut VecDeque<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Errno>> {
        loop {
            while data.front().is_some_and(Bytes::is_empty) {
                data.pop_front();
            }
            let Some(connection) = self.connections.get_mut(&id) else { return Poll::Pending };
            let end = connection.end(side);
            if end.reset {
                return Poll::Ready(Err(if kernel.chance.coin() { libc::ECONNRESET } else { libc::EPIPE }));
            }
            if end.shut {
                return Poll::Ready(Err(libc::EPIPE));
            }
            let Some(piece) = data.front_mut() else { return Poll::Ready(Ok(())) };
            let room = connection.pipes[side as usize].room(self.config.window_bytes);
            if room == 0 {
                connection.end(side).sender = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let most = piece.len().min(room).min(self.config.max_segment_bytes);
            let count =
                if kernel.chance.coin() { most } else { kernel.chance.between(1, most as u64) as usize };
            let part = piece.split_to(count);
            kernel.record(What::Send, [id.0, side as u64, count as u64]);
            self.put(kernel, id, side, Packet::Data(part));
        }
    }

    fn put(&mut self, kernel: &mut Kernel, id: ConnectionId, side: Side, packet: Packet) {
        let Some(connection) = self.connections.get(&id) else { return };
        let latency = self.latency(kernel, connection.link(side));
        let connection = self.connections.get_mut(&id).expect("it was just seen");
        if let Some(due) = connection.pipes[side as usize].send(packet, kernel.now + latency) {
            kernel.schedule(due, Event::Net(NetEvent::Deliver(id, side)));
        }
    }

    fn deliver(&mut self, kernel: &mut Kernel, id: ConnectionId, from: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let pipe = &mut connection.pipes[from as usize];
        let packet = pipe.take_packet();
        if let Some(due) = pipe.next_delivery() {
            kernel.schedule(due, Event::Net(NetEvent::Deliver(id, from)));
        }
        let Some(packet) = packet else { return };
        let end = &mut connection.ends[from.other() as usize];
        match (end.life, packet) {
            (Life::Open, Packet::Data(bytes)) if !end.shut => {
                kernel.record(What::Deliver, [id.0, from as u64, bytes.len() as u64]);
                pipe.arrive(bytes);
                end.receiver.take().into_iter().for_each(Waker::wake);
            }
            (Life::Open, Packet::Fin) => {
                pipe.finished = true;
                end.receiver.take().into_iter().chain(end.watcher.take()).for_each(Waker::wake);
            }
            (Life::Gone, Packet::Data(_)) if !self.machines[end.node].up => end.missed = true,
            (_, Packet::Data(_)) => {
                let back = connection.link(from.other());
                self.travel(kernel, back, NetEvent::Reset(id, from));
            }
            (Life::Closed | Life::Gone, Packet::Fin) => {}
        }
    }

    pub(crate) fn poll_recv(
        &mut self,
        kernel: &mut Kernel,
        (id, side): (ConnectionId, Side),
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Errno>> {
        let Some(connection) = self.connections.get_mut(&id) else { return Poll::Pending };
        let pipe = &mut connection.pipes[side.other() as usize];
        if pipe.has_arrived() {
            let bytes = pipe.receive(limit, &mut kernel.chance);
            kernel.record(What::Receive, [id.0, side as u64, bytes.len() as u64]);
            let sender = connection.end(side.other()).sender.take();
            sender.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(bytes));
        }
        let finished = pipe.finished;
        let end = connection.end(side);
        if end.reset {
            return Poll::Ready(Err(libc::ECONNRESET));
        }
        if finished || end.shut {
            return Poll::Ready(Ok(Bytes::new()));
        }
        end.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_hung_up(
        &mut self,
        (id, side): (ConnectionId, Side),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Poll::Pending };
        let finished = connection.pipes[side.other() as usize].finished;
        let end = connection.end(side);
        if finished || end.reset || end.shut {
            return Poll::Ready(());
        }
        end.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    // Ends.

    pub(crate) fn shutdown(&mut self, kernel: &mut Kernel, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = connection.end(side);
        if end.shut {
            return;
        }
        end.shut = true;
        end.wake();
        kernel.record(What::Fin, [id.0, side as u64, 0]);
        self.put(kernel, id, side, Packet::Fin);
    }

    /// The stream was dropped, or its process ended.
    pub(crate) fn close(&mut self, kernel: &mut Kernel, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let unread = connection.pipes[side.other() as usize].has_arrived();
        let end = connection.end(side);
        if end.life != Life::Open {
            return;
        }
        let fin = !end.shut && !end.reset;
        let reset = unread && !end.reset;
        end.life = Life::Closed;
        if reset {
            let link = connection.link(side);
            self.travel(kernel, link, NetEvent::Reset(id, side.other()));
        } else if fin {
            kernel.record(What::Fin, [id.0, side as u64, 1]);
            self.put(kernel, id, side, Packet::Fin);
        }
        self.forget_unanswered(id);
        self.forget_if_over(id);
    }

    fn abort(&mut self, kernel: &mut Kernel, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.end(side).life = Life::Closed;
        let link = connection.link(side);
        self.travel(kernel, link, NetEvent::Reset(id, side.other()));
        self.forget_if_over(id);
    }

    /// An attempt that nobody has answered ends with its client.
    fn forget_unanswered(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.ends[1].process.is_none()
            && !matches!(connection.handshake, Handshake::Done)
        {
            connection.ends[1].life = Life::Closed;
        }
    }

    fn forget_if_over(&mut self, id: ConnectionId) {
        if self.connections.get(&id).is_some_and(Connection::is_over) {
            self.connections.remove(&id);
        }
    }

    fn reset_arrives(&mut self, kernel: &mut Kernel, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        kernel.record(What::Reset, [id.0, side as u64, 0]);
        connection.pipes[side.other() as usize].clear_wire();
        let end = connection.end(side);
        end.reset = true;
        end.wake();
        if side == Side::Client {
            self.finish_handshake(id, Err(libc::ECONNREFUSED));
        }
    }

    /// Something arrives, unless its link is blocked.
    pub(crate) fn happen(&mut self, kernel: &mut Kernel, event: NetEvent) {
        if let Some(link) = self.link_of(event).and_then(|link| self.links.get_mut(&link))
            && link.blocked
        {
            link.held.push(event);
            return;
        }
        match event {
            NetEvent::Syn(id) => self.syn_arrives(kernel, id),
            NetEvent::SynAck(id) => self.syn_ack_arrives(kernel, id),
            NetEvent::Refuse(id) => self.finish_handshake(id, Err(libc::ECONNREFUSED)),
            NetEvent::Deliver(id, from) => self.deliver(kernel, id, from),
            NetEvent::Reset(id, side) => self.reset_arrives(kernel, id, side),
            NetEvent::ConnectTimeout(id) => self.finish_handshake(id, Err(libc::ETIMEDOUT)),
        }
    }

    fn syn_ack_arrives(&mut self, kernel: &mut Kernel, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let given_up =
            connection.ends[0].life != Life::Open || matches!(connection.handshake, Handshake::Failed(_));
        if given_up {
            let link = connection.link(Side::Client);
            return self.travel(kernel, link, NetEvent::Reset(id, Side::Server));
        }
        self.finish_handshake(id, Ok(()));
    }

    fn link_of(&self, event: NetEvent) -> Option<(usize, usize)> {
        let (id, from) = match event {
            NetEvent::Syn(id) => (id, Side::Client),
            NetEvent::SynAck(id) | NetEvent::Refuse(id) => (id, Side::Server),
            NetEvent::Deliver(id, from) => (id, from),
            NetEvent::Reset(id, side) => (id, side.other()),
            NetEvent::ConnectTimeout(_) => return None,
        };
        self.connections.get(&id).map(|connection| connection.link(from))
    }

    // What happens to nodes.

    /// The process is gone; the kernel closes its sockets, or its peers hear nothing.
    pub(crate) fn process_ended(&mut self, kernel: &mut Kernel, process: ProcessId, silent_per_mille: u32) {
        self.listeners.retain(|_, listener| listener.process != process);
        for (id, side) in self.ends_where(|end| end.process == Some(process)) {
            if kernel.chance.per_mille(silent_per_mille) {
                self.go_silent(kernel, id, side);
            } else {
                self.close(kernel, id, side);
            }
        }
    }

    pub(crate) fn silent_kill_per_mille(&self) -> u32 {
        self.config.silent_kill_per_mille
    }

    /// The machine is off; nothing more comes from it.
    pub(crate) fn machine_down(&mut self, kernel: &mut Kernel, node: usize) {
        self.machines[node].up = false;
        self.listeners.retain(|_, listener| listener.node != node);
        for (id, side) in self.ends_where(|end| end.node == node) {
            self.go_silent(kernel, id, side);
        }
    }

    /// The machine runs again and resets the connections that others believe it has.
    pub(crate) fn machine_up(&mut self, kernel: &mut Kernel, node: usize) {
        self.machines[node].up = true;
        for (id, side) in self.ends_where(|end| end.node == node && end.missed) {
            let link = self.connections[&id].link(side);
            self.travel(kernel, link, NetEvent::Reset(id, side.other()));
        }
    }

    fn ends_where(&self, matches: impl Fn(&End) -> bool) -> Vec<(ConnectionId, Side)> {
        let sides = [Side::Client, Side::Server];
        let both = self.connections.iter().flat_map(|(&id, connection)| {
            sides.into_iter().zip(&connection.ends).map(move |(side, end)| (id, side, end))
        });
        both.filter(|(_, _, end)| matches(end)).map(|(id, side, _)| (id, side)).collect()
    }

    fn go_silent(&mut self, kernel: &mut Kernel, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.end(side).life == Life::Open {
            connection.end(side).life = Life::Gone;
            connection.pipes[side as usize].lose_wire(&mut kernel.chance);
        }
        self.forget_if_over(id);
    }

    // What tests do to it.

    pub(crate) fn block(&mut self, kernel: &mut Kernel, from: usize, to: usize) {
        kernel.record(What::Block, [from as u64, to as u64, 0]);
        self.links.entry((from, to)).or_default().blocked = true;
    }

    pub(crate) fn unblock(&mut self, kernel: &mut Kernel, from: usize, to: usize) {
        kernel.record(What::Unblock, [from as u64, to as u64, 0]);
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        link.blocked = false;
        for event in std::mem::take(&mut link.held) {
            self.travel(kernel, (from, to), event);
        }
    }

    pub(crate) fn set_latency(&mut self, from: usize, to: usize, latency: Option<Latency>) {
        self.links.entry((from, to)).or_default().latency = latency;
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let list = self.connections.iter().map(|(&id, connection)| ConnectionInfo {
            id,
            client: connection.ends[0].address,
            server: connection.ends[1].address,
        });
        list.collect()
    }

    /// Both ends see a reset, at once.
    pub(crate) fn cut(&mut self, kernel: &mut Kernel, id: ConnectionId) {
        for side in [Side::Client, Side::Server] {
            self.reset_arrives(kernel, id, side);
        }
    }
}

fn accepts(listening: SocketAddr, to: SocketAddr) -> bool {
    let same = listening.ip() == to.ip() || listening.ip().is_unspecified();
    listening.port() == to.port() && (same || to.ip().is_unspecified())
}

//! Connections, requests in flight and time-outs, without a socket.
//!
//! ```text
//!              connect()                 on_connected            ApiVersions answered
//!     Down ───────────────▶ Connecting ────────────────▶ Negotiating ────────────────▶ Up
//!      ▲                         │                            │                        │
//!      └───── back-off ──────────┴──── lost, timed out ───────┴──── broken frame ──────┘
//! ```
//!
//! A core asks for a link to a broker, sends requests each with a context of its own, and takes [`NetEvent`]s: every
//! context comes back exactly once. When a connection is lost, so are all requests in flight on it, and what the
//! broker did with them is unknown.
//!
//! Deliberately absent: closing connections that are idle (brokers do), TLS and SASL.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use highwater_model::BrokerId;
use highwater_protocol::codec::{Message, Request, StrBytes, VersionRange};
use highwater_protocol::messages::ApiVersionsRequest;
use highwater_protocol::{CodecError, ErrorCode, client::correlation_id, decode_response, encode_request};

use crate::config::ClientConfig;
use crate::drive::{Action, ConnectionId};
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;
use crate::wire::WireError;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum NetEvent<T> {
    /// The answer: a frame without its length.
    Response { node: BrokerId, context: T, version: i16, frame: Bytes },
    /// A request that has no answer is with the operating system.
    Sent { context: T },
    /// The connection was lost, or closed because this or another request timed out.
    Lost { context: T },
}

/// Whether a request has an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaits {
    Response,
    /// Produce with acks=0.
    Sent,
}

/// Whether a broker can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Now; so many requests are in flight.
    Up { in_flight: usize },
    /// Not yet: being connected, throttled or backing off.
    NotYet,
    /// Metadata does not know it (any more).
    Unknown,
}

#[derive(Debug)]
enum Link {
    Down,
    Connecting { connection: ConnectionId, deadline: MonoTime },
    Negotiating { connection: ConnectionId },
    Up { connection: ConnectionId },
}

#[derive(Debug)]
struct Node {
    host: Arc<str>,
    port: u16,
    link: Link,
    failures: u32,
    /// No attempt to connect before this.
    retry_at: MonoTime,
    throttled_until: MonoTime,
}

#[derive(Debug)]
enum Kind<T> {
    ApiVersions,
    Request { context: T, awaits: Awaits },
}

#[derive(Debug)]
struct InFlight<T> {
    correlation_id: i32,
    version: i16,
    deadline: MonoTime,
    kind: Kind<T>,
}

#[derive(Debug)]
struct Connection<T> {
    node: BrokerId,
    next_correlation_id: i32,
    versions: BTreeMap<i16, VersionRange>,
    in_flight: VecDeque<InFlight<T>>,
}

impl<T> Connection<T> {
    fn take_correlation_id(&mut self) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id = id.wrapping_add(1) & i32::MAX;
        id
    }
}

/// All links of one client. `T` is what the core remembers with each request.
#[derive(Debug)]
pub(crate) struct Network<T> {
    client_id: StrBytes,
    request_timeout: std::time::Duration,
    connection_setup_timeout: std::time::Duration,
    reconnect: Backoff,
    rng: Rng,
    nodes: BTreeMap<BrokerId, Node>,
    connections: BTreeMap<ConnectionId, Connection<T>>,
    next_connection: u64,
    actions: VecDeque<Action>,
    events: VecDeque<NetEvent<T>>,
}

/// Ids of bootstrap servers, whose real ids are not known: −1, −2 and so on, as in Kafka's clients.
fn bootstrap_id(index: usize) -> BrokerId {
    BrokerId(-1 - i32::try_from(index).unwrap_or(i32::MAX - 1))
}

impl<T> Network<T> {
    pub(crate) fn new(config: &ClientConfig, seed: u64) -> Self {
        let mut network = Network {
            client_id: StrBytes::from_string(config.client_id.clone()),
            request_timeout: config.request_timeout,
            connection_setup_timeout: config.connection_setup_timeout,
            reconnect: Backoff { initial: config.reconnect_backoff, max: config.reconnect_backoff_max },
            rng: Rng::new(seed),
            nodes: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        };
        for (index, server) in config.bootstrap_servers.iter().enumerate() {
            network.add_broker(bootstrap_id(index), &server.host, server.port);
        }
        network
    }

    pub(crate) fn client_id(&self) -> &StrBytes {
        &self.client_id
    }

    /// Takes note of a broker, or of its new address.
    pub(crate) fn add_broker(&mut self, id: BrokerId, host: &str, port: u16) {
        if let Some(node) = self.nodes.get(&id) {
            if &*node.host == host && node.port == port {
                return;
            }
            self.forget(id);
        }
        let node = Node {
            host: host.into(),
            port,
            link: Link::Down,
            failures: 0,
            retry_at: MonoTime(0),
            throttled_until: MonoTime(0),
        };
        self.nodes.insert(id, node);
    }

    /// Makes the known brokers be `brokers`, beside the bootstrap servers, whose connections are given up when nothing
    /// is in flight on them.
    pub(crate) fn set_brokers(&mut self, brokers: &[(BrokerId, Arc<str>, u16)]) {
        for (id, host, port) in brokers {
            self.add_broker(*id, host, *port);
        }
        let known = |id: &BrokerId| brokers.iter().any(|(broker, ..)| broker == id);
        let gone: Vec<BrokerId> = self.nodes.keys().filter(|id| id.0 >= 0 && !known(id)).copied().collect();
        for id in gone {
            self.forget(id);
        }
        if brokers.is_empty() {
            return;
        }
        let idle: Vec<ConnectionId> = (self.connections.iter())
            .filter(|(_, connection)| connection.node.0 < 0 && connection.in_flight.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for connection in idle {
            self.close(connection);
        }
    }

    fn forget(&mut self, id: BrokerId) {
        if let Some(connection) = self.connection_of(id) {
            self.close(connection);
        }
        self.nodes.remove(&id);
    }

    fn connection_of(&self, id: BrokerId) -> Option<ConnectionId> {
        match self.nodes.get(&id)?.link {
            Link::Down => None,
            Link::Connecting { connection, .. }
            | Link::Negotiating { connection }
            | Link::Up { connection } => Some(connection),
        }
    }

    /// Gives a connection up from this side.
    fn close(&mut self, connection: ConnectionId) {
        self.actions.push_back(Action::Disconnect { connection });
        self.drop_connection(connection);
    }

    /// Returns the contexts of everything in flight, and marks the link down.
    fn drop_connection(&mut self, connection: ConnectionId) -> Option<BrokerId> {
        let dropped = self.connections.remove(&connection)?;
        for request in dropped.in_flight {
            if let Kind::Request { context, .. } = request.kind {
                self.events.push_back(NetEvent::Lost { context });
            }
        }
        if let Some(node) = self.nodes.get_mut(&dropped.node) {
            node.link = Link::Down;
        }
        Some(dropped.node)
    }

    /// A lost or refused connection: as [`drop_connection`](Self::drop_connection), with back-off.
    fn fail_connection(&mut self, connection: ConnectionId, now: MonoTime) {
        let Some(id) = self.drop_connection(connection) else { return };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.failures = node.failures.saturating_add(1);
            node.retry_at = now + self.reconnect.after(node.failures, &mut self.rng);
        }
    }

    /// State of the link to `id`; starts to connect if it is down and its back-off has passed.
    pub(crate) fn link(&mut self, id: BrokerId, now: MonoTime) -> LinkState {
        let Some(node) = self.nodes.get(&id) else { return LinkState::Unknown };
        match node.link {
            Link::Up { connection } if node.throttled_until <= now => {
                let in_flight = self.connections.get(&connection).map_or(0, |c| c.in_flight.len());
                LinkState::Up { in_flight }
            }
            Link::Down if node.retry_at <= now => {
                self.connect(id, now);
                LinkState::NotYet
            }
            _ => LinkState::NotYet,
        }
    }

    fn connect(&mut self, id: BrokerId, now: MonoTime) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        node.link = Link::Connecting { connection, deadline: now + self.connection_setup_timeout };
        self.actions.push_back(Action::Connect { connection, host: Arc::clone(&node.host), port: node.port });
        let opened = Connection {
            node: id,
            next_correlation_id: 0,
            versions: BTreeMap::new(),
            in_flight: VecDeque::new(),
        };
        self.connections.insert(connection, opened);
    }

    /// A broker for a request that any broker can answer: the link with the least in flight. If none is up, one is
    /// being connected when this returns, unless all back off. Bootstrap servers serve until metadata names others,
    /// and again when none of those can be reached.
    pub(crate) fn any_broker(&mut self, now: MonoTime) -> Option<BrokerId> {
        self.pick(|id| id.0 >= 0, now).or_else(|| {
            let reachable = self.nodes.iter().any(|(id, node)| id.0 >= 0 && node.failures == 0);
            if reachable { None } else { self.pick(|id| id.0 < 0, now) }
        })
    }

    fn pick(&mut self, among: impl Fn(&BrokerId) -> bool, now: MonoTime) -> Option<BrokerId> {
        let candidates = || self.nodes.iter().filter(|(id, _)| among(id));
        let up = candidates()
            .filter(|(_, node)| node.throttled_until <= now)
            .filter_map(|(id, node)| match node.link {
                Link::Up { connection } => {
                    Some((self.connections.get(&connection).map_or(0, |c| c.in_flight.len()), *id))
                }
                _ => None,
            })
            .min();
        if let Some((_, id)) = up {
            return Some(id);
        }
        if candidates().any(|(_, node)| !matches!(node.link, Link::Down)) {
            return None;
        }
        let down: Vec<BrokerId> =
            candidates().filter(|(_, node)| node.retry_at <= now).map(|(id, _)| *id).collect();
        if !down.is_empty() {
            let chosen = down[self.rng.below(down.len())];
            self.connect(chosen, now);
        }
        None
    }

    /// The version to speak of `R` with a broker whose link is up: the highest that both sides know.
    pub(crate) fn version<R: Request>(&self, id: BrokerId) -> Option<i16> {
        let theirs = self.connections.get(&self.connection_of(id)?)?.versions.get(&R::KEY)?;
        let common = theirs.intersect(&<R as Message>::VERSIONS);
        (!common.is_empty()).then_some(common.max)
    }

    /// Sends a typed request on a link that is up. An error leaves nothing in flight; it has a reason if the link is up.
    pub(crate) fn send<R: Request>(
        &mut self,
        id: BrokerId,
        request: &R,
        version: i16,
        context: T,
        now: MonoTime,
    ) -> Result<(), (T, Option<CodecError>)> {
        let client_id = self.client_id.clone();
        let mut failure = None;
        let sent =
            self.send_parts(
                id,
                version,
                context,
                Awaits::Response,
                now,
                |correlation_id| match encode_request(version, correlation_id, Some(&client_id), request) {
                    Ok(frame) => Some(vec![frame]),
                    Err(error) => {
                        failure = Some(error);
                        None
                    }
                },
            );
        sent.map_err(|context| (context, failure))
    }

    /// Sends a request that `frame` makes from its correlation id. Gives the context back if the link is not up or
    /// there is no frame.
    pub(crate) fn send_parts(
        &mut self,
        id: BrokerId,
        version: i16,
        context: T,
        awaits: Awaits,
        now: MonoTime,
        frame: impl FnOnce(i32) -> Option<Vec<Bytes>>,
    ) -> Result<(), T> {
        let Some(Link::Up { connection }) = self.nodes.get(&id).map(|node| &node.link) else {
            return Err(context);
        };
        let connection = *connection;
        let Some(open) = self.connections.get_mut(&connection) else { return Err(context) };
        let correlation_id = open.take_correlation_id();
        let Some(parts) = frame(correlation_id) else { return Err(context) };
        open.in_flight.push_back(InFlight {
            correlation_id,
            version,
            deadline: now + self.request_timeout,
            kind: Kind::Request { context, awaits },
        });
        self.actions.push_back(Action::Send { connection, correlation_id, parts });
        Ok(())
    }

    /// Keeps requests from a broker for as long as it asked.
    pub(crate) fn throttle(&mut self, id: BrokerId, throttle_time_ms: i32, now: MonoTime) {
        let Ok(millis @ 1..) = u64::try_from(throttle_time_ms) else { return };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.throttled_until = now + std::time::Duration::from_millis(millis);
        }
    }

    /// Closes a connection whose bytes make no sense.
    pub(crate) fn reject(&mut self, id: BrokerId, now: MonoTime) {
        if let Some(connection) = self.connection_of(id) {
            self.actions.push_back(Action::Disconnect { connection });
            self.fail_connection(connection, now);
        }
    }

    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn next_event(&mut self) -> Option<NetEvent<T>> {
        self.events.pop_front()
    }

    /// Closes connections whose establishment or oldest request has timed out.
    pub(crate) fn expire(&mut self, now: MonoTime) {
        let expired: Vec<ConnectionId> = (self.connections.iter())
            .filter(|(id, connection)| self.deadline(**id, connection) <= now)
            .map(|(id, _)| *id)
            .collect();
        for connection in expired {
            self.actions.push_back(Action::Disconnect { connection });
            self.fail_connection(connection, now);
        }
    }

    fn deadline(&self, id: ConnectionId, connection: &Connection<T>) -> MonoTime {
        if let Some(Link::Connecting { connection, deadline }) =
            self.nodes.get(&connection.node).map(|node| &node.link)
            && *connection == id
        {
            return *deadline;
        }
        connection.in_flight.iter().map(|request| request.deadline).min().unwrap_or(MonoTime::NEVER)
    }

    /// When [`expire`](Self::expire) has something to do, or a back-off or throttling ends.
    pub(crate) fn wake_at(&self, now: MonoTime) -> MonoTime {
        let deadlines = self.connections.iter().map(|(id, connection)| self.deadline(*id, connection));
        let ends = (self.nodes.values()).flat_map(|node| [node.retry_at, node.throttled_until]);
        deadlines.chain(ends.filter(|end| *end > now)).min().unwrap_or(MonoTime::NEVER)
    }

    pub(crate) fn on_connected(&mut self, connection: ConnectionId, now: MonoTime) {
        let Some(open) = self.connections.get(&connection) else { return };
        let Some(node) = self.nodes.get_mut(&open.node) else { return };
        node.link = Link::Negotiating { connection };
        self.ask_versions(connection, <ApiVersionsRequest as Message>::VERSIONS.max, now);
    }

    fn ask_versions(&mut self, connection: ConnectionId, version: i16, now: MonoTime) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let correlation_id = open.take_correlation_id();
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request = request
                .with_client_software_name(StrBytes::from_static_str("highwater-client"))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        }
        let frame = encode_request(version, correlation_id, Some(&self.client_id), &request)
            .expect("a request of constants fits its schema");
        open.in_flight.push_back(InFlight {
            correlation_id,
            version,
            deadline: now + self.request_timeout,
            kind: Kind::ApiVersions,
        });
        self.actions.push_back(Action::Send { connection, correlation_id, parts: vec![frame] });
    }

    pub(crate) fn on_disconnected(&mut self, connection: ConnectionId, now: MonoTime) {
        self.fail_connection(connection, now);
    }

    pub(crate) fn on_sent(&mut self, connection: ConnectionId, correlation_id: i32) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let unanswered = |request: &InFlight<T>| {
            request.correlation_id == correlation_id
                && matches!(request.kind, Kind::Request { awaits: Awaits::Sent, .. })
        };
        let Some(index) = open.in_flight.iter().position(unanswered) else { return };
        if let Some(InFlight { kind: Kind::Request { context, .. }, .. }) = open.in_flight.remove(index) {
            self.events.push_back(NetEvent::Sent { context });
        }
    }

    pub(crate) fn on_frame(&mut self, connection: ConnectionId, frame: Bytes, now: MonoTime) {
        if !self.connections.contains_key(&connection) {
            return;
        }
        // Whatever is wrong with a frame, the rest of the stream cannot be trusted.
        if self.accept_frame(connection, frame, now).is_err() {
            self.actions.push_back(Action::Disconnect { connection });
            self.fail_connection(connection, now);
        }
    }

    fn accept_frame(
        &mut self,
        connection: ConnectionId,
        frame: Bytes,
        now: MonoTime,
    ) -> Result<(), WireError> {
        let got = correlation_id(&frame).ok_or(WireError::Cut)?;
        let Some(open) = self.connections.get_mut(&connection) else { return Ok(()) };
        let awaits_response =
            |request: &InFlight<T>| !matches!(request.kind, Kind::Request { awaits: Awaits::Sent, .. });
        let index = open.in_flight.iter().position(awaits_response);
        let expected = index.map(|index| open.in_flight[index].correlation_id);
        let Some(request) =
            index.filter(|_| expected == Some(got)).and_then(|index| open.in_flight.remove(index))
        else {
            return Err(WireError::Correlation { got, expected });
        };
        let node = open.node;
        match request.kind {
            Kind::ApiVersions => self.on_versions(connection, request.version, frame, now),
            Kind::Request { context, .. } => {
                self.events.push_back(NetEvent::Response { node, context, version: request.version, frame });
                Ok(())
            }
        }
    }

    fn on_versions(
        &mut self,
        connection: ConnectionId,
        version: i16,
        frame: Bytes,
        now: MonoTime,
    ) -> Result<(), WireError> {
        // A broker that does not know the request's version answers in version 0. There are no tagged fields in the
        // header, in any version.
        let error_code = frame.get(4..6);
        let unsupported = error_code == Some(&ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes()[..]);
        let answered_in = if unsupported { 0 } else { version };
        let (_, response) = decode_response::<ApiVersionsRequest>(frame, answered_in)?;
        if unsupported {
            let theirs = response.api_keys.iter().find(|api| api.api_key == ApiVersionsRequest::KEY);
            let retry = theirs.map_or(0, |api| api.max_version).clamp(0, version.saturating_sub(1).max(0));
            if version == 0 {
                return Err(WireError::NoVersions);
            }
            self.ask_versions(connection, retry, now);
            return Ok(());
        }
        let Some(open) = self.connections.get_mut(&connection) else { return Ok(()) };
        open.versions = (response.api_keys.iter())
            .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }))
            .collect();
        let id = open.node;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.link = Link::Up { connection };
            node.failures = 0;
        }
        Ok(())
    }
}

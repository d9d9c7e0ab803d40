//! The administrator as a state machine: typed requests to some broker, the controller or a certain broker, each with
//! one answer.
//!
//! A call whose connection was lost is made again until its time is up, as Kafka's admin client does: one that changes
//! something may then find that it was done already (`TOPIC_ALREADY_EXISTS`).

mod operations;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_model::BrokerId;
use highwater_protocol::codec::Request as KafkaRequest;
use highwater_protocol::decode_response;
use highwater_protocol::messages::MetadataRequest;

pub use self::operations::*;

use crate::config::{ClientConfig, ConfigError};
use crate::drive::{Action, ConnectionId, Core};
use crate::metadata::Metadata;
use crate::network::{LinkState, NetEvent, Network};
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;
use crate::wire::WireError;

/// Who is to answer a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Any broker; Kafka's forward to the controller what only it can do.
    Any,
    /// The broker that metadata names as controller.
    Controller,
    /// This broker.
    Broker(BrokerId),
}

/// A request of one type, and what its answer means.
pub trait Operation: Send + Sync + 'static {
    /// The request.
    type Request: KafkaRequest;
    /// What the answer comes to.
    type Output;

    /// Who is to answer.
    fn target(&self) -> Target {
        Target::Any
    }

    /// The first version that can say what is wanted.
    fn min_version(&self) -> i16 {
        0
    }

    /// The request in this version, which is at least [`min_version`](Self::min_version).
    fn request(&self, version: i16) -> Self::Request;

    /// What the answer comes to.
    fn output(&self, response: <Self::Request as KafkaRequest>::Response) -> Self::Output;
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No answer in time. Whether the broker did something is unknown.
    #[error("no answer within the call's time-out")]
    TimedOut,
    /// The broker's versions and ours have nothing in common.
    #[error("the broker does not support this API in any common version")]
    UnsupportedVersion,
    /// The request does not fit its schema, or the answer does not.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The client was closed.
    #[error("the client was closed")]
    Closed,
}

/// A call that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// The answer to a call, not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    version: i16,
    frame: Bytes,
}

impl Answer {
    /// What the answer comes to for the operation that the call was made with.
    ///
    /// # Errors
    /// [`AdminError::Wire`].
    pub fn decode<O: Operation>(self, operation: &O) -> Result<O::Output, AdminError> {
        let (_, response) =
            decode_response::<O::Request>(self.frame, self.version).map_err(WireError::Codec)?;
        Ok(operation.output(response))
    }
}

/// An operation without its types.
trait Callable: Send {
    fn target(&self) -> Target;

    /// Sends it to a broker whose link is up.
    fn send(
        &self,
        network: &mut Network<Request>,
        broker: BrokerId,
        call: CallId,
        now: MonoTime,
    ) -> Result<(), AdminError>;
}

impl<O: Operation> Callable for Arc<O> {
    fn target(&self) -> Target {
        O::target(self)
    }

    fn send(
        &self,
        network: &mut Network<Request>,
        broker: BrokerId,
        call: CallId,
        now: MonoTime,
    ) -> Result<(), AdminError> {
        let version = (network.version::<O::Request>(broker))
            .filter(|version| *version >= self.min_version())
            .ok_or(AdminError::UnsupportedVersion)?;
        network
            .send(broker, &O::request(self, version), version, Request::Call(call), now)
            .map_err(|(_, error)| error.map_or(AdminError::TimedOut, |error| AdminError::Wire(error.into())))
    }
}

#[derive(Debug)]
enum Request {
    Metadata,
    Call(CallId),
}

struct Call {
    operation: Box<dyn Callable>,
    deadline: MonoTime,
    in_flight: bool,
    failures: u32,
    retry_at: MonoTime,
}

/// An administrator without I/O. See [`Core`].
pub struct AdminCore {
    network: Network<Request>,
    metadata: Metadata,
    calls: BTreeMap<CallId, Call>,
    done: VecDeque<(CallId, Result<Answer, AdminError>)>,
    next_call: u64,
    backoff: Backoff,
    rng: Rng,
    now: MonoTime,
}

impl std::fmt::Debug for AdminCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminCore").field("calls", &self.calls.len()).finish_non_exhaustive()
    }
}

impl AdminCore {
    /// An administrator whose random choices follow from `seed`.
    ///
    /// # Errors
    /// As [`ClientConfig::validate`].
    pub fn new(config: &ClientConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Rng::new(seed);
        Ok(AdminCore {
            network: Network::new(config, rng.next_u64()),
            metadata: Metadata::new(config),
            calls: BTreeMap::new(),
            done: VecDeque::new(),
            next_call: 0,
            backoff: Backoff { initial: config.retry_backoff, max: config.retry_backoff_max },
            rng,
            now: MonoTime(0),
        })
    }

    /// Makes a call, whose answer will be there within `timeout`, if only as an error.
    pub fn call<O: Operation>(&mut self, operation: Arc<O>, timeout: Duration, now: MonoTime) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        let call = Call {
            operation: Box::new(operation),
            deadline: now + timeout,
            in_flight: false,
            failures: 0,
            retry_at: MonoTime(0),
        };
        self.calls.insert(id, call);
        id
    }

    /// The next answer.
    pub fn pop_answer(&mut self) -> Option<(CallId, Result<Answer, AdminError>)> {
        self.done.pop_front()
    }

    /// The answer to one call, if it is there.
    pub fn take_answer(&mut self, call: CallId) -> Option<Result<Answer, AdminError>> {
        let index = self.done.iter().position(|(id, _)| *id == call)?;
        self.done.remove(index).map(|(_, answer)| answer)
    }

    fn finish(&mut self, call: CallId, answer: Result<Answer, AdminError>) {
        if self.calls.remove(&call).is_some() {
            self.done.push_back((call, answer));
        }
    }

    fn advance(&mut self, now: MonoTime) {
        self.network.expire(now);
        self.handle_events(now);
        let late: Vec<CallId> =
            self.calls.iter().filter(|(_, call)| call.deadline <= now).map(|(id, _)| *id).collect();
        for call in late {
            self.finish(call, Err(AdminError::TimedOut));
        }
        self.ask_metadata(now);
        let ready: Vec<CallId> = (self.calls.iter())
            .filter(|(_, call)| !call.in_flight && call.retry_at <= now)
            .map(|(id, _)| *id)
            .collect();
        for call in ready {
            self.send(call, now);
        }
    }

    fn ask_metadata(&mut self, now: MonoTime) {
        if self.calls.is_empty() || !self.metadata.is_due(now) {
            return;
        }
        let Some(broker) = self.network.any_broker(now) else { return };
        let Some(version) = self.network.version::<MetadataRequest>(broker) else { return };
        let request = self.metadata.request(version);
        if self.network.send(broker, &request, version, Request::Metadata, now).is_err() {
            self.metadata.on_failure(&mut self.rng, now);
        }
    }

    fn send(&mut self, id: CallId, now: MonoTime) {
        let Some(call) = self.calls.get(&id) else { return };
        let broker = match call.operation.target() {
            Target::Any => self.network.any_broker(now),
            Target::Controller => self.metadata.controller().filter(|broker| self.is_up(*broker, now)),
            Target::Broker(broker) => Some(broker).filter(|broker| self.is_up(*broker, now)),
        };
        let Some(broker) = broker else { return };
        let Some(call) = self.calls.get_mut(&id) else { return };
        match call.operation.send(&mut self.network, broker, id, now) {
            Ok(()) => call.in_flight = true,
            Err(error) => self.finish(id, Err(error)),
        }
    }

    fn is_up(&mut self, broker: BrokerId, now: MonoTime) -> bool {
        let state = self.network.link(broker, now);
        if state == LinkState::Unknown {
            self.metadata.request_update();
        }
        matches!(state, LinkState::Up { .. })
    }

    fn handle_events(&mut self, now: MonoTime) {
        self.now = self.now.max(now);
        while let Some(event) = self.network.next_event() {
            match event {
                NetEvent::Response { node, context: Request::Metadata, version, frame } => {
                    self.on_metadata(node, version, frame, now);
                }
                NetEvent::Response { context: Request::Call(call), version, frame, .. } => {
                    self.finish(call, Ok(Answer { version, frame }));
                }
                NetEvent::Lost { context } | NetEvent::Sent { context } => match context {
                    Request::Metadata => self.metadata.on_failure(&mut self.rng, now),
                    Request::Call(call) => {
                        self.metadata.request_update();
                        if let Some(call) = self.calls.get_mut(&call) {
                            call.in_flight = false;
                            call.failures = call.failures.saturating_add(1);
                            call.retry_at = now + self.backoff.after(call.failures, &mut self.rng);
                        }
                    }
                },
            }
        }
    }

    fn on_metadata(&mut self, node: BrokerId, version: i16, frame: Bytes, now: MonoTime) {
        match decode_response::<MetadataRequest>(frame, version) {
            Ok((_, response)) => {
                let brokers = self.metadata.on_response(&response, &mut self.rng, now);
                if !brokers.is_empty() {
                    self.network.set_brokers(&brokers);
                }
            }
            Err(_) => {
                self.metadata.on_failure(&mut self.rng, now);
                self.network.reject(node, now);
            }
        }
    }
}

impl Core for AdminCore {
    fn poll_action(&mut self, now: MonoTime) -> Option<Action> {
        self.now = self.now.max(now);
        self.network.next_action().or_else(|| {
            self.advance(now);
            self.network.next_action()
        })
    }

    fn wake_at(&self) -> MonoTime {
        if self.calls.is_empty() {
            return self.network.wake_at(self.now);
        }
        // What is due already waits for the network.
        let later = |at: MonoTime| if at > self.now { at } else { MonoTime::NEVER };
        let calls = self.calls.values().map(|call| call.deadline.min(later(call.retry_at))).min();
        calls
            .unwrap_or(MonoTime::NEVER)
            .min(self.network.wake_at(self.now))
            .min(later(self.metadata.wake_at()))
    }

    fn on_connected(&mut self, connection: ConnectionId, now: MonoTime) {
        self.network.on_connected(connection, now);
        self.handle_events(now);
    }

    fn on_disconnected(&mut self, connection: ConnectionId, now: MonoTime) {
        self.network.on_disconnected(connection, now);
        self.handle_events(now);
    }

    fn on_sent(&mut self, connection: ConnectionId, correlation_id: i32, now: MonoTime) {
        self.network.on_sent(connection, correlation_id);
        self.handle_events(now);
    }

    fn on_frame(&mut self, connection: ConnectionId, frame: Bytes, now: MonoTime) {
        self.network.on_frame(connection, frame, now);
        self.handle_events(now);
    }
}

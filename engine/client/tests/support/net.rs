//! A network between a core and a [`ModelCluster`], with everything that goes wrong on the way decided by the test.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};
use highwater_client::{Action, ConnectionId, Core, MonoTime};

use super::{Fault, ModelCluster};

#[derive(Debug, Default)]
pub struct Link {
    pub broker: i32,
    /// Requests that the broker has not read yet.
    pub to_broker: VecDeque<Bytes>,
    /// Responses that the client has not read yet.
    pub to_client: VecDeque<Bytes>,
}

/// Links between one client and its brokers.
#[derive(Debug, Default)]
pub struct Net {
    pub links: BTreeMap<ConnectionId, Link>,
    /// Requests of lost connections that their brokers will still read.
    pub stray: Vec<(i32, Bytes)>,
    pub connects: u64,
}

impl Net {
    /// Performs everything that the core wants done. `accepts` says whether a broker can be connected to.
    pub fn perform(
        &mut self,
        core: &mut impl Core,
        cluster: &ModelCluster,
        now: MonoTime,
        accepts: impl Fn(i32) -> bool,
    ) {
        while let Some(action) = core.poll_action(now) {
            match action {
                Action::Connect { connection, host, port } => {
                    self.connects += 1;
                    match cluster.broker_at(&host, port).filter(|broker| accepts(*broker)) {
                        Some(broker) => {
                            self.links.insert(connection, Link { broker, ..Link::default() });
                            core.on_connected(connection, now);
                        }
                        None => core.on_disconnected(connection, now),
                    }
                }
                Action::Send { connection, correlation_id, parts } => {
                    let mut frame: BytesMut = BytesMut::new();
                    parts.iter().for_each(|part| frame.extend_from_slice(part));
                    let mut frame = frame.freeze();
                    let length = frame.get_i32();
                    assert_eq!(usize::try_from(length).expect("positive"), frame.len(), "a whole frame");
                    if let Some(link) = self.links.get_mut(&connection) {
                        link.to_broker.push_back(frame);
                    }
                    core.on_sent(connection, correlation_id, now);
                }
                Action::Disconnect { connection } => {
                    self.links.remove(&connection);
                }
            }
        }
    }

    /// Lets the broker read one request.
    pub fn deliver_to_broker(
        &mut self,
        connection: ConnectionId,
        cluster: &mut ModelCluster,
        fault: impl FnMut(&str, i32) -> Fault,
    ) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        if let Some(frame) = link.to_broker.pop_front()
            && let Some(answer) = cluster.handle(link.broker, frame, fault)
        {
            link.to_client.push_back(answer);
        }
    }

    /// Lets the client read one response.
    pub fn deliver_to_client(&mut self, connection: ConnectionId, core: &mut impl Core, now: MonoTime) {
        if let Some(frame) = self.links.get_mut(&connection).and_then(|link| link.to_client.pop_front()) {
            core.on_frame(connection, frame, now);
        }
    }

    /// Breaks a connection. What the broker has not read is lost, or read later.
    pub fn cut(&mut self, connection: ConnectionId, core: &mut impl Core, now: MonoTime, stays: bool) {
        if let Some(link) = self.links.remove(&connection) {
            if stays {
                self.stray.extend(link.to_broker.into_iter().map(|frame| (link.broker, frame)));
            }
            core.on_disconnected(connection, now);
        }
    }

    /// Moves everything until nothing moves any more, without faults.
    pub fn settle(&mut self, core: &mut impl Core, cluster: &mut ModelCluster, now: MonoTime) {
        self.settle_except(core, cluster, now, &[]);
    }

    /// As [`settle`](Self::settle), but brokers do not read requests of these APIs.
    pub fn settle_except(
        &mut self,
        core: &mut impl Core,
        cluster: &mut ModelCluster,
        now: MonoTime,
        held: &[i16],
    ) {
        loop {
            self.perform(core, cluster, now, |_| true);
            let can_move = |link: &Link| {
                let next_api = link.to_broker.front().map(|frame| i16::from_be_bytes([frame[0], frame[1]]));
                next_api.is_some_and(|api| !held.contains(&api)) || !link.to_client.is_empty()
            };
            let busy: Vec<ConnectionId> = self
                .links
                .iter()
                .filter(|(_, link)| can_move(link))
                .map(|(connection, _)| *connection)
                .collect();
            if busy.is_empty() {
                return;
            }
            for connection in busy {
                let is_held = (self.links.get(&connection).and_then(|link| link.to_broker.front()))
                    .is_some_and(|frame| held.contains(&i16::from_be_bytes([frame[0], frame[1]])));
                if !is_held {
                    self.deliver_to_broker(connection, cluster, |_, _| Fault::None);
                }
                self.deliver_to_client(connection, core, now);
            }
        }
    }
}

//! Drives a client's core over the simulated network: the loop that [`highwater_client::Core`] asks for.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use highwater_client::{Action, ConnectionId, Core, FrameReader, MonoTime};
use highwater_io::Io;
use highwater_io::net::TcpStream;
use highwater_io::sync::Watch;

const MAX_FRAME_BYTES: usize = 8 << 20;

/// A core, and whoever waits for it to get somewhere.
pub(super) struct Driven<C> {
    pub(super) io: Io,
    pub(super) core: RefCell<C>,
    /// Counts news: what came over connections, and what the application asked.
    news: Watch<u64>,
    outboxes: RefCell<BTreeMap<ConnectionId, Rc<Outbox>>>,
}

/// What a connection still has to write. Bounded by the requests that the core allows in flight.
struct Outbox {
    frames: RefCell<VecDeque<(i32, Vec<Bytes>)>>,
    filled: Watch<u64>,
    closed: Watch<bool>,
}

impl<C: Core + 'static> Driven<C> {
    pub(super) fn new(io: Io, core: C) -> Rc<Self> {
        Rc::new(Driven { io, core: RefCell::new(core), news: Watch::new(0), outboxes: RefCell::default() })
    }

    /// The clock of the core.
    pub(super) fn now(&self) -> MonoTime {
        MonoTime(self.io.now().as_nanos())
    }

    /// Makes the driver look at the core.
    pub(super) fn wake(&self) {
        self.news.update(|news| *news += 1);
    }

    /// Drives the core for ever, showing it to `collect` after each look.
    pub(super) async fn drive(self: Rc<Self>, mut collect: impl FnMut(&mut C)) {
        loop {
            let seen = self.news.get();
            let now = self.now();
            let actions: Vec<Action> =
                std::iter::from_fn(|| self.core.borrow_mut().poll_action(now)).collect();
            collect(&mut self.core.borrow_mut());
            let wake_at = self.core.borrow().wake_at();
            for action in actions {
                self.perform(action);
            }
            let news = self.news.wait_for(|&news| (news != seen).then_some(()));
            let sleep = wake_at.saturating_since(self.now());
            if wake_at == MonoTime::NEVER {
                news.await;
            } else {
                let _ = self.io.timeout(sleep, news).await;
            }
        }
    }

    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::Connect { connection, host, port } => {
                let outbox = Rc::new(Outbox {
                    frames: RefCell::default(),
                    filled: Watch::new(0),
                    closed: Watch::new(false),
                });
                self.outboxes.borrow_mut().insert(connection, Rc::clone(&outbox));
                self.io.spawn(Rc::clone(self).connection(connection, host, port, outbox)).detach();
            }
            Action::Send { connection, correlation_id, parts } => {
                if let Some(outbox) = self.outboxes.borrow().get(&connection) {
                    outbox.frames.borrow_mut().push_back((correlation_id, parts));
                    outbox.filled.update(|count| *count += 1);
                }
            }
            Action::Disconnect { connection } => {
                if let Some(outbox) = self.outboxes.borrow_mut().remove(&connection) {
                    outbox.closed.set(true);
                }
            }
        }
    }

    fn tell(&self, tell: impl FnOnce(&mut C, MonoTime)) {
        let now = self.now();
        tell(&mut self.core.borrow_mut(), now);
        self.wake();
    }

    /// The life of one connection.
    async fn connection(
        self: Rc<Self>,
        connection: ConnectionId,
        host: Arc<str>,
        port: u16,
        outbox: Rc<Outbox>,
    ) {
        let closed = outbox.closed.wait_for(|&closed| closed.then_some(()));
        until(closed, self.converse(connection, &host, port, &outbox)).await;
        if self.outboxes.borrow_mut().remove(&connection).is_some() {
            self.tell(|core, now| core.on_disconnected(connection, now));
        }
    }

    async fn converse(&self, connection: ConnectionId, host: &str, port: u16, outbox: &Outbox) {
        let Ok(addresses) = self.io.resolve(host, port).await else { return };
        let Some(&address) = addresses.first() else { return };
        let Ok(stream) = self.io.connect(address).await else { return };
        self.tell(|core, now| core.on_connected(connection, now));
        until(self.read(connection, &stream), self.write(connection, &stream, outbox)).await;
        stream.shutdown();
    }

    async fn read(&self, connection: ConnectionId, stream: &TcpStream) {
        let mut reader = FrameReader::new(MAX_FRAME_BYTES);
        loop {
            match stream.recv().await {
                Ok(bytes) if !bytes.is_empty() => reader.push(&bytes),
                _ => return,
            }
            while let Some(frame) = reader.next_frame().expect("a broker frames its answers") {
                self.tell(|core, now| core.on_frame(connection, frame, now));
            }
        }
    }

    async fn write(&self, connection: ConnectionId, stream: &TcpStream, outbox: &Outbox) {
        loop {
            let seen = outbox.filled.get();
            let frame = outbox.frames.borrow_mut().pop_front();
            let Some((correlation_id, parts)) = frame else {
                outbox.filled.wait_for(|&count| (count != seen).then_some(())).await;
                continue;
            };
            if stream.send(parts).await.is_err() {
                return;
            }
            self.tell(|core, now| core.on_sent(connection, correlation_id, now));
        }
    }
}

/// Waits for either; the other is dropped.
pub(super) async fn until(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let mut one = pin!(one);
    let mut other = pin!(other);
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await;
}

//! The seam between a core and whoever moves its bytes.
//!
//! A core is a state machine: it is told what happened and when, and is asked what to do. Everything that drives one
//! (the adaptors of this crate, the simulator, a broker in the same process) is this loop:
//!
//! ```text
//!   loop {
//!       while let Some(action) = core.poll_action(now()) { perform it, without waiting for it to finish }
//!       take what the core has for the application (deliveries, records, results)
//!       wait for the first of: something happened on a connection │ the application called │ core.wake_at()
//!       tell the core: on_connected, on_sent, on_frame, on_disconnected
//!   }
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::time::MonoTime;

/// One attempt to be connected to one broker. Never used twice, so that news of an old connection cannot be taken for
/// news of the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What a core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect by TCP, then say [`Core::on_connected`] or [`Core::on_disconnected`].
    Connect {
        /// The new connection's name.
        connection: ConnectionId,
        /// Host name or address, as the broker advertises it.
        host: Arc<str>,
        /// TCP port.
        port: u16,
    },
    /// Write the parts one after the other, after all that was sent on this connection before, then say
    /// [`Core::on_sent`]. The parts are one frame, with its length. The core has at most
    /// `max.in.flight.requests.per.connection` requests and one request of its own bookkeeping outstanding on a
    /// connection, which bounds what an adaptor must queue.
    Send {
        /// An established connection.
        connection: ConnectionId,
        /// Which request it is, for `on_sent`.
        correlation_id: i32,
        /// The bytes.
        parts: Vec<Bytes>,
    },
    /// Drop the connection, or the attempt. The core has forgotten it: nothing needs to be said.
    Disconnect {
        /// The connection.
        connection: ConnectionId,
    },
}

/// A client without I/O. News of connections that the core has forgotten is ignored.
pub trait Core {
    /// The next thing to do now. Call it until it returns `None` after every call that told the core something, and
    /// when [`wake_at`](Self::wake_at) has come.
    fn poll_action(&mut self, now: MonoTime) -> Option<Action>;

    /// When [`poll_action`](Self::poll_action) must be called again even if nothing happens.
    /// [`MonoTime::NEVER`] if it need not be.
    fn wake_at(&self) -> MonoTime;

    /// The connection is established.
    fn on_connected(&mut self, connection: ConnectionId, now: MonoTime);

    /// The connection could not be established, was closed by the broker, or failed.
    fn on_disconnected(&mut self, connection: ConnectionId, now: MonoTime);

    /// The last byte of a request was handed to the operating system.
    fn on_sent(&mut self, connection: ConnectionId, correlation_id: i32, now: MonoTime);

    /// A whole frame came, here without its length.
    fn on_frame(&mut self, connection: ConnectionId, frame: Bytes, now: MonoTime);
}

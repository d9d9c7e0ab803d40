//! Accepts connections. Every shard listens on the same port, and the kernel spreads connections over them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::net::{ListenOptions, TcpListener, TcpStream};

use crate::connection;
use crate::shard::Shard;
use highwater_io::race::{Either, first};

/// How long to wait when the process is out of descriptors.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait between two attempts.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// How long to wait for a port that is taken.
const TAKEN_PATIENCE: Duration = Duration::from_secs(3);

/// Listens on `address`, beside the other shards.
pub(crate) async fn listen(io: &Io, address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    io.listen(address, ListenOptions { reuse_port: true, backlog }).await
}

/// Waits until nobody else listens on `address`, and fails if somebody still does after a while. A port that several
/// shards share could silently be shared with another process, too; and the sockets of a killed process stay for a
/// moment, until the kernel has taken its ring apart.
pub(crate) async fn wait_until_free(io: &Io, address: SocketAddr) -> io::Result<()> {
    let deadline = io.now() + TAKEN_PATIENCE;
    loop {
        // A socket that is to have the port for itself says whether it could.
        match io.listen(address, ListenOptions { reuse_port: false, backlog: 1 }).await {
            Ok(alone) => {
                drop(alone);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && io.now() < deadline => {
                io.sleep(PROBE_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Accepts and serves connections until the broker stops.
pub(crate) async fn accept(shard: Rc<Shard>, listener: TcpListener) {
    shard.accepting.wait_for(|&accepting| accepting.then_some(())).await;
    let mut fails = false;
    loop {
        let stopping = shard.stopping.wait_for(|&stopping| stopping.then_some(()));
        let accepted = match first(stopping, listener.accept()).await {
            Either::Left(()) => return,
            Either::Right(accepted) => accepted,
        };
        let stream = match accepted {
            Ok(stream) => {
                fails = false;
                stream
            }
            Err(error) => {
                // Once for a while without descriptors, which may be long.
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(%error, "no connection can be accepted; tried again all the time");
                }
                shard.io.sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
                continue;
            }
        };
        admit(&shard, stream);
    }
}

/// Serves a connection, if there is room for it.
fn admit(shard: &Rc<Shard>, stream: TcpStream) {
    match shard.broker.limits.admit(stream.peer_addr().ip()) {
        Some(slot) => shard.io.spawn(connection::serve(Rc::clone(shard), stream, slot)).detach(),
        None => {
            shard.counters().connections_refused.add(1);
            tracing::debug!(peer = %stream.peer_addr(), "connection refused: too many");
        }
    }
}

/// Serves a connection from within this process. Dropped, its other end sees the end of the stream.
pub(crate) fn adopt(shard: &Rc<Shard>, end: UnixStream) {
    if shard.stopping.get() {
        return;
    }
    match shard.io.adopt(end) {
        Ok(stream) => admit(shard, stream),
        Err(error) => tracing::warn!(%error, "no connection within this process"),
    }
}

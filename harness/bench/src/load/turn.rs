//! Moves a client core's bytes on the thread that calls: one `ppoll` a turn, no executor between schedule and socket.
//!
//! The load generator wants to wake at intended send times and nothing else in the way, so it drives the core itself.
//! Connecting blocks, which on the loopback interface is no time at all: a dead broker refuses at once.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use highwater_client::{Action, ConnectionId, Core, FrameReader, MonoTime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::Clock;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Parts handed to one `writev`.
const MAX_PARTS: usize = 64;
const READ_BYTES: usize = 256 << 10;
const MAX_FRAME_BYTES: usize = 64 << 20;

/// The connections of one core.
#[derive(Debug)]
pub(super) struct Turner {
    clock: Clock,
    connections: BTreeMap<ConnectionId, Connection>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    frames: FrameReader,
    /// Unwritten parts, the first perhaps begun.
    out: VecDeque<Part>,
}

#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Set on the last part of a request.
    ends: Option<i32>,
}

/// What became of a look at one connection.
enum Fate {
    Lives,
    Broken,
}

impl Turner {
    pub(super) fn new(clock: Clock) -> Self {
        Turner { clock, connections: BTreeMap::new(), scratch: vec![0; READ_BYTES] }
    }

    /// Does what the core wants, then waits for news from the network until `until` or the core's own next instant,
    /// whichever is first, and tells the core.
    pub(super) fn turn(&mut self, core: &mut impl Core, until: MonoTime) -> io::Result<()> {
        self.act(core);
        let until = until.min(core.wake_at());
        let ready = self.wait(until)?;
        for (id, readable) in ready {
            self.serve(core, id, readable);
        }
        self.act(core);
        Ok(())
    }

    fn act(&mut self, core: &mut impl Core) {
        while let Some(action) = core.poll_action(self.clock.mono()) {
            match action {
                Action::Connect { connection, host, port } => self.connect(core, connection, &host, port),
                Action::Send { connection, correlation_id, parts } => {
                    let Some(known) = self.connections.get_mut(&connection) else { continue };
                    let last = parts.len().saturating_sub(1);
                    let ends = |place| (place == last).then_some(correlation_id);
                    known.out.extend(
                        parts.into_iter().enumerate().map(|(place, bytes)| Part { bytes, ends: ends(place) }),
                    );
                    self.serve(core, connection, false);
                }
                Action::Disconnect { connection } => {
                    self.connections.remove(&connection);
                }
            }
        }
    }

    fn connect(&mut self, core: &mut impl Core, id: ConnectionId, host: &str, port: u16) {
        match open(host, port) {
            Ok(stream) => {
                let frames = FrameReader::new(MAX_FRAME_BYTES);
                self.connections.insert(id, Connection { stream, frames, out: VecDeque::new() });
                core.on_connected(id, self.clock.mono());
            }
            Err(_) => core.on_disconnected(id, self.clock.mono()),
        }
    }

    fn wait(&self, until: MonoTime) -> io::Result<Vec<(ConnectionId, bool)>> {
        let mut fds: Vec<PollFd<'_>> = self
            .connections
            .values()
            .map(|connection| {
                let writing = if connection.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                PollFd::new(&connection.stream, PollFlags::IN | writing)
            })
            .collect();
        let left = until.saturating_since(self.clock.mono());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let heard = |fd: &PollFd<'_>| (!fd.revents().is_empty()).then(|| fd.revents() != PollFlags::OUT);
        let ready = self.connections.keys().zip(&fds).filter_map(|(id, fd)| Some((*id, heard(fd)?)));
        Ok(ready.collect())
    }

    fn serve(&mut self, core: &mut impl Core, id: ConnectionId, readable: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut fate = connection.write(core, id, self.clock);
        if readable && matches!(fate, Fate::Lives) {
            fate = connection.read(core, id, self.clock, &mut self.scratch);
        }
        if matches!(fate, Fate::Broken) {
            self.connections.remove(&id);
            core.on_disconnected(id, self.clock.mono());
        }
    }
}

fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let address = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Connection {
    fn write(&mut self, core: &mut impl Core, id: ConnectionId, clock: Clock) -> Fate {
        while !self.out.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                self.out.iter().take(MAX_PARTS).map(|part| IoSlice::new(&part.bytes)).collect();
            match (&self.stream).write_vectored(&slices) {
                Ok(0) => return Fate::Broken,
                Ok(written) => self.written(written, core, id, clock),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Lives,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Fate::Broken,
            }
        }
        Fate::Lives
    }

    fn written(&mut self, mut bytes: usize, core: &mut impl Core, id: ConnectionId, clock: Clock) {
        while let Some(part) = self.out.front_mut() {
            if bytes < part.bytes.len() {
                // Also where nothing is left of what was written and the next part is not empty.
                let _ = part.bytes.split_to(bytes);
                return;
            }
            bytes -= part.bytes.len();
            let ends = part.ends;
            self.out.pop_front();
            if let Some(correlation_id) = ends {
                core.on_sent(id, correlation_id, clock.mono());
            }
        }
    }

    fn read(&mut self, core: &mut impl Core, id: ConnectionId, clock: Clock, scratch: &mut [u8]) -> Fate {
        match (&self.stream).read(scratch) {
            Ok(0) => return Fate::Broken,
            Ok(bytes) => self.frames.push(&scratch[..bytes]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Fate::Broken,
        }
        loop {
            match self.frames.next_frame() {
                Ok(Some(frame)) => core.on_frame(id, frame, clock.mono()),
                Ok(None) => return Fate::Lives,
                Err(_) => return Fate::Broken,
            }
        }
    }
}

//! One connection: requests in, replies out, in order.
//!
//! ```text
//!   reader:  size ─► turn ─► content ─► decode ─► begin ──► requests at work ──► writer: send
//!                      │                                          │
//!                      └────────── in-flight permits ◄────────────┘ given back when the reply is sent
//! ```
//!
//! Kafka works on one request of a connection at a time. So do we, except that produce requests, whose acknowledgement
//! waits for the disk, follow each other without waiting: each takes one in-flight permit, every other request takes all
//! of them. Batches are appended in the order of their requests, and replies leave in that order. A fetch that waits
//! holds its connection back as in Kafka; of what follows it, no more is read than came in one piece of memory with it.
//!
//! A client that goes away takes with it what only looks, such as a waiting fetch, whatever it sent behind that; everything
//! else that it asked for is done to the end, since it may be half done already, and since a producer with acks=0 may close
//! right after its last batch. One that only shuts down its sending side counts as gone, too. One that went away without a
//! word is not told from one that waits: no fetch waits longer than a connection may be idle.
//!
//! Both tasks end together: when the peer ends the connection or is too slow, when a request cannot be decoded, when a
//! reply cannot be sent, and when the broker stops and every accepted request is answered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::net::{Sent, TcpStream};
use highwater_io::sync::{Permit, Semaphore, Watch};
use highwater_io::{Task, TimedOut};
use highwater_protocol::{ApiKey, CheckedRequest, DecodeError, Request, check_request};

use crate::frame::{Frame, FrameError, FrameReader};
use crate::handlers;
use crate::limits::ConnectionSlot;
use crate::memory::{RequestMemory, SMALL_FRAME_BYTES};
use crate::reply::{Held, Outcome, Reply};
use crate::shard::Shard;
use highwater_io::race::{Either, first};

/// A send takes at most this many bytes, so that its time limit is about progress, not about size.
pub(crate) const SEND_BYTES: usize = 1 << 20;

/// While others wait for the memory of replies, a client may take this long for a part.
const SLOW_READER_PATIENCE: Duration = Duration::from_secs(5);

/// Replies that are ready leave together up to this size.
const GATHER_BYTES: usize = 64 << 10;

/// So much of what a request becomes is covered by the memory that the smallest frame holds. Frames that came together hold none
/// of their own.
const FREE_BYTES: usize = SMALL_FRAME_BYTES;

/// The memory that a request takes besides its frame, until its reply is sent: decoded, worked on, and answered.
fn decoded_bytes(request: &CheckedRequest, memory: &RequestMemory) -> usize {
    let free_bytes = if memory.is_its_own() { FREE_BYTES } else { 0 };
    (request.elements() * handlers::element_bytes(request.api_key())).saturating_sub(free_bytes)
}

/// Serves a connection to its end.
pub(crate) async fn serve(shard: Rc<Shard>, stream: TcpStream, slot: ConnectionSlot) {
    shard.counters().connections_accepted.add(1);
    shard.counters().connections_open.add(1);
    shard.connections.update(|count| *count += 1);
    let connection = Rc::new(Connection {
        stream,
        in_flight: Semaphore::new(shard.broker.config.network.max_in_flight),
        queue: Queue::new(),
    });
    let writer = shard.io.spawn(write_replies(Rc::clone(&shard), Rc::clone(&connection)));
    match read_requests(&shard, &connection).await {
        End::AnswerRest => connection.queue.close(),
        End::Gone => connection.queue.abandon(&shard),
    }
    writer.await;
    connection.stream.shutdown();
    shard.connections.update(|count| *count -= 1);
    shard.counters().connections_open.subtract(1);
    drop(slot);
}

struct Connection {
    stream: TcpStream,
    in_flight: Semaphore,
    queue: Queue,
}

/// A request that is being worked on. Turn and memory are held until the reply is sent.
struct AtWork {
    api_key: ApiKey,
    outcome: Task<Outcome>,
    turn: Permit,
    memory: RequestMemory,
}

/// Requests at work, in order. Bounded by the in-flight permits that each of them holds.
struct Queue {
    at_work: RefCell<VecDeque<AtWork>>,
    state: Watch<QueueState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct QueueState {
    /// Nothing follows.
    closed: bool,
    /// Nobody waits for replies.
    abandoned: bool,
    /// A reply could not be sent.
    broken: bool,
}

impl Queue {
    fn new() -> Self {
        Queue { at_work: RefCell::default(), state: Watch::new(QueueState::default()) }
    }

    fn push(&self, shard: &Shard, request: AtWork) {
        self.at_work.borrow_mut().push_back(request);
        if self.state.get().abandoned {
            self.abandon(shard);
        } else {
            self.state.update(|_| ());
        }
    }

    fn close(&self) {
        self.state.update(|state| state.closed = true);
    }

    /// Nothing follows, and nobody waits for what is there.
    fn abandon(&self, shard: &Shard) {
        let abandoned = std::mem::take(&mut *self.at_work.borrow_mut());
        for AtWork { api_key, outcome, turn, memory } in abandoned {
            if handlers::is_mere_look(api_key) {
                drop(outcome);
                continue;
            }
            let finish = async move {
                outcome.await;
                drop((turn, memory));
            };
            shard.io.spawn(finish).detach();
        }
        self.state.update(|state| {
            state.closed = true;
            state.abandoned = true;
        });
    }

    async fn abandoned(&self) {
        self.state.wait_for(|state| state.abandoned.then_some(())).await;
    }

    fn break_off(&self, shard: &Shard) {
        self.abandon(shard);
        self.state.update(|state| state.broken = true);
    }

    /// The next request, finished or not; `None` when nothing follows.
    async fn pop(&self) -> Option<AtWork> {
        self.state
            .wait_for(|state| match self.at_work.borrow_mut().pop_front() {
                Some(request) => Some(Some(request)),
                None => state.closed.then_some(None),
            })
            .await
    }

    /// The next request, if it is finished.
    fn pop_finished(&self) -> Option<AtWork> {
        let mut at_work = self.at_work.borrow_mut();
        if at_work.front()?.outcome.is_finished() { at_work.pop_front() } else { None }
    }
}

/// Why no further request is read.
enum End {
    /// The broker stops, or the client broke the protocol: what was accepted before is answered.
    AnswerRest,
    /// Nobody waits for replies.
    Gone,
}

async fn read_requests(shard: &Rc<Shard>, connection: &Connection) -> End {
    let network = &shard.broker.config.network;
    let mut reader = FrameReader::new(&shard.io, &shard.request_budget, &shard.frame_pools, network);
    let mut follows_fetch = false;
    loop {
        // Too large to be moved for each request.
        let read = pin!(read_frame(shard, connection, &mut reader, follows_fetch));
        let (frame, turn) = match or_stop(shard, connection, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return end_of(shard, connection, &error),
            Err(end) => return end,
        };
        let Frame { bytes, mut memory } = frame;
        let size_bytes = bytes.len();
        shard.counters().requests.add(1);
        shard.counters().request_bytes.add(size_bytes as u64);
        let decoded = match check_request(bytes) {
            Ok(checked) => {
                let decoded_bytes = decoded_bytes(&checked, &memory);
                if decoded_bytes > 0
                    && let Err(end) = or_stop(shard, connection, memory.admit(decoded_bytes)).await
                {
                    return end;
                }
                checked.decode()
            }
            Err(error) => Err(error),
        };
        match decoded {
            Ok(request) => {
                let admitted = async {
                    memory.admit(handlers::state_bytes(shard, &request)).await;
                    whole_turn(connection, &request, turn).await
                };
                let turn = match or_stop(shard, connection, admitted).await {
                    Ok(turn) => turn,
                    Err(end) => return end,
                };
                // From here on the request is accepted, and is not cut off by a stop.
                let api_key = request.header.api_key;
                follows_fetch = api_key == ApiKey::Fetch;
                let outcome = handlers::begin(shard, request).await;
                connection.queue.push(shard, AtWork { api_key, outcome, turn, memory });
            }
            Err(DecodeError::UnsupportedVersion { api_key: ApiKey::ApiVersions, correlation_id, .. }) => {
                let outcome = async move { handlers::api_versions::unsupported(correlation_id) };
                let (api_key, outcome) = (ApiKey::ApiVersions, shard.io.spawn(outcome));
                connection.queue.push(shard, AtWork { api_key, outcome, turn, memory });
            }
            Err(error) => {
                shard.counters().malformed_requests.add(1);
                let peer = connection.stream.peer_addr();
                tracing::debug!(%peer, %error, "connection closed");
                return End::AnswerRest;
            }
        }
    }
}

/// Waits for `work`, unless the broker stops or a reply could not be sent.
async fn or_stop<T>(shard: &Shard, connection: &Connection, work: impl Future<Output = T>) -> Result<T, End> {
    let stopping = shard.stopping.wait_for(|&stopping| stopping.then_some(End::AnswerRest));
    let broken = connection.queue.state.wait_for(|state| state.broken.then_some(End::Gone));
    match first(first(stopping, broken), work).await {
        Either::Left(Either::Left(end) | Either::Right(end)) => Err(end),
        Either::Right(done) => Ok(done),
    }
}

/// Reads the next frame. Its content waits until no request that needs the connection for itself is at work.
async fn read_frame(
    shard: &Shard,
    connection: &Connection,
    reader: &mut FrameReader,
    follows_fetch: bool,
) -> Result<(Frame, Permit), FrameError> {
    let size_bytes = reader.size(&connection.stream).await?;
    let turn = if follows_fetch {
        turn_after_fetch(shard, connection).await
    } else {
        connection.in_flight.acquire(1).await
    };
    let frame = reader.content(&connection.stream, size_bytes).await?;
    Ok((frame, turn))
}

/// The turn behind a fetch, which may take long to come while nobody reads what the client sends. Once it sends no more the
/// fetch is dropped; what follows it is there to be done.
async fn turn_after_fetch(shard: &Shard, connection: &Connection) -> Permit {
    let mut turn = pin!(connection.in_flight.acquire(1));
    match first(turn.as_mut(), connection.stream.hung_up()).await {
        Either::Left(turn) => turn,
        Either::Right(()) => {
            connection.queue.abandon(shard);
            turn.await
        }
    }
}

/// What `request` needs before it is begun: of the in-flight permits one for a produce, all for every other.
async fn whole_turn(connection: &Connection, request: &Request, mut turn: Permit) -> Permit {
    let api = request.header.api_key;
    let others = connection.in_flight.limit() - 1;
    if api != ApiKey::Produce && others > 0 {
        turn.merge(connection.in_flight.acquire(others).await);
    }
    turn
}

fn end_of(shard: &Shard, connection: &Connection, error: &FrameError) -> End {
    let peer = connection.stream.peer_addr();
    match error {
        FrameError::Ended(error) => {
            tracing::trace!(%peer, %error, "connection ended");
            End::Gone
        }
        FrameError::Idle => {
            shard.counters().connections_timed_out.add(1);
            End::AnswerRest
        }
        FrameError::TooSlow { .. } | FrameError::GaveWay { .. } => {
            shard.counters().connections_timed_out.add(1);
            tracing::debug!(%peer, %error, "connection closed");
            End::AnswerRest
        }
        FrameError::Size { .. } => {
            shard.counters().malformed_requests.add(1);
            tracing::debug!(%peer, %error, "connection closed");
            End::AnswerRest
        }
    }
}

async fn write_replies(shard: Rc<Shard>, connection: Rc<Connection>) {
    while let Some(request) = connection.queue.pop().await {
        let mut batch = Batch::default();
        let mut next = Some(request);
        while let Some(request) = next {
            // A fetch may wait for long. Such a request holds the connection, so that nothing comes before or after it.
            if handlers::is_mere_look(request.api_key) {
                match first(connection.queue.abandoned(), batch.add(request)).await {
                    Either::Left(()) => return,
                    Either::Right(()) => {}
                }
            } else {
                batch.add(request).await;
            }
            next = if batch.size_bytes < GATHER_BYTES && !batch.closes {
                connection.queue.pop_finished()
            } else {
                None
            };
        }
        let closes = batch.closes;
        shard.counters().response_bytes.add(batch.size_bytes as u64);
        let holds_memory = batch.held.iter().any(|(.., held)| held.memory.is_some());
        let pieces = std::mem::take(&mut batch.pieces);
        let sent = send(&shard, &connection.stream, pieces, holds_memory).await;
        if closes || !sent {
            connection.queue.break_off(&shard);
            connection.stream.shutdown();
            return;
        }
    }
}

/// Replies that leave together, and what they hold until they are sent.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    size_bytes: usize,
    closes: bool,
    held: Vec<(Permit, RequestMemory, Held)>,
}

impl Batch {
    async fn add(&mut self, request: AtWork) {
        let AtWork { outcome, turn, memory, .. } = request;
        let held = match outcome.await {
            Outcome::Reply(Reply { mut pieces, held }) => {
                self.size_bytes += pieces.iter().map(Bytes::len).sum::<usize>();
                self.pieces.append(&mut pieces);
                held
            }
            Outcome::Silence => Held::default(),
            Outcome::Close => {
                self.closes = true;
                Held::default()
            }
        };
        self.held.push((turn, memory, held));
    }
}

/// Sends all pieces, as long as the peer takes some of them within each time limit. Who takes his time is cut off while
/// others wait for the memory that his request and its reply hold.
async fn send(shard: &Shard, stream: &TcpStream, pieces: Vec<Bytes>, holds_memory: bool) -> bool {
    // A part that is sent from where it is waits for its peer while the next is on its way.
    let mut last: Option<Sent> = None;
    for part in parts(pieces) {
        let step = async {
            let sent = stream.start_send(part).await?;
            if let Some(before) = last.replace(sent) {
                before.delivered().await;
            }
            Ok(())
        };
        if !is_taken(shard, stream, holds_memory, step).await {
            return false;
        }
    }
    match last {
        Some(last) => {
            let delivered = async {
                last.delivered().await;
                Ok(())
            };
            is_taken(shard, stream, holds_memory, delivered).await
        }
        None => true,
    }
}

/// Whether the peer takes what `step` sends within its time.
async fn is_taken(
    shard: &Shard,
    stream: &TcpStream,
    holds_memory: bool,
    step: impl Future<Output = io::Result<()>>,
) -> bool {
    let limit = shard.broker.config.network.response_write_timeout;
    let responses_short = async {
        if !holds_memory {
            std::future::pending::<()>().await;
        }
        shard.response_budget.is_short_for(&shard.io, SLOW_READER_PATIENCE).await;
    };
    let short = first(shard.request_budget.is_short_for(&shard.io, SLOW_READER_PATIENCE), responses_short);
    let sent = match first(shard.io.timeout(limit, step), short).await {
        Either::Left(sent) => sent,
        Either::Right(_) => Err(TimedOut),
    };
    match sent {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::trace!(peer = %stream.peer_addr(), %error, "reply not sent");
            false
        }
        Err(_) => {
            shard.counters().connections_timed_out.add(1);
            tracing::debug!(peer = %stream.peer_addr(), "connection closed: the client does not take its response");
            false
        }
    }
}

/// Cuts `pieces` into parts of at most [`SEND_BYTES`].
fn parts(pieces: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut room = SEND_BYTES;
    for mut piece in pieces {
        while !piece.is_empty() {
            let taken = piece.split_to(piece.len().min(room));
            room -= taken.len();
            part.push(taken);
            if room == 0 {
                parts.push(std::mem::take(&mut part));
                room = SEND_BYTES;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_into_parts_without_losing_a_byte() {
        let pieces =
            vec![Bytes::from(vec![1; 10]), Bytes::from(vec![2; 3 * SEND_BYTES]), Bytes::from(vec![3; 5])];
        let parts = parts(pieces.clone());
        assert_eq!(parts.len(), 4);
        let size = |part: &Vec<Bytes>| part.iter().map(Bytes::len).sum::<usize>();
        assert!(parts.iter().all(|part| size(part) <= SEND_BYTES));
        assert_eq!(parts.concat().concat(), pieces.concat());
    }
}

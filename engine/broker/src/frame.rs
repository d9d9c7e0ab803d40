//! Requests from the socket: a size, then as many bytes.
//!
//! Bytes go from the kernel straight into the memory of frames. The shard's shared receive buffers are passed by on
//! purpose: a connection that is not served for a while, because its fetch waits, would keep some of them from all
//! others.
//!
//! ```text
//!   nothing is there       size (4 bytes) ──► memory ──► content, and what else has arrived as far as there is room
//!   more came              ── frames that are whole are cut off, without a copy and without a call
//!                          ── the start of one that is not moves to the memory that it is received into
//! ```
//!
//! A peer that sends faster than we read gets more room than its frame needs, so that one receive brings many frames.
//! A connection that waits holds no memory.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_io::net::TcpStream;
use highwater_io::{BufPool, Io, IoBuf, MonoTime};

use crate::memory::{RequestBudget, RequestMemory, SHORT_MEMORY_PATIENCE, SMALL_FRAME_BYTES};
use highwater_io::race::{Either, first};

/// Bytes of a frame's size.
const SIZE_BYTES: usize = 4;

/// A frame begins in a small piece of memory and moves to the next larger one when that is full, so that it holds at
/// most some eight times what has arrived of it; beyond the largest it grows to twice its size. After a whole frame, and
/// while memory is plenty, the next one of that size is believed at once.
const SMALL_BYTES: usize = SMALL_FRAME_BYTES;
const MEDIUM_BYTES: usize = 128 << 10;
const LARGE_BYTES: usize = 1 << 20;

/// Frames up to this size are received together. Of larger ones there are not many in a piece of memory, and the start of
/// the next would have to be moved.
const TOGETHER_BYTES: usize = MEDIUM_BYTES / 2;

/// Memory that frames used is kept for the next ones: so large a part of the budget of each size. New memory costs as much as what is
/// received into it.
const KEPT_OF_SMALL: usize = 64;
const KEPT_OF_MEDIUM: usize = 16;
const KEPT_OF_LARGE: usize = 4;

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The peer closed the connection, or it failed.
    #[error("connection ended: {0}")]
    Ended(#[from] std::io::Error),
    /// Nothing came for `connections.max.idle.ms`.
    #[error("idle")]
    Idle,
    /// The frame did not arrive within `socket.request.read.timeout.ms`.
    #[error("a request of {size_bytes} bytes did not arrive within {timeout:?}")]
    TooSlow {
        /// As announced.
        size_bytes: usize,
        /// The limit.
        timeout: Duration,
    },
    /// Others wait for the memory that the frame holds, and its peer takes its time.
    #[error("a request of {size_bytes} bytes did not arrive while memory was short")]
    GaveWay {
        /// As announced.
        size_bytes: usize,
    },
    /// The size is negative or above `socket.request.max.bytes`.
    #[error("a request of {size_bytes} bytes is announced, at most {limit_bytes} are accepted")]
    Size {
        /// As announced.
        size_bytes: i32,
        /// The limit.
        limit_bytes: usize,
    },
}

/// A frame's content, and the memory that it holds.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) memory: RequestMemory,
}

/// The memory of a shard's frames.
#[derive(Debug, Clone)]
pub(crate) struct FramePools {
    small: BufPool,
    medium: BufPool,
    large: BufPool,
}

impl FramePools {
    /// For a shard whose requests take `budget_bytes` at most. That, and not the pools, bounds what is handed out.
    pub(crate) fn new(budget_bytes: usize) -> Self {
        let pool = |bytes: usize, part: usize| BufPool::new(bytes, usize::MAX, budget_bytes / part / bytes);
        FramePools {
            small: pool(SMALL_BYTES, KEPT_OF_SMALL),
            medium: pool(MEDIUM_BYTES, KEPT_OF_MEDIUM),
            large: pool(LARGE_BYTES, KEPT_OF_LARGE),
        }
    }

    fn take(&self, capacity: usize) -> IoBuf {
        let pool = match capacity {
            SMALL_BYTES => &self.small,
            MEDIUM_BYTES => &self.medium,
            LARGE_BYTES => &self.large,
            _ => return IoBuf::with_capacity(capacity),
        };
        pool.try_take().unwrap_or_else(|| IoBuf::with_capacity(capacity))
    }
}

/// How much memory a frame of `size_bytes` takes when what it has, `capacity`, is full.
fn next_capacity(capacity: usize, size_bytes: usize) -> usize {
    match capacity {
        0..SMALL_BYTES => SMALL_BYTES,
        SMALL_BYTES..MEDIUM_BYTES => MEDIUM_BYTES,
        MEDIUM_BYTES..LARGE_BYTES => LARGE_BYTES,
        _ => capacity.saturating_mul(2).min(size_bytes),
    }
}

/// The memory of frames in which `bytes` fit, or the largest.
fn capacity_for(bytes: usize) -> usize {
    let sizes = [SMALL_BYTES, MEDIUM_BYTES];
    sizes.into_iter().find(|&capacity| bytes <= capacity).unwrap_or(LARGE_BYTES)
}

/// Reads the frames of one connection.
pub(crate) struct FrameReader {
    io: Io,
    budget: RequestBudget,
    pools: FramePools,
    limit_bytes: usize,
    read_timeout: Duration,
    max_idle: Duration,
    size_buffer: Option<IoBuf>,
    /// What was received and belongs to no frame yet.
    ahead: Option<Ahead>,
    /// Whether the last receive brought more than was asked for.
    more_came: bool,
    /// The size of the last frame.
    last_bytes: usize,
}

/// At least one byte that was received beyond a frame, and the memory that it shares with that.
struct Ahead {
    bytes: Bytes,
    memory: Rc<RequestMemory>,
}

impl FrameReader {
    pub(crate) fn new(
        io: &Io,
        budget: &RequestBudget,
        pools: &FramePools,
        config: &crate::config::NetworkConfig,
    ) -> Self {
        FrameReader {
            io: io.clone(),
            budget: budget.clone(),
            pools: pools.clone(),
            limit_bytes: config.request_max_bytes,
            read_timeout: config.request_read_timeout,
            max_idle: config.max_idle,
            size_buffer: None,
            ahead: None,
            more_came: false,
            last_bytes: 0,
        }
    }

    /// Waits for the size of the next frame.
    pub(crate) async fn size(&mut self, stream: &TcpStream) -> Result<usize, FrameError> {
        let mut buffer = self.size_buffer.take().unwrap_or_else(|| IoBuf::with_capacity(SIZE_BYTES));
        buffer.set_len(0);
        if let Some(bytes) = self.take_ahead(SIZE_BYTES) {
            buffer.extend_from_slice(&bytes);
        }
        let missing = SIZE_BYTES - buffer.len();
        if missing > 0 {
            let received = self.io.timeout(self.max_idle, stream.recv_into(buffer, missing)).await;
            buffer = received.map_err(|_| FrameError::Idle)??;
        }
        let size_bytes = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        self.size_buffer = Some(buffer);
        usize::try_from(size_bytes)
            .ok()
            .filter(|&size| size <= self.limit_bytes)
            .ok_or(FrameError::Size { size_bytes, limit_bytes: self.limit_bytes })
    }

    /// The first `len` bytes, or fewer, of what was received ahead.
    fn take_ahead(&mut self, len: usize) -> Option<Bytes> {
        let ahead = self.ahead.as_mut()?;
        let taken = ahead.bytes.split_to(len.min(ahead.bytes.len()));
        if ahead.bytes.is_empty() {
            self.ahead = None;
        }
        Some(taken)
    }

    /// Reads the content of a frame of `size_bytes`.
    pub(crate) async fn content(
        &mut self,
        stream: &TcpStream,
        size_bytes: usize,
    ) -> Result<Frame, FrameError> {
        let believed = std::mem::replace(&mut self.last_bytes, size_bytes).min(size_bytes);
        match &self.ahead {
            Some(ahead) if ahead.bytes.len() >= size_bytes => {
                let memory = self.budget.begin(size_bytes).beside(Rc::clone(&ahead.memory));
                let bytes = self.take_ahead(size_bytes).unwrap_or_default();
                Ok(Frame { bytes, memory })
            }
            _ => self.receive(stream, size_bytes, believed).await,
        }
    }

    /// Receives what is missing of a frame, of which `believed` bytes have memory at once.
    async fn receive(
        &mut self,
        stream: &TcpStream,
        size_bytes: usize,
        believed: usize,
    ) -> Result<Frame, FrameError> {
        let too_slow = || FrameError::TooSlow { size_bytes, timeout: self.read_timeout };
        let mut deadline = self.io.now() + self.read_timeout;
        let mut ahead = self.ahead.take();
        let mut memory = self.budget.begin(size_bytes);
        let together = size_bytes <= TOGETHER_BYTES;
        let room = if together && self.more_came { MEDIUM_BYTES } else { believed };
        let begun_bytes = ahead.as_ref().map_or(0, |ahead| ahead.bytes.len());
        let mut capacity = capacity_for(room.max(begun_bytes));
        if !memory.try_spare(capacity) {
            // By steps, then, from what has arrived.
            capacity = capacity_for(begun_bytes);
            if ahead.as_ref().is_some_and(|ahead| ahead.memory.has_last_resort()) {
                // What is waited for here is perhaps what the piece has: it would wait for itself.
                ahead = ahead.map(|ahead| Ahead {
                    bytes: Bytes::copy_from_slice(&ahead.bytes),
                    memory: Rc::new(self.budget.begin(0)),
                });
            }
            self.grow(&mut memory, capacity, &mut deadline).await;
        }
        let begun = ahead.as_ref().map_or(&[][..], |ahead| &ahead.bytes);
        let mut buffer = moved_to(begun, self.pools.take(capacity));
        drop(ahead);
        while buffer.len() < size_bytes {
            if buffer.len() == capacity {
                let larger = next_capacity(capacity, size_bytes);
                self.grow(&mut memory, larger - capacity, &mut deadline).await;
                buffer = moved_to(&buffer, self.pools.take(larger));
                capacity = larger;
            }
            let missing = size_bytes - buffer.len();
            let step = missing.min(capacity - buffer.len());
            let receive = async {
                if together {
                    stream.recv_at_least(buffer, step).await
                } else {
                    stream.recv_into(buffer, step).await
                }
            };
            let arrives = self.io.timeout(deadline - self.io.now(), receive);
            let short = memory.is_short_for(&self.io, SHORT_MEMORY_PATIENCE);
            let arrived = match first(arrives, short).await {
                Either::Left(arrived) => arrived,
                Either::Right(()) => return Err(FrameError::GaveWay { size_bytes }),
            };
            buffer = arrived.map_err(|_| too_slow())??;
        }
        self.more_came = buffer.len() > size_bytes;
        let mut rest = buffer.freeze();
        let bytes = rest.split_to(size_bytes);
        if rest.is_empty() {
            return Ok(Frame { bytes, memory });
        }
        let memory = Rc::new(memory);
        self.ahead = Some(Ahead { bytes: rest, memory: Rc::clone(&memory) });
        Ok(Frame { bytes, memory: self.budget.begin(size_bytes).beside(memory) })
    }

    /// Waits until `bytes` more may be taken, which is not the peer's fault.
    async fn grow(&self, memory: &mut RequestMemory, bytes: usize, deadline: &mut MonoTime) {
        let before = self.io.now();
        memory.grow(bytes).await;
        *deadline = *deadline + (self.io.now() - before);
    }
}

fn moved_to(from: &[u8], mut to: IoBuf) -> IoBuf {
    to.set_len(0);
    to.extend_from_slice(from);
    to
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;

    use highwater_io::net::ListenOptions;
    use highwater_io::sim::{World, WorldConfig};

    use super::*;
    use crate::config::{BrokerConfig, NetworkConfig};

    /// Sizes around every bound, and runs of a usual size.
    const SIZES: &[usize] =
        &[0, 1, 100, 15_600, 15_600, 15_600, 16_384, 16_385, 40_000, 65_537, 140_000, 1_200_000];
    const FRAMES: u64 = 400;

    fn below(io: &Io, bound: u64) -> u64 {
        io.random_u64() % bound
    }

    async fn send_frames(io: Io, address: SocketAddr) {
        let stream = loop {
            match io.connect(address).await {
                Ok(stream) => break stream,
                Err(_) => io.sleep(Duration::from_millis(1)).await,
            }
        };
        let mut bytes = Vec::new();
        for number in 0..FRAMES {
            let size = SIZES[usize::try_from(below(&io, SIZES.len() as u64)).expect("small")];
            bytes.extend(u32::try_from(size).expect("small").to_be_bytes());
            bytes.extend(content(number, size));
        }
        let mut rest = Bytes::from(bytes);
        while !rest.is_empty() {
            let bound = [8, 5_000, 300_000][usize::try_from(below(&io, 3)).expect("small")];
            let len = usize::try_from(1 + below(&io, bound)).expect("small").min(rest.len());
            if stream.send(vec![rest.split_to(len)]).await.is_err() {
                return;
            }
            io.sleep(Duration::from_micros(below(&io, 200))).await;
        }
    }

    fn content(number: u64, size: usize) -> Vec<u8> {
        (0..size as u64).map(|at| u8::try_from((at * 7 + number) % 251).expect("small")).collect()
    }

    /// How many frames stood behind the one before in its memory.
    async fn read_frames(
        io: &Io,
        network: &NetworkConfig,
        memory_bytes: usize,
        address: SocketAddr,
    ) -> usize {
        let listener = io.listen(address, ListenOptions::default()).await.expect("the port is free");
        let stream = listener.accept().await.expect("a connection");
        let budget = RequestBudget::new(memory_bytes);
        let limit = budget.available();
        let mut reader = FrameReader::new(io, &budget, &FramePools::new(memory_bytes), network);
        // Where memory is short, the next may need all of it.
        let most_at_work = if memory_bytes < 1 << 20 { 0 } else { 5 };
        let mut at_work: VecDeque<Frame> = VecDeque::new();
        let mut follow = 0;
        for number in 0..FRAMES {
            let size = reader.size(&stream).await.expect("a size");
            let frame = reader.content(&stream, size).await.expect("content");
            assert_eq!(frame.bytes, content(number, size), "frame {number}");
            let behind = |last: &Frame| last.bytes.as_ptr_range().end.wrapping_add(SIZE_BYTES);
            follow += usize::from(at_work.back().is_some_and(|last| behind(last) == frame.bytes.as_ptr()));
            at_work.push_back(frame);
            if at_work.len() > most_at_work {
                at_work.pop_front();
            }
            io.sleep(Duration::from_micros(below(io, 300))).await;
        }
        assert!(matches!(reader.size(&stream).await, Err(FrameError::Ended(_))));
        at_work.clear();
        drop(reader);
        assert_eq!(budget.available(), limit, "all memory came back");
        follow
    }

    /// The most frames that stood in another's memory, in a few runs.
    fn frames_in_pieces(memory_bytes: usize) -> usize {
        let config = BrokerConfig::for_data_dir("/data");
        let runs = (0..8).map(|seed| {
            let mut world = World::new(seed, WorldConfig::default());
            let (broker, peer) = (world.add_node("broker"), world.add_node("peer"));
            let address = SocketAddr::from((world.address(broker), 9092));
            let found = Rc::new(std::cell::Cell::new(0));
            let (network, told) = (config.network.clone(), Rc::clone(&found));
            world.start(broker, vec![(network, told)], move |io, (network, told)| async move {
                told.set(read_frames(&io, &network, memory_bytes, address).await);
            });
            world.start(peer, vec![()], move |io, ()| send_frames(io, address));
            world.run_until(|world| !world.is_up(broker)).unwrap_or_else(|error| panic!("{error}"));
            found.get()
        });
        runs.max().unwrap_or_default()
    }

    #[test]
    fn frames_come_whole_however_they_were_cut() {
        assert!(frames_in_pieces(64 << 20) > 20, "one receive brings many");
    }

    #[test]
    fn frames_come_whole_where_memory_is_short() {
        frames_in_pieces(256 << 10);
    }

    /// While somebody else has all of the budget, a connection goes on with the last resort. The start of a frame at the end of a
    /// piece that was received with it does not wait for the piece to give it back.
    #[test]
    fn start_of_a_frame_keeps_the_last_resort_from_nobody() {
        const SIZE: usize = 40_000;
        const NUMBER: u64 = 8;
        let config = BrokerConfig::for_data_dir("/data");
        let mut world = World::new(1, WorldConfig::default());
        let (broker, peer) = (world.add_node("broker"), world.add_node("peer"));
        let address = SocketAddr::from((world.address(broker), 9092));
        let read = Rc::new(std::cell::Cell::new(0));
        let state = (config.network, Rc::clone(&read));
        world.start(broker, vec![state], move |io, (network, read)| async move {
            let listener = io.listen(address, ListenOptions::default()).await.expect("the port is free");
            let stream = listener.accept().await.expect("a connection");
            let budget = RequestBudget::new(256 << 10);
            let mut other = budget.begin(usize::MAX);
            other.grow(usize::MAX).await;
            // All that the peer sent is there.
            io.sleep(Duration::from_secs(1)).await;
            let mut reader = FrameReader::new(&io, &budget, &FramePools::new(256 << 10), &network);
            for number in 0..NUMBER {
                let frame = io.timeout(Duration::from_secs(10), async {
                    let size = reader.size(&stream).await.expect("a size");
                    reader.content(&stream, size).await.expect("content")
                });
                let Ok(frame) = frame.await else { return };
                assert_eq!(frame.bytes, content(number, SIZE));
                read.set(read.get() + 1);
            }
        });
        world.start(peer, vec![()], move |io, ()| async move {
            let stream = loop {
                match io.connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => io.sleep(Duration::from_millis(1)).await,
                }
            };
            let frames = (0..NUMBER).flat_map(|number| {
                let size = u32::try_from(SIZE).expect("small").to_be_bytes();
                [size.to_vec(), content(number, SIZE)]
            });
            stream.send(frames.map(Bytes::from).collect()).await.expect("sent");
            io.sleep(Duration::from_secs(1_000)).await;
        });
        world.run_until(|world| !world.is_up(broker)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.get(), NUMBER);
    }

    #[test]
    fn frame_grows_by_what_has_arrived() {
        let growth = |size_bytes: usize| {
            let mut steps = vec![next_capacity(0, size_bytes)];
            while *steps.last().expect("has one") < size_bytes {
                steps.push(next_capacity(*steps.last().expect("has one"), size_bytes));
            }
            steps
        };
        assert_eq!(growth(100), [SMALL_BYTES]);
        assert_eq!(growth(100_000), [SMALL_BYTES, MEDIUM_BYTES]);
        assert_eq!(growth(1_000_000), [SMALL_BYTES, MEDIUM_BYTES, LARGE_BYTES]);
        assert_eq!(growth(3_000_000), [SMALL_BYTES, MEDIUM_BYTES, LARGE_BYTES, 2 << 20, 3_000_000]);
    }
}

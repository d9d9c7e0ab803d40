//! Requests from the socket: a size, then as many bytes.
//!
//! Bytes go from the kernel straight into the frame's own memory. The shard's shared receive buffers are passed by on
//! purpose: a connection that is not served for a while, because its fetch waits, would keep some of them from all
//! others.

use std::time::Duration;

use bytes::Bytes;
use highwater_io::net::TcpStream;
use highwater_io::{BufPool, Io, IoBuf};

use crate::memory::{RequestBudget, RequestMemory, SHORT_MEMORY_PATIENCE, SMALL_FRAME_BYTES};
use highwater_io::race::{Either, first};

/// Bytes of a frame's size.
const SIZE_BYTES: usize = 4;

/// A frame begins in a small piece of memory and moves to the next larger one when that is full, so that it holds at
/// most some eight times what has arrived of it; beyond the largest it grows to twice its size.
const SMALL_BYTES: usize = SMALL_FRAME_BYTES;
const MEDIUM_BYTES: usize = 128 << 10;
const LARGE_BYTES: usize = 1 << 20;

/// Memory that frames used is kept for the next ones: so much of each size.
const KEEP_SMALL: usize = 256;
const KEEP_MEDIUM: usize = 32;
const KEEP_LARGE: usize = 16;

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
    pub(crate) fn new() -> Self {
        // What is handed out is bounded by the budget, not by the pools.
        FramePools {
            small: BufPool::new(SMALL_BYTES, usize::MAX, KEEP_SMALL),
            medium: BufPool::new(MEDIUM_BYTES, usize::MAX, KEEP_MEDIUM),
            large: BufPool::new(LARGE_BYTES, usize::MAX, KEEP_LARGE),
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

/// Reads the frames of one connection.
pub(crate) struct FrameReader {
    io: Io,
    budget: RequestBudget,
    pools: FramePools,
    limit_bytes: usize,
    read_timeout: Duration,
    max_idle: Duration,
    size_buffer: Option<IoBuf>,
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
        }
    }

    /// Waits for the size of the next frame.
    pub(crate) async fn size(&mut self, stream: &TcpStream) -> Result<usize, FrameError> {
        let mut buffer = self.size_buffer.take().unwrap_or_else(|| IoBuf::with_capacity(SIZE_BYTES));
        buffer.set_len(0);
        let received = self.io.timeout(self.max_idle, stream.recv_into(buffer, SIZE_BYTES)).await;
        let buffer = received.map_err(|_| FrameError::Idle)??;
        let size_bytes = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        self.size_buffer = Some(buffer);
        usize::try_from(size_bytes)
            .ok()
            .filter(|&size| size <= self.limit_bytes)
            .ok_or(FrameError::Size { size_bytes, limit_bytes: self.limit_bytes })
    }

    /// Reads the content of a frame of `size_bytes`.
    pub(crate) async fn content(
        &mut self,
        stream: &TcpStream,
        size_bytes: usize,
    ) -> Result<Frame, FrameError> {
        let too_slow = || FrameError::TooSlow { size_bytes, timeout: self.read_timeout };
        let mut deadline = self.io.now() + self.read_timeout;
        let mut memory = self.budget.begin(size_bytes);
        let mut buffer: Option<IoBuf> = None;
        let mut capacity = 0;
        let mut received = 0;
        while received < size_bytes {
            let larger = next_capacity(capacity, size_bytes);
            // Waiting for memory is not the peer's fault.
            let before = self.io.now();
            memory.grow(larger - capacity).await;
            deadline = deadline + (self.io.now() - before);
            let room = moved_to(buffer.take(), self.pools.take(larger));
            capacity = larger;
            let step = (capacity - received).min(size_bytes - received);
            let arrives = self.io.timeout(deadline - self.io.now(), stream.recv_into(room, step));
            let short = memory.is_short_for(&self.io, SHORT_MEMORY_PATIENCE);
            let arrived = match first(arrives, short).await {
                Either::Left(arrived) => arrived,
                Either::Right(()) => return Err(FrameError::GaveWay { size_bytes }),
            };
            buffer = Some(arrived.map_err(|_| too_slow())??);
            received += step;
        }
        Ok(Frame { bytes: buffer.map_or_else(Bytes::new, IoBuf::freeze), memory })
    }
}

fn moved_to(from: Option<IoBuf>, mut to: IoBuf) -> IoBuf {
    to.set_len(0);
    if let Some(from) = from {
        to.extend_from_slice(&from);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! The receiving half of a stream.
//!
//! At most one request receives for a stream at any time, so that bytes cannot overtake each other:
//!
//! ```text
//!            recv()                         last completion
//!   Idle ───────────────────> Queueing ─────────────────────────> Idle
//!    ^  \                      (into the queue)    end of stream, error, out of buffers, cancelled
//!    │   \  recv_into() needs more
//!    │    └──────> Direct
//!    └── ends ────┘  (into the caller's memory)
//! ```
//!
//! `Queueing` is one multishot request into the shard's provided buffers. Where they are all lent, it is a single
//! request into a small buffer of the stream's own, and only if somebody waits: what one consumer holds must not keep
//! another from going on, since the first may be waiting for what the second will do.
//!
//! It is cancelled for two reasons: the consumer is slow (more than the configured number of buffers is queued), or
//! `recv_into` wants to receive directly. Either way what the kernel delivers until the last completion is appended to
//! the queue, and only then another request starts. A `recv_into` that is dropped leaves its request to the
//! cancellation, in `Direct`, and whoever receives next waits for its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use super::core::{Core, Token, is_transient};
use super::request::{Descriptor, Request};
use crate::buf::IoBuf;

pub(super) struct Receiver {
    socket: Descriptor,
    inner: RefCell<Inner>,
}

struct Inner {
    /// Received and not consumed, in order.
    queue: VecDeque<Bytes>,
    phase: Phase,
    /// What follows the queue, once the stream has ended.
    end: Option<End>,
    waker: Option<Waker>,
    /// Whether the stream was dropped.
    abandoned: bool,
    /// Whether the core has been told that the queue is too long.
    crowded: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    Idle,
    Queueing { token: Token, cancelled: bool },
    Direct,
}

#[derive(Clone, Copy)]
enum End {
    Eof,
    Errno(i32),
}

impl End {
    fn of(error: &io::Error) -> Self {
        End::Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl Receiver {
    pub(super) fn new(socket: Descriptor) -> Rc<Self> {
        let inner = Inner {
            queue: VecDeque::new(),
            phase: Phase::Idle,
            end: None,
            waker: None,
            abandoned: false,
            crowded: false,
        };
        Rc::new(Receiver { socket, inner: RefCell::new(inner) })
    }

    pub(super) fn socket(&self) -> &Descriptor {
        &self.socket
    }

    /// The next bytes; empty at the end of the stream.
    pub(super) async fn recv(self: &Rc<Self>, core: &Core) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_recv(core, cx)).await
    }

    fn poll_recv(self: &Rc<Self>, core: &Core, cx: &Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut inner = self.inner.borrow_mut();
        if let Some(bytes) = inner.queue.pop_front() {
            if inner.queue.len() <= core.recv_queue / 2 && core.has_buffers() {
                self.start(core, &mut inner);
            }
            return Poll::Ready(Ok(bytes));
        }
        match inner.end {
            Some(End::Eof) => return Poll::Ready(Ok(Bytes::new())),
            Some(End::Errno(errno)) => return Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => {}
        }
        self.start(core, &mut inner);
        inner.wait(cx);
        Poll::Pending
    }

    /// Starts to receive into the queue, if nothing receives.
    fn start(self: &Rc<Self>, core: &Core, inner: &mut Inner) {
        if !matches!(inner.phase, Phase::Idle) || inner.end.is_some() {
            return;
        }
        let request = if core.has_buffers() {
            Request::receive(Rc::clone(self))
        } else {
            Request::receive_once(
                Rc::clone(self),
                core.small_buffers.try_take().expect("the pool is not limited"),
            )
        };
        inner.phase = Phase::Queueing { token: core.start(request), cancelled: false };
    }

    /// A completion of the request that fills the queue.
    pub(super) fn completed(self: &Rc<Self>, core: &Core, result: i32, bytes: Option<Bytes>, last: bool) {
        let mut inner = self.inner.borrow_mut();
        if inner.abandoned {
            drop(inner);
            return;
        }
        if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
            inner.queue.push_back(bytes);
        }
        if last {
            inner.phase = Phase::Idle;
            match -result {
                0 => inner.end = Some(End::Eof),
                // Ended by us, or by the kernel for want of buffers: not an end of the stream. Who waits starts the
                // next request.
                libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {}
                errno if errno > 0 => inner.end = Some(End::Errno(errno)),
                // A single request, or the kernel had no room for completions.
                _ => {}
            }
        } else if inner.queue.len() >= core.recv_queue && !inner.crowded {
            inner.crowded = true;
            core.crowd(self);
        }
        inner.wake();
    }

    /// Stops receiving if the queue is still too long after the tasks had their turn.
    pub(super) fn pause_if_crowded(&self, core: &Core) {
        let mut inner = self.inner.borrow_mut();
        inner.crowded = false;
        if inner.queue.len() >= core.recv_queue {
            inner.cancel_queueing(core);
        }
    }

    /// Appends at least `least` bytes to `buf`, and up to `most` if they are there.
    pub(super) async fn recv_into(
        self: &Rc<Self>,
        core: &Rc<Core>,
        mut buf: IoBuf,
        least: usize,
        most: usize,
    ) -> io::Result<IoBuf> {
        let (target, mut limit) = (buf.len() + least, buf.len() + most);
        loop {
            poll_fn(|cx| self.poll_ready_for_direct(core, &mut buf, target..=limit, cx)).await?;
            if buf.len() >= target {
                return Ok(buf);
            }
            self.inner.borrow_mut().phase = Phase::Direct;
            let request = if limit > target {
                Request::receive_some_into(self, buf, limit)
            } else {
                Request::receive_into(self, buf, limit)
            };
            let completion = core.submit(request).await;
            buf = completion.held.into_buffer();
            // What is missing now is waited for in one go.
            limit = target;
            match completion.result {
                Ok(0) => self.inner.borrow_mut().end = Some(End::Eof),
                Ok(received) => {
                    let len = buf.len();
                    buf.set_len(len + received);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => self.inner.borrow_mut().end = Some(End::of(&error)),
            }
        }
    }

    /// Takes what is queued until the buffer has as much as is wanted; resolves when that was enough or when nothing else
    /// receives.
    fn poll_ready_for_direct(
        &self,
        core: &Core,
        buf: &mut IoBuf,
        wanted: RangeInclusive<usize>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        inner.take_queued(buf, *wanted.end());
        if buf.len() >= *wanted.start() {
            return Poll::Ready(Ok(()));
        }
        match inner.end {
            Some(End::Eof) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Some(End::Errno(errno)) => return Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => {}
        }
        match inner.phase {
            Phase::Idle => return Poll::Ready(Ok(())),
            Phase::Queueing { .. } => inner.cancel_queueing(core),
            Phase::Direct => {}
        }
        inner.wait(cx);
        Poll::Pending
    }

    /// The request of a `recv_into` has completed, whether or not anyone still waits for it.
    pub(super) fn receive_into_ended(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.phase = Phase::Idle;
        inner.wake();
    }

    /// The stream was dropped: gives everything up.
    pub(super) fn abandon(&self, core: &Core) {
        let mut inner = self.inner.borrow_mut();
        inner.abandoned = true;
        inner.cancel_queueing(core);
        let queue = std::mem::take(&mut inner.queue);
        let waker = inner.waker.take();
        drop(inner);
        drop((queue, waker));
    }
}

impl Inner {
    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn cancel_queueing(&mut self, core: &Core) {
        if let Phase::Queueing { token, cancelled: false } = self.phase {
            core.cancel(token);
            self.phase = Phase::Queueing { token, cancelled: true };
        }
    }

    /// Moves queued bytes into `buf` until it has `target` bytes or nothing is queued.
    fn take_queued(&mut self, buf: &mut IoBuf, target: usize) {
        while buf.len() < target {
            let Some(front) = self.queue.front_mut() else { return };
            let len = front.len().min(target - buf.len());
            buf.extend_from_slice(&front[..len]);
            front.advance(len);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

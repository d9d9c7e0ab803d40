//! The accepting half of a listener: one multishot accept, and the connections that wait to be taken.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::core::{Core, Token};
use super::request::{Descriptor, Request};
use crate::real::net::concerns_the_listener;
use crate::real::sys;

/// Accepted connections that wait before accepting pauses, and the rest waits in the kernel's queue. The kernel may
/// deliver what its queue holds on top.
const QUEUE: usize = 64;

pub(super) struct Acceptor {
    socket: Descriptor,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<io::Result<OwnedFd>>,
    request: Option<Accepting>,
    wakers: Vec<Waker>,
    abandoned: bool,
}

struct Accepting {
    token: Token,
    cancelled: bool,
}

impl Acceptor {
    pub(super) fn new(socket: Descriptor) -> Rc<Self> {
        Rc::new(Acceptor { socket, inner: RefCell::default() })
    }

    pub(super) fn socket(&self) -> &Descriptor {
        &self.socket
    }

    /// The next connection.
    pub(super) fn poll_accept(self: &Rc<Self>, core: &Core, cx: &Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let mut inner = self.inner.borrow_mut();
        let next = inner.queue.pop_front();
        // An error is the caller's to wait out before the kernel is asked again.
        let ask = next.as_ref().is_none_or(Result::is_ok) && inner.queue.len() <= QUEUE / 2;
        if ask && inner.request.is_none() {
            let token = core.start(Request::accept(Rc::clone(self)));
            inner.request = Some(Accepting { token, cancelled: false });
        }
        if let Some(next) = next {
            return Poll::Ready(next);
        }
        if !inner.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A completion of the multishot request.
    pub(super) fn completed(&self, core: &Core, result: i32, last: bool) {
        let accepted = match result {
            0.. => {
                // SAFETY: the kernel has just installed it for this request, and tells of it once.
                Some(Ok(unsafe { sys::take_descriptor(result) }))
            }
            _ if concerns_the_listener(-result) => Some(Err(io::Error::from_raw_os_error(-result))),
            _ => None,
        };
        let mut inner = self.inner.borrow_mut();
        if last {
            inner.request = None;
        }
        if inner.abandoned {
            drop(inner);
            return;
        }
        inner.queue.extend(accepted);
        if inner.queue.len() >= QUEUE {
            inner.cancel(core);
        }
        // Also without a connection: a task that waits asks again.
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The listener was dropped: the port is free at once, connections that nobody took are closed.
    pub(super) fn abandon(&self, core: &Core) {
        // Fails only if the socket does not listen any more.
        let _ = sys::shut_down(&*self.socket);
        let mut inner = self.inner.borrow_mut();
        inner.abandoned = true;
        inner.cancel(core);
        let rest = (std::mem::take(&mut inner.queue), std::mem::take(&mut inner.wakers));
        drop(inner);
        drop(rest);
    }
}

impl Inner {
    fn cancel(&mut self, core: &Core) {
        if let Some(Accepting { token, cancelled: cancelled @ false }) = &mut self.request {
            *cancelled = true;
            core.cancel(*token);
        }
    }
}

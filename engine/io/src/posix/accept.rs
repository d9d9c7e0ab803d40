//! The accepting half of a listener: connections wait in the kernel's queue until a task asks for one.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::core::Core;
use super::source::Source;
use crate::real::net::concerns_the_listener;
use crate::real::sys;

pub(super) struct Acceptor {
    source: Source,
}

impl Acceptor {
    /// The socket listens and does not block.
    pub(super) fn new(core: &Rc<Core>, socket: OwnedFd) -> io::Result<Self> {
        Ok(Acceptor { source: Source::new(core, socket)? })
    }

    /// The next connection, whose socket does not block.
    pub(super) fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let listening = self.source.reading();
        loop {
            ready!(self.source.poll_ready(listening, cx));
            match accept_with(self.source.socket(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Poll::Ready(Ok(socket)),
                Err(Errno::AGAIN) => listening.is_exhausted(),
                Err(error) if concerns_the_listener(error.raw_os_error()) => {
                    return Poll::Ready(Err(error.into()));
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Acceptor {
    /// The port is free at once, connections that nobody took are closed.
    fn drop(&mut self) {
        // Fails only if the socket does not listen any more.
        let _ = sys::shut_down(&**self.source.socket());
    }
}

//! Work that is done to its end though whoever waits for it goes away.

use std::pin::Pin;
use std::task::{Context, Poll};

use highwater_io::Io;

use super::ShardCore;

impl ShardCore {
    /// Does `work` to its end once it has begun, even if whoever waits for it goes away: what it has taken in hand stands in no
    /// list meanwhile, and what it has written to the journal has to be acted upon.
    pub(crate) fn to_the_end<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> ToTheEnd<T> {
        ToTheEnd { io: self.io.clone(), work: Some(Box::pin(work)), is_begun: false }
    }
}

/// Work that goes on as a task when this is dropped. Not before: whoever waits for it learns of its end before anybody whom
/// that lets go on.
pub(crate) struct ToTheEnd<T: 'static> {
    io: Io,
    work: Option<Pin<Box<dyn Future<Output = T>>>>,
    is_begun: bool,
}

impl<T> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.is_begun = true;
        let polled = self.work.as_mut().expect("work has one end").as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take().filter(|_| self.is_begun) {
            self.io.spawn(work).detach();
        }
    }
}

//! The executor of one shard: a queue of tasks that are ready, and a list of all that live.
//!
//! Tasks are `!Send` and run where they were spawned; only their wakers travel. The queue is the shard's own, so a
//! driver decides the order: `uring` takes the oldest, `sim` lets its seed choose. `async-task` keeps the unsafe
//! part of tasks out of this project.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_task::Runnable;
use pin_project_lite::pin_project;
use slab::Slab;

/// Where a task that became ready goes. Called from any thread.
pub(crate) trait ReadySink: Send + Sync + 'static {
    fn push(&self, runnable: Runnable, place: Place);
}

/// Where in the queue of ready tasks a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind those that became ready before it.
    Last,
    /// Before all others: a device stands idle until it has run.
    First,
}

/// Spawns onto one shard and can end everything that lives there.
pub(crate) struct Executor {
    sink: Arc<dyn ReadySink>,
    /// Wakers of all unfinished tasks, so that a shard that ends can drop the ones that wait for nothing.
    live: Rc<RefCell<Slab<Waker>>>,
}

impl Executor {
    pub(crate) fn new(sink: Arc<dyn ReadySink>) -> Self {
        Executor { sink, live: Rc::default() }
    }

    pub(crate) fn spawn<T: 'static>(
        &self,
        place: Place,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let mut live = self.live.borrow_mut();
        let entry = live.vacant_entry();
        let guard = LiveGuard { live: Rc::clone(&self.live), key: entry.key() };
        let future = Guarded { future, _guard: guard };
        let sink = Arc::clone(&self.sink);
        let (runnable, task) = async_task::spawn_local(future, move |runnable| sink.push(runnable, place));
        entry.insert(runnable.waker());
        drop(live);
        runnable.schedule();
        Task { inner: Some(task) }
    }

    /// Number of tasks that have not finished.
    pub(crate) fn live_tasks(&self) -> usize {
        self.live.borrow().len()
    }

    /// Schedules every unfinished task, so that draining the ready queue by dropping drops them all.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.live.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        for waker in wakers {
            waker.wake();
        }
    }
}

pin_project! {
    /// A task's future. An async block around it would take twice its memory, and move it once more.
    struct Guarded<F> {
        #[pin]
        future: F,
        _guard: LiveGuard,
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

struct LiveGuard {
    live: Rc<RefCell<Slab<Waker>>>,
    key: usize,
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        let waker = self.live.borrow_mut().try_remove(self.key);
        drop(waker);
    }
}

/// Runs one task, turning a panic into a message. A panic is a bug of ours, and the shard must stop, not go on.
pub(crate) fn run(runnable: Runnable) -> Result<(), Box<dyn std::any::Any + Send>> {
    std::panic::catch_unwind(AssertUnwindSafe(|| {
        runnable.run();
    }))
}

/// A spawned task. Awaiting gives its output; dropping cancels it; [`detach`](Task::detach) lets it run on.
#[must_use = "dropping a task cancels it; detach it to let it run"]
pub struct Task<T> {
    inner: Option<async_task::Task<T>>,
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

impl<T> Task<T> {
    /// Lets the task run to its end by itself.
    pub fn detach(mut self) {
        if let Some(task) = self.inner.take() {
            task.detach();
        }
    }

    /// Whether the task has finished.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.as_ref().is_none_or(async_task::Task::is_finished)
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let task = self.inner.as_mut().expect("a task is awaited before it is detached");
        Pin::new(task).poll(cx)
    }
}

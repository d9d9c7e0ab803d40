//! The thread that drives clients.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::driver::{Host, Shared, drive};
use super::tokio_net::Tokio;
#[cfg(all(target_os = "linux", feature = "uring"))]
use super::uring::Uring;

/// Which runtime moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backend {
    /// `tokio-uring` if this build and the kernel have it, or else `tokio`.
    #[default]
    Auto,
    /// `tokio`: epoll.
    Tokio,
    /// `tokio-uring`: io_uring.
    Uring,
}

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;
type MakeTask = Box<dyn FnOnce(Backend) -> LocalTask + Send>;

/// A thread that drives clients; it ends when the last handle and the last client are gone. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IoThread {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tasks: Option<mpsc::UnboundedSender<MakeTask>>,
    backend: Backend,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts one.
    ///
    /// # Errors
    /// If there can be no thread, or no runtime of that kind: [`Backend::Uring`] where io_uring is not allowed.
    pub fn start(backend: Backend) -> io::Result<IoThread> {
        // One message a client, which its creator sends: as bounded as the clients are.
        let (tasks, receiver) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("kafka-client-io".to_owned())
            .spawn(move || run(backend, receiver, &started))?;
        let backend = outcome
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the I/O thread ended before it had begun")))?;
        let inner = Inner { tasks: Some(tasks), backend, thread: Some(thread) };
        Ok(IoThread { inner: Arc::new(inner) })
    }

    /// Which runtime it is: never [`Backend::Auto`].
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// Drives a client until it is stopped.
    pub(super) fn host<H: Host + Send>(&self, shared: Arc<Shared<H::Core>>, host: H, max_frame_bytes: usize) {
        let make: MakeTask = Box::new(move |backend| match backend {
            #[cfg(all(target_os = "linux", feature = "uring"))]
            Backend::Uring => Box::pin(drive::<H, Uring>(shared, host, max_frame_bytes)),
            _ => Box::pin(drive::<H, Tokio>(shared, host, max_frame_bytes)),
        });
        if let Some(tasks) = &self.inner.tasks {
            // The thread ends only after this handle is gone.
            let _ = tasks.send(make);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

fn run(
    backend: Backend,
    tasks: mpsc::UnboundedReceiver<MakeTask>,
    started: &std::sync::mpsc::SyncSender<io::Result<Backend>>,
) {
    let outcome = match backend {
        Backend::Tokio => run_tokio(tasks, started),
        Backend::Uring => run_uring(tasks, started).map_err(|(error, _)| error),
        Backend::Auto => run_uring(tasks, started).or_else(|(_, tasks)| run_tokio(tasks, started)),
    };
    if let Err(error) = outcome {
        // Whoever started the thread waits for this.
        let _ = started.send(Err(error));
    }
}

/// Runs every task that comes, and ends when no more can come and all have ended.
async fn run_tasks(mut tasks: mpsc::UnboundedReceiver<MakeTask>, backend: Backend) {
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            make = tasks.recv() => match make {
                Some(make) => {
                    running.spawn_local(make(backend));
                }
                None => break,
            },
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

fn run_tokio(
    tasks: mpsc::UnboundedReceiver<MakeTask>,
    started: &std::sync::mpsc::SyncSender<io::Result<Backend>>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _ = started.send(Ok(Backend::Tokio));
    LocalSet::new().block_on(&runtime, run_tasks(tasks, Backend::Tokio));
    Ok(())
}

type Failed = (io::Error, mpsc::UnboundedReceiver<MakeTask>);

#[cfg(all(target_os = "linux", feature = "uring"))]
fn run_uring(
    tasks: mpsc::UnboundedReceiver<MakeTask>,
    started: &std::sync::mpsc::SyncSender<io::Result<Backend>>,
) -> Result<(), Failed> {
    let runtime = match tokio_uring::Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => runtime,
        Err(error) => return Err((error, tasks)),
    };
    let _ = started.send(Ok(Backend::Uring));
    runtime.block_on(run_tasks(tasks, Backend::Uring));
    Ok(())
}

#[cfg(not(all(target_os = "linux", feature = "uring")))]
fn run_uring(
    tasks: mpsc::UnboundedReceiver<MakeTask>,
    _started: &std::sync::mpsc::SyncSender<io::Result<Backend>>,
) -> Result<(), Failed> {
    let error = io::Error::new(io::ErrorKind::Unsupported, "this build has no io_uring backend");
    Err((error, tasks))
}

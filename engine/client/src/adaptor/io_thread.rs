//! The thread that drives clients.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::driver::{Host, Shared, drive};
use super::tokio_net::{InProcess, Tokio};
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
    /// A broker in the same process, reached without a port: see [`IoThread::in_process`].
    InProcess,
}

/// Makes a connection to the broker in this process: one end of a socket pair, whose other end the broker serves.
pub type Connect = Arc<dyn Fn() -> io::Result<UnixStream> + Send + Sync>;

/// A backend with what it needs.
#[derive(Clone)]
enum Means {
    Tokio,
    #[cfg(all(target_os = "linux", feature = "uring"))]
    Uring,
    InProcess(Connect),
}

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;
type MakeTask = Box<dyn FnOnce(&Means) -> LocalTask + Send>;

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
        if backend == Backend::InProcess {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "IoThread::in_process starts this one"));
        }
        IoThread::spawn(backend, None)
    }

    /// Starts one whose clients talk to a broker in this process: `connect` makes their connections, whatever addresses
    /// the broker gives for itself.
    ///
    /// # Errors
    /// If there can be no thread or no runtime.
    pub fn in_process(
        connect: impl Fn() -> io::Result<UnixStream> + Send + Sync + 'static,
    ) -> io::Result<IoThread> {
        IoThread::spawn(Backend::InProcess, Some(Arc::new(connect)))
    }

    fn spawn(backend: Backend, connect: Option<Connect>) -> io::Result<IoThread> {
        // One message a client, which its creator sends: as bounded as the clients are.
        let (tasks, receiver) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("kafka-client-io".to_owned())
            .spawn(move || run(backend, connect, receiver, &started))?;
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
        let make: MakeTask = Box::new(move |means| match means {
            #[cfg(all(target_os = "linux", feature = "uring"))]
            Means::Uring => Box::pin(drive(shared, host, max_frame_bytes, Uring)),
            Means::Tokio => Box::pin(drive(shared, host, max_frame_bytes, Tokio)),
            Means::InProcess(connect) => {
                Box::pin(drive(shared, host, max_frame_bytes, InProcess(Arc::clone(connect))))
            }
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
    connect: Option<Connect>,
    tasks: mpsc::UnboundedReceiver<MakeTask>,
    started: &std::sync::mpsc::SyncSender<io::Result<Backend>>,
) {
    let tokio = |tasks| run_tokio(tasks, started, Backend::Tokio, Means::Tokio);
    let outcome = match (backend, connect) {
        (_, Some(connect)) => run_tokio(tasks, started, Backend::InProcess, Means::InProcess(connect)),
        (Backend::Tokio | Backend::InProcess, None) => tokio(tasks),
        (Backend::Uring, None) => run_uring(tasks, started).map_err(|(error, _)| error),
        (Backend::Auto, None) => run_uring(tasks, started).or_else(|(_, tasks)| tokio(tasks)),
    };
    if let Err(error) = outcome {
        // Whoever started the thread waits for this.
        let _ = started.send(Err(error));
    }
}

/// Runs every task that comes, and ends when no more can come and all have ended.
async fn run_tasks(mut tasks: mpsc::UnboundedReceiver<MakeTask>, means: Means) {
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            make = tasks.recv() => match make {
                Some(make) => {
                    running.spawn_local(make(&means));
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
    backend: Backend,
    means: Means,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _ = started.send(Ok(backend));
    LocalSet::new().block_on(&runtime, run_tasks(tasks, means));
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
    runtime.block_on(run_tasks(tasks, Means::Uring));
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

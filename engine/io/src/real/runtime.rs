//! The threads of the shards: started together or not at all, asked to stop together, joined.

use std::future::Future;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::shard::{Common, Engine, Payload, Shard};
use super::signals::SignalHandlers;
use super::stop::StopRequest;
use crate::runtime::{DriverChoice, DriverKind, Io, RuntimeConfig, ShardIndex, StartError};
use crate::{posix, uring};

pub(crate) struct Runtime {
    kind: DriverKind,
    threads: Vec<JoinHandle<()>>,
    common: Common,
    first_panic: Arc<Mutex<Option<Payload>>>,
}

/// A thread that has set up its shard, or failed to, and waits for the word to run.
struct Starting {
    thread: JoinHandle<()>,
    is_set_up: Receiver<io::Result<()>>,
    go: Sender<()>,
}

impl Runtime {
    pub(crate) fn start<S, F, Fut>(
        config: &RuntimeConfig,
        states: Vec<S>,
        main: F,
    ) -> Result<Runtime, StartError>
    where
        S: Send + 'static,
        F: Fn(Io, S) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let chosen = choose(config.driver)?;
        let signals = config.handle_signals.then(SignalHandlers::install).transpose()?;
        let common = Common {
            stop: Arc::new(StopRequest::default()),
            signals: signals.map(Arc::new),
            clock: Instant::now(),
        };
        let first_panic = Arc::default();
        let mut starting = Vec::with_capacity(states.len());
        let mut started = Ok(());
        for (index, state) in states.into_iter().enumerate() {
            let main = main.clone();
            let first_panic = Arc::clone(&first_panic);
            let (index, main) = (ShardIndex(index), move |io| main(io, state));
            let set_up = match chosen {
                Chosen::Uring(kernel) => {
                    set_up::<uring::Core, _>(index, config, kernel, &common, first_panic, main)
                }
                Chosen::Posix => set_up::<posix::Core, _>(index, config, (), &common, first_panic, main),
            };
            match set_up {
                Ok(thread) => starting.push(thread),
                Err(error) => {
                    started = Err(error);
                    break;
                }
            }
        }
        for thread in &starting {
            started = started.and_then(|()| thread.is_set_up());
        }
        let threads = starting.into_iter().map(|thread| thread.go_if(started.is_ok())).collect();
        let runtime = Runtime { kind: chosen.kind(), threads, common, first_panic };
        started?;
        Ok(runtime)
    }

    pub(crate) fn kind(&self) -> DriverKind {
        self.kind
    }

    pub(crate) fn stop(&self) {
        self.common.stop.request();
    }

    pub(crate) fn join(mut self) -> Result<(), Payload> {
        self.wait();
        let first = self.first_panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.map_or(Ok(()), Err)
    }

    fn wait(&mut self) {
        for thread in self.threads.drain(..) {
            if let Err(payload) = thread.join() {
                keep_first(&self.first_panic, payload);
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
        self.wait();
    }
}

impl Starting {
    fn is_set_up(&self) -> io::Result<()> {
        // A thread that is gone without a word has panicked; `go_if` makes nothing of it then, and `join` tells.
        self.is_set_up.recv().unwrap_or_else(|_| Err(io::Error::other("the shard's thread has panicked")))
    }

    /// Lets the shard run, or end.
    fn go_if(self, all_are_set_up: bool) -> JoinHandle<()> {
        if all_are_set_up {
            // Fails only if the thread is gone, which `join` tells.
            let _ = self.go.send(());
        }
        self.thread
    }
}

/// The driver that all shards will have.
#[derive(Clone, Copy)]
enum Chosen {
    Uring(uring::Kernel),
    Posix,
}

impl Chosen {
    fn kind(self) -> DriverKind {
        match self {
            Chosen::Uring(_) => DriverKind::Uring,
            Chosen::Posix => DriverKind::Posix,
        }
    }
}

fn choose(choice: DriverChoice) -> Result<Chosen, StartError> {
    if choice == DriverChoice::Posix {
        tracing::info!("I/O by epoll and a pool of threads, as asked for");
        return Ok(Chosen::Posix);
    }
    match uring::probe() {
        Ok(features) => {
            tracing::debug!(%features, "I/O by io_uring");
            Ok(Chosen::Uring(features.kernel()))
        }
        Err(error) if choice == DriverChoice::Auto && error.is_refusal_of_uring() => {
            tracing::warn!(
                "{error}; I/O by epoll and a pool of threads instead: the same guarantees, at more CPU and latency for each \
                 request"
            );
            Ok(Chosen::Posix)
        }
        Err(error) => Err(error),
    }
}

/// Starts a thread that sets up a shard and waits for the word to run `main` on it.
fn set_up<E: Engine, Fut>(
    index: ShardIndex,
    config: &RuntimeConfig,
    system: E::System,
    common: &Common,
    first_panic: Arc<Mutex<Option<Payload>>>,
    main: impl FnOnce(Io) -> Fut + Send + 'static,
) -> io::Result<Starting>
where
    Fut: Future<Output = ()> + 'static,
{
    let (config, common) = (config.clone(), common.clone());
    let (set_up, is_set_up) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let thread = thread::Builder::new().name(format!("{}-{index}", config.thread_name)).spawn(move || {
        let shard = match Shard::<E>::new(index, &config, system, &common) {
            Ok(shard) => shard,
            Err(error) => {
                let _ = set_up.send(Err(error));
                return;
            }
        };
        let _ = set_up.send(Ok(()));
        if may_go.recv().is_err() {
            return shard.cancel();
        }
        if let Err(payload) = shard.run(main) {
            keep_first(&first_panic, payload);
            common.stop.request();
        }
    })?;
    Ok(Starting { thread, is_set_up, go })
}

fn keep_first(first: &Mutex<Option<Payload>>, payload: Payload) {
    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
}

//! Commands on a data directory that no broker uses: one future on a runtime of its own, and what it came to.

use std::sync::mpsc;

use anyhow::{Context, Result};
use highwater_io::{Io, Runtime, RuntimeConfig};

/// Runs `main` on one shard, and gives what it returns.
pub(crate) fn run<S, T, F, Fut>(state: S, main: F) -> Result<T>
where
    S: Send + 'static,
    T: Send + 'static,
    F: Fn(Io, S) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let (sender, receiver) = mpsc::channel();
    let runtime = Runtime::start(&RuntimeConfig::default(), vec![(state, sender)], move |io, state| {
        let main = main.clone();
        async move {
            let (state, sender): (S, mpsc::Sender<T>) = state;
            // Nobody listens any more only if the command is gone.
            drop(sender.send(main(io, state).await));
        }
    })?;
    let outcome = receiver.recv();
    if let Err(panic) = runtime.join() {
        std::panic::resume_unwind(panic);
    }
    outcome.context("it ended without an outcome")
}

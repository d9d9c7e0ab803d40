//! Ctrl-C, as something that every wait can be interrupted by.
//!
//! A signal only sets the flag: the work unwinds by `?` to where its resources are owned, and their owners clean up.
//! Nothing here ends the process, and no wait of the harness is outside of it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Somebody asked the harness to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A flag that is set once, and whoever waits is woken.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Cancel {
    /// A flag that nothing sets but [`Cancel::cancel`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that SIGINT, SIGTERM and SIGHUP set.
    pub fn on_signals() -> std::io::Result<Self> {
        let cancel = Cancel::new();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let flag = cancel.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if !flag.is_cancelled() {
                    eprintln!("\nstopping: the running cell is given up and cleaned away");
                }
                flag.cancel();
            }
        })?;
        Ok(cancel)
    }

    /// Sets the flag.
    pub fn cancel(&self) {
        let (flag, changed) = &*self.shared;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error once the flag is set.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_cancelled() { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits until `deadline`, or an error as soon as the flag is set.
    pub fn wait_until(&self, deadline: Instant) -> Result<(), Interrupted> {
        let (flag, changed) = &*self.shared;
        let mut set = flag.lock().unwrap_or_else(PoisonError::into_inner);
        while !*set {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            set = changed.wait_timeout(set, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Err(Interrupted)
    }

    /// Waits for `duration`, or an error as soon as the flag is set.
    pub fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.wait_until(Instant::now() + duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_at_its_deadline_when_nothing_happens() {
        assert_eq!(Cancel::new().wait(Duration::from_millis(1)), Ok(()));
    }

    #[test]
    fn wait_ends_at_once_when_cancelled_from_another_thread() {
        let cancel = Cancel::new();
        let other = cancel.clone();
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(3_600)));
        cancel.cancel();
        assert_eq!(waiting.join().unwrap(), Err(Interrupted));
        assert_eq!(cancel.check(), Err(Interrupted));
    }
}

//! `SIGTERM` and `SIGINT`: the first asks to stop, the second ends the process.
//!
//! One that comes within [`REPEAT_NANOS`] after the first says the same thing once more: `timeout(1)` signals its child
//! and then the child's group, and a terminal's Ctrl-C reaches a whole pipeline by more than one way.
//!
//! The handler may do very little: it looks at the clock, and writes to an event descriptor that every shard of a runtime with
//! [`RuntimeConfig::handle_signals`](crate::RuntimeConfig) polls through its ring. The descriptor is never read while
//! such a runtime lives, so that a shard that starts late sees the signal too. The handlers stand as long as any such
//! runtime does.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::sys;

const SIGNALS: [c_int; 2] = [libc::SIGTERM, libc::SIGINT];
const NO_DESCRIPTOR: i32 = -1;

/// For the handler: where it writes. The descriptor is never closed once it stands here.
static EVENT: AtomicI32 = AtomicI32::new(NO_DESCRIPTOR);
/// When the first signal since the handlers were installed came, on the monotonic clock in nanoseconds.
static FIRST_AT: AtomicU64 = AtomicU64::new(NEVER);
const NEVER: u64 = 0;
/// How long after the first signal another one is a repetition of it: longer than a program usually takes between two,
/// shorter than anybody who is impatient.
const REPEAT_NANOS: u64 = 100_000_000;
static INSTALLED: Mutex<Installed> = Mutex::new(Installed { users: 0, event: None, previous: None });

struct Installed {
    users: usize,
    event: Option<Arc<File>>,
    previous: Option<[libc::sigaction; SIGNALS.len()]>,
}

/// A runtime's share in the handlers.
pub(crate) struct SignalHandlers {
    event: Arc<File>,
}

impl SignalHandlers {
    /// Installs the handlers, unless another runtime has.
    pub(crate) fn install() -> io::Result<Self> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match &installed.event {
            Some(event) => Arc::clone(event),
            None => Arc::new(sys::event_descriptor()?),
        };
        installed.event = Some(Arc::clone(&event));
        if installed.users == 0 {
            forget_earlier_signals(&event);
            EVENT.store(event.as_raw_fd(), Ordering::SeqCst);
            installed.previous = Some([handle(SIGNALS[0])?, handle(SIGNALS[1])?]);
        }
        installed.users += 1;
        Ok(SignalHandlers { event })
    }

    /// The descriptor that becomes readable with the first signal.
    pub(crate) fn event(&self) -> Arc<File> {
        Arc::clone(&self.event)
    }
}

impl Drop for SignalHandlers {
    fn drop(&mut self) {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        installed.users -= 1;
        if installed.users > 0 {
            return;
        }
        for (signal, previous) in SIGNALS.iter().zip(installed.previous.take().into_iter().flatten()) {
            // Cannot fail: the signal and the action are ones that the system has had before.
            let _ = set_action(*signal, &previous);
        }
    }
}

fn forget_earlier_signals(event: &File) {
    FIRST_AT.store(NEVER, Ordering::SeqCst);
    // Would block if nothing was written, which is as good.
    let _ = (&*event).read(&mut [0; 8]);
}

/// Sets our handler, and returns what was set before.
fn handle(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: all zeros are a valid `sigaction`: the default action, an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    set_action(signal, &action)
}

fn set_action(signal: c_int, action: &libc::sigaction) -> io::Result<libc::sigaction> {
    // SAFETY: as in `handle`.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; a handler that it sets is `on_signal`, which does only what a
    // handler may, or one that the process had before.
    let result = unsafe { libc::sigaction(signal, action, &raw mut previous) };
    if result == 0 { Ok(previous) } else { Err(io::Error::last_os_error()) }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Stop,
    /// What the first asked for already.
    Same,
    End,
}

fn ask(first_at: u64, now: u64) -> Ask {
    match first_at {
        NEVER => Ask::Stop,
        // Another thread's handler may have looked at the clock later, and yet been first.
        first_at if now.saturating_sub(first_at) < REPEAT_NANOS => Ask::Same,
        _ => Ask::End,
    }
}

extern "C" fn on_signal(signal: c_int) {
    let now = sys::monotonic_nanos().max(NEVER + 1);
    let first_at = FIRST_AT.compare_exchange(NEVER, now, Ordering::SeqCst, Ordering::SeqCst);
    match ask(first_at.unwrap_or_else(|at| at), now) {
        Ask::Stop => {}
        Ask::Same => return,
        Ask::End => sys::exit_now(128 + signal),
    }
    // SAFETY: takes nothing.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: points to the thread's errno, which the interrupted code may be about to read.
    let before = unsafe { *errno };
    let one = 1u64.to_ne_bytes();
    // SAFETY: the pointer is valid for the length; the descriptor is the event's, which is never closed. write(2) is
    // allowed in a handler.
    let _ = unsafe { libc::write(EVENT.load(Ordering::SeqCst), one.as_ptr().cast(), one.len()) };
    // SAFETY: as above.
    unsafe { *errno = before };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_right_after_the_first_says_the_same() {
        let first = 7_000_000_000;
        assert_eq!(ask(NEVER, first), Ask::Stop);
        assert_eq!(ask(first, first), Ask::Same);
        assert_eq!(ask(first, first - 10), Ask::Same, "the clock was read before the first had its turn");
        assert_eq!(ask(first, first + REPEAT_NANOS - 1), Ask::Same);
        assert_eq!(ask(first, first + REPEAT_NANOS), Ask::End);
    }
}

//! One io_uring: entries in, completions out, one system call a turn of the shard's loop.

use std::collections::VecDeque;
use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue};

use crate::real::shard::Wait;

/// Completions that a ring holds for each entry of its submission queue. Beyond them the kernel keeps some aside, which
/// is slow and ends multishot requests, but loses nothing. Not more, because a ring counts as locked memory, of which
/// an unprivileged container may have 64 KiB: with this, one default shard starts there, and two within 96.
const COMPLETIONS_PER_ENTRY: u32 = 4;

const LEAST_ENTRIES: u32 = 8;

/// Creates a ring as the driver needs it.
///
/// `DEFER_TASKRUN` runs the kernel's part of completions in this thread's own turn and not whenever it returns from a
/// system call (it makes `COOP_TASKRUN` pointless), and needs `SINGLE_ISSUER`. `SUBMIT_ALL` keeps one refused entry
/// from holding back those after it. `TASKRUN_FLAG` tells, without a system call, whether there is anything to run.
pub(super) fn create(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(entries.max(LEAST_ENTRIES).saturating_mul(COMPLETIONS_PER_ENTRY))
        .build(entries.max(LEAST_ENTRIES))
        .map_err(explain)
}

/// Says what to do about the one refusal that its errno does not explain.
pub(super) fn explain(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let why = "out of memory for an io_uring; it counts as locked memory of the user, so raise the limit \
               (ulimit -l, LimitMEMLOCK= of a unit, --ulimit memlock= of a container), start fewer shards, or do without \
               io_uring (io.driver=posix)";
    io::Error::new(io::ErrorKind::OutOfMemory, why)
}

#[derive(Default, Clone, Copy)]
pub(super) struct RingCounters {
    pub(super) enters: u64,
    pub(super) submitted: u64,
    pub(super) completed: u64,
}

pub(super) struct Ring {
    uring: IoUring,
    /// Entries that found the submission queue full and the kernel unwilling; in order. Bounded by the requests in
    /// flight, each of which some task waits for.
    backlog: VecDeque<squeue::Entry>,
    flags: EnterFlags,
    counters: RingCounters,
}

impl Ring {
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        let uring = create(entries)?;
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // The ring always waits for something, so that an idle shard would look like one that waits for a disk.
        if uring.params().is_feature_no_iowait() {
            flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Ring { uring, backlog: VecDeque::new(), flags, counters: RingCounters::default() })
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.uring.submitter()
    }

    pub(super) fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Queues an entry. It reaches the kernel in the next [`enter`](Self::enter), or at once if the queue is full.
    ///
    /// # Safety
    /// What the entry points to must stay valid until its last completion.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        self.counters.submitted += 1;
        if self.backlog.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            self.enter(Wait::Not);
        }
        self.backlog.push_back(entry.clone());
        self.refill();
    }

    /// Moves what waits into the submission queue.
    fn refill(&mut self) {
        let mut queue = self.uring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: `push` took the caller's promise for this entry.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Whether there are completions, or the kernel has put some off until the next [`enter`](Self::enter).
    pub(super) fn has_news(&mut self) -> bool {
        let (_, queue, completions) = self.uring.split();
        queue.taskrun() || !completions.is_empty()
    }

    /// Hands the kernel what is queued, lets it run what it has deferred, and waits for a completion if there is none.
    pub(super) fn enter(&mut self, wait: Wait) {
        self.refill();
        let (submitter, queue, completions) = self.uring.split();
        let queued = queue.len();
        let nothing_to_do = queued == 0 && !queue.taskrun() && !queue.cq_overflow();
        if nothing_to_do && (wait == Wait::Not || !completions.is_empty()) {
            return;
        }
        drop((queue, completions));
        let timeout = match wait {
            Wait::AtMost(duration) => Some(Timespec::from(duration)),
            Wait::Not | Wait::Forever => None,
        };
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        let queued = u32::try_from(queued).expect("a queue's length fits");
        self.counters.enters += 1;
        // SAFETY: the arguments are those of the flag `EXT_ARG`, and live until the call returns. The entries that
        // it submits came through `push`.
        let result =
            unsafe { submitter.enter(queued, u32::from(wait != Wait::Not), self.flags.bits(), Some(&args)) };
        if let Err(error) = result {
            check_enter_error(&error);
        }
    }

    /// Appends all completions that are there to `to`.
    pub(super) fn reap(&mut self, to: &mut Vec<cqueue::Entry>) {
        let before = to.len();
        to.extend(self.uring.completion());
        self.counters.completed += (to.len() - before) as u64;
    }
}

/// Lets pass what means "no completion in time" or "take completions first"; the next turn does the rest.
fn check_enter_error(error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
        // EBADR: the kernel had no memory to keep a completion. Whoever waits for it waits for ever.
        _ => panic!("io_uring_enter: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_for_want_of_locked_memory_names_the_limit() {
        let error = explain(io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(error.contains("ulimit -l") && error.contains("memlock"), "{error}");
        let other = explain(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(other.raw_os_error(), Some(libc::EPERM));
    }
}

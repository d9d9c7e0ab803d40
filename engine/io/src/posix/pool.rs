//! The threads that carry out what may wait: one pool a shard.
//!
//! ```text
//!   shard ── jobs (a channel, any thread takes the next) ──> thread: carry_out ──> done (a lock-free queue) ──> shard
//!                                                                                     └─ rings the alarm
//! ```
//!
//! A job is one box that goes to a thread and comes back with its output in it. It owns everything it works with, so that
//! nothing of it is freed while a system call may use it, whoever still waits for the output.
//!
//! The queue has no bound of its own: as with a ring, each job is one that a task of the shard has asked for, and what a task
//! may ask for is bounded above the driver. Jobs start in the order in which they were asked for, and end in any.
//!
//! One pool a shard, and not one for all: shards share nothing, and one whose device stalls does not take the threads of
//! another's.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, unbounded};
use crossbeam::queue::SegQueue;

use crate::real::ready::Alarm;
use crate::real::shard::Payload;

/// Stack of each thread in bytes: a job is a system call or a few.
const STACK_BYTES: usize = 256 << 10;

/// Something to do on a thread of the pool.
pub(super) trait Work: Send {
    /// Does it, once.
    fn carry_out(&mut self);

    /// Itself, for whoever knows what it is.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// A closure, then what it gave.
pub(super) enum Piece<F, T> {
    ToDo(F),
    Done(T),
    /// Between the two.
    Doing,
}

impl<F, T> Work for Piece<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    fn carry_out(&mut self) {
        if let Piece::ToDo(work) = std::mem::replace(self, Piece::Doing) {
            *self = Piece::Done(work());
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Work, and the slot of the core that waits for it.
pub(super) struct Job {
    pub(super) key: usize,
    pub(super) work: Box<dyn Work>,
}

/// A job that was carried out, or that panicked.
pub(super) struct Done {
    pub(super) key: usize,
    pub(super) outcome: Result<Box<dyn Work>, Payload>,
}

pub(super) struct Pool {
    /// Gone only while the pool ends: the threads end with it.
    jobs: Option<Sender<Job>>,
    /// The threads' end of the queue.
    waiting: Receiver<Job>,
    done: Arc<SegQueue<Done>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `count` threads, named after `name`. Whatever they have done is followed by a ring of `alarm`.
    pub(super) fn start(name: &str, count: usize, alarm: &Arc<Alarm>) -> io::Result<Self> {
        let (jobs, waiting) = unbounded();
        let mut pool = Pool { jobs: Some(jobs), waiting, done: Arc::default(), threads: Vec::new() };
        for index in 0..count.max(1) {
            let (waiting, done, alarm) = (pool.waiting.clone(), Arc::clone(&pool.done), Arc::clone(alarm));
            let thread = thread::Builder::new()
                .name(format!("{name}-io{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || serve(&waiting, &done, &alarm))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Hands a job to the next thread that is free.
    pub(super) fn push(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("a pool takes jobs until it is dropped");
        assert!(jobs.send(job).is_ok(), "the pool keeps an end of its queue");
    }

    /// The next job that nobody has begun, taken out of the queue.
    pub(super) fn take_back(&self) -> Option<Job> {
        self.waiting.try_recv().ok()
    }

    /// The next one that was carried out.
    pub(super) fn pop_done(&self) -> Option<Done> {
        self.done.pop()
    }

    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Panics of jobs are caught; there are no others to tell of.
            let _ = thread.join();
        }
    }
}

fn serve(waiting: &Receiver<Job>, done: &SegQueue<Done>, alarm: &Alarm) {
    while let Ok(Job { key, mut work }) = waiting.recv() {
        let carried_out = catch_unwind(AssertUnwindSafe(|| work.carry_out()));
        done.push(Done { key, outcome: carried_out.map(|()| work) });
        alarm.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::start("test", threads, &Arc::new(Alarm::new().expect("a descriptor"))).expect("threads")
    }

    fn job<F: FnOnce() -> u32 + Send + 'static>(key: usize, work: F) -> Job {
        Job { key, work: Box::new(Piece::ToDo(work)) }
    }

    fn next_done(pool: &Pool) -> Done {
        loop {
            match pool.pop_done() {
                Some(done) => return done,
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn panic_of_a_job_comes_back_and_leaves_its_thread_at_work() {
        let pool = pool(1);
        pool.push(job(1, || panic!("on purpose")));
        pool.push(job(2, || 7));
        let first = next_done(&pool);
        assert_eq!(first.key, 1);
        let panic = first.outcome.err().expect("it panicked");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        let second = next_done(&pool);
        assert!(second.key == 2 && second.outcome.is_ok());
    }

    #[test]
    fn job_that_nobody_has_begun_is_taken_back_and_never_done() {
        let pool = pool(1);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (go, may_go) = std::sync::mpsc::channel::<()>();
        pool.push(job(1, move || {
            begun.send(()).expect("the test waits");
            may_go.recv().expect("the test says so");
            1
        }));
        has_begun.recv().expect("it begins");
        pool.push(job(2, || unreachable!("taken back")));
        assert_eq!(pool.take_back().map(|job| job.key), Some(2));
        assert!(pool.take_back().is_none() && !pool.has_done());
        go.send(()).expect("it waits");
        assert_eq!(next_done(&pool).key, 1);
    }
}

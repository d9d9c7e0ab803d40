//! Group commit for engines that have none, or leave it to the caller: one thread commits what waits together.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use crate::engines::{Each, Engine};

/// Records that may wait: then appends wait, too.
const WAITING: usize = 8192;
/// Records of one commit.
const LARGEST: usize = 4096;

/// What can store several records at once.
pub trait Commits: Send + 'static {
    /// Stores records in order, and flushes them if they are to be durable.
    fn commit(&mut self, records: &[Box<[u8]>], is_durable: bool) -> Result<()>;
}

/// Reads everything that was committed.
pub type ReadAll = Box<dyn Fn(Each<'_>) -> Result<()> + Send + Sync>;

type Answer = Option<Result<(), String>>;

#[derive(Default)]
struct Done {
    answer: Mutex<Answer>,
    changed: Condvar,
}

enum Job {
    Append {
        record: Box<[u8]>,
        done: Option<Arc<Done>>,
    },
    /// Answered when everything before it is committed.
    Settle(Arc<Done>),
}

pub struct Batched {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    read: ReadAll,
}

impl Batched {
    pub fn new(commits: impl Commits, read: ReadAll) -> Self {
        let (jobs, receiver) = sync_channel(WAITING);
        let thread = std::thread::spawn(move || commit_all(commits, &receiver));
        Batched { jobs: Some(jobs), thread: Some(thread), read }
    }

    fn send(&self, job: Job) -> Result<()> {
        let jobs = self.jobs.as_ref().context("closed")?;
        jobs.send(job).map_err(|_| anyhow!("the committing thread has ended"))
    }
}

fn commit_all(mut commits: impl Commits, jobs: &Receiver<Job>) {
    let mut failure: Option<String> = None;
    while let Ok(first) = jobs.recv() {
        let (mut records, mut waiting, mut is_durable) = (Vec::new(), Vec::new(), false);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Append { record, done } => {
                    records.push(record);
                    is_durable |= done.is_some();
                    waiting.extend(done);
                }
                Job::Settle(done) => waiting.push(done),
            }
            next = if records.len() < LARGEST { jobs.try_recv().ok() } else { None };
        }
        if failure.is_none() && !records.is_empty() {
            failure = commits.commit(&records, is_durable).err().map(|error| format!("{error:#}"));
        }
        for done in waiting {
            *done.answer.lock().expect("no panic") = Some(failure.clone().map_or(Ok(()), Err));
            done.changed.notify_one();
        }
    }
}

impl Done {
    fn wait(&self) -> Result<()> {
        let mut answer = self.answer.lock().expect("no panic");
        loop {
            match answer.take() {
                Some(answer) => return answer.map_err(|error| anyhow!(error)),
                None => answer = self.changed.wait(answer).expect("no panic"),
            }
        }
    }
}

impl Engine for Batched {
    fn append(&self, record: &[u8]) -> Result<()> {
        let done = Arc::new(Done::default());
        self.send(Job::Append { record: record.into(), done: Some(Arc::clone(&done)) })?;
        done.wait()
    }

    fn append_unflushed(&self, record: &[u8]) -> Result<()> {
        self.send(Job::Append { record: record.into(), done: None })
    }

    fn settle(&self) -> Result<()> {
        let done = Arc::new(Done::default());
        self.send(Job::Settle(Arc::clone(&done)))?;
        done.wait()
    }

    fn read(&self, each: Each<'_>) -> Result<()> {
        (self.read)(each)
    }
}

impl Drop for Batched {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A directory that is there.
pub fn make(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

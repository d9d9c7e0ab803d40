//! The clean stop: every partition in its segments, trimmed and flushed, and a checkpoint over a journal that nobody needs.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use super::ShardCore;
use crate::checkpoint;
use crate::error::LogError;
use crate::journal::progress::Mark;
use crate::partition::{Partition, PartitionCore};

/// Partitions that are read or completed at a time.
const PARTITIONS_AT_ONCE: usize = 64;

impl ShardCore {
    /// Closes once: whoever asks again waits for the same end, and learns how it went.
    pub(super) async fn close(self: &Rc<Self>) -> Result<(), LogError> {
        if !self.closing.get() {
            self.begin_close();
            let core = Rc::clone(self);
            self.io.spawn(async move { core.closed.set(Some(core.finish_close().await)) }).detach();
        }
        self.closed.wait_for(Clone::clone).await
    }

    fn begin_close(&self) {
        for core in self.partitions.borrow().values() {
            core.live.borrow_mut().closed = true;
        }
        self.closing.set(true);
        self.journal.begin_close();
        self.flush_deadlines_changed.update(|changes| *changes += 1);
        self.journal.bytes_since_checkpoint().update(|_| ());
    }

    async fn finish_close(self: &Rc<Self>) -> Result<(), LogError> {
        let drained = self.drain_and_complete().await;
        self.drain_queue.close();
        let stopped = self.journal.stop().await;
        self.release_files();
        drained?;
        Ok(stopped?)
    }

    /// Gives up the segments' files, and with them their locks, for which the next start waits: of a fenced partition, or
    /// where the close failed, some are open still, and handles to the closed log may live on.
    fn release_files(&self) {
        for core in self.partitions.borrow().values() {
            let live = core.live.borrow();
            live.segments.values().chain(&live.next_segment).for_each(|segment| segment.close_file());
        }
        self.dirty.take();
    }

    /// The clean stop: as a roll for every partition, then a checkpoint over an empty journal.
    ///
    /// In portions, as large as the journal takes: each partition's end goes through it once more, and only a checkpoint
    /// makes room. A checkpoint settles ends again, so that it comes between portions only, when all of one are complete.
    async fn drain_and_complete(self: &Rc<Self>) -> Result<(), LogError> {
        // Whoever makes or changes a log at this moment comes to an end; nobody begins any more. Before the checkpoint's turn,
        // for which they may wait.
        drop(self.create_turn.acquire(1).await);
        let cores: Vec<Rc<PartitionCore>> = self.partitions.borrow().values().cloned().collect();
        for core in &cores {
            drop(core.append_turn.acquire(1).await);
            drop(core.cleaning_turn.acquire(1).await);
        }
        let _turn = self.checkpoint_turn.acquire(1).await;
        self.finish_deletions().await?;
        let cores: Vec<Rc<PartitionCore>> = self.partitions.borrow().values().cloned().collect();
        let changed: Vec<Rc<PartitionCore>> =
            cores.iter().filter(|core| !core.is_complete.get()).cloned().collect();
        self.know_end_blocks(&changed).await?;
        let mut portion = Vec::new();
        for core in &changed {
            let partition = Partition { core: Rc::clone(core), shard: Rc::clone(self) };
            partition.drop_unused_segment(None).await?;
            if core.has_settled_end() && !partition.repeat_end_block_if_room().await? {
                self.complete_all(&mut portion).await?;
                self.checkpoint_in_turn().await?;
                partition.repeat_end_block().await?;
            }
            portion.push(Rc::clone(core));
        }
        self.complete_all(&mut portion).await?;
        let boundary = self.journal.draw_boundary();
        self.journal.progress().wait(Mark::Durable, boundary).await?;
        let mut body = Vec::new();
        for core in &cores {
            core.live.borrow().state.encode(&mut body);
        }
        self.flush_segments().await?;
        self.check_flushes()?;
        let number = self.checkpoint_number.get() + 1;
        let bytes = checkpoint::encode(self.generation, number, &self.journal.boundary_place(), &body);
        checkpoint::write(&self.io, &self.journal_dir, number, bytes)
            .await
            .map_err(|error| self.fence(&error))
    }
}

impl ShardCore {
    /// Reads the last blocks of those that go through the journal once more.
    async fn know_end_blocks(self: &Rc<Self>, cores: &[Rc<PartitionCore>]) -> Result<(), LogError> {
        let settled = cores.iter().filter(|core| core.has_settled_end()).cloned().collect();
        self.for_each(settled, |shard, core| async move { Partition { core, shard }.know_end_block().await })
            .await
    }

    /// Does `work` for many partitions, several at once, and gives the first failure.
    pub(super) async fn for_each<F, Fut>(
        self: &Rc<Self>,
        cores: Vec<Rc<PartitionCore>>,
        work: F,
    ) -> Result<(), LogError>
    where
        F: Fn(Rc<Self>, Rc<PartitionCore>) -> Fut + Clone + 'static,
        Fut: Future<Output = Result<(), LogError>> + 'static,
    {
        let at_once = cores.len().min(PARTITIONS_AT_ONCE);
        let cores = Rc::new(RefCell::new(cores));
        let begin = |_| {
            let (shard, cores, work) = (Rc::clone(self), Rc::clone(&cores), work.clone());
            self.io.spawn(async move {
                loop {
                    let Some(core) = cores.borrow_mut().pop() else { return Ok(()) };
                    work(Rc::clone(&shard), core).await?;
                }
            })
        };
        let tasks: Vec<_> = (0..at_once).map(begin).collect();
        let mut outcome = Ok(());
        for task in tasks {
            outcome = outcome.and(task.await);
        }
        outcome
    }

    /// Brings partitions that take no appends any more into their segments, and completes those: several at once, as each
    /// waits for a dozen flushes.
    async fn complete_all(self: &Rc<Self>, portion: &mut Vec<Rc<PartitionCore>>) -> Result<(), LogError> {
        let sequence = self.flush_journal().await?;
        let portion = std::mem::take(portion);
        let complete = move |shard: Rc<Self>, core| async move { shard.complete(&core, sequence).await };
        self.for_each(portion, complete).await
    }

    /// Completes a partition's last segment. A fenced one is left as it is: its last block is not in the journal, and what
    /// it holds is all there is.
    async fn complete(self: &Rc<Self>, core: &Rc<PartitionCore>, sequence: u64) -> Result<(), LogError> {
        self.drain_through(core, sequence).await?;
        let (segment, next_offset) = {
            let live = core.live.borrow();
            (live.segments.get(&live.state.segment_base).cloned(), live.state.next_offset)
        };
        let is_fenced = core.fenced.borrow().is_some();
        match segment.filter(|segment| !segment.is_closed() && !is_fenced) {
            Some(segment) => self.close_segment(core, &segment, next_offset).await,
            None => Ok(()),
        }
    }
}

impl PartitionCore {
    /// Whether the last block is only in the segment, where a trim would write it again.
    fn has_settled_end(&self) -> bool {
        let live = self.live.borrow();
        live.repeat_end_block && !live.deleted && self.fenced.borrow().is_none()
    }
}

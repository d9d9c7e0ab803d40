//! Checkpoints: when one is due, and how everything up to a line in the journal comes into flushed segments, so that the
//! journal files before the line can be used again. What a checkpoint file looks like is [`crate::checkpoint`]'s.

use std::cell::RefCell;
use std::rc::Rc;

use highwater_io::IO_ALIGNMENT;
use highwater_io::sync::Watch;

use super::{Dirty, FLUSHES_IN_FLIGHT, ShardCore};
use crate::checkpoint;
use crate::error::LogError;
use crate::journal::Pressure;
use crate::journal::progress::Mark;
use crate::mutants;
use crate::partition::PartitionCore;

impl ShardCore {
    pub(super) async fn checkpoint_loop(self: Rc<Self>) {
        loop {
            self.wait_for_checkpoint_need().await;
            if self.closing.get() || self.journal.progress().failure().is_some() {
                return;
            }
            match self.checkpoint().await {
                Ok(()) => {}
                Err(LogError::Closed) => return,
                Err(error) if self.tell_shortage(&error) => {
                    self.io.sleep(std::time::Duration::from_millis(500)).await;
                }
                Err(error) => tracing::error!("checkpoint failed: {error}"),
            }
        }
    }

    async fn wait_for_checkpoint_need(&self) {
        let interval = self.config.checkpoint_interval_bytes;
        let pressure = self.journal.pressure();
        let bytes = self.journal.bytes_since_checkpoint();
        let needed = || {
            let short = pressure.get();
            // Memory is relieved before appends stand still.
            let filling = self.hot_pool.lent() * 4 > self.hot_pool.limit() * 3;
            bytes.get() >= interval || short.files || short.memory || filling || self.closing.get()
        };
        let mut by_bytes = std::pin::pin!(bytes.wait_for(|_| needed().then_some(())));
        let mut by_pressure = std::pin::pin!(pressure.wait_for(|_| needed().then_some(())));
        std::future::poll_fn(|cx| {
            let bytes = by_bytes.as_mut().poll(cx).is_ready();
            let pressure = by_pressure.as_mut().poll(cx).is_ready();
            if bytes || pressure { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// Brings everything accepted so far into segments, flushes them, writes a checkpoint, and lets the journal files
    /// before it be used again.
    pub(crate) async fn checkpoint(self: &Rc<Self>) -> Result<(), LogError> {
        let _turn = self.checkpoint_turn.acquire(1).await;
        if self.closing.get() {
            return Err(LogError::Closed);
        }
        self.checkpoint_in_turn().await
    }

    /// [`checkpoint`](Self::checkpoint), for whoever has the turn.
    pub(super) async fn checkpoint_in_turn(self: &Rc<Self>) -> Result<(), LogError> {
        self.finish_deletions().await?;
        self.evict();
        let bytes_before = self.journal.bytes_since_checkpoint().get();
        let relief = Relief::begin(self.journal.pressure());
        // From here to the end of the capture nothing is accepted: there is no await.
        let boundary = self.journal.draw_boundary();
        let (body, touched) = self.capture();
        let number = self.checkpoint_number.get() + 1;

        self.journal.progress().wait(Mark::Durable, boundary).await?;
        let place = self.journal.boundary_place();
        if mutants::REUSE_BEFORE_CHECKPOINT.is_on() {
            self.journal.release_through(boundary);
        }
        self.for_each(touched.clone(), move |shard, core| async move {
            shard.drain_through(&core, boundary).await
        })
        .await?;
        if !mutants::CHECKPOINT_BEFORE_FLUSH.is_on() {
            self.flush_segments().await?;
        }
        self.check_flushes()?;
        let bytes = checkpoint::encode(self.generation, number, &place, &body);
        checkpoint::write(&self.io, &self.journal_dir, number, bytes)
            .await
            .map_err(|error| self.fence(&error))?;
        self.checkpoint_number.set(number);
        self.checkpoint_lines.set([self.checkpoint_lines.get()[1], boundary]);
        let passed = self.passed_by_both_checkpoints();
        self.deletions.borrow_mut().retain(|_, sequence| *sequence > passed);
        let released = self.journal.release_through(boundary);
        for core in touched {
            let mut live = core.live.borrow_mut();
            live.touched = live.last_sequence > boundary;
        }
        self.evict();
        self.journal.bytes_since_checkpoint().update(|bytes| *bytes = bytes.saturating_sub(bytes_before));
        relief.end(released);
        Ok(())
    }

    /// The states of all partitions, encoded, and those that have something to bring into segments. Each partial block
    /// at an end will be settled, so the next append repeats it.
    fn capture(&self) -> (Vec<u8>, Vec<Rc<PartitionCore>>) {
        let mut body = Vec::new();
        let mut touched = Vec::new();
        let mut producers = 0;
        for core in self.partitions.borrow().values() {
            let mut live = core.live.borrow_mut();
            if live.deleted {
                continue;
            }
            live.state.encode(&mut body);
            producers += live.state.producers.len();
            if live.touched {
                live.repeat_end_block |= !live.end_block_is_empty();
                touched.push(Rc::clone(core));
            }
        }
        self.producers.set(producers);
        (body, touched)
    }

    /// Flushes every segment written to, and the directories of new ones.
    pub(super) async fn flush_segments(self: &Rc<Self>) -> Result<(), LogError> {
        self.flush_dirty().await?;
        self.flush_new_names().await
    }

    /// Flushes every segment that was written to until now.
    pub(super) async fn flush_dirty(self: &Rc<Self>) -> Result<(), LogError> {
        let _turn = self.flush_turn.acquire(1).await;
        let dirty = Rc::new(RefCell::new(std::mem::take(&mut *self.dirty.borrow_mut())));
        let tasks = dirty.borrow().len().min(FLUSHES_IN_FLIGHT);
        let flushing: Vec<_> =
            (0..tasks).map(|_| self.io.spawn(Rc::clone(self).flush_from(Rc::clone(&dirty)))).collect();
        let mut outcome = Ok(());
        for task in flushing {
            outcome = outcome.and(task.await);
        }
        self.dirty.borrow_mut().append(&mut dirty.borrow_mut());
        outcome
    }

    pub(super) async fn flush_new_names(self: &Rc<Self>) -> Result<(), LogError> {
        let mut new_names = self.new_names.borrow().clone();
        self.naming.with(|naming| new_names.extend(naming));
        for id in new_names {
            let core = self.partitions.borrow().get(&id).cloned();
            match core {
                Some(core) => self.flush_dir_if_new(&core).await?,
                None => {
                    self.new_names.borrow_mut().remove(&id);
                }
            }
        }
        Ok(())
    }

    /// Flushes segments, one after the other, until none is left or one fails.
    async fn flush_from(self: Rc<Self>, dirty: Rc<RefCell<Dirty>>) -> Result<(), LogError> {
        loop {
            let Some((key, (segment, file))) = dirty.borrow_mut().pop_first() else { return Ok(()) };
            match file.sync_data().await {
                // Retention or a truncation was faster; what is gone need not be flushed.
                Err(_) if segment.is_removed() => {}
                Ok(()) => {}
                Err(error) => {
                    let error = self.fence_device(&error);
                    if error.is_shortage() {
                        self.dirty.borrow_mut().insert(key, (segment, file));
                    }
                    return Err(error);
                }
            }
        }
    }

    /// To be asked after the last flush on which a checkpoint counts. The system tells an error once: where somebody else met it,
    /// at a segment's end or for a name, a later flush of the same file is told that all is well.
    pub(super) fn check_flushes(&self) -> Result<(), LogError> {
        self.journal.progress().failure().map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// No group at or below is ever replayed again, whichever of its two checkpoints a start finds.
    pub(crate) fn passed_by_both_checkpoints(&self) -> u64 {
        self.checkpoint_lines.get()[0]
    }
}

/// What appends waited for when a checkpoint drew its line. What they begin to wait for behind it, this one may not relieve: that
/// stays for the next one.
struct Relief<'a> {
    pressure: &'a Watch<Pressure>,
    taken: Pressure,
}

impl<'a> Relief<'a> {
    fn begin(pressure: &'a Watch<Pressure>) -> Self {
        Relief { pressure, taken: pressure.update(std::mem::take) }
    }

    /// The checkpoint is written. Whoever waits for a file is woken if one was released, and for memory by what was written
    /// behind; a lack of that shows by itself.
    fn end(mut self, released: bool) {
        self.taken = Pressure::default();
        self.pressure.update(|pressure| {
            pressure.files &= !released;
            pressure.memory = false;
        });
    }
}

impl Drop for Relief<'_> {
    /// Where the checkpoint came to nothing, they wait still.
    fn drop(&mut self) {
        if self.taken != Pressure::default() {
            self.pressure.update(|pressure| {
                pressure.files |= self.taken.files;
                pressure.memory |= self.taken.memory;
            });
        }
    }
}

impl crate::partition::Live {
    fn end_block_is_empty(&self) -> bool {
        self.state.position_bytes.is_multiple_of(IO_ALIGNMENT as u64)
    }
}

//! Cutting a log at either end. Each cut is an entry in the journal, durable before it is answered or acted upon; files
//! are removed after (rule 4).

use std::rc::Rc;

use bytes::Bytes;
use highwater_io::IO_ALIGNMENT;
use highwater_model::Offset;

use crate::error::{LogError, ReadError};
use crate::journal::format::{Change, Entry};
use crate::journal::progress::Mark;
use crate::kafka_files::{INDEX_SUFFIX, TIME_INDEX_SUFFIX, segment_path};
use crate::mutants;
use crate::partition::segment::{Part, Segment, Walk};
use crate::partition::state::PartitionState;
use crate::partition::{Effect, EndBlock, Partition};

/// A place in the log's bytes.
struct Cut {
    segment_base: Offset,
    position_bytes: u64,
    /// Offset of the batch there.
    next_offset: Offset,
}

impl Partition {
    /// Cuts the log's end, so that the batch that holds `offset`, and all after it, are gone. An offset at or beyond the
    /// end changes nothing. Durable when this returns.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn truncate_to(&self, offset: Offset) -> Result<(), LogError> {
        let this = self.clone();
        self.shard.to_the_end(async move { this.truncate(offset).await }).await
    }

    async fn truncate(&self, offset: Offset) -> Result<(), LogError> {
        let _append_turn = self.core.append_turn.acquire(1).await;
        self.core.check_writable()?;
        let last_sequence = self.core.live.borrow().last_sequence;
        self.shard.journal.progress().wait(Mark::Written, last_sequence).await?;
        loop {
            self.drop_unused_segment(None).await?;
            let drain_turn = self.core.drain_turn.acquire(1).await;
            let files_turn = self.core.files_turn.acquire(1).await;
            if offset >= self.core.live.borrow().state.next_offset {
                return Ok(());
            }
            let unreadable =
                |error| self.core.unreadable(&error, "the log cannot be read where it is to be cut");
            let cut = self.find_cut(offset).await.map_err(unreadable)?;
            let end_block = self.bytes_before(&cut).await.map_err(unreadable)?;
            self.shard.forget_first_dirty(&self.core).await?;
            self.forget_index_files(cut.segment_base).await?;
            if self.shard.journal.admits_change() {
                return self.cut(&cut, end_block).await;
            }
            // A full journal waits for a checkpoint, and a checkpoint for this partition's write-behind.
            drop((drain_turn, files_turn));
            self.shard.journal.admit(0, 1).await?;
        }
    }

    async fn cut(&self, cut: &Cut, end_block: Bytes) -> Result<(), LogError> {
        let change = Change::Truncate {
            segment_base: cut.segment_base,
            position_bytes: cut.position_bytes,
            next_offset: cut.next_offset,
        };
        self.journal_durably(change, |state| {
            state.truncate(cut.next_offset, cut.segment_base, cut.position_bytes);
        })
        .await?;
        self.apply_cut(cut, end_block).await
    }

    /// Writes an entry, changes the state that a checkpoint keeps in the same moment, and waits until the entry is
    /// durable. What readers see, and the files, follow after that.
    async fn journal_durably(
        &self,
        change: Change,
        note: impl FnOnce(&mut PartitionState),
    ) -> Result<(), LogError> {
        let journal = &self.shard.journal;
        self.core.is_complete.set(false);
        journal.admit(0, 1).await?;
        let entry = Entry { id: self.core.id, change };
        let effect = Effect::none(Rc::clone(&self.core));
        let sequence = journal.append(|group| {
            group.push(entry, effect);
            group.wants_flush = true;
        });
        note(&mut self.core.live.borrow_mut().state);
        if mutants::ACT_BEFORE_DURABLE.is_on() {
            return Ok(());
        }
        Ok(journal.progress().wait(Mark::Durable, sequence).await?)
    }

    /// Removes the index files of a segment that is about to be cut: they would describe batches that are gone. Durable
    /// before the cut is, since recovery does not look at them.
    async fn forget_index_files(&self, segment_base: Offset) -> Result<(), LogError> {
        let fs = self.shard.io.fs();
        for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
            match fs.remove_file(segment_path(&self.core.dir, segment_base, suffix)).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.shard.fence(&error)),
            }
        }
        // Also where none is left: an attempt before this one may have come so far and no further.
        fs.sync_dir(&self.core.dir).await.map_err(|error| self.shard.fence_device(&error))
    }

    async fn find_cut(&self, offset: Offset) -> Result<Cut, ReadError> {
        let in_memory = {
            let live = self.core.live.borrow();
            let covered = live.tail.first_offset().is_some_and(|first| first <= offset);
            covered.then(|| live.tail.starting_at(offset).next().cloned()).flatten().map(|hot| Cut {
                segment_base: hot.segment_base,
                position_bytes: hot.position_bytes,
                next_offset: hot.base_offset,
            })
        };
        if let Some(cut) = in_memory {
            return Ok(cut);
        }
        let segment = {
            let live = self.core.live.borrow();
            live.segments.range(..=offset).next_back().map(|(_, segment)| Rc::clone(segment))
        };
        let Some(segment) = segment else {
            // Everything goes, and the log begins anew where it began.
            let start = self.core.live.borrow().segments.keys().next().copied().unwrap_or(offset);
            return Ok(Cut { segment_base: start, position_bytes: 0, next_offset: start });
        };
        self.find_cut_in(&segment, offset).await
    }

    async fn find_cut_in(&self, segment: &Rc<Segment>, offset: Offset) -> Result<Cut, ReadError> {
        let end_bytes = {
            let live = self.core.live.borrow();
            let is_active = segment.base_offset == live.drain.segment_base;
            if is_active { live.drain.written_bytes } else { segment.size_bytes() }
        };
        let offsets = self.core.offsets_of(segment);
        let mut next_offset = segment.base_offset;
        let part = Part { from_bytes: 0, end_bytes, offsets };
        let position_bytes = segment
            .walk(&self.shard.io, self.shard.direct, part, |_, header| {
                next_offset = header.base_offset.min(offset);
                if header.last_offset() >= offset { Walk::Stop } else { Walk::On }
            })
            .await?;
        if position_bytes == end_bytes {
            // Nothing at or after the offset in this segment: the gap belongs to the next one, which goes whole.
            next_offset = offset;
        }
        Ok(Cut { segment_base: segment.base_offset, position_bytes, next_offset })
    }

    /// The bytes between the start of the block and the cut.
    async fn bytes_before(&self, cut: &Cut) -> Result<Bytes, ReadError> {
        let block_start = cut.position_bytes / IO_ALIGNMENT as u64 * IO_ALIGNMENT as u64;
        if block_start == cut.position_bytes {
            return Ok(Bytes::new());
        }
        let (in_file, from_tail) = {
            let live = self.core.live.borrow();
            let in_file = match cut.segment_base.cmp(&live.drain.segment_base) {
                std::cmp::Ordering::Less => cut.position_bytes,
                std::cmp::Ordering::Equal => live.drain.written_bytes.min(cut.position_bytes),
                std::cmp::Ordering::Greater => 0,
            };
            let mut bytes = Vec::new();
            for hot in live.tail.iter().filter(|hot| hot.segment_base == cut.segment_base) {
                let from = in_file.max(block_start);
                if hot.position_bytes < cut.position_bytes && hot.end_position() > from {
                    let whole = hot.chunks.concat();
                    let skip = from.saturating_sub(hot.position_bytes);
                    bytes.extend_from_slice(&whole[usize::try_from(skip).expect("inside the batch")..]);
                }
            }
            (in_file, bytes)
        };
        let mut block = Vec::new();
        if in_file > block_start {
            let segment = self.core.segment(cut.segment_base).expect("the cut lies in a segment");
            let bytes = segment.read(&self.shard.io, self.shard.direct, block_start, in_file).await?;
            block.extend_from_slice(&bytes);
        }
        block.extend_from_slice(&from_tail);
        block.truncate(usize::try_from(cut.position_bytes - block_start).expect("below a block"));
        Ok(block.into())
    }

    async fn apply_cut(&self, cut: &Cut, end_block: Bytes) -> Result<(), LogError> {
        {
            let mut live = self.core.live.borrow_mut();
            live.tail.truncate(cut.next_offset);
            let later = live.segments.split_off(&Offset(cut.segment_base.0 + 1));
            if let Some(segment) = live.segments.get(&cut.segment_base) {
                segment.set_size(cut.position_bytes);
                segment.index.borrow_mut().truncate(cut.position_bytes, cut.next_offset);
                if segment.is_closed() {
                    // It is appended to again.
                    segment.set_closed(false);
                    segment.close_file();
                }
            }
            let behind = live.drain.segment_base < cut.segment_base
                || live.drain.segment_base == cut.segment_base
                    && live.drain.written_bytes <= cut.position_bytes;
            if !behind {
                live.drain = super::DrainPoint {
                    segment_base: cut.segment_base,
                    written_bytes: cut.position_bytes,
                    settled: end_block.clone(),
                };
            }
            live.end_block = EndBlock::Known(end_block.to_vec());
            live.repeat_end_block = !end_block.is_empty();
            live.cut_off.extend(later.into_values());
        }
        self.core.watermarks.update(|marks| {
            marks.log_end_offset = cut.next_offset;
            marks.durable_offset = marks.durable_offset.min(cut.next_offset);
            marks.log_start_offset = marks.log_start_offset.min(cut.next_offset);
        });
        self.shard.forget_rolls(&self.core, cut.segment_base);
        self.drop_unused_segment(None).await
    }

    /// Moves the log's start to `offset`: what is below cannot be read any more, and whole segments below go. Beyond the
    /// end it is an error; below the start it changes nothing. Durable when this returns. Returns the start.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn delete_records_before(&self, offset: Offset) -> Result<Offset, LogError> {
        if offset <= self.core.watermarks.get().log_start_offset {
            return Ok(self.core.watermarks.get().log_start_offset);
        }
        let this = self.clone();
        self.shard.to_the_end(async move { this.move_start(offset).await }).await
    }

    async fn move_start(&self, offset: Offset) -> Result<Offset, LogError> {
        let _append_turn = self.core.append_turn.acquire(1).await;
        if self.core.live.borrow().closed {
            return Err(LogError::Closed);
        }
        let offset = offset.min(self.core.watermarks.get().log_end_offset);
        let change = Change::MoveStart { log_start_offset: offset };
        self.journal_durably(change, |state| state.move_start(offset)).await?;
        let log_start_offset = self.core.live.borrow().state.log_start_offset;
        self.core.watermarks.update(|marks| {
            marks.log_start_offset = log_start_offset;
            marks.durable_offset = marks.durable_offset.max(log_start_offset);
        });
        self.remove_segments_below(log_start_offset).await?;
        Ok(log_start_offset)
    }

    /// Removes whole segments below the start, except those that the write-behind has not finished with.
    async fn remove_segments_below(&self, log_start_offset: Offset) -> Result<(), LogError> {
        // A compaction that is about to replace one of them comes before or after.
        let _files_turn = self.core.files_turn.acquire(1).await;
        let removed: Vec<Rc<Segment>> = {
            let mut live = self.core.live.borrow_mut();
            live.tail.forget_below(log_start_offset);
            let drain_base = live.drain.segment_base;
            let bases: Vec<Offset> = live.segments.keys().copied().collect();
            let gone = bases
                .windows(2)
                .filter(|pair| pair[1] <= log_start_offset && pair[0] < drain_base)
                .map(|pair| pair[0])
                .collect::<Vec<_>>();
            gone.iter().filter_map(|base| live.segments.remove(base)).collect()
        };
        self.shard.remove_segments(&self.core, &removed).await
    }
}

//! The bare side: the same writes, with nothing checked, copied or kept.
//!
//! By default it writes from as much memory as the engine does: groups from the size of the hot tail, one after the other,
//! chunks from the size of the engine's chunk buffers. A loop that writes one buffer again and again is faster, since the
//! device finds it in the processor's cache; no log can do that, whose groups are what clients sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use highwater_io::fs::{Durability, File};
use highwater_io::sync::Watch;
use highwater_io::{IO_ALIGNMENT, Io, IoBuf};
use highwater_log::ShardConfig;

use crate::files::{create, filled, journal, warm_pool};
use crate::report::thread_cpu;
use crate::{Measured, Work};

/// Of the engine's hot tail.
const SLAB_BYTES: usize = 1 << 20;

/// What the loop that writes groups and those that write chunks share.
struct Behind {
    /// Segment and position of each chunk to be written, and its size in bytes.
    chunks: RefCell<VecDeque<(usize, u64, usize)>>,
    changes: Watch<u64>,
    waiting_bytes: Cell<usize>,
    ended: Cell<bool>,
}

impl Behind {
    fn changed(&self) {
        self.changes.update(|changes| *changes += 1);
    }
}

/// How a group is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    /// `RWF_DSYNC`.
    One,
    /// A write, then `fdatasync`.
    Two,
}

pub(crate) async fn run(io: Io, work: Work, shard: usize, steps: Steps) -> Measured {
    let config = work.settings.clone();
    let partitions = work.partitions_of(shard).count();
    let (appends, payload_bytes) =
        (work.group_appends(shard), work.group_appends(shard) * work.shape.append_bytes);
    let group_bytes = payload_bytes.next_multiple_of(IO_ALIGNMENT) + IO_ALIGNMENT;
    let journal = journal(&io, &work.dir, &config, shard).await;
    let segments = segments(&io, &work, &config, shard).await;
    let (groups, chunks) = if work.one_buffer {
        (
            vec![filled(IoBuf::with_capacity(group_bytes), group_bytes)],
            vec![filled(IoBuf::with_capacity(config.chunk_bytes), config.chunk_bytes)],
        )
    } else {
        let slabs = memory(SLAB_BYTES.max(group_bytes), config.hot_tail_bytes);
        let each = |slab: Bytes| {
            (0..slab.len() / group_bytes).map(move |at| slab.slice(at * group_bytes..(at + 1) * group_bytes))
        };
        let chunks = memory(config.chunk_bytes, 2 * config.chunks_in_flight * config.chunk_bytes);
        (slabs.into_iter().flat_map(each).collect(), chunks)
    };
    let mut groups = groups.iter().cycle();
    let last_chunk = chunks.last().expect("at least one").clone();
    let rounds = work.groups();
    let behind = Rc::new(Behind {
        chunks: RefCell::default(),
        changes: Watch::new(0),
        waiting_bytes: Cell::new(0),
        ended: Cell::new(false),
    });
    work.start.wait();
    let enters = io.counters().enters;

    let (begin, cpu) = (Instant::now(), thread_cpu());
    let writers: Vec<_> = (0..config.chunks_in_flight)
        .map(|writer| {
            let chunks: Vec<_> =
                chunks.iter().skip(writer).step_by(config.chunks_in_flight).cloned().collect();
            let chunks = if chunks.is_empty() { vec![last_chunk.clone()] } else { chunks };
            io.spawn(write_behind(Rc::clone(&behind), segments.clone(), chunks))
        })
        .collect();
    let (mut file, mut position) = (0, 0);
    let (mut filled_bytes, mut written) = (0, 0);
    for _ in 0..rounds {
        if position + group_bytes as u64 > config.journal_file_bytes {
            (file, position) = ((file + 1) % journal.len(), 0);
        }
        let in_one = steps == Steps::One && !work.unflushed;
        let durability = if in_one { Durability::Sync } else { Durability::Plain };
        journal[file]
            .write_at(vec![groups.next().expect("endless").clone()], position, durability)
            .await
            .expect("a group");
        if steps == Steps::Two {
            journal[file].sync_data().await.expect("a flush");
        }
        position += group_bytes as u64;
        filled_bytes += payload_bytes;
        while filled_bytes >= partitions * config.chunk_bytes {
            filled_bytes -= partitions * config.chunk_bytes;
            let at = written;
            behind
                .chunks
                .borrow_mut()
                .extend((0..partitions).map(|segment| (segment, at, config.chunk_bytes)));
            behind.waiting_bytes.set(behind.waiting_bytes.get() + partitions * config.chunk_bytes);
            written += config.chunk_bytes as u64;
            behind.changed();
        }
        let room =
            || behind.waiting_bytes.get() < config.hot_tail_bytes.max(2 * partitions * config.chunk_bytes);
        behind.changes.wait_for(|_| room().then_some(())).await;
    }
    let acknowledged = begin.elapsed();
    if filled_bytes > 0 {
        let rest = filled_bytes.div_ceil(partitions).next_multiple_of(IO_ALIGNMENT);
        behind.chunks.borrow_mut().extend((0..partitions).map(|segment| (segment, written, rest)));
    }
    behind.ended.set(true);
    behind.changed();
    for writer in writers {
        writer.await;
    }
    for segment in &segments {
        segment.sync_data().await.expect("a flush");
    }
    Measured {
        appends: rounds * appends as u64,
        bytes: rounds * payload_bytes as u64,
        acknowledged,
        drained: begin.elapsed(),
        groups: rounds,
        enters: io.counters().enters - enters,
        thread_cpu: thread_cpu() - cpu,
    }
}

async fn write_behind(behind: Rc<Behind>, segments: Vec<Rc<File>>, chunks: Vec<Bytes>) {
    for chunk in chunks.iter().cycle() {
        let next = behind.changes.wait_for(|_| match behind.chunks.borrow_mut().pop_front() {
            Some(next) => Some(Some(next)),
            None => behind.ended.get().then_some(None),
        });
        let Some((segment, position, len)) = next.await else { return };
        segments[segment]
            .write_at(vec![chunk.slice(..len)], position, Durability::Plain)
            .await
            .expect("a chunk");
        behind.waiting_bytes.set(behind.waiting_bytes.get().saturating_sub(len));
        behind.changed();
    }
}

pub(crate) async fn segments(io: &Io, work: &Work, config: &ShardConfig, shard: usize) -> Vec<Rc<File>> {
    let appends = work.groups() * work.group_appends(shard) as u64;
    let size_bytes = (appends * work.shape.append_bytes as u64)
        .div_ceil(work.partitions_of(shard).count() as u64)
        .next_multiple_of(config.chunk_bytes as u64);
    let mut files = Vec::new();
    for number in work.partitions_of(shard) {
        files.push(create(io, &work.dir.join(format!("segment-{number}")), size_bytes).await);
    }
    files
}

/// Memory of `total_bytes` in slabs, as the engine has it.
pub(crate) fn memory(slab_bytes: usize, total_bytes: usize) -> Vec<Bytes> {
    let pool = warm_pool(slab_bytes, total_bytes);
    std::iter::from_fn(|| pool.try_take()).map(|slab| filled(slab, slab_bytes)).collect()
}

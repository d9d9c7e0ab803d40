//! Appends that go straight to their segment, with a reference to each in the journal: half the bytes. What it would reach at
//! most, with nothing around the writes; `docs/adr` has what came of it.
//!
//! A record may be acknowledged once both are durable, and both are written at the same time: a reference would carry its
//! batch's checksum, by which recovery knows one whose batch did not come. The bytes count on one of two promises:
//!
//! * *a flush a file*: each write of a segment is durable by itself (`RWF_DSYNC`), as the documentation of each part of the
//!   system promises it;
//! * *one flush*: segments are written first, and the journal's flush then covers them. That is a property of the file
//!   system and of the device, which nobody promises, and the extents that a segment grows by are not in it: the figure is a bound.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use highwater_io::fs::{Durability, File};
use highwater_io::{IO_ALIGNMENT, Io};

use crate::bare::{memory, segments};
use crate::files::journal;
use crate::report::thread_cpu;
use crate::{Measured, Work};

/// Of one reference: partition, segment, position, length, offset, checksum.
const REFERENCE_BYTES: usize = 64;

/// Which promise the bytes count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    FlushAFile,
    OneFlush,
}

pub(crate) async fn run(io: Io, work: Work, shard: usize, promise: Promise) -> Measured {
    let config = work.settings.clone();
    let appends = work.group_appends(shard);
    let append_bytes = work.shape.append_bytes.next_multiple_of(IO_ALIGNMENT);
    let journal = journal(&io, &work.dir, &config, shard).await;
    let segments = segments(&io, &work, &config, shard).await;
    let slabs = memory(append_bytes.max(1 << 20), config.hot_tail_bytes);
    let each = |slab: Bytes| {
        (0..slab.len() / append_bytes).map(move |at| slab.slice(at * append_bytes..(at + 1) * append_bytes))
    };
    let batches: Vec<Bytes> = slabs.into_iter().flat_map(each).collect();
    let mut batches = batches.iter().cycle();
    let group_bytes = (appends * REFERENCE_BYTES).next_multiple_of(IO_ALIGNMENT);
    let group = memory(group_bytes, group_bytes).pop().expect("one");
    let rounds = work.groups();
    work.start.wait();
    let enters = io.counters().enters;

    let (begin, cpu) = (Instant::now(), thread_cpu());
    let (mut file, mut position, mut at) = (0, 0, 0);
    for _ in 0..rounds {
        if position + group_bytes as u64 > config.journal_file_bytes {
            (file, position) = ((file + 1) % journal.len(), 0);
        }
        let durability = if promise == Promise::FlushAFile { Durability::Sync } else { Durability::Plain };
        let mut writes = Vec::with_capacity(appends);
        for append in 0..appends {
            let segment = Rc::clone(&segments[append % segments.len()]);
            let behind = (append / segments.len() * append_bytes) as u64;
            writes.push(io.spawn(write(
                segment,
                batches.next().expect("endless").clone(),
                at + behind,
                durability,
            )));
        }
        at += (appends.div_ceil(segments.len()) * append_bytes) as u64;
        let reference = write(Rc::clone(&journal[file]), group.clone(), position, Durability::Sync);
        if promise == Promise::FlushAFile {
            let reference = io.spawn(reference);
            for write in writes {
                write.await;
            }
            reference.await;
        } else {
            for write in writes {
                write.await;
            }
            reference.await;
        }
        position += group_bytes as u64;
    }
    let acknowledged = begin.elapsed();
    for segment in &segments {
        segment.sync_data().await.expect("a flush");
    }
    Measured {
        appends: rounds * appends as u64,
        bytes: rounds * (appends * work.shape.append_bytes) as u64,
        acknowledged,
        drained: begin.elapsed(),
        groups: rounds,
        enters: io.counters().enters - enters,
        thread_cpu: thread_cpu() - cpu,
    }
}

async fn write(file: Rc<File>, bytes: Bytes, position_bytes: u64, durability: Durability) {
    file.write_at(vec![bytes], position_bytes, durability).await.expect("written");
}

//! Writes to segments that are on their way while the journals are read on.
//!
//! Their memory is a pool's, and bounds them: who wants more waits until one has completed. A write that overlaps an older
//! one of the same segment begins when that is complete, so that the newer bytes are those that stay. Who drops this
//! leaves writes on their way; each holds its file's lock until it has landed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::{BufPool, FileError, Io, IoBuf, Task, fs};
use highwater_model::{Offset, TopicPartition};

/// Bytes of one write.
const WRITE_BYTES: usize = 1 << 20;

/// Writes that are on their way at the same time.
const WRITES_IN_FLIGHT: usize = 32;

/// A segment of a partition, by its base offset.
pub(super) type SegmentKey = (TopicPartition, Offset);

struct Write {
    range: Range<u64>,
    task: Task<Result<(), FileError>>,
}

pub(super) struct Writes {
    io: Io,
    pool: BufPool,
    in_flight: BTreeMap<SegmentKey, Vec<Write>>,
}

impl Writes {
    pub(super) fn new(io: &Io) -> Self {
        let pool = BufPool::new(WRITE_BYTES, WRITES_IN_FLIGHT, WRITES_IN_FLIGHT);
        Writes { io: io.clone(), pool, in_flight: BTreeMap::new() }
    }

    /// An empty buffer for one write, of whole blocks.
    pub(super) async fn buf(&self) -> IoBuf {
        self.pool.take().await
    }

    /// Begins to write at `position_bytes`.
    ///
    /// # Errors
    /// That of an older write to the segment.
    pub(super) async fn begin(
        &mut self,
        segment: SegmentKey,
        file: Rc<fs::File>,
        bytes: Bytes,
        position_bytes: u64,
    ) -> Result<(), FileError> {
        let range = position_bytes..position_bytes + bytes.len() as u64;
        let older = self.in_flight.entry(segment).or_default();
        let overlaps = |write: &Write| write.range.start < range.end && range.start < write.range.end;
        let (done, going) =
            std::mem::take(older).into_iter().partition(|write| overlaps(write) || write.task.is_finished());
        *older = going;
        complete(done).await?;
        let write = async move { file.write_at(vec![bytes], position_bytes, fs::Durability::Plain).await };
        let task = self.io.spawn(write);
        self.in_flight.entry(segment).or_default().push(Write { range, task });
        Ok(())
    }

    /// Waits for what is on its way to a segment.
    pub(super) async fn complete(&mut self, segment: SegmentKey) -> Result<(), FileError> {
        complete(self.in_flight.remove(&segment).unwrap_or_default()).await
    }

    /// Waits for everything that is on its way.
    pub(super) async fn complete_all(&mut self) -> Result<(), FileError> {
        complete(std::mem::take(&mut self.in_flight).into_values().flatten().collect()).await
    }
}

/// Waits for all of them, and gives the first failure.
async fn complete(writes: Vec<Write>) -> Result<(), FileError> {
    let mut outcome = Ok(());
    for Write { task, .. } in writes {
        outcome = outcome.and(task.await);
    }
    outcome
}

//! Following a log's end.

use super::{Log, Offset, Records, StoreError};

/// What one step reads at most, unless somebody says otherwise.
const DEFAULT_MAX_BYTES: usize = 1 << 20;

/// A reader that follows a log ([`Log::tail`]). It holds nothing in the store: any number of them cost only what they read.
///
/// ```
/// # use highwater_log::store::{NewRecord, Offset, Store, StoreOptions, Wait};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let store = Store::open(scratch.path().join("log"), StoreOptions::default())?;
/// # let log = store.log("events", 0).wait()?;
/// let mut tail = log.tail(Offset(0));
/// let reader = std::thread::spawn(move || tail.next().wait()); // waits for the first record
/// log.append(NewRecord::value("here")).wait()?.wait()?;
/// let found = reader.join().expect("no panic")?;
/// assert_eq!(found.records[0].value.as_deref(), Some(&b"here"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Tail {
    log: Log,
    next_offset: Offset,
    max_bytes: usize,
}

impl Tail {
    pub(super) fn new(log: Log, next_offset: Offset) -> Self {
        Tail { log, next_offset, max_bytes: DEFAULT_MAX_BYTES }
    }

    /// Reads about so many bytes of batches at a time, instead of 1 MiB; at least one batch.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        Tail { max_bytes, ..self }
    }

    /// The offset that it reads next: what to keep, durably, of how far somebody is.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The next records, at least one; waits for it if need be. A power cut takes none of them back, unless the log
    /// acknowledges without a flush.
    ///
    /// Dropped while it waits (`tokio::time::timeout`, [`Wait::wait_timeout`](super::Wait::wait_timeout)), it has taken
    /// nothing: the next call goes on from the same record.
    ///
    /// # Errors
    /// [`StoreError::Read`], among them [`ReadError::OffsetOutOfRange`](crate::ReadError::OffsetOutOfRange) where retention
    /// or a truncation was faster: it has the log's ends, for a new tail. [`StoreError::Log`] once the log is deleted,
    /// [`StoreError::Closed`] once the store is.
    pub async fn next(&mut self) -> Result<Records, StoreError> {
        loop {
            let found = self.log.read(self.next_offset, self.max_bytes).await?;
            let is_at_end = found.next_offset == self.next_offset;
            self.next_offset = found.next_offset;
            if !found.records.is_empty() {
                return Ok(found);
            }
            // Compaction may have left nothing between here and the next record.
            if is_at_end {
                self.log.wait_for(self.next_offset).await?;
            }
        }
    }
}

//! Counters of a producer.

/// What a producer has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProducerStats {
    /// Records appended.
    pub records_appended: u64,
    /// Appends refused for want of memory.
    pub buffer_exhausted: u64,
    /// Produce requests sent.
    pub requests: u64,
    /// Batches sent, each time counted.
    pub batches_sent: u64,
    /// Bytes of batches sent, headers included, each time counted.
    pub batch_bytes_sent: u64,
    /// Batches that will be sent again after an error or a lost connection.
    pub batch_retries: u64,
    /// Batches that were split for being too large.
    pub batch_splits: u64,
    /// Records with the outcome *acked*, or with acks=0 *sent*.
    pub records_acked: u64,
    /// Records with the outcome *failed*.
    pub records_failed: u64,
}

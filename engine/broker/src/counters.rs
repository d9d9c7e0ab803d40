//! What the broker counts. Each shard writes its own; anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows, or a level.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes `count` away, from a level.
    pub(crate) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Sets a level, or a total that is counted elsewhere.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A shard's counters. Padded, so that shards do not share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardCounters {
    /// Connections accepted.
    pub(crate) connections_accepted: Counter,
    /// Connections refused because of `max.connections` or `max.connections.per.ip`.
    pub(crate) connections_refused: Counter,
    /// Connections open now.
    pub(crate) connections_open: Counter,
    /// Connections closed because they were idle, or too slow with a request or a response.
    pub(crate) connections_timed_out: Counter,
    /// Connections closed because of a request that could not be decoded.
    pub(crate) malformed_requests: Counter,
    /// Requests decoded.
    pub(crate) requests: Counter,
    /// Bytes of requests.
    pub(crate) request_bytes: Counter,
    /// Bytes of responses.
    pub(crate) response_bytes: Counter,
    /// Batches that producers sent and that were accepted.
    pub(crate) produced_batches: Counter,
    /// Their bytes.
    pub(crate) produced_bytes: Counter,
    /// Partitions of produce requests that were answered with an error.
    pub(crate) produce_errors: Counter,
    /// Bytes of records in fetch responses.
    pub(crate) fetched_bytes: Counter,
    /// Fetches that waited.
    pub(crate) fetches_parked: Counter,
    /// Fetch sessions open now.
    pub(crate) fetch_sessions: Counter,
    /// Fetch sessions that made room for others.
    pub(crate) fetch_sessions_evicted: Counter,
    /// Messages from other shards.
    pub(crate) messages: Counter,
}

/// The sum over all shards, at about one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `ShardCounters`")]
pub struct Metrics {
    pub connections_accepted: u64,
    pub connections_refused: u64,
    pub connections_open: u64,
    pub connections_timed_out: u64,
    pub malformed_requests: u64,
    pub requests: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub produced_batches: u64,
    pub produced_bytes: u64,
    pub produce_errors: u64,
    pub fetched_bytes: u64,
    pub fetches_parked: u64,
    pub fetch_sessions: u64,
    pub fetch_sessions_evicted: u64,
    pub messages: u64,
}

impl Metrics {
    pub(crate) fn sum(shards: &[ShardCounters]) -> Metrics {
        let sum = |field: fn(&ShardCounters) -> &Counter| shards.iter().map(|shard| field(shard).get()).sum();
        Metrics {
            connections_accepted: sum(|c| &c.connections_accepted),
            connections_refused: sum(|c| &c.connections_refused),
            connections_open: sum(|c| &c.connections_open),
            connections_timed_out: sum(|c| &c.connections_timed_out),
            malformed_requests: sum(|c| &c.malformed_requests),
            requests: sum(|c| &c.requests),
            request_bytes: sum(|c| &c.request_bytes),
            response_bytes: sum(|c| &c.response_bytes),
            produced_batches: sum(|c| &c.produced_batches),
            produced_bytes: sum(|c| &c.produced_bytes),
            produce_errors: sum(|c| &c.produce_errors),
            fetched_bytes: sum(|c| &c.fetched_bytes),
            fetches_parked: sum(|c| &c.fetches_parked),
            fetch_sessions: sum(|c| &c.fetch_sessions),
            fetch_sessions_evicted: sum(|c| &c.fetch_sessions_evicted),
            messages: sum(|c| &c.messages),
        }
    }
}

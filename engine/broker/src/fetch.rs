//! Reading for consumers: fetch sessions, reads within limits, and waiting for more.
//!
//! * [`session`]: what a client fetches, remembered between its requests (KIP-227).
//! * [`read`]: one read of many partitions within the limits of a request.
//! * [`wait`]: parked fetches: until one of the partitions has more.

pub(crate) mod read;
pub(crate) mod session;
pub(crate) mod wait;

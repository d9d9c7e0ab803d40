//! What the drivers for the real world share: threads, the loop of a shard, its queue of ready tasks and its alarm, signals,
//! and the system calls that no driver has a way of its own for.
//!
//! ```text
//!   runtime ── threads ──> shard (the loop) ── Engine ──> uring, or posix
//!                            │                    ^
//!                          ready ── alarm ────────┘
//! ```

pub(crate) mod clock;
pub(crate) mod dir;
pub(crate) mod net;
pub(crate) mod pieces;
pub(crate) mod ready;
pub(crate) mod runtime;
pub(crate) mod shard;
pub(crate) mod signals;
pub(crate) mod stop;
pub(crate) mod sys;

pub(crate) use runtime::Runtime;

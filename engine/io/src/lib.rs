//! The handle to the world.
//!
//! Every other crate of the engine reaches files, sockets, clocks, timers, random numbers and other cores
//! through one concrete handle, [`Io`]; nothing else calls the operating system. Behind it stands one of the
//! drivers, chosen at start and told apart by an enum, never by a generic that would spread over every type:
//!
//! * `uring`: one thread and one io_uring a shard (`SINGLE_ISSUER`, `DEFER_TASKRUN`);
//! * `posix`: one thread, one epoll and a few threads for files a shard, for hosts that forbid io_uring;
//! * [`sim`]: many shards of many nodes on one thread, with a seeded scheduler, virtual clocks, a disk that
//!   forgets what was not flushed and a network that misbehaves. The same seed gives the same trace.
//!
//! ```text
//!   engine/log, engine/broker         straight-line async code
//!            │
//!           Io ─── Fs, File ─── TcpListener, TcpStream ─── timers ─── spawn ─── mailbox
//!            │
//!      ┌─────┼─────┐
//!    uring posix  sim
//! ```
//!
//! Invariants:
//!
//! * A task runs on the shard that spawned it, and nothing of a shard is shared but [`mailbox`] and the
//!   reference-counted memory of [`buf`].
//! * Memory and descriptors that the kernel uses belong to the driver until the last completion: dropping a
//!   future asks for cancellation, and never frees what is in flight.
//! * A shard that ends cleanly has nothing in flight; the driver asserts it.
//! * All `unsafe` of the project is in this crate.
//!
//! Deliberately absent: threads for the caller, blocking calls on a shard, anything of Kafka.

mod block;
pub mod buf;
pub mod concurrent;
mod error;
mod exec;
pub mod fs;
pub mod mailbox;
pub mod net;
mod posix;
pub mod race;
mod real;
mod runtime;
pub mod sim;
pub mod sync;
mod time;
mod uring;

pub use block::{block_on, block_on_timeout};
pub use buf::{BufPool, IO_ALIGNMENT, IoBuf};
pub use error::{FileError, FileOp};
pub use exec::Task;
pub use runtime::{
    Counters, DriverChoice, DriverKind, Feature, Features, Io, Runtime, RuntimeConfig, ShardIndex,
    StartError, probe,
};
pub use time::{MonoTime, Sleep, TimedOut, WallTime};

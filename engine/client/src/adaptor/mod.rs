//! The cores on real sockets: one thread that drives any number of clients, and handles that any other thread may use.
//!
//! ```text
//!   application threads                       I/O thread (one runtime: tokio-uring, or tokio)
//!   Producer, Consumer, Admin ── Mutex<core> ──┬─ a driver a client: polls the core, performs its actions
//!        │        ▲                            └─ a task a connection: connects, reads frames, writes frames
//!        └ wake ──┼─▶ driver
//!        condvar ◀┘ progress
//! ```
//!
//! The handles block, under Kafka's names for how long (`max.block.ms`). `tokio-uring` is used where the kernel allows
//! io_uring, `tokio` elsewhere; both run the same driver over the few lines that differ ([`Backend`]).
//!
//! Whoever has another runtime (the simulator, a broker in the same process) drives a core by itself: see
//! [`Core`](crate::Core).

mod admin;
mod consumer;
mod driver;
mod io_thread;
mod producer;
mod tokio_net;
#[cfg(all(target_os = "linux", feature = "uring"))]
mod uring;

pub use self::admin::Admin;
pub use self::consumer::Consumer;
pub use self::io_thread::{Backend, IoThread};
pub use self::producer::{Producer, SendError, timestamp_now};

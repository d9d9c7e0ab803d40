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
//! A broker in the same process is reached without a port, over socket pairs ([`IoThread::in_process`]). Whoever has
//! another runtime (the simulator) drives a core by itself: see [`Core`](crate::Core).

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
pub use self::io_thread::{Backend, Connect, IoThread};
pub use self::producer::{Producer, SendError, timestamp_now};

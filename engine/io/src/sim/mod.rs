//! The simulated driver: a world of nodes on one thread, in which a seed decides everything that is left to chance.
//!
//! A [`World`] has nodes, disks and a network. On each node runs a process of one or more shards; the code in it is
//! the production code and cannot tell the difference. Which ready task runs next, how long a write takes, in which
//! order completions come, in which pieces bytes arrive, what a power cut leaves: all of it follows from the seed, so
//! that the same seed gives the same trace ([`World::trace_hash`]), and a failure found once is found again.
//!
//! Time is virtual: it passes when nothing is ready, and a little with each step of a task.
//!
//! # What the disk promises, and no more
//!
//! * A write is seen by readers once it completed; while it is in flight they may see parts of it.
//! * `sync_data` and `sync_all` make durable what had completed on *that file* when they were asked for: bytes and
//!   length. [`Durability::Sync`](crate::fs::Durability::Sync) makes durable that one write, and the length if it
//!   needs it. `sync_dir` makes durable the names of that directory, so far; a rename between two needs both.
//! * Of everything else a power cut leaves anything or nothing: each sector in any of the versions it had, each name
//!   at any point of its history, a length at any point of its own.
//! * A failed flush forgets what it should have written. A failed write wrote some beginning.
//! * Direct writes of a killed process may land late; until then its locks hold. Everything else it had asked for
//!   is decided when it dies: a real process is not reaped before its system calls are over.
//!
//! # Example
//!
//! ```
//! use highwater_io::fs::{Durability, OpenOptions};
//! use highwater_io::sim::{World, WorldConfig};
//!
//! for seed in 0..20 {
//!     let mut world = World::new(seed, WorldConfig::default());
//!     let node = world.add_node("broker");
//!     world.start(node, vec![()], |io, ()| async move {
//!         let options = OpenOptions::read_write().create();
//!         let file = io.fs().open("/log", options).await.expect("a fresh disk takes a file");
//!         io.fs().sync_dir("/").await.expect("the root is there");
//!         file.write_at(vec!["kept".into()], 0, Durability::Plain).await.expect("there is space");
//!         file.sync_data().await.expect("the disk is sound");
//!         file.write_at(vec!["lost".into()], 4, Durability::Plain).await.expect("there is space");
//!     });
//!     world.run().expect("the node ends");
//!     world.power_cut(node);
//!     let files = world.disk_of(node).snapshot_files();
//!     assert!(files["/log"].starts_with(b"kept"));
//! }
//! ```
//!
//! Deliberately absent: several disks a node, hard links, permissions, UDP, anything of real time.

mod config;
mod core;
mod disk;
mod driver;
mod error;
mod kernel;
mod net;
mod ready;
mod rng;
mod trace;
mod world;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

pub use config::{DiskConfig, Latency, MonoOrigin, NetConfig, TornUnit, WorldConfig};
pub use disk::{Disk, DiskId, DiskOp, Fault, FaultEffect, FaultId};
pub use error::{RunError, RunFailure};
pub use net::{ConnectionId, ConnectionInfo};
pub use world::{Exit, NodeId, NodeStatus, World};

pub(crate) use driver::{Driver, File, TcpListener, TcpStream};

use crate::runtime::Io;

/// Runs one shard for each of `states` on the one node of a fresh world with the default configuration, to the end.
///
/// # Panics
/// As [`run`].
pub fn run_shards<S, F, Fut>(seed: u64, states: Vec<S>, main: F)
where
    S: 'static,
    F: Fn(Io, S) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut world = World::new(seed, WorldConfig::default());
    let node = world.add_node("node");
    world.start(node, states, main);
    if let Err(error) = world.run() {
        panic!("{error}");
    }
    assert_eq!(world.status(node), NodeStatus::Down(Exit::Returned), "seed {seed}");
}

/// Runs `main` on the one shard of the one node of a fresh world with the default configuration, and returns what it
/// returns.
///
/// # Panics
/// If it panics, never ends, or leaves something in flight; the message has the seed.
pub fn run<T, F, Fut>(seed: u64, main: F) -> T
where
    T: 'static,
    F: FnOnce(Io) -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    run_with(seed, WorldConfig::default(), main)
}

/// As [`run`], with a configuration.
///
/// # Panics
/// As [`run`].
pub fn run_with<T, F, Fut>(seed: u64, config: WorldConfig, main: F) -> T
where
    T: 'static,
    F: FnOnce(Io) -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    let mut world = World::new(seed, config);
    let node = world.add_node("node");
    let output: Rc<RefCell<Option<T>>> = Rc::default();
    let slot = Rc::clone(&output);
    world.start(node, vec![main], move |io, main| {
        let slot = Rc::clone(&slot);
        async move {
            let result = main(io).await;
            *slot.borrow_mut() = Some(result);
        }
    });
    if let Err(error) = world.run() {
        panic!("{error}");
    }
    let result = output.borrow_mut().take();
    result.unwrap_or_else(|| panic!("seed {seed}: the node ended as {:?}", world.status(node)))
}

//! A disk with a power switch: ext4 on a device whose unflushed writes can be lost on command.
//!
//! For whoever wants to know what a broker or a database still has after a power cut. The program under test needs
//! no change and no library: it gets a directory. `highwater-disk --help` drives the same from a shell.
//!
//! ```text
//!   the program under test          writes, fsync, O_DIRECT, io_uring, …
//!   ext4                            its page cache is dropped by the shutdown ioctl
//!   /dev/loopN, direct I/O          turns a flush into an fsync
//!   FUSE, one file                  served by a process of its own (server)
//!   gate and faults                 hang, EIO, lie, slow, stall (device)
//!   volatile cache over the medium  a flush makes durable, a cut drops (medium)
//! ```
//!
//! ```no_run
//! use highwater_disk::{CutMode, Disk, DiskConfig};
//!
//! # fn start_broker(dir: &std::path::Path) -> std::process::Child {
//! #     std::process::Command::new("broker").arg(dir).spawn().expect("starts")
//! # }
//! let disk = Disk::create(DiskConfig::new(4 << 30))?;
//! let mut broker = start_broker(disk.mount_point());
//! // … load …
//! let cut = disk.cut_power(CutMode::KeepSubset { seed: 7, grain: None })?; // nothing is answered any more
//! broker.kill().ok(); // it cannot die yet: its I/O hangs
//! disk.release_hung_io()?; // now it can
//! broker.wait().ok();
//! disk.finish_cut()?; // page cache gone, unmounted, detached
//! let report = disk.power_on()?; // ext4 has replayed its journal
//! println!("{} sectors lost, {} kept; {report:?}", cut.dropped_sectors, cut.kept_sectors);
//! # Ok::<(), highwater_disk::Error>(())
//! ```
//!
//! What it is strict about, and what it forgives:
//!
//! - A write is durable once a flush that was sent after it has come back, and not before. A loop device offers no
//!   FUA: ext4's `O_DSYNC` is a write and a flush.
//! - One flush makes the *whole* disk durable, as on real disks. A forgotten fsync of one file can hide behind
//!   another's, or behind ext4's journal, which commits every five seconds. The second mode, [`strict`], forgives none of it.
//! - The medium does not survive the process that serves it, nor the machine: it is for tests.
//! - Fast enough for fault cells, not for performance figures.
//! - The switch acts at once: from the request to the cut it took 0.06 to 0.15 ms under 20 MB/s of flushed appends on two
//!   busy cores, of which less than 1 µs was spent on waiting for a request that was being carried out (six cuts). Cuts that
//!   the harness aims at a new segment, a checkpoint and a deletion fell 0.2 to 3.9 ms after it, of which up to 3 ms are
//!   meant (eight each).
//!
//! Where to read on: [`Disk`] for the order of a cut, `server` for why a process of its own, `medium` for what a cut
//! leaves, [`DiskReplay`] and [`strict::Replay`] for trying every point between two flushes, [`cleanup()`] for how nothing is left behind.

mod balloon;
mod cleanup;
mod command;
mod config;
mod control;
mod device;
mod disk;
mod error;
mod fault;
mod fuse;
mod kernel;
mod medium;
mod place;
mod points;
mod recording;
mod server;
mod stack;
mod stats;
pub mod strict;

pub use balloon::Balloon;
pub use cleanup::{Cleanup, Listed, cleanup, list};
pub use config::{Backing, DiskConfig, FileSystem, Kind, MIN_SIZE_BYTES, SectorSize, ServerProgram};
pub use control::Description;
pub use disk::{Disk, kill, serve, serve_if_asked};
pub use error::{Error, Result};
pub use fault::{CutMode, FailedFlush, Fault, Grain, Rule};
pub use kernel::User;
pub use medium::SECTOR_BYTES;
pub use place::STATE_DIRECTORY;
pub use points::{DiskImage, DiskReplay};
pub use recording::{Action, Event, Recording, ReplayReport, StopAfter, replay};
pub use stack::{FileSystemCheck, PowerOnReport, preflight};
pub use stats::{CutReport, FlushOutcome, FlushRecord, PowerState, RECENT_FLUSHES, Stamp, Stats};

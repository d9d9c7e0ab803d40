//! The log on the simulated disk, one module a question. One binary, since each would compile the whole engine again: what
//! needs lies (`crash`), an allocator of its own (`allocations`) or root (`points`) lies beside.

mod answers;
mod close;
#[path = "../common/mod.rs"]
mod common;
mod compaction;
mod corners;
mod damage;
mod faults;
mod full_journal;
mod golden;
mod groups;
mod kafka;
mod many;
mod meanwhile;
mod recovery_reads;
mod recovery_time;
mod rolls;
mod salvage;
mod smoke;
mod straddles;
mod verify;

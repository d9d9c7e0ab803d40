//! Sweeps settings, crashes brokers, accounts for every record, charts throughput against loss.
//!
//! The way of a sweep:
//!
//! ```text
//!   workload ── grid ──▶ sweep ──▶ cell ──▶ results ──▶ report, table
//!      TOML     cells      │         ├─ medium       a directory, or a disk with a power switch
//!                          │         ├─ broker       any, as its driver says
//!                          │         ├─ load         the client, the schedule, the ledger
//!                          │         ├─ final_read   what is left
//!                          │         └─ the checker's verdict
//!                          └─ calibrate, machine, ceiling: what every figure is stamped with
//! ```
//!
//! Brokers are reached over the wire only. Nothing is left behind: every process, mount and directory belongs to a value
//! that takes it away when it is dropped, and every wait ends when somebody asks to stop ([`cancel`]).

pub mod broker;
pub mod calibrate;
pub mod cancel;
pub mod ceiling;
pub mod cell;
pub mod cli;
pub mod clock;
pub mod final_read;
pub mod load;
pub mod machine;
pub mod medium;
pub mod report;
pub mod results;
pub mod seed;
pub mod stand_in;
pub mod sweep;
pub mod table;
pub mod workload;

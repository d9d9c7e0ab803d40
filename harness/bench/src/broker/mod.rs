//! Brokers: how to start one, talk to it, stop it, kill it.
//!
//! * [`driver`]: what a file in `workloads/brokers/` says about a broker.
//! * [`memory`]: a memory cgroup for it.
//! * [`process`]: one running broker in a process group of its own, which never outlives its owner.
//! * [`wire`]: one blocking connection, for the few requests of administration.
//! * [`admin`]: those requests.
//!
//! Every broker is reached through the Kafka protocol alone; nothing here knows what it is inside.

pub mod admin;
pub mod driver;
pub mod memory;
pub mod process;
pub mod wire;

//! Faults, done to a broker that is under load.

use std::time::Duration;

use highwater_checker::Nanos;
use highwater_disk::{CutMode, CutReport, Disk, PowerOnReport};

use super::CellError;
use crate::broker::process::Broker;
use crate::clock::Clock;
use crate::load::Running;
use crate::seed::Seed;

/// When a fault began and when it had silenced the broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub(super) struck_at: Nanos,
    pub(super) silenced_at: Nanos,
    /// How long before the fault the last ack had come: a cut into silence proves nothing.
    pub(super) since_last_ack: Duration,
    pub(super) cut: Option<CutReport>,
}

/// SIGKILL. The page cache lives on.
pub(super) fn kill(broker: &mut Broker, load: &Running, clock: Clock) -> Result<Strike, CellError> {
    let last_ack_at = load.progress().last_ack_at();
    let struck_at = clock.now();
    broker.kill()?;
    load.abort();
    Ok(Strike {
        struck_at,
        silenced_at: clock.now(),
        since_last_ack: since(last_ack_at, struck_at),
        cut: None,
    })
}

/// The switch goes off first, so that nobody can react; then the broker is killed. Its threads may hang in I/O and
/// cannot die until that is released.
pub(super) fn cut_power(
    broker: &mut Broker,
    disk: &Disk,
    load: &Running,
    clock: Clock,
    seed: Seed,
) -> Result<Strike, CellError> {
    let last_ack_at = load.progress().last_ack_at();
    let report = disk.cut_power(cut_mode(seed))?;
    broker.strike();
    disk.release_hung_io()?;
    broker.kill()?;
    let silenced_at = clock.now();
    load.abort();
    let struck_at = clock.of_monotonic(report.at.monotonic_ns);
    Ok(Strike { struck_at, silenced_at, since_last_ack: since(last_ack_at, struck_at), cut: Some(report) })
}

/// The power comes back: page cache gone, file system recovered.
pub(super) fn restore_power(disk: &Disk) -> Result<PowerOnReport, CellError> {
    disk.finish_cut()?;
    Ok(disk.power_on()?)
}

/// Half of the cuts lose every unflushed sector, the other half a seeded subset, torn as a disk may tear it.
fn cut_mode(seed: Seed) -> CutMode {
    let seed = seed.child("cut");
    if seed.unit() < 0.5 { CutMode::DropAll } else { CutMode::KeepSubset { seed: seed.0, grain: None } }
}

fn since(earlier: Nanos, later: Nanos) -> Duration {
    Duration::from_nanos(later.since(earlier).0)
}

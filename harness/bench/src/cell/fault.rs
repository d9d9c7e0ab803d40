//! Faults, done to a broker that is under load.

use std::time::Duration;

use highwater_checker::Nanos;
use highwater_disk::{CutMode, CutReport, Disk, Fault as DiskFault, PowerOnReport, Rule};

use super::CellError;
use crate::broker::process::Broker;
use crate::clock::Clock;
use crate::load::Running;
use crate::results::Unflushed;
use crate::seed::Seed;
use crate::workload::Cell;
use crate::workload::grid::CellSettings;
use crate::workload::settings::Fault;

/// When a fault began and when it had silenced the broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub(super) struck_at: Nanos,
    pub(super) silenced_at: Nanos,
    /// How long before the fault the last ack had come: a cut into silence proves nothing.
    pub(super) since_last_ack: Duration,
    pub(super) cut: Option<CutReport>,
    /// Flushes that the disk answered and did not do.
    pub(super) flushes_lied: u64,
}

impl Strike {
    /// What the disk had not made durable. One that does not see its writes has no last flush to tell of, and nothing to say.
    pub(super) fn unflushed(&self) -> Option<Unflushed> {
        let cut = self.cut.filter(|cut| cut.last_flush.is_some())?;
        Some(Unflushed { sectors: cut.dropped_sectors + cut.kept_sectors, requests: cut.requests_in_flight })
    }
}

/// Tells the disk how to behave while the clock runs.
pub(super) fn prepare(disk: Option<&Disk>, settings: &CellSettings) -> Result<(), CellError> {
    let Some(disk) = disk else { return Ok(()) };
    if settings.fault == Fault::LyingFlush {
        disk.inject(DiskFault::FlushLie { rule: Rule::Always })?;
    }
    if !settings.flush_delay.is_zero() {
        let flush_us = u64::try_from(settings.flush_delay.as_micros()).unwrap_or(u64::MAX);
        disk.inject(DiskFault::Delay { read_us: 0, write_us: 0, flush_us })?;
    }
    Ok(())
}

/// SIGKILL. The page cache lives on, and the load goes on trying.
pub(super) fn kill(broker: &mut Broker, load: &Running, clock: Clock) -> Result<Strike, CellError> {
    let last_ack_at = load.progress().last_ack_at();
    let struck_at = clock.now();
    broker.kill()?;
    Ok(Strike {
        struck_at,
        silenced_at: clock.now(),
        since_last_ack: since(last_ack_at, struck_at),
        cut: None,
        flushes_lied: 0,
    })
}

/// The switch goes off first, so that nobody can react; then the broker is killed. Its threads may hang in I/O and
/// cannot die until that is released.
pub(super) fn cut_power(
    broker: &mut Broker,
    disk: &Disk,
    load: &Running,
    clock: Clock,
    cell: &Cell,
) -> Result<Strike, CellError> {
    let mode = match cell.settings.fault {
        // A disk that forgets its flushes is let off with that: what it kept would be no file system.
        Fault::LyingFlush => CutMode::DropAll,
        _ => cut_mode(cell.seed),
    };
    let last_ack_at = load.progress().last_ack_at();
    let report = disk.cut_power(mode)?;
    broker.strike();
    disk.release_hung_io()?;
    broker.kill()?;
    let struck_at = clock.of_monotonic(report.at.monotonic_ns);
    Ok(Strike {
        struck_at,
        silenced_at: clock.now(),
        since_last_ack: since(last_ack_at, struck_at),
        cut: Some(report),
        flushes_lied: disk.stats()?.flushes_lied,
    })
}

/// The power comes back: page cache gone, file system recovered, disk sound.
pub(super) fn restore_power(disk: &Disk) -> Result<PowerOnReport, CellError> {
    disk.finish_cut()?;
    let report = disk.power_on()?;
    disk.heal()?;
    Ok(report)
}

/// Half of the cuts lose every unflushed sector, the other half a seeded subset, torn as a disk may tear it.
fn cut_mode(seed: Seed) -> CutMode {
    let seed = seed.child("cut");
    if seed.unit() < 0.5 { CutMode::DropAll } else { CutMode::KeepSubset { seed: seed.0, grain: None } }
}

fn since(earlier: Nanos, later: Nanos) -> Duration {
    Duration::from_nanos(later.since(earlier).0)
}

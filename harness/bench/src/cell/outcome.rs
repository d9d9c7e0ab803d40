//! What comes of a cell: its outcome, or why it has none.

use std::path::PathBuf;

use highwater_checker::{Contract, JudgeError, Setting, Verdict};
use highwater_disk::{CutReport, PowerOnReport};
use serde::Serialize;

use super::SimulationError;
use crate::broker::admin::{AdminError, Settings};
use crate::broker::process::BrokerError;
use crate::broker::wire::WireError;
use crate::cancel::Interrupted;
use crate::load::LoadError;
use crate::medium::MediumError;
use crate::results::text::counted;
use crate::results::{FaultMark, Latency, Load, Timeline};
use crate::workload::Problems;
use crate::workload::settings::Aim;

/// Why a cell has no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CellError {
    /// It belongs to the simulator.
    #[error("this cell needs the simulated disk")]
    NeedsSimulation,
    /// The medium.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// The disk with the switch.
    #[error(transparent)]
    Disk(#[from] highwater_disk::Error),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Its administration.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A connection for that.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The broker refuses a setting of the workload.
    #[error("{}: {source}", suspects(problems))]
    Setting {
        /// Where the workload asks for it; several where the broker does not say which one it means.
        problems: Problems,
        /// What the broker says.
        source: Box<CellError>,
    },
    /// The broker ignores a setting.
    #[error("{0}")]
    NotInEffect(String),
    /// What the fault is aimed at did not come.
    #[error("the fault is aimed at {aim}, and {why}")]
    NotReached {
        /// What it is aimed at.
        aim: Aim,
        /// Why it was not reached.
        why: &'static str,
    },
    /// The fault waits for progress, and the load ended first.
    #[error("the fault waits for {}, and the load ended with {acked}", counted(*wanted, "acknowledged record", "acknowledged records"))]
    TooFewAcked {
        /// For how many it waits.
        wanted: u64,
        /// How many there were.
        acked: u64,
    },
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The simulator.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
    /// The evidence does not suffice.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A file of the harness.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The harness failed, and the fault had struck already: to try again would be to choose among the faults.
    #[error("after the fault: {0}")]
    AfterFault(Box<CellError>),
    /// Somebody asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// In one line with what the broker says of them, since reports show the first line of a failure.
fn suspects(problems: &Problems) -> String {
    let shown = problems.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let one_of = if lines.len() > 1 { "one of " } else { "" };
    format!("{one_of}{}", lines.join(", "))
}

impl CellError {
    pub(super) fn after_fault(self) -> Self {
        if self.is_interrupted() { self } else { CellError::AfterFault(Box::new(self)) }
    }

    /// Whether the fault had struck.
    #[must_use]
    pub fn is_after_fault(&self) -> bool {
        matches!(self, CellError::AfterFault(_))
    }

    /// Whether the cell was given up because somebody asked to stop.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(
            self,
            CellError::Interrupted(_)
                | CellError::Broker(BrokerError::Interrupted(_))
                | CellError::Load(LoadError::Interrupted(_))
        )
    }
}

/// What came of a cell.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// What the broker really had.
    pub setting: Setting,
    /// What it therefore owed.
    pub contract: Contract,
    /// Settings in effect, as the report prints them.
    pub effective: Vec<(String, String)>,
    /// Broker settings that it was given.
    pub broker_settings: Settings,
    /// Topic settings that it was given.
    pub topic_settings: Settings,
    /// How much was done.
    pub load: Load,
    /// From the intended send time.
    pub intended: Latency,
    /// From the send.
    pub service: Latency,
    /// By time.
    pub timeline: Timeline,
    /// The faults, as they happened: the cell's own, after what led to it.
    pub faults: Vec<FaultMark>,
    /// What the checker says.
    pub verdict: Verdict,
    /// The load ended before the loss window could.
    pub window_is_lower_bound: bool,
    /// Everything else that is worth keeping.
    pub details: Details,
}

/// What is kept of a cell beside its figures.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// From the start command to the first answer, on the empty directory.
    pub ready_ms: u64,
    /// From the restart after the fault until every partition had a leader again.
    pub recovery_ms: Option<u64>,
    /// CPU time of the broker's own processes while the clock ran; up to the fault, if there was one.
    pub broker_process_cpu_ms: u64,
    /// Most memory its processes had resident.
    pub broker_peak_rss_bytes: u64,
    /// CPU time of the client while the clock ran.
    pub client_cpu_ms: u64,
    /// Whether memory was touched through the page cache before the load.
    pub memory_warmed: bool,
    /// Whether the broker stopped by itself at the end.
    pub stopped_cleanly: bool,
    /// What the cut did to the disk.
    pub cut: Option<CutReport>,
    /// Flushes that the disk answered and did not do.
    pub flushes_lied: u64,
    /// What the file system said when the power came back.
    pub power_on: Option<PowerOnReport>,
}

impl Details {
    /// There is no process and no machine to tell of.
    pub(super) fn simulated() -> Self {
        Details {
            ready_ms: 0,
            recovery_ms: None,
            broker_process_cpu_ms: 0,
            broker_peak_rss_bytes: 0,
            client_cpu_ms: 0,
            memory_warmed: false,
            stopped_cleanly: true,
            cut: None,
            flushes_lied: 0,
            power_on: None,
        }
    }
}

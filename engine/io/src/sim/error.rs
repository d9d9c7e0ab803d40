//! Why a run of a world ended before it should have.

use std::fmt;

use super::world::NodeId;
use crate::time::MonoTime;

/// What went wrong in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunFailure {
    /// Nothing is ready, nothing is in flight and no timer runs, but what was waited for did not come: a deadlock.
    Stalled,
    /// A task panicked; its node is down.
    Panicked {
        /// Where.
        node: NodeId,
        /// With what.
        message: String,
    },
    /// A shard's main ended and its tasks are gone, but somebody still waits for a request.
    InFlight {
        /// Where.
        node: NodeId,
        /// Paths of the requests.
        paths: Vec<String>,
    },
    /// The run took more steps or virtual time than its configuration allows.
    Endless,
}

/// A run that went wrong. Displayed with the seed and the last events, so that the message of a failed test is enough
/// to look into it.
#[derive(Clone)]
pub struct RunError {
    /// What went wrong.
    pub failure: RunFailure,
    /// The seed of the world.
    pub seed: u64,
    /// Virtual time of the failure.
    pub at: MonoTime,
    /// State of the nodes and the last events.
    pub trace: String,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            RunFailure::Stalled => write!(f, "the world stalled: nothing will ever happen")?,
            RunFailure::Panicked { node, message } => write!(f, "{node} panicked: {message}")?,
            RunFailure::InFlight { node, paths } => {
                write!(f, "{node} ended with requests in flight on {}", paths.join(", "))?;
            }
            RunFailure::Endless => write!(f, "the run came to no end")?,
        }
        write!(f, "\nseed {} at {} ns\n{}", self.seed, self.at.as_nanos(), self.trace)
    }
}

// What `expect` prints: the message is what counts.
impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for RunError {}

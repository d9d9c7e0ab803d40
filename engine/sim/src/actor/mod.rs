//! Those who use the broker, each on a node of its own, from before its first life until after its last.

pub(crate) mod admin;
mod drive;
pub(crate) mod poller;
pub(crate) mod producer;
pub(crate) mod reader;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use highwater_io::sync::Watch;

use crate::books::Books;
use crate::promises::Promises;
use crate::scenario::Scenario;

/// What the actors are to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Go on.
    Working,
    /// Come to an end: wait for what is outstanding, begin nothing.
    Closing,
}

/// What all actors share.
#[derive(Debug, Clone)]
pub(crate) struct Stagehand {
    pub(crate) seed: u64,
    pub(crate) scenario: Rc<Scenario>,
    pub(crate) address: SocketAddr,
    pub(crate) books: Rc<Books>,
    pub(crate) promises: Rc<RefCell<Promises>>,
    pub(crate) stage: Rc<Watch<Stage>>,
}

impl Stagehand {
    pub(crate) fn is_closing(&self) -> bool {
        self.stage.get() == Stage::Closing
    }

    /// Waits until the end is asked for.
    pub(crate) async fn closing(&self) {
        self.stage.wait_for(|&stage| (stage == Stage::Closing).then_some(())).await;
    }
}

/// Name of a topic that is never deleted.
pub(crate) fn steady_topic(topic: usize) -> String {
    format!("steady-{topic}")
}

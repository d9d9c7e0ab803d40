//! The whole broker in one process from one seed: lives that end in every way, clients that write all along, and the
//! checker's verdict on what is left.
//!
//! ```text
//!   seed ─► Scenario ─► Scene: a World with        ┌ producers (the client's own core)     Books, Promises:
//!                       the broker on its disk ◄───┤ an administrator                 ───► what was asked,
//!                       lives, deaths, lies        └ a consumer                            answered and seen
//!                                   │                                                           │
//!                                   └── last life: everything is read ──► Trial ──► highwater_checker::judge ──► Outcome
//! ```
//!
//! The broker, its log and its client are the production code; only the driver under their I/O is simulated. The checker
//! that judges is the one that judges real brokers: nothing here knows what a lost record is.
//!
//! Invariants: the same seed and scenario give the same [`Outcome::trace_hash`]. What is outside the world (the books)
//! never dies with the broker. Deliberately absent: replication, so that a run has one broker.
//!
//! # Example
//!
//! ```
//! let outcome = highwater_sim::run(7, &highwater_sim::Scenario::seeded(7));
//! assert!(outcome.is_kept(), "{:?}", outcome.complaints());
//! ```

mod actor;
mod books;
mod boot;
pub mod cell;
mod dice;
#[cfg(test)]
mod dirs_tests;
mod outcome;
mod promises;
mod scenario;
mod scene;
#[cfg(test)]
mod start_tests;
mod trial;
#[cfg(test)]
mod turns_tests;
mod wire;

pub use books::{Event, Lane, Records};
pub use outcome::{Breach, Culprit, Figures, Outcome};
pub use scenario::{BrokerSize, Compacted, Death, Deaths, DiskHonesty, Scenario};
pub use trial::is_loss;

use scene::{Scene, Stopped};
use trial::Evidence;

/// Runs a scenario once.
#[must_use]
pub fn run(seed: u64, scenario: &Scenario) -> Outcome {
    let mut scene = Scene::new(seed, scenario);
    let played = scene.play();
    let mut breaches = std::mem::take(&mut scene.breaches);
    let storage_errors = scene.hand.books.storage_errors.get();
    // A directory that fails answers with them.
    if storage_errors > 0 && !scenario.directory_fails {
        breaches.push(Breach::StorageError(storage_errors));
    }
    let mut trace = None;
    let content = match played {
        Ok(content) => Some(content),
        Err(Stopped { breach, trace: of_world }) => {
            breaches.push(breach);
            trace = of_world;
            None
        }
    };
    let mut figures = scene.figures;
    let verdict = content.map(|content| {
        let promises = scene.hand.promises.borrow();
        let evidence = Evidence {
            scenario,
            books: &scene.hand.books,
            promises: &promises,
            content: &content,
            deaths: &scene.deaths,
        };
        breaches.extend(evidence.breaches());
        figures.read = content.partitions.values().map(|read| read.records.len() as u64).sum();
        evidence.verdict()
    });
    figures.compacted = verdict.as_ref().map_or(0, |verdict| verdict.losses.compacted);
    figures.acked = scene.hand.books.acked.get();
    figures.attempts = scene.hand.books.attempts();
    figures.virtual_ms = scene.world.now().as_nanos() / 1_000_000;
    let (flushes_lied, trace_hash) = (scene.flushes_lied(), scene.world.trace_hash());
    let handles_left = scene.world.kill_all();
    if handles_left > 0 {
        breaches.push(Breach::MemoryKept(handles_left));
    }
    Outcome {
        seed,
        verdict,
        breaches,
        flushes_lied,
        trace_hash,
        figures,
        story: std::mem::take(&mut scene.story),
        trace,
    }
}

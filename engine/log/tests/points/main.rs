//! Proof at every point: work is done on the real driver, on a disk that records; then the power is cut at each flush of the
//! recording, and each state that a cut may leave is opened and judged.
//!
//! On the strict directory of `highwater-disk`, where each flush counts for itself, every point of a short run is tried, and
//! every lie of `mutants` that skips or misplaces a flush is caught.
//!
//! Why it is here: the disk imports nothing of ours, so the log's tests may use it; the other way round would be a circle.

mod block;
#[path = "../common/mod.rs"]
mod common;
mod compaction;
mod judge;
mod ledger;
mod record;
mod runs;
mod walk;
mod work;

//! Goes through a recording and cuts the power at its points: before each flush, when all that came since the flush before
//! may or may not have reached the medium.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use highwater_disk::strict::{Image, Replay};
use highwater_disk::{CutMode, Grain};
use highwater_io::{Runtime, RuntimeConfig};

use crate::judge::judge;
use crate::ledger::{Instant, Ledger};

/// Where the log is within what was recorded.
pub(crate) const DIR: &str = "data";

/// How thoroughly a recording is gone through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Every n-th point is tried.
    pub(crate) every: u64,
    /// Subsets tried at each point, of each kind: torn at 512 bytes, at 4 KiB, and with shorn blocks.
    pub(crate) subsets: u64,
    /// Violations after which it is over.
    pub(crate) enough: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Points at which the power was cut.
    pub(crate) points: u64,
    /// Different states that were opened.
    pub(crate) states: u64,
    pub(crate) violations: Vec<String>,
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.points += other.points;
        self.states += other.states;
        self.violations.extend(other.violations);
    }
}

/// What survives at a point: nothing but what was flushed, then subsets of the rest.
pub(crate) fn modes(point: u64, subsets: u64) -> impl Iterator<Item = CutMode> {
    let drawn = (0..subsets).flat_map(move |number| {
        let seed = point * 1000 + number;
        [
            CutMode::KeepSubset { seed, grain: Some(Grain::Sector) },
            CutMode::KeepSubset { seed, grain: Some(Grain::Block) },
            CutMode::Shorn { seed },
        ]
    });
    std::iter::once(CutMode::DropAll).chain(drawn)
}

/// Events before a violation that are told with it.
const LAST_EVENTS: usize = 60;

/// Threads that share the points.
const THREADS: u64 = 2;

/// Cuts the power at the points of a strict directory's recording, and judges every state.
pub(crate) fn walk(recording: &Path, ledger: Ledger, plan: Plan) -> Outcome {
    let ledger = Arc::new(ledger);
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for part in 0..THREADS {
            let (ledger, outcome) = (Arc::clone(&ledger), &outcome);
            scope.spawn(move || walk_part(recording, &ledger, plan, part, outcome));
        }
    });
    outcome.into_inner().expect("nobody panicked")
}

fn walk_part(recording: &Path, ledger: &Arc<Ledger>, plan: Plan, part: u64, outcome: &Mutex<Outcome>) {
    let place = scratch();
    let mut replay = Replay::open(recording).expect("a recording");
    let mut point = 0;
    let mut last_events = VecDeque::new();
    loop {
        let next =
            replay.peek().expect("readable").map(|event| (event.monotonic_ns, event.action.is_flush()));
        let at = match next {
            Some((at, true)) => Some(at),
            Some((_, false)) => None,
            None => Some(Instant::MAX),
        };
        if let Some(at) = at {
            point += 1;
            if point % plan.every == 0 && point / plan.every % THREADS == part {
                let mut found = try_point(&replay, ledger, plan, point, at, place.path());
                if let Some(violation) = found.violations.first_mut() {
                    let events: Vec<String> = last_events.iter().cloned().collect();
                    let _ = write!(violation, "\nlast events:\n  {}", events.join("\n  "));
                }
                let mut outcome = outcome.lock().expect("nobody panicked");
                *outcome += found;
                if outcome.violations.len() >= plan.enough {
                    return;
                }
            }
        }
        let Some(event) = replay.advance().expect("readable") else { return };
        last_events.push_back(format!("{:.300}", format!("{event:?}")));
        if last_events.len() > LAST_EVENTS {
            last_events.pop_front();
        }
    }
}

fn try_point(
    replay: &Replay,
    ledger: &Arc<Ledger>,
    plan: Plan,
    point: u64,
    at: Instant,
    place: &Path,
) -> Outcome {
    let mut outcome = Outcome { points: 1, ..Outcome::default() };
    let mut seen = Vec::new();
    for mode in modes(point, plan.subsets) {
        let image = replay.cut(mode);
        if seen.contains(&image) {
            continue;
        }
        let state = place.join("state");
        image.write_to(&state).expect("written");
        seen.push(image);
        outcome.states += 1;
        if let Err(what) = judged(&state.join(DIR), ledger, at) {
            let names = names_below(&replay.cut(mode), &place.join("again"));
            outcome.violations.push(format!("point {point} ({mode:?}): {what}\nfiles: {names}"));
        }
        std::fs::remove_dir_all(&state).expect("removed");
        if outcome.violations.len() >= plan.enough {
            break;
        }
    }
    outcome
}

/// What a state holds before anybody opens it.
fn names_below(image: &Image, place: &Path) -> String {
    image.write_to(place).expect("written");
    let mut names = Vec::new();
    let mut dirs = vec![place.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(place).expect("below it").display().to_string();
                names.push(format!("{name} ({})", entry.metadata().map_or(0, |found| found.len())));
            }
        }
    }
    std::fs::remove_dir_all(place).expect("removed");
    names.sort_unstable();
    names.join(", ")
}

/// Opens a directory in a runtime of its own, so that nothing of it goes on afterwards.
pub(crate) fn judged(dir: &Path, ledger: &Arc<Ledger>, at: Instant) -> Result<(), String> {
    let verdict = Arc::new(Mutex::new(Err("the process died".to_owned())));
    let job = (dir.to_owned(), Arc::clone(ledger), Arc::clone(&verdict));
    let config = RuntimeConfig { recv_buffers: 2, ring_entries: 64, ..RuntimeConfig::default() };
    let runtime = Runtime::start(&config, vec![job], move |io, (dir, ledger, verdict): Job| async move {
        let judged = judge(&io, &dir, &ledger, at).await;
        *verdict.lock().expect("nobody panicked") = judged;
    });
    // The message of a panic is on standard error.
    let _ = runtime.expect("io_uring is available").join();
    let verdict = verdict.lock().expect("nobody panicked");
    verdict.clone()
}

type Job = (PathBuf, Arc<Ledger>, Arc<Mutex<Result<(), String>>>);

/// A directory in memory where there is one: thousands of states are written to it.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

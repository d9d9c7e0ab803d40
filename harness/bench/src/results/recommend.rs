//! Which setting to take, given how much may be lost and how long an ack may take.
//!
//! A setting qualifies by what was *observed*: in every fault that counts it lost no more than that, on an open loop its
//! p99 is within the bound, and its throughput was measured. What a setting that lost nothing proves is said with it: a
//! zero never stands without its number of trials. Nothing may be lost (`--rpo 0`) is stricter: a setting must promise it,
//! too, since one that happened to lose nothing is no answer.
//!
//! Among those that qualify the fastest is taken. Only equal workloads are compared, so each has an answer of its own.

use std::time::Duration;

use highwater_checker::{Acks, Contract, Nanos};

use super::answer::{self, Ordeal};
use super::stats::Spread;
use super::summary::{CellSummary, Judged, open_loop, performance};
use super::{Configuration, Sweep, Workload, text};

/// How much may be lost in any one accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpo {
    /// So many acknowledged records; with 0 it must be promised.
    Records(u64),
    /// What was acknowledged no longer than this before the accident.
    Window(Duration),
}

/// What is asked of a setting.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How much may be lost.
    pub rpo: Rpo,
    /// The longest p99 from the intended send time, on an open loop.
    pub p99: Option<Duration>,
    /// Faults that count, by their words ("power cut"); empty: all that the sweep injected.
    pub faults: Vec<String>,
    /// Only brokers of this name; empty: all.
    pub brokers: Vec<String>,
    /// So many trials in which something could be lost each fault must have.
    pub trials: usize,
}

/// Why a sweep gives no answer at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Trials are missing.
    #[error("{0} --incomplete takes it as it is")]
    Incomplete(String),
    /// No fault was injected, so that nothing is known of loss.
    #[error("no fault was injected in this sweep: it says nothing about loss")]
    NoFault,
    /// A fault that was asked for was not injected.
    #[error("no {asked} was injected in this sweep; there were: {there}")]
    NoSuchFault {
        /// What was asked for.
        asked: String,
        /// What there was.
        there: String,
    },
    /// A broker that was asked for took no part.
    #[error("no broker of this sweep is called {asked}; there were: {there}")]
    NoSuchBroker {
        /// What was asked for.
        asked: String,
        /// What there was.
        there: String,
    },
}

/// The answer for one workload.
#[derive(Clone, Debug)]
pub struct Answer<'s, 'a> {
    /// What is sent.
    pub workload: &'a Workload,
    /// Settings within the bounds, the fastest first.
    pub qualified: Vec<Qualified<'s, 'a>>,
    /// The others, in the sweep's order.
    pub refused: Vec<Refused<'a>>,
}

impl Answer<'_, '_> {
    /// The setting to take, if any qualifies.
    #[must_use]
    pub fn chosen(&self) -> Option<&Qualified<'_, '_>> {
        self.qualified.first()
    }

    /// Whether the fastest may owe its place to noise: its trials and those of the next overlap.
    #[must_use]
    pub fn is_close(&self) -> bool {
        let [first, second, ..] = self.qualified.as_slice() else { return false };
        first.speed.low <= second.speed.high
    }
}

/// A setting within the bounds.
#[derive(Clone, Debug)]
pub struct Qualified<'s, 'a> {
    /// The setting.
    pub configuration: &'a Configuration,
    /// Bytes a second, as fast as it goes, over trials.
    pub speed: Spread,
    /// Its cell on an open loop, if there is one.
    pub open_loop: Option<&'s CellSummary<'a>>,
    /// What each fault that counts showed, in words.
    pub proofs: Vec<String>,
    /// What its throughput is not, in words.
    pub doubts: Vec<String>,
}

/// A setting outside of the bounds.
#[derive(Clone, Debug)]
pub struct Refused<'a> {
    /// The setting.
    pub configuration: &'a Configuration,
    /// Why, in one line: the first reason found.
    pub why: String,
}

/// What may be made of an incomplete sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: it is refused.
    Refuse,
    /// What is there counts.
    Accept,
}

/// The settings within `bounds`, for each workload of the sweep. `cells` are the sweep's.
///
/// # Errors
/// [`Unfit`] where the sweep cannot answer.
pub fn recommend<'s, 'a>(
    sweep: &'a Sweep,
    cells: &'s [CellSummary<'a>],
    bounds: &Bounds,
    missing: Missing,
) -> Result<Vec<Answer<'s, 'a>>, Unfit> {
    if let (Missing::Refuse, Some(how)) = (missing, answer::incomplete(sweep)) {
        return Err(Unfit::Incomplete(how));
    }
    let panels = panels(cells, &bounds.faults)?;
    check_brokers(sweep, &bounds.brokers)?;
    let mut answers: Vec<Answer<'s, 'a>> = Vec::new();
    for configuration in sweep.configurations.iter().filter(|known| is_asked(known, &bounds.brokers)) {
        let workload = &configuration.workload;
        let place = answers.iter().position(|known| known.workload == workload).unwrap_or_else(|| {
            answers.push(Answer { workload, qualified: Vec::new(), refused: Vec::new() });
            answers.len() - 1
        });
        match qualify(cells, configuration, &panels, bounds) {
            Ok(qualified) => answers[place].qualified.push(qualified),
            Err(why) => answers[place].refused.push(Refused { configuration, why }),
        }
    }
    for answer in &mut answers {
        answer.qualified.sort_by(|a, b| b.speed.median.total_cmp(&a.speed.median));
    }
    Ok(answers)
}

/// The faults that count, in the order in which they were first tried.
fn panels<'a>(cells: &[CellSummary<'a>], asked: &[String]) -> Result<Vec<Ordeal<'a>>, Unfit> {
    let mut there: Vec<Ordeal<'a>> = Vec::new();
    for ordeal in cells.iter().filter_map(CellSummary::ordeal) {
        if !there.contains(&ordeal) {
            there.push(ordeal);
        }
    }
    if there.is_empty() {
        return Err(Unfit::NoFault);
    }
    for name in asked {
        if !there.iter().any(|ordeal| is_called(ordeal, name)) {
            let mut words: Vec<String> =
                there.iter().map(|ordeal| ordeal.fault.kind.words().to_owned()).collect();
            words.dedup();
            return Err(Unfit::NoSuchFault { asked: name.replace('-', " "), there: text::listed(&words) });
        }
    }
    there.retain(|ordeal| asked.is_empty() || asked.iter().any(|name| is_called(ordeal, name)));
    Ok(there)
}

/// Whether somebody who says `name` means this fault: as reports call it, or as workloads do ("kill", "power-cut").
fn is_called(ordeal: &Ordeal<'_>, name: &str) -> bool {
    let words = ordeal.fault.kind.words();
    let name = name.replace('-', " ");
    words == name || words.split(' ').next_back() == Some(name.as_str())
}

fn check_brokers(sweep: &Sweep, asked: &[String]) -> Result<(), Unfit> {
    let names = sweep.configurations.iter();
    match asked.iter().find(|name| !names.clone().any(|known| is_asked(known, &[(*name).clone()]))) {
        None => Ok(()),
        Some(name) => {
            let mut there: Vec<String> = names.map(|known| known.broker.name.clone()).collect();
            there.sort();
            there.dedup();
            Err(Unfit::NoSuchBroker { asked: name.clone(), there: text::listed(&there) })
        }
    }
}

/// By its name in the report, or by its driver's, with which ids begin.
fn is_asked(configuration: &Configuration, names: &[String]) -> bool {
    let called = |name: &String| {
        configuration.broker.name.eq_ignore_ascii_case(name)
            || configuration.id.starts_with(&format!("{}-", name.to_lowercase()))
    };
    names.is_empty() || names.iter().any(called)
}

/// The setting with what speaks for it, or the first reason against it. Loss comes first: who loses too much is not
/// helped by being fast.
fn qualify<'s, 'a>(
    cells: &'s [CellSummary<'a>],
    configuration: &'a Configuration,
    panels: &[Ordeal<'a>],
    bounds: &Bounds,
) -> Result<Qualified<'s, 'a>, String> {
    let mut proofs = Vec::new();
    for panel in panels {
        let of = |cell: &&CellSummary<'a>| {
            cell.configuration.id == configuration.id
                && cell.ordeal().is_some_and(|ordeal| is_the_same(ordeal, *panel, configuration))
        };
        let mut found = cells.iter().filter(of).peekable();
        if found.peek().is_none() {
            return Err(format!("not tried under {}", panel.with_article()));
        }
        // The same fault under several rates: each must do.
        for cell in found {
            proofs.push(prove(cell, panel, bounds)?);
        }
    }
    let open_loop = open_loop(cells, &configuration.id);
    check_latency(open_loop, bounds.p99)?;
    let (fastest, speed) = performance(cells, &configuration.id)
        .filter(|cell| cell.offered().is_none())
        .and_then(|cell| Some((cell, cell.bytes_per_second?)))
        .ok_or("its throughput was not measured (rate = \"saturating\")")?;
    Ok(Qualified { configuration, speed, open_loop, proofs, doubts: doubts(fastest) })
}

fn doubts(fastest: &CellSummary<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(share) = fastest.share_of_ceiling.filter(|_| fastest.is_limited_by_client()) {
        let share = text::percent(share);
        doubts.push(format!("its throughput is {share} of the client's own ceiling: the broker may do more"));
    }
    if let Some(laps) = fastest.laps.filter(|_| fastest.is_short()) {
        let laps = text::three_digits(laps);
        doubts.push(format!(
            "its throughput is of {laps} laps of the broker's journal: in the long run it may be less"
        ));
    }
    doubts
}

/// Whether a cell of `configuration` that met `met` shows what `panel` does. One broker is all there are where it is alone.
fn is_the_same(met: Ordeal<'_>, panel: Ordeal<'_>, configuration: &Configuration) -> bool {
    let alone = configuration.broker.count == 1
        && met.fault.kind == panel.fault.kind
        && met.fault.in_sync_replicas == panel.fault.in_sync_replicas
        && met.simulated == panel.simulated;
    met == panel || alone
}

/// What a fault showed, or why it speaks against the setting.
fn prove(cell: &CellSummary<'_>, panel: &Ordeal<'_>, bounds: &Bounds) -> Result<String, String> {
    let under = panel.with_article();
    let Some(judged) = &cell.judged else { return Err(format!("not read back after {under}")) };
    if cell.is_broken() {
        let names: Vec<String> =
            judged.violations.iter().map(|finding| finding.anomaly.words().to_owned()).collect();
        return Err(format!("broke its contract under {under}: {}", text::listed(&names)));
    }
    if judged.telling_trials < bounds.trials.max(1) {
        let trials = text::counted(judged.telling_trials as u64, "trial", "trials");
        return Err(format!(
            "only {trials} under {under} in which something could be lost; {} asked for",
            bounds.trials.max(1)
        ));
    }
    let zero = cell.configuration.setting.acks == Acks::Zero;
    check_loss(judged, cell.contract(), zero, bounds.rpo).map_err(|why| format!("{why} under {under}"))?;
    Ok(proof(cell, judged, panel))
}

fn check_loss(judged: &Judged, contract: Option<&Contract>, zero: bool, rpo: Rpo) -> Result<(), String> {
    let worst = judged.worst_loss();
    let of = if zero { " that were sent (nothing is acknowledged)" } else { "" };
    let lost = || {
        format!(
            "lost up to {}{of} (in {} of {})",
            text::counted(worst, "record", "records"),
            judged.trials_with_loss(),
            text::counted(judged.trials as u64, "trial", "trials")
        )
    };
    match rpo {
        Rpo::Records(0) if worst == 0 && !contract.is_some_and(Contract::promises_everything) => {
            Err("lost nothing, and does not promise to lose nothing".to_owned())
        }
        Rpo::Records(most) if worst > most => Err(lost()),
        Rpo::Records(_) => Ok(()),
        Rpo::Window(_) if worst > 0 && judged.window_is_lower_bound => Err(format!(
            "{}, and the run ended before the loss window did: at least {}",
            lost(),
            judged.worst_window().map_or_else(|| "any time".to_owned(), |window| window.to_string())
        )),
        Rpo::Window(most) => match judged.worst_window() {
            Some(window) if window > crate::clock::nanos(most) => Err(format!("lost up to {window}")),
            None if worst > 0 => Err(format!("{}, and how far back is not known", lost())),
            _ => Ok(()),
        },
    }
}

/// `power cut: 0 of 589 k acknowledged lost in 20 trials (promise: …); with 95 % confidence at most 15 % of such accidents lose anything`.
fn proof(cell: &CellSummary<'_>, judged: &Judged, panel: &Ordeal<'_>) -> String {
    let of = match cell.configuration.setting.acks {
        Acks::Zero => format!("{} sent", text::rounded(judged.attempts)),
        Acks::One | Acks::All => format!("{} acknowledged", text::rounded(judged.acknowledged)),
    };
    let trials = text::counted(judged.telling_trials as u64, "trial", "trials");
    let promise = cell.contract().map_or_else(|| "nothing is promised".to_owned(), Contract::sentence);
    match judged.worst_loss() {
        0 => format!(
            "{panel}: 0 of {of} lost in {trials} (promise: {promise}); {}",
            answer::bound(judged.telling_trials)
        ),
        worst => format!(
            "{panel}: at most {} of a trial lost, reaching back {}, in {} of {trials}, {of} in all (promise: {promise})",
            text::counted(worst, "record", "records"),
            judged.worst_window().map_or_else(|| "an unknown time".to_owned(), |window| window.to_string()),
            judged.trials_with_loss(),
        ),
    }
}

fn check_latency(open_loop: Option<&CellSummary<'_>>, bound: Option<Duration>) -> Result<(), String> {
    let Some(bound) = bound.map(crate::clock::nanos) else { return Ok(()) };
    let Some((cell, offered)) = open_loop.and_then(|cell| Some((cell, cell.offered()?))) else {
        return Err("its p99 was not measured on an open loop (rate = \"20 MB/s\")".to_owned());
    };
    let offered = text::megabytes(offered);
    if !cell.sustained {
        return Err(format!("did not sustain the {offered} MB/s offered, so its p99 means nothing"));
    }
    match cell.intended.quantile(0.99).map(Nanos) {
        Some(p99) if p99 <= bound => Ok(()),
        Some(p99) => Err(format!("p99 {p99} at {offered} MB/s offered")),
        None => Err("its p99 was not measured".to_owned()),
    }
}

/// `0`, `100` (records), `500ms`, `2s`.
pub fn parse_rpo(text: &str) -> Result<Rpo, String> {
    if let Ok(records) = text.parse() {
        return Ok(Rpo::Records(records));
    }
    parse_duration(text).map(Rpo::Window).map_err(|_| {
        format!("{text:?} is neither a number of records (0, 100) nor a duration (\"500ms\", \"2s\")")
    })
}

/// `20ms`, `1.5s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::workload::units::parse_duration(text)
        .ok_or_else(|| format!("{text:?} is not a duration: \"20ms\", \"1.5s\" and \"2min\" are"))
}

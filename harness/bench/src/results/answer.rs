//! The answer: one sentence for the whole sweep, and the setting to take for each kind of accident.
//!
//! A setting is recommended only if it *promises* to keep what was acknowledged and did: one that
//! happened to lose nothing is not. A broken contract is said before anything else.

use std::fmt;

use super::stats::{Spread, rule_of_three};
use super::summary::{CellSummary, open_loop, performance};
use super::{Configuration, Failure, Stopped, Sweep, text};
use highwater_checker::{Acks, Anomaly, Fault, FaultKind, Finding, Loss, Scope};

/// So many different reasons of failures are told at the top.
const REASONS: usize = 3;

/// How a headline is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A contract was broken.
    Broken,
    /// There is a setting that keeps everything.
    Kept,
    /// There is none among those tested.
    Lossy,
    /// Nothing was tested.
    Silent,
}

/// What is said first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headline {
    /// How it is meant.
    pub tone: Tone,
    /// One sentence.
    pub sentence: String,
    /// What must be known with it.
    pub details: Vec<String>,
}

/// A kind of accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accident {
    /// A broker's process is killed.
    ProcessDies,
    /// One machine loses power.
    MachineLosesPower,
    /// All machines of a cluster lose power at once.
    SiteLosesPower,
}

impl Accident {
    /// From the mildest to the worst.
    pub const ALL: [Self; 3] = [Self::ProcessDies, Self::MachineLosesPower, Self::SiteLosesPower];

    /// As the head of a card.
    #[must_use]
    pub const fn question(self) -> &'static str {
        match self {
            Self::ProcessDies => "If a process dies",
            Self::MachineLosesPower => "If a machine loses power",
            Self::SiteLosesPower => "If the whole site loses power",
        }
    }

    fn matches(self, fault: &Fault, brokers: u32) -> bool {
        let power =
            matches!(fault.kind, FaultKind::PowerCut | FaultKind::PowerCutEachFlush | FaultKind::TornWrite);
        let site = brokers > 1 && fault.scope == Scope::AllBrokers;
        match self {
            Self::ProcessDies => fault.kind == FaultKind::ProcessKill,
            Self::MachineLosesPower => power && !site,
            Self::SiteLosesPower => power && site,
        }
    }
}

/// A setting that kept everything it promised to keep.
#[derive(Clone, Debug)]
pub struct Keeper<'s, 'a> {
    /// The setting.
    pub configuration: &'a Configuration,
    /// How fast it is, if that was measured.
    pub performance: Option<&'s CellSummary<'a>>,
    /// Its latency on an open loop, if that was measured.
    pub open_loop: Option<&'s CellSummary<'a>>,
    /// The cells that show it.
    pub cells: Vec<&'s CellSummary<'a>>,
}

impl Keeper<'_, '_> {
    /// Trials in which something could have been lost.
    #[must_use]
    pub fn trials(&self) -> usize {
        self.judged().map(|judged| judged.telling_trials).sum()
    }

    /// Records acknowledged in them and looked for afterwards.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.judged().map(|judged| judged.acknowledged).sum()
    }

    /// Records that were acknowledged as well, and deleted by retention before they could be read.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.judged().map(|judged| judged.expired).sum()
    }

    /// `20 process kills and 40 power cuts`.
    #[must_use]
    pub fn accidents(&self) -> String {
        let mut ordeals: Vec<(Ordeal<'_>, usize)> = Vec::new();
        for cell in &self.cells {
            let (Some(ordeal), Some(judged)) = (cell.ordeal(), &cell.judged) else { continue };
            match ordeals.iter_mut().find(|(known, _)| known.is_alike(ordeal)) {
                Some((_, trials)) => *trials += judged.telling_trials,
                None => ordeals.push((ordeal, judged.telling_trials)),
            }
        }
        let words = |(ordeal, trials): &(Ordeal<'_>, usize)| {
            let counted = ordeal.counted(*trials as u64);
            let of_all = ordeal.fault.scope == Scope::AllBrokers && self.configuration.broker.count > 1;
            if of_all { format!("{counted} of all brokers at once") } else { counted }
        };
        let texts: Vec<String> = ordeals.iter().map(words).collect();
        text::listed(&texts)
    }

    /// What the trials prove about trials to come.
    #[must_use]
    pub fn bound(&self) -> String {
        bound(self.trials())
    }

    fn judged(&self) -> impl Iterator<Item = &super::summary::Judged> {
        self.cells.iter().filter_map(|cell| cell.judged.as_ref())
    }

    fn speed(&self) -> (bool, f64) {
        let spread = self.performance.and_then(|cell| cell.bytes_per_second);
        (self.performance.is_some_and(|cell| cell.sustained), spread.map_or(-1.0, |spread| spread.median))
    }
}

/// What no loss in some trials proves.
#[must_use]
pub fn bound(trials: usize) -> String {
    match rule_of_three(trials) {
        Some(bound) => {
            format!(
                "with 95\u{a0}% confidence at most {} of such accidents lose anything",
                text::percent_at_most(bound)
            )
        }
        None if trials == 1 => "1 trial proves little".to_owned(),
        None => format!("{trials} trials prove little"),
    }
}

/// A card: the fastest keeper over all brokers, and that of each other broker.
#[derive(Clone, Debug)]
pub struct Card<'s, 'a> {
    /// The accident.
    pub accident: Accident,
    /// How many cells tried it.
    pub tried: usize,
    /// The fastest keeper of each broker, the fastest of all first.
    pub keepers: Vec<Keeper<'s, 'a>>,
}

/// The three cards.
#[must_use]
pub fn cards<'s, 'a>(cells: &'s [CellSummary<'a>]) -> Vec<Card<'s, 'a>> {
    Accident::ALL.map(|accident| card(cells, accident)).into()
}

fn card<'s, 'a>(cells: &'s [CellSummary<'a>], accident: Accident) -> Card<'s, 'a> {
    let tried: Vec<&CellSummary<'a>> = cells
        .iter()
        .filter(|cell| {
            cell.fault().is_some_and(|fault| accident.matches(fault, cell.configuration.broker.count))
        })
        .collect();
    let mut all = keepers(cells, &tried);
    all.sort_by(|a, b| {
        let ((sustained_a, speed_a), (sustained_b, speed_b)) = (a.speed(), b.speed());
        sustained_b.cmp(&sustained_a).then(speed_b.total_cmp(&speed_a))
    });
    let mut best: Vec<Keeper<'s, 'a>> = Vec::new();
    for keeper in all {
        if !best.iter().any(|known| known.configuration.broker.name == keeper.configuration.broker.name) {
            best.push(keeper);
        }
    }
    Card { accident, tried: tried.len(), keepers: best }
}

fn keepers<'s, 'a>(cells: &'s [CellSummary<'a>], tried: &[&'s CellSummary<'a>]) -> Vec<Keeper<'s, 'a>> {
    let mut all: Vec<Keeper<'s, 'a>> = Vec::new();
    for cell in tried {
        match all.iter_mut().find(|known| known.configuration.id == cell.configuration.id) {
            Some(keeper) => keeper.cells.push(cell),
            None => all.push(Keeper {
                configuration: cell.configuration,
                performance: performance(cells, &cell.configuration.id),
                open_loop: open_loop(cells, &cell.configuration.id),
                cells: vec![cell],
            }),
        }
    }
    all.retain(|keeper| keeper.cells.iter().all(|cell| cell.kept_everything_as_promised()));
    all
}

/// What must be known of trials that have no verdict, or have one at the second try only: nothing that failed is passed
/// over in silence.
#[must_use]
pub fn failures(sweep: &Sweep) -> Vec<String> {
    let line = |failures: Vec<&Failure>, what: &str| {
        let count = failures.len() as u64;
        let mut reasons: Vec<&str> = Vec::new();
        for failure in failures {
            let reason = failure.reason.lines().next().unwrap_or_default();
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let more = match reasons.len().saturating_sub(REASONS) {
            0 => String::new(),
            more => format!("; and {}", text::counted(more as u64, "other reason", "other reasons")),
        };
        reasons.truncate(REASONS);
        (count > 0).then(|| {
            format!("{} {what}: {}{more}.", text::counted(count, "trial", "trials"), reasons.join("; "))
        })
    };
    let they = if sweep.without_verdict().len() == 1 { "it" } else { "they" };
    let open = line(sweep.without_verdict(), &format!("without a verdict, since {they} failed"));
    let repeated = line(sweep.repeated(), "repeated after a failure");
    open.into_iter().chain(repeated).collect()
}

/// How a sweep that is not complete ended, and how many planned trials are missing, those that failed among them; `None`
/// if it is complete. What made trials fail says [`failures`].
#[must_use]
pub fn incomplete(sweep: &Sweep) -> Option<String> {
    if sweep.stamp.complete {
        return None;
    }
    let how = match sweep.stamp.stopped {
        Some(Stopped::Interrupted) => "was interrupted".to_owned(),
        Some(Stopped::GivenUp { failures }) => {
            let failures = text::counted(u64::from(failures), "failure", "failures in a row");
            format!("failed: it was given up after {failures}")
        }
        Some(Stopped::TriedAll) => {
            let trials = text::counted(sweep.without_verdict().len() as u64, "trial has", "trials have");
            return Some(format!("This sweep failed: {trials} no verdict."));
        }
        // It cannot have said so: it was killed, or it still runs.
        None => "did not come to its end".to_owned(),
    };
    let missing = match sweep.stamp.planned.map(|planned| (planned.saturating_sub(sweep.trials()), planned)) {
        None => "planned trials are missing".to_owned(),
        Some((0, _)) => "no planned trial is missing".to_owned(),
        Some((missing, planned)) => {
            let are = if missing == 1 { "is" } else { "are" };
            let trials = text::counted(planned, "planned trial", "planned trials");
            format!("{} of {trials} {are} missing", text::exact(missing))
        }
    };
    Some(format!("This sweep {how}; {missing}."))
}

/// What is said first.
#[must_use]
pub fn headline(cells: &[CellSummary<'_>], cards: &[Card<'_, '_>]) -> Headline {
    let broken: Vec<&CellSummary<'_>> = cells.iter().filter(|cell| cell.is_broken()).collect();
    if !broken.is_empty() {
        return broken_headline(&broken);
    }
    let judged = cells.iter().filter(|cell| cell.fault().is_some() && cell.judged.is_some()).count();
    if judged == 0 {
        let sentence = "No fault was injected and read back: this report says nothing about loss.".to_owned();
        return Headline { tone: Tone::Silent, sentence, details: Vec::new() };
    }
    let worst_first = cards.iter().rev().filter(|card| card.tried > 0);
    let Some(worst) = worst_first.clone().next() else { return other_faults(cells) };
    match worst_first.clone().find_map(|card| card.keepers.first()) {
        Some(keeper) => kept_headline(cells, worst, keeper),
        None => Headline {
            tone: Tone::Lossy,
            sentence: "No setting in this sweep promises to keep, and kept, everything acknowledged."
                .to_owned(),
            details: vec!["No contract was broken: what was lost could be lost.".to_owned()],
        },
    }
}

fn broken_headline(broken: &[&CellSummary<'_>]) -> Headline {
    let sentence = match broken {
        [only] => format!("A contract was broken: {}", broken_line(only)),
        many => format!("{} contracts were broken. The first: {}", many.len(), broken_line(many[0])),
    };
    let details = broken.iter().skip(1).map(|cell| broken_line(cell)).collect();
    Headline { tone: Tone::Broken, sentence, details }
}

fn broken_line(cell: &CellSummary<'_>) -> String {
    let worst = cell.judged.as_ref().and_then(|judged| judged.violations.first());
    let what = worst.map_or_else(String::new, |finding| {
        let words = violation_words(finding.anomaly, finding.count);
        how_it_ended(finding).map_or_else(|| words.clone(), |how| format!("{words} ({how})"))
    });
    let under = cell
        .ordeal()
        .map_or_else(|| "without any fault".to_owned(), |ordeal| format!("under {}", ordeal.with_article()));
    let contract = cell
        .contract()
        .map_or_else(|| "nothing may be lost".to_owned(), highwater_checker::Contract::sentence);
    format!(
        "{} with {} {what} {under}, where {contract}.",
        cell.configuration.broker_label(),
        cell.configuration.label()
    )
}

/// Of a broker that does not serve any more: how it ended, without the end of its log.
pub(crate) fn how_it_ended(finding: &Finding) -> Option<&str> {
    let example = finding.examples.first().filter(|_| finding.anomaly == Anomaly::Unrecovered)?;
    example.split("; its log ").next()
}

/// `lost 312 acknowledged records`, `returned 3 records twice`, …
fn violation_words(anomaly: Anomaly, count: u64) -> String {
    let records = text::counted(count, "record", "records");
    match anomaly {
        Anomaly::Unrecovered => {
            format!("did not come back {}", text::counted(count, "time", "times"))
        }
        Anomaly::Unreadable => {
            format!("refused to give {}", text::counted(count, "acknowledged record", "acknowledged records"))
        }
        Anomaly::LostTail => format!(
            "lost {} from the end of the log",
            text::counted(count, "acknowledged record", "acknowledged records")
        ),
        Anomaly::LostHole => format!(
            "lost {} from the middle of the log",
            text::counted(count, "acknowledged record", "acknowledged records")
        ),
        Anomaly::LostBeyondWindow => format!(
            "lost {} beyond the window",
            text::counted(count, "acknowledged record", "acknowledged records")
        ),
        Anomaly::ReadThenLost => format!("lost {records} that a consumer had read"),
        Anomaly::Duplicate => format!("stored {records} twice"),
        Anomaly::AbortedRead => format!("stored {records} that it had refused"),
        Anomaly::Corrupt => format!("returned {records} altered"),
        other => format!("showed {} ({other})", text::counted(count, "anomaly", "anomalies")),
    }
}

fn kept_headline(cells: &[CellSummary<'_>], worst: &Card<'_, '_>, keeper: &Keeper<'_, '_>) -> Headline {
    let configuration = keeper.configuration;
    let (accidents, label, broker) =
        (keeper.accidents(), configuration.label(), configuration.broker_label());
    let mut details = Vec::new();
    let sentence = match price(cells, keeper) {
        None => format!("Nothing acknowledged was lost in {accidents} with {label} on {broker}."),
        Some(price) => {
            details.push(price.against());
            format!(
                "The cheapest setting that lost nothing in {accidents} is {label} on {broker}; {}.",
                price.words()
            )
        }
    };
    if worst.keepers.is_empty() {
        details.push(format!("{}, no setting in this sweep kept everything.", worst.accident.question()));
    }
    details.push(format!(
        "{}; {}.",
        acknowledged_words(keeper.acknowledged(), keeper.expired()),
        keeper.bound()
    ));
    Headline { tone: Tone::Kept, sentence, details }
}

/// `3.52 M records were acknowledged, 1.94 M of them deleted by retention before they could be read`.
fn acknowledged_words(read: u64, expired: u64) -> String {
    let all = text::rounded(read + expired);
    match expired {
        0 => format!("{all} records were acknowledged"),
        expired => format!(
            "{all} records were acknowledged, {} of them deleted by retention before they could be read",
            text::rounded(expired)
        ),
    }
}

/// So many trials of both it takes to say that one is slower: that three are by chance all below three others happens one time in
/// twenty.
const FEWEST_TRIALS: usize = 3;

/// What a setting costs against the fastest one of its broker under the same workload whose records are acknowledged.
struct Price<'a> {
    own: Spread,
    fastest: Spread,
    of: &'a Configuration,
    is_fastest: bool,
}

fn price<'a>(cells: &[CellSummary<'a>], keeper: &Keeper<'_, 'a>) -> Option<Price<'a>> {
    let own = keeper.performance?.bytes_per_second?;
    let comparable = |cell: &&CellSummary<'_>| {
        cell.fault().is_none()
            && cell.configuration.broker == keeper.configuration.broker
            && cell.configuration.workload == keeper.configuration.workload
            && cell.configuration.setting.acks != Acks::Zero
            && cell.sustained
    };
    if cells.iter().filter(comparable).all(|cell| cell.configuration.id == keeper.configuration.id) {
        return None;
    }
    let (fastest, of) = cells
        .iter()
        .filter(comparable)
        .filter_map(|cell| cell.bytes_per_second.map(|spread| (spread, cell.configuration)))
        .max_by(|(a, _), (b, _)| a.median.total_cmp(&b.median))?;
    Some(Price { own, fastest, of, is_fastest: of.id == keeper.configuration.id })
}

impl Price<'_> {
    /// Whether the difference is more than noise: the fastest of several is partly the luckiest of them.
    fn tells(&self) -> bool {
        self.trials() >= FEWEST_TRIALS && !overlaps(self.own, self.fastest)
    }

    fn trials(&self) -> usize {
        self.own.trials.min(self.fastest.trials)
    }

    /// `it costs 7 % of the fastest`.
    fn words(&self) -> String {
        if self.is_fastest {
            return "no setting measured here was faster".to_owned();
        }
        if !self.tells() {
            return "no setting was faster beyond the noise of these trials".to_owned();
        }
        let lost = (1.0 - self.own.median / self.fastest.median).max(0.0);
        format!("it costs {} of the fastest setting's throughput", text::percent(lost))
    }

    /// What it was held against, and whether the difference is more than noise.
    fn against(&self) -> String {
        let Price { own, fastest, of, is_fastest } = self;
        let measured = |spread: &Spread| format!("{} MB/s", text::megabytes(spread.median));
        if *is_fastest {
            return format!(
                "It reached {} on this machine; settings without an ack (acks=0) do not count.",
                measured(own)
            );
        }
        let noise = match self.trials() {
            _ if self.tells() => String::new(),
            0 | 1 => " One trial each: the noise between trials is not known.".to_owned(),
            _ if overlaps(*own, *fastest) => {
                " The trials of both overlap: the difference may be noise.".to_owned()
            }
            trials => format!(" {trials} trials each are too few to tell the difference from noise."),
        };
        format!(
            "{} against {} with {}, the fastest acknowledged setting of that broker on this machine.{noise}",
            measured(own),
            measured(fastest),
            of.label()
        )
    }
}

/// What a keeper costs, as a sentence.
#[must_use]
pub fn cost(cells: &[CellSummary<'_>], keeper: &Keeper<'_, '_>) -> Option<String> {
    let price = price(cells, keeper)?;
    let mut words = price.words();
    words[..1].make_ascii_uppercase();
    Some(if price.is_fastest { format!("{words}.") } else { format!("{words} ({}).", price.of.label()) })
}

fn overlaps(a: Spread, b: Spread) -> bool {
    a.low <= b.high && b.low <= a.high
}

/// Only faults that are none of the three accidents were injected.
fn other_faults(cells: &[CellSummary<'_>]) -> Headline {
    let mut faults: Vec<String> = Vec::new();
    for ordeal in cells.iter().filter_map(CellSummary::ordeal) {
        let words = format!("{}{}", ordeal.simulated_word(), ordeal.fault.kind.words());
        if !faults.contains(&words) {
            faults.push(words);
        }
    }
    Headline {
        tone: Tone::Kept,
        sentence: format!("No contract was broken under {}.", text::listed(&faults)),
        details: vec!["No process was killed and no power was cut in this sweep.".to_owned()],
    }
}

/// A fault as it was done to a broker: for real, or to one that runs on a simulated disk. Wherever a report names a fault
/// it says so, since a simulated power cut proves another thing than a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordeal<'a> {
    /// The fault.
    pub fault: &'a Fault,
    /// Whether the disk was the simulator's.
    pub simulated: bool,
}

impl Ordeal<'_> {
    const fn simulated_word(&self) -> &'static str {
        if self.simulated { "simulated " } else { "" }
    }

    /// Whether both count as the same accident.
    fn is_alike(self, other: Ordeal<'_>) -> bool {
        let key = |ordeal: Ordeal<'_>| (ordeal.fault.kind, ordeal.fault.scope, ordeal.simulated);
        key(self) == key(other)
    }

    /// `1 power cut`, `60 simulated power cuts`.
    #[must_use]
    pub fn counted(&self, count: u64) -> String {
        let simulated = self.simulated_word();
        let one = self.fault.kind.words();
        let many = match self.fault.kind {
            FaultKind::PowerCutEachFlush => "power cuts (each flush on its own)".to_owned(),
            FaultKind::SystemCrash => "operating system crashes".to_owned(),
            FaultKind::LyingFlush => "lying flushes".to_owned(),
            FaultKind::ControllerLoss => "controller losses".to_owned(),
            FaultKind::BitRot => "cases of bit rot".to_owned(),
            _ => format!("{one}s"),
        };
        text::counted(count, &format!("{simulated}{one}"), &format!("{simulated}{many}"))
    }

    /// With an article, for sentences.
    #[must_use]
    pub fn with_article(&self) -> String {
        let article = match self.fault.kind {
            FaultKind::BitRot => "",
            FaultKind::SystemCrash if !self.simulated => "an ",
            _ => "a ",
        };
        format!("{article}{self}")
    }
}

impl fmt::Display for Ordeal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.simulated_word(), self.fault)
    }
}

impl Configuration {
    /// The settings that decide over loss, as a user writes them.
    #[must_use]
    pub fn label(&self) -> String {
        let setting = &self.setting;
        let mut parts = vec![format!("acks={}", setting.acks), setting.flush.to_string()];
        if setting.replication_factor > 1 {
            parts.push(format!("{} replicas", setting.replication_factor));
            parts.push(format!("min.insync.replicas={}", setting.min_insync_replicas));
        }
        if setting.unclean_leader_election {
            parts.push("unclean election".to_owned());
        }
        parts.join(", ")
    }

    /// The same, short enough for a chart.
    #[must_use]
    pub fn short_label(&self) -> String {
        let flush = &self.setting.flush;
        let flushed = match (flush.messages, flush.ms) {
            (None, None) => "no flush".to_owned(),
            (Some(messages), None) => format!("flush={messages}"),
            (None, Some(ms)) => format!("flush {ms} ms"),
            (Some(messages), Some(ms)) => format!("flush={messages} or {ms} ms"),
        };
        let replicas = match self.setting.replication_factor {
            0 | 1 => String::new(),
            factor => format!(" ×{factor}"),
        };
        let acks = match self.setting.acks {
            Acks::Zero => "0 (no ack)".to_owned(),
            acks => acks.to_string(),
        };
        let cold = if self.workload.cold { ", cold" } else { "" };
        format!("{acks}{replicas}, {flushed}{cold}")
    }

    /// Which broker, with its version.
    #[must_use]
    pub fn broker_label(&self) -> String {
        format!("{} {}", self.broker.name, self.broker.version)
    }

    /// Whether every ack waits for a flush, some do, or none.
    #[must_use]
    pub fn flush_class(&self) -> FlushClass {
        match self.setting.flush.exposure() {
            Loss::Nothing => FlushClass::EveryMessage,
            Loss::Tail { messages: None, window: None } => FlushClass::LeftToSystem,
            _ => FlushClass::Window,
        }
    }
}

/// How a flush setting is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlushClass {
    /// `flush.messages=1`.
    EveryMessage,
    /// A bound by count or by time.
    Window,
    /// None.
    LeftToSystem,
}

impl FlushClass {
    /// In the order in which a legend shows them.
    pub const ALL: [Self; 3] = [Self::EveryMessage, Self::Window, Self::LeftToSystem];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::EveryMessage => "flushed before each ack",
            Self::Window => "flushed every so often",
            Self::LeftToSystem => "flush left to the system",
        }
    }
}

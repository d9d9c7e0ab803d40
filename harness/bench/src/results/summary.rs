//! What is shown of a cell, derived from its trials: once, for the terminal and for the page.
//!
//! Counts add up over trials, histograms merge, throughput is a spread over trials and loss a list
//! over trials. Nothing is averaged.

use super::answer::Ordeal;
use super::stats::Spread;
use super::{Cell, Configuration, DiskKind, FaultMark, LAPS, Latency, Load, Purpose, Sweep, Trial, Used};
use highwater_checker::{Acks, Anomaly, Contract, Fault, Finding, LostRecord, Nanos, Standing, Verdict};

/// Examples kept of a finding over all trials.
const EXAMPLES: usize = 5;

/// A cell with everything that is said of it.
#[derive(Clone, Debug)]
pub struct CellSummary<'a> {
    /// The raw results.
    pub cell: &'a Cell,
    /// What it is of.
    pub configuration: &'a Configuration,
    /// Bytes a second over trials.
    pub bytes_per_second: Option<Spread>,
    /// The same with the clock running until the broker had drained, where that was measured.
    pub drained_bytes_per_second: Option<Spread>,
    /// Records a second over trials.
    pub records_per_second: Option<Spread>,
    /// Bytes per second of the machine's CPU less the client's, where that was measured in every trial.
    pub bytes_per_cpu_second: Option<f64>,
    /// Bytes per second of CPU of the broker's own processes, where that was measured in every trial.
    pub bytes_per_broker_cpu_second: Option<f64>,
    /// Most memory that the broker had resident in any trial, and the most at the end of one.
    pub memory: Option<Memory>,
    /// The fewest laps of the broker's journal or log buffer in any trial, where it has one and tells.
    pub laps: Option<f64>,
    /// How much of what the client reaches against a broker that does nothing; absent where that is not known.
    pub share_of_ceiling: Option<f64>,
    /// Whether every trial reached 99 % of its target.
    pub sustained: bool,
    /// From the intended send time, merged over trials.
    pub intended: Latency,
    /// From the send, merged over trials.
    pub service: Latency,
    /// What the checker said; absent if no trial was judged.
    pub judged: Option<Judged>,
}

/// Resident memory of a broker over all trials of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The most at once.
    pub peak_bytes: u64,
    /// The most at the end of a load.
    pub end_bytes: u64,
    /// How much it could have, page cache included, where that was limited.
    pub limit_bytes: Option<u64>,
}

/// A figure that reaches this share of the client's own ceiling says more about the client than about the broker.
pub const CLIENT_LIMIT: f64 = 0.9;

/// What the checker said over all trials of a cell.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Trials with a verdict.
    pub trials: usize,
    /// Trials in which something could be lost: something was acknowledged, and acks were flowing when a fault struck.
    pub telling_trials: usize,
    /// Power cuts of which it is known what they met on the disk, and those of them that met a write that was not durable yet.
    pub cuts: usize,
    /// See there.
    pub cuts_into_writes: usize,
    /// Broken if any trial was.
    pub standing: Standing,
    /// Violations, added up by name.
    pub violations: Vec<Finding>,
    /// What was seen and is permitted, added up by name.
    pub permitted: Vec<Finding>,
    /// Records attempted.
    pub attempts: u64,
    /// Records acknowledged and looked for in the end, so that their loss would have been seen; those after a cut apart.
    pub acknowledged: u64,
    /// Acknowledged, and deleted by the retention that the topic is set to before they could be read: no proof of anything.
    pub expired: u64,
    /// Acknowledged between a power cut and the silence after it.
    pub acknowledged_after_cut: u64,
    /// Acknowledged, and not there when everything was read back; with acks=0, sent before the fault and absent.
    pub lost: u64,
    /// Of those, in a range that the broker refuses to give, or of a broker that did not come back.
    pub unreadable: u64,
    /// Bytes of what was acknowledged and lost.
    pub lost_bytes: u64,
    /// Of the lost, those at the end of their partition.
    pub tail: u64,
    /// Of the lost, those below survivors.
    pub holes: u64,
    /// Records found more than once.
    pub duplicates: u64,
    /// Outcome unknown to the producer.
    pub unknown: u64,
    /// Reported as failed, and the application went on.
    pub application_lost: u64,
    /// Records that consumers saw; absent where there were none.
    pub polled: Option<u64>,
    /// Of those, what was gone when everything was read back, acknowledged or not.
    pub read_then_lost: u64,
    /// Lost records, trial by trial.
    pub lost_by_trial: Vec<u64>,
    /// Loss window, trial by trial; absent where nothing was lost.
    pub windows: Vec<Option<Nanos>>,
    /// A load ended before its loss window could.
    pub window_is_lower_bound: bool,
    /// The longest time without an ack in any trial.
    pub longest_gap: Option<Nanos>,
    /// The trial that lost most, by number, for its timeline and its forensic lines.
    pub worst_trial: usize,
    /// Its forensic lines.
    pub lost_records: Vec<LostRecord>,
}

impl Judged {
    /// Trials that lost anything.
    #[must_use]
    pub fn trials_with_loss(&self) -> usize {
        self.lost_by_trial.iter().filter(|lost| **lost > 0).count()
    }

    /// The most records that any trial lost.
    #[must_use]
    pub fn worst_loss(&self) -> u64 {
        self.lost_by_trial.iter().max().copied().unwrap_or_default()
    }

    /// The longest loss window of any trial.
    #[must_use]
    pub fn worst_window(&self) -> Option<Nanos> {
        self.windows.iter().flatten().max().copied()
    }
}

impl<'a> CellSummary<'a> {
    fn new(cell: &'a Cell, configuration: &'a Configuration) -> Self {
        let loads = || cell.trials.iter().map(|trial| &trial.load).filter(|load| load.is_measured());
        let cpu: Option<u64> = loads().map(|load| load.broker_cpu.map(|cpu| cpu.0)).sum();
        let used: Option<Vec<Used>> = loads().map(|load| load.used).collect();
        let used = used.filter(|used| !used.is_empty());
        let bytes: u64 = loads().map(|load| load.bytes).sum();
        let per_second = |cpu: u64| (cpu > 0).then(|| bytes as f64 / (cpu as f64 / 1e9));
        let most = |of: fn(&Used) -> u64| used.as_ref()?.iter().map(of).max();
        let bytes_per_second = Spread::of(loads().map(|load| load.bytes_per_second()));
        let ceiling = configuration.client_ceiling.filter(|ceiling| ceiling.bytes_per_second > 0.0);
        Self {
            cell,
            configuration,
            bytes_per_second,
            drained_bytes_per_second: Spread::of(loads().filter_map(Load::drained_bytes_per_second)),
            records_per_second: Spread::of(loads().map(|load| load.records_per_second())),
            bytes_per_cpu_second: cpu.and_then(per_second),
            bytes_per_broker_cpu_second: (used.as_ref())
                .and_then(|used| per_second(used.iter().map(|used| used.cpu.0).sum())),
            memory: most(|used| used.peak_rss_bytes).zip(most(|used| used.end_rss_bytes)).map(
                |(peak_bytes, end_bytes)| Memory {
                    peak_bytes,
                    end_bytes,
                    limit_bytes: used.iter().flatten().find_map(|used| used.memory_limit_bytes),
                },
            ),
            laps: loads().filter_map(Load::laps).min_by(f64::total_cmp),
            share_of_ceiling: bytes_per_second
                .zip(ceiling)
                .map(|(spread, ceiling)| spread.median / ceiling.bytes_per_second),
            sustained: loads().all(|load| load.is_sustained()),
            intended: intended(cell),
            service: service(cell),
            judged: judged(cell, configuration.setting.acks),
        }
    }

    /// The fault, if there is one.
    #[must_use]
    pub fn fault(&self) -> Option<&'a Fault> {
        match &self.cell.plan.purpose {
            Purpose::Fault { fault, .. } => Some(fault),
            Purpose::Performance => None,
        }
    }

    /// The fault, if there is one, and whether it was done for real.
    #[must_use]
    pub fn ordeal(&self) -> Option<Ordeal<'a>> {
        let simulated = self.cell.plan.disk == DiskKind::Simulated;
        self.fault().map(|fault| Ordeal { fault, simulated })
    }

    /// What the broker owes, if the cell has a fault.
    #[must_use]
    pub fn contract(&self) -> Option<&'a Contract> {
        match &self.cell.plan.purpose {
            Purpose::Fault { contract, .. } => Some(contract),
            Purpose::Performance => None,
        }
    }

    /// The rate that was offered, in bytes of values a second; absent if the load was as fast as possible.
    #[must_use]
    pub fn offered(&self) -> Option<f64> {
        let targets = self.cell.trials.iter().filter_map(|trial| trial.load.target_records_per_second);
        let records = targets.max_by(f64::total_cmp)?;
        Some(records * f64::from(self.configuration.workload.record_size_bytes))
    }

    /// Whether it is a speed of too few laps to hold in the long run.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.fault().is_none() && self.offered().is_none() && self.laps.is_some_and(|laps| laps <= LAPS)
    }

    /// Whether the figure is the client's rather than the broker's: it is at least [`CLIENT_LIMIT`] of the ceiling.
    #[must_use]
    pub fn is_limited_by_client(&self) -> bool {
        self.fault().is_none() && self.share_of_ceiling.is_some_and(|share| share >= CLIENT_LIMIT)
    }

    /// Whether a contract was broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.judged.as_ref().is_some_and(|judged| judged.standing == Standing::Broken)
    }

    /// Whether nothing was lost although the contract permits it: luck so far, not safety.
    #[must_use]
    pub fn lost_nothing_unpromised(&self) -> bool {
        let permits = self.contract().is_some_and(|contract| !contract.promises_everything());
        permits && self.judged.as_ref().is_some_and(|judged| judged.lost == 0)
    }

    /// Whether every judged trial kept every acknowledged record *and* had to: a setting that happened
    /// to lose nothing is no answer. At least one trial must have been able to lose something.
    #[must_use]
    pub fn kept_everything_as_promised(&self) -> bool {
        let promised = self.contract().is_some_and(Contract::promises_everything);
        let kept = |judged: &Judged| {
            judged.standing == Standing::Kept && judged.lost == 0 && judged.telling_trials > 0
        };
        promised && self.judged.as_ref().is_some_and(kept)
    }
}

/// Every cell of a sweep, in its order. Cells without a trial are left out.
#[must_use]
pub fn summaries(sweep: &Sweep) -> Vec<CellSummary<'_>> {
    let of = |cell: &'_ Cell| {
        sweep.configurations.iter().find(|configuration| configuration.id == cell.plan.configuration)
    };
    let measured = sweep.cells.iter().filter(|cell| !cell.trials.is_empty());
    measured.filter_map(|cell| of(cell).map(|configuration| CellSummary::new(cell, configuration))).collect()
}

/// The performance cell that stands for a configuration's speed: one that ran as fast as possible, since a rate that was
/// offered is no speed; else the fastest whose rate was sustained, else the fastest.
#[must_use]
pub fn performance<'s, 'a>(cells: &'s [CellSummary<'a>], configuration: &str) -> Option<&'s CellSummary<'a>> {
    let measured = cells.iter().filter(|cell| {
        cell.fault().is_none() && cell.configuration.id == configuration && cell.bytes_per_second.is_some()
    });
    let speed = |cell: &CellSummary<'_>| cell.bytes_per_second.map_or(0.0, |spread| spread.median);
    let rank = |cell: &CellSummary<'_>| (cell.offered().is_none(), cell.sustained);
    measured.max_by(|a, b| rank(a).cmp(&rank(b)).then(speed(a).total_cmp(&speed(b))))
}

/// The cell that stands for a configuration's latency: on an open loop, the highest rate that was sustained, else the
/// lowest. A closed loop has no intended send times: what it calls latency is time in the client's own buffer.
#[must_use]
pub fn open_loop<'s, 'a>(cells: &'s [CellSummary<'a>], configuration: &str) -> Option<&'s CellSummary<'a>> {
    let of = cells.iter().filter(|cell| cell.fault().is_none() && cell.configuration.id == configuration);
    let open = of.filter_map(|cell| Some((cell, cell.offered()?)).filter(|_| !cell.intended.is_empty()));
    let rank = |rate: f64, cell: &CellSummary<'_>| if cell.sustained { rate } else { -rate };
    open.max_by(|(a, of_a), (b, of_b)| {
        a.sustained.cmp(&b.sustained).then(rank(*of_a, a).total_cmp(&rank(*of_b, b)))
    })
    .map(|(cell, _)| cell)
}

/// Latency from the intended send time, over all trials of a cell.
#[must_use]
pub fn intended(cell: &Cell) -> Latency {
    merged(cell, |trial| &trial.intended)
}

/// Latency from the send, over all trials of a cell.
#[must_use]
pub fn service(cell: &Cell) -> Latency {
    merged(cell, |trial| &trial.service)
}

fn merged(cell: &Cell, of: impl Fn(&Trial) -> &Latency) -> Latency {
    let mut all = Latency::default();
    cell.trials.iter().for_each(|trial| all.merge(of(trial)));
    all
}

/// What counts as lost in a trial: with acks=0 nothing is acknowledged, and what was sent counts.
fn lost_of(verdict: &Verdict, acks: Acks) -> (u64, Option<Nanos>) {
    match acks {
        Acks::Zero => (verdict.losses.sent_absent, verdict.losses.sent_window),
        Acks::One | Acks::All => (verdict.losses.records + verdict.losses.unreadable, verdict.losses.window),
    }
}

fn judged(cell: &Cell, acks: Acks) -> Option<Judged> {
    let verdicts: Vec<(usize, &Trial, &Verdict)> = (cell.trials.iter().enumerate())
        .filter_map(|(number, trial)| trial.verdict.as_ref().map(|verdict| (number, trial, verdict)))
        .collect();
    let sum = |of: &dyn Fn(&Verdict) -> u64| verdicts.iter().map(|(_, _, verdict)| of(verdict)).sum::<u64>();
    let lost_by_trial: Vec<u64> = verdicts.iter().map(|(_, _, verdict)| lost_of(verdict, acks).0).collect();
    // Of equal trials the first.
    let (place, _) =
        lost_by_trial.iter().enumerate().max_by_key(|(place, lost)| (**lost, usize::MAX - place))?;
    let (worst_trial, _, worst) = verdicts[place];
    let broken = verdicts.iter().any(|(_, _, verdict)| verdict.standing == Standing::Broken);
    let telling = |trial: &Trial, verdict: &Verdict| {
        let acked = !verdict.is_vacuous() || (acks == Acks::Zero && verdict.attempts > 0);
        // A kill on the way to the fault cannot vouch for a fault that met silence.
        acked && trial.faults.last().is_none_or(FaultMark::met_acks)
    };
    let cuts: Vec<bool> = (verdicts.iter())
        .filter_map(|(_, trial, _)| trial.faults.last().and_then(FaultMark::met_writes))
        .collect();
    Some(Judged {
        trials: verdicts.len(),
        cuts: cuts.len(),
        cuts_into_writes: cuts.iter().filter(|met| **met).count(),
        telling_trials: verdicts.iter().filter(|(_, trial, verdict)| telling(trial, verdict)).count(),
        standing: if broken { Standing::Broken } else { Standing::Kept },
        violations: added_up(verdicts.iter().flat_map(|(_, _, verdict)| &verdict.violations)),
        permitted: added_up(verdicts.iter().flat_map(|(_, _, verdict)| &verdict.permitted)),
        attempts: sum(&|verdict| verdict.attempts),
        acknowledged: sum(&|verdict| verdict.losses.at_stake()),
        expired: sum(&|verdict| verdict.losses.expired),
        acknowledged_after_cut: sum(&|verdict| verdict.cells.acknowledged_after_cut.total()),
        lost: lost_by_trial.iter().sum(),
        unreadable: sum(&|verdict| verdict.losses.unreadable),
        lost_bytes: sum(&|verdict| verdict.losses.bytes),
        tail: sum(&|verdict| verdict.losses.tail),
        holes: sum(&|verdict| verdict.losses.holes),
        duplicates: sum(&|verdict| count_of(verdict, Anomaly::Duplicate)),
        unknown: sum(&|verdict| verdict.cells.unknown.total()),
        application_lost: sum(&|verdict| verdict.application_lost),
        polled: verdicts
            .iter()
            .filter_map(|(_, trial, _)| trial.load.polled)
            .reduce(|one, other| one + other),
        read_then_lost: sum(&|verdict| count_of(verdict, Anomaly::ReadThenLost)),
        windows: verdicts.iter().map(|(_, _, verdict)| lost_of(verdict, acks).1).collect(),
        lost_by_trial,
        window_is_lower_bound: verdicts.iter().any(|(_, trial, _)| trial.window_is_lower_bound),
        longest_gap: verdicts.iter().filter_map(|(_, _, v)| v.longest_gap.map(|gap| gap.length())).max(),
        worst_trial,
        lost_records: worst.lost_records.clone(),
    })
}

/// How often something was seen, forbidden or permitted.
fn count_of(verdict: &Verdict, anomaly: Anomaly) -> u64 {
    let both = verdict.violations.iter().chain(&verdict.permitted);
    both.filter(|finding| finding.anomaly == anomaly).map(|finding| finding.count).sum()
}

fn added_up<'a>(findings: impl Iterator<Item = &'a Finding>) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for finding in findings {
        let place = all.iter().position(|known| known.anomaly == finding.anomaly).unwrap_or_else(|| {
            all.push(Finding { anomaly: finding.anomaly, count: 0, examples: Vec::new() });
            all.len() - 1
        });
        let sum = &mut all[place];
        sum.count += finding.count;
        let room = EXAMPLES.saturating_sub(sum.examples.len());
        sum.examples.extend(finding.examples.iter().take(room).cloned());
    }
    all.sort_by_key(|finding| finding.anomaly);
    all
}

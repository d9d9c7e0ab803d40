//! A sweep: every cell of a workload, one after the other, into one folder of results.
//!
//! Each trial is written when it ends, so that a sweep that was interrupted goes on where it stopped: `--resume` finds
//! the folder, checks that the workload is still the same, and runs what is missing. A trial that fails (which is not
//! the same as a broken contract) does not end the sweep. It is written down with its reason, and the report says it; on
//! resume it runs again only if its fault had not struck yet, since to repeat a fault until it goes well would be to choose
//! the result.

mod check;
mod folder;
mod plan;
mod progress;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_checker::{Nanos, Standing};

use crate::broker::driver::{Driver, DriverError, Place};
use crate::broker::memory::MemoryGroup;
use crate::calibrate::{self, CalibrationError};
use crate::cancel::{Cancel, Interrupted};
use crate::ceiling;
use crate::cell::{self, Bench, CellError, Observer, Outcome, Simulate, Simulator};
use crate::clock::nanos;
use crate::load::Driving;
use crate::machine;
use crate::medium::{MediumError, Scratch, can_cut_power};
use crate::results::answer;
use crate::results::store::{ResultsDir, StoreError};
use crate::results::text::exact;
use crate::results::{
    Configuration, Environment, Failure, Pairs, Property, Purpose, Stamp, Stopped, Sweep, Trial,
};
use crate::workload::settings::Fault;
use crate::workload::{Cell, Workload, WorkloadError};

use folder::NewFolder;
use plan::{Contender, Plan, PlannedTrial};
pub use progress::Progress;

/// How long each half of the calibration takes.
const CALIBRATION: Duration = Duration::from_millis(700);
/// After so many failures in a row nothing good can be expected of the rest.
const GIVE_UP_AFTER: u32 = 3;
const STAND_IN: &str = "stand-in";

/// What to sweep.
#[derive(Debug, Clone)]
pub struct Options {
    /// The workload file.
    pub workload: PathBuf,
    /// Brokers in place of the workload's own.
    pub brokers: Vec<String>,
    /// Seed in place of the workload's own.
    pub seed: Option<u64>,
    /// Run each cell no more often than this.
    pub max_repeats: Option<u32>,
    /// Run cells without a fault in interleaved pairs, in place of the workload's repeats.
    pub pairs: Option<Pairs>,
    /// Where folders of results are.
    pub results: PathBuf,
    /// Go on with the newest unfinished sweep of this workload.
    pub resume: bool,
    /// Where drivers are.
    pub drivers: PathBuf,
    /// What relative homes of brokers are relative to.
    pub root: PathBuf,
    /// Where brokers keep their files while they run.
    pub scratch: PathBuf,
    /// Where data directories are kept of trials that broke their contract, as the fault left them.
    pub evidence: Option<PathBuf>,
    /// How the client's bytes move.
    pub driving: Driving,
    /// The command that repeats this sweep, for the report.
    pub command: String,
}

/// Why there was no sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The workload.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A broker.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The results.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The scratch directory.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// The folder of results cannot be made.
    #[error("no results can be written to {path}: {source}; --results DIR takes them elsewhere", path = path.display())]
    Results {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing to go on with.
    #[error("{results}: no unfinished sweep of {name} to resume", results = results.display())]
    NothingToResume {
        /// Where it was looked for.
        results: PathBuf,
        /// The workload.
        name: String,
    },
    /// The workload changed.
    #[error("{path} differs from the workload that {folder} was begun with; start a new sweep", path = path.display(), folder = folder.display())]
    Changed {
        /// The workload now.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The workload has no cells for what was asked.
    #[error("{0}: no cells to run")]
    Empty(String),
    /// There are no two things to compare.
    #[error(
        "{0}: nothing to compare: pairs are of two brokers (--broker A --broker B), of two settings without a fault that start alike and are offered the same rate, or of one with itself (--noise)"
    )]
    NoPairs(String),
    /// Somebody asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl SweepError {
    /// Whether the sweep was given up because somebody asked to stop.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(self, SweepError::Interrupted(_) | SweepError::Calibration(CalibrationError::Interrupted(_)))
    }
}

/// What came of a sweep.
#[derive(Debug)]
pub struct Swept {
    /// Everything that was measured.
    pub sweep: Sweep,
    /// Where it is.
    pub folder: ResultsDir,
    /// Trials that failed, each with the reason.
    pub failures: Vec<String>,
    /// Trials that were left out, with the reason.
    pub left_out: Vec<String>,
}

impl Swept {
    /// Whether it ended since somebody asked it to.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.sweep.stamp.stopped == Some(Stopped::Interrupted)
    }

    /// Whether a contract was broken anywhere.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let verdicts =
            self.sweep.cells.iter().flat_map(|cell| &cell.trials).filter_map(|trial| trial.verdict.as_ref());
        verdicts.into_iter().any(|verdict| verdict.standing == Standing::Broken)
    }
}

/// A workload and what it needs, checked before anything is started.
pub struct Prepared {
    workload: Workload,
    /// The file as it was read.
    text: String,
    brokers: Vec<String>,
    contenders: BTreeMap<String, Contender>,
    /// Every cell, in the order in which they run.
    pub cells: Vec<Cell>,
    /// Why no power can be cut here, if so.
    pub no_power_cuts: Option<String>,
    /// Why a broker's memory cannot be limited here, if a cell asks for that.
    pub no_memory_limit: Option<String>,
    /// What runs what this machine cannot, if it was built.
    pub simulator: Option<Box<dyn Simulate>>,
}

/// Reads the workload and finds its brokers.
pub fn prepare(options: &Options) -> Result<Prepared, SweepError> {
    let (workload, brokers) = workload(options)?;
    let text = read(&options.workload)?;
    let cells = expand(options, &workload, &brokers)?;
    let mut contenders = BTreeMap::new();
    for (name, driver) in check::drivers(&workload, &options.drivers, &brokers)? {
        contenders.insert(name, contender(options, driver)?);
    }
    if cells.is_empty() {
        let name = workload.name;
        return Err(if options.pairs.is_some() {
            SweepError::NoPairs(name)
        } else {
            SweepError::Empty(name)
        });
    }
    let cuts = cells.iter().any(|cell| cell.settings.fault.cuts_power());
    let no_power_cuts = if cuts { can_cut_power().err() } else { None };
    let limits = cells.iter().any(|cell| cell.settings.memory_limit_bytes.is_some());
    let no_memory_limit = if limits { MemoryGroup::can_be_made().err() } else { None };
    let simulator = contenders.iter().find_map(|(name, it)| Simulator::beside(name, &it.home));
    let simulator = simulator.map(|simulator| Box::new(simulator) as Box<dyn Simulate>);
    Ok(Prepared { workload, text, brokers, contenders, cells, no_power_cuts, no_memory_limit, simulator })
}

/// The brokers that would run and their cells, checked whether or not the brokers are installed.
pub fn brokers_and_cells(options: &Options) -> Result<(Vec<String>, Vec<Cell>), SweepError> {
    let (workload, brokers) = workload(options)?;
    check::drivers(&workload, &options.drivers, &brokers)?;
    let cells = expand(options, &workload, &brokers)?;
    Ok((brokers, cells))
}

fn workload(options: &Options) -> Result<(Workload, Vec<String>), SweepError> {
    let mut workload = Workload::read(&options.workload)?;
    if let Some(seed) = options.seed {
        workload.seed = crate::seed::Seed(seed);
    }
    let brokers = if options.brokers.is_empty() { workload.brokers.clone() } else { options.brokers.clone() };
    Ok((workload, brokers))
}

fn expand(options: &Options, workload: &Workload, brokers: &[String]) -> Result<Vec<Cell>, SweepError> {
    let cells = match options.pairs {
        None => workload.expand(brokers, options.max_repeats),
        Some(pairs) => workload.in_pairs(brokers, pairs),
    };
    Ok(cells.map_err(WorkloadError::from)?)
}

fn contender(options: &Options, driver: Driver) -> Result<Contender, SweepError> {
    let home = absolute(&driver.home(&options.root)?)?;
    let version = version(&driver, &home);
    Ok(Contender { driver, home, version })
}

/// The first line of what the broker says of its version. A broker that says nothing has an unknown one.
fn version(driver: &Driver, home: &Path) -> String {
    let here = PathBuf::from("/");
    let place = Place { home: home.to_owned(), data: here.clone(), work: here, port: 0, port2: 0 };
    let output = driver.version_line(&place).and_then(|line| {
        std::process::Command::new(&line.words[0])
            .args(&line.words[1..])
            .envs(&line.environment)
            .output()
            .ok()
    });
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = said.lines().next().unwrap_or("unknown").trim();
    // Programs like to say their name first, and the report has said it already.
    match line.split_once(' ') {
        Some((name, rest)) if name.eq_ignore_ascii_case(&driver.name) => rest.to_owned(),
        _ => line.to_owned(),
    }
}

/// Runs the sweep, or what is left of it.
pub fn run(options: &Options, prepared: &Prepared, cancel: &Cancel) -> Result<Swept, SweepError> {
    let plan = plan::plan(&prepared.workload, &prepared.cells, &prepared.contenders, &|cell| {
        cell::medium_kind(cell, prepared.no_power_cuts.is_none())
    });
    let (folder, mut sweep) = if options.resume {
        let (folder, before) = unfinished(options, prepared)?;
        let mut sweep = resumed(&plan, before, &machine::commit(&options.root));
        measure_ceilings(options, &plan, &mut sweep, cancel)?;
        folder.save_plan(&sweep)?;
        (folder, sweep)
    } else {
        let new = new_folder(options, prepared)?;
        let mut sweep = begun(options, prepared, &plan, cancel)?;
        measure_ceilings(options, &plan, &mut sweep, cancel)?;
        new.results().save_plan(&sweep)?;
        (new.keep(), sweep)
    };
    let Plan { trials, .. } = plan;
    let mut runner = Runner {
        options,
        prepared,
        folder: &folder,
        progress: Progress::new(trials.len()),
        cancel,
        failures: Vec::new(),
        left_out: Vec::new(),
    };
    // As long as it runs there is nothing to say, and a sweep that is killed never says it.
    sweep.stamp.stopped = runner.run_all(&trials, &mut sweep)?;
    let Runner { failures, left_out, .. } = runner;
    sweep.comparisons = plan::comparisons(&sweep, &trials);
    let to_run = |planned: &&PlannedTrial| !is_done(&sweep, planned);
    let left = trials.iter().filter(to_run).count();
    sweep.stamp.complete = sweep.stamp.stopped.is_none() && left <= left_out.len();
    if !sweep.stamp.complete {
        sweep.stamp.stopped.get_or_insert(Stopped::TriedAll);
    }
    folder.save_plan(&sweep)?;
    folder.save_histograms(&sweep)?;
    Ok(Swept { sweep, folder, failures, left_out })
}

/// Runs one cell by itself; its logs go to `logs`.
pub fn run_cell(
    options: &Options,
    prepared: &Prepared,
    cell: &Cell,
    logs: &Path,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Outcome, CellError> {
    let contender = &prepared.contenders[&cell.broker];
    let bench = Bench {
        driver: &contender.driver,
        home: &contender.home,
        workload: &prepared.workload,
        scratch: &options.scratch,
        logs,
        evidence: options.evidence.as_deref(),
        can_cut_power: prepared.no_power_cuts.is_none(),
        simulator: prepared.simulator.as_deref(),
        driving: options.driving,
        cancel,
        observer,
    };
    cell::run(&bench, cell).map_err(|error| check::blame(error, &prepared.workload, &cell.broker))
}

struct Runner<'a> {
    options: &'a Options,
    prepared: &'a Prepared,
    folder: &'a ResultsDir,
    progress: Progress,
    cancel: &'a Cancel,
    failures: Vec<String>,
    left_out: Vec<String>,
}

impl Runner<'_> {
    /// Runs every trial that is not there yet, or says why it stopped before.
    fn run_all(&mut self, trials: &[PlannedTrial], sweep: &mut Sweep) -> Result<Option<Stopped>, SweepError> {
        let begun = Instant::now();
        let took_before = sweep.stamp.took;
        let mut failed_in_a_row = 0;
        for (index, trial) in trials.iter().enumerate() {
            if is_done(sweep, trial) {
                continue;
            }
            if failed_in_a_row >= GIVE_UP_AFTER {
                return Ok(Some(Stopped::GivenUp { failures: failed_in_a_row }));
            }
            let left =
                trials[index + 1..].iter().filter(|later| !is_done(sweep, later)).map(|later| &later.cell);
            self.progress.begin(index + 1, &trial.cell, left);
            match self.run_one(trial, &sweep.cells[trial.place].plan.id) {
                Ok(outcome) => {
                    self.keep(trial, outcome, sweep)?;
                    failed_in_a_row = 0;
                }
                Err(error) if error.is_interrupted() => return Ok(Some(Stopped::Interrupted)),
                Err(CellError::NeedsSimulation) => {
                    self.progress.end(&trial.cell, "left out");
                    self.left_out.push(trial.cell.title());
                }
                Err(error) => {
                    self.progress.end(&trial.cell, &format!("failed: {error}"));
                    self.failures.push(format!("{} ({}): {error}", trial.cell.title(), trial.cell.id()));
                    self.book(trial, &error, sweep)?;
                    failed_in_a_row += 1;
                }
            }
            sweep.stamp.took = Nanos(took_before.0 + nanos(begun.elapsed()).0);
        }
        Ok(None)
    }

    fn run_one(&self, trial: &PlannedTrial, id: &str) -> Result<Outcome, CellError> {
        let logs = raw_folder(self.folder, id, trial.number);
        run_cell(self.options, self.prepared, &trial.cell, &logs, &self.progress, self.cancel)
    }

    /// Writes down that a trial failed.
    fn book(&self, planned: &PlannedTrial, error: &CellError, sweep: &mut Sweep) -> Result<(), SweepError> {
        let here = self.options.root.display().to_string();
        sweep.failures.push(Failure {
            cell: sweep.cells[planned.place].plan.id.clone(),
            number: planned.number,
            seed: planned.cell.seed.0,
            command: repeat_command(self.options, &planned.cell),
            // Results are shown to others: where this machine keeps its files is no part of them.
            reason: error.to_string().replace(&here, "."),
            after_fault: error.is_after_fault(),
            at: machine::now_rfc3339(),
        });
        Ok(self.folder.save_plan(sweep)?)
    }

    /// Writes what came of a trial, and takes it into the sweep.
    fn keep(&self, planned: &PlannedTrial, outcome: Outcome, sweep: &mut Sweep) -> Result<(), SweepError> {
        self.progress.end(&planned.cell, &said(&outcome));
        let id = sweep.cells[planned.place].plan.id.clone();
        let raw = raw_folder(self.folder, &id, planned.number);
        let details = serde_json::to_vec_pretty(&outcome.details)
            .map_err(|source| StoreError::Json { path: raw.join("details.json"), source })?;
        write(&raw.join("details.json"), &details)?;
        let changed = learn(planned, &outcome, sweep);
        let trial = Trial {
            seed: planned.cell.seed.0,
            command: repeat_command(self.options, &planned.cell),
            load: outcome.load,
            service: outcome.service,
            intended: outcome.intended,
            timeline: outcome.timeline,
            faults: outcome.faults,
            verdict: Some(outcome.verdict),
            window_is_lower_bound: outcome.window_is_lower_bound,
            files: files_of(self.folder.path(), &raw),
        };
        self.folder.save_trial(&id, planned.number, &trial)?;
        sweep.cells[planned.place].trials.push(trial);
        if changed {
            self.folder.save_plan(sweep)?;
        }
        Ok(())
    }
}

/// What a broker really had is known once it has run. True if that is news.
fn learn(planned: &PlannedTrial, outcome: &Outcome, sweep: &mut Sweep) -> bool {
    let cell = &mut sweep.cells[planned.place].plan;
    let effective = plan::properties(outcome.effective.clone());
    let mut changed = cell.effective != effective;
    cell.effective = effective;
    if let Purpose::Fault { contract, .. } = &mut cell.purpose {
        changed |= *contract != outcome.contract;
        *contract = outcome.contract.clone();
    }
    let configuration = sweep.configurations.iter_mut().find(|known| known.id == cell.configuration);
    if let Some(configuration) = configuration {
        changed |= configuration.setting != outcome.setting;
        configuration.setting = outcome.setting;
    }
    changed
}

/// A trial in a line.
#[must_use]
pub fn said(outcome: &Outcome) -> String {
    let verdict = &outcome.verdict;
    let standing = match verdict.standing {
        Standing::Kept => "kept",
        Standing::Broken => "BROKEN",
    };
    // With acks=0 nothing is acknowledged; what was sent counts.
    let sent = verdict.cells.sent.total();
    let (records, word, lost) = if sent > 0 {
        (sent, "sent", verdict.losses.sent_absent)
    } else {
        (verdict.losses.at_stake(), "acknowledged", verdict.losses.records + verdict.losses.unreadable)
    };
    let speed = if outcome.load.is_measured() {
        format!("{:.1} MB/s", outcome.load.bytes_per_second() / 1e6)
    } else {
        "simulated".to_owned()
    };
    let sustained = if outcome.load.is_sustained() { "" } else { " (not sustained)" };
    let (records, lost) = (exact(records), exact(lost));
    let ended = verdict.violations.iter().find_map(answer::how_it_ended);
    let ended = ended.map_or_else(String::new, |how| format!("; {how}"));
    format!("{standing}, {records} {word}, {lost} lost, {speed}{sustained}{ended}")
}

/// Whether nothing is left to do for a trial: it has its verdict, or it failed where it may not be tried again.
fn is_done(sweep: &Sweep, planned: &PlannedTrial) -> bool {
    let (cell, seed) = (&sweep.cells[planned.place], planned.cell.seed.0);
    let is_final =
        |failure: &Failure| failure.after_fault && failure.seed == seed && failure.cell == cell.plan.id;
    cell.trials.iter().any(|trial| trial.seed == seed) || sweep.failures.iter().any(is_final)
}

/// Where the raw files of a trial are.
fn raw_folder(folder: &ResultsDir, cell: &str, number: usize) -> PathBuf {
    folder.path().join("cells").join(cell).join(format!("trial-{number:04}"))
}

fn files_of(folder: &Path, raw: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(raw).into_iter().flatten().flatten();
    let mut files: Vec<String> = entries
        .filter_map(|entry| Some(entry.path().strip_prefix(folder).ok()?.to_string_lossy().into_owned()))
        .collect();
    files.sort();
    files
}

/// The command that runs one cell again.
#[must_use]
pub fn repeat_command(options: &Options, cell: &Cell) -> String {
    let seed = options.seed.map(|seed| format!(" --seed {seed}")).unwrap_or_default();
    let brokers = match options.pairs {
        None => format!(" --broker {}", cell.broker),
        // Which pairs there are depends on all brokers that take part: the first is compared with the others.
        Some(Pairs { pairs, noise }) => {
            let brokers = options.brokers.iter().map(|name| format!(" --broker {name}"));
            format!("{} --pairs {pairs}{}", brokers.collect::<String>(), if noise { " --noise" } else { "" })
        }
    };
    format!("highwater-bench cell {} {}{brokers}{seed}", options.workload.display(), cell.id())
}

fn begun(options: &Options, prepared: &Prepared, plan: &Plan, cancel: &Cancel) -> Result<Sweep, SweepError> {
    let stamp = Stamp {
        title: prepared.workload.name.clone(),
        started_at: machine::now_rfc3339(),
        took: Nanos(0),
        seed: prepared.workload.seed.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: machine::commit(&options.root),
        command: options.command.clone(),
        planned: Some(plan.trials.len() as u64),
        pairs: options.pairs,
        complete: false,
        stopped: None,
    };
    Ok(Sweep {
        stamp,
        environment: environment(options, cancel)?,
        configurations: plan.configurations.clone(),
        comparisons: Vec::new(),
        cells: plan.cells.clone(),
        failures: Vec::new(),
    })
}

fn environment(options: &Options, cancel: &Cancel) -> Result<Environment, SweepError> {
    let scratch = Scratch::create(&options.scratch)?;
    let floor = calibrate::device_floor(scratch.path(), CALIBRATION, cancel)?;
    let mut environment = machine::environment(scratch.path(), floor);
    environment.tunables.push(Property { name: "client".to_owned(), value: options.driving.to_string() });
    Ok(environment)
}

/// Measures the client's own ceiling for each configuration whose speed is measured, once for all that give the client
/// the same settings. What a sweep that is resumed has measured before is not measured again.
fn measure_ceilings(
    options: &Options,
    plan: &Plan,
    sweep: &mut Sweep,
    cancel: &Cancel,
) -> Result<(), SweepError> {
    let driver = Driver::read(&options.drivers, STAND_IN)?;
    for place in 0..sweep.configurations.len() {
        let configuration = &sweep.configurations[place];
        let of = |trial: &&PlannedTrial| {
            trial.cell.settings.fault == Fault::None
                && plan.cells[trial.place].plan.configuration == configuration.id
        };
        let Some(like) = plan.trials.iter().find(of) else { continue };
        if configuration.client_ceiling.is_some() {
            continue;
        }
        let same = |other: &&Configuration| {
            other.client_ceiling.is_some()
                && crate::results::Workload { cold: false, ..other.workload.clone() }
                    == crate::results::Workload { cold: false, ..configuration.workload.clone() }
                && other.producer_properties == configuration.producer_properties
        };
        let known = sweep.configurations.iter().find(same).and_then(|other| other.client_ceiling);
        let ceiling = match known {
            Some(ceiling) => ceiling,
            None => {
                let measured =
                    ceiling::client_ceiling(&driver, &like.cell, options.driving, &options.scratch, cancel);
                match measured {
                    Ok(ceiling) => ceiling,
                    Err(error) if error.is_interrupted() => return Err(Interrupted.into()),
                    Err(error) => {
                        eprintln!("The client's own ceiling is not known: {error}");
                        return Ok(());
                    }
                }
            }
        };
        sweep.configurations[place].client_ceiling = Some(ceiling);
        sweep.environment.client_ceiling.get_or_insert(ceiling);
    }
    Ok(())
}

/// The plan with what was measured before. What a broker was seen to have stays known; a harness that changed meanwhile
/// is said.
fn resumed(plan: &Plan, before: Sweep, commit: &str) -> Sweep {
    let mut sweep =
        Sweep { configurations: plan.configurations.clone(), cells: plan.cells.clone(), ..before };
    sweep.stamp.stopped = None;
    sweep.stamp.planned = Some(plan.trials.len() as u64);
    if !sweep.stamp.commit.ends_with(commit) {
        sweep.stamp.commit = format!("{}, resumed with {commit}", sweep.stamp.commit);
    }
    for cell in &mut sweep.cells {
        if let Some(known) = before.cells.iter().find(|known| known.plan.id == cell.plan.id) {
            *cell = known.clone();
        }
    }
    for configuration in &mut sweep.configurations {
        if let Some(known) = before.configurations.iter().find(|known| known.id == configuration.id) {
            configuration.setting = known.setting;
            configuration.client_ceiling = known.client_ceiling;
        }
    }
    sweep
}

/// A new folder `results/DATE-NAME`, with the workload and the drivers that it is made with.
fn new_folder(options: &Options, prepared: &Prepared) -> Result<NewFolder, SweepError> {
    let now = machine::now_rfc3339();
    let date = now.split('T').next().unwrap_or_default();
    let new = NewFolder::make(&options.results, &format!("{date}-{}", prepared.workload.name))?;
    fill(&new.path, options, prepared)?;
    Ok(new)
}

fn fill(folder: &Path, options: &Options, prepared: &Prepared) -> Result<(), SweepError> {
    let results = |source| SweepError::Results { path: folder.to_owned(), source };
    std::fs::create_dir(folder.join("brokers")).map_err(results)?;
    std::fs::write(folder.join("workload.toml"), &prepared.text).map_err(results)?;
    for name in &prepared.brokers {
        let file = format!("{name}.toml");
        let text = read(&options.drivers.join(&file))?;
        std::fs::write(folder.join("brokers").join(&file), text).map_err(results)?;
    }
    Ok(())
}

/// The newest folder of this workload that is not complete.
fn unfinished(options: &Options, prepared: &Prepared) -> Result<(ResultsDir, Sweep), SweepError> {
    let name = &prepared.workload.name;
    let nothing = || SweepError::NothingToResume { results: options.results.clone(), name: name.clone() };
    let entries = std::fs::read_dir(&options.results).map_err(|_| nothing())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let modified =
        |path: &PathBuf| std::fs::metadata(path.join("sweep.json")).and_then(|file| file.modified()).ok();
    paths.sort_by_key(|path| std::cmp::Reverse(modified(path)));
    for path in paths {
        let folder = ResultsDir::new(&path);
        let Ok(sweep) = folder.load() else { continue };
        let is_other = sweep.stamp.title != *name
            || sweep.stamp.seed != prepared.workload.seed.0
            || sweep.stamp.pairs != options.pairs;
        if sweep.stamp.complete || is_other {
            continue;
        }
        if read(&path.join("workload.toml"))? != prepared.text {
            return Err(SweepError::Changed { path: options.workload.clone(), folder: path });
        }
        return Ok((folder, sweep));
    }
    Err(nothing())
}

fn read(path: &Path) -> Result<String, SweepError> {
    std::fs::read_to_string(path).map_err(|source| SweepError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SweepError> {
    let io = |source| SweepError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    std::fs::write(path, bytes).map_err(io)
}

fn absolute(path: &Path) -> Result<PathBuf, SweepError> {
    std::path::absolute(path).map_err(|source| SweepError::Io { path: path.to_owned(), source })
}

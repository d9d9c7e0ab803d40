//! The results on disk.
//!
//! ```text
//! DIR/
//!   sweep.json                     stamp, environment, configurations, comparisons, order of cells, failures
//!   cells/<cell>/cell.json         the plan of a cell
//!   cells/<cell>/trial-0007.json   one trial, written when it ended
//!   cells/<cell>/trial-0007/       what else is kept of it: details.json, and the broker's broker.log and prepare.log
//!   histograms/<cell>.intended.hgrm, <cell>.service.hgrm
//!   report.html
//!   table.txt                      the same in short, as the terminal shows it
//!   workload.toml, brokers/<broker>.toml   copies of what the sweep was begun with
//! ```
//!
//! A simulated trial has no logs. [`ResultsDir`] writes the JSON files of the first three lines, the histograms and the
//! report, each under a temporary name and then renamed, so that a reader sees whole files only; the others, which nothing
//! is computed from (`--resume` compares the workload), are written by [`crate::sweep`], [`crate::cell`] and the command
//! line as they are. These are results, not records: they are not flushed.

use super::{Cell, CellPlan, Comparison, Configuration, Environment, Failure, SCHEMA, Stamp, Sweep, Trial};
use crate::results::summary;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The results cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// Written by another version of the harness.
    #[error("{path}: schema {found}, this version reads {SCHEMA}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// A cell names a configuration that the sweep does not have, or an id is no file name.
    #[error("{path}: {what}")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
}

/// `sweep.json`.
#[derive(Serialize, Deserialize)]
struct SweepFile {
    schema: u32,
    stamp: Stamp,
    environment: Environment,
    configurations: Vec<Configuration>,
    comparisons: Vec<Comparison>,
    cells: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Failure>,
}

/// The directory of one sweep.
#[derive(Clone, Debug)]
pub struct ResultsDir {
    path: PathBuf,
}

impl ResultsDir {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the report is.
    #[must_use]
    pub fn report_path(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Writes everything but the trials, which [`Self::save_trial`] writes one by one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_plan(&self, sweep: &Sweep) -> Result<(), StoreError> {
        for id in
            sweep.cells.iter().map(|cell| &cell.plan.id).chain(sweep.configurations.iter().map(|c| &c.id))
        {
            self.check_id(id)?;
        }
        for cell in &sweep.cells {
            self.write_json(&self.cell_dir(&cell.plan.id).join("cell.json"), &cell.plan)?;
        }
        let file = SweepFile {
            schema: SCHEMA,
            stamp: sweep.stamp.clone(),
            environment: sweep.environment.clone(),
            configurations: sweep.configurations.clone(),
            comparisons: sweep.comparisons.clone(),
            cells: sweep.cells.iter().map(|cell| cell.plan.id.clone()).collect(),
            failures: sweep.failures.clone(),
        };
        self.write_json(&self.path.join("sweep.json"), &file)
    }

    /// Writes one trial of a cell, by its number from 0.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_trial(&self, cell: &str, number: usize, trial: &Trial) -> Result<(), StoreError> {
        self.check_id(cell)?;
        self.write_json(&self.cell_dir(cell).join(format!("trial-{number:04}.json")), trial)
    }

    /// Writes the merged histograms of every cell that has any.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_histograms(&self, sweep: &Sweep) -> Result<(), StoreError> {
        for cell in &sweep.cells {
            for (kind, latency) in
                [("intended", summary::intended(cell)), ("service", summary::service(cell))]
            {
                if latency.is_empty() {
                    continue;
                }
                let path = self.path.join(histogram_file(&cell.plan.id, kind));
                let mut text = Vec::new();
                latency
                    .write_hgrm(&mut text)
                    .map_err(|source| StoreError::Io { path: path.clone(), source })?;
                self.write(&path, &text)?;
            }
        }
        Ok(())
    }

    /// Writes the report.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_report(&self, html: &str) -> Result<PathBuf, StoreError> {
        let path = self.report_path();
        self.write(&path, html.as_bytes())?;
        Ok(path)
    }

    /// Reads the sweep with all trials that have ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self) -> Result<Sweep, StoreError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let path = self.path.join("sweep.json");
        let Version { schema } = read_json(&path)?;
        if schema != SCHEMA {
            return Err(StoreError::Schema { path, found: schema });
        }
        let SweepFile { stamp, environment, configurations, comparisons, cells, failures, .. } =
            read_json(&path)?;
        let cells = cells.iter().map(|id| self.load_cell(id, &configurations)).collect::<Result<_, _>>()?;
        Ok(Sweep { stamp, environment, configurations, comparisons, cells, failures })
    }

    fn load_cell(&self, id: &str, configurations: &[Configuration]) -> Result<Cell, StoreError> {
        self.check_id(id)?;
        let path = self.cell_dir(id).join("cell.json");
        let plan: CellPlan = read_json(&path)?;
        if plan.id != id || !configurations.iter().any(|known| known.id == plan.configuration) {
            let what =
                format!("cell {} of configuration {} does not belong here", plan.id, plan.configuration);
            return Err(StoreError::Inconsistent { path, what });
        }
        let trials = self.trial_paths(id)?.iter().map(|path| read_json(path)).collect::<Result<_, _>>()?;
        Ok(Cell { plan, trials })
    }

    fn trial_paths(&self, cell: &str) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.cell_dir(cell);
        let failed = |source| StoreError::Io { path: dir.clone(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("trial-") && name.ends_with(".json") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn cell_dir(&self, id: &str) -> PathBuf {
        self.path.join("cells").join(id)
    }

    /// Ids are parts of file names, and of links in the page.
    fn check_id(&self, id: &str) -> Result<(), StoreError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if !id.is_empty() && !id.starts_with('.') && id.bytes().all(plain) {
            return Ok(());
        }
        let what = format!("the id {id:?} must be lower case letters, digits, dots, hyphens and underscores");
        Err(StoreError::Inconsistent { path: self.path.clone(), what })
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let json =
            serde_json::to_vec(value).map_err(|source| StoreError::Json { path: path.to_owned(), source })?;
        self.write(path, &json)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io { path: path.to_owned(), source };
        let dir = path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, bytes).map_err(failed)?;
        std::fs::rename(&temporary, path).map_err(failed)
    }
}

/// Where a cell's histogram is, below the sweep's directory; `kind` is `intended` or `service`.
#[must_use]
pub fn histogram_file(cell: &str, kind: &str) -> String {
    format!("histograms/{cell}.{kind}.hgrm")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = std::fs::read(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Json { path: path.to_owned(), source })
}

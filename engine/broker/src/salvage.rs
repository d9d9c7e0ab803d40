//! `highwater salvage`: gives fenced partitions of a directory that no broker uses their way out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use highwater_io::Io;
use highwater_log::OpenError;
use highwater_log::salvage::{Plan, Selection, plan, salvage};

use crate::offline;

pub(crate) const EXAMPLES: &str = "\
Examples:
  highwater salvage /var/lib/highwater                              (list what would be given up)
  highwater salvage /var/lib/highwater --yes
  highwater salvage /var/lib/highwater --partition orders-3 --yes

A partition that is damaged in a segment and not fenced (highwater verify names it) is salvaged if
--partition names it. What is cut off lies in DIR/salvaged/: pieces of segments as they were, and
records that only the journal had, in Kafka's format. Delete it when it is not needed any more.";

#[derive(Debug, Args)]
pub(crate) struct Salvage {
    /// The data directory (log.dirs).
    dir: PathBuf,
    /// A partition, as its directory is named. Can be given several times. [default: every fenced one]
    #[arg(long, value_name = "TOPIC-N")]
    partition: Vec<String>,
    /// Only list what would be given up: the default.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Copy aside what is listed, cut the logs, lift the fences.
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: Salvage) -> Result<ExitCode> {
    let Salvage { dir, partition, yes, dry_run: _ } = arguments;
    let dir = std::path::absolute(dir)?;
    let selection = if partition.is_empty() { Selection::Fenced } else { Selection::Named(partition) };
    let shown = dir.display().to_string();
    let outcome = offline::run((dir, selection, yes), |io, state| async move {
        let (dir, selection, yes) = state;
        act(&io, &dir, &selection, yes).await
    })?;
    // The error's own text names what it came from.
    let plan = outcome.map_err(|error| anyhow!("cannot salvage {shown}: {error}"))?;
    print!("{plan}");
    println!("{}", last_line(&plan, yes));
    let is_done = plan.left.is_empty() && (yes || plan.is_empty());
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn act(io: &Io, dir: &Path, selection: &Selection, yes: bool) -> Result<Plan, OpenError> {
    if yes { salvage(io, dir, selection).await } else { plan(io, dir, selection).await }
}

fn last_line(plan: &Plan, yes: bool) -> String {
    let aside = plan.side_dir.display();
    match plan.partitions.len() {
        0 => "nothing to salvage".to_owned(),
        count if yes => format!("{count} salvaged; what was cut off, and the list, is in {aside}"),
        count => format!(
            "{count} to salvage; nothing was changed: --yes does it, and copies what is cut off to {aside}"
        ),
    }
}

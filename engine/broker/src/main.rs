//! The `highwater` command.

mod doctor;
mod offline;
mod salvage;
mod verify;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use highwater_broker::config::{BrokerConfig, known_settings, parse_host_port, parse_properties};
use highwater_broker::{Broker, Signals};
use highwater_cluster::config::ConfigDef;
use highwater_cluster::config::broker::{BROKER_CONFIGS, UpdateMode};
use highwater_cluster::config::effective::StaticConfig;
use highwater_cluster::config::topic::TOPIC_CONFIGS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

/// A message broker that speaks the Apache Kafka protocol.
///
/// Every acknowledged message survives power loss unless the broker or a topic says otherwise
/// (log.flush.interval.messages, flush.messages).
#[derive(Debug, Parser)]
#[command(name = "highwater", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker until SIGTERM or SIGINT.
    ///
    /// The first signal stops it cleanly: accepted requests are answered (within shutdown.drain.timeout.ms), logs are
    /// closed, the data directory is marked clean. A second one, 100 ms later or more, ends it at once; the next start then
    /// recovers. Exits with status 1 if it did not start or did not stop cleanly.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Check a data directory that no broker uses: checksums of journal and segments, offsets, indexes.
    ///
    /// Changes nothing. Exits with status 1 if something is damaged, and says where (file, byte, offsets), or if the
    /// directory cannot be checked, and says why.
    Verify {
        /// The data directory (log.dirs).
        dir: PathBuf,
    },
    /// Give fenced partitions of a data directory that no broker uses their way out, and list what that gives up.
    ///
    /// Each log is cut to what is intact and takes appends again, in a new leader epoch. Without --yes nothing is touched:
    /// the list is what counts. What is cut off is copied aside first. May be run again after it was interrupted. Restore
    /// the partition from a copy instead, if there is one.
    ///
    /// Exits with status 0 if no partition is fenced or all that were are salvaged, with 1 if one is left fenced (without
    /// --yes, or since it was not named), or if nothing can be done, and says why.
    #[command(after_help = salvage::EXAMPLES)]
    Salvage(salvage::Salvage),
    /// Tell how a broker would run on a data directory, and why: driver, direct I/O, device, limits.
    ///
    /// Measures the device for about two seconds with a file that it removes (at most 160 MiB), and looks at what is in the
    /// directory, if no broker uses it. Nothing else is changed. Exits with status 1 if something needs attention: durable
    /// acks that may not be durable, fenced partitions, a directory that cannot be used.
    Doctor {
        /// The data directory (log.dirs), or the one in which it will be made.
        dir: PathBuf,
    },
    /// List every setting of a broker or a topic: type, default, what it means.
    Settings(Settings),
}

const SERVE_EXAMPLES: &str = "\
Settings have Kafka's names; `highwater settings` lists them. What --set gives counts more than what the file gives.

Examples:
  highwater serve --data-dir /var/lib/highwater
  highwater serve --data-dir ./data --listen 127.0.0.1:0 --set num.partitions=4
  highwater serve --config server.properties
  highwater serve --data-dir ./data --set log.flush.interval.messages=9223372036854775807
      (as Kafka by default: an ack does not wait for a flush)

The log goes to stderr; RUST_LOG chooses what is in it (error, warn, info, debug, trace).";

#[derive(Debug, Args)]
struct Serve {
    /// Directory that holds the data (log.dirs). Created if it does not exist. Can be given several times, or as a list with
    /// commas: if one fails, the others are served on. The first has the metadata log, unless metadata.log.dir says otherwise.
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    data_dir: Vec<PathBuf>,
    /// Address to listen on (listeners). Port 0 takes a free one, which the log tells. [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// File with settings, in Kafka's properties format.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting, by Kafka's name. Can be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// A lie to tell, so that a checker proves that it notices. Can be given several times.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Vec<String>,
}

#[derive(Debug, Args)]
struct Settings {
    /// Settings of topics instead of the broker's.
    #[arg(long)]
    topic: bool,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(serve) => run_broker(&serve).map(|()| ExitCode::SUCCESS),
        Command::Verify { dir } => verify::run(&dir),
        Command::Salvage(arguments) => salvage::run(arguments),
        Command::Doctor { dir } => doctor::run(&dir),
        Command::Settings(settings) => {
            print!("{}", reference(settings.topic));
            Ok(ExitCode::SUCCESS)
        }
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            eprintln!("highwater: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_broker(serve: &Serve) -> Result<()> {
    #[cfg(feature = "mutants")]
    enable_mutants(&serve.mutant)?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let mut config = BrokerConfig::from_settings(settings_of(serve)?)?;
    let tell_open_files = raise_open_files();
    leave_descriptors_to_logs(&mut config);
    let broker = Broker::start_with(&config, Signals::Stop)?;
    tell_open_files();
    Ok(broker.wait()?)
}

/// Lets the process open as many files as it may: each connection and each segment that is used takes one, and the limit
/// that a shell gives is for programs that use select(2). Gives what came of it, to be told once the broker runs.
fn raise_open_files() -> impl FnOnce() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = if current == maximum {
        Ok(())
    } else {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    };
    let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    move || match raised {
        Ok(()) => tracing::info!(limit = text(maximum), before = text(current), "open files"),
        Err(error) => {
            tracing::warn!(limit = text(current), %error, "the limit of open files cannot be raised");
        }
    }
}

/// Connections take at most half of the descriptors that the process may have, and segments that stay open a quarter: whoever
/// may connect must not be able to keep the logs from opening theirs.
fn leave_descriptors_to_logs(config: &mut BrokerConfig) {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let most = usize::try_from(limit / 2).unwrap_or(usize::MAX).max(1);
    let wanted = config.network.max_connections;
    if wanted > most {
        tracing::warn!(
            limit,
            "max.connections={wanted} is more than half of the limit of open files: at most {most} connections are taken \
             (LimitNOFILE, ulimit -n)"
        );
        config.network.max_connections = most;
    }
    // Segments of which more would be open than there may be are closed in time, so that nobody need be warned.
    let shares = config.num_shards.max(1) * (config.log_dirs.len() + 1);
    let share = usize::try_from(limit / 4).unwrap_or(usize::MAX) / shares;
    config.shard.max_open_segments = config.shard.max_open_segments.min(share.max(1));
}

#[cfg(feature = "mutants")]
fn enable_mutants(names: &[String]) -> Result<()> {
    use highwater_log::mutants::{ALL, enable_globally};
    for name in names {
        let known = || ALL.iter().map(|mutant| mutant.name).collect::<Vec<_>>().join(", ");
        let mutant = ALL.iter().find(|mutant| mutant.name == name);
        let mutant = mutant.with_context(|| format!("there is no mutant {name}, only {}", known()))?;
        enable_globally(*mutant);
    }
    Ok(())
}

/// The file's settings, then `--data-dir` and `--listen`, then `--set`.
fn settings_of(serve: &Serve) -> Result<StaticConfig> {
    let mut settings = match &serve.config {
        Some(path) => read_properties(path)?,
        None => StaticConfig::new(),
    };
    if !serve.data_dir.is_empty() {
        let mut dirs = Vec::new();
        for dir in &serve.data_dir {
            let dir = std::path::absolute(dir).context("--data-dir")?;
            dirs.push(dir.to_str().context("--data-dir must be UTF-8")?.to_owned());
        }
        settings.insert("log.dirs".to_owned(), dirs.join(","));
    }
    if let Some(listen) = &serve.listen {
        let address = parse_host_port(listen)
            .with_context(|| format!("--listen {listen} is not HOST:PORT, such as 127.0.0.1:9092"))?;
        settings.insert("listeners".to_owned(), format!("PLAINTEXT://{address}"));
    }
    for setting in &serve.set {
        let Some((name, value)) = setting.split_once('=') else {
            bail!("--set {setting} is not NAME=VALUE");
        };
        settings.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(settings)
}

fn read_properties(path: &Path) -> Result<StaticConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let settings = parse_properties(&text).with_context(|| path.display().to_string())?;
    let (settings, left_out) = known_settings(settings).with_context(|| path.display().to_string())?;
    left_out.iter().for_each(|what| tracing::warn!("{}: {what}", path.display()));
    Ok(settings)
}

/// The settings as a table in Markdown.
fn reference(of_topics: bool) -> String {
    let mut out = String::from("| Setting | Type | Default | Change | Meaning |\n|---|---|---|---|---|\n");
    let mut row = |def: &ConfigDef, change: &str| {
        let default = def.default.unwrap_or("none");
        let default = if default.is_empty() { "empty" } else { default };
        let (name, ty, doc) = (def.name, def.ty.to_string().to_lowercase(), def.doc);
        out.push_str(&format!("| `{name}` | {ty} | {default} | {change} | {doc} |\n"));
    };
    if of_topics {
        TOPIC_CONFIGS.iter().for_each(|config| row(&config.def, "live"));
    } else {
        for config in BROKER_CONFIGS {
            let change = match config.update {
                UpdateMode::ReadOnly => "restart",
                UpdateMode::Dynamic => "live",
            };
            row(&config.def, change);
        }
    }
    out
}

//! One running broker, in a process group of its own, which never outlives its owner.
//!
//! The group is what is signalled and what CPU time is summed over, so that a start script may have children. Ctrl-C
//! in the terminal does not reach it: the harness stops it in order. If the harness itself is killed, the kernel kills
//! the broker (`setpriv --pdeathsig`, where the machine has it; it ends with the thread that started the broker).

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::admin::{self, LATEST, Readiness};
use super::driver::{Driver, Line, Place, Plan};
use super::memory::MemoryGroup;
use super::wire::Connection;
use crate::cancel::{Cancel, Interrupted};

/// Between two looks at whether a broker is ready or gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How long one look may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of a broker's own log that an error quotes.
const QUOTED_LINES: usize = 12;
/// So many of the last of them are shown where there is room for one line only, and so many characters of each.
const LAST_LINES: usize = 3;
const SHOWN_OF_A_LINE: usize = 200;
/// A process that was killed is gone within this time, or stuck in the kernel.
const KILL_WITHIN: Duration = Duration::from_secs(20);

/// Why a broker does not run. The first line says all that fits into one, the end of the broker's log included, since
/// tables show no more; the log itself is quoted by name and not by path, for it is moved when the cell ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// A command cannot be started at all.
    #[error("{program} cannot be started: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A command that makes a data directory failed.
    #[error("`{command}` failed ({status}){}{}", last_of(quoted), end(log, quoted))]
    Prepare {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Where its output is.
        log: PathBuf,
        /// The end of it.
        quoted: String,
    },
    /// The broker ended by itself.
    #[error("the broker ended by itself ({status}){}{}", last_of(quoted), end(log, quoted))]
    Ended {
        /// How.
        status: ExitStatus,
        /// Where its output is.
        log: PathBuf,
        /// The end of it.
        quoted: String,
    },
    /// The broker runs and does not answer.
    #[error("the broker was not ready within {within:?} ({last}){}{}", last_of(quoted), end(log, quoted))]
    NotReady {
        /// How long it was given.
        within: Duration,
        /// What the last look gave.
        last: String,
        /// Where its output is.
        log: PathBuf,
        /// The end of it.
        quoted: String,
    },
    /// The broker does not die.
    #[error("process group {group} is still there {within:?} after SIGKILL")]
    Undead {
        /// The group.
        group: i32,
        /// How long it was given.
        within: Duration,
    },
    /// A file or process of the broker cannot be reached.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl BrokerError {
    /// What the broker itself did wrong, in one line without paths: it ended, or it does not answer. `None` for what
    /// the harness or the machine did.
    #[must_use]
    pub fn of_the_broker(&self) -> Option<String> {
        match self {
            BrokerError::Ended { status, quoted, .. } => {
                Some(format!("the broker ended by itself ({status}){}", last_of(quoted)))
            }
            BrokerError::NotReady { within, last: seen, quoted, .. } => {
                Some(format!("the broker was not ready within {within:?} ({seen}){}", last_of(quoted)))
            }
            _ => None,
        }
    }
}

/// The last lines of a log in one.
fn last_of(quoted: &str) -> String {
    let lines: Vec<&str> = quoted.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let shown: Vec<String> = last.iter().map(|line| line.chars().take(SHOWN_OF_A_LINE).collect()).collect();
    if shown.is_empty() {
        "; its log is empty".to_owned()
    } else {
        format!("; its log ends: {}", shown.join(" | "))
    }
}

/// More of the log, on lines of its own, where there is more than [`last_of`] shows.
fn end(log: &Path, quoted: &str) -> String {
    let name = log.file_name().unwrap_or_default().display();
    if quoted.lines().count() > 1 { format!("\nthe end of {name}:\n{quoted}") } else { String::new() }
}

/// What a broker has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of its processes.
    pub cpu: Duration,
    /// Most memory resident at once.
    pub peak_rss_bytes: u64,
    /// Memory resident now.
    pub rss_bytes: u64,
    /// Bytes that its processes had the devices write, or left dirty in the page cache.
    pub written_bytes: u64,
}

/// A broker's files and commands, to be started as often as wanted on the same data.
#[derive(Debug)]
pub struct Installed {
    plan: Plan,
    place: Place,
    ready_within: Duration,
    stop_within: Duration,
    stop_signal: Signal,
    memory: Option<MemoryGroup>,
}

/// A started broker. Dropping it kills it.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    group: Pid,
    address: SocketAddr,
    log: PathBuf,
    ready_within: Duration,
    stop_within: Duration,
    stop_signal: Signal,
    gone: bool,
}

impl Installed {
    /// Writes the configuration and prepares the data directory, which must be empty.
    pub fn prepare(
        driver: &Driver,
        place: Place,
        settings: &admin::Settings,
        cancel: &Cancel,
    ) -> Result<Self, BrokerError> {
        let plan = driver.plan(&place, settings);
        if let Some((path, content)) = &plan.config {
            std::fs::write(path, content).map_err(|source| BrokerError::Io { path: path.clone(), source })?;
        }
        let installed = Installed {
            plan,
            place,
            ready_within: driver.ready_within,
            stop_within: driver.stop_within,
            stop_signal: driver.stop_signal,
            memory: None,
        };
        for line in &installed.plan.prepare {
            installed.run(line, cancel)?;
        }
        Ok(installed)
    }

    /// Whenever it is started from now on, it is in `group`.
    #[must_use]
    pub fn within(self, group: Option<MemoryGroup>) -> Self {
        Installed { memory: group, ..self }
    }

    /// How much memory it may have, page cache included, where that is limited.
    #[must_use]
    pub fn memory_limit_bytes(&self) -> Option<u64> {
        self.memory.as_ref().map(MemoryGroup::limit_bytes)
    }

    /// Where it lives.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.port))
    }

    /// Starts the broker; its output is appended to `broker.log` in the work directory.
    pub fn start(&self) -> Result<Broker, BrokerError> {
        let log = self.place.work.join("broker.log");
        let wrapper = self.memory.as_ref().map(MemoryGroup::wrapper).unwrap_or_default();
        let child = spawn(wrapper, &self.plan.start, &self.place.work, &log)?;
        Ok(Broker {
            group: Pid::from_child(&child),
            child,
            address: self.address(),
            log,
            ready_within: self.ready_within,
            stop_within: self.stop_within,
            stop_signal: self.stop_signal,
            gone: false,
        })
    }

    fn run(&self, line: &Line, cancel: &Cancel) -> Result<(), BrokerError> {
        let log = self.place.work.join("prepare.log");
        let mut child = Group(spawn(Vec::new(), line, &self.place.work, &log)?);
        loop {
            if let Some(status) = child.0.try_wait().map_err(|source| io(&log, source))? {
                if status.success() {
                    return Ok(());
                }
                return Err(BrokerError::Prepare {
                    command: line.words.join(" "),
                    status,
                    quoted: end_of(&log),
                    log,
                });
            }
            cancel.wait(LOOK_INTERVAL)?;
        }
    }
}

/// A child whose group is killed when it is dropped; harmless once it has been waited for.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// Starts `line`, behind the words of `wrapper` if there are any.
fn spawn(wrapper: Vec<String>, line: &Line, directory: &Path, log: &Path) -> Result<Child, BrokerError> {
    let out = File::options().create(true).append(true).open(log).map_err(|source| io(log, source))?;
    let err = out.try_clone().map_err(|source| io(log, source))?;
    let [program, arguments @ ..] = line.words.as_slice() else {
        unreachable!("the parser refuses empty commands")
    };
    let mut words: Vec<OsString> = wrapper.into_iter().map(OsString::from).collect();
    if let Some(guard) = guard() {
        words.push(guard.into());
        words.extend(["--pdeathsig", "KILL", "--"].map(OsString::from));
    }
    words.push(program.into());
    Command::new(&words[0])
        .args(&words[1..])
        .args(arguments)
        .envs(&line.environment)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|source| BrokerError::Spawn { program: program.clone(), source })
}

fn guard() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join("setpriv")).find(|path| path.is_file())
}

impl Broker {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id, which is its group's.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Waits until the broker answers and, with a topic, all its `partitions` have a leader. Gives the broker's id.
    pub fn wait_ready(&mut self, topic: Option<(&str, i32)>, cancel: &Cancel) -> Result<i32, BrokerError> {
        let deadline = Instant::now() + self.ready_within;
        loop {
            let last = match self.look(topic) {
                Ok(id) => return Ok(id),
                Err(not_ready) => not_ready,
            };
            self.check_alive()?;
            if Instant::now() >= deadline {
                let quoted = end_of(&self.log);
                return Err(BrokerError::NotReady {
                    within: self.ready_within,
                    last,
                    log: self.log.clone(),
                    quoted,
                });
            }
            cancel.wait(LOOK_INTERVAL)?;
        }
    }

    /// Whether it answers at all, ready or not.
    #[must_use]
    pub fn answers(&self) -> bool {
        !self.gone && self.look(None).is_ok()
    }

    /// The broker's id if it is ready, or what is missing. A broker may announce leaders before it leads: only the log
    /// ends of all partitions prove that it does.
    fn look(&self, topic: Option<(&str, i32)>) -> Result<i32, String> {
        let shown = |error: &dyn std::error::Error| error.to_string();
        let mut connection = Connection::open(self.address, PROBE_TIMEOUT).map_err(|error| shown(&error))?;
        let readiness = admin::readiness(&mut connection, topic.map(|(name, _)| name));
        let Readiness { broker_id, led_partitions } = readiness.map_err(|error| shown(&error))?;
        let Some(id) = broker_id else { return Err("it knows of no live broker".to_owned()) };
        let Some((name, partitions)) = topic else { return Ok(id) };
        if led_partitions != usize::try_from(partitions).unwrap_or(usize::MAX) {
            return Err(format!("{led_partitions} of {partitions} partitions have a leader"));
        }
        admin::list_offsets(&mut connection, name, partitions, 0, LATEST).map_err(|error| shown(&error))?;
        Ok(id)
    }

    /// An error if the broker has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), BrokerError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                self.gone = true;
                Err(BrokerError::Ended { status, log: self.log.clone(), quoted: end_of(&self.log) })
            }
            Err(source) => Err(io(&self.log, source)),
        }
    }

    /// How the broker ended by itself, if it does `within` that time: a dying process closes its sockets first.
    pub fn wait_ended(&mut self, within: Duration) -> Option<BrokerError> {
        let deadline = Instant::now() + within;
        loop {
            if let Err(error) = self.check_alive() {
                return Some(error);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// SIGKILL to the whole group, and no wait: a process whose I/O hangs dies later.
    pub fn strike(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGKILL to the whole group, and waits until the broker is gone.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        self.signal(Signal::KILL);
        if self.wait_gone(KILL_WITHIN)?.is_some() {
            return Ok(());
        }
        Err(BrokerError::Undead { group: self.id(), within: KILL_WITHIN })
    }

    /// Stops the broker cleanly; kills it if it takes too long, which the answer tells.
    pub fn stop(mut self) -> Result<Stopped, BrokerError> {
        self.signal(self.stop_signal);
        let within = self.stop_within;
        match self.wait_gone(within)? {
            Some(status) if status.signal() == Some(Signal::KILL.as_raw()) => Ok(Stopped::Killed),
            Some(_) => Ok(Stopped::Cleanly),
            None => {
                self.kill()?;
                Ok(Stopped::Killed)
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if !self.gone {
            // A group that is already empty is what was wanted.
            let _ = kill_process_group(self.group, signal);
        }
    }

    fn wait_gone(&mut self, within: Duration) -> Result<Option<ExitStatus>, BrokerError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().map_err(|source| io(&self.log, source))? {
                self.gone = true;
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// CPU time and memory so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        usage_of_group(self.id())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !self.gone {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// How a broker stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// By itself, when asked.
    Cleanly,
    /// It had to be killed.
    Killed,
}

/// The kernel counts CPU time in hundredths of a second for user space, on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

fn usage_of_group(group: i32) -> Usage {
    let mut usage = Usage::default();
    let Ok(processes) = std::fs::read_dir("/proc") else { return usage };
    for process in processes.flatten().map(|entry| entry.path()) {
        // Processes come and go while the list is read; what is gone has no usage to add.
        let Ok(stat) = std::fs::read_to_string(process.join("stat")) else { continue };
        let Some(ticks) = ticks_in_group(&stat, group) else { continue };
        usage.cpu += Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND);
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        usage.peak_rss_bytes += memory_bytes(&status, "VmHWM:").unwrap_or(0);
        usage.rss_bytes += memory_bytes(&status, "VmRSS:").unwrap_or(0);
        let io = std::fs::read_to_string(process.join("io")).unwrap_or_default();
        usage.written_bytes += counted_bytes(&io, "write_bytes:").unwrap_or(0);
    }
    usage
}

/// User and system ticks in a line of `/proc/PID/stat`, if the process is in `group`. See proc_pid_stat(5): the
/// command's name, in parentheses, may contain anything.
fn ticks_in_group(stat: &str, group: i32) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    if fields.get(2)?.parse::<i32>().ok()? != group {
        return None;
    }
    Some(number(11)? + number(12)?)
}

/// The line `name` of `/proc/PID/io`, which is in bytes. See proc_pid_io(5).
fn counted_bytes(io: &str, name: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// The line `name` of `/proc/PID/status`, in bytes.
fn memory_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// Two ports that nobody listened on a moment ago. Another process may take them before the broker does; the broker's
/// own message then says so.
pub fn free_ports() -> std::io::Result<(u16, u16)> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(QUOTED_LINES);
    lines[from..].iter().map(|line| format!("  {line}\n")).collect()
}

fn io(path: &Path, source: std::io::Error) -> BrokerError {
    BrokerError::Io { path: path.to_owned(), source }
}

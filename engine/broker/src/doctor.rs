//! `highwater doctor`: which path a data directory gets, and why.
//!
//! What is asked of the kernel is asked as the broker asks it; what `/proc` and `/sys` tell is told where they tell it, and
//! nothing is made of what they leave out. They are read past the seam, and so are links resolved: it is this host that is
//! asked about, before any shard runs, and a simulated one has neither. The judgements are functions of what was found, so that tests can say it.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use highwater_io::fs::{Durability, OpenOptions, Space};
use highwater_io::{DriverKind, FileError, Io, IoBuf, probe};
use highwater_log::OpenError;
use highwater_log::salvage::{Overview, overview};
use rustix::process::{Resource, getrlimit};

use crate::offline;

/// A median flush below this is cheaper than nearly every medium: something between here and it may answer early.
const SUSPICIOUS_FLUSH: Duration = Duration::from_micros(20);

const BLOCK_BYTES: usize = 4 << 10;
const CHUNK_BYTES: usize = 1 << 20;
/// Blocks that are overwritten and flushed, in turn.
const FLUSHED_BYTES: u64 = 4 << 20;
/// Sequential writes go no further than this.
const SEQUENTIAL_BYTES: u64 = 128 << 20;
/// Bound of each of the two measurements.
const BUDGET: Duration = Duration::from_secs(1);
/// With less room than this nothing is measured.
const ROOM_BYTES: u64 = 512 << 20;

/// Looks at `dir`, prints what was found, and says by the status whether something needs attention.
pub(crate) fn run(dir: &Path) -> Result<ExitCode> {
    let dir = std::path::absolute(dir)?;
    let place = existing(&dir).with_context(|| format!("{} has no parent that exists", dir.display()))?;
    let found = offline::run((dir.clone(), place.clone()), |io, state| async move {
        let (dir, place) = state;
        look(&io, &dir, &place).await
    })?;
    let mut report = Report::default();
    tell_driver(&mut report, found.driver);
    tell_place(&mut report, &dir, &place, &found);
    tell_device(&mut report, &place, &found);
    tell_limits(&mut report);
    tell_data(&mut report, &found.overview);
    print!("{}", report.text());
    Ok(if report.attention.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The directory, or the nearest above it that exists.
fn existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned)
}

/// What is printed: a line for each thing, then what needs attention.
#[derive(Debug, Default)]
struct Report {
    lines: Vec<(&'static str, String)>,
    attention: Vec<String>,
}

impl Report {
    fn line(&mut self, label: &'static str, text: impl Into<String>) {
        self.lines.push((label, text.into()));
    }

    fn attention(&mut self, text: impl Into<String>) {
        self.attention.push(text.into());
    }

    fn text(&self) -> String {
        let width = self.lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (label, line) in &self.lines {
            writeln!(text, "{label:width$}  {line}").expect("text takes everything");
        }
        for attention in &self.attention {
            writeln!(text, "ATTENTION: {attention}").expect("text takes everything");
        }
        if self.attention.is_empty() {
            text.push_str("nothing needs attention\n");
        }
        text
    }
}

/// What was asked through the broker's own driver.
struct Found {
    driver: DriverKind,
    space: Result<Space, FileError>,
    alignment_bytes: Result<usize, FileError>,
    measured: Result<Option<Measured>, FileError>,
    /// `None` if the directory does not exist yet.
    overview: Option<Result<Overview, OpenError>>,
}

async fn look(io: &Io, dir: &Path, place: &Path) -> Found {
    let space = io.fs().space(place).await;
    let measured = match &space {
        Ok(space) if space.available_bytes >= ROOM_BYTES => measure(io, place).await.map(Some),
        _ => Ok(None),
    };
    Found {
        driver: io.driver_kind(),
        space,
        alignment_bytes: io.fs().direct_io_alignment(place).await,
        measured,
        overview: if dir == place { Some(overview(io, dir).await) } else { None },
    }
}

/// What the device does.
#[derive(Debug, Clone, Copy)]
struct Measured {
    is_direct: bool,
    flushes: usize,
    flush_p50: Duration,
    flush_p99: Duration,
    sequential_bytes_per_second: f64,
}

/// Measures with a file that is gone afterwards, whatever comes of it.
async fn measure(io: &Io, place: &Path) -> Result<Measured, FileError> {
    let path = place.join(format!(".highwater-doctor-{}", io.random_uuid().simple()));
    let measured = measure_in(io, &path).await;
    let removed = io.fs().remove_file(&path).await;
    let measured = measured?;
    removed.map(|()| measured)
}

async fn measure_in(io: &Io, path: &Path) -> Result<Measured, FileError> {
    let file = io.fs().open(path, OpenOptions::read_write().create_new().direct()).await?;
    // Content that compresses would flatter a device that compresses.
    let mut chunk = IoBuf::with_capacity(CHUNK_BYTES);
    chunk.set_len(CHUNK_BYTES);
    io.random_bytes(&mut chunk);
    let chunk = chunk.freeze();
    // Blocks that were never written would make the first flush pay for their allocation.
    for position in (0..FLUSHED_BYTES).step_by(CHUNK_BYTES) {
        file.write_at(vec![chunk.clone()], position, Durability::Plain).await?;
    }
    file.sync_all().await?;

    let block = chunk.slice(..BLOCK_BYTES);
    let mut flushes = Vec::new();
    let begin = io.now();
    while flushes.is_empty() || io.now() - begin < BUDGET {
        let position = (flushes.len() * BLOCK_BYTES) as u64 % FLUSHED_BYTES;
        let before = io.now();
        file.write_at(vec![block.clone()], position, Durability::Sync).await?;
        flushes.push(io.now() - before);
    }
    flushes.sort_unstable();

    let begin = io.now();
    let mut written = 0;
    while written == 0 || written < SEQUENTIAL_BYTES && io.now() - begin < BUDGET {
        file.write_at(vec![chunk.clone()], FLUSHED_BYTES + written, Durability::Plain).await?;
        written += CHUNK_BYTES as u64;
    }
    file.sync_data().await?;
    let took = io.now() - begin;
    Ok(Measured {
        is_direct: file.is_direct(),
        flushes: flushes.len(),
        flush_p50: flushes[flushes.len() / 2],
        flush_p99: flushes[flushes.len() * 99 / 100],
        sequential_bytes_per_second: written as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE),
    })
}

fn tell_driver(report: &mut Report, driver: DriverKind) {
    match probe() {
        Ok(features) => report.line("driver", format!("{driver}: {features}")),
        Err(error) => {
            let kernel = read("/proc/sys/kernel/osrelease");
            report.line("driver", format!("{driver}: Linux {kernel}; {error}"));
            report.line(
                "",
                "epoll and threads instead: the same guarantees at more CPU and latency for each request",
            );
        }
    }
}

fn tell_place(report: &mut Report, dir: &Path, place: &Path, found: &Found) {
    if dir == place {
        report.line("directory", dir.display().to_string());
    } else {
        let text = format!("{} does not exist yet; looked at {}", dir.display(), place.display());
        report.line("directory", text);
    }
    let mount = mount_of(place);
    report.line("file system", format!("{} on {} ({})", mount.filesystem, mount.source, mount.options));
    match &found.space {
        Ok(space) => {
            let mib = |bytes: u64| bytes >> 20;
            let (free, total) = (mib(space.available_bytes), mib(space.total_bytes));
            report.line("space", format!("{free} MiB of {total} MiB free"));
            if space.available_bytes < ROOM_BYTES {
                report.attention(format!(
                    "{free} MiB are free: journals take 64 MiB a file, and nothing was measured"
                ));
            }
            if space.is_in_memory {
                report.attention(
                    "the directory is in memory (tmpfs, ramfs): an ack outlives the process, not the machine",
                );
            }
        }
        Err(error) => report.attention(format!("the file system does not tell its space: {error}")),
    }
    for why in mount.weaknesses() {
        report.attention(why);
    }
    match (&found.alignment_bytes, &found.measured) {
        (Ok(alignment), Ok(Some(measured))) if measured.is_direct => {
            report.line("direct I/O", format!("used, aligned to {alignment} bytes"));
        }
        (_, Ok(Some(_))) => {
            report.line(
                "direct I/O",
                "refused by the file system; through the page cache, with a flush for each write",
            );
        }
        (Err(error), _) => report.line("direct I/O", format!("not known: {error}")),
        (Ok(alignment), _) => report.line("direct I/O", format!("aligned to {alignment} bytes; not tried")),
    }
}

fn tell_device(report: &mut Report, place: &Path, found: &Found) {
    let device = Device::below(place);
    report.line("device", device.to_string());
    match &found.measured {
        Ok(Some(measured)) => {
            let us = |duration: Duration| format!("{:.0} µs", duration.as_secs_f64() * 1e6);
            let (p50, p99) = (us(measured.flush_p50), us(measured.flush_p99));
            report.line(
                "flush",
                format!("4 KiB flushing write: p50 {p50}, p99 {p99} ({} tries)", measured.flushes),
            );
            let mb = measured.sequential_bytes_per_second / 1e6;
            report.line("sequential", format!("{mb:.0} MB/s in writes of 1 MiB, with the flush at the end"));
            let is_in_memory = found.space.as_ref().is_ok_and(|space| space.is_in_memory);
            match judge_flush(measured.flush_p50, is_in_memory, device.write_cache.as_deref()) {
                Flush::Plausible => {}
                Flush::Protected(note) => report.line("", note),
                Flush::Suspicious(why) => report.attention(why),
            }
        }
        Ok(None) => report.line("flush", "not measured"),
        Err(error) => report.attention(format!("cannot be written and flushed as a journal is: {error}")),
    }
    if let Ok(preload) = std::env::var("LD_PRELOAD")
        && preload.contains("eatmydata")
    {
        report.attention("LD_PRELOAD has eatmydata, which drops flushes: unset it for the broker");
    }
}

/// What a flush's cost says.
#[derive(Debug, PartialEq, Eq)]
enum Flush {
    Plausible,
    Protected(&'static str),
    Suspicious(String),
}

fn judge_flush(p50: Duration, is_in_memory: bool, write_cache: Option<&str>) -> Flush {
    // What is in memory is told anyhow.
    if p50 >= SUSPICIOUS_FLUSH || is_in_memory {
        return Flush::Plausible;
    }
    if write_cache == Some("write through") {
        return Flush::Protected(
            "so little only where power protects the device's cache: it, or the host of this virtual machine, says that \
             there is no volatile one",
        );
    }
    Flush::Suspicious(format!(
        "this disk's flush costs suspiciously little (p50 {:.0} µs): it may keep data in a cache that power does not protect \
         (a drive that lies, a controller without a battery, a host that ignores the guest's flushes, a library such as \
         eatmydata). Durable acks may not survive a power cut; measured figures do not transfer to other disks",
        p50.as_secs_f64() * 1e6
    ))
}

fn tell_limits(report: &mut Report) {
    let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let files = getrlimit(Resource::Nofile);
    report.line(
        "open files",
        format!("{}, which a broker raises to {} (ulimit -n)", text(files.current), text(files.maximum)),
    );
    if files.maximum.is_some_and(|limit| limit < 4096) {
        report.attention(format!(
            "at most {} open files: connections and partitions take one each (LimitNOFILE, ulimit -n)",
            text(files.maximum)
        ));
    }
    let memory = getrlimit(Resource::Memlock);
    report.line("locked memory", format!("{} bytes (ulimit -l)", text(memory.current)));
}

fn tell_data(report: &mut Report, overview: &Option<Result<Overview, OpenError>>) {
    let Some(overview) = overview else { return };
    let overview = match overview {
        Ok(overview) => overview,
        Err(OpenError::Locked { .. }) => {
            report.line("data", "not looked at: a broker uses it");
            return;
        }
        Err(error) => {
            report.attention(format!("a broker would refuse to start: {error}"));
            return;
        }
    };
    let Some(generation) = &overview.generation else {
        report.line("data", "no journal: new, or Apache Kafka's");
        return;
    };
    let recovery = &overview.recovery;
    let stopped = if recovery.was_clean { "stopped cleanly" } else { "not stopped cleanly" };
    report.line(
        "data",
        format!("{} partitions, {stopped}, journal generation {generation}", recovery.partitions),
    );
    report.line(
        "to replay",
        format!(
            "{} bytes in {} groups of {} journals",
            recovery.bytes_replayed, recovery.groups_replayed, recovery.journals
        ),
    );
    for (name, why) in &overview.fenced {
        report.attention(format!(
            "{name} is fenced: {why} (highwater salvage lists what its way out gives up)"
        ));
    }
}

#[derive(Debug, Default, PartialEq)]
struct Mount {
    source: String,
    filesystem: String,
    options: String,
}

impl Mount {
    /// What of it weakens an ack.
    fn weaknesses(&self) -> Vec<String> {
        let mut weaknesses = Vec::new();
        let weak = ["nobarrier", "barrier=0", "nobarriers"];
        if let Some(option) = self.options.split(',').find(|option| weak.contains(option)) {
            weaknesses.push(format!("mounted with {option}: flushes do not reach the device's cache"));
        }
        let foreign = ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs"];
        if foreign.contains(&self.filesystem.as_str()) || self.filesystem.starts_with("fuse") {
            weaknesses.push(format!(
                "{}: what a flush promises is up to whoever serves this file system",
                self.filesystem
            ));
        }
        weaknesses
    }
}

fn mount_of(place: &Path) -> Mount {
    let place = std::fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
    deepest_mount(&read("/proc/mounts"), &place)
}

/// Of the mounts above `place` the deepest, of equals the newest.
fn deepest_mount(mounts: &str, place: &Path) -> Mount {
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (source, point) = (words.next()?, words.next()?);
        let depth = Path::new(point).components().count();
        place.starts_with(point).then_some((depth, source, words.next()?, words.next()?))
    });
    above.max_by_key(|(depth, ..)| *depth).map_or_else(Mount::default, |(_, source, filesystem, options)| {
        Mount { source: source.to_owned(), filesystem: filesystem.to_owned(), options: options.to_owned() }
    })
}

/// What `/sys` tells of the block device below.
#[derive(Debug, Default)]
struct Device {
    name: Option<String>,
    model: Option<String>,
    /// `write back`: it has a volatile cache, which a flush empties; `write through`: it says that it has none.
    write_cache: Option<String>,
    fua: Option<String>,
}

impl Device {
    fn below(place: &Path) -> Self {
        let Ok(metadata) = std::fs::metadata(place) else { return Device::default() };
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        // A partition has its disk's properties one level up.
        let property = |name: &str| {
            let places = [block.join(name), block.join("..").join(name)];
            places.iter().map(read).find(|text| !text.is_empty())
        };
        Device {
            name: std::fs::canonicalize(&block)
                .ok()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
            model: property("device/model"),
            write_cache: property("queue/write_cache"),
            fua: property("queue/fua"),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(name) = &self.name else { return f.write_str("none that the system tells of") };
        f.write_str(name)?;
        if let Some(model) = &self.model {
            write!(f, ", {model}")?;
        }
        match self.write_cache.as_deref() {
            Some("write back") => f.write_str(", volatile write cache (write back)")?,
            Some(cache) => write!(f, ", {cache}")?,
            None => {}
        }
        match self.fua.as_deref() {
            Some("1") => f.write_str(", flushing writes by FUA"),
            Some(_) => f.write_str(", no FUA: a flushing write is a write and a flush"),
            None => Ok(()),
        }
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(6);

    #[test]
    fn cheap_flush_is_suspicious_unless_the_device_says_why() {
        assert_eq!(judge_flush(SUSPICIOUS_FLUSH, false, None), Flush::Plausible);
        assert_eq!(judge_flush(FAST, true, None), Flush::Plausible);
        assert!(matches!(judge_flush(FAST, false, Some("write through")), Flush::Protected(_)));
        for cache in [None, Some("write back")] {
            let Flush::Suspicious(why) = judge_flush(FAST, false, cache) else { panic!("{cache:?}") };
            assert!(why.contains("suspiciously little (p50 6 µs)"), "{why}");
        }
    }

    #[test]
    fn mount_that_weakens_an_ack_is_told() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw,nobarrier 0 0\nhost:/x /n nfs4 rw 0 0\n";
        let told = |place: &str| deepest_mount(mounts, Path::new(place)).weaknesses();
        assert_eq!(told("/database"), Vec::<String>::new());
        assert!(told("/data/logs")[0].contains("nobarrier"));
        assert!(told("/n")[0].starts_with("nfs4"));
        assert_eq!(deepest_mount("", Path::new("/")), Mount::default());
    }

    #[test]
    fn report_says_what_needs_attention() {
        let mut report = Report::default();
        report.line("flush", "fast");
        assert_eq!(report.text(), "flush  fast\nnothing needs attention\n");
        report.attention("it lies");
        assert_eq!(report.text(), "flush  fast\nATTENTION: it lies\n");
    }
}

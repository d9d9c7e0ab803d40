//! The machine, as the report stamps it: kernel, processor, memory, file system, device, tunables, commit.
//!
//! All of it is read from `/proc` and `/sys`, where a missing file means that the answer is not known here, never an
//! error: a stamp must not stop a sweep.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::results::{DeviceFloor, Environment, Property};

/// System settings that bear on the figures.
const TUNABLES: [&str; 8] = [
    "/proc/sys/vm/dirty_background_ratio",
    "/proc/sys/vm/dirty_ratio",
    "/proc/sys/vm/dirty_background_bytes",
    "/proc/sys/vm/dirty_bytes",
    "/proc/sys/vm/dirty_expire_centisecs",
    "/proc/sys/vm/dirty_writeback_centisecs",
    "/proc/sys/vm/swappiness",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

/// The machine, with log directories below `directory`.
#[must_use]
pub fn environment(directory: &Path, floor: DeviceFloor) -> Environment {
    let cpuinfo = read("/proc/cpuinfo");
    let mount = mount_below(directory);
    Environment {
        kernel: format!("{} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
        cpu_model: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cpus: std::thread::available_parallelism().map_or(0, |cpus| u32::try_from(cpus.get()).unwrap_or(0)),
        memory_bytes: memory_bytes(),
        hypervisor: hypervisor(&cpuinfo),
        filesystem: mount.filesystem,
        mount_options: mount.options,
        device: device_below(directory, &mount.source),
        floor,
        client_ceiling: None,
        tunables: TUNABLES.iter().filter_map(|path| tunable(path)).collect(),
        replicas_share_a_disk: true,
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal");
    let number = kilobytes.as_deref().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1_024
}

fn hypervisor(cpuinfo: &str) -> Option<String> {
    let named = [
        read("/sys/hypervisor/type"),
        format!("{} {}", read("/sys/class/dmi/id/sys_vendor"), read("/sys/class/dmi/id/product_name")),
    ];
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    let visible = flags.split(' ').any(|flag| flag == "hypervisor");
    let name = named.into_iter().map(|name| name.trim().to_owned()).find(|name| !name.is_empty());
    visible.then(|| name.unwrap_or_else(|| "unnamed".to_owned()))
}

fn tunable(path: &str) -> Option<Property> {
    let value = read(path);
    let name = path.trim_start_matches("/proc/sys/").trim_start_matches("/sys/kernel/").replace('/', ".");
    (!value.is_empty()).then_some(Property { name, value })
}

#[derive(Debug, Default, PartialEq)]
struct Mount {
    source: String,
    filesystem: String,
    options: String,
}

/// The mount that holds `directory`: of those whose mount point is above it, the deepest, of equals the newest.
fn mount_below(directory: &Path) -> Mount {
    let directory = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    deepest_mount(&read("/proc/mounts"), &directory)
}

fn deepest_mount(mounts: &str, directory: &Path) -> Mount {
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (source, point) = (words.next()?, words.next()?);
        let depth = Path::new(point).components().count();
        directory.starts_with(point).then_some((depth, source, words.next()?, words.next()?))
    });
    holding.max_by_key(|(depth, ..)| *depth).map_or_else(
        Mount::default,
        |(_, source, filesystem, options)| Mount {
            source: source.to_owned(),
            filesystem: filesystem.to_owned(),
            options: options.to_owned(),
        },
    )
}

/// Name, model and cache mode of the block device below.
fn device_below(directory: &Path, source: &str) -> String {
    let Ok(metadata) = std::fs::metadata(directory) else { return source.to_owned() };
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let block = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    // A partition has its disk's properties one level up.
    let property = |name: &str| {
        let own = read(block.join(name));
        if own.is_empty() { read(block.join("..").join(name)) } else { own }
    };
    let parts = [
        ("", source.to_owned()),
        ("", property("device/model")),
        ("cache ", property("queue/write_cache")),
        ("scheduler ", property("queue/scheduler")),
    ];
    let known =
        parts.iter().filter(|(_, text)| !text.is_empty()).map(|(label, text)| format!("{label}{text}"));
    known.collect::<Vec<_>>().join(", ")
}

/// The commit of the working tree at `root`, with `-dirty` if it has changes; `unknown` outside of a repository.
#[must_use]
pub fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    // Results are written into the tree while a sweep runs; they are not changes of what runs.
    let dirty =
        git(&["status", "--porcelain", "--", ".", ":!results"]).is_none_or(|changes| !changes.is_empty());
    if dirty { format!("{commit}-dirty") } else { commit }
}

/// CPU time that the whole machine has spent since it started, all processors, idle and waiting not counted.
#[must_use]
pub fn busy_cpu() -> Option<std::time::Duration> {
    busy_ticks(&read("/proc/stat")).map(|ticks| std::time::Duration::from_millis(ticks * 10))
}

/// See proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else { return None };
    Some(user + nice + system + irq + softirq)
}

/// Now, as RFC 3339 in UTC with seconds.
#[must_use]
pub fn now_rfc3339() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    rfc3339(seconds)
}

/// Civil date of days since the epoch: Howard Hinnant's `civil_from_days`, for years from 1970.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_knows_leap_days_and_year_ends() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn mount_is_the_deepest_above() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw,noatime 0 0\n/dev/c /data2 ext4 ro 0 0\n";
        let mount = deepest_mount(mounts, Path::new("/data/logs"));
        let expected =
            Mount { source: "/dev/b".into(), filesystem: "xfs".into(), options: "rw,noatime".into() };
        assert_eq!(mount, expected);
        assert_eq!(deepest_mount(mounts, Path::new("/database")).source, "/dev/a");
        assert_eq!(deepest_mount("", Path::new("/")), Mount::default());
    }

    #[test]
    fn busy_ticks_leave_out_idle_and_waiting() {
        assert_eq!(busy_ticks("cpu  1 2 4 8 16 32 64 128 0 0\ncpu0 1"), Some(1 + 2 + 4 + 32 + 64));
        assert_eq!(busy_ticks("intr 1"), None);
    }

    #[test]
    fn environment_of_this_machine_is_not_empty() {
        let floor =
            DeviceFloor { fdatasync: crate::results::Latency::default(), write_bytes_per_second: 1.0 };
        let environment = environment(Path::new("/"), floor);
        assert!(environment.kernel.starts_with("Linux "), "{environment:?}");
        assert!(environment.cpus > 0 && environment.memory_bytes > 0, "{environment:?}");
        assert!(!environment.filesystem.is_empty(), "{environment:?}");
    }

    #[test]
    fn commit_outside_of_a_repository_is_unknown() {
        assert_eq!(commit(Path::new("/")), "unknown");
    }
}

//! A memory cgroup for a broker: so much memory, page cache included, as a smaller machine would have.
//!
//! How long data that nobody flushes stays in the page cache depends on how much of it there may be. A run that is to
//! outlast write-back on a machine with much memory would take long; in a group with little the kernel writes back sooner.
//!
//! The group is made below that of this process (in a hierarchy of version 2 beside it, where processes may only be in
//! leaves), so that whatever limits this process goes on to limit its brokers, and removed when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A group whose processes were killed is empty within this time.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
const MOUNT: &str = "/sys/fs/cgroup";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A group that limits memory.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    limit_bytes: u64,
}

impl MemoryGroup {
    /// A new, empty group, or one sentence that says why there can be none.
    pub fn create(limit_bytes: u64) -> Result<Self, String> {
        let own = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let Hierarchy { base, limit_file } = hierarchy(&own, Path::new(MOUNT))?;
        let name = format!("highwater-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = base.join(name);
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| format!("{path}: {error}")
        };
        std::fs::create_dir(&path).map_err(failed(&path))?;
        let group = MemoryGroup { path, limit_bytes };
        let file = group.path.join(limit_file);
        std::fs::write(&file, limit_bytes.to_string()).map_err(failed(&file))?;
        Ok(group)
    }

    /// Whether such groups can be made here; if not, one sentence that says what is missing.
    pub fn can_be_made() -> Result<(), String> {
        Self::create(1 << 30).map(drop)
    }

    /// How much memory its processes may have.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What goes before a command so that it runs in the group: a shell that enters it and becomes the command.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        let procs = self.path.join("cgroup.procs").display().to_string();
        ["/bin/sh", "-c", "echo $$ > \"$0\" && exec \"$@\"", &procs].map(str::to_owned).to_vec()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + EMPTY_WITHIN;
        // Busy for as long as a process that was killed is not quite gone.
        while std::fs::remove_dir(&self.path).is_err() && Instant::now() < deadline {
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where groups are made.
    base: PathBuf,
    limit_file: &'static str,
}

/// Where groups can be made, by what `/proc/self/cgroup` says: lines of `ID:CONTROLLERS:PATH`, see cgroups(7).
fn hierarchy(own: &str, mount: &Path) -> Result<Hierarchy, String> {
    let lines =
        || own.lines().filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok());
    let below = |root: &Path, path: &str| root.join(path.trim_start_matches('/'));
    let of_memory = |[controllers, _]: &[&str; 2]| controllers.split(',').any(|name| name == "memory");
    if let Some([_, path]) = lines().find(of_memory) {
        let root = mount.join("memory");
        let base = below(&root, path);
        return Ok(Hierarchy { base, limit_file: "memory.limit_in_bytes" });
    }
    let unified = lines().find(|[controllers, _]: &[&str; 2]| controllers.is_empty());
    let [_, path] = unified.ok_or("there are no memory cgroups")?;
    let own = below(mount, path);
    let base = if path == "/" { own } else { own.parent().unwrap_or(mount).to_owned() };
    let enabled = std::fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
    if !enabled.split_whitespace().any(|name| name == "memory") {
        return Err(format!("the memory controller is not enabled below {}", base.display()));
    }
    Ok(Hierarchy { base, limit_file: "memory.max" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_below_ours_in_version_1_and_beside_ours_in_version_2() {
        let mount = tempfile::tempdir().unwrap();
        let old = hierarchy("4:memory:/a/b\n1:cpu:/\n0::/", mount.path()).unwrap();
        assert_eq!(old.base, mount.path().join("memory/a/b"));
        assert_eq!(old.limit_file, "memory.limit_in_bytes");
        let slice = mount.path().join("user.slice");
        std::fs::create_dir(&slice).unwrap();
        let refused = hierarchy("0::/user.slice/run.scope", mount.path()).unwrap_err();
        assert!(refused.contains("not enabled below"), "{refused}");
        std::fs::write(slice.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        let new = hierarchy("0::/user.slice/run.scope", mount.path()).unwrap();
        assert_eq!(new, Hierarchy { base: slice, limit_file: "memory.max" });
        assert!(hierarchy("1:cpu:/", mount.path()).is_err());
    }

    /// Only where this machine lets us.
    #[test]
    fn group_holds_its_command_and_is_gone_when_it_is_dropped() {
        let Ok(group) = MemoryGroup::create(64 << 20) else { return };
        let words = group.wrapper();
        let output = std::process::Command::new(&words[0])
            .args(&words[1..])
            .args(["cat", "/proc/self/cgroup"])
            .output()
            .unwrap();
        let name = group.path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(String::from_utf8_lossy(&output.stdout).contains(&name), "{output:?}");
        let path = group.path.clone();
        drop(group);
        assert!(!path.exists());
    }
}

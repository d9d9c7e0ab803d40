//! What is below a broker's data directory: a plain directory, a disk with a power switch, or a simulation.
//!
//! Performance is measured in a plain directory; what needs a power cut gets a disk of its own. Where the machine cannot
//! have such a disk, the cell belongs to the simulator, in which the broker runs in a world without a real disk at all:
//! then there is no directory, and [`crate::cell`] does not run it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use highwater_disk::{Disk, DiskConfig, ServerProgram};

use crate::results::DiskKind;
use crate::workload::settings::Fault;

/// What a cell's broker writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumKind {
    /// A directory of the machine's own file system.
    Real,
    /// ext4 on a disk whose power can be cut.
    PowerSwitchDisk,
    /// The simulator's disk.
    Simulated,
}

impl MediumKind {
    /// The medium for a cell with `fault`, where `can_cut` says whether this machine can have a disk with a switch.
    #[must_use]
    pub fn for_fault(fault: Fault, can_cut: bool) -> Self {
        match fault {
            Fault::None | Fault::Kill => MediumKind::Real,
            Fault::PowerCut | Fault::LyingFlush if can_cut => MediumKind::PowerSwitchDisk,
            Fault::PowerCut | Fault::LyingFlush => MediumKind::Simulated,
        }
    }

    /// As the results call it.
    #[must_use]
    pub fn disk_kind(self) -> DiskKind {
        match self {
            MediumKind::Real => DiskKind::Directory,
            MediumKind::PowerSwitchDisk => DiskKind::PowerSwitch,
            MediumKind::Simulated => DiskKind::Simulated,
        }
    }
}

/// Whether this machine can cut a disk's power; if not, one sentence that says what is missing.
pub fn can_cut_power() -> Result<(), String> {
    highwater_disk::preflight().map_err(|error| error.to_string())
}

/// A medium that is there. Dropping it takes it away.
pub enum Medium {
    /// A directory, removed at the end.
    Real(Scratch),
    /// A disk, taken down at the end.
    PowerSwitchDisk(Box<Disk>),
}

impl Medium {
    /// A fresh directory or disk. `scratch` is where directories are made and where disks keep their bytes.
    pub fn create(kind: MediumKind, scratch: &Scratch, size_bytes: u64) -> Result<Self, MediumError> {
        match kind {
            MediumKind::Real => Ok(Medium::Real(scratch.child("data")?)),
            MediumKind::PowerSwitchDisk => {
                let mut config = DiskConfig::new(size_bytes);
                config.server = ServerProgram::ThisProgram;
                Ok(Medium::PowerSwitchDisk(Box::new(Disk::create(config)?)))
            }
            MediumKind::Simulated => Err(MediumError::Simulated),
        }
    }

    /// The broker's data directory, which may have to be made first.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        match self {
            Medium::Real(directory) => directory.path().join("broker"),
            Medium::PowerSwitchDisk(disk) => disk.mount_point().join("broker"),
        }
    }

    /// Makes everything that was written so far durable: what was prepared must survive any cut.
    pub fn settle(&self) -> io::Result<()> {
        let directory = match self {
            Medium::Real(directory) => directory.path(),
            Medium::PowerSwitchDisk(disk) => disk.mount_point(),
        };
        rustix::fs::syncfs(std::fs::File::open(directory)?).map_err(Into::into)
    }

    /// The disk, where there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        match self {
            Medium::Real(_) => None,
            Medium::PowerSwitchDisk(disk) => Some(disk),
        }
    }

    /// Takes it away, and says what could not be.
    pub fn remove(self) -> Result<(), MediumError> {
        match self {
            Medium::Real(directory) => directory.remove(),
            Medium::PowerSwitchDisk(disk) => disk.stop().map(drop).map_err(MediumError::from),
        }
    }
}

/// Why there is no medium.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediumError {
    /// The disk with the switch.
    #[error(transparent)]
    Disk(#[from] highwater_disk::Error),
    /// A directory.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory for everything that is thrown away.
    #[error("no broker can keep files below {path}: {source}; --scratch DIR takes them elsewhere", path = path.display())]
    Scratch {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A simulated medium has no directory.
    #[error("a simulated disk has no directory for a real broker")]
    Simulated,
}

/// A directory that is removed with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    /// A new directory below `parent`, which is made if it is missing. Directories of processes that are gone are
    /// removed first.
    pub fn create(parent: &Path) -> Result<Self, MediumError> {
        let path = parent.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let made = std::fs::create_dir_all(parent).and_then(|()| {
            remove_stale(parent);
            std::fs::create_dir(&path)
        });
        made.map_err(|source| MediumError::Scratch { path: parent.to_owned(), source })?;
        Ok(Scratch { path })
    }

    /// A new directory within.
    pub fn child(&self, name: &str) -> Result<Self, MediumError> {
        let path = self.path.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        make(&path)?;
        Ok(Scratch { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now, and says if that fails.
    pub fn remove(self) -> Result<(), MediumError> {
        std::fs::remove_dir_all(&self.path)
            .map_err(|source| MediumError::Io { path: self.path.clone(), source })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn make(path: &Path) -> Result<(), MediumError> {
    std::fs::create_dir_all(path).map_err(|source| MediumError::Io { path: path.to_owned(), source })
}

fn remove_stale(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let owner = name.split_once('-').and_then(|(pid, _)| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medium_follows_the_fault_and_what_the_machine_can() {
        assert_eq!(MediumKind::for_fault(Fault::None, true), MediumKind::Real);
        assert_eq!(MediumKind::for_fault(Fault::Kill, false), MediumKind::Real);
        assert_eq!(MediumKind::for_fault(Fault::PowerCut, true), MediumKind::PowerSwitchDisk);
        assert_eq!(MediumKind::for_fault(Fault::PowerCut, false), MediumKind::Simulated);
    }

    #[test]
    fn scratch_is_gone_with_its_content_when_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path()).unwrap();
        let medium = Medium::create(MediumKind::Real, &scratch, 0).unwrap();
        std::fs::create_dir_all(medium.data()).unwrap();
        std::fs::write(medium.data().join("segment"), "bytes").unwrap();
        medium.settle().unwrap();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn leftovers_of_dead_processes_are_removed_and_others_are_not() {
        let parent = tempfile::tempdir().unwrap();
        // Process ids end below 2²².
        for name in ["4194305-0", "notes", "1-0"] {
            std::fs::create_dir(parent.path().join(name)).unwrap();
        }
        let _scratch = Scratch::create(parent.path()).unwrap();
        assert!(!parent.path().join("4194305-0").exists());
        assert!(parent.path().join("notes").exists() && parent.path().join("1-0").exists());
    }

    #[test]
    fn simulated_medium_has_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path()).unwrap();
        assert!(matches!(Medium::create(MediumKind::Simulated, &scratch, 0), Err(MediumError::Simulated)));
    }
}

//! A test's hold on a disk: what is on it, and how it misbehaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::file::FileState;
use super::names::{InodeId, paths};
use super::{DiskId, DiskState, Fault, FaultId, Node, components};
use crate::sim::core::Core;
use crate::time::MonoTime;

/// A disk of a world. Looking at it or changing it takes no virtual time.
#[derive(Clone)]
pub struct Disk {
    core: Rc<RefCell<Core>>,
    id: DiskId,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Disk").field(&self.id).finish()
    }
}

impl Disk {
    pub(crate) fn new(core: Rc<RefCell<Core>>, id: DiskId) -> Self {
        Disk { core, id }
    }

    /// Which disk this is.
    #[must_use]
    pub fn id(&self) -> DiskId {
        self.id
    }

    fn with<R>(&self, look: impl FnOnce(&DiskState) -> R) -> R {
        look(&self.core.borrow().disks[self.id.0])
    }

    fn change<R>(&self, change: impl FnOnce(&mut DiskState) -> R) -> R {
        change(&mut self.core.borrow_mut().disks[self.id.0])
    }

    /// Adds a rule by which the disk misbehaves. Earlier rules are asked first.
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.change(|disk| disk.faults.add(fault))
    }

    /// Lifts one rule.
    pub fn lift(&self, fault: FaultId) {
        self.change(|disk| disk.faults.lift(fault));
    }

    /// Lifts all rules.
    pub fn lift_all(&self) {
        self.change(|disk| disk.faults.lift_all());
    }

    /// How often a rule that is in force has hit.
    #[must_use]
    pub fn fired(&self, fault: FaultId) -> u64 {
        self.with(|disk| disk.faults.fired(fault))
    }

    /// When a rule that is in force has hit first.
    #[must_use]
    pub fn first_fired_at(&self, fault: FaultId) -> Option<MonoTime> {
        self.with(|disk| disk.faults.first_fired_at(fault))
    }

    /// Nothing completes any more until [`resume`](Self::resume).
    pub fn stall(&self) {
        self.change(DiskState::stall);
    }

    /// What was asked in the meantime completes, in an order of its own.
    pub fn resume(&self) {
        let core = &mut *self.core.borrow_mut();
        core.disks[self.id.0].resume(&mut core.kernel);
    }

    /// Changes the size of the file system in bytes; less than is used means that nothing is left.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.change(|disk| disk.config.capacity_bytes = capacity_bytes);
    }

    /// Bytes that files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.with(|disk| disk.used_pages * super::PAGE)
    }

    /// Number of events so far: each submission and each completion of an operation that changes what is on the disk
    /// is one.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.with(|disk| disk.events)
    }

    /// The machine loses power right after event number `event`, counted from the disk's beginning. Every crash point
    /// of a run is found by running it once, and then once for each number up to [`events`](Self::events).
    pub fn cut_power_at_event(&self, event: u64) {
        self.change(|disk| disk.cut_at_event = Some(event));
    }

    /// Files as a reader sees them, by path from the root.
    #[must_use]
    pub fn snapshot_files(&self) -> BTreeMap<String, Vec<u8>> {
        self.with(|disk| files(disk, disk.names.live(), |file| file.live().to_vec()))
    }

    /// Files that a power cut leaves for certain, with the content that it leaves for certain: the worst case.
    #[must_use]
    pub fn durable_files(&self) -> BTreeMap<String, Vec<u8>> {
        self.with(|disk| files(disk, disk.names.medium(), |file| file.medium().to_vec()))
    }

    /// Lengths in bytes of the files that a reader sees, by path from the root.
    #[must_use]
    pub fn file_lengths(&self) -> BTreeMap<String, u64> {
        self.with(|disk| files(disk, disk.names.live(), |file| file.live().len()))
    }

    /// Number of versions of bytes, lengths and names that a power cut now could lose.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.with(|disk| {
            let nodes = disk.inodes.values().map(|inode| &inode.node);
            let files = nodes.filter_map(|node| match node {
                Node::File(file) => Some(file.unflushed_count()),
                Node::Directory => None,
            });
            disk.names.unsynced_count() + files.sum::<usize>()
        })
    }

    /// Number of requests that have not landed, those of dead processes included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.with(|disk| disk.requests.len())
    }

    /// Bit rot: changes every byte of a range of a file, for readers and on the medium.
    ///
    /// # Panics
    /// If `path` is not a file.
    pub fn corrupt(&self, path: impl AsRef<Path>, range: Range<u64>) {
        let core = &mut *self.core.borrow_mut();
        let disk = &mut core.disks[self.id.0];
        let inode = file_at(disk, path.as_ref());
        let chance = &mut core.kernel.chance;
        let done = disk.change_file(inode, |file| file.corrupt(range, || 1 << chance.index(8)));
        done.expect("the path is a file's");
    }

    /// Reading any of these bytes fails with `EIO` until they are written again. The unit is a sector of 512 bytes.
    ///
    /// # Panics
    /// If `path` is not a file.
    pub fn make_unreadable(&self, path: impl AsRef<Path>, range: Range<u64>) {
        self.change(|disk| {
            let inode = file_at(disk, path.as_ref());
            let done = disk.change_file(inode, |file| {
                file.make_unreadable(range.start, range.end.saturating_sub(range.start));
            });
            done.expect("the path is a file's");
        });
    }
}

fn file_at(disk: &DiskState, path: &Path) -> InodeId {
    let found = disk.resolve(&components(path)).ok().filter(|&inode| disk.file(inode).is_ok());
    found.unwrap_or_else(|| panic!("{} is a file on {}", path.display(), disk.id))
}

fn files<T>(
    disk: &DiskState,
    table: &BTreeMap<super::names::Name, InodeId>,
    look: impl Fn(&FileState) -> T,
) -> BTreeMap<String, T> {
    let named = paths(table).into_iter();
    named
        .filter_map(|(path, inode)| match &disk.inodes.get(&inode)?.node {
            Node::File(file) => Some((path, look(file))),
            Node::Directory => None,
        })
        .collect()
}

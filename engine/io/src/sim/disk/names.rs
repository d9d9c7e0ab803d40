//! Names of files and directories: as readers see them, as the medium has them, and the changes in between.
//!
//! A change (creation, removal, rename) is durable once every directory it touches was synced after it was done. What
//! a crash keeps is any set of changes such that, for each name, they are the first ones: a rename is one change of
//! two names, so it happens or does not, and the name it replaces is never missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::rc::Rc;

use super::crash::CrashPlan;
use super::file::Sequence;

/// A file or directory of one disk. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InodeId(pub(crate) u64);

/// The root directory, which is always there.
pub(crate) const ROOT: InodeId = InodeId(0);

/// A name in a directory.
pub(crate) type Name = (InodeId, Rc<str>);

type Table = BTreeMap<Name, InodeId>;

/// Names of `path` from the root. Relative paths begin there too.
pub(crate) fn components(path: &Path) -> Vec<Rc<str>> {
    let mut names: Vec<Rc<str>> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(Rc::from(&*name.to_string_lossy())),
            Component::ParentDir => {
                names.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

#[derive(Debug)]
struct Change {
    sequence: Sequence,
    /// Each name and what it names from then on.
    names: Vec<(Name, Option<InodeId>)>,
    /// Directories that were not synced since.
    unsynced: BTreeSet<InodeId>,
}

impl Change {
    fn apply(&self, table: &mut Table) {
        for (name, target) in &self.names {
            match target {
                Some(inode) => table.insert(name.clone(), *inode),
                None => table.remove(name),
            };
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    live: Table,
    medium: Table,
    /// In the order in which they were done.
    unsynced: Vec<Change>,
}

impl Names {
    pub(crate) fn get(&self, name: &Name) -> Option<InodeId> {
        self.live.get(name).copied()
    }

    /// Names within `directory`, in their order.
    pub(crate) fn list(&self, directory: InodeId) -> impl Iterator<Item = (&Rc<str>, InodeId)> + '_ {
        list(&self.live, directory)
    }

    pub(crate) fn live(&self) -> &Table {
        &self.live
    }

    pub(crate) fn medium(&self) -> &Table {
        &self.medium
    }

    /// Everything that a name leads to or, after a crash, may lead to.
    pub(crate) fn referenced(&self) -> impl Iterator<Item = InodeId> {
        let pending = self.unsynced.iter().flat_map(|change| &change.names);
        let pending = pending.filter_map(|(_, target)| *target);
        self.live.values().chain(self.medium.values()).copied().chain(pending)
    }

    /// Changes what names lead to, all at once.
    pub(crate) fn change(&mut self, sequence: Sequence, names: Vec<(Name, Option<InodeId>)>) {
        let unsynced = names.iter().map(|((directory, _), _)| *directory).collect();
        let change = Change { sequence, names, unsynced };
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// The directory was synced: its changes up to `upto` are durable as far as it is concerned.
    pub(crate) fn sync(&mut self, directory: InodeId, upto: Sequence) {
        for change in self.unsynced.iter_mut().filter(|change| change.sequence <= upto) {
            change.unsynced.remove(&directory);
        }
        let durable = self.unsynced.iter().map(|change| change.unsynced.is_empty()).collect();
        self.commit(durable);
    }

    /// Moves the `chosen` changes to the medium, with all earlier ones of the same names.
    fn commit(&mut self, mut chosen: Vec<bool>) {
        if !chosen.contains(&true) {
            return;
        }
        let mut needed: BTreeSet<&Name> = BTreeSet::new();
        for (change, chosen) in self.unsynced.iter().zip(&mut chosen).rev() {
            *chosen |= change.names.iter().any(|(name, _)| needed.contains(name));
            if *chosen {
                needed.extend(change.names.iter().map(|(name, _)| name));
            }
        }
        let mut chosen = chosen.into_iter();
        self.unsynced.retain(|change| {
            let commits = chosen.next() == Some(true);
            if commits {
                change.apply(&mut self.medium);
            }
            !commits
        });
    }

    /// The first change that a crash may lose.
    pub(crate) fn first_unsynced(&self) -> Option<Sequence> {
        self.unsynced.first().map(|change| change.sequence)
    }

    /// Number of changes that a crash may lose.
    pub(crate) fn unsynced_count(&self) -> usize {
        self.unsynced.len()
    }

    /// Loses changes that were not synced, as `plan` decides.
    pub(crate) fn crash(&mut self, plan: &mut CrashPlan<'_>) {
        if self.unsynced.is_empty() {
            return;
        }
        let keep = plan.keep_for_file();
        let kept = self.unsynced.iter().map(|change| plan.keeps_name(keep, change.sequence)).collect();
        self.commit(kept);
        self.unsynced.clear();
        self.medium = reachable(&self.medium);
        self.live = self.medium.clone();
    }
}

fn list(table: &Table, directory: InodeId) -> impl Iterator<Item = (&Rc<str>, InodeId)> + '_ {
    table
        .range((directory, Rc::from(""))..)
        .take_while(move |((parent, _), _)| *parent == directory)
        .map(|((_, name), inode)| (name, *inode))
}

/// What can be reached from the root: a directory whose own name is lost is lost with all that is in it.
fn reachable(table: &Table) -> Table {
    let mut found = Table::new();
    let mut directories = vec![ROOT];
    while let Some(directory) = directories.pop() {
        for (name, inode) in list(table, directory) {
            found.insert((directory, Rc::clone(name)), inode);
            directories.push(inode);
        }
    }
    found
}

/// Paths of everything in `table`.
pub(crate) fn paths(table: &Table) -> BTreeMap<String, InodeId> {
    let mut found = BTreeMap::new();
    let mut directories = vec![(String::new(), ROOT)];
    while let Some((path, directory)) = directories.pop() {
        for (name, inode) in list(table, directory) {
            let path = format!("{path}/{name}");
            found.insert(path.clone(), inode);
            directories.push((path, inode));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        (ROOT, Rc::from(text))
    }

    fn medium(names: &Names) -> Vec<(&str, u64)> {
        names.medium.iter().map(|((_, name), inode)| (&**name, inode.0)).collect()
    }

    #[test]
    fn sync_makes_only_earlier_changes_of_its_directory_durable() {
        let mut names = Names::default();
        let directory = InodeId(9);
        names.change(1, vec![(name("a"), Some(InodeId(1)))]);
        names.change(2, vec![((directory, Rc::from("b")), Some(InodeId(2)))]);
        names.change(3, vec![(name("c"), Some(InodeId(3)))]);
        names.sync(ROOT, 2);
        assert_eq!(medium(&names), [("a", 1)]);
        names.sync(ROOT, 3);
        assert_eq!(medium(&names), [("a", 1), ("c", 3)]);
        names.sync(directory, 3);
        assert_eq!(names.unsynced_count(), 0);
    }

    #[test]
    fn rename_between_directories_needs_both_synced() {
        let mut names = Names::default();
        let to = InodeId(9);
        names.change(1, vec![(name("a"), Some(InodeId(1)))]);
        names.sync(ROOT, 1);
        names.change(2, vec![(name("a"), None), ((to, Rc::from("a")), Some(InodeId(1)))]);
        names.sync(to, 2);
        assert_eq!(medium(&names), [("a", 1)]);
        names.sync(ROOT, 2);
        assert_eq!(names.medium.keys().next(), Some(&(to, Rc::from("a"))));
    }

    #[test]
    fn kept_change_takes_its_predecessors_along() {
        let mut names = Names::default();
        names.change(1, vec![(name("a.tmp"), Some(InodeId(1)))]);
        names.change(2, vec![(name("x"), Some(InodeId(5)))]);
        names.change(3, vec![(name("a.tmp"), None), (name("a"), Some(InodeId(1)))]);
        names.commit(vec![false, false, true]);
        assert_eq!(medium(&names), [("a", 1)]);
        assert_eq!(names.unsynced_count(), 1);
    }

    #[test]
    fn directory_without_a_durable_name_is_lost_with_its_content() {
        let mut table = Table::new();
        table.insert((InodeId(4), Rc::from("inner")), InodeId(5));
        table.insert(name("kept"), InodeId(6));
        assert_eq!(reachable(&table).len(), 1);
    }

    #[test]
    fn components_begin_at_the_root_and_resolve_dots() {
        let names = |path: &str| components(Path::new(path)).join("/");
        assert_eq!(names("/a/./b/../c"), "a/c");
        assert_eq!(names("."), "");
        assert_eq!(names("a/b"), "a/b");
    }
}

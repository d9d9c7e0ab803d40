//! Names of the strict directory: as readers see them, as the medium has them, and the changes in between.
//!
//! A change (creation, removal, rename) is durable once every directory that it touches was synced after it was made.
//! What a cut keeps is any set of changes such that, for each name, they are the first ones: a rename is one change of
//! two names, so it happens or does not, and the name that it replaces is never missing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::content::Number;
use super::draw::{Draw, Manner};

/// A file or directory. Numbers are never used twice.
pub(super) type Inode = u64;

/// As FUSE numbers it.
pub(super) const ROOT: Inode = 1;

/// A name in a directory.
pub(super) type Name = (Inode, OsString);

pub(super) type Table = BTreeMap<Name, Inode>;

#[derive(Debug, Clone)]
struct Change {
    number: Number,
    /// Each name and what it names from then on.
    names: Vec<(Name, Option<Inode>)>,
    /// Directories that were not synced since.
    unsynced: BTreeSet<Inode>,
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

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: Table,
    durable: Table,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, directory: Inode, name: &OsStr) -> Option<Inode> {
        self.live.get(&(directory, name.to_owned())).copied()
    }

    pub(super) fn list(&self, directory: Inode) -> impl Iterator<Item = (&OsStr, Inode)> {
        list(&self.live, directory)
    }

    /// Everything that a name leads to or, after a cut, may lead to.
    pub(super) fn referenced(&self) -> BTreeSet<Inode> {
        let pending = self.pending.iter().flat_map(|change| &change.names);
        let pending = pending.filter_map(|(_, target)| *target);
        self.live.values().chain(self.durable.values()).copied().chain(pending).collect()
    }

    /// Changes what names lead to, all at once.
    pub(super) fn change(&mut self, number: Number, names: Vec<(Name, Option<Inode>)>) {
        let unsynced = names.iter().map(|((directory, _), _)| *directory).collect();
        let change = Change { number, names, unsynced };
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// The directory was synced: its changes up to `upto` are durable as far as it is concerned.
    pub(super) fn sync(&mut self, directory: Inode, upto: Number) {
        for change in self.pending.iter_mut().filter(|change| change.number <= upto) {
            change.unsynced.remove(&directory);
        }
        let durable = self.pending.iter().map(|change| change.unsynced.is_empty()).collect();
        let chosen = with_predecessors(&self.pending, durable);
        let mut chosen = chosen.into_iter();
        self.pending.retain(|change| {
            let commits = chosen.next() == Some(true);
            if commits {
                change.apply(&mut self.durable);
            }
            !commits
        });
    }

    /// Numbers of the changes that a cut may lose.
    pub(super) fn losable(&self) -> impl Iterator<Item = Number> + '_ {
        self.pending.iter().map(|change| change.number)
    }

    /// What the names are after a cut. Some may lead nowhere from the root.
    pub(super) fn survivor(&self, draw: &mut Draw, manner: Manner) -> Table {
        let drawn = self.pending.iter().map(|change| draw.keeps_name(manner, change.number)).collect();
        let chosen = with_predecessors(&self.pending, drawn);
        let mut table = self.durable.clone();
        let kept = self.pending.iter().zip(chosen).filter(|(_, kept)| *kept);
        kept.for_each(|(change, _)| change.apply(&mut table));
        table
    }
}

/// The chosen changes, and all earlier ones of the same names.
fn with_predecessors(changes: &[Change], mut chosen: Vec<bool>) -> Vec<bool> {
    let mut needed: BTreeSet<&Name> = BTreeSet::new();
    for (change, chosen) in changes.iter().zip(&mut chosen).rev() {
        *chosen |= change.names.iter().any(|(name, _)| needed.contains(name));
        if *chosen {
            needed.extend(change.names.iter().map(|(name, _)| name));
        }
    }
    chosen
}

/// The names within a directory, in their order.
pub(super) fn list(table: &Table, directory: Inode) -> impl Iterator<Item = (&OsStr, Inode)> {
    table
        .range((directory, OsString::new())..)
        .take_while(move |((parent, _), _)| *parent == directory)
        .map(|((_, name), inode)| (name.as_os_str(), *inode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::CutMode;

    fn root(name: &str) -> Name {
        (ROOT, name.into())
    }

    fn durable(names: &Names) -> Vec<(&str, Inode)> {
        names.durable.iter().map(|((_, name), inode)| (name.to_str().unwrap(), *inode)).collect()
    }

    #[test]
    fn sync_of_a_directory_makes_its_earlier_names_durable_and_no_others() {
        let mut names = Names::default();
        names.change(1, vec![(root("a"), Some(11))]);
        names.change(2, vec![((9, "b".into()), Some(12))]);
        names.change(3, vec![(root("c"), Some(13))]);
        names.sync(ROOT, 2);
        assert_eq!(durable(&names), [("a", 11)]);
        names.sync(ROOT, 3);
        assert_eq!(durable(&names), [("a", 11), ("c", 13)]);
        assert_eq!(names.losable().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn rename_between_directories_is_durable_once_both_are_synced() {
        let mut names = Names::default();
        names.change(1, vec![(root("a"), Some(11))]);
        names.sync(ROOT, 1);
        names.change(2, vec![(root("a"), None), ((9, "a".into()), Some(11))]);
        names.sync(9, 2);
        assert_eq!(names.durable.keys().next(), Some(&root("a")));
        names.sync(ROOT, 2);
        assert_eq!(names.durable.keys().collect::<Vec<_>>(), [&(9, "a".into())]);
    }

    #[test]
    fn renamed_file_has_one_of_its_names_whatever_is_kept() {
        let mut names = Names::default();
        names.change(1, vec![(root("a"), Some(10))]);
        names.sync(ROOT, 1);
        names.change(2, vec![(root("a.tmp"), Some(11))]);
        names.change(3, vec![(root("a.tmp"), None), (root("a"), Some(11))]);
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let mut draw = Draw::new(CutMode::KeepSubset { seed, grain: None }, 2..4);
            let manner = draw.manner();
            let table = names.survivor(&mut draw, manner);
            let (a, temporary) = (table.get(&root("a")).copied(), table.get(&root("a.tmp")).copied());
            assert!(matches!((a, temporary), (Some(10), None | Some(11)) | (Some(11), None)), "seed {seed}");
            seen.insert((a, temporary));
        }
        assert_eq!(seen.len(), 3);
    }
}

//! The strict directory as a value: files, names, what of them is durable, and what a cut leaves.
//!
//! Pure: no FUSE, no clock, no file. `fuse` applies the events of a live directory to it, [`super::Replay`] those of a
//! recording; either way the same tree is the result.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::content::{Content, FileState, Number};
use super::draw::Draw;
use super::names::{Inode, Names, ROOT, list};
use crate::error::{At, Result};
use crate::fault::CutMode;

/// What a strict directory did. Files and directories are told apart by their inode numbers, which are never used twice;
/// 1 is the directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrictAction {
    /// A name for a new, empty file. Durable once its directory is synced.
    CreateFile {
        /// The directory.
        parent: u64,
        /// The file.
        inode: u64,
        /// Its name there.
        name: OsString,
    },
    /// A name for a new directory. Durable once its parent is synced.
    CreateDirectory {
        /// Where it is.
        parent: u64,
        /// The new directory.
        inode: u64,
        /// Its name there.
        name: OsString,
    },
    /// A name went. Durable once its directory is synced.
    Remove {
        /// The directory.
        parent: u64,
        /// The name.
        name: OsString,
    },
    /// A name became another, in place of what that named. Durable once both directories are synced.
    Rename {
        /// The old directory.
        parent: u64,
        /// The old name.
        name: OsString,
        /// The new directory.
        new_parent: u64,
        /// The new name.
        new_name: OsString,
    },
    /// Bytes were written. Durable once the file is synced, or this write is settled.
    Write {
        /// The file.
        inode: u64,
        /// Where in it.
        offset_bytes: u64,
        /// What.
        data: Vec<u8>,
    },
    /// The file was cut or extended. Durable once it is synced.
    SetLength {
        /// The file.
        inode: u64,
        /// Its new length.
        len_bytes: u64,
    },
    /// A write that carried `O_DSYNC` became durable, and with it no more than the length that is needed to find it.
    Settle {
        /// The file.
        inode: u64,
        /// Number of the event that is the write.
        write: u64,
    },
    /// `fsync` or `fdatasync` of a file came to its end: what was done to it before is durable.
    SyncFile {
        /// The file.
        inode: u64,
        /// Number of the last event when the sync was asked for.
        upto: u64,
    },
    /// `fsync` of a directory came to its end: changes of its names that were made before are durable.
    SyncDirectory {
        /// The directory.
        inode: u64,
        /// Number of the last event when the sync was asked for.
        upto: u64,
    },
}

impl StrictAction {
    /// Whether it makes something durable.
    pub fn is_flush(&self) -> bool {
        matches!(self, Self::Settle { .. } | Self::SyncFile { .. } | Self::SyncDirectory { .. })
    }
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileState),
    Directory,
}

/// All of it. A copy shares the pages of files.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<Inode, Node>,
    names: Names,
}

impl Tree {
    pub(super) fn node(&self, inode: Inode) -> Option<&Node> {
        if inode == ROOT { Some(&Node::Directory) } else { self.nodes.get(&inode) }
    }

    pub(super) fn file(&self, inode: Inode) -> Option<&FileState> {
        match self.node(inode) {
            Some(Node::File(file)) => Some(file),
            _ => None,
        }
    }

    pub(super) fn lookup(&self, directory: Inode, name: &OsStr) -> Option<(Inode, &Node)> {
        let inode = self.names.get(directory, name)?;
        Some((inode, self.node(inode)?))
    }

    pub(super) fn list(&self, directory: Inode) -> impl Iterator<Item = (&OsStr, Inode, &Node)> {
        self.names.list(directory).filter_map(|(name, inode)| Some((name, inode, self.node(inode)?)))
    }

    /// Does what event `number` says. What it says of a file that no name leads to any more does not matter.
    pub(super) fn apply(&mut self, number: Number, action: &StrictAction) {
        match action {
            StrictAction::CreateFile { parent, inode, name } => {
                self.nodes.insert(*inode, Node::File(FileState::default()));
                self.names.change(number, vec![((*parent, name.clone()), Some(*inode))]);
            }
            StrictAction::CreateDirectory { parent, inode, name } => {
                self.nodes.insert(*inode, Node::Directory);
                self.names.change(number, vec![((*parent, name.clone()), Some(*inode))]);
            }
            StrictAction::Remove { parent, name } => {
                self.names.change(number, vec![((*parent, name.clone()), None)]);
            }
            StrictAction::Rename { parent, name, new_parent, new_name } => {
                let target = self.names.get(*parent, name);
                let old = ((*parent, name.clone()), None);
                let new = ((*new_parent, new_name.clone()), target);
                // A file renamed to itself stays as it is.
                if old.0 != new.0 {
                    self.names.change(number, vec![old, new]);
                }
            }
            StrictAction::Write { inode, offset_bytes, data } => {
                self.change(*inode, |file| file.write(number, *offset_bytes, data));
            }
            StrictAction::SetLength { inode, len_bytes } => {
                self.change(*inode, |file| file.set_len(number, *len_bytes));
            }
            StrictAction::Settle { inode, write } => self.change(*inode, |file| file.settle(*write)),
            StrictAction::SyncFile { inode, upto } => self.change(*inode, |file| file.flush(*upto)),
            StrictAction::SyncDirectory { inode, upto } => self.names.sync(*inode, *upto),
        }
    }

    fn change(&mut self, inode: Inode, change: impl FnOnce(&mut FileState)) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&inode) {
            change(file);
        }
    }

    /// Forgets what no name leads to, nor may lead to after a cut, and nobody has open.
    pub(super) fn forget_unreferenced(&mut self, is_open: impl Fn(Inode) -> bool) {
        let referenced = self.names.referenced();
        self.nodes.retain(|inode, _| referenced.contains(inode) || is_open(*inode));
    }

    /// What is left when the power goes now.
    pub(super) fn cut(&self, mode: CutMode) -> Image {
        let files = || {
            self.nodes.iter().filter_map(|(inode, node)| match node {
                Node::File(file) => Some((*inode, file)),
                Node::Directory => None,
            })
        };
        let losable = || files().flat_map(|(_, file)| file.losable()).chain(self.names.losable());
        let numbers = losable().min().unwrap_or(0)..losable().max().map_or(0, |last| last + 1);
        let mut draw = Draw::new(mode, numbers);
        let manner = draw.manner();
        let names = self.names.survivor(&mut draw, manner);
        let mut contents: BTreeMap<Inode, Content> = files()
            .map(|(inode, file)| {
                let manner = draw.manner();
                (inode, file.survivor(&mut draw, manner))
            })
            .collect();
        // What can be reached from the root: a directory whose own name is lost is lost with all that is in it.
        let mut image = Image { directories: Vec::new(), files: BTreeMap::new() };
        let mut left = vec![(PathBuf::new(), ROOT)];
        while let Some((path, directory)) = left.pop() {
            for (name, inode) in list(&names, directory) {
                let path = path.join(name);
                match contents.remove(&inode) {
                    Some(content) => drop(image.files.insert(path, content)),
                    None => {
                        image.directories.push(path.clone());
                        left.push((path, inode));
                    }
                }
            }
        }
        image.directories.sort();
        image
    }
}

/// What a strict directory holds after a cut, to be written into a plain one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    directories: Vec<PathBuf>,
    files: BTreeMap<PathBuf, Content>,
}

impl Image {
    /// Makes all of it in `directory`, which is made if it is missing and must be empty. Nothing is flushed.
    pub fn write_to(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).at("create the directory", directory)?;
        // Parents come before what is in them.
        for path in &self.directories {
            let path = directory.join(path);
            fs::create_dir(&path).at("create the directory", &path)?;
        }
        for (path, content) in &self.files {
            let path = directory.join(path);
            let file = File::create_new(&path).at("create", &path)?;
            content.write_to(&file).at("write to", &path)?;
        }
        Ok(())
    }

    /// Paths of the files, relative to the directory, and their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().map(|(path, content)| (path.as_path(), content.len()))
    }

    /// Paths of the directories, relative to it.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Applied {
        tree: Tree,
        last: Number,
    }

    impl Applied {
        fn new() -> Self {
            Applied { tree: Tree::default(), last: 0 }
        }

        fn then(&mut self, action: &StrictAction) -> &mut Self {
            self.last += 1;
            self.tree.apply(self.last, action);
            self
        }

        fn file(&mut self, parent: Inode, inode: Inode, name: &str) -> &mut Self {
            self.then(&StrictAction::CreateFile { parent, inode, name: name.into() })
        }

        fn write(&mut self, inode: Inode, data: &[u8]) -> &mut Self {
            self.then(&StrictAction::Write { inode, offset_bytes: 0, data: data.to_vec() })
        }

        fn sync(&mut self, inode: Inode) -> &mut Self {
            let upto = self.last;
            self.then(&StrictAction::SyncFile { inode, upto })
        }

        fn sync_directory(&mut self, inode: Inode) -> &mut Self {
            let upto = self.last;
            self.then(&StrictAction::SyncDirectory { inode, upto })
        }

        fn durable(&self) -> Vec<(String, u64)> {
            let image = self.tree.cut(CutMode::DropAll);
            image.files().map(|(path, len)| (path.display().to_string(), len)).collect()
        }
    }

    #[test]
    fn file_is_there_once_its_directory_is_synced_and_has_what_was_synced_of_it() {
        let mut applied = Applied::new();
        applied.file(ROOT, 2, "a").write(2, b"abc").sync(2);
        assert_eq!(applied.durable(), []);
        applied.sync_directory(ROOT).write(2, b"abcdef");
        assert_eq!(applied.durable(), [("a".to_owned(), 3)]);
    }

    #[test]
    fn sync_of_one_file_or_directory_is_none_of_another() {
        let mut applied = Applied::new();
        applied.file(ROOT, 2, "a").file(ROOT, 3, "b").sync_directory(ROOT);
        applied.write(2, b"abc").write(3, b"abc").sync(2);
        assert_eq!(applied.durable(), [("a".to_owned(), 3), ("b".to_owned(), 0)]);
        let name = "inner".into();
        applied.then(&StrictAction::CreateDirectory { parent: ROOT, inode: 4, name });
        applied.file(4, 5, "c").sync_directory(4);
        assert_eq!(
            applied.durable().len(),
            2,
            "a directory without a durable name is lost with what is in it"
        );
        applied.sync_directory(ROOT);
        assert_eq!(applied.durable().last(), Some(&("inner/c".to_owned(), 0)));
    }

    #[test]
    fn removed_file_is_back_after_a_cut_until_its_directory_is_synced() {
        let mut applied = Applied::new();
        applied.file(ROOT, 2, "a").write(2, b"abc").sync(2).sync_directory(ROOT);
        applied.then(&StrictAction::Remove { parent: ROOT, name: "a".into() });
        applied.tree.forget_unreferenced(|_| false);
        assert_eq!(applied.durable(), [("a".to_owned(), 3)]);
        applied.sync_directory(ROOT);
        applied.tree.forget_unreferenced(|_| false);
        assert_eq!(applied.durable(), []);
        assert!(applied.tree.nodes.is_empty());
    }

    #[test]
    fn replaced_file_is_the_old_or_the_new_one_and_the_new_one_is_empty_if_it_was_not_synced() {
        let mut applied = Applied::new();
        applied.file(ROOT, 2, "a").write(2, b"old").sync(2).sync_directory(ROOT);
        applied.file(ROOT, 3, "a.tmp").write(3, b"newer");
        applied.then(&StrictAction::Rename {
            parent: ROOT,
            name: "a.tmp".into(),
            new_parent: ROOT,
            new_name: "a".into(),
        });
        assert_eq!(applied.durable(), [("a".to_owned(), 3)]);
        applied.sync_directory(ROOT);
        assert_eq!(applied.durable(), [("a".to_owned(), 0)]);
    }

    #[test]
    fn image_written_to_a_directory_is_read_back() {
        let mut applied = Applied::new();
        applied.then(&StrictAction::CreateDirectory { parent: ROOT, inode: 2, name: "d".into() });
        let data: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        applied.file(2, 3, "f").write(3, &data);
        let place = tempfile::tempdir().unwrap();
        applied.tree.cut(CutMode::OsCrash).write_to(&place.path().join("made")).unwrap();
        assert_eq!(fs::read(place.path().join("made/d/f")).unwrap(), data);
    }
}

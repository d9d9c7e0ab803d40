//! The disk against an oracle: random writes, flushes, truncations and crashes, and for each sector the set of
//! versions that the contract allows.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use highwater_io::fs::{Durability, File};
use highwater_io::sim::{DiskConfig, World, WorldConfig};
use highwater_io::{Io, IoBuf};

use crate::support::{CREATE, create, run_on};

const SECTOR: usize = 512;
const SECTORS: usize = 64;

/// For each sector the versions it had, the first of which is known to be durable.
struct Oracle {
    versions: Vec<Vec<u64>>,
    next: u64,
}

impl Oracle {
    fn new() -> Self {
        Oracle { versions: vec![vec![0]; SECTORS], next: 1 }
    }

    /// Position of the newest version of each sector: what a flush asked for now will cover.
    fn newest(&self) -> Vec<u64> {
        self.versions.iter().map(|versions| *versions.last().expect("a sector has a version")).collect()
    }

    fn durable(&mut self, sector: usize, version: u64) {
        let versions = &mut self.versions[sector];
        if let Some(at) = versions.iter().position(|&known| known == version) {
            versions.drain(..at);
        }
    }

    fn check(&mut self, content: &[u8], context: &str) -> usize {
        let mut newest = 0;
        for (sector, bytes) in content.chunks(SECTOR).enumerate() {
            let version = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            assert!(bytes.chunks(8).all(|chunk| chunk == &bytes[..8]), "{context}: sector {sector} is torn");
            let allowed = &self.versions[sector];
            assert!(
                allowed.contains(&version),
                "{context}: sector {sector} is {version}, allowed are {allowed:?}"
            );
            newest += usize::from(allowed.last() == Some(&version));
            self.versions[sector] = vec![version];
        }
        newest
    }
}

fn sectors_of(version: u64, count: usize) -> Bytes {
    IoBuf::copy_from_slice(&version.to_le_bytes().repeat(count * SECTOR / 8)).freeze()
}

/// One random step on the files, all of which are the same one.
async fn step(io: &Io, files: &[File; 2], oracle: &Rc<RefCell<Oracle>>) {
    let random = |bound: usize| (io.random_u64() % bound as u64) as usize;
    let file = &files[random(2)];
    match random(10) {
        0 | 1 => {
            let newest = oracle.borrow().newest();
            file.sync_data().await.expect("the disk is sound");
            let mut oracle = oracle.borrow_mut();
            for (sector, version) in newest.into_iter().enumerate() {
                oracle.durable(sector, version);
            }
        }
        kind => {
            let start = random(SECTORS);
            let count = 1 + random(SECTORS - start).min(11);
            let version = oracle.borrow().next;
            {
                let mut oracle = oracle.borrow_mut();
                oracle.next += 1;
                (start..start + count).for_each(|sector| oracle.versions[sector].push(version));
            }
            let durability = if kind == 2 { Durability::Sync } else { Durability::Plain };
            let data = vec![sectors_of(version, count)];
            file.write_at(data, (start * SECTOR) as u64, durability).await.expect("the disk is sound");
            if durability == Durability::Sync {
                let mut oracle = oracle.borrow_mut();
                (start..start + count).for_each(|sector| oracle.durable(sector, version));
            }
        }
    }
}

#[test]
fn crash_leaves_only_versions_that_the_contract_allows() {
    let (mut newest, mut total) = (0, 0);
    for seed in 0..150 {
        let disk = DiskConfig { direct_alignment: 512, ..DiskConfig::default() };
        let mut world = World::new(seed, WorldConfig { disk, ..WorldConfig::default() });
        let node = world.add_node("node");
        run_on(&mut world, node, |io| async move {
            let file = create(&io.fs(), "/f", CREATE).await;
            file.allocate(0, (SECTORS * SECTOR) as u64).await.expect("there is space");
            file.sync_all().await.expect("the disk is sound");
        });
        let oracle = Rc::new(RefCell::new(Oracle::new()));
        for round in 0..4 {
            let shared = Rc::clone(&oracle);
            world.start(node, vec![()], move |io, ()| {
                let oracle = Rc::clone(&shared);
                async move {
                    let fs = io.fs();
                    let cached = fs.open("/f", CREATE).await.expect("it is there");
                    let direct = fs.open("/f", CREATE.direct()).await.expect("it is there");
                    let files = [cached, direct];
                    loop {
                        step(&io, &files, &oracle).await;
                    }
                }
            });
            let disk = world.disk_of(node);
            // Not only between operations: also with one in flight.
            let steps = 5 + (seed * 7 + round * 13) % 60;
            disk.cut_power_at_event(disk.events() + steps);
            world.run_until(|world| !world.is_up(node)).expect("the power goes");
            let context = format!("seed {seed}, round {round}");
            newest += oracle.borrow_mut().check(&disk.snapshot_files()["/f"], &context);
            total += SECTORS;
        }
    }
    assert!(newest < total * 95 / 100, "unflushed versions do get lost: {newest} of {total}");
    assert!(newest > total / 4, "and not all of them: {newest} of {total}");
}

/// What a file holds, byte by byte, and which of its bytes must survive.
#[derive(Default)]
struct Promises {
    live: Vec<u8>,
    promised: Vec<Option<u8>>,
    next: u8,
}

impl Promises {
    /// A change of these bytes was asked for: from now on they are old or new.
    fn doubt(&mut self, range: std::ops::Range<usize>) {
        let end = range.end.min(self.promised.len());
        self.promised[range.start.min(end)..end].fill(None);
    }

    fn promise(&mut self, at: usize, bytes: &[u8]) {
        self.promised.resize(self.promised.len().max(at + bytes.len()), None);
        for (promised, &byte) in self.promised[at..].iter_mut().zip(bytes) {
            *promised = Some(byte);
        }
    }

    fn check(&mut self, content: &[u8], context: &str) {
        for (at, promised) in self.promised.iter().enumerate() {
            let kept = promised.is_none_or(|byte| content.get(at) == Some(&byte));
            assert!(kept, "{context}: byte {at} of {} is not {promised:?}", content.len());
        }
        self.live = content.to_vec();
        self.promised = content.iter().map(|&byte| Some(byte)).collect();
    }
}

async fn step_lengths(io: &Io, file: &File, promises: &Rc<RefCell<Promises>>) {
    let random = |bound: usize| (io.random_u64() % bound as u64) as usize;
    match random(8) {
        0 => {
            let snapshot = promises.borrow().live.clone();
            file.sync_data().await.expect("the disk is sound");
            promises.borrow_mut().promise(0, &snapshot);
        }
        1 | 2 => {
            let len = random(40_000);
            promises.borrow_mut().doubt(len..usize::MAX);
            file.set_len(len as u64).await.expect("the disk is sound");
            promises.borrow_mut().live.resize(len, 0);
        }
        kind => {
            let (at, count) = (random(38_000), 1 + random(5_000));
            let durability = if kind < 5 { Durability::Sync } else { Durability::Plain };
            let value = promises.borrow().next.wrapping_add(1);
            promises.borrow_mut().next = value;
            promises.borrow_mut().doubt(at..at + count);
            let bytes = Bytes::from(vec![value; count]);
            file.write_at(vec![bytes.clone()], at as u64, durability).await.expect("the disk is sound");
            let promises = &mut *promises.borrow_mut();
            promises.live.resize(promises.live.len().max(at + count), 0);
            promises.live[at..at + count].fill(value);
            if durability == Durability::Sync {
                promises.promise(at, &bytes);
            }
        }
    }
}

#[test]
fn crash_keeps_every_promised_byte_whatever_was_cut_and_extended() {
    for seed in 0..300 {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("node");
        run_on(&mut world, node, |io| async move {
            create(&io.fs(), "/f", CREATE).await;
        });
        let promises = Rc::new(RefCell::new(Promises::default()));
        for round in 0..5 {
            let shared = Rc::clone(&promises);
            world.start(node, vec![()], move |io, ()| {
                let promises = Rc::clone(&shared);
                async move {
                    let file = io.fs().open("/f", CREATE).await.expect("it is there");
                    loop {
                        step_lengths(&io, &file, &promises).await;
                    }
                }
            });
            let disk = world.disk_of(node);
            disk.cut_power_at_event(disk.events() + 3 + (seed * 7 + round * 13) % 40);
            world.run_until(|world| !world.is_up(node)).expect("the power goes");
            let context = format!("seed {seed}, round {round}");
            assert_eq!(disk.durable_files(), disk.snapshot_files(), "{context}: survivors are durable");
            promises.borrow_mut().check(&disk.snapshot_files()["/f"], &context);
        }
    }
}

/// For each name the tags of the files it named, the first of which is known to be durable.
struct NameOracle {
    versions: BTreeMap<String, Vec<Option<u64>>>,
    /// Tags of files whose name was removed or replaced since the last crash.
    removed: BTreeSet<u64>,
    next: u64,
}

impl NameOracle {
    fn current(&self, name: &str) -> Option<u64> {
        self.versions[name].last().copied().flatten()
    }

    fn set(&mut self, name: &str, tag: Option<u64>) {
        self.removed.extend(self.current(name).filter(|_| tag != self.current(name)));
        self.versions.get_mut(name).expect("the names are known").push(tag);
    }

    fn synced(&mut self) {
        for versions in self.versions.values_mut() {
            versions.drain(..versions.len() - 1);
        }
    }

    fn check(&mut self, files: &BTreeMap<String, Vec<u8>>, context: &str) {
        let durable: BTreeSet<u64> = self.versions.values().filter_map(|versions| versions[0]).collect();
        let mut found = BTreeSet::new();
        for (name, versions) in &mut self.versions {
            let tag = files.get(name).map(|bytes| u64::from_le_bytes(bytes[..].try_into().expect("a tag")));
            assert!(versions.contains(&tag), "{context}: {name} is {tag:?}, allowed are {versions:?}");
            assert!(tag.is_none_or(|tag| found.insert(tag)), "{context}: {tag:?} has two names");
            *versions = vec![tag];
        }
        let missing: Vec<_> = durable.difference(&found).filter(|tag| !self.removed.contains(tag)).collect();
        assert!(missing.is_empty(), "{context}: durable and never removed: {missing:?}");
        self.removed.clear();
    }
}

async fn step_names(io: &Io, oracle: &Rc<RefCell<NameOracle>>) {
    let fs = io.fs();
    let random = |bound: usize| (io.random_u64() % bound as u64) as usize;
    let name = || format!("/{}", ["a", "b", "c", "d"][random(4)]);
    let (from, to) = (name(), name());
    let exists = oracle.borrow().current(&from).is_some();
    match random(6) {
        0 => {
            fs.sync_dir("/").await.expect("the disk is sound");
            oracle.borrow_mut().synced();
        }
        1 if exists => {
            oracle.borrow_mut().set(&from, None);
            fs.remove_file(&from).await.expect("it is there");
        }
        2 | 3 if exists && from != to => {
            let tag = oracle.borrow().current(&from);
            oracle.borrow_mut().set(&to, tag);
            oracle.borrow_mut().versions.get_mut(&from).expect("the names are known").push(None);
            fs.rename(&from, &to).await.expect("it is there");
        }
        4 | 5 if !exists => {
            // A file with its content, under a name of its own, is renamed into place.
            let tag = oracle.borrow().next;
            oracle.borrow_mut().next += 1;
            let file = fs.open("/new", CREATE.truncate()).await.expect("there is space");
            let tag_bytes = vec![Bytes::copy_from_slice(&tag.to_le_bytes())];
            file.write_at(tag_bytes, 0, Durability::Sync).await.expect("the disk is sound");
            oracle.borrow_mut().set(&from, Some(tag));
            fs.rename("/new", &from).await.expect("it is there");
        }
        _ => {}
    }
}

#[test]
fn crash_leaves_each_name_somewhere_in_its_history() {
    for seed in 0..150 {
        let mut world = World::new(seed, WorldConfig::default());
        let node = world.add_node("node");
        let versions = ["/a", "/b", "/c", "/d"].map(|name| (name.to_owned(), vec![None])).into();
        let oracle = Rc::new(RefCell::new(NameOracle { versions, removed: BTreeSet::new(), next: 1 }));
        for round in 0..6 {
            let shared = Rc::clone(&oracle);
            world.start(node, vec![()], move |io, ()| {
                let oracle = Rc::clone(&shared);
                async move {
                    loop {
                        step_names(&io, &oracle).await;
                    }
                }
            });
            let disk = world.disk_of(node);
            disk.cut_power_at_event(disk.events() + 5 + (seed * 7 + round * 13) % 60);
            world.run_until(|world| !world.is_up(node)).expect("the power goes");
            oracle.borrow_mut().check(&disk.snapshot_files(), &format!("seed {seed}, round {round}"));
        }
    }
}

#[test]
fn reader_sees_every_completed_write_whatever_is_durable() {
    for seed in 0..100 {
        highwater_io::sim::run(seed, move |io| async move {
            let fs = io.fs();
            let file = create(&fs, "/f", CREATE).await;
            let mut expected = vec![0_u8; 40_000];
            let mut len = 0;
            for version in 1..60_u8 {
                let random = |bound: usize| (io.random_u64() % bound as u64) as usize;
                match random(8) {
                    0 => file.sync_data().await.expect("the disk is sound"),
                    1 => {
                        let cut = random(40_000);
                        file.set_len(cut as u64).await.expect("the disk is sound");
                        expected[cut.min(len)..].fill(0);
                        len = cut;
                    }
                    kind => {
                        let start = random(30_000);
                        let count = 1 + random(9_999);
                        let durability = if kind == 2 { Durability::Sync } else { Durability::Plain };
                        let bytes = Bytes::from(vec![version; count]);
                        let (front, back) = (bytes.slice(..count / 3), bytes.slice(count / 3..));
                        let done = file.write_at(vec![front, back], start as u64, durability).await;
                        done.expect("the disk is sound");
                        expected[start..start + count].fill(version);
                        len = len.max(start + count);
                    }
                }
                let found = fs.read_file("/f", 1 << 20).await.expect("the disk is sound");
                assert!(found == expected[..len], "seed {seed}, version {version}");
            }
        });
    }
}

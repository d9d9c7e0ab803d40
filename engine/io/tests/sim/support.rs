//! What the tests share.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use highwater_io::fs::{Durability, File, Fs, OpenOptions};
use highwater_io::sim::{Exit, NodeId, NodeStatus, World, WorldConfig};
use highwater_io::{Io, IoBuf};

pub(crate) const CREATE: OpenOptions = OpenOptions::read_write().create();

/// Outcomes over the seeds `0..count`.
pub(crate) fn outcomes<T: Ord>(count: u64, run: impl Fn(u64) -> T) -> BTreeMap<T, u64> {
    let mut found = BTreeMap::new();
    for seed in 0..count {
        *found.entry(run(seed)).or_default() += 1;
    }
    found
}

/// A world with one node that runs `main` to its end.
pub(crate) fn world_after<F, Fut>(seed: u64, main: F) -> (World, NodeId)
where
    F: Fn(Io) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    world_after_with(seed, WorldConfig::default(), main)
}

pub(crate) fn world_after_with<F, Fut>(seed: u64, config: WorldConfig, main: F) -> (World, NodeId)
where
    F: Fn(Io) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut world = World::new(seed, config);
    let node = world.add_node("node");
    run_on(&mut world, node, main);
    (world, node)
}

/// Runs one shard on a node that is down, to its end.
pub(crate) fn run_on<F, Fut>(world: &mut World, node: NodeId, main: F)
where
    F: Fn(Io) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    world.start(node, vec![()], move |io, ()| main(io));
    world.run_until(|world| !world.is_up(node)).expect("the node ends");
    assert_eq!(world.status(node), NodeStatus::Down(Exit::Returned));
}

/// The file at `path` after a power cut, if its name survived.
pub(crate) fn after_power_cut(mut world: World, node: NodeId, path: &str) -> Option<Vec<u8>> {
    world.power_cut(node);
    world.disk_of(node).snapshot_files().remove(path)
}

/// Creates a file whose name is durable.
pub(crate) async fn create(fs: &Fs, path: &str, options: OpenOptions) -> File {
    let file = fs.open(path, options).await.expect("a fresh disk takes a file");
    fs.sync_dir("/").await.expect("the root can be synced");
    file
}

pub(crate) async fn write(file: &File, position: u64, bytes: Bytes) {
    file.write_at(vec![bytes], position, Durability::Plain).await.expect("the disk is sound");
}

pub(crate) async fn read(file: &File, position: u64, len: usize) -> Bytes {
    let read = file.read_at(IoBuf::with_capacity(len), position, len).await;
    read.expect("the disk is sound").freeze()
}

/// `count` aligned bytes of one value.
pub(crate) fn filled(value: u8, count: usize) -> Bytes {
    IoBuf::copy_from_slice(&vec![value; count]).freeze()
}

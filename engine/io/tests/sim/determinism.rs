//! The same seed gives the same trace, and another seed another one.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use highwater_io::Io;
use highwater_io::fs::{Durability, OpenOptions};
use highwater_io::mailbox::{self, Receiver, Sender};
use highwater_io::net::ListenOptions;
use highwater_io::sim::{DiskOp, Fault, World, WorldConfig};

use crate::support::filled;

type Mail = (Sender<u64>, Receiver<u64>);

/// Something of everything: files of both kinds, streams, timers, mailboxes, maps, restarts.
async fn busy_shard(io: Io, (sender, mut receiver): Mail, progress: Rc<Cell<u64>>) {
    let fs = io.fs();
    let directory = format!("/shard-{}", io.shard());
    fs.create_dir_all_durable(&directory).await.expect("the disk takes directories");
    let path = format!("{directory}/log");
    let file = fs.open(&path, OpenOptions::read_write().create().direct()).await.expect("there is space");
    let address = ([0, 0, 0, 0], 7000 + u16::try_from(io.shard().0).expect("few shards")).into();
    let listener = io.listen(address, ListenOptions::default()).await.expect("the port is free");
    let server = io.clone();
    io.spawn(async move {
        while let Ok(stream) = listener.accept().await {
            server
                .spawn(async move {
                    while let Ok(bytes) = stream.recv().await
                        && !bytes.is_empty()
                        && stream.send(vec![bytes]).await.is_ok()
                    {}
                })
                .detach();
        }
    })
    .detach();
    let mut map = std::collections::HashMap::with_hasher(io.hash_state());
    for round in 0.. {
        let position = (io.random_u64() % 16) * 4096;
        let durability = if io.random_u64().is_multiple_of(3) { Durability::Sync } else { Durability::Plain };
        let _ = file.write_at(vec![filled(round as u8, 4096)], position, durability).await;
        if round % 5 == 0 {
            let _ = file.sync_data().await;
        }
        map.insert(position, round);
        // Iteration over a map in an order of its own must not make a difference between two runs.
        let first = map.keys().next().copied().unwrap_or_default();
        let _ = sender.try_send(first);
        let _ = io.timeout(Duration::from_micros(50 + first % 100), receiver.recv()).await;
        let peer = ["a", "b", "c"][(io.random_u64() % 3) as usize];
        let address = io.resolve(peer, 7000).await.expect("the nodes are there")[0];
        let _ = io
            .timeout(Duration::from_millis(20), async {
                let stream = io.connect(address).await?;
                stream.send(vec![filled(1, 3000)]).await?;
                stream.recv().await
            })
            .await;
        progress.set(progress.get() + 1);
    }
}

fn busy_world(seed: u64) -> (u64, u64) {
    let mut world = World::new(seed, WorldConfig::default());
    let nodes = ["a", "b", "c"].map(|name| world.add_node(name));
    let progress = Rc::new(Cell::new(0));
    let start = |world: &mut World, node| {
        let (a, b) = (mailbox::channel(1), mailbox::channel(1));
        let states = vec![(a.0, b.1), (b.0, a.1)];
        let progress = Rc::clone(&progress);
        world.start(node, states, move |io, mail| busy_shard(io, mail, Rc::clone(&progress)));
    };
    for node in nodes {
        start(&mut world, node);
        world.disk_of(node).inject(Fault::eio(DiskOp::Write).one_in(50));
    }
    world.run_for(Duration::from_millis(40)).expect("nothing is wrong");
    world.kill(nodes[0]);
    world.partition(nodes[1], nodes[2]);
    world.run_for(Duration::from_millis(40)).expect("nothing is wrong");
    start(&mut world, nodes[0]);
    world.power_cut(nodes[1]);
    world.heal_all();
    start(&mut world, nodes[1]);
    world.pause(nodes[2]);
    world.run_for(Duration::from_millis(40)).expect("nothing is wrong");
    world.resume(nodes[2]);
    world.run_for(Duration::from_millis(40)).expect("nothing is wrong");
    (world.trace_hash(), progress.get())
}

#[test]
fn same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..40 {
        let (hash, progress) = busy_world(seed);
        assert_eq!((hash, progress), busy_world(seed), "seed {seed}");
        assert!(progress > 20, "seed {seed} did something: {progress}");
        hashes.insert(hash);
    }
    assert_eq!(hashes.len(), 40);
}

#[test]
fn trace_tells_a_different_program_from_the_same_seed() {
    let hash = |len| {
        let mut world = World::new(1, WorldConfig::default());
        let node = world.add_node("node");
        world.start(node, vec![()], move |io, ()| async move {
            let file = io.fs().open("/f", OpenOptions::read_write().create()).await.expect("it is fresh");
            for _ in 0..len {
                file.sync_data().await.expect("the disk is sound");
            }
        });
        world.run().expect("the node ends");
        world.trace_hash()
    };
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

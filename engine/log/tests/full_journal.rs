//! The story: a deletion took the partition's write-behind turn and then waited for room in the journal. The journal was
//! full, so the room could only come from a checkpoint, and the checkpoint waited for that turn: the shard stood still
//! for ever. The simulator of the whole broker found it.

mod common;

use std::time::Duration;

use common::{append_one, create, id, open};
use highwater_io::Io;
use highwater_log::Partition;

/// Fills the journal again and again.
async fn fill(log: Partition) {
    for _ in 0..200 {
        append_one(&log, &[7; 3_000]).await;
    }
}

async fn delete_while_others_append(io: Io) {
    let (_dir, logs, _) = open(&io).await;
    let mut fillers = Vec::new();
    for partition in 0..3 {
        fillers.push(io.spawn(fill(create(&logs, partition).await)));
    }
    let work = async {
        for _ in 0..40 {
            let log = create(&logs, 9).await;
            append_one(&log, &[9; 3_000]).await;
            logs.delete_partition(&id(9)).await.expect("deleted");
        }
        for filler in fillers {
            filler.await;
        }
    };
    io.timeout(Duration::from_secs(600), work).await.expect("nothing stands still");
}

#[test]
fn deletion_while_the_journal_is_full_lets_it_go_on() {
    for seed in 0..8 {
        highwater_io::sim::run(seed, delete_while_others_append);
    }
}

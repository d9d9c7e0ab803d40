//! What a closed log leaves behind in the process that goes on.

mod common;

use std::path::Path;

use common::{DIR, open, options};
use highwater_io::sim::{World, WorldConfig};
use highwater_log::DataDir;

/// Found by a fuzz target: a journal file that was being prepared during the close was kept open, and locked, by the
/// journal that nobody used any more, and the next start waited for that lock for ever.
#[test]
fn directory_is_opened_again_while_handles_of_the_closed_log_live() {
    for seed in 0..40 {
        let config = WorldConfig { max_steps: 100_000, ..WorldConfig::default() };
        let mut world = World::new(seed, config);
        let node = world.add_node("node");
        world.start(node, vec![()], |io, ()| async move {
            let (dir, logs, _) = open(&io).await;
            // At once: the second file of the journal is on its way.
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");
            let (_dir, report) =
                DataDir::open(&io, Path::new(DIR), options()).await.expect("opens while handles are kept");
            assert!(report.was_clean);
            drop(logs);
        });
        world.run().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

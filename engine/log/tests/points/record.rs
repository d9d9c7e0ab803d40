//! Work on a strict directory, recorded.

use std::path::PathBuf;

use highwater_disk::ServerProgram;
use highwater_disk::strict::{StrictConfig, StrictDirectory, preflight};

use crate::ledger::Ledger;
use crate::walk::{DIR, scratch};
use crate::work::{Kind, Work, run};

/// What a run left.
pub(crate) struct Recorded {
    pub(crate) ledger: Ledger,
    pub(crate) recording: PathBuf,
    /// Where the recording is; it goes with this.
    pub(crate) place: tempfile::TempDir,
}

/// Does the work on a strict directory; none, loudly, where there can be none.
pub(crate) fn record(work: &Work, server: ServerProgram) -> Option<Recorded> {
    if let Err(error) = preflight() {
        eprintln!("\n*** SKIPPED: {error} ***\n");
        return None;
    }
    let place = scratch();
    let recording = place.path().join("recording");
    let config = StrictConfig { server, ..StrictConfig::new(&recording) };
    let directory = StrictDirectory::create(config).expect("a strict directory");
    let ledger = run(work, &directory.mount_point().join(DIR));
    directory.stop().expect("it goes without a trace");
    Some(Recorded { ledger, recording, place })
}

impl Work {
    pub(crate) fn everything(seed: u64) -> Work {
        Work {
            kind: Kind::Everything,
            seed,
            lives: 3,
            operations: 40,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    pub(crate) fn settled_blocks(seed: u64) -> Work {
        Work { kind: Kind::SettledBlocks, lives: 8, operations: 2, ..Work::everything(seed) }
    }

    pub(crate) fn compaction(seed: u64) -> Work {
        Work { kind: Kind::Compaction, lives: 4, operations: 30, ..Work::everything(seed) }
    }
}

//! Short runs: on the strict directory at every point, on file systems at some; and the lies.

use highwater_disk::{FileSystem, ServerProgram};

use crate::block::{Sample, prove};
use crate::record::{Recorded, record};
use crate::walk::{Plan, walk};
use crate::work::{Kind, Work};

/// Not a test: this program serves its strict directories itself, in other processes.
#[test]
fn strict_directory_is_served() {
    highwater_disk::serve_if_asked();
}

fn this_program() -> ServerProgram {
    ServerProgram::ThisTest("runs::strict_directory_is_served".to_owned())
}

fn proven_at_every_point(work: &Work, subsets: u64, fewest_points: u64) {
    let Some(Recorded { ledger, recording, place: _place }) = record(work, this_program()) else { return };
    assert_eq!(ledger.violation, None);
    let (operations, (gone, gone_later)) = (ledger.operations(), ledger.compacted());
    let compacts = work.kind != Kind::SettledBlocks;
    assert!(
        !compacts || gone > 20 && gone_later > 5,
        "{gone} compacted away, {gone_later} of them after a pass"
    );
    let outcome = walk(&recording, ledger, Plan { every: 1, subsets, enough: 5 });
    println!(
        "{operations} operations, {gone} records compacted away, {gone_later} of them after a pass, {} points, {} states",
        outcome.points, outcome.states
    );
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert!(outcome.points >= fewest_points, "{} points", outcome.points);
}

#[test]
fn every_point_of_a_short_run_with_everything_is_recovered() {
    proven_at_every_point(&Work::everything(1), 1, 300);
}

#[test]
fn every_point_of_a_run_with_settled_blocks_is_recovered() {
    proven_at_every_point(&Work::settled_blocks(1), 2, 50);
}

#[test]
fn every_point_of_a_run_with_compaction_is_recovered() {
    proven_at_every_point(&Work::compaction(1), 2, 200);
}

fn proven(file_system: FileSystem) {
    let work = Work { lives: 2, operations: 25, ..Work::everything(7) };
    let Some(outcome) = prove(&work, file_system, this_program(), Sample { points: 25, subsets: 1 }) else {
        return;
    };
    println!("{}: {} points, {} states", file_system.name(), outcome.points, outcome.states);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert!(outcome.points >= 25, "{} points", outcome.points);
}

#[test]
fn points_of_a_recording_below_ext4_are_recovered() {
    proven(FileSystem::Ext4);
}

#[test]
fn points_of_a_recording_below_xfs_are_recovered() {
    proven(FileSystem::Xfs);
}

#[test]
fn points_of_a_recording_below_btrfs_are_recovered() {
    proven(FileSystem::Btrfs);
}

/// The lies that skip or misplace a flush, or act before one; and one about what a compaction leaves, which shows that the ledger
/// would see it.
#[cfg(feature = "mutants")]
mod lies {
    use highwater_log::mutants::{self, Mutant};

    use super::{Plan, Recorded, Work, record, this_program, walk};

    /// Runs within which each lie must be found.
    const RUNS: u64 = 3;

    /// Lies until a cut shows it; the first thing that was wrong.
    fn caught(mutant: Mutant, work: fn(u64) -> Work, subsets: u64) {
        for seed in 1..=RUNS {
            let lying = Work { mutant: Some(mutant), ..work(seed) };
            let Some(Recorded { ledger, recording, place: _place }) = record(&lying, this_program()) else {
                return;
            };
            let outcome = walk(&recording, ledger, Plan { every: 1, subsets, enough: 1 });
            if let Some(violation) = outcome.violations.first() {
                println!("{}: run {seed}, state {}: {violation:.200}", mutant.name, outcome.states);
                return;
            }
        }
        panic!("{} was not caught in {RUNS} runs", mutant.name);
    }

    macro_rules! caught {
        ($($test:ident: $mutant:ident by $work:ident with $subsets:literal;)*) => {
            $(#[test]
            fn $test() {
                caught(mutants::$mutant, Work::$work, $subsets);
            })*
        };
    }

    caught! {
        ack_before_write_is_caught: ACK_BEFORE_WRITE by everything with 1;
        skipped_flush_of_the_journal_is_caught: SKIP_JOURNAL_FLUSH by everything with 1;
        flushing_write_taken_for_a_flush_is_caught: FUA_COVERS_PLAIN by everything with 1;
        ack_before_flush_is_caught: ACK_BEFORE_FLUSH by everything with 1;
        flush_dropped_now_and_then_is_caught: DROP_FLUSH_SOMETIMES by everything with 1;
        truncation_before_it_is_durable_is_caught: ACT_BEFORE_DURABLE by everything with 1;
        skipped_flush_of_a_creation_is_caught: SKIP_CREATE_FLUSH by everything with 1;
        checkpoint_before_the_flush_of_its_segments_is_caught: CHECKPOINT_BEFORE_FLUSH by everything with 1;
        reuse_before_the_checkpoint_is_durable_is_caught: REUSE_BEFORE_CHECKPOINT by everything with 1;
        skipped_start_of_a_settled_block_is_caught: SKIP_SETTLED_PREFIX by settled_blocks with 6;
        service_before_the_flush_of_recovery_is_caught: SERVE_BEFORE_RECOVERY_FLUSH by settled_blocks with 6;
        replay_before_the_flush_of_the_journal_is_caught: REPLAY_BEFORE_FLUSH by settled_blocks with 10;
        write_behind_before_the_flush_of_the_journal_is_caught: DRAIN_BEFORE_DURABLE by settled_blocks with 10;
        swap_before_the_flush_of_the_compacted_segment_is_caught: SWAP_BEFORE_FLUSH by compaction with 1;
        removal_before_a_compaction_is_decided_is_caught: REMOVE_BEFORE_DECISION by compaction with 10;
        compacted_segment_named_before_the_removal_of_others_is_caught: NAME_BEFORE_REMOVAL by compaction with 6;
        the_same_by_a_start_is_caught: FINISH_BEFORE_REMOVAL by compaction with 10;
        compaction_of_what_a_start_may_replay_is_caught: COMPACT_NAMED_SEGMENT by compaction with 4;
        tombstone_dropped_by_the_first_pass_is_caught: TOMBSTONE_DROPPED_EARLY by compaction with 1;
    }
}

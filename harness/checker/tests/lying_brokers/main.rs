//! The checker against brokers that lie, each in one way, and against one that does not.
//!
//! A checker that misses a lie has failed, and one that accuses an honest broker is useless. So every
//! lie must be caught under its own name in every seed, with no other name than those that follow
//! from it; and the honest broker must come out clean under every setting and fault.

mod broker;
mod world;

use broker::Lie;
use highwater_checker::{Acks, Anomaly, Fault, FaultKind, Flush, Scope, Setting, Standing};
use world::{Scenario, contract, verdict};

const CUT: Option<Fault> =
    Some(Fault { kind: FaultKind::PowerCut, scope: Scope::AllBrokers, in_sync_replicas: None });
const KILL: Option<Fault> =
    Some(Fault { kind: FaultKind::ProcessKill, scope: Scope::AllBrokers, in_sync_replicas: None });
const SEEDS: u64 = 40;

fn idempotent(flush: Flush) -> Setting {
    Setting { idempotence: true, max_in_flight: 5, ..Setting::single_broker(Acks::All, flush) }
}

fn scenario(lie: Lie, setting: Setting, fault: Option<Fault>) -> Scenario {
    Scenario { setting, fault, lie, load_goes_on: true }
}

/// The lie is caught as `name` in every seed, and nothing is named that is neither that nor follows.
fn assert_caught(scenario: Scenario, name: Anomaly, follows: &[Anomaly]) {
    for load_goes_on in [true, false] {
        for seed in 0..SEEDS {
            let verdict = verdict(&Scenario { load_goes_on, ..scenario }, seed);
            let context =
                format!("{scenario:?}, load goes on: {load_goes_on}, seed {seed}: {:#?}", verdict.violations);
            assert_eq!(verdict.standing, Standing::Broken, "{context}");
            assert!(verdict.violation(name) > 0, "not called {name}: {context}");
            for finding in &verdict.violations {
                assert!(finding.anomaly == name || follows.contains(&finding.anomaly), "{context}");
                assert!(!finding.examples.is_empty(), "{context}");
            }
        }
    }
}

/// What a loss that nobody may have brings with it once consumers had read and load goes on.
const AFTER_LOSS: &[Anomaly] = &[
    Anomaly::ReadThenLost,
    Anomaly::OffsetReused,
    Anomaly::LogEndWentBack,
    Anomaly::CommittedOffsetWentBack,
];

fn and(more: &[Anomaly]) -> Vec<Anomaly> {
    [AFTER_LOSS, more].concat()
}

#[test]
fn honest_broker_under_any_setting_and_fault_is_clean() {
    let flushes = [
        Flush::EVERY_MESSAGE,
        Flush::every_messages(10),
        Flush::every_ms(5, 0),
        Flush { messages: Some(25), ..Flush::every_ms(3, 0) },
        Flush::LEFT_TO_SYSTEM,
    ];
    let (mut lost, mut after_cut, mut duplicates, mut unknown, mut trials) = (0, 0, 0, 0, 0);
    for flush in flushes {
        let plain = |acks| Setting::single_broker(acks, flush);
        let settings = [
            plain(Acks::One),
            plain(Acks::Zero),
            idempotent(flush),
            Setting { max_in_flight: 5, ..plain(Acks::All) },
        ];
        for setting in settings {
            for fault in [None, KILL, CUT] {
                for seed in 0..SEEDS {
                    let load_goes_on = seed % 3 != 0;
                    let scenario = Scenario { load_goes_on, ..scenario(Lie::None, setting, fault) };
                    let verdict = verdict(&scenario, seed);
                    assert_eq!(verdict.violations, [], "{scenario:?}, seed {seed}");
                    assert_eq!(verdict.standing, Standing::Kept);
                    assert_eq!(verdict.cells.total(), verdict.attempts);
                    if contract(&scenario).promises_everything() {
                        assert_eq!(verdict.losses.records, 0, "{scenario:?}, seed {seed}");
                    }
                    lost += verdict.losses.records;
                    after_cut += verdict.cells.acknowledged_after_cut.total();
                    duplicates += verdict.cells.acknowledged.more;
                    unknown += verdict.cells.unknown.once.min(verdict.cells.unknown.absent);
                    trials += 1;
                }
            }
        }
    }
    assert_eq!(trials, 5 * 4 * 3 * SEEDS);
    assert!(
        lost > 1_000 && after_cut > 100 && duplicates > 100 && unknown > 100,
        "the trials must tell something"
    );
}

#[test]
fn ack_before_write_then_kill_is_a_lost_tail() {
    let lie = scenario(Lie::AckBeforeWrite, idempotent(Flush::LEFT_TO_SYSTEM), KILL);
    assert_caught(lie, Anomaly::LostTail, AFTER_LOSS);
}

#[test]
fn skipped_flush_then_cut_is_a_lost_tail() {
    assert_caught(
        scenario(Lie::SkippedFlush, idempotent(Flush::EVERY_MESSAGE), CUT),
        Anomaly::LostTail,
        AFTER_LOSS,
    );
}

#[test]
fn skipped_flush_beyond_its_count_is_lost_beyond_the_window() {
    let lie = scenario(Lie::SkippedFlush, idempotent(Flush::every_messages(5)), CUT);
    assert_caught(lie, Anomaly::LostBeyondWindow, &[]);
}

#[test]
fn skipped_flush_beyond_its_time_is_lost_beyond_the_window() {
    let lie = scenario(Lie::SkippedFlush, idempotent(Flush::every_ms(2, 0)), CUT);
    assert_caught(lie, Anomaly::LostBeyondWindow, &[]);
}

#[test]
fn dropped_flush_then_cut_is_a_hole() {
    let lie = scenario(Lie::DroppedFlush, idempotent(Flush::EVERY_MESSAGE), CUT);
    assert_caught(lie, Anomaly::LostHole, &and(&[Anomaly::LostTail]));
}

#[test]
fn dropped_flush_is_a_hole_even_where_a_tail_may_be_lost() {
    let lie =
        scenario(Lie::DroppedFlush, idempotent(Flush { messages: Some(1000), ..Flush::every_ms(1, 0) }), CUT);
    assert_caught(lie, Anomaly::LostHole, &[Anomaly::LostBeyondWindow]);
}

#[test]
fn truncated_recovery_is_a_lost_tail() {
    for fault in [CUT, KILL] {
        let lie = scenario(Lie::TruncatedRecovery, idempotent(Flush::EVERY_MESSAGE), fault);
        assert_caught(lie, Anomaly::LostTail, AFTER_LOSS);
    }
}

#[test]
fn retry_stored_twice_is_a_duplicate() {
    assert_caught(
        scenario(Lie::RetryStoredTwice, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::Duplicate,
        &[],
    );
}

#[test]
fn append_stored_twice_is_a_duplicate() {
    assert_caught(
        scenario(Lie::StoredTwice, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::Duplicate,
        &[],
    );
}

#[test]
fn offset_given_twice_is_an_inconsistent_offset() {
    let lie = scenario(Lie::OffsetGivenTwice, idempotent(Flush::EVERY_MESSAGE), None);
    assert_caught(lie, Anomaly::InconsistentOffset, &[Anomaly::RealTimeOrder, Anomaly::NonMonotonicSend]);
}

#[test]
fn offset_other_than_the_records_own_is_an_inconsistent_offset() {
    let lie = scenario(Lie::OffsetOff, idempotent(Flush::EVERY_MESSAGE), None);
    assert_caught(lie, Anomaly::InconsistentOffset, &[Anomaly::RealTimeOrder, Anomaly::NonMonotonicSend]);
}

#[test]
fn altered_record_is_corrupt_and_lost() {
    for lie in [Lie::AlteredRecord, Lie::ShortRecord] {
        let lie = scenario(lie, idempotent(Flush::EVERY_MESSAGE), None);
        assert_caught(lie, Anomaly::Corrupt, &[Anomaly::LostHole]);
    }
}

#[test]
fn reordered_append_is_a_non_monotonic_send() {
    assert_caught(
        scenario(Lie::Reordered, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::NonMonotonicSend,
        &[],
    );
}

#[test]
fn offset_below_earlier_acks_breaks_real_time_order() {
    let lie = scenario(Lie::OffsetFromThePast, idempotent(Flush::EVERY_MESSAGE), None);
    assert_caught(lie, Anomaly::RealTimeOrder, &[Anomaly::NonMonotonicSend, Anomaly::PollSkip]);
}

#[test]
fn failed_append_that_is_stored_is_an_aborted_read() {
    assert_caught(
        scenario(Lie::FailedButStored, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::AbortedRead,
        &[],
    );
}

#[test]
fn record_that_nobody_sent_is_a_phantom() {
    for lie in [Lie::ForeignRecord, Lie::FutureRecord] {
        assert_caught(scenario(lie, idempotent(Flush::EVERY_MESSAGE), None), Anomaly::Phantom, &[]);
    }
}

#[test]
fn append_to_the_wrong_partition_is_a_phantom_there() {
    let lie = scenario(Lie::WrongPartition, idempotent(Flush::EVERY_MESSAGE), None);
    let follows = [
        Anomaly::LostHole,
        Anomaly::LostTail,
        Anomaly::InconsistentOffset,
        Anomaly::RealTimeOrder,
        Anomaly::NonMonotonicSend,
    ];
    assert_caught(lie, Anomaly::Phantom, &follows);
}

#[test]
fn record_served_before_it_was_durable_is_read_then_lost() {
    let lie = scenario(Lie::ServedBeforeDurable, idempotent(Flush::EVERY_MESSAGE), CUT);
    assert_caught(lie, Anomaly::ReadThenLost, &[Anomaly::LogEndWentBack, Anomaly::CommittedOffsetWentBack]);
}

#[test]
fn fetch_that_repeats_is_a_non_monotonic_poll() {
    assert_caught(
        scenario(Lie::RepeatedFetch, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::NonMonotonicPoll,
        &[],
    );
}

#[test]
fn fetch_that_leaves_out_is_a_poll_skip() {
    assert_caught(
        scenario(Lie::SkippingFetch, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::PollSkip,
        &[],
    );
}

#[test]
fn replica_with_another_record_is_an_inconsistent_offset() {
    let lie = scenario(Lie::DivergentReplica, idempotent(Flush::EVERY_MESSAGE), None);
    assert_caught(lie, Anomaly::InconsistentOffset, &[]);
}

#[test]
fn replica_that_ends_early_makes_final_reads_differ() {
    assert_caught(
        scenario(Lie::ShortReplica, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::ReadingsDiffer,
        &[],
    );
}

#[test]
fn reported_offsets_that_fall_are_named() {
    let lie = |lie| scenario(lie, idempotent(Flush::EVERY_MESSAGE), None);
    assert_caught(lie(Lie::LogEndBack), Anomaly::LogEndWentBack, &[]);
    assert_caught(lie(Lie::CommittedBack), Anomaly::CommittedOffsetWentBack, &[]);
}

#[test]
fn long_stall_is_an_unavailability_gap() {
    assert_caught(
        scenario(Lie::Stall, idempotent(Flush::EVERY_MESSAGE), None),
        Anomaly::UnavailabilityGap,
        &[],
    );
}

#[test]
fn verdict_of_one_seed_is_the_same_twice() {
    let lie = scenario(Lie::TruncatedRecovery, idempotent(Flush::EVERY_MESSAGE), CUT);
    for seed in 0..5 {
        let json = || serde_json::to_string(&verdict(&lie, seed)).unwrap();
        assert_eq!(json(), json(), "seed {seed}");
    }
}

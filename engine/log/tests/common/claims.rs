//! Who catches which lie of `mutants`: each is claimed once.

use highwater_log::mutants::{self, Mutant};

use crate::common::scenarios::{self, Verdict};

/// Lies that random work and random crashes show: `tests/crash.rs`.
pub(crate) const BY_SEEDS: [Mutant; 18] = [
    mutants::ACK_BEFORE_WRITE,
    mutants::SKIP_JOURNAL_FLUSH,
    mutants::FUA_COVERS_PLAIN,
    mutants::ACK_BEFORE_FLUSH,
    mutants::DROP_FLUSH_SOMETIMES,
    mutants::ACT_BEFORE_DURABLE,
    mutants::SKIP_CREATE_FLUSH,
    mutants::DELETION_NOT_PASSED,
    mutants::CHECKPOINT_BEFORE_FLUSH,
    mutants::REUSE_BEFORE_CHECKPOINT,
    mutants::SKIP_SETTLED_PREFIX,
    mutants::SERVE_BEFORE_RECOVERY_FLUSH,
    mutants::OFFSET_GIVEN_TWICE,
    mutants::RECORD_ALTERED,
    mutants::SWAP_BEFORE_FLUSH,
    mutants::COMPACT_NAMED_SEGMENT,
    mutants::TOMBSTONE_DROPPED_EARLY,
    mutants::LAST_OF_KEY_DROPPED,
];

/// Lies that need a story of their own: `tests/lies.rs`.
pub(crate) const BY_SCENARIO: [(Mutant, fn() -> Verdict); 12] = [
    (mutants::SERVE_UNCHECKED, scenarios::rot_in_a_segment_is_never_served),
    (mutants::CUT_AT_ROT, scenarios::rot_in_a_durable_group_fences_its_partition),
    (mutants::END_FROM_SCAN, scenarios::batches_behind_a_truncation_are_not_the_log),
    (mutants::SKIP_LOCK_WAIT, scenarios::late_write_of_a_dead_process_does_no_harm),
    (mutants::RETRY_FAILED_FLUSH, scenarios::failed_flush_is_the_end_of_its_journal),
    (mutants::KEEP_CLEAN_MARKER, scenarios::directory_in_use_never_looks_clean),
    (mutants::DRAIN_BEFORE_DURABLE, scenarios::settled_block_is_rewritten_only_when_its_image_is_durable),
    (mutants::REPLAY_BEFORE_FLUSH, scenarios::groups_are_flushed_before_they_are_applied),
    (mutants::REMOVE_BEFORE_DECISION, scenarios::replacement_is_whole_wherever_the_power_goes),
    (mutants::NAME_BEFORE_REMOVAL, scenarios::replacement_is_whole_wherever_the_power_goes),
    (mutants::FINISH_BEFORE_DECISION, scenarios::replacement_is_whole_wherever_the_power_goes),
    (mutants::FINISH_BEFORE_REMOVAL, scenarios::replacement_is_whole_wherever_the_power_goes),
];

/// Lies about retries, which need a client that retries, and about a setting that is asked for while records come: the tests of a
/// whole simulated broker.
pub(crate) const BY_BROKERS: [Mutant; 3] =
    [mutants::RETRY_STORED_TWICE, mutants::DUPLICATE_ACKED_AT_ONCE, mutants::RETENTION_TAKES_TOO_MUCH];

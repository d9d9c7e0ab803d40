//! The whole broker from many seeds: what it promised is there, whatever ended it.
//!
//! `HIGHWATER_SEEDS=10000` sets the number of seeds, `HIGHWATER_FIRST_SEED` the first, `HIGHWATER_SEED=17` runs one.

use highwater_sim::{Culprit, DiskHonesty, Figures, Outcome, Scenario, run};

fn seeds(default: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let one = number("HIGHWATER_SEED");
    let first = one.or(number("HIGHWATER_FIRST_SEED")).unwrap_or(0);
    let count = if one.is_some() { 1 } else { number("HIGHWATER_SEEDS").unwrap_or(default) };
    first..first.saturating_add(count)
}

fn complain(outcome: &Outcome) -> String {
    let seed = outcome.seed;
    let complaints = outcome.complaints().join("\n  ");
    format!("seed {seed}:\n  {complaints}\nagain: cargo run -p highwater-sim -- run --seed {seed} --verbose")
}

#[test]
fn nothing_promised_is_broken_whatever_ends_the_broker() {
    for seed in seeds(60) {
        let outcome = run(seed, &Scenario::seeded(seed));
        assert!(outcome.is_kept(), "{}", complain(&outcome));
    }
}

/// Seeds that found something: a clean stop that stood still (866, 8753), the retry of an append that had asked for a flush
/// (3943), and a checker that took a lost tail for a hole where its offset was given again without an ack (3013).
#[test]
fn seeds_that_found_something_find_it_no_more() {
    for seed in [866, 3013, 3943, 8753] {
        let scenario = Scenario { lives_to_acknowledge: false, ..Scenario::seeded(seed) };
        let outcome = run(seed, &scenario);
        assert!(outcome.is_kept(), "{}", complain(&outcome));
    }
}

#[test]
fn one_seed_gives_one_trace_and_another_gives_another() {
    let mut hashes = Vec::new();
    for seed in [2, 5, 11, 23, 42, 77] {
        let scenario = Scenario::seeded(seed);
        let (one, other) = (run(seed, &scenario), run(seed, &scenario));
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert_eq!(one.verdict, other.verdict, "seed {seed}");
        hashes.push(one.trace_hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 6);
}

/// A run in which nothing happens proves nothing.
#[test]
fn seeds_kill_cut_and_replay_while_records_are_acknowledged() {
    let mut sum = Figures::default();
    let (mut vacuous, mut kinds) = (0, std::collections::BTreeSet::new());
    for seed in 0..40 {
        let scenario = Scenario::seeded(seed);
        let outcome = run(seed, &scenario);
        sum.power_losses += outcome.figures.power_losses;
        sum.deaths_in_recovery += outcome.figures.deaths_in_recovery;
        sum.groups_replayed += outcome.figures.groups_replayed;
        sum.acked += outcome.figures.acked;
        vacuous += u32::from(outcome.figures.acked == 0);
        kinds.insert((scenario.acks, scenario.idempotence));
    }
    assert!(sum.power_losses > 40 && sum.deaths_in_recovery > 5, "{sum:?}");
    assert!(sum.groups_replayed > 200 && sum.acked > 5_000, "{sum:?}");
    // With acks=0 nothing is acknowledged, and a few seeds only ever die while they start or recover.
    assert!(vacuous <= 4, "{vacuous} of 40 seeds had nothing acknowledged");
    assert!(kinds.len() >= 4, "{kinds:?}");
}

/// A flush that was acknowledged and not done is the disk's lie, not the broker's: the loss is booked there.
#[test]
fn loss_on_a_disk_that_lies_is_booked_on_the_disk() {
    let (mut booked, mut lied) = (0, 0);
    for seed in 0..60 {
        let scenario = Scenario { disk: DiskHonesty::LiesOnceIn(3), ..Scenario::seeded(seed) };
        let outcome = run(seed, &scenario);
        lied += outcome.flushes_lied;
        assert_ne!(outcome.culprit(), Culprit::Broker, "{}", complain(&outcome));
        let records = outcome.verdict.as_ref().map_or(0, |verdict| verdict.losses.records);
        if records > 0 && scenario.flush.is_every_message() {
            assert_eq!(outcome.culprit(), Culprit::Disk, "seed {seed}");
        }
        // Mostly the broker notices by itself that what it was told to be durable is not, and does not start.
        booked += u32::from(outcome.culprit() == Culprit::Disk);
    }
    assert!(lied > 100 && booked > 10, "{lied} flushes lied about, {booked} seeds booked on the disk");
}

/// A topic is compacted, more than once in most lives: whatever ends the broker, the last record of each key is there, and no
/// value whose tombstone is gone. In seeds 7100060 and 7100755 the final read came while a segment was being replaced, whose
/// descriptor was gone. In seed 41009626 it was slower than a tombstone is kept: it had seen what that had covered.
#[test]
fn nothing_promised_is_broken_where_a_topic_is_compacted() {
    let mut compacted = 0;
    for seed in seeds(60).chain([7_100_060, 7_100_755, 41_009_626]) {
        let outcome = run(seed, &Scenario::seeded(seed).with_compaction(seed));
        assert!(outcome.is_kept(), "{}", complain(&outcome));
        compacted += outcome.figures.compacted;
    }
    // A single seed may die before anything is due.
    let is_one = std::env::var("HIGHWATER_SEED").is_ok();
    assert!(is_one || compacted > 500, "{compacted} records compacted away");
}

/// One of two log directories fails, at any moment, in each life: the other goes on, and when both are whole again everything
/// acknowledged is there. In seed 1678470519 the directory fails after everything was drained, at a journal file that nobody
/// needs any more: that stop is a clean one.
#[test]
fn nothing_promised_is_broken_where_a_log_directory_fails() {
    let mut sum = Figures::default();
    for seed in seeds(40).chain([1_678_470_519]) {
        let outcome = run(seed, &Scenario::seeded(seed).with_failing_directory());
        assert!(outcome.is_kept(), "{}", complain(&outcome));
        sum.directories_failed += outcome.figures.directories_failed;
        sum.acked_beside += outcome.figures.acked_beside;
    }
    // A single seed may die before anything fails.
    let is_one = std::env::var("HIGHWATER_SEED").is_ok();
    assert!(is_one || sum.directories_failed > 20 && sum.acked_beside > 300, "{sum:?}");
}

//! Every way in which the engine can be made to lie has somebody who notices. Here: the lies that need a story of their
//! own, and the table of who catches which.

mod common;

use std::collections::BTreeMap;

use common::claims::{BY_BROKERS, BY_SCENARIO, BY_SEEDS};
use highwater_log::mutants;

#[test]
fn every_mutant_with_a_story_is_caught_by_it() {
    let mut missed = Vec::new();
    for (mutant, scenario) in BY_SCENARIO {
        let _lying = mutant.enable();
        match scenario() {
            Ok(()) => missed.push(mutant.name),
            Err(seen) => println!("{}: {seen}", mutant.name),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn every_mutant_is_claimed_by_exactly_one_catcher() {
    let claimed = BY_SEEDS.iter().chain(BY_SCENARIO.iter().map(|(mutant, _)| mutant)).chain(&BY_BROKERS);
    let mut claims: BTreeMap<&str, usize> = mutants::ALL.iter().map(|mutant| (mutant.name, 0)).collect();
    claimed.for_each(|mutant| *claims.entry(mutant.name).or_default() += 1);
    let wrong: Vec<_> = claims.into_iter().filter(|(_, count)| *count != 1).collect();
    assert!(wrong.is_empty(), "mutants with another number of catchers than one: {wrong:?}");
}

//! The targets test something: what is valid gets through them, and a bug that is planted is found.

use std::panic::catch_unwind;

use highwater_fuzz::{Reached, TARGETS, Target, target};

#[test]
fn every_target_has_seeds_that_are_accepted() {
    for Target { name, run, seeds, .. } in TARGETS {
        let reached: Vec<Reached> = seeds().iter().map(|seed| run(seed)).collect();
        let accepted = reached.iter().filter(|reached| **reached == Reached::Accepted).count();
        println!("{name}: {accepted} of {} seeds are accepted", reached.len());
        assert!(
            accepted * 4 >= reached.len() * 3,
            "{name}: {accepted} of {} seeds are accepted",
            reached.len()
        );
    }
}

/// Each seed cut short and with each of its first bytes changed: a fuzzer's first minute, at a fixed price.
#[test]
fn damaged_seeds_are_refused_or_accepted_and_no_more() {
    const FLIPS: usize = 48;
    for Target { name, run, seeds, .. } in TARGETS {
        let slow = matches!(*name, "journal" | "kafka-dir" | "connection");
        let step = if slow { 7 } else { 1 };
        for seed in seeds().iter().step_by(step) {
            for cut in (0..seed.len().min(FLIPS)).step_by(step) {
                run(&seed[..cut]);
                let mut damaged = seed.clone();
                damaged[cut] ^= 0xff;
                run(&damaged);
            }
        }
    }
}

/// Whether some seed, or a seed with one byte changed, makes the target panic.
fn finds_something(target: &Target) -> bool {
    let seeds = (target.seeds)();
    seeds.iter().any(|seed| catch_unwind(|| (target.run)(seed)).is_err())
}

#[test]
fn nothing_is_wrong_with_the_seeds() {
    for target in TARGETS {
        assert!(!finds_something(target), "{}", target.name);
    }
}

#[cfg(feature = "mutants")]
#[test]
fn planted_bug_is_found() {
    use highwater_log::mutants;
    let bug = mutants::SERVE_UNCHECKED;
    let _lie = bug.enable();
    for name in ["journal", "kafka-dir"] {
        assert!(finds_something(target(name).expect("exists")), "{name} does not find {}", bug.name);
    }
}

#[test]
fn names_are_found() {
    assert!(target("journal").is_some() && target("nothing").is_none());
}

/// Inputs that once were too much, by target, each with a test of its own beside the code that was mended.
#[test]
fn nothing_that_was_found_is_wrong_again() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut count = 0;
    for of_target in std::fs::read_dir(dir).expect("is there") {
        let of_target = of_target.expect("can be read");
        let name = of_target.file_name().into_string().expect("a target's name");
        let target = target(&name).expect("a target's name");
        for input in std::fs::read_dir(of_target.path()).expect("can be read") {
            let path = input.expect("can be read").path();
            println!("{}", path.display());
            (target.run)(&std::fs::read(path).expect("can be read"));
            count += 1;
        }
    }
    assert!(count >= 3);
}

//! What is recommended, and why the others are refused.

use std::time::Duration;

use highwater_bench::results::recommend::{Bounds, Missing, Rpo, Unfit, parse_rpo, recommend};
use highwater_bench::results::summary::summaries;
use highwater_bench::results::{Purpose, Sweep};

use crate::sample;

fn bounds(rpo: Rpo) -> Bounds {
    Bounds { rpo, p99: None, faults: Vec::new(), brokers: Vec::new(), trials: 1 }
}

/// The id of what is recommended for the sample's one workload, and each refusal as `id: reason`.
fn ask(sweep: &Sweep, bounds: &Bounds) -> (Option<String>, Vec<String>) {
    let cells = summaries(sweep);
    let answers = recommend(sweep, &cells, bounds, Missing::Refuse).unwrap();
    let [answer] = answers.as_slice() else { panic!("{answers:?}") };
    let chosen = answer.chosen().map(|chosen| chosen.configuration.id.clone());
    let refused =
        answer.refused.iter().map(|refused| format!("{}: {}", refused.configuration.id, refused.why));
    (chosen, refused.collect())
}

#[track_caller]
fn assert_refused(refused: &[String], id: &str, why: &str) {
    let found = refused.iter().any(|line| line.starts_with(&format!("{id}: ")) && line.contains(why));
    assert!(found, "{id}: {why} is not in {refused:#?}");
}

#[test]
fn fastest_setting_that_lost_nothing_and_promises_it_is_recommended_with_its_bound() {
    let sweep = sample::sweep(1, 20);
    let (chosen, refused) = ask(&sweep, &bounds(Rpo::Records(0)));
    assert_eq!(chosen.as_deref(), Some("highwater-all-flush1"));
    assert_refused(&refused, "highwater-1-never", "lost up to ");
    let cells = summaries(&sweep);
    let answers = recommend(&sweep, &cells, &bounds(Rpo::Records(0)), Missing::Refuse).unwrap();
    let proofs = &answers[0].chosen().unwrap().proofs;
    assert!(proofs.iter().any(|proof| proof.contains("power cut: 0 of ")), "{proofs:?}");
    assert!(proofs.iter().all(|proof| proof.contains("in 20 trials") && proof.contains("at most 15")));
    // 20 s at 571 MB/s are more than three times round the sample's journal.
    assert_eq!(answers[0].chosen().unwrap().doubts, [""; 0]);
    let speeds: Vec<f64> = answers[0].qualified.iter().map(|of| of.speed.median).collect();
    assert!(speeds.is_sorted_by(|a, b| a >= b), "{speeds:?}");
}

#[test]
fn setting_that_happened_to_lose_nothing_is_refused_where_nothing_may_be_lost() {
    let mut sweep = sample::sweep(1, 20);
    for cell in sweep.cells.iter_mut().filter(|cell| cell.plan.configuration == "highwater-1-never") {
        for verdict in cell.trials.iter_mut().filter_map(|trial| trial.verdict.as_mut()) {
            verdict.losses.records = 0;
            verdict.losses.window = None;
        }
    }
    let (chosen, refused) = ask(&sweep, &bounds(Rpo::Records(0)));
    assert_eq!(chosen.as_deref(), Some("highwater-all-flush1"));
    assert_refused(&refused, "highwater-1-never", "does not promise to lose nothing");
    // Where something may be, what was observed counts.
    let (chosen, _) = ask(&sweep, &bounds(Rpo::Records(1)));
    assert_eq!(chosen.as_deref(), Some("highwater-1-never"));
}

#[test]
fn loss_window_that_the_end_of_the_run_cut_short_is_no_bound() {
    let mut sweep = sample::sweep(1, 20);
    let (_, before) = ask(&sweep, &bounds(Rpo::Window(Duration::from_secs(3_600))));
    assert!(!before.iter().any(|line| line.starts_with("highwater-1-100ms")), "{before:?}");
    for cell in sweep.cells.iter_mut().filter(|cell| cell.plan.configuration == "highwater-1-100ms") {
        cell.trials.iter_mut().for_each(|trial| trial.window_is_lower_bound = trial.verdict.is_some());
    }
    let (_, refused) = ask(&sweep, &bounds(Rpo::Window(Duration::from_secs(3_600))));
    assert_refused(&refused, "highwater-1-100ms", "the run ended before the loss window did: at least");
    let (_, refused) = ask(&sweep, &bounds(Rpo::Window(Duration::from_nanos(1))));
    assert_refused(&refused, "highwater-1-10k", "lost up to ");
}

#[test]
fn slow_unsustained_and_unmeasured_latencies_are_refused() {
    let mut sweep = sample::sweep(1, 20);
    let asked = Bounds { p99: Some(Duration::from_millis(20)), ..bounds(Rpo::Records(0)) };
    let (chosen, refused) = ask(&sweep, &asked);
    assert_eq!(chosen.as_deref(), Some("highwater-all-flush1"));
    assert_refused(&refused, "kafka-all-flush1", "p99 ");
    for cell in sweep.cells.iter_mut().filter(|cell| cell.plan.id == "highwater-all-flush1.steady") {
        cell.trials.iter_mut().for_each(|trial| trial.load.target_records_per_second = Some(1e9));
    }
    assert_refused(&ask(&sweep, &asked).1, "highwater-all-flush1", "did not sustain");
    sweep.cells.retain(|cell| !cell.plan.id.ends_with(".steady"));
    assert_refused(&ask(&sweep, &asked).1, "highwater-all-flush1", "not measured on an open loop");
    sweep.cells.retain(|cell| !cell.plan.id.ends_with(".speed"));
    let (chosen, refused) = ask(&sweep, &bounds(Rpo::Records(0)));
    assert_eq!(chosen, None);
    assert_refused(&refused, "highwater-all-flush1", "throughput was not measured");
}

#[test]
fn broken_contract_missing_panel_and_too_few_trials_are_refused() {
    let mut sweep = sample::sweep(1, 20);
    sample::break_contract(&mut sweep, "highwater-all-flush1.cut");
    let (chosen, refused) = ask(&sweep, &bounds(Rpo::Records(1_000_000)));
    assert_ne!(chosen.as_deref(), Some("highwater-all-flush1"));
    assert_refused(&refused, "highwater-all-flush1", "broke its contract under a power cut");

    let mut sweep = sample::sweep(1, 20);
    sweep.cells.retain(|cell| cell.plan.id != "highwater-all-flush1.cut");
    assert_refused(
        &ask(&sweep, &bounds(Rpo::Records(0))).1,
        "highwater-all-flush1",
        "not tried under a power cut",
    );
    let many = Bounds { trials: 21, ..bounds(Rpo::Records(0)) };
    assert_refused(&ask(&sweep, &many).1, "kafka-all-flush1", "only 20 trials under a process kill");
}

#[test]
fn sweep_that_cannot_answer_says_why() {
    let refused = |sweep: &Sweep, bounds: &Bounds, missing| {
        recommend(sweep, &summaries(sweep), bounds, missing).map(|_| ()).unwrap_err()
    };
    let mut sweep = sample::sweep(1, 4);
    let lying = Bounds { faults: vec!["lying-flush".to_owned()], ..bounds(Rpo::Records(0)) };
    let shown = refused(&sweep, &lying, Missing::Refuse).to_string();
    assert_eq!(shown, "no lying flush was injected in this sweep; there were: process kill and power cut");
    let rabbit = Bounds { brokers: vec!["rabbit".to_owned()], ..bounds(Rpo::Records(0)) };
    assert!(matches!(refused(&sweep, &rabbit, Missing::Refuse), Unfit::NoSuchBroker { .. }));

    sweep.stamp.complete = false;
    let shown = refused(&sweep, &bounds(Rpo::Records(0)), Missing::Refuse).to_string();
    assert!(shown.starts_with("This sweep did not come to its end"), "{shown}");
    assert!(recommend(&sweep, &summaries(&sweep), &bounds(Rpo::Records(0)), Missing::Accept).is_ok());

    sweep.cells.retain(|cell| matches!(cell.plan.purpose, Purpose::Performance));
    assert_eq!(refused(&sweep, &bounds(Rpo::Records(0)), Missing::Accept), Unfit::NoFault);
}

#[test]
fn broker_and_fault_are_found_by_the_words_of_reports_and_of_workloads() {
    let sweep = sample::sweep(1, 20);
    for name in ["kafka", "Apache Kafka"] {
        let only = Bounds { brokers: vec![name.to_owned()], ..bounds(Rpo::Records(0)) };
        assert_eq!(ask(&sweep, &only).0.as_deref(), Some("kafka-all-flush1"), "{name}");
    }
    // A process that dies takes nothing of what was written, flushed or not.
    for name in ["kill", "process kill"] {
        let only = Bounds { faults: vec![name.to_owned()], ..bounds(Rpo::Records(0)) };
        assert_eq!(ask(&sweep, &only).0.as_deref(), Some("highwater-1-never"), "{name}");
    }
}

#[test]
fn rpo_is_a_number_of_records_or_a_duration() {
    assert_eq!(parse_rpo("0"), Ok(Rpo::Records(0)));
    assert_eq!(parse_rpo("100"), Ok(Rpo::Records(100)));
    assert_eq!(parse_rpo("500ms"), Ok(Rpo::Window(Duration::from_millis(500))));
    assert!(parse_rpo("half").unwrap_err().contains("\"500ms\""));
}

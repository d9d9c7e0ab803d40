//! The report, the terminal view and the files, from results made up by [`sample`].

mod recommend;
mod sample;

use highwater_bench::report;
use highwater_bench::results::answer::{self, Tone};
use highwater_bench::results::store::{ResultsDir, StoreError};
use highwater_bench::results::summary::summaries;
use highwater_bench::results::{DiskKind, Failure, Property, Stopped, Sweep};
use highwater_bench::table::{self, Colour};
use highwater_checker::{Anomaly, Finding, Nanos};
use sample::{CUT, break_contract, sweep};
use std::path::Path;

const BROKEN_CELL: &str = "kafka-all-flush1.cut";

fn broken() -> Sweep {
    let mut sweep = sweep(7, 24);
    break_contract(&mut sweep, BROKEN_CELL);
    sweep
}

fn headline(sweep: &Sweep) -> answer::Headline {
    let cells = summaries(sweep);
    answer::headline(&cells, &answer::cards(&cells))
}

/// Written where a developer can look at it; the test only asks that it is a whole page.
#[test]
fn report_of_the_sample_is_a_whole_page() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, sweep) in [("kept.html", sweep(7, 24)), ("broken.html", broken())] {
        let html = report::render(&sweep);
        assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
        std::fs::write(dir.join(name), html).unwrap();
        let path = Path::new("report.html");
        std::fs::write(dir.join(name).with_extension("txt"), table::render(&sweep, path, Colour::Plain))
            .unwrap();
    }
}

/// The sample as a machine that cannot cut power would have made it.
fn simulated(mut sweep: Sweep) -> Sweep {
    for cell in sweep.cells.iter_mut().filter(|cell| cell.plan.disk == DiskKind::PowerSwitch) {
        cell.plan.disk = DiskKind::Simulated;
    }
    sweep
}

#[test]
fn simulated_cuts_are_called_so_in_the_headline_the_cards_the_panels_and_the_terminal() {
    let kept = simulated(sweep(7, 24));
    let headline = headline(&kept).sentence;
    assert!(headline.contains("simulated power cuts"), "{headline}");
    let html = report::render(&kept);
    for shown in [
        "acknowledged in 24 simulated",
        ">Simulated power cut</h3>",
        "Throughput against loss window under simulated power cut",
    ] {
        assert!(html.contains(shown), "{shown}");
    }
    let shown = table::render(&kept, Path::new("report.html"), Colour::Plain);
    assert!(shown.contains("simulated power cut"), "{shown}");
    let broken = self::headline(&simulated(broken())).sentence;
    assert!(broken.contains("under a simulated power cut"), "{broken}");
}

#[test]
fn real_cuts_are_not_called_simulated() {
    let sweep = sweep(7, 24);
    assert!(!headline(&sweep).sentence.contains("simulated"));
    assert!(!report::render(&sweep).contains("imulated power cut"));
}

/// Each has its own panels and its own count: one proves another thing than the other.
#[test]
fn real_and_simulated_cuts_of_one_sweep_stand_apart() {
    let mut mixed = sweep(7, 24);
    let cut = mixed.cells.iter_mut().find(|cell| cell.plan.id.ends_with(".cut")).unwrap();
    cut.plan.disk = DiskKind::Simulated;
    let html = report::render(&mixed);
    assert!(html.contains("under simulated power cut") && html.contains("loss window under power cut"));
}

#[test]
fn report_tags_are_balanced() {
    let html = report::render(&broken());
    for tag in [
        "section", "details", "summary", "table", "tr", "td", "th", "svg", "a", "g", "ul", "ol", "li", "pre",
        "p", "div", "article", "text",
    ] {
        let opened = html.matches(&format!("<{tag} ")).count() + html.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
}

#[test]
fn report_reaches_for_nothing_outside_itself() {
    let html = report::render(&broken());
    for outside in ["http://", "https://", "url(", "@import", " src=", "<link", "fetch("] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn report_links_all_lead_somewhere() {
    let html = report::render(&broken());
    let ids: Vec<&str> = html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for target in html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(&target), "#{target}");
    }
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "an id is used twice");
}

#[test]
fn report_of_the_same_results_is_the_same_file() {
    assert_eq!(report::render(&sweep(3, 5)), report::render(&sweep(3, 5)));
}

#[test]
fn report_escapes_every_text_of_the_results() {
    const HOSTILE: &str = "</title></pre><script>alert(1)</script><img onerror='x' y=\"z\">&";
    let mut sweep = broken();
    let property = || Property { name: HOSTILE.to_owned(), value: HOSTILE.to_owned() };
    for text in [
        &mut sweep.stamp.title,
        &mut sweep.stamp.started_at,
        &mut sweep.stamp.version,
        &mut sweep.stamp.commit,
        &mut sweep.stamp.command,
    ] {
        *text = HOSTILE.to_owned();
    }
    let environment = &mut sweep.environment;
    environment.hypervisor = Some(HOSTILE.to_owned());
    environment.tunables.push(property());
    for text in [
        &mut environment.kernel,
        &mut environment.cpu_model,
        &mut environment.filesystem,
        &mut environment.mount_options,
        &mut environment.device,
    ] {
        *text = HOSTILE.to_owned();
    }
    for configuration in &mut sweep.configurations {
        configuration.broker.name = HOSTILE.to_owned();
        configuration.broker.version = HOSTILE.to_owned();
        configuration.workload.compression = HOSTILE.to_owned();
        for properties in [
            &mut configuration.broker_properties,
            &mut configuration.topic_properties,
            &mut configuration.producer_properties,
        ] {
            properties.push(property());
        }
    }
    for cell in &mut sweep.cells {
        cell.plan.effective.push(property());
        for trial in &mut cell.trials {
            trial.command = HOSTILE.to_owned();
            trial.files.push(HOSTILE.to_owned());
            for finding in trial
                .verdict
                .iter_mut()
                .flat_map(|verdict| verdict.violations.iter_mut().chain(&mut verdict.permitted))
            {
                finding.examples.push(HOSTILE.to_owned());
            }
        }
    }
    for comparison in &mut sweep.comparisons {
        comparison.b = HOSTILE.to_owned();
    }
    let html = report::render(&sweep);
    assert!(html.contains("&lt;script&gt;alert(1)"));
    for markup in ["<script>alert", "<img", "onerror='", "</title></pre>"] {
        assert!(!html.contains(markup), "{markup}");
    }
    let terminal = table::render(&sweep, Path::new("x\u{1b}[2J"), Colour::Plain);
    assert!(!terminal.chars().any(|character| character.is_control() && character != '\n'));
}

#[test]
fn headline_of_a_kept_sweep_names_setting_trials_and_bound() {
    let headline = headline(&sweep(7, 24));
    assert_eq!(headline.tone, Tone::Kept);
    assert!(
        headline
            .sentence
            .starts_with("Nothing acknowledged was lost in 24 power cuts of all brokers at once"),
        "{headline:?}"
    );
    assert!(
        headline.details.iter().any(|detail| detail.contains("95\u{a0}% confidence at most 13\u{a0}%")),
        "{headline:?}"
    );
}

#[test]
fn headline_of_a_broken_contract_comes_first_and_says_what_broke() {
    let sweep = broken();
    let headline = headline(&sweep);
    assert_eq!(headline.tone, Tone::Broken);
    assert_eq!(
        headline.sentence,
        "A contract was broken: Apache Kafka 4.3.0 with acks=all, flush.messages=1 lost 312 acknowledged records \
         from the middle of the log under a power cut, where nothing acknowledged may be lost."
    );
    let html = report::render(&sweep);
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is missing"));
    assert!(place("<header class=\"broken\">") < place("id=\"broken\""));
    assert!(place("id=\"broken\"") < place("class=\"cards\""));
}

#[test]
fn setting_that_only_happened_to_lose_nothing_is_not_recommended() {
    let mut sweep = sweep(7, 24);
    // Every unflushed setting gets lucky: nothing is lost in any trial.
    for verdict in
        sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials).filter_map(|trial| trial.verdict.as_mut())
    {
        verdict.losses.records = 0;
        verdict.losses.window = None;
        verdict.permitted.clear();
    }
    let cells = summaries(&sweep);
    for card in answer::cards(&cells).iter().skip(1) {
        let keeper = &card.keepers[0];
        assert!(
            keeper
                .cells
                .iter()
                .all(|cell| cell.contract().is_some_and(|contract| contract.promises_everything()))
        );
        let flushed = keeper.configuration.setting.flush.is_every_message();
        assert!(flushed, "{:?}: {}", card.accident, keeper.configuration.label());
    }
}

#[test]
fn trial_in_which_nothing_was_acknowledged_proves_nothing() {
    let mut sweep = sweep(7, 5);
    for verdict in
        sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials).filter_map(|trial| trial.verdict.as_mut())
    {
        verdict.losses.of_records = 0;
        verdict.losses.records = 0;
    }
    assert!(answer::cards(&summaries(&sweep)).iter().all(|card| card.keepers.is_empty()));
    assert!(table::render(&sweep, Path::new("report.html"), Colour::Plain).contains("proves nothing"));
}

#[test]
fn zero_lost_never_stands_alone() {
    let html = report::render(&sweep(7, 24));
    for (place, _) in html.match_indices("lost 0 of ") {
        let rest: String = html[place..].chars().take(400).collect();
        assert!(rest.contains("24 ") && rest.contains("at most 13\u{a0}%"), "{rest}");
    }
    assert!(html.matches("lost 0 of ").count() > 10);
    let few = report::render(&sweep(7, 2));
    assert!(few.contains("too few trials to bound it") && !few.contains("at most 150"));
}

#[test]
fn figures_in_doubt_are_drawn_hollow_and_said() {
    let mut sweep = sweep(7, 24);
    sweep.cells.retain(|cell| !cell.plan.id.ends_with(".steady"));
    let plain = report::render(&sweep).matches("mark hollow").count();
    let speed = sweep.cells.iter_mut().find(|cell| cell.plan.id == "highwater-all-flush1.speed").unwrap();
    for trial in &mut speed.trials {
        trial.load.target_records_per_second = Some(trial.load.records_per_second() * 1.02);
    }
    let html = report::render(&sweep);
    assert!(html.matches("mark hollow").count() > plain);
    assert!(html.contains("not sustained"));
    assert!(
        table::render(&sweep, Path::new("r"), Colour::Plain).contains("! the offered rate was not sustained")
    );
}

#[test]
fn suspicious_flush_is_flagged() {
    let mut sweep = sweep(7, 2);
    assert!(!report::render(&sweep).contains("suspiciously"));
    let mut quick = highwater_bench::results::Latency::default();
    (0..100).for_each(|_| quick.record(3_000));
    sweep.environment.floor.fdatasync = quick;
    assert!(report::render(&sweep).contains("suspiciously"));
}

#[test]
fn empty_sweep_renders_and_claims_nothing() {
    let mut sweep = sweep(7, 2);
    sweep.cells.clear();
    sweep.stamp.complete = false;
    let html = report::render(&sweep);
    assert!(html.contains("this report says nothing about loss"));
    assert!(html.contains("This sweep did not come to its end; planned trials are missing."));
}

#[test]
fn sweep_is_called_interrupted_only_where_somebody_stopped_it() {
    let mut sweep = sweep(7, 2);
    sweep.stamp.complete = false;
    let said = |sweep: &Sweep, what: &str| {
        let shown = [report::render(sweep), table::render(sweep, Path::new("r"), Colour::Plain)];
        assert!(shown.iter().all(|shown| shown.contains(what)), "{what}: {}", shown[1]);
        shown.iter().any(|shown| shown.contains("interrupted"))
    };
    sweep.stamp.stopped = Some(Stopped::Interrupted);
    assert!(said(&sweep, "This sweep was interrupted; planned trials are missing."));
    sweep.stamp.stopped = Some(Stopped::GivenUp { failures: 3 });
    assert!(!said(
        &sweep,
        "This sweep failed: it was given up after 3 failures in a row; planned trials are missing."
    ));
    sweep.stamp.stopped = Some(Stopped::TriedAll);
    sweep.failures = vec![failure(&sweep, 1, 99, false)];
    assert!(!said(&sweep, "This sweep failed: 1 trial has no verdict."));
    assert!(!said(&sweep, "without a verdict, since it failed: the disk cannot be mounted"));
}

/// A failure early on, and then the harness was killed: the failure is not all that is wrong with this sweep.
#[test]
fn sweep_that_was_killed_says_how_many_trials_are_missing_whatever_failed_before() {
    let mut sweep = sweep(7, 2);
    sweep.stamp.complete = false;
    sweep.stamp.planned = Some(sweep.trials() + 91);
    sweep.failures = vec![failure(&sweep, 1, 99, true)];
    let shown = table::render(&sweep, Path::new("r"), Colour::Plain);
    let (planned, end) = (sweep.trials() + 91, "did not come to its end");
    let expected = format!("! This sweep {end}; 91 of {planned} planned trials are missing.\n");
    assert!(shown.contains(&expected) && shown.contains("! 1 trial without a verdict"), "{shown}");
    sweep.stamp.planned = Some(sweep.trials() + 1);
    sweep.stamp.stopped = Some(Stopped::Interrupted);
    let shown = answer::incomplete(&sweep).unwrap();
    assert!(shown.ends_with(" planned trials is missing."), "{shown}");
}

#[test]
fn panels_never_mix_workloads() {
    let mut sweep = sweep(7, 3);
    sweep.configurations[1].workload.record_size_bytes = 100;
    let of_cut = |html: &str| html.matches("Throughput against loss window under power cut\"").count();
    assert_eq!(of_cut(&report::render(&sweep)), 2);
    sweep.configurations[1].workload.record_size_bytes = 1024;
    assert_eq!(of_cut(&report::render(&sweep)), 1);
}

#[test]
fn terminal_view_tells_settings_apart_by_what_differs() {
    let mut sweep = sweep(7, 24);
    let shown = |sweep: &Sweep| table::render(sweep, Path::new("r"), Colour::Plain);
    assert!(!shown(&sweep).contains("batch.size"), "all have the same: {}", shown(&sweep));
    sweep.configurations[0].workload.batch_size_bytes = 16_384;
    let text = shown(&sweep);
    let own = |size: u32| text.matches(&format!("; batch.size={size}")).count();
    assert!(own(16_384) > 0 && own(131_072) > 0, "{text}");
    assert!(!text.contains("linger.ms"), "{text}");
}

#[test]
fn terminal_view_is_sentence_table_file() {
    let text = table::render(&broken(), Path::new("results/x/report.html"), Colour::Plain);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("A contract was broken"));
    let head = lines.iter().position(|line| line.starts_with("setting")).unwrap();
    assert!(lines[head].ends_with("p99"));
    let bad: Vec<&&str> = lines.iter().filter(|line| line.contains("✗ BROKEN")).collect();
    assert_eq!(bad.len(), 1);
    assert!(bad[0].contains(&CUT.to_string()));
    assert_eq!(lines.last(), Some(&"Report: results/x/report.html"));
    assert!(!text.contains('\u{1b}'));
    assert!(table::render(&broken(), Path::new("r"), Colour::Ansi).contains("\u{1b}[1;31m"));
}

#[test]
fn loss_within_the_contract_has_a_mark_of_its_own_in_the_terminal() {
    let text = table::render(&sweep(7, 24), Path::new("r"), Colour::Plain);
    let lost = |line: &&str| line.contains("▽ kept");
    assert!(text.lines().any(|line| lost(&line)) && text.contains("\n▽ lost, as the contract permits\n"));
    // A kept verdict without the mark stands beside a zero.
    for line in text.lines().filter(|line| line.contains("✓ kept")) {
        assert!(line.contains(" 0 ("), "{line}");
    }
}

#[test]
fn loss_in_a_row_that_proves_nothing_has_no_mark_and_no_legend() {
    let mut sweep = sweep(7, 24);
    for mark in sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials).flat_map(|trial| &mut trial.faults) {
        mark.since_last_ack = Some(Nanos::from_millis(1_000));
    }
    let cells = summaries(&sweep);
    assert!(cells.iter().filter_map(|cell| cell.judged.as_ref()).any(|judged| judged.lost > 0));
    let text = table::render(&sweep, Path::new("r"), Colour::Plain);
    assert!(text.contains("– proves nothing") && !text.contains('▽'), "{text}");
}

fn save(results: &ResultsDir, sweep: &Sweep) {
    results.save_plan(sweep).unwrap();
    for cell in &sweep.cells {
        for (number, trial) in cell.trials.iter().enumerate() {
            results.save_trial(&cell.plan.id, number, trial).unwrap();
        }
    }
}

#[test]
fn command_report_renders_again_from_raw_results() {
    let dir = tempfile::tempdir().unwrap();
    let results = ResultsDir::new(dir.path());
    save(&results, &sweep(7, 4));
    let command = || std::process::Command::new(env!("CARGO_BIN_EXE_highwater-bench"));
    let run = command().arg("report").arg(dir.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(results.report_path().exists());
    let printed = String::from_utf8(run.stdout).unwrap();
    assert!(printed.ends_with("report.html\n") && printed.contains("✓ kept"), "{printed}");
    let missing = command().arg("report").arg(dir.path().join("absent")).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("sweep.json"));
}

#[test]
fn results_survive_the_disk_and_render_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let results = ResultsDir::new(dir.path());
    let sweep = broken();
    save(&results, &sweep);
    let loaded = results.load().unwrap();
    assert_eq!(loaded, sweep);
    assert_eq!(report::render(&loaded), report::render(&sweep));
    results.save_histograms(&loaded).unwrap();
    let hgrm = dir.path().join("histograms/highwater-all-flush1.speed.intended.hgrm");
    assert!(std::fs::read_to_string(hgrm).unwrap().contains("#[Mean"));
    assert_eq!(results.save_report("x").unwrap(), dir.path().join("report.html"));
}

#[test]
fn results_of_an_interrupted_sweep_are_those_that_ended() {
    let dir = tempfile::tempdir().unwrap();
    let results = ResultsDir::new(dir.path());
    let sweep = sweep(7, 3);
    results.save_plan(&sweep).unwrap();
    results.save_trial(&sweep.cells[0].plan.id, 0, &sweep.cells[0].trials[0]).unwrap();
    let loaded = results.load().unwrap();
    assert_eq!(loaded.cells.len(), sweep.cells.len());
    assert_eq!(loaded.cells.iter().map(|cell| cell.trials.len()).sum::<usize>(), 1);
    assert!(report::render(&loaded).contains("</html>"));
}

#[test]
fn results_that_are_not_ours_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let results = ResultsDir::new(dir.path());
    assert!(matches!(results.load(), Err(StoreError::Io { .. })));
    std::fs::write(dir.path().join("sweep.json"), "{\"schema\": 999}").unwrap();
    assert!(matches!(results.load(), Err(StoreError::Schema { found: 999, .. })));
    std::fs::write(dir.path().join("sweep.json"), "{\"schema\": 1}").unwrap();
    let error = results.load().unwrap_err();
    assert!(error.to_string().contains("sweep.json"), "{error}");
    let mut escaping = sweep(7, 1);
    escaping.cells[0].plan.id = "../outside".to_owned();
    assert!(matches!(results.save_plan(&escaping), Err(StoreError::Inconsistent { .. })));
}

#[test]
fn nothing_lost_without_a_promise_is_not_shown_as_safe() {
    let mut sweep = sweep(7, 24);
    let lucky = sweep.cells.iter_mut().find(|cell| cell.plan.id == "kafka-1-never.cut").unwrap();
    for verdict in lucky.trials.iter_mut().filter_map(|trial| trial.verdict.as_mut()) {
        (verdict.losses.records, verdict.losses.window) = (0, None);
    }
    let html = report::render(&sweep);
    assert!(html.contains("1, no flush (not promised)</text>"));
    assert_eq!(html.matches("<td class=\"unpromised\">").count(), 1);
}

fn failure(sweep: &Sweep, cell: usize, seed: u64, after_fault: bool) -> Failure {
    Failure {
        cell: sweep.cells[cell].plan.id.clone(),
        number: 0,
        seed,
        command: "highwater-bench cell w.toml 1".to_owned(),
        reason: "the disk cannot be mounted <again>\nits log".to_owned(),
        after_fault,
        at: "2001-01-01T00:00:00Z".to_owned(),
    }
}

#[test]
fn trials_without_a_verdict_and_repeated_ones_are_said_at_the_top() {
    let mut sweep = sweep(7, 4);
    let seed = sweep.cells[1].trials[0].seed;
    sweep.failures =
        vec![failure(&sweep, 1, seed, false), failure(&sweep, 1, 99, true), failure(&sweep, 1, 99, true)];
    let dir = tempfile::tempdir().unwrap();
    let results = ResultsDir::new(dir.path());
    save(&results, &sweep);
    let sweep = results.load().unwrap();
    let html = report::render(&sweep);
    let terminal = table::render(&sweep, Path::new("r"), Colour::Plain);
    for said in ["1 trial without a verdict, since it failed: the disk", "1 trial repeated after a failure"] {
        let place = html.find(said).unwrap_or_else(|| panic!("{said} is missing"));
        assert!(place < html.find("class=\"cards\"").unwrap());
        assert!(terminal.contains(said), "{terminal}");
    }
    assert!(html.contains("Trial 0 failed after the fault"));
}

#[test]
fn records_that_a_broker_refuses_count_as_lost_and_are_named() {
    let mut sweep = sweep(7, 4);
    let cell = sweep.cells.iter_mut().find(|cell| cell.plan.id == "highwater-all-flush1.cut").unwrap();
    let verdict = cell.trials[2].verdict.as_mut().unwrap();
    verdict.losses.unreadable = 700;
    verdict.standing = highwater_checker::Standing::Broken;
    let unreadable =
        Finding { anomaly: Anomaly::Unreadable, count: 700, examples: vec!["code 56".to_owned()] };
    verdict.violations.push(unreadable);
    let said = headline(&sweep).sentence;
    assert!(said.contains("refused to give 700 acknowledged records under a power cut"), "{said}");
    assert!(report::render(&sweep).contains("700 of them refused by the broker"));
    let unrecovered = Finding { anomaly: Anomaly::Unrecovered, count: 2, examples: Vec::new() };
    let cell = sweep.cells.iter_mut().find(|cell| cell.plan.id == "highwater-all-flush1.cut").unwrap();
    cell.trials[2].verdict.as_mut().unwrap().violations = vec![unrecovered];
    assert!(headline(&sweep).sentence.contains("did not come back 2 times under a power cut"));
}

#[test]
fn records_that_retention_deleted_are_not_counted_as_kept() {
    let mut sweep = sweep(7, 4);
    let cells = sweep.cells.iter_mut().filter(|cell| cell.plan.id.starts_with("highwater-all-flush1"));
    for verdict in cells.flat_map(|cell| &mut cell.trials).filter_map(|trial| trial.verdict.as_mut()) {
        (verdict.losses.of_records, verdict.losses.expired) = (1_000_000, 400_000);
    }
    let headline = headline(&sweep);
    let said = headline.details.iter().any(|detail| {
        detail.contains(
            "4.00 M records were acknowledged, 1.60 M of them deleted by retention before they could be read",
        )
    });
    assert!(said, "{headline:?}");
    let html = report::render(&sweep);
    assert!(html.contains("lost 0 of 2.40 M acknowledged (and 1.60 M more, deleted by retention"));
    assert!(!html.contains("lost 0 of 4.00 M"));
    // Where retention took everything, nothing is proven.
    for verdict in sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials).filter_map(|t| t.verdict.as_mut())
    {
        verdict.losses.expired = verdict.losses.of_records;
        verdict.losses.records = 0;
    }
    assert!(answer::cards(&summaries(&sweep)).iter().all(|card| card.keepers.is_empty()));
}

#[test]
fn kill_on_the_way_does_not_vouch_for_a_cut_into_silence() {
    let mut sweep = sweep(7, 5);
    for trial in sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials) {
        if let Some(last) = trial.faults.last().cloned() {
            trial.faults.insert(0, last);
            trial.faults[1].since_last_ack = Some(highwater_checker::Nanos::from_millis(900));
        }
    }
    assert!(answer::cards(&summaries(&sweep)).iter().all(|card| card.keepers.is_empty()));
}

#[test]
fn few_pairs_get_no_reading() {
    let mut sweep = sweep(7, 2);
    assert!(report::render(&sweep).contains("A is faster"));
    sweep.comparisons.iter_mut().for_each(|comparison| comparison.pairs.truncate(2));
    let html = report::render(&sweep);
    assert!(!html.contains("A is faster") && !html.contains("this is the noise"));
    assert_eq!(html.matches("too few pairs to tell").count(), 2);
}

#[test]
fn latency_comes_from_an_open_loop_or_not_at_all() {
    let sweep = sweep(7, 4);
    let html = report::render(&sweep);
    assert!(html.contains("; p99 ") && html.contains(" at 20.5 MB/s offered"));
    assert!(html.contains("closed loop: latency includes the time in the client"));
    let terminal = table::render(&sweep, Path::new("r"), Colour::Plain);
    assert!(terminal.contains("p99: without a fault, on an open loop at 20.5 MB/s offered"), "{terminal}");
    let mut saturated = sweep;
    saturated.cells.retain(|cell| !cell.plan.id.ends_with(".steady"));
    let html = report::render(&saturated);
    let cards = &html[html.find("class=\"cards\"").unwrap()..html.find("id=\"trade\"").unwrap()];
    assert!(!cards.contains("p99"), "{cards}");
    assert!(!html.contains("id=\"latency\""));
}

#[test]
fn loss_never_stands_without_the_rate_at_which_it_came() {
    let sweep = sweep(7, 24);
    let html = report::render(&sweep);
    assert!(
        html.contains("Faults struck a load at 20.5 MB/s offered, on: ext4 on a disk with a power switch")
    );
    assert!(html.contains("at 20.5 MB/s, ext4 on a disk with a power switch"));
    assert!(html.contains(" lost at 20.5 MB/s</text>"));
    let terminal = table::render(&sweep, Path::new("r"), Colour::Plain);
    assert!(terminal.contains("faults struck a load at 20.5 MB/s offered"), "{terminal}");
}

/// It is the fastest of all and loses next to nothing of what it never acknowledged: a frontier would end there.
#[test]
fn setting_without_acks_is_hollow_and_on_no_frontier() {
    let mut sweep = sweep(7, 24);
    let hollow = |sweep: &Sweep| report::render(sweep).matches("mark hollow").count();
    let with_zero = hollow(&sweep);
    assert!(report::render(&sweep).contains("acks=0 (outline) is on no frontier"));
    sweep.cells.retain(|cell| cell.plan.configuration != "highwater-0");
    assert!(hollow(&sweep) < with_zero);
}

#[test]
fn speed_is_given_with_and_without_the_flush_at_its_end() {
    let mut sweep = sweep(7, 4);
    let html = report::render(&sweep);
    // 20 s of load, 5 s of flushing.
    let speed = sweep.cells.iter().find(|cell| cell.plan.id == "highwater-all-flush1.steady").unwrap();
    assert_eq!(speed.trials[0].load.drained_bytes_per_second(), Some(16_384_000.0));
    assert!(html.contains("drained MB/s") && html.contains("16.4"));
    assert!(html.contains("took up to 5.00 s more, which only the drained figures are charged with"));
    // Results of before it was measured say so.
    let trials = sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials);
    trials.for_each(|trial| trial.load.drain = None);
    assert!(report::render(&sweep).contains("is charged to nobody"));
}

#[test]
fn speed_stands_beside_what_it_cost_and_what_the_client_could_do() {
    let mut sweep = sweep(7, 4);
    let html = report::render(&sweep);
    // 0.4 MB per CPU-ms of the broker's processes, 1.9 of the machine less the client.
    for shown in ["MB per broker CPU-s", ">400<", "MB per machine CPU-s", ">1900<", "40.0 MB at the end"] {
        assert!(html.contains(shown), "{shown}");
    }
    let limited = "of it used: limited by the client";
    assert!(html.contains(limited), "655 of 700 MB/s");
    let terminal = table::render(&sweep, Path::new("r"), Colour::Plain);
    assert!(terminal.contains("against a broker that keeps nothing, in this run: 700 MB/s"), "{terminal}");
    assert!(terminal.contains("! limited by the client: at least 90 % of its ceiling"), "{terminal}");
    assert!(terminal.contains("48.0 MB     40.0 MB"), "{terminal}");
    let cells = summaries(&sweep);
    let of = |id: &str| cells.iter().find(|cell| cell.cell.plan.id == id).unwrap();
    assert!(of("highwater-0.speed").is_limited_by_client());
    assert!(!of("highwater-all-flush1.speed").is_limited_by_client());
    drop(cells);
    sweep.configurations.iter_mut().for_each(|configuration| {
        configuration.client_ceiling.as_mut().unwrap().bytes_per_second = 1e9;
    });
    assert!(!report::render(&sweep).contains(limited));
    // Results from before these figures have no such columns to show, and say so.
    sweep.configurations.iter_mut().for_each(|configuration| configuration.client_ceiling = None);
    sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials).for_each(|trial| trial.load.used = None);
    assert!(report::render(&sweep).contains("not measured"));
    assert!(!table::render(&sweep, Path::new("r"), Colour::Plain).contains("of the client"));
}

#[test]
fn speed_of_three_laps_of_the_journal_or_fewer_is_marked() {
    let mut sweep = sweep(7, 4);
    // The slow broker of the sample has a journal, too: 20 s at 74 MB/s are 1.4 times round it.
    let marked =
        |sweep: &Sweep| table::render(sweep, Path::new("r"), Colour::Plain).matches("  ! 1.3").count();
    assert_eq!(marked(&sweep), 1, "{}", table::render(&sweep, Path::new("r"), Colour::Plain));
    assert!(report::render(&sweep).contains("some trials went round it only 1.3"));
    let cells = summaries(&sweep);
    let short: Vec<&str> =
        cells.iter().filter(|cell| cell.is_short()).map(|cell| cell.cell.plan.id.as_str()).collect();
    assert_eq!(short, ["kafka-all-flush1.speed"]);
    drop(cells);
    for trial in sweep.cells.iter_mut().flat_map(|cell| &mut cell.trials) {
        trial.load.used.as_mut().unwrap().lap_bytes = None;
    }
    assert_eq!(marked(&sweep), 0);
    assert!(!report::render(&sweep).contains("went round it only"));
}

/// Twelve pairs in the sample, of which each has its figures here.
#[test]
fn pairs_show_throughput_cpu_and_latency_in_the_page_and_in_the_terminal() {
    let mut sweep = sweep(7, 4);
    for comparison in &mut sweep.comparisons {
        comparison.drained = comparison.pairs.clone();
        comparison.per_cpu_second = comparison.pairs.clone();
        comparison.per_machine_cpu_second = comparison.pairs.clone();
        comparison.p99 = comparison.pairs.iter().map(|(a, b)| (b / 10.0, a / 10.0)).collect();
    }
    for shown in [report::render(&sweep), table::render(&sweep, Path::new("r"), Colour::Plain)] {
        for (reading, times) in
            [("A is faster", 2), ("A does more with a CPU-second", 2), ("A answers sooner", 1)]
        {
            assert_eq!(shown.matches(reading).count(), times, "{reading}: {shown}");
        }
        for figure in ["MB/s until drained", "MB per broker CPU-s", "MB per machine CPU-s"] {
            assert!(shown.contains(figure), "{figure}: {shown}");
        }
        assert_eq!(shown.matches("the same twice: this is the noise").count(), 5);
    }
    for comparison in &mut sweep.comparisons {
        for pairs in [
            &mut comparison.pairs,
            &mut comparison.drained,
            &mut comparison.per_cpu_second,
            &mut comparison.per_machine_cpu_second,
            &mut comparison.p99,
        ] {
            pairs.truncate(5);
        }
    }
    // In a sweep that was not made of pairs they are not worth a line.
    assert!(!table::render(&sweep, Path::new("r"), Colour::Plain).contains("B ÷ A"));
    sweep.stamp.pairs = Some(highwater_bench::results::Pairs { pairs: 5, noise: true });
    let terminal = table::render(&sweep, Path::new("r"), Colour::Plain);
    assert_eq!(terminal.matches("too few pairs to tell").count(), 10, "{terminal}");
}

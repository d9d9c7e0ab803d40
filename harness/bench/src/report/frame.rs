//! The frame of the page: sentence, cards, legend, machine, limits, command.

use super::html::{Align, Field, Html, Table};
use super::marks::{Certainty, Shape, mark, shape_of};
use super::svg::{Anchor, Escaped, Svg, at};
use super::{Page, words};
use crate::results::answer::{Card, FlushClass, Headline, Keeper};
use crate::results::summary::{CellSummary, Judged};
use crate::results::{DiskKind, Property, Sweep, Workload, answer, text};
use highwater_checker::{Acks, Contract, FaultKind, Loss, Nanos, Scope};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// A median flush faster than this is hardly a flush: no medium that loses power is that quick.
const SUSPICIOUS_FLUSH: Nanos = Nanos(20_000);

pub(super) fn head(html: &mut Html, sweep: &Sweep, headline: &Headline) {
    let title = format!("{}: {}", sweep.stamp.title, headline.sentence);
    html.markup(format_args!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        Escaped(&title)
    ));
}

pub(super) fn headline(html: &mut Html, sweep: &Sweep, headline: &Headline) {
    let stamp = &sweep.stamp;
    html.within("header", super::tone_class(headline), |html| {
        let what = format!(
            "Highwater bench · {} · {} · {}, {}",
            stamp.title,
            stamp.started_at,
            text::counted(sweep.cells.len() as u64, "cell", "cells"),
            text::counted(sweep.trials(), "trial", "trials")
        );
        html.markup(format_args!(
            "<p class=\"what\">{} · <a href=\"#words\">the words used here</a></p>\n",
            Escaped(&what)
        ));
        html.element("h1", "", &headline.sentence);
        for detail in &headline.details {
            html.element("p", "detail", detail);
        }
        for line in answer::failures(sweep) {
            html.element("p", "warning", &format!("⚠ {line}"));
        }
        if let Some(line) = answer::incomplete(sweep) {
            html.element("p", "warning", &format!("⚠ {line}"));
        }
    });
}

pub(super) fn cards(html: &mut Html, cards: &[Card<'_, '_>], cells: &[CellSummary<'_>]) {
    html.within("div", "cards", |html| {
        for card in cards {
            html.within("article", "card", |html| {
                html.element("h2", "", card.accident.question());
                match (card.keepers.split_first(), card.tried) {
                    (Some((best, others)), _) => keeper(html, best, others, cells),
                    (None, 0) => html.element("p", "absent", "Not tried in this sweep."),
                    (None, tried) => {
                        let words = text::counted(tried as u64, "cell", "cells");
                        let sentence = format!(
                            "No setting in this sweep promises to keep, and kept, everything ({words} tried)."
                        );
                        html.element("p", "absent", &sentence);
                    }
                }
            });
        }
    });
}

fn keeper(html: &mut Html, best: &Keeper<'_, '_>, others: &[Keeper<'_, '_>], cells: &[CellSummary<'_>]) {
    let configuration = best.configuration;
    html.element("p", "setting", &configuration.label());
    html.element(
        "p",
        "broker",
        &format!("{}, {}", configuration.broker_label(), brokers_words(configuration.broker.count)),
    );
    if cells.iter().any(|cell| cell.configuration.workload != configuration.workload) {
        html.element("p", "broker", &workload_words(&configuration.workload));
    }
    html.element("p", "speed", &speed_words(best));
    let lost = format!(
        "lost 0 of {} acknowledged{} in {}",
        text::rounded(best.acknowledged()),
        words::expired(best.expired()),
        best.accidents()
    );
    html.element("p", "proof", &lost);
    html.element("p", "bound", &best.bound());
    if let Some(cost) = answer::cost(cells, best) {
        html.element("p", "cost", &cost);
    }
    for other in others {
        let line = format!(
            "{}: {}, {}",
            other.configuration.broker_label(),
            other.configuration.label(),
            speed_words(other)
        );
        html.element("p", "other", &line);
    }
    let groups = [
        ("broker", &configuration.broker_properties),
        ("topic", &configuration.topic_properties),
        ("producer", &configuration.producer_properties),
    ];
    html.within("details", "settings", |html| {
        html.element("summary", "", "The settings to copy");
        html.within("div", "snippet", |html| {
            html.markup(format_args!("<button type=\"button\" class=\"copy\" hidden>copy</button>\n<pre>"));
            for (owner, properties) in groups.into_iter().filter(|(_, properties)| !properties.is_empty()) {
                html.markup(format_args!("# {owner}\n{}", Escaped(&property_lines(properties))));
            }
            html.markup(format_args!("</pre>\n"));
        });
    });
}

pub(super) fn property_lines(properties: &[Property]) -> String {
    properties.iter().map(|property| format!("{}={}\n", property.name, property.value)).collect()
}

fn brokers_words(count: u32) -> String {
    text::counted(u64::from(count), "broker", "brokers")
}

fn speed_words(keeper: &Keeper<'_, '_>) -> String {
    let Some((cell, spread)) = keeper.performance.and_then(|cell| Some((cell, cell.bytes_per_second?)))
    else {
        return "throughput not measured".to_owned();
    };
    let sustained = if cell.sustained { "" } else { " (not sustained)" };
    format!("{} MB/s{sustained}{}", text::megabytes(spread.median), latency_words(keeper.open_loop))
}

/// The latency beside a speed, which comes from another load: that of a saturated client is no latency of the broker.
fn latency_words(open_loop: Option<&CellSummary<'_>>) -> String {
    let Some((cell, offered)) = open_loop.and_then(|cell| Some((cell, cell.offered()?))) else {
        return String::new();
    };
    let sustained = if cell.sustained { "" } else { ", not sustained" };
    let p99 = text::latency(cell.intended.quantile(0.99));
    format!("; p99 {p99} at {} MB/s offered{sustained}", text::megabytes(offered))
}

/// ` at 20.0 MB/s`, where a rate was offered.
pub(super) fn at_rate(cell: &CellSummary<'_>) -> String {
    cell.offered().map_or_else(String::new, |rate| format!(" at {} MB/s", text::megabytes(rate)))
}

/// What a workload sends, in one line.
pub(crate) fn workload_words(workload: &Workload) -> String {
    let Workload { record_size_bytes, partitions, idle_partitions, producers, consumers, .. } = workload;
    format!(
        "{} B records, {}{}, {}{}, batch.size={}, linger.ms={}, compression.type={}{}{}{}",
        text::exact(u64::from(*record_size_bytes)),
        text::counted(u64::from(*partitions), "partition", "partitions"),
        match idle_partitions {
            0 => String::new(),
            idle => format!(" and {} idle ones", text::exact(u64::from(*idle))),
        },
        text::counted(u64::from(*producers), "producer", "producers"),
        match consumers {
            0 => String::new(),
            along =>
                format!(", {} along", text::counted(u64::from(*along), "consumer reads", "consumers read")),
        },
        workload.batch_size_bytes,
        workload.linger_ms,
        workload.compression,
        if workload.keyed { ", keyed" } else { ", no keys" },
        match workload.zero_percent {
            0 => ", incompressible".to_owned(),
            percent => format!(", {percent} % zeros"),
        },
        if workload.cold { ", cold" } else { "" }
    )
}

/// How to read the charts.
pub(super) fn legend(html: &mut Html, page: &Page<'_, '_>) {
    let label = "Legend: shape tells the broker, fill the flush setting, outline only means in doubt";
    let mut svg = Svg::new(960.0, 74.0, label);
    let mut x = 12.0;
    for name in &page.brokers {
        let shape = shape_of(&page.brokers, name);
        mark(&mut svg, shape, FlushClass::EveryMessage, Certainty::Certain, at(x, 14.0), 6.0);
        svg.text("label", at(x + 13.0, 18.0), Anchor::Start, name);
        x += 40.0 + 6.6 * name.chars().count() as f64;
    }
    let shape = page.brokers.first().map_or(Shape::Circle, |name| shape_of(&page.brokers, name));
    x = 12.0;
    for class in FlushClass::ALL {
        mark(&mut svg, shape, class, Certainty::Certain, at(x, 38.0), 6.0);
        svg.text("label", at(x + 13.0, 42.0), Anchor::Start, class.words());
        x += 40.0 + 6.2 * class.words().chars().count() as f64;
    }
    mark(&mut svg, shape, FlushClass::LeftToSystem, Certainty::InDoubt, at(12.0, 62.0), 6.0);
    let doubt =
        "outline only: rate not sustained, loss window a lower bound (↑), or acks=0 (nothing acknowledged)";
    svg.text("label", at(25.0, 66.0), Anchor::Start, doubt);
    html.chart(&svg.finish());
    html.element("p", "note", "Beside a point: acks, replicas if more than one, flush, records lost in the worst trial and the rate at which. Where there is no room for these, the number in the tables, or nothing. Pointing at it shows the figures; it links to the cell.");
}

/// What a panel rests on, and what it must not be taken for.
pub(super) fn panel_note(cells: &[&CellSummary<'_>]) -> String {
    let trials = |judged: &Judged| judged.trials;
    let counts: Vec<usize> = cells.iter().filter_map(|cell| cell.judged.as_ref().map(trials)).collect();
    let (least, most) =
        (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    let trials = if least == most {
        text::counted(least as u64, "trial", "trials")
    } else {
        format!("{least} to {most} trials")
    };
    let mut disks: Vec<&str> = Vec::new();
    for cell in cells {
        let words = cell.cell.plan.disk.words();
        if !disks.contains(&words) {
            disks.push(words);
        }
    }
    let disks = disks.join("; ");
    let few =
        if least < 20 { " Fewer than 20 trials a setting: a rare loss may have been missed." } else { "" };
    let mut rates: Vec<String> = Vec::new();
    for rate in cells.iter().filter_map(|cell| cell.offered()).map(text::megabytes) {
        if !rates.contains(&rate) {
            rates.push(rate);
        }
    }
    let rates = match rates.as_slice() {
        [] => "as fast as possible, or as each cell says".to_owned(),
        rates => format!("at {} MB/s offered", rates.join(" or ")),
    };
    let zero = |cell: &&CellSummary<'_>| cell.configuration.setting.acks == Acks::Zero;
    let unacknowledged = if cells.iter().any(zero) {
        " acks=0 (outline) is on no frontier: nothing is acknowledged, and its speed is that of the socket."
    } else {
        ""
    };
    format!(
        "{trials} a setting. Faults struck a load {rates}, on: {disks}. Throughput comes from trials without a \
         fault.{unacknowledged}{few}"
    )
}

pub(super) fn environment(html: &mut Html, sweep: &Sweep) {
    let environment = &sweep.environment;
    let floor = &environment.floor;
    html.section("machine", "Machine, disk and versions", |html| {
        let mut table = Table::new([("", Align::Text), ("", Align::Text)]);
        let mut row =
            |name: &str, value: String| table.row("", [Field::new(name).class("name"), Field::new(value)]);
        row("Processor", format!("{}, {} logical", environment.cpu_model, environment.cpus));
        row("Memory", text::bytes(environment.memory_bytes));
        if let Some(hypervisor) = &environment.hypervisor {
            row("Virtual machine", hypervisor.clone());
        }
        row("Kernel", environment.kernel.clone());
        row("File system", format!("{} ({})", environment.filesystem, environment.mount_options));
        row("Device", environment.device.clone());
        let of = |quantile| text::latency(floor.fdatasync.quantile(quantile));
        let flush = format!(
            "p50 {}, p90 {}, p99 {}, max {} ({} samples of 4 KiB)",
            of(0.5),
            of(0.9),
            of(0.99),
            text::latency(floor.fdatasync.max()),
            text::exact(floor.fdatasync.len())
        );
        row("fdatasync, bare device", flush);
        row(
            "Sequential write, bare device",
            format!("{} MB/s", text::megabytes(floor.write_bytes_per_second)),
        );
        let ceiling = environment.client_ceiling.map_or_else(
            || "not measured".to_owned(),
            |ceiling| {
                format!(
                    "{} records/s, {} MB/s",
                    text::rounded(ceiling.records_per_second as u64),
                    text::megabytes(ceiling.bytes_per_second)
                )
            },
        );
        row("Client against a broker that does nothing", ceiling);
        for tunable in &environment.tunables {
            row(&tunable.name, tunable.value.clone());
        }
        let mut brokers: Vec<String> = Vec::new();
        for configuration in &sweep.configurations {
            let label = configuration.broker_label();
            if !brokers.contains(&label) {
                brokers.push(label);
            }
        }
        row("Brokers", brokers.join(", "));
        let mut workloads: Vec<String> =
            sweep.configurations.iter().map(|known| workload_words(&known.workload)).collect();
        workloads.sort();
        workloads.dedup();
        row("Workload", workloads.join("; "));
        row("Harness", format!("{} at {}", sweep.stamp.version, sweep.stamp.commit));
        row("Seed", sweep.stamp.seed.to_string());
        row("Took", sweep.stamp.took.to_string());
        table.write(html);
    });
}

/// For who knows none of our words.
const WORDS: [(&str, &str); 9] = [
    (
        "acknowledged",
        "The broker told the producer that it has the record. The producer may then forget it: only the broker can still lose it.",
    ),
    (
        "acks",
        "What the broker waits for before it says so. 0: it never says so. 1: one broker has written the record. all: every broker that must have it has written it; with one broker that is the same as 1.",
    ),
    (
        "flush",
        "Written data waits in memory until a flush makes the disk keep it. flush.messages=1: before every acknowledgement. flush.ms=100: every 100 ms. Left to the system: some time, often half a minute later.",
    ),
    (
        "process kill",
        "The broker's program ends at once (SIGKILL). The machine runs on and keeps what was written in its memory.",
    ),
    (
        "power cut",
        "Machine memory and the disk's own cache are gone. Only what was flushed is sure to be there.",
    ),
    (
        "lost",
        "Acknowledged, and not there when everything was read back after the fault: gone, or refused by a broker that does not serve it any more.",
    ),
    (
        "loss window",
        "How far back the loss reaches: from the earliest acknowledgement of a lost record to the fault.",
    ),
    (
        "contract",
        "What the settings promise under that fault, by Kafka's own rules. Losing what no setting protected breaks nothing.",
    ),
    ("p99", "99 of 100 records took no longer than this. p50, p99.9 and so on likewise."),
];

pub(super) fn glossary(html: &mut Html) {
    html.section("words", "The words used here", |html| {
        html.markup(format_args!("<dl class=\"words\">\n"));
        for (word, meaning) in WORDS {
            html.element("dt", "", word);
            html.element("dd", "", meaning);
        }
        html.markup(format_args!("</dl>\n"));
    });
}

pub(super) fn limits(html: &mut Html, sweep: &Sweep, cells: &[CellSummary<'_>]) {
    html.section("limits", "What this cannot tell you", |html| {
        html.markup(format_args!("<ul class=\"limits\">\n"));
        for limit in known_limits(sweep, cells) {
            html.element("li", "", &limit);
        }
        html.markup(format_args!("</ul>\n"));
    });
}

/// The limits that hold for this sweep, found in its results.
fn known_limits(sweep: &Sweep, cells: &[CellSummary<'_>]) -> Vec<String> {
    let mut limits = Vec::new();
    let mut say = |condition: bool, limit: &str| {
        if condition {
            limits.push(limit.to_owned());
        }
    };
    let disk = |kind: DiskKind| cells.iter().any(|cell| cell.cell.plan.disk == kind);
    let fault = |wanted: &dyn Fn(FaultKind) -> bool| {
        cells.iter().filter_map(CellSummary::fault).any(|fault| wanted(fault.kind))
    };
    let environment = &sweep.environment;
    say(
        environment.floor.fdatasync.quantile(0.5).is_some_and(|nanos| Nanos(nanos) < SUSPICIOUS_FLUSH),
        "This disk's flush costs suspiciously little: it may keep data in a cache that power does not protect. \
         Figures of durable settings do not transfer to other disks.",
    );
    say(
        true,
        "How your machine behaves. Client and brokers shared this one, over loopback: there is no network in these \
         figures, and the client took its share of the processor.",
    );
    say(
        environment.hypervisor.is_some(),
        "How a machine that is not virtual behaves: the host's disk cache and neighbours are not visible from here.",
    );
    let clustered = cells.iter().any(|cell| cell.configuration.broker.count > 1);
    say(
        environment.replicas_share_a_disk && clustered,
        "What independent disks would give: all replicas wrote to one device, so replicated throughput is a lower bound, \
         and a failure of that device would have taken every copy.",
    );
    say(
        disk(DiskKind::PowerSwitch),
        "Whether a flush that was skipped hides behind another: on the disk with a power switch one flush persists \
         everything written before it. Cells with each flush on its own are stricter.",
    );
    let simulated = cells.iter().filter(|cell| cell.cell.plan.disk == DiskKind::Simulated).count();
    say(
        simulated > 0,
        &format!(
            "What a real disk loses, and how fast anything is, from the {} that ran in the simulator: the broker's own \
             code, on a simulated disk and network in virtual time. Their verdicts count; their throughput is no \
             measurement, and none is given.",
            text::counted(simulated as u64, "setting", "settings"),
        ),
    );
    say(
        fault(&|kind| kind == FaultKind::SystemCrash),
        "What a power cut loses, from the operating system crashes: there the disk's own cache survived.",
    );
    say(
        fault(&|kind| kind == FaultKind::ProcessKill) && !fault(&FaultKind::cuts_power),
        "What a power cut loses: only processes were killed here, and the page cache survives that.",
    );
    say(
        cells.iter().any(CellSummary::is_limited_by_client),
        "How fast the brokers are whose figure is marked as limited by the client: the load generator itself is not faster \
         with those settings on this machine.",
    );
    let laps = cells.iter().filter(|cell| cell.is_short()).filter_map(|cell| cell.laps);
    if let Some(fewest) = laps.min_by(f64::total_cmp) {
        say(
            true,
            &format!(
                "The long-run speed of brokers that have a journal: some trials went round it only {} times, and what it puts \
                 off is paid for certain after three. workloads/long.toml goes further.",
                text::three_digits(fewest)
            ),
        );
    }
    let undrained = undrained_words(cells);
    say(undrained.is_some(), undrained.as_deref().unwrap_or_default());
    let site = cells.iter().filter_map(CellSummary::fault).any(|fault| fault.scope == Scope::AllBrokers);
    say(!clustered, "Anything about replication: every setting here had one broker.");
    say(clustered && !site, "What is lost when all brokers lose power at once: only one at a time was hit.");
    let bounded =
        |cell: &CellSummary<'_>| cell.judged.as_ref().is_some_and(|judged| judged.window_is_lower_bound);
    say(
        cells.iter().any(bounded),
        "How much a setting that never flushes loses at most: some trials ended before write-back did, and their loss \
         windows (outlined, ↑) are lower bounds.",
    );
    let unbounded = |contract: &Contract| matches!(contract.loss, Loss::UNBOUNDED_TAIL | Loss::Anything);
    say(
        cells.iter().filter_map(CellSummary::contract).any(unbounded),
        "The worst loss of settings that promise no bound: a window seen in some trials is what happened, not what can happen.",
    );
    let few = cells.iter().filter_map(|cell| cell.judged.as_ref()).any(|judged| judged.trials < 20);
    say(few, "Rare losses: some cells have fewer than 20 trials.");
    say(
        cells.iter().any(|cell| !cell.sustained),
        "The latency of rates that were not sustained: it grows with the length of the run.",
    );
    let unread = cells.iter().any(|cell| cell.fault().is_some() && cell.judged.is_none());
    say(unread, "What the cells without a verdict lost: their logs were not read back.");
    say(!sweep.stamp.complete, "What the trials that are missing, or have no verdict, would have shown.");
    limits
}

/// What short runs leave unpaid, in figures.
fn undrained_words(cells: &[CellSummary<'_>]) -> Option<String> {
    let speed = || cells.iter().filter(|cell| cell.fault().is_none());
    let loads = || {
        speed().flat_map(|cell| &cell.cell.trials).map(|trial| &trial.load).filter(|load| load.is_measured())
    };
    let longest = loads().map(|load| load.elapsed).max()?;
    let drained = match loads().filter_map(|load| load.drain).max() {
        Some(drain) => format!(
            "flushing what they left in the page cache, and what they wrote by themselves then, took up to {drain} more, which \
             only the drained figures are charged with"
        ),
        None => "what they left in the page cache was flushed after the clock had stopped, and is charged to nobody".to_owned(),
    };
    Some(format!(
        "How fast anything is in the long run: no speed trial was longer than {longest}, and {drained}. What a broker keeps \
         in its own memory, and write-back, cleaning and retention that set in later, are in no figure."
    ))
}

pub(super) fn foot(html: &mut Html, sweep: &Sweep) {
    html.section("again", "Run it again", |html| {
        html.within("div", "snippet", |html| {
            html.markup(format_args!("<button type=\"button\" class=\"copy\" hidden>copy</button>\n"));
            html.markup(format_args!("<pre>{}</pre>\n", Escaped(&sweep.stamp.command)));
        });
        html.element(
            "p",
            "note",
            "Raw results, histograms (.hgrm) and each trial's command lie beside this file; it is rendered from them alone.",
        );
    });
    html.markup(format_args!("</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"));
}

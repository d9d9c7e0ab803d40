//! The report: one self-contained HTML file.
//!
//! Purpose: tell an engineer who has never heard of this project, within a minute, which setting keeps
//! what was acknowledged and what that costs, and give an expert everything that backs it.
//!
//! From the top: the sentence ([`crate::results::answer`]), three cards, throughput against loss
//! (`pareto`), every cell (`tables`), latency (`latency`), each cell in full with its timeline
//! (`cell`, `timeline`, `strip`), the machine, what the report cannot tell, its words, and the command.
//!
//! Invariants: no network, no dates or random numbers of its own (the same results give the same
//! file), every text escaped, no figure that is not derived from the raw results. Colours come from
//! `style.css`, follow the reader's scheme, and are never the only mark.

mod cell;
mod frame;
mod html;
mod labels;
mod latency;
mod marks;
mod pareto;
mod strip;
mod svg;
mod tables;
mod timeline;
pub(crate) mod words;

use crate::results::answer::{self, Headline, Ordeal, Tone};
use crate::results::stats;
use crate::results::summary::{CellSummary, open_loop, performance, summaries};
use crate::results::{Configuration, Sweep, Workload};
pub(crate) use frame::workload_words;
use html::Html;
use latency::Curve;

/// Renders a sweep.
#[must_use]
pub fn render(sweep: &Sweep) -> String {
    let cells = summaries(sweep);
    let cards = answer::cards(&cells);
    let headline = answer::headline(&cells, &cards);
    let page = Page { sweep, cells: &cells, brokers: marks::brokers(sweep) };
    let mut html = Html::default();
    frame::head(&mut html, sweep, &headline);
    frame::headline(&mut html, sweep, &headline);
    if headline.tone == Tone::Broken {
        page.broken(&mut html);
    }
    frame::cards(&mut html, &cards, &cells);
    page.charts(&mut html);
    tables::all(&mut html, &page);
    page.latencies(&mut html);
    page.comparisons(&mut html);
    cell::all(&mut html, &page);
    frame::environment(&mut html, sweep);
    frame::limits(&mut html, sweep, &cells);
    frame::glossary(&mut html);
    frame::foot(&mut html, sweep);
    html.finish()
}

/// What every part of the page needs.
struct Page<'s, 'a> {
    sweep: &'a Sweep,
    cells: &'s [CellSummary<'a>],
    brokers: Vec<String>,
}

impl<'s, 'a> Page<'s, 'a> {
    /// A configuration's number in the tables.
    fn number(&self, configuration: &str) -> usize {
        1 + self.sweep.configurations.iter().position(|known| known.id == configuration).unwrap_or_default()
    }

    /// A configuration's settings, with its workload where the sweep has several.
    fn label(&self, configuration: &Configuration) -> String {
        let workload = &configuration.workload;
        if self.sweep.configurations.iter().all(|other| other.workload == *workload) {
            return configuration.label();
        }
        format!("{}; {}", configuration.label(), frame::workload_words(workload))
    }

    /// The distinct faults, real and simulated ones apart, in the order in which they were first tried.
    fn ordeals(&self) -> Vec<Ordeal<'a>> {
        let mut ordeals: Vec<Ordeal<'_>> = Vec::new();
        for ordeal in self.cells.iter().filter_map(CellSummary::ordeal) {
            if !ordeals.contains(&ordeal) {
                ordeals.push(ordeal);
            }
        }
        ordeals
    }

    fn of_ordeal(&self, ordeal: Ordeal<'_>) -> Vec<&'s CellSummary<'a>> {
        self.cells.iter().filter(|cell| cell.ordeal() == Some(ordeal)).collect()
    }

    /// What was broken comes first and in full.
    fn broken(&self, html: &mut Html) {
        html.section("broken", "Broken contracts", |html| {
            for cell in self.cells.iter().filter(|cell| cell.is_broken()) {
                cell::findings(html, self, cell);
            }
        });
    }

    fn charts(&self, html: &mut Html) {
        let ordeals = self.ordeals();
        let drawn = |cell: &CellSummary<'_>| {
            cell.fault().is_some() && performance(self.cells, &cell.configuration.id).is_some()
        };
        if !self.cells.iter().any(drawn) {
            return;
        }
        html.section("trade", "Throughput against loss", |html| {
            html.element(
                "p",
                "lead",
                "One point a setting. Right is faster; down is safer; in the bottom lane nothing acknowledged was \
                 lost in any trial. A point stands at its worst trial. The two axes are of two loads: speed was measured as \
                 fast as possible, loss at the rate that is said above each panel; the seconds of a loss do not depend on \
                 the rate, the records do.",
            );
            frame::legend(html, self);
            for ordeal in &ordeals {
                self.panels(html, *ordeal);
            }
        });
    }

    /// The panels of a fault: one for each workload, since only equal workloads are compared.
    fn panels(&self, html: &mut Html, ordeal: Ordeal<'_>) {
        let mut name = ordeal.to_string();
        name[..1].make_ascii_uppercase();
        html.element("h3", "", &name);
        let of_fault = self.of_ordeal(ordeal);
        let mut workloads: Vec<&Workload> = Vec::new();
        for cell in &of_fault {
            if !workloads.contains(&&cell.configuration.workload) {
                workloads.push(&cell.configuration.workload);
            }
        }
        for workload in &workloads {
            if workloads.len() > 1 {
                html.element("h4", "", &frame::workload_words(workload));
            }
            let same = |cell: &&&CellSummary<'_>| cell.configuration.workload == **workload;
            let cells: Vec<&CellSummary<'_>> = of_fault.iter().filter(same).copied().collect();
            self.panel(html, ordeal, &cells);
        }
    }

    fn panel(&self, html: &mut Html, ordeal: Ordeal<'_>, cells: &[&CellSummary<'_>]) {
        let numbers = |id: &str| self.number(id);
        let title = format!("Throughput against loss window under {ordeal}");
        html.element("p", "note", &frame::panel_note(cells));
        match pareto::panel(self.cells, cells, &self.brokers, &numbers, &title) {
            Some(chart) => html.chart(&chart),
            None => {
                html.element("p", "note", "No setting here has a measured throughput, so there is no chart.");
            }
        }
    }

    fn latencies(&self, html: &mut Html) {
        let measured: Vec<&CellSummary<'a>> = self
            .sweep
            .configurations
            .iter()
            .filter_map(|configuration| open_loop(self.cells, &configuration.id))
            .collect();
        if measured.is_empty() {
            return;
        }
        html.section("latency", "Latency", |html| {
            html.element(
                "p",
                "lead",
                "On an open loop: the instants at which records should be sent are fixed before the run, and latency counts \
                 from there, so that a broker that stands still is not excused by the records that waited. Failures and \
                 time-outs are in it, at their time-out. Cells that ran as fast as possible have no such instants, and are \
                 not shown here.",
            );
            // Groups of lines that can be told apart, in the order of the tables.
            for group in measured.chunks(latency::LINES) {
                let curves: Vec<Curve<'_>> = group
                    .iter()
                    .map(|cell| Curve {
                        name: format!(
                            "#{} {}, {}",
                            self.number(&cell.configuration.id),
                            cell.configuration.broker.name,
                            self.label(cell.configuration)
                        ) + &frame::at_rate(cell),
                        target: &cell.cell.plan.id,
                        intended: &cell.intended,
                        service: &cell.service,
                    })
                    .collect();
                if let Some(chart) = latency::percentiles(&curves) {
                    html.chart(&chart);
                }
            }
            for configuration in &self.sweep.configurations {
                let of = |cell: &&CellSummary<'a>| cell.fault().is_none() && cell.configuration.id == configuration.id;
                let loads: Vec<&CellSummary<'a>> = self.cells.iter().filter(of).collect();
                let name = format!("{}, {}", configuration.broker_label(), self.label(configuration));
                if let Some(chart) = latency::against_load(&name, &loads) {
                    html.chart(&chart);
                }
            }
        });
    }

    fn comparisons(&self, html: &mut Html) {
        if self.sweep.comparisons.is_empty() {
            return;
        }
        html.section("pairs", "Interleaved comparisons", |html| {
            html.element(
                "p",
                "lead",
                &format!(
                    "Measured A B B A, the ratio of each pair, and a 95 % bootstrap interval of its median, given from {} pairs on.",
                    stats::FEWEST_PAIRS
                ),
            );
            tables::comparisons(html, self);
        });
    }
}

/// The class of a headline, for the style sheet.
fn tone_class(headline: &Headline) -> &'static str {
    match headline.tone {
        Tone::Broken => "broken",
        Tone::Kept => "kept",
        Tone::Lossy => "lossy",
        Tone::Silent => "silent",
    }
}

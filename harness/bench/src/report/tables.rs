//! Every cell: a matrix to look over, then speed and loss in full.

use super::html::{Align, Field, Html, Table};
use super::{Page, words};
use crate::results::answer::Ordeal;
use crate::results::store::histogram_file;
use crate::results::summary::{CellSummary, Judged};
use crate::results::{FaultMark, compare, stats, text};
use highwater_checker::{Acks, Contract, Loss, Standing};

pub(super) fn all(html: &mut Html, page: &Page<'_, '_>) {
    if page.cells.iter().any(|cell| cell.fault().is_some()) {
        html.section("overview", "What each fault took", |html| matrix(html, page));
        html.section("loss", "Every fault cell", |html| faults(html, page));
        if marks(page).any(|(_, mark)| mark.aim.is_some()) {
            html.section("aims", "Where the faults fell", |html| aims(html, page));
        }
    }
    if page.cells.iter().any(|cell| cell.fault().is_none()) {
        html.section("speed", "Every speed cell", |html| speed(html, page));
    }
}

/// Settings against faults.
fn matrix(html: &mut Html, page: &Page<'_, '_>) {
    let ordeals = page.ordeals();
    html.markup(format_args!("<div class=\"table\"><table class=\"matrix\"><thead><tr><th>setting</th>"));
    for ordeal in &ordeals {
        html.markup(format_args!("<th>{}</th>", super::svg::Escaped(&ordeal.to_string())));
    }
    html.markup(format_args!("</tr></thead><tbody>\n"));
    for configuration in &page.sweep.configurations {
        let of = |ordeal: &Ordeal<'_>| {
            page.cells
                .iter()
                .find(|cell| cell.ordeal() == Some(*ordeal) && cell.configuration.id == configuration.id)
        };
        if ordeals.iter().all(|ordeal| of(ordeal).is_none()) {
            continue;
        }
        let label = page.label(configuration);
        html.markup(format_args!("<tr><th class=\"row\">"));
        html.element("span", "", &format!("#{} {label}", page.number(&configuration.id)));
        html.element("small", "", &configuration.broker_label());
        html.markup(format_args!("</th>"));
        for ordeal in &ordeals {
            matrix_field(html, of(ordeal));
        }
        html.markup(format_args!("</tr>\n"));
    }
    html.markup(format_args!("</tbody></table></div>\n"));
    html.element("p", "note", "✓ nothing lost, as promised · ○ nothing lost, not promised · ▽ lost, as the contract permits · ✗ contract broken · – not tried or not read back.");
}

fn matrix_field(html: &mut Html, cell: Option<&CellSummary<'_>>) {
    let Some((cell, judged)) = cell.and_then(|cell| Some((cell, cell.judged.as_ref()?))) else {
        html.markup(format_args!("<td class=\"untried\">–</td>"));
        return;
    };
    let (class, sign) = match (judged.standing, judged.lost, judged.telling_trials) {
        (Standing::Broken, ..) => ("broken", "✗"),
        (Standing::Kept, _, 0) => ("untried", "–"),
        (Standing::Kept, 0, _) if cell.lost_nothing_unpromised() => ("unpromised", "○"),
        (Standing::Kept, 0, _) => ("kept", "✓"),
        (Standing::Kept, ..) => ("lossy", "▽"),
    };
    html.markup(format_args!(
        "<td class=\"{class}\"><a href=\"#{}\">",
        super::svg::Escaped(&cell.cell.plan.id)
    ));
    html.element("b", "", &format!("{sign} {} lost", text::exact(judged.lost)));
    let of = match cell.configuration.setting.acks {
        Acks::Zero => format!("{} sent", text::rounded(judged.attempts)),
        Acks::One | Acks::All => text::rounded(judged.acknowledged),
    };
    html.element(
        "small",
        "",
        &format!("of {of}, {}", text::counted(judged.trials as u64, "trial", "trials")),
    );
    if judged.duplicates > 0 {
        html.element("small", "", &format!("{} twice", text::exact(judged.duplicates)));
    }
    if let Some(gap) = judged.longest_gap {
        html.element("small", "", &format!("no ack for {gap}"));
    }
    html.markup(format_args!("</a></td>"));
}

fn faults(html: &mut Html, page: &Page<'_, '_>) {
    let mut table = Table::new([
        ("#", Align::Number),
        ("setting", Align::Text),
        ("fault", Align::Text),
        ("contract", Align::Text),
        ("verdict", Align::Text),
        ("acknowledged", Align::Number),
        ("lost", Align::Number),
        ("twice", Align::Number),
        ("loss window", Align::Number),
        ("no ack for", Align::Number),
    ]);
    for cell in page.cells.iter().filter(|cell| cell.fault().is_some()) {
        let class = if cell.is_broken() { "broken-row" } else { "" };
        table.row(class, fault_row(page, cell));
    }
    table.write(html);
    html.element(
        "p",
        "note",
        "Lost: over all trials. Loss window: of the worst trial; below it the range and the median of the trials that \
         lost anything. No ack for: the longest time that any partition under load went without one, in any trial.",
    );
}

fn fault_row(page: &Page<'_, '_>, cell: &CellSummary<'_>) -> Vec<Field> {
    let configuration = cell.configuration;
    let fault = cell.ordeal().map(|ordeal| ordeal.to_string()).unwrap_or_default();
    let contract = cell.contract().map(Contract::sentence).unwrap_or_default();
    let because = cell.contract().map(|contract| contract.because.clone()).unwrap_or_default();
    let mut row = vec![
        Field::new(page.number(&configuration.id).to_string()),
        Field::new(page.label(configuration)).note(configuration.broker_label()).link(&cell.cell.plan.id),
        Field::new(fault).note(circumstances(cell)),
        Field::new(contract).note(because),
    ];
    let Some(judged) = &cell.judged else {
        row.push(Field::new("not read back").class("absent"));
        row.extend((0..5).map(|_| Field::new("–")));
        return row;
    };
    row.push(verdict(cell, judged));
    let zero = configuration.setting.acks == Acks::Zero;
    let mut apart = Vec::new();
    if judged.expired > 0 {
        apart.push(format!("+ {} deleted by retention, unread", text::rounded(judged.expired)));
    }
    if judged.acknowledged_after_cut > 0 {
        apart.push(format!("+ {} after the cut, apart", text::exact(judged.acknowledged_after_cut)));
    }
    row.push(if zero {
        Field::new("none").note(format!("{} sent", text::rounded(judged.attempts)))
    } else {
        Field::new(text::rounded(judged.acknowledged)).note(apart.join("; "))
    });
    row.push(lost(judged, zero));
    row.push(Field::new(text::exact(judged.duplicates)));
    row.push(window(judged));
    row.push(Field::new(judged.longest_gap.map_or_else(|| "–".to_owned(), |gap| gap.to_string())));
    row
}

/// Under what load and on what medium a fault struck: a number of lost records means nothing without them.
fn circumstances(cell: &CellSummary<'_>) -> String {
    let limit = cell.memory.and_then(|memory| memory.limit_bytes);
    let limit = limit.map_or_else(String::new, |bytes| format!(", {} of memory", text::bytes(bytes)));
    format!("{}, {}{limit}", super::frame::at_rate(cell).trim_start(), cell.cell.plan.disk.words())
        .trim_start_matches(", ")
        .to_owned()
}

/// Every fault that struck, with its cell.
fn marks<'p>(page: &'p Page<'_, '_>) -> impl Iterator<Item = (&'p CellSummary<'p>, &'p FaultMark)> {
    let of = |cell: &'p CellSummary<'p>| {
        let marks = cell.cell.trials.iter().flat_map(|trial| &trial.faults);
        marks.map(move |mark| (cell, mark))
    };
    page.cells.iter().flat_map(of)
}

/// What each kind of fault was aimed at, and how near it fell.
fn aims(html: &mut Html, page: &Page<'_, '_>) {
    html.element(
        "p",
        "lead",
        "A log is most at risk while it changes: when a file is begun, deleted or declared safe. The harness watched the \
         broker's files, struck within milliseconds of such a moment, and noted how near it fell. A fault that met \
         silence instead of acknowledgements is not counted as proof.",
    );
    let mut table = Table::new([
        ("setting", Align::Text),
        ("fault", Align::Text),
        ("aimed at", Align::Text),
        ("faults", Align::Number),
        ("after it", Align::Number),
        ("near enough", Align::Number),
        ("last ack before", Align::Number),
        ("met acks", Align::Number),
    ]);
    let mut groups: Vec<(&CellSummary<'_>, String, Vec<&FaultMark>)> = Vec::new();
    for (cell, mark) in marks(page) {
        let aim = format!(
            "{}|{}",
            mark.fault,
            mark.aim.as_ref().map_or("an instant drawn from the seed", |aim| &aim.at)
        );
        match groups.iter_mut().find(|(of, at, _)| std::ptr::eq(*of, cell) && *at == aim) {
            Some((_, _, marks)) => marks.push(mark),
            None => groups.push((cell, aim, vec![mark])),
        }
    }
    for (cell, aim, marks) in &groups {
        table.row("", aim_row(page, cell, aim, marks));
    }
    table.write(html);
    html.element(
        "p",
        "note",
        "After it, last ack before: median, nearest to farthest. Near enough: within what is said below it. Met acks: the \
         last ack was no older than 100 ms.",
    );
}

fn aim_row(page: &Page<'_, '_>, cell: &CellSummary<'_>, aim: &str, marks: &[&FaultMark]) -> Vec<Field> {
    let (fault, at) = aim.split_once('|').unwrap_or((aim, ""));
    let range = |mut all: Vec<highwater_checker::Nanos>| {
        all.sort();
        let (Some(least), Some(most)) = (all.first(), all.last()) else { return Field::new("–") };
        Field::new(all[all.len() / 2].to_string()).note(format!("{least} to {most}"))
    };
    let aimed = || marks.iter().filter_map(|mark| mark.aim.as_ref());
    let count = |of: &dyn Fn(&FaultMark) -> bool| marks.iter().filter(|mark| of(mark)).count();
    let near = match aimed().map(|aim| aim.within).max() {
        None => Field::new("–"),
        Some(within) => {
            Field::new(format!("{} of {}", count(&FaultMark::is_near), marks.len())).note(format!("{within}"))
        }
    };
    let example = aimed().next().map_or_else(String::new, |aim| format!("such as {}", aim.what));
    vec![
        Field::new(page.label(cell.configuration))
            .note(cell.configuration.broker_label())
            .link(&cell.cell.plan.id),
        Field::new(fault),
        Field::new(at).note(example).class("example-note"),
        Field::new(marks.len().to_string()),
        range(aimed().map(|aim| aim.distance).collect()),
        near,
        range(marks.iter().filter_map(|mark| mark.since_last_ack).collect()),
        Field::new(format!("{} of {}", count(&FaultMark::met_acks), marks.len())),
    ]
}

fn verdict(cell: &CellSummary<'_>, judged: &Judged) -> Field {
    let trials = text::counted(judged.trials as u64, "trial", "trials");
    match judged.standing {
        Standing::Broken => {
            let names: Vec<&str> = judged.violations.iter().map(|finding| finding.anomaly.words()).collect();
            Field::new("✗ broken").note(format!("{}; {trials}", names.join(", "))).class("bad")
        }
        Standing::Kept if judged.telling_trials == 0 => {
            Field::new("– nothing proven").note(trials).class("absent")
        }
        Standing::Kept
            if cell.contract().is_some_and(|contract| contract.loss == Loss::NothingAcknowledged) =>
        {
            Field::new("– nothing promised").note(trials).class("absent")
        }
        Standing::Kept => Field::new("✓ kept").note(trials),
    }
}

fn lost(judged: &Judged, sent: bool) -> Field {
    if judged.lost == 0 {
        return Field::new("0").note(words::no_loss_bound(judged));
    }
    let of = if sent { judged.attempts } else { judged.acknowledged };
    let share = text::percent(judged.lost as f64 / of.max(1) as f64);
    let place = match (sent, judged.tail, judged.holes) {
        (true, ..) => "never acknowledged".to_owned(),
        (_, tail, holes) if judged.unreadable > 0 => format!(
            "{} of them refused by the broker, {} at the end, {} in the middle",
            text::exact(judged.unreadable),
            text::exact(tail),
            text::exact(holes)
        ),
        (_, _, 0) => format!("all at the end, {}", text::bytes(judged.lost_bytes)),
        (_, tail, holes) => format!("{} at the end, {} in the middle", text::exact(tail), text::exact(holes)),
    };
    let of = text::counted(judged.trials as u64, "trial", "trials");
    let trials = format!("in {} of {of}", judged.trials_with_loss());
    Field::new(text::exact(judged.lost)).note(format!("{share}, {trials}; {place}"))
}

fn window(judged: &Judged) -> Field {
    let mut windows: Vec<_> = judged.windows.iter().flatten().collect();
    windows.sort();
    let (Some(least), Some(most)) = (windows.first(), windows.last()) else { return Field::new("–") };
    let bound = if judged.window_is_lower_bound { "≥ " } else { "" };
    let median = windows[windows.len() / 2];
    Field::new(format!("{bound}{most}")).note(format!("{least} to {most}, median {median}"))
}

fn speed(html: &mut Html, page: &Page<'_, '_>) {
    let mut table = Table::new([
        ("#", Align::Number),
        ("setting", Align::Text),
        ("offered", Align::Number),
        ("MB/s", Align::Number),
        ("drained MB/s", Align::Number),
        ("records/s", Align::Number),
        ("p50", Align::Number),
        ("p99", Align::Number),
        ("p99.9", Align::Number),
        ("p99.99", Align::Number),
        ("max", Align::Number),
        ("MB per broker CPU-s", Align::Number),
        ("MB per machine CPU-s", Align::Number),
        ("memory", Align::Number),
        ("client ceiling", Align::Number),
        ("histograms", Align::Text),
    ]);
    for cell in page.cells.iter().filter(|cell| cell.fault().is_none()) {
        table.row("", speed_row(page, cell));
    }
    table.write(html);
    html.element(
        "p",
        "note",
        "MB/s: acknowledged, median of the trials, below it slowest to fastest. Drained: the clock ran on until what the broker \
         had left in the page cache was on the device, and it wrote no more by itself. Latency from the intended send time, histograms of \
         all trials merged; below it service time. On a closed loop a record is due when the client takes it, so that its \
         latency is the client's queue as much as the broker's answer: not to be compared. Broker CPU: user and system time of its own processes while the clock ran. Machine CPU: \
         everybody's less the client's, until the drain ended, so that the kernel's write-back counts. Memory: the \
         broker's most resident at once, below it at the end of the load. Client ceiling: what the same client with the same \
         settings reaches against a broker that acknowledges and keeps nothing, measured in the same run; from 90 % of \
         it on a figure is the client's rather than the broker's. Histograms: whole, beside this file, in the .hgrm format \
         of HdrHistogram's plotter.",
    );
}

fn speed_row(page: &Page<'_, '_>, cell: &CellSummary<'_>) -> Vec<Field> {
    let configuration = cell.configuration;
    let target = cell.cell.trials.first().and_then(|trial| trial.load.target_records_per_second);
    let mut offered = Field::new(target.map_or_else(
        || "as fast as possible".to_owned(),
        |rate| format!("{}/s", text::rounded(rate as u64)),
    ));
    if !cell.sustained {
        offered = offered.note("✗ not sustained").class("bad");
    } else if target.is_none() {
        offered = offered.note("closed loop: latency includes the time in the client's own buffer");
    }
    let zero = if configuration.setting.acks == Acks::Zero { "sent, not acknowledged" } else { "" };
    let rate = |spread: Option<stats::Spread>, show: &dyn Fn(f64) -> String| {
        spread.map_or_else(
            || Field::new("–"),
            |spread| {
                let range = match spread.trials {
                    1 => "one trial".to_owned(),
                    trials => format!("{} to {}, {trials} trials", show(spread.low), show(spread.high)),
                };
                Field::new(show(spread.median)).note(range)
            },
        )
    };
    let latency = |quantile: f64| {
        let of = |latency: &crate::results::Latency| text::latency(latency.quantile(quantile));
        Field::new(of(&cell.intended)).note(of(&cell.service))
    };
    vec![
        Field::new(page.number(&configuration.id).to_string()),
        Field::new(page.label(configuration)).note(configuration.broker_label()).link(&cell.cell.plan.id),
        offered,
        rate(cell.bytes_per_second, &text::megabytes),
        rate(cell.drained_bytes_per_second, &text::megabytes),
        rate(cell.records_per_second, &|rate| text::rounded(rate as u64)).note(zero),
        latency(0.5),
        latency(0.99),
        latency(0.999),
        latency(0.9999),
        Field::new(text::latency(cell.intended.max())).note(text::latency(cell.service.max())),
        per_cpu_second(cell.bytes_per_broker_cpu_second),
        per_cpu_second(cell.bytes_per_cpu_second),
        cell.memory.map_or_else(
            || Field::new("–"),
            |memory| {
                let limit = memory
                    .limit_bytes
                    .map_or_else(String::new, |bytes| format!(", of {} with page cache", text::bytes(bytes)));
                Field::new(text::bytes(memory.peak_bytes))
                    .note(format!("{} at the end{limit}", text::bytes(memory.end_bytes)))
            },
        ),
        ceiling(cell),
        Field::files(HISTOGRAMS.map(|kind| (kind.to_owned(), histogram_file(&cell.cell.plan.id, kind)))),
    ]
}

fn per_cpu_second(rate: Option<f64>) -> Field {
    Field::new(rate.map_or_else(|| "–".to_owned(), text::megabytes))
}

fn ceiling(cell: &CellSummary<'_>) -> Field {
    let Some((share, ceiling)) = cell.share_of_ceiling.zip(cell.configuration.client_ceiling) else {
        return Field::new("–").note("not measured");
    };
    let of = format!("{} MB/s", text::megabytes(ceiling.bytes_per_second));
    let used = format!("{} of it used", text::percent(share));
    if cell.is_limited_by_client() {
        return Field::new(of).note(format!("✗ {used}: limited by the client")).class("bad");
    }
    Field::new(of).note(used)
}

/// The two kinds of latency, as their files are called.
const HISTOGRAMS: [&str; 2] = ["intended", "service"];

pub(super) fn comparisons(html: &mut Html, page: &Page<'_, '_>) {
    let mut table = Table::new([
        ("A", Align::Text),
        ("B", Align::Text),
        ("figure", Align::Text),
        ("pairs", Align::Number),
        ("of A", Align::Number),
        ("of B", Align::Number),
        ("B ÷ A", Align::Number),
        ("95 % interval", Align::Number),
        ("reading", Align::Text),
    ]);
    let name = |id: &str| {
        let cell = page.cells.iter().find(|cell| cell.cell.plan.id == id);
        cell.map_or_else(
            || id.to_owned(),
            |cell| {
                let configuration = cell.configuration;
                let rate = super::frame::at_rate(cell);
                format!("{}, {}{rate}", configuration.broker_label(), page.label(configuration))
            },
        )
    };
    for of in compare::compared(page.sweep) {
        let side = |spread: Option<stats::Spread>| {
            let Some(spread) = spread else { return Field::new("–") };
            let show = |value: f64| of.figure.shown(value);
            Field::new(show(spread.median)).note(format!("{} to {}", show(spread.low), show(spread.high)))
        };
        let (median, interval) = of.ratio.map_or_else(
            || ("–".to_owned(), "–".to_owned()),
            |ratio| (format!("{:.3}", ratio.median), format!("{:.3} to {:.3}", ratio.low, ratio.high)),
        );
        table.row(
            "",
            [
                Field::new(name(&of.comparison.a)),
                Field::new(name(&of.comparison.b)),
                Field::new(of.figure.words()),
                Field::new(of.pairs.to_string()),
                side(of.a),
                side(of.b),
                Field::new(median),
                Field::new(interval),
                Field::new(of.reading),
            ],
        );
    }
    table.write(html);
    html.element(
        "p",
        "note",
        "Of A, of B: median of the pairs, below it lowest and highest. CPU: of the broker's own processes. p99: from the \
         intended send time where a rate was offered; as fast as possible, from the send, with the client's own queue in it.",
    );
}

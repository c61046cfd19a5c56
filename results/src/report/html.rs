//! The whole page.

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

use super::{
    Report, behaviour, capacity, decisions, expectations, headline, matters, matters::FIRST, page,
    trust,
};
use crate::{
    columns::TableRow as _,
    figures::{
        Table,
        lookup::{level_cells, level_columns, level_heading, metric_heading, name, sentence},
        palette,
        scene::printable,
    },
    numbers::{self, NOT_AVAILABLE},
    row::Row,
    sample::{METRICS, model},
};

/// Combinations that the page lists at most; the files have all.
const COMBINATIONS: usize = 250;

/// The report as one HTML document that refers to nothing outside itself but, by name, to the files beside it.
#[must_use]
pub fn html(report: &Report<'_>) -> String {
    let sweep = name(&report.summary.sweep);
    // A section that has nothing to say is not there.
    let sections: Vec<(&str, &str, Markup)> = [
        ("decide", "What to run", decisions::section(report)),
        (
            "capacity",
            "How much load it bears",
            capacity::section(report),
        ),
        (
            "expected",
            "What was expected",
            expectations::section(report),
        ),
        ("matters", "What matters", matters::section(report)),
        ("behaves", "How it behaves", behaviour::section(report)),
        ("trust", "Whether to trust it", Some(trust::section(report))),
        ("combinations", "All combinations", combinations(report)),
        ("glossary", "Glossary", Some(glossary(report))),
    ]
    .into_iter()
    .filter_map(|(id, title, section)| Some((id, title, section?)))
    .collect();
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (sweep) " – inferbench report" }
                style { (PreEscaped(style())) }
            }
            body {
                @if let Some((first, ..)) = sections.first() {
                    a.skip href=(format!("#{first}")) { "Skip to the answers" }
                }
                header {
                    p.kind { "inferbench report" }
                    h1 { bdi { (sweep) } }
                    ul.lead {
                        @for answer in headline::sentences(report) { li { (answer) } }
                    }
                    nav aria-label="Sections" {
                        ul {
                            @for (id, title, _) in &sections {
                                li { a href=(format!("#{id}")) { (title) } }
                            }
                        }
                    }
                }
                main {
                    @for (_, _, section) in &sections { (section) }
                }
                footer {
                    p {
                        "All numbers are in " a href="analysis.json" { "analysis.json" } " and "
                        a href="summary.json" { "summary.json" } ", every trial in " a href="trials.csv" { "trials.csv" }
                        ". Three significant digits; intervals are 95% intervals, written low–high; " (NOT_AVAILABLE)
                        " is what could not be computed."
                    }
                }
            }
        }
    };
    // No control characters and no marks that turn the direction of text, whatever a name holds.
    printable(&page.into_string())
}

fn style() -> String {
    format!(
        "{}{}@media screen and (prefers-color-scheme:dark){{{}}}",
        include_str!("style.css"),
        palette::rules("svg", false),
        palette::rules("svg", true)
    )
}

fn combinations(report: &Report<'_>) -> Option<Markup> {
    let all = &report.summary.combinations;
    if all.is_empty() {
        return None;
    }
    let columns = level_columns(all.iter().map(|combination| &combination.levels));
    let mut header = vec!["model".to_owned()];
    header.extend(columns.iter().map(level_heading));
    header.extend(["valid trials", "invalid"].map(Into::into));
    header.extend(FIRST.iter().map(|metric| metric_heading(metric)));
    header.push("CV of TTLT".into());
    let mut table = Table::new(header);
    for combination in all.iter().take(COMBINATIONS) {
        let mut row = vec![name(model(&combination.levels))];
        row.extend(level_cells(&combination.levels, &columns));
        row.push(numbers::count(combination.trials));
        row.push(numbers::count(combination.invalid));
        let doubt = report.doubt(&combination.levels);
        let metrics = doubt.map_or(&combination.metrics, |doubt| &doubt.metrics);
        let mut values = behaviour::estimates(metrics);
        if doubt.is_some() {
            values.iter_mut().for_each(page::mark);
        }
        row.extend(values);
        table.push(row);
    }
    let left_out = all.len().saturating_sub(COMBINATIONS);
    let none_valid = report.summary.basis.valid == 0;
    Some(markup! {
        section id="combinations" {
            h2 { "All combinations" }
            @if left_out > 0 {
                p {
                    "The first " (numbers::count(COMBINATIONS as u64)) " of " (numbers::count(all.len() as u64))
                    "; all are in " a href="summary.json" { "summary.json" } "."
                }
            }
            // Where nothing else has numbers, these stand open.
            details open[none_valid] {
                summary { (numbers::counted(table.rows.len() as u64, "combination")) }
                (page::table("Means with 95% intervals", &table, "summary.json"))
                p.small { (page::marked(&table)) }
            }
        }
    })
}

fn glossary(report: &Report<'_>) -> Markup {
    let asked = report
        .summary
        .combinations
        .iter()
        .chain(report.doubtful)
        .any(|c| c.metrics.contains_key("requestThroughput"));
    let mut words = vec![
        (
            "Combination",
            "one level of each factor: model, batch size, input and output length, GPUs, data type. Its mean over valid \
             trials is one observation.",
        ),
        (
            "Trial, replicate, iteration",
            "a trial is a fresh process that measures one combination; replicates are its repetitions, one per block of \
             the run; iterations are the timed batches inside a trial.",
        ),
        (
            "TTFT",
            "time to first token of the whole batch, from input ids on the host. No tokenizing and no scheduler in it.",
        ),
        ("TTLT", "time to last token of the whole batch."),
        (
            "TPOT",
            "time per output token, (TTLT − TTFT)/(output tokens − 1); none for one output token.",
        ),
        ("ITL", "inter-token latency: the gap between two tokens."),
        (
            "Output throughput",
            "batch size × output tokens / TTLT, in tokens per second.",
        ),
        (
            "Normalized latency",
            "TTLT / (batch size × output tokens): exactly the inverse of output throughput.",
        ),
        (
            "GPU utilization",
            "share of time in which any kernel ran. Not the share of the device in use.",
        ),
        (
            "Roofline fraction",
            "the least possible time on this device, by its measured ceilings, over the measured time.",
        ),
        (
            "Per doubling",
            "the metric’s ratio when a factor’s level doubles, all factors fitted together on the log scale.",
        ),
        (
            "S₁, Sₜ",
            "Sobol’s first-order and total index: a factor’s share of the variance alone, and with its interactions.",
        ),
        (
            "Permutation importance",
            "how much R² on held-out combinations falls when a factor is shuffled: 0 to 2.",
        ),
        (
            "Balanced part",
            "a full grid over the levels that are left when those with missing combinations are dropped.",
        ),
    ];
    if asked {
        words.extend([
            (
                "Concurrency, request rate",
                "a closed loop keeps this number of requests in flight; in an open one this number comes a second, at \
                 random, whether others are done or not. TTFT, TTLT (E2E) and TPOT are of single requests then, counted from the time at \
                 which each was meant to be sent, and throughput is that of the timed window.",
            ),
            (
                "Goodput",
                "requests a second that keep to every objective on time.",
            ),
            (
                "Saturated",
                "requests came faster than they were served: waiting grows as long as one measures, so its latencies say \
                 little.",
            ),
        ]);
    }
    markup! {
        section id="glossary" {
            h2 { "Glossary" }
            dl {
                @for (word, meaning) in words {
                    div { dt { (word) } dd { (sentence(meaning)) } }
                }
            }
            details.keep {
                summary { "Metrics and their units" }
                (page::table("Metrics", &metrics(), "summary.json"))
            }
            p.small {
                (Row::NAME) ".csv has one row per " "stored attempt; its columns are described in "
                "trials.parquet’s metadata."
            }
        }
    }
}

fn metrics() -> Table {
    let mut table = Table::new(["metric", "unit", "name in files"]);
    for metric in METRICS {
        let unit = if metric.unit.is_empty() {
            "ratio"
        } else {
            metric.unit
        };
        table.push(vec![metric.title.into(), unit.into(), metric.name.into()]);
    }
    table
}

//! The section "What to run": the best combinations of each model.

use maud::{Markup, html};

use super::{Report, page};
use crate::{
    figures::{
        Question, Table,
        lookup::{in_words, name},
    },
    interval::Estimate,
    numbers,
    sample::model,
    summary::{Best, Criterion},
};

/// The section, where there is something to decide upon.
pub(super) fn section(report: &Report<'_>) -> Option<Markup> {
    let best = best(report);
    let priced = report.objectives.cost_per_gpu_hour.is_some();
    if best.rows.is_empty() {
        return None;
    }
    Some(html! {
        section id="decide" {
            h2 { "What to run" }
            p {
                @match report.limits() {
                    Some(limits) => { "Objectives: " (limits) ", judged by each combination’s mean." },
                    None => { "No objectives were set: a latency limit (" code { "objectives" } ") narrows this down." },
                }
                @match &report.objectives.cost_per_gpu_hour {
                    Some(price) => { " A GPU costs " (page::cut(price)) " an hour." },
                    None => { " Without a price per GPU hour there is no cost per token." },
                }
            }
            (page::table("Best combinations of each model", &best, "summary.json"))
            p.small {
                "Means with 95% intervals. “As good” counts the other combinations of the model whose interval overlaps."
                @if priced { " Cost is per million output tokens, at full use of the GPUs." }
                (page::marked(&best))
            }
            (page::figures(report.figures, Question::Decide, &["engines", "load-curves", "goodput", "fronts"]))
        }
    })
}

/// The best combinations as a table; of a model without any valid trial those of its invalid ones, marked.
pub(super) fn best(report: &Report<'_>) -> Table {
    let found = &report.summary.best;
    let known = |of: &Best| {
        found
            .iter()
            .any(|best| model(&best.levels) == model(&of.levels))
    };
    let mut doubted = crate::summary::best(report.doubtful, report.objectives);
    doubted.retain(|of| !known(of));
    let all = || found.iter().chain(&doubted);
    let priced = all().any(|best| best.cost_per_million_output_tokens.is_some());
    let mut header = vec![
        "model",
        "best at",
        "run it with",
        "output tokens/s",
        "TTFT, ms",
        "TPOT, ms",
    ];
    if priced {
        header.push("cost per million output tokens");
    }
    header.push("as good");
    let mut table = Table::new(header);
    for best in found {
        table.push(row(best, priced));
    }
    for best in &doubted {
        let mut row = row(best, priced);
        row[3..].iter_mut().for_each(page::mark);
        table.push(row);
    }
    table
}

fn row(best: &Best, priced: bool) -> Vec<String> {
    let mut row = vec![
        name(model(&best.levels)),
        criterion(best.criterion).into(),
        in_words(&best.levels),
        numbers::estimate(&best.output_throughput),
        latency(best.ttft_ms.as_ref()),
        latency(best.tpot_ms.as_ref()),
    ];
    if priced {
        row.push(numbers::optional(best.cost_per_million_output_tokens));
    }
    row.push(numbers::count(best.near_ties));
    row
}

fn latency(estimate: Option<&Estimate>) -> String {
    estimate.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::estimate)
}

fn criterion(criterion: Criterion) -> &'static str {
    match criterion {
        Criterion::HighestOutputThroughput => "highest output throughput",
        Criterion::LowestTtft => "lowest TTFT",
        Criterion::HighestOutputThroughputWithinObjectives => {
            "highest output throughput within the objectives"
        }
    }
}

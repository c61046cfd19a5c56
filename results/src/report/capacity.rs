//! The section "How much load it bears": the brackets of each configuration, block by block, as they were measured.

use maud::{Markup, html};

use super::{Report, page};
use crate::{
    analysis::capacities::{Bracket, Capacities},
    figures::{Table, lookup::in_words},
    numbers,
};

/// The section, where a load was searched.
pub(super) fn section(report: &Report<'_>) -> Option<Markup> {
    let all = &report.analysis.capacities;
    let first = all.first()?;
    let table = table(report);
    let again = report
        .summary
        .best
        .iter()
        .any(|best| best.confirmation.is_some());
    Some(html! {
        section id="capacity" {
            h2 { "How much load it bears" }
            p {
                "The highest " (load(first)) " at which "
                @match report.limits() {
                    Some(limits) => { (limits) " held" },
                    None => { "the objectives held" },
                }
                " for the share of requests that was asked for, and requests did not pile up: searched anew in every block, \
                 as an interval whose lower end was measured to hold and whose upper end was measured not to, each twice."
            }
            (page::table("Brackets of each configuration", &table, "analysis.json"))
            p.small {
                "The mean goes over the blocks’ geometric middles, with a 95% interval where there are several. A bracket \
                 that is open, or whose ends were not tested twice, has no middle and is not in it. "
                @if !again {
                    "The most capacious configuration is the best of several estimates, and so somewhat flattered: "
                    code { "design.confirm" } " measures it again before it is called the best."
                }
            }
        }
    })
}

/// The brackets as a table.
pub(super) fn table(report: &Report<'_>) -> Table {
    let all = &report.analysis.capacities;
    let asked = report.summary.asked();
    let first = all.first();
    let blocks = first.map_or(String::new(), |of| {
        format!("{} by block, {}", load(of), unit(of))
    });
    let mut table = Table::new(vec!["configuration", "mean", &blocks, "notes"]);
    for of in all {
        let summaries = report.summary.combinations.iter();
        let estimate = summaries
            .filter(|combination| combination.levels == of.levels)
            .find_map(|combination| combination.metrics.get(of.metric()));
        let brackets: Vec<String> = of.brackets.iter().map(bracket).collect();
        let notes = of.brackets.iter().filter_map(|bracket| {
            let note = bracket.note.as_ref()?;
            Some(format!("block {}: {note}", bracket.replicate + 1))
        });
        let notes: Vec<String> = notes.collect();
        table.push(vec![
            in_words(&of.levels, &asked),
            estimate.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::estimate),
            brackets.join(", "),
            notes.join("; "),
        ]);
    }
    table
}

fn bracket(bracket: &Bracket) -> String {
    match (bracket.low, bracket.high) {
        (Some(low), Some(high)) => format!("{}–{}", numbers::number(low), numbers::number(high)),
        (Some(low), None) => format!("≥ {}", numbers::number(low)),
        (None, Some(high)) => format!("< {}", numbers::number(high)),
        (None, None) => numbers::NOT_AVAILABLE.into(),
    }
}

fn load(of: &Capacities) -> &'static str {
    if of.load == "concurrency" {
        "concurrency"
    } else {
        "request rate"
    }
}

fn unit(of: &Capacities) -> &'static str {
    if of.load == "concurrency" {
        "requests in flight"
    } else {
        "requests/s"
    }
}

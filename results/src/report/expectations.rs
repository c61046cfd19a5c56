//! The section "What was expected": every expectation with its verdict.

use maud::{Markup, html};

use super::{Report, page};
use crate::{
    analysis::expectations::{Judgement, Over, Tally, Verdict},
    figures::{Table, lookup::name},
};

/// The section, where anything was expected.
pub(super) fn section(report: &Report<'_>) -> Option<Markup> {
    let judged = &report.analysis.expectations;
    if judged.is_empty() {
        return None;
    }
    let has = |verdict| judged.iter().any(|one| one.verdict == verdict);
    Some(html! {
        section id="expected" {
            h2 { "What was expected" }
            p {
                (Tally::of(judged).in_words()) ". Shown holds over the whole 95% interval, and refuted fails over all of it"
                @if has(Verdict::NotShown) { "; not shown: the interval holds both" }
                @if has(Verdict::Untestable) { "; cannot be judged: this sweep has nothing to judge it by" }
                "."
            }
            (page::table("Expectations", &table(judged), "analysis.json"))
            p.small {
                "Each is judged by itself: of many, some are shown or refuted by chance."
                @if over_combinations(judged) {
                    " Where there is one replicate, the interval of a coefficient goes over combinations (Fisher’s z), and \
                      says nothing of what another run would differ by."
                }
            }
        }
    })
}

/// Every expectation.
pub(super) fn table(judged: &[Judgement]) -> Table {
    let referred = judged.iter().any(|one| !one.reference.is_empty());
    let mut header = vec!["expectation", "verdict", "measured", "expected"];
    if referred {
        header.push("from");
    }
    let mut table = Table::new(header);
    for one in judged {
        let mut row = vec![
            name(&one.name),
            one.verdict.words().to_owned(),
            one.lines().join("; "),
            one.that.split_whitespace().collect::<Vec<_>>().join(" "),
        ];
        if referred {
            row.push(one.reference.clone());
        }
        table.push(row);
    }
    table
}

fn over_combinations(judged: &[Judgement]) -> bool {
    let values = judged.iter().flat_map(|one| &one.values);
    values
        .map(|value| value.over)
        .any(|over| over == Some(Over::Combinations))
}

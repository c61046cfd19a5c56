//! The report for a pull request: headline, best combinations, effects, one line of trust.

use std::fmt::Write as _;

use super::{Report, capacity, decisions, expectations, headline, matters};
use crate::{
    analysis::expectations::Tally,
    figures::{
        Table,
        lookup::{name, scope_name},
        scene::printable,
    },
};

/// Rows that a table has at most.
const ROWS: usize = 20;

/// The report in a few tables.
#[must_use]
pub fn markdown(report: &Report<'_>) -> String {
    let mut sentences = headline::sentences(report);
    let trust = sentences.pop().unwrap_or_default();
    let mut out = format!("### {}\n\n", escaped(&name(&report.summary.sweep)));
    let _ = writeln!(out, "{}\n", escaped(&sentences.join(" ")));
    let decisions::Decided { first, each, .. } = decisions::decide(report);
    for mut best in [first, each] {
        if best.rows.len() > ROWS {
            best.left_out += best.rows.len() - ROWS;
            best.rows.truncate(ROWS);
        }
        if !best.rows.is_empty() {
            table(&best, &mut out);
        }
    }
    let judged = &report.analysis.expectations;
    if !judged.is_empty() {
        let _ = writeln!(
            out,
            "Expectations: {}.\n",
            escaped(&Tally::of(judged).in_words())
        );
        table(&expectations::table(judged), &mut out);
    }
    let capacities = capacity::table(report);
    if !capacities.rows.is_empty() {
        table(&capacities, &mut out);
    }
    for scope in report.analysis.scopes.iter().take(1) {
        let attributions: Vec<_> = matters::FIRST
            .iter()
            .filter_map(|metric| scope.attribution.iter().find(|of| of.metric == *metric))
            .collect();
        let effects = matters::effects_table(&attributions, scope);
        if !effects.rows.is_empty() {
            let _ = writeln!(
                out,
                "Effects ({}), with 95% intervals where there are replicates:\n",
                escaped(&scope_name(scope))
            );
            table(&effects, &mut out);
            if let Some(said) = matters::evidence(&attributions) {
                let _ = writeln!(out, "{}\n", escaped(&said));
            }
        }
    }
    let _ = writeln!(out, "{}", escaped(&trust));
    out
}

fn table(table: &Table, out: &mut String) {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    out.push_str(&line(&table.header));
    let _ = writeln!(out, "|{}", " --- |".repeat(table.header.len()));
    for row in &table.rows {
        out.push_str(&line(row));
    }
    if table.left_out > 0 {
        let _ = writeln!(out, "\n{} more in report.html.", table.left_out);
    }
    out.push('\n');
}

/// Text that Markdown and the HTML in it leave as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in printable(text).chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // `@` would call somebody, `#` point at an issue.
            '@' => out.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '|' | '#' | '~' | '$' | '!' => {
                out.push('\\');
                out.push(letter);
            }
            letter => out.push(letter),
        }
    }
    out
}

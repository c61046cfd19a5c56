//! Whether to trust it: counts, coverage, invalid and unmeasured trials, outliers, drift, provenance.

use maud::{Markup, html};

use super::{Report, headline, page};
use crate::{
    analysis::{FactorLevels, Scope, trust::Trust},
    figures::{
        Table,
        lookup::{in_words, metric_title, metric_unit, name, scope_name},
    },
    numbers::{self, NOT_AVAILABLE},
    sample::{Factor, model},
    validity::remedy_of,
};

/// Outliers that a report lists at most.
const OUTLIERS: usize = 20;

pub(super) fn section(report: &Report<'_>) -> Markup {
    let trust = &report.analysis.trust;
    let mut notes: Vec<&str> = report.analysis.notes.iter().map(String::as_str).collect();
    notes.extend(report.summary.notes.iter().map(String::as_str));
    let mut seen = std::collections::BTreeSet::new();
    // The glossary explains each metric, under the name that people know it by.
    notes.retain(|note| !note.starts_with("normalizedLatencyMs") && seen.insert(*note));
    html! {
        section id="trust" {
            h2 { "Whether to trust it" }
            p { (headline::trust(report)) }
            @if !notes.is_empty() { ul { @for note in &notes { li { (page::cut(note)) } } } }
            (page::table("What became of the trials", &counts(report), "manifest.json"))
            (page::table("Coverage of the grid of levels", &coverage(&report.analysis.scopes), "analysis.json"))
            (page::table("Invalid trials, left out of all figures, by reason", &invalid(trust), "trials.csv"))
            (page::table("Trials without a measurement", &unmeasured(trust, &report.summary.asked()), "trials.csv"))
            (page::table("Why these have none, the most frequent reason first", &why_unmeasured(trust), "trials.csv"))
            (outliers(trust, &report.summary.asked()))
            (drift(trust))
            (page::table("Measured with", &provenance(trust), "trials.csv"))
        }
    }
}

fn counts(report: &Report<'_>) -> Table {
    let counts = &report.summary.counts;
    let mut table = Table::new(["outcome", "trials"]);
    for (what, number, always) in [
        ("trials of the design", counts.trials, true),
        ("measured", counts.succeeded, true),
        ("of these invalid", counts.invalid, true),
        (
            "of the valid ones, with a GPU that was not seen at work",
            report.analysis.trust.idle_gpus,
            false,
        ),
        ("did not fit into memory", counts.out_of_memory, false),
        ("cannot run", counts.unsupported, false),
        ("took too long", counts.timed_out, false),
        ("failed", counts.failed, false),
        ("not needed", counts.not_needed, false),
        ("not ended", counts.pending, false),
        ("stored attempts", counts.attempts, true),
    ] {
        if always || number > 0 {
            table.push(vec![what.into(), numbers::count(number)]);
        }
    }
    table
}

fn coverage(scopes: &[Scope]) -> Table {
    let mut table = Table::new([
        "scope",
        "combinations of the full grid",
        "measured",
        "balanced part",
        "the balanced part does without",
        "levels",
    ]);
    for scope in scopes {
        let coverage = &scope.coverage;
        table.push(vec![
            scope_name(scope),
            numbers::count(coverage.grid),
            numbers::count(coverage.measured),
            numbers::count(coverage.balanced),
            if coverage.dropped.is_empty() {
                "nothing".into()
            } else {
                levels(&coverage.dropped)
            },
            levels(&scope.factors),
        ]);
    }
    table
}

fn levels(factors: &[FactorLevels]) -> String {
    let parts: Vec<String> = factors
        .iter()
        .map(|of| {
            let mut levels: Vec<String> = of
                .levels
                .iter()
                .take(12)
                .map(|level| name(&level.to_string()))
                .collect();
            if of.levels.len() > levels.len() {
                levels.push(format!("… ({})", of.levels.len()));
            }
            format!("{} {}", of.factor.title(), levels.join(", "))
        })
        .collect();
    parts.join("; ")
}

fn invalid(trust: &Trust) -> Table {
    let mut table = Table::new(["reason", "trials", "for example", "trial"]);
    for reason in &trust.invalid {
        table.push(vec![
            reason.kind.clone(),
            numbers::count(reason.trials),
            reason.example.clone(),
            reason.example_trial.to_string(),
        ]);
    }
    table
}

fn unmeasured(trust: &Trust, asked: &[Factor]) -> Table {
    let mut table = Table::new(["outcome", "trials", "combinations"]);
    for group in &trust.unmeasured {
        let mut combinations: Vec<String> = group
            .combinations
            .iter()
            .take(5)
            .map(|levels| format!("{}: {}", name(model(levels)), in_words(levels, asked)))
            .collect();
        if group.combinations.len() > combinations.len() {
            combinations.push("…".into());
        }
        table.push(vec![
            group
                .outcome
                .map_or("not ended", |outcome| outcome.as_str())
                .into(),
            numbers::count(group.trials),
            combinations.join("; "),
        ]);
    }
    table
}

fn why_unmeasured(trust: &Trust) -> Table {
    let mut table = Table::new(["outcome", "trials", "for example", "trial", "what to do"]);
    let mut all: Vec<_> = trust
        .unmeasured
        .iter()
        .filter_map(|group| Some((group.outcome?, &group.reasons)))
        .flat_map(|(outcome, reasons)| reasons.iter().map(move |reason| (outcome, reason)))
        .collect();
    all.sort_by_key(|(_, reason)| std::cmp::Reverse(reason.trials));
    for (outcome, reason) in all {
        table.push(vec![
            outcome.as_str().into(),
            numbers::count(reason.trials),
            reason.example.clone(),
            reason.example_trial.to_string(),
            remedy_of(outcome, &reason.example).into(),
        ]);
    }
    table
}

fn outliers(trust: &Trust, asked: &[Factor]) -> Markup {
    let mut table = Table::new([
        "trial",
        "replicate",
        "combination",
        "metric",
        "value",
        "median of its combination",
        "modified z",
    ]);
    for outlier in trust.outliers.iter().take(OUTLIERS) {
        let unit = metric_unit(&outlier.metric);
        table.push(vec![
            outlier.trial_index.to_string(),
            outlier.replicate.to_string(),
            format!(
                "{}: {}",
                name(model(&outlier.levels)),
                in_words(&outlier.levels, asked)
            ),
            metric_title(&outlier.metric),
            numbers::with_unit(outlier.value, unit),
            numbers::with_unit(outlier.median, unit),
            numbers::number(outlier.z),
        ]);
    }
    table.left_out = trust.outliers.len().saturating_sub(OUTLIERS);
    html! {
        @if trust.outliers_among > 0 && table.rows.is_empty() {
            p.small { "No outliers among " (numbers::counted(trust.outliers_among, "trial")) "." }
        } @else if trust.outliers_among > 0 {
            (page::table("Outliers, kept in all figures", &table, "analysis.json"))
            p.small {
                "Among " (numbers::counted(trust.outliers_among, "trial")) ". A trial stands out where the modified z-score "
                "of a metric’s logarithm, 0.6745·deviation/MAD, is beyond ±3.5."
            }
        }
    }
}

fn drift(trust: &Trust) -> Markup {
    let mut table = Table::new([
        "metric",
        "trials",
        "Spearman’s ρ",
        "p",
        "change, first to last trial",
        "drift",
    ]);
    for drift in &trust.drift {
        let change = numbers::number(drift.change_pct);
        table.push(vec![
            metric_title(&drift.metric),
            numbers::count(drift.trials),
            numbers::coefficient(drift.spearman),
            if drift.p < 0.001 {
                "<0.001".into()
            } else {
                numbers::number(drift.p)
            },
            if change == NOT_AVAILABLE {
                change
            } else {
                format!("{change}%")
            },
            if drift.flagged { "flagged" } else { "none" }.into(),
        ]);
    }
    html! {
        @if !table.rows.is_empty() {
            (page::table("Drift with the order of execution", &table, "analysis.json"))
            p.small { "When each trial ran against what it measured, both as deviations from its combination’s mean; flagged where p < 0.01."
                @if let Some(starts) = trust.drift.iter().find_map(|drift| drift.starts) {
                    " Trials shared " (numbers::counted(starts, "start")) " of the engine, and each start counts once."
                }
            }
        }
    }
}

fn provenance(trust: &Trust) -> Table {
    let mut table = Table::new(["what", "value (trials)"]);
    for of in &trust.provenance {
        let mut values: Vec<String> = of
            .values
            .iter()
            .take(4)
            .map(|value| {
                let text = value.value.as_deref().map_or("unknown".into(), name);
                match of.values.len() {
                    1 => text,
                    _ => format!("{text} ({})", numbers::count(value.trials)),
                }
            })
            .collect();
        if of.values.len() > values.len() {
            values.push(format!("and {} more", of.values.len() - values.len()));
        }
        table.push(vec![of.column.clone(), values.join("; ")]);
    }
    table
}

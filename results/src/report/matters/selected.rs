//! The declaration of a selected design, and its findings: part of "What matters".

use maud::{Markup, html};

use crate::{
    analysis::selected::{ModelFit, Selected},
    figures::{
        Table,
        lookup::{level_cells, level_columns, level_heading, metric_heading, metric_title, name},
    },
    numbers::{self, NOT_AVAILABLE},
    report::page,
    sample::model,
};

/// Confounded effects that are listed.
const CONFOUNDED: usize = 12;

pub(super) fn section(selected: &Selected) -> Markup {
    let declared = selected.declared;
    html! {
        h3 { "A selection of the grid" }
        p {
            "Declared were " (numbers::count(declared.combinations.max(0).unsigned_abs())) " of "
            (numbers::count(selected.candidates)) " combinations, chosen by the method " (declared.method.to_string())
            " for the model " (declared.model.to_string()) ", which has " (numbers::counted(selected.terms, "term"))
            ". The choice has a D-efficiency of " (numbers::share(selected.efficiency)) "; 1 is the most that any has. "
            (numbers::count(selected.measured)) " were measured and are valid. Effects are the model’s, averaged over all "
            "combinations of the grid; their intervals contain what blocks differ by and what the model lacks."
        }
        @if !selected.aliased.is_empty() {
            p { "Of these the choice cannot tell one from another, and no effect is reported:" }
            ul {
                @for group in &selected.aliased {
                    li { (page::cut(&group.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))) }
                }
            }
        }
        (page::table("The declared model", &fits(&selected.fits), "analysis.json"))
        p.small {
            "A lack of fit is what the means lie from the model by, beyond what replicates differ by: with p < 0.05 the "
            "model lacks something, and a larger one, or more combinations, would tell more."
        }
        @if !selected.confounded.is_empty() {
            details.keep {
                summary { "Effects that the model leaves out, and that would enter others" }
                (page::table("If there are such effects, a share of them is taken for another one", &confounded(selected), "analysis.json"))
            }
        }
        @if !selected.predictions.is_empty() {
            details.keep {
                summary { "Combinations that were not measured" }
                (page::table("Predictions of the declared model, with 95% intervals of the geometric mean", &predictions(selected), "analysis.json"))
            }
        }
    }
}

fn fits(fits: &[ModelFit]) -> Table {
    let mut table = Table::new([
        "metric",
        "combinations",
        "terms",
        "R², log",
        "means around the model",
        "lack of fit, F",
        "p",
        "not told",
    ]);
    for fit in fits {
        let lack = fit.lack_of_fit;
        table.push(vec![
            metric_title(&fit.metric),
            numbers::count(fit.combinations),
            numbers::count(fit.terms),
            numbers::coefficient(fit.r2),
            fit.residual
                .map_or_else(|| NOT_AVAILABLE.into(), |sd| numbers::percent(sd.exp_m1())),
            lack.map_or_else(
                || NOT_AVAILABLE.into(),
                |lack| {
                    format!(
                        "{} ({}, {})",
                        numbers::number(lack.f),
                        lack.of_model,
                        lack.of_replicates
                    )
                },
            ),
            lack.map_or_else(
                || NOT_AVAILABLE.into(),
                |lack| match lack.p {
                    p if p < 0.001 => "<0.001".into(),
                    p => numbers::number(p),
                },
            ),
            match fit.aliased.as_slice() {
                [] => "nothing".into(),
                terms => terms
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        ]);
    }
    table
}

fn confounded(selected: &Selected) -> Table {
    let mut table = Table::new(["an effect of", "would be taken for one of", "share"]);
    for found in selected.confounded.iter().take(CONFOUNDED) {
        table.push(vec![
            found.with.to_string(),
            found.term.to_string(),
            numbers::share(found.share),
        ]);
    }
    table.left_out = selected.confounded.len().saturating_sub(CONFOUNDED);
    table
}

fn predictions(selected: &Selected) -> Table {
    let columns = level_columns(
        selected
            .predictions
            .iter()
            .map(|prediction| &prediction.levels),
    );
    let metrics = ["outputThroughput", "ttftMs", "tpotMs"];
    let mut header = vec!["model".to_owned()];
    header.extend(columns.iter().map(level_heading));
    header.extend(metrics.map(metric_heading));
    let mut table = Table::new(header);
    for prediction in &selected.predictions {
        let mut row = vec![name(model(&prediction.levels))];
        row.extend(level_cells(&prediction.levels, &columns));
        row.extend(metrics.map(|metric| {
            let found = prediction.metrics.get(metric);
            found.map_or_else(|| NOT_AVAILABLE.into(), numbers::interval)
        }));
        table.push(row);
    }
    table
}

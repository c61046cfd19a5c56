//! How it behaves: curves, cost models, predictions.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{Report, matters::FIRST, page};
use crate::{
    analysis::{
        Scope,
        cost::{CostModel, CostPrediction},
        curves::{Curve, Family, Fit},
    },
    figures::{
        Question, Table,
        lookup::{
            chosen, family_name, level_cells, level_columns, level_heading, level_in_words,
            metric_heading, metric_title, name, scope_name, sentence,
        },
    },
    numbers::{self, NOT_AVAILABLE},
    sample::{self, Factor},
    summary::Estimates,
};

/// Predictions that a report lists at most.
const PREDICTIONS: usize = 60;

const FIGURES: [&str; 7] = [
    "factors",
    "gpu-utilization-by-batch-size",
    "gpu-utilization-by-gpus",
    "metrics-by-batch-size-and-gpus",
    "metrics-by-batch-size-and-lengths",
    "replicates",
    "curves",
];

/// The section, where there is a valid trial.
pub(super) fn section(report: &Report<'_>) -> Option<Markup> {
    let scopes = &report.analysis.scopes;
    let levels = levels(report);
    if levels.rows.is_empty() && !page::drawn(report.figures, &FIGURES) {
        return None;
    }
    Some(html! {
        section id="behaves" {
            h2 { "How it behaves" }
            (page::figures(report.figures, Question::Behaves, &FIGURES))
            @if !levels.rows.is_empty() {
                details.keep {
                    summary { "Each level of each factor" }
                    (page::table("Means over all measured combinations with the level", &levels, "summary.json"))
                    p.small {
                        "Where fewer combinations are measured than there are, levels are averaged over different ones: the "
                        "figures above go over the balanced part instead. CV is the spread between replicates over the mean."
                    }
                }
            }
            @if scopes.iter().any(|scope| !scope.curves.is_empty()) {
                p {
                    "Four families are fitted to each metric along each numeric factor, to relative errors: constant, linear, "
                    "power and inverse. The simplest one is named that none is shown to fit better, by an F test against what "
                    "the better one leaves over (5 %); in brackets, those that may be as good. The exponent n is that of the "
                    "power family, whichever was chosen: 1 is proportional, 0 no effect, −1 inverse."
                }
                @for (at, scope) in scopes.iter().enumerate().filter(|(_, scope)| !scope.curves.is_empty()) {
                    @if at == 0 {
                        (curves(scope))
                    } @else {
                        details.keep {
                            summary { "Curves of " bdi { (scope_name(scope)) } }
                            (curves(scope))
                        }
                    }
                }
            }
            (costs(report))
        }
    })
}

/// The levels with a valid trial.
fn levels(report: &Report<'_>) -> Table {
    let mut header = vec![
        "factor".to_owned(),
        "level".into(),
        "combinations".into(),
        "measured".into(),
    ];
    header.extend(FIRST.iter().map(|metric| metric_heading(metric)));
    header.push("CV of TTLT".into());
    let mut table = Table::new(header);
    for level in report
        .summary
        .levels
        .iter()
        .filter(|level| level.measured > 0)
    {
        let mut row = vec![
            level.factor.title().into(),
            name(&level.level.to_string()),
            numbers::count(level.combinations),
            numbers::count(level.measured),
        ];
        row.extend(estimates(&level.metrics));
        table.push(row);
    }
    table
}

/// The means of the first metrics with their intervals, and how much the time to last token varies.
pub(super) fn estimates(metrics: &Estimates) -> Vec<String> {
    let cv = metrics.get("ttltMs").and_then(|estimate| estimate.cv);
    let means = FIRST.iter().map(|metric| {
        metrics
            .get(*metric)
            .map_or_else(|| NOT_AVAILABLE.into(), numbers::estimate)
    });
    means
        .chain([cv.map_or_else(
            || NOT_AVAILABLE.into(),
            |cv| numbers::with_unit(cv * 100.0, "%"),
        )])
        .collect()
}

fn curves(scope: &Scope) -> Markup {
    let caption = format!("Curves, {}", scope_name(scope));
    let mut table = Table::new([
        "metric y",
        "factor x",
        "levels",
        "family",
        "y",
        "relative error",
        "R²",
        "exponent n",
    ]);
    let mut refused: BTreeMap<(&Factor, &str), Vec<String>> = BTreeMap::new();
    for curve in &scope.curves {
        let Some(fit) = chosen(curve) else {
            let reason = curve.refused.as_deref().unwrap_or("too few levels");
            let metrics = refused.entry((&curve.factor, reason)).or_default();
            metrics.push(metric_title(&curve.metric));
            continue;
        };
        table.push(vec![
            metric_heading(&curve.metric),
            curve.factor.title().into(),
            numbers::count(curve.points.len() as u64),
            families(fit, curve),
            formula(fit),
            numbers::percent(fit.relative_rmse),
            fit.r2
                .map_or_else(|| NOT_AVAILABLE.into(), numbers::coefficient),
            curve
                .exponent
                .as_ref()
                .map_or_else(|| NOT_AVAILABLE.into(), numbers::interval),
        ]);
    }
    html! {
        (page::table(&caption, &table, "analysis.json"))
        @if !refused.is_empty() {
            ul.small {
                @for ((factor, reason), metrics) in &refused {
                    li {
                        (sentence(factor.title())) ": no family is chosen, " (page::cut(reason)) " ("
                        (numbers::counted(metrics.len() as u64, "metric")) ")."
                    }
                }
            }
        }
    }
}

/// The family, and those that may be as good: `constant (or linear, power)`.
fn families(fit: &Fit, curve: &Curve) -> String {
    let others: Vec<&str> = curve.as_good.iter().copied().map(family_name).collect();
    let chosen = family_name(fit.family);
    if others.is_empty() {
        chosen.into()
    } else {
        format!("{chosen} (or {})", others.join(", "))
    }
}

fn formula(fit: &Fit) -> String {
    let scale = numbers::number(fit.scale);
    let slope = fit.slope.unwrap_or_default();
    match fit.family {
        Family::Constant => scale,
        Family::Inverse => format!("{scale}/x"),
        Family::Linear if slope < 0.0 => format!("{scale} − {}·x", numbers::number(-slope)),
        Family::Linear => format!("{scale} + {}·x", numbers::number(slope)),
        Family::Power => format!("{scale}·x^{}", numbers::number(slope)),
    }
}

fn costs(report: &Report<'_>) -> Markup {
    let models = &report.analysis.cost_models;
    let fitted = fitted(models);
    let refused = models.iter().filter_map(|model| {
        let reason = model.refused.as_deref()?;
        Some(format!("{}: {reason}", configuration(model)))
    });
    let refused: Vec<String> = refused.take(12).collect();
    if fitted.rows.is_empty() && refused.is_empty() {
        return html! {};
    }
    html! {
        h3 { "What an iteration costs" }
        p {
            "TTLT = a + b·out + c·in·batch + d·out·batch + e·out·batch·(in + out/2), in ms, no coefficient negative, per "
            "model, number of GPUs and data type: a once, b per decoding step whatever the batch (reading the weights), c per "
            "input token, d per output token, e per output token and token of context."
        }
        (page::table("Cost models", &fitted, "analysis.json"))
        @if !refused.is_empty() {
            ul.small { @for text in &refused { li { (page::cut(text)) } } }
        }
        (page::figures(report.figures, Question::Behaves, &["cost-models"]))
        @let predictions = predictions(models);
        @if !predictions.rows.is_empty() {
            h3 { "Predictions, not measured" }
            p.warning {
                "These combinations were not measured. The figures are what the cost models say of them; those beyond the "
                "measured levels are extrapolated and deserve less trust."
            }
            (page::table("Predicted by the cost model", &predictions, "analysis.json"))
        }
    }
}

fn configuration(model: &CostModel) -> String {
    let others = model
        .levels
        .stated()
        .filter(|(factor, _)| **factor != Factor::MODEL);
    let others = others.map(|(factor, level)| level_in_words(factor, level));
    let parts = std::iter::once(name(sample::model(&model.levels))).chain(others);
    parts.collect::<Vec<_>>().join(", ")
}

fn fitted(models: &[CostModel]) -> Table {
    let mut table = Table::new([
        "for",
        "combinations",
        "a",
        "b",
        "c",
        "d",
        "e",
        "median error, held out",
        "largest error, held out",
    ]);
    for model in models {
        let Some(of) = &model.coefficients else {
            continue;
        };
        let mut row = vec![configuration(model), numbers::count(model.combinations)];
        let coefficients = [
            of.fixed,
            of.step,
            of.input_token,
            of.output_token,
            of.context,
        ];
        row.extend(coefficients.map(numbers::number));
        let errors = [
            model.check.map(|check| check.median_error),
            model.check.map(|check| check.max_error),
        ];
        row.extend(
            errors.map(|error| error.map_or_else(|| NOT_AVAILABLE.into(), numbers::percent)),
        );
        table.push(row);
    }
    table
}

fn predictions(models: &[CostModel]) -> Table {
    let all: Vec<&CostPrediction> = models.iter().flat_map(|model| &model.predictions).collect();
    let columns = level_columns(all.iter().map(|prediction| &prediction.levels));
    let mut header = vec!["model".to_owned()];
    header.extend(columns.iter().map(level_heading));
    header.extend(
        [
            "TTLT, ms (predicted)",
            "output tokens/s (predicted)",
            "among or beyond the measured levels",
        ]
        .map(Into::into),
    );
    let mut table = Table::new(header);
    for prediction in all.iter().take(PREDICTIONS) {
        let levels = &prediction.levels;
        let mut row = vec![name(sample::model(levels))];
        row.extend(level_cells(levels, &columns));
        row.push(numbers::number(prediction.ttlt_ms));
        row.push(numbers::number(prediction.output_throughput));
        row.push(if prediction.beyond { "beyond" } else { "among" }.into());
        table.push(row);
    }
    table.left_out = all.len().saturating_sub(PREDICTIONS);
    table
}

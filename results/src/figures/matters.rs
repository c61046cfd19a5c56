//! Figures of what matters: effects per doubling, importances (study 4.7) and correlations (study 4.6).

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    axis::Axis,
    lookup::{Context, effect_headline, metric_title, scope_name, variable_title},
    panels::{Matrix, Rows, Style, Value},
};
use crate::{
    analysis::{
        Scope,
        attribution::{Attribution, Shares},
        correlation::Correlation,
    },
    numbers,
    sample::Factor,
};

/// The metrics whose factors are drawn, as far as they were measured.
pub(crate) const DRAWN: [&str; 8] = [
    "ttftMs",
    "ttltMs",
    "tpotMs",
    "outputThroughput",
    "capacityRate",
    "capacityConcurrency",
    "gpuMemPeakMib",
    "joulesPerOutputToken",
];
/// The metrics of the study's importances.
const STUDIED: [&str; 6] = [
    "ttftMs",
    "ttltMs",
    "tpotMs",
    "normalizedLatencyMs",
    "outputThroughput",
    "gpuUtilMeanPct",
];

fn of<'a>(scope: &'a Scope, metric: &str) -> Option<&'a Attribution> {
    scope.attribution.iter().find(|of| of.metric == metric)
}

/// Effects per doubling with their intervals.
pub(super) fn effects(context: &Context<'_>) -> Figure {
    let mut figure = Figure {
        name: "effects",
        title: "Effect of doubling each factor".into(),
        study: None,
        question: Question::Matters,
        caption: String::new(),
        drawing: None,
        table: Table::new(["metric", "scope", "factor", "ratio", "what it compares"]),
    };
    let all = context
        .analysis
        .scopes
        .iter()
        .find(|scope| scope.model.is_none());
    let mut panels = Vec::new();
    for metric in DRAWN {
        // Rows of models, then what only all models together can tell.
        let mut rows: Vec<(String, Vec<Value>)> = Vec::new();
        let scopes = context.models.iter().map(|scope| (*scope, false));
        for (series, (scope, across)) in scopes.chain(all.map(|scope| (scope, true))).enumerate() {
            let Some(attribution) = of(scope, metric) else {
                continue;
            };
            for effect in &attribution.effects {
                if across && effect.factor != Factor::MODEL {
                    continue;
                }
                let Some((label, ratio)) = effect_headline(effect, scope) else {
                    continue;
                };
                figure.table.push(vec![
                    metric_title(metric),
                    scope_name(scope),
                    effect.factor.title().into(),
                    numbers::ratio(&ratio),
                    if effect.per_doubling.is_some() {
                        "per doubling".into()
                    } else {
                        label.clone()
                    },
                ]);
                let value = Value {
                    series: if across { 0 } else { series },
                    value: ratio.value,
                    ends: ratio
                        .low
                        .zip(ratio.high)
                        .filter(|(low, high)| *low > 0.0 && high.is_finite()),
                    style: if across { Style::Hollow } else { Style::Point },
                };
                match rows.iter_mut().find(|(of, _)| *of == label) {
                    Some((_, values)) => values.push(value),
                    None => rows.push((label, vec![value])),
                }
            }
        }
        if rows.is_empty() {
            continue;
        }
        let ends = rows
            .iter()
            .flat_map(|(_, values)| values)
            .flat_map(|value| {
                let (low, high) = value.ends.unwrap_or((value.value, value.value));
                [value.value, low, high]
            });
        panels.push(Panel {
            alt: format!(
                "Effects on {}: {}.",
                metric_title(metric),
                rows.iter()
                    .filter_map(|(label, values)| Some(format!(
                        "{label} ×{}",
                        numbers::number(values.first()?.value)
                    )))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            scene: Rows {
                title: metric_title(metric),
                x_title: "ratio (log scale), 95% interval".into(),
                axis: Axis::of_ratios(ends),
                marked: Some(1.0),
                rows,
                note: None,
            }
            .draw(),
        });
    }
    if panels.is_empty() {
        figure.caption = "Not drawn: no factor has two levels with valid trials.".into();
        figure.table = Table::default();
        return figure;
    }
    figure.caption = format!(
        "{} At 1 a factor does nothing, at 2 the metric doubles with it.{}",
        strongest(context),
        context.omission()
    );
    figure.drawing = Some(Drawing {
        panels,
        columns: 3,
        legend: context.legend(KeyKind::Point),
    });
    figure
}

/// Which factor moves TTLT most and which output throughput.
fn strongest(context: &Context<'_>) -> String {
    let sentences = context.models.iter().take(2).filter_map(|scope| {
        let of_metric = |metric: &str| {
            let effect = of(scope, metric)?
                .effects
                .iter()
                .filter_map(|effect| Some((&effect.factor, effect.per_doubling?)))
                .filter(|(_, ratio)| ratio.value.is_finite() && ratio.value > 0.0)
                .max_by(|(_, a), (_, b)| a.value.ln().abs().total_cmp(&b.value.ln().abs()))?;
            Some(format!(
                "{} moves {} most, {} per doubling",
                effect.0.title(),
                metric_title(metric),
                numbers::ratio(&effect.1)
            ))
        };
        let found: Vec<String> = ["ttltMs", "outputThroughput"]
            .into_iter()
            .filter_map(of_metric)
            .collect();
        (!found.is_empty()).then(|| format!("{}: {}.", scope_name(scope), found.join("; ")))
    });
    sentences.collect::<Vec<_>>().join(" ")
}

/// Study 4.7: permutation importances, with twice the total share beside them.
pub(super) fn importances(context: &Context<'_>) -> Figure {
    let mut figure = Figure {
        name: "importances",
        title: "Permutation importance of each factor".into(),
        study: Some("4.7"),
        question: Question::Matters,
        caption: String::new(),
        drawing: None,
        table: Table::new([
            "metric",
            "scale",
            "factor",
            "importance (0 to 2)",
            "sd over seeds",
            "2 × Sₜ",
            "held-out R²",
        ]),
    };
    let Some(scope) = context.analysis.scopes.first() else {
        figure.caption = "Not drawn: there is no valid trial.".into();
        figure.table = Table::default();
        return figure;
    };
    let mut panels = Vec::new();
    let mut top: Vec<String> = Vec::new();
    let mut refused = 0;
    for metric in STUDIED {
        let Some(attribution) = of(scope, metric) else {
            continue;
        };
        for (scale, shares) in [("raw", &attribution.raw), ("log", &attribution.log)] {
            let Some(shares) = shares.as_ref().filter(|shares| !shares.factors.is_empty()) else {
                continue;
            };
            refused += usize::from(shares.importance.factors.is_empty());
            tabulate(metric, scale, shares, &mut figure.table);
            panels.push(importance_panel(metric, scale, shares));
            if scale == "raw" && top.len() < 3 {
                let most = shares
                    .importance
                    .factors
                    .iter()
                    .max_by(|a, b| a.mean.total_cmp(&b.mean));
                top.extend(most.map(|most| {
                    format!(
                        "{} matters most for {} ({} ± {})",
                        most.factor.title(),
                        metric_title(metric),
                        numbers::share(most.mean),
                        numbers::share(most.sd)
                    )
                }));
            }
        }
    }
    if panels.is_empty() {
        figure.caption = "Not drawn: no factor has two levels with valid trials.".into();
        figure.table = Table::default();
        return figure;
    }
    let mut said = vec![if top.is_empty() {
        "No importances are shown, for the reasons given in the panels.".into()
    } else {
        format!("On the raw scale, {}.", numbers::listed(&top))
    }];
    said.push(
        "Bars are the decrease of R² on held-out combinations when a factor is shuffled: 2 means that it explains \
         everything. For independent factors they equal twice the total share."
            .into(),
    );
    if refused > 0 && !top.is_empty() {
        said.push(format!(
            "{} no bars, for the reason given there.",
            if refused == 1 {
                "One panel has".into()
            } else {
                format!("{refused} panels have")
            }
        ));
    }
    figure.caption = said.join(" ");
    figure.drawing = Some(Drawing {
        panels,
        columns: 2,
        legend: vec![
            Key {
                label: "permutation importance, ± sd over seeds".into(),
                series: 0,
                kind: KeyKind::Bar,
            },
            Key {
                label: "2 × Sₜ, the total share of the variance".into(),
                series: 3,
                kind: KeyKind::Hollow,
            },
        ],
    });
    figure
}

fn importance_panel(metric: &str, scale: &str, shares: &Shares) -> Panel {
    let rows = shares.factors.iter().map(|share| {
        let found = shares
            .importance
            .factors
            .iter()
            .find(|found| found.factor == share.factor);
        let mut values: Vec<Value> = found
            .map(|found| Value {
                series: 0,
                value: found.mean,
                ends: (found.sd.is_finite() && found.sd > 0.0)
                    .then_some((found.mean - found.sd, found.mean + found.sd)),
                style: Style::Bar,
            })
            .into_iter()
            .collect();
        values.push(Value {
            series: 3,
            value: 2.0 * share.total,
            ends: None,
            style: Style::Hollow,
        });
        values.retain(|value| value.value.is_finite());
        (share.factor.title().to_owned(), values)
    });
    let rows: Vec<_> = rows.collect();
    // Noise can carry one beyond 2, and its spread further: a whisker that ended at the axis' end would look shorter.
    let most = rows
        .iter()
        .flat_map(|(_, values)| values)
        .map(|value| value.ends.map_or(value.value, |(_, high)| high))
        .fold(0.0, f64::max);
    Panel {
        alt: format!(
            "Importances for {}, {scale} scale: {}.",
            metric_title(metric),
            shares
                .importance
                .factors
                .iter()
                .map(|found| format!("{} {}", found.factor.title(), numbers::share(found.mean)))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        scene: Rows {
            title: format!("{}, {scale} scale", metric_title(metric)),
            x_title: match shares.importance.held_out_r2.filter(|r2| r2.is_finite()) {
                Some(r2) => format!("decrease of R² (held out: {})", numbers::coefficient(r2)),
                None => "decrease of R²".into(),
            },
            axis: Axis::linear(0.0, 2.0f64.max(most)),
            marked: None,
            rows,
            note: shares.importance.refused.clone(),
        }
        .draw(),
    }
}

fn tabulate(metric: &str, scale: &str, shares: &Shares, table: &mut Table) {
    for share in &shares.factors {
        let found = shares
            .importance
            .factors
            .iter()
            .find(|found| found.factor == share.factor);
        let of = |value: Option<f64>| {
            value.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::share)
        };
        table.push(vec![
            metric_title(metric),
            scale.into(),
            share.factor.title().into(),
            of(found.map(|found| found.mean)),
            of(found.map(|found| found.sd)),
            numbers::share(2.0 * share.total),
            shares
                .importance
                .held_out_r2
                .map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::coefficient),
        ]);
    }
}

/// The names of the scopes' figures of correlations.
pub(crate) const CORRELATIONS: [&str; 4] = [
    "correlations",
    "correlations-2",
    "correlations-3",
    "correlations-4",
];

/// Study 4.6: correlations of everything with everything, a figure per scope.
pub(super) fn correlations(context: &Context<'_>) -> Vec<Figure> {
    let scopes = context.analysis.scopes.iter().zip(CORRELATIONS);
    let figures: Vec<Figure> = scopes
        .filter_map(|(scope, name)| correlations_of(scope, name))
        .collect();
    if !figures.is_empty() {
        return figures;
    }
    vec![Figure {
        name: CORRELATIONS[0],
        title: "Correlations of factors and metrics".into(),
        study: Some("4.6"),
        question: Question::Matters,
        caption: "Not drawn: no two variables vary.".into(),
        drawing: None,
        table: Table::default(),
    }]
}

fn correlations_of(scope: &Scope, name: &'static str) -> Option<Figure> {
    let correlation = &scope.correlation;
    let kept = varying(correlation);
    if kept.len() < 2 {
        return None;
    }
    let mut table = Table::new([
        "factor",
        "metric",
        "Pearson’s r",
        "Spearman’s ρ",
        "r in words",
    ]);
    for pair in &correlation.pairs {
        table.push(vec![
            pair.factor.title().into(),
            metric_title(&pair.metric),
            coefficient(pair.pearson),
            coefficient(pair.spearman),
            pair.strength.clone(),
        ]);
    }
    let strongest = strongest_pair(correlation).unwrap_or_default();
    Some(Figure {
        name,
        title: format!("Correlations of factors and metrics, {}", scope_name(scope)),
        study: Some("4.6"),
        question: Question::Matters,
        caption: format!(
            "{strongest}Over the means of {}. Normalized latency is the inverse of output throughput: not independent \
             evidence. Hatched cells have no coefficient, because a variable does not vary.",
            numbers::counted(correlation.combinations, "combination")
        ),
        drawing: Some(Drawing {
            panels: [
                ("Pearson’s r", &correlation.pearson),
                ("Spearman’s ρ", &correlation.spearman),
            ]
            .map(|(name, cells)| matrix(correlation, &kept, name, cells, scope))
            .into(),
            columns: 1,
            legend: Vec::new(),
        }),
        table,
    })
}

fn coefficient(value: Option<f64>) -> String {
    value.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::coefficient)
}

/// The variables that have any coefficient.
fn varying(correlation: &Correlation) -> Vec<usize> {
    (0..correlation.variables.len())
        .filter(|at| {
            correlation
                .pearson
                .get(*at)
                .is_some_and(|row| row.iter().any(Option::is_some))
        })
        .collect()
}

fn matrix(
    correlation: &Correlation,
    kept: &[usize],
    name: &str,
    cells: &[Vec<Option<f64>>],
    scope: &Scope,
) -> Panel {
    let variables: Vec<String> = kept
        .iter()
        .filter_map(|at| correlation.variables.get(*at))
        .map(|name| variable_title(name))
        .collect();
    // The factors come first, and all of them go with the first metric.
    let first = correlation.pairs.first().map(|pair| &pair.metric);
    let factors = correlation
        .pairs
        .iter()
        .filter(|pair| Some(&pair.metric) == first);
    let factors = factors.count();
    let parted = kept.iter().filter(|at| **at < factors).count();
    let row = |r: &usize| -> Vec<Option<f64>> {
        kept.iter()
            .map(|c| cells.get(*r).and_then(|row| row.get(*c)).copied().flatten())
            .collect()
    };
    Panel {
        alt: format!(
            "Heat map of {name} of {} variables, {}. The table below has factors against metrics.",
            variables.len(),
            scope_name(scope)
        ),
        scene: Matrix {
            title: name.into(),
            cells: kept.iter().map(row).collect(),
            parted: (parted > 0 && parted < variables.len()).then_some(parted),
            columns: variables.clone(),
            rows: variables,
        }
        .draw(),
    }
}

/// The strongest pair of a factor and a metric; ends with a space.
fn strongest_pair(correlation: &Correlation) -> Option<String> {
    let (pair, r) = correlation
        .pairs
        .iter()
        .filter_map(|pair| Some((pair, pair.pearson.filter(|r| r.is_finite())?)))
        .max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()))?;
    let rho = pair.spearman.filter(|rho| rho.is_finite());
    Some(format!(
        "The strongest factor and metric are {} and {}: r = {}{}. ",
        pair.factor.title(),
        metric_title(&pair.metric),
        numbers::coefficient(r),
        rho.map_or_else(String::new, |rho| format!(
            ", ρ = {}",
            numbers::coefficient(rho)
        ))
    ))
}

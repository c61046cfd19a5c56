//! Figures of how metrics behave along factors: the published study's 4.1 to 4.5, fitted curves, and cost models against
//! measurements.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    lookup::{
        Context, NUMERIC, change, chosen, curve, family_name, gpus_name, metric_heading,
        metric_title, metric_unit, name, points, scope_name, sentence,
    },
    panels::{Dot, Lines, Scatter, Spread, Trace},
};
use crate::{
    analysis::{
        Scope,
        cost::{Check, Coefficients, CostModel},
        curves::{Curve, Family},
    },
    numbers,
    sample::{Factor, Levels},
};

/// The rows of the study's nine panels.
const NINE: [&str; 3] = ["ttltMs", "normalizedLatencyMs", "outputThroughput"];
/// Its columns.
const LENGTHS: [Factor; 3] = [Factor::BatchSize, Factor::InputLength, Factor::OutputLength];
/// The metrics whose curves are drawn.
const CURVED: [&str; 4] = ["ttftMs", "tpotMs", "ttltMs", "outputThroughput"];
const UTILIZATION: [&str; 2] = ["gpuUtilMeanPct", "gpuUtilMaxPct"];

/// Study 4.1: metrics along batch size, input length and output length.
pub(super) fn factors(context: &Context<'_>) -> Figure {
    let mut figure = along(
        context,
        Along {
            name: "factors",
            title: "Metrics along each factor",
            study: "4.1",
            factors: &LENGTHS,
            metrics: &NINE,
            drawn: Drawn::Means,
        },
    );
    if figure.drawing.is_some() {
        let sentences = context.models.iter().take(2).map(|scope| {
            let of = |metric: &str| {
                let changes: Vec<String> = LENGTHS
                    .iter()
                    .filter_map(|factor| {
                        let ratio = change(curve(scope, *factor, metric)?)?;
                        Some(format!("×{} with {}", numbers::number(ratio), factor.title()))
                    })
                    .collect();
                numbers::listed(&changes)
            };
            format!(
                "{}: from the lowest level to the highest, TTLT changes {}; output throughput changes {}.",
                scope_name(scope),
                of("ttltMs"),
                of("outputThroughput")
            )
        });
        figure.caption = sentences
            .chain([balance(context), left_out_factors(context, &LENGTHS)])
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
            + &context.omission();
    }
    figure
}

/// Study 4.2: GPU utilization along batch size.
pub(super) fn utilization_by_batch_size(context: &Context<'_>) -> Figure {
    let mut figure = along(
        context,
        Along {
            name: "gpu-utilization-by-batch-size",
            title: "GPU utilization by batch size",
            study: "4.2",
            factors: &[Factor::BatchSize],
            metrics: &UTILIZATION[..1],
            drawn: Drawn::Means,
        },
    );
    if figure.drawing.is_some() {
        figure.caption = utilization_caption(context, Factor::BatchSize);
    }
    figure
}

/// Study 4.3: GPU utilization along the number of GPUs, mean and maximum.
pub(super) fn utilization_by_gpus(context: &Context<'_>) -> Figure {
    let mut figure = along(
        context,
        Along {
            name: "gpu-utilization-by-gpus",
            title: "GPU utilization by number of GPUs",
            study: "4.3",
            factors: &[Factor::Gpus],
            metrics: &UTILIZATION,
            drawn: Drawn::Means,
        },
    );
    if figure.drawing.is_some() {
        figure.caption = utilization_caption(context, Factor::Gpus);
    }
    figure
}

/// Study 4.5: the same as 4.1, with the spread over replicates.
pub(super) fn replicates(context: &Context<'_>) -> Figure {
    let mut figure = along(
        context,
        Along {
            name: "replicates",
            title: "Mean ± standard deviation over replicates",
            study: "4.5",
            factors: &LENGTHS,
            metrics: &NINE,
            drawn: Drawn::Deviations,
        },
    );
    if figure.drawing.is_none() {
        return figure;
    }
    let widest = context
        .models
        .iter()
        .flat_map(|scope| &scope.curves)
        .filter(|curve| LENGTHS.contains(&curve.factor) && NINE.contains(&curve.metric.as_str()))
        .flat_map(|curve| points(curve).map(move |point| (curve, point)))
        .filter_map(|(curve, point)| {
            let cv = point.sd? / point.mean.value.abs();
            cv.is_finite().then_some((cv, curve, point))
        })
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match widest {
        Some((cv, curve, point)) => {
            figure.caption = format!(
                "The shade is one standard deviation of the block means to each side. It is widest for {} at {} {}: \
                 {}% of the mean.{}",
                metric_title(&curve.metric),
                curve.factor.title(),
                numbers::tick(point.level),
                numbers::number(cv * 100.0),
                context.omission()
            );
            figure
        }
        None => Figure {
            drawing: None,
            caption: "Not drawn: with one replicate there is no spread over replicates.".into(),
            table: Table::default(),
            ..figure
        },
    }
}

/// The fitted curves.
pub(super) fn curves(context: &Context<'_>) -> Figure {
    let mut figure = along(
        context,
        Along {
            name: "curves",
            title: "Fitted curves",
            study: "",
            factors: &NUMERIC,
            metrics: &CURVED,
            drawn: Drawn::Curves,
        },
    );
    if figure.drawing.is_none() {
        return figure;
    }
    let fitted: Vec<(&Curve, Family)> = context
        .models
        .iter()
        .flat_map(|scope| &scope.curves)
        .filter(|curve| CURVED.contains(&curve.metric.as_str()))
        .filter_map(|curve| Some((curve, curve.chosen?)))
        .collect();
    let of = |family| {
        let count = fitted
            .iter()
            .filter(|(_, chosen)| *chosen == family)
            .count();
        (count > 0).then(|| format!("{count} {}", family_name(family)))
    };
    let families: Vec<String> = [
        Family::Constant,
        Family::Linear,
        Family::Power,
        Family::Inverse,
    ]
    .into_iter()
    .filter_map(of)
    .collect();
    figure.caption = format!(
        "Points are means over the balanced combinations with 95% intervals, lines the chosen families: {}.",
        numbers::listed(&families)
    );
    figure.caption += &context.omission();
    figure
}

/// What is drawn of a curve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drawn {
    Means,
    Deviations,
    Curves,
}

struct Along<'a> {
    name: &'static str,
    title: &'static str,
    study: &'static str,
    factors: &'a [Factor],
    metrics: &'a [&'a str],
    drawn: Drawn,
}

/// A grid of panels, factors by metrics, one line per model.
fn along(context: &Context<'_>, of: Along<'_>) -> Figure {
    let has = |factor: Factor, metric: &str| {
        context.models.iter().any(|scope| {
            curve(scope, factor, metric)
                .is_some_and(|curve| of.drawn != Drawn::Curves || chosen(curve).is_some())
        })
    };
    let factors: Vec<Factor> = of
        .factors
        .iter()
        .copied()
        .filter(|factor| of.metrics.iter().any(|metric| has(*factor, metric)))
        .collect();
    let metrics: Vec<&str> = of
        .metrics
        .iter()
        .copied()
        .filter(|metric| of.factors.iter().any(|factor| has(*factor, metric)))
        .collect();
    let mut figure = Figure {
        name: of.name,
        title: of.title.into(),
        study: (!of.study.is_empty()).then_some(of.study),
        question: Question::Behaves,
        caption: String::new(),
        drawing: None,
        table: Table::default(),
    };
    if factors.is_empty() {
        figure.caption = why_not(context, &of);
        return figure;
    }
    let mut panels = Vec::new();
    for metric in &metrics {
        for factor in &factors {
            panels.push(panel(context, *factor, metric, of.drawn));
        }
    }
    figure.table = table(context, &factors, &metrics, of.drawn);
    figure.drawing = Some(Drawing {
        panels,
        // Four in a row would be too small to read, and three of four would break the rows.
        columns: match (factors.len(), metrics.len()) {
            (1, 4) | (4, _) => 2,
            (1, metrics) => metrics.min(3),
            (factors, _) => factors,
        },
        legend: context.legend(match of.drawn {
            Drawn::Deviations => KeyKind::Band,
            _ => KeyKind::Line,
        }),
    });
    figure
}

fn panel(context: &Context<'_>, factor: Factor, metric: &str, drawn: Drawn) -> Panel {
    let mut traces = Vec::new();
    let mut said = Vec::new();
    for (series, scope) in context.models.iter().enumerate() {
        let Some(curve) = curve(scope, factor, metric) else {
            continue;
        };
        let dots: Vec<Dot> = points(curve)
            .map(|point| Dot {
                x: point.level,
                y: point.mean.value,
                ends: match drawn {
                    Drawn::Means => None,
                    Drawn::Deviations => point
                        .sd
                        .map(|sd| (point.mean.value - sd, point.mean.value + sd)),
                    Drawn::Curves => point.mean.low.zip(point.mean.high),
                }
                .filter(|(low, high)| low.is_finite() && high.is_finite()),
            })
            .collect();
        if let [first, .., last] = dots.as_slice() {
            said.push(format!(
                "{} from {} at {} to {} at {}",
                scope_name(scope),
                numbers::number(first.y),
                numbers::tick(first.x),
                numbers::number(last.y),
                numbers::tick(last.x)
            ));
        }
        traces.push(Trace {
            series,
            curve: if drawn == Drawn::Curves {
                sampled(curve)
            } else {
                Vec::new()
            },
            dots,
        });
    }
    Panel {
        alt: format!(
            "{} along {}: {}.",
            sentence(&metric_heading(metric)),
            factor.title(),
            said.join("; ")
        ),
        scene: Lines {
            title: metric_heading(metric),
            subtitle: None,
            x_title: factor.title().into(),
            traces,
            spread: if drawn == Drawn::Deviations {
                Spread::Band
            } else {
                Spread::Whiskers
            },
            connected: drawn != Drawn::Curves,
            top: (metric_unit(metric) == "%").then_some(100.0),
        }
        .draw(),
    }
}

/// The chosen fit from the lowest level to the highest.
fn sampled(curve: &Curve) -> Vec<(f64, f64)> {
    const STEPS: u32 = 32;
    let Some(fit) = chosen(curve) else {
        return Vec::new();
    };
    let (Some(first), Some(last)) = (points(curve).next(), points(curve).last()) else {
        return Vec::new();
    };
    let (from, to) = (first.level, last.level);
    (0..=STEPS)
        .map(|step| {
            let share = f64::from(step) / f64::from(STEPS);
            if from > 0.0 {
                from * (to / from).powf(share)
            } else {
                from + (to - from) * share
            }
        })
        .map(|x| (x, fit.at(x)))
        .filter(|(_, y)| y.is_finite())
        .collect()
}

fn table(context: &Context<'_>, factors: &[Factor], metrics: &[&str], drawn: Drawn) -> Table {
    let mut header = vec!["model".to_owned(), "factor".into(), "level".into()];
    header.extend(metrics.iter().map(|metric| metric_heading(metric)));
    let mut table = Table::new(header);
    for scope in &context.models {
        for factor in factors {
            let mut rows: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            for (at, metric) in metrics.iter().enumerate() {
                let found = curve(scope, *factor, metric);
                for point in found.into_iter().flat_map(points) {
                    let cells = rows.entry(point.level.to_bits()).or_insert_with(|| {
                        let mut cells = vec![
                            scope_name(scope),
                            factor.title().into(),
                            numbers::tick(point.level),
                        ];
                        cells.resize(3 + metrics.len(), numbers::NOT_AVAILABLE.into());
                        cells
                    });
                    cells[3 + at] = match (drawn, point.sd) {
                        (Drawn::Deviations, Some(sd)) => format!(
                            "{} ± {}",
                            numbers::number(point.mean.value),
                            numbers::number(sd)
                        ),
                        (Drawn::Deviations, None) => numbers::number(point.mean.value),
                        (Drawn::Curves, _) => match point.residual {
                            Some(residual) => format!(
                                "{}, residual {}",
                                numbers::interval(&point.mean),
                                numbers::percent(residual)
                            ),
                            None => numbers::interval(&point.mean),
                        },
                        _ => numbers::interval(&point.mean),
                    };
                }
            }
            // Levels are not negative, and so sort by their bits.
            rows.into_values().for_each(|row| table.push(row));
        }
    }
    table
}

fn why_not(context: &Context<'_>, of: &Along<'_>) -> String {
    let (factors, metrics) = (of.factors, of.metrics);
    let refused = context
        .models
        .iter()
        .flat_map(|scope| &scope.curves)
        .find_map(|curve| curve.refused.as_deref());
    if let Some(refused) = refused.filter(|_| of.drawn == Drawn::Curves) {
        return format!("Not drawn: {refused}.");
    }
    let names: Vec<&str> = factors.iter().map(|factor| factor.title()).collect();
    let measured = |metric: &&str| {
        context
            .summary
            .combinations
            .iter()
            .any(|c| c.metrics.contains_key(*metric))
    };
    let gpus = metrics.iter().all(|metric| UTILIZATION.contains(metric));
    if gpus && !context.on_gpus() {
        "Not drawn: nothing ran on a GPU.".into()
    } else if !metrics.iter().any(measured) {
        if gpus {
            "Not drawn: no valid trial has GPU telemetry.".into()
        } else {
            "Not drawn: there is no valid trial.".into()
        }
    } else if factors
        .iter()
        .all(|factor| context.asked(*factor).len() < 2)
    {
        format!(
            "Not drawn: {} {} one level only.",
            numbers::listed(&names),
            if names.len() == 1 { "has" } else { "have" }
        )
    } else {
        format!(
            "Not drawn: no two levels of {} were measured with the same levels of everything else.",
            numbers::listed(&names)
        )
    }
}

fn utilization_caption(context: &Context<'_>, factor: Factor) -> String {
    let sentences: Vec<String> = context
        .models
        .iter()
        .take(3)
        .filter_map(|scope| {
            let curve = curve(scope, factor, UTILIZATION[0])?;
            let (first, last) = (points(curve).next()?, points(curve).last()?);
            let at = |level: f64| match factor {
                Factor::Gpus => format!("on {}", gpus_name(level as u32)),
                _ => format!("at {} {}", factor.title(), numbers::tick(level)),
            };
            Some(format!(
                "{}: {}% {}, {}% {}.",
                scope_name(scope),
                numbers::number(first.mean.value),
                at(first.level),
                numbers::number(last.mean.value),
                at(last.level)
            ))
        })
        .collect();
    format!(
        "{} Utilization is the share of time in which any kernel ran, not the share of the device in use.{}",
        sentences.join(" "),
        context.omission()
    )
}

/// What means go over.
fn balance(context: &Context<'_>) -> String {
    let parts: Vec<String> = context
        .models
        .iter()
        .filter(|scope| scope.coverage.balanced < scope.coverage.grid)
        .map(|scope| {
            format!(
                "{} of {} combinations of {}",
                numbers::count(scope.coverage.balanced),
                numbers::count(scope.coverage.grid),
                scope_name(scope)
            )
        })
        .collect();
    if parts.is_empty() {
        "Means go over the full grid.".into()
    } else {
        format!(
            "Some combinations are missing, so means go over the balanced part of the grid: {}.",
            numbers::listed(&parts)
        )
    }
}

fn left_out_factors(context: &Context<'_>, factors: &[Factor]) -> String {
    let constant: Vec<&str> = factors
        .iter()
        .filter(|factor| !context.varies(**factor))
        .map(|factor| factor.title())
        .collect();
    match constant.len() {
        0 => String::new(),
        1 => format!("{} has one level and no panels.", sentence(constant[0])),
        _ => format!(
            "{} have one level and no panels.",
            sentence(&numbers::listed(&constant))
        ),
    }
}

/// Study 4.4: metrics along batch size, one line per number of GPUs.
pub(super) fn by_batch_size_and_gpus(context: &Context<'_>) -> Figure {
    let mut figure = Figure {
        name: "metrics-by-batch-size-and-gpus",
        title: "Metrics by batch size and number of GPUs".into(),
        study: Some("4.4"),
        question: Question::Behaves,
        caption: String::new(),
        drawing: None,
        table: Table::default(),
    };
    let (batches, gpus) = (
        context.asked(Factor::BatchSize).len(),
        context.asked(Factor::Gpus).len(),
    );
    if batches < 2 || gpus < 2 {
        figure.caption = format!(
            "Not drawn: it needs two batch sizes and two numbers of GPUs; the sweep has {} and {gpus}.",
            numbers::count(batches as u64)
        );
        return figure;
    }
    let mut header = vec!["model".to_owned(), "batch size".into(), "GPUs".into()];
    header.extend(NINE.iter().map(|metric| metric_heading(metric)));
    let mut table = Table::new(header);
    let (mut panels, mut captions) = (Vec::new(), Vec::new());
    let mut counts = BTreeSet::new();
    for scope in context.models.iter().take(4) {
        let Some(means) = by_gpus(context, scope) else {
            continue;
        };
        counts.extend(means.keys().map(|(gpus, _)| *gpus));
        captions.extend(by_gpus_caption(&means, scope));
        for ((gpus, batch), values) in &means {
            let mut row = vec![
                scope_name(scope),
                numbers::count(*batch),
                numbers::count(*gpus),
            ];
            row.extend(values.iter().map(|value| numbers::number(*value)));
            table.push(row);
        }
        panels.push((scope, means));
    }
    if panels.is_empty() {
        figure.caption = "Not drawn: no two numbers of GPUs were measured at two batch sizes with the same levels of \
                          everything else."
            .into();
        return figure;
    }
    let counts: Vec<u32> = counts.into_iter().take(super::palette::SERIES).collect();
    let several = panels.len() > 1;
    let drawn = panels.iter().flat_map(|(scope, means)| {
        NINE.iter()
            .enumerate()
            .map(|(at, metric)| by_gpus_panel(scope, means, &counts, at, metric, several))
    });
    figure.drawing = Some(Drawing {
        panels: drawn.collect(),
        columns: 3,
        legend: counts
            .iter()
            .enumerate()
            .map(|(series, gpus)| Key {
                label: gpus_name(*gpus),
                series,
                kind: KeyKind::Line,
            })
            .collect(),
    });
    captions
        .push("Means go over the other factors’ levels that were measured in every cell.".into());
    figure.caption = captions.join(" ") + &context.omission();
    figure.table = table;
    figure
}

/// The metrics of [`NINE`] by number of GPUs and batch size.
type ByGpus = BTreeMap<(u32, u32), [f64; 3]>;

/// Means over the other factors' levels that were measured in every cell; `None` where there are none.
fn by_gpus(context: &Context<'_>, scope: &Scope) -> Option<ByGpus> {
    type Others<'a> = (&'a str, u32, u32, &'a str);
    let mut cells: BTreeMap<(u32, u32), BTreeMap<Others<'_>, [f64; 3]>> = BTreeMap::new();
    for combination in &context.summary.combinations {
        let levels = &combination.levels;
        if scope
            .model
            .as_ref()
            .is_some_and(|model| *model != levels.model)
        {
            continue;
        }
        let values = NINE.map(|metric| combination.metrics.get(metric).map(|found| found.mean));
        let [Some(a), Some(b), Some(c)] = values else {
            continue;
        };
        let others = (
            levels.model.as_str(),
            levels.input_length,
            levels.output_length,
            levels.dtype.as_str(),
        );
        cells
            .entry((levels.gpus, levels.batch_size))
            .or_default()
            .insert(others, [a, b, c]);
    }
    let mut shared: BTreeSet<Others<'_>> = cells.values().next()?.keys().copied().collect();
    for cell in cells.values() {
        let both: BTreeSet<_> = shared
            .iter()
            .copied()
            .filter(|others| cell.contains_key(others))
            .collect();
        if both.is_empty() {
            return None;
        }
        shared = both;
    }
    let gpus: BTreeSet<u32> = cells.keys().map(|(gpus, _)| *gpus).collect();
    let batches: BTreeSet<u32> = cells.keys().map(|(_, batch)| *batch).collect();
    if gpus.len() < 2 || batches.len() < 2 {
        return None;
    }
    let mean = |cell: &BTreeMap<Others<'_>, [f64; 3]>, at: usize| {
        let values = shared.iter().filter_map(|others| cell.get(others));
        values.map(|values| values[at] / shared.len() as f64).sum()
    };
    let means = cells
        .iter()
        .map(|(key, cell)| (*key, [0, 1, 2].map(|at| mean(cell, at))));
    Some(means.collect())
}

fn by_gpus_caption(means: &ByGpus, scope: &Scope) -> Option<String> {
    let batch = means.keys().map(|(_, batch)| *batch).max()?;
    let at_batch: Vec<(u32, [f64; 3])> = means
        .iter()
        .filter(|((_, of), _)| *of == batch)
        .map(|((gpus, _), values)| (*gpus, *values))
        .collect();
    let [(fewest, first), .., (most, last)] = at_batch.as_slice() else {
        return None;
    };
    let (slower, faster) = (last[0] / first[0], last[2] / first[2]);
    (slower.is_finite() && faster.is_finite()).then(|| {
        format!(
            "{}: at batch size {}, going from {} to {} changes TTLT ×{} and output throughput ×{}.",
            scope_name(scope),
            numbers::count(batch),
            gpus_name(*fewest),
            gpus_name(*most),
            numbers::number(slower),
            numbers::number(faster)
        )
    })
}

fn by_gpus_panel(
    scope: &Scope,
    means: &ByGpus,
    counts: &[u32],
    at: usize,
    metric: &str,
    several: bool,
) -> Panel {
    let traces = counts.iter().enumerate().map(|(series, count)| Trace {
        series,
        dots: means
            .iter()
            .filter(|((gpus, _), values)| gpus == count && values[at].is_finite())
            .map(|((_, batch), values)| Dot {
                x: f64::from(*batch),
                y: values[at],
                ends: None,
            })
            .collect(),
        curve: Vec::new(),
    });
    Panel {
        alt: format!(
            "{} of {} along batch size, one line per number of GPUs.",
            sentence(&metric_heading(metric)),
            scope_name(scope)
        ),
        scene: Lines {
            title: metric_heading(metric),
            subtitle: several.then(|| scope_name(scope)),
            x_title: Factor::BatchSize.title().into(),
            traces: traces.collect(),
            spread: Spread::Whiskers,
            connected: true,
            top: None,
        }
        .draw(),
    }
}

/// Cost models against what was measured.
pub(super) fn cost_models(context: &Context<'_>) -> Figure {
    let mut figure = Figure {
        name: "cost-models",
        title: "Predicted against measured TTLT".into(),
        study: None,
        question: Question::Behaves,
        caption: String::new(),
        drawing: None,
        table: Table::new([
            "model",
            "GPUs",
            "data type",
            "combinations",
            "median error, held out",
            "largest error, held out",
            "predictions",
        ]),
    };
    let models = &context.analysis.cost_models;
    let fitted: Vec<(&CostModel, &Coefficients)> = models
        .iter()
        .filter_map(|model| Some((model, model.coefficients.as_ref()?)))
        .collect();
    if fitted.is_empty() {
        let reasons: BTreeSet<&str> = models
            .iter()
            .filter_map(|model| model.refused.as_deref())
            .collect();
        figure.caption = if reasons.is_empty() {
            "Not drawn: no cost model could be fitted.".into()
        } else {
            let reasons: Vec<&str> = reasons.into_iter().take(3).collect();
            format!("Not drawn: {}", reasons.join("; "))
        };
        figure.table = Table::default();
        return figure;
    }
    for (model, _) in &fitted {
        let error = |error: Option<f64>| {
            error.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::percent)
        };
        figure.table.push(vec![
            name(&model.model),
            gpus_name(model.gpus),
            name(&model.dtype),
            numbers::count(model.combinations),
            error(model.check.map(|check| check.median_error)),
            error(model.check.map(|check| check.max_error)),
            numbers::count(model.predictions.len() as u64),
        ]);
    }
    let mut names: Vec<&str> = fitted
        .iter()
        .map(|(model, _)| model.model.as_str())
        .collect();
    names.dedup();
    let mut kinds: Vec<(u32, &str)> = fitted
        .iter()
        .map(|(model, _)| (model.gpus, model.dtype.as_str()))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let dtypes: BTreeSet<&str> = kinds.iter().map(|(_, dtype)| *dtype).collect();
    kinds.truncate(super::palette::SERIES);
    let panels = names
        .iter()
        .take(4)
        .map(|model| cost_panel(context, model, &fitted, &kinds));
    figure.drawing = Some(Drawing {
        panels: panels.collect(),
        columns: names.len().min(2),
        legend: kinds
            .iter()
            .enumerate()
            .map(|(series, (gpus, dtype))| Key {
                label: if dtypes.len() > 1 {
                    format!("{}, {}", gpus_name(*gpus), name(dtype))
                } else {
                    gpus_name(*gpus)
                },
                series,
                kind: KeyKind::Point,
            })
            .collect(),
    });
    let checks = || fitted.iter().filter_map(|(model, _)| model.check);
    let most = |error: fn(&Check) -> f64| checks().map(|c| error(&c)).max_by(f64::total_cmp);
    let worst = most(|check| check.median_error).zip(most(|check| check.max_error));
    figure.caption = match worst {
        Some((median, largest)) => format!(
            "Each point is a measured combination; on the line, both agree. On combinations that were held out, the \
             median error is at most {}, the largest {}.",
            numbers::percent(median),
            numbers::percent(largest)
        ),
        None => "Each point is a measured combination that the model was fitted to; on the line, both agree. There \
                 are too few combinations to hold some out."
            .into(),
    };
    figure
}

fn cost_panel(
    context: &Context<'_>,
    of: &str,
    fitted: &[(&CostModel, &Coefficients)],
    kinds: &[(u32, &str)],
) -> Panel {
    let groups = kinds.iter().enumerate().filter_map(|(series, kind)| {
        let (_, coefficients) = fitted
            .iter()
            .find(|(model, _)| model.model == of && (model.gpus, model.dtype.as_str()) == *kind)?;
        let pairs = context
            .summary
            .combinations
            .iter()
            .filter(|c| c.levels.model == of && (c.levels.gpus, c.levels.dtype.as_str()) == *kind)
            .filter_map(|c| {
                let measured = c.metrics.get("ttltMs")?.mean;
                Some((measured, predicted(coefficients, &c.levels)))
            })
            .filter(|(x, y)| x.is_finite() && y.is_finite() && *y > 0.0);
        Some(Trace {
            series,
            dots: super::decisions::thinned(pairs.collect())
                .into_iter()
                .map(|(x, y)| Dot { x, y, ends: None })
                .collect(),
            curve: Vec::new(),
        })
    });
    Panel {
        alt: format!(
            "Scatter plot of predicted against measured TTLT of {}.",
            name(of)
        ),
        scene: Scatter {
            title: "predicted TTLT, ms".into(),
            subtitle: Some(name(of)),
            x_title: "measured TTLT, ms".into(),
            cloud: Vec::new(),
            front: Trace::default(),
            numbered: false,
            diagonal: true,
            groups: groups.collect(),
        }
        .draw(),
    }
}

/// TTLT after the cost model, ms.
fn predicted(of: &Coefficients, levels: &Levels) -> f64 {
    let (batch, input, output) = (
        f64::from(levels.batch_size),
        f64::from(levels.input_length),
        f64::from(levels.output_length),
    );
    of.fixed
        + of.step * output
        + of.input_token * input * batch
        + of.output_token * output * batch
        + of.context * output * batch * (input + output / 2.0)
}

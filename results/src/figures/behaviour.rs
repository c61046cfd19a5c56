//! Figures of how metrics behave along factors, one line per model: the published study's 4.1, 4.2, 4.3 and 4.5, and
//! fitted curves.

use std::collections::BTreeMap;

use super::{
    Drawing, Figure, KeyKind, Panel, Question, Table,
    lookup::{
        Context, change, chosen, curve, family_name, gpus_name, metric_heading, metric_title,
        metric_unit, points, scope_name, sentence,
    },
    panels::{Dot, Lines, Spread, Trace, columns},
};
use crate::{
    analysis::curves::{Curve, Family},
    numbers,
    sample::Factor,
};

/// The rows of the study's nine panels.
pub(super) const NINE: [&str; 3] = ["ttltMs", "normalizedLatencyMs", "outputThroughput"];
/// Its columns.
const LENGTHS: [Factor; 3] = [
    Factor::BATCH_SIZE,
    Factor::INPUT_LENGTH,
    Factor::OUTPUT_LENGTH,
];
/// The metrics whose curves are drawn.
const CURVED: [&str; 4] = ["ttftMs", "tpotMs", "ttltMs", "outputThroughput"];
const UTILIZATION: [&str; 2] = ["gpuUtilMeanPct", "gpuUtilMaxPct"];

/// The study's columns, and the numeric factors that the study did not have.
fn lengths_and_others(context: &Context<'_>) -> Vec<Factor> {
    let studied = |factor: &Factor| LENGTHS.contains(factor) || *factor == Factor::GPUS;
    let others = context
        .numeric()
        .into_iter()
        .filter(|factor| !studied(factor));
    LENGTHS.into_iter().chain(others).collect()
}

/// Study 4.1: metrics along batch size, input length, output length, and whatever else is a number.
pub(super) fn factors(context: &Context<'_>) -> Figure {
    let factors = lengths_and_others(context);
    let mut figure = along(
        context,
        Along {
            name: "factors",
            title: "Metrics along each factor",
            study: "4.1",
            factors: &factors,
            metrics: &NINE,
            drawn: Drawn::Means,
        },
    );
    if figure.drawing.is_some() {
        let sentences = context.models.iter().take(2).map(|scope| {
            let of = |metric: &str| {
                let changes: Vec<String> = factors
                    .iter()
                    .filter_map(|factor| {
                        let ratio = change(curve(scope, factor, metric)?)?;
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
            .chain([balance(context), left_out_factors(context, &factors)])
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
            factors: &[Factor::BATCH_SIZE],
            metrics: &UTILIZATION[..1],
            drawn: Drawn::Means,
        },
    );
    if figure.drawing.is_some() {
        figure.caption = utilization_caption(context, &Factor::BATCH_SIZE);
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
            factors: &[Factor::GPUS],
            metrics: &UTILIZATION,
            drawn: Drawn::Means,
        },
    );
    if figure.drawing.is_some() {
        figure.caption = utilization_caption(context, &Factor::GPUS);
    }
    figure
}

/// Study 4.5: the same as 4.1, with the spread over replicates.
pub(super) fn replicates(context: &Context<'_>) -> Figure {
    let factors = lengths_and_others(context);
    let mut figure = along(
        context,
        Along {
            name: "replicates",
            title: "Mean ± standard deviation over replicates",
            study: "4.5",
            factors: &factors,
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
        .filter(|curve| factors.contains(&curve.factor) && NINE.contains(&curve.metric.as_str()))
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
            factors: &context.numeric(),
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

/// The part of a curve that is drawn.
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
    let has = |factor: &Factor, metric: &str| {
        context.models.iter().any(|scope| {
            curve(scope, factor, metric)
                .is_some_and(|curve| of.drawn != Drawn::Curves || chosen(curve).is_some())
        })
    };
    let factors: Vec<&Factor> = of
        .factors
        .iter()
        .filter(|factor| of.metrics.iter().any(|metric| has(factor, metric)))
        .collect();
    let metrics: Vec<&str> = of
        .metrics
        .iter()
        .copied()
        .filter(|metric| of.factors.iter().any(|factor| has(factor, metric)))
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
            panels.push(panel(context, factor, metric, of.drawn));
        }
    }
    figure.table = table(context, &factors, &metrics, of.drawn);
    figure.drawing = Some(Drawing {
        panels,
        columns: columns(factors.len(), metrics.len()),
        legend: context.legend(match of.drawn {
            Drawn::Deviations => KeyKind::Band,
            _ => KeyKind::Line,
        }),
    });
    figure
}

fn panel(context: &Context<'_>, factor: &Factor, metric: &str, drawn: Drawn) -> Panel {
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

fn table(context: &Context<'_>, factors: &[&Factor], metrics: &[&str], drawn: Drawn) -> Table {
    let mut header = vec!["model".to_owned(), "factor".into(), "level".into()];
    header.extend(metrics.iter().map(|metric| metric_heading(metric)));
    let mut table = Table::new(header);
    for scope in &context.models {
        for factor in factors {
            let mut rows: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            for (at, metric) in metrics.iter().enumerate() {
                let found = curve(scope, factor, metric);
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
    } else if factors.iter().all(|factor| context.asked(factor).len() < 2) {
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

fn utilization_caption(context: &Context<'_>, factor: &Factor) -> String {
    let sentences: Vec<String> = context
        .models
        .iter()
        .take(3)
        .filter_map(|scope| {
            let curve = curve(scope, factor, UTILIZATION[0])?;
            let (first, last) = (points(curve).next()?, points(curve).last()?);
            let at = |level: f64| {
                if *factor == Factor::GPUS {
                    format!("on {}", gpus_name(level as u32))
                } else {
                    format!("at {} {}", factor.title(), numbers::tick(level))
                }
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

/// The combinations that means go over.
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
        .filter(|factor| !context.varies(factor))
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

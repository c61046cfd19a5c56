//! Figures of what to run.

use inferbench_crds::workload::Choice;

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    lookup::{
        Context, level_cells, level_columns, level_heading, metric_heading, metric_title,
        metric_unit, mix_name, name,
    },
    palette,
    panels::{Dot, Scatter, Trace},
};
use crate::{
    analysis::decisions::{Front, MixFront, mix_latency, mix_rate, on_gpus},
    best::workload,
    interval::Estimate,
    numbers::{self, NOT_AVAILABLE},
    sample::Levels,
};

/// A front: of the choices for a mix, or of the combinations of one workload.
struct Shown<'a> {
    model: &'a str,
    /// The mix; none of one workload.
    mix: Option<String>,
    rate: &'a str,
    latency: &'a str,
    points: Vec<Point<'a>>,
    /// Latency and rate of what is not on the front.
    others: Vec<(f64, f64)>,
}

struct Point<'a> {
    /// Of a mix, those of the choice alone.
    levels: &'a Levels,
    rate: Estimate,
    latency: Estimate,
    cost: Option<f64>,
    keeps: Option<bool>,
}

/// Throughput against latency: every choice, and those that nothing beats in both. Of each model for its mix, or for its
/// one workload; the fronts of single workloads of a mix are in the table.
pub(super) fn fronts(context: &Context<'_>) -> Figure {
    let title = "Throughput against latency";
    let decisions = &context.analysis.decisions;
    let all: Vec<&Front> = decisions
        .fronts
        .iter()
        .filter(|front| !front.points.is_empty())
        .collect();
    let mut models: Vec<&str> = all.iter().map(|front| front.model.as_str()).collect();
    models.dedup();
    let shown = &models[..models.len().min(palette::SERIES)];
    let mut drawn: Vec<(Shown<'_>, usize)> = Vec::new();
    for (series, model) in shown.iter().enumerate() {
        let mixed = decisions.mix_fronts.iter().filter(|of| of.model == *model);
        let mixed: Vec<Shown<'_>> = mixed.map(|front| of_mix(context, front)).collect();
        let fronts = if mixed.is_empty() {
            of_heaviest(context, &all, model)
        } else {
            mixed
        };
        drawn.extend(fronts.into_iter().map(|front| (front, series)));
    }
    if drawn.is_empty() {
        return Figure {
            name: "fronts",
            title: title.into(),
            study: None,
            question: Question::Decide,
            caption: "Not drawn: no combination has both a throughput and a latency.".into(),
            drawing: None,
            table: Table::default(),
        };
    }
    let mut legend: Vec<Key> = shown
        .iter()
        .enumerate()
        .map(|(series, model)| Key {
            label: format!("{}: none is better in both", name(model)),
            series,
            kind: KeyKind::Line,
        })
        .collect();
    legend.push(Key {
        label: if drawn.iter().any(|(front, _)| front.mix.is_some()) {
            "every other choice"
        } else {
            "every other combination"
        }
        .into(),
        series: 0,
        kind: KeyKind::Cloud,
    });
    // Those of single workloads stand below those that are drawn.
    let mut listed: Vec<&Shown<'_>> = drawn.iter().map(|(front, _)| front).collect();
    let single: Vec<Shown<'_>> = all
        .iter()
        .filter(|front| shown.contains(&front.model.as_str()))
        .map(|front| of_workload(front))
        .collect();
    listed.extend(single.iter().filter(|front| !is_among(front, &drawn)));
    Figure {
        name: "fronts",
        title: title.into(),
        study: None,
        question: Question::Decide,
        caption: caption(&drawn),
        drawing: Some(Drawing {
            columns: 2,
            legend,
            panels: drawn
                .iter()
                .map(|(front, series)| panel(front, *series, shown.len() > 1))
                .collect(),
        }),
        table: table(&listed),
    }
}

fn is_among(front: &Shown<'_>, drawn: &[(Shown<'_>, usize)]) -> bool {
    let first = |front: &Shown<'_>| front.points.first().map(|point| point.levels.clone());
    drawn.iter().any(|(other, _)| {
        other.mix.is_none() && other.latency == front.latency && first(other) == first(front)
    })
}

/// The fronts of a model's heaviest workload, of equals the first: all there is, where it has one workload.
fn of_heaviest<'a>(context: &Context<'a>, all: &[&'a Front], model: &str) -> Vec<Shown<'a>> {
    let objectives = &context.summary.objectives;
    let weight = |front: &Front| objectives.weight(&front.points[0].levels);
    let own = || all.iter().filter(|front| front.model == model);
    let heaviest = own().rev().max_by(|a, b| weight(a).total_cmp(&weight(b)));
    let Some(heaviest) = heaviest.map(|front| workload(&front.points[0].levels)) else {
        return Vec::new();
    };
    own()
        .filter(|front| workload(&front.points[0].levels) == heaviest)
        .map(|front| {
            let on_front = |levels: &Levels| front.points.iter().any(|of| of.levels == *levels);
            let combinations = context.summary.combinations.iter();
            let others = combinations
                .filter(|c| workload(&c.levels) == heaviest && !on_front(&c.levels))
                .filter_map(|c| {
                    let latency = c.metrics.get(&front.latency)?.mean;
                    let rate = c.metrics.get(&front.rate)?.mean;
                    Some((latency, rate)).filter(|(x, y)| x.is_finite() && y.is_finite())
                });
            Shown {
                others: others.collect(),
                ..of_workload(front)
            }
        })
        .collect()
}

fn of_workload(front: &Front) -> Shown<'_> {
    Shown {
        model: &front.model,
        mix: None,
        rate: &front.rate,
        latency: &front.latency,
        points: front
            .points
            .iter()
            .map(|point| Point {
                levels: &point.levels,
                rate: point.rate,
                latency: point.latency,
                cost: point.cost_per_million_output_tokens,
                keeps: point.keeps_objectives,
            })
            .collect(),
        others: Vec::new(),
    }
}

fn of_mix<'a>(context: &Context<'a>, front: &'a MixFront) -> Shown<'a> {
    let mix = context
        .summary
        .mixes
        .iter()
        .find(|of| of.model == front.model);
    let on_front = |choice: &Choice| front.points.iter().any(|point| point.choice == *choice);
    let per_gpu = mix.is_some_and(on_gpus);
    let choices = mix.into_iter().flat_map(|mix| &mix.choices);
    let others = choices
        .filter(|of| !on_front(&of.choice))
        .filter_map(|of| {
            let latency = mix_latency(of, &front.latency)?.mean;
            Some((latency, mix_rate(of, per_gpu).mean))
        })
        .filter(|(x, y)| x.is_finite() && y.is_finite());
    Shown {
        model: &front.model,
        mix: mix.map(mix_name),
        rate: &front.rate,
        latency: &front.latency,
        points: front
            .points
            .iter()
            .map(|point| Point {
                levels: point.choice.levels(),
                rate: point.rate,
                latency: point.latency,
                cost: point.cost_per_million_output_tokens,
                keeps: point.keeps_objectives,
            })
            .collect(),
        others: others.collect(),
    }
}

fn panel(front: &Shown<'_>, series: usize, several: bool) -> Panel {
    let dots = front.points.iter().map(|point| Dot {
        x: point.latency.mean,
        y: point.rate.mean,
        ends: None,
    });
    Panel {
        alt: format!(
            "Scatter plot of {} against {} for {}: {} of the {} form the front.",
            metric_title(front.rate),
            metric_title(front.latency),
            name(front.model),
            front.points.len(),
            if front.mix.is_some() {
                "choices"
            } else {
                "combinations"
            }
        ),
        scene: Scatter {
            title: metric_heading(front.rate),
            subtitle: several.then(|| name(front.model)),
            x_title: metric_heading(front.latency),
            cloud: thinned(front.others.clone()),
            front: Trace {
                series,
                dots: dots.collect(),
                curve: Vec::new(),
            },
            numbered: true,
            diagonal: false,
            groups: Vec::new(),
        }
        .draw(),
    }
}

/// At most 600 points, evenly chosen: more cannot be told apart and make the file large.
pub(super) fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(600).max(1);
    points.into_iter().step_by(every).collect()
}

fn caption(drawn: &[(Shown<'_>, usize)]) -> String {
    let sentences = drawn.iter().take(4).filter_map(|(front, _)| {
        let (first, last) = (front.points.first()?, front.points.last()?);
        let latency = metric_title(front.latency);
        let unit = metric_unit(front.latency);
        let rate = metric_unit(front.rate);
        let what = if front.mix.is_some() {
            "choice"
        } else {
            "combination"
        };
        Some(if front.points.len() == 1 {
            format!(
                "{}: one {what} is best in both {latency} and {}.",
                name(front.model),
                metric_title(front.rate)
            )
        } else {
            format!(
                "{}: from {} {latency} and {} to {} and {}, each step up in {} costs {latency}.",
                name(front.model),
                numbers::with_unit(first.latency.mean, unit),
                numbers::with_unit(first.rate.mean, rate),
                numbers::with_unit(last.latency.mean, unit),
                numbers::with_unit(last.rate.mean, rate),
                metric_title(front.rate)
            )
        })
    });
    let mut text: Vec<String> = Vec::new();
    let mut mixes: Vec<&str> = drawn
        .iter()
        .filter_map(|(of, _)| of.mix.as_deref())
        .collect();
    mixes.dedup();
    if let [mix] = mixes.as_slice() {
        text.push(format!("Over {mix}."));
    } else if !mixes.is_empty() {
        text.push("Over the mix of each model.".into());
    }
    text.extend(sentences);
    text.push("Numbers are those of the table.".into());
    text.join(" ")
}

fn table(fronts: &[&Shown<'_>]) -> Table {
    let points = || fronts.iter().flat_map(|front| &front.points);
    let priced = points().any(|point| point.cost.is_some());
    let limited = points().any(|point| point.keeps.is_some());
    let mixed = fronts.iter().any(|front| front.mix.is_some());
    let columns = level_columns(points().map(|point| point.levels));
    let mut header: Vec<String> = vec!["model".into()];
    if mixed {
        header.push("for".into());
    }
    header.extend(["front against", "no."].map(Into::into));
    header.extend(columns.iter().map(level_heading));
    header.extend(["latency, ms", "tokens/s", "rate"].map(Into::into));
    if priced {
        header.push("cost per million output tokens".into());
    }
    if limited {
        header.push("within objectives".into());
    }
    let mut table = Table::new(header);
    for front in fronts {
        for (at, point) in front.points.iter().enumerate() {
            let mut row = vec![name(front.model)];
            if mixed {
                row.push(front.mix.clone().unwrap_or_else(|| "one workload".into()));
            }
            row.push(metric_title(front.latency));
            row.push((at + 1).to_string());
            row.extend(level_cells(point.levels, &columns));
            row.push(numbers::estimate(&point.latency));
            row.push(numbers::estimate(&point.rate));
            row.push(metric_title(front.rate));
            if priced {
                row.push(numbers::optional(point.cost));
            }
            if limited {
                row.push(
                    match point.keeps {
                        Some(true) => "yes",
                        Some(false) => "no",
                        None => NOT_AVAILABLE,
                    }
                    .into(),
                );
            }
            table.push(row);
        }
    }
    table
}

//! Figures of what to run.

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    lookup::{
        Context, level_cells, level_columns, level_heading, metric_heading, metric_title,
        metric_unit, name,
    },
    panels::{Dot, Scatter, Trace},
};
use crate::{
    analysis::decisions::Front,
    numbers::{self, NOT_AVAILABLE},
    sample::{Levels, model},
};

/// Throughput against latency: every combination, and those that nothing beats in both.
pub(super) fn fronts(context: &Context<'_>) -> Figure {
    let title = "Throughput against latency";
    let fronts: Vec<&Front> = context
        .analysis
        .decisions
        .fronts
        .iter()
        .filter(|front| !front.points.is_empty())
        .collect();
    let mut models: Vec<&str> = fronts.iter().map(|front| front.model.as_str()).collect();
    models.dedup();
    let shown = &models[..models.len().min(super::palette::SERIES)];
    let series = |model: &str| shown.iter().position(|name| *name == model);
    let drawn: Vec<(&Front, usize)> = fronts
        .iter()
        .filter_map(|front| Some((*front, series(&front.model)?)))
        .collect();
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
        label: "every other combination".into(),
        series: 0,
        kind: KeyKind::Cloud,
    });
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
                .map(|(front, series)| panel(context, front, *series, shown.len() > 1))
                .collect(),
        }),
        table: table(&drawn),
    }
}

fn panel(context: &Context<'_>, front: &Front, series: usize, several: bool) -> Panel {
    let on_front = |levels: &Levels| front.points.iter().any(|point| point.levels == *levels);
    let cloud = context
        .summary
        .combinations
        .iter()
        .filter(|c| model(&c.levels) == front.model && !on_front(&c.levels))
        .filter_map(|c| {
            let latency = c.metrics.get(&front.latency)?.mean;
            let rate = c.metrics.get(&front.rate)?.mean;
            Some((latency, rate)).filter(|(x, y)| x.is_finite() && y.is_finite())
        });
    let dots = front.points.iter().map(|point| Dot {
        x: point.latency.mean,
        y: point.rate.mean,
        ends: None,
    });
    Panel {
        alt: format!(
            "Scatter plot of {} against {} for {}: {} of the combinations form the front.",
            metric_title(&front.rate),
            metric_title(&front.latency),
            name(&front.model),
            front.points.len()
        ),
        scene: Scatter {
            title: metric_heading(&front.rate),
            subtitle: several.then(|| name(&front.model)),
            x_title: metric_heading(&front.latency),
            cloud: thinned(cloud.collect()),
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

fn caption(drawn: &[(&Front, usize)]) -> String {
    let sentences = drawn.iter().take(4).filter_map(|(front, _)| {
        let (first, last) = (front.points.first()?, front.points.last()?);
        let latency = metric_title(&front.latency);
        let unit = metric_unit(&front.latency);
        let rate = metric_unit(&front.rate);
        Some(if front.points.len() == 1 {
            format!(
                "{}: one combination is best in both {latency} and {}.",
                name(&front.model),
                metric_title(&front.rate)
            )
        } else {
            format!(
                "{}: from {} {latency} and {} to {} and {}, each step up in {} costs {latency}.",
                name(&front.model),
                numbers::with_unit(first.latency.mean, unit),
                numbers::with_unit(first.rate.mean, rate),
                numbers::with_unit(last.latency.mean, unit),
                numbers::with_unit(last.rate.mean, rate),
                metric_title(&front.rate)
            )
        })
    });
    let mut text: Vec<String> = sentences.collect();
    text.push("Numbers are those of the table.".into());
    text.join(" ")
}

fn table(drawn: &[(&Front, usize)]) -> Table {
    let points = || drawn.iter().flat_map(|(front, _)| &front.points);
    let priced = points().any(|point| point.cost_per_million_output_tokens.is_some());
    let limited = points().any(|point| point.keeps_objectives.is_some());
    let columns = level_columns(points().map(|point| &point.levels));
    let mut header: Vec<String> = ["model", "front against", "no."].map(Into::into).into();
    header.extend(columns.iter().map(level_heading));
    header.extend(["latency, ms", "tokens/s", "rate"].map(Into::into));
    if priced {
        header.push("cost per million output tokens".into());
    }
    if limited {
        header.push("within objectives".into());
    }
    let mut table = Table::new(header);
    for (front, _) in drawn {
        for (at, point) in front.points.iter().enumerate() {
            let mut row = vec![
                name(&front.model),
                metric_title(&front.latency),
                (at + 1).to_string(),
            ];
            row.extend(level_cells(&point.levels, &columns));
            row.push(numbers::estimate(&point.latency));
            row.push(numbers::estimate(&point.rate));
            row.push(metric_title(&front.rate));
            if priced {
                row.push(numbers::optional(point.cost_per_million_output_tokens));
            }
            if limited {
                row.push(
                    match point.keeps_objectives {
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

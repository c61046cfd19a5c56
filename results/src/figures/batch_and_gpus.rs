//! The published study's figure 4.4: metrics along batch size, one line per number of GPUs.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    behaviour::NINE,
    lookup::{Context, gpus_name, metric_heading, scope_name, sentence},
    panels::{Dot, Lines, Spread, Trace},
};
use crate::{
    analysis::Scope,
    numbers,
    sample::{Factor, Levels, gpus, model},
};

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
        context.asked(&Factor::BATCH_SIZE).len(),
        context.asked(&Factor::GPUS).len(),
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
    let mut cells: Cells<(u32, u32), 3> = BTreeMap::new();
    for combination in &context.summary.combinations {
        let levels = &combination.levels;
        if scope.model.as_ref().is_some_and(|of| *of != model(levels)) {
            continue;
        }
        let values = NINE.map(|metric| combination.metrics.get(metric).map(|found| found.mean));
        if values.contains(&None) {
            continue;
        }
        let Some(batch) = levels.number(&Factor::BATCH_SIZE) else {
            continue;
        };
        let others = levels
            .clone()
            .without(&Factor::GPUS)
            .without(&Factor::BATCH_SIZE);
        cells
            .entry((gpus(levels), batch as u32))
            .or_default()
            .insert(others, values);
    }
    let means = means_of_shared(&cells);
    if means.is_empty() {
        return None;
    }
    let gpus: BTreeSet<u32> = cells.keys().map(|(gpus, _)| *gpus).collect();
    let batches: BTreeSet<u32> = cells.keys().map(|(_, batch)| *batch).collect();
    if gpus.len() < 2 || batches.len() < 2 {
        return None;
    }
    let known = means
        .into_iter()
        .filter_map(|(key, [a, b, c])| Some((key, [a?, b?, c?])));
    Some(known.collect())
}

/// The metrics of each cell of a figure, by the levels of the other factors.
pub(super) type Cells<K, const N: usize> = BTreeMap<K, BTreeMap<Levels, [Option<f64>; N]>>;

/// Means in each cell over the others that every cell has, so that cells differ in nothing else; empty where there are
/// none. A metric that one of these lacks in a cell has no mean there.
pub(super) fn means_of_shared<K: Ord + Clone, const N: usize>(
    cells: &Cells<K, N>,
) -> BTreeMap<K, [Option<f64>; N]> {
    let Some(first) = cells.values().next() else {
        return BTreeMap::new();
    };
    let mut shared: BTreeSet<&Levels> = first.keys().collect();
    for cell in cells.values() {
        shared.retain(|others| cell.contains_key(*others));
    }
    if shared.is_empty() {
        return BTreeMap::new();
    }
    let mean = |cell: &BTreeMap<Levels, [Option<f64>; N]>, at: usize| {
        let values = shared.iter().map(|others| cell.get(*others)?[at]);
        values.map(|value| Some(value? / shared.len() as f64)).sum()
    };
    cells
        .iter()
        .map(|(key, cell)| (key.clone(), std::array::from_fn(|at| mean(cell, at))))
        .collect()
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
    along_batch_size(scope, metric, "number of GPUs", traces.collect(), several)
}

/// A metric of a model along batch size, one line per what `each` names; the model has its name there where there are
/// `several`.
pub(super) fn along_batch_size(
    scope: &Scope,
    metric: &str,
    each: &str,
    traces: Vec<Trace>,
    several: bool,
) -> Panel {
    Panel {
        alt: format!(
            "{} of {} along batch size, one line per {each}.",
            sentence(&metric_heading(metric)),
            scope_name(scope)
        ),
        scene: Lines {
            title: metric_heading(metric),
            subtitle: several.then(|| scope_name(scope)),
            x_title: Factor::BATCH_SIZE.title().into(),
            traces,
            spread: Spread::Whiskers,
            connected: true,
            top: None,
        }
        .draw(),
    }
}

//! Figures by lengths: the best choice for each pair of them, and metrics along batch size at the shortest and longest.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{factor::Role, workload::Choice};

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    batch_and_gpus::{Cells, along_batch_size, means_of_shared},
    lookup::{
        Context, choice_in_words, in_words, level_in_words, metric_heading, name, scope_name,
        sentence,
    },
    palette,
    panels::{Dot, Heat, HeatCell, Trace, columns},
};
use crate::{
    analysis::Scope,
    best::workload,
    numbers,
    sample::{Factor, Level, Levels, model},
    summary::Best,
};

/// Panels at most.
const PANELS: usize = 4;
/// Lengths of a side beyond which a matrix would be wider than a page.
const SIDE: usize = 8;
/// The metrics along batch size.
const METRICS: [&str; 4] = [
    "outputThroughput",
    "ttftMs",
    "ttltMs",
    "normalizedLatencyMs",
];

/// Input and output length.
type Lengths = (Level, Level);

fn lengths(levels: &Levels) -> Option<Lengths> {
    let of = |factor| levels.get(&factor).cloned();
    Some((of(Factor::INPUT_LENGTH)?, of(Factor::OUTPUT_LENGTH)?))
}

fn without_lengths(levels: &Levels) -> Levels {
    levels
        .clone()
        .without(&Factor::INPUT_LENGTH)
        .without(&Factor::OUTPUT_LENGTH)
}

/// The best choice for each pair of lengths: a matrix for each model, and for each other part of the workload.
pub(super) fn best(context: &Context<'_>) -> Figure {
    let criterion = context.summary.decides();
    let mut figure = Figure {
        name: "best-by-lengths",
        title: format!("The best choice by lengths: {}", criterion.title()),
        study: None,
        question: Question::Decide,
        caption: String::new(),
        drawing: None,
        table: Table::default(),
    };
    let mut matrices: BTreeMap<Levels, BTreeMap<Lengths, &Best>> = BTreeMap::new();
    let all = context.summary.best.iter();
    for best in all.filter(|best| best.criterion == criterion) {
        if let Some(at) = lengths(&best.levels) {
            let of = without_lengths(&workload(&best.levels));
            matrices.entry(of).or_default().insert(at, best);
        }
    }
    matrices.retain(|_, cells| cells.len() > 1);
    if matrices.is_empty() {
        figure.caption = "Not drawn: no model was measured with two pairs of lengths.".into();
        return figure;
    }
    let asked = context.summary.asked();
    let choices: BTreeSet<Choice> = matrices
        .values()
        .flat_map(|cells| cells.values().map(|best| Choice::of(&best.levels)))
        .collect();
    let names = Names::new(&choices, &asked);
    figure.drawing = Some(Drawing {
        panels: matrices
            .iter()
            .take(PANELS)
            .map(|(of, cells)| matrix(of, cells, &names, &asked))
            .collect(),
        columns: 2,
        legend: Vec::new(),
    });
    let left_out = matrices.len().saturating_sub(PANELS);
    figure.caption = [
        names.caption(),
        "Tokens per second; the darker, the more, within a matrix.".into(),
        match left_out {
            0 => String::new(),
            more => format!("{more} more are in the table."),
        },
    ]
    .into_iter()
    .filter(|text| !text.is_empty())
    .collect::<Vec<_>>()
    .join(" ");
    figure.table = table(&matrices, &names, &asked);
    figure
}

/// The names of a figure's best choices in its cells.
struct Names<'a> {
    choices: Vec<&'a Choice>,
    /// The one factor that they differ in.
    differ_in: Option<Factor>,
    asked: &'a [Factor],
}

impl<'a> Names<'a> {
    fn new(choices: &'a BTreeSet<Choice>, asked: &'a [Factor]) -> Self {
        let choices: Vec<&Choice> = choices.iter().collect();
        let differs = |factor: &&Factor| {
            let levels: BTreeSet<Option<&Level>> = choices
                .iter()
                .map(|choice| choice.levels().shown(factor))
                .collect();
            factor.role() == Role::Choice && levels.len() > 1
        };
        let mut differing = asked.iter().filter(differs);
        let differ_in = differing.next().filter(|_| differing.next().is_none());
        Self {
            differ_in: differ_in.cloned(),
            choices,
            asked,
        }
    }

    /// Below a cell's value: nothing where all are the same, the level of the one factor, else a number.
    fn short(&self, choice: &Choice) -> String {
        if self.choices.len() < 2 {
            return String::new();
        }
        if let Some(factor) = &self.differ_in {
            let level = choice.levels().shown(factor);
            return level.map_or_else(String::new, |level| level_in_words(factor, level));
        }
        let at = self.choices.iter().position(|of| *of == choice);
        at.map_or_else(String::new, |at| format!("no. {}", at + 1))
    }

    fn caption(&self) -> String {
        match (self.choices.as_slice(), &self.differ_in) {
            ([one], _) => format!(
                "The same for all lengths: {}.",
                choice_in_words(one, self.asked)
            ),
            (_, Some(factor)) => format!("The best choices differ in {} alone.", factor.title()),
            (several, None) => {
                let named = several.iter().enumerate().take(8).map(|(at, choice)| {
                    format!("no. {} is {}", at + 1, choice_in_words(choice, self.asked))
                });
                let named: Vec<String> = named.collect();
                format!("{}.", sentence(&named.join("; ")))
            }
        }
    }
}

fn sides(cells: &BTreeMap<Lengths, &Best>) -> (Vec<Level>, Vec<Level>) {
    let (inputs, outputs): (BTreeSet<&Level>, BTreeSet<&Level>) =
        cells.keys().map(|(input, output)| (input, output)).unzip();
    let side = |levels: BTreeSet<&Level>| levels.into_iter().take(SIDE).cloned().collect();
    (side(inputs), side(outputs))
}

fn matrix(
    of: &Levels,
    cells: &BTreeMap<Lengths, &Best>,
    names: &Names<'_>,
    asked: &[Factor],
) -> Panel {
    let (inputs, outputs) = sides(cells);
    let most = cells
        .values()
        .map(|best| best.shown().output_throughput.mean)
        .filter(|rate| rate.is_finite())
        .fold(0.0, f64::max);
    let cell = |input: &Level, output: &Level| {
        let best = cells.get(&(input.clone(), output.clone()))?;
        let rate = best.shown().output_throughput.mean;
        rate.is_finite().then(|| HeatCell {
            strength: if most > 0.0 { rate / most } else { 0.0 },
            value: numbers::number(rate),
            below: names.short(&Choice::of(&best.levels)),
        })
    };
    let rest = in_words(of, asked);
    let title = if rest.is_empty() {
        name(model(of))
    } else {
        format!("{}, {rest}", name(model(of)))
    };
    Panel {
        alt: format!(
            "Matrix of the best output throughput of {title} for {} input and {} output lengths.",
            inputs.len(),
            outputs.len()
        ),
        scene: Heat {
            title,
            row_title: "input".into(),
            column_title: "output tokens".into(),
            rows: inputs.iter().map(ToString::to_string).collect(),
            columns: outputs.iter().map(ToString::to_string).collect(),
            cells: inputs
                .iter()
                .map(|input| outputs.iter().map(|output| cell(input, output)).collect())
                .collect(),
        }
        .draw(),
    }
}

fn table(
    matrices: &BTreeMap<Levels, BTreeMap<Lengths, &Best>>,
    names: &Names<'_>,
    asked: &[Factor],
) -> Table {
    let mut table = Table::new([
        "model",
        "for",
        "run it with",
        "in the figure",
        "output tokens/s",
        "others as good",
    ]);
    for best in matrices.values().flat_map(BTreeMap::values) {
        let choice = Choice::of(&best.levels);
        table.push(vec![
            name(model(&best.levels)),
            in_words(&workload(&best.levels), asked),
            choice_in_words(&choice, asked),
            names.short(&choice),
            numbers::estimate(best.shown().output_throughput),
            numbers::count(best.near_ties),
        ]);
    }
    table
}

/// Metrics along batch size at the shortest and the longest input and output: a panel for each metric and model.
pub(super) fn metrics(context: &Context<'_>) -> Figure {
    let mut figure = Figure {
        name: "metrics-by-batch-size-and-lengths",
        title: "Metrics by batch size at the shortest and longest lengths".into(),
        study: None,
        question: Question::Behaves,
        caption: String::new(),
        drawing: None,
        table: Table::default(),
    };
    let batches = context.asked(&Factor::BATCH_SIZE).len();
    let [inputs, outputs] =
        [Factor::INPUT_LENGTH, Factor::OUTPUT_LENGTH].map(|factor| context.asked(&factor));
    if batches < 2 || inputs.len() * outputs.len() < 2 {
        figure.caption = "Not drawn: it needs two batch sizes and two pairs of lengths.".into();
        return figure;
    }
    let mut corners: Vec<Lengths> = Vec::new();
    for input in [inputs.first(), inputs.last()].into_iter().flatten() {
        for output in [outputs.first(), outputs.last()].into_iter().flatten() {
            corners.push(((*input).clone(), (*output).clone()));
        }
    }
    corners.dedup();
    let mut header = vec!["model".to_owned(), "input".into(), "output".into()];
    header.push("batch size".into());
    header.extend(METRICS.iter().map(|metric| metric_heading(metric)));
    let mut table = Table::new(header);
    let mut found = Vec::new();
    for scope in context.models.iter().take(PANELS) {
        let means = by_lengths(context, scope);
        for ((at, batch), values) in &means {
            let mut row = vec![scope_name(scope), at.0.to_string(), at.1.to_string()];
            row.push(batch.to_string());
            row.extend(values.iter().map(|value| numbers::optional(*value)));
            table.push(row);
        }
        found.push((scope, means));
    }
    let several = found.len() > 1;
    let panels = METRICS.iter().enumerate().flat_map(|(at, metric)| {
        let corners = &corners;
        found
            .iter()
            .filter_map(move |(scope, means)| panel(scope, means, corners, at, metric, several))
    });
    let panels: Vec<Panel> = panels.collect();
    if panels.is_empty() {
        figure.caption =
            "Not drawn: nothing else was measured at every pair of lengths and batch size.".into();
        return figure;
    }
    figure.drawing = Some(Drawing {
        columns: columns(found.len(), panels.len()),
        panels,
        legend: corners
            .iter()
            .enumerate()
            .map(|(series, (input, output))| Key {
                label: format!("{input} input, {output} output tokens"),
                series: series % palette::SERIES,
                kind: KeyKind::Line,
            })
            .collect(),
    });
    figure.caption = format!(
        "Means go over the other factors’ levels that were measured in every cell. The table has every pair of lengths.{}",
        context.omission()
    );
    figure.table = table;
    figure
}

/// The metrics by lengths and batch size.
type ByLengths = BTreeMap<(Lengths, Level), [Option<f64>; METRICS.len()]>;

/// Means over the other factors' levels that were measured at every pair of lengths and batch size, so that lines
/// differ in these alone; empty where there are none.
fn by_lengths(context: &Context<'_>, scope: &Scope) -> ByLengths {
    let mut cells = Cells::<(Lengths, Level), { METRICS.len() }>::new();
    for combination in &context.summary.combinations {
        let levels = &combination.levels;
        if scope.model.as_ref().is_some_and(|of| *of != model(levels)) {
            continue;
        }
        let (Some(at), Some(batch)) = (lengths(levels), levels.shown(&Factor::BATCH_SIZE)) else {
            continue;
        };
        let values = METRICS.map(|metric| {
            let mean = combination.metrics.get(metric).map(|found| found.mean);
            mean.filter(|mean| mean.is_finite())
        });
        if values.iter().any(Option::is_some) {
            let others = without_lengths(levels).without(&Factor::BATCH_SIZE);
            let cell = cells.entry((at, batch.clone())).or_default();
            cell.insert(others, values);
        }
    }
    means_of_shared(&cells)
}

fn panel(
    scope: &Scope,
    means: &ByLengths,
    corners: &[Lengths],
    at: usize,
    metric: &str,
    several: bool,
) -> Option<Panel> {
    let traces: Vec<Trace> = corners
        .iter()
        .enumerate()
        .map(|(series, corner)| Trace {
            series: series % palette::SERIES,
            dots: means
                .iter()
                .filter(|((lengths, _), _)| lengths == corner)
                .filter_map(|((_, batch), values)| {
                    Some(Dot {
                        x: batch.number()?,
                        y: values[at]?,
                        ends: None,
                    })
                })
                .collect(),
            curve: Vec::new(),
        })
        .collect();
    if traces.iter().all(|trace| trace.dots.len() < 2) {
        return None;
    }
    Some(along_batch_size(
        scope,
        metric,
        "pair of lengths",
        traces,
        several,
    ))
}

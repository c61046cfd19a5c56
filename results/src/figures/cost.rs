//! Cost models against measurements.

use std::collections::BTreeSet;

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    lookup::{Context, level_columns, level_heading, level_in_words, name},
    panels::{Dot, Scatter, Trace},
};
use crate::{
    analysis::cost::{Check, Coefficients, CostModel, configuration},
    numbers,
    sample::{self, Factor, Level, Levels},
};

/// A level as the table of cost models has it: with words for GPUs.
fn configuration_cell(factor: &Factor, level: &Level) -> String {
    match factor {
        Factor::Parameter(_) => name(&level.to_string()),
        Factor::Builtin(_) => level_in_words(factor, level),
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
        table: Table::default(),
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
        return figure;
    }
    let columns = level_columns(fitted.iter().map(|(model, _)| &model.levels));
    let mut header = vec!["model".to_owned()];
    header.extend(columns.iter().map(level_heading));
    header.extend(
        [
            "combinations",
            "median error, held out",
            "largest error, held out",
            "predictions",
        ]
        .map(Into::into),
    );
    figure.table = Table::new(header);
    for (model, _) in &fitted {
        let error = |error: Option<f64>| {
            error.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::percent)
        };
        let mut row = vec![name(sample::model(&model.levels))];
        row.extend(columns.iter().map(|factor| {
            let level = model.levels.get(factor);
            level.map_or_else(String::new, |level| configuration_cell(factor, level))
        }));
        row.extend([
            numbers::count(model.combinations),
            error(model.check.map(|check| check.median_error)),
            error(model.check.map(|check| check.max_error)),
            numbers::count(model.predictions.len() as u64),
        ]);
        figure.table.push(row);
    }
    let names: BTreeSet<&str> = fitted
        .iter()
        .map(|(model, _)| sample::model(&model.levels))
        .collect();
    let kinds: BTreeSet<Levels> = fitted
        .iter()
        .map(|(model, _)| model.levels.clone().without(&Factor::MODEL))
        .collect();
    // The number of GPUs always, and what else they differ in.
    let differs = |factor: &Factor| {
        let levels: BTreeSet<_> = kinds.iter().map(|kind| kind.get(factor)).collect();
        *factor == Factor::GPUS || levels.len() > 1
    };
    let told: Vec<Factor> = columns.into_iter().filter(differs).collect();
    let kinds: Vec<Levels> = kinds.into_iter().take(super::palette::SERIES).collect();
    let label = |kind: &Levels| {
        let levels = told
            .iter()
            .filter_map(|factor| Some((factor, kind.get(factor)?)));
        let words = levels.map(|(factor, level)| level_in_words(factor, level));
        words.collect::<Vec<_>>().join(", ")
    };
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
            .map(|(series, kind)| Key {
                label: label(kind),
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
    kinds: &[Levels],
) -> Panel {
    let groups = kinds.iter().enumerate().filter_map(|(series, kind)| {
        let mut levels = kind.clone();
        levels.set(Factor::MODEL, Level::from(of));
        let (_, coefficients) = fitted.iter().find(|(model, _)| model.levels == levels)?;
        let pairs = context
            .summary
            .combinations
            .iter()
            .filter(|c| configuration(&c.levels) == levels)
            .filter_map(|c| {
                let measured = c.metrics.get("ttltMs")?.mean;
                Some((measured, coefficients.ttlt_ms(&c.levels)?))
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

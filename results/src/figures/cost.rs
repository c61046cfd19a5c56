//! Cost models against measurements.

use std::collections::BTreeSet;

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    lookup::{Context, gpus_name, name},
    panels::{Dot, Scatter, Trace},
};
use crate::{
    analysis::cost::{Check, Coefficients, CostModel},
    numbers,
    sample::Levels,
};

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

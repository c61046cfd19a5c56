//! Look-ups that figures and report share: scopes of models, series, curves, and names in text.

use std::collections::BTreeSet;

use super::{Key, KeyKind, palette, scene::printable};
use crate::{
    analysis::{
        Analysis, Scope,
        attribution::Effect,
        curves::{Curve, Family, Fit, Point},
    },
    interval::Interval,
    numbers,
    sample::{Factor, Level, Levels, Metric},
    summary::Summary,
};

/// Letters of a name that are shown at most.
const LONGEST_NAME: usize = 60;

/// The sweep that figures and report are made of.
pub(crate) struct Context<'a> {
    pub summary: &'a Summary,
    pub analysis: &'a Analysis,
    /// The scopes of single models, as many as can be told apart.
    pub models: Vec<&'a Scope>,
    /// Models that are left out of figures.
    pub left_out: usize,
}

/// The factors that are numbers, in the order of the columns of figures.
pub(crate) const NUMERIC: [Factor; 4] = [
    Factor::BatchSize,
    Factor::InputLength,
    Factor::OutputLength,
    Factor::Gpus,
];

impl<'a> Context<'a> {
    pub(crate) fn new(summary: &'a Summary, analysis: &'a Analysis) -> Self {
        let mut models: Vec<&Scope> = analysis
            .scopes
            .iter()
            .filter(|scope| scope.model.is_some())
            .collect();
        if models.is_empty() {
            models = analysis.scopes.iter().take(1).collect();
        }
        let left_out = models.len().saturating_sub(palette::SERIES);
        models.truncate(palette::SERIES);
        Self {
            summary,
            analysis,
            models,
            left_out,
        }
    }

    /// Whether anything ran on a GPU.
    pub(crate) fn on_gpus(&self) -> bool {
        self.summary.combinations.iter().any(|c| c.levels.gpus > 0)
    }

    /// One entry per model.
    pub(crate) fn legend(&self, kind: KeyKind) -> Vec<Key> {
        self.models
            .iter()
            .enumerate()
            .map(|(series, scope)| Key {
                label: scope_name(scope),
                series,
                kind,
            })
            .collect()
    }

    /// A sentence about the models that are left out; begins with a space.
    pub(crate) fn omission(&self) -> String {
        match self.left_out {
            0 => String::new(),
            1 => " One more model is in analysis.json only.".into(),
            n => format!(" {n} more models are in analysis.json only."),
        }
    }

    /// Whether a numeric factor has at least two levels in any scope.
    pub(crate) fn varies(&self, factor: Factor) -> bool {
        self.analysis
            .scopes
            .iter()
            .any(|scope| levels(scope, factor).len() > 1)
    }

    /// The levels of the factor in any combination of the sweep.
    pub(crate) fn asked(&self, factor: Factor) -> BTreeSet<Level> {
        self.summary
            .combinations
            .iter()
            .map(|c| factor.level(&c.levels))
            .collect()
    }
}

/// A name as it is shown: without control characters, and cut in its middle where it is very long, for names tend to
/// differ at their ends.
pub(crate) fn name(name: &str) -> String {
    let letters: Vec<char> = printable(name).chars().collect();
    if letters.len() <= LONGEST_NAME {
        return letters.into_iter().collect();
    }
    let half = LONGEST_NAME / 2;
    letters[..half]
        .iter()
        .chain(&['…'])
        .chain(&letters[letters.len() - half + 1..])
        .collect()
}

/// The model, or `all models`.
pub(crate) fn scope_name(scope: &Scope) -> String {
    scope.model.as_deref().map_or("all models".into(), name)
}

/// A combination but for its model in words: `batch size 8, 128 input and 64 output tokens, 2 GPUs, bf16`.
pub(crate) fn in_words(levels: &Levels) -> String {
    format!(
        "batch size {}, {} input and {} output tokens, {}, {}",
        numbers::count(levels.batch_size),
        numbers::count(levels.input_length),
        numbers::count(levels.output_length),
        gpus_name(levels.gpus),
        name(&levels.dtype)
    )
}

/// Cells for batch size, input and output length, GPUs and data type.
pub(crate) fn levels_cells(levels: &Levels) -> [String; 5] {
    [
        numbers::count(levels.batch_size),
        numbers::count(levels.input_length),
        numbers::count(levels.output_length),
        if levels.gpus == 0 {
            "CPU".into()
        } else {
            levels.gpus.to_string()
        },
        name(&levels.dtype),
    ]
}

/// `CPU`, `1 GPU`, `2 GPUs`.
pub(crate) fn gpus_name(gpus: u32) -> String {
    match gpus {
        0 => "CPU".into(),
        gpus => numbers::counted(gpus, "GPU"),
    }
}

/// The ratio that stands for an effect: per doubling, else of the last level to the first, with what it is.
pub(crate) fn effect_headline(effect: &Effect, scope: &Scope) -> Option<(String, Interval)> {
    let usable = |ratio: &Interval| ratio.value.is_finite() && ratio.value > 0.0;
    if let Some(ratio) = effect.per_doubling.filter(usable) {
        return Some((effect.factor.title().into(), ratio));
    }
    let first = levels(scope, effect.factor).first();
    let last = effect.ratios.last().filter(|last| usable(&last.ratio))?;
    let first = first.map_or_else(|| "first".into(), |level| name(&level.to_string()));
    let last_level = name(&last.level.to_string());
    Some((format!("{first} → {last_level}"), last.ratio))
}

/// The fit of the chosen family.
pub(crate) fn chosen(curve: &Curve) -> Option<&Fit> {
    let family = curve.chosen?;
    curve.fits.iter().find(|fit| fit.family == family)
}

/// A family in words.
pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::Constant => "constant",
        Family::Inverse => "inverse",
        Family::Linear => "linear",
        Family::Power => "power",
    }
}

/// The levels of a factor in a scope.
pub(crate) fn levels(scope: &Scope, factor: Factor) -> &[Level] {
    scope
        .factors
        .iter()
        .find(|of| of.factor == factor)
        .map_or(&[], |of| &of.levels)
}

/// A metric along a factor, where there are at least two points.
pub(crate) fn curve<'a>(scope: &'a Scope, factor: Factor, metric: &str) -> Option<&'a Curve> {
    scope
        .curves
        .iter()
        .find(|curve| curve.factor == factor && curve.metric == metric && points(curve).count() > 1)
}

/// The points that can be drawn.
pub(crate) fn points(curve: &Curve) -> impl Iterator<Item = &Point> {
    curve
        .points
        .iter()
        .filter(|point| point.level.is_finite() && point.mean.value.is_finite())
}

/// By what factor a metric changes from the lowest level to the highest.
pub(crate) fn change(curve: &Curve) -> Option<f64> {
    let first = points(curve).next()?.mean.value;
    let last = points(curve).last()?.mean.value;
    Some(last / first).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
}

/// A metric's name in text.
pub(crate) fn metric_title(name: &str) -> String {
    Metric::named(name).map_or_else(|| name.to_owned(), |metric| metric.title.to_owned())
}

/// A metric's name in text with its unit: `TTFT, ms`.
pub(crate) fn metric_heading(name: &str) -> String {
    match Metric::named(name) {
        Some(metric) if !metric.unit.is_empty() => format!("{}, {}", metric.title, metric.unit),
        _ => metric_title(name),
    }
}

/// A metric's unit.
pub(crate) fn metric_unit(name: &str) -> &'static str {
    Metric::named(name).map_or("", |metric| metric.unit)
}

/// How a factor or a metric is called in text, given its name in documents.
pub(crate) fn variable_title(name: &str) -> String {
    Factor::ALL
        .into_iter()
        .find(|factor| factor.name() == name)
        .map_or_else(|| metric_title(name), |factor| factor.title().to_owned())
}

/// With a capital at its beginning.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

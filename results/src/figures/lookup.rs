//! Look-ups that figures and report share: scopes of models, series, curves, and names in text.

use std::collections::BTreeSet;

use inferbench_crds::{factor::Kind, workload::Choice};

use super::{Key, KeyKind, palette, scene::printable};
use crate::{
    analysis::{
        Analysis, Scope,
        attribution::Effect,
        curves::{Curve, CurvePoint, Family, Fit},
    },
    best::{
        mix::{Mix, Weights},
        workload,
    },
    interval::Interval,
    numbers,
    sample::{Factor, Level, Levels, Metric, factors, gpus},
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
        self.summary
            .combinations
            .iter()
            .any(|c| gpus(&c.levels) > 0)
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
    pub(crate) fn varies(&self, factor: &Factor) -> bool {
        self.analysis
            .scopes
            .iter()
            .any(|scope| levels(scope, factor).len() > 1)
    }

    /// The levels of the factor in any combination of the sweep.
    pub(crate) fn asked(&self, factor: &Factor) -> BTreeSet<&Level> {
        self.summary
            .combinations
            .iter()
            .filter_map(|c| c.levels.get(factor))
            .collect()
    }

    /// The factors of the sweep that are numbers, in their order.
    pub(crate) fn numeric(&self) -> Vec<Factor> {
        let all = self.summary.asked();
        all.into_iter()
            .filter(|factor| factor.kind(self.asked(factor)) == Kind::Number)
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

/// A combination but for its model in words: `batch size 8, 128 input and 64 output tokens, 2 GPUs, bf16`. Of the factors
/// `asked` for: where some combination of a sweep is served by another engine than the implied one, each names its own.
pub(crate) fn in_words(levels: &Levels, asked: &[Factor]) -> String {
    let lengths =
        [Factor::INPUT_LENGTH, Factor::OUTPUT_LENGTH].map(|factor| levels.number(&factor));
    let known = asked
        .iter()
        .filter_map(|factor| Some((factor, levels.shown(factor)?)));
    let parts = known.filter_map(|(factor, level)| match factor {
        of if *of == Factor::MODEL => None,
        of if *of == Factor::INPUT_LENGTH => {
            let [input, output] =
                lengths.map(|length| numbers::count(length.unwrap_or_default() as u64));
            Some(format!("{input} input and {output} output tokens"))
        }
        // Said with the input.
        of if *of == Factor::OUTPUT_LENGTH && lengths[0].is_some() => None,
        _ => Some(level_in_words(factor, level)),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// The levels of a combination's or a choice's workload factors but for the model, in words.
pub(crate) fn workload_in_words(levels: &Levels, asked: &[Factor]) -> String {
    in_words(&workload(levels), asked)
}

/// The levels that somebody chooses of a combination, in words.
pub(crate) fn choice_in_words(choice: &Choice, asked: &[Factor]) -> String {
    match in_words(choice.levels(), asked) {
        words if words.is_empty() => "nothing to choose".into(),
        words => words,
    }
}

/// A mix in words: `all 36 workloads alike`, `the mix of 3 workloads`.
pub(crate) fn mix_name(mix: &Mix) -> String {
    let workloads = numbers::counted(mix.workloads.len() as u64, "workload");
    match mix.weights {
        Weights::Alike if mix.workloads.len() == 2 => "both workloads alike".into(),
        Weights::Alike => format!("all {workloads} alike"),
        Weights::Given => format!("the mix of {workloads}"),
    }
}

/// A level in words: `batch size 8`, `2 GPUs`, `bf16`, `slots 64`.
pub(crate) fn level_in_words(factor: &Factor, level: &Level) -> String {
    match (factor, level) {
        (of, Level::Number(gpus)) if *of == Factor::GPUS => gpus_name(gpus.get() as u32),
        (Factor::Builtin(_), Level::Text(level)) => name(level),
        _ => format!("{} {}", factor.title(), level_cell(factor, level)),
    }
}

/// The factors but for the model that tables of these combinations have columns for.
pub(crate) fn level_columns<'a>(levels: impl IntoIterator<Item = &'a Levels>) -> Vec<Factor> {
    let mut found = factors(levels);
    found.retain(|factor| *factor != Factor::MODEL);
    found
}

/// The heading of a factor's column.
pub(crate) fn level_heading(factor: &Factor) -> String {
    let title = factor.title();
    title.strip_suffix(" length").unwrap_or(title).into()
}

/// The cells of these factors.
pub(crate) fn level_cells<'a>(
    levels: &'a Levels,
    columns: &'a [Factor],
) -> impl Iterator<Item = String> + 'a {
    columns.iter().map(|factor| {
        let level = levels.shown(factor);
        level.map_or_else(String::new, |level| level_cell(factor, level))
    })
}

fn level_cell(factor: &Factor, level: &Level) -> String {
    match level {
        Level::Number(number) if *factor == Factor::GPUS => match number.get() as u32 {
            0 => "CPU".into(),
            gpus => gpus.to_string(),
        },
        Level::Number(number) if number.get().fract() == 0.0 && number.get() >= 0.0 => {
            numbers::count(number.get() as u64)
        }
        other => name(&other.to_string()),
    }
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
    let first = levels(scope, &effect.factor).first();
    let last = effect.ratios.last().filter(|last| usable(&last.ratio))?;
    let first = first.map_or_else(|| "first".into(), |level| name(&level.to_string()));
    let last_level = name(&last.level.to_string());
    let compared = match effect.factor {
        Factor::Builtin(_) => format!("{first} → {last_level}"),
        // Its levels alone do not say whose they are.
        Factor::Parameter(_) => format!("{}: {first} → {last_level}", effect.factor.title()),
    };
    Some((compared, last.ratio))
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
pub(crate) fn levels<'a>(scope: &'a Scope, factor: &Factor) -> &'a [Level] {
    scope
        .factors
        .iter()
        .find(|of| of.factor == *factor)
        .map_or(&[], |of| &of.levels)
}

/// A metric along a factor, where there are at least two points.
pub(crate) fn curve<'a>(scope: &'a Scope, factor: &Factor, metric: &str) -> Option<&'a Curve> {
    scope.curves.iter().find(|curve| {
        curve.factor == *factor && curve.metric == metric && points(curve).count() > 1
    })
}

/// The points that can be drawn.
pub(crate) fn points(curve: &Curve) -> impl Iterator<Item = &CurvePoint> {
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
    Metric::named(name).map_or_else(
        || Factor::named(name).title().to_owned(),
        |metric| metric.title.to_owned(),
    )
}

/// With a capital at its beginning.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::factors;

    fn levels(engine: &str) -> Levels {
        Levels::new([
            (Factor::ENGINE, Level::from(engine)),
            (Factor::MODEL, Level::from("gpt2")),
            (Factor::BATCH_SIZE, Level::from(4)),
            (Factor::INPUT_LENGTH, Level::from(16)),
            (Factor::OUTPUT_LENGTH, Level::from(8)),
            (Factor::GPUS, Level::from(0)),
            (Factor::DTYPE, Level::from("f32")),
        ])
    }

    #[test]
    fn the_implied_engine_is_named_where_there_is_another() {
        let (candle, llama) = (levels("candle"), levels("llama"));
        let alone = factors([&candle]);
        assert_eq!(
            in_words(&candle, &alone),
            "batch size 4, 16 input and 8 output tokens, CPU, f32"
        );
        let several = factors([&candle, &llama]);
        assert_eq!(
            choice_in_words(&Choice::of(&candle), &several),
            "candle, batch size 4, CPU, f32"
        );
        assert_eq!(
            choice_in_words(&Choice::of(&llama), &several),
            "llama, batch size 4, CPU, f32"
        );
        assert_eq!(
            workload_in_words(&candle, &several),
            "16 input and 8 output tokens"
        );
    }
}

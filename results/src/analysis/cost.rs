//! The cost of an iteration: a model of its time that is linear in its work, for combinations that were not run.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use inferbench_crds::{factor::Number, splitmix::SplitMix64};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{
    grid::mean,
    least_squares::{Normal, non_negative},
};
use crate::{
    interval::magnitude,
    sample::{Combination, Factor, Level, Levels, Metric},
};

/// TTLT = a + b·out + c·in·batch + d·out·batch + e·out·batch·(in + out/2), coefficients not negative, relative errors
/// squared; for one level of every other factor.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CostModel {
    /// The levels of all factors but batch size, input and output length.
    #[serde(flatten)]
    #[schemars(with = "Configuration")]
    pub levels: Levels,
    /// Combinations fitted to.
    pub combinations: u32,
    /// The coefficients; absent where `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coefficients: Option<Coefficients>,
    /// How well it predicts combinations that it was not fitted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Combinations that were not measured.
    pub predictions: Vec<CostPrediction>,
    /// Why there is no model, or no prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The schema of the levels of some factors.
struct Configuration;

impl JsonSchema for Configuration {
    fn schema_name() -> Cow<'static, str> {
        "Configuration".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Levels::json_schema(generator);
        schema.remove("required");
        schema.insert(
            "description".into(),
            "The levels of all factors but batch size, input and output length.".into(),
        );
        schema
    }
}

/// The coefficients, in ms.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Coefficients {
    /// `a`: once.
    pub fixed: f64,
    /// `b`: per output token, whatever the batch: reading the weights.
    pub step: f64,
    /// `c`: per input token of each sequence.
    pub input_token: f64,
    /// `d`: per output token of each sequence.
    pub output_token: f64,
    /// `e`: per output token of each sequence and token of context.
    pub context: f64,
}

/// How well a model predicts what it was not fitted to: cross-validation over combinations.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Parts that were held out in turn.
    pub folds: u32,
    /// Median of |predicted − measured|/measured over the held-out combinations.
    pub median_error: f64,
    /// The largest one.
    pub max_error: f64,
}

/// The predicted times of a combination that was not measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Prediction")]
pub struct CostPrediction {
    /// Its levels.
    #[serde(flatten)]
    pub levels: Levels,
    /// Whether it lies beyond the measured levels rather than among them.
    pub beyond: bool,
    /// Predicted time to last token, ms.
    pub ttlt_ms: f64,
    /// Predicted output tokens per second.
    pub output_throughput: f64,
}

/// The factors that a cost model computes with: batch size, input and output length.
static COMPUTED: [Factor; 3] = [
    Factor::BATCH_SIZE,
    Factor::INPUT_LENGTH,
    Factor::OUTPUT_LENGTH,
];
/// Fewer combinations than this do not check a model of five coefficients.
const MIN_COMBINATIONS: usize = 10;
/// Parts held out in turn.
const FOLDS: usize = 5;
/// A model whose median error is larger predicts nothing.
const MAX_MEDIAN_ERROR: f64 = 0.2;
/// Predictions per model, at most.
const MAX_PREDICTIONS: usize = 50;

/// A measured combination: the work of its iteration, and its time.
struct Timed<'a> {
    levels: &'a Levels,
    terms: [f64; 5],
    ttlt_ms: f64,
}

/// A cost model for every level of the factors that it does not compute with. `combinations` are all of the design,
/// measured or not.
pub(super) fn model(combinations: &[Combination<'_>]) -> Vec<CostModel> {
    let mut groups: BTreeMap<Levels, Vec<&Combination<'_>>> = BTreeMap::new();
    // Requests that come one by one share the engine with others: their times are no batch's.
    let batches = combinations.iter().filter(|c| !c.levels.of_requests());
    for combination in batches {
        groups
            .entry(configuration(&combination.levels))
            .or_default()
            .push(combination);
    }
    groups
        .into_iter()
        .filter_map(|(levels, combinations)| of_group(levels, &combinations))
        .collect()
}

/// The levels of all factors that a cost model does not compute with.
#[must_use]
pub fn configuration(levels: &Levels) -> Levels {
    let levels = levels.clone();
    COMPUTED.iter().fold(levels, Levels::without)
}

fn of_group(levels: Levels, combinations: &[&Combination<'_>]) -> Option<CostModel> {
    let ttlt = Metric::named("ttltMs")?;
    let measured: Vec<Timed<'_>> = combinations
        .iter()
        .filter_map(|combination| {
            let times = combination.observe(ttlt).into_iter().map(|of| of.value);
            let ttlt_ms = mean(times).filter(|time| *time > 0.0)?;
            Some(Timed {
                levels: &combination.levels,
                terms: terms(&combination.levels)?,
                ttlt_ms,
            })
        })
        .collect();
    if measured.is_empty() {
        return None;
    }
    let mut model = CostModel {
        levels,
        combinations: measured.len() as u32,
        coefficients: None,
        check: None,
        predictions: Vec::new(),
        refused: None,
    };
    if measured.len() < MIN_COMBINATIONS {
        model.refused = Some(format!(
            "{} measured combinations are too few for a model of five coefficients ({MIN_COMBINATIONS} are needed)",
            measured.len()
        ));
        return Some(model);
    }
    let every: Vec<&Timed<'_>> = measured.iter().collect();
    let [fixed, step, input_token, output_token, context] = solve(&every);
    model.coefficients = Some(Coefficients {
        fixed,
        step,
        input_token,
        output_token,
        context,
    });
    let check = validate(&measured);
    model.check = Some(check);
    if check.median_error > MAX_MEDIAN_ERROR {
        model.refused = Some(format!(
            "combinations that were held out are predicted {:.0} % off in the median (at most {:.0} %): no predictions",
            100.0 * check.median_error,
            100.0 * MAX_MEDIAN_ERROR
        ));
        return Some(model);
    }
    let coefficients = [fixed, step, input_token, output_token, context];
    model.predictions = unmeasured(combinations, &measured)
        .into_iter()
        .filter_map(|(levels, beyond)| {
            let terms = terms(&levels)?;
            let ttlt_ms = predict(&coefficients, &terms);
            // Its fourth term counts the batch's output tokens.
            let tokens = terms[3];
            let output_throughput = tokens / ttlt_ms * 1e3;
            (ttlt_ms > 0.0 && output_throughput.is_finite()).then_some(CostPrediction {
                levels,
                beyond,
                ttlt_ms,
                output_throughput,
            })
        })
        .collect();
    Some(model)
}

/// The work of an iteration, as the coefficients count it; `None` where a level is missing.
fn terms(levels: &Levels) -> Option<[f64; 5]> {
    let [batch, input, output] = COMPUTED.each_ref().map(|factor| levels.number(factor));
    let (batch, input, output) = (batch?, input?, output?);
    Some([
        1.0,
        output,
        input * batch,
        output * batch,
        output * batch * (input + output / 2.0),
    ])
}

impl Coefficients {
    /// TTLT of a combination, ms; `None` where a level is missing.
    #[must_use]
    pub fn ttlt_ms(&self, levels: &Levels) -> Option<f64> {
        let coefficients = [
            self.fixed,
            self.step,
            self.input_token,
            self.output_token,
            self.context,
        ];
        Some(predict(&coefficients, &terms(levels)?))
    }
}

fn predict(coefficients: &[f64; 5], terms: &[f64; 5]) -> f64 {
    coefficients.iter().zip(terms).map(|(c, t)| c * t).sum()
}

/// Non-negative least squares of relative errors. Columns are scaled to 1 at most, for the sake of rounding.
fn solve(measured: &[&Timed<'_>]) -> [f64; 5] {
    let unit = magnitude(measured.iter().map(|one| one.ttlt_ms));
    let mut most = [0.0_f64; 5];
    for one in measured {
        for (most, term) in most.iter_mut().zip(&one.terms) {
            *most = most.max(term / (one.ttlt_ms / unit));
        }
    }
    let mut normal = Normal::new(5);
    for one in measured {
        let row: Vec<(usize, f64)> = (0..5)
            .filter(|i| most[*i] > 0.0)
            .map(|i| (i, one.terms[i] / (one.ttlt_ms / unit) / most[i]))
            .collect();
        normal.add(&row, 1.0);
    }
    let scaled = non_negative(&normal);
    std::array::from_fn(|i| {
        if most[i] > 0.0 {
            scaled[i] / most[i] * unit
        } else {
            0.0
        }
    })
}

fn validate(measured: &[Timed<'_>]) -> Check {
    let mut order: Vec<usize> = (0..measured.len()).collect();
    SplitMix64::new(0x5eed_c057).shuffle(&mut order);
    let mut errors = Vec::new();
    for fold in 0..FOLDS {
        let held_out = |position: usize| position % FOLDS == fold;
        let part = |of: bool| {
            order
                .iter()
                .enumerate()
                .filter(move |(position, _)| held_out(*position) == of)
                .map(|(_, at)| &measured[*at])
        };
        let coefficients = solve(&part(false).collect::<Vec<_>>());
        errors.extend(
            part(true).map(|one| (predict(&coefficients, &one.terms) / one.ttlt_ms - 1.0).abs()),
        );
    }
    errors.sort_by(f64::total_cmp);
    let middle = errors.len() / 2;
    let median = if errors.len() % 2 == 1 {
        errors[middle]
    } else {
        (errors[middle - 1] + errors[middle]) / 2.0
    };
    Check {
        folds: FOLDS as u32,
        median_error: median,
        max_error: errors.last().copied().unwrap_or_default(),
    }
}

/// Combinations to predict: those of the grid that the design left out, then from the one of the highest throughput a
/// doubling of each length and of the batch beyond the highest level. Combinations that were tried and cannot run are
/// left out.
fn unmeasured(combinations: &[&Combination<'_>], measured: &[Timed<'_>]) -> Vec<(Levels, bool)> {
    let designed: BTreeSet<&Levels> = combinations.iter().map(|c| &c.levels).collect();
    let axes: [BTreeSet<&Level>; 3] = COMPUTED.each_ref().map(|factor| {
        let levels = measured.iter().map(|one| one.levels.get(factor));
        levels.flatten().collect()
    });
    let Some(first) = measured.first() else {
        return Vec::new();
    };
    let with = |base: &Levels, factor: &Factor, level: Level| {
        let mut levels = base.clone();
        levels.set(factor.clone(), level);
        levels
    };
    let axes: [Vec<&Level>; 3] = axes.map(|axis| axis.into_iter().collect());
    let size: usize = axes.iter().map(Vec::len).product();
    // The last factor counts fastest.
    let nth = |nth: usize| {
        let (mut rest, mut levels) = (nth, first.levels.clone());
        for (factor, axis) in COMPUTED.iter().zip(&axes).rev() {
            levels.set(factor.clone(), axis[rest % axis.len()].clone());
            rest /= axis.len();
        }
        levels
    };
    let left_out = (0..size)
        .map(nth)
        .filter(|levels| !designed.contains(levels));
    let mut found: Vec<(Levels, bool)> = left_out
        .take(MAX_PREDICTIONS)
        .map(|levels| (levels, false))
        .collect();
    let rate = |one: &Timed<'_>| one.terms[3] / one.ttlt_ms;
    let fastest = measured.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)));
    for (factor, axis) in COMPUTED.iter().zip(&axes) {
        let highest = axis.last().and_then(|level| level.number());
        let doubled = highest.and_then(|highest| Number::new(2.0 * highest));
        if let Some((fastest, doubled)) = fastest.zip(doubled) {
            found.push((with(fastest.levels, factor, Level::Number(doubled)), true));
        }
    }
    found
}

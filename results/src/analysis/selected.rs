//! The analysis of a selected design: effects by the model that was declared, how well it fits, and what it predicts of
//! the combinations that were not measured.
//!
//! The logarithm of a metric is fitted by least squares to the means of the combinations, blocks taken out. An interval
//! has two parts. The variation between blocks, and with them starts of the engine, comes from the same contrast in
//! each block: blocks − 1 degrees of freedom. The error of the model comes from how far the means lie from it, beyond
//! the variation between replicates: combinations − terms degrees of freedom.

mod contrasts;
mod fitted;

use std::collections::BTreeMap;

use inferbench_crds::{
    design::Expansion,
    factor::{Axis, Levels},
    select::{Method, Model, Select},
    selection::{Coding, Confounded, Term},
    spec::Design,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::fitted::Fitted;
use super::Analysis;
use crate::{
    interval::Interval,
    row::Row,
    sample::{Metric, is_invalid, latest_attempts, whole_blocks},
};

/// A selected design: what was declared, and what was seen.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Selected {
    /// The declared selection.
    pub declared: Select,
    /// Combinations that there were to choose from.
    pub candidates: u32,
    /// Chosen combinations that have a valid trial.
    pub measured: u32,
    /// Terms of the declared model, the mean included.
    pub terms: u32,
    /// The D-efficiency of the choice; 1 is the most that any design can have.
    pub efficiency: f64,
    /// Terms that the choice cannot tell from each other: no effect is reported of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliased: Vec<Vec<Term>>,
    /// Effects that the model leaves out and that, if there are any, enter one of its terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confounded: Vec<Confounded>,
    /// The model of each metric.
    pub fits: Vec<ModelFit>,
    /// Predictions of combinations that were not measured: those of the highest output throughput and of the lowest time
    /// to first token.
    pub predictions: Vec<ModelPrediction>,
}

/// The declared model, fitted to the logarithm of a metric.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelFit {
    /// The metric.
    pub metric: String,
    /// Combinations that have it.
    pub combinations: u32,
    /// Terms that these can tell, the mean included.
    pub terms: u32,
    /// The share of the variance of the combinations' means that the model explains.
    pub r2: f64,
    /// Standard deviation of the means' logarithms around the model; absent where there are no more combinations than
    /// terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
    /// Whether the model lacks something; absent without replicates, or without combinations to spare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack_of_fit: Option<LackOfFit>,
    /// Terms that the measured combinations cannot tell from others: no effect is reported of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliased: Vec<Term>,
}

/// The variance of the means around the model against that of replicates.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LackOfFit {
    /// The ratio of both.
    pub f: f64,
    /// Degrees of freedom of the means.
    pub of_model: u32,
    /// Degrees of freedom of the replicates.
    pub of_replicates: u32,
    /// The probability of as large a ratio where the model lacks nothing.
    pub p: f64,
}

/// The declared model's prediction of a combination that was not measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Prediction")]
pub struct ModelPrediction {
    /// Its levels.
    #[serde(flatten)]
    pub levels: Levels,
    /// Its geometric mean over blocks, by metric, with 95% intervals that contain what the model lacks.
    pub metrics: BTreeMap<String, Interval>,
}

/// The metrics that are predicted.
const PREDICTED: [&str; 4] = ["outputThroughput", "ttftMs", "ttltMs", "tpotMs"];
/// Predictions that are listed of each kind.
const LISTED: usize = 20;

/// The sweep of a selected design, to be fitted metric after metric.
pub(super) struct Selection<'a> {
    expansion: Expansion,
    select: Select,
    coding: Coding,
    /// All that could have been chosen, as digits along the axes.
    candidates: Vec<(u32, Vec<usize>)>,
    /// The valid trials of each measured combination, by its index.
    trials: BTreeMap<u32, Vec<&'a Row>>,
}

impl<'a> Selection<'a> {
    /// The selection of a design; `None` where it selects nothing.
    pub fn new(rows: &'a [Row], design: &Design) -> Option<Self> {
        let select = design.select?;
        let expansion = Expansion::new(design);
        expansion.selection()?;
        let whole = Expansion::new(&Design {
            select: None,
            replicates: 1,
            ..design.clone()
        });
        let axes = expansion.axes();
        let candidates: Vec<(u32, Vec<usize>)> = (0..whole.combinations_before_exclusion())
            .filter(|index| !whole.is_excluded(*index))
            .map(|index| (index, digits(axes, index)))
            .collect();
        let coding = Coding::new(
            axes,
            candidates.iter().map(|(_, digits)| digits.clone()),
            select.model,
        );
        let combinations = whole.combinations_before_exclusion().max(1);
        let mut trials: BTreeMap<u32, Vec<&Row>> = BTreeMap::new();
        for row in whole_blocks(&latest_attempts(rows)) {
            if row.valid == Some(true) && !is_invalid(row) {
                trials
                    .entry(row.trial_index % combinations)
                    .or_default()
                    .push(row);
            }
        }
        Some(Self {
            expansion,
            select,
            coding,
            candidates,
            trials,
        })
    }

    /// The declared model of a metric; `None` where it was measured nowhere or is not positive.
    pub fn fit(&self, metric: &Metric) -> Option<Fitted> {
        let mut cells: Vec<(u32, BTreeMap<u32, f64>)> = Vec::new();
        for (index, rows) in &self.trials {
            let mut by_block: BTreeMap<u32, f64> = BTreeMap::new();
            for row in rows {
                if let Some(value) = metric.value(row) {
                    let log = Some(value.ln()).filter(|log| log.is_finite())?;
                    by_block.insert(row.replicate, log);
                }
            }
            if !by_block.is_empty() {
                cells.push((*index, by_block));
            }
        }
        Fitted::new(&self.coding, self.expansion.axes(), &cells)
    }

    /// Whether a combination was not measured.
    fn is_open(&self, index: u32) -> bool {
        !self.trials.contains_key(&index)
    }

    /// The geometric mean of a metric that the model predicts of a combination.
    pub fn predict(&self, fitted: &Fitted, digits: &[usize]) -> Option<Interval> {
        let mut row = Vec::new();
        self.coding.row(digits, &mut row);
        fitted.predict(&row)?.map(f64::exp)
    }

    fn predictions(&self, fits: &BTreeMap<&'static str, Fitted>) -> Vec<ModelPrediction> {
        let mut row = Vec::new();
        let mut listed: BTreeMap<u32, &Vec<usize>> = BTreeMap::new();
        for (metric, sign) in [("outputThroughput", 1.0), ("ttftMs", -1.0)] {
            let Some(fitted) = fits.get(metric) else {
                continue;
            };
            let mut open: Vec<(f64, u32, &Vec<usize>)> = self
                .candidates
                .iter()
                .filter(|(index, _)| self.is_open(*index))
                .map(|(index, digits)| {
                    self.coding.row(digits, &mut row);
                    (sign * fitted.value(&row), *index, digits)
                })
                .collect();
            open.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            listed.extend(
                open.into_iter()
                    .take(LISTED)
                    .map(|(_, index, digits)| (index, digits)),
            );
        }
        let axes = self.expansion.axes();
        let of = |digits: &Vec<usize>| {
            let levels = axes
                .iter()
                .enumerate()
                .filter(|(at, _)| self.takes(*at, digits));
            Levels::new(
                levels.map(|(at, axis)| (axis.factor.clone(), axis.levels[digits[at]].clone())),
            )
        };
        listed
            .into_values()
            .map(|digits| ModelPrediction {
                levels: of(digits),
                metrics: PREDICTED
                    .iter()
                    .filter_map(|metric| {
                        Some((
                            (*metric).to_owned(),
                            self.predict(fits.get(metric)?, digits)?,
                        ))
                    })
                    .collect(),
            })
            .filter(|prediction| !prediction.metrics.is_empty())
            .collect()
    }

    /// Puts the declared model's effects in the place of the grid's, and says what was declared and seen.
    pub fn describe(&self, analysis: &mut Analysis) {
        let mut fits: BTreeMap<&'static str, Fitted> = BTreeMap::new();
        for scope in &mut analysis.scopes {
            let contrasts = self.all_contrasts(scope.model.as_deref());
            for of in &mut scope.attribution {
                let Some(metric) = Metric::named(&of.metric) else {
                    continue;
                };
                if !fits.contains_key(metric.name) {
                    let Some(fitted) = self.fit(metric) else {
                        of.effects.clear();
                        continue;
                    };
                    fits.insert(metric.name, fitted);
                }
                let fitted = &fits[metric.name];
                of.effects = contrasts
                    .iter()
                    .map(|contrasts| self.effect(contrasts, fitted))
                    .filter(|effect| effect.per_doubling.is_some() || !effect.ratios.is_empty())
                    .collect();
                of.effects.sort_by(|a, b| a.factor.cmp(&b.factor));
            }
        }
        let Some(selection) = self.expansion.selection() else {
            return;
        };
        analysis
            .notes
            .retain(|note| !note.starts_with("Combinations are missing"));
        analysis.notes.insert(
            0,
            format!(
                "{} of {} combinations were selected ({}) for the model {}: effects are that model's, averaged over all \
                 combinations; shares and curves go over the measured ones.",
                selection.chosen.len(),
                selection.candidates,
                self.select.method,
                self.select.model
            ),
        );
        if let (Model::MainEffects, Some(found)) = (self.select.model, selection.confounded.first())
        {
            analysis.notes.insert(
                1,
                format!(
                    "The model has no interactions: {} of {} would be taken for an effect of {}.",
                    crate::numbers::percent(found.share.min(1.0)),
                    found.with,
                    found.term
                ),
            );
        }
        let described: Vec<ModelFit> = fits
            .iter()
            .map(|(metric, fitted)| fitted.describe(metric, &self.coding))
            .collect();
        analysis
            .notes
            .extend(lacking(&described, self.select.method));
        analysis.selected = Some(Selected {
            declared: self.select,
            candidates: selection.candidates,
            measured: self.trials.len() as u32,
            terms: selection.terms,
            efficiency: selection.efficiency,
            aliased: selection.aliased.clone(),
            confounded: selection.confounded.clone(),
            predictions: self.predictions(&fits),
            fits: described,
        });
    }
}

/// Below this probability a model is said to lack something.
const LACKING: f64 = 0.01;

/// A sentence about metrics of which the model lacks something. The residual around a model that is wrong is no chance:
/// simulated, the intervals of a D-optimal choice then miss the mean over all combinations as a rule, and those of a
/// choice that is spread hold it in about nine of ten sweeps.
fn lacking(fits: &[ModelFit], method: Method) -> Option<String> {
    let lacks = fits
        .iter()
        .filter(|fit| fit.lack_of_fit.is_some_and(|lack| lack.p < LACKING));
    let titles: Vec<&str> = lacks
        .filter_map(|fit| Some(Metric::named(&fit.metric)?.title))
        .collect();
    if titles.is_empty() {
        return None;
    }
    Some(format!(
        "The declared model lacks something of {} (lack of fit, p < {LACKING}): {}",
        crate::numbers::listed(&titles),
        match method {
            Method::DOptimal =>
                "a D-optimal choice stands at the ends of the levels, and its effects are not to be trusted beyond a rough \
                 size. A larger model, or a choice that is spread (Sobol, LatinHypercube), mends it.",
            _ => "effects are averages over the levels, and a single combination may be off.",
        }
    ))
}

fn digits(axes: &[Axis], index: u32) -> Vec<usize> {
    let mut rest = index as usize;
    let mut digits = vec![0; axes.len()];
    for (digit, axis) in digits.iter_mut().zip(axes).rev() {
        *digit = rest % axis.levels.len();
        rest /= axis.levels.len();
    }
    digits
}

#[cfg(test)]
mod tests;

//! The analysis of a selected design: effects by the model that was declared, how well it fits, and what it predicts of
//! the combinations that were not measured.
//!
//! The logarithm of a metric is fitted by least squares to the means of the combinations, blocks taken out. An interval
//! has two parts. The variation between blocks, and with them starts of the engine, comes from the same contrast in
//! each block: blocks − 1 degrees of freedom. The error of the model comes from how far the means lie from it, beyond
//! the variation between replicates: combinations − terms degrees of freedom.

use std::collections::BTreeMap;

use inferbench_crds::{
    design::Expansion,
    factor::{self, Axis, Kind, Levels},
    select::{Method, Model, Select},
    selection::{Coding, Confounded, Term, algebra::dot},
    spec::Design,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Analysis,
    attribution::{Against, Effect, Evidence, LevelRatio},
    grid::mean,
    least_squares::{Inverse, invert},
};
use crate::{
    interval::{Interval, f_probability, t_quantile},
    row::Row,
    sample::{Factor, Metric, is_invalid, latest_attempts, whole_blocks},
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
/// Below this a contrast has no part in what cannot be told.
const PART: f64 = 1e-6;

/// The contrasts of a factor: a level's position and its row of the model.
type Contrasts = Vec<(usize, Vec<f64>)>;

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

    /// The contrasts of a factor's effect: averaged over all that could have been chosen, or over those with these
    /// levels.
    fn contrasts(&self, axis: usize, within: Option<(usize, usize)>) -> Vec<(usize, Vec<f64>)> {
        let axes = self.expansion.axes();
        let mut sums: BTreeMap<usize, (Vec<f64>, f64)> = BTreeMap::new();
        let mut row = Vec::new();
        let engine = axes.iter().position(|axis| axis.factor == Factor::ENGINE);
        for (_, digits) in self.every() {
            if within.is_some_and(|(at, digit)| digits[at] != digit) || !self.takes(axis, &digits) {
                continue;
            }
            let mut moved = digits.clone();
            for level in 0..axes[axis].levels.len() {
                moved[axis] = level;
                // A factor that one engine alone takes is no part of the engines' effects on each other.
                if engine != Some(axis) && !self.takes(axis, &moved) {
                    continue;
                }
                self.coding.row(&moved, &mut row);
                let (sum, count) = sums
                    .entry(level)
                    .or_insert_with(|| (vec![0.0; row.len()], 0.0));
                sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
                *count += 1.0;
            }
        }
        sums.into_iter()
            .map(|(level, (sum, count))| (level, sum.into_iter().map(|sum| sum / count).collect()))
            .collect()
    }

    /// Digits of all combinations, those that differ in a parameter which the engine does not take each by itself: so
    /// engines are compared over all levels of what some of them take.
    fn every(&self) -> impl Iterator<Item = (u32, Vec<usize>)> {
        let axes = self.expansion.axes();
        let known: std::collections::BTreeSet<u32> =
            self.candidates.iter().map(|(index, _)| *index).collect();
        (0..self.expansion.combinations_before_exclusion()).filter_map(move |index| {
            let own = digits(axes, index);
            let mut taken = own.clone();
            for (at, digit) in taken.iter_mut().enumerate() {
                if !self.takes(at, &own) {
                    *digit = 0;
                }
            }
            known
                .contains(&index_of(axes, &taken))
                .then_some((index, own))
        })
    }

    fn takes(&self, axis: usize, digits: &[usize]) -> bool {
        let axes = self.expansion.axes();
        let Some(engines) = &axes[axis].engines else {
            return true;
        };
        let engine = axes.iter().position(|axis| axis.factor == Factor::ENGINE);
        engine.is_some_and(|at| match axes[at].levels.get(digits[at]) {
            Some(factor::Level::Text(name)) => engines.iter().any(|engine| **engine == **name),
            _ => false,
        })
    }

    /// The contrasts of every factor that varies.
    fn all_contrasts(&self, model: Option<&str>) -> Vec<(usize, Kind, Contrasts)> {
        let axes = self.expansion.axes();
        let of_model = |name: &str| {
            let at = axes.iter().position(|axis| axis.factor == Factor::MODEL)?;
            let digit = axes[at]
                .levels
                .iter()
                .position(|level| *level == factor::Level::from(name))?;
            Some((at, digit))
        };
        let within = model.and_then(of_model);
        self.coding
            .varies()
            .into_iter()
            .filter(|(at, _)| within.is_none_or(|(model, _)| *at != model))
            .map(|(at, kind)| (at, kind, self.contrasts(at, within)))
            .collect()
    }

    fn effect(
        &self,
        (at, kind, levels): &(usize, Kind, Vec<(usize, Vec<f64>)>),
        fitted: &Fitted,
    ) -> Effect {
        let axis = &self.expansion.axes()[*at];
        let number = |level: usize| axis.levels[level].number().unwrap_or_default();
        let mut sorted: Vec<&(usize, Vec<f64>)> = levels.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| axis.levels[*a].cmp(&axis.levels[*b]));
        let mut degrees = f64::INFINITY;
        let mut judge = |contrast: &[f64]| {
            let (interval, of) = fitted.contrast(contrast)?;
            degrees = degrees.min(of);
            interval.map(f64::exp)
        };
        let doubles = *kind == Kind::Number && sorted.iter().all(|(level, _)| number(*level) > 0.0);
        let per_doubling = doubles.then(|| {
            let x: Vec<f64> = sorted
                .iter()
                .map(|(level, _)| number(*level).log2())
                .collect();
            let centre = mean(x.iter().copied()).unwrap_or_default();
            let squares: f64 = x.iter().map(|x| (x - centre).powi(2)).sum();
            let mut slope = vec![0.0; self.coding.columns()];
            for (x, (_, row)) in x.iter().zip(&sorted) {
                let weight = (x - centre) / squares;
                slope
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += weight * x);
            }
            judge(&slope)
        });
        let per_doubling = per_doubling.flatten();
        let mut ratios = Vec::new();
        if let Some(((_, first), others)) = sorted.split_first() {
            for (level, row) in others {
                let contrast: Vec<f64> =
                    row.iter().zip(first).map(|(x, first)| x - first).collect();
                if let Some(ratio) = judge(&contrast) {
                    let level = axis.levels[*level].clone();
                    ratios.push(LevelRatio { level, ratio });
                }
            }
        }
        Effect {
            factor: axis.factor.clone(),
            per_doubling,
            ratios,
            evidence: Evidence {
                against: match axis.scope {
                    factor::Scope::Start => Against::Starts,
                    factor::Scope::Load => Against::Trials,
                },
                blocks: fitted.blocks.len() as u32,
                degrees: if degrees.is_finite() {
                    degrees as u32
                } else {
                    0
                },
                starts: self.starts(*at),
            },
        }
    }

    /// Starts of the engine at the level that has the fewest.
    fn starts(&self, axis: usize) -> Option<u32> {
        let axes = self.expansion.axes();
        let mut starts: BTreeMap<usize, std::collections::BTreeSet<&str>> = BTreeMap::new();
        for (index, rows) in &self.trials {
            let digits = digits(axes, *index);
            if self.takes(axis, &digits) {
                for row in rows {
                    let of_level = starts.entry(digits[axis]).or_default();
                    of_level.insert(row.process_id.as_deref()?);
                }
            }
        }
        starts.values().map(|starts| starts.len() as u32).min()
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

fn index_of(axes: &[Axis], digits: &[usize]) -> u32 {
    let pairs = axes.iter().zip(digits);
    pairs.fold(0, |index, (axis, digit)| {
        index * axis.levels.len() as u32 + *digit as u32
    })
}

/// A model fitted to one metric's logarithms.
#[derive(Clone, Debug)]
pub(super) struct Fitted {
    inverse: Inverse,
    coefficients: Vec<f64>,
    /// The coefficients of each block; one where there is one block.
    blocks: Vec<Vec<f64>>,
    combinations: usize,
    r2: f64,
    /// The variance of the means around the model.
    residual: Option<f64>,
    /// That of the means by replicates alone, and its degrees of freedom.
    replicates: Option<(f64, f64)>,
}

/// Rounds in which combinations' means and blocks' effects are made to agree where trials are missing.
const ROUNDS: usize = 20;

impl Fitted {
    /// Of combinations, each with its logarithms by block.
    fn new(coding: &Coding, axes: &[Axis], cells: &[(u32, BTreeMap<u32, f64>)]) -> Option<Self> {
        if cells.is_empty() {
            return None;
        }
        let p = coding.columns();
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(cells.len());
        let mut gram = vec![0.0; p * p];
        for (index, _) in cells {
            let mut row = Vec::with_capacity(p);
            coding.row(&digits(axes, *index), &mut row);
            for (line, x) in gram
                .chunks_exact_mut(p)
                .zip(&row)
                .filter(|(_, x)| **x != 0.0)
            {
                line.iter_mut()
                    .zip(&row)
                    .for_each(|(sum, other)| *sum += x * other);
            }
            rows.push(row);
        }
        let inverse = invert(gram, p);
        let mut known: Vec<u32> = cells
            .iter()
            .flat_map(|(_, by_block)| by_block.keys().copied())
            .collect();
        known.sort_unstable();
        known.dedup();
        let mut means: Vec<f64> = vec![0.0; cells.len()];
        let mut effects: BTreeMap<u32, f64> = known.iter().map(|block| (*block, 0.0)).collect();
        for _ in 0..ROUNDS {
            for (mean, (_, by_block)) in means.iter_mut().zip(cells) {
                let sum: f64 = by_block
                    .iter()
                    .map(|(block, log)| log - effects[block])
                    .sum();
                *mean = sum / by_block.len() as f64;
            }
            for (block, effect) in &mut effects {
                let of = cells.iter().zip(&means);
                let logs = of.filter_map(|((_, by_block), mean)| Some(by_block.get(block)? - mean));
                *effect = mean(logs).unwrap_or_default();
            }
        }
        let centre = mean(means.iter().copied())?;
        let solve = |y: &dyn Fn(usize) -> f64| {
            let mut target = vec![0.0; p];
            for (at, row) in rows.iter().enumerate() {
                let y = y(at);
                target
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += x * y);
            }
            inverse.times(&target)
        };
        let coefficients = solve(&|at| means[at]);
        let total: f64 = means.iter().map(|mean| (mean - centre).powi(2)).sum();
        let errors = rows
            .iter()
            .zip(&means)
            .map(|(row, mean)| (mean - dot(row, &coefficients)).powi(2));
        let squares: f64 = errors.sum();
        let spare = cells.len().saturating_sub(inverse.rank());
        let blocks = if known.len() > 1 {
            let of_block = |block: &u32| {
                solve(&|at| {
                    let own = cells[at].1.get(block);
                    own.copied().unwrap_or_else(|| means[at] + effects[block])
                })
            };
            known.iter().map(of_block).collect()
        } else {
            vec![coefficients.clone()]
        };
        let trials: usize = cells.iter().map(|(_, by_block)| by_block.len()).sum();
        let degrees = trials as f64 - cells.len() as f64 - (known.len() as f64 - 1.0);
        let pure: f64 = cells
            .iter()
            .zip(&means)
            .flat_map(|((_, by_block), mean)| {
                by_block.iter().map(move |(block, log)| (block, log - mean))
            })
            .map(|(block, deviation)| (deviation - effects[block]).powi(2))
            .sum();
        // The variance of a mean over its replicates, averaged over the combinations.
        let of_mean = mean(
            cells
                .iter()
                .map(|(_, by_block)| 1.0 / by_block.len() as f64),
        )?;
        Some(Self {
            inverse,
            coefficients,
            blocks,
            combinations: cells.len(),
            r2: if total > 0.0 {
                1.0 - squares / total
            } else {
                1.0
            },
            residual: (spare > 0).then(|| squares / spare as f64),
            replicates: (degrees >= 1.0).then(|| (pure / degrees * of_mean, degrees)),
        })
    }

    fn spare(&self) -> f64 {
        self.combinations.saturating_sub(self.inverse.rank()) as f64
    }

    fn value(&self, row: &[f64]) -> f64 {
        dot(row, &self.coefficients)
    }

    /// The variance that the model lacks, beyond what replicates differ by.
    fn lacking(&self) -> f64 {
        let by_replicates = self.replicates.map_or(0.0, |(variance, _)| variance);
        self.residual
            .map_or(0.0, |residual| (residual - by_replicates).max(0.0))
    }

    /// A linear function of the coefficients with its interval and degrees of freedom; `None` where the combinations
    /// cannot tell it.
    fn contrast(&self, contrast: &[f64]) -> Option<(Interval, f64)> {
        self.judge(contrast, 0.0)
    }

    /// The mean of a combination that was not measured: what the model lacks of it is in the interval.
    fn predict(&self, row: &[f64]) -> Option<Interval> {
        Some(self.judge(row, 1.0)?.0)
    }

    fn judge(&self, contrast: &[f64], own: f64) -> Option<(Interval, f64)> {
        if !self.inverse.tells(contrast, PART) {
            return None;
        }
        let value = self.value(contrast);
        let leverage = dot(contrast, &self.inverse.times(contrast)) + own;
        let lacking = leverage * self.lacking();
        let known = self.blocks.len() as f64;
        // Without a second block, what the means lie from the model by is all that there is.
        let between = if self.blocks.len() > 1 {
            let of_blocks: Vec<f64> = self
                .blocks
                .iter()
                .map(|block| dot(contrast, block))
                .collect();
            let centre = mean(of_blocks.iter().copied())?;
            of_blocks
                .iter()
                .map(|of| (of - centre).powi(2))
                .sum::<f64>()
                / (known - 1.0)
                / known
        } else {
            0.0
        };
        // Each part with its own t: what is covered is then never less than it says (Banerjee, *On confidence interval for
        // two-means problem based on separate estimates of variances and tabulated values of t-table*, 1961). One t for
        // both by Satterthwaite's degrees of freedom covers too little with few blocks: by chance these differ little,
        // and what is left of the other part, which may be nothing but noise, has many degrees.
        let part = |variance: f64, degrees: f64| match variance > 0.0 {
            true => t_quantile(degrees).powi(2) * variance,
            false => 0.0,
        };
        let half = (part(lacking, self.spare()) + part(between, known - 1.0)).sqrt();
        let unknown = self.blocks.len() < 2 && self.residual.is_none();
        let degrees = if self.blocks.len() > 1 {
            known - 1.0
        } else {
            self.spare()
        };
        let end = |end: f64| Some(end).filter(|end| end.is_finite() && !unknown);
        let interval = Interval {
            value,
            low: end(value - half),
            high: end(value + half),
        };
        value.is_finite().then_some((interval, degrees))
    }

    fn describe(&self, metric: &str, coding: &Coding) -> ModelFit {
        let lack_of_fit = match (self.residual, self.replicates) {
            (Some(residual), Some((replicates, degrees))) if replicates > 0.0 => {
                let f = residual / replicates;
                f_probability(f, self.spare(), degrees).map(|p| LackOfFit {
                    f,
                    of_model: self.spare() as u32,
                    of_replicates: degrees as u32,
                    p,
                })
            }
            _ => None,
        };
        let unit = |column: usize| {
            let mut unit = vec![0.0; coding.columns()];
            unit[column] = 1.0;
            unit
        };
        let terms = coding.terms().iter().enumerate();
        let aliased = terms
            .filter(|(at, _)| {
                let mut columns = coding.columns_of(*at);
                columns.any(|column| !self.inverse.tells(&unit(column), PART))
            })
            .map(|(_, term)| term.clone())
            .collect();
        ModelFit {
            metric: metric.into(),
            combinations: self.combinations as u32,
            terms: self.inverse.rank() as u32,
            r2: self.r2,
            residual: self.residual.map(f64::sqrt),
            lack_of_fit,
            aliased,
        }
    }
}

#[cfg(test)]
mod tests;

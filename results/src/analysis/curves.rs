//! How a metric behaves along a numeric factor: four families of curves under one loss.
//!
//! A design has four to eight levels of a factor, so that a criterion for few points, as AICc is, asks two parameters for
//! a fit that is many times closer: of five levels it takes the power x^0.54 for a constant in 69 of 100 sweeps whose
//! levels are each 10 % off it. Instead, one parameter more has to pay by an F test against what the curve leaves over at
//! the levels (`choose`). That residual holds both the differences between blocks and whatever no curve of these
//! families says, so that the rate of errors is as said whatever the curve is like and however many replicates there
//! are; a difference that a block or a start has as a whole is a factor of all levels, and falls out of relative
//! errors.

mod choose;
mod fit;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::choose::{as_good, choose, exponent};
pub use self::fit::fit;
use super::grid::{Axis, Grid, mean};
use crate::{
    interval::{Interval, Observation, estimate},
    sample::{Factor, Metric},
};

/// A metric along a numeric factor, averaged over the balanced part of the grid.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Curve {
    /// The factor.
    pub factor: Factor,
    /// The metric.
    pub metric: String,
    /// The metric at each level.
    pub points: Vec<CurvePoint>,
    /// Combinations behind each point.
    pub combinations: u32,
    /// The families that could be fitted.
    pub fits: Vec<Fit>,
    /// The simplest family that no other is shown to fit better, the closest of those; absent where there are too few
    /// levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Family>,
    /// Families that may describe it as well as the chosen one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_good: Vec<Family>,
    /// The power family's exponent, with a bootstrap interval over replicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exponent: Option<Interval>,
    /// Why no family was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A metric at one level.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Point")]
pub struct CurvePoint {
    /// The level.
    pub level: f64,
    /// The mean over combinations, with a t-interval over blocks.
    pub mean: Interval,
    /// Standard deviation of the block means; absent with one block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    /// The chosen family's relative residual, (mean − fit)/mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
}

/// A family of curves.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// y = a
    Constant,
    /// y = k/x
    Inverse,
    /// y = a + b·x
    Linear,
    /// y = a·xⁿ
    Power,
}

/// A family fitted to the points, relative errors squared.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Fit {
    /// The family.
    pub family: Family,
    /// `a`, or `k` of the inverse.
    pub scale: f64,
    /// `b` of the linear, `n` of the power family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slope: Option<f64>,
    /// Root mean square of the relative residuals.
    pub relative_rmse: f64,
    /// R² of the plain values; negative where the fit is worse than their mean. Absent where they do not vary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// Of a family of one parameter: the probability that the best one of two would fit so much better by chance, by an F
    /// test against what that leaves over, times the families of two that contain it (Bonferroni).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

impl Fit {
    /// The curve at `x`.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        let slope = self.slope.unwrap_or_default();
        match self.family {
            Family::Constant => self.scale,
            Family::Inverse => self.scale / x,
            Family::Linear => self.scale + slope * x,
            Family::Power => self.scale * x.powf(slope),
        }
    }
}

/// The metrics that are followed along the factors.
pub const FOLLOWED: [&str; 15] = [
    "ttftMs",
    "ttltMs",
    "tpotMs",
    "outputThroughput",
    "normalizedLatencyMs",
    "capacityRate",
    "capacityConcurrency",
    "gpuUtilMeanPct",
    "gpuUtilMaxPct",
    "gpuDramActiveMeanPct",
    "gpuTensorActiveMeanPct",
    "gpuMemPeakMib",
    "perplexity",
    "repetitionRate",
    "promptSimilarity",
];

/// With fewer levels the residual of a curve of two parameters has one degree of freedom: no shape is told by that.
const MIN_LEVELS: usize = 4;

/// Follows every metric along every numeric factor that varies.
pub(super) fn follow(grid: &Grid<'_>) -> Vec<Curve> {
    let metrics: Vec<&Metric> = FOLLOWED
        .iter()
        .filter_map(|name| Metric::named(name))
        .collect();
    grid.varying()
        .filter(|(_, axis)| axis.doubles())
        .flat_map(|(position, axis)| {
            metrics
                .iter()
                .filter_map(move |metric| curve(grid, position, axis, metric))
        })
        .collect()
}

pub(super) fn curve(
    grid: &Grid<'_>,
    position: usize,
    axis: &Axis,
    metric: &Metric,
) -> Option<Curve> {
    let numbers = axis.numbers.as_ref()?;
    // By level, the trials of each balanced combination that has the metric.
    let mut levels: Vec<Vec<Vec<Observation>>> = vec![Vec::new(); numbers.len()];
    for cell in grid.cells.iter().filter(|cell| cell.balanced) {
        let trials: Vec<Observation> = cell
            .combination
            .observe(metric)
            .into_iter()
            .filter(|trial| trial.value.is_finite())
            .collect();
        // Combinations without a level are beyond the last one.
        let level = levels.get_mut(cell.at[position] as usize);
        if let Some(level) = level.filter(|_| !trials.is_empty()) {
            level.push(trials);
        }
    }
    let kept: Vec<usize> = (0..levels.len())
        .filter(|level| !levels[*level].is_empty())
        .collect();
    let combinations = kept.iter().map(|level| levels[*level].len()).min()?;
    if kept.len() < 2 {
        return None;
    }
    let mut points: Vec<CurvePoint> = kept
        .iter()
        .filter_map(|level| {
            let estimate = estimate(&levels[*level])?;
            Some(CurvePoint {
                level: numbers[*level],
                mean: Interval {
                    value: estimate.mean,
                    low: estimate.low,
                    high: estimate.high,
                },
                sd: estimate
                    .sd
                    .filter(|_| estimate.over == crate::interval::Over::Replicates),
                residual: None,
            })
        })
        .collect();
    let x: Vec<f64> = points.iter().map(|point| point.level).collect();
    let y: Vec<f64> = points.iter().map(|point| point.mean.value).collect();
    let refused = if points.len() < MIN_LEVELS {
        Some(format!(
            "{} levels are too few to tell families of curves apart ({MIN_LEVELS} are needed)",
            points.len()
        ))
    } else if y.iter().any(|y| *y <= 0.0 || !y.is_finite()) {
        Some("not all means are positive, so there are no relative errors".into())
    } else {
        None
    };
    let fits = if refused.is_none() {
        fit(&x, &y)
    } else {
        Vec::new()
    };
    let of_kept: Vec<&[Vec<Observation>]> =
        kept.iter().map(|level| levels[*level].as_slice()).collect();
    let blocks = block_means(&of_kept);
    let chosen = choose(&fits);
    let as_good = chosen.map(|chosen| as_good(&fits, chosen, &x, &y, &blocks));
    if let Some(fit) = chosen {
        for point in &mut points {
            let mean = point.mean.value;
            point.residual = Some((mean - fit.at(point.level)) / mean).filter(|r| r.is_finite());
        }
    }
    let exponent = fits
        .iter()
        .find(|fit| fit.family == Family::Power)
        .and_then(|fit| Some(exponent(&x, &blocks, fit.slope?)));
    Some(Curve {
        factor: axis.factor.clone(),
        metric: metric.name.into(),
        points,
        combinations: combinations as u32,
        chosen: chosen.map(|fit| fit.family),
        as_good: as_good.unwrap_or_default(),
        fits,
        exponent,
        refused,
    })
}

/// The mean of each block at each level, blocks that miss a level left out; a missing trial counts as its combination's
/// mean, so that blocks do not differ just because they hold other combinations.
fn block_means(levels: &[&[Vec<Observation>]]) -> Vec<Vec<f64>> {
    let blocks: std::collections::BTreeSet<u32> = levels
        .iter()
        .flat_map(|combinations| combinations.iter())
        .filter(|trials| trials.len() > 1)
        .flat_map(|trials| trials.iter().map(|trial| trial.replicate))
        .collect();
    blocks
        .into_iter()
        .filter_map(|block| {
            levels
                .iter()
                .map(|combinations| {
                    let mut any = false;
                    let sum: f64 = combinations
                        .iter()
                        .map(|trials| {
                            let own = trials.iter().find(|trial| trial.replicate == block);
                            any |= own.is_some();
                            let centre =
                                mean(trials.iter().map(|trial| trial.value)).unwrap_or_default();
                            own.map_or(centre, |trial| trial.value)
                        })
                        .sum();
                    any.then(|| sum / combinations.len() as f64)
                        .filter(|mean| *mean > 0.0)
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests;

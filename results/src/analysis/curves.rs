//! How a metric behaves along a numeric factor: four families of curves under one loss.
//!
//! A design has four to eight levels of a factor, so that a criterion for few points, as AICc is, asks two parameters for
//! a fit that is many times closer: of five levels it takes the power x^0.54 for a constant in 69 of 100 sweeps whose
//! levels are each 10 % off it. Instead, one parameter more has to pay by an F test against what the curve leaves over at
//! the levels (`choose`). That residual holds both the differences between blocks and whatever no curve of these
//! families says, so that the rate of errors is as said whatever the curve is like and however many replicates there
//! are; a difference that a block or a start has as a whole is a factor of all levels, and falls out of relative
//! errors.

use inferbench_crds::splitmix::SplitMix64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grid::{Axis, Grid, mean};
use crate::{
    interval::{Interval, Observation, estimate, f_probability, magnitude, over_blocks},
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
/// A family of one parameter holds unless its probability is below.
const LEVEL: f64 = 0.05;
/// Exponents that differ by less make no difference worth a name: ±7 % per doubling.
const NEAR: f64 = 0.1;
/// Blocks from which on the exponent's interval is a bootstrap over them; with fewer, whose resamples are too much
/// alike, Student's t over each block's exponent.
const BOOTSTRAP_BLOCKS: usize = 8;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;
/// The range of exponents that are looked through.
const EXPONENTS: (f64, f64) = (-4.0, 4.0);
/// The least relative residual that is not rounding.
const EXACT: f64 = 1e-9;

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

/// Every family fitted to points with positive values, by least squares of the relative residuals 1 − f(x)/y. The
/// constant, the inverse and the linear family have closed forms, the power family has one for each exponent.
#[must_use]
pub fn fit(x: &[f64], y: &[f64]) -> Vec<Fit> {
    let unit = magnitude(y.iter().copied());
    let y: Vec<f64> = y.iter().map(|y| y / unit).collect();
    let y = y.as_slice();
    // With u = 1/y a fit minimizes Σ(1 − f(x)·u)².
    let sums = |f: &dyn Fn(f64) -> f64| {
        let (mut fu, mut ffuu) = (0.0, 0.0);
        for (x, y) in x.iter().zip(y) {
            let share = f(*x) / y;
            fu += share;
            ffuu += share * share;
        }
        fu / ffuu
    };
    let linear = || {
        let (mut u, mut xu, mut uu, mut xuu, mut xxuu) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, y) in x.iter().zip(y) {
            let w = 1.0 / y;
            u += w;
            xu += x * w;
            uu += w * w;
            xuu += x * w * w;
            xxuu += x * x * w * w;
        }
        let determinant = uu * xxuu - xuu * xuu;
        (
            (u * xxuu - xu * xuu) / determinant,
            (uu * xu - u * xuu) / determinant,
        )
    };
    let (a, b) = linear();
    let (scale, exponent) = power(x, y);
    let mut fits: Vec<Fit> = [
        (Family::Constant, sums(&|_| 1.0), None),
        (Family::Inverse, sums(&|x| 1.0 / x), None),
        (Family::Linear, a, Some(b)),
        (Family::Power, scale, Some(exponent)),
    ]
    .into_iter()
    .filter_map(|(family, scale, slope)| rate(family, scale, slope, x, y))
    .collect();
    compare(&mut fits, x.len());
    fits.into_iter().filter_map(|fit| fit.times(unit)).collect()
}

/// Holds the families of one parameter against the best one of two.
fn compare(fits: &mut [Fit], points: usize) {
    let best = fits
        .iter()
        .filter(|fit| fit.family.parameters() == 2)
        .map(Fit::left_over)
        .min_by(f64::total_cmp);
    let Some(best) = best else { return };
    for fit in fits.iter_mut() {
        fit.p = match fit.family {
            Family::Constant => Some(2.0),
            Family::Inverse => Some(1.0),
            Family::Linear | Family::Power => None,
        }
        .and_then(|families| Some((families * pays(fit.left_over(), best, points)?).min(1.0)));
    }
}

/// The probability that a curve with one parameter more leaves so much less over by chance: squares of relative
/// residuals, and their degrees of freedom by the number of points.
fn pays(simple: f64, best: f64, points: usize) -> Option<f64> {
    let degrees = points as f64 - 2.0;
    f_probability((simple - best).max(0.0) / (best / degrees), 1.0, degrees)
}

impl Family {
    /// Numbers that say which curve of the family it is.
    fn parameters(self) -> u8 {
        match self {
            Family::Constant | Family::Inverse => 1,
            Family::Linear | Family::Power => 2,
        }
    }
}

impl Fit {
    /// The mean square of the relative residuals, and never less than rounding makes of it.
    fn left_over(&self) -> f64 {
        self.relative_rmse.max(EXACT).powi(2)
    }

    /// Whether no curve with a parameter more is shown to fit better.
    fn holds(&self) -> bool {
        self.p.is_some_and(|p| p >= LEVEL)
    }

    /// The same for values in another unit, of which one is this many of the new one; `None` where the curve has no
    /// finite parameters in it.
    fn times(self, unit: f64) -> Option<Self> {
        let fit = Self {
            scale: self.scale * unit,
            slope: match self.family {
                Family::Linear => self.slope.map(|slope| slope * unit),
                _ => self.slope,
            },
            ..self
        };
        let finite = fit.scale.is_finite() && fit.slope.is_none_or(f64::is_finite);
        finite.then_some(fit)
    }
}

fn rate(family: Family, scale: f64, slope: Option<f64>, x: &[f64], y: &[f64]) -> Option<Fit> {
    let mut fit = Fit {
        family,
        scale,
        slope,
        relative_rmse: 0.0,
        r2: None,
        p: None,
    };
    let count = x.len() as f64;
    let squares: f64 = x
        .iter()
        .zip(y)
        .map(|(x, y)| (1.0 - fit.at(*x) / y).powi(2))
        .sum();
    fit.relative_rmse = (squares / count).sqrt();
    let centre = mean(y.iter().copied())?;
    let total: f64 = y.iter().map(|y| (y - centre).powi(2)).sum();
    let plain: f64 = x.iter().zip(y).map(|(x, y)| (y - fit.at(*x)).powi(2)).sum();
    fit.r2 =
        Some(1.0 - plain / total).filter(|r2| r2.is_finite() && total > 1e-24 * centre * centre);
    let finite = [fit.scale, fit.slope.unwrap_or_default(), fit.relative_rmse];
    finite.iter().all(|x| x.is_finite()).then_some(fit)
}

/// The scale and exponent of a·xⁿ: for each n the best a is closed; n by golden section around the best of a coarse
/// search, since the loss may have several valleys.
fn power(x: &[f64], y: &[f64]) -> (f64, f64) {
    let unit = magnitude(y.iter().copied());
    let y: Vec<f64> = y.iter().map(|y| y / unit).collect();
    let y = y.as_slice();
    // Levels are taken relative to their geometric mean, so that no power overflows.
    let centre = (x.iter().map(|x| x.ln()).sum::<f64>() / x.len() as f64).exp();
    let at = |n: f64| with_exponent(x, y, centre, n);
    let step = 0.25;
    let steps = ((EXPONENTS.1 - EXPONENTS.0) / step) as usize;
    let coarse = (0..=steps)
        .map(|i| EXPONENTS.0 + i as f64 * step)
        .min_by(|a, b| at(*a).1.total_cmp(&at(*b).1))
        .unwrap_or_default();
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (coarse - step, coarse + step);
    for _ in 0..60 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if at(a).1 < at(b).1 {
            high = b;
        } else {
            low = a;
        }
    }
    let n = polish(x, y, centre, (low + high) / 2.0);
    (at(n).0 / centre.powf(n) * unit, n)
}

/// The scale of the best power with the exponent `n`, at `centre`, and the sum of its squared relative residuals.
fn with_exponent(x: &[f64], y: &[f64], centre: f64, n: f64) -> (f64, f64) {
    let (mut fu, mut ffuu) = (0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let share = (x / centre).powf(n) / y;
        fu += share;
        ffuu += share * share;
    }
    // Σ(1 − a·s)² at the best a = Σs/Σs² is N − (Σs)²/Σs².
    (fu / ffuu, x.len() as f64 - fu * fu / ffuu)
}

/// Golden section finds a flat minimum to half the digits; a few Gauss-Newton steps in (ln a, n) find the rest.
fn polish(x: &[f64], y: &[f64], centre: f64, start: f64) -> f64 {
    let mut n = start;
    for _ in 0..20 {
        let scale = {
            let (mut s, mut ss) = (0.0, 0.0);
            for (x, y) in x.iter().zip(y) {
                let share = (x / centre).powf(n) / y;
                s += share;
                ss += share * share;
            }
            s / ss
        };
        // Residual 1 − f; derivatives of f by ln a and n are f and f·ln(x/centre).
        let (mut aa, mut an, mut nn, mut ar, mut nr) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, y) in x.iter().zip(y) {
            let f = scale * (x / centre).powf(n) / y;
            let (da, dn) = (f, f * (x / centre).ln());
            aa += da * da;
            an += da * dn;
            nn += dn * dn;
            ar += da * (1.0 - f);
            nr += dn * (1.0 - f);
        }
        let step = (aa * nr - an * ar) / (aa * nn - an * an);
        if !step.is_finite() || step.abs() > 0.1 {
            return start;
        }
        n += step;
        if step.abs() < 1e-14 {
            break;
        }
    }
    n
}

/// The closest family of one parameter that holds, else the closest of two.
fn choose(fits: &[Fit]) -> Option<&Fit> {
    let closest = |keep: &dyn Fn(&Fit) -> bool| {
        fits.iter()
            .filter(|fit| keep(fit))
            .min_by(|a, b| a.left_over().total_cmp(&b.left_over()))
    };
    closest(&Fit::holds).or_else(|| closest(&|fit| fit.family.parameters() == 2))
}

/// The families that may describe the points as well as the chosen one. Beside one of one parameter: the others of one
/// that hold, and those of two, unless its exponent is known to a tenth: that a trend is not shown does not show that
/// there is none. Beside one of two: the other one, unless what blocks say shows that it is further off.
fn as_good(fits: &[Fit], chosen: &Fit, x: &[f64], y: &[f64], blocks: &[Vec<f64>]) -> Vec<Family> {
    let others = fits.iter().filter(|fit| fit.family != chosen.family);
    let may_be = |other: &&Fit| match (chosen.family.parameters(), other.family.parameters()) {
        (1, 1) => other.holds(),
        (1, _) => !is_near(fits, chosen, x, y),
        (_, 1) => false,
        (_, _) => !is_further(chosen.family, other.family, x, y, blocks),
    };
    others.filter(may_be).map(|fit| fit.family).collect()
}

/// Whether the exponent is known to be within a tenth of that of a constant or an inverse: powers further off are shown
/// to fit worse than the best curve does.
fn is_near(fits: &[Fit], chosen: &Fit, x: &[f64], y: &[f64]) -> bool {
    let own = if chosen.family == Family::Inverse {
        -1.0
    } else {
        0.0
    };
    let best = fits.iter().map(Fit::left_over).min_by(f64::total_cmp);
    let unit = magnitude(y.iter().copied());
    let y: Vec<f64> = y.iter().map(|y| y / unit).collect();
    let is_worse = |n: f64| {
        let left_over = with_exponent(x, &y, 1.0, n).1 / x.len() as f64;
        best.and_then(|best| pays(left_over, best, x.len()))
            .is_some_and(|p| p < LEVEL)
    };
    is_worse(own - NEAR) && is_worse(own + NEAR)
}

/// Whether the relative residuals of `other` are larger by more than blocks let expect, by Student's t over the
/// difference in each block, around that over all. Never with one block.
fn is_further(chosen: Family, other: Family, x: &[f64], y: &[f64], blocks: &[Vec<f64>]) -> bool {
    let difference = |y: &[f64]| {
        let fits = fit(x, y);
        let of = |family| {
            let found = fits.iter().find(|fit| fit.family == family)?;
            Some(found.relative_rmse)
        };
        Some(of(other)? - of(chosen)?)
    };
    let each: Vec<f64> = blocks.iter().filter_map(|y| difference(y)).collect();
    match (difference(y), over_blocks(&each)) {
        (
            Some(over_all),
            Some(Interval {
                value,
                low: Some(low),
                ..
            }),
        ) => over_all - (value - low) > 0.0,
        _ => false,
    }
}

/// The exponent `found` with its interval over blocks.
fn exponent(x: &[f64], blocks: &[Vec<f64>], found: f64) -> Interval {
    let plain = Interval {
        value: found,
        low: None,
        high: None,
    };
    if blocks.len() < 2 {
        return plain;
    }
    let (low, high) = if blocks.len() < BOOTSTRAP_BLOCKS {
        let each: Vec<f64> = blocks.iter().map(|block| power(x, block).1).collect();
        match over_blocks(&each) {
            Some(Interval {
                value,
                low: Some(low),
                high: Some(high),
            }) => (found + low - value, found + high - value),
            _ => return plain,
        }
    } else {
        let mut generator = SplitMix64::new(0x1bf5_2d3a);
        let mut found: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let mut sums = vec![0.0; x.len()];
                for _ in 0..blocks.len() {
                    let block = &blocks[generator.below(blocks.len() as u32) as usize];
                    sums.iter_mut()
                        .zip(block)
                        .for_each(|(sum, mean)| *sum += mean);
                }
                sums.iter_mut().for_each(|sum| *sum /= blocks.len() as f64);
                power(x, &sums).1
            })
            .collect();
        found.sort_by(f64::total_cmp);
        // A resample of R blocks has (R − 1)/R of the variance of the mean: the interval is widened to match, and by
        // Student's t over the normal quantile.
        let count = blocks.len() as f64;
        let widen = (count / (count - 1.0)).sqrt() * crate::interval::t_quantile(count - 1.0)
            / 1.959_963_985;
        let centre = found[RESAMPLES / 2];
        let quantile = |share: f64| found[((RESAMPLES - 1) as f64 * share).round() as usize];
        (
            plain.value + (quantile(0.025) - centre) * widen,
            plain.value + (quantile(0.975) - centre) * widen,
        )
    };
    let both = low.is_finite() && high.is_finite();
    Interval {
        low: both.then_some(low),
        high: both.then_some(high),
        ..plain
    }
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::normal;

    const X: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

    fn chosen(f: impl Fn(f64) -> f64) -> Fit {
        let noise = [1.01, 0.99, 1.005, 1.0, 0.995, 1.01, 0.99];
        let y: Vec<f64> = X
            .iter()
            .zip(noise)
            .map(|(x, noise)| f(*x) * noise)
            .collect();
        *choose(&fit(&X, &y)).unwrap()
    }

    #[test]
    fn each_family_is_recognised() {
        assert_eq!(chosen(|_| 5.0).family, Family::Constant);
        assert_eq!(chosen(|x| 100.0 / x).family, Family::Inverse);
        let linear = chosen(|x| 10.0 + 3.0 * x);
        assert_eq!(linear.family, Family::Linear);
        assert!((linear.scale - 10.0).abs() < 0.5 && (linear.slope.unwrap() - 3.0).abs() < 0.1);
        let power = chosen(|x| 20.0 * x.powf(0.6));
        assert_eq!(power.family, Family::Power);
        assert!((power.scale - 20.0).abs() < 1.0 && (power.slope.unwrap() - 0.6).abs() < 0.01);
    }

    #[test]
    fn the_simpler_of_equals_is_chosen() {
        // Exactly k/x is a power too, and exactly a constant everything but the inverse.
        let y: Vec<f64> = X.iter().map(|x| 3.0 / x).collect();
        assert_eq!(choose(&fit(&X, &y)).unwrap().family, Family::Inverse);
        assert_eq!(
            choose(&fit(&X, &[7.0; 7])).unwrap().family,
            Family::Constant
        );
    }

    /// A sweep of `blocks` blocks: the curve with a wiggle of its own at every level, blocks that are slower or faster
    /// as a whole, and noise at each level of each. Relative, as standard deviations of logarithms.
    struct Simulated {
        levels: &'static [f64],
        blocks: usize,
        wiggle: f64,
        noise: f64,
    }

    /// Of 100 sweeps: those for which each family is chosen, and those in which it stands alone.
    #[derive(Debug, Default)]
    struct Rates {
        chosen: BTreeMap<Family, f64>,
        alone: BTreeMap<Family, f64>,
    }

    impl Rates {
        fn chosen(&self, family: Family) -> f64 {
            self.chosen.get(&family).copied().unwrap_or_default()
        }

        fn alone(&self, family: Family) -> f64 {
            self.alone.get(&family).copied().unwrap_or_default()
        }
    }

    impl Simulated {
        fn rates(&self, curve: impl Fn(f64) -> f64) -> Rates {
            const SWEEPS: usize = 2000;
            let mut generator = SplitMix64::new(20);
            let mut normal = |sd: f64| (sd * normal(&mut generator)).exp();
            let mut rates = Rates::default();
            for _ in 0..SWEEPS {
                let truth: Vec<f64> = self
                    .levels
                    .iter()
                    .map(|x| curve(*x) * normal(self.wiggle))
                    .collect();
                let blocks: Vec<Vec<f64>> = (0..self.blocks)
                    .map(|_| {
                        let block = normal(0.05);
                        truth
                            .iter()
                            .map(|y| y * block * normal(self.noise))
                            .collect()
                    })
                    .collect();
                let means: Vec<f64> = (0..truth.len())
                    .map(|level| mean(blocks.iter().map(|block| block[level])).unwrap())
                    .collect();
                let fits = fit(self.levels, &means);
                let found = choose(&fits).unwrap();
                let share = 100.0 / SWEEPS as f64;
                *rates.chosen.entry(found.family).or_default() += share;
                if as_good(&fits, found, self.levels, &means, &blocks).is_empty() {
                    *rates.alone.entry(found.family).or_default() += share;
                }
            }
            rates
        }
    }

    #[test]
    fn no_more_than_the_agreed_rate_is_taken_for_what_it_is_not() {
        for levels in [&X[3..], &X[..5], &X] {
            for (blocks, wiggle, noise) in [
                (3, 0.0, 0.05),
                (3, 0.05, 0.02),
                (10, 0.0, 0.2),
                (2, 0.1, 0.01),
            ] {
                let of = Simulated {
                    levels,
                    blocks,
                    wiggle,
                    noise,
                };
                let says =
                    |rates: &Rates| format!("{levels:?} {blocks} {wiggle} {noise}: {rates:?}");
                // 5 % at most, by Bonferroni a little less where two families are tried.
                let constant = of.rates(|_| 7.0);
                let kept = constant.chosen(Family::Constant);
                assert!((93.5..=97.5).contains(&kept), "{}", says(&constant));
                let inverse = of.rates(|x| 100.0 / x);
                let kept = inverse.chosen(Family::Inverse);
                assert!((93.0..=97.0).contains(&kept), "{}", says(&inverse));
                // A trend of this size is found, and is no constant.
                for found in [of.rates(|x| x.powf(0.54)), of.rates(|x| 10.0 + 3.0 * x)] {
                    let missed = found.chosen(Family::Constant) + found.chosen(Family::Inverse);
                    // Four levels that are each 10 % off the curve say little.
                    let most = match (levels.len(), wiggle > 0.05) {
                        (4, true) => 20.0,
                        (4, false) => 2.5,
                        _ => 1.0,
                    };
                    assert!(missed <= most, "{}", says(&found));
                }
            }
        }
    }

    #[test]
    fn a_power_and_a_line_are_told_apart_by_blocks() {
        let levels = &X[..5];
        for (wiggle, noise) in [(0.0, 0.02), (0.0, 0.1), (0.03, 0.02)] {
            let of = Simulated {
                levels,
                blocks: 3,
                wiggle,
                noise,
            };
            let power = of.rates(|x| x.powf(0.54));
            let line = of.rates(|x| 10.0 + 3.0 * x);
            for (rates, right, wrong) in [
                (&power, Family::Power, Family::Linear),
                (&line, Family::Linear, Family::Power),
            ] {
                assert!(rates.alone(wrong) <= 2.5, "{wiggle} {noise}: {rates:?}");
                let clear = noise < 0.05;
                assert!(
                    rates.chosen(right) > 94.0 && (!clear || rates.alone(right) > 90.0),
                    "{wiggle} {noise}: {rates:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_shown_to_change_is_not_shown_to_be_constant() {
        let judged = |y: &[f64]| {
            let fits = fit(&X[..5], y);
            let found = *choose(&fits).unwrap();
            let blocks = [y.to_vec(), y.to_vec()];
            (found.family, as_good(&fits, &found, &X[..5], y, &blocks))
        };
        // Up and down again: no trend, and no constant either.
        let bent = judged(&[2.0, 3.0, 4.0, 3.0, 2.0]);
        assert_eq!(
            bent,
            (Family::Constant, vec![Family::Linear, Family::Power])
        );
        let flat = judged(&[1.0, 1.01, 0.99, 1.0, 1.005]);
        assert_eq!(flat, (Family::Constant, Vec::new()));
        let found = fit(&X, &X.map(|x| 3.0 * x.powf(0.5)));
        assert!(found[0].p.unwrap() < 1e-9 && found[1].p.unwrap() < 1e-9);
    }

    #[test]
    fn one_block_does_not_tell_a_power_from_a_line() {
        let y: Vec<f64> = X.iter().map(|x| 20.0 * x.powf(0.6)).collect();
        let fits = fit(&X, &y);
        let found = choose(&fits).unwrap();
        assert_eq!(found.family, Family::Power);
        assert_eq!(
            as_good(&fits, found, &X, &y, std::slice::from_ref(&y)),
            [Family::Linear]
        );
        assert!(as_good(&fits, found, &X, &y, &[y.clone(), y.clone()]).is_empty());
    }

    proptest! {
        #[test]
        fn an_exact_power_is_found(scale in 1e-6_f64..1e6, exponent in -3.0_f64..3.0) {
            let y: Vec<f64> = X.iter().map(|x| scale * x.powf(exponent)).collect();
            let (a, n) = power(&X, &y);
            prop_assert!((n - exponent).abs() < 1e-6, "{n} for {exponent}");
            prop_assert!((a / scale - 1.0).abs() < 1e-5, "{a} for {scale}");
        }

        #[test]
        fn every_fit_is_finite(y in prop::collection::vec(1e-12_f64..1e12, 7)) {
            for fit in fit(&X, &y) {
                prop_assert!(fit.relative_rmse.is_finite());
                prop_assert!(fit.p.is_none_or(|p| (0.0..=1.0).contains(&p)));
                prop_assert_eq!(fit.p.is_some(), fit.family.parameters() == 1);
                prop_assert!(X.iter().all(|x| fit.at(*x).is_finite()));
            }
        }
    }
}

//! How a metric behaves along a numeric factor: four families of curves under one loss, chosen by AICc.

use inferbench_crds::splitmix::SplitMix64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grid::{Axis, Grid, mean};
use crate::{
    interval::{Interval, Observation, estimate, magnitude, over_blocks},
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
    pub points: Vec<Point>,
    /// Combinations behind each point.
    pub combinations: u32,
    /// The families that could be fitted.
    pub fits: Vec<Fit>,
    /// The family of the lowest AICc, the simpler one of those within 2 of it; absent where there are too few levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Family>,
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
pub struct Point {
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
    /// Akaike's criterion corrected for small samples; absent where the points are too few for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aicc: Option<f64>,
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

/// With fewer levels the corrected criterion is not defined for curves of two parameters and a variance.
const MIN_LEVELS: usize = 5;
/// Families whose criterion is so near the lowest are as good.
pub(super) const AS_GOOD: f64 = 2.0;
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
    let mut points: Vec<Point> = kept
        .iter()
        .filter_map(|level| {
            let estimate = estimate(&levels[*level])?;
            Some(Point {
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
    let chosen = choose(&fits);
    if let Some(fit) = chosen {
        for point in &mut points {
            let mean = point.mean.value;
            point.residual = Some((mean - fit.at(point.level)) / mean).filter(|r| r.is_finite());
        }
    }
    let exponent = fits
        .iter()
        .find(|fit| fit.family == Family::Power)
        .and_then(|fit| {
            let of_kept: Vec<&[Vec<Observation>]> =
                kept.iter().map(|level| levels[*level].as_slice()).collect();
            Some(exponent(&x, &of_kept, fit.slope?))
        });
    Some(Curve {
        factor: axis.factor.clone(),
        metric: metric.name.into(),
        points,
        combinations: combinations as u32,
        chosen: chosen.map(|fit| fit.family),
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
    [
        (Family::Constant, sums(&|_| 1.0), None),
        (Family::Inverse, sums(&|x| 1.0 / x), None),
        (Family::Linear, a, Some(b)),
        (Family::Power, scale, Some(exponent)),
    ]
    .into_iter()
    .filter_map(|(family, scale, slope)| rate(family, scale, slope, x, y))
    .filter_map(|fit| fit.times(unit))
    .collect()
}

impl Fit {
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
        aicc: None,
    };
    let count = x.len() as f64;
    let squares: f64 = x
        .iter()
        .zip(y)
        .map(|(x, y)| (1.0 - fit.at(*x) / y).powi(2))
        .sum();
    fit.relative_rmse = (squares / count).sqrt();
    // Parameters of the curve, and the variance.
    let k = if slope.is_some() { 3.0 } else { 2.0 };
    let variance = fit.relative_rmse.max(EXACT).powi(2);
    fit.aicc = (count > k + 1.0)
        .then(|| count * variance.ln() + 2.0 * k + 2.0 * k * (k + 1.0) / (count - k - 1.0));
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
    let at = |n: f64| {
        let (mut fu, mut ffuu) = (0.0, 0.0);
        for (x, y) in x.iter().zip(y) {
            let share = (x / centre).powf(n) / y;
            fu += share;
            ffuu += share * share;
        }
        // Σ(1 − a·s)² at the best a = Σs/Σs² is N − (Σs)²/Σs².
        (fu / ffuu, x.len() as f64 - fu * fu / ffuu)
    };
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

/// The fit of the lowest criterion; of those as good the one with the fewest parameters, in the order of the families.
fn choose(fits: &[Fit]) -> Option<&Fit> {
    let lowest = fits
        .iter()
        .filter_map(|fit| fit.aicc)
        .min_by(f64::total_cmp)?;
    fits.iter()
        .filter(|fit| fit.aicc.is_some_and(|aicc| aicc <= lowest + AS_GOOD))
        .min_by(|a, b| {
            let parameters = |fit: &Fit| u8::from(fit.slope.is_some());
            parameters(a).cmp(&parameters(b)).then(
                a.aicc
                    .unwrap_or_default()
                    .total_cmp(&b.aicc.unwrap_or_default()),
            )
        })
}

/// The exponent `found` with its interval over blocks.
fn exponent(x: &[f64], levels: &[&[Vec<Observation>]], found: f64) -> Interval {
    let plain = Interval {
        value: found,
        low: None,
        high: None,
    };
    let blocks = block_means(levels);
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
    use proptest::prelude::*;

    use super::*;

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
                prop_assert!(fit.relative_rmse.is_finite() && fit.aicc.unwrap().is_finite());
                prop_assert!(X.iter().all(|x| fit.at(*x).is_finite()));
            }
        }
    }
}

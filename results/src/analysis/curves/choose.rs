//! The choice of a family: the simplest that holds, those that are as good, and how well the exponent is known.

use inferbench_crds::splitmix::SplitMix64;

use super::{
    Family, Fit,
    fit::{LEVEL, fit, pays, power, with_exponent},
};
use crate::interval::{Interval, magnitude, over_blocks};

/// Exponents that differ by less make no difference worth a name: ±7 % per doubling.
const NEAR: f64 = 0.1;
/// Blocks from which on the exponent's interval is a bootstrap over them; with fewer, whose resamples are too much
/// alike, Student's t over each block's exponent.
const BOOTSTRAP_BLOCKS: usize = 8;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// The closest family of one parameter that holds, else the closest of two.
pub(super) fn choose(fits: &[Fit]) -> Option<&Fit> {
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
pub(super) fn as_good(
    fits: &[Fit],
    chosen: &Fit,
    x: &[f64],
    y: &[f64],
    blocks: &[Vec<f64>],
) -> Vec<Family> {
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
pub(super) fn exponent(x: &[f64], blocks: &[Vec<f64>], found: f64) -> Interval {
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

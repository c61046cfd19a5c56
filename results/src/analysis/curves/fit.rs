//! The families fitted to points, by least squares of relative errors, and held against each other.

use super::{super::grid::mean, Family, Fit};
use crate::interval::{f_probability, magnitude};

/// A family of one parameter holds unless its probability is below.
pub(super) const LEVEL: f64 = 0.05;
/// The range of exponents that are looked through.
const EXPONENTS: (f64, f64) = (-4.0, 4.0);
/// The least relative residual that is not rounding.
const EXACT: f64 = 1e-9;

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
pub(super) fn pays(simple: f64, best: f64, points: usize) -> Option<f64> {
    let degrees = points as f64 - 2.0;
    f_probability((simple - best).max(0.0) / (best / degrees), 1.0, degrees)
}

impl Family {
    /// Numbers that say which curve of the family it is.
    pub(super) fn parameters(self) -> u8 {
        match self {
            Family::Constant | Family::Inverse => 1,
            Family::Linear | Family::Power => 2,
        }
    }
}

impl Fit {
    /// The mean square of the relative residuals, and never less than rounding makes of it.
    pub(super) fn left_over(&self) -> f64 {
        self.relative_rmse.max(EXACT).powi(2)
    }

    /// Whether no curve with a parameter more is shown to fit better.
    pub(super) fn holds(&self) -> bool {
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
pub(super) fn power(x: &[f64], y: &[f64]) -> (f64, f64) {
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
pub(super) fn with_exponent(x: &[f64], y: &[f64], centre: f64, n: f64) -> (f64, f64) {
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

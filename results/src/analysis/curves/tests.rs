//! The curves: that each family is recognised, and how often one is taken for another.

use std::collections::BTreeMap;

use inferbench_crds::splitmix::SplitMix64;
use proptest::prelude::*;

use super::{fit::power, *};
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
            let says = |rates: &Rates| format!("{levels:?} {blocks} {wiggle} {noise}: {rates:?}");
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

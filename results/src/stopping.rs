//! When enough replicates have been measured: `design.until: {metric, halfWidth, confidence, min}`, of at most
//! `design.replicates`.
//!
//! Each combination is looked at when a block has ended, from `min` blocks on, and runs no further once the interval of
//! its metric is narrow enough; at `max` it ends anyway. An interval that is looked at again and again, until it happens
//! to be narrow, holds the truth less often than it says: it is narrow where the spread was underestimated. With 95%
//! and two blocks at least, 88% is what is left (see the table that the test prints).
//!
//! The remedy is a wider interval at every look. Of several rules that would do, this one was chosen:
//!
//! - The means of blocks' logarithms are taken for normal. Then mean and standard deviation of the first n blocks are
//!   independent, for all n together (Helmert), and whether to stop depends on standard deviations alone. So given that
//!   it stopped at n, the mean is normal with variance σ²/n still, unbiased, and an interval of half width H holds the
//!   truth with probability 2Φ(H√n/σ) − 1. On this the theory of fixed-width intervals is built (Stein, *A two-sample
//!   test for a linear hypothesis whose power is independent of the variance*, 1945; Anscombe, *Sequential estimation*,
//!   1953; Chow and Robbins, *On the asymptotic theory of fixed-width sequential confidence intervals for the mean*,
//!   1965), and Starr (*The performance of a sequential procedure for the fixed-width interval estimation of the mean*,
//!   1966) computed from it what a rule covers exactly.
//! - That is done here the other way round: the nominal confidence of the t-intervals at every look is raised until,
//!   for the spread at which the rule covers least, it covers what was asked for. The spread need not be known.
//!
//! Alpha spending (Lan and DeMets, *Discrete sequential boundaries for clinical trials*, 1983) and confidence sequences
//! (Howard and others, *Time-uniform, nonparametric, nonasymptotic confidence sequences*, 2021) hold for any reason to
//! stop, also one that looks at means, and pay for it with wider intervals: each look has its share of the error, whether
//! or not it is the one that stops. Nothing stops here but this rule.
//!
//! The interval of a combination that was stopped is [`Stopping::interval`]: a plain t-interval over its blocks would
//! say too much.

use std::fmt;

use inferbench_crds::splitmix::SplitMix64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

use crate::interval::Interval;

/// The replicates of a combination: not fewer than some, not more than others, and as many as it takes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Blocks before the first look; at least 2.
    pub min: u32,
    /// Blocks after which it ends anyway.
    pub max: u32,
    /// The half width that is narrow enough, as a share of the geometric mean: 0.03 for ×/÷ 1.03.
    pub half_width: f64,
    /// The share of intervals that are to hold the truth: 0.95.
    pub confidence: f64,
}

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// Fewer blocks than tell a spread.
    #[error("min: {0} is not from 2 to {MAX}: one block says nothing of how blocks differ")]
    Min(u32),
    /// An order that is none, or more blocks than a design has.
    #[error("max: {max} is not from min, {min}, to {MAX}")]
    Max {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// A width that is no width.
    #[error("until.halfWidth: {0} is not above 0 and at most 1 (100%)")]
    HalfWidth(f64),
    /// A confidence that is none.
    #[error("until.confidence: {0} is not from 0.5 to 0.999")]
    Confidence(f64),
}

/// The most blocks.
const MAX: u32 = inferbench_crds::limits::REPLICATES;

/// The next step with a combination.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// Measure it in the next block.
    Continue,
    /// It is narrow enough.
    Enough,
    /// It is not, and has had all its blocks.
    Exhausted,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continue => "continue",
            Self::Enough => "narrow enough",
            Self::Exhausted => "not narrow enough",
        })
    }
}

/// A rule with the confidence of its looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    rule: Rule,
    /// The nominal confidence of the t-interval at each look.
    nominal: f64,
    /// From two blocks on: Student's t, over the root of the number of blocks.
    factors: Vec<f64>,
    /// The nominal confidence of intervals that hold the truth in [`REPORTED`] of all combinations that the rule stops.
    reported: f64,
}

/// The confidence of every interval in tables and reports, whatever a rule stops by.
const REPORTED: f64 = 0.95;

impl Stopping {
    /// The rule, made to cover what it says.
    ///
    /// # Errors
    /// Where it is none.
    pub fn new(rule: Rule) -> Result<Self, Invalid> {
        if !(2..=MAX).contains(&rule.min) {
            return Err(Invalid::Min(rule.min));
        }
        if !(rule.min..=MAX).contains(&rule.max) {
            return Err(Invalid::Max {
                min: rule.min,
                max: rule.max,
            });
        }
        if !(rule.half_width > 0.0 && rule.half_width <= 1.0) {
            return Err(Invalid::HalfWidth(rule.half_width));
        }
        if !(0.5..=0.999).contains(&rule.confidence) {
            return Err(Invalid::Confidence(rule.confidence));
        }
        let (nominal, reported) = calibrate(rule);
        Ok(Self {
            rule,
            nominal,
            factors: factors(nominal, rule.max),
            reported,
        })
    }

    /// The rule as it was asked for.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The nominal confidence of the interval at each look, above what was asked for: the price of looking.
    #[must_use]
    pub const fn nominal(&self) -> f64 {
        self.nominal
    }

    /// The nominal confidence of [`Self::reported_interval`].
    #[must_use]
    pub const fn reported(&self) -> f64 {
        self.reported
    }

    /// The decision on a combination after its metric was measured in these blocks. It depends on these values alone,
    /// so that asking again after an interruption changes nothing. A value that has no logarithm never stops it early.
    #[must_use]
    pub fn decide(&self, blocks: &[f64]) -> Decision {
        let count = blocks.len() as u32;
        let narrow = count >= self.rule.min
            && self
                .half(blocks)
                .is_some_and(|(_, half)| half <= self.rule.half_width.ln_1p());
        match narrow {
            true => Decision::Enough,
            false if count >= self.rule.max => Decision::Exhausted,
            false => Decision::Continue,
        }
    }

    /// The geometric mean over blocks with its interval, at the confidence that was asked for whenever the rule stopped;
    /// `None` where a value has no logarithm. Without ends for a single block.
    #[must_use]
    pub fn interval(&self, blocks: &[f64]) -> Option<Interval> {
        let found = match self.half(blocks) {
            Some((mean, half)) => Interval {
                value: mean,
                low: Some(mean - half),
                high: Some(mean + half),
            },
            None => Interval {
                value: Moments::of(blocks)?.mean,
                low: None,
                high: None,
            },
        };
        found.map(f64::exp)
    }

    /// The geometric mean over blocks with the interval that reports show: one of 95%, whatever confidence the rule stops
    /// by, and whenever it stopped. `None` as [`Self::interval`]; without ends for a single block.
    #[must_use]
    pub fn reported_interval(&self, blocks: &[f64]) -> Option<Interval> {
        let moments = Moments::of(blocks)?;
        let half = (blocks.len() > 1)
            .then(|| factor(self.reported, moments.count) * moments.variance().sqrt());
        let found = Interval {
            value: moments.mean,
            low: half.map(|half| moments.mean - half),
            high: half.map(|half| moments.mean + half),
        };
        found.map(f64::exp)
    }

    /// The mean of the logarithms and the half width of its interval.
    fn half(&self, blocks: &[f64]) -> Option<(f64, f64)> {
        let moments = Moments::of(blocks)?;
        let at = blocks.len().checked_sub(2)?;
        let factor = match self.factors.get(at) {
            Some(factor) => *factor,
            None => factor(self.nominal, blocks.len() as f64),
        };
        Some((moments.mean, factor * moments.variance().sqrt()))
    }
}

/// Mean and squares of logarithms.
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
        if logs.is_empty() || !logs.iter().all(|log| log.is_finite()) {
            return None;
        }
        let mean = logs.iter().sum::<f64>() / count;
        let squares = logs.iter().map(|log| (log - mean).powi(2)).sum();
        Some(Self {
            count,
            mean,
            squares,
        })
    }

    fn variance(&self) -> f64 {
        self.squares / (self.count - 1.0)
    }
}

/// Student's t of a two-sided interval over this number of blocks, over the root of their number.
fn factor(confidence: f64, blocks: f64) -> f64 {
    StudentsT::new(0.0, 1.0, blocks - 1.0).map_or(f64::INFINITY, |t| {
        t.inverse_cdf(f64::midpoint(1.0, confidence))
    }) / blocks.sqrt()
}

fn factors(confidence: f64, max: u32) -> Vec<f64> {
    (2..=max)
        .map(|blocks| factor(confidence, f64::from(blocks)))
        .collect()
}

/// Paths of simulated blocks: the share that is covered is then known to less than 0.1%, since only when a path stops is
/// drawn, and not the mean.
const PATHS: usize = 4_000;
/// Spreads that are tried, as the blocks that would be needed if they were known: from fewer than two to this many.
/// The fewer, the less is covered; for many it becomes what is nominal.
const NEEDED: f64 = 48.0;
const SPREADS: usize = 28;
/// Halvings of the range of nominal confidences.
const HALVINGS: usize = 12;
/// The range's upper end: an error that many times smaller than what is asked for.
const MARGIN: f64 = 8.0;

/// The least nominal confidence at which the rule covers what is asked for, whatever the spread; and that at which
/// intervals of what this rule stops cover [`REPORTED`].
fn calibrate(rule: Rule) -> (f64, f64) {
    if rule.min == rule.max {
        return (rule.confidence, REPORTED);
    }
    let max = rule.max.min(4 * NEEDED as u32) as usize;
    let mut random = SplitMix64::new(0x5707_0911);
    // Running variances of standard normal numbers, from two on.
    let paths: Vec<Vec<f32>> = (0..PATHS)
        .map(|_| {
            let (mut mean, mut squares) = (0.0, 0.0);
            let mut path = Vec::with_capacity(max - 1);
            for count in 1..=max {
                let deviation = normal(&mut random) - mean;
                mean += deviation / count as f64;
                squares += deviation * deviation * (count as f64 - 1.0) / count as f64;
                if count > 1 {
                    path.push((squares / (count as f64 - 1.0)) as f32);
                }
            }
            path
        })
        .collect();
    let quantile = Normal::standard().inverse_cdf(f64::midpoint(1.0, rule.confidence));
    // At which nominal confidence intervals hold the truth in this share; by themselves they stop, or `stop` does.
    let least = |share: f64, stop: Option<&[f64]>| {
        let covers = |nominal: f64| {
            let shown = factors(nominal, max as u32);
            (0..SPREADS).all(|at| {
                let needed = 0.5 * (2.0 * NEEDED).powf(at as f64 / (SPREADS - 1) as f64);
                // σ in half widths.
                let spread = needed.sqrt() / quantile;
                let stop = stop.unwrap_or(&shown);
                covered(&paths, stop, &shown, rule.min as usize, spread) >= share
            })
        };
        let (mut low, mut high) = (share, 1.0 - (1.0 - share) / MARGIN);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if covers(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    };
    let nominal = least(rule.confidence, None);
    let reported = if rule.confidence == REPORTED {
        nominal
    } else {
        least(REPORTED, Some(&factors(nominal, max as u32)))
    };
    (nominal, reported)
}

/// The share of intervals that hold the truth, for a spread in half widths: the mean of 2Φ(H√n/σ) − 1 over the paths,
/// each stopped where the interval by the factors `stop` is narrow enough, and shown by the factors `shown`.
fn covered(paths: &[Vec<f32>], stop: &[f64], shown: &[f64], min: usize, spread: f64) -> f64 {
    let standard = Normal::standard();
    let of_path = |path: &Vec<f32>| {
        let mut at = min - 2;
        // In half widths, the interval is factor × spread × root of the variance.
        let half = |factors: &[f64], at: usize| factors[at] * f64::from(path[at]).sqrt();
        while at + 1 < path.len() && half(stop, at) * spread > 1.0 {
            at += 1;
        }
        let blocks = at as f64 + 2.0;
        2.0 * standard.cdf(half(shown, at) * blocks.sqrt()) - 1.0
    };
    paths.iter().map(of_path).sum::<f64>() / paths.len() as f64
}

/// A standard normal number, by Box and Muller.
fn normal(random: &mut SplitMix64) -> f64 {
    let mut unit = || (f64::from(random.below(u32::MAX)) + 0.5) / f64::from(u32::MAX);
    (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Rule = Rule {
        min: 3,
        max: 10,
        half_width: 0.03,
        confidence: 0.95,
    };

    /// Simulated combinations: in percent how many intervals hold the truth, and how many trials were not needed.
    fn simulate(stopping: &Stopping, cv: f64, seed: u64) -> (f64, f64) {
        const COMBINATIONS: u32 = 20_000;
        // The standard deviation of the logarithm.
        let sigma = (cv * cv).ln_1p().sqrt();
        let mut random = SplitMix64::new(seed);
        let (mut held, mut blocks) = (0, 0);
        for _ in 0..COMBINATIONS {
            let mut values = Vec::new();
            while values.is_empty() || stopping.decide(&values) == Decision::Continue {
                values.push(100.0 * (sigma * normal(&mut random)).exp());
            }
            let found = stopping.interval(&values).unwrap();
            held += u32::from(found.low.unwrap() <= 100.0 && 100.0 <= found.high.unwrap());
            blocks += values.len() as u32;
        }
        let most = f64::from(COMBINATIONS * stopping.rule.max);
        (
            100.0 * f64::from(held) / f64::from(COMBINATIONS),
            100.0 * (1.0 - f64::from(blocks) / most),
        )
    }

    /// The same rule with plain t-intervals.
    fn naive(rule: Rule) -> Stopping {
        Stopping {
            rule,
            nominal: rule.confidence,
            factors: factors(rule.confidence, rule.max),
            reported: REPORTED,
        }
    }

    #[test]
    fn it_covers_what_it_says_whatever_the_spread() {
        println!(
            "min max half width   CV | this rule: nominal, holds, trials saved | plain t: holds, saved"
        );
        for (min, max) in [(2, 10), (3, 10), (3, 30), (5, 30)] {
            let rule = Rule { min, max, ..RULE };
            let (stopping, plain) = (Stopping::new(rule).unwrap(), naive(rule));
            for cv in [0.005, 0.01, 0.02, 0.05, 0.1] {
                let (held, saved) = simulate(&stopping, cv, 1);
                let (naively, saved_naively) = simulate(&plain, cv, 1);
                println!(
                    "{min:3} {max:3} {:9.0}% {:3.1}% | {:17.2}% {held:5.1}% {saved:11.1}%  | {naively:13.1}% {saved_naively:5.1}%",
                    100.0 * rule.half_width,
                    100.0 * cv,
                    100.0 * stopping.nominal()
                );
                // Twenty thousand tell the share to 0.3%.
                assert!(
                    (94.5..=98.5).contains(&held),
                    "{min} to {max}, {cv}: {held}"
                );
            }
        }
        let two = Rule { min: 2, ..RULE };
        let (naively, _) = simulate(&naive(two), 0.05, 2);
        assert!(naively < 90.0, "{naively}");
    }

    #[test]
    fn what_is_reported_holds_in_95_percent_whatever_it_stops_by() {
        for confidence in [0.8, 0.95, 0.99] {
            let stopping = Stopping::new(Rule { confidence, ..RULE }).unwrap();
            assert_eq!(
                stopping.reported() == stopping.nominal(),
                confidence == REPORTED
            );
            for cv in [0.01_f64, 0.03, 0.08] {
                let sigma = (cv * cv).ln_1p().sqrt();
                let mut random = SplitMix64::new(3);
                let held = (0..20_000)
                    .filter(|_| {
                        let mut values = Vec::new();
                        while values.is_empty() || stopping.decide(&values) == Decision::Continue {
                            values.push((sigma * normal(&mut random)).exp());
                        }
                        let found = stopping.reported_interval(&values).unwrap();
                        found.low.unwrap() <= 1.0 && 1.0 <= found.high.unwrap()
                    })
                    .count();
                let held = held as f64 / 200.0;
                assert!((94.5..=99.0).contains(&held), "{confidence}, {cv}: {held}");
            }
        }
    }

    #[test]
    fn it_looks_from_min_to_max() {
        let stopping = Stopping::new(RULE).unwrap();
        assert_eq!(stopping.decide(&[]), Decision::Continue);
        assert_eq!(stopping.decide(&[100.0]), Decision::Continue);
        assert_eq!(stopping.decide(&[100.0, 100.0]), Decision::Continue);
        assert_eq!(stopping.decide(&[100.0, 100.1, 100.2]), Decision::Enough);
        assert_eq!(stopping.decide(&[100.0, 150.0, 70.0]), Decision::Continue);
        let wild: Vec<f64> = (0..10).map(|at| 100.0 + 30.0 * f64::from(at % 3)).collect();
        assert_eq!(stopping.decide(&wild[..9]), Decision::Continue);
        assert_eq!(stopping.decide(&wild), Decision::Exhausted);
        assert_eq!(stopping.decide(&[0.0, 100.0, 100.0]), Decision::Continue);
        assert_eq!(stopping.interval(&[0.0, 100.0]), None);
        let one = stopping.interval(&[100.0]).unwrap();
        assert!((one.value - 100.0).abs() < 1e-9 && one.low.is_none());
    }

    #[test]
    fn a_single_look_is_a_plain_interval() {
        let fixed = Stopping::new(Rule {
            min: 5,
            max: 5,
            ..RULE
        })
        .unwrap();
        assert_eq!(fixed.nominal(), 0.95);
        let more = Stopping::new(RULE).unwrap().nominal();
        assert!(more > 0.95 && more < 0.99, "{more}");
    }

    #[test]
    fn rules_that_are_none_are_refused() {
        let refused = |rule| Stopping::new(rule).unwrap_err().to_string();
        assert_eq!(
            refused(Rule { min: 1, ..RULE }),
            "min: 1 is not from 2 to 1000: one block says nothing of how blocks differ"
        );
        assert_eq!(
            refused(Rule { max: 2, ..RULE }),
            "max: 2 is not from min, 3, to 1000"
        );
        assert_eq!(
            refused(Rule {
                half_width: f64::NAN,
                ..RULE
            }),
            "until.halfWidth: NaN is not above 0 and at most 1 (100%)"
        );
        assert_eq!(
            refused(Rule {
                confidence: 95.0,
                ..RULE
            }),
            "until.confidence: 95 is not from 0.5 to 0.999"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn decisions_depend_on_ratios_alone(
            values in prop::collection::vec(0.5_f64..2.0, 0..12), scale in 1e-3_f64..1e3,
        ) {
            let stopping = naive(RULE);
            let scaled: Vec<f64> = values.iter().map(|value| value * scale).collect();
            prop_assert_eq!(stopping.decide(&values), stopping.decide(&scaled));
            if stopping.decide(&values) == Decision::Enough {
                let found = stopping.interval(&values).unwrap();
                prop_assert!(found.high.unwrap() / found.value <= 1.03 + 1e-9);
            }
        }
    }
}

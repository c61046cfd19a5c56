//! Means with 95% t-intervals, and what they go over.
//!
//! A replicate is a fresh process and one block of the run order, and iterations are nested in it. So an interval goes
//! over block means where a combination was replicated, and else over iterations, which say nothing of what differs
//! between processes. It never goes over pooled combinations: how they differ is the effect, not the error.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, FisherSnedecor, StudentsT};

/// The values that an interval goes over.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Over {
    /// Block means: one per replicate.
    Replicates,
    /// Iterations of one process per combination.
    Iterations,
}

/// A mean, its spread and its 95% t-interval.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// The mean over combinations of each one's mean.
    pub mean: f64,
    /// The values that `count`, `sd` and the interval go over.
    pub over: Over,
    /// Blocks, or iterations of all combinations.
    pub count: u32,
    /// Standard deviation of the block means or, pooled over combinations, of the iterations; absent where unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    /// The interval's lower end; absent where the spread is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The interval's upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Coefficient of variation: `sd` over the mean; absent where either is unknown or the mean is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cv: Option<f64>,
    /// Median of the block means, or of one combination's iterations; absent where it is unknown, as over the
    /// iterations of several combinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
    /// The least of what the median goes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Metrics by name.
pub type Estimates = BTreeMap<String, Estimate>;

/// A figure with its 95% interval over replicates, where there are at least two.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// The figure.
    pub value: f64,
    /// The interval's lower end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The interval's upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// A metric of one trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The trial's block.
    pub replicate: u32,
    /// Its value.
    pub value: f64,
    /// How it varied over the trial's iterations, where that is known.
    pub within: Option<Within>,
}

/// How a trial's value varied over its iterations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Within {
    /// Standard deviation over the iterations.
    pub sd: f64,
    /// Iterations, at least 2.
    pub count: u32,
    /// Their median, least and greatest value, where they are known.
    pub range: Option<[f64; 3]>,
}

/// The mean over combinations, each given by its trials, with an interval for these very combinations.
///
/// Over replicates: block r has the mean M + average over the replicated combinations c in r of (y_cr − ȳ_c), where
/// ȳ_c is a combination's mean and M the mean of all ȳ_c. In a complete design that is the plain mean of the block;
/// where trials are missing, blocks do not differ just because they hold other combinations.
///
/// Over iterations: the standard error of M is √Σ(s_c²/k_c)/C for C combinations of k_c iterations, with the degrees of
/// freedom of Welch and Satterthwaite.
///
/// `None` without any trial.
#[must_use]
pub fn estimate(combinations: &[Vec<Observation>]) -> Option<Estimate> {
    let scale = magnitude(combinations.iter().flatten().map(|trial| trial.value));
    let scaled: Vec<Vec<Observation>> = combinations
        .iter()
        .filter(|trials| !trials.is_empty())
        .map(|trials| trials.iter().map(|trial| trial.over(scale)).collect())
        .collect();
    let combinations: Vec<(&[Observation], f64)> = scaled
        .iter()
        .map(|trials| {
            (
                trials.as_slice(),
                mean(trials.iter().map(|trial| trial.value)),
            )
        })
        .collect();
    if combinations.is_empty() {
        return None;
    }
    let overall = mean(combinations.iter().map(|(_, mean)| *mean));
    let mut blocks: BTreeMap<u32, (f64, u32)> = BTreeMap::new();
    for (trials, mean) in combinations.iter().filter(|(trials, _)| trials.len() > 1) {
        for trial in *trials {
            let (sum, count) = blocks.entry(trial.replicate).or_default();
            *sum += trial.value - mean;
            *count += 1;
        }
    }
    let estimate = if blocks.len() > 1 {
        over_replicates(overall, &blocks)
    } else {
        over_iterations(overall, &combinations)
    };
    let estimate = estimate.divided_by(scale.recip());
    estimate.mean.is_finite().then(|| estimate.finite())
}

/// The power of two below the largest of some magnitudes: what is divided by it can be squared, and neither overflows
/// nor becomes nothing. Being a power of two, it changes no digit of what would not have anyway. 1 where there is none.
pub(crate) fn magnitude(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values
        .filter(|value| value.is_finite())
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    if largest == 0.0 {
        return 1.0;
    }
    // The exponent's bits alone. The least is that of the normal numbers, whose inverse is a number still.
    f64::from_bits(largest.to_bits() & f64::INFINITY.to_bits()).max(f64::MIN_POSITIVE)
}

impl Observation {
    /// The same in another unit, which has this many of the old one.
    fn over(self, scale: f64) -> Self {
        Self {
            value: self.value / scale,
            within: self.within.map(|within| Within {
                sd: within.sd / scale,
                range: within.range.map(|range| range.map(|part| part / scale)),
                ..within
            }),
            ..self
        }
    }
}

impl Estimate {
    /// That of the quantity divided by a constant above 0.
    pub(crate) fn divided_by(self, divisor: f64) -> Self {
        let part = |part: Option<f64>| part.map(|part| part / divisor);
        Self {
            mean: self.mean / divisor,
            sd: part(self.sd),
            low: part(self.low),
            high: part(self.high),
            median: part(self.median),
            min: part(self.min),
            max: part(self.max),
            ..self
        }
    }

    /// Without what is no finite number, as an end beyond the largest of all numbers is.
    fn finite(mut self) -> Self {
        let has_interval = [self.sd, self.low, self.high]
            .iter()
            .all(|part| part.is_some_and(f64::is_finite));
        if !has_interval {
            (self.sd, self.low, self.high) = (None, None, None);
        }
        self
    }
}

/// A figure with the 95% t-interval of each block's figure; without one for fewer than two blocks. `None` where the
/// mean is no finite number.
pub(crate) fn over_blocks(blocks: &[f64]) -> Option<Interval> {
    let scale = magnitude(blocks.iter().copied());
    let centre = mean(blocks.iter().map(|block| block / scale));
    if !(centre * scale).is_finite() {
        return None;
    }
    if blocks.len() < 2 {
        return Some(Interval {
            value: centre * scale,
            low: None,
            high: None,
        });
    }
    let degrees = blocks.len() as f64 - 1.0;
    let squares = blocks.iter().map(|b| (b / scale - centre).powi(2));
    let variance = squares.sum::<f64>() / degrees;
    let half = t_quantile(degrees) * (variance / blocks.len() as f64).sqrt();
    Some(Interval {
        value: centre * scale,
        low: Some((centre - half) * scale),
        high: Some((centre + half) * scale),
    })
}

impl Interval {
    /// The interval of an increasing function of the figure; `None` where that is no finite number.
    pub(crate) fn map(self, function: impl Fn(f64) -> f64) -> Option<Self> {
        let value = Some(function(self.value)).filter(|value| value.is_finite())?;
        let end = |end: Option<f64>| end.map(&function).filter(|end| end.is_finite());
        let (low, high) = (end(self.low), end(self.high));
        // Half an interval would be read as a whole one.
        let both = low.is_some() && high.is_some();
        Some(Self {
            value,
            low: low.filter(|_| both),
            high: high.filter(|_| both),
        })
    }
}

fn over_replicates(overall: f64, blocks: &BTreeMap<u32, (f64, u32)>) -> Estimate {
    let deviations: Vec<f64> = blocks
        .values()
        .map(|(sum, count)| sum / f64::from(*count))
        .collect();
    let centre = mean(deviations.iter().copied());
    let degrees = deviations.len() as f64 - 1.0;
    let sd = (deviations.iter().map(|d| (d - centre).powi(2)).sum::<f64>() / degrees).sqrt();
    let half = t_quantile(degrees) * sd / (deviations.len() as f64).sqrt();
    // The value of each block if it held every combination.
    let mut values: Vec<f64> = deviations.iter().map(|d| overall + d).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    Estimate {
        mean: overall,
        over: Over::Replicates,
        count: blocks.len() as u32,
        sd: Some(sd),
        low: Some(overall - half),
        high: Some(overall + half),
        cv: cv(sd, overall),
        median: Some(f64::midpoint(
            values[middle],
            values[(values.len() - 1) / 2],
        )),
        min: values.first().copied(),
        max: values.last().copied(),
    }
}

fn over_iterations(overall: f64, combinations: &[(&[Observation], f64)]) -> Estimate {
    let within: Option<Vec<Within>> = combinations
        .iter()
        .map(|(trials, _)| trials[0].within)
        .collect();
    let Some(within) = within else {
        let count = combinations.len() as u32;
        return Estimate {
            mean: overall,
            over: Over::Iterations,
            count,
            sd: None,
            low: None,
            high: None,
            cv: None,
            median: None,
            min: None,
            max: None,
        };
    };
    let scale = magnitude(within.iter().map(|w| w.sd));
    let squares = within.len() as f64 * within.len() as f64;
    let parts = within.iter().map(|w| {
        (
            (w.sd / scale).powi(2) / f64::from(w.count) / squares,
            f64::from(w.count) - 1.0,
        )
    });
    let variance: f64 = parts.clone().map(|(part, _)| part).sum();
    let spread: f64 = parts.map(|(part, degrees)| part.powi(2) / degrees).sum();
    // Iterations that do not vary at all have an interval of no length, whatever the degrees of freedom.
    let half = if variance > 0.0 {
        t_quantile(variance.powi(2) / spread) * (variance.sqrt() * scale)
    } else {
        0.0
    };
    let sd = mean(within.iter().map(|w| (w.sd / scale).powi(2))).sqrt() * scale;
    let [median, min, max] = match within[..] {
        [
            Within {
                range: Some(range), ..
            },
        ] => range.map(Some),
        _ => [None; 3],
    };
    Estimate {
        mean: overall,
        over: Over::Iterations,
        count: within.iter().map(|w| w.count).sum(),
        sd: Some(sd),
        low: Some(overall - half),
        high: Some(overall + half),
        cv: cv(sd, overall),
        median,
        min,
        max,
    }
}

fn cv(sd: f64, mean: f64) -> Option<f64> {
    Some(sd / mean.abs()).filter(|cv| cv.is_finite())
}

/// The probability of a ratio of variances at least as large where both are the same, with the degrees of freedom of
/// either; `None` for what is no ratio.
pub(crate) fn f_probability(ratio: f64, above: f64, below: f64) -> Option<f64> {
    // The distribution panics at what is no number.
    if !(ratio.is_finite() && ratio >= 0.0) {
        return None;
    }
    // Nor does it take one that overflows by its degrees of freedom: beyond any there is no probability left.
    if !(ratio * above).is_finite() {
        return (above > 0.0).then_some(0.0);
    }
    let distribution = FisherSnedecor::new(above, below).ok()?;
    Some(distribution.sf(ratio)).filter(|p| p.is_finite())
}

/// Student's t for a two-sided 95% interval; 12.71 with one degree of freedom, that is with two blocks.
#[must_use]
pub fn t_quantile(degrees: f64) -> f64 {
    StudentsT::new(0.0, 1.0, degrees).map_or(f64::INFINITY, |t| t.inverse_cdf(0.975))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trial(replicate: u32, value: f64) -> Observation {
        Observation {
            replicate,
            value,
            within: None,
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
    }

    #[test]
    fn quantiles_are_students() {
        for (degrees, t) in [
            (1.0, 12.706_204_736),
            (4.0, 2.776_445_105),
            (9.0, 2.262_157_163),
            (30.0, 2.042_272_456),
        ] {
            assert!(
                (t_quantile(degrees) - t).abs() < 1e-6,
                "{degrees}: {}",
                t_quantile(degrees)
            );
        }
    }

    #[test]
    fn probabilities_of_ratios_are_fishers() {
        let close = |found: Option<f64>, p: f64| (found.unwrap() - p).abs() < 1e-6;
        assert!(close(f_probability(4.0, 2.0, 10.0), 0.052_922_149));
        assert!(close(f_probability(0.0, 2.0, 10.0), 1.0));
        assert!(close(f_probability(f64::MAX, 2.0, 10.0), 0.0));
        for (ratio, above) in [
            (f64::NAN, 2.0),
            (f64::INFINITY, 2.0),
            (-1.0, 2.0),
            (1.0, 0.0),
        ] {
            assert_eq!(f_probability(ratio, above, 10.0), None);
        }
    }

    #[test]
    fn blocks_and_not_combinations_make_the_interval() {
        // Two combinations, far apart; the blocks' means are 55, 56 and 57.
        let slow = vec![trial(0, 100.0), trial(1, 101.0), trial(2, 102.0)];
        let fast = vec![trial(0, 10.0), trial(1, 11.0), trial(2, 12.0)];
        let estimate = estimate(&[slow, fast]).unwrap();
        assert_eq!(
            (estimate.mean, estimate.over, estimate.count),
            (56.0, Over::Replicates, 3)
        );
        assert!(close(estimate.sd.unwrap(), 1.0));
        assert!(close(
            estimate.high.unwrap() - 56.0,
            t_quantile(2.0) / 3f64.sqrt()
        ));
    }

    #[test]
    fn a_missing_trial_does_not_shift_its_block() {
        // Block 1 lacks the slow combination: its plain mean would be 10 instead of 55.
        let slow = vec![trial(0, 100.0), trial(2, 100.0)];
        let fast = vec![trial(0, 10.0), trial(1, 10.0), trial(2, 10.0)];
        let estimate = estimate(&[slow, fast]).unwrap();
        assert_eq!(
            (estimate.mean, estimate.sd, estimate.count),
            (55.0, Some(0.0), 3)
        );
    }

    #[test]
    fn without_replicates_iterations_make_the_interval() {
        let within = Some(Within {
            sd: 2.0,
            count: 5,
            range: None,
        });
        let one = vec![Observation {
            replicate: 0,
            value: 50.0,
            within,
        }];
        let single = estimate(std::slice::from_ref(&one)).unwrap();
        assert_eq!(
            (single.over, single.count, single.sd),
            (Over::Iterations, 5, Some(2.0))
        );
        assert!(close(
            single.high.unwrap() - 50.0,
            t_quantile(4.0) * 2.0 / 5f64.sqrt()
        ));

        let two = estimate(&[one.clone(), one]).unwrap();
        assert_eq!((two.mean, two.count), (50.0, 10));
        assert!(close(
            two.high.unwrap() - 50.0,
            t_quantile(8.0) * 2.0 / 10f64.sqrt()
        ));
    }

    #[test]
    fn an_unknown_spread_gives_no_interval() {
        let estimate = estimate(&[vec![trial(3, 7.0)]]).unwrap();
        assert_eq!(
            (estimate.mean, estimate.sd, estimate.low, estimate.high),
            (7.0, None, None, None)
        );
        assert_eq!(super::estimate(&[Vec::new()]), None);
    }

    proptest! {
        #[test]
        fn in_a_complete_design_block_means_are_plain(
            values in (2usize..5, 1usize..5).prop_flat_map(|(blocks, combinations)| {
                prop::collection::vec(prop::collection::vec(1.0f64..1e3, blocks), combinations)
            }),
        ) {
            let design: Vec<Vec<Observation>> = values
                .iter()
                .map(|trials| trials.iter().zip(0..).map(|(value, block)| trial(block, *value)).collect())
                .collect();
            let estimate = estimate(&design).unwrap();
            let blocks = values[0].len();
            let means: Vec<f64> = (0..blocks).map(|block| mean(values.iter().map(|trials| trials[block]))).collect();
            let stats = crate::metrics::Stats::of(&means).unwrap();
            prop_assert!(close(estimate.mean, stats.mean));
            prop_assert!(close(estimate.sd.unwrap(), stats.std.unwrap()));
            prop_assert_eq!(estimate.count as usize, blocks);
            prop_assert!(estimate.low.unwrap() <= estimate.mean && estimate.mean <= estimate.high.unwrap());
        }
    }
}

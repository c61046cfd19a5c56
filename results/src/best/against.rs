//! Whether others are as good as the best: a test against it.
//!
//! Trials of one block have the block's conditions in common, so candidates are compared block by block: the logarithm
//! of their ratio in each, and a paired t-test, two-sided, over the blocks that both have. Pairs need not vary alike,
//! nor independently, as candidates that share a start of the engine do not.
//!
//! The best is chosen by the same data that it is tested on: the luckiest of equals looks better than they are. A
//! correction over the comparisons with it alone does not keep its promise then. So Holm's correction [Holm 1979] goes
//! over **all pairs** of candidates, whichever of them is the best: the probability that anything that is no worse than
//! the best is called worse is at most [`ALPHA`], whatever the pairs have to do with each other.
//!
//! Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::interval::f_probability;

/// The probability, for one workload and criterion, that something is called worse than the best that is not.
pub const ALPHA: f64 = 0.05;

/// Candidates of which all pairs are looked at. Of more, those with the best alone are, at the strictest level that
/// Holm's correction has, which only errs to the safe side.
const STEPPED: usize = 64;

/// The test.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Method")]
pub enum RankingMethod {
    /// Paired t-tests of logarithms over blocks, with Holm's correction over all pairs of candidates.
    PairedTHolm,
}

/// A test of the others against the best.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The test.
    pub method: RankingMethod,
    /// The probability that any of the others is called worse than the best and is not.
    pub alpha: f64,
    /// Other candidates.
    pub others: u32,
    /// Those of them that share at least two blocks with the best. The others could not be tested.
    pub tested: u32,
    /// Candidates that are worse than the best.
    pub worse: u32,
    /// The pairs that the correction goes over.
    pub comparisons: u32,
    /// The least number of blocks that the best shares with one that was tested; 0 where none was.
    pub blocks: u32,
}

/// The comparison of all candidates with the best.
pub(super) struct Judged {
    pub comparison: Comparison,
    /// Whether each is worse than the best; `None` for the best, and for those that could not be tested.
    pub worse: Vec<Option<bool>>,
}

/// Tests candidates, each given by its figure in every block, against the one that is the best.
pub(super) fn judge(candidates: &[&BTreeMap<u32, f64>], best: usize, high: bool) -> Judged {
    let logarithms: Vec<Logarithms> = candidates.iter().map(|blocks| logarithms(blocks)).collect();
    let against: Vec<Option<Paired>> = (0..candidates.len())
        .map(|at| {
            (at != best)
                .then(|| paired(&logarithms[best], &logarithms[at]))
                .flatten()
        })
        .collect();
    let (level, comparisons) = level(&logarithms);
    let worse: Vec<Option<bool>> = against
        .iter()
        .map(|pair| {
            pair.as_ref().map(|pair| {
                let behind = if high {
                    pair.mean > 0.0
                } else {
                    pair.mean < 0.0
                };
                behind && pair.probability <= level
            })
        })
        .collect();
    let tested = against.iter().flatten();
    Judged {
        comparison: Comparison {
            method: RankingMethod::PairedTHolm,
            alpha: ALPHA,
            others: candidates.len() as u32 - 1,
            tested: tested.clone().count() as u32,
            worse: worse.iter().filter(|worse| **worse == Some(true)).count() as u32,
            comparisons,
            blocks: tested.map(|pair| pair.blocks).min().unwrap_or(0),
        },
        worse,
    }
}

/// The probability up to which Holm's correction rejects, and the number of pairs that it goes over.
fn level(candidates: &[Logarithms]) -> (f64, u32) {
    let usable = |of: &&Logarithms| of.len() > 1;
    if candidates.len() > STEPPED {
        let count = candidates.iter().filter(usable).count() as u64;
        let pairs = u32::try_from(count * count.saturating_sub(1) / 2).unwrap_or(u32::MAX);
        return (ALPHA / f64::from(pairs.max(1)), pairs);
    }
    let mut probabilities = Vec::new();
    for (at, one) in candidates.iter().enumerate() {
        let others = candidates[at + 1..].iter();
        probabilities.extend(others.filter_map(|other| Some(paired(one, other)?.probability)));
    }
    probabilities.sort_by(f64::total_cmp);
    let pairs = probabilities.len();
    let mut level = f64::NEG_INFINITY;
    for (at, probability) in probabilities.into_iter().enumerate() {
        if probability > ALPHA / (pairs - at) as f64 {
            break;
        }
        level = probability;
    }
    (level, pairs as u32)
}

/// Logarithms by block, in ascending order of blocks.
type Logarithms = Vec<(u32, f64)>;

fn logarithms(blocks: &BTreeMap<u32, f64>) -> Logarithms {
    let logarithms = blocks.iter().map(|(block, figure)| (*block, figure.ln()));
    logarithms.filter(|(_, log)| log.is_finite()).collect()
}

/// The differences of two candidates over the blocks that both have.
struct Paired {
    mean: f64,
    /// Of a difference at least as large where there is none.
    probability: f64,
    blocks: u32,
}

/// Differences of logarithms below this are what rounding leaves of none.
const ROUNDING: f64 = 1e-12;

/// `None` where there are fewer than two blocks.
fn paired(one: &Logarithms, other: &Logarithms) -> Option<Paired> {
    let mut differences = Vec::with_capacity(one.len());
    let mut theirs = other.iter().peekable();
    for (block, log) in one {
        while theirs.next_if(|(at, _)| at < block).is_some() {}
        if let Some((_, their)) = theirs.next_if(|(at, _)| at == block) {
            differences.push(log - their);
        }
    }
    if differences.len() < 2 {
        return None;
    }
    let count = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / count;
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    let error = (squares / (count - 1.0) / count).sqrt();
    let probability = if mean.abs() <= ROUNDING {
        1.0
    } else if error <= ROUNDING {
        0.0
    } else {
        // The square of Student's t is Fisher's F, of one degree of freedom above.
        f_probability((mean / error).powi(2), 1.0, count - 1.0)?
    };
    Some(Paired {
        mean,
        probability,
        blocks: differences.len() as u32,
    })
}

#[cfg(test)]
mod tests {
    use inferbench_crds::splitmix::SplitMix64;
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::normal;

    fn judged(candidates: &[BTreeMap<u32, f64>], high: bool) -> (usize, Judged) {
        let mean = |of: &BTreeMap<u32, f64>| of.values().sum::<f64>() / of.len() as f64;
        let sign = if high { 1.0 } else { -1.0 };
        let best = (0..candidates.len())
            .max_by(|a, b| {
                (sign * mean(&candidates[*a])).total_cmp(&(sign * mean(&candidates[*b])))
            })
            .unwrap();
        let blocks: Vec<&BTreeMap<u32, f64>> = candidates.iter().collect();
        (best, judge(&blocks, best, high))
    }

    /// A sweep: candidates of these true figures, each with its own deviation, in blocks that differ too.
    fn sweep(
        generator: &mut SplitMix64,
        truths: &[(f64, f64)],
        blocks: u32,
        shared: f64,
    ) -> Vec<BTreeMap<u32, f64>> {
        let mut found = vec![BTreeMap::new(); truths.len()];
        for block in 0..blocks {
            let common = 0.05 * normal(generator);
            // Every two candidates share a start of the engine.
            let mut start = 0.0;
            for (at, (truth, deviation)) in truths.iter().enumerate() {
                if at % 2 == 0 {
                    start = shared * normal(generator);
                }
                let log = truth.ln() + common + start + deviation * normal(generator);
                found[at].insert(block, log.exp());
            }
        }
        found
    }

    /// How many of 2,000 seeded sweeps call anything worse that is as good as the best.
    fn wrong(truths: &[(f64, f64)], blocks: u32, shared: f64) -> u32 {
        let mut generator = SplitMix64::new(16);
        let mut wrong = 0;
        for _ in 0..2_000 {
            let candidates = sweep(&mut generator, truths, blocks, shared);
            let (best, judged) = judged(&candidates, true);
            let mistaken = judged
                .worse
                .iter()
                .zip(truths)
                .any(|(worse, (truth, _))| *worse == Some(true) && *truth >= truths[best].0);
            wrong += u32::from(mistaken);
        }
        wrong
    }

    #[test]
    fn equals_are_called_worse_in_at_most_a_twentieth_of_sweeps() {
        let alike = |count: usize| vec![(1_000.0, 0.02); count];
        let uneven: Vec<(f64, f64)> = (1..=6).map(|at| (1_000.0, 0.01 * f64::from(at))).collect();
        // Some truly worse, beside those that are equal.
        let mixed: Vec<(f64, f64)> = [1_000.0, 1_000.0, 1_000.0, 700.0, 400.0, 100.0]
            .map(|truth| (truth, 0.02))
            .to_vec();
        // Of two, one pair is compared, by a test of exactly this level: three standard errors of 2,000 sweeps are 29.
        let two = wrong(&alike(2), 3, 0.0);
        assert!(
            (71..=129).contains(&two),
            "2 equal, 3 blocks: {two} of 2,000"
        );
        for (what, count) in [
            ("6 equal, 3 blocks", wrong(&alike(6), 3, 0.0)),
            ("6 equal, 10 blocks", wrong(&alike(6), 10, 0.0)),
            ("12 equal, 5 blocks", wrong(&alike(12), 5, 0.0)),
            ("6 equal, shared starts", wrong(&alike(6), 5, 0.1)),
            ("6 of unequal deviations", wrong(&uneven, 5, 0.0)),
            ("3 equal among 6", wrong(&mixed, 5, 0.0)),
        ] {
            println!("{what}: {count} of 2,000");
            assert!(count <= 100, "{what}: {count} of 2,000");
        }
    }

    /// The mistake that the correction over all pairs avoids: with a correction over the comparisons with the best
    /// alone, equals are called worse too often, for the best was chosen for being ahead.
    #[test]
    fn a_correction_over_the_comparisons_with_the_best_alone_is_not_enough() {
        let mut generator = SplitMix64::new(16);
        let mut wrong = 0;
        for _ in 0..2_000 {
            let candidates = sweep(&mut generator, &[(1_000.0, 0.02); 12], 10, 0.0);
            let (best, _) = judged(&candidates, true);
            let logs: Vec<Logarithms> = candidates.iter().map(logarithms).collect();
            let others = (0..12).filter(|at| *at != best);
            let mut least = others
                .map(|at| paired(&logs[best], &logs[at]).unwrap())
                .map(|pair| pair.probability);
            // One-sided, as it is ahead of all.
            wrong += u32::from(least.any(|p| p / 2.0 <= ALPHA / 11.0));
        }
        println!("the naive correction: {wrong} of 2,000");
        assert!(wrong > 200, "{wrong} of 2,000");
    }

    #[test]
    fn what_is_clearly_worse_is_found() {
        let mut generator = SplitMix64::new(3);
        let truths = [1_000.0, 995.0, 800.0, 500.0, 250.0].map(|truth| (truth, 0.01));
        let mut found = 0;
        for _ in 0..200 {
            let candidates = sweep(&mut generator, &truths, 5, 0.0);
            let (_, judged) = judged(&candidates, true);
            found += u32::from(judged.worse[2..].iter().all(|worse| *worse == Some(true)));
        }
        assert!(found > 190, "{found} of 200");
    }

    #[test]
    fn one_block_tests_nothing() {
        let (_, judged) = judged(
            &[
                BTreeMap::from([(0, 1.0)]),
                BTreeMap::from([(0, 9.0)]),
                BTreeMap::from([(1, 5.0)]),
            ],
            true,
        );
        assert_eq!(judged.worse, [None; 3]);
        let found = judged.comparison;
        assert_eq!(
            (
                found.others,
                found.tested,
                found.worse,
                found.comparisons,
                found.blocks
            ),
            (2, 0, 0, 0, 0)
        );
    }

    #[test]
    fn values_without_any_spread_are_told_apart() {
        let steady = |value: f64| (0..3).map(|block| (block, value)).collect();
        let (best, judged) = judged(&[steady(2.0), steady(3.0), steady(3.0)], false);
        assert_eq!(
            (best, judged.worse),
            (0, vec![None, Some(true), Some(true)])
        );
        let (_, equal) = judged_twice(&[steady(3.0), steady(3.0)]);
        assert_eq!(equal.comparison.worse, 0);
    }

    fn judged_twice(candidates: &[BTreeMap<u32, f64>]) -> (usize, Judged) {
        judged(candidates, true)
    }

    proptest! {
        #[test]
        fn blocks_and_units_change_nothing(
            values in prop::collection::vec(prop::collection::vec(1.0_f64..100.0, 4), 2..8),
            slow in prop::collection::vec(0.5_f64..2.0, 4),
            unit in 0.001_f64..1_000.0,
        ) {
            let of = |scale: &dyn Fn(usize) -> f64| -> Vec<BTreeMap<u32, f64>> {
                values
                    .iter()
                    .map(|blocks| (0..4).map(|at| (at as u32, blocks[at] * scale(at))).collect())
                    .collect()
            };
            let plain = of(&|_| 1.0);
            let refs: Vec<&BTreeMap<u32, f64>> = plain.iter().collect();
            let moved = of(&|at| slow[at] * unit);
            let moved: Vec<&BTreeMap<u32, f64>> = moved.iter().collect();
            for high in [true, false] {
                prop_assert_eq!(
                    judge(&refs, 0, high).worse,
                    judge(&moved, 0, high).worse
                );
            }
            // A candidate that is worse when high is good is not worse when low is.
            for (high, low) in judge(&refs, 0, true).worse.into_iter().zip(judge(&refs, 0, false).worse) {
                prop_assert!(high != Some(true) || low == Some(false));
            }
        }

        #[test]
        fn more_candidates_never_make_another_worse(
            values in prop::collection::vec(prop::collection::vec(1.0_f64..100.0, 5), 3..9),
        ) {
            let all: Vec<BTreeMap<u32, f64>> = values
                .iter()
                .map(|blocks| (0..).zip(blocks.iter().copied()).collect())
                .collect();
            let (first, last) = (
                judge(&all[..2].iter().collect::<Vec<_>>(), 0, true).worse[1],
                judge(&all.iter().collect::<Vec<_>>(), 0, true).worse[1],
            );
            prop_assert!(first == Some(true) || last == Some(false));
        }
    }
}

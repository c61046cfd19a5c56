//! One metric of two sweeps: overall, and combination by combination.

use std::collections::BTreeMap;

use inferbench_crds::splitmix::SplitMix64;

use super::{
    CombinationRatio, MetricComparison, Over, RatioMethod, Verdict,
    ratio::{self, BOOTSTRAP_FROM, bootstrap_t, holm, mean, paired, welch},
};
use crate::sample::{Better, Combination, Levels, Metric};

/// A combination's logarithms by block.
type Logs = BTreeMap<u32, f64>;

/// A combination whose metric both sweeps measured.
struct Pair<'a> {
    levels: &'a Levels,
    logs: [Logs; 2],
    means: [f64; 2],
}

impl Pair<'_> {
    fn log_ratio(&self) -> f64 {
        self.means[1] - self.means[0]
    }
}

/// A metric's comparison, and how many combinations could not enter for a value that has no logarithm.
pub struct Compared {
    pub metric: Option<MetricComparison>,
    pub without_logarithm: u32,
}

/// `None` where no combination has the metric in both.
pub fn compare_metric(
    metric: &Metric,
    matched: &[[&Combination<'_>; 2]],
    random: &mut SplitMix64,
) -> Option<Compared> {
    let mut pairs = Vec::new();
    let mut without_logarithm = 0;
    for [a, b] in matched {
        let [Some(logs_a), Some(logs_b)] = [a, b].map(|side| logs(metric, side)) else {
            continue;
        };
        let (Ok(logs_a), Ok(logs_b)) = (logs_a, logs_b) else {
            without_logarithm += 1;
            continue;
        };
        let logs = [logs_a, logs_b];
        let means = logs.each_ref().map(mean_of);
        let pair = Pair {
            levels: &a.levels,
            logs,
            means,
        };
        if is_number(pair.log_ratio().exp()) {
            pairs.push(pair);
        } else {
            without_logarithm += 1;
        }
    }
    if pairs.is_empty() && without_logarithm == 0 {
        return None;
    }
    Some(Compared {
        metric: (!pairs.is_empty()).then(|| overall(metric, &pairs, random)),
        without_logarithm,
    })
}

/// `None` where it was not measured, an error where a value has no logarithm.
fn logs(metric: &Metric, combination: &Combination<'_>) -> Option<Result<Logs, ()>> {
    let blocks = combination.observe(metric);
    if blocks.is_empty() {
        return None;
    }
    let log = |value: f64| is_number(value).then(|| value.ln());
    let logs: Option<Logs> = blocks
        .iter()
        .map(|block| Some((block.replicate, log(block.value)?)))
        .collect();
    Some(logs.ok_or(()))
}

fn is_number(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn mean_of(logs: &Logs) -> f64 {
    logs.values().sum::<f64>() / logs.len() as f64
}

fn overall(metric: &Metric, pairs: &[Pair<'_>], random: &mut SplitMix64) -> MetricComparison {
    let ratios: Vec<f64> = pairs.iter().map(Pair::log_ratio).collect();
    let log = mean(&ratios);
    let blocks = block_means(pairs, 0).zip(block_means(pairs, 1));
    let (over, interval) = match &blocks {
        Some((a, b)) => {
            let bootstrap = a.len().min(b.len()) >= BOOTSTRAP_FROM;
            let interval = welch(a, b).and_then(|difference| {
                if bootstrap {
                    let samples = [(-1.0, a.as_slice()), (1.0, b.as_slice())];
                    Some((
                        RatioMethod::BootstrapT,
                        bootstrap_t(&samples, &difference, random)?,
                    ))
                } else {
                    Some((RatioMethod::WelchT, difference.interval()))
                }
            });
            (Over::Replicates, interval)
        }
        None => {
            let interval = paired(&ratios).and_then(|difference| {
                if ratios.len() >= BOOTSTRAP_FROM {
                    let samples = [(1.0, ratios.as_slice())];
                    Some((
                        RatioMethod::BootstrapT,
                        bootstrap_t(&samples, &difference, random)?,
                    ))
                } else {
                    Some((RatioMethod::PairedT, difference.interval()))
                }
            });
            (Over::Combinations, interval)
        }
    };
    let interval = interval.and_then(|(method, ends)| Some((method, exponential(ends)?)));
    let shown = interval.is_some_and(|(_, (low, high))| low > 1.0 || high < 1.0);
    let combinations = per_combination(metric, pairs);
    MetricComparison {
        metric: metric.name.into(),
        unit: metric.unit.into(),
        better: metric.better,
        ratio: log.exp(),
        low: interval.map(|(_, (low, _))| low),
        high: interval.map(|(_, (_, high))| high),
        over,
        method: interval.map(|(method, _)| method),
        verdict: verdict(metric, shown, log),
        tested: combinations.iter().filter(|c| c.p.is_some()).count() as u32,
        combinations,
    }
}

/// Each block as one number, b_r = M + R·Σ_c (y_cr − ȳ_c)/(C·R_c) over the replicated combinations c that were measured
/// in block r; ȳ_c is a combination's mean over its R_c blocks, C the number of those combinations, R that of blocks
/// and M the mean of all ȳ_c. In a complete design that is the block's plain mean; where trials are missing, blocks do
/// not differ just because they hold other combinations, and their variance is the cluster-robust one. `None` with
/// fewer than two blocks.
fn block_means(pairs: &[Pair<'_>], side: usize) -> Option<Vec<f64>> {
    let centre = mean(
        &pairs
            .iter()
            .map(|pair| pair.means[side])
            .collect::<Vec<_>>(),
    );
    let replicated = || pairs.iter().filter(|pair| pair.logs[side].len() > 1);
    let combinations = replicated().count() as f64;
    let mut blocks: BTreeMap<u32, f64> = BTreeMap::new();
    for pair in replicated() {
        let logs = &pair.logs[side];
        for (block, log) in logs {
            *blocks.entry(*block).or_default() +=
                (log - pair.means[side]) / (combinations * logs.len() as f64);
        }
    }
    let count = blocks.len() as f64;
    (blocks.len() > 1).then(|| {
        blocks
            .values()
            .map(|deviation| centre + count * deviation)
            .collect()
    })
}

fn per_combination(metric: &Metric, pairs: &[Pair<'_>]) -> Vec<CombinationRatio> {
    let tests: Vec<Option<ratio::LogDifference>> = pairs
        .iter()
        .map(|pair| {
            let [a, b] = pair
                .logs
                .each_ref()
                .map(|logs| logs.values().copied().collect::<Vec<f64>>());
            welch(&a, &b)
        })
        .collect();
    let p: Vec<f64> = tests
        .iter()
        .flatten()
        .map(ratio::LogDifference::p)
        .collect();
    let mut adjusted = holm(&p).into_iter();
    pairs
        .iter()
        .zip(&tests)
        .map(|(pair, test)| {
            let p_adjusted = test.and_then(|_| adjusted.next());
            let interval = test.and_then(|test| exponential(test.interval()));
            let shown = p_adjusted.is_some_and(|p| p <= ratio::ALPHA);
            CombinationRatio {
                levels: pair.levels.clone(),
                a: pair.means[0].exp(),
                b: pair.means[1].exp(),
                blocks_a: pair.logs[0].len() as u32,
                blocks_b: pair.logs[1].len() as u32,
                ratio: pair.log_ratio().exp(),
                low: interval.map(|(low, _)| low),
                high: interval.map(|(_, high)| high),
                p: test.map(|test| test.p()),
                p_adjusted,
                detectable: test
                    .map(|test| test.detectable(p.len()).exp())
                    .filter(|ratio| ratio.is_finite()),
                verdict: verdict(metric, shown, pair.log_ratio()),
            }
        })
        .collect()
}

/// `None` where an end is no number: an interval so wide says nothing.
fn exponential((low, high): (f64, f64)) -> Option<(f64, f64)> {
    let (low, high) = (low.exp(), high.exp());
    (is_number(low) && is_number(high)).then_some((low, high))
}

fn verdict(metric: &Metric, shown: bool, log: f64) -> Verdict {
    let speed = matches!(metric.unit, "ms" | "tokens/s");
    match (shown, speed, metric.better, log > 0.0) {
        (false, ..) => Verdict::NotShown,
        (_, true, Better::Lower, true) | (_, true, Better::Higher, false) => Verdict::Slower,
        (_, true, Better::Lower | Better::Higher, _) => Verdict::Faster,
        (.., true) => Verdict::Higher,
        (.., false) => Verdict::Lower,
    }
}

//! The choices to run: for each workload the best one by each criterion, and those that are not shown to be worse.
//!
//! Nobody chooses what users send. So the best is sought over the factors of role choice, for one workload at a time,
//! that is for each combination of the levels of workload factors, the model among them; and for their mix, see
//! [`mix`].

pub mod against;
pub mod mix;

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{Duration, factor::Role, spec::Objectives, workload::Choice};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::against::Comparison;
use crate::{
    interval::{Estimate, Estimates},
    row::Row,
    sample::{Factor, Levels, Metric, gpus},
};

/// Workloads that have a best choice of their own in the documents. Of more, those of the largest weight.
pub const WORKLOADS: usize = 512;
/// Choices as good as the best one that are named. The rest is counted.
pub const NAMED: usize = 16;

/// The respect in which a combination is the best of its workload.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Criterion {
    /// Most output tokens per second.
    HighestOutputThroughput,
    /// Least time to first token.
    LowestTtft,
    /// Most output tokens per second among those whose means keep to the objectives.
    HighestOutputThroughputWithinObjectives,
}

impl Criterion {
    /// The criteria that there are under these objectives.
    pub(crate) fn under(objectives: &Objectives) -> impl Iterator<Item = Self> + use<> {
        let within = objectives
            .limit_times()
            .then_some(Self::HighestOutputThroughputWithinObjectives);
        [Self::HighestOutputThroughput, Self::LowestTtft]
            .into_iter()
            .chain(within)
    }

    /// The one that decides what to run under these objectives.
    #[must_use]
    pub const fn first(objectives: &Objectives) -> Self {
        if objectives.limit_times() {
            Self::HighestOutputThroughputWithinObjectives
        } else {
            Self::HighestOutputThroughput
        }
    }

    /// In words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::HighestOutputThroughput => "highest output throughput",
            Self::LowestTtft => "lowest TTFT",
            Self::HighestOutputThroughputWithinObjectives => {
                "highest output throughput within the objectives"
            }
        }
    }

    /// The metric that it goes by.
    const fn metric(self) -> &'static str {
        match self {
            Self::LowestTtft => "ttftMs",
            _ => "outputThroughput",
        }
    }

    /// Whether high values are the better ones.
    const fn is_high(self) -> bool {
        !matches!(self, Self::LowestTtft)
    }
}

/// The best combination of a workload.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Best {
    /// The respect in which it is the best.
    pub criterion: Criterion,
    /// Its levels: those of workload factors say for what it is the best, the others what to choose.
    #[serde(flatten)]
    pub levels: Levels,
    /// Its output tokens per second.
    pub output_throughput: Estimate,
    /// Its time to first token, ms; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<Estimate>,
    /// Its time per output token, ms; absent for one output token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_ms: Option<Estimate>,
    /// The cost of a million output tokens, where a GPU's price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_million_output_tokens: Option<f64>,
    /// Other choices for the same workload that were not shown to be worse, those that could not be tested among them.
    pub near_ties: u32,
    /// The test behind `nearTies`; absent where there was no other choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// The first of them, by their own figure; empty where none was tested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_good: Vec<Choice>,
}

/// A combination that may be the best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub levels: &'a Levels,
    /// Its means; empty where nothing was measured.
    pub metrics: &'a Estimates,
    /// The trials behind them; empty where nothing is to be tested.
    pub trials: &'a [&'a Row],
}

/// The best of each workload, and how many workloads there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub best: Vec<Best>,
    /// Workloads, over all models.
    pub workloads: u32,
    /// Those of them that are not in `best`, as there are too many.
    pub left_out: u32,
}

/// The best choices for each workload: by model, then in the order of the other levels.
pub(crate) fn best(candidates: &[Candidate<'_>], objectives: &Objectives) -> Found {
    let mut by_workload: BTreeMap<Levels, Vec<&Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates {
        by_workload
            .entry(workload(candidate.levels))
            .or_default()
            .push(candidate);
    }
    let kept = heaviest(by_workload.keys(), objectives);
    let workloads = by_workload.len() as u32;
    let left_out = workloads - kept.len() as u32;
    let mut found = Vec::new();
    for (_, candidates) in by_workload.iter().filter(|(of, _)| kept.contains(of)) {
        for criterion in Criterion::under(objectives) {
            found.extend(pick(criterion, candidates, objectives));
        }
    }
    Found {
        best: found,
        workloads,
        left_out,
    }
}

/// The levels of the workload factors, the model among them.
#[must_use]
pub fn workload(levels: &Levels) -> Levels {
    levels.clone().of_role(Role::Workload)
}

/// At most [`WORKLOADS`] of these: those of the largest weight, of equals the first.
pub(crate) fn heaviest<'a>(
    workloads: impl Iterator<Item = &'a Levels>,
    objectives: &Objectives,
) -> BTreeSet<&'a Levels> {
    let mut all: Vec<&Levels> = workloads.collect();
    all.sort_by(|a, b| objectives.weight(b).total_cmp(&objectives.weight(a)));
    all.truncate(WORKLOADS);
    all.into_iter().collect()
}

fn pick(
    criterion: Criterion,
    candidates: &[&Candidate<'_>],
    objectives: &Objectives,
) -> Option<Best> {
    let within = criterion == Criterion::HighestOutputThroughputWithinObjectives;
    let metric = Metric::named(criterion.metric())?;
    let candidates: Vec<(&Candidate<'_>, Entry)> = candidates
        .iter()
        .filter(|of| of.metrics.contains_key("outputThroughput"))
        .filter(|of| !within || keeps_to(of.levels, of.metrics, objectives))
        .filter_map(|of| {
            let entry = Entry {
                figure: of.metrics.get(metric.name)?.mean,
                blocks: by_block(of.trials, metric),
            };
            Some((*of, entry))
        })
        .collect();
    let (candidates, entries): (Vec<&Candidate<'_>>, Vec<Entry>) = candidates.into_iter().unzip();
    let ranked = rank(&entries, criterion.is_high())?;
    let best = candidates[ranked.best];
    Some(Best {
        criterion,
        levels: best.levels.clone(),
        output_throughput: *best.metrics.get("outputThroughput")?,
        ttft_ms: best.metrics.get("ttftMs").copied(),
        tpot_ms: best.metrics.get("tpotMs").copied(),
        cost_per_million_output_tokens: best
            .metrics
            .get("outputThroughput")
            .and_then(|rate| cost_per_million(rate.mean, gpus(best.levels), objectives)),
        near_ties: ranked.near_ties,
        comparison: ranked.comparison,
        as_good: ranked
            .as_good
            .into_iter()
            .map(|at| Choice::of(candidates[at].levels))
            .collect(),
    })
}

/// A ranked figure, and its value in each block.
#[derive(Clone, Debug)]
struct Entry {
    figure: f64,
    blocks: BTreeMap<u32, f64>,
}

/// The best of several, and the others beside it.
struct Ranked {
    best: usize,
    near_ties: u32,
    comparison: Option<Comparison>,
    /// The first of those that were tested and not shown to be worse.
    as_good: Vec<usize>,
}

/// The entry with the best figure; of equals the first, so that the same rows always name the same.
fn rank(entries: &[Entry], high: bool) -> Option<Ranked> {
    let sign = if high { 1.0 } else { -1.0 };
    let better = |a: usize, b: usize| {
        (sign * entries[b].figure)
            .total_cmp(&(sign * entries[a].figure))
            .then(a.cmp(&b))
    };
    let best = (0..entries.len()).min_by(|&a, &b| better(a, b))?;
    let blocks: Vec<&BTreeMap<u32, f64>> = entries.iter().map(|entry| &entry.blocks).collect();
    let judged = against::judge(&blocks, best, high);
    let others = entries.len() as u32 - 1;
    let mut as_good: Vec<usize> = (0..entries.len())
        .filter(|at| *at != best && judged.worse[*at] == Some(false))
        .collect();
    as_good.sort_by(|&a, &b| better(a, b));
    as_good.truncate(NAMED);
    Some(Ranked {
        best,
        near_ties: others - judged.comparison.worse,
        comparison: (others > 0).then_some(judged.comparison),
        as_good,
    })
}

/// A metric in each block: the mean, where a table made elsewhere has several trials in one.
fn by_block(trials: &[&Row], metric: &Metric) -> BTreeMap<u32, f64> {
    let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for trial in trials {
        if let Some(value) = metric.value(trial) {
            let (sum, count) = sums.entry(trial.replicate).or_default();
            *sum += value;
            *count += 1.0;
        }
    }
    sums.into_iter()
        .map(|(block, (sum, count))| (block, sum / count))
        .collect()
}

/// Whether a combination keeps to the objectives, judged by means. One of one output token has no time per output
/// token, and so keeps to any; what was not measured keeps to none.
pub(crate) fn keeps_to(levels: &Levels, metrics: &Estimates, objectives: &Objectives) -> bool {
    let within = |limit: Option<Duration>, metric: &str| {
        limit.is_none_or(|limit| {
            let limit_ms = limit.std().as_secs_f64() * 1e3;
            metrics
                .get(metric)
                .is_some_and(|estimate| estimate.mean <= limit_ms)
        })
    };
    within(objectives.max_ttft, "ttftMs")
        && within(objectives.max_e2e, "ttltMs")
        && (levels.number(&Factor::OUTPUT_LENGTH) == Some(1.0)
            || within(objectives.max_tpot, "tpotMs"))
}

/// The cost of a million output tokens at a rate in tokens/s: price per GPU and second × GPUs ÷ rate × 10⁶; `None` on
/// CPU or without a price.
pub(crate) fn cost_per_million(rate: f64, gpus: u32, objectives: &Objectives) -> Option<f64> {
    let price: f64 = objectives.cost_per_gpu_hour.as_deref()?.parse().ok()?;
    let cost = price * f64::from(gpus) / 3600.0 / rate * 1e6;
    (gpus > 0 && cost.is_finite()).then_some(cost)
}

#[cfg(test)]
mod tests;

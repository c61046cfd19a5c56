//! The choices to run: for each workload the best one by each criterion, and those that are not shown to be worse.
//!
//! Nobody chooses what users send. So the best is sought over the factors of role choice, for one workload at a time,
//! that is for each combination of the levels of workload factors, the model among them; and for their mix, see
//! [`mix`].

pub mod against;
pub mod confirmed;
pub mod mix;

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{
    Duration, factor::Role, search::Searched, spec::Objectives, workload::Choice,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    against::Comparison,
    confirmed::{Confirmation, Shown},
};
use crate::{
    interval::{Estimate, Estimates, Observation, estimate},
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
    /// Highest load at which the objectives hold, where trials searched it.
    HighestCapacity,
}

impl Criterion {
    /// The criteria that there are for these candidates under these objectives. Where the load was searched, each was measured
    /// under another one, and that alone compares them.
    pub(crate) fn under(candidates: &[&Candidate<'_>], objectives: &Objectives) -> Vec<Self> {
        if candidates.iter().any(|candidate| candidate.searched()) {
            return vec![Self::HighestCapacity];
        }
        let mut criteria = vec![Self::HighestOutputThroughput, Self::LowestTtft];
        if objectives.limit_times() {
            criteria.push(Self::HighestOutputThroughputWithinObjectives);
        }
        criteria
    }

    /// The one of these that decides what to run.
    pub(crate) fn deciding(criteria: &[Self]) -> Option<Self> {
        let decides = |criterion: &&Self| !matches!(criterion, Self::LowestTtft);
        criteria.iter().rev().find(decides).copied()
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
            Self::HighestCapacity => "highest load within the objectives",
        }
    }

    /// The metric that it goes by.
    const fn metric(self) -> &'static str {
        match self {
            Self::LowestTtft => "ttftMs",
            Self::HighestCapacity => "capacity",
            _ => "outputThroughput",
        }
    }

    /// The figure of one trial that it goes by.
    fn value(self, row: &Row) -> Option<f64> {
        match self {
            Self::HighestCapacity => borne(row),
            _ => Metric::named(self.metric())?.value(row),
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
    /// Where trials searched their load: the highest one at which the objectives hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Other choices for the same workload that were not shown to be worse, those that could not be tested among them.
    pub near_ties: u32,
    /// The test behind `nearTies`; absent where there was no other choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// The first of them, by their own figure; empty where none was tested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_good: Vec<Choice>,
    /// The verdict of measuring it again; absent in a sweep that measures nothing again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
}

impl Best {
    /// The figures that are shown of it.
    #[must_use]
    pub fn shown(&self) -> Shown<'_> {
        let own = Shown {
            output_throughput: &self.output_throughput,
            ttft_ms: self.ttft_ms.as_ref(),
            tpot_ms: self.tpot_ms.as_ref(),
            cost: self.cost_per_million_output_tokens,
            capacity: self.capacity.as_ref(),
            confirmation: None,
        };
        own.or_again(self.confirmation.as_ref())
    }
}

/// The highest load at which the objectives hold: the middle of the bracket that a trial found or, where the highest load
/// that was to be tried holds, that load.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// The load that was searched.
    pub load: Searched,
    /// Its mean over blocks.
    pub of: Estimate,
}

impl Capacity {
    /// The unit of the load.
    #[must_use]
    pub const fn unit(&self) -> &'static str {
        match self.load {
            Searched::RequestRate => "requests/s",
            Searched::Concurrency => "requests in flight",
        }
    }

    fn of(trials: &[&Row]) -> Option<Self> {
        let named =
            |row: &&&Row| row.capacity_load.as_deref() == Some(Searched::Concurrency.name());
        let load = match trials.iter().find(named) {
            Some(_) => Searched::Concurrency,
            None => Searched::RequestRate,
        };
        let blocks = by_block(trials, borne);
        let observations = blocks.into_iter().map(|(replicate, value)| Observation {
            replicate,
            value,
            within: None,
        });
        let of = estimate(&[observations.collect()])?;
        Some(Self { load, of })
    }
}

/// The highest load that a trial found to hold, as far as it is one number.
fn borne(row: &Row) -> Option<f64> {
    let closed = row.capacity_rate.or(row.capacity_concurrency);
    closed.or_else(|| row.capacity_low.filter(|_| row.capacity_high.is_none()))
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

impl Candidate<'_> {
    /// Whether its trials searched their load.
    fn searched(&self) -> bool {
        self.trials.iter().any(|row| row.capacity_tests.is_some())
    }

    /// The highest load at which the objectives hold, where it was searched.
    fn capacity(&self) -> Option<Capacity> {
        self.searched().then(|| Capacity::of(self.trials)).flatten()
    }

    /// The cost of a million output tokens, where a GPU's price is known.
    fn cost_per_million(&self, objectives: &Objectives) -> Option<f64> {
        let rate = self.metrics.get("outputThroughput")?;
        cost_per_million(rate.mean, gpus(self.levels), objectives)
    }
}

/// Candidates, as all trials of the design make them and, in a sweep that measures the best again, as the trials do that
/// came after these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub candidates: &'a [Candidate<'a>],
    pub again: Option<&'a [Candidate<'a>]>,
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

/// Candidates by their workloads.
type ByWorkload<'a> = BTreeMap<Levels, Vec<&'a Candidate<'a>>>;

fn by_workload<'a>(candidates: &'a [Candidate<'a>]) -> ByWorkload<'a> {
    let mut found = ByWorkload::new();
    for candidate in candidates {
        found
            .entry(workload(candidate.levels))
            .or_default()
            .push(candidate);
    }
    found
}

/// The best choices for each workload: by model, then in the order of the other levels.
pub(crate) fn best(field: Field<'_>, objectives: &Objectives) -> Found {
    let by_workload = by_workload(field.candidates);
    let again = field.again.map(self::by_workload);
    let kept = heaviest(by_workload.keys(), objectives);
    let workloads = by_workload.len() as u32;
    let left_out = workloads - kept.len() as u32;
    let mut found = Vec::new();
    for (of, candidates) in by_workload.iter().filter(|(of, _)| kept.contains(of)) {
        let again = again.as_ref();
        let again = again.map(|again| again.get(of).map_or(&[][..], Vec::as_slice));
        for criterion in Criterion::under(candidates, objectives) {
            found.extend(pick(criterion, candidates, again, objectives));
        }
    }
    Found {
        best: found,
        workloads,
        left_out,
    }
}

/// The combinations to be measured again before any is called the best: for each workload and for the mix of each model
/// the best by the criterion that decides and the first of those that are not shown to be worse, at most `choices`
/// together.
pub(crate) fn contenders<'a>(
    candidates: &'a [Candidate<'a>],
    objectives: &Objectives,
    choices: usize,
) -> BTreeSet<&'a Levels> {
    let by_workload = by_workload(candidates);
    let kept = heaviest(by_workload.keys(), objectives);
    let mut found = BTreeSet::new();
    for (_, candidates) in by_workload.iter().filter(|(of, _)| kept.contains(of)) {
        let criteria = Criterion::under(candidates, objectives);
        let ranking = Criterion::deciding(&criteria)
            .and_then(|criterion| Ranking::of(criterion, candidates, objectives));
        let Some(Ranking { of, ranked }) = ranking else {
            continue;
        };
        let first = ranked.not_worse.iter().take(choices);
        found.extend(first.map(|at| of[*at].levels));
    }
    found.extend(mix::contenders(candidates, objectives, choices));
    found
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

/// The candidates that a criterion ranks.
struct Ranking<'a> {
    of: Vec<&'a Candidate<'a>>,
    ranked: Ranked,
}

impl<'a> Ranking<'a> {
    fn of(
        criterion: Criterion,
        candidates: &[&'a Candidate<'a>],
        objectives: &Objectives,
    ) -> Option<Self> {
        let within = criterion == Criterion::HighestOutputThroughputWithinObjectives;
        let eligible = candidates
            .iter()
            .filter(|of| of.metrics.contains_key("outputThroughput"))
            .filter(|of| !within || keeps_to(of.levels, of.metrics, objectives));
        let (of, entries): (Vec<&Candidate<'_>>, Vec<Entry>) = eligible
            .filter_map(|of| Some((*of, Entry::of(criterion, of)?)))
            .unzip();
        let ranked = rank(&entries, criterion.is_high())?;
        Some(Self { of, ranked })
    }
}

fn pick(
    criterion: Criterion,
    candidates: &[&Candidate<'_>],
    again: Option<&[&Candidate<'_>]>,
    objectives: &Objectives,
) -> Option<Best> {
    let Ranking { of, ranked } = Ranking::of(criterion, candidates, objectives)?;
    let best = of[ranked.best];
    Some(Best {
        criterion,
        levels: best.levels.clone(),
        output_throughput: *best.metrics.get("outputThroughput")?,
        ttft_ms: best.metrics.get("ttftMs").copied(),
        tpot_ms: best.metrics.get("tpotMs").copied(),
        cost_per_million_output_tokens: best.cost_per_million(objectives),
        capacity: best.capacity(),
        near_ties: ranked.near_ties,
        comparison: ranked.comparison,
        as_good: ranked
            .as_good
            .into_iter()
            .map(|at| Choice::of(of[at].levels))
            .collect(),
        confirmation: again.map(|again| confirmation(criterion, best.levels, again, objectives)),
    })
}

/// The best of a workload among what was measured again of that.
fn confirmation(
    criterion: Criterion,
    best: &Levels,
    again: &[&Candidate<'_>],
    objectives: &Objectives,
) -> Confirmation {
    let (of, entries): (Vec<&Candidate<'_>>, Vec<Entry>) = again
        .iter()
        .filter_map(|of| Some((*of, Entry::of(criterion, of)?)))
        .unzip();
    let Some(at) = of.iter().position(|of| of.levels == best) else {
        return Confirmation::default();
    };
    let own = of[at];
    let found = Confirmation {
        output_throughput: own.metrics.get("outputThroughput").copied(),
        ttft_ms: own.metrics.get("ttftMs").copied(),
        tpot_ms: own.metrics.get("tpotMs").copied(),
        cost_per_million_output_tokens: own.cost_per_million(objectives),
        capacity: own.capacity(),
        ..Confirmation::default()
    };
    let choice = |at: usize| Choice::of(of[at].levels);
    found.judged(
        criterion,
        at,
        &entries,
        choice,
        keeps_to(own.levels, own.metrics, objectives),
    )
}

/// A ranked figure, and its value in each block.
#[derive(Clone, Debug)]
struct Entry {
    figure: f64,
    blocks: BTreeMap<u32, f64>,
}

impl Entry {
    /// A candidate by a criterion; `None` where nothing was measured.
    fn of(criterion: Criterion, of: &Candidate<'_>) -> Option<Self> {
        let blocks = by_block(of.trials, |row| criterion.value(row));
        let figure = match criterion {
            Criterion::HighestCapacity if blocks.is_empty() => return None,
            Criterion::HighestCapacity => blocks.values().sum::<f64>() / blocks.len() as f64,
            _ => of.metrics.get(criterion.metric())?.mean,
        };
        Some(Self { figure, blocks })
    }
}

/// The best of several, and the others beside it.
struct Ranked {
    best: usize,
    near_ties: u32,
    comparison: Option<Comparison>,
    /// The first of those that were tested and not shown to be worse.
    as_good: Vec<usize>,
    /// The best and all that are not shown to be worse, tested or not, by their figures.
    not_worse: Vec<usize>,
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
    let mut not_worse: Vec<usize> = (0..entries.len())
        .filter(|at| judged.worse[*at] != Some(true))
        .collect();
    not_worse.sort_by(|&a, &b| better(a, b));
    let as_good = not_worse
        .iter()
        .filter(|at| judged.worse[**at] == Some(false));
    Some(Ranked {
        best,
        near_ties: others - judged.comparison.worse,
        comparison: (others > 0).then_some(judged.comparison),
        as_good: as_good.take(NAMED).copied().collect(),
        not_worse,
    })
}

/// A figure in each block: the mean, where a table made elsewhere has several trials in one.
fn by_block(trials: &[&Row], value: impl Fn(&Row) -> Option<f64>) -> BTreeMap<u32, f64> {
    let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for trial in trials {
        if let Some(value) = value(trial) {
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

//! The best choice for a mix of workloads.
//!
//! A server has one configuration for all that comes. So a choice is judged by what it makes of the whole mix, in
//! which the requests of workload w have the share p_w (Σ p_w = 1):
//!
//! - **Output throughput**: X = Σ p_w·n_w ÷ Σ p_w·(n_w ÷ X_w), tokens/s, with n_w output tokens of a request and X_w
//!   the throughput that was measured of the workload. n_w ÷ X_w is the time that one of its requests takes of the
//!   engine, so X is all tokens over all time: a harmonic mean of the X_w, weighted by tokens. Their arithmetic mean
//!   would be the rate of an engine that gives every workload the same *time*, however much work it is: one fast
//!   workload would hide a slow one.
//! - **Latencies** (TTFT, TPOT): Σ p_w·L_w, the mean over requests; of TPOT over those that have more than one output
//!   token.
//!
//! Both take the workloads one after another, as they were measured. The effect of requests of several workloads on
//! each other in one batch was not measured, and is in no figure here.
//!
//! Intervals and tests go over blocks: the mix's figure in each. Where a block lacks some of the trials, it is what the
//! others deviate by, by weight, as in [`crate::interval::estimate`]; with less than half of the weight it is left out.

use std::collections::BTreeMap;

use inferbench_crds::{
    spec::Objectives,
    workload::{Choice, Weighted, Workload},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Candidate, Criterion, Entry, Field, Ranked,
    against::Comparison,
    by_block,
    confirmed::{Confirmation, Shown},
    cost_per_million, keeps_to, rank,
};
use crate::{
    interval::{Estimate, Observation, estimate},
    sample::{Factor, Levels, Metric, gpus, model},
};

/// Where the weights of a mix come from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Weights {
    /// From the objectives.
    Given,
    /// From nowhere: all workloads of the sweep count alike.
    Alike,
}

/// A mix of workloads, and what each choice makes of it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Mix {
    /// The model.
    pub model: String,
    /// Where the weights come from.
    pub weights: Weights,
    /// The workloads, with their requests in relation to those of the others.
    pub workloads: Vec<Weighted>,
    /// Workloads of the sweep that do not count, as no choice has a valid trial of them. Of given weights all count.
    pub unmeasured: u32,
    /// The best choice by each criterion; none where no choice is eligible.
    pub best: Vec<MixBest>,
    /// Every eligible choice: those with a valid trial of every workload.
    pub choices: Vec<MixChoice>,
    /// The choices that are not eligible.
    pub lacking: Vec<Lacking>,
}

/// The figures of a choice for a mix.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MixChoice {
    /// The choice.
    #[serde(flatten)]
    pub choice: Choice,
    /// All output tokens of the mix over the time that they take, tokens/s.
    pub output_throughput: Estimate,
    /// Mean time to first token over the requests, ms; absent where it was not measured of every workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<Estimate>,
    /// Mean time per output token over the requests with more than one, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_ms: Option<Estimate>,
    /// The cost of a million output tokens, where a GPU's price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_million_output_tokens: Option<f64>,
    /// Whether its means keep to the objectives in every workload of the mix; absent without objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_objectives: Option<bool>,
}

/// The best choice for a mix.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MixBest {
    /// The respect in which it is the best.
    pub criterion: Criterion,
    /// The choice and its figures.
    #[serde(flatten)]
    pub of: MixChoice,
    /// Other eligible choices that were not shown to be worse, those that could not be tested among them.
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

impl MixBest {
    /// The figures that are shown of it.
    #[must_use]
    pub fn shown(&self) -> Shown<'_> {
        let own = Shown {
            output_throughput: &self.of.output_throughput,
            ttft_ms: self.of.ttft_ms.as_ref(),
            tpot_ms: self.of.tpot_ms.as_ref(),
            cost: self.of.cost_per_million_output_tokens,
            capacity: None,
            confirmation: None,
        };
        own.or_again(self.confirmation.as_ref())
    }
}

/// A choice that is not eligible.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Lacking {
    /// The choice.
    #[serde(flatten)]
    pub choice: Choice,
    /// Workloads of the mix of which it has no valid trial.
    pub workloads: u32,
}

/// The mix of each model: the given one, else all workloads alike where there are several. None where the load was searched:
/// what a choice makes of several workloads at once was not measured then.
pub(crate) fn mixes(field: Field<'_>, objectives: &Objectives) -> Vec<Mix> {
    let again = field.again.map(by_model);
    let mixes = by_model(field.candidates).into_iter();
    mixes
        .filter_map(|(model, candidates)| {
            let again = again.as_ref();
            let again = again.map(|again| again.get(model).map_or(&[][..], Vec::as_slice));
            mix(model, &candidates, again, objectives)
        })
        .collect()
}

/// The combinations to be measured again for the mix of each model: those of its best choice by the criterion that decides
/// and of the first that are not shown to be worse, at most `choices` together.
pub(super) fn contenders<'a>(
    candidates: &'a [Candidate<'a>],
    objectives: &Objectives,
    choices: usize,
) -> Vec<&'a Levels> {
    let mut found = Vec::new();
    for candidates in by_model(candidates).values() {
        let criteria = Criterion::under(candidates, objectives);
        let Some((criterion, workloads)) =
            Criterion::deciding(&criteria).zip(Workloads::of(candidates, objectives))
        else {
            continue;
        };
        let (measured, _) = workloads.measure(candidates, objectives);
        let Some((eligible, ranked)) = ranked(criterion, &measured) else {
            continue;
        };
        for of in ranked.not_worse.iter().take(choices) {
            let choice = &eligible[*of].choice.choice;
            let own = candidates
                .iter()
                .filter(|candidate| Choice::of(candidate.levels) == *choice)
                .filter(|candidate| workloads.has(candidate.levels));
            found.extend(own.map(|candidate| candidate.levels));
        }
    }
    found
}

fn by_model<'a>(candidates: &'a [Candidate<'a>]) -> BTreeMap<&'a str, Vec<&'a Candidate<'a>>> {
    let mut by_model: BTreeMap<&str, Vec<&Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates {
        by_model
            .entry(model(candidate.levels))
            .or_default()
            .push(candidate);
    }
    by_model
}

/// The workloads of a mix.
struct Workloads {
    given: bool,
    all: Vec<Weighted>,
    unmeasured: u32,
}

impl Workloads {
    /// Those of a model's candidates; `None` where there is no mix.
    fn of(candidates: &[&Candidate<'_>], objectives: &Objectives) -> Option<Self> {
        if candidates.iter().any(|candidate| candidate.searched()) {
            return None;
        }
        let given = !objectives.workloads.is_empty();
        let (all, unmeasured) = if given {
            (objectives.workloads.clone(), 0)
        } else {
            alike(candidates)
        };
        let is_none = all.is_empty() || (!given && all.len() < 2);
        (!is_none).then_some(Self {
            given,
            all,
            unmeasured,
        })
    }

    /// Whether a combination is of one of them.
    fn has(&self, levels: &Levels) -> bool {
        let workload = Workload::of(levels);
        self.all.iter().any(|weighted| {
            weighted.workload == workload || (self.given && weighted.workload.matches(levels))
        })
    }

    /// The figures of each choice for them, and the choices that lack any.
    fn measure(
        &self,
        candidates: &[&Candidate<'_>],
        objectives: &Objectives,
    ) -> (Vec<Measured>, Vec<Lacking>) {
        let mut by_choice: BTreeMap<Choice, BTreeMap<Workload, &Candidate<'_>>> = BTreeMap::new();
        for candidate in candidates {
            by_choice
                .entry(Choice::of(candidate.levels))
                .or_default()
                .insert(Workload::of(candidate.levels), candidate);
        }
        let mut measured = Vec::new();
        let mut lacking = Vec::new();
        for (choice, candidates) in by_choice {
            let cells: Vec<Cell<'_>> = self
                .all
                .iter()
                .filter_map(|weighted| {
                    // A given one need not name what has one level only.
                    let candidate = candidates.get(&weighted.workload).copied().or_else(|| {
                        let mut all = candidates.values().copied();
                        all.find(|candidate| {
                            self.given && weighted.workload.matches(candidate.levels)
                        })
                    });
                    Cell::of(weighted.weight.get(), candidate?)
                })
                .collect();
            let missing = (self.all.len() - cells.len()) as u32;
            match Measured::of(&choice, &cells, objectives).filter(|_| missing == 0) {
                Some(found) => measured.push(found),
                None => lacking.push(Lacking {
                    choice,
                    workloads: missing,
                }),
            }
        }
        (measured, lacking)
    }
}

fn mix(
    model: &str,
    candidates: &[&Candidate<'_>],
    again: Option<&[&Candidate<'_>]>,
    objectives: &Objectives,
) -> Option<Mix> {
    let workloads = Workloads::of(candidates, objectives)?;
    let (measured, lacking) = workloads.measure(candidates, objectives);
    let again = again.map(|again| workloads.measure(again, objectives).0);
    let best = Criterion::under(candidates, objectives)
        .into_iter()
        .filter_map(|criterion| best(criterion, &measured, again.as_deref()))
        .collect();
    Some(Mix {
        model: model.into(),
        weights: if workloads.given {
            Weights::Given
        } else {
            Weights::Alike
        },
        workloads: workloads.all,
        unmeasured: workloads.unmeasured,
        best,
        choices: measured.into_iter().map(|of| of.choice).collect(),
        lacking,
    })
}

/// The workloads with a valid trial of any choice, alike, and the number of the others.
fn alike(candidates: &[&Candidate<'_>]) -> (Vec<Weighted>, u32) {
    let mut measured: BTreeMap<Workload, bool> = BTreeMap::new();
    for candidate in candidates {
        *measured.entry(Workload::of(candidate.levels)).or_default() |=
            Cell::of(1.0, candidate).is_some();
    }
    let all = measured.len();
    let workloads: Vec<Weighted> = measured
        .into_iter()
        .filter(|(_, measured)| *measured)
        .map(|(workload, _)| Weighted {
            workload,
            weight: inferbench_crds::factor::Number::ONE,
        })
        .collect();
    let unmeasured = (all - workloads.len()) as u32;
    (workloads, unmeasured)
}

/// A choice at one workload of the mix.
struct Cell<'a> {
    weight: f64,
    /// Output tokens of a request.
    tokens: f64,
    candidate: &'a Candidate<'a>,
    /// Output tokens/s in each block.
    throughput: BTreeMap<u32, f64>,
}

impl<'a> Cell<'a> {
    /// `None` without a valid trial that has a throughput.
    fn of(weight: f64, candidate: &'a Candidate<'a>) -> Option<Self> {
        let metric = Metric::named("outputThroughput")?;
        let throughput = by_block(candidate.trials, |row| metric.value(row));
        let usable = throughput.values().all(|rate| *rate > 0.0);
        (usable && !throughput.is_empty()).then(|| Self {
            weight,
            tokens: candidate
                .levels
                .number(&Factor::OUTPUT_LENGTH)
                .filter(|tokens| *tokens > 0.0)
                .unwrap_or(1.0),
            candidate,
            throughput,
        })
    }
}

/// A choice with its figures, in all and in each block.
struct Measured {
    choice: MixChoice,
    throughput: BTreeMap<u32, f64>,
    ttft: BTreeMap<u32, f64>,
}

impl Measured {
    fn of(choice: &Choice, cells: &[Cell<'_>], objectives: &Objectives) -> Option<Self> {
        let weight: f64 = cells.iter().map(|cell| cell.weight).sum();
        let tokens: f64 = cells.iter().map(|cell| cell.weight * cell.tokens).sum();
        let times: Vec<Part> = cells
            .iter()
            .map(|cell| Part {
                weight: cell.weight,
                blocks: cell
                    .throughput
                    .iter()
                    .map(|(block, rate)| (*block, cell.tokens / rate))
                    .collect(),
            })
            .collect();
        let (output_throughput, throughput) = average(&times, |time| tokens / weight / time)?;
        let latency = |name: &str, counts: &dyn Fn(&Cell<'_>) -> bool| {
            let metric = Metric::named(name)?;
            let parts: Vec<Part> = cells
                .iter()
                .filter(|cell| counts(cell))
                .map(|cell| Part {
                    weight: cell.weight,
                    blocks: by_block(cell.candidate.trials, |row| metric.value(row)),
                })
                .collect();
            average(&parts, |latency| latency)
        };
        let ttft = latency("ttftMs", &|_| true);
        let tpot = latency("tpotMs", &|cell| cell.tokens > 1.0);
        let keeps = cells
            .iter()
            .map(|cell| cell.candidate)
            .all(|of| keeps_to(of.levels, of.metrics, objectives));
        let choice = MixChoice {
            choice: choice.clone(),
            output_throughput,
            ttft_ms: ttft.as_ref().map(|(ttft, _)| *ttft),
            tpot_ms: tpot.map(|(tpot, _)| tpot),
            cost_per_million_output_tokens: cost_per_million(
                output_throughput.mean,
                gpus(choice.levels()),
                objectives,
            ),
            keeps_objectives: objectives.limit_times().then_some(keeps),
        };
        Some(Self {
            choice,
            throughput,
            ttft: ttft.map(|(_, blocks)| blocks).unwrap_or_default(),
        })
    }

    /// The figure that a criterion ranks it by.
    fn entry(&self, criterion: Criterion) -> Option<Entry> {
        let (estimate, blocks) = match criterion {
            Criterion::LowestTtft => (self.choice.ttft_ms?, &self.ttft),
            _ => (self.choice.output_throughput, &self.throughput),
        };
        Some(Entry {
            figure: estimate.mean,
            blocks: blocks.clone(),
        })
    }
}

/// The best for a mix among what was measured again of all its workloads.
fn confirmation(criterion: Criterion, best: &Choice, again: &[Measured]) -> Confirmation {
    let (of, entries): (Vec<&Measured>, Vec<Entry>) = again
        .iter()
        .filter_map(|of| Some((of, of.entry(criterion)?)))
        .unzip();
    let Some(at) = of.iter().position(|of| of.choice.choice == *best) else {
        return Confirmation::default();
    };
    let own = &of[at].choice;
    let found = Confirmation {
        output_throughput: Some(own.output_throughput),
        ttft_ms: own.ttft_ms,
        tpot_ms: own.tpot_ms,
        cost_per_million_output_tokens: own.cost_per_million_output_tokens,
        ..Confirmation::default()
    };
    let choice = |at: usize| of[at].choice.choice.clone();
    found.judged(
        criterion,
        at,
        &entries,
        choice,
        own.keeps_objectives != Some(false),
    )
}

/// A quantity of one workload's requests: its weight, and its values by block.
struct Part {
    weight: f64,
    blocks: BTreeMap<u32, f64>,
}

/// The least share of the weight that a block has to hold.
const HELD: f64 = 0.5;

/// A figure of the mean over all requests, with its interval over blocks, and the figure in each. `None` where a part
/// has no value, or the figure is no number.
fn average(parts: &[Part], figure: impl Fn(f64) -> f64) -> Option<(Estimate, BTreeMap<u32, f64>)> {
    let total: f64 = parts.iter().map(|part| part.weight).sum();
    if parts.is_empty() || parts.iter().any(|part| part.blocks.is_empty()) {
        return None;
    }
    let mean = |part: &Part| part.blocks.values().sum::<f64>() / part.blocks.len() as f64;
    let centre = parts
        .iter()
        .map(|part| part.weight * mean(part))
        .sum::<f64>()
        / total;
    let mut deviations: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for part in parts.iter().filter(|part| part.blocks.len() > 1) {
        let mean = mean(part);
        for (block, value) in &part.blocks {
            let (sum, weight) = deviations.entry(*block).or_default();
            *sum += part.weight * (value - mean);
            *weight += part.weight;
        }
    }
    let blocks: BTreeMap<u32, f64> = deviations
        .into_iter()
        .filter(|(_, (_, weight))| *weight >= HELD * total)
        .map(|(block, (sum, weight))| (block, figure(centre + sum / weight)))
        .filter(|(_, figure)| figure.is_finite() && *figure > 0.0)
        .collect();
    let observation = |(replicate, value): (u32, f64)| Observation {
        replicate,
        value,
        within: None,
    };
    let observations: Vec<Observation> = if blocks.len() > 1 {
        blocks
            .iter()
            .map(|(at, value)| (*at, *value))
            .map(observation)
            .collect()
    } else {
        vec![observation((0, figure(centre)))]
    };
    Some((estimate(&[observations])?, blocks))
}

/// The choices that are eligible by a criterion, and how it ranks them.
fn ranked(criterion: Criterion, measured: &[Measured]) -> Option<(Vec<&Measured>, Ranked)> {
    let within = criterion == Criterion::HighestOutputThroughputWithinObjectives;
    let (eligible, entries): (Vec<&Measured>, Vec<Entry>) = measured
        .iter()
        .filter(|of| !within || of.choice.keeps_objectives == Some(true))
        .filter_map(|of| Some((of, of.entry(criterion)?)))
        .unzip();
    let ranked = rank(&entries, criterion.is_high())?;
    Some((eligible, ranked))
}

fn best(
    criterion: Criterion,
    measured: &[Measured],
    again: Option<&[Measured]>,
) -> Option<MixBest> {
    let (eligible, ranked) = ranked(criterion, measured)?;
    let of = eligible[ranked.best].choice.clone();
    Some(MixBest {
        criterion,
        near_ties: ranked.near_ties,
        comparison: ranked.comparison,
        as_good: ranked
            .as_good
            .into_iter()
            .map(|at| eligible[at].choice.choice.clone())
            .collect(),
        confirmation: again.map(|again| confirmation(criterion, &of.choice, again)),
        of,
    })
}

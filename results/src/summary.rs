//! `summary.json`: what a sweep says at a glance. It depends on nothing but the rows, the objectives and the design's
//! `until`.
//!
//! Only the latest attempt at each trial enters, and only where it succeeded and is valid; the rest is counted.

use std::collections::BTreeMap;

use inferbench_crds::{outcome::Outcome, spec::Objectives};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    best::{self, Candidate, Field, Found, against::Comparison, mix},
    counts::Counts,
    interval::{Estimate, Observation, Over, estimate, t_quantile},
    looks::{Looks, Stopped},
    numbers,
    row::Row,
    sample::{
        Combination, Factor, Level, Levels, METRICS, Metric, combine, factors, gpus,
        in_replicates_of_all, is_invalid, is_valid, latest_attempts, latest_of_all, whole_blocks,
    },
    validity::Basis,
};
pub use crate::{
    best::{
        Best, Criterion,
        confirmed::{Confirmation, Verdict},
        mix::{Lacking, Mix, MixBest, MixChoice, Weights},
    },
    interval::Estimates,
};

/// Changes whenever the meaning or the shape of a summary does.
pub const SUMMARY_VERSION: &str = "inferbench.dev/summary/v1";

/// A sweep at a glance.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// [`SUMMARY_VERSION`].
    pub schema_version: String,
    /// The sweep's name.
    pub sweep: String,
    /// The limits that the best combinations had to keep to.
    #[serde(default)]
    pub objectives: Objectives,
    /// How the trials ended.
    pub counts: Counts,
    /// The trials that the figures rest on.
    #[serde(default)]
    pub basis: Basis,
    /// Notes that a reader needs beside these figures.
    pub notes: Vec<String>,
    /// The units of the metrics.
    pub units: BTreeMap<String, String>,
    /// The rule by which combinations ran no further, of a design that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// The best choices for each workload, that is for each combination of the model and the other factors that nobody
    /// chooses: at most 512 workloads, those of the largest weight.
    pub best: Vec<Best>,
    /// Workloads of the sweep, over all models.
    #[serde(default)]
    pub workloads: u32,
    /// Those of them that `best` leaves out.
    #[serde(default, skip_serializing_if = "crate::counts::is_zero")]
    pub workloads_left_out: u32,
    /// The best choices for a mix of workloads, of each model that has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixes: Vec<Mix>,
    /// Each level of each factor, over all combinations that have it.
    pub levels: Vec<LevelSummary>,
    /// Each combination.
    pub combinations: Vec<CombinationSummary>,
}

impl Summary {
    /// The factors that the sweep asks for: those that words and tables name.
    #[must_use]
    pub fn asked(&self) -> Vec<Factor> {
        factors(self.combinations.iter().map(|c| &c.levels))
    }

    /// The criterion that decides what to run.
    #[must_use]
    pub fn decides(&self) -> Criterion {
        let searched = |best: &Best| best.criterion == Criterion::HighestCapacity;
        if self.best.iter().any(searched) {
            Criterion::HighestCapacity
        } else if self.objectives.limit_times() {
            Criterion::HighestOutputThroughputWithinObjectives
        } else {
            Criterion::HighestOutputThroughput
        }
    }
}

/// One level of one factor, over the blocks that hold every combination.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LevelSummary {
    /// The factor.
    pub factor: Factor,
    /// The level.
    pub level: Level,
    /// Combinations of the design with this level.
    pub combinations: u32,
    /// Those of them with at least one valid trial. Where they are fewer, levels are compared over different
    /// combinations.
    pub measured: u32,
    /// Valid trials.
    pub trials: u32,
    /// The metrics.
    pub metrics: Estimates,
}

/// One combination.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CombinationSummary {
    /// Its levels.
    #[serde(flatten)]
    pub levels: Levels,
    /// Valid trials.
    pub trials: u32,
    /// Trials left out because they cannot be vouched for.
    pub invalid: u32,
    /// Valid trials in which requests came faster than they were served.
    #[serde(default, skip_serializing_if = "crate::counts::is_zero")]
    pub saturated: u32,
    /// The metrics.
    pub metrics: Estimates,
}

/// Summarizes a sweep's rows.
#[must_use]
pub fn summarize(sweep: &str, rows: &[Row], objectives: &Objectives) -> Summary {
    summarize_looked_at(sweep, rows, objectives, None)
}

/// Summarizes the rows of a sweep whose combinations were looked at after every block.
#[must_use]
pub fn summarize_looked_at(
    sweep: &str,
    rows: &[Row],
    objectives: &Objectives,
    looks: Option<&Looks>,
) -> Summary {
    let all = latest_of_all(rows);
    let counts = Counts::of(rows, &all);
    let latest: Vec<&Row> = in_replicates_of_all(all.iter().copied()).collect();
    let combinations = combine(&latest);
    let summaries: Vec<CombinationSummary> = combinations
        .iter()
        .map(|combination| CombinationSummary {
            levels: combination.levels.clone(),
            trials: combination.valid.len() as u32,
            invalid: combination.invalid,
            saturated: saturated(&combination.valid),
            metrics: {
                let mut metrics = estimates(&[combination]);
                if let Some(looks) = looks {
                    looks.widen(&mut metrics, &combination.valid);
                }
                metrics
            },
        })
        .collect();
    let levels = level_summaries(&combine(&whole_blocks(&latest)));
    let candidates: Vec<Candidate<'_>> = combinations
        .iter()
        .zip(&summaries)
        .map(|(combination, summary)| Candidate {
            levels: &summary.levels,
            metrics: &summary.metrics,
            trials: &combination.valid,
        })
        .collect();
    let again: Vec<&Row> = all
        .iter()
        .copied()
        .filter(|row| row.confirming.is_some())
        .collect();
    let again = Combined::of(&again);
    let again = again.candidates();
    let field = Field {
        candidates: &candidates,
        again: (!again.is_empty()).then_some(again.as_slice()),
    };
    let found = best::best(field, objectives);
    let mixes = mix::mixes(field, objectives);
    let mut notes = notes(&counts, &summaries, &levels, &found, &mixes, objectives);
    let stopped = latest
        .iter()
        .filter(|row| row.outcome == Some(Outcome::NotNeeded))
        .count() as u32;
    let trials = latest.len() as u32;
    notes.extend(looks.map(|looks| looks.note(stopped, trials)));
    if looks.is_none() && stopped > 0 {
        notes.push(format!(
            "{} of {} trials were not needed, by a rule that is not known here: the intervals of combinations are plain, \
             and hold less often than they say.",
            numbers::count(stopped),
            numbers::count(trials)
        ));
    }
    Summary {
        schema_version: SUMMARY_VERSION.into(),
        sweep: sweep.into(),
        objectives: objectives.clone(),
        counts,
        basis: Basis::of_latest(&all),
        notes,
        units: METRICS
            .iter()
            .map(|metric| (metric.name.into(), metric.unit.into()))
            .collect(),
        stopped: looks.map(Looks::stopped),
        best: found.best,
        workloads: found.workloads,
        workloads_left_out: found.left_out,
        mixes,
        levels,
        combinations: summaries,
    }
}

/// The combinations without a valid trial, by their invalid ones: what is known of them is worth a look, and marked. No
/// figure of a summary or an analysis rests on them.
#[must_use]
pub fn doubtful(rows: &[Row]) -> Vec<CombinationSummary> {
    let latest = latest_attempts(rows);
    let mut by_levels: BTreeMap<Levels, Vec<&Row>> = BTreeMap::new();
    for row in &latest {
        by_levels.entry(row.levels()).or_default().push(row);
    }
    by_levels.retain(|_, rows| !rows.iter().any(|row| is_valid(row)));
    let invalid = by_levels.into_iter().filter_map(|(levels, mut rows)| {
        rows.retain(|row| is_invalid(row));
        (!rows.is_empty()).then_some(Combination {
            levels,
            valid: rows,
            invalid: 0,
        })
    });
    invalid
        .map(|combination| CombinationSummary {
            trials: 0,
            invalid: combination.valid.len() as u32,
            saturated: saturated(&combination.valid),
            metrics: estimates(&[&combination]),
            levels: combination.levels,
        })
        .collect()
}

fn saturated(rows: &[&Row]) -> u32 {
    rows.iter()
        .filter(|row| row.saturated == Some(true))
        .count() as u32
}

/// Combinations with the means of each.
pub(crate) struct Combined<'a> {
    combinations: Vec<Combination<'a>>,
    metrics: Vec<Estimates>,
}

impl<'a> Combined<'a> {
    pub(crate) fn of(latest: &[&'a Row]) -> Self {
        let combinations = combine(latest);
        let metrics = combinations.iter().map(|of| estimates(&[of])).collect();
        Self {
            combinations,
            metrics,
        }
    }

    pub(crate) fn candidates(&self) -> Vec<Candidate<'_>> {
        self.combinations
            .iter()
            .zip(&self.metrics)
            .map(|(of, metrics)| Candidate {
                levels: &of.levels,
                metrics,
                trials: &of.valid,
            })
            .collect()
    }
}

fn estimates(combinations: &[&Combination<'_>]) -> Estimates {
    let observe = |metric: &Metric| -> Vec<Vec<Observation>> {
        combinations.iter().map(|c| c.observe(metric)).collect()
    };
    METRICS
        .iter()
        .filter_map(|metric| Some((metric.name.to_owned(), estimate(&observe(metric))?)))
        .collect()
}

fn level_summaries(combinations: &[Combination<'_>]) -> Vec<LevelSummary> {
    let mut summaries = Vec::new();
    for factor in factors(combinations.iter().map(|c| &c.levels)) {
        let mut by_level: BTreeMap<&Level, Vec<&Combination<'_>>> = BTreeMap::new();
        for combination in combinations {
            if let Some(level) = combination.levels.get(&factor) {
                by_level.entry(level).or_default().push(combination);
            }
        }
        summaries.extend(
            by_level
                .into_iter()
                .map(|(level, combinations)| LevelSummary {
                    factor: factor.clone(),
                    level: level.clone(),
                    combinations: combinations.len() as u32,
                    measured: combinations.iter().filter(|c| !c.valid.is_empty()).count() as u32,
                    trials: combinations.iter().map(|c| c.valid.len() as u32).sum(),
                    metrics: estimates(&combinations),
                }),
        );
    }
    summaries
}

/// The best of each workload among combinations without a valid trial, which nothing is tested on.
pub(crate) fn doubtful_best(
    combinations: &[CombinationSummary],
    objectives: &Objectives,
) -> Vec<Best> {
    let candidates: Vec<Candidate<'_>> = combinations
        .iter()
        .map(|combination| Candidate {
            levels: &combination.levels,
            metrics: &combination.metrics,
            trials: &[],
        })
        .collect();
    let field = Field {
        candidates: &candidates,
        again: None,
    };
    best::best(field, objectives).best
}

/// Whether a combination keeps to the objectives, judged by means. One of one output token has no time per output
/// token, and so keeps to any; what was not measured keeps to none.
#[must_use]
pub fn keeps_to(combination: &CombinationSummary, objectives: &Objectives) -> bool {
    best::keeps_to(&combination.levels, &combination.metrics, objectives)
}

/// The cost of a million output tokens: price per GPU and second × GPUs ÷ output tokens per second × 10⁶; `None` on CPU
/// or without a price.
#[must_use]
pub fn cost_per_million_output_tokens(
    combination: &CombinationSummary,
    objectives: &Objectives,
) -> Option<f64> {
    let rate = combination.metrics.get("outputThroughput")?.mean;
    best::cost_per_million(rate, gpus(&combination.levels), objectives)
}

fn notes(
    counts: &Counts,
    combinations: &[CombinationSummary],
    levels: &[LevelSummary],
    found: &Found,
    mixes: &[Mix],
    objectives: &Objectives,
) -> Vec<String> {
    let mut notes = Vec::new();
    if counts.invalid > 0 {
        notes.push(format!(
            "{} of {} measured trials cannot be vouched for and are left out; trials.csv says why.",
            numbers::count(counts.invalid),
            numbers::count(counts.succeeded)
        ));
    }
    let measured: Vec<&Estimate> = combinations
        .iter()
        .filter_map(|c| c.metrics.get("ttltMs"))
        .collect();
    let blocks = measured
        .iter()
        .filter(|e| e.over == Over::Replicates)
        .map(|e| e.count)
        .min();
    if measured
        .iter()
        .any(|estimate| estimate.over == Over::Iterations)
    {
        notes.push(
            "Where a combination has one valid replicate, its interval goes over iterations of one process: it does \
             not contain what differs between processes."
                .into(),
        );
    }
    if let Some(blocks @ 2..=3) = blocks {
        notes.push(format!(
            "With {blocks} replicates the 95% interval is {:.2} standard errors wide to each side (Student's t): more \
             replicates narrow it fast.",
            t_quantile(f64::from(blocks) - 1.0)
        ));
    }
    if levels
        .iter()
        .any(|level| level.measured < level.combinations)
    {
        notes.push(
            "Some combinations have no valid trial, so levels of a factor are averaged over different combinations: \
             see how many are measured."
                .into(),
        );
    }
    let decides = |best: &Best| {
        matches!(
            best.criterion,
            Criterion::HighestOutputThroughputWithinObjectives | Criterion::HighestCapacity
        )
    };
    if objectives.limit_times() && !found.best.iter().any(decides) {
        notes.push("No combination keeps to the objectives.".into());
    }
    notes.extend(of_workloads(found, mixes));
    let any = |metric: &str| combinations.iter().any(|c| c.metrics.contains_key(metric));
    // Of what is asked over HTTP alone.
    let asked = any("requestThroughput");
    if any("normalizedLatencyMs") && !asked {
        notes.push(
            "normalizedLatencyMs is exactly the inverse of outputThroughput. ttftMs starts after tokenizing and has \
             no scheduler in it."
                .into(),
        );
    }
    if asked {
        notes.push(
            "ttftMs of servers and endpoints counts from the time at which a request was meant to be sent: HTTP, \
             tokenizing and waiting are in it, which they are not for candle."
                .into(),
        );
    }
    notes
}

/// Notes that a reader of the best choices needs.
fn of_workloads(found: &Found, mixes: &[Mix]) -> Vec<String> {
    let mut notes = Vec::new();
    if found.left_out > 0 {
        notes.push(format!(
            "{} of {} are too many to have a best choice each here: those of the largest weight have.",
            numbers::count(found.left_out),
            numbers::counted(found.workloads, "workload")
        ));
    }
    for mix in mixes {
        let model = &mix.model;
        let lacking = mix.lacking.len() as u64;
        if mix.choices.is_empty() {
            notes.push(format!(
                "{model}: no choice has a valid trial of every workload of the mix, so none is the best for it."
            ));
        } else if lacking > 0 {
            notes.push(format!(
                "{model}: {} without a valid trial of every workload of the mix cannot be the best for it.",
                numbers::counted(lacking, "choice")
            ));
        }
        if mix.unmeasured > 0 {
            notes.push(format!(
                "{model}: {} of which no choice has a valid trial {} not in the mix.",
                numbers::counted(mix.unmeasured, "workload"),
                if mix.unmeasured == 1 { "is" } else { "are" }
            ));
        }
    }
    let again = found.best.iter().map(|best| &best.confirmation);
    let again = again.chain(
        mixes
            .iter()
            .flat_map(|mix| &mix.best)
            .map(|best| &best.confirmation),
    );
    if again
        .flatten()
        .any(|found| found.verdict != Verdict::NotYet)
    {
        notes.push(
            "A best choice that was measured again was chosen by the replicates that all combinations have, and its figures \
             are those of the fresh ones alone: they do not flatter it."
                .into(),
        );
    }
    let untested = |comparison: &Option<Comparison>| {
        comparison.is_some_and(|comparison| comparison.tested < comparison.others)
    };
    let best = found.best.iter().map(|best| &best.comparison);
    let mixed = mixes.iter().flat_map(|mix| &mix.best);
    if best.chain(mixed.map(|best| &best.comparison)).any(untested) {
        notes.push(
            "What shares fewer than two blocks (replicates) with the best choice could not be tested against it: it \
             counts as one that may be as good."
                .into(),
        );
    }
    notes
}

#[cfg(test)]
mod tests;

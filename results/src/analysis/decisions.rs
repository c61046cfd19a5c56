//! Decisions about what to run: the best choices, and those that nothing else beats in both speed and latency, for each
//! workload and for the mix.

use std::collections::BTreeMap;

use inferbench_crds::{spec::Objectives, workload::Choice};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    best::{
        Best, heaviest,
        mix::{Mix, MixChoice},
        workload,
    },
    interval::Estimate,
    sample::{Levels, gpus, model},
    summary::{CombinationSummary, Summary, cost_per_million_output_tokens, keeps_to},
};

/// The combinations to run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// The best choices for each workload.
    pub best: Vec<Best>,
    /// The fronts of each workload: throughput against time to first token, and against time per output token. Of the
    /// same workloads that have a best choice in `best`.
    pub fronts: Vec<Front>,
    /// The same of the choices for each model's mix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mix_fronts: Vec<MixFront>,
}

/// Combinations of one workload than which none is better in one respect without being worse in the other.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Front {
    /// The model; the rest of the workload is what the points have in common.
    pub model: String,
    /// The rate: `outputThroughputPerGpu`, or `outputThroughput` on CPU.
    pub rate: String,
    /// The latency: `ttftMs` or `tpotMs`.
    pub latency: String,
    /// By ascending latency.
    pub points: Vec<FrontPoint>,
}

/// A combination on a front.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FrontPoint {
    /// Its levels.
    #[serde(flatten)]
    pub levels: Levels,
    /// Its rate, tokens/s.
    pub rate: Estimate,
    /// Its latency, ms.
    pub latency: Estimate,
    /// The cost of a million output tokens, where a GPU's price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_million_output_tokens: Option<f64>,
    /// Whether its means keep to the objectives; absent without objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_objectives: Option<bool>,
}

/// Choices than which none makes more of a model's mix in one respect without making less of it in the other.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MixFront {
    /// The model.
    pub model: String,
    /// The rate: `outputThroughputPerGpu`, or `outputThroughput` on CPU.
    pub rate: String,
    /// The latency: `ttftMs` or `tpotMs`.
    pub latency: String,
    /// By ascending latency.
    pub points: Vec<MixPoint>,
}

/// A choice on a front.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MixPoint {
    /// The choice.
    #[serde(flatten)]
    pub choice: Choice,
    /// The mix's rate, tokens/s.
    pub rate: Estimate,
    /// The mix's latency, ms.
    pub latency: Estimate,
    /// The cost of a million output tokens, where a GPU's price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_million_output_tokens: Option<f64>,
    /// Whether its means keep to the objectives in every workload of the mix; absent without objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_objectives: Option<bool>,
}

/// The rate of a front where something runs on GPUs, and where nothing does.
const RATES: [&str; 2] = ["outputThroughputPerGpu", "outputThroughput"];
/// The latencies that fronts go against.
const LATENCIES: [&str; 2] = ["ttftMs", "tpotMs"];

/// The combinations to run, by a summary.
pub(super) fn decide(summary: &Summary, objectives: &Objectives) -> Decisions {
    let mut by_workload: BTreeMap<Levels, Vec<&CombinationSummary>> = BTreeMap::new();
    for combination in &summary.combinations {
        by_workload
            .entry(workload(&combination.levels))
            .or_default()
            .push(combination);
    }
    let kept = heaviest(by_workload.keys(), objectives);
    let mut fronts = Vec::new();
    for (workload, combinations) in by_workload.iter().filter(|(of, _)| kept.contains(of)) {
        let on_gpus = combinations
            .iter()
            .any(|combination| combination.metrics.contains_key(RATES[0]));
        let rate = RATES[usize::from(!on_gpus)];
        for latency in LATENCIES {
            let points = front(combinations, rate, latency, objectives);
            if !points.is_empty() {
                fronts.push(Front {
                    model: model(workload).into(),
                    rate: rate.into(),
                    latency: latency.into(),
                    points,
                });
            }
        }
    }
    Decisions {
        best: summary.best.clone(),
        fronts,
        mix_fronts: summary.mixes.iter().flat_map(mix_fronts).collect(),
    }
}

fn front(
    combinations: &[&CombinationSummary],
    rate: &str,
    latency: &str,
    objectives: &Objectives,
) -> Vec<FrontPoint> {
    let limited = objectives.limit_times();
    let candidates = combinations
        .iter()
        .filter_map(|c| Some((*c, *c.metrics.get(rate)?, *c.metrics.get(latency)?)));
    unbeaten(candidates.collect())
        .into_iter()
        .map(|(combination, rate, latency)| FrontPoint {
            levels: combination.levels.clone(),
            rate,
            latency,
            cost_per_million_output_tokens: cost_per_million_output_tokens(combination, objectives),
            keeps_objectives: limited.then(|| keeps_to(combination, objectives)),
        })
        .collect()
}

fn mix_fronts(mix: &Mix) -> Vec<MixFront> {
    let on_gpus = on_gpus(mix);
    let mut fronts = Vec::new();
    for name in LATENCIES {
        let candidates = mix
            .choices
            .iter()
            .filter_map(|of| Some((of, mix_rate(of, on_gpus), mix_latency(of, name)?)));
        let points: Vec<MixPoint> = unbeaten(candidates.collect())
            .into_iter()
            .map(|(of, rate, latency)| MixPoint {
                choice: of.choice.clone(),
                rate,
                latency,
                cost_per_million_output_tokens: of.cost_per_million_output_tokens,
                keeps_objectives: of.keeps_objectives,
            })
            .collect();
        if !points.is_empty() {
            fronts.push(MixFront {
                model: mix.model.clone(),
                rate: RATES[usize::from(!on_gpus)].into(),
                latency: name.into(),
                points,
            });
        }
    }
    fronts
}

/// Whether any choice of a mix runs on GPUs.
pub(crate) fn on_gpus(mix: &Mix) -> bool {
    mix.choices.iter().any(|of| gpus(of.choice.levels()) > 0)
}

/// The rate of a choice on the mix's front: per GPU where anything runs on GPUs.
pub(crate) fn mix_rate(of: &MixChoice, per_gpu: bool) -> Estimate {
    let devices = f64::from(gpus(of.choice.levels()).max(1));
    of.output_throughput
        .divided_by(if per_gpu { devices } else { 1.0 })
}

/// The latency of a choice on the mix's front.
pub(crate) fn mix_latency(of: &MixChoice, name: &str) -> Option<Estimate> {
    if name == LATENCIES[0] {
        of.ttft_ms
    } else {
        of.tpot_ms
    }
}

/// Those of some candidates, each with its rate and latency, than which none is better in one without being worse in
/// the other, by ascending latency.
fn unbeaten<T>(candidates: Vec<(T, Estimate, Estimate)>) -> Vec<(T, Estimate, Estimate)> {
    let mut candidates = candidates;
    candidates.retain(|(_, rate, latency)| rate.mean.is_finite() && latency.mean.is_finite());
    // Of equal latency the fastest comes first, and the others fall behind it.
    candidates.sort_by(|a, b| {
        a.2.mean
            .total_cmp(&b.2.mean)
            .then(b.1.mean.total_cmp(&a.1.mean))
    });
    let mut fastest = f64::NEG_INFINITY;
    candidates.retain(|(_, rate, _)| {
        let better = rate.mean > fastest;
        fastest = fastest.max(rate.mean);
        better
    });
    candidates
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        interval::Over,
        sample::{Factor, Level},
    };

    fn combination(batch_size: u32, rate: f64, latency: f64) -> CombinationSummary {
        let estimate = |mean| Estimate {
            mean,
            over: Over::Replicates,
            count: 2,
            sd: None,
            low: None,
            high: None,
            cv: None,
            median: None,
            min: None,
            max: None,
        };
        CombinationSummary {
            levels: Levels::new([
                (Factor::MODEL, Level::from("m")),
                (Factor::BATCH_SIZE, Level::from(batch_size)),
            ]),
            trials: 2,
            invalid: 0,
            saturated: 0,
            metrics: [
                ("outputThroughput".into(), estimate(rate)),
                ("ttftMs".into(), estimate(latency)),
            ]
            .into(),
        }
    }

    proptest! {
        #[test]
        fn nothing_beats_a_front_and_it_beats_all_else(
            measured in prop::collection::vec((1_u32..20, 1_u32..20), 1..40)
        ) {
            let combinations: Vec<CombinationSummary> = (1..)
                .zip(&measured)
                .map(|(batch, (rate, latency))| combination(batch, f64::from(*rate), f64::from(*latency)))
                .collect();
            let all: Vec<&CombinationSummary> = combinations.iter().collect();
            let front = front(&all, "outputThroughput", "ttftMs", &Objectives::default());
            for point in &front {
                let beaten = measured.iter().any(|(rate, latency)| {
                    let (rate, latency) = (f64::from(*rate), f64::from(*latency));
                    (rate > point.rate.mean && latency <= point.latency.mean)
                        || (rate >= point.rate.mean && latency < point.latency.mean)
                });
                prop_assert!(!beaten, "{point:?}");
            }
            for (rate, latency) in &measured {
                let (rate, latency) = (f64::from(*rate), f64::from(*latency));
                let reached = |point: &FrontPoint| point.rate.mean >= rate && point.latency.mean <= latency;
                prop_assert!(front.iter().any(reached));
            }
            prop_assert!(front.windows(2).all(|pair| pair[0].latency.mean < pair[1].latency.mean));
        }
    }
}

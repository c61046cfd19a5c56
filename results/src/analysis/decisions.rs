//! Decisions about what to run: the best combinations, and those that nothing else beats in both speed and latency.

use std::collections::BTreeMap;

use inferbench_crds::spec::Objectives;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    interval::Estimate,
    sample::{self, Levels},
    summary::{Best, CombinationSummary, Summary, cost_per_million_output_tokens, keeps_to},
};

/// The combinations to run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// The best combinations of each model.
    pub best: Vec<Best>,
    /// The fronts of each model: throughput against time to first token, and against time per output token.
    pub fronts: Vec<Front>,
}

/// Combinations of one model than which none is better in one respect without being worse in the other.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Front {
    /// The model.
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

/// The combinations to run, by a summary.
pub(super) fn decide(summary: &Summary, objectives: &Objectives) -> Decisions {
    let mut by_model: BTreeMap<&str, Vec<&CombinationSummary>> = BTreeMap::new();
    for combination in &summary.combinations {
        by_model
            .entry(sample::model(&combination.levels))
            .or_default()
            .push(combination);
    }
    let mut fronts = Vec::new();
    for (model, combinations) in by_model {
        let on_gpus = combinations
            .iter()
            .any(|combination| combination.metrics.contains_key("outputThroughputPerGpu"));
        let rate = if on_gpus {
            "outputThroughputPerGpu"
        } else {
            "outputThroughput"
        };
        for latency in ["ttftMs", "tpotMs"] {
            let points = front(&combinations, rate, latency, objectives);
            if !points.is_empty() {
                fronts.push(Front {
                    model: model.into(),
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
    }
}

fn front(
    combinations: &[&CombinationSummary],
    rate: &str,
    latency: &str,
    objectives: &Objectives,
) -> Vec<FrontPoint> {
    let limited = objectives.limit_times();
    let mut candidates: Vec<(&CombinationSummary, Estimate, Estimate)> = combinations
        .iter()
        .filter_map(|c| Some((*c, *c.metrics.get(rate)?, *c.metrics.get(latency)?)))
        .filter(|(_, rate, latency)| rate.mean.is_finite() && latency.mean.is_finite())
        .collect();
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

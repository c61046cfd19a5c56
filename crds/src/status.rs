//! The status of an `InferenceBenchmark`: what a user gets back. The doc comments are the CRD's descriptions.
//!
//! Everything is bounded, so that the status of any allowed spec stays under [`MAX_BYTES`]: the tables are in the
//! store, and here stands what a person or a controller asks first.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{factor::Levels, limits};

/// The most bytes of a status, as JSON.
pub const MAX_BYTES: usize = 64 * 1_024;

/// The type of the condition that a sweep with expectations has besides.
pub const EXPECTATIONS: &str = "Expectations";

/// The types of the conditions, in the order in which they are shown.
pub const CONDITIONS: [&str; 6] = [
    "Accepted",
    "Progressing",
    "Suspended",
    "Valid",
    "ResultsAvailable",
    "Succeeded",
];

/// The status of the sweep.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceBenchmarkStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Progressing, Suspended, Valid, ResultsAvailable and Succeeded. Valid is Unknown until a trial is found
    /// invalid or all have ended, and Succeeded while the sweep runs. With `spec.expectations` Expectations, too: True
    /// where all are shown, False where one is refuted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// The plan, pinned when the sweep was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PinnedPlan>,
    /// How many trials stand where; derived from the ledger and the Jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// How far the sweep has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How every trial ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// The summary of the results, once collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Where the results lie, once collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<CollectedResults>,
}

/// The plan, pinned when the sweep was accepted: all trials run exactly this.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct PinnedPlan {
    /// A hash of all that follows and of the spec's immutable parts.
    #[schemars(length(max = 64))]
    pub hash: String,
    /// Combinations after exclusion.
    #[schemars(range(min = 0))]
    pub combinations: i32,
    /// Trials after exclusion.
    #[schemars(range(min = 0))]
    pub trials: i32,
    /// The runner's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::IMAGE))]
    pub image: Option<String>,
    /// The models as they were resolved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::MODELS))]
    pub models: Vec<PinnedModel>,
}

/// A model and the revision that every trial loads.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct PinnedModel {
    /// The model's name in the design.
    #[schemars(length(max = limits::MODEL_NAME))]
    pub name: String,
    /// A commit, a content hash, or the preset and seed of random weights.
    #[schemars(length(max = 64))]
    pub revision: String,
}

/// How many trials stand where.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Ended, one way or another.
    pub done: i32,
    /// Not yet begun.
    pub pending: i32,
    /// In a Job that has not ended.
    pub active: i32,
    /// Measured.
    pub succeeded: i32,
    /// Ended because memory did not suffice.
    pub out_of_memory: i32,
    /// Found impossible.
    pub unsupported: i32,
    /// Ended by `trialTimeout`.
    pub timed_out: i32,
    /// Broken.
    pub failed: i32,
    /// Not measured, as `design.until` was met without them, or as they would have measured again what is not the best
    /// (`design.confirm`).
    pub not_needed: i32,
    /// Of those measured, how many were disturbed: their figures do not count.
    pub invalid: i32,
    /// Of those done, how many were found in the store and not measured again.
    pub reused: i32,
}

/// How far the sweep has come. Written only together with the ledger.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// The highest output throughput of any trial so far, whatever its workload, in tokens/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// When the sweep should end if trials go on taking as long as they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_finish: Option<Time>,
}

/// How every trial ended. `crate::ledger` reads and writes it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Three bits for each trial index, in base64: 0 not ended, 1 Succeeded, 2 OutOfMemory, 3 Unsupported,
    /// 4 TimedOut, 5 Failed, 7 NotNeeded. Bit 0 of the first byte is the lowest of trial 0.
    #[schemars(length(max = 25_000))]
    pub outcomes: String,
    /// The failed trials for people, as `512,600-603`; cut where it would be longer than 1 KiB.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1_024))]
    pub failed: String,
    /// The blocks, from the first on, after which it was decided which combinations run no further; absent before the
    /// first look that `design.until` or `design.confirm` asks for.
    #[serde(skip_serializing_if = "is_zero")]
    pub decided: i32,
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// Where the results lie.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CollectedResults {
    /// The folder of this sweep in the store.
    #[schemars(length(max = 768))]
    pub uri: String,
    /// The SHA-256 of manifest.json, which has those of all other files.
    #[schemars(length(max = 64))]
    pub sha256: String,
    /// Rows of trials.csv.
    pub rows: i32,
    /// The name of the report in that folder.
    #[schemars(length(max = 253))]
    pub report: String,
    /// A hash of what they were collected from: plan, ledger, objectives and expectations. Another one asks for a new collection.
    #[schemars(length(max = 64))]
    pub inputs: String,
    /// When the results were collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Time>,
}

/// The summary of the results. Numbers have four significant digits; the full tables are in the store.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// The trials that the summary rests on: succeeded and valid.
    pub trials: i32,
    /// Trials that were measured but left out, as their measurement was disturbed.
    pub invalid: i32,
    /// The most frequent reason of these, without figures, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::SUMMARY_REASON))]
    pub invalid_reason: Option<String>,
    /// The most frequent reason for which trials ended without a measurement, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::SUMMARY_REASON))]
    pub unmeasured_reason: Option<String>,
    /// The observations that the intervals go over: `Replicates`, or `Iterations` where there is one replicate.
    #[schemars(length(max = 16))]
    pub intervals: String,
    /// The mean of every metric at every level of each factor that has more than one.
    #[schemars(length(max = limits::FACTORS))]
    pub factors: Vec<FactorSummary>,
    /// How much each factor moves each metric.
    #[schemars(length(max = limits::SUMMARY_METRICS * limits::FACTORS))]
    pub effects: Vec<Effect>,
    /// The best configuration for each goal: for the mix of all workloads first, then for the workloads of the largest
    /// weight.
    #[schemars(length(max = limits::SUMMARY_BEST))]
    pub best: Vec<Best>,
    /// Workloads that have no best configuration here, as there is no room for all: summary.json has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub workloads_left_out: i32,
    /// Configurations that no other beats in both throughput and latency, the fastest first: for the mix, or for the
    /// workload of the largest weight where there is none.
    #[schemars(length(max = limits::SUMMARY_PARETO))]
    pub pareto: Vec<MeasuredConfiguration>,
    /// The verdicts on the expectations, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expectations: Option<Expectations>,
}

/// The verdicts on the expectations, counted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Expectations {
    /// Expectations that hold over the whole interval.
    pub shown: i32,
    /// Expectations that fail over the whole interval.
    pub refuted: i32,
    /// Expectations whose interval holds both.
    pub not_shown: i32,
    /// Expectations that this sweep cannot judge.
    pub untestable: i32,
    /// The names of the first that are refuted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SUMMARY_REFUTED), inner(length(max = limits::EXPECTATION_NAME)))]
    pub refuted_names: Vec<String>,
}

/// Every metric at every level of one factor.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct FactorSummary {
    /// The factor, as the design names it.
    #[schemars(length(max = limits::PARAMETER_NAME))]
    pub factor: String,
    /// Its levels.
    #[schemars(length(max = limits::LEVELS), inner(length(max = limits::MODEL_NAME)))]
    pub levels: Vec<String>,
    /// The metrics.
    #[schemars(length(max = limits::SUMMARY_METRICS))]
    pub metrics: Vec<MetricByLevel>,
}

/// One metric at every level of one factor.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricByLevel {
    /// The metric, as the column of trials.csv.
    #[schemars(length(max = limits::METRIC_NAME))]
    pub metric: String,
    /// The mean at each level; null where the level has no valid trial, or the metric does not apply.
    #[schemars(length(max = limits::LEVELS))]
    pub mean: Vec<Option<f64>>,
    /// Half the width of the 95% interval at each level; null where there are too few trials for one.
    #[schemars(length(max = limits::LEVELS))]
    pub half_width: Vec<Option<f64>>,
}

/// How much one factor moves one metric.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Effect {
    /// The metric, as the column of trials.csv.
    #[schemars(length(max = limits::METRIC_NAME))]
    pub metric: String,
    /// The factor, as the design names it.
    #[schemars(length(max = limits::PARAMETER_NAME))]
    pub factor: String,
    /// The share of the metric's variance that the factor alone explains, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The share with all interactions that it takes part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_share: Option<f64>,
    /// The permutation importance: the loss of R² when the factor is shuffled, from 0 to about 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<f64>,
    /// Pearson's correlation, from -1 to 1; absent where the factor is no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<f64>,
}

/// The best configuration for a goal.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Best {
    /// The goal: what is best, and under which objectives.
    #[schemars(length(max = 64))]
    pub goal: String,
    /// Whether it was confirmed by measuring it again, as `design.confirm` asks for; its figures are those of the fresh
    /// replicates alone, but where it is `NotYet`. Absent where the design measures nothing again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmed>,
    /// The configuration.
    pub configuration: MeasuredConfiguration,
}

/// The verdict of measuring the best again.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Confirmed {
    /// It is the best so far, and has not been measured again often enough.
    NotYet,
    /// It keeps to the objectives, and nothing beside it was shown to be better.
    Confirmed,
    /// Its means do not keep to the objectives.
    MissesObjectives,
    /// Another configuration was shown to be better.
    Beaten,
}

/// A configuration and what it reaches, as means over its valid trials.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MeasuredConfiguration {
    /// Its levels; for a mix, no lengths.
    #[serde(flatten)]
    pub levels: Levels,
    /// The workload or the mix that it is for, in words; absent where the model has one workload, which the levels name.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::SUMMARY_WORKLOAD))]
    pub workload: String,
    /// Output tokens/s of the whole batch, or of the mix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_throughput: Option<f64>,
    /// Milliseconds to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Milliseconds for each further output token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpot_ms: Option<f64>,
    /// The cost of a million output tokens, where `costPerGpuHour` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_per_million: Option<f64>,
    /// The highest load at which the objectives hold, where trials searched it: requests/s, or requests in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
}

/// A number with four significant digits, as the summary writes them; none where it is not finite.
#[must_use]
pub fn significant(number: f64) -> Option<f64> {
    format!("{number:.3e}")
        .parse()
        .ok()
        .filter(|rounded: &f64| rounded.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factor::{Factor, Level};

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!(significant(123_456.0), Some(123_500.0));
        assert_eq!(significant(-0.000_123_456), Some(-0.000_123_5));
        assert_eq!(significant(0.0), Some(0.0));
        assert_eq!(significant(f64::NAN), None);
        assert_eq!(significant(f64::INFINITY), None);
    }

    fn text(length: u32) -> String {
        "x".repeat(length as usize)
    }

    fn point() -> MeasuredConfiguration {
        let number = Some(-1.234e-100);
        let name = text(limits::MODEL_NAME);
        let levels = [
            (Factor::MODEL, Level::from(name.as_str())),
            (Factor::BATCH_SIZE, Level::from(65_536)),
            (Factor::INPUT_LENGTH, Level::from(1_048_576)),
            (Factor::OUTPUT_LENGTH, Level::from(1_048_576)),
            (Factor::GPUS, Level::from(64)),
            (Factor::DTYPE, Level::from("bf16")),
        ];
        MeasuredConfiguration {
            levels: Levels::new(levels),
            workload: text(limits::SUMMARY_WORKLOAD),
            output_throughput: number,
            ttft_ms: number,
            tpot_ms: number,
            cost_per_million: number,
            capacity: number,
        }
    }

    /// The widest design is 64 × 64 × 12 levels: no other within 50,000 trials has more levels together.
    fn widest_summary() -> Summary {
        // As wide as four significant digits of a measured quantity get.
        let column = |levels: usize| vec![Some(1.234e-10); levels];
        let factor = |factor: &str, levels: usize, level: String| FactorSummary {
            factor: factor.into(),
            levels: vec![level; levels],
            metrics: (0..limits::SUMMARY_METRICS)
                .map(|_| MetricByLevel {
                    metric: "normalized_latency_ms".into(),
                    mean: column(levels),
                    half_width: column(levels),
                })
                .collect(),
        };
        let share = Some(-0.123_4);
        let effect = Effect {
            metric: "normalized_latency_ms".into(),
            factor: "outputLength".into(),
            share,
            total_share: share,
            importance: share,
            correlation: share,
        };
        let best = Best {
            goal: text(64),
            confirmation: Some(Confirmed::MissesObjectives),
            configuration: point(),
        };
        Summary {
            trials: 50_000,
            invalid: 50_000,
            invalid_reason: Some("x".repeat(limits::SUMMARY_REASON as usize)),
            // Left out where there is no room.
            unmeasured_reason: None,
            intervals: "Replicates".into(),
            factors: vec![
                factor("model", 12, text(limits::MODEL_NAME)),
                factor("inputLength", 64, "1048576".into()),
                factor("outputLength", 64, "1048576".into()),
            ],
            effects: vec![effect; (limits::SUMMARY_METRICS * 3) as usize],
            best: vec![best; limits::SUMMARY_BEST as usize],
            workloads_left_out: 50_000,
            pareto: vec![point(); limits::SUMMARY_PARETO as usize],
            expectations: Some(Expectations {
                refuted: 32,
                refuted_names: vec![
                    text(limits::EXPECTATION_NAME);
                    limits::SUMMARY_REFUTED as usize
                ],
                ..Expectations::default()
            }),
        }
    }

    #[test]
    fn the_widest_summary_is_within_its_bound() {
        let bytes = serde_json::to_vec(&widest_summary()).expect("JSON").len();
        assert!(bytes <= limits::SUMMARY_BYTES, "{bytes}");
    }

    #[test]
    fn the_widest_status_is_within_its_bound() {
        let time = Time(k8s_openapi::jiff::Timestamp::MAX);
        let condition = Condition {
            last_transition_time: time.clone(),
            message: text(limits::CONDITION_MESSAGE),
            observed_generation: Some(i64::MAX),
            reason: text(32),
            status: "Unknown".into(),
            type_: "ResultsAvailable".into(),
        };
        let model = PinnedModel {
            name: text(limits::MODEL_NAME),
            revision: text(64),
        };
        let mut status = InferenceBenchmarkStatus {
            observed_generation: Some(i64::MAX),
            conditions: vec![condition; CONDITIONS.len() + 1],
            plan: Some(PinnedPlan {
                hash: text(64),
                combinations: 50_000,
                trials: 50_000,
                image: Some(text(limits::IMAGE)),
                models: vec![model; limits::MODELS as usize],
            }),
            counts: Some(Counts {
                done: 50_000,
                pending: 50_000,
                ..Counts::default()
            }),
            progress: Some(Progress {
                best: Some(1.234e100),
                estimated_finish: Some(time.clone()),
            }),
            ledger: Some(Ledger {
                outcomes: text(25_000),
                failed: text(1_024),
                decided: 1_000,
            }),
            summary: None,
            results: Some(CollectedResults {
                uri: text(768),
                sha256: text(64),
                rows: 50_000,
                report: "report.html".into(),
                inputs: text(64),
                updated_at: Some(time),
            }),
        };
        let without_summary = serde_json::to_vec(&status).expect("JSON").len();
        assert!(
            without_summary + limits::SUMMARY_BYTES <= MAX_BYTES,
            "{without_summary}"
        );
        status.summary = Some(widest_summary());
        assert!(serde_json::to_vec(&status).expect("JSON").len() <= MAX_BYTES);
    }
}

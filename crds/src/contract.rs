//! The contract between the operator and the pods that it starts: where a pod finds its requests, and the report that
//! it leaves in its termination message. Both sides are built from this file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    InferenceBenchmarkSpec,
    design::{Combination, Trial},
    limits::{self, OPEN_CONCURRENCY},
    outcome::Outcome,
    search::Search,
    spec::{Colocation, Design, Isolation, Measurement, Model, Objectives},
    status::{CollectedResults, PinnedPlan, Summary},
};

/// The environment variable that names the file with a pod's requests.
///
/// For `inferbench trial` the file has one [`PodRequest`] a line. For `inferbench preflight` and `inferbench collect`
/// it is one [`SweepRequest`].
pub const REQUESTS_VARIABLE: &str = "INFERBENCH_REQUESTS";
/// The file with a pod's requests: an annotation of the pod, through the downward API.
pub const REQUESTS_FILE: &str = "/var/run/inferbench/requests";
/// The most bytes of a termination message: the kubelet cuts what is longer.
pub const TERMINATION_MESSAGE_BYTES: usize = 4_096;
/// The most bytes, in JSON, that the text of an error takes of it.
pub const ERROR_BYTES: usize = TERMINATION_MESSAGE_BYTES / 2;

/// Environment variables whose names begin so are the operator's to set, and no spec's.
pub const RESERVED_PREFIX: &str = "INFERBENCH_";
/// The environment variable with the name of a pod's node.
pub const NODE_VARIABLE: &str = "INFERBENCH_NODE";
/// The environment variable with the digest of a pod's image, where it has one: it fixes the runner in a trial's key.
pub const IMAGE_DIGEST_VARIABLE: &str = "INFERBENCH_IMAGE_DIGEST";
/// The environment variable with the API key of the endpoint that a pod measures. A preflight has one for each endpoint
/// that has a key: see [`api_key_variable`].
pub const API_KEY_VARIABLE: &str = "INFERBENCH_API_KEY";
/// The program as the pod of a server finds it: the pod's image is the server's, so that `inferbench install PATH`
/// copies it there first, in a container of the runner's image.
pub const PROGRAM: &str = "/opt/inferbench/inferbench";
/// The environment variable with the folder that models are kept in.
pub const CACHE_VARIABLE: &str = "INFERBENCH_CACHE";

/// Where the volume of `results.store.persistentVolumeClaim` is mounted in a pod.
pub const RESULTS_FOLDER: &str = "/var/lib/inferbench/results";

/// The environment variable with the API key of an endpoint in a preflight, which looks at all of them: by the
/// position of the engine among `design.factors.engine`.
#[must_use]
pub fn api_key_variable(engine: usize) -> String {
    format!("{API_KEY_VARIABLE}_{engine}")
}

/// Where a store is, as a pod sees it: a URL, or a folder on a mounted volume.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StoreAt {
    /// A folder or a URL: the sweep's own, below which `trials/` lies.
    pub target: String,
    /// The endpoint of an S3-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region of a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// All that fixes a trial's request; its hash, with the attempt, is the trial's key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The levels: model with its source, batch size, lengths, gpus, dtype.
    pub combination: Combination,
    /// The commit (Hugging Face), content hash (path, object store) or `preset@seed` (random) of the weights.
    pub model_revision: String,
    /// The block.
    pub replicate: u32,
    /// The seed that prompts and random weights derive from.
    pub seed: i64,
    /// How it is measured, defaults filled in.
    pub measurement: EffectiveMeasurement,
    /// The runner's image digest or, outside a cluster, its version.
    pub runner: String,
    /// Whether it measures again what was best after all replicates: such a trial is none of these, however they are
    /// counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirming: bool,
    /// The times that a search of the load is held to. Absent of other trials, which measure the same whatever the
    /// objectives are: their keys stay what they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<Objectives>,
}

impl Request {
    /// The request for a trial of this spec, of a model pinned to `revision`, measured by `runner`.
    #[must_use]
    pub fn of(spec: &InferenceBenchmarkSpec, trial: &Trial, revision: &str, runner: &str) -> Self {
        Self {
            combination: trial.combination.clone(),
            model_revision: revision.to_owned(),
            replicate: trial.replicate,
            confirming: spec.design.confirm.is_some()
                && trial.replicate >= spec.design.replicates.max(0).unsigned_abs(),
            seed: spec.design.seed,
            measurement: EffectiveMeasurement::of(&spec.measurement, &trial.combination),
            runner: runner.to_owned(),
            objectives: (trial.combination.search.as_ref()).map(|_| spec.objectives.times()),
        }
    }

    /// The model level that was asked for.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.combination.model
    }
}

/// The measurement of one trial with every default filled in.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveMeasurement {
    /// Warm-up iterations, at least.
    pub warmup_iterations: u32,
    /// Warm-up time in ms, at least.
    pub warmup_ms: u64,
    /// Timed iterations, at least.
    pub iterations: u32,
    /// Time over all timed iterations in ms, at least.
    pub min_duration_ms: u64,
    /// Whether the trials of one Job share a process.
    pub isolation: Isolation,
    /// Whether what was written is judged; left out where it is not, so that keys stay what they were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quality: bool,
}

impl EffectiveMeasurement {
    /// How a trial of a combination is measured.
    #[must_use]
    pub fn of(asked: &Measurement, combination: &Combination) -> Self {
        let gpus = i32::try_from(combination.gpus).unwrap_or(i32::MAX);
        Self {
            warmup_iterations: asked.warmup_iterations.unsigned_abs(),
            warmup_ms: asked.warmup_duration.millis(),
            iterations: asked.iterations.unsigned_abs(),
            min_duration_ms: asked.min_duration_for(gpus).millis(),
            isolation: asked.isolation_for(&combination.engine),
            quality: asked.quality,
        }
    }
}

/// One trial to measure. Where its model's files lie, whoever measures finds out: the revision says which they are.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TrialRequest {
    /// The sweep's name.
    pub sweep: String,
    /// The trial's number in the design.
    pub trial_index: u32,
    /// Its position in the order of execution.
    pub run_order: u32,
    /// 0, or how often an invalid trial was measured before.
    pub attempt: u32,
    /// How often an invalid trial is measured again by a pod; a sweep on one machine sees to that itself.
    #[serde(default)]
    pub remeasure_invalid: u32,
    /// All that fixes the trial.
    pub request: Request,
    /// Where its record goes.
    pub store: StoreAt,
    /// The longest that it may take, in ms.
    pub timeout_ms: u64,
    /// Whether other trials may run on this machine at the same time without making this one invalid.
    #[serde(default)]
    pub neighbours_allowed: bool,
    /// The most that the trials of the design ask of a server, which it is started for; none of engines in the runner's
    /// own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Room>,
}

/// How much a server is to take at once.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// Requests.
    pub requests: u32,
    /// Tokens of each, input and output.
    pub tokens: u32,
}

impl Room {
    /// The most that any trial of a design asks for: trials that share a server's start find the same server.
    #[must_use]
    pub fn of(design: &Design) -> Self {
        let factors = &design.factors;
        let most = |levels: &[i32]| {
            levels
                .iter()
                .copied()
                .max()
                .unwrap_or(0)
                .max(0)
                .unsigned_abs()
        };
        let open = if factors.request_rate.is_empty() {
            0
        } else {
            OPEN_CONCURRENCY
        };
        Self {
            requests: most(&factors.batch_size)
                .max(most(&factors.concurrency))
                .max(design.search.as_ref().map_or(0, Search::requests_at_once))
                .max(open),
            tokens: most(&factors.input_length).saturating_add(most(&factors.output_length)),
        }
    }
}

impl TrialRequest {
    /// The first attempt at a trial of a sweep, whose record goes to `store`.
    #[must_use]
    pub fn of(
        sweep: &str,
        spec: &InferenceBenchmarkSpec,
        trial: &Trial,
        request: Request,
        store: &StoreAt,
    ) -> Self {
        Self {
            sweep: sweep.to_owned(),
            trial_index: trial.index,
            run_order: trial.run_order,
            attempt: 0,
            remeasure_invalid: spec.measurement.remeasure_invalid.unsigned_abs(),
            request,
            store: store.clone(),
            timeout_ms: spec.execution.trial_timeout.millis(),
            neighbours_allowed: spec.execution.colocation == Colocation::Allow,
            room: trial
                .combination
                .engine
                .takes_requests()
                .then(|| Room::of(&spec.design)),
        }
    }
}

/// One line of the requests of a pod that measures: the operator writes it, and the pod reads it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum PodRequest {
    /// Measure a trial and store its record.
    Trial(Box<TrialRequest>),
}

/// The request of a preflight, of a look between blocks or of a collection: the whole sweep.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SweepRequest {
    /// The resource's name.
    pub sweep: String,
    /// Its namespace.
    pub namespace: String,
    /// Its spec, less `runner`, which says nothing to a process inside of the pod.
    pub spec: InferenceBenchmarkSpec,
    /// The pinned plan. Before the preflight it has no models.
    pub plan: PinnedPlan,
    /// The part of a trial's key that fixes the runner.
    pub runner: String,
    /// Where the results go.
    pub store: StoreAt,
    /// Of a collection or a look: `status.ledger.outcomes`, of which the failed trials may have a record all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// Of a collection or a look: how many pods there are to hand it over, each with at most one [`Chunk`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<u32>,
    /// Of a look: the blocks, from the first on, that have ended. The trials that are still to run are those that the
    /// ledger does not have. After all replicates it says which combinations are measured again (`design.confirm`), after
    /// fewer which run no further (`design.until`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<u32>,
}

/// The digit of a trial that has succeeded and is invalid.
const INVALID: char = '6';

/// The termination message of a pod that measures. It is written anew after every trial, so that it also stands where
/// the pod was killed; the trial after the last outcome is then the one that the pod broke at.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TrialReport {
    /// One digit for each trial of the Job, in their order: [`Outcome::code`] of the record that is stored, 6 where
    /// that has succeeded and is invalid, 0 where there is none. Trials beyond the last digit have none either.
    pub outcomes: String,
    /// Why the first of the invalid ones is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    /// How many of these records were found in the store rather than made.
    #[serde(skip_serializing_if = "is_zero")]
    pub reused: u32,
    /// The highest output throughput of these records, in tokens/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// An error, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl TrialReport {
    /// Adds the Job's next trial: the outcome in its record, whether that was found rather than made, and its output
    /// throughput where it counts.
    pub fn add(&mut self, outcome: Outcome, reused: bool, throughput: Option<f64>) {
        self.outcomes.push(char::from(b'0' + outcome.code()));
        self.reused += u32::from(reused);
        self.best = self.best.into_iter().chain(throughput).reduce(f64::max);
    }

    /// Marks the trial that was added last as invalid, for this reason. Only what has succeeded can be.
    pub fn mark_invalid(&mut self, why: &str) {
        if self.outcomes.ends_with('1') {
            self.outcomes.pop();
            self.outcomes.push(INVALID);
            let shortened = || why.chars().take(limits::INVALID_REASON as usize).collect();
            self.invalid.get_or_insert_with(shortened);
        }
    }

    /// The outcome of the Job's trial at a position; none where there is no record.
    #[must_use]
    pub fn outcome(&self, position: usize) -> Option<Outcome> {
        match self.digit(position)? {
            INVALID => Some(Outcome::Succeeded),
            digit => Outcome::from_code(u8::try_from(digit.to_digit(10)?).ok()?),
        }
    }

    /// Whether the Job's trial at a position has succeeded and is invalid.
    #[must_use]
    pub fn is_invalid(&self, position: usize) -> bool {
        self.digit(position) == Some(INVALID)
    }

    fn digit(&self, position: usize) -> Option<char> {
        self.outcomes
            .as_bytes()
            .get(position)
            .copied()
            .map(char::from)
    }
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The termination message of a preflight.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightReport {
    /// One for each model, in the order of `design.factors.model`; empty where the preflight failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelReport>,
    /// An error, for people; where there is none, which servers can never read which models, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A model as a preflight found it. The trials find out themselves what is left out for want of space.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelReport {
    /// The revision that every trial loads.
    pub revision: String,
    /// The most input and output tokens together; combinations with more are unsupported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Numbers of devices that cannot share its every layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsupported_tensor_parallel: Vec<u32>,
    /// The most stages that its layers can be divided into; combinations with more are unsupported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stages: Option<u32>,
    /// The positions among `design.factors.engine` of the servers that cannot read it, in any data type of the design.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsupported_engines: Vec<u8>,
}

/// The termination message of one pod of a collection or a look: a part of [`Collected`] or [`Decided`] as JSON, zlib and
/// base64. A pod with nothing to hand over writes none.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Chunk {
    /// This part's number, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// The SHA-256 of the whole before it was cut: of the zlib stream, in hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// The part, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// An error, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The handover of a collection.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Collected {
    /// Where the results lie; `inputs` and `updatedAt` are the operator's to fill in.
    pub results: CollectedResults,
    /// The summary of them.
    pub summary: Summary,
    /// Trials of which the store has a record that says something else than the ledger: index and what the record says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<(u32, Outcome)>,
}

/// The handover of a look.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decided {
    /// The blocks, from the first on, that were looked at.
    pub blocks: u32,
    /// A bit for each combination before exclusion, in base64, bit 0 of the first byte the lowest: whether it runs no
    /// further, as it is narrow enough or, after all replicates, not to be measured again. `crate::handover` reads and
    /// writes it.
    pub enough: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_fix_a_trial_that_searches_and_no_other() {
        let spec = |search: &str| -> InferenceBenchmarkSpec {
            serde_saphyr::from_str(&format!(
                "
design:
  factors:
    engine: [{{name: vllm, server: {{preset: vllm, image: a}}}}]
    model: [{{name: a, source: {{random: {{preset: gpt2}}}}}}]
{search}
objectives: {{maxTtft: 200ms, costPerGpuHour: \"2.50\"}}"
            ))
            .expect("a spec")
        };
        let request = |spec: &InferenceBenchmarkSpec| {
            let expansion = crate::design::Expansion::new(&spec.design);
            let trial = expansion.trial(0).expect("a trial");
            Request::of(spec, &trial, "main", "runner")
        };
        let plain = request(&spec(""));
        let text = serde_json::to_string(&plain).expect("JSON");
        assert!(plain.objectives.is_none() && !text.contains("objectives"));
        let searching = spec("  search: {factor: concurrency, from: 1, to: 50}");
        let times = request(&searching).objectives.expect("times");
        assert_eq!(times, searching.objectives.times());
        assert!(times.max_ttft.is_some() && times.cost_per_gpu_hour.is_none());
        assert_eq!(Room::of(&searching.design).requests, 50);
        let rate = spec("  search: {factor: requestRate, from: 1, to: 50}");
        assert_eq!(Room::of(&rate.design).requests, OPEN_CONCURRENCY);
    }

    #[test]
    fn a_report_gives_outcomes_by_position() {
        let report = TrialReport {
            outcomes: "12056x".into(),
            ..TrialReport::default()
        };
        let found: Vec<_> = (0..7).map(|position| report.outcome(position)).collect();
        let expected = [
            Some(Outcome::Succeeded),
            Some(Outcome::OutOfMemory),
            None,
            Some(Outcome::Failed),
            Some(Outcome::Succeeded),
            None,
            None,
        ];
        assert_eq!(found, expected);
        let invalid: Vec<usize> = (0..7).filter(|&at| report.is_invalid(at)).collect();
        assert_eq!(invalid, [4]);
    }

    #[test]
    fn only_what_has_succeeded_is_invalid() {
        let mut report = TrialReport::default();
        report.mark_invalid("nothing was added");
        for (outcome, why) in [
            (Outcome::Succeeded, None),
            (Outcome::Succeeded, Some("the CPU was busy")),
            (Outcome::OutOfMemory, Some("the CPU was busy, too")),
            (Outcome::Succeeded, Some("the GPU was busy")),
        ] {
            report.add(outcome, false, None);
            if let Some(why) = why {
                report.mark_invalid(why);
            }
        }
        assert_eq!(report.outcomes, "1626");
        assert_eq!(report.invalid.as_deref(), Some("the CPU was busy"));
        let long = "é".repeat(9_999);
        let mut report = TrialReport::default();
        report.add(Outcome::Succeeded, false, None);
        report.mark_invalid(&long);
        let kept = report.invalid.map_or(0, |why| why.chars().count());
        assert_eq!(kept, limits::INVALID_REASON as usize);
    }

    #[test]
    fn outcomes_are_read_as_they_are_added() {
        let mut report = TrialReport::default();
        for (position, outcome) in Outcome::ALL.into_iter().enumerate() {
            report.add(
                outcome,
                position == 1,
                (position < 3).then_some(10.0 * position as f64),
            );
        }
        let found: Vec<_> = (0..7).map(|position| report.outcome(position)).collect();
        let all = Outcome::ALL.map(Some);
        assert_eq!((&found[..6], found[6]), (&all[..], None));
        assert_eq!((report.reused, report.best), (1, Some(20.0)));
    }

    #[test]
    fn the_report_of_the_largest_job_is_within_the_kubelets_bound() {
        let report = TrialReport {
            outcomes: "6".repeat(1_000),
            // In JSON a control character takes six bytes.
            invalid: Some("\u{1}".repeat(limits::INVALID_REASON as usize)),
            reused: 1_000,
            best: Some(-1.234_567_890_123_456_7e-300),
            message: Some("x".repeat(ERROR_BYTES)),
        };
        let bytes = serde_json::to_vec(&report).expect("JSON").len();
        assert!(bytes <= TERMINATION_MESSAGE_BYTES, "{bytes}");
    }

    #[test]
    fn the_preflight_of_sixteen_models_is_within_the_kubelets_bound() {
        let model = ModelReport {
            revision: "x".repeat(64),
            max_tokens: Some(1_048_576),
            unsupported_tensor_parallel: vec![64; 12],
            max_stages: Some(1_024),
            unsupported_engines: (0..8).collect(),
        };
        let report = PreflightReport {
            models: vec![model; 16],
            message: Some("x".repeat(320)),
        };
        let bytes = serde_json::to_vec(&report).expect("JSON").len();
        assert!(bytes <= TERMINATION_MESSAGE_BYTES, "{bytes}");
    }
}

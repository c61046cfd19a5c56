//! What a pod is asked for, in the words of `inferbench trial`'s standard input: the runner has the same types, and
//! reads what the golden files of `build` show.

use inferbench_crds::{
    Duration,
    contract::{StoreAt, SweepRequest},
    design::{Combination, Trial},
    spec::{Colocation, Isolation, Model, Runner},
};
use serde::Serialize;

use super::{names, sweep::Sweep};

/// Where models are kept: a claim's volume, or space that ends with the pod.
pub const CACHE_FOLDER: &str = "/var/cache/inferbench";

/// Of the 256 KiB that the API server allows for an object's annotations, what a pod's requests may take.
pub const MOST_BYTES: usize = 192 * 1_024;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Ask<'a> {
    Trial(TrialRequest<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialRequest<'a> {
    sweep: &'a str,
    trial_index: u32,
    run_order: u32,
    attempt: u32,
    remeasure_invalid: u32,
    request: Request<'a>,
    weights: WeightsAt,
    store: &'a StoreAt,
    timeout_ms: u64,
    neighbours_allowed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    combination: &'a Combination,
    model_revision: &'a str,
    replicate: u32,
    seed: i64,
    measurement: EffectiveMeasurement,
    runner: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EffectiveMeasurement {
    warmup_iterations: u32,
    warmup_ms: u64,
    iterations: u32,
    min_duration_ms: u64,
    isolation: Isolation,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum WeightsAt {
    Random { preset: String, seed: i64 },
    Folder(String),
}

/// The requests of a Job: one JSON document a line, in the order in which the trials run.
#[must_use]
pub fn of_trials(sweep: &Sweep, trials: &[Trial]) -> String {
    let store = sweep.store();
    let mut lines = String::new();
    for trial in trials {
        let revision = sweep.revision(&trial.combination.model.name);
        lines.push_str(&of_trial(sweep, trial, revision, &store));
        lines.push('\n');
    }
    lines
}

fn of_trial(sweep: &Sweep, trial: &Trial, revision: &str, store: &StoreAt) -> String {
    let spec = &sweep.spec;
    let combination = &trial.combination;
    let measurement = &spec.measurement;
    let gpus = i32::try_from(combination.gpus).unwrap_or(i32::MAX);
    let ask = Ask::Trial(TrialRequest {
        sweep: &sweep.name,
        trial_index: trial.index,
        run_order: trial.run_order,
        attempt: 0,
        remeasure_invalid: measurement.remeasure_invalid.unsigned_abs(),
        request: Request {
            combination,
            model_revision: revision,
            replicate: trial.replicate,
            seed: spec.design.seed,
            measurement: EffectiveMeasurement {
                warmup_iterations: measurement.warmup_iterations.unsigned_abs(),
                warmup_ms: millis(measurement.warmup_duration),
                iterations: measurement.iterations.unsigned_abs(),
                min_duration_ms: millis(measurement.min_duration_for(gpus)),
                isolation: measurement.isolation,
            },
            runner: sweep.runner_identity(),
        },
        weights: weights(&combination.model, revision, sweep),
        store,
        timeout_ms: millis(spec.execution.trial_timeout),
        neighbours_allowed: spec.execution.colocation == Colocation::Allow,
    });
    // Plain data with string keys always serializes.
    serde_json::to_string(&ask).unwrap_or_default()
}

/// Where a model lies once it is cached: where the Hub's client and the runner put it below [`CACHE_FOLDER`].
fn weights(model: &Model, revision: &str, sweep: &Sweep) -> WeightsAt {
    let source = &model.source;
    if let Some(random) = &source.random {
        return WeightsAt::Random {
            preset: random.preset.clone(),
            seed: sweep.spec.design.seed,
        };
    }
    let folder = if let Some(hub) = &source.hugging_face {
        let repo = hub.repo.replace('/', "--");
        format!(
            "{}/hub/models--{repo}/snapshots/{revision}",
            cache_folder(sweep)
        )
    } else if let Some(store) = &source.object_store {
        let hash = names::sha256(store.url.as_bytes());
        let hash = hash.get(..16).unwrap_or(&hash);
        format!("{}/models/{hash}", cache_folder(sweep))
    } else {
        source.path.clone().unwrap_or_default()
    };
    WeightsAt::Folder(folder)
}

/// The folder that models are kept in.
#[must_use]
pub fn cache_folder(sweep: &Sweep) -> String {
    let cache = sweep.spec.runner.model_cache.as_ref();
    match cache.and_then(|cache| cache.persistent_volume_claim.path.as_ref()) {
        Some(path) => format!("{CACHE_FOLDER}/{}", path.trim_end_matches('/')),
        None => CACHE_FOLDER.to_owned(),
    }
}

/// The request of a preflight, or of a collection from a ledger with so many chunks to hand over.
#[must_use]
pub fn of_sweep(sweep: &Sweep, collection: Option<(String, u32)>) -> String {
    let mut spec = sweep.spec.clone();
    spec.runner = Runner::default();
    let (ledger, chunks) = collection.unzip();
    let request = SweepRequest {
        sweep: sweep.name.clone(),
        namespace: sweep.namespace.clone(),
        spec,
        plan: sweep.plan.clone(),
        runner: sweep.runner_identity().to_owned(),
        store: sweep.store(),
        ledger,
        chunks,
    };
    serde_json::to_string(&request).unwrap_or_default()
}

/// How many trials one Job may have, so that its requests fit into an annotation: `trialsPerJob`, or less where the
/// requests of this sweep are long.
#[must_use]
pub fn trials_per_job(sweep: &Sweep) -> usize {
    let asked = usize::try_from(sweep.spec.execution.trials_per_job.max(1)).unwrap_or(1);
    let widest = |model: &Model| {
        let levels = sweep.expansion.levels();
        let most = |levels: &[u32]| levels.iter().copied().max().unwrap_or(0);
        let trial = Trial {
            index: u32::MAX,
            replicate: u32::MAX,
            run_order: u32::MAX,
            combination: Combination {
                model: model.clone(),
                batch_size: most(&levels.batch_size),
                input_length: most(&levels.input_length),
                output_length: most(&levels.output_length),
                gpus: most(&levels.gpus),
                dtype: inferbench_crds::spec::Dtype::Bf16,
            },
        };
        // The longest revision, pinned or not, so that the answer never changes.
        of_trial(sweep, &trial, &"x".repeat(64), &sweep.store()).len() + 1
    };
    let models = &sweep.expansion.levels().model;
    let longest = models.iter().map(widest).max().unwrap_or(1);
    asked.min((MOST_BYTES / longest).max(1))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.std().as_millis()).unwrap_or(u64::MAX)
}

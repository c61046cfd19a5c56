//! The requests of a pod, of the types in `inferbench_crds::contract`. The golden files of `build` show them, and a
//! test of the runner reads those.

use inferbench_crds::{
    contract::{PodRequest, Request, StoreAt, SweepRequest, TrialRequest},
    design::{Combination, Trial},
    spec::Runner,
};

use super::sweep::Sweep;

/// Where models are kept: a claim's volume, or space that ends with the pod.
pub const CACHE_FOLDER: &str = "/var/cache/inferbench";

/// Of the 256 KiB that the API server allows for an object's annotations, what a pod's requests may take.
pub const MOST_BYTES: usize = 192 * 1_024;

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
    let request = Request::of(&sweep.spec, trial, revision, sweep.runner_identity());
    let request = TrialRequest::of(&sweep.name, &sweep.spec, trial, request, store);
    // Plain data with string keys always serializes.
    serde_json::to_string(&PodRequest::Trial(Box::new(request))).unwrap_or_default()
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

/// The request of a preflight, or of a collection: from a ledger, and with a number of chunks to hand over.
#[must_use]
pub fn of_sweep(sweep: &Sweep, collection: Option<(String, u32)>) -> String {
    written(sweep, collection, None)
}

/// The request of a look after `blocks` blocks, at this state of the ledger, with a number of chunks to hand over.
#[must_use]
pub fn of_look(sweep: &Sweep, ledger: String, chunks: u32, blocks: u32) -> String {
    written(sweep, Some((ledger, chunks)), Some(blocks))
}

fn written(sweep: &Sweep, collection: Option<(String, u32)>, look: Option<u32>) -> String {
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
        look,
    };
    serde_json::to_string(&request).unwrap_or_default()
}

/// How many trials one Job may have, so that its requests fit into an annotation: `trialsPerJob`, or less where the
/// requests of this sweep are long.
#[must_use]
pub fn trials_per_job(sweep: &Sweep) -> usize {
    let asked = usize::try_from(sweep.spec.execution.trials_per_job.max(1)).unwrap_or(1);
    let width = |combination: Combination| {
        let trial = Trial {
            index: u32::MAX,
            replicate: u32::MAX,
            run_order: u32::MAX,
            combination,
        };
        // The longest revision, pinned or not, so that the answer never changes.
        of_trial(sweep, &trial, &"x".repeat(64), &sweep.store()).len() + 1
    };
    let longest = sweep.expansion.widest().map(width).max().unwrap_or(1);
    asked.min((MOST_BYTES / longest).max(1))
}

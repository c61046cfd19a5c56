//! From a sweep to its Jobs: pure, and unable to fail, as the sweep was validated. A Job is created as it stands here
//! and never changed.

mod pod;
mod volumes;

use std::collections::BTreeMap;

use inferbench_crds::{
    Duration,
    crd::{API_VERSION, KIND},
    design::Trial,
    exit_code, handover,
    spec::{Engine, Isolation, Server},
};
use k8s_openapi::{
    api::batch::v1::{
        Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
        PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use self::pod::{install, keep_apart, override_pod, template};
pub use self::{
    pod::{GPU_RESOURCE, RESERVED_ENV, SERVER_ENV},
    volumes::{MOUNTS, PROGRAM_FOLDER, REQUESTS_FOLDER, SERVER_MOUNTS},
};
use super::{
    names::{self, Role},
    request,
    sweep::Sweep,
};

/// How often a collection's pods are replaced, whatever `retries` says of trials.
const COLLECTOR_RETRIES: i32 = 3;
/// The longest that one pod of a collection may take, in seconds.
const COLLECTOR_DEADLINE: i64 = 3_600;

/// The differences between the kinds of Jobs.
struct Kind<'a> {
    role: Role,
    command: &'static str,
    requests: String,
    gpus: Option<u32>,
    /// Of trials: what they measure.
    engine: Option<&'a Engine>,
    deadline: i64,
    backoff_limit: i32,
}

impl Kind<'_> {
    /// The server that the pod starts.
    fn server(&self) -> Option<&Server> {
        self.engine?.server.as_ref()
    }
}

/// The Job that measures these trials, one after the other: of one start, and so of one engine, one model, one number
/// of GPUs and one dtype.
#[must_use]
pub fn trials(sweep: &Sweep, trials: &[Trial]) -> Job {
    let execution = &sweep.spec.execution;
    let gpus = trials.first().map_or(0, |trial| trial.combination.gpus);
    let indices: Vec<u32> = trials.iter().map(|trial| trial.index).collect();
    let first = indices.first().copied().unwrap_or(0);
    // Every trial may be measured again where something disturbed it.
    let attempts = i64::from(sweep.spec.measurement.remeasure_invalid).saturating_add(1);
    let measured = attempts.saturating_mul(execution.trials_per_job.into());
    let measuring = seconds(execution.trial_timeout).saturating_mul(measured);
    let engine = trials.first().map(|trial| &trial.combination.engine);
    let starting = engine.and_then(|engine| {
        let each = seconds(engine.server.as_ref()?.startup_timeout());
        let starts = match sweep.spec.measurement.isolation_for(engine) {
            Isolation::Process => measured,
            Isolation::Pod => attempts,
        };
        Some(each.saturating_mul(starts))
    });
    let kind = Kind {
        role: Role::Trial,
        command: "trial",
        requests: request::of_trials(sweep, trials),
        gpus: Some(gpus),
        engine,
        deadline: seconds(execution.startup_timeout)
            .saturating_add(starting.unwrap_or(0))
            .saturating_add(measuring),
        backoff_limit: execution.retries,
    };
    let name = names::trials(&sweep.name, &sweep.uid, first);
    let mut job = job(sweep, name, kind);
    annotate(&mut job, names::TRIALS, names::write_indices(&indices));
    job
}

/// The Job that checks the sweep before any GPU is asked for, for the `attempt`th time (from 1).
#[must_use]
pub fn preflight(sweep: &Sweep, attempt: u32) -> Job {
    let execution = &sweep.spec.execution;
    // It downloads every model, where there is a cache to fill.
    let models = i64::try_from(sweep.spec.design.factors.model.len()).unwrap_or(1);
    let kind = Kind {
        role: Role::Preflight,
        command: "preflight",
        requests: request::of_sweep(sweep, None),
        gpus: None,
        engine: None,
        deadline: seconds(execution.startup_timeout).saturating_mul(models.max(1)),
        backoff_limit: execution.retries,
    };
    let name = names::preflight(&sweep.name, &sweep.uid, attempt);
    let mut job = job(sweep, name, kind);
    annotate(&mut job, names::ATTEMPT, attempt.to_string());
    job
}

/// The Job that makes tables and summary from what is stored, at this state of the ledger
/// (`status.ledger.outcomes`), for the `attempt`th time (from 1). One pod at a time: index 0 collects, and each hands
/// over one part in its termination message.
#[must_use]
pub fn collector(sweep: &Sweep, ledger: &str, failed: u32, attempt: u32) -> Job {
    let chunks = chunks(sweep, failed);
    let kind = Kind {
        role: Role::Collector,
        command: "collect",
        requests: request::of_sweep(sweep, Some((ledger.to_owned(), chunks))),
        gpus: None,
        engine: None,
        deadline: COLLECTOR_DEADLINE,
        backoff_limit: COLLECTOR_RETRIES,
    };
    let inputs = sweep.inputs(ledger);
    let name = names::collector(&sweep.name, &sweep.uid, &inputs, attempt);
    let mut job = job(sweep, name, kind);
    annotate(&mut job, names::ATTEMPT, attempt.to_string());
    annotate(&mut job, names::INPUTS, inputs);
    if let Some(spec) = &mut job.spec {
        spec.completion_mode = Some("Indexed".into());
        spec.completions = i32::try_from(chunks).ok();
    }
    job
}

/// The Job that decides, after this number of blocks, which combinations run no further, at this state of the ledger
/// (`status.ledger.outcomes`), for the `attempt`th time (from 1). It reads the store as the collector does, and hands over
/// as that does.
#[must_use]
pub fn look(sweep: &Sweep, ledger: &str, blocks: u32, attempt: u32) -> Job {
    let chunks = handover::chunks_of_decisions(sweep.expansion.combinations_before_exclusion());
    let kind = Kind {
        role: Role::Look,
        command: "collect",
        requests: request::of_look(sweep, ledger.to_owned(), chunks, blocks),
        gpus: None,
        engine: None,
        deadline: COLLECTOR_DEADLINE,
        backoff_limit: COLLECTOR_RETRIES,
    };
    let name = names::look(&sweep.name, &sweep.uid, blocks, attempt);
    let mut job = job(sweep, name, kind);
    annotate(&mut job, names::ATTEMPT, attempt.to_string());
    annotate(&mut job, names::INPUTS, sweep.looked_at(blocks));
    if let Some(spec) = &mut job.spec {
        spec.completion_mode = Some("Indexed".into());
        spec.completions = i32::try_from(chunks).ok();
    }
    job
}

/// How many pods it takes to hand over what a collection says: bounded by the design, as a Job's completions are fixed
/// when it is created. Digits and names shrink to less than half by zlib.
#[must_use]
pub fn chunks(sweep: &Sweep, failed: u32) -> u32 {
    const FIXED: usize = 8_192;
    const PER_LEVEL: usize = 192;
    const PER_EFFECT: usize = 160;
    const PER_RECOVERED: usize = 8;
    const PER_NAME: usize = 256;
    let levels: Vec<usize> = sweep
        .expansion
        .axes()
        .iter()
        .map(|axis| axis.levels.len())
        .filter(|&count| count > 1)
        .collect();
    let names = sweep.spec.expectations.len();
    let names = names.min(inferbench_crds::limits::SUMMARY_REFUTED as usize);
    let summary = FIXED
        + levels.iter().sum::<usize>() * PER_LEVEL
        + levels.len() * 6 * PER_EFFECT
        + names * PER_NAME;
    let summary = summary.min(inferbench_crds::limits::SUMMARY_BYTES + 2_048);
    let bytes = summary / 2 + usize::try_from(failed).unwrap_or(0) * PER_RECOVERED;
    handover::chunks(bytes)
}

fn job(sweep: &Sweep, name: String, kind: Kind<'_>) -> Job {
    let labels = labels(sweep, &kind);
    let mut template = template(sweep, &kind);
    override_pod(sweep, &mut template);
    install(sweep, &kind, &mut template);
    keep_apart(sweep, &kind, &mut template);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(sweep.namespace.clone()),
            labels: Some(labels),
            annotations: Some([(names::PLAN.to_owned(), sweep.plan.hash.clone())].into()),
            owner_references: Some(vec![owner(sweep)]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            parallelism: Some(1),
            completions: Some(1),
            backoff_limit: Some(kind.backoff_limit),
            pod_failure_policy: Some(failure_policy()),
            // A pod that is still ending may still be writing: no other before it has gone.
            pod_replacement_policy: Some("Failed".into()),
            ttl_seconds_after_finished: Some(sweep.spec.retention.ttl_seconds_after_finished),
            template,
            // `suspend` is Kueue's, where there is a queue; the resource's own stops creation instead.
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The resource owns its Jobs. Without `blockOwnerDeletion`: an operator that is gone must not hold up a deletion.
fn owner(sweep: &Sweep) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        name: sweep.name.clone(),
        uid: sweep.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn labels(sweep: &Sweep, kind: &Kind<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (names::APP.to_owned(), "inferbench".to_owned()),
        (names::MANAGED_BY.to_owned(), names::MANAGER.to_owned()),
        (names::COMPONENT.to_owned(), kind.role.as_str().to_owned()),
        (names::BENCHMARK.to_owned(), sweep.name.clone()),
        (names::UID.to_owned(), sweep.uid.clone()),
    ]);
    if let Some(gpus) = kind.gpus {
        labels.insert(names::GPUS.to_owned(), gpus.to_string());
    }
    if let Some(queue) = &sweep.spec.runner.queue_name {
        labels.insert(names::QUEUE.to_owned(), queue.clone());
    }
    labels
}

/// First disruptions, which are no fault of the pod; then ends that would only happen again: codes that say so, and a
/// kill for memory.
fn failure_policy() -> PodFailurePolicy {
    let disrupted = PodFailurePolicyOnPodConditionsPattern {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
    };
    let permanent = PodFailurePolicyOnExitCodesRequirement {
        container_name: Some(names::CONTAINER.into()),
        operator: "In".into(),
        values: exit_code::PERMANENT.chain([exit_code::KILLED]).collect(),
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".into(),
                on_pod_conditions: Some(vec![disrupted]),
                ..PodFailurePolicyRule::default()
            },
            PodFailurePolicyRule {
                action: "FailJob".into(),
                on_exit_codes: Some(permanent),
                ..PodFailurePolicyRule::default()
            },
        ],
    }
}

fn annotate(job: &mut Job, key: &str, value: String) {
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(key.to_owned(), value);
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.std().as_millis().div_ceil(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

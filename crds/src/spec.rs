//! The spec of an `InferenceBenchmark`: what a user asks for. The doc comments are the CRD's descriptions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    Duration, confirm::Confirm, factor::Levels, limits, patterns, search::Search, select::Select,
    status::InferenceBenchmarkStatus, until::Until, workload::Weighted,
};
pub use crate::{
    dtype::Dtype,
    engine::{Candle, Endpoint, Engine, Server},
    exclude::Exclude,
    expectation::Expectation,
    factors::{Factors, Parameter},
    model::{HuggingFaceSource, Model, ModelSource, ObjectStoreSource, RandomSource},
    secret::{SecretKeyRef, SecretRef},
};

/// A designed sweep of LLM inference measurements.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "inferbench.dev",
    version = "v1alpha1",
    kind = "InferenceBenchmark",
    namespaced,
    shortname = "ib",
    status = "InferenceBenchmarkStatus",
    derive = "PartialEq",
    category = "inferbench"
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceBenchmarkSpec {
    /// The factors, their levels and how often and in which order every combination is measured. Immutable.
    pub design: Design,
    /// How one trial is measured. Immutable.
    #[serde(default)]
    pub measurement: Measurement,
    /// The pods that measure. Immutable.
    #[serde(default)]
    pub runner: Runner,
    /// Where the results go. Immutable; required in a cluster.
    #[serde(default)]
    pub results: Results,
    /// How the sweep is carried out.
    #[serde(default)]
    pub execution: Execution,
    /// The objectives that the best configuration has to meet.
    #[serde(default)]
    pub objectives: Objectives,
    /// Statements about the results, each judged as shown, refuted or not shown when they are collected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::EXPECTATIONS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub expectations: Vec<Expectation>,
    /// Stop creating Jobs while true; those that run end on their own.
    #[serde(default)]
    pub suspend: bool,
    /// The retention of finished Jobs.
    #[serde(default)]
    pub retention: Retention,
}

/// The design: every combination of the factors' levels, less the excluded, `replicates` times.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Design {
    /// The factors and their levels.
    pub factors: Factors,
    /// Combinations to leave out: one is left out when every factor that an entry names has a listed level.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::EXCLUDES))]
    pub exclude: Vec<Exclude>,
    /// Some of the combinations in place of all, chosen by the seed before anything runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    /// The highest load at which the objectives hold, searched by every trial in place of levels of the load. Of servers
    /// and endpoints alone; it needs a time in `objectives`, which cannot be changed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// How often every combination is measured, each time in a fresh process and a block of its own.
    #[serde(default = "default_replicates")]
    #[schemars(range(min = 1, max = limits::REPLICATES))]
    pub replicates: i32,
    /// When a combination has been measured often enough: it then runs no further, and `replicates` is the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// The best after these replicates is measured again, in fresh ones, before it is called so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<Confirm>,
    /// The order of the trials.
    #[serde(default)]
    pub order: Order,
    /// The seed of the run order, the prompts and the random weights.
    #[serde(default = "default_seed")]
    #[schemars(range(min = 0, max = limits::SEED))]
    pub seed: i64,
}

/// The order of the trials.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Order {
    /// Every replicate is one block, shuffled by the seed.
    #[default]
    Randomized,
    /// Every replicate is one block, in the order of the factors' levels.
    Sequential,
}

/// How one trial is measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Measurement {
    /// Iterations of the same shape before the first timed one, at least.
    #[schemars(range(min = 0, max = 1_000))]
    pub warmup_iterations: i32,
    /// Time spent warming up, at least.
    pub warmup_duration: Duration,
    /// Timed iterations, at least.
    #[schemars(range(min = 1, max = 10_000))]
    pub iterations: i32,
    /// Time over all timed iterations, at least; by default 2s on CPU and 10s where there is a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<Duration>,
    /// The isolation of a Job's trials: what they share; by default Process for candle and Pod for servers and endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// How often an invalid trial is measured again.
    #[schemars(range(min = 0, max = 10))]
    pub remeasure_invalid: i32,
    /// Judge one batch of what every trial writes, after the timed window: its likelihood by the model itself, how much
    /// repeats, how near it stays to the prompt. Left empty for random weights.
    pub quality: bool,
}

impl Default for Measurement {
    fn default() -> Self {
        Self {
            warmup_iterations: 2,
            warmup_duration: Duration::from_secs(1),
            iterations: 5,
            min_duration: None,
            isolation: None,
            remeasure_invalid: 1,
            quality: false,
        }
    }
}

impl Measurement {
    /// The least time over all timed iterations on `gpus` GPUs: `min_duration`, else 2 s on CPU and 10 s on GPU.
    #[must_use]
    pub fn min_duration_for(&self, gpus: i32) -> Duration {
        let default = Duration::from_secs(if gpus == 0 { 2 } else { 10 });
        self.min_duration.unwrap_or(default)
    }

    /// The isolation of the trials of an engine: `isolation`, else Process for candle and Pod for what is asked over HTTP.
    #[must_use]
    pub fn isolation_for(&self, engine: &Engine) -> Isolation {
        let default = if engine.takes_requests() {
            Isolation::Pod
        } else {
            Isolation::Process
        };
        self.isolation.unwrap_or(default)
    }
}

/// The isolation of a Job's trials: what they share.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing: each trial is a fresh process.
    #[default]
    Process,
    /// A process with a loaded model.
    Pod,
}

/// The pods that measure.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Runner {
    /// The runner's image; by default the one that the operator was installed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::IMAGE), regex(pattern = patterns::IMAGE))]
    pub image: Option<String>,
    /// The extended resource that a GPU is asked for by (default nvidia.com/gpu).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = patterns::QUALIFIED_NAME))]
    pub gpu_resource: Option<String>,
    /// Where downloaded models are kept between trials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_cache: Option<ModelCache>,
    /// A Secret key with a token for the Hugging Face Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugging_face_token_secret_ref: Option<SecretKeyRef>,
    /// The Kueue queue that admits the Jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub queue_name: Option<String>,
    /// The service account of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub service_account_name: Option<String>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Scheduling constraints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The runtime class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub runtime_class_name: Option<String>,
    /// The priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub priority_class_name: Option<String>,
    /// Environment variables; names that begin with INFERBENCH_ are reserved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,
    /// CPU and memory of a pod; GPUs come from the design.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// A strategic-merge patch of the pod template, applied last; the operator says which fields are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod_overrides: Option<serde_json::Value>,
}

/// Where downloaded models are kept.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelCache {
    /// A claim in the resource's namespace.
    pub persistent_volume_claim: ClaimRef,
}

/// A PersistentVolumeClaim by name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// The name of the claim.
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub claim_name: String,
    /// A folder on the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::PATH), regex(pattern = patterns::RELATIVE_PATH))]
    pub path: Option<String>,
}

/// Where the results go.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Results {
    /// The store; a local run writes to a folder instead where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

/// A store: either `url` or `persistentVolumeClaim`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Store {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` (locally also `file:///folder`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::URL), regex(pattern = patterns::STORE_URL))]
    pub url: Option<String>,
    /// The endpoint of an S3-compatible server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::URL), regex(pattern = patterns::HTTP_URL))]
    pub endpoint: Option<String>,
    /// The region of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = patterns::REGION))]
    pub region: Option<String>,
    /// A Secret whose keys become the environment variables that the store's client reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// A claim in the resource's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimRef>,
}

/// How the sweep is carried out; mutable but for `trialsPerJob`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Execution {
    /// Jobs at a time.
    #[schemars(range(min = 1, max = 500))]
    pub parallelism: i32,
    /// Whether two runner pods may share a node.
    pub colocation: Colocation,
    /// Trials inside one block that one Job measures: such as one start of the engine can serve, as they differ in
    /// their load alone.
    #[schemars(range(min = 1, max = 1_000))]
    pub trials_per_job: i32,
    /// The longest a trial may take; the runner itself ends it as `TimedOut`.
    pub trial_timeout: Duration,
    /// The longest a pod may take before its first trial.
    pub startup_timeout: Duration,
    /// The longest a pod may wait for a node.
    pub pending_timeout: Duration,
    /// How often a failed pod is replaced.
    #[schemars(range(min = 0, max = 20))]
    pub retries: i32,
    /// The share of failed trials that ends the sweep.
    #[schemars(range(min = 0, max = 100))]
    pub max_failed_percent: i32,
    /// The effect of a failed trial on the sweep.
    pub on_failure: OnFailure,
}

impl Default for Execution {
    fn default() -> Self {
        Self {
            parallelism: 1,
            colocation: Colocation::Forbid,
            trials_per_job: 1,
            trial_timeout: Duration::from_secs(1_800),
            startup_timeout: Duration::from_secs(3_600),
            pending_timeout: Duration::from_secs(3_600),
            retries: 2,
            max_failed_percent: 10,
            on_failure: OnFailure::Continue,
        }
    }
}

/// Whether two runner pods may share a node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Colocation {
    /// Never, of any sweep.
    #[default]
    Forbid,
    /// They may; the records say which trials had neighbours.
    Allow,
}

/// The effect of a failed trial on the sweep.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes on until `maxFailedPercent` is exceeded.
    #[default]
    Continue,
    /// It ends.
    Stop,
}

/// The objectives that the best configuration has to meet.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Objectives {
    /// The longest time to first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttft: Option<Duration>,
    /// The longest time per output token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tpot: Option<Duration>,
    /// The longest time from a request to its last token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_e2e: Option<Duration>,
    /// The price of a GPU hour, as a decimal number in a currency of the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = patterns::DECIMAL))]
    pub cost_per_gpu_hour: Option<String>,
    /// The mix of workloads to find the best configuration for, by the share of requests that each has. Where it is
    /// absent, all workloads of the design count alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::WORKLOADS))]
    pub workloads: Vec<Weighted>,
}

impl Objectives {
    /// Those on times alone.
    #[must_use]
    pub fn times(&self) -> Self {
        Self {
            max_ttft: self.max_ttft,
            max_tpot: self.max_tpot,
            max_e2e: self.max_e2e,
            ..Self::default()
        }
    }

    /// Whether any time is limited.
    #[must_use]
    pub const fn limit_times(&self) -> bool {
        self.max_ttft.is_some() || self.max_tpot.is_some() || self.max_e2e.is_some()
    }

    /// How often requests come of a combination's workload, in relation to those of others: 0 where a mix is given that
    /// does not name it.
    #[must_use]
    pub fn weight(&self, levels: &Levels) -> f64 {
        let mut named = self.workloads.iter();
        let named = named.find(|weighted| weighted.workload.matches(levels));
        match named {
            Some(weighted) => weighted.weight.get(),
            None if self.workloads.is_empty() => 1.0,
            None => 0.0,
        }
    }
}

/// The retention of finished Jobs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// Failed Jobs to keep.
    #[schemars(range(min = 0, max = 100))]
    pub failed_jobs: i32,
    /// Seconds after which a finished Job is deleted in any case; at least 3600.
    #[schemars(range(min = limits::MIN_TTL_SECONDS, max = i32::MAX))]
    pub ttl_seconds_after_finished: i32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            failed_jobs: 10,
            ttl_seconds_after_finished: 86_400,
        }
    }
}

fn default_replicates() -> i32 {
    1
}

fn default_seed() -> i64 {
    42
}

/// The schema of an object that is checked elsewhere: anything goes.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

//! From a sweep to its Jobs: pure, and unable to fail, as the sweep was validated. A Job is created as it stands here
//! and never changed.

use std::collections::BTreeMap;

use inferbench_crds::{
    Duration,
    contract::{
        API_KEY_VARIABLE, CACHE_VARIABLE, IMAGE_DIGEST_VARIABLE, NODE_VARIABLE, PROGRAM,
        REQUESTS_FILE, REQUESTS_VARIABLE, api_key_variable,
    },
    crd::{API_VERSION, KIND},
    design::Trial,
    exit_code, handover,
    spec::{ClaimRef, Colocation, Engine, Isolation, SecretKeyRef, Server},
};
use k8s_openapi::{
    DeepMerge,
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::{
            Affinity, Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
            EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector,
            PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodAntiAffinity,
            PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
            SecretEnvSource, SecretKeySelector, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
    },
};

use super::{
    names::{self, Role},
    request::{self, CACHE_FOLDER},
    sweep::{RESULTS_FOLDER, Sweep},
};

/// The extended resource of a GPU, where the spec names none.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";
/// How often a collection's pods are replaced, whatever `retries` says of trials.
const COLLECTOR_RETRIES: i32 = 3;
/// The longest that one pod of a collection may take, in seconds.
const COLLECTOR_DEADLINE: i64 = 3_600;
/// The folder of what a pod is asked for.
pub const REQUESTS_FOLDER: &str = "/var/run/inferbench";
/// The folder of [`PROGRAM`].
pub const PROGRAM_FOLDER: &str = "/opt/inferbench";
/// The folder that a server writes to: gone with its pod, so that every start finds the same.
const ENGINE_FOLDER: &str = "/var/cache/engine";

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

fn template(sweep: &Sweep, kind: &Kind<'_>) -> PodTemplateSpec {
    let runner = &sweep.spec.runner;
    // A pod that only checks or collects needs neither the drivers nor the GPUs that this class would give it.
    let runtime_class = runner
        .runtime_class_name
        .clone()
        .filter(|_| kind.gpus.is_some());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(sweep, kind)),
            annotations: Some([(names::REQUESTS.to_owned(), kind.requests.clone())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            restart_policy: Some("Never".into()),
            active_deadline_seconds: Some(kind.deadline),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod_security(sweep.user)),
            service_account_name: runner.service_account_name.clone(),
            runtime_class_name: runtime_class,
            priority_class_name: runner.priority_class_name.clone(),
            node_selector: some(runner.node_selector.clone(), BTreeMap::is_empty),
            tolerations: some(runner.tolerations.clone(), Vec::is_empty),
            affinity: runner.affinity.clone(),
            volumes: Some(volumes(sweep, kind)),
            containers: vec![container(sweep, kind)],
            ..PodSpec::default()
        }),
    }
}

fn container(sweep: &Sweep, kind: &Kind<'_>) -> Container {
    // An explicit command: the operator cannot know what an image would run by itself, and `inferbench` starts it.
    let (image, program) = match kind.server() {
        Some(server) => (server.image.as_deref().unwrap_or_default(), PROGRAM),
        None => (sweep.image(), "inferbench"),
    };
    Container {
        name: names::CONTAINER.into(),
        image: Some(image.to_owned()),
        command: Some(vec![program.into()]),
        args: Some(vec![kind.command.into()]),
        env: Some(env(sweep, kind)),
        env_from: credentials(sweep).map(|from| vec![from]),
        resources: resources(sweep, kind),
        security_context: Some(container_security()),
        termination_message_policy: Some("File".into()),
        volume_mounts: Some(mounts(sweep, kind)),
        ..Container::default()
    }
}

/// The variables that the operator sets; a spec may set none of them.
pub const RESERVED_ENV: [&str; 3] = ["HF_HUB_CACHE", "HF_TOKEN", "HOME"];

/// The variables that the operator sets in the pod of a server beside [`RESERVED_ENV`]; a spec with servers may set
/// none of them.
///
/// The root of the file system is read-only there, too, and the user is none that the image knows: servers and their
/// compilers need a place for what they keep, or they end with an error, some of them after minutes.
pub const SERVER_ENV: [(&str, &str); 9] = [
    // A folder without a variable of its own goes below the home folder.
    ("HOME", ENGINE_FOLDER),
    // Python asks for the user's name here first, and fails where it finds none and the image's passwd has none either.
    ("USER", "inferbench"),
    ("TMPDIR", "/tmp"),
    ("XDG_CACHE_HOME", "/var/cache/engine/cache"),
    ("XDG_CONFIG_HOME", "/var/cache/engine/config"),
    ("HF_HOME", "/var/cache/engine/huggingface"),
    ("VLLM_CACHE_ROOT", "/var/cache/engine/vllm"),
    ("TRITON_CACHE_DIR", "/var/cache/engine/triton"),
    ("TORCHINDUCTOR_CACHE_DIR", "/var/cache/engine/inductor"),
];

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    }
}

/// An image that is made for GPUs would otherwise be given all of the node's by some container runtimes.
fn no_gpus() -> EnvVar {
    variable("NVIDIA_VISIBLE_DEVICES", "void")
}

fn env(sweep: &Sweep, kind: &Kind<'_>) -> Vec<EnvVar> {
    let from = |name: &str, source: EnvVarSource| EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(source),
    };
    let secret = |name: &str, key: &SecretKeyRef| {
        let key = SecretKeySelector {
            name: key.name.clone(),
            key: key.key.clone(),
            optional: None,
        };
        from(
            name,
            EnvVarSource {
                secret_key_ref: Some(key),
                ..EnvVarSource::default()
            },
        )
    };
    let cache = request::cache_folder(sweep);
    let mut env = vec![
        variable(REQUESTS_VARIABLE, REQUESTS_FILE),
        from(
            NODE_VARIABLE,
            EnvVarSource {
                field_ref: Some(field("spec.nodeName")),
                ..EnvVarSource::default()
            },
        ),
        variable("HF_HUB_CACHE", &format!("{cache}/hub")),
        variable(CACHE_VARIABLE, &cache),
    ];
    match kind.server() {
        Some(_) => env.extend(SERVER_ENV.map(|(name, value)| variable(name, value))),
        None => env.push(variable("HOME", "/tmp")),
    }
    if let Some((_, digest)) = sweep.image().split_once('@') {
        env.push(variable(IMAGE_DIGEST_VARIABLE, digest));
    }
    if kind.gpus.unwrap_or(0) == 0 {
        env.push(no_gpus());
    }
    if let Some(token) = &sweep.spec.runner.hugging_face_token_secret_ref {
        env.push(secret("HF_TOKEN", token));
    }
    if let Some(key) = kind.engine.and_then(api_key) {
        env.push(secret(API_KEY_VARIABLE, key));
    }
    if kind.role == Role::Preflight {
        let engines = sweep.spec.design.factors.engine.iter().enumerate();
        let keys = engines.filter_map(|(at, engine)| Some((at, api_key(engine)?)));
        env.extend(keys.map(|(at, key)| secret(&api_key_variable(at), key)));
    }
    for given in &sweep.spec.runner.env {
        env.retain(|own| own.name != given.name);
        env.push(given.clone());
    }
    env
}

fn api_key(engine: &Engine) -> Option<&SecretKeyRef> {
    engine.endpoint.as_ref()?.api_key_secret_ref.as_ref()
}

fn field(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector {
        api_version: Some("v1".into()),
        field_path: path.into(),
    }
}

fn credentials(sweep: &Sweep) -> Option<EnvFromSource> {
    let secret = sweep
        .spec
        .results
        .store
        .as_ref()?
        .credentials_secret_ref
        .as_ref()?;
    Some(EnvFromSource {
        secret_ref: Some(SecretEnvSource {
            name: secret.name.clone(),
            optional: None,
        }),
        ..EnvFromSource::default()
    })
}

fn resources(sweep: &Sweep, kind: &Kind<'_>) -> Option<ResourceRequirements> {
    let runner = &sweep.spec.runner;
    let Some(gpus) = kind.gpus else {
        return Some(sweep.light.clone());
    };
    let mut resources = runner.resources.clone();
    if gpus > 0 {
        resources
            .get_or_insert_default()
            .limits
            .get_or_insert_default()
            .insert(gpu_resource(sweep).to_owned(), Quantity(gpus.to_string()));
    }
    resources
}

fn gpu_resource(sweep: &Sweep) -> &str {
    let given = sweep.spec.runner.gpu_resource.as_deref();
    given.unwrap_or(GPU_RESOURCE)
}

fn volumes(sweep: &Sweep, kind: &Kind<'_>) -> Vec<Volume> {
    let named = |name: &str| Volume {
        name: format!("{}{name}", names::VOLUME_PREFIX),
        ..Volume::default()
    };
    let requests = DownwardAPIVolumeSource {
        items: Some(vec![DownwardAPIVolumeFile {
            path: "requests".into(),
            field_ref: Some(field(&format!(
                "metadata.annotations['{}']",
                names::REQUESTS
            ))),
            ..DownwardAPIVolumeFile::default()
        }]),
        ..DownwardAPIVolumeSource::default()
    };
    let mut volumes = vec![
        Volume {
            downward_api: Some(requests),
            ..named("requests")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..named("tmp")
        },
        match &sweep.spec.runner.model_cache {
            Some(cache) => claimed(named("models"), &cache.persistent_volume_claim),
            None => Volume {
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..named("models")
            },
        },
    ];
    if let Some(claim) = results_claim(sweep) {
        volumes.push(claimed(named("results"), claim));
    }
    if kind.server().is_some() {
        for name in ["program", "engine"] {
            volumes.push(Volume {
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..named(name)
            });
        }
    }
    if shares_memory(kind) {
        let memory = EmptyDirVolumeSource {
            medium: Some("Memory".into()),
            size_limit: None,
        };
        volumes.push(Volume {
            empty_dir: Some(memory),
            ..named("shm")
        });
    }
    volumes
}

/// Whether a pod needs more shared memory than the 64 MiB that it has: the ranks of one model exchange through it what
/// they compute, and the processes of one server their requests.
fn shares_memory(kind: &Kind<'_>) -> bool {
    kind.gpus.unwrap_or(0) > 1 || kind.server().is_some()
}

fn claimed(volume: Volume, claim: &ClaimRef) -> Volume {
    Volume {
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.claim_name.clone(),
            read_only: None,
        }),
        ..volume
    }
}

fn results_claim(sweep: &Sweep) -> Option<&ClaimRef> {
    let store = sweep.spec.results.store.as_ref()?;
    store.persistent_volume_claim.as_ref()
}

/// Where the operator's volumes are mounted in the pod of a server, beside [`MOUNTS`].
pub const SERVER_MOUNTS: [&str; 2] = [PROGRAM_FOLDER, ENGINE_FOLDER];

/// Where the operator's volumes are mounted; nothing else may be.
pub const MOUNTS: [&str; 5] = [
    REQUESTS_FOLDER,
    "/tmp",
    CACHE_FOLDER,
    RESULTS_FOLDER,
    "/dev/shm",
];

fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount {
        name: format!("{}{name}", names::VOLUME_PREFIX),
        mount_path: path.into(),
        read_only,
        ..VolumeMount::default()
    }
}

fn mounts(sweep: &Sweep, kind: &Kind<'_>) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount("requests", REQUESTS_FOLDER, Some(true)),
        mount("tmp", "/tmp", None),
        mount("models", CACHE_FOLDER, None),
    ];
    if results_claim(sweep).is_some() {
        mounts.push(mount("results", RESULTS_FOLDER, None));
    }
    if kind.server().is_some() {
        mounts.push(mount("program", PROGRAM_FOLDER, Some(true)));
        mounts.push(mount("engine", ENGINE_FOLDER, None));
    }
    if shares_memory(kind) {
        mounts.push(mount("shm", "/dev/shm", None));
    }
    mounts
}

/// Has `inferbench` copied into the pod of a server, whose image does not have it. After the overrides, which are to
/// change nothing of that.
fn install(sweep: &Sweep, kind: &Kind<'_>, template: &mut PodTemplateSpec) {
    let (Some(_), Some(spec)) = (kind.server(), &mut template.spec) else {
        return;
    };
    let mut containers = spec.containers.iter();
    let runner = containers.find(|container| container.name == names::CONTAINER);
    // As much as the container after it, which it takes nothing from: a pod is of the class Guaranteed, and has its
    // CPUs for itself, only where all of its containers are. Without GPUs.
    let mut resources = runner.and_then(|runner| runner.resources.clone());
    for amounts in resources
        .iter_mut()
        .flat_map(|all| [&mut all.limits, &mut all.requests])
        .flatten()
    {
        amounts.remove(gpu_resource(sweep));
    }
    let installer = Container {
        name: names::INSTALLER.into(),
        image: Some(sweep.image().to_owned()),
        command: Some(vec!["inferbench".into()]),
        args: Some(vec!["install".into(), PROGRAM.into()]),
        env: Some(vec![no_gpus()]),
        resources,
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![mount("program", PROGRAM_FOLDER, None)]),
        ..Container::default()
    };
    let others = spec.init_containers.get_or_insert_default();
    others.insert(0, installer);
}

/// With this user, group and volume group; without one, the platform chooses them, and refuses any other.
fn pod_security(user: Option<i64>) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".into()]),
        }),
        ..SecurityContext::default()
    }
}

/// Merges `podOverrides` as a strategic merge. Containers that it adds are as restricted as ours, unless it says
/// otherwise, within the limits of `overrides`.
fn override_pod(sweep: &Sweep, template: &mut PodTemplateSpec) {
    let overrides = sweep.spec.runner.pod_overrides.as_ref();
    // Validation has seen that it is a pod template.
    let Some(patch) = overrides.and_then(|value| serde_json::from_value(value.clone()).ok()) else {
        return;
    };
    template.merge_from(patch);
    let Some(spec) = &mut template.spec else {
        return;
    };
    let added = spec.init_containers.iter_mut().flatten();
    for container in added.chain(&mut spec.containers) {
        let given = container.security_context.take();
        let mut security = container_security();
        security.merge_from(given.unwrap_or_default());
        container.security_context = Some(security);
    }
}

/// Keeps pods that measure off a node where another one measures, whatever sweep it belongs to. After everything else:
/// lists of affinity terms replace each other when they are merged.
fn keep_apart(sweep: &Sweep, kind: &Kind<'_>, template: &mut PodTemplateSpec) {
    if sweep.spec.execution.colocation != Colocation::Forbid || kind.role != Role::Trial {
        return;
    }
    let Some(spec) = &mut template.spec else {
        return;
    };
    let measuring = [
        (names::COMPONENT.to_owned(), Role::Trial.as_str().to_owned()),
        (names::MANAGED_BY.to_owned(), names::MANAGER.to_owned()),
    ];
    let term = PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".into(),
        label_selector: Some(LabelSelector {
            match_labels: Some(measuring.into()),
            match_expressions: None,
        }),
        // An empty selector: those of all namespaces.
        namespace_selector: Some(LabelSelector::default()),
        ..PodAffinityTerm::default()
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let apart: &mut PodAntiAffinity = affinity.pod_anti_affinity.get_or_insert_default();
    apart
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default()
        .push(term);
}

fn annotate(job: &mut Job, key: &str, value: String) {
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(key.to_owned(), value);
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.std().as_millis().div_ceil(1_000)).unwrap_or(i64::MAX)
}

fn some<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}

#[cfg(test)]
mod tests;

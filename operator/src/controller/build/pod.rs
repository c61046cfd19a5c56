//! A Job's pod: its container and variables, what is installed into a server's, and what a user overrides.

use std::collections::BTreeMap;

use inferbench_crds::{
    contract::{
        API_KEY_VARIABLE, CACHE_VARIABLE, IMAGE_DIGEST_VARIABLE, NODE_VARIABLE, PROGRAM,
        REQUESTS_FILE, REQUESTS_VARIABLE, api_key_variable,
    },
    spec::{Colocation, Engine, SecretKeyRef},
};
use k8s_openapi::{
    DeepMerge,
    api::core::v1::{
        Affinity, Capabilities, Container, EnvFromSource, EnvVar, EnvVarSource, PodAffinityTerm,
        PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
        SeccompProfile, SecretEnvSource, SecretKeySelector, SecurityContext,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
    },
};

use super::{
    Kind, labels,
    volumes::{ENGINE_FOLDER, PROGRAM_FOLDER, field, mount, mounts, volumes},
};
use crate::controller::{
    names::{self, Role},
    request,
    sweep::Sweep,
};

/// The extended resource of a GPU, where the spec names none.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";

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

pub(super) fn template(sweep: &Sweep, kind: &Kind<'_>) -> PodTemplateSpec {
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

/// Has `inferbench` copied into the pod of a server, whose image does not have it. After the overrides, which are to
/// change nothing of that.
pub(super) fn install(sweep: &Sweep, kind: &Kind<'_>, template: &mut PodTemplateSpec) {
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
pub(super) fn override_pod(sweep: &Sweep, template: &mut PodTemplateSpec) {
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
pub(super) fn keep_apart(sweep: &Sweep, kind: &Kind<'_>, template: &mut PodTemplateSpec) {
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

fn some<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}

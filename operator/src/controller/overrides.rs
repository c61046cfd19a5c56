//! The limits of `runner.podOverrides`, by field. Whoever may create an `InferenceBenchmark` is not thereby allowed
//! to reach the node, nor to change what is measured and how it is accounted for.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use inferbench_crds::{Violation, contract::RESERVED_PREFIX, violation::Found};

use super::{
    build::{
        GPU_RESOURCE, MOUNTS, PROGRAM_FOLDER, REQUESTS_FOLDER, RESERVED_ENV, SERVER_ENV,
        SERVER_MOUNTS,
    },
    names,
};

/// Where the overrides stand in the resource.
const ROOT: &str = "spec.runner.podOverrides";

/// Fields of the pod that the operator alone decides on.
const POD: [(&str, &str); 6] = [
    ("restartPolicy", "a pod that ended is replaced by its Job"),
    ("activeDeadlineSeconds", "it follows from execution"),
    ("ephemeralContainers", "a template has none"),
    (
        "nodeName",
        "it would go round the scheduler: use nodeSelector",
    ),
    ("serviceAccount", "use runner.serviceAccountName"),
    ("serviceAccountName", "use runner.serviceAccountName"),
];

/// Fields of the runner's container that the operator alone decides on.
const RUNNER: [(&str, &str); 9] = [
    (
        "image",
        "use runner.image, or the image of an engine's server, which become part of the plan",
    ),
    ("command", "the container has to run inferbench"),
    ("args", "the container has to run inferbench"),
    ("envFrom", "use runner.env"),
    ("restartPolicy", "a pod that ended is replaced by its Job"),
    (
        "terminationMessagePath",
        "the operator reads the runner's report there",
    ),
    (
        "terminationMessagePolicy",
        "the operator reads the runner's report there",
    ),
    ("stdin", "inferbench reads no terminal"),
    ("tty", "inferbench reads no terminal"),
];

/// The sweep that overrides are for, as far as it says what they may do.
#[derive(Clone, Copy)]
struct Of<'a> {
    /// The extended resource of a GPU.
    gpu_resource: &'a str,
    /// Whether pods start servers.
    servers: bool,
}

/// Everything in the overrides that is not allowed. `gpu_resource` is the sweep's, and `servers` says whether any of
/// its engines is one: their pods have more of the operator's in them.
#[must_use]
pub fn check(overrides: &Value, gpu_resource: Option<&str>, servers: bool) -> Vec<Violation> {
    let mut found = Found::default();
    let Some(template) = overrides.as_object() else {
        found.add(ROOT, "is not an object");
        return found.all();
    };
    match serde_json::from_value::<PodTemplateSpec>(overrides.clone()) {
        Err(error) => found.add(ROOT, format!("is no patch of a pod template: {error}")),
        Ok(parsed) => {
            let known = serde_json::to_value(parsed).unwrap_or_default();
            unknown(&mut found, overrides, &known, ROOT);
        }
    }
    metadata(&mut found, template);
    if let Some(Value::Object(pod)) = template.get("spec") {
        let of = Of {
            gpu_resource: gpu_resource.unwrap_or(GPU_RESOURCE),
            servers,
        };
        self::pod(&mut found, pod, of);
    }
    found.all()
}

/// Finds whatever did not survive being read as a pod template: unknown fields, and nulls, which would change nothing.
fn unknown(found: &mut Found, given: &Value, known: &Value, path: &str) {
    match (given, known) {
        (Value::Object(given), known) => {
            for (name, value) in given {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(known) => unknown(found, value, known, &path),
                    None if value.is_null() => {
                        found.add(
                            path,
                            "is null: an override adds or replaces, it cannot remove",
                        );
                    }
                    None => found.add(path, "is not a field of a pod template"),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                unknown(found, given, known, &format!("{path}[{index}]"));
            }
        }
        _ => {}
    }
}

fn metadata(found: &mut Found, template: &Map<String, Value>) {
    let Some(Value::Object(metadata)) = template.get("metadata") else {
        return;
    };
    for (name, value) in metadata {
        let path = format!("{ROOT}.metadata.{name}");
        if !matches!(name.as_str(), "labels" | "annotations") {
            found.add(
                path,
                "is not allowed: of metadata, labels and annotations are",
            );
            continue;
        }
        for key in value.as_object().into_iter().flat_map(Map::keys) {
            if is_reserved(key) {
                found.add(format!("{path}[{key}]"), "is reserved");
            }
        }
    }
}

fn pod(found: &mut Found, pod: &Map<String, Value>, of: Of<'_>) {
    let path = format!("{ROOT}.spec");
    for (field, why) in POD {
        if pod.contains_key(field) {
            found.add(format!("{path}.{field}"), format!("is not allowed: {why}"));
        }
    }
    for field in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
        if pod.get(field) == Some(&Value::Bool(true)) {
            found.add(
                format!("{path}.{field}"),
                "is not allowed: it shares a namespace of the node",
            );
        }
    }
    security(found, pod, &path);
    for (index, volume) in items(pod, "volumes") {
        let path = format!("{path}.volumes[{index}]");
        if volume.contains_key("hostPath") {
            found.add(
                format!("{path}.hostPath"),
                "is not allowed: it is a folder of the node",
            );
        }
        let name = text(volume, "name");
        if name.is_empty() {
            found.add(format!("{path}.name"), "is required");
        } else if name.starts_with(names::VOLUME_PREFIX) {
            found.add(
                format!("{path}.name"),
                format!(
                    "{name:?} is reserved, as is all that begins with {}",
                    names::VOLUME_PREFIX
                ),
            );
        }
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in items(pod, list) {
            self::container(
                found,
                container,
                &format!("{path}.{list}[{index}]"),
                list,
                of,
            );
        }
    }
}

fn container(
    found: &mut Found,
    container: &Map<String, Value>,
    path: &str,
    list: &str,
    of: Of<'_>,
) {
    let gpu_resource = of.gpu_resource;
    let name = text(container, "name");
    if name.is_empty() {
        found.add(format!("{path}.name"), "is required");
    }
    security(found, container, path);
    for (index, port) in items(container, "ports") {
        if port.contains_key("hostPort") {
            found.add(
                format!("{path}.ports[{index}].hostPort"),
                "is not allowed: it is a port of the node",
            );
        }
    }
    for side in ["limits", "requests"] {
        let amounts = container.get("resources").and_then(|all| all.get(side));
        if amounts.is_some_and(|amounts| amounts.get(gpu_resource).is_some()) {
            found.add(
                format!("{path}.resources.{side}[{gpu_resource}]"),
                "is not allowed: GPUs come from the design",
            );
        }
    }
    let is_runner = name == names::CONTAINER;
    if (is_runner && list == "initContainers") || (name == names::INSTALLER && of.servers) {
        found.add(format!("{path}.name"), format!("{name:?} is reserved"));
        return;
    }
    if !is_runner {
        return;
    }
    for (field, why) in RUNNER {
        if container.contains_key(field) {
            found.add(format!("{path}.{field}"), format!("is not allowed: {why}"));
        }
    }
    for (index, env) in items(container, "env") {
        let name = text(env, "name");
        if is_reserved_env(name, of.servers) {
            found.add(
                format!("{path}.env[{index}].name"),
                format!("{name:?} is reserved"),
            );
        }
    }
    for (index, mount) in items(container, "volumeMounts") {
        let path = format!("{path}.volumeMounts[{index}]");
        let at = text(mount, "mountPath");
        if hides(at, of.servers) {
            let own: Vec<&str> = mounts(of.servers).collect();
            found.add(
                format!("{path}.mountPath"),
                format!(
                    "{at:?} is where the operator mounts its own: {}",
                    own.join(", ")
                ),
            );
        }
    }
}

/// The security context of a pod or a container.
fn security(found: &mut Found, of: &Map<String, Value>, path: &str) {
    let Some(Value::Object(security)) = of.get("securityContext") else {
        return;
    };
    let path = format!("{path}.securityContext");
    let yes = Value::Bool(true);
    let is = |field: &str, value: &Value| security.get(field) == Some(value);
    if is("privileged", &yes) {
        found.add(format!("{path}.privileged"), "is not allowed");
    }
    if is("allowPrivilegeEscalation", &yes) {
        found.add(format!("{path}.allowPrivilegeEscalation"), "is not allowed");
    }
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if is(field, &Value::from(0)) {
            found.add(format!("{path}.{field}"), "is root, which is not allowed");
        }
    }
    if let Some(groups) = security.get("supplementalGroups").and_then(Value::as_array)
        && groups.contains(&Value::from(0))
    {
        found.add(
            format!("{path}.supplementalGroups"),
            "has root's, which is not allowed",
        );
    }
    if is("runAsNonRoot", &Value::Bool(false)) {
        found.add(
            format!("{path}.runAsNonRoot"),
            "is false, which is not allowed",
        );
    }
    // Also what to drop: the list would take the place of ours, which drops all.
    if security.contains_key("capabilities") {
        found.add(format!("{path}.capabilities"), "is not allowed");
    }
    if security
        .get("procMount")
        .is_some_and(|mount| mount != "Default")
    {
        found.add(format!("{path}.procMount"), "is not allowed");
    }
    for profile in ["seccompProfile", "appArmorProfile"] {
        let kind = security
            .get(profile)
            .and_then(|profile| profile.get("type"));
        if kind.is_some_and(|kind| kind == "Unconfined") {
            found.add(
                format!("{path}.{profile}.type"),
                "is Unconfined, which is not allowed",
            );
        }
    }
    if security.contains_key("windowsOptions") {
        found.add(format!("{path}.windowsOptions"), "is not allowed");
    }
    if security.contains_key("sysctls") {
        found.add(format!("{path}.sysctls"), "is not allowed");
    }
}

/// Whether an environment variable is the operator's to set, in a sweep with or without servers.
#[must_use]
pub fn is_reserved_env(name: &str, servers: bool) -> bool {
    let mut of_servers = SERVER_ENV.iter().map(|(name, _)| *name);
    name.starts_with(RESERVED_PREFIX)
        || RESERVED_ENV.contains(&name)
        || (servers && of_servers.any(|own| own == name))
}

/// Where the operator mounts its own.
fn mounts(servers: bool) -> impl Iterator<Item = &'static str> {
    let of_servers = SERVER_MOUNTS.iter().filter(move |_| servers);
    MOUNTS.iter().chain(of_servers).copied()
}

/// Whether a label or annotation is ours, or that of a controller whose work depends on it.
fn is_reserved(key: &str) -> bool {
    const OWNERS: [&str; 3] = ["inferbench.dev", "batch.kubernetes.io", "kueue.x-k8s.io"];
    const KEYS: [&str; 5] = [
        names::APP,
        names::MANAGED_BY,
        names::COMPONENT,
        "job-name",
        "controller-uid",
    ];
    let owner = key.split_once('/').map_or("", |(owner, _)| owner);
    OWNERS.contains(&owner) || KEYS.contains(&key)
}

/// Whether a mount at this path would take the place of one of the operator's, lie over it, or change what a pod is
/// asked for, or what it runs.
fn hides(path: &str, servers: bool) -> bool {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        parts.map(str::to_owned).collect()
    };
    let given = parts(path);
    given.iter().any(|part| part == "..")
        || given.starts_with(&parts(REQUESTS_FOLDER))
        || (servers && given.starts_with(&parts(PROGRAM_FOLDER)))
        || mounts(servers).any(|own| parts(own).starts_with(&given))
}

fn items<'a>(
    object: &'a Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = (usize, &'a Map<String, Value>)> {
    let list = object.get(list).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, item)| Some((index, item.as_object()?)))
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

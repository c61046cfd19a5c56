//! The defaults of the kinds that are built in, beyond their schemas.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::api::{
    json::{self, at, copy, default, list, metadata, object, text},
    kinds::Kind,
};

/// Completes a new object before it is checked. It has its name and uid by now.
pub(crate) fn created(kind: &Kind, object: &mut Value) {
    match kind.plural.as_str() {
        "jobs" => new_job(object),
        "pods" => {
            fill(object, "status", &[]);
            object["status"] = json!({ "phase": "Pending", "qosClass": qos(object) });
            pod_spec(json::object(object, "spec"), "Always");
            let spec = json::object(object, "spec");
            default(spec, "enableServiceLinks", true);
            default(spec, "serviceAccountName", "default");
            default(spec, "serviceAccount", "default");
            default(spec, "preemptionPolicy", "PreemptLowerPriority");
            default(spec, "priority", 0);
        }
        "namespaces" => {
            let name = text(object, "metadata.name").to_owned();
            fill(
                object,
                "metadata.labels",
                &[("kubernetes.io/metadata.name", name.into())],
            );
            fill(object, "spec", &[("finalizers", json!(["kubernetes"]))]);
            object["status"] = json!({ "phase": "Active" });
        }
        "persistentvolumeclaims" => {
            fill(object, "spec", &[("volumeMode", "Filesystem".into())]);
            object["status"] = json!({ "phase": "Pending" });
        }
        "secrets" => {
            // Text is kept as bytes.
            if let Some(Value::Object(texts)) = object
                .as_object_mut()
                .and_then(|map| map.remove("stringData"))
            {
                let data = json::object(object, "data");
                for (key, value) in texts {
                    data.insert(key, encoded(value.as_str().unwrap_or_default()).into());
                }
            }
            fill(object, "", &[("type", "Opaque".into())]);
        }
        "resourcequotas" => object["status"] = json!({}),
        "customresourcedefinitions" => definition(object),
        _ => {}
    }
}

fn encoded(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// Completes an object that is written again.
pub(crate) fn updated(kind: &Kind, object: &mut Value, old: &Value) {
    match kind.plural.as_str() {
        "jobs" => {
            job_spec(object);
            pod_spec(json::object(object, "spec.template.spec"), "");
        }
        // Only its own subresource may let a namespace go.
        "namespaces" => copy(old, object, "spec"),
        "customresourcedefinitions" => definition(object),
        _ => {}
    }
}

fn fill(value: &mut Value, path: &str, defaults: &[(&str, Value)]) {
    let map = object(value, path);
    for (key, value) in defaults {
        default(map, key, value.clone());
    }
}

fn new_job(job: &mut Value) {
    let name = text(job, "metadata.name").to_owned();
    let uid = text(job, "metadata.uid").to_owned();
    job["status"] = json!({});
    if at(job, "spec.manualSelector") != Some(&json!(true)) {
        let labels = [
            ("batch.kubernetes.io/controller-uid", uid.clone()),
            ("batch.kubernetes.io/job-name", name.clone()),
            ("controller-uid", uid.clone()),
            ("job-name", name),
        ];
        let template = object(job, "spec.template.metadata.labels");
        for (key, value) in labels {
            template.insert(key.into(), value.into());
        }
        let template = Value::Object(template.clone());
        let selector = json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
        object(job, "spec").insert("selector".into(), selector);
        // A Job without labels gets those of its pods.
        if at(job, "metadata.labels").is_none() {
            metadata(job).insert("labels".into(), template);
        }
    }
    job_spec(job);
    pod_spec(object(job, "spec.template.spec"), "");
}

fn job_spec(job: &mut Value) {
    let spec = object(job, "spec");
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replacement = match spec.get("podFailurePolicy") {
        Some(_) => "Failed",
        None => "TerminatingOrFailed",
    };
    default(spec, "podReplacementPolicy", replacement);
    let rules = spec
        .get_mut("podFailurePolicy")
        .and_then(|policy| policy.get_mut("rules"));
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        let conditions = rule
            .get_mut("onPodConditions")
            .and_then(Value::as_array_mut);
        for condition in conditions
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            default(condition, "status", "True");
        }
    }
}

fn pod_spec(spec: &mut Map<String, Value>, restart: &str) {
    if !restart.is_empty() {
        default(spec, "restartPolicy", restart);
    }
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            let image = container
                .get("image")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            let pull = if latest { "Always" } else { "IfNotPresent" };
            default(container, "imagePullPolicy", pull);
            default(container, "terminationMessagePath", "/dev/termination-log");
            default(container, "terminationMessagePolicy", "File");
            default(container, "resources", json!({}));
            // A limit is the request too, unless that is given.
            let limits = container["resources"]
                .get("limits")
                .and_then(Value::as_object)
                .cloned();
            for (resource, amount) in limits.into_iter().flatten() {
                let requests = object(&mut container["resources"], "requests");
                default(requests, &resource, amount);
            }
            for variable in container
                .get_mut("env")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(field) = variable
                    .pointer_mut("/valueFrom/fieldRef")
                    .and_then(Value::as_object_mut)
                {
                    default(field, "apiVersion", "v1");
                }
            }
        }
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let secret = volume.get_mut("secret").and_then(Value::as_object_mut);
        if let Some(source) = secret {
            default(source, "defaultMode", 420);
        }
        let config = volume.get_mut("configMap").and_then(Value::as_object_mut);
        if let Some(source) = config {
            default(source, "defaultMode", 420);
        }
    }
}

fn qos(pod: &Value) -> &'static str {
    let named = |container: &Value, which: &str| {
        ["cpu", "memory"].map(|resource| {
            at(&container["resources"], which)
                .and_then(|all| all.get(resource))
                .cloned()
        })
    };
    let containers = list(pod, "spec.containers");
    let limits = |container: &Value| named(container, "limits");
    let requests = |container: &Value| named(container, "requests");
    let any = containers.iter().any(|one| {
        limits(one)
            .iter()
            .chain(&requests(one))
            .any(Option::is_some)
    });
    let all = containers.iter().all(|one| {
        let (limits, requests) = (limits(one), requests(one));
        limits.iter().all(Option::is_some)
            && requests
                .iter()
                .zip(&limits)
                .all(|(asked, most)| asked.is_none() || asked == most)
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A definition is established as soon as it is there; its names are never in question here.
fn definition(object: &mut Value) {
    let names = object["spec"]["names"].clone();
    let kind = text(&names, "kind").to_owned();
    let spec = json::object(object, "spec");
    default(spec, "conversion", json!({ "strategy": "None" }));
    let names = spec.get_mut("names").and_then(Value::as_object_mut);
    if let Some(names) = names {
        default(names, "singular", kind.to_lowercase());
        default(names, "listKind", format!("{kind}List"));
    }
    let names = object["spec"]["names"].clone();
    let versions: Vec<Value> = list(object, "spec.versions")
        .iter()
        .filter(|version| version["storage"] == json!(true))
        .map(|version| version["name"].clone())
        .collect();
    let time = object["metadata"]["creationTimestamp"].clone();
    let condition = |name: &str, reason: &str, message: &str| json!({ "type": name, "status": "True", "reason": reason, "message": message, "lastTransitionTime": time });
    object["status"] = json!({
        "acceptedNames": names,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": versions,
    });
}

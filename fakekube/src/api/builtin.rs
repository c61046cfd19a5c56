//! What the server does with the kinds that are built in, beyond their schema: defaults, and the checks that protect
//! an operator of Jobs from its own mistakes. Not all of Kubernetes' checks are here.

use serde_json::{Map, Value, json};

use super::{
    json::{at, copy, default, list, metadata, number, object, text},
    kinds::Kind,
    refusal::Cause,
};

/// What a new object gets before it is checked. It has its name and uid by now.
pub(crate) fn created(kind: &Kind, object: &mut Value) {
    match kind.plural.as_str() {
        "jobs" => new_job(object),
        "pods" => {
            fill(object, "status", &[]);
            object["status"] = json!({ "phase": "Pending", "qosClass": qos(object) });
            pod_spec(super::json::object(object, "spec"), "Always");
            let spec = super::json::object(object, "spec");
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
            // What is given as text is kept as bytes.
            if let Some(Value::Object(texts)) = object
                .as_object_mut()
                .and_then(|map| map.remove("stringData"))
            {
                let data = super::json::object(object, "data");
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
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(text)
}

/// What an object that is written again gets.
pub(crate) fn updated(kind: &Kind, object: &mut Value, old: &Value) {
    match kind.plural.as_str() {
        "jobs" => {
            job_spec(object);
            pod_spec(super::json::object(object, "spec.template.spec"), "");
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
            // What is limited is asked for, unless said otherwise.
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
    let spec = super::json::object(object, "spec");
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

/// What is wrong with an object of a built-in kind.
pub(crate) fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match kind.plural.as_str() {
        "jobs" => job(new, old, &mut causes),
        "pods" => match old {
            None => containers(new, "spec", &mut causes),
            Some(old) => pod_update(new, old, &mut causes),
        },
        "configmaps" | "secrets" => {
            if let Some(old) = old.filter(|old| old["immutable"] == json!(true)) {
                for field in ["immutable", "data", "binaryData"] {
                    if new.get(field) != old.get(field) {
                        causes.push(Cause::forbidden(
                            field,
                            "field is immutable when `immutable` is set",
                        ));
                    }
                }
            }
        }
        "leases"
            if number(new, "spec.leaseDurationSeconds").is_some_and(|seconds| seconds <= 0) =>
        {
            let value = &new["spec"]["leaseDurationSeconds"];
            causes.push(Cause::invalid(
                "spec.leaseDurationSeconds",
                value,
                "must be greater than 0",
            ));
        }
        "persistentvolumeclaims" if old.is_none() => {
            if list(new, "spec.accessModes").is_empty() {
                causes.push(Cause::required(
                    "spec.accessModes",
                    "at least 1 access mode is required",
                ));
            }
            if at(new, "spec.resources.requests.storage").is_none() {
                causes.push(Cause::required("spec.resources[storage]", ""));
            }
        }
        "events" if kind.group == "events.k8s.io" && old.is_none() => event(new, &mut causes),
        _ => {}
    }
    causes
}

/// What events.k8s.io/v1 asks of new events.
fn event(event: &Value, causes: &mut Vec<Cause>) {
    if at(event, "eventTime").is_none() {
        causes.push(Cause::required("eventTime", ""));
    }
    for field in [
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
    ] {
        if text(event, field).is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if text(event, "note").len() > 1_024 {
        causes.push(Cause::invalid(
            "message",
            &event["note"],
            "can have at most 1024 bytes",
        ));
    }
    if !matches!(text(event, "type"), "Normal" | "Warning") {
        causes.push(Cause::invalid(
            "type",
            &event["type"],
            "has invalid value: ",
        ));
    }
}

fn job(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        if number(&new["spec"], field).is_some_and(|number| number < 0) {
            let value = &new["spec"][field];
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                value,
                "must be greater than or equal to 0",
            ));
        }
    }
    let indexed = match text(new, "spec.completionMode") {
        "Indexed" => true,
        "NonIndexed" => false,
        _ => {
            let allowed = [json!("NonIndexed"), json!("Indexed")];
            let value = &new["spec"]["completionMode"];
            causes.push(Cause::unsupported("spec.completionMode", value, &allowed));
            false
        }
    };
    if indexed && number(new, "spec.completions").is_none() {
        let detail = "when completion mode is Indexed";
        causes.push(Cause::required("spec.completions", detail));
    }
    if !indexed && let Some(limit) = at(new, "spec.backoffLimitPerIndex") {
        let detail = "requires indexed completion mode";
        causes.push(Cause::invalid("spec.backoffLimitPerIndex", limit, detail));
    }
    let replacement = text(new, "spec.podReplacementPolicy");
    let has_policy = at(new, "spec.podFailurePolicy").is_some();
    let allowed: &[&str] = if has_policy {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    if !allowed.contains(&replacement) {
        let allowed: Vec<Value> = allowed.iter().map(|&policy| policy.into()).collect();
        let value = &new["spec"]["podReplacementPolicy"];
        causes.push(Cause::unsupported(
            "spec.podReplacementPolicy",
            value,
            &allowed,
        ));
    }
    for (index, rule) in list(new, "spec.podFailurePolicy.rules").iter().enumerate() {
        failure_rule(
            new,
            rule,
            &format!("spec.podFailurePolicy.rules[{index}]"),
            causes,
        );
    }
    containers(new, "spec.template.spec", causes);
    let path = "spec.template.spec.restartPolicy";
    match (text(new, path), has_policy) {
        ("" | "Always", _) => {
            causes.push(Cause::required(
                path,
                "valid values: \"OnFailure\", \"Never\"",
            ));
        }
        ("OnFailure", true) => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.push(Cause::invalid(path, &json!("OnFailure"), detail));
        }
        ("OnFailure" | "Never", _) => {}
        (other, _) => {
            let allowed = [json!("OnFailure"), json!("Never")];
            causes.push(Cause::unsupported(path, &other.into(), &allowed));
        }
    }
    let Some(old) = old else {
        return;
    };
    // The template of a Job that has not begun may still be told where to run, as Kueue does.
    let idle =
        at(old, "spec.suspend") == Some(&json!(true)) && at(old, "status.startTime").is_none();
    let template = |job: &Value| {
        let mut template = job["spec"]["template"].clone();
        if idle {
            for (path, field) in [
                ("metadata", "labels"),
                ("metadata", "annotations"),
                ("spec", "nodeSelector"),
                ("spec", "tolerations"),
                ("spec", "affinity"),
                ("spec", "schedulingGates"),
            ] {
                object(&mut template, path).remove(field);
            }
        }
        template
    };
    if template(new) != template(old) {
        let value = &new["spec"]["template"];
        causes.push(Cause::invalid("spec.template", value, "field is immutable"));
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if new["spec"].get(field) != old["spec"].get(field) {
            let value = &new["spec"][field];
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                value,
                "field is immutable",
            ));
        }
    }
    if !indexed && new["spec"].get("completions") != old["spec"].get("completions") {
        let value = &new["spec"]["completions"];
        causes.push(Cause::invalid(
            "spec.completions",
            value,
            "field is immutable",
        ));
    }
}

fn failure_rule(job: &Value, rule: &Value, path: &str, causes: &mut Vec<Cause>) {
    let action = format!("{path}.action");
    match text(rule, "action") {
        "" => causes.push(Cause::required(
            action,
            "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
        )),
        "FailIndex" if at(job, "spec.backoffLimitPerIndex").is_none() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            causes.push(Cause::invalid(action, &json!("FailIndex"), detail));
        }
        "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
        other => {
            let allowed = ["Count", "FailIndex", "FailJob", "Ignore"].map(Value::from);
            causes.push(Cause::unsupported(action, &other.into(), &allowed));
        }
    }
    let codes = at(rule, "onExitCodes");
    let conditions = list(rule, "onPodConditions");
    match (codes, conditions) {
        (Some(_), [_, ..]) => causes.push(Cause {
            field: path.into(),
            reason: "FieldValueInvalid",
            message:
                "Invalid value: specifying both OnExitCodes and OnPodConditions is not supported"
                    .into(),
        }),
        (None, []) => causes.push(Cause {
            field: path.into(),
            reason: "FieldValueInvalid",
            message: "Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
                .into(),
        }),
        _ => {}
    }
    let Some(codes) = codes else {
        return;
    };
    let path = format!("{path}.onExitCodes");
    let operator = text(codes, "operator");
    if !matches!(operator, "In" | "NotIn") {
        let allowed = [json!("In"), json!("NotIn")];
        causes.push(Cause::unsupported(
            format!("{path}.operator"),
            &operator.into(),
            &allowed,
        ));
    }
    if let Some(name) = at(codes, "containerName") {
        let known = ["containers", "initContainers"]
            .iter()
            .flat_map(|which| list(&job["spec"]["template"]["spec"], which))
            .any(|container| &container["name"] == name);
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            causes.push(Cause::invalid(
                format!("{path}.containerName"),
                name,
                detail,
            ));
        }
    }
    let values = list(codes, "values");
    let at_values = format!("{path}.values");
    if values.is_empty() {
        let detail = "at least one value is required";
        causes.push(Cause::invalid(at_values.clone(), &codes["values"], detail));
    }
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && value == &json!(0) {
            let detail = "must not be 0 for the In operator";
            causes.push(Cause::invalid(
                format!("{at_values}[{index}]"),
                value,
                detail,
            ));
        }
        if values[..index].contains(value) {
            causes.push(Cause {
                field: format!("{at_values}[{index}]"),
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {value}"),
            });
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        causes.push(Cause::invalid(
            at_values,
            &codes["values"],
            "must be ordered",
        ));
    }
}

fn containers(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    let spec = at(object, path).unwrap_or(&Value::Null);
    if list(spec, "containers").is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<&str> = list(spec, "volumes")
        .iter()
        .map(|volume| text(volume, "name"))
        .collect();
    for which in ["initContainers", "containers"] {
        let all = list(spec, which);
        for (index, container) in all.iter().enumerate() {
            let path = format!("{path}.{which}[{index}]");
            if text(container, "name").is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            }
            if all[..index]
                .iter()
                .any(|other| other["name"] == container["name"])
            {
                causes.push(Cause {
                    field: format!("{path}.name"),
                    reason: "FieldValueDuplicate",
                    message: format!("Duplicate value: {}", container["name"]),
                });
            }
            if text(container, "image").is_empty() {
                causes.push(Cause::required(format!("{path}.image"), ""));
            }
            for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
                let name = text(mount, "name");
                if !volumes.contains(&name) {
                    causes.push(Cause {
                        field: format!("{path}.volumeMounts[{index}].name"),
                        reason: "FieldValueNotFound",
                        message: format!("Not found: {name:?}"),
                    });
                }
            }
            extended(container, &path, causes);
        }
    }
    for (index, name) in volumes.iter().enumerate() {
        if volumes[..index].contains(name) {
            causes.push(Cause {
                field: format!("{path}.volumes[{index}].name"),
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {name:?}"),
            });
        }
    }
}

/// Devices such as GPUs are asked for whole and as many as they are limited to.
fn extended(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let of = |which: &str| {
        container["resources"]
            .get(which)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let (limits, requests) = (of("limits"), of("requests"));
    let names = limits
        .keys()
        .chain(requests.keys().filter(|name| !limits.contains_key(*name)));
    for name in names.filter(|name| name.contains('/') && !name.contains("kubernetes.io/")) {
        match (limits.get(name), requests.get(name)) {
            (None, _) => causes.push(Cause::required(
                format!("{path}.resources.limits"),
                "Limit must be set for non overcommitable resources",
            )),
            (Some(limit), Some(request)) if plain(limit) != plain(request) => {
                causes.push(Cause::invalid(
                    format!("{path}.resources.requests"),
                    request,
                    &format!("must be equal to {name} limit of {}", plain(limit)),
                ))
            }
            _ => {}
        }
    }
}

fn plain(quantity: &Value) -> String {
    quantity
        .as_str()
        .map_or_else(|| quantity.to_string(), ToOwned::to_owned)
}

/// Of a pod's spec, little may change: its images, deadline and tolerations. The scheduler binds it by a subresource.
fn pod_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let frozen = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
            "schedulingGates",
        ] {
            object(&mut spec, "").remove(field);
        }
        for which in ["containers", "initContainers"] {
            for container in spec
                .get_mut(which)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                object(container, "").remove("image");
            }
        }
        spec
    };
    if frozen(new) != frozen(old) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
}

//! The checks that protect an operator of Jobs from its own mistakes. Not all of Kubernetes' checks are here.

use serde_json::{Value, json};

use crate::api::{
    cause::Cause,
    json::{at, list, number, object, text},
    kinds::Kind,
};

/// All faults of an object of a built-in kind.
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
        "events" if old.is_none() => event(new, &mut causes),
        _ => {}
    }
    causes
}

/// The fields that events.k8s.io/v1 asks of new events.
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
    // The template of a Job that has not begun may still change where to run, as Kueue does.
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

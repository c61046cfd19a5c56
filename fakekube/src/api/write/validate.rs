//! Validation of an object before it is stored: metadata, schema, and the definition's rules.

use std::sync::LazyLock;

use kube_cel::Validator;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::api::{
    builtin,
    cause::Cause,
    json::{at, list, text},
    kinds::Kind,
};

static SUBDOMAIN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").ok()
});
static LABEL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$").ok());

/// All faults of an object.
pub(super) fn validate(
    kind: &Kind,
    new: &Value,
    old: Option<&Value>,
    subresource: Option<&str>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_metadata(kind, new, old, &mut causes);
    let status_alone = subresource == Some("status");
    let Some(rules) = &kind.rules else {
        if subresource.is_none() {
            causes.extend(builtin::validate(kind, new, old));
        }
        return causes;
    };
    let shape = if status_alone {
        kind.schema.validate_field("status", new, old)
    } else {
        kind.schema.validate(new, old)
    };
    let is_sound = shape.is_empty();
    causes.extend(shape);
    if !is_sound {
        causes.push(Cause {
            field: "<nil>".into(),
            reason: "FieldValueInvalid",
            message: "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".into(),
        });
        return causes;
    }
    // Unchanged fields have been checked before.
    if old.is_some_and(|old| {
        new.get("spec") == old.get("spec") && new.get("status") == old.get("status")
    }) {
        return causes;
    }
    let (rules, new_part, old_part, prefix) = match rules.properties.get("status") {
        Some(status) if status_alone => (
            status,
            new.get("status"),
            old.and_then(|old| old.get("status")),
            "status",
        ),
        _ => (rules, Some(new), old, ""),
    };
    let Some(new_part) = new_part else {
        return causes;
    };
    let Err(errors) = Validator::new().validate_compiled(rules, new_part, old_part) else {
        return causes;
    };
    causes.extend(errors.as_slice().iter().map(|error| {
        let field = match (prefix, error.field_path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        let reason = match error.reason.as_deref() {
            Some("FieldValueForbidden") => "FieldValueForbidden",
            Some("FieldValueRequired") => "FieldValueRequired",
            Some("FieldValueDuplicate") => "FieldValueDuplicate",
            _ => "FieldValueInvalid",
        };
        Cause {
            field,
            reason,
            message: format!("Invalid value: {}", error.message),
        }
    }));
    causes
}

fn check_metadata(kind: &Kind, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let name = text(new, "metadata.name");
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if old.is_none() {
        let fits = SUBDOMAIN.as_ref().is_none_or(|regex| regex.is_match(name));
        if !fits || name.len() > 253 {
            causes.push(Cause::invalid("metadata.name", &name.into(), "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"));
        } else if name.len() > 63 && (kind.is_job() || kind.is_namespace()) {
            let field = if kind.is_job() {
                "spec.template.labels"
            } else {
                "metadata.name"
            };
            causes.push(Cause::invalid(
                field,
                &name.into(),
                "must be no more than 63 bytes",
            ));
        }
    }
    let labels = at(new, "metadata.labels").and_then(Value::as_object);
    for (_, value) in labels.into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        if text.len() > 63 {
            causes.push(Cause::invalid(
                "metadata.labels",
                value,
                "must be no more than 63 bytes",
            ));
        } else if LABEL.as_ref().is_some_and(|regex| !regex.is_match(text)) {
            causes.push(Cause::invalid("metadata.labels", value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"));
        }
    }
    let annotations = at(new, "metadata.annotations").and_then(Value::as_object);
    let size: usize = annotations
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len())
        .sum();
    if size > 262_144 {
        causes.push(Cause {
            field: "metadata.annotations".into(),
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 262144 bytes".into(),
        });
    }
    let mut controllers = 0;
    for owner in list(new, "metadata.ownerReferences") {
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                let field = format!("metadata.ownerReferences.{field}");
                causes.push(Cause::invalid(field, &json!(""), detail));
            }
        }
        controllers += u32::from(owner["controller"] == json!(true));
    }
    if controllers > 1 {
        let value = &new["metadata"]["ownerReferences"];
        let detail = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", value, detail));
    }
    let Some(old) = old else {
        return;
    };
    let uid = &new["metadata"]["uid"];
    if *uid != old["metadata"]["uid"] {
        causes.push(Cause::invalid("metadata.uid", uid, "field is immutable"));
    }
    if at(old, "metadata.deletionTimestamp").is_some() {
        let before = list(old, "metadata.finalizers");
        let added: Vec<String> = list(new, "metadata.finalizers")
            .iter()
            .filter(|name| !before.contains(name))
            .map(Value::to_string)
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
}

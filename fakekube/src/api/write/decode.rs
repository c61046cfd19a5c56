//! Reading a body as an object of a kind, before anything else is done with it.

use serde_json::Value;

use super::options::UnknownFields;
use crate::api::{
    json::{metadata, object, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
};

/// Reads a body as an object of a kind; returns warnings of fields that do not exist.
pub(super) fn decode(
    kind: &Kind,
    body: &mut Value,
    unknown_fields: UnknownFields,
) -> Answered<Vec<String>> {
    let (version, name) = (kind.api_version(), &kind.kind);
    if !body.is_object() {
        let message = format!(
            "the object provided is unrecognized (must be of type {name}): couldn't get version/kind"
        );
        return Err(Refusal::bad_request(message));
    }
    let given = text(body, "apiVersion").to_owned();
    if given != version && (!given.is_empty() || kind.is_custom()) {
        let message = format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        );
        return Err(Refusal::bad_request(message));
    }
    let given = text(body, "kind").to_owned();
    if given != *name && (!given.is_empty() || kind.is_custom()) {
        let message =
            format!("the kind in the data ({given}) does not match the expected kind ({name})");
        return Err(Refusal::bad_request(message));
    }
    let unknown = kind.schema.prune(body);
    if !kind.is_custom()
        && let Some(why) = kind.schema.misread(body)
    {
        let message = format!(
            "{name} in version \"{}\" cannot be handled as a {name}: {why}",
            kind.version
        );
        return Err(Refusal::bad_request(message));
    }
    let map = object(body, "");
    map.insert("apiVersion".into(), version.into());
    map.insert("kind".into(), name.clone().into());
    let warnings: Vec<String> = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    match unknown_fields {
        UnknownFields::Refused if !warnings.is_empty() => {
            let message = format!(
                "{name} in version \"{}\" cannot be handled as a {name}: strict decoding error: {}",
                kind.version,
                warnings.join(", ")
            );
            Err(Refusal::bad_request(message))
        }
        UnknownFields::Dropped => Ok(Vec::new()),
        UnknownFields::Refused | UnknownFields::Warned => Ok(warnings),
    }
}

/// Tidies the metadata, and checks that the object is of the namespace that it is written to.
pub(super) fn tidy(kind: &Kind, namespace: Option<&str>, new: &mut Value) -> Answered<()> {
    let meta = metadata(new);
    // An empty field is as good as an absent one.
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match meta.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            meta.remove(field);
        }
    }
    let Some(namespace) = namespace.filter(|_| kind.namespaced) else {
        meta.remove("namespace");
        return Ok(());
    };
    let given = meta.entry("namespace").or_insert_with(|| namespace.into());
    if given.as_str().is_some_and(str::is_empty) {
        *given = namespace.into();
    }
    if given != namespace {
        let message =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

//! Changing objects, or one of their subresources: updates and merge patches.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    decode::{decode, tidy},
    fields,
    options::{Options, UnknownFields, Written},
    validate::validate,
};
use crate::api::{
    builtin,
    cause::Cause,
    json::{at, copy, list, merge, metadata, number, object, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
    state::{State, key_of},
    store::version_of,
};

/// A change to an object.
pub(crate) enum Change<'a> {
    /// The whole object.
    Put(Value),
    /// A merge patch.
    Merge(&'a Value),
}

impl State {
    /// Changes an object, or one of its subresources.
    pub fn change(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        change: Change<'_>,
        options: &Options,
    ) -> Answered<Written> {
        let key = key_of(kind, namespace, name);
        let Some(stored) = self.store.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        let old = &*stored;
        let is_put = matches!(change, Change::Put(_));
        let (mut new, warnings) = changed(kind, old, change, options)?;
        tidy(kind, namespace, &mut new)?;
        if text(&new, "metadata.name") != name {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                text(&new, "metadata.name")
            );
            return Err(Refusal::bad_request(message));
        }
        check_version(kind, name, old, &new)?;
        if is_put {
            check_uid(kind, name, old, &new)?;
        }
        restore(kind, &mut new, old, subresource);
        if kind.is_custom() {
            kind.schema.default(&mut new);
        }
        let causes = validate(kind, &new, Some(old), subresource);
        if !causes.is_empty() {
            return Err(Refusal::invalid(kind, name, &causes));
        }
        if kind.generation && is_of_generation(kind, &new, old) {
            let generation = number(old, "metadata.generation").unwrap_or_default() + 1;
            metadata(&mut new).insert("generation".into(), generation.into());
        }
        fields::written(kind, &mut new, Some(old), subresource, options);
        let object = if is_unchanged(&new, old) {
            old.clone()
        } else if at(old, "metadata.deletionTimestamp").is_some() && is_free(kind, &new) {
            self.remove(kind, &key);
            new
        } else {
            self.commit(kind, &key, new)
        };
        Ok(Written {
            object,
            code: 200,
            warnings,
        })
    }
}

/// The object that a change makes of an old one, and its unknown fields as warnings.
fn changed(
    kind: &Kind,
    old: &Value,
    change: Change<'_>,
    options: &Options,
) -> Answered<(Value, Vec<String>)> {
    let patch = match change {
        Change::Put(mut body) => {
            let warnings = decode(kind, &mut body, options.unknown_fields)?;
            return Ok((body, warnings));
        }
        Change::Merge(patch) => patch,
    };
    let mut new = old.clone();
    merge(&mut new, patch);
    let whole = new.clone();
    let unknown: Vec<String> = kind
        .schema
        .prune(&mut new)
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    if options.unknown_fields == UnknownFields::Refused && !unknown.is_empty() {
        return Err(strictly_refused(&whole, &unknown));
    }
    decode(kind, &mut new, UnknownFields::Dropped)?;
    Ok((new, unknown))
}

/// The refusal of a patch with unknown fields.
fn strictly_refused(patched: &Value, unknown: &[String]) -> Refusal {
    let shown = Value::from(patched.to_string());
    let detail = format!("strict decoding error: {}", unknown.join(", "));
    let cause = Cause::invalid("patch", &shown, &detail);
    let mut refusal = Refusal::invalid_as("", "", "", &[cause]);
    refusal.message = refusal.message.trim_start_matches('.').to_owned();
    refusal
}

/// Refuses a write over another version than the one that was read.
fn check_version(kind: &Kind, name: &str, old: &Value, new: &Value) -> Answered<()> {
    let given = version_of(new);
    if given.is_empty() {
        let unconditional = !kind.is_custom() && !kind.is_definition() && kind.plural != "leases";
        if unconditional {
            return Ok(());
        }
        let cause = Cause::invalid(
            "metadata.resourceVersion",
            &json!(0),
            "must be specified for an update",
        );
        return Err(Refusal::invalid_as(
            &kind.group,
            &kind.plural,
            name,
            &[cause],
        ));
    }
    if given == version_of(old) {
        Ok(())
    } else {
        Err(Refusal::modified(kind, name))
    }
}

/// Refuses an update that names another object than the one that is there.
fn check_uid(kind: &Kind, name: &str, old: &Value, new: &Value) -> Answered<()> {
    let (given, found) = (text(new, "metadata.uid"), text(old, "metadata.uid"));
    if given.is_empty() || given == found {
        return Ok(());
    }
    let mut refusal = Refusal::modified(kind, name);
    refusal.message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": Precondition failed: UID in precondition: {given}, UID in object meta: {found}",
        kind.resource
    );
    Err(refusal)
}

/// Restores the fields that a client may not change this way.
fn restore(kind: &Kind, new: &mut Value, old: &Value, subresource: Option<&str>) {
    match subresource {
        Some("status") => {
            let status = new.get("status").cloned();
            let meta = new["metadata"].clone();
            *new = old.clone();
            match status {
                Some(status) => object(new, "").insert("status".into(), status),
                None => object(new, "").remove("status"),
            };
            // Of custom resources nothing but status is taken, and not even another uid is minded; of others labels and
            // the like, too.
            if !kind.is_custom() {
                new["metadata"] = meta;
            }
        }
        Some("finalize") => {
            let spec = new.get("spec").cloned().unwrap_or_default();
            *new = old.clone();
            object(new, "").insert("spec".into(), spec);
        }
        _ if kind.status => copy(old, new, "status"),
        _ => {}
    }
    let from = &old["metadata"];
    let to = &mut new["metadata"];
    for field in [
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "managedFields",
        "resourceVersion",
        "selfLink",
    ] {
        copy(from, to, field);
    }
    if text(to, "uid").is_empty() {
        copy(from, to, "uid");
    }
    if !kind.is_custom() && subresource.is_none() {
        builtin::updated(kind, new, old);
    }
}

/// Whether a change counts towards `metadata.generation`.
fn is_of_generation(kind: &Kind, new: &Value, old: &Value) -> bool {
    if !kind.is_custom() {
        return new.get("spec") != old.get("spec");
    }
    let rest = |value: &Value| -> BTreeMap<String, Value> {
        let map = value.as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(key, _)| key != "metadata" && !(kind.status && key == "status"))
            .collect()
    };
    rest(new) != rest(old)
}

/// Whether a write would leave everything as it is, apart from who wrote it when.
fn is_unchanged(new: &Value, old: &Value) -> bool {
    let rest = |value: &Value| {
        let mut value = value.clone();
        let meta = metadata(&mut value);
        meta.remove("resourceVersion");
        meta.remove("managedFields");
        value
    };
    rest(new) == rest(old)
}

/// Whether nothing keeps an object that is being deleted.
fn is_free(kind: &Kind, object: &Value) -> bool {
    list(object, "metadata.finalizers").is_empty()
        && number(object, "metadata.deletionGracePeriodSeconds").unwrap_or_default() == 0
        && (!kind.is_namespace() || list(object, "spec.finalizers").is_empty())
}

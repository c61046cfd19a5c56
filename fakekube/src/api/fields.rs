//! Who owns which fields (`metadata.managedFields`), and server-side apply.
//!
//! Approximate: built-in lists are merged by the keys of strategic merge (so ports by `containerPort` alone), the sets
//! of a manager are not reconciled between API versions, and a field that an update removes is simply nobody's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    clock::seconds,
    json::{list, metadata, object, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
    schema::{Merged, Schema},
    write::Writing,
};

/// Fields as `fieldsV1` writes them: a tree whose leaves are empty.
type Fields = Map<String, Value>;

/// What of an object belongs to nobody.
const UNOWNED: [&str; 11] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

fn ownable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.retain(|key, _| !UNOWNED.contains(&key.as_str()));
            if meta.is_empty() {
                map.remove("metadata");
            }
        }
    }
    object
}

/// The members of a list, by what tells them apart.
fn members<'a>(items: &'a [Value], merged: &Merged) -> Option<BTreeMap<String, &'a Value>> {
    let name = |item: &Value| match merged {
        Merged::AsSet => Some(format!("v:{item}")),
        Merged::ByKeys(keys) => {
            let pairs: Map<String, Value> = keys
                .iter()
                .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                .collect();
            (!pairs.is_empty()).then(|| format!("k:{}", Value::Object(pairs)))
        }
        Merged::Not => None,
    };
    items.iter().map(|item| Some((name(item)?, item))).collect()
}

/// The fields of `new` that `old` has not, or has with another value.
fn changes(
    schema: &Schema,
    node: &Value,
    field: &str,
    new: &Value,
    old: Option<&Value>,
) -> Option<Fields> {
    if old == Some(new) {
        return None;
    }
    let atomic = node.get("x-kubernetes-map-type") == Some(&json!("atomic"));
    let mut fields = Fields::new();
    match new {
        Value::Object(map) if !atomic && !map.is_empty() => {
            for (key, value) in map {
                let old = old.and_then(|old| old.get(key));
                if let Some(below) = changes(schema, schema.property(node, key), key, value, old) {
                    fields.insert(format!("f:{key}"), below.into());
                }
            }
            if old.is_none() && !field.is_empty() && field != "metadata" && schema.is_map(node) {
                fields.insert(".".into(), json!({}));
            }
        }
        Value::Array(items) => {
            let (node, merged) = schema.items(node, field);
            let Some(members_now) = members(items, &merged) else {
                return Some(fields);
            };
            let before = old
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let before = members(before, &merged).unwrap_or_default();
            for (name, item) in members_now {
                let old = before.get(&name).copied();
                if name.starts_with("v:") {
                    if old.is_none() {
                        fields.insert(name, json!({}));
                    }
                } else if let Some(mut below) = changes(schema, node, "", item, old) {
                    if old.is_none() {
                        below.insert(".".into(), json!({}));
                    }
                    fields.insert(name, below.into());
                }
            }
            if old.is_none()
                && matches!(merged, Merged::AsSet | Merged::ByKeys(_))
                && schema.is_map(node)
            {
                fields.insert(".".into(), json!({}));
            }
            if fields.is_empty() && old.is_some() {
                return None;
            }
        }
        _ => {}
    }
    let is_inner = matches!(new, Value::Object(map) if !atomic && !map.is_empty());
    (!(is_inner && fields.is_empty())).then_some(fields)
}

fn all(kind: &Kind, object: &Value) -> Fields {
    let root = kind.schema.root();
    let mut fields = changes(&kind.schema, root, "", &ownable(object), None).unwrap_or_default();
    undot(&mut fields);
    fields
}

/// Who applies fields of an object does not own the object itself; items of lists are another matter.
fn undot(fields: &mut Fields) {
    for (key, below) in fields.iter_mut() {
        if let Some(below) = below.as_object_mut() {
            undot(below);
            if key.starts_with("f:") {
                below.remove(".");
            }
        }
    }
}

fn is_leaf(value: &Value) -> bool {
    value.as_object().is_none_or(Map::is_empty)
}

/// Takes out of one tree what stands in another.
fn subtract(from: &mut Fields, gone: &Fields) {
    for (key, gone) in gone {
        let Some(found) = from.get_mut(key) else {
            continue;
        };
        if is_leaf(gone) || is_leaf(found) {
            from.remove(key);
        } else if let (Some(found), Some(gone)) = (found.as_object_mut(), gone.as_object()) {
            subtract(found, gone);
            if found.is_empty() {
                from.remove(key);
            }
        }
    }
}

fn unite(into: &mut Fields, more: &Fields) {
    for (key, more) in more {
        let place = into.entry(key.clone()).or_insert_with(|| json!({}));
        if let (Some(place), Some(more)) = (place.as_object_mut(), more.as_object()) {
            unite(place, more);
        }
    }
}

/// The leaves that are in both.
fn intersect(one: &Fields, other: &Fields) -> Fields {
    let mut both = Fields::new();
    for (key, one) in one {
        let Some(other) = other.get(key) else {
            continue;
        };
        if is_leaf(one) || is_leaf(other) {
            both.insert(key.clone(), json!({}));
        } else if let (Some(one), Some(other)) = (one.as_object(), other.as_object()) {
            let below = intersect(one, other);
            if !below.is_empty() {
                both.insert(key.clone(), below.into());
            }
        }
    }
    both
}

/// The leaves, as conflicts name them: `.spec.replicas`.
fn leaves(fields: &Fields, path: &str, found: &mut Vec<String>) {
    for (key, below) in fields {
        let here = match key.split_once(':') {
            Some(("f", name)) => format!("{path}.{name}"),
            Some(("k", keys)) => format!(
                "{path}[{}]",
                keys.trim_matches(['{', '}'])
                    .replace("\":", "\"=")
                    .replace('"', "")
            ),
            Some(("v", value)) => format!("{path}[={value}]"),
            _ => path.to_owned(),
        };
        match below.as_object() {
            Some(below) if !below.is_empty() => leaves(below, &here, found),
            _ => found.push(here),
        }
    }
}

/// An entry of `managedFields`.
fn entry(
    kind: &Kind,
    operation: &str,
    subresource: Option<&str>,
    how: &Writing,
    fields: Fields,
) -> Value {
    let mut entry = json!({
        "manager": how.manager,
        "operation": operation,
        "apiVersion": kind.api_version(),
        "time": seconds(how.now),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    });
    if let Some(subresource) = subresource {
        entry["subresource"] = subresource.into();
    }
    entry
}

fn is_of(entry: &Value, operation: &str, subresource: Option<&str>, how: &Writing) -> bool {
    text(entry, "manager") == how.manager
        && text(entry, "operation") == operation
        && entry.get("subresource").and_then(Value::as_str) == subresource
}

fn put(new: &mut Value, entries: Vec<Value>) {
    let entries: Vec<Value> = entries
        .into_iter()
        .filter(|entry| {
            entry["fieldsV1"]
                .as_object()
                .is_some_and(|fields| !fields.is_empty())
        })
        .collect();
    let meta = metadata(new);
    if entries.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".into(), entries.into());
    }
}

/// Notes who wrote what has changed.
pub(crate) fn written(
    kind: &Kind,
    new: &mut Value,
    old: Option<&Value>,
    subresource: Option<&str>,
    how: &Writing,
) {
    let root = kind.schema.root();
    let old = old.map(ownable);
    let now = ownable(new);
    let changed = changes(&kind.schema, root, "", &now, old.as_ref()).unwrap_or_default();
    // What is no longer there has no owner; what has another value has a new one.
    let mut void = old
        .as_ref()
        .and_then(|old| changes(&kind.schema, root, "", old, Some(&now)))
        .unwrap_or_default();
    let mut entries = list(new, "metadata.managedFields").to_vec();
    if changed.is_empty() && void.is_empty() {
        return;
    }
    unite(&mut void, &changed);
    for entry in &mut entries {
        if !is_of(entry, "Update", subresource, how) {
            subtract(object(entry, "fieldsV1"), &void);
        }
    }
    match entries
        .iter_mut()
        .find(|entry| is_of(entry, "Update", subresource, how))
    {
        Some(entry) => {
            subtract(object(entry, "fieldsV1"), &void);
            unite(object(entry, "fieldsV1"), &changed);
            entry["time"] = seconds(how.now).into();
        }
        None => entries.push(entry(kind, "Update", subresource, how, changed)),
    }
    put(new, entries);
}

/// Notes that all of what was applied belongs to the one who applied it, and that nothing else belongs to anyone.
pub(crate) fn applied_new(kind: &Kind, new: &mut Value, applied: &Value, how: &Writing) {
    let fields = all(kind, applied);
    put(new, vec![entry(kind, "Apply", None, how, fields)]);
}

/// The object that an apply makes of an old one, with its new `managedFields`.
pub(crate) fn apply(
    kind: &Kind,
    old: &Value,
    applied: &Value,
    subresource: Option<&str>,
    how: &Writing,
) -> Answered<Value> {
    let config = ownable(applied);
    let fields = all(kind, applied);
    let root = kind.schema.root();
    let differing =
        changes(&kind.schema, root, "", &config, Some(&ownable(old))).unwrap_or_default();
    let mut entries = list(old, "metadata.managedFields").to_vec();
    let (mut conflicts, mut others) = (Vec::new(), Fields::new());
    for entry in &mut entries {
        if is_of(entry, "Apply", subresource, how) {
            continue;
        }
        let mut who = format!("conflict with {:?}", text(entry, "manager"));
        if let Some(subresource) = entry.get("subresource").and_then(Value::as_str) {
            who.push_str(&format!(" with subresource {subresource:?}"));
        }
        if text(entry, "operation") == "Update" {
            who.push_str(&format!(" using {}", text(entry, "apiVersion")));
        }
        let theirs = object(entry, "fieldsV1");
        let contested = intersect(theirs, &differing);
        if how.force {
            subtract(theirs, &contested);
        } else {
            let mut paths = Vec::new();
            leaves(&contested, "", &mut paths);
            conflicts.extend(paths.into_iter().map(|path| (who.clone(), path)));
        }
        unite(&mut others, theirs);
    }
    if !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let mut new = old.clone();
    let mut dropped = entries
        .iter()
        .find(|entry| is_of(entry, "Apply", subresource, how))
        .and_then(|entry| entry["fieldsV1"].as_object().cloned())
        .unwrap_or_default();
    subtract(&mut dropped, &fields);
    subtract(&mut dropped, &others);
    drop_fields(&mut new, &dropped);
    merge(&kind.schema, root, "", &mut new, &config);
    for key in ["resourceVersion", "uid"] {
        let given = text(&applied["metadata"], key);
        if !given.is_empty() {
            metadata(&mut new).insert(key.into(), given.into());
        }
    }
    let applied = entry(kind, "Apply", subresource, how, fields);
    match entries
        .iter_mut()
        .find(|entry| is_of(entry, "Apply", subresource, how))
    {
        Some(entry) => *entry = applied,
        None => entries.insert(0, applied),
    }
    put(&mut new, entries);
    Ok(new)
}

fn conflict(conflicts: &[(String, String)]) -> Refusal {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(who, path)| json!({ "reason": "FieldManagerConflict", "message": who, "field": path }))
        .collect();
    let message = match conflicts {
        [(who, path)] => format!("Apply failed with 1 conflict: {who}: {path}"),
        many => {
            let lines: Vec<String> = many
                .iter()
                .map(|(who, path)| format!("{who}: {path}"))
                .collect();
            format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lines.join("\n")
            )
        }
    };
    let mut refusal = Refusal::new(409, "Conflict", message);
    refusal.details = Some(json!({ "causes": causes }));
    refusal
}

/// Removes what a tree of fields names.
fn drop_fields(value: &mut Value, fields: &Fields) {
    for (key, below) in fields {
        let below = below.as_object().cloned().unwrap_or_default();
        let whole = below.is_empty() || below.contains_key(".");
        match key.split_once(':') {
            Some(("f", name)) => {
                let Some(map) = value.as_object_mut() else {
                    continue;
                };
                if whole {
                    map.remove(name);
                } else if let Some(value) = map.get_mut(name) {
                    drop_fields(value, &below);
                }
            }
            Some(("v", item)) => {
                let item: Value = serde_json::from_str(item).unwrap_or_default();
                if let Some(items) = value.as_array_mut() {
                    items.retain(|found| *found != item);
                }
            }
            Some(("k", keys)) => {
                let Some(items) = value.as_array_mut() else {
                    continue;
                };
                let keys: Fields = serde_json::from_str(keys).unwrap_or_default();
                let is_it =
                    |item: &Value| keys.iter().all(|(key, value)| item.get(key) == Some(value));
                if whole {
                    items.retain(|item| !is_it(item));
                } else if let Some(item) = items.iter_mut().find(|item| is_it(item)) {
                    drop_fields(item, &below);
                }
            }
            _ => {}
        }
    }
}

fn merge(schema: &Schema, node: &Value, field: &str, target: &mut Value, applied: &Value) {
    let atomic = node.get("x-kubernetes-map-type") == Some(&json!("atomic"));
    match applied {
        Value::Object(map) if !atomic => {
            let target = object(target, "");
            for (key, value) in map {
                let place = target.entry(key.clone()).or_insert(Value::Null);
                merge(schema, schema.property(node, key), key, place, value);
            }
        }
        Value::Array(items) => {
            let (node, merged) = schema.items(node, field);
            let (Some(names), Some(found)) = (members(items, &merged), target.as_array_mut())
            else {
                *target = applied.clone();
                return;
            };
            for (name, item) in names {
                let place = found.iter_mut().find(|other| {
                    members(std::slice::from_ref(&**other), &merged)
                        .is_some_and(|one| one.contains_key(&name))
                });
                match place {
                    Some(place) => merge(schema, node, "", place, item),
                    None => found.push(item.clone()),
                }
            }
        }
        _ => *target = applied.clone(),
    }
}

//! Who owns which fields: `metadata.managedFields`.
//!
//! Approximate: the sets of a manager are not reconciled between API versions, and a field that an update removes has
//! no owner.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::options::Options;
use crate::api::{
    clock::seconds,
    json::{list, metadata, object, text},
    kinds::Kind,
    schema::{Schema, lists::ListType},
};

/// Fields as `fieldsV1` writes them: a tree whose leaves are empty.
type Fields = Map<String, Value>;

/// Fields of metadata that belong to nobody.
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
fn members<'a>(items: &'a [Value], list_type: &ListType) -> Option<BTreeMap<String, &'a Value>> {
    let name = |item: &Value| match list_type {
        ListType::Set => Some(format!("v:{item}")),
        ListType::Map(keys) => {
            let pairs: Map<String, Value> = keys
                .iter()
                .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                .collect();
            (!pairs.is_empty()).then(|| format!("k:{}", Value::Object(pairs)))
        }
        ListType::Atomic => None,
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
            let (node, list_type) = schema.items(node, field);
            let Some(members_now) = members(items, &list_type) else {
                return Some(fields);
            };
            let before = old
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let before = members(before, &list_type).unwrap_or_default();
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
                && matches!(list_type, ListType::Set | ListType::Map(_))
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

/// An entry of `managedFields`.
fn entry(kind: &Kind, subresource: Option<&str>, options: &Options, fields: Fields) -> Value {
    let mut entry = json!({
        "manager": options.manager,
        "operation": "Update",
        "apiVersion": kind.api_version(),
        "time": seconds(options.now),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    });
    if let Some(subresource) = subresource {
        entry["subresource"] = subresource.into();
    }
    entry
}

fn is_of(entry: &Value, subresource: Option<&str>, options: &Options) -> bool {
    text(entry, "manager") == options.manager
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

/// Notes who has written the fields that have changed.
pub(super) fn written(
    kind: &Kind,
    new: &mut Value,
    old: Option<&Value>,
    subresource: Option<&str>,
    options: &Options,
) {
    let root = kind.schema.root();
    let old = old.map(ownable);
    let now = ownable(new);
    let changed = changes(&kind.schema, root, "", &now, old.as_ref()).unwrap_or_default();
    // A field that is no longer there has no owner; one with another value has a new owner.
    let mut lost = old
        .as_ref()
        .and_then(|old| changes(&kind.schema, root, "", old, Some(&now)))
        .unwrap_or_default();
    let mut entries = list(new, "metadata.managedFields").to_vec();
    if changed.is_empty() && lost.is_empty() {
        return;
    }
    unite(&mut lost, &changed);
    for entry in &mut entries {
        if !is_of(entry, subresource, options) {
            subtract(object(entry, "fieldsV1"), &lost);
        }
    }
    match entries
        .iter_mut()
        .find(|entry| is_of(entry, subresource, options))
    {
        Some(entry) => {
            subtract(object(entry, "fieldsV1"), &lost);
            unite(object(entry, "fieldsV1"), &changed);
            entry["time"] = seconds(options.now).into();
        }
        None => entries.push(entry(kind, subresource, options, changed)),
    }
    put(new, entries);
}

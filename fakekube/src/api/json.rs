//! Short ways to read and write JSON objects as Kubernetes shapes them.

use serde_json::{Map, Value};

/// The string at a dotted path; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a dotted path.
pub(crate) fn number(value: &Value, path: &str) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The list at a dotted path; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The value at a dotted path; none for null.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let found = path
        .split('.')
        .try_fold(value, |value, key| value.get(key))?;
    (!found.is_null()).then_some(found)
}

/// The object at a dotted path, made where it is missing or anything but an object.
pub(crate) fn object<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut place = value;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        place = as_object(place)
            .entry(key)
            .or_insert_with(|| Value::Object(Map::new()));
    }
    as_object(place)
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made one"),
    }
}

/// `metadata`, as an object to write to.
pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    object(value, "metadata")
}

/// Puts a value where none stands.
pub(crate) fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let place = map.entry(key).or_insert(Value::Null);
    if place.is_null() {
        *place = value.into();
    }
}

/// Copies a field from one object to another, or removes it where the first lacks it.
pub(crate) fn copy(from: &Value, to: &mut Value, key: &str) {
    let map = as_object(to);
    match from.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

/// Whether a list of strings has this one.
pub(crate) fn has(value: &Value, path: &str, wanted: &str) -> bool {
    list(value, path)
        .iter()
        .any(|item| item.as_str() == Some(wanted))
}

/// Changes a value as a JSON merge patch says (RFC 7396).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    let map = as_object(target);
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// JSON as text; much faster than by way of `Display`. A value always has a text.
pub(crate) fn to_text(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

//! The three ways to say what is to change in an object: JSON merge patch, JSON patch and strategic merge patch.

use serde_json::{Map, Value};

use super::refusal::{Answered, Cause, Refusal};

/// RFC 7396.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else {
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// RFC 6902.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Answered<()> {
    let wrong = |detail: String| {
        let message =
            format!("the server rejected our request due to an error in our request: {detail}");
        Refusal::new(422, "Invalid", message)
    };
    for step in patch.as_array().map(Vec::as_slice).unwrap_or_default() {
        let field = |key: &str| step[key].as_str().unwrap_or_default();
        let (operation, path) = (field("op"), field("path"));
        let done = match operation {
            "add" => add(target, path, step["value"].clone()),
            "remove" => remove(target, path).map(|_| ()),
            "replace" => {
                remove(target, path).and_then(|_| add(target, path, step["value"].clone()))
            }
            "test" => {
                (target.pointer(path).unwrap_or(&Value::Null) == &step["value"]).then_some(())
            }
            "move" => remove(target, field("from")).and_then(|value| add(target, path, value)),
            "copy" => {
                let value = target.pointer(field("from")).cloned();
                value.and_then(|value| add(target, path, value))
            }
            _ => None,
        };
        if done.is_none() {
            return Err(wrong(format!(
                "{operation} operation does not apply: {path}"
            )));
        }
    }
    Ok(())
}

fn place<'a, 'b>(target: &'a mut Value, path: &'b str) -> Option<(&'a mut Value, &'b str)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((target.pointer_mut(parent)?, last))
}

fn unescaped(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = place(target, path)?;
    match parent {
        Value::Object(map) => {
            map.insert(unescaped(last), value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let index: usize = last.parse().ok()?;
            if index > items.len() {
                return None;
            }
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = place(target, path)?;
    match parent {
        Value::Object(map) => map.remove(&unescaped(last)),
        Value::Array(items) => {
            let index: usize = last.parse().ok()?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

/// The lists that are merged by a key. Of Kubernetes' lists of that sort, those of the kinds that are built in here.
pub(crate) fn merge_key(field: &str) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "conditions" | "addresses" => "type",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" | "hostIPs" => "ip",
        "taints" => "key",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// Strategic merge, as far as kubectl and client-go send it: lists merged by key, `$patch`, `$retainKeys`,
/// `$deleteFromPrimitiveList/…`. `$setElementOrder/…` is passed over: order stays as it was.
pub(crate) fn strategic(target: &mut Value, patch: &Value) -> Answered<()> {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if changes.get("$patch").and_then(Value::as_str) == Some("replace") || !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else {
        return Ok(());
    };
    if let Some(keys) = changes.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| keys.iter().any(|kept| kept == key));
    }
    for (key, change) in changes {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(Value::Array(items)) = map.get_mut(field) {
                items.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // Said to the merge, not of the object.
        } else if change.is_null() {
            map.remove(key);
        } else if let Some(changed) = change.as_array() {
            let place = map
                .entry(key.clone())
                .or_insert_with(|| Value::Array(Vec::new()));
            merge_list(place, key, changed)?;
        } else {
            strategic(map.entry(key.clone()).or_insert(Value::Null), change)?;
        }
    }
    Ok(())
}

fn merge_list(place: &mut Value, field: &str, changes: &[Value]) -> Answered<()> {
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    let Value::Array(items) = place else {
        return Ok(());
    };
    if field == "finalizers" {
        let new: Vec<Value> = changes
            .iter()
            .filter(|item| !items.contains(item))
            .cloned()
            .collect();
        items.extend(new);
        return Ok(());
    }
    let key = merge_key(field).filter(|_| changes.iter().all(Value::is_object));
    let Some(key) = key else {
        *items = changes.to_vec();
        return Ok(());
    };
    let directive = |item: &Value| item["$patch"].as_str().unwrap_or_default().to_owned();
    if changes.iter().any(|item| directive(item) == "replace") {
        items.clear();
    }
    for change in changes {
        let wanted = &change[key];
        match directive(change).as_str() {
            "delete" => items.retain(|item| item[key] != *wanted),
            "replace" if wanted.is_null() => {}
            _ if wanted.is_null() => {
                let detail = format!("map: {change} does not contain declared merge key: {key}");
                return Err(Refusal::bad_request(detail));
            }
            _ => match items.iter_mut().find(|item| item[key] == *wanted) {
                Some(item) => strategic(item, change)?,
                None => {
                    let mut item = Value::Object(Map::new());
                    strategic(&mut item, change)?;
                    items.push(item);
                }
            },
        }
    }
    Ok(())
}

/// What is said where a patch brings fields that do not exist, and those are to be refused.
pub(crate) fn unknown_fields(patched: &Value, unknown: &[String]) -> Refusal {
    let fields: Vec<String> = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    let shown = Value::from(patched.to_string());
    let detail = format!("strict decoding error: {}", fields.join(", "));
    let cause = Cause::invalid("patch", &shown, &detail);
    let mut refusal = Refusal::invalid_as("", "", "", &[cause]);
    refusal.message = refusal.message.trim_start_matches('.').to_owned();
    refusal
}

//! Validation: everything that is wrong with the values of an object.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Schema, is_set, path::Path, type_of};
use crate::api::cause::Cause;

impl Schema {
    /// All faults of an object. A value that was wrong before and has not changed is let pass.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check(&self.root, object, old, &Path::default(), &mut causes);
        causes
    }

    /// The same for one field of an object alone, such as `status`.
    pub fn validate_field(&self, field: &str, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        let node = self.root.get("properties").and_then(|all| all.get(field));
        if let (Some(node), Some(value)) = (node, object.get(field)) {
            let old = old.and_then(|old| old.get(field));
            self.check(node, value, old, &Path::default().field(field), &mut causes);
        }
        causes
    }

    fn check(
        &self,
        node: &Value,
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
        causes: &mut Vec<Cause>,
    ) {
        if old == Some(value) {
            return;
        }
        if value.is_null() && is_set(node, "nullable") {
            return;
        }
        let mut wrong = |detail: String, shown: &Value| {
            causes.push(Cause::invalid(
                path.to_string(),
                shown,
                &format!("{path} in body {detail}"),
            ));
        };
        let wanted = node.get("type").and_then(Value::as_str).unwrap_or_default();
        let found = type_of(value);
        let right = match wanted {
            "" => {
                !is_set(node, "x-kubernetes-int-or-string") || matches!(found, "integer" | "string")
            }
            "number" => value.is_number(),
            wanted => wanted == found,
        };
        if !right {
            let wanted = if wanted.is_empty() {
                "integer,string"
            } else {
                wanted
            };
            causes.push(Cause {
                field: path.to_string(),
                reason: "FieldValueTypeInvalid",
                message: format!(
                    "Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}"
                ),
            });
            return;
        }
        if let Some(allowed) = node.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            causes.push(Cause::unsupported(path.to_string(), value, allowed));
            return;
        }
        let bound = |key: &str| node.get(key).and_then(Value::as_f64);
        let count = |key: &str| node.get(key).and_then(Value::as_u64);
        match value {
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                if let Some(least) = bound("minimum") {
                    let exclusive = is_set(node, "exclusiveMinimum");
                    if number < least || (exclusive && number <= least) {
                        let or = if exclusive { "" } else { "or equal to " };
                        wrong(format!("should be greater than {or}{least}"), value);
                    }
                }
                if let Some(most) = bound("maximum") {
                    let exclusive = is_set(node, "exclusiveMaximum");
                    if number > most || (exclusive && number >= most) {
                        let or = if exclusive { "" } else { "or equal to " };
                        wrong(format!("should be less than {or}{most}"), value);
                    }
                }
            }
            Value::String(text) => {
                let length = text.chars().count() as u64;
                if let Some(least) = count("minLength").filter(|&least| length < least) {
                    wrong(format!("should be at least {least} chars long"), value);
                }
                if let Some(pattern) = node.get("pattern").and_then(Value::as_str)
                    && let Some(regex) = self.patterns.get(pattern)
                    && !regex.is_match(text)
                {
                    wrong(format!("should match '{pattern}'"), value);
                }
                if node.get("format") == Some(&json!("date-time"))
                    && text.parse::<Timestamp>().is_err()
                {
                    wrong(format!("must be of type date-time: {value}"), value);
                }
                if let Some(most) = count("maxLength").filter(|&most| length > most) {
                    causes.push(Cause {
                        field: path.to_string(),
                        reason: "FieldValueTooLong",
                        message: format!("Too long: may not be more than {most} bytes"),
                    });
                }
            }
            Value::Array(items) => {
                let length = items.len() as u64;
                if let Some(least) = count("minItems").filter(|&least| length < least) {
                    wrong(
                        format!("should have at least {least} items"),
                        &json!(length),
                    );
                }
                if let Some(most) = count("maxItems").filter(|&most| length > most) {
                    causes.push(too_many(path, length, most));
                }
                if let Some(node) = node.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.check(node, item, None, &path.item(index), causes);
                    }
                }
                duplicates(node, items, path, causes);
            }
            Value::Object(map) => {
                let length = map.len() as u64;
                if let Some(least) = count("minProperties").filter(|&least| length < least) {
                    wrong(
                        format!("should have at least {least} properties"),
                        &json!(length),
                    );
                }
                if let Some(most) = count("maxProperties").filter(|&most| length > most) {
                    causes.push(too_many(path, length, most));
                }
                for key in node
                    .get("required")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    let key = key.as_str().unwrap_or_default();
                    if !map.contains_key(key) {
                        causes.push(Cause::required(path.field(key).to_string(), ""));
                    }
                }
                let additional = node
                    .get("additionalProperties")
                    .filter(|node| node.is_object());
                for (key, value) in map {
                    let node = node
                        .get("properties")
                        .and_then(|all| all.get(key))
                        .or(additional);
                    if let Some(node) = node {
                        let old = old.and_then(|old| old.get(key));
                        self.check(node, value, old, &path.field(key), causes);
                    }
                }
            }
            _ => {}
        }
        self.check_junctors(node, value, path, causes);
    }

    fn check_junctors(
        &self,
        node: &Value,
        value: &Value,
        path: &Path<'_>,
        causes: &mut Vec<Cause>,
    ) {
        let holds = |node: &Value| {
            let mut causes = Vec::new();
            self.check(node, value, None, path, &mut causes);
            causes.is_empty()
        };
        let branches = |key: &str| node.get(key).and_then(Value::as_array);
        let mut wrong = |detail: &str| {
            causes.push(Cause::invalid(
                path.to_string(),
                value,
                &format!("{path} in body must {detail}"),
            ));
        };
        if branches("anyOf").is_some_and(|all| !all.iter().any(holds)) {
            wrong("validate at least one schema (anyOf)");
        }
        if branches("oneOf").is_some_and(|all| all.iter().filter(|node| holds(node)).count() != 1) {
            wrong("validate one and only one schema (oneOf)");
        }
        if branches("allOf").is_some_and(|all| !all.iter().all(holds)) {
            wrong("validate all the schemas (allOf)");
        }
        if node.get("not").is_some_and(holds) {
            wrong("not validate the schema (not)");
        }
    }
}

fn too_many(path: &Path<'_>, length: u64, most: u64) -> Cause {
    Cause {
        field: path.to_string(),
        reason: "FieldValueTooMany",
        message: format!("Too many: {length}: must have at most {most} items"),
    }
}

/// Sets hold a value once, maps a key.
fn duplicates(node: &Value, items: &[Value], path: &Path<'_>, causes: &mut Vec<Cause>) {
    let list_type = node.get("x-kubernetes-list-type").and_then(Value::as_str);
    let key = |item: &Value| match list_type {
        Some("set") => Some(item.clone()),
        Some("map") => {
            let keys = node.get("x-kubernetes-list-map-keys")?.as_array()?;
            let pairs = keys.iter().filter_map(Value::as_str);
            Some(
                pairs
                    .map(|key| (key.to_owned(), item[key].clone()))
                    .collect(),
            )
        }
        _ => None,
    };
    let keys: Vec<Option<Value>> = items.iter().map(key).collect();
    for (index, key) in keys.iter().enumerate() {
        if let Some(key) = key
            && keys[..index].contains(&Some(key.clone()))
        {
            causes.push(Cause {
                field: path.item(index).to_string(),
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {key}"),
            });
        }
    }
}

//! Reading a body as an object of a kind: fields that do not exist go, and values of a wrong type are found.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Schema, is_set, path::Path, type_of};

impl Schema {
    /// Removes fields that the schema does not know, and says which.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_node(&self.root, object, &Path::default(), &mut unknown);
        unknown
    }

    fn prune_node(
        &self,
        node: &Value,
        value: &mut Value,
        path: &Path<'_>,
        unknown: &mut Vec<String>,
    ) {
        let node = self.resolve(node);
        match value {
            Value::Object(map) => {
                let properties = node.get("properties").and_then(Value::as_object);
                let additional = node.get("additionalProperties");
                let keeps = is_set(node, "x-kubernetes-preserve-unknown-fields")
                    || additional == Some(&json!(true))
                    || (self.built_in && properties.is_none() && additional.is_none());
                let is_object = path.is_root() || is_set(node, "x-kubernetes-embedded-resource");
                if self.built_in {
                    // A null is as good as an absent field to a server that reads it into a type.
                    map.retain(|_, value| !value.is_null());
                }
                map.retain(|key, value| {
                    let below = path.field(key);
                    if let Some(node) = properties.and_then(|properties| properties.get(key)) {
                        let opaque = is_object && key == "metadata" && !self.built_in;
                        if !opaque {
                            self.prune_node(node, value, &below, unknown);
                        }
                        return true;
                    }
                    if let Some(node) = additional.filter(|node| node.is_object()) {
                        self.prune_node(node, value, &below, unknown);
                        return true;
                    }
                    let known = keeps
                        || (is_object
                            && matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
                    if !known {
                        unknown.push(below.to_string());
                    }
                    known
                });
            }
            Value::Array(items) => {
                let Some(node) = node.get("items") else {
                    return;
                };
                for (index, item) in items.iter_mut().enumerate() {
                    self.prune_node(node, item, &path.item(index), unknown);
                }
            }
            _ => {}
        }
    }

    /// Why an object cannot be read as the type that the schema stands for, in the words of Go's decoder.
    pub fn misread(&self, object: &Value) -> Option<String> {
        let mut found = None;
        self.misread_node(&self.root, object, &Path::default(), &mut found);
        found
    }

    fn misread_node(
        &self,
        node: &Value,
        value: &Value,
        path: &Path<'_>,
        found: &mut Option<String>,
    ) {
        let node = self.resolve(node);
        if found.is_some() || value.is_null() {
            return;
        }
        let wanted = node.get("type").and_then(Value::as_str).unwrap_or_default();
        let is_any = wanted == "object"
            && node.get("properties").is_none()
            && node.get("additionalProperties").is_none();
        let right = match wanted {
            // Any JSON at all, which Kubernetes' schemas call an object.
            _ if is_any => true,
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        };
        if !right {
            *found = Some(format!(
                "json: cannot unmarshal {} into Go struct field {path} of type {}",
                if value.is_boolean() {
                    "bool"
                } else {
                    type_of(value)
                },
                node.get("format").and_then(Value::as_str).unwrap_or(wanted),
            ));
            return;
        }
        if node.get("format") == Some(&json!("date-time")) {
            let text = value.as_str().unwrap_or_default();
            if text.parse::<Timestamp>().is_err() {
                *found = Some(format!("parsing time {value} in {path}"));
            }
            return;
        }
        match value {
            Value::Object(map) => {
                let properties = node.get("properties");
                let additional = node
                    .get("additionalProperties")
                    .filter(|node| node.is_object());
                for (key, value) in map {
                    let node = properties.and_then(|all| all.get(key)).or(additional);
                    if let Some(node) = node {
                        self.misread_node(node, value, &path.field(key), found);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(node) = node.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.misread_node(node, item, &path.item(index), found);
                    }
                }
            }
            _ => {}
        }
    }
}

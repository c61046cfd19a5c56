//! The defaults of a definition's schema.

use serde_json::Value;

use super::{Schema, is_set};

impl Schema {
    /// Fills in the schema's defaults.
    pub fn default(&self, object: &mut Value) {
        self.default_node(&self.root, object);
    }

    fn default_node(&self, node: &Value, value: &mut Value) {
        match value {
            Value::Object(map) => {
                let properties = node.get("properties").and_then(Value::as_object);
                for (key, node) in properties.into_iter().flatten() {
                    if let Some(default) = node.get("default") {
                        let place = map.entry(key.clone()).or_insert(Value::Null);
                        if place.is_null() && !is_set(node, "nullable") {
                            *place = default.clone();
                        }
                    }
                    if let Some(value) = map.get_mut(key) {
                        self.default_node(node, value);
                    }
                }
                if let Some(node) = node
                    .get("additionalProperties")
                    .filter(|node| node.is_object())
                {
                    for (key, value) in map.iter_mut() {
                        if properties.is_none_or(|properties| !properties.contains_key(key)) {
                            self.default_node(node, value);
                        }
                    }
                }
            }
            Value::Array(items) => {
                if let Some(node) = node.get("items") {
                    items
                        .iter_mut()
                        .for_each(|item| self.default_node(node, item));
                }
            }
            _ => {}
        }
    }
}

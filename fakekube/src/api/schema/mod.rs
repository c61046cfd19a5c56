//! The schema of a kind: which fields exist, their defaults, and which values are valid. Messages are the API server's.
//!
//! Reading a body is in `decode`, defaults in `defaults`, validation in `check`, and the types of lists, which decide
//! who owns their items, in `lists`.

mod check;
mod decode;
mod defaults;
pub(crate) mod lists;
mod path;

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value, json};

/// The schema of a kind.
#[derive(Debug)]
pub(crate) struct Schema {
    root: Value,
    definitions: Map<String, Value>,
    built_in: bool,
    patterns: BTreeMap<String, Regex>,
}

impl Schema {
    /// One that stands in a CustomResourceDefinition.
    pub fn custom(root: Value) -> Self {
        let mut patterns = BTreeMap::new();
        gather(&root, &mut patterns);
        Self {
            root,
            definitions: Map::new(),
            built_in: false,
            patterns,
        }
    }

    /// One of Kubernetes' own, with what it refers to.
    pub fn built_in(root: Value, definitions: Map<String, Value>) -> Self {
        Self {
            root,
            definitions,
            built_in: true,
            patterns: BTreeMap::new(),
        }
    }

    fn resolve<'a>(&'a self, mut node: &'a Value) -> &'a Value {
        while let Some(name) = node.get("$ref").and_then(Value::as_str) {
            let name = name.rsplit('/').next().unwrap_or(name);
            match self.definitions.get(name) {
                Some(found) => node = found,
                None => break,
            }
        }
        node
    }
}

/// Compiles every pattern once.
fn gather(node: &Value, patterns: &mut BTreeMap<String, Regex>) {
    match node {
        Value::Object(map) => {
            if let Some(pattern) = map.get("pattern").and_then(Value::as_str)
                && let Ok(regex) = Regex::new(pattern)
            {
                patterns.insert(pattern.to_owned(), regex);
            }
            map.values().for_each(|value| gather(value, patterns));
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, patterns)),
        _ => {}
    }
}

fn is_set(node: &Value, key: &str) -> bool {
    node.get(key) == Some(&json!(true))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

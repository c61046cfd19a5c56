//! Holds a value to the resource's schema: the same document that the API server gets, so that a local file and a
//! cluster agree on types, ranges, lengths, patterns and names.

use std::{collections::BTreeMap, sync::LazyLock};

use regex_lite::Regex;
use serde_json::Value;

use crate::{
    node::{Kind, Node, Position},
    patterns,
    suggest::did_you_mean,
};

/// Something that a value is not allowed to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    /// The field, as `spec.design.factors.batchSize[2]`.
    pub(crate) path: String,
    /// The value and what is allowed.
    pub(crate) message: String,
    /// Where it stands in the file.
    pub(crate) at: Option<Position>,
    /// Whether the value cannot even be read as the resource's type.
    pub(crate) misshapen: bool,
    /// Whether it is a field that the resource does not have: another one may be meant.
    pub(crate) unknown: bool,
}

/// Everything in a value that the schema does not allow, in the order of the value.
pub(crate) fn check(node: &Node, schema: &Value, path: &str) -> Vec<Finding> {
    let mut walk = Walk {
        findings: Vec::new(),
    };
    walk.value(node, schema, path);
    walk.findings
}

/// `path.key`, or `path["key"]` where the key is no plain word.
pub(crate) fn member(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (plain, path) {
        (true, "") => key.to_owned(),
        (true, _) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

struct Walk {
    findings: Vec<Finding>,
}

impl Walk {
    fn add(&mut self, path: &str, at: Option<Position>, misshapen: bool, message: String) {
        self.findings.push(Finding {
            path: path.to_owned(),
            message,
            at,
            misshapen,
            unknown: false,
        });
    }

    fn value(&mut self, node: &Node, schema: &Value, path: &str) {
        if schema["x-kubernetes-int-or-string"] == true {
            if !matches!(node.kind, Kind::Number(_) | Kind::Text(_)) {
                self.add(
                    path,
                    node.at,
                    true,
                    format!("{node} is neither a number nor a text"),
                );
            }
            return;
        }
        let Some(expected) = schema["type"].as_str() else {
            return;
        };
        if node.kind == Kind::Null && schema["nullable"] == true {
            return;
        }
        match (expected, &node.kind) {
            ("object", Kind::Map(_)) => self.object(node, schema, path),
            ("array", Kind::List(items)) => self.array(node, items, schema, path),
            ("string", Kind::Text(text)) => self.text(node, text, schema, path),
            ("integer", Kind::Number(number)) if !number.is_f64() => {
                self.number(node, number.as_f64(), schema, path)
            }
            ("number", Kind::Number(number)) => self.number(node, number.as_f64(), schema, path),
            ("boolean", Kind::Bool(_)) => {}
            _ => self.add(
                path,
                node.at,
                true,
                format!("{node} is not {}", describe(expected, node, schema)),
            ),
        }
    }

    fn object(&mut self, node: &Node, schema: &Value, path: &str) {
        let Kind::Map(entries) = &node.kind else {
            return;
        };
        let present = entries
            .iter()
            .filter(|entry| entry.value.kind != Kind::Null);
        self.count(
            node,
            present.clone().count(),
            schema,
            ["minProperties", "maxProperties"],
            "member",
            path,
        );
        let properties = schema["properties"].as_object();
        for entry in present {
            let path = member(path, &entry.key);
            let known = properties.and_then(|properties| properties.get(&entry.key));
            if let Some(schema) = known {
                self.value(&entry.value, schema, &path);
            } else if let Some(schema) = schema.get("additionalProperties") {
                self.value(&entry.value, schema, &path);
            } else if schema["x-kubernetes-preserve-unknown-fields"] != true {
                let names = || {
                    properties
                        .into_iter()
                        .flat_map(|properties| properties.keys().map(String::as_str))
                };
                let meant = did_you_mean(&entry.key, names());
                let message = if meant.is_empty() {
                    format!("is not a field; allowed are {}", list(names()))
                } else {
                    format!("is not a field{meant}")
                };
                self.findings.push(Finding {
                    path,
                    message,
                    at: entry.key_at,
                    misshapen: true,
                    unknown: true,
                });
            }
        }
        for required in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if node.get(required).is_none() {
                self.add(&member(path, required), node.at, true, "is required".into());
            }
        }
    }

    fn array(&mut self, node: &Node, items: &[Node], schema: &Value, path: &str) {
        self.count(
            node,
            items.len(),
            schema,
            ["minItems", "maxItems"],
            "item",
            path,
        );
        for (index, item) in items.iter().enumerate() {
            self.value(item, &schema["items"], &format!("{path}[{index}]"));
        }
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => {
                let keys = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| (item, format!("{path}[{index}]")));
                self.distinct(keys);
            }
            Some("map") => {
                let key = schema["x-kubernetes-list-map-keys"][0]
                    .as_str()
                    .unwrap_or_default();
                let keys = items.iter().enumerate().filter_map(|(index, item)| {
                    Some((item.get(key)?, format!("{path}[{index}].{key}")))
                });
                self.distinct(keys);
            }
            _ => {}
        }
    }

    fn distinct<'a>(&mut self, items: impl Iterator<Item = (&'a Node, String)>) {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (item, path) in items {
            let value = item.to_json().to_string();
            if let Some(first) = seen.get(&value) {
                self.add(
                    &path,
                    item.at,
                    false,
                    format!("{item} is listed already, as {first}"),
                );
            } else {
                seen.insert(value, path);
            }
        }
    }

    fn count(
        &mut self,
        node: &Node,
        count: usize,
        schema: &Value,
        [min, max]: [&str; 2],
        what: &str,
        path: &str,
    ) {
        let plural = |bound: u64| if bound == 1 { "" } else { "s" };
        if let Some(min) = schema[min].as_u64().filter(|&min| (count as u64) < min) {
            let count = if count == 0 {
                "none".into()
            } else {
                count.to_string()
            };
            self.add(
                path,
                node.at,
                false,
                format!(
                    "has {count}, and needs at least {min} {what}{}",
                    plural(min)
                ),
            );
        }
        if let Some(max) = schema[max].as_u64().filter(|&max| (count as u64) > max) {
            self.add(
                path,
                node.at,
                false,
                format!("has {count} {what}s, and at most {max} are allowed"),
            );
        }
    }

    fn number(&mut self, node: &Node, number: Option<f64>, schema: &Value, path: &str) {
        let Some(number) = number else { return };
        // A number beyond its format cannot be read at all.
        let beyond = match (schema["format"].as_str(), &node.kind) {
            (Some("int32"), Kind::Number(number)) => number
                .as_i64()
                .and_then(|number| i32::try_from(number).ok())
                .is_none()
                .then_some(32),
            (Some("int64"), Kind::Number(number)) => number.as_i64().is_none().then_some(64),
            _ => None,
        };
        let misshapen = beyond.is_some();
        if let Some(min) = schema["minimum"].as_f64().filter(|&min| number < min) {
            self.add(
                path,
                node.at,
                misshapen,
                format!("{node} is not at least {min}"),
            );
        } else if let Some(max) = schema["maximum"].as_f64().filter(|&max| number > max) {
            self.add(
                path,
                node.at,
                misshapen,
                format!("{node} is not at most {max}"),
            );
        } else if let Some(bits) = beyond {
            self.add(
                path,
                node.at,
                true,
                format!("{node} is not an integer of {bits} bits"),
            );
        }
    }

    fn text(&mut self, node: &Node, text: &str, schema: &Value, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(allowed) = schema["enum"].as_array() {
            let allowed = || allowed.iter().filter_map(Value::as_str);
            if !allowed().any(|one| one == text) {
                let meant = did_you_mean(text, allowed());
                self.add(
                    path,
                    node.at,
                    true,
                    format!("{node} is not one of {}{meant}", list(allowed())),
                );
            }
        } else if let Some(max) = schema["maxLength"].as_u64().filter(|&max| length > max) {
            let misshapen = schema["pattern"] == crate::duration::PATTERN;
            self.add(
                path,
                node.at,
                misshapen,
                format!("{node} has {length} characters, and at most {max} are allowed"),
            );
        } else if let Some(pattern) = schema["pattern"]
            .as_str()
            .filter(|pattern| !matches(pattern, text))
        {
            let misshapen = pattern == crate::duration::PATTERN;
            self.add(
                path,
                node.at,
                misshapen,
                format!("{node} is not {}", explain(pattern)),
            );
        } else if let Some(min) = schema["minLength"].as_u64().filter(|&min| length < min) {
            let what = if length == 0 {
                "is empty".into()
            } else {
                format!("has {length} characters")
            };
            self.add(
                path,
                node.at,
                false,
                format!("{node} {what}, and needs at least {min}"),
            );
        }
    }
}

/// The name of a schema's type, with a hint where YAML often misleads.
fn describe(expected: &str, node: &Node, schema: &Value) -> String {
    let words = match (expected, &node.kind) {
        ("object", _) => "a map of fields",
        ("array", _) => "a list",
        ("integer", _) => "an integer",
        ("number", _) => "a number",
        ("boolean", _) => "true or false",
        ("string", Kind::Bool(_) | Kind::Number(_)) => match schema["pattern"].as_str() {
            Some(pattern) if !matches(pattern, &node.to_string()) => return explain(pattern),
            _ => "a text: put it in quotes",
        },
        ("string", _) => "a text",
        _ => "allowed here",
    };
    words.to_owned()
}

/// `a, b, c`.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The patterns of the schema, compiled.
static COMPILED: LazyLock<BTreeMap<&'static str, Regex>> = LazyLock::new(|| {
    let compile = |&(pattern, _): &(&'static str, &str)| Some((pattern, Regex::new(pattern).ok()?));
    patterns::EXPLAINED.iter().filter_map(compile).collect()
});

/// Whether a text matches one of the patterns in `patterns`.
fn matches(pattern: &str, text: &str) -> bool {
    COMPILED
        .get(pattern)
        .is_some_and(|regex| regex.is_match(text))
}

/// The words for a pattern.
fn explain(pattern: &str) -> String {
    let words = patterns::EXPLAINED
        .iter()
        .find(|(known, _)| *known == pattern)
        .map(|(_, words)| (*words).to_owned());
    words.unwrap_or_else(|| format!("of the form {pattern}"))
}

//! What the schema of a kind says of an object: which fields exist, what they default to and whether values are right.
//! Messages are the API server's.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Map, Value, json};

use super::refusal::Cause;

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

    /// The schema itself, and what it refers to.
    pub fn parts(&self) -> (&Value, &Map<String, Value>) {
        (&self.root, &self.definitions)
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

    /// The schema of the whole.
    pub fn root(&self) -> &Value {
        self.resolve(&self.root)
    }

    /// The schema of a field.
    pub fn property<'a>(&'a self, node: &'a Value, key: &str) -> &'a Value {
        let found = node.get("properties").and_then(|all| all.get(key));
        let found = found.or_else(|| node.get("additionalProperties"));
        found.map_or(&Value::Null, |node| self.resolve(node))
    }

    /// The schema of a list's items, and how the list that stands in this field is merged.
    pub fn items<'a>(&'a self, node: &'a Value, field: &str) -> (&'a Value, Merged) {
        let items = node
            .get("items")
            .map_or(&Value::Null, |node| self.resolve(node));
        let strings = |key: &str| -> Vec<String> {
            let all = node
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            all.filter_map(Value::as_str)
                .map(ToOwned::to_owned)
                .collect()
        };
        let merged = match node.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("map") => Merged::ByKeys(strings("x-kubernetes-list-map-keys")),
            Some("set") => Merged::AsSet,
            _ if !self.built_in => Merged::Not,
            // k8s-openapi leaves out how Kubernetes' own lists are merged.
            _ if field == "finalizers" => Merged::AsSet,
            _ if items.get("properties").is_some() => match super::patch::merge_key(field) {
                Some(key) => Merged::ByKeys(vec![key.to_owned()]),
                None => Merged::Not,
            },
            _ => Merged::Not,
        };
        (items, merged)
    }

    /// Whether an object of this schema is an owned thing by itself, beside its fields.
    pub fn is_map(&self, node: &Value) -> bool {
        !self.built_in || node.get("additionalProperties").is_some()
    }

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
                    // What is null was never there, to a server that reads it into a type.
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

    /// What is wrong with an object. What was wrong before, and has not changed, is let pass.
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

/// Where in an object, as messages write it. Nothing is put together until it is shown.
#[derive(Default)]
struct Path<'a>(Option<(&'a Path<'a>, Step<'a>)>);

/// How lists are merged by those who own parts of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Merged {
    /// By the item.
    AsSet,
    /// By these fields of the items.
    ByKeys(Vec<String>),
    /// Replaced as a whole.
    Not,
}

enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

impl Path<'_> {
    const fn is_root(&self) -> bool {
        self.0.is_none()
    }

    const fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path(Some((self, Step::Field(name))))
    }

    const fn item(&self, index: usize) -> Path<'_> {
        Path(Some((self, Step::Item(index))))
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((parent, step)) = &self.0 else {
            return Ok(());
        };
        parent.fmt(f)?;
        match step {
            Step::Field(name) if parent.is_root() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

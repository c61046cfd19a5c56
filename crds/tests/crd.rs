//! The CustomResourceDefinition: the committed file is fresh, the schema is structural, everything is bounded.

use std::{fs, path::Path};

use inferbench_crds::{crd, limits, patterns};
use serde_json::Value;

fn schema() -> Value {
    crd::crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Calls `see` with every schema inside this one and its path.
fn walk(schema: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
    see(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), see);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let Some(inner) = schema.get(key) {
            walk(inner, &format!("{path}{suffix}"), see);
        }
    }
}

#[test]
fn the_committed_file_is_fresh() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("inferencebenchmarks.inferbench.dev.yaml");
    let committed = fs::read_to_string(path).expect("the committed CRD");
    let fresh = crd::yaml().expect("YAML");
    assert!(
        committed == fresh,
        "stale: run `cargo run -p inferbench-crds --bin crdgen`"
    );
    assert!(
        fresh.len() < 256 * 1_024,
        "{} bytes: too long for an annotation",
        fresh.len()
    );
}

#[test]
fn the_yaml_says_what_the_types_say() {
    let read: Value = serde_saphyr::from_str(&crd::yaml().expect("YAML")).expect("our own YAML");
    assert_eq!(read, crd::crd());
}

#[test]
fn the_schema_is_structural_and_bounded() {
    let mut problems = Vec::new();
    walk(&schema(), "", &mut |path, schema| {
        let mut problem = |what: &str| problems.push(format!("{path}: {what}"));
        let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
        match schema["type"].as_str() {
            Some("object") => {
                let (fields, map) = (
                    schema.get("properties").is_some(),
                    schema.get("additionalProperties").is_some(),
                );
                let empty = schema["maxProperties"] == 0;
                if fields == map && !free && !empty {
                    problem("neither fields nor a map, or both");
                }
                if map && schema.get("maxProperties").is_none() {
                    problem("an unbounded map");
                }
                if schema
                    .get("default")
                    .is_some_and(|default| default != &serde_json::json!({}))
                {
                    problem("a default that hides later additions from transition rules");
                }
            }
            Some("array") => {
                if schema.get("items").is_none() || schema.get("maxItems").is_none() {
                    problem("an unbounded list");
                }
            }
            Some("string") => {
                let named = path.ends_with(".apiVersion") || path.ends_with(".kind");
                if schema.get("maxLength").is_none() && schema.get("enum").is_none() && !named {
                    problem("an unbounded text");
                }
            }
            Some("integer") => {
                if !matches!(schema["format"].as_str(), Some("int32" | "int64")) {
                    problem("an integer of a format that the API server does not know");
                }
            }
            Some("boolean" | "number") => {}
            None if schema["x-kubernetes-int-or-string"] == true => {}
            // A level of a parameter: validation bounds it.
            None if free => {}
            other => problem(&format!("type {other:?}")),
        }
        for composed in ["anyOf", "oneOf", "allOf", "not", "$ref", "title"] {
            if schema.get(composed).is_some() {
                problem(composed);
            }
        }
        if schema["nullable"] == true && !path.starts_with(".status.summary") {
            problem("nullable: has() would be true for null");
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && !patterns::EXPLAINED
                .iter()
                .any(|(known, _)| *known == pattern)
        {
            problem("a pattern without words for a person");
        }
    });
    assert_eq!(problems, [] as [String; 0]);
}

/// Sub-structs with a transition rule are never absent, so that the rule also sees what is added later.
#[test]
fn immutable_parts_are_required_or_defaulted() {
    let schema = schema();
    let spec = &schema["properties"]["spec"];
    for part in ["design", "measurement", "runner", "results", "execution"] {
        let required = spec["required"]
            .as_array()
            .is_some_and(|required| required.contains(&part.into()));
        assert!(
            required || spec["properties"][part]["default"] == serde_json::json!({}),
            "{part}"
        );
    }
    let rules: Vec<String> = crd::rules()
        .into_iter()
        .filter(|rule| rule.rule == "self == oldSelf")
        .map(|rule| rule.path.into_owned())
        .collect();
    assert_eq!(
        rules,
        [
            "spec.design",
            "spec.measurement",
            "spec.runner",
            "spec.results"
        ]
    );
}

#[test]
fn every_field_that_we_describe_has_a_description() {
    let schema = schema();
    let mut missing = Vec::new();
    walk(
        &schema["properties"]["spec"],
        "spec",
        &mut |path, schema| {
            let ours = !["affinity.", "tolerations[]", "env[]", "resources."]
                .iter()
                .any(|part| path.contains(part));
            if ours
                && !path.ends_with("[]")
                && !path.ends_with('*')
                && schema.get("description").is_none()
            {
                missing.push(path.to_owned());
            }
        },
    );
    assert_eq!(missing, [] as [String; 0]);
}

#[test]
fn the_rules_and_the_limits_name_the_same_numbers() {
    let rules = crd::rules();
    let product = rules
        .iter()
        .find(|rule| rule.rule.contains("size(self.factors.model) *"))
        .expect("a rule");
    assert!(
        product.rule.ends_with(&format!("<= {}", limits::TRIALS)),
        "{}",
        product.rule
    );
}

#[test]
fn kubectl_shows_the_columns() {
    let crd = crd::crd();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .expect("columns");
    let names: Vec<&str> = columns
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "State",
            "Done",
            "Total",
            "Failed",
            "Invalid",
            "Active",
            "Best",
            "Age",
            "Peak",
            "NotNeeded"
        ]
    );
    let wide: Vec<&str> = columns
        .iter()
        .filter(|column| column["priority"] == 1)
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(wide, ["Peak", "NotNeeded"]);
    assert_eq!(crd["spec"]["names"]["shortNames"][0], "ib");
    assert_eq!(
        crd["spec"]["versions"][0]["subresources"]["status"],
        serde_json::json!({})
    );
}

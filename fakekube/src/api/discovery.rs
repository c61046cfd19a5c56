//! What the server says about itself: its version, its health, its kinds, and their schemas for kubectl.

use std::collections::BTreeSet;

use http::{Response, request::Parts};
use serde_json::{Map, Value, json};

use super::{
    kinds::Kind,
    refusal::{Answered, Refusal},
    server::Shared,
    service::{AnswerBody, json_response, page_not_found, reads, text_response, wants},
    state::State,
};

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Answers whatever is not about an object.
pub(crate) fn answer(shared: &Shared, parts: &Parts) -> Answered<Response<AnswerBody>> {
    if !reads(&parts.method) {
        return Err(Refusal::method_not_allowed());
    }
    let state = shared.state();
    let path = parts.uri.path().trim_matches('/');
    let steps: Vec<&str> = path.split('/').collect();
    let aggregated = wants(parts, "as=APIGroupDiscoveryList");
    let answer = match steps.as_slice() {
        ["healthz" | "livez" | "readyz"] => return Ok(text_response(200, "ok")),
        ["version"] => json!({
            "major": "1",
            "minor": "36",
            "gitVersion": "v1.36.0-fakekube",
            "gitCommit": "",
            "gitTreeState": "",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": "",
        }),
        ["api"] if aggregated => discovery(&state, true),
        ["apis"] if aggregated => discovery(&state, false),
        ["api"] => {
            json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
        }
        ["apis"] => {
            let groups: Vec<Value> = groups(&state)
                .iter()
                .map(|(group, version)| group_of(group, version))
                .collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", group] => match groups(&state).iter().find(|(name, _)| name == group) {
            Some((group, version)) => {
                let mut answer = group_of(group, version);
                answer["kind"] = "APIGroup".into();
                answer["apiVersion"] = "v1".into();
                answer
            }
            None => return Ok(page_not_found()),
        },
        ["api", version] => resources(&state, "", version),
        ["apis", group, version] => resources(&state, group, version),
        ["openapi", "v3"] => {
            let paths: Map<String, Value> = all_groups(&state)
                .into_iter()
                .map(|(group, version)| {
                    let path = if group.is_empty() {
                        format!("api/{version}")
                    } else {
                        format!("apis/{group}/{version}")
                    };
                    let url = format!("/openapi/v3/{path}");
                    (path, json!({ "serverRelativeURL": url }))
                })
                .collect();
            json!({ "paths": paths })
        }
        ["openapi", "v3", "api", version] => openapi(&state, "", version),
        ["openapi", "v3", "apis", group, version] => openapi(&state, group, version),
        _ => return Ok(page_not_found()),
    };
    if answer["resources"].as_array().is_some_and(Vec::is_empty) {
        return Ok(page_not_found());
    }
    let mut response = json_response(200, &answer);
    if aggregated && matches!(path, "api" | "apis") {
        let value = http::HeaderValue::from_static(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        );
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, value);
    }
    Ok(response)
}

/// Groups and versions, core's included.
fn all_groups(state: &State) -> BTreeSet<(String, String)> {
    state
        .kinds()
        .map(|kind| (kind.group.clone(), kind.version.clone()))
        .collect()
}

fn groups(state: &State) -> Vec<(String, String)> {
    let all = all_groups(state).into_iter();
    all.filter(|(group, _)| !group.is_empty()).collect()
}

fn group_of(group: &str, version: &str) -> Value {
    let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    json!({ "name": group, "versions": [version], "preferredVersion": version })
}

fn subresources(kind: &Kind) -> Vec<&'static str> {
    let mut names = Vec::new();
    if kind.is_namespace() {
        names.push("finalize");
    }
    if kind.status {
        names.push("status");
    }
    names
}

fn resources(state: &State, group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for kind in state
        .kinds()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        let mut entry = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": VERBS,
        });
        if !kind.short.is_empty() {
            entry["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for name in subresources(kind) {
            list.push(json!({
                "name": format!("{}/{name}", kind.plural),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list })
}

/// All groups with all of their kinds in one answer.
fn discovery(state: &State, core: bool) -> Value {
    let items: Vec<Value> = all_groups(state)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, version)| {
            let kinds = state.kinds().filter(|kind| kind.group == group && kind.version == version);
            let resources: Vec<Value> = kinds
                .map(|kind| {
                    let response = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
                    let subresources: Vec<Value> = subresources(kind)
                        .into_iter()
                        .map(|name| json!({ "subresource": name, "responseKind": response, "verbs": ["get", "patch", "update"] }))
                        .collect();
                    json!({
                        "resource": kind.plural,
                        "responseKind": response,
                        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                        "singularResource": kind.singular,
                        "verbs": VERBS,
                        "shortNames": kind.short,
                        "categories": kind.categories,
                        "subresources": subresources,
                    })
                })
                .collect();
            json!({
                "metadata": { "name": group },
                "versions": [{ "version": version, "resources": resources, "freshness": "Current" }],
            })
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

/// The schemas of a group's kinds, and that the server checks fields itself: that is what kubectl looks for.
fn openapi(state: &State, group: &str, version: &str) -> Value {
    let (mut schemas, mut paths) = (Map::new(), Map::new());
    for kind in state
        .kinds()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        let gvk = json!({ "group": group, "version": version, "kind": kind.kind });
        let (root, definitions) = kind.schema.parts();
        for (name, definition) in definitions {
            schemas.insert(name.clone(), relocated(definition.clone()));
        }
        let name = match root.get("$ref").and_then(Value::as_str) {
            Some(reference) => reference.rsplit('/').next().unwrap_or_default().to_owned(),
            None => {
                let mut domain: Vec<&str> = group.split('.').collect();
                domain.reverse();
                let name = format!("{}.{version}.{}", domain.join("."), kind.kind);
                schemas.insert(name.clone(), relocated(root.clone()));
                name
            }
        };
        if let Some(schema) = schemas.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        }
        let parameters = ["dryRun", "fieldManager", "fieldValidation"]
            .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
        let operation = |action: &str| {
            json!({
                "parameters": parameters,
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": gvk,
                "responses": {},
            })
        };
        let base = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        let scope = if kind.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let path = format!("{base}{scope}/{}", kind.plural);
        paths.insert(
            format!("{path}/{{name}}"),
            json!({ "patch": operation("patch"), "put": operation("put") }),
        );
        paths.insert(path, json!({ "post": operation("post") }));
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "fakekube" },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// References point to where definitions stand in an OpenAPI document.
fn relocated(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/$defs/", "#/components/schemas/");
            }
            for value in map.values_mut() {
                *value = relocated(value.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = relocated(item.take());
            }
        }
        _ => {}
    }
    schema
}

//! The CustomResourceDefinition: what `kube` derives from the types, plus what it cannot know: the CEL rules, bounds
//! on embedded Kubernetes types, and defaults that let transition rules see later additions.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{InferenceBenchmark, limits, patterns};

/// A rule in the Common Expression Language, and the place in the schema where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The place: field names, with `[]` for the items of a list.
    pub path: &'static str,
    /// The expression.
    pub rule: &'static str,
    /// What a user reads where it does not hold.
    pub message: &'static str,
}

/// Every rule of the resource. They were measured against the API server's cost limits: keep them as plain as they
/// are, and every list and string that they touch bounded.
pub const RULES: &[Rule] = &[
    Rule {
        path: "spec",
        rule: "has(self.results) && has(self.results.store)",
        message: "results.store is required in a cluster",
    },
    Rule {
        path: "spec.design",
        rule: "self == oldSelf",
        message: "design is immutable: create a new resource",
    },
    Rule {
        path: "spec.design",
        rule: "size(self.factors.model) * size(self.factors.batchSize) * size(self.factors.inputLength) * \
               size(self.factors.outputLength) * size(self.factors.gpus) * \
               (has(self.factors.dtype) && size(self.factors.dtype) > 0 ? size(self.factors.dtype) : 1) * \
               self.replicates <= 50000",
        message: "the product of the factors' levels and the replicates is more than 50000 trials",
    },
    Rule {
        path: "spec.design",
        rule: "!has(self.exclude) || self.exclude.all(e, !has(e.model) || \
               e.model.all(v, self.factors.model.exists(m, m.name == v)))",
        message: "exclude names a model that is not in factors.model",
    },
    Rule {
        path: "spec.design",
        rule: "!has(self.exclude) || self.exclude.all(e, !has(e.batchSize) || \
               e.batchSize.all(v, v in self.factors.batchSize))",
        message: "exclude names a level that is not in factors.batchSize",
    },
    Rule {
        path: "spec.design",
        rule: "!has(self.exclude) || self.exclude.all(e, !has(e.inputLength) || \
               e.inputLength.all(v, v in self.factors.inputLength))",
        message: "exclude names a level that is not in factors.inputLength",
    },
    Rule {
        path: "spec.design",
        rule: "!has(self.exclude) || self.exclude.all(e, !has(e.outputLength) || \
               e.outputLength.all(v, v in self.factors.outputLength))",
        message: "exclude names a level that is not in factors.outputLength",
    },
    Rule {
        path: "spec.design",
        rule: "!has(self.exclude) || self.exclude.all(e, !has(e.gpus) || e.gpus.all(v, v in self.factors.gpus))",
        message: "exclude names a level that is not in factors.gpus",
    },
    Rule {
        path: "spec.design",
        rule: "!has(self.exclude) || self.exclude.all(e, !has(e.dtype) || \
               (has(self.factors.dtype) && e.dtype.all(v, v in self.factors.dtype)))",
        message: "exclude names a level that is not in factors.dtype",
    },
    Rule {
        path: "spec.design.factors.gpus",
        rule: "size(self) == 1 || !(0 in self)",
        message: "0 means CPU and stands alone",
    },
    Rule {
        path: "spec.design.factors.model[].source",
        rule: "[has(self.huggingFace), has(self.random), has(self.path), has(self.objectStore)]\
               .filter(x, x).size() == 1",
        message: "exactly one of huggingFace, random, path and objectStore is needed",
    },
    Rule {
        path: "spec.measurement",
        rule: "self == oldSelf",
        message: "measurement is immutable: create a new resource",
    },
    Rule {
        path: "spec.runner",
        rule: "self == oldSelf",
        message: "runner is immutable: create a new resource",
    },
    Rule {
        path: "spec.runner.env",
        rule: "self.all(e, !e.name.startsWith('INFERBENCH_'))",
        message: "names that begin with INFERBENCH_ are reserved",
    },
    Rule {
        path: "spec.results",
        rule: "self == oldSelf",
        message: "results is immutable: create a new resource",
    },
    Rule {
        path: "spec.results.store",
        rule: "[has(self.url), has(self.persistentVolumeClaim)].filter(x, x).size() == 1",
        message: "exactly one of url and persistentVolumeClaim is needed",
    },
    Rule {
        path: "spec.results.store",
        rule: "!has(self.url) || !self.url.startsWith('file:')",
        message: "a file URL names a folder of one machine: use persistentVolumeClaim",
    },
    Rule {
        path: "spec.results.store",
        rule: "has(self.url) || (!has(self.endpoint) && !has(self.region) && !has(self.credentialsSecretRef))",
        message: "endpoint, region and credentialsSecretRef belong to url",
    },
    Rule {
        path: "spec.execution",
        rule: "!has(self.trialsPerJob) || !has(oldSelf.trialsPerJob) || self.trialsPerJob == oldSelf.trialsPerJob",
        message: "trialsPerJob is immutable: create a new resource",
    },
];

/// The columns of `kubectl get`: name, path and type.
const COLUMNS: [[&str; 3]; 7] = [
    [
        "State",
        ".status.conditions[?(@.type==\"Succeeded\")].reason",
        "string",
    ],
    ["Done", ".status.counts.done", "integer"],
    ["Total", ".status.plan.trials", "integer"],
    ["Failed", ".status.counts.failed", "integer"],
    ["Active", ".status.counts.active", "integer"],
    ["Best", ".status.progress.best", "number"],
    ["Age", ".metadata.creationTimestamp", "date"],
];

/// The CustomResourceDefinition as the API server gets it.
#[must_use]
pub fn crd() -> Value {
    let derived: CustomResourceDefinition = InferenceBenchmark::crd();
    let mut crd = serde_json::to_value(derived).unwrap_or_default();
    let version = &mut crd["spec"]["versions"][0];
    let column =
        |[name, path, kind]: [&str; 3]| json!({ "name": name, "jsonPath": path, "type": kind });
    version["additionalPrinterColumns"] = COLUMNS.map(column).into();
    let schema = &mut version["schema"]["openAPIV3Schema"];
    *schema = root();
    for rule in RULES {
        let place = place(schema, rule.path);
        let rules = &mut place["x-kubernetes-validations"];
        if rules.is_null() {
            *rules = json!([]);
        }
        if let Some(rules) = rules.as_array_mut() {
            rules.push(json!({ "rule": rule.rule, "message": rule.message }));
        }
    }
    crd
}

/// The CustomResourceDefinition as the file that is committed and applied.
///
/// # Errors
/// Where YAML cannot be written, which no value of [`crd`] brings about.
pub fn yaml() -> Result<String, serde_saphyr::ser_error::Error> {
    const HEADER: &str =
        "# Generated from crds/src by `cargo run -p inferbench-crds --bin crdgen`: do not edit.\n";
    Ok(format!("{HEADER}{}", serde_saphyr::to_string(&crd())?))
}

/// The schema that local validation walks: the API server's, without the CEL rules (they are code there), with the
/// metadata that Kubernetes knows, and without a word on the status, which is not the user's.
pub(crate) fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = root();
        let properties = &mut schema["properties"];
        properties["apiVersion"] = json!({ "type": "string", "enum": [API_VERSION] });
        properties["kind"] = json!({ "type": "string", "enum": [KIND] });
        let anything = json!({ "x-kubernetes-preserve-unknown-fields": true });
        let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let metadata = &mut properties["metadata"]["properties"];
        metadata["namespace"] =
            json!({ "type": "string", "maxLength": 63, "pattern": patterns::DNS_SUBDOMAIN });
        metadata["generateName"] = json!({ "type": "string", "maxLength": limits::NAME });
        metadata["labels"] = texts.clone();
        metadata["annotations"] = texts;
        for field in SERVER_METADATA {
            metadata[field] = anything.clone();
        }
        properties["status"] = anything;
        schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
        schema
    });
    &SCHEMA
}

/// The schema of the status, as the API server gets it.
pub(crate) fn status_schema() -> Value {
    place(&mut root(), "status").take()
}

/// The resource's group and version.
pub const API_VERSION: &str = "inferbench.dev/v1alpha1";
/// The resource's kind.
pub const KIND: &str = "InferenceBenchmark";

/// Metadata that only controllers and the API server write; a file saved by `kubectl get` has it.
const SERVER_METADATA: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

fn root() -> Value {
    let derived = serde_json::to_value(InferenceBenchmark::crd()).unwrap_or_default();
    let mut schema = derived["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    schema["description"] = json!(
        "A designed sweep of LLM inference measurements: what is asked for, and what came of it."
    );
    schema["properties"]["apiVersion"] = json!({ "type": "string", "description": API_VERSION });
    schema["properties"]["kind"] = json!({ "type": "string", "description": KIND });
    normalize(&mut schema);
    for field in ["affinity", "tolerations", "env", "resources"] {
        bound(place(&mut schema, &format!("spec.runner.{field}")), true);
    }
    // A default that the server fills in would be a zero that stands for unknown.
    without_defaults(place(&mut schema, "status"));
    bound(place(&mut schema, "status.conditions"), true);
    place(&mut schema, "status.conditions[].message")["maxLength"] =
        json!(limits::CONDITION_MESSAGE);
    for time in ["progress.estimatedFinish", "results.updatedAt"] {
        place(&mut schema, &format!("status.{time}"))["maxLength"] = json!(64);
    }
    let env_name = place(&mut schema, "spec.runner.env[].name");
    env_name["pattern"] = json!(patterns::ENV_NAME);
    env_name["maxLength"] = json!(253);
    place(&mut schema, "spec.runner.env[].value")["maxLength"] = json!(32_768);
    let env = place(&mut schema, "spec.runner.env");
    env["x-kubernetes-list-type"] = json!("map");
    env["x-kubernetes-list-map-keys"] = json!(["name"]);
    let labels = place(&mut schema, "spec.runner.nodeSelector");
    labels["additionalProperties"]["maxLength"] = json!(63);
    schema["properties"]["metadata"] = json!({
        "type": "object",
        "properties": { "name": {
            "type": "string", "maxLength": limits::NAME, "pattern": patterns::DNS_SUBDOMAIN,
        } },
    });
    schema
}

/// The schema at a path such as `spec.design.factors.model[].name`.
///
/// # Panics
/// Where there is no such place: the paths are constants of this file, and a test walks them all.
fn place<'a>(schema: &'a mut Value, path: &str) -> &'a mut Value {
    let mut here = schema;
    for step in path.split('.') {
        let (name, items) = step
            .strip_suffix("[]")
            .map_or((step, false), |name| (name, true));
        here = here["properties"]
            .get_mut(name)
            .unwrap_or_else(|| panic!("{path}: the schema has no {name}"));
        if items {
            here = &mut here["items"];
        }
    }
    here
}

/// What holds for every field: no `nullable` (the API server then prunes nulls, so that `has()` means present),
/// whole-numbered bounds, and `default: {}` for objects, whose members bring their own defaults: a transition rule on
/// an object that was never absent also runs when it is added.
fn normalize(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    members.remove("title");
    if members.get("type") == Some(&json!("object")) && members.contains_key("default") {
        members.insert("default".into(), json!({}));
    }
    for bound in ["minimum", "maximum"] {
        let whole = members
            .get(bound)
            .and_then(Value::as_f64)
            .filter(|number| number.fract() == 0.0);
        if let Some(number) = whole {
            members.insert(bound.into(), json!(number as i64));
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("nullable");
        }
    }
    each_subschema(members, &mut normalize);
}

/// Bounds every string, list and map that has no bound, and drops the nested descriptions of Kubernetes' own types,
/// which are longer than all the rest.
fn bound(schema: &mut Value, outermost: bool) {
    let Value::Object(members) = schema else {
        return;
    };
    if !outermost {
        members.remove("description");
    }
    let (key, most) = match members.get("type").and_then(Value::as_str) {
        Some("string") if !members.contains_key("enum") => ("maxLength", 1_024),
        Some("array") => ("maxItems", 64),
        Some("object") if members.contains_key("additionalProperties") => ("maxProperties", 64),
        _ => ("", 0),
    };
    if !key.is_empty() {
        members.entry(key).or_insert_with(|| json!(most));
    }
    each_subschema(members, &mut |schema| bound(schema, false));
}

fn without_defaults(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    members.remove("default");
    each_subschema(members, &mut without_defaults);
}

fn each_subschema(members: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Value)) {
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = members.get_mut(key) {
            change(schema);
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(change);
    }
}
